"""Check the files that the daemon's parts are given."""

from __future__ import annotations

import os
import shutil
from random import Random
from typing import TYPE_CHECKING, Literal

import pytest
import structlog
import structlog.testing

from kubesyncd.adapters.sonic_files import CTRMGRD_SETTINGS, CTRMGRD_UNIT, FieldNames, field_names
from kubesyncd.daemon.parts import Boot
from kubesyncd.daemon.wiring import build
from kubesyncd.runtime import boot_mark_file
from kubesyncd.runtime.state_files import OPEN_FOLDER, STATE_FOLDER
from kubesyncd.settings import PathsSettings, SchemaSettings, Settings

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_lost_folder_is_made_again_with_the_rights_that_clients_need(tmp_path: Path) -> None:
    """Whichever file is written first, and under the umask of the daemon's unit."""
    run, state = tmp_path / "run", tmp_path / "state"
    wired = build(
        Settings(paths=PathsSettings(run_dir=str(run), state_dir=str(state))),
        Boot("this", frozenset()),
        Random(1),
        structlog.get_logger(),
    )
    made = []
    before = os.umask(0o077)
    try:
        for file in wired.files:
            await file.save(b"")
            (folder,) = tmp_path.iterdir()
            made.append((folder.name, folder.stat().st_mode & 0o777))
            shutil.rmtree(folder)
    finally:
        os.umask(before)
        await wired.containers.close(drain_s=0)
        await wired.store.close()
    assert set(made) == {("run", OPEN_FOLDER), ("state", STATE_FOLDER)}
    assert len(made) > 3


async def test_the_log_says_which_field_names_are_used_and_why(tmp_path: Path) -> None:
    version = tmp_path / "sonic_version.yml"
    paths = PathsSettings(
        run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state"), sonic_version=str(version)
    )
    cases = (
        ("auto", False, "hld", f"{version} does not exist"),
        ("auto", True, "sonic", f"{version} exists"),
        ("hld", True, "hld", '[schema] names = "hld"'),
        ("sonic", True, "sonic", '[schema] names = "sonic"'),
    )
    for wanted, there, names, why in cases:
        if there:
            version.touch()
        settings = Settings(paths=paths, schema=SchemaSettings(names=wanted))  # type: ignore[arg-type]
        with structlog.testing.capture_logs() as logged:
            wired = build(settings, Boot("this", frozenset()), Random(1), structlog.get_logger())
        await wired.containers.close(drain_s=0)
        await wired.store.close()
        said = [(line["names"], line["why"]) for line in logged if line["event"] == "field_names"]
        assert said == [(names, why)]
        assert field_names(settings) == FieldNames(names, why)


@pytest.mark.parametrize(
    ("mark", "names"),
    [
        ('{"version": 1, "boot_id": "b", "config_loaded": true}', "hld"),
        ('{"version": 1, "boot_id": "b", "config_loaded": true, "names": "hld"}', "hld"),
        ('{"version": 1, "boot_id": "b", "config_loaded": true, "names": "sonic"}', "sonic"),
        ("{", "sonic"),
        ("[]", "sonic"),
    ],
)
async def test_a_switch_that_has_used_the_design_documents_names_keeps_them(
    tmp_path: Path, mark: str, names: Literal["hld", "sonic"]
) -> None:
    """They were the default of earlier builds; an absent field means fallback in the other spelling, and did not."""
    version, state = tmp_path / "sonic_version.yml", tmp_path / "state"
    version.touch()
    state.mkdir()
    (state / boot_mark_file.FILE).write_text(mark)
    paths = PathsSettings(run_dir=str(tmp_path / "run"), state_dir=str(state), sonic_version=str(version))
    for wanted in ("auto", "hld", "sonic"):
        settings = Settings(paths=paths, schema=SchemaSettings(names=wanted))  # type: ignore[arg-type]
        wired = build(settings, Boot("this", frozenset()), Random(1), structlog.get_logger())
        await wired.containers.close(drain_s=0)
        await wired.store.close()
        used = field_names(settings)
        assert (used.names, used.kept) == ((names, names == "hld") if wanted == "auto" else (wanted, False))
        assert wired.parts.ledger.boot.names == used.names, "the next start knows it"


async def test_the_first_start_beside_ctrmgrds_files_keeps_its_fallback_settings(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"

    async def kept(names: Literal["hld", "sonic"]) -> bool:
        paths = PathsSettings(run_dir=str(tmp_path), state_dir=str(state), install_root=str(root))
        settings = Settings(paths=paths, schema=SchemaSettings(names=names))
        wired = build(settings, Boot("this", frozenset()), Random(1), structlog.get_logger())
        await wired.containers.close(drain_s=0)
        await wired.store.close()
        if wired.parts.fallbacks is None:
            return False
        wired.parts.fallbacks.load()
        return wired.parts.fallbacks.keeps_off("snmp", "false", whole=False)

    assert not await kept("sonic"), "ctrmgrd was never here"
    for file in (CTRMGRD_UNIT, CTRMGRD_SETTINGS):
        shutil.rmtree(root, ignore_errors=True)
        (root / file[1:]).parent.mkdir(parents=True)
        (root / file[1:]).touch()
        assert await kept("sonic")
    assert not await kept("hld"), "no field of ctrmgrd's is read"
    state.mkdir()
    (state / boot_mark_file.FILE).touch()
    assert not await kept("sonic"), "kubesyncd has run here before"
