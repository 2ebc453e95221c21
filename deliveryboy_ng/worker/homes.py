"""Finds modules of which functions and classes came by themselves, when somebody imports them after all.

Contract: far side, standard library only, Python 3.8+.  Pickle does, which takes no function or class that is not what its
module has under its name.  So the module, if it can be had, gets those that came in place of its own; where it cannot, one
that has nothing else stands in for it.
"""

import _frozen_importlib
import sys

from . import rebuild, shipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def find(name: str, path: "Any") -> "Any":
    """The module's spec, or that of a package which it is in."""
    came = rebuild.came_without(name)
    for finder in sys.meta_path:
        spec: "Any" = finder.find_spec(name, path) if type(finder) is not shipped.HomeFinder else None
        if spec is not None:
            if came and hasattr(spec.loader, "exec_module"):
                spec.loader = Loader(spec.loader, came)
            return spec
    if not came and not any(rebuild.came_without(home) for home in rebuild.homes if home.startswith(name + ".")):
        return None
    made: "Any" = _frozen_importlib.ModuleSpec
    return made(name, StandIn(came))


class Loader:
    """Another one's, which puts into its module what came."""

    def __init__(self, loader: "Any", came: "dict[str, object]") -> None:
        self._loader, self._came = loader, came

    def create_module(self, spec: "Any") -> "Any":
        return self._loader.create_module(spec)

    def exec_module(self, module: "Any") -> None:
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for name, value in self._came.items():
            # What a decorator made of it stays.
            if type(vars(module).get(name)) is type(value):
                setattr(module, name, value)

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._loader, name)


class StandIn:
    """Makes a module of what came."""

    def __init__(self, came: "dict[str, object]") -> None:
        self._came = came

    def create_module(self, spec: "Any") -> "Any":
        return None

    def exec_module(self, module: "Any") -> None:
        def missing(name: str) -> "Any":
            raise AttributeError("of module %r only that is here which the call refers to, not %r" % (module.__name__, name))

        # Without a spec it is none that others could import.
        module.__dict__.update(self._came, __getattr__=missing, __path__=[], __spec__=None)
