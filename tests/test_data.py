"""The data codec: what goes through it comes out the same, and whatever else comes gets one documented error."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import pathlib
import random
import subprocess
import sys
import time
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryboy_ng import bounds, decoding, untrusted
from deliveryboy_ng.decoding import Undecodable
from deliveryboy_ng.worker import codec
from deliveryboy_ng.worker.codec import Unencodable


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None
    size: Any = dataclasses.field(default=0, init=False)


Pair = collections.namedtuple("Pair", "first second")
ACCEPTS: dict[Any, str] = {Colour: "Colour", Right: "Right", Point: "Point", Pair: "Pair"}
NAMES = {name: kind for kind, name in ACCEPTS.items()}


def encoded(value: object) -> bytes:
    return b"".join(codec.encode(value, ACCEPTS.get))


def decoded(data: bytes) -> Any:
    return decoding.decode(data, NAMES)


def there_and_back(value: Any) -> Any:
    return decoded(encoded(value))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(*keys) and same(one[keys[0]], other[keys[1]]) for keys in zip(one, other, strict=True)
        )
    if isinstance(one, Point):
        return same(vars(one), vars(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (float, complex, decimal.Decimal)):
        return repr(one) == repr(other)
    if isinstance(one, (set, frozenset)):
        return bool(one == other)
    return bool(one == other)


zones = st.none() | st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)).map(datetime.timezone)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(st.characters(categories=["Cs"]), max_size=4)
    | st.binary()
)
hashables = (
    scalars
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=zones)
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.uuids()
    | st.ip_addresses()
    | st.sampled_from(Colour)
    | st.sampled_from([Right.READ, Right.READ | Right.WRITE, Right(0)])
    | st.sampled_from([pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("c:/b"), Path("c")])
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 2**80))
)
keys = st.recursive(hashables, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
values = st.recursive(
    hashables
    | st.decimals()
    | st.floats()
    | st.complex_numbers()
    | st.binary().map(bytearray)
    | st.builds(slice, st.integers(), st.none(), st.text()),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=12)
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=20,
)
tables = (
    st.lists(st.fixed_dictionaries({"id": st.integers(), "name": st.text(), "when": st.dates() | st.none()}), min_size=8)
    | st.lists(st.tuples(st.integers(-5, 5), st.floats(), st.booleans()), min_size=8)
    | st.lists(st.builds(Pair, st.floats(), st.text()), min_size=8)
    | st.lists(st.builds(Point, st.dates(), st.binary()), min_size=8)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8)
    | st.lists(st.floats(), min_size=8)
    | st.lists(st.booleans(), min_size=8)
    | st.lists(st.datetimes(timezones=zones), min_size=8)
    | st.lists(st.decimals(), min_size=8)
    | st.dictionaries(st.integers(), st.integers(), min_size=8)
    | st.dictionaries(st.text(), st.floats(), min_size=8)
)


@settings(deadline=None, max_examples=300)
@given(values | tables | st.lists(tables, max_size=3))
def test_data_comes_out_as_it_went_in(value: Any) -> None:
    assert same(there_and_back(value), value)


def test_what_is_shared_stays_shared() -> None:
    inner: list[Any] = [1]
    data = b"x" * 100
    for value in ([inner, inner], {"a": inner, "b": (inner,)}, [[inner], inner], [(1, inner)] * 9 + [inner]):
        one, other = _lists(there_and_back(value))[-2:]
        assert one is other
    first, second = there_and_back([data, data])
    assert first is second
    loop: dict[str, Any] = {}
    loop["again"] = [1, {"in": (loop,)}]
    back = there_and_back(loop)
    assert back["again"][1]["in"][0] is back


def _lists(value: Any) -> list[Any]:
    found = [value] if isinstance(value, list) else []
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        found += _lists(part)
    return [each for each in found if each == [1]]


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6.0).reshape(2, 3),
        numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        numpy.arange(10)[::2],
        numpy.array(["a", "bc", "\U0001f600"]),
        numpy.array([b"x", b"yz"]),
        numpy.array([True, False]),
        numpy.array(3),
        numpy.zeros((0, 3), "c16"),
        numpy.arange(3, dtype=">i2"),
        numpy.array([1.5], "f2"),
        numpy.array([1.5], numpy.longdouble),
        numpy.array(["2020-02-03", "NaT"], "M8[D]"),
        numpy.array([5], "m8[25us]"),
        # To make one of numbers is deprecated from numpy 2.5 on.
        numpy.array([5]).view("m8"),
    ],
    ids=str,
)
def test_arrays_come_out_as_they_went_in(array: Any) -> None:
    back = there_and_back({"array": array})["array"]
    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()
    assert back.flags.writeable and back.flags.f_contiguous == array.copy(order="K").flags.f_contiguous
    if array.size:
        scalar = there_and_back([array.flat[0]])[0]
        assert type(scalar) is type(array.flat[0]) and scalar.dtype == array.flat[0].dtype


def test_what_is_no_data_is_named_with_its_place() -> None:
    with pytest.raises(Unencodable, match=r"value\['rows'\]\[1\]\[0\] is a builtins.object"):
        encoded({"rows": [1, (object(),)]})
    with pytest.raises(Unencodable, match=r"is a test_data.Other"):
        encoded([Other("text")])
    with pytest.raises(Unencodable, match=r"numpy array of object"):
        encoded(numpy.array([object()]))
    with pytest.raises(Unencodable, match=r"numpy array of \[\('a'"):
        encoded(numpy.zeros(2, [("a", "i4")]))
    for number in (1, 20):
        with pytest.raises(Unencodable, match=rf"value\[{number - 1}\] is a Fraction that is too long"):
            encoded([*map(fractions.Fraction, range(number - 1)), fractions.Fraction(1 << 9000, 3)])
    with pytest.raises(Unencodable, match="nested more than 200 deep"):
        encoded(_nested(300, tuple))
    with pytest.raises(Unencodable, match="contains itself through a tuple"):
        encoded(_loop_through_tuple())
    with pytest.raises(Unencodable, match="OrderedDict"):
        encoded(collections.OrderedDict())


class Other(str):
    pass


def _nested(depth: int, make: Any) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make((value,))
    return value


def _loop_through_tuple() -> Any:
    value: tuple[list[Any]] = ([],)
    value[0].append(value)
    return value


def test_deep_data_comes_through_where_the_caller_is_deep_itself() -> None:
    def below(depth: int) -> Any:
        return below(depth - 1) if depth else decoded(data)

    value = _nested(190, tuple)
    data = encoded(value)
    assert below(350) == value
    assert there_and_back(_nested(190, list)) == _nested(190, list)


@dataclasses.dataclass
class Listed(list):  # type: ignore[type-arg]
    x: int = 0


@dataclasses.dataclass
class Counting:
    x: int
    n: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass
class Taking:
    x: int
    y: dataclasses.InitVar[int] = 1


class Named(Pair):  # type: ignore[misc, valid-type]
    pass


def test_what_a_constructor_would_lose_is_refused() -> None:
    counted, extra, named = Counting(1), Counting(1), Named(1, 2)
    counted.n = 7
    extra.more = 3  # type: ignore[attr-defined]
    named.extra = 1
    for value, reason in (
        (Listed(1), "not only a dataclass"),
        (counted, "n that its constructor"),
        (extra, "attributes of its own"),
        (Taking(1, 9), "takes y"),
        (named, "attributes of its own"),
    ):
        for each in (value, [value] * 10, [type(value)(1, 2) if isinstance(value, tuple) else value, *[value] * 9]):
            with pytest.raises(Unencodable, match=reason):
                codec.encode(each, lambda kind: kind.__name__)


@pytest.mark.parametrize(
    "value",
    [numpy.str_(""), numpy.zeros([1] * 33), decimal.Decimal("1" * 70_000), fractions.Fraction(1, 1 << 10_000), Path("a" * 70_000)],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_be_taken_is_not_sent(value: Any) -> None:
    with pytest.raises(Unencodable, match=r"value\[1\] is a"):
        encoded([1, value])


def test_raised_recursion_limit_does_not_crash_the_parser() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        for text in (b"[" * 10**6, b'"[' + b"[" * 6000):
            with pytest.raises(Undecodable):
                decoded(len(text).to_bytes(8, "big") + text)
        assert there_and_back(["[" * 6000]) == ["[" * 6000]
    finally:
        sys.setrecursionlimit(limit)


def test_both_sides_have_the_same_bounds() -> None:
    assert decoding._LARGEST_OF_FRACTION == codec.LARGEST_OF_FRACTION
    assert decoding._LONGEST_WORD == decoding._LONGEST_DECIMAL == codec.LONGEST_WORD
    assert decoding._DEEPEST > codec.DEEPEST and untrusted._MOST_RECORDS == codec.MOST_RECORDS


# --- not written by the encoder ---------------------------------------------------------------------------------------


def written(node: Any, *buffers: bytes) -> bytes:
    text = json.dumps([node, list(map(len, buffers))]).encode()
    return len(text).to_bytes(8, "big") + text + b"".join(buffers)


def unfolding(depth: int) -> Any:
    """A tuple in which each level holds the one below twice; 2**depth elements to hash."""
    node: list[Any] = ["tuple"]
    for place in range(depth):
        node = ["tuple", node, ["same", depth - place]]
    return ["set", node]


FORGED: dict[str, bytes] = {
    "nothing": b"",
    "too short": b"\0" * 7,
    "size beyond the end": (10**15).to_bytes(8, "big"),
    "no JSON": written(0)[:-3],
    "no node": written([]),
    "unknown tag": written(["eval", "1"]),
    "tag that is no text": written([["list"]]),
    "plain data under another name": written({"x": [1]}),
    "plain data of two": written({"": [1], "x": [2]}),
    "plain data that is none": written({"": 1}),
    "reference to nothing": written(["same", 5]),
    "reference to itself": written(["tuple", ["same", 0]]),
    "negative reference": written(["list", ["same", -1]]),
    "reference by truth": written(["list", ["same", False]]),
    "buffer that is not there": written(["bytes", 0]),
    "buffer before the first": written(["bytes", -1], b"x"),
    "buffer used twice": written(["list", ["bytes", 0], ["bytes", 0]], b"x"),
    "buffer of negative size": (9).to_bytes(8, "big") + b"[1, [-1]]" + b"x",
    "class that is not accepted": written(["fields", "os.system", "x", 1]),
    "member that is not there": written(["member", "Colour", "__class__"]),
    "member of what is no enum": written(["member", "Point", "x"]),
    "flags of what has none": written(["flags", "Colour", 1]),
    "flags out of range": written(["flags", "Right", 99]),
    "field that is not there": written(["fields", "Point", "x", 1, "__class__", 2]),
    "field that is not given": written(["fields", "Point", "x", 1, "size", 2]),
    "fields of what has none": written(["fields", "Pair", "first", 1]),
    "tuple of what is none": written(["tuple of", "Point", 1, 2]),
    "tuple of too many": written(["tuple of", "Pair", 1, 2, 3]),
    "path of a number": written(["PosixPath", 1]),
    "path beyond measure": written(["PosixPath", "a" * 100_000]),
    "decimal beyond measure": written(["Decimal", "1" * 100_000]),
    "decimal that is none": written(["Decimal", "os"]),
    "fraction as text": written(["Fraction", "1e2000000"]),
    "fraction of texts": written(["Fraction", "1e2000000", 1]),
    "fraction beyond measure": written(["Fraction", ["int", 0], 1], b"\x7f" * 100_000),
    "fraction by zero": written(["Fraction", 1, 0]),
    "number beyond measure": written(0).replace(b"0", b"9" * 5000, 1).replace((7).to_bytes(8, "big"), (5006).to_bytes(8, "big")),
    "range of floats": written(["range", 1.5, 2, 1]),
    "date that is none": written(["date", 2020, 13, 1]),
    "date of texts": written(["date", "2020", "1", "1"]),
    "zone that is none": written(["time", 1, 2, 3, 4, ["list"], 0]),
    "zone without offset": written(["timezone", 1, None]),
    "network beyond measure": written(["IPv6Network", "1" * 1000]),
    "key that cannot be hashed": written(["dict", ["list"], 1]),
    "element that cannot be hashed": written(["set", {"": []}]),
    "dict with a key too many": written(["dict", "a"]),
    "long dict without values": written(["long dict", {"": ["a"]}, {"": []}]),
    "long dict of tuples": written(["long dict", ["tuple", 1], ["tuple", 1]]),
    "columns of different lengths": written(["records", ["a", "b"], {"": [1]}, {"": [1, 2]}]),
    "columns without names": written(["records", ["a"], {"": [1]}, {"": [1]}]),
    "names that are no texts": written(["records", [1], {"": [1]}]),
    "columns that are none": written(["rows", "", 5]),
    "no columns": written(["rows", ""]),
    "rows of what is no tuple": written(["rows", "Point", {"": [1]}]),
    "each of an unknown kind": written(["each", "member", {"": ["Colour"]}]),
    "each of the wrong number": written(["each", "date", {"": [1]}]),
    "instances of what is none": written(["instances", "Pair", ["first"], {"": [1]}]),
    "numbers of another kind": written(["ints", "u", "little", 0], b"abcd"),
    "numbers of odd size": written(["ints", "q", "little", 0], b"abc"),
    "array of objects": written(["array", ["little", "O", 8, "<"], [1], "C", 0], b"x" * 8),
    "array of a free text": written(["array", ["little", "i8,O", 8, "<"], [1], "C", 0], b"x" * 8),
    "array with a text as order": written(["array", ["little", "i", 8, "<i4,"], [1], "C", 0], b"x" * 8),
    "array of no size": written(["array", ["little", "V", 0, "|"], [1], "C", 0], b""),
    "array larger than its data": written(["array", ["little", "i", 8, "<"], [10**9], "C", 0], b"x" * 8),
    "array of negative shape": written(["array", ["little", "i", 8, "<"], [-1, -1], "C", 0], b"x" * 8),
    "array of an unknown unit": written(["array", ["little", "M", 8, "<", "s][", 1], [1], "C", 0], b"x" * 8),
    "truth that is none": written(["array", ["little", "b", 1, "|"], [1], "C", 0], b"\x05"),
    "character that is none": written(["array", ["little", "U", 4, "<"], [1], "C", 0], b"\xff" * 4),
    "scalar of two": written(["scalar", ["little", "i", 4, "<"], 0], b"x" * 8),
    "deep JSON": written(0).replace(b"[0, []]", b"[" * 100_000).replace((7).to_bytes(8, "big"), (100_000).to_bytes(8, "big")),
    "deep nodes": written(_nested(400, lambda inner: ["list", *inner])),
    "hash that unfolds": written(unfolding(150)),
    "hash that unfolds through pairs": written(
        ["list", ["tuple", 0], *[["tuple", ["same", 1 + n], ["same", 1 + n]] for n in range(40)], ["set", ["same", 41]]]
    ),
    "lists that unfold": written(["list", ["list", 0], *[["list", ["same", 1 + n], ["same", 1 + n]] for n in range(40)]]),
    "column used again": written(["rows", "", ["ints", "b", "little", 0], *[["same", 1]] * 1000], bytes(10_000)),
    "column used by many": written(["list", ["bools", 0], *[["rows", "", ["same", 1]]] * 100], bytes(20_000)),
    "collection of another's list": written(["list", ["bools", 0], ["long tuple", ["same", 1]]], b"x"),
    "rows of too little": written(["records", ["a"], ["bools", 0]], bytes(200_000)),
    "one tuple hashed for ever": written(
        ["list", ["long tuple", ["bools", 0]], ["tuple", *[["same", 1]] * 100], *[["set", ["same", 3]]] * 3000], bytes(10_000)
    ),
    "shared bytes that unfold": written(["list", ["bytes", 0], ["tuple", *[["same", 1]] * 2000]], bytes(1 << 20)),
    "shared text that unfolds": written(["list", {"": ["\x01" * 100_000]}, *[["same", 1]] * 2000]),
    "shared path that unfolds": written(["list", ["list", ["PosixPath", "a" * 60_000]], *[["same", 1]] * 20_000]),
    "flags that would stay": written(["flags", "Right", 1 << 40]),
    "keys of one hash": written(["set", *[["int", place] for place in range(3000)]], *[
        (1 + place * (2**61 - 1)).to_bytes(16, "big") for place in range(3000)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_data_is_refused_in_no_time(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(Undecodable):
        decoded(FORGED[name])
    assert time.monotonic() - started < 2


def _keys_on_one_way(bits: int) -> list[int]:
    """A long way over a table of that size, and as many that have to go it to the end before they find a place."""
    size, way = 1 << bits, [1]
    while len(way) < size * 0.45:
        way.append((5 * way[-1] + 1) % size)
    order, found = random.Random(5), {place: number for number, place in enumerate(way)}
    after: list[int] = []
    while len(after) < size // 5:
        key = rest = order.randrange(size, size << 6)
        place = key % size
        while rest >> 5 and place in found:
            rest >>= 5
            place = (5 * place + rest + 1) % size
        if found.get(place, size) < len(way) // 3:
            after.append(key)
    return way + list(dict.fromkeys(after))


def test_keys_that_go_one_way_over_the_table_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_QUICK", -1.0)
    honest: list[list[Any]] = [
        [place * 8192 for place in range(20_000)],
        [place / 1024 for place in range(20_000)],
        [(place >> 7, place & 127) for place in range(20_000)],
        [random.Random(3).getrandbits(62) for _ in range(20_000)],
    ]
    for keys in honest:
        assert there_and_back(dict.fromkeys(keys, 1)) == dict.fromkeys(keys, 1) and there_and_back(set(keys)) == set(keys)
        assert there_and_back(frozenset(keys)) == frozenset(keys)
    with pytest.raises(Undecodable, match="same way"):
        decoded(encoded(dict.fromkeys(_keys_on_one_way(12), 1)))


Many: Any = enum.Flag("Many", [f"BIT_{bit}" for bit in range(16)])  # type: ignore[misc]


def test_few_combinations_of_flags_are_kept() -> None:
    with pytest.raises(Undecodable, match="combinations"):
        decoding.decode(written(["list", *[["flags", "Many", number] for number in range(20_000)]]), {"Many": Many})
    assert len(Many._value2member_map_) < 10_100


@pytest.mark.parametrize(
    "node, buffers",
    [
        (["records", ["a", "b", "c"], ["bools", 0], ["bools", 1], ["bools", 2]], [bytes(1 << 17)] * 3),
        (["list", *[["set"]] * (1 << 16)], []),
        (["ints", "b", "little", 0], [b"\x80" * (1 << 18)]),
        (
            ["each", "range", *[["ints", "b", "little", place] for place in range(3)]],
            [b"\x80" * (1 << 17)] * 2 + [b"\1" * (1 << 17)],
        ),
        ({"": [[]] * (1 << 17)}, []),
    ],
)
def test_what_comes_out_takes_a_bounded_multiple_of_what_came_in(node: Any, buffers: list[bytes]) -> None:
    data = written(node, *buffers)
    tracemalloc.start()
    try:
        decoded(data)
    except Undecodable as error:
        assert "unfolds" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100 * len(data) + (8 << 20)


def test_a_text_without_an_end_is_found_out_in_no_time() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        started = time.monotonic()
        for text in (b'"\\' * 200_000, b'["' + b"x" * 10_000_000):
            with pytest.raises(Undecodable):
                decoded(len(text).to_bytes(8, "big") + text)
        assert time.monotonic() - started < 20
    finally:
        sys.setrecursionlimit(limit)


def test_changed_data_is_refused_or_is_other_data() -> None:
    """A short run; 100,000 of these take a minute and a half."""
    order = random.Random(7)
    when = datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc)  # noqa: UP017
    originals = [
        encoded(value)
        for value in (
            {"a": [1, 2.5, None, "text", {"b": []}], "t": (1, {2, 3}), "when": when, "d": decimal.Decimal("1.5")},
            [{"id": n, "point": Point(n, "y"), "pair": Pair(n, b"z")} for n in range(10)],
            [numpy.arange(4), uuid.UUID(int=5), ipaddress.ip_address("::1"), fractions.Fraction(1, 3), Colour.RED, range(3)],
            list(range(300)),
        )
    ]
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(4000):
        data = bytearray(order.choice(originals))
        for _ in range(order.randrange(1, 4)):
            place = order.randrange(len(data))
            change = order.randrange(4)
            if change == 0:
                data[place] = order.randrange(256)
            elif change == 1:
                del data[place : place + order.randrange(1, 20)]
            elif change == 2:
                data[place:place] = order.choice((b"[", b"]", b'"', b",", b"9" * 30, b'["list",', b'["same",0]', b"\xed\xa0\x80"))
            else:
                source = order.randrange(len(data))
                data[place:place] = data[source : source + order.randrange(1, 30)]
            data = data or bytearray(1)
        try:
            decoded(bytes(data))
            outcomes["data"] += 1
        except Undecodable:
            outcomes["refused"] += 1
    assert min(outcomes["data"], outcomes["refused"]) > 100


def test_encoder_needs_nothing_but_what_is_there(tmp_path: Path) -> None:
    """On a bare far side the encoder imports neither json nor any module of the types that it knows."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import codec, itertools, _json, _struct, _operator; before = set(sys.modules)\n"
        "codec.encode({'a': [1.5] * 9, 'b': (1, 2), 'c': {3}, 'd': 2**99}, {}.get)\n"
        "print(sorted(set(sys.modules) - before))"
    )
    folder = Path(codec.__file__).parent
    done = subprocess.run([sys.executable, "-ISc", program, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
