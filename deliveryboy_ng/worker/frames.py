"""The wire: frames in, bytes out, and back. No I/O here.

Contract: runs on both sides, standard library only, Python 3.8+.

A frame has a kind, the number of its call, a payload, and a flag that says whether more of it follows.  There are four
lanes to carry frames, chosen by the near side from what it knows of the channel:

``binary``
    10 bytes of header and the payload as it is, where both sides hold the ends of the same pipes.
``wide``, ``narrow``
    lines of base64 text, of four kilobytes where every byte arrives but somebody may add to them, of one kilobyte where
    nothing is known::

        =NONCE<BASE64\n        from the far side to the near side
        =NONCE>BASE64\n        from the near side to the far side

    What does not fit into a line follows one, which says how much it is, and its CRC-32.  In the wide lane it follows as it
    is.  So a large payload costs no encoding; if somebody adds to it, that is found, and the session is lost.  In the narrow
    lane it follows as base64 in lines of the same look, between which there may be noise as everywhere.
``digits``
    the narrow lane where nothing but one machine's pipes is between the two sides: what follows a line is hexadecimal, in
    lines of four kilobytes, which is half as much again to carry, and less work to write and to read: a third of it with some
    builds of Python, two thirds with others.

In all lanes but the binary one the text of a line holds a CRC-32 of what follows in it, a sequence number, header and payload.
Whatever stands between such lines, or in front of one, is noise: it is reported as such and never confuses the frames around it.  A
line that is damaged, missing or doubled raises :class:`FrameError`.

The far side's greeting is always a line of text, ``=NONCE<hello ...``, and may stand behind noise in every lane.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
# Of the library that all this belongs to: a call that delivers further uses what is installed where it runs.
VERSION = "1.0.0.dev0"

# A pty in canonical mode cuts lines at 4,096 bytes (termios(3)).  A write of at most PIPE_BUF bytes is atomic (pipe(7)):
# a line written at once is never torn by somebody else who writes to the same pipe.
LANES = {"narrow": 708, "digits": 708, "wide": 3000, "binary": 256 * 1024}
LONGEST_LINE = PIPE_BUF = 4096

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
ANSWERED = 14
BULK = 15
# near to far again
LARGE = 16
ATTACH = 17
PIECES = 18

_HEADER = 10
# Of a line's kind: what it tells of follows, as it is or in lines.
_BLOCK, _LINES, _DIGITS = 0x80, 0x40, 0x20
_FOLLOWS = _BLOCK | _LINES | _DIGITS
_BLOCK_WIDTH = 256 * 1024
# Of a line of such a block, so that as many as can leave in one write.
_CHARACTERS = {_LINES: 944, _DIGITS: 4076}


class FrameError(Exception):
    """A line of this session was damaged, lost or repeated on its way."""


def mark(nonce: bytes, direction: bytes) -> bytes:
    """What every line of a session starts with, in one direction."""
    return b"=" + nonce + direction


class Encoder:
    """Turns frames into the bytes of one lane."""

    def __init__(self, nonce: bytes, direction: bytes, lane: str) -> None:
        self._mark = mark(nonce, direction)
        self._sequence = 0
        self._lane = lane
        self._width = LANES[lane]
        # On the way back others may write to the same pipe.
        at_once = PIPE_BUF if direction == TO_NEAR else _BLOCK_WIDTH
        self._form = _DIGITS if lane == "digits" else _LINES
        self._characters = _CHARACTERS[self._form]
        self._lines_at_once = at_once // (len(self._mark) + self._characters + 1)

    def pieces(self, kind: int, call: int, payload: "Any" = b"") -> "Any":
        """Yield the bytes of one frame piece by piece, so that a large payload is never held twice."""
        view = memoryview(payload)
        small = len(view) <= self._width
        width, start = self._width if small or self._lane == "binary" else _BLOCK_WIDTH, 0
        while True:
            stop = start + width
            more = stop < len(view)
            if self._lane == "binary":
                yield self._raw(kind, call, more, view[start:stop])
            elif small:
                yield self._line(kind, call, more, view)
            elif self._lane == "wide":
                yield b"".join((self._announced(kind | _BLOCK, call, more, view[start:stop]), view[start:stop]))
            else:
                yield self._announced(kind | self._form, call, more, view[start:stop])
                yield from self._lines(view[start:stop])
            if not more:
                return
            start = stop

    def encode(self, kind: int, call: int, payload: "Any" = b"") -> bytes:
        """One whole frame as bytes."""
        return b"".join(self.pieces(kind, call, payload))

    def _raw(self, kind: int, call: int, more: bool, piece: memoryview) -> bytes:
        return b"".join((len(piece).to_bytes(4, "big"), call.to_bytes(4, "big"), bytes((kind, more)), piece))

    def _line(self, kind: int, call: int, more: bool, piece: memoryview) -> bytes:
        import binascii

        content = b"".join((self._sequence.to_bytes(4, "big"), call.to_bytes(4, "big"), bytes((kind, more)), piece))
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        check = binascii.crc32(content).to_bytes(4, "big")
        return self._mark + binascii.b2a_base64(check + content)

    def _announced(self, kind: int, call: int, more: bool, block: memoryview) -> bytes:
        import binascii

        return self._line(kind, call, more, memoryview(len(block).to_bytes(4, "big") + binascii.crc32(block).to_bytes(4, "big")))

    def _lines(self, block: memoryview) -> "Any":
        """As many at a time as can leave in one write."""
        import binascii

        text = binascii.b2a_hex(block) if self._form == _DIGITS else binascii.b2a_base64(block, newline=False)
        width, between = self._characters, b"\n" + self._mark
        lines = [text[at : at + width] for at in range(0, len(text), width)]
        for at in range(0, len(lines), self._lines_at_once):
            yield b"".join((self._mark, between.join(lines[at : at + self._lines_at_once]), b"\n"))


def decoder(nonce: bytes, direction: bytes, lane: str) -> "Any":
    """The decoder of one lane and direction."""
    return RawDecoder() if lane == "binary" else Decoder(nonce, direction)


class RawDecoder:
    """Turns bytes of the binary lane, cut anywhere, into events ``(kind, call, more, payload)``."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> "list[tuple[int, int, bool, bytes]]":
        """Take the next bytes and return the events they complete.

        :raises FrameError: if they are no frames
        """
        events = []
        data = self._rest + data if self._rest else data
        start = 0
        while len(data) - start >= _HEADER:
            size = int.from_bytes(data[start : start + 4], "big")
            kind, more = data[start + 8], data[start + 9]
            if size > LANES["binary"] or not HELLO < kind <= PIECES or more > 1:
                raise FrameError("no frame: %r" % data[start : start + 80])
            stop = start + _HEADER + size
            if stop > len(data):
                break
            call = int.from_bytes(data[start + 4 : start + 8], "big")
            events.append((kind, call, bool(more), data[start + _HEADER : stop]))
            start = stop
        self._rest = data[start:]
        return events

    def close(self) -> "list[tuple[int, int, bool, bytes]]":
        """The channel has ended; an unfinished frame is lost."""
        self._rest = b""
        return []


class Decoder:
    """Turns lines of text, cut anywhere, into events ``(kind, call, more, payload)``.

    Noise comes out as events of kind :data:`NOISE`, the far side's greeting as one of kind :data:`HELLO`.
    """

    def __init__(self, nonce: bytes, direction: bytes) -> None:
        self._mark = mark(nonce, direction)
        self._echo = mark(nonce, TO_NEAR if direction == TO_FAR else TO_FAR)
        self._sequence = 0
        self._rest = b""
        # Of the block that is coming: the frame, what has come of it, and how many bytes or lines are still to come.
        self._block: "tuple[int, int, bool, int, int]" = (0, 0, False, 0, 0)
        self._form = self._characters = 0
        self._pieces: "list[bytes]" = []
        self._wanted = self._lines_wanted = self._last_line = 0

    def feed(self, data: bytes) -> "list[tuple[int, int, bool, bytes]]":
        """Take the next bytes and return the events they complete.

        :raises FrameError: if a line or block is damaged or the sequence has a gap
        """
        events: "list[tuple[int, int, bool, bytes]]" = []
        while data:
            data = self._take_block(data, events) if self._wanted else self._take_lines(data, events)
        return events

    def _take_block(self, data: bytes, events: "list[tuple[int, int, bool, bytes]]") -> bytes:
        rest = data[self._wanted :]
        self._pieces.append(data[: self._wanted] if rest else data)
        self._wanted -= len(self._pieces[-1])
        if not self._wanted:
            self._finish_block(b"".join(self._pieces), events)
        return rest

    def _finish_block(self, whole: bytes, events: "list[tuple[int, int, bool, bytes]]") -> None:
        import binascii

        self._pieces = []
        kind, call, more, size, check = self._block
        if len(whole) != size or binascii.crc32(whole) != check:
            raise FrameError("a block failed its checksum: %r" % whole[:80])
        events.append((kind, call, more, whole))

    def _take_lines(self, data: bytes, events: "list[tuple[int, int, bool, bytes]]") -> bytes:
        """Until a block begins; returns what is behind that line."""
        seen = len(self._rest)
        data = self._rest + data if seen else data
        start = 0
        end = data.find(b"\n", seen)
        while end >= 0:
            if self._lines_wanted:
                start = self._take_clean(data, start, events) or self._take_noisy(data, start, events)
            else:
                self._line(data[start : end + 1], events)
                start = end + 1
            if self._wanted:
                self._rest = b""
                return data[start:]
            end = data.find(b"\n", start)
        self._rest = data[start:]
        if len(self._rest) > LONGEST_LINE:
            # What stands in front of a line, however long, is none of it.
            at = self._rest.rfind(self._mark)
            at = at if at >= 0 else len(self._rest) - len(self._mark) + 1
            if at and self._echo not in self._rest[:at]:
                events.append((NOISE, 0, False, self._rest[:at]))
            self._rest = self._rest[at:]
        if len(self._rest) > 2 * LONGEST_LINE:
            raise FrameError("a line of more than %d bytes" % LONGEST_LINE)
        return b""

    def _take_clean(self, data: bytes, start: int, events: "list[tuple[int, int, bool, bytes]]") -> int:
        """Of a block, all lines that are there if nothing is between them; tells where they end, or 0."""
        size, long = len(self._mark), self._characters
        width, there = size + long + 1, len(data) - start
        number, characters = self._lines_wanted, (self._lines_wanted - 1) * long + self._last_line
        if number * (size + 1) + characters > there:
            number = min(number - 1, there // width)
            characters = number * long
        stop = start + number * (size + 1) + characters
        if not number or data[stop - 1 : stop] != b"\n" or not data.startswith(self._mark, start):
            return 0
        # Where each line begins is known, so nothing is searched for.
        ends = range(start + width - 1, stop - 1, width)
        if not {data[at : at + size + 1] for at in ends} <= {b"\n" + self._mark}:
            return 0
        text = b"".join([data[at - long : at] for at in ends] + [data[start + (number - 1) * width + size : stop - 1]])
        if b"\n" in text:
            return 0
        self._take_text(text, number, events)
        return stop

    def _take_text(self, text: bytes, lines: int, events: "list[tuple[int, int, bool, bytes]]") -> None:
        import binascii

        try:
            self._pieces.append(binascii.a2b_hex(text) if self._form == _DIGITS else binascii.a2b_base64(text))
        except binascii.Error:
            raise FrameError("lines are no %s: %r" % ("digits" if self._form == _DIGITS else "base64", text[:80])) from None
        self._lines_wanted -= lines
        if not self._lines_wanted:
            self._finish_block(b"".join(self._pieces), events)

    def _take_noisy(self, data: bytes, start: int, events: "list[tuple[int, int, bool, bytes]]") -> int:
        """The same, whatever is between them; tells where they end."""
        end = data.rfind(b"\n") + 1
        lines = data[start : end - 1].split(b"\n", self._lines_wanted)
        if len(lines) > self._lines_wanted:
            end -= len(lines.pop()) + 1
        size = len(self._mark)
        text = [line[size:].rstrip(b"\r") for line in lines if line.startswith(self._mark)]
        if len(text) < len(lines):
            text = [found for found in [self._text_of(line + b"\n", events) for line in lines] if found is not None]
        self._take_text(b"".join(text), len(text), events)
        return end

    def close(self) -> "list[tuple[int, int, bool, bytes]]":
        """The channel has ended: what is left of an unfinished line is noise."""
        rest, self._rest = self._rest, b""
        return [(NOISE, 0, False, rest)] if rest and self._mark not in rest else []

    def _text_of(self, line: bytes, events: "list[tuple[int, int, bool, bytes]]") -> "bytes | None":
        """What stands behind the mark, if there is one; all else is noise."""
        at = line.rfind(self._mark)
        if at < 0:
            if self._echo not in line:
                events.append((NOISE, 0, False, line))
            return None
        if at and self._echo not in line[:at]:
            events.append((NOISE, 0, False, line[:at]))
        return line[at + len(self._mark) :].rstrip(b"\r\n")

    def _line(self, line: bytes, events: "list[tuple[int, int, bool, bytes]]") -> None:
        body = self._text_of(line, events)
        if body is None:
            return
        if body.startswith(b"hello "):
            events.append((HELLO, 0, False, body))
            return
        kind, call, more, payload = self._frame(body)
        self._form = kind & _FOLLOWS
        if not self._form:
            events.append((kind, call, more, payload))
            return
        size, check = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:], "big")
        if len(payload) != 8 or not 0 < size <= _BLOCK_WIDTH or self._form & (self._form - 1):
            raise FrameError("no block: %r" % payload[:80])
        self._block = kind & ~_FOLLOWS, call, more, size, check
        if self._form == _BLOCK:
            self._wanted = size
        else:
            characters = 2 * size if self._form == _DIGITS else 4 * -(-size // 3)
            self._characters = _CHARACTERS[self._form]
            self._lines_wanted = -(-characters // self._characters)
            self._last_line = characters - (self._lines_wanted - 1) * self._characters

    def _frame(self, body: bytes) -> "tuple[int, int, bool, bytes]":
        import binascii

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
