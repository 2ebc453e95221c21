"""Where a call's output goes: to the caller as it comes, and, within bounds, into the receipt."""

from __future__ import annotations

import codecs
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["Capture", "Sink"]

_LAST_WORDS = 1 << 14


class Capture:
    """Keeps the first and the last half of a stream, at most *limit* bytes together."""

    def __init__(self, limit: int) -> None:
        self._head_room = limit - limit // 2
        self._tail_room = limit // 2
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.truncated = False

    def add(self, data: bytes) -> None:
        if not data:
            return
        if self._head_room > 0:
            self._head.append(data[: self._head_room])
            data, taken = data[self._head_room :], len(data)
            self._head_room -= min(self._head_room, taken)
        if not data:
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size > self._tail_room:
            self.truncated = True
            excess = self._tail_size - self._tail_room
            first = self._tail.popleft()
            if len(first) > excess:
                self._tail.appendleft(first[excess:])
            self._tail_size -= min(len(first), excess)

    def value(self) -> bytes:
        return b"".join((*self._head, *self._tail))


class Sink:
    """Takes what arrives of one call's stdout and stderr.

    :ivar last_words: the last of stderr, in every mode: there stands why a process died
    """

    def __init__(self, mode: str | Callable[[str, bytes], object], limit: int) -> None:
        self._captures = {} if mode == "discard" else {name: Capture(limit) for name in ("stdout", "stderr")}
        self.last_words = bytearray()
        self._hand_over: Callable[[str, bytes], object] | None = None
        self._live = Live() if mode == "live" else None
        if self._live is not None:
            self._hand_over = self._live.write
        elif callable(mode):
            self._hand_over = mode

    def write(self, stream: str, data: bytes) -> None:
        if self._captures:
            self._captures[stream].add(data)
        if stream == "stderr":
            self.last_words += data[-_LAST_WORDS:]
            del self.last_words[:-_LAST_WORDS]
        if self._hand_over is not None:
            self._hand_over(stream, data)

    def finish(self) -> None:
        """The streams have ended."""
        if self._live is not None:
            self._live.finish()

    def captured(self, stream: str) -> bytes:
        return self._captures[stream].value() if self._captures else b""

    @property
    def truncated(self) -> tuple[str, ...]:
        return tuple(name for name, capture in self._captures.items() if capture.truncated)


class Live:
    """Writes to whatever ``sys.stdout`` and ``sys.stderr`` are at that moment, byte for byte where they allow it."""

    def __init__(self) -> None:
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def write(self, stream: str, data: bytes) -> None:
        file: Any = getattr(sys, stream)
        if file is None:
            return
        buffer = getattr(file, "buffer", None)
        if buffer is None:
            decoder = self._decoders.get(stream)
            if decoder is None:
                decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
            file.write(decoder.decode(data))
        else:
            file.flush()
            buffer.write(data)
            buffer.flush()

    def finish(self) -> None:
        """Write what is left of a character that never became whole."""
        for stream, decoder in self._decoders.items():
            rest = decoder.decode(b"", final=True)
            file: Any = getattr(sys, stream)
            if rest and file is not None:
                file.write(rest)
