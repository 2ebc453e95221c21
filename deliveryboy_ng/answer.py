"""What the far side says of one call: the call itself, and the supervisor, whose word alone counts for how it ended."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable
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

    :ivar pieces: of its last record, what is large and has come by itself
    :ivar applied: the lines of its first record, if there was one
    :ivar items: what a generator has made so far
    :ivar status: the last record's status byte, once the record is complete
    :ivar overlong: whether more came, or was announced, than may come
    :ivar unheld: whether it is given up since there is no memory for it here
    :ivar size: bytes that came
    :ivar needed: bytes that came or were announced, where that is more than may come
    """

    def __init__(self, most: int, streams: bool, holds: bool = True) -> None:
        """
        :param streams: whether items may come before the last record
        :param holds: whether anything was asked for that may be enforced
        """
        self.applied: tuple[str, ...] = ()
        self.items: deque[bytes] = deque()
        self.overlong = self.unheld = False
        self.size = self.needed = 0
        self._most = most
        self._data = bytearray()
        self._before = b"ABCI" if streams else b"ABC"
        self._holds = holds
        self._makes_sense = True
        self._ignored = 0
        # What was announced to come by a socket; what comes, by that or here; what is missing of the piece that comes here; and
        # how many bytes all are.
        self._sizes: list[tuple[str, int]] = []
        self._arrivals = bulk.Arrivals([])
        self._missing = 0
        self._large = 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if not self._makes_sense:
            self._ignored += len(data)
            self._check(self._ignored, self._most)
            return
        try:
            self._take(memoryview(data))
        except MemoryError:
            self.give_up()

    def give_up(self) -> None:
        """There is no memory for it here."""
        self.overlong = self.unheld = True
        self._data = bytearray()
        self._arrivals, self._sizes, self._missing = bulk.Arrivals([]), [], 0

    def _take(self, rest: memoryview) -> None:
        while rest and self._makes_sense and not self.overlong:
            if self._missing:
                of_piece = rest[: self._missing]
                self._arrivals.put(of_piece)
                self._missing -= len(of_piece)
                rest = rest[len(of_piece) :]
            else:
                self._data += rest
                rest = self._take_records()

    def _take_records(self) -> memoryview:
        """All that are complete; returns what has come of a piece."""
        while kind := bytes(self._data[:1]):
            if kind not in self._before:
                self._before = b""
                break
            size = self._announced()
            if kind == b"P" and size is not None:
                if size == len(self._arrivals.room()) and size:
                    return self._begin_piece(size)
                self._ignore()
                return memoryview(b"")
            most = self._most if kind == b"I" else LONGEST_PREFACE
            if size is None or STATUS_SIZE + size > len(self._data) or size > most:
                self._check(size or 0, most)
                return memoryview(b"")
            self._take_record(kind, size)
        self._check(max(len(self._data) - STATUS_SIZE, self._announced() or 0) + self._large, self._most)
        return memoryview(b"")

    def _begin_piece(self, size: int) -> memoryview:
        rest = memoryview(bytes(self._data[STATUS_SIZE:]))
        self._data.clear()
        self._missing = size
        return rest

    def _ignore(self) -> None:
        """It makes no sense: nothing of it is kept, and nothing that comes."""
        self._makes_sense = False
        self._data.clear()
        self._arrivals, self._sizes = bulk.Arrivals([]), []

    def _check(self, needed: int, most: int) -> None:
        if needed > most:
            self.overlong, self.needed = True, needed
            self._data.clear()

    def _take_record(self, kind: bytes, size: int) -> None:
        record = bytes(self._data[STATUS_SIZE : STATUS_SIZE + size])
        del self._data[: STATUS_SIZE + size]
        # What is enforced is told once, and first; and with what is large the last record begins.
        if kind == b"A":
            # Where nothing was asked for it is the function's own word.
            self.applied = tuple(record.decode("utf-8", "replace").splitlines()) if self._holds else ()
            self._before = self._before.replace(b"A", b"")
        elif kind == b"I":
            self.items.append(record)
            self._before = self._before.replace(b"A", b"")
        else:
            self._expect(record, kind == b"B")
            self._before = b"C" if kind == b"B" else b"P"

    def _expect(self, record: bytes, by_socket: bool) -> None:
        try:
            sizes = bulk.expected(record)
        except ValueError:
            sizes = []
        if not sizes or self._arrivals.size:
            # Nonsense, or not all by one way.
            self._ignore()
            return
        self._large = sum(size for _, size in sizes)
        self._check(self._large, self._most)
        self._sizes = sizes if by_socket else []
        self._arrivals = bulk.Arrivals([] if by_socket else sizes)

    @property
    def awaits_pieces(self) -> bool:
        """Whether a socket is wanted for large pieces."""
        return bool(self._sizes) and not self.overlong

    def receive(self, read: Callable[[memoryview], int]) -> bulk.Receiver:
        """What they are read by, from that socket."""
        self.size += self._large
        arrivals = self._arrivals = _Receiver(read, self._sizes, self)
        self._sizes = []
        return arrivals

    def waits_for(self, arrivals: bulk.Arrivals) -> bool:
        """Whether it is still those that are wanted: a call that could not take the socket has them come here."""
        return arrivals is self._arrivals

    def _announced(self) -> int | None:
        return int.from_bytes(self._data[1:STATUS_SIZE], "big") if len(self._data) >= STATUS_SIZE else None

    @property
    def status(self) -> bytes:
        has_come = self._announced() == len(self._data) - STATUS_SIZE and not self._missing and not self._sizes
        return bytes(self._data[:1]) if has_come and self._arrivals.is_done else b""

    @property
    def payload(self) -> bytes | memoryview:
        inline = memoryview(self._data)[STATUS_SIZE:]
        return inline if inline or not self._arrivals.arrived else self._arrivals.arrived[0]

    @property
    def pieces(self) -> list[Any]:
        return self._arrivals.arrived[len(self._data) == STATUS_SIZE :]


class _Receiver(bulk.Receiver):
    def __init__(self, read: Callable[[memoryview], int], sizes: list[tuple[str, int]], reply: Reply) -> None:
        super().__init__(read, sizes)
        # What is large shall not wait for the garbage collector.
        self._reply = weakref.proxy(reply)

    def turn(self) -> int:
        if not self._reply.waits_for(self):
            return 0
        try:
            return super().turn()
        except MemoryError:
            self._reply.give_up()
            return 0


def whereabouts(payload: bytes) -> tuple[int, str]:
    """The process that has been started, and its host, as the supervisor says it.

    :raises FrameError: if it makes no sense
    """
    pid, _, host = payload.decode("ascii", "replace").partition(" ")
    if not pid.isdecimal() or len(pid) > 10:
        raise frames.FrameError(f"no start of a call: {payload[:200]!r}")
    # It is shown, in tracebacks too, and the far side may be anybody.
    return int(pid), "".join(character if character.isprintable() else "?" for character in host[:255])
