"""A call process before its call: it gets ready, waits, and goes on as that call.

Contract: far side, standard library only, Python 3.8+.  On descriptor 4, a socket, it gets its call: a byte which tells what comes
with it, and, by the next byte, if they are not there from 5 on, the descriptors of that, in this order: its stdin, files with parts
of it, the socket or the file that its large arguments come by.  Then come the sizes of its parts, which are setup and those of its
box, in 8 bytes each, and those of them that have no file.  At the end of input nobody wants it: it leaves.
"""

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import sys

from . import call, pipes, rebuild, records, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

WITH_INPUT, WITH_PIECES, HERE, IN_FILE = 1, 2, 4, 8  # and those above it, for one part each
NUMBER = 8
PARTS = 4


def prepare(modules: "list[str]", many: bool) -> None:
    """Import what every call needs.

    :param modules: those of the worker that this session's calls need besides
    :param many: whether there will be many: behind a fork the first time that something is done is dear
    """
    call.import_early()
    if many:
        rebuild.rehearse()
    for name in modules:
        getattr(sys.modules[__name__.rpartition(".")[0]], name)
    if "limits" in modules:
        import resource  # noqa: F401


def main(ends: pipes.Pipes, parent: int, expected: bytes = b"", waits: bool = True) -> "NoReturn":
    """Become a spare, and then a call; never returns.

    :param expected: the setup of the call that is to come, if that is known
    :param waits: whether its call is still to come: what signals it meanwhile does not mean that
    """
    code = records.FAILED
    try:
        call.take_place(ends, parent)
        if waits:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        setup = marshal.loads(expected) if expected else {}
        if setup:
            call.prepare_ahead(setup)
        packed, *box = _receive(waits)
        code = call.run(marshal.loads(packed) if packed else setup, box)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        posix._exit(code)


def _receive(waits: bool) -> "list[Any]":
    """Setup, and the parts of the box."""
    comes = posix.read(pipes.FEED_FD, 1)
    if waits:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, system.KEPT)
    if not comes:
        posix._exit(0)
    sources = _receive_files(comes[0]) if comes[0] else {}
    numbers = _read(pipes.FEED_FD, PARTS * NUMBER)
    parts: "list[Any]" = []
    for place in range(PARTS):
        source = sources.get(place, pipes.FEED_FD)
        parts.append(_read(source, int.from_bytes(numbers[place * NUMBER : (place + 1) * NUMBER], "big")))
        if place in sources:
            posix.close(source)
    return parts


def _receive_files(comes: int) -> "dict[int, int]":
    """Take the descriptors that come; tells which parts are in files."""
    most = PARTS + 2
    if comes & HERE:
        files = list(range(pipes.FEED_FD + 1, pipes.FEED_FD + 1 + most))
    else:
        from . import sockets

        socket = sockets.of(pipes.FEED_FD)
        files = sockets.receive(socket, 1, most)[1]
        socket.detach()
    if comes & WITH_INPUT:
        fd = files.pop(0)
        posix.dup2(fd, 0)
        posix.close(fd)
    sources = {place: files.pop(0) for place in range(PARTS) if comes & IN_FILE << place}
    if comes & WITH_PIECES:
        call.pieces_fd = files.pop(0)
    return sources


def _read(fd: int, size: int) -> bytes:
    data = posix.read(fd, size) if size else b""
    while len(data) < size:
        more = posix.read(fd, size - len(data))
        if not more:
            posix._exit(0)
        data += more
    return data
