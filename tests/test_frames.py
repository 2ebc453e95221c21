"""The wire, without any I/O: whatever is cut, added, lost or damaged."""

from __future__ import annotations

import binascii
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deliveryboy_ng.worker import frames, ledger
from deliveryboy_ng.worker.frames import Decoder, Encoder, FrameError, RawDecoder

NONCE = b"0123456789abcdef"
MARK = frames.mark(NONCE, frames.TO_NEAR)

sent = st.lists(
    st.tuples(st.integers(frames.HELLO + 1, frames.REFUSED), st.integers(0, 2**32 - 1), st.binary(max_size=3000)), max_size=6
)
noise = st.binary(max_size=200).filter(lambda data: b"\n" not in data[-1:] and MARK not in data) | st.just(b"\0\xff=" + NONCE[:5])


def encode(frames_: list[tuple[int, int, bytes]], lane: str) -> list[bytes]:
    encoder = Encoder(NONCE, frames.TO_NEAR, lane)
    return [piece for kind, call, payload in frames_ for piece in encoder.pieces(kind, call, payload)]


def narrow_lines(messages: list[tuple[int, int, bytes]], lane: str = "narrow") -> list[bytes]:
    return b"".join(encode(messages, lane)).splitlines(keepends=True)


def joined(events: list[tuple[int, int, bool, bytes]]) -> list[tuple[int, int, bytes]]:
    """Events put together again as the frames they came from."""
    whole, parts = [], []
    for kind, call, more, payload in events:
        if kind in (frames.NOISE, frames.HELLO):
            continue
        parts.append(payload)
        if not more:
            whole.append((kind, call, b"".join(parts)))
            parts = []
    return whole


@given(sent, st.sampled_from(sorted(frames.LANES)), st.lists(st.integers(0, 20_000), max_size=8))
def test_frames_survive_being_cut_anywhere(messages: Any, lane: str, cuts: list[int]) -> None:
    data = b"".join(encode(messages, lane))
    decoder = frames.decoder(NONCE, frames.TO_NEAR, lane)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    events = [event for start, stop in itertools.pairwise(edges) for event in decoder.feed(data[start:stop])]
    assert joined(events) == messages


@pytest.mark.parametrize("lane", frames.LANES)
def test_frames_survive_being_cut_at_every_byte(lane: str) -> None:
    messages = [(frames.STDOUT, 1, b"a" * 1500), (frames.REPLY, 2, b""), (frames.VERDICT, 3, bytes(range(256)))]
    data = b"".join(encode(messages, lane))
    for cut in range(len(data) + 1):
        decoder = frames.decoder(NONCE, frames.TO_NEAR, lane)
        assert joined(decoder.feed(data[:cut]) + decoder.feed(data[cut:])) == messages
    decoder = frames.decoder(NONCE, frames.TO_NEAR, lane)
    assert joined([event for byte in data for event in decoder.feed(bytes([byte]))]) == messages


@given(sent, st.lists(noise, min_size=40, max_size=40))
def test_noise_around_lines_is_reported_and_harmless(messages: Any, noises: list[bytes]) -> None:
    lines = narrow_lines(messages)
    added = noises[: len(lines) + 1]
    data = b"".join(part for pair in zip(added, [*lines, b""], strict=False) for part in pair)
    decoder = Decoder(NONCE, frames.TO_NEAR)
    events = decoder.feed(data) + decoder.close()
    assert joined(events) == messages
    assert b"".join(event[3] for event in events if event[0] == frames.NOISE) == b"".join(added)


@given(sent, st.data())
def test_damage_never_passes_for_data(messages: Any, data: Any) -> None:
    """Any change of lines either leaves a beginning of what was sent, or is noticed."""
    lines = narrow_lines(messages)
    if not lines:
        return
    place = data.draw(st.integers(0, len(lines) - 1))
    what = data.draw(st.sampled_from(["drop", "double", "flip", "cut"]))
    line = bytearray(lines[place])
    if what == "flip":
        line[data.draw(st.integers(len(MARK), len(line) - 2))] ^= data.draw(st.integers(1, 255))
    changed = {"drop": [], "double": [lines[place]] * 2, "flip": [bytes(line)], "cut": [lines[place][: len(line) // 2] + b"\n"]}[
        what
    ]
    decoder = Decoder(NONCE, frames.TO_NEAR)
    events: list[Any] = []
    try:
        for each in [*lines[:place], *changed, *lines[place + 1 :]]:
            events += decoder.feed(each)
    except FrameError:
        pass
    whole = joined(events)
    assert whole == messages[: len(whole)]


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=300) | st.builds(lambda b: MARK + b + b"\n", st.binary(max_size=100)), max_size=8))
def test_decoder_takes_any_bytes(pieces: list[bytes]) -> None:
    for decoder in (Decoder(NONCE, frames.TO_NEAR), RawDecoder()):
        try:
            for piece in pieces:
                decoder.feed(piece)
            decoder.close()
        except FrameError:
            pass


def test_endless_lines_are_bounded() -> None:
    decoder = Decoder(NONCE, frames.TO_NEAR)
    for _ in range(100):
        decoder.feed(b"x" * 65536)
    assert len(decoder._rest) <= frames.LONGEST_LINE + 65536
    decoder = Decoder(NONCE, frames.TO_NEAR)
    with pytest.raises(FrameError):
        for _ in range(100):
            decoder.feed(MARK + b"A" * 65536)
    with pytest.raises(FrameError):
        RawDecoder().feed((2**31).to_bytes(4, "big") + bytes(6))


def test_echo_of_the_other_direction_is_dropped() -> None:
    echoed = b"".join(Encoder(NONCE, frames.TO_FAR, "narrow").pieces(frames.BODY, 1, b"x" * 2000))
    assert Decoder(NONCE, frames.TO_NEAR).feed(echoed) == []


def test_carriage_returns_and_greeting() -> None:
    data = b"".join(encode([(frames.STDOUT, 1, b"hello\r\n")], "narrow")).replace(b"\n", b"\r\n")
    events = Decoder(NONCE, frames.TO_NEAR).feed(b"login: " + MARK + b"hello 1 2 3\r\n" + data)
    assert events == [
        (frames.NOISE, 0, False, b"login: "),
        (frames.HELLO, 0, False, b"hello 1 2 3"),
        (frames.STDOUT, 1, False, b"hello\r\n"),
    ]


def test_narrow_lines_fit_a_terminal() -> None:
    answer = [(frames.REPLY, 1, b"x" * 10_000)]
    assert max(map(len, narrow_lines(answer))) <= 1024 < max(map(len, encode(answer, "narrow"))) <= frames.PIPE_BUF
    assert all(
        line.endswith(b"\n") and binascii.a2b_base64(line[len(MARK) :]) for line in encode([(frames.REPLY, 1, b"x")], "wide")
    )


LARGE = bytes(range(256)) * 3000
OF_TEXT = pytest.mark.parametrize("lane", ["narrow", "digits"])


@pytest.mark.parametrize("step", [1000, 4096, 65536, 1 << 22])
def test_large_payloads_follow_their_line_as_they_are(step: int) -> None:
    data = encode([(frames.STDOUT, 1, b"before"), (frames.REPLY, 1, LARGE), (frames.STDERR, 1, b"after")], "wide")
    data = b"".join((b"noise\n", *data, b"noise\n"))
    assert len(data) < len(LARGE) + 2000
    decoder = Decoder(NONCE, frames.TO_NEAR)
    events = [event for start in range(0, len(data), step) for event in decoder.feed(data[start : start + step])]
    assert [(kind, payload) for kind, _, _, payload in events if kind != frames.REPLY] == [
        (frames.NOISE, b"noise\n"), (frames.STDOUT, b"before"), (frames.STDERR, b"after"), (frames.NOISE, b"noise\n"),
    ]  # fmt: skip
    replies = [(more, payload) for kind, _, more, payload in events if kind == frames.REPLY]
    assert b"".join(payload for _, payload in replies) == LARGE
    assert [more for more, _ in replies] == [True] * (len(replies) - 1) + [False]


@pytest.mark.parametrize("change", [lambda data: data[:5000] + b"noise" + data[5000:], lambda data: data[:5000] + data[5001:],
                                    lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]])  # fmt: skip
def test_noise_within_a_large_payload_is_found(change: Callable[[bytes], bytes]) -> None:
    data = b"".join(encode([(frames.REPLY, 1, LARGE), (frames.STDERR, 1, b"after")], "wide"))
    with pytest.raises(frames.FrameError, match="checksum"):
        Decoder(NONCE, frames.TO_NEAR).feed(change(data))


@pytest.mark.parametrize("step", [100, 1000, 65536, 1 << 22])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@OF_TEXT
def test_large_payloads_of_text_may_have_noise_anywhere_between_their_lines(step: int, end: bytes, lane: str) -> None:
    lines = narrow_lines([(frames.STDOUT, 1, b"before"), (frames.REPLY, 1, LARGE), (frames.STDERR, 1, b"after")], lane)
    noisy = [each for place, line in enumerate(lines) for each in ([line] if place % 7 else [b"noise\n", b"more" + line])]
    data = b"".join(noisy).replace(b"\n", end)
    decoder = Decoder(NONCE, frames.TO_NEAR)
    events = [event for start in range(0, len(data), step) for event in decoder.feed(data[start : start + step])]
    assert joined(events) == [(frames.STDOUT, 1, b"before"), (frames.REPLY, 1, LARGE), (frames.STDERR, 1, b"after")]
    heard = b"".join(payload for kind, _, _, payload in events if kind == frames.NOISE)
    assert heard == (b"noise" + end + b"more") * -(-len(lines) // 7)


LONG_NOISE, LONGER_NOISE = (b"x" * (len(MARK) + length) + b"\n" for length in (944, 4076))


@given(
    st.lists(st.integers(600, 300_000), min_size=1, max_size=3),
    # As long as a line, among others.
    st.dictionaries(st.integers(0, 900), st.sampled_from([b"noise\n", b"\n", b"=beef<AAAA\n", LONG_NOISE, LONGER_NOISE])),
    st.lists(st.integers(1, 300_000), max_size=8),
    st.sampled_from(["narrow", "digits"]),
)
def test_blocks_of_text_arrive_whatever_is_between_their_lines_and_wherever_they_are_cut(
    sizes: list[int], noise: dict[int, bytes], cuts: list[int], lane: str
) -> None:
    messages = [(frames.REPLY, 1, LARGE[:size]) for size in sizes]
    lines = narrow_lines(messages, lane)
    data = b"".join(noise.get(place, b"") + line for place, line in enumerate(lines))
    decoder = Decoder(NONCE, frames.TO_NEAR)
    ends = sorted({*(cut for cut in cuts if cut < len(data)), len(data)})
    events = [event for start, end in itertools.pairwise([0, *ends]) for event in decoder.feed(data[start:end])]
    assert joined(events) == messages
    heard = [payload for kind, _, _, payload in events if kind == frames.NOISE]
    assert heard == [noise[place] for place in sorted(noise) if place < len(lines)]


@pytest.mark.parametrize("size", [100, 4000, 4200, 9000, 100_000])
@OF_TEXT
def test_noise_of_any_length_may_stand_in_front_of_a_line(size: int, lane: str) -> None:
    messages = [(frames.REPLY, 1, LARGE[:5000]), (frames.STDERR, 1, b"after")]
    first, second, *rest = narrow_lines(messages, lane)
    decoder = Decoder(NONCE, frames.TO_NEAR)
    events = [event for data in (first, b"." * size + second[:-10], second[-10:], b"".join(rest)) for event in decoder.feed(data)]
    assert joined(events) == messages
    assert b"".join(payload for kind, _, _, payload in events if kind == frames.NOISE) == b"." * size


@pytest.mark.parametrize("place", [1, 200, -2])
@pytest.mark.parametrize("what", ["drop", "double", "swap", "cut", "character"])
@OF_TEXT
def test_damage_within_a_large_payload_of_text_is_found(place: int, what: str, lane: str) -> None:
    lines = narrow_lines([(frames.REPLY, 1, LARGE), (frames.STDERR, 1, b"after")], lane)
    line, after = lines[place], lines[place + 1]
    other = line[:-5] + (b"AAAB\n" if line.endswith(b"AAAA\n") else b"AAAA\n")
    lines[place : (place + 2) or None] = {
        "drop": [after], "double": [line, line, after], "swap": [after, line], "cut": [line[:100] + b"\n", after],
        "character": [other, after],
    }[what]  # fmt: skip
    with pytest.raises(FrameError):
        Decoder(NONCE, frames.TO_NEAR).feed(b"".join(lines) * 2)


def test_an_answer_of_nothing_but_empty_pieces_takes_no_more_time_than_it_has_bytes() -> None:
    call = ledger.Call(1)
    started = time.process_time()
    call.follow((b"P" + bytes(8)) * 100_000)
    assert time.process_time() - started < 2 and call.head == b"" and not call.answered
