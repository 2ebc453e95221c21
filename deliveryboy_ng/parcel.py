"""One call as it goes over the wire."""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .worker import bulk, frames

__all__ = ["Parcel"]

# Bytes of a line that is no reason for a write of its own.
_SMALL = 1 << 15


@dataclass(frozen=True)
class Parcel:
    """What a call is like, what it is made of, and what it gets to read."""

    setup: Mapping[str, Any]
    modules: bytes
    parts: bulk.Parts
    input: bytes | bytearray | memoryview

    @property
    def size(self) -> int:
        """Bytes of modules and body."""
        return len(self.modules) + len(self.parts.body) + sum(piece.size for piece in self.parts.large)

    def lines(self, number: int, encoder: frames.Encoder) -> Iterator[bytes]:
        """What is written for it, as the call of this number."""
        # What fits goes in one write: the far side wakes up but once.
        small: list[bytes] = []
        apart = self.parts.large if self.setup["bulk"] else []
        for kind, payload in (
            (frames.LARGE, bulk.announced(apart)),
            (frames.SETUP, marshal.dumps(dict(self.setup), 2)),
            (frames.MODULES, self.modules),
            *((frames.BODY, part) for part in ([self.parts.body] if apart else self.parts.whole())),
            (frames.INPUT, self.input),
            # Else it is said when the far side has the socket.
            *(() if apart else ((frames.START, b""),)),
        ):
            for piece in encoder.pieces(kind, number, payload) if payload or kind == frames.START else ():
                if len(piece) < _SMALL:
                    small.append(piece)
                    continue
                yield b"".join(small)
                small.clear()
                yield piece
            if sum(map(len, small)) > _SMALL:
                yield b"".join(small)
                small.clear()
        yield b"".join(small)
