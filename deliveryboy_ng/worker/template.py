"""A template: a call process that has imported and initialized what calls shall share, and forks them from then on.

Contract: far side, standard library only, Python 3.8+.  On descriptor 4, a socket, it gets a byte and the descriptors of a spare to
be, and forks it twice, so that it becomes the supervisor's child.  The spare then says a byte on its own socket, with which the
kernel tells who it is (SCM_CREDENTIALS).
"""

import posix
import time

from . import memory, pipes, sockets, spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_MOST_DESCRIPTORS = 6


def serve(supervisor: int) -> "NoReturn":
    """Fork a spare whenever one is asked for; never returns."""
    import gc

    # What calls share with each other is not copied for the collector's sake.
    gc.collect()
    gc.freeze()
    memory.use_huge_pages()

    socket = sockets.of(pipes.FEED_FD)
    while True:
        data, files = sockets.receive(socket, 1, _MOST_DESCRIPTORS)
        if not data:
            posix._exit(0)
        if -1 not in files:
            _fork_twice(files, supervisor)
        for fd in files:
            if fd >= 0:
                posix.close(fd)


def _fork_twice(files: "list[int]", supervisor: int) -> None:
    try:
        middle = posix.fork()
    except OSError:
        return  # there is no room for one now; that nobody has the descriptors any more is told by them
    if middle == 0:
        _fork_away(files, supervisor)
    try:
        posix.waitpid(middle, 0)
    except ChildProcessError:
        pass  # the initializer lets nobody wait for his children


def _fork_away(files: "list[int]", supervisor: int) -> "NoReturn":
    middle = posix.getpid()
    try:
        child = posix.fork()
    except OSError:
        posix._exit(0)  # as above
    if child:
        posix._exit(0)
    # Whoever adopts it is its parent from then on: the supervisor, or nobody who matters.
    while posix.getppid() == middle:
        time.sleep(0.0001)
    try:
        sockets.of(posix.dup(files[-1])).send(b"+")
    except OSError:
        posix._exit(0)  # nobody wants it any more
    spare.main(pipes.Pipes.of(files), supervisor)
