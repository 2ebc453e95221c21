"""What travels: functions of every kind, the caller's own modules, arguments of any size.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib
import importlib.machinery
import io
import os
import pickletools
import shutil
import subprocess
import sys
import threading
import types
import xml.etree.ElementTree
import zipfile
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


def test_imports_that_this_python_does_not_run(project: Any) -> None:
    project(
        {
            "either/__init__.py": "import sys\nif sys.version_info >= (3, 99):\n    from .new import value\nelse:\n    from .old import value\n",
            "either/new.py": "this is = no Python of today\n",
            "either/old.py": "value = 4\n",
            "plug/__init__.py": "import importlib\ndef load():\n    return importlib.import_module('.plugin', __package__).value\n",
            "plug/plugin.py": "value = 5\n",
        }
    )
    import either  # type: ignore[import-not-found]
    import plug  # type: ignore[import-not-found]

    assert deliver(lambda: (either.value, plug.load()))() == (4, 5)
    names = {entry.name for entry in deliver(lambda: (either.value, plug.load())).manifest()}
    assert {"either.old", "plug.plugin"} <= names and not [name for name in names if name.startswith(".")]


def test_folders_without_init_travel_though_nothing_has_imported_them(project: Any) -> None:
    folder = project(
        {
            "outer/__init__.py": "",
            "outer/plugins/deep/one.py": "value = 7\n",
            "outer/data/text.txt": "",
            "nameless/sub/leaf.py": "value = 8\n",
        }
    )
    (folder / "nameless" / "sub" / "again").symlink_to("..")

    def work() -> Any:
        import importlib

        from outer.plugins.deep import one  # type: ignore[import-not-found]

        return one.value, importlib.import_module(".".join(["nameless", "sub", "leaf"])).value

    assert "outer" not in sys.modules
    runner = deliver(transport=conftest.need_sudo(), modules=["nameless", "outer"])(work)
    assert {entry.name for entry in runner.manifest()} == {
        *("outer", "outer.plugins", "outer.plugins.deep", "outer.plugins.deep.one"),
        *("nameless", "nameless.sub", "nameless.sub.leaf"),
    }
    assert runner() == (7, 8) and "outer" not in sys.modules
    without = deliver(modules=["nameless"])(work)
    assert "outer.plugins.deep.one" in {entry.name for entry in without.manifest()}


def test_packages_that_look_elsewhere_for_their_modules(project: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lazy.py").write_text("value = 6\n")
    project({"looks/__init__.py": f"__path__ = [*__path__, {str(tmp_path / 'elsewhere')!r}]\n"})
    import looks  # type: ignore[import-not-found] # noqa: F401

    def work() -> Any:
        from looks import lazy  # type: ignore[import-not-found]

        return lazy.value

    assert "looks.lazy" in {entry.name for entry in deliver(work).manifest()} and deliver(work)() == 6


def test_packages_in_many_places_travel_though_one_of_them_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, own = tmp_path / "site-packages" / "company" / "lib", tmp_path / "src" / "company" / "app"
    for folder in (installed, own):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"name = {folder.name!r}\n")
    for folder in (own.parent.parent, installed.parent.parent):
        monkeypatch.syspath_prepend(str(folder))
    import company.app  # type: ignore[import-not-found]

    work = deliver(lambda: company.app.name)
    found = {entry.name for entry in work.manifest() if entry.by_value}
    assert {"company", "company.app"} <= found, found
    assert work() == "app"
    for name in [name for name in sys.modules if name.partition(".")[0] == "company"]:
        del sys.modules[name]


def test_dataclasses_made_by_functions_whose_annotations_are_text(project: Any, chain: Any) -> None:
    project(
        {
            "postponed.py": "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n\nvalue = 8\n\n"
            "def make():\n    @dataclasses.dataclass\n    class P:\n        x: int = 1\n        shared: ClassVar[int] = 5\n"
            "    return P().x, len(dataclasses.fields(P))\n\n"
            "def again():\n    import postponed\n    return make(), postponed.value, hasattr(postponed, '__file__')\n",
        }
    )
    import postponed  # type: ignore[import-not-found]

    assert deliver(transport=chain)(postponed.make)() == (1, 1)
    assert deliver(transport=chain)(postponed.again)() == ((1, 1), 8, True)


def test_modules_of_a_class_of_their_own_travel(project: Any) -> None:
    project(
        {
            "odd.py": "import sys, types\nclass Odd(types.ModuleType):\n    @property\n    def value(self):\n        return 7\n"
            "sys.modules[__name__].__class__ = Odd\n"
        }
    )
    import odd  # type: ignore[import-not-found]

    assert deliver(lambda: odd.value)() == 7


def test_links_among_data_files_end(project: Any) -> None:
    folder = project({"linked/__init__.py": "import importlib.resources\n", "linked/data/x.txt": "x"})
    for name in ("latest", "current"):
        (folder / "linked" / "data" / name).symlink_to(".")
    import linked  # type: ignore[import-not-found]

    (entry,) = [entry for entry in deliver(lambda: linked.__name__).manifest() if entry.name == "linked"]
    assert entry.size < 2000


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


# --- modules --------------------------------------------------------------------------------------------------------

PACKAGE = {
    "shop/__init__.py": "NAME = 'shop'\n",
    "shop/prices.py": "from . import tax\nfrom .deep.down import bottom\ndef price(x):\n    return tax.add(x) + bottom()\n",
    "shop/tax.py": "import json\ndef add(x):\n    return x + json.loads('1')\n",
    "shop/deep/__init__.py": "",
    "shop/deep/down.py": "import plain\ndef bottom():\n    return plain.ZERO\n",
    "shop/unused.py": "raise RuntimeError('nobody asked for this')\n",
    "plain.py": "ZERO = 0\nfrom spaced.inner import thing\n",
    "spaced/inner/thing.py": "VALUE = 'namespace'\n",
    "huge.bin": b"x" * 3_000_000,
}


def test_modules_travel_in_every_spelling(project: Any, chain: Any) -> None:
    project(
        {
            **PACKAGE,
            "spelled.py": """
import shop.prices
import shop.prices as sp
from shop.prices import price
from shop import tax as renamed
import plain

def dotted(x): return shop.prices.price(x)
def aliased(x): return sp.price(x)
def named(x): return price(x)
def renaming(x): return renamed.add(x)
def single(): return plain.thing.VALUE
def inside(x):
    import shop.prices
    from shop.deep import down
    return shop.prices.price(x) + down.bottom()
def dynamic():
    import importlib
    return importlib.import_module("shop.tax").add(1)
""",
        }
    )
    import spelled  # type: ignore[import-not-found]

    send = functools.partial(deliver, **{"transport": chain, "cwd": "/"})
    for function in (spelled.dotted, spelled.aliased, spelled.named, spelled.renaming, spelled.inside):
        assert send()(function)(4) == 5, function
    assert send()(spelled.single)() == "namespace"
    assert send()(spelled.dynamic)() == 2


def test_manifest_lists_what_travels_and_why(project: Any) -> None:
    project(
        {**PACKAGE, "user.py": "import shop.prices, numpy, json\ndef f(x):\n    numpy.zeros(1)\n    return shop.prices.price(x)\n"}
    )
    import user  # type: ignore[import-not-found]

    manifest = {entry.name: entry for entry in deliver(user.f).manifest(1)}
    assert {"shop", "shop.prices", "shop.tax", "shop.deep", "shop.deep.down", "plain", "spaced.inner.thing"} <= set(manifest)
    assert not {"json", "user", "shop.unused"} & set(manifest)
    assert manifest["shop.tax"].by_value and manifest["shop.tax"].size > 0 and "shop.prices" in manifest["shop.tax"].reason
    assert not manifest["numpy"].by_value and manifest["numpy"].size == 0 and "installed" in manifest["numpy"].reason
    assert sum(entry.size for entry in manifest.values()) < 100_000, "the huge file next to plain.py stays"
    text = str(deliver(user.f).manifest(1))
    assert "shop.tax" in text and "by value" in text and "by reference" in text


def test_packages_with_machine_code_travel_without_it_and_all_in_the_order_of_the_code(project: Any) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    names = ["mixed", *(f"piece_{letter}" for letter in "hbeagcdf")]
    project({f"mixed/_fast{suffix}": "", "mixed/__init__.py": "value = 3\n", **{f"{name}.py": "" for name in names[1:]}})
    lines = [
        "try:",
        "    import mixed._fast",
        "except ImportError:",
        "    pass",
        "import mixed",
        *(f"import {name}" for name in names[1:]),
    ]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def work():\n    " + "\n    ".join([*lines, "return mixed.value"]), namespace)
    entries = {entry.name: entry for entry in deliver(namespace["work"]).manifest()}
    assert entries["mixed"].by_value and "machine code" in entries["mixed._fast"].reason
    assert [module.name for module in packing.pack(namespace["work"], (), {}).modules] == names
    assert deliver(transport=conftest.need_sudo())(namespace["work"])() == 3


def test_module_of_the_function_itself_is_not_imported_there(project: Any) -> None:
    project(
        {
            "heavy.py": "import os, not_needed_there\nCONSTANT = 4\ndef f():\n    return CONSTANT + os.getuid() * 0\n",
            "not_needed_there.py": "",
        }
    )
    import heavy  # type: ignore[import-not-found]

    assert not deliver(heavy.f).manifest()
    assert deliver(heavy.f)() == 4


def test_module_that_imports_the_functions_own_exists_only_once(project: Any) -> None:
    project(
        {
            "first.py": "import second\nfrom deliveryboy_ng import deliver\nclass Thing: pass\nstate = []\n@deliver\n"
            "def f():\n    state.append(1)\n    return second.look(), isinstance(second.make(), Thing)\n",
            "second.py": "import first\ndef look(): return list(first.state)\ndef make(): return first.Thing()\n",
        }
    )
    import first  # type: ignore[import-not-found]

    assert first.f() == ([1], True)
    assert first.f.with_options(transport=conftest.need_sudo(), executable=conftest.system_python())() == ([1], True)


def test_installed_distributions_go_by_reference_unless_named() -> None:
    def work() -> str:
        import iniconfig

        return iniconfig.__file__

    assert {e.name: e.by_value for e in deliver(work).manifest()} == {"iniconfig": False}
    runner = deliver(transport=conftest.need_sudo(), executable=conftest.system_python(), modules=["iniconfig"])(work)
    assert {e.name: e.by_value for e in runner.manifest()}["iniconfig"]
    assert runner().endswith("iniconfig/__init__.py")
    with pytest.raises(DeliveryPackingError, match="no module named 'nonexistent'"):
        deliver(modules=["nonexistent"])(work)()


def test_module_missing_over_there_is_a_clear_error() -> None:
    def work() -> str:
        import iniconfig

        return iniconfig.__name__

    with pytest.raises(ModuleNotFoundError, match="iniconfig"):
        deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(work)()


def test_data_files_are_read_through_importlib_resources(project: Any, chain: Any) -> None:
    project(
        {
            "texts/__init__.py": "import importlib.resources\nimport pkgutil\n"
            "def read():\n"
            "    files = importlib.resources.files(__name__)\n"
            "    return ((files / 'greeting.txt').open('r', 'utf-8').read(), files.joinpath('more/deep.bin').read_bytes(),\n"
            "            sorted(e.name for e in files.iterdir() if not e.name.startswith('__')), pkgutil.get_data(__name__, 'greeting.txt'))\n",
            "texts/greeting.txt": "hällo\n",
            "texts/more/deep.bin": bytes(range(256)),
        }
    )
    import texts  # type: ignore[import-not-found]

    def work() -> Any:
        return texts.read()

    text, deep, names, data = deliver(transport=chain, cwd="/")(work)()
    assert text == "hällo\n" and deep == bytes(range(256)) and data == "hällo\n".encode()
    assert set(names) >= {"greeting.txt", "more"}


def test_functions_read_the_data_files_of_their_own_package(project: Any) -> None:
    project(
        {
            "beside/__init__.py": "",
            "beside/reader.py": "import importlib.resources as resources, pkgutil\nfrom importlib.resources import files\n"
            "def by_package(): return files(__package__).joinpath('data.txt').read_text()\n"
            "def by_name(): return resources.read_text('beside', 'data.txt')\n"
            "def by_module(): return pkgutil.get_data(__name__, 'data.txt').decode()\n"
            "def made():\n    def nested():\n        import pkgutil\n"
            "        return pkgutil.get_data(__name__.rpartition('.')[0], 'data.txt').decode()\n    return nested\n",
            "beside/data.txt": "text",
        }
    )
    from beside import reader  # type: ignore[import-not-found]

    sudo = conftest.need_sudo()
    for function in (reader.by_package, reader.by_name, reader.by_module, reader.made()):
        assert deliver(transport=sudo)(function)() == "text", function


def test_packages_in_archives_travel_without_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "things.zip", "w") as archive:
        archive.writestr(
            "zipped/__init__.py",
            "import pkgutil\ndef name():\n    return __name__\ndef data():\n    return pkgutil.get_data(__name__, 'x.txt')",
        )
        archive.writestr("zipped/x.txt", "data")
    monkeypatch.syspath_prepend(str(tmp_path / "things.zip"))
    import zipped  # type: ignore[import-not-found]

    assert zipped.data() == b"data" and deliver(lambda: zipped.name())() == "zipped"


def test_data_files_that_cannot_be_read_are_a_packing_error(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project({"read_it/__init__.py": "import importlib.resources\ndef f():\n    return 1\n", "read_it/data.txt": "x"})
    import read_it  # type: ignore[import-not-found]

    def refuse(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DeliveryPackingError, match="data files of package read_it cannot be read: .*Input/output"):
        deliver(lambda: read_it.f()).run()


def test_data_files_that_are_not_ones_to_read_fail_where_they_are_read(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project(
        {
            "holds/__init__.py": "import pkgutil\nfrom importlib.resources import files\n"
            "def text(name):\n    return files(__name__).joinpath(name).read_text(), pkgutil.get_data(__name__, name)\n",
            "holds/data/open.txt": "x",
            "holds/data/secret.txt": "y",
            "holds/closed/deeper/inner.txt": "y",
            "lister/data.txt": "z",
            "lister/__init__.py": "import pkgutil\ndef f():\n    return len(list(pkgutil.iter_modules([])))\n",
        }
    )
    import holds  # type: ignore[import-not-found]
    import lister  # type: ignore[import-not-found]

    read, listed = Path.read_bytes, Path.iterdir

    def refuse(path: Path) -> bytes:
        if path.name == "secret.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    def refuse_to_list(path: Path) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "iterdir", refuse_to_list)
    sudo = conftest.need_sudo()
    work = deliver(transport=sudo)(lambda name: holds.text(name))
    assert work("data/open.txt") == ("x", b"x")
    for name in ("data/secret.txt", "closed/deeper/inner.txt"):
        receipt = work.run(name)
        assert isinstance(receipt.exception, PermissionError) and name in str(receipt.exception)
    with pytest.raises(DeliveryPackingError, match="data files of package holds cannot be read: .*closed"):
        work.with_options(modules=["holds"]).run("data/open.txt")
    monkeypatch.setattr(Path, "read_bytes", None)
    assert deliver(transport=sudo)(lambda: lister.f())() == 0


def test_editable_installs_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install finds its modules by an import hook; the far side has neither hook nor files."""
    folder = tmp_path / "checkout"
    folder.mkdir(mode=0o700)
    (folder / "edited_module.py").write_text("from edited_sub import value\ndef f():\n    return value\n")
    (folder / "edited_sub.py").write_text("value = 11\n")

    class Hook:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            file = folder / f"{name}.py"
            return importlib.util.spec_from_file_location(name, file) if name.startswith("edited_") else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Hook])
    import edited_module  # type: ignore[import-not-found]

    try:
        assert deliver(transport=conftest.need_sudo())(lambda: edited_module.f())() == 11
    finally:
        for name in ("edited_module", "edited_sub"):
            sys.modules.pop(name, None)


def test_modules_that_are_half_saved_or_gone_travel_as_they_last_did(project: Any) -> None:
    folder = project({"saved.py": "value = 14\n", "broken.py": "value = 15\n"})
    import broken  # type: ignore[import-not-found]
    import saved  # type: ignore[import-not-found]

    work = deliver(lambda: saved.value)
    assert work() == 14
    for name in ("saved.py", "broken.py"):
        (folder / name).write_text("def half(")
    assert work() == 14
    (folder / "saved.py").write_text("value = 1600\n")
    assert work() == 1600 and saved.value == 14
    (folder / "saved.py").unlink()
    assert work() == 1600
    with pytest.raises(DeliveryPackingError, match="module broken cannot be compiled"):
        deliver(lambda: broken.value)()
    (folder / "broken.py").unlink()
    with pytest.raises(DeliveryPackingError, match="module broken .* has neither source nor code"):
        deliver(lambda: broken.value)()


class Kept:
    """Imports modules from a dict; *tree* is no file's name."""

    tree = {"kept": "import importlib.resources\nfrom .inner import value\n", "kept.inner": "value = 12\n"}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_loader(name, self, is_package=name == "kept") if name in self.tree else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        return None

    def exec_module(self, module: Any) -> None:
        exec(self.tree[module.__name__], vars(module))

    def get_source(self, name: str) -> str:
        return self.tree[name]


def test_modules_without_a_file_travel_if_their_loader_has_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Kept()])
    import kept  # type: ignore[import-not-found]

    try:
        assert deliver(lambda: kept.value)() == 12
        assert sum(entry.size for entry in deliver(lambda: kept.value).manifest()) < 1000, "no data files of this folder"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(Kept.tree, "kept.inner", "value = 13\n")
            assert deliver(lambda: kept.value)() == 13
        assert not deliver(lambda: sys.implementation.name).manifest()

        class Fails:
            def get_source(self, name: str) -> str:
                raise KeyError(name)

        fails = types.ModuleType("fails")
        fails.__spec__ = importlib.machinery.ModuleSpec("fails", Fails())  # type: ignore[arg-type]
        monkeypatch.setitem(sys.modules, "fails", fails)
        with pytest.raises(ModuleNotFoundError, match="fails"):
            deliver(lambda: importlib.import_module("fails"))()
    finally:
        for name in Kept.tree:
            sys.modules.pop(name, None)


def test_modules_that_exist_only_here_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("made_by_hand")
    exec("def f():\n    return 1\n", vars(made))
    monkeypatch.setitem(sys.modules, "made_by_hand", made)

    def work() -> Any:
        import made_by_hand  # type: ignore[import-not-found]

        return made_by_hand.f()

    with pytest.raises(DeliveryPackingError, match="module made_by_hand exists only in this process") as caught:
        deliver(lambda: made.f())()
    assert caught.value.path == "module made_by_hand"
    with pytest.raises(ModuleNotFoundError, match="made_by_hand"):
        deliver(work)()
    assert deliver(made.f)() == 1


def test_tracebacks_of_shipped_modules_show_source_lines(project: Any, chain: Any) -> None:
    import traceback

    project({"breaks.py": "def deeper(x):\n    return 1 / x  # the culprit\n\ndef f(x):\n    return deeper(x)\n"})
    import breaks  # type: ignore[import-not-found]

    def work() -> str:
        import traceback

        try:
            breaks.f(0)
        except ZeroDivisionError:
            there = traceback.format_exc()
        assert "the culprit" in there, there
        return breaks.f(0)

    with pytest.raises(ZeroDivisionError) as caught:
        deliver(transport=chain, cwd="/")(work)()
    text = "".join(traceback.format_exception(caught.value))
    # Of a call that is not trusted no frame names a file of this side's.
    assert f'{breaks.__file__}", line 2, in deeper' in text or f'{breaks.__file__}>", line 2, in deeper' in text
    assert "return 1 / x  # the culprit" in text


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


def test_objects_of_this_library_need_it_over_there() -> None:
    from deliveryboy_ng import Limits

    assert deliver(lambda limits: limits.cpu)(Limits(cpu=3)) == 3
    with pytest.raises(DeliveryPackingError, match="not installed on the far side"):
        deliver(transport=conftest.need_sudo(), executable=conftest.system_python())(lambda limits: limits.cpu)(Limits(cpu=3))


# --- cloudpickle's private names ------------------------------------------------------------------------------------


def everything() -> list[Any]:
    import abc
    import collections
    import types
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


def test_cached_function_of_another_module_goes_by_reference(project: Any) -> None:
    project({"caching.py": "import functools\n@functools.cache\ndef f(x):\n    return 2 * x\n"})
    import caching  # type: ignore[import-not-found]

    assert deliver(lambda: caching.f(2))() == 4
    assert deliver(lambda f: f(3))(caching.f) == 6
    assert deliver(caching.f)(4) == 8


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


def test_machine_code_named_in_modules_is_refused() -> None:
    with pytest.raises(DeliveryPackingError, match="machine code"):
        deliver(modules=["numpy"])(lambda: __import__("numpy").ones(3).sum())()


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


def test_distributions_installed_into_a_folder_are_installed(project: Any) -> None:
    project(
        {
            "vendored_lib.py": "X = 1\n",
            "vendored_lib-1.dist-info/RECORD": "vendored_lib.py,,\nvendored_lib-1.dist-info/RECORD,,\n",
            "own_lib.py": "Y = 2\n",
        }
    )
    import own_lib  # type: ignore[import-not-found]
    import vendored_lib  # type: ignore[import-not-found]

    assert {e.name: e.by_value for e in deliver(lambda: vendored_lib.X + own_lib.Y).manifest()} == {
        "vendored_lib": False,
        "own_lib": True,
    }


def test_key_that_cannot_be_shown_does_not_hide_the_offender() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    with pytest.raises(DeliveryPackingError, match="lock"):
        deliver(print)({Shy(): threading.Lock()})


def test_another_environment_of_the_same_python_has_its_own_packages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = tmp_path / "lib" / version / "site-packages"
    (packages / "only_there.py").write_text("VALUE = 5")

    def find() -> tuple[int, str]:
        import importlib
        import sys

        return importlib.import_module("only" + "_there").VALUE, sys.prefix

    assert deliver(executable=str(tmp_path / "bin" / "python"))(find)() == (5, str(tmp_path))


POOL = """
import multiprocessing

def plus_one(x):
    return x + 1

def by_pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(plus_one, [1, 2])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_find_functions_of_a_home_that_travels_as_a_module(project: Any, method: str) -> None:
    project({"home_with_a_pool.py": POOL})
    import home_with_a_pool  # type: ignore[import-not-found]

    assert deliver(modules=["home_with_a_pool"], timeout=60)(home_with_a_pool.by_pool)(method) == [2, 3]
