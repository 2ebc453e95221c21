"""Run a function somewhere else as if it were a local call."""

from __future__ import annotations

import sys

# The typing module costs a third of a bare start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .confinement import Confinement
    from .core import DeliveryBoy, DeliveryBoyDecorator, Runner, deliver
    from .delivery import Delivery
    from .exceptions import (
        CallCancelled,
        CallDied,
        CallError,
        CallExited,
        CallInterrupted,
        CallTimeout,
        ConnectionLost,
        CpuLimitExceeded,
        DeliveryError,
        DeliveryOptionError,
        DeliveryPackingError,
        DeliveryPickleError,
        DeliveryTransportError,
        FileSizeLimitExceeded,
        HandshakeError,
        HostUnreachable,
        InitializerFailed,
        InterpreterNotFound,
        InterpreterTooOld,
        LimitExceeded,
        MemoryLimitExceeded,
        OpenFilesLimitExceeded,
        OutputLimitExceeded,
        ProcessLimitExceeded,
        ProtectionUnavailable,
        RemoteError,
        ReplyLimitExceeded,
        TransportNotFound,
        TransportRefused,
        VersionMismatchError,
    )
    from .executor import DeliveryExecutor
    from .limits import Limits
    from .options import Options
    from .receipt import Receipt, Usage, Verdict
    from .transports import Bubblewrap, Command, Local, Ssh, Sudo, Transport, Unshare

__version__ = "1.0.0.dev0"

_HOMES = {
    "core": "DeliveryBoy DeliveryBoyDecorator Runner deliver",
    "delivery": "Delivery",
    "executor": "DeliveryExecutor",
    "exceptions": "CallCancelled CallDied CallError CallExited CallInterrupted CallTimeout ConnectionLost CpuLimitExceeded "
    "DeliveryError DeliveryOptionError DeliveryPackingError DeliveryPickleError DeliveryTransportError "
    "FileSizeLimitExceeded HandshakeError HostUnreachable InitializerFailed InterpreterNotFound InterpreterTooOld LimitExceeded "
    "MemoryLimitExceeded OpenFilesLimitExceeded OutputLimitExceeded ProcessLimitExceeded ProtectionUnavailable "
    "RemoteError ReplyLimitExceeded TransportNotFound TransportRefused VersionMismatchError",
    "confinement": "Confinement",
    "limits": "Limits",
    "options": "Options",
    "receipt": "Receipt Usage Verdict",
    "transports": "Bubblewrap Command Local Ssh Sudo Transport Unshare",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Bubblewrap",
    "CallCancelled",
    "CallDied",
    "CallError",
    "CallExited",
    "CallInterrupted",
    "CallTimeout",
    "Command",
    "Confinement",
    "ConnectionLost",
    "CpuLimitExceeded",
    "Delivery",
    "DeliveryBoy",
    "DeliveryBoyDecorator",
    "DeliveryError",
    "DeliveryExecutor",
    "DeliveryOptionError",
    "DeliveryPackingError",
    "DeliveryPickleError",
    "DeliveryTransportError",
    "FileSizeLimitExceeded",
    "HandshakeError",
    "HostUnreachable",
    "InitializerFailed",
    "InterpreterNotFound",
    "InterpreterTooOld",
    "LimitExceeded",
    "Limits",
    "Local",
    "MemoryLimitExceeded",
    "OpenFilesLimitExceeded",
    "Options",
    "OutputLimitExceeded",
    "ProcessLimitExceeded",
    "ProtectionUnavailable",
    "Receipt",
    "RemoteError",
    "ReplyLimitExceeded",
    "Runner",
    "Ssh",
    "Sudo",
    "Transport",
    "TransportNotFound",
    "TransportRefused",
    "Unshare",
    "Usage",
    "Verdict",
    "VersionMismatchError",
    "deliver",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a program that delivers nothing pays nothing."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        value = getattr(importlib.import_module(f".{home}", __name__), name)
    except AttributeError as error:
        # "from deliveryboy_ng import deliver" would take it for the name's absence, and not say what is missing.
        raise ImportError(f"{__name__} does not fit what is installed here, pip check tells what: {error}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_frames = sys.modules.get(f"{__name__}.worker.frames")
if _frames is not None and __version__ != _frames.VERSION:
    # The far side of a call that another version of this library has sent, whose worker came with it: they do not fit together.
    from .worker import standin as _standin

    _standin.take_the_place_of(sys.modules[__name__])
