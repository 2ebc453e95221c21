"""Answers importlib.resources from the data files that travelled with a package.

Contract: far side, standard library only, Python 3.8+.  Implements both protocols: ``files()`` of 3.9 and later, and the
four methods of ``importlib.abc.ResourceReader`` that 3.8 asks for.
"""

import io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def content(data: "dict[str, bytes | None]", path: str, shown: str) -> bytes:
    """What is in a package's file."""
    above = path
    while above and above not in data:
        above = above.rpartition("/")[0]
    found = data.get(above)
    if above in data and found is None:
        raise PermissionError(13, "the caller was not permitted to read it, so it did not travel", shown)
    if found is None or above != path:
        raise FileNotFoundError(2, "not among the files that travelled", shown)
    return found


class Reader:
    """The resources of one package, ``{path within the package: bytes, or None if it could not be read}``."""

    def __init__(self, data: "dict[str, bytes | None]") -> None:
        self._data = data

    def files(self) -> "Entry":
        return Entry(self._data, "")

    def open_resource(self, resource: str) -> io.BytesIO:
        return io.BytesIO(content(self._data, resource, resource))

    def resource_path(self, resource: str) -> str:
        raise FileNotFoundError(2, "the package travelled in memory", resource)

    def is_resource(self, name: str) -> bool:
        return name in self._data

    def contents(self) -> "list[str]":
        return [entry.name for entry in self.files().iterdir()]


class Entry:
    """One file or folder, as ``importlib.resources.abc.Traversable`` describes it."""

    def __init__(self, data: "dict[str, bytes | None]", path: str) -> None:
        self._data = data
        self._path = path

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    def __repr__(self) -> str:
        return "<travelled resource %r>" % self._path

    def is_file(self) -> bool:
        return self._path in self._data

    def is_dir(self) -> bool:
        return not self._path or any(path.startswith(self._path + "/") for path in self._data)

    def joinpath(self, *parts: str) -> "Entry":
        steps = [step for part in (self._path, *parts) for step in str(part).split("/") if step not in ("", ".")]
        return Entry(self._data, "/".join(steps))

    __truediv__ = joinpath

    def iterdir(self) -> "list[Entry]":
        prefix = self._path + "/" if self._path else ""
        names = {path[len(prefix) :].partition("/")[0] for path in self._data if path.startswith(prefix)}
        return [self.joinpath(name) for name in sorted(names)]

    def read_bytes(self) -> bytes:
        return content(self._data, self._path, self._path)

    def read_text(self, encoding: "str | None" = None, errors: str = "strict") -> str:
        return self.open("r", encoding=encoding, errors=errors).read()  # type: ignore[no-any-return]

    def open(self, mode: str = "r", *args: "Any", **kwargs: "Any") -> "Any":
        raw = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return raw
        if not args:
            kwargs["encoding"] = kwargs.get("encoding") or "utf-8"
        return io.TextIOWrapper(raw, *args, **kwargs)
