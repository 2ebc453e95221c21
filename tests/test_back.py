"""Coming back: values, exceptions, output, and every way a call can end badly.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
from pathlib import Path
from typing import Any

import conftest
import psutil
import pytest

from deliveryboy_ng import (
    CallExited,
    Command,
    ConnectionLost,
    DeliveryError,
    RemoteError,
    Verdict,
    deliver,
    output,
)

# --- exceptions -----------------------------------------------------------------------------------------------------


class Plain(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    value: int


@pytest.mark.parametrize("trust", [True, False])
def test_exceptions_that_let_nothing_be_set_and_that_leave_out_their_notes(trust: bool) -> None:
    def frozen() -> None:
        raise Frozen(3)

    def noted() -> None:
        error = json.JSONDecodeError("message", "text", 0)
        error.add_note("a note")
        raise error

    if trust:
        with pytest.raises(Frozen) as caught:
            deliver(frozen)()
        assert caught.value.value == 3
    with pytest.raises(json.JSONDecodeError) as told:
        deliver(trust=trust)(noted)()
    assert told.value.__notes__ == ["a note"]


def test_a_receipt_can_be_shown_whatever_its_exception_says() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    def work() -> None:
        raise Mute

    assert "Mute" in deliver(work).run()._repr_html_()


def test_output_of_nothing_is_not_kept() -> None:
    capture = output.Capture(10)
    for _ in range(100):
        capture.add(b"")
    assert not capture._head and capture.value() == b""


def test_a_call_makes_no_terminal_do_anything() -> None:
    def work() -> None:
        os.write(2, b"\x1b]0;mine\x07\x1b[2Jlast words\n")
        os._exit(3)

    error = deliver(work).run().exception
    assert "\x1b" not in str(error) and "\\x1b[2Jlast words" in str(error)


def without_lines() -> None:
    raise ValueError("x")


def test_exceptions_of_code_without_line_numbers_come_back() -> None:
    function = types.FunctionType(without_lines.__code__.replace(co_linetable=b""), {})
    for trust in (True, False):
        with pytest.raises(ValueError, match="x"):
            deliver(trust=trust)(function)()


def test_exception_returns_with_everything(chain: Any) -> None:
    def work() -> None:
        try:
            try:
                {}["inner"]
            except KeyError as inner:
                error = Plain("outer", 3)
                error.extra = [1, 2]  # type: ignore[attr-defined]
                if hasattr(error, "add_note"):
                    error.add_note("a note")
                raise error from inner
        except Plain:
            raise ValueError("last")  # noqa: B904

    with pytest.raises(ValueError, match="last") as caught:
        deliver(transport=chain)(work)()
    error = caught.value
    middle = error.__context__
    assert type(middle) is Plain and middle.args == ("outer", 3) and middle.extra == [1, 2]
    assert middle.__notes__ == ["a note"]
    assert isinstance(middle.__cause__, KeyError) and middle.__cause__.args == ("inner",)
    text = "".join(traceback.format_exception(error))
    assert f'{__file__}", line' in text
    lines = ('{}["inner"]', "raise error from inner", 'raise ValueError("last")') if conftest.sees(chain, __file__) else ()
    for line in (*lines, "a note", "in work"):
        assert line in text, text


def test_suppressed_context_stays_suppressed() -> None:
    def work() -> None:
        try:
            1 / 0
        except ZeroDivisionError:
            raise Plain from None

    with pytest.raises(Plain) as caught:
        deliver(work)()
    assert caught.value.__suppress_context__ and isinstance(caught.value.__context__, ZeroDivisionError)


def test_exception_group_returns_with_its_members() -> None:
    def work() -> None:
        errors = []
        for key in ("a", "b"):
            try:
                {}[key]
            except KeyError as error:
                errors.append(error)
        raise ExceptionGroup("several", errors)

    with pytest.raises(ExceptionGroup) as caught:
        deliver(work)()
    assert [e.args for e in caught.value.exceptions] == [("a",), ("b",)]
    assert "{}[key]" in "".join(traceback.format_exception(caught.value))


def test_frames_of_the_far_sides_own_files_show_source(chain: Any) -> None:
    def work() -> None:
        import json

        json.loads("{broken")

    with pytest.raises(ValueError) as caught:
        deliver(transport=chain)(work)()
    text = "".join(traceback.format_exception(caught.value))
    assert "json/decoder.py" in text and "in raw_decode" in text
    assert "obj, end = self.scan_once(s, idx)" in text or "raise JSONDecodeError" in text, text


def unpicklable() -> None:
    error = Plain("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def only_there() -> None:
    class OnlyThere(Exception): ...

    raise OnlyThere("made over there")


def two_arguments() -> None:
    raise TwoArguments(1, 2)


def hostile_text() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        def __reduce__(self) -> Any:
            raise RuntimeError("never")

    raise Hostile


@pytest.mark.parametrize(
    "function, name, message",
    [
        (unpicklable, "test_back.Plain", "with a lock"),
        (only_there, "test_back.only_there.<locals>.OnlyThere", "made over there"),
        (hostile_text, "test_back.hostile_text.<locals>.Hostile", "<Hostile.__str__ raised RuntimeError>"),
    ],
)
def test_exception_that_cannot_be_rebuilt_is_a_remote_error(function: Any, name: str, message: str) -> None:
    with pytest.raises(RemoteError) as caught:
        deliver(function)()
    error = caught.value
    assert (error.type_name, error.message) == (name, message)
    assert error.reason and f"in {function.__name__}" in error.traceback_text and name in str(error)
    assert "raise" in error.traceback_text and error.traceback_text.endswith(f"{name}: {message}\n")


def test_cause_that_cannot_be_rebuilt_does_not_take_the_error_with_it() -> None:
    def work() -> None:
        try:
            unpicklable()
        except Plain as error:
            raise Plain("kept") from error

    with pytest.raises(Plain, match="kept") as caught:
        deliver(work)()
    assert isinstance(caught.value.__cause__, RemoteError) and caught.value.__cause__.message == "with a lock"


@pytest.mark.parametrize("trust", [True, False])
def test_exception_whose_init_wants_other_arguments_comes_back_as_it_was(trust: bool) -> None:
    class Coded(Exception):
        def __init__(self, text: str, *, code: int) -> None:
            super().__init__(text)
            self.code = code

    def coded() -> None:
        error = Coded("no such row", code=7)
        error.add_note("noted")
        raise error

    with pytest.raises(TwoArguments) as caught:
        deliver(two_arguments, trust=trust)()
    assert (str(caught.value), caught.value.args) == ("1 and 2", ("1 and 2",)) and caught.value.__traceback__
    if trust:
        with pytest.raises(Coded) as found:
            deliver(coded)()
        assert (found.value.code, found.value.args, found.value.__notes__) == (7, ("no such row",), ["noted"])


def test_cyclic_and_long_chains_end() -> None:
    def work() -> None:
        first, second = Plain("first"), Plain("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    def deep() -> None:
        error = Plain("0")
        for n in range(1, 500):
            following = Plain(str(n))
            following.__cause__ = error
            error = following
        raise error

    with pytest.raises(Plain, match="first") as caught:
        deliver(work)()
    assert caught.value.__cause__ is not None and caught.value.__cause__.__cause__ is caught.value
    with pytest.raises(Plain, match="499"):
        deliver(deep)()


def test_recursion_error_returns_with_bounded_frames() -> None:
    def work() -> None:
        work()

    with pytest.raises(RecursionError) as caught:
        deliver(work)()
    assert len(traceback.extract_tb(caught.value.__traceback__)) < 250


def test_os_errors_keep_their_number() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        deliver(open)("/nonexistent/file")
    assert caught.value.errno == 2 and caught.value.filename == "/nonexistent/file"


# --- endings --------------------------------------------------------------------------------------------------------


def test_transport_killed_during_the_call_is_a_lost_connection() -> None:
    delivery = deliver(transport=Command(["env"]))(lambda: time.sleep(1000)).submit()
    assert delivery.pid and delivery.remote_pid
    conftest.kill(delivery.pid)
    error = delivery.exception(20)
    assert isinstance(error, ConnectionLost) and "killed by SIGKILL" in str(error)
    assert delivery.receipt().verdict is Verdict.LOST
    assert conftest.wait_until(lambda: not conftest.is_alive(delivery.remote_pid), 5)


def test_far_side_that_closes_its_pipes_and_lives_on_is_lost(tmp_path: Path) -> None:
    """A transport of which only the pipes end: the answer comes at once, and it is taken down."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\n"$@" &\nchild=$!\nsleep 0.5\nkill -9 $child\nexec >&- 2>&- <&-\nexec sleep 1000\n')
    wrapper.chmod(0o755)
    started = time.monotonic()
    with pytest.raises((ConnectionLost, DeliveryError)):
        # The shell gives a background command /dev/null as stdin; keep ours.
        wrapper.write_text(
            '#!/bin/sh\nexec 3<&0\n"$@" <&3 &\nchild=$!\nsleep 0.5\nkill -9 $child\nexec >&- 2>&- <&- 3<&-\nexec sleep 1000\n'
        )
        deliver(transport=Command([str(wrapper)]))(lambda: time.sleep(1000))()
    assert time.monotonic() - started < 8


# --- output ---------------------------------------------------------------------------------------------------------


def write_in_every_way() -> None:
    import ctypes
    import subprocess

    print("print")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"buffer \xff\x00\n")
    sys.stdout.buffer.flush()
    os.write(1, b"os.write")
    ctypes.CDLL(None).puts(b" C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["sh", "-c", "echo grandchild; echo to stderr >&2"], check=True)
    print("end", end="", file=sys.stderr)


STDOUT = b"print\nbuffer \xff\x00\nos.write C\ngrandchild\n"
STDERR = b"to stderr\nend"


def test_output_is_captured_byte_for_byte(chain: Any) -> None:
    receipt = deliver(transport=chain)(write_in_every_way).run()
    assert receipt.ok, receipt.exception
    assert (receipt.stdout, receipt.stderr) == (STDOUT, STDERR)
    assert not receipt.truncated


def test_output_reaches_the_callers_descriptors_exactly_once(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    deliver(write_in_every_way)()
    assert capfdbinary.readouterr() == (STDOUT, STDERR)


def test_output_goes_to_whatever_sys_stdout_is(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(lambda: print("seen by pytest"))()
    assert capsys.readouterr().out == "seen by pytest\n"
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(io.StringIO()) as errors:
        deliver(lambda: [print("ä" * 50_000), print("e", file=sys.stderr)])()
    assert text.getvalue() == "ä" * 50_000 + "\n" and errors.getvalue() == "e\n"


def test_output_can_be_handed_over_or_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, bytes]] = []
    assert deliver(output=lambda stream, data: seen.append((stream, data)))(write_in_every_way).run().ok
    assert b"".join(data for stream, data in seen if stream == "stdout") == STDOUT
    assert b"".join(data for stream, data in seen if stream == "stderr") == STDERR
    deliver(output="capture")(write_in_every_way)()
    receipt = deliver(output="discard")(write_in_every_way).run()
    assert (receipt.stdout, receipt.truncated) == (b"", ())
    assert capfd.readouterr() == ("", "")


def test_output_is_live() -> None:
    """The call waits for a file that is only made when its output has been seen."""
    answer = f"/tmp/deliveryboy-live-{os.getpid()}"

    def work() -> str:
        print("first")
        for _ in range(1000):
            if os.path.exists(answer):
                return "seen"
            time.sleep(0.01)
        return "never seen"

    def see(stream: str, data: bytes) -> None:
        assert data == b"first\n"
        Path(answer).touch()

    try:
        assert deliver(output=see)(work)() == "seen"
    finally:
        os.unlink(answer)


def test_failing_receiver_of_output_ends_the_call() -> None:
    mark = f"DELIVERYBOY_SINK_{os.getpid()}"

    def fail(stream: str, data: bytes) -> None:
        raise Plain("cannot take it")

    with pytest.raises(Plain, match="cannot take it"):
        deliver(output=fail, env={mark: "1"})(lambda: [print("x"), time.sleep(1000)])()
    assert conftest.wait_until(lambda: not conftest.processes_with(mark), 5)


def test_long_output_keeps_head_and_tail() -> None:
    receipt = deliver(max_output=1000)(lambda: print("a" * 600 + "b" * 10_000 + "c" * 600)).run()
    assert receipt.stdout == b"a" * 500 + b"c" * 499 + b"\n"
    assert receipt.truncated == ("stdout",)


def test_a_gigabyte_of_output_neither_deadlocks_nor_grows_the_caller() -> None:
    def work() -> None:
        block = b"x" * (1 << 20)
        for _ in range(1024):
            os.write(1, block)

    received = 0

    def count(stream: str, data: bytes) -> None:
        nonlocal received
        received += len(data)

    me = psutil.Process()
    before = me.memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    receipt = deliver(output=count)(work).run()
    assert receipt.ok and received == 1 << 30 and len(receipt.stdout) == 1 << 20
    grown = max(me.memory_info().rss - before, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024)
    assert grown < 64 << 20


def test_grandchild_that_keeps_the_pipes_does_not_delay_the_answer(chain: Any) -> None:
    def work() -> int:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        return 5

    started = time.monotonic()
    receipt = deliver(transport=chain)(work).run()
    assert receipt.value == 5 and time.monotonic() - started < 5


def test_output_of_both_streams_keeps_its_order_within_each() -> None:
    def work() -> None:
        for n in range(500):
            print(n)
            print(-n, file=sys.stderr)

    receipt = deliver(work).run()
    assert receipt.stdout.split() == [b"%d" % n for n in range(500)]
    assert receipt.stderr.split() == [b"%d" % -n for n in range(500)]


# --- the caller stays as it was -------------------------------------------------------------------------------------


def test_caller_is_left_as_it_was(tmp_path: Path) -> None:
    def look() -> tuple[Any, ...]:
        return (
            sorted(os.listdir("/proc/self/fd")),
            threading.active_count(),
            os.getcwd(),
            list(sys.path),
            [signal.getsignal(n) for n in range(1, 32)],
            psutil.Process().children(recursive=True),
        )

    runner = deliver(output="capture", timeout=5)(lambda kind: [kind == "raise" and 1 / 0, kind == "exit" and os._exit(1)])
    runner.run("")
    before = look()
    for n in range(30):
        runner.run(("", "raise", "exit")[n % 3])
    assert look() == before


def test_forked_child_of_the_caller_does_not_keep_the_call_alive(script: Any) -> None:
    """A helper that the caller forks during a call must not hold the wire open after the caller's death."""
    result = script(
        """
import os, signal, sys, time
from deliveryboy_ng import deliver
delivery = deliver(lambda: __import__("time").sleep(1000)).submit()
remote = delivery.remote_pid
if os.fork() == 0:
    os.close(1), os.close(2)
    time.sleep(5)
    os._exit(0)
print(remote, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    remote = int(result.stdout)
    assert conftest.wait_until(lambda: not conftest.is_alive(remote), 4)


def test_interpreter_shutdown_with_a_call_under_way(script: Any) -> None:
    result = script(
        """
from deliveryboy_ng import deliver
delivery = deliver(lambda: __import__("time").sleep(1000)).submit()
print(delivery.remote_pid, flush=True)
"""
    )
    assert result.returncode == 0, result.stderr.decode()
    assert conftest.wait_until(lambda: not conftest.is_alive(int(result.stdout)), 5)


def test_subprocess_module_is_undisturbed() -> None:
    assert deliver(lambda: subprocess.run(["true"], check=True).returncode)() == 0


# --- attacks --------------------------------------------------------------------------------------------------------


def test_child_that_returns_from_the_function_too_does_not_answer(chain: Any) -> None:
    def work() -> str:
        pid = os.fork()
        if pid == 0:
            print("child")
            return "child"
        os.waitpid(pid, 0)
        return "parent"

    receipt = deliver(transport=chain)(work).run()
    assert receipt.value == "parent" and receipt.stdout == b"child\n"


def test_answer_never_goes_into_a_file_of_the_functions(tmp_path: Path) -> None:
    target = tmp_path / "file"

    def work(path: str) -> int:
        os.closerange(3, 100)
        return os.open(path, os.O_CREAT | os.O_WRONLY)

    with pytest.raises(CallExited, match="descriptor 3"):
        deliver(work)(str(target))
    assert target.read_bytes() == b""


def test_stream_that_the_function_replaced_is_flushed_or_ignored() -> None:
    def work() -> int:
        class Broken:
            def flush(self) -> None:
                raise RuntimeError("no")

        sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]
        print("kept", end="")
        sys.stdout = Broken()  # type: ignore[assignment]
        return 1

    receipt = deliver(work).run()
    assert receipt.value == 1 and receipt.stdout == b"kept"


@pytest.mark.parametrize("moment", [0.0, 0.004, 0.008, 0.010, 0.012, 0.014, 0.018])
def test_transport_killed_at_any_moment_ends_in_an_answer_or_one_error(moment: float) -> None:
    def work() -> str:
        time.sleep(0.01)
        return "answer"

    from deliveryboy_ng.delivery import Delivery
    from deliveryboy_ng.journey import Journey
    from deliveryboy_ng.options import Options

    journey = Journey(work, (), {}, Options())
    delivery: Delivery[str] = Delivery.alone(journey)
    session = conftest.wait_until(lambda: journey.session)
    time.sleep(moment)
    conftest.kill(session.pid)
    error = delivery.exception(20)
    assert error is None or isinstance(error, DeliveryError), error
    assert delivery.pid is None or conftest.wait_until(lambda: not conftest.is_alive(delivery.pid or 0))


def test_caller_without_standard_descriptors(script: Any, tmp_path: Path) -> None:
    target = tmp_path / "answer"
    script(
        f"""
import os, sys
os.closerange(0, 3)
from deliveryboy_ng import deliver
value = deliver(lambda: [print("x"), sys.stdin.read(), 5][2])()
fd = os.open({str(target)!r}, os.O_CREAT | os.O_WRONLY)
os.write(fd, str(value).encode())
"""
    )
    assert target.read_text() == "5"


def test_caller_out_of_descriptors_gets_one_error_and_keeps_them() -> None:
    from deliveryboy_ng import DeliveryTransportError

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    runner = deliver(lambda: 1)
    assert runner() == 1
    try:
        for room in range(9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, hard))
            with contextlib.suppress(DeliveryTransportError):
                runner()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == used
    assert runner() == 1


def test_members_of_a_group_keep_their_causes() -> None:
    def work() -> None:
        try:
            try:
                {}["cause"]
            except KeyError as cause:
                raise ValueError("member") from cause
        except ValueError as member:
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [member])])  # noqa: B904

    with pytest.raises(ExceptionGroup) as caught:
        deliver(work)()
    inner = caught.value.exceptions[0]
    assert isinstance(inner, ExceptionGroup)
    assert isinstance(inner.exceptions[0].__cause__, KeyError)
    assert '{}["cause"]' in "".join(traceback.format_exception(caught.value))


def test_unfinished_character_of_the_output_is_shown_all_the_same() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        deliver(lambda: os.write(1, b"a\xc3"))()
    assert text.getvalue() == "a\\xc3"


def test_closed_descriptors_are_named_as_the_reason() -> None:
    with pytest.raises(CallExited, match="descriptor"):
        deliver(lambda: os.closerange(0, 1000))()


def test_exit_function_that_fails_does_not_change_the_ending() -> None:
    def work(leave: bool) -> int:
        import atexit

        atexit.register(lambda: 1 / 0)
        if leave:
            sys.exit(4)
        return 5

    assert deliver(work).run(False).value == 5
    receipt = deliver(work).run(True)
    assert (receipt.verdict, receipt.returncode) == (Verdict.EXITED, 4) and b"ZeroDivisionError" in receipt.stderr


def test_files_that_are_still_open_are_written(tmp_path: Path) -> None:
    def work(folder: Path, ending: str) -> None:
        import csv
        import gzip

        global _open
        _open = [
            open(folder / "text", "w"),
            open(folder / "binary", "wb"),
            gzip.open(folder / "gzip", "wt"),
            open(folder / "csv", "w"),
        ]
        _open[0].write("text")
        _open[1].write(b"binary")
        _open[2].write("gzip")
        csv.writer(_open[3]).writerow([1, 2])
        if ending == "exit":
            raise SystemExit(3)
        if ending == "raise":
            raise KeyError

    for ending in ("return", "exit", "raise"):
        folder = tmp_path / ending
        folder.mkdir()
        deliver(work).run(folder, ending)
        assert (folder / "text").read_text() == "text" and (folder / "binary").read_bytes() == b"binary"
        assert gzip.open(folder / "gzip").read() == b"gzip" and (folder / "csv").read_text().strip() == "1,2"


def test_what_threads_hold_keeps_no_answer_and_no_other_file(tmp_path: Path) -> None:
    def work(path: Path) -> str:
        import select
        import threading
        import weakref

        class Gone:
            pass

        global _kept
        (end, written), (read, full) = os.pipe(), os.pipe()
        reader, writer = os.fdopen(end, "rb"), os.fdopen(full, "wb")
        _kept = [reader, writer, written, read, weakref.proxy(Gone()), path.open("w")]
        _kept[-1].write("text")
        threading.Thread(target=reader.read, daemon=True).start()
        threading.Thread(target=lambda: [writer.write(bytes(1 << 16)) for _ in range(100)], daemon=True).start()
        while len(select.select([read], [full], [], 0)[1]):
            time.sleep(0.01)
        return "answer"

    assert deliver(timeout=60)(work)(tmp_path / "file") == "answer"
    assert (tmp_path / "file").read_text() == "text"


def test_what_c_code_has_written_comes_too() -> None:
    def work() -> None:
        import ctypes

        ctypes.CDLL(None).printf(b"of the C library")

    assert deliver(work).run().stdout == b"of the C library"


def test_exit_with_something_that_cannot_be_said() -> None:
    class Silent:
        def __str__(self) -> str:
            raise ValueError

    def work(reason: Any) -> None:
        sys.exit(reason)

    for reason, said in ((Silent(), b""), (("a", 1), b"('a', 1)\n")):
        receipt = deliver(work).run(reason)
        assert (receipt.verdict, receipt.returncode, receipt.stderr) == (Verdict.EXITED, 1, said)


def test_what_a_handler_raises_while_the_answer_is_packed_is_raised() -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            signal.raise_signal(signal.SIGALRM)
            return int, ()

    def work(error: BaseException) -> Any:
        def handler(number: int, frame: object) -> None:
            raise error

        signal.signal(signal.SIGALRM, handler)
        return Interrupting()

    with pytest.raises(TimeoutError, match="mine"):
        deliver(work)(TimeoutError("mine"))
    assert deliver(work).run(SystemExit(4)).returncode == 4


def test_forked_child_that_raises_ends_as_it_would_anywhere() -> None:
    def work() -> int:
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    receipt = deliver(work).run()
    assert receipt.value == 1 and b"ValueError: in the child" in receipt.stderr
