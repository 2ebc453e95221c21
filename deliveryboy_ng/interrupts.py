"""Ctrl-C during a call: the first reaches the call, the second kills it."""

from __future__ import annotations

import signal
import sys
import threading
import weakref
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
        self._handler: _Handler | None = None
        self.opened_in: FrameType | None = None
        self._is_late = False

    @uninterrupted
    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread() and _is_ordinary(signal.getsignal(signal.SIGINT)):
            self._handler, self.opened_in = _Handler(self), sys._getframe(1)
            signal.signal(signal.SIGINT, self._handler)
        return self

    @uninterrupted
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._handler is not None and signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.opened_in = None
        if self._is_late:
            raise KeyboardInterrupt

    def pass_on(self, frame: FrameType | None) -> None:
        """The handler's work."""
        if self._owner.request("interrupt") > 1:
            # The caller's own code, a receiver of output say, is busy and does not let the first one through.
            while frame is not None:
                if frame.f_code in _uninterrupted:
                    self._is_late = True
                    return
                frame = frame.f_back
            raise KeyboardInterrupt


class _Handler:
    """Python's own, once its call is over: another handler may raise where nothing can put that in its place again."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = weakref.ref(interrupts)

    def find(self, frame: FrameType | None) -> Interrupts | None:
        """Whose it is, if they are open: what an exception holds may still exist when they are not."""
        interrupts = self._interrupts()
        while interrupts is not None and frame is not None:
            if frame is interrupts.opened_in:
                return interrupts
            frame = frame.f_back
        return None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        interrupts = self.find(frame)
        if interrupts is None:
            signal.default_int_handler(signum, frame)
        else:
            interrupts.pass_on(frame)


def _is_ordinary(handler: object) -> bool:
    return handler is signal.default_int_handler or (isinstance(handler, _Handler) and handler.find(sys._getframe()) is None)
