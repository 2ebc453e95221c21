"""Call processes that are there before their calls, for sessions that stay open.

Contract: far side, standard library only, Python 3.8+.  A spare is forked from the supervisor, in which nothing of the
caller's has ever run, or from a template, which has imported and initialized what calls shall share.  It is ready but for
what its call asks for, and gets that on descriptor 4, a socket: one byte, which tells what descriptors come with it: its stdin,
the socket for its large arguments, and a file with the sizes of setup and of the parts of its box in 8 bytes each and these
themselves; small ones come behind the byte instead of in a file.  At the end of input nobody wants it: it leaves.

A template gets, on its own socket, a byte and the descriptors of a spare to be, and forks it twice, so that it becomes the
supervisor's child.  The spare then says a byte on its socket, with which the kernel tells who it is (SCM_CREDENTIALS).
"""

import marshal
import posix
import sys
import time

from . import call as call_process
from . import sockets, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

# Bytes of a call that go through the socket itself.
_SMALL = 60000
_SIZES = 32
_WITH_INPUT, _WITH_SOCKET = 1, 2
# Whoever kills them again and again shall not keep the supervisor busy.
_MOST_DEATHS = 1000
_MOST_TRIES = 3
_POLLIN = 1
# Seconds until it is tried again where there was no room.
_PAUSE = 1.0
_SCM_CREDENTIALS = 2  # unix(7)


class Spare:
    """One that waits, or will as soon as it is forked; ``pid`` is 0 until then."""

    def __init__(self, stdin: int, base: int, setup: bytes) -> None:
        """:param setup: what it prepares itself for"""
        import _socket

        self.pid = 0
        self.setup = setup
        self.base = base
        self.pipes = call_process.Pipes(stdin, False)
        try:
            self._feed, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        except OSError:
            self.pipes.close()
            raise
        self.pipes.far.append(far.detach())

    def fileno(self) -> int:
        return int(self._feed.fileno())

    def introduces_itself(self) -> None:
        """It is to be forked by another, and says itself who it is."""
        import _socket

        self._feed.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)

    def who(self) -> int:
        """Its number, 0 if it has ended."""
        import _socket

        try:
            data, words, _, _ = self._feed.recvmsg(1, _socket.CMSG_SPACE(3 * sockets.INT), _socket.MSG_DONTWAIT)
        except OSError:
            return 0
        if not data:
            return 0
        found = [word for level, kind, word in words if (level, kind) == (_socket.SOL_SOCKET, _SCM_CREDENTIALS)]
        return int.from_bytes(found[0][: sockets.INT], sys.byteorder) if found else 0

    def settle(self, pid: int) -> None:
        """It has been forked."""
        self.pid = pid
        self.near = self.pipes.near_ends()
        for fd in self.near:
            posix.set_blocking(fd, False)

    def feed(self, parts: "list[bytes]", given: bytes, socket: int) -> bool:
        """Give it its call; false if it is no more."""
        message = b"".join([len(part).to_bytes(8, "big") for part in parts] + parts)
        files = [call_process.input_file(given)] if given else []
        try:
            if len(message) > _SMALL:
                files.append(call_process.input_file(message))
                message = b""
            head = bytes((_WITH_INPUT * bool(given) + _WITH_SOCKET * (socket >= 0),))
            passed = [*files[: bool(given)], *([socket] if socket >= 0 else []), *files[bool(given) :]]
            self._feed.sendmsg([head, message], sockets.rights(passed))
            if given:
                self.pipes.given = (posix.fstat(files[0]).st_ino, len(given))
            return True
        except OSError:
            return False
        finally:
            self._feed.close()
            for fd in files:
                posix.close(fd)

    def close(self) -> None:
        self._feed.close()
        self.pipes.close()


class Spares:
    """As many as calls may run at a time."""

    def __init__(self, number: int, fork: "Callable[[], int]", from_template: bool) -> None:
        self._from_template = from_template
        self._number = self._most = number
        self._fork = fork
        self._waiting: "list[Spare]" = []
        self._deaths = 0
        self._paused = 0.0
        self.expected = b""
        self._null = posix.open("/dev/null", posix.O_RDONLY)
        self.template: "Template | None" = None

    @property
    def pids(self) -> "set[int]":
        return {spare.pid for spare in self._waiting}

    @property
    def are_wanted(self) -> bool:
        """Whether there are fewer than there shall be."""
        if self._paused and time.monotonic() < self._paused:
            return False
        if self._from_template:
            return self.template is not None and len(self._waiting) + len(self.template.asked) < self._number
        return len(self._waiting) < self._number

    @property
    def is_ready(self) -> bool:
        """Whether a call can be given its process now."""
        return bool(self._waiting) or not self._from_template

    def pause(self) -> None:
        """Let a moment pass."""
        self._paused = time.monotonic() + _PAUSE

    def keep_none(self) -> None:
        """Where a call could reach one that waits, it is forked when it is needed."""
        self._number = 0

    def fill(self, rehearse: bool = True) -> None:
        """Fork one, or have it forked; raises OSError.

        :param rehearse: whether it has the time to, before its call comes
        """
        if self._from_template:
            if self.template is not None:
                self.template.ask(self._null)
            return
        spare = Spare(posix.dup(self._null), system.resident_memory(), self.expected if rehearse else b"")
        parent = posix.getpid()
        try:
            pid = self._fork()
        except OSError:
            spare.close()
            raise
        if pid == 0:
            wait_for_call(spare.pipes, parent, spare.setup, rehearse)
        spare.settle(pid)
        self._waiting.append(spare)

    def ask_for(self, calls: int) -> None:
        """Have as many made as so many calls need that wait for theirs; raises OSError."""
        if self.template is not None:
            try:
                for _ in range(min(calls, self._most) - len(self._waiting) - len(self.template.asked)):
                    self.template.ask(self._null)
            except BlockingIOError:
                pass  # it is busy, and will hear of it later

    def hear(self, fd: int, known: "set[int]") -> None:
        """One that the template has forked says who it is, or has ended."""
        assert self.template is not None
        spare = self.template.answered(fd, known)
        if spare is not None:
            self._waiting.append(spare)

    def take(self, setup: bytes, box: "list[bytes]", given: bytes, socket: int) -> "Spare | None":
        """One that has been given its call; None if there has to be a template's first.  Raises OSError."""
        # The next will most likely be like this one.
        self.expected = setup
        for _ in range(len(self._waiting) + _MOST_TRIES):
            if not self._waiting:
                if self._from_template:
                    return None
                self.fill(False)
            spare = self._waiting.pop(0)
            if spare.setup in (b"", setup) and spare.feed([b"" if spare.setup else setup, *box], given, socket):
                return spare
            spare.close()
        raise OSError("none of its processes can be told what to do")

    def drop(self, pid: int) -> bool:
        """Forget the one that has ended; tells whether it was one of these."""
        for spare in self._waiting:
            if spare.pid == pid:
                self._waiting.remove(spare)
                spare.close()
                self._deaths += 1
                if self._deaths > _MOST_DEATHS:
                    self.keep_none()
                return True
        return False


class Template:
    """The supervisor's end of the socket to the process that others are to be forked from.

    :ivar asked: those that are being made
    """

    def __init__(self, pid: int, socket: "Any", poll: "Any") -> None:
        self.pid = pid
        self.asked: "dict[int, Spare]" = {}
        self._poll = poll
        self._socket = socket
        socket.setblocking(False)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def concerns(self, fd: int) -> bool:
        """Whether it is for this, or for one that is being made, that something came there."""
        return fd == self.fileno() or fd in self.asked

    def ask(self, null: int) -> None:
        """Have one forked; raises OSError."""
        spare = Spare(posix.dup(null), 0, b"")
        try:
            spare.introduces_itself()
            self._socket.sendmsg([b"+"], sockets.rights([spare.pipes.stdin, *spare.pipes.far]))
        except OSError:
            spare.close()
            raise
        # The template has its own by now; so the end is seen when that has ended.
        spare.pipes.near_ends()
        self.asked[spare.fileno()] = spare
        self._poll.register(spare.fileno(), _POLLIN)

    def answered(self, fd: int, known: "set[int]") -> "Spare | None":
        """That one, if it lives."""
        spare = self.asked.pop(fd)
        self._poll.unregister(fd)
        pid = spare.who()
        # The template runs what the caller gave it, and may have anybody else speak.
        if pid in known or not _is_child(pid):
            spare.close()
            return None
        spare.settle(pid)
        spare.base = _resident(self.pid)
        return spare

    def close(self) -> None:
        self._socket.close()
        for fd, spare in self.asked.items():
            self._poll.unregister(fd)
            spare.close()


def _resident(pid: int) -> int:
    try:
        return system.Stat(pid).resident
    except OSError:
        return 0


def _is_child(pid: int) -> bool:
    try:
        return system.Stat(pid).parent == posix.getpid()
    except OSError:
        return False


# --- in the spare -----------------------------------------------------------------------------------------------------


def wait_for_call(pipes: "call_process.Pipes", parent: int, expected: bytes, rehearse: bool) -> "Any":
    """Become a spare, and then a call; never returns.

    :param expected: the setup of the call that is to come, if that is known
    """
    code = call_process.FAILED
    try:
        call_process.take_place(pipes, parent)
        setup = marshal.loads(expected) if expected else {}
        if rehearse:
            call_process.rehearse(setup)
        parts = _read()
        packed = parts.pop(0)
        code = call_process.run(marshal.loads(packed) if packed else setup, parts)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        posix._exit(code)


def _read() -> "list[bytes]":
    import _socket

    socket = _socket.socket(fileno=call_process.FEED_FD)
    data, files = sockets.receive(socket, 1 << 16, 3)
    if not data:
        posix._exit(0)
    comes, data = data[0], data[1:]
    if comes & _WITH_INPUT:
        _put(files.pop(0), 0)
    if comes & _WITH_SOCKET:
        call_process.bulk_fd = files.pop(0)
    if files:
        data = _contents(files[0])
    wanted = _SIZES
    while len(data) < wanted:
        piece = socket.recv(1 << 16)
        if not piece:
            posix._exit(0)
        data += piece
    sizes = [int.from_bytes(data[start : start + 8], "big") for start in range(0, _SIZES, 8)]
    while len(data) < _SIZES + sum(sizes):
        data += socket.recv(1 << 16)
    socket.close()
    parts = []
    start = _SIZES
    for size in sizes:
        parts.append(data[start : start + size])
        start += size
    return parts


def _contents(fd: int) -> bytes:
    pieces: "list[bytes]" = []
    while True:
        piece = posix.read(fd, 1 << 24)
        if not piece:
            posix.close(fd)
            return b"".join(pieces)
        pieces.append(piece)


def _put(fd: int, place: int) -> None:
    posix.dup2(fd, place)
    posix.close(fd)


# --- in the template --------------------------------------------------------------------------------------------------


def serve_as_template(supervisor: int) -> "Any":
    """Fork a spare whenever one is asked for; never returns.  Descriptor 4 is the socket."""
    import _socket
    import gc

    # What calls share with each other is not copied for the collector's sake.
    gc.collect()
    gc.freeze()
    system.use_huge_pages()

    socket = _socket.socket(fileno=call_process.FEED_FD)
    while True:
        data, files = sockets.receive(socket, 1, 6)
        if not data:
            posix._exit(0)
        middle = posix.fork()
        if middle == 0:
            _fork_away(files, supervisor)
        posix.waitpid(middle, 0)
        for fd in files:
            posix.close(fd)


def _fork_away(files: "list[int]", supervisor: int) -> "Any":
    import _socket

    middle = posix.getpid()
    if posix.fork():
        posix._exit(0)
    # Whoever adopts it is its parent from then on: the supervisor, or nobody who matters.
    while posix.getppid() == middle:
        time.sleep(0.0001)
    try:
        _socket.socket(fileno=posix.dup(files[-1])).send(b"+")
    except OSError:
        posix._exit(0)  # nobody wants it any more
    wait_for_call(call_process.Pipes.of(files), supervisor, b"", True)
