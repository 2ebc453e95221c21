"""Unpacks what a call sent back: its value, or its exception with chain, notes and traceback."""

from __future__ import annotations

import io
import linecache
import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from .exceptions import DeliveryPickleError, RemoteError
from .worker import rebuild

__all__ = ["Data", "Origin", "Pickles", "Reader", "stand_in", "with_frames"]

Buffer = bytes | memoryview
_LONGEST_SOURCE = 100_000
"""Lines up to which a file that only the far side has is shown with its source."""


class _Unpickler(pickle.Unpickler):
    """Puts the caller's own functions and classes where the reply names them by number."""

    def __init__(self, data: Buffer, own: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._own = own

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (rebuild.REPLY_MODULE, "yours"):
            return self._own.__getitem__
        return super().find_class(module, name)


@dataclass(frozen=True)
class Origin:
    """Where a traceback's frames ran, and how file names of that place are shown here."""

    name: str
    elsewhere: bool


class Reader(Protocol):
    """Reads what an answer holds."""

    def value(self, data: Buffer) -> Any:
        """The value that was returned.

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

    def value(self, data: Buffer) -> Any:
        try:
            return _Unpickler(data, self.own).load()
        except Exception as error:
            raise _unreadable("returned, but its value cannot be rebuilt here", error) from error

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        try:
            records = _Unpickler(data, self.own).load()
            errors = [_rebuild(record, self.own, origin) for record in records]
            for place, error in enumerate(errors):
                _link(error, place, records, errors)
            return errors[0], str(records[0]["limit"])
        except Exception as error:
            raise _unreadable("raised, but its exception cannot be read", error) from error


@dataclass(frozen=True)
class Data:
    """Answers of anybody.

    :ivar accepts: classes of which instances may be made, by name
    """

    accepts: Mapping[str, type]

    def value(self, data: Buffer) -> Any:
        from . import decoding

        try:
            return decoding.decode(data, self.accepts)
        except decoding.Undecodable as error:
            raise _unreadable("returned, but what came is no data", error) from error

    def exception(self, data: Buffer, origin: Origin) -> tuple[BaseException, str]:
        from . import decoding, untrusted

        try:
            return untrusted.exception(decoding.decode(data, {}), self.accepts, origin)
        except decoding.Undecodable as error:
            raise _unreadable("raised, but its exception cannot be read", error) from error


def _unreadable(what: str, error: Exception) -> DeliveryPickleError:
    return DeliveryPickleError(f"the function {what}: {type(error).__name__}: {error}", real_exception=error)


def _rebuild(record: dict[str, Any], own: Mapping[str, Any], origin: Origin) -> BaseException:
    frames = [_shown(frame, origin) for frame in record["frames"]]
    error, reason = _unpickled(record, own)
    if error is None:
        error = stand_in(record, frames, reason)
    return with_frames(error, frames)


def _unpickled(record: dict[str, Any], own: Mapping[str, Any]) -> tuple[BaseException | None, str]:
    if isinstance(record["packed"], str):
        return None, record["packed"]
    try:
        error = _Unpickler(record["packed"], own).load()
    except Exception as failure:
        return None, f"{type(failure).__name__}: {failure}"
    return (error, "") if isinstance(error, BaseException) else (None, "it unpickled to something else")


def stand_in(record: Mapping[str, Any], frames: list[tuple[str, int, str]], reason: str) -> RemoteError:
    """A RemoteError that tells what the record does; *frames* are file, line number and function."""
    name = record["name"] if record["module"] == "builtins" else f"{record['module']}.{record['name']}"
    summary = traceback.StackSummary.from_list([traceback.FrameSummary(file, line, function) for file, line, function in frames])
    text = "Traceback (most recent call last):\n" + "".join(summary.format()) + f"{name}: {record['text']}\n"
    error = RemoteError(f"{name}: {record['text']}", type_name=name, message=record["text"], traceback_text=text, reason=reason)
    for note in record["notes"]:
        error.add_note(note)
    return error


def _link(error: BaseException, place: int, records: list[dict[str, Any]], errors: list[BaseException]) -> None:
    record = records[place]
    if record["cause"] is not None:
        error.__cause__ = errors[record["cause"]]
    if record["context"] is not None:
        error.__context__ = errors[record["context"]]
    error.__suppress_context__ = record["suppress"]
    if isinstance(error, BaseExceptionGroup):
        # The members were pickled once more within their group, without all that is linked here.
        for member, own in zip(error.exceptions, record["members"], strict=False):
            if own is not None and member is not errors[own]:
                member.__traceback__ = errors[own].__traceback__
                _link(member, own, records, errors)


def _shown(frame: tuple[str, int, str, str], origin: Origin) -> tuple[str, int, str]:
    """The frame with a file name under which this side finds the very line that ran over there."""
    file, line, function, text = frame
    here = linecache.getline(file, line).strip()
    if here == text or (here and not text):
        return file, line, function
    if not text and not origin.elsewhere:
        return file, line, function
    name = f"<{origin.name}: {file}>"
    known = linecache.cache.get(name)
    lines: list[str] = list(known[2]) if known is not None and len(known) == 4 else []
    if line <= _LONGEST_SOURCE:
        lines += ["\n"] * (line - len(lines))
    if text and 0 < line <= len(lines):
        lines[line - 1] = text + "\n"
    # Without a modification time linecache never asks the disk for it.
    linecache.cache[name] = (len(lines), None, lines, name)
    return name, line, function


def with_frames(error: BaseException, frames: list[tuple[str, int, str]]) -> BaseException:
    """The exception with a traceback of these frames: file, line number and function."""
    return BaseException.with_traceback(error, _traceback(frames))


def _traceback(frames: list[tuple[str, int, str]]) -> TracebackType | None:
    import tblib

    chain: dict[str, Any] | None = None
    for file, line, function in reversed(frames):
        frame = {"f_globals": {"__name__": "", "__file__": file}, "f_locals": {}, "f_lineno": line}
        frame["f_code"] = {"co_filename": file, "co_name": function}
        chain = {"tb_frame": frame, "tb_lineno": line, "tb_next": chain}
    return None if chain is None else tblib.Traceback.from_dict(chain).as_traceback()
