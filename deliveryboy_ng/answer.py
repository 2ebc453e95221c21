"""What the far side says of one call: the call itself, and the supervisor, whose word alone counts for how it ended."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from typing import Any

from .worker import bulk, frames
from .worker.records import LONGEST_PREFACE, STATUS_SIZE

__all__ = ["Account", "Reply", "whereabouts"]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The supervisor's word on a call that has ended.

    :ivar status: as wait(2) gives it
    :ivar ending: why the supervisor ended the call: ``timeout``, ``cancelled``, ``output``, or the limit it watched;
        ``none`` if it did not
    :ivar observed: what was seen of that limit when it was exceeded
    """

    status: int
    ending: str
    user: float = 0.0
    system: float = 0.0
    wall: float = 0.0
    maxrss: int = 0
    peak: int = 0
    tasks: int = 0
    observed: float = 0.0
    interrupts: int = 0
    clean: int = 0

    @classmethod
    def of(cls, text: bytes) -> Account:
        """:raises FrameError: if it makes no sense"""
        try:
            words = dict(item.split("=", 1) for item in text.decode("ascii").split())
            numbers: dict[str, Any] = {
                name: (int if isinstance(field.default, int) or name == "status" else float)(words[name])
                for name, field in cls.__dataclass_fields__.items()
                if name in words and name != "ending"
            }
            if not all(0 <= number < 1 << 64 for number in numbers.values()):
                raise ValueError("out of bounds")
            if numbers["status"] >= 1 << 16 or not (os.WIFEXITED(numbers["status"]) or os.WIFSIGNALED(numbers["status"])):
                raise ValueError("a process does not end like that")
            return cls(ending=words["ending"], **numbers)
        except (ValueError, KeyError, TypeError) as error:
            raise frames.FrameError(f"no account of a call: {text[:200]!r}: {error}") from None


class Reply:
    """What the call process said: what was enforced before the function ran, and how that ended.

    It holds no more than *most* bytes, whatever comes.

    :ivar pieces: of its last record, what is large and has come by a socket
    :ivar applied: the lines of its first record, if there was one
    :ivar items: what a generator has made so far
    :ivar status: the last record's status byte, once the record is complete
    :ivar overlong: whether more came, or was announced, than may come
    :ivar size: bytes that came
    :ivar needed: bytes that came or were announced, where that is more than may come
    """

    def __init__(self, most: int, streams: bool = False) -> None:
        """:param streams: whether items may come before the last record"""
        self.applied: tuple[str, ...] = ()
        self.items: deque[bytes] = deque()
        self.overlong = False
        self.size = self.needed = 0
        self._most = most
        self._data = bytearray()
        self._before = b"ABI" if streams else b"AB"
        self._sizes: list[tuple[str, int]] = []
        self._makes_sense = True
        self._receiver: bulk.Receiver | None = None

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if self.overlong:
            return
        self._data += data
        while kind := bytes(self._data[:1]):
            if kind not in self._before:
                self._before = b""
                break
            size = self._announced()
            most = self._most if kind == b"I" else LONGEST_PREFACE
            if size is None or STATUS_SIZE + size > len(self._data) or size > most:
                self._check(size or 0, most)
                return
            self._take_record(kind, size)
        self._check(max(len(self._data) - STATUS_SIZE, self._announced() or 0), self._most)

    def _check(self, needed: int, most: int) -> None:
        if needed > most:
            self.overlong, self.needed = True, needed
            self._data.clear()

    def _take_record(self, kind: bytes, size: int) -> None:
        record = bytes(self._data[STATUS_SIZE : STATUS_SIZE + size])
        if kind == b"A":
            self.applied = tuple(record.decode("utf-8", "replace").splitlines())
        elif kind == b"B":
            self._expect(record)
        else:
            self.items.append(record)
        # What is enforced is told once, and first; and with what is large the last record begins.
        self._before = b"B" if kind == b"B" else self._before.replace(b"A", b"")
        del self._data[: STATUS_SIZE + size]

    def _expect(self, record: bytes) -> None:
        self._receiver = None
        try:
            self._sizes = bulk.expected(record) if record else []
        except ValueError:
            self._sizes, self._makes_sense = [], False
        self._check(sum(size for _, size in self._sizes), self._most)

    @property
    def awaits_pieces(self) -> bool:
        """Whether large pieces are announced."""
        return bool(self._sizes) and self._receiver is None and not self.overlong

    def receive(self, fd: int) -> bulk.Receiver:
        """What reads them."""
        self._receiver = bulk.Receiver(fd, self._sizes)
        self.size += sum(size for _, size in self._sizes)
        return self._receiver

    def _announced(self) -> int | None:
        return int.from_bytes(self._data[1:STATUS_SIZE], "big") if len(self._data) >= STATUS_SIZE else None

    @property
    def status(self) -> bytes:
        has_come = self._announced() == len(self._data) - STATUS_SIZE and (self._receiver is None or self._receiver.is_done)
        return bytes(self._data[:1]) if has_come and self._makes_sense else b""

    @property
    def payload(self) -> bytes | memoryview:
        inline = memoryview(self._data)[STATUS_SIZE:]
        return inline if inline or not self._apart else self._apart[0]

    @property
    def pieces(self) -> list[Any]:
        return self._apart[len(self._data) == STATUS_SIZE :]

    @property
    def _apart(self) -> list[Any]:
        return [] if self._receiver is None else self._receiver.arrived


def whereabouts(payload: bytes) -> tuple[int, str]:
    """The process that has been started, and its host, as the supervisor says it.

    :raises FrameError: if it makes no sense
    """
    pid, _, host = payload.decode("ascii", "replace").partition(" ")
    if not pid.isdecimal() or len(pid) > 10:
        raise frames.FrameError(f"no start of a call: {payload[:200]!r}")
    # It is shown, in tracebacks too, and the far side may be anybody.
    return int(pid), "".join(character if character.isprintable() else "?" for character in host[:255])
