"""Release a version: release.py VERSION [--dry-run] [--ci], in the root of a clean checkout of main.

Runs the checks, writes the version and the date to each file that has them, builds the packages, commits and tags.
It pushes nothing. --dry-run prints what would happen; --ci runs .ci/run (root, engines) as the check.
"""

# ruff: noqa: INP001 (it is a program)

from __future__ import annotations

import argparse
import difflib
import email.utils
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

BRANCH = "main"
VERSION_FILE = Path("kubesyncd/__init__.py")
CHANGES = Path("CHANGELOG.md")
DEBIAN_CHANGES = Path("packaging/debian/changelog")
CHECKS, ALL_CHECKS = ["make", "lint", "test"], [".ci/run"]
PACKAGES = [["make", "deb", f"SUITE={suite}"] for suite in ("bookworm", "trixie")]


def main() -> None:
    """Release the version of the command line, or say what prevents it."""
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version", metavar="VERSION")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; print what would happen")
    parser.add_argument("--ci", action="store_true", help="check with .ci/run instead of make lint test")
    given = parser.parse_args()
    if found := problems(given.version):
        sys.exit("\n".join(f"release: {each}" for each in found))
    checks = ALL_CHECKS if given.ci else CHECKS
    texts = released(given.version, datetime.now(UTC))
    if given.dry_run:
        show(given.version, checks, texts)
    else:
        release(given.version, checks, texts)


def problems(version: str) -> list[str]:
    """List what prevents the release, each with the fix."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return [f"invalid version {version!r}; use three numbers: 0.2.0"]
    found = []
    if (branch := git("branch", "--show-current")) != BRANCH:
        found.append(f"the branch is {branch or 'detached'}; run: git switch {BRANCH}")
    if changes := git("status", "--porcelain"):
        found.append(f"the checkout has changes; commit them first:\n{changes}")
    if git("tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists already; use the next version")
    current = re.search(r'__version__ = "([\d.]+)"', VERSION_FILE.read_text())
    if current is None or numbers(current[1]) > numbers(version):
        found.append(f"{VERSION_FILE} has a newer version than {version}; use the next version")
    top = re.search(r"(?m)^## (.*)$", CHANGES.read_text())
    if top is None or top[1] != f"{version} (unreleased)":
        found.append(f"the top section of {CHANGES} is not '## {version} (unreleased)'; write it first")
    return found


def released(version: str, now: datetime) -> dict[Path, str]:
    """Return the new text of each file that has the version."""
    text, changes, debian = (file.read_text() for file in (VERSION_FILE, CHANGES, DEBIAN_CHANGES))
    return {
        VERSION_FILE: re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', text),
        CHANGES: changes.replace(f"## {version} (unreleased)", f"## {version} ({now:%Y-%m-%d})", 1),
        DEBIAN_CHANGES: debian_changes(debian, version, now),
    }


def debian_changes(text: str, version: str, now: datetime) -> str:
    """Date the entry of `version` in Debian's changelog, or add one before the others."""
    date = email.utils.format_datetime(now.replace(microsecond=0))
    maintainer = re.search(r"(?m)^ -- (.*?)  ", text)
    assert maintainer is not None, f"{DEBIAN_CHANGES} has no entry"
    signed = f" -- {maintainer[1]}  {date}"
    if text.startswith(f"kubesyncd ({version}) "):
        return re.sub(r"(?m)^ -- .*$", signed, text, count=1)
    entry = f"  * Release {version}; the source's CHANGELOG.md lists the changes."
    return f"kubesyncd ({version}) unstable; urgency=medium\n\n{entry}\n\n{signed}\n\n{text}"


def show(version: str, checks: list[str], texts: dict[Path, str]) -> None:
    """Print the steps of a release and the changes of files."""
    print(f"would run: {' '.join(checks)}")
    for file, text in texts.items():
        lines = (file.read_text().splitlines(), text.splitlines())
        print(*difflib.unified_diff(*lines, f"a/{file}", f"b/{file}", n=0, lineterm=""), sep="\n")
    for build in PACKAGES:
        print(f"would run: {' '.join(build)}")
    print(f"would commit 'Release {version}' and tag it v{version}")


def release(version: str, checks: list[str], texts: dict[Path, str]) -> None:
    """Check, write, build, commit and tag; a step that fails leaves the checkout as it was."""
    run(checks)
    start = git("rev-parse", "HEAD")
    before = {file: file.read_text() for file in texts}
    for file, text in texts.items():
        file.write_text(text)
    try:
        for build in PACKAGES:
            run(build)
        git("commit", "--quiet", "--all", "--message", f"Release {version}")
        git("tag", "--annotate", f"v{version}", "--message", f"kubesyncd {version}")
    except BaseException:
        for file, text in before.items():
            file.write_text(text)
        # Takes the commit back where only the tag failed.
        git("reset", "--quiet", start)
        raise
    print(f"released {version}; publish it: git push origin {BRANCH} v{version}")


def run(command: list[str]) -> None:
    """Run a step of the release, or end the release with its exit code."""
    ended = subprocess.run(command, check=False)
    if ended.returncode:
        sys.exit(f"release: {' '.join(command)} failed with code {ended.returncode}; nothing is changed")


def git(*words: str) -> str:
    """Return what git prints; end the release where it fails."""
    ended = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"release: git {words[0]} failed: {ended.stderr.strip()}")
    return ended.stdout.strip()


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparison."""
    return tuple(int(each) for each in version.split("."))


if __name__ == "__main__":
    main()
