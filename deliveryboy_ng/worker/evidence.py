"""Recognises the limits of limits.py in the errors that they cause.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process, when its function has failed.
"""

import posix
import sys

from . import limits, processes, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORKS = {"fork", "fork1", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp", "start_new_thread"}


def cause(error: BaseException) -> str:
    """The name of the limit that *error* comes from, or nothing; with a question mark where it may have been that limit.

    Told by what the exception is and carries, and by what the kernel counts at this moment; what a ``raise`` statement of
    the function's made is its own.
    """
    try:
        return _cause(error) if limits.asked else ""
    except Exception:
        return ""  # an exception of the function's own class may do anything when it is looked at


def _cause(error: BaseException) -> str:
    if _was_raised_by_a_statement(error):
        return ""
    code = error.errno if isinstance(error, OSError) else None
    for number, name, rlimit in ((27, "file_size", "FSIZE"), (24, "open_files", "NOFILE")):  # EFBIG, EMFILE
        if code == number and name in limits.asked:
            return name if _still_stands(rlimit, limits.asked[name]) else ""
    if isinstance(error, MemoryError) or code == 12 or is_unsaid(error):  # ENOMEM
        return "" if _most_mappings_are_taken() else _scarcest_memory(sys.maxsize)
    no_thread = type(error) is RuntimeError and error.args == ("can't start new thread",)
    if no_thread:
        # Its stack comes first.
        limit = _scarcest_memory(limits.stack_of_a_thread())
        if limit:
            return limit
    if "processes" in limits.asked and (no_thread or (code == 11 and _comes_from_fork(error))):  # EAGAIN
        return "processes" if _most_processes_are_taken() else "processes?"
    return ""


def is_unsaid(error: BaseException) -> bool:
    """Whether the interpreter had not even the memory for a MemoryError, as can happen where a frame does not fit."""
    return type(error) is SystemError and error.args == ("error return without exception set",)


def _still_stands(rlimit: str, ours: int) -> bool:
    """Whether the function has not set a lower one."""
    import resource

    soft = resource.getrlimit(getattr(resource, "RLIMIT_" + rlimit))[0]
    return soft < 0 or soft >= ours


def _most_mappings_are_taken() -> bool:
    """Whether the kernel refuses more of them, however small."""
    try:
        most = int(system.read("/proc/sys/vm/max_map_count"))
        return sum(piece.count(b"\n") for piece in system.pieces("/proc/self/maps", most * 300)) > most - _FEW_MAPPINGS
    except (OSError, ValueError):
        return False


def _scarcest_memory(needed: int) -> str:
    """The limit that leaves this process the least memory, and less than *needed*; nothing if it is not one of ours."""
    import resource

    _, _, mapped, addressed = system.memory_of_this_process()
    left = []
    for rlimit, used in (("DATA", mapped), ("AS", addressed)):
        soft, hard = resource.getrlimit(getattr(resource, "RLIMIT_" + rlimit))
        if rlimit in limits.held:
            name, ours = limits.held[rlimit]
            # The function, or who started the far side, may have set a lower one.
            left.append((ours - used, name) if not 0 <= hard < ours else (hard - used, ""))
        elif soft >= 0:
            left.append((soft - used, ""))
    return min([each for each in left if each[0] < needed], default=(0, ""))[1]


def _most_processes_are_taken() -> bool:
    """Whether the call has half of them: processes that fork at the same time keep each other from the last few.

    Or the user has all that RLIMIT_NPROC leaves him, elsewhere too.
    """
    if limits.counts_alone:
        return True
    found = processes.tree([posix.getppid()])
    if sum(stat.threads for stat in found.values()) - 1 >= limits.asked["processes"] // 2:
        return True
    return bool(limits.most_tasks and limits.tasks_of_this_user() >= limits.most_tasks - 1)


def _comes_from_fork(error: BaseException) -> bool:
    """Whether what failed starts processes: a socket that has nothing to read says EAGAIN as well."""
    traceback = _last(error)
    if traceback is None:
        return True
    code = traceback.tb_frame.f_code
    return bool(_FORKS & set(code.co_names)) and bool(_FORKS & _names_at(code, traceback.tb_lasti))


def _names_at(code: "Any", place: int) -> "set[object]":
    """Names that the instruction there calls, or that are in its line where it is not known where in that it stands."""
    try:
        import dis
    except Exception:
        return set(code.co_names)
    line, found, here = 0, [], (0, 0)
    for each in dis.get_instructions(code):
        line = each.starts_line or line
        position = getattr(each, "positions", None)
        start = (line, 0) if position is None else (position.lineno, position.col_offset)
        found.append((start, each.argval))
        if each.offset == place:
            here = start
    return {name for start, name in found if start == here and isinstance(name, str)}


def _was_raised_by_a_statement(error: BaseException) -> bool:
    traceback = _last(error)
    if traceback is None or traceback.tb_lasti < 0:
        return False
    if type(error.__cause__).__name__ in _RAISED_ELSEWHERE:
        # A pool raises here again what was raised in another process, of which a text tells.
        return _shows_a_raise(str(error.__cause__))
    return bool(_instruction(traceback) == _RAISE)


def _shows_a_raise(text: str) -> bool:
    """Whether a traceback ends in a ``raise`` statement: in what is underlined, or in a line of nothing else."""
    source, underlined = [*text.rpartition('\n  File "')[2].splitlines()[1:], "", ""][:2]
    if sys.version_info < (3, 11) and ": raise " in source:
        return True
    if underlined.startswith("    ") and not underlined.strip("^~ "):
        source = source[len(underlined) - len(underlined.lstrip()) :]
    return source.replace("(", " ").split()[:1] == ["raise"]


def _instruction(traceback: "Any") -> int:
    return traceback.tb_frame.f_code.co_code[traceback.tb_lasti]  # type: ignore[no-any-return]


def _last(error: BaseException) -> "Any":
    """The innermost entry of its traceback."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


# A process whose last mappings were refused may have given some back.
_FEW_MAPPINGS = 64
_RAISED_ELSEWHERE = ("RemoteTraceback", "_RemoteTraceback")
# Known without importing opcode: there may be no descriptor left to open a file with.
try:
    raise KeyError
except KeyError as _error:
    _RAISE = _instruction(_error.__traceback__)
