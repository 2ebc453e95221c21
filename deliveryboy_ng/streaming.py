"""The items of a delivered generator function, as they are made over there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .interrupts import Interrupts
from .journey import Journey

__all__ = ["stream"]


def stream(journey: Journey) -> Generator[Any, None, Any]:
    """Open the session when the first item is asked for, and take no more from the wire than is asked for.

    What the far side makes meanwhile fills the pipes, and then it waits.  Closing ends the call.

    :return: what the generator returned, as a generator does
    """
    session, greeting = journey.open()
    try:
        exchange = journey.begin(session, greeting)
        items = exchange.ending.reply.items
        while not exchange.over:
            with Interrupts(journey):
                session.turn()
            while items:
                yield journey.item(items.popleft())
        return journey.arrive(session, greeting, exchange.ending).unwrap()
    finally:
        session.close()
