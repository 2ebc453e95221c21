"""Sets the call process's limits, and recognises them in the errors that they cause.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process.  The limits are a dict, by the names and
in the units of ``deliveryboy_ng.Limits``; what all processes of a call may use together is watch.py's to hold.
"""

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

_asked: "dict[str, Any]" = {}
_tasks_before = sys.maxsize
_FORKS = {"fork", "fork1", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp", "start_new_thread"}


class CannotEnforce(Exception):
    """A limit that was asked for cannot be held here."""


def lower_thread_counts(limits: "dict[str, Any]") -> "dict[str, str | None]":
    """Environment variables, for libraries that start a thread for each processor, where that would not fit."""
    try:
        processors = len(posix.sched_getaffinity(0))
    except (AttributeError, OSError):
        processors = posix.cpu_count() or 1
    threads = min(processors, limits.get("memory", sys.maxsize) // _MEMORY_OF_A_THREAD, limits.get("processes", sys.maxsize) // 2)
    if threads == processors:
        return {}
    return {name: str(max(1, threads)) for name in _THREAD_COUNTS if name.encode() not in posix.environ}


def apply(limits: "dict[str, Any]", memory_before: int) -> "list[str]":
    """Set every limit, and tell them one by one, or raise :class:`CannotEnforce`.

    :param memory_before: bytes of private memory that the process had when it began
    """
    _asked.update(limits)
    if any(name in limits for name in ("memory", "cpu", "processes")) and not system.proc_is_ours():
        raise CannotEnforce("memory, cpu and processes cannot be watched there, where /proc does not show the call's processes")
    if "nice" in limits:
        _try("nice=%d" % limits["nice"], _set_niceness, limits["nice"])
    if "cpu_affinity" in limits:
        _try("cpu_affinity=%r" % (limits["cpu_affinity"],), _set_affinity, limits["cpu_affinity"])
    for name, (soft, hard) in limits.get("rlimits", {}).items():
        _set_rlimit("rlimits: RLIMIT_" + name, name, soft, hard)
    for name, rlimit in _OF_EACH_PROCESS.items():
        if name in limits:
            _set_rlimit(name, rlimit, limits[name], limits[name])
    if "cpu" in limits:
        seconds = int(-(-limits["cpu"] // 1))
        # With soft == hard the kernel sends SIGKILL at once, and no handler of the function's ever runs.
        _set_rlimit("cpu", "CPU", seconds, max(seconds, min(seconds + 1, _hard_limit("CPU"))))
    if "processes" in limits:
        _limit_processes(limits["processes"])
    _limit_memory(limits, memory_before)
    return [
        "%s=%s" % (name, value if not isinstance(value, float) else "%g" % value)
        for name, value in limits.items()
        if name != "rlimits"
    ] + ["rlimits[RLIMIT_%s]=%d:%d" % (name, *pair) for name, pair in limits.get("rlimits", {}).items()]


def _limit_memory(limits: "dict[str, Any]", memory_before: int) -> None:
    if "address_space" in limits:
        _set_rlimit("address_space", "AS", limits["address_space"], _with_reserve(limits["address_space"], "AS"))
    data = [limits["data"]] if "data" in limits else []
    if "memory" in limits:
        resident, shared, mapped = system.memory_of_this_process()
        taken = max(0, resident - shared - memory_before)
        spare = limits["memory"] - taken - min(_HEADROOM, limits["memory"] // 4)
        data.append(min(mapped + max(0, spare), _hard_limit("DATA")))
    if data:
        _set_rlimit("data" if "data" in limits else "memory", "DATA", min(data), _with_reserve(min(data), "DATA"))


def _with_reserve(soft: int, name: str) -> int:
    return max(soft, min(soft + _RESERVE, _hard_limit(name)))


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
    global _tasks_before
    outside = system.read("/proc/self/uid_map").split() == [b"0", b"0", b"4294967295"]
    if outside and posix.getuid() == 0:
        return
    _tasks_before = _tasks_of_this_user() - 1
    # In a user namespace a few may be out of sight, such as the command that made it; the watch counts exactly.
    most = min(_tasks_before + number + (0 if outside else 4), _hard_limit("NPROC"))
    _set_rlimit("processes", "NPROC", most, most)


def _tasks_of_this_user() -> int:
    """Processes and threads that RLIMIT_NPROC counts (setrlimit(2)): all of this user, whoever started them."""
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
            total += system.Stat(int(name)).threads
        except OSError:
            pass
    return total


# --- which limit an error comes from ----------------------------------------------------------------------------------


def make_room() -> None:
    """Give back what was kept for the answer's sake."""
    if any(name in _asked for name in ("memory", "data", "address_space")):
        import resource

        for name in ("DATA", "AS"):
            number = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (hard, hard))


def cause(error: BaseException) -> str:
    """The name of the limit that *error* comes from, or nothing; with a question mark where it may have been that limit.

    Told by what the exception is and carries, and by what the kernel counts at this moment; what a ``raise`` statement of
    the function's made is its own.
    """
    code = error.errno if isinstance(error, OSError) else None
    no_thread = type(error) is RuntimeError and error.args == ("can't start new thread",)
    if "file_size" in _asked and code == 27:  # EFBIG
        return "file_size"
    if "open_files" in _asked and code == 24:  # EMFILE
        return "open_files"
    if "processes" in _asked and (no_thread or (code == 11 and _comes_from_fork(error))):  # EAGAIN
        return "processes" if _most_processes_are_taken() else "processes?"
    if code == 12 or (isinstance(error, MemoryError) and not _was_raised_by_a_statement(error)) or no_thread:  # ENOMEM
        for name in ("memory", "data", "address_space"):
            if name in _asked:
                return name
    return ""


def _most_processes_are_taken() -> bool:
    """Whether half of them are: processes that fork at the same time keep each other from the last few."""
    return bool(_tasks_of_this_user() - _tasks_before >= _asked["processes"] // 2)


def _comes_from_fork(error: BaseException) -> bool:
    """Whether the frame that failed starts processes: a socket that has nothing to read says EAGAIN as well."""
    traceback = _last(error)
    return traceback is None or bool(_FORKS & set(traceback.tb_frame.f_code.co_names))


def _was_raised_by_a_statement(error: BaseException) -> bool:
    import opcode

    traceback = _last(error)
    if traceback is None or traceback.tb_lasti < 0:
        return False
    return bool(traceback.tb_frame.f_code.co_code[traceback.tb_lasti] == opcode.opmap["RAISE_VARARGS"])


def _last(error: BaseException) -> "Any":
    """The innermost entry of its traceback."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback
