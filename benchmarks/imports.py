"""The import of this library, as a ratio to a bare start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

from .harness import Subject, Table, measure


def start(code: str) -> Callable[[], object]:
    """Run *code* in a fresh interpreter, which may keep what it has compiled, as it does for users."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=env)


def results(rounds: int, host: str) -> Iterator[Table]:
    """The table."""
    subjects = [
        Subject("python -c pass", start("pass")),
        Subject("import deliveryboy_ng", start("import deliveryboy_ng"), "python -c pass", 1.5),
        Subject(
            "and a function is delivered", start("from deliveryboy_ng import deliver\n@deliver\ndef f(): pass"), "python -c pass"
        ),
        Subject("import subprocess", start("import subprocess"), "python -c pass"),
        Subject("import asyncio", start("import asyncio"), "python -c pass"),
        Subject("import cloudpickle", start("import cloudpickle"), "python -c pass"),
    ]
    yield measure("a start with", subjects, rounds or 40)
