"""What trust and confinement add to a cold call, in starts of a bare interpreter.

``python -m benchmarks.confinement [ROUNDS]`` interleaves ``python -c pass``, a plain cold call, and calls that are not trusted or
confined, and prints the medians of what each adds to the plain call of its round, as a share of that round's bare start.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from deliveryboy_ng import Confinement, Limits, deliver

from .functions import nothing

FREE = Confinement(tmp=False, write=None, network=True, namespaces=(), syscalls=())
SUBJECTS = {
    "a cold call": {},
    "trust=False": {"trust": False},
    "no new privileges, no capabilities": {"confinement": FREE},
    "no network": {"confinement": Confinement(tmp=False, write=None, namespaces=(), syscalls=())},
    "Confinement()": {"confinement": Confinement()},
    "strict, without its limits": {"confinement": dataclasses.replace(Confinement.strict(), limits=Limits())},
    "Confinement.strict()": {"confinement": Confinement.strict()},
}


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main(rounds: int) -> None:
    """Measure, and print the table."""
    runners = {name: deliver(**options)(nothing) for name, options in SUBJECTS.items()}
    bare: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + 3):
        found = {name: seconds(lambda runner=runner: runner(1)) for name, runner in runners.items()}  # type: ignore[misc]
        start = seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
        if number >= 3:
            bare.append(start)
            for name, each in found.items():
                times[name].append(each)
    middle = statistics.median(bare)
    plain = times["a cold call"]
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {rounds} rounds")
    print(f"{'one bare python -c pass':<36} {middle * 1000:>8.2f} ms")
    print(f"{'':<36} {'ms':>8}  added, in bare starts")
    for name, each in times.items():
        added = statistics.median(mine - other for mine, other in zip(each, plain, strict=True)) / middle
        print(f"{name:<36} {statistics.median(each) * 1000:>8.2f}  {added:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
