"""Subjects measured turn by turn with their baselines, and what is made of the times: tables, JSON, pictures."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Call = Callable[[], object]


@dataclass
class Subject:
    """Something that is timed.

    :ivar base: the subject that it is compared with; itself, if none is named
    :ivar most: the largest ratio to that which is accepted
    :ivar least: the smallest
    :ivar calls: calls that it makes each time
    :ivar pause: seconds before each time, which are not counted
    """

    name: str
    call: Call
    base: str = ""
    most: float | None = None
    least: float | None = None
    calls: int = 1
    pause: float = 0.0


@dataclass
class Row:
    """One subject's times in seconds a call, and its ratio to its baseline's median."""

    name: str
    times: list[float]
    ratio: float
    most: float | None
    least: float | None

    @property
    def bar(self) -> str:
        if self.most is not None:
            return f"<= {self.most:g}" + ("" if self.ratio <= self.most else " !")
        if self.least is not None:
            return f">= {self.least:g}" + ("" if self.ratio >= self.least else " !")
        return ""


@dataclass
class Table:
    """What was measured together."""

    title: str
    rows: list[Row]
    gaps: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(len(self.title), *(len(row.name) for row in self.rows))
        lines = [f"{self.title:<{width}} {'ratio':>7} {'bar':>8} {'ms':>9}  half of them, ms"]
        for row in self.rows:
            low, _, high = _quartiles(row.times)
            middle = statistics.median(row.times) * 1000
            lines.append(f"{row.name:<{width}} {row.ratio:>7.2f} {row.bar:>8} {middle:>9.3f}  {low * 1000:.3f} - {high * 1000:.3f}")
        return "\n".join([*lines, *(f"not measured: {gap}" for gap in self.gaps)])

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        rows = [{**vars(row), "median": statistics.median(row.times)} for row in self.rows]
        return {"title": self.title, "rows": rows, "gaps": self.gaps}

    def draw(self, folder: Path) -> Path:
        """Ratios as bars, on a scale of their logarithms, with the bars of the project as strokes."""
        from matplotlib.figure import Figure

        rows = self.rows[::-1]
        figure = Figure(figsize=(8, 0.6 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot(xscale="log", title=self.title, xlabel="ratio to the baseline, 1.0; shorter is faster")
        axes.barh([row.name for row in rows], [row.ratio for row in rows], color="#4878a8", height=0.6)
        for place, row in enumerate(rows):
            limit = row.most if row.most is not None else row.least
            if limit is not None:
                axes.plot([limit, limit], [place - 0.4, place + 0.4], color="#c04030", linewidth=2)
        axes.axvline(1, color="black", linewidth=0.8)
        return _save(figure, folder, self.title)


@dataclass
class Curve:
    """How something grows.

    :ivar lines: by name, for each of *xs* the values that were measured
    :ivar limit: the same for what no library could go beyond
    """

    title: str
    x: str
    y: str
    xs: list[float]
    lines: dict[str, list[list[float]]]
    limit: tuple[str, list[list[float]]]
    logarithmic: bool = False

    def __str__(self) -> str:
        columns = {name: list(map(_spread, values)) for name, values in (*self.lines.items(), self.limit)}
        widths = [max(len(name), *map(len, texts)) + 2 for name, texts in columns.items()]
        head = f"{self.x:>28}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True))
        lines = [f"{self.title}: {self.y}, half of them in brackets", head]
        for place, x in enumerate(self.xs):
            texts = (f"{column[place]:>{width}}" for column, width in zip(columns.values(), widths, strict=True))
            lines.append(f"{x:>28g}" + "".join(texts))
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        medians = {name: list(map(statistics.median, values)) for name, values in (*self.lines.items(), self.limit)}
        return {**vars(self), "medians": medians}

    def draw(self, folder: Path) -> Path:
        """Lines of medians, and the limit dashed."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.add_subplot(title=self.title, xlabel=self.x, ylabel=self.y)
        for name, values in self.lines.items():
            axes.plot(self.xs, list(map(statistics.median, values)), marker="o", label=name)
        name, values = self.limit
        axes.plot(self.xs, list(map(statistics.median, values)), linestyle="--", color="gray", label=name)
        if self.logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_ylim(bottom=None if self.logarithmic else 0)
        axes.legend()
        return _save(figure, folder, self.title)


def _spread(values: Sequence[float]) -> str:
    """The median, and between what half of them lie."""
    low, _, high = _quartiles(values)
    spread = f" ({low:.3f} - {high:.3f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.3f}{spread}"


def _save(figure: Any, folder: Path, title: str) -> Path:
    name = "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def _quartiles(times: Sequence[float]) -> list[float]:
    return statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3


def machine() -> str:
    """What it runs on."""
    return f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores"


def measure(title: str, subjects: Iterable[Subject], rounds: int, gaps: Iterable[str] = ()) -> Table:
    """Call all in turn, *rounds* times and once before; what fails then is left out, and named."""
    kept: list[Subject] = []
    left_out = list(gaps)
    for subject in subjects:
        try:
            subject.call()
            kept.append(subject)
        except Exception as error:
            left_out.append(f"{subject.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    found = turns([subject.call for subject in kept], rounds, [subject.pause for subject in kept])
    times = {subject.name: [each / subject.calls for each in own] for subject, own in zip(kept, found, strict=True)}
    medians = {name: statistics.median(found) for name, found in times.items()}
    rows = [
        Row(each.name, times[each.name], medians[each.name] / medians[each.base or each.name], each.most, each.least)
        for each in kept
        if (each.base or each.name) in medians
    ]
    return Table(title, rows, left_out)


def turns(calls: Sequence[Call], rounds: int, pauses: Sequence[float] = ()) -> list[list[float]]:
    """The seconds of each, while all are called in turn.

    :param pauses: seconds before each, which are not counted
    """
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, pause, times in zip(calls, pauses or [0.0] * len(calls), found, strict=True):
            time.sleep(pause)
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return found


@contextlib.contextmanager
def opened(makers: dict[str, Callable[[], contextlib.AbstractContextManager[Call]]]) -> Iterator[tuple[dict[str, Call], list[str]]]:
    """What has to be opened first, by name; and why what could not be was not."""
    with contextlib.ExitStack() as stack:
        calls, gaps = {}, []
        for name, make in makers.items():
            try:
                calls[name] = stack.enter_context(make())
            except Exception as error:
                gaps.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        yield calls, gaps
