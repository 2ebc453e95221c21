"""A far side that says anything at all: mutated streams through the whole way back, from the wire to the receipt.

``DELIVERYBOY_FUZZ=100000 python -m pytest tests/test_fuzz.py`` tries that many, with a seed of DELIVERYBOY_FUZZ_SEED.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from deliveryboy_ng import DeliveryError, Receipt, deliver
from deliveryboy_ng.exchange import Line
from deliveryboy_ng.journey import Journey
from deliveryboy_ng.session import Greeting, Session
from deliveryboy_ng.worker import bulk, codec, failure, frames

COUNT = int(os.environ.get("DELIVERYBOY_FUZZ", "2000"))
SEED = int(os.environ.get("DELIVERYBOY_FUZZ_SEED", "1"))
NONCE = b"0123456789abcdef"
VALUES = (None, 3, [1, "two", 3.5, b"four", (5, {6: {7}})], {"rows": [{"a": n, "b": str(n)} for n in range(20)]}, list(range(100)))
APART = [b"x" * 100, "between", bytearray(b"y" * 200), b"z"]


class Tape:
    """A wire that only plays what was recorded."""

    total = written = 0
    pid = returncode = 1
    stderr = ""
    ended = False

    def __init__(self, chunks: list[bytes]) -> None:
        self.received: deque[bytes] = deque()
        self._chunks = deque(chunks)

    def pump(self, patience: float | None) -> bool:
        if self._chunks:
            self.received.append(self._chunks.popleft())
            self.total += len(self.received[-1])
        else:
            self.ended = True
        return True

    def send(self, pieces: Any) -> None:
        for piece in pieces:
            self.written += len(piece)

    def drain_stderr(self) -> None:
        """There is none."""

    def await_exit(self, patience: float) -> bool:
        return True

    def poke(self) -> None:
        """Nobody waits."""

    close = abandon = poke


def raised() -> bytes:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise OSError(2, "no such thing", "/path") from error
    except OSError as error:
        return failure.pack(error, codec, "")


def messages() -> list[list[tuple[int, bytes]]]:
    """What a far side says: of calls that return, raise, print, die, and are refused."""
    verdict = b"status=0 ending=none user=0.1 system=0.1 wall=0.2 interrupts=0 clean=1 maxrss=1 peak=1 tasks=1"
    start = [(frames.STARTED, b"12 host"), (frames.STDOUT, b"printed\n")]
    answers = [b"R" + sized(codec.dumps(value)) for value in VALUES] + [
        apart(APART),
        b"X" + sized(raised()),
        b"U" + sized(b"why"),
        b"L" + sized(raised()),
    ]
    answers += [b"A" + sized(b"cpu=1\nno network") + answer for answer in answers[:2]]
    found = [[*start, (frames.REPLY, answer), (frames.STDERR, b"x" * 2000), (frames.VERDICT, verdict)] for answer in answers]
    return [*found, [*start, (frames.VERDICT, verdict.replace(b"status=0", b"status=9"))], [(frames.REFUSED, b"no room")]]


def apart(value: Any) -> bytes:
    """An answer whose large pieces come before it; they need not be that large for the near side."""
    said = bytearray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "LEAST", 50)
        parts = bulk.Parts(*codec.dump_apart(value))
    bulk.send_parts(b"R", parts, lambda status, *payload: said.extend(status + sized(b"".join(payload))))
    assert said.count(b"P" + bytes(7)) == 3
    return bytes(said)


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bits, bytes and slices changed, left out, repeated or put elsewhere."""
    text = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        place, size = chance.randrange(len(text) + 1), chance.choice((1, 1, 2, 4, 8, 40))
        kind = chance.randrange(7)
        if kind == 0 and place < len(text):
            text[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            text[place : place + size] = chance.randbytes(size)
        elif kind == 2:
            del text[place : place + size]
        elif kind == 3:
            text[place:place] = text[place : place + size] * chance.choice((1, 2, 50))
        elif kind == 4:
            text[place : place + size] = chance.choice((b"\0", b"\xff")) * size
        elif kind == 5:
            other = chance.randrange(len(text) + 1)
            text[place:place] = text[other : other + size]
        else:
            text[place : place + 1] = chance.choice(
                (b"[", b"]", b'"', b"9" * 30, b"-", b"1e999", b"{", b",", b"\n", b"=", b"\\ud800")
            )
    return bytes(text)


def tapes(count: int, chance: random.Random) -> Iterator[tuple[str, list[bytes]]]:
    """So many streams: mutated before they are put into frames, or after."""
    all_messages = messages()
    for _ in range(count):
        lane = chance.choice(sorted(frames.LANES))
        said = list(chance.choice(all_messages))
        before = chance.random() < 0.7
        if before:
            place = chance.randrange(len(said))
            said[place] = (said[place][0] if chance.random() < 0.8 else chance.randrange(1, 16), mutated(said[place][1], chance))
            if chance.random() < 0.2:
                chance.shuffle(said)
        encoder = frames.Encoder(NONCE, frames.TO_NEAR, lane)
        stream = b"".join(encoder.encode(kind, 1, payload) for kind, payload in said)
        if not before:
            stream = mutated(stream, chance)
        cut = chance.randrange(len(stream) + 1)
        yield lane, [stream[:cut], stream[cut:]]


def answer_of(lane: str, chunks: list[bytes]) -> Receipt:
    """What a caller gets whose far side says that."""
    runner = deliver(trust=False, output="discard", timeout=5)(len)
    journey = Journey(len, ("x",), {}, runner.options)
    session = Session.__new__(Session)
    session.__dict__.update(
        chain=runner.options.chain, executable="python3", argv=("python3",), noise=bytearray(), on_noise=None, _nonce=NONCE,
        _decoder=frames.decoder(NONCE, frames.TO_NEAR, lane), _encoder=frames.Encoder(NONCE, frames.TO_FAR, lane),
        _requests=deque(), _damage="", _number=0, _exchanges={}, lost=False, _wire=Tape(chunks), _start_patience=10.0, _is_here=False, _line=Line(is_here=False),
    )  # fmt: skip
    journey._open = lambda detached: (session, Greeting(0x030B07F0, b"", False))  # type: ignore[method-assign]
    return journey.travel()


def test_what_is_not_mutated_arrives() -> None:
    for said, value in zip(messages(), (*VALUES, APART), strict=False):
        for lane in frames.LANES:
            encoder = frames.Encoder(NONCE, frames.TO_NEAR, lane)
            receipt = answer_of(lane, [encoder.encode(kind, 1, payload) for kind, payload in said])
            assert receipt.ok and receipt.value == value


@pytest.mark.timeout(3600)
def test_whatever_is_said_gets_a_receipt_or_one_error() -> None:
    chance = random.Random(SEED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, int] = {}
    for lane, chunks in tapes(COUNT, chance):
        start = time.process_time()
        try:
            receipt = answer_of(lane, chunks)
            outcome = str(receipt.verdict)
            assert receipt.exception is None or isinstance(receipt.exception, Exception), chunks
            str(receipt), receipt.to_dict()
        except DeliveryError as error:
            outcome = type(error).__name__
        found[outcome] = found.get(outcome, 0) + 1
        assert time.process_time() - start < 2, chunks
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KiB"
    assert {"RETURNED", "LOST"} <= set(found), found
    print(found)
