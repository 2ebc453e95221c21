"""Classes, enumerations and exceptions that travel by value, and what is known by its name: nothing of them gets another meaning.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import datetime
import enum
import functools
import threading
import typing
import weakref
from dataclasses import dataclass
from os import environ
from random import random
from sys import float_info
from typing import Any, NamedTuple, NewType

import pytest

from deliveryboy_ng import DeliveryExecutor, deliver


@dataclass(frozen=True)
class Suit:
    number: int

    def label(self) -> str:
        return LABELS.get(self, "not found")


LABELS = {Suit(1): "spades"}


class Stateful:
    def __init__(self, x: int) -> None:
        self.x = x

    def __getstate__(self) -> dict[str, int]:
        return {"packed": self.x}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.x = state["packed"]

    def table(self) -> list[Any]:
        return [getattr(each, "x", "lost") for each in TABLE]


TABLE = [Stateful(1), Stateful(2)]


class Place(NamedTuple):
    x: int
    y: int

    def is_origin(self) -> bool:
        return self == ORIGIN


ORIGIN = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int

    def is_zero(self) -> bool:
        return self == ZERO


ZERO = Slotted(0)


class AnyCase(str):
    def __hash__(self) -> int:
        return hash(self.lower())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def found(self) -> str:
        return WORDS.get(self, "not found")


WORDS = {AnyCase("A"): "found"}


class Reduced:
    ZERO: Reduced

    def __init__(self, x: int) -> None:
        self.x = x

    def __reduce__(self) -> Any:
        return Reduced, (self.x,)


Reduced.ZERO = Reduced(0)


class Hashed(enum.Enum):
    ONE = 1

    def __hash__(self) -> int:
        return 5

    def found(self) -> str:
        return OF_MEMBERS.get(self, "not found")


OF_MEMBERS = {Hashed.ONE: "found"}


@pytest.mark.parametrize(
    "asked",
    [
        lambda: Suit(1).label(),
        lambda: Stateful(3).table(),
        lambda: Place(0, 0).is_origin(),
        lambda: Slotted(0).is_zero(),
        lambda: AnyCase("a").found(),
        lambda: Reduced.ZERO.x,
        lambda: Hashed.ONE.found(),
    ],
)
def test_instances_that_their_own_class_refers_to_are_whole(asked: Any) -> None:
    assert deliver(asked)() == asked()


class Number(int, enum.Enum):
    def __new__(cls, value: int) -> Number:
        made = int.__new__(cls, value + 100)
        made._value_ = value
        return made

    ONE = 1


class Labelled(str, enum.Enum):  # noqa: UP042
    def __new__(cls, text: str, label: str) -> Labelled:
        made = str.__new__(cls, text)
        made._value_ = label
        return made

    X = "x", "label"


class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 2


@dataclass
class Creature:
    size: str
    legs: int = 4


class Beast(Creature, enum.Enum):
    DOG = "m", 4


class Functions(enum.Enum):
    @enum.member
    def twice(x: int) -> int:  # type: ignore[misc]
        return 2 * x

    ONE = 1


@pytest.mark.parametrize(
    "asked",
    [
        lambda: (int(Number.ONE), Number.ONE.value, Number(1).name),
        lambda: (Labelled.X == "x", Labelled.X.value, Labelled("label").name),
        lambda: (Day.FIRST.year, Day.FIRST.name, Day.FIRST.isoformat()),
        lambda: (str(Beast.DOG.value), Beast.DOG.legs, repr(Beast.DOG)),
        lambda: (list(Functions.__members__), Functions.twice.value(3)),
    ],
)
def test_members_are_what_they_were_besides(asked: Any) -> None:
    assert deliver(asked)() == asked()


class Outer:
    @dataclass
    class Inner:
        x: int


def test_classes_keep_their_qualified_names() -> None:
    class Local:
        pass

    assert deliver(lambda: (Outer.Inner.__qualname__, repr(Outer.Inner(1)), Local.__qualname__))() == (
        "Outer.Inner",
        "Outer.Inner(x=1)",
        Local.__qualname__,
    )


HOOKS = """
seen = {}

class Registered:
    key = None

    def __init_subclass__(cls, **keywords):
        seen[cls.key] = cls

class Named:
    def __init_subclass__(cls, *, name):
        cls.name = name
"""


def test_hooks_of_bases_see_what_stood_in_the_class_or_nothing_at_all(project: Any) -> None:
    project({"hooks_of_bases.py": HOOKS})
    import hooks_of_bases as hooks  # type: ignore[import-not-found]

    class One(hooks.Registered):  # type: ignore[misc]
        key = "one"

    class Other(hooks.Named, name="other"):  # type: ignore[misc]
        pass

    assert deliver(lambda: (list(hooks.seen), One.key))() == (["one"], "one")
    assert deliver(lambda: Other.name)() == "other"


PROGRAM = """
from deliveryboy_ng import DeliveryExecutor
import enum

class Model:
    trained = 0
    def predict(self, x):
        return 2 * x

class Mode(enum.Enum):
    FAST = 1

MODEL = MODE = None

def load():
    global MODEL, MODE
    MODEL, MODE, Model.trained = Model(), Mode.FAST, 7

def use(x, mode):
    return isinstance(MODEL, Model) and MODEL.predict(x), MODE is mode is Mode.FAST, Model.trained

with DeliveryExecutor(1, initializer=load) as executor:
    print(executor.submit(use, 4, Mode.FAST).result(), executor.submit(Model).result().__class__ is Model)
"""


def test_classes_of_a_template_are_those_of_its_calls(script: Any) -> None:
    result = script(PROGRAM)
    assert result.stdout == b"(8, True, 7) True\n", result.stderr


class Formatted(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"no such {name}")


class WithSlot(Exception):
    __slots__ = ("code",)

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class WithErrno(OSError):
    def __init__(self, name: str, more: int) -> None:
        super().__init__(2, "gone", name)
        self.more = more


def described(error: BaseException) -> tuple[Any, ...]:
    names = ("code", "more", "name", "errno", "filename", "__notes__")
    return type(error), error.args, str(error), *(getattr(error, name, None) for name in names)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Formatted("x"),
        lambda: WithSlot("text", 404),
        lambda: WithErrno("file", 3),
        lambda: AttributeError("text", name="attribute", obj=1),
        lambda: NameError("text", name="variable"),
    ],
)
def test_exceptions_are_not_made_anew(make: Any) -> None:
    def fail(group: bool) -> None:
        error = make()
        error.add_note("note")
        raise ExceptionGroup("group", [error]) if group else error

    expected = make()
    expected.add_note("note")
    with pytest.raises(type(expected)) as found:
        deliver(fail)(False)
    assert described(found.value) == described(expected)
    with pytest.raises(ExceptionGroup) as group:
        deliver(fail)(True)
    assert described(group.value.exceptions[0]) == described(expected)
    assert described(deliver(lambda error: error)(expected)) == described(expected)


UserId = NewType("UserId", int)
P = typing.ParamSpec("P")


def called(function: typing.Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    return function(*args, **kwargs)


class Kinds:
    @functools.singledispatchmethod
    def kind(self, thing: object) -> str:
        return "other"

    @kind.register
    def _(self, thing: int) -> str:
        return "int"


def test_what_typing_and_functools_make_travels() -> None:
    assert deliver(lambda: UserId(5))() == 5
    assert deliver(called)(abs, -3) == 3
    assert deliver(lambda: (Kinds().kind(1), Kinds().kind("")))() == ("int", "other")

    @functools.lru_cache
    def cached(x: int) -> int:
        return x

    cached.tag = "kept"  # type: ignore[attr-defined]
    assert deliver(lambda: (cached(3), cached.tag))() == (3, "kept")  # type: ignore[attr-defined]


def test_what_is_in_weak_sets_lives() -> None:
    kept = [Stateful(1), Stateful(2)]
    weak = weakref.WeakSet(kept)
    assert deliver(len)(weak) == 2
    assert deliver(lambda: sorted(each.x for each in weak))() == [1, 2]


MARKS = """
MISSING = object()

def get(found, name, default=None):
    value = found.get(name, default)
    return "absent" if value is MISSING else value
"""


def test_what_modules_hand_out_is_theirs(project: Any) -> None:
    project({"marks_of_its_own.py": MARKS})
    from marks_of_its_own import MISSING, get  # type: ignore[import-not-found]

    assert deliver(lambda: get({}, "x", MISSING))() == "absent"
    assert deliver(env={"DELIVERYBOY_SET": "set"})(lambda: environ.get("DELIVERYBOY_SET"))() == "set"
    assert deliver(lambda: float_info.epsilon)() == float_info.epsilon
    with DeliveryExecutor(1) as executor:
        assert len({executor.submit(lambda: random()).result() for _ in range(3)}) == 3


def test_two_namespaces_may_call_themselves_main(script: Any, tmp_path: Any) -> None:
    other = tmp_path / "other.py"
    other.write_text("LIMIT = 99\ndef get():\n    return LIMIT\n")
    result = script(
        f"""
import runpy
from deliveryboy_ng import deliver
get = runpy.run_path({str(other)!r}, run_name="__main__")["get"]
LIMIT = 10
print(deliver(lambda: (LIMIT, get()))(), deliver(get)())
"""
    )
    assert result.stdout == b"(10, 99) 99\n", result.stderr


class Only:
    _made = None

    def __new__(cls) -> Only:
        if cls._made is None:
            cls._made = object.__new__(cls)
        return cls._made

    def hello(self) -> str:
        return "hello"


Only()


class Computed:
    def __init__(self, x: int) -> None:
        self.x = x

    def key(self) -> int:
        return self.x

    def __hash__(self) -> int:
        return hash(self.key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Computed) and self.key() == other.key()

    def found(self) -> str:
        return COMPUTED.get(self, "not found")


COMPUTED = {Computed(1): "found"}


@pytest.mark.parametrize("asked", [lambda: Only().hello(), lambda: Computed(1).found()])
def test_only_what_instances_need_is_sent_ahead_of_their_class(asked: Any) -> None:
    assert deliver(asked)() == asked()


class Path:
    prefix = ""

    def __init_subclass__(cls) -> None:
        cls.prefix += f"{cls.__name__}/"


class Home(Path):
    prefix = "root/"


class Tagged:
    tag: str | None = None

    def __init_subclass__(cls, tag: str | None = None) -> None:
        cls.tag = tag


class WithTag(Tagged, tag="one"):
    pass


def test_what_hooks_have_made_is_not_made_once_more() -> None:
    assert deliver(lambda: (Home.prefix, WithTag.tag))() == (Home.prefix, WithTag.tag) == ("root/Home/", "one")


class Related(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.other: Related | None = None


class Parsed(SyntaxError):
    def __init__(self, text: str) -> None:
        super().__init__(text, ("file", 3, 1, "a b", 3, 2))


class Undecoded(UnicodeDecodeError):
    def __init__(self) -> None:
        super().__init__("utf-8", b"ab\xff", 2, 3, "reason")


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Locked, ()


def test_exceptions_keep_what_their_built_in_kind_knows_and_how_they_are_packed() -> None:
    def related() -> None:
        one, other = Related("one"), Related("other")
        one.other, other.other = other, one
        raise one

    with pytest.raises(Related) as caught:
        deliver(related)()
    assert caught.value.other is not None and caught.value.other.other is caught.value
    parsed, undecoded = deliver(lambda: (Parsed("text"), Undecoded()))()
    assert (str(parsed), parsed.lineno) == (str(Parsed("text")), 3) and str(undecoded) == str(Undecoded())
    assert isinstance(deliver(lambda error: error)(Locked()), Locked)


def test_what_modules_of_ones_own_hand_out_is_packed(project: Any) -> None:
    project(
        {
            "settings_of_ones_own.py": "class Config(dict):\n    pass\n\n_config = Config()\nget = _config.get\nput = _config.__setitem__\n"
        }
    )
    import settings_of_ones_own as settings  # type: ignore[import-not-found]

    get = settings.get
    settings.put("x", 1)
    assert deliver(lambda: get("x"))() == 1
