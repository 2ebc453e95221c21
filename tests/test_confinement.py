"""What a confined call may do, and what it may not, as root and as an ordinary user.

PYTEST_DONT_REWRITE: a rewritten assert refers to pytest, which is not installed where these functions go.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from attacks import ATTACKS, Arena, arena, read_what_ran, stopped

from deliveryboy_ng import (
    Bubblewrap,
    Command,
    Confinement,
    DeliveryOptionError,
    DeliveryPickleError,
    Limits,
    ProtectionUnavailable,
    RemoteError,
    Sudo,
    Unshare,
    Verdict,
    deliver,
)
from deliveryboy_ng.worker import confine, view

STRICT = Confinement.strict()
FREE = Confinement(tmp=False, write=None, network=True, namespaces=(), syscalls=())


def need_namespaces() -> None:
    if not conftest.works("unshare", "--user", "--mount", "true"):
        conftest.missing("user namespaces are not permitted")


def _sudo() -> Any:
    return conftest.need_sudo()


CHAINS: dict[str, Any] = {"local": lambda: None, "bwrap": conftest.need_bwrap, "sudo": _sudo}


@pytest.fixture(params=CHAINS)
def chain(request: pytest.FixtureRequest) -> Any:
    need_namespaces()
    return CHAINS[request.param]()


def strictly(chain: Any = None, **changes: Any) -> Any:
    return deliver(transport=chain, confinement=Confinement.strict(**changes), output="capture")


# --- attacks --------------------------------------------------------------------------------------------------------


def sleep() -> None:
    time.sleep(600)


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    """Where everybody may read and write, as far as its rights go: what holds is the confinement."""
    mark = f"DELIVERYBOY_TEST_SECRET_VALUE_{time.monotonic_ns() % 10**8:08}"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o755)
        patch.setenv("DELIVERYBOY_TEST_SECRET", mark)
        inner = Path(folder, "caller")
        inner.mkdir()
        os.chmod(inner, 0o777)
        victims = []
        if conftest.works("sudo", "-n", "-u", "nobody", "true"):
            victims.append(deliver(transport=conftest.need_sudo(), output="capture")(sleep).submit())
        with arena(inner, [victim.remote_pid for victim in victims]) as found:
            yield found
        for victim in victims:
            victim.cancel()
            victim.receipt()


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_got_away_with(chain: Any, attack: str, place: Arena) -> None:
    receipt = strictly(chain)(ATTACKS[attack]).run(place.target)
    assert receipt.exception is None, (receipt.exception, receipt.stderr)
    assert receipt.value == []
    assert (receipt.verdict, receipt.clean) == (Verdict.RETURNED, True)
    assert stopped(place.pids) == []
    assert place.heard == []


@pytest.mark.parametrize("attack", ["read_secrets", "read_environment", "reach_network", "reach_memory_of_others"])
def test_the_attacks_work_where_nothing_holds_them(attack: str, place: Arena) -> None:
    assert len(deliver(output="capture")(ATTACKS[attack])(place.target)) > 0
    place.heard.clear()


def test_an_ordinary_user_is_held_as_well(tmp_path: Path) -> None:
    """The same attacks by one whose caller is no root: from a copy of this library, where he can read it."""
    if os.getuid() != 0:
        pytest.skip("this is no root: the attacks above were an ordinary user's")
    need_namespaces()
    conftest.need_sudo()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        for name in ("deliveryboy_ng", "cloudpickle", "tblib", "psutil"):
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin
            shutil.copytree(os.path.dirname(spec.origin), f"{folder}/{name}")
        shutil.copy(Path(__file__).with_name("attacks.py"), folder)
        result = subprocess.run(
            ["sudo", "-n", "-u", "nobody", "env", f"PYTHONPATH={folder}", conftest.system_python(), f"{folder}/attacks.py"],
            capture_output=True, text=True, timeout=60, check=False, cwd="/",
        )  # fmt: skip
    found = json.loads(result.stdout or json.dumps({"error": result.stderr}))
    assert found.pop("user") == pwd.getpwnam("nobody").pw_uid
    assert found == {name: [[], [], [], "RETURNED"] for name in ATTACKS}


# --- bombs ----------------------------------------------------------------------------------------------------------


def fork_bomb(escape: bool = False) -> None:
    """It would come to rest by itself, should nobody end it."""
    count = os.memfd_create("forks")
    while True:
        os.write(count, b"x")
        if os.lseek(count, 0, os.SEEK_CUR) > 3000:
            time.sleep(600)
        if os.fork() == 0 and escape:
            os.setsid()


def escaping_fork_bomb() -> None:
    fork_bomb(True)


def memory_bomb() -> None:
    kept = []
    while True:
        kept.append(b"x" * 10_000_000)


def thread_bomb() -> None:
    import threading

    while True:
        threading.Thread(target=time.sleep, args=(60,)).start()


def inode_bomb() -> None:
    number = 0
    while True:
        open(f"/tmp/{number}", "w").close()
        number += 1


def disk_bomb() -> None:
    number = 0
    while True:
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(1 << 20))
        number += 1


def file_bomb() -> None:
    with open("/tmp/file", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def cpu_bomb() -> None:
    while True:
        pass


def sleeper() -> None:
    while True:
        time.sleep(100)


def descriptor_bomb() -> None:
    kept = []
    while True:
        kept.append(os.dup(1))


def announce() -> None:
    os.write(3, b"R" + (10 << 30).to_bytes(8, "big") + bytes(1000))
    time.sleep(60)


def pickle_bomb() -> None:
    answer = b"cos\nsystem\n(S'touch /tmp/deliveryboy-bomb'\ntR."
    os.write(3, b"R" + len(answer).to_bytes(8, "big") + answer)
    os._exit(0)


def nesting_bomb() -> None:
    answer = b"[" * 1_000_000
    os.write(3, b"R" + len(answer).to_bytes(8, "big") + answer)
    os._exit(0)


def frame_bomb() -> None:
    for fd in (1, 2, 3):
        os.write(fd, b"\0\0\0\1\7status=0 ending=none" * 50)
    os._exit(0)


def daemons() -> str:
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            for fd in range(4):
                os.close(fd)
            time.sleep(600)
    return "left"


BOMBS = {
    fork_bomb: Verdict.PROCESS_LIMIT,
    escaping_fork_bomb: Verdict.PROCESS_LIMIT,
    memory_bomb: Verdict.MEMORY_LIMIT,
    thread_bomb: Verdict.PROCESS_LIMIT,
    inode_bomb: Verdict.RAISED,
    disk_bomb: Verdict.RAISED,
    file_bomb: Verdict.FILE_SIZE_LIMIT,
    cpu_bomb: Verdict.CPU_LIMIT,
    sleeper: Verdict.TIMEOUT,
    descriptor_bomb: Verdict.OPEN_FILES_LIMIT,
    announce: Verdict.REPLY_LIMIT,
    pickle_bomb: Verdict.RETURNED,
    nesting_bomb: Verdict.RETURNED,
    frame_bomb: Verdict.REPLY_LIMIT,
    daemons: Verdict.RETURNED,
}
SMALL = Limits(memory="128M", cpu=1, processes=16, file_size="4M", open_files=64)


@pytest.mark.parametrize("confinement", [None, Confinement.strict()], ids=["free", "strict"])
def test_the_supervisor_is_process_1_behind_bwrap(confinement: Confinement | None) -> None:
    """So it can end everybody at one stroke, which is all that helps root against a bomb that leaves its session."""
    runner = deliver(transport=conftest.need_bwrap(), executable=conftest.system_python(), confinement=confinement)
    assert runner(os.getppid)() == 1


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bombs_end_in_their_verdict(chain: Any, bomb: Any) -> None:
    runner = strictly(chain, limits=SMALL, timeout=0.5 if bomb is sleeper else 30, tmp="8M")(bomb)
    receipt = runner.run()
    assert (receipt.verdict, receipt.clean) == (BOMBS[bomb], True), (receipt.exception, receipt.stderr)
    if bomb in (inode_bomb, disk_bomb):
        assert isinstance(receipt.exception, OSError) and receipt.exception.errno == 28
    if bomb in (pickle_bomb, nesting_bomb):
        assert isinstance(receipt.exception, DeliveryPickleError)
    assert not os.path.exists("/tmp/deliveryboy-bomb")


# --- ordinary programs ----------------------------------------------------------------------------------------------


def with_numpy() -> Any:
    import numpy

    matrix = numpy.arange(10_000.0).reshape(100, 100)
    return matrix @ matrix


def with_sqlite() -> list[tuple[int]]:
    import sqlite3

    with sqlite3.connect("/tmp/file.db") as connection:
        connection.execute("create table things (number integer)")
        connection.executemany("insert into things values (?)", [(1,), (2,)])
        return connection.execute("select number from things").fetchall()


def with_subprocess() -> list[str]:
    import subprocess

    script = "id -u; echo $HOME; awk 'BEGIN { print 6 * 7 }' | tr 4 5; sort < /etc/passwd | head -1 | wc -l; basename $(mktemp -d /tmp/XXXXXX)"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def with_multiprocessing() -> Any:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(3) as pool:
        forked = pool.map(abs, range(-5, 0))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return forked, pool.map(abs, [-1, -2])


def with_executors() -> list[int]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as processes, ThreadPoolExecutor(4) as threads:
        return [*processes.map(abs, [-1, -2]), *threads.map(abs, [-3])]


def with_asyncio() -> Any:
    import asyncio

    async def main() -> Any:
        process = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        return output, await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(abs, -2))

    return asyncio.run(main())


def with_matplotlib() -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.plot([1, 3, 2])
    pyplot.savefig("/tmp/figure.png")
    return Path("/tmp/figure.png").read_bytes()[:4]


def with_the_standard_library() -> list[Any]:
    import getpass
    import locale
    import shutil
    import ssl
    import tempfile
    import zoneinfo

    folder = tempfile.mkdtemp()
    Path(folder, "a").write_text("x")
    shutil.copy2(f"{folder}/a", f"{folder}/b")
    names = sorted(os.listdir(folder))
    shutil.rmtree(folder)
    ssl.create_default_context()
    return [names, getpass.getuser(), str(zoneinfo.ZoneInfo("Europe/Berlin")), locale.getpreferredencoding(), os.getcwd()]


def test_numpy_and_matplotlib() -> None:
    """Locally: what is installed for the tests is installed for this user only."""
    need_namespaces()
    assert strictly()(with_numpy)()[99, 99] > 0
    assert strictly()(with_matplotlib)() == b"\x89PNG"


def test_sqlite(chain: Any) -> None:
    assert strictly(chain)(with_sqlite)() == [(1,), (2,)]


def test_subprocesses(chain: Any) -> None:
    uid, home, *rest = strictly(chain)(with_subprocess)()
    assert uid == str(pwd.getpwnam("nobody").pw_uid if isinstance(chain, Sudo) else os.getuid())
    assert home == "/tmp" and rest[:2] == ["52", "1"] and len(rest) == 3


def test_multiprocessing(chain: Any) -> None:
    assert strictly(chain)(with_multiprocessing)() == ([5, 4, 3, 2, 1], [1, 2])


def test_executors(chain: Any) -> None:
    assert strictly(chain)(with_executors)() == [1, 2, 3]


def test_asyncio(chain: Any) -> None:
    assert strictly(chain)(with_asyncio)() == (b"hello\n", [1, 2])


def test_the_standard_library(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # This project may itself lie in /tmp.
    monkeypatch.chdir(Path.home())
    names, user, zone, _, cwd = strictly(chain)(with_the_standard_library)()
    assert (names, zone, cwd) == (["a", "b"], "Europe/Berlin", "/tmp")
    assert user == ("nobody" if isinstance(chain, Sudo) else pwd.getpwuid(os.getuid()).pw_name)


def test_every_interpreter_can_be_confined(other_python: str, place: Arena) -> None:
    need_namespaces()
    for attack in ("signal_others", "read_environment", "read_secrets", "write_outside"):
        receipt = deliver(confinement=STRICT, executable=other_python)(ATTACKS[attack]).run(place.target)
        assert (receipt.value, receipt.verdict) == ([], Verdict.RETURNED), receipt.exception


# --- what is asked for is what is had -------------------------------------------------------------------------------


def status() -> dict[str, str]:
    """The kernel's own word on this process."""
    return dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)


def securebits() -> int:
    import ctypes

    return ctypes.CDLL(None).prctl(27, 0, 0, 0, 0)


def test_the_kernel_says_so_too(chain: Any) -> None:
    found = strictly(chain)(status)()
    assert {name: int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert strictly(chain)(securebits)() == 0xEF
    assert found["Threads"] == "1"


def test_what_is_held_is_told(chain: Any) -> None:
    applied = strictly(chain)(len).run("x").applied
    for line in ("read only", "no network", "no new privileges", "capabilities=none", "environment cleared", f"tmp={64 << 20}"):
        assert line in applied
    assert {"timeout=60", "cpu=60", "processes=64", f"memory={512 << 20}", "core=0"} <= set(applied)
    assert any(line.startswith("syscalls: ") for line in applied)
    made = " ".join(line for line in applied if line.startswith("namespaces"))
    assert all(name in made for name in ("user", "mount", "cgroup", "ipc", "uts"))
    assert "signals stay inside" in applied or "pid namespace" in applied


def test_a_confined_call_is_not_trusted() -> None:
    assert not deliver(confinement=FREE)(len).options.trusted
    assert deliver(confinement=FREE, trust=True)(len).options.trusted
    assert deliver(confinement=FREE)(len).run("abc").trusted is False


def test_options_of_the_call_come_before_those_of_the_confinement() -> None:
    runner = deliver(confinement=Confinement.strict(cwd="/usr"), limits=Limits(cpu=5), timeout=7, cwd="/tmp")(os.getcwd)
    receipt = runner.run()
    assert receipt.value == "/tmp"
    assert {"timeout=7", "cpu=5", "processes=64"} <= set(receipt.applied)
    assert runner.with_options(confinement=None).options.limits == Limits(cpu=5)
    assert deliver(confinement=Confinement.strict(cwd="/usr"))(os.getcwd)() == "/usr"


def see(*paths: str) -> list[str]:
    """What can be done with each path."""
    found = []
    for path in paths:
        can = ""
        try:
            os.listdir(path) if os.path.isdir(path) else open(path).close()
            can += "r"
        except OSError:
            pass
        try:
            os.close(os.open(f"{path}/new", os.O_CREAT | os.O_WRONLY)) if os.path.isdir(path) else open(path, "r+").close()
            can += "w"
        except OSError:
            pass
        found.append(can)
    return found


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Three folders, and a link to the third."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "link").symlink_to("c")
    return [str(tmp_path / name) for name in ("a", "b", "c", "link")]


def test_paths_to_read_and_to_write(folders: list[str]) -> None:
    need_namespaces()
    a, b, c, link = folders
    everything = (a, f"{a}/file", b, c, link, "/etc/passwd", "/usr", "/tmp")
    far = deliver(confinement=Confinement.strict(read=[a], write=[b, f"{link}/file"]))(see)
    # What they lie in is the private /tmp.
    assert far(*everything, f"{c}/file", f"{link}/file") == ["r", "r", "rw", "rw", "rw", "r", "r", "rw", "rw", "rw"]
    assert deliver(confinement=Confinement(write=[b]))(see)(*everything) == ["", "", "rw", "", "", "r", "r", "rw"]
    visible = Confinement(write=[b], tmp=False)
    assert deliver(confinement=visible)(see)(*everything) == ["r", "r", "rw", "r", "r", "r", "r", "r"]
    assert sorted(os.listdir(b)) == ["file", "new"] and os.listdir(a) == os.listdir(c) == ["file"]
    os.unlink(f"{b}/new")
    nested = deliver(confinement=Confinement.strict(write=[os.path.dirname(a)], read=[b]))(see)
    assert nested(a, b, link) == ["rw", "r", "rw"], "the nearest rule counts"
    assert deliver(confinement=Confinement(tmp=False))(see)(a, b, "/tmp", "/var/tmp") == ["r", "r", "r", "r"]
    assert deliver(confinement=Confinement(tmp=False, write=None))(see)(a, "/tmp") == ["rw", "rw"]
    os.unlink(f"{a}/new")
    outside = tempfile.mkdtemp(dir=Path.home())
    try:
        assert deliver(confinement=Confinement(write=None))(see)(outside, a, "/tmp") == ["rw", "", "rw"]
        assert os.listdir(outside) == ["new"]
        free = Confinement(write=None, best_effort=True)
        assert deliver(transport=without(442), confinement=free)(see)(outside) == ["rw"]
    finally:
        shutil.rmtree(outside)


def test_a_bwrap_hop_makes_way_for_what_may_be_written(folders: list[str]) -> None:
    need_namespaces()
    outside = tempfile.mkdtemp(dir="/var/tmp")
    try:
        os.chmod(outside, 0o777)
        far = strictly(conftest.need_bwrap(), write=[outside], read=["/opt"])(see)
        assert far(outside, "/opt", "/srv") == ["rw", "r", ""]
        assert os.listdir(outside) == ["new"]
    finally:
        shutil.rmtree(outside)


def test_private_folders_end_with_the_call() -> None:
    need_namespaces()

    def leave() -> list[str]:
        for path in ("/tmp", "/var/tmp", "/dev/shm"):
            Path(path, "deliveryboy-left").write_text("x")
        return os.listdir("/tmp")

    far = deliver(confinement=STRICT)(leave)
    assert "deliveryboy-left" in far()
    assert not any(os.path.exists(f"{path}/deliveryboy-left") for path in ("/tmp", "/var/tmp", "/dev/shm"))
    mounts = Path("/proc/self/mounts").read_text()
    far()
    assert Path("/proc/self/mounts").read_text() == mounts


def test_devices() -> None:
    need_namespaces()

    def devices() -> list[str]:
        assert os.read(os.open("/dev/zero", os.O_RDONLY), 2) == bytes(2)
        os.write(os.open("/dev/null", os.O_WRONLY), b"x")
        return sorted(os.listdir("/dev"))

    plain = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]
    assert deliver(confinement=STRICT)(devices)() == plain
    assert deliver(confinement=Confinement())(devices)() == plain
    with_terminals = Confinement.strict(devices=["/dev/ptmx", "/dev/pts"])
    assert deliver(confinement=with_terminals)(devices)() == sorted([*plain, "ptmx", "pts"])


def environment() -> tuple[dict[str, str], dict[str, str], str]:
    import subprocess

    seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(os.environ), dict(line.split("=", 1) for line in seen), Path("/proc/self/environ").read_text()


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "value")
    monkeypatch.setenv("KEEP_ONE", "1")
    monkeypatch.setenv("KEEP_TWO", "two")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    kept, seen, initial = deliver(confinement=Confinement(env=["PATH", "KEEP_*"]), env={"SET": "x"})(environment)()
    assert set(kept) == {"PATH", "KEEP_ONE", "KEEP_TWO", "SET", "LC_ALL", "LANG"} - (
        {"LANG"} if "LANG" not in os.environ else set()
    )
    assert kept["KEEP_TWO"] == "two" and kept["SET"] == "x" and {**seen, **kept} == {**kept, **seen}
    assert not initial.strip("\0")
    assert deliver(confinement=Confinement())(environment)()[0]["SECRET"] == "value"


def test_terminals_of_its_own(chain: Any) -> None:
    def open_one() -> tuple[str, list[str]]:
        leader, follower = os.openpty()
        os.write(leader, b"typed\n")
        return os.read(follower, 100).decode(), sorted(os.listdir("/dev/pts"))

    assert strictly(chain, devices=["/dev/ptmx", "/dev/pts"])(open_one)() == ("typed\n", ["0", "ptmx"])


def set_traps(folder: str) -> list[str]:
    """What a call might leave for those who look at its results."""
    Path(folder, "sh").write_text("#!/bin/sh")
    actions = {
        "chmod": lambda: os.chmod(f"{folder}/sh", 0o4755),
        "fchmod": lambda: os.fchmod(os.open(f"{folder}/sh", os.O_RDONLY), 0o2755),
        "open": lambda: os.close(os.open(f"{folder}/new", os.O_CREAT | os.O_WRONLY, 0o4755)),
        "unnamed": lambda: os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o4755)),
        "mknod": lambda: os.mknod(f"{folder}/node", 0o4755),
        "link": lambda: os.symlink("/etc/shadow", f"{folder}/link"),
        "pipe": lambda: os.mkfifo(f"{folder}/pipe"),
        "device": lambda: os.mknod(f"{folder}/device", 0o20666, os.makedev(1, 3)),
    }
    found = []
    for name, action in actions.items():
        try:
            action()
            found.append(name)
        except OSError:
            pass
    os.chmod(f"{folder}/sh", 0o755)
    os.mkdir(f"{folder}/inner")
    return found


def test_no_traps_are_left_where_it_may_write() -> None:
    need_namespaces()
    folder = tempfile.mkdtemp(dir=Path.home())
    try:
        runner = deliver(confinement=Confinement.strict(write=[folder]))(set_traps)
        assert runner(folder) == []
        assert sorted(os.listdir(folder)) == ["inner", "sh"] and os.stat(f"{folder}/sh").st_mode & 0o7777 == 0o755
    finally:
        shutil.rmtree(folder)


def test_memory_is_not_hidden_in_system_v_segments() -> None:
    def hide() -> list[int]:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return [libc.shmget(0, 50 << 20, 0o1600), libc.msgget(0, 0o1600), libc.semget(0, 100, 0o1600)]

    assert deliver(confinement=STRICT)(hide)() == [-1, -1, -1]


def test_of_an_environment_only_what_is_pythons_is_seen(tmp_path: Path) -> None:
    """People make virtual environments in the folder of their project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    (tmp_path / "answers.txt").write_text("42")
    far = deliver(confinement=STRICT, executable=str(tmp_path / "bin" / "python"))(see)
    assert far(f"{tmp_path}/answers.txt", f"{tmp_path}/pyvenv.cfg") == ["", "r"]


def test_limits_of_a_preset_are_changed_one_by_one() -> None:
    limits = Confinement.strict(limits=Limits(memory="256M")).limits
    assert (limits.memory, limits.processes, limits.cpu) == ("256M", 64, 60)


def test_processor_time_by_whole_seconds_is_the_watchs() -> None:
    """The kernel's own limit counts by ticks, and may find a second too early."""
    receipt = strictly(limits=Limits(cpu=1))(cpu_bomb).run()
    assert receipt.verdict is Verdict.CPU_LIMIT and receipt.usage.user + receipt.usage.system >= 1


def test_root_without_the_capability_for_its_own_map_is_told() -> None:
    if os.getuid() != 0 or not conftest.works("setpriv", "--bounding-set=-setfcap", "true"):
        pytest.skip("this takes root, and setpriv")
    bare = Command(["setpriv", "--bounding-set=-setfcap,-sys_admin", "--inh-caps=-all"])
    with pytest.raises(ProtectionUnavailable, match="not permitted there") as caught:
        strictly(bare)(len)("x")
    assert caught.value.receipt.verdict is Verdict.REFUSED
    receipt = strictly(bare, best_effort=True)(os.getuid).run()
    assert (receipt.value, receipt.exception) == (0, None)


def test_a_umask_that_keeps_everybody_out() -> None:
    need_namespaces()
    assert deliver(confinement=STRICT, umask=0o777)(os.umask)(0) == 0o777


def test_network_allowed() -> None:
    def families() -> list[int]:
        import _socket

        found = []
        for family in range(1, 46):
            try:
                _socket.socket(family, 2 if family != 16 else 3, 0).close()
                found.append(family)
            except OSError:
                pass
        return found

    assert set(deliver(confinement=Confinement(network=True))(families)()) <= {1, 2, 10, 16}
    assert {1, 2} <= set(deliver(confinement=Confinement(network=True))(families)())
    assert deliver(confinement=Confinement())(families)() == []


def test_capabilities_that_are_kept() -> None:
    if os.getuid() != 0:
        pytest.skip("only root has capabilities")
    need_namespaces()
    net_bind_service = 1 << confine.CAPABILITIES.index("net_bind_service")
    far = deliver(confinement=Confinement(network=True, capabilities=["net_bind_service"]))

    def after_exec() -> str:
        import subprocess

        return subprocess.run(["grep", "Cap", "/proc/self/status"], capture_output=True, text=True, check=True).stdout

    assert {int(line.split()[1], 16) for line in far(after_exec)().splitlines()} == {net_bind_service}

    def bind() -> int:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as low:
            low.bind(("127.0.0.1", 1023))
            return server.getsockname()[1] and low.getsockname()[1]

    assert far(bind)() == 1023, "of the machine, not of a namespace of its own"


@pytest.mark.parametrize("hop", [Unshare(), Unshare(pid=True, net=True), Unshare(user=False, mount=True)], ids=lambda hop: hop.name)
def test_namespaces_that_a_hop_makes_are_not_made_twice(hop: Unshare) -> None:
    conftest.need_unshare()
    if not hop.user and os.getuid() != 0:
        pytest.skip("unshare without a user namespace takes root")
    receipt = strictly(hop, namespaces=["ipc", "uts", "net"])(status).run()
    assert receipt.ok, receipt.exception
    assert f"namespaces of the transport={','.join(sorted({'ipc', 'uts', 'net'}))}" in receipt.applied
    assert "namespaces=user,mount" in receipt.applied


def test_over_ssh(shared_ssh: Any, place: Arena) -> None:
    need_namespaces()
    for attack in ("read_secrets", "signal_others"):
        receipt = strictly(shared_ssh)(ATTACKS[attack]).run(place.target)
        assert (receipt.value, receipt.verdict, receipt.clean) == ([], Verdict.RETURNED, True), receipt.exception


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_transport_is_the_end_of_all(number: int, tmp_path: Path) -> None:
    need_namespaces()
    mark = f"deliveryboy-mark-{time.monotonic_ns()}"

    def multiply(path: str, mark: str) -> None:
        import subprocess

        for _ in range(3):
            subprocess.Popen(["sleep", "600"], start_new_session=True, env={"MARK": mark, "PATH": os.environ["PATH"]})
        Path(path, "ready").write_text("x")
        time.sleep(600)

    strict = Confinement.strict(write=[tmp_path], timeout=600)
    pid = deliver(asynchronous=True, confinement=strict)(multiply)(str(tmp_path), mark)
    assert conftest.wait_until((tmp_path / "ready").exists)
    # Their descriptors are closed by execve(2) before /proc shows the new environment.
    assert conftest.wait_until(lambda: len(conftest.processes_with(mark)) == 3)
    os.kill(pid, number)
    assert conftest.wait_until(lambda: not conftest.processes_with(mark))
    assert conftest.wait_until(lambda: not conftest.is_alive(pid))


def test_niceness_survives_a_supervisor_that_comes_first(script: Any) -> None:
    text = (
        "import os\nfrom deliveryboy_ng import Confinement, Limits, deliver\nos.nice(3)\n"
        "def look(): return os.nice(0), os.sched_getscheduler(0)\n"
        "print(deliver(limits=Limits(processes=9))(look)(), deliver(confinement=Confinement.strict())(look)())"
    )
    assert script(text).stdout.decode().strip() == "(3, 0) (3, 0)"


def test_left_to_itself(tmp_path: Path) -> None:
    def write(path: str) -> None:
        Path(path, "done").write_text(str(os.path.exists("/etc/shadow")))

    deliver(asynchronous=True, confinement=Confinement.strict(write=[tmp_path]))(write)(str(tmp_path))
    assert conftest.wait_until(lambda: (tmp_path / "done").exists() and (tmp_path / "done").read_text()) == "False"


def test_a_confined_call_delivers_no_further_than_it_may() -> None:
    def inner() -> bool:
        return os.path.exists("/etc/shadow")

    def outer() -> bool:
        from deliveryboy_ng import deliver

        return deliver(inner)()

    if not conftest.works(sys.executable, "-c", "import deliveryboy_ng"):
        pytest.skip("this library is not installed for the interpreter that runs the tests")
    assert strictly()(outer)() is False


# --- what cannot be had ---------------------------------------------------------------------------------------------

NO_NAMESPACES = Command(["unshare", "--map-root-user", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"', "sh"])  # fmt: skip


def without(*numbers: int) -> Command:
    """A transport behind which the kernel is an older one: it does not know these system calls."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from deliveryboy_ng import seccomp; import os; "
        "from deliveryboy_ng.worker import confine, system; "
        "system.prctl(38, 1); seccomp.NUMBERS = {str(n): (int(n), int(n)) for n in sys.argv[2].split(',')}; seccomp._EPERM = 38; "
        "seccomp._blocks = lambda *_: {}; wanted = {'filters': seccomp.filters(tuple(seccomp.NUMBERS), True), 'network': True}; "
        "confine.Confinement({**wanted, 'syscalls': 1}, '', [])._filter(); os.execvp(sys.argv[3], sys.argv[3:])"
    )
    root = str(Path(confine.__file__).parents[2])
    return Command([sys.executable, "-c", code, root, ",".join(map(str, numbers))])


def test_without_user_namespaces_nothing_runs() -> None:
    conftest.need_unshare()
    if not conftest.works(*NO_NAMESPACES.wrap(["true"])):
        conftest.missing("setpriv is not installed")
    with pytest.raises(ProtectionUnavailable, match=r"read, write, tmp and namespaces: .*not permitted there") as caught:
        strictly(NO_NAMESPACES)(len)("x")
    assert "Bubblewrap" in str(caught.value)
    receipt = strictly(NO_NAMESPACES, best_effort=True, read=["/opt"])(see).run("/etc/shadow", "/usr", "/opt", "/tmp", "/home")
    assert receipt.ok, receipt.exception
    assert receipt.value == ["", "r", "r", "", ""]
    assert "files by Landlock alone" in receipt.applied and "read only" not in receipt.applied
    assert deliver(transport=NO_NAMESPACES, confinement=FREE)(len)("x") == 1
    assert "pid namespace" in deliver(confinement=FREE)(len).run("x").applied


def test_before_landlock_a_pid_namespace_does_it(place: Arena) -> None:
    need_namespaces()
    for chain in (without(444), [without(444), Unshare(pid=True)]):
        receipt = strictly(chain)(ATTACKS["read_secrets"]).run(place.target)
        assert (receipt.value, receipt.exception) == ([], None)
        assert "pid namespace" in receipt.applied and "signals stay inside" not in receipt.applied
    receipt = deliver(transport=[without(444), Unshare()])(len).run("x")
    assert receipt.value == 1 and receipt.applied == ("pid namespace",)


def test_without_either_nothing_runs() -> None:
    conftest.need_unshare()
    for runner in (strictly([without(444), NO_NAMESPACES]), deliver(transport=[without(444), NO_NAMESPACES, Unshare(user=False)])):
        with pytest.raises(ProtectionUnavailable, match=r"Linux 6\.12.*Unshare\(pid=True\)"):
            runner(len)("x")


def test_where_parts_of_proc_are_hidden_nothing_runs(place: Arena) -> None:
    """As in a container: the kernel then permits no new /proc.  Landlock does what it can, if that is enough."""
    conftest.need_unshare()
    masked = Command(["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /proc/bus && exec "$@"', "sh"])
    with pytest.raises(ProtectionUnavailable, match="processes: others can be seen there"):
        strictly(masked)(len)("x")
    for name in ("read_secrets", "read_environment", "signal_others", "trace_others"):
        receipt = strictly(masked, best_effort=True)(ATTACKS[name]).run(place.target)
        assert (receipt.value, receipt.exception) == ([], None)
        assert "signals stay inside" in receipt.applied and "pid namespace" not in receipt.applied
    assert stopped(place.pids) == []


def test_before_mount_setattr_nothing_runs() -> None:
    need_namespaces()
    with pytest.raises(ProtectionUnavailable, match="Function not implemented"):
        strictly(without(442))(len)("x")
    assert deliver(transport=without(442), confinement=Confinement(write=None, tmp=False))(len)("x") == 1, "it needs none"
    receipt = strictly(without(442), best_effort=True)(see).run("/etc/shadow", "/usr", "/tmp")
    assert receipt.value == ["", "r", ""] and "files by Landlock alone" in receipt.applied


def test_what_is_missing_does_not_take_the_rest_with_it() -> None:
    need_namespaces()
    receipt = strictly(best_effort=True, read=["/no-such-thing"])(see).run("/etc/shadow", "/usr", "/tmp")
    assert receipt.value == ["", "r", "rw"] and "read only" in receipt.applied


def test_a_file_system_half_put_together_is_never_used() -> None:
    need_namespaces()
    pivot_root = 155 if os.uname().machine == "x86_64" else 41
    receipt = strictly(without(pivot_root), best_effort=True)(see).run("/etc/shadow")
    assert receipt.verdict is Verdict.REFUSED and "cannot be put together" in str(receipt.exception)


def test_namespaces_that_cannot_be_made_ready_are_refused() -> None:
    """As where they are permitted, but nothing in them is: the kernel refuses mount(2)."""
    need_namespaces()
    for transport, confinement in (
        ([without(444, 165), conftest.need_sudo()], None),
        (without(165), STRICT),
        (without(165), Confinement.strict(best_effort=True)),
    ):
        receipt = deliver(transport=transport, confinement=confinement, output="capture")(len).run("x")
        assert receipt.verdict is Verdict.REFUSED, receipt
        assert "cannot be made ready" in str(receipt.exception) and "Bubblewrap" in str(receipt.exception)


def test_what_proc_tells_root_alone_is_hidden() -> None:
    need_namespaces()

    def look() -> list[bytes]:
        return [open(f"/proc/{name}", "rb").read(10) for name in view._OF_ROOT if os.path.exists(f"/proc/{name}")]

    assert not any(strictly()(look)())


def test_installed_code_cannot_claim_that_nothing_ran(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    (packages / "forge.pth").write_text("import os; os.write(3, b'E' + (4).to_bytes(8, 'big') + b'text'); os._exit(0)\n")
    receipt = deliver(confinement=STRICT, executable=str(tmp_path / "bin" / "python"))(len).run("x")
    assert isinstance(receipt.exception, DeliveryPickleError) and "it had begun" in str(receipt.exception)
    assert "made up" not in receipt.applied and "no network" in receipt.applied


def test_nothing_installed_runs_before_the_confinement(tmp_path: Path, other_python: str) -> None:
    """A .pth file in the user's own packages runs at the start of the next interpreter: by then it is confined."""
    need_namespaces()
    version = subprocess.run(
        [other_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    packages = tmp_path / f"lib/python{version.stdout.strip()}/site-packages"
    packages.mkdir(parents=True)
    (packages / "evil.pth").write_text(
        f"import os; os.access({str(tmp_path)!r}, os.W_OK) and open('{tmp_path}/ran', 'w'); "
        "open('/tmp/pth-ran', 'w').write(str(os.path.exists('/etc/shadow')))\n"
    )
    runner = deliver(
        confinement=Confinement.strict(read=[tmp_path]),
        executable=other_python,
        env={"PYTHONUSERBASE": str(tmp_path)},
        output="capture",
    )
    receipt = runner(read_what_ran).run()
    assert receipt.exception is None and receipt.value == "False", "it ran, and was confined"
    assert not (tmp_path / "ran").exists()


def claim_not_to_have_run(status: bytes) -> None:
    os.write(3, status + (4).to_bytes(8, "big") + b"text")
    os._exit(0)


@pytest.mark.parametrize("status", [b"E", b"V"])
def test_a_call_that_has_begun_cannot_claim_that_it_has_not(status: bytes) -> None:
    receipt = strictly()(claim_not_to_have_run).run(status)
    assert isinstance(receipt.exception, DeliveryPickleError) and "it had begun" in str(receipt.exception)


def long_command_line(mebibytes: int) -> str:
    """A child whose /proc/PID/cmdline is as long as that, if it gets its way."""
    import ctypes

    if os.fork() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        place = libc.mmap(None, ctypes.c_size_t(mebibytes << 20), 1, 0x4022, -1, 0)
        for option, value in ((8, place), (9, place + (mebibytes << 20) - 1)):
            libc.prctl(35, option, ctypes.c_ulong(value), 0, 0)
        time.sleep(600)
    time.sleep(0.2)
    return "back"


def test_what_a_process_shows_of_itself_is_not_read_without_end() -> None:
    from deliveryboy_ng.worker import system

    assert len(system.read("/proc/self/maps", 100)) == 100
    for runner in (strictly(), deliver(output="capture")):
        receipt = runner(long_command_line).run(200)
        assert (receipt.value, receipt.clean) == ("back", True) and receipt.duration < 5


def page_tables(count: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(None, ctypes.c_size_t(count << 21), 1, 0x4022, -1, 0)
    for number in range(count):
        ctypes.c_char.from_address(place + (number << 21)).value
    time.sleep(30)


def thread_with_descriptors_of_its_own() -> None:
    import ctypes
    import threading

    def hide() -> None:
        assert ctypes.CDLL(None).unshare(0x400) == 0
        memfd = os.memfd_create("hidden")
        for _ in range(300):
            os.write(memfd, bytes(1 << 20))
        time.sleep(30)

    threading.Thread(target=hide).start()
    time.sleep(30)


@pytest.mark.parametrize("how", [page_tables, thread_with_descriptors_of_its_own], ids=lambda how: how.__name__)
def test_memory_in_hidden_places_counts(how: Any) -> None:
    args = (60_000,) if how is page_tables else ()
    receipt = deliver(limits=Limits(memory="128M"), timeout=20, output="capture")(how).run(*args)
    assert receipt.verdict is Verdict.MEMORY_LIMIT, (receipt.exception, receipt.stderr)


@pytest.mark.parametrize("name", ["read", "write", "devices"])
def test_what_is_not_there_is_named(name: str) -> None:
    path = "/dev/no-such-thing" if name == "devices" else "/no-such-thing"
    with pytest.raises(
        ProtectionUnavailable, match=f"{name}='{path}' cannot be had on the far side: (No such file|there is no such device)"
    ):
        strictly(**{name: [path]})(len)("x")


def test_a_working_directory_of_which_nothing_but_the_name_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a project's folder in which the interpreter's own lies."""
    need_namespaces()
    folder = tempfile.mkdtemp(dir=Path.home())
    try:
        os.mkdir(f"{folder}/shown")
        monkeypatch.chdir(folder)
        assert strictly(read=[f"{folder}/shown"])(os.getcwd)() == "/tmp"
        assert strictly(read=[folder])(os.getcwd)() == folder
        monkeypatch.chdir(f"{folder}/shown")
        assert strictly(read=[folder])(os.getcwd)() == f"{folder}/shown"
    finally:
        shutil.rmtree(folder)


def test_a_working_directory_that_is_out_of_sight(tmp_path: Path) -> None:
    with pytest.raises(ProtectionUnavailable, match="cwd="):
        strictly()(len).with_options(cwd=str(tmp_path))("x")


@pytest.mark.parametrize(
    "values, words",
    [
        ({"netwrk": True}, "did you mean network"),
        ({"network": 1}, "network must be true or false"),
        ({"read": "/data"}, "read must be a list of paths"),
        ({"read": ["data"]}, "must be an absolute path"),
        ({"write": [3]}, "is no path"),
        ({"write": ["/a\0b"]}, "must be an absolute path"),
        ({"devices": ["/tmp/x"]}, "names in /dev"),
        ({"devices": ["/dev/../etc"]}, "names in /dev"),
        ({"read": ["/dev/kmsg"]}, "devices="),
        ({"devices": None}, "devices must be a list"),
        ({"tmp": "much"}, "tmp must be a size"),
        ({"capabilities": ["net_rwa"]}, "did you mean 'net_raw'"),
        ({"capabilities": "net_raw"}, "must be a list of names"),
        ({"namespaces": ["pid"]}, "in any case"),
        ({"namespaces": ["mount"]}, "known are cgroup, ipc, net, uts"),
        ({"syscalls": ["ptrce"]}, "did you mean 'ptrace'"),
        ({"env": "PATH"}, "env must be names"),
        ({"env": ["A=B"]}, "env must be names"),
        ({"cwd": "here"}, "must be an absolute path"),
        ({"limits": {}}, "limits must be Limits"),
        ({"timeout": "1"}, "timeout must be a number"),
        ({"timeout": -1}, "timeout must be a number"),
        ({"timeout": float("nan")}, "timeout must be a number"),
        ({"read": ["/"]}, "read=None"),
        ({"write": ["/usr/.."]}, "write=None"),
        ({"write": ["/tmp"]}, "tmp=False only"),
        ({"capabilities": ["net_raw", "sys_ptrace"]}, "sys_ptrace is not held"),
        ({"best_effort": None}, "best_effort must be true or false"),
        ({"read": [], "write": None}, "contradicts read"),
        ({"network": True, "namespaces": ["net"]}, "contradicts network=True"),
        ({"new_privileges": True}, "new_privileges=True contradicts"),
    ],
)
def test_nonsense_is_refused_at_once(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DeliveryOptionError) as caught:
        Confinement(**values)
    assert words in str(caught.value)


def test_a_confinement_is_a_value() -> None:
    import pickle

    assert Confinement.strict() == Confinement.strict() and hash(Confinement.strict()) == hash(Confinement.strict())
    assert pickle.loads(pickle.dumps(STRICT)) == STRICT
    with pytest.raises(DeliveryOptionError, match=r"Confinement\.strict\(\)"):
        deliver(confinement="strict")
    free = Confinement(new_privileges=True, network=True, write=None, tmp=False, namespaces=(), syscalls=())
    assert deliver(confinement=free)(status)()["NoNewPrivs"] == "0"


# --- what it is made of ---------------------------------------------------------------------------------------------


def test_the_view_follows_links_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "real")
    (tmp_path / "round").symlink_to("round")
    for path in ("real", "one", "two", "one/../real/.", "./one//"):
        assert view.View()._follow(f"{tmp_path}/{path}") == os.path.realpath(f"{tmp_path}/{path}")
    for path, reason in (("round", "too many symbolic links"), ("real/none", "No such file"), ("real/none/more", "No such file")):
        assert reason in view.View().show(f"{tmp_path}/{path}", "read")
    assert view.View()._follow("/") == "/"


def test_bubblewrap_and_unshare_use_their_own_means() -> None:
    hop = Bubblewrap(write=["/a"]).confined(Confinement(write=["/b"], network=True, devices=["/dev/kvm"]))
    words = " ".join(hop.wrap(["python3"]))
    assert "--bind /a /a" in words and "--bind-try /b /b" in words and "--dev-bind-try /dev/kvm /dev/kvm" in words
    assert "--share-net" in words and "--unshare-all" in words
    assert Unshare().confined(Confinement(namespaces=["net", "uts"])) == Unshare(net=True, uts=True)


# --- answers --------------------------------------------------------------------------------------------------------


class Reduced(Exception):
    def __reduce__(self) -> Any:
        return os.system, ("touch /var/tmp/deliveryboy-reduced",)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("asked for its text")

    __repr__ = __str__


def pose() -> None:
    class Posing(ValueError):
        @property
        def __class__(self) -> Any:
            return KeyboardInterrupt

    raise Posing("text")


class Dictionary(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        os._exit(5)


class Number(int):
    def __int__(self) -> int:
        raise SystemExit("asked for its number")


def raise_one(kind: type[BaseException]) -> None:
    raise kind("text")


def return_one(kind: type) -> Any:
    return [kind()]


@pytest.mark.parametrize("kind", [Reduced, Unspeakable], ids=lambda kind: kind.__name__)
def test_hostile_exceptions_of_confined_calls(chain: Any, kind: type[BaseException]) -> None:
    receipt = strictly(chain)(raise_one).run(kind)
    assert receipt.verdict is Verdict.RAISED and type(receipt.exception) in (kind, RemoteError)
    assert receipt.exception.args == ("text",) or isinstance(receipt.exception, RemoteError)
    assert not os.path.exists("/var/tmp/deliveryboy-reduced")


def test_exception_that_poses_as_another(chain: Any) -> None:
    receipt = strictly(chain)(pose).run()
    assert receipt.verdict is Verdict.RAISED and isinstance(receipt.exception, RemoteError)
    assert receipt.exception.type_name.endswith("Posing")


@pytest.mark.parametrize("kind", [Dictionary, Number], ids=lambda kind: kind.__name__)
def test_classes_that_pose_as_data(chain: Any, kind: type) -> None:
    receipt = strictly(chain)(return_one).run(kind)
    assert isinstance(receipt.exception, DeliveryPickleError) and f"value[0] is a test_confinement.{kind.__name__}" in str(
        receipt.exception
    )
