"""Cold calls and payloads of other libraries, as ratios to ours: how many times as long they take."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib
import multiprocessing
from collections.abc import Iterator
from typing import Any

from deliveryboy_ng import deliver

from .functions import nothing, same
from .harness import Call, Subject, Table, measure, opened
from .payload import session, values

_MEGABYTES = 100
COLD, BULK = "deliver", "DeliveryExecutor"
_SPAWN = multiprocessing.get_context("spawn")
_ECHO = "for x in channel: channel.send(x)"


def _answer(pipe: Any) -> None:
    pipe.send(nothing(1))


def in_a_process(context: Any) -> object:
    """multiprocessing: a process and a pipe."""
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there,))
    process.start()
    found = here.recv()
    process.join()
    return found


def executor_spawned() -> object:
    """A pool for one call."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        return pool.submit(nothing, 1).result()


def execnet_cold() -> object:
    """A gateway for one call."""
    execnet = importlib.import_module("execnet")
    group = execnet.Group()
    channel = group.makegateway().remote_exec(_ECHO)
    channel.send(1)
    found = channel.receive()
    group.terminate(1)
    return found


def pebble_cold() -> object:
    """One call of its own process."""
    process = importlib.import_module("pebble.concurrent").process
    return process(context=_SPAWN)(nothing)(1).result()


def loky_cold() -> object:
    """A pool for one call."""
    with importlib.import_module("loky").ProcessPoolExecutor(1) as pool:
        return pool.submit(nothing, 1).result()


@contextlib.contextmanager
def mitogen_router() -> Iterator[Any]:
    """What its contexts hang on."""
    master = importlib.import_module("mitogen.master")
    importlib.import_module("mitogen.utils").log_to_file(level="ERROR")
    broker = master.Broker()
    try:
        yield master.Router(broker)
    finally:
        broker.shutdown()
        broker.join()


def mitogen_cold() -> object:
    """A context for one call."""
    with mitogen_router() as router:
        return router.local().call(nothing, 1)


@contextlib.contextmanager
def pool(value: Any) -> Iterator[Call]:
    """The standard library's."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as executor:
        executor.submit(nothing, 1).result()
        yield lambda: executor.submit(same, value).result()


@contextlib.contextmanager
def execnet_open(value: Any) -> Iterator[Call]:
    """One gateway for all."""
    execnet = importlib.import_module("execnet")
    group = execnet.Group()
    channel = group.makegateway().remote_exec(_ECHO)

    def call() -> object:
        channel.send(value)
        return channel.receive()

    yield call
    group.terminate(1)


@contextlib.contextmanager
def loky_open(value: Any) -> Iterator[Call]:
    """One worker for all."""
    with importlib.import_module("loky").ProcessPoolExecutor(1) as executor:
        executor.submit(nothing, 1).result()
        yield lambda: executor.submit(same, value).result()


def results(rounds: int, host: str) -> Iterator[Table]:
    """Two tables."""
    cold = [
        Subject(COLD, functools.partial(deliver(nothing), 1)),
        Subject("multiprocessing, spawn", functools.partial(in_a_process, _SPAWN), COLD, least=3),
        Subject("execnet", execnet_cold, COLD, least=3),
        Subject("ProcessPoolExecutor, spawn", executor_spawned, COLD),
        Subject("pebble, spawn", pebble_cold, COLD, least=5),
        Subject("loky", loky_cold, COLD, least=5),
        Subject("mitogen", mitogen_cold, COLD, least=5),
    ]
    yield measure("one cold call", cold, rounds or 10)
    data = values(_MEGABYTES)["bytes"]
    makers = {
        BULK: lambda: session(data),
        "ProcessPoolExecutor": lambda: pool(data),
        "execnet": lambda: execnet_open(data),
        "loky": lambda: loky_open(data),
    }
    with opened(makers) as (calls, gaps):
        bars = {"ProcessPoolExecutor": 5, "execnet": 5}
        subjects = [Subject(name, call, BULK, least=bars.get(name)) for name, call in calls.items()]
        yield measure(f"{_MEGABYTES} MB there and back, worker started before", subjects, max(3, (rounds or 10) // 2), gaps)
