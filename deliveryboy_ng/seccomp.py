"""Filters for seccomp(2): programs that refuse system calls, made here for every machine that a far side may be.

Numbers are those of the kernel's tables for x86-64 and aarch64.  Calls by any other table (x32, 32-bit programs) are refused
altogether, since a filter that looks at one table's numbers says nothing of another's.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable

__all__ = ["NUMBERS", "filters"]

_EPERM, _EACCES, _ENOSYS, _EAFNOSUPPORT = 1, 13, 38, 97
# AUDIT_ARCH_* of linux/audit.h, and the column of NUMBERS.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000

NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "msgget": (68, 186),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "semget": (64, 190),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "uselib": (134, None),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}
# Looked at by their arguments.
_CHECKED = {
    "bind": (49, 200),
    "chmod": (90, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "creat": (85, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "listen": (50, 201),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "setpriority": (141, 140),
    "setsockopt": (54, 208),
    "socket": (41, 198),
    "socketpair": (53, 199),
}
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET, _KIND_OF_SOCKET = 1, 5, 15
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_F_SETPIPE_SZ = 1031
_PR_SET_DUMPABLE, _PR_SET_MM = 4, 35
_SOL_SOCKET, _SO_SNDBUF, _SO_RCVBUF, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 1, 7, 8, 32, 33
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACES = 0x7E020000
_SET_ID = 0o6000
# O_CREAT, and what O_TMPFILE has besides O_DIRECTORY.
_CREATES = 0o100 | 0o20000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

Instruction = tuple[int, int, int, int]
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4


def _argument(number: int, high: bool = False) -> int:
    return 16 + 8 * number + 4 * high


@functools.lru_cache(maxsize=64)
def filters(refused: tuple[str, ...], network: bool) -> dict[str, bytes]:
    """By machine, the filter that refuses these system calls by EPERM, and all sockets but pairs unless *network*.

    With anything refused, so are terminal injection, new namespaces, making programs set-uid, and limits and priorities of other
    processes.  Sockets of other families than unix, inet, inet6 and netlink are refused in any case.
    """
    return {machine: b"".join(struct.pack("<HBBI", *each) for each in program(machine, refused, network)) for machine in _MACHINES}


def program(machine: str, refused: Iterable[str], network: bool) -> list[Instruction]:
    """The filter as instructions of classic BPF: operation, jump if true, jump if false, value."""
    architecture, column = _MACHINES[machine]
    code = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), _refuse(_ENOSYS), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), _refuse(_ENOSYS)]
    for name in refused:
        number = NUMBERS[name][column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), _refuse(_EPERM)]
    for name, block in _blocks(bool(refused), network).items():
        number = _CHECKED[name][column]
        if number is not None:
            code += [(_EQUAL, 0, len(block), number), *block]
    return [*code, _allow()]


def _blocks(guarding: bool, network: bool) -> dict[str, list[Instruction]]:
    """For calls that depend on their arguments; each block ends by itself."""
    if network:
        blocks = {
            "socketpair": _only([_AF_UNIX], _EAFNOSUPPORT),
            "socket": _only([_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK], _EAFNOSUPPORT),
        }
    else:
        blocks = {name: [_refuse(_EACCES)] for name in ("socket", "bind", "connect", "listen")}
        # One end of a pair of datagram sockets could send to any other socket.
        blocks["socketpair"] = [
            *((_LOAD, 0, 0, _argument(0)), (_EQUAL, 0, 4, _AF_UNIX)),
            *((_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, _KIND_OF_SOCKET)),
            *((_EQUAL, 2, 0, _SOCK_STREAM), (_EQUAL, 1, 0, _SOCK_SEQPACKET)),
            _refuse(_EACCES),
            _allow(),
        ]
    if not guarding:
        return blocks
    blocks["clone"] = [(_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refuse(_EPERM), _allow()]
    # Its flags are in memory, out of a filter's sight; the C library then takes clone.
    blocks["clone3"] = [_refuse(_ENOSYS)]
    blocks["ioctl"] = _none_of(1, [_TIOCSTI, _TIOCLINUX])
    # A lease keeps others from opening a file; and what lies in pipes is charged to nobody.
    blocks["fcntl"] = _none_of(1, [_F_SETLEASE, _F_NOTIFY, _F_SETPIPE_SZ])
    # They decide what /proc shows of this process, and how much of it.
    blocks["prctl"] = _none_of(0, [_PR_SET_MM, _PR_SET_DUMPABLE])
    if not network:
        # What lies in sockets is charged to nobody.
        sizes = [_SO_SNDBUF, _SO_RCVBUF, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE]
        blocks["setsockopt"] = [(_LOAD, 0, 0, _argument(1)), (_EQUAL, 1, 0, _SOL_SOCKET), _allow(), *_none_of(2, sizes)]
    for name in ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        blocks[name] = _only([0], _EPERM)
    # Reading another's limits takes nothing from it.
    blocks["prlimit64"] = [
        (_LOAD, 0, 0, _argument(0)),
        (_EQUAL, 4, 0, 0),
        (_LOAD, 0, 0, _argument(2)),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _argument(2, True)),
        (_EQUAL, 0, 1, 0),
        _allow(),
        _refuse(_EPERM),
    ]
    # A set-uid program that the call leaves where others come by would give them its user's rights.
    for name, argument in (
        ("chmod", 1),
        ("fchmod", 1),
        ("creat", 1),
        ("mknod", 1),
        ("fchmodat", 2),
        ("fchmodat2", 2),
        ("mknodat", 2),
    ):
        blocks[name] = _not_set_id(argument)
    for name, argument in (("open", 1), ("openat", 2)):
        # The mode is read only where a file is made.
        blocks[name] = [(_LOAD, 0, 0, _argument(argument)), (_ANY_BIT, 1, 0, _CREATES), _allow(), *_not_set_id(argument + 1)]
    # Its mode is in memory; nobody needs it who can do without.
    blocks["openat2"] = [_refuse(_ENOSYS)]
    blocks["setpriority"] = _itself([0, 1])
    blocks["ioprio_set"] = _itself([1])
    return blocks


def _only(values: list[int], error: int) -> list[Instruction]:
    """The first argument has one of these values, or that error is the answer."""
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [(_LOAD, 0, 0, _argument(0)), *tests, _refuse(error), _allow()]


def _none_of(argument: int, values: list[int]) -> list[Instruction]:
    """That argument has none of these values."""
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [(_LOAD, 0, 0, _argument(argument)), *tests, _allow(), _refuse(_EPERM)]


def _not_set_id(argument: int) -> list[Instruction]:
    """That argument is a mode without set-uid and set-gid."""
    return [(_LOAD, 0, 0, _argument(argument)), (_ANY_BIT, 0, 1, _SET_ID), _refuse(_EPERM), _allow()]


def _itself(kinds: list[int]) -> list[Instruction]:
    """The first argument names a process or its group, the second, 0, the caller's own."""
    tests = [(_EQUAL, len(kinds) - place, 0, value) for place, value in enumerate(kinds)]
    return [
        (_LOAD, 0, 0, _argument(0)),
        *tests,
        _refuse(_EPERM),
        (_LOAD, 0, 0, _argument(1)),
        (_EQUAL, 1, 0, 0),
        _refuse(_EPERM),
        _allow(),
    ]


def _refuse(error: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | error)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, _ALLOW)
