"""Sessions that stay open: the executor, map, asyncio, generators, templates; and that nothing of it hangs or stays."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import importlib.util
import inspect
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import (
    CallCancelled,
    CallDied,
    CallTimeout,
    Command,
    Confinement,
    ConnectionLost,
    CpuLimitExceeded,
    DeliveryBoy,
    DeliveryError,
    DeliveryExecutor,
    DeliveryOptionError,
    DeliveryPackingError,
    DeliveryPickleError,
    InitializerFailed,
    Limits,
    Local,
    MemoryLimitExceeded,
    Sudo,
    TransportNotFound,
    Verdict,
    deliver,
    packing,
)

STATE = "untouched"


def add(x: int, y: int = 1) -> int:
    return x + y


def identity(x: Any) -> Any:
    return x


def processes() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def spoil() -> str:
    """Whoever shared this process or its memory would notice."""
    global STATE
    found, STATE = STATE, "spoilt"
    sys.modules["json"] = None  # type: ignore[assignment]
    os.environ["SPOILT"] = "1"
    os.chdir("/")
    return found + os.environ.get("SPOILT", "")[1:]


def children_of_this_process() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread, child or descriptor is left when the executors of a test are gone."""
    # The sshd that a test is the first to need is not its own.
    if "chain" in request.fixturenames:
        request.getfixturevalue("chain")
    elif "name" in request.fixturenames and request.getfixturevalue("name") in conftest.CHAINS:
        conftest.CHAINS[request.getfixturevalue("name")](request)
    before = children_of_this_process(), len(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    yield
    assert conftest.wait_until(
        lambda: not [each for each in {*threading.enumerate()} - threads if each.name.startswith("deliveryboy") and each.is_alive()]
    )
    assert conftest.wait_until(lambda: children_of_this_process() <= before[0])
    assert conftest.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[1] + 1), "asyncio keeps none either"


# --- the executor -----------------------------------------------------------------------------------------------------


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


# --- nothing stays pending --------------------------------------------------------------------------------------------


def test_a_running_call_is_killed_by_cancel() -> None:
    with DeliveryExecutor(1) as executor:
        running, waiting = executor.submit(time.sleep, 100), executor.submit(time.sleep, 100)
        pid = running.remote_pid or 0
        assert waiting.cancel() and not waiting.running() and running.cancel() and running.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            running.result()
        assert running.receipt(10).verdict is Verdict.CANCELLED and not conftest.is_alive(pid)
        with pytest.raises(CallCancelled):
            waiting.receipt(10)
        assert (executor.submit(add, 1).result() == 2 and not executor.submit(add, 1).cancel()) or True


def test_terminate_lets_the_function_have_its_say() -> None:
    def polite() -> str:
        signal.signal(signal.SIGTERM, lambda number, frame: (_ for _ in ()).throw(InterruptedError))
        try:
            time.sleep(100)
        except InterruptedError:
            return "tidied up"
        return "slept"

    def deaf() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(100)

    heard: list[bytes] = []
    with DeliveryExecutor(2, output=lambda stream, data: heard.append(data)) as executor:
        delivery = executor.submit(deliver(output="capture")(polite))
        time.sleep(0.3)
        delivery.terminate()
        assert delivery.result(10) == "tidied up"
        delivery = executor.submit(deaf)
        assert conftest.wait_until(lambda: heard)
        delivery.terminate(grace=0.1)
        with pytest.raises(CallCancelled):
            delivery.result(10)
        delivery = executor.submit(time.sleep, 100)
        assert delivery.remote_pid
        delivery.kill()
        with pytest.raises(CallCancelled):
            delivery.result(10)
        assert not delivery.cancelled()


def test_what_cannot_travel_fails_in_its_future() -> None:
    with DeliveryExecutor(2) as executor:
        with pytest.raises(DeliveryPackingError):
            executor.submit(identity, threading.Lock()).result(10)
        assert executor.submit(add, 1).result() == 2
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(identity, threading.Lock())


def test_a_session_that_cannot_be_opened_fails_all_that_wait() -> None:
    with DeliveryExecutor(2, transport="no-such-command-anywhere") as executor:
        futures = [executor.submit(add, n) for n in range(5)]
        assert all(isinstance(future.exception(10), TransportNotFound) for future in futures)
    with DeliveryExecutor(2, transport="/bin/false") as executor:
        first = executor.submit(add, 1)
        assert isinstance(first.exception(10), DeliveryError)
        start = time.monotonic()
        assert isinstance(executor.submit(add, 1).exception(10), DeliveryError)
        assert isinstance(executor.submit(add, 1).exception(10), DeliveryError)
        assert time.monotonic() - start > 0.1, "it is tried again ever later"


@pytest.mark.parametrize("name", ["local", "unshare-pid", "ssh"])
def test_a_session_that_is_lost_is_opened_anew(request: pytest.FixtureRequest, name: str) -> None:
    chain = conftest.CHAINS[name](request)
    with DeliveryExecutor(3, transport=chain) as executor:
        futures = [executor.submit(time.sleep, 100) for _ in range(3)]
        assert all(future.remote_pid for future in futures)
        later = [executor.submit(add, n) for n in range(4)]
        conftest.kill(futures[0].pid or 0)
        assert all(isinstance(future.exception(20), ConnectionLost) for future in futures)
        assert all(future.receipt().verdict is Verdict.LOST for future in futures)
        assert [future.result(20) for future in later] == [1, 2, 3, 4], "what had not begun is not lost"


def test_a_lost_call_is_sent_again_only_if_that_was_said(tmp_path: Path) -> None:
    def work(mark: str) -> int:
        with open(mark, "a") as file:
            file.write("x")
        if os.path.getsize(mark) == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(100)
        return os.path.getsize(mark)

    for retries in (0, 1):
        mark = tmp_path / str(retries)
        with DeliveryExecutor(1, retries=retries) as executor:
            future = executor.submit(work, str(mark))
            if retries:
                assert future.result(20) == 2
            else:
                assert isinstance(future.exception(20), ConnectionLost) and mark.read_text() == "x"


def test_calls_that_die_in_different_ways_beside_others(chain: Any) -> None:
    def die(how: str) -> Any:
        match how:
            case "signal":
                os.kill(os.getpid(), signal.SIGABRT)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(4)
            case "raise":
                raise LookupError(how)
            case "hang":
                time.sleep(100)
            case "memory":
                kept = [bytearray(1 << 20) for _ in range(400)]
                return len(kept)
            case "cpu":
                while True:
                    pass
        return how

    expected = {
        "signal": Verdict.SIGNALED, "kill": Verdict.SIGNALED, "exit": Verdict.EXITED, "sys.exit": Verdict.EXITED,
        "raise": Verdict.RAISED, "hang": Verdict.TIMEOUT, "memory": Verdict.MEMORY_LIMIT, "cpu": Verdict.CPU_LIMIT,
    }  # fmt: skip
    doomed = deliver(limits=Limits(memory="100M", cpu=0.2), timeout=2.5, grace=0.1, output="capture")(die)
    with DeliveryExecutor(8, transport=chain, output="capture") as executor:
        fates = {how: executor.submit(doomed, how) for how in expected}
        fine = [executor.submit(add, n) for n in range(10)]
        assert [future.result(30) for future in fine] == list(range(1, 11))
        receipts = {how: future.receipt(30) for how, future in fates.items()}
        assert {how: receipt.verdict for how, receipt in receipts.items()} == expected
        assert all(receipt.clean for receipt in receipts.values())
        assert "in die" in str(receipts["signal"].exception) and "worker" not in str(receipts["signal"].exception)
        assert (receipts["exit"].returncode, receipts["sys.exit"].returncode, receipts["signal"].signal) == (3, 4, 6)
        assert isinstance(fates["memory"].exception(), MemoryLimitExceeded) and isinstance(fates["raise"].exception(), LookupError)
        assert isinstance(fates["cpu"].exception(), CpuLimitExceeded) and isinstance(fates["kill"].exception(), CallDied)


def leave_daemon(mark: str, seconds: float) -> bool:
    """Whether the daemon still lives after so long."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.environ["DELIVERYBOY_MARK"] = mark
            os.write(write, str(os.getpid()).encode())
            os.execve("/bin/sleep", ["sleep", "1000"], os.environ)
        os._exit(0)
    pid = int(os.read(read, 20))
    time.sleep(seconds)
    return os.path.exists(f"/proc/{pid}")


def test_what_a_call_leaves_ends_with_it_and_not_before(chain: Any) -> None:
    mark = uuid.uuid4().hex
    with DeliveryExecutor(3, transport=chain) as executor:
        long = executor.submit(leave_daemon, mark, 0.6)
        assert long.remote_pid
        for _ in range(5):
            assert executor.submit(leave_daemon, mark, 0.0).receipt().clean
        assert long.result(20) is True and long.receipt().clean
        assert not conftest.processes_with(mark)


def test_leaving_calls_return_at_once_and_their_sessions_end(tmp_path: Path) -> None:
    executor = DeliveryExecutor(2)
    futures = [executor.submit(time.sleep, 0.3) for _ in range(2)]
    executor.shutdown(wait=False)
    assert not futures[0].done()
    assert [future.result(10) for future in futures] == [None, None]
    dropped = DeliveryExecutor(2)
    pid = dropped.submit(processes).receipt().pid or 0
    del dropped
    assert conftest.wait_until(lambda: not conftest.is_alive(pid)), "forgotten ones are shut down too"


def test_a_program_that_ends_waits_for_its_calls(script: Any) -> None:
    result = script(
        """
import time
from deliveryboy_ng import DeliveryExecutor

def work(n):
    time.sleep(0.3)
    print("done", n, flush=True)

executor = DeliveryExecutor(2)
for n in range(3):
    executor.submit(work, n)
"""
    )
    assert sorted(result.stdout.split(b"\n")) == [b"", b"done 0", b"done 1", b"done 2"] and result.returncode == 0, result.stderr


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(1)"])
def test_nothing_outlives_a_caller_that_dies(end: str) -> None:
    mark = uuid.uuid4().hex
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_warm import *
executor = DeliveryExecutor(3, initializer=print)
futures = [executor.submit(leave_daemon, {mark!r}, 100) for _ in range(3)]
[future.remote_pid for future in futures]
time.sleep(0.3)
{end}
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "DELIVERYBOY_MARK": mark}
    subprocess.run([sys.executable, "-c", program], env=env, timeout=30, check=False)
    assert conftest.wait_until(lambda: not conftest.processes_with(mark))


def test_idle_sessions_close_and_open_again() -> None:
    with DeliveryExecutor(2, idle_timeout=0.2) as executor:
        first = executor.submit(processes).receipt().pid or 0
        assert conftest.wait_until(lambda: not conftest.is_alive(first), 5)
        second = executor.submit(processes).receipt().pid
        assert second != first


def test_forked_children_of_the_caller_have_their_own() -> None:
    with DeliveryExecutor(2) as executor:
        assert executor.submit(add, 1).result() == 2
        under_way = executor.submit(time.sleep, 0.5)
        assert under_way.remote_pid
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert isinstance(under_way.exception(5), CallCancelled)
                assert executor.submit(add, 2).result(10) == 3
                executor.shutdown()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert under_way.result(10) is None and executor.submit(add, 3).result() == 4


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


def test_a_receiver_that_raises_ends_its_own_call_only() -> None:
    def receive(stream: str, data: bytes) -> None:
        if b"bad" in data:
            raise ValueError("cannot take that")

    with DeliveryExecutor(2, output=receive) as executor:
        bad = executor.submit(lambda: (print("bad", flush=True), time.sleep(100)))
        good = executor.submit(lambda: print("good"))
        with pytest.raises(ValueError, match="cannot take that"):
            bad.result(10)
        assert good.result(10) is None and executor.submit(add, 1).result() == 2


class Trap:
    """Ends the program that rebuilds it, if that is this one."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() == state["home"]:
            raise SystemExit(3)
        vars(self).update(state)


def test_what_happens_in_the_dispatchers_thread_harms_one_call_only(tmp_path: Path) -> None:
    pipe, gate = tmp_path / "pipe", tmp_path / "gate"
    os.mkfifo(pipe)
    with DeliveryExecutor(2) as executor:
        beside = executor.submit(time.sleep, 0.5)
        trapped = executor.submit(Trap, os.getpid())
        assert isinstance(trapped.exception(10), SystemExit) and beside.result(10) is None
        executor.submit(pipe.read_text).add_done_callback(lambda delivery: sys.exit(1))
        pipe.write_text("")
        assert [executor.submit(add, n).result(10) for n in range(3)] == [1, 2, 3]
        verdicts: list[Any] = []

        async def wait() -> int:
            delivery = executor.submit(add, 1)
            delivery.add_done_callback(lambda delivery: verdicts.append(delivery.receipt().verdict))
            return await delivery

        assert asyncio.run(wait()) == 2 and conftest.wait_until(lambda: verdicts == [Verdict.RETURNED])
    failing = ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.01; done; exit 1", "sh"]
    with DeliveryExecutor(2, transport=Command(failing)) as executor:
        futures = [executor.submit(add, n) for n in range(3)]
        futures[0].add_done_callback(lambda delivery: sys.exit(1))
        gate.touch()
        assert all(isinstance(future.exception(10), DeliveryError) for future in futures)


def test_chunks_keep_a_functions_own_options() -> None:
    with DeliveryExecutor(2) as executor:
        with pytest.raises(DeliveryOptionError, match="confinement"):
            list(executor.map(deliver(confinement=Confinement.strict())(add), [1, 2], chunksize=2))
        with pytest.raises(CallTimeout):
            list(executor.map(deliver(timeout=0.3, grace=0.1)(time.sleep), [10, 10], chunksize=2))


def test_calls_that_find_no_descriptors_fail_and_cost_none(script: Any) -> None:
    result = script(
        """
import resource, time
from deliveryboy_ng import DeliveryExecutor, DeliveryTransportError

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1024))

def work():
    time.sleep(0.2)

counts = []
with DeliveryExecutor(20) as executor:
    for _ in range(6):
        errors = [delivery.exception(20) for delivery in [executor.submit(work) for _ in range(20)]]
        assert all(error is None or isinstance(error, DeliveryTransportError) for error in errors), errors
        counts.append(errors.count(None))
# Some of a round may still be ending when the next begins; what they cost would be missing in all that follow.
assert max(counts[3:]) >= counts[0] - 1 > 3, counts
print("no fewer")
"""
    )
    assert result.stdout == b"no fewer\n", result.stderr


def test_an_end_that_was_asked_for_is_no_loss_to_be_made_good(tmp_path: Path) -> None:
    def work(mark: str) -> None:
        with open(mark, "a") as file:
            file.write("x")
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(100)

    mark = tmp_path / "mark"
    with DeliveryExecutor(1, retries=3) as executor:
        delivery = executor.submit(work, str(mark))
        assert conftest.wait_until(lambda: mark.exists() and mark.read_text())
        pid = delivery.pid or 0
        delivery.kill()
        time.sleep(0.1)
        conftest.kill(pid)
        assert isinstance(delivery.exception(20), DeliveryError) and mark.read_text() == "x"


def test_terminate_before_the_beginning_is_not_lost(model: Any) -> None:
    with DeliveryExecutor(1, initializer=model.load, initargs=(1,)) as executor:
        for _ in range(5):
            delivery = executor.submit(time.sleep, 30)
            delivery.terminate(0.1)
            assert isinstance(delivery.exception(10), CallCancelled)


def test_a_receipt_tells_the_same_whenever_it_is_asked_for() -> None:
    with DeliveryExecutor(1) as executor:
        delivery = executor.submit(add, 1)
        delivery.result()
        time.sleep(0.7)
        assert delivery.receipt().duration < 0.6


CALLS = int(os.environ.get("DELIVERYBOY_CALLS", "1000"))


@pytest.mark.timeout(3600)
def test_many_calls_leave_nothing_behind() -> None:
    """A thousand in the suite; a hundred thousand were run once."""
    with DeliveryExecutor(4, output="discard") as executor:
        pid = executor.submit(processes).receipt().pid or 0
        list(executor.map(add, range(50)))

        def held() -> tuple[int, ...]:
            """Descriptors here and there, threads, and the supervisor's children."""
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            here, there = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{pid}/fd"))
            return here, there, threading.active_count(), len(children)

        def held_at_last() -> tuple[int, ...]:
            """Four wait for calls, and none is ending any more."""
            assert conftest.wait_until(lambda: held()[-1] == 4 and held() == (time.sleep(0.1), held())[1])
            return held()

        before = held_at_last()
        for number, value in enumerate(executor.map(add, range(CALLS), buffersize=50)):
            assert value == number + 1
        assert held_at_last() == before
        assert executor.submit(processes).receipt().pid == pid, "it was one session throughout"


# --- templates --------------------------------------------------------------------------------------------------------

MODEL = '''
import sys, time

MODEL = HELD = None

def load(size):
    global MODEL
    MODEL = list(range(size))

def use(x):
    """How long the model is, which each call makes longer for itself; and whether json was there before."""
    MODEL.append(x)
    return len(MODEL), "json" in sys.modules

def plus_one(x):
    return x + 1

def leave_note():
    with open("/tmp/note", "w") as file:
        file.write("note")

def read_note():
    return open("/tmp/note").read()

def hold():
    global HELD
    HELD = bytearray(b"x") * (200 << 20)

def look():
    return len(HELD)

def write():
    for place in range(0, len(HELD), 4096):
        HELD[place] = 1
    time.sleep(20)
'''


@pytest.fixture
def model(project: Any) -> Any:
    project({"model.py": MODEL})
    return importlib.import_module("model")


def test_calls_share_what_the_initializer_made_and_nothing_else(chain: Any, model: Any) -> None:
    with DeliveryExecutor(2, transport=chain, preload=iter(["json"]), initializer=model.load, initargs=(1000,)) as executor:
        futures = [executor.submit(model.use, n) for n in range(5)]
        assert [future.result(20) for future in futures] == [(1001, True)] * 5
        assert all(future.receipt().clean for future in futures)
        assert executor.submit(subprocess.Popen, ["sleep", "1000"]).receipt().clean
        assert executor.submit(os._exit, 5).receipt().returncode == 5


def test_every_interpreter_serves_warm_sessions(other_python: str, model: Any) -> None:
    with DeliveryExecutor(2, executable=other_python) as executor:
        assert list(executor.map(model.plus_one, range(5))) == [1, 2, 3, 4, 5]
    with DeliveryExecutor(2, executable=other_python, initializer=model.load, initargs=(10,)) as executor:
        assert [value for value, _ in executor.map(model.use, range(4))] == [11] * 4


def test_functions_of_main_share_globals_too(script: Any) -> None:
    result = script(
        """
from deliveryboy_ng import DeliveryExecutor

MODEL = None
CACHE = {}

def load(n):
    global MODEL
    MODEL = {"size": n}
    CACHE["more"] = 1

def use(x):
    return MODEL["size"] + x + CACHE["more"]

with DeliveryExecutor(2, initializer=load, initargs=(10,)) as executor:
    print(list(executor.map(use, range(3))), MODEL)
"""
    )
    assert result.stdout == b"[11, 12, 13] None\n", result.stderr


def test_a_confined_session_shares_as_well(model: Any) -> None:
    with DeliveryExecutor(2, confinement=Confinement.strict(), initializer=model.load, initargs=(10,)) as executor:
        receipt = executor.submit(model.use, 1).receipt(20)
        assert receipt.value[0] == 11 and "no network" in receipt.applied and "signals stay inside" in receipt.applied
        with pytest.raises(OSError):
            executor.submit(open, "/etc/new", "w").result(20)


def test_confined_calls_leave_nothing_for_each_other_where_they_share(model: Any) -> None:
    def leave() -> str:
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):
            try:
                with open(f"{folder}/left", "w"):
                    return folder
            except OSError:
                pass
        try:
            os.mkfifo("/tmp/pipe")
        except OSError:
            return "nothing"
        return "a pipe"

    with DeliveryExecutor(2, confinement=Confinement.strict(), initializer=model.leave_note) as executor:
        receipt = executor.submit(leave).receipt(20)
        assert receipt.value == "nothing" and "temporary folders read only" in receipt.applied, receipt
        assert executor.submit(model.read_note).result(20) == "note"
    with DeliveryExecutor(2, confinement=Confinement.strict()) as executor:
        assert [executor.submit(leave).result(20) for _ in range(2)] == ["/tmp", "/tmp"]
        assert "left" not in executor.submit(os.listdir, "/tmp").result(20)


def test_variables_of_a_template_are_not_those_of_a_call_that_has_others(model: Any) -> None:
    own = deliver(env={"B": "2"})(lambda: (os.environ.get("A"), os.environ.get("B")))
    for initializer in (None, model.plus_one):
        arguments = () if initializer is None else (1,)
        with DeliveryExecutor(1, initializer=initializer, initargs=arguments, env={"A": "1"}) as executor:
            assert executor.submit(own).result(10) == (None, "2")
            assert executor.submit(os.getenv, "A").result(10) == "1"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"initializer": functools.partial(int, "x")}, ValueError),
        ({"preload": ["no_such_module_anywhere"]}, ModuleNotFoundError),
        ({"initializer": os._exit, "initargs": (3,)}, DeliveryError),
        ({"initializer": time.sleep, "initargs": (100,), "initializer_timeout": 0.3, "grace": 0.1}, CallTimeout),
    ],
    ids=["raises", "no module", "exits", "hangs"],
)
def test_an_initializer_that_fails_fails_the_calls(options: dict[str, Any], cause: type[BaseException]) -> None:
    with DeliveryExecutor(2, output="discard", **options) as executor:
        futures = [executor.submit(add, n) for n in range(3)]
        for future in futures:
            error = future.exception(20)
            assert isinstance(error, InitializerFailed) and isinstance(error.__cause__, cause), (error, error.__cause__)


def test_a_template_that_dies_is_made_anew(model: Any) -> None:
    def kill_template() -> int:
        """The supervisor's child that is neither this process nor new."""
        supervisor = os.getppid()
        children = sorted(map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()))
        os.kill(children[0], signal.SIGKILL)
        return children[0]

    with DeliveryExecutor(1, initializer=model.load, initargs=(10,)) as executor:
        killed = executor.submit(kill_template).result(20)
        assert conftest.wait_until(lambda: not conftest.is_alive(killed))
        outcomes = [executor.submit(model.use, 1).exception(20) for _ in range(3)]
        assert isinstance(outcomes[0], (DeliveryError, type(None))) and outcomes[-1] is None


def test_what_the_template_lends_is_not_charged_to_a_call(model: Any) -> None:
    with DeliveryExecutor(3, initializer=model.hold, limits=Limits(memory="100M")) as executor:
        futures = [executor.submit(model.look) for _ in range(6)]
        assert [future.result(20) for future in futures] == [200 << 20] * 6
        assert all(future.receipt().usage.max_rss < 50 << 20 for future in futures)
        with pytest.raises(MemoryLimitExceeded):
            executor.submit(model.write).result(20)
        with pytest.raises(MemoryLimitExceeded):
            executor.submit(lambda: len(bytearray(b"x") * (150 << 20))).result(20)


# --- what is apart ----------------------------------------------------------------------------------------------------


def attack_others(module: str) -> list[str]:
    """What a call could do to the others of its session, and to what the next ones will be."""
    done = []
    me = os.getpid()
    supervisor = os.getppid()
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (me, 1)]
    for pid in others:
        try:
            if f"\nPPid:\t{supervisor}\n" not in Path(f"/proc/{pid}/status").read_text() and pid != supervisor:
                continue
        except OSError:
            continue
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
                done.append(f"signal {number} to {pid}")
            except OSError:
                pass
        for name in ("mem", "environ", "fd", "root", "cwd"):
            try:
                path = f"/proc/{pid}/{name}"
                if name == "fd":
                    # Their numbers may be seen, not what they are.
                    if not [os.readlink(f"{path}/{number}") for number in os.listdir(path)]:
                        continue
                elif name in ("root", "cwd"):
                    os.readlink(path)
                else:
                    with open(path, "r+b" if name == "mem" else "rb", buffering=0) as file:
                        if name == "environ" and not file.read(1):
                            continue
                done.append(f"{name} of {pid}")
            except OSError:
                pass
    vars(__import__(module)).clear()
    sys.meta_path.clear()
    return done


@pytest.mark.parametrize("options", [{}, {"preload": ["json"]}], ids=["plain", "template"])
@pytest.mark.parametrize("name", ["strict", "sudo", "bwrap"])
def test_calls_of_a_session_cannot_reach_each_other(name: str, options: dict[str, Any], project: Any) -> None:
    attacker = f"import os, signal, sys\nfrom pathlib import Path\n\n{inspect.getsource(attack_others)}"
    project({"shipped_module.py": "def answer():\n    return 42\n", "attacker.py": attacker})
    shipped_module, attacker_module = importlib.import_module("shipped_module"), importlib.import_module("attacker")

    where: dict[str, Any] = {
        "strict": lambda: {"confinement": Confinement.strict()},
        "sudo": lambda: {"transport": conftest.need_sudo()},
        "bwrap": lambda: {"transport": conftest.need_bwrap(), "confinement": Confinement.strict()},
    }[name]()
    with DeliveryExecutor(
        3, executable=conftest.system_python(), output="capture", modules=["shipped_module"], **where, **options
    ) as executor:
        victim = executor.submit(time.sleep, 1.0)
        assert victim.remote_pid
        for _ in range(3):
            assert executor.submit(attacker_module.attack_others, "shipped_module").result(20) == []
            assert executor.submit(shipped_module.answer).result(20) == 42
        assert victim.result(20) is None and victim.receipt().ok


# --- map --------------------------------------------------------------------------------------------------------------


@deliver
def square(x: int) -> int:
    if x == 13:
        raise KeyError(x)
    return x * x


@deliver(output="discard")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


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


def test_what_was_sent_is_let_go_though_nobody_asks_for_the_receipt() -> None:
    class Large:
        pass

    sent = Large()
    known = weakref.ref(sent)
    with DeliveryExecutor(1) as executor:
        delivery = executor.submit(lambda large: 1, sent)
        del sent
        assert delivery.result(20) == 1
        assert conftest.wait_until(lambda: gc.collect() >= 0 and known() is None)
        assert delivery.receipt().ok and delivery.receipt().usage.sent


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        if not text.isascii() or "\\" in text:
            raise ValueError("broken")
        return super().write(text)


@pytest.mark.parametrize("stream", [None, Broken()], ids=["gone", "broken"])
def test_streams_that_fail_at_the_end_cost_one_call_at_most(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with DeliveryExecutor(1, output="live") as executor:
        monkeypatch.setattr(sys, "stdout", Broken())
        first = executor.submit(lambda: (os.write(1, b"half \xc3"), time.sleep(0.3))[0])
        conftest.wait_until(lambda: sys.stdout.getvalue())  # type: ignore[attr-defined]
        monkeypatch.setattr(sys, "stdout", stream)
        assert first.result(20) == 6 and executor.submit(add, 1).result(20) == 2
        for _ in range(2 if stream else 0):
            with pytest.raises(ValueError, match="broken"):
                first.receipt(20)


def test_a_call_that_was_cancelled_in_the_queue_has_no_receipt_to_wait_for() -> None:
    with DeliveryExecutor(1) as executor:
        first, second = executor.submit(time.sleep, 100), executor.submit(add, 1)
        assert first.remote_pid and second.cancel()
        with pytest.raises(CallCancelled, match="before it began"):
            second.receipt(20)
        first.cancel()


@pytest.mark.parametrize("where", ["initializer", "transport"])
def test_cancelling_the_last_call_gives_up_a_session_that_is_still_made(where: str) -> None:
    started = time.monotonic()
    options: dict[str, Any] = {"initializer": time.sleep, "initargs": (100,)}
    if where == "transport":
        options = {"transport": Command(["sh", "-c", "sleep 100", "sh"]), "connect_timeout": 50}
    executor = DeliveryExecutor(1, **options)
    delivery = executor.submit(add, 1)
    session = conftest.wait_until(lambda: executor._dispatcher._session or executor._dispatcher._opening)
    executor.shutdown(wait=False)
    if where == "initializer":
        assert conftest.wait_until(lambda: executor._dispatcher._base)
    assert session and delivery.cancel()
    executor._dispatcher.join()
    assert time.monotonic() - started < 40


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


def test_spares_that_nobody_wants_are_charged_to_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    one, two = deliver(timeout=50)(add), deliver(timeout=60)(add)
    with DeliveryExecutor(2) as executor:
        sleeping = executor.submit(pipe.read_text)
        for number in range(30):
            for runner in (one, two):
                assert executor.submit(runner, number).result(30) == number + 1
                time.sleep(0.02)  # in which a spare is made
        pipe.write_text("")
        assert sleeping.result(30) == ""
        usage = sleeping.receipt(30).usage
        assert usage.user + usage.system < 0.1, usage


def test_a_limit_of_processes_is_one_calls_own() -> None:
    if not conftest.works("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"):
        conftest.missing("user namespaces are not permitted")

    def threads(number: int) -> int:
        end = threading.Event()
        found = [threading.Thread(target=end.wait) for _ in range(number)]
        for thread in found:
            thread.start()
        end.set()
        return len(found)

    with DeliveryExecutor(1, confinement=Confinement()) as executor:
        assert executor.submit(deliver(limits=Limits(processes=5), confinement=Confinement())(add), 1).result(30) == 2
        assert executor.submit(threads, 600).result(30) == 600


def test_a_template_that_cannot_fork_for_a_moment_is_none_to_be_lost(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def fail_sometimes(trace: str) -> None:
        import posix

        with open(trace, "a") as file:
            file.write("once ")
        fork, template, count = posix.fork, os.getpid(), itertools.count()

        def scarce() -> int:
            if os.getpid() == template and next(count) % 3 == 1:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return fork()

        posix.fork = scarce

    with DeliveryExecutor(1, initializer=fail_sometimes, initargs=(str(trace),)) as executor:
        assert [executor.submit(add, number).result(30) for number in range(10)] == list(range(1, 11))
    assert trace.read_text() == "once "


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


def test_hosts_that_are_down_for_long_are_tried_again() -> None:
    with DeliveryExecutor(1) as executor:
        executor._dispatcher._losses = 100_000
        executor._dispatcher._note_loss()
        assert 5 < executor._dispatcher._open_at - time.monotonic() <= 10
        executor._dispatcher._open_at = 0
        assert executor.submit(add, 1).result(20) == 2


def test_an_executor_that_was_shut_down_stays_so_in_a_forked_child() -> None:
    executor = DeliveryExecutor(1)
    executor.shutdown()
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(add, 1)
        except RuntimeError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


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


# --- asyncio ----------------------------------------------------------------------------------------------------------


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


# --- generators -------------------------------------------------------------------------------------------------------


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


EXECUTOR = """
import os, signal, sys, threading, time
from deliveryboy_ng import DeliveryExecutor

def wait(deaf):
    try:
        os.write(1, b"begun\\n")
        time.sleep(100)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if not deaf:
            raise
        time.sleep(100)

class Output:
    seen = 0
    def __call__(self, stream, data):
        times = data.count(b"begun") + (deaf and data.count(b"interrupted"))
        for _ in range(times):
            Output.seen += 1
            os.kill(os.getpid(), signal.SIGINT)
        if b"interrupted" in data:
            print("interrupted", flush=True)

deaf = sys.argv[1] == "deaf"
started = time.monotonic()
try:
    with DeliveryExecutor(1, output=Output()) as executor:
        first, second = executor.submit(wait, deaf), executor.submit(wait, deaf)
        first.result()
except KeyboardInterrupt:
    print(type(first.exception()).__name__, second.cancelled(), time.monotonic() - started < 50, Output.seen)
"""


@pytest.mark.parametrize("kind, expected", [("hears", "CallInterrupted True True 1"), ("deaf", "CallCancelled True True 2")])
def test_ctrl_c_reaches_the_calls_of_an_executor_and_a_second_one_kills(script: Any, kind: str, expected: str) -> None:
    result = script(EXECUTOR, kind)
    assert result.stdout.decode() == f"interrupted\n{expected}\n", result.stderr


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
        assert conftest.processes_with(mark)
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
