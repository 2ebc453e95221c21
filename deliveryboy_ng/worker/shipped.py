"""Imports the modules that travelled in the box, from memory.

Contract: far side, standard library only, Python 3.8+.  ``install({name: (package, file, code, source, data)})`` puts a
finder before all others: *code* is marshalled code or None, *source* text or None, *data* a dict of a package's data
files by their path within it, with None for those that could not be read; a package without code and source is a
namespace package.  Files keep the names they have at the caller's, where tracebacks find their lines; nothing is written
to disk here.
"""

import _frozen_importlib
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIBRARY = "deliveryboy_ng"
_ModuleSpec: "Any" = _frozen_importlib.ModuleSpec


def install(modules: "dict[str, tuple[object, ...]]") -> None:
    """Make *modules*, and the stand-in for this library itself, importable."""
    if modules:
        sys.meta_path.insert(0, Finder(modules))
    sys.meta_path.append(LibraryFinder())


class LibraryFinder:
    """The last finder asked: where this library cannot be imported, its stand-in is."""

    def find_spec(self, name: "Any", path: "Any" = None, target: "Any" = None) -> "Any":
        if name != LIBRARY and not name.startswith(LIBRARY + "."):
            return None
        from . import standin

        return _ModuleSpec(name, standin.Loader(), is_package=True)

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


class Filler:
    """A finder that fills dicts from a module when that is imported: somebody has them already under those names."""

    def __init__(self, module: str, held: "dict[str, dict[object, object]]") -> None:
        self._module, self._held = module, held

    def find_spec(self, name: "Any", path: "Any" = None, target: "Any" = None) -> "Any":
        if name != self._module:
            return None
        # It stays in its place, from which another thread may be counting.
        self._module = ""
        module = __import__(name)
        for known, values in self._held.items():
            values.update(getattr(module, known))
            setattr(module, known, values)
        there = _There(module, module.__spec__)
        # The import system takes this one, since the module is there by now.
        module.__spec__ = _ModuleSpec(name, there)
        return module.__spec__

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


class _There:
    """Loads what is loaded already."""

    def __init__(self, module: "Any", spec: "Any") -> None:
        self._module, self._spec = module, spec

    def create_module(self, spec: "Any") -> "Any":
        return self._module

    def exec_module(self, module: "Any") -> None:
        # It has been executed.
        module.__spec__ = self._spec


class Finder:
    """A meta path finder over the box's modules."""

    def __init__(self, modules: "dict[str, tuple[object, ...]]") -> None:
        self._modules = modules

    def find_spec(self, name: "Any", path: "Any" = None, target: "Any" = None) -> "Any":
        entry = self._modules.get(name)
        if entry is None:
            return None
        package, file, code, source, data = entry
        if package and code is None and source is None:
            spec = _ModuleSpec(name, None, is_package=True)
            # Parts of a namespace package that are installed over here stay importable.
            spec.submodule_search_locations = _places(name)
            return spec
        if not package:
            # Beside it lie the files of the package that it is in.
            data = self._modules.get(name.rpartition(".")[0], entry)[4]
        spec = _ModuleSpec(name, Loader(package, file, code, source, data), origin=file, is_package=package)
        spec.has_location = True
        if package:
            folder = str(file).rpartition("/")[0]
            spec.submodule_search_locations = [folder] if folder else []
        return spec

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


def _places(name: str) -> "list[str]":
    """Where else on this side a namespace package of that name has parts."""
    parent, _, last = name.rpartition(".")
    around = sys.modules[parent].__path__ if parent else sys.path
    return [entry.rstrip("/") + "/" + last for entry in around if entry]


class Loader:
    """Executes one module and hands out its source and data."""

    def __init__(self, package: "Any", file: "Any", code: "Any", source: "Any", data: "Any") -> None:
        self._package, self._file, self._code, self._source, self._data = package, file, code, source, data

    def create_module(self, spec: "Any") -> "Any":
        return None

    def exec_module(self, module: "Any") -> "Any":
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: "Any") -> "Any":
        if self._code is not None:
            return marshal.loads(self._code)
        return compile(self._source, self._file, "exec", dont_inherit=True)

    def get_source(self, name: "Any") -> "Any":
        return self._source

    def get_filename(self, name: "Any") -> "Any":
        return self._file

    def is_package(self, name: "Any") -> "Any":
        return self._package

    def get_data(self, path: "Any") -> "Any":
        from . import resources

        folder = self._file.rpartition("/")[0] + "/"
        within = path[len(folder) :] if path.startswith(folder) else ""
        return resources.content(self._data, within, path)

    def get_resource_reader(self, name: "Any") -> "Any":
        if not self._package and not self._data:
            return None
        from . import resources

        return resources.Reader(self._data)
