"""What limits, timeout and the watch over memory add to a call, and what a supervisor uses that watches one."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deliveryboy_ng import Limits, deliver

from .functions import nothing
from .harness import Subject, Table, measure

PLAIN = "no limits"
LIMITS: dict[str, dict[str, Any]] = {
    "timeout": {"timeout": 30},
    "limits of setrlimit(2)": {"limits": Limits(open_files=256, core=0, file_size="1G")},
    "memory": {"limits": Limits(memory="1G")},
    "memory, cpu, processes, timeout": {"limits": Limits(memory="1G", cpu=10, processes=64), "timeout": 30},
    "the same, and capture": {"limits": Limits(memory="1G", cpu=10, processes=64), "timeout": 30, "output": "capture"},
}


@dataclass
class Shares:
    """Shares of one processor, in per cent."""

    shares: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{'a supervisor that watches':<36} {'share of one processor, %':>26}"]
        return "\n".join(lines + [f"{name:<36} {share:>26.2f}" for name, share in self.shares.items()])

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"title": "a supervisor that watches", "shares": self.shares}

    def draw(self, folder: Path) -> None:
        """There is nothing to see."""


def processor_time(pid: int) -> float:
    """Seconds that a process has used so far; its clock runs in nanoseconds (proc(5), schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def hold(size: int, share: float, seconds: float, children: int) -> None:
    """Hold memory for a while, a share of *size*, in as many processes besides this one."""
    kept = bytearray(b"x") * int(size * share)
    for _ in range(children):
        if os.fork() == 0:
            time.sleep(seconds)
            os._exit(0)
    time.sleep(seconds)
    del kept


def watched(seconds: float) -> Shares:
    """What a supervisor uses while it watches a call that does nothing."""
    size = 1 << 28
    shares = {}
    for name, limited, share, children in (
        ("no limits", False, 0.1, 0),
        ("memory, a tenth of it used", True, 0.1, 0),
        ("memory, 0.7 of it used", True, 0.7, 0),
        ("memory, 0.9 of it used", True, 0.9, 0),
        ("memory, a tenth used, 10 processes", True, 0.1, 9),
    ):
        limits = Limits(memory=size, cpu=1000, processes=64) if limited else Limits()
        delivery = deliver(limits=limits)(hold).submit(size, share, seconds + 1, children)
        delivery.remote_pid  # noqa: B018 -- waits until it has begun
        time.sleep(0.5)
        supervisor = delivery.pid or 0
        before, start = processor_time(supervisor), time.monotonic()
        time.sleep(seconds)
        shares[name] = 100 * (processor_time(supervisor) - before) / (time.monotonic() - start)
        delivery.result(30)
    return Shares(shares)


def results(rounds: int, host: str) -> Iterator[Table | Shares]:
    """A table, and the shares."""
    subjects = [Subject(PLAIN, functools.partial(deliver(nothing), 1))]
    subjects += [Subject(name, functools.partial(deliver(**options)(nothing), 1), PLAIN, 1.08) for name, options in LIMITS.items()]
    yield measure("one cold call with", subjects, rounds or 60)
    yield watched(3.0)
