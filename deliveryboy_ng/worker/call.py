"""The call process: prepares itself as the caller asked, runs the function, packs the reply, and ends.

Contract: far side, standard library only, Python 3.8+.  ``main(...)`` is entered in the process that the supervisor has
just forked and never returns.  Descriptor 0 is the call's own input, 1 and 2 are pipes that the supervisor relays, 3 is
the reply: records of one status byte, the payload's size in 8 bytes, the payload.

    I value       what a generator function has made; before the last record
    A text    what is enforced from here on, line by line; the first record if there is one, and never the last
    B sizes   how large the pieces are that R does not hold; it waits then for a socket to come through descriptor 3, and writes
              them there before R (bulk.py); if none comes, it says B once more, without sizes, and R holds all
    R value       the function returned            X records  it raised: records as failure.py makes them
    U text        it returned what cannot travel   L records  box could not be unpacked
    E text        the call cannot be prepared as asked; the function has not run
    V text        another Python version would be needed; the function has not run

Values and records are pickles, or data (codec.py) for a caller that does not trust them.

Without a reply the process's end says it all: sys.exit(3) and posix._exit(3) both end it with code 3.
"""

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import sys

from . import rebuild, shipped, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import bulk

STATUS_SIZE = 9
LONGEST_PREFACE = 1 << 16
REPLY_FD, FEED_FD = 3, 4
# Of a box: its modules, its body, and what is said of large pieces that come by a socket.
MODULES, BODY, LARGE = range(3)
# Exit codes of the worker's own: it failed itself, or an interrupt came when the function had already returned.
FAILED = 70
INTERRUPTED_TOO_LATE = 71
_SPARE = 1 << 18
# Bytes of an answer that may have something large in it, and parts that it then has.
_LARGE, _FEW = 1 << 16, 100
_form: "Any" = rebuild  # how answers are packed: as pickles, or, for a caller that does not trust them, by codec.py as data
_ahead: "list[str] | None" = None  # what a process is held to that has been prepared before its call came
# In a template, and in what is forked from it: what it is held to.
prepared: "list[str] | None" = None
bulk_fd = -1  # the socket that large arguments come by
current: "Any" = None  # the function this process runs; delivered functions that meet themselves run in place


def import_early() -> None:
    """What every call needs, done before the first fork.

    ``_pickle`` goes without ``functools``, of which it only wants ``partial``, for a method that nobody calls here.
    """
    import faulthandler

    faulthandler.enable()
    if "_pickle" not in sys.modules and "functools" not in sys.modules:
        _import_pickle()
    rebuild.make_picklers()


def _import_pickle() -> None:
    stub = type(sys)("functools")
    stub.partial = None  # type: ignore[attr-defined]
    sys.modules["functools"] = stub
    try:
        import _pickle  # noqa: F401
    finally:
        del sys.modules["functools"]


class Pipes:
    """The descriptors of one call, made before the fork.

    :ivar stdin: what it reads
    :ivar far: the ends of its stdout, stderr and reply that it writes to, and for one that waits for its call, a socket
    :ivar given: of its input, the inode and the bytes
    :ivar keeps_others: whether other descriptors are the caller's: what an initializer has opened
    :ivar by_socket: whether the reply's is a socket, through which another can come, unless something else is said
    """

    keeps_others = False
    by_socket = False

    def __init__(self, stdin: int, detached: bool, given: int = 0, by_socket: "bool | None" = None) -> None:
        by_socket = self.by_socket if by_socket is None else by_socket
        self.stdin = stdin
        self.given = (posix.fstat(stdin).st_ino, given)
        self._closed = False
        self._socket = -1
        self.near: "list[int]" = []
        self.far: "list[int]" = []
        try:
            for place in range(1, 4):
                if detached:
                    self.far.append(posix.open("/dev/null", posix.O_WRONLY))
                else:
                    read, write = system.socketpair() if by_socket and place == REPLY_FD else posix.pipe()
                    self.near.append(read)
                    self.far.append(write)
        except OSError:
            self.close()
            raise

    def take_in(self, socket: int) -> None:
        """The call gets it as well; its large arguments come by it."""
        self._socket = len(self.far) + 1
        self.far.append(socket)

    def close(self) -> None:
        """Nobody will use them."""
        for fd in [*self.near, *self.own_ends()]:
            posix.close(fd)

    @classmethod
    def of(cls, files: "list[int]") -> "Pipes":
        """The same in another process, of descriptors that were sent there."""
        pipes = cls.__new__(cls)
        pipes.stdin, pipes.far, pipes.near, pipes.given, pipes._closed, pipes._socket = files[0], files[1:], [], (0, 0), False, -1
        pipes.keeps_others = True
        return pipes

    def near_ends(self) -> "dict[int, str]":
        """Close what only the call process needs; what is left is to be relayed under these names."""
        for fd in self.own_ends():
            posix.close(fd)
        return dict(zip(self.near, ("stdout", "stderr", "reply")))

    def own_ends(self) -> "list[int]":
        """What only the call process needs; closed once."""
        ends, self._closed = [] if self._closed else [self.stdin, *self.far], True
        return ends

    def take_far_ends(self) -> None:
        """Put the call process's descriptors where they belong and close all others."""
        wanted = [self.stdin, *self.far]
        if min(wanted) < len(wanted):
            # One must not be overwritten before it is in its place; the supervisor's own are above that.
            wanted = [_above(fd, len(wanted)) for fd in wanted]
        for place, fd in enumerate(wanted):
            posix.dup2(fd, place, inheritable=place < REPLY_FD)
        global bulk_fd
        bulk_fd = self._socket
        if self.keeps_others:
            for fd in self.own_ends():
                if fd >= len(wanted):
                    posix.close(fd)
            return
        # Before 3.10 closerange() closes one by one; the supervisor holds few.
        posix.closerange(len(wanted), 1 << 16 if sys.version_info >= (3, 10) else 1 << 10)


def _above(fd: int, least: int) -> int:
    """A copy of the descriptor that is no lower than that."""
    while fd < least:
        fd = posix.dup(fd)
    return fd


def input_file(data: bytes) -> int:
    """A descriptor to read these bytes from."""
    if not data:
        return posix.open("/dev/null", posix.O_RDONLY)
    if hasattr(posix, "memfd_create"):
        fd = posix.memfd_create("deliveryboy input")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = posix.dup(file.fileno())
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]
    posix.lseek(fd, 0, 0)
    return fd


_replier: "tuple[int, tuple[int, int]]" = (0, (0, 0))


def _identity() -> "tuple[int, int]":
    """What the reply's descriptor refers to: a function that closes all descriptors may have opened a file in its place."""
    try:
        found = posix.fstat(REPLY_FD)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


class CannotTravel(Exception):
    """What a generator has made cannot be packed."""


class Refusal(Exception):
    """The call cannot be prepared as asked."""


def main(setup: "dict[str, Any]", box: "list[bytes]", pipes: Pipes, parent: int) -> None:
    """Run one call to its end; never returns.

    :param box: see :data:`MODULES`; emptied, so that this process does not keep what it has unpacked
    """
    code = FAILED
    try:
        take_place(pipes, parent)
        code = run(setup, box)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        posix._exit(code)


def take_place(pipes: Pipes, parent: int) -> None:
    """Become what every call process is, whatever its call will be."""
    pipes.take_far_ends()
    global _replier
    _replier = (posix.getpid(), _identity())
    _become_ordinary(parent)


def run(setup: "dict[str, Any]", box: "list[bytes]") -> int:
    """Run the call, answer, and tell with which code to end."""
    # Not before: one of the template's session is one that still waits for its call.
    posix.setsid()
    # Without this an unprivileged call could not even list its own /proc/self/fd (proc(5)).
    system.prctl(system.PR_SET_DUMPABLE, 1)
    if setup["shared"] and not setup["template"]:
        # So that what a call leaves is known for its own while others run beside it.
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    if setup["accepts"] is not None:
        _answer_in_data(setup["accepts"])
    if setup["magic"] and setup["magic"] != _magic():
        return _reply(b"V", ("the box is for Python %s" % setup["python"]).encode())
    # Given back at once when memory is refused: what has to be done then needs some.
    spare = [bytearray(_SPARE)] if setup["limits"] else []
    try:
        limit = _limiter(setup, box)
        if _ahead is not None:
            held, packages = _ahead, None
        else:
            held, packages = _prepare(setup) if prepared is None else _adapt(setup)
        if setup["guard"]:
            # Nothing of the caller's is unpacked or imported before this.
            _tell(held + limit())
        if packages is not None:
            # Not before: what is installed may run something of its own at every start (.pth files).
            _start_site(packages)
        function, args, kwargs = _unpack(box)
        if not setup["guard"]:
            # The import of what was shipped is not the function's doing; a small limit shall not break it.
            _tell(limit())
    except Refusal as error:
        return _reply(b"E", str(error).encode("utf-8", "replace"))
    except BaseException as error:
        spare.clear()
        return _reply(b"L", _pack_failure(error))
    try:
        value = _call(function, args, kwargs)
        if setup["stream"]:
            value = _stream(value)
        # From here on an interrupt comes too late; it is kept, and told by the exit code.
        _signal.signal(_signal.SIGINT, _note_interrupt)
        _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    except SystemExit as error:
        _leave()
        return _exit_code(error)
    except CannotTravel as error:
        return _reply(b"U", _why(error.args[0]), _leave)
    except BaseException as error:
        if _replier[0] != posix.getpid():
            # A child that the function forked ends as it would anywhere.
            sys.excepthook(*sys.exc_info())
            _leave()
            return 1
        spare.clear()
        reply = _pack_failure(error)
        del error
        return _reply(b"X", reply, _leave)
    if setup["template"]:
        _become_template(held)
    try:
        reply = _pack_apart(value) if setup["bulk"] else _form.dumps(value)
    except MemoryError as error:
        spare.clear()
        value = None
        error.args = ("while the answer was packed, which takes as much memory again as the answer has",)
        return _reply(b"X", _pack_failure(error), _leave)
    except BaseException as error:
        return _reply(b"U", _why(error), _leave)
    return _reply(b"R", reply, _leave)


def weight(box: "list[bytes]") -> int:
    """Bytes that it takes up twice, packed and unpacked; large pieces arrive where they stay."""
    return sum(map(len, box)) + _large(box) // 2


def _large(box: "list[bytes]") -> int:
    if not box[LARGE]:
        return 0
    from . import bulk

    return sum(size for _, size in bulk.expected(box[LARGE]))


def rehearse(setup: "dict[str, Any]") -> None:
    """Do what can be done before the call comes: after a fork the first time that something is done is dear.

    :param setup: the setup of the call that will come, if that is known
    """
    rebuild.rehearse()
    if setup and prepared is None and not setup["guard"] and setup["magic"] in (b"", _magic()):
        global _ahead
        try:
            held, packages = _prepare(setup)
            if packages is not None:
                _start_site(packages)
            _ahead = held
        except BaseException:
            _ahead = None  # when it comes, it will be told


def _become_ordinary(parent: int) -> None:
    """Undo what only the supervisor needs: this process is the caller's, and as he would start it himself."""
    _signal.set_wakeup_fd(-1)
    system.die_with(parent)
    if system.niceness:
        try:
            posix.setpriority(posix.PRIO_PROCESS, 0, system.niceness)
        except OSError:
            pass  # below 0, in a user namespace
    for number in range(1, _signal.NSIG):
        try:
            if _signal.getsignal(number) not in (None, _signal.SIG_DFL):
                _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # KILL, STOP and the C library's own
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(_signal, name):
            _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _answer_in_data(accepts: "list[str]") -> None:
    global _form
    from . import codec

    codec.accept(accepts)
    _form = codec


def _magic() -> bytes:
    import _frozen_importlib_external

    return bytes(_frozen_importlib_external.MAGIC_NUMBER)


def _prepare(setup: "dict[str, Any]") -> "tuple[list[str], str | None]":
    """Make the process what the caller asked for, but for its limits; tells what it is held to.

    And, where site.py has still to find what is installed, where the user's own packages would lie.
    """
    posix.umask(setup["umask"])
    confinement = setup["confinement"]
    held: "list[str]" = []
    if confinement is not None and confinement["env"] is not None:
        held = _clear_environment(confinement)
    if setup["template"]:
        _before.update((name, _variable(name)) for name in setup["env"])
    _set_environment(setup["env"])
    if setup["limits"]:
        from . import limits

        _set_environment(limits.lower_thread_counts(setup["limits"]))
    _set_locale(setup["locale"])
    packages = None if _prepare_imports(setup) else _packages_of_this_user()
    if setup["guard"]:
        held += _hold(setup, confinement, [_environment_of_its_own(), packages or ""])
    if setup["cwd"] is not None:
        _enter(setup["cwd"])
    _prepare_streams()
    return held, packages


def _adapt(setup: "dict[str, Any]") -> "tuple[list[str], None]":
    """The same in a process forked from a template, which has been made what the session's calls are."""
    assert prepared is not None
    posix.umask(setup["umask"])
    _set_environment({**_before, **setup["env"]})
    if setup["limits"]:
        from . import limits

        _set_environment(limits.lower_thread_counts(setup["limits"]))
    _set_locale(setup["locale"])
    held = list(prepared)
    if setup["guard"]:
        # Once more: so the calls are kept from each other, and from the template.
        held += [line for line in _hold(setup, None, []) if line not in held]
    if setup["cwd"] is not None:
        _enter(setup["cwd"])
    _prepare_streams()
    return held, None


def _become_template(held: "list[str]") -> "Any":
    """Answer that all went well, and fork calls from now on."""
    from . import spares

    global prepared
    prepared = held
    _flush_files()
    rebuild.keep_what_was_set()
    supervisor = posix.getppid()
    _send(b"R", _form.dumps(None))
    spares.serve_as_template(supervisor)


def _enter(cwd: str) -> None:
    try:
        posix.chdir(cwd)
    except OSError as error:
        raise Refusal("cwd=%r cannot be entered on the far side: %s" % (cwd, error.strerror)) from None


# What the variables were that a template has got, which are not its calls'.
_before: "dict[str, str | None]" = {}


def _variable(name: str) -> "str | None":
    value = posix.environ.get(name.encode("utf-8", "surrogateescape"))
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _set_locale(name: str) -> None:
    if name:
        import _locale

        try:
            if _locale.setlocale(_locale.LC_ALL, None) != name:
                _locale.setlocale(_locale.LC_ALL, name)
        except ValueError:
            pass  # another system may not have it; the variables are set all the same


def _set_environment(env: "dict[str, str | None]") -> None:
    """Change the environment, whether ``os``, which copies it when imported, is there already or not."""
    for name, value in env.items():
        key = name.encode("utf-8", "surrogateescape")
        if value is None:
            posix.environ.pop(key, None)
            posix.unsetenv(name)
        else:
            posix.environ[key] = value.encode("utf-8", "surrogateescape")
            posix.putenv(name, value)
    if "os" in sys.modules:
        environ = sys.modules["os"].environ
        for name, value in env.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value


def _prepare_imports(setup: "dict[str, Any]") -> bool:
    """Whether all is prepared: this is the caller's own interpreter, and what he can import can be imported here."""
    main = type(sys)("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.dont_write_bytecode = True
    import builtins

    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    here = setup["same_files"]
    if here is not None and here == files_stamp() and _environment_of_its_own() in ("", setup["prefixes"][0]):
        sys.path[:] = setup["path"]
        sys.prefix, sys.exec_prefix = setup["prefixes"]
        return True
    return False


def _packages_of_this_user() -> str:
    """-I keeps them out; on another host they are what ``python3`` there would find."""
    if posix.getuid() != posix.geteuid() or b"SUDO_UID" in posix.environ:
        return ""
    import site

    return str(site.getusersitepackages())


def _start_site(packages: str) -> None:
    import site

    site.main()
    if packages:
        site.addsitedir(packages)


def _environment_of_its_own() -> str:
    """The virtual environment that this interpreter was started from, without site.py; an empty string if it was none."""
    folder = str(sys.executable).rpartition("/")[0].rpartition("/")[0]
    return folder if posix.access(folder + "/pyvenv.cfg", posix.F_OK) else ""


def files_stamp() -> "tuple[object, ...]":
    """Tells whether both sides run one and the same installed Python: by the identity of a file of its library."""
    path = str(sys.modules["encodings"].__file__)
    try:
        found = posix.stat(path)
    except OSError:
        return ()
    return (sys.hexversion, path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _prepare_streams() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _unpack(box: "list[bytes]") -> "Any":
    large = box.pop()
    shipped.install(marshal.loads(box.pop(0)))
    if not large:
        function, args, kwargs = rebuild.loads(box.pop())
    else:
        from . import bulk

        pieces = iter(bulk.Receiver(bulk_fd, bulk.expected(large)))
        function, args, kwargs = rebuild.loads(box.pop() or next(pieces), pieces)
        posix.close(bulk_fd)
    return function, args, kwargs


def _pack_apart(value: object) -> "Any":
    """The answer, as bytes or, if there is much of it, in parts."""
    written, is_pickle = _form.dump_apart(value)
    if len(written) < _FEW and sum(map(_size_of, written)) < _LARGE:
        return b"".join(written)
    from . import bulk

    parts = bulk.Parts(written, is_pickle)
    return parts if parts.large else parts.body


def _size_of(part: "Any") -> int:
    return len(part) if type(part) is bytes else _LARGE


def _call(function: "Any", args: "Any", kwargs: "Any") -> "Any":
    global current
    current = function
    value = function(*args, **kwargs)
    if type(value).__name__ == "coroutine":
        import asyncio

        return asyncio.run(value)
    return value


def _stream(items: "Any") -> "Any":
    """Send what the generator makes, item by item; its own return value is the answer."""
    while True:
        try:
            item = next(items)
        except StopIteration as end:
            return end.value
        if _replier != (posix.getpid(), _identity()):
            posix._exit(0)  # a child that the generator forked, and that went on in its place
        try:
            packed = _form.dumps(item)
        except MemoryError:
            raise
        except Exception as error:
            raise CannotTravel(error) from None
        _send(b"I", packed)


def _pack_failure(error: BaseException) -> bytes:
    from . import limits

    limits.make_room()
    from . import evidence, failure

    limit = evidence.cause(error)
    if limit and evidence.is_unsaid(error):
        error, unsaid = MemoryError(), error
        error.__context__ = unsaid
    failure.let_go(error)
    return failure.pack(error, _form, limit)


def _why(error: BaseException) -> bytes:
    """Why it cannot travel."""
    text = _text_of(error) if _form is not rebuild else "%s: %s" % (type(error).__name__, _text_of(error))
    return text.encode("utf-8", "replace")


def _text_of(error: BaseException) -> str:
    from . import failure

    return failure.text_of(error)


def _limiter(setup: "dict[str, Any]", box: "list[bytes]") -> "Any":
    """The function that sets the limits: counted from what this process has now, its packed box included.

    Later that is replaced by what was in it; a call that is limited before needs room for both.
    """
    asked = setup["limits"]
    if not asked:
        return list
    from . import limits

    large = _large(box)
    given = sum(map(len, box)) + large if setup["guard"] else 0

    try:
        resident, shared = system.memory_of_this_process()[:2]
    except OSError:
        resident = shared = 0

    def limit() -> "list[str]":
        try:
            return limits.apply(asked, setup["grace"], resident - shared + (0 if given else large), given)
        except limits.CannotEnforce as error:
            raise Refusal(str(error)) from None

    return limit


def _tell(applied: "list[str]") -> None:
    if applied:
        _send(b"A", "\n".join(applied).encode())


def _hold(setup: "dict[str, Any]", confinement: "dict[str, Any] | None", installed: "list[str]") -> "list[str]":
    from . import confine

    kind = setup["guard"]
    try:
        if setup["beside"] > 1 or setup["template"]:
            confine.check_scopes()
        if confinement is None:
            return confine.guard(kind)
        confined = confine.Confinement(confinement, kind, installed)
        applied = confined.apply()
        if setup["template"]:
            confined.leave()
        return applied
    except (confine.Unavailable, OSError) as error:
        raise Refusal(str(error)) from None


def _clear_environment(confinement: "dict[str, Any]") -> "list[str]":
    from . import confine

    try:
        confine.clear_environment(confinement["env"])
    except OSError as error:
        if not confinement["best_effort"]:
            raise Refusal("env: the environment cannot be cleared there: %s" % error) from None
        return []
    return ["environment cleared"]


def _exit_code(error: SystemExit) -> int:
    """The code with which Python itself would end on *error*."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    posix.write(2, ("%s\n" % code).encode("utf-8", "replace"))
    return 1


def _leave() -> None:
    """What a Python process owes before it ends: exit functions, then what is still buffered."""
    try:
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _close_files()
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except Exception:
            pass  # the function may have put anything there


def _open_files() -> "list[Any]":
    import gc
    import io

    files = [each for each in gc.get_objects() if isinstance(each, io.IOBase) and not isinstance(each, io.RawIOBase)]
    # Those that write into others come first: text, then compressed files.
    buffers = (io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.BufferedRWPair)
    return sorted(files, key=lambda file: 0 if isinstance(file, io.TextIOBase) else 1 + isinstance(file, buffers))


def _flush_files() -> None:
    """Or each process that is forked from this one would write what they have buffered."""
    for file in _open_files():
        try:
            if not file.closed and file.writable():
                file.flush()
        except Exception:
            pass  # whoever uses it will hear of it


def _close_files() -> None:
    """Files that something still refers to: a Python that ends closes them, and so writes what they have buffered."""
    try:
        # The directory's own descriptor is listed too.
        if len(posix.listdir("/proc/self/fd")) <= REPLY_FD + 2:
            return
    except OSError:
        pass
    for file in _open_files():
        try:
            if not file.closed and file.fileno() > 2:
                file.close()
        except Exception:
            pass  # as the interpreter would do


_interrupts: "list[int]" = []


def _note_interrupt(number: int, frame: object) -> None:
    """Another thread of the function's may take what this one has blocked."""
    _interrupts.append(number)


def _reply(status: bytes, payload: "Any", first: "Any" = None) -> int:
    if first is not None:
        first()
    if _replier[0] != posix.getpid():
        return 0  # a child that the function forked and that returned from it as well: only one of the two answers
    if _replier[1] != _identity():
        posix.write(2, b"deliveryboy: the function closed descriptor 3, over which its answer goes\n")
        return FAILED
    if isinstance(payload, bytes):
        _send(status, payload)
    else:
        _send_in_parts(status, payload)
    return INTERRUPTED_TOO_LATE if _interrupts or _signal.SIGINT in _signal.sigpending() else 0


def _send_in_parts(status: bytes, parts: "bulk.Parts") -> None:
    from . import bulk, sockets

    announced = bulk.announced(parts.large)
    if len(announced) > LONGEST_PREFACE:
        _send(status, *parts.whole())
        return
    _send(b"B", announced)
    socket = sockets.receive_descriptor(REPLY_FD)
    if socket < 0:
        _send(b"B")
        _send(status, *parts.whole())
        return
    try:
        bulk.send_all(socket, parts.large)
    except OSError:
        pass  # the caller does not want it any more
    posix.close(socket)
    _send(status, parts.body)


def _send(status: bytes, *payload: "Any") -> None:
    for part in (status + sum(map(len, payload)).to_bytes(8, "big"), *payload):
        left = memoryview(part)
        while left:
            left = left[posix.write(REPLY_FD, left) :]
