"""Answers that are taken as data (trust=False): what comes back, and that nothing else does.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import json
import linecache
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import conftest
import pytest

from deliveryboy_ng import (
    Bubblewrap,
    CallInterrupted,
    Command,
    Confinement,
    DeliveryError,
    DeliveryExecutor,
    DeliveryOptionError,
    DeliveryPickleError,
    FileSizeLimitExceeded,
    InitializerFailed,
    Limits,
    Local,
    MemoryLimitExceeded,
    RemoteError,
    Ssh,
    Sudo,
    Unshare,
    Verdict,
    deliver,
    untrusted,
    verdicts,
)
from deliveryboy_ng.decoding import Undecodable
from deliveryboy_ng.replies import Data
from deliveryboy_ng.tracebacks import Origin
from deliveryboy_ng.worker import codec

HERE = Origin("host local", False)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Pair(NamedTuple):
    first: int
    second: str


class Plain:
    pass


class Refused(ValueError):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code

    @property
    def shown(self) -> str:
        return "property"


class MadeByNew(Exception):
    def __new__(cls, *args: object) -> MadeByNew:
        raise AssertionError("this must never run here")


class WithDel(Exception):
    def __del__(self) -> None:
        Path("/nonexistent").touch()


class WithSetattr(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError("this must never run here")


class WithStr(Exception):
    def __str__(self) -> str:
        raise AssertionError("this must never run here")


class Meta(type):
    pass


class OfMeta(Exception, metaclass=Meta):
    pass


class Slotted(Exception):
    __slots__ = ("slot",)


def far_with(**options: Any) -> Any:
    return deliver(trust=False, output="capture", **options)


far = far_with()


@pytest.mark.parametrize(
    "transport, trusted",
    [
        (None, True),
        (Local(), True),
        (Sudo(), True),
        ([Local(), Sudo("root")], True),
        (Sudo("nobody"), False),
        ([Sudo(), Sudo("nobody")], False),
        (Ssh("host"), False),
        (Unshare(), False),
        (Bubblewrap(), False),
        (Command(["env"]), False),
        ("sudo", False),
    ],
)
def test_trust_goes_by_rights(transport: Any, trusted: bool) -> None:
    assert deliver(transport=transport)(len).options.trusted is trusted
    for forced in (True, False):
        assert deliver(transport=transport, trust=forced)(len).options.trusted is forced


# --- through every transport ----------------------------------------------------------------------------------------


def test_values_come_back_as_data(chain: Any) -> None:
    def work(value: Any) -> Any:
        return {"given": value, "made": [(1, {2}), b"bytes", 1.5, 2**80, "\ud800"]}

    call = far_with(transport=chain, accepts=[Colour, Point, Pair])(work)
    value = [Colour.RED, Point(1, [Pair(2, "x")])]
    receipt = call.run(value)
    assert receipt.unwrap() == {"given": value, "made": [(1, {2}), b"bytes", 1.5, 2**80, "\ud800"]}
    assert not receipt.trusted and type(receipt.value["given"][1].y[0]) is Pair


def test_exceptions_come_back_as_their_own_class(chain: Any) -> None:
    def work() -> None:
        error = Refused(3, "no")
        error.add_note("a note")
        error.more = {"a": [1]}  # type: ignore[attr-defined]
        try:
            open("/nonexistent/file")
        except OSError as cause:
            raise error from cause

    with pytest.raises(Refused) as caught:
        far_with(transport=chain)(work)()
    error = caught.value
    assert (error.args, error.code, error.more, error.__notes__) == ((3, "no"), 3, {"a": [1]}, ["a note"])  # type: ignore[attr-defined]
    assert isinstance(error.__cause__, FileNotFoundError) and error.__cause__.filename == "/nonexistent/file"
    shown = "".join(traceback.format_exception(error))
    assert "<deliveryboy " in shown and ("raise error from cause" in shown or not conftest.sees(chain, __file__))


def test_what_is_no_data_is_named_with_the_ways_out(chain: Any) -> None:
    receipt = far_with(transport=chain)(lambda: {"rows": [1, (Plain(),)]}).run()
    assert receipt.verdict is Verdict.RETURNED
    with pytest.raises(DeliveryPickleError, match=r"value\['rows'\]\[1\]\[0\] is a .*Plain.*accepts=.*trust=True"):
        receipt.unwrap()


def test_a_class_that_was_defined_anew_since_it_was_accepted_is_told() -> None:
    before = "from enum import Enum\nclass Shade(Enum):\n    DARK = 1\n"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(before + "def work():\n    return [Shade.DARK]", namespace)
    run = far_with(accepts=[namespace["Shade"]])(namespace["work"])
    assert run() == [namespace["Shade"].DARK]
    exec(before, namespace)
    with pytest.raises(DeliveryPickleError, match=r"value\[0\] is a __main__.Shade. accepts=.* older .* anew .*decorate again"):
        run()
    assert run.with_options(accepts=[namespace["Shade"]])() == [namespace["Shade"].DARK]


def test_whom_one_confines_is_not_to_be_trusted() -> None:
    with pytest.raises(DeliveryPickleError, match="accepts=") as caught:
        deliver(confinement=Confinement.strict())(lambda: Plain())()
    assert "trust=True" not in str(caught.value)


def test_data_comes_from_every_version_of_python(other_python: str) -> None:
    value = {"a": [1.5] * 20, "b": (1, {2, 3}), "when": [1, None, True], 5: b"x"}
    assert far_with(executable=other_python)(json.loads)(json.dumps([1, {"a": None}])) == [1, {"a": None}]
    assert far_with(executable=other_python)(dict)(value) == value
    with pytest.raises(json.JSONDecodeError, match="line 1 column 2") as caught:
        far_with(executable=other_python)(json.loads)("{")
    assert caught.value.pos == 1


# --- exceptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeyError("key"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        lambda: UnicodeEncodeError("ascii", "\xff", 0, 1, "bad"),
        lambda: UnicodeTranslateError("\xff", 0, 1, "bad"),
        lambda: ImportError("no", name="module", path="/path"),
        lambda: OSError(2, "no", "one", None, "other"),
        lambda: OSError("text"),
        lambda: TimeoutError(),
        lambda: ExceptionGroup("many", [ValueError(1), Refused(1, "x"), ExceptionGroup("inner", [KeyError("k")])]),
        lambda: subprocess.CalledProcessError(1, ["false"], b"out"),
        lambda: Refused(1, "x"),
    ],
)
def test_exceptions_are_like_those_that_were_raised(make: Callable[[], Exception]) -> None:
    def work() -> None:
        raise make()

    error, original = far(work).run().exception, make()
    assert type(error) is type(original) and str(error) == str(original) and repr(error) == repr(original)


def test_syntax_error_names_no_file_of_the_callers() -> None:
    with pytest.raises(SyntaxError) as caught:
        far(compile)("a b", "/some/file", "exec")
    assert caught.value.filename == "<deliveryboy /some/file>" and str(caught.value.text).strip() == "a b"


@pytest.mark.parametrize(
    "kind, reason",
    [
        (MadeByNew, "__new__ of its own"),
        (WithDel, "__del__ of its own"),
        (WithSetattr, "__setattr__ of its own"),
        (OfMeta, "not known here"),
        (StopIteration, "not made of data"),
        (StopAsyncIteration, "not made of data"),
        (GeneratorExit, "not made of data"),
        (DeliveryError, "not known here"),
        (CallInterrupted, "not known here"),
        (subprocess.Popen, "not made of data"),
        (int, "not made of data"),
    ],
)
def test_classes_that_could_run_something_become_remote_errors(kind: type, reason: str) -> None:
    error, _ = read([record(module=kind.__module__, name=kind.__qualname__, packed=packed("x"))])
    assert isinstance(error, RemoteError) and reason in error.reason


def test_users_str_is_never_called() -> None:
    error, _ = read([record(module=__name__, name="WithStr", packed=packed("x"), text="told over there")])
    assert type(error) is WithStr and error.args == ("x",)
    error, _ = read([record(module="nowhere", name="WithStr", text="told over there")])
    assert isinstance(error, RemoteError) and "told over there" in str(error)


def test_attributes_are_written_into_the_dictionary_alone() -> None:
    attributes = {"shown": 1, "code": 5, "__class__": 1, "__dict__": {}, "__cause__": 1, "slot": 2, "args": (9,)}
    error, _ = read([record(module=__name__, name="Refused", packed=packed(1, "x", attributes=attributes))])
    assert type(error) is Refused and vars(error) == {"code": 5, "slot": 2} and error.shown == "property" and error.args == (1, "x")
    slotted, _ = read([record(module=__name__, name="Slotted", packed=packed(attributes={"slot": 2}))])
    assert type(slotted) is Slotted and vars(slotted) == {} and not hasattr(slotted, "slot")


def test_lookup_neither_imports_nor_asks_a_module() -> None:
    assert "antigravity" not in sys.modules
    error, _ = read([record(module="antigravity", name="Error")])
    assert isinstance(error, RemoteError) and "antigravity" not in sys.modules
    for module, name in (("os.path", "os.error"), ("builtins", "ValueError.mro"), ("", ""), ("sys", "modules"), (__name__, "far")):
        assert isinstance(read([record(module=module, name=name)])[0], RemoteError)


FORGED: dict[str, Callable[[], Any]] = {
    "no list": lambda: 5,
    "no records": lambda: [],
    "too many": lambda: [record()] * 21,
    "no dict": lambda: [5],
    "missing keys": lambda: [{"module": "builtins"}],
    "further keys": lambda: [{**record(), "more": 1}],
    "name that is no text": lambda: [record(name=5)],
    "endless name": lambda: [record(name="a" * 1000)],
    "text that is none": lambda: [record(text=5)],
    "notes that are none": lambda: [record(notes=[5])],
    "limit that is none": lambda: [record(limit=None)],
    "frames that are none": lambda: [record(frames=5)],
    "frame of three": lambda: [record(frames=[("a", 1, "f")])],
    "line that is none": lambda: [record(frames=[("a", "1", "f", "")])],
    "line below zero": lambda: [record(frames=[("a", -1, "f", "")])],
    "line beyond measure": lambda: [record(frames=[("a", 10**9, "f", "")])],
    "endless source": lambda: [record(frames=[("a", 1, "f", "x" * 1000)])],
    "too many frames": lambda: [record(frames=[("a", 1, "f", "")] * 201)],
    "cause that is no place": lambda: [record(cause="0")],
    "suppress that is no truth": lambda: [record(suppress=1)],
    "members that are none": lambda: [record(members={})],
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_records_get_one_documented_error(name: str) -> None:
    with pytest.raises(DeliveryPickleError, match="exception cannot be read"):
        read(FORGED[name]())


@pytest.mark.parametrize(
    "module, name, content",
    [
        ("builtins", "UnicodeDecodeError", ["x"]),
        ("builtins", "UnicodeDecodeError", ["utf-8", b"x", 0, 10**9, "r"]),
        ("builtins", "UnicodeEncodeError", ["utf-8", b"x", 0, 1, "r"]),
        ("builtins", "OSError", [1, 2, 3]),
        ("builtins", "SyntaxError", ["x", ("f", "1", 2, "t")]),
        ("builtins", "SyntaxError", ["x", 5]),
        ("builtins", "ExceptionGroup", ["x"]),
        ("builtins", "ExceptionGroup", []),
    ],
)
def test_arguments_that_a_builtin_would_not_take_make_a_remote_error(module: str, name: str, content: list[Any]) -> None:
    error, _ = read([record(module=module, name=name, packed=packed(*content))])
    assert isinstance(error, RemoteError)


def test_nothing_belongs_to_itself() -> None:
    error, _ = read([record(cause=0, context=1), record(cause=0, context=1, packed=packed("second"))])
    assert error.__cause__ is None and error.__context__ is not None
    assert error.__context__.__cause__ is None and error.__context__.__context__ is None
    assert "second" in "".join(traceback.format_exception(error))


def test_frames_show_nothing_of_the_callers_files() -> None:
    frames = [("/etc/passwd", 1, "f", ""), (__file__, 3, "g", "from over there"), ("/etc/passwd", 900_000, "h", "x")]
    error, _ = read([record(frames=frames)])
    shown = "".join(traceback.format_exception(error))
    assert "root:" not in shown and "from over there" in shown and "annotations" not in shown
    assert all(not name.startswith("<deliveryboy") or len(entry) == 4 for name, entry in linecache.cache.items())
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert all(name.startswith("<deliveryboy host local:") for name in names[-3:])


def test_sources_of_many_answers_are_forgotten_again() -> None:
    for number in range(30):
        read([record(frames=[(f"/file{number}-{place}", 999_999, "f", "x") for place in range(200)])])
    assert sum(name.startswith("<deliveryboy") for name in linecache.cache) < 1500


def test_sources_of_answers_are_bounded_by_their_size_too() -> None:
    for number in range(5):
        read([record(frames=[(f"/large{number}-{place}", place + 1, "f", "\U000e0001" * 500) for place in range(200)])])
    kept = [entry[2] for name, entry in linecache.cache.items() if name.startswith("<deliveryboy") and len(entry) == 4]
    assert sum(len(line) for lines in kept for line in lines.known.values()) <= untrusted._MOST_CHARACTERS


def test_other_threads_may_change_what_linecache_has_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changing(dict[str, Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

        items = keys = values = __iter__

    monkeypatch.setattr(linecache, "cache", Changing())
    error, _ = read([record(frames=[("/some/file", 3, "f", "the line")])])
    assert type(error) is ValueError and "the line" in "".join(traceback.format_exception(error))


def test_what_exceptions_share_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    printable, seen = untrusted._printable, []
    monkeypatch.setattr(untrusted, "_printable", lambda text, allowed="": [seen.append(len(text)), printable(text, allowed)][1])
    notes, frames = ["\x7f" * 65536] * 8, [("\x7f" * 4096, 7, "\x7f" * 500, "\x7f" * 500)] * 5
    error, _ = read([record(notes=notes, frames=frames) for _ in range(20)])
    assert error.__notes__ == ["\\x7f" * 65536] * 8 and sum(size > 1000 for size in seen) < 10


class Spoof(DeliveryError):
    pass


class OwnCause(Exception):
    @property
    def __cause__(self) -> None:  # type: ignore[override]
        raise AssertionError("this must never run here")


class OwnTraceback(Exception):
    def with_traceback(self, traceback: object) -> Any:
        raise AssertionError("this must never run here")


def test_librarys_own_errors_cannot_be_forged_under_another_name() -> None:
    for name in ("Spoof", "DeliveryPickleError", "RemoteError"):
        error, _ = read([record(module=__name__, name=name, packed=packed("x", attributes={"receipt": "forged"}))])
        assert isinstance(error, RemoteError) and error.type_name == f"{__name__}.{name}" and error.receipt != "forged"


def test_nothing_of_the_classes_own_runs_while_an_exception_is_put_together() -> None:
    for name in ("OwnCause", "OwnTraceback"):
        parts = record(module=__name__, name=name, cause=1, frames=[("a", 1, "f", "")])
        assert isinstance(read([parts, record()])[0], RemoteError)


def test_methods_are_not_hidden_by_attributes() -> None:
    error, _ = read([record(packed=packed("x", attributes={"with_traceback": "x", "add_note": 1, "kept": 2}))])
    assert vars(error) == {"kept": 2} and error.with_traceback(None) is error


def test_groups_and_contents_do_not_unfold() -> None:
    group = {"module": "builtins", "name": "ExceptionGroup"}
    records = [record(**group, members=[place + 1] * 20, packed=packed(f"g{place}")) for place in range(19)] + [record()]
    started = time.monotonic()
    "".join(traceback.format_exception(read(records)[0]))
    diamond = [record(**group, members=[1, 2], packed=packed("a")), record(**group, members=[2], packed=packed("b")), record()]
    "".join(traceback.format_exception(read(diamond)[0]))
    text = json.dumps(
        [["list", ["list", ["list", 0], *[["list", ["same", 2 + n], ["same", 2 + n]] for n in range(40)]], {"": {}}, {"": {}}], []]
    )
    deep = len(text).to_bytes(8, "big") + text.encode()
    assert isinstance(read([record(packed=deep)])[0], RemoteError)
    assert time.monotonic() - started < 5


def test_names_and_lines_cannot_pose_as_others() -> None:
    frames = [('a>", line 1, in x\n  File "/real.py', 3, "f\n\x1b[2Jforged", "pass\nValueError: forged")]
    error, _ = read([record(frames=frames, module="nowhere\n", name="a\x1b[2J", text="text\x1b[2J")])
    shown = "".join(traceback.format_exception(error))
    assert "\x1b" not in shown and not any(line.startswith(("ValueError", '  File "/real')) for line in shown.splitlines())


def test_little_room_for_frames_is_one_documented_error() -> None:
    records = [record(frames=[("a", 1, "f", "")] * 200)]

    def below(depth: int) -> object:
        try:
            return below(depth - 1) if depth else read(records)
        except DeliveryPickleError as error:
            return error

    room = sys.getrecursionlimit() - len(traceback.extract_stack())
    for left in (60, 100, 200):
        assert isinstance(below(room - left), (DeliveryPickleError, tuple))


def test_text_of_a_hostile_exception_is_not_asked_for() -> None:
    assert verdicts._named(MemoryError(10**5000), False) == "MemoryError"
    assert verdicts._named(WithStr("x"), False) == "WithStr"
    assert verdicts._named(ValueError([b"x" * 1000] * 1000), False) == "ValueError"
    assert verdicts._named(KeyError("x"), False) == "KeyError: 'x'"


def record(**parts: Any) -> dict[str, Any]:
    return {
        "module": "builtins",
        "name": "ValueError",
        "text": "text",
        "notes": [],
        "frames": [],
        "cause": None,
        "context": None,
        "suppress": False,
        "members": [],
        "packed": packed("x"),
        "limit": "",
    } | parts


def packed(*args: Any, attributes: Any = None, extra: Any = None) -> bytes:
    return encoded([list(args), attributes or {}, extra or {}])


def encoded(value: Any) -> bytes:
    return b"".join(codec.encode(value, lambda kind: None))


def read(records: Any) -> tuple[BaseException, str]:
    return Data({}).exception(encoded(records), HERE)


# --- a call that answers what it likes ------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/deliveryboy-was-here",)


@pytest.mark.parametrize("status", ["R", "X", "L"])
@pytest.mark.parametrize("content", ["pickle", "nesting", "noise", "nothing"])
def test_forged_answer_gets_one_documented_error_and_runs_nothing(status: str, content: str) -> None:
    def work(answer: bytes) -> None:
        os.write(3, answer)
        os._exit(0)

    bomb = pickle.dumps(Bomb())
    payload = {"pickle": bomb, "nesting": (8).to_bytes(8, "big") + b"[" * 10**6, "noise": os.urandom(5000), "nothing": b""}[content]
    started = time.monotonic()
    receipt = far(work).run(status.encode() + len(payload).to_bytes(8, "big") + payload)
    assert isinstance(receipt.exception, DeliveryPickleError) and time.monotonic() - started < 5
    assert isinstance(receipt.exception.real_exception, Undecodable)
    assert not os.path.exists("/tmp/deliveryboy-was-here")


def says(*records: tuple[bytes, bytes]) -> None:
    for status, payload in records:
        os.write(3, status + len(payload).to_bytes(8, "big") + payload)
    os._exit(0)


def test_what_held_a_call_is_not_its_own_word_where_nothing_was_asked_for() -> None:
    assert far(says).run((b"A", b"no network"), (b"U", b"x")).applied == ()


@pytest.mark.parametrize("status", [b"L", b"E", b"V"])
def test_a_call_that_has_begun_cannot_say_that_it_has_not(status: bytes) -> None:
    receipt = far_with(limits=Limits(memory="256M"))(says).run((status, b"no room"))
    assert receipt.verdict is Verdict.RAISED and "claims that it has not run" in str(receipt.exception)


def test_number_of_an_error_is_a_number() -> None:
    answer = encoded([record(packed=packed("x", attributes={"errno": "\x1b[2J"}), limit="file_size")])
    receipt = far_with(limits=Limits(file_size="1M"))(says).run((b"X", answer))
    assert isinstance(receipt.exception, FileSizeLimitExceeded) and receipt.exception.errno == errno.EFBIG


def test_initializer_that_raises_what_cannot_be_shown_has_failed() -> None:
    def fail() -> None:
        raise ValueError(1 << 30_000)

    with DeliveryExecutor(1, trust=False, initializer=fail) as executor, pytest.raises(InitializerFailed, match="ValueError"):
        executor.submit(len, "x").result(30)


def test_limits_and_interrupts_are_told_as_ever() -> None:
    with pytest.raises(MemoryLimitExceeded) as caught:
        far_with(limits=Limits(memory="64M"))(lambda: bytearray(1 << 40))()
    assert isinstance(caught.value.__cause__, MemoryError)

    def interrupted() -> None:
        raise KeyboardInterrupt

    assert isinstance(far(interrupted).run().exception, CallInterrupted)


@pytest.mark.parametrize(
    "given", [{"trust": "yes"}, {"trust": 2}, {"accepts": [Plain]}, {"accepts": [5]}, {"accepts": "Point"}, {"accepts": 5}]
)
def test_nonsense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(DeliveryOptionError, match=next(iter(given))):
        deliver(**given)


def test_accepted_classes_travel_with_a_function_that_delivers_further() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    inner = deliver(trust=False, accepts=[Local])(lambda: Local(3))

    def outer() -> int:
        return inner().x

    assert deliver(outer)() == 3


@dataclasses.dataclass
class Doubled:
    x: int

    def __post_init__(self) -> None:
        self.x *= 2


@dataclasses.dataclass
class Sorted:
    items: list[int]

    def __post_init__(self) -> None:
        self.items = sorted(self.items)


@dataclasses.dataclass
class Copied:
    values: list[float]

    def __post_init__(self) -> None:
        self.values = [value + 0.0 for value in self.values]


def test_what_a_constructor_makes_something_else_of_is_refused() -> None:
    made = deliver(trust=False, accepts=[Copied])(lambda: Copied([1.0, float("nan")]))()
    assert made.values[0] == 1.0 and made.values[1] != made.values[1]
    assert deliver(trust=False, accepts=[Sorted])(lambda: Sorted([2, 1]))() == Sorted([1, 2])
    with pytest.raises(DeliveryPickleError, match="Doubled makes another x"):
        deliver(trust=False, accepts=[Doubled])(lambda: Doubled(1))()


@dataclasses.dataclass
class Cart:
    name: str
    items: list[int] = dataclasses.field(init=False, default_factory=list)
    total: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.name)


def test_fields_that_no_constructor_takes_come_back_as_they_are_or_not_at_all() -> None:
    def work(name: str, *items: int) -> Cart:
        cart = Cart(name)
        cart.items += items
        return cart

    run = deliver(trust=False, accepts=[Cart])(work)
    assert run("four") == Cart("four")
    with pytest.raises(DeliveryPickleError, match="which has a items that its constructor does not take, and does not make"):
        run("four", 5)


def test_answers_of_many_kinds_of_records_take_no_longer_than_they_have_to() -> None:
    rows = [(n, [n]) if n % 2 else (n, [n], 3) for n in range(30_000)]
    started = time.process_time()
    encoded = b"".join(codec.dump_apart(rows)[0])
    assert len(encoded) > 100_000 and time.process_time() - started < 5


def test_what_is_not_accepted_by_name_does_not_come_back() -> None:
    with pytest.raises(DeliveryPickleError, match="Point"):
        far_with(accepts=[Pair])(lambda: Point(1))()


def test_answers_that_are_not_trusted_may_be_smaller() -> None:
    assert deliver(len).options.most_reply == 1 << 30 and far(len).options.most_reply == 1 << 26
    assert far_with(max_reply="2K")(len).options.most_reply == 2048
    assert far(bytes).run(100 << 20).verdict is Verdict.REPLY_LIMIT


def test_data_that_goes_round_comes_back() -> None:
    def tree(size: int) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [{"name": "0", "above": None, "below": []}]
        for number in range(1, size):
            above = nodes[(number - 1) // 3]
            nodes.append({"name": str(number), "above": above, "below": []})
            above["below"].append(nodes[-1])
        return {node["name"]: node for node in nodes}

    index = deliver(trust=False)(tree)(2000)
    assert len(index) == 2000 and index["1999"]["above"] is index["666"] and index["1999"] in index["666"]["below"]


def test_what_is_shared_may_be_large() -> None:
    def shared() -> list[tuple[bytes, int]]:
        kept = bytes(1_000_000)
        return [(kept, number) for number in range(100)]

    found = deliver(trust=False)(shared)()
    assert len(found) == 100 and found[0][0] is found[99][0]
