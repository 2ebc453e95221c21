"""Makes functions and classes out of what travelled by value, and packs what goes back.

Contract: far side, standard library only, Python 3.8+.  The near side's pickler (packing.py) names the functions here in
place of cloudpickle's own, so that nothing has to be installed, or imported at a price, on this side.
"""

import io
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "deliveryboy_ng"
MOST_RECORDS = 100  # exceptions that belong to one
WORKER = __name__.rpartition(".")[0] + "."
FunctionType: "Any" = type(lambda: None)
_namespace: "Any" = type(sys.implementation)

# Functions and classes that travelled by value, by identity: they go back as the number the caller knows them by.
_numbers: "dict[int, tuple[object, str]]" = {}


# Of a template, the classes that have come by value, by their numbers: its calls get them once more, and mean these.
shared: "dict[object, Any]" = {}


def remember(made: "Any", number: "Any") -> "Any":
    """Note under which number the caller will know *made* again."""
    if number is not None:
        _numbers[id(made)] = (made, number)
    return made


def rehearse() -> None:
    """Unpack and pack for the sake of having done it once."""
    import _pickle

    made = make_function(make_code(marshal.dumps(_play.__code__)), {"__name__": "rehearsal"}, "play", None, None)
    slots: "dict[str, Any]" = {
        "__globals__": {},
        "__closure__": None,
        "__module__": "rehearsal",
        "_deliveryboy_number": "rehearsal",
    }
    function_setstate(made, ({}, slots))
    del _numbers[id(made)]
    function, args, kwargs = loads(_pickle.dumps((len, ((),), {}), 5))
    dumps(function(*args, **kwargs))


def _play() -> None:
    pass


def number_of(made: object) -> "str | None":
    """The number under which the caller knows it, if it travelled by value."""
    known = _numbers.get(id(made))
    return known[1] if known is not None else None


def yours(number: "Any") -> "Any":
    """Stands in a reply for the caller's own function or class; only the near side can answer it."""
    raise LookupError("%s belongs to the caller" % (number,))


def home_of(module: str) -> str:
    """Where what is in a module of one version of Python stands in all."""
    return "pathlib" if module == "pathlib._local" else module  # 3.13


# Pickle imports a dotted module's top-level package too, which on this side would be the whole library, or a stand-in.
REPLY_MODULE = "_deliveryboy_reply"
yours.__module__ = REPLY_MODULE


_picklers: "list[Any]" = []


def picklers() -> "list[Any]":
    """The unpickler's and the pickler's class: made once, before the first fork, since making a class is dear behind it."""
    if _picklers:
        return _picklers
    import _pickle

    class Unpickler(_pickle.Unpickler):
        def find_class(self, module: "Any", name: "Any") -> "Any":
            if module.startswith(WORKER):
                # An attribute of the package, a module of the worker is imported when it is first asked for.
                return getattr(getattr(sys.modules[WORKER[:-1]], module[len(WORKER) :]), name)
            found = super().find_class(home_of(module), name)
            if module.partition(".")[0] == LIBRARY:
                from . import standin

                standin.refuse(module, name)
            return found

    class Pickler(_pickle.Pickler):
        def reducer_override(self, thing: "Any") -> "Any":
            if not isinstance(thing, (type, FunctionType)):
                if not (isinstance(thing, BaseException) and is_made_plainly(thing)):
                    return NotImplemented
                sys.modules.setdefault(REPLY_MODULE, sys.modules[__name__])
                return reduced_error(thing, error, fill)
            known = _numbers.get(id(thing))
            if known is not None:
                sys.modules.setdefault(REPLY_MODULE, sys.modules[__name__])
                return yours, (known[1],)
            if thing.__module__ in MAIN or "<locals>" in thing.__qualname__:
                kind = "class" if isinstance(thing, type) else "function"
                raise _pickle.PicklingError(
                    "%s %s.%s was made on the far side and exists only there" % (kind, thing.__module__, thing.__qualname__)
                )
            return NotImplemented

    _picklers[:] = [Unpickler, Pickler]
    return _picklers


def loads(data: bytes, pieces: "Any" = None) -> "Any":
    """Unpickle a box, with this worker's own functions found where they are.

    :param pieces: what is large in it, in its order
    """
    unpickler, _ = picklers()
    return unpickler(io.BytesIO(data), buffers=pieces).load()


def dumps(value: object) -> bytes:
    """Pickle *value* for the caller; what was made here and exists only here is refused by name."""
    file = io.BytesIO()
    dump(value, file)
    return file.getvalue()


def dump(value: object, file: "Any") -> None:
    """The same, into a file."""
    _, pickler = picklers()
    pickler(file, 5).dump(value)


def dump_apart(value: object) -> "tuple[list[Any], bool]":
    """The same, in parts as :class:`bulk.Parts` takes them: large bytes are not copied; and whether they are of a pickle."""
    written: "list[Any]" = []
    dump(value, collector(written))
    return written, True


def collector(written: "list[Any]") -> "Any":
    """A file for a pickler, which keeps what is written as it is; only a view of memory that is not its own is copied."""
    return _namespace(write=lambda data: written.append(data if type(data) is not memoryview else bytes(data)))


def dumps_error(error: BaseException) -> bytes:
    """Pickle an exception; what belongs to it is told besides."""
    return dumps(error)


_MEMBER: "Any" = type(FunctionType.__globals__)


def is_made_plainly(error: BaseException) -> bool:
    """Whether pickle would make it anew by its ``__init__``, which has had its effects, or leave out what it knows."""
    kind: "Any" = type(error)
    if kind.__reduce__ not in (BaseException.__reduce__, OSError.__reduce__) or kind.__reduce_ex__ is not object.__reduce_ex__:
        return False
    if kind.__setstate__ is not BaseException.__setstate__ or getattr(kind, "__getstate__", None) is not getattr(
        object, "__getstate__", None
    ):
        return False
    return isinstance(kind.__init__, FunctionType) or kind in (AttributeError, NameError)


def reduced_error(error: BaseException, make: "Any", fill: "Any") -> "tuple[Any, ...]":
    """What it is made from by :func:`make_error` and :func:`fill_error`: its class, arguments and attributes."""
    state = dict(vars(error))
    for kind in type(error).__mro__:
        members = [each for each in vars(kind).values() if type(each) is _MEMBER] if "__slots__" in vars(kind) else []
        state.update({each.__name__: getattr(error, each.__name__) for each in members if hasattr(error, each.__name__)})
    if type(getattr(type(error), "name", None)) is _MEMBER and isinstance(error, (AttributeError, NameError)):
        state["name"] = error.name
    return make, (type(error), error.__reduce__()[1]), state or None, None, None, fill


def make_error(kind: "Any", args: "Any") -> "Any":
    """An exception as it was, without a call of its own ``__init__``, which may want other arguments than it has handed on."""
    error = kind.__new__(kind, *args)
    # What it is besides an exception, an OSError say, has members of its own.
    for base in kind.__mro__:
        begin = vars(base).get("__init__")
        if begin is not None and not isinstance(begin, FunctionType):
            try:
                begin(error, *args)
            except Exception:
                pass  # its own class has handed on what nobody else takes
            break
    if not isinstance(error, OSError):
        BaseException.__setattr__(error, "args", args)
    return error


def fill_error(error: "Any", state: "Any") -> None:
    for name, value in state.items():
        # Its own kind may let nobody set anything.
        BaseException.__setattr__(error, name, value)


def error(kind: "Any", args: "Any") -> "Any":
    """The same, in a reply."""
    return make_error(kind, args)


def fill(error: "Any", state: "Any") -> None:
    """The same, in a reply."""
    fill_error(error, state)


error.__module__ = fill.__module__ = REPLY_MODULE


# A child that multiprocessing has spawned knows its parent's __main__ under another name, which nobody else does.
MAIN = ("__main__", "__mp_main__")
# Says of a namespace that it is not the caller's __main__, though it calls itself so.
APART = "__deliveryboy_apart__"

# --- functions ----------------------------------------------------------------------------------------------------


def make_code(data: "Any") -> "Any":
    return marshal.loads(data)


def make_function(code: "Any", base_globals: "Any", name: "Any", defaults: "Any", closure: "Any") -> "Any":
    if base_globals.get("__name__") in MAIN and APART not in base_globals:
        # What lived in the caller's __main__ lives in this one, so that pickle finds it here by name too.
        main = vars(main_called(base_globals["__name__"]))
        main.update({name: value for name, value in base_globals.items() if name not in _kept})
        file = base_globals.get("__file__")
        if isinstance(file, str) and not posix.access(file, posix.R_OK):
            # A child that multiprocessing spawns would run it, fail, and be spawned again for ever.
            del main["__file__"]
        base_globals = main
    base_globals["__builtins__"] = __builtins__
    return FunctionType(code, base_globals, name, defaults, closure)


def main_called(name: str) -> "Any":
    """The module __main__, which from now on is found under that name, too."""
    return sys.modules.setdefault(name, sys.modules["__main__"])


def function_setstate(function: "Any", state: "Any") -> "Any":
    attributes, slots = state
    slots = dict(slots)
    remember(function, slots.pop("_deliveryboy_number", None))
    function.__dict__.update(attributes)
    _fill(function.__globals__, slots.pop("__globals__"))
    if "_deliveryboy_home" in slots:
        from . import reconstructors

        reconstructors.make_home(function.__globals__.get("__name__"), slots.pop("_deliveryboy_home"))
    # Loading the state has already imported the submodules that the function's code names.
    slots.pop("_cloudpickle_submodules", None)
    for cell, filled in zip(function.__closure__ or (), slots.pop("__closure__") or ()):
        try:
            cell.cell_contents = filled.cell_contents
        except ValueError:
            pass  # the cell is empty on the caller's side too
    for name, value in slots.items():
        setattr(function, name, value)
    if function.__module__ in MAIN and function.__qualname__.isidentifier():
        function.__globals__.setdefault(function.__name__, function)


# What came with a template's box, and the names that have another value since: theirs is not the caller's any more.
_came: "dict[str, object]" = {}
_kept: "set[str]" = set()


def _fill(namespace: "dict[str, Any]", values: "dict[str, Any]") -> None:
    if namespace is not vars(sys.modules["__main__"]):
        namespace.update(values)
        return
    _came.update(values)
    namespace.update({name: value for name, value in values.items() if name not in _kept})


_NEVER_CHANGED = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, range, type, FunctionType, type(sys))


def keep_what_was_set() -> None:
    """Globals of __main__ that have been set here since they came stay as they are, whatever comes later; so do classes.

    So do those that may have been changed in place: nobody can tell.
    """
    shared.update((number, made) for made, number in _numbers.values() if isinstance(made, type))
    for name, value in vars(sys.modules["__main__"]).items():
        if name in _came and (_came[name] is not value or not isinstance(value, _NEVER_CHANGED)):
            _kept.add(name)
    _came.clear()


_EMPTY = object()


def make_empty_cell() -> "Any":
    cell = (lambda x: lambda: x)(0).__closure__[0]  # type: ignore[index]
    del cell.cell_contents
    return cell


def make_cell(value: "Any" = _EMPTY) -> "Any":
    cell = make_empty_cell()
    if value is not _EMPTY:
        cell.cell_contents = value
    return cell


# --- the rest -----------------------------------------------------------------------------------------------------


def import_module(name: "Any") -> "Any":
    __import__(name)
    return sys.modules[name]


def find(module: "Any", path: "Any", unwrap: "Any") -> "Any":
    """The plain function behind ``module.path``: looked up without binding, then taken out of *unwrap* wrappers."""
    found = import_module(module)
    for name in path.split("."):
        found = vars(found)[name]
    return unwrapped(found, unwrap)


def unwrapped(found: "Any", steps: "Any") -> "Any":
    for _ in range(steps):
        found = found.__wrapped__ if hasattr(found, "__wrapped__") else found.__func__
    return found
