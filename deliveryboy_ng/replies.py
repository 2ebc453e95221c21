"""Unpacks what a call sent back: its value, or its exception with chain, notes and traceback."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .exceptions import DeliveryPickleError
from .tracebacks import Origin, shown, stand_in, with_frames
from .worker import rebuild, system

__all__ = ["Data", "Known", "Pickles", "Reader"]

Buffer = bytes | memoryview


class _Unpickler(pickle.Unpickler):
    """Puts the caller's own functions and classes where the reply names them by number."""

    def __init__(self, data: Buffer, own: Mapping[str, Any], pieces: Iterable[Any] = ()) -> None:
        super().__init__(io.BytesIO(data), buffers=pieces)
        self._own = own

    def find_class(self, module: str, name: str) -> Any:
        if module == rebuild.REPLY_MODULE:
            return self._own.__getitem__ if name == "yours" else getattr(rebuild, name)
        return super().find_class(rebuild.home_of(module), name)


class Reader(Protocol):
    """Reads what an answer holds."""

    def value(self, data: Buffer, pieces: Iterable[Any] = ()) -> Any:
        """The value that was returned.

        :param pieces: what is large in it and has come apart from it

        :raises DeliveryPickleError: if it cannot be rebuilt here
        """

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        """The exception that was raised, chained as it was, or RemoteError for what cannot be rebuilt.

        With it the name of the limit that it comes from, as the far side sees it.

        :raises DeliveryPickleError: if the reply makes no sense
        """


@dataclass(frozen=True)
class Pickles:
    """Answers of somebody who may do here what he likes anyhow.

    :ivar own: the caller's own functions and classes that the box held, by number
    """

    own: Mapping[str, Any]

    def value(self, data: Buffer, pieces: Iterable[Any] = ()) -> Any:
        try:
            return _Unpickler(data, self.own, pieces).load()
        except Exception as error:
            if system.is_of_a_handler(error):
                raise
            raise _unreadable("returned, but its value cannot be rebuilt here", error) from error

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        try:
            records = _Unpickler(data, self.own).load()
            errors = [_rebuild(record, self.own, origin) for record in records]
            for place, error in enumerate(errors):
                _link(error, place, records, errors)
            return errors[0], str(records[0]["limit"])
        except Exception as error:
            if system.is_of_a_handler(error):
                raise
            raise _unreadable("raised, but its exception cannot be read", error) from error


@dataclass(frozen=True)
class Data:
    """Answers of anybody.

    :ivar accepts: classes of which instances may be made, by name
    """

    accepts: Mapping[str, type]

    def value(self, data: Buffer, pieces: Iterable[Any] = ()) -> Any:
        from . import decoding

        try:
            return decoding.decode(data, self.accepts, pieces)
        except decoding.Undecodable as error:
            raise _unreadable("returned, but what came is no data", error) from error

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        from . import decoding, untrusted

        try:
            return untrusted.exception(decoding.decode(data, {}), self.accepts, origin)
        except decoding.Undecodable as error:
            raise _unreadable("raised, but its exception cannot be read", error) from error


@dataclass(frozen=True)
class Known:
    """An answer that has been read already: a value."""

    known: Any

    def value(self, data: Buffer, pieces: Iterable[Any] = ()) -> Any:
        return self.known

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        raise DeliveryPickleError("the function returned, and raised as well")


def _unreadable(what: str, error: Exception) -> DeliveryPickleError:
    return DeliveryPickleError(f"the function {what}: {type(error).__name__}: {error}", real_exception=error)


def _rebuild(record: dict[str, Any], own: Mapping[str, Any], origin: Origin) -> BaseException:
    frames = [shown(frame, origin) for frame in record["frames"]]
    error, reason = _unpickled(record, own)
    if error is None:
        error = stand_in(record, frames, reason)
    elif record["notes"] and not getattr(error, "__notes__", None):
        # Its class says how it is made, and leaves them out.
        BaseException.__dict__["__dict__"].__get__(error)["__notes__"] = list(record["notes"])
    return with_frames(error, frames)


def _unpickled(record: dict[str, Any], own: Mapping[str, Any]) -> tuple[BaseException | None, str]:
    if isinstance(record["packed"], str):
        return None, record["packed"]
    try:
        error = _Unpickler(record["packed"], own).load()
    except Exception as failure:
        if system.is_of_a_handler(failure):
            raise
        return None, f"{type(failure).__name__}: {failure}"
    return (error, "") if isinstance(error, BaseException) else (None, "it unpickled to something else")


def _link(error: BaseException, place: int, records: list[dict[str, Any]], errors: list[BaseException]) -> None:
    record = records[place]
    # An exception may let nobody set anything.
    if record["cause"] is not None:
        BaseException.__dict__["__cause__"].__set__(error, errors[record["cause"]])
    if record["context"] is not None:
        BaseException.__dict__["__context__"].__set__(error, errors[record["context"]])
    BaseException.__dict__["__suppress_context__"].__set__(error, record["suppress"])
    if isinstance(error, BaseExceptionGroup):
        # The members were pickled once more within their group, without all that is linked here.
        for member, own in zip(error.exceptions, record["members"], strict=False):
            if own is not None and member is not errors[own]:
                member.__traceback__ = errors[own].__traceback__
                _link(member, own, records, errors)
