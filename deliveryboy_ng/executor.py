"""An executor of the standard library's kind, each of whose calls is a process of its own somewhere else."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib
import inspect
import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from . import modules
from .core import DeliveryBoy, Runner
from .delivery import Delivery
from .dispatcher import Dispatcher
from .exceptions import DeliveryOptionError
from .journey import Journey
from .limits import Limits
from .options import Options
from .transports import describe
from .worker import reconstructors, system

__all__ = ["DeliveryExecutor"]

P = ParamSpec("P")
R = TypeVar("R")

_MOST_WORKERS = 1000
# What is settled when a session is opened.
_OF_THE_SESSION = ("transport", "executable", "confinement", "connect_timeout", "asynchronous", "keep_children", "discard_excess")

_OWN_OPTIONS = ("max_workers", "preload", "initializer", "initargs", "initializer_timeout", "idle_timeout", "retries")


class DeliveryExecutor(concurrent.futures.Executor):
    """Runs calls over one session that stays open; every call is a process of its own.

    It forks them from a process in which nothing of the caller's has ever run, and closes the session when it is shut down.

    A delivered function keeps its own options, as far as they are not those of the session; of the others, the executor's
    hold where the function has none.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        initializer_timeout: float | None = None,
        idle_timeout: float | None = 60.0,
        retries: int = 0,
        **options: Any,
    ) -> None:
        """Nothing is opened before the first call.

        :param max_workers: how many calls may run at a time; the default is the number of processors here
        :param preload: names of modules that are imported once, in a template process from which the calls are then forked
        :param initializer: is called once there, as ``initializer(*initargs)``; what it leaves in global variables every
            call finds as it left it, and none sees what another does to it
        :param initargs: its arguments
        :param initializer_timeout: seconds that preloading and initializer may take; ``timeout`` and ``limits`` are of the calls
        :param idle_timeout: seconds without any call after which the session is closed, to be opened again for the next;
            None keeps it
        :param retries: how often a call is sent once more when it was lost with its session: it may then run twice
        :param options: see :class:`Options`
        :raises DeliveryOptionError: if an option is unknown or makes no sense
        """
        names = () if isinstance(preload, str) else tuple(preload)
        if isinstance(preload, str) or not all(isinstance(name, str) for name in names):
            raise DeliveryOptionError(f"preload must list names of modules, not {preload!r}")
        start = None
        if initializer is not None or names:
            start = Start(names, initializer, tuple(initargs), initializer_timeout)
        self._set_up(Options.of(options, others=_OWN_OPTIONS), max_workers, start, idle_timeout, retries)

    @classmethod
    def of(cls, options: Options, max_workers: int | None = None, idle_timeout: float | None = 60.0) -> DeliveryExecutor:
        """One with options that have been made already."""
        executor = cls.__new__(cls)
        executor._set_up(options, max_workers, None, idle_timeout, 0)
        return executor

    def _set_up(
        self,
        options: Options,
        max_workers: int | None,
        start: Start | None,
        idle_timeout: float | None,
        retries: int,
    ) -> None:
        self.options = options
        for name in ("asynchronous", "keep_children"):
            if getattr(self.options, name):
                raise DeliveryOptionError(f"{name} needs a call of its own: a session's processes end with it")
        if not self.options.discard_excess:
            raise DeliveryOptionError("discard_excess=False needs a call of its own: of a session's noise nobody knows whose it is")
        if max_workers is None:
            max_workers = os.cpu_count() or 1
        _check(max_workers, retries, idle_timeout)
        self._resolved = self.options.resolved()
        self._shares_state = start is not None
        template = None if start is None else functools.partial(start.journey, self._resolved)
        self._merged: weakref.WeakKeyDictionary[Runner[Any, Any], Options] = weakref.WeakKeyDictionary()
        self._dispatcher = Dispatcher(self._resolved, max_workers, idle_timeout, retries, template)
        # Who forgets to shut it down shall not leave a session behind.
        self._finalizer = weakref.finalize(self, self._dispatcher.close)
        self._finalizer.atexit = False

    @property
    def max_workers(self) -> int:
        """How many calls may run at a time."""
        return self._dispatcher.workers

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Delivery[R]:
        """Start the call as soon as a worker is free, and return its :class:`Delivery`.

        What cannot be packed is told by that, too.

        :raises RuntimeError: after :meth:`shutdown`
        """
        delivery: Delivery[R]
        try:
            journey = self._journey(fn, args, kwargs)
        except Exception as problem:
            if system.is_of_a_handler(problem):
                raise
            delivery = Delivery(None, getattr(fn, "__qualname__", repr(fn)))
            self._dispatcher.check()
            delivery.settle(None, problem)
            return delivery
        delivery = Delivery(journey)
        self._dispatcher.add(delivery)
        return delivery

    def _journey(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Journey:
        func, bound, options = self._parts_of(fn.func if isinstance(fn, Each) else fn)
        if isinstance(fn, Each):
            # In one process for all: with the function's own options, as alone.
            func, bound = Each(functools.partial(func, *bound) if bound else func), ()
        return Journey(func, (*bound, *args), kwargs, options, shares_state=self._shares_state)

    def _parts_of(self, fn: Any) -> tuple[Any, tuple[Any, ...], Options]:
        """The function itself, what it is bound to, and its options."""
        runner = fn.runner() if isinstance(fn, DeliveryBoy) else fn
        func, bound = (runner._function, runner._bound) if isinstance(runner, Runner) else (fn, ())
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise DeliveryOptionError(f"{fn!r} is a generator, and an executor's calls do not stream; deliver it, and call that")
        if not isinstance(runner, Runner):
            return func, bound, self._resolved
        options = self._merged.get(runner)
        if options is None:
            options = self._merged[runner] = self._merge(runner)
        return func, bound, options

    def _merge(self, fn: Runner[Any, Any]) -> Options:
        own = {
            field.name: getattr(fn.options, field.name)
            for field in dataclasses.fields(Options)
            if getattr(fn.options, field.name) != getattr(_DEFAULTS, field.name)
        }
        for name in _OF_THE_SESSION:
            if name in own and own[name] != getattr(self.options, name):
                raise DeliveryOptionError(
                    f"{fn!r} was delivered with {name}={own[name]!r}, but this executor's session has "
                    f"{getattr(self.options, name)!r}; give the executor the same, or submit its __wrapped__"
                )
            own.pop(name, None)
        if "limits" in own or "timeout" in own or "cwd" in own:
            return dataclasses.replace(dataclasses.replace(self.options, **own).resolved(), transport=self._resolved.transport)
        return dataclasses.replace(self._resolved, **own) if own else self._resolved

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Like the built-in ``map``, several calls at a time; results in order.

        :param timeout: seconds from now until each result must be there
        :param chunksize: so many items share one process
        :param buffersize: take no more items from the iterables than so many ahead of the results; None takes all at once
        :raises TimeoutError: from the iterator
        :raises ValueError: if *chunksize* or *buffersize* is less than 1
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        until = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        if chunksize == 1:
            starts: Iterator[Delivery[Any]] = (self.submit(fn, *item) for item in items)
        else:
            each: Any = Each(fn)
            starts = (self.submit(each, chunk) for chunk in _chunks(items, chunksize))
        ahead = deque(itertools.islice(starts, None if buffersize is None else -(-buffersize // chunksize)))
        results = _results(ahead, iter(()) if buffersize is None else starts, until)
        return results if chunksize == 1 else _items(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and close the session when there are none left.

        :param wait: return when that has happened; a Ctrl-C meanwhile is dealt with as one that ends the ``with`` block
        :param cancel_futures: cancel the calls that wait for a worker; as many as there are workers count as begun at once
        """
        try:
            self._dispatcher.close(cancel_futures)
            if wait:
                self._dispatcher.join()
        except KeyboardInterrupt:
            if wait:
                self._end_calls()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for all calls, and close the session.

        A Ctrl-C that ends the ``with`` block reaches the calls that run, and cancels those that wait; a second one kills.
        """
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            self.shutdown()
        else:
            self._end_calls()

    def _end_calls(self) -> None:
        """After a Ctrl-C: let those that run know of it, and wait; after another one kill them."""
        try:
            # First of all nothing else begins where one ends.
            self._dispatcher.close(cancel=True)
            self._dispatcher.request("interrupt")
            self._dispatcher.join()
        except KeyboardInterrupt:
            self._dispatcher.request("kill")
            self._dispatcher.close(cancel=True)
            self._dispatcher.join()
            raise

    def __repr__(self) -> str:
        return f"<DeliveryExecutor of {self._dispatcher.workers} via {describe(self.options.chain)}>"


_DEFAULTS = Options()


def _check(max_workers: int, retries: int, idle_timeout: float | None) -> None:
    if isinstance(max_workers, bool) or not isinstance(max_workers, int):
        raise DeliveryOptionError(f"max_workers must be a whole number, not {max_workers!r}")
    if max_workers < 1:
        # As the standard library's executors say it.
        raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
    if max_workers > _MOST_WORKERS:
        raise ValueError(f"max_workers must be at most {_MOST_WORKERS}, not {max_workers}")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise DeliveryOptionError(f"retries must be a whole number, not {retries!r}")
    if idle_timeout is not None and not (isinstance(idle_timeout, (int, float)) and idle_timeout >= 0):
        raise DeliveryOptionError(f"idle_timeout must be a number of seconds, or None, not {idle_timeout!r}")


def _as_module(name: str) -> Any:
    """The caller's own travels; others are imported over there, and need not be here."""
    spec = modules.find_spec(name)
    return importlib.import_module(name) if spec is not None and modules.kind_of(spec) == "own" else name


class Start:
    """What the template does first: the call that imports and initializes what the others share."""

    def __init__(self, preload: tuple[str, ...], initializer: Any, initargs: tuple[Any, ...], timeout: float | None) -> None:
        self.names = tuple(map(_as_module, preload))
        self.func = initializer.local if isinstance(initializer, Runner) else initializer
        self.initargs = initargs
        # Checked as any timeout is.
        self.timeout = Options(timeout=timeout).timeout
        named = getattr(self.func, "__qualname__", self.func)
        self.__qualname__ = "preloading" if initializer is None else f"initializer {named}"

    def journey(self, options: Options) -> Journey:
        """The call with the session's other options."""
        ready = dataclasses.replace(options, limits=Limits(), input=b"", timeout=self.timeout)
        return Journey(self, self.initargs, {}, ready, is_template=True, shares_state=True)

    @staticmethod
    def __deliveryboy_reduce__(start: Start) -> tuple[Any, ...]:
        return reconstructors.Start, (start.names, start.func)


class Each:
    """A function that is called for each item of a chunk, in one process; over there, where it is reconstructors.Each."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.__qualname__ = getattr(func, "__qualname__", type(func).__qualname__)

    @staticmethod
    def __deliveryboy_reduce__(each: Each) -> tuple[Any, ...]:
        return reconstructors.Each, (each.func,)


def _chunks(items: Iterator[tuple[Any, ...]], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


def _items(chunks: Generator[list[Any]]) -> Iterator[Any]:
    with contextlib.closing(chunks):
        for chunk in chunks:
            chunk.reverse()
            while chunk:
                yield chunk.pop()


def _results(ahead: deque[Delivery[Any]], more: Iterator[Delivery[Any]], until: float | None) -> Generator[Any]:
    try:
        while ahead:
            ahead.extend(itertools.islice(more, 1))
            # Nothing here keeps what has been handed out.
            yield _result(ahead.popleft(), until)
    finally:
        for delivery in ahead:
            delivery.cancel()


def _result(delivery: Delivery[Any], until: float | None) -> Any:
    try:
        return delivery.result(None if until is None else until - time.monotonic())
    finally:
        delivery.cancel()
        del delivery
