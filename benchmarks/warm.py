"""Isolated calls of a session that stays open, as ratios to the standard library's pool, whose calls share one process.

What has a process for each call, as ours do, is compared with ours where a bar says so.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any

from deliveryboy_ng import DeliveryExecutor, Ssh, Sudo, Unshare

from .functions import hold, nothing
from .harness import Call, Subject, Table, measure, opened
from .peers import in_a_process, mitogen_router

BLOCK, MANY = 20, 1000
SHARED, POOL, OURS = "ProcessPoolExecutor(1), shared", "ProcessPoolExecutor(2).map, shared", "DeliveryExecutor(1)"
OURS_MAPPED, SINGLE_USE = "DeliveryExecutor(2).map", "Pool(2, maxtasksperchild=1), to DeliveryExecutor(2).map"
SPAWNED = "ProcessPoolExecutor(1, max_tasks_per_child=1)"
LARGE, RESTED = "DeliveryExecutor(1), template of 1 GB", "DeliveryExecutor(1), template of 1 GB, rested"

Makers = dict[str, Callable[[], contextlib.AbstractContextManager[Call]]]


@contextlib.contextmanager
def executor(kind: Callable[[], concurrent.futures.Executor]) -> Iterator[Call]:
    """One call of an executor, back to back."""
    with kind() as pool:
        yield lambda: pool.submit(nothing, 1).result()


@contextlib.contextmanager
def execnet_() -> Iterator[Call]:
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
def mitogen_() -> Iterator[Call]:
    """One process for all calls."""
    with mitogen_router() as router:
        context = router.local()
        yield lambda: context.call(nothing, 1)


@contextlib.contextmanager
def pebble_() -> Iterator[Call]:
    """A fork for each call."""
    call = importlib.import_module("pebble.concurrent").process(context=multiprocessing.get_context("fork"))(nothing)
    yield lambda: call(1).result()


@contextlib.contextmanager
def loky_() -> Iterator[Call]:
    """Shared workers."""
    pool = importlib.import_module("loky").get_reusable_executor(max_workers=1)
    yield lambda: pool.submit(nothing, 1).result()
    pool.shutdown()


def ours(**options: Any) -> Callable[[], contextlib.AbstractContextManager[Call]]:
    """One of our sessions."""
    return functools.partial(executor, functools.partial(DeliveryExecutor, 1, **options))


def singles(host: str) -> Makers:
    """One call back to back, by name."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload([__name__])
    spawn = multiprocessing.get_context("spawn")
    single = concurrent.futures.ProcessPoolExecutor
    return {
        SHARED: functools.partial(executor, lambda: single(1)),
        OURS: ours(),
        "DeliveryExecutor(1), template": ours(preload=["json"]),
        LARGE: ours(initializer=hold, initargs=(1 << 30,)),
        "DeliveryExecutor(1), unshare": ours(transport=Unshare(pid=True)),
        "DeliveryExecutor(1), sudo -u root": ours(transport=Sudo(), executable=sys.executable),
        **({"DeliveryExecutor(1), ssh": ours(transport=Ssh(host), executable=sys.executable)} if host else {}),
        "forkserver, preloaded": lambda: contextlib.nullcontext(functools.partial(in_a_process, forkserver)),
        SPAWNED: functools.partial(executor, lambda: single(1, mp_context=spawn, max_tasks_per_child=1)),
        "pebble, fork": pebble_,
        "loky, shared": loky_,
        "execnet, shared": execnet_,
        "mitogen, shared": mitogen_,
    }


@contextlib.contextmanager
def mapped(kind: Callable[[], Any], **options: Any) -> Iterator[Call]:
    """Many small calls."""
    with kind() as pool:
        yield lambda: list(pool.map(nothing, range(MANY), **options))


def pools() -> Makers:
    """Many small calls over two workers."""
    fork = multiprocessing.get_context("fork")
    return {
        POOL: lambda: mapped(lambda: concurrent.futures.ProcessPoolExecutor(2), chunksize=1),
        OURS_MAPPED: lambda: mapped(lambda: DeliveryExecutor(2)),
        "DeliveryExecutor(2).map, chunksize=50": lambda: mapped(lambda: DeliveryExecutor(2), chunksize=50),
        SINGLE_USE: lambda: mapped(lambda: fork.Pool(2, maxtasksperchild=1), chunksize=1),
    }


def block(call: Call, times: int) -> Call:
    """So many of them."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def back_to_back(name: str, call: Call) -> Subject:
    """A subject of the first table."""
    base, most = {OURS: (SHARED, 2.0), "DeliveryExecutor(1), ssh": (OURS, 3.0)}.get(name, (SHARED, None))
    # An interpreter is started for each.
    times = 2 if name == SPAWNED else BLOCK
    return Subject(name, block(call, times), base, most, calls=times)


def results(rounds: int, host: str) -> Iterator[Table]:
    """Two tables."""
    with opened(singles(host)) as (calls, gaps):
        subjects = [back_to_back(name, call) for name, call in calls.items()]
        place = next((number for number, each in enumerate(subjects) if each.name == LARGE), None)
        if place is not None:
            # Time for the template to fork ahead.
            subjects.insert(place + 1, Subject(RESTED, calls[LARGE], SHARED, pause=0.05))
        yield measure("one call, back to back", subjects, rounds or 20, gaps)
    with opened(pools()) as (calls, gaps):
        bars: dict[str, dict[str, Any]] = {
            OURS_MAPPED: {"most": 5.0},
            "DeliveryExecutor(2).map, chunksize=50": {"most": 1.0},
            SINGLE_USE: {"base": OURS_MAPPED, "least": 3.0},
        }
        subjects = [Subject(name, call, **{"base": POOL, **bars.get(name, {})}, calls=MANY) for name, call in calls.items()]
        yield measure(f"a call of {MANY}, two workers", subjects, max(3, (rounds or 20) // 6), gaps)
