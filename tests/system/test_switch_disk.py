"""Check that a full disk breaks nothing and is reported once: real file systems without free space."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.places import remove
from tests.lab.switch import TIMING as SWITCH_TIMING
from tests.system.docker_engine import RealDocker
from tests.system.test_switch_failure import to_kube
from tests.system.test_switch_images import REGISTRY, adopted, booted
from tests.system.test_switch_policies import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

pytestmark = pytest.mark.real("docker")

FEATURES = ("snmp", "lldp", "telemetry")
# Adoption is tried again as often: twice at least while the disk is full.
TIMING = {"tag_after_s": 1.5}
NO_SPACE = "No space left on device"


class Disk:
    """A file system of its own, in memory; `fill` leaves no room on it."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink()


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Disk]:
    """What is in `folder` moves to a file system of this size."""
    before = Path(tempfile.mkdtemp(prefix="kf-"))
    shutil.copytree(folder, before, dirs_exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, timeout=180)
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=180)
        shutil.rmtree(before)


def alerts(switch: Switch) -> list[str]:
    return [f"{line['event']} {line.get('feature', '')}: {line['why']}" for line in switch.log(alert=True)]


def run_by_kube(switch: Switch) -> tuple[dict[str, str], dict[str, str]]:
    """All features handed over to newer images, which have stayed up; old and new images' IDs."""
    old = {feature: booted(switch, feature) for feature in FEATURES}
    new = {feature: switch.images.make(f"{REGISTRY}/docker-{feature}:v2") for feature in FEATURES}
    for feature in FEATURES:
        switch.config(feature, set_owner="kube", fallback_to_local="true")
    return old, new


def test_a_full_state_folder_is_one_alert_for_all_features_and_nothing_breaks(
    new_switch: MakeSwitch, real_docker: RealDocker
) -> None:
    with ExitStack() as stack:
        switch = new_switch(real_docker, timing=TIMING)
        switch.daemon.stop()
        state = stack.enter_context(disk(switch.folder / "state", "256k"))
        stack.callback(switch.daemon.stop)
        switch.daemon.start()
        old, new = run_by_kube(switch)
        state.fill()
        for feature in FEATURES:
            to_kube(switch, feature, image=f"{REGISTRY}/docker-{feature}:v2")
        for feature in FEATURES:
            switch.wait_for(lambda f=feature: switch.log("image_not_adopted", feature=f), "it is noticed")
            assert switch.images.named(f"docker-{feature}:latest") == old[feature]
        assert len(alerts(switch)) == 1, alerts(switch)
        assert NO_SPACE in alerts(switch)[0]
        told = f"alert state file: {switch.folder}/state/images.json cannot be written: {NO_SPACE}"
        switch.until_told(told, "explain", "telemetry")
        # Every verb does its work all the same.
        switch.done("stop", "snmp")
        switch.done("start", "snmp")
        switch.until_state("snmp", "LOCAL")
        switch.config("lldp", set_owner="local")
        switch.until_state("lldp", "LOCAL")
        assert switch.state("telemetry") == "KUBE_RUNNING"
        assert len(alerts(switch)) == 1, alerts(switch)
        code, lines = prepare(switch)
        assert code == 1
        assert NO_SPACE in lines
        state.free()
        adopted(switch, new["telemetry"], "telemetry")
        switch.wait_for(lambda: "alert state file" not in explained(switch, "telemetry"), "it is over")
        assert prepare(switch)[0] == 0


def prepare(switch: Switch) -> tuple[int, str]:
    ended = switch.kubesync("reboot", "prepare", "warm")
    return ended.returncode, ended.stdout + ended.stderr


def test_after_a_load_on_a_full_disk_the_configuration_applies_at_once(
    new_switch: MakeSwitch, real_docker: RealDocker
) -> None:
    with ExitStack() as stack:
        switch = new_switch(real_docker)
        switch.daemon.stop()
        state = stack.enter_context(disk(switch.folder / "state", "256k"))
        stack.callback(switch.daemon.stop)
        switch.daemon.start()
        booted(switch, "snmp")
        saved = switch.kubesync("feature-table", "save")
        assert saved.returncode == 0, saved
        state.fill()
        # As `config load_minigraph` does. A flush has no event: the daemon notices the load when it next reads.
        switch.config_db.flushdb()
        unknown = switch.container("start", "lldp")
        assert "CONFIG_DB is being loaded" in unknown.stderr, unknown
        switch.config("snmp", set_owner="kube", state="enabled")
        switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
        # What is set before the copy is used counts as the load's own: the operator comes afterwards.
        switch.wait_for(lambda: owner_in_config_db(switch) == "local", "the copy is used")
        switch.config("snmp", set_owner="kube")
        switch.wait_for(lambda: owner_in_force(switch) == "kube", "the new owner is in force")
        switch.config("snmp", set_owner="local")
        switch.wait_for(lambda: owner_in_force(switch) == "local", "and the next one, too")
        assert len(switch.log("feature_table", action="restore")) == 1, "the copy is used once"
        assert not any(NO_SPACE in line for line in alerts(switch)), alerts(switch)


def owner_in_config_db(switch: Switch) -> str | None:
    """The owner in CONFIG_DB."""
    return switch.config_db.hget("FEATURE|snmp", "set_owner")


def owner_in_force(switch: Switch) -> str:
    _, (line,) = switch.ask("show", "snmp")
    owner: str = json.loads(line)["config"]["set_owner"]
    return owner


@pytest.fixture
def small_docker() -> Iterator[tuple[RealDocker, Disk]]:
    """An engine whose data is on a small file system.

    A switch removes its containers before the engine ends: dockerd does not wait until containerd has deleted those
    that it stops at its own end, and their processes would stay.
    """
    folder = Path(tempfile.mkdtemp(prefix="kd-"))
    with ExitStack() as stack:
        stack.callback(remove, folder)
        (folder / "data").mkdir()
        data = stack.enter_context(disk(folder / "data", "300m"))
        engine = RealDocker(folder)
        engine.start()
        stack.callback(engine.stop)
        engine.import_image()
        yield engine, data


def test_a_full_disk_under_docker_is_one_alert_and_what_runs_runs_on(
    small_docker: tuple[RealDocker, Disk], new_switch: MakeSwitch
) -> None:
    engine, data = small_docker
    # None is adopted before all have been handed over and the disk is full.
    switch = new_switch(engine, timing={"tag_after_s": 3000.0})
    old, new = run_by_kube(switch)
    kube = {f: switch.run_kube(f, image=f"{REGISTRY}/docker-{f}:v2") for f in FEATURES}
    for feature in FEATURES:
        switch.until_ups(feature, "local", "kube")
    # On a full disk containerd would keep the processes of containers that have just ended for ever.
    switch.wait_for(lambda: engine.tasks() == set(kube.values()), "containerd has deleted the ended ones")
    data.fill()
    switch.configure_daemon({"timing": {**SWITCH_TIMING, **TIMING}})
    switch.daemon.send_signal(signal.SIGHUP)
    for feature in FEATURES:
        switch.wait_for(lambda f=feature: switch.log("image_not_adopted", feature=f), "it is noticed")
    assert len(alerts(switch)) == 1, alerts(switch)
    for feature in FEATURES:
        switch.wait_for(
            lambda f=feature: "no space left on device" in explained(switch, f).lower(), "it is told"
        )
        assert switch.running(feature) == [kube[feature]]
        assert switch.images.named(f"docker-{feature}:latest") == old[feature]
    data.free()
    for feature in FEATURES:
        adopted(switch, new[feature], feature)
