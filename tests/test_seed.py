"""The names of deliveryboy 0.1.0 still work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deliveryboy_ng import DeliveryPackingError, DeliveryPickleError, core
from deliveryboy_ng import pickle as box_text
from deliveryboy_ng.core import DeliveryBox, DeliveryBoy, DeliveryBoyDecorator
from deliveryboy_ng.exceptions import DeliveryError, DeliveryTransportError
from deliveryboy_ng.pickle import PICKLE_END_MARKER, PICKLE_START_MARKER, ModulePickle, pickle, unpickle

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    max_leaves=10,
)


@given(values, st.binary(max_size=50), st.binary(max_size=50))
@example(None, b"=====BEGINPICKLE", b"")
@example(None, b"=====BEGINPICKLE=====", b"=====ENDPICKLE=====")
def test_pickle_and_unpickle_round_trip(value: Any, prefix: bytes, suffix: bytes) -> None:
    text = pickle(value).encode()
    assert unpickle(prefix + text + suffix)[0] == value
    found, before, after = unpickle(prefix + text + suffix, discard_excess=False)
    assert found == value
    assert (before, after) == (prefix.decode("utf-8", "backslashreplace"), suffix.decode("utf-8", "backslashreplace"))


def test_unpickle_takes_newlines_around_and_within() -> None:
    text = pickle({"a": [1, 2]})
    start, end = PICKLE_START_MARKER.decode(), PICKLE_END_MARKER.decode()
    body = text.removeprefix(start).removesuffix(end)
    folded = "\n".join(body[n : n + 20] for n in range(0, len(body), 20))
    assert unpickle(f"motd\nline two\n{start}\n{folded}\n{end}\nbye\n", discard_excess=False) == (
        {"a": [1, 2]},
        "motd\nline two\n",
        "\nbye\n",
    )


@given(st.binary(max_size=200))
def test_unpickle_of_anything_else_is_one_error(data: bytes) -> None:
    for text in (data, PICKLE_START_MARKER + data, PICKLE_START_MARKER + b"!" + data[:3] + PICKLE_END_MARKER):
        with pytest.raises(DeliveryPickleError):
            unpickle(text)


def test_every_truncation_of_a_box_is_an_error() -> None:
    text = pickle(list(range(50)))
    for size in range(len(text)):
        with pytest.raises(DeliveryPickleError):
            unpickle(text[:size])


def test_unpicklable_data_is_an_error_with_the_real_one() -> None:
    import threading

    with pytest.raises(DeliveryPickleError) as caught:
        pickle(threading.Lock())
    assert isinstance(caught.value.real_exception, TypeError)


def test_module_pickle_makes_modules_importable(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project({"boxed/__init__.py": "from . import sub\n", "boxed/sub.py": "VALUE = 5\n"})
    import boxed  # type: ignore[import-not-found]

    data = ModulePickle(modules=[boxed]).pickle()
    assert isinstance(data, bytes)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("boxed", "boxed.sub"):
        del sys.modules[name]
    ModulePickle(pickled=data).unpickle()
    import boxed.sub as again  # type: ignore[import-not-found]

    assert again.VALUE == 5 and again is not boxed.sub
    with pytest.raises(DeliveryPickleError):
        ModulePickle(pickled=b"junk").unpickle()


def test_execute_runs_a_box_here() -> None:
    def work(a: int, b: int) -> int:
        print("out")
        print("err", file=sys.stderr)
        return a + b

    inbox = DeliveryBox()
    inbox.func, inbox.args, inbox.kwargs = work, (1,), {"b": 2}
    box = core.execute(inbox)
    assert (box.return_value, box.stdout, box.stderr, box.exception) == (3, "out\n", "err\n", None)
    inbox.func = (lambda: os.getpid()).__code__
    inbox.args, inbox.kwargs, inbox.modules = (), {}, {"os"}
    assert core.execute(inbox).return_value == os.getpid()
    inbox.func = lambda: 1 / 0
    assert isinstance(core.execute(inbox).exception, ZeroDivisionError)
    inbox.func = None
    with pytest.raises(DeliveryPackingError):
        core.execute(inbox)


def test_main_reads_a_box_from_stdin_and_prints_one() -> None:
    inbox = DeliveryBox()
    inbox.func, inbox.args, inbox.kwargs = (lambda x: x * 2), (21,), {}
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", "from deliveryboy_ng.core import main; main()"]
    for text, check in (
        ("noise\n" + pickle(inbox) + "\n", lambda box: box.return_value == 42),
        ("junk", lambda box: isinstance(box.exception, DeliveryPickleError)),
    ):
        result = subprocess.run(command, input=text.encode(), capture_output=True, env=env, check=True)
        assert check(unpickle(result.stdout)[0])


def test_box_compares_and_prints() -> None:
    box = DeliveryBox()
    assert box == DeliveryBox() and "return_value" in str(box)
    box.args = (1,)
    assert box != DeliveryBox()
    assert box.modules is not DeliveryBox().modules, "boxes share nothing that changes"


def test_errors_carry_the_real_exception() -> None:
    with pytest.raises(DeliveryTransportError) as caught:
        DeliveryBoy(len, "/nonexistent/command")("x")
    assert isinstance(caught.value, DeliveryError)
    assert DeliveryError("x", real_exception=KeyError()).real_exception.__class__ is KeyError
    assert DeliveryError("x").real_exception is None


def test_decorator_keeps_its_parameters() -> None:
    decorator = DeliveryBoyDecorator(transport="env", transport_params=["-u", "X"])
    assert decorator.params == {"transport": "env", "transport_params": ["-u", "X"]}
    assert decorator(lambda: 3)() == 3
    assert box_text.__all__
