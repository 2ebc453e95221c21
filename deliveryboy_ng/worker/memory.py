"""Memory in huge pages: where there is much of it, half of what filling it costs is the page faults.

Contract: runs on both sides, standard library only, Python 3.8+.
"""

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_HUGE_PAGE, _MUCH = 1 << 21, 1 << 23
_kinds: "dict[str, Any]" = {}


def use_huge_pages() -> None:
    """Let large mappings lie in huge pages (MADV_COLLAPSE, Linux 6.1), of which a fork has the fewer to copy entries for."""
    try:
        lines = system.read("/proc/self/maps", 1 << 22).splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        start, stop = (int(number, 16) for number in words[0].split(b"-"))
        if words[1] == b"rw-p" and stop - start >= _MUCH and (len(words) < 6 or words[5] == b"[heap]"):
            start = -(-start // _HUGE_PAGE) * _HUGE_PAGE
            try:
                system.libc("madvise", start, stop // _HUGE_PAGE * _HUGE_PAGE - start, _MADV_COLLAPSE)
            except OSError:
                pass  # so it has to do without


def lay_in_huge_pages(view: memoryview) -> None:
    """Let writable memory that nobody has touched yet lie in huge pages: half of what filling it costs is the page faults."""
    try:
        start = address_of(view)
        stop = (start + len(view)) // system.PAGE * system.PAGE
        start = -(-start // system.PAGE) * system.PAGE
        system.libc("madvise", start, stop - start, _MADV_HUGEPAGE)
    except (ImportError, OSError):
        pass  # it works in small ones


def forget(fd: int, size: int) -> None:
    """Give back the memory of the first bytes of a file that lies there (fallocate(2))."""
    try:
        system.libc("fallocate", fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, 0, size)
    except OSError:
        pass  # so it stays until it is closed


def address_of(view: "memoryview | bytearray") -> int:
    """Where writable memory lies.

    :raises ImportError: where Python has no ``_ctypes``
    """
    import _ctypes

    if "byte" not in _kinds:

        class Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "b"

        _kinds["byte"] = Byte
    return int(_ctypes.addressof(_kinds["byte"].from_buffer(view)))
