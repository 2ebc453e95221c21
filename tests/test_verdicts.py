"""How calls end: one table of deaths through every transport, and what the receipt tells of them.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import mmap
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import conftest
import pytest
from calls import refuse

from deliveryboy_ng import (
    CallDied,
    CallError,
    CallExited,
    CallInterrupted,
    CallTimeout,
    Command,
    ConnectionLost,
    CpuLimitExceeded,
    DeliveryError,
    DeliveryExecutor,
    DeliveryPickleError,
    FileSizeLimitExceeded,
    LimitExceeded,
    Limits,
    MemoryLimitExceeded,
    OpenFilesLimitExceeded,
    OutputLimitExceeded,
    ProcessLimitExceeded,
    ReplyLimitExceeded,
    Unshare,
    Verdict,
    deliver,
    exchange,
)
from deliveryboy_ng.worker import processes

MEBIBYTE = 1 << 20

# --- ways to die ----------------------------------------------------------------------------------------------------


def returns() -> int:
    return 1


def raises() -> None:
    raise KeyError("key")


def own_memory_error() -> None:
    raise MemoryError("mine")


def own_timeout_error() -> None:
    raise TimeoutError("mine")


def own_errno() -> None:
    raise OSError(errno.EMFILE, "mine")


def exit_3() -> None:
    sys.exit(3)


def exit_text() -> None:
    sys.exit("words")


def os_exit_0() -> None:
    os._exit(0)


def os_exit_9() -> None:
    print("last words", file=sys.stderr, flush=True)
    os._exit(9)


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


def terminate_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def xcpu_self() -> None:
    os.kill(os.getpid(), signal.SIGXCPU)


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupt_by_signal() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(100)


def unpicklable_value() -> Any:
    return {"value": threading.Lock()}


def close_everything() -> None:
    os.closerange(0, 1000)


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_on() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("begun", flush=True)
    time.sleep(1000)


def wait_for_child() -> None:
    subprocess.run(["sleep", "1000"], check=True)


def spin() -> None:
    while True:
        pass


def spin_against_xcpu() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    spin()


def spin_in_children() -> None:
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            spin()
    time.sleep(1000)


def allocate_too_much() -> int:
    return len(bytearray(1 << 40))


def grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(MEBIBYTE))


def map_shared() -> None:
    shared = mmap.mmap(-1, 200 * MEBIBYTE)
    for page in range(0, len(shared), 4096):
        shared[page] = 1
    time.sleep(1000)


def fill_memfd() -> None:
    memfd = os.memfd_create("hoard")
    for _ in range(200):
        os.write(memfd, bytes(MEBIBYTE))
    time.sleep(1000)


def hoard_in_grandchildren() -> None:
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            kept = bytearray(b"x") * (30 * MEBIBYTE)
            time.sleep(1000)
            del kept
    time.sleep(1000)


def bomb() -> None:
    me = os.getpid()
    # The first goes on until it is refused: the others may have taken what was left.
    for number in range(5000):
        if number >= 12 and os.getpid() != me:
            break
        try:
            os.fork()
        except OSError:
            if os.getpid() == me:
                raise
            time.sleep(1000)
    time.sleep(1000)


def start_threads() -> None:
    for _ in range(200):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    time.sleep(1000)


def write_large_file() -> None:
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(bytes(MEBIBYTE))


def open_many_files() -> None:
    kept = [open("/dev/null") for _ in range(100)]
    del kept


def flood() -> None:
    while True:
        os.write(2, b"x" * 4096)


def write_a_little_too_much() -> int:
    os.write(1, b"x" * 20000)
    return 1


def large_reply() -> bytes:
    return b"x" * (3 * MEBIBYTE)


@dataclass
class Death:
    function: Any
    verdict: Verdict
    kind: type[BaseException] | None
    words: str = ""
    limit: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)


SMALL = {"limits": Limits(memory="64M")}
DEATHS = [
    Death(returns, Verdict.RETURNED, None, facts={"returncode": 0}),
    Death(raises, Verdict.RAISED, KeyError, "key"),
    Death(own_memory_error, Verdict.RAISED, MemoryError, "mine"),
    Death(own_memory_error, Verdict.RAISED, MemoryError, "mine", options=SMALL),
    Death(own_timeout_error, Verdict.RAISED, TimeoutError, "mine", options={"timeout": 50}),
    Death(own_errno, Verdict.RAISED, OSError, "mine"),
    Death(allocate_too_much, Verdict.RAISED, MemoryError),
    Death(exit_3, Verdict.EXITED, CallExited, "exit code 3", facts={"returncode": 3}),
    Death(exit_text, Verdict.EXITED, CallExited, "words", facts={"returncode": 1}),
    Death(os_exit_0, Verdict.EXITED, CallExited, "exit code 0", facts={"returncode": 0}),
    Death(os_exit_9, Verdict.EXITED, CallExited, "last words", facts={"returncode": 9}),
    Death(segfault, Verdict.SIGNALED, CallDied, "in segfault", facts={"signal": 11}),
    Death(segfault, Verdict.SIGNALED, CallDied, "does not check whether it gets memory", options=SMALL, facts={"signal": 11}),
    Death(abort, Verdict.SIGNALED, CallDied, "in abort", facts={"signal": 6}),
    Death(kill_self, Verdict.SIGNALED, CallDied, "SIGKILL", facts={"signal": 9}),
    Death(kill_self, Verdict.SIGNALED, CallDied, "SIGKILL", options={"limits": Limits(cpu=9)}, facts={"signal": 9}),
    Death(kill_group, Verdict.SIGNALED, CallDied, "SIGKILL", facts={"signal": 9}),
    Death(terminate_self, Verdict.SIGNALED, CallDied, "SIGTERM", options={"timeout": 50}, facts={"signal": 15}),
    Death(xcpu_self, Verdict.SIGNALED, CallDied, "SIGXCPU", options={"limits": Limits(cpu=9)}, facts={"signal": 24}),
    Death(interrupt, Verdict.RAISED, CallInterrupted, "KeyboardInterrupt"),
    Death(interrupt_by_signal, Verdict.RAISED, CallInterrupted, "KeyboardInterrupt"),
    Death(unpicklable_value, Verdict.RETURNED, DeliveryPickleError, "lock"),
    Death(close_everything, Verdict.EXITED, CallExited, "closes all descriptors", facts={"returncode": 70}),
    Death(sleep_on, Verdict.TIMEOUT, CallTimeout, "timeout=0.3 ", "timeout", {"timeout": 0.3, "grace": 0.1}),
    Death(stop_self, Verdict.TIMEOUT, CallTimeout, "timeout=0.2 ", "timeout", {"timeout": 0.2, "grace": 0.1}),
    Death(wait_for_child, Verdict.TIMEOUT, CallTimeout, "timeout=0.2 ", "timeout", {"timeout": 0.2}),
    Death(spin, Verdict.CPU_LIMIT, CpuLimitExceeded, "cpu=0.2)", "cpu", {"limits": Limits(cpu=0.2)}),
    Death(spin_against_xcpu, Verdict.CPU_LIMIT, CpuLimitExceeded, "cpu=0.2)", "cpu", {"limits": Limits(cpu=0.2), "grace": 0.1}),
    Death(spin_in_children, Verdict.CPU_LIMIT, CpuLimitExceeded, "cpu=0.3)", "cpu", {"limits": Limits(cpu=0.3)}),
    Death(allocate_too_much, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, "MemoryError", "memory", SMALL),
    Death(allocate_too_much, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, "data=", "data", {"limits": Limits(data="64M")}),
    Death(
        allocate_too_much,
        Verdict.MEMORY_LIMIT,
        MemoryLimitExceeded,
        "address_space=",
        "address_space",
        {"limits": Limits(address_space="256M")},
    ),
    Death(grow, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, "MemoryError", "memory", SMALL),
    Death(map_shared, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, 'memory="64M"', "memory", SMALL),
    Death(fill_memfd, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, "were killed", "memory", SMALL),
    Death(hoard_in_grandchildren, Verdict.MEMORY_LIMIT, MemoryLimitExceeded, "together", "memory", SMALL),
    Death(bomb, Verdict.PROCESS_LIMIT, ProcessLimitExceeded, "processes=20", "processes", {"limits": Limits(processes=20)}),
    Death(start_threads, Verdict.PROCESS_LIMIT, ProcessLimitExceeded, "20", "processes", {"limits": Limits(processes=20)}),
    Death(
        write_large_file, Verdict.FILE_SIZE_LIMIT, FileSizeLimitExceeded, "10000", "file_size", {"limits": Limits(file_size=10000)}
    ),
    Death(
        open_many_files, Verdict.OPEN_FILES_LIMIT, OpenFilesLimitExceeded, "=32)", "open_files", {"limits": Limits(open_files=32)}
    ),
    Death(flood, Verdict.OUTPUT_LIMIT, OutputLimitExceeded, "10240", "max_output", {"max_output": "10K", "overflow": "kill"}),
    Death(
        write_a_little_too_much,
        Verdict.OUTPUT_LIMIT,
        OutputLimitExceeded,
        "20000 bytes",
        "max_output",
        {"max_output": "10K", "overflow": "kill"},
    ),
    Death(large_reply, Verdict.REPLY_LIMIT, ReplyLimitExceeded, "max_reply=1048576", "max_reply", {"max_reply": "1M"}),
]


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: f"{death.function.__name__}-{death.limit or death.verdict.value}")
def test_every_death_has_the_same_verdict_through_every_transport(chain: Any, death: Death) -> None:
    started = time.monotonic()
    receipt = deliver(transport=chain, **death.options)(death.function).run()
    assert time.monotonic() - started < 10
    assert (receipt.verdict, receipt.limit) == (death.verdict, death.limit), receipt.exception
    for name, value in death.facts.items():
        assert getattr(receipt, name) == value
    assert receipt.clean and receipt.ok == (death.kind is None)
    assert json.loads(json.dumps(receipt.to_dict()))["verdict"] == death.verdict.value
    assert " 0.0 MiB" not in str(receipt.exception)
    if death.kind is None:
        assert receipt.unwrap() == 1
        return
    with pytest.raises(death.kind) as caught:
        receipt.unwrap()
    assert death.words in str(caught.value)
    if isinstance(caught.value, CallError):
        assert caught.value.receipt.verdict is death.verdict
    if isinstance(caught.value, LimitExceeded):
        assert caught.value.limit == death.limit and isinstance(caught.value, DeliveryError)


def test_matching_errors_are_also_the_builtin_ones() -> None:
    with pytest.raises(
        TimeoutError, match=r"work took longer than timeout=0.1 seconds and was killed after 0\.\d+ \(.*\); raise timeout"
    ):
        deliver(timeout=0.1, grace=0.1, output="discard")(_named("work", sleep_on))()
    with pytest.raises(MemoryError, match="64M") as memory:
        deliver(**SMALL)(allocate_too_much)()
    assert type(memory.value.__cause__) is MemoryError
    with pytest.raises(OSError, match="open_files=32") as files:
        deliver(limits=Limits(open_files=32))(open_many_files)()
    assert files.value.errno == errno.EMFILE and pickle.loads(pickle.dumps(files.value)).errno == errno.EMFILE
    with pytest.raises(OSError, match="file_size=10000") as size:
        deliver(limits=Limits(file_size=10000))(write_large_file)()
    assert size.value.errno == errno.EFBIG


def _named(name: str, function: Any) -> Any:
    def work() -> None:
        function()

    work.__qualname__ = name
    return work


def test_cause_of_a_limit_shows_where_it_was_reached() -> None:
    with pytest.raises(MemoryLimitExceeded) as caught:
        deliver(**SMALL)(grow)()
    cause = caught.value.__cause__
    assert isinstance(cause, MemoryError) and cause.__traceback__ is not None
    last = cause.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    assert last.tb_frame.f_code.co_name == "grow"


def test_function_that_deals_with_its_limit_returns() -> None:
    def work() -> str:
        try:
            bytearray(1 << 40)
        except MemoryError:
            return "did without"
        return "?"

    receipt = deliver(**SMALL)(work).run()
    assert (receipt.verdict, receipt.value) == (Verdict.RETURNED, "did without")


def test_value_returned_in_the_grace_period_is_kept() -> None:
    def work() -> list[int]:
        done: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: done.append(number))
        while not done:
            time.sleep(0.01)
        return done

    with pytest.raises(CallTimeout) as caught:
        deliver(timeout=0.2, grace=20)(work)()
    assert caught.value.receipt.value == [15] and caught.value.receipt.verdict is Verdict.TIMEOUT


def test_exception_of_the_grace_period_is_the_cause() -> None:
    def work() -> None:
        def handler(number: int, frame: object) -> None:
            raise KeyError("cleaned up")

        signal.signal(signal.SIGTERM, handler)
        time.sleep(1000)

    with pytest.raises(CallTimeout) as caught:
        deliver(timeout=0.2, grace=20)(work)()
    assert isinstance(caught.value.__cause__, KeyError)


def test_death_shows_the_python_frames_even_where_output_is_dropped() -> None:
    with pytest.raises(CallDied, match="in segfault") as caught:
        deliver(output="discard")(segfault)()
    assert caught.value.traceback_text.startswith("Fatal Python error: Segmentation fault") and caught.value.signal == 11
    assert caught.value.receipt.stderr == b""


def test_error_carries_the_receipt() -> None:
    with pytest.raises(CallExited) as caught:
        deliver(output="capture")(os_exit_9)()
    assert caught.value.receipt.stderr == b"last words\n" and caught.value.receipt.returncode == 9


def test_output_up_to_the_limit_is_kept_when_the_call_is_killed() -> None:
    receipt = deliver(max_output="10K", overflow="kill")(flood).run()
    assert len(receipt.stderr) == 10240 and receipt.truncated == ("stderr",) and receipt.usage.wall < 5


def test_output_is_only_cut_by_default() -> None:
    receipt = deliver(max_output="10K")(write_a_little_too_much).run()
    assert receipt.ok and receipt.truncated == ("stdout",) and len(receipt.stdout) == 10240


# --- evidence -------------------------------------------------------------------------------------------------------


def fill_with_objects() -> None:
    kept = []
    while True:
        kept.append(object())


def fill_with_dicts() -> None:
    kept: dict[int, Any] = {}
    while True:
        kept[len(kept)] = []


def fill_with_nested() -> None:
    kept: Any = None
    while True:
        kept = (kept,)


@pytest.mark.parametrize("name", ["memory", "data", "address_space"])
@pytest.mark.parametrize("function", [fill_with_objects, fill_with_dicts, fill_with_nested])
def test_memory_filled_to_the_last_byte_still_leaves_room_for_the_answer(name: str, function: Any) -> None:
    size = "200M" if name == "address_space" else "40M"
    receipt = deliver(limits=Limits(**{name: size}))(function).run()
    assert (receipt.verdict, receipt.limit) == (Verdict.MEMORY_LIMIT, name), receipt.exception
    assert isinstance(receipt.exception.__cause__, MemoryError)  # type: ignore[union-attr]


def test_exception_too_large_for_what_memory_is_left_still_arrives() -> None:
    def work() -> None:
        raise KeyError("x" * (25 * MEBIBYTE))

    with pytest.raises(DeliveryError, match="KeyError"):
        deliver(limits=Limits(memory="48M"))(work)()


def test_tighter_of_two_memory_limits_is_named() -> None:
    assert deliver(limits=Limits(memory="64M", data="900M"))(allocate_too_much).run().limit == "memory"
    assert deliver(limits=Limits(memory="900M", data="64M"))(allocate_too_much).run().limit == "data"
    assert deliver(limits=Limits(memory="64M", address_space="2G"))(allocate_too_much).run().limit == "memory"
    assert deliver(limits=Limits(memory="2G", address_space="256M"))(allocate_too_much).run().limit == "address_space"


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EFBIG, errno.EAGAIN])
def test_error_that_the_function_made_itself_is_no_limit(number: int) -> None:
    def work() -> None:
        raise OSError(number, "mine")

    limits = Limits(memory="1G", open_files=100, file_size="1M", processes=10)
    receipt = deliver(limits=limits)(work).run()
    assert receipt.verdict is Verdict.RAISED and receipt.exception.errno == number  # type: ignore[union-attr]


def test_mapped_memfd_counts_once_and_its_private_copies_besides() -> None:
    def work(private: bool) -> None:
        memfd = os.memfd_create("deliveryboy ")  # the name of the call's own input gains nothing
        os.truncate(memfd, 60 * MEBIBYTE)
        for flags in [mmap.MAP_SHARED, mmap.MAP_PRIVATE][: 1 + private]:
            kept = mmap.mmap(memfd, 60 * MEBIBYTE, flags)
            for page in range(0, len(kept), 4096):
                kept[page] = 1
        time.sleep(5 if private else 0.5)

    far = deliver(limits=Limits(memory="100M"), input=bytes(50 * MEBIBYTE), output="capture")(work)
    shared = far.run(False)
    assert shared.ok and 55 * MEBIBYTE < shared.usage.peak < 75 * MEBIBYTE
    assert far.run(True).verdict is Verdict.MEMORY_LIMIT


def test_function_may_lower_its_own_limits_and_still_fails_by_itself() -> None:
    def work(threads: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (300 * MEBIBYTE, 300 * MEBIBYTE))
        for _ in range(threads):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        raise ValueError("mine")

    rlimits = {resource.RLIMIT_DATA: (200 * MEBIBYTE, 200 * MEBIBYTE)}
    assert isinstance(deliver(limits=Limits(memory="800M"))(work).run(3).exception, ValueError)
    assert isinstance(deliver(limits=Limits(memory="800M", rlimits=rlimits))(own_value_error).run().exception, ValueError)


def own_value_error() -> None:
    raise ValueError("mine")


def read_nothing() -> None:
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(100)
    end, _ = os.pipe()
    os.set_blocking(end, False)
    os.read(end, 1)


def open_beyond_its_own_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
    while True:
        os.dup(0)


def write_beyond_its_own_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    os.ftruncate(os.memfd_create("mine"), 11)


def map_too_often() -> None:
    while True:
        # No two of them can be joined to one.
        _maps.append(mmap.mmap(-1, 4096, mmap.MAP_SHARED))


_maps: list[mmap.mmap] = []


@pytest.mark.parametrize(
    "function, number",
    [
        (read_nothing, errno.EAGAIN),
        (open_beyond_its_own_limit, errno.EMFILE),
        (write_beyond_its_own_limit, errno.EFBIG),
        (map_too_often, errno.ENOMEM),
    ],
)
def test_what_the_kernel_refuses_for_another_reason_is_no_limit_of_ours(function: Any, number: int) -> None:
    receipt = deliver(limits=Limits(memory="2G", processes=6, open_files=200, file_size="1M"))(function).run()
    assert receipt.verdict is Verdict.RAISED and getattr(receipt.exception, "errno", 0) == number


def test_memory_that_a_foreign_limit_refused_is_not_ours() -> None:
    limited = Command(["sh", "-c", 'ulimit -v 700000; exec "$@"', "sh"])
    receipt = deliver(transport=limited, limits=Limits(memory="8G"))(lambda: len(bytearray(1 << 30))).run()
    assert receipt.verdict is Verdict.RAISED and isinstance(receipt.exception, MemoryError)


def test_ended_threads_leave_the_memory_limit_where_it_was() -> None:
    def work() -> int:
        for thread in [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(8)]:
            thread.start()
        threading.Thread(target=time.sleep, args=(0,)).start()
        return len(bytearray(30 * MEBIBYTE))

    assert deliver(limits=Limits(memory="60M"))(work)() == 30 * MEBIBYTE


def test_time_of_a_child_reaped_while_it_is_looked_at_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from deliveryboy_ng.worker import processes, watch

    program = (
        "import os, time\n"
        "end = os.pipe(); told = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    while time.process_time() < 0.5: pass\n"
        "    os.write(1, b'x'); os.read(0, 1); os._exit(0)\n"
        "os.wait(); os.write(1, b'x'); time.sleep(20)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdout.read(1)
        watched = watch.Watch({"cpu": 0.8}, 0, (0, 0), 0, time.monotonic())
        watched.look([parent.pid], 0.0, float("inf"))
        children = processes.children

        def ends_just_now(pid: int, threads: int = 1) -> list[int]:
            found = children(pid, threads)
            if pid == parent.pid and found:
                parent.stdin.write(b"x")  # type: ignore[union-attr]
                parent.stdin.flush()  # type: ignore[union-attr]
                parent.stdout.read(1)  # type: ignore[union-attr]
            return found

        monkeypatch.setattr(processes, "children", ends_just_now)
        for _ in range(4):
            watched.look([parent.pid], 0.0, float("inf"))
        parent.kill()
    assert not watched.exceeded


def fill_descriptors() -> None:
    global _kept
    _kept = []
    while True:
        _kept.append(open("/dev/null"))


def test_function_that_holds_all_its_descriptors_can_still_answer() -> None:
    def raises_its_own() -> None:
        try:
            fill_descriptors()
        except OSError:
            raise ValueError("mine") from None

    for number in (4, 20, 64):
        few = deliver(limits=Limits(open_files=number))
        assert few(fill_descriptors).run().verdict is Verdict.OPEN_FILES_LIMIT
    with pytest.raises(ValueError, match="mine"):
        deliver(limits=Limits(open_files=20))(raises_its_own)()


def test_memory_that_a_pool_worker_was_refused_is_the_limits() -> None:
    def pool(own: bool) -> Any:
        import multiprocessing

        with multiprocessing.Pool(1) as workers:
            return workers.map(refuse if own else bytearray, [500 * MEBIBYTE])

    far = deliver(limits=Limits(memory="256M"), timeout=20)(pool)
    assert far.run(False).verdict is Verdict.MEMORY_LIMIT
    assert far.run(True).verdict is Verdict.RAISED and str(far.run(True).exception) == "mine"


def test_answer_that_cannot_be_packed_for_want_of_memory_says_so() -> None:
    with pytest.raises(MemoryLimitExceeded, match="while the answer was packed"):
        deliver(limits=Limits(memory="256M"))(lambda: "x" * 200 * MEBIBYTE)()


def test_idle_threads_are_not_taken_for_memory() -> None:
    def work() -> int:
        for _ in range(60):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        return threading.active_count()

    assert deliver(limits=Limits(memory="128M"))(work)() == 61


def test_threads_beyond_data_and_beyond_their_number_are_told_apart() -> None:
    def work() -> None:
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        time.sleep(1000)

    for name, limits in {"data": Limits(data="90M", processes=1000), "processes": Limits(memory="900M", processes=20)}.items():
        receipt = deliver(limits=limits)(work).run()
        assert receipt.limit == name, receipt


def test_threads_refused_for_their_number_are_not_taken_for_memory() -> None:
    """Under memory, each thread's stack moves the limit along; what is left has to be told from where it is now."""
    receipt = deliver(transport=conftest.need_sudo(), limits=Limits(memory="128M", processes=60), timeout=20)(start_threads).run()
    assert (receipt.verdict, receipt.limit) == (Verdict.PROCESS_LIMIT, "processes"), receipt.exception


@pytest.mark.parametrize("name", ["local", "unshare"])
def test_what_the_call_brings_along_is_not_charged(request: pytest.FixtureRequest, name: str) -> None:
    def work(data: bytes) -> int:
        kept = bytearray(b"x") * (40 * MEBIBYTE)
        time.sleep(0.3)
        return len(data) + len(kept) + sum(map(len, iter(lambda: os.read(0, MEBIBYTE), b"")))

    far = deliver(transport=conftest.CHAINS[name](request), limits=Limits(memory="64M"), input=bytes(80 * MEBIBYTE))
    assert far(work)(bytes(150 * MEBIBYTE)) == 270 * MEBIBYTE
    receipt = far(lambda data: grow()).run(bytes(150 * MEBIBYTE))
    assert (receipt.verdict, receipt.limit) == (Verdict.MEMORY_LIMIT, "memory")


def test_box_too_large_for_a_confined_call_says_which_limit() -> None:
    conftest.need_unshare()
    work = deliver(transport=Unshare(), limits=Limits(address_space="256M"))(len)
    with pytest.raises(MemoryLimitExceeded, match='address_space="256M".*has not run'):
        work([None] * (40 * MEBIBYTE))


def test_time_of_children_that_nobody_waits_for_counts() -> None:
    def work() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for _ in range(20):
            if os.fork() == 0:
                while time.process_time() < 0.25:
                    pass
                os._exit(0)
            time.sleep(0.4)

    receipt = deliver(limits=Limits(cpu=1), timeout=20)(work).run()
    assert receipt.verdict is Verdict.CPU_LIMIT and receipt.usage.wall < 6


def test_memfd_behind_many_descriptors_is_found_and_the_clock_goes_on() -> None:
    def work() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (10000, 10000))
        for _ in range(9000):
            os.open("/dev/null", os.O_RDONLY)
        fill_memfd()

    if os.getuid() != 0:
        conftest.missing("raising the hard limit on open files needs root")
    receipt = deliver(limits=Limits(memory="64M"), timeout=20)(work).run()
    assert (receipt.verdict, receipt.limit) == (Verdict.MEMORY_LIMIT, "memory") and receipt.usage.wall < 15


def test_memory_of_a_process_whose_main_thread_has_ended_counts() -> None:
    def work() -> None:
        def hoard() -> None:
            kept = mmap.mmap(-1, 200 * MEBIBYTE)
            for page in range(0, len(kept), 4096):
                kept[page] = 1
            time.sleep(1000)

        if os.fork() == 0:
            threading.Thread(target=hoard).start()
            import ctypes

            ctypes.CDLL(None).pthread_exit(None)
        time.sleep(1000)

    receipt = deliver(limits=Limits(memory="64M"), timeout=20)(work).run()
    assert (receipt.verdict, receipt.limit) == (Verdict.MEMORY_LIMIT, "memory")


def test_grace_period_holds_for_processor_time_too() -> None:
    def work() -> None:
        def handler(number: int, frame: object) -> None:
            while time.process_time() < 1:
                pass
            raise KeyError("cleaned up")

        signal.signal(signal.SIGXCPU, handler)
        spin()

    with pytest.raises(CpuLimitExceeded, match="processor time together;") as caught:
        deliver(limits=Limits(cpu=0.2), grace=100)(work)()
    assert isinstance(caught.value.__cause__, KeyError)


def test_memory_is_held_while_a_call_may_end_by_itself_for_its_processor_time() -> None:
    def work() -> None:
        signal.signal(signal.SIGXCPU, lambda number, frame: None)
        while time.process_time() < 0.3:
            pass
        for _ in range(4):
            if os.fork() == 0:
                kept = bytearray(b"x") * (40 * MEBIBYTE)
                time.sleep(100 * len(kept))
        while True:
            signal.pause()

    receipt = deliver(limits=Limits(cpu=0.1, memory="80M"), grace=90, timeout=100)(work).run()
    assert receipt.verdict is Verdict.CPU_LIMIT and receipt.duration < 60


def test_processes_that_have_ended_are_none_to_be_counted() -> None:
    from deliveryboy_ng.worker import watch

    program = "import os, time\nfor _ in range(20):\n    if os.fork() == 0: os._exit(0)\nprint(flush=True); time.sleep(100)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline()
        assert conftest.wait_until(lambda: sum(stat.ended for stat in processes.tree([parent.pid]).values()) == 20)
        watched = watch.Watch({"processes": 5}, 0, (0, 0), 0, time.monotonic())
        watched.look([parent.pid], 0.0, float("inf"))
        parent.kill()
    assert not watched.exceeded and watched.tasks == 1


def test_an_answer_that_is_only_announced_is_not_waited_for_behind_other_output() -> None:
    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(3, b"R" + (60 << 20).to_bytes(8, "big"))
        while True:
            os.write(1, b"x" * 65536)

    slow = deliver(timeout=1, grace=0.5, output=lambda stream, data: time.sleep(0.002))
    assert slow(work).run().verdict is Verdict.TIMEOUT


def test_signal_of_its_own_just_before_the_limit_is_not_the_limit() -> None:
    def work() -> None:
        while time.process_time() < 0.97:
            pass
        os.kill(os.getpid(), signal.SIGXCPU)

    assert deliver(limits=Limits(cpu=1.0))(work).run().verdict is Verdict.SIGNALED


def test_few_open_files_do_not_hinder_other_limits() -> None:
    assert deliver(limits=Limits(open_files=5, memory="64M", processes=9, cpu=9))(returns)() == 1


def test_a_receipt_is_shown_in_so_many_characters() -> None:
    """One large object may be there many times, which is little on its way."""
    block = b"x" * (1 << 20)
    plain = {"a": [1, 2], "b": (b"y" * 300, {"c"})}
    for value in (
        [block] * 300,
        {"key": [[block] * 100] * 100},
        "z" * (1 << 22),
        ValueError(block),
        {n: n for n in range(100_000)},
    ):
        receipt = dataclasses.replace(deliver(len).run(""), value=value)
        assert len(repr(receipt)) < 20_000 and len(json.dumps(receipt.to_dict())) < 20_000
        assert len(receipt._repr_html_()) < 5000
    assert f"value={plain!r}" in repr(dataclasses.replace(deliver(len).run(""), value=plain))


# --- the supervisor as a target -------------------------------------------------------------------------------------


def kill_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def stop_parent() -> None:
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)


@pytest.mark.parametrize("attack", [kill_parent, stop_parent])
def test_trusted_call_that_attacks_its_supervisor_is_lost_and_never_hangs(attack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_STALLED", 0.5)
    started = time.monotonic()
    receipt = deliver(timeout=0.5, grace=0.1)(attack).run()
    assert receipt.verdict is Verdict.LOST and isinstance(receipt.exception, ConnectionLost)
    assert "processes may remain" in str(receipt.exception) and time.monotonic() - started < 12 and not receipt.clean


@pytest.mark.parametrize("attack", [kill_parent, stop_parent])
@pytest.mark.parametrize("name", ["unshare", "sudo", "unshare-pid", "bwrap", "ssh-sudo-unshare"])
def test_confined_call_cannot_harm_its_supervisor(request: pytest.FixtureRequest, name: str, attack: Any) -> None:
    """By Landlock its signals stay inside; as pid 1 of its namespace the supervisor would ignore them anyhow."""
    receipt = deliver(transport=conftest.CHAINS[name](request), timeout=0.4, grace=0.1)(attack).run()
    assert "signals stay inside" in receipt.applied and receipt.clean
    assert receipt.verdict is Verdict.RAISED and isinstance(receipt.exception, PermissionError)


def test_supervisor_cannot_be_read_by_a_call_of_the_same_user() -> None:
    def look() -> list[str]:
        parent = os.getppid()
        seen = []
        for name in ("mem", "environ", "fd", "maps"):
            try:
                path = f"/proc/{parent}/{name}"
                seen.append(str(os.listdir(path) if name == "fd" else open(path, "rb").read(1)))
            except OSError as error:
                seen.append(errno.errorcode[error.errno])
        return seen

    assert set(deliver(transport=conftest.need_sudo())(look)()) <= {"EACCES", "EPERM"}


# --- what the receipt says ------------------------------------------------------------------------------------------


def test_usage_counts_all_processes_of_the_call() -> None:
    def work() -> None:
        def burn(seconds: float) -> None:
            while time.process_time() < seconds:
                pass

        pid = os.fork()
        if pid == 0:
            if os.fork() == 0:
                os.setsid()
                burn(0.2)  # an orphan
                os._exit(0)
            os._exit(0)
        os.waitpid(pid, 0)
        if (pid := os.fork()) == 0:
            burn(0.2)
            os._exit(0)
        os.waitpid(pid, 0)
        time.sleep(0.3)

    usage = deliver(work).run().usage
    assert 0.35 < usage.user + usage.system < 1 and usage.tasks >= 2 and usage.wall >= 0.5


def test_memory_is_reported_less_what_the_interpreter_has_itself() -> None:
    def work(size: int) -> int:
        kept = bytearray(b"x") * size
        time.sleep(0.3)
        return len(kept)

    little, much = (deliver(work).run(size).usage for size in (1, 50 * MEBIBYTE))
    assert little.max_rss < 5 * MEBIBYTE and little.peak < 5 * MEBIBYTE
    assert 45 * MEBIBYTE < much.max_rss < 60 * MEBIBYTE and 45 * MEBIBYTE < much.peak < 60 * MEBIBYTE


def test_shared_pages_of_children_count_once() -> None:
    def work(seconds: float) -> int:
        kept = bytearray(b"x") * (40 * MEBIBYTE)
        for _ in range(4):
            if os.fork() == 0:
                time.sleep(1000)
        time.sleep(seconds)
        return len(kept)

    limited = deliver(limits=Limits(memory="100M"))(work).run(1.5)
    assert limited.ok and 35 * MEBIBYTE < limited.usage.peak < 60 * MEBIBYTE
    # Without limits it is looked at now and then.
    free = deliver(work).run(5)
    assert free.ok and 35 * MEBIBYTE < free.usage.peak < 60 * MEBIBYTE and free.usage.tasks == 5


def test_receipt_is_a_plain_record() -> None:
    receipt = deliver(timeout=9, limits=Limits(memory="1G", cpu=3))(lambda: {"<b>": 1}).run()
    record = json.loads(json.dumps(receipt.to_dict()))
    assert record["ok"] and record["limit"] is None and record["usage"]["sent"] > 100 and record["usage"]["received"] > 0
    assert record["applied"] == ["timeout=9", "cpu=3", "memory=1073741824"]
    assert pickle.loads(pickle.dumps(receipt)) == receipt
    html = receipt._repr_html_()
    assert html.startswith("<table>") and "&lt;b&gt;" in html and "RETURNED" in html and "memory=1073741824" in html


def test_html_of_a_failed_call_says_why() -> None:
    html = deliver(**SMALL)(allocate_too_much).run()._repr_html_()
    assert "MEMORY_LIMIT (memory)" in html and "MemoryLimitExceeded" in html


def test_whoever_starts_while_others_are_cleared_up_is_not_taken_for_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import subprocess\n"
        "left = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(left.pid, flush=True)\n"
        "script = 'echo $$; while read line; do sleep 1000 & echo $!; done'\n"
        "subprocess.Popen(['sh', '-c', script]).wait()\n"
    )
    listdir = os.listdir
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        left, innocent = int(parent.stdout.readline()), int(parent.stdout.readline())
        started: list[int] = []

        def one_starts_meanwhile(path: str) -> list[str]:
            found = listdir(path)
            if path == "/proc":
                parent.stdin.write(b"\n")  # type: ignore[union-attr]
                parent.stdin.flush()  # type: ignore[union-attr]
                started.append(int(parent.stdout.readline()))  # type: ignore[union-attr]
            return found

        monkeypatch.setattr(processes.posix, "listdir", one_starts_meanwhile)
        assert processes.kill_found(parent.pid, frozenset({innocent})) == (True, True)
        assert conftest.wait_until(lambda: not conftest.is_alive(left))
        alive = list(map(conftest.is_alive, [innocent, *started]))
        for pid in started:
            conftest.kill(pid)
        assert alive == [True, True], "one look is enough, and spares what came after it"


def test_calls_leave_a_trail_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(abs).run(-1)
    assert not caplog.records
    caplog.set_level(logging.INFO, "deliveryboy_ng")
    deliver(abs).run(-1)
    deliver(output="discard")(int).run("x")
    with DeliveryExecutor(1) as executor:
        delivery = executor.submit(abs, -1)
    pid = deliver(asynchronous=True, timeout=30)(abs)(-1)
    told = [record.getMessage() for record in caplog.records]
    assert [re.sub(r"on .*, process \d+|process \d+$|[0-9.]+ s$", "...", each) for each in told] == [
        "abs through local ...: RETURNED, ...",
        "int through local ...: RAISED, ...",
        "abs through local ...: RETURNED, ...",
        "abs through local, detached: ...",
    ]
    handler = logging.Handler()
    handler.emit = lambda record: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    monkeypatch.setattr(logging.getLogger("deliveryboy_ng"), "handlers", [handler])
    assert deliver(abs)(-1) == 1
    assert caplog.records[2].receipt is delivery.receipt() and str(pid) in told[3]  # type: ignore[attr-defined]
