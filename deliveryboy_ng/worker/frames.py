"""The wire between the two sides: frames in, lines out, and back. No I/O here.

Contract: runs on both sides, standard library only, Python 3.8+.

Every frame travels as one or more *lines*::

    =NONCE<BASE64\\n        from the far side to the near side
    =NONCE>BASE64\\n        from the near side to the far side

The base64 text holds a CRC-32 of what follows it, a sequence number, the call's number, the kind, a flag that says
whether more lines of the same frame follow, and a piece of the payload.  Whatever stands between, before or inside
such lines is noise: it is reported as such and never confuses the frames around it.  A line that is damaged, missing
or doubled raises :class:`FrameError`.
"""

import binascii

PROTOCOL = 1

# A pty in canonical mode cuts lines at 4,096 bytes (termios(3)), and a write of at most PIPE_BUF bytes is atomic
# (pipe(7)): on a channel nobody vouches for, lines stay far below both.
NARROW = 708
WIDE = 48 * 1024
LONGEST_LINE = 96 * 1024

TO_FAR = b">"
TO_NEAR = b"<"

NOISE = 0
HELLO = 1
# near to far
SETUP = 2
MODULES = 3
BODY = 4
INPUT = 5
START = 6
SIGNAL = 7
# far to near
STARTED = 8
STDOUT = 9
STDERR = 10
REPLY = 11
VERDICT = 12
REFUSED = 13

_HEADER = 10


class FrameError(Exception):
    """A line of this session was damaged, lost or repeated on its way."""


def mark(nonce: bytes, direction: bytes) -> bytes:
    """What every line of a session starts with, in one direction."""
    return b"=" + nonce + direction


class Encoder:
    """Turns frames into lines of at most *width* payload bytes each."""

    def __init__(self, nonce: bytes, direction: bytes, width: int = NARROW) -> None:
        self._mark = mark(nonce, direction)
        self._sequence = 0
        self.width = width

    def lines(self, kind: int, call: int, payload: "bytes | bytearray | memoryview" = b""):  # type: ignore[no-untyped-def]
        """Yield the lines of one frame, made one by one, so that a large payload is never held twice."""
        view = memoryview(payload)
        size = len(view)
        start = 0
        while True:
            stop = start + self.width
            more = stop < size
            yield self._line(kind, call, more, view[start:stop])
            if not more:
                return
            start = stop

    def encode(self, kind: int, call: int, payload: "bytes | bytearray | memoryview" = b"") -> bytes:
        """One whole frame as bytes."""
        return b"".join(self.lines(kind, call, payload))

    def _line(self, kind: int, call: int, more: bool, piece: memoryview) -> bytes:
        head = self._sequence.to_bytes(4, "big") + call.to_bytes(4, "big") + bytes((kind, more))
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        content = head + piece
        check = binascii.crc32(content).to_bytes(4, "big")
        return self._mark + binascii.b2a_base64(check + content)


class Decoder:
    """Turns bytes, cut anywhere, into events ``(kind, call, more, payload)``.

    Noise comes out as events of kind :data:`NOISE`, the far side's greeting as one of kind :data:`HELLO`.
    """

    def __init__(self, nonce: bytes, direction: bytes) -> None:
        self._mark = mark(nonce, direction)
        self._echo = mark(nonce, TO_NEAR if direction == TO_FAR else TO_FAR)
        self._sequence = 0
        self._rest = b""

    def feed(self, data: bytes) -> "list[tuple[int, int, bool, bytes]]":
        """Take the next bytes and return the events they complete.

        :raises FrameError: if a line is damaged or the sequence has a gap
        """
        events: "list[tuple[int, int, bool, bytes]]" = []
        seen = len(self._rest)
        data = self._rest + data if seen else data
        start = 0
        end = data.find(b"\n", seen)
        while end >= 0:
            self._line(data[start : end + 1], events)
            start = end + 1
            end = data.find(b"\n", start)
        self._rest = data[start:]
        if len(self._rest) > LONGEST_LINE and self._mark not in self._rest:
            keep = len(self._mark) - 1
            events.append((NOISE, 0, False, self._rest[:-keep]))
            self._rest = self._rest[-keep:]
        elif len(self._rest) > 2 * LONGEST_LINE:
            raise FrameError("a line of more than %d bytes" % LONGEST_LINE)
        return events

    def close(self) -> "list[tuple[int, int, bool, bytes]]":
        """The channel has ended: what is left of an unfinished line is noise."""
        rest, self._rest = self._rest, b""
        return [(NOISE, 0, False, rest)] if rest and self._mark not in rest else []

    def _line(self, line: bytes, events: "list[tuple[int, int, bool, bytes]]") -> None:
        at = line.rfind(self._mark)
        if at < 0:
            if self._echo not in line:
                events.append((NOISE, 0, False, line))
            return
        if at and self._echo not in line[:at]:
            events.append((NOISE, 0, False, line[:at]))
        body = line[at + len(self._mark) :].rstrip(b"\r\n")
        if body.startswith(b"hello "):
            events.append((HELLO, 0, False, body))
        else:
            events.append(self._frame(body))

    def _frame(self, body: bytes) -> "tuple[int, int, bool, bytes]":
        try:
            raw = binascii.a2b_base64(body)
        except binascii.Error:
            raise FrameError("a line is not base64: %r" % body[:80]) from None
        content = raw[4:]
        if len(content) < _HEADER or binascii.crc32(content) != int.from_bytes(raw[:4], "big"):
            raise FrameError("a line failed its checksum: %r" % body[:80])
        sequence = int.from_bytes(content[:4], "big")
        if sequence != self._sequence:
            raise FrameError("expected line %d, got line %d" % (self._sequence, sequence))
        self._sequence = (sequence + 1) & 0xFFFFFFFF
        return content[8], int.from_bytes(content[4:8], "big"), bool(content[9]), content[_HEADER:]
