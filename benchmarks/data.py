"""What it takes to bring data back without pickle.

``python -m benchmarks.data`` encodes and decodes each kind of value and prints the time as a ratio to ``pickle.dumps`` and
``pickle.loads`` (best of 7, without the garbage collector).
"""

from __future__ import annotations

import datetime
import decimal
import gc
import pickle
import platform
import random
import time
from collections.abc import Callable
from typing import Any

from deliveryboy_ng import decoding
from deliveryboy_ng.worker import codec


def values() -> dict[str, Any]:
    """One value of each kind."""
    order = random.Random(1)
    found: dict[str, Any] = {
        "300,000 ints": [order.randrange(10**6) for _ in range(300_000)],
        "300,000 large ints": [order.randrange(2**60) for _ in range(300_000)],
        "300,000 floats": [order.random() for _ in range(300_000)],
        "300,000 strings": [f"name {number}" for number in range(300_000)],
        "300,000 bools": [order.random() < 0.5 for _ in range(300_000)],
        "dict of 200,000 ints": {str(number): number for number in range(200_000)},
        "50,000 records": [{"id": number, "name": f"n{number}", "ok": True, "tags": ["a", "b"]} for number in range(50_000)],
        "50,000 nested lists": [[[number, [str(number)]]] for number in range(50_000)],
        "50,000 tuples": [(number, str(number)) for number in range(50_000)],
        "20,000 mixed records": [
            {"id": number, "when": datetime.datetime(2020, 1, 1), "price": decimal.Decimal("1.5"), "tags": ("a", "b")}
            for number in range(20_000)
        ],
        "30 MB of bytes": order.randbytes(30_000_000),
    }
    try:
        import numpy
    except ImportError:
        return found
    return {**found, "3,000,000 doubles in numpy": numpy.random.default_rng(1).random(3_000_000)}


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of seven."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}")
    print(f"{'value':28} {'ratio':>6} {'there':>6} {'back':>6} {'size':>6}")
    gc.disable()
    for name, value in values().items():
        pickled = pickle.dumps(value, 5)
        encoded = b"".join(codec.encode(value, lambda kind: None))
        there = best(lambda value=value: b"".join(codec.encode(value, lambda kind: None)))  # type: ignore[misc]
        back = best(lambda encoded=encoded: decoding.decode(encoded, {}))  # type: ignore[misc]
        dumps = best(lambda value=value: pickle.dumps(value, 5))  # type: ignore[misc]
        loads = best(lambda pickled=pickled: pickle.loads(pickled))  # type: ignore[misc]
        ratios = (there + back) / (dumps + loads), there / dumps, back / loads, len(encoded) / len(pickled)
        print(f"{name:28} " + " ".join(f"{ratio:6.2f}" for ratio in ratios))
        gc.collect()


if __name__ == "__main__":
    main()
