"""What a call costs, in numbers that do not depend on a clock: processes, system calls, imports over there, bytes on the wire."""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import DeliveryExecutor, Local, deliver, session, wire
from deliveryboy_ng.parcel import Parcel

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


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the worker: what is to be called, and what the call shall be like, in one write."""
    written: list[int] = []
    parcels: list[Parcel] = []
    send, begin = wire.Wire.send, session.Session.begin

    def count(self: wire.Wire, pieces: Any) -> None:
        found = list(pieces)
        written.append(len([piece for piece in found if piece]))
        send(self, iter(found))

    def note(self: session.Session, parcel: Parcel, **how: Any) -> Any:
        parcels.append(parcel)
        return begin(self, parcel, **how)

    monkeypatch.setattr(wire.Wire, "send", count)
    monkeypatch.setattr(session.Session, "begin", note)
    assert deliver(transport=Local())(len)(b"12345") == 5
    assert written == [1, 1]
    assert [(len(parcel.parts.body), len(parcel.modules), len(parcel.parts.large)) for parcel in parcels] == [(45, 2, 0)]


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


def test_system_calls_of_a_cold_call(tmp_path: Path) -> None:
    """Those that make something; how often somebody waits depends on who is first."""
    strace = shutil.which("strace")
    if strace is None or not conftest.works(strace, "-o", "/dev/null", "true"):
        conftest.missing("strace cannot trace here")
    script, log = tmp_path / "calls.py", tmp_path / "log"
    script.write_text(CALLS)
    names = "access,execve,clone,clone3,fork,vfork,pipe2,socketpair,socket,memfd_create,mkdir,unlink,kill,prctl,exit_group"
    command = [str(strace), "-f", "-o", str(log), "-e", f"trace={names}", sys.executable, str(script)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    text = log.read_text().partition('"/begins"')[2].partition('"/ends"')[0]
    found = collections.Counter(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    del found["access"]
    starts = sum(found.pop(name, 0) for name in ("vfork", "clone", "clone3", "fork"))
    assert starts == 2, "the interpreter there, and the call's process"
    # Of the caller: its wire, a pipe to be woken by, and one that tells whether the command could be started.
    # Of the far side: what signals wake it by, the call's output; by sockets its answer, and what it is told.
    assert found == {"execve": 1, "pipe2": 7, "socketpair": 3, "prctl": 4, "exit_group": 2}
