"""Check what the daemon reads of the services that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd.ports import Unavailable
from kubesyncd.runtime.state_files import StateFile
from kubesyncd.services import installed
from kubesyncd.services.installed import InstalledServices, InstallPhase, Manifest, PackageOrigin

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"set_owner": "kube"}


def write(folder: Path, manifest: Manifest) -> None:
    StateFile(folder / f"{manifest.name}.json").save(installed.encode(manifest))


async def test_only_what_is_wholly_installed_has_a_row_and_its_archive(tmp_path: Path) -> None:
    services = InstalledServices(tmp_path / "installed")
    assert (await services.rows(), await services.hashes()) == ({}, {})
    origin = PackageOrigin("1", "ab" * 32)
    for manifest in (
        Manifest("tap", row=ROW, package=origin),
        Manifest("going", InstallPhase.REMOVING, row=ROW, package=origin),
        Manifest("coming", InstallPhase.INSTALLING, row=ROW, package=origin),
        Manifest("own", row=ROW),
    ):
        write(tmp_path / "installed", manifest)
    (tmp_path / "installed" / "No.json").write_text("{}")
    assert await services.rows() == {"tap": ROW, "own": ROW}
    assert await services.hashes() == {
        "tap": "ab" * 32, "going": "unfinished", "coming": "unfinished", "own": ""
    }  # fmt: skip


async def test_a_manifest_is_read_again_only_after_a_change(tmp_path: Path) -> None:
    services = InstalledServices(tmp_path)
    write(tmp_path, Manifest("tap", row=ROW))
    write(tmp_path, Manifest("probe", row=ROW))
    assert (await services.rows()).keys() == {"tap", "probe"}
    known = dict(services._known)
    write(tmp_path, Manifest("tap", InstallPhase.REMOVING, row=ROW))
    assert (await services.rows()).keys() == {"probe"}
    (probe,) = (path for path in known if path.stem == "probe")
    assert services._known[probe] is known[probe]
    probe.unlink()
    assert await services.rows() == {}


async def test_an_unreadable_manifest_is_reported_each_time(tmp_path: Path) -> None:
    services = InstalledServices(tmp_path)
    (tmp_path / "tap.json").write_text("[]")
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"tap\.json cannot be used"):
            await services.rows()
