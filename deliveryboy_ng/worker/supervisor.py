"""The supervisor: opens the wire on the far side, forks one process a call, and alone tells what became of it.

Contract: far side, standard library only, Python 3.8+.  ``main(nonce, lane, pending)`` is entered once by the assembler.
Stdin carries frames to this side, stdout frames to the near side; stderr is left alone.  It never runs, unpickles or
imports anything of the caller's: that is done in the call process (call.py), whose output, reply and end it relays.
When stdin ends, or the wire breaks, everything it started is killed and it leaves.

Frames of a call, to here:     SETUP (marshalled dict), MODULES (marshalled dict), BODY (pickle), INPUT (stdin), START
                               SIGNAL b"interrupt" or b"kill"
Frames of a call, from here:   STARTED pid host, STDOUT, STDERR, REPLY, VERDICT key=value ..., REFUSED text
"""

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import select
import sys
import time

from . import call as call_process
from . import frames, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ = 1 << 16
# Above this many bytes waiting for a slow near side, the calls' pipes are left to fill: back-pressure instead of memory.
BACKLOG = 1 << 20
_HANDLED = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP)
_STREAMS = {"stdout": frames.STDOUT, "stderr": frames.STDERR, "reply": frames.REPLY}


class Call:
    """One call under way: its parts until it starts, then its process, pipes and timers."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts: "dict[int, list[bytes]]" = {}
        self.setup: "dict[str, Any]" = {}
        self.pid = 0
        self.pipes: "dict[int, str]" = {}
        self.interrupts = 0
        self.answered = False
        self.started = 0.0
        self.deadline: "float | None" = None
        self.ending = ""
        self.status: "int | None" = None
        self.usage: "tuple[float, float, int] | None" = None

    def part(self, kind: int) -> bytes:
        return b"".join(self.parts.pop(kind, []))


class Supervisor:
    """Owns the wire, the clock and every process below it."""

    def __init__(self, nonce: bytes, lane: str) -> None:
        self.decoder = frames.decoder(nonce, frames.TO_FAR, lane)
        self.encoder = frames.Encoder(nonce, frames.TO_NEAR, lane)
        # A line must leave in one write, or another writer's bytes might get into it.
        self.at_once = READ if lane == "binary" else frames.PIPE_BUF
        self.outgoing: "list[bytes]" = []
        self.waiting = 0
        self.calls: "dict[int, Call]" = {}
        self.detached = False
        self.listening = True
        self.stop = False
        self.paused = False
        self.poll = select.poll()
        self.wake = self._watch_signals()
        posix.set_blocking(1, False)
        self.poll.register(self.wake, select.POLLIN)
        self.poll.register(1, 0)
        self.poll.register(0, select.POLLIN)

    @staticmethod
    def _watch_signals() -> int:
        wake, poke = posix.pipe()
        posix.set_blocking(wake, False)
        posix.set_blocking(poke, False)
        _signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in _HANDLED:
            _signal.signal(number, lambda signum, frame: None)
        # Ctrl-C reaches the call as a frame; a terminal's own SIGINT must not take the supervisor away from it.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _HANDLED)
        return wake

    def serve(self, pending: bytes) -> None:
        """Run until the near side hangs up, or says that the call just done was the last."""
        self._take(pending)
        while True:
            self._flush()
            if self.stop or not (self.listening or self.calls):
                break
            for fd, event in self.poll.poll(self._patience()):
                self._handle(fd, event)
            self._check_clock()
        self._end()

    # --- the wire -------------------------------------------------------------------------------------------------

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        if not self.detached:
            pieces = list(self.encoder.pieces(kind, number, payload))
            self.outgoing += pieces
            self.waiting += sum(map(len, pieces))

    def _flush(self) -> None:
        """Write what the wire takes now; wait for more room in poll(2)."""
        try:
            self._write()
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        if self.outgoing:
            self.poll.register(1, select.POLLOUT)
        elif not self.detached:
            # An error alone is reported without asking for it: so a broken wire is noticed while nothing is written.
            self.poll.register(1, 0)

    def _write(self) -> None:
        """Write all there is, in pieces that are not torn; raises OSError, BlockingIOError too."""
        done = 0
        try:
            while done < len(self.outgoing):
                stop, size = done + 1, len(self.outgoing[done])
                while stop < len(self.outgoing) and size + len(self.outgoing[stop]) <= self.at_once:
                    size += len(self.outgoing[stop])
                    stop += 1
                chunk = self.outgoing[done] if stop == done + 1 else b"".join(self.outgoing[done:stop])
                written = posix.write(1, chunk)
                self.waiting -= written
                done = stop
                if written < size:
                    done -= 1
                    self.outgoing[done] = chunk[written:]
        finally:
            del self.outgoing[:done]

    def _handle(self, fd: int, event: int) -> None:
        if fd == self.wake:
            self._signals()
        elif fd == 0:
            self._listen()
        elif fd == 1:
            if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                self._hang_up()
        else:
            self._relay(fd)

    def _listen(self) -> None:
        try:
            data = posix.read(0, READ)
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self.listening = False
            self.poll.unregister(0)
            if not self.detached:
                self._hang_up()

    def _hang_up(self) -> None:
        """Nobody listens any more: end everything."""
        if not self.detached:
            self._forget_outgoing()
            self.stop = True

    def _take(self, data: bytes) -> None:
        for kind, number, more, payload in self.decoder.feed(data):
            if kind in (frames.NOISE, frames.HELLO):
                continue
            if kind == frames.SIGNAL:
                self._signal_call(number, payload)
                continue
            call = self.calls.setdefault(number, Call(number))
            call.parts.setdefault(kind, []).append(payload)
            if kind == frames.SETUP and not more:
                self._set_up(call)
            elif kind == frames.START:
                self._start(call)

    def _set_up(self, call: Call) -> None:
        call.setup = marshal.loads(call.part(frames.SETUP))

    # --- calls ----------------------------------------------------------------------------------------------------

    def _start(self, call: Call) -> None:
        try:
            pipes = call_process.Pipes(call.part(frames.INPUT), bool(call.setup["detached"]))
            body, modules = call.part(frames.BODY), call.part(frames.MODULES)
            parent = posix.getpid()
            # Until the call process has let go of this one's handlers, a signal for it would be taken for one for us.
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (*_HANDLED, _signal.SIGINT))
            try:
                pid = posix.fork()
            finally:
                if posix.getpid() == parent:
                    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (*_HANDLED, _signal.SIGINT))
        except OSError as error:
            self.send(frames.REFUSED, call.number, ("the far side cannot start a process: %s" % error).encode())
            del self.calls[call.number]
            self.stop = self.stop or bool(call.setup["last"])
            return
        if pid == 0:
            # Never returns.
            call_process.main(call.setup, modules, body, pipes, parent)
        call.pid = pid
        call.started = time.monotonic()
        timeout = call.setup["timeout"]
        if timeout is not None:
            call.deadline = call.started + float(timeout)
        # What wait4() needs for its answer, while the call process is busy anyway.
        import resource  # noqa: F401

        call.pipes = pipes.near_ends()
        for fd in call.pipes:
            posix.set_blocking(fd, False)
            self.poll.register(fd, select.POLLIN)
        self.send(frames.STARTED, call.number, ("%d %s" % (pid, posix.uname().nodename)).encode())
        if call.setup["detached"]:
            self._detach()

    def _detach(self) -> None:
        """Say the last word, and need nobody from here on."""
        self._drain()
        self.detached = True
        self.poll.unregister(1)
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 1)
        posix.close(null)

    def _relay(self, fd: int) -> None:
        for call in self.calls.values():
            if fd in call.pipes:
                try:
                    data = posix.read(fd, READ)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if data:
                    self._pass_on(call, call.pipes[fd], data)
                else:
                    self._close(call, fd)
                return

    def _pass_on(self, call: Call, stream: str, data: bytes) -> None:
        call.answered = call.answered or stream == "reply"
        self.send(_STREAMS[stream], call.number, data)
        if self.waiting > BACKLOG:
            self._flush()
        if self.waiting > BACKLOG:
            self._pause(True)

    def _pause(self, paused: bool) -> None:
        for call in self.calls.values():
            for fd in call.pipes:
                # poll(2) reports a hang-up even when nothing is asked for, so a paused pipe is taken out altogether.
                try:
                    self.poll.unregister(fd)
                except KeyError:
                    pass
                if not paused:
                    self.poll.register(fd, select.POLLIN)
        self.paused = paused

    def _close(self, call: Call, fd: int) -> None:
        del call.pipes[fd]
        try:
            self.poll.unregister(fd)
        except KeyError:
            pass
        posix.close(fd)

    def _signal_call(self, number: int, what: bytes) -> None:
        call = self.calls.get(number)
        if call is None or not call.pid:
            self.stop = self.stop or what == b"kill"
        elif call.status is None:
            if what == b"interrupt":
                if not self._has_answered(call) and self._interrupt(call):
                    call.interrupts += 1
            elif what == b"kill":
                call.ending = call.ending or "cancelled"
                self._kill(call)

    def _has_answered(self, call: Call) -> bool:
        """Whether the function is over already: then no interrupt can reach it any more."""
        for fd, stream in list(call.pipes.items()):
            if stream == "reply":
                self._relay(fd)
                return call.answered
        return True

    def _interrupt(self, call: Call) -> bool:
        return system.kill_quietly(-call.pid, _signal.SIGINT) or system.kill_quietly(call.pid, _signal.SIGINT)

    def _kill(self, call: Call) -> None:
        system.kill_quietly(call.pid, system.SIGKILL)
        system.kill_quietly(-call.pid, system.SIGKILL)

    def _signals(self) -> None:
        try:
            numbers = posix.read(self.wake, 512)
        except OSError:
            return
        if _signal.SIGTERM in numbers or _signal.SIGHUP in numbers:
            self.stop = True
            return
        system.reap(self._reaped)
        for call in list(self.calls.values()):
            if call.status is not None:
                self._finish(call)

    def _reaped(self, pid: int, status: int, usage: "Any") -> None:
        for call in self.calls.values():
            if call.pid == pid:
                call.status = status
                call.usage = (usage.ru_utime, usage.ru_stime, usage.ru_maxrss)

    def _finish(self, call: Call) -> None:
        """The call process has ended: kill what it left, relay what it had written, and give the verdict.

        Its pipes are read until they are empty, never until they end: a process that escaped may hold them for ever.
        """
        others = frozenset(other.pid for other in self.calls.values() if other.pid and other.status is None)
        clean = system.kill_descendants(others, self._reaped)
        if not clean and system.kill_quietly(-call.pid, system.SIGKILL):
            # Without a /proc to find them by, at least those that stayed in the call's own process group.
            clean = system.kill_descendants(others, self._reaped, 1.0)
        for fd, stream in list(call.pipes.items()):
            left = 1 << 20
            while left > 0:
                try:
                    data = posix.read(fd, READ)
                except OSError:
                    break
                if not data:
                    break
                left -= len(data)
                self.send(_STREAMS[stream], call.number, data)
            self._close(call, fd)
        del self.calls[call.number]
        utime, stime, maxrss = call.usage or (0.0, 0.0, 0)
        words = {
            "status": call.status,
            "ending": call.ending or "none",
            "user": "%.6f" % utime,
            "system": "%.6f" % stime,
            "wall": "%.6f" % (time.monotonic() - call.started),
            "maxrss": maxrss * 1024 if sys.platform != "darwin" else maxrss,
            "interrupts": call.interrupts,
            "clean": int(clean),
        }
        self.send(frames.VERDICT, call.number, " ".join("%s=%s" % item for item in words.items()).encode())
        if call.setup["last"]:
            self.stop = True

    # --- the clock ------------------------------------------------------------------------------------------------

    def _patience(self) -> "float | None":
        if self.paused and self.waiting < BACKLOG:
            self._pause(False)
        deadlines = [call.deadline for call in self.calls.values() if call.deadline is not None]
        return min(max(0.0, min(deadlines) - time.monotonic()) * 1000 + 1, system.LONGEST_POLL) if deadlines else None

    def _check_clock(self) -> None:
        now = time.monotonic()
        for call in self.calls.values():
            if call.deadline is None or now < call.deadline or call.status is not None:
                continue
            if call.ending == "timeout":
                call.deadline = None
                self._kill(call)
            else:
                call.ending = call.ending or "timeout"
                call.deadline = now + float(call.setup["grace"])
                system.kill_quietly(call.pid, _signal.SIGTERM)

    def _end(self) -> None:
        """Leave nothing behind, then deliver what is still to be said, as long as somebody listens."""
        if self.calls:
            system.kill_descendants()
        self._drain()

    def _drain(self) -> None:
        posix.set_blocking(1, True)
        try:
            self._write()
        except OSError:
            self._forget_outgoing()

    def _forget_outgoing(self) -> None:
        self.outgoing.clear()
        self.waiting = 0


def main(nonce: bytes, lane: str, pending: bytes) -> None:
    """Serve the session and leave; never returns."""
    code = 1
    try:
        system.become_supervisor()
        call_process.import_early()
        _quiet_terminal()
        Supervisor(nonce, lane).serve(pending)
        code = 0
    except frames.FrameError as error:
        posix.write(2, ("deliveryboy: %s\n" % error).encode())
        system.kill_descendants()
    finally:
        if code and sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            system.kill_descendants()
        posix._exit(code)


def _quiet_terminal() -> None:
    """On a terminal, stop the echo and the editing of lines, which cost time and cut long lines."""
    if posix.isatty(0):
        try:
            import termios

            mode = termios.tcgetattr(0)
            mode[0] &= ~(termios.ICRNL | termios.IXON | termios.ISTRIP)
            mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except (ImportError, OSError, termios.error):
            pass
