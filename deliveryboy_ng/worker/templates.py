"""A session's template as its supervisor sees it; what it does itself is in template.py.

Contract: far side, standard library only, Python 3.8+.
"""

import posix

from . import pipes, processes, sockets, spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLLIN = 1


class Template:
    """The supervisor's view of the process that others are to be forked from.

    :ivar asked: those that are being made
    """

    def __init__(self, itself: "spares.Spare", poll: "Any") -> None:
        self.pid = itself.pid
        self.asked: "dict[int, spares.Spare]" = {}
        self._ends = itself.ends
        self._poll = poll
        poll.register(self.fileno(), _POLLIN)

    def fileno(self) -> int:
        return self._ends.feed

    def concerns(self, fd: int) -> bool:
        """Whether it is for this, or for one that is being made, that something came there."""
        return fd == self.fileno() or fd in self.asked

    def ask(self, ends: pipes.Pipes) -> None:
        """Have one forked; raises OSError."""
        made = spares.Spare(ends)
        try:
            made.introduces_itself()
            sockets.send(self.fileno(), b"+", [ends.stdin, *ends.far], waits=False)
        except OSError:
            made.close()
            raise
        # The template has its own by now; so the end is seen when that has ended.
        for fd in ends.own_ends():
            posix.close(fd)
        self.asked[ends.feed] = made
        self._poll.register(ends.feed, _POLLIN)

    def answered(self, fd: int, known: "set[int]") -> "spares.Spare | None":
        """That one, if it lives."""
        made = self.asked.pop(fd)
        self._poll.unregister(fd)
        pid = made.who()
        # The template runs what the caller gave it, and may have anybody else speak.
        if pid in known or not _is_child(pid):
            made.close()
            return None
        made.settle(pid, _resident(self.pid))
        return made

    def close(self) -> None:
        self._poll.unregister(self.fileno())
        for fd, made in self.asked.items():
            self._poll.unregister(fd)
            made.close()
        self._ends.stop_feeding()


def _resident(pid: int) -> int:
    try:
        return processes.Stat(pid).resident
    except OSError:
        return 0


def _is_child(pid: int) -> bool:
    try:
        return processes.Stat(pid).parent == posix.getpid()
    except OSError:
        return False
