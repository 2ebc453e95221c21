"""Exceptions of somebody who is not trusted: made of data, and of classes that the caller has already.

An exception comes back as its own class only where that class can be found without importing anything, and can be made and
filled without running anything of its own.  Everything else becomes RemoteError.
"""

from __future__ import annotations

import builtins
import functools
import linecache
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, cast

from . import decoding
from .bounds import Undecodable
from .tracebacks import Origin, stand_in, with_frames

__all__ = ["exception"]

_MOST_RECORDS = 20
_MOST_FRAMES = 200
_MOST_NOTES = 100
_LONGEST_LINE = 500
_LONGEST_NAME = 500
_LONGEST_FILE = 4096
_LONGEST_TEXT = 1 << 16
_LAST_LINE = 1_000_000
# Sources that are kept, lines of each, and characters of all.
_MOST_SOURCES, _MOST_LINES, _MOST_CHARACTERS = 1000, 1000, 1 << 22
_HEAP_TYPE = 1 << 9
_FORBIDDEN = (
    *("__new__", "__del__", "__setattr__", "__getattr__", "__getattribute__", "__delattr__"),
    *("__cause__", "__context__", "__suppress_context__", "__traceback__", "with_traceback", "args"),
)
_NEVER = (StopIteration, StopAsyncIteration)
_Show = Callable[[tuple[str, int, str, str]], tuple[str, int, str]]
_KEYS = {"module", "name", "text", "notes", "frames", "cause", "context", "suppress", "members", "packed", "limit"}


def exception(records: Any, accepts: Mapping[str, type], origin: Origin) -> tuple[BaseException, str]:
    """The first of the records' exceptions, with all that belongs to it, and the name of its limit.

    :raises Undecodable: if the records make no sense
    """
    # What is shared is gone through once, not wherever it is referred to.
    clean = functools.cache(_printable)
    show = functools.cache(functools.partial(_shown, origin=origin))
    try:
        return _all_rebuilt([_checked(record, clean) for record in _some(list, records, _MOST_RECORDS)], accepts, show)
    except RecursionError:
        raise Undecodable("there is too little room for its frames") from None


def _all_rebuilt(checked: list[dict[str, Any]], accepts: Mapping[str, type], show: _Show) -> tuple[BaseException, str]:
    if not checked:
        raise Undecodable("there is no exception")
    errors: dict[int, BaseException] = {}
    members: set[int] = set()
    contents: set[int] = set()
    # From the last one: those that belong to an exception come after it, so nothing can belong to itself.
    for place in range(len(checked) - 1, -1, -1):
        record = checked[place]
        own = [number for number in dict.fromkeys(record["members"]) if number in errors and number not in members]
        # In one group, once: else they would unfold when they are shown.
        members.update(own)
        if id(record["packed"]) in contents:
            raise Undecodable("exceptions share what they consist of")
        if type(record["packed"]) is bytes:
            contents.add(id(record["packed"]))
        errors[place] = _rebuilt(record, [errors[number] for number in own], errors, accepts, show)
    return errors[0], checked[0]["limit"]


def _rebuilt(
    record: Mapping[str, Any],
    members: list[BaseException],
    later: Mapping[int, BaseException],
    accepts: Mapping[str, type],
    show: _Show,
) -> BaseException:
    frames = list(map(show, record["frames"]))
    try:
        error: BaseException = _made(record, members, accepts)
    except Undecodable as reason:
        error = stand_in(record, frames, _printable(str(reason)))
    else:
        if record["notes"]:
            _dict_of(error)["__notes__"] = list(record["notes"])
    # Not through the instance: its class may have its own of these names.
    for name in ("cause", "context"):
        if record[name] in later:
            BaseException.__dict__[f"__{name}__"].__set__(error, later[record[name]])
    BaseException.__dict__["__suppress_context__"].__set__(error, record["suppress"])
    return with_frames(error, frames)


# --- what a record may be ---------------------------------------------------------------------------------------------


def _some(kind: type[Any], value: Any, most: int) -> Any:
    if type(value) is not kind or len(value) > most:
        raise Undecodable(f"an exception's record holds no {kind.__name__}, or too long a one")
    return value


def _checked(record: Any, clean: Callable[..., str]) -> dict[str, Any]:
    if type(record) is not dict or set(record) != _KEYS:
        raise Undecodable("an exception's record is incomplete")
    frames = [_checked_frame(frame) for frame in _some(list, record["frames"], _MOST_FRAMES)]
    places = [record["cause"], record["context"], *_some(list, record["members"], _MOST_RECORDS)]
    if not all(place is None or type(place) is int for place in places) or type(record["suppress"]) is not bool:
        raise Undecodable("an exception's record makes no sense")
    packed = record["packed"]
    if type(packed) is not bytes:
        packed = _cut(packed)
    return {
        **record,
        "module": _printable(_some(str, record["module"], _LONGEST_NAME)),
        "name": _printable(_some(str, record["name"], _LONGEST_NAME)),
        "text": clean(_cut(record["text"]), "\n"),
        "notes": [clean(_cut(note), "\n") for note in _some(list, record["notes"], sys.maxsize)[:_MOST_NOTES]],
        "frames": frames,
        "limit": _some(str, record["limit"], _LONGEST_NAME),
        "packed": packed,
    }


def _cut(text: Any) -> str:
    if type(text) is not str:
        raise Undecodable("an exception's record holds no text")
    return text[:_LONGEST_TEXT]


def _checked_frame(frame: Any) -> tuple[str, int, str, str]:
    if type(frame) is not tuple or len(frame) != 4:
        raise Undecodable("a frame makes no sense")
    file, line, function, text = frame
    # Python knows none for some instructions.
    line = 1 if line is None else line
    if type(line) is not int or not 0 < line < _LAST_LINE:
        raise Undecodable("a frame has no line number")
    return (
        _some(str, file, _LONGEST_FILE),
        line,
        _some(str, function, _LONGEST_NAME),
        _some(str, text, _LONGEST_LINE),
    )


# --- frames -----------------------------------------------------------------------------------------------------------


class _Lines(list[str]):
    """Source lines of which only some are known; as long as the last of them wants it, without holding the others.

    :ivar characters: of those that are known
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, str] = {}
        self.length = self.characters = 0

    def know(self, line: int, text: str) -> None:
        """Note one line, numbered from 1; there are only so many."""
        if len(self.known) >= _MOST_LINES:
            self.known.clear()
            self.characters = 0
        self.characters += len(text) - len(self.known.get(line - 1, ""))
        self.known[line - 1] = text
        self.length = max(self.length, line)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self.known.get(each, "\n") for each in range(*place.indices(len(self)))]
        return self.known.get(place, "\n")

    def __iter__(self) -> Iterator[str]:
        return (self.known.get(place, "\n") for place in range(len(self)))


class _Sources:
    """What linecache is told of: the sources that were shown last, no more than there may be."""

    def __init__(self) -> None:
        # Answers are read in several threads, and what linecache has is anybody's.
        self._lock = threading.Lock()
        self._kept: dict[str, _Lines] = {}
        self._characters = 0

    def show(self, name: str, line: int, text: str) -> None:
        with self._lock:
            lines = self._forget(name) if name in self._kept else _Lines()
            lines.know(line, text)
            self._kept[name] = lines
            self._characters += len(name) + lines.characters
            # Without a modification time linecache never asks the disk for it.
            linecache.cache[name] = (len(lines), None, lines, name)
            while len(self._kept) > _MOST_SOURCES or (self._characters > _MOST_CHARACTERS and len(self._kept) > 1):
                self._forget(next(iter(self._kept)))

    def _forget(self, name: str) -> _Lines:
        lines = self._kept.pop(name)
        self._characters -= len(name) + lines.characters
        linecache.cache.pop(name, None)
        return lines


_sources = _Sources()


def _shown(frame: tuple[str, int, str, str], origin: Origin) -> tuple[str, int, str]:
    """The frame under a name that is no file's, with a source that comes from the reply alone."""
    file, line, function, text = frame
    name = f"<deliveryboy {_printable(origin.name)}:{_printable(file)[:_LONGEST_FILE]}>"
    _sources.show(name, line, f"{_printable(text)}\n")
    return name, line, _printable(function)


def _printable(text: str, allowed: str = "") -> str:
    """Without what would make a terminal, or the lines of a traceback, look like something else."""
    return text if text.isprintable() else text.translate(_Escapes(allowed))


class _Escapes(dict[int, str]):
    """What is shown for each character, of those that one text has."""

    def __init__(self, allowed: str) -> None:
        super().__init__({ord("\t"): " ", **{ord(character): character for character in allowed}})

    def __missing__(self, number: int) -> str:
        character = chr(number)
        self[number] = shown = character if character.isprintable() else character.encode("unicode_escape").decode()
        return shown


# --- classes ----------------------------------------------------------------------------------------------------------


def _made(record: Mapping[str, Any], members: list[BaseException], accepts: Mapping[str, type]) -> Exception:
    """:raises Undecodable: if it cannot be had without running something"""
    if type(record["packed"]) is str:
        raise Undecodable(record["packed"])
    content = decoding.decode(record["packed"], accepts)
    if type(content) is not list or [type(part) for part in content] != [list, dict, dict]:
        raise Undecodable("an exception's content makes no sense")
    kind = _class_called(record["module"], record["name"])
    args, attributes, extra = content
    error = _constructed(kind, _builtin_base(kind), args, extra, members)
    namespace = _dict_of(error)
    for name, value in attributes.items():
        if type(name) is str and not (name.startswith("__") and name.endswith("__")) and not _is_descriptor(kind, name):
            namespace[name] = value
    return error


def _class_called(module: str, name: str) -> type[Exception]:
    """The class of that name, looked up in dictionaries alone."""
    found: Any = sys.modules.get(module)
    if type(found) is not ModuleType or module.partition(".")[0] == __name__.partition(".")[0]:
        raise Undecodable("its class is not known here")
    namespace: Any = ModuleType.__getattribute__(found, "__dict__")
    for part in name.split("."):
        found = namespace.get(part)
        if type(found) is not type:
            raise Undecodable("its class is not known here")
        namespace = type.__dict__["__dict__"].__get__(found)
    line = _line_of(found)
    if Exception not in line or any(never in line for never in _NEVER):
        raise Undecodable("its class is not made of data alone")
    for kind in line:
        if str(type.__dict__["__module__"].__get__(kind)).partition(".")[0] == __name__.partition(".")[0]:
            raise Undecodable("its class is not known here")
        if kind.__flags__ & _HEAP_TYPE and any(special in vars(kind) for special in _FORBIDDEN):
            raise Undecodable(f"its class has a {next(special for special in _FORBIDDEN if special in vars(kind))} of its own")
    return cast("type[Exception]", found)


def _line_of(kind: type) -> tuple[type, ...]:
    return type.__dict__["__mro__"].__get__(kind)  # type: ignore[no-any-return]


def _builtin_base(kind: type) -> type[Exception]:
    for base in _line_of(kind):
        if not base.__flags__ & _HEAP_TYPE:
            if issubclass(base, Exception) and vars(builtins).get(base.__name__) is base:
                return cast("type[Exception]", base)
            break
        if base is ExceptionGroup:
            return ExceptionGroup
    raise Undecodable("its class is not made of data alone")


def _constructed(
    kind: type[Exception], base: type[Exception], args: list[Any], extra: Mapping[str, Any], members: list[BaseException]
) -> Exception:
    """Made by its built-in base, which looks at the arguments; so these are looked at before."""
    keywords: dict[str, Any] = {}
    if base is ExceptionGroup:
        if len(args) != 1 or type(args[0]) is not str or not members or not all(isinstance(each, Exception) for each in members):
            raise Undecodable("a group without members")
        args = [args[0], members]
    elif issubclass(base, OSError):
        if len(args) == 2 and type(args[0]) is int and type(args[1]) is str:
            names = [extra.get("filename"), extra.get("filename2")]
            if type(names[0]) is str:
                args = [*args, names[0], *([None, names[1]] if type(names[1]) is str else [])]
        elif len(args) > 1:
            raise Undecodable("an OSError with other arguments")
    elif issubclass(base, ImportError):
        keywords = {name: extra[name] for name in ("name", "path") if type(extra.get(name)) is str}
    elif issubclass(base, SyntaxError):
        _check_syntax_error(args)
    elif issubclass(base, UnicodeError) and base is not UnicodeError:
        _check_unicode_error(base, args)
    try:
        error = base.__new__(kind, *args)
        if type(error) is kind:
            base.__init__(error, *args, **keywords)
    except Exception as problem:
        raise Undecodable(f"its arguments make no sense: {type(problem).__name__}") from problem
    return error


def _check_syntax_error(args: list[Any]) -> None:
    if args and type(args[0]) is not str:
        raise Undecodable("a SyntaxError with other arguments")
    if len(args) > 1:
        where = args[1]
        kinds = (str, int, int, str, int, int)
        if len(args) > 2 or type(where) is not tuple or len(where) not in (4, 6):
            raise Undecodable("a SyntaxError with other arguments")
        if not all(
            part is None or (type(part) is kind and -1 <= _size(part) < _LAST_LINE)
            for part, kind in zip(where, kinds, strict=False)
        ):
            raise Undecodable("a SyntaxError with other arguments")
        if where[0] is not None:
            args[1] = (f"<deliveryboy {_printable(where[0])}>", *where[1:])


def _size(part: Any) -> int:
    return len(part) if isinstance(part, str) else int(part)


def _check_unicode_error(base: type, args: list[Any]) -> None:
    text_kind = bytes if base is UnicodeDecodeError else str
    kinds = [text_kind, int, int, str] if base is UnicodeTranslateError else [str, text_kind, int, int, str]
    if [type(arg) for arg in args] != kinds:
        raise Undecodable("a UnicodeError with other arguments")
    text, start, end = args[-4:-1]
    if not 0 <= start <= end <= len(text):
        raise Undecodable("a UnicodeError of another text")


def _dict_of(error: BaseException) -> dict[str, Any]:
    return BaseException.__dict__["__dict__"].__get__(error)  # type: ignore[no-any-return]


def _is_descriptor(kind: type, name: str) -> bool:
    """Whether the class has a method, property or slot of that name, which would be hidden or written to."""
    for base in _line_of(kind):
        if name in vars(base):
            found = _line_of(type(vars(base)[name]))
            return any(special in vars(each) for each in found for special in ("__get__", "__set__", "__delete__"))
    return False
