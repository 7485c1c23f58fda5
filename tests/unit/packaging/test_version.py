"""Check that all files have the version of kubesyncd/__init__.py."""

from __future__ import annotations

import re
import tomllib

import kubesyncd
from tests.paths import ROOT


def test_every_file_takes_the_version_from_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "kubesyncd.__version__"}
    debian = (ROOT / "packaging/debian/changelog").read_text()
    assert debian.startswith(f"kubesyncd ({kubesyncd.__version__}) ")
    sections = re.findall(r"(?m)^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text())
    later = sections[: [version for version, _ in sections].index(kubesyncd.__version__)]
    assert all(date == "unreleased" for _, date in later)
    assert len(later) <= 1
