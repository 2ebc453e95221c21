"""Large arguments and results: how they travel, what they cost in memory, and what becomes of them when somebody dies or lies."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conftest
import numpy
import pytest

from deliveryboy_ng import (
    CallCancelled,
    CallDied,
    Command,
    Confinement,
    DeliveryError,
    DeliveryExecutor,
    Limits,
    Receipt,
    ReplyLimitExceeded,
    Verdict,
    deliver,
)
from deliveryboy_ng.worker import bulk, records, system

MEBIBYTE = 1 << 20


def need_answers_by_socket() -> None:
    for fd in system.socketpair():
        os.close(fd)
    if not system.refuse_descriptors():
        conftest.missing("before Linux 6.16 answers that are not trusted, or of sessions, come by a pipe")


DATA = bytes(range(256)) * (3 * MEBIBYTE // 256)
NUMBERS = numpy.arange(400_000, dtype=float)


def same(thing: Any) -> Any:
    return thing


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert conftest.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before), os.listdir("/proc/self/fd")


def trusted(chain: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    return deliver(transport=chain, trust=True, **options)


# --- what travels -----------------------------------------------------------------------------------------------------

VALUES = {
    "bytes": DATA,
    "bytearray": bytearray(DATA),
    "just large enough": DATA[: bulk.LEAST],
    "just too small": DATA[: bulk.LEAST - 1],
    "text": "ä" * MEBIBYTE,
    "much that is small": [str(number) for number in range(100_000)],
    "all together": {"a": DATA, "b": [bytearray(DATA), "x" * MEBIBYTE], "c": list(range(200_000)), "d": (DATA[1:],)},
}


@pytest.mark.parametrize("name", VALUES)
def test_large_values_come_back_as_they_were(chain: Any, name: str) -> None:
    value = VALUES[name]
    for trust in (True, None):
        found = deliver(transport=chain, trust=trust, max_reply="100M")(same)(value)
        assert found == value and type(found) is type(value)


def arrays() -> dict[str, Any]:
    fixed = NUMBERS.copy()
    fixed.flags.writeable = False
    square = NUMBERS.reshape(400, 1000)
    return {
        "doubles": NUMBERS,
        "read only": fixed,
        "by columns": square.T,
        "every other": square[:, ::2],
        "dates": numpy.arange(500_000).astype("datetime64[s]"),
        "of one": numpy.zeros((1, 1, 300_000), "c8"),
    }


# By a socket of its own, or with all the rest as lines of text.
WAYS: dict[str, Any] = {"socket": None, "text": ["env"]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("name", arrays())
def test_arrays_come_back_as_they_were(name: str, trust: bool, way: str) -> None:
    value = arrays()[name]
    found = deliver(transport=WAYS[way], trust=trust)(same)(value)
    assert found.dtype == value.dtype and found.shape == value.shape and (found == value).all()
    assert found.flags.f_contiguous == value.flags.f_contiguous or name == "every other"
    assert found.flags.writeable == (value.flags.writeable or not trust)


@pytest.mark.parametrize("way", WAYS)
def test_the_function_gets_what_was_given(way: str) -> None:
    def looks(data: bytes, array: Any, text: bytearray) -> tuple[Any, ...]:
        array[0] = -1.0
        text += b"more"
        return type(data), array[:2].tolist(), len(text)

    text = bytearray(DATA)
    assert deliver(transport=WAYS[way], trust=True)(looks)(DATA, NUMBERS, text) == (bytes, [-1.0, 1.0], len(DATA) + 4)
    assert NUMBERS[0] == 0.0 and len(text) == len(DATA)


@pytest.mark.parametrize("trust", [True, False])
def test_what_is_one_object_stays_one(trust: bool) -> None:
    first, second = deliver(trust=trust)(lambda data: [data, data])(DATA)
    assert first is second
    assert deliver(lambda first, second: first is second)(DATA, DATA)


def test_large_values_travel_in_sessions_that_stay_open(tmp_path: Path) -> None:
    for options in ({}, {"preload": ["json"]}):
        with DeliveryExecutor(2, **options) as executor:
            for found, value in zip(executor.map(same, VALUES.values()), VALUES.values(), strict=True):
                assert found == value
            deliveries = [executor.submit(same, DATA[number:]) for number in range(8)]
            assert [len(delivery.result()) for delivery in deliveries] == [len(DATA) - number for number in range(8)]
    with DeliveryExecutor(1, initializer=len, initargs=(DATA,)) as executor:
        assert executor.submit(len, DATA).result() == len(DATA)


def test_large_values_travel_to_confined_calls() -> None:
    strict = deliver(confinement=Confinement.strict(), limits=Limits(memory="256M"), timeout=60)
    assert strict(same)(DATA) == DATA
    assert (strict(same)(NUMBERS) == NUMBERS).all()


def test_large_values_travel_to_other_versions(other_python: str) -> None:
    assert deliver(executable=other_python)(bytes.swapcase)(DATA) == DATA.swapcase()


def test_what_was_copied_to_be_sent_is_kept_no_longer() -> None:
    large = bytearray(8 << 20)
    for transport in (None, Command(["env"])):
        call = deliver(transport=transport)(lambda data: time.sleep(1000)).submit(large)
        assert call.remote_pid and conftest.wait_until(lambda call=call: not call.journey.box.parts.large[0].view.nbytes)
        call.cancel()


def test_what_is_changed_after_it_was_sent_is_sent_as_it_was() -> None:
    array, text = NUMBERS.copy(), bytearray(DATA)
    with DeliveryExecutor(1) as executor:
        executor.submit(time.sleep, 0.2)
        later = executor.submit(lambda array, text: (float(array.sum()), bytes(text[:4])), array, text)
        array[:] = 0
        text[:4] = b"none"
        assert later.result() == (NUMBERS.sum(), DATA[:4])
        # Nobody holds it, so that it can be resized.
        text += b"x"


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_sent_is_its_owners_again(fails: bool) -> None:
    text = bytearray(DATA)

    def work(text: bytearray) -> int:
        return len(text) // (0 if fails else 1)

    try:
        deliver(work)(text)
    except ZeroDivisionError as error:
        assert fails and error.__traceback__
        text += b"x"
    text += b"y"


# --- what it costs ----------------------------------------------------------------------------------------------------


def most_memory_of(work: Callable[[], Any]) -> tuple[int, Any]:
    """Bytes more than before at any time, and the result (proc(5), clear_refs)."""

    def now() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Vm")}

    # What other tests have left shall not be given back meanwhile.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = now()["VmRSS"]
    result = work()
    return now()["VmHWM"] - before, result


SIZE = 64 * MEBIBYTE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [lambda: b"x" * SIZE, lambda: numpy.ones(SIZE // 8)], ids=["bytes", "numpy"])
def test_memory_is_that_of_arguments_and_results(make: Callable[[], Any], way: str) -> None:
    need_answers_by_socket()
    value = make()
    for trust in (True, False):
        run = deliver(transport=WAYS[way], trust=trust, max_reply="1G")(same)
        # Whatever numpy itself takes.
        least = run.run(value[:100]).usage.max_rss
        taken, receipt = most_memory_of(lambda run=run: run.run(value))  # type: ignore[misc]
        assert receipt.ok and len(receipt.value) == len(value)
        assert SIZE <= taken < 1.3 * SIZE
        assert 0.9 * SIZE <= receipt.usage.max_rss - least < 1.2 * SIZE
        assert SIZE <= receipt.usage.sent < SIZE + MEBIBYTE and SIZE <= receipt.usage.received < SIZE + MEBIBYTE


def test_a_file_that_pieces_come_from_is_given_back_as_it_is_read() -> None:
    fd = os.memfd_create("pieces")
    try:
        for _ in range(SIZE // MEBIBYTE):
            os.write(fd, b"x" * MEBIBYTE)
        os.lseek(fd, 0, os.SEEK_SET)
        receiver = bulk.Receiver(bulk.reader(fd), [(bulk.BYTES, SIZE // 2), (bulk.VIEW, SIZE // 2)])
        pieces = iter(receiver)
        assert next(pieces) == b"x" * (SIZE // 2)
        assert os.fstat(fd).st_blocks * 512 <= SIZE // 2
        assert next(pieces) == b"x" * (SIZE // 2)
        assert os.fstat(fd).st_blocks == 0 and receiver.is_done
    finally:
        os.close(fd)


def test_memory_is_given_back_without_the_garbage_collector() -> None:
    need_answers_by_socket()
    gc.disable()
    try:
        with DeliveryExecutor(1) as executor:
            value = b"x" * SIZE
            for run in (deliver(same), lambda value: executor.submit(same, value).result()):
                run(value)
                taken, _ = most_memory_of(lambda run=run: [len(run(value)) for _ in range(3)])  # type: ignore[misc]
                assert taken < 2.3 * SIZE, "in a session the last one may still be there"
    finally:
        gc.enable()


def test_arguments_are_not_charged_to_the_calls_memory() -> None:
    value = b"x" * (3 * SIZE)
    assert deliver(limits=Limits(memory="96M"))(len)(value) == len(value)
    assert deliver(limits=Limits(memory="96M"), confinement=Confinement.strict())(len)(value) == len(value)


# --- deaths on the way ------------------------------------------------------------------------------------------------


def end_in_the_middle(number: int) -> Any:
    class Ends:
        def __reduce__(self) -> Any:
            return _end, (number,)

    return Ends()


def _end(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("warm", [False, True])
def test_a_call_that_dies_while_its_arguments_arrive(warm: bool) -> None:
    many = [DATA * 10, end_in_the_middle(signal.SIGSEGV), DATA * 10 + b"x"]
    with DeliveryExecutor(1) as executor:
        run = (lambda value: executor.submit(len, value).result(30)) if warm else deliver(len)
        with pytest.raises(CallDied, match="SIGSEGV"):
            run(many)
        assert run(DATA) == len(DATA)


@pytest.mark.parametrize("warm", [False, True])
def test_a_call_that_is_killed_while_its_answer_is_on_its_way(warm: bool) -> None:
    need_answers_by_socket()
    how: dict[str, Any] = {"takes": True, "writes": 1_500_000, "ends": signal.SIGKILL}
    with DeliveryExecutor(1) as executor:
        run: Callable[..., Receipt] = (
            (lambda *args, **how: executor.submit(lie, *args, **how).receipt(30)) if warm else deliver(lie).run
        )
        assert run((b"B", b"b1000000 b1000000"), **how).verdict is Verdict.SIGNALED
        assert executor.submit(len, DATA).result() == len(DATA)


def test_a_transfer_that_is_cancelled_ends(tmp_path: Path) -> None:
    class Sleeps:
        def __reduce__(self) -> Any:
            return time.sleep, (60,)

    delivery = deliver(len).submit([DATA * 20, Sleeps(), DATA * 20 + b"x"])
    assert delivery.remote_pid
    time.sleep(0.1)
    assert delivery.cancel()
    assert conftest.wait_until(lambda: not conftest.is_alive(delivery.remote_pid or 0))
    assert delivery.receipt(10).verdict is Verdict.CANCELLED


def test_a_transfer_that_stalls_is_ended_by_the_timeout() -> None:
    class Sleeps:
        def __reduce__(self) -> Any:
            return time.sleep, (60,)

    started = time.monotonic()
    receipt = deliver(timeout=0.5, grace=0.1)(len).run([DATA * 20, Sleeps(), DATA * 20 + b"x"])
    assert receipt.verdict is Verdict.TIMEOUT and time.monotonic() - started < 10


def test_without_descriptors_to_spare_the_answer_comes_all_the_same() -> None:
    def answer() -> bytes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        return DATA

    assert deliver(answer)() == DATA
    with DeliveryExecutor(1) as executor:
        assert executor.submit(answer).result(30) == DATA


def test_a_caller_without_descriptors_to_spare() -> None:
    with DeliveryExecutor(1) as executor:
        executor.submit(len, DATA).result()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(kept) + 1, hard))
            assert executor.submit(bytes, len(DATA)).result(30) == bytes(len(DATA))
            assert executor.submit(same, DATA).result(30) == DATA
            assert executor.submit(len, b"small").result(30) == 5
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in kept:
                os.close(fd)


def was_cancelled(delivery: Any) -> bool:
    try:
        return delivery.receipt(30).verdict is Verdict.CANCELLED
    except CallCancelled:
        return True  # before anything of it was sent


def test_a_call_is_cancelled_before_it_has_its_arguments() -> None:
    """Again and again, so that it comes at any moment of its start; the others of the session do not notice."""
    with DeliveryExecutor(3) as executor:
        executor.submit(len, DATA).result()
        bystander = executor.submit(time.sleep, 3)
        started = time.monotonic()
        for number in range(60):
            victim = executor.submit(lambda data: time.sleep(60), DATA)
            time.sleep(number % 6 * 0.0005)
            victim.cancel()
            assert was_cancelled(victim)
        assert time.monotonic() - started < 20
        assert bystander.receipt(30).ok
    for number in range(10):
        alone = deliver(lambda data: time.sleep(60)).submit(DATA)
        time.sleep(number * 0.003)
        alone.cancel()
        assert was_cancelled(alone)


def test_a_call_is_terminated_before_it_has_its_arguments() -> None:
    with DeliveryExecutor(1) as executor:
        executor.submit(len, DATA).result()
        for number in range(12):
            victim = executor.submit(lambda data: time.sleep(60), DATA)
            time.sleep(number % 6 * 0.0005)
            victim.terminate(0.1)
            # There is no receipt if it had not been sent yet.
            assert victim.exception(30) is not None


INTERRUPTED = """
import os, signal, sys, threading, time
from deliveryboy_ng import deliver

data = bytes(400_000)
# A signal that comes just before a system call does not keep that from waiting.
wait = deliver(lambda data: [time.sleep(0.1) for _ in range(300)])
deliver(len)(data)
missed = 0
for number in range(20):
    timer = threading.Timer(0.002 + number * 0.002, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        wait(data)
        missed += 1
    except KeyboardInterrupt:
        pass
    timer.join()
print(missed)
"""


def test_ctrl_c_before_the_arguments_have_come_is_not_lost(script: Any) -> None:
    result = script(INTERRUPTED)
    assert (result.stdout, result.returncode) == (b"0\n", 0), result.stderr


BROKEN_PIPE = """
import os, signal
from deliveryboy_ng import CallDied, deliver

signal.signal(signal.SIGPIPE, signal.SIG_DFL)

class Ends:
    def __reduce__(self):
        return os._exit, (3,)

try:
    deliver(len)([bytes(30_000_000), Ends(), bytes(30_000_001)])
except Exception as error:
    print(type(error).__name__)
"""


def test_a_caller_that_dies_of_broken_pipes_does_not_die_of_a_calls_death(script: Any) -> None:
    result = script(BROKEN_PIPE)
    assert (result.stdout, result.returncode) == (b"CallExited\n", 0), result.stderr


@pytest.mark.parametrize("size", [3000, 300_000])
def test_buffers_arrive_as_pickle_would_have_it(size: int) -> None:
    for data in (b"x" * size, bytearray(b"x") * size):
        found = deliver(lambda buffer: (type(buffer), buffer))(pickle.PickleBuffer(data))
        assert found == (type(data), data)


def test_columns_of_truth_values_come_as_data() -> None:
    values = [True, False] * 200_000
    assert deliver(trust=False)(lambda: [True, False] * 200_000)() == values
    table = deliver(trust=False)(lambda: [{"a": True, "b": n} for n in range(300_000)])()
    assert table[5] == {"a": True, "b": 5} and len(table) == 300_000


@pytest.mark.parametrize("way", WAYS)
def test_pieces_and_all_the_rest_count_together(way: str) -> None:
    run = deliver(transport=WAYS[way], trust=True, max_reply="1M")(lambda size: [bytes(900_000), "x" * size])
    assert run(100_000) == [bytes(900_000), "x" * 100_000]
    with pytest.raises(ReplyLimitExceeded):
        run(200_000)


@pytest.mark.parametrize("trust", [True, False])
def test_there_are_so_many_pieces_and_no_more(monkeypatch: pytest.MonkeyPatch, trust: bool) -> None:
    def answer(data: list[bytes]) -> Any:
        from deliveryboy_ng.worker import bulk

        bulk._MOST_PIECES = 2
        return data

    value = [DATA[start:] for start in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_MOST_PIECES", 2)
        assert deliver(answer, trust=trust)(value) == value
    most = " ".join(f"b{1 << 40}" for _ in range(bulk._MOST_PIECES + 1))
    assert len(most) <= records.LONGEST_PREFACE


def test_a_socket_is_its_calls_alone() -> None:
    """Calls that ask for sockets which they do not need, while others get theirs."""

    def greedy() -> bytes:
        answers = socket.socket(fileno=os.dup(3))
        answers.sendall(b"B" + (0).to_bytes(8, "big"))
        _, fds, _, _ = socket.recv_fds(answers, 1, 1)
        return socket.socket(fileno=fds[0]).recv(100) if fds else b""

    secret = b"secret" * 100_000
    with DeliveryExecutor(4, trust=False) as executor:
        for _ in range(40):
            thieves = [executor.submit(greedy) for _ in range(3)]
            honest = [executor.submit(len, secret) for _ in range(3)]
            assert [each.result(30) for each in honest] == [len(secret)] * 3
            for thief in thieves:
                receipt = thief.receipt(30)
                assert receipt.value in (b"", None) or receipt.exception is not None


def socket_for(size: int) -> socket.socket:
    """In a call: what its answer's one large piece is to be written to."""
    answers = socket.socket(fileno=os.dup(3))
    sizes = b"b%d" % size
    answers.sendall(b"B" + len(sizes).to_bytes(8, "big") + sizes)
    return socket.socket(fileno=socket.recv_fds(answers, 1, 1)[1][0])


def test_a_socket_that_was_closed_early_is_read_no_more() -> None:
    """Its descriptor's number is another's by then: what that has to say is nobody's answer."""
    opened: list[socket.socket] = []

    def leave_early() -> None:
        there = socket_for(1_000_000)
        there.sendall(b"some")
        there.close()
        for _ in range(3):
            time.sleep(0.1)
            print("hello", flush=True)
        os._exit(0)

    def open_some(stream: str, data: bytes) -> None:
        for end, other in [socket.socketpair() for _ in range(4)]:
            other.sendall(b"the caller's own")
            opened.extend((end, other))

    try:
        started = time.monotonic()
        receipt = deliver(trust=False, timeout=20, output=open_some)(leave_early).run()
        assert time.monotonic() - started < 15 and not receipt.ok and isinstance(receipt.exception, DeliveryError)
        assert len(opened) >= 8 and {end.recv(100) for end in opened[::2]} == {b"the caller's own"}
    finally:
        for end in opened:
            end.close()


def test_calls_that_die_while_they_answer_take_nothing_from_others() -> None:
    def dies() -> None:
        there = socket_for(1_000_000)
        there.sendall(b"some")
        there.close()
        os._exit(0)

    with DeliveryExecutor(4, trust=False) as executor:
        pairs = [(executor.submit(dies), executor.submit(bytes, 600_000)) for _ in range(100)]
        for bad, good in pairs:
            assert good.result(60) == bytes(600_000)
            assert not bad.receipt(60).ok


@pytest.mark.parametrize("way", WAYS)
def test_who_asks_for_a_socket_where_there_is_none_harms_himself_alone(way: str) -> None:
    def asks() -> None:
        os.write(3, b"B" + (2).to_bytes(8, "big") + b"b5")
        os._exit(0)

    with DeliveryExecutor(2, transport=WAYS[way], trust=False, timeout=20) as executor:
        other = executor.submit(time.sleep, 0.5)
        assert executor.submit(asks).receipt(30).verdict is Verdict.EXITED
        assert other.receipt(30).ok and other.receipt().clean


TOO_MUCH = """
import resource, sys, time
from deliveryboy_ng import DeliveryExecutor, DeliveryPickleError, deliver
import deliveryboy_ng.session, deliveryboy_ng.replies, deliveryboy_ng.wire

def used():
    return int(open("/proc/self/statm").read().split()[0]) * 4096

transport = sys.argv[1:] or None
with DeliveryExecutor(2, transport=transport, trust=True) as executor:
    assert executor.submit(len, bytes(400_000)).result() == 400_000
    resource.setrlimit(resource.RLIMIT_AS, (used() + (200 << 20), resource.RLIM_INFINITY))
    other = executor.submit(time.sleep, 1)
    try:
        executor.submit(bytes, 400 << 20).result()
    except DeliveryPickleError as error:
        print(str(error)[:60])
    print(other.result(), executor.submit(bytes, 5).result())
"""


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_does_not_fit_here_is_its_calls_failure(script: Any, way: str) -> None:
    result = script(TOO_MUCH, *(WAYS[way] or []))
    expected = "bytes returned more than there is memory for here: "
    assert result.stdout.decode().startswith(expected) and result.stdout.decode().endswith(f"None {bytes(5)}\n"), result


def test_an_answer_comes_but_one_way() -> None:
    """By a socket, and here as well, there would be twice as much."""

    def twice(size: int) -> None:
        there = socket_for(size)
        there.sendall(bytes(size - 1))
        lie((b"C", b"b%d" % size), (b"P", bytes(size)), (b"R", b"\x80\x05N"))

    run = deliver(trust=True, max_reply="70M", timeout=30)(twice)
    taken, receipt = most_memory_of(lambda: run.run(SIZE))
    assert not receipt.ok and taken < 1.5 * SIZE


def test_what_could_not_be_sent_is_its_owners_again() -> None:
    text = bytearray(3_000_000)
    try:
        deliver(executable="/nonexistent")(len)(text)
    except DeliveryError as error:
        assert error.__traceback__
        text += b"x"
    assert len(text) == 3_000_001


# --- lies -------------------------------------------------------------------------------------------------------------


def lie(*records: tuple[bytes, bytes], takes: bool = False, writes: int = 0, ends: int = 0, says: bytes = b"") -> None:
    """Say something else, in the place of what a call says, and take the socket that comes."""
    answers = socket.socket(fileno=os.dup(3))
    for status, payload in records:
        answers.sendall(status + len(payload).to_bytes(8, "big") + payload)
        if takes:
            _, fds, _, _ = socket.recv_fds(answers, 1, 1)
            if fds and writes:
                os.write(fds[0], b"x" * writes)
            takes = False
    answers.sendall(says)
    if ends:
        os.kill(os.getpid(), ends)
    os._exit(0)


LIES: dict[str, dict[str, Any]] = {
    "nothing comes": {"records": [(b"B", b"b1000000"), (b"R", b"")], "takes": True},
    "too little comes": {"records": [(b"B", b"b1000000"), (b"R", b"N.")], "takes": True, "writes": 1000},
    "too much comes": {"records": [(b"B", b"b1000"), (b"R", b"N.")], "takes": True, "writes": 100_000},
    "the socket is left": {"records": [(b"B", b"b1000000"), (b"R", b"\x97.")]},
    "more than may come": {"records": [(b"B", b"b99999999999999")]},
    "more than there are": {"records": [(b"B", b"b1000"), (b"R", b"(\x97\x97l.")], "takes": True, "writes": 1000},
    "no sizes": {"records": [(b"B", b"many")]},
    "negative": {"records": [(b"B", b"b-5")]},
    "twice": {"records": [(b"B", b"b1000"), (b"B", b"b1000"), (b"B", b"b1000"), (b"R", b"N.")]},
    "withdrawn": {"records": [(b"B", b""), (b"R", b"\x97.")]},
    "of no end": {"records": [(b"B", b"b100000 " * 8000)]},
    "more than may come here": {"records": [(b"C", b"b99999999999999"), (b"P", b"x")]},
    "pieces that nobody has announced": {"records": [(b"P", b"x" * 1000), (b"R", b"N.")]},
    "a piece of another size": {"records": [(b"C", b"b1000"), (b"P", b"x" * 999), (b"R", b"\x97.")]},
    "a piece of no size": {"records": [(b"C", b"b1000"), (b"P", b""), (b"R", b"\x97.")]},
    "fewer pieces": {"records": [(b"C", b"b1000 b1000"), (b"P", b"x" * 1000), (b"R", b"\x97.")]},
    "more pieces": {"records": [(b"C", b"b1000"), (b"P", b"x" * 1000), (b"P", b"x" * 1000), (b"R", b"\x97.")]},
    "announced twice here": {"records": [(b"C", b"b1000"), (b"C", b"b1000"), (b"P", b"x" * 1000), (b"R", b"\x97.")]},
    "a socket after all": {"records": [(b"C", b"b1000"), (b"B", b"b1000"), (b"R", b"\x97.")]},
    "announced, and nothing comes": {"records": [(b"C", b"b1000000")]},
    "half a piece": {"records": [(b"C", b"b1000000")], "says": b"P" + (1000000).to_bytes(8, "big") + b"x" * 1000},
}


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("name", LIES)
def test_lies_about_large_answers_do_not_pass_and_do_not_hang(name: str, trust: bool) -> None:
    need_answers_by_socket()
    how = dict(LIES[name])
    started = time.monotonic()
    receipt = deliver(trust=trust, timeout=20)(lie).run(*how.pop("records"), **how)
    assert time.monotonic() - started < 15
    if name == "too much comes" and trust:
        assert receipt.ok and receipt.value is None, "what was announced came, and R says None"
    elif name != "twice":
        assert isinstance(receipt.exception, DeliveryError) and not receipt.ok, receipt


def test_a_lie_of_one_call_is_not_the_others_misfortune() -> None:
    with DeliveryExecutor(2, timeout=20) as executor:
        for name, how in LIES.items():
            how = dict(how)
            bad = executor.submit(lie, *how.pop("records"), **how)
            good = executor.submit(same, DATA)
            assert good.result(30) == DATA, name
            bad.receipt(30)
