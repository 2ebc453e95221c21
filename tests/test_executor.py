"""The executor and its deliveries: what a user of concurrent.futures expects of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import conftest
import pytest
from calls import add, identity, processes, square

from deliveryboy_ng import (
    CallCancelled,
    CallTimeout,
    Confinement,
    Delivery,
    DeliveryBoy,
    DeliveryExecutor,
    DeliveryOptionError,
    DeliveryPackingError,
    InitializerFailed,
    Local,
    Sudo,
    deliver,
    packing,
)
from deliveryboy_ng.dispatcher import Dispatcher

pytestmark = pytest.mark.usefixtures("nothing_stays")


STATE = "untouched"


def spoil() -> str:
    """Whoever shared this process or its memory would notice."""
    global STATE
    found, STATE = STATE, "spoilt"
    sys.modules["json"] = None  # type: ignore[assignment]
    os.environ["SPOILT"] = "1"
    os.chdir("/")
    return found + os.environ.get("SPOILT", "")[1:]


def test_each_call_is_a_process_of_its_own(chain: Any) -> None:
    with DeliveryExecutor(2, transport=chain) as executor:
        futures = [executor.submit(processes) for _ in range(6)]
        pids = [future.result() for future in futures]
        assert len({pid for pid, _ in pids}) == 6 and len({parent for _, parent in pids}) == 1
        assert [future.remote_pid for future in futures] == [pid for pid, _ in pids]
        assert len({future.pid for future in futures}) == 1, "one session"
        assert all(future.receipt().clean and future.receipt().ok for future in futures)
        assert [executor.submit(spoil).result() for _ in range(3)] == ["untouched"] * 3
        assert list(executor.map(add, range(5), itertools.repeat(10))) == [10, 11, 12, 13, 14]


def test_so_many_calls_run_at_a_time(tmp_path: Path) -> None:
    def work(folder: str, number: int) -> int:
        mine = f"{folder}/{number}"
        open(mine, "w").close()
        time.sleep(0.05)
        running = len(os.listdir(folder))
        os.unlink(mine)
        return running

    with DeliveryExecutor(3) as executor:
        counts = list(executor.map(functools.partial(work, str(tmp_path)), range(12)))
    assert max(counts) == 3, counts


def test_futures_work_with_the_standard_library() -> None:
    with DeliveryExecutor(4) as executor:
        slow = executor.submit(time.sleep, 0.5)
        quick = executor.submit(add, 1)
        done, rest = concurrent.futures.wait([slow, quick], return_when=concurrent.futures.FIRST_COMPLETED)
        assert done == {quick} and rest == {slow}
        assert next(concurrent.futures.as_completed([slow, quick])) is quick
        called: list[Any] = []
        quick.add_done_callback(called.append)
        assert called == [quick] and slow.result() is None and slow.done()

        async def wait() -> Any:
            return await executor.submit(add, 2), await asyncio.wrap_future(executor.submit(add, 3))

        assert asyncio.run(wait()) == (3, 4)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(loop.run_in_executor(executor, add, 4)) == 5
        loop.close()


def test_stop_iteration_is_a_runtime_error_for_asyncio_alone() -> None:
    def work() -> None:
        raise StopIteration(5)

    async def main(executor: DeliveryExecutor) -> list[BaseException]:
        waits = [executor.submit(work), asyncio.wrap_future(executor.submit(work))]
        waits += [asyncio.get_running_loop().run_in_executor(executor, work), deliver(work).submit()]
        return await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 50)  # type: ignore[return-value]

    with DeliveryExecutor(2) as executor:
        for error in asyncio.run(main(executor)):
            assert isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration) and error.__cause__.value == 5
        with pytest.raises(StopIteration):
            executor.submit(work).result(20)


STDLIB = ["Executor", "Wait", "AsCompleted", "Shutdown", "Initializer"]


def test_the_standard_librarys_own_tests_of_executors_pass() -> None:
    """CPython's, of the running Debian's Python: package libpython3.11-testsuite."""
    python = conftest.system_python()
    if subprocess.run([python, "-c", "import test.test_concurrent_futures"], capture_output=True, check=False).returncode:
        conftest.missing(f"{python} has no test.test_concurrent_futures (Debian: libpython3-testsuite)")
    roots = [Path(__file__).parent.parent]
    roots += [Path(str(importlib.util.find_spec(name).origin)).parent.parent for name in ("cloudpickle", "tblib")]  # type: ignore[union-attr]
    env = {**os.environ, "PYTHONPATH": ":".join(map(str, roots)), "PYTHONDONTWRITEBYTECODE": "1"}
    script = str(Path(__file__).with_name("stdlib_executor.py"))
    running = [
        subprocess.Popen([python, script, name], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
        for name in STDLIB
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(STDLIB), "\n".join(said)
    assert all("\nOK" in text and "skipped" not in text.splitlines()[-1] for text in said), said


def test_options_hold_as_for_any_call() -> None:
    with DeliveryExecutor(2, timeout=0.3, grace=0.1, env={"COLOUR": "red"}, input=b"given" * 30_000, output="capture") as executor:
        with pytest.raises(CallTimeout):
            executor.submit(time.sleep, 10).result()
        assert executor.submit(os.getenv, "COLOUR").result() == "red"
        assert executor.submit(lambda: len(sys.stdin.read())).result() == 150_000
        assert executor.submit(print, "said").receipt().stdout == b"said\n"
        own = deliver(timeout=20, env={"COLOUR": "blue"})(lambda: (time.sleep(0.5), os.getenv("COLOUR"))[1])
        assert executor.submit(own).result() == "blue", "the function's own options come first"
        assert executor.submit(os.getenv, "COLOUR").result() == "red"


def surroundings() -> tuple[Any, ...]:
    mask = os.umask(0)
    return os.environ.get("COLOUR"), os.getcwd(), mask, len(sys.stdin.read())


def test_what_one_call_was_given_the_next_does_not_have(tmp_path: Path) -> None:
    """Processes are made ready for a call like the last one before it is known which it will be."""
    kinds = {
        ("red", "/usr", 0o22, 0): {"env": {"COLOUR": "red"}, "cwd": "/usr", "umask": 0o22},
        (None, "/", 0o77, 4): {"cwd": "/", "umask": 0o77, "input": b"text"},
        ("blue", str(tmp_path), 0o27, 0): {"env": {"COLOUR": "blue"}, "cwd": tmp_path, "umask": 0o27},
    }
    runners = {expected: deliver(**options)(surroundings) for expected, options in kinds.items()}
    with DeliveryExecutor(2) as executor:
        for pause in (0.0, 0.05):
            for expected, runner in [*runners.items(), *runners.items(), *reversed(runners.items())]:
                time.sleep(pause)
                assert executor.submit(runner).result(10) == expected


def test_what_the_session_cannot_give_is_refused() -> None:
    with DeliveryExecutor(2) as executor:
        elsewhere = deliver(transport=Sudo("nobody"))(add)
        with pytest.raises(DeliveryOptionError, match="was delivered with transport="):
            executor.submit(elsewhere, 1).result()
        confined = deliver(confinement=Confinement.strict())(add)
        with pytest.raises(DeliveryOptionError, match="was delivered with confinement="):
            executor.submit(confined, 1).result()
        assert executor.submit(deliver(transport=Local())(add), 1).result() == 2
    for options in ({"keep_children": True}, {"asynchronous": True}, {"max_workers": 2.5}, {"retries": -1}, {"idle_timeout": "x"}):
        with pytest.raises(DeliveryOptionError):
            DeliveryExecutor(**options)  # type: ignore[arg-type]
    for number in (0, -3, 5000):
        with pytest.raises(ValueError, match="max_workers must be"):
            DeliveryExecutor(number)
    with pytest.raises(DeliveryOptionError, match="preload"):
        DeliveryExecutor(preload="json")
    with pytest.raises(DeliveryOptionError, match="did you mean"):
        DeliveryExecutor(time_out=3)


def test_large_things_go_both_ways() -> None:
    with DeliveryExecutor(2) as executor:
        large = os.urandom(20_000_000)
        assert all(value == large for value in executor.map(identity, [large, large]))


def test_a_call_that_was_cancelled_in_the_queue_has_no_receipt_to_wait_for() -> None:
    with DeliveryExecutor(1) as executor:
        first, second = executor.submit(time.sleep, 100), executor.submit(add, 1)
        assert first.remote_pid and second.cancel()
        with pytest.raises(CallCancelled, match="before it began"):
            second.receipt(20)
        first.cancel()


def test_a_call_that_waits_for_its_turn_can_be_killed() -> None:
    with DeliveryExecutor(1) as executor:
        running = executor.submit(time.sleep, 1000)
        assert running.remote_pid
        for ask in (lambda call: call.kill(), lambda call: call.terminate()):
            waiting = executor.submit(time.sleep, 1000)
            ask(waiting)
            assert isinstance(waiting.exception(60), CallCancelled) and not running.done()
        running.kill()


def test_results_belong_to_those_who_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here keeps what has been handed out, while the rest of its call is still to come."""
    conclude, may_conclude = Dispatcher._conclude, threading.Event()

    def later(*args: Any) -> None:
        may_conclude.wait(60)
        conclude(*args)

    monkeypatch.setattr(Dispatcher, "_conclude", later)
    with DeliveryExecutor(1) as executor:
        call = executor.submit(set, "a")
        found = weakref.ref(call.result())
        del call
        is_gone = conftest.wait_until(lambda: found() is None)
        may_conclude.set()
        assert is_gone


def test_whoever_comes_beside_asyncio_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks run when the receipt is there, in whatever order they are added and the answer comes."""
    call: Delivery[int] = Delivery(None, "it")
    call.begin()
    call.add_done_callback(lambda future: None)
    add_callback = concurrent.futures.Future.add_done_callback

    def comes_before(future: Any, callback: Any) -> None:
        call.answer(1)
        add_callback(future, callback)

    monkeypatch.setattr(concurrent.futures.Future, "add_done_callback", comes_before)

    def of_asyncio(future: Any) -> None:
        pass

    of_asyncio.__module__ = "asyncio.futures"
    call.add_done_callback(of_asyncio)
    assert not call.done()


AT_THE_END = """
import atexit, sys, threading, time
def told(call):
    print(type(call.exception()).__name__, flush=True)
from deliveryboy_ng import DeliveryExecutor, deliver
call = deliver(time.sleep).submit(1000)
call.add_done_callback(told)
assert call.remote_pid
def late():
    threading.main_thread().join()
    executor = DeliveryExecutor(1)
    executor.submit(write, sys.argv[1])
    print(deliver(abs)(-1), deliver(abs).submit(-2).result(), list(deliver(abs).map([-3])), flush=True)
def write(path):
    time.sleep(0.5)
    open(path, "w").close()
threading.Thread(target=late).start()
"""


def test_when_the_program_ends_whoever_waits_is_told(script: Any, tmp_path: Path) -> None:
    lines = script(AT_THE_END, str(tmp_path / "mark")).stdout.decode().splitlines()
    assert lines == ["1 2 [3]", "CallCancelled"] and (tmp_path / "mark").exists()


def test_times_that_are_none_are_refused() -> None:
    with DeliveryExecutor(1) as executor:
        held = executor.submit(time.sleep, 100)
        for grace in (float("nan"), -1, "soon"):
            with pytest.raises(DeliveryOptionError, match="grace"):
                held.terminate(grace)  # type: ignore[arg-type]
        held.cancel()

    async def output(stream: str, data: bytes) -> None: ...

    with pytest.raises(DeliveryOptionError, match="plain function"):
        deliver(output=output)
    with DeliveryExecutor(1, initializer=time.sleep, initargs=(100,), initializer_timeout=0.5) as executor:
        error = executor.submit(add, 1).exception(30)
        assert isinstance(error, InitializerFailed) and "raise initializer_timeout" in str(error)


def test_what_needs_a_call_of_its_own_is_refused() -> None:
    for option in ({"asynchronous": True}, {"keep_children": True}, {"discard_excess": False}):
        with pytest.raises(DeliveryOptionError, match="call of its own"):
            DeliveryExecutor(1, **option)
        with DeliveryExecutor(1) as executor, pytest.raises(DeliveryOptionError, match=next(iter(option))):
            executor.submit(DeliveryBoy(add, **option), 1).result()


def test_an_executor_takes_a_delivery_boy_as_any_delivered_function() -> None:
    with DeliveryExecutor(1) as executor:
        pids = {executor.submit(DeliveryBoy(os.getppid)).result() for _ in range(3)}
        assert pids == {executor.submit(os.getppid).result()}
        with pytest.raises(DeliveryOptionError, match="transport"):
            executor.submit(DeliveryBoy(os.getpid, "env")).result()


def test_chunks_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Any] = []
    pack = packing.pack
    monkeypatch.setattr(packing, "pack", lambda *given, **how: (packed.append(given), pack(*given, **how))[1])
    with DeliveryExecutor(1) as executor:
        assert list(executor.map(add, range(6), chunksize=2)) == [1, 2, 3, 4, 5, 6]
    assert len(packed) == 3


def test_chunks_share_a_process() -> None:
    with DeliveryExecutor(2) as executor:
        pids = [pid for pid, _ in executor.map(lambda n: processes(), range(10), chunksize=4)]
        assert len(set(pids)) == 3 and pids[0] == pids[3] != pids[4]
        assert list(executor.map(add, range(7), range(7), chunksize=3)) == [2 * n for n in range(7)]
        assert list(executor.map(square.local, [1, 2], chunksize=2)) == [1, 4]
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(add, [1], chunksize=0)
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(add, [1], buffersize=0)
        assert list(itertools.islice(executor.map(add, itertools.count(), buffersize=3), 5)) == [1, 2, 3, 4, 5]
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [0, 50], timeout=0.5))


def test_what_cannot_travel_fails_in_its_future() -> None:
    with DeliveryExecutor(2) as executor:
        with pytest.raises(DeliveryPackingError):
            executor.submit(identity, threading.Lock()).result(10)
        assert executor.submit(add, 1).result() == 2
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(identity, threading.Lock())


def test_many_threads_share_one_executor() -> None:
    found: list[int] = []
    with DeliveryExecutor(3) as executor:

        def use(start: int) -> None:
            for n in range(start, start + 15):
                found.append(executor.submit(add, n, 0).result())

        threads = [threading.Thread(target=use, args=(n * 100,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(n * 100 + k for n in range(6) for k in range(15))


def test_chunks_keep_a_functions_own_options() -> None:
    with DeliveryExecutor(2) as executor:
        with pytest.raises(DeliveryOptionError, match="confinement"):
            list(executor.map(deliver(confinement=Confinement.strict())(add), [1, 2], chunksize=2))
        with pytest.raises(CallTimeout):
            list(executor.map(deliver(timeout=0.3, grace=0.1)(time.sleep), [10, 10], chunksize=2))


def test_a_receipt_tells_the_same_whenever_it_is_asked_for() -> None:
    with DeliveryExecutor(1) as executor:
        delivery = executor.submit(add, 1)
        delivery.result()
        time.sleep(0.7)
        assert delivery.receipt().duration < 0.6
