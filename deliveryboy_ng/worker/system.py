"""What only the operating system can do: prctl, sockets, precedence, waiting for what has ended.

Contract: far side, standard library only, Python 3.8+.  Nothing here raises because a platform lacks a feature; each
function tells whether it worked.
"""

import _signal  # type: ignore[import-not-found]
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9
# What a supervisor handles, and with SIGINT what is kept from a call process until there is somebody to hear it.
HANDLED = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP)
KEPT = (*HANDLED, _signal.SIGINT)
_EMFILE, _ENOSYS = 24, 38
_SPARE_PIDS = 64
_pids_before = b""  # what was set before the first bound
_AF_UNIX, _SOCK_STREAM, _SOCK_CLOEXEC = 1, 1, 0o2000000
_SOL_SOCKET, _SO_PASSRIGHTS = 1, 83
_LONG = 8 if sys.maxsize > 1 << 32 else 4
LONGEST_POLL = 2000000000  # milliseconds; poll(2) takes a C int
PAGE = posix.sysconf("SC_PAGESIZE")

template = 0  # the process whose session is that of processes on their way to become spares
broken = ""  # why nothing can be started any more
alone = False  # whether this process has its user namespace for itself
changed: "list[tuple[int, Any]] | None" = None  # what changed_signals() told, as long as that holds
niceness = 0  # what it was before it came first
_functions: "dict[str, int]" = {}
_checked: "dict[str, Any]" = {}


def _call(name: str, *args: "int | bytes | None") -> int:
    """Call a function of the C library through ``_ctypes`` alone; the full ``ctypes`` costs six times as much to import.

    Its result, or -1 where there is no such function.
    """
    try:
        import _ctypes

        if name not in _functions:
            _functions[name] = _ctypes.dlsym(_ctypes.dlopen(None, 0), name)  # type: ignore[arg-type]
        return int(_ctypes.call_function(_functions[name], args))
    except (ImportError, OSError, AttributeError):
        return -1


def prctl(option: int, value: int) -> bool:
    """prctl(2): whether it worked."""
    return sys.platform.startswith("linux") and _call("prctl", option, value, 0, 0, 0) == 0


def syscall(number: int, *args: "int | bytes | None") -> int:
    """syscall(2): its result, -1 if it failed."""
    return _call("syscall", number, *args)


def flush_streams() -> None:
    """fflush(3): write what C code has left in the buffers of the C library."""
    _call("fflush", None)


def libc(name: str, *args: "int | bytes | None") -> int:
    """Call a function of the C library whose arguments are longs and pointers and whose result is an int, -1 for a failure.

    :raises OSError: with the function's error and name
    """
    if "function" not in _checked:
        try:
            import _ctypes
        except ImportError:
            raise OSError(_ENOSYS, "that Python has no _ctypes", name) from None

        class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "l"

        class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "i"

        class Function(_ctypes.CFuncPtr):
            _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
            _restype_ = Int

        _checked.update(function=Function, long=Long, ctypes=_ctypes, library=_ctypes.dlopen(None, 0))  # type: ignore[arg-type]
    if name not in _checked:
        _checked[name] = _checked["function"](_checked["ctypes"].dlsym(_checked["library"], name))
    result = int(_checked[name](*[_checked["long"](arg) if isinstance(arg, int) else arg for arg in args]))
    if result == -1:
        error = _checked["ctypes"].get_errno()
        raise OSError(error, posix.strerror(error), name)
    return result


def socketpair() -> "tuple[int, int]":
    """Two connected sockets, without the import of ``_socket`` if that can be; nobody passes descriptors to the first (Linux 6.16).

    :raises OSError: if there are none
    """
    # Made here, of a size of its own, and referred to by nobody else: so it may be written to.
    ends = bytes(8)
    if _call("socketpair", _AF_UNIX, _SOCK_STREAM | _SOCK_CLOEXEC, 0, ends) == 0:
        first, second = (int.from_bytes(ends[start : start + 4], sys.byteorder) for start in (0, 4))
    elif "socketpair" in _functions:
        raise OSError(_EMFILE, posix.strerror(_EMFILE))
    else:
        import _socket

        first, second = (end.detach() for end in _socket.socketpair())
    # Whoever closes a descriptor that was passed to him may have to wait for what it belongs to.
    if _call("setsockopt", first, _SOL_SOCKET, _SO_PASSRIGHTS, bytes(4), 4) == 0:
        _checked["refuses"] = True
    return first, second


def refuse_descriptors() -> bool:
    """Whether nobody can pass descriptors to the first of a socketpair() as it is made here."""
    return "refuses" in _checked


def become_supervisor() -> bool:
    """Adopt orphans, so that double-forked daemons can be found, and be no target for ptrace or /proc/PID/mem.

    Tells whether orphans come here.
    """
    prctl(PR_SET_DUMPABLE, 0)
    return prctl(PR_SET_CHILD_SUBREAPER, 1) or posix.getpid() == 1


def changed_signals() -> "list[tuple[int, Any]]":
    """Signals that do not do here what they do in any Python program, each with what that would be."""
    ordinary = {getattr(_signal, name): _signal.SIG_IGN for name in ("SIGPIPE", "SIGXFSZ") if hasattr(_signal, name)}
    ordinary[_signal.SIGINT] = _signal.default_int_handler
    found: "list[tuple[int, Any]]" = []
    for number in range(1, _signal.NSIG):
        wanted = ordinary.get(number, _signal.SIG_DFL)
        try:
            # None has the C library's own, and whoever was started with another handler than Python knows of.
            if _signal.getsignal(number) not in (None, wanted):
                found.append((number, wanted))
        except ValueError:
            pass
    return found


def is_of_a_handler(error: BaseException) -> bool:
    """Whether it was raised by the handler of a signal that came just now, and has nothing to do with what was being done."""
    handlers = [_signal.getsignal(number) for number in range(1, _signal.NSIG)]
    codes = [getattr(handler, "__code__", None) for handler in handlers]
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def come_first(children_too: bool = False) -> None:
    """Be scheduled before what there is to be watched, where rights allow it.

    RLIMIT_NPROC does not hold root, whose fork bomb would leave its watch no time to look.  Children get what this process
    had before, unless they come first as well.
    """
    global niceness
    try:
        if posix.geteuid() != 0:
            return
        if posix.sched_getscheduler(0) == posix.SCHED_OTHER:
            niceness = posix.getpriority(posix.PRIO_PROCESS, 0)
        # Once it comes first, keeping that from children takes no rights.
        policy = posix.SCHED_RR if children_too else posix.SCHED_RR | posix.SCHED_RESET_ON_FORK
        posix.sched_setscheduler(0, policy, posix.sched_param(1))
    except (OSError, AttributeError):
        pass


def bound_pids(number: int) -> None:
    """Let the pid namespace of which this is process 1 have few more processes than so many; RLIMIT_NPROC does not hold root.

    Before Linux 6.14 that number is the whole machine's, and is left alone.

    :param number: 0 for as many as before the first bound
    """
    global _pids_before
    if posix.getpid() != 1 or not (number or _pids_before):
        return
    if posix.geteuid() != 0 or kernel() < (6, 14) or not proc_is_ours():
        return
    try:
        fd = posix.open("/proc/sys/kernel/pid_max", posix.O_RDWR)
    except OSError:
        return
    try:
        _pids_before = _pids_before or posix.pread(fd, 32, 0)
        # Numbers below 300 are given but once.
        posix.write(fd, b"%d" % min(300 + _SPARE_PIDS + 2 * number, 32768) if number else _pids_before)
    except OSError:
        pass
    finally:
        posix.close(fd)


def kernel() -> "tuple[int, ...]":
    """The kernel's version."""
    return tuple(int(part) for part in posix.uname().release.partition("-")[0].split(".")[:2] if part.isdigit())


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


def read(path: str, most: int = 1 << 20) -> bytes:
    """A file of /proc, which gives what it has in pieces of any size, or its beginning; raises OSError.

    Of some files a process decides itself how long they are.
    """
    return b"".join(pieces(path, most))


def pieces(path: str, most: int) -> "Iterator[bytes]":
    """The same, piece by piece."""
    fd = posix.open(path, posix.O_RDONLY)
    try:
        while most > 0:
            data = posix.read(fd, min(most, 1 << 16))
            if not data:
                return
            most -= len(data)
            yield data
    finally:
        posix.close(fd)


def nameless_file() -> int:
    """A descriptor of a new file that nobody can find, in memory where that can be; raises OSError."""
    if hasattr(posix, "memfd_create"):
        return posix.memfd_create("deliveryboy")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return posix.dup(file.fileno())


def memory_of_this_process() -> "tuple[int, int, int, int]":
    """Bytes that are resident, resident and backed by files or shared memory, mapped as private data, mapped at all."""
    words = read("/proc/self/statm").split()
    return int(words[1]) * PAGE, int(words[2]) * PAGE, int(words[5]) * PAGE, int(words[0]) * PAGE


def processors() -> int:
    """How many this process may run on."""
    try:
        return len(posix.sched_getaffinity(0))
    except (AttributeError, OSError):  # some sandboxes refuse it
        return posix.cpu_count() or 1


def resident_memory() -> int:
    """Bytes of this process that are resident, 0 if nobody can tell."""
    try:
        return memory_of_this_process()[0]
    except OSError:
        return 0


def kill_quietly(pid: int, signal: int) -> bool:
    """kill(2), false if there was nothing to signal."""
    try:
        posix.kill(pid, signal)
    except OSError:
        return False
    return True


def reap(reaped: "Any" = None) -> bool:
    """Wait for every child that has ended; false when there are no children at all.

    :param reaped: is told pid, status, and its use: seconds for the user and for the system, and the most bytes that were resident
    """
    while True:
        try:
            pid, status, used = _wait()
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if reaped is not None:
            reaped(pid, status, used)


def _wait() -> "tuple[int, int, tuple[float, float, int]]":
    """wait4(2) without waiting.  Python's own imports ``resource`` for what it tells."""
    status, usage = bytes(4), bytes(18 * _LONG)
    pid = _call("wait4", -1, status, posix.WNOHANG, usage) if _LONG == 8 and sys.platform == "linux" else -1
    if pid == -1:
        pid, ended, found = posix.wait4(-1, posix.WNOHANG)
        return pid, ended, (found.ru_utime, found.ru_stime, found.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    numbers = [int.from_bytes(usage[at : at + _LONG], sys.byteorder) for at in range(0, 5 * _LONG, _LONG)]
    times = numbers[0] + numbers[1] / 1e6, numbers[2] + numbers[3] / 1e6
    return pid, int.from_bytes(status, sys.byteorder), (*times, numbers[4] * 1024)
