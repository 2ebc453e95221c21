"""What a call brings along, in every size and by every way it takes from the wire to the call, and where it lies meanwhile."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import Command, DeliveryError, DeliveryExecutor, Limits, Verdict, deliver

MEBIBYTE = 1 << 20
# What no frame, no socket's buffer and no pipe takes whole, and what each of them does.
SIZES = [0, 1, 30_000, 40_000, 300_000, 5 * MEBIBYTE]


def echo(data: Any, *more: Any) -> Any:
    return len(sys.stdin.buffer.read()), data, len(more)


def structured(size: int) -> list[Any]:
    """A body without a single large object."""
    return [os.urandom(500) for _ in range(size // 500)]


WAYS: dict[str, dict[str, Any]] = {
    "socket": {},
    "text": {"transport": ["env"], "trust": True},
    "data": {"trust": False},
    "limited": {"limits": Limits(memory="1G", processes=50)},
}


@pytest.mark.parametrize("warm", [False, True, "template"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_comes_arrives(way: str, warm: Any) -> None:
    values = [kind(size) for size in SIZES for kind in (bytes, structured)]
    options = {"max_reply": "1G", **WAYS[way]}
    if not warm:
        for value in values:
            for given in (b"", bytes(200_000)):
                assert deliver(input=given, **options)(echo)(value, 1) == (len(given), value, 1)
        return
    with DeliveryExecutor(2, preload=["json"] if warm == "template" else [], **options) as executor:
        found = [executor.submit(echo, value, 1) for _ in range(2) for value in values]
        assert [each.result(60) for each in found] == [(0, value, 1) for _ in range(2) for value in values]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package too large for the socket's own way."""
    (tmp_path / "large_package").mkdir()
    (tmp_path / "large_package" / "__init__.py").write_text("".join(f"def f{n}(x):\n    return x + {n}\n\n" for n in range(1000)))
    monkeypatch.syspath_prepend(tmp_path)
    yield "large_package"
    sys.modules.pop("large_package", None)


@pytest.mark.parametrize("way", WAYS)
def test_modules_input_and_large_arguments_come_together(way: str, package: str) -> None:
    def work(data: bytes, parts: list[bytes]) -> tuple[int, int, int, int]:
        import large_package  # type: ignore[import-not-found]

        return large_package.f999(1), len(data), sum(map(len, parts)), len(sys.stdin.buffer.read())

    data, parts, given = bytes(2 * MEBIBYTE), structured(MEBIBYTE), bytes(3 * MEBIBYTE)
    expected = (1000, len(data), sum(map(len, parts)), len(given))
    options = {"modules": [package], **WAYS[way]}
    assert deliver(input=given, **options)(work)(data, parts) == expected
    for template in ([], ["json"]):
        with DeliveryExecutor(1, input=given, preload=template, **options) as executor:
            assert [executor.submit(work, data, parts).result(60) for _ in range(3)] == [expected] * 3


def memory_of_parent(field: str) -> int:
    with open(f"/proc/{os.getppid()}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024


def test_the_supervisor_holds_nothing_of_what_comes() -> None:
    def work(*args: Any) -> tuple[int, int]:
        return len(sys.stdin.buffer.read()), memory_of_parent("VmHWM:")

    text = deliver(transport=["env"], trust=True)(work)
    _, before = text()
    size, after = text.with_options(input=bytes(60 * MEBIBYTE))(bytes(60 * MEBIBYTE), structured(20 * MEBIBYTE))
    assert size == 60 * MEBIBYTE and after - before < 8 * MEBIBYTE


def test_a_session_keeps_no_file_of_its_calls() -> None:
    def files() -> int:
        return len(os.listdir(f"/proc/{os.getppid()}/fd"))

    with DeliveryExecutor(1, transport=["env"], trust=True, input=bytes(100_000)) as executor:
        counts = [executor.submit(lambda data: files(), bytes(100_000)).result(30) for _ in range(40)]
        # One that waits for its call, and one that is ending, may be among them or not.
        assert max(counts[20:]) <= min(counts[:20]) + 12, counts


def test_a_call_has_no_descriptors_but_its_own() -> None:
    def files(*args: Any) -> list[str]:
        return sorted(os.listdir("/proc/self/fd"), key=int)

    with DeliveryExecutor(1, input=b"x") as executor:
        for function in (deliver(files), deliver(input=b"x")(files), lambda *args: executor.submit(files, *args).result(30)):
            for args in ((), (bytes(MEBIBYTE),), (structured(MEBIBYTE),)):
                # The last is the folder's own.
                assert function(*args) == ["0", "1", "2", "3", "4"], args


def test_a_detached_call_gets_all_of_it(tmp_path: Path) -> None:
    def work(path: str, data: bytes) -> None:
        Path(path).write_text(f"{len(data)} {len(sys.stdin.buffer.read())} {os.readlink('/proc/self/fd/1')}")

    target = tmp_path / "done"
    deliver(asynchronous=True, input=bytes(MEBIBYTE))(work)(str(target), bytes(2 * MEBIBYTE))
    assert conftest.wait_until(lambda: target.exists() and target.read_text() == f"{2 * MEBIBYTE} {MEBIBYTE} /dev/null")


def test_pickles_of_python_2_are_read_and_written_as_anywhere() -> None:
    """The worker's own pickle goes without the names that Python 2 had, until somebody wants them."""

    def work(data: bytes) -> tuple[bool, Any, bytes]:
        early = "_compat_pickle" in sys.modules
        import pickle

        return early, pickle.loads(data), pickle.dumps(range(3), 2)

    assert deliver(work)(b"c__builtin__\nxrange\n(I3\ntR.") == (False, range(3), pickle.dumps(range(3), 2))
    assert deliver(work)(b"cStringIO\nStringIO\n(tR.")[1].getvalue() == ""


def test_a_large_answer_of_protocol_0_is_read() -> None:
    class Old:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def __reduce__(self) -> Any:
            return pickle.loads, (pickle.dumps(self.data.decode(), 0),)

    def work() -> Any:
        return [Old(b"a\nb" * 700_000)] * 2

    assert deliver(transport=["env"], trust=True, max_reply="1G")(work)() == ["a\nb" * 700_000] * 2


def test_timeouts_before_the_call_is_ready() -> None:
    def work(data: Any) -> None:
        while True:
            pass

    for options in WAYS.values():
        for timeout in (0, 0.001, 0.003):
            receipt = deliver(timeout=timeout, grace=0, **options)(work).run(structured(MEBIBYTE))
            assert receipt.verdict is Verdict.TIMEOUT and receipt.clean, receipt


@pytest.mark.parametrize("how", [lambda delivery: delivery.cancel(), lambda delivery: delivery.kill()], ids=["cancel", "kill"])
def test_calls_that_are_cancelled_while_they_come_leave_nothing(how: Callable[[Any], object]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for options in WAYS.values():
        for _ in range(3):
            delivery = deliver(**options)(echo).submit([bytes(10 * MEBIBYTE), structured(MEBIBYTE)])
            how(delivery)
            with pytest.raises(BaseException):  # noqa: B017
                delivery.result(30)
    assert conftest.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)


def test_threads_import_while_pickle_is_imported() -> None:
    """Whoever goes through the finders shall not miss one, because another thread takes one away."""

    def race() -> list[str]:
        import threading

        failed: list[str] = []
        begin = threading.Barrier(3)

        def load(names: str) -> None:
            begin.wait()
            for name in names.split():
                try:
                    __import__(name)
                except Exception as error:
                    failed.append(f"{name}: {error!r}")

        threads = [threading.Thread(target=load, args=[names]) for names in ("pickle", "html uuid textwrap", "calendar shlex")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed

    with DeliveryExecutor(2) as executor:
        assert [failed for failed in executor.map(lambda n: race(), range(200)) if failed] == []


MADE = """
class Made:
    def __new__(cls, *, value):
        made = super().__new__(cls)
        made.value = value
        return made

    def __getnewargs_ex__(self):
        return (), {"value": self.value}
"""


def test_pickle_over_there_is_all_of_it() -> None:
    def work(source: str) -> tuple[list[int], bool]:
        import _compat_pickle
        import pickle

        there: Any = sys.modules.setdefault("made_there", type(sys)("made_there"))
        exec(source, there.__dict__)
        held = [pickle.loads(pickle.dumps(there.Made(value=7), protocol)).value for protocol in range(2, 6)]
        _compat_pickle.IMPORT_MAPPING["old_json"] = "json"
        return held, pickle.loads(b"cold_json\ndumps\n.") is __import__("json").dumps

    assert deliver(work)(MADE) == ([7] * 4, True)
    with DeliveryExecutor(1, preload=["pickle"]) as executor:
        assert executor.submit(work, MADE).result() == ([7] * 4, True)


def test_a_session_without_descriptors_refuses_and_lives() -> None:
    def hold() -> int:
        import time

        time.sleep(0.3)
        return 1

    for number in range(60, 76, 2):
        few = Command(["sh", "-c", f'ulimit -n {number}; exec "$@"', "sh"])
        with DeliveryExecutor(30, transport=few, trust=True) as executor:
            receipts = [each.exception(30) for each in [executor.submit(hold) for _ in range(30)]]
            refused = [str(each) for each in receipts if each is not None]
            assert len(refused) < 30 and all("cannot start a process" in each for each in refused), refused


def test_calls_find_the_folder_that_has_this_name_now(tmp_path: Path) -> None:
    import time

    folder = tmp_path / "folder"
    with DeliveryExecutor(1, cwd=str(folder)) as executor:
        for number in range(3):
            folder.mkdir()
            (folder / str(number)).touch()
            assert executor.submit(lambda: (os.listdir("."), os.getcwd())).result() == ([str(number)], str(folder))
            # Long enough for the next to be there already.
            time.sleep(0.05)
            shutil.rmtree(folder)
        with pytest.raises(DeliveryError, match="cannot be entered"):
            executor.submit(os.getcwd).result()


def refuse_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def end_children() -> None:
    os.register_at_fork(after_in_child=lambda: os._exit(4))


def test_initializers_that_are_hard_on_children() -> None:
    with DeliveryExecutor(2, initializer=refuse_children) as executor:
        assert list(executor.map(abs, range(20))) == list(range(20))
    with DeliveryExecutor(2, initializer=end_children) as executor, pytest.raises(DeliveryError, match="ends at once"):
        executor.submit(abs, 1).result(30)
