"""Packs an exception with everything around it, so that the caller can raise it again.

Contract: far side, standard library only, Python 3.8+.  ``pack(error, form, limit)`` gives a list of records, packed; record 0
is the exception itself, others are referred to by their place in the list.  What an exception consists of is packed on its own,
so that one which cannot be does not take its neighbours with it.  *form* is rebuild.py (pickle) or codec.py (data).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_FRAMES = 200
LONGEST_LINE = 500


def text_of(error: BaseException) -> str:
    """str(error), whatever a class does in ``__str__``."""
    try:
        return str(error)
    except BaseException as second:
        return "<%s.__str__ raised %s>" % (type(error).__name__, type(second).__name__)


def pack(error: BaseException, form: "Any", limit: str) -> bytes:
    """Records of *error*, its causes, contexts and group members; *limit* is the name of the limit it comes from, if any."""
    found = [error]
    places = {id(error): 0}
    records: "list[dict[str, Any]]" = []

    def place(other: object) -> "int | None":
        if not isinstance(other, BaseException) or len(found) >= form.MOST_RECORDS:
            return places.get(id(other))
        if id(other) not in places:
            places[id(other)] = len(found)
            found.append(other)
        return places[id(other)]

    for each in found:
        kind = type(each)
        records.append(
            {
                "module": str(kind.__module__),
                "name": str(kind.__qualname__),
                "text": text_of(each),
                "notes": [note for note in _notes(each) if isinstance(note, str)],
                "frames": _frames(each.__traceback__),
                "cause": place(each.__cause__),
                "context": place(each.__context__),
                "suppress": bool(each.__suppress_context__),
                "members": [place(member) for member in _members(each)],
                "packed": _packed(each, form),
                "limit": "" if records else limit,
            }
        )
    try:
        return form.dumps(records)  # type: ignore[no-any-return]
    except MemoryError:
        for record in records:
            record.update(text=record["text"][:LONGEST_LINE], packed="MemoryError", notes=[])
        return form.dumps(records)  # type: ignore[no-any-return]


def let_go(error: BaseException) -> None:
    """Drop the local variables of the frames that failed: after a MemoryError they are what fills the memory."""
    seen = set()
    following: "list[BaseException | None]" = [error]
    while following:
        each = following.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        following += [each.__cause__, each.__context__]
        traceback = each.__traceback__
        while traceback is not None:
            try:
                traceback.tb_frame.clear()
            except RuntimeError:
                pass  # it is still being executed
            traceback = traceback.tb_next


def _notes(error: BaseException) -> "list[object]":
    notes = getattr(error, "__notes__", ())
    return list(notes) if isinstance(notes, (list, tuple)) else []


def is_group(error: BaseException) -> bool:
    """Whether it is an exception group, which Python before 3.11 has by a package only."""
    return "BaseExceptionGroup" in [base.__name__ for base in type(error).__mro__]


def _members(error: BaseException) -> "tuple[object, ...]":
    members = getattr(error, "exceptions", ()) if is_group(error) else ()
    return members if isinstance(members, tuple) else ()


def _packed(error: BaseException, form: "Any") -> "bytes | str":
    """What it consists of, or in words why that cannot be packed."""
    try:
        return form.dumps_error(error)  # type: ignore[no-any-return]
    except BaseException as reason:
        return "%s: %s" % (type(reason).__name__, text_of(reason))


def _frames(traceback: "Any") -> "list[tuple[str, int, str, str]]":
    """(file, line number, function, source line) of each frame that is not the worker's own."""
    frames = []
    while traceback is not None:
        frame = traceback.tb_frame
        if not str(frame.f_globals.get("__name__", "")).startswith("deliveryboy_ng.worker."):
            code = frame.f_code
            frames.append((code.co_filename, traceback.tb_lineno, code.co_name, frame.f_globals))
        traceback = traceback.tb_next
    if len(frames) > MOST_FRAMES:
        half = MOST_FRAMES // 2
        frames = frames[:half] + frames[-half:]
    lines: "dict[tuple[str, int], str]" = {}
    for file, number, _, namespace in frames:
        if (file, number) not in lines:
            lines[file, number] = _line(file, number, namespace)
    # Of code that was made by hand nobody may know the lines.
    return [(file, number or 1, name, lines[file, number]) for file, number, name, _ in frames]


def _line(file: str, number: "int | None", namespace: "dict[str, Any]") -> str:
    """The source line as this side knows it, or nothing."""
    if number is None:
        return ""
    loader = namespace.get("__loader__")
    try:
        if type(loader).__module__ == "deliveryboy_ng.worker.shipped":
            lines = (loader.get_source("") or "").encode("utf-8", "replace").split(b"\n", number)  # type: ignore[union-attr]
            line = lines[number - 1] if number <= len(lines) else b""
        elif file.startswith("/"):
            line = _line_of_file(file, number)
        else:
            return ""
    except (OSError, AttributeError, MemoryError):
        return ""
    return line.decode("utf-8", "replace").strip()[:LONGEST_LINE]


def _line_of_file(file: str, number: int) -> bytes:
    """Read so that next to no memory is needed: there may be none."""
    with open(file, "rb") as source:
        for _ in range(number - 1):
            if not source.readline(1 << 16):
                return b""
        return source.readline(1 << 16)
