"""CPython's own tests of executors, run against DeliveryExecutor: ``python stdlib_executor.py CLASS``.

They are adapted in how the executor is made and nothing else.
"""

import sys
import unittest

try:
    from test.test_concurrent_futures import (  # type: ignore[import-not-found]
        executor,
        test_as_completed,
        test_init,
        test_shutdown,
        test_wait,
        util,
    )
except ImportError:
    # Up to 3.11 it is one module.
    from test import test_concurrent_futures as util

    executor = test_as_completed = test_init = test_shutdown = test_wait = util

from deliveryboy_ng import DeliveryExecutor


class ExecutorMixin(util.ExecutorMixin):  # type: ignore[misc]
    executor_type = DeliveryExecutor


def _assert_python_ok(*args: str, **variables: str) -> object:
    """Their scripts import the executor from the standard library, in an isolated interpreter."""
    *rest, script = args
    where = f"import sys; sys.path[:0] = {sys.path!r}\n"
    script = script.removeprefix("if 1:").removeprefix("if True:")
    return _theirs(
        *rest, f"{where}if 1:{script}".replace("concurrent.futures import Del", "deliveryboy_ng import Del"), **variables
    )


_theirs, test_shutdown.assert_python_ok = test_shutdown.assert_python_ok, _assert_python_ok


class Executor(ExecutorMixin, executor.ExecutorTest, util.BaseTestCase):  # type: ignore[misc]
    pass


class Wait(ExecutorMixin, test_wait.WaitTests, util.BaseTestCase):  # type: ignore[misc]
    pass


class AsCompleted(ExecutorMixin, test_as_completed.AsCompletedTests, util.BaseTestCase):  # type: ignore[misc]
    pass


class Shutdown(ExecutorMixin, test_shutdown.ExecutorShutdownTest, util.BaseTestCase):  # type: ignore[misc]
    pass


class Initializer(test_init.InitializerMixin, util.BaseTestCase):  # type: ignore[misc]
    executor_type = DeliveryExecutor


if __name__ == "__main__":
    unittest.main(verbosity=2)
