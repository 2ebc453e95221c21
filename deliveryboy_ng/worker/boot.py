"""Second stage: makes the worker's modules importable from memory under their real names, and starts the supervisor.

Contract: executed by the assembler in its own namespace, where ``w`` maps module names to marshalled code or source,
``n`` is the nonce, and ``t`` has the words of the line before the worker, from the fourth on those for the supervisor.
"""

import _frozen_importlib
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

worker = globals()["w"]
ModuleSpec: "Any" = _frozen_importlib.ModuleSpec
PACKAGE = "deliveryboy_ng.worker"


class Finder:
    """Finds and loads one module of the worker."""

    def find_spec(self, name: "Any", path: "Any" = None, target: "Any" = None) -> "Any":
        return ModuleSpec(name, self, origin="<%s>" % name) if name in worker else None

    def create_module(self, spec: "Any") -> "Any":
        return None

    def exec_module(self, module: "Any") -> "Any":
        code = worker[module.__name__]
        if isinstance(code, bytes):
            code = marshal.loads(code)
        else:
            code = compile(code, module.__spec__.origin, "exec", dont_inherit=True)
        exec(code, module.__dict__)

    def invalidate_caches(self) -> None:
        """Nothing is cached."""


def submodule(name: "Any") -> "Any":
    # Found here, "from . import x" never comes to the import system, which would want the package above as well.
    if "%s.%s" % (PACKAGE, name) not in worker:
        raise AttributeError(name)
    return _frozen_importlib._gcd_import("%s.%s" % (PACKAGE, name))  # type: ignore[attr-defined]


package = sys.modules[PACKAGE] = type(sys)(PACKAGE)
package.__package__ = PACKAGE
package.__path__ = []
package.__getattr__ = submodule  # type: ignore[method-assign]
sys.meta_path.insert(0, Finder())
package.supervisor.main(globals()["n"].encode(), *globals()["t"][3:])
