"""100 MB there and back, as a ratio to the same through raw pipes of 1 MiB, read into a bytearray.

A cold call with an array imports numpy over there, which is part of its time.  What ssh takes itself is a row of its own: the same
raw bytes through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from deliveryboy_ng import Bubblewrap, DeliveryExecutor, Ssh, Sudo, Unshare, deliver

from .functions import same
from .harness import Call, Subject, Table, measure, opened

RAW = "raw pipe"
_F_SETPIPE_SZ = 1031
_ECHO = """
import os
while True:
    head = os.read(0, 8)
    if not head:
        break
    size = int.from_bytes(head, "big")
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        at += os.readv(0, [view[at:]])
    at = 0
    while at < size:
        at += os.write(1, view[at:])
"""


@contextlib.contextmanager
def raw_pipe(data: bytes, *before: str) -> Iterator[Call]:
    """The baseline: no pickling, no framing.

    :param before: a command that starts another
    """
    script = _ECHO if not before else f"exec({_ECHO!r})"
    command = [*before, sys.executable, "-c", shlex.quote(script) if before else script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    there, back = process.stdin.fileno(), process.stdout.fileno()
    for fd in (there, back):
        fcntl.fcntl(fd, _F_SETPIPE_SZ, 1 << 20)

    def call() -> bytearray:
        os.write(there, len(data).to_bytes(8, "big"))
        view, at = memoryview(data), 0
        while at < len(data):
            at += os.write(there, view[at:])
        found = bytearray(len(data))
        view, at = memoryview(found), 0
        while at < len(data):
            at += os.readv(back, [view[at:]])
        return found

    with process:
        yield call
        process.stdin.close()


@contextlib.contextmanager
def session(value: Any, **options: Any) -> Iterator[Call]:
    """A session that stays open."""
    # In each call it would take as long as everything else.
    preload = [] if isinstance(value, bytes) else ["numpy"]
    with DeliveryExecutor(1, max_reply="4G", preload=preload, **options) as executor:
        executor.submit(same, 1).result()
        yield lambda: executor.submit(same, value).result()


def values(megabytes: int) -> dict[str, Any]:
    """What is sent."""
    data = os.urandom(1_000_000) * megabytes
    found: dict[str, Any] = {"bytes": data}
    with contextlib.suppress(ImportError):
        import numpy

        found["numpy"] = numpy.frombuffer(bytearray(data), dtype="f8")
    return found


def results(rounds: int, host: str, megabytes: int = 100) -> Iterator[Table]:
    """The table."""
    given = values(megabytes)
    makers: dict[str, Callable[[], contextlib.AbstractContextManager[Call]]] = {RAW: lambda: raw_pipe(given["bytes"])}
    bars: dict[str, float] = {}
    transports: dict[str, dict[str, Any]] = {
        "local": {},
        "unshare": {"transport": Unshare(pid=True)},
        "bwrap": {"transport": Bubblewrap()},
        "sudo -u root": {"transport": Sudo(), "executable": sys.executable},
        "text": {"transport": ["env"], "trust": True},
    }
    if host:
        transports["ssh"] = {"transport": Ssh(host), "executable": sys.executable}
        makers["raw ssh"] = lambda: raw_pipe(given["bytes"], "ssh", host)
    for name, options in transports.items():
        for kind, value in given.items():
            lane = {"text": 4.5, "ssh": 1.3}.get(name)
            cold = deliver(max_reply="4G", **options)(same)
            title = f"{name}, {kind}"
            makers[f"cold {title}"] = lambda cold=cold, value=value: contextlib.nullcontext(lambda: cold(value))  # type: ignore[misc]
            makers[f"warm {title}"] = lambda options=options, value=value: session(value, **options)  # type: ignore[misc]
            bars |= {f"cold {title}": lane or 0.7, f"warm {title}": lane or 0.6}
    with opened(makers) as (calls, gaps):
        subjects = [Subject(name, call, RAW, bars.get(name)) for name, call in calls.items()]
        yield measure(f"{megabytes} MB there and back", subjects, rounds or 7, gaps)
