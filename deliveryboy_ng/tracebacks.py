"""Tracebacks of the far side, as this side shows them."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .exceptions import RemoteError

__all__ = ["Origin", "shown", "stand_in", "with_frames"]

_LONGEST_SOURCE = 100_000
"""Lines up to which a file that only the far side has is shown with its source."""


@dataclass(frozen=True)
class Origin:
    """Where a traceback's frames ran, and how file names of that place are shown here."""

    name: str
    elsewhere: bool


def stand_in(record: Mapping[str, Any], frames: list[tuple[str, int, str]], reason: str) -> RemoteError:
    """A RemoteError that tells what the record does; *frames* are file, line number and function."""
    name = record["name"] if record["module"] == "builtins" else f"{record['module']}.{record['name']}"
    summary = traceback.StackSummary.from_list([traceback.FrameSummary(file, line, function) for file, line, function in frames])
    text = "Traceback (most recent call last):\n" + "".join(summary.format()) + f"{name}: {record['text']}\n"
    error = RemoteError(f"{name}: {record['text']}", type_name=name, message=record["text"], traceback_text=text, reason=reason)
    for note in record["notes"]:
        error.add_note(note)
    return error


def shown(frame: tuple[str, int, str, str], origin: Origin) -> tuple[str, int, str]:
    """The frame with a file name under which this side finds the very line that ran over there."""
    file, line, function, text = frame
    here = linecache.getline(file, line).strip()
    if here == text or (here and not text):
        return file, line, function
    if not text and not origin.elsewhere:
        return file, line, function
    name = f"<{origin.name}: {file}>"
    known = linecache.cache.get(name)
    lines: list[str] = list(known[2]) if known is not None and len(known) == 4 else []
    if line <= _LONGEST_SOURCE:
        lines += ["\n"] * (line - len(lines))
    if text and 0 < line <= len(lines):
        lines[line - 1] = text + "\n"
    # Without a modification time linecache never asks the disk for it.
    linecache.cache[name] = (len(lines), None, lines, name)
    return name, line, function


def with_frames(error: BaseException, frames: list[tuple[str, int, str]]) -> BaseException:
    """The exception with a traceback of these frames: file, line number and function."""
    return BaseException.with_traceback(error, _traceback(frames))


def _traceback(frames: list[tuple[str, int, str]]) -> TracebackType | None:
    import tblib

    chain: TracebackType | None = None
    # One by one: a chain of them takes tblib quadratic time.
    for file, line, function in reversed(frames):
        frame: dict[str, Any] = {"f_globals": {"__name__": "", "__file__": file}, "f_locals": {}, "f_lineno": line}
        frame["f_code"] = {"co_filename": file, "co_name": function}
        first: TracebackType = tblib.Traceback.from_dict({"tb_frame": frame, "tb_lineno": line, "tb_next": None}).as_traceback()
        first.tb_next, chain = chain, first
    return chain
