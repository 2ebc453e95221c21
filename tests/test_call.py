"""The three ways of use, and what a call is like on the far side."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import importlib
import os
import queue
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import OTHERS, missing, processes_with, wait_until

import deliveryboy_ng
from deliveryboy_ng import (
    CallCancelled,
    Command,
    Confinement,
    Delivery,
    DeliveryBoyDecorator,
    DeliveryOptionError,
    Limits,
    Local,
    ProtectionUnavailable,
    Receipt,
    Sudo,
    Verdict,
    deliver,
)


@deliver
def add(a: int, b: int = 2, *, c: int = 3) -> int:
    """Adds."""
    return a + b + c


@deliver(timeout=30)
def pid() -> int:
    return os.getpid()


class Account:
    kind = "checking"

    def __init__(self, balance: int) -> None:
        self.balance = balance

    @deliver
    def plus(self, amount: int) -> int:
        return self.balance + amount

    @deliver
    @classmethod
    def name_of(cls, suffix: str) -> str:
        return cls.kind + suffix

    @deliver
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    @deliver
    def inner_classmethod(cls, x: int) -> tuple[str, int]:
        return cls.kind, x

    @staticmethod
    @deliver
    def inner_staticmethod(x: int) -> int:
        return 3 * x


def test_decorator_bare_runs_in_another_process() -> None:
    assert add(1) == 6
    assert add(1, 5, c=10) == 16
    assert pid() != os.getpid()


def test_decorator_keeps_name_and_docstring() -> None:
    assert add.__name__ == "add"
    assert add.__doc__ == "Adds."
    assert add.__wrapped__(1) == 6


def test_every_transport_runs_the_function(chain: Any) -> None:
    runner = add.with_options(transport=chain)
    assert runner(1, c=4) == 7
    receipt = runner.run(1)
    assert receipt.ok and receipt.value == 6 and receipt.verdict is Verdict.RETURNED
    assert receipt.returncode == 0 and receipt.remote_pid and receipt.pid


def test_sudo_runs_as_the_other_user() -> None:
    import conftest

    assert deliver(transport=conftest.need_sudo())(lambda: os.getuid())() == 65534


@pytest.mark.parametrize(
    "keywords", [{"transport": "sudo", "transport_params": ["-n", "-u", "nobody"]}, {"transport": "sudo -n -u nobody"}]
)
def test_transport_as_a_string_works(keywords: dict[str, Any]) -> None:
    import conftest

    conftest.need_sudo()
    assert DeliveryBoyDecorator(**keywords)(lambda: os.getuid())() == 65534


def test_methods_run_with_their_instance_or_class() -> None:
    account = Account(40)
    assert account.plus(2) == 42
    assert Account.plus(account, 3) == 43
    assert account.name_of("!") == Account.name_of("!") == "checking!"
    assert Account.double(4) == account.double(4) == 8
    assert account.plus.local(2) == 42
    assert account.plus.run(2).value == 42
    assert account.plus.submit(5).result() == 45
    assert Account.name_of.run("?").value == "checking?"
    assert Account.inner_classmethod(1) == ("checking", 1)
    assert Account.inner_staticmethod(2) == 6


def test_local_stays_in_this_process() -> None:
    assert pid.local() == os.getpid()


def test_run_returns_a_receipt_and_raises_nothing() -> None:
    receipt = deliver(lambda: 1 // 0).run()
    assert isinstance(receipt, Receipt)
    assert receipt.verdict is Verdict.RAISED and not receipt.ok
    assert isinstance(receipt.exception, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        receipt.unwrap()


def test_receipt_becomes_json() -> None:
    import json

    receipt = add.run(1)
    record = json.loads(json.dumps(receipt.to_dict()))
    assert len(json.dumps(record)) < 2000 and receipt.args[0] == sys.executable
    assert len({receipt, dataclasses.replace(receipt, value=[1]), dataclasses.replace(receipt)}) == 2
    assert record["verdict"] == "RETURNED" and record["value"] == "6" and record["usage"]["wall"] >= 0


def test_submit_gives_a_future_with_pids() -> None:
    delivery = pid.submit()
    assert isinstance(delivery, Delivery) and isinstance(delivery, concurrent.futures.Future)
    assert delivery.result(30) == delivery.remote_pid
    assert delivery.pid != delivery.remote_pid
    assert delivery.receipt().value == delivery.remote_pid


def test_submit_works_with_wait_and_as_completed_and_await() -> None:
    deliveries = [add.submit(n) for n in range(4)]
    done, pending = concurrent.futures.wait(deliveries, 30)
    assert not pending and sorted(d.result() for d in done) == [5, 6, 7, 8]
    assert {d.result() for d in concurrent.futures.as_completed([add.submit(1), add.submit(2)], 30)} == {6, 7}

    async def main() -> int:
        return await add.submit(10)

    assert asyncio.run(main()) == 15


def test_receipt_is_there_when_the_callbacks_run() -> None:
    told: queue.Queue[Any] = queue.Queue()
    add.submit(1).add_done_callback(lambda delivery: told.put(delivery.receipt(20).value))
    assert told.get(timeout=20) == 6


def test_submit_exception_is_the_original() -> None:
    delivery = deliver(lambda: {}["missing"]).submit()
    assert isinstance(delivery.exception(30), KeyError)
    assert delivery.receipt().verdict is Verdict.RAISED


def test_cancel_kills_a_running_call(chain: Any, tmp_path: Path) -> None:
    mark = f"DELIVERYBOY_CANCEL_{os.getpid()}_{time.monotonic_ns()}"

    def sleep() -> None:
        import subprocess
        import time

        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        time.sleep(1000)

    delivery = (
        deliver(
            sleep,
        )
        .with_options(transport=chain, env={mark: "1"})
        .submit()
    )
    assert delivery.remote_pid
    assert wait_until(lambda: processes_with(mark))
    assert delivery.cancel()
    assert delivery.cancelled() and delivery.done()
    with pytest.raises(concurrent.futures.CancelledError):
        delivery.result()
    receipt = delivery.receipt(20)
    assert receipt.verdict is Verdict.CANCELLED and receipt.clean and isinstance(receipt.exception, CallCancelled)
    assert not processes_with(mark)


def test_cancel_before_the_greeting_ends_the_transport() -> None:
    delivery = deliver(transport=Command(["sh", "-c", 'sleep 1000; exec "$@"', "sh"]), connect_timeout=100)(lambda: 1).submit()
    assert delivery.cancel()
    with pytest.raises(CallCancelled, match="before it began"):
        delivery.receipt(20)
    assert wait_until(lambda: not any(t.name.startswith("deliveryboy") for t in threading.enumerate()), 10)


class Task:
    colour = "red"

    def run(self) -> str:
        return "here"

    def __call__(self) -> int:
        return os.getpid()


def test_attributes_of_a_function_hide_nothing_of_its_runner() -> None:
    receipt = deliver(Task).run()
    assert isinstance(receipt.value, Task) and receipt.remote_pid != os.getpid()
    task = Task()
    vars(task).update(local=1, options=2, map=3, _bound=4, shape="round")
    runner = deliver(task)
    assert runner() != os.getpid() == runner.local()
    assert (deliver(Task).colour, runner.shape) == ("red", "round")  # type: ignore[attr-defined]


def test_attributes_that_a_delivered_function_was_given_are_there_when_it_looks() -> None:
    def look(depth: int) -> Any:
        return (me.limit, me.near is me) if depth == 0 else me(depth - 1)

    me: Any = deliver(look)
    me.limit, me.near = 5, me
    assert me(1) == (5, True)


def test_a_transport_that_cannot_be_imported_there_is_named_by_the_call_that_wants_it() -> None:
    class Own(Local):
        pass

    inner = deliver(transport=Own())(lambda: 1)
    me: Any = deliver(transport=Own())(lambda depth: me(depth - 1) if depth else "here")
    assert me(1) == "here"
    with pytest.raises(RuntimeError, match="its transport .*Own stands in no module"):
        deliver(lambda: inner())()


def test_a_working_directory_that_was_removed_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert deliver(cwd="/")(os.getcwd)() == "/"
    with pytest.raises(DeliveryOptionError, match="absolute"):
        Confinement(read=["x"])


CALLER = """
import asyncio, dataclasses, sys
from deliveryboy_ng import CallDied, Confinement, DeliveryExecutor, deliver

@dataclasses.dataclass
class Point:
    x: int

@deliver
def move(point, by):
    print("moved")
    return Point(point.x + by), sys.version_info[:2]

@deliver
def count(n):
    yield from range(n)

class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)

@deliver
def fail():
    raise Odd(1, 2)

print(move(Point(1), 2)[0], move(Point(1), 2)[1] == sys.version_info[:2])
print(list(count(3)), [point.x for point, _ in move.map([Point(n) for n in range(3)], range(3))])
try:
    fail()
except Odd as error:
    print("odd", error.args)
print(asyncio.run(move.aio(Point(5), 1))[0], deliver(lambda: bytes(1 << 20))() == bytes(1 << 20))
print(deliver(trust=False, accepts=[Point])(lambda: [Point(3)] * 2)())
with DeliveryExecutor(2, initializer=lambda: None) as executor:
    futures = [executor.submit(exec, text) for text in ("pass", "import os; os.kill(os.getpid(), 11)")]
    print([type(future.exception()).__name__ for future in futures])
"""


@pytest.mark.parametrize("version", sorted(version for version in OTHERS if version >= (3, 11)) or [None], ids=str)
def test_the_caller_may_be_a_later_python(script: Any, tmp_path: Path, version: tuple[int, int] | None) -> None:
    if version is None:
        missing("a Python later than this one is not installed")
    # What is installed for this version, less what is compiled for it.
    for name in ("cloudpickle", "tblib"):
        (tmp_path / name).symlink_to(Path(importlib.import_module(name).__file__ or "").parent)
    path = f"{Path(deliveryboy_ng.__file__).parent.parent}:{tmp_path}"
    result = script(CALLER, python=OTHERS[version], env={"PYTHONPATH": path})
    assert result.stdout.decode().splitlines() == [
        "moved", "moved", "Point(x=3) True", "moved", "moved", "moved", "[0, 1, 2] [0, 2, 4]", "odd (1, 2)", "moved",
        "Point(x=6) True", "[Point(x=3), Point(x=3)]", "['NoneType', 'CallDied']",
    ], result.stderr.decode()  # fmt: skip


def test_what_is_bound_does_not_bind_again() -> None:
    class A:
        name = "A"

        @deliver
        def who(self) -> str:
            return self.name

        def plain(self) -> str:
            return self.name

    class B:
        name = "B"
        go = A().who
        plain = A().plain

    assert B().go() == B().plain() == "A"


def test_one_runner_from_many_threads_never_mixes_results() -> None:
    @deliver(output="capture")
    def echo(n: int) -> tuple[int, bytes]:
        print("out", n)
        return n, b"x" * n

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(echo.run, range(32)))
    assert [r.value for r in receipts] == [(n, b"x" * n) for n in range(32)]
    assert [r.stdout for r in receipts] == [b"out %d\n" % n for n in range(32)]


# --- the far side's surroundings ------------------------------------------------------------------------------------


def test_input_is_the_calls_stdin_and_otherwise_empty(chain: Any) -> None:
    def read() -> bytes:
        import sys

        return sys.stdin.buffer.read()

    data = bytes(range(256)) * 400
    runner = deliver(transport=chain)(read)
    assert runner() == b""
    assert runner.with_options(input=data)() == data


def test_signals_are_as_at_the_start_of_a_program(script: Any) -> None:
    result = script(
        """
import queue
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
from deliveryboy_ng import deliver

@deliver
def look():
    import signal
    return (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.pthread_sigmask(signal.SIG_BLOCK, ()))

hup, usr1, term, own_int, mask = look()
assert (hup, usr1, term) == (signal.SIG_DFL,) * 3, (hup, usr1, term)
assert own_int and not mask, (own_int, mask)
"""
    )
    assert result.returncode == 0, result.stderr.decode()


def test_umask_environment_and_cwd(chain: Any) -> None:
    def look() -> tuple[int, str, str | None, str]:
        import os

        mask = os.umask(0)
        return mask, os.environ["DELIVERYBOY_A"], os.environ.get("LOGNAME"), os.getcwd()

    old = os.umask(0o027)
    try:
        runner = deliver(transport=chain, env={"DELIVERYBOY_A": "ä", "LOGNAME": None}, cwd="/usr")(look)
        assert runner() == (0o027, "ä", None, "/usr")
        assert runner.with_options(umask=0o077)()[0] == 0o077
    finally:
        os.umask(old)


def test_locale_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    import conftest

    def look() -> tuple[str | None, str | None, str, float]:
        import locale
        import os

        return os.environ.get("LC_NUMERIC"), os.environ.get("LANGUAGE"), locale.setlocale(locale.LC_CTYPE), 0.5

    monkeypatch.setenv("LC_NUMERIC", "C.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de:en")
    for transport in (Local(), conftest.need_sudo()):
        assert deliver(transport=transport)(look)()[:2] == ("C.UTF-8", "de:en")
    monkeypatch.delenv("LANGUAGE")
    assert deliver(look)()[1] is None


def test_cwd_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ProtectionUnavailable, match="cannot be entered"):
        deliver(cwd="/nonexistent")(lambda: 1)()


def test_random_state_is_the_calls_own() -> None:
    import random

    random.seed(1)
    numbers = {deliver(lambda: __import__("random").random())() for _ in range(3)}
    assert len(numbers) == 3


def test_limits_are_set_in_the_call_process(chain: Any) -> None:
    def look() -> list[tuple[int, int]]:
        return [
            resource.getrlimit(r) for r in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)
        ]

    limits = Limits(cpu=6.5, open_files=66, core=0, address_space="512M")
    receipt = deliver(transport=chain, limits=limits)(look).run()
    assert receipt.value == [(8, 9), (66, 66), (0, 0), (512 << 20, 528 << 20)]
    assert set(receipt.applied) >= {"cpu=6.5", "open_files=66", "core=0", f"address_space={512 << 20}"}


def test_limit_that_cannot_be_raised_is_refused_before_the_function_runs(tmp_path: Path) -> None:
    import conftest

    trace = tmp_path / "ran"
    limits = Limits(rlimits={resource.RLIMIT_NOFILE: (1 << 30, 1 << 30)})
    with pytest.raises(ProtectionUnavailable, match="RLIMIT_NOFILE"):
        deliver(transport=conftest.need_sudo(), limits=limits)(lambda path: open(path, "w"))(str(trace))
    assert not trace.exists()


def test_function_sees_nothing_of_the_worker() -> None:
    def look() -> tuple[Any, ...]:
        import os
        import sys

        main = sys.modules["__main__"]
        return (
            sys.argv,
            sorted(name for name in vars(main) if not name.startswith("__")),
            sorted(os.listdir("/proc/self/fd")),
            os.getsid(0) == os.getpid(),
        )

    argv, names, fds, leader = deliver(look)()
    assert argv == [""] and names == [] and leader
    assert fds == ["0", "1", "2", "3", "4"], "0-2, the reply, and the listing's own"


def test_coroutine_functions_run_to_completion() -> None:
    @deliver
    async def work(n: int) -> int:
        await asyncio.sleep(0.01)
        return n + 1

    assert work(1) == 2


def test_exit_functions_run_and_their_output_arrives() -> None:
    def work() -> int:
        import atexit

        atexit.register(print, "bye")
        return 1

    receipt = deliver(work).run()
    assert receipt.value == 1 and receipt.stdout == b"bye\n"


def test_partial_and_callable_instances() -> None:
    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

        def method(self, x: int) -> int:
            return x * self.n

    assert deliver(Adder(3))(4) == 7
    assert deliver(Adder(3).method)(4) == 12
    assert deliver(functools.partial(lambda a, b, c: (a, b, c), 1, c=3))(2) == (1, 2, 3)


def test_sudo_is_the_default_for_root_only_by_name() -> None:
    assert Sudo().wrap(["x"]) == ["sudo", "-n", "-u", "root", "--", "x"]


def test_slow_receiver_does_not_make_a_timeout_of_an_answer() -> None:
    slow = deliver(timeout=0.2, grace=0.1, output=lambda stream, data: time.sleep(6))(lambda: [print("x"), 5][1])
    assert slow.run().value == 5


def test_delivered_class_and_static_methods_keep_their_transport_over_there() -> None:
    import conftest

    class Who:
        @deliver(transport=conftest.need_sudo())
        @classmethod
        def by_class(cls) -> tuple[str, int]:
            return cls.__name__, os.getuid()

        @deliver(transport=conftest.need_sudo())
        @staticmethod
        def by_static() -> int:
            return os.getuid()

        @deliver
        def all(self) -> Any:
            return self.by_class(), self.by_static(), Who.by_class(), self.by_class.local()

    assert Who().all() == (("Who", 65534), 65534, ("Who", 65534), ("Who", os.getuid()))


def test_relative_import_in_a_program_run_as_a_module(tmp_path: Path) -> None:
    import subprocess

    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sibling.py").write_text("VALUE = 7\n")
    (package / "prog.py").write_text(
        "from deliveryboy_ng import deliver\n@deliver\ndef f():\n    from . import sibling\n    from .sibling import VALUE\n"
        "    return sibling.VALUE + VALUE\nprint(f())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    result = subprocess.run([sys.executable, "-m", "pkg.prog"], cwd=tmp_path, capture_output=True, env=env, check=False)
    assert result.stdout == b"14\n", result.stderr.decode()


def test_process_whose_main_thread_has_ended_is_killed_too() -> None:
    import ctypes

    mark = f"DELIVERYBOY_THREAD_{os.getpid()}"

    def work() -> None:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            threading.Thread(target=time.sleep, args=(1000,)).start()
            ctypes.CDLL(None).syscall(60, 0)  # exit(2) of this thread alone, on x86-64
        time.sleep(0.2)

    started = time.monotonic()
    receipt = deliver(env={mark: "1"})(work).run()
    assert receipt.ok and receipt.clean and time.monotonic() - started < 5
