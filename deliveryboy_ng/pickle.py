"""A box as text, and back: what deliveryboy 0.1.0 called pickle, unpickle and ModulePickle.

Only ever unpickle what you trust: a pickle can run any code.
"""

from __future__ import annotations

import binascii
import pickle as standard
import sys
import types
from collections.abc import Iterable
from typing import Any

from .exceptions import DeliveryPickleError

__all__ = ["PICKLE_END_MARKER", "PICKLE_START_MARKER", "ModulePickle", "pickle", "unpickle"]

PICKLE_START_MARKER = b"=====BEGINPICKLE====="
PICKLE_END_MARKER = b"=====ENDPICKLE====="


def pickle(data: Any) -> str:
    """Any picklable object, functions included, as base64 text between two markers.

    :raises DeliveryPickleError: if it cannot be pickled
    """
    import cloudpickle

    try:
        text = binascii.b2a_base64(cloudpickle.dumps(data), newline=False)
    except Exception as error:
        raise DeliveryPickleError(f"{type(data).__name__} object cannot be pickled: {error}", real_exception=error) from error
    return (PICKLE_START_MARKER + text + PICKLE_END_MARKER).decode("ascii")


def unpickle(data: bytes | str, discard_excess: bool = True) -> tuple[Any, str, str]:
    """The object that :func:`pickle` made text of, and what stood before and after the markers.

    :param discard_excess: return empty strings in place of what stood around
    :raises DeliveryPickleError: if there is no box in *data*, or it cannot be unpickled
    """
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else bytes(data)
    start = raw.find(PICKLE_START_MARKER)
    end = raw.find(PICKLE_END_MARKER, start + len(PICKLE_START_MARKER)) if start >= 0 else -1
    # What stood before may have ended with the first half of a marker.
    start = raw.rfind(PICKLE_START_MARKER, 0, max(end, 0))
    if end < 0:
        raise DeliveryPickleError(f"no complete box in these {len(raw)} bytes: {raw[:200]!r}")
    try:
        # White space within the text, as a pager or a mail program puts it, is skipped.
        box = standard.loads(binascii.a2b_base64(raw[start + len(PICKLE_START_MARKER) : end]))
    except Exception as error:
        raise DeliveryPickleError(f"the box cannot be unpickled: {type(error).__name__}: {error}", real_exception=error) from error
    if discard_excess:
        return box, "", ""
    prefix, suffix = raw[:start], raw[end + len(PICKLE_END_MARKER) :]
    return box, prefix.decode("utf-8", "backslashreplace"), suffix.decode("utf-8", "backslashreplace")


class ModulePickle:
    """Modules as bytes: :meth:`pickle` packs them with all that they import, :meth:`unpickle` makes them importable.

    :param modules: modules, or their names
    :param pickled: what :meth:`pickle` returned
    """

    name = "modulecontainer"

    def __init__(self, modules: Iterable[types.ModuleType | str] = (), pickled: bytes | None = None) -> None:
        self.modules = list(modules)
        self.pickled = pickled

    def pickle(self) -> bytes:
        """The modules and their imports, as far as they are the caller's own.

        :raises DeliveryPackingError: if a module cannot travel
        """
        from .modules import Collector, table

        names = [module if isinstance(module, str) else module.__name__ for module in self.modules]
        collector = Collector(names)
        collector.finish()
        return standard.dumps(table(collector.modules.values(), with_code=False))

    def unpickle(self) -> None:
        """Make the packed modules importable in this process, unless they already are there.

        :raises DeliveryPickleError: if the bytes are no packed modules
        """
        from .worker import shipped

        try:
            modules = standard.loads(self.pickled or b"")
            modules = {name: entry for name, entry in modules.items() if name not in sys.modules}
        except Exception as error:
            raise DeliveryPickleError(
                f"these are no packed modules: {type(error).__name__}: {error}", real_exception=error
            ) from error
        if modules:
            sys.meta_path.insert(0, shipped.Finder(modules))
