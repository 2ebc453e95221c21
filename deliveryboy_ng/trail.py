"""The trail that calls leave in the log: a line for each that has ended, of what ran where and how that ended."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from .receipt import Receipt, printable

__all__ = ["is_kept", "note", "note_left"]


_known: list[Any] = []


def _logger() -> Any:
    # Its import takes as long as a good part of a call, and who has not imported it listens to nothing.
    logging = sys.modules.get("logging")
    if not _known and logging is not None:
        # Asked for once: that takes a lock, which a fork of the caller's takes as well.
        _known.append(logging.getLogger("deliveryboy_ng"))
    return _known[0] if _known and _known[0].isEnabledFor(20) else None


def _tell(*words: Any, **more: Any) -> None:
    logger = _logger()
    if logger is not None:
        with contextlib.suppress(Exception):  # no handler decides what becomes of a call
            logger.info(*words, **more)


def is_kept() -> bool:
    """Whether anybody listens: at level INFO."""
    return _logger() is not None


def note(receipt: Receipt) -> None:
    """One that has ended; the record has it all as ``receipt``."""
    how = f"{receipt.verdict} ({receipt.limit})" if receipt.limit else str(receipt.verdict)
    where = (receipt.transport, printable(receipt.host), receipt.remote_pid)
    _tell(
        "%s through %s on %s, process %s: %s, %.3f s", receipt.function, *where, how, receipt.duration, extra={"receipt": receipt}
    )


def note_left(function: str, transport: str, pid: int) -> None:
    """One that has begun, and of which nobody will hear again."""
    _tell("%s through %s, detached: process %s", function, transport, pid)
