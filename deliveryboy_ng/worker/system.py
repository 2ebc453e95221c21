"""What only the operating system can do: prctl, finding and killing what a call left behind.

Contract: far side, standard library only, Python 3.8+.  Nothing here raises because a platform lacks a feature; each
function tells whether it worked.
"""

import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9
LONGEST_POLL = 2000000000  # milliseconds; poll(2) takes a C int

_prctl = None


def prctl(option: int, value: int) -> bool:
    """Call prctl(2) through ``_ctypes`` alone; the full ``ctypes`` costs six times as much to import."""
    global _prctl
    if not sys.platform.startswith("linux"):
        return False
    try:
        import _ctypes

        if _prctl is None:
            _prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return bool(_ctypes.call_function(_prctl, (option, value, 0, 0, 0)) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def become_supervisor() -> None:
    """Adopt orphans, so that double-forked daemons can be found, and be no target for ptrace or /proc/PID/mem."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_DUMPABLE, 0)


def die_with(parent: int) -> None:
    """Let the kernel kill this process when *parent*, its parent, ends.

    The parent may have ended before the request was made; so look again afterwards.
    """
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    if posix.getppid() != parent:
        posix._exit(1)


def proc_is_ours() -> bool:
    """Whether /proc shows this process's own pid namespace (after ``unshare -p`` without a new /proc it does not)."""
    try:
        return posix.readlink("/proc/self") == str(posix.getpid())
    except OSError:
        return False


def descendants(root: int) -> "list[int]":
    """All living processes below *root*, by /proc; a process whose parent has ended is below its adopter."""
    children: "dict[int, list[int]]" = {}
    for name in posix.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = posix.open("/proc/%s/stat" % name, posix.O_RDONLY)
            try:
                stat = posix.read(fd, 1024)
            finally:
                posix.close(fd)
        except OSError:
            continue
        # The command's name stands in brackets and may itself hold brackets and spaces.
        # One whose main thread has ended looks like a zombie while its other threads live on: so all are listed.
        parent = int(stat[stat.rindex(b")") + 2 :].split()[1])
        children.setdefault(parent, []).append(int(name))
    found: "list[int]" = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def kill_quietly(pid: int, signal: int) -> bool:
    """kill(2), false if there was nothing to signal."""
    try:
        posix.kill(pid, signal)
    except OSError:
        return False
    return True


def kill_descendants(spare: "frozenset[int]" = frozenset(), reaped: "Any" = None, limit: float = 10.0) -> bool:
    """Kill everything below this process but *spare* and what is below that; true when nothing is left.

    New orphans reach this process, their subreaper, only when their parent dies, so the round is repeated until one
    finds nothing.  *reaped* is told ``(pid, status, rusage)`` of each child waited for.
    """
    deadline = time.monotonic() + limit
    me = posix.getpid()
    while True:
        if not reap(reaped) and not spare:
            return True
        if proc_is_ours():
            safe = set(spare)
            for pid in spare:
                safe.update(descendants(pid))
            targets = [pid for pid in descendants(me) if pid not in safe]
            for pid in targets:
                kill_quietly(pid, SIGKILL)
            if not targets and spare:
                return True
        elif me == 1 and not spare:
            # Without a /proc of its own, pid 1 of a pid namespace still reaches everybody in it.
            kill_quietly(-1, SIGKILL)
        else:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)


def reap(reaped: "Any" = None) -> bool:
    """Wait for every child that has ended; false when there are no children at all."""
    while True:
        try:
            pid, status, usage = posix.wait4(-1, posix.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if reaped is not None:
            reaped(pid, status, usage)
