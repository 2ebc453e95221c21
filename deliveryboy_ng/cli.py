"""The command line: ``deliveryboy demo`` shows what works on this machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__
from .confinement import Confinement
from .core import deliver
from .exceptions import DeliveryError, DeliveryOptionError
from .receipt import Receipt
from .transports import Bubblewrap, Local, Ssh, Sudo, Transport, Unshare

__all__ = ["main"]

# The sieve has a byte for each number.
_MOST = 1_000_000_000


def primes_below(limit: int) -> tuple[int, str]:
    """The demo's work: count primes, and tell which user did."""
    import os
    import pwd

    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, limit, n)))
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return sum(sieve), user


def demo_chains(ssh_host: str) -> list[tuple[str, list[Transport], Confinement | None]]:
    """The transports that the demo tries, with the names it shows, and how the call is confined."""
    return [
        ("local", [Local()], None),
        ("local, confined", [Local()], Confinement.strict()),
        ("sudo -u nobody", [Sudo("nobody")], None),
        ("unshare", [Unshare()], None),
        ("unshare, own pids, no network", [Unshare(pid=True, net=True)], None),
        ("bwrap", [Bubblewrap()], None),
        ("sudo -u nobody, unshare", [Sudo("nobody"), Unshare(pid=True)], None),
        (f"ssh {ssh_host}", [Ssh(ssh_host)], None),
    ]


def demo_row(name: str, chain: Sequence[Transport], confinement: Confinement | None, limit: int) -> tuple[bool, str]:
    """Whether the transport works, and its line of the table."""
    runner = deliver(transport=list(chain), confinement=confinement, timeout=60)(primes_below)
    try:
        receipt: Receipt = runner.run(limit)
        value, user = receipt.unwrap()
    except DeliveryError as error:
        reason = str(error).splitlines()[0]
        return False, f"{name:<30} not available: {reason}"
    usage = receipt.usage
    return (
        True,
        f"{name:<30} {user:<10} {receipt.remote_pid:>8} {value:>8} {usage.user + usage.system:>8.3f} {receipt.duration:>8.3f}",
    )


def demo(arguments: argparse.Namespace) -> int:
    """Call one function through every transport that works here."""
    print(f"{'transport':<30} {'user':<10} {'PID':>8} {'value':>8} {'CPU s':>8} {'wall s':>8}")
    works = False
    for name, chain, confinement in demo_chains(arguments.ssh):
        found, line = demo_row(name, chain, confinement, arguments.limit)
        works = works or found
        print(line, flush=True)
    return 0 if works else 1


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) < 20 and 2 <= int(text) <= _MOST):
        raise argparse.ArgumentTypeError(f"it must be a number from 2 to {_MOST}, not {text}")
    return int(text)


def _host(text: str) -> str:
    try:
        return Ssh(text).host
    except DeliveryOptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``deliveryboy`` and ``python -m deliveryboy_ng``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="deliveryboy", description="Run a function somewhere else as if it were a local call.")
    parser.add_argument("--version", action="version", version=f"deliveryboy_ng {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("demo", help="call one function through every transport that works on this machine")
    show.add_argument("--limit", type=_count, default=1_000_000, help="count the primes below this number (default: %(default)s)")
    show.add_argument(
        "--ssh", type=_host, metavar="HOST", default="localhost", help="the host for ssh to reach (default: %(default)s)"
    )
    run: Callable[[argparse.Namespace], int] = demo
    show.set_defaults(run=run)
    arguments: Any = parser.parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more, and the interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code
