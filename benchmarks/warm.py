"""Warm calls, each in a process of its own, as ratios to the standard library's pool, whose calls share one.

``python -m benchmarks.warm [ROUNDS] [SSH-HOST]`` interleaves blocks of calls back to back, and blocks of many small calls over two
workers, with the same of other libraries where they are installed, and prints medians over all blocks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from deliveryboy_ng import DeliveryExecutor, Ssh, Sudo, Unshare

BLOCK = 20
MANY = 200


def nothing(x: int) -> int:
    """A module-level function with a small argument."""
    return x


@contextlib.contextmanager
def executor(kind: Callable[[], concurrent.futures.Executor]) -> Iterator[Callable[[], object]]:
    """One call of an executor, back to back."""
    with kind() as pool:
        yield lambda: pool.submit(nothing, 1).result()


@contextlib.contextmanager
def execnet_() -> Iterator[Callable[[], object]]:
    """One process for all calls."""
    execnet = importlib.import_module("execnet")
    group = execnet.Group()
    channel = group.makegateway().remote_exec("for x in channel: channel.send(x)")

    def call() -> object:
        channel.send(1)
        return channel.receive()

    yield call
    group.terminate(1)


@contextlib.contextmanager
def pebble_() -> Iterator[Callable[[], object]]:
    """A fork for each call."""
    concurrent_ = importlib.import_module("pebble.concurrent")
    call = concurrent_.process(nothing, context=multiprocessing.get_context("fork"))
    yield lambda: call(1).result()


@contextlib.contextmanager
def loky_() -> Iterator[Callable[[], object]]:
    """Shared workers."""
    pool = importlib.import_module("loky").get_reusable_executor(max_workers=1)
    yield lambda: pool.submit(nothing, 1).result()
    pool.shutdown()


def singles(host: str) -> dict[str, Any]:
    """One call back to back, by name."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([__name__])
    found: dict[str, Any] = {
        "ProcessPoolExecutor(1), shared": functools.partial(executor, lambda: concurrent.futures.ProcessPoolExecutor(1)),
        "DeliveryExecutor(1)": functools.partial(executor, lambda: DeliveryExecutor(1)),
        "DeliveryExecutor(1), template": functools.partial(executor, lambda: DeliveryExecutor(1, preload=["json"])),
        "DeliveryExecutor(1), unshare": functools.partial(executor, lambda: DeliveryExecutor(1, transport=Unshare(pid=True))),
        "DeliveryExecutor(1), sudo -u root": functools.partial(
            executor, lambda: DeliveryExecutor(1, transport=Sudo(), executable=sys.executable)
        ),
        "forkserver, max_tasks_per_child=1": functools.partial(
            executor, lambda: concurrent.futures.ProcessPoolExecutor(1, mp_context=forkserver, max_tasks_per_child=1)
        ),
        "pebble, fork": pebble_,
        "loky, shared": loky_,
        "execnet, shared": execnet_,
    }
    if host:
        found["DeliveryExecutor(1), ssh"] = functools.partial(
            executor, lambda: DeliveryExecutor(1, transport=Ssh(host), executable=sys.executable)
        )
    return found


def pools() -> dict[str, Any]:
    """Many small calls over two workers."""

    def pool_of_one_task_each() -> Any:
        return multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1)

    return {
        "ProcessPoolExecutor(2).map, shared": (lambda: concurrent.futures.ProcessPoolExecutor(2), {"chunksize": 1}),
        "DeliveryExecutor(2).map": (lambda: DeliveryExecutor(2), {}),
        "DeliveryExecutor(2).map, chunksize=50": (lambda: DeliveryExecutor(2), {"chunksize": 50}),
        "multiprocessing.Pool(2, maxtasksperchild=1)": (pool_of_one_task_each, {"chunksize": 1}),
    }


def measure(rounds: int, host: str) -> None:
    """Print the tables."""
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} cores, {rounds} rounds")
    with contextlib.ExitStack() as stack:
        calls = {}
        for name, make in singles(host).items():
            try:
                calls[name] = stack.enter_context(make())
                calls[name]()
            except Exception as error:
                calls.pop(name, None)
                print(f"left out: {name}: {str(error).splitlines()[0]}")
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in range(BLOCK):
                    call()
                times[name].append((time.perf_counter() - start) / BLOCK)
        table("one call, back to back", times)
    many: dict[str, list[float]] = {name: [] for name in pools()}
    with contextlib.ExitStack() as stack:
        opened = {name: (stack.enter_context(make()), options) for name, (make, options) in pools().items()}
        for _ in range(max(3, rounds // 5)):
            for name, (pool, options) in opened.items():
                start = time.perf_counter()
                list(pool.map(nothing, range(MANY), **options))
                many[name].append((time.perf_counter() - start) / MANY)
        table(f"a call of {MANY}, two workers", many)


def table(title: str, times: dict[str, list[float]]) -> None:
    """Medians, the first being the baseline."""
    base = statistics.median(next(iter(times.values())))
    print(f"{title:<46} {'ratio':>6} {'ms':>7}  spread, ms")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"{name:<46} {middle / base:>6.2f} {middle * 1000:>7.3f}  {min(found) * 1000:.3f} - {max(found) * 1000:.3f}")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2] if len(sys.argv) > 2 else "")
