"""Decodes what worker/codec.py encodes, whoever wrote it.

Nothing here unpickles, imports by name, sets an attribute, or calls anything but the constructors of the types in
``_BY_WORDS`` and of the classes that the caller named, all with arguments that have been checked.  What comes out takes a
bounded multiple of what went in.
"""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from . import arrays, bounds
from .bounds import Undecodable
from .worker import system

__all__ = ["Undecodable", "decode"]

# What the encoder keeps to as well (a test compares them).  They cannot be imported from there: in a call that delivers
# further, the worker's modules are those that came with it, and the codec may not be among them.
_DEEPEST = 210
# Integers of a fraction, since reducing it takes quadratic time, in bits; digits of a decimal; characters of a path.
_LARGEST_OF_FRACTION = 1 << 13
_LONGEST_DECIMAL = 1 << 16
_LONGEST_WORD = 1 << 16
# Words of memory that a container takes, or one row of a table, besides what is in it.
_LIST, _TUPLE, _OBJECT = 8, 6, 20
_WORDS = {"rows": 7, "records": 25, "instances": 20, "each": 20}
# The same for a number; the interpreter has some small ones already, and no number of one byte but these is written.
_INT, _FLOAT = 5, 4
_UNCACHED = bytes(range(128, 251))
# Combinations of flags stay in their class for ever.
_MOST_COMBINATIONS = 10_000


def decode(data: bytes | bytearray | memoryview, accepts: Mapping[str, type], pieces: Iterable[Any] = ()) -> Any:
    """The value that was encoded.

    :param accepts: classes of which instances may be made, by the names that the encoder was told
    :param pieces: buffers that came apart from the rest: the large ones, if any did
    :raises Undecodable: if *data* makes no sense, or asks for anything else
    """
    try:
        return _Decoder(memoryview(data), accepts, list(pieces)).value()
    except RecursionError:
        raise Undecodable("it is nested too deeply") from None
    except Undecodable:
        raise
    except Exception as error:
        if system.is_of_a_handler(error):
            raise
        raise Undecodable(f"{type(error).__name__}: {str(error)[:500]}") from error


class _Decoder:
    def __init__(self, data: memoryview, accepts: Mapping[str, type], pieces: list[Any]) -> None:
        self.accepts = accepts
        self.data = data
        size = int.from_bytes(data[:8], "big")
        if len(data) < 8 + size:
            raise Undecodable("it ends too early")
        text = bytes(data[8 : 8 + size]).decode("utf-8", "surrogatepass")
        root = bounds.parsed(text)
        if type(root) is not list or len(root) != 2 or type(root[1]) is not list:
            raise Undecodable("it is no encoded value")
        self.root, sizes = root
        self.buffers: list[Any] = []
        place = 8 + size
        total = len(data) + sum(map(len, pieces))
        for length in sizes:
            if pieces and length == len(pieces[0]):
                self.buffers.append(pieces.pop(0))
                continue
            if type(length) is not int or length < 0 or place + length > len(data):
                raise Undecodable("a buffer is missing")
            self.buffers.append(data[place : place + length])
            place += length
        self.numbered: list[Any] = []
        self.charge = bounds.Budget(size, total - size).charge
        self.weights = bounds.Weights(self.charge)
        self.depth = 0
        self.combinations = 0

    def value(self) -> Any:
        return self.node(self.root)

    def node(self, node: Any) -> Any:
        kind = type(node)
        if kind is list:
            if self.depth > _DEEPEST:
                raise Undecodable("it is nested too deeply")
            self.depth += 1
            made = _DECODERS[node[0]](self, node)
            self.depth -= 1
            return made
        if kind is dict:
            (plain,) = node.values()
            if "" not in node or type(plain) not in (list, dict):
                raise Undecodable("it is no encoded value")
            self.numbered.append(plain)
            return plain
        return node

    def number(self) -> int:
        """A place for something that refers to what comes before it is made."""
        self.numbered.append(_UNFINISHED)
        return len(self.numbered) - 1

    def buffer(self, number: Any) -> Any:
        """Each of them once: else a few bytes could ask for any number of copies."""
        if type(number) is not int or not 0 <= number < len(self.buffers):
            raise Undecodable("there is no such buffer")
        data, self.buffers[number] = self.buffers[number], None
        if data is None:
            raise Undecodable("a buffer is used twice")
        return data

    def fill(self, made: Any, keys: list[Any], values: list[Any] | None = None) -> Any:
        """Put them into a dict or a set, if they can be hashed."""
        if values is not None and len(values) != len(keys):
            raise Undecodable("a key or a value is missing")
        bounds.fill(made, keys, values)
        self.charge(sys.getsizeof(made) // 8)
        return made

    def fresh_list(self, node: Any) -> list[Any]:
        """A list that is made here and nowhere else: copies of one would be many for few bytes."""
        if type(node) is list and node[:1] == ["same"]:
            raise Undecodable("a part is used twice")
        made = self.node(node)
        if type(made) is not list:
            raise Undecodable("a part is missing")
        return made

    def text(self, value: Any) -> str:
        if type(value) is not str or len(value) > _LONGEST_WORD:
            raise Undecodable("a text is missing or too long")
        return value

    def accepted(self, name: Any) -> type:
        if type(name) is not str or name not in self.accepts:
            raise Undecodable(f"it holds an instance of {str(name)[:200]}, which accepts does not name")
        return self.accepts[name]


_UNFINISHED = object()


def _ints(values: Sequence[Any], least: int, most: int) -> Sequence[int]:
    if not least <= len(values) <= most or not all(type(value) is int for value in values):
        raise Undecodable("numbers are missing")
    return values


# --- one tag after the other ------------------------------------------------------------------------------------------


def _same(self: _Decoder, node: list[Any]) -> Any:
    (number,) = _ints(node[1:], 1, 1)
    if not 0 <= number < len(self.numbered) or self.numbered[number] is _UNFINISHED:
        raise Undecodable("it refers to what is not there")
    return self.weights.refer(self.numbered[number])


def _list(self: _Decoder, node: list[Any]) -> list[Any]:
    made: list[Any] = []
    self.charge(_LIST + len(node))
    self.numbered.append(made)
    self.weights.open.add(id(made))
    made += map(self.node, node[1:])
    self.weights.open.discard(id(made))
    return made


def _dict(self: _Decoder, node: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    self.numbered.append(made)
    self.weights.open.add(id(made))
    # Each key before its value, as they were numbered.
    words = list(map(self.node, node[1:]))
    self.fill(made, words[::2], words[1::2])
    self.weights.open.discard(id(made))
    return made


def _numbers(codes: str) -> Callable[[_Decoder, list[Any]], list[Any]]:
    def decode(self: _Decoder, node: list[Any]) -> list[Any]:
        _, code, order, buffer = node
        if type(code) is not str or len(code) != 1 or code not in codes or order not in ("little", "big"):
            raise Undecodable("numbers of an unknown kind")
        data = bytes(self.buffer(buffer))
        numbers = array.array(code, data)
        cached = len(data.translate(None, _UNCACHED)) if code == "b" else 0
        self.charge(cached + (len(numbers) - cached) * (_FLOAT if code == "d" else _INT))
        if order != sys.byteorder:
            numbers.byteswap()
        made = numbers.tolist()
        self.numbered.append(made)
        return made

    return decode


def _bools(self: _Decoder, node: list[Any]) -> list[Any]:
    data = memoryview(self.buffer(node[1]))
    self.charge(len(data))
    made: list[Any] = data.cast("?").tolist()
    self.numbered.append(made)
    return made


def _columns(self: _Decoder, nodes: list[Any], tag: str) -> list[list[Any]]:
    columns = list(map(self.fresh_list, nodes))
    if not columns or len(set(map(len, columns))) != 1:
        raise Undecodable("columns are missing")
    self.charge(len(columns[0]) * (len(columns) + _WORDS[tag]))
    return columns


def _records(self: _Decoder, node: list[Any]) -> list[dict[str, Any]]:
    place = self.number()
    names = node[1]
    columns = _columns(self, node[2:], node[0])
    if type(names) is not list or len(names) != len(columns) or not all(type(name) is str for name in names):
        raise Undecodable("columns are missing")
    made = [dict(zip(names, row)) for row in zip(*columns)]  # noqa: B905 - their lengths have been compared
    self.numbered[place] = made
    return made


def _rows(self: _Decoder, node: list[Any]) -> list[Any]:
    place = self.number()
    columns = _columns(self, node[2:], node[0])
    made: list[Any] = list(zip(*columns, strict=True))
    if node[1]:
        kind = self.accepted(node[1])
        if not issubclass(kind, tuple):
            raise Undecodable(f"{kind.__name__} is no named tuple")
        made = [_constructed(kind, row, {}) for row in made]
    self.numbered[place] = made
    return made


def _instances(self: _Decoder, node: list[Any]) -> list[Any]:
    place = self.number()
    _, kind, names, *nodes = node
    make = _maker(self, kind, names)
    made = [make(row) for row in zip(*_columns(self, nodes, node[0]), strict=True)]
    self.numbered[place] = made
    return made


def _each(self: _Decoder, node: list[Any]) -> list[Any]:
    place = self.number()
    make = _BY_WORDS[self.text(node[1])]
    made = [self.weights.note(make(row), row) for row in zip(*_columns(self, node[2:], node[0]), strict=True)]
    self.numbered[place] = made
    return made


def _long_dict(self: _Decoder, node: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    self.numbered.append(made)
    self.weights.open.add(id(made))
    keys, values = (self.fresh_list(each) for each in node[1:])
    self.fill(made, keys, values)
    self.weights.open.discard(id(made))
    return made


def _tuple(self: _Decoder, node: list[Any]) -> tuple[Any, ...]:
    place = self.number()
    self.charge(_TUPLE + len(node))
    self.numbered[place] = made = tuple(map(self.node, node[1:]))
    return made


def _long_tuple(self: _Decoder, node: list[Any]) -> tuple[Any, ...]:
    place = self.number()
    self.numbered[place] = made = tuple(self.fresh_list(node[1]))
    self.charge(_TUPLE + len(made))
    return made


def _set(make: Callable[[list[Any]], Any], long: bool) -> Callable[[_Decoder, list[Any]], Any]:
    def decode(self: _Decoder, node: list[Any]) -> Any:
        place = self.number()
        parts = self.fresh_list(node[1]) if long else list(map(self.node, node[1:]))
        found = self.fill(set(), parts)
        # Not of that set, which would come to a table of another size.
        self.numbered[place] = made = found if make is set else make(parts)
        return made

    return decode


def _as_bytearray(data: Any) -> bytearray:
    return data if type(data) is bytearray else bytearray(data)


def _bytes(make: Callable[[memoryview], Any]) -> Callable[[_Decoder, list[Any]], Any]:
    def decode(self: _Decoder, node: list[Any]) -> Any:
        made = make(self.buffer(node[1]))
        self.numbered.append(made)
        return made

    return decode


def _of_words(make: Callable[[Sequence[Any]], Any]) -> Callable[[_Decoder, list[Any]], Any]:
    def decode(self: _Decoder, node: list[Any]) -> Any:
        self.charge(_OBJECT)
        words = list(map(self.node, node[1:]))
        return self.weights.note(make(words), words)

    return decode


def _of_text(make: Callable[[str], Any], longest: int = _LONGEST_WORD) -> Callable[[Sequence[Any]], Any]:
    def decode(words: Sequence[Any]) -> Any:
        (text,) = words
        if type(text) is not str or len(text) > longest:
            raise Undecodable("a text is missing or too long")
        return make(text)

    return decode


def _big_int(self: _Decoder, node: list[Any]) -> int:
    return int.from_bytes(self.buffer(node[1]), "big", signed=True)


def _complex(words: Sequence[Any]) -> complex:
    real, imag = words
    if type(real) is not float or type(imag) is not float:
        raise Undecodable("a complex number is not made of two others")
    return complex(real, imag)


def _time(words: Sequence[Any]) -> datetime.time:
    *numbers, zone, fold = words
    hour, minute, second, microsecond, fold = _ints([*numbers, fold], 5, 5)
    return datetime.time(hour, minute, second, microsecond, _zone(zone), fold=fold)


def _datetime(words: Sequence[Any]) -> datetime.datetime:
    *numbers, zone, fold = words
    year, month, day, hour, minute, second, microsecond, fold = _ints([*numbers, fold], 8, 8)
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, _zone(zone), fold=fold)


def _zone(zone: Any) -> datetime.timezone | None:
    if zone is not None and type(zone) is not datetime.timezone:
        raise Undecodable("a time zone is something else")
    return zone


def _timezone(words: Sequence[Any]) -> datetime.timezone:
    offset, name = words
    if type(offset) is not datetime.timedelta or type(name) not in (str, type(None)):
        raise Undecodable("a time zone is something else")
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


def _fraction(words: Sequence[Any]) -> fractions.Fraction:
    numerator, denominator = _ints(words, 2, 2)
    if max(numerator.bit_length(), denominator.bit_length()) > _LARGEST_OF_FRACTION:
        raise Undecodable("a fraction is too long")
    return fractions.Fraction(numerator, denominator)


def _slice(words: Sequence[Any]) -> slice:
    start, stop, step = words
    return slice(start, stop, step)


def _member(self: _Decoder, node: list[Any]) -> Any:
    _, name, member = node
    kind = self.accepted(name)
    if not issubclass(kind, enum.Enum):
        raise Undecodable(f"{kind.__name__} is no enum")
    return kind.__members__[self.text(member)]


def _flags(self: _Decoder, node: list[Any]) -> Any:
    _, name, value = node
    kind = self.accepted(name)
    if not issubclass(kind, enum.Flag):
        raise Undecodable(f"{kind.__name__} has no such member")
    (number,) = _ints([self.node(value)], 1, 1)
    known = 0
    for member in kind.__members__.values():
        known |= member.value if type(member.value) is int else 0
    # An unknown bit would make a member that the class keeps for ever.
    if number & ~known:
        raise Undecodable(f"{kind.__name__} has no such flags")
    self.combinations += number not in kind._value2member_map_
    if self.combinations > _MOST_COMBINATIONS:
        raise Undecodable(f"too many combinations of {kind.__name__}")
    return kind(number)


def _fields(self: _Decoder, node: list[Any]) -> Any:
    place = self.number()
    make = _maker(self, node[1], node[2::2])
    self.charge(_OBJECT)
    values = list(map(self.node, node[3::2]))
    self.numbered[place] = made = make(values)
    return made


def _maker(self: _Decoder, name: Any, names: Any) -> Callable[[Sequence[Any]], Any]:
    """Makes an accepted dataclass of the values of the fields of these names."""
    kind = self.accepted(name)
    known = {field.name for field in fields(kind) if field.init} if is_dataclass(kind) else set()
    if type(names) is not list or not known.issuperset(map(self.text, names)):
        raise Undecodable(f"{kind.__name__} is no dataclass with these fields")

    def make(values: Sequence[Any]) -> Any:
        made = _constructed(kind, (), dict(zip(names, values, strict=True)))
        for field, value in zip(names, values, strict=True):
            _check_kept(made, field, value)
        return self.weights.note(made, values)

    return make


def _check_kept(made: Any, field: str, value: Any) -> None:
    """A ``__post_init__`` has been at work over there already; what makes something else of its own work would falsify it."""
    try:
        kept = getattr(made, field)
        if _is_same(kept, value):
            return
    except Exception:
        pass  # whatever the class does when it is looked at
    raise Undecodable(f"{type(made).__name__} makes another {field} of the one that it was given")


def _is_same(one: Any, other: Any) -> bool:
    """Whether they are the same, or alike: a copy, say, with what is no number where there was none."""
    if one is other or (type(one) is type(other) is float and math.isnan(one) and math.isnan(other)):
        return True
    if hasattr(one, "dtype") and hasattr(other, "dtype"):
        import numpy

        return bool(numpy.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if type(one) is type(other) and type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if type(one) is type(other) is dict:
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if type(one) is type(other) and is_dataclass(one):
        return all(_is_same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return bool(one == other)


def _tuple_of(self: _Decoder, node: list[Any]) -> Any:
    kind = self.accepted(node[1])
    if not issubclass(kind, tuple):
        raise Undecodable(f"{kind.__name__} is no named tuple")
    place = self.number()
    self.charge(_TUPLE + len(node))
    self.numbered[place] = made = _constructed(kind, list(map(self.node, node[2:])), {})
    return made


def _constructed(kind: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return kind(*args, **kwargs)
    except Exception as error:
        if system.is_of_a_handler(error):
            raise
        raise Undecodable(f"{getattr(kind, '__name__', kind)} refuses its fields: {type(error).__name__}: {error}") from error


def _array(self: _Decoder, node: list[Any]) -> Any:
    _, dtype, shape, order, buffer = node
    data = self.buffer(buffer)
    # What came by itself is nobody else's, and can be written to.
    is_ours = isinstance(data, memoryview) and not data.readonly and data.obj is not self.data.obj
    made = arrays.array(dtype, shape, order, data if is_ours else bytearray(data))
    self.numbered.append(made)
    return made


def _scalar(self: _Decoder, node: list[Any]) -> Any:
    _, dtype, buffer = node
    return arrays.scalar(dtype, self.buffer(buffer))


_BY_WORDS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "complex": _complex,
    "range": lambda words: range(*_ints(words, 3, 3)),
    "slice": _slice,
    "date": lambda words: datetime.date(*_ints(words, 3, 3)),
    "time": _time,
    "datetime": _datetime,
    "timedelta": lambda words: datetime.timedelta(*_ints(words, 3, 3)),
    "timezone": _timezone,
    "Decimal": _of_text(decimal.Decimal, _LONGEST_DECIMAL),
    "Fraction": _fraction,
    "UUID": _of_text(uuid.UUID, 32),
    "PurePosixPath": _of_text(pathlib.PurePosixPath),
    "PureWindowsPath": _of_text(pathlib.PureWindowsPath),
    "PosixPath": _of_text(pathlib.PosixPath),
    "WindowsPath": _of_text(pathlib.WindowsPath),
    **{
        f"IPv{version}{kind}": _of_text(getattr(ipaddress, f"IPv{version}{kind}"), 100)
        for version in "46"
        for kind in ("Address", "Network", "Interface")
    },
}
_DECODERS: dict[str, Callable[[_Decoder, list[Any]], Any]] = {
    "same": _same,
    "list": _list,
    "dict": _dict,
    "long dict": _long_dict,
    "tuple": _tuple,
    "set": _set(set, False),
    "frozenset": _set(frozenset, False),
    "long tuple": _long_tuple,
    "long set": _set(set, True),
    "long frozenset": _set(frozenset, True),
    "ints": _numbers("bhiq"),
    "floats": _numbers("d"),
    "bools": _bools,
    "records": _records,
    "rows": _rows,
    "instances": _instances,
    "each": _each,
    "bytes": _bytes(bytes),
    "bytearray": _bytes(_as_bytearray),
    "int": _big_int,
    "member": _member,
    "flags": _flags,
    "fields": _fields,
    "tuple of": _tuple_of,
    "array": _array,
    "scalar": _scalar,
    **{tag: _of_words(make) for tag, make in _BY_WORDS.items()},
}
