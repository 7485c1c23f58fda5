"""Check that both modes share one image on a whole switch, and that a previous one is always kept."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.docker_client import DockerError
from tests.system.test_switch_failure import crash, to_kube

if TYPE_CHECKING:
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

LOCAL, PREVIOUS = "docker-snmp:latest", "docker-snmp:kubesyncd-previous"
REGISTRY = "registry.example:5000/sonic"
KUBE = f"{REGISTRY}/docker-snmp"
SOON = {"tag_after_s": 1.5}


def booted(switch: Switch, feature: str = "snmp") -> str:
    """A switch that runs the feature from the image it came with; the image's ID."""
    local = f"docker-{feature}:latest"
    image_id = switch.images.make(local)
    switch.config(feature, set_owner="local")
    switch.create_local(feature, image=local)
    switch.done("start", feature)
    switch.until_state(feature, "LOCAL")
    switch.until_up(feature, "local")
    return image_id


def adopted(switch: Switch, image_id: str, feature: str = "snmp") -> None:
    local = f"docker-{feature}:latest"
    switch.wait_for(lambda: switch.images.named(local) == image_id, "the image is the local one")
    switch.wait_for(lambda: made_from(switch, feature) == image_id, "the local container is of it")


def at(entry: dict[str, Any]) -> float:
    """When a line was logged."""
    return datetime.fromisoformat(entry["timestamp"]).timestamp()


def made_from(switch: Switch, feature: str) -> str:
    """The image of the feature's local container; empty while there is none, as for a moment while it is replaced."""
    with suppress(DockerError):
        return str(switch.docker.inspect(feature)["Image"])
    return ""


@pytest.mark.upstream("ctrmgrd/tag-after-delay", "differs")
@pytest.mark.upstream("kube_commands/tag", "differs")
def test_an_image_that_runs_well_becomes_the_local_one_and_fallback_starts_from_it(
    switches: MakeSwitch,
) -> None:
    late = {"tag_after_s": 3.0, "handover_delay_s": 3000.0, "handover_delay_s_max": 3000.0}
    switch = switches(timing=late)
    v1 = booted(switch)
    waiter = switch.waits("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    v2 = switch.images.make(f"{KUBE}:v2")
    to_kube(switch, "snmp", image=f"{KUBE}:v2")
    adopted(switch, v2)
    grant = next(e for e in switch.log("action") if e["action"].startswith("grant"))
    tagged = next(e for e in switch.log("image_tagged") if e["name"] in (LOCAL, PREVIOUS))
    assert at(tagged) - (at(grant) - grant["took_ms"] / 1000) >= 3.0, "not before it has run well for a while"
    assert switch.images.named(PREVIOUS) == v1
    listed = {
        entry["image"]: entry["role"]
        for entry in json.loads(switch.kubesync("image", "list", "--json").stdout)
    }
    assert listed == {v2: "local", v1: "previous"}
    # It falls back at once, to the new container, and the unit is not restarted.
    switch.done("state", "snmp", "unhealthy", "a test")
    switch.until_state("snmp", "LOCAL")
    switch.until_ups("snmp", "local", "kube", "local")
    assert switch.docker.inspect("snmp")["Image"] == v2
    assert waiter.poll() is None
    assert not [call for call in switch.units.calls if "snmp" in call]


@pytest.mark.upstream("kube_commands/clean", "same")
def test_older_images_go_and_a_restart_adopts_nothing_again(switches: MakeSwitch) -> None:
    switch = switches(timing=SOON)
    v1 = booted(switch)
    switch.config("snmp", set_owner="kube")
    v2, v3 = switch.images.make(f"{KUBE}:v2"), switch.images.make(f"{KUBE}:v3")
    switch.images.make("docker-snmp-sv2:v1")
    to_kube(switch, "snmp", image=f"{KUBE}:v2")
    adopted(switch, v2)
    crash(switch, 0)
    switch.until_state("snmp", "KUBE_READY")
    to_kube(switch, "snmp", 1, image=f"{KUBE}:v3")
    adopted(switch, v3)
    switch.wait_for(lambda: switch.log("image_removed"), "the oldest image is removed")
    assert switch.images.named(PREVIOUS) == v2
    ids = {image["Id"] for image in switch.docker.ask("GET", "/images/json")}
    assert v1 not in ids
    assert switch.images.named("docker-snmp-sv2:v1"), "a longer name is another feature's"
    tags = len(switch.log("image_tagged"))
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    time.sleep(3.0)
    assert len(switch.log("image_tagged")) == tags
    assert switch.kubesync("image", "gc").stdout == "nothing to remove\n"


def test_a_daemon_killed_right_after_an_adoption_starts_nothing_again(switches: MakeSwitch) -> None:
    switch = switches(timing=SOON)
    booted(switch)
    switch.config("snmp", set_owner="kube")
    v2 = switch.images.make(f"{KUBE}:v2")
    to_kube(switch, "snmp", image=f"{KUBE}:v2")
    switch.wait_for(lambda: switch.images.named(PREVIOUS), "the first step of tagging")
    switch.daemon.kill9()
    switch.daemon.start()
    adopted(switch, v2)
    switch.until_ups("snmp", "local", "kube")


def test_a_full_disk_is_one_alert_and_nothing_breaks(switches: MakeSwitch) -> None:
    switch = switches(timing={"tag_after_s": 1.1})
    v1 = booted(switch)
    # What cannot be replaced is as a disk on which nothing can be written.
    (switch.folder / "state" / "images.json").mkdir()
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.images.make(f"{KUBE}:v2")
    kube = to_kube(switch, "snmp", image=f"{KUBE}:v2")
    switch.wait_for(lambda: switch.log("image_not_adopted"), "the alert")
    time.sleep(3.5)
    assert len(switch.log("image_not_adopted", alert=True)) == 1
    assert switch.images.named(LOCAL) == v1
    assert switch.running("snmp") == [kube]
    (switch.folder / "state" / "images.json").rmdir()
    switch.wait_for(lambda: switch.images.named(PREVIOUS) == v1, "it is tried again")
    switch.done("stop", "snmp")
    switch.done("start", "snmp")


def test_commands_say_what_to_do_where_there_is_nothing(switch: Switch) -> None:
    switch.boot_local("snmp")
    assert "no image from Kubernetes yet" in switch.kubesync("image", "list").stdout
    assert "nothing to clear" in switch.kubesync("clear", "snmp").stdout
    ended = switch.kubesync("clear", "nobody")
    assert ended.returncode == 1
    assert "no such feature" in ended.stderr
    switch.daemon.stop()
    ended = switch.kubesync("image", "list")
    assert ended.returncode == 69
    assert len(ended.stderr.splitlines()) == 1
