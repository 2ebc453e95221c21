"""Landlock (landlock(7)): which files a process may touch, and whom it may signal, without any rights needed for saying so.

Contract: far side, standard library only, Python 3.8+.  ``restrict(...)`` binds the calling thread and all that it starts, for
ever.  System call numbers are the same on every architecture.
"""

import _stat
import posix
import sys

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
FIRST_WITH_NETWORK = 4
FIRST_WITH_SCOPES = 6
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
# MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM
_TRAPS = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_READING = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
# By version: how many of the rights on files it knows.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_RIGHTS = 16
_TCP_BOTH = 3
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2


def version() -> int:
    """The version of the kernel's Landlock, 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, system.syscall(_CREATE_RULESET, None, 0, _VERSION))


def restrict(places: "Iterable[tuple[str, str]] | None", network: bool) -> None:
    """From here on allow files only in *places*, TCP only if *network*, signals and abstract unix sockets only inside.

    What this version does not know is left as it is.  Whatever is restricted, processes outside cannot be traced any more, nor
    their memory and descriptors be reached by /proc.

    :param places: ``(path, mode)``; None leaves the files alone.  The mode is ``read``, ``write``, where files and folders may be
        made but nothing that is a trap to who reads them later (links, pipes, sockets, devices), or ``all``
    :raises OSError: if the kernel refuses
    """
    found = version()
    handled = (1 << _RIGHTS.get(found, _ALL_RIGHTS)) - 1 if places is not None else 0
    tcp = 0 if network or found < FIRST_WITH_NETWORK else _TCP_BOTH
    scoped = (_SCOPE_SIGNALS | _SCOPE_ABSTRACT_SOCKETS) if found >= FIRST_WITH_SCOPES else 0
    size = 24 if found >= FIRST_WITH_SCOPES else 16 if found >= FIRST_WITH_NETWORK else 8
    attributes = b"".join(number.to_bytes(8, sys.byteorder) for number in (handled, tcp, scoped))[:size]
    ruleset = system.libc("syscall", _CREATE_RULESET, attributes, size, 0)
    try:
        for path, mode in places or ():
            _allow(ruleset, path, handled & {"read": _READING, "write": ~_TRAPS, "all": ~0}[mode])
        system.libc("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        posix.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    try:
        if not _stat.S_ISDIR(posix.fstat(fd).st_mode):
            rights &= _OF_FILES
        rule = rights.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        system.libc("syscall", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        posix.close(fd)
