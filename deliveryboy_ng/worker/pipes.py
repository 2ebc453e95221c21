"""The descriptors between a supervisor and one call process, made before that is forked.

Contract: far side, standard library only, Python 3.8+.  In the call process 0 to 2 are its own streams, 3 is where its answer goes
(records.py), and 4, until it has got its call, a socket by which that comes (spare.py).
"""

import posix
import sys

from . import system

REPLY_FD, FEED_FD = 3, 4
_MOST = 1 << 16


class Pipes:
    """The ends of both sides.

    :ivar stdin: what the call process reads
    :ivar far: the ends of its stdout, stderr, answer and feed
    :ivar near: the supervisor's ends of stdout, stderr and answer
    :ivar feed: the supervisor's end of the feed
    :ivar others: what else the call process takes with it, from 5 on; the supervisor's own
    :ivar keeps_others: whether other descriptors are the caller's: what an initializer has opened
    """

    keeps_others = False

    def __init__(self, stdin: int, by_socket: bool, is_trusted: bool) -> None:
        """:param stdin: closed with the rest
        :param by_socket: whether the answer's shall be a socket, through which another can come, where that can be had
        :param is_trusted: whether the call may have one even if it could keep the supervisor busy by what it passes (Linux 6.16)
        :raises OSError: if there are no more
        """
        self.stdin = stdin
        self.feed = -1
        self.near: "list[int]" = []
        self.far: "list[int]" = []
        self.others: "list[int]" = []
        try:
            for place in range(1, REPLY_FD + 1):
                near, far = _answer(is_trusted) if by_socket and place == REPLY_FD else posix.pipe()
                self.near.append(near)
                self.far.append(far)
            self.feed, far = system.socketpair()
            self.far.append(far)
        except OSError:
            self.close()
            raise

    @classmethod
    def of(cls, files: "list[int]") -> "Pipes":
        """The same in another process, of descriptors that were sent there."""
        pipes = cls.__new__(cls)
        pipes.stdin, pipes.far, pipes.near, pipes.feed, pipes.others = files[0], files[1:], [], -1, []
        pipes.keeps_others = True
        return pipes

    def close(self) -> None:
        """Nobody will use them."""
        for fd in [*self.near, *self.own_ends()]:
            posix.close(fd)
        self.stop_feeding()

    def stop_feeding(self) -> None:
        """The call process will get nothing more."""
        fd, self.feed = self.feed, -1
        if fd >= 0:
            posix.close(fd)

    def near_ends(self) -> "dict[int, str]":
        """Close what only the call process needs; what is left is to be relayed under these names."""
        for fd in self.own_ends():
            posix.close(fd)
        for fd in self.near:
            posix.set_blocking(fd, False)
        return dict(zip(self.near, ("stdout", "stderr", "reply")))

    def own_ends(self) -> "list[int]":
        """What only the call process needs; told once."""
        ends = [self.stdin, *self.far] if self.stdin >= 0 else []
        self.stdin = -1
        return ends

    def take_far_ends(self) -> None:
        """Put the call process's descriptors where they belong and close all others."""
        wanted = [self.stdin, *self.far, *self.others]
        if min(wanted) >= len(wanted) and not self.keeps_others and sys.version_info >= (3, 10):
            for place, fd in enumerate(wanted):
                posix.dup2(fd, place, inheritable=place < REPLY_FD)
            posix.closerange(len(wanted), _MOST)
            return
        if not self.keeps_others:
            # The supervisor's own go first: there may be no room for copies beside them.
            lowest = 3
            for fd in sorted(wanted):
                posix.closerange(lowest, fd)
                lowest = max(lowest, fd + 1)
            # Before 3.10 closerange() closes one by one.
            posix.closerange(lowest, _MOST if sys.version_info >= (3, 10) else _highest() + 1)
        if min(wanted) < len(wanted):
            # One must not be overwritten before it is in its place.
            wanted = [_above(fd, len(wanted)) for fd in wanted]
        for place, fd in enumerate(wanted):
            posix.dup2(fd, place, inheritable=place < REPLY_FD)
        for fd in {self.stdin, *self.far, *self.others, *wanted}:
            if fd >= len(wanted):
                posix.close(fd)


def _highest() -> int:
    """The highest descriptor that there may be."""
    try:
        return max(map(int, posix.listdir("/proc/self/fd")))
    except OSError:
        return 1 << 16


def _answer(is_trusted: bool) -> "tuple[int, int]":
    """A pair of sockets if that can be had and may be, else a pipe."""
    try:
        ends = system.socketpair()
    except OSError:
        return posix.pipe()
    if is_trusted or system.refuse_descriptors():
        return ends
    for fd in ends:
        posix.close(fd)
    return posix.pipe()


def _above(fd: int, least: int) -> int:
    """A copy of the descriptor that is no lower than that."""
    while fd < least:
        fd = posix.dup(fd)
    return fd


def no_input() -> int:
    """A descriptor with nothing to be read from it."""
    return posix.open("/dev/null", posix.O_RDONLY)
