"""Running a :class:`~deliveryboy_ng.core.DeliveryBox` in this process, as deliveryboy 0.1.0 did on the far side."""

from __future__ import annotations

import contextlib
import io
import types
from typing import BinaryIO

from .core import DeliveryBox
from .exceptions import DeliveryPackingError
from .pickle import ModulePickle, pickle, unpickle

__all__ = ["execute", "main"]


def execute(inbox: DeliveryBox) -> DeliveryBox:
    """See :func:`deliveryboy_ng.core.execute`."""
    if inbox.pickled_modules:
        ModulePickle(pickled=inbox.pickled_modules).unpickle()
    namespace = {name: __import__(name) for name in inbox.modules}
    func = inbox.func
    if isinstance(func, types.CodeType):
        func = types.FunctionType(func, {"__builtins__": __builtins__, **namespace})
    if not callable(func):
        raise DeliveryPackingError("no callable to run in the delivery box")
    instance = () if inbox.instance is None else (inbox.instance,)
    box = DeliveryBox()
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            box.return_value = func(*instance, *(inbox.args or ()), **(inbox.kwargs or {}))
        except Exception as error:
            box.exception = error
    box.stdout, box.stderr = stdout.getvalue(), stderr.getvalue()
    return box


def main(stdin: BinaryIO) -> None:
    """See :func:`deliveryboy_ng.core.main`."""
    try:
        inbox = unpickle(stdin.read())[0]
    except Exception as error:
        box = DeliveryBox()
        box.exception = error
    else:
        box = execute(inbox)
    print(pickle(box))
