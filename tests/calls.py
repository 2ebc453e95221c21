"""What the tests of sessions have called over there: a module of its own, since it travels with every call."""

from __future__ import annotations

import os
import time
from typing import Any

from deliveryboy_ng import deliver


def add(x: int, y: int = 1) -> int:
    return x + y


def identity(x: Any) -> Any:
    return x


def refuse(size: int) -> None:
    # fmt: off
    if size: raise MemoryError("mine")  # noqa: E701
    # fmt: on


def processes() -> tuple[int, int]:
    return os.getpid(), os.getppid()


def leave_daemon(mark: str, seconds: float) -> bool:
    """Whether the daemon still lives after so long."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.environ["DELIVERYBOY_MARK"] = mark
            os.write(write, str(os.getpid()).encode())
            os.execve("/bin/sleep", ["sleep", "1000"], os.environ)
        os._exit(0)
    pid = int(os.read(read, 20))
    time.sleep(seconds)
    return os.path.exists(f"/proc/{pid}")


@deliver
def square(x: int) -> int:
    if x == 13:
        raise KeyError(x)
    return x * x


@deliver(output="discard")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
