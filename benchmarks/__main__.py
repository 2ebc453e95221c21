"""``python -m benchmarks [NAME ...]``: measures, and prints what came out; see ``--help``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from .harness import machine

NAMES = {
    "cold": "one cold call, in starts of a bare interpreter",
    "warm": "isolated calls of a session that stays open, against pools whose calls share a process",
    "payload": "100 MB there and back, against a raw pipe",
    "peers": "cold calls and payloads of other libraries, against ours",
    "overhead": "what limits, timeout and capture add to a call",
    "import": "import of this library, against a bare start",
    "scale": "how cost grows",
}


def main() -> None:
    """Run those that are named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure, each subject in turn with its baseline; print medians as ratios.",
        epilog="\n".join(f"  {name:<9} {text}" for name, text in NAMES.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; all, if none is named")
    parser.add_argument("--rounds", type=int, default=0, help="how often; each benchmark has its own default")
    parser.add_argument("--ssh", default="", metavar="HOST", help="measure through ssh as well")
    parser.add_argument("--megabytes", type=int, default=100, metavar="N", help="what payload sends; 100, if it is not said")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw pictures there (needs matplotlib)")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    print(machine(), flush=True)
    written = []
    for name in given.names or NAMES:
        module = importlib.import_module(f"benchmarks.{'imports' if name == 'import' else name}")
        more = {"megabytes": given.megabytes} if name == "payload" else {}
        for found in module.results(given.rounds, given.ssh, **more):
            print(f"\n{found}", flush=True)
            written.append({"benchmark": name, **found.as_json()})
            if given.draw:
                given.draw.mkdir(parents=True, exist_ok=True)
                found.draw(given.draw)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "command": sys.argv[1:], "results": written}, indent=1))


if __name__ == "__main__":
    main()
