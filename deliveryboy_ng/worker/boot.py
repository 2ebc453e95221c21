"""Second stage: makes the worker's modules importable from memory under their real names, and starts the supervisor.

Contract: executed by the assembler in its own namespace, where ``w`` has the worker, ``i`` tells where in it each module's code
or source is, ``n`` is the nonce, and ``t`` has the words of the line before the worker, from the fifth on those for the supervisor.
"""

import _frozen_importlib
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

worker, places = globals()["w"], globals()["i"]
ModuleSpec: "Any" = _frozen_importlib.ModuleSpec
PACKAGE = "deliveryboy_ng.worker"


# What every call needs, in the order in which one needs another.
EARLY = (
    "system",
    "records",
    "pipes",
    "frames",
    "channel",
    "rebuild",
    "shipped",
    "answer",
    "preparing",
    "call",
    "spare",
    "parcel",
    "ledger",
    "spares",
    "supervisor",
)


class Finder:
    """Finds and loads one module of the worker."""

    def find_spec(self, name: "Any", path: "Any" = None, target: "Any" = None) -> "Any":
        return ModuleSpec(name, self, origin="<%s>" % name) if name in places else None

    def create_module(self, spec: "Any") -> "Any":
        return None

    def exec_module(self, module: "Any") -> "Any":
        found = worker[slice(*places[module.__name__])]
        if found[:1] == b'"':
            code = compile(bytes(found), module.__spec__.origin, "exec", dont_inherit=True)
        else:
            code = marshal.loads(found)
        exec(code, module.__dict__)

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


finder = Finder()


def load() -> None:
    """Import these without the import system, which takes as long for it again."""
    for name in EARLY:
        full = "%s.%s" % (PACKAGE, name)
        module = sys.modules[full] = type(sys)(full)
        module.__spec__ = finder.find_spec(full)
        module.__package__ = PACKAGE
        module.__loader__ = finder  # type: ignore[assignment]
        finder.exec_module(module)
        setattr(package, name, module)


def submodule(name: "Any") -> "Any":
    # Found here, "from . import x" never comes to the import system, which would want the package above as well.
    if "%s.%s" % (PACKAGE, name) not in places:
        raise AttributeError(name)
    return _frozen_importlib._gcd_import("%s.%s" % (PACKAGE, name))  # type: ignore[attr-defined]


package = sys.modules[PACKAGE] = type(sys)(PACKAGE)
package.__package__ = PACKAGE
package.__path__ = []
package.__getattr__ = submodule  # type: ignore[method-assign]
sys.meta_path.insert(0, finder)
load()
package.supervisor.main(globals()["n"].encode(), *globals()["t"][4:])
