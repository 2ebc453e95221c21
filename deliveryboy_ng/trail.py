"""The trail that calls leave in the log: a line for each that has ended, of what ran where and how that ended."""

from __future__ import annotations

import sys
from typing import Any

from .receipt import Receipt, printable

__all__ = ["is_kept", "note", "note_left"]


def _logger() -> Any:
    # Its import takes as long as a good part of a call, and who has not imported it listens to nothing.
    logging = sys.modules.get("logging")
    logger = None if logging is None else logging.getLogger("deliveryboy_ng")
    return logger if logger is not None and logger.isEnabledFor(20) else None


def is_kept() -> bool:
    """Whether anybody listens: at level INFO."""
    return _logger() is not None


def note(receipt: Receipt) -> None:
    """One that has ended; the record has it all as ``receipt``."""
    logger = _logger()
    if logger is not None:
        how = f"{receipt.verdict} ({receipt.limit})" if receipt.limit else str(receipt.verdict)
        where = (receipt.transport, printable(receipt.host), receipt.remote_pid)
        logger.info(
            "%s through %s on %s, process %s: %s, %.3f s",
            receipt.function,
            *where,
            how,
            receipt.duration,
            extra={"receipt": receipt},
        )


def note_left(function: str, transport: str, pid: int) -> None:
    """One that has begun, and of which nobody will hear again."""
    logger = _logger()
    if logger is not None:
        logger.info("%s through %s, detached: process %s", function, transport, pid)
