"""The worker as text: what the interpreter's command line says, and what is sent to it on stdin."""

from __future__ import annotations

import binascii
import functools
import importlib.util
import marshal
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

from .worker import frames

__all__ = ["command_line", "worker_lines"]

_PACKAGE = f"{__package__}.worker"
MODULES = ("boot", "frames", "system", "limits", "standin", "resources", "shipped", "failure", "rebuild", "call", "supervisor")
_LINE = 960


@functools.cache
def _first_stage() -> str:
    spec = _spec("assembler")
    text: str = spec.loader.get_source(spec.name)  # type: ignore[union-attr, attr-defined]
    # One line: some login shells cannot take a quoted newline.
    return f"exec({text.split(chr(34) * 3)[2].strip()!r})"


def command_line(executable: str, nonce: str) -> list[str]:
    """Starts the first stage: isolated from the environment, without site.py, writing no bytecode."""
    return [executable, "-I", "-S", "-B", "-c", _first_stage(), nonce]


@functools.cache
def _worker(same_version: bool) -> bytes:
    parts: dict[str, bytes | str] = {}
    for name in MODULES:
        spec = _spec(name)
        loader: Any = spec.loader
        # The one without a name is executed at once, the others are imported when they are first needed.
        key = "" if name == "boot" else spec.name
        parts[key] = marshal.dumps(loader.get_code(spec.name)) if same_version else loader.get_source(spec.name)
    return marshal.dumps(parts, 2)


@functools.cache
def _as_text(same_version: bool) -> bytes:
    text = binascii.b2a_base64(_worker(same_version), newline=False)
    return b"".join(text[start : start + _LINE] + b"\n" for start in range(0, len(text), _LINE))


def worker_lines(nonce: bytes, magic: bytes, lane: str) -> Iterator[bytes]:
    """The worker for an interpreter with this magic number: as code for our own version, as source for any other."""
    same_version = magic == importlib.util.MAGIC_NUMBER
    encoding, worker = ("raw", _worker(same_version)) if lane == "binary" else ("base64", _as_text(same_version))
    yield b"".join((frames.mark(nonce, frames.TO_FAR), f"worker {encoding} {len(worker)} {lane}\n".encode(), worker))


def _spec(name: str) -> ModuleSpec:
    spec = importlib.util.find_spec(f"{_PACKAGE}.{name}")
    assert spec is not None
    return spec
