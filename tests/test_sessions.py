"""Sessions that stay open: they heal, nothing of them hangs or stays, and their calls are apart."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import importlib.util
import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from calls import add, leave_daemon, processes

from deliveryboy_ng import (
    CallCancelled,
    CallDied,
    Command,
    Confinement,
    ConnectionLost,
    CpuLimitExceeded,
    Delivery,
    DeliveryError,
    DeliveryExecutor,
    Limits,
    MemoryLimitExceeded,
    TransportNotFound,
    Verdict,
    VersionMismatchError,
    deliver,
)
from deliveryboy_ng.dispatcher import Dispatcher
from deliveryboy_ng.session import Session

pytestmark = pytest.mark.usefixtures("nothing_stays")


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


def test_terminate_gives_no_more_time_than_there_is() -> None:
    def deaf() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("deaf", flush=True)
        time.sleep(100)

    heard: list[bytes] = []
    with DeliveryExecutor(2, output=lambda stream, data: heard.append(data)) as executor:
        beside = executor.submit(deliver(timeout=60)(time.sleep), 12)
        delivery = executor.submit(deliver(timeout=2, grace=1)(deaf))
        assert conftest.wait_until(lambda: heard)
        delivery.terminate(grace=50)
        assert delivery.receipt(40).verdict is Verdict.CANCELLED
        assert beside.cancel()


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
    doomed = deliver(limits=Limits(memory="100M", cpu=0.7), timeout=100, grace=0.1, output="capture")(die)
    hanging = doomed.with_options(timeout=2.5)
    with DeliveryExecutor(8, transport=chain, output="capture") as executor:
        fates = {how: executor.submit(hanging if how == "hang" else doomed, how) for how in expected}
        fine = [executor.submit(add, n) for n in range(10)]
        assert [future.result(100) for future in fine] == list(range(1, 11))
        receipts = {how: future.receipt(100) for how, future in fates.items()}
        assert {how: receipt.verdict for how, receipt in receipts.items()} == expected
        assert all(receipt.clean for receipt in receipts.values())
        assert "in die" in str(receipts["signal"].exception) and "worker" not in str(receipts["signal"].exception)
        assert (receipts["exit"].returncode, receipts["sys.exit"].returncode, receipts["signal"].signal) == (3, 4, 6)
        assert isinstance(fates["memory"].exception(), MemoryLimitExceeded) and isinstance(fates["raise"].exception(), LookupError)
        assert isinstance(fates["cpu"].exception(), CpuLimitExceeded) and isinstance(fates["kill"].exception(), CallDied)


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
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from calls import leave_daemon
from deliveryboy_ng import DeliveryExecutor
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


def test_a_child_that_is_forked_while_a_session_opens_holds_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, forked = threading.Event(), threading.Event()
    start = subprocess.Popen

    def start_and_fork(*args: Any, **options: Any) -> Any:
        # The thread that starts a process may fork itself, in a signal handler say.
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        inside.set()
        forked.wait(1)  # others shall not
        return start(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", start_and_fork)
    with DeliveryExecutor(1) as executor:
        delivery = executor.submit(time.sleep, 100)
        assert inside.wait(20)
        child = os.fork()
        if child == 0:
            time.sleep(100)
            os._exit(0)
        forked.set()
        conftest.kill(delivery.pid or 0)
        error = delivery.exception(20)
        conftest.kill(child)
        os.waitpid(child, 0)
        assert isinstance(error, ConnectionLost)


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


CALLS = int(os.environ.get("DELIVERYBOY_CALLS", "1000"))


@contextlib.contextmanager
def traced_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(3600)
def test_many_calls_leave_nothing_behind() -> None:
    """A thousand in the suite; a hundred thousand were run once."""
    with DeliveryExecutor(4, output="discard") as executor, traced_memory():
        pid = executor.submit(processes).receipt().pid or 0
        list(executor.map(add, range(500), buffersize=50))

        def held() -> tuple[int, ...]:
            """Descriptors here and there, threads, and the supervisor's children."""
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            here, there = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{pid}/fd"))
            return here, there, threading.active_count(), len(children)

        def memory() -> tuple[int, ...]:
            """Bytes that Python holds here, which memory that was freed before may hide; and the two processes' own."""
            gc.collect()
            return tracemalloc.get_traced_memory()[0], conftest.own_memory(os.getpid()), conftest.own_memory(pid)

        def held_at_last() -> tuple[int, ...]:
            """Four wait for calls, and none is ending any more."""
            assert conftest.wait_until(lambda: held()[-1] == 4 and held() == (time.sleep(0.1), held())[1])
            return held()

        before, used = held_at_last(), memory()
        for number, value in enumerate(executor.map(add, range(CALLS), buffersize=50)):
            assert value == number + 1
        assert held_at_last() == before
        more = [(now - then) / max(CALLS, 1000) for now, then in zip(memory(), used, strict=True)]
        assert more[0] < 100 and max(more) < 500, more
        assert executor.submit(processes).receipt().pid == pid, "it was one session throughout"


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


def start_stray(path: str, size: int) -> None:
    """A child of the supervisor's, which is not below the call."""
    import ctypes

    clone, clone_parent = {"x86_64": 56, "aarch64": 220}[os.uname().machine], 0x8000
    if ctypes.CDLL(None).syscall(clone, clone_parent | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        kept = bytearray(b"x") * size
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(100 * len(kept))


def test_what_a_call_puts_out_of_its_sight_is_held_to_its_limits(tmp_path: Path) -> None:
    def work(path: str) -> None:
        for _ in range(3):
            start_stray(path, 50 << 20)
        time.sleep(20)

    with DeliveryExecutor(1, limits=Limits(memory="100M")) as executor, pytest.raises(MemoryLimitExceeded):
        executor.submit(work, str(tmp_path / "stray")).result(30)


def test_what_one_of_several_calls_puts_out_of_its_sight_is_nobodys(tmp_path: Path) -> None:
    def work(path: str) -> bool:
        start_stray(path, 1)
        while not os.path.exists(path) or not (pid := open(path).read()):
            time.sleep(0.01)
        while os.path.exists("/proc/" + pid):
            time.sleep(0.01)
        return True

    with DeliveryExecutor(2, limits=Limits(memory="100M")) as executor:
        beside = executor.submit(time.sleep, 50)
        assert beside.remote_pid and executor.submit(work, str(tmp_path / "stray")).result(30)
        assert beside.running() and beside.cancel()


def test_a_call_that_answers_too_early_is_still_held_to_its_limits(tmp_path: Path) -> None:
    def work(path: Path) -> None:
        answer = pickle.dumps(None)
        os.write(3, b"R" + len(answer).to_bytes(8, "big") + answer)
        for _ in range(8):
            if os.fork() == 0:
                time.sleep(100)
        time.sleep(0.8)
        path.touch()

    with DeliveryExecutor(1, limits=Limits(processes=4)) as executor:
        delivery = executor.submit(work, tmp_path / "late")
        assert delivery.result(30) is None and delivery.receipt(30).ok
    assert not (tmp_path / "late").exists()


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


EXECUTOR = """
import os, signal, sys, threading, time
from deliveryboy_ng import DeliveryExecutor, deliver

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
        if b"interrupted" in data:
            os.write(1, b"interrupted\\n")
        times = data.count(b"begun") + (deaf and data.count(b"interrupted"))
        for _ in range(times):
            Output.seen += 1
            os.kill(os.getpid(), signal.SIGINT)

deaf, where = sys.argv[1] == "deaf", sys.argv[2]
started = time.monotonic()
if where == "map":
    try:
        list(deliver(output=Output())(wait).map([deaf, deaf], max_workers=1))
    except KeyboardInterrupt:
        print("ended", time.monotonic() - started < 50, Output.seen)
    sys.exit()
try:
    with DeliveryExecutor(1, output=Output()) as executor:
        first, second = executor.submit(wait, deaf), executor.submit(wait, deaf)
        if where == "block":
            first.result()
        elif where == "shutdown":
            executor.shutdown()
except KeyboardInterrupt:
    print(type(first.exception()).__name__, second.cancelled(), time.monotonic() - started < 50, Output.seen)
"""


@pytest.mark.parametrize("where", ["block", "end of block", "shutdown"])
@pytest.mark.parametrize("kind, expected", [("hears", "CallInterrupted True True 1"), ("deaf", "CallCancelled True True 2")])
def test_ctrl_c_reaches_the_calls_of_an_executor_and_a_second_one_kills(script: Any, kind: str, expected: str, where: str) -> None:
    result = script(EXECUTOR, kind, where)
    assert result.stdout.decode() == f"interrupted\n{expected}\n", result.stderr


@pytest.mark.parametrize("kind, times", [("hears", 1), ("deaf", 2)])
def test_ctrl_c_reaches_the_calls_of_map(script: Any, kind: str, times: int) -> None:
    result = script(EXECUTOR, kind, "map")
    assert result.stdout.decode() == f"interrupted\nended True {times}\n", result.stderr


def test_one_error_of_the_system_is_not_the_end_of_an_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        monkeypatch.undo()
        raise OSError(errno.ENOMEM, "no memory")

    close = Session.close

    def closes_and_fails(session: Session) -> None:
        close(session)
        raise OSError(errno.ENOMEM, "no memory")

    with DeliveryExecutor(1) as executor:
        executor.submit(add, 1).result()
        monkeypatch.setattr(Session, "turn", fails)
        with pytest.raises(ConnectionLost, match="no memory"):
            executor.submit(add, 1).result(60)
        assert executor.submit(add, 1).result(60) == 2
        monkeypatch.setattr(Session, "close", closes_and_fails)


def test_a_call_that_could_not_be_sent_does_not_keep_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    before = conftest.children_of_this_process()
    with DeliveryExecutor(1, idle_timeout=0.2) as executor:
        executor.submit(add, 1).receipt()
        begin = Session.begin

        def refuses(*args: Any, **named: Any) -> Any:
            monkeypatch.setattr(Session, "begin", begin)
            raise VersionMismatchError("as it is told when it is sent")

        monkeypatch.setattr(Session, "begin", refuses)
        with pytest.raises(VersionMismatchError):
            executor.submit(add, 1).result(60)
        assert conftest.wait_until(lambda: conftest.children_of_this_process() <= before)


def test_what_signals_a_process_that_waits_for_its_call_does_not_mean_that() -> None:
    with DeliveryExecutor(1) as executor:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            supervisor = executor.submit(os.getppid).receipt().value
            place = Path(f"/proc/{supervisor}/task/{supervisor}/children")
            assert conftest.wait_until(lambda place=place: len(place.read_text().split()) == 1)
            (spare,) = map(int, place.read_text().split())
            # It has got ready when it hears what it is sent.
            assert conftest.wait_until(lambda spare=spare: blocked(spare) == 0)
            os.kill(spare, number)
            assert conftest.wait_until(lambda spare=spare: not conftest.is_alive(spare))
            assert executor.submit(add, number).result(60) == number + 1


def blocked(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("SigBlk:")[2].split()[0], 16)


def test_a_receipt_that_is_there_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        monkeypatch.undo()
        raise OSError(errno.ENOMEM, "no memory")

    with DeliveryExecutor(1) as executor:
        calls = [executor.submit(add, 1), executor.submit(add, 1)]
        assert calls[0].receipt(60).ok and calls[1].result(60) == 2 and calls[1]._over.wait(60)
        monkeypatch.setattr(Session, "turn", fails)
        executor.submit(add, 1).exception(60)
        assert [call.receipt(60).value for call in calls] == [2, 2]


def test_a_fork_while_a_call_is_settled_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    settle, ends = Delivery.settle, []

    def forks(delivery: Delivery[Any], *args: Any) -> None:
        child = os.fork()
        if child == 0:
            try:
                os._exit(not isinstance(delivery.exception(20), CallCancelled))
            except BaseException:
                os._exit(2)
        ends.append(os.waitpid(child, 0)[1])
        settle(delivery, *args)

    monkeypatch.setattr(Delivery, "settle", forks)
    with DeliveryExecutor(1) as executor, pytest.raises(TypeError):
        executor.submit(abs, "x").result(60)
    assert ends == [0]


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


def test_ctrl_c_at_whatever_step_of_submitting_costs_no_other_call() -> None:
    def interrupt(frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        # Signals are handled when a function of Python's begins, or one of C's has ended.
        if event in ("call", "c_return") and (steps or frame.f_code is Dispatcher.add.__code__):
            steps += 1
            if steps == last:
                raise KeyboardInterrupt

    executor = DeliveryExecutor(2)
    assert executor.submit(add, 1).result(20) == 2
    steps = last = 0
    while last == 0 or steps >= last:
        steps, last = 0, last + 1
        # What others have hung into it would be interrupted as well.
        gc.disable()
        try:
            sys.setprofile(interrupt)
            executor.submit(add, 1)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
            gc.enable()
        assert executor.submit(add, 2).result(20) == 3, last
    executor.shutdown()
    assert last > 10


def test_a_thread_that_cannot_be_started_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executor = DeliveryExecutor(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            executor.submit(add, 1)
        executor._dispatcher.join()
    assert executor.submit(add, 1).receipt(20).value == 2 and not executor._dispatcher._known
    executor.shutdown()


def test_who_waits_after_one_whose_waiting_was_interrupted_waits_too(script: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result = script(
        """
import os, signal, sys, threading, time, traceback
from deliveryboy_ng import DeliveryExecutor

def work(pipe):
    open(pipe).read()

def interrupt():
    while "join" not in [frame.name for frame in traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])]:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

pipe = sys.argv[1]
executor = DeliveryExecutor(1, output=lambda stream, data: None)
delivery = executor.submit(work, pipe)
delivery.pid
executor.shutdown(wait=False)
threading.Thread(target=interrupt).start()
try:
    executor._dispatcher.join()
except KeyboardInterrupt:
    print(delivery.done())
threading.Timer(0.3, lambda: open(pipe, "w").close()).start()
executor.shutdown()
print(delivery.done())
""",
        str(pipe),
    )
    assert result.stdout == b"False\nTrue\n", result.stderr


@pytest.mark.parametrize("end", ["cancel", "kill"])
def test_a_call_is_ended_while_the_next_session_is_still_to_be_tried(end: str) -> None:
    with DeliveryExecutor(1) as executor:
        executor._dispatcher._open_at = time.monotonic() + 1000
        first, second = executor.submit(add, 1), executor.submit(add, 2)
        for delivery in (first, second):
            getattr(delivery, end)()
            with pytest.raises(CallCancelled):
                delivery.receipt(20)
        executor._dispatcher._open_at = 0
        assert executor.submit(add, 1).result(20) == 2


def test_a_thread_whose_start_was_interrupted_leaves_the_calls_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    go = threading.Event()
    start, work = threading.Thread.start, Dispatcher._work

    def interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)
        raise KeyboardInterrupt

    def late(dispatcher: Dispatcher) -> bool:
        if threading.current_thread() in started:
            go.wait(50)
        return work(dispatcher)

    monkeypatch.setattr(Dispatcher, "_work", late)
    executor = DeliveryExecutor(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(add, 1)
    delivery = executor.submit(time.sleep, 100)
    assert delivery.remote_pid
    go.set()
    started[0].join(20)
    assert not started[0].is_alive() and delivery.cancel()
    executor.shutdown()
