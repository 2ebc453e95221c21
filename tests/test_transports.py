"""Transports: their command lines, their errors, and noise on the way."""

from __future__ import annotations

import enum
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import (
    Bubblewrap,
    Command,
    Confinement,
    DeliveryOptionError,
    DeliveryTransportError,
    HandshakeError,
    HostUnreachable,
    InterpreterNotFound,
    InterpreterTooOld,
    Local,
    Ssh,
    Sudo,
    TransportNotFound,
    TransportRefused,
    Unshare,
    deliver,
    session,
)
from deliveryboy_ng.hops import Failure, diagnose
from deliveryboy_ng.transports import chain_of, default_executables, lane_of, wrap
from deliveryboy_ng.workertext import worker_message

PYTHON = ["python3", "-c", "print('it''s')"]


# --- command lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transport, expected",
    [
        (Local(), PYTHON),
        (Sudo(), ["sudo", "-n", "-u", "root", "--", *PYTHON]),
        (Sudo("nobody", group="games", options=("-H",)), ["sudo", "-n", "-u", "nobody", "-g", "games", "-H", "--", *PYTHON]),
        (
            Ssh("me@web1", port=2222, identity="key", config="conf", options=("-C",)),
            ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=4", "-F", "conf", "-p", "2222", "-i", "key", "-C",
             "-o", "ServerAliveInterval=15", "--", "me@web1", shlex.join(PYTHON)],
        ),
        (Unshare(), ["unshare", "--map-root-user", "--", *PYTHON]),
        (
            Unshare(user=False, pid=True, net=True, mount=True, ipc=True, uts=True, cgroup=True),
            ["unshare", "--mount", "--net", "--ipc", "--uts", "--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
             *PYTHON],
        ),
        (Command(["setpriv", "--no-new-privs"]), ["setpriv", "--no-new-privs", *PYTHON]),
        (Command(["remote", "x"], shell=True), ["remote", "x", shlex.join(PYTHON)]),
    ],
)  # fmt: skip
def test_wrap_builds_the_command_line(transport: Any, expected: list[str]) -> None:
    assert transport.wrap(PYTHON) == expected


def test_bubblewrap_confines_and_leaves_what_was_named() -> None:
    argv = Bubblewrap(write=("/data",), hide=("/home",), network=True).wrap(["x"])
    text = " ".join(argv)
    assert "--ro-bind / /" in text and "--bind /data /data" in text and "--tmpfs /home" in text and "--share-net" in text
    assert "--cap-drop ALL" in text and "--die-with-parent" in text and "--new-session" in text and argv[-2:] == ["--", "x"]
    assert "--share-net" not in Bubblewrap().wrap(["x"])


def test_what_is_hidden_below_something_that_is_bound_is_hidden_and_what_is_named_below_that_is_there(tmp_path: Path) -> None:
    conftest.need_bwrap()
    for folder in ("all/secret/shown/deep", "other/secret"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()

    def see(folder: str) -> list[str]:
        return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)

    hide = [f"{tmp_path}/all/secret", f"{tmp_path}/all/secret/shown/deep", f"{tmp_path}/other/secret/../secret"]
    (tmp_path / "all/secret/shown/open").touch()
    sandbox = Bubblewrap(write=[f"{tmp_path}/all/secret/shown", str(tmp_path)], hide=hide)
    assert deliver(transport=sandbox)(see)(str(tmp_path)) == ["all/secret/shown/open"]
    for confinement in (Confinement(read=[str(tmp_path)]), Confinement(write=[str(tmp_path)])):
        assert deliver(transport=Bubblewrap(hide=hide), confinement=confinement)(see)(str(tmp_path)) == []
    shown = Confinement(read=[f"{tmp_path}/all/secret/shown", f"{tmp_path}/all"])
    assert deliver(transport=Bubblewrap(hide=hide), confinement=shown)(see)(f"{tmp_path}/all") == ["secret/shown/open"]
    with pytest.raises(DeliveryOptionError, match="cannot be hidden and be there"):
        Bubblewrap(hide=["/a/b"], write=["/a/b/"])
    with pytest.raises(DeliveryOptionError, match="cannot be hidden and be there"):
        deliver(transport=Bubblewrap(hide=["/a/b"]), confinement=Confinement(read=["/a/b"]))


def test_chain_nests_from_the_outside_in() -> None:
    chain = chain_of([Ssh("h"), Sudo("u"), Unshare()])
    inner = ["sudo", "-n", "-u", "u", "--", "unshare", "--map-root-user", "--", *PYTHON]
    assert wrap(chain, PYTHON) == [*Ssh("h").wrap(inner)]


def test_a_command_is_known_by_what_tells_it_from_others() -> None:
    assert chain_of("setpriv --reuid 65534 --clear-groups")[0].name == "setpriv --reuid 65534 --clear-groups"
    assert (
        chain_of("ssh", ["-F", "/a/long/way/to/the/configuration/of/ssh", "-o", "BatchMode=yes", "web1"])[0].name == "ssh ... web1"
    )


def test_strings_mean_what_they_did() -> None:
    assert chain_of("sudo", ["-u", "x"]) == (Command(("sudo", "-u", "x")),)
    assert chain_of(None) == (Local(),)
    assert wrap(chain_of("ssh", ["host"]), PYTHON) == ["ssh", "host", shlex.join(PYTHON)]
    assert default_executables(chain_of("ssh host")) == ("python3",)


def test_a_python_that_does_not_know_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for unknown in ("", None):
        monkeypatch.setattr(sys, "executable", unknown)
        assert default_executables((Local(),)) == (f"python3.{sys.version_info[1]}", "python3")


TIME_LIMITED = """
import socket
socket.setdefaulttimeout(5)
from deliveryboy_ng import DeliveryExecutor, deliver
def work(data):
    import socket
    socket.setdefaulttimeout(5)
    return data
large = b"x" * 3_000_000
echo = deliver(work)
assert all(echo(b"x") == b"x" and echo(large) == large for _ in range(5))
with DeliveryExecutor(1) as executor:
    assert all(executor.submit(work, large).result() == large for _ in range(5))
print("right")
"""


def test_a_time_limit_for_all_new_sockets_is_none_for_calls(script: Any) -> None:
    result = script(TIME_LIMITED)
    assert result.stdout == b"right\n", result.stderr


def test_default_executable_is_this_one_here_and_python3_elsewhere() -> None:
    assert default_executables((Local(),))[0] == sys.executable
    assert default_executables((Ssh("h"), Sudo())) == ("python3",)


def test_lane_is_the_most_careful_of_the_chain() -> None:
    assert lane_of((Local(), Sudo(), Unshare(), Bubblewrap())) == "binary"
    assert lane_of((Ssh("h"), Sudo())) == "wide"
    assert lane_of((Ssh("h", options=("-tt",)),)) == "narrow"
    assert lane_of((Sudo(), Command(["x"]))) == "narrow"


@pytest.mark.parametrize(
    "order, reason",
    [
        ([Unshare(), Sudo()], "put Sudo before Unshare"),
        ([Bubblewrap(), Sudo()], "put Sudo before Bubblewrap"),
        ([Unshare(net=True), Ssh("h")], "no network"),
        ([Bubblewrap(), Ssh("h")], "no network"),
        ([Unshare(), Local(), Sudo()], "sudo"),
    ],
)
def test_impossible_orders_are_refused_with_the_reason(order: list[Any], reason: str) -> None:
    with pytest.raises(DeliveryOptionError, match=reason):
        deliver(transport=order)


def test_possible_orders_are_not_refused() -> None:
    for order in (
        [Unshare(), Ssh("h"), Sudo()],
        [Sudo(), Unshare()],
        [Bubblewrap(network=True), Ssh("h"), Sudo()],
        [Unshare(user=False), Sudo()],
    ):
        deliver(transport=order)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sudo(""),
        lambda: Sudo(3),  # type: ignore[arg-type]
        lambda: Sudo(options="-H"),  # type: ignore[arg-type]
        lambda: Ssh(""),
        lambda: Ssh("-oProxyCommand=evil"),
        lambda: Ssh("h", port=0),
        lambda: Ssh("h", connect_timeout=0),
        lambda: Unshare(pid=1),  # type: ignore[arg-type]
        lambda: Command([]),
        lambda: Command("sudo"),  # type: ignore[arg-type]
        lambda: Bubblewrap(write="/tmp"),  # type: ignore[arg-type]
        lambda: Bubblewrap(write=["data"]),
        lambda: Bubblewrap(network="no"),  # type: ignore[arg-type]
        lambda: Command(["x"], elsewhere="no"),  # type: ignore[arg-type]
        lambda: Command(["x"], shell="no"),  # type: ignore[arg-type]
        lambda: Command(["x", "\ud800"]),
        lambda: Command(3),  # type: ignore[arg-type]
        lambda: Ssh("h", port=True),
        lambda: Ssh("h", connect_timeout=True),
        lambda: Ssh("h", connect_timeout=1 << 40),
        lambda: Ssh("h", identity=5),  # type: ignore[arg-type]
        lambda: Ssh("h", config=""),
        lambda: Sudo("\ud800"),
        lambda: Sudo(options=5),  # type: ignore[arg-type]
    ],
)
def test_nonsense_in_a_transport_is_refused(make: Any) -> None:
    with pytest.raises(DeliveryOptionError):
        make()


def test_transports_take_paths_and_keep_plain_strings() -> None:
    name = enum.StrEnum("Name", {"WEB": "web1"}).WEB  # type: ignore[attr-defined]
    folder = Path("/data")
    chain = (Ssh(name, identity=folder, config=folder), Bubblewrap(write=[folder], hide=[folder / name]), Command([folder, name]))
    words = [word for hop in chain for word in hop.wrap([])]
    assert {"/data", "/data/web1", "web1"} <= set(words) and {type(word) for word in words} == {str}


# --- errors name the hop --------------------------------------------------------------------------------------------


def error_of(**options: Any) -> DeliveryTransportError:
    started = time.monotonic()
    with pytest.raises(DeliveryTransportError) as caught:
        deliver(**options)(lambda: 1)()
    assert time.monotonic() - started < 6
    error = caught.value
    assert error.argv and str(error).count("command:") >= 1
    return error


def test_sudo_that_wants_a_password() -> None:
    """From an account without a rule; the outer hop gets us there."""
    user = "daemon"
    error = error_of(transport=[conftest.need_sudo(user), Sudo("root")], executable=conftest.system_python())
    assert isinstance(error, TransportRefused) and "password" in str(error) and "NOPASSWD" in str(error)
    assert error.hop.startswith("sudo") and error.returncode == 1 and "password" in error.stderr


def test_sudo_to_an_unknown_user() -> None:
    conftest.need_sudo()
    error = error_of(transport=Sudo("no-such-user"))
    assert isinstance(error, TransportRefused) and "unknown user" in str(error) and error.hop == "sudo -u no-such-user"


def test_host_that_does_not_resolve_or_answer(ssh: Ssh) -> None:
    for transport in (Ssh("no-such-host.invalid"), Ssh("127.0.0.1", port=1, config=ssh.config)):
        error = error_of(transport=transport)
        assert isinstance(error, HostUnreachable) and error.hop == transport.name and error.returncode == 255


def test_host_key_unknown(ssh: Ssh, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(Path(str(ssh.config)).read_text().replace("known_hosts", "no_known_hosts"))
    error = error_of(transport=Ssh(ssh.host, port=ssh.port, config=str(config)))
    assert isinstance(error, TransportRefused) and "host" in str(error) and "key" in str(error) and error.hop == ssh.name


def test_ssh_key_refused(ssh: Ssh, tmp_path: Path) -> None:
    config = tmp_path / "config"
    lines = [line for line in Path(str(ssh.config)).read_text().splitlines() if not line.startswith("IdentityFile")]
    config.write_text("\n".join([*lines, f"IdentityFile {tmp_path}/none", "IdentityAgent none"]))
    error = error_of(transport=Ssh(ssh.host, port=ssh.port, config=str(config)))
    assert isinstance(error, TransportRefused) and "Permission denied" in str(error)


def test_namespace_not_permitted() -> None:
    """Inside bwrap without capabilities, a network namespace of its own is refused."""
    conftest.need_bwrap()
    error = error_of(
        transport=[Bubblewrap(options=("--unshare-user", "--disable-userns")), Unshare()], executable=conftest.system_python()
    )
    assert isinstance(error, TransportRefused) and error.hop.startswith("unshare") and "not permitted" in str(error)


def test_interpreter_missing_through_every_transport(chain: Any) -> None:
    error = error_of(transport=chain, executable="/nonexistent/python9")
    assert isinstance(error, InterpreterNotFound) and "/nonexistent/python9" in str(error)


def test_interpreters_tried_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import deliveryboy_ng.transports as transports

    monkeypatch.setattr(transports.sys, "executable", "/nonexistent/mine")
    monkeypatch.setattr(
        "deliveryboy_ng.options.default_executables", lambda chain: ("/nonexistent/mine", "python3.99", "python2.99")
    )
    error = error_of()
    assert isinstance(error, InterpreterNotFound)
    for name in ("/nonexistent/mine", "python3.99", "python2.99"):
        assert name in str(error)


def test_private_interpreter_falls_back_to_one_that_the_user_can_reach(tmp_path: Path) -> None:
    private = tmp_path / "its own"
    private.mkdir(mode=0o700)
    (private / "python").symlink_to("/usr/bin/python3")
    import deliveryboy_ng.transports as transports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transports.sys, "executable", str(private / "python"))
        receipt = deliver(transport=conftest.need_sudo())(lambda: os.getuid()).run()
    assert receipt.value == 65534 and receipt.executable.startswith("python3")


@pytest.mark.parametrize("version", sorted(conftest.TOO_OLD) or [None], ids=str)
def test_interpreter_too_old(version: Any) -> None:
    if version is None:
        pytest.skip("no Python before 3.8 is installed; CI has some where pyenv has")
    error = error_of(executable=conftest.TOO_OLD[version])
    assert isinstance(error, InterpreterTooOld) and "3.8" in str(error)
    # Python 2 does not even know the options.
    assert f"Python {version[0]}.{version[1]}" in str(error) or version[0] == 2


@pytest.mark.parametrize("executable", ["/bin/py\0thon", "/bin/py\ud800thon", "", 3])
def test_nonsense_as_an_interpreter_is_refused(executable: Any) -> None:
    with pytest.raises(DeliveryOptionError, match="executable"):
        deliver(executable=executable)


@pytest.mark.parametrize("transport", [None, "env", Command(["/nonexistent/\udcff\x1b"])])
def test_errors_show_what_no_terminal_can(transport: Any) -> None:
    error = error_of(transport=transport, executable="/nonexistent/\udcff\x1b/python")
    assert str(error).encode() and "\\udcff" in str(error) and "\x1b" not in str(error)


def test_an_interpreter_may_be_a_path_object() -> None:
    assert deliver(executable=Path(sys.executable))(lambda: 1).run().executable == sys.executable


def test_an_interpreter_that_would_be_taken_for_a_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/data/a=b/python")
    for transport in ("env", "sudo", Command(["nice", "/usr/bin/env", "-i"])):
        with pytest.raises(DeliveryOptionError, match="variable to set"):
            deliver(transport=transport)(lambda: 1)()


def test_command_of_a_hop_missing() -> None:
    error = error_of(transport=[conftest.need_sudo(), Command(["/nonexistent/hop", "-x"])])
    assert isinstance(error, TransportNotFound) and "/nonexistent/hop" in str(error)
    error = error_of(transport=Command(["/nonexistent/hop"]))
    assert isinstance(error, TransportNotFound) and "/nonexistent/hop" in str(error)
    error = error_of(transport="no-such-transport-command")
    assert isinstance(error, TransportNotFound)


def test_something_else_answers() -> None:
    error = error_of(transport=Command(["sh", "-c", "echo this is no python; echo grumble >&2; exit 7"]))
    assert isinstance(error, HandshakeError) and error.returncode == 7
    assert "this is no python" in str(error) and "grumble" in str(error) and "exit code 7" in str(error)


def test_a_command_line_that_a_shell_has_read_is_hinted_at(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift; exec sh -c "$*"\n')
    ssh.chmod(0o755)
    error = error_of(transport=Command([ssh, "web1"]))
    assert isinstance(error, HandshakeError) and "shell=True" in str(error) and "Ssh(host)" in str(error)
    assert deliver(transport=Command([ssh, "web1"], shell=True))(lambda: 1)() == 1


def test_another_interpreter_is_tried_in_a_container(tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text(
        '#!/bin/sh\nshift 2; case "$1" in /*) echo "Error: crun: executable file \\`$1\\` not found: No such file" >&2; exit 127;; esac\n'
        'exec "$@"\n'
    )
    podman.chmod(0o755)
    transport = Command([podman, "exec", "box"])
    assert not deliver(transport=transport)(lambda: 1).run().executable.startswith("/")
    error = error_of(transport=transport, executable="/opt/python")
    assert isinstance(error, InterpreterNotFound) and "elsewhere=True" in str(error)


def test_nothing_answers() -> None:
    error = error_of(transport=Command(["sh", "-c", "echo prompt; exec sleep 1000"]), connect_timeout=1)
    assert isinstance(error, HandshakeError) and "within 1 seconds" in str(error) and "prompt" in str(error)


def test_interpreter_that_dies_at_start_up() -> None:
    error = error_of(transport=Command(["sh", "-c", "kill -9 $$"]))
    assert isinstance(error, HandshakeError) and "killed by SIGKILL" in str(error) and error.returncode == -9
    error = error_of(transport=Command(["env", "PYTHONHOME=/nonexistent"]), executable="/bin/false")
    assert isinstance(error, HandshakeError) and error.returncode == 1


def test_endless_noise_instead_of_a_greeting_is_bounded() -> None:
    error = error_of(transport=Command(["sh", "-c", "exec cat /dev/zero"]), connect_timeout=1)
    assert isinstance(error, HandshakeError) and len(str(error)) < 20_000


@pytest.mark.parametrize(
    "stderr, kind",
    [
        ("sudo: a password is required\n", TransportRefused),
        ("sudo: a terminal is required to read the password; either use the -S option\n", TransportRefused),
        ("Sorry, user x is not allowed to execute '/usr/bin/python3' as root on h.\n", TransportRefused),
        ("sudo: /usr/bin/sudo must be owned by uid 0 and have the setuid bit set\n", TransportRefused),
        ('sudo: The "no new privileges" flag is set, which prevents sudo from running as root.\n', TransportRefused),
        ("ssh: connect to host h port 22: No route to host\n", HostUnreachable),
        ("kex_exchange_identification: Connection closed by remote host\n", HostUnreachable),
        ("me@h: Permission denied (publickey).\n", TransportRefused),
        ("bash: line 1: python3: command not found\n", InterpreterNotFound),
        ("zsh:1: command not found: python3\n", InterpreterNotFound),
        ("sh: 1: python3: not found\n", InterpreterNotFound),
        ("fish: Unknown command: python3\n", InterpreterNotFound),
        ("bash: line 1: sudo: command not found\n", TransportNotFound),
        ("env: \u2018python3\u2019: No such file or directory\n", InterpreterNotFound),
        ("unshare: unshare failed: Operation not permitted\n", TransportRefused),
        ("unshare: failed to execute python3: No such file or directory\n", InterpreterNotFound),
        ("bwrap: setting up uid map: Permission denied\n", TransportRefused),
        ("bwrap: execvp python3: No such file or directory\n", InterpreterNotFound),
        (
            "Error: crun: executable file `python3` not found in $PATH: No such file or directory: OCI runtime\n",
            InterpreterNotFound,
        ),
        (
            'OCI runtime exec failed: exec failed: unable to start container process: exec: "python3": executable file not found in '
            "$PATH: unknown\n",
            InterpreterNotFound,
        ),
        ('exec failed: exec: "/opt/x/python3": stat /opt/x/python3: no such file or directory: unknown\n', InterpreterNotFound),
        ("Fatal Python error: init_fs_encoding: failed to get the Python codec\n", InterpreterNotFound),
        ("", HandshakeError),
    ],
)
def test_words_of_a_transport_are_understood(stderr: str, kind: type[DeliveryTransportError]) -> None:
    error = diagnose(Failure((Ssh("h"), Sudo("x")), ("ssh", "h"), "python3", 1, stderr, b""))
    assert type(error) is kind and str(error).strip() and error.stderr == stderr


@pytest.mark.parametrize(
    "stderr",
    ["sudo: @: command not found", "env: \u2018@\u2019: No such file or directory", "bash: line 1: @: No such file or directory"],
)
def test_an_interpreter_with_blanks_in_its_path_is_understood_to_be_missing(stderr: str) -> None:
    executable = "/a (b)/its own/python"
    failure = Failure((Sudo("x"),), ("sudo",), executable, 1, stderr.replace("@", executable), b"")
    assert type(diagnose(failure)) is InterpreterNotFound


@pytest.mark.parametrize(
    "stderr, hop",
    [
        ("sudo: unknown user second\n", "sudo -u second"),
        ("sudo: unknown user first\n", "sudo -u first"),
        ("sudo: a password is required\n", "sudo -u first or sudo -u second"),
        ("unshare: unshare failed: Operation not permitted\n", "unshare"),
    ],
)
def test_the_hop_that_a_message_is_about_is_named(stderr: str, hop: str) -> None:
    error = diagnose(Failure((Sudo("first"), Sudo("second"), Unshare()), ("sudo",), "python3", 1, stderr, b""))
    assert error.hop.startswith(hop) and str(error).startswith(error.hop)


# --- noise ----------------------------------------------------------------------------------------------------------

NOISE = b"Welcome to \xff\xfe\x00\r\n\r\nmotd =beef<AAAA\n==== \x1b[31m"


def noisy(tmp_path: Path, before: bytes, after: bytes) -> Command:
    """A transport that writes noise around, and every few milliseconds between, what the far side writes."""
    script = tmp_path / "noisy.py"
    script.write_text(
        f"""
import os, subprocess, sys, threading, time
os.write(1, {before!r})
child = subprocess.Popen(sys.argv[1:])
while child.poll() is None:
    os.write(1, {after!r})
    time.sleep(0.003)
os.write(1, {after!r})
"""
    )
    return Command([sys.executable, str(script)])


@pytest.mark.parametrize("lane", ["narrow", "digits"])
def test_noise_before_between_and_after(tmp_path: Path, lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes: list[str] = []
    if lane == "narrow":
        monkeypatch.setattr(session, "_this_machine", lambda: "another")
    monkeypatch.setattr(session, "worker_message", lambda *words: (lanes.append(words[2]), worker_message(*words))[1])

    def work(data: bytes) -> bytes:
        for n in range(20):
            print("line", n)
            time.sleep(0.005)
        return data[::-1]

    data = os.urandom(300_000)
    receipt = deliver(transport=noisy(tmp_path, NOISE, NOISE))(work).run(data)
    assert receipt.ok, receipt.exception
    assert receipt.value == data[::-1] and receipt.stdout == b"".join(b"line %d\n" % n for n in range(20))
    assert b"motd" in receipt.noise and lanes[-1] == lane


def test_excess_output_is_kept_when_asked_for(tmp_path: Path) -> None:
    transport = Command(["sh", "-c", 'echo before; exec "$@"', "sh"])
    assert deliver(transport=transport)(lambda: print("mine")).run().stdout == b"mine\n"
    assert deliver(transport=transport, discard_excess=False)(lambda: print("mine")).run().stdout == b"before\nmine\n"


def test_terminal_in_between() -> None:
    """script(1) puts a pty between the two sides: lines are cut, echoed and translated there."""
    if not conftest.works("script", "-qec", "true", "/dev/null"):
        conftest.missing("script (bsdutils) is not installed")
    transport = Command(["script", "-qe", "/dev/null", "-c"], shell=True)
    data = os.urandom(200_000)

    def work(data: bytes) -> tuple[bytes, int]:
        print("through a terminal")
        return data[::-1], len(sys.stdin.read())

    receipt = deliver(transport=transport, input=b"i" * 50_000)(work).run(data)
    assert receipt.ok, receipt.exception
    assert receipt.value == (data[::-1], 50_000) and receipt.stdout == b"through a terminal\n"


def test_sudo_through_a_terminal() -> None:
    if not conftest.works("script", "-qec", "true", "/dev/null"):
        conftest.missing("script (bsdutils) is not installed")
    conftest.need_sudo()
    transport = Command(
        [
            "script",
            "-qe",
            "/dev/null",
            "-c",
        ],
        shell=True,
    )
    receipt = deliver(transport=[transport, Sudo("nobody")])(lambda: os.getuid()).run()
    assert receipt.value == 65534, receipt.exception


def test_ssh_with_a_forced_terminal(ssh: Ssh) -> None:
    if os.getuid() != 0:
        conftest.missing("an sshd that is not root's cannot make terminals")
    transport = Ssh(ssh.host, port=ssh.port, config=ssh.config, options=("-tt",))
    data = os.urandom(100_000)
    receipt = deliver(transport=transport)(lambda data: data[::-1]).run(data)
    assert receipt.value == data[::-1], receipt.exception


def test_bashrc_that_echoes(ssh: Ssh, tmp_path: Path) -> None:
    """What a login shell prints before the command runs, and a process it left that prints later."""
    transport = Command(
        ["bash", "-c", 'printf "\\0motd\\n\\xff"; (sleep 0.05; echo late; sleep 0.2; echo later) & exec "$@"', "bash"]
    )
    receipt = deliver(transport=[transport, ssh])(lambda: [print("x"), time.sleep(0.15)]).run()
    assert receipt.ok and receipt.stdout == b"x\n", receipt.exception


def test_unshare_has_its_own_proc_and_pids() -> None:
    conftest.need_unshare()

    def look() -> tuple[int, int, list[str]]:
        return os.getpid(), os.getppid(), sorted(name for name in os.listdir("/proc") if name.isdigit())

    pid, parent, names = deliver(transport=Unshare(pid=True))(look)()
    assert parent == 1 and names == ["1", str(pid)]


def test_pid_namespace_without_proc_of_its_own_is_cleaned_up() -> None:
    conftest.need_unshare()
    mark = f"DELIVERYBOY_NOPROC_{os.getpid()}"

    def work() -> int:
        import subprocess

        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        return os.getpid()

    assert deliver(transport="unshare -rpf", env={mark: "1"})(work)() == 2
    assert not conftest.wait_until(lambda: conftest.processes_with(mark), 0)


def test_kinds_of_ones_own_stay_what_they_are_when_they_are_confined() -> None:
    class Marked(Bubblewrap):
        def wrap(self, argv: Sequence[str]) -> list[str]:
            return ["env", "MARK=1", *super().wrap(argv)]

    made = Marked(hide=["/srv"]).confined(Confinement(read=["/opt"]))
    assert made.wrap(["python"])[:2] == ["env", "MARK=1"] and "/opt" in made.wrap(["python"])
