"""Check the cases of upstream's tests of the `container` command (docs/migrate.md, "Upstream's test cases").

Each case is written from what it states: what the two databases and Docker have, the command, and what they have
afterwards. With SONiC's field names; the tests share one switch, and each has a feature of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from tests.lab.switch import Switch

LOCAL, KUBE = {"set_owner": "local"}, {"set_owner": "kube"}
NO_FALLBACK = {"no_fallback_to_local": "true"}


def docker_calls(switch: Switch, feature: str) -> list[str]:
    """What Docker was asked to do with the feature's local container, by its events: start, stop or kill."""
    # Another switch on this engine may have had one of the same name.
    asked = [event["Action"] for event in told_of(switch, switch.docker.inspect(feature)["Id"])]
    # `docker stop` sends a signal first.
    return " ".join(asked).replace("kill stop", "stop").split()


def told_of(switch: Switch, container_id: str) -> list[dict[str, Any]]:
    """The events of Docker about the starts and ends of this container."""
    return [event for event in switch.docker.events("start", "stop", "kill") if event["id"] == container_id]


def local_runs(switch: Switch, feature: str, **config: str) -> None:
    """Given: the feature runs locally."""
    switch.config(feature, **LOCAL, state="enabled", **config)
    switch.create_local(feature)
    switch.done("start", feature)
    switch.until_ups(feature, "local")
    switch.until_row(feature, current_owner="local", system_state="up")


def kube_runs(switch: Switch, feature: str, **config: str) -> str:
    """Given: the feature runs from Kubernetes, and has a local container; the ID of the pod's."""
    switch.config(feature, **KUBE, **NO_FALLBACK, **config)
    switch.create_local(feature)
    switch.master.deploy(feature)
    switch.done("start", feature)
    return until_kube_row(switch, feature)


def until_kube_row(switch: Switch, feature: str) -> str:
    """Return once the feature's row says that its kube container runs; the container's whole ID."""
    switch.until_row(feature, current_owner="kube", remote_state="running", system_state="up")
    (container_id,) = switch.running(feature)
    return container_id


def label(switch: Switch, feature: str, value: str) -> None:
    """Return once the master has this value of the feature's label; empty: none."""
    switch.wait_for(
        lambda: switch.master.label_of(feature) == value, f"{feature}_enabled is {value or 'off'}"
    )


# ---- start ----------------------------------------------------------------------------------------


@pytest.mark.upstream("container/start-local", "same")
def test_start_of_a_local_feature_clears_an_old_mode_and_starts_its_container(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("snmp", **LOCAL)
    switch.create_local("snmp")
    switch.state_db.hset("FEATURE|snmp", mapping={"remote_state": "ready", "current_owner": "none"})
    switch.master.set_label("snmp_enabled", "true")
    switch.done("start", "snmp")
    switch.until_row(
        "snmp", remote_state="none", current_owner="local", container_id="snmp", system_state="up"
    )
    label(switch, "snmp", "")
    assert docker_calls(switch, "snmp") == ["start"]


@pytest.mark.upstream("container/start-fallback", "same")
def test_start_of_a_kube_feature_with_fallback_starts_locally_and_asks_for_its_pod(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    switch.config("lldp", **KUBE)
    switch.create_local("lldp")
    switch.done("start", "lldp")
    switch.until_row("lldp", current_owner="local", container_id="lldp", remote_state="none")
    label(switch, "lldp", "true")
    assert docker_calls(switch, "lldp") == ["start"]


@pytest.mark.upstream("container/start-fallback-field-of-config-feature-fallback", "differs")
def test_no_fallback_to_local_false_means_that_the_feature_falls_back(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("bmp", **KUBE, no_fallback_to_local="false")
    switch.create_local("bmp")
    switch.done("start", "bmp")
    switch.until_row("bmp", current_owner="local", container_id="bmp")


@pytest.mark.upstream("container/start-after-stop", "same")
def test_start_of_a_stopped_kube_feature_asks_for_its_pod_and_touches_no_container(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    switch.config("pmon", **KUBE, **NO_FALLBACK)
    switch.create_local("pmon")
    switch.done("start", "pmon")
    switch.done("stop", "pmon")
    switch.until_row("pmon", remote_state="stopped", system_state="down")
    label(switch, "pmon", "")
    switch.done("start", "pmon")
    switch.until_row("pmon", remote_state="stopped", current_owner="none", container_id="", system_state="up")
    label(switch, "pmon", "true")
    assert docker_calls(switch, "pmon") == []


@pytest.mark.upstream("container/start-after-stop-fallback", "differs")
def test_start_of_a_stopped_kube_feature_with_fallback_runs_locally_until_its_pod_comes(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    switch.config("radv", **KUBE)
    switch.create_local("radv")
    switch.state_db.hset("FEATURE|radv", mapping={"remote_state": "stopped", "current_owner": "none"})
    switch.done("start", "radv")
    switch.until_row("radv", current_owner="local", remote_state="none")
    label(switch, "radv", "true")


@pytest.mark.upstream("container/start-fails", "differs")
def test_a_start_that_fails_says_so_and_leaves_no_owner(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("stp", **LOCAL)
    ended = switch.container("start", "stp")
    assert ended.returncode != 0
    assert "stp" in ended.stderr
    assert switch.row("stp").get("current_owner", "none") == "none"
    assert not switch.row("stp").get("container_id")


# ---- stop -----------------------------------------------------------------------------------------


@pytest.mark.upstream("container/stop-local", "same")
def test_stop_of_a_local_feature_stops_its_container_and_keeps_its_version(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("eventd", **LOCAL)
    environ = {**switch.containers.environment, "IMAGE_VERSION": "20240531.1"}
    switch.create_local("eventd", docker={"Env": [f"{key}={value}" for key, value in environ.items()]})
    switch.done("start", "eventd")
    switch.until_row("eventd", current_owner="local", container_version="20240531.1")
    switch.done("stop", "eventd")
    switch.until_row("eventd", current_owner="none", container_id="", system_state="down")
    assert switch.row("eventd")["container_version"] == "20240531.1"
    assert docker_calls(switch, "eventd") == ["start", "stop"]


@pytest.mark.upstream("container/stop-kube", "differs")
def test_stop_of_a_kube_feature_takes_its_label_away_and_the_pod_ends(sonic_switch: Switch) -> None:
    switch = sonic_switch
    kube = kube_runs(switch, "telemetry")
    switch.done("stop", "telemetry")
    switch.until_row(
        "telemetry", current_owner="none", remote_state="stopped", container_id="", system_state="down"
    )
    label(switch, "telemetry", "")
    assert kube not in switch.running("telemetry")


@pytest.mark.upstream("container/stop-waiting", "differs")
def test_stop_of_a_feature_that_waits_for_its_pod_takes_its_label_away(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("otel", **KUBE, **NO_FALLBACK)
    switch.done("start", "otel")
    label(switch, "otel", "true")
    switch.done("stop", "otel")
    switch.until_row("otel", remote_state="stopped", system_state="down")
    label(switch, "otel", "")


# ---- kill -----------------------------------------------------------------------------------------


@pytest.mark.upstream("container/kill-local", "differs")
def test_kill_of_a_local_feature_kills_its_container_and_the_row_says_so(sonic_switch: Switch) -> None:
    switch = sonic_switch
    local_runs(switch, "nat")
    switch.done("kill", "nat")
    assert docker_calls(switch, "nat") == ["start", "kill"]
    assert switch.master.label_of("nat") == ""
    switch.until_row("nat", current_owner="none", container_id="", system_state="down")


@pytest.mark.upstream("container/kill-kube", "differs")
def test_kill_of_a_kube_feature_kills_its_pod_s_container_and_takes_its_label_away(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    kube = kube_runs(switch, "sflow")
    switch.done("kill", "sflow")
    assert "kill" in [event["Action"] for event in told_of(switch, kube)]
    label(switch, "sflow", "")
    switch.until_row("sflow", current_owner="none", container_id="", system_state="down")


@pytest.mark.upstream("container/kill-disabled", "differs")
def test_kill_of_a_disabled_feature_kills_what_runs_and_otherwise_has_nothing_to_do(
    sonic_switch: Switch,
) -> None:
    switch = sonic_switch
    local_runs(switch, "mux")
    switch.config("mux", state="disabled")
    switch.done("kill", "mux")
    assert docker_calls(switch, "mux") == ["start", "kill"]
    switch.done("kill", "mux")
    assert docker_calls(switch, "mux") == ["start", "kill"]


@pytest.mark.upstream("container/kill-multi-asic", "differs")
def test_kill_of_one_asic_s_container_kills_it(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("swss", **LOCAL, state="enabled", has_per_asic_scope="True")
    switch.create_local("swss0")
    switch.done("start", "swss0")
    switch.done("kill", "swss0")
    assert docker_calls(switch, "swss0") == ["start", "kill"]


# ---- wait and id ----------------------------------------------------------------------------------


@pytest.mark.upstream("container/wait-local", "differs")
def test_wait_for_a_local_feature_ends_with_its_container_and_its_code(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("bgp", **LOCAL)
    switch.create_local("bgp", term_code=3)
    switch.done("start", "bgp")
    switch.until_ups("bgp", "local")
    waiter = switch.waits("bgp")
    switch.docker.do("stop", "bgp")
    assert waiter.wait(LIMIT_S) == 3
    assert "container_stable_version" not in switch.row("bgp")


@pytest.mark.upstream("container/wait-kube", "differs")
def test_wait_for_a_pod_that_does_not_come_goes_on_and_falls_back(sonic_switch: Switch) -> None:
    switch = sonic_switch
    switch.config("teamd", **KUBE, **NO_FALLBACK)
    switch.create_local("teamd")
    switch.done("start", "teamd")
    waiter = switch.waits("teamd")
    switch.until_row("teamd", remote_state="stopped", container_id="", system_state="up")
    # With fallback the local container comes after `fallback_after_s`, and the unit keeps waiting.
    switch.config("teamd", no_fallback_to_local="false")
    switch.until_row("teamd", remote_state="none", current_owner="local", container_id="teamd")
    assert waiter.poll() is None
    switch.done("stop", "teamd")
    assert waiter.wait(LIMIT_S) in (0, 143)


@pytest.mark.upstream("container/id", "same")
def test_id_is_that_of_what_runs(sonic_switch: Switch) -> None:
    switch = sonic_switch
    local_runs(switch, "gnmi")
    assert switch.row("gnmi")["container_id"] == "gnmi"
    assert switch.container("id", "gnmi").stdout.strip() == "gnmi"
    switch.master.deploy("gnmi")
    switch.config("gnmi", **KUBE)
    kube = until_kube_row(switch, "gnmi")
    assert switch.row("gnmi")["container_id"] == kube[:12]
    assert switch.container("id", "gnmi").stdout.strip() == kube[:12]
