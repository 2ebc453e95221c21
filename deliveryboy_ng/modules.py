"""Which modules travel: found by what code really imports, transitively.

A module is one of: part of the standard library (never travels), of an installed distribution (by reference, unless the
caller named it), an extension module (by reference: machine code is not portable), or the caller's own (travels).
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import marshal
import opcode
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .exceptions import DeliveryPackingError

__all__ = ["Collector", "Entry"]

LIBRARY = __name__.partition(".")[0]
_STDLIB = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_RESOURCE_APIS = ("importlib.resources.", "importlib_resources.")
_GET_DATA = "pkgutil.get_data"


@dataclass(frozen=True)
class Entry:
    """One line of a manifest.

    :ivar name: the module's full name
    :ivar by_value: whether it travels; otherwise the far side must have it
    :ivar size: bytes that travel: source, code and data
    :ivar reason: why
    """

    name: str
    by_value: bool
    size: int
    reason: str

    def __str__(self) -> str:
        how = "by value" if self.by_value else "by reference"
        return f"{self.name:<30} {how:<13} {self.size:>9,}  {self.reason}"


Imports = tuple[tuple[int, str, tuple[str, ...]], ...]


@dataclass
class Module:
    """A module that travels.

    :ivar data: its files; of those, and of folders, that may not be read None
    :ivar imports: its import statements, see :func:`imports_of`
    """

    name: str
    package: bool
    file: str
    source: str | None
    code: bytes | None
    data: dict[str, bytes | None] = field(default_factory=dict)
    imports: Imports = ()

    @property
    def size(self) -> int:
        return len(self.source or "") + len(self.code or b"") + sum(len(content or b"") for content in self.data.values())


# --- what an import statement names --------------------------------------------------------------------------------

_IMPORT_NAME = opcode.opmap["IMPORT_NAME"]
_LOAD_CONST = opcode.opmap["LOAD_CONST"]
# Not every text beside them is the name of a package, so that only what has a dot in it is taken for one.
_READERS = {"get_data", "files", *(f"{verb}_{kind}" for verb in ("open", "read") for kind in ("text", "binary"))}
_AS_TEXT = -1


@functools.lru_cache(maxsize=4096)
def imports_of(code: CodeType) -> Imports:
    """All import statements in *code* and the code within it, as (level, name, names imported from it), in their order.

    Names given as constants to ``import_module`` and ``__import__`` count too, and to what reads data files of packages, of which
    pkgutil's ``get_data`` is one.
    """
    found: dict[tuple[int, str, tuple[str, ...]], None] = {}
    loaded: list[Any] = []
    extended = 0
    for operation, argument in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        argument |= extended
        extended = argument << 8 if operation == opcode.EXTENDED_ARG else 0
        if operation == _IMPORT_NAME:
            level, names = loaded[-2:]
            found[level or 0, code.co_names[argument], tuple(names or ())] = None
        elif operation == _LOAD_CONST:
            loaded.append(code.co_consts[argument])
        elif opcode.opname[operation] == "LOAD_SMALL_INT":
            loaded.append(argument)
    if "get_data" in code.co_names and _calls(code, {"get_data"}, ("pkgutil",)):
        found[0, _GET_DATA, ()] = None
    dynamic = {"import_module", "__import__"} & set(code.co_names)
    reads = not _READERS.isdisjoint(code.co_names) and _calls(code, _READERS, ("pkgutil", "resources", "importlib_resources"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.update(dict.fromkeys(imports_of(constant)))
        elif (dynamic or reads) and isinstance(constant, str) and constant.replace(".", "").isidentifier():
            name = constant.lstrip(".")
            if dynamic:
                found[len(constant) - len(name), name, ()] = None
            elif "." in name:
                found[_AS_TEXT, name, ()] = None
    return tuple(found)


def _calls(code: CodeType, names: set[str], modules: tuple[str, ...]) -> bool:
    """Whether one of these names there may be what is in one of these modules: it stands by itself, or behind that."""
    import dis

    words = [each for each in dis.get_instructions(code) if isinstance(each.argval, str)]
    before = ["", *(each.argval for each in words)]
    alone = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_FROM")
    return any(
        each.argval in names and (each.opname in alone or former in modules) for each, former in zip(words, before, strict=False)
    )


def names_itself(code: CodeType, home: str) -> bool:
    """Whether that code may speak of the module that it is in, or of a package around it, by its name."""
    if {"__package__", "__name__", "__spec__", "__file__"} & set(code.co_names):
        return True
    texts = [constant for constant in code.co_consts if isinstance(constant, str) and constant]
    return any(f"{home}.".startswith(f"{text}.") for text in texts) or any(
        names_itself(constant, home) for constant in code.co_consts if isinstance(constant, CodeType)
    )


def names_of(imports: Imports, package: str, home: str = "") -> Iterator[str]:
    """The absolute names of all modules that these statements, part of *package*, may import; some may not exist.

    :param home: the module that they are in, whose name may mean anything where it stands as text
    """
    for level, name, children in imports:
        if level == _AS_TEXT and name == home:
            continue
        if level > 0:
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - level + 1]) if level <= len(parents) else ""
            if not base:
                continue  # there is no package that it could be relative to
            name = f"{base}.{name}".strip(".")
        yield name
        for child in children:
            if child == "*":
                yield from _star(name)
            else:
                yield f"{name}.{child}"


def reads_data(names: set[str]) -> bool:
    """Whether code that imports these reads data files of packages."""
    return {"pkgutil", _GET_DATA} <= names or any(f"{name}.".startswith(_RESOURCE_APIS) for name in names)


def _star(name: str) -> Iterator[str]:
    for child in getattr(sys.modules.get(name), "__all__", ()):
        yield f"{name}.{child}"


# --- where a module lives ------------------------------------------------------------------------------------------


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """The module's spec, found without importing it or its parents."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.name == name:
        return spec  # type: ignore[no-any-return]
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        above = find_spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        # It may have been bound to others since, as pkgutil.extend_path does.
        path = list(getattr(sys.modules.get(parent), "__path__", above.submodule_search_locations))
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a hook of somebody else's
            continue
        if spec is not None:
            return spec
    return _namespace(name, path) if path and parent not in sys.modules else None


def _namespace(name: str, places: list[str]) -> importlib.machinery.ModuleSpec | None:
    """The spec of a folder without ``__init__.py``; the import system's finder asks for its parent in sys.modules."""
    import pkgutil

    finders = [finder for finder in map(pkgutil.get_importer, places) if finder is not None]
    found = [spec for finder in finders if (spec := finder.find_spec(name)) is not None and spec.loader is None]
    if not found:
        return None
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [place for each in found for place in each.submodule_search_locations or ()]
    return spec


def kind_of(spec: importlib.machinery.ModuleSpec) -> str:
    """``own``, ``installed``, ``extension``, ``library`` or ``stdlib``."""
    if spec.name.partition(".")[0] == LIBRARY:
        return "library"
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    kinds = [_kind_at(spec, str(place)) for place in places] or [_kind_nowhere(spec)]
    # Of a package in many places some may be installed.
    return "own" if "own" in kinds else kinds[0]


def _kind_nowhere(spec: importlib.machinery.ModuleSpec) -> str:
    if spec.origin in ("built-in", "frozen"):
        return "stdlib"
    above = find_spec(spec.name.rpartition(".")[0]) if "." in spec.name else None
    kind = kind_of(above) if above is not None else "own"
    # Otherwise what it is in makes it, over there too.
    return kind if kind != "own" or _gives_code(spec) else "stdlib"


def _gives_code(spec: importlib.machinery.ModuleSpec) -> bool:
    try:
        return _source(spec.name, spec, "") is not None or _code(spec.name, spec, "", None) is not None
    except Exception:  # a loader of somebody else's
        return False


def _is_namespace(spec: importlib.machinery.ModuleSpec) -> bool:
    return spec.loader is None or isinstance(spec.loader, importlib.machinery.NamespaceLoader)


def _kind_at(spec: importlib.machinery.ModuleSpec, where: str) -> str:
    parts = Path(where).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return "installed"
    if os.path.realpath(where).startswith(_STDLIB):
        return "stdlib"
    levels = spec.name.count(".") + (spec.submodule_search_locations is not None and spec.has_location)
    folders = Path(where).parents
    if levels < len(folders) and spec.name.partition(".")[0] in _distributed(str(folders[levels])):
        return "installed"
    return "extension" if where.endswith(_EXTENSIONS) else "own"


@functools.lru_cache(maxsize=256)
def _distributed(folder: str) -> frozenset[str]:
    """Top-level names that distributions have put into a folder: ``pip install --target`` makes such anywhere."""
    found: set[str] = set()
    try:
        records = [Path(folder, name, "RECORD") for name in os.listdir(folder) if name.endswith(".dist-info")]
        for record in records:
            lines = record.read_text(errors="replace").splitlines()
            found |= {line.partition(",")[0].partition("/")[0].removesuffix(".py") for line in lines}
    except OSError:
        pass
    return frozenset(found)


_REASONS = {
    "installed": "installed distribution: the far side's own is used",
    "extension": "extension module: machine code does not travel",
}


# --- what travels --------------------------------------------------------------------------------------------------

# By name and file; with when that was written and its size, or, where there is none, with the source.
_loaded: dict[tuple[str, str], tuple[object, Module]] = {}


def load(name: str, spec: importlib.machinery.ModuleSpec) -> Module:
    """Read a module's source and code, from memory if its file has not changed since.

    One that is half written just now, or gone, is as it was when it last could be read.

    :raises DeliveryPackingError: if it never could
    """
    file = spec.origin or f"<{name}>"
    version: object
    if _is_namespace(spec):
        return Module(name, True, "", None, None)
    try:
        found = os.stat(file)
        version = (found.st_mtime_ns, found.st_size)
    except OSError:
        version = None if spec.has_location else _source(name, spec, file)
    known = _loaded.get((name, file))
    if known is None or known[0] != version:
        try:
            known = _loaded[name, file] = version, _read(name, spec, file)
        except DeliveryPackingError:
            if known is None:
                raise
    module = known[1]
    return Module(name, module.package, file, module.source, module.code, imports=module.imports)


def _read(name: str, spec: importlib.machinery.ModuleSpec, file: str) -> Module:
    source = _source(name, spec, file)
    code = _code(name, spec, file, source)
    if source is None and code is None:
        raise DeliveryPackingError(f"module {name} ({file}) has neither source nor code to send", path=f"module {name}")
    packed, imports = (marshal.dumps(code), imports_of(code)) if code else (None, ())
    return Module(name, spec.submodule_search_locations is not None, file, source, packed, imports=imports)


def _source(name: str, spec: importlib.machinery.ModuleSpec, file: str) -> str | None:
    try:
        loader: Any = spec.loader
        return loader.get_source(name)  # type: ignore[no-any-return]
    except (AttributeError, ImportError, OSError, SyntaxError, UnicodeDecodeError):
        pass
    try:
        return importlib.util.decode_source(Path(file).read_bytes()) if file.endswith(".py") else None
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _code(name: str, spec: importlib.machinery.ModuleSpec, file: str, source: str | None) -> CodeType | None:
    try:
        if source is not None:
            loader = spec.loader
            if isinstance(loader, importlib.machinery.SourceFileLoader):
                return loader.get_code(name)
            return compile(source, file, "exec", dont_inherit=True)
        fallback: Any = spec.loader
        return fallback.get_code(name)  # type: ignore[no-any-return]
    except SyntaxError as error:
        if source is not None and name not in sys.modules:
            return None  # where it is imported it may be by another Python
        raise DeliveryPackingError(
            f"module {name} cannot be compiled: {error}", path=f"module {name}", real_exception=error
        ) from error
    except (AttributeError, ImportError, OSError):
        return None


class Collector:
    """Gathers the modules that a box needs, told what its functions refer to."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        self.named = tuple(named)
        self.modules: dict[str, Module] = {}
        # What does not travel, with its kind.
        self.left: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._seen: set[str] = set()
        self._asked: set[str] = set()
        for name in self.named:
            self._add_all(name)

    def add_named(self, name: str) -> None:
        """Let a module travel, with all below it, although it is installed."""
        self.named = (*self.named, name)
        self.left = {each: kind for each, kind in self.left.items() if not self.is_named(each)}
        self._seen.difference_update([each for each in self._seen if self.is_named(each)])
        self._add_all(name)

    def is_named(self, name: str) -> bool:
        """Whether the caller said that this module shall travel."""
        return any(name == each or name.startswith(each + ".") for each in self.named)

    def scan(self, code: CodeType, package: str, home: str, reason: str) -> None:
        """Add everything that *code*, in the module *home*, imports."""
        for name in names_of(imports_of(code), package, home):
            self.add(name, reason)

    def add(self, name: str, reason: str, needed: bool = False) -> None:
        """Add a module, the packages above it, and all that they import; unknown names are none of ours.

        :param needed: whether it is referred to, and not just imported, which may fail and be dealt with
        """
        self._asked.add(name)
        queue = [(name, reason)]
        while queue:
            name, reason = queue.pop()
            parent = name.rpartition(".")[0]
            if name in self._seen or name == "__main__" or not name:
                continue
            self._seen.add(name)
            spec = find_spec(name)
            if spec is None:
                if needed and name in self._asked:
                    _refuse_if_made_by_hand(name)
                continue
            kind = "own" if self.is_named(name) and not (spec.origin or "").endswith(_EXTENSIONS) else kind_of(spec)
            if kind in ("stdlib", "library"):
                continue
            if parent:
                queue.append((parent, f"package of {name}"))
            if kind != "own":
                self.left[name] = kind
                continue
            module = self._take(name, spec, reason)
            package = name if module.package else parent
            queue += [(each, f"imported by {name}") for each in names_of(module.imports, package)]

    def _take(self, name: str, spec: importlib.machinery.ModuleSpec, reason: str) -> Module:
        module = load(name, spec)
        self.modules[name] = module
        self._reasons[name] = reason
        return module

    def _add_all(self, name: str, above: frozenset[str] = frozenset()) -> None:
        """:param above: the folders that it lies in, to which a link in it may lead"""
        spec = find_spec(name)
        if spec is None:
            raise DeliveryPackingError(f"modules: there is no module named {name!r} here", path=f"module {name}")
        if (spec.origin or "").endswith(_EXTENSIONS):
            raise DeliveryPackingError(f"modules: {name} is machine code ({spec.origin}) and cannot travel", path=f"module {name}")
        self.add(name, "named in modules=")
        places = frozenset(map(os.path.realpath, spec.submodule_search_locations or ()))
        for child in _children(list(spec.submodule_search_locations or ()), above | places):
            self._add_all(f"{name}.{child}", above | places)

    def code_reads_data(self) -> bool:
        """Whether what was asked for are ways to read data files: by functions that travel by themselves, not by modules."""
        return reads_data(self._asked)

    def finish(self) -> None:
        """Add the data files of the packages, if anything that travels reads such files."""
        if not reads_data(self._seen):
            return
        # What two packages have is sent once if it is one object.
        read = functools.cache(Path.read_bytes)
        for module in self.modules.values():
            if module.package and module.file and not module.file.startswith("<") and not module.data:
                try:
                    module.data = _data_files(Path(module.file).parent, self.is_named(module.name), read)
                except OSError as error:
                    if isinstance(error, PermissionError) and not self.is_named(module.name):
                        continue  # the folder itself
                    raise DeliveryPackingError(
                        f"the data files of package {module.name} cannot be read: {error}",
                        path=f"module {module.name}",
                        real_exception=error,
                    ) from error

    def entries(self) -> tuple[Entry, ...]:
        """What travels and why, then what does not: of packages that do not at all only the topmost."""
        found = {name: Entry(name, True, module.size, self._reasons[name]) for name, module in self.modules.items()}
        for name, kind in sorted(self.left.items()):
            top = name.partition(".")[0]
            shown = name if top in self.modules else top
            found.setdefault(shown, Entry(shown, False, 0, _REASONS[kind]))
        return tuple(sorted(found.values(), key=lambda entry: (not entry.by_value, entry.name)))


def _refuse_if_made_by_hand(name: str) -> None:
    module = sys.modules.get(name)
    # What is within a package may be made by that over there, too.
    if isinstance(module, ModuleType) and getattr(module, "__spec__", None) is None and "." not in name:
        raise DeliveryPackingError(
            f"module {name} exists only in this process: nothing says where it came from. "
            "Put it into a file, or pass what is needed of it as arguments",
            path=f"module {name}",
        )


def _children(places: list[str], above: frozenset[str]) -> Iterator[str]:
    """Names of the modules in these folders, and of the folders in them without ``__init__.py`` that have modules."""
    import pkgutil

    found = {child.name for child in pkgutil.iter_modules(places)}
    yield from sorted(found)
    for path in [path for place in places for path in _listed(place)]:
        real = os.path.realpath(path)
        is_new = path.is_dir() and path.name.isidentifier() and path.name not in found and real not in above
        if is_new and any(_children([real], above | {real})):
            found.add(path.name)
            yield path.name


def _listed(folder: str) -> list[Path]:
    try:
        return sorted(Path(folder).iterdir())
    except OSError:
        return []  # in an archive, or nobody's to read


def _data_files(
    folder: Path, needed: bool, read: Callable[[Path], bytes], above: frozenset[str] = frozenset()
) -> dict[str, bytes | None]:
    """:param needed: whether all of them must be readable
    :param above: the folders that it lies in, to which a link in it may lead
    """
    found: dict[str, bytes | None] = {}
    above |= {os.path.realpath(folder)}
    if not folder.is_dir():
        return found  # in an archive
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")):
            continue
        try:
            if path.is_dir():
                is_new = os.path.realpath(path) not in above
                if is_new and (not (path / "__init__.py").exists() or _is_of_data(path, above)):
                    found |= {f"{path.name}/{name}": data for name, data in _data_files(path, needed, read, above).items()}
            elif path.is_file() and not path.name.endswith((".py", ".pyc", *_EXTENSIONS)):
                found[path.name] = read(path)
        except PermissionError:
            if needed:
                raise
            found[path.name] = None
    return found


def _is_of_data(package: Path, above: frozenset[str]) -> bool:
    """Whether nothing in it can be imported but packages like it."""
    above |= {os.path.realpath(package)}
    children = [package / name for name in _children([str(package)], above)]
    return all(child.is_dir() and (os.path.realpath(child) in above or _is_of_data(child, above)) for child in children)


def table(modules: Iterable[Module], with_code: bool) -> dict[str, tuple[object, ...]]:
    """What the far side's importer takes; *with_code* only for the version of Python that made it."""
    return {
        module.name: (module.package, module.file, module.code if with_code else None, module.source, module.data)
        for module in modules
    }


def package_of(namespace: dict[str, Any]) -> str:
    """The package in which relative imports of functions with these globals are resolved."""
    package = namespace.get("__package__")
    if isinstance(package, str):
        return package
    name = str(namespace.get("__name__", ""))
    return name if "__path__" in namespace else name.rpartition(".")[0]


def is_module(thing: object) -> bool:
    """Whether *thing* is a module that can be imported by its name."""
    return isinstance(thing, ModuleType) and sys.modules.get(thing.__name__) is thing
