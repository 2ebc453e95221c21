"""CPython's own tests of executors, run against DeliveryExecutor: ``python stdlib_executor.py CLASS``.

They are adapted in how the executor is made and nothing else.
"""

import sys
import unittest

from test import test_concurrent_futures as theirs  # type: ignore[import-not-found]

from deliveryboy_ng import DeliveryExecutor


class ExecutorMixin(theirs.ExecutorMixin):  # type: ignore[misc]
    executor_type = DeliveryExecutor


def _assert_python_ok(*args: str, **variables: str) -> object:
    """Their scripts import the executor from the standard library, in an isolated interpreter."""
    *rest, script = args
    where = f"import sys; sys.path[:0] = {sys.path!r}\n"
    script = script.removeprefix("if 1:").removeprefix("if True:")
    return _theirs(
        *rest, f"{where}if 1:{script}".replace("concurrent.futures import Del", "deliveryboy_ng import Del"), **variables
    )


_theirs, theirs.assert_python_ok = theirs.assert_python_ok, _assert_python_ok


class Executor(ExecutorMixin, theirs.ExecutorTest, theirs.BaseTestCase):  # type: ignore[misc]
    pass


class Wait(ExecutorMixin, theirs.WaitTests, theirs.BaseTestCase):  # type: ignore[misc]
    pass


class AsCompleted(ExecutorMixin, theirs.AsCompletedTests, theirs.BaseTestCase):  # type: ignore[misc]
    pass


class Shutdown(ExecutorMixin, theirs.ExecutorShutdownTest, theirs.BaseTestCase):  # type: ignore[misc]
    pass


class Initializer(theirs.InitializerMixin, theirs.BaseTestCase):  # type: ignore[misc]
    executor_type = DeliveryExecutor


if __name__ == "__main__":
    unittest.main(verbosity=2)
