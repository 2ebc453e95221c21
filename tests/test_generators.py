"""Delivered generators."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import (
    CallCancelled,
    CallDied,
    CallTimeout,
    DeliveryExecutor,
    DeliveryOptionError,
    DeliveryPickleError,
    deliver,
)

pytestmark = pytest.mark.usefixtures("nothing_stays")


def test_generators_stream_what_they_make(chain: Any) -> None:
    @deliver(transport=chain)
    def count(n: int) -> Iterator[tuple[int, int]]:
        for number in range(n):
            yield number, os.getpid()
        return "the end"

    def follow() -> Any:
        return (yield from count(3))

    stream = follow()
    items = []
    try:
        while True:
            items.append(next(stream))
    except StopIteration as end:
        assert end.value == "the end"
    assert [number for number, _ in items] == [0, 1, 2] and len({pid for _, pid in items}) == 1
    assert list(count(0)) == [] and [number for number, _ in count.local(2)] == [0, 1]


def test_a_generators_items_come_as_they_are_made() -> None:
    @deliver
    def slow() -> Iterator[int]:
        for number in range(3):
            yield number
            time.sleep(0.5)

    stream = slow()
    next(stream)
    start = time.monotonic()
    assert next(stream) == 1
    assert 0.1 < time.monotonic() - start < 2.0
    stream.close()  # type: ignore[attr-defined]


def test_a_generator_waits_for_who_takes_its_items(tmp_path: Path) -> None:
    @deliver
    def fast(mark: str) -> Iterator[bytes]:
        with open(mark, "ab", buffering=0) as file:
            while True:
                file.write(b"x")
                yield bytes(10_000)

    mark = tmp_path / "made"
    stream = fast(str(mark))
    next(stream)
    size = -1
    while size != mark.stat().st_size:
        size = mark.stat().st_size
        time.sleep(0.3)
    assert size * 10_000 < 8_000_000, "what is made ahead is bounded"
    for _ in range(size + 10):
        next(stream)
    assert mark.stat().st_size > size
    stream.close()  # type: ignore[attr-defined]


def test_ctrl_c_while_a_generator_is_read_is_one_here_too(script: Any) -> None:
    result = script(
        """
import os, signal, threading, time
from deliveryboy_ng import deliver

@deliver
def slow():
    yield 1
    time.sleep(100)

try:
    for item in slow():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert result.stdout == b"interrupted\n", result.stderr


def test_a_generator_belongs_to_the_process_that_reads_it() -> None:
    @deliver
    def count() -> Any:
        yield from itertools.count()

    items = count()
    assert next(items) == 0
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(50)
            for _ in items:
                pass
        except CallCancelled:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert next(items) == 1
    items.close()


def test_closing_a_generator_ends_its_call() -> None:
    mark = uuid.uuid4().hex

    @deliver
    def hold(mark: str) -> Iterator[int]:
        process = subprocess.Popen(["sleep", "1000"], env={**os.environ, "DELIVERYBOY_MARK": mark}, start_new_session=True)
        yield process.pid
        time.sleep(1000)

    for close in (True, False):
        stream = hold(mark)
        next(stream)
        # Its environment is there a moment after it has been started.
        assert conftest.wait_until(lambda: conftest.processes_with(mark))
        if close:
            stream.close()  # type: ignore[attr-defined]
        del stream
        assert conftest.wait_until(lambda: not conftest.processes_with(mark))


def test_a_generators_errors_and_endings_are_its_own() -> None:
    def work(how: str) -> Iterator[int]:
        yield 1
        if how == "raise":
            raise LookupError(how)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(100)
        if how == "cannot travel":
            yield threading.Lock()  # type: ignore[misc]

    errors = {"raise": LookupError, "die": CallDied, "hang": CallTimeout, "cannot travel": DeliveryPickleError}
    for trust in (True, False):
        for how, kind in errors.items():
            stream = deliver(timeout=1.0, grace=0.1, trust=trust)(work)(how)
            assert next(stream) == 1
            with pytest.raises(kind):
                next(stream)
    with DeliveryExecutor(1) as executor, pytest.raises(DeliveryOptionError, match="do not stream"):
        executor.submit(work, "x").result()

    async def agen() -> Any:
        yield 1

    with pytest.raises(DeliveryOptionError, match="asynchronous generator"):
        deliver(agen)()
    for method in ("run", "submit", "map", "amap"):
        with pytest.raises(DeliveryOptionError, match="is a generator"):
            getattr(deliver(work), method)("x")
