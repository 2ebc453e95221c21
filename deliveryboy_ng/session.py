"""One opened transport chain with a supervisor at its far end.

A session owns the transport's process and three pipes to it.  It is driven by the thread that uses it: there is no
thread and no event loop of its own.  Other threads, and signal handlers, reach it through :meth:`Session.request` alone.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import hops
from .exceptions import CallCancelled, ConnectionLost, DeliveryTransportError, HandshakeError, InterpreterTooOld
from .hops import Failure
from .transports import Transport, lane_of, wrap
from .worker import frames
from .worker.supervisor import LONGEST_POLL
from .workertext import command_line, worker_lines

__all__ = ["Ending", "Greeting", "Parcel", "Session"]

_READ = 1 << 16
_PIPE = 1 << 18
_TAIL = 1 << 14
_LINGER = 1.0
# The far side keeps the time; this side only steps in when nothing is heard of it for so long after it should have.
_STALLED = 5.0
_OLDEST = 0x03080000


@dataclass(frozen=True)
class Greeting:
    """What the far side said of itself."""

    hexversion: int
    magic: bytes
    terminal: bool

    @property
    def python(self) -> str:
        return f"{self.hexversion >> 24}.{self.hexversion >> 16 & 255}.{self.hexversion >> 8 & 255}"


@dataclass(frozen=True)
class Parcel:
    """One call as it goes over the wire."""

    setup: Mapping[str, Any]
    modules: bytes
    body: bytes
    input: bytes | bytearray | memoryview


@dataclass
class Ending:
    """What came back of one call."""

    remote_pid: int | None = None
    host: str = ""
    reply: bytearray = field(default_factory=bytearray)
    verdict: dict[str, str] | None = None
    refused: str = ""
    interrupts: int = 0
    cancelled: bool = False
    overlong: bool = False
    lost: ConnectionLost | None = None
    patience: float = math.inf


_live: weakref.WeakSet[Session] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A child that the caller forks would keep the wire open after the caller's death: close its copies."""
    for session in list(_live):
        # A thread that does not exist here may have held it.
        session._lock = threading.RLock()
        session.forget()


os.register_at_fork(after_in_child=_forget_in_child)


class Session:
    """Starts the chain; see :meth:`greet`, :meth:`deliver`, :meth:`close`."""

    def __init__(
        self, chain: tuple[Transport, ...], executable: str, detached: bool = False, requests: deque[str] | None = None
    ) -> None:
        """Start the transport's process.

        :param requests: where ``"interrupt"`` and ``"kill"`` are asked for; :meth:`poke` makes the session look
        :raises DeliveryTransportError: if its command cannot be started
        """
        self.chain = chain
        self.executable = executable
        self._nonce = os.urandom(8).hex().encode()
        self.argv = tuple(wrap(chain, command_line(executable, self._nonce.decode())))
        self.noise = bytearray()
        self.on_noise: Callable[[bytes], object] | None = None
        self._decoder: frames.Decoder | frames.RawDecoder = frames.Decoder(self._nonce, frames.TO_NEAR)
        self._events: deque[tuple[int, int, bool, bytes]] = deque()
        self._sending: deque[Iterator[bytes]] = deque()
        self._unsent = memoryview(b"")
        self._stderr = bytearray()
        self._requests: deque[str] = deque() if requests is None else requests
        self._lock = threading.RLock()
        self._ended = False
        self._fds: dict[str, int] = {}
        _live.add(self)
        try:
            self._start(detached)
        except BaseException:
            # Whatever was started reads the end of its stdin, and leaves.
            self.forget()
            raise

    def _start(self, detached: bool) -> None:
        far: list[int] = []
        try:
            self._fds["wake"], self._fds["poke"] = os.pipe()
            far_in, self._fds["stdin"] = os.pipe()
            far.append(far_in)
            self._fds["stdout"], far_out = os.pipe()
            far.append(far_out)
            if detached:
                # The transport may still write when nobody reads any more.
                far_err = self._fds["log"] = _nameless_file()
            else:
                self._fds["stderr"], far_err = os.pipe()
                far.append(far_err)
            for fd in self._fds.values():
                os.set_blocking(fd, False)
            _enlarge(self._fds["stdin"])
            # A session of its own: Ctrl-C shall reach the call as a frame, not kill ssh or sudo first.
            self._process = subprocess.Popen(
                self.argv, stdin=far_in, stdout=far_out, stderr=far_err, start_new_session=True, env=_environment()
            )
        except (OSError, ValueError) as error:
            self.forget()
            words = getattr(error, "strerror", None) or str(error)
            if isinstance(error, (FileNotFoundError, PermissionError)):
                failure = Failure(self.chain, self.argv, self.executable, None, "", b"")
                raise hops.not_found(failure, self.argv[0], words) from error
            raise DeliveryTransportError(
                f"the transport cannot be started: {words}\n{hops.evidence(self.argv, None, '')}",
                argv=self.argv,
                real_exception=error,
            ) from error
        finally:
            for fd in far:
                os.close(fd)
        self._poll = select.poll()
        for name in ("wake", "stdout", "stderr"):
            if name in self._fds:
                self._poll.register(self._fds[name], select.POLLIN)

    @property
    def pid(self) -> int:
        """PID of the transport's process, or of the interpreter where there is no transport."""
        return self._process.pid

    @property
    def stderr(self) -> str:
        """The last of what the transport wrote to stderr."""
        if "log" in self._fds:
            self._stderr = bytearray(os.pread(self._fds["log"], _TAIL, max(0, os.fstat(self._fds["log"]).st_size - _TAIL)))
        return self._stderr.decode("utf-8", "backslashreplace")

    # --- from other threads and signal handlers ------------------------------------------------------------------

    def poke(self) -> None:
        """Make the driving thread look at the requests; never blocks."""
        with self._lock:
            fd = self._fds.get("poke")
            if fd is not None:
                try:
                    os.write(fd, b"!")
                except BlockingIOError:
                    pass

    # --- the exchange --------------------------------------------------------------------------------------------

    def greet(self, patience: float) -> Greeting:
        """Wait for the far side's greeting and send it the worker.

        :param patience: seconds to wait
        :raises DeliveryTransportError: if the transport ends, or another than a usable interpreter answers
        :raises KeyboardInterrupt: if an interrupt was requested
        :raises CallCancelled: if a kill was
        """
        deadline = time.monotonic() + patience
        while True:
            for kind, _, _, payload in self._take():
                if kind == frames.HELLO:
                    return self._welcome(payload)
            if self._requests:
                raise KeyboardInterrupt if self._requests[0] == "interrupt" else CallCancelled("cancelled before it began")
            left = deadline - time.monotonic()
            if left <= 0 and not self._ended:
                raise self._no_greeting(patience)
            if not self._pump(max(left, 0)) or self._ended:
                if any(event[0] == frames.HELLO for event in self._events):
                    continue
                if self._ended:
                    raise self._no_greeting(None)

    def _no_greeting(self, waited: float | None) -> BaseException:
        if waited is None:
            self._drain_stderr()
            if not self._await_exit(_LINGER):
                waited = _LINGER
        returncode = self._process.poll()
        return hops.diagnose(Failure(self.chain, self.argv, self.executable, returncode, self.stderr, bytes(self.noise), waited))

    def _welcome(self, hello: bytes) -> Greeting:
        try:
            _, protocol, version, magic, _, terminal = hello.decode().split()
            greeting = Greeting(int(version, 16), bytes.fromhex(magic[1:]), terminal == "1")
        except ValueError:
            raise HandshakeError(f"the far side's greeting makes no sense: {hello[:200]!r}", argv=self.argv) from None
        if greeting.hexversion < _OLDEST or int(protocol) != frames.PROTOCOL:
            raise InterpreterTooOld(
                f"{self.executable} on the far side is Python {greeting.python}; 3.8 or later is needed, "
                f"name another with executable=\n{hops.evidence(self.argv, self._process.poll(), self.stderr)}",
                hop=self.chain[-1].name,
                argv=self.argv,
                stderr=self.stderr,
            )
        lane = "narrow" if greeting.terminal else lane_of(self.chain)
        self._encoder = frames.Encoder(self._nonce, frames.TO_FAR, lane)
        if lane == "binary":
            self._decoder = frames.RawDecoder()
        self._send(worker_lines(self._nonce, greeting.magic, lane))
        return greeting

    def deliver(
        self, parcel: Parcel, output: Callable[[str, bytes], object], most: int, started: Callable[[Ending], object]
    ) -> Ending:
        """Send one call and wait for its verdict.

        :param output: gets ``("stdout" or "stderr", bytes)`` as it comes
        :param most: bytes that the reply may have; a larger one ends the call
        :param started: is told as soon as the call's process runs; if it returns true, the rest is not waited for
        """
        ending = Ending()
        self._send(self._lines_of(parcel))
        while True:
            for kind, _, _, payload in self._take():
                self._note(ending, kind, payload, output, most)
                if ending.patience != math.inf:
                    ending.patience = max(ending.patience, time.monotonic() + _STALLED)
                if kind == frames.STARTED:
                    if started(ending):
                        return ending
                    if parcel.setup["timeout"] is not None:
                        self._give_up_after(ending, parcel.setup["timeout"] + parcel.setup["grace"] + _STALLED)
            if ending.verdict is not None or ending.refused:
                break
            self._pass_on_requests(ending)
            if self._ended or (time.monotonic() >= ending.patience and not self._pump(0)):
                ending.lost = self._connection_lost()
                break
            self._pump(None if ending.patience == math.inf else max(0.0, ending.patience - time.monotonic()))
        return ending

    def _lines_of(self, parcel: Parcel) -> Iterator[bytes]:
        import marshal

        yield from self._encoder.pieces(frames.SETUP, 1, marshal.dumps(dict(parcel.setup), 2))
        yield from self._encoder.pieces(frames.MODULES, 1, parcel.modules)
        yield from self._encoder.pieces(frames.BODY, 1, parcel.body)
        if parcel.input:
            yield from self._encoder.pieces(frames.INPUT, 1, parcel.input)
        yield from self._encoder.pieces(frames.START, 1)

    def _note(self, ending: Ending, kind: int, payload: bytes, output: Callable[[str, bytes], object], most: int) -> None:
        if kind == frames.STDOUT:
            output("stdout", payload)
        elif kind == frames.STDERR:
            output("stderr", payload)
        elif kind == frames.REPLY:
            if len(ending.reply) + len(payload) > most:
                if not ending.overlong:
                    self._kill(ending)
                ending.overlong = True
                ending.reply.clear()
            else:
                ending.reply += payload
        elif kind == frames.STARTED:
            pid, _, host = payload.decode("ascii", "replace").partition(" ")
            ending.remote_pid, ending.host = int(pid), host
        elif kind == frames.VERDICT:
            ending.verdict = dict(item.partition("=")[::2] for item in payload.decode("ascii", "replace").split())
        elif kind == frames.REFUSED:
            ending.refused = payload.decode("utf-8", "replace")

    def _pass_on_requests(self, ending: Ending) -> None:
        while self._requests:
            what = self._requests.popleft()
            ending.interrupts += what == "interrupt"
            if what == "kill" or ending.interrupts > 1:
                ending.cancelled = ending.cancelled or what == "kill"
                self._kill(ending)
            else:
                self._send(self._encoder.pieces(frames.SIGNAL, 1, b"interrupt"))

    def _kill(self, ending: Ending) -> None:
        self._send(self._encoder.pieces(frames.SIGNAL, 1, b"kill"))
        self._give_up_after(ending, _STALLED)

    @staticmethod
    def _give_up_after(ending: Ending, seconds: float) -> None:
        ending.patience = min(ending.patience, time.monotonic() + seconds)

    def _connection_lost(self) -> ConnectionLost:
        self._drain_stderr()
        self._await_exit(_LINGER)
        returncode = self._process.poll()
        return ConnectionLost(
            "the connection to the far side was lost during the call; whether the function ran to its end is unknown, and where "
            "the far side's supervisor died its processes may remain\n"
            + hops.evidence(self.argv, returncode, self.stderr, bytes(self.noise)),
            hop=self.chain[0].name,
            argv=self.argv,
            returncode=returncode,
            stderr=self.stderr,
        )

    # --- input and output ----------------------------------------------------------------------------------------

    def _send(self, lines: Iterator[bytes]) -> None:
        """Queue lines, which are made only as fast as the wire takes them."""
        self._sending.append(lines)
        if "stdin" in self._fds:
            self._poll.register(self._fds["stdin"], select.POLLOUT)

    def _take(self) -> Iterator[tuple[int, int, bool, bytes]]:
        while self._events:
            event = self._events.popleft()
            if event[0] == frames.NOISE:
                self.noise += event[3]
                del self.noise[:-_TAIL]
                if self.on_noise is not None:
                    self.on_noise(event[3])
            else:
                yield event

    def _pump(self, seconds: float | None) -> bool:
        """One turn of waiting, reading and writing; false if nothing happened in time."""
        found = self._poll.poll(None if seconds is None else min(seconds * 1000, LONGEST_POLL))
        names = {fd: name for name, fd in self._fds.items()}
        for fd, _ in found:
            name = names[fd]
            if name == "stdin":
                self._write()
            elif name == "stdout":
                self._read_stdout()
            elif name == "stderr":
                self._read_stderr()
            else:
                os.read(fd, 512)
        return bool(found)

    def _read_stdout(self) -> None:
        try:
            data = os.read(self._fds["stdout"], _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            self._events += self._decoder.feed(data) if data else self._decoder.close()
        except frames.FrameError as error:
            self._stderr += f"\ndeliveryboy: {error}\n".encode()
            data = b""
        if not data:
            self._ended = True
            self._close("stdout")

    def _read_stderr(self) -> bool:
        try:
            data = os.read(self._fds["stderr"], _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._stderr += data
            del self._stderr[:-_TAIL]
        else:
            self._close("stderr")
        return bool(data)

    def _drain_stderr(self) -> None:
        """The transport's last words may come a moment after the end of its stdout."""
        deadline = time.monotonic() + _LINGER
        while "stderr" in self._fds and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self._fds["stderr"], select.POLLIN)
            if not poll.poll(left * 1000) or not self._read_stderr():
                return

    def _write(self) -> None:
        try:
            while True:
                if not self._unsent:
                    line = self._next_line()
                    if line is None:
                        self._poll.unregister(self._fds["stdin"])
                        return
                    self._unsent = memoryview(line)
                self._unsent = self._unsent[os.write(self._fds["stdin"], self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            # A broken pipe is no news: the end of stdout follows, with the reason on stderr.
            self._sending.clear()
            self._unsent = memoryview(b"")
            self._close("stdin")

    def _next_line(self) -> bytes | None:
        while self._sending:
            line = next(self._sending[0], None)
            if line is not None:
                return line
            self._sending.popleft()
        return None

    # --- the end --------------------------------------------------------------------------------------------------

    def _close(self, name: str) -> None:
        with self._lock:
            fd = self._fds.pop(name, None)
            if fd is None:
                return
            if name in ("stdin", "stdout", "stderr"):
                try:
                    self._poll.unregister(fd)
                except (KeyError, AttributeError):
                    pass
            os.close(fd)

    def forget(self) -> None:
        """Close the descriptors and nothing more."""
        for name in list(self._fds):
            self._close(name)

    def abandon(self) -> None:
        """Leave the far side to itself; a thread waits for the transport's end, so that no zombie stays."""
        self.forget()
        _live.discard(self)
        threading.Thread(target=self._process.wait, name=f"deliveryboy reaper of {self.pid}", daemon=True).start()

    def close(self) -> None:
        """Hang up and see the transport's process end; the far side's supervisor then kills what is left there."""
        self._close("stdin")
        try:
            if not self._await_exit(_LINGER):
                self._terminate()
        finally:
            self.forget()
            _live.discard(self)

    def _terminate(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                # sudo belongs to root; it ends when its command, which has been hung up on, does.
                pass
            if self._await_exit(_LINGER):
                return

    def _await_exit(self, seconds: float) -> bool:
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
            poll.poll(seconds * 1000)
        finally:
            os.close(fd)
        return self._process.poll() is not None


def _enlarge(pipe: int) -> None:
    """Let the whole worker fit into the pipe at once (fcntl(2), Linux): less waiting for each other."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
    except (ImportError, AttributeError, OSError):
        pass


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("deliveryboy", os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> dict[str, str]:
    """The caller's environment, with the transports' messages in English: errors are read from them."""
    return {**os.environ, "LANGUAGE": "C"}


def describe(chain: Sequence[Transport]) -> str:
    """The chain in words."""
    return " -> ".join(hop.name for hop in chain)
