"""What only the operating system can do: prctl, finding and killing what a call left behind.

Contract: far side, standard library only, Python 3.8+.  Nothing here raises because a platform lacks a feature; each
function tells whether it worked.
"""

import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
SIGKILL = 9
_EMFILE, _ENOSYS = 24, 38
_SPARE_PIDS = 64
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_AF_UNIX, _SOCK_STREAM, _SOCK_CLOEXEC = 1, 1, 0o2000000
_SOL_SOCKET, _SO_PASSRIGHTS = 1, 83
_HUGE_PAGE, _MUCH = 1 << 21, 1 << 23
LONGEST_POLL = 2000000000  # milliseconds; poll(2) takes a C int
PAGE = posix.sysconf("SC_PAGESIZE")

template = 0  # the process whose session is that of processes on their way to become spares
broken = ""  # why nothing can be started any more
alone = False  # whether this process has its user namespace for itself
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


def use_huge_pages() -> None:
    """Let large mappings lie in huge pages (MADV_COLLAPSE, Linux 6.1), of which a fork has the fewer to copy entries for."""
    try:
        lines = read("/proc/self/maps", 1 << 22).splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        start, stop = (int(number, 16) for number in words[0].split(b"-"))
        if words[1] == b"rw-p" and stop - start >= _MUCH and (len(words) < 6 or words[5] == b"[heap]"):
            start = -(-start // _HUGE_PAGE) * _HUGE_PAGE
            try:
                libc("madvise", start, stop // _HUGE_PAGE * _HUGE_PAGE - start, _MADV_COLLAPSE)
            except OSError:
                pass  # so it has to do without


def lay_in_huge_pages(view: memoryview) -> None:
    """Let writable memory that nobody has touched yet lie in huge pages: half of what filling it costs is the page faults."""
    try:
        start = address_of(view)
        stop = (start + len(view)) // PAGE * PAGE
        start = -(-start // PAGE) * PAGE
        libc("madvise", start, stop - start, _MADV_HUGEPAGE)
    except (ImportError, OSError):
        pass  # it works in small ones


def address_of(view: "memoryview | bytearray") -> int:
    """Where writable memory lies.

    :raises ImportError: where Python has no ``_ctypes``
    """
    import _ctypes

    if "byte" not in _checked:

        class Byte(_ctypes._SimpleCData):  # type: ignore[type-arg]
            _type_ = "b"

        _checked["byte"] = Byte
    return int(_ctypes.addressof(_checked["byte"].from_buffer(view)))


def can_pair_sockets() -> "tuple[bool, bool]":
    """Whether :func:`socketpair` works here, and whether nobody can keep this process busy by what he passes to it."""
    try:
        ends = socketpair() if sys.platform.startswith("linux") else ()
    except OSError:
        ends = ()
    for fd in ends:
        posix.close(fd)
    return bool(ends), bool(ends and _checked["refuses"])


def socketpair() -> "tuple[int, int]":
    """Two connected sockets, without the import of ``_socket``; nobody passes descriptors to the first (Linux 6.16).

    :raises OSError: if there are none
    """
    # Made here, of a size of its own, and referred to by nobody else: so it may be written to.
    ends = bytes(8)
    if _call("socketpair", _AF_UNIX, _SOCK_STREAM | _SOCK_CLOEXEC, 0, ends) == -1:
        raise OSError(_EMFILE, posix.strerror(_EMFILE))
    first, second = (int.from_bytes(ends[start : start + 4], sys.byteorder) for start in (0, 4))
    # Whoever closes a descriptor that was passed to him may have to wait for what it belongs to.
    _checked["refuses"] = _call("setsockopt", first, _SOL_SOCKET, _SO_PASSRIGHTS, bytes(4), 4) == 0
    return first, second


def trim_heap() -> None:
    """Give freed memory back to the system (malloc_trim(3)); else a process that is forked gets it as its own."""
    _call("malloc_trim", 0)


def become_supervisor() -> bool:
    """Adopt orphans, so that double-forked daemons can be found, and be no target for ptrace or /proc/PID/mem.

    Tells whether orphans come here.
    """
    prctl(PR_SET_DUMPABLE, 0)
    return prctl(PR_SET_CHILD_SUBREAPER, 1) or posix.getpid() == 1


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
    """
    if posix.getpid() != 1 or posix.geteuid() != 0 or kernel() < (6, 14) or not proc_is_ours():
        return
    try:
        fd = posix.open("/proc/sys/kernel/pid_max", posix.O_WRONLY)
    except OSError:
        return
    try:
        # Numbers below 300 are given but once.
        posix.write(fd, b"%d" % min(300 + _SPARE_PIDS + 2 * number, 32768))
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


def can_be_watched() -> bool:
    """Whether /proc shows the processes of this namespace, and their children."""
    return proc_is_ours() and posix.access("/proc/self/task/%d/children" % posix.getpid(), posix.R_OK)


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


def takes(pid: int, signal: int) -> bool:
    """Whether the process lives and has not blocked that signal."""
    try:
        status = read("/proc/%d/status" % pid)
    except OSError:
        return False
    return b"\nState:\tZ" not in status and not _mask(status, b"SigBlk") >> (signal - 1) & 1


def is_left_pending(pid: int, signal: int) -> bool:
    """Whether that signal has been sent to the process, which has blocked it."""
    try:
        status = read("/proc/%d/status" % pid)
    except OSError:
        return False
    return bool((_mask(status, b"ShdPnd") & _mask(status, b"SigBlk")) >> (signal - 1) & 1)


def _mask(status: bytes, name: bytes) -> int:
    return int(status.partition(b"\n" + name + b":\t")[2][:16] or b"0", 16)


class Stat:
    """What /proc/PID/stat says of one process (proc(5)); raises OSError if there is none.

    ``ticks`` is its own processor time, ``ticks_of_children`` that of those it has waited for; ``place`` is where the
    rest about it is found.
    """

    __slots__ = ("group", "parent", "place", "resident", "session", "start", "threads", "ticks", "ticks_of_children", "virtual")

    def __init__(self, pid: int) -> None:
        self.place = "/proc/%d" % pid
        words = self._words()
        self.parent, self.group, self.session = int(words[1]), int(words[2]), int(words[3])
        self.ticks, self.ticks_of_children = int(words[11]) + int(words[12]), int(words[13]) + int(words[14])
        self.threads = int(words[17])
        self.start = int(words[19])
        self.virtual = int(words[20])
        self.resident = int(words[21]) * PAGE
        if words[0] == b"Z" and self.threads > 1:
            self._look_at_another_thread(pid)

    def _look_at_another_thread(self, pid: int) -> None:
        """The main thread alone has ended, and took the view on what the others still have with it."""
        process = self.place
        for name in posix.listdir(process + "/task"):
            if name != str(pid):
                self.place = "%s/task/%s" % (process, name)
                try:
                    self.resident = int(self._words()[21]) * PAGE
                    return
                except OSError:
                    self.place = process

    def _words(self) -> "list[bytes]":
        text = read(self.place + "/stat")
        # The command's name stands in brackets and may itself hold brackets and spaces.
        return text[text.rindex(b")") + 2 :].split()


def memory_of_this_process() -> "tuple[int, int, int, int]":
    """Bytes that are resident, resident and backed by files or shared memory, mapped as private data, mapped at all."""
    words = read("/proc/self/statm").split()
    return int(words[1]) * PAGE, int(words[2]) * PAGE, int(words[5]) * PAGE, int(words[0]) * PAGE


def resident_memory() -> int:
    """Bytes of this process that are resident, 0 if nobody can tell."""
    try:
        return memory_of_this_process()[0]
    except OSError:
        return 0


def descendants(root: int) -> "list[tuple[int, Stat]]":
    """All living processes below *root*, by /proc; a process whose parent has ended is below its adopter."""
    children: "dict[int, list[tuple[int, Stat]]]" = {}
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                # One whose main thread has ended looks like a zombie while its other threads live on: so all are listed.
                stat = Stat(int(name))
            except OSError:
                continue
            children.setdefault(stat.parent, []).append((int(name), stat))
    found: "list[tuple[int, Stat]]" = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += [pid for pid, _ in below]
    return found


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
            found += [int(child) for child in read("/proc/%d/task/%s/children" % (pid, thread)).split()]
        except OSError:
            pass
    return found


def tree(roots: "list[int]", most: int = sys.maxsize) -> "dict[int, Stat]":
    """These processes and all below them, as far as they live; where there are more than *most*, only so many and one."""
    found: "dict[int, Stat]" = {}
    queue = roots[::-1]
    while queue and len(found) <= most:
        pid = queue.pop()
        try:
            found[pid] = Stat(pid)
        except OSError:
            continue
        queue += children(pid, found[pid].threads)
    return found


def kill_quietly(pid: int, signal: int) -> bool:
    """kill(2), false if there was nothing to signal."""
    try:
        posix.kill(pid, signal)
    except OSError:
        return False
    return True


def left_behind(known: "frozenset[int]", reaped: "Any" = None) -> bool:
    """Whether this process has children besides those *known*, once those that have ended are waited for."""
    if not reap(reaped):
        return False
    if not known:
        return True
    # All that is below this process is below a child of it.  Only its own waiting takes one out of that list.
    return not (can_be_watched() and all(pid in known or _is_nascent(pid) for pid in children(posix.getpid())))


def _is_nascent(pid: int) -> bool:
    """Whether the template has just forked it: nobody else can enter its session."""
    try:
        return template != 0 and Stat(pid).session == template
    except OSError:
        return False


def let_trackers_work(spare: "frozenset[int]" = frozenset(), reaped: "Any" = None, limit: float = 0.5) -> None:
    """Let multiprocessing's helpers remove named semaphores and shared memory, as they do when all others have ended.

    :param spare: processes that are no business of theirs, nor what is below them
    """
    me = posix.getpid()
    deadline = time.monotonic() + limit
    trackers = []
    safe = _with_all_below(spare)
    for pid, _ in descendants(me):
        if time.monotonic() > deadline:
            # Among very many, each has to get to run before its command line can be read.
            return
        if pid not in safe and _is_tracker(pid):
            trackers.append(pid)
    if not trackers:
        return
    _kill_found(me, spare | frozenset(trackers))
    while trackers and time.monotonic() < deadline:
        reap(reaped)
        trackers = [pid for pid in trackers if _is_tracker(pid)]
        time.sleep(0.002)


def _with_all_below(pids: "frozenset[int]") -> "set[int]":
    found = set(pids)
    for pid in pids:
        found.update(below for below, _ in descendants(pid))
    return found


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker import main" in read("/proc/%d/cmdline" % pid, 1 << 12)
    except OSError:
        return False


def kill_descendants(spare: "frozenset[int]" = frozenset(), reaped: "Any" = None, limit: float = 10.0) -> bool:
    """Kill everything below this process but *spare* and what is below that; true when nothing is left.

    New orphans reach this process, their subreaper, only when their parent dies, so the round is repeated until one
    finds nothing.  *reaped* is told ``(pid, status, rusage)`` of each child waited for.
    """
    deadline = time.monotonic() + limit
    me = posix.getpid()
    while True:
        if not left_behind(spare, reaped):
            return True
        if me == 1 and not spare:
            # Everybody in a pid namespace that is ours, at one stroke, and without a /proc of its own.
            kill_quietly(-1, SIGKILL)
        elif proc_is_ours():
            found, reached = _kill_found(me, spare)
            if not found and spare:
                return True
            if found and not reached:
                # Set-uid programs may be beyond this user's reach.
                return False
        else:
            return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)


def _kill_found(me: int, spare: "frozenset[int]") -> "tuple[bool, bool]":
    """Kill those that are found now; tells whether there were any, and whether any of them could be signalled."""
    safe = _with_all_below(spare)
    found = descendants(me)
    targets = [(pid, stat) for pid, stat in found if pid not in safe and (template == 0 or stat.session != template)]
    ours = posix.getsid(0)
    # A group is killed at one stroke: whoever forks in it meanwhile dies as well, a fork bomb too.
    for group in {stat.group for _, stat in targets if stat.session != ours} - {stat.group for pid, stat in found if pid in safe}:
        kill_quietly(-group, SIGKILL)
    reached = False
    for pid, _ in targets:
        try:
            posix.kill(pid, SIGKILL)
            reached = True
        except ProcessLookupError:
            reached = True
        except OSError:
            pass
    return bool(targets), reached


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
