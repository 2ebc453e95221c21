"""Large pieces of what is packed: kept apart from the rest, and carried from memory to memory.

Contract: runs on both sides, standard library only, Python 3.8+.

A pickler hands large bytes to its file as they are.  So they need not be copied, and the opcode before them is replaced by the
one for a buffer that is to be had elsewhere (PEP 574).  They go by a socket of their own where there can be one, else the way
of all the rest, and arrive where they stay.  Memory that receives them is laid in huge pages, where it can be: that takes half
the time.
"""

import io
import posix

from . import memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator

LEAST = 1 << 18
"""Bytes of a piece that is worth it."""
_MOST_PIECES = 4096  # so that their sizes fit into what may be said before an answer

BYTES, BYTEARRAY, VIEW = "b", "a", "v"
MOST_AT_ONCE = 1 << 24
# A socket's buffer: less waiting for each other (socket(7) names the limit).
BUFFER = 1 << 19
_NEXT_BUFFER, _READONLY_BUFFER = b"\x97", b"\x98"
_BINBYTES, _BINBYTES8, _BYTEARRAY8 = b"B", b"\x8e", b"\x96"
_HUGE = 1 << 22
_REGULAR = 0o10  # inode(7)


class Piece:
    """One large object."""

    def __init__(self, kind: str, view: memoryview) -> None:
        self.kind, self.view, self.size = kind, view, len(view)
        self._is_copy = False

    def freeze(self) -> None:
        """Keep it as it is now, whatever its owner does to it."""
        if not isinstance(self.view.obj, bytes):
            room = Room(VIEW, self.size)
            room.view[:] = self.view
            stands, self.view = self.view.readonly, room.take()
            self.view = self.view.toreadonly() if stands else self.view
            self._is_copy = True

    def forget(self) -> None:
        """It has been sent: if it is a copy, that is of no more use."""
        if self._is_copy:
            self.view = memoryview(b"")


class Parts:
    """What a value was packed to, and what is large in it apart from the rest.

    :ivar large: what is large
    :ivar pickle: all without that
    :ivar body: the same, or nothing where there is so much of it that it is itself the first of what is large
    """

    def __init__(self, written: "list[Any]", is_pickle: bool = True) -> None:
        """:param written: what a pickler wrote, or else what the codec did: two that stay together, and buffers"""
        self.large: "list[Piece]" = []
        parts: "list[bytes]" = []
        for place, data in enumerate(written):
            piece = None
            if memoryview(data).nbytes < LEAST or len(self.large) == _MOST_PIECES:
                pass
            elif not is_pickle:
                piece = Piece(_kind_of(data), memoryview(data)) if place >= 2 else None
            elif parts:
                piece, parts[-1] = _taken_out(data, parts[-1])
            if piece is None:
                parts.append(bytes(data))
            else:
                self.large.append(piece)
        self.pickle = self.body = b"".join(parts)
        if len(self.pickle) >= LEAST:
            self.large.insert(0, Piece(BYTES, memoryview(self.pickle)))
            self.body = b""


def _taken_out(data: "Any", before: bytes) -> "tuple[Piece | None, bytes]":
    """What a pickler wrote after *before*, if that ends with what says so; and that with what says that it is elsewhere."""
    view = data.raw() if hasattr(data, "raw") else memoryview(data)
    for head in _heads(view.nbytes):
        if before.endswith(head):
            if hasattr(view.obj, "__array_interface__"):
                # Whatever memory it is, an array is made of it.
                kind = VIEW
            else:
                kind = BYTEARRAY if head[:1] == _BYTEARRAY8 else BYTES
            instead = _NEXT_BUFFER + _READONLY_BUFFER * (kind == VIEW and view.readonly)
            return Piece(kind, view), before[: -len(head)] + instead
    return None, before


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


class Arrivals:
    """What has been announced, piece by piece.

    :ivar arrived: those that are complete
    :ivar size: bytes that have come
    """

    def __init__(self, sizes: "list[tuple[str, int]]") -> None:
        self.arrived: "list[Any]" = []
        self.size = 0
        self._sizes = sizes[::-1]
        self._room: "Room | None" = None
        self._rest = memoryview(b"")

    @property
    def is_done(self) -> bool:
        return self._room is None and not self._sizes

    def room(self) -> memoryview:
        """What is to be filled next, of one piece; nothing if all has arrived."""
        if self._room is None and self._sizes:
            # Not before it is its turn: what is announced need not come.
            self._room = Room(*self._sizes.pop())
            self._rest = self._room.view
        return self._rest

    def put(self, data: memoryview) -> None:
        """Fill it with no more than there is room for."""
        room = self.room()[: len(data)]
        room[:] = data
        room.release()
        self.advance(len(data))

    def advance(self, size: int) -> None:
        """So many bytes of that have been filled."""
        self.size += size
        self._rest = self._rest[size:]
        if not self._rest and self._room is not None:
            # It can only be given away when nobody has a view of it.
            self._rest.release()
            self._rest = memoryview(b"")
            self.arrived.append(self._room.take())
            self._room = None


class Receiver(Arrivals):
    """What pieces are read by, from a socket or a file."""

    def __init__(self, read: "Callable[[memoryview], int]", sizes: "list[tuple[str, int]]") -> None:
        """:param read: fills what it is given, and tells how much of it, nothing at the end; raises OSError"""
        super().__init__(sizes)
        self._read = read

    def turn(self) -> int:
        """Read what has come; tells how many bytes, none at the end.

        :raises OSError: BlockingIOError too
        """
        room = self.room()[:MOST_AT_ONCE]
        read = self._read(room) if room else 0
        room.release()
        self.advance(read)
        return read

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


def reader(fd: int) -> "Callable[[memoryview], int]":
    """What reads from a descriptor; of a file in memory that is given back which has been read."""
    done = 0

    def read(room: memoryview) -> int:
        nonlocal done
        size = posix.readv(fd, [room])
        done += size
        memory.forget(fd, done)
        return size

    return read if posix.fstat(fd).st_mode >> 12 == _REGULAR else lambda room: posix.readv(fd, [room])


def send_all(fd: int, pieces: "list[Piece]") -> None:
    """Write them, in a process that may wait.

    :raises OSError: if nobody reads them
    """
    sender = Sender(lambda data: posix.write(fd, data), pieces)
    while not sender.is_done:
        sender.turn()


def send_parts(status: bytes, parts: Parts, send: "Callable[..., object]", fd: int = -1) -> None:
    """Answer with them.

    :param send: sends a record
    :param fd: by which a socket comes for them when they have been announced, if one may
    """
    sizes = announced(parts.large)
    if fd < 0 or not _sent_by_socket(sizes, parts, send, fd):
        send(b"C", sizes)
        for piece in parts.large:
            send(b"P", piece.view)
    send(status, parts.body)


def _sent_by_socket(sizes: bytes, parts: Parts, send: "Callable[..., object]", fd: int) -> bool:
    from . import sockets

    send(b"B", sizes)
    socket = sockets.receive_descriptor(fd)
    if socket < 0:
        return False
    try:
        send_all(socket, parts.large)
    except OSError:
        pass  # the caller does not want it any more
    posix.close(socket)
    return True
