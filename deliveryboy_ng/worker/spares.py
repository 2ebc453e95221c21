"""Call processes that are there before their calls, as their supervisor sees them; what they do themselves is in spare.py.

Contract: far side, standard library only, Python 3.8+.  A spare is forked from the supervisor, in which nothing of the caller's has
ever run, or from a template (template.py).
"""

import posix
import time

from . import pipes, spare, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from . import ledger, parcel, templates

# Whoever kills them again and again shall not keep the supervisor busy.
_MOST_DEATHS = 1000
_MOST_STILLBORN = 100
# Seconds until it is tried again where there was no room.
_PAUSE = 1.0


class Spare:
    """One that waits, or will as soon as it is forked; ``pid`` is 0 until then.

    :ivar setup: what it prepares itself for
    :ivar near: what is to be relayed from it
    :ivar base: bytes that were resident in the one that it was forked from
    """

    def __init__(self, ends: pipes.Pipes, setup: bytes = b"") -> None:
        self.pid = 0
        self.setup = setup
        self.ends = ends
        self.near: "dict[int, str]" = {}
        self.base = 0

    def introduces_itself(self) -> None:
        """It is to be forked by another, and says itself who it is."""
        from . import sockets

        sockets.ask_for_credentials(self.ends.feed)

    def who(self) -> int:
        """Its number, 0 if it has ended."""
        from . import sockets

        return sockets.receive_sender(self.ends.feed)

    def settle(self, pid: int, base: int) -> None:
        """It has been forked.

        :param base: bytes that were resident in the one that it was forked from
        """
        self.pid, self.base = pid, base
        self.near = self.ends.near_ends()

    def feed(self, call: "parcel.Parcel") -> bool:
        """Give it its call; false if it is no more.

        :raises OSError: if there is no room for it
        """
        flags, message, passed = call.message(not self.setup)
        if not self.pid:
            # It is still to be forked, and takes them with it.
            self.ends.others, passed, flags = passed, [], flags | spare.HERE * bool(passed)
            posix.set_blocking(self.ends.feed, False)
        try:
            if passed:
                from . import sockets

                posix.write(self.ends.feed, bytes((flags,)))
                sockets.send(self.ends.feed, b"+", passed)
            left = memoryview(message if passed else bytes((flags,)) + message)
            while left:
                left = left[posix.write(self.ends.feed, left) :]
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.ends.close()


class Spares:
    """As many as calls may run at a time."""

    def __init__(
        self, number: int, from_template: bool, new_ends: "Callable[[bool], pipes.Pipes]", fork: "Callable[[], int]"
    ) -> None:
        """:param new_ends: gets whether the call is trusted not to misuse what it is given"""
        self._from_template = from_template
        self._number = self._most = number
        self._new_ends, self._fork = new_ends, fork
        self._waiting: "list[Spare]" = []
        # They have been told that nobody wants them.
        self._leaving: "set[int]" = set()
        self._deaths = self._stillborn = 0
        self._paused = 0.0
        self.expected = b""
        self.template: "templates.Template | None" = None

    @property
    def pids(self) -> "set[int]":
        return {*self._leaving, *(waiting.pid for waiting in self._waiting)}

    @property
    def are_wanted(self) -> bool:
        """Whether there are fewer than there shall be."""
        if self._paused and time.monotonic() < self._paused:
            return False
        if self._from_template:
            return self.template is not None and len(self._waiting) + len(self.template.asked) < self._number
        return len(self._waiting) < self._number

    @property
    def are_all_stillborn(self) -> bool:
        """Whether whatever the template forks ends at once."""
        return self._stillborn > _MOST_STILLBORN

    def pause(self) -> None:
        """Let a moment pass."""
        self._paused = time.monotonic() + _PAUSE

    def keep_none(self) -> None:
        """Where a call could reach one that waits, it is forked when it is needed."""
        self._number = 0

    def fill(self) -> None:
        """Fork one, or have it forked; raises OSError."""
        if not self._from_template:
            made = Spare(self._new_ends(False), self.expected)
            self._fork_into(made, waits=True)
            self._waiting.append(made)
        elif self.template is not None:
            self.template.ask(self._new_ends(False))

    def _fork_into(self, made: Spare, waits: bool) -> None:
        base, parent = system.resident_memory(), posix.getpid()
        try:
            pid = self._fork()
        except OSError:
            made.close()
            raise
        if pid == 0:
            spare.main(made.ends, parent, made.setup, waits)
        made.settle(pid, base)

    def ask_for(self, calls: int) -> None:
        """Have as many made as so many calls need that wait for theirs; raises OSError."""
        if self.template is not None:
            try:
                for _ in range(min(calls, self._most) - len(self._waiting) - len(self.template.asked)):
                    self.template.ask(self._new_ends(False))
            except BlockingIOError:
                pass  # it is busy, and will hear of it later

    def hear(self, fd: int, known: "set[int]") -> None:
        """One that the template has forked says who it is, or has ended."""
        assert self.template is not None
        made = self.template.answered(fd, known)
        if made is not None:
            self._stillborn = 0
            self._waiting.append(made)
        else:
            self._stillborn += 1
            # There may be no room for it; who waits for one asks again.
            self.pause()

    def take(self, call: "ledger.Call") -> "Spare | None":
        """One that has been given this call; None if the template has to make one first.

        :raises OSError: if there can be none
        """
        # The next will most likely be like this one.
        self.expected = call.packed_setup
        while self._waiting:
            found = self._waiting.pop(0)
            if found.setup in (b"", call.packed_setup) and self._feed(found, call):
                return found
            found.close()
            self._leaving.add(found.pid)
        if self._from_template and not call.setup["template"]:
            return None
        made = Spare(self._new_ends(call.is_trusted))
        if not self._feed(made, call):
            made.close()
            raise OSError("a process cannot be told what to do")
        self._fork_into(made, waits=False)
        return made

    @staticmethod
    def _feed(found: Spare, call: "ledger.Call") -> bool:
        try:
            return found.feed(call.parcel)
        except OSError:
            found.close()
            raise

    def drop(self, pid: int) -> bool:
        """Forget the one that has ended; tells whether it was one of these."""
        if pid in self._leaving:
            self._leaving.discard(pid)
            return True
        for waiting in self._waiting:
            if waiting.pid == pid:
                self._waiting.remove(waiting)
                waiting.close()
                self._deaths += 1
                if self._deaths > _MOST_DEATHS:
                    self.keep_none()
                return True
        return False
