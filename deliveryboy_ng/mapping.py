"""A function over many arguments, several calls at a time: lazily, in order or as they end, with or without a progress bar."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .delivery import Delivery
from .exceptions import DeliveryOptionError
from .receipt import in_mebibytes

if TYPE_CHECKING:
    from .executor import DeliveryExecutor

__all__ = ["Way", "amap", "results"]

# Calls that are ready to be sent, for each that runs.
_AHEAD = 2


@dataclass(frozen=True)
class Way:
    """How to go over the arguments.

    :ivar owned: whether the executor is shut down at the end
    :ivar ordered: whether results are handed out in order
    :ivar return_exceptions: whether what a call raised is
    """

    executor: DeliveryExecutor
    owned: bool
    ordered: bool
    return_exceptions: bool

    def end(self, wait: bool) -> None:
        """No more calls will come."""
        if self.owned:
            self.executor.shutdown(wait=wait, cancel_futures=not wait)


def results(way: Way, func: Any, iterables: tuple[Any, ...], progress: bool) -> Iterator[Any]:
    """The results of *func*, with a bounded number of calls started ahead of what is taken."""
    return _results(way, func, iterables, _bar(progress, iterables))


def _results(way: Way, func: Any, iterables: tuple[Any, ...], bar: _NoBar) -> Iterator[Any]:
    starts = (bar.begun(way.executor.submit(func, *item)) for item in zip(*iterables, strict=False))
    under_way: deque[Delivery[Any]] = deque()
    waits = True
    try:
        under_way.extend(itertools.islice(starts, way.executor.max_workers * _AHEAD))
        while under_way:
            delivery = _next(under_way, way.ordered)
            bar.note(delivery)
            under_way.extend(itertools.islice(starts, 1))
            yield _outcome(delivery, way.return_exceptions)
    except GeneratorExit:
        # Who is thrown away may be so in any thread, and must not wait for another there.
        waits = False
        raise
    except KeyboardInterrupt:
        _interrupt(under_way)
        raise
    finally:
        bar.close()
        for delivery in under_way:
            delivery.cancel()
        way.end(waits)


def _interrupt(under_way: deque[Delivery[Any]]) -> None:
    """A Ctrl-C reaches the calls that run, which may tidy up; after another one whoever waits here kills them."""
    import concurrent.futures

    for delivery in under_way:
        if delivery.running():
            delivery.request("interrupt")
        else:
            delivery.cancel()
    concurrent.futures.wait(under_way)


def _outcome(future: Any, return_exceptions: bool) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if return_exceptions and isinstance(error, Exception):
        return error
    raise error


def _next(under_way: deque[Delivery[Any]], ordered: bool) -> Delivery[Any]:
    """The one whose result is to be handed out next, once it has ended."""
    import concurrent.futures

    which = [under_way[0]] if ordered else under_way
    done, _ = concurrent.futures.wait(which, return_when=concurrent.futures.FIRST_COMPLETED)
    delivery = next(each for each in under_way if each in done)
    under_way.remove(delivery)
    return delivery


async def amap(way: Way, func: Any, iterables: tuple[Any, ...]) -> AsyncIterator[Any]:
    """The same for asyncio."""
    import asyncio

    items = _zipped(iterables)
    under_way: dict[asyncio.Future[Any], Delivery[Any]] = {}
    # The next item, which may take its time: nobody's result waits for it.
    coming: asyncio.Future[Any] | None = asyncio.ensure_future(anext(items, None))
    try:
        while coming is not None or under_way:
            waits = coming is not None and len(under_way) < way.executor.max_workers * _AHEAD
            next_ones = list(itertools.islice(under_way, 1 if way.ordered else None))
            # Until it is done it stays with those that are cancelled should the wait be.
            done, _ = await asyncio.wait([*next_ones, *([coming] if waits else ())], return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming in done:
                item = coming.result()
                if item is not None:
                    delivery = way.executor.submit(func, *item)
                    under_way[asyncio.wrap_future(delivery)] = delivery
                coming = None if item is None else asyncio.ensure_future(anext(items, None))
            future = next((each for each in next_ones if each in done), None)
            if future is not None:
                del under_way[future]
                yield _outcome(future, way.return_exceptions)
    finally:
        for future in under_way:
            if not future.cancel() and not future.cancelled():
                future.exception()  # or asyncio complains that nobody has asked for it
        # Their futures would tell them only when the loop turns again, which it need not.
        for delivery in under_way.values():
            delivery.cancel()
        # Waiting for the last of them would hold the loop up; what runs is killed.
        way.end(wait=False)
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
            if not coming.cancelled():
                coming.exception()
        await items.aclose()


async def _zipped(iterables: tuple[Any, ...]) -> AsyncGenerator[tuple[Any, ...]]:
    """``zip`` of ordinary and asynchronous iterables."""
    iterators = [each.__aiter__() if hasattr(each, "__aiter__") else iter(each) for each in iterables]
    while iterators:
        item = []
        for iterator in iterators:
            try:
                item.append(await iterator.__anext__() if hasattr(iterator, "__anext__") else next(iterator))
            except (StopIteration, StopAsyncIteration):
                return
        yield tuple(item)


# --- progress ---------------------------------------------------------------------------------------------------------


class _NoBar:
    def begun(self, delivery: Delivery[Any]) -> Delivery[Any]:
        """Nobody wants to know."""
        return delivery

    def note(self, delivery: Delivery[Any]) -> None:
        """Nor that it has ended."""

    def close(self) -> None:
        """There is nothing to close."""


class _Bar(_NoBar):
    """A tqdm bar that tells how many run, how many failed, and the most memory that one call had."""

    def __init__(self, tqdm: Any, total: int | None) -> None:
        self._bar = tqdm(total=total)
        self._under_way: set[Delivery[Any]] = set()
        self._failed = self._peak = 0

    def begun(self, delivery: Delivery[Any]) -> Delivery[Any]:
        self._under_way.add(delivery)
        self._show()
        return delivery

    def note(self, delivery: Delivery[Any]) -> None:
        self._under_way.discard(delivery)
        self._failed += delivery.exception() is not None
        try:
            self._peak = max(self._peak, delivery.receipt().usage.peak)
        except Exception:
            pass  # it never began
        self._bar.update()
        self._show()

    def _show(self) -> None:
        running = sum(each.running() for each in self._under_way)
        # Later it is shown with what has ended, and not too often.
        is_first = not self._bar.n
        self._bar.set_postfix_str(f"{running} running, {self._failed} failed, at most {in_mebibytes(self._peak)}", refresh=is_first)

    def close(self) -> None:
        self._bar.close()


def _bar(progress: Any, iterables: tuple[Iterable[Any], ...]) -> _NoBar:
    if not progress:
        return _NoBar()
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        raise DeliveryOptionError("progress=True shows a bar of tqdm, which is not installed: pip install tqdm") from None
    sizes = [len(each) for each in iterables if isinstance(each, Sized)]
    return _Bar(tqdm, min(sizes) if sizes else None)
