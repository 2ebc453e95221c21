"""Watches what all processes of one call use together.

Contract: far side, standard library only, Python 3.8+.  Runs in the supervisor, which asks for a look whenever one is due
and ends the call when a limit is exceeded.  Looking is cheap (one file per process) and adapts: often near a limit, seldom
far from it, and never for more than a small part of a processor's time.  Where the cheap figure, which counts shared pages
once per process, comes near the memory limit, an exact one is taken.  However much there is to see, a look ends when the
supervisor's clock has something else to do.
"""

import posix
import sys
import time

from . import processes, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator

SHORTEST, LONGEST, IDLE = 0.005, 0.1, 1.0
# Seconds to wait for each second of looking: a twentieth of a processor while something grows; else so that, with what
# waking up costs, it stays below a hundredth.
_WHILE_GROWING, _WHILE_CALM = 20, 400
# Nobody touches new memory faster than this, bytes a second, or starts processes faster, a second.
_FASTEST_GROWTH = 4e9
_FASTEST_FORKING = 20000.0
_TICK = 1.0 / posix.sysconf("SC_CLK_TCK")
# Looks at what does not change, and is far from its limit, that go by without an exact figure.
_LOOKS_WHILE_STILL = 5
# What is swapped out is in the exact figure only, taken once in so many looks for that.
_LOOKS_FOR_SWAP = 10
# Looks at memory that may be put off in a row.
_MOST_PUT_OFF = 3
# Address space below which page tables do not matter.
_MUCH_SPACE = 1 << 31
# Bytes of /proc/PID/smaps to read: whoever has more mappings than that is charged for some memfds twice.
_MOST_MAPPINGS = 1 << 22
# ENOENT, ESRCH: of a process that ends while it is looked at.
_GONE = (2, 3)
# Descriptors to look at in one look, for memfds; a call that holds more is gone through in several.
_DESCRIPTORS = 4000


class Watch:
    """One call's figures.

    ``peak`` is the most memory seen at a time, ``tasks`` the most processes and threads; ``exceeded`` has what was seen of each
    limit when it was exceeded, in that order.
    """

    def __init__(
        self, limits: "dict[str, Any]", base: int, given: "tuple[int, int]", box: int, started: float, lender: int = 0
    ) -> None:
        """Bytes that are not the call's: *base* that it shares with who it was forked from, *given* of input, in the memfd of that
        inode, and *box* that its packed box takes up (records.py).

        :param lender: the process that others were forked from besides this call
        """
        self._lender = lender
        self.memory: "int | None" = limits.get("memory")
        self.processes: "int | None" = limits.get("processes")
        self.cpu: "float | None" = limits.get("cpu")
        self.peak = self.tasks = 0
        self.exceeded: "dict[str, float]" = {}
        self._memfds = Memfds(given)
        self._base = base
        self._box = box
        self._limited = any(limit is not None for limit in (self.memory, self.processes, self.cpu))
        self._started = started
        self._exact_until = self._looks = self._measured = 0
        self._measured_at = (0, 0)
        self._before: "dict[int, processes.Stat]" = {}
        self._held_before = self._tasks_before = self._put_off = 0
        self._credited = self._credited_then = self._owed = self._tolerance = 0.0
        self._lost_cpu = 0.0

    def look(self, roots: "list[int]", reaped_cpu: float, until: float) -> float:
        """Take the figures of *roots* and of all processes below them, and tell when to take them again.

        :param reaped_cpu: seconds that orphans of the call used who have ended
        :param until: no dear figure is begun after that time
        """
        begun = time.thread_time()
        room = LONGEST if self._limited else min(IDLE, max(LONGEST, (time.monotonic() - self._started) / 10))
        # Too many may multiply faster than they can be counted.
        found = processes.tree(roots, sys.maxsize if self.processes is None else self.processes)
        self._add_missed(found)
        tasks = _living(found)
        if self.processes is not None and max(tasks, len(found) - processes.MOST_ENDED) > self.processes:
            self.tasks = max(self.tasks, tasks)
            self.exceeded.setdefault("processes", tasks if tasks > self.processes else len(found))
            return time.monotonic() + SHORTEST
        if self.processes is not None and tasks > max(1, self._tasks_before) and self._put_off < _MOST_PUT_OFF:
            # Memory of a process that is forking may not be seen before it gets to run again, and there may be ever more.
            self._put_off += 1
            self._tasks_before = tasks
            return time.monotonic() + SHORTEST
        self._put_off, self._tasks_before = 0, tasks
        memfds = {} if self.memory is None else self._memfds.sizes(found)
        held = sum(stat.resident for stat in found.values()) + sum(memfds.values())
        if self.memory is not None:
            held += sum(map(_tables_of, found.values()))
        self.tasks = max(self.tasks, tasks)
        if found:
            room = min(
                room,
                self._check_tasks(tasks),
                self._check_cpu(found, reaped_cpu),
                self._check_memory(found, held, memfds, until),
            )
        calm = tasks <= _living(self._before) and held <= self._held_before + (self.memory or 0) // 64
        calm = calm and not (self._lender and self.memory is not None)
        self._before, self._held_before = found, held
        cost = time.thread_time() - begun
        return time.monotonic() + max(SHORTEST, room, min(IDLE, (_WHILE_CALM if calm else _WHILE_GROWING) * cost))

    def _check_tasks(self, tasks: int) -> float:
        if self.processes is None:
            return IDLE
        return (self.processes - tasks) / _FASTEST_FORKING

    def _check_cpu(self, found: "dict[int, processes.Stat]", reaped: float) -> float:
        if self.cpu is None:
            return IDLE
        credited = reaped + sum(stat.ticks_of_children for stat in found.values()) * _TICK
        self._find_lost_cpu(found, credited)
        used = self._lost_cpu + credited + sum(stat.ticks for stat in found.values()) * _TICK
        if used >= self.cpu:
            self.exceeded.setdefault("cpu", used)
        return max(_TICK, (self.cpu - used) / (posix.cpu_count() or 1))

    def _find_lost_cpu(self, found: "dict[int, processes.Stat]", credited: float) -> None:
        """Count those whose parent ignores SIGCHLD: the kernel adds their time to nobody's when they end.

        What is missing now may be added to somebody who has been looked at already; so it is counted a look later.
        """
        gone = [stat for pid, stat in self._before.items() if pid not in found]
        of_gone = sum(stat.ticks_of_children for stat in gone) * _TICK
        if self._owed:
            settled = credited + of_gone - self._credited_then
            if self._owed > settled + self._tolerance:
                self._lost_cpu += self._owed - settled
        self._owed = sum(stat.ticks for stat in gone) * _TICK + of_gone
        self._tolerance = 2 * len(gone) * _TICK
        self._credited_then = self._credited - of_gone
        self._credited = credited

    def _add_missed(self, found: "dict[int, processes.Stat]") -> None:
        """Those that were not found by way of their parents, since these came and went, but still live."""
        for pid, stat in self._before.items():
            if pid not in found:
                try:
                    now = processes.Stat(pid)
                except OSError:
                    continue
                if now.start == stat.start:
                    found[pid] = now

    # --- memory ---------------------------------------------------------------------------------------------------

    def _check_memory(self, found: "dict[int, processes.Stat]", held: int, memfds: "dict[int, int]", until: float) -> float:
        if self.memory is None:
            # Exact where nothing is shared; taken exactly else where it has grown, since then it may be a new peak.
            held = sum(max(0, stat.resident - self._base) for stat in found.values())
            if held > self.peak and (len(found) == 1 or self._is_worth_measuring(held)):
                self.peak = max(self.peak, (held if len(found) == 1 else _memory_of(found, {}, until, self._lender)) or 0)
            return IDLE
        allowed = self.memory + self._box
        self._looks += 1
        swapped = self._looks % _LOOKS_FOR_SWAP == 0 and _has_swap()
        if (held > 0.8 * allowed and not self._is_still(held, allowed)) or swapped or self._is_worth_measuring(held):
            measured = _memory_of(found, memfds, until, self._lender)
            if measured is not None:
                self._measured, self._measured_at = measured, (held, self._looks)
                held = measured
                self.peak = max(self.peak, held)
                if held > allowed:
                    self.exceeded.setdefault("memory", held - self._box)
        return (allowed - held) / _FASTEST_GROWTH

    def _is_still(self, held: int, allowed: int) -> bool:
        """Whether most is shared, and nothing has changed for a few looks: an exact figure of many processes is dear."""
        if self._lender:
            # Writing to what was lent makes it one's own, and the cheap figure does not show it.
            return False
        before, look = self._measured_at
        return self._measured < allowed // 2 and abs(held - before) <= allowed // 64 and self._looks - look < _LOOKS_WHILE_STILL

    def _is_worth_measuring(self, held: int) -> bool:
        """Whether the cheap figure has grown by a quarter since the exact one was taken."""
        if held <= self._exact_until:
            return False
        self._exact_until = held + held // 4
        return True


class Memfds:
    """Finds the memfds that processes hold open: what is written to one counts nowhere else."""

    def __init__(self, given: "tuple[int, int]") -> None:
        self._given = given
        self._walk: "Iterator[str]" = iter(())
        self._known: "dict[int, str]" = {}

    def sizes(self, found: "dict[int, processes.Stat]") -> "dict[int, int]":
        """Bytes in each, by inode; of those that have been found so far, where there are very many descriptors."""
        sizes: "dict[int, int]" = {}
        for path in list(self._known.values()):
            self._note(path, sizes)
        for count, path in enumerate(self._walk):
            self._note(path, sizes)
            if count == _DESCRIPTORS:
                break
        else:
            self._walk = _descriptors(found.values())
            for _, path in zip(range(_DESCRIPTORS), self._walk):
                self._note(path, sizes)
        self._known = {inode: path for inode, path in self._known.items() if inode in sizes}
        return sizes

    def _note(self, path: str, sizes: "dict[int, int]") -> None:
        try:
            target = posix.readlink(path)
            if target.startswith("/memfd:"):
                found = posix.stat(path)
                given = self._given[1] if found.st_ino == self._given[0] else 0
                sizes[found.st_ino] = max(0, found.st_blocks * 512 - given)
                self._known[found.st_ino] = path
        except OSError:
            pass


def _living(found: "dict[int, processes.Stat]") -> int:
    """Processes and threads; those that have ended wait only for somebody to ask what became of them."""
    return sum(stat.threads for stat in found.values() if not stat.ended)


def _descriptors(found: "Iterable[processes.Stat]") -> "Iterator[str]":
    for stat in found:
        places = [stat.place]
        if stat.threads > 1:
            # Each may have descriptors of its own (clone(2) without CLONE_FILES).
            try:
                places = ["%s/task/%s" % (stat.place, thread) for thread in posix.listdir(stat.place + "/task")]
            except OSError:
                continue
        for place in places:
            try:
                with posix.scandir(place + "/fd") as entries:
                    for entry in entries:
                        yield entry.path
            except OSError:
                continue


def _has_swap() -> bool:
    try:
        return system.read("/proc/swaps").count(b"\n") > 1
    except OSError:
        return False


def _memory_of(found: "dict[int, processes.Stat]", memfds: "dict[int, int]", until: float, lender: int) -> "int | None":
    """Memory that belongs to these processes alone: shared pages once, none of those that they share with who lent them.

    What lies in a memfd is counted by the memfd, whether it is mapped or not.  Nothing if that takes too long.
    """
    total = sum(memfds.values()) - (0 if lender else _lent_by_this_process())
    part = _part_of(lender) if lender else 0
    for stat in found.values():
        if time.monotonic() > until:
            return None
        try:
            rollup = system.read(stat.place + "/smaps_rollup")
            total += _owned(rollup) - min(part, _shared(rollup))
            if memfds:
                total -= _mapped(stat.place + "/smaps", memfds)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", 0) not in _GONE:
                # Set-uid programs cannot be looked into; their resident pages can be counted.
                total += stat.resident
        total += _tables_of(stat)
    return max(0, total)


def _tables_of(stat: "processes.Stat") -> int:
    """Page tables, where there may be many: a large part of an address space can be mapped at the price of these alone."""
    if stat.virtual < _MUCH_SPACE:
        return 0
    try:
        return int(system.read(stat.place + "/status").partition(b"\nVmPTE:")[2].split(None, 1)[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def _owned(rollup: bytes) -> int:
    fields = _fields(rollup)
    if b"Pss_Anon" not in fields:
        # Before Linux 5.4
        return fields.get(b"Pss", 0) + fields.get(b"SwapPss", 0)
    return fields[b"Pss_Anon"] + fields[b"Pss_Shmem"] + fields.get(b"SwapPss", 0)


def _shared(rollup: bytes) -> int:
    """The part of anonymous memory that others have too."""
    fields = _fields(rollup)
    return max(0, fields.get(b"Pss_Anon", 0) - fields.get(b"Private_Dirty", 0))


def _part_of(lender: int) -> int:
    """The lender's part of what it shares; everyone who shares a page has the same part of it."""
    try:
        return _shared(system.read("/proc/%d/smaps_rollup" % lender))
    except (OSError, ValueError):
        return 0


def _fields(rollup: bytes) -> "dict[bytes, int]":
    found = {}
    for line in rollup.splitlines()[1:]:
        name, _, value = line.partition(b":")
        found[name] = int(value.split()[0]) * 1024
    return found


def _lines(path: str) -> "Iterator[bytes]":
    rest = b""
    for piece in system.pieces(path, _MOST_MAPPINGS):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


def _mapped(smaps: str, memfds: "dict[int, int]") -> int:
    """The share of mapped memfds in what smaps_rollup says, without the private copies of their pages."""
    total = 0
    counts = False
    share = 0
    for line in _lines(smaps):
        if line.startswith(b"Pss:"):
            share = int(line.split()[1]) * 1024
        elif line.startswith(b"Anonymous:"):
            total += max(0, share - int(line.split()[1]) * 1024) * counts
        elif b" /memfd:" in line:
            counts = int(line.split()[4]) in memfds
        elif b"-" in line.split(b" ", 1)[0]:
            counts = False
    return total


def _lent_by_this_process() -> int:
    """Bytes that this process's children, forked from it, still share with it, less its own part of them."""
    try:
        fields = _fields(system.read("/proc/self/smaps_rollup"))
    except (OSError, ValueError):
        return 0
    return max(0, fields[b"Anonymous"] - fields[b"Pss_Anon"]) if b"Pss_Anon" in fields else 0
