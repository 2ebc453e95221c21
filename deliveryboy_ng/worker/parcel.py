"""What has come of a call before it starts: small parts in memory, large ones in files without a name.

Contract: far side, standard library only, Python 3.8+.  Thus the supervisor needs little memory, however much comes, and what it
had of it does not become the memory of the process that it forks then.
"""

import posix

from . import frames, records, spare, system

# The parts of a call's message, see spare.py.
_PARTS = (frames.SETUP, frames.MODULES, frames.BODY, frames.LARGE)
# Bytes of a part that are no reason for a file: a socket takes four such parts before anybody reads them.
_MOST_KEPT = 1 << 14
# Those that may be large, and the bytes from which on they are written down as they come; and how much at a time.
_LARGE = {frames.INPUT: 0, frames.PIECES: 0, frames.MODULES: _MOST_KEPT, frames.BODY: _MOST_KEPT}
_AT_A_TIME = 1 << 18


class Parcel:
    """The parts by their frames' kinds.

    :ivar socket: by which the large pieces of its body come, -1 if they come with all the rest, or there are none
    :ivar problem: why it cannot be kept, if it cannot
    """

    def __init__(self) -> None:
        self._sizes: "dict[int, int]" = {}
        self._pieces: "dict[int, list[bytes]]" = {}
        self._waiting: "dict[int, int]" = {}
        self._files: "dict[int, int]" = {}
        self.socket = -1
        self.problem = ""

    def add(self, kind: int, data: bytes) -> None:
        """One more piece of a part."""
        if self.problem:
            return
        self._sizes[kind] = self._sizes.get(kind, 0) + len(data)
        self._waiting[kind] = self._waiting.get(kind, 0) + len(data)
        self._pieces.setdefault(kind, []).append(data)
        if kind in _LARGE and self._waiting[kind] > (_AT_A_TIME if kind in self._files else _LARGE[kind]):
            try:
                self._write_down(kind)
            except OSError as error:
                self.problem = str(error)
                self.close()

    def _write_down(self, kind: int) -> None:
        if kind not in self._files:
            self._files[kind] = system.nameless_file()
        view = memoryview(b"".join(self._pieces.pop(kind, [])))
        self._waiting[kind] = 0
        while view:
            view = view[posix.write(self._files[kind], view) :]

    def part(self, kind: int) -> bytes:
        """All that has come of one.

        :raises OSError: if it is there no more
        """
        if self.problem:
            raise OSError(self.problem)
        rest = b"".join(self._pieces.get(kind, []))
        if kind not in self._files:
            return rest
        return posix.pread(self._files[kind], self._sizes[kind] - len(rest), 0) + rest

    @property
    def announced(self) -> bytes:
        """What is said of the large pieces of its body; raises OSError."""
        return self.part(frames.LARGE)

    @property
    def weight(self) -> int:
        """Bytes that it takes up in the call, see records.py."""
        return records.weight(sum(self._sizes.get(kind, 0) for kind in _PARTS[1:]), self.announced)

    @property
    def has_pieces(self) -> bool:
        """Whether the large pieces of its body are there, or there is a socket that they come by."""
        return self.socket >= 0 or frames.PIECES in self._files

    @property
    def given(self) -> "tuple[int, int]":
        """Of its input, the inode and the bytes."""
        if frames.INPUT not in self._files:
            return 0, 0
        return posix.fstat(self._files[frames.INPUT]).st_ino, self._sizes[frames.INPUT]

    def message(self, with_setup: bool) -> "tuple[int, bytes, list[int]]":
        """What a spare is told: what comes, the bytes, and the descriptors; see spare.py.

        :raises OSError: if there is no room for it
        """
        flags = 0
        passed: "list[int]" = []
        sizes: "list[bytes]" = []
        inline: "list[bytes]" = []
        if frames.INPUT in self._files:
            flags |= spare.WITH_INPUT
            passed.append(self._rewound(frames.INPUT))
        for place, kind in enumerate(_PARTS):
            size = self._sizes.get(kind, 0) if with_setup or kind != frames.SETUP else 0
            sizes.append(size.to_bytes(spare.NUMBER, "big"))
            if size > _MOST_KEPT:
                flags |= spare.IN_FILE << place
                passed.append(self._rewound(kind))
            elif size:
                inline += self._pieces.get(kind, [])
        if self.has_pieces:
            flags |= spare.WITH_PIECES
            passed.append(self._rewound(frames.PIECES) if self.socket < 0 else self.socket)
        return flags, b"".join(sizes + inline), passed

    def _rewound(self, kind: int) -> int:
        if self._waiting[kind] or kind not in self._files:
            self._write_down(kind)
        posix.lseek(self._files[kind], 0, 0)
        return self._files[kind]

    def close(self) -> None:
        """It has been handed on, or nobody wants it."""
        self._pieces.clear()
        for fd in self._files.values():
            posix.close(fd)
        self._files.clear()
        if self.socket >= 0:
            posix.close(self.socket)
            self.socket = -1
