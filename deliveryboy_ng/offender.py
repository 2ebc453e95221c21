"""Finds the object deep inside a call that keeps it from travelling, and says where it sits."""

from __future__ import annotations

import functools
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["find"]

_DEEPEST = 30


def find(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], can_travel: Callable[[Any], bool]) -> tuple[str, Any]:
    """The path to the innermost object for which *can_travel* says no, and the object."""
    parts = [(f"function {getattr(func, '__qualname__', type(func).__qualname__)!r}", func)]
    parts += [(f"argument {place}", value) for place, value in enumerate(args, 1)]
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for path, thing in parts:
        if not can_travel(thing):
            return _descend(path, thing, can_travel)
    return "the call", (func, args, kwargs)


def _descend(path: str, thing: Any, can_travel: Callable[[Any], bool]) -> tuple[str, Any]:
    seen = {id(thing)}
    for _ in range(_DEEPEST):
        for step, part in _parts(thing):
            if id(part) not in seen and not can_travel(part):
                seen.add(id(part))
                path, thing = path + step, part
                break
        else:
            break
    return path, thing


def _shown(key: Any) -> str:
    try:
        return reprlib.repr(key)
    except Exception:
        return f"<{type(key).__qualname__}>"


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield f"[{_shown(key)}]", value
            yield f" key {_shown(key)}", key
    elif isinstance(thing, (list, tuple)):
        yield from ((f"[{place}]", value) for place, value in enumerate(thing))
    elif isinstance(thing, (set, frozenset)):
        yield from ((f" member {_shown(value)}", value) for value in thing)
    elif isinstance(thing, types.FunctionType):
        yield from _parts_of_function(thing)
    elif isinstance(thing, types.MethodType):
        yield ".__self__", thing.__self__
        yield ".__func__", thing.__func__
    elif isinstance(thing, functools.partial):
        yield ".func", thing.func
        yield from ((f" argument {place}", value) for place, value in enumerate(thing.args, 1))
        yield from ((f" argument {name!r}", value) for name, value in thing.keywords.items())
    elif isinstance(thing, type):
        yield from ((f".{name}", value) for name, value in vars(thing).items())
    else:
        yield from _parts_of_instance(thing)


def _parts_of_function(func: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
        try:
            yield f" closure variable {name!r}", cell.cell_contents
        except ValueError:
            continue
    for name in _names(func.__code__):
        if name in func.__globals__:
            yield f" global {name!r}", func.__globals__[name]
    yield from ((f" default {place}", value) for place, value in enumerate(func.__defaults__ or (), 1))
    yield from ((f" default {name!r}", value) for name, value in (func.__kwdefaults__ or {}).items())
    yield from ((f".{name}", value) for name, value in vars(func).items())


def _names(code: types.CodeType) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
    return names


def _parts_of_instance(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if hasattr(thing, name) and name not in ("__dict__", "__weakref__"):
                yield f".{name}", getattr(thing, name)
    wrapped = getattr(thing, "__wrapped__", None)
    if wrapped is not None:
        yield ".__wrapped__", wrapped
