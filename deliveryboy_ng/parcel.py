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
        large = self.parts.large
        # What comes by a socket comes when the far side has that, which says so, and starts then.
        later = bool(large) and self.setup["bulk"]
        for kind, payload in (
            (frames.SETUP, marshal.dumps(dict(self.setup), 2)),
            (frames.LARGE, bulk.announced(large)),
            (frames.MODULES, self.modules),
            (frames.BODY, self.parts.body),
            *((frames.PIECES, piece.view) for piece in large if not later),
            (frames.INPUT, self.input),
            *(() if later else ((frames.START, b""),)),
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
