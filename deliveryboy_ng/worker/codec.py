"""Encodes a value as data: what arrives can be decoded without running, importing or constructing anything unforeseen.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process.  The near side's half is decoding.py.

An encoded value is the size of a JSON text in 8 bytes, that text in UTF-8 (lone surrogates included), and buffers.  The text
is ``[node, [size of each buffer]]``, and a node is

    null, true, 1, 1.5, "text"      itself (integers of 64 bits)
    {"": list or dict}              plain data: nothing in it but the above, lists, and dicts with str as keys
    ["tag", ...]                    anything else, see ``_ENCODERS``; ["same", n] is the nth that was numbered

Lists of many things of one kind go by columns: numbers as one buffer, dicts with the same keys as a list for each key.

Numbered, in the order in which they begin, are plain data, containers and bytes: so what is shared stays shared, and lists
and dicts may contain themselves.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_json: "Any"
try:
    # Not the json module, which costs ten times as much; and at once: later there may be no descriptor left to open it with.
    import _json
except ImportError:
    _json = None

DEEPEST = 200
# Characters of a decimal, a path and the like, bits of a fraction's numbers.
LONGEST_WORD, LARGEST_OF_FRACTION = 1 << 16, 1 << 13
MOST_RECORDS = 20  # exceptions that belong to one
_LARGEST_INT = 1 << 63
# How deep below something that is not plain data it is still looked for at once; each level looks through what is below it.
_PLAIN_BELOW = 6
# Lists shorter than that are not looked at for columns.
_FEW = 8
# Bytes of an array that is copied rather than looked at as it is.
_COPIED = 1 << 16
_SCALARS = frozenset((str, int, float, bool, type(None)))
_PLAIN = _SCALARS | {list, dict}


class Unencodable(Exception):
    """A value that is no data; the text tells where it sits and what it is."""

    def __init__(self, path: "tuple[Any, ...]", reason: str) -> None:
        super().__init__("value%s %s" % ("".join(path), reason))


_accepted_names: "frozenset[str]" = frozenset()


def accept(names: "list[str]") -> None:
    """The classes whose instances may be sent besides what is built in: ``module:qualname``, or the number of one that
    travelled by value.
    """
    global _accepted_names
    _accepted_names = frozenset(names)


def _name_accepted(kind: type) -> "str | None":
    from . import rebuild

    number = rebuild.number_of(kind)
    name = "%s:%s" % (kind.__module__, kind.__qualname__) if number is None else number
    return name if name in _accepted_names else None


def dumps(value: object) -> bytes:
    """The encoded value, whole; see :func:`encode`."""
    return b"".join(encode(value, _name_accepted))


def dump_apart(value: object) -> "tuple[list[Any], bool]":
    """The same, in parts as :class:`bulk.Parts` takes them; and whether they are of a pickle."""
    return encode(value, _name_accepted), False


def dumps_error(error: BaseException) -> bytes:
    """What an exception consists of besides its class, its text and those that belong to it."""
    attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
    extra = {}
    for name in (
        ("filename", "filename2") if isinstance(error, OSError) else ("name", "path") if isinstance(error, ImportError) else ()
    ):
        value = getattr(error, name, None)
        if isinstance(value, str):
            extra[name] = value
    from . import failure

    args = error.args[:1] if failure.is_group(error) else error.args
    return dumps([list(args), attributes, extra])


class _Shared(Exception):
    """Something within plain data is referred to from elsewhere too."""


def encode(value: object, name_of: "Callable[[type], str | None]") -> "list[bytes]":
    """The pieces of the encoded *value*.

    :param name_of: names the classes of which instances may be sent besides what is built in
    :raises Unencodable: if something in it is no data
    """
    try:
        return _Encoder(name_of, True).encode(value)
    except _Shared:
        return _Encoder(name_of, False).encode(value)


class _Encoder:
    def __init__(self, name_of: "Callable[[type], str | None]", plain: bool) -> None:
        self.name_of = name_of
        self.names: "dict[type, str | None]" = {}
        self.plain = plain
        # By identity; and all that is numbered is kept, or another object might come to have the same.
        self.numbers: "dict[int, int]" = {}
        self.kept: "list[object]" = []
        self.within_plain: "set[int]" = set()
        self.open: "set[int]" = set()
        self.buffers: "list[bytes]" = []

    def encode(self, value: object) -> "list[bytes]":
        node = self.node(value, (), 0, 0)
        text = _to_json([node, [len(buffer) for buffer in self.buffers]]).encode("utf-8", "surrogatepass")
        return [len(text).to_bytes(8, "big"), text, *self.buffers]

    def node(self, value: "Any", path: "Any", depth: int, below: int) -> object:
        """*below*: how far above something that is not plain data was found."""
        kind = type(value)
        if kind in _SCALARS:
            if kind is int and not -_LARGEST_INT <= value < _LARGEST_INT:
                return ["int", self.buffer(value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))]
            return value
        number = self.numbers.get(id(value))
        if number is not None:
            if id(value) in self.open:
                raise Unencodable(path, "contains itself through a %s, which data cannot say" % kind.__name__)
            return ["same", number]
        if id(value) in self.within_plain:
            raise _Shared
        if depth > DEEPEST:
            raise Unencodable(path[:6] + (" ... ",), "is nested more than %d deep" % DEEPEST)
        if self.plain and (kind is list or kind is dict) and len(value) >= _FEW:
            node = self.columns(value, path, depth) if kind is list else self.long_dict(value, path, depth)
            if node is not None:
                return node
        if (kind is list or kind is dict) and self.plain and below < _PLAIN_BELOW:
            containers = _plain_containers(value)
            if containers is not None:
                # Of a set and the keys of a dict, the fewer are gone through; of a set and a dict, all of the latter.
                if not self.within_plain.isdisjoint(containers) or not self.numbers.keys().isdisjoint(containers):
                    raise _Shared
                self.number(value)
                small, self.within_plain = sorted((containers, self.within_plain), key=len)
                self.within_plain |= small
                self.within_plain.discard(id(value))
                return {"": value}
        encoder = _ENCODERS.get(kind) or self.for_class(kind, value)
        if encoder is None:
            raise Unencodable(path, "is a %s.%s" % (kind.__module__, kind.__qualname__))
        return encoder(self, value, path, depth + 1, below + 1)

    def accepted(self, kind: type) -> "str | None":
        """The name of a class of which instances may be sent."""
        if kind not in self.names:
            self.names[kind] = self.name_of(kind)
        return self.names[kind]

    def number(self, value: object) -> None:
        self.numbers[id(value)] = len(self.kept)
        self.kept.append(value)

    def buffer(self, data: bytes) -> int:
        self.buffers.append(data)
        return len(self.buffers) - 1

    def items(self, tag: str, values: "Any", path: "Any", depth: int, below: int) -> "list[object]":
        node: "list[object]" = [tag]
        for place, value in enumerate(values):
            node.append(value if type(value) is str else self.node(value, (*path, "[%d]" % place), depth, below))
        return node

    def columns(self, value: "list[Any]", path: "Any", depth: int) -> "list[object] | None":
        """A list of things of one kind, if they go by columns."""
        kinds = set(map(type, value))
        if kinds == {bool}:
            self.number(value)
            return ["bools", self.buffer(bytes(value))]
        if len(kinds) != 1:
            return None
        kind = kinds.pop()
        if kind is float or kind is int:
            code = "d" if kind is float else _code_for(value)
            if code:
                self.number(value)
                return [kind.__name__ + "s", code, sys.byteorder, self.buffer(_array_of(code, value))]
            return None
        found = self.table(kind, value)
        if found is None:
            return None
        head, names, columns = found
        self.number(value)
        return [*head, *[self.node(list(column), (*path, "[...]", name), depth + 1, 0) for name, column in zip(names, columns)]]

    def long_dict(self, value: "dict[Any, Any]", path: "Any", depth: int) -> "list[object] | None":
        """A dict of numbers."""
        kinds = set(map(type, value.values()))
        return _dict(self, value, path, depth, 0) if kinds == {int} or kinds == {float} else None  # type: ignore[return-value]

    def table(self, kind: "Any", rows: "list[Any]") -> "tuple[list[object], Any, Any] | None":
        """The node's beginning, what the columns are called, and the columns."""
        accepted = self.accepted(kind)
        found: "tuple[list[object], Any, Any]"
        if kind is dict:
            keys = set(map(tuple, rows))
            # Of a single column there would be too few bytes for what they unfold to.
            if len(keys) != 1 or min(map(len, keys)) < 2 or {str}.union(*(map(type, key) for key in keys)) != {str}:
                return None
            (names,) = keys
            found = ["records", list(names)], ["[%.100r]" % name for name in names], _columns_of(rows, names)
        elif kind is tuple or (accepted and issubclass(kind, tuple)):
            if len(set(map(len, rows))) != 1 or not rows[0]:
                return None
            found = (
                ["rows", accepted or ""],
                ["[%d]" % place for place in range(len(rows[0]))],
                _columns_of(rows, range(len(rows[0]))),
            )
        elif accepted and hasattr(kind, "__dataclass_fields__"):
            fields = _fields_of(kind)
            if len(fields) < 2 or any(_more_than_fields(row) for row in rows):
                return None
            found = (
                ["instances", accepted, fields],
                ["." + name for name in fields],
                ([getattr(row, name) for row in rows] for name in fields),
            )
        else:
            words = _BY_WORDS.get(_name_of(kind))
            if words is None:
                return None
            columns = list(zip(*map(words[1], rows)))
            if any(_is_too_long(words[0], column) for column in columns):
                return None  # one after the other it is said which one
            return ["each", words[0]], [""] * 20, columns
        # What is not numbered must not be met again.
        here = set(map(id, rows))
        if len(here) != len(rows):
            return None
        if not here.isdisjoint(self.within_plain) or not self.numbers.keys().isdisjoint(here):
            raise _Shared
        self.within_plain |= here
        return found

    def for_class(self, kind: type, value: "Any") -> "Callable[..., object] | None":
        module = kind.__module__
        if self.accepted(kind):
            return _accepted
        if module == "numpy":
            numpy = sys.modules["numpy"]
            if kind is numpy.ndarray:
                return _array
            if issubclass(kind, numpy.generic):
                return _scalar
        return _by_name(kind)


def _plain_containers(root: "Any") -> "set[int] | None":
    """The identities of all lists and dicts in *root*, itself included, if it is plain data and none of them is shared.

    Level by level, since so all loops run in C.
    """
    from itertools import chain

    level, kinds = [root], {type(root)}
    seen: "set[int]" = set()
    for _ in range(DEEPEST):
        here = set(map(id, level))
        if len(here) != len(level) or not here.isdisjoint(seen):
            return None
        # Of two sets the smaller is the cheaper one to go through.
        small, seen = sorted((here, seen), key=len)
        seen |= small
        lists = level if kinds == {list} else [value for value in level if type(value) is list]
        dicts = level if kinds == {dict} else [value for value in level if type(value) is dict]
        if dicts and set(map(type, chain.from_iterable(dicts))) - {str}:
            return None
        values = list(chain(chain.from_iterable(lists), chain.from_iterable(map(dict.values, dicts))))
        found = set(map(type, values))
        if found - _PLAIN:
            return None
        if int in found:
            numbers = values if found == {int} else [value for value in values if type(value) is int]
            if max(numbers) >= _LARGEST_INT or min(numbers) < -_LARGEST_INT:
                return None
        kinds = found & {list, dict}
        if not kinds:
            return seen
        level = values if kinds == found else [value for value in values if type(value) is list or type(value) is dict]
    return None


def _columns_of(rows: "list[Any]", keys: "Any") -> "Any":
    from _operator import itemgetter

    return (map(itemgetter(key), rows) for key in keys)


def _code_for(numbers: "list[int]") -> str:
    """The smallest of array's type codes that takes them all, or nothing."""
    least, most = min(numbers), max(numbers)
    # Below -5 each takes so much memory over there that two bytes shall stand for it.
    for code, bits in (("b", 7), ("h", 15), ("i", 31), ("q", 63))[least < -5 :]:
        if -(1 << bits) <= least and most < 1 << bits:
            return code
    return ""


def _array_of(code: str, numbers: "list[Any]") -> bytes:
    # The array module imports collections, which costs more than all the rest.
    from _struct import pack

    return pack("%d%s" % (len(numbers), code), *numbers)


def _to_json(node: object) -> str:
    if _json is None:
        import json

        return json.dumps(node, ensure_ascii=False, separators=(",", ":"), check_circular=False)
    return "".join(_json.make_encoder(None, None, _json.encode_basestring, None, ":", ",", False, False, True)(node, 0))


# --- one type after the other: (encoder, value, path, depth, below) -> node -------------------------------------------


def _list(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    self.number(value)
    return self.items("list", value, path, depth, below)


def _dict(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    self.number(value)
    if len(value) >= _FEW:
        keys = self.node(list(value), (*path, " key "), depth, below)
        return ["long dict", keys, self.node(list(value.values()), (*path, " value "), depth, below)]
    node: "list[object]" = ["dict"]
    for key, item in value.items():
        if type(key) is not str:
            key = self.node(key, (*path, " key "), depth, below)
        node.append(key)
        node.append(item if type(item) is str else self.node(item, (*path, "[%.100r]" % (key,)), depth, below))
    return node


def _immutable(tag: str) -> "Callable[..., object]":
    def encode(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
        self.number(value)
        self.open.add(id(value))
        if len(value) >= _FEW:
            node: "list[object]" = ["long " + tag, self.node(list(value), path, depth, below)]
        else:
            node = self.items(tag, value, path, depth, below)
        self.open.discard(id(value))
        return node

    return encode


def _bytes(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    self.number(value)
    return [type(value).__name__, self.buffer(value)]


def _accepted(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    """An enum member, dataclass or named tuple of a class that the caller named."""
    kind = type(value)
    name = self.accepted(kind)
    if hasattr(kind, "__members__"):
        if value.name in kind.__members__:
            return ["member", name, value.name]
        return ["flags", name, self.node(value.value, path, depth, below)]
    reason = _more_than_fields(value)
    if reason:
        raise Unencodable(path, "is a %s.%s, %s" % (kind.__module__, kind.__qualname__, reason))
    self.number(value)
    self.open.add(id(value))
    if hasattr(kind, "__dataclass_fields__"):
        node: "list[object]" = ["fields", name]
        for field in _fields_of(kind):
            node += [field, self.node(getattr(value, field), (*path, "." + field), depth, below)]
    else:
        node = self.items("tuple of", value, path, depth, below)
        node.insert(1, name)
    self.open.discard(id(value))
    return node


def _fields_of(kind: "Any") -> "list[str]":
    """What a dataclass's constructor takes and its instances have."""
    return [field.name for field in kind.__dataclass_fields__.values() if field.init and field._field_type.name == "_FIELD"]


_CONTENTS = (list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex)


def _more_than_fields(value: "Any") -> str:
    """What an instance has besides that which its constructor takes."""
    kind = type(value)
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is None:
        return "which has attributes of its own" if getattr(value, "__dict__", None) else ""
    if issubclass(kind, _CONTENTS):
        return "which is not only a dataclass"
    if set(getattr(value, "__dict__", ())) - set(fields):
        return "which has attributes of its own"
    for field in fields.values():
        if field._field_type.name == "_FIELD_INITVAR":
            return "which takes %s without keeping it" % field.name
    made = [field.name for field in fields.values() if not field.init and field._field_type.name == "_FIELD"]
    return _not_made_anew(value, made) if made else ""


def _not_made_anew(value: "Any", names: "list[str]") -> str:
    """What the constructor, which does not take these, would make another of than what the instance has."""
    kind = type(value)
    try:
        twin = kind(**{name: getattr(value, name) for name in _fields_of(kind)})
    except Exception as error:
        return "whose constructor does not take its fields again: %s" % type(error).__name__
    for name in names:
        try:
            ours, anew = getattr(value, name, None), getattr(twin, name, None)
            same = ours is anew or bool(ours == anew)
        except Exception:
            same = False
        if not same:
            return "which has a %s that its constructor does not take, and does not make" % name
    return ""


_KINDS = "biufcSUmM"


def _dtype(kind: "Any", path: "Any") -> "list[Any]":
    unit: "list[Any]" = []
    if kind.kind in "mM":
        unit = list(sys.modules["numpy"].datetime_data(kind))
    if not kind.itemsize or kind.kind not in _KINDS or kind.fields is not None or kind.subdtype is not None:
        raise Unencodable(path, "is a numpy array of %s" % (kind,))
    return [kind.kind, kind.itemsize, kind.byteorder if kind.byteorder in "<>" else "=|"[kind.itemsize == 1], *unit]


def _array(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    self.number(value)
    dtype = _dtype(value.dtype, path)
    if value.ndim > 32:
        raise Unencodable(path, "is a numpy array of %d dimensions" % value.ndim)
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return ["array", [sys.byteorder, *dtype], list(value.shape), order, self.buffer(_memory_of(value, order))]


def _memory_of(array: "Any", order: str) -> "Any":
    if array.nbytes < _COPIED or not array.flags.contiguous:
        return array.tobytes(order)
    return memoryview((array if order == "C" else array.T).reshape(-1).view("u1"))


def _scalar(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
    return ["scalar", [sys.byteorder, *_dtype(value.dtype, path)], self.buffer(value.tobytes())]


_ENCODERS: "dict[Any, Callable[..., object]]" = {
    list: _list,
    dict: _dict,
    tuple: _immutable("tuple"),
    set: _immutable("set"),
    frozenset: _immutable("frozenset"),
    bytes: _bytes,
    bytearray: _bytes,
}


def _attributes(*names: str) -> "Callable[[Any], Any]":
    from _operator import attrgetter

    return attrgetter(*names)


_DATE, _TIME = ("year", "month", "day"), ("hour", "minute", "second", "microsecond", "tzinfo", "fold")
# Those that consist of a few values, by module and name: nothing is imported here for their sake, and whoever has an
# instance has imported them.
_BY_WORDS: "dict[str, tuple[str, Callable[[Any], Any]]]" = {
    "builtins.complex": ("complex", _attributes("real", "imag")),
    "builtins.range": ("range", _attributes("start", "stop", "step")),
    "builtins.slice": ("slice", _attributes("start", "stop", "step")),
    "datetime.date": ("date", _attributes(*_DATE)),
    "datetime.time": ("time", _attributes(*_TIME)),
    "datetime.datetime": ("datetime", _attributes(*_DATE, *_TIME)),
    "datetime.timedelta": ("timedelta", _attributes("days", "seconds", "microseconds")),
    "datetime.timezone": ("timezone", lambda value: (*value.__getinitargs__(), None)[:2]),
    "decimal.Decimal": ("Decimal", lambda value: (str(value),)),
    "fractions.Fraction": ("Fraction", _attributes("numerator", "denominator")),
    "uuid.UUID": ("UUID", lambda value: (value.hex,)),
}
for _kind in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
    _BY_WORDS["pathlib." + _kind] = _kind, lambda value: (str(value),)
for _kind in ("Address", "Network", "Interface"):
    for _version in "46":
        _BY_WORDS["ipaddress.IPv%s%s" % (_version, _kind)] = "IPv%s%s" % (_version, _kind), lambda value: (str(value),)


def _name_of(kind: type) -> str:
    """Module and name, if that is really it."""
    # pathlib is a package since 3.13, and its classes live in pathlib._local.
    module = kind.__module__.partition(".")[0]
    return "%s.%s" % (module, kind.__name__) if getattr(sys.modules.get(module), kind.__name__, None) is kind else ""


def _is_too_long(tag: str, words: "tuple[Any, ...]") -> bool:
    """Whether the other side would refuse to make something of one of these."""
    if tag == "Fraction":
        return max(map(int.bit_length, words)) > LARGEST_OF_FRACTION
    return str in set(map(type, words)) and any(type(word) is str and len(word) > LONGEST_WORD for word in words)


def _by_name(kind: type) -> "Callable[..., object] | None":
    found = _BY_WORDS.get(_name_of(kind))
    if found is None:
        return None
    tag, words = found

    def encode(self: _Encoder, value: "Any", path: "Any", depth: int, below: int) -> object:
        found = words(value)
        if _is_too_long(tag, found):
            raise Unencodable(path, "is a %s that is too long" % kind.__name__)
        return [tag] + [self.node(word, path, depth, below) for word in found]

    _ENCODERS[kind] = encode
    return encode
