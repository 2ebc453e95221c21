"""From a function to its delivery: the decorator, the runner, and the seed's own interface."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import threading
import types
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Never, ParamSpec, TypeVar, overload

from .exceptions import DeliveryOptionError
from .options import Options
from .receipt import Receipt
from .transports import Transport, describe
from .worker import call as call_process

if TYPE_CHECKING:
    from .delivery import Delivery
    from .executor import DeliveryExecutor
    from .journey import Journey
    from .mapping import Way

__all__ = ["DeliveryBox", "DeliveryBoy", "DeliveryBoyDecorator", "Runner", "deliver", "execute", "main"]

# Seconds for which the session of asyncio's calls is kept without any.
_IDLE = 10.0
_making_executors = threading.Lock()
_OF_AMAP = ("max_workers", "ordered", "return_exceptions", "executor")


def _forget_in_child() -> None:
    """Of a lock that another thread held nobody is left to let go."""
    global _making_executors
    _making_executors = threading.Lock()


os.register_at_fork(after_in_child=_forget_in_child)

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Runner(Generic[P, R]):
    """A function that runs somewhere else when called.

    Runners share nothing that changes: one may be called from many threads at once.
    """

    def __init__(self, func: Callable[P, R], options: Options | None = None, _bound: tuple[Any, ...] = ()) -> None:
        if not callable(func) and not isinstance(func, (classmethod, staticmethod)):
            hint = "; a transport goes by name: deliver(transport=...)" if isinstance(func, Transport) else ""
            raise DeliveryOptionError(f"only what can be called can be delivered, not {func!r}{hint}")
        functools.update_wrapper(self, func, updated=())
        # What it has must not hide what a runner has.
        of_function = getattr(func, "__dict__", {})
        vars(self).update({name: value for name, value in of_function.items() if not hasattr(type(self), name)})
        vars(self).pop("_executor", None)
        self.__wrapped__ = func
        self.options = options if options is not None else Options()
        self._bound = _bound
        self._unbound: Runner[Any, Any] = self

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function over there, and wait for it; in a program of asyncio :meth:`aio` keeps its loop running meanwhile.

        :return: what it returned (or a coroutine function's coroutine did: there is nothing to ``await``); of a generator function
            an iterator over what it makes as it is made, whose end, or
            ``close()``, ends the call; with ``asynchronous=True`` the PID of the transport, or of the interpreter
        :raises BaseException: what it raised
        :raises DeliveryError: if it could not be sent, run or brought back
        """
        if self.runs_here:
            return self.local(*args, **kwargs)
        journey = self._journey(args, kwargs)
        if journey.is_stream:
            from .streaming import stream

            journey.box.freeze()
            return stream(journey)  # type: ignore[return-value]
        if self.options.asynchronous:
            return journey.leave()  # type: ignore[return-value]
        return journey.travel().unwrap()  # type: ignore[no-any-return]

    @property
    def runs_here(self) -> bool:
        """Whether this process is a call of the function: what calls itself over there runs in place."""
        return call_process.current is not None and call_process.current is self._function

    @property
    def streams(self) -> bool:
        """Whether it is a generator function, whose items come as they are made."""
        return inspect.isgeneratorfunction(self._function)

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process."""
        return self._function(*self._bound, *args, **kwargs)  # type: ignore[no-any-return]

    def run(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Call the function over there and return the :class:`Receipt`: what went wrong is data, nothing is raised.

        :raises DeliveryPackingError: if something cannot travel
        :raises DeliveryTransportError: if the call could not begin
        """
        return self._attended(args, kwargs, "capture").travel()

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Delivery[R]:
        """Start the call and return its :class:`Delivery`, a Future.

        A call that is still under way when the program ends is killed.

        :raises DeliveryPackingError: if something cannot travel
        """
        from .delivery import Delivery

        return Delivery.alone(self._attended(args, kwargs))

    def map(
        self,
        /,
        *iterables: Iterable[Any],
        max_workers: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: bool = False,
        executor: DeliveryExecutor | None = None,
        **options: Never,
    ) -> Iterator[R]:
        """Like the built-in ``map``, several calls at a time over one session, each in a process of its own.

        It takes no more from the iterables than it needs to keep the workers busy, so they may be endless.

        :param max_workers: how many calls may run at a time; the default is the number of processors here
        :param ordered: results in the order of the arguments; otherwise as they come
        :param return_exceptions: hand out what a call raised in the place of its result; otherwise it is raised, and ends all
        :param progress: show a bar of ``tqdm``: how many run, how many failed, and the most memory that one call had
        :param executor: run the calls by this one, with what its initializer has made, and leave it open
        :raises DeliveryOptionError: if both *max_workers* and *executor* are given
        """
        from . import mapping

        self._refuse_options("map", (*_OF_AMAP, "progress"), options)
        way = self._way(max_workers, ordered, return_exceptions, executor)
        return mapping.results(way, self, iterables, progress)

    def _way(self, max_workers: int | None, ordered: bool, return_exceptions: bool, executor: DeliveryExecutor | None) -> Way:
        from .executor import DeliveryExecutor
        from .mapping import Way

        self._refuse_generators()
        if executor is None:
            return Way(DeliveryExecutor.of(self.options, max_workers), True, ordered, return_exceptions)
        if max_workers is not None:
            raise DeliveryOptionError("max_workers is the executor's own: give one of the two")
        if not isinstance(executor, DeliveryExecutor):
            raise DeliveryOptionError(f"executor must be a DeliveryExecutor, not {executor!r}")
        return Way(executor, False, ordered, return_exceptions)

    async def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function over there from asyncio; cancelling the task kills the call.

        All such calls of one runner share a session, which is closed when there has been none for ten seconds; each is a process
        of its own.

        :raises BaseException: what it raised
        :raises DeliveryError: if it could not be sent, run or brought back
        """
        self._refuse_generators()
        _check_arguments(self._function, (*self._bound, *args), kwargs)
        return await self._warm().submit(self, *args, **kwargs)

    def amap(
        self,
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        max_workers: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        executor: DeliveryExecutor | None = None,
        **options: Never,
    ) -> AsyncIterator[R]:
        """:meth:`map` for asyncio: ``async for result in f.amap(xs)``; the iterables may be asynchronous ones."""
        from . import mapping

        self._refuse_options("amap", _OF_AMAP, options)
        return mapping.amap(self._way(max_workers, ordered, return_exceptions, executor), self, iterables)

    def _warm(self) -> DeliveryExecutor:
        """The executor that asyncio's calls of this runner share, with those of all that are bound from it."""
        from .executor import DeliveryExecutor

        if self._unbound is not self:
            return self._unbound._warm()
        executor = vars(self).get("_executor")
        if executor is None:
            with _making_executors:
                executor = vars(self).get("_executor")
                if executor is None:
                    workers = min(32, (os.cpu_count() or 1) + 4)
                    executor = self._executor = DeliveryExecutor.of(self.options, workers, idle_timeout=_IDLE)
        return executor

    def _refuse_generators(self) -> None:
        self._refuse_asynchronous_generators()
        if self.streams:
            raise DeliveryOptionError(f"{self!r} is a generator: call it, and iterate over what it makes as it is made")

    def _refuse_options(self, way: str, others: Iterable[str], given: Mapping[str, Any]) -> None:
        if given:
            Options.of(given, self.options, others)
            name, named = getattr(self, "__name__", "runner"), ", ".join(f"{each}=..." for each in given)
            raise DeliveryOptionError(f"{way} takes no options of calls; say {name}.with_options({named}).{way}(...)")

    def with_options(self, **options: Any) -> Runner[P, R]:
        """A runner of the same function with some options changed; this one stays as it is.

        :raises DeliveryOptionError: if an option is unknown or makes no sense
        """
        return type(self)(self.__wrapped__, Options.of(options, self.options), self._bound)

    def manifest(self, /, *args: P.args, **kwargs: P.kwargs) -> Manifest:
        """What would travel with such a call; nothing is started.

        :raises DeliveryPackingError: if something cannot travel
        """
        return Manifest(self._journey(args, kwargs).box.manifest)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Runner[P, R]: ...
    @overload
    def __get__(self: Runner[Concatenate[S, Q], R], instance: S, owner: type | None = None) -> Runner[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Builtin functions do not bind, and what is bound does not bind again; so neither do they when they are delivered.
        if instance is None or self._bound or not hasattr(type(self.__wrapped__), "__get__"):
            return self
        return self._bound_to(instance)

    def _bound_to(self, instance: Any) -> Runner[Any, Any]:
        bound: Runner[Any, Any] = Runner(self.__wrapped__, self.options, (instance,))
        bound._unbound = self
        return bound

    def __repr__(self) -> str:
        return f"<delivered {getattr(self, '__qualname__', self.__wrapped__)} via {describe(self.options.chain)}>"

    @property
    def _attributes(self) -> dict[str, Any]:
        """What it was given by name after it had been made; what the function has the function takes along itself."""
        known = {**getattr(self.__wrapped__, "__dict__", {}), "options": self.options}
        given = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {
            name: value for name, value in given.items() if (name not in known or known[name] is not value) and _can_go_along(value)
        }

    @property
    def _function(self) -> Any:
        wrapped = self.__wrapped__
        return wrapped.__func__ if isinstance(wrapped, (classmethod, staticmethod)) else wrapped

    def _attended(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: str = "live") -> Journey:
        if self.options.asynchronous:
            raise DeliveryOptionError(
                "asynchronous=True detaches a plain call; run() and submit() wait for theirs, so leave it out"
            )
        self._refuse_generators()
        return self._journey(args, kwargs, output)

    def _journey(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: str = "live") -> Journey:
        # Brings cloudpickle and subprocess with it: a program that only decorates does not pay for them.
        from .journey import Journey

        args = (*self._bound, *args)
        _check_arguments(self._function, args, kwargs)
        self._refuse_asynchronous_generators()
        if self.streams and self.options.asynchronous:
            raise DeliveryOptionError(f"{self!r} is a generator, which nobody would iterate over with asynchronous=True")
        return Journey(self._function, args, kwargs, self.options.resolved(), output, is_stream=self.streams)

    def _refuse_asynchronous_generators(self) -> None:
        if inspect.isasyncgenfunction(self._function):
            raise DeliveryOptionError(f"{self!r} is an asynchronous generator, which cannot stream; make it a plain one")

    @staticmethod
    def __deliveryboy_reduce__(runner: Runner[Any, Any]) -> tuple[Any, ...]:
        """How a delivered function that another one refers to travels: see worker/standin.py."""
        from .worker import standin

        options = runner.options
        state = (runner.__wrapped__, options.as_bytes(), runner._bound, tuple(options.accepts), runner._attributes)
        return standin.Runner, (), state

    def __reduce__(self) -> str | tuple[Any, ...]:
        module, name = str(getattr(self, "__module__", "")), str(vars(self).get("__qualname__", ""))
        found = _found(module, name)
        if found is self:
            return name
        if isinstance(found, Runner) and found.__wrapped__ is self.__wrapped__:
            return _renewed, (module, name, self.options, self._bound)
        return type(self), (self.__wrapped__, self.options, self._bound)


def _found(module: str, qualified_name: str) -> Any:
    """What stands under that name, taken out of its class without binding it."""
    found: Any = sys.modules.get(module)
    for name in qualified_name.split("."):
        found = inspect.getattr_static(found, name, None)
    return found


def _renewed(module: str, name: str, options: Options, bound: tuple[Any, ...]) -> Runner[Any, Any]:
    __import__(module)
    found: Runner[Any, Any] = _found(module, name)
    return (Runner if bound else type(found))(found.__wrapped__, options, bound)


class UnboundRunner(Runner[P, R]):
    """The runner of a classmethod or staticmethod: reached through an instance, it does not take that instance along."""

    def __get__(self, instance: Any, owner: type | None = None) -> Runner[P, R]:
        if isinstance(self.__wrapped__, staticmethod):
            return self
        return self._bound_to(owner if owner is not None else type(instance))


def runner_of(func: Any, options: Options) -> Runner[Any, Any]:
    """The kind of runner that fits a function as it stands in a module or a class body."""
    return (UnboundRunner if isinstance(func, (classmethod, staticmethod)) else Runner)(func, options)


def _can_go_along(value: Any) -> bool:
    """Whether an attribute of a runner can be packed; what cannot stays behind, since few calls ask for it."""
    import pickle

    if isinstance(value, Runner):
        return True
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


class Manifest(tuple):  # type: ignore[type-arg]
    """What would travel: :class:`~deliveryboy_ng.modules.Entry` after entry; printed, a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "no modules travel"


def _check_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise the TypeError of a wrong call here, before anything starts; what cannot be known here the call finds out."""
    reached, args, kwargs = _reached(func, args, kwargs)
    if isinstance(reached, types.FunctionType) and not _fits(reached, args, kwargs):
        # What decorators and others say of a function's parameters need not be so.
        bare = types.FunctionType(reached.__code__, {}, reached.__name__, reached.__defaults__, reached.__closure__)
        bare.__kwdefaults__ = reached.__kwdefaults__
        _bind(func, inspect.signature(bare), args, kwargs)
    elif isinstance(reached, types.BuiltinFunctionType):
        signature = _signature_of_builtin(reached)
        if signature is not None:
            _bind(func, signature, args, kwargs)


def _bind(func: Any, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{getattr(func, '__qualname__', func)}(): {error}") from None


def _reached(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function whose code a call of *func* runs, with the arguments that it gets."""
    while not isinstance(func, types.FunctionType):
        if isinstance(func, types.MethodType):
            func, args = func.__func__, (func.__self__, *args)
        elif type(func) is functools.partial and not _has_gaps(func):
            func, args, kwargs = func.func, (*func.args, *args), {**func.keywords, **kwargs}
        elif isinstance(func, functools._lru_cache_wrapper):
            func = func.__wrapped__
        elif isinstance(inspect.getattr_static(type(func), "__call__", None), types.FunctionType):
            func, args = type(func).__call__, (func, *args)
        elif type(func).__call__ is type.__call__ and func.__new__ is object.__new__:
            if not isinstance(inspect.getattr_static(func, "__init__"), types.FunctionType):
                break
            func, args = func.__init__, (None, *args)
        else:
            break
    return func, args, kwargs


def _has_gaps(partial: functools.partial[Any]) -> bool:
    # From Python 3.14 on.
    return any(argument is getattr(functools, "Placeholder", partial) for argument in partial.args)


def _fits(function: types.FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether such a call is right for sure: nearly all are, and a signature costs more than many a call of a session."""
    code = function.__code__
    positional, last = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    if len(args) > positional and not code.co_flags & inspect.CO_VARARGS:
        return False
    names = code.co_varnames
    wanted = {*names[len(args) : positional - len(function.__defaults__ or ())], *names[positional:last]}
    free = names[max(min(len(args), positional), code.co_posonlyargcount) : last]
    return wanted - (function.__kwdefaults__ or {}).keys() <= kwargs.keys() <= set(free)


_of_builtins: weakref.WeakKeyDictionary[Any, inspect.Signature | None] = weakref.WeakKeyDictionary()


def _signature_of_builtin(func: types.BuiltinFunctionType) -> inspect.Signature | None:
    try:
        return _of_builtins[func]
    except (KeyError, TypeError):
        pass
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        signature = None
    with contextlib.suppress(TypeError):  # bound to what has no hash
        _of_builtins[func] = signature
    return signature


@overload
def deliver(func: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> UnboundRunner[P, R]: ...
@overload
def deliver(func: classmethod[Any, P, R], /) -> UnboundRunner[P, R]: ...
@overload
def deliver(func: staticmethod[P, Coroutine[Any, Any, R]], /) -> UnboundRunner[P, R]: ...
@overload
def deliver(func: staticmethod[P, R], /) -> UnboundRunner[P, R]: ...
@overload
def deliver(func: Callable[P, Coroutine[Any, Any, R]], /) -> Runner[P, R]: ...
@overload
def deliver(func: Callable[P, R], /) -> Runner[P, R]: ...
@overload
def deliver(func: None = None, /, **options: Any) -> DeliveryBoyDecorator: ...
def deliver(func: Any = None, /, **options: Any) -> Any:
    """Decorate a function so that each call of it runs somewhere else; see :class:`Options` for what can be said.

    Usable bare, ``@deliver``, and with options, ``@deliver(transport=Sudo("nobody"), timeout=10)``.

    :raises DeliveryOptionError: if an option is unknown or makes no sense
    """
    decorator = DeliveryBoyDecorator(**options)
    return decorator if func is None else decorator(func)


class DeliveryBoyDecorator:
    """The decorator under its old name: ``@DeliveryBoyDecorator(transport="sudo", ...)``."""

    def __init__(self, **params: Any) -> None:
        self.params = params
        self._options = Options.of(params)

    @overload
    def __call__(self, func: classmethod[Any, P, Coroutine[Any, Any, R]], /) -> UnboundRunner[P, R]: ...
    @overload
    def __call__(self, func: classmethod[Any, P, R], /) -> UnboundRunner[P, R]: ...
    @overload
    def __call__(self, func: staticmethod[P, Coroutine[Any, Any, R]], /) -> UnboundRunner[P, R]: ...
    @overload
    def __call__(self, func: staticmethod[P, R], /) -> UnboundRunner[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Runner[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Runner[P, R]: ...
    def __call__(self, func: Any, /) -> Any:
        return runner_of(func, self._options)


class DeliveryBox:
    """What deliveryboy 0.1.0 packed; the record of a :class:`DeliveryBoy`'s last call."""

    def __init__(self) -> None:
        self.stdout: Any = None
        self.stderr: Any = None
        self.return_value: Any = None
        self.exception: BaseException | None = None
        self.instance: Any = None
        self.func: Any = None
        self.args: Any = None
        self.kwargs: Any = None
        self.modules: set[str] = set()
        self.pickled_modules: Any = set()

    def __str__(self) -> str:
        return "\n".join(f"{key:15s}: {value}" for key, value in self.__dict__.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DeliveryBox) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


_SEEDS_OWN = frozenset({"func", "transport", "transport_params", "executable", "asynchronous", "discard_excess", "params", "_last"})


class DeliveryBoy:
    """The runner of deliveryboy 0.1.0: mutable; its attributes, every option is one, are read once when a call starts.

    :param func: what to call over there
    :param transport: see :class:`Options`, as for all others
    :param params: any other option
    :ivar inbox: what the calling thread's last call sent
    :ivar outbox: what it brought back
    """

    def __init__(
        self,
        func: Any,
        transport: Any = None,
        transport_params: Any = (),
        executable: str | None = None,
        asynchronous: bool = False,
        discard_excess: bool = True,
        **params: Any,
    ) -> None:
        self.params = params
        self.func = func
        self.transport = transport
        self.transport_params = transport_params or []
        self.executable = executable
        self.asynchronous = params.pop("async", asynchronous)
        self.discard_excess = discard_excess
        self._last = threading.local()
        self.runner()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "async":
            name = "asynchronous"
        if name in _SEEDS_OWN:
            super().__setattr__(name, value)
        else:
            Options.of({name: value})
            self.params[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "params":
            raise AttributeError(name)
        return getattr(self.runner().options, name)

    @property
    def inbox(self) -> DeliveryBox:
        return getattr(self._last, "inbox", None) or DeliveryBox()

    @property
    def outbox(self) -> DeliveryBox | None:
        return getattr(self._last, "outbox", None)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        runner = self.runner()
        inbox, outbox = DeliveryBox(), DeliveryBox()
        inbox.func, inbox.args, inbox.kwargs = self.func, args, kwargs
        self._last.inbox, self._last.outbox = inbox, None
        if self.asynchronous or runner.runs_here or runner.streams:
            return runner(*args, **kwargs)
        journey = runner._journey(args, kwargs)
        inbox.modules = {entry.name for entry in journey.box.manifest}
        receipt = journey.travel()
        outbox.return_value, outbox.exception = receipt.value, receipt.exception
        outbox.stdout, outbox.stderr = receipt.stdout_text, receipt.stderr_text
        self._last.outbox = outbox
        return receipt.unwrap()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Bound as its runner is.
        bound = self.runner().__get__(instance, owner)._bound
        return types.MethodType(self, *bound) if bound else self

    def __reduce__(self) -> str | tuple[Any, ...]:
        state = {**vars(self), "params": dict(self.params)}
        del state["_last"]
        module, name = str(getattr(self.func, "__module__", "")), str(getattr(self.func, "__qualname__", ""))
        found = _found(module, name)
        if isinstance(found, DeliveryBoy) and found.func is self.func:
            # Under the function's own name stands the boy.
            return _boy_again, (type(self), {**state, "func": None}, module, name)
        return _boy_again, (type(self), state)

    @staticmethod
    def __deliveryboy_reduce__(boy: DeliveryBoy) -> tuple[Any, ...]:
        """As any delivered function, one that another function refers to."""
        return Runner.__deliveryboy_reduce__(boy.runner())

    def runner(self) -> Runner[Any, Any]:
        """The function with the options that the attributes say now."""
        options = {
            **self.params,
            "transport": self.transport,
            # As ever, without a transport they mean nothing.
            "transport_params": () if self.transport is None else self.transport_params,
            "executable": self.executable,
            "asynchronous": self.asynchronous,
            "discard_excess": self.discard_excess,
        }
        return runner_of(self.func, Options.of(options))


def _boy_again(kind: type[DeliveryBoy], state: dict[str, Any], module: str = "", name: str = "") -> DeliveryBoy:
    boy = kind.__new__(kind)
    if module:
        __import__(module)
        state = {**state, "func": _found(module, name).func}
    vars(boy).update(state, _last=threading.local())
    return boy


def execute(inbox: DeliveryBox) -> DeliveryBox:
    """Call ``inbox.func`` with ``inbox.args`` and ``inbox.kwargs`` in this process and return the outcome in a box.

    :raises DeliveryPackingError: if there is nothing to call
    """
    from .seed import execute as run

    return run(inbox)


def main() -> None:
    """Read a pickled :class:`DeliveryBox` from stdin, run it, and print the resulting box, pickled."""
    from .seed import main as run

    run(sys.stdin.buffer)
