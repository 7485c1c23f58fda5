"""Extract the fenced blocks of the pages in docs/, as their readers copy them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.paths import DOCS

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block: its page, its language ("" where the page names none), and its text."""

    page: str
    language: str
    text: str


def snippets(page: str = "*.md", language: str | None = None) -> list[Snippet]:
    """The blocks of a page, in order; all, or those of a language."""
    found = [
        Snippet(path.name, kind, text)
        for path in sorted(DOCS.glob(page))
        for kind, text in re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", path.read_text(), re.MULTILINE)
    ]
    return [one for one in found if language in (None, one.language)]


def diff_of(page: str, file: str) -> str:
    """The page's one diff of a file, named by the end of its path."""
    (found,) = (
        one.text
        for one in snippets(page, "diff")
        if re.search(rf"^\+\+\+ \S*{file}$", one.text, re.MULTILINE)
    )
    return found


def needs(program: str) -> str:
    """The path of a program; the test is skipped where it is missing, and fails under CI=true."""
    path = shutil.which(program)
    if path is None:
        reason = f"there is no {program}; `make engines` installs it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return path


def apply(diff: str, folder: Path, level: int) -> None:
    """Apply a diff below a folder, as `patch -pLEVEL` there does."""
    command = [needs("patch"), f"-p{level}", "--no-backup-if-mismatch"]
    ended = subprocess.run(
        command, input=diff, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "fuzz" not in ended.stdout


def lint(script: Path) -> None:
    """Check a shell script with shellcheck, for errors."""
    command = [needs("shellcheck"), "-S", "error", "-s", "bash", str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 0, ended.stdout
