"""``map``, and the same for asyncio."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import conftest
import pytest
from calls import add, nap, square

from deliveryboy_ng import (
    DeliveryExecutor,
    DeliveryOptionError,
    deliver,
)

pytestmark = pytest.mark.usefixtures("nothing_stays")

NUMBER = 0


def test_map_is_lazy_and_in_order() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        for n in itertools.count(20):
            taken.append(n)
            yield n

    results = square.map(endless(), max_workers=2)
    assert list(itertools.islice(results, 10)) == [n * n for n in range(20, 30)]
    assert len(taken) <= 10 + 2 * 2 + 1
    results.close()  # type: ignore[attr-defined]
    assert list(square.map([], max_workers=2)) == []
    assert list(deliver(add).map([1, 2], [10, 20, 30])) == [11, 22]


def test_map_hands_out_as_completed_and_errors() -> None:
    assert list(nap.map([0.5, 0.01, 0.2], max_workers=3, ordered=False)) == [0.01, 0.2, 0.5]
    found = list(square.map(range(12, 15), max_workers=2, return_exceptions=True))
    assert found[0] == 144 and isinstance(found[1], KeyError) and found[2] == 196
    results = square.map(range(12, 100), max_workers=2)
    assert next(results) == 144
    with pytest.raises(KeyError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    assert len(list(square.map(range(20, 30), max_workers=2, progress=True, return_exceptions=True))) == 10
    shown = capsys.readouterr().err
    assert "10/10" in shown and "0 failed" in shown and "MiB" in shown


def test_the_bar_shows_what_runs_before_anything_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    list(nap.map([1.0, 0.1], max_workers=2, progress=True))
    assert re.search(r" 0/2 [^\r]*[12] running", capsys.readouterr().err)


def test_map_goes_by_an_executor_that_is_there() -> None:
    with DeliveryExecutor(2, initializer=prepare, initargs=(7,)) as executor:
        for ordered in (True, False):
            found = list(deliver(prepared).map(range(4), executor=executor, ordered=ordered, return_exceptions=True))
            assert sorted(map(repr, found)) == ["7", "7", "7", "LookupError()"]

        async def main() -> list[int]:
            return [value async for value in deliver(prepared).amap(range(3), executor=executor)]

        assert asyncio.run(main()) == [7, 7, 7]
        for wrong in ({"max_workers": 1, "executor": executor}, {"executor": 3}):
            with pytest.raises(DeliveryOptionError, match="executor"):
                deliver(prepared).map([1], **wrong)
        assert executor.submit(prepared, 1).result() == 7


def prepare(number: int) -> None:
    global NUMBER
    NUMBER = number


def prepared(n: int) -> int:
    if n == 3:
        raise LookupError
    return NUMBER


def test_the_bar_knows_how_much_memory_calls_had(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")

    @deliver(output="discard")
    def work(n: int) -> int:
        global STATE
        STATE = b"x" * n  # whose end takes longer than the answer
        return len(STATE)

    assert list(work.map([200 << 20], max_workers=1, progress=True)) == [200 << 20]
    most = float(capsys.readouterr().err.rpartition("at most ")[2].split()[0])
    assert 190 <= most < 400


def test_asyncio_awaits_calls_without_threads_for_each() -> None:
    async def main() -> None:
        calls = [asyncio.create_task(nap.aio(0.2)) for _ in range(10)]
        await asyncio.sleep(0.1)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("deliveryboy") and thread.is_alive()]
        assert len(threads) == 1
        assert await asyncio.gather(*calls) == [0.2] * 10
        with pytest.raises(KeyError):
            await square.aio(13)
        with pytest.raises(TypeError):
            await square.aio()  # type: ignore[call-arg]
        hanging = asyncio.create_task(sleeper.aio(100))
        pid = await asyncio.to_thread(lambda: conftest.wait_until(lambda: conftest.processes_with(mark)))
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await asyncio.to_thread(lambda: conftest.wait_until(lambda: not conftest.processes_with(mark))), pid
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sleeper.aio(100), 0.3)

    mark = uuid.uuid4().hex
    sleeper = deliver(output="discard")(functools.partial(sleep_as, mark))
    asyncio.run(main())
    for runner in (nap, square, sleeper):
        vars(runner)["_executor"].shutdown()
        del vars(runner)["_executor"]


def sleep_as(mark: str, seconds: float) -> None:
    subprocess.run(["sleep", str(seconds)], env={**os.environ, "DELIVERYBOY_MARK": mark}, check=True)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_is_cancelled_ends_all_its_calls(ordered: bool) -> None:
    async def main() -> None:
        async def consume() -> None:
            async for _ in runner.amap([100, 100, 100], max_workers=2, ordered=ordered):
                pass

        task = asyncio.create_task(consume())
        assert await asyncio.to_thread(lambda: conftest.wait_until(lambda: len(conftest.processes_with(mark)) >= 2))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    mark = uuid.uuid4().hex
    runner = deliver(output="discard")(functools.partial(sleep_as, mark))
    asyncio.run(main())
    assert conftest.wait_until(lambda: not conftest.processes_with(mark))


def test_what_an_asyncio_map_has_just_started_when_it_ends_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(n: int) -> None:
        if n:
            time.sleep(1000)
        raise ValueError(n)

    def items() -> Any:
        yield 0
        # The loop hears nothing meanwhile; then the result and the next item are there at once.
        done = threading.Event()
        started[0].add_done_callback(lambda delivery: done.set())
        assert done.wait(50)
        yield 1

    async def main() -> None:
        with pytest.raises(ValueError, match="0"):
            async for _ in deliver(work).amap(items(), max_workers=2):
                pass

    def submit(self: DeliveryExecutor, *args: Any) -> Any:
        started.append(real(self, *args))
        return started[-1]

    started: list[Any] = []
    real = DeliveryExecutor.submit
    monkeypatch.setattr(DeliveryExecutor, "submit", submit)
    asyncio.run(main())
    assert len(started) == 2 and started[1].cancelled()


def test_asyncio_maps() -> None:
    async def source() -> Any:
        for n in range(20, 26):
            await asyncio.sleep(0)
            yield n

    async def main() -> None:
        assert [value async for value in square.amap(range(20, 24), max_workers=2)] == [n * n for n in range(20, 24)]
        assert [value async for value in deliver(add).amap(source(), itertools.count(), max_workers=2)] == [
            n + k for k, n in enumerate(range(20, 26))
        ]
        assert [value async for value in nap.amap([0.4, 0.01], ordered=False, max_workers=2)] == [0.01, 0.4]
        for ordered in (True, False):
            items = [13, 13, 12, 13, 13, 14]
            found = [value async for value in square.amap(items, return_exceptions=True, ordered=ordered, max_workers=1)]
            assert [isinstance(value, KeyError) for value in found] == [item == 13 for item in items]
        async for value in square.amap(itertools.count(20), max_workers=2):
            assert value == 400
            break

    asyncio.run(main())


def test_amap_that_is_closed_has_let_go_of_its_source() -> None:
    async def main() -> None:
        waits, has_ended = asyncio.Event(), asyncio.Event()

        async def source() -> AsyncIterator[int]:
            yield 0
            try:
                waits.set()
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(0)
                has_ended.set()

        results = square.amap(source(), max_workers=1)
        assert await anext(results) == 0
        await waits.wait()
        await results.aclose()
        assert has_ended.is_set()

    asyncio.run(main())


def test_results_of_amap_do_not_wait_for_the_next_item() -> None:
    results: asyncio.Queue[int] = asyncio.Queue()

    async def fed_by_its_results() -> Any:
        yield 20
        for _ in range(3):
            yield await results.get() % 7 + 20

    async def main() -> list[int]:
        found = []
        async for value in square.amap(fed_by_its_results(), max_workers=4):
            found.append(value)
            results.put_nowait(value)
        return found

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [400, 441, 400, 441]

    async def failing() -> Any:
        yield 20
        raise LookupError("source")

    async def fails() -> None:
        async for _ in square.amap(failing()):
            pass

    with pytest.raises(LookupError, match="source"):
        asyncio.run(fails())


class Parent:
    @deliver
    def of_method(self) -> int:
        return os.getppid()

    @deliver
    @classmethod
    def of_class(cls) -> int:
        return os.getppid()


def test_methods_share_the_session_of_their_runner_in_asyncio() -> None:
    async def main() -> None:
        parent = Parent()
        assert len({await parent.of_method.aio() for _ in range(3)}) == 1
        assert len({await Parent.of_class.aio() for _ in range(3)}) == 1

    asyncio.run(main())
    again = deliver(timeout=5)(Parent.of_method)
    executors = [Parent.of_method._warm(), Parent.of_class._warm(), again._warm()]
    assert executors[0] is Parent().of_method._warm() is not executors[2]
    for executor in executors:
        executor.shutdown()
