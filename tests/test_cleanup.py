"""Nothing is left behind: no process on the far side, and no process, descriptor, thread or file on this one.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import (
    Command,
    ConnectionLost,
    DeliveryError,
    DeliveryExecutor,
    DeliveryOptionError,
    HandshakeError,
    Limits,
    ProtectionUnavailable,
    Receipt,
    Ssh,
    Unshare,
    Verdict,
    answer,
    deliver,
    exchange,
    journey,
)
from deliveryboy_ng.worker import frames


def start_family(mark: str) -> None:
    """A child, one in a session of its own, and a double-forked daemon, each with the mark in its environment."""
    env = {**os.environ, "DELIVERYBOY_MARK": mark}
    subprocess.Popen(["sleep", "1000"], env=env)
    subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            os.closerange(0, 1000)
            os.execve("/bin/sleep", ["sleep", "1000"], env)
        os._exit(0)
    os.wait3(0)


def ends(mark: str, how: str) -> Any:
    start_family(mark)
    print("ready", flush=True)
    if how == "return":
        return how
    if how == "raise":
        raise KeyError(how)
    if how == "exit":
        os._exit(1)
    if how == "flood":
        while True:
            os.write(1, b"x" * 65536)
    if how == "hoard":
        kept = []
        while True:
            kept.append(os.memfd_create("x"))
            os.write(kept[-1], bytes(1 << 20))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
    return None


ENDINGS = {
    "return": (Verdict.RETURNED, {}),
    "raise": (Verdict.RAISED, {}),
    "exit": (Verdict.EXITED, {}),
    "timeout": (Verdict.TIMEOUT, {"timeout": 0.7, "grace": 0.1}),
    "flood": (Verdict.OUTPUT_LIMIT, {"max_output": "1M", "overflow": "kill"}),
    "hoard": (Verdict.MEMORY_LIMIT, {"limits": Limits(memory="48M")}),
}


def all_are_gone(mark: str) -> bool:
    return bool(conftest.wait_until(lambda: not conftest.processes_with(mark), 2))


@pytest.mark.parametrize("how", ENDINGS)
def test_processes_of_a_call_end_with_it(chain: Any, how: str) -> None:
    mark = uuid.uuid4().hex
    verdict, options = ENDINGS[how]
    receipt = deliver(transport=chain, **options)(ends).run(mark, how)
    assert receipt.verdict is verdict, receipt.exception
    assert receipt.clean and not conftest.processes_with(mark)


def has_begun(mark: str) -> bool:
    return bool(conftest.wait_until(lambda: len(conftest.processes_with(mark)) >= 3, 20))


def test_cancel_ends_all_processes(chain: Any) -> None:
    mark = uuid.uuid4().hex
    delivery = deliver(transport=chain, output="discard")(ends).submit(mark, "sleep")
    assert has_begun(mark)
    assert delivery.cancel()
    assert all_are_gone(mark)


@pytest.mark.parametrize("name", ["unshare-pid", "bwrap", "ssh", "ssh-sudo-unshare"])
def test_lost_transport_ends_all_processes(request: pytest.FixtureRequest, name: str) -> None:
    mark = uuid.uuid4().hex
    delivery = deliver(transport=conftest.CHAINS[name](request), output="discard")(ends).submit(mark, "sleep")
    assert has_begun(mark)
    conftest.kill(delivery.pid or 0)
    assert isinstance(delivery.exception(20), ConnectionLost)
    assert delivery.receipt().verdict is Verdict.LOST
    assert all_are_gone(mark)


def test_front_end_of_sudo_that_is_killed_leaves_nothing() -> None:
    """What it started goes on, since its pipes are our own; and it ends with the call."""
    mark = uuid.uuid4().hex
    delivery = deliver(transport=conftest.need_sudo(), output="discard", timeout=1, grace=0)(ends).submit(mark, "sleep")
    assert has_begun(mark)
    conftest.kill(delivery.pid or 0)
    assert isinstance(delivery.exception(20), DeliveryError)
    assert all_are_gone(mark)


CALLER = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from deliveryboy_ng import *
from test_cleanup import ends

delivery = deliver(transport={chain!r}, output="discard")(ends).submit({mark!r}, "sleep")
delivery.remote_pid
print("started", flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    ["sys.stdin.read()", "sys.stdin.readline()", "sys.stdin.readline(); os._exit(3)"],
    ids=["killed", "ended", "exited"],
)
def test_processes_end_with_the_caller(chain: Any, end: str) -> None:
    mark = uuid.uuid4().hex
    text = CALLER.format(tests=str(Path(__file__).parent), chain=chain, mark=mark, end=end)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as caller:
        assert caller.stdin is not None and caller.stdout is not None
        assert caller.stdout.readline() == "started\n"
        assert has_begun(mark)
        if end == "sys.stdin.read()":
            conftest.kill(caller.pid)
        else:
            caller.stdin.write("\n")
            caller.stdin.flush()
        caller.wait(20)
    assert all_are_gone(mark)


@pytest.mark.parametrize("name", ["local", "sudo", "ssh", "unshare"])
def test_children_are_kept_on_request(request: pytest.FixtureRequest, name: str) -> None:
    def work(mark: str) -> int:
        env = {**os.environ, "DELIVERYBOY_MARK": mark}
        null = subprocess.DEVNULL
        return subprocess.Popen(["sleep", "1000"], stdout=null, stderr=null, env=env, start_new_session=True).pid

    mark = uuid.uuid4().hex
    receipt = deliver(transport=conftest.CHAINS[name](request), keep_children=True)(work).run(mark)
    try:
        assert receipt.ok and not receipt.clean
        time.sleep(0.1)
        assert conftest.processes_with(mark) == [receipt.value]
    finally:
        conftest.kill(receipt.value)
    timed_out = deliver(transport=conftest.CHAINS[name](request), keep_children=True, timeout=0.5, grace=0.1)(ends).run(
        mark, "sleep"
    )
    assert timed_out.verdict is Verdict.TIMEOUT and timed_out.clean and not conftest.processes_with(mark)


def test_children_cannot_be_kept_in_a_pid_namespace() -> None:
    with pytest.raises(DeliveryOptionError, match="keep_children: a pid namespace ends with the call"):
        deliver(transport=Unshare(pid=True), keep_children=True)
    assert deliver(transport=[Unshare(pid=True), Ssh("host")], keep_children=True)


def test_fork_bomb_ends_at_the_timeout(chain: Any) -> None:
    def work(mark: str) -> None:
        os.environ["DELIVERYBOY_MARK"] = mark
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(7):
            os.fork()
            if os.getpid() != os.getpgrp() and os.getpid() % 2:
                os.setsid()
        os.execve("/bin/sleep", ["sleep", "1000"], os.environ)

    mark = uuid.uuid4().hex
    receipt = deliver(transport=chain, timeout=0.6, grace=0)(work).run(mark)
    assert receipt.verdict is Verdict.TIMEOUT and receipt.clean and receipt.usage.tasks > 50
    assert not conftest.processes_with(mark)


# --- a thousand calls -----------------------------------------------------------------------------------------------


def fates(submit: Callable[..., Any] | None = None) -> dict[str, Callable[[], Receipt]]:
    """Ways for a call to end, each cold.

    :param submit: an executor's, of whose session they shall be; what ends the session is left out then
    """

    def run(**options: Any) -> Callable[[Callable[[], Any]], Callable[[], Receipt]]:
        def wrap(function: Callable[[], Any]) -> Callable[[], Receipt]:
            runner = deliver(**options)(function)
            return runner.run if submit is None else lambda: submit(runner).receipt(20)

        return wrap

    def flood() -> None:
        while True:
            os.write(1, b"x" * 65536)

    def leave_daemon() -> None:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)

    def cancelled() -> Receipt:
        runner = deliver(output="discard")(lambda: time.sleep(1000))
        delivery = runner.submit() if submit is None else submit(runner)
        assert delivery.remote_pid
        delivery.cancel()
        return delivery.receipt(20)

    def refused() -> Receipt:
        with contextlib.suppress(DeliveryError):
            deliver(transport=Command(["false"]))(lambda: None).run()
        return deliver(cwd="/nonexistent")(lambda: None).run()

    ways = {
        "returned": run()(lambda: b"x" * 100_000),
        "returned much": run()(lambda: bytes(2_000_000)),
        "raised": run()(lambda: 1 / 0),
        "exited": run()(lambda: os._exit(3)),
        "killed": run()(lambda: os.kill(os.getpid(), 9)),
        "timed out": run(timeout=0.02, grace=0)(lambda: time.sleep(1000)),
        "flooded": run(max_output=1000, overflow="kill")(flood),
        "left a daemon": run()(leave_daemon),
        "memory": run(limits=Limits(memory="64M"))(lambda: bytearray(1 << 40)),
        "large reply": run(max_reply=1000)(lambda: b"x" * 100_000),
        "cancelled": cancelled,
    }
    if submit is None:
        ways |= {"refused": refused, "lost": run()(lambda: os.kill(os.getppid(), 9))}
    return ways


def test_a_thousand_calls_of_mixed_fates_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    ways = list(fates().values())
    for way in ways:
        way()  # what is imported and cached by a first call stays

    def counts() -> tuple[set[str], int, list[str]]:
        gc.collect()
        return set(os.listdir("/proc/self/fd")), threading.active_count(), os.listdir(tempfile.gettempdir())

    def children() -> list[str]:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

    before, before_children = counts(), children()
    order = random.Random(3)
    with ThreadPoolExecutor(4) as pool:
        verdicts = Counter(pool.map(lambda _: order.choice(ways)().verdict, range(1000)))
    assert conftest.wait_until(lambda: counts() == before, 5), (counts(), before)
    assert conftest.wait_until(lambda: children() == before_children, 5)
    assert set(verdicts) == {
        Verdict.RETURNED,
        Verdict.RAISED,
        Verdict.EXITED,
        Verdict.SIGNALED,
        Verdict.TIMEOUT,
        Verdict.OUTPUT_LIMIT,
        Verdict.MEMORY_LIMIT,
        Verdict.LOST,
        Verdict.CANCELLED,
        Verdict.REPLY_LIMIT,
        Verdict.REFUSED,
    }


def test_calls_of_mixed_fates_of_one_session_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with DeliveryExecutor(4, output="discard") as executor:
        pid = executor.submit(os.getppid).result()
        ways = list(fates(executor.submit).values())
        for way in ways:
            way()

        def children() -> list[str]:
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

        def counts() -> tuple[Any, ...]:
            gc.collect()
            here = set(os.listdir("/proc/self/fd")), threading.active_count(), os.listdir(tempfile.gettempdir())
            return *here, len(os.listdir(f"/proc/{pid}/fd")), len(children())

        def counts_at_last() -> tuple[Any, ...]:
            """Four wait for calls, and none is ending any more."""
            assert conftest.wait_until(lambda: len(children()) == 4 and counts() == (time.sleep(0.1), counts())[1])
            return counts()

        before, order = counts_at_last(), random.Random(4)
        with ThreadPoolExecutor(4) as pool:
            verdicts = Counter(pool.map(lambda _: order.choice(ways)().verdict, range(500)))
        assert counts_at_last() == before
        assert executor.submit(os.getppid).result() == pid, "it was one session throughout"
    assert set(verdicts) == {
        *(Verdict.RETURNED, Verdict.RAISED, Verdict.EXITED, Verdict.SIGNALED, Verdict.TIMEOUT, Verdict.OUTPUT_LIMIT),
        *(Verdict.MEMORY_LIMIT, Verdict.CANCELLED, Verdict.REPLY_LIMIT),
    }


# --- kill something at each step of the protocol --------------------------------------------------------------------

# A transport that passes lines on one by one and kills somebody when a certain one comes by.
PROXY = """
import os, signal, subprocess, sys, threading, time
sys.path.insert(0, {root!r})
from deliveryboy_ng.worker import frames

step, victim, *argv = sys.argv[1:]
nonce = argv[-1].encode()
far = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
names = {{number: name for name, number in vars(frames).items() if name.isupper() and isinstance(number, int)}}
call = 0

def strike(name):
    if name != step:
        return
    if victim == "caller":
        os.kill(os.getppid(), signal.SIGKILL)
    elif victim == "transport":
        os._exit(9)
    elif victim == "supervisor":
        far.kill()
    elif victim == "call" and call:
        os.kill(call, signal.SIGKILL)

def pass_on(source, sink, direction):
    global call
    decoder = frames.Decoder(nonce, direction)
    for line in iter(source.readline, b""):
        try:
            events = decoder.feed(line)
        except frames.FrameError:
            events = []
        for kind, _, _, payload in events:
            if kind == frames.STARTED:
                call = int(payload.split()[0])
            strike("before " + names.get(kind, "?"))
        try:
            sink.write(line)
            sink.flush()
        except OSError:
            break
        for kind, *_ in events:
            strike("after " + names.get(kind, "?"))
    try:
        sink.close()
    except OSError:
        pass

threading.Thread(target=pass_on, args=(sys.stdin.buffer, far.stdin, frames.TO_FAR), daemon=True).start()
pass_on(far.stdout, sys.stdout.buffer, frames.TO_NEAR)
os._exit(far.wait())
"""

STEPS = ["HELLO", "SETUP", "MODULES", "BODY", "START", "STARTED", "STDOUT", "REPLY", "VERDICT"]


@pytest.fixture
def proxy(tmp_path: Path) -> Callable[[str, str], Command]:
    path = tmp_path / "proxy.py"
    path.write_text(PROXY.format(root=str(Path(__file__).parent.parent)))
    return lambda step, victim: Command([sys.executable, str(path), step, victim])


def speak(mark: str) -> bytes:
    start_family(mark)
    print("spoken", flush=True)
    time.sleep(0.05)
    return b"x" * 3000


@pytest.mark.parametrize("moment", [f"{when} {step}" for step in STEPS for when in ("before", "after")])
@pytest.mark.parametrize("victim", ["supervisor", "transport", "call"])
def test_whoever_dies_at_whatever_step_there_is_one_answer(proxy: Any, victim: str, moment: str) -> None:
    mark = uuid.uuid4().hex
    started = time.monotonic()
    # From the interpreter on: what is on its way to become another program when its supervisor dies shall be found, too.
    marked = Command(["env", f"DELIVERYBOY_MARK={mark}"])
    try:
        receipt = deliver(transport=[proxy(moment, victim), marked], timeout=20, connect_timeout=20)(speak).run(mark)
    except DeliveryError as error:
        # It could not begin.
        assert moment.endswith("HELLO") and str(error)
    else:
        assert receipt.verdict in (Verdict.LOST, Verdict.RETURNED, Verdict.SIGNALED), receipt.exception
        assert receipt.ok or isinstance(receipt.exception, DeliveryError)
        if victim == "call" and moment == "after STARTED":
            assert (receipt.verdict, receipt.signal) == (Verdict.SIGNALED, 9)
        if moment == "after VERDICT" or (victim == "supervisor" and moment == "before VERDICT"):
            assert receipt.ok and receipt.value == b"x" * 3000
    assert time.monotonic() - started < 10
    if victim != "supervisor":
        assert all_are_gone(mark)
    else:
        while found := conftest.processes_with(mark):
            for pid in found:
                conftest.kill(pid)


@pytest.mark.parametrize("moment", [f"{when} {step}" for step in STEPS for when in ("before", "after")])
def test_caller_killed_at_whatever_step_leaves_no_process(proxy: Any, moment: str) -> None:
    mark = uuid.uuid4().hex
    text = f"from test_cleanup import *\ndeliver(transport={proxy(moment, 'caller')!r})(speak)({mark!r})\ntime.sleep(1000)"
    path = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
    caller = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": ":".join(path), "LATER": mark})
    assert caller.wait(20) == -9
    assert all_are_gone(mark)
    assert conftest.wait_until(lambda: not conftest.processes_with(f"LATER={mark}"), 2)


def test_calls_are_not_said_to_be_clean_where_orphans_cannot_be_adopted(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable} -ISB\n"
        "import sys\n"
        "sys.modules['_ctypes'] = None\n"
        "code, sys.argv = sys.argv[5], sys.argv[5:]\n"
        "exec(code)\n"
    )
    python.chmod(0o755)
    receipt = deliver(executable=str(python))(lambda: 1).run()
    assert receipt.ok and not receipt.clean
    with pytest.raises(ProtectionUnavailable, match="Landlock"):
        deliver(executable=str(python), transport=_confined())(lambda: 1)()


def _confined() -> Unshare:
    conftest.need_unshare()
    return Unshare()


@pytest.mark.parametrize("end", ["returns", "times out", "takes too much memory"])
def test_named_shared_memory_goes_with_the_call(end: str) -> None:
    def work(name: str, wait: bool) -> None:
        from multiprocessing import shared_memory

        global _kept  # or it would be closed with an error, which plain Python prints as well
        _kept = shared_memory.SharedMemory(name, create=True, size=100 << 20)
        if wait:
            _kept.buf[:] = bytes(100 << 20)
            time.sleep(1000)

    name = f"deliveryboy_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    limits = Limits(memory="64M") if end == "takes too much memory" else Limits()
    receipt = deliver(timeout=1.0 if end == "times out" else 20, grace=0, limits=limits, output="capture")(work).run(
        name, end != "returns"
    )
    assert receipt.verdict in (Verdict.RETURNED, Verdict.TIMEOUT, Verdict.MEMORY_LIMIT) and receipt.clean
    assert not os.path.exists(f"/dev/shm/{name}")


# --- a far side that lies -------------------------------------------------------------------------------------------

# Greets as the worker does and then does what it likes; nobody reads what the caller sends.
LIAR = """
import os, sys
sys.path.insert(0, {root!r})
from deliveryboy_ng.worker import frames
from importlib.util import MAGIC_NUMBER
nonce = sys.argv[-1].encode()
out = sys.stdout.buffer
out.write(b"=" + nonce + b"<hello 1 %x -%s 0 0 -\\n" % (sys.hexversion, MAGIC_NUMBER.hex().encode()))
out.flush()
os.read(0, 1)
encoder = frames.Encoder(nonce, frames.TO_NEAR, "narrow")
def say(kind, payload=b""):
    out.write(encoder.encode(kind, 1, payload))
    out.flush()
try:
    {lie}
    while os.read(0, 65536):
        pass
except OSError:
    pass
"""

LIES = {
    "nonsense start": 'say(frames.STARTED, b"x y")',
    "huge pid": 'say(frames.STARTED, b"9" * 5000)',
    "nonsense verdict": 'say(frames.STARTED, b"1 h"); say(frames.VERDICT, b"\\xff\\x00 = =")',
    "verdict without status": 'say(frames.VERDICT, b"ending=none")',
    "stopped status": 'say(frames.VERDICT, b"status=4991 ending=none")',
    "huge status": 'say(frames.VERDICT, b"status=18446744073709551360 ending=none")',
    "huge numbers": 'say(frames.VERDICT, b"status=0 ending=none maxrss=" + b"9" * 400)',
    "not a number": 'say(frames.VERDICT, b"status=0 ending=none user=nan")',
    "verdict twice": 'say(frames.VERDICT, b"status=0 ending=none"); say(frames.VERDICT, b"status=0 ending=none")',
    "timeout that was not set": 'say(frames.VERDICT, b"status=9 ending=timeout")',
    "limit that was not set": 'say(frames.VERDICT, b"status=9 ending=memory observed=5")',
    "unknown ending": 'say(frames.VERDICT, b"status=9 ending=boredom")',
    "reply cut short": 'say(frames.REPLY, b"R" + (100).to_bytes(8, "big") + b"x"); say(frames.VERDICT, b"status=0 ending=none")',
    "reply too long": 'say(frames.REPLY, b"R" + (1).to_bytes(8, "big") + b"xyz"); say(frames.VERDICT, b"status=0 ending=none")',
    "ten gigabytes announced": 'say(frames.REPLY, b"R" + (10**10).to_bytes(8, "big")); say(frames.VERDICT, b"status=0 ending=none")',
    "endless preface": 'say(frames.REPLY, b"A" + (10**6).to_bytes(8, "big") + b"x" * 10**6); say(frames.VERDICT, b"status=0 ending=none")',
    "unknown status": 'say(frames.REPLY, b"Q" + bytes(8)); say(frames.VERDICT, b"status=0 ending=none")',
    "broken exception": 'say(frames.REPLY, b"X" + (1).to_bytes(8, "big") + b"N"); say(frames.VERDICT, b"status=0 ending=none")',
    "unknown frames": 'say(99, b"x"); say(frames.VERDICT, b"status=0 ending=none")',
}
ENDLESS = {
    "noise": "while True: out.write(b'x' * 65536)",
    "noise in lines": "while True: out.write(b'x' * 1000 + b'\\n')",
    "stdout": "while True: say(frames.STDOUT, b'x' * 60000)",
    "replies": "while True: say(frames.REPLY, b'x' * 60000)",
    "starts": "while True: say(frames.STARTED, b'1 h')",
    "refusals": "while True: say(frames.REFUSED, b'x' * 60000)",
    "drips": "say(frames.STARTED, b'1 h')\n    while True: import time; time.sleep(0.1); say(frames.REPLY, b'R')",
    "nothing": "pass",
}


@pytest.fixture
def liar(tmp_path: Path) -> Callable[[str], Command]:
    def make(lie: str) -> Command:
        path = tmp_path / "liar.py"
        path.write_text(LIAR.format(root=str(Path(__file__).parent.parent), lie=lie))
        return Command([sys.executable, str(path)])

    return make


@pytest.mark.parametrize("name", LIES)
def test_far_side_that_lies_gets_a_documented_error(liar: Any, name: str) -> None:
    receipt = deliver(transport=liar(LIES[name]), max_reply="1M")(lambda: 1).run()
    assert not receipt.ok and isinstance(receipt.exception, DeliveryError) and str(receipt.exception)


def test_nonsense_of_more_than_may_come_is_ended_as_any_answer_is(liar: Any) -> None:
    nonsense = 'say(frames.REPLY, b"C" + (2).to_bytes(8, "big") + b"b5P" + (7).to_bytes(8, "big"))'
    lie = f"say(frames.STARTED, b'1 h'); {nonsense}\n    for _ in range(30): say(frames.REPLY, b'z' * 60000)\n"
    receipt = deliver(transport=liar(f"{lie}    say(frames.VERDICT, b'status=0 ending=none')"), max_reply="1M")(lambda: 1).run()
    assert receipt.verdict is Verdict.REPLY_LIMIT and "announced" not in str(receipt.exception)
    assert f"{receipt.usage.received} bytes of its answer had come" in str(receipt.exception)


def test_what_a_far_side_says_when_it_refuses_is_printable(liar: Any) -> None:
    receipt = deliver(transport=liar("say(frames.REFUSED, b'no room\\x1b[2J\\n')"))(lambda: 1).run()
    assert receipt.verdict is Verdict.REFUSED and "\x1b" not in str(receipt.exception) and "no room\\x1b" in str(receipt.exception)


@pytest.mark.parametrize("version", [3 << 1700, 3 << 32_000, -0x30B00F0], ids=["long", "longer", "negative"])
def test_a_far_side_of_no_version_gets_a_documented_error(liar: Any, version: int) -> None:
    chain = liar("pass")
    program = Path(chain.argv[1])
    program.write_text(program.read_text().replace("(sys.hexversion,", f"({version:#x},"))
    with pytest.raises(HandshakeError, match="makes no sense"):
        deliver(transport=chain)(lambda: 1).run()


def test_drops_of_an_answer_are_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(exchange.time, "monotonic", lambda: now)
    ending = exchange.Ending(answer.Reply(1 << 40, False))
    ending.start(b"1 h", 1.0)
    ending.reply.feed(b"R" + (1 << 39).to_bytes(8, "big"))
    while now < ending.deadline:
        now += 0.03
        ending.hear(frames.REPLY, 1400)
        assert now < 2000
    assert now > 1060, "what is on its way over a slow line comes"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_STALLED", 0.5)
    monkeypatch.setattr(exchange, "_SLOWEST", 1 << 22)


@pytest.mark.parametrize("name", ENDLESS)
def test_far_side_that_never_ends_is_given_up_and_held_in_bounds(liar: Any, impatient: None, name: str) -> None:
    import psutil

    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    delivery = deliver(transport=liar(ENDLESS[name]), timeout=0.2, grace=0.1, connect_timeout=1, max_reply="1M", output="capture")(
        lambda: 1
    ).submit()
    assert isinstance(_error_of(delivery), DeliveryError) and time.monotonic() - started < 30
    assert psutil.Process().memory_info().rss - before < 60 << 20


def test_far_side_that_asks_for_sockets_again_and_again_is_given_up(liar: Any) -> None:
    with pytest.raises(ConnectionLost, match="asks for sockets again and again"):
        deliver(transport=liar("while True: say(frames.BULK)"))(lambda: 1)()


def test_far_side_that_stops_reading_is_given_up(liar: Any, impatient: None) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionLost):
        deliver(transport=liar("import time; time.sleep(60)"), connect_timeout=4)(lambda data: 1)(bytes(1 << 20))
    assert time.monotonic() - started < 30


THROTTLE = """
import os, sys, time
while data := os.read(0, 1024):
    if os.path.exists(sys.argv[2]):
        time.sleep(len(data) / int(sys.argv[1]))
    os.write(1, data)
"""


def test_a_slow_line_has_the_time_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_STALLED", 0.3)
    slow, throttle = tmp_path / "slow", tmp_path / "throttle.py"
    throttle.write_text(THROTTLE)
    pipe = f'{sys.executable} {throttle} 40000 {slow} | "$@"'
    with DeliveryExecutor(1, transport=Command(["sh", "-c", pipe, "sh"]), connect_timeout=0.7) as executor:
        while not isinstance(executor.submit(len, b"").exception(30), type(None)):
            pass  # the interpreter itself has no more time than that
        slow.touch()
        assert executor.submit(len, os.urandom(60_000)).result(60) == 60_000


def test_cancelling_a_call_behind_much_that_is_sent_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, throttle = tmp_path / "slow", tmp_path / "throttle.py"
    throttle.write_text(THROTTLE)
    pipe = f'{sys.executable} {throttle} 40000 {slow} | "$@"'
    with DeliveryExecutor(2, transport=Command(["sh", "-c", pipe, "sh"])) as executor:
        assert executor.submit(len, b"").result(30) == 0
        held = executor.submit(time.sleep, 100)
        assert held.remote_pid
        monkeypatch.setattr(exchange, "_STALLED", 0.5)
        slow.touch()
        sent = executor.submit(len, os.urandom(60_000))
        assert sent.running() and held.cancel()
        assert sent.result(60) == 60_000 and held.receipt(60).verdict is Verdict.CANCELLED


def test_frames_of_a_call_that_is_no_more_are_dropped() -> None:
    with DeliveryExecutor(1) as executor:
        assert executor.submit(len, b"").result(30) == 0
        session = executor._dispatcher._session
        assert session is not None
        for kind in (frames.PIECES, frames.BODY, frames.START):
            session._wire.send(session._encoder.pieces(kind, 77, b"x"))
        assert executor.submit(len, b"x").result(30) == 1 and executor._dispatcher._session is session


def test_what_a_supervisor_dies_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    make = journey.Journey._setup
    monkeypatch.setattr(journey.Journey, "_setup", lambda *given: {**make(*given), "timeout": "soon"})
    with pytest.raises(ConnectionLost, match="could not convert string to float: 'soon'"):
        deliver(time.sleep)(20)


def _error_of(delivery: Any) -> BaseException | None:
    try:
        return delivery.receipt(40).exception  # type: ignore[no-any-return]
    except DeliveryError as error:
        return error
