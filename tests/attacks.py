"""What code that nobody has read might try, as functions to be delivered; each returns the list of what it got away with.

They are harmless where they succeed, for the day when a confinement does not hold: what is written to is ours, what is the
system's is only opened, and a signal to a process that is not the tests' own is number 0.  Nothing here needs pytest: ``python tests/attacks.py`` tries all of it as the user who runs it, and prints what came of each.
PYTEST_DONT_REWRITE: these functions go where pytest is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deliveryboy_ng import seccomp

REFUSED = seccomp.NUMBERS
SECRET = "a secret of the caller's"


@dataclass
class Arena:
    """What is there to be attacked: a folder with a secret, listening sockets, and processes."""

    folder: str
    tcp: int
    udp: int
    unix: str
    abstract: str
    pids: list[int]
    shm: int
    heard: list[str] = field(default_factory=list)

    @property
    def target(self) -> dict[str, Any]:
        """What an attacker is told."""
        return {name: value for name, value in vars(self).items() if name != "heard"}


@contextlib.contextmanager
def arena(folder: Path, victims: list[int] = []) -> Iterator[Arena]:  # noqa: B006
    """Set it up in *folder*; on the way out, stop listening."""
    (folder / "secret").write_text(SECRET)
    (folder / "ssh").mkdir()
    (folder / "ssh" / "id_ed25519").write_text(SECRET)
    # The signal that harms nobody else is the end of this one.
    program = "import os, signal, time; signal.signal(signal.SIGCONT, lambda *_: os._exit(1)); time.sleep(600)"
    victim = subprocess.Popen([sys.executable, "-c", program], env={"SECRET": SECRET})
    sockets = [
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    ]
    sockets[1].bind(("127.0.0.1", 0))
    sockets[2].bind(str(folder / "socket"))
    abstract = f"\0deliveryboy-{os.getpid()}"
    sockets[3].bind(abstract)
    sockets[4].bind(f"{folder}/datagrams")
    sockets[5].bind(f"{abstract}-datagrams")
    libc = ctypes.CDLL(None)
    shm = libc.shmget(0, 4096, 0o1666)
    place = Arena(
        str(folder),
        sockets[0].getsockname()[1],
        sockets[1].getsockname()[1],
        str(folder / "socket"),
        abstract,
        [os.getpid(), victim.pid, *victims],
        shm,
    )
    for each in sockets[2:4]:
        each.listen()
    done = threading.Event()

    def listen() -> None:
        import select

        while not done.is_set():
            for each in select.select(sockets, [], [], 0.05)[0]:
                place.heard.append(str(each))
                each.recv(1000) if each.type == socket.SOCK_DGRAM else each.accept()[0].close()

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield place
    finally:
        done.set()
        thread.join()
        for each in sockets:
            each.close()
        victim.kill()
        victim.wait()
        libc.shmctl(shm, 0, None)


def stopped(pids: list[int]) -> list[str]:
    """Which of these processes do not run any more."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "gone"
        if state not in "RSDI":
            found.append(f"{pid} is {state}")
    return found


# --- helpers of the attackers ---------------------------------------------------------------------------------------


def tried(actions: dict[str, Callable[[], Any]]) -> list[str]:
    """The names of the actions that worked: that returned something true and raised nothing."""
    found = []
    for name, action in actions.items():
        try:
            if action():
                found.append(name)
        except Exception:
            pass
    return found


def raw(number: int, *args: Any) -> int:
    """A system call by its number; an OSError if it failed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args])
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def number_of(name: str) -> int:
    """The number of a system call on this machine."""
    table = {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "kill": (62, 129),
        "tgkill": (234, 131),
        "rt_sigqueueinfo": (129, 138),
        "prlimit64": (302, 261),
        "setpriority": (141, 140),
        "ioprio_set": (251, 30),
        "mknodat": (259, 33),
        "shmat": (30, 196),
    }
    return table[name][os.uname().machine == "aarch64"]


def others() -> list[int]:
    """All processes to be seen, but this one and what it started itself."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def places(folder: str) -> list[str]:
    """Names that might lead to the folder."""
    ways = [folder, f"/proc/self/root{folder}", f"/proc/self/cwd/../../../../../..{folder}", f"/tmp/../..{folder}"]
    return ways + [f"/proc/{pid}/root{folder}" for pid in others()] + [f"/proc/{pid}/cwd" for pid in others()]


# --- files ----------------------------------------------------------------------------------------------------------


def write_outside(target: dict[str, Any]) -> list[str]:
    import site

    folders = [
        "/",
        "/etc",
        "/usr",
        "/usr/local/bin",
        "/usr/bin",
        "/home",
        "/root",
        "/var",
        "/var/lib",
        "/run",
        "/opt",
        "/boot",
        "/srv",
    ]
    folders += [
        *site.getsitepackages(),
        site.getusersitepackages(),
        os.path.dirname(os.__file__),
        "/dev",
        "/sys",
        "/proc",
    ]
    folders += [*places(target["folder"]), "/proc/sys/kernel", "/sys/fs/cgroup", os.path.dirname(sys.executable)]

    def opens(path: str, flags: int = os.O_WRONLY) -> bool:
        os.close(os.open(path, flags))
        return True

    actions: dict[str, Callable[[], Any]] = {}
    for folder in folders:
        actions[f"file in {folder}"] = lambda folder=folder: opens(f"{folder}/deliveryboy-was-here", os.O_WRONLY | os.O_CREAT)
        actions[f"folder in {folder}"] = lambda folder=folder: os.mkdir(f"{folder}/deliveryboy-was-there") or True
        actions[f"pipe in {folder}"] = lambda folder=folder: os.mkfifo(f"{folder}/deliveryboy-pipe") or True
    files = [
        "/etc/passwd",
        "/etc/hosts",
        "/usr/bin/env",
        os.__file__,
        sys.executable,
        f"{target['folder']}/secret",
        "/proc/sysrq-trigger",
    ]
    for file in [*files, "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj", "/etc/ld.so.preload", "/etc/ld.so.cache"]:
        actions[f"write {file}"] = lambda file=file: opens(file)
        actions[f"append {file}"] = lambda file=file: opens(file, os.O_WRONLY | os.O_APPEND)
        actions[f"truncate {file}"] = lambda file=file: os.truncate(file, os.stat(file).st_size) or True
        actions[f"chmod {file}"] = lambda file=file: os.chmod(file, os.stat(file).st_mode & 0o7777) or True
        actions[f"chown {file}"] = lambda file=file: os.chown(file, os.stat(file).st_uid, -1) or True
        actions[f"utime {file}"] = lambda file=file: os.utime(file, (os.stat(file).st_atime, os.stat(file).st_mtime)) or True
        actions[f"setxattr {file}"] = lambda file=file: os.setxattr(file, "user.x", b"x") or True
    for place in places(target["folder"]):
        actions[f"rename in {place}"] = lambda place=place: os.rename(f"{place}/secret", f"{place}/moved") or True
        actions[f"unlink in {place}"] = lambda place=place: os.unlink(f"{place}/ssh/id_ed25519") or True
        actions[f"replace in {place}"] = lambda place=place: os.replace(tempfile.mkstemp()[1], f"{place}/secret") or True
    return tried(actions)


def read_secrets(target: dict[str, Any]) -> list[str]:
    names = ["secret", "ssh/id_ed25519"]
    actions: dict[str, Callable[[], Any]] = {}
    for place in places(target["folder"]):
        for name in names:
            actions[f"{place}/{name}"] = lambda path=f"{place}/{name}": open(path).read()
            actions[f"stat {place}/{name}"] = lambda path=f"{place}/{name}": os.stat(path)
        actions[f"list {place}"] = lambda place=place: os.listdir(place)
    for path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/sda"):
        actions[path] = lambda path=path: open(path, "rb").read(1)
    for path in ("/etc/ssh", "/var/lib", "/run", "/sys/fs", "/sys/kernel/debug", "/lost+found", "/boot"):
        actions[path] = lambda path=path: os.listdir(path)
    # What of a home is on the way to the interpreter is empty but for that.
    for home in {os.path.expanduser("~"), os.path.expanduser(f"~{os.getuid()}"), "/root", "/home"}:
        for name in (".ssh", ".bashrc", ".profile", ".gnupg", ".bash_history", ".netrc", ".aws", ".config"):
            actions[f"{home}/{name}"] = lambda path=f"{home}/{name}": os.stat(path)
    return tried(actions)


def links(target: dict[str, Any]) -> list[str]:
    secret = f"{target['folder']}/secret"
    os.chdir(tempfile.mkdtemp())

    def through(link: str, mode: str = "r") -> Any:
        with open(link, mode) as file:
            return mode == "r+" or file.read()

    for number, path in enumerate([secret, f"/proc/self/root{secret}", f"/proc/1/root{secret}", "/etc/shadow", "/etc/passwd"]):
        with contextlib.suppress(OSError):
            os.symlink(path, f"link{number}")
    actions: dict[str, Callable[[], Any]] = {
        f"read link{number}": lambda number=number: through(f"link{number}") for number in range(4)
    }
    actions |= {f"write link{number}": lambda number=number: through(f"link{number}", "r+") for number in range(5)}
    for path in (secret, "/etc/passwd", "/usr/bin/env", f"/proc/self/root{secret}"):
        actions[f"hard link {path}"] = lambda path=path: os.link(path, f"hard-{abs(hash(path))}") or True
    actions["rename"] = lambda: os.rename(secret, "mine") or True
    for number in range(4):
        actions[f"through descriptor {number}"] = lambda number=number: os.open("..", os.O_RDONLY, dir_fd=number)
        actions[f"through /proc/self/fd/{number}"] = lambda number=number: os.listdir(f"/proc/self/fd/{number}/..")
    actions["chroot"] = lambda: os.chroot(".") or True
    actions["node"] = lambda: raw(number_of("mknodat"), -100, b"disk", 0o60600, os.makedev(8, 0)) == 0
    import fcntl

    for path in ("/etc/mime.types", os.__file__, sys.executable):
        actions[f"lease {path}"] = lambda path=path: fcntl.fcntl(os.open(path, os.O_RDONLY), 1024, fcntl.F_WRLCK) == 0
    actions["node of memory"] = lambda: os.mknod("mem", 0o20600, os.makedev(1, 1)) or open("mem", "rb").read(1)
    return tried(actions)


# --- what it inherits -----------------------------------------------------------------------------------------------


def read_environment(target: dict[str, Any]) -> list[str]:
    secret = SECRET[::-1].encode()[::-1]
    found = tried(
        {
            "os.environ": lambda: any(SECRET in value for value in os.environ.values()),
            "/proc/self/environ": lambda: secret in Path("/proc/self/environ").read_bytes(),
            **{f"/proc/{pid}/environ": lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in others()},
            "env": lambda: secret in subprocess.run(["env"], capture_output=True, check=False).stdout,
        }
    )
    # The strings that the program itself brought along are not the environment's.
    mark = b"DELIVERYBOY_TEST_" + b"SECRET_VALUE_"
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            words = line.split()
            if "r" not in words[1] or words[-1] in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            start, end = (int(part, 16) for part in words[0].split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, OverflowError, ValueError):
                continue
            place = data.find(mark)
            while place >= 0:
                # Whole: with the digits that stand in the environment only.
                if data[place + len(mark) : place + len(mark) + 8].isdigit():
                    found.append(f"in memory at {words[-1]}")
                place = data.find(mark, place + 1)
    return found


def _what_comes_by(answers: socket.socket) -> list[str]:
    """A pair's end that only the supervisor has the other of: nothing comes by it, and no descriptor gets over there."""
    found = []
    if answers.family != socket.AF_UNIX or answers.getpeername():
        found.append(f"3 is connected with {answers.getpeername()!r}")
    try:
        found.append(f"3 tells {answers.recv(100, socket.MSG_DONTWAIT)!r}")
    except BlockingIOError:
        pass
    return found


def use_descriptors(target: dict[str, Any]) -> list[str]:
    import fcntl
    import stat

    found = []
    for fd in range(64):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
        if fd == 0:
            if not (stat.S_ISCHR(mode) or stat.S_ISREG(mode)):
                found.append("0 is no file")
        elif fd == 3 and stat.S_ISSOCK(mode):
            with socket.socket(fileno=os.dup(fd)) as answers:
                found += _what_comes_by(answers)
        elif fd >= 3 or not stat.S_ISFIFO(mode) or readable:
            found.append(f"{fd} {oct(mode)}")
    return found


# --- network --------------------------------------------------------------------------------------------------------


def reach_network(target: dict[str, Any]) -> list[str]:
    def connect(family: int, address: Any) -> bool:
        with socket.socket(family) as each:
            each.settimeout(2)
            each.connect(address)
        return True

    def send() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
            return each.sendto(b"x", ("127.0.0.1", target["udp"])) == 1

    def pair(kind: int) -> bool:
        first, second = socket.socketpair(socket.AF_UNIX, kind)
        try:
            if kind == socket.SOCK_STREAM:
                first.connect(target["unix"])
            for name in (target["abstract"] + "-datagrams", os.path.dirname(target["unix"]) + "/datagrams"):
                with contextlib.suppress(OSError):
                    return first.sendto(b"x", name) == 1
            return kind == socket.SOCK_STREAM
        finally:
            first.close()
            second.close()

    def squat() -> bool:
        first, second = socket.socketpair()
        second.close()
        with contextlib.suppress(OSError):
            first.send(b"x")
        first.bind("\0deliveryboy-squatter")
        return True

    import _socket

    actions: dict[str, Callable[[], Any]] = {
        "tcp": lambda: connect(socket.AF_INET, ("127.0.0.1", target["tcp"])),
        "tcp6": lambda: connect(socket.AF_INET6, ("::ffff:127.0.0.1", target["tcp"])),
        "udp": send,
        "unix": lambda: connect(socket.AF_UNIX, target["unix"]),
        "abstract": lambda: connect(socket.AF_UNIX, target["abstract"]),
        "by a pair": lambda: pair(socket.SOCK_STREAM),
        "by a pair of datagrams": lambda: pair(socket.SOCK_DGRAM),
        "a name": squat,
        "listen": lambda: socket.create_server(("127.0.0.1", 0)),
        "names": lambda: socket.getaddrinfo("example.com", 80),
        "io_uring": lambda: raw(425, 8, ctypes.create_string_buffer(120)) >= 0,
        "bash": lambda: subprocess.run(["bash", "-c", f"echo > /dev/tcp/127.0.0.1/{target['tcp']}"], check=True, stderr=-3),
    }
    for family in range(1, 46):
        for kind in (1, 2, 3, 5):
            actions[f"socket {family} {kind}"] = lambda family=family, kind=kind: _socket.socket(family, kind, 0)
    return tried(actions)


def reach_memory_of_others(target: dict[str, Any]) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    actions: dict[str, Callable[[], Any]] = {
        "System V": lambda: libc.shmat(target["shm"], None, 0) != -1 and raw(number_of("shmat"), target["shm"], 0, 0) > 0,
        "POSIX": lambda: [name for name in os.listdir("/dev/shm") if name.startswith("deliveryboy")],
        "queues": lambda: os.listdir("/dev/mqueue"),
    }
    return tried(actions)


# --- other processes ------------------------------------------------------------------------------------------------


def signal_others(target: dict[str, Any]) -> list[str]:
    """Besides, the victim's state is looked at afterwards."""
    import fcntl
    import signal

    caller, victim, *more = target["pids"]
    pids = [caller, *more, os.getppid()]
    actions: dict[str, Callable[[], Any]] = {}
    for number, reached in ((0, [*pids, 1]), (signal.SIGCONT, pids), (signal.SIGSTOP, [victim]), (signal.SIGKILL, [victim])):
        for pid in reached:
            if pid <= 0:
                continue
            actions[f"kill {pid} {number}"] = lambda pid=pid, number=number: os.kill(pid, number) or True
            if pid > 1:
                actions[f"kill group {pid} {number}"] = lambda pid=pid, number=number: os.killpg(pid, number) or True
            actions[f"tgkill {pid} {number}"] = lambda pid=pid, number=number: raw(number_of("tgkill"), pid, pid, number) == 0
            actions[f"pidfd {pid} {number}"] = lambda pid=pid, number=number: (
                signal.pidfd_send_signal(os.pidfd_open(pid), number) or True
            )
            info = ctypes.create_string_buffer(128)
            ctypes.cast(info, ctypes.POINTER(ctypes.c_int))[2] = -1
            actions[f"queue {pid} {number}"] = lambda pid=pid, number=number, info=info: (
                raw(number_of("rt_sigqueueinfo"), pid, number, info) == 0
            )
    with contextlib.suppress(OSError):
        # It says that it worked also if it reached nobody.
        os.kill(-1, signal.SIGCONT)
    read, write = os.pipe()
    with contextlib.suppress(OSError):
        # SIGIO, turned into another signal, to whoever is named as the owner.
        fcntl.fcntl(read, fcntl.F_SETOWN, victim)
        fcntl.fcntl(read, 10, signal.SIGKILL)
        fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
        os.write(write, b"x")
    return tried(actions)


def trace_others(target: dict[str, Any]) -> list[str]:
    pids = [*target["pids"], os.getppid(), *others()]
    libc = ctypes.CDLL(None, use_errno=True)
    actions: dict[str, Callable[[], Any]] = {}
    for pid in dict.fromkeys(pids):
        actions[f"attach {pid}"] = lambda pid=pid: raw(number_of("ptrace"), 16, pid, 0, 0) == 0
        actions[f"seize {pid}"] = lambda pid=pid: raw(number_of("ptrace"), 0x4206, pid, 0, 0) == 0
        actions[f"vm {pid}"] = lambda pid=pid: (
            libc.process_vm_readv(pid, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0) > 0
        )
        actions[f"pidfd_getfd {pid}"] = lambda pid=pid: raw(438, os.pidfd_open(pid), 0, 0) >= 0
        for name in ("mem", "environ", "maps", "auxv", "syscall", "stack"):
            actions[f"/proc/{pid}/{name}"] = lambda pid=pid, name=name: open(f"/proc/{pid}/{name}", "rb").read(1)
        actions[f"/proc/{pid}/map_files"] = lambda pid=pid: os.listdir(f"/proc/{pid}/map_files")
        for name in ("root", "cwd", "exe", "ns/user"):
            actions[f"/proc/{pid}/{name}"] = lambda pid=pid, name=name: os.readlink(f"/proc/{pid}/{name}")
        for number in range(8):
            actions[f"/proc/{pid}/fd/{number}"] = lambda pid=pid, number=number: open(f"/proc/{pid}/fd/{number}", "wb")
        actions[f"prlimit {pid}"] = lambda pid=pid: raw(number_of("prlimit64"), pid, 7, (ctypes.c_long * 2)(64, 64), 0) == 0
        actions[f"renice {pid}"] = lambda pid=pid: (
            os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid)) or True
        )
        actions[f"affinity {pid}"] = lambda pid=pid: os.sched_setaffinity(pid, os.sched_getaffinity(pid)) or True
        actions[f"scheduler {pid}"] = lambda pid=pid: os.sched_setscheduler(pid, 0, os.sched_param(0)) or True
        actions[f"ioprio {pid}"] = lambda pid=pid: raw(number_of("ioprio_set"), 1, pid, 0) == 0
        actions[f"oom {pid}"] = lambda pid=pid: open(f"/proc/{pid}/oom_score_adj", "w")
    # To make /proc show of this process whatever it likes, and as much of it.
    actions["PR_SET_MM"] = lambda: ctypes.CDLL(None, use_errno=True).prctl(35, 1, 0, 0, 0) == 0 or ctypes.get_errno() != 1
    actions["renice all"] = lambda: os.setpriority(os.PRIO_USER, 0, 0) or True
    return tried(actions)


def use_terminals(target: dict[str, Any]) -> list[str]:
    import fcntl

    def inject(path: str | int) -> bool:
        fd = path if isinstance(path, int) else os.open(path, os.O_RDWR)
        fcntl.ioctl(fd, 0x5412, b"x")
        return True

    actions: dict[str, Callable[[], Any]] = {f"descriptor {fd}": lambda fd=fd: inject(fd) for fd in range(4)}
    for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", *(f"/dev/pts/{number}" for number in range(8))):
        actions[path] = lambda path=path: inject(path)

    def own() -> bool:
        import pty

        _, slave = pty.openpty()
        return inject(slave)

    actions["a terminal of its own"] = own
    return tried(actions)


def gain_rights(target: dict[str, Any]) -> list[str]:
    uid = str(os.getuid())

    def runs_as_another(*command: str) -> bool:
        result = subprocess.run(command, stdin=-3, capture_output=True, text=True, check=False, timeout=20)
        return result.returncode == 0 and result.stdout.strip() not in ("", uid)

    actions: dict[str, Callable[[], Any]] = {
        "sudo": lambda: runs_as_another("sudo", "-n", "id", "-u"),
        "sudo to another": lambda: runs_as_another("sudo", "-n", "-u", "#1", "id", "-u"),
        "setuid": lambda: os.setuid(1) or True,
        "setresuid": lambda: os.setresuid(0, 1, 1) or True,
        "setgid": lambda: os.setgid(1) or True,
        "setgroups": lambda: os.setgroups([0, 4, 6]) or True,
        "raise a limit": lambda: __import__("resource").setrlimit(7, (1 << 20, 1 << 20)) or True,
        "nice": lambda: os.nice(-5) or True,
        "mlock": lambda: ctypes.CDLL(None).mlockall(3) == 0,
        "no_new_privs off": lambda: ctypes.CDLL(None).prctl(38, 0, 0, 0, 0) == 0,
        "capabilities": lambda: int(next(line for line in open("/proc/self/status") if line.startswith("CapBnd")).split()[1], 16),
        "file capabilities": lambda: os.setxattr(tempfile.mkstemp()[1], "security.capability", b"\1\0\0\2" + b"\xff" * 16) or True,
        "python as root": lambda: (
            runs_as_another(sys.executable, "-c", "import os; os.setuid(0); print(os.getuid(), 'again')") and uid != "0"
        ),
    }
    return tried(actions)


def leave_namespaces(target: dict[str, Any]) -> list[str]:
    libc = ctypes.CDLL(None, use_errno=True)
    actions: dict[str, Callable[[], Any]] = {}
    for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
        actions[f"unshare {flag:x}"] = lambda flag=flag: libc.unshare(flag) == 0
        # A child would be made, and leave at once.
        actions[f"clone {flag:x}"] = lambda flag=flag: (
            raw({"x86_64": 56}.get(os.uname().machine, 220), flag | 17, 0, 0, 0, 0) or os._exit(0)
        )
    for name in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup"):
        for pid in (1, os.getppid(), *target["pids"]):
            actions[f"setns {pid} {name}"] = lambda pid=pid, name=name: libc.setns(os.open(f"/proc/{pid}/ns/{name}", 0), 0) == 0
    actions |= {
        "unshare the clocks": lambda: libc.unshare(0x80) == 0,
        "clone3": lambda: raw(435, (ctypes.c_ulonglong * 11)(0x10000000), 88) or os._exit(0),
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        "remount": lambda: libc.mount(None, b"/", None, 4096 | 32, None) == 0,
        "umount": lambda: libc.umount2(b"/tmp", 2) == 0,
        "pivot_root": lambda: raw({"x86_64": 155}.get(os.uname().machine, 41), b"/", b"/tmp") == 0,
        "mount_setattr": lambda: raw(442, -100, b"/", 0x8000, (ctypes.c_ulonglong * 4)(0, 1, 0, 0), 32) == 0,
        "fsopen": lambda: raw(430, b"tmpfs", 0) >= 0,
        "open_tree": lambda: raw(428, -100, b"/", 1) >= 0,
        "handle": lambda: raw({"x86_64": 304}.get(os.uname().machine, 265), -100, ctypes.create_string_buffer(128), 0) >= 0,
        "hostname": lambda: socket.sethostname("mine") or True,
    }
    return tried(actions)


def dangerous_calls(target: dict[str, Any]) -> list[str]:
    """Each must be refused by the filter itself, before the kernel looks at what is asked."""
    column = os.uname().machine == "aarch64"
    found = []
    for name, numbers in REFUSED.items():
        number = numbers[column]
        if number is None:
            continue
        try:
            raw(number, -1, -1, -1, -1, -1)
            found.append(name)
        except OSError as error:
            if error.errno != 1:
                found.append(f"{name}: {error}")
    if not column:
        for number in (0x40000000 | 39, 0x40000000 | 520):
            try:
                raw(number, 0, 0, 0)
                found.append(f"x32 {number}")
            except OSError as error:
                if error.errno != 38:
                    found.append(f"x32 {number}: {error}")
    return found


def read_what_ran() -> str:
    try:
        with open("/tmp/pth-ran") as file:
            return file.read()
    except OSError:
        return ""


ATTACKS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    each.__name__: each
    for each in (
        write_outside,
        read_secrets,
        links,
        read_environment,
        use_descriptors,
        reach_network,
        reach_memory_of_others,
        signal_others,
        trace_others,
        use_terminals,
        gain_rights,
        leave_namespaces,
        dangerous_calls,
    )
}


def main() -> None:
    """Try everything through a local confined call, as this user."""
    from deliveryboy_ng import Confinement, deliver

    results: dict[str, Any] = {"user": os.getuid()}
    os.environ["DELIVERYBOY_TEST"] = "DELIVERYBOY_TEST_" + f"SECRET_VALUE_{time.monotonic_ns() % 10**8:08}"
    with tempfile.TemporaryDirectory() as folder, arena(Path(folder)) as place:
        for name, attack in ATTACKS.items():
            receipt = deliver(confinement=Confinement.strict())(attack).run(place.target)
            value = receipt.value if receipt.exception is None else repr(receipt.exception)
            results[name] = [value, stopped(place.pids), list(place.heard), str(receipt.verdict)]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
