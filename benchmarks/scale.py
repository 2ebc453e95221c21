"""How cost grows: with workers, with the caller's memory, with arguments, with modules, with calls in flight."""

from __future__ import annotations

import concurrent.futures
import functools
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from deliveryboy_ng import DeliveryExecutor, deliver

from .cold import package
from .functions import nothing, spin
from .harness import Curve, seconds

_HUGE = 1 << 30


def of_workers(rounds: int) -> Curve:
    """Calls a second."""
    workers = [1, 2, 3, 4, 6, 8]
    small: list[float] = []
    busy: list[float] = []
    for number in workers:
        with DeliveryExecutor(number) as executor:
            list(executor.map(nothing, range(50)))
            small.append(300 / seconds(lambda: list(executor.map(nothing, range(300))), rounds))
            busy.append(100 / seconds(lambda: list(executor.map(spin, [0.01] * 100)), rounds))
    most = [min(number, os.cpu_count() or 1) / 0.01 for number in workers]
    lines = {"tiny calls": small, "calls of 10 ms": busy}
    return Curve(
        "calls a second by workers", "workers", "calls a second", [*map(float, workers)], lines, ("10 ms on every core", most)
    )


def of_memory(rounds: int) -> Curve:
    """What a call costs a caller that holds much."""
    sizes = [0.0, 0.25, 1.0, 2.0, 4.0]
    calls: list[float] = []
    starts: list[float] = []
    run = functools.partial(deliver(nothing), 1)
    for size in sizes:
        with mmap.mmap(-1, int(size * _HUGE) or 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            for place in range(0, len(held), 4096):
                held[place] = 1
            run()
            calls.append(1000 * seconds(run, 10 * rounds))
            starts.append(1000 * seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 10 * rounds))
    return Curve(
        "a cold call by the caller's memory", "GB that the caller holds", "ms", sizes, {"call": calls}, ("python -c pass", starts)
    )


def of_arguments(rounds: int) -> Curve:
    """What an argument costs by its size."""
    sizes = [10.0**power for power in range(3, 10)]
    cold: list[float] = []
    warm: list[float] = []
    copied: list[float] = []
    with DeliveryExecutor(1) as executor:
        executor.submit(len, b"").result()
        for size in sizes:
            data = os.urandom(1000) * int(size / 1000)
            times = rounds if size > 1e8 else 5 * rounds
            cold.append(1000 * seconds(functools.partial(deliver(len), data), times))
            warm.append(1000 * seconds(lambda data=data: executor.submit(len, data).result(), times))  # type: ignore[misc]
            copied.append(1000 * seconds(lambda data=data: bytearray(data), times))  # type: ignore[misc]
    lines = {"cold": cold, "warm": warm}
    return Curve(
        "a call by the size of its argument", "bytes", "ms", sizes, lines, ("one copy in memory", copied), logarithmic=True
    )


def of_modules(rounds: int) -> Curve:
    """What a package costs by its modules."""
    numbers = [1, 10, 20, 50, 100]
    calls: list[float] = []
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            for number in numbers:
                name = f"package_of_{number}"
                run = functools.partial(deliver(modules=[name])(package(folder, name, number)), 1)
                run()
                calls.append(1000 * seconds(run, 10 * rounds))
                local = f"import sys; sys.path.insert(0, {folder!r}); import {name}"
                subprocess.run([sys.executable, "-c", local], check=True)
                starts.append(
                    1000 * seconds(lambda local=local: subprocess.run([sys.executable, "-c", local], check=True), 10 * rounds)
                )  # type: ignore[misc]
        finally:
            sys.path.remove(folder)
    return Curve(
        "a cold call by the modules that travel", "modules of 2.2 KB", "ms", [*map(float, numbers)], {"call": calls},
        ("their import in a fresh interpreter", starts),
    )  # fmt: skip


def of_flights(rounds: int) -> Curve:
    """Calls a second that wait for something, by how many do at a time."""
    numbers = [1, 2, 4, 8, 16, 32, 64]
    found: list[float] = []
    for number in numbers:
        with DeliveryExecutor(number) as executor:
            concurrent.futures.wait([executor.submit(time.sleep, 0.05) for _ in range(number)])
            times = seconds(lambda: list(executor.map(time.sleep, [0.05] * 4 * number)), rounds)  # noqa: B023
            found.append(4 * number / times)
    most = [number / 0.05 for number in numbers]
    x, y = "calls in flight, 50 ms each", "calls a second"
    limit = ("each takes 50 ms", most)
    return Curve("calls a second by calls in flight", x, y, [*map(float, numbers)], {"calls": found}, limit, logarithmic=True)


def results(rounds: int, host: str) -> Iterator[Curve]:
    """Five curves."""
    for curve in (of_workers, of_memory, of_arguments, of_modules, of_flights):
        yield curve(rounds or 3)
