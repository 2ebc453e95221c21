"""The way of one call: packed here, run over there, and back as a receipt."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import MAGIC_NUMBER
from typing import Any

from . import hops, packing, replies, trail
from .answer import Account
from .exceptions import DeliveryPickleError, DeliveryTransportError, VersionMismatchError
from .exchange import Ending, Exchange
from .interrupts import Interrupts
from .opening import kit_of, open_session
from .options import Options
from .output import Sink
from .parcel import Parcel
from .receipt import Receipt, Usage, Verdict
from .session import Greeting, Session
from .transports import describe, is_elsewhere, lane_of, namespaces_of
from .verdicts import Case, judge
from .worker import preparing, records

__all__ = ["Journey"]

_CATEGORIES = "ALL COLLATE CTYPE MESSAGES MONETARY NUMERIC TIME ADDRESS IDENTIFICATION MEASUREMENT NAME PAPER TELEPHONE"
_LOCALE_NAMES = ("LANG", "LANGUAGE", *(f"LC_{name}" for name in _CATEGORIES.split()))


@dataclass
class Journey:
    """One call.  Made (and thereby packed) in the caller's thread; :meth:`travel` may run in another.

    :ivar options: as :meth:`Options.resolved` gives them
    :ivar session: the one that it was last sent over
    :ivar on_start: is told the PIDs, of the transport and over there, when the call has its process
    :ivar also_own: what has travelled by value with what its session's calls share, by its number
    :raises DeliveryPackingError: if something cannot travel
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    default_output: str = "live"
    is_template: bool = False
    is_stream: bool = False
    shares_state: bool = False
    session: Session | None = field(default=None, init=False)
    on_start: Callable[[int, int | None], object] | None = field(default=None, init=False)
    also_own: Mapping[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.started = datetime.datetime.now(datetime.UTC)
        self._clock = time.monotonic()
        self.box = self._pack(True)
        self.name = getattr(self.func, "__qualname__", None) or type(self.func).__qualname__
        self._requests: deque[str] = deque()
        self.renew()

    def renew(self) -> None:
        """Forget what has come back so far: it is sent once more."""
        self._ready: tuple[bytes, bool, Parcel | None] = (b"", False, None)
        self._problem: BaseException | None = None
        self._known: tuple[()] | tuple[Any] = ()
        self._ended = 0.0
        self._sink = Sink(self.options.output or self.default_output, int(self.options.max_output))

    def _pack(self, code_travels: bool) -> packing.Box:
        return packing.pack(
            self.func, self.args, self.kwargs, self.options.modules, code_travels=code_travels, keep_home=not self.shares_state
        )

    # --- there ----------------------------------------------------------------------------------------------------

    def travel(self) -> Receipt:
        """Run the call and return its receipt; only what kept it from beginning is raised.

        :raises DeliveryError: if the call could not begin
        """
        with Interrupts(self):
            try:
                session, greeting = self._open(detached=False)
                try:
                    exchange = self.begin(session, greeting)
                    session.see_through(exchange)
                finally:
                    session.close()
            finally:
                self.box.let_go()
        return self.arrive(session, greeting, exchange.ending)

    def open(self) -> tuple[Session, Greeting]:
        """A session of its own.

        :raises DeliveryError: if the call cannot begin
        """
        with Interrupts(self):
            return self._open(detached=False)

    def item(self, data: bytes) -> Any:
        """What a generator has made.

        :raises DeliveryPickleError: if it cannot be rebuilt here
        """
        return self._reader().value(data)

    def begin(self, session: Session, greeting: Greeting, workers: int = 0) -> Exchange:
        """Send the call; see :meth:`conclude`.

        :param workers: how many calls may run at a time in a session that stays open, 0 if it ends with this one
        :raises DeliveryError: if it cannot be sent to that far side
        """
        self.session = session
        return session.begin(
            self._parcel(greeting, workers),
            output=self._hand_over,
            most=self.options.most_reply,
            started=self._note_start,
            requests=self._requests,
        )

    def _hand_over(self, stream: str, data: bytes) -> None:
        """The receiver's failure is this call's alone: others use the session too."""
        if self._problem is None:
            try:
                self._sink.write(stream, data)
            except BaseException as problem:
                self._problem = problem
                self._requests.append("kill")

    def answer(self, exchange: Exchange) -> tuple[bool, Any]:
        """The value that has come, though all has not been said of the call; whether it can be handed out already."""
        reply = exchange.ending.reply
        if self._problem is None and not reply.overlong and reply.status == b"R":
            try:
                return True, self._reader().value(reply.payload, reply.pieces)
            except DeliveryPickleError:
                pass
        return False, None

    def finish(self) -> None:
        """Nothing more will come."""
        self._ended = self._ended or time.monotonic()
        try:
            self._sink.finish()
        except BaseException as problem:
            self._problem = self._problem or problem

    def let_go(self) -> None:
        """Its value is known; what was sent for it, and is not needed for the receipt, may be large."""
        self.func, self.args, self.kwargs = None, (), {}
        self._ready = (b"", False, None)
        del self.box

    def arrive(self, session: Session, greeting: Greeting, ending: Ending) -> Receipt:
        """The receipt of a call that had its session for itself, told to the log.

        :raises KeyboardInterrupt: if there was a Ctrl-C which the function has not dealt with itself
        :raises BaseException: what the receiver of its output raised
        """
        receipt = self.conclude(session, greeting, ending)
        trail.note(receipt)
        if self._is_interrupted(receipt, ending):
            raise KeyboardInterrupt from receipt.exception
        return receipt

    def conclude(self, session: Session, greeting: Greeting, ending: Ending, known: tuple[()] | tuple[Any] = ()) -> Receipt:
        """The receipt of a call that is over.

        :param known: its value, if that is known already
        :raises BaseException: what the receiver of its output raised
        """
        self._known = known
        self.finish()
        if self._problem is not None:
            raise self._problem
        return self._receipt(session, greeting, ending)

    def _is_interrupted(self, receipt: Receipt, ending: Ending) -> bool:
        asked = ending.interrupts + self._requests.count("interrupt")
        reached = 0 if ending.account is None else ending.account.interrupts
        return asked > 0 and (not receipt.ok or reached < asked or receipt.returncode == records.INTERRUPTED_TOO_LATE)

    def leave(self) -> int:
        """Start the call, see it begin, detach from it, and return the PID of the transport.

        :raises DeliveryError: if the call could not begin
        """
        with Interrupts(self):
            session, greeting = self._open(detached=True)
            try:
                exchange = session.begin(
                    self._parcel(greeting),
                    output=lambda stream, data: None,
                    most=0,
                    started=lambda ending: True,
                    requests=self._requests,
                )
                session.see_through(exchange)
                ending = exchange.ending
                if ending.refused or ending.lost:
                    raise ending.lost or DeliveryTransportError(f"{self.name}: {ending.refused}", argv=session.argv)
            except BaseException:
                session.close()
                raise
            session.abandon()
        trail.note_left(self.name, describe(self.options.chain), session.pid)
        if self._requests:
            raise KeyboardInterrupt
        return session.pid

    def request(self, what: str) -> int:
        """Ask, from any thread or a signal handler, for an ``"interrupt"``, ``"terminate [SECONDS]"`` or ``"kill"``.

        Tells how many such requests are waiting to be passed on.
        """
        self._requests.append(what)
        waiting = len(self._requests)
        if self.session is not None:
            self.session.poke()
        return waiting

    @property
    def is_asked_to_end(self) -> bool:
        """Whether something was asked for that has not been passed on."""
        return bool(self._requests)

    def _open(self, detached: bool) -> tuple[Session, Greeting]:
        noise = None if self.options.discard_excess or detached else functools.partial(self._sink.write, "stdout")
        kit = kit_of(self.options)
        return open_session(self.options, kit, self._requests, self._note_session, noise, detached, self._get_parcel_ready)

    def _get_parcel_ready(self) -> None:
        """Most likely the far side is like this one; what is wrong with the parcel is told when it is sent."""
        expected = Greeting(sys.hexversion, MAGIC_NUMBER, terminal=False, takes_sockets=lane_of(self.options.chain) == "binary")
        self._ready = (expected.magic, expected.takes_sockets, self._make_parcel(expected))

    def _note_session(self, session: Session) -> None:
        self.session = session

    def _parcel(self, greeting: Greeting, workers: int = 0) -> Parcel:
        magic, takes_sockets, parcel = self._ready
        if parcel is not None and not workers and (magic, takes_sockets) == (greeting.magic, greeting.takes_sockets):
            return parcel
        return self._make_parcel(greeting, workers)

    def _make_parcel(self, greeting: Greeting, workers: int = 0) -> Parcel:
        same = greeting.magic == MAGIC_NUMBER
        box = self.box
        try:
            if not same and box.holds_code:
                box = self.box = self._pack(False)
            modules = box.module_table(same)
        except VersionMismatchError as error:
            raise VersionMismatchError(
                f"{error.args[0]}, but the far side runs Python {greeting.python}. "
                f"Name a Python {platform.python_version()} with executable=, or move it into a module",
                path=error.path,
            ) from None
        return Parcel(self._setup(box, workers, greeting.takes_sockets), modules, box.parts, self.options.input)

    def _setup(self, box: packing.Box, workers: int, takes_sockets: bool) -> dict[str, Any]:
        options = self.options
        elsewhere = is_elsewhere(options.chain)
        return {
            "detached": options.asynchronous,
            "template": self.is_template,
            "stream": self.is_stream,
            # The caller does not stay until a socket has been read.
            "bulk": takes_sockets and not options.asynchronous,
            "shared": workers > 0,
            "beside": max(1, workers),
            "timeout": options.timeout,
            "grace": options.grace,
            "umask": _umask() if options.umask is None else options.umask,
            "env": {**_locale_variables(), **options.env},
            "locale": _locale(),
            "cwd": options.cwd,
            "limits": options.limits.as_setup(),
            "guard": options.guard,
            "confinement": None if options.confinement is None else options.confinement.as_setup(),
            "accepts": None if options.trusted else list(self._accepted()),
            "most_output": int(options.max_output) if options.overflow == "kill" else None,
            "keep_children": options.keep_children,
            "magic": MAGIC_NUMBER if box.holds_code else b"",
            "python": platform.python_version(),
            "same_files": None if elsewhere else preparing.files_stamp(),
            "path": _import_path(),
            "prefixes": (sys.prefix, sys.exec_prefix),
        }

    @property
    def _own(self) -> Mapping[str, Any]:
        """What has travelled by value, by its number: with the call, or with what its session's calls share."""
        return {**self.also_own, **self.box.own} if self.also_own else self.box.own

    def _accepted(self) -> dict[str, type]:
        """The classes that may come back, by the names under which the far side knows them."""
        names = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in self.options.accepts}
        return names | {number: thing for number, thing in self._own.items() if thing in self.options.accepts}

    def _note_start(self, ending: Ending) -> bool:
        if self.on_start is not None and self.session is not None:
            self.on_start(self.session.pid, ending.remote_pid)
        return False

    # --- and back -------------------------------------------------------------------------------------------------

    def _receipt(self, session: Session, greeting: Greeting, ending: Ending) -> Receipt:
        account = ending.account
        returncode = None if account is None else os.waitstatus_to_exitcode(account.status)
        receipt = Receipt(
            function=self.name,
            verdict=Verdict.LOST,
            returncode=returncode,
            signal=-returncode if returncode is not None and returncode < 0 else None,
            stdout=self._sink.captured("stdout"),
            stderr=self._sink.captured("stderr"),
            truncated=self._sink.truncated,
            usage=_usage(account, ending.sent, ending.reply.size),
            applied=self._applied(ending),
            pid=session.pid,
            remote_pid=ending.remote_pid,
            host=ending.host,
            python=greeting.python,
            executable=session.executable,
            args=hops.shortened(session.argv),
            transport=describe(session.chain),
            noise=bytes(session.noise),
            transport_stderr=session.stderr,
            trusted=self.options.trusted,
            clean=account is not None and bool(account.clean),
            started=self.started,
            duration=(self._ended or time.monotonic()) - self._clock,
        )
        return judge(receipt, ending, Case(self.options, self._reader(), bytes(self._sink.last_words), self._timeout))

    @property
    def _timeout(self) -> str:
        return "initializer_timeout" if self.is_template else "timeout"

    def _reader(self) -> replies.Reader:
        if self._known:
            return replies.Known(self._known[0])
        return replies.Pickles(self._own) if self.options.trusted else replies.Data(self._accepted())

    def _applied(self, ending: Ending) -> tuple[str, ...]:
        """What held the call: by the supervisor's hand since its start, by its own before the function ran."""
        if ending.remote_pid is None:
            return ()
        options = self.options
        made = namespaces_of(options.chain) if options.confinement is not None else ()
        return (
            *((f"timeout={options.timeout:g}",) if options.timeout is not None else ()),
            *((f"max_output={options.max_output}",) if options.overflow == "kill" else ()),
            *((options.guard,) if options.guard == "pid namespace" else ()),
            *((f"namespaces of the transport={','.join(sorted(made))}",) if made else ()),
            *ending.reply.applied,
        )


def _usage(account: Account | None, sent: int, received: int) -> Usage:
    if account is None:
        return Usage(sent=sent, received=received)
    return Usage(
        user=account.user,
        system=account.system,
        wall=account.wall,
        max_rss=account.maxrss,
        peak=account.peak,
        tasks=account.tasks,
        sent=sent,
        received=received,
    )


# --- what the caller's process is like -----------------------------------------------------------------------------


def _import_path() -> list[str]:
    """``sys.path``, and where this library lies: an editable install of it is found by a hook that stays behind."""
    path = []
    for entry in sys.path:
        # The working directory, for which an empty entry stands, may have been removed.
        with contextlib.suppress(FileNotFoundError):
            path += [os.path.abspath(entry)] if isinstance(entry, str) else []
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return path if home in path else [*path, home]


def _umask() -> int:
    """The file mode creation mask, read without setting it: other threads may be creating files (proc(5), Linux 4.7)."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line[6:], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _locale_variables() -> dict[str, str | None]:
    # The transport was given a LANGUAGE of ours.
    return {"LANGUAGE": None, **{name: os.environ[name] for name in _LOCALE_NAMES if name in os.environ}}


def _locale() -> str:
    """The locale, if this program has set one; LC_CTYPE is set by every Python itself, from the variables."""
    import locale

    current = locale.setlocale(locale.LC_ALL)
    others = {part.partition("=")[2] for part in current.split(";") if "=" in part and not part.startswith("LC_CTYPE=")}
    return "" if others == {"C"} or current == "C" else current
