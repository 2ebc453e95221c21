"""What is found over there by the name that it has here, rather than packed."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Mapping
from typing import Any

from .worker import rebuild

__all__ = ["ByName", "of_global", "of_mark", "of_method", "unwrapping_steps"]

# What has no identity that matters, or travels by name as it is.
_MAIN = ("__main__", "__mp_main__")
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
        self.module, self._name = module, name

    def __deliveryboy_reduce__(self) -> tuple[Any, ...]:
        return getattr, (importlib.import_module(self.module), self._name)


def of_method(method: Any) -> ByName | None:
    """A bound method that a module hands out as a function, as ``random`` does: its object is the module's business."""
    owner, name = method.__self__, method.__name__
    if owner is None or isinstance(owner, (type, types.ModuleType)):
        return None
    kind = type(owner)
    for place in (getattr(method, "__module__", None), kind.__module__):
        while isinstance(place, str) and place:
            module = sys.modules.get(place)
            if module is not None and place != "__main__" and vars(module).get(name) is method:
                return ByName(place, name)
            place = place.rpartition(".")[0]
    return None


@functools.lru_cache(maxsize=1024)
def of_mark(mark: object) -> ByName | None:
    """A plain ``object()``, which is known by its identity alone."""
    for place, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and place not in _MAIN:
            for name, value in list(vars(module).items()):
                if value is mark:
                    return ByName(place, name)
    return None


def of_global(name: str, value: Any) -> ByName | None:
    """A global variable that is an object of the standard library's.

    ``from os import environ`` means what ``os.environ`` means over there.  What has been set for this program, like its
    arguments, is packed.
    """
    if type(value) in _PLAIN or isinstance(value, (type, types.FunctionType, types.ModuleType)) or value is sys.argv:
        return None
    places = [place for place, namespace in _standard_library(len(sys.modules)) if namespace.get(name) is value]
    return ByName(min(places, key=lambda place: (place.startswith("_"), place)), name) if places else None


@functools.lru_cache(maxsize=1)
def _standard_library(_: int) -> list[tuple[str, Mapping[str, Any]]]:
    modules = list(sys.modules.items())
    return [
        (name, vars(module))
        for name, module in modules
        if name.partition(".")[0] in sys.stdlib_module_names and isinstance(module, types.ModuleType) and name not in _MAIN
    ]


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
