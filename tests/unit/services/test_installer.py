"""Check that a service is installed and removed as a whole, through every failure and power cut."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.ports import Refused, Unavailable
from kubesyncd.services import definition
from kubesyncd.services.definition import parse, service, unit_path
from kubesyncd.services.installed import InstallPhase, Manifest, PackageOrigin
from tests.sim.services import IMAGE_UNITS, PlainServices, with_power_cut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = parse(b"{name: tap, requires: [swss], warm_reboot: [sync], fast_reboot: [sync]}")
SMALL = parse(b"{name: tap, requires: [swss], description: Another, fast_reboot: [/bin/true]}")
IMAGE_ROW = {"state": "enabled", "set_owner": "local", "high_mem_alert": "disabled"}
# Changes after which an installation is complete already.
AFTER_COMMIT = frozenset({"forget_copies", "drop_folders", "restart"})


@pytest.fixture
def world(tmp_path: Path) -> PlainServices:
    return PlainServices(tmp_path)


# ---- install and uninstall ------------------------------------------------------------------------


def test_an_installed_service_has_files_a_row_and_a_started_unit(world: PlainServices) -> None:
    done = world.install(FULL)
    for file in definition.files(FULL):
        at = world.root / file.path.lstrip("/")
        assert (at.read_bytes(), stat.S_IMODE(at.stat().st_mode)) == (file.content, file.mode)
    assert world.feature_row("tap") == {
        "state": "enabled", "auto_restart": "enabled",
        "set_owner": "kube", "fallback_to_local": "false", "kube_failure_detection": "0",
    }  # fmt: skip
    assert done.started
    assert world.told == ["reload", "enable tap", "row tap", "restart tap"]


def test_a_service_waits_for_what_it_requires_instead_of_starting_it(world: PlainServices) -> None:
    done = world.install(service("tap", ["swss", "syncd"]))
    assert (done.started, done.waits_for) == (False, ("syncd",))
    assert "restart tap" not in world.told


def test_an_uninstall_leaves_the_switch_as_it_was(world: PlainServices) -> None:
    before = world.everything()
    world.install(FULL)
    asyncio.run(world.installer().uninstall("tap"))
    assert world.everything() == before
    assert world.told[4:] == ["stop tap", "disable tap", "reload", "row tap", "forget tap"]


def test_an_uninstall_takes_only_what_we_wrote(world: PlainServices) -> None:
    world.install(FULL)
    other = world.root / "etc/kubesyncd/hooks/warm-reboot.d/60-other"
    other.write_text("an operator's own")
    asyncio.run(world.installer().uninstall("tap"))
    assert other.read_text() == "an operator's own"
    assert [at.name for at in other.parent.iterdir()] == ["60-other"]


def test_a_file_changed_since_is_only_removed_by_force(world: PlainServices) -> None:
    before = world.everything()
    world.install(FULL)
    (world.root / unit_path("tap").lstrip("/")).write_text("edited")
    with pytest.raises(Refused, match="changed since it was installed"):
        asyncio.run(world.installer().uninstall("tap"))
    assert world.feature_row("tap")
    asyncio.run(world.installer().uninstall("tap", force=True))
    assert world.everything() == before


def test_an_uninstall_begins_only_while_the_daemon_answers(world: PlainServices) -> None:
    world.install(FULL)
    before = world.everything()
    world.fails["daemon"] = Unavailable("kubesyncd", "it does not answer")
    with pytest.raises(Unavailable):
        asyncio.run(world.installer().uninstall("tap"))
    assert world.everything() == before


def test_what_we_did_not_install_is_not_uninstalled(world: PlainServices) -> None:
    world.install(FULL)
    with pytest.raises(
        Refused, match=r"swss was not installed by kubesync; nothing is removed. Installed: tap"
    ):
        asyncio.run(world.installer().uninstall("swss"))


# ---- refusals -------------------------------------------------------------------------------------


def refused(world: PlainServices, spec: definition.ServiceSpec, **options: Any) -> str:
    before = world.everything()
    with pytest.raises(Refused) as caught:
        world.install(spec, **options)
    assert world.everything() == before
    return str(caught.value)


def test_an_existing_feature_is_refused_with_both_ways_out(world: PlainServices) -> None:
    world.add_image_unit("snmp")
    world.change(rows={"snmp": IMAGE_ROW, "acl": IMAGE_ROW})
    said = refused(world, service("snmp"))
    assert "a service and a FEATURE row already" in said
    assert "config feature snmp owner kube" in said
    assert "--replace" in said
    assert "acl has a FEATURE row already" in refused(world, service("acl"))
    world.install(service("tap"))
    assert "tap is installed already; add --replace" in refused(world, service("tap"))


def test_a_unit_of_another_program_is_never_replaced(world: PlainServices) -> None:
    world.add_image_unit("ssh")
    assert "a service already" in refused(world, service("ssh"))
    assert "is not a feature of this switch and is never replaced" in refused(
        world, service("ssh"), replace=True
    )
    assert "always runs locally" in refused(world, service("database"), replace=True)


def test_a_required_service_has_to_exist(world: PlainServices) -> None:
    assert "nope.service does not exist" in refused(world, service("tap", ["swss", "nope"]))


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_another_program_is_never_overwritten(world: PlainServices, link: bool) -> None:
    at = world.root / definition.script_path("tap").lstrip("/")
    at.parent.mkdir(parents=True)
    if link:
        at.symlink_to("/etc/passwd")
    else:
        at.write_text("not ours")
    assert "was not written by kubesync" in refused(world, service("tap"))


def test_two_at_a_time_are_one_too_many(world: PlainServices) -> None:
    def second(step: str) -> None:
        if step == "reload":
            with pytest.raises(Refused, match="another installation or removal is running"):
                world.disk().alone().__enter__()

    asyncio.run(world.installer(second).install(FULL, definition.files(FULL)))


# ---- replacing ------------------------------------------------------------------------------------


def test_a_replacement_takes_what_the_old_one_had_too_much_and_keeps_the_operator_s_row(
    world: PlainServices,
) -> None:
    world.install(FULL)
    custom = {**world.feature_row("tap"), "fallback_to_local": "true"}
    world.replace_feature_row("tap", custom)
    world.install(SMALL, replace=True, package=PackageOrigin("2", "0" * 64))
    paths = {str(at) for at in world.root.rglob("*") if at.is_file() and "tap" in at.name}
    assert paths == {str(world.root) + file.path for file in definition.files(SMALL)}
    assert world.feature_row("tap") == custom
    assert world.load()["enabled"]["tap"].encode() == definition.files(SMALL)[0].content
    manifest = world.installer().installed()["tap"]
    assert (manifest.phase, manifest.package, manifest.previous) == (
        InstallPhase.INSTALLED,
        PackageOrigin("2", "0" * 64),
        None,
    )


def test_an_image_s_own_feature_is_hidden_and_comes_back(world: PlainServices) -> None:
    world.add_image_unit("snmp")
    world.change(rows={"snmp": IMAGE_ROW}, enabled={"snmp": "by the image"}, active=["swss", "snmp"])
    world.install(service("snmp"), replace=True)
    assert world.feature_row("snmp") == {
        **IMAGE_ROW, "auto_restart": "enabled",
        "set_owner": "kube", "fallback_to_local": "false", "kube_failure_detection": "0",
    }  # fmt: skip
    assert (world.root / IMAGE_UNITS.lstrip("/") / "snmp.service").exists()
    world.change(told=[])
    asyncio.run(world.installer().uninstall("snmp"))
    assert world.feature_row("snmp") == IMAGE_ROW
    assert "snmp.sh wait" in world.load()["enabled"]["snmp"]
    assert world.told[-2:] == ["enable snmp", "restart snmp"]
    assert "forget snmp" not in world.told


# ---- whatever fails -------------------------------------------------------------------------------


def fresh(world: PlainServices) -> None:
    del world


def installed(world: PlainServices) -> None:
    world.install(FULL)


def by_the_image(world: PlainServices) -> None:
    world.add_image_unit("tap")
    world.change(rows={"tap": IMAGE_ROW}, enabled={"tap": "[Service]\nExecStart=/usr/bin/tap.sh wait\n"})


STARTS = pytest.mark.parametrize("start", [fresh, installed, by_the_image])


@STARTS
@pytest.mark.parametrize("step", range(1, 15))
def test_an_installation_that_fails_anywhere_leaves_nothing_behind(
    world: PlainServices, start: Callable[[PlainServices], None], step: int
) -> None:
    start(world)
    before = world.everything()
    steps = []

    def fail(what: str) -> None:
        if what in AFTER_COMMIT:
            return
        steps.append(what)
        if len(steps) == step + 1:
            raise OSError(28, "No space left on device", what)

    try:
        asyncio.run(world.installer(fail).install(SMALL, definition.files(SMALL), replace=True))
    except (OSError, Unavailable):
        assert world.everything() == before
    else:
        assert step >= len(steps) - 1, "a failure was swallowed"


@STARTS
@pytest.mark.parametrize("call", ["reload", "enable", "row"])
def test_a_service_that_fails_us_leaves_nothing_behind_once_it_is_back(
    world: PlainServices, start: Callable[[PlainServices], None], call: str
) -> None:
    start(world)
    before = world.everything()
    world.fails[call] = Unavailable("systemd", "it does not answer")
    if (start, call) == (installed, "row"):
        world.replace_feature_row = None  # type: ignore[assignment] - an update leaves the row alone
        world.install(SMALL, replace=True)
        return
    with pytest.raises(Unavailable):
        world.install(SMALL, replace=True)
    assert world.feature_row("tap") == before[1].get("tap", {})  # type: ignore[index]
    world.fails.clear()
    asyncio.run(world.installer().recover())
    assert world.everything() == before


@STARTS
def test_a_power_cut_at_any_step_is_taken_back_by_the_next_command(
    tmp_path: Path, start: Callable[[PlainServices], None]
) -> None:
    for step in range(40):
        (tmp_path / str(step)).mkdir()
        world = PlainServices(tmp_path / str(step))
        start(world)
        before = world.everything()
        cut = with_power_cut(world, lambda i: i.install(SMALL, definition.files(SMALL), replace=True), step)
        journal = world.installer().installed().get("tap")
        finished = (
            journal is not None
            and journal.phase is InstallPhase.INSTALLED
            and journal.files != _files(before)
        )
        asyncio.run(world.installer().recover())
        if not finished:
            assert world.everything() == before, f"after step {step}"
        if not cut:
            assert finished
            assert step > 8
            return
    pytest.fail("it never came to an end")


def _files(before: Any) -> object:
    manifest: Manifest | None = before[3].get("tap")
    return None if manifest is None else manifest.files


@pytest.mark.parametrize("start", [fresh, by_the_image])
def test_a_removal_cut_at_any_step_is_finished_by_the_next_one(
    tmp_path: Path, start: Callable[[PlainServices], None]
) -> None:
    for step in range(40):
        (tmp_path / str(step)).mkdir()
        world = PlainServices(tmp_path / str(step))
        start(world)
        before = world.everything()
        world.install(FULL, replace=True)
        cut = with_power_cut(world, lambda i: i.uninstall("tap"), step)
        if "tap" in world.installer().installed():
            with pytest.raises(Refused, match=r"its removal was interrupted|is installed already"):
                world.install(FULL)
            asyncio.run(world.installer().uninstall("tap"))
        assert world.everything() == before, f"after step {step}"
        if not cut:
            assert step > 5
            return
    pytest.fail("it never came to an end")


def test_an_unreadable_manifest_is_reported_and_not_overwritten(world: PlainServices) -> None:
    world.install(FULL)
    file = world.state_dir / "installed" / "tap.json"
    for text in (
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "name": "tap"}',
        b'{"version": 1, "name": "swss"}',
        b"[" * 9000,
    ):
        file.write_bytes(text)
        with pytest.raises(Unavailable, match=r"tap.json cannot be used .*; move it away"):
            world.installer().installed()
        assert file.read_bytes() == text
