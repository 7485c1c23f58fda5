"""Check each way to detect a failure under each policy, and the text of `explain`.

Each test plays one way to fail on three features at once, one for each policy, over the lab's Docker engine and over
the real one. Each feature came with an image of its own, and runs a newer one that has become the local one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.system.test_switch_failure import REFUSED, says, to_kube
from tests.system.test_switch_images import REGISTRY, adopted, booted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

POLICIES = {"snmp": "alert", "lldp": "switch-to-local", "telemetry": "rollback"}
TIMING = {
    "tag_after_s": 1.5,
    "crash_loop_starts": 3,
    "check_every_s": 0.5,
    "check_failures": 2,
    # Longer than the minute of by_the_clock: a container that asks for nothing must not become the owner meanwhile.
    "gate_after_s": 3000.0,
    **REFUSED,
}


def by_the_clock(switch: Switch, feature: str, kube: str) -> str:
    """It ends, and what comes next never says that it is up."""
    end(switch, kube)
    switch.config(feature, kube_failure_detection="1")
    run(switch, feature, 1, ["/bin/sleep", "100000"])
    return "no kube container has run for 1 min"


def by_a_crash_loop(switch: Switch, feature: str, kube: str) -> str:
    """It ends, and so does all that comes next, before it is up."""
    end(switch, kube)
    switch.until_state(feature, "KUBE_READY")
    for number in range(1, 4):
        run(switch, feature, number, ["/bin/sh", "-c", "exit 3"])
    return "crash-looping: 3 starts within 10 min, and none stayed up"


def by_its_own_word(switch: Switch, feature: str, kube: str) -> str:
    """A script in the container says so."""
    says(switch, kube, feature, "unhealthy", "no", "answers")
    return "the kube container is unhealthy: no answers (says container)"


def by_the_host_s_check(switch: Switch, feature: str, _: str) -> str:
    """A program on the host says so."""
    switch.hook("check.d", f"{feature}.port", "echo port 161 is silent; exit 1")
    return f"the kube container is unhealthy: port 161 is silent (says {feature}.port)"


def end(switch: Switch, kube: str) -> None:
    switch.docker.do("kill", kube, signal="KILL")
    switch.docker.remove(kube)


def run(switch: Switch, feature: str, number: int, command: list[str]) -> None:
    switch.run_kube(feature, number, image=f"{REGISTRY}/docker-{feature}:v2", command=command)


def explained(switch: Switch, feature: str) -> str:
    """What `explain` says, as one line."""
    return re.sub(r"\s+", " ", switch.prints("explain", feature))


@pytest.mark.slow("a minute is the shortest time that can be configured")
@pytest.mark.parametrize("fail", [by_its_own_word, by_the_host_s_check, by_a_crash_loop, by_the_clock])
def test_a_failure_is_an_alert_a_row_and_a_sentence_and_then_the_policy_rules(
    switches: MakeSwitch, fail: Callable[[Switch, str, str], str]
) -> None:
    switch = switches(timing=TIMING)
    old, new, told = {}, {}, {}
    for feature, policy in POLICIES.items():
        old[feature] = booted(switch, feature)
        new[feature] = switch.images.make(f"{REGISTRY}/docker-{feature}:v2")
        switch.config(feature, set_owner="kube", failure_policy=policy)
        kube = to_kube(switch, feature, image=f"{REGISTRY}/docker-{feature}:v2")
        adopted(switch, new[feature], feature)
        told[feature] = fail(switch, feature, kube)
    for feature, policy in POLICIES.items():
        switch.until_row(feature, failure=told[feature])
        assert len(switch.log("kube_failed", feature=feature, alert=True, policy=policy)) == 1
    alerted(switch, told["snmp"], new["snmp"])
    switched(switch, told["lldp"], new["lldp"])
    rolled_back(switch, told["telemetry"], old["telemetry"])


def alerted(switch: Switch, told: str, image_id: str) -> None:
    """Nothing but the alert: the same container runs, and no other."""
    assert "local" not in switch.ups("snmp")[1:]
    assert switch.state("snmp") in ("KUBE_RUNNING", "KUBE_READY")
    assert switch.images.named("docker-snmp:latest") == image_id
    switch.until_told(f"failed {told}", "explain", "snmp")


def switched(switch: Switch, told: str, image_id: str) -> None:
    """The local container took over, and the label stays."""
    switch.until_state("lldp", "LOCAL")
    switch.until_ups("lldp", "local", "kube", "local")
    assert switch.images.named("docker-lldp:latest") == image_id
    assert not switch.shown("lldp")["rolled_back"]
    assert switch.shown("lldp")["config"]["set_owner"] == "kube"
    switch.until_told(f"failed {told}", "explain", "lldp")


def rolled_back(switch: Switch, told: str, image_id: str) -> None:
    """The local container runs, from the image before."""
    switch.until_state("telemetry", "LOCAL")
    switch.until_ups("telemetry", "local", "kube", "local")
    assert switch.images.named("docker-telemetry:latest") == image_id
    assert switch.docker.inspect("telemetry")["Image"] == image_id
    assert switch.shown("telemetry")["rolled_back"]
    switch.until_told(f"because rolled back ({told})", "explain", "telemetry")
    switch.until_told("kubesync clear", "explain", "telemetry")
