"""What is called; where it has to travel as a module, that imports nothing."""

import time


def nothing(x: int) -> int:
    """A module-level function with a small argument."""
    return x


def same(x: object) -> object:
    """What comes goes back."""
    return x


_held: "list[bytearray]" = []


def hold(size: int) -> None:
    """Keep so much memory, of which every page has been written to."""
    _held.append(bytearray(b"x") * size)


def spin(duration: float) -> None:
    """Use a processor for so long."""
    end = time.process_time() + duration
    while time.process_time() < end:
        pass
