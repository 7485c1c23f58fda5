"""Check the built packages: reproducible, small, without lint, with sandboxed units and documented settings."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest

import kubesyncd
from kubesyncd import settings
from kubesyncd.adapters import docker_containers, redis_client
from kubesyncd.api import connections
from kubesyncd.api.messages import Role
from kubesyncd.runtime.state_files import STATE_FOLDER
from tests.paths import ROOT
from tests.system.installed_fixtures import build_packages, on_every_suite
from tests.system.installed_switch import SUITES, base_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.installed_fixtures import Builder, Packages

UNITS = ROOT / "packaging/systemd"
# The size budget of docs/sonic.md: what a switch image of any suite and architecture grows by, in KiB.
DAEMON_KIB, DAEMON_DEB_KIB = 10_240, 2_048
KUBE_KIB, KUBE_DEB_KIB = 1_024, 256
EXPOSURE = 2.0


# Per suite and architecture: Python's tag of compiled modules, and ELF's number of the machine.
TAGS = {"bookworm": "cpython-311", "trixie": "cpython-313"}
PYTHONS = {
    "bookworm": "python3 (>= 3.11), python3 (<< 3.12)",
    "trixie": "python3 (>= 3.13), python3 (<< 3.14)",
}
RELEASES = {"bookworm": "deb12", "trixie": "deb13"}
MACHINES = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}
ARCHITECTURES = [
    pytest.param("amd64", marks=pytest.mark.real("deb")),
    pytest.param("arm64", marks=pytest.mark.real("deb-arm64")),
]


def on_every_target(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test for the packages of each suite and architecture."""
    return pytest.mark.parametrize("suite", SUITES)(pytest.mark.parametrize("arch", ARCHITECTURES)(test))


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
@on_every_suite
def test_two_builds_give_the_same_bytes(
    packages: Callable[[str], Packages], suite: str, tmp_path: Path
) -> None:
    first, again = packages(""), build_packages(tmp_path, suite)
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


@on_every_target
def test_the_packages_keep_their_size_budget(builder: Builder, suite: str, arch: str) -> None:
    built = builder("", suite, arch)
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


@on_every_target
def test_a_package_is_for_its_suite_and_its_architecture(
    builder: Builder, suite: str, arch: str, tmp_path: Path
) -> None:
    built = builder("", suite, arch)
    assert (field(built.daemon, "Architecture"), field(built.kube, "Architecture")) == (arch, "all")
    version = f"{kubesyncd.__version__}+{RELEASES[suite]}"
    assert field(built.daemon, "Version") == field(built.kube, "Version") == version
    assert field(built.kube, "Depends") == f"kubesyncd (= {version})"
    # An upgrade from a package without the suite's name, and with one's suite.
    older = [kubesyncd.__version__, *(f"{kubesyncd.__version__}+{RELEASES[one]}" for one in SUITES)]
    for lower in older[: older.index(version)]:
        assert run("dpkg", "--compare-versions", version, "gt", lower).returncode == 0, lower
    # An image has no other Python package of Debian's.
    assert field(built.daemon, "Depends") == f"{PYTHONS[suite]}, libc6 (>= 2.28), passwd, systemd (>= 247)"

    assert run("dpkg-deb", "--extract", built.daemon, tmp_path).returncode == 0
    machine, number = MACHINES[arch]
    compiled = [*tmp_path.rglob("*.so")]
    assert {file.name.split(".", 1)[1] for file in compiled} == {f"{TAGS[suite]}-{machine}-linux-gnu.so"}
    for file in compiled:
        header = file.read_bytes()[:20]
        assert (header[:4], int.from_bytes(header[18:20], "little")) == (b"\x7fELF", number), file
    assert {"aiohttp", "hiredis", "multidict", "yarl"} <= {file.parent.name for file in compiled}


@on_every_target
def test_a_package_has_the_wheels_of_its_locks_and_no_python_in_a_path(
    builder: Builder, suite: str, arch: str
) -> None:
    built = builder("", suite, arch)
    folders: dict[str, set[str]] = {"site-packages": set(), "cli-packages": set(), "kube": set()}
    for package in (built.daemon, built.kube):
        listed = run("dpkg-deb", "--contents", package).stdout
        for folder, name in re.findall(
            r"(?m) \./usr/lib/kubesyncd/(\S+?)/([^/\s]+)-[^-/\s]+\.dist-info/$", listed
        ):
            folders["kube" if package == built.kube else folder].add(name.replace("_", "-").lower())
        (version,) = re.findall(r"[\d.]{4}", PYTHONS[suite])[:1]
        venv = f"./usr/lib/kubesyncd/lib/python{version}/site-packages"
        named = set(re.findall(r" (\./\S*python3\.\S*)", listed))
        assert named <= {f"{venv.rpartition('/')[0]}/", f"{venv}/", f"{venv}/kubesyncd.pth"}
    locks = {"site-packages": "daemon", "cli-packages": "cli", "kube": "kube"}
    for folder, found in folders.items():
        lock = (ROOT / f"packaging/suites/{suite}/{locks[folder]}.lock").read_text()
        assert found == set(re.findall(r"(?m)^([\w-]+)==", lock)), folder


@pytest.mark.real("deb-arm64")
@pytest.mark.parametrize("suite", SUITES)
def test_the_kubernetes_package_is_the_same_on_every_architecture(builder: Builder, suite: str) -> None:
    assert builder("", suite, "amd64").kube.read_bytes() == builder("", suite, "arm64").kube.read_bytes()


def test_a_suite_that_has_no_packages_is_refused() -> None:
    refused = run("env", "SUITE=sid", ROOT / "packaging/build-deb")
    assert refused.returncode == 1
    assert refused.stderr == "build-deb: no packages for sid; use SUITE=bookworm or SUITE=trixie\n"


@pytest.mark.real("systemd")
def test_a_root_of_another_suite_is_refused(tmp_path: Path) -> None:
    command = [
        "env",
        "SUITE=bookworm",
        f"CHROOT={base_root('trixie')}",
        ROOT / "packaging/build-deb",
        tmp_path,
    ]
    refused = run(*command)
    assert refused.returncode == 1
    assert "CHROOT has Python 3.13, bookworm has 3.11; use a root of bookworm" in refused.stderr


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
