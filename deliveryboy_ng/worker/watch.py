"""Watches what all processes of one call use together.

Contract: far side, standard library only, Python 3.8+.  Runs in the supervisor, which asks for a look whenever one is due
and ends the call when a limit is exceeded.  Looking is cheap (one file per process) and adapts: often near a limit, seldom
far from it, and never for more than a small part of a processor's time.  Where the cheap figure, which counts shared pages
once per process, comes near the memory limit, an exact one is taken.
"""

import posix
import time

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHORTEST, LONGEST, IDLE = 0.005, 0.1, 1.0
# Seconds to wait for each second of looking: a twentieth of a processor while something grows; else so that, with what
# waking up costs, it stays below a hundredth.
_WHILE_GROWING, _WHILE_CALM = 20, 400
# Nobody touches new memory faster than this, bytes a second, or starts processes faster, a second.
_FASTEST_GROWTH = 4e9
_FASTEST_FORKING = 20000.0
_TICK = 1.0 / posix.sysconf("SC_CLK_TCK")


class Watch:
    """One call's figures.

    ``peak`` is the most memory seen at a time, ``tasks`` the most processes and threads, ``base`` what this process held
    before any of it; when a limit is exceeded, ``exceeded`` is its name and ``observed`` what was seen.
    """

    def __init__(self, limits: "dict[str, Any]", given: int) -> None:
        """*given*: bytes of the call's input, which is held in a memfd that the call did not make."""
        self.memory: "int | None" = limits.get("memory")
        self.processes: "int | None" = limits.get("processes")
        self.cpu: "float | None" = limits.get("cpu")
        self.peak = self.tasks = 0
        self.exceeded = ""
        self.observed = 0.0
        self.reaped_cpu = 0.0
        self._given = given
        self._limited = any(limit is not None for limit in (self.memory, self.processes, self.cpu))
        self._started = time.monotonic()
        self.base = _resident_of_this_process()
        self._exact_until = 0
        self._before = (0, 0)
        self.next_look = self._started + (SHORTEST if self._limited else LONGEST)

    def look(self, roots: "list[int]") -> None:
        """Take the figures of *roots* and of all processes below them."""
        begun = time.thread_time()
        room = LONGEST if self._limited else min(IDLE, max(LONGEST, (time.monotonic() - self._started) / 10))
        found = system.tree(roots)
        tasks = sum(stat.threads for stat in found.values())
        memfds = {} if self.memory is None else self._memfds(found)
        held = sum(stat.resident for stat in found.values()) + sum(memfds.values())
        self.tasks = max(self.tasks, tasks)
        if found:
            room = min(room, self._check_tasks(tasks), self._check_cpu(found), self._check_memory(found, held, memfds))
        calm = tasks <= self._before[0] and held <= self._before[1] + (self.memory or 0) // 64
        self._before = (tasks, held)
        cost = time.thread_time() - begun
        self.next_look = time.monotonic() + max(SHORTEST, room, min(IDLE, (_WHILE_CALM if calm else _WHILE_GROWING) * cost))

    def _exceed(self, limit: str, observed: float) -> None:
        if not self.exceeded:
            self.exceeded, self.observed = limit, observed

    def _check_tasks(self, tasks: int) -> float:
        if self.processes is None:
            return IDLE
        if tasks > self.processes:
            self._exceed("processes", tasks)
        return (self.processes - tasks) / _FASTEST_FORKING

    def _check_cpu(self, found: "dict[int, system.Stat]") -> float:
        if self.cpu is None:
            return IDLE
        used = self.reaped_cpu + sum(stat.ticks for stat in found.values()) * _TICK
        if used >= self.cpu:
            self._exceed("cpu", used)
        return max(_TICK, (self.cpu - used) / (posix.cpu_count() or 1))

    # --- memory ---------------------------------------------------------------------------------------------------

    def _check_memory(self, found: "dict[int, system.Stat]", held: int, memfds: "dict[int, int]") -> float:
        if self.memory is None:
            # Exact where nothing is shared; taken exactly else where it has grown, since then it may be a new peak.
            held = sum(max(0, stat.resident - self.base) for stat in found.values())
            if held > self.peak and len(found) > 1:
                if held <= self._exact_until:
                    return IDLE
                self._exact_until = held + held // 4
                held = _memory_of(found, {})
            self.peak = max(self.peak, held)
            return IDLE
        if held > 0.8 * self.memory or held > self._exact_until:
            self._exact_until = held + held // 4
            held = _memory_of(found, memfds)
            self.peak = max(self.peak, held)
        if held > self.memory:
            self._exceed("memory", held)
        return (self.memory - held) / _FASTEST_GROWTH

    def _memfds(self, found: "dict[int, system.Stat]") -> "dict[int, int]":
        """Bytes in each memfd that a process holds open: written to, it counts nowhere else."""
        sizes: "dict[int, int]" = {}
        for pid in found:
            folder = "/proc/%d/fd" % pid
            try:
                names = posix.listdir(folder)
            except OSError:
                continue
            for name in names:
                try:
                    target = posix.readlink("%s/%s" % (folder, name))
                    if target.startswith("/memfd:"):
                        known = posix.stat("%s/%s" % (folder, name))
                        given = self._given if target.startswith("/memfd:deliveryboy input ") else 0
                        sizes[known.st_ino] = max(0, known.st_blocks * 512 - given)
                except OSError:
                    continue
        return sizes


def _resident_of_this_process() -> int:
    try:
        return system.memory_of_this_process()[0]
    except OSError:
        return 0


def _memory_of(found: "dict[int, system.Stat]", memfds: "dict[int, int]") -> int:
    """Memory that belongs to these processes alone: shared pages once, none of those that the supervisor shares.

    What lies in a memfd is counted by the memfd, whether it is mapped or not.
    """
    total = sum(memfds.values()) - _lent_by_this_process()
    for pid, stat in found.items():
        try:
            total += _owned(system.read("/proc/%d/smaps_rollup" % pid))
            if memfds:
                total -= _mapped(system.read("/proc/%d/smaps" % pid), memfds)
        except (OSError, ValueError):
            # Set-uid programs cannot be looked into; their resident pages can be counted.
            total += stat.resident
    return max(0, total)


def _owned(rollup: bytes) -> int:
    fields = _fields(rollup)
    if b"Pss_Anon" not in fields:
        # Before Linux 5.4
        return fields.get(b"Pss", 0) + fields.get(b"SwapPss", 0)
    return fields[b"Pss_Anon"] + fields[b"Pss_Shmem"] + fields.get(b"SwapPss", 0)


def _fields(rollup: bytes) -> "dict[bytes, int]":
    found = {}
    for line in rollup.splitlines()[1:]:
        name, _, value = line.partition(b":")
        found[name] = int(value.split()[0]) * 1024
    return found


def _mapped(smaps: bytes, memfds: "dict[int, int]") -> int:
    """The share of mapped memfds in what smaps_rollup says."""
    total = 0
    counts = False
    for line in smaps.splitlines():
        if line.startswith(b"Pss:"):
            total += int(line.split()[1]) * 1024 * counts
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
