"""Opening a session: what its supervisor needs, and which interpreter answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .exceptions import InterpreterNotFound
from .options import Options
from .session import Greeting, Session
from .workertext import FOR_CONFINED, FOR_DATA, FOR_GUARDED, FOR_TEMPLATE, Kit

__all__ = ["kit_of", "open_session"]

_WATCHED = {"memory", "cpu", "processes"}


def kit_of(options: Options, workers: int = 0, template: bool = False) -> Kit:
    """What the supervisor needs for calls with these options.

    :param workers: how many calls may run at a time in a session that stays open, 0 if it ends with its first
    :param template: whether they are forked from a template
    """
    confinement = options.confinement
    data = () if options.trusted else FOR_DATA
    asked = options.limits.as_setup()
    limits = ("limits", "holding", *(("processes",) if _WATCHED & set(asked) else ())) if asked else ()
    own = "-"
    extras: tuple[str, ...] = data
    early: tuple[str, ...] = (*data, *limits)
    if confinement is not None:
        own = "pids!" if confinement.capabilities else "pids"
        extras, early = (*data, *FOR_GUARDED, *FOR_CONFINED), ("confine", "holding", *FOR_CONFINED, *early)
    elif options.guard:
        own = "-" if options.guard == "pid namespace" or options.keep_children else "pids?"
        extras, early = (*data, *FOR_GUARDED), ("confine", "holding", *early)
    if workers:
        # Its calls need not be alike.
        extras, early = (*FOR_DATA, *FOR_GUARDED, *FOR_CONFINED, *FOR_TEMPLATE), ("sockets", *early)
    return Kit(own, extras, early, workers, template)


def open_session(
    options: Options,
    kit: Kit,
    requests: deque[str],
    opened: Callable[[Session], object],
    noise: Callable[[bytes], object] | None,
    detached: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[Session, Greeting]:
    """Start the transport with the first interpreter that answers.

    :param requests: see :class:`Session`
    :param opened: is told of each session that is tried, before it has greeted
    :param noise: gets what the transport prints
    :param meanwhile: is called while the interpreter starts
    :raises DeliveryError: if none answers
    """
    failures: list[InterpreterNotFound] = []
    for executable in options.executables:
        try:
            session = Session(options.chain, executable, detached, requests, kit)
        except InterpreterNotFound as error:
            failures.append(error)
            continue
        opened(session)
        session.on_noise = noise
        try:
            session.get_worker_ready()
            if meanwhile is not None:
                meanwhile()
            return session, session.greet(options.connect_timeout)
        except InterpreterNotFound as error:
            session.close()
            failures.append(error)
        except BaseException:
            session.close()
            raise
    raise _none_found(failures)


def _none_found(failures: list[InterpreterNotFound]) -> InterpreterNotFound:
    last = failures[-1]
    if len(failures) == 1:
        return last
    tried = ", ".join(error.hop for error in failures)
    return InterpreterNotFound(
        f"no interpreter could be started; tried {tried}; name one with executable=\n{last.args[0]}",
        hop=last.hop,
        argv=last.argv,
        returncode=last.returncode,
        stderr=last.stderr,
    )
