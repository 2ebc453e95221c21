"""One opened transport chain with a supervisor at its far end.

A session speaks the protocol of worker/frames.py over a :class:`~deliveryboy_ng.wire.Wire`.  It is driven by the thread
that uses it: there is no thread and no event loop of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import hops
from .answer import Account, Reply
from .exceptions import CallCancelled, ConnectionLost, DeliveryTransportError, HandshakeError, InterpreterTooOld
from .exchange import Ending, Exchange, Line
from .hops import Failure
from .interrupts import uninterrupted
from .parcel import Parcel
from .receipt import printable
from .transports import Local, Transport, lane_of, wrap
from .wire import LINGER, TAIL, Wire
from .worker import bulk, frames
from .workertext import Kit, command_line, worker_message

__all__ = ["Greeting", "Session"]

_OLDEST = 0x03080000
_LONGEST_HELLO = 500
_LONGEST_REASON = 1 << 16
# For what is sent and for the answer; and what the call asks for itself it may not need.
_MOST_ASKED = 4


@dataclass(frozen=True)
class Greeting:
    """What the far side said of itself."""

    hexversion: int
    magic: bytes
    terminal: bool
    takes_sockets: bool = False
    machine: str = ""

    @property
    def python(self) -> str:
        return f"{self.hexversion >> 24}.{self.hexversion >> 16 & 255}.{self.hexversion >> 8 & 255}"


class Session:
    """Starts the chain; see :meth:`greet`, :meth:`begin`, :meth:`turn`, :meth:`close`.

    :ivar lost: nothing more can be expected of it
    """

    def __init__(
        self,
        chain: tuple[Transport, ...],
        executable: str,
        detached: bool,
        requests: deque[str],
        kit: Kit,
    ) -> None:
        """Start the transport's process.

        :param kit: what the supervisor needs besides what every one has
        :param requests: where ``"interrupt"`` and ``"kill"`` are asked for; :meth:`poke` makes the session look
        :raises DeliveryTransportError: if its command cannot be started
        """
        self.chain = chain
        # Whether this side holds the ends of the very pipes that the far side has.
        self._is_here = lane_of(chain) == "binary"
        self._kit = kit
        self.executable = executable
        self._nonce = os.urandom(8).hex().encode()
        self.argv = tuple(wrap(chain, command_line(executable, self._nonce.decode())))
        self.noise = bytearray()
        self.on_noise: Callable[[bytes], object] | None = None
        self._decoder: frames.Decoder | frames.RawDecoder = frames.Decoder(self._nonce, frames.TO_NEAR)
        self._requests = requests
        self._damage = ""
        self._number = 0
        self._exchanges: dict[int, Exchange] = {}
        self._line = Line(self._is_here)
        self.lost = False
        # For which magic number and lane the worker has been made ready, and that.
        self._ready: tuple[bytes, str, bytes] = (b"", "", b"")
        self._has_worker = False
        self._start(detached)

    def _start(self, detached: bool) -> None:
        try:
            self._wire = Wire(self.argv, detached, self._is_here)
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

    def get_worker_ready(self) -> None:
        """Do now what most likely will have to be done when the far side has greeted.

        The caller's own interpreter need not even say what it is: it finds the worker when it has started.
        """
        worker = self._worker_for(importlib.util.MAGIC_NUMBER, lane_of(self.chain))
        if self.executable == sys.executable and all(isinstance(hop, Local) for hop in self.chain):
            self._wire.send(iter([worker]))
            self._has_worker = True

    def _worker_for(self, magic: bytes, lane: str) -> bytes:
        if self._ready[:2] != (magic, lane):
            self._ready = magic, lane, worker_message(self._nonce, magic, lane, self._kit)
        return self._ready[2]

    # --- the exchange --------------------------------------------------------------------------------------------

    def greet(self, patience: float) -> Greeting:
        """Wait for the far side's greeting and send it the worker.

        :param patience: seconds to wait
        :raises DeliveryTransportError: if the transport ends, or another than a usable interpreter answers
        :raises KeyboardInterrupt: if an interrupt was requested
        :raises CallCancelled: if a kill was
        """
        self._start_patience = patience
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
            if len(hello) > _LONGEST_HELLO:
                raise ValueError("too long")
            _, protocol, version, magic, terminal, by_socket, machine = hello.decode().split()
            takes_sockets = by_socket == "1" and self._wire.passes_descriptors
            greeting = Greeting(int(version, 16), bytes.fromhex(magic[1:]), terminal == "1", takes_sockets, machine)
            spoken = int(protocol)
            if not 0 < greeting.hexversion < 1 << 32:
                raise ValueError("no version")
        except ValueError:
            raise HandshakeError(f"the far side's greeting makes no sense: {hello[:200]!r}", argv=self.argv) from None
        if greeting.hexversion < _OLDEST or spoken != frames.PROTOCOL:
            raise InterpreterTooOld(
                f"{self.executable} on the far side is Python {greeting.python}; 3.8 or later is needed, "
                f"name another with executable=\n{hops.evidence(self.argv, self._wire.returncode, self.stderr)}",
                hop=self.chain[-1].name,
                argv=self.argv,
                stderr=self.stderr,
            )
        lane = "narrow" if greeting.terminal else lane_of(self.chain)
        if lane == "narrow" and not greeting.terminal and greeting.machine == _this_machine():
            # What a pipe carries costs less than base64; what a terminal or a network does costs more.
            lane = "digits"
        self._encoder = frames.Encoder(self._nonce, frames.TO_FAR, lane)
        if lane == "binary":
            self._decoder = frames.RawDecoder()
        if not self._has_worker:
            self._wire.send(iter([self._worker_for(greeting.magic, lane)]))
        elif (greeting.magic, lane) != self._ready[:2]:
            raise HandshakeError(
                f"{self.executable} was replaced by another Python, {greeting.python}, while this program ran", argv=self.argv
            )
        self._ready = b"", "", b""
        return greeting

    def begin(
        self,
        parcel: Parcel,
        output: Callable[[str, bytes], object],
        most: int,
        started: Callable[[Ending], object],
        requests: deque[str],
    ) -> Exchange:
        """Send one call.

        :param output: gets ``("stdout" or "stderr", bytes)`` as it comes
        :param most: bytes that the reply may have; a larger one ends the call
        :param started: is told as soon as the call's process runs; if it returns true, the rest is not waited for
        :param requests: where ``"interrupt"``, ``"terminate"`` and ``"kill"`` are asked for, for this call alone
        """
        self._number += 1
        setup = parcel.setup
        reply = Reply(most, bool(setup["stream"]), bool(setup["limits"] or setup["guard"] or setup["confinement"]))
        ending = Ending(reply, parcel.size)
        exchange = Exchange(self._number, parcel, output, started, requests, ending)
        exchange.taken, exchange.come = self._wire.written, self._wire.total
        self._exchanges[exchange.number] = exchange
        self._wire.send(parcel.lines(exchange.number, self._encoder))
        return exchange

    def see_through(self, exchange: Exchange) -> None:
        """Turn until it is over."""
        while not exchange.over:
            self.turn()

    def turn(self, until: float = math.inf) -> None:
        """Pass on what was asked for, wait for what comes, take it, and give up what is overdue.

        :param until: wait no longer than that, by the monotonic clock
        """
        self._line.note(self._wire.written)
        for exchange in list(self._exchanges.values()):
            self._pass_on_requests(exchange)
            self._expect(exchange)
            until = min(until, exchange.ending.deadline)
        if not self._wire.received and not self._has_ended():
            self._wire.pump(None if until == math.inf else max(0.0, until - time.monotonic()))
        for kind, number, _, payload in self._take():
            found = self._exchanges.get(number)
            if found is None:
                continue  # it was given up
            try:
                self._note(found, kind, payload)
            except frames.FrameError as error:
                self._note_damage(error)
                break
            found.ending.hear(kind, len(payload))
            if found.ending.account is not None or found.ending.refused:
                self._end(found)
        if self._is_lost():
            lost = self._connection_lost()
            for exchange in list(self._exchanges.values()):
                exchange.ending.lost = lost
                self._end(exchange)

    def _is_lost(self) -> bool:
        if self._has_ended():
            self.lost = True
        for exchange in self._exchanges.values():
            # What has been written meanwhile takes its time.
            self._expect(exchange)
            overdue = time.monotonic() >= exchange.ending.deadline
            if exchange.ending.is_overdue(self._wire.total) or (overdue and not self._wire.pump(0)):
                self.lost = True
        return self.lost

    def _end(self, exchange: Exchange) -> None:
        exchange.over = True
        self._take_what_has_come(exchange)
        # They know the exchange in their turn; what was large shall not wait for the garbage collector.
        exchange.lent.clear()
        del self._exchanges[exchange.number]

    def _expect(self, exchange: Exchange) -> None:
        """What moves is on its way: it has its time until it starts, or ends."""
        taken, exchange.taken = self._wire.written - exchange.taken, self._wire.written
        come, exchange.come = self._wire.total - exchange.come, self._wire.total
        if exchange.ending.remote_pid is None:
            exchange.ending.expect_start(taken, self._is_here, self._start_patience)
        exchange.ending.move(taken, come)

    def _note(self, exchange: Exchange, kind: int, payload: bytes) -> None:
        """:raises FrameError: if a frame makes no sense"""
        ending = exchange.ending
        if kind == frames.STDOUT:
            exchange.output("stdout", payload)
        elif kind == frames.STDERR:
            exchange.output("stderr", payload)
        elif kind == frames.REPLY:
            within = not ending.reply.overlong
            ending.reply.feed(payload)
            if within and ending.reply.overlong:
                self._kill(exchange)
        elif kind == frames.STARTED:
            self._note_start(exchange, payload)
        elif kind == frames.VERDICT:
            ending.account = Account.of(payload)
            self._take_what_has_come(exchange)
        elif kind == frames.ANSWERED:
            self._take_what_has_come(exchange)
            exchange.answered = True
        elif kind == frames.BULK:
            self._lend(exchange)
        elif kind == frames.REFUSED:
            ending.refused = printable(payload[:_LONGEST_REASON].decode("utf-8", "replace")) or "no reason was given"

    def _lend(self, exchange: Exchange) -> None:
        """Give the far side one end of a socket for what is large, and use the other.

        :raises FrameError: if it asks more often than it can need one
        """
        exchange.sockets_asked_for += 1
        if exchange.sockets_asked_for > _MOST_ASKED:
            raise frames.FrameError("a call that asks for sockets again and again")
        parcel, reply = exchange.parcel, exchange.ending.reply
        number, starts = exchange.number, exchange.ending.remote_pid is None
        if reply.overlong:
            return  # it has been killed
        wanted = bool(parcel.parts.large) if starts else reply.awaits_pieces
        if not parcel.setup["bulk"] or not wanted or len(exchange.lent) > (not starts):
            # Whoever asks for one that he does not need gets none.
            self._wire.send(self._encoder.pieces(frames.ATTACH, number))
            return

        def use(end: socket.socket) -> bulk.Sender | bulk.Receiver:
            if not starts:
                return reply.receive(end.recv_into)
            return bulk.Sender(lambda data: end.send(data, socket.MSG_NOSIGNAL), parcel.parts.large)

        def moved(size: int) -> None:
            if not starts:
                exchange.ending.hear(frames.REPLY, size)
            if reply.unheld:
                self._kill(exchange)
            self._forget_what_was_sent(exchange)

        # The far side finds the descriptors that have come in their order, so a frame says whether one belongs to it.
        frame, instead = (self._encoder.encode(frames.ATTACH, number, comes) for comes in (b"1", b""))
        lent = self._wire.lend(frame, instead, use, moved)
        if lent is not None:
            exchange.lent.append(lent)
        if starts:
            # Without descriptors to spare it goes as it would without sockets.
            for piece in parcel.parts.large if lent is None else ():
                self._wire.send(self._encoder.pieces(frames.PIECES, number, piece.view))
            self._wire.send(self._encoder.pieces(frames.START, number))

    def _take_what_has_come(self, exchange: Exchange) -> None:
        """What the call has sent is there by now."""
        for lent in exchange.lent:
            lent.finish()

    def _note_start(self, exchange: Exchange, payload: bytes) -> None:
        setup = exchange.parcel.setup
        exchange.ending.start(payload, None if setup["timeout"] is None else setup["timeout"] + setup["grace"])
        self._forget_what_was_sent(exchange)
        if exchange.started(exchange.ending):
            self._end(exchange)

    def _forget_what_was_sent(self, exchange: Exchange) -> None:
        """A call that runs has got all but what still goes by a socket, and copies of that may be large."""
        senders = [lent.user for lent in exchange.lent if isinstance(lent.user, bulk.Sender)]
        if exchange.once and exchange.ending.remote_pid is not None and all(sender.is_done for sender in senders):
            for piece in exchange.parcel.parts.large:
                piece.forget()

    def _pass_on_requests(self, exchange: Exchange) -> None:
        ending = exchange.ending
        while exchange.requests:
            what = exchange.requests.popleft()
            ending.interrupts += what == "interrupt"
            ending.terminated = ending.terminated or what.startswith("terminate")
            if what == "kill" or ending.interrupts > 1:
                ending.cancelled = ending.cancelled or what == "kill"
                self._kill(exchange)
            else:
                self._wire.send(self._encoder.pieces(frames.SIGNAL, exchange.number, what.encode()))

    def _kill(self, exchange: Exchange) -> None:
        exchange.ending.note_kill_queued()
        self._wire.send(self._kill_frame(exchange))

    def _kill_frame(self, exchange: Exchange) -> Iterator[bytes]:
        yield from self._encoder.pieces(frames.SIGNAL, exchange.number, b"kill")
        # All of it has been written when more is asked for.
        self._line.note(self._wire.written)
        exchange.ending.note_kill_written(self._line.way)

    def _connection_lost(self) -> ConnectionLost:
        if self._wire.ended:
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
            self._note_damage(error)

    def _note_damage(self, error: frames.FrameError) -> None:
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

    @uninterrupted
    def close(self) -> None:
        """Hang up and see the transport end; the far side's supervisor then kills what is left there."""
        self._wire.close()


@functools.cache
def _this_machine() -> str:
    """What the kernel calls the time since it started (random(4)); nothing where it does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
