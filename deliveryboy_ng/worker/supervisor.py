"""The supervisor: opens the wire on the far side, forks one process a call, and alone tells what became of it.

Contract: far side, standard library only, Python 3.8+.  ``main(nonce, lane, own, early, workers)`` is entered once by boot.py.
Stdin carries frames to this side, stdout frames to the near side; stderr is left alone.  It never runs, unpickles or
imports anything of the caller's: that is done in the call process (call.py), whose output, reply and end it relays.
When stdin ends, or the wire breaks, everything it started is killed and it leaves.

Frames of a call, to here:     SETUP (marshalled dict), MODULES (marshalled dict), BODY (pickle), INPUT (stdin), START,
                               SIGNAL b"interrupt", b"terminate [SECONDS]" or b"kill",
                               LARGE (kinds and sizes of what BODY does not hold), ATTACH (with a socket's descriptor)
Frames of a call, from here:   STARTED pid host, STDOUT, STDERR, REPLY, ANSWERED, VERDICT key=value ..., REFUSED text,
                               BULK (a socket is wanted: for what is LARGE, or for what the reply has announced)
"""

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import select
import sys
import time

from . import call as call_process
from . import channel, frames, ledger, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import spares

_LARGE = 1 << 20
# Seconds after a call's start, with and without limits that have to be watched.
_FIRST_LOOK, _FIRST_IDLE_LOOK = 0.005, 0.1
# Seconds that a call is busy with being confined, before anything of the caller's runs in it.
_CONFINING = 0.004
# Milliseconds to wait for something better to do than forking ahead, while calls are under way.
_BUSY = 2
# Seconds that a call may take to end when it has answered.
_LONGEST_EXIT = 1.0
_HANDLED = (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP)
_STREAMS = {"stdout": frames.STDOUT, "stderr": frames.STDERR, "reply": frames.REPLY}


class Supervisor:
    """Owns the wire, the clock and every process below it."""

    def __init__(self, nonce: bytes, lane: str, adopts: bool, workers: str) -> None:
        """:param workers: see :func:`main`"""
        self.adopts = adopts
        self.spares: "spares.Spares | None" = None
        if workers != "0":
            from . import spares

            self.spares = spares.Spares(int(workers.rstrip("t")), self._fork, workers.endswith("t"))
        self.queue: "list[ledger.Call]" = []
        self.calls: "dict[int, ledger.Call]" = {}
        self.listening = True
        self.stop = False
        self.paused = False
        self.host = posix.uname().nodename
        self.near_socket: "Any" = None
        self.poll = select.poll()
        self.wake = self._watch_signals()
        self.poll.register(self.wake, select.POLLIN)
        self.channel = channel.Channel(nonce, lane, self.poll)
        # Whether answers can come by a socket, and whether also those of who might misuse it.
        self.by_socket, call_process.Pipes.by_socket = False, False
        if self.channel.passes_descriptors:
            self.by_socket, call_process.Pipes.by_socket = system.can_pair_sockets()

    @staticmethod
    def _watch_signals() -> int:
        wake, poke = posix.pipe()
        posix.set_blocking(wake, False)
        posix.set_blocking(poke, False)
        _signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in _HANDLED:
            _signal.signal(number, lambda signum, frame: None)
        # Ctrl-C reaches the call as a frame; a terminal's own SIGINT must not take the supervisor away from it.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _HANDLED)
        return wake

    def serve(self) -> None:
        """Run until the near side hangs up, or says that the call just done was the last."""
        while True:
            self.channel.flush()
            if self.stop or self.channel.broken or not (self.listening or self.calls):
                break
            events = self.poll.poll(self._patience())
            for fd, event in events:
                self._handle(fd, event)
            self._check_clock()
            if self.spares is not None and not events and self.spares.are_wanted:
                self._fork_ahead(self.spares)
        self._end()

    def _handle(self, fd: int, event: int) -> None:
        if fd == self.wake:
            self._signals()
        elif fd == 0:
            self._listen()
        elif self.spares is not None and self.spares.template is not None and self.spares.template.concerns(fd):
            self._hear_template(self.spares, fd)
        elif fd == 1:
            if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                self.channel.hang_up()
        else:
            self._relay(fd)

    def _listen(self) -> None:
        data = self.channel.read()
        if data:
            self._take(data)
        else:
            self.listening = False
            self.channel.hang_up()

    def _take(self, data: bytes) -> None:
        for kind, number, more, payload in self.channel.decode(data):
            if kind == frames.SIGNAL:
                self._signal_call(number, payload)
                continue
            if kind == frames.ATTACH:
                self._attach(self.calls.get(number), bool(payload))
                continue
            if kind == frames.START and number not in self.calls:
                continue  # it has been refused
            call = self.calls.setdefault(number, ledger.Call(number))
            call.parts.setdefault(kind, []).append(payload)
            if kind == frames.SETUP and not more:
                self._set_up(call)
            elif kind == frames.LARGE and not more:
                self.channel.ask_for_socket(number)
            elif kind == frames.START:
                self._start(call)

    def _set_up(self, call: ledger.Call) -> None:
        call.packed_setup = call.part(frames.SETUP)
        call.setup = marshal.loads(call.packed_setup)

    def _attach(self, call: "ledger.Call | None", comes: bool) -> None:
        """A socket has come that was asked for, or there is none: hand it on.  Its bytes are none of this process's business."""
        fd = self.channel.descriptors.pop(0) if comes and self.channel.descriptors else -1
        if call is not None and not call.pid:
            call.socket = fd
            return
        from . import sockets

        for reply, stream in call.pipes.items() if call is not None else ():
            if stream == "reply" and not sockets.send_descriptor(reply, fd):
                sockets.send_descriptor(reply, -1)
        if fd >= 0:
            posix.close(fd)

    # --- calls ----------------------------------------------------------------------------------------------------

    def _start(self, call: ledger.Call) -> None:
        if self.spares is not None and not call.setup["template"]:
            self.queue.append(call)
            self._serve_queue(self.spares)
            return
        given = call.part(frames.INPUT)
        box = call.boxed()
        try:
            self._check_start(call, box)
            self._make_ready(call.setup)
            by_socket = self.by_socket and (call.is_trusted or call_process.Pipes.by_socket)
            pipes = call_process.Pipes(call_process.input_file(given), bool(call.setup["detached"]), len(given), by_socket)
            # What is held here behind the fork would be the call's, too.
            del given
            if call.setup["template"]:
                pipes.far.append(self._template_socket())
            if call.socket >= 0:
                pipes.take_in(call.socket)
                call.socket = -1
            call.pipes = self._start_anew(call, pipes, box)
        except OSError as error:
            self._refuse(call, "the far side cannot start a process: %s" % error)
            return
        if call.setup["template"]:
            self._install_template(call)
        self._note_start(call, box)

    @staticmethod
    def _check_start(call: ledger.Call, box: "list[bytes]") -> None:
        if system.broken:
            raise OSError(system.broken)
        if box[call_process.LARGE] and call.socket < 0:
            raise OSError("the socket for large arguments did not arrive: too many open files")

    def _refuse(self, call: ledger.Call, reason: str) -> None:
        self.channel.send(frames.REFUSED, call.number, reason.encode())
        if call.socket >= 0:
            posix.close(call.socket)
        del self.calls[call.number]
        self.stop = self.stop or bool(call.setup["last"])

    def _serve_queue(self, waiting: "spares.Spares") -> None:
        """Give their processes to those that have come, as far as there are any."""
        try:
            waiting.ask_for(len(self.queue))
        except OSError as error:
            if self.queue and waiting.template is not None and not waiting.template.asked:
                self._refuse(self.queue.pop(0), "the far side cannot start a process: %s" % error)
        while self.queue and (waiting.is_ready or system.broken):
            call = self.queue.pop(0)
            given = call.part(frames.INPUT)
            box = call.boxed()
            try:
                self._check_start(call, box)
                self._make_ready(call.setup)
                if call.setup["guard"] and not _are_apart():
                    waiting.keep_none()
                spare = waiting.take(call.packed_setup, box, given, call.socket)
            except OSError as error:
                self._refuse(call, "the far side cannot start a process: %s" % error)
                continue
            if spare is None:
                call.put_back(given, box)
                self.queue.insert(0, call)
                return
            if call.socket >= 0:
                posix.close(call.socket)
            call.pid, call.pipes, call.given, call.base = spare.pid, spare.near, spare.pipes.given, spare.base
            self._note_start(call, box)

    def _note_start(self, call: ledger.Call, box: "list[bytes]") -> None:
        call.started = time.monotonic()
        timeout = call.setup["timeout"]
        if timeout is not None:
            call.deadline = call.started + float(timeout)
        # What is imported from here on is imported while the call process is busy anyway; wait4() needs resource.
        import resource  # noqa: F401

        call.box = call_process.weight(box)
        if call.setup["limits"] or not call.setup["detached"]:
            call.next_look = call.started + (_FIRST_LOOK if call.setup["limits"] else _FIRST_IDLE_LOOK)
            if call.setup["confinement"] is not None:
                call.next_look += _CONFINING
        for fd in call.pipes:
            self.poll.register(fd, select.POLLIN)
        started = ("%d %s" % (call.pid, self.host)).encode()
        self.channel.send(frames.STARTED, call.number, started, waits=call.setup["shared"])
        if call.setup["detached"]:
            self.channel.detach()

    # --- processes ahead of their calls ---------------------------------------------------------------------------

    def _fork_ahead(self, waiting: "spares.Spares") -> None:
        try:
            waiting.fill()
        except OSError:
            # There is no room for one now; calls will ask for theirs themselves, and hear of it.
            waiting.pause()

    def _template_socket(self) -> int:
        import _socket

        self.near_socket, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        return far.detach()

    def _install_template(self, call: ledger.Call) -> None:
        from . import spares

        assert self.spares is not None
        self.spares.template = spares.Template(call.pid, self.near_socket, self.poll)
        system.template = call.pid
        self.poll.register(self.near_socket.fileno(), select.POLLIN)

    def _hear_template(self, waiting: "spares.Spares", fd: int) -> None:
        assert waiting.template is not None
        if fd == waiting.template.fileno():
            # It never says anything.
            self._lose_template(waiting)
            return
        waiting.hear(fd, {call.pid for call in self.calls.values()} | waiting.pids)
        self._serve_queue(waiting)

    def _lose_template(self, waiting: "spares.Spares") -> None:
        """It has ended, or does not keep to what was agreed: no call is forked from it any more."""
        template = waiting.template
        if template is not None:
            self.poll.unregister(template.fileno())
            template.close()
            waiting.template = None
            waiting.keep_none()
            system.broken = "the session's template has ended"
            system.kill_quietly(template.pid, system.SIGKILL)
            self._serve_queue(waiting)

    @staticmethod
    def _make_ready(setup: "dict[str, Any]") -> None:
        """What is needed behind the fork is imported before it: that costs a quarter, without pages to be copied."""
        if setup["guard"]:
            from . import confine  # noqa: F401
        if setup["confinement"] is not None:
            from . import namespaces, view  # noqa: F401
        if setup["accepts"] is not None:
            from . import codec  # noqa: F401
        if setup["limits"]:
            import resource  # noqa: F401

            from . import limits  # noqa: F401

            if "processes" in setup["limits"]:
                system.come_first()
                system.bound_pids(setup["limits"]["processes"] * setup["beside"])

    def _start_anew(self, call: ledger.Call, pipes: "call_process.Pipes", box: "list[bytes]") -> "dict[int, str]":
        """Fork the call's process now; tells what is to be relayed from it."""
        call.base, call.given = system.resident_memory(), pipes.given
        if pipes.given[1] + len(box[1]) > _LARGE:
            system.trim_heap()
        parent = posix.getpid()
        try:
            call.pid = self._fork()
        except OSError:
            pipes.close()
            raise
        if call.pid == 0:
            # Never returns.
            call_process.main(call.setup, box, pipes, parent)
        near = pipes.near_ends()
        for fd in near:
            posix.set_blocking(fd, False)
        return near

    @staticmethod
    def _fork() -> int:
        parent = posix.getpid()
        # Until the call process has let go of this one's handlers, a signal for it would be taken for one for us.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (*_HANDLED, _signal.SIGINT))
        try:
            return posix.fork()
        finally:
            if posix.getpid() == parent:
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (*_HANDLED, _signal.SIGINT))

    def _relay(self, fd: int) -> None:
        for call in self.calls.values():
            if fd in call.pipes:
                try:
                    data = posix.read(fd, channel.READ)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                if data:
                    self._pass_on(call, call.pipes[fd], data)
                else:
                    self._close(call, fd)
                return

    def _pass_on(self, call: ledger.Call, stream: str, data: bytes) -> None:
        self._take_down(call, stream, data)
        if call.overflows:
            self._end_call(call, "output")
        if self.channel.is_full:
            self.channel.flush()
        if self.channel.is_full:
            self._pause(True)

    def _take_down(self, call: ledger.Call, stream: str, data: bytes) -> None:
        if stream != "reply":
            call.seen[stream] += len(data)
            self.channel.send(_STREAMS[stream], call.number, data)
            return
        if call.settled:
            return  # it has answered
        call.follow(data)
        call.held += data
        if call.answered or call.setup["stream"] or len(call.held) > call_process.LONGEST_PREFACE:
            # The preface alone is nobody's hurry: the near side need not wake up for it.
            self._send_held(call)
        if call.wants_socket:
            call.asked = True
            self._send_held(call)
            self.channel.ask_for_socket(call.number)
        if call.returned and call.is_done:
            self._settle(call)

    def _settle(self, call: ledger.Call) -> None:
        """What is left to be said of the call is no reason to keep its caller waiting."""
        for fd, stream in list(call.pipes.items()):
            if stream != "reply":
                # What the function has written comes before what it returned.
                self._relay(fd)
        call.settled = True
        call.next_look = None
        call.deadline = time.monotonic() + _LONGEST_EXIT
        self.channel.send(frames.ANSWERED, call.number)

    def _send_held(self, call: ledger.Call) -> None:
        if call.held:
            self.channel.send(frames.REPLY, call.number, call.held)
            call.held = b""

    def _pause(self, paused: bool) -> None:
        for call in self.calls.values():
            for fd in call.pipes:
                # poll(2) reports a hang-up even when nothing is asked for, so a paused pipe is taken out altogether.
                try:
                    self.poll.unregister(fd)
                except KeyError:
                    pass
                if not paused:
                    self.poll.register(fd, select.POLLIN)
        self.paused = paused

    def _close(self, call: ledger.Call, fd: int) -> None:
        del call.pipes[fd]
        try:
            self.poll.unregister(fd)
        except KeyError:
            pass
        posix.close(fd)

    def _signal_call(self, number: int, what: bytes) -> None:
        call = self.calls.get(number)
        if call is None or not call.pid:
            if what != b"interrupt" or self.spares is None:
                self._cancel_early(call)
        elif call.status is None and not call.settled:
            if what == b"interrupt":
                if not self._has_answered(call) and self._interrupt(call):
                    call.interrupts += 1
            elif what.startswith(b"terminate"):
                if not call.ending:
                    call.setup["grace"] = float(what.split()[-1]) if b" " in what else call.setup["grace"]
                    self._ask_to_end(call, "cancelled", _signal.SIGTERM)
            elif what == b"kill":
                self._end_call(call, "cancelled")

    def _cancel_early(self, call: "ledger.Call | None") -> None:
        """It has no process yet; or, in a session that stays open, has ended meanwhile."""
        if call is not None and call.setup:
            if call in self.queue:
                self.queue.remove(call)
            self._refuse(call, "cancelled before it began")
        elif self.spares is None:
            self.stop = True

    def _has_answered(self, call: ledger.Call) -> bool:
        """Whether the function is over already: then no interrupt can reach it any more."""
        for fd, stream in list(call.pipes.items()):
            if stream == "reply":
                self._relay(fd)
        return call.answered

    def _interrupt(self, call: ledger.Call) -> bool:
        """Whether it reached the function: one that is over, and has not told yet, has blocked it."""
        begun = system.takes(call.pid, _signal.SIGINT)
        sent = system.kill_quietly(-call.pid, _signal.SIGINT) or system.kill_quietly(call.pid, _signal.SIGINT)
        return begun and sent and not system.is_left_pending(call.pid, _signal.SIGINT)

    def _end_call(self, call: ledger.Call, reason: str) -> None:
        call.ending = call.ending or reason
        self._kill(call)

    def _kill(self, call: ledger.Call) -> None:
        # What is below it is killed when it has ended: there may be helpers among them that tidy up.
        system.kill_quietly(call.pid, system.SIGKILL)

    def _signals(self) -> None:
        try:
            numbers = posix.read(self.wake, 512)
        except OSError:
            return
        if _signal.SIGTERM in numbers or _signal.SIGHUP in numbers:
            self.stop = True
            return
        system.reap(self._reaped)
        while True:
            # Finishing one may reap another.
            ended = [call for call in self.calls.values() if call.status is not None]
            if not ended:
                return
            self._finish(ended[0])

    def _reaped(self, pid: int, status: int, usage: "Any") -> None:
        """Charge a process that has ended, the call's own or an orphan of it, to its call."""
        if self.spares is not None and self.spares.drop(pid):
            return
        owner = None
        for call in self.calls.values():
            if call.pid == pid:
                call.status, call.wall = status, time.monotonic() - call.started
                owner = call
                break
            # An orphan comes here when its call has ended, if there may be several.
            if owner is None or (call.status is not None and owner.status is None):
                owner = call
        if owner is not None:
            owner.user += usage.ru_utime
            owner.system += usage.ru_stime
            owner.max_rss = max(owner.max_rss, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            if owner.pid != pid:
                owner.reaped_cpu += usage.ru_utime + usage.ru_stime

    def _finish(self, call: ledger.Call) -> None:
        """The call process has ended: kill what it left, relay what it had written, and give the verdict.

        Its pipes are read until they are empty, never until they end: a process that escaped may hold them for ever.
        """
        if call.setup["template"]:
            # What it has just forked goes with it.
            system.template = 0
        others = self._others(call)
        if call.setup["keep_children"] and not call.ending:
            clean = not system.reap(self._reaped)
        else:
            clean = not system.left_behind(others, self._reaped)
            if not clean:
                system.let_trackers_work(others, self._reaped)
                clean = system.kill_descendants(others, self._reaped)
            if not clean and system.kill_quietly(-call.pid, system.SIGKILL):
                # Without a /proc to find them by, at least those that stayed in the call's own process group.
                clean = system.kill_descendants(others, self._reaped, 1.0)
        for fd, stream in list(call.pipes.items()):
            left = 1 << 20
            while left > 0:
                try:
                    data = posix.read(fd, channel.READ)
                except OSError:
                    break
                if not data:
                    break
                left -= len(data)
                self._take_down(call, stream, data)
            self._close(call, fd)
        self._send_held(call)
        if call.overflows:
            call.ending = call.ending or "output"
        del self.calls[call.number]
        if self.spares is not None and self.spares.template is not None and self.spares.template.pid == call.pid:
            self._lose_template(self.spares)
        words = {
            "status": call.status,
            "ending": call.ending or "none",
            "user": "%.6f" % call.user,
            "system": "%.6f" % call.system,
            "wall": "%.6f" % call.wall,
            "interrupts": call.interrupts,
            # Where orphans go elsewhere, nobody knows whether there are any.
            "clean": int(clean and self.adopts),
            **call.figures(),
        }
        self.channel.send(frames.VERDICT, call.number, " ".join("%s=%s" % item for item in words.items()).encode())
        if call.setup["last"]:
            self.stop = True

    def _others(self, call: ledger.Call) -> "frozenset[int]":
        """What is below this process and not the call's."""
        others = {other.pid for other in self.calls.values() if other is not call and other.pid and other.status is None}
        return frozenset(others if self.spares is None else others | self.spares.pids)

    # --- the clock ------------------------------------------------------------------------------------------------

    def _patience(self) -> "float | None":
        if self.paused and not self.channel.is_full:
            self._pause(False)
        if self.spares is not None and self.spares.are_wanted and not (self.queue and self.spares.template):
            # When nobody waits for anything, or all are busy.
            return _BUSY if self.calls else 0
        times = [self.channel.due] if self.channel.due is not None else []
        times += [call.deadline for call in self.calls.values() if call.deadline is not None]
        times += [call.next_look for call in self.calls.values() if call.next_look is not None]
        return min(max(0.0, min(times) - time.monotonic()) * 1000 + 1, system.LONGEST_POLL) if times else None

    def _check_clock(self) -> None:
        now = time.monotonic()
        for call in self.calls.values():
            if call.status is not None:
                continue
            if call.next_look is not None and now >= call.next_look:
                self._look_after(call)
            if call.deadline is None or now < call.deadline:
                continue
            if call.setup["template"] and call.answered:
                call.deadline = None
                continue
            if call.settled:
                # It has returned, but does not end.
                call.deadline = None
                self._kill(call)
                continue
            if call.ending:
                call.deadline = None
                self._kill(call)
            elif not self._has_answered(call):
                self._ask_to_end(call, "timeout", _signal.SIGTERM)
            elif not call.late or self.paused:
                # The function was in time; a slow line is not its fault.
                call.late = True
                call.deadline = now + max(1.0, float(call.setup["grace"]))
            else:
                self._end_call(call, "timeout")

    def _look_after(self, call: ledger.Call) -> None:
        if call.watch is None:
            from . import watch

            lender = (system.template or posix.getpid()) if call.setup["shared"] and not call.setup["template"] else 0
            call.watch = watch.Watch(call.setup["limits"], call.base, call.given, call.box, call.started, lender)
        watched = call.watch
        others = self._others(call)
        roots = [pid for pid in system.children(posix.getpid()) if pid not in others]
        if call.setup["shared"]:
            roots = [call.pid]
        deadlines = [other.deadline for other in self.calls.values() if other.deadline is not None]
        call.next_look = watched.look(roots or [call.pid], call.reaped_cpu, min(deadlines, default=float("inf")))
        if watched.exceeded == "cpu":
            if not call.ending:
                self._ask_to_end(call, "cpu", _signal.SIGXCPU)
        elif watched.exceeded:
            if watched.exceeded == "processes":
                # All at one stroke, as far as possible: who forks meanwhile dies as well.
                # (A template goes with them, and is made anew.)
                beside = [other for other in self.calls.values() if other is not call and not other.setup.get("template")]
                alone = posix.getpid() == 1 and not beside
                system.kill_quietly(-1 if alone else -call.pid, system.SIGKILL)
            # What grows is not asked: it would go on growing.
            self._end_call(call, watched.exceeded)

    def _ask_to_end(self, call: ledger.Call, reason: str, number: int) -> None:
        call.ending = reason
        call.deadline = time.monotonic() + float(call.setup["grace"])
        system.kill_quietly(call.pid, number)

    def _end(self) -> None:
        """Leave nothing behind, then deliver what is still to be said, as long as somebody listens."""
        system.template = 0
        if self.calls or self.spares is not None:
            system.kill_descendants()
        self.channel.drain()


def main(nonce: bytes, lane: str, own: str, early: str, workers: str) -> None:
    """Serve the session and leave; never returns.

    :param early: modules that the calls will need
    :param workers: how many calls may run at a time in a session that stays open, 0 if it ends with its first, ``t`` behind
        it if they are to be forked from a template
    :param own: ``pids`` where this process shall be the first of a pid namespace, if that can be had, ``pids?`` where it need
        be only if signals cannot be kept from it, with ``!`` behind it if capabilities shall keep their worth
    """
    code = 1
    try:
        call_process.import_early()
        if own.startswith("pids") and posix.getpid() != 1:
            _import_now(early.split(",")[1:])
            _become_init(own)
        elif workers != "0":
            _import_now(early.split(",")[1:])
        adopts = system.become_supervisor()
        _quiet_terminal()
        Supervisor(nonce, lane, adopts, workers).serve()
        code = 0
    except frames.FrameError as error:
        posix.write(2, ("deliveryboy: %s\n" % error).encode())
        system.kill_descendants()
    finally:
        if code and sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
            system.kill_descendants()
        posix._exit(code)


def _are_apart() -> bool:
    """Whether a call that is kept from its supervisor is so from others, too."""
    from . import landlock

    return landlock.version() >= landlock.FIRST_WITH_SCOPES


def _import_now(names: "list[str]") -> None:
    """What the call would need anyhow: dearer behind a fork, where every page that is written has to be copied."""
    for name in names:
        getattr(sys.modules[__name__.rpartition(".")[0]], name)
    if "limits" in names:
        import resource  # noqa: F401


def _become_init(own: str) -> None:
    from . import landlock, namespaces

    if "?" in own and landlock.version() >= landlock.FIRST_WITH_SCOPES:
        return
    # In a user namespace there are no rights for it any more.
    system.come_first(True)
    try:
        namespaces.become_init("!" in own)
    except namespaces.Halfway as error:
        system.broken = (
            "new namespaces cannot be made ready there (%s); put Unshare(pid=True) or Bubblewrap() into the chain" % error
        )
    system.come_first()


def _quiet_terminal() -> None:
    """On a terminal, stop the echo and the editing of lines, which cost time and cut long lines."""
    if posix.isatty(0):
        try:
            import termios

            mode = termios.tcgetattr(0)
            mode[0] &= ~(termios.ICRNL | termios.IXON | termios.ISTRIP)
            mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except (ImportError, OSError, termios.error):
            pass
