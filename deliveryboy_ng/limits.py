"""What a call may use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .exceptions import DeliveryOptionError

__all__ = ["Limits", "merged", "parse_duration", "parse_seconds", "parse_size", "plain", "refuse_unknown"]

_LARGEST = 1 << 62
# Seconds, thirty years: what poll(2) and the clocks still take.
_LONGEST = 1_000_000_000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(name: str, value: object) -> int:
    """Bytes meant by an integer or by text such as ``"512M"`` (units of 1024).

    :raises DeliveryOptionError: for anything else
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return int(value)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match and float(match[1]) * _UNITS[(match[2] or "").lower()] <= _LARGEST:
            return int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    raise DeliveryOptionError(
        f'{name} must be a size: a number of bytes up to 2**62 or text such as "64K", "512M", "2G", not {value!r}'
    )


def plain(text: str) -> str:
    """The text as a str and nothing else: members of enumerations and other kinds of str do not travel as what they are."""
    return str.__str__(text)


def refuse_unknown(kind: type, names: Iterable[str]) -> None:
    """:raises DeliveryOptionError: if one of the names is no field of that dataclass, with the nearest that is"""
    known: Iterable[str] = kind.__dataclass_fields__  # type: ignore[attr-defined]
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise DeliveryOptionError(f"{kind.__name__} has no {name}; {hint}")


def _count(name: str, value: object, least: int = 0) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST:
        return int(value)
    raise DeliveryOptionError(f"{name} must be a whole number from {least} to 2**62, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one call may use.  Sizes are bytes or text such as ``"512M"`` (units of 1024), times are seconds.

    Three are held for all processes of the call together, by watching them:

    :param memory: bytes of memory that belongs to the call: anonymous and shared memory, memfds, and what of it is
        swapped out; pages of files do not count, and neither do files on a tmpfs that nobody has mapped, nor as much as
        the call's packed box has, twice.  Besides, the call's own process gets a MemoryError at the line that asks for
        too much.  Importing numpy takes some 64M
    :param cpu: seconds of processor time, fractions allowed
    :param processes: number of processes and threads, the first included

    The others are limits of setrlimit(2), each process has them for itself:

    :param address_space: bytes of virtual memory, shared libraries included (numpy needs about 256M of it)
    :param data: bytes of private writable memory
    :param stack: bytes of the main thread's stack
    :param file_size: bytes of the largest file it may write
    :param open_files: number of file descriptors
    :param core: bytes of a core dump
    :param locked_memory: bytes that may be locked into memory
    :param rlimits: ``{resource.RLIMIT_X: (soft, hard)}`` for the rest

    And two settings:

    :param nice: niceness, from -20 (first) to 19 (last); below the present one needs rights
    :param cpu_affinity: numbers of the processors that it may run on
    :raises DeliveryOptionError: if a value is nonsense
    """

    cpu: float | None = None
    memory: int | str | None = None
    address_space: int | str | None = None
    data: int | str | None = None
    stack: int | str | None = None
    file_size: int | str | None = None
    open_files: int | None = None
    processes: int | None = None
    core: int | str | None = None
    locked_memory: int | str | None = None
    nice: int | None = None
    cpu_affinity: Iterable[int] | None = None
    rlimits: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def __new__(cls, *args: object, **limits: object) -> Limits:
        refuse_unknown(cls, limits)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                put(self, name, plain(value) if isinstance(value, str) else int(value))
        if self.cpu_affinity is not None:
            put(self, "cpu_affinity", _processors(self.cpu_affinity))
        put(self, "rlimits", MappingProxyType(_checked_rlimits(self.rlimits)))
        self.as_setup()

    def __reduce__(self) -> tuple[object, ...]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _limits, ({**values, "rlimits": dict(self.rlimits)},)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__ if name != "rlimits"))

    def as_setup(self) -> dict[str, Any]:
        """The limits as numbers, by name, those that are set; ``rlimits`` by the names of setrlimit(2)."""
        found: dict[str, Any] = {}
        if self.cpu is not None:
            found["cpu"] = parse_seconds("Limits: cpu", self.cpu)
        for name in ("memory", "address_space", "data", "stack", "file_size", "core", "locked_memory"):
            value = getattr(self, name)
            if value is not None:
                found[name] = parse_size(f"Limits: {name}", value)
        for name, least in (("open_files", 0), ("processes", 1)):
            value = getattr(self, name)
            if value is not None:
                found[name] = _count(f"Limits: {name}", value, least)
        if self.nice is not None:
            found["nice"] = _niceness(self.nice)
        if self.cpu_affinity is not None:
            found["cpu_affinity"] = list(self.cpu_affinity)
        if self.rlimits:
            names = _rlimit_names()
            found["rlimits"] = {names[number]: pair for number, pair in self.rlimits.items()}
        return found


def merged(limits: Limits, others: Limits) -> Limits:
    """*limits*, and where it sets nothing, *others*."""
    found = {
        name: mine if (mine := getattr(limits, name)) is not None else getattr(others, name) for name in Limits.__dataclass_fields__
    }
    return Limits(**{**found, "rlimits": {**others.rlimits, **limits.rlimits}})


def parse_seconds(name: str, value: object) -> float:
    """:raises DeliveryOptionError: if it is no number of seconds above 0"""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LONGEST:
        return float(value)
    raise DeliveryOptionError(f"{name} must be a number of seconds above 0 and up to {_LONGEST:,}, not {value!r}")


def parse_duration(name: str, value: object) -> int | float:
    """:raises DeliveryOptionError: if it is no number of seconds from 0 on"""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LONGEST:
        return value if type(value) is int else float(value)
    raise DeliveryOptionError(f"{name} must be a number of seconds from 0 to {_LONGEST:,}, not {value!r}")


def _niceness(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -20 <= value <= 19:
        return int(value)
    raise DeliveryOptionError(f"Limits: nice must be a whole number from -20 to 19, not {value!r}")


def _processors(value: object) -> tuple[int, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        numbers = tuple(value)
        if numbers and all(
            isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 16 for number in numbers
        ):
            return tuple(sorted(set(map(int, numbers))))
        value = numbers
    raise DeliveryOptionError(f"Limits: cpu_affinity must be numbers of processors, such as [0, 1], not {value!r}")


def _rlimit_names() -> dict[int, str]:
    import resource

    return {number: name[7:] for name, number in vars(resource).items() if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"}


def _checked_rlimits(rlimits: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    if not isinstance(rlimits, Mapping):
        raise DeliveryOptionError(f"Limits: rlimits must be {{resource.RLIMIT_X: (soft, hard)}}, not {rlimits!r}")
    names = _rlimit_names() if rlimits else {}
    for number, pair in rlimits.items():
        if (
            number not in names
            or not isinstance(pair, tuple)
            or len(pair) != 2
            or not all(isinstance(value, int) and -1 <= value <= _LARGEST for value in pair)
        ):
            raise DeliveryOptionError(f"Limits: rlimits must be {{resource.RLIMIT_X: (soft, hard)}}, not {{{number!r}: {pair!r}}}")
    return {int(number): (int(soft), int(hard)) for number, (soft, hard) in rlimits.items()}


def _limits(values: dict[str, object]) -> Limits:
    return Limits(**values)  # type: ignore[arg-type]
