"""Confines a call: keeps it from harming those that look after it, and to what its caller lets it have.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process while it has one thread and nothing of the
caller's in it: what is confined later leaves out the threads that are there already.  Nothing here can be undone by the call.
"""

import posix
import sys

from . import landlock, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
# No set-uid root, no fix-up of capabilities by setuid(2), no ambient ones raised any more; all of it locked.
_SECUREBITS = 0xEF
_PR_CAP_AMBIENT, _RAISE, _CLEAR_ALL = 47, 2, 4
_CAPABILITY_VERSION = 0x20080522
_SETPCAP = 8
# By number, as in linux/capability.h.
CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable"),
    *("net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio"),
    *("sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time"),
    *("sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)
_SIGNALS = "signals stay inside"
# Where Python, conda and what is installed with them have their files.
_OF_A_PREFIX = ("bin", "lib", "lib64", "share", "etc", "ssl", "pyvenv.cfg")


class Unavailable(Exception):
    """This system does not offer it."""


# In a confined template's calls: what they may touch.  Its temporary folders are theirs too, and no place for what one call
# would leave for the next.
left_by_template: "list[tuple[str, str]] | None" = None


class Broken(Unavailable):
    """It cannot be had, and there is no way back from the attempt."""


def guard(kind: str) -> "list[str]":
    """Keep a call of fewer rights than its caller from its supervisor; tells what is enforced.

    :param kind: ``signals``, or ``pid namespace`` where the transport made one
    :raises Unavailable: before Linux 6.12, or where Landlock is not switched on, if there is no pid namespace either
    """
    reason = _no_scopes()
    if reason:
        if _pids_are_apart(kind):
            # Whatever the call does to its supervisor there, nothing of it outlives that.
            return _own_pids(kind)
        raise Unavailable(reason)
    try:
        landlock.restrict(left_by_template, True)
    except OSError:
        # Without CAP_SYS_ADMIN it takes that set-uid programs gain no rights any more.
        system.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(left_by_template, True)
    return [*_own_pids(kind), _SIGNALS, *(["temporary folders read only"] if left_by_template is not None else [])]


def check_scopes() -> None:
    """Raise Unavailable where calls that run beside each other, or are forked from one template, cannot be kept apart."""
    if _no_scopes():
        raise Unavailable(
            "calls of one session cannot be kept from each other there, where Landlock has version %d and signals can be kept "
            "inside from %d on (Linux 6.12); use max_workers=1 without preload and initializer"
            % (landlock.version(), landlock.FIRST_WITH_SCOPES)
        )


def _has_init() -> bool:
    """Whether the supervisor is process 1 of its pid namespace: then all ends with it."""
    return posix.getppid() == 1


def _pids_are_apart(kind: str) -> bool:
    """Whether a pid namespace, the transport's or the supervisor's, holds what the call starts."""
    return kind == "pid namespace" or _has_init()


def _own_pids(kind: str) -> "list[str]":
    """What the supervisor made, if it did; the transport's is told by others."""
    return ["pid namespace"] if kind != "pid namespace" and _has_init() else []


def _devices() -> "list[str]":
    """What is in /dev, without what leads elsewhere."""
    with posix.scandir("/dev") as entries:
        return [entry.path for entry in entries if entry.name != "shm" and not entry.is_symlink()]


def _no_scopes() -> str:
    """Why signals cannot be kept inside, or an empty string."""
    version = landlock.version()
    if version >= landlock.FIRST_WITH_SCOPES:
        return ""
    return (
        "a call with fewer rights than its caller must not be able to kill its supervisor, and Landlock there has version %d, "
        "while signals can be kept inside from %d on (Linux 6.12); put Unshare(pid=True) or Bubblewrap() behind the "
        "transport: they do it by a pid namespace" % (version, landlock.FIRST_WITH_SCOPES)
    )


class Confinement:
    """Applies one confinement, given as the dict that ``deliveryboy_ng.Confinement`` makes of itself."""

    def __init__(self, wanted: "dict[str, Any]", kind: str, installed: "list[str]") -> None:
        """:param installed: where a virtual environment and a user's own packages lie, or empty strings"""
        self.wanted = wanted
        self.kind = kind
        self.installed = installed
        self.applied: "list[str]" = []
        self._missing: "list[str]" = []
        self._places: "list[tuple[str, str]] | None" = None
        self._view: "Any" = None

    def apply(self) -> "list[str]":
        """Confine this process; tells what is enforced.

        :raises Unavailable: if any of it cannot be, unless the confinement is content with what can
        """
        wanted = self.wanted
        before = _cwd()
        if self._has_files() or wanted["namespaces"]:
            self._try("read, write, tmp and namespaces", self._make_namespaces)
            self._settle(before if self._sees(before) else "")
        self._try("processes", self._look_for_init)
        if not wanted["new_privileges"]:
            self._try("new_privileges", self._refuse_privileges)
        self._try("read, write and signals", self._restrict)
        self._try("capabilities", self._drop_capabilities)
        if wanted["filters"]:
            self._try("network and syscalls", self._filter)
        if self._missing and not wanted["best_effort"]:
            raise Unavailable("; ".join(self._missing))
        return self.applied

    def leave(self) -> None:
        """Let those who are forked from this process see its private folders, and not write there."""
        global left_by_template
        from . import view

        if self._places is not None and self.wanted["tmp"]:
            left_by_template = [
                (below, mode)
                for path, mode in self._places
                if path not in view.TEMPORARY
                # Shared memory lies among the devices.
                for below in ([path] if path != "/dev" else _devices())
            ]

    def _try(self, what: str, step: "Callable[[], list[str]]") -> None:
        try:
            self.applied += step()
        except Broken:
            raise
        except (OSError, ValueError, Unavailable) as error:
            self._missing.append("%s: %s" % (what, error))

    def _has_files(self) -> bool:
        wanted = self.wanted
        return bool(wanted["read"] is not None or wanted["write"] is not None or wanted["tmp"])

    # --- files and processes --------------------------------------------------------------------------------------

    def _make_namespaces(self) -> "list[str]":
        from . import namespaces, view

        wanted = self.wanted
        shown = None
        if self._has_files():
            shown = view.View()
            self._gather(shown)
            self._places = shown.places(entered=False)
            try:
                view.check()
            except OSError as error:
                raise Unavailable("the kernel there cannot make a tree read-only, Linux 5.12 and later can: %s" % error) from None
        try:
            names = namespaces.enter(wanted["namespaces"], bool(wanted["capabilities"]))
        except namespaces.Halfway as error:
            raise Broken("namespaces: new ones cannot be made ready there: %s" % error) from None
        except OSError as error:
            raise Unavailable(
                "new namespaces are not permitted there (%s: %s); permit user namespaces, or put Bubblewrap() into the chain"
                % (error.filename or error.args[-1], error.strerror)
            ) from None
        system.alone = "user" in names
        lines = ["namespaces=%s" % ",".join(names)]
        if shown is None:
            return lines
        try:
            shown.enter(wanted["tmp"])
        except OSError as error:
            raise Broken("read, write and tmp: a file system of its own cannot be put together there: %s" % error) from None
        self._places = shown.places(entered=True)
        self._view = shown
        lines += ["%s=%s" % (name, wanted[name]) for name in ("read", "write", "devices") if wanted[name]]
        lines += ["read only"] if wanted["write"] is not None else []
        return lines + (["tmp=%d" % wanted["tmp"]] if wanted["tmp"] else [])

    def _gather(self, shown: "Any") -> None:
        from . import view

        wanted = self.wanted
        if wanted["write"] is None:
            shown.show("/", "all")
        elif wanted["read"] is None:
            shown.show("/", "read")
        else:
            for path in (*view.SYSTEM, *view.FOR_NETWORK) if wanted["network"] else view.SYSTEM:
                shown.show(path, "read")
        if wanted["tmp"]:
            for path in view.TEMPORARY:
                shown.show(path, "tmp")
        if wanted["tmp"] or wanted["read"] is not None:
            for path in _installed(self.installed):
                shown.show(path, "read")
        for name, mode in (("read", "read"), ("write", "write"), ("devices", "dev")):
            for path in wanted[name] or ():
                reason = shown.show(path, mode)
                if reason:
                    self._missing.append("%s=%r cannot be had on the far side: %s" % (name, path, reason))

    def _look_for_init(self) -> "list[str]":
        needed = self._has_files() or self.wanted["namespaces"]
        if needed and not _pids_are_apart(self.kind):
            raise Unavailable(
                "others can be seen there, and what it starts cannot be ended at one stroke: no pid namespace can be had, or "
                "parts of /proc are hidden; put Bubblewrap() into the chain"
            )
        return _own_pids(self.kind)

    def _sees(self, path: str) -> bool:
        """Whether it is shown as it is: else there may be no more than a folder of its name, on the way to something else."""
        return self._view is None or self._view.holds(path)

    def _settle(self, before: str) -> None:
        """Where the call finds itself, and what is said of it in the environment."""
        home = "/tmp" if self.wanted["tmp"] else "/"
        for path in (before, home):
            try:
                posix.chdir(path)
                break
            except OSError:
                pass
        # Where nothing of a home is left but a path, programs look for another place to write to.
        usable = posix.X_OK | (posix.R_OK if self.wanted["read"] is None else posix.W_OK)
        if self.wanted["read"] is not None and b"PATH" in posix.environ:
            # Names of folders that are out of sight are nobody's business.
            found = [entry for entry in posix.environ[b"PATH"].split(b":") if posix.access(entry, posix.X_OK)]
            posix.environ[b"PATH"] = b":".join(found)
            posix.putenv(b"PATH", posix.environ[b"PATH"])
        for name in (b"HOME", b"TMPDIR"):
            if name in posix.environ and not posix.access(posix.environ[name], usable):
                posix.environ[name] = home.encode()
                posix.putenv(name, home.encode())

    # --- rights ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_privileges() -> "list[str]":
        system.libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return ["no new privileges"]

    def _restrict(self) -> "list[str]":
        reason = _no_scopes()
        if landlock.version():
            landlock.restrict(self._places, bool(self.wanted["network"]))
            if self._places is not None and self._view is None:
                self.applied.append("files by Landlock alone")
        if reason and not _pids_are_apart(self.kind):
            raise Unavailable(reason)
        return [] if reason else [_SIGNALS]

    def _drop_capabilities(self) -> "list[str]":
        kept = [CAPABILITIES.index(name) for name in self.wanted["capabilities"]]
        try:
            for number in range(64):
                if number not in kept:
                    system.libc("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
        except OSError:
            pass  # there are no more, or nothing can be gained anyhow: dropping them takes a capability itself
        mask = sum(1 << number for number in kept)
        if kept:
            _set_capabilities(mask | 1 << _SETPCAP, mask)
            for number in kept:
                system.libc("prctl", _PR_CAP_AMBIENT, _RAISE, number, 0, 0)
        else:
            system.libc("prctl", _PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
        system.prctl(_PR_SET_SECUREBITS, _SECUREBITS)
        _set_capabilities(mask, mask)
        return ["capabilities=%s" % (",".join(self.wanted["capabilities"]) or "none")]

    def _filter(self) -> "list[str]":
        machine = posix.uname().machine
        program = self.wanted["filters"].get(machine)
        if program is None or sys.byteorder != "little" or sys.maxsize < 1 << 32:
            raise ValueError("system calls of %s are not known" % machine)
        # struct sock_fprog: a count and a pointer; a bytes object has its bytes at its end, but for a NUL.
        address = id(program) + bytes.__basicsize__ - 1
        words = (len(program) // 8).to_bytes(8, "little") + address.to_bytes(8, "little")
        system.libc("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, words, 0, 0)
        refused = self.wanted["syscalls"]
        return [*([] if self.wanted["network"] else ["no network"]), *(["syscalls: %d refused" % refused] if refused else [])]


def _set_capabilities(permitted: int, inheritable: int) -> None:
    header = _CAPABILITY_VERSION.to_bytes(4, sys.byteorder) + bytes(4)
    data = b""
    for shift in (0, 32):
        for mask in (permitted, permitted, inheritable):
            data += (mask >> shift & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    system.libc("capset", header, data)


def _cwd() -> str:
    try:
        return posix.getcwd()
    except OSError:
        return "/"


def _installed(besides: "list[str]") -> "list[str]":
    """Where this interpreter and what is installed for it lie; not the caller's own folders, whose modules travel."""
    programs = str(sys.executable).rpartition("/")[0]
    environment, packages = besides
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, environment}.difference(("", "/", "/usr"))
    # A project's folder may be a virtual environment too: of that only what belongs to Python.
    places = ["%s/%s" % (prefix, name) for prefix in sorted(prefixes) for name in _OF_A_PREFIX]
    within = tuple(place + "/" for place in places)
    places += [path for path in (programs, packages) if path]
    return [*places, *[entry for entry in sys.path if not entry.startswith(within) and _holds_distributions(entry)]]


def _holds_distributions(folder: str) -> bool:
    if folder.endswith(("/site-packages", "/dist-packages", ".zip")):
        return True
    try:
        return folder.startswith("/") and any(name.endswith(".dist-info") for name in posix.listdir(folder))
    except OSError:
        return False


def clear_environment(names: "list[str]") -> None:
    """Forget all variables but these (a trailing * stands for any end), in this process's memory and its /proc/self/environ too.

    :raises OSError: if its memory cannot be reached
    """
    prefixes = tuple(name[:-1].encode() for name in names if name.endswith("*"))
    kept = {
        name: bytes(bytearray(value))
        for name, value in posix.environ.items()
        if name.decode("utf-8", "replace") in names or name.startswith(prefixes)
    }
    words = system.read("/proc/self/stat").rpartition(b")")[2].split()
    start, end = int(words[47]), int(words[48])
    memory = posix.open("/proc/self/mem", posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        for value in posix.environ.values():
            # Python's own copy; those of one byte and less are shared by all who use them.
            if len(value) > 1:
                posix.pwrite(memory, bytes(len(value)), id(value) + bytes.__basicsize__ - 1)
        posix.pwrite(memory, bytes(end - start), start)
    finally:
        posix.close(memory)
    posix.environ.clear()
    system.libc("clearenv")
    for name, value in kept.items():
        posix.environ[name] = value
        posix.putenv(name, value)
