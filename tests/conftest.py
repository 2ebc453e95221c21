"""What the tests stand on: real transports, real interpreters, and a count of what is left behind."""

from __future__ import annotations

import contextlib
import functools
import getpass
import glob
import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deliveryboy_ng import Bubblewrap, Local, Ssh, Sudo, Unshare

# A shell starts what it puts into the background with SIGINT ignored, and programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

MUST_RUN = os.environ.get("DELIVERYBOY_TESTS_SKIP_NOTHING") == "1"


def missing(reason: str) -> None:
    """Skip on a user's machine, fail where everything is meant to be there."""
    if MUST_RUN:
        pytest.fail(f"not available, though nothing may be skipped here: {reason}")
    pytest.skip(reason)


def works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


SAME = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"


@functools.cache
def need_same_version(*prefix: str, only: str = "") -> None:
    """Code travels to its own version of Python alone: skip where a transport reaches no such interpreter."""
    version = ".".join(map(str, sys.version_info[:2]))
    names = (only,) if only else (sys.executable, f"python{version}", "python3")
    commands = [[name, "-c", SAME] for name in names]
    if not any(works(*prefix, *([shlex.join(command)] if prefix[0] == "ssh" else command)) for command in commands):
        missing(f"no Python {version} can be reached through {' '.join(prefix)}")


def system_python() -> str:
    """The distribution's interpreter, of this version and without this library."""
    if not works("/usr/bin/python3", "-c", SAME):
        missing(f"/usr/bin/python3 is not Python {sys.version_info[0]}.{sys.version_info[1]}")
    return "/usr/bin/python3"


# --- interpreters ---------------------------------------------------------------------------------------------------


def interpreters() -> dict[tuple[int, int], str]:
    """Every CPython of this machine by minor version: those on PATH, pyenv's, and the running one."""
    root = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    candidates = [found for name in range(2, 20) if (found := shutil.which(f"python3.{name}"))]
    candidates += sorted(glob.glob(f"{root}/versions/*/bin/python3.[0-9]*"), reverse=True)
    candidates += glob.glob(f"{root}/versions/2*/bin/python2.7")
    found: dict[tuple[int, int], str] = {sys.version_info[:2]: sys.executable}
    for path in candidates:
        match = re.fullmatch(r".*python(\d)\.(\d+)", path)
        if match is None or "/shims/" in path:
            continue
        version = int(match[1]), int(match[2])
        if version not in found and works(path, "-c", "pass"):
            found[version] = path
    return found


INTERPRETERS = interpreters()
OTHERS = {version: path for version, path in sorted(INTERPRETERS.items()) if version >= (3, 8) and version != sys.version_info[:2]}
TOO_OLD = {version: path for version, path in sorted(INTERPRETERS.items()) if version < (3, 8)}


@pytest.fixture(params=sorted(OTHERS) or [None], ids=lambda version: "none" if version is None else ".".join(map(str, version)))
def other_python(request: pytest.FixtureRequest) -> str:
    """The interpreter of another minor version."""
    if request.param is None:
        missing("another Python from 3.8 on is not installed")
    return OTHERS[request.param]


# --- sshd -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    """An sshd of our own on loopback, with keys of its own; ends with the tests."""
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh") is None:
        missing("openssh-server or openssh-client is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "ssh_config").write_text(f"UserKnownHostsFile {folder}/known_hosts\nIdentitiesOnly yes\nIdentityFile {folder}/user\n")
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    daemon, port = _start_sshd(sshd, folder)
    try:
        need_same_version("ssh", "-F", str(folder / "ssh_config"), "-p", str(port), "127.0.0.1", only="python3")
        yield Ssh(f"{getpass.getuser()}@127.0.0.1", port=port, config=str(folder / "ssh_config"))
    finally:
        end(daemon)


def _start_sshd(sshd: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            f"PidFile none\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            "PermitRootLogin yes\nPrintMotd no\nMaxStartups 100\n"
        )
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
        if wait_until(lambda: daemon.poll() is not None or b"Server listening" in (folder / "log").read_bytes()):
            if daemon.poll() is None:
                return daemon, port
            # Somebody else took the port meanwhile.
            assert b"Address already in use" in (folder / "log").read_bytes(), (folder / "log").read_text()


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate it; on a busy machine that takes its time."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def shared_ssh(ssh: Ssh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    """The same host over one connection that is open already (ControlPath), as many users have it."""
    folder = tmp_path_factory.mktemp("ssh")
    config = folder / "config"
    config.write_text(f"{Path(ssh.config or '').read_text()}ControlPath {folder}/control\n")
    command = ["ssh", "-F", str(config), "-p", str(ssh.port)]
    master = subprocess.Popen([*command, "-M", "-N", ssh.host], stdin=subprocess.DEVNULL)
    try:
        assert wait_until((folder / "control").exists, 20)
        yield Ssh(ssh.host, port=ssh.port, config=str(config))
    finally:
        end(master)


# --- transports -----------------------------------------------------------------------------------------------------


def need_sudo(user: str = "nobody") -> Sudo:
    if not works("sudo", "-n", "-u", user, "true"):
        missing(f"sudo -n -u {user} is not installed or not allowed")
    need_same_version("sudo", "-n", "-u", user)
    return Sudo(user)


def need_unshare() -> None:
    if not works("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"):
        missing("unshare (util-linux) is not installed, or user namespaces are not permitted")


def need_bwrap() -> Bubblewrap:
    if not works("bwrap", "--ro-bind", "/", "/", "true"):
        missing("bwrap (bubblewrap) is not installed, or user namespaces are not permitted")
    need_same_version(*Bubblewrap().wrap([]))
    return Bubblewrap()


def _unshare(request: pytest.FixtureRequest) -> Any:
    need_unshare()
    return Unshare()


def _unshare_pid(request: pytest.FixtureRequest) -> Any:
    need_unshare()
    return Unshare(pid=True, net=True)


def _ssh_sudo_unshare(request: pytest.FixtureRequest) -> Any:
    need_unshare()
    return [request.getfixturevalue("ssh"), need_sudo(), Unshare(pid=True)]


CHAINS: dict[str, Callable[[pytest.FixtureRequest], Any]] = {
    "local": lambda request: Local(),
    "unshare": _unshare,
    "unshare-pid": _unshare_pid,
    "bwrap": lambda request: need_bwrap(),
    "sudo": lambda request: need_sudo(),
    "ssh": lambda request: request.getfixturevalue("shared_ssh"),
    "ssh-sudo-unshare": _ssh_sudo_unshare,
}


@pytest.fixture(params=CHAINS)
def chain(request: pytest.FixtureRequest) -> Any:
    """Every transport, and a chain of three."""
    return CHAINS[request.param](request)


# --- files and modules of a caller ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes modules into a folder on sys.path which no other user can read; forgets them afterwards."""
    folder = tmp_path / "project"
    folder.mkdir(mode=0o700)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(tree: dict[str, str | bytes]) -> Path:
        for name, content in tree.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        importlib.invalidate_caches()
        return folder

    yield write
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)) or not hasattr(module, "__file__"):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs text as a program of its own, with this library importable."""

    def run(text: str, *args: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[bytes]:
        path = tmp_path / "program.py"
        path.write_text(text)
        root = str(Path(__file__).resolve().parent.parent)
        env = {**os.environ, "PYTHONPATH": root, **options.pop("env", {})}
        return subprocess.run(
            [options.pop("python", sys.executable), str(path), *args],
            capture_output=True,
            timeout=timeout,
            env=env,
            check=False,
            **options,
        )

    return run


# --- what is left behind --------------------------------------------------------------------------------------------


def processes_with(mark: str) -> list[int]:
    """PIDs of living processes with *mark* in their environment or command line."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            data = Path(f"/proc/{name}/environ").read_bytes() + b"\0" + Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in data and state not in "ZX":
            found.append(int(name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """The condition's value as soon as it is true; its last value if it never is."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def own_memory(pid: int) -> int:
    """Bytes that a process has of its own, though it may share them with forked children; statm is only about right."""
    return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Anonymous:")[1].split()[0]) * 1024


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def children_of_this_process() -> set[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


@pytest.fixture
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread, child or descriptor is left when the executors of a test are gone."""
    # The sshd that a test is the first to need is not its own.
    if "chain" in request.fixturenames:
        request.getfixturevalue("chain")
    elif "name" in request.fixturenames and request.getfixturevalue("name") in CHAINS:
        CHAINS[request.getfixturevalue("name")](request)
    before = children_of_this_process(), len(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    yield
    assert wait_until(
        lambda: not [each for each in {*threading.enumerate()} - threads if each.name.startswith("deliveryboy") and each.is_alive()]
    )
    assert wait_until(lambda: children_of_this_process() <= before[0])
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before[1] + 1), "asyncio keeps none either"


def sees(chain: Any, path: str) -> bool:
    """Whether a call through the chain can read that file of ours: bwrap's /tmp is its own."""
    return not (isinstance(chain, Bubblewrap) and os.path.realpath(path).startswith("/tmp/"))
