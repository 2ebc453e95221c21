"""One opened transport chain with a supervisor at its far end.

A session speaks the protocol of worker/frames.py over a :class:`~deliveryboy_ng.wire.Wire`.  It is driven by the thread
that uses it: there is no thread and no event loop of its own.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import hops
from .exceptions import CallCancelled, ConnectionLost, DeliveryTransportError, HandshakeError, InterpreterTooOld
from .hops import Failure
from .transports import Transport, lane_of, wrap
from .wire import LINGER, TAIL, Wire
from .worker import frames
from .workertext import command_line, worker_lines

__all__ = ["Ending", "Greeting", "Parcel", "Session"]

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
        self._requests: deque[str] = deque() if requests is None else requests
        self._damage = ""
        self._start(detached)

    def _start(self, detached: bool) -> None:
        try:
            self._wire = Wire(self.argv, detached)
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or str(error)
            if isinstance(error, (FileNotFoundError, PermissionError)):
                failure = Failure(self.chain, self.argv, self.executable, None, "", b"")
                raise hops.not_found(failure, self.argv[0], words) from error
            raise DeliveryTransportError(
                f"the transport cannot be started: {words}\n{hops.evidence(self.argv, None, '')}",
                argv=self.argv,
                real_exception=error,
            ) from error

    @property
    def pid(self) -> int:
        """PID of the transport's process, or of the interpreter where there is no transport."""
        return self._wire.pid

    @property
    def stderr(self) -> str:
        """The last of what the transport wrote to stderr, and what was wrong with its stdout."""
        return self._wire.stderr + self._damage

    def poke(self) -> None:
        """Make the driving thread look at the requests; from any thread or signal handler."""
        self._wire.poke()

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
            if self._has_ended():
                raise self._no_greeting(None)
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._no_greeting(patience)
            self._wire.pump(left)

    def _no_greeting(self, waited: float | None) -> BaseException:
        if waited is None:
            self._wire.drain_stderr()
            if not self._wire.await_exit(LINGER):
                waited = LINGER
        returncode = self._wire.returncode
        return hops.diagnose(Failure(self.chain, self.argv, self.executable, returncode, self.stderr, bytes(self.noise), waited))

    def _welcome(self, hello: bytes) -> Greeting:
        try:
            _, protocol, version, magic, terminal = hello.decode().split()
            greeting = Greeting(int(version, 16), bytes.fromhex(magic[1:]), terminal == "1")
        except ValueError:
            raise HandshakeError(f"the far side's greeting makes no sense: {hello[:200]!r}", argv=self.argv) from None
        if greeting.hexversion < _OLDEST or int(protocol) != frames.PROTOCOL:
            raise InterpreterTooOld(
                f"{self.executable} on the far side is Python {greeting.python}; 3.8 or later is needed, "
                f"name another with executable=\n{hops.evidence(self.argv, self._wire.returncode, self.stderr)}",
                hop=self.chain[-1].name,
                argv=self.argv,
                stderr=self.stderr,
            )
        lane = "narrow" if greeting.terminal else lane_of(self.chain)
        self._encoder = frames.Encoder(self._nonce, frames.TO_FAR, lane)
        if lane == "binary":
            self._decoder = frames.RawDecoder()
        self._wire.send(worker_lines(self._nonce, greeting.magic, lane))
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
        self._wire.send(self._lines_of(parcel))
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
            if self._has_ended() or (time.monotonic() >= ending.patience and not self._wire.pump(0)):
                ending.lost = self._connection_lost()
                break
            self._wire.pump(None if ending.patience == math.inf else max(0.0, ending.patience - time.monotonic()))
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
            if not ending.overlong:
                ending.reply += payload
                if len(ending.reply) > most:
                    ending.overlong = True
                    ending.reply.clear()
                    self._kill(ending)
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
                self._wire.send(self._encoder.pieces(frames.SIGNAL, 1, b"interrupt"))

    def _kill(self, ending: Ending) -> None:
        self._wire.send(self._encoder.pieces(frames.SIGNAL, 1, b"kill"))
        self._give_up_after(ending, _STALLED)

    @staticmethod
    def _give_up_after(ending: Ending, seconds: float) -> None:
        ending.patience = min(ending.patience, time.monotonic() + seconds)

    def _connection_lost(self) -> ConnectionLost:
        self._wire.drain_stderr()
        self._wire.await_exit(LINGER)
        returncode = self._wire.returncode
        return ConnectionLost(
            "the connection to the far side was lost during the call; whether the function ran to its end is unknown, and where "
            "the far side's supervisor died its processes may remain\n"
            + hops.evidence(self.argv, returncode, self.stderr, bytes(self.noise)),
            hop=self.chain[0].name,
            argv=self.argv,
            returncode=returncode,
            stderr=self.stderr,
        )

    def _take(self) -> Iterator[tuple[int, int, bool, bytes]]:
        """The events that have come, less noise, which is kept."""
        try:
            while self._wire.received:
                for event in self._decoder.feed(self._wire.received.popleft()):
                    if event[0] == frames.NOISE:
                        self._note_noise(event[3])
                    else:
                        yield event
        except frames.FrameError as error:
            self._damage = f"\ndeliveryboy: {error}\n"

    def _has_ended(self) -> bool:
        if self._wire.ended:
            for event in self._decoder.close():
                self._note_noise(event[3])
        return self._wire.ended or bool(self._damage)

    def _note_noise(self, noise: bytes) -> None:
        self.noise += noise
        del self.noise[:-TAIL]
        if self.on_noise is not None:
            self.on_noise(noise)

    # --- the end --------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Leave the far side to itself."""
        self._wire.abandon()

    def close(self) -> None:
        """Hang up and see the transport end; the far side's supervisor then kills what is left there."""
        self._wire.close()


def describe(chain: Sequence[Transport]) -> str:
    """The chain in words."""
    return " -> ".join(hop.name for hop in chain)
