"""Stands in on the far side for what the caller's modules and functions know as ``deliveryboy_ng``.

Contract: far side, standard library only, Python 3.8+.  A module that travels may import the library and decorate its
functions, though the library is not installed here.  Delivered functions arrive as :class:`Runner`; met while it is
itself being run (recursion), such a function runs in place.  Any other delivered function is really delivered, from here
on, if the library is installed here, in the same version; otherwise calling it raises RuntimeError: running it in place, with other
rights than it asks for, would be a wrong answer.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ERROR_WORDS = (
    *("Error", "Exceeded", "Died", "Exited", "Timeout", "Interrupted", "Lost", "Cancelled", "Unavailable", "Found"),
    *("Refused", "Unreachable", "Failed", "TooOld"),
)


class Runner:
    """A delivered function as the far side knows it."""

    def __init__(
        self, func: "Any" = None, options: "bytes | str" = b"", bound: "tuple[Any, ...]" = (), accepts: "tuple[Any, ...]" = ()
    ) -> None:
        self.__setstate__((func, options, bound, accepts, {}))

    def __setstate__(self, state: "tuple[Any, bytes | str, tuple[Any, ...], tuple[Any, ...], dict[str, Any]]") -> None:
        func, self._options, self._bound, self._accepts, attributes = state
        self.__wrapped__ = func
        self.__name__ = getattr(func, "__name__", type(func).__name__)
        self.__doc__ = getattr(func, "__doc__", None)
        self.__dict__.update(attributes)

    def __reduce__(self) -> "Any":
        attributes = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return Runner, (), (self.__wrapped__, self._options, self._bound, self._accepts, attributes)

    def __getattr__(self, name: str) -> "Any":
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __get__(self, instance: "Any", owner: "Any" = None) -> "Any":
        if isinstance(self.__wrapped__, staticmethod):
            return self
        if isinstance(self.__wrapped__, classmethod):
            instance = owner if owner is not None else type(instance)
        elif not hasattr(type(self.__wrapped__), "__get__"):
            return self
        if instance is None or self._bound:
            return self
        return Runner(self.__wrapped__, self._options, (instance,), self._accepts)

    @property
    def _function(self) -> "Any":
        wrapped = self.__wrapped__
        return wrapped.__func__ if isinstance(wrapped, (classmethod, staticmethod)) else wrapped

    def local(self, *args: "Any", **kwargs: "Any") -> "Any":
        """Call the function in this process."""
        return self._function(*self._bound, *args, **kwargs)

    def __call__(self, *args: "Any", **kwargs: "Any") -> "Any":
        from . import call

        if self._function is call.current:
            return self.local(*args, **kwargs)
        return self._real()(*args, **kwargs)

    def _real(self) -> "Any":
        from . import frames

        if isinstance(self._options, str):
            raise RuntimeError("the delivered function %s was called on the far side: %s" % (self.__name__, self._options))
        try:
            import deliveryboy_ng

            # The stand-in has none.
            version = deliveryboy_ng.__version__
        except (ImportError, SyntaxError, AttributeError):
            version = ""
        if version != frames.VERSION or not self._options:
            raise RuntimeError(
                "the delivered function %s was called on the far side, where deliveryboy_ng %sis not installed%s; "
                "install it there, or call %s.local(...) to run it in place"
                % (
                    self.__name__,
                    frames.VERSION + " " if version else "",
                    ", but " + version if version else "",
                    self.__name__,
                )
            )
        import _pickle

        from deliveryboy_ng import core

        runner = core.Runner(self.__wrapped__, _pickle.loads(self._options), self._bound)
        return runner.with_options(accepts=self._accepts) if self._accepts else runner


def _refuse(*args: object, **kwargs: object) -> "Any":
    raise RuntimeError(
        "deliveryboy_ng is not installed on the far side, or in another version; only its decorator can be used here"
    )


class _Names(type):
    def __getattr__(cls, name: str) -> "Any":
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: Anything()


class Anything(metaclass=_Names):
    """Takes the place of a transport, a limit, or whatever else an option of a decorator may be; good for nothing else."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __getattr__(self, name: str) -> "Any":
        if name.startswith("__"):
            raise AttributeError(name)
        return _refuse()

    __eq__ = __bool__ = __iter__ = __call__ = __str__ = __reduce_ex__ = _refuse
    __hash__ = None  # type: ignore[assignment]


def deliver(*args: "Any", **options: "Any") -> "Any":
    """The decorator, bare or with options; it delivers nothing."""
    if len(args) == 1 and (callable(args[0]) or isinstance(args[0], (classmethod, staticmethod))) and not options:
        return Runner(args[0])
    return Runner


class Loader:
    """Makes the module that answers to the library's name."""

    def create_module(self, spec: "Any") -> "Any":
        return None

    def exec_module(self, module: "Any") -> "Any":
        def stand_in(name: "Any") -> "Any":
            if name.startswith("__"):
                raise AttributeError(name)
            made = type(name, (Exception if name.endswith(_ERROR_WORDS) else Anything,), {"__module__": module.__name__})
            setattr(module, name, made)
            return made

        module.__getattr__ = stand_in
        module.deliver = module.DeliveryBoyDecorator = deliver
        module.DeliveryBoy = Runner


def take_the_place_of(module: "Any") -> None:
    """Make the library's module, which is being imported here, what it would be if it were not installed.

    Called by other versions of the library than the one that this worker is of.
    """
    module.__path__ = []
    module.__loader__ = Loader()
    module.__loader__.exec_module(module)


def refuse(module: str, name: str) -> None:
    """Raise ImportError if *module* is of this file's making: an object of the library's cannot be unpacked from it."""
    if isinstance(getattr(sys.modules.get(module), "__loader__", None), Loader):
        raise ImportError("%s.%s is needed here, but deliveryboy_ng is not installed on the far side" % (module, name))
