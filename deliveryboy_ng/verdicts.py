"""From what is known of a call that has ended to its verdict, its value, and the error that a plain call raises.

Only evidence counts: the wait status, the supervisor's own timers and figures, and what the answer carries.
"""

from __future__ import annotations

import errno
import json
import math
import platform
import signal
import sys
from dataclasses import dataclass, replace
from typing import Any

from . import replies
from .answer import Account, Reply
from .exceptions import (
    CallCancelled,
    CallDied,
    CallExited,
    CallInterrupted,
    CallTimeout,
    CpuLimitExceeded,
    DeliveryError,
    DeliveryPackingError,
    DeliveryPickleError,
    DeliveryTransportError,
    FileSizeLimitExceeded,
    LimitExceeded,
    MemoryLimitExceeded,
    OpenFilesLimitExceeded,
    OutputLimitExceeded,
    ProcessLimitExceeded,
    ProtectionUnavailable,
    RemoteError,
    ReplyLimitExceeded,
    VersionMismatchError,
)
from .exchange import Ending
from .options import Options
from .receipt import Receipt, Verdict, ending_in_words, in_mebibytes, is_much, printable, signal_name
from .tracebacks import Origin
from .transports import is_elsewhere
from .worker import records

__all__ = ["Case", "judge"]

_LIMITS: dict[str, tuple[Verdict, type[LimitExceeded]]] = {
    "cpu": (Verdict.CPU_LIMIT, CpuLimitExceeded),
    "memory": (Verdict.MEMORY_LIMIT, MemoryLimitExceeded),
    "data": (Verdict.MEMORY_LIMIT, MemoryLimitExceeded),
    "address_space": (Verdict.MEMORY_LIMIT, MemoryLimitExceeded),
    "processes": (Verdict.PROCESS_LIMIT, ProcessLimitExceeded),
    "file_size": (Verdict.FILE_SIZE_LIMIT, FileSizeLimitExceeded),
    "open_files": (Verdict.OPEN_FILES_LIMIT, OpenFilesLimitExceeded),
}
# Bytes; less has been seen where nobody has looked in time.
_WORTH_TELLING = 100_000
_NUMBERS = {"file_size": errno.EFBIG, "open_files": errno.EMFILE}


@dataclass(frozen=True)
class Case:
    """What this side knows of a call by itself.

    :ivar reader: reads what the answer holds
    :ivar last_words: the last of the call's stderr, whether it is kept in the receipt or not
    :ivar timeout: what the option is called that limits its time
    """

    options: Options
    reader: replies.Reader
    last_words: bytes
    timeout: str = "timeout"


def judge(receipt: Receipt, ending: Ending, case: Case) -> Receipt:
    """The receipt with verdict and value, or with the error that a plain call raises."""
    if isinstance(case.reader, replies.Known) and (ending.lost is not None or ending.account is None):
        return replace(receipt, verdict=Verdict.RETURNED, value=case.reader.known)
    if ending.lost is not None:
        return _failed(receipt, Verdict.LOST, ending.lost)
    account = ending.account
    if account is None and ending.is_asked_for:
        return _failed(receipt, Verdict.CANCELLED, CallCancelled(f"{receipt.function} was cancelled before it began"))
    if account is None:
        return _failed(receipt, Verdict.REFUSED, DeliveryTransportError(f"{receipt.function}: {ending.refused}", argv=receipt.args))
    if ending.reply.unheld:
        text = f"{receipt.function} returned more than there is memory for here: {ending.reply.size} bytes have come"
        return _failed(receipt, Verdict.RETURNED, DeliveryPickleError(text, real_exception=MemoryError()))
    if ending.reply.overlong:
        return _replied_too_much(receipt, ending.reply, case)
    status, payload = ending.reply.status, ending.reply.payload
    if status and status in b"ELV":
        # What it is held to has been told before it began: before its box was unpacked, if it is kept from its supervisor.
        begun = bool(ending.reply.applied) and (status != b"L" or not case.options.guard)
        return _refused(receipt, case, status, payload, begun)
    answered = _answered(receipt, case, status, payload, ending.reply.pieces) if status else None
    if account.ending in _ENDED and _was_asked_for(account.ending, case.options):
        return _ENDED[account.ending](answered or receipt, account, case)
    if answered is not None:
        return answered
    if account.ending == "cancelled":
        return _failed(receipt, Verdict.CANCELLED, CallCancelled(f"{receipt.function} was cancelled and its processes were killed"))
    return _ended_itself(receipt, case)


def _failed(receipt: Receipt, verdict: Verdict, error: BaseException, limit: str | None = None) -> Receipt:
    receipt = replace(receipt, verdict=verdict, exception=error, limit=limit)
    if isinstance(error, DeliveryError) and error.receipt is None:
        # Without the exception: a record that holds itself cannot be printed.
        error.receipt = replace(receipt, exception=None)
    return receipt


def _was_asked_for(ending: str, options: Options) -> bool:
    if ending in ("timeout", "output"):
        return (options.timeout is not None) if ending == "timeout" else options.overflow == "kill"
    return ending in options.limits.as_setup()


# --- ended by the supervisor ------------------------------------------------------------------------------------------


def _took_too_long(receipt: Receipt, account: Account, case: Case) -> Receipt:
    ended = "was killed" if receipt.signal == signal.SIGKILL else "ended"
    memory = f" and {in_mebibytes(account.peak)}" if account.peak >= _WORTH_TELLING else ""
    text = (
        f"{receipt.function} took longer than {case.timeout}={case.options.timeout:g} seconds and {ended} after {account.wall:.2f} "
        f"(it had {_tasks(account.tasks)}{memory} at most when looked at); "
        f"raise {case.timeout}, or do less"
    )
    error = CallTimeout(text)
    error.__cause__ = receipt.exception
    return _failed(receipt, Verdict.TIMEOUT, error, "timeout")


def _tasks(number: int) -> str:
    return "one process" if number == 1 else f"{number} processes and threads"


def _used_too_much_cpu(receipt: Receipt, account: Account, case: Case) -> Receipt:
    used = max(account.observed, account.user + account.system)
    ended = "" if receipt.exception is not None else " and were killed"
    text = f"its processes used {used:.2f} seconds of processor time together{ended}"
    return _beyond(receipt, case, "cpu", text, receipt.exception)


def _used_too_much_memory(receipt: Receipt, account: Account, case: Case) -> Receipt:
    return _beyond(receipt, case, "memory", f"its processes held {in_mebibytes(account.observed)} together and were killed")


def _had_too_many_processes(receipt: Receipt, account: Account, case: Case) -> Receipt:
    return _beyond(receipt, case, "processes", f"there were {account.observed:.0f} processes and threads, and they were killed")


def _wrote_too_much(receipt: Receipt, account: Account, case: Case) -> Receipt:
    text = (
        f'{receipt.function} went beyond max_output={case.options.max_output} with overflow="kill": it had written '
        f"{account.observed:.0f} bytes to {' or '.join(receipt.truncated) or 'one stream'}; raise max_output, write less, "
        'or cut by overflow="cut"'
    )
    return _failed(receipt, Verdict.OUTPUT_LIMIT, OutputLimitExceeded(text, limit="max_output"), "max_output")


_ENDED = {
    "timeout": _took_too_long,
    "cpu": _used_too_much_cpu,
    "memory": _used_too_much_memory,
    "processes": _had_too_many_processes,
    "output": _wrote_too_much,
}


def _replied_too_much(receipt: Receipt, reply: Reply, case: Case) -> Receipt:
    announced = f" of {reply.needed} that it announced" if reply.needed > reply.size else ""
    text = (
        f"{receipt.function} went beyond max_reply={case.options.most_reply}: {reply.size} bytes of its answer{announced} had come "
        "when it was ended; raise max_reply, or return less"
    )
    return _failed(receipt, Verdict.REPLY_LIMIT, ReplyLimitExceeded(text, limit="max_reply"), "max_reply")


def _beyond(receipt: Receipt, case: Case, limit: str, observed: str, cause: BaseException | None = None) -> Receipt:
    verdict, kind = _LIMITS[limit]
    text = f"{receipt.function} went beyond {_as_given(case, limit)}: {observed}; raise the limit, or use less"
    error = kind(text, limit=limit)
    if isinstance(error, OSError):
        # Of an exception that is data it may be anything.
        number = getattr(cause, "errno", None)
        error.errno = number if type(number) is int else _NUMBERS[limit]
    error.__cause__ = cause
    return _failed(receipt, verdict, error, limit)


def _as_given(case: Case, limit: str) -> str:
    value = getattr(case.options.limits, limit)
    return f"Limits({limit}={json.dumps(value)})"


# --- answered ---------------------------------------------------------------------------------------------------------


def _answered(receipt: Receipt, case: Case, status: bytes, payload: replies.Buffer, pieces: list[Any]) -> Receipt:
    try:
        if status == b"R":
            return replace(receipt, verdict=Verdict.RETURNED, value=case.reader.value(payload, pieces))
        if status == b"X":
            return _raised(receipt, case, *case.reader.exception(payload, _origin(receipt, case)))
    except DeliveryPickleError as problem:
        return _failed(receipt, Verdict.RETURNED if status == b"R" else Verdict.RAISED, problem)
    text = f"{receipt.function} returned what cannot travel: {_text(payload)}. {_ways_for(_text(payload), case.options)}"
    return _failed(receipt, Verdict.RETURNED, DeliveryPickleError(text))


def _ways_for(said: str, options: Options) -> str:
    ways = "Return its data instead"
    if options.trusted:
        return ways
    if any(said.endswith(f" is a {kind.__module__}.{kind.__qualname__}") for kind in options.accepts):
        return "accepts=[...] names an older class of that name, which was defined anew since: decorate again, with the new one"
    ways += " or name an enum, dataclass or named tuple in accepts=[...]"
    if options.confinement is None:
        ways += "; whom you trust with all that you may do yourself may send anything: trust=True"
    return ways


def _raised(receipt: Receipt, case: Case, error: BaseException, limit: str) -> Receipt:
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, RemoteError) and error.type_name == "KeyboardInterrupt"):
        interrupted = CallInterrupted(f"{receipt.function} raised KeyboardInterrupt")
        interrupted.__cause__ = error
        return _failed(receipt, Verdict.RAISED, interrupted)
    if limit == "processes?" and receipt.usage.tasks >= (case.options.limits.processes or float("inf")):
        # Meanwhile some have ended; but the supervisor has seen them.
        limit = "processes"
    if limit in _LIMITS and limit in case.options.limits.as_setup():
        words = _named(error, receipt.trusted)
        if _LIMITS[limit][0] is Verdict.MEMORY_LIMIT and receipt.usage.peak >= _WORTH_TELLING:
            words += f" (its processes held {in_mebibytes(receipt.usage.peak)} at most when looked at)"
        if limit == "processes":
            words += f" ({receipt.usage.tasks} were seen at most; what this user runs elsewhere counts too, except for root)"
        return _beyond(receipt, case, limit, words, error)
    if isinstance(error, ImportError) and type(error).__module__ == "builtins":
        for note in _another_python(receipt, case):
            error.add_note(note)
    return _failed(receipt, Verdict.RAISED, error)


def _another_python(receipt: Receipt, case: Case) -> list[str]:
    first = case.options.executables[0]
    if receipt.executable == first:
        return []
    return [f"(it was run by {receipt.executable}: {first} cannot be started there; name another with executable=)"]


def _named(error: BaseException, trusted: bool) -> str:
    """Type and text, whatever its class or its arguments make of being shown."""
    try:
        # The caller's own classes may run anything there, with contents that come from anywhere.
        known = trusted or type(error).__module__ == "builtins" or isinstance(error, RemoteError)
        text = str(error) if known and not is_much(error) else ""
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _refused(receipt: Receipt, case: Case, status: bytes, payload: replies.Buffer, begun: bool) -> Receipt:
    problem: BaseException
    if begun:
        problem = DeliveryPickleError(f"{receipt.function} claims that it has not run, but it had begun: {_text(payload)!r:.500}")
        return _failed(receipt, Verdict.RAISED, problem)
    if status == b"E":
        problem = ProtectionUnavailable(f"{receipt.function} has not run: {_text(payload)}")
    elif status == b"V":
        problem = VersionMismatchError(f"{receipt.function} has not run: {_text(payload)}, there is {receipt.python}")
    else:
        try:
            error, limit = case.reader.exception(payload, _origin(receipt, case))
            if limit in _LIMITS and limit in case.options.limits.as_setup():
                return _beyond(
                    receipt,
                    case,
                    limit,
                    f"it has not run, its box could not be unpacked there: {_named(error, receipt.trusted)}",
                    error,
                )
            problem = _not_unpacked(receipt, case, error)
        except DeliveryPickleError as unreadable:
            problem = unreadable
    return _failed(receipt, Verdict.REFUSED, problem)


def _not_unpacked(receipt: Receipt, case: Case, error: BaseException) -> DeliveryPackingError:
    versions = platform.python_version_tuple()[:2], tuple(receipt.python.split(".")[:2])
    by_reference = "" if versions[0] == versions[1] else f" (all went by reference, since this is Python {'.'.join(versions[0])})"
    problem = DeliveryPackingError(
        f"{receipt.function} has not run: its box cannot be unpacked by Python {receipt.python} of "
        f"{receipt.transport}{by_reference}: {' '.join([_named(error, receipt.trusted), *_another_python(receipt, case)])}",
        real_exception=error,
    )
    problem.__cause__ = error
    return problem


def _origin(receipt: Receipt, case: Case) -> Origin:
    return Origin(f"{receipt.host} {receipt.transport}", is_elsewhere(case.options.chain))


def _text(payload: replies.Buffer) -> str:
    return printable(bytes(payload[: 1 << 16]).decode("utf-8", "replace"))


# --- ended itself -----------------------------------------------------------------------------------------------------


def _ended_itself(receipt: Receipt, case: Case) -> Receipt:
    limits = case.options.limits.as_setup()
    used = receipt.usage.user + receipt.usage.system
    # What the watch does not end, the kernel does, by whole seconds.
    if receipt.signal in (signal.SIGXCPU, signal.SIGKILL) and used >= math.ceil(limits.get("cpu", sys.maxsize)):
        return _beyond(receipt, case, "cpu", f"it used {used:.2f} seconds of processor time and was killed")
    if receipt.signal == signal.SIGXFSZ and "file_size" in limits:
        return _beyond(receipt, case, "file_size", "it was killed by SIGXFSZ")
    last_words = printable(case.last_words.decode("utf-8", "backslashreplace"))
    fault = last_words[last_words.rfind("Fatal Python error") :] if "Fatal Python error" in last_words else ""
    said = _quoted_fault(fault) if fault else _quoted(last_words)
    if receipt.signal is not None:
        text = f"{receipt.function} was killed by {signal_name(receipt.signal)} before it returned"
        if receipt.signal == signal.SIGKILL:
            text += ", which its supervisor did not send; the kernel does where memory runs out"
        scarce = [limit for limit in ("memory", "address_space", "data", "stack") if limit in limits]
        if receipt.signal == signal.SIGSEGV and scarce:
            text += f", under {' and '.join(_as_given(case, limit) for limit in scarce)}"
            text += "; C code that does not check whether it gets memory dies so where it is refused any"
        return _failed(receipt, Verdict.SIGNALED, CallDied(text + said, signal=receipt.signal, traceback_text=fault))
    code = receipt.returncode or 0
    if code == records.FAILED and not said:
        said = "; so ends a function that closes all descriptors, its answer's included"
    text = f"{receipt.function} ended its process with {ending_in_words(code)} instead of returning{said}"
    return _failed(receipt, Verdict.EXITED, CallExited(text, returncode=code))


def _quoted_fault(fault: str) -> str:
    """What faulthandler said, innermost frame first, without this library's own."""
    lines = [line for line in fault.strip().splitlines() if "deliveryboy_ng/worker/" not in line and 'File "<string>"' not in line]
    return "; it said:" + "".join(f"\n  {line}" for line in lines[:15])


def _quoted(last_words: str) -> str:
    tail = "".join(f"\n  {line}" for line in last_words.strip().splitlines()[-15:])
    return f"; the last of its stderr:{tail}" if tail else ""
