"""Check the release program in a repository of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN = """kubesyncd (0.1.0) unstable; urgency=medium

  * First release.

 -- The Maintainers <them@example>  Sun, 23 Nov 2025 00:00:00 +0000
"""
MAKEFILE = "lint test deb:\n\t@echo $@ $(SUITE) >>../steps\n\t@[ ! -e ../fails-$@ ]\n"

STEPS = ["lint", "test", "deb", "bookworm", "deb", "trixie"]


class Checkout:
    """A repository with the files that have a version; its Makefile notes what is made."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.steps = root / "steps"
        self.steps.touch()
        self.write("kubesyncd/__init__.py", '"""Nothing."""\n\n__version__ = "0.1.0"\n')
        self.write(
            "CHANGELOG.md", "# Changelog\n\n## 0.2.0 (unreleased)\n\n- New.\n\n## 0.1.0 (2025-11-23)\n"
        )
        self.write("packaging/debian/changelog", DEBIAN)
        self.write("Makefile", MAKEFILE)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def write(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        who = {
            f"GIT_{role}_{key}": "t@example" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
        }
        # A test run that a git hook or make has started.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE"))}
        environ = {**own, **who, "GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(
            command, cwd=self.root, env=environ, capture_output=True, text=True, timeout=180, check=False
        )

    def git(self, *words: str) -> str:
        ended = self.run("git", *words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Change")

    def release(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, str(ROOT / "packaging/release.py"), *words)

    @property
    def made(self) -> list[str]:
        return self.steps.read_text().split()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_release_checks_writes_the_version_builds_commits_and_tags(checkout: Checkout) -> None:
    ended = checkout.release("0.2.0")
    assert ended.returncode == 0, ended.stderr
    assert "git push origin main v0.2.0" in ended.stdout
    assert checkout.made == STEPS
    assert '__version__ = "0.2.0"' in checkout.read("kubesyncd/__init__.py")
    assert re.search(r"## 0\.2\.0 \(\d{4}-\d\d-\d\d\)\n\n- New\.", checkout.read("CHANGELOG.md"))
    assert checkout.git("log", "-1", "--format=%s") == "Release 0.2.0"
    assert checkout.git("rev-parse", "v0.2.0^{commit}") == checkout.git("rev-parse", "HEAD")
    assert checkout.git("status", "--porcelain") == ""


def test_debians_changelog_gets_an_entry_before_the_others(checkout: Checkout) -> None:
    assert checkout.release("0.2.0").returncode == 0
    text = checkout.read("packaging/debian/changelog")
    assert text.startswith("kubesyncd (0.2.0) unstable; urgency=medium\n\n  * Release 0.2.0;")
    assert text.endswith(f"\n\n{DEBIAN}")
    signed = r"(?m)^ -- The Maintainers <them@example>  \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000$"
    assert len(re.findall(signed, text)) == 2


def test_the_first_release_dates_the_entries_that_exist(checkout: Checkout) -> None:
    checkout.write("CHANGELOG.md", "# Changelog\n\n## 0.1.0 (unreleased)\n")
    checkout.commit()
    assert checkout.release("0.1.0").returncode == 0
    text = checkout.read("packaging/debian/changelog")
    assert text.count("kubesyncd (") == 1
    assert "23 Nov 2025" not in text


def test_a_dry_run_shows_each_step_and_changes_nothing(checkout: Checkout) -> None:
    before = checkout.git("rev-parse", "HEAD")
    ended = checkout.release("0.2.0", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    for line in (
        "would run: make lint test",
        '+__version__ = "0.2.0"',
        "-## 0.2.0 (unreleased)",
        "+kubesyncd (0.2.0) unstable; urgency=medium",
        "would run: make deb SUITE=bookworm",
        "would run: make deb SUITE=trixie",
        "would commit 'Release 0.2.0' and tag it v0.2.0",
    ):
        assert line in ended.stdout.splitlines()
    assert "would run: .ci/run" in checkout.release("0.2.0", "--dry-run", "--ci").stdout
    assert checkout.made == []
    assert (checkout.git("rev-parse", "HEAD"), checkout.git("status", "--porcelain")) == (before, "")
    assert checkout.git("tag") == ""


def test_a_tag_that_fails_takes_the_commit_back(checkout: Checkout) -> None:
    before = checkout.git("rev-parse", "HEAD")
    checkout.git("config", "tag.gpgSign", "true")
    checkout.git("config", "gpg.program", "false")
    ended = checkout.release("0.2.0")
    assert ended.returncode == 1
    assert ended.stderr.startswith("release: git tag failed: ")
    assert checkout.made == STEPS
    assert (checkout.git("rev-parse", "HEAD"), checkout.git("status", "--porcelain")) == (before, "")
    assert checkout.git("tag") == ""


def test_a_release_names_everything_that_prevents_it(checkout: Checkout) -> None:
    checkout.git("switch", "--quiet", "--create", "other")
    checkout.write("left", "over")
    ended = checkout.release("0.3.0")
    assert ended.returncode == 1
    assert "the branch is other; run: git switch main" in ended.stderr
    assert "the checkout has changes; commit them first:\n?? left" in ended.stderr
    assert "the top section of CHANGELOG.md is not '## 0.3.0 (unreleased)'" in ended.stderr
    assert checkout.made == []


@pytest.mark.parametrize(
    ("version", "said"),
    [("2", "invalid version '2'"), ("0.0.9", "has a newer version than 0.0.9"), ("0.2.0", "exists already")],
)
def test_a_wrong_version_is_refused(checkout: Checkout, version: str, said: str) -> None:
    checkout.git("tag", "v0.2.0")
    ended = checkout.release(version)
    assert ended.returncode == 1
    assert said in ended.stderr


@pytest.mark.parametrize("step", ["test", "deb"])
def test_a_step_that_fails_leaves_the_checkout_as_it_was(checkout: Checkout, step: str) -> None:
    (checkout.root.parent / f"fails-{step}").touch()
    before = checkout.git("rev-parse", "HEAD")
    ended = checkout.release("0.2.0")
    assert ended.returncode == 1
    assert "failed with code 2; nothing is changed" in ended.stderr
    assert (checkout.git("rev-parse", "HEAD"), checkout.git("status", "--porcelain")) == (before, "")
    assert checkout.git("tag") == ""
