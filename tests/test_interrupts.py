"""Ctrl-C, and the end of the caller."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import kill, processes_with, wait_until

from deliveryboy_ng import CallInterrupted, Delivery, DeliveryExecutor, deliver

INTERRUPTED = """
import os, sys, signal, threading, time
from deliveryboy_ng import deliver

@deliver
def work(stubborn):
    import time
    try:
        print("begun", flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if stubborn:
            time.sleep(1000)
        raise

before = signal.getsignal(signal.SIGINT), os.getcwd(), list(sys.path), len(os.listdir("/proc/self/fd"))
try:
    work(sys.argv[1] == "stubborn")
except KeyboardInterrupt as error:
    print("caught", flush=True)
assert before == (signal.getsignal(signal.SIGINT), os.getcwd(), list(sys.path), len(os.listdir("/proc/self/fd")))
assert threading.active_count() == 1
"""


def test_ctrl_c_reaches_the_call_first_and_kills_it_second(tmp_path: Path) -> None:
    import subprocess

    path = tmp_path / "program.py"
    path.write_text(INTERRUPTED)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    for kind, times in (("meek", 1), ("stubborn", 2)):
        # Without a buffer, from which communicate() would not take what readline() left.
        child = subprocess.Popen(
            [sys.executable, str(path), kind], bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == b"interrupted\n"
        if times == 2:
            child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=30)
        assert (rest, child.returncode) == (b"caught\n", 0), errors.decode()


class InterruptsWhenUnpacked:
    def __reduce__(self) -> tuple[Any, ...]:
        return signal.raise_signal, (signal.SIGINT,)


def test_ctrl_c_before_the_function_has_begun_interrupts_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its process gets ready it is kept, while it unpacks the box it comes at once."""

    def sleep(*args: object) -> None:
        import time

        time.sleep(1000)

    slow = deliver(sleep, output="capture")
    receipt = slow.run(InterruptsWhenUnpacked())
    assert (type(receipt.exception), receipt.stderr) == (CallInterrupted, b"")

    note = Delivery._note_start

    def interrupt(delivery: Delivery[Any], pid: int, remote_pid: int | None) -> None:
        note(delivery, pid, remote_pid)
        delivery.request("interrupt")

    monkeypatch.setattr(Delivery, "_note_start", interrupt)
    for _ in range(10):
        with pytest.raises(KeyboardInterrupt) as caught:
            slow.submit().result()
        assert isinstance(caught.value.__cause__, CallInterrupted), caught.value.__cause__


def test_caller_killed_takes_the_call_with_it(chain: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    import subprocess

    import conftest

    mark = f"DELIVERYBOY_ORPHAN_{os.getpid()}_{time.monotonic_ns()}"
    path = tmp_path / "program.py"
    path.write_text(
        """
import pickle, sys
from deliveryboy_ng import deliver
chain, mark = pickle.loads(sys.stdin.buffer.read())

@deliver(transport=chain, env={mark: "1"})
def work():
    import subprocess, time
    subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"], start_new_session=True)
    print("begun", flush=True)
    time.sleep(1000)

work()
"""
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    child = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(pickle.dumps((chain, mark)))
    child.stdin.close()
    assert child.stdout.readline() == b"begun\n"
    # While a process executes another program it shows no environment.
    assert conftest.wait_until(lambda: bool(processes_with(mark)))
    kill(child.pid)
    child.wait()
    child.stdout.close()
    assert wait_until(lambda: not processes_with(mark), 5), processes_with(mark)


INTERRUPTED_EARLY = """
import os, signal, sys, threading, time
from deliveryboy_ng import deliver

def quick():
    return 1

def slow():
    import time
    time.sleep(0.3)

runner = deliver(slow if sys.argv[1] == "slow" else quick)
runner.with_options(output="capture").run()
missed = 0
for n in range(int(sys.argv[2])):
    timer = threading.Timer(0.002 + n * 0.0006, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            runner()
        missed += 1
    except KeyboardInterrupt:
        pass
    timer.join()
time.sleep(0.1)
print(missed, threading.active_count(), len(os.listdir("/proc/self/fd")))
"""


def test_ctrl_c_at_any_moment_of_a_call_is_not_lost(tmp_path: Path) -> None:
    """One SIGINT at a time into a loop over calls: each ends the loop, and nothing is left behind."""
    import subprocess

    path = tmp_path / "program.py"
    path.write_text(INTERRUPTED_EARLY)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    for kind, times in (("quick", "40"), ("slow", "40")):
        child = subprocess.run([sys.executable, str(path), kind, times], capture_output=True, env=env, timeout=55, check=False)
        assert child.stdout.split()[:2] == [b"0", b"1"], (child.stdout, child.stderr.decode()[-2000:])
        assert int(child.stdout.split()[2]) <= 5, child.stdout


def test_impatience_does_not_keep_a_call_from_tidying_up(script: Any) -> None:
    result = script(
        """
import os, signal, sys
from deliveryboy_ng import deliver
from deliveryboy_ng.interrupts import Interrupts
from deliveryboy_ng.session import Session
from deliveryboy_ng.wire import Wire

def interrupt(frame, event, argument):
    if event == "call" and frame.f_code is code:
        sys.setprofile(None)
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)

runner = deliver(lambda: None)
runner()
held = len(os.listdir("/proc/self/fd"))
for function in (Interrupts.__enter__, Interrupts.__exit__, Session.close, Wire.close, Wire.forget, Wire._close, Wire.await_exit):
    code = function.__code__
    try:
        sys.setprofile(interrupt)
        runner()
    except KeyboardInterrupt:
        print(function.__qualname__)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, function
    assert len(os.listdir("/proc/self/fd")) == held, function
"""
    )
    assert result.stdout.split()[2:] == [b"Session.close", b"Wire.close", b"Wire.forget", b"Wire._close", b"Wire.await_exit"], (
        result
    )


def test_ctrl_c_gets_through_a_busy_receiver_of_output(script: Any) -> None:
    result = script(
        """
import os, signal, threading, time
from deliveryboy_ng import deliver
for n in (0.5, 0.7):
    threading.Timer(n, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    deliver(output=lambda stream, data: time.sleep(30))(lambda: print("x"))()
except KeyboardInterrupt:
    print(time.monotonic() - start < 5)
"""
    )
    assert result.stdout == b"True\n", result.stderr.decode()


def test_handled_interrupt_stays_handled_however_fast(script: Any) -> None:
    result = script(
        """
import os, signal, threading, time
from deliveryboy_ng import deliver

def work():
    import time
    try:
        print("begun", flush=True)
        time.sleep(20)
    except KeyboardInterrupt:
        return 5

def interrupt(stream, data):
    threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()

os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
for _ in range(15):
    assert deliver(output=interrupt)(work)() == 5
print("handled")
"""
    )
    assert result.stdout == b"handled\n", result.stderr


class TimeIsOver(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[None]:
    def handler(signum: int, frame: object) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.signal(signal.SIGALRM, before)


def ring() -> None:
    """Where somebody hears it."""
    import signal

    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        signal.raise_signal(signal.SIGALRM)


class RingsWhenPacked:
    def __init__(self, times: int) -> None:
        self.times = times

    def __reduce__(self) -> tuple[Any, ...]:
        self.times -= 1
        if not self.times:
            ring()
        return dict, ()


class RingsWhenRebuilt(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return ring, ()


@dataclass
class RingsAsData:
    def __post_init__(self) -> None:
        ring()


def returns(kind: type) -> Any:
    return kind()


def raises(kind: type[BaseException]) -> None:
    raise kind


def test_what_a_signal_handler_raises_comes_out_as_it_is(alarm: None) -> None:
    with pytest.raises(TimeIsOver):
        deliver(print)(RingsWhenPacked(1))
    with pytest.raises(TimeIsOver):
        # While it is looked for what cannot travel.
        deliver(print)(RingsWhenPacked(2), threading.Lock())
    with DeliveryExecutor(1) as executor, pytest.raises(TimeIsOver):
        executor.submit(print, RingsWhenPacked(1))
    for function in (returns, raises):
        with pytest.raises(TimeIsOver):
            deliver(function)(RingsWhenRebuilt)
    with pytest.raises(TimeIsOver):
        deliver(trust=False, accepts=[RingsAsData])(returns)(RingsAsData)


def test_a_call_whose_start_was_interrupted_does_not_run_on(alarm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    start, limbo = getattr(threading, name), vars(threading)["_limbo"]

    def interrupted(*args: Any, **kwargs: Any) -> None:
        start(*args, **kwargs)
        # Then Thread.start() has nothing more to clear up, and fails at that.
        assert wait_until(lambda: not limbo)
        ring()

    before = threading.enumerate()
    with monkeypatch.context() as patched:
        patched.setattr(threading, name, interrupted)
        with pytest.raises(TimeIsOver):
            deliver(time.sleep).submit(1000)
    for thread in set(threading.enumerate()) - set(before):
        thread.join(20)
        assert not thread.is_alive()


def test_ctrl_c_is_python_s_own_again_when_another_handler_raised_on_the_way(script: Any) -> None:
    result = script(
        """
import signal, sys
from deliveryboy_ng import deliver
from deliveryboy_ng.interrupts import Interrupts

class Alarm(Exception): pass

def alarm(*args):
    raise Alarm

def interrupt(frame, event, argument):
    if frame.f_code is code and event == when:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGALRM)

def ctrl_c():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        return True

signal.signal(signal.SIGALRM, alarm)
runner = deliver(lambda: None)
for code, when in ((Interrupts.__enter__.__code__, "return"), (Interrupts.__exit__.__code__, "call")):
    kept = None
    try:
        sys.setprofile(interrupt)
        runner()
    except Alarm as error:
        kept = error
        print("alarm", ctrl_c())
    runner()
    print(ctrl_c(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    )
    assert result.stdout.split() == [b"alarm", b"True", b"True", b"True"] * 2, (result.stdout, result.stderr)


def test_impatience_does_not_forget_a_transport_that_is_being_started(script: Any) -> None:
    result = script(
        """
import os, signal, sys
from deliveryboy_ng import deliver

def interrupt(frame, event, argument):
    if event == "c_return" and argument.__name__ == "fork_exec":
        sys.setprofile(None)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

runner = deliver(lambda: None)
runner()
try:
    sys.setprofile(interrupt)
    runner()
except KeyboardInterrupt:
    print("interrupted")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nothing stays")
"""
    )
    assert result.stdout == b"interrupted\nnothing stays\n", result
