"""Every example of the README is run, and prints what the README shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import conftest
import pytest

from deliveryboy_ng import Ssh, cli
from deliveryboy_ng.options import Options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.rst").read_text()
BLOCK = re.compile(r"^\.\. code-block:: (python|text)\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    """(program, what it prints) for each example."""
    blocks = [(kind, textwrap.dedent(text).strip() + "\n") for kind, text in BLOCK.findall(README)]
    assert [kind for kind, _ in blocks] == ["python", "text"] * (len(blocks) // 2), "each example is followed by its output"
    return [(blocks[n][1], blocks[n + 1][1]) for n in range(0, len(blocks), 2)]


@pytest.mark.parametrize("number", range(len(examples())))
def test_example_prints_what_the_readme_shows(number: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program, expected = examples()[number]
    path = os.environ["PATH"]
    if "Sudo(" in program:
        conftest.need_sudo()
    if "Unshare(" in program:
        conftest.need_unshare()
    if "Ssh(" in program:
        path = f"{host_web1(request, tmp_path)}:{path}"
    file = tmp_path / "example.py"
    file.write_text(program)
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, env=env, check=False, timeout=60)
    assert (result.stdout, result.returncode) == (expected, 0), result.stderr


def host_web1(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A folder with an ssh that knows the host web1."""
    ssh: Ssh = request.getfixturevalue("ssh")
    config = folder / "config"
    user, _, address = ssh.host.partition("@")
    text = Path(str(ssh.config)).read_text()
    config.write_text(
        f"{text}\nHost web1\n  HostName {address}\n  Port {ssh.port}\n  User {user}\n  HostKeyAlias [{address}]:{ssh.port}\n"
    )
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    wrapper.chmod(0o755)
    return folder


def test_readme_names_every_option_and_error_and_transport() -> None:
    import deliveryboy_ng

    for name in Options.__dataclass_fields__:
        assert f"``{name}``" in README or f"``{name}`` " in README or name in ("transport_params",), name
    for name in deliveryboy_ng.__all__:
        if name not in ("CallError", "Options", "Runner", "Transport", "Usage", "Verdict", "Delivery"):
            assert name in README, name


def test_demo_calls_every_transport_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--limit", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["transport", "user", "PID", "value", "CPU", "s", "wall", "s"]
    assert len(lines) == 9 and all(" 168 " in line or "not available: " in line for line in lines[1:])
    assert " 168 " in lines[1]
    if conftest.MUST_RUN:
        assert sum(" 168 " in line for line in lines) >= 7, "\n".join(lines)


def test_command_line_is_installed_as_module_too() -> None:
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "deliveryboy_ng", "--version"], capture_output=True, text=True, env=env, check=True
    )
    assert result.stdout.startswith("deliveryboy_ng ")


@pytest.mark.parametrize("option", ["--limit=-5", "--limit=x", "--ssh=-x", "--ssh="])
def test_demo_refuses_nonsense(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", option])
    assert caught.value.code == 2 and f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


def test_demo_ends_quietly_when_nobody_reads() -> None:
    command = [sys.executable, "-m", "deliveryboy_ng", "demo", "--limit", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        demo.stdout.close()  # type: ignore[union-attr]
        assert demo.stderr.read() == b"" and demo.wait() == 141  # type: ignore[union-attr]
