"""How classes travel by value: cloudpickle's account of them, with what it leaves out."""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable
from typing import Any

from .worker import reconstructors

__all__ = ["Ahead", "Done", "enumeration", "ordinary"]

_OF_ENUM = ("_value_", "_name_", "__objclass__", "_sort_order_")
# How the part of a member is had that is its data, whatever its class makes of it.
_DATA: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda member: bytes.__getitem__(member, slice(None)),
    tuple: lambda member: tuple.__getitem__(member, slice(None)),
}
# What instances are compared and filled with when they are unpacked; and, if their class is called for that, made with.
_OF_INSTANCES = ("__hash__", "__eq__", "__setstate__", "__dataclass_fields__", "__dataclass_params__")
_OF_MAKING = ("__new__", "__init__")
_CODE = (types.FunctionType, staticmethod, classmethod, property)


class Ahead:
    """Of a class whose attributes are being packed, those that an instance among them needs to be unpacked."""

    def __init__(self, kind: Any, attributes: dict[str, Any]) -> None:
        self._kind, self._all = kind, attributes

    def __deliveryboy_reduce__(self) -> tuple[Any, ...]:
        found: dict[str, Any] = {}
        names = [*_OF_INSTANCES, *(_OF_MAKING if _is_called(self._kind) else ())]
        while names:
            name = names.pop()
            if name in found or name not in self._all:
                continue
            value = self._all[name]
            if name in _OF_INSTANCES or isinstance(value, _CODE) or type(value) in reconstructors.SIMPLE:
                found[name] = value
                # And what these use of it in turn; other attributes may be such instances.
                names += [each for code in _codes_of(value) for each in code.co_names]
        return reconstructors.class_setstate, (self._kind, (found, ()))


def _is_called(kind: Any) -> bool:
    """Whether unpickling an instance means to call its class, or its ``__new__`` with what it has been made with."""
    if any(isinstance(getattr(kind, name, None), types.FunctionType) for name in ("__reduce__", "__reduce_ex__")):
        return True
    return hasattr(kind, "__getnewargs__") or hasattr(kind, "__getnewargs_ex__")


def _codes_of(value: Any) -> list[types.CodeType]:
    functions = [value, getattr(value, "__func__", None), *(getattr(value, name, None) for name in ("fget", "fset"))]
    return [each.__code__ for each in functions if isinstance(each, types.FunctionType)]


class Done:
    """Stands behind the attributes of a class: what comes now finds all of them."""

    def __init__(self, under_way: dict[int, Any], kind: type) -> None:
        self._under_way, self._kind = under_way, kind

    def __deliveryboy_reduce__(self) -> tuple[Any, ...]:
        self._under_way.pop(id(self._kind), None)
        return tuple, ()


def ordinary(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """With its qualified name; and, from the beginning, slots and what a hook of its bases may ask for.

    Slots are made with the class or not at all, and instances of one kind cannot become those of the other.
    """
    make, (metaclass, name, bases, namespace, number, _), (attributes, more), *others = reduced
    namespace = {**namespace, "__qualname__": kind.__qualname__}
    if "__slots__" in vars(kind) and not issubclass(kind, tuple):
        namespace["__slots__"] = attributes["__slots__"]
        attributes = {each: value for each, value in attributes.items() if each != "__slots__"}
    simple = {
        each: value for each, value in attributes.items() if type(value) in reconstructors.SIMPLE and not each.startswith("__")
    }
    return make, (metaclass, name, bases, namespace, number, simple or None), (attributes, more), *others


def enumeration(kind: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """With other names of members, those that are several flags, and what members have of their own."""
    make, (bases, name, qualname, _, module, number, _), (attributes, more), *others = reduced
    members = kind.__members__
    attributes = {known: value for known, value in attributes.items() if known not in members}
    own = {known: {key: value for key, value in vars(member).items() if key not in _OF_ENUM} for known, member in members.items()}
    attributes["_deliveryboy_members"] = {known: found for known, found in own.items() if found}
    values = {known: member._value_ for known, member in members.items()}
    return make, (bases, name, qualname, values, module, number, _data_of(kind)), (attributes, more), *others


def _data_of(kind: Any) -> tuple[type, list[tuple[Any, ...]]] | None:
    """The type of which an enumeration's members are besides, and what that makes them from; None if it is their value."""
    mixed_in = kind._member_type_
    if mixed_in is object:
        return None
    members = kind.__members__.values()
    if mixed_in in _DATA:
        data = [_DATA[mixed_in](member) for member in members]
        plain = not isinstance(kind._new_member_, types.FunctionType)
        if plain and all(each == member._value_ for each, member in zip(data, members, strict=True)):
            return None
        return mixed_in, [(each,) for each in data]
    found: list[tuple[Any, ...]] = []
    for member in members:
        reduced: Any = object.__reduce_ex__(member, 5)
        make, args, *state = reduced
        new: Any = copyreg.__newobj__  # type: ignore[attr-defined]
        if make not in (new, type(member)) or not isinstance((*state, None)[0], (dict, type(None))):
            return None
        found.append(args if make is type(member) else args[1:])
    return mixed_in, found
