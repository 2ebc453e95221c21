"""Makes what is seldom in a box; see rebuild.py.

Contract: far side, standard library only, Python 3.8+.
"""

import sys

from . import rebuild

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def make_cached(function: "Any", parameters: "Any") -> "Any":
    import functools

    return functools.lru_cache(**parameters)(function)


def make_single_dispatch_method(function: "Any", registry: "Any") -> "Any":
    import functools

    made = functools.singledispatchmethod(function)
    for kind, each in registry.items():
        if kind is not object:
            made.register(kind, each)
    return made


def make_single_dispatch(registry: "Any") -> "Any":
    import functools

    dispatch = functools.singledispatch(registry.pop(object))
    for kind, function in registry.items():
        dispatch.register(kind, function)
    return dispatch


class Start:
    """What a template does before calls are forked from it."""

    def __init__(self, names: "Any", function: "Any") -> None:
        self._names, self._function = names, function

    def __call__(self, *args: "Any") -> None:
        for name in self._names:
            if isinstance(name, str):
                __import__(name)
        if self._function is not None:
            self._function(*args)


class Each:
    """A function that is called for each item of a chunk."""

    def __init__(self, function: "Any") -> None:
        self._function = function

    def __call__(self, chunk: "Any") -> "Any":
        return [self._function(*item) for item in chunk]


class Home(type(sys)):  # type: ignore[misc]
    """Stands where classes look for their module that are made by a function which came without it.

    Whoever imports the module, and asks for more than that, gets the real one, if it can be had.
    """

    def __getattr__(self, name: str) -> "Any":
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        try:
            return getattr(rebuild.import_module(self.__name__), name)
        except ImportError as error:
            raise AttributeError("module %r has no attribute %r: %s" % (self.__name__, name, error)) from None


def make_home(name: "Any", known: "dict[str, Any]") -> None:
    if isinstance(name, str) and name not in sys.modules:
        home: "Any" = Home(name)
        home.__dict__.update(known)
        sys.modules[name] = home


def make_class(metaclass: "Any", name: "Any", bases: "Any", keywords: "Any", number: "Any", simple: "Any") -> "Any":
    """:param simple: attributes that a hook may ask for; they are set once more afterwards, whatever that makes of them"""
    if number in rebuild.shared:
        return rebuild.shared[number]
    import types

    def make(more: "Any") -> "Any":
        return types.new_class(name, bases, {"metaclass": metaclass}, lambda namespace: namespace.update(keywords, **more))

    for more in (simple or {}, {}):
        try:
            return rebuild.remember(make(more), number)
        except Exception:
            continue  # not everything that is set on a class may stand in it
    # A hook may want what stood in the class statement, which nobody has kept; it has seen the class where that was made.
    return rebuild.remember(_without_hook(bases, lambda: make({})), number)


def _without_hook(bases: "Any", make: "Any") -> "Any":
    name = "__init_subclass__"
    kinds = [kind for base in bases for kind in getattr(base, "__mro__", ())]
    owners = [kind for kind in kinds if name in vars(kind) and kind.__module__ != "builtins"]
    if not owners:
        return make()
    kept = vars(owners[0])[name]
    setattr(owners[0], name, classmethod(lambda kind, **keywords: None))
    try:
        return make()
    finally:
        setattr(owners[0], name, kept)


def make_enum(bases: "Any", name: "Any", qualname: "Any", members: "Any", module: "Any", number: "Any", data: "Any") -> "Any":
    """:param data: where members are instances of another type besides, that, and for each member what that makes it from"""
    if number in rebuild.shared:
        return rebuild.shared[number]
    import enum

    metaclass: "Any" = type(bases[-1])
    namespace = metaclass.__prepare__(name, bases)
    if data is not None:
        waiting = zip(members.values(), data[1])

        def new(kind: "Any", *_: "Any") -> "Any":
            value, args = next(waiting)
            member = data[0].__new__(kind, *args)
            member._value_ = value
            return member

        namespace["__new__"] = new
        namespace["__init__"] = lambda member, *_: None
    for member, value in members.items():
        namespace[member] = enum.member(value) if hasattr(type(value), "__get__") else value
    made = metaclass.__new__(metaclass, name, bases, namespace)
    if data is not None:
        del made.__init__, made.__new_member__
    made.__module__ = module
    made.__qualname__ = qualname
    return rebuild.remember(made, number)


def make_after(ahead: "Any", make: "Any", args: "Any") -> "Any":
    """An instance of a class that is still being made, for which this has come ahead."""
    return make(*args)


# Somebody holds what is in weak sets where they come from.
_held: "list[Any]" = []


def make_view(data: "Any", form: str, shape: "Any") -> "Any":
    view: "Any" = memoryview(data)
    return view.cast(form) if shape is None else view.cast(form, shape)


def make_weak_set(members: "Any") -> "Any":
    import weakref

    _held.append(members)
    return weakref.WeakSet(members)


def make_type_alias(kind: "Any", name: "Any", module: "Any", *details: "Any") -> "Any":
    import typing

    if kind == "TypeAliasType":
        return getattr(typing, kind)(name, details[0], type_params=details[1])
    made = getattr(typing, kind)(name, *details)
    made.__module__ = module
    return made


# Attributes of classes that can stand in them from the beginning, since there is nothing in them.
SIMPLE = (bool, int, float, complex, str, bytes, type(None))


def class_setstate(made: "Any", state: "Any") -> "Any":
    attributes, _ = state
    if rebuild.number_of(made) in rebuild.shared:
        return made
    registered = attributes.pop("_abc_impl", ())
    for name, own in attributes.pop("_deliveryboy_members", {}).items():
        vars(made.__members__[name]).update(own)
    for name, value in attributes.items():
        # Simple ones are there already, unless a hook has made something else of them once more.
        found = vars(made).get(name, made)
        if found is made or type(found) is not type(value) or type(value) not in SIMPLE or found != value:
            setattr(made, name, value)
    if "__firstlineno__" in attributes:
        # 3.13 drops it again as soon as another attribute is set.
        made.__firstlineno__ = attributes["__firstlineno__"]
    for subclass in registered:
        made.register(subclass)
    if made.__module__ in rebuild.MAIN and made.__qualname__.isidentifier():
        vars(rebuild.main_called(made.__module__)).setdefault(made.__name__, made)
    return made


def make_typevar(name: "Any", bound: "Any", constraints: "Any", covariant: "Any", contravariant: "Any", number: "Any") -> "Any":
    import typing

    return typing.TypeVar(name, *constraints, bound=bound, covariant=covariant, contravariant=contravariant)


def dataclass_sentinel(name: "Any") -> "Any":
    import dataclasses

    return {
        kind.name: kind
        for kind in (dataclasses._FIELD, dataclasses._FIELD_CLASSVAR, dataclasses._FIELD_INITVAR)  # type: ignore[attr-defined]
    }[name]


def make_module(name: "Any", namespace: "Any") -> "Any":
    module = type(sys)(name)
    module.__dict__.update(namespace)
    module.__dict__["__builtins__"] = __builtins__
    return module


def builtin_type(name: "Any") -> "Any":
    import types

    return getattr(types, name)


def text_file(content: "Any") -> "Any":
    return content


def dict_keys(keys: "Any", ordered: "Any" = False) -> "Any":
    return _dict(ordered, [(key, None) for key in keys]).keys()


def dict_values(values: "Any", ordered: "Any" = False) -> "Any":
    return _dict(ordered, list(enumerate(values))).values()


def dict_items(items: "Any", ordered: "Any" = False) -> "Any":
    return _dict(ordered, items).items()


def _dict(ordered: "Any", items: "Any") -> "Any":
    if not ordered:
        return dict(items)
    from collections import OrderedDict

    return OrderedDict(items)
