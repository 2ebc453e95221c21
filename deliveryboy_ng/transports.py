"""Transports: what stands in front of the interpreter's command line. Values in, lists of strings out, no I/O.

A transport wraps the argv of what it shall start in an argv of its own.  A chain is a list of transports, outermost hop
first: ``[Ssh("web1"), Sudo("nobody")]`` logs in at web1 and becomes nobody there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from .confinement import Confinement
from .exceptions import DeliveryOptionError
from .limits import plain, refuse_unknown

__all__ = ["Bubblewrap", "Command", "Local", "Ssh", "Sudo", "Transport", "Unshare", "chain_of"]


@dataclass(frozen=True)
class Transport:
    """Base of all transports.

    The flags tell what the session has to know of a hop: whether it leads to another file system or host, what its
    pipes can be trusted with, what cannot come after it.
    """

    def __new__(cls, *args: object, **options: object) -> Self:
        if cls.__module__ == __name__:
            # Others may take what they like.
            refuse_unknown(cls, options)
        return super().__new__(cls)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The argv that starts *argv* through this transport."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """How errors and receipts call this hop."""
        raise NotImplementedError

    elsewhere = False
    """Whether the far side is another host, where the caller's paths mean nothing."""

    confines = False
    """Whether what runs behind it has fewer rights than who started it, by its own kind."""

    trusted = False
    """Whether what runs behind it could do here what it likes anyhow: on this machine, with this user's rights or more."""

    own_pids = False
    """Whether it makes a pid namespace that ends with what runs in it."""

    lane = "binary"
    """What the hop's pipes can be trusted with: ``binary``, ``wide`` or ``narrow`` frames (see worker/frames.py)."""

    namespaces = frozenset[str]()
    """The namespaces it makes, of those that a :class:`~deliveryboy_ng.Confinement` may ask for."""

    def forbids(self, inner: Transport) -> str:
        """Why *inner* cannot work behind this hop, or an empty string."""
        return ""

    def confined(self, confinement: Confinement) -> Transport:
        """This hop, doing by its own means what it can of a confinement, and not hindering the rest."""
        return self


def _words(owner: str, what: str, words: object) -> tuple[str, ...]:
    if isinstance(words, Iterable) and not isinstance(words, (str, bytes)):
        return tuple(_word(owner, what, word) for word in words)
    raise DeliveryOptionError(f"{owner}: {what} must be a list of strings, not {words!r}")


def _word(owner: str, what: str, word: object) -> str:
    text = os.fspath(word) if isinstance(word, os.PathLike) else word
    if isinstance(text, str) and text and "\0" not in text:
        with contextlib.suppress(UnicodeEncodeError):
            os.fsencode(text)
            return plain(text)
    raise DeliveryOptionError(f"{owner}: {what} must be a non-empty string (or path) without NUL, not {word!r}")


def _paths(owner: str, what: str, paths: object) -> tuple[str, ...]:
    found = _words(owner, what, paths)
    for path in found:
        if not os.path.isabs(path):
            raise DeliveryOptionError(f"{owner}: {what} must be absolute paths, not {path!r}")
    return found


def _whole(owner: str, what: str, value: object, least: int, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return int(value)
    raise DeliveryOptionError(f"{owner}: {what} must be a whole number from {least} to {most}, not {value!r}")


def _refuse_unclear(transport: Transport, *flags: str) -> None:
    for flag in flags:
        if not isinstance(getattr(transport, flag), bool):
            owner = type(transport).__name__
            raise DeliveryOptionError(f"{owner}: {flag} must be true or false, not {getattr(transport, flag)!r}")


@dataclass(frozen=True)
class Local(Transport):
    """A fresh interpreter on this machine, as this user; the default. Never the caller's own process."""

    trusted = True

    def wrap(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    @property
    def name(self) -> str:
        return "local"


@dataclass(frozen=True)
class Sudo(Transport):
    """Another user, by sudo(8), never asking for a password (``-n``).

    :param user: the user to become; the default is root
    :param group: the primary group to run with
    :param options: further options of sudo, before the command
    """

    user: str = "root"
    group: str | None = None
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "user", _word("Sudo", "user", self.user))
        if self.group is not None:
            put(self, "group", _word("Sudo", "group", self.group))
        put(self, "options", _words("Sudo", "options", self.options))

    def wrap(self, argv: Sequence[str]) -> list[str]:
        group = ["-g", self.group] if self.group else []
        return ["sudo", "-n", "-u", self.user, *group, *self.options, "--", *argv]

    @property
    def name(self) -> str:
        return f"sudo -u {self.user}"

    @property
    def confines(self) -> bool:  # type: ignore[override]
        return self.user not in ("root", "#0")

    @property
    def trusted(self) -> bool:  # type: ignore[override]
        return not self.confines


# Seconds between questions to a host that says nothing.
_ALIVE = 15
_LONGEST = 1_000_000_000
# Characters of a command that is shown whole.
_MOST_SHOWN = 60


@dataclass(frozen=True)
class Ssh(Transport):
    """Another host, by ssh(1), never asking anything (``BatchMode``); the host's key must be known.

    A host that does not answer for a minute is given up, also while a call runs there (``ServerAliveInterval``).

    :param host: ``host`` or ``user@host``, as ssh takes it, aliases of its configuration included
    :param port: the port, if not ssh's own choice
    :param identity: the private key's file
    :param config: a configuration file to use instead of the user's
    :param connect_timeout: seconds to wait for the connection; the option of the same name holds as well, so the smaller of
        both does
    :param options: further options of ssh, before the host
    """

    host: str
    port: int | None = None
    identity: str | os.PathLike[str] | None = None
    config: str | os.PathLike[str] | None = None
    connect_timeout: int = 4
    options: tuple[str, ...] = ()

    elsewhere = True

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "host", _word("Ssh", "host", self.host))
        if self.host.startswith("-"):
            raise DeliveryOptionError(f"Ssh: host must not start with a dash: {self.host!r}")
        if self.port is not None:
            put(self, "port", _whole("Ssh", "port", self.port, 1, 65535))
        for name in ("identity", "config"):
            if getattr(self, name) is not None:
                put(self, name, _word("Ssh", name, getattr(self, name)))
        put(self, "connect_timeout", _whole("Ssh", "connect_timeout (in seconds)", self.connect_timeout, 1, _LONGEST))
        put(self, "options", _words("Ssh", "options", self.options))

    def wrap(self, argv: Sequence[str]) -> list[str]:
        command = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={self.connect_timeout}"]
        if self.config is not None:
            command += ["-F", str(self.config)]
        if self.port is not None:
            command += ["-p", str(self.port)]
        if self.identity is not None:
            command += ["-i", str(self.identity)]
        # A host that vanishes says nothing; so ssh asks (three times), unless an option before has another say.
        command += [*self.options, "-o", f"ServerAliveInterval={_ALIVE}"]
        # What ssh is given for the other side is one string for a shell there.
        return [*command, "--", self.host, shlex.join(argv)]

    @property
    def name(self) -> str:
        return f"ssh {self.host}"

    @property
    def lane(self) -> str:  # type: ignore[override]
        # The login shell over there may say something at any time, and an option may ask for a terminal.
        return "narrow" if any(option.startswith("-t") or "RequestTTY" in option for option in self.options) else "wide"


@dataclass(frozen=True, kw_only=True)
class Unshare(Transport):
    """New namespaces, by unshare(1) of util-linux 2.38 or later; no root needed as long as ``user`` is true.

    :param user: a user namespace in which the caller appears as root (``-r``)
    :param pid: a pid namespace with a /proc of its own; the whole of it dies with the call
    :param mount: a mount namespace
    :param net: a network namespace: no network at all, not even loopback
    :param ipc: a System V and POSIX IPC namespace
    :param uts: a host name of its own
    :param cgroup: a cgroup namespace
    :param options: further options of unshare, before the command
    """

    user: bool = True
    pid: bool = False
    mount: bool = False
    net: bool = False
    ipc: bool = False
    uts: bool = False
    cgroup: bool = False
    options: tuple[str, ...] = ()

    confines = True

    def __post_init__(self) -> None:
        _refuse_unclear(self, "user", "pid", "mount", "net", "ipc", "uts", "cgroup")
        object.__setattr__(self, "options", _words("Unshare", "options", self.options))

    def wrap(self, argv: Sequence[str]) -> list[str]:
        command = ["unshare"]
        for flag, option in (
            (self.user, "--map-root-user"),
            (self.mount, "--mount"),
            (self.net, "--net"),
            (self.ipc, "--ipc"),
            (self.uts, "--uts"),
            (self.cgroup, "--cgroup"),
        ):
            if flag:
                command.append(option)
        if self.pid:
            command += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*command, *self.options, "--", *argv]

    @property
    def own_pids(self) -> bool:  # type: ignore[override]
        return self.pid

    @property
    def namespaces(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(name for name in ("cgroup", "ipc", "net", "uts") if getattr(self, name))

    def confined(self, confinement: Confinement) -> Transport:
        made = self.namespaces | set(confinement.namespaces)
        return replace(self, cgroup="cgroup" in made, ipc="ipc" in made, net="net" in made, uts="uts" in made)

    @property
    def name(self) -> str:
        flags = [flag for flag in ("user", "pid", "mount", "net", "ipc", "uts", "cgroup") if getattr(self, flag)]
        return "unshare " + "+".join(flags)

    def forbids(self, inner: Transport) -> str:
        if isinstance(inner, Sudo) and self.user:
            return "inside a user namespace sudo's set-uid root is not the machine's root; put Sudo before Unshare"
        if isinstance(inner, Ssh) and self.net:
            return "a new network namespace has no network; put Ssh before Unshare"
        return ""


@dataclass(frozen=True, kw_only=True)
class Bubblewrap(Transport):
    """A sandbox by bwrap(1): the file system read-only, a private /tmp, new namespaces, no capabilities.

    :param write: paths that stay writable
    :param hide: folders replaced by empty ones, also below what may be read or written; only what is named below them
        (in ``write``, or by a confinement) is there
    :param network: keep the caller's network
    :param options: further options of bwrap, before the command; what they mount comes last
    """

    write: Iterable[str | os.PathLike[str]] = ()
    hide: Iterable[str | os.PathLike[str]] = ()
    network: bool = False
    options: tuple[str, ...] = ()

    confines = own_pids = True
    # What it is to do of one; see confined().
    _confinement: ClassVar[Confinement | None] = None

    def __post_init__(self) -> None:
        _refuse_unclear(self, "network")
        for name in ("write", "hide"):
            object.__setattr__(self, name, _paths("Bubblewrap", name, getattr(self, name)))
        object.__setattr__(self, "options", _words("Bubblewrap", "options", self.options))
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        for path in {os.path.normpath(words[-1]) for words in self._binds()} & set(map(os.path.normpath, map(str, self.hide))):
            raise DeliveryOptionError(f"Bubblewrap: {path} cannot be hidden and be there; leave it out of hide, or out of the rest")

    def _binds(self) -> list[tuple[str, ...]]:
        """What the machine's own is mounted for: options of bwrap, each with the place as its last word."""
        own: list[tuple[str, ...]] = [("--bind", path, path) for path in map(str, self.write)]
        named = self._confinement
        if named is None:
            return own
        # What does not exist is for the far side to say, in its own words.
        kinds = (("--ro-bind-try", named.read), ("--bind-try", named.write), ("--dev-bind-try", named.devices))
        return [*own, *((option, path, path) for option, paths in kinds for path in map(str, paths or ()))]

    def _mounts(self) -> list[tuple[str, ...]]:
        """All that is mounted, in an order in which nothing covers what shall be seen, or uncovers what shall not.

        What is hidden comes after what is bound, however the paths to both may be spelt, except for what is bound below it.
        """
        own = [("--ro-bind", "/", "/"), ("--dev", "/dev"), ("--proc", "/proc"), ("--tmpfs", "/tmp")]
        hide = [str(path) for path in self.hide]
        hidden = [("--tmpfs", path) for path in hide]

        def place(words: tuple[str, ...]) -> tuple[int, bool, int]:
            above = sum(_is_below(words[-1], path) for path in hide)
            return above, words in hidden, os.path.normpath(words[-1]).rstrip("/").count("/")

        return sorted([*own, *self._binds(), *hidden], key=place)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        command = ["bwrap", *(word for words in self._mounts() for word in words)]
        # Who is process 1 can end all others at one stroke, which nobody else can with those who multiply faster.
        command += ["--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        if self.network:
            command.append("--share-net")
        return [*command, *self.options, "--", *argv]

    @property
    def namespaces(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"cgroup", "ipc", "uts"} | (set() if self.network else {"net"}))

    def confined(self, confinement: Confinement) -> Transport:
        # Without CAP_SETFCAP root cannot appear as itself in the call's own user namespace; the call gives it away.
        options = (*self.options, "--cap-add", "CAP_SETFCAP")
        made = replace(self, network=self.network or confinement.network, options=options)
        object.__setattr__(made, "_confinement", confinement)
        made._refuse_contradictions()
        return made

    @property
    def name(self) -> str:
        return "bwrap"

    def forbids(self, inner: Transport) -> str:
        if isinstance(inner, Sudo):
            return "bwrap takes away the privileges that sudo needs; put Sudo before Bubblewrap"
        if isinstance(inner, Ssh) and not self.network:
            return "the sandbox has no network; put Ssh before Bubblewrap, or set network=True"
        return ""


def _is_below(path: str, folder: str) -> bool:
    path, folder = os.path.normpath(path), os.path.normpath(folder)
    return path != folder and path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True)
class Command(Transport):
    """Any command that runs the command line put behind it: setpriv, nsenter, ``podman exec -i NAME``, srun, ...

    Nothing is assumed of the bytes it passes on, so all that goes through it is short lines of text.

    :param argv: the command and its options
    :param elsewhere: whether what it starts sees another file system; the default interpreter is then ``python3``
    :param shell: whether it wants the rest as one string for a shell, as ssh does
    """

    argv: tuple[str, ...]
    elsewhere: bool = False
    shell: bool = False

    lane = "narrow"

    def __post_init__(self) -> None:
        _refuse_unclear(self, "elsewhere", "shell")
        object.__setattr__(self, "argv", _words("Command", "argv", self.argv))
        if not self.argv:
            raise DeliveryOptionError("Command: an empty list names no command")

    def wrap(self, argv: Sequence[str]) -> list[str]:
        if self.shell:
            return [*self.argv, shlex.join(argv)]
        setting = {"env", "sudo"}.intersection(map(os.path.basename, self.argv))
        if setting and "=" in argv[0]:
            raise DeliveryOptionError(
                f"{self.name}: {min(setting)} would take {argv[0]!r} for a variable to set; "
                "name an interpreter by executable= whose path has no = in it"
            )
        return [*self.argv, *argv]

    @property
    def name(self) -> str:
        text = " ".join(self.argv)
        return text if len(text) <= _MOST_SHOWN else f"{self.argv[0]} ... {self.argv[-1][:_MOST_SHOWN]}"


def chain_of(transport: object, params: Sequence[str] = ()) -> tuple[Transport, ...]:
    """The chain that the option ``transport`` means, with ``transport_params`` behind a command given as a string.

    :raises DeliveryOptionError: if it is no transport, or an order that cannot work
    """
    if transport is None or isinstance(transport, Transport):
        chain: tuple[Transport, ...] = (transport or Local(),)
    elif isinstance(transport, str):
        return (_command(transport, params),)
    elif isinstance(transport, (list, tuple)) and transport:
        chain = tuple(hop for each in transport for hop in chain_of(each))
    else:
        raise DeliveryOptionError(
            f"transport must be a Transport, a command as a string, a list of them or None, not {transport!r}"
        )
    if tuple(params):
        raise DeliveryOptionError("transport_params belong to a transport given as a string; use the transport's own options")
    _refuse_impossible(chain)
    return chain


def _command(text: str, params: Sequence[str]) -> Command:
    try:
        words = (*shlex.split(text), *_words("transport", "transport_params", params))
    except ValueError as error:
        raise DeliveryOptionError(f"transport: {text!r} cannot be split into words: {error}") from None
    if not words:
        raise DeliveryOptionError("transport: an empty string names no command; None means a local interpreter")
    is_ssh = os.path.basename(words[0]) == "ssh"
    return Command(words, elsewhere=is_ssh, shell=is_ssh)


def _refuse_impossible(chain: tuple[Transport, ...]) -> None:
    for place, outer in enumerate(chain):
        for inner in chain[place + 1 :]:
            reason = outer.forbids(inner)
            if reason:
                raise DeliveryOptionError(f"{inner.name} cannot follow {outer.name}: {reason}")
            if inner.elsewhere:
                break


def wrap(chain: Iterable[Transport], argv: Sequence[str]) -> list[str]:
    """The argv that starts *argv* through the whole chain."""
    command = list(argv)
    for hop in reversed(tuple(chain)):
        command = hop.wrap(command)
    return command


def describe(chain: Iterable[Transport]) -> str:
    """The chain in words."""
    return " -> ".join(hop.name for hop in chain)


def is_elsewhere(chain: Iterable[Transport]) -> bool:
    """Whether the far end is another host or file system."""
    return any(hop.elsewhere for hop in chain)


def is_trusted(chain: Iterable[Transport]) -> bool:
    """Whether nobody in it has fewer rights than the caller, or is somewhere else."""
    return all(hop.trusted for hop in chain)


def guard_of(chain: Sequence[Transport]) -> str:
    """What keeps a call from killing its supervisor and leaving its processes behind.

    ``""`` where it has its starter's rights, ``"pid namespace"`` where its processes end with its supervisor anyhow, and
    ``"signals"`` where its signals must be kept from it.
    """
    hops = chain[_last_host(chain) :]
    if any(hop.own_pids for hop in hops):
        return "pid namespace"
    return "signals" if any(hop.confines for hop in hops) else ""


def confined(chain: Sequence[Transport], confinement: Confinement) -> tuple[Transport, ...]:
    """The chain, with hops on the last host that do what they can of a confinement."""
    start = _last_host(chain)
    return (*chain[:start], *(hop.confined(confinement) for hop in chain[start:]))


def namespaces_of(chain: Sequence[Transport]) -> frozenset[str]:
    """The namespaces that are made by the hops on the host where the call runs."""
    return frozenset(name for hop in chain[_last_host(chain) :] for name in hop.namespaces)


def _last_host(chain: Sequence[Transport]) -> int:
    """Where the hops begin that are on the host where the call runs."""
    return max((place + 1 for place, hop in enumerate(chain) if hop.elsewhere), default=0)


def lane_of(chain: Iterable[Transport]) -> str:
    """The most careful lane that any hop asks for."""
    lanes = {hop.lane for hop in chain}
    return next(lane for lane in ("narrow", "wide", "binary") if lane in lanes)


def default_executables(chain: Iterable[Transport]) -> tuple[str, ...]:
    """Interpreters to try, in order, when none was named.

    The caller's own may lie where another user cannot reach it (root's home, a private virtual environment); then one
    of the same version, then any, is looked for on that user's PATH.
    """
    if is_elsewhere(chain):
        return ("python3",)
    # An embedded Python may not know where it is.
    here = (sys.executable,) if sys.executable else ()
    return (*here, f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3")
