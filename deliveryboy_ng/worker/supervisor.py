"""The supervisor: opens the wire on the far side, gives each call a process, and alone tells what became of it.

Contract: far side, standard library only, Python 3.8+.  ``main(...)`` is entered once by boot.py.
Stdin carries frames to this side, stdout frames to the near side; stderr is left alone.  It never runs, unpickles or
imports anything of the caller's: that is done in the call process (call.py), whose output, reply and end it relays.
When stdin ends, or the wire breaks, everything it started is killed and it leaves.

Frames of a call, to here:     SETUP (marshalled dict), MODULES (marshalled dict), BODY (pickle), INPUT (stdin), START,
                               SIGNAL b"interrupt", b"terminate [SECONDS]" or b"kill",
                               LARGE (kinds and sizes of what BODY does not hold), and that as PIECES, or by a socket, of
                               which ATTACH brings the descriptor
Frames of a call, from here:   STARTED pid host, STDOUT, STDERR, REPLY, ANSWERED, VERDICT key=value ..., REFUSED text,
                               BULK (a socket is wanted: for what is LARGE, or for what the reply has announced)
"""

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import select
import sys
import time

from . import channel, frames, ledger, pipes, records, relay, spare, spares, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from . import templates

# Seconds after a call's start, with and without limits that have to be watched.
_FIRST_LOOK, _FIRST_IDLE_LOOK = 0.005, 0.1
# Seconds that a call is busy with being confined, before anything of the caller's runs in it.
_CONFINING = 0.004
# Milliseconds to wait for something better to do than forking ahead, while calls keep all processors busy.
_BUSY = 2


class Supervisor:
    """Owns the wire, the clock and every process below it."""

    def __init__(self, nonce: bytes, lane: str, adopts: bool, workers: str) -> None:
        """:param workers: see :func:`main`"""
        self.adopts = adopts
        self.stays = workers != "0"
        self.spares = spares.Spares(int(workers.rstrip("t")), workers.endswith("t"), self._new_ends, self._fork)
        self.queue: "list[ledger.Call]" = []
        self.calls: "dict[int, ledger.Call]" = {}
        self.listening = True
        self.stop = False
        self.host = posix.uname().nodename
        self.processors = system.processors() if self.stays else 1
        self.poll = select.poll()
        self.wake = self._watch_signals()
        self.poll.register(self.wake, select.POLLIN)
        self.channel = channel.Channel(nonce, lane, self.poll)
        self.relay = relay.Relay(self.channel, self.poll, self.calls)

    @staticmethod
    def _watch_signals() -> int:
        wake, poke = posix.pipe()
        posix.set_blocking(wake, False)
        posix.set_blocking(poke, False)
        _signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in system.HANDLED:
            _signal.signal(number, lambda signum, frame: None)
        # Ctrl-C reaches the call as a frame; a terminal's own SIGINT must not take the supervisor away from it.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, system.HANDLED)
        system.changed = system.changed_signals()
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
            if not events and self.spares.are_wanted:
                self._fork_ahead()
        self._end()

    def _handle(self, fd: int, event: int) -> None:
        if fd == self.wake:
            self._signals()
        elif fd == 0:
            self._listen()
        elif self.spares.template is not None and self.spares.template.concerns(fd):
            self._hear_template(self.spares.template, fd)
        elif fd == 1:
            if event & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                self.channel.hang_up()
        else:
            self.relay.read(fd)

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
                from . import ending

                ending.hear(self, number, payload)
                continue
            if kind == frames.ATTACH:
                self._attach(self.calls.get(number), bool(payload))
                continue
            if kind != frames.SETUP and number not in self.calls:
                continue  # it has been refused
            call = self.calls.setdefault(number, ledger.Call(number))
            call.parcel.add(kind, payload)
            if kind == frames.SETUP and not more:
                self._set_up(call)
            elif kind == frames.LARGE and not more and call.setup["bulk"]:
                self.channel.ask_for_socket(number)
            elif kind == frames.START:
                self._start(call)

    def _set_up(self, call: ledger.Call) -> None:
        call.packed_setup = call.parcel.part(frames.SETUP)
        call.setup = marshal.loads(call.packed_setup)

    def _attach(self, call: "ledger.Call | None", comes: bool) -> None:
        """A socket has come that was asked for, or there is none: hand it on.  Its bytes are none of this process's business."""
        fd = self.channel.descriptors.pop(0) if comes and self.channel.descriptors else -1
        if call is not None and not call.pid:
            call.parcel.socket = fd
            return
        from . import sockets

        for reply, stream in call.pipes.items() if call is not None else ():
            if stream == "reply" and not sockets.send_descriptor(reply, fd):
                sockets.send_descriptor(reply, -1)
        if fd >= 0:
            posix.close(fd)

    # --- calls ----------------------------------------------------------------------------------------------------

    def _start(self, call: ledger.Call) -> None:
        self.queue.append(call)
        self._serve_queue()

    @staticmethod
    def _check_start(call: ledger.Call) -> None:
        if system.broken:
            raise OSError(system.broken)
        if call.parcel.problem:
            raise OSError(call.parcel.problem)
        if call.setup["template"]:
            from . import processes

            if not processes.can_be_watched():
                raise OSError("preload and initializer need a /proc that shows this session's processes: mount one")
        if call.parcel.announced and not call.parcel.has_pieces:
            raise OSError("the socket for large arguments did not arrive: too many open files")

    def refuse(self, call: ledger.Call, reason: str) -> None:
        self.channel.send(frames.REFUSED, call.number, reason.encode())
        call.parcel.close()
        del self.calls[call.number]
        self.stop = self.stop or not self.stays

    def _serve_queue(self) -> None:
        """Give their processes to those that have come, as far as there are any."""
        try:
            self.spares.ask_for(len(self.queue))
        except OSError as error:
            if self.queue and not (self.spares.template and self.spares.template.asked):
                self.refuse(self.queue.pop(0), "the far side cannot start a process: %s" % error)
        while self.queue:
            call = self.queue[0]
            try:
                self._check_start(call)
                self._bound_processes()
                if self.stays and call.setup["guard"] and not _are_apart():
                    self.spares.keep_none()
                found = self.spares.take(call)
            except OSError as error:
                self.refuse(self.queue.pop(0), "the far side cannot start a process: %s" % error)
                continue
            if found is None:
                return
            del self.queue[0]
            call.take(found)
            if call.setup["template"]:
                self._install_template(found)
            else:
                found.ends.stop_feeding()
            self._note_start(call)

    def _note_start(self, call: ledger.Call) -> None:
        call.started = time.monotonic()
        timeout = call.setup["timeout"]
        if timeout is not None:
            call.deadline = call.started + float(timeout)
        if call.setup["limits"] or not call.setup["detached"]:
            call.next_look = call.started + (_FIRST_LOOK if call.setup["limits"] else _FIRST_IDLE_LOOK)
            if call.setup["confinement"] is not None:
                call.next_look += _CONFINING
        self.relay.begin(call)
        started = ("%d %s" % (call.pid, self.host)).encode()
        self.channel.send(frames.STARTED, call.number, started, waits=call.setup["shared"])
        if call.setup["detached"]:
            self.channel.detach()

    # --- processes ahead of their calls ---------------------------------------------------------------------------

    def _fork_ahead(self) -> None:
        try:
            self.spares.fill()
        except OSError:
            # There is no room for one now; calls will ask for theirs themselves, and hear of it.
            self.spares.pause()

    def _new_ends(self, is_trusted: bool) -> pipes.Pipes:
        return pipes.Pipes(pipes.no_input(), self.channel.passes_descriptors, is_trusted)

    def _install_template(self, itself: spares.Spare) -> None:
        from . import templates

        self.spares.template = templates.Template(itself, self.poll)
        system.template = itself.pid

    def _hear_template(self, template: "templates.Template", fd: int) -> None:
        if fd != template.fileno():
            self.spares.hear(fd, {call.pid for call in self.calls.values()} | self.spares.pids)
            if self.spares.are_all_stillborn:
                self._lose_template(template, "whatever the session's template forks ends at once")
            self._serve_queue()
        else:
            # It never says anything.
            self._lose_template(template)

    def _lose_template(self, template: "templates.Template", why: str = records.NO_TEMPLATE) -> None:
        """It has ended, or does not keep to what was agreed: no call is forked from it any more."""
        template.close()
        self.spares.template = None
        self.spares.keep_none()
        system.broken = why
        system.kill_quietly(template.pid, system.SIGKILL)
        self._serve_queue()

    def _bound_processes(self) -> None:
        """Of those that run beside each other all must be bound, or one would be by the others' limits."""
        setups = [call.setup for call in self.calls.values() if call.setup and not call.setup["template"]]
        bounds = [int((setup["limits"] or {}).get("processes", 0)) for setup in setups]
        if any(bounds):
            system.come_first()
        system.bound_pids(sum(bounds) if all(bounds) else 0)

    @staticmethod
    def _fork() -> int:
        parent = posix.getpid()
        # Until the call process has let go of this one's handlers, a signal for it would be taken for one for us.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, system.KEPT)
        try:
            return posix.fork()
        finally:
            if posix.getpid() == parent:
                _signal.pthread_sigmask(_signal.SIG_UNBLOCK, system.KEPT)

    def _signals(self) -> None:
        try:
            numbers = posix.read(self.wake, 512)
        except OSError:
            return
        if _signal.SIGTERM in numbers or _signal.SIGHUP in numbers:
            self.stop = True
            return
        self.have_ended()
        while True:
            # Finishing one may reap another.
            ended = [call for call in self.calls.values() if call.status is not None]
            if not ended:
                return
            self._finish(ended[0])

    def have_ended(self) -> bool:
        """Wait for what has ended; tells whether there are calls among it that are still to be finished."""
        system.reap(self._reaped)
        return any(call.status is not None for call in self.calls.values())

    def _reaped(self, pid: int, status: int, used: "tuple[float, float, int]") -> None:
        """Charge a process that has ended, the call's own or an orphan of it, to its call."""
        if self.spares.drop(pid):
            return
        owner = self._owner_of(pid)
        if owner is not None:
            if owner.pid == pid:
                owner.status, owner.wall = status, time.monotonic() - owner.started
            user, system_time, resident = used
            owner.user += user
            owner.system += system_time
            owner.max_rss = max(owner.max_rss, resident)
            if owner.pid != pid:
                owner.reaped_cpu += user + system_time

    def _owner_of(self, pid: int) -> "ledger.Call | None":
        """The call that it was, or has left behind: where there may be several, an orphan comes here when its call has ended."""
        started = [call for call in self.calls.values() if call.pid]
        for call in started:
            if call.pid == pid:
                return call
        ended = [call for call in started if call.status is not None]
        running = [call for call in started if not call.setup["template"]] or started
        return ended[0] if ended else running[0] if len(running) == 1 else None

    def _finish(self, call: ledger.Call) -> None:
        """The call process has ended: kill what it left, relay what it had written, and give the verdict."""
        if call.setup["template"]:
            # What it has just forked goes with it.
            system.template = 0
        clean = self._clear_up(call)
        self.relay.finish(call)
        if call.overflows:
            call.ending = call.ending or "output"
        del self.calls[call.number]
        template = self.spares.template
        if template is not None and template.pid == call.pid:
            self._lose_template(template)
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
        self.stop = self.stop or not self.stays

    def _clear_up(self, call: ledger.Call) -> bool:
        """End what the call has left behind; tells whether nothing is there any more."""
        if not system.reap(self._reaped):
            return True
        if call.setup["keep_children"] and not call.ending:
            return False
        from . import processes

        return processes.clear_up(call.pid, self.others(call), self._reaped)

    def others(self, call: ledger.Call) -> "frozenset[int]":
        """What is below this process and not the call's."""
        others = {other.pid for other in self.calls.values() if other is not call and other.pid and other.status is None}
        return frozenset(others | self.spares.pids)

    # --- the clock ------------------------------------------------------------------------------------------------

    def _patience(self) -> "float | None":
        self.relay.go_on()
        if self.spares.are_wanted and not (self.queue and self.spares.template):
            busy = len(self.calls) - (self.spares.template is not None)
            return _BUSY if busy >= self.processors else 0
        times = [self.channel.due] if self.channel.due is not None else []
        times += [call.deadline for call in self.calls.values() if call.deadline is not None]
        times += [call.next_look for call in self.calls.values() if call.next_look is not None]
        return min(max(0.0, min(times) - time.monotonic()) * 1000 + 1, system.LONGEST_POLL) if times else None

    def _check_clock(self) -> None:
        now = time.monotonic()
        for call in self.calls.values():
            due = min(call.deadline or now + 1, call.next_look or now + 1)
            if call.status is None and now >= due:
                from . import ending

                ending.check(self, call, now)

    def _end(self) -> None:
        """Leave nothing behind, then deliver what is still to be said, as long as somebody listens."""
        system.template = 0
        if self.calls or self.stays or self.spares.pids:
            from . import processes

            processes.kill_descendants()
        self.channel.drain()


def main(nonce: bytes, lane: str, own: str, early: str, workers: str) -> "NoReturn":
    """Serve the session and leave; never returns.

    :param own: what this process shall have of its own, see namespaces.py; ``-`` for nothing
    :param early: ``-``, and after it, parted by commas, the modules that its calls will need for certain
    :param workers: how many calls may run at a time in a session that stays open, 0 if it ends with its first, ``t`` behind
        it if they are to be forked from a template
    """
    code = 1
    try:
        # Dearer behind a fork, where every page that is written has to be copied.
        spare.prepare(early.split(",")[1:], workers != "0")
        if own != "-" and posix.getpid() != 1:
            from . import namespaces

            namespaces.take_over(own)
        adopts = system.become_supervisor()
        _quiet_terminal()
        Supervisor(nonce, lane, adopts, workers).serve()
        code = 0
    except frames.FrameError as error:
        posix.write(2, ("deliveryboy: %s\n" % error).encode())
    finally:
        try:
            if code:
                _give_up()
        finally:
            posix._exit(code)


def _give_up() -> None:
    if sys.exc_info()[0] is not None:
        sys.excepthook(*sys.exc_info())
    from . import processes

    # Descriptors may be what it has failed for; a signal would complain of its own.
    _signal.set_wakeup_fd(-1)
    posix.closerange(3, 1 << 10)
    processes.kill_descendants()


def _are_apart() -> bool:
    """Whether a call that is kept from its supervisor is so from others, too."""
    from . import landlock

    return landlock.version() >= landlock.FIRST_WITH_SCOPES


def _quiet_terminal() -> None:
    """On a terminal, stop the echo and the editing of lines, which cost time and cut long lines."""
    if posix.isatty(0):
        try:
            import termios
        except ImportError:
            return
        try:
            mode = termios.tcgetattr(0)
            mode[0] &= ~(termios.ICRNL | termios.IXON | termios.ISTRIP)
            mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(0, termios.TCSANOW, mode)
        except (OSError, termios.error):
            pass
