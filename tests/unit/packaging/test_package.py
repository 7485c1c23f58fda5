"""Check the built packages: reproducible, small, without lint, with sandboxed units and documented settings."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest

from kubesyncd import settings
from kubesyncd.adapters import docker_containers, redis_client
from kubesyncd.api import connections
from kubesyncd.api.messages import Role
from kubesyncd.runtime.state_files import STATE_FOLDER
from tests.paths import ROOT
from tests.system.installed_fixtures import build_packages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.installed_fixtures import Packages

UNITS = ROOT / "packaging/systemd"
# The size budget of docs/sonic.md: what a switch image grows by, in KiB.
DAEMON_KIB, DAEMON_DEB_KIB = 10_240, 2_048
KUBE_KIB, KUBE_DEB_KIB = 1_024, 256
EXPOSURE = 2.0


def run(*command: str | Path, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=limit_s, check=False)


def field(package: Path, name: str) -> str:
    return run("dpkg-deb", "--field", package, name).stdout.strip()


def test_every_unit_leaves_the_state_folder_the_rights_that_the_daemon_gives_it() -> None:
    texts = [unit.read_text() for unit in UNITS.glob("*.service")]
    modes = [
        re.findall(r"^StateDirectoryMode=(\d+)$", text, re.MULTILINE)
        for text in texts
        if "\nStateDirectory=" in text
    ]
    assert modes == [[f"{STATE_FOLDER:04o}"]] * 3


@pytest.mark.deep
@pytest.mark.real("deb")
def test_two_builds_give_the_same_bytes(packages: Callable[[str], Packages], tmp_path: Path) -> None:
    first, again = packages(""), build_packages(tmp_path)
    for one, other in ((first.daemon, again.daemon), (first.kube, again.kube)):
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


@pytest.mark.real("deb")
def test_lintian_reports_nothing(
    packages: Callable[[str], Packages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = packages("")
    # It leaves files behind.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = run("lintian", "--allow-root", "--fail-on", "error,warning,info", built.daemon, built.kube)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.real("deb")
def test_the_packages_keep_their_size_budget(packages: Callable[[str], Packages]) -> None:
    built = packages("")
    for package, installed_kib, deb_kib in (
        (built.daemon, DAEMON_KIB, DAEMON_DEB_KIB),
        (built.kube, KUBE_KIB, KUBE_DEB_KIB),
    ):
        assert int(field(package, "Installed-Size")) <= installed_kib
        assert package.stat().st_size <= deb_kib * 1024


@pytest.mark.real("deb")
def test_local_mode_carries_no_kubernetes_library(packages: Callable[[str], Packages]) -> None:
    built = packages("")
    for package, has_it in ((built.daemon, False), (built.kube, True)):
        assert ("kubernetes_asyncio" in run("dpkg-deb", "--contents", package).stdout) is has_it
    for installed_by_default in ("Depends", "Recommends"):
        assert "kubesyncd-kube" not in field(built.daemon, installed_by_default)


@pytest.mark.real("deb")
@pytest.mark.parametrize("unit", ["kubesyncd.service", "kubesyncd-retry.service"])
def test_what_runs_for_long_is_sandboxed(unit: str) -> None:
    threshold = f"--threshold={EXPOSURE * 10:.0f}"
    judged = run("systemd-analyze", "security", "--offline=true", threshold, UNITS / unit)
    assert judged.returncode == 0, judged.stdout


def test_the_settings_file_shows_the_defaults() -> None:
    text = (ROOT / "etc/kubesyncd/kubesyncd.toml").read_text()
    assert settings.check(tomllib.loads(text), "as shipped").valid() == settings.Settings()
    lines = [line.removeprefix("# ") if " = " in line.split("#")[-1] else line for line in text.splitlines()]
    spelled_out = tomllib.loads("\n".join(line for line in lines if not line.startswith("#")))
    assert settings.check(spelled_out, "uncommented").valid() == settings.Settings()
    shown = {f"{section}.{key}" for section, table in spelled_out.items() for key in table}
    known = {
        f"{section}.{key}"
        for section in settings.Settings.__slots__
        for key in getattr(settings.Settings(), section).__slots__
    }
    assert shown == known


def test_the_unit_allows_as_many_descriptors_as_the_daemon_may_open() -> None:
    unit = (ROOT / "packaging/systemd/kubesyncd.service").read_text()
    (allowed,) = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
    (tasks,) = re.findall(r"^TasksMax=(\d+)$", unit, re.MULTILINE)
    most = (
        len(Role) * connections.CONNECTIONS_MAX
        + docker_containers.CONNECTIONS_MAX
        # Two databases, and the events of both.
        + 2 * redis_client.CONNECTIONS_MAX + 1
        # The API server, a package server, and each program that is run: its pipes.
        + 64
        + 3 * int(tasks)
    )  # fmt: skip
    assert most < int(allowed), f"{most} descriptors"
