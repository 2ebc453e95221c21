"""What untrusted data may cost while it is decoded: bounds on nesting, on hash tables, on memory, and on what is shared."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Budget", "Undecodable", "Weights", "fill", "parsed"]

# How deep JSON may be nested; the limit on recursion, which keeps the parser from crashing, may have been raised.
_DEEPEST_JSON, _SAFE_RECURSION = 5000, 20_000
# Words of memory that may be made of each byte: of a text, the parser has made some already, and there are always so many.
_OF_TEXT, _OF_BUFFERS, _LEAST_BUDGET = 7, 14, 1 << 20
# Elements of what is shared, counted each time that it is referred to: so much is gone through when all is printed, but for what
# goes round, which may be gone through in many ways.
_MOST_UNFOLDED = 1 << 25
_SMALL_NUMBERS = frozenset((float, bool, type(None)))
_NUMBERS = _SMALL_NUMBERS | {int}
_FEW_CHARACTERS = 64
# Keys with one and the same hash make each lookup a search through all of them.
_MOST_COLLISIONS = 50
# Places of a table that are looked at in vain for each key, on average; multiples of 8192 have up to two dozen.
_MOST_PROBES = 50
# Seconds of processor time for a table, and for each of its keys, before that is looked at; and keys until the clock is.
_QUICK, _QUICK_EACH, _AT_ONCE = 0.05, 2e-6, 100
# Of these nobody else can know the hashes.
_SECRETLY_HASHED = frozenset((str, bytes))
# How many neighbours of a place a set looks at before it goes elsewhere.
_NEIGHBOURS = 9


class Undecodable(ValueError):
    """What arrived is not what an encoder writes, or more than is taken."""


def parsed(text: str) -> Any:
    """What a text says in JSON; raises Undecodable if reading it would take too much, ValueError if it is none."""
    if sys.getrecursionlimit() > _SAFE_RECURSION:
        _check_nesting(text)
    # Python's own limit on digits (4,300) keeps reading them from taking quadratic time, unless it was switched off.
    return json.loads(text, parse_int=None if 0 < sys.get_int_max_str_digits() <= 100_000 else _int)


def _int(text: str) -> int:
    if len(text) > 100:
        raise Undecodable("a number is too long")
    return int(text)


def _check_nesting(text: str) -> None:
    depth = 0
    # Nothing that has been taken is tried again: a text without an end would be, from each quotation mark.
    for token in re.finditer(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', text, re.DOTALL):
        depth += 1 if token[0] in "[{" else -1 if token[0] in "]}" else 0
        if depth > _DEEPEST_JSON:
            raise Undecodable("it is nested too deeply")


class Budget:
    """How much may be made of data of a size, in words of memory or steps."""

    def __init__(self, text: int, buffers: int) -> None:
        """:param text, buffers: bytes of them"""
        self._left = _LEAST_BUDGET + _OF_TEXT * text + _OF_BUFFERS * buffers

    def charge(self, cells: int) -> None:
        """Count what is made of few bytes; raises Undecodable if that is too much."""
        self._left -= cells
        if self._left < 0:
            raise Undecodable("it unfolds to too much")


class Weights:
    """How much there is to go through in something: elements and pieces of text, what is shared each time that it is met.

    :ivar open: identities of lists and dicts that are not finished, or are being gone through: within them they are not gone
        through again
    """

    def __init__(self, charge: Callable[[int], None]) -> None:
        self.open: set[int] = set()
        self._charge = charge
        self._known: dict[int, int] = {}
        self._made_of: dict[int, tuple[Any, Sequence[Any]]] = {}
        self._unfolded = 0

    def note(self, made: Any, words: Sequence[Any]) -> Any:
        """What it was made of, if it is no container and that is not small."""
        if not all(type(word) in _NUMBERS or (type(word) is str and len(word) < _FEW_CHARACTERS) for word in words):
            self._made_of[id(made)] = made, words
        return made

    def refer(self, value: Any) -> Any:
        """Count it once more; raises Undecodable if all that is shared becomes too much."""
        self._unfolded += self._of(value)
        if self._unfolded > _MOST_UNFOLDED:
            raise Undecodable("what is shared unfolds to too much")
        return value

    def _of(self, value: Any) -> int:
        if type(value) in _NUMBERS:
            return 1 if type(value) is not int else 1 + value.bit_length() // 64
        if type(value) is str:
            # Others are shown as up to ten characters each.
            return 1 + (len(value) // 16 if value.isprintable() else len(value) // 2)
        if isinstance(value, (bytes, bytearray)):
            return 1 + len(value) // 16
        known = self._known.get(id(value))
        if known is not None:
            return known
        if id(value) in self.open:
            return 1
        parts = self._parts(value)
        if parts is None:
            return 1 if type(value).__module__ != "numpy" else 1 + min(value.size, 1000)
        self._charge(1 + len(parts))
        self.open.add(id(value))
        weight = 1 + (len(parts) if set(map(type, parts)) <= _SMALL_NUMBERS else sum(map(self._of, parts)))
        self.open.discard(id(value))
        # What goes round may be more where it is met elsewhere; to go through it again and again takes as long as to show it.
        self._known[id(value)] = weight
        return weight

    def _parts(self, value: Any) -> Sequence[Any] | None:
        if id(value) in self._made_of:
            return self._made_of[id(value)][1]
        if isinstance(value, dict):
            return [*value, *value.values()]
        return list(value) if isinstance(value, (list, tuple, set, frozenset)) else None


def fill(made: Any, keys: list[Any], values: list[Any] | None = None) -> Any:
    """Put them into a dict or a set, if they spread well enough over its table.

    The time that it takes to hash what is shared has been counted where it was referred to.

    :raises Undecodable: if each insertion becomes a search
    """
    step = len(keys) or 1
    if len(keys) > _MOST_COLLISIONS and not set(map(type, keys)) <= _SECRETLY_HASHED:
        _check_hashes(keys)
        step = _AT_ONCE
    is_checked = False
    began = time.thread_time()
    for start in range(0, len(keys), step):
        some = keys[start : start + step]
        made.update(some if values is None else zip(some, values[start : start + step], strict=True))
        if not is_checked and time.thread_time() - began > _QUICK + _QUICK_EACH * start and step < len(keys):
            _check_spread(keys, 0 if values is not None else _NEIGHBOURS)
            is_checked = True
    return made


def _check_hashes(keys: list[Any]) -> None:
    # Sorted, not counted: a table of their hashes would be as bad.
    hashes = sorted(map(hash, keys))
    if any(first == last for first, last in zip(hashes, hashes[_MOST_COLLISIONS:], strict=False)):
        raise Undecodable("too many keys have the same hash")


def _check_spread(keys: list[Any], neighbours: int) -> None:
    """Go the ways of all keys over each table that is needed until all are in it, as dictobject.c and setobject.c do.

    That takes many times as long as they do, so it is for those alone that are slow.

    :raises Undecodable: if each insertion becomes a search, since keys with different hashes go the same way
    """
    hashes = list(map(hash, keys))
    held, size = 0, 8
    # A set becomes larger when it is full, a dict with the next key.
    while held < len(hashes) + (neighbours > 0):
        if neighbours:
            held = -(3 * (size - 1) // -5)
            larger = 1 << (held * (2 if held > 50_000 else 4)).bit_length()
        else:
            held, larger = 2 * size // 3, 2 * size
        if held > _MOST_COLLISIONS:
            _check_ways(hashes[:held], size, neighbours)
        size = larger


def _check_ways(hashes: list[int], size: int, neighbours: int) -> None:
    taken, mask, left = bytearray(size), size - 1, _MOST_PROBES * len(hashes)
    for number in hashes:
        place = number & mask
        if taken[place]:
            rest = number & 0xFFFF_FFFF_FFFF_FFFF
            while (free := taken.find(0, place, place + neighbours + 1 if place + neighbours <= mask else place + 1)) < 0:
                rest >>= 5
                place = (5 * place + rest + 1) & mask
                left -= 1
                if not left:
                    raise Undecodable("too many keys go the same way over a table")
            place = free
        taken[place] = 1
