"""Arrays and scalars of numpy's, made of untrusted data."""

from __future__ import annotations

import math
from typing import Any

from .bounds import Undecodable

__all__ = ["array", "scalar"]

_UNITS = frozenset(("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"))
_MOST_DIMENSIONS = 32


def array(dtype: Any, shape: Any, order: Any, memory: Any) -> Any:
    """An array in that memory.

    :raises Undecodable: if these do not fit together
    """
    if type(shape) is not list or len(shape) > _MOST_DIMENSIONS or order not in ("C", "F"):
        raise Undecodable("an array has no shape")
    kind = _dtype(dtype)
    if not all(type(length) is int and length >= 0 for length in shape) or math.prod(shape) * kind.itemsize != len(memory):
        raise Undecodable("an array's shape does not fit its data")
    import numpy

    return _checked(numpy.frombuffer(memory, kind)).reshape(shape, order=order)


def scalar(dtype: Any, data: Any) -> Any:
    """A number of numpy's.

    :raises Undecodable: if it is none
    """
    kind = _dtype(dtype)
    if len(data) != kind.itemsize:
        raise Undecodable("a number has another size")
    import numpy

    return _checked(numpy.frombuffer(bytes(data), kind))[0]


def _checked(array: Any) -> Any:
    """Bytes that are no truth value and numbers that are no character make numpy misbehave."""
    if array.dtype.kind in "bU" and array.size:
        raw = array.view("u1" if array.dtype.kind == "b" else array.dtype.byteorder + "u4")
        if raw.max() > (1 if array.dtype.kind == "b" else 0x10FFFF):
            raise Undecodable("an array has impossible elements")
    return array


def _dtype(words: Any) -> Any:
    """Made of kind, size and byte order, each of them one of few."""
    try:
        import numpy
    except ImportError:
        raise Undecodable("it holds a numpy array, and numpy is not installed here") from None
    if type(words) is not list or len(words) not in (4, 6):
        raise Undecodable("an array has no type")
    native, kind, size, order, *unit = words
    if native not in ("little", "big") or type(kind) is not str or kind not in tuple("biufcSUmM") or order not in tuple("<>=|"):
        raise Undecodable("an array has an unknown type")
    if type(size) is not int or not 0 < size < 1 << 31 or (kind == "U" and size % 4):
        raise Undecodable("an array has elements of an unknown size")
    order = ("<" if native == "little" else ">") if order == "=" else order
    text = f"{order}{kind}{size // 4 if kind == 'U' else size}"
    if kind in "mM":
        name, count = unit
        if name not in _UNITS or type(count) is not int or not 0 < count < 1 << 31 or size != 8:
            raise Undecodable("an array has elements of an unknown unit")
        text += "" if name == "generic" else f"[{count}{name}]"
    elif unit:
        raise Undecodable("an array has an unknown type")
    return numpy.dtype(text)
