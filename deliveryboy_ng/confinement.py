"""What a call may do to the machine that it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import seccomp
from .exceptions import DeliveryOptionError
from .limits import Limits, merged, parse_seconds, parse_size, plain, refuse_unknown
from .worker.confine import CAPABILITIES
from .worker.namespaces import KINDS

__all__ = ["Confinement"]

Paths = Iterable[str | os.PathLike[str]]
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_UNDOING = ("sys_admin", "sys_ptrace", "perfmon", "bpf", "sys_module", "sys_rawio", "sys_boot", "checkpoint_restore", "mac_admin")


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What one call, with all processes that it starts, may see, write and reach.

    It is applied to the call's process before anything of the caller's is unpacked there, and cannot be undone.  As it is made by
    default the call reads what its user may, writes only to a private /tmp, and has no network; :meth:`strict` is for code
    that nobody has read.

    :param network: whether it may have sockets, other than pairs of them; if not, neither TCP nor UDP, unix or netlink sockets
        can be made
    :param read: None, or paths that it may read besides the system's programs and libraries and what is installed for the
        interpreter; all else does not exist for it
    :param write: paths that it may write, files and folders but no links, pipes or sockets; None leaves that to the user's rights
    :param tmp: bytes (or text such as ``"64M"``) of private folders in the place of /tmp, /var/tmp and /dev/shm, all
        together, which end with the call; False or 0 leaves these as they are
    :param devices: devices that it may use besides null, zero, full, random and urandom
    :param new_privileges: whether programs may gain rights when they are started (set-uid ones); that contradicts all of the
        above and the next three, from which such programs would be free
    :param capabilities: names of capabilities(7) to keep, such as ``"net_raw"``, where the call has them
    :param namespaces: what it shall have of its own besides mounts and processes: ``"cgroup"``, ``"ipc"``, ``"net"``, ``"uts"``
    :param syscalls: system calls to refuse with EPERM.  Unless it is empty these are refused too: new namespaces, injecting
        terminal input, set-uid files, leases, setting limits and priorities of processes by their number
    :param env: names of the environment variables that stay (a * at the end stands for anything); None keeps all.  What
        the option ``env`` sets is set all the same
    :param cwd: working directory, unless the option ``cwd`` names another; by default the present one if it can be seen, else the
        private /tmp
    :param limits: limits, where ``Options.limits`` sets none
    :param timeout: seconds, where the option ``timeout`` is not given
    :param best_effort: hold what can be held on the far side, instead of refusing the call if something cannot;
        ``receipt.applied`` tells what is held
    :raises DeliveryOptionError: if a value is nonsense
    """

    network: bool = False
    read: Paths | None = None
    write: Paths | None = ()
    tmp: int | str | bool = "64M"
    devices: Paths = ()
    new_privileges: bool = False
    capabilities: Iterable[str] = ()
    namespaces: Iterable[str] = ("ipc",)
    syscalls: Iterable[str] = tuple(seccomp.NUMBERS)
    env: Iterable[str] | None = None
    cwd: str | os.PathLike[str] | None = None
    limits: Limits = Limits()
    timeout: float | None = None
    best_effort: bool = False

    def __new__(cls, *args: object, **values: object) -> Confinement:
        refuse_unknown(cls, values)
        return super().__new__(cls)

    @classmethod
    def strict(cls, **changes: Any) -> Confinement:
        """For code that nobody has read: only the system to read, only a private /tmp to write, namespaces of its own, a cleared
        environment, a minute of time, and limits of memory, processes, files and file sizes.

        :param changes: whatever shall be different; of ``limits`` those that are named
        """
        limits = Limits(memory="512M", cpu=60, processes=64, file_size="64M", open_files=256, core=0)
        preset: dict[str, Any] = {
            "read": (),
            # Without sockets a network of its own would only keep the machine's connections out of sight, and costs the most.
            "namespaces": ("cgroup", "ipc", "uts"),
            "env": _ENVIRONMENT,
            "limits": limits,
            "timeout": 60.0,
        }
        if isinstance(changes.get("limits"), Limits):
            changes["limits"] = merged(changes["limits"], limits)
        return cls(**{**preset, **changes})

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("network", "new_privileges", "best_effort"):
            if not isinstance(getattr(self, name), bool):
                raise DeliveryOptionError(f"Confinement: {name} must be true or false, not {getattr(self, name)!r}")
        for name in ("read", "write", "devices"):
            value = getattr(self, name)
            if value is not None or name == "devices":
                put(self, name, _paths(name, value))
        for path in self.devices:
            if os.path.normpath(path) != path or not str(path).startswith("/dev/"):
                raise DeliveryOptionError(f"Confinement: devices must be names in /dev, such as '/dev/kvm', not {path!r}")
        put(self, "tmp", _size(self.tmp))
        if self.limits is None:
            put(self, "limits", Limits())
        put(self, "capabilities", _names("capabilities", self.capabilities, CAPABILITIES))
        put(self, "namespaces", _names("namespaces", self.namespaces, tuple(KINDS)))
        put(self, "syscalls", _names("syscalls", self.syscalls, tuple(seccomp.NUMBERS)))
        if self.env is not None:
            put(self, "env", _variables(self.env))
        if self.cwd is not None:
            put(self, "cwd", _path("cwd", self.cwd))
        if not isinstance(self.limits, Limits):
            raise DeliveryOptionError(f"Confinement: limits must be Limits(...), not {self.limits!r}")
        if self.timeout is not None:
            put(self, "timeout", parse_seconds("Confinement: timeout", self.timeout))
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        for name, everything in (("read", "read=None"), ("write", "write=None")):
            paths = {os.path.normpath(path) for path in getattr(self, name) or ()}
            if "/" in paths:
                raise DeliveryOptionError(f"Confinement: {name}: the whole of it is {everything}")
            if any(f"{path}/".startswith("/dev/") and not f"{path}/".startswith("/dev/shm/") for path in paths):
                raise DeliveryOptionError(f"Confinement: {name}: what lies in /dev is asked for by devices=, not {paths}")
            private = paths & {"/tmp", "/var/tmp", "/dev/shm"}
            if self.tmp and private:
                raise DeliveryOptionError(
                    f"Confinement: {name}: {min(private)} is a private folder, and the machine's own with tmp=False only"
                )
        undoing = [name for name in self.capabilities if name in _UNDOING]
        if undoing:
            raise DeliveryOptionError(f"Confinement: capabilities: who has {', '.join(undoing)} is not held by the rest")
        if self.read is not None and self.write is None:
            raise DeliveryOptionError("Confinement: write=None leaves every file writable, and readable; it contradicts read=")
        if self.network and "net" in self.namespaces:
            raise DeliveryOptionError('Confinement: a new namespace "net" has no network; it contradicts network=True')
        needing = [name for name in ("read", "tmp", "devices", "capabilities", "namespaces", "syscalls") if getattr(self, name)]
        needing += [] if self.network else ["network=False"]
        needing += [] if self.write is None else ["write"]
        if self.new_privileges and needing:
            raise DeliveryOptionError(
                f"Confinement: new_privileges=True contradicts {', '.join(needing)}: set-uid programs are not held by it"
            )

    def as_setup(self) -> dict[str, Any]:
        """What the far side has to know, as plain data."""
        return {
            "network": self.network,
            "read": None if self.read is None else list(self.read),
            "write": None if self.write is None else list(self.write),
            "tmp": self.tmp,
            "devices": list(self.devices),
            "new_privileges": self.new_privileges,
            "capabilities": list(self.capabilities),
            "namespaces": list(self.namespaces),
            "syscalls": len(tuple(self.syscalls)),
            "filters": seccomp.filters(tuple(self.syscalls), self.network) if self.syscalls or not self.network else {},
            "env": None if self.env is None else list(self.env),
            "cwd": self.cwd,
            "best_effort": self.best_effort,
        }


def _paths(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return tuple(_path(name, path) for path in value)
    raise DeliveryOptionError(f"Confinement: {name} must be a list of paths, not {value!r}")


def _path(name: str, value: Any) -> str:
    try:
        path = os.fsdecode(value)
        os.fsencode(path)
    except (TypeError, UnicodeError):
        raise DeliveryOptionError(f"Confinement: {name}: {value!r} is no path") from None
    if not os.path.isabs(path) or "\0" in path:
        raise DeliveryOptionError(f"Confinement: {name}: {value!r} must be an absolute path, such as '/data'")
    return plain(path)


def _size(value: object) -> int:
    if isinstance(value, bool):
        value = "64M" if value else 0
    return parse_size("Confinement: tmp", value)


def _names(name: str, value: object, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise DeliveryOptionError(f"Confinement: {name} must be a list of names, not {value!r}")
    found = tuple(value)
    for each in found:
        if each == "pid":
            raise DeliveryOptionError("Confinement: namespaces: a confined call has a pid namespace of its own in any case")
        if each not in known:
            import difflib

            near = difflib.get_close_matches(str(each), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise DeliveryOptionError(f"Confinement: {name}: {each!r} is unknown; {hint}")
    return tuple(dict.fromkeys(map(plain, found)))


def _variables(value: object) -> tuple[str, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        names = tuple(value)
        if all(isinstance(name, str) and name and "=" not in name and "\0" not in name for name in names):
            return tuple(map(plain, names))
    raise DeliveryOptionError(f"Confinement: env must be names of environment variables, not {value!r}")
