"""Ends calls that do not end by themselves in time: for their time or their limits, or as the near side asks.

Contract: far side, standard library only, Python 3.8+.  Runs in the supervisor, which alone knows what became of a call.
"""

import _signal  # type: ignore[import-not-found]
import posix
import time

from . import processes, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import ledger, supervisor


def hear(keeper: "supervisor.Supervisor", number: int, what: bytes) -> None:
    """Do what the near side asks for: ``interrupt``, ``terminate [SECONDS]`` or ``kill``."""
    call = keeper.calls.get(number)
    if call is None or not call.pid:
        _cancel_early(keeper, call)
    elif call.status is None and not call.settled:
        if what == b"interrupt":
            if not _has_answered(keeper, call) and _interrupt(call):
                call.interrupts += 1
        elif what.startswith(b"terminate"):
            if not call.ending:
                _ask(call, "cancelled", _signal.SIGTERM, float(what.split()[-1]) if b" " in what else float(call.setup["grace"]))
        elif what == b"kill":
            end(call, "cancelled")


def _cancel_early(keeper: "supervisor.Supervisor", call: "ledger.Call | None") -> None:
    """It has no process yet; or, in a session that stays open, has ended meanwhile."""
    if call is not None and call.setup:
        if call in keeper.queue:
            keeper.queue.remove(call)
        keeper.refuse(call, "cancelled before it began")
    elif not keeper.stays:
        keeper.stop = True


def _has_answered(keeper: "supervisor.Supervisor", call: "ledger.Call") -> bool:
    """Whether the function is over already: then no interrupt can reach it any more."""
    for fd, stream in list(call.pipes.items()):
        if stream == "reply":
            keeper.relay.read(fd)
    return call.answered


def _interrupt(call: "ledger.Call") -> bool:
    """Whether it reaches the function: one that is over, and has not told yet, has blocked it.

    One that has not begun has blocked SIGTERM, too, and will hear of both.
    """
    takes = processes.takes(call.pid, _signal.SIGINT, _signal.SIGTERM)
    sent = system.kill_quietly(-call.pid, _signal.SIGINT) or system.kill_quietly(call.pid, _signal.SIGINT)
    return takes and sent and not processes.is_left_pending(call.pid, _signal.SIGINT, _signal.SIGTERM)


def end(call: "ledger.Call", reason: str) -> None:
    """Kill it."""
    call.ending = call.ending or reason
    # What is below it is killed when it has ended: there may be helpers among them that tidy up.
    system.kill_quietly(call.pid, system.SIGKILL)


def _ask(call: "ledger.Call", reason: str, number: int, grace: float) -> None:
    call.ending = reason
    due = time.monotonic() + grace
    if call.deadline is not None and reason != "timeout":
        # The near side waits no longer than that.
        due = min(due, call.deadline + (0.0 if call.late else float(call.setup["grace"])))
    call.deadline = due
    system.kill_quietly(call.pid, number)


def check(keeper: "supervisor.Supervisor", call: "ledger.Call", now: float) -> None:
    """Something is due: a look at what it uses, or its end."""
    if call.next_look is not None and now >= call.next_look:
        _look_after(keeper, call)
    if call.deadline is None or now < call.deadline:
        return
    grace = float(call.setup["grace"])
    if call.setup["template"] and call.answered:
        call.deadline = None
    elif call.settled or call.ending:
        # It has returned, or was asked to end, but does not.
        call.deadline = None
        system.kill_quietly(call.pid, system.SIGKILL)
    elif not _has_answered(keeper, call):
        _ask(call, "timeout", _signal.SIGTERM, grace)
    elif not call.late or (keeper.relay.paused and call.chatter <= call.chatter_before):
        # The function was in time; a line that is slow is not its fault, as long as it is not busy with what else it writes.
        if not call.late:
            call.late, call.chatter_before = True, call.chatter
        call.deadline = now + max(1.0, grace)
    else:
        end(call, "timeout")


def _look_after(keeper: "supervisor.Supervisor", call: "ledger.Call") -> None:
    if call.watch is None:
        from . import watch

        lender = (system.template or posix.getpid()) if call.setup["shared"] and not call.setup["template"] else 0
        call.watch = watch.Watch(call.setup["limits"], call.base, call.given, call.weight, call.started, lender)
    watched = call.watch
    known = keeper.others(call) | {call.pid}
    strays = [pid for pid in processes.children(posix.getpid()) if pid not in known and not processes.is_nascent(pid)]
    if strays and any(other is not call and other.pid and not other.setup["template"] for other in keeper.calls.values()):
        # Each call adopts its own orphans while it lives.  What one has left that has just ended is seen to when it is finished;
        # all else was put here to be out of its call's sight.
        if not keeper.have_ended():
            processes.kill_found(posix.getpid(), known)
        strays.clear()
    deadlines = [other.deadline for other in keeper.calls.values() if other.deadline is not None]
    call.next_look = watched.look([call.pid, *strays], call.reaped_cpu, min(deadlines, default=float("inf")))
    if not watched.exceeded:
        return
    if "processes" in watched.exceeded:
        # All at one stroke, as far as possible: who forks meanwhile dies as well.
        # (A template goes with them, and is made anew.)
        beside = [other for other in keeper.calls.values() if other is not call and not other.setup.get("template")]
        alone = posix.getpid() == 1 and not beside
        system.kill_quietly(-1 if alone else -call.pid, system.SIGKILL)
    if call.settled:
        # What became of it has been told.
        system.kill_quietly(call.pid, system.SIGKILL)
    elif list(watched.exceeded) != ["cpu"]:
        # What grows is not asked: it would go on growing.
        end(call, next(iter(watched.exceeded)))
    elif not call.ending:
        _ask(call, "cpu", _signal.SIGXCPU, float(call.setup["grace"]))
