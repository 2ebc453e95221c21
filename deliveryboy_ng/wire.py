"""The transport's process and the pipes to it: bytes out, bytes in, and an orderly end.

A wire is driven by the thread that uses it, which waits in :meth:`Wire.pump`; from other threads and from signal handlers
only :meth:`Wire.poke` may be called.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from .exceptions import CallCancelled
from .interrupts import uninterrupted
from .worker import bulk
from .worker.system import LONGEST_POLL, nameless_file

__all__ = ["LINGER", "Lent", "Wire"]

LINGER = 1.0
"""Seconds that a transport is given to end, or to say its last words."""

TAIL = 1 << 14
"""Bytes kept of what a transport says on stderr."""

_READ = 1 << 16
_PIPE = 1 << 19
# How often a socket for what is large is read or written until others have their turn.
_TURNS = 64

_live: weakref.WeakSet[Wire] = weakref.WeakSet()
# No other thread forks the caller while one starts a process: its child would keep the far ends of the pipes.
_starting = threading.RLock()
_forking = threading.local()
# Processes that have been left to themselves.
_unwaited: list[subprocess.Popen[bytes]] = []
# Seconds.
_LONGEST_START = 2.0


def _forget_in_child() -> None:
    """A child that the caller forks would keep the wire open after the caller's death: close its copies."""
    for wire in list(_live):
        # A thread that does not exist here may have held it.
        wire._lock = threading.RLock()
        wire.forget()
        wire.is_inherited = True


os.register_at_fork(after_in_child=_forget_in_child)


def _wait_for_starts() -> None:
    # Not for ever: a thread may hold for it what another hook waits for.
    _forking.has_waited = _starting.acquire(timeout=_LONGEST_START)


def _let_others_start() -> None:
    if _forking.has_waited:
        _starting.release()


def _begin_in_child() -> None:
    global _starting
    _starting = threading.RLock()


os.register_at_fork(before=_wait_for_starts, after_in_parent=_let_others_start, after_in_child=_begin_in_child)


class Wire:
    """One started transport.

    :ivar received: what came on its stdout, not yet taken
    :ivar total: bytes that came so far, on stderr too
    :ivar ended: whether its stdout has ended
    :ivar written: bytes that the process has taken
    :ivar passes_descriptors: whether its stdin is a socket, by which others can be passed
    :ivar is_inherited: whether it belongs to the process that this one was forked from
    """

    def __init__(self, argv: Sequence[str], detached: bool, passes_descriptors: bool) -> None:
        """Start the process.

        :param detached: let it keep its stderr when this side closes its ends
        :param passes_descriptors: make its stdin a socket, by which others can be passed
        :raises OSError: if it cannot be started
        :raises ValueError: if the command line cannot be
        """
        self.received: deque[bytes] = deque()
        self.total = 0
        self.ended = False
        self.written = 0
        self._sending: deque[Iterator[bytes]] = deque()
        self._unsent = memoryview(b"")
        self._held: _Accompanied | None = None
        self._waits_for_room = False
        self._passing: list[int] = []
        self._stderr = bytearray()
        self._lock = threading.RLock()
        self._fds: dict[str, int] = {}
        self.passes_descriptors = passes_descriptors
        self._lent: dict[int, Lent] = {}
        self._poll = select.poll()
        self.is_inherited = False
        _live.add(self)
        try:
            with _starting:
                _unwaited[:] = [process for process in _unwaited if process.poll() is None]
                self._start(argv, detached)
        except BaseException:
            # Whatever was started reads the end of its stdin, and leaves.
            self.forget()
            raise

    @uninterrupted
    def _start(self, argv: Sequence[str], detached: bool) -> None:
        far: list[int] = []
        try:
            self._fds["wake"], self._fds["poke"] = os.pipe()
            if self.passes_descriptors:
                far_in, self._stdin = _sockets()
                self._fds["stdin"] = self._stdin.fileno()
            else:
                far_in, self._fds["stdin"] = os.pipe()
            far.append(far_in)
            self._fds["stdout"], far_out = os.pipe()
            far.append(far_out)
            if detached:
                # The transport may still write when nobody reads any more.
                self._fds["log"] = nameless_file()
                # A copy: who starts processes by a fork of the caller has let go of this one there.
                far_err = os.dup(self._fds["log"])
                far.append(far_err)
            else:
                self._fds["stderr"], far_err = os.pipe()
                far.append(far_err)
            for fd in self._fds.values():
                os.set_blocking(fd, False)
            if not self.passes_descriptors:
                _enlarge(self._fds["stdin"])
            # A session of its own: Ctrl-C shall reach the call as a frame, not kill ssh or sudo first.
            self._process = subprocess.Popen(
                argv, stdin=far_in, stdout=far_out, stderr=far_err, start_new_session=True, env=_environment()
            )
        finally:
            for fd in far:
                os.close(fd)
        for name in ("wake", "stdout", "stderr"):
            if name in self._fds:
                self._poll.register(self._fds[name], select.POLLIN)

    @property
    def pid(self) -> int:
        """PID of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How the process ended, or None while it runs."""
        return self._process.poll()

    @property
    def stderr(self) -> str:
        """The last of what the process wrote to stderr."""
        if "log" in self._fds:
            self._stderr = bytearray(os.pread(self._fds["log"], TAIL, max(0, os.fstat(self._fds["log"]).st_size - TAIL)))
        return self._stderr.decode("utf-8", "backslashreplace")

    def poke(self) -> None:
        """Make the thread that waits in :meth:`pump` come back; never blocks."""
        with self._lock:
            fd = self._fds.get("poke")
            if fd is not None:
                try:
                    os.write(fd, b"!")
                except OSError:
                    pass  # it is full, or a signal has come while all is being closed

    # --- input and output ----------------------------------------------------------------------------------------

    def send(self, pieces: Iterator[bytes]) -> None:
        """Queue bytes, which are made only as fast as the process takes them."""
        self._sending.append(pieces)

    def lend(
        self,
        frame: bytes,
        instead: bytes,
        use: Callable[[socket.socket], bulk.Sender | bulk.Receiver],
        moved: Callable[[int], object],
    ) -> Lent | None:
        """Queue a frame with the descriptor of one end of a new socket; this side has the other.

        :param instead: the frame that goes if there can be no more descriptors; the far side makes do
        :param use: gets that
        :param moved: is told how many bytes have gone or come
        """
        try:
            far, near = _sockets()
        except OSError:
            self.send(iter([instead]))
            return None
        lent = self._lent[near.fileno()] = Lent(near, use(near), moved, self._take_back)
        self._poll.register(near, select.POLLOUT if isinstance(lent.user, bulk.Sender) else select.POLLIN)
        self._passing.append(far)
        self.send(iter([_Accompanied.of(frame, instead, far)]))
        return lent

    def _take_back(self, fd: int) -> None:
        del self._lent[fd]
        try:
            self._poll.unregister(fd)
        except KeyError:
            pass

    def pump(self, seconds: float | None) -> bool:
        """One turn of writing, waiting and reading; false if nothing happened in time.

        :raises CallCancelled: in a process that was forked from the one that it belongs to
        """
        if self.is_inherited:
            raise CallCancelled("this call belongs to the process that this one was forked from")
        written = self.written
        if self._sending and not self._waits_for_room:
            self._write()
        found = self._poll.poll(None if seconds is None else min(seconds * 1000, LONGEST_POLL))
        names = {fd: name for name, fd in self._fds.items()}
        for fd, _ in found:
            if fd in self._lent:
                self._lent[fd].turn()
                continue
            name = names[fd]
            if name == "stdin":
                self._write()
            elif name == "stdout":
                self._read_stdout()
            elif name == "stderr":
                self._read_stderr()
            else:
                os.read(fd, 512)
        return bool(found) or self.written > written

    def drain_stderr(self) -> None:
        """The transport's last words may come a moment after the end of its stdout."""
        deadline = time.monotonic() + LINGER
        while "stderr" in self._fds and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._fds["stderr"], select.POLLIN)
            if not poll.poll(left * 1000) or not self._read_stderr():
                return

    def _read_stdout(self) -> None:
        try:
            data = os.read(self._fds["stdout"], _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received.append(data)
            self.total += len(data)
        else:
            self.ended = True
            self._close("stdout")

    def _read_stderr(self) -> bool:
        try:
            data = os.read(self._fds["stderr"], _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self.total += len(data)
            self._stderr += data
            del self._stderr[:-TAIL]
        else:
            self._close("stderr")
        return bool(data)

    def _write(self) -> None:
        if "stdin" not in self._fds:
            return
        try:
            while True:
                if not self._unsent:
                    piece = self._held or self._next_piece()
                    if piece is None:
                        self._wait_for_room(False)
                        return
                    if isinstance(piece, _Accompanied):
                        self._held = piece
                        piece = piece.send(self._stdin)
                        self._passing.remove(self._held.fd)
                        os.close(self._held.fd)
                        self._held = None
                    self._unsent = memoryview(piece)
                if self.passes_descriptors:
                    written = self._stdin.send(self._unsent, socket.MSG_NOSIGNAL)
                else:
                    written = os.write(self._fds["stdin"], self._unsent)
                self.written += written
                self._unsent = self._unsent[written:]
        except BlockingIOError:
            self._wait_for_room(True)
        except OSError:
            # A broken pipe is no news: the end of stdout follows, with the reason on stderr.
            self._sending.clear()
            self._held, self._unsent = None, memoryview(b"")
            self._close("stdin")

    def _wait_for_room(self, waits: bool) -> None:
        if waits and not self._waits_for_room:
            self._poll.register(self._fds["stdin"], select.POLLOUT)
        elif self._waits_for_room and not waits:
            self._poll.unregister(self._fds["stdin"])
        self._waits_for_room = waits

    def _next_piece(self) -> bytes | None:
        while self._sending:
            piece = next(self._sending[0], None)
            if piece is not None:
                return piece
            self._sending.popleft()
        return None

    # --- the end --------------------------------------------------------------------------------------------------

    def _close(self, name: str) -> None:
        with self._lock:
            fd = self._fds.pop(name, None)
            if fd is None:
                return
            try:
                self._poll.unregister(fd)
            except KeyError:
                pass
            if name == "stdin" and self.passes_descriptors:
                self._stdin.close()
            else:
                os.close(fd)

    @uninterrupted
    def forget(self) -> None:
        """Close the descriptors and nothing more."""
        for lent in list(self._lent.values()):
            lent.close()
        while self._passing:
            os.close(self._passing.pop())
        for name in list(self._fds):
            self._close(name)
        _live.discard(self)

    def abandon(self) -> None:
        """Leave the process to itself; a thread waits for its end, or, where there can be none, the next start does."""
        self.forget()
        try:
            threading.Thread(target=self._process.wait, name=f"deliveryboy reaper of {self.pid}", daemon=True).start()
        except RuntimeError:
            with _starting:
                _unwaited.append(self._process)

    @uninterrupted
    def close(self) -> None:
        """Hang up and see the process end; what does not end by itself is terminated."""
        try:
            self._close("stdin")
            if not self.await_exit(LINGER):
                self._terminate()
        finally:
            self.forget()

    def _terminate(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                # sudo belongs to root; it ends when its command, which has been hung up on, does.
                pass
            if self.await_exit(LINGER):
                return

    def await_exit(self, seconds: float) -> bool:
        """Whether the process ends within that time."""
        if self._process.poll() is not None:
            return True
        try:
            fd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                return False
            return True
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            with contextlib.suppress(OSError):  # for want of memory
                poll.poll(seconds * 1000)
        finally:
            os.close(fd)
        return self._process.poll() is not None


class Lent:
    """This side's end of a socket of which a call has the other.

    :ivar user: what it is read or written by
    """

    def __init__(
        self,
        end: socket.socket,
        user: bulk.Sender | bulk.Receiver,
        moved: Callable[[int], object],
        closed: Callable[[int], object],
    ) -> None:
        self.user = user
        self._end = end
        self._moved, self._closed = moved, closed

    def turn(self, times: int = _TURNS) -> bool:
        """Read or write what can be; whether there may be more."""
        try:
            for _ in range(times):
                size = self.user.turn()
                self._moved(size)
                if self.user.is_done or not size:
                    break
            else:
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass  # the call is no more, and that will be told
        self.close()
        return False

    def finish(self) -> None:
        """Take what has come, and close."""
        while self._end.fileno() >= 0 and isinstance(self.user, bulk.Receiver) and self.turn():
            pass
        self.close()

    def close(self) -> None:
        """Also in a child that the caller has forked, which has copies of all descriptors."""
        if self._end.fileno() >= 0:
            self._closed(self._end.fileno())
            self._end.close()


class _Accompanied(bytes):
    """A frame, and a descriptor that goes with it; and the frame that goes if it cannot."""

    fd: int
    instead: bytes

    @classmethod
    def of(cls, frame: bytes, instead: bytes, fd: int) -> _Accompanied:
        made = cls(frame)
        made.instead, made.fd = instead, fd
        return made

    def send(self, wire: socket.socket) -> bytes:
        """What could not be written at once of the frame; its descriptor goes with the first byte.

        :raises BlockingIOError: if nothing can be written now
        """
        try:
            return self[socket.send_fds(wire, [self], [self.fd], socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            raise
        except OSError:
            # There may be too many descriptors on their way (unix(7), ETOOMANYREFS); what else it may be shows in the next write.
            return self.instead


def _sockets() -> tuple[int, socket.socket]:
    """Two connected ones: the far end, and this side's."""
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (far, near):
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, bulk.BUFFER)
        except OSError:
            pass  # in a call without network that delivers further
    # Whatever time limit the caller has given to all new sockets: over there it would be an error to have to wait.
    os.set_blocking(far.fileno(), True)
    near.setblocking(False)
    return far.detach(), near


def _enlarge(pipe: int) -> None:
    """Let the whole worker fit into the pipe at once (fcntl(2), Linux): less waiting for each other."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
    except (ImportError, AttributeError, OSError):
        pass


def _environment() -> dict[str, str]:
    """The caller's environment, with the transports' messages in English: errors are read from them."""
    return {**os.environ, "LANGUAGE": "C"}
