"""The supervisor's end of the wire: frames in from stdin, frames out to stdout, and none is torn or waited for.

Contract: far side, standard library only, Python 3.8+.
"""

import posix
import select
import time

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ = 1 << 16
# Above this many bytes waiting for a slow near side, the calls' pipes are left to fill: back-pressure instead of memory.
BACKLOG = 1 << 20
# Seconds that a frame may wait for company.
_LONGEST_WAIT = 0.002
_SOCKET = 0o14  # inode(7)


class Channel:
    """Frames to and from the near side.

    :ivar broken: nobody is there to write to any more
    :ivar detached: all has been said that will be
    :ivar passes_descriptors: whether descriptors can come with what comes
    :ivar descriptors: what has come with frames of kind ATTACH, in their order
    """

    def __init__(self, nonce: bytes, lane: str, poll: "Any") -> None:
        self._decoder = frames.decoder(nonce, frames.TO_FAR, lane)
        self._encoder = frames.Encoder(nonce, frames.TO_NEAR, lane)
        # A line must leave in one write, or another writer's bytes might get into it.
        self._at_once = READ if lane == "binary" else frames.PIPE_BUF
        self._outgoing: "list[bytes]" = []
        self._waiting = 0
        self._poll = poll
        self._asked = 0
        self._socket: "Any" = None
        self.descriptors: "list[int]" = []
        self._due: "float | None" = None
        self.broken = self.detached = False
        self.passes_descriptors = posix.fstat(0).st_mode >> 12 == _SOCKET
        posix.set_blocking(1, False)
        # An error alone is reported without asking for it: so a broken wire is noticed while nothing is written.
        poll.register(1, 0)
        poll.register(0, select.POLLIN)

    @property
    def is_full(self) -> bool:
        """Whether more waits to be written than shall be kept."""
        return self._waiting > BACKLOG

    def decode(self, data: bytes) -> "list[tuple[int, int, bool, bytes]]":
        """The frames that *data* completes; raises FrameError."""
        return [event for event in self._decoder.feed(data) if event[0] not in (frames.NOISE, frames.HELLO)]

    def read(self) -> bytes:
        """What has come, nothing at the end."""
        try:
            data = posix.read(0, READ) if self._socket is None else self._receive()
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(0)
        return data

    def ask_for_socket(self, number: int) -> None:
        """Have the near side send a descriptor of one, for the bulk of that call."""
        if self._socket is None:
            from . import sockets

            self._socket = sockets.of(0)
        self.send(frames.BULK, number)

    def _receive(self) -> bytes:
        from . import sockets

        data, found = sockets.receive(self._socket, READ, 2)
        self.descriptors += found
        return data

    def send(self, kind: int, number: int, payload: bytes = b"", waits: bool = False) -> None:
        """:param waits: it is nobody's hurry; with the next that is, the near side need not wake up once more for it"""
        if not waits:
            self._due = None
        elif not self._outgoing:
            self._due = time.monotonic() + _LONGEST_WAIT
        if not (self.detached or self.broken):
            pieces = list(self._encoder.pieces(kind, number, payload))
            self._outgoing += pieces
            self._waiting += sum(map(len, pieces))

    @property
    def due(self) -> "float | None":
        """When what waits is to be written all the same."""
        return self._due

    def flush(self) -> None:
        """Write what the wire takes now; wait for more room in poll(2)."""
        if self._due is not None:
            if time.monotonic() < self._due:
                return
            self._due = None
        try:
            self._write()
        except BlockingIOError:
            pass
        except OSError:
            self.hang_up()
            return
        wanted = select.POLLOUT if self._outgoing else 0
        if wanted != self._asked and not self.detached:
            self._poll.modify(1, wanted)
            self._asked = wanted

    def _write(self) -> None:
        """Write all there is, in pieces that are not torn; raises OSError, BlockingIOError too."""
        done = 0
        try:
            while done < len(self._outgoing):
                stop, size = done + 1, len(self._outgoing[done])
                while stop < len(self._outgoing) and size + len(self._outgoing[stop]) <= self._at_once:
                    size += len(self._outgoing[stop])
                    stop += 1
                chunk = self._outgoing[done] if stop == done + 1 else b"".join(self._outgoing[done:stop])
                written = posix.write(1, chunk)
                self._waiting -= written
                done = stop
                if written < size:
                    done -= 1
                    self._outgoing[done] = chunk[written:]
        finally:
            del self._outgoing[:done]

    def hang_up(self) -> None:
        """Nobody listens any more."""
        if not self.detached:
            self._forget()
            self.broken = True

    def drain(self) -> None:
        """Write all that is still to be said, however long the near side takes, as long as it listens."""
        posix.set_blocking(1, True)
        try:
            self._write()
        except OSError:
            self._forget()

    def detach(self) -> None:
        """Say the last word, and need nobody from here on."""
        self.drain()
        self.detached = True
        self._poll.unregister(1)
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 1)
        posix.close(null)

    def _forget(self) -> None:
        self._outgoing.clear()
        self._waiting = 0
