"""Check that a bad image is rolled back and the next one is tried, with a master and a kubelet.

Each test runs over the lab's master and kubelet and over the real ones (the node's own credential, a DaemonSet).
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from tests.lab.kube_client import NODES
from tests.system.switch_fixtures import joined, pods
from tests.system.test_switch_images import KUBE, LOCAL, PREVIOUS, adopted, booted
from tests.system.test_switch_policies import explained

if TYPE_CHECKING:
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

# More than the minute after which the kubelet deletes an ended pod, and its pauses between the starts of one.
POD_S = 240.0


def prepared(kube_switches: MakeSwitch, **timing: float) -> Switch:
    """A joined switch that runs snmp locally, from an image of its own."""
    switch = kube_switches(timing=timing)
    joined(switch)
    booted(switch)
    return switch


def deployed(switch: Switch, version: str) -> str:
    """snmp run by a pod of that version, which has stayed up; the image's ID."""
    image_id = switch.images.named(f"{KUBE}:{version}") or switch.images.make(f"{KUBE}:{version}")
    switch.master.deploy("snmp", image=f"{KUBE}:{version}")
    runs(switch, image_id)
    return image_id


def runs(switch: Switch, image_id: str) -> None:
    def by_kube() -> bool:
        shown = switch.shown("snmp")
        owner = next((c for c in shown["containers"] if c["id"] == shown["granted"]), None)
        return bool(shown["proven"] and owner and owner["image_id"] == image_id)

    switch.wait_for(by_kube, f"snmp run by kube from {image_id}", POD_S)


def label_again(switch: Switch) -> None:
    """What the fleet's operator does once there is a better manifest: kubectl label node switch1 snmp_enabled=true"""
    assert switch.kube is not None
    body = {"metadata": {"labels": {"snmp_enabled": "true"}}}
    switch.master.call("patch", f"{NODES}/{switch.kube.node}", body)


def nothing_deployed(switch: Switch) -> None:
    """No pod of an older manifest is left: the kubelet may restart its container once more while it ends."""
    switch.wait_for(lambda: not pods(switch, ending=True), "the master forgets the pod", POD_S)


def local_again(switch: Switch) -> None:
    switch.until_state("snmp", "LOCAL")
    switch.wait_for(lambda: len(switch.running("snmp")) == 1, "no pod any more", POD_S)


def test_a_new_image_is_deployed_while_the_unit_stays_up_and_becomes_the_local_one(
    kube_switches: MakeSwitch,
) -> None:
    switch = prepared(kube_switches, tag_after_s=2.0)
    waiter = switch.waits("snmp")
    switch.config("snmp", set_owner="kube")
    v2 = deployed(switch, "v2")
    adopted(switch, v2)
    v3 = deployed(switch, "v3")
    adopted(switch, v3)
    assert switch.images.named(PREVIOUS) == v2
    assert waiter.poll() is None
    assert [up for up in switch.ups("snmp") if up == "local"] == ["local"]


def test_a_rollback_goes_back_to_the_image_before_until_the_master_brings_another(
    kube_switches: MakeSwitch,
) -> None:
    switch = prepared(kube_switches, tag_after_s=1.5)
    v1 = switch.images.named(LOCAL)
    waiter = switch.waits("snmp")
    switch.config("snmp", set_owner="kube", failure_policy="rollback")
    bad = deployed(switch, "v2")
    adopted(switch, bad)
    switch.done("state", "snmp", "unhealthy", "wrong answers")
    local_again(switch)
    # A master that takes long to answer gets the label later: the daemon then stops the kubelet first.
    switch.wait_for(lambda: not switch.master.label_of("snmp"), "the label is withdrawn")
    assert switch.images.named(LOCAL) == v1
    assert switch.docker.inspect(switch.running("snmp")[0])["Image"] == v1
    shown = switch.shown("snmp")
    assert shown["rolled_back"]
    assert shown["failed_image"] == bad
    assert "rolled back (the kube container is unhealthy: wrong answers" in shown["why"]
    switch.wait_for(lambda: "unhealthy: wrong answers" in switch.row("snmp").get("failure", ""), "STATE_DB")

    # The same manifest once more: it is seen, and the label goes again.
    label_again(switch)
    withdrawals = len(switch.log("action", action="label off"))
    switch.wait_for(
        lambda: len(switch.log("action", action="label off")) > withdrawals or not switch.master.label_of("snmp"),
        "the label is withdrawn again", POD_S,
    )  # fmt: skip
    switch.wait_for(lambda: not switch.master.label_of("snmp"), "the label is off again", POD_S)
    nothing_deployed(switch)
    local_again(switch)
    assert switch.shown("snmp")["rolled_back"]

    # Another image, and the label: kube takes over, and nothing of the failure is left.
    good = switch.images.make(f"{KUBE}:v3")
    switch.master.deploy("snmp", image=f"{KUBE}:v3")
    label_again(switch)
    runs(switch, good)
    assert not switch.shown("snmp")["rolled_back"]
    switch.until_row("snmp", failure="")
    assert switch.log("rollback_over")
    assert waiter.poll() is None


def test_kubesync_clear_lets_the_same_image_try_again(kube_switches: MakeSwitch) -> None:
    switch = prepared(kube_switches)
    switch.config("snmp", set_owner="kube", failure_policy="rollback")
    image_id = deployed(switch, "v2")
    switch.done("state", "snmp", "unhealthy", "a bad day")
    local_again(switch)
    switch.daemon.restart()
    switch.wait_for(
        lambda: switch.shown("snmp").get("rolled_back"), "a restart of the daemon changes nothing"
    )
    ended = switch.kubesync("clear", "snmp")
    assert ended.returncode == 0, ended
    assert "cleared (the kube container is unhealthy: a bad day" in ended.stdout
    runs(switch, image_id)


def test_a_master_lost_in_the_midst_of_a_rollback_delays_only_the_label(kube_switches: MakeSwitch) -> None:
    switch = prepared(kube_switches)
    assert switch.kube is not None
    switch.config("snmp", set_owner="kube", failure_policy="rollback")
    deployed(switch, "v2")
    switch.kube.stop_api()
    switch.done("state", "snmp", "unhealthy", "wrong answers")
    local_again(switch)
    switch.wait_for(lambda: switch.pending == "snmp_enabled-", "the queue as STATE_DB tells it")
    switch.wait_for(lambda: not switch.kubelet_runs, "the kubelet is stopped: it would start the pod again")
    switch.until_told(
        "because rolled back (the kube container is unhealthy: wrong answers", "explain", "snmp"
    )
    switch.kube.start()
    switch.wait_for(
        lambda: not switch.pending and switch.kubelet_runs, "label and kubelet are as they should be", POD_S
    )
    switch.wait_for(lambda: not switch.master.label_of("snmp"), "the label is off")
    time.sleep(2.0)
    local_again(switch)
    switch.until_ups("snmp", "local", "kube", "local")


def test_a_withdrawn_manifest_does_not_count_as_a_failure_and_falls_back_in_time(
    kube_switches: MakeSwitch,
) -> None:
    # Time enough to ask for an explanation before it is over.
    switch = prepared(kube_switches, fallback_after_s=10.0)
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    deployed(switch, "v2")
    switch.master.forget("snmp")
    # The state is over after 10 s, and a busy machine may take long to answer: the timeline keeps what it said.
    why = "waiting for kube deployment; the local container returns after 10 s"
    switch.wait_for(
        lambda: any(e["state"] == "KUBE_READY" and why in e["why"] for e in switch.log("state")), why, POD_S
    )
    nothing_deployed(switch)
    local_again(switch)
    assert "failure" not in switch.row("snmp")
    deployed(switch, "v2")


def test_a_crash_looping_image_is_rolled_back_and_never_takes_the_local_one_down_again(
    kube_switches: MakeSwitch,
) -> None:
    switch = prepared(kube_switches, crash_loop_starts=3)
    switch.config("snmp", set_owner="kube", fallback_to_local="true", failure_policy="rollback")
    switch.images.make(f"{KUBE}:v2")
    switch.master.deploy("snmp", image=f"{KUBE}:v2", command=["/bin/sh", "-c", "exit 3"])
    switch.wait_for(lambda: switch.shown("snmp")["rolled_back"], "three starts in vain", POD_S)
    failure = "crash-looping: 3 starts within 10 min"
    switch.wait_for(lambda: failure in switch.row("snmp").get("failure", ""), "the failure in STATE_DB")
    switch.wait_for(lambda: not switch.master.label_of("snmp"), "the label is off", POD_S)
    local_again(switch)
    switch.until_ups("snmp", "local")
    told = "because rolled back (crash-looping: 3 starts within 10 min, and none stayed up)"
    switch.until_told(told, "explain", "snmp")
    switch.until_told("kubesync clear", "explain", "snmp")
    switch.wait_for(lambda: "crash-looping" in failure_event(switch), "the Event on the Node", POD_S)


def failure_event(switch: Switch) -> str:
    """What the Node's Event says of snmp's failure; empty while there is none."""
    events = switch.master.call("get", "/api/v1/namespaces/default/events")["items"]
    told = [
        e["message"] for e in events if e["reason"] == "FeatureFailed" and e["message"].startswith("snmp: ")
    ]
    return str(told[-1]) if told else ""


@pytest.mark.slow("a minute is the shortest time that can be configured")
def test_an_image_that_never_becomes_ready_is_failed_by_the_clock_and_the_local_one_never_stops(
    kube_switches: MakeSwitch,
) -> None:
    switch = prepared(kube_switches)
    waiter = switch.spawn("wait", "snmp")
    switch.config("snmp", set_owner="kube", kube_failure_detection="1", failure_policy="rollback")
    # Nobody has it, so the kubelet tries in vain to pull it.
    switch.master.deploy("snmp", image=f"{KUBE}:nowhere")
    switch.wait_for(lambda: switch.master.label_of("snmp"), "the label is on")
    runs_on = "because the local container runs until kube deploys"
    switch.until_told(runs_on, "explain", "snmp")
    switch.wait_for(lambda: switch.shown("snmp")["rolled_back"], "a minute in vain", POD_S)
    switch.wait_for(lambda: not switch.master.label_of("snmp"), "the label is off", POD_S)
    switch.until_told("because rolled back (no kube container has run for 1 min)", "explain", "snmp")
    switch.until_ups("snmp", "local")
    assert waiter.poll() is None


@pytest.mark.slow("the kubelet pauses before it starts a container again that has failed")
def test_a_kube_container_that_ends_again_and_again_has_failed_although_each_one_outlasts_its_trial(
    kube_switches: MakeSwitch,
) -> None:
    """snmp has fallback, lldp has not: each life is longer than `kube_stable_s`, and ends by itself.

    It is so by more than a busy machine keeps the daemon from looking.
    """
    switch = kube_switches(
        timing={
            "kube_stable_s": 1.0,
            "crash_window_s": 240.0,
            "fallback_after_s": 3000.0,
            "handover_delay_s": 5.0,
            "handover_delay_s_max": 3000.0,
        }
    )
    joined(switch)
    told = "crash-looping: 3 ends within 4 min, the last one with exit code 3"
    for feature in ("snmp", "lldp"):
        switch.boot_local(feature)
        switch.config(feature, set_owner="kube", fallback_to_local=str(feature == "snmp").lower())
        switch.images.make(f"{KUBE}:{feature}")
        switch.master.deploy(feature, image=f"{KUBE}:{feature}", life_s=6.0, code=3)
    waiter = switch.waits("snmp")

    for feature in ("snmp", "lldp"):
        switch.until_row(feature, failure=told)
        assert len(switch.log("kube_failed", feature=feature, alert=True, why=told)) == 1

    # With fallback the local container is back at once, and the next hand-over waits.
    switch.wait_for(lambda: "local" in switch.ups("snmp")[4:], "the local container returns", POD_S)
    assert switch.ups("snmp")[:5] == ["local", "kube", "kube", "kube", "local"]
    switch.wait_for(
        lambda: switch.shown("snmp")["crashes"] >= 3, "two more hand-overs, later and later", POD_S
    )
    first, second = refusals(switch)[1:3]
    assert second > first, "each delay is longer"
    assert switch.ups("snmp").count("local") >= 3
    assert waiter.poll() is None

    pauses_without_fallback(switch)
    for feature in ("snmp", "lldp"):
        assert len(switch.log("kube_failed", feature=feature, alert=True)) == 1, "one alert"

    # It is over by an operator's word, or once another image has stayed up.
    ended = switch.kubesync("clear", "lldp")
    assert "cleared (crash-looping: 3 ends" in ended.stdout
    switch.until_row("lldp", failure="")
    deployed(switch, "v2")
    switch.until_row("snmp", failure="")
    assert len(switch.log("kube_recovered", feature="snmp")) == 1
    assert switch.shown("snmp")["crashes"] == 0


def pauses_without_fallback(switch: Switch) -> None:
    """Nothing of lldp may run meanwhile, and `explain` says what the kubelet does."""
    paused = (
        "because CrashLoopBackOff: the kubelet waits before it starts the kube container again (3 ends within"
    )
    switch.until_told(paused, "explain", "lldp")
    shown = explained(switch, "lldp").partition(" because ")[0]
    assert shown.startswith("lldp is KUBE_R")
    assert "means waiting" not in shown
    switch.until_told("failed crash-looping: 3 ends within 4 min", "explain", "lldp")
    switch.until_told("crash-looping: 3 ends within 4 min", "doctor")
    assert "local" not in switch.ups("lldp")[1:]


def refusals(switch: Switch) -> list[float]:
    """How long each hand-over of snmp waited: from its local container's start to the next request to stop it."""
    at = {
        what: [e["timestamp"] for e in switch.log("action", feature="snmp") if e["action"].startswith(what)]
        for what in ("docker start", "docker stop")
    }
    pairs = zip(at["docker start"], at["docker stop"], strict=False)
    return [
        (datetime.fromisoformat(stop) - datetime.fromisoformat(start)).total_seconds()
        for start, stop in pairs
    ]
