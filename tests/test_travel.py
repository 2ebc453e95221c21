"""What travels: functions of every kind, the caller's own modules, arguments of any size.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import dataclasses
import enum
import functools
import hashlib
import io
import os
import pickletools
import shutil
import subprocess
import sys
import threading
import types
import xml.etree.ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import conftest
import pytest

import deliveryboy_ng
from deliveryboy_ng import (
    DeliveryPackingError,
    DeliveryPickleError,
    Sudo,
    VersionMismatchError,
    deliver,
    packing,
    worker,
)

FACTOR = 3
LOCK = threading.Lock()


def helper(x: int) -> int:
    return x * FACTOR


def uses_helper(x: int) -> int:
    return helper(x) + 1


def uses_lock() -> bool:
    return LOCK.locked()


def keyword_defaults(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
    return a, b, rest, c, more


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int

    def moved(self, by: int) -> Point:
        return Point(self.x + by, self.y + by)


class Pair(NamedTuple):
    left: int
    right: str


class Problem(Exception):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text, code)
        self.code = code


# --- functions ------------------------------------------------------------------------------------------------------


def test_functions_of_every_kind(chain: Any) -> None:
    captured = [1, 2]

    def nested(x: int) -> list[int]:
        return [*captured, x]

    def recursive(n: int) -> int:
        return 1 if n < 2 else n * recursive(n - 1)

    send = functools.partial(deliver, **{"transport": chain, "accepts": [Point]})
    assert send()(uses_helper)(2) == 7
    assert send()(nested)(3) == [1, 2, 3]
    assert send()(lambda x: x + FACTOR)(1) == 4
    assert send()(recursive)(5) == 120
    assert send()(keyword_defaults)(1, 5, 6, c=7, d=8) == (1, 5, (6,), 7, {"d": 8})
    assert send()(keyword_defaults)(1) == (1, 2, (), 3, {})
    assert send()(functools.partial(keyword_defaults, c=9))(1)[3] == 9
    assert send()(Point(1, 2).moved)(1) == Point(2, 3)
    assert send()(len)("abc") == 3


def test_mutual_recursion_and_cycles() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    loop: list[Any] = []
    loop.append(loop)
    assert deliver(even)(10)
    assert deliver(lambda cycle: cycle[0] is cycle)(loop)


def test_delivered_function_that_calls_itself_runs_in_place(chain: Any) -> None:
    @deliver(transport=chain)
    def factorial(n: int) -> tuple[int, set[int]]:
        if n < 2:
            return 1, {os.getpid()}
        value, pids = factorial(n - 1)
        return value * n, pids | {os.getpid()}

    value, pids = factorial(5)
    assert value == 120 and len(pids) == 1


def test_delivered_function_that_calls_another_delivers_it_or_says_why() -> None:
    @deliver
    def inner() -> int:
        return os.getpid()

    @deliver
    def outer() -> tuple[int, int, int]:
        return os.getpid(), inner(), inner.local()

    mine, others, local = outer()
    assert mine == local != others
    with pytest.raises(RuntimeError, match="not installed"):
        deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(lambda: inner())()


def test_another_version_on_the_far_side_is_as_good_as_none(tmp_path: Path) -> None:
    package = shutil.copytree(Path(deliveryboy_ng.__file__).parent, tmp_path / "deliveryboy_ng")
    init, frames = package / "__init__.py", package / "worker" / "frames.py"
    for file in (init, frames):
        file.write_text(file.read_text().replace(f'"{deliveryboy_ng.__version__}"', '"99.9"'))
    (tmp_path / "decorates.py").write_text(
        "from deliveryboy_ng import Limits, deliver\n"
        "from deliveryboy_ng.exceptions import CallTimeout\n\n"
        "@deliver(limits=Limits(memory='1G'))\n"
        "def square(x):\n    return x * x\n"
    )

    @deliver
    def inner() -> int:
        return 1

    def work(path: str) -> Any:
        sys.path.insert(0, path)
        import decorates  # type: ignore[import-not-found]

        import deliveryboy_ng

        errors = []
        for call in (inner, lambda: decorates.square(2), lambda: deliveryboy_ng.DeliveryExecutor(1).submit(len, "")):
            try:
                errors.append(call())
            except RuntimeError as error:
                errors.append(str(error))
        return deliveryboy_ng.__file__, decorates.square.local(3), errors

    file, square, errors = deliver(work)(str(tmp_path))
    assert Path(file) == init and square == 9
    version = deliveryboy_ng.__version__
    assert f"where deliveryboy_ng {version} is not installed, but 99.9; install it there" in errors[0]
    assert "is not installed" in errors[1] and "another version" in errors[2]


def test_the_worker_is_of_the_librarys_version() -> None:
    assert deliveryboy_ng.__version__ == worker.frames.VERSION


def test_state_of_globals_is_the_current_one() -> None:
    global FACTOR
    FACTOR = 10
    try:
        assert deliver(uses_helper)(1) == 11
    finally:
        FACTOR = 3


def counter() -> Any:
    count = 0

    def increase() -> None:
        nonlocal count
        count += 1

    return increase, lambda: count


def test_functions_that_share_a_variable_still_do() -> None:
    increase, count = counter()

    def work() -> int:
        increase()
        increase()
        return count()

    assert deliver(work)() == 2
    assert deliver(lambda change, read: (change(), change(), read())[-1])(increase, count) == 2


class Shade(enum.Enum):
    RED = 1
    CRIMSON = 1


class Permission(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass, self.radius = mass, radius


def test_enumerations_keep_their_names_and_what_members_have() -> None:
    def work() -> Any:
        return Shade["CRIMSON"].name, list(Shade.__members__), Permission(3).name, Planet.EARTH.mass, Planet.EARTH

    assert deliver(work)() == ("RED", ["RED", "CRIMSON"], "BOTH", 5.9, Planet.EARTH)


@dataclasses.dataclass
class Base:
    first: int
    more: list[int] = dataclasses.field(default_factory=list)


def decorated(function: Any) -> Any:
    return function


def test_classes_are_made_over_there_as_here() -> None:
    def work() -> Any:
        @dataclasses.dataclass
        class Derived(Base):
            third = FACTOR

            @decorated
            def factor(self) -> int:
                return FACTOR

        try:
            Derived()  # type: ignore[call-arg]
        except TypeError:
            made = Derived(1)
            return dataclasses.fields(Base)[0].default is dataclasses.MISSING, made.factor(), made.third
        return "a field without a default had one"

    assert deliver(work)() == (True, FACTOR, FACTOR)


class Fielded:
    __slots__ = ("value",)
    _fields = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


def test_slots_and_submodules_and_files() -> None:
    assert deliver(lambda: Fielded(3))().value == 3
    texts = ["<a/>", "<b/>"]
    assert deliver(lambda: [xml.etree.ElementTree.fromstring(text).tag for text in texts])() == ["a", "b"]


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_files_travel_as_what_is_in_them_and_where_they_are(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "text"
    path.write_bytes("äöüabc\r\ndef\r\n".encode())
    with open(path, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:  # type: ignore[call-overload]
        file.read(3)
        there = deliver(lambda given: given.read())(file)
        assert there == file.read() and len(there) > 6


INITIALIZED = """
import dataclasses
from deliveryboy_ng import DeliveryExecutor

HANDLER = KEPT = None

def helper_a():
    return "a"

def helper_b():
    return "b"

@dataclasses.dataclass
class Record:
    x: int

def keep():
    global HANDLER, KEPT
    HANDLER, KEPT = helper_a, Record(5)

def both():
    return helper_b, HANDLER

def kept():
    return KEPT

with DeliveryExecutor(1, initializer=keep) as executor:
    print(executor.submit(both).result() == (helper_b, helper_a), executor.submit(kept).result() == Record(5))
with DeliveryExecutor(1, initializer=keep, trust=False, accepts=[Record]) as executor:
    print(executor.submit(kept).result() == Record(5))
"""


def test_what_an_initializer_keeps_comes_back_as_what_it_is(script: Any) -> None:
    result = script(INITIALIZED)
    assert result.stdout == b"True True\nTrue\n", result.stderr.decode()


def test_functions_of_a_program_and_a_repl(script: Any, tmp_path: Path) -> None:
    program = """
import enum, dataclasses, sys
from deliveryboy_ng import deliver, DeliveryPickleError

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    def double(self):
        return Point(self.x * 2)

class Problem(Exception):
    pass

BASE = 5

@deliver
def work(point, colour):
    import pickle
    assert pickle.loads(pickle.dumps(point)) == point, "classes can be found by name over there too"
    return point.double(), colour, Colour.RED, BASE, work

point, colour, red, base, again = work(Point(4), Colour.RED)
assert point == Point(8) and type(point) is Point and isinstance(point, Point)
assert colour is Colour.RED and red is Colour.RED and base == 5

@deliver
def fail():
    raise Problem("oh", 1)

try:
    fail()
except Problem as error:
    assert error.args == ("oh", 1)
print("fine")
"""
    program = program.replace(", BASE, work\n", ", BASE, None\n")
    result = script(program)
    assert result.stdout == b"fine\n", result.stderr.decode()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    typed = b"""from deliveryboy_ng import deliver
base = 5
@deliver
def work(x):
    return x + base

work(2)
"""
    repl = subprocess.run([sys.executable, "-i", "-q"], input=typed, capture_output=True, env=env, check=False)
    assert repl.stdout == b"7\n", repl.stderr.decode()


def test_function_of_a_notebook_cell_travels() -> None:
    # What a notebook kernel does with a cell: compile it under a made-up name and run it in __main__.
    result = subprocess.run(
        [sys.executable, "-c", """
import sys, linecache
cell = 'from deliveryboy_ng import deliver\\n@deliver\\ndef f(x):\\n    return 1 / x\\n'
linecache.cache["<ipython-input-1>"] = (len(cell), None, cell.splitlines(True), "<ipython-input-1>")
exec(compile(cell, "<ipython-input-1>", "exec"), globals())
print(f(4))
import traceback
try:
    f(0)
except ZeroDivisionError:
    text = traceback.format_exc()
assert '"<ipython-input-1>", line 4' in text and "return 1 / x" in text, text
"""],
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )  # fmt: skip
    assert result.stdout == b"0.25\n", result.stderr.decode()


# --- what comes back of the caller's own classes --------------------------------------------------------------------


def test_instances_come_back_as_the_callers_own_classes(chain: Any) -> None:
    class Nested:
        def __init__(self) -> None:
            self.me = self

    def work(point: Point, colour: Colour, pair: Pair) -> tuple[Any, ...]:
        assert point.moved(0) == point and colour is Colour.RED
        return point.moved(1), colour, Colour.BLUE, Pair(1, "a"), Nested(), Point, helper

    point, red, blue, pair, nested, cls, function = deliver(transport=chain, trust=True)(work)(
        Point(1, 2), Colour.RED, Pair(3, "b")
    )
    assert point == Point(2, 3) and type(point) is Point
    assert red is Colour.RED and blue is Colour.BLUE
    assert pair == Pair(1, "a") and type(pair) is Pair
    assert type(nested) is Nested and nested.me is nested
    assert cls is Point and function is helper


def test_exceptions_of_the_callers_own_classes_are_caught_as_such(chain: Any) -> None:
    def work() -> None:
        raise Problem("oh", 7)

    with pytest.raises(Problem) as caught:
        deliver(transport=chain)(work)()
    assert caught.value.code == 7 and caught.value.args == ("oh", 7)


def test_what_was_made_on_the_far_side_is_refused_by_name() -> None:
    def make_function() -> Any:
        def made_there() -> None: ...

        return made_there

    def make_class() -> Any:
        class MadeThere: ...

        return MadeThere()

    def make_lambda() -> Any:
        return [lambda: 1]

    for function, name in ((make_function, "made_there"), (make_class, "MadeThere"), (make_lambda, "lambda")):
        with pytest.raises(DeliveryPickleError, match=name):
            deliver(function)()


# --- what cannot travel ---------------------------------------------------------------------------------------------


class Holder:
    def __init__(self, what: Any) -> None:
        self.deep = {"list": [1, what]}


@pytest.mark.parametrize(
    "args, kwargs, path",
    [
        ((1, {"key": [threading.Lock()]}), {}, "argument 2['key'][0]"),
        ((), {"x": Holder(threading.Lock())}, "argument 'x'.deep['list'][1]"),
        ((functools.partial(print, threading.Lock()),), {}, "argument 1 argument 1"),
    ],
)
def test_refusal_names_the_path_to_the_offender(args: Any, kwargs: Any, path: str) -> None:
    @deliver(transport=conftest.Local())
    def work(*args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(DeliveryPackingError) as caught:
        work(*args, **kwargs)
    assert caught.value.path == path
    assert path in str(caught.value) and "lock" in str(caught.value)


def test_refusal_names_globals_and_closures() -> None:
    with pytest.raises(DeliveryPackingError) as caught:
        deliver(uses_lock)()
    assert caught.value.path == "function 'uses_lock' global 'LOCK'"
    lock = threading.Lock()
    with pytest.raises(DeliveryPackingError, match="closure variable 'lock'"):
        deliver(lambda: lock)()
    with pytest.raises(DeliveryPackingError, match="argument 1"):
        deliver(print)(x for x in [1])
    library = ctypes.CDLL(None)
    with pytest.raises(
        DeliveryPackingError, match="'library' cannot travel: .*a library that this process has loaded.*Make it inside"
    ):
        deliver(lambda: library.getpid())()


def look(view: memoryview) -> tuple[Any, ...]:
    return type(view), view.format, view.shape, view.readonly, view.tolist()


def test_views_of_memory_travel_as_such() -> None:
    table = memoryview(bytearray(range(12))).cast("B", (3, 4))
    for view in (
        memoryview(b"abc"),
        memoryview(b""),
        memoryview(b"\1").cast("?"),
        memoryview(array.array("d", [1.5, 2.5])),
        memoryview(b"abcdef")[::2],
        table,
    ):
        assert deliver(look)(view) == look(view)
    with pytest.raises(DeliveryPackingError, match="memoryview of format"):
        deliver(look)(memoryview(ctypes.c_uint16.__ctype_be__(1)))


# --- sizes and secrecy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local", "sudo", "ssh"])
def test_fifty_megabytes_arrive_each_way(name: str, request: pytest.FixtureRequest) -> None:
    data = os.urandom(1 << 20) * 50

    def work(data: bytes) -> tuple[str, bytes]:
        import hashlib

        return hashlib.sha256(data).hexdigest(), data[::-1]

    digest, back = deliver(transport=conftest.CHAINS[name](request))(work)(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert back == data[::-1]


def test_nothing_of_a_call_shows_in_any_command_line(chain: Any) -> None:
    secret = "SECRET" + os.urandom(8).hex()

    def work(secret: str, caller: int) -> tuple[list[str], list[str]]:
        import os

        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        text = file.read()
                except OSError:
                    continue
                if secret.encode() in text:
                    found.append(repr(text[:200]))
        above, pid = [], os.getpid()
        while pid not in (0, 1, caller):
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/cmdline") as file:
                above.append(file.read())
        return found, above[: -(pid == caller) or None]

    found, above = deliver(transport=chain)(work)(secret, os.getpid())
    assert not found and above and not [line for line in above if "deliveryboy_ng" in line]
    delivery = deliver(transport=chain)(lambda secret: __import__("time").sleep(1000)).submit(secret)
    assert delivery.remote_pid
    lines = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                lines.append((place / "cmdline").read_bytes())
    delivery.cancel()
    assert not [line for line in lines if secret.encode() in line]


# --- other versions -------------------------------------------------------------------------------------------------


def test_other_versions_take_functions_that_live_in_modules(project: Any, other_python: str) -> None:
    project(
        {
            "lib/__init__.py": "",
            "lib/tools.py": "import sys\ndef twice(x):\n    return 2 * x\nclass Thing:\n    def __init__(self, n):\n        self.n = n\n"
            "    def __eq__(self, other):\n        return self.n == other.n\n",
            "entry.py": "import sys\nfrom lib import tools\nfrom deliveryboy_ng import deliver, Sudo, Limits, DeliveryError\n"
            "@deliver(limits=Limits(core=0))\ndef f(x, thing):\n"
            "    return tools.twice(x), sys.version_info[:2], tools.Thing(thing.n + 1)\n"
            "class C:\n    k = 3\n    @deliver\n    def m(self, x):\n        return self.k + x\n"
            "class Oops(DeliveryError):\n    pass\n"
            "@deliver\ndef fact(n):\n    return 1 if n < 2 else n * fact(n - 1)\n",
        }
    )
    import entry  # type: ignore[import-not-found]
    from lib import tools  # type: ignore[import-not-found]

    value, version, thing = entry.f.with_options(executable=other_python)(21, tools.Thing(1))
    assert value == 42 and version != sys.version_info[:2] and thing == tools.Thing(2)
    assert entry.C.m.with_options(executable=other_python)(entry.C(), 4) == 7
    assert entry.fact.with_options(executable=other_python)(5) == 120


def test_other_versions_refuse_what_travels_by_value(other_python: str, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for function in (lambda path: open(path, "w"), functools.partial(lambda path: open(path, "w"))):
        with pytest.raises(VersionMismatchError) as caught:
            deliver(executable=other_python)(function)(str(trace))
        assert "3.11" in str(caught.value) or sys.version.split()[0] in str(caught.value)
        assert f"far side runs Python {Path(other_python).name.removeprefix('python')}" in str(caught.value)
    assert not trace.exists()


def test_other_versions_bring_back_output_and_exceptions(project: Any, other_python: str) -> None:
    import traceback

    project({"old.py": "import sys\ndef f(x):\n    print('out')\n    print('err', file=sys.stderr)\n    return {}[x]\n"})
    import old  # type: ignore[import-not-found]

    receipt = deliver(old.f).with_options(executable=other_python).run("key")
    assert isinstance(receipt.exception, KeyError) and receipt.exception.args == ("key",)
    assert (receipt.stdout, receipt.stderr) == (b"out\n", b"err\n")
    assert "return {}[x]" in "".join(traceback.format_exception(receipt.exception))


def test_paths_travel_between_versions(other_python: str) -> None:
    path = Path("a") / "b"
    for trust in (True, False):
        over_there = deliver(executable=other_python, trust=trust)
        assert over_there(Path)("a", "b") == path and over_there(str)(path) == "a/b"


def test_objects_of_this_library_need_it_over_there() -> None:
    from deliveryboy_ng import Limits

    assert deliver(lambda limits: limits.cpu)(Limits(cpu=3)) == 3
    with pytest.raises(DeliveryPackingError, match="not installed on the far side"):
        deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(lambda limits: limits.cpu)(Limits(cpu=3))


# --- cloudpickle's private names ------------------------------------------------------------------------------------


def everything() -> list[Any]:
    import abc
    import collections
    import typing

    T = typing.TypeVar("T")

    class Base(abc.ABC):
        __slots__ = ("a",)

        @abc.abstractmethod
        def f(self) -> int: ...

        @property
        def p(self) -> int:
            return 1

        @staticmethod
        def s() -> int:
            return 2

        @classmethod
        def c(cls) -> type:
            return cls

    class Derived(Base):
        def f(self) -> int:
            return super().p + 1

    class Kind(enum.IntFlag):
        A = 1
        B = 2

    @dataclasses.dataclass
    class Data(typing.Generic[T]):
        x: int = 1
        y: list[int] = dataclasses.field(default_factory=list)
        z: typing.ClassVar[int] = 5

    Base.register(dict)
    dynamic = types.ModuleType("made_up")
    dynamic.value = 3  # type: ignore[attr-defined]
    cell = 5

    def closure() -> int:
        return cell

    return [
        Derived, Kind, Data, dynamic, closure, T, {"a": 1}.keys(), {"a": 1}.values(), {"a": 1}.items(),
        collections.OrderedDict(a=1).keys(), types.MappingProxyType({"a": 1}), type(None), type(...), types.CellType,
        types.SimpleNamespace(f=lambda: 1), closure.__code__, closure.__closure__, memoryview(b"abc"), sys.modules[__name__].Holder.__init__,
        Base.__dict__["p"], Base.__dict__["s"], Base.__dict__["c"], __import__("logging").getLogger("x"), Pair, Colour.RED,
    ]  # fmt: skip


def test_no_global_of_cloudpickle_is_left_in_a_box() -> None:
    box = packing.pack(lambda *args: None, tuple(everything()), {})
    names = [argument for operation, argument, _ in pickletools.genops(box.body) if isinstance(argument, str)]
    assert not [name for name in names if name.startswith("cloudpickle")]


def test_everything_that_cloudpickle_takes_is_rebuilt_without_it() -> None:
    def work(derived: Any, kind: Any, data: Any, dynamic: Any, closure: Any, typevar: Any, *rest: Any) -> tuple[Any, ...]:
        import sys

        d = derived()
        assert isinstance({}, derived.__mro__[1]) and not isinstance([], derived.__mro__[1])
        made = data()
        assert made.y == [] and data.z == 5 and made == data(1, [])
        assert list(rest[0]) == ["a"] and list(rest[1]) == [1] and list(rest[2]) == [("a", 1)] and list(rest[3]) == ["a"]
        assert rest[4]["a"] == 1 and rest[5] is type(None)
        return (
            d.f(),
            derived.s(),
            derived.c() is derived,
            kind(3) == kind.A | kind.B,
            dynamic.value,
            closure(),
            typevar.__name__,
            "cloudpickle" in sys.modules,
        )

    assert deliver(work)(*everything()) == (2, 2, True, True, 3, 5, "T", False)


def test_unknown_global_of_cloudpickle_makes_it_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle.cloudpickle as cp

    monkeypatch.delitem(packing.TABLE, cp._make_dict_keys)
    runner = deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(
        lambda keys: (sorted(keys), "cloudpickle" in sys.modules)
    )
    assert {e.name for e in runner.manifest({"b": 1}.keys())} == {
        "cloudpickle",
        "cloudpickle.cloudpickle",
        "cloudpickle.cloudpickle_fast",
    }
    assert runner({"b": 1, "a": 2}.keys()) == (["a", "b"], True)


def test_streams_and_loggers_travel_by_name() -> None:
    import logging

    log = logging.getLogger("somewhere")
    assert deliver(lambda: (log.name, sys.stdout.fileno()))() == ("somewhere", 1)
    assert isinstance(io.StringIO(), io.StringIO)


def test_sudo_value_is_not_sent_with_the_function() -> None:
    """A transport in a decorator's options is no part of what travels, unless the function refers to its runner."""
    box = packing.pack(uses_helper, (1,), {})
    assert b"Sudo" not in box.body
    assert Sudo("x") == Sudo("x")


# --- what the first strangers stumbled over -------------------------------------------------------------------------


class Service:
    @deliver
    def outer(self) -> int:
        return self.inner() + 1

    @deliver
    def inner(self) -> int:
        return 5


@deliver
def ping(n: int) -> int:
    return 0 if n == 0 else pong(n - 1) + 1


@deliver
def pong(n: int) -> int:
    return 0 if n == 0 else ping(n - 1) + 1


def test_deliveries_nest() -> None:
    assert Service().outer() == 6
    assert ping(3) == 3
    assert deliver(lambda: ping.submit(1).result() + ping.run(1).value)() == 2


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: int) -> None:
        self.a = a


@dataclasses.dataclass(slots=True)
class SlottedData:
    x: int


def test_slots_stay_slots() -> None:
    def work(slotted: Slotted) -> tuple[Any, ...]:
        return hasattr(slotted, "__dict__"), Slotted(slotted.a + 1), SlottedData(4)

    has_dict, slotted, data = deliver(work)(Slotted(1))
    assert not has_dict and slotted.a == 2 and type(slotted) is Slotted and data == SlottedData(4)


@functools.lru_cache
def cached(n: int) -> int:
    return 1 if n < 2 else n * cached(n - 1)


@functools.singledispatch
def shape(thing: Any) -> str:
    return "other"


@shape.register
def _(thing: int) -> str:
    return "number"


@shape.register(list)
def shape_of_list(thing: list[Any]) -> str:
    return "list of " + ", ".join(shape(each) for each in thing)


def test_single_dispatch_travels() -> None:
    assert deliver(shape)(3) == "number"
    assert deliver(lambda things: shape(things))([1, "a", [2]]) == "list of number, other, list of number"


class WithCachedProperty:
    @functools.cached_property
    def value(self) -> int:
        return 7


def test_caches_travel_empty() -> None:
    cached(3)
    assert deliver(lambda: (cached(4), cached.cache_info().currsize))() == (24, 4)
    assert deliver(cached)(5) == 120
    assert deliver(lambda thing: thing.value)(WithCachedProperty()) == 7


def test_delivered_functions_pickle_by_name() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(ping)) is ping
    changed = pickle.loads(pickle.dumps(ping.with_options(timeout=3)))
    assert changed.options.timeout == 3 and changed(1) == 1


def test_memory_error_is_the_functions_own() -> None:
    from deliveryboy_ng import Limits

    def leak(size: int) -> None:
        kept = []
        while True:
            kept.append(bytes(size))

    for size in (100_000, 0):
        with pytest.raises(MemoryError):
            deliver(limits=Limits(address_space="300M"), timeout=50)(leak)(size)


def test_keyword_named_self_is_the_functions() -> None:
    assert deliver(lambda **keywords: keywords)(self=5) == {"self": 5}


def test_function_of_a_spawned_childs_main_travels(script: Any) -> None:
    result = script(
        """
import multiprocessing
from deliveryboy_ng import deliver

BASE = 4

@deliver
def work(x):
    return x + BASE

def child(queue):
    queue.put(work(1))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(timeout=30))
    process.join()
    with context.Pool(1) as pool:
        print(pool.map(work, [5]))
"""
    )
    assert result.stdout == b"5\n[9]\n", result.stderr.decode()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pools_and_pickle_within_a_call_find_what_is_of_a_spawned_childs_main(script: Any, method: str) -> None:
    result = script(
        f"METHOD = {method!r}"
        """
import enum
import multiprocessing
import pickle
import sys
from deliveryboy_ng import deliver

class Kind(enum.Enum):
    ONE = 1

class Thing:
    pass

def square(x):
    return x * x

@deliver
def pool():
    with multiprocessing.get_context("fork").Pool(1) as made:
        return made.map(square, [2, 3])

@deliver
def copy(module):
    assert module.square is square
    return type(pickle.loads(pickle.dumps(Thing()))) is Thing

@deliver
def refused():
    global Made
    class Made: pass
    return Made()

def child(number):
    try:
        refused()
    except Exception as error:
        refusal = "exists only there" in str(error)
    copied = deliver(pickle.dumps)(Kind.ONE)
    return pool(), copy(sys.modules[__name__]), pickle.loads(copied) is Kind.ONE, refusal

if __name__ == "__main__":
    with multiprocessing.get_context(METHOD).Pool(1) as workers:
        print(workers.map(child, [1]))
"""
    )
    assert result.stdout == b"[([4, 9], True, True, True)]\n", result.stderr.decode()


def test_key_that_cannot_be_shown_does_not_hide_the_offender() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(DeliveryPackingError, match="lock"):
        deliver(print)({Shy(): threading.Lock()})
