"""How cost grows: with workers, with the caller's memory, with arguments, with modules, with calls in flight.

The points of a curve are measured in turn, so that what else the machine does bends none of them alone.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
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
from .harness import Call, Curve, turns

_HUGE = 1 << 30


def rates(calls: int, times: list[list[float]]) -> list[list[float]]:
    """Calls a second."""
    return [[calls / each for each in own] for own in times]


def milliseconds(times: list[list[float]]) -> list[list[float]]:
    """Of seconds."""
    return [[1000 * each for each in own] for own in times]


def of_workers(rounds: int) -> Curve:
    """Calls a second."""
    workers = [1, 2, 3, 4, 6, 8]
    with contextlib.ExitStack() as stack:
        executors = [stack.enter_context(DeliveryExecutor(number)) for number in workers]
        for executor in executors:
            list(executor.map(nothing, range(50)))
        small = turns([lambda each=each: list(each.map(nothing, range(300))) for each in executors], rounds)  # type: ignore[misc]
        busy = turns([lambda each=each: list(each.map(spin, [0.01] * 100)) for each in executors], rounds)  # type: ignore[misc]
    most = [[min(number, os.cpu_count() or 1) / 0.01] for number in workers]
    lines = {"tiny calls": rates(300, small), "calls of 10 ms": rates(100, busy)}
    return Curve(
        "calls a second by workers", "workers", "calls a second", [*map(float, workers)], lines, ("10 ms on every core", most)
    )


def of_memory(rounds: int) -> Curve:
    """What a call costs a caller that holds much."""
    sizes = [0.0, 0.25, 1.0, 2.0, 4.0]
    calls: list[list[float]] = [[] for _ in sizes]
    starts: list[list[float]] = [[] for _ in sizes]
    run = functools.partial(deliver(nothing), 1)
    for _ in range(rounds):
        with contextlib.ExitStack() as held:
            for place, more in enumerate([sizes[0], *(high - low for low, high in itertools.pairwise(sizes))]):
                held.enter_context(touched(int(more * _HUGE)))
                run()
                call, start = turns([run, lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)], 10)
                calls[place] += call
                starts[place] += start
    return Curve(
        "a cold call by the caller's memory", "GB that the caller holds", "ms", sizes, {"call": milliseconds(calls)},
        ("python -c pass", milliseconds(starts)),
    )  # fmt: skip


def touched(size: int) -> mmap.mmap:
    """Memory of which every page is there."""
    memory = mmap.mmap(-1, size or 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, len(memory), 4096):
        memory[place] = 1
    return memory


def of_arguments(rounds: int) -> Curve:
    """What an argument costs by its size."""
    sizes = [10.0**power for power in range(3, 10)]
    values = [os.urandom(1000) * int(size / 1000) for size in sizes]
    with DeliveryExecutor(1) as executor:
        executor.submit(len, b"").result()
        calls: list[Call] = []
        for data in values:
            calls.append(functools.partial(deliver(len), data))
            calls.append(lambda data=data: executor.submit(len, data).result())  # type: ignore[misc]
            calls.append(lambda data=data: bytearray(data))  # type: ignore[misc]
        # The largest take as long as all others.
        all_of_them, small = turns(calls, rounds), turns(calls[:-3], 4 * rounds)
    times = milliseconds([own + more for own, more in itertools.zip_longest(all_of_them, small, fillvalue=[])])
    lines = {"cold": times[0::3], "warm": times[1::3]}
    return Curve(
        "a call by the size of its argument", "bytes", "ms", sizes, lines, ("one copy in memory", times[2::3]), logarithmic=True
    )


def of_modules(rounds: int) -> Curve:
    """What a package costs by its modules."""
    numbers = [1, 10, 20, 50, 100]
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            calls: list[Call] = []
            for number in numbers:
                name = f"package_of_{number}"
                local = f"import sys; sys.path.insert(0, {folder!r}); import {name}"
                calls.append(functools.partial(deliver(modules=[name])(package(folder, name, number)), 1))
                calls.append(functools.partial(subprocess.run, [sys.executable, "-c", local], check=True))
            turns(calls, 1)
            times = milliseconds(turns(calls, 10 * rounds))
        finally:
            sys.path.remove(folder)
    return Curve(
        "a cold call by the modules that travel", "modules of 2.2 KB", "ms", [*map(float, numbers)], {"call": times[0::2]},
        ("their import in a fresh interpreter", times[1::2]),
    )  # fmt: skip


def of_flights(rounds: int) -> Curve:
    """Calls a second that wait for something, by how many do at a time."""
    numbers = [1, 2, 4, 8, 16, 32, 64]
    with contextlib.ExitStack() as stack:
        executors = [stack.enter_context(DeliveryExecutor(number)) for number in numbers]
        calls: list[Call] = []
        for number, executor in zip(numbers, executors, strict=True):
            concurrent.futures.wait([executor.submit(time.sleep, 0.05) for _ in range(number)])
            naps = [0.05] * 4 * number
            calls.append(lambda executor=executor, naps=naps: list(executor.map(time.sleep, naps)))  # type: ignore[misc]
        times = turns(calls, rounds)
    found = [[4 * number / each for each in own] for number, own in zip(numbers, times, strict=True)]
    most = [[number / 0.05] for number in numbers]
    x, y = "calls in flight, 50 ms each", "calls a second"
    limit = ("each takes 50 ms", most)
    return Curve("calls a second by calls in flight", x, y, [*map(float, numbers)], {"calls": found}, limit, logarithmic=True)


def results(rounds: int, host: str) -> Iterator[Curve]:
    """Five curves."""
    for curve in (of_workers, of_memory, of_arguments, of_modules, of_flights):
        yield curve(rounds or 3)
