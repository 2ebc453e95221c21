"""The filter of system calls, instruction by instruction."""

from __future__ import annotations

import pytest

from deliveryboy_ng import seccomp


def verdict_of(program: list[tuple[int, int, int, int]], architecture: int, number: int, *args: int) -> int:
    """Run a filter as seccomp(2) says that the kernel does, on little-endian 64-bit arguments."""
    data = number.to_bytes(4, "little") + architecture.to_bytes(4, "little") + bytes(8)
    data += b"".join((arg & (1 << 64) - 1).to_bytes(8, "little") for arg in (*args, *[0] * (6 - len(args))))
    accumulator = place = 0
    while True:
        operation, if_true, if_false, value = program[place]
        if operation == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], "little")
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return value
        else:
            found = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value != 0}[operation]
            place += if_true if found else if_false
        place += 1


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should(machine: str) -> None:
    architecture, column = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}[machine]
    allow, refuse = 0x7FFF0000, lambda error: 0x00050000 | error
    names = list(seccomp.NUMBERS)
    closed, opened = (seccomp.program(machine, names, network) for network in (False, True))
    numbers = {name: pair[column] for name, pair in {**seccomp.NUMBERS, **seccomp._CHECKED}.items() if pair[column] is not None}
    assert len(closed) < 4096 and all(len(set(values)) == len(values) for values in (list(numbers.values()),))
    for name in names:
        if name in numbers:
            assert verdict_of(closed, architecture, numbers[name]) == refuse(1)
    cases = [
        ("clone", (0x01200011,), allow),
        ("clone", (0x10000011,), refuse(1)),
        ("clone", (0x20011,), refuse(1)),
        ("clone3", (), refuse(38)),
        ("ioctl", (0, 0x5401), allow),
        ("ioctl", (0, 0x5412), refuse(1)),
        ("ioctl", (0, 0x5412 | 1 << 32), refuse(1)),
        ("ioctl", (0, 0x541C), refuse(1)),
        ("prlimit64", (0, 7, 0x7FFFFFFF0000), allow),
        ("prlimit64", (99, 7, 0), allow),
        ("prlimit64", (99, 7, 0x1000), refuse(1)),
        ("prlimit64", (99, 7, 1 << 32), refuse(1)),
        ("setpriority", (0, 0), allow),
        ("setpriority", (1, 0), allow),
        ("setpriority", (2, 0), refuse(1)),
        ("setpriority", (0, 99), refuse(1)),
        ("ioprio_set", (1, 0), allow),
        ("ioprio_set", (3, 0), refuse(1)),
        ("ioprio_set", (1, 99), refuse(1)),
        ("sched_setaffinity", (0,), allow),
        ("sched_setaffinity", (99,), refuse(1)),
        ("fchmod", (3, 0o100755), allow),
        ("fchmod", (3, 0o104755), refuse(1)),
        ("fchmodat", (3, 0, 0o2755), refuse(1)),
        ("fchmodat2", (3, 0, 0o755), allow),
        ("mknodat", (3, 0, 0o104755), refuse(1)),
        ("openat", (3, 0, 0, 0o6777), allow),
        ("openat", (3, 0, 0o101, 0o644), allow),
        ("openat", (3, 0, 0o101, 0o4644), refuse(1)),
        ("openat", (3, 0, 0o20200002, 0o4644), refuse(1)),
        ("openat2", (), refuse(38)),
        ("socketpair", (1, 1), allow),
        ("socketpair", (1, 5 | 0o2004000), allow),
        ("socketpair", (1, 2), refuse(13)),
        ("socketpair", (30, 1), refuse(13)),
        ("bind", (), refuse(13)),
        ("fcntl", (3, 4), allow),
        ("fcntl", (3, 1024), refuse(1)),
        ("fcntl", (3, 1026), refuse(1)),
        ("prctl", (38,), allow),
        ("prctl", (35,), refuse(1)),
        ("prctl", (4,), refuse(1)),
        ("fcntl", (3, 1031), refuse(1)),
        ("setsockopt", (3, 1, 2), allow),
        ("setsockopt", (3, 6, 7), allow),
        ("setsockopt", (3, 1, 7), refuse(1)),
        ("setsockopt", (3, 1, 33), refuse(1)),
        ("socket", (1,), refuse(13)),
    ]
    for name, args, expected in cases:
        assert verdict_of(closed, architecture, numbers[name], *args) == expected, (name, args)
    for family in range(50):
        assert verdict_of(opened, architecture, numbers["socket"], family) == (allow if family in (1, 2, 10, 16) else refuse(97))
    for number in {0, 1, 5, 39, 60, 63, 64, 93, 500, 0x3FFFFFFF} - set(numbers.values()):
        assert verdict_of(closed, architecture, number) == allow
    other = {0xC000003E: 0xC00000B7, 0xC00000B7: 0xC000003E}[architecture]
    for wrong in (other, 0x40000003, 0x40000028):
        assert verdict_of(closed, wrong, 0) == refuse(38)
    if machine == "x86_64":
        assert verdict_of(closed, architecture, 0x40000000 | 39) == refuse(38)
    assert len(seccomp.program(machine, [], False)) < 25, "nothing refused, and no network, is a short program"
