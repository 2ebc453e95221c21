"""What a call costs, in numbers that do not depend on a clock: processes, system calls, imports over there, bytes on the wire."""

from __future__ import annotations

import marshal
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import DeliveryExecutor, Local, deliver, session, wire, workertext
from deliveryboy_ng.parcel import Parcel
from deliveryboy_ng.worker import frames

WORKER = {
    f"deliveryboy_ng.worker.{name}"
    for name in (
        *("answer", "call", "channel", "frames", "ledger", "parcel", "pipes", "preparing", "rebuild", "records"),
        *("relay", "shipped", "spare", "spares", "supervisor", "system"),
    )
}
OWN = WORKER | {"deliveryboy_ng.worker", "_ctypes", "_functools", "_pickle", "copyreg", "faulthandler", "select"}


def loaded() -> list[str]:
    return list(sys.modules)


def builtin(python: str) -> set[str]:
    code = "import sys; print(*sys.modules)"
    return set(subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_what_a_call_imports() -> None:
    assert set(deliver(loaded)()) - builtin(sys.executable) == OWN
    captured = 3
    assert set(deliver(lambda: [*sys.modules, str(captured)][:-1])()) - builtin(sys.executable) == OWN


def test_what_a_call_of_a_session_imports() -> None:
    with DeliveryExecutor(1) as executor:
        found = set(executor.submit(loaded).result()) - builtin(sys.executable) - {"_socket"}
    assert found == OWN | {"deliveryboy_ng.worker.sockets"}


def test_what_the_import_of_the_library_brings() -> None:
    code = "import sys; before = set(sys.modules); import deliveryboy_ng; print(*set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) == {"deliveryboy_ng", "__future__"}
    code = "import sys; from deliveryboy_ng import deliver; deliver(print); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"cloudpickle", "psutil", "tblib", "asyncio", "subprocess", "socket"} & set(result.stdout.split())


# Bytes of the worker as code, without the paths in it, by version, and as text, which goes to another version than this one:
# four per cent more than they were when this was written.
MOST_CODE = {(3, 11): 413_000, (3, 12): 372_000, (3, 13): 381_000}
MOST_TEXT = 236_000


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker in one write; in another what is to be called, and what the call shall be like."""
    written: list[list[bytes]] = []
    begun: list[tuple[session.Session, Parcel]] = []
    send, begin = wire.Wire.send, session.Session.begin

    def count(self: wire.Wire, pieces: Any) -> None:
        written.append([piece for piece in pieces if piece])
        send(self, iter(written[-1]))

    def note(self: session.Session, parcel: Parcel, **how: Any) -> Any:
        begun.append((self, parcel))
        return begin(self, parcel, **how)

    monkeypatch.setattr(wire.Wire, "send", count)
    monkeypatch.setattr(session.Session, "begin", note)
    assert deliver(transport=Local())(len)(b"12345") == 5
    [[worker], [call]], [(used, parcel)] = written, begun
    assert (len(parcel.parts.body), len(parcel.modules), len(parcel.parts.large)) == (45, 2, 0)
    line, _, code = worker.partition(b"\n")
    assert len(line) == 55
    size = len(code.replace(os.fsencode(Path(wire.__file__).parent), b""))
    assert size <= MOST_CODE.get(sys.version_info[:2], MOST_CODE[3, 11])
    assert len(workertext._worker(False, ())[0]) <= MOST_TEXT
    assert sum(map(len, workertext.command_line(sys.executable, ""))) - len(sys.executable) <= 7300
    setup = next(iter(frames.RawDecoder().feed(call)))[3]
    said = marshal.loads(setup)
    assert len(call) - len(setup) == 87
    # These depend on the machine.
    assert set(said.pop("path")) <= set(sys.path) and all(name.startswith(("LANG", "LC_")) for name in said.pop("env"))
    assert (
        len(said.pop("prefixes")) == 2
        and len(said.pop("same_files")) == 6
        and said.pop("python")
        and said.pop("locale") is not None
    )
    assert len(marshal.dumps(said, 2)) == 245
    # Back come a greeting, which process it is, the value, and what it took: with a PID, a host and numbers in it.
    assert used._wire.total - len(os.uname().nodename) <= 230


CALLS = """
import os
from deliveryboy_ng import deliver

def work():
    return 1

run = deliver(work)
run()
os.access("/begins", 0)
run()
os.access("/ends", 0)
"""
# An interpreter that imports what the worker does, in its way: where that lies differs from one to the other.
BARE = """
import _ctypes, faulthandler, select, sys
made = {name: type(sys)(name) for name in ("functools", "_compat_pickle")}
made["functools"].partial = type
for name in ("NAME", "IMPORT", "REVERSE_NAME", "REVERSE_IMPORT"):
    setattr(made["_compat_pickle"], name + "_MAPPING", {})
sys.modules.update(made)
import _pickle
"""
STARTS = re.compile(r"^(v?fork|clone3?)\((.*)\) += (\d+)$", re.MULTILINE)
# How often somebody waits, reads and writes depends on who is first; the rest is the C library's own, or Python's.
UNSTEADY = {
    *("poll", "read", "readv", "write", "sendto", "wait4", "pidfd_open", "close", "rt_sigreturn", "rt_sigaction", "futex", "lseek"),
    *("brk", "mmap", "munmap", "mprotect", "vfork", "fork", "clone", "clone3", "set_robust_list", "rseq", "gettid", "getrandom"),
    "getcwd",
}
ALIKE = {"openat": "open", "newfstatat": "stat", "fstat": "stat", "lstat": "stat", "statx": "stat"}


def traced(folder: Path, *command: str) -> dict[int, str]:
    """What each process of a command asks of the system, by its PID."""
    strace = shutil.which("strace")
    if strace is None or not conftest.works(strace, "-o", "/dev/null", "true"):
        conftest.missing("strace cannot trace here")
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent.parent}:{os.environ.get('PYTHONPATH', '')}"}
    command = (str(strace), "-ff", "-o", str(folder / "process"), *command)
    subprocess.run(command, check=True, env=env, stdin=subprocess.DEVNULL, capture_output=True)
    return {int(path.suffix[1:]): path.read_text() for path in folder.iterdir()}


def counted(text: str) -> Counter[str]:
    return Counter(ALIKE.get(name, name) for name in re.findall(r"^(\w+)\(", text, re.MULTILINE))


def steady(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count and name not in UNSTEADY}


def test_system_calls_of_a_cold_call(tmp_path: Path) -> None:
    """Those of the far side beyond what its interpreter needs for the same imports."""
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    for place in ("cold", "again", "once more"):
        processes = traced(tmp_path / place, sys.executable, str(script))
        if not any("clock_gettime(" in text for text in processes.values()):
            break  # on a machine so busy that the call took a tenth of a second its supervisor has looked at it
    [caller] = [text.partition('"/begins"')[2].partition('"/ends"')[0] for text in processes.values() if '"/begins"' in text]
    [(name, how, there)] = STARTS.findall(caller)
    assert name == "vfork" or "CLONE_VFORK" in how, "a fork takes the longer the more memory the caller has"
    supervisor = processes[int(there)]
    supervisor = supervisor[supervisor.index("execve(") :]
    [(_, _, call)] = STARTS.findall(supervisor)
    assert not STARTS.search(processes[int(call)])
    [bare] = traced(tmp_path / "bare", sys.executable, "-I", "-S", "-B", "-c", BARE).values()

    here, far = counted(caller), counted(supervisor + processes[int(call)])
    far.subtract(counted(bare))
    # Its wire, a pipe to be woken by, and one that tells whether the command could be started; the umask is read from a file.
    wires = {"socketpair": 1, "pipe2": 4, "getsockname": 2, "setsockopt": 2, "ioctl": 8, "rt_sigprocmask": 2}
    assert steady(here) == {**wires, "open": 1, "stat": 2, "access": 1}
    # What signals wake it by, the call's output; by sockets its answer, and what it is told.
    pipes = {"pipe2": 3, "socketpair": 2, "setsockopt": 2, "ioctl": 11, "fcntl": 1, "dup2": 3, "dup3": 2, "close_range": 1}
    process = {"getpid": 7, "getppid": 1, "setsid": 1, "umask": 1, "uname": 1, "prctl": 4, "exit_group": 1}
    signals = {"rt_sigprocmask": 5, "rt_sigpending": 1, "sigaltstack": 1}
    # From 3.12 on os.fork() looks in /proc for threads.
    looks = sys.version_info >= (3, 12)
    files = {"open": 3 + looks, "stat": 7 + looks, "access": 2, "getdents64": 2}
    assert steady(far) == {**pipes, **process, **signals, **files}
    assert here.total() < 80 and sum(far[name] for name in UNSTEADY) < 100
