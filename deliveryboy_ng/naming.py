"""What is found over there by the name that it has here, rather than packed."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from typing import Any

from . import modules as modules_
from .worker import rebuild

__all__ = ["ByName", "of_global", "of_mark", "of_method", "unwrapping_steps"]

# What has no identity that matters, or travels by name as it is.
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    tuple,
    frozenset,
    range,
    slice,
    types.CodeType,
    types.BuiltinFunctionType,
)


class ByName:
    """Stands for what a module has under a name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __deliveryboy_reduce__(self) -> tuple[Any, ...]:
        return getattr, (importlib.import_module(self.module), self.name)


def of_method(method: Any) -> ByName | None:
    """A bound method that a module hands out as a function, as ``random`` does: its object is that module's business."""
    owner, name = method.__self__, method.__name__
    if owner is None or isinstance(owner, (type, types.ModuleType)):
        return None
    for place in (getattr(method, "__module__", None), type(owner).__module__):
        if isinstance(place, str) and place != "builtins" and _is_of_the_library(place):
            namespace = vars(sys.modules[place]) if place in sys.modules else {}
            if namespace.get(name) is method:
                return ByName(place, name)
    return None


def of_mark(mark: object, anew: bool = False) -> ByName | None:
    """A plain ``object()``, which is known by its identity alone.

    :param anew: look at all modules again, of which some may have been reloaded since; that takes milliseconds
    """
    if anew:
        _marks.cache_clear()
    found = _marks(len(sys.modules)).get(id(mark))
    return found if found is not None and _has(found.module, found.name, mark) else None


def _has(module: str, name: str, value: object) -> bool:
    return module in sys.modules and vars(sys.modules[module]).get(name) is value


@functools.lru_cache(maxsize=1)
def _marks(_: int) -> dict[int, ByName]:
    found: dict[int, ByName] = {}
    for place, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and place not in rebuild.MAIN:
            for name, value in list(vars(module).items()):
                if type(value) is object:
                    found.setdefault(id(value), ByName(place, name))
    return found


def of_global(name: str, value: Any) -> ByName | None:
    """A global variable that is an object of the standard library's.

    ``from os import environ`` means what ``os.environ`` means over there.  What has been set for this program, like its
    arguments, is packed.
    """
    kind = type(value)
    if kind in _PLAIN or isinstance(value, (type, types.FunctionType, types.ModuleType)) or value is sys.argv:
        return None
    if kind not in (list, dict, set) and not _is_of_the_library(kind.__module__):
        return None
    places = _standard_library(len(sys.modules)).get((id(value), name), [])
    # Its name may mean something else by now.
    places = [place for place in places if _has(place, name, value)]
    return ByName(min(places, key=lambda place: (place.startswith("_"), place)), name) if places else None


@functools.lru_cache(maxsize=1)
def _standard_library(_: int) -> dict[tuple[int, str], list[str]]:
    """Where what stands under a name, by identity and name."""
    found: dict[tuple[int, str], list[str]] = {}
    for place, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and place not in (*rebuild.MAIN, "builtins") and _is_of_the_library(place):
            for name, value in list(vars(module).items()):
                if type(value) not in _PLAIN and not name.startswith("__"):
                    found.setdefault((id(value), name), []).append(place)
    return found


@functools.cache
def _is_of_the_library(module: str) -> bool:
    """Whether a module is really the standard library's, and not only called so."""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return False
    spec = modules_.find_spec(module)
    return spec is not None and modules_.kind_of(spec) == "stdlib"


def unwrapping_steps(func: types.FunctionType, module: str) -> int | None:
    """How many wrappers deep *func* lies behind its own qualified name in *module*; None if it is not there."""
    try:
        found = rebuild.find(module, func.__qualname__, 0)
    except (ImportError, KeyError, TypeError):
        return None
    for steps in range(20):
        if found is func:
            return steps
        if not (hasattr(found, "__wrapped__") or hasattr(found, "__func__")):
            return None
        found = rebuild.unwrapped(found, 1)
    return None
