"""Check the man pages that packaging/manual.py generates from the commands."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from kubesyncd.cli.root import root
from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from tests.unit.cli.operator import Operator


DAY = "2025-11-23"
HAND_WRITTEN = ROOT / "packaging" / "man"
BACKSLASH = "\\"
# Pages of other packages.
OTHERS = {"docker.1", "systemctl.1"}


PROGRAM = ROOT / "packaging/manual.py"


def loaded() -> ModuleType:
    """Import the program; its folder is not a package."""
    spec = importlib.util.spec_from_file_location("manual", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manual = loaded()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all generated pages."""
    folder = tmp_path_factory.mktemp("pages") / "man1"
    manual.write(folder, DAY)
    return folder


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{path}-{name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{path}-{name}")


def test_every_command_has_a_page_and_every_page_has_its_parts() -> None:
    pages = dict(manual.every_page(root, DAY))
    assert set(pages) == {"kubesync", *(name for name, _ in commands(root, "kubesync"))}
    for name, text in pages.items():
        for part in (".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXIT STATUS", ".SH SEE ALSO"):
            assert part in text, name


def test_every_command_has_a_short_description() -> None:
    for name, command in commands(root, "kubesync"):
        assert command.help, name
        assert command.get_short_help_str(63)[-1:] not in ("", ","), name


def test_no_help_text_is_truncated(bare_terminal: Operator) -> None:
    groups = [name for name, command in commands(root, "kubesync") if isinstance(command, click.Group)]
    for group in ("kubesync", *groups):
        said = bare_terminal.types(
            " ".join([*group.split("-")[1:], "-h"]).replace("feature table", "feature-table")
        )
        assert said.exit_code == 0, said.output
        assert "..." not in said.stdout, group
        assert all(len(line) <= 80 for line in said.stdout.splitlines())


def test_the_page_of_a_group_that_takes_names_shows_both_forms() -> None:
    page = dict(manual.every_page(root, DAY))["kubesync-config-feature"]
    assert "[owner local|kube]" in page
    assert "failmode: minutes without a kube" in page


def test_the_pages_are_written_into_a_folder(pages: Path) -> None:
    assert (pages / "kubesync-show-feature.1").exists()
    assert len(list(pages.iterdir())) == 1 + len(list(commands(root, "kubesync")))


def test_a_folder_that_cannot_be_made_ends_the_build() -> None:
    ended = subprocess.run(
        [sys.executable, PROGRAM, "/proc/nowhere"], capture_output=True, timeout=180, check=False
    )
    assert ended.returncode == 1


@pytest.mark.skipif(shutil.which("man") is None, reason="no man on this machine")
def test_man_renders_every_page_without_a_warning(pages: Path) -> None:
    for page in sorted(pages.iterdir()):
        shown = rendered(page)
        assert shown.stderr == "", page
        assert "EXIT STATUS" in shown.stdout, page
    assert "kubesync config feature NAME [owner local|kube]" in " ".join(
        rendered(pages / "kubesync-config-feature.1").stdout.split()
    )


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here; bring it by: make engines")
def test_mandoc_accepts_every_page(pages: Path) -> None:
    ours = [page for page in HAND_WRITTEN.iterdir() if not page.read_text().startswith(".so ")]
    for page in (*sorted(pages.iterdir()), *ours):
        lint = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
        checked = subprocess.run(lint, capture_output=True, text=True, timeout=180, check=False)
        assert (checked.returncode, checked.stdout) == (0, ""), page


def test_a_page_refers_only_to_pages_that_exist(pages: Path) -> None:
    every = (*pages.iterdir(), *HAND_WRITTEN.iterdir())
    there = {page.name for page in every}
    for page in every:
        named = re.findall(r"\\fB([^\n]+?)\\fR\((\d)\)", page.read_text())
        missing = {f"{name.replace(BACKSLASH, '')}.{section}" for name, section in named} - there - OTHERS
        assert not missing, page


def test_the_pages_of_a_release_have_its_date(tmp_path: Path) -> None:
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    subprocess.run([sys.executable, PROGRAM, tmp_path], env=environ, timeout=180, check=True)
    assert '"1970-01-02"' in (tmp_path / "kubesync.1").read_text()


def rendered(page: Path) -> subprocess.CompletedProcess[str]:
    command = ["man", "--warnings=all", "-l", "-P", "cat", str(page)]
    environ = {"MANWIDTH": "200", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=True)


def test_text_that_looks_like_a_roff_command_is_escaped() -> None:
    assert manual.roff(".so x") == "\\&.so x"
    assert manual.roff("a\\b -y") == "a\\eb \\-y"
