"""One cold call, as a ratio to starting a bare interpreter.

``python -m benchmarks.cold [ROUNDS]`` interleaves ``subprocess.run([sys.executable, "-c", "pass"])`` with one call of each
kind, and prints the median of the ratios' two medians, the spread, and the machine.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from deliveryboy_ng import Bubblewrap, Sudo, Unshare, deliver


def nothing(x: int) -> int:
    """A module-level function with a small argument."""
    return x


def bare(*prefix: str) -> Callable[[], object]:
    """Start an interpreter that does nothing, behind a command."""
    return lambda: subprocess.run([*prefix, sys.executable, "-c", "pass"], check=True)


def works(*prefix: str) -> bool:
    """Whether that command can start this interpreter here."""
    if shutil.which(prefix[0]) is None:
        return False
    return subprocess.run([*prefix, sys.executable, "-c", "pass"], capture_output=True, check=False).returncode == 0


def subjects() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Name: (what is measured, its baseline)."""
    captured = 1
    found = {
        "module-level function, local": (functools.partial(deliver(nothing), 1), bare()),
        "closure, local": (deliver(lambda: captured), bare()),
    }
    unshare = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", "--")
    bwrap = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "--")
    sudo = ("sudo", "-n", "-u", "root", "--")
    for name, transport, prefix in (
        ("unshare -rpf", Unshare(pid=True), unshare),
        ("bwrap", Bubblewrap(), bwrap),
        ("sudo -u root", Sudo(), sudo),
    ):
        if works(*prefix):
            runner = deliver(transport=transport, executable=sys.executable)(nothing)
            if not _fails(runner):
                found[f"{name}, to the same around python -c pass"] = (lambda runner=runner: runner(1), bare(*prefix))
    return found


def _fails(runner: Callable[[int], object]) -> bool:
    try:
        runner(1)
    except Exception as error:
        print(f"left out: {str(error).splitlines()[0]}")
        return True
    return False


def measure(rounds: int) -> None:
    """Print the table."""
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores, {rounds} rounds")
    pairs = subjects()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in pairs}
    for number in range(rounds + 3):
        for name, both in pairs.items():
            for place, subject in enumerate(both):
                start = time.perf_counter()
                subject()
                if number >= 3:
                    times[name][place].append(time.perf_counter() - start)
    print(f"{'one cold call':<48} {'ratio':>6} {'call ms':>8} {'bare ms':>8}  spread of the call, ms")
    for name, (calls, baseline) in times.items():
        call, base = statistics.median(calls) * 1000, statistics.median(baseline) * 1000
        print(f"{name:<48} {call / base:>6.2f} {call:>8.2f} {base:>8.2f}  {min(calls) * 1000:.2f} - {max(calls) * 1000:.2f}")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
