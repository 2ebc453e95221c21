"""Every error that this library raises.

::

    DeliveryError
    ├── DeliveryOptionError (TypeError)     an option that does not exist or makes no sense
    ├── DeliveryPackingError                what was to be delivered cannot travel
    │   └── VersionMismatchError            it could, but not to that version of Python
    ├── DeliveryPickleError                 what came back cannot be rebuilt here
    ├── DeliveryTransportError              the way there failed
    │   ├── TransportNotFound               a command of the chain is not installed
    │   ├── TransportRefused                a hop said no: password, permission, host key, namespace
    │   ├── HostUnreachable                 no way to that host
    │   ├── InterpreterNotFound             no Python could be started there
    │   ├── InterpreterTooOld               a Python before 3.8 was
    │   ├── HandshakeError                  something else than the worker answered
    │   └── ConnectionLost                  the wire broke during the call
    ├── ProtectionUnavailable               a protection or setting cannot be enforced there
    ├── RemoteError                         an exception that cannot be rebuilt here
    └── CallError                           the call ended without an answer
        ├── CallDied                        killed by a signal
        ├── CallExited                      the process ended itself
        ├── CallInterrupted                 KeyboardInterrupt in the function
        ├── CallCancelled                   cancelled by the caller
        ├── InitializerFailed (RuntimeError)  what a session's calls were to share could not be made ready
        ├── CallTimeout (TimeoutError)      it took too long
        └── LimitExceeded                   it used more than it may
            ├── CpuLimitExceeded            processor time
            ├── MemoryLimitExceeded (MemoryError)
            ├── ProcessLimitExceeded        processes and threads
            ├── FileSizeLimitExceeded (OSError)
            ├── OpenFilesLimitExceeded (OSError)
            ├── OutputLimitExceeded         what it wrote to stdout or stderr
            └── ReplyLimitExceeded          what it returned or raised

All of them survive pickling with their attributes.
"""

from __future__ import annotations

from typing import Any


def _rebuild(kind: type[DeliveryError], args: tuple[Any, ...]) -> DeliveryError:
    error = (OSError if issubclass(kind, OSError) else Exception).__new__(kind, *args)
    error.args = args
    return error


class DeliveryError(Exception):
    """Base class of all errors of this library.

    :ivar real_exception: the exception behind this one, if there is one
    :ivar receipt: what is known of the call, if it got as far as the far side
    """

    # Here as well: a user's own kind may have an __init__ that asks nobody.
    real_exception: BaseException | None = None
    receipt: Any = None

    def __init__(self, *args: object, real_exception: BaseException | None = None) -> None:
        super().__init__(*args)
        self.real_exception = real_exception

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state["errno"] = self.errno
        return _rebuild, (type(self), self.args), state


class DeliveryOptionError(DeliveryError, TypeError):
    """An option is unknown, has the wrong type, or contradicts another; nothing was started."""


class DeliveryPackingError(DeliveryError):
    """The function, an argument or a module cannot travel, or could not be unpacked on arrival; the function did not run.

    :ivar path: where the offending object sits, such as ``argument 'x'['key'].lock``
    """

    def __init__(self, *args: object, path: str = "", real_exception: BaseException | None = None) -> None:
        super().__init__(*args, real_exception=real_exception)
        self.path = path


class VersionMismatchError(DeliveryPackingError):
    """What travels by value needs the caller's own minor version of Python; the function did not run."""


class DeliveryPickleError(DeliveryError):
    """A return value cannot travel or be rebuilt here, nor can a box given to :func:`deliveryboy_ng.pickle.unpickle`."""


class DeliveryTransportError(DeliveryError):
    """The transport failed before or during the call.

    :ivar hop: the part of the chain that failed, as far as its words tell
    :ivar argv: the command that was started
    :ivar returncode: how that command ended (negative: by that signal), None while it had not
    :ivar stderr: the last of what it wrote to stderr
    """

    def __init__(
        self,
        *args: object,
        hop: str = "",
        argv: tuple[str, ...] = (),
        returncode: int | None = None,
        stderr: str = "",
        real_exception: BaseException | None = None,
    ) -> None:
        super().__init__(*args, real_exception=real_exception)
        self.hop = hop
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr


class TransportNotFound(DeliveryTransportError):
    """A command of the chain is not installed."""


class TransportRefused(DeliveryTransportError):
    """A hop refused: a password is needed, permission is denied, a host key is unknown, a namespace is not permitted."""


class HostUnreachable(DeliveryTransportError):
    """The host's name is unknown, or nobody answers there."""


class InterpreterNotFound(DeliveryTransportError):
    """No Python interpreter could be started on the far side; the message names what was tried."""


class InterpreterTooOld(DeliveryTransportError):
    """The interpreter on the far side is older than Python 3.8."""


class HandshakeError(DeliveryTransportError):
    """The far side never greeted; the message quotes what it said instead."""


class ConnectionLost(DeliveryTransportError):
    """The wire broke while the call was under way; whether the function ran to its end is unknown."""


class ProtectionUnavailable(DeliveryError):
    """A limit or setting that was asked for cannot be enforced on the far side; the function did not run."""


class RemoteError(DeliveryError):
    """Stands for an exception of the far side that cannot be rebuilt here.

    :ivar type_name: the exception's full class name
    :ivar message: its text
    :ivar traceback_text: its traceback, formatted
    :ivar reason: why it could not be rebuilt
    """

    def __init__(
        self,
        *args: object,
        type_name: str = "",
        message: str = "",
        traceback_text: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(*args)
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        self.reason = reason


class CallError(DeliveryError):
    """The call ended without returning or raising."""


class CallDied(CallError):
    """The call's process was killed by a signal.

    :ivar signal: the signal's number
    :ivar traceback_text: what faulthandler wrote of it, if it did: the Python frames at that moment
    """

    def __init__(self, *args: object, signal: int = 0, traceback_text: str = "") -> None:
        super().__init__(*args)
        self.signal = signal
        self.traceback_text = traceback_text


class CallExited(CallError):
    """The function ended its process, by ``sys.exit`` or ``os._exit``, instead of returning.

    :ivar returncode: the exit code
    """

    def __init__(self, *args: object, returncode: int = 0) -> None:
        super().__init__(*args)
        self.returncode = returncode


class CallInterrupted(CallError):
    """The function raised KeyboardInterrupt although nobody pressed Ctrl-C at the caller's.

    (When somebody did, the caller gets a plain KeyboardInterrupt.)
    """


class CallCancelled(CallError):
    """The caller cancelled the call, and its processes were killed."""


class InitializerFailed(CallError, RuntimeError):
    """What a session's calls are to share could not be made ready: a module of ``preload``, or ``initializer``.

    The reason is its ``__cause__``.
    """


class CallTimeout(CallError, TimeoutError):
    """The call took longer than its ``timeout``, and its processes were killed.

    What the function returned after it had got SIGTERM is in ``receipt.value``.
    """


class LimitExceeded(CallError):
    """The call used more than it may: it was killed, or what it asked for was refused and it raised that error.

    In the second case that error is the ``__cause__``.

    :ivar limit: the limit's name, as in :class:`~deliveryboy_ng.Limits` or among the options
    """

    def __init__(self, *args: object, limit: str = "") -> None:
        super().__init__(*args)
        self.limit = limit


class CpuLimitExceeded(LimitExceeded):
    """All processes of the call together used more processor time than ``Limits(cpu=)``."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """The call used, or asked for, more memory than ``Limits(memory=)``, ``data=`` or ``address_space=``."""


class ProcessLimitExceeded(LimitExceeded):
    """The call had, or wanted, more processes and threads than ``Limits(processes=)``."""


class FileSizeLimitExceeded(LimitExceeded, OSError):
    """The call wrote a file larger than ``Limits(file_size=)``; ``errno`` is EFBIG."""


class OpenFilesLimitExceeded(LimitExceeded, OSError):
    """The call opened more files than ``Limits(open_files=)``; ``errno`` is EMFILE."""


class OutputLimitExceeded(LimitExceeded):
    """The call wrote more than ``max_output`` on one stream, and ``overflow="kill"`` was asked for."""


class ReplyLimitExceeded(LimitExceeded):
    """What the function returned or raised has more bytes than ``max_reply``, and has not been read to its end."""
