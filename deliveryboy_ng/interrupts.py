"""Ctrl-C during a call: the first reaches the call, the second kills it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Protocol, TypeVar

C = TypeVar("C", bound=Callable[..., Any])

_uninterrupted: set[CodeType] = set()


def uninterrupted(func: C) -> C:
    """What tidies up: within it, from its very beginning on, :class:`Interrupts` raises nothing."""
    _uninterrupted.add(func.__code__)
    return func


class Interruptible(Protocol):
    """What a Ctrl-C is handed to."""

    def request(self, what: str) -> int:
        """Take the request, and tell how many are waiting to be passed on."""


class Interrupts:
    """While open, turns SIGINT into requests to its owner.

    Only in the main thread, and only where Python's own handler is in place: a handler of the caller's stays in charge.
    """

    def __init__(self, owner: Interruptible) -> None:
        self._owner = owner
        self._installed = False
        self._is_late = False

    @uninterrupted
    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._installed = True
            signal.signal(signal.SIGINT, self._pass_on)
        return self

    @uninterrupted
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._installed and signal.getsignal(signal.SIGINT) == self._pass_on:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_late:
            raise KeyboardInterrupt

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        if self._owner.request("interrupt") > 1:
            # The caller's own code, a receiver of output say, is busy and does not let the first one through.
            while frame is not None:
                if frame.f_code in _uninterrupted:
                    self._is_late = True
                    return
                frame = frame.f_back
            raise KeyboardInterrupt
