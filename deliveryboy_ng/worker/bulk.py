"""Large pieces of what is packed: kept apart from the rest, and carried by a socket of their own, from memory to memory.

Contract: runs on both sides, standard library only, Python 3.8+.

A pickler hands large bytes to its file as they are.  So they need not be copied, and the opcode before them is replaced by the
one for a buffer that is to be had elsewhere (PEP 574).  Where there is no such socket the pickle is put together again as it
was.  Memory that receives them is laid in huge pages, where it can be: that takes half the time.
"""

import io
import posix

from . import memory, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

LEAST = 1 << 18
"""Bytes of a piece that is worth a socket of its own."""

BYTES, BYTEARRAY, VIEW = "b", "a", "v"
MOST_AT_ONCE = 1 << 24
# A socket's buffer: less waiting for each other (socket(7) names the limit).
BUFFER = 1 << 19
_NEXT_BUFFER, _READONLY_BUFFER = b"\x97", b"\x98"
_BINBYTES, _BINBYTES8, _BYTEARRAY8 = b"B", b"\x8e", b"\x96"
_HUGE = 1 << 22


class Piece:
    """One large object.

    :ivar head: what stands before it in a pickle that holds it
    """

    def __init__(self, kind: str, view: memoryview, head: bytes = b"") -> None:
        self.kind, self.view, self.head = kind, view, head
        self.size = len(view)

    def freeze(self) -> None:
        """Keep it as it is now, whatever its owner does to it."""
        if not isinstance(self.view.obj, bytes):
            room = Room(VIEW, self.size)
            room.view[:] = self.view
            stands, self.view = self.view.readonly, room.take()
            self.view = self.view.toreadonly() if stands else self.view

    @property
    def stand_in(self) -> bytes:
        """What stands in a pickle that does not hold it."""
        if not self.head:
            return b""
        return _NEXT_BUFFER + _READONLY_BUFFER * (self.kind == VIEW and self.view.readonly)


class Parts:
    """What a value was packed to, and what is large in it apart from the rest.

    :ivar large: what is large
    :ivar pickle: all without that
    :ivar body: the same, or nothing where there is so much of it that it is itself the first of what is large
    """

    def __init__(self, written: "list[Any]", is_pickle: bool = True) -> None:
        """:param written: what a pickler wrote, or else what the codec did: two that stay together, and buffers"""
        self._parts: "list[Any]" = []
        for place, data in enumerate(written):
            size = memoryview(data).nbytes
            if size < LEAST or (not is_pickle and place < 2):
                self._parts.append(bytes(data))
            elif is_pickle:
                self._take_out(data, size)
            else:
                self._parts.append(Piece(_kind_of(data), memoryview(data)))
        self.large = [part for part in self._parts if isinstance(part, Piece)]
        self.pickle = self.body = b"".join([part.stand_in if isinstance(part, Piece) else part for part in self._parts])
        if not self.large:
            self._parts = [self.pickle]
        if len(self.pickle) >= LEAST:
            self.large.insert(0, Piece(BYTES, memoryview(self.pickle)))
            self.body = b""

    def _take_out(self, data: "Any", size: int) -> None:
        before = self._parts[-1] if self._parts and isinstance(self._parts[-1], bytes) else b""
        for head in _heads(size):
            if before.endswith(head):
                view = data.raw() if hasattr(data, "raw") else memoryview(data)
                if hasattr(view.obj, "__array_interface__"):
                    # Whatever memory it is, an array is made of it.
                    kind = VIEW
                else:
                    kind = BYTEARRAY if head[:1] == _BYTEARRAY8 else BYTES
                self._parts[-1] = before[: -len(head)]
                self._parts.append(Piece(kind, view, head))
                return
        self._parts.append(bytes(data))

    def whole(self) -> "Iterator[Any]":
        """All of it, part by part."""
        for part in self._parts:
            if isinstance(part, Piece):
                yield part.head
                yield part.view
            else:
                yield part


def _kind_of(data: "Any") -> str:
    if type(data) is bytes:
        return BYTES
    return BYTEARRAY if type(data) is bytearray else VIEW


def _heads(size: int) -> "tuple[bytes, ...]":
    long = size.to_bytes(8, "little")
    return (_BINBYTES8 + long, _BYTEARRAY8 + long) + ((_BINBYTES + long[:4],) if size < 1 << 32 else ())


class Room:
    """Where a large object arrives; it is not copied any more.

    :ivar view: what is to be filled
    """

    def __init__(self, kind: str, size: int) -> None:
        self._kind = kind
        if kind == BYTEARRAY:
            self._made: "Any" = bytearray(size)
            self.view = memoryview(self._made)
        else:
            # Nobody else refers to these bytes, so that the file takes them as its own, and gives them away again.
            self._made = io.BytesIO(bytes(size))
            self.view = self._made.getbuffer()
        if size >= _HUGE:
            memory.lay_in_huge_pages(self.view)

    def take(self) -> "Any":
        """What has arrived; once."""
        if self._kind == VIEW:
            return self.view
        self.view.release()
        return self._made if self._kind == BYTEARRAY else self._made.getvalue()


def announced(pieces: "list[Piece]") -> bytes:
    """Kinds and sizes, for the other side."""
    return " ".join("%s%d" % (piece.kind, piece.size) for piece in pieces).encode()


def expected(text: bytes) -> "list[tuple[str, int]]":
    """What :func:`announced` said.

    :raises ValueError: if it says nothing of the kind
    """
    found = [(word[:1], int(word[1:])) for word in text.decode("ascii").split(" ")]
    if not all(kind in (BYTES, BYTEARRAY, VIEW) and size > 0 for kind, size in found):
        raise ValueError("no sizes: %r" % text[:200])
    return found


class Sender:
    """The end of the socket that pieces are written to."""

    def __init__(self, write: "Callable[[memoryview], int]", pieces: "list[Piece]") -> None:
        """:param write: writes what there is room for, and tells how much; raises OSError"""
        self._write = write
        self._left = [piece.view for piece in reversed(pieces)]

    def turn(self) -> int:
        """Write what there is room for; tells how many bytes.

        :raises OSError: BlockingIOError too
        """
        if not self._left:
            return 0
        written = self._write(self._left[-1][:MOST_AT_ONCE])
        self._left[-1] = self._left[-1][written:]
        if not self._left[-1]:
            self._left.pop()
        return written

    @property
    def is_done(self) -> bool:
        return not self._left


class Receiver:
    """The end of the socket that pieces are read from.

    :ivar arrived: those that are complete
    """

    def __init__(self, fd: int, sizes: "list[tuple[str, int]]") -> None:
        self.fd = fd
        self.arrived: "list[Any]" = []
        self._sizes = sizes[::-1]
        self._room: "Room | None" = None
        self._rest = memoryview(b"")

    def turn(self) -> int:
        """Read what has come; tells how many bytes, none at the end.

        :raises OSError: BlockingIOError too
        """
        if self._room is None:
            if not self._sizes:
                return 0
            # Not before it is its turn: what is announced need not come.
            self._room = Room(*self._sizes.pop())
            self._rest = self._room.view
        read = posix.readv(self.fd, [self._rest[:MOST_AT_ONCE]])
        self._rest = self._rest[read:]
        if not self._rest:
            self._rest.release()
            self.arrived.append(self._room.take())
            self._room = None
        return read

    @property
    def is_done(self) -> bool:
        return self._room is None and not self._sizes

    def __iter__(self) -> "Iterator[Any]":
        """The pieces, in a process that may wait for each.

        :raises EOFError: if the other side goes away
        """
        while not self.is_done:
            seen = len(self.arrived)
            while len(self.arrived) == seen:
                if not self.turn():
                    raise EOFError("the caller went away while the arguments were on their way")
            yield self.arrived.pop()


def send_all(fd: int, pieces: "list[Piece]") -> None:
    """Write them, in a process that may wait.

    :raises OSError: if nobody reads them
    """
    sender = Sender(lambda data: posix.write(fd, data), pieces)
    while not sender.is_done:
        sender.turn()


def send_parts(status: bytes, parts: Parts, send: "Callable[..., object]", fd: int) -> None:
    """Answer with them: what is large by a socket, if one comes through the descriptor *fd* when it has been announced.

    :param send: sends a record
    """
    from . import sockets

    sizes = announced(parts.large)
    if len(sizes) > records.LONGEST_PREFACE:
        send(status, *parts.whole())
        return
    send(b"B", sizes)
    socket = sockets.receive_descriptor(fd)
    if socket < 0:
        send(b"B")
        send(status, *parts.whole())
        return
    try:
        send_all(socket, parts.large)
    except OSError:
        pass  # the caller does not want it any more
    posix.close(socket)
    send(status, parts.body)
