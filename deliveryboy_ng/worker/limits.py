"""Sets the call process's limits.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process.  The limits are a dict, by the names and
in the units of ``deliveryboy_ng.Limits``; what all processes of a call may use together is watch.py's to hold.  Errors that come
from them are evidence.py's to recognise.
"""

import _thread
import posix
import sys

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OF_EACH_PROCESS = {
    "stack": "STACK",
    "file_size": "FSIZE",
    "open_files": "NOFILE",
    "core": "CORE",
    "locked_memory": "MEMLOCK",
}
_THREAD_COUNTS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# OpenBLAS alone takes tens of megabytes a thread.
_MEMORY_OF_A_THREAD = 1 << 28
# Kept from the function, so that there is room to say that the memory was too little.
_RESERVE = 16 << 20
# The watch counts some pages that RLIMIT_DATA does not; the allocation that is too large shall fail before it steps in.
_HEADROOM = 8 << 20

asked: "dict[str, Any]" = {}  # the limits that are set
# For DATA and AS: whose limit it is, and where it stands.
held: "dict[str, tuple[str, int]]" = {}
# For the same: setrlimit, getrlimit, the number, and how far it is raised for the answer's sake.
_room: "dict[str, Any]" = {}
_stack = 8 << 20
most_tasks = 0  # RLIMIT_NPROC, if it is set and counts others too
counts_alone = False  # whether it is set, and counts this call's processes only
_THREAD_STARTS = ("start_new_thread", "start_joinable_thread")


class CannotEnforce(Exception):
    """A limit that was asked for cannot be held here."""


def lower_thread_counts(limits: "dict[str, Any]") -> "dict[str, str | None]":
    """Environment variables, for libraries that start a thread for each processor, where that would not fit."""
    processors = system.processors()
    threads = min(processors, limits.get("memory", sys.maxsize) // _MEMORY_OF_A_THREAD, limits.get("processes", sys.maxsize) // 2)
    if threads == processors:
        return {}
    return {name: str(max(1, threads)) for name in _THREAD_COUNTS if name.encode() not in posix.environ}


def _can_be_watched() -> bool:
    from . import processes

    return processes.can_be_watched()


def apply(limits: "dict[str, Any]", grace: float, memory_before: int, given: int) -> "list[str]":
    """Set every limit, and tell them one by one, or raise :class:`CannotEnforce`.

    :param grace: seconds that a call has to end by itself when it has used its processor time
    :param memory_before: bytes of private memory that the process had when it began
    :param given: bytes of memory that are not charged to it, for what it brought along
    """
    asked.update(limits)
    if any(name in limits for name in ("memory", "cpu", "processes")) and not _can_be_watched():
        raise CannotEnforce("memory, cpu and processes cannot be watched there, where /proc does not show the call's processes")
    if "nice" in limits:
        _try("nice=%d" % limits["nice"], _set_niceness, limits["nice"])
    if "cpu_affinity" in limits:
        _try("cpu_affinity=%r" % (limits["cpu_affinity"],), _set_affinity, limits["cpu_affinity"])
    if "cpu" in limits:
        # The watch comes first, to the hundredth of a second and for all processes; the kernel counts by ticks, and too many.
        seconds = int(-(-limits["cpu"] // 1)) + 1
        # With soft == hard the kernel sends SIGKILL at once, and no handler of the function's ever runs.
        _set_rlimit("cpu", "CPU", seconds, max(seconds, min(seconds + int(-(-grace // 1)), _hard_limit("CPU"))))
    if "processes" in limits:
        _limit_processes(limits["processes"])
    _limit_memory(limits, memory_before, given)
    for name, rlimit in _OF_EACH_PROCESS.items():
        if name in limits:
            _set_rlimit(name, rlimit, limits[name], limits[name])
    for name, (soft, hard) in limits.get("rlimits", {}).items():
        _set_rlimit("rlimits: RLIMIT_" + name, name, soft, hard)
    return [
        "%s=%s" % (name, value if not isinstance(value, float) else "%g" % value)
        for name, value in limits.items()
        if name != "rlimits"
    ] + ["rlimits[RLIMIT_%s]=%d:%d" % (name, *pair) for name, pair in limits.get("rlimits", {}).items()]


def _limit_memory(limits: "dict[str, Any]", memory_before: int, given: int) -> None:
    global _stack
    import resource

    _stack = max(_stack, resource.getrlimit(resource.RLIMIT_STACK)[0])
    if "address_space" in limits:
        _hold("address_space", "AS", limits["address_space"], _RESERVE)
    if "data" in limits:
        _hold("data", "DATA", limits["data"], _RESERVE)
    if "memory" in limits:
        resident, shared, mapped = system.memory_of_this_process()[:3]
        headroom = min(_HEADROOM, limits["memory"] // 4)
        spare = limits["memory"] + given - max(0, resident - shared - memory_before) - headroom
        if mapped + max(0, spare) < min(_hard_limit("DATA"), limits.get("data", sys.maxsize)):
            _hold("memory", "DATA", mapped + max(0, spare), headroom)
            _let_threads_reserve_their_stacks(limits.get("data", sys.maxsize))


def _hold(name: str, rlimit: str, soft: int, reserve: int) -> None:
    """Limit the memory of this process, with a reserve that :func:`make_room` gives back."""
    import resource

    number = getattr(resource, "RLIMIT_" + rlimit)
    most = _hard_limit(rlimit)
    # What the watch holds need not be beyond the function's reach, and may have to be raised.
    hard = resource.getrlimit(number)[1] if name == "memory" else max(soft, min(soft + reserve, most))
    _set_rlimit(name, rlimit, soft, hard)
    held[rlimit] = (name, soft)
    _room[rlimit] = (resource.setrlimit, resource.getrlimit, number, soft + reserve)


def _raise_soft(setrlimit: "Any", getrlimit: "Any", number: int, wanted: int) -> None:
    """As far as the hard limit allows, which the function may have lowered meanwhile; never down."""
    soft, hard = getrlimit(number)
    if hard >= 0 and wanted > hard:
        wanted = hard
    if 0 <= soft < wanted:
        setrlimit(number, (wanted, hard))


def _let_threads_reserve_their_stacks(most: int) -> None:
    """A thread reserves all of its stack at once and touches little of it; the watch counts what it touches."""
    name, base = held["DATA"]

    def with_room(start: "Any") -> "Any":
        def start_with_room(*args: "Any", **kwargs: "Any") -> "Any":
            setrlimit, getrlimit, number, _ = _room["DATA"]
            soft = min(base + (_thread._count() + 1) * stack_of_a_thread(), most)
            _raise_soft(setrlimit, getrlimit, number, soft)
            held["DATA"] = (name, soft)
            _room["DATA"] = (setrlimit, getrlimit, number, soft + _HEADROOM)
            return start(*args, **kwargs)

        return start_with_room

    # threading has its own references to them, under these names.
    for module, prefix in ((_thread, ""), (sys.modules.get("threading"), "_")):
        for start in _THREAD_STARTS:
            if hasattr(module, prefix + start):
                setattr(module, prefix + start, with_room(getattr(module, prefix + start)))


def stack_of_a_thread() -> int:
    """Bytes, as Python asks for them, or else as the C library does: what RLIMIT_STACK was when the program began."""
    return _thread.stack_size() or _stack


def _hard_limit(name: str) -> int:
    import resource

    hard = resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _set_rlimit(what: str, name: str, soft: int, hard: int) -> None:
    import resource

    number = getattr(resource, "RLIMIT_" + name, None)
    if number is None:
        raise CannotEnforce("%s: that system has no RLIMIT_%s" % (what, name))
    try:
        resource.setrlimit(number, (soft, hard))
    except (ValueError, OSError, OverflowError) as error:
        raise CannotEnforce(
            "%s cannot be set to %d:%d, the far side's hard limit is %d: %s"
            % (what, soft, hard, resource.getrlimit(number)[1], error)
        ) from None


def _try(what: str, function: "Any", value: "Any") -> None:
    try:
        function(value)
    except (OSError, AttributeError, ValueError) as error:
        raise CannotEnforce("%s cannot be set there: %s" % (what, getattr(error, "strerror", None) or error)) from None


def _set_niceness(value: int) -> None:
    posix.setpriority(posix.PRIO_PROCESS, 0, value)


def _set_affinity(numbers: "list[int]") -> None:
    posix.sched_setaffinity(0, numbers)
    # The kernel drops processors that do not exist, and says nothing.
    absent = set(numbers) - posix.sched_getaffinity(0)
    if absent:
        raise ValueError("there is no processor %s" % ", ".join(map(str, sorted(absent))))


def _limit_processes(number: int) -> None:
    """RLIMIT_NPROC counts what the user has elsewhere too; and it is not enforced on the machine's own root."""
    outside = system.read("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]
    if outside and posix.getuid() == 0:
        return
    if system.alone and system.kernel() >= (5, 14):
        # From then on it counts those in the user namespace only; a limit of an outer one counts on its own.
        global counts_alone
        counts_alone = True
        most = min(number, _hard_limit("NPROC"))
        _set_rlimit("processes", "NPROC", most, most)
        return
    # In a user namespace a few may be out of sight, such as the command that made it; the watch counts exactly.
    global most_tasks
    most = most_tasks = min(tasks_of_this_user() - 1 + number + (0 if outside else 4), _hard_limit("NPROC"))
    _set_rlimit("processes", "NPROC", most, most)


def tasks_of_this_user() -> int:
    """Processes and threads that RLIMIT_NPROC counts (setrlimit(2)): all of this user, whoever started them."""
    from . import processes

    user = posix.getuid()
    total = 0
    for name in posix.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            owner = posix.stat("/proc/" + name).st_uid
            # A process that is not dumpable, such as our supervisor, shows root as its owner (proc(5)).
            if owner != user and b"\nUid:\t%d\t" % user not in system.read("/proc/%s/status" % name):
                continue
            total += processes.Stat(int(name)).threads
        except OSError:
            pass
    return total


def make_room() -> None:
    """Give back what was kept for the answer's sake; allocates next to nothing."""
    for setrlimit, getrlimit, number, wanted in _room.values():
        _raise_soft(setrlimit, getrlimit, number, wanted)
