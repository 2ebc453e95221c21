"""How a call process answers, and what it does before it ends; see records.py.

Contract: far side, standard library only, Python 3.8+.
"""

import _signal  # type: ignore[import-not-found]
import _thread
import posix
import sys

from . import pipes, rebuild, records, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# Bytes of an answer that may have something large in it, and parts that it then has.
_LARGE, _FEW = 1 << 16, 100
form: "Any" = rebuild  # how answers are packed: as pickles, or, for a caller that does not trust them, by codec.py as data
_replier: "tuple[int, tuple[int, int]]" = (0, (0, 0))
_interrupts: "list[int]" = []
# References to the files that the template had open.
_inherited: "list[Any]" = []
# Seconds that a file may take whose lock a thread may hold for ever.
_LONGEST_FLUSH = 5.0


def begin() -> None:
    """This is the process that answers, to where descriptor 3 leads now."""
    global _replier
    _replier = (posix.getpid(), _identity())


def is_ours() -> bool:
    """Whether this is the process that answers, and not a child that the function has forked."""
    return _replier[0] == posix.getpid()


class CannotTravel(Exception):
    """What the function has made cannot be packed."""


def _identity() -> "tuple[int, int]":
    """What the reply's descriptor refers to: a function that closes all descriptors may have opened a file in its place."""
    try:
        found = posix.fstat(pipes.REPLY_FD)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def send_nothing() -> None:
    """Nobody listens."""
    null = posix.open("/dev/null", posix.O_WRONLY)
    for place in range(1, pipes.REPLY_FD + 1):
        posix.dup2(null, place, inheritable=place < pipes.REPLY_FD)
    posix.close(null)
    begin()


def in_data(accepts: "list[str]") -> None:
    global form
    from . import codec

    codec.accept(accepts)
    form = codec


def pack(value: object) -> "Any":
    """The answer, as bytes or, if there is much of it, in parts."""
    written, is_pickle = form.dump_apart(value)
    if len(written) < _FEW and sum(map(_size_of, written)) < _LARGE:
        return b"".join(written)
    from . import bulk

    parts = bulk.Parts(written, is_pickle)
    return parts if parts.large else parts.body


def pack_last(value: object) -> "Any":
    """What the function returned; raises CannotTravel, or what had not to do with that."""
    try:
        return pack(value)
    except MemoryError as error:
        error.args = ("while the answer was packed, which takes as much memory again as the answer has",)
        raise
    except BaseException as error:
        if system.is_of_a_handler(error):
            raise
        raise CannotTravel(error) from None


def _size_of(part: "Any") -> int:
    return len(part) if type(part) is bytes else _LARGE


def stream(items: "Any") -> "Any":
    """Send what the generator makes, item by item; its own return value is the answer."""
    while True:
        try:
            item = next(items)
        except StopIteration as end:
            return end.value
        if _replier != (posix.getpid(), _identity()):
            posix._exit(0)  # a child that the generator forked, and that went on in its place
        try:
            packed = form.dumps(item)
        except MemoryError:
            raise
        except Exception as error:
            raise CannotTravel(error) from None
        send(b"I", packed)


def pack_failure(error: BaseException) -> bytes:
    from . import limits

    limits.make_room()
    from . import evidence, failure

    limit = evidence.cause(error)
    if limit and evidence.is_unsaid(error):
        error, unsaid = MemoryError(), error
        error.__context__ = unsaid
    failure.let_go(error)
    return failure.pack(error, form, limit)


def why(error: BaseException) -> bytes:
    """Why it cannot travel."""
    text = _text_of(error) if form is not rebuild else "%s: %s" % (type(error).__name__, _text_of(error))
    return text.encode("utf-8", "replace")


def _text_of(error: BaseException) -> str:
    from . import failure

    return failure.text_of(error)


def tell(applied: "list[str]") -> None:
    if applied:
        send(b"A", "\n".join(applied).encode())


def exit_code(error: SystemExit) -> int:
    """The code with which Python itself would end on *error*."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        sys.stderr.write(str(code) + "\n")
    except BaseException:
        pass  # as Python does: it ends anyhow
    return 1


def leave() -> None:
    """What a Python process owes before it ends: exit functions, then what is still buffered."""
    try:
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
    except BaseException:
        pass  # before 3.10 the last error is raised once more, when it has been shown
    for file in _files_left():
        _close(file)
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:
            pass  # the function may have put anything there
    _flush_c_streams()


def flush_files() -> None:
    """Or each process that is forked from this one would write what they have buffered."""
    import _weakref

    for file in _open_files():
        try:
            if not file.closed and file.writable():
                # What is frozen is not found any more.
                _inherited.append(_weakref.ref(file))
                file.flush()
        except Exception:
            pass  # whoever uses it will hear of it
    _flush_c_streams()


def _flush_c_streams() -> None:
    if not _thread._count():
        # Or a thread might hold the lock of one for ever.
        system.flush_streams()


def _files_left() -> "list[Any]":
    """Files that something still refers to: a Python that ends closes them, and so writes what they have buffered."""
    try:
        # The directory's own descriptor is listed too.
        if len(posix.listdir("/proc/self/fd")) <= pipes.REPLY_FD + 2:
            return []
    except OSError:
        pass
    return _open_files()


def _open_files() -> "list[Any]":
    """Those that may have to be written, those that write into others first: text, then compressed files."""
    import _io
    import gc

    # By what they are, not by what they say they are: a proxy would ask what it stands for.
    found: "list[Any]" = [each for each in gc.get_objects() if issubclass(type(each), _io._IOBase)]
    found += [file for file in (reference() for reference in _inherited) if file is not None]
    files = [file for file in found if not issubclass(type(file), _io._RawIOBase)]
    return sorted(files, key=lambda file: _depth(type(file)))


def _depth(kind: type) -> int:
    import _io

    if issubclass(kind, _io._TextIOBase):
        return 0
    return 2 if issubclass(kind, (_io.BufferedWriter, _io.BufferedRandom, _io.BufferedRWPair)) else 1


def _close(file: "Any") -> None:
    try:
        # Who waits for something to read holds the lock of what he reads from, and there is nothing to be written there.
        if file.closed or not file.writable():
            return
        act = file.close if file.fileno() > 2 else file.flush
    except BaseException:
        return  # as the interpreter would do
    done = _thread.allocate_lock()
    done.acquire()
    try:
        if not _thread._count():
            raise RuntimeError
        # Another thread may hold its lock, and wait for ever.
        _thread.start_new_thread(_attempt, (act, done))
    except RuntimeError:
        _attempt(act, done)
    done.acquire(timeout=_LONGEST_FLUSH)


def _attempt(act: "Any", done: "Any") -> None:
    try:
        act()
    except BaseException:
        pass  # as the interpreter would do
    done.release()


def note_interrupt(number: int, frame: object) -> None:
    """Another thread of the function's may take what this one has blocked."""
    _interrupts.append(number)


def reply(status: bytes, payload: "Any", first: "Any" = None, by_socket: bool = False) -> int:
    """Say the last record, and tell with which code to end.

    :param first: what is to be done before
    :param by_socket: whether what is large may go by a socket
    """
    if first is not None:
        first()
    if not is_ours():
        return 0  # a child that the function forked and that returned from it as well: only one of the two answers
    if _replier[1] != _identity():
        posix.write(2, b"deliveryboy: the function closed descriptor 3, over which its answer goes\n")
        return records.FAILED
    if isinstance(payload, bytes):
        send(status, payload)
    else:
        from . import bulk

        bulk.send_parts(status, payload, send, pipes.REPLY_FD if by_socket else -1)
    return records.INTERRUPTED_TOO_LATE if _interrupts or _signal.SIGINT in _signal.sigpending() else 0


def send(status: bytes, *payload: "Any") -> None:
    for part in (status + sum(map(len, payload)).to_bytes(8, "big"), *payload):
        left = memoryview(part)
        while left:
            left = left[posix.write(pipes.REPLY_FD, left) :]
