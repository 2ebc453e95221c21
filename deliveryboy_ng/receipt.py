"""What is known of a call once it is over."""

from __future__ import annotations

import dataclasses
import datetime
import reprlib
import signal as signals
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Receipt", "Usage", "Verdict"]

# Characters and objects of a value that are shown whole.
_MOST_SHOWN = 1 << 16


class Verdict(StrEnum):
    """How a call ended, by what the supervisor saw; never guessed from the transport's exit code."""

    RETURNED = "RETURNED"
    RAISED = "RAISED"
    EXITED = "EXITED"
    SIGNALED = "SIGNALED"
    TIMEOUT = "TIMEOUT"
    CPU_LIMIT = "CPU_LIMIT"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    FILE_SIZE_LIMIT = "FILE_SIZE_LIMIT"
    PROCESS_LIMIT = "PROCESS_LIMIT"
    OPEN_FILES_LIMIT = "OPEN_FILES_LIMIT"
    OUTPUT_LIMIT = "OUTPUT_LIMIT"
    REPLY_LIMIT = "REPLY_LIMIT"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"
    LOST = "LOST"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a call used.

    :ivar user: seconds of processor time, in all processes of the call
    :ivar system: the same, spent in the kernel
    :ivar wall: seconds from the start of the call's process to its end
    :ivar max_rss: largest resident memory of one process, in bytes (getrusage(2)), less what it shared with the
        supervisor when it began
    :ivar peak: most memory of all processes together that was seen at a time, in bytes, without pages of files; it is
        looked at now and then, so a short call may have had more
    :ivar tasks: most processes and threads that were seen at a time
    :ivar sent: bytes of the packed box
    :ivar received: bytes of the packed reply
    """

    user: float = 0.0
    system: float = 0.0
    wall: float = 0.0
    max_rss: int = 0
    peak: int = 0
    tasks: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, kw_only=True, repr=False)
class Receipt:
    """What happened to one call.

    :ivar function: the function's qualified name
    :ivar verdict: how it ended
    :ivar limit: the name of the limit that ended it, if one did: of an option, or of :class:`~deliveryboy_ng.Limits`
    :ivar value: what it returned
    :ivar exception: what a plain call would have raised
    :ivar returncode: the call process's exit code, or minus the signal that killed it; None if that is unknown
    :ivar signal: the signal that killed it, if one did
    :ivar stdout: what it wrote, as bytes; no more than ``max_output``
    :ivar stderr: the same for stderr
    :ivar truncated: names of streams of which a middle part was dropped
    :ivar usage: what it used
    :ivar applied: what was enforced before the function ran, limits and guards
    :ivar pid: PID of the transport, or of the interpreter where there is none
    :ivar remote_pid: PID of the call's process, as the far side counts
    :ivar host: the far side's host name
    :ivar python: the far side's Python version
    :ivar executable: the interpreter that was started, by the path or the name that it was started by
    :ivar args: the command line that was started, transport included, with ``...`` for words as long as the program for the
        interpreter
    :ivar transport: the chain's hops in words
    :ivar noise: the last of what the transport printed around the answer
    :ivar transport_stderr: the last of what the transport itself wrote to stderr
    :ivar trusted: whether the answer was unpickled; else it was taken as data
    :ivar clean: whether every process of the call is known to have ended
    :ivar started: when the call began (UTC)
    :ivar duration: seconds from packing to the answer
    """

    function: str
    verdict: Verdict
    limit: str | None = None
    value: Any = None
    exception: BaseException | None = None
    returncode: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: tuple[str, ...] = ()
    usage: Usage = Usage()
    applied: tuple[str, ...] = ()
    pid: int | None = None
    remote_pid: int | None = None
    host: str = ""
    python: str = ""
    executable: str = ""
    args: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    transport: str = ""
    noise: bytes = dataclasses.field(default=b"", repr=False)
    transport_stderr: str = dataclasses.field(default="", repr=False)
    trusted: bool = True
    clean: bool = False
    started: datetime.datetime = datetime.datetime.fromtimestamp(0, datetime.UTC)
    duration: float = 0.0

    def __repr__(self) -> str:
        parts = [f"{field.name}={shown(getattr(self, field.name))}" for field in dataclasses.fields(self) if field.repr]
        return f"Receipt({', '.join(parts)})"

    def __hash__(self) -> int:
        # What was returned need have none.
        return hash((self.function, self.started, self.host, self.remote_pid))

    @property
    def ok(self) -> bool:
        """Whether the function returned, and its value came back."""
        return self.verdict is Verdict.RETURNED and self.exception is None

    @property
    def stdout_text(self) -> str:
        """stdout as text, undecodable bytes escaped."""
        return self.stdout.decode("utf-8", "backslashreplace")

    @property
    def stderr_text(self) -> str:
        """stderr as text, undecodable bytes escaped."""
        return self.stderr.decode("utf-8", "backslashreplace")

    def unwrap(self) -> Any:
        """The value, as a plain call would return it; or its exception, raised."""
        if self.exception is not None:
            raise self.exception
        return self.value

    def to_dict(self) -> dict[str, Any]:
        """The receipt as what JSON can hold; the value and the exception as their ``repr``, or its beginning."""
        found: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found |= {
            "ok": self.ok,
            "verdict": self.verdict.value,
            "value": shown(self.value),
            "exception": None if self.exception is None else shown(self.exception),
            "stdout": self.stdout_text,
            "stderr": self.stderr_text,
            "noise": self.noise.decode("utf-8", "backslashreplace"),
            "truncated": list(self.truncated),
            "applied": list(self.applied),
            "args": list(self.args),
            "usage": dataclasses.asdict(self.usage),
            "started": self.started.isoformat(),
        }
        return found

    def _repr_html_(self) -> str:
        """A small table, for notebooks."""
        import html

        usage = self.usage
        rows = {
            "verdict": self.verdict.value + (f" ({self.limit})" if self.limit else ""),
            "value": shown(self.value)[:500] if self.ok else "",
            "exception": "" if self.exception is None else _told(self.exception)[:1000],
            "exit": "" if self.returncode in (0, None) else ending_in_words(self.returncode),
            "stdout": self.stdout_text[-500:],
            "stderr": self.stderr_text[-500:],
            "used": f"{usage.user + usage.system:.3f} s of processor, {usage.wall:.3f} s, {in_mebibytes(usage.peak)} of memory",
            "where": f"{self.transport}, Python {self.python}, {self.host} process {self.remote_pid}",
            "applied": ", ".join(self.applied),
        }
        cells = "".join(
            f'<tr><th style="text-align:left;vertical-align:top">{name}</th>'
            f'<td style="text-align:left"><pre style="margin:0">{html.escape(text)}</pre></td></tr>'
            for name, text in rows.items()
            if text
        )
        return f"<table><caption>{html.escape(self.function)}</caption>{cells}</table>"


def printable(text: str) -> str:
    """The text with what would make a terminal do something shown as what it is."""
    return "".join(map(_shown_character, text)) if not text.isprintable() else text


def _shown_character(character: str) -> str:
    return character if character in "\t\n" or character.isprintable() else repr(character)[1:-1]


def in_mebibytes(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / (1 << 20):.1f} MiB"


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9, and so on."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending_in_words(returncode: int | None) -> str:
    """An exit code, or minus a signal, in words."""
    if returncode is None:
        return "still running"
    if returncode < 0:
        return f"killed by {signal_name(-returncode)}"
    return f"exit code {returncode}"


class _Short(reprlib.Repr):
    """Shows the beginnings of what there is much of."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 200, 200

    def repr_bytes(self, value: bytes | bytearray, level: int) -> str:
        return repr(value) if len(value) <= self.maxstring else f"{value[: self.maxstring]!r}..."

    repr_bytearray = repr_bytes

    def repr_instance(self, value: object, level: int) -> str:
        return f"<{type(value).__name__}>" if is_much(value) else super().repr_instance(value, level)


def is_much(value: object) -> bool:
    """Whether there is more in it than anybody reads; one large object may be there many times."""
    left, following = _MOST_SHOWN, [value]
    while following and left >= 0:
        each = following.pop()
        left -= len(each) if isinstance(each, (str, bytes, bytearray, list, tuple, set, frozenset, dict)) else 1
        if left < 0:
            break
        if isinstance(each, dict):
            following += [*each, *each.values()]
        elif isinstance(each, (list, tuple, set, frozenset)):
            following += each
        elif isinstance(each, BaseException) or dataclasses.is_dataclass(each):
            following += [getattr(each, "args", None), *getattr(each, "__dict__", {}).values()]
    return left < 0


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return shown(error)


def shown(value: object) -> str:
    """Its ``repr``, or its beginning if there is much of it.

    What has none, such as a number of more digits than Python shows, is no reason to lose the receipt.
    """
    try:
        return _Short().repr(value) if is_much(value) else repr(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {error}>"
