"""Packs a function, its arguments and the caller's own modules into a box.

Functions and classes of ``__main__``, nested ones, lambdas, and those of the module that the delivered function itself
lives in travel by value: their code, and of their globals those that they refer to.  Thus that module's other imports
are no business of the far side's.  All other modules of the caller's travel as modules and are imported over there.

A far side of another Python version cannot take code; for it the same is packed by reference throughout.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import inspect
import io
import itertools
import marshal
import pickle
import platform
import sys
import types
import typing
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle.cloudpickle as cp

from . import classes, naming
from . import modules as modules_
from .exceptions import DeliveryPackingError, VersionMismatchError
from .worker import bulk, rebuild, reconstructors, system

__all__ = ["Box", "pack"]

# What cloudpickle calls on arrival, and what the worker has in its place.  The names are private to cloudpickle; a test
# fails when the installed one uses a name that is missing here, and at run time cloudpickle itself then travels along.
TABLE: dict[Any, Any] = {
    cp._make_function: rebuild.make_function,
    cp._function_setstate: rebuild.function_setstate,
    cp._make_empty_cell: rebuild.make_empty_cell,
    cp._make_cell: rebuild.make_cell,
    cp._make_skeleton_class: reconstructors.make_class,
    cp._make_skeleton_enum: reconstructors.make_enum,
    cp._class_setstate: reconstructors.class_setstate,
    cp._make_typevar: reconstructors.make_typevar,
    cp._get_dataclass_field_type_sentinel: reconstructors.dataclass_sentinel,
    cp._builtin_type: reconstructors.builtin_type,
    cp.subimport: rebuild.import_module,
    cp.dynamic_subimport: reconstructors.make_module,
    cp._file_reconstructor: reconstructors.text_file,
    cp._make_dict_keys: reconstructors.dict_keys,
    cp._make_dict_values: reconstructors.dict_values,
    cp._make_dict_items: reconstructors.dict_items,
}


def _translated(reduced: Any) -> Any:
    """A reduction of cloudpickle's with the worker's functions in it."""
    if not isinstance(reduced, tuple):
        return reduced
    return tuple(TABLE.get(part, part) if place in (0, 5) else part for place, part in enumerate(reduced))


def _translating(reducer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda thing: _translated(reducer(thing))


_REDUCERS = {kind: _translating(reducer) for kind, reducer in cp.Pickler._dispatch_table.items()}


# Each thing that travels by value has its own, and what a session's template was sent is known by it to its calls.
_numbers = itertools.count()
# What stands for nothing in a dataclass's fields is known by its identity.
_SENTINELS = {id(getattr(dataclasses, name)): name for name in ("MISSING", "KW_ONLY", "_HAS_DEFAULT_FACTORY")}
_OF_CLASS_BODIES = ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
# Classes of ctypes whose instances are libraries.
_LIBRARIES = ("CDLL", "PyDLL")
# What typing makes with a name, and what else each is made from.
_TYPE_ALIASES = {
    "NewType": ("__supertype__",),
    "ParamSpec": (),
    "TypeVarTuple": (),
    "TypeAliasType": ("__value__", "__type_params__"),
}
_OF_SINGLE_DISPATCH = ("registry", "dispatch", "register", "_clear_cache")
_LRU_CACHE = type(functools.lru_cache(len))
_SINGLE_DISPATCH = functools.singledispatch(lambda thing: None).__code__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Box:
    """A packed call.

    :ivar body: the pickle of (function, args, kwargs), less what is large in it
    :ivar parts: all of it
    :ivar modules: the modules that travel with it
    :ivar holds_code: whether there is code in it, which this very version of Python alone can run
    :ivar own: the functions and classes that travelled by value, by the number under which they come back
    :ivar manifest: what travels and why
    """

    body: bytes
    parts: bulk.Parts
    modules: tuple[modules_.Module, ...]
    holds_code: bool
    own: Mapping[str, Any]
    manifest: tuple[modules_.Entry, ...]

    def freeze(self) -> None:
        """It is not sent at once: keep a copy of what is large and may be changed meanwhile."""
        for piece in self.parts.large:
            piece.freeze()

    def let_go(self) -> None:
        """It has been sent: what is large is its owner's alone again, who may want to resize it."""
        for piece in self.parts.large:
            piece.view.release()

    def module_table(self, same_version: bool) -> bytes:
        """The modules as the far side's importer takes them."""
        for module in self.modules:
            if module.source is None and module.file and not same_version:
                raise VersionMismatchError(
                    f"module {module.name} has no source and its code runs on Python {platform.python_version()} only"
                )
        return marshal.dumps(modules_.table(self.modules, same_version), 4)


def pack(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    named: Iterable[str] = (),
    code_travels: bool = True,
    keep_home: bool = True,
) -> Box:
    """Pack one call.

    :param named: modules that the caller said shall travel
    :param code_travels: false packs nothing that depends on the version of Python
    :param keep_home: false lets the function's own module travel as a module, so that calls can share what is in it
    :raises DeliveryPackingError: if something cannot travel, with the path to it
    :raises VersionMismatchError: if *code_travels* is false and something could only travel as code
    """
    named = tuple(named)
    home = _home(func)
    collector = modules_.Collector(named)
    keep_home = keep_home and code_travels and home is not None and not collector.is_named(home)
    box = _pack(func, args, kwargs, collector, {home} if keep_home else set(), code_travels)
    if home is not None and keep_home and (home in collector.modules or (collector.code_reads_data() and _speaks_of(home, box))):
        # Another module imports the function's own, or the function looks for the files beside it by its module's name or
        # its package's: then the module must exist over there as a module, and only once.
        collector = modules_.Collector(named)
        collector.add(home, "the function's own")
        box = _pack(func, args, kwargs, collector, set(), code_travels)
    return box


def _speaks_of(home: str, box: Box) -> bool:
    return any(modules_.names_itself(each.__code__, home) for each in box.own.values() if isinstance(each, types.FunctionType))


def _home(func: Any) -> str | None:
    while isinstance(func, (functools.partial, types.MethodType)):
        func = func.func if isinstance(func, functools.partial) else func.__func__
    name = getattr(func, "__module__", None) or type(func).__module__
    # __main__ travels by value in any case, and looking for it would search the whole path.
    spec = modules_.find_spec(name) if isinstance(name, str) and name not in rebuild.MAIN else None
    return name if spec is not None and modules_.kind_of(spec) in ("own", "library") else None


def _pack(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    collector: modules_.Collector,
    by_value: set[str | None],
    code_travels: bool,
) -> Box:
    written: list[Any] = []
    pickler = BoxPickler(rebuild.collector(written), collector, by_value, code_travels)
    try:
        pickler.dump((func, args, kwargs))
    except DeliveryPackingError:
        raise
    except Exception as error:
        if system.is_of_a_handler(error):
            raise
        attempt = functools.partial(_can_travel, collector=collector, by_value=by_value, code_travels=code_travels)
        from .offender import find

        path, thing = find(func, args, kwargs, attempt)
        raise DeliveryPackingError(
            f"{path} cannot travel: {type(thing).__module__}.{type(thing).__qualname__} object: {error}. "
            "Make it inside the function, or pass what it is made from",
            path=path,
            real_exception=error,
        ) from error
    finally:
        # It refers to itself by its methods; what was packed shall not wait for the garbage collector.
        pickler.clear_memo()
    parts = bulk.Parts(written)
    if cp.__name__.encode() in parts.pickle:
        # Something of cloudpickle's that the table does not know: let it rebuild that itself over there.
        collector.add_named("cloudpickle")
    collector.finish()
    modules = tuple(collector.modules.values())
    return Box(parts.body, parts, modules, pickler.holds_code, pickler.own, collector.entries())


def _can_travel(thing: Any, collector: modules_.Collector, by_value: set[str | None], code_travels: bool) -> bool:
    try:
        BoxPickler(io.BytesIO(), collector, by_value, code_travels).dump(thing)
    except Exception as error:
        if system.is_of_a_handler(error):
            raise
        return False
    return True


class BoxPickler(cp.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, naming the worker's functions in place of cloudpickle's."""

    def __init__(self, file: Any, collector: modules_.Collector, by_value: set[str | None], code_travels: bool) -> None:
        self._collector = collector
        self._by_value = by_value
        self._code_travels = code_travels
        self.holds_code = False
        self.own: dict[str, Any] = {}
        self._main: dict[str, Any] = {}
        # By identity: each with that which it becomes, and which several functions may share.
        self._cells: dict[int, tuple[types.CellType, types.CellType]] = {}
        self._has_looked_again = False
        # Classes whose attributes are being packed, by identity: what is to be sent ahead of them should that be needed.
        self._under_way: dict[int, classes.Ahead | None] = {}
        special: dict[type, Callable[[Any], Any]] = {
            types.CodeType: self._reduce_code,
            types.ModuleType: self._reduce_module,
            io.TextIOWrapper: _reduce_text_file,
            io.BufferedReader: _reduce_binary_file,
            weakref.WeakSet: _reduce_weak_set,
            memoryview: _reduce_view,
            # Before 3.12 it holds a lock.
            functools.cached_property: lambda thing: (functools.cached_property, (thing.func,), {"attrname": thing.attrname}),
            functools.singledispatchmethod: _reduce_single_dispatch_method,
            **{getattr(typing, name): self._reduce_type_alias for name in _TYPE_ALIASES if hasattr(typing, name)},
            # Another thread may be importing it.
            **{kind: _refuse_library for name in _LIBRARIES if (kind := getattr(sys.modules.get("ctypes"), name, None))},
        }
        # Read once, by the initialiser.
        self.dispatch_table = ChainMap(special, _REDUCERS, copyreg.dispatch_table)
        super().__init__(file, protocol=5)

    def reducer_override(self, thing: Any) -> Any:
        reduced = self._reduced(thing)
        if self._under_way:
            ahead = [self._under_way[id(kind)] for kind in type(thing).__mro__ if self._under_way.get(id(kind))]
            if ahead:
                return self._reduce_early_instance(thing, reduced, ahead)
        return reduced

    def _reduced(self, thing: Any) -> Any:
        if isinstance(thing, type):
            return self._reduce_class(thing)
        if isinstance(thing, types.FunctionType):
            return self._reduce_function(thing)
        if isinstance(thing, _LRU_CACHE):
            return self._reduce_cache(thing)
        if id(thing) in _SENTINELS:
            return _SENTINELS[id(thing)]
        if isinstance(thing, (types.MethodType, types.BuiltinMethodType)):
            return self._by_name(naming.of_method(thing))
        if type(thing) is object:
            return self._by_name(self._mark(thing))
        if isinstance(thing, types.ModuleType) and type(thing) is not types.ModuleType and modules_.is_module(thing):
            return self._reduce_module(thing)
        if isinstance(thing, BaseException) and rebuild.is_made_plainly(thing) and type(thing) not in copyreg.dispatch_table:
            return rebuild.reduced_error(thing, rebuild.make_error, rebuild.fill_error)
        reduce = getattr(type(thing), "__deliveryboy_reduce__", None)
        return reduce(thing) if reduce else NotImplemented

    def _mark(self, thing: object) -> naming.ByName | None:
        found = naming.of_mark(thing)
        if found is None and not self._has_looked_again:
            self._has_looked_again = True
            found = naming.of_mark(thing, anew=True)
        return found

    def _reduce_early_instance(self, thing: Any, reduced: Any, ahead: list[Any]) -> Any:
        """An instance of a class that refers to it: over there that class would have no methods yet."""
        for kind in type(thing).__mro__:
            if id(kind) in self._under_way:
                self._under_way[id(kind)] = None
        if reduced is NotImplemented:
            reducer = self.dispatch_table.get(type(thing))
            reduced = reducer(thing) if reducer else thing.__reduce_ex__(5)
        if isinstance(reduced, str):
            return reduced
        make, args, *rest = reduced
        return (reconstructors.make_after, (ahead, make, args), *rest)

    # --- functions and classes ----------------------------------------------------------------------------------

    def _reduce_class(self, thing: type) -> Any:
        reduced = (cp._dynamic_class_reduce if self._goes_by_value(thing.__module__) else cp._class_reduce)(thing)
        if reduced is NotImplemented:
            self._collector.add(thing.__module__, f"class {thing.__qualname__}")
            return NotImplemented
        if reduced[0] in (cp._make_skeleton_class, cp._make_skeleton_enum):
            self._needs_code(f"class {thing.__module__}.{thing.__qualname__}")
            # Both reconstructors end with the class's number and one more argument.
            self.own[reduced[1][-2]] = thing
            reduced = (classes.ordinary if reduced[0] is cp._make_skeleton_class else classes.enumeration)(thing, reduced)
            make, args, (attributes, _), *rest = reduced
            self._under_way[id(thing)] = classes.Ahead(thing, attributes)
            reduced = make, args, (attributes, classes.Done(self._under_way, thing)), *rest
        return _translated(reduced)

    def _reduce_function(self, thing: types.FunctionType) -> Any:
        module = thing.__module__
        if not self._goes_by_value(module):
            steps = naming.unwrapping_steps(thing, module)
            if steps is not None:
                self._collector.add(module, f"function {thing.__qualname__}")
                return NotImplemented if steps == 0 else (rebuild.find, (module, thing.__qualname__, steps))
        if thing.__code__ is _SINGLE_DISPATCH:
            return reconstructors.make_single_dispatch, (dict(thing.registry),), _set_on(thing)  # type: ignore[attr-defined]
        self._needs_code(f"function {module}.{thing.__qualname__}")
        self._collector.scan(thing.__code__, modules_.package_of(thing.__globals__), module, f"imported in {thing.__qualname__}")
        make, args, (attributes, slots), *rest = self._dynamic_function_reduce(thing)
        if args[1].get("__name__") in rebuild.MAIN:
            # Any namespace may call itself so; the first one's is the __main__ over there.
            self._main = self._main or thing.__globals__
            if thing.__globals__ is not self._main:
                args[1][rebuild.APART] = True
        if thing.__closure__:
            cells = [self._cells.setdefault(id(cell), (cell, cp._make_empty_cell()))[1] for cell in thing.__closure__]
            args = (*args[:-1], tuple(cells))
        within = _within(thing.__code__)
        slots["__globals__"].update({name: thing.__globals__[name] for name in sorted(within.read & thing.__globals__.keys())})
        for name, value in slots["__globals__"].items():
            by_name = naming.of_global(name, value)
            if by_name is not None and not self._goes_by_value(by_name.module):
                slots["__globals__"][name] = by_name
        if within.co_names:
            slots["_cloudpickle_submodules"] += cp._find_imported_submodules(within, slots["__globals__"].values())
        if within.makes_classes:
            slots["_deliveryboy_home"] = _meant_by_annotations(thing.__globals__)
        number = f"function {next(_numbers)}"
        self.own[number] = thing
        return _translated((make, args, (attributes, {**slots, "_deliveryboy_number": number}), *rest))

    def _reduce_cache(self, thing: Any) -> Any:
        """A function behind ``functools.lru_cache``, which pickles by name alone; the cache starts empty over there."""
        inner = thing.__wrapped__
        if (
            not self._goes_by_value(inner.__module__)
            and isinstance(inner, types.FunctionType)
            and naming.unwrapping_steps(inner, inner.__module__) is not None
        ):
            self._collector.add(inner.__module__, f"function {inner.__qualname__}")
            return NotImplemented
        return reconstructors.make_cached, (inner, thing.cache_parameters()), _set_on(thing)

    def _by_name(self, found: naming.ByName | None) -> Any:
        return NotImplemented if found is None or self._goes_by_value(found.module) else found.__deliveryboy_reduce__()

    def _goes_by_value(self, module: Any) -> bool:
        """Whether what is defined in that module travels itself; so does what stands in no module that can be found."""
        if module in self._by_value or module in rebuild.MAIN or not isinstance(module, str):
            return True
        return modules_.find_spec(module) is None

    def _needs_code(self, what: str) -> None:
        if not self._code_travels:
            raise VersionMismatchError(f"{what} can only travel as code of Python {platform.python_version()}", path=what)
        self.holds_code = True

    # --- the rest -----------------------------------------------------------------------------------------------

    def _reduce_code(self, code: types.CodeType) -> Any:
        self.holds_code = True
        return rebuild.make_code, (marshal.dumps(code),)

    def _reduce_type_alias(self, thing: Any) -> Any:
        """What ``typing`` makes of a name and little else; it pickles by that name."""
        if not self._goes_by_value(thing.__module__):
            self._collector.add(thing.__module__, f"{type(thing).__name__} {thing.__name__}")
            return str(thing.__name__)
        kind = type(thing).__name__
        details = [getattr(thing, name) for name in _TYPE_ALIASES[kind]]
        return reconstructors.make_type_alias, (kind, thing.__name__, thing.__module__, *details)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        if modules_.is_module(module):
            if module.__name__ in rebuild.MAIN:
                return rebuild.import_module, (rebuild.MAIN[0],)
            self._collector.add(module.__name__, "referred to by name", needed=True)
        return _translated(cp._module_reduce(module))


@dataclass(frozen=True)
class _Within:
    """What is known of the code within a function's.

    :ivar co_names: all names in it, under the name that they have in code
    :ivar read: those that bodies of classes read, which may be globals
    """

    co_names: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    makes_classes: bool = False


@functools.lru_cache(maxsize=4096)
def _within(code: types.CodeType) -> _Within:
    found = _Within()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            deeper = _within(constant)
            is_class = not constant.co_flags & inspect.CO_OPTIMIZED
            instructions = dis.get_instructions(constant) if is_class else ()
            read = {each.argval for each in instructions if each.opname in _OF_CLASS_BODIES}
            found = _Within(
                found.co_names | deeper.co_names | set(constant.co_names),
                found.read | deeper.read | read,
                found.makes_classes or deeper.makes_classes or is_class,
            )
    return found


def _meant_by_annotations(namespace: dict[str, Any]) -> dict[str, Any]:
    """What a dataclass looks for by name, where annotations are text, in the module that it says to be from."""
    typing: Any = sys.modules.get("typing")
    known = [dataclasses, dataclasses.InitVar, dataclasses.KW_ONLY, typing, getattr(typing, "ClassVar", None)]
    # Of all at once: other threads may be adding to it.
    return {name: value for name, value in list(namespace.items()) if value is not None and any(value is each for each in known)}


def _refuse_library(thing: Any) -> Any:
    raise TypeError("cannot pickle a library that this process has loaded")


def _reduce_view(view: memoryview) -> Any:
    data = bytes(view) if view.readonly else bytearray(view)
    parts = data, view.format, view.shape if view.ndim != 1 else None
    try:
        reconstructors.make_view(*parts)
    except (TypeError, ValueError) as error:
        raise TypeError(f"cannot pickle a memoryview of format {view.format!r} and shape {view.shape}: {error}") from None
    return reconstructors.make_view, parts


def _reduce_weak_set(found: Any) -> Any:
    return reconstructors.make_weak_set, (list(found),)


def _reduce_single_dispatch_method(thing: Any) -> Any:
    # From 3.13 on it has a cache, too.
    return reconstructors.make_single_dispatch_method, (thing.func, dict(thing.dispatcher.registry))


def _set_on(wrapper: Any) -> dict[str, Any]:
    """Attributes that somebody has set on a function which ``functools`` has made."""
    own = (*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", *_OF_SINGLE_DISPATCH)
    return {name: value for name, value in vars(wrapper).items() if name not in own}


def _reduce_text_file(file: io.TextIOWrapper) -> Any:
    reduced = cp._file_reduce(file)
    if reduced[0] is cp._file_reconstructor:
        # What tell() says of a text is not a number of characters.
        (copy,) = reduced[1]
        place = file.tell()
        copy.seek(len(copy.getvalue()) - len(file.read()))
        file.seek(place)
    return _translated(reduced)


def _reduce_binary_file(file: io.BufferedReader) -> Any:
    if file is getattr(sys.stdin, "buffer", None) or file.isatty():
        raise pickle.PicklingError("Cannot pickle standard input or a terminal")
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return io.BytesIO, (), (content, place, None)
