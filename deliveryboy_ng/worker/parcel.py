"""What has come of a call before it starts: small parts in memory, large ones in files without a name.

Contract: far side, standard library only, Python 3.8+.  Thus the supervisor needs little memory, however much comes, and what it
had of it does not become the memory of the process that it forks then.
"""

import posix

from . import frames, records, spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

# Bytes of a part that are no reason for a file, and that are written to it at a time.
_MOST_KEPT = {frames.MODULES: 1 << 15, frames.BODY: 1 << 15, frames.INPUT: 0}
_AT_A_TIME = 1 << 18
_FLAGS = {frames.INPUT: spare.WITH_INPUT, frames.MODULES: spare.WITH_MODULES, frames.BODY: spare.WITH_BODY}


class Parcel:
    """The parts by their frames' kinds.

    :ivar socket: by which the large pieces of its body come, -1 if there is none
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
        if self._waiting[kind] > (_AT_A_TIME if kind in self._files else _MOST_KEPT.get(kind, self._waiting[kind])):
            try:
                self._write_down(kind)
            except OSError as error:
                self.problem = str(error)
                self.close()

    def _write_down(self, kind: int) -> None:
        if kind not in self._files:
            self._files[kind] = _file()
        view = memoryview(self.part(kind))
        while view:
            view = view[posix.write(self._files[kind], view) :]

    def part(self, kind: int) -> bytes:
        """What is in memory of it, which is taken out of there."""
        self._waiting[kind] = 0
        return b"".join(self._pieces.pop(kind, []))

    @property
    def announced(self) -> bytes:
        """What is said of the large pieces of its body."""
        return b"".join(self._pieces.get(frames.LARGE, []))

    @property
    def weight(self) -> int:
        """Bytes that it takes up in the call, see records.py."""
        size = sum(size for kind, size in self._sizes.items() if kind in (frames.MODULES, frames.BODY, frames.LARGE))
        return records.weight(size, self.announced)

    @property
    def given(self) -> "tuple[int, int]":
        """Of its input, the inode and the bytes."""
        if frames.INPUT not in self._files:
            return 0, 0
        return posix.fstat(self._files[frames.INPUT]).st_ino, self._sizes[frames.INPUT]

    def message(self, setup: bytes) -> "tuple[int, list[bytes], list[int]]":
        """What a spare is told: what comes, the bytes, and the descriptors; see spare.py.

        :raises OSError: if there is no room for it
        """
        flags = 0
        passed: "list[int]" = []
        inline = [setup]
        sizes = [len(setup)]
        for kind in (frames.MODULES, frames.BODY, frames.LARGE):
            sizes.append(self._sizes.get(kind, 0))
            if kind not in self._files:
                inline += self._pieces.get(kind, [])
        for kind in (frames.INPUT, frames.MODULES, frames.BODY):
            if kind in self._files:
                if self._waiting[kind]:
                    self._write_down(kind)
                posix.lseek(self._files[kind], 0, 0)
                flags |= _FLAGS[kind]
                passed.append(self._files[kind])
        if self.socket >= 0:
            flags |= spare.WITH_SOCKET
            passed.append(self.socket)
        return flags, [b"".join(size.to_bytes(spare.NUMBER, "big") for size in sizes), *inline], passed

    def close(self) -> None:
        """It has been handed on, or nobody wants it."""
        self._pieces.clear()
        for fd in self._files.values():
            posix.close(fd)
        self._files.clear()
        if self.socket >= 0:
            posix.close(self.socket)
            self.socket = -1


def _file() -> int:
    if hasattr(posix, "memfd_create"):
        return posix.memfd_create("deliveryboy input")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return posix.dup(file.fileno())
