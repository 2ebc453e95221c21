"""The options of a delivered function: one frozen value, checked once."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .confinement import Confinement
from .exceptions import DeliveryOptionError
from .limits import Limits, merged, parse_duration, parse_size, plain
from .transports import Transport, chain_of, confined, default_executables, guard_of, is_trusted, namespaces_of

__all__ = ["Options", "Output"]

Output = str | Callable[[str, bytes], object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that can be said of a call beside its function and arguments.

    :param transport: a :class:`~deliveryboy_ng.Transport`, a command as a string, or a list of hops; None is a fresh
        interpreter on this machine
    :param transport_params: options behind a transport given as a string
    :param executable: the interpreter on the far side; the default is this one here, ``python3`` on another host
    :param asynchronous: do not wait: a call returns the PID of the transport (or interpreter) and is detached from it;
        nobody is told what becomes of it
    :param discard_excess: drop what the transport prints around the answer; otherwise it is added to stdout
    :param timeout: seconds of wall time for the function, enforced on the far side
    :param grace: seconds between SIGTERM and SIGKILL when the timeout is over
    :param connect_timeout: seconds until the far side must have greeted
    :param env: environment variables to set (or, with the value None, to remove) on the far side
    :param cwd: working directory on the far side
    :param umask: file mode creation mask; the default is the caller's
    :param input: bytes for the function's stdin; the default is an empty one
    :param output: ``"live"`` writes to the caller's current ``sys.stdout`` and ``sys.stderr`` as it comes, ``"capture"``
        only keeps it in the Receipt, ``"discard"`` drops it, and a callable gets ``("stdout" or "stderr", bytes)``.
        None is ``"live"`` for plain calls and ``submit``, ``"capture"`` for ``run``
    :param max_output: bytes of each stream that the Receipt keeps: the first and the last half
    :param overflow: what becomes of a call that writes more than ``max_output`` on one stream: ``"cut"`` drops the middle
        part from the Receipt, ``"kill"`` ends the call
    :param max_reply: bytes that an answer may have; a larger one ends the call.  The default is 1 GiB, and 64 MiB where the
        answer is not trusted: as Python objects it may take up to a hundred times as much
    :param keep_children: leave processes running that the function has started and not waited for, such as a daemon, when
        the function itself has come to its end; they must write elsewhere than to its stdout and stderr
    :param modules: ``"auto"``, or names of modules (with all below them) that shall travel although they are installed
    :param limits: resource limits
    :param confinement: what the function may see, write and reach
    :param trust: whether what comes back may be unpickled, which lets whoever wrote it run what he likes here; otherwise it
        is taken as data.  None decides by rights: unpickled is what comes from this machine, from this user or root,
        through ``Local`` and ``Sudo`` alone, without confinement
    :param accepts: enums, dataclasses and named tuples that may come back as such where data only is taken
    """

    transport: Any = None
    transport_params: Sequence[str] = ()
    executable: str | os.PathLike[str] | None = None
    asynchronous: bool = False
    discard_excess: bool = True
    timeout: float | None = None
    grace: float = 1.0
    connect_timeout: float = 10.0
    env: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    cwd: str | os.PathLike[str] | None = None
    umask: int | None = None
    input: bytes = b""
    output: Output | None = None
    max_output: int | str = "1M"
    overflow: str = "cut"
    max_reply: int | str | None = None
    keep_children: bool = False
    modules: str | Iterable[str] = "auto"
    limits: Limits = Limits()
    confinement: Confinement | None = None
    trust: bool | None = None
    accepts: Iterable[type] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name, default in (("env", {}), ("input", b""), ("modules", "auto"), ("limits", Limits())):
            if getattr(self, name) is None:
                put(self, name, default)
        if self.transport_params is not None and not isinstance(self.transport_params, (list, tuple)):
            raise DeliveryOptionError(f"transport_params must be a list of strings, not {self.transport_params!r}")
        put(self, "transport_params", tuple(self.transport_params or ()))
        put(self, "transport", chain_of(self.transport, self.transport_params))
        put(self, "transport_params", ())
        put(self, "env", MappingProxyType(_checked_env(self.env)))
        put(self, "modules", _checked_modules(self.modules))
        put(self, "accepts", _checked_accepts(self.accepts))
        put(self, "max_output", parse_size("max_output", self.max_output))
        put(self, "max_reply", None if self.max_reply is None else parse_size("max_reply", self.max_reply))
        for name in ("cwd", "executable"):
            if getattr(self, name) is not None:
                put(self, name, _checked_path(name, getattr(self, name)))
        if self.cwd is not None and str(self.cwd).startswith("~"):
            raise DeliveryOptionError(f"cwd: {self.cwd!r} starts with a ~, which is not expanded: name the folder in full")
        self._check_times()
        self._check_rest()
        self._check_output()
        self._check_rights()

    def __reduce__(self) -> tuple[object, ...]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _options, ({**values, "env": dict(self.env)},)

    def _check_times(self) -> None:
        for name in ("timeout", "grace", "connect_timeout"):
            value = getattr(self, name)
            if value is None and name == "timeout":
                continue
            object.__setattr__(self, name, parse_duration(name, value))
        if not self.connect_timeout:
            raise DeliveryOptionError("connect_timeout must be more than 0 seconds")

    def _check_rest(self) -> None:
        if not isinstance(self.input, (bytes, bytearray, memoryview)):
            raise DeliveryOptionError(f"input must be bytes, not {type(self.input).__name__}; encode text first")
        object.__setattr__(self, "input", bytes(self.input))
        if self.umask is not None and not (type(self.umask) is int and 0 <= self.umask <= 0o777):
            raise DeliveryOptionError(f"umask must be a number from 0 to 0o777, not {self.umask!r}")
        for name in ("asynchronous", "discard_excess", "keep_children"):
            if not isinstance(getattr(self, name), bool):
                raise DeliveryOptionError(f"{name} must be true or false, not {getattr(self, name)!r}")
        if self.keep_children and (guard_of(self.chain) == "pid namespace" or self.confinement is not None):
            raise DeliveryOptionError("keep_children: a pid namespace ends with the call, and all its processes with it")

    def _check_output(self) -> None:
        put = object.__setattr__
        if self.output not in (None, "live", "capture", "discard") and not callable(self.output):
            raise DeliveryOptionError(f'output must be "live", "capture", "discard" or a callable, not {self.output!r}')
        if inspect.iscoroutinefunction(self.output):
            raise DeliveryOptionError(f"output is called, not awaited, for what has come; {self.output!r} must be a plain function")
        if self.overflow not in ("cut", "kill"):
            raise DeliveryOptionError(f'overflow must be "cut" or "kill", not {self.overflow!r}')
        put(self, "overflow", plain(self.overflow))
        if isinstance(self.output, str):
            put(self, "output", plain(self.output))
        if self.asynchronous and (callable(self.output) or self.overflow == "kill"):
            raise DeliveryOptionError("asynchronous=True sends the output to /dev/null, which no output= and no overflow= will see")

    def _check_rights(self) -> None:
        if not isinstance(self.limits, Limits):
            raise DeliveryOptionError(f"limits must be Limits(...), not {self.limits!r}")
        if self.confinement is not None and not isinstance(self.confinement, Confinement):
            raise DeliveryOptionError(f"confinement must be a Confinement, such as Confinement.strict(), not {self.confinement!r}")
        if self.confinement is not None:
            # Refuses what contradicts the transports.
            confined(self.chain, self.confinement)
        if self.trust is not None and not isinstance(self.trust, bool):
            raise DeliveryOptionError(f"trust must be True, False or None, not {self.trust!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any], base: Options | None = None, others: Iterable[str] = ()) -> Options:
        """The options named in a mapping, on top of *base*; ``async`` is understood as ``asynchronous``.

        :param others: what else its user could have meant
        :raises DeliveryOptionError: if one is unknown, with the nearest known name
        """
        given = dict(options)
        if "async" in given and "asynchronous" in given:
            raise DeliveryOptionError("async and asynchronous are one option; give one of them")
        if "async" in given:
            given["asynchronous"] = given.pop("async")
        known = cls.__dataclass_fields__
        for name in given:
            if name not in known:
                raise DeliveryOptionError(_unknown(name, [*others, *known]))
        try:
            return cls(**given) if base is None else dataclasses.replace(base, **given)
        except DeliveryOptionError:
            raise
        except (TypeError, ValueError) as error:
            # By name alone: env may hold what is nobody's to see.
            raise DeliveryOptionError(f"options {', '.join(given)} make no sense: {error}", real_exception=error) from error

    @property
    def chain(self) -> tuple[Transport, ...]:
        """The transport's hops, outermost first."""
        return self.transport  # type: ignore[no-any-return]

    @property
    def trusted(self) -> bool:
        """Whether what comes back may be unpickled."""
        return self.confinement is None and is_trusted(self.chain) if self.trust is None else self.trust

    @property
    def guard(self) -> str:
        """What keeps the call from its supervisor, see :func:`~deliveryboy_ng.transports.guard_of`."""
        return guard_of(self.chain) or ("signals" if self.confinement is not None else "")

    def resolved(self) -> Options:
        """With what the confinement says of limits, time, working directory, and of the transports' own means."""
        confinement = self.confinement
        if confinement is None:
            return self
        chain = confined(self.chain, confinement)
        made = namespaces_of(chain)
        return dataclasses.replace(
            self,
            transport=chain,
            confinement=dataclasses.replace(confinement, namespaces=[name for name in confinement.namespaces if name not in made]),
            limits=merged(self.limits, confinement.limits),
            timeout=confinement.timeout if self.timeout is None else self.timeout,
            cwd=confinement.cwd if self.cwd is None else self.cwd,
        )

    @property
    def most_reply(self) -> int:
        """``max_reply``, or its default."""
        return int(self.max_reply) if self.max_reply is not None else 1 << 30 if self.trusted else 1 << 26

    @property
    def executables(self) -> tuple[str, ...]:
        """The interpreters to try, in order."""
        return (str(self.executable),) if self.executable else default_executables(self.chain)

    def as_bytes(self) -> bytes | str:
        """For a far side that delivers further, or why it cannot.

        A callable for the output stays behind, and classes that are accepted travel on their own.
        """
        for kind in map(type, self.chain):
            if kind.__module__ in ("__main__", "__mp_main__") or "<locals>" in kind.__qualname__:
                return f"its transport {kind.__qualname__} stands in no module that can be imported there; move it into one"
        return pickle.dumps(dataclasses.replace(self, output=None if callable(self.output) else self.output, accepts=()))


def _options(values: dict[str, Any]) -> Options:
    return Options(**values)


def _unknown(name: str, known: Iterable[str]) -> str:
    import difflib

    if name in Limits.__dataclass_fields__:
        return f"unknown option {name!r}; it is a limit: limits=Limits({name}=...)"
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(known)}"
    return f"unknown option {name!r}{hint}"


def _checked_env(env: object) -> dict[str, str | None]:
    if not isinstance(env, Mapping):
        raise DeliveryOptionError(f"env must be a mapping of names to values, not {env!r}")
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise DeliveryOptionError(f"env: {name!r} is no name of an environment variable")
        if not (value is None or (isinstance(value, str) and "\0" not in value)):
            raise DeliveryOptionError(f"env: the value of {name} must be a string or None, not {value!r}")
        _check_encoding("env", f"{name}={value}")
    return {plain(name): None if value is None else plain(value) for name, value in env.items()}


def _checked_path(name: str, path: Any) -> str:
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise DeliveryOptionError(f"{name} must be a path, not {path!r}") from None
    if not text or "\0" in text:
        raise DeliveryOptionError(f"{name} must be a path without NUL, not {path!r}")
    _check_encoding(name, text)
    return plain(text)


def _check_encoding(name: str, text: str) -> None:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise DeliveryOptionError(f"{name}: {text!r} cannot be encoded for the operating system") from None


def _checked_modules(modules: object) -> tuple[str, ...]:
    if modules == "auto":
        return ()
    if not isinstance(modules, (str, bytes)) and isinstance(modules, Iterable):
        names = tuple(modules)
        if all(isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names):
            for name in names:
                if name.partition(".")[0] in sys.stdlib_module_names:
                    raise DeliveryOptionError(f"modules: {name} belongs to the standard library, which never travels")
            return tuple(map(plain, names))
    raise DeliveryOptionError(f'modules must be "auto" or a list of module names, not {modules!r}')


def _checked_accepts(classes: object) -> tuple[type, ...]:
    if isinstance(classes, Iterable) and not isinstance(classes, (str, bytes)):
        found = tuple(classes)
        wrong = [kind for kind in found if not (isinstance(kind, type) and _is_record(kind))]
        if not wrong:
            return found
        classes = wrong[0]
    raise DeliveryOptionError(f"accepts must list enums, dataclasses and named tuples, not {classes!r}")


def _is_record(kind: type) -> bool:
    return issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
