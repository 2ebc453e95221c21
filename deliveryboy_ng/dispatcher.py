"""Drives one warm session: a thread that sends waiting calls, hands out what comes back, and opens the session anew.

There is one thread a dispatcher, however many calls are under way.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from . import trail
from .delivery import Delivery
from .exceptions import CallCancelled, ConnectionLost, DeliveryError, InitializerFailed
from .exchange import Exchange
from .journey import Journey
from .opening import kit_of, open_session
from .options import Options
from .receipt import Receipt, shown
from .session import Greeting, Session
from .worker import records

__all__ = ["Dispatcher"]

_SHORTEST_BACKOFF, _LONGEST_BACKOFF, _MOST_DOUBLINGS = 0.1, 10.0, 10

# How often what a session's calls share may be lost before any of them has begun.
_MOST_LOST_TEMPLATES = 3

_live: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


class Dispatcher:
    """Takes deliveries in any thread; see :meth:`add`, :meth:`close`.

    :ivar workers: how many calls may run at a time
    """

    def __init__(
        self,
        options: Options,
        workers: int,
        idle_timeout: float | None,
        retries: int,
        template: Callable[[], Journey] | None,
    ) -> None:
        """:param options: those of the session, resolved

        :param template: makes the call that readies what the others share
        """
        self.workers = workers
        self._options = options
        self._idle_timeout = math.inf if idle_timeout is None else idle_timeout
        self._retries = retries
        self._template = template
        self._kit = kit_of(options, workers, template is not None)
        self._is_closing = False
        self._begin_anew()
        _live.add(self)

    def _begin_anew(self) -> None:
        # Bare locks: a KeyboardInterrupt within one that is written in Python, as a Condition is, may leave it locked.
        self._lock = threading.RLock()
        self._nap = threading.Lock()
        self._nap.acquire()
        self._waiting: deque[Delivery[Any]] = deque()
        self._running: dict[Exchange, Delivery[Any]] = {}
        self._ending: dict[Exchange, tuple[Journey, Callable[[], Delivery[Any] | None]]] = {}
        self._known: set[Delivery[Any]] = set()
        # Those whose results have been handed out: nobody here keeps what the user lets go of.
        self._answered: set[Callable[[], Delivery[Any] | None]] = set()
        self._opening: Session | None = None
        self._shared: Mapping[str, Any] | None = None
        self._base: Exchange | None = None
        self._is_spent = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Lock()
        self._session: Session | None = None
        self._greeting: Greeting | None = None
        self._requests: deque[str] = deque()
        self._losses = self._lost_in_vain = 0
        self._has_requests = False
        self._open_at = -math.inf
        self._idle_since = math.inf

    # --- from any thread ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """:raises RuntimeError: if this dispatcher has been closed"""
        if self._is_closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def add(self, delivery: Delivery[Any]) -> None:
        """Queue a delivery.

        :raises RuntimeError: if this dispatcher has been closed
        """
        with self._lock:
            self.check()
            self._have_a_thread()
            delivery.retries = self._retries
            delivery.on_request = self._note_request
            if len(self._waiting) + len(self._running) < self.workers:
                delivery.begin()
            self._known.add(delivery)
            self._waiting.append(delivery)
        self._wake()

    def _have_a_thread(self) -> None:
        if self._thread is None:
            ended = self._ended = threading.Lock()
            ended.acquire()
            name = f"deliveryboy {self._options.chain[0].name}"
            thread = self._thread = threading.Thread(target=self._run, args=(ended,), name=name, daemon=True)
            try:
                thread.start()
            except BaseException:
                # Should it run yet, since a signal has come meanwhile, it sees that it is not wanted.
                self._thread = None
                raise

    def close(self, cancel: bool = False) -> None:
        """Take no more deliveries; the thread ends when there are none left, and closes the session.

        :param cancel: cancel those that have not begun
        """
        with self._lock:
            self._is_closing = True
            # The thread takes from it meanwhile; to copy it is one step.
            cancelled = [delivery for delivery in list(self._waiting) if cancel and not delivery.running()]
        for delivery in cancelled:
            delivery.cancel()
        self._note_request()

    def _note_request(self) -> None:
        """A session that is being made, for calls of which nobody wants one any more, is given up if no others can come."""
        self._has_requests = True
        opening = self._opening
        if opening is not None and self._is_unwanted():
            self._requests.append("kill")
            opening.poke()
        self._wake()

    def _is_unwanted(self) -> bool:
        return self._is_closing and all(delivery.is_given_up for delivery in list(self._waiting))

    def request(self, what: str) -> None:
        """Ask for an ``"interrupt"`` or a ``"kill"`` of each call that runs."""
        for delivery in self._all():
            if delivery.running():
                delivery.request(what)

    def join(self) -> None:
        """Wait for the end of the thread; a KeyboardInterrupt meanwhile does no harm to the next who waits."""
        thread, ended = self._thread, self._ended
        if thread is None or thread is threading.current_thread():
            return
        if self._lock._is_owned():  # type: ignore[attr-defined]
            return  # a signal handler has interrupted what the thread waits for
        # Before Python 3.13 a thread counts as ended when its join(), or is_alive(), was interrupted.
        with ended:
            pass
        thread.join()

    @property
    def _is_busy(self) -> bool:
        return bool(self._running or self._ending)

    def _all(self) -> list[Delivery[Any]]:
        # To copy a set is one step; the thread puts others in meanwhile.
        answered = [find() for find in list(self._answered)]
        return [*list(self._known), *(delivery for delivery in answered if delivery is not None)]

    def _wake(self) -> None:
        session = self._session
        if session is not None:
            session.poke()
        with contextlib.suppress(RuntimeError):  # nobody sleeps
            self._nap.release()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self, ended: threading.Lock) -> None:
        try:
            while self._work_on():
                pass
        except BaseException as problem:
            with self._lock:
                self._is_closing = True
            self._fail(self._all(), problem)
            raise
        finally:
            try:
                if self._thread is threading.current_thread():
                    # Where there was nothing to do any more there is no session, or it is the next thread's.
                    with contextlib.suppress(OSError):
                        self._drop_session()
            finally:
                ended.release()

    def _work_on(self) -> bool:
        """One turn, whatever becomes of its session; false when nothing will come any more."""
        try:
            return self._work()
        except Exception as problem:
            self._note_loss()
            with contextlib.suppress(Exception):
                self._drop_session()
            with self._lock:
                failed = self._all()
                self._waiting.clear()
            self._running.clear()
            self._ending.clear()
            self._answered.clear()
            self._fail(failed, problem)
            return True

    def _work(self) -> bool:
        """One turn; false when nothing will come any more."""
        if self._thread is not threading.current_thread():
            return False
        self._settle_given_up()
        with self._lock:
            if self._thread is not threading.current_thread():
                return False
            if not self._waiting and not self._is_busy:
                if self._is_closing:
                    return False
                if self._session is None:
                    # The next call starts another.
                    self._thread = None
                    return False
        wait = self._open_at - time.monotonic()
        if self._session is None and wait > 0:
            self._nap.acquire(timeout=wait)
        elif self._session is None:
            self._open()
        elif not self._is_idle_for_long():
            self._turn(self._session)
        return True

    def _is_idle_for_long(self) -> bool:
        if self._waiting or self._is_busy:
            self._idle_since = math.inf
            return False
        self._idle_since = min(self._idle_since, time.monotonic())
        if time.monotonic() < self._idle_since + self._idle_timeout:
            return False
        self._drop_session()
        return True

    def _settle_given_up(self) -> None:
        if not self._has_requests:
            return
        self._has_requests = False
        with self._lock:
            given_up = {delivery for delivery in self._waiting if delivery.is_given_up}
            if given_up:
                self._waiting = deque(delivery for delivery in self._waiting if delivery not in given_up)
        for delivery in given_up:
            self._settle_unsent(delivery)

    def _settle_unsent(self, delivery: Delivery[Any]) -> None:
        self._settle(delivery, None, CallCancelled(f"{delivery.name} was cancelled before it began"))

    def _open(self) -> None:
        try:
            self._requests.clear()
            self._session, self._greeting = open_session(self._options, self._kit, self._requests, self._note_opening, None)
            self._opening = None
            if self._template is not None:
                self._start_template(self._session, self._greeting, self._template())
        except BaseException as problem:
            self._opening = None
            self._note_loss()
            self._drop_session()
            self._fail(self._take_all(), problem)
            if not isinstance(problem, Exception):
                raise

    def _note_opening(self, session: Session) -> None:
        self._opening = session
        self._note_request()  # what was asked for a moment ago found nothing to be given up

    def _start_template(self, session: Session, greeting: Greeting, journey: Journey) -> None:
        self._shared = journey.box.own
        base = self._base = journey.begin(session, greeting, self.workers)
        while not base.over and not base.ending.reply.status:
            session.turn()
            if self._is_unwanted():
                raise CallCancelled("cancelled before it began")
            self._settle_given_up()
        if base.over or base.ending.reply.status != b"R":
            session.see_through(base)
            receipt = journey.conclude(session, greeting, base.ending)
            failed = InitializerFailed(f"{journey.name} of the session failed: {shown(receipt.exception):.500}")
            failed.__cause__, failed.receipt = receipt.exception, receipt
            raise failed

    def _take_all(self) -> list[Delivery[Any]]:
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken

    def _turn(self, session: Session) -> None:
        self._send_waiting(session)
        if not (self._is_busy or self._waiting) and (self._is_closing or self._idle_since == math.inf):
            return  # all that waited was cancelled, or could not be sent
        session.turn(self._idle_since + self._idle_timeout if not self._is_busy else math.inf)
        for exchange in list(self._running):
            if exchange.over or exchange.answered:
                self._take_answer(session, exchange)
        for exchange in list(self._ending):
            if exchange.over:
                self._conclude(session, exchange, *self._ending.pop(exchange))
        self._is_spent = self._is_spent or (self._base is not None and self._base.over)
        if session.lost or (self._is_spent and not self._is_busy):
            self._note_loss()
            if not session.lost:
                self._lost_in_vain += 1
                if self._lost_in_vain > _MOST_LOST_TEMPLATES:
                    self._fail(self._take_all(), self._lost_templates())
            self._drop_session()

    def _lost_templates(self) -> InitializerFailed:
        return InitializerFailed(
            f"the process from which this session's calls are forked has ended {self._lost_in_vain} times before any call could "
            "begin: look for what initializer and preload leave behind that ends it"
        )

    def _send_waiting(self, session: Session) -> None:
        assert self._greeting is not None
        if self._is_spent:
            return
        while self._waiting and len(self._running) < self.workers:
            delivery = self._waiting.popleft()
            if delivery.is_given_up or not (delivery.running() or delivery.begin()):
                self._settle_unsent(delivery)
                continue
            if self._shared is not None:
                delivery.journey.also_own = self._shared
            try:
                exchange = delivery.journey.begin(session, self._greeting, self.workers)
                exchange.once = delivery.retries == 0
                self._running[exchange] = delivery
            except Exception as problem:
                self._settle(delivery, None, problem)

    def _take_answer(self, session: Session, exchange: Exchange) -> None:
        """Its result is handed out, and its place is free; what it used, and how it ended, comes later."""
        delivery = self._running.pop(exchange)
        self._ending[exchange] = delivery.journey, lambda: delivery
        if exchange.answered:
            try:
                known, value = delivery.journey.answer(exchange)
            except BaseException:
                return  # whatever the value's class does when it is rebuilt: it will be told with all the rest
            if known and delivery.answer(value) and not trail.is_kept():
                delivery.journey.on_start = None
                found = weakref.ref(delivery)
                self._answered.add(found)
                self._known.discard(delivery)
                self._ending[exchange] = delivery.journey, found

    def _conclude(self, session: Session, exchange: Exchange, journey: Journey, find: Callable[[], Delivery[Any] | None]) -> None:
        assert self._greeting is not None
        if exchange.answered:
            self._losses = self._lost_in_vain = 0
        delivery = find()
        conclude = functools.partial(journey.conclude, session, self._greeting, exchange.ending)
        if find in self._answered:
            journey.finish()
            journey.let_go()
            if delivery is not None:
                delivery.settle_later(functools.partial(conclude, (delivery.result(),)))
            self._answered.discard(find)
            return
        assert delivery is not None
        has_result = delivery.done() and exchange.answered and not delivery.cancelled()
        ending = exchange.ending
        has_not_begun = ending.refused.endswith(records.NO_TEMPLATE)
        self._is_spent = self._is_spent or has_not_begun
        if ending.lost is None and not has_not_begun:
            self._losses = self._lost_in_vain = 0
        elif (has_not_begun or delivery.retries > 0) and not (has_result or delivery.cancelled() or ending.is_asked_for):
            delivery.retries -= not has_not_begun
            delivery.begin_again()
            self._waiting.appendleft(delivery)
            return
        try:
            receipt = conclude((delivery.result(),) if has_result else ())
        except BaseException as problem:
            self._settle(delivery, None, problem)
        else:
            self._settle(delivery, receipt)
            trail.note(receipt)

    def _note_loss(self) -> None:
        """What is lost again and again is opened again ever later."""
        self._losses += 1
        if self._losses > 1:
            doubled = min(self._losses - 2, _MOST_DOUBLINGS)
            self._open_at = time.monotonic() + min(_LONGEST_BACKOFF, _SHORTEST_BACKOFF * 2**doubled)

    def _drop_session(self) -> None:
        session, self._session, self._base, self._is_spent = self._session, None, None, False
        self._idle_since = math.inf
        if session is not None:
            session.close()

    def _fail(self, deliveries: list[Delivery[Any]], problem: BaseException) -> None:
        if not isinstance(problem, DeliveryError):
            problem = ConnectionLost(f"the session could not be kept: {type(problem).__name__}: {problem}", real_exception=problem)
        for delivery in deliveries:
            self._settle(delivery, None, problem)

    def _settle(self, delivery: Delivery[Any], receipt: Receipt | None, problem: BaseException | None = None) -> None:
        delivery.settle(receipt, problem)
        # Not before: in a child that is forked meanwhile nobody would know of it.
        self._known.discard(delivery)

    # --- the caller's own processes -------------------------------------------------------------------------------

    def forget(self) -> None:
        """In a child that the caller has forked: nothing of what was under way is this process's."""
        deliveries = self._all()
        self._begin_anew()
        for delivery in deliveries:
            delivery.abandon(CallCancelled("this call belongs to the process that this one was forked from"))


def _forget_in_child() -> None:
    for dispatcher in list(_live):
        dispatcher.forget()


def _finish() -> None:
    """When the program ends, its calls are waited for, as with any executor."""
    dispatchers = list(_live)
    for dispatcher in dispatchers:
        dispatcher.close()
    for dispatcher in dispatchers:
        dispatcher.join()


os.register_at_fork(after_in_child=_forget_in_child)
# Before the interpreter waits for threads, and long before atexit: as concurrent.futures does it.
with contextlib.suppress(RuntimeError, AttributeError):  # it ends already, or there is no such thing
    threading._register_atexit(_finish)  # type: ignore[attr-defined]
# And for executors that other threads have made after the main one had ended.
atexit.register(_finish)
