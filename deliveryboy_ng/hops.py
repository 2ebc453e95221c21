"""Reads from a failed transport's own words which hop failed, and why."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .exceptions import (
    DeliveryTransportError,
    HandshakeError,
    HostUnreachable,
    InterpreterNotFound,
    InterpreterTooOld,
    TransportNotFound,
    TransportRefused,
)
from .receipt import ending_in_words, printable
from .transports import Command, Transport

__all__ = ["Failure", "diagnose"]


@dataclass(frozen=True)
class Failure:
    """A transport that ended, or was given up, before the far side greeted."""

    chain: tuple[Transport, ...]
    argv: tuple[str, ...]
    executable: str
    returncode: int | None
    stderr: str
    noise: bytes
    waited: float | None = None


@dataclass(frozen=True)
class _Sign:
    pattern: str
    kind: type[DeliveryTransportError]
    hop: str
    advice: str


_NO_PASSWORD = "give that user a NOPASSWD rule for this command in sudoers(5)"

# The first in a line: from each of many it would be looked to the line's end.
_SUDO = r"(?m:^)(?:(?!sudo: ).)*sudo: "
_SIGNS = (
    _Sign(_SUDO + r".*(password is required|terminal is required|no askpass)", TransportRefused, "sudo",
          f"sudo wants a password; {_NO_PASSWORD}"),
    _Sign(r"sudo: unknown (user|group|uid|gid)", TransportRefused, "sudo", "that user or group does not exist there"),
    _Sign(r"is not allowed to (execute|run)|not in the sudoers|may not run sudo", TransportRefused, "sudo", _NO_PASSWORD),
    _Sign(_SUDO + r".*(no new privileges|must be owned by uid 0|effective uid is not 0)", TransportRefused, "sudo",
          "nothing can gain rights in there; put Sudo before the hop that confines"),
    _Sign(r"Could not resolve hostname", HostUnreachable, "ssh", "check the host's name"),
    _Sign(r"ssh: connect to host|Connection (timed out|refused|closed|reset)|No route to host|Network is unreachable"
          r"|banner exchange", HostUnreachable, "ssh", "check that sshd runs there and the port is right"),
    _Sign(r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED", TransportRefused, "ssh",
          "the host's key is not known (or has changed); log in once by hand or add it to known_hosts"),
    _Sign(r"Permission denied \((publickey|password|keyboard|gssapi|hostbased)", TransportRefused, "ssh",
          "the host accepts none of the keys; check the user name and authorized_keys"),
    _Sign(r"unshare: (unshare failed|cannot|write failed|mount .*failed|unrecognized|invalid|bad)|unshare: failed to (?!execute)",
          TransportRefused, "unshare", "namespaces of that kind are not permitted there"),
    _Sign(r"Unknown option: -I", InterpreterTooOld, "", "the interpreter is older than Python 3.4, and 3.8 or later is needed"),
    _Sign(r"bwrap: (?!execvp)", TransportRefused, "bwrap", "bubblewrap could not build the sandbox there"),
)  # fmt: skip

# Quotation marks as coreutils print them in a UTF-8 locale.  @ stands for a command: without blanks, or the interpreter.
_MISSING = (
    r"(?:sudo: (?P<a>@): command not found"
    r"|sudo: unable to execute (?P<b>@): "
    r"|unshare: failed to execute (?P<c>@): "
    r"|bwrap: execvp (?P<d>@): "
    r"|(?:env|nice|setpriv|chroot|timeout|nsenter|setsid|stdbuf|prlimit|runuser|su|nohup): (?:failed to (?:execute|run command) |)"
    r"[\u2018'\"]?(?P<e>@)[\u2019'\"]?: (?:No such file|Permission denied)"
    r"|(?:command not found|[Uu]nknown command): (?P<g>@)$"
    r"|executable file [`'\"]?(?P<h>@)[`'\"]? not found"
    r"|exec: [`'\"](?P<i>@)[`'\"]: (?:stat |executable file not found|permission denied|is a directory)"
    r"|(?:^|: )(?P<f>@): (?:command not found|not found|No such file or directory|Permission denied)$)"
)
_BROKEN = re.compile(
    r"Fatal Python error|No module named '?encodings|could not find platform|Failed to import (?:the )?(?:site|encodings)"
)
_OF_SHELLS = re.compile("syntax error|Syntax error|parse error")
_IN_CONTAINER = "; a container has files of its own: name one with executable=, or say Command(..., elsewhere=True)"


def diagnose(failure: Failure) -> DeliveryTransportError:
    """The error that fits what the transport said; behind a terminal it says everything on stdout."""
    said = f"{failure.stderr}\n{failure.noise.decode('utf-8', 'backslashreplace')}".replace("\r\n", "\n")
    for sign in _SIGNS:
        found = re.search(sign.pattern, said)
        if found:
            line = _line_of(said, found.start())
            return _error(sign.kind, failure, _hop_named(failure, sign.hop, line), f"{line}; {sign.advice}")
    missing = _missing(failure.executable).search(said)
    if missing and failure.waited is None:
        name = missing[missing.lastgroup or 0]
        line = _line_of(said, missing.start(missing.lastgroup or 0))
        return not_found(failure, name, line + (_IN_CONTAINER if missing.lastgroup in ("h", "i") else ""))
    if _BROKEN.search(said):
        return _error(InterpreterNotFound, failure, failure.executable, f"the interpreter {failure.executable} does not start")
    return _no_greeting(failure, said)


def _missing(executable: str) -> re.Pattern[str]:
    """The ways to say that there is no such command."""
    return re.compile(_MISSING.replace("@", rf"{re.escape(executable)}|[^\s:\u2019'`\"]+"), re.MULTILINE)


def not_found(failure: Failure, name: str, words: str) -> DeliveryTransportError:
    """The error for a command *name* that could not be started."""
    if name.rpartition("/")[2] == failure.executable.rpartition("/")[2]:
        return _error(
            InterpreterNotFound, failure, failure.executable, f"the interpreter {failure.executable} cannot be started: {words}"
        )
    return _error(TransportNotFound, failure, _hop_named(failure, name), f"the command {name} cannot be started: {words}")


def _no_greeting(failure: Failure, said: str) -> DeliveryTransportError:
    if failure.waited is not None:
        what = f"the far side did not greet within {failure.waited:g} seconds"
    else:
        what = f"the transport ended before the far side greeted ({ending_in_words(failure.returncode)})"
    for hop in failure.chain:
        if isinstance(hop, Command) and not hop.shell and (os.path.basename(hop.argv[0]) == "ssh" or _OF_SHELLS.search(said)):
            what += f"; if a shell reads what is put behind {hop.name}, say Command(..., shell=True); for ssh there is Ssh(host)"
    return _error(HandshakeError, failure, failure.chain[0].name, what)


def _error(kind: type[DeliveryTransportError], failure: Failure, hop: str, what: str) -> DeliveryTransportError:
    return kind(
        f"{printable(hop)}: {printable(what)}\n{evidence(failure.argv, failure.returncode, failure.stderr, failure.noise)}",
        hop=hop,
        argv=failure.argv,
        returncode=failure.returncode,
        stderr=failure.stderr,
    )


def evidence(argv: Sequence[str], returncode: int | None, stderr: str, noise: bytes = b"") -> str:
    """What a reader of the message needs to look further: command, end, last words."""
    lines = [f"  command: {printable(' '.join(shortened(argv)))}"]
    if returncode is not None:
        lines.append(f"  ended:   {ending_in_words(returncode)}")
    if stderr.strip():
        lines.append(f"  stderr:  {_last_lines(stderr)}")
    if noise.strip():
        lines.append(f"  stdout:  {_last_lines(noise.decode('utf-8', 'backslashreplace'))}")
    return "\n".join(lines)


def shortened(argv: Sequence[str]) -> tuple[str, ...]:
    """A command line with ``...`` for its longest words: the far side's first stage says nothing to people."""
    return tuple(word if len(word) < 200 else "..." for word in argv)


def _last_lines(text: str) -> str:
    return "\n           ".join(printable(line[:300]) for line in text.strip().splitlines()[-5:])


def _line_of(text: str, place: int) -> str:
    start = text.rfind("\n", 0, place) + 1
    return printable(text[start:].splitlines()[0].strip())


def _hop_named(failure: Failure, command: str, line: str = "") -> str:
    """The hop of that command; where there are several, the one that *line* is about, or all of which it may be."""
    found = [hop.name for hop in failure.chain if command in hop.name.split()]
    about = [name for name in found if len(found) > 1 and set(name.split()[1:]) & set(line.split())]
    return " or ".join(about or found) or command or failure.executable
