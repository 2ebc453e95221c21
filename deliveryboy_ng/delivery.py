"""The future of one call under way."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from .exceptions import CallCancelled
from .journey import Journey
from .limits import parse_duration
from .receipt import Receipt
from .worker import system

__all__ = ["Delivery"]

R = TypeVar("R")

# Those that travel by themselves, by the threads that they do so in.
_alone: weakref.WeakKeyDictionary[threading.Thread, Delivery[Any]] = weakref.WeakKeyDictionary()
# Seconds that their ends may take when the program ends.
_LONGEST_END = 5.0


class Delivery(concurrent.futures.Future[R], Generic[R]):
    """A :class:`concurrent.futures.Future` of a call; awaitable.

    Unlike the standard library's, :meth:`cancel` also ends a call that is already running: its processes are killed.
    """

    def __init__(self, journey: Journey | None, name: str = "") -> None:
        super().__init__()
        self.name = name if journey is None else journey.name
        self.retries = 0
        # Callbacks that are asyncio's, which wait for nothing.
        self._awaiting = 0
        self._journey = journey
        self._under_way = threading.Event()
        self._pids: tuple[int | None, int | None] = (None, None)
        self._receipt: Receipt | None = None
        self._problem: BaseException | None = None
        self._conclude: Callable[[], Receipt] | None = None
        self.on_request: Callable[[], object] | None = None
        self._over = threading.Event()
        if journey is not None:
            journey.box.freeze()
            journey.on_start = self._note_start

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[R]], object]) -> None:
        """As the standard library's; asyncio's own, by which it waits for a future, cannot take every exception."""
        is_of_asyncio = getattr(fn, "__module__", "") == "asyncio.futures"
        super().add_done_callback(functools.partial(_tell_asyncio, fn) if is_of_asyncio else fn)
        # Not before it stands among the others: of those somebody could take another for it.
        self._awaiting += is_of_asyncio

    def _invoke_callbacks(self) -> None:
        """Whatever they raise: the thread that they run in has others to serve."""
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except BaseException:
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    @classmethod
    def alone(cls, journey: Journey) -> Delivery[R]:
        """One that travels by itself."""
        delivery = cls(journey)
        thread = threading.Thread(target=delivery._travel, args=(journey,), name=f"deliveryboy {journey.name}", daemon=True)
        _alone[thread] = delivery
        try:
            thread.start()
            return delivery
        except BaseException as problem:
            # A signal has come, and nobody will ever hold the delivery; but the thread may well have begun.
            delivery.cancel()
            cause = problem.__context__
            if isinstance(problem, KeyError) and cause is not None and system.is_of_a_handler(cause):
                # Thread.start() clears up what the new thread has cleared up already.
                raise cause from cause.__cause__
            raise

    @property
    def journey(self) -> Journey:
        """The call itself."""
        assert self._journey is not None
        return self._journey

    @property
    def pid(self) -> int | None:
        """PID of the transport, or of the interpreter where there is none; waits until the call has begun or failed."""
        self._under_way.wait()
        return self._pids[0]

    @property
    def remote_pid(self) -> int | None:
        """PID of the call's process as the far side counts; waits until the call has begun or failed."""
        self._under_way.wait()
        return self._pids[1]

    def receipt(self, timeout: float | None = None) -> Receipt:
        """The receipt, once the call has ended and its processes are gone; of a call that was cancelled, too.

        :param timeout: seconds to wait
        :raises TimeoutError: if the call has not ended by then
        :raises DeliveryError: if the call could not begin, or was cancelled before it did
        :raises BaseException: what the receiver of its output raised
        """
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self.name} has not ended within {timeout:g} seconds")
        with self._condition:
            conclude, self._conclude = self._conclude, None
            if conclude is not None:
                try:
                    self._receipt = conclude()
                except BaseException as problem:
                    self._problem = problem
        if self._receipt is None:
            raise self._problem or CallCancelled(f"{self.name} was cancelled before it began")
        return self._receipt

    def cancel(self) -> bool:
        """Cancel the call; if it is running, kill its processes.  False only if it has already ended."""
        with self._condition:
            if self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED"):
                return True
            if self._state == "FINISHED":
                return False
            had_begun = self._state == "RUNNING"
            self._state = "CANCELLED"
            self._condition.notify_all()
        self.set_running_or_notify_cancel()
        self.kill()
        self._under_way.set()
        if not had_begun:
            self._over.set()
        self._invoke_callbacks()
        return True

    def terminate(self, grace: float | None = None) -> None:
        """Send the call SIGTERM and some time later SIGKILL; what it makes of the first is its result.

        :param grace: seconds between the two; the default is the call's option
        :raises DeliveryOptionError: if that is nonsense
        """
        self.request("terminate" if grace is None else f"terminate {parse_duration('grace', grace):f}")

    def kill(self) -> None:
        """Kill the call's processes; its result is then :class:`~deliveryboy_ng.CallCancelled`."""
        self.request("kill")

    def request(self, what: str) -> None:
        """Ask for an ``"interrupt"``, for ``"terminate"`` or a ``"kill"``."""
        if self._journey is not None:
            self._journey.request(what)
        if self.on_request is not None:
            self.on_request()

    @property
    def is_given_up(self) -> bool:
        """Of one that has not been sent: whether it need not be any more, for whatever is asked for ends it."""
        return self.cancelled() or (self._journey is not None and self._journey.is_asked_to_end)

    def __await__(self) -> Generator[Any, None, R]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def _note_start(self, pid: int, remote_pid: int | None) -> None:
        self._pids = (pid, remote_pid)
        self._under_way.set()

    def _travel(self, journey: Journey) -> None:
        if self.begin():
            try:
                self.settle(journey.travel())
            except BaseException as problem:
                self.settle(None, problem)
        else:
            self.settle(None)

    def begin(self) -> bool:
        """It is being sent; false if it has been cancelled."""
        with self._condition:
            if self._state != "PENDING":
                return False
            self._state = "RUNNING"
        return True

    def begin_again(self) -> None:
        """It was lost, and will be sent once more."""
        with self._condition:
            if self._state == "RUNNING":
                self._state = "PENDING"
        self.journey.renew()

    def abandon(self, problem: BaseException) -> None:
        """In a forked child, where no thread that may have held a lock exists: fail, and tell nobody."""
        self._condition = threading.Condition()
        if not self.done():
            self._state, self._exception = "FINISHED", problem
        self._problem = self._problem or problem
        self._over = threading.Event()
        self._under_way = threading.Event()
        self._over.set()
        self._under_way.set()

    def answer(self, value: R) -> bool:
        """The function has returned; the receipt follows.  Tells whether that is known now.

        Nothing is told yet to callbacks: they run in the thread that the receipt comes from, and might wait for that.
        """
        with self._condition:
            if self._state != "RUNNING" or len(self._done_callbacks) > self._awaiting:  # type: ignore[attr-defined]
                return False
            self.set_result(value)
        return True

    def _let_go(self) -> None:
        """What was sent is of no more use, may be large, and knows this delivery."""
        if self._journey is not None:
            self._journey.on_start = None
            self._journey = None

    def settle_later(self, conclude: Callable[[], Receipt]) -> None:
        """It is over; who asks for the receipt has it made."""
        self._conclude = conclude
        self._let_go()
        self._over.set()
        self._under_way.set()

    def settle(self, receipt: Receipt | None, problem: BaseException | None = None) -> None:
        """It is over, with a receipt, or could not begin."""
        self._receipt, self._problem = receipt, problem
        self._let_go()
        # Before the result: whoever is told of that may ask for the receipt at once.
        self._over.set()
        self._under_way.set()
        try:
            if receipt is not None and receipt.exception is None:
                self.set_result(receipt.value)
            elif receipt is not None or problem is not None:
                self.set_exception(problem if receipt is None else receipt.exception)
        except concurrent.futures.InvalidStateError:
            pass  # cancelled


def _tell_asyncio(tell: Callable[[concurrent.futures.Future[Any]], object], delivery: concurrent.futures.Future[Any]) -> None:
    """A StopIteration cannot be raised by ``await``: as where a coroutine raises it (PEP 479), it becomes a RuntimeError."""
    problem = None if delivery.cancelled() else delivery.exception()
    if isinstance(problem, StopIteration):
        error = RuntimeError(f"{getattr(delivery, 'name', 'the function')} raised StopIteration")
        error.__cause__ = problem
        delivery = concurrent.futures.Future()
        delivery.set_exception(error)
    tell(delivery)


def _forget_in_child() -> None:
    for delivery in list(_alone.values()):
        delivery.abandon(CallCancelled("this call belongs to the process that this one was forked from"))
    _alone.clear()


def _finish() -> None:
    """When the program ends, so do its calls, and whoever has asked for it is told."""
    # Other threads may begin some meanwhile.
    under_way = [thread for thread in (find() for find in _alone.keyrefs()) if thread is not None]
    for thread in under_way:
        delivery = _alone.get(thread)
        if delivery is not None:
            delivery.kill()
    latest = time.monotonic() + _LONGEST_END
    for thread in under_way:
        thread.join(max(0.0, latest - time.monotonic()))


os.register_at_fork(after_in_child=_forget_in_child)
# Not before the program's other threads have ended, which may be waiting for results.
atexit.register(_finish)
