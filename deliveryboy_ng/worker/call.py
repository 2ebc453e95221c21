"""The call process: prepares itself as the caller asked, runs the function, packs the reply, and ends.

Contract: far side, standard library only, Python 3.8+.  Runs in a process of its own, which spare.py has made ready and which ends
with what :func:`run` tells.  Descriptor 0 is the call's own input, 1 and 2 are pipes that the supervisor relays, on 3 goes its
answer (records.py).
"""

import _functools  # type: ignore[import-not-found]
import _signal  # type: ignore[import-not-found]
import marshal
import posix
import sys

from . import answer, pipes, preparing, rebuild, shipped, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SPARE = 1 << 18
_ahead: "list[str] | None" = None  # what a process is held to that has been prepared before its call came
pieces_fd = -1  # the socket or the file that large arguments come by
current: "Any" = None  # the function this process runs; delivered functions that meet themselves run in place


def import_early() -> None:
    """What every call needs, done before the first of them comes."""
    import faulthandler

    faulthandler.enable()
    preparing.begin()
    if "_pickle" not in sys.modules:
        _import_pickle()
    rebuild.picklers()


def _import_pickle() -> None:
    """It asks for modules that take longer than itself, and that few need.

    Of ``functools`` it only wants ``partial``; of ``_compat_pickle`` the dicts of what
    Python 2 called things, which are filled when that is imported, as ``pickle`` does.
    """
    names = ("NAME_MAPPING", "IMPORT_MAPPING", "REVERSE_NAME_MAPPING", "REVERSE_IMPORT_MAPPING")
    held: "dict[str, dict[str, Any]]" = {
        "functools": {"partial": _functools.partial},
        "_compat_pickle": {name: {} for name in names},
    }
    made = [name for name in held if name not in sys.modules]
    for name in made:
        module = sys.modules[name] = type(sys)(name)
        module.__dict__.update(held[name])
    try:
        import _pickle  # noqa: F401
    finally:
        for name in made:
            del sys.modules[name]
    if "_compat_pickle" in made:
        sys.meta_path.insert(0, shipped.Filler("_compat_pickle", held["_compat_pickle"]))


def take_place(ends: pipes.Pipes, parent: int) -> None:
    """Become what every call process is, whatever its call will be."""
    ends.take_far_ends()
    answer.begin()
    _become_ordinary(parent)


def run(setup: "dict[str, Any]", box: "list[Any]") -> int:
    """Run the call, answer, and tell with which code to end.

    :param box: see records.py; emptied, so that this process does not keep what it has unpacked
    """
    if not setup["template"]:
        posix.close(pipes.FEED_FD)
    if setup["detached"]:
        answer.send_nothing()
    # Not before: one of the template's session is one that still waits for its call.
    posix.setsid()
    # Without this an unprivileged call could not even list its own /proc/self/fd (proc(5)).
    system.prctl(system.PR_SET_DUMPABLE, 1)
    if setup["shared"] and not setup["template"]:
        # So that what a call leaves is known for its own while others run beside it.
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
    if setup["accepts"] is not None:
        answer.in_data(setup["accepts"])
    if setup["magic"] and setup["magic"] != preparing.magic():
        return answer.reply(b"V", ("the box is for Python %s" % setup["python"]).encode())
    # Given back at once when memory is refused: what has to be done then needs some.
    spare = [bytearray(_SPARE)] if setup["limits"] else []
    try:
        try:
            held, (function, args, kwargs) = _get_ready(setup, box)
            value = _call(function, args, kwargs)
            if setup["stream"]:
                value = answer.stream(value)
        finally:
            # From here on an interrupt comes too late; it is kept, and told by the exit code.
            _signal.signal(_signal.SIGINT, answer.note_interrupt)
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    except preparing.Refusal as error:
        return answer.reply(b"E", str(error).encode("utf-8", "replace"))
    except NotUnpacked as error:
        spare.clear()
        return answer.reply(b"L", answer.pack_failure(error.args[0]))
    except BaseException as error:
        return _fail(error, spare)
    if setup["template"] and answer.is_ours():
        _become_template(held)
    try:
        reply = answer.pack_last(value)
    except BaseException as error:
        value = None
        return _fail(error, spare)
    return answer.reply(b"R", reply, answer.leave, bool(setup["bulk"]))


class NotUnpacked(Exception):
    """The box, or what has to be there before it, has failed."""


def _get_ready(setup: "dict[str, Any]", box: "list[Any]") -> "tuple[list[str], Any]":
    """What the process is held to, and the function with its arguments.

    :raises NotUnpacked: if there are none
    :raises KeyboardInterrupt: if that was interrupted, as the function itself may be
    """
    try:
        limit = _limiter(setup, box)
        held, packages = preparing.prepare(setup) if _ahead is None else (_ahead, None)
        if _ahead is not None and setup["cwd"] is not None:
            # It may be another folder of that name by now.
            preparing.enter(setup["cwd"])
        if setup["guard"]:
            # Nothing of the caller's is unpacked or imported before this.
            answer.tell(held + limit())
        # What has come since the fork is heard now, as whatever comes until the function is over.
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        if packages is not None:
            # Not before: what is installed may run something of its own at every start (.pth files).
            preparing.start_site(packages)
        unpacked = _unpack(box)
        if not setup["guard"]:
            # The import of what was shipped is not the function's doing; a small limit shall not break it.
            answer.tell(limit())
    except (preparing.Refusal, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise NotUnpacked(error) from None
    return held, unpacked


def _fail(error: BaseException, spare: "list[bytearray]") -> int:
    """Answer that it raised, or end as it asked for."""
    if isinstance(error, SystemExit):
        code = answer.exit_code(error)
        answer.leave()
        return code
    if isinstance(error, answer.CannotTravel):
        return answer.reply(b"U", answer.why(error.args[0]), answer.leave)
    if not answer.is_ours():
        # A child that the function forked ends as it would anywhere.
        sys.excepthook(type(error), error, error.__traceback__)
        answer.leave()
        return 1
    spare.clear()
    return answer.reply(b"X", answer.pack_failure(error), answer.leave)


def prepare_ahead(setup: "dict[str, Any]") -> None:
    """Do what can be done before the call comes.

    :param setup: the setup of the call that will most likely come
    """
    if not setup["guard"] and setup["magic"] in (b"", preparing.magic()):
        global _ahead
        try:
            held, packages = preparing.prepare(setup)
            if packages is not None:
                preparing.start_site(packages)
            _ahead = held
        except BaseException:
            _ahead = None  # when it comes, it will be told


def _become_ordinary(parent: int) -> None:
    """Undo what only the supervisor needs: this process is the caller's, and as he would start it himself.

    Signals stay blocked until there is somebody to hear them.
    """
    _signal.set_wakeup_fd(-1)
    system.die_with(parent)
    if system.niceness:
        try:
            posix.setpriority(posix.PRIO_PROCESS, 0, system.niceness)
        except OSError:
            pass  # below 0, in a user namespace
    for number, handler in system.changed_signals() if system.changed is None else system.changed:
        _signal.signal(number, handler)


def _become_template(held: "list[str]") -> "NoReturn":
    """Answer that all went well, and fork calls from now on."""
    from . import template

    system.changed = None
    preparing.held_in_template = held
    answer.flush_files()
    rebuild.keep_what_was_set()
    supervisor = posix.getppid()
    answer.send(b"R", answer.form.dumps(None))
    template.serve(supervisor)


def _limiter(setup: "dict[str, Any]", box: "list[Any]") -> "Any":
    if not setup["limits"]:
        return list
    from . import holding

    return holding.limiter(setup, box)


def _unpack(box: "list[Any]") -> "Any":
    large = box.pop()
    shipped.install(marshal.loads(box.pop(0)))
    if not large:
        return rebuild.loads(box.pop())
    from . import bulk

    pieces = iter(bulk.Receiver(bulk.reader(pieces_fd), bulk.expected(large)))
    unpacked = rebuild.loads(box.pop() or next(pieces), pieces)
    posix.close(pieces_fd)
    return unpacked


def _call(function: "Any", args: "Any", kwargs: "Any") -> "Any":
    global current
    current = function
    value = function(*args, **kwargs)
    if type(value).__name__ == "coroutine":
        import asyncio

        return asyncio.run(value)
    return value
