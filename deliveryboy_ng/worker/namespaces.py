"""New namespaces, by the rights that everybody has in a user namespace of his own, where that is permitted.

Contract: far side, standard library only, Python 3.8+.  Runs in processes that have one thread.
"""

import _signal  # type: ignore[import-not-found]
import posix

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, NoReturn

KINDS = {"cgroup": 0x02000000, "ipc": 0x08000000, "net": 0x40000000, "uts": 0x04000000}
_USER, _MOUNT, _PID = 0x10000000, 0x00020000, 0x20000000
RECURSIVE, PRIVATE = 1 << 14, 1 << 18
_NOSUID_NODEV_NOEXEC = 14
_PATIENCE = 5
_PASSED_ON = (_signal.SIGTERM, _signal.SIGHUP)


class Halfway(OSError):
    """The old namespaces are left, and the new ones are not as they must be."""


def enter(names: "Iterable[str]", keep_user: bool, pid: bool = False) -> "list[str]":
    """Leave the namespaces of mounts, and of *names*, for new ones, and tell all that are new.

    In a user namespace of its own this process stays who it is.

    :param keep_user: stay in the user namespace if that is possible, so that capabilities keep their worth
    :param pid: whether children shall have a new pid namespace
    :raises OSError: if it is not permitted
    :raises Halfway: if this process cannot go on
    """
    flags = _MOUNT | (_PID if pid else 0)
    for name in names:
        flags |= KINDS[name]
    user, group = posix.geteuid(), posix.getegid()
    ways = [False, True] if keep_user else [True, False]
    if user == 0:
        if not _has_setfcap():
            # Without it the kernel takes no map with root in it (user_namespaces(7)), and then there is no way back.
            ways.remove(True)
        try:
            posix.setgroups([])
        except OSError:
            pass
    if _are_useless():
        ways = [False]
    for with_user in ways:
        try:
            system.libc("unshare", flags | (_USER if with_user else 0))
        except OSError as error:
            failure = error
            continue
        try:
            if with_user:
                _write("/proc/self/setgroups", "deny")
                _write("/proc/self/uid_map", "%d %d 1" % (user, user))
                _write("/proc/self/gid_map", "%d %d 1" % (group, group))
            system.libc("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
        except OSError as error:
            raise Halfway(error.errno, error.strerror, error.filename) from None
        return [*(["user"] if with_user else []), "mount", *(["pid"] if pid else []), *names]
    raise failure


def _has_setfcap() -> bool:
    capabilities = system.read("/proc/self/status").partition(b"\nCapEff:\t")[2][:16]
    return bool(int(capabilities or b"0", 16) >> 31 & 1)


def _write(path: str, text: str) -> None:
    fd = posix.open(path, posix.O_WRONLY)
    try:
        posix.write(fd, text.encode())
    finally:
        posix.close(fd)


def take_over(own: str) -> None:
    """Be the first process of a pid namespace, if that can be had.

    :param own: ``pids``, or ``pids?`` where it need be only if signals cannot be kept from it, with ``!`` behind it if capabilities
        shall keep their worth
    """
    from . import landlock

    if "?" in own and landlock.version() >= landlock.FIRST_WITH_SCOPES:
        return
    # In a user namespace there are no rights for it any more.
    system.come_first(True)
    try:
        become_init("!" in own)
    except Halfway as error:
        system.broken = (
            "new namespaces cannot be made ready there (%s); put Unshare(pid=True) or Bubblewrap() into the chain" % error
        )
    system.come_first()


def become_init(keep_user: bool) -> bool:
    """Go on as process 1 of a pid namespace with a /proc of its own; false where that cannot be had.

    All that this process starts can then be ended at one stroke, and knows of no process outside.  The one that it was waits
    for it, passes on signals, and ends as it does.

    :raises Halfway: if this process cannot go on
    """
    if not _proc_is_whole() or _are_useless():
        return False
    try:
        enter((), keep_user, True)
    except Halfway:
        raise
    except OSError:
        return False
    try:
        inner = posix.fork()
    except OSError as error:
        raise Halfway(error.errno, error.strerror) from None
    if inner:
        _wait_for(inner)
    system.prctl(system.PR_SET_PDEATHSIG, system.SIGKILL)
    try:
        system.libc("mount", b"proc", b"/proc", b"proc", _NOSUID_NODEV_NOEXEC, None)
    except OSError:
        pass  # what needs it will say so
    return True


def _are_useless() -> bool:
    """Ubuntu lets whoever has no AppArmor profile make a user namespace, and then permits nothing in it."""
    try:
        restricted = posix.geteuid() != 0 and system.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == b"1"
        return restricted and system.read("/proc/self/attr/current").strip() == b"unconfined"
    except OSError:
        return False


def _proc_is_whole() -> bool:
    """A new /proc is not permitted where parts of the present one are hidden, as containers do (mount_namespaces(7))."""
    try:
        lines = system.read("/proc/self/mountinfo").splitlines()
    except OSError:
        return False
    return not any(line.split()[4].startswith(b"/proc/") and b"binfmt_misc" not in line for line in lines)


def _wait_for(inner: int) -> "NoReturn":
    def pass_on(number: int, frame: object) -> None:
        system.kill_quietly(inner, number)
        _signal.alarm(_PATIENCE)

    for number in _PASSED_ON:
        _signal.signal(number, pass_on)
    # Should it be kept from listening, it ends all the same.
    _signal.signal(_signal.SIGALRM, lambda number, frame: system.kill_quietly(inner, system.SIGKILL))
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    posix.closerange(0, 3)
    _, status = posix.waitpid(inner, 0)
    if posix.WIFSIGNALED(status):
        posix._exit(128 + posix.WTERMSIG(status))
    posix._exit(posix.WEXITSTATUS(status))
