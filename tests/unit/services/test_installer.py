"""Check that a service is installed and removed as a whole, through every failure and power cut."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.services import definition
from kubesyncd.services.definition import parse, service, unit_path
from kubesyncd.services.installed import InstallPhase, Manifest, PackageOrigin, read_manifests
from kubesyncd.services.installer import Installer
from kubesyncd.services.service_disk import ServiceDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

POWER_CUT = 99
FULL = parse(b"{name: tap, requires: [swss], warm_reboot: [sync], fast_reboot: [sync]}")
SMALL = parse(b"{name: tap, requires: [swss], description: Another, fast_reboot: [/bin/true]}")
IMAGE_UNIT = "/lib/systemd/system"
IMAGE_ROW = {"state": "enabled", "set_owner": "local", "high_mem_alert": "disabled"}


# Every call that changes something. An installation is complete before those in AFTER_COMMIT.
CHANGES = frozenset(
    {"save", "make_folders", "write", "exchange", "set_aside", "sync", "put_back", "discard", "remove", "drop_folders",
     "forget", "forget_copies", "reload", "enable", "disable", "stop", "restart", "replace_feature_row"}
)  # fmt: skip
AFTER_COMMIT = frozenset({"forget_copies", "drop_folders", "restart"})


class Stepwise:
    """A port, and `after_step` called with a method's name after each change by it."""

    def __init__(self, port: object, after_step: Callable[[str], None]) -> None:
        self._port = port
        self._after_step = after_step

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._port, name)
        if name not in CHANGES:
            return call
        if inspect.iscoroutinefunction(call):

            async def awaited(*arguments: Any, **options: Any) -> None:
                await call(*arguments, **options)
                self._after_step(name)

            return awaited

        def called(*arguments: Any, **options: Any) -> None:
            call(*arguments, **options)
            self._after_step(name)

        return called


class World:
    """A switch's systemd and rows, kept in a file: what they were told outlives a power cut.

    `fails`: calls that fail from now on, with what error.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.state_dir = folder / "state"
        self._file = folder / "world.json"
        self.fails: dict[str, PortError] = {}
        for name in ("swss", "syncd"):
            self.add_image_unit(name)
        self._save(
            {
                "rows": {"swss": {"set_owner": "local"}},
                "enabled": {},
                "active": ["swss"],
                "told": [],
                "known": [],
            }
        )

    def add_image_unit(self, name: str) -> None:
        at = self.root / IMAGE_UNIT.lstrip("/") / f"{name}.service"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(f"[Service]\nExecStart=/usr/bin/{name}.sh wait\n")

    def load(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self._file.read_text())
        return loaded

    def _save(self, tree: Mapping[str, Any]) -> None:
        self._file.write_text(json.dumps(tree))

    def change(self, **news: Any) -> None:
        self._save({**self.load(), **news})

    @property
    def told(self) -> list[str]:
        found: list[str] = self.load()["told"]
        return found

    def _tell(self, what: str) -> dict[str, Any]:
        if what.split()[0] in self.fails:
            raise self.fails[what.split()[0]]
        tree = self.load()
        tree["told"].append(what)
        return tree

    def _unit(self, feature: str) -> bytes | None:
        for folder in (definition.UNIT_FOLDER, IMAGE_UNIT):
            at = self.root / folder.lstrip("/") / f"{feature}.service"
            if at.exists():
                return at.read_bytes()
        return None

    # ---- ports.ServiceUnits -----------------------------------------------------------------

    async def has_unit(self, feature: str) -> bool:
        return self._unit(feature) is not None

    async def active(self, feature: str) -> bool:
        return feature in self.load()["active"]

    async def starts_at_boot(self, feature: str) -> bool:
        return feature in self.load()["enabled"]

    async def reload(self) -> None:
        self._save(self._tell("reload"))

    async def enable(self, feature: str) -> None:
        tree = self._tell(f"enable {feature}")
        unit = self._unit(feature)
        assert unit is not None, f"enable {feature}: there is no such unit"
        tree["enabled"][feature] = unit.decode()
        self._save(tree)

    async def disable(self, feature: str) -> None:
        tree = self._tell(f"disable {feature}")
        tree["enabled"].pop(feature, None)
        self._save(tree)

    async def stop(self, feature: str) -> None:
        tree = self._tell(f"stop {feature}")
        tree["active"] = [name for name in tree["active"] if name != feature]
        self._save(tree)

    async def restart(self, feature: str) -> None:
        tree = self._tell(f"restart {feature}")
        tree["active"] = sorted({*tree["active"], feature})
        tree["known"] = sorted({*tree["known"], feature})
        self._save(tree)

    # ---- ports.FeatureRows -------------------------------------------------------------------------

    def daemon_answers(self) -> None:
        self._tell("daemon")

    def feature_row(self, feature: str) -> dict[str, str]:
        if "look" in self.fails:
            raise self.fails["look"]
        row: dict[str, str] = self.load()["rows"].get(feature, {})
        return row

    def replace_feature_row(self, feature: str, fields: Mapping[str, str]) -> None:
        tree = self._tell(f"row {feature}")
        tree["rows"] = {**tree["rows"], feature: dict(fields)}
        if not fields:
            del tree["rows"][feature]
        self._save(tree)

    def forget(self, feature: str) -> None:
        tree = self._tell(f"forget {feature}")
        tree["known"] = [name for name in tree["known"] if name != feature]
        self._save(tree)

    # ---- for tests ------------------------------------------------------------------------------

    def disk(self) -> ServiceDisk:
        return ServiceDisk(self.root, self.state_dir)

    def installer(self, after_step: Callable[[str], None] = lambda _: None) -> Installer:
        return Installer(
            disk=Stepwise(self.disk(), after_step),  # type: ignore[arg-type]
            units=Stepwise(self, after_step),  # type: ignore[arg-type]
            rows=Stepwise(self, after_step),  # type: ignore[arg-type]
            always_local=frozenset({"database"}),
        )

    def everything(self) -> object:
        """All that a user of the switch could see: files, folders, rows, what is enabled, manifests."""
        tree = self.load()
        seen: dict[str, object] = {}
        for at in sorted(self.root.rglob("*")):
            mode = stat.S_IMODE(at.stat().st_mode)
            seen[str(at.relative_to(self.root))] = (mode, at.read_bytes() if at.is_file() else None)
        return seen, tree["rows"], tree["enabled"], read_manifests(self.state_dir / "installed")

    def install(self, spec: definition.ServiceSpec, **options: Any) -> Any:
        return asyncio.run(self.installer().install(spec, definition.files(spec), **options))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def with_power_cut(world: World, work: Callable[[Installer], Any], at: int) -> bool:
    """Do `work` in a process that is gone after its step number `at`; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = iter(range(at, -1, -1))

        def cut(_: str) -> None:
            if next(left) == 0:
                os._exit(POWER_CUT)

        try:
            asyncio.run(work(world.installer(cut)))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == POWER_CUT


# ---- install and uninstall ------------------------------------------------------------------------


def test_an_installed_service_has_files_a_row_and_a_started_unit(world: World) -> None:
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


def test_a_service_waits_for_what_it_requires_instead_of_starting_it(world: World) -> None:
    done = world.install(service("tap", ["swss", "syncd"]))
    assert (done.started, done.waits_for) == (False, ("syncd",))
    assert "restart tap" not in world.told


def test_an_uninstall_leaves_the_switch_as_it_was(world: World) -> None:
    before = world.everything()
    world.install(FULL)
    asyncio.run(world.installer().uninstall("tap"))
    assert world.everything() == before
    assert world.told[4:] == ["stop tap", "disable tap", "reload", "row tap", "forget tap"]


def test_an_uninstall_takes_only_what_we_wrote(world: World) -> None:
    world.install(FULL)
    other = world.root / "etc/kubesyncd/hooks/warm-reboot.d/60-other"
    other.write_text("an operator's own")
    asyncio.run(world.installer().uninstall("tap"))
    assert other.read_text() == "an operator's own"
    assert [at.name for at in other.parent.iterdir()] == ["60-other"]


def test_a_file_changed_since_is_only_removed_by_force(world: World) -> None:
    before = world.everything()
    world.install(FULL)
    (world.root / unit_path("tap").lstrip("/")).write_text("edited")
    with pytest.raises(Refused, match="changed since it was installed"):
        asyncio.run(world.installer().uninstall("tap"))
    assert world.feature_row("tap")
    asyncio.run(world.installer().uninstall("tap", force=True))
    assert world.everything() == before


def test_an_uninstall_begins_only_while_the_daemon_answers(world: World) -> None:
    world.install(FULL)
    before = world.everything()
    world.fails["daemon"] = Unavailable("kubesyncd", "it does not answer")
    with pytest.raises(Unavailable):
        asyncio.run(world.installer().uninstall("tap"))
    assert world.everything() == before


def test_what_we_did_not_install_is_not_uninstalled(world: World) -> None:
    world.install(FULL)
    with pytest.raises(
        Refused, match=r"swss was not installed by kubesync; nothing is removed. Installed: tap"
    ):
        asyncio.run(world.installer().uninstall("swss"))


# ---- refusals -------------------------------------------------------------------------------------


def refused(world: World, spec: definition.ServiceSpec, **options: Any) -> str:
    before = world.everything()
    with pytest.raises(Refused) as caught:
        world.install(spec, **options)
    assert world.everything() == before
    return str(caught.value)


def test_an_existing_feature_is_refused_with_both_ways_out(world: World) -> None:
    world.add_image_unit("snmp")
    world.change(rows={"snmp": IMAGE_ROW, "acl": IMAGE_ROW})
    said = refused(world, service("snmp"))
    assert "a service and a FEATURE row already" in said
    assert "config feature snmp owner kube" in said
    assert "--replace" in said
    assert "acl has a FEATURE row already" in refused(world, service("acl"))
    world.install(service("tap"))
    assert "tap is installed already; add --replace" in refused(world, service("tap"))


def test_a_unit_of_another_program_is_never_replaced(world: World) -> None:
    world.add_image_unit("ssh")
    assert "a service already" in refused(world, service("ssh"))
    assert "is not a feature of this switch and is never replaced" in refused(
        world, service("ssh"), replace=True
    )
    assert "always runs locally" in refused(world, service("database"), replace=True)


def test_a_required_service_has_to_exist(world: World) -> None:
    assert "nope.service does not exist" in refused(world, service("tap", ["swss", "nope"]))


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_another_program_is_never_overwritten(world: World, link: bool) -> None:
    at = world.root / definition.script_path("tap").lstrip("/")
    at.parent.mkdir(parents=True)
    if link:
        at.symlink_to("/etc/passwd")
    else:
        at.write_text("not ours")
    assert "was not written by kubesync" in refused(world, service("tap"))


def test_two_at_a_time_are_one_too_many(world: World) -> None:
    def second(step: str) -> None:
        if step == "reload":
            with pytest.raises(Refused, match="another installation or removal is running"):
                world.disk().alone().__enter__()

    asyncio.run(world.installer(second).install(FULL, definition.files(FULL)))


# ---- replacing ------------------------------------------------------------------------------------


def test_a_replacement_takes_what_the_old_one_had_too_much_and_keeps_the_operator_s_row(world: World) -> None:
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


def test_an_image_s_own_feature_is_hidden_and_comes_back(world: World) -> None:
    world.add_image_unit("snmp")
    world.change(rows={"snmp": IMAGE_ROW}, enabled={"snmp": "by the image"}, active=["swss", "snmp"])
    world.install(service("snmp"), replace=True)
    assert world.feature_row("snmp") == {
        **IMAGE_ROW, "auto_restart": "enabled",
        "set_owner": "kube", "fallback_to_local": "false", "kube_failure_detection": "0",
    }  # fmt: skip
    assert (world.root / IMAGE_UNIT.lstrip("/") / "snmp.service").exists()
    world.change(told=[])
    asyncio.run(world.installer().uninstall("snmp"))
    assert world.feature_row("snmp") == IMAGE_ROW
    assert "snmp.sh wait" in world.load()["enabled"]["snmp"]
    assert world.told[-2:] == ["enable snmp", "restart snmp"]
    assert "forget snmp" not in world.told


# ---- whatever fails -------------------------------------------------------------------------------


def fresh(world: World) -> None:
    del world


def installed(world: World) -> None:
    world.install(FULL)


def by_the_image(world: World) -> None:
    world.add_image_unit("tap")
    world.change(rows={"tap": IMAGE_ROW}, enabled={"tap": "[Service]\nExecStart=/usr/bin/tap.sh wait\n"})


STARTS = pytest.mark.parametrize("start", [fresh, installed, by_the_image])


@STARTS
@pytest.mark.parametrize("step", range(1, 15))
def test_an_installation_that_fails_anywhere_leaves_nothing_behind(
    world: World, start: Callable[[World], None], step: int
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
    world: World, start: Callable[[World], None], call: str
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
    tmp_path: Path, start: Callable[[World], None]
) -> None:
    for step in range(40):
        (tmp_path / str(step)).mkdir()
        world = World(tmp_path / str(step))
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
    tmp_path: Path, start: Callable[[World], None]
) -> None:
    for step in range(40):
        (tmp_path / str(step)).mkdir()
        world = World(tmp_path / str(step))
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


def test_an_unreadable_manifest_is_reported_and_not_overwritten(world: World) -> None:
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
