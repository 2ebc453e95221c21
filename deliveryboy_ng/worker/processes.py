"""Finds processes by /proc, and kills what a call left behind.

Contract: far side, standard library only, Python 3.8+.
"""

import posix
import sys
import time

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds that multiprocessing's helpers get.
_LONGEST_CLEANING = 0.5
# Processes that have ended and that nobody has waited for, of one call: the machine has only so many numbers to give.
MOST_ENDED = 1000


def takes(pid: int, signal: int, later: int) -> bool:
    """Whether the process lives and has not blocked that signal, or only together with *later*: then it will take both."""
    try:
        status = system.read("/proc/%d/status" % pid)
    except OSError:
        return False
    return b"\nState:\tZ" not in status and not _blocks(status, signal, later)


def is_left_pending(pid: int, signal: int, later: int) -> bool:
    """Whether that signal has been sent to the process, which has blocked it, and not together with *later*."""
    try:
        status = system.read("/proc/%d/status" % pid)
    except OSError:
        return False
    return _blocks(status, signal, later) and _has(_mask(status, b"ShdPnd"), signal)


def _blocks(status: bytes, signal: int, later: int) -> bool:
    blocked = _mask(status, b"SigBlk")
    return _has(blocked, signal) and not _has(blocked, later)


def _has(mask: int, signal: int) -> bool:
    return bool(mask >> (signal - 1) & 1)


def _mask(status: bytes, name: bytes) -> int:
    return int(status.partition(b"\n" + name + b":\t")[2][:16] or b"0", 16)


class Stat:
    """What /proc/PID/stat says of one process (proc(5)); raises OSError if there is none.

    ``ticks`` is its own processor time, ``ticks_of_children`` that of those it has waited for; ``place`` is where the
    rest about it is found.
    """

    __slots__ = (
        "ended",
        "group",
        "parent",
        "place",
        "resident",
        "session",
        "start",
        "threads",
        "ticks",
        "ticks_of_children",
        "virtual",
    )

    def __init__(self, pid: int) -> None:
        self.place = "/proc/%d" % pid
        words = self._words()
        self.parent, self.group, self.session = int(words[1]), int(words[2]), int(words[3])
        self.ticks, self.ticks_of_children = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
        self.threads = int(words[17])
        self.start = int(words[19])
        self.virtual = int(words[20])
        self.resident = int(words[21]) * system.PAGE
        self.ended = words[0] == b"Z" and self.threads < 2
        if words[0] == b"Z" and not self.ended:
            self._look_at_another_thread(pid)

    def _look_at_another_thread(self, pid: int) -> None:
        """The main thread alone has ended, and took the view on what the others still have with it."""
        process = self.place
        for name in posix.listdir(process + "/task"):
            if name != str(pid):
                self.place = "%s/task/%s" % (process, name)
                try:
                    self.resident = int(self._words()[21]) * system.PAGE
                    return
                except OSError:
                    self.place = process

    def _words(self) -> "list[bytes]":
        text = system.read(self.place + "/stat")
        # The command's name stands in brackets and may itself hold brackets and spaces.
        return text[text.rindex(b")") + 2 :].split()


def snapshot() -> "dict[int, list[tuple[int, Stat]]]":
    """All processes that /proc shows, by their parents; one whose parent has ended is its adopter's."""
    children: "dict[int, list[tuple[int, Stat]]]" = {}
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                # One whose main thread has ended looks like a zombie while its other threads live on: so all are listed.
                stat = Stat(int(name))
            except OSError:
                continue
            children.setdefault(stat.parent, []).append((int(name), stat))
    return children


def descendants(shot: "dict[int, list[tuple[int, Stat]]]", *roots: int) -> "list[tuple[int, Stat]]":
    """Those of a snapshot that are below *roots*."""
    found: "list[tuple[int, Stat]]" = []
    queue = list(roots)
    while queue:
        below = shot.get(queue.pop(), [])
        found += below
        queue += [pid for pid, _ in below]
    return found


def _part(me: int, others: "frozenset[int]") -> "tuple[list[tuple[int, Stat]], list[tuple[int, Stat]]]":
    """What is below *me* now: what may be killed, and *others* with all that is below them.

    Both from one snapshot: in a later one there is more, which others have started meanwhile.
    """
    shot = snapshot()
    safe = {*others, *(pid for pid, _ in descendants(shot, *others))}
    found = descendants(shot, me)
    targets = [(pid, stat) for pid, stat in found if pid not in safe and (system.template == 0 or stat.session != system.template)]
    return targets, [(pid, stat) for pid, stat in found if pid in safe]


def children(pid: int, threads: int = 1) -> "list[int]":
    """The children of a process with so many threads; a child is listed under the thread that started it.

    Much cheaper than looking at all of /proc, but while processes come and go it may miss some (proc(5)).
    """
    try:
        tasks = posix.listdir("/proc/%d/task" % pid) if threads > 1 else [pid]
    except OSError:
        return []
    found = []
    for thread in tasks:
        try:
            found += [int(child) for child in system.read("/proc/%d/task/%s/children" % (pid, thread)).split()]
        except OSError:
            pass
    return found


def tree(roots: "list[int]", most: int = sys.maxsize) -> "dict[int, Stat]":
    """These processes and all below them; where more than *most* of them live, only so many and one."""
    found: "dict[int, Stat]" = {}
    living = 0
    queue = roots[::-1]
    while queue and max(living, len(found) - MOST_ENDED) <= most:
        pid = queue.pop()
        try:
            found[pid] = Stat(pid)
        except OSError:
            continue
        living += not found[pid].ended
        queue += children(pid, found[pid].threads)
    return found


def can_be_watched() -> bool:
    """Whether /proc shows the processes of this namespace, and their children."""
    return system.proc_is_ours() and posix.access("/proc/self/task/%d/children" % posix.getpid(), posix.R_OK)


def left_behind(others: "frozenset[int]", reaped: "Any") -> bool:
    """Whether this process has children besides *others*, once those that have ended are waited for."""
    if not system.reap(reaped):
        return False
    if not others:
        return True
    # All that is below this process is below a child of it.  Only its own waiting takes one out of that list.
    return not (can_be_watched() and all(pid in others or is_nascent(pid) for pid in children(posix.getpid())))


def is_nascent(pid: int) -> bool:
    """Whether the template has just forked it: nobody else can enter its session."""
    try:
        return system.template != 0 and Stat(pid).session == system.template
    except OSError:
        return False


def clear_up(call: int, others: "frozenset[int]", reaped: "Any") -> bool:
    """End what a call has left behind, but not what belongs to *others*; tells whether nothing is there any more."""
    if not left_behind(others, reaped):
        return True
    _let_trackers_work(others, reaped)
    if kill_descendants(others, reaped):
        return True
    # Without a /proc to find them by, at least those that stayed in the call's own process group.
    return system.kill_quietly(-call, system.SIGKILL) and kill_descendants(others, reaped, 1.0)


def _let_trackers_work(others: "frozenset[int]", reaped: "Any") -> None:
    """Let multiprocessing's helpers remove named semaphores and shared memory, as they do when all others have ended.

    :param others: processes that are no business of theirs, nor what is below them
    """
    me = posix.getpid()
    deadline = time.monotonic() + _LONGEST_CLEANING
    trackers = []
    for pid, _ in _part(me, others)[0]:
        if time.monotonic() > deadline:
            # Among very many, each has to get to run before its command line can be read.
            return
        if _is_tracker(pid):
            trackers.append(pid)
    if not trackers:
        return
    kill_found(me, others | frozenset(trackers))
    while trackers and time.monotonic() < deadline:
        system.reap(reaped)
        trackers = [pid for pid in trackers if _is_tracker(pid)]
        time.sleep(0.002)


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker import main" in system.read("/proc/%d/cmdline" % pid, 1 << 12)
    except OSError:
        return False


def kill_descendants(others: "frozenset[int]" = frozenset(), reaped: "Any" = None, limit: float = 10.0) -> bool:
    """Kill everything below this process but *others* and what is below them; true when nothing is left.

    New orphans reach this process, their subreaper, only when their parent dies, so the round is repeated until one
    finds nothing.

    :param reaped: see :func:`system.reap`
    :param limit: seconds until it is given up
    """
    deadline = time.monotonic() + limit
    me = posix.getpid()
    while True:
        if not left_behind(others, reaped):
            return True
        if me == 1 and not others:
            # Everybody in a pid namespace that is ours, at one stroke, and without a /proc of its own.
            system.kill_quietly(-1, system.SIGKILL)
        elif system.proc_is_ours():
            found, reached = kill_found(me, others)
            if not found and others:
                return True
            if found and not reached:
                # Set-uid programs may be beyond this user's reach.
                return False
        else:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)


def kill_found(me: int, others: "frozenset[int]") -> "tuple[bool, bool]":
    """Kill what is found below *me* now, but for *others* and what is below them.

    Tells whether there was any, and whether any of it could be signalled.
    """
    targets, safe = _part(me, others)
    ours = posix.getsid(0)
    # A group is killed at one stroke: whoever forks in it meanwhile dies as well, a fork bomb too.
    for group in {stat.group for _, stat in targets if stat.session != ours} - {stat.group for _, stat in safe}:
        system.kill_quietly(-group, system.SIGKILL)
    reached = False
    for pid, _ in targets:
        try:
            posix.kill(pid, system.SIGKILL)
            reached = True
        except ProcessLookupError:
            reached = True
        except OSError:
            pass
    return bool(targets), reached
