"""One call on its way over a session, what has come back of it, and how long that is waited for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .answer import Account, Reply, whereabouts
from .exceptions import ConnectionLost
from .parcel import Parcel
from .wire import Lent
from .worker import frames

__all__ = ["Ending", "Exchange", "Line"]

# The far side keeps the time; this side only steps in when nothing is heard of it for so long after it should have.
_STALLED = 5.0
# Bytes that may still be on their way, and are not waited for, when the time is over.
_MOST_LATE = 1 << 22
# Seconds that an answer may still take to come when its time is over.
_LONGEST_LATE = 900.0
# Bytes a second that any line can be expected to carry: the box may still lie in its buffers when it has been written.
_SLOWEST = 1 << 14
# The same where no line is in between; and bytes that may lie in buffers on the way.
_SLOWEST_HERE = 1 << 22
_IN_BUFFERS = 1 << 22
# Seconds that an end which was asked for may take, and that the question may at most be on its way.
_LONGEST_END, _LONGEST_WAY = 30.0, 60.0


@dataclass
class Ending:
    """What came back of one call, and until when more of it is waited for (by the monotonic clock).

    :ivar sent: bytes of its parcel
    :ivar account: the supervisor's last word; there is none if the call was ``refused``, for that reason, or the wire was ``lost``
    :ivar interrupts: how often one was asked for; ``cancelled`` and ``terminated`` tell whether that was
    :ivar heard_by: when something must have been heard of it
    :ivar start_by: when it must have started
    :ivar kill_is_queued: whether this side ends it, and what says so waits to be written; ``kill_is_written`` when it does no more
    """

    reply: Reply
    sent: int = 0
    remote_pid: int | None = None
    host: str = ""
    account: Account | None = None
    refused: str = ""
    interrupts: int = 0
    cancelled: bool = False
    terminated: bool = False
    lost: ConnectionLost | None = None
    heard_by: float = math.inf
    start_by: float = math.inf
    kill_is_queued: bool = False
    kill_is_written: bool = False
    # When it must have ended, whatever still comes.
    _latest: float = math.inf
    # Bytes that came when the time was over, and since when such come.
    _late: int = 0
    _late_since: float = 0.0
    # Bytes on the wire when its time was over.
    _total: int | None = None

    @property
    def is_asked_for(self) -> bool:
        """Whether the caller wants it to end."""
        return self.cancelled or self.terminated or self.interrupts > 0

    @property
    def deadline(self) -> float:
        """When to give it up, if nothing comes."""
        return min(self.heard_by, self.start_by, self._latest)

    def give_up_after(self, seconds: float) -> None:
        """The far side should have been heard of by then."""
        self.heard_by = min(self.heard_by, time.monotonic() + seconds)

    def note_kill_queued(self) -> None:
        """It shall be killed, and will be told so behind all that is to be sent before."""
        self.kill_is_queued = True
        self.give_up_after(_STALLED)

    def note_kill_written(self, way: float) -> None:
        """That has been written.

        :param way: seconds that it may be on its way
        """
        if self.kill_is_written:
            return
        self.kill_is_written = True
        way = min(way, _LONGEST_WAY)
        self.heard_by = _extended(self.heard_by, math.inf, time.monotonic() + _STALLED + way)
        self._latest = time.monotonic() + _LONGEST_END + way

    def move(self, written: int, come: int) -> None:
        """Bytes of whatever kind move on the line where an end is awaited: what is to be told, or heard, may stand behind them."""
        if self.kill_is_queued:
            moved = written + come if self.kill_is_written else written
            self.heard_by = _extended(self.heard_by, moved / _SLOWEST, time.monotonic() + _STALLED)

    def hear(self, kind: int, size: int) -> None:
        """Wait longer for what is overdue while it comes, as fast as a slow line at least; for what is unwanted, not for ever."""
        if self.remote_pid is None or kind not in (frames.STDOUT, frames.STDERR, frames.REPLY):
            return
        now = time.monotonic()
        if now + _STALLED <= self.heard_by:
            return
        if kind != frames.REPLY or self.reply.overlong or self.cancelled:
            self._late += size
        self._late_since = self._late_since or now
        if self._late <= _MOST_LATE and now < self._late_since + _LONGEST_LATE:
            self.heard_by = _extended(self.heard_by, size / _SLOWEST, now + _STALLED)

    def expect_start(self, taken: int, is_here: bool, patience: float) -> None:
        """The far side, on this machine or anywhere, has taken so many bytes more; it takes all at some rate, and then starts."""
        rate = _SLOWEST_HERE if is_here else _SLOWEST
        now = time.monotonic()
        if self.start_by == math.inf:
            self.start_by = now + patience + _STALLED
        self.start_by = _extended(self.start_by, taken / rate, now + patience + _STALLED + _IN_BUFFERS / rate)

    def start(self, payload: bytes, longest: float | None) -> None:
        """The supervisor says that it has been started.

        :param longest: seconds that it may take
        :raises FrameError: if that makes no sense
        """
        if self.remote_pid is not None:
            raise frames.FrameError("a call that starts twice")
        self.remote_pid, self.host = whereabouts(payload)
        self.start_by = math.inf
        if longest is not None:
            self.give_up_after(longest + _STALLED)

    def is_overdue(self, total: int) -> bool:
        """Whether nothing more can be hoped for from what has come already: so many bytes altogether."""
        if time.monotonic() < self.deadline:
            self._total = None
            return False
        self._total = total if self._total is None else self._total
        return total - self._total > _MOST_LATE


@dataclass(eq=False)
class Exchange:
    """One call on its way over a session.

    :ivar once: whether it will not be sent again, should it be lost
    :ivar answered: whether the function has returned, and nothing else can be made of that any more
    :ivar taken: bytes that the transport had taken, and ``come`` those that had come, when that was last looked at
    :ivar lent: what large pieces go or come by
    :ivar sockets_asked_for: how often the far side has asked for that
    """

    number: int
    parcel: Parcel
    output: Callable[[str, bytes], object]
    started: Callable[[Ending], object]
    requests: deque[str]
    ending: Ending
    once: bool = True
    taken: int = 0
    come: int = 0
    answered: bool = False
    over: bool = False
    lent: list[Lent] = field(default_factory=list)
    sockets_asked_for: int = 0


class Line:
    """How much of what has been written may still be on its way, on the slowest line.

    :param is_here: whether none is in between
    """

    def __init__(self, is_here: bool) -> None:
        self._rate = _SLOWEST_HERE if is_here else _SLOWEST
        self._written = self._afloat = 0.0
        self._seen = time.monotonic()

    def note(self, written: int) -> None:
        """So many bytes have been written by now."""
        now = time.monotonic()
        self._afloat = max(0.0, self._afloat - (now - self._seen) * self._rate) + written - self._written
        self._afloat = min(self._afloat, _IN_BUFFERS)
        self._written, self._seen = written, now

    @property
    def way(self) -> float:
        """Seconds that what is written now may take."""
        return self._afloat / self._rate


def _extended(deadline: float, seconds: float, most: float) -> float:
    return max(deadline, min(deadline + seconds, most))
