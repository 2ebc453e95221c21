"""What a call may use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .exceptions import DeliveryOptionError

__all__ = ["Limits", "parse_size"]

_LARGEST = 1 << 62
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(name: str, value: object) -> int:
    """Bytes meant by an integer or by text such as ``"512M"`` (units of 1024).

    :raises DeliveryOptionError: for anything else
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match and float(match[1]) * _UNITS[(match[2] or "").lower()] <= _LARGEST:
            return int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    raise DeliveryOptionError(f'{name} must be a size: a number of bytes or text such as "64K", "512M", "2G", not {value!r}')


def _count(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return value
    raise DeliveryOptionError(f"{name} must be a whole number from 0 to 2**62, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of one call, set by setrlimit(2) in its process before the function runs.

    :param cpu: seconds of processor time; at that point SIGXCPU, one second later SIGKILL
    :param address_space: bytes of virtual memory, shared libraries included (numpy needs about 256M of it)
    :param data: bytes of private writable memory
    :param stack: bytes of the main thread's stack
    :param file_size: bytes of the largest file it may write
    :param open_files: number of file descriptors
    :param processes: number of processes and threads of that user, all together; not enforced for root (setrlimit(2))
    :param core: bytes of a core dump
    :param rlimits: ``{resource.RLIMIT_X: (soft, hard)}`` for the rest

    Sizes are bytes or text such as ``"512M"``.
    """

    cpu: int | None = None
    address_space: int | str | None = None
    data: int | str | None = None
    stack: int | str | None = None
    file_size: int | str | None = None
    open_files: int | None = None
    processes: int | None = None
    core: int | str | None = None
    rlimits: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.as_rlimits()
        object.__setattr__(self, "rlimits", MappingProxyType(dict(self.rlimits)))

    def __reduce__(self) -> tuple[object, ...]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _limits, ({**values, "rlimits": dict(self.rlimits)},)

    def as_rlimits(self) -> dict[str, tuple[int, int]]:
        """The limits as ``{name of the RLIMIT: (soft, hard)}``, in the units of setrlimit(2).

        :raises DeliveryOptionError: if a value is nonsense
        """
        found: dict[str, tuple[int, int]] = {}
        for name, rlimit in (
            ("address_space", "AS"),
            ("data", "DATA"),
            ("stack", "STACK"),
            ("file_size", "FSIZE"),
            ("core", "CORE"),
        ):
            value = getattr(self, name)
            if value is not None:
                found[rlimit] = (parse_size(f"Limits: {name}", value),) * 2
        for name, rlimit in (("open_files", "NOFILE"), ("processes", "NPROC")):
            value = getattr(self, name)
            if value is not None:
                found[rlimit] = (_count(f"Limits: {name}", value),) * 2
        if self.cpu is not None:
            seconds = _count("Limits: cpu", self.cpu)
            # With soft == hard the kernel sends SIGKILL at once, and nobody could tell a CPU limit from any other kill.
            found["CPU"] = (seconds, seconds + 1)
        return found | self._named_rlimits()

    def _named_rlimits(self) -> dict[str, tuple[int, int]]:
        if not self.rlimits:
            return {}
        import resource

        names = {
            number: name[7:] for name, number in vars(resource).items() if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
        }
        found = {}
        for number, pair in self.rlimits.items():
            if (
                number not in names
                or not isinstance(pair, tuple)
                or not all(isinstance(value, int) and -1 <= value <= _LARGEST for value in pair)
                or len(pair) != 2
            ):
                raise DeliveryOptionError(
                    f"Limits: rlimits must be {{resource.RLIMIT_X: (soft, hard)}}, not {{{number!r}: {pair!r}}}"
                )
            found[names[number]] = pair
        return found


def _limits(values: dict[str, object]) -> Limits:
    return Limits(**values)  # type: ignore[arg-type]
