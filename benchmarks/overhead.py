"""What limits, timeout and the watch over memory add to a call.

``python -m benchmarks.overhead [ROUNDS]`` interleaves a plain cold call with the same call under limits and prints the
medians as ratios; then it runs a call that holds memory and does nothing, and prints what its supervisor used meanwhile,
as a share of one processor.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deliveryboy_ng import Limits, deliver

from .cold import nothing

LIMITS = {
    "timeout": {"timeout": 30},
    "limits of setrlimit(2)": {"limits": Limits(open_files=256, core=0, file_size="1G")},
    "memory": {"limits": Limits(memory="1G")},
    "memory, cpu, processes, timeout": {"limits": Limits(memory="1G", cpu=10, processes=64), "timeout": 30},
}


def cold(rounds: int) -> None:
    """Print what each kind of limit adds to a cold call."""
    subjects: dict[str, Callable[[int], object]] = {"no limits": deliver(nothing)}
    subjects |= {name: deliver(**options)(nothing) for name, options in LIMITS.items()}
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(rounds + 3):
        for name, subject in subjects.items():
            start = time.perf_counter()
            subject(1)
            if number >= 3:
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["no limits"])
    print(f"{'one cold call with':<36} {'ratio':>6} {'ms':>8}  spread, ms")
    for name, each in times.items():
        middle = statistics.median(each)
        print(f"{name:<36} {middle / base:>6.3f} {middle * 1000:>8.2f}  {min(each) * 1000:.2f} - {max(each) * 1000:.2f}")


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


def watch(seconds: float) -> None:
    """Print what a supervisor uses while it watches a call that does nothing."""
    size = 1 << 28
    print(f"{'a supervisor that watches':<36} {'share of one processor, %':>26}")
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
        used = processor_time(supervisor) - before
        print(f"{name:<36} {100 * used / (time.monotonic() - start):>26.2f}")
        delivery.result(30)


if __name__ == "__main__":
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores")
    cold(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    watch(3.0)
