"""Recognises the limits of limits.py in the errors that they cause.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process, when its function has failed.
"""

import posix
import sys

from . import limits, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FORKS = {"fork", "fork1", "forkpty", "fork_exec", "_fork_exec", "posix_spawn", "posix_spawnp", "start_new_thread"}


def cause(error: BaseException) -> str:
    """The name of the limit that *error* comes from, or nothing; with a question mark where it may have been that limit.

    Told by what the exception is and carries, and by what the kernel counts at this moment; what a ``raise`` statement of
    the function's made is its own.
    """
    if not limits.asked or _was_raised_by_a_statement(error):
        return ""
    code = error.errno if isinstance(error, OSError) else None
    if "file_size" in limits.asked and code == 27:  # EFBIG
        return "file_size"
    if "open_files" in limits.asked and code == 24:  # EMFILE
        return "open_files"
    if isinstance(error, MemoryError) or code == 12:  # ENOMEM
        return _scarcest_memory(sys.maxsize)
    no_thread = type(error) is RuntimeError and error.args == ("can't start new thread",)
    if no_thread:
        # Its stack comes first.
        limit = _scarcest_memory(limits.stack_of_a_thread())
        if limit:
            return limit
    if "processes" in limits.asked and (no_thread or (code == 11 and _comes_from_fork(error))):  # EAGAIN
        return "processes" if _most_processes_are_taken() else "processes?"
    return ""


def _scarcest_memory(needed: int) -> str:
    """The limit that leaves this process the least memory, and less than *needed*."""
    try:
        _, _, mapped, addressed = system.memory_of_this_process()
    except OSError:
        mapped = addressed = 0
    left = [(soft - (mapped if rlimit == "DATA" else addressed), name) for rlimit, (name, soft) in limits.held.items()]
    return min([each for each in left if each[0] < needed], default=(0, ""))[1]


def _most_processes_are_taken() -> bool:
    """Whether the call has half of them: processes that fork at the same time keep each other from the last few."""
    found = system.tree([posix.getppid()])
    return bool(sum(stat.threads for stat in found.values()) - 1 >= limits.asked["processes"] // 2)


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
