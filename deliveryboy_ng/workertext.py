"""The worker as text: what the interpreter's command line says, and what is sent to it on stdin."""

from __future__ import annotations

import binascii
import functools
import importlib.util
import marshal
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from .worker import frames

__all__ = ["Kit", "command_line", "worker_message"]

_PACKAGE = f"{__package__}.worker"
MODULES = (
    "boot",
    "frames",
    "system",
    "pipes",
    "records",
    "parcel",
    "spare",
    "spares",
    "call",
    "preparing",
    "answer",
    "holding",
    "rebuild",
    "reconstructors",
    "shipped",
    "supervisor",
    "channel",
    "ledger",
    "relay",
    "ending",
    "processes",
    "watch",
    "limits",
    "evidence",
    "failure",
    "standin",
    "resources",
    "bulk",
    "memory",
    "sockets",
)
# Sent besides, to a call whose answer is to be data, to one that is kept from its supervisor, and to one that is confined.
FOR_DATA = ("codec",)
FOR_GUARDED = ("landlock", "confine", "namespaces")
FOR_CONFINED = ("view",)
# To a session whose calls are forked from a template.
FOR_TEMPLATE = ("template", "templates")
_LINE = 960


@functools.cache
def _text_of_first_stage() -> str:
    """To be shown as one line: some login shells cannot take a quoted newline."""
    loader = _loader("assembler")
    return loader.get_data(loader.path).decode().split(chr(34) * 3)[2].strip()


@functools.cache
def _compiled_first_stage() -> str:
    """The same for this very version of Python: to compile the text is a good part of what a start takes."""
    code = marshal.dumps(compile(_text_of_first_stage(), "<string>", "exec"))
    right = f"f.MAGIC_NUMBER == bytes.fromhex('{importlib.util.MAGIC_NUMBER.hex()}')"
    compiled = f"marshal.loads(bytes.fromhex('{code.hex()}'))"
    return f"import marshal, _frozen_importlib_external as f; exec({compiled} if {right} else {_text_of_first_stage()!r})"


def command_line(executable: str, nonce: str) -> list[str]:
    """Starts the first stage: isolated from the environment, without site.py, writing no bytecode."""
    # Somewhere else what has this path may be another Python.
    stage = _compiled_first_stage() if executable == sys.executable else f"exec({_text_of_first_stage()!r})"
    return [executable, "-I", "-S", "-B", "-c", stage, nonce]


@functools.cache
def _worker(same_version: bool, extras: tuple[str, ...]) -> tuple[bytes, int]:
    """See worker/assembler.py: the worker, and where its index begins."""
    worker = bytearray()
    index: dict[str, tuple[int, int]] = {}
    for name in (*MODULES, *extras):
        loader = _loader(name)
        start = len(worker)
        worker += marshal.dumps(loader.get_code(loader.name)) if same_version else loader.get_data(loader.path)
        # The one without a name is executed at once, the others are imported when they are first needed.
        index["" if name == "boot" else loader.name] = (start, len(worker))
    return bytes(worker) + marshal.dumps(index, 2), len(worker)


@functools.cache
def _as_text(same_version: bool, extras: tuple[str, ...]) -> bytes:
    text = binascii.b2a_base64(_worker(same_version, extras)[0], newline=False)
    return b"".join(text[start : start + _LINE] + b"\n" for start in range(0, len(text), _LINE))


@dataclass(frozen=True)
class Kit:
    """What a session's supervisor needs besides what every one has.

    :ivar own: what it shall have of its own, see worker/namespaces.py
    :ivar extras: modules that not every call needs
    :ivar early: modules that its calls will need for certain
    :ivar workers: how many calls may run at a time in a session that stays open, 0 if it ends with its first
    :ivar template: whether its calls are forked from a template, which is started first
    """

    own: str = "-"
    extras: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    workers: int = 0
    template: bool = False


def worker_message(nonce: bytes, magic: bytes, lane: str, kit: Kit) -> bytes:
    """The worker for an interpreter with this magic number: as code for our own version, as source for any other."""
    kind = (magic == importlib.util.MAGIC_NUMBER, kit.extras)
    worker, index = _worker(*kind)
    encoding, sent = ("raw", worker) if lane == "binary" else ("base64", _as_text(*kind))
    early, workers = ",".join(("-", *kit.early)), f"{kit.workers}{'t' * kit.template}"
    words = f"worker {encoding} {len(sent)} {index} {lane} {kit.own} {early} {workers}\n"
    return b"".join((frames.mark(nonce, frames.TO_FAR), words.encode(), sent))


def _loader(name: str) -> SourceFileLoader:
    # By file, not by import: in a call that delivers further, the worker's modules are those that came with the call.
    return SourceFileLoader(f"{_PACKAGE}.{name}", str(Path(__file__).parent / "worker" / f"{name}.py"))
