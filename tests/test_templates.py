"""Templates: state that the calls of a session share on purpose."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import conftest
import pytest
from calls import add

from deliveryboy_ng import (
    CallCancelled,
    CallTimeout,
    Command,
    Confinement,
    DeliveryError,
    DeliveryExecutor,
    InitializerFailed,
    Limits,
    MemoryLimitExceeded,
    deliver,
)

pytestmark = pytest.mark.usefixtures("nothing_stays")


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

def begin_log(path):
    global LOG
    LOG = open(path, "a")
    print("once", file=LOG)

def log(number):
    print(number, file=LOG)

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


def test_a_session_that_cannot_see_its_processes_says_so() -> None:
    if os.getuid() != 0 or not conftest.works("unshare", "--pid", "--fork", "true"):
        conftest.missing("this takes root, and unshare")
    hop = Command(["unshare", "--pid", "--fork"])
    with DeliveryExecutor(1, preload=["json"], transport=hop) as executor, pytest.raises(InitializerFailed, match="need a /proc"):
        executor.submit(abs, -1).result(60)


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


def test_what_calls_write_to_a_file_of_the_initializers_is_there(model: Any, tmp_path: Path) -> None:
    with DeliveryExecutor(1, initializer=model.begin_log, initargs=(str(tmp_path / "log"),)) as executor:
        assert list(executor.map(model.log, range(3))) == [None] * 3
    assert (tmp_path / "log").read_text().split() == ["once", "0", "1", "2"]


def test_a_child_that_the_initializer_forked_makes_no_second_template() -> None:
    with DeliveryExecutor(2, initializer=os.fork) as executor:
        assert [executor.submit(add, number).result(30) for number in range(4)] == [1, 2, 3, 4]


def test_terminate_before_the_beginning_is_not_lost(model: Any) -> None:
    with DeliveryExecutor(1, initializer=model.load, initargs=(1,)) as executor:
        for _ in range(5):
            delivery = executor.submit(time.sleep, 30)
            delivery.terminate(0.1)
            assert isinstance(delivery.exception(10), CallCancelled)


def test_calls_that_have_not_begun_when_the_template_ends_are_sent_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def fork_only_in_the_second(mark: str) -> None:
        import posix

        if not os.path.exists(mark):
            posix.fork = functools.partial(time.sleep, 1000)
        with open(mark, "a") as file:
            file.write(f"{os.getpid()} ")

    with DeliveryExecutor(2, initializer=fork_only_in_the_second, initargs=(str(mark),)) as executor:
        deliveries = [executor.submit(add, n) for n in range(5)]
        assert conftest.wait_until(lambda: len(executor._dispatcher._running) == 2, 30)
        conftest.kill(int(mark.read_text()))
        assert [delivery.result(30) for delivery in deliveries] == [1, 2, 3, 4, 5]
    assert len(mark.read_text().split()) == 2


def test_a_template_that_ends_again_and_again_fails_the_calls() -> None:
    def end_when_forking() -> None:
        import posix

        posix.fork = functools.partial(os._exit, 3)

    with DeliveryExecutor(2, initializer=end_when_forking) as executor:
        deliveries = [executor.submit(add, n) for n in range(3)]
        assert all(isinstance(delivery.exception(50), InitializerFailed) for delivery in deliveries)


def test_an_interrupt_ends_what_has_not_begun(tmp_path: Path) -> None:
    executor = DeliveryExecutor(1, initializer=time.sleep, initargs=(1000,))
    delivery = executor.submit(add, 1)
    assert conftest.wait_until(lambda: executor._dispatcher._base)
    executor._end_calls()
    assert isinstance(delivery.exception(20), CallCancelled)

    def never_fork() -> None:
        import posix

        posix.fork = functools.partial(time.sleep, 1000)

    with DeliveryExecutor(1, initializer=never_fork) as executor:
        delivery = executor.submit(add, 1)
        assert conftest.wait_until(lambda: executor._dispatcher._running, 30)
        delivery.request("interrupt")
        assert isinstance(delivery.exception(20), CallCancelled)


def test_a_template_that_cannot_fork_for_a_moment_is_none_to_be_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace"

    def fail_sometimes(trace: str) -> None:
        import posix

        with open(trace, "a") as file:
            file.write("once ")
        fork, count = posix.fork, itertools.count()

        def scarce() -> int:
            # Also in the one that it forks, which forks the call's process.
            if next(count) % 3 == 1:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return fork()

        posix.fork = scarce

    with DeliveryExecutor(1, initializer=fail_sometimes, initargs=(str(trace),)) as executor:
        assert [executor.submit(add, number).result(30) for number in range(10)] == list(range(1, 11))
    assert (trace.read_text(), capfd.readouterr().err) == ("once ", "")
