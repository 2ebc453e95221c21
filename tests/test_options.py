"""Options and arguments: what is refused here before anything runs, and what is taken."""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import itertools
import os
import pickle
import resource
import sys
import time
from typing import Any

import pytest

from deliveryboy_ng import (
    DeliveryBoy,
    DeliveryBoyDecorator,
    DeliveryExecutor,
    DeliveryOptionError,
    Limits,
    Local,
    Options,
    Ssh,
    Transport,
    Verdict,
    deliver,
)
from deliveryboy_ng.core import _check_arguments


@deliver
def add(a: int, b: int = 2, *, c: int = 3) -> int:
    return a + b + c


def test_kinds_of_text_in_options_arrive_as_text() -> None:
    word = enum.StrEnum("Word", {"CUT": "cut", "CAPTURE": "capture", "MUCH": "1G"})  # type: ignore[misc]
    limits = Limits(memory=word.MUCH)  # type: ignore[attr-defined]
    options = deliver(overflow=word.CUT, output=word.CAPTURE, limits=limits)(add.local).options  # type: ignore[attr-defined]
    assert {type(text) for text in (options.overflow, options.output, options.limits.memory)} == {str}


def test_with_options_makes_a_new_runner() -> None:
    quick = add.with_options(timeout=5)
    assert quick is not add and quick.options.timeout == 5 and add.options.timeout is None
    assert quick(1) == 6
    with pytest.raises(AttributeError):
        quick.options.timeout = 6  # type: ignore[misc]


def test_refusals_show_nobody_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (deliver, Options):
        with pytest.raises(DeliveryOptionError, match="No closing quotation") as caught:
            make(transport="sudo 'x", env={"TOKEN": "secret"})  # type: ignore[operator]
        assert "secret" not in str(caught.value)

    def fails(options: Options) -> None:
        raise ValueError("as nobody has thought of")

    monkeypatch.setattr(Options, "__post_init__", fails)
    with pytest.raises(DeliveryOptionError, match="options env make no sense") as caught:
        deliver(env={"TOKEN": "secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "given, hint",
    [
        ({"time_out": 3}, "timeout"),
        ({"transprot": "sudo"}, "transport"),
        ({"zzz": 1}, "the options are"),
        ({"memory": "5M"}, r"limits=Limits\(memory="),
    ],
)
def test_unknown_option_is_refused_with_a_suggestion(given: dict[str, Any], hint: str) -> None:
    for make in (
        lambda: deliver(**given),
        lambda: DeliveryBoyDecorator(**given),
        lambda: DeliveryBoy(len, **given),
        lambda: add.with_options(**given),
    ):
        with pytest.raises(DeliveryOptionError, match=hint):
            make()


def test_a_transport_that_is_no_keyword_is_told_how_to_be_given() -> None:
    with pytest.raises(DeliveryOptionError, match=r"not Local\(.*transport="):
        deliver(Local())  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "given, hint",
    [
        ({"output": "capture", "timeout": 1}, r"add\.with_options\(output=\.\.\., timeout=\.\.\.\)\.{way}\("),
        ({"max_worker": 1}, "unknown option 'max_worker'; did you mean 'max_workers'"),
        ({"timeuot": 1}, "unknown option 'timeuot'; did you mean 'timeout'"),
    ],
)
@pytest.mark.parametrize("way", ["map", "amap"])
def test_options_of_calls_are_not_those_of_a_map(way: str, given: dict[str, Any], hint: str) -> None:
    with pytest.raises(DeliveryOptionError, match=hint.replace("{way}", way)):
        getattr(add, way)([1], **given)


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": -1},
        {"timeout": "3"},
        {"timeout": True},
        {"input": "text"},
        {"env": {"A=B": "1"}},
        {"env": {"A": 1}},
        {"output": "nowhere"},
        {"max_output": "many"},
        {"limits": {"cpu": 1}},
        {"modules": "numpy"},
        {"transport": 3},
        {"transport": []},
        {"transport": ""},
        {"transport_params": ["-u"], "transport": Local()},
        {"executable": ""},
        {"umask": 0o7777},
        {"asynchronous": "yes"},
        {"umask": True},
        {"connect_timeout": 0},
        {"modules": ["os.path"]},
        {"cwd": 3},
        {"cwd": "/a\0b"},
        {"cwd": "/\ud800"},
        {"env": {"A": "\ud800"}},
        {"timeout": 1e12},
        {"timeout": float("nan")},
        {"transport": "env", "transport_params": "-u HOME"},
        {"transport": "env", "transport_params": 3},
        {"async": True, "asynchronous": False},
        {"cwd": "~/data"},
        {"trust": 0.0},
        {"asynchronous": True, "output": print},
        {"asynchronous": True, "overflow": "kill", "max_output": 10},
    ],
)
def test_nonsense_is_refused_before_anything_runs(given: dict[str, Any]) -> None:
    with pytest.raises(DeliveryOptionError):
        deliver(**given)


def test_a_right_call_is_known_by_the_functions_own_code() -> None:
    """Not by what it wraps, by what somebody says of its parameters, or by what it took before."""

    def plus(a: int, b: int) -> int:
        return a + b

    @functools.wraps(plus)
    def plus_one(a: int) -> int:
        return plus(a, 1)

    assert deliver(plus_one)(2) == 3  # type: ignore[call-arg]
    claiming = lambda a: a
    claiming.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    assert deliver(functools.partial(claiming))(5) == 5
    changed = deliver(plus)
    with pytest.raises(TypeError, match=r"plus\(\): missing a required argument: 'b'"):
        changed(2)  # type: ignore[call-arg]
    plus.__defaults__ = (4,)
    assert changed(2) == 6  # type: ignore[call-arg]


@pytest.mark.parametrize("parameters", ["", "a", "a=1", "a, /, b=2", "*a", "**k", "a, *b, c", "a=1, *, c, d=2", "a, /, **k"])
def test_wrong_calls_are_refused_and_no_others(parameters: str) -> None:
    function = eval(f"lambda {parameters}: None")
    for number, names in itertools.product(range(3), ["", "a", "b", "c", "ab", "cd", "x"]):
        outcomes = []
        for call in (function, lambda *args, **kwargs: _check_arguments(function, args, kwargs)):
            try:
                outcomes.append(call(*range(number), **dict.fromkeys(names, 1)))
            except TypeError:
                outcomes.append(TypeError)
        assert outcomes[0] == outcomes[1], (number, names)


def test_wrong_arguments_are_a_type_error_here() -> None:
    with pytest.raises(TypeError, match="add"):
        add()  # type: ignore[call-arg]
    with pytest.raises(DeliveryOptionError):
        deliver(3)  # type: ignore[call-overload]


def test_what_options_say_of_the_environment_is_not_changed_in_place() -> None:
    boy = DeliveryBoy(add.local, env={"A": "1"})
    for env in (boy.env, deliver(add.local).options.env):
        with pytest.raises(TypeError):
            env["A"] = "2"
    options = deliver(env={"A": "1"})(add.local).options
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options


class Mode(enum.StrEnum):
    FAST = "fast"


class Size(enum.IntEnum):
    MUCH = 1 << 30


class Text(str):
    __slots__ = ()


class Small(int):
    __slots__ = ()


class Seconds(float):
    __slots__ = ()


@pytest.mark.parametrize(
    "options",
    [
        {"env": {Text("MODE"): Mode.FAST}},
        {"timeout": Seconds(20), "grace": Seconds(1), "connect_timeout": Seconds(9)},
        {"timeout": Small(20), "max_output": Size.MUCH, "max_reply": Size.MUCH},
        {"cwd": Text("/")},
        {"limits": Limits(memory=Size.MUCH, cpu=Seconds(20), open_files=Small(100), core=Size.MUCH)},
        {
            "limits": Limits(
                rlimits={resource.RLIMIT_CORE: (Size.MUCH, Size.MUCH)}, cpu_affinity=[Small(min(os.sched_getaffinity(0)))]
            )
        },
    ],
    ids=lambda options: ", ".join(options),
)
def test_options_may_be_of_kinds_of_their_own(options: dict[str, Any]) -> None:
    assert deliver(**options)(lambda: os.environ.get("MODE", "none"))() in ("fast", "none")
    with DeliveryExecutor(1, **options) as executor:
        assert [executor.submit(abs, -n).result(20) for n in range(2)] == [0, 1]


@pytest.mark.parametrize(
    "keywords",
    [{"open_files": 2**70}, {"cpu": -1}, {"data": "9e99T"}, {"stack": 1.5}, {"rlimits": {999: (1, 1)}}, {"rlimits": {1: 5}}],
)
def test_limits_refuse_nonsense(keywords: dict[str, Any]) -> None:
    with pytest.raises(DeliveryOptionError):
        Limits(**keywords)


@pytest.mark.parametrize("timeout", [0, 0.0001, 0.001, 0.002])
def test_shortest_timeouts_are_timeouts(timeout: float) -> None:
    def work() -> None:
        time.sleep(1000)

    for _ in range(20):
        assert deliver(timeout=timeout)(work).run().verdict is Verdict.TIMEOUT


def test_far_timeouts_are_no_overflow() -> None:
    assert deliver(timeout=10**9, connect_timeout=10**9)(lambda: 1)() == 1


def test_input_of_wider_items_arrives() -> None:
    import array

    numbers = array.array("i", range(1000))
    assert deliver(input=memoryview(numbers))(lambda: len(sys.stdin.buffer.read()))() == 4000


def test_options_that_are_none_are_the_defaults() -> None:
    assert deliver(limits=None, env=None, input=None, modules=None)(add.local)(1) == 6


def test_unknown_limit_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeliveryOptionError, match="Limits has no memroy; did you mean memory"):
        Limits(memroy="5M")  # type: ignore[call-arg]


def test_unknown_option_of_a_transport_is_refused_with_a_suggestion() -> None:
    with pytest.raises(DeliveryOptionError, match="Ssh has no prot; did you mean port"):
        Ssh("host", prot=22)  # type: ignore[call-arg]

    class Own(Transport):
        def __init__(self, *, anything: int) -> None:
            self.anything = anything

    assert Own(anything=1).anything == 1
