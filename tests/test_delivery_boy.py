"""The runner of deliveryboy 0.1.0: reconfigurable, with boxes, and asynchronous by a PID."""

from __future__ import annotations

import copy
import os
import pickle
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAINS, is_alive, processes_with, wait_until

from deliveryboy_ng import (
    Command,
    DeliveryBoy,
    DeliveryOptionError,
    Limits,
    deliver,
)


def test_delivery_boy_is_reconfigurable_and_keeps_its_boxes() -> None:
    def work(x: int) -> int:
        print("working on", x)
        return x * 2

    boy = DeliveryBoy(work, None, [], sys.executable, False, True)
    assert boy.outbox is None
    assert boy(4) == 8
    assert boy.inbox.args == (4,) and boy.inbox.func is work
    assert boy.outbox is not None and boy.outbox.return_value == 8 and boy.outbox.stdout == "working on 4\n"
    boy.transport, boy.transport_params = "env", ["-u", "HOME"]
    boy.func = lambda: os.environ.get("HOME", "gone")
    assert boy() == "gone"
    assert boy.outbox.return_value == "gone"


class Clerk:
    plain = DeliveryBoy(staticmethod(lambda x: x))
    ours = DeliveryBoy(classmethod(lambda cls, x: (cls.__name__, x)))
    mine = DeliveryBoy(lambda self, x: (type(self).__name__, x))


def test_delivery_boy_binds_as_what_it_delivers() -> None:
    for clerk in (Clerk, Clerk()):
        assert clerk.plain(1) == 1 and clerk.ours(2) == ("Clerk", 2)
    assert Clerk().mine(3) == ("Clerk", 3)
    assert DeliveryBoy(lambda **named: named)(self=1) == {"self": 1}


def shown(x: int) -> int:
    return x


shown_boy = DeliveryBoy(shown, timeout=30)


@DeliveryBoy
def of_its_own_name(x: int) -> int:
    return x


def test_delivery_boys_are_copied_and_pickled() -> None:
    for again in (copy.copy, copy.deepcopy, lambda boy: pickle.loads(pickle.dumps(boy))):
        twin = again(shown_boy)
        twin.timeout = 5
        assert (shown_boy.timeout, twin.timeout, twin.func, twin.outbox) == (30, 5, shown, None)
        assert again(of_its_own_name)(3) == 3 and again(of_its_own_name) is not of_its_own_name


def test_delivery_boy_boxes_belong_to_their_thread() -> None:
    boy = DeliveryBoy(lambda x: x)
    seen: dict[int, Any] = {}

    def use(n: int) -> None:
        boy(n)
        seen[n] = (boy.inbox.args, boy.outbox.return_value if boy.outbox else None)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {n: ((n,), n) for n in range(4)}
    assert boy.outbox is None


def test_delivery_boy_decorates_methods() -> None:
    class Thing:
        value = 3

        @DeliveryBoy
        def get(self, n: int) -> int:
            return self.value + n

    assert Thing().get(4) == 7


@DeliveryBoy
def countdown(n: int) -> list[int]:
    return [os.getpid(), *(countdown(n - 1) if n else ())]


def test_delivery_boy_streams_and_calls_itself_in_place() -> None:
    def count(n: int) -> Any:
        yield from range(n)
        return "the end"

    assert list(DeliveryBoy(count)(3)) == [0, 1, 2]
    assert len({*countdown(3)}) == 1


def test_asynchronous_returns_at_once_and_the_child_finishes(chain: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    target = tmp_path / "done"
    from deliveryboy_ng import Bubblewrap

    if isinstance(chain, Bubblewrap):
        chain = Bubblewrap(write=(str(tmp_path),))

    def work(path: str) -> None:
        import time

        for _ in range(200):
            print("x" * 10_000)
        time.sleep(0.3)
        with open(path, "w") as file:
            file.write("finished")

    started = time.monotonic()
    pid = deliver(transport=chain, asynchronous=True)(work)(str(target))
    assert time.monotonic() - started < 3
    assert isinstance(pid, int) and pid > 1
    assert not target.exists() or target.read_text() == "finished"
    assert wait_until(lambda: target.exists() and target.read_text() == "finished", 15)
    assert wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10), "a zombie stayed"
    assert wait_until(lambda: not any(t.name.startswith("deliveryboy") for t in threading.enumerate()), 10)


def test_asynchronous_pid_is_the_interpreters_without_a_transport(tmp_path: Path) -> None:
    def work() -> None:
        import time

        time.sleep(0.5)

    for options in ({"asynchronous": True}, {"async": True}):
        pid = deliver(
            work,
        ).with_options(**options)()
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
        assert wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), 10)


def test_asynchronous_needs_no_thread_to_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        pid = deliver(asynchronous=True)(print)()

    def is_waited_for_by_the_next() -> bool:
        deliver(len)("")
        return not os.path.exists(f"/proc/{pid}")

    assert wait_until(is_waited_for_by_the_next, 10), "a zombie stayed"


def test_asynchronous_outlives_its_caller(script: Any, tmp_path: Path) -> None:
    target = tmp_path / "done"
    result = script(
        f"""
import time
from deliveryboy_ng import deliver

@deliver(asynchronous=True)
def work(path):
    time.sleep(0.5)
    open(path, "w").write("finished")

print(work({str(target)!r}))
"""
    )
    assert result.returncode == 0, result.stderr
    assert not target.exists()
    assert wait_until(lambda: target.exists() and target.read_text() == "finished", 10)


def test_asynchronous_timeout_holds_on_the_far_side(tmp_path: Path) -> None:
    def work() -> None:
        import time

        time.sleep(1000)

    pid = deliver(asynchronous=True, timeout=0.3, grace=0.1)(work)()
    assert wait_until(lambda: not is_alive(pid), 10)


def test_asynchronous_limits_hold_on_the_far_side(tmp_path: Path) -> None:
    target = tmp_path / "limit"

    def work(path: str) -> None:
        with open(path, "w") as file:
            file.write(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))

    deliver(asynchronous=True, limits=Limits(open_files=77))(work)(str(target))
    assert wait_until(lambda: target.exists() and target.read_text() == "77")


def test_asynchronous_failure_to_start_is_an_error() -> None:
    from deliveryboy_ng import InterpreterNotFound, TransportNotFound

    with pytest.raises(InterpreterNotFound):
        deliver(asynchronous=True, executable="/nonexistent/python")(lambda: 1)()
    with pytest.raises(TransportNotFound):
        deliver(asynchronous=True, transport=Command(["/nonexistent/transport"]))(lambda: 1)()


def test_asynchronous_belongs_to_plain_calls() -> None:
    for call in (deliver(asynchronous=True)(shown).run, deliver(asynchronous=True)(shown).submit):
        with pytest.raises(DeliveryOptionError, match="asynchronous"):
            call(1)


def test_every_option_of_a_delivery_boy_is_an_attribute() -> None:
    boy = DeliveryBoy(time.sleep)
    boy.timeout = 0.1
    assert boy.timeout == 0.1 and boy.grace == 1.0
    with pytest.raises(TimeoutError):
        boy(100)
    with pytest.raises(DeliveryOptionError, match="timeout"):
        boy.tiemout = 3
    with pytest.raises(DeliveryOptionError):
        boy.timeout = -1
    with pytest.raises(AttributeError):
        boy.no_such_option


@pytest.mark.parametrize("name, number", [("local", signal.SIGTERM), ("sudo", signal.SIGTERM), ("unshare-pid", signal.SIGKILL)])
def test_asynchronous_call_is_ended_by_its_pid(request: pytest.FixtureRequest, name: str, number: int) -> None:
    def work(mark: str) -> None:
        import subprocess

        os.environ[mark] = "1"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        time.sleep(1000)

    mark = f"DELIVERYBOY_BACKGROUND_{os.getpid()}_{time.monotonic_ns()}"
    pid = deliver(transport=CHAINS[name](request), asynchronous=True, timeout=60)(work)(mark)
    assert isinstance(pid, int) and wait_until(lambda: processes_with(mark))
    os.kill(pid, number)
    assert wait_until(lambda: not processes_with(mark), 5)
