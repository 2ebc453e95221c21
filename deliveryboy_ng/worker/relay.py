"""Passes on what calls write: their output, and their answers, as far as the near side takes it.

Contract: far side, standard library only, Python 3.8+.  Runs in the supervisor; what comes from a call is hostile input.
"""

import posix
import select
import time

from . import channel, frames, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import ledger

# Seconds that a call may take to end when it has answered.
_LONGEST_EXIT = 1.0
# Bytes that a call which has ended may have left in one of its pipes.
_MOST_LEFT = 1 << 20
_STREAMS = {"stdout": frames.STDOUT, "stderr": frames.STDERR}


class Relay:
    """From the calls' pipes to the channel.

    :ivar paused: whether nothing is read, since the near side is slow
    """

    def __init__(self, to: channel.Channel, poll: "Any", calls: "dict[int, ledger.Call]") -> None:
        self._channel, self._poll, self._calls = to, poll, calls
        self.paused = False

    def begin(self, call: "ledger.Call") -> None:
        """It has its process."""
        for fd in call.pipes:
            self._poll.register(fd, select.POLLIN)

    def read(self, fd: int) -> None:
        """Something has come there, or will not any more."""
        for call in self._calls.values():
            if fd in call.pipes:
                try:
                    data = posix.read(fd, channel.READ)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if data:
                    self._pass_on(call, call.pipes[fd], data)
                else:
                    self._close(call, fd)
                return

    def finish(self, call: "ledger.Call") -> None:
        """Pass on what the call has left, until nothing is there, never until the end: what escaped may hold a pipe for ever."""
        for fd, stream in list(call.pipes.items()):
            left = _MOST_LEFT
            while left > 0:
                try:
                    data = posix.read(fd, channel.READ)
                except OSError:
                    break
                if not data:
                    break
                left -= len(data)
                self._take_down(call, stream, data)
            self._close(call, fd)
        self._send_held(call)

    def go_on(self) -> None:
        """Read again, if the near side has caught up."""
        if self.paused and not self._channel.is_full:
            self._pause(False)

    def _pass_on(self, call: "ledger.Call", stream: str, data: bytes) -> None:
        self._take_down(call, stream, data)
        if call.overflows:
            from . import ending

            ending.end(call, "output")
        if self._channel.is_full:
            self._channel.flush()
        if self._channel.is_full:
            self._pause(True)

    def _take_down(self, call: "ledger.Call", stream: str, data: bytes) -> None:
        call.seen[stream] += len(data)
        if stream != "reply":
            self._channel.send(_STREAMS[stream], call.number, data)
            return
        if call.settled:
            return  # it has answered
        call.follow(data)
        call.held += data
        if call.answered or call.setup["stream"] or len(call.held) > records.LONGEST_PREFACE:
            # The preface alone is nobody's hurry: the near side need not wake up for it.
            self._send_held(call)
        if call.wants_socket:
            call.asked = True
            self._send_held(call)
            self._channel.ask_for_socket(call.number)
        if call.returned and call.is_done:
            self._settle(call)

    def _settle(self, call: "ledger.Call") -> None:
        """What is left to be said of the call is no reason to keep its caller waiting."""
        for fd, stream in list(call.pipes.items()):
            if stream != "reply":
                # What the function has written comes before what it returned.
                self.read(fd)
        call.settled = True
        if not call.setup["limits"]:
            call.next_look = None
        call.deadline = time.monotonic() + _LONGEST_EXIT
        self._channel.send(frames.ANSWERED, call.number)

    def _send_held(self, call: "ledger.Call") -> None:
        if call.held:
            self._channel.send(frames.REPLY, call.number, call.held)
            call.held = b""

    def _pause(self, paused: bool) -> None:
        for call in self._calls.values():
            for fd in call.pipes:
                # poll(2) reports a hang-up even when nothing is asked for, so a paused pipe is taken out altogether.
                try:
                    self._poll.unregister(fd)
                except KeyError:
                    pass
                if not paused:
                    self._poll.register(fd, select.POLLIN)
        self.paused = paused

    def _close(self, call: "ledger.Call", fd: int) -> None:
        del call.pipes[fd]
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass
        posix.close(fd)
