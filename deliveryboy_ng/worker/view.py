"""A file system of the call's own: what it may see, and nowhere to write but where it may.

Contract: far side, standard library only, Python 3.8+.  Runs in the call process while that has one thread.  The new root is a
tmpfs that ends with the last process in it; what is shown is bound into it, so nothing is copied and nothing has to be tidied up.
"""

import _stat
import posix
import sys

from . import namespaces, system

_NOSUID, _NODEV, _NOEXEC, _BIND = 2, 4, 8, 4096
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_RDONLY, _NOSUID_TOO, _NODEV_TOO = 1, 2, 4

# What an ordinary program on Linux reads, and what it reads besides if it may use the network.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/proc"),
    *("/sys/devices/system", "/run/current-system"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload"),
    *("/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/os-release"),
    *("/etc/fonts", "/etc/terminfo", "/etc/inputrc", "/etc/locale.alias", "/etc/locale.conf", "/etc/crypto-policies"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/ca-trust"),
)
FOR_NETWORK = (
    *("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols"),
    *("/etc/networks", "/etc/rpc"),
)
# Folders for temporary files; a private one stands in for each that is there.
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_DEVICES = ("/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero")
# What /proc tells root alone of the machine.
_OF_ROOT = ("keys", "kpagecgroup", "kpagecount", "kpageflags", "slabinfo", "timer_list", "vmallocinfo")
_TERMINALS = {"/dev/ptmx", "/dev/pts"}
_ELOOP, _ENOSYS = 40, 38
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_MOST_LINKS = 40
_INODES_PER_MEBIBYTE = 256


def check() -> None:
    """:raises OSError: where no tree can be made read-only, before Linux 5.12, and on machines that are not known here"""
    if posix.uname().machine not in _PIVOT_ROOT or sys.maxsize < 1 << 32:
        raise OSError(_ENOSYS, "system calls of that machine are not known")
    try:
        system.libc("syscall", _MOUNT_SETATTR, -1, b"", 0, bytes(32), 0)
    except OSError as error:
        if error.errno == _ENOSYS:
            raise


class View:
    """What is to be seen, gathered by :meth:`show`, and then made to be all that there is, by :meth:`enter`."""

    def __init__(self) -> None:
        self._modes = {"/dev": "dev"}
        self._links: "dict[str, str]" = {}
        # What is no link: whether it is a folder.
        self._folders = {"": True}
        self._devices = list(_DEVICES)

    def places(self, entered: bool) -> "list[tuple[str, str]]":
        """What Landlock shall allow of all that is shown, or that would be if it were entered."""
        if entered:
            modes = {"write": "write", "all": "all", "tmp": "all", "dev": "all"}
            return [("/", "read"), *((path, modes[mode]) for path, mode in self._modes.items() if mode != "read")]
        devices = [(path, "all") for path in self._devices if posix.access(path, posix.F_OK)]
        return devices + [(path, mode) for path, mode in self._modes.items() if mode in ("read", "write", "all")]

    def show(self, path: str, mode: str) -> str:
        """Show *path* under its own name; why it cannot be, or an empty string.

        :param mode: ``read``, ``write``, ``all`` for no bounds, ``tmp`` for a private folder in its place, ``dev`` for a device
        """
        if mode == "dev":
            self._devices.append(path)
            return "" if posix.access(path, posix.F_OK) else "there is no such device"
        try:
            real = self._follow(path)
        except OSError as error:
            return str(error.strerror)
        if self._modes.get(real, "read") == "read":
            self._modes[real] = mode
        return ""

    def holds(self, path: str) -> bool:
        """Whether that, of which no part is a link, lies in something that is shown, or is."""
        return path in self._modes or self._around(path) is not None

    def _follow(self, path: str) -> str:
        """The path without symbolic links, of which a note is taken: they are made anew.

        :raises OSError: if it is not there, or out of reach
        """
        found = ""
        names = path.split("/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                found = found.rpartition("/")[0]
                continue
            step = "%s/%s" % (found, name)
            if step not in self._folders:
                mode = posix.lstat(step).st_mode
                target = posix.readlink(step) if _stat.S_ISLNK(mode) else ""
                if not target:
                    self._folders[step] = _stat.S_ISDIR(mode)
            if step in self._folders:
                found = step
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(_ELOOP, "there are too many symbolic links on the way")
            self._links[step] = target
            if target.startswith("/"):
                found = ""
            names += target.split("/")[::-1]
        return found or "/"

    def enter(self, size: int) -> None:
        """Make it the file system of this process and of all that it starts.

        :param size: bytes that private folders may hold together
        :raises OSError: if the kernel refuses
        """
        # The caller's may keep everybody out of what is made here.
        umask = posix.umask(0o022)
        try:
            self._enter(size)
        finally:
            posix.umask(umask)

    def _enter(self, size: int) -> None:
        inodes = max(1024, (size >> 20) * _INODES_PER_MEBIBYTE)
        options = b"size=%d,nr_inodes=%d,mode=755" % (max(size, 1 << 16), inodes)
        # Any folder will do: it is out of sight for a moment only.
        system.libc("mount", b"tmpfs", b"/usr", b"tmpfs", _NOSUID | _NODEV, options)
        posix.chdir("/usr")
        for name in ("old", "new", "dev", "private"):
            posix.mkdir(name)
        _pivot(".", "old")
        posix.chdir("/")
        _bind("/new", "/new")
        self._make_devices()
        needed = [path for path in sorted(self._modes) if self._modes[path] != self._around(path) or self._modes[path] == "tmp"]
        late = [path for path in needed if {self._modes[path], self._around(path)} & {"tmp", "write", "all"}]
        for path in needed:
            if self._around(path) is None:
                _make("/new", path, self._folders.get(path, True))
            if path not in late:
                self._put(path)
        self._link(None)
        # All at one stroke; what comes later may be written, or lies in such a place.
        _set_attributes("/new", _RDONLY | _NOSUID_TOO)
        for path in late:
            if self._around(path) == "tmp":
                _make("/new", path, self._folders.get(path, True))
            self._put(path)
            _set_attributes("/new" + path, _NOSUID_TOO | (_RDONLY if self._modes[path] in ("read", "dev") else _NODEV_TOO))
        self._link("tmp")
        if posix.geteuid() == 0 and self.holds("/proc"):
            for name in _OF_ROOT:
                if posix.access("/new/proc/" + name, posix.F_OK):
                    _bind("/new/dev/null", "/new/proc/" + name)
        posix.chdir("/new")
        _pivot(".", ".")
        system.libc("umount2", b".", _DETACH)
        posix.chdir("/")

    def _around(self, path: str) -> "str | None":
        """How that is shown in which *path* lies."""
        while path != "/":
            path = path.rpartition("/")[0] or "/"
            if path in self._modes:
                return self._modes[path]
        return None

    def _put(self, path: str) -> None:
        source = "/old" + path
        if self._modes[path] == "dev":
            source = "/dev"
        elif self._modes[path] == "tmp":
            source = "/private/" + path.strip("/").replace("/", "-")
            posix.mkdir(source)
            posix.chmod(source, 0o1777)
        _bind(source, "/new" + path)

    def _link(self, around: "str | None") -> None:
        """Make those links that lie in nothing that is shown, or in a private folder; the others are there."""
        for path, target in self._links.items():
            if self._around(path) == around:
                _make("/new", path.rpartition("/")[0], True)
                posix.symlink(target, "/new" + path)

    def _make_devices(self) -> None:
        posix.mkdir("/dev/shm")
        if not _TERMINALS.isdisjoint(self._devices):
            # Terminals of its own: of the machine's, one end would be somebody else's.
            posix.mkdir("/dev/pts")
            system.libc("mount", b"devpts", b"/dev/pts", b"devpts", _NOSUID | _NOEXEC, b"newinstance,ptmxmode=0666,mode=620")
            posix.symlink("pts/ptmx", "/dev/ptmx")
        for path in self._devices:
            if path not in _TERMINALS and posix.access("/old" + path, posix.F_OK):
                _make("/", path, _is_folder("/old" + path))
                _bind("/old" + path, path)
        for name, target in _LINKS.items():
            posix.symlink(target, "/dev/" + name)


def _make(root: str, path: str, folder: bool) -> None:
    """Make a folder, or an empty file, and the folders that it lies in, unless they are there."""
    place = root + path if root != "/" else path
    try:
        if folder:
            posix.mkdir(place, 0o755)
        else:
            posix.close(posix.open(place, posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY))
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make(root, path.rpartition("/")[0], True)
        _make(root, path, folder)


def _pivot(new: str, old: str) -> None:
    system.libc("syscall", _PIVOT_ROOT[posix.uname().machine], new.encode(), old.encode())


def _bind(source: str, target: str) -> None:
    """With all that is mounted below it: of mounts made by somebody with more rights, no part can be had alone."""
    system.libc("mount", _bytes(source), _bytes(target), None, _BIND | namespaces.RECURSIVE, None)


def _set_attributes(path: str, attributes: int) -> None:
    setting = attributes.to_bytes(8, "little") + bytes(24)
    system.libc("syscall", _MOUNT_SETATTR, _AT_FDCWD, _bytes(path), _AT_RECURSIVE, setting, len(setting))


def _is_folder(path: str) -> bool:
    return _stat.S_ISDIR(posix.stat(path).st_mode)


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
