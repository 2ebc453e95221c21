"""One cold call, as a ratio to starting a bare interpreter, and behind a transport to the same behind that transport."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deliveryboy_ng import Bubblewrap, Limits, Sudo, Unshare, deliver

from .functions import nothing
from .harness import Subject, Table, measure

BARE = "python -c pass"
LIMITED = {"limits": Limits(open_files=256, core=0), "timeout": 30, "output": "capture"}


def bare(*prefix: str) -> Callable[[], object]:
    """Start an interpreter that does nothing, behind a command."""
    return lambda: subprocess.run([*prefix, sys.executable, "-c", "pass"], check=True)


def works(*prefix: str) -> bool:
    """Whether that command can start this interpreter here."""
    if shutil.which(prefix[0]) is None:
        return False
    return subprocess.run([*prefix, sys.executable, "-c", "pass"], capture_output=True, check=False).returncode == 0


def package(folder: str, name: str, modules: int) -> Callable[[int], int]:
    """A function of a package of so many modules, 44 KB of source to 20 of them."""
    home = Path(folder, name)
    home.mkdir()
    body = "".join(f"def work_{n}(x):\n    total = x + {n}\n    return total * 2\n\n" for n in range(36))
    for number in range(modules):
        Path(home, f"part_{number}.py").write_text(body)
    imports = "".join(f"from . import part_{number}\n" for number in range(modules))
    Path(home, "__init__.py").write_text(f"{imports}\ndef work(x):\n    return part_0.work_0(x)\n")
    return importlib.import_module(name).work  # type: ignore[no-any-return]


def results(rounds: int, host: str) -> Iterator[Table]:
    """The table."""
    captured = 1
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        try:
            shipped = package(folder, "benchmarked_package", 20)
            subjects = [
                Subject(BARE, bare()),
                Subject("module-level function", functools.partial(deliver(nothing), 1), BARE, 1.0),
                Subject("closure", deliver(lambda: captured), BARE, 1.1),
                Subject(
                    "a package of 20 modules", functools.partial(deliver(modules=["benchmarked_package"])(shipped), 1), BARE, 1.3
                ),
                Subject("limits, timeout, capture", functools.partial(deliver(**LIMITED)(nothing), 1), BARE, 1.08),
                *behind_transports(),
            ]
            yield measure("one cold call", subjects, rounds or 50)
        finally:
            sys.path.remove(folder)


def behind_transports() -> Iterator[Subject]:
    """Each with its own baseline."""
    transports: list[tuple[str, Any, tuple[str, ...]]] = [
        ("unshare -rpfn", Unshare(pid=True, net=True), ("unshare", "-rpfn", "--mount-proc", "--")),
        (
            "bwrap",
            Bubblewrap(),
            ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--unshare-all", "--"),
        ),
        ("sudo -u root", Sudo(), ("sudo", "-n", "-u", "root", "--")),
    ]
    for name, transport, prefix in transports:
        runner = deliver(transport=transport, executable=sys.executable)(nothing)
        yield Subject(f"{name} {BARE}", bare(*prefix))
        yield Subject(f"{name}, module-level function", functools.partial(runner, 1), f"{name} {BARE}", 1.0)
