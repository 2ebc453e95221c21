"""The future of one call under way."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from .exceptions import CallCancelled
from .journey import Journey
from .receipt import Receipt

__all__ = ["Delivery"]

R = TypeVar("R")


class Delivery(concurrent.futures.Future[R], Generic[R]):
    """A :class:`concurrent.futures.Future` of a call; awaitable.

    Unlike the standard library's, :meth:`cancel` also ends a call that is already running: its processes are killed.
    """

    def __init__(self, journey: Journey) -> None:
        super().__init__()
        self._journey = journey
        self._under_way = threading.Event()
        self._pids: tuple[int | None, int | None] = (None, None)
        self._receipt: Receipt | None = None
        self._problem: BaseException | None = None
        self._over = threading.Event()
        journey.on_start = self._note_start
        threading.Thread(target=self._run, name=f"deliveryboy {journey.name}", daemon=True).start()

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
        """
        if not self._over.wait(timeout):
            raise TimeoutError(f"{self._journey.name} has not ended within {timeout:g} seconds")
        if self._receipt is None:
            raise self._problem or CallCancelled(f"{self._journey.name} was cancelled before it began")
        return self._receipt

    def cancel(self) -> bool:
        """Cancel the call; if it is running, kill its processes.  False only if it has already ended."""
        with self._condition:
            if self._state in ("CANCELLED", "CANCELLED_AND_NOTIFIED"):
                return True
            if self._state == "FINISHED":
                return False
            self._state = "CANCELLED"
            self._condition.notify_all()
        self.set_running_or_notify_cancel()
        self._journey.request("kill")
        self._under_way.set()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def __await__(self) -> Generator[Any, None, R]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def _note_start(self, pid: int, remote_pid: int | None) -> None:
        self._pids = (pid, remote_pid)
        self._under_way.set()

    def _run(self) -> None:
        with self._condition:
            cancelled = self._state != "PENDING"
            if not cancelled:
                self._state = "RUNNING"
        if not cancelled:
            try:
                self._receipt = self._journey.travel()
            except BaseException as problem:
                self._problem = problem
        # Before the result: whoever is told of that may ask for the receipt at once.
        self._over.set()
        self._under_way.set()
        try:
            if self._receipt is not None and self._receipt.exception is None:
                self.set_result(self._receipt.value)
            else:
                self.set_exception(self._problem if self._receipt is None else self._receipt.exception)
        except concurrent.futures.InvalidStateError:
            pass  # cancelled
