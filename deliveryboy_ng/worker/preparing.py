"""Makes a call process what its caller asked for, but for its limits.

Contract: far side, standard library only, Python 3.8+.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# In a template, and in what is forked from it: what it is held to.
held_in_template: "list[str] | None" = None
# What the variables were that a template has got, which are not its calls'.
_before: "dict[str, str | None]" = {}


# What is known of this interpreter before any call comes: which it is, and whether it is of a virtual environment.
_here: "tuple[tuple[object, ...], str]" = ((), "")


def begin() -> None:
    """What is the same for every call, and dearer behind a fork, where every page that is written has to be copied."""
    global _here
    main = type(sys)("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.argv = [""]
    sys.dont_write_bytecode = True
    import builtins

    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    _prepare_streams()
    _here = files_stamp(), _environment_of_its_own()


class Refusal(Exception):
    """The call cannot be prepared as asked."""


def prepare(setup: "dict[str, Any]") -> "tuple[list[str], str | None]":
    """Make the process what the caller asked for, but for its limits; tells what it is held to.

    And, where site.py has still to find what is installed, where the user's own packages would lie.
    """
    posix.umask(setup["umask"])
    if held_in_template is not None:
        return _adapt(setup, list(held_in_template)), None
    confinement = setup["confinement"]
    held: "list[str]" = []
    if confinement is not None and confinement["env"] is not None:
        from . import holding

        held = holding.clear_environment(confinement)
    if setup["template"]:
        _before.update((name, _variable(name)) for name in setup["env"])
    _set_environment(setup["env"])
    if setup["limits"]:
        from . import limits

        _set_environment(limits.lower_thread_counts(setup["limits"]))
    _set_locale(setup["locale"])
    packages = None if _prepare_imports(setup) else _packages_of_this_user()
    if setup["guard"]:
        from . import holding

        held += holding.hold(setup, confinement, [_here[1], packages or ""])
    if setup["cwd"] is not None:
        enter(setup["cwd"])
    return held, packages


def _adapt(setup: "dict[str, Any]", held: "list[str]") -> "list[str]":
    """The same in a process forked from a template, which has been made what the session's calls are."""
    _set_environment({**_before, **setup["env"]})
    if setup["limits"]:
        from . import limits

        _set_environment(limits.lower_thread_counts(setup["limits"]))
    _set_locale(setup["locale"])
    if setup["guard"]:
        from . import holding

        # Once more: so the calls are kept from each other, and from the template.
        held += [line for line in holding.hold(setup, None, []) if line not in held]
    if setup["cwd"] is not None:
        enter(setup["cwd"])
    _prepare_streams()
    return held


def enter(cwd: str) -> None:
    try:
        posix.chdir(cwd)
    except OSError as error:
        raise Refusal("cwd=%r cannot be entered on the far side: %s" % (cwd, error.strerror)) from None


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
    stamp, environment = _here
    if stamp and setup["same_files"] == stamp and environment in ("", setup["prefixes"][0]):
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


def start_site(packages: str) -> None:
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


def magic() -> bytes:
    import _frozen_importlib_external

    return bytes(_frozen_importlib_external.MAGIC_NUMBER)


def _prepare_streams() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
