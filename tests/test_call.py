"""The three ways of use, and what a call is like on the far side."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import enum
import functools
import importlib
import inspect
import itertools
import os
import pickle
import queue
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAINS, OTHERS, is_alive, kill, missing, processes_with, wait_until

import deliveryboy_ng
from deliveryboy_ng import (
    CallCancelled,
    Command,
    Confinement,
    Delivery,
    DeliveryBoy,
    DeliveryBoyDecorator,
    DeliveryExecutor,
    DeliveryOptionError,
    Limits,
    Local,
    ProtectionUnavailable,
    Receipt,
    Ssh,
    Sudo,
    Transport,
    Verdict,
    deliver,
)
from deliveryboy_ng.core import _check_arguments


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


def test_kinds_of_text_in_options_arrive_as_text() -> None:
    word = enum.StrEnum("Word", {"CUT": "cut", "CAPTURE": "capture", "MUCH": "1G"})  # type: ignore[misc]
    limits = Limits(memory=word.MUCH)  # type: ignore[attr-defined]
    options = deliver(overflow=word.CUT, output=word.CAPTURE, limits=limits)(add.local).options  # type: ignore[attr-defined]
    assert {type(text) for text in (options.overflow, options.output, options.limits.memory)} == {str}


def test_with_options_makes_a_new_runner() -> None:
    quick = add.with_options(timeout=5)
    assert quick is not add and quick.options.timeout == 5 and add.options.timeout is None
    assert quick(1) == 6
    with pytest.raises(AttributeError):
        quick.options.timeout = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    "given, hint",
    [
        ({"time_out": 3}, "timeout"),
        ({"transprot": "sudo"}, "transport"),
        ({"zzz": 1}, "the options are"),
        ({"memory": "5M"}, r"limits=Limits\(memory="),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(given: dict[str, Any], hint: str) -> None:
    for make in (
        lambda: deliver(**given),
        lambda: DeliveryBoyDecorator(**given),
        lambda: DeliveryBoy(len, **given),
        lambda: add.with_options(**given),
    ):
        with pytest.raises(DeliveryOptionError, match=hint):
            make()


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": -1},
        {"timeout": "3"},
        {"timeout": True},
        {"input": "text"},
        {"env": {"A=B": "1"}},
        {"env": {"A": 1}},
        {"output": "nowhere"},
        {"max_output": "many"},
        {"limits": {"cpu": 1}},
        {"modules": "numpy"},
        {"transport": 3},
        {"transport": []},
        {"transport": ""},
        {"transport_params": ["-u"], "transport": Local()},
        {"executable": ""},
        {"umask": 0o7777},
        {"asynchronous": "yes"},
        {"umask": True},
        {"connect_timeout": 0},
        {"modules": ["os.path"]},
        {"cwd": 3},
        {"cwd": "/a\0b"},
        {"cwd": "/\ud800"},
        {"env": {"A": "\ud800"}},
        {"timeout": 1e12},
        {"timeout": float("nan")},
        {"transport": "env", "transport_params": "-u HOME"},
        {"transport": "env", "transport_params": 3},
        {"async": True, "asynchronous": False},
        {"cwd": "~/data"},
        {"trust": 0.0},
        {"asynchronous": True, "output": print},
        {"asynchronous": True, "overflow": "kill", "max_output": 10},
    ],
)
def test_nonsense_is_refused_before_anything_runs(given: dict[str, Any]) -> None:
    with pytest.raises(DeliveryOptionError):
        deliver(**given)


def test_a_right_call_is_known_by_the_functions_own_code() -> None:
    """Not by what it wraps, by what somebody says of its parameters, or by what it took before."""

    def plus(a: int, b: int) -> int:
        return a + b

    @functools.wraps(plus)
    def plus_one(a: int) -> int:
        return plus(a, 1)

    assert deliver(plus_one)(2) == 3  # type: ignore[call-arg]
    claiming = lambda a: a
    claiming.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    assert deliver(functools.partial(claiming))(5) == 5
    changed = deliver(plus)
    with pytest.raises(TypeError, match=r"plus\(\): missing a required argument: 'b'"):
        changed(2)  # type: ignore[call-arg]
    plus.__defaults__ = (4,)
    assert changed(2) == 6  # type: ignore[call-arg]


@pytest.mark.parametrize("parameters", ["", "a", "a=1", "a, /, b=2", "*a", "**k", "a, *b, c", "a=1, *, c, d=2", "a, /, **k"])
def test_wrong_calls_are_refused_and_no_others(parameters: str) -> None:
    function = eval(f"lambda {parameters}: None")
    for number, names in itertools.product(range(3), ["", "a", "b", "c", "ab", "cd", "x"]):
        outcomes = []
        for call in (function, lambda *args, **kwargs: _check_arguments(function, args, kwargs)):
            try:
                outcomes.append(call(*range(number), **dict.fromkeys(names, 1)))
            except TypeError:
                outcomes.append(TypeError)
        assert outcomes[0] == outcomes[1], (number, names)


def test_a_working_directory_that_was_removed_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert deliver(cwd="/")(os.getcwd)() == "/"
    with pytest.raises(DeliveryOptionError, match="absolute"):
        Confinement(read=["x"])


def test_wrong_arguments_are_a_type_error_here() -> None:
    with pytest.raises(TypeError, match="add"):
        add()  # type: ignore[call-arg]
    with pytest.raises(DeliveryOptionError):
        deliver(3)  # type: ignore[call-overload]


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


# --- the runner of deliveryboy 0.1.0 --------------------------------------------------------------------------------


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


def test_what_options_say_of_the_environment_is_not_changed_in_place() -> None:
    boy = DeliveryBoy(shown, env={"A": "1"})
    for env in (boy.env, deliver(shown).options.env):
        with pytest.raises(TypeError):
            env["A"] = "2"
    options = deliver(env={"A": "1"})(shown).options
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options


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


class Mode(enum.StrEnum):
    FAST = "fast"


class Size(enum.IntEnum):
    MUCH = 1 << 30


class Text(str):
    __slots__ = ()


class Small(int):
    __slots__ = ()


class Seconds(float):
    __slots__ = ()


@pytest.mark.parametrize(
    "options",
    [
        {"env": {Text("MODE"): Mode.FAST}},
        {"timeout": Seconds(20), "grace": Seconds(1), "connect_timeout": Seconds(9)},
        {"timeout": Small(20), "max_output": Size.MUCH, "max_reply": Size.MUCH},
        {"cwd": Text("/")},
        {"limits": Limits(memory=Size.MUCH, cpu=Seconds(20), open_files=Small(100), core=Size.MUCH)},
        {
            "limits": Limits(
                rlimits={resource.RLIMIT_CORE: (Size.MUCH, Size.MUCH)}, cpu_affinity=[Small(min(os.sched_getaffinity(0)))]
            )
        },
    ],
    ids=lambda options: ", ".join(options),
)
def test_options_may_be_of_kinds_of_their_own(options: dict[str, Any]) -> None:
    assert deliver(**options)(lambda: os.environ.get("MODE", "none"))() in ("fast", "none")
    with DeliveryExecutor(1, **options) as executor:
        assert [executor.submit(abs, -n).result(20) for n in range(2)] == [0, 1]


def test_one_runner_from_many_threads_never_mixes_results() -> None:
    @deliver(output="capture")
    def echo(n: int) -> tuple[int, bytes]:
        print("out", n)
        return n, b"x" * n

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(echo.run, range(32)))
    assert [r.value for r in receipts] == [(n, b"x" * n) for n in range(32)]
    assert [r.stdout for r in receipts] == [b"out %d\n" % n for n in range(32)]


# --- asynchronous ---------------------------------------------------------------------------------------------------


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
        import resource

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
        import resource

        return [
            resource.getrlimit(r) for r in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)
        ]

    limits = Limits(cpu=6.5, open_files=66, core=0, address_space="512M")
    receipt = deliver(transport=chain, limits=limits)(look).run()
    assert receipt.value == [(8, 9), (66, 66), (0, 0), (512 << 20, 528 << 20)]
    assert set(receipt.applied) >= {"cpu=6.5", "open_files=66", "core=0", f"address_space={512 << 20}"}


def test_limit_that_cannot_be_raised_is_refused_before_the_function_runs(tmp_path: Path) -> None:
    import resource

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


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------

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


def test_caller_killed_takes_the_call_with_it(chain: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    import pickle
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


@pytest.mark.parametrize(
    "keywords",
    [{"open_files": 2**70}, {"cpu": -1}, {"data": "9e99T"}, {"stack": 1.5}, {"rlimits": {999: (1, 1)}}, {"rlimits": {1: 5}}],
)
def test_limits_refuse_nonsense(keywords: dict[str, Any]) -> None:
    with pytest.raises(DeliveryOptionError):
        Limits(**keywords)


@pytest.mark.parametrize("timeout", [0, 0.0001, 0.001, 0.002])
def test_shortest_timeouts_are_timeouts(timeout: float) -> None:
    def work() -> None:
        time.sleep(1000)

    for _ in range(20):
        assert deliver(timeout=timeout)(work).run().verdict is Verdict.TIMEOUT


def test_asynchronous_belongs_to_plain_calls() -> None:
    for call in (add.with_options(asynchronous=True).run, add.with_options(asynchronous=True).submit):
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


def test_far_timeouts_are_no_overflow() -> None:
    assert deliver(timeout=10**9, connect_timeout=10**9)(lambda: 1)() == 1


def test_input_of_wider_items_arrives() -> None:
    import array

    numbers = array.array("i", range(1000))
    assert deliver(input=memoryview(numbers))(lambda: len(sys.stdin.buffer.read()))() == 4000


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


def test_options_that_are_none_are_the_defaults() -> None:
    assert deliver(limits=None, env=None, input=None, modules=None)(add.local)(1) == 6


def test_unknown_limit_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeliveryOptionError, match="Limits has no memroy; did you mean memory"):
        Limits(memroy="5M")  # type: ignore[call-arg]


def test_unknown_option_of_a_transport_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeliveryOptionError, match="Ssh has no prot; did you mean port"):
        Ssh("host", prot=22)  # type: ignore[call-arg]

    class Own(Transport):
        def __init__(self, *, anything: int) -> None:
            self.anything = anything

    assert Own(anything=1).anything == 1


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
