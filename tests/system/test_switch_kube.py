"""Check a switch's promises with a master: features move between local and kube, and the master fails.

Processes over real sockets. Each test runs over the lab's API server, kubelet and Docker engine; most run over the
real kube-apiserver, kubelet and dockerd as well, where a DaemonSet's pod comes when the label matches.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.kube_client import NODES
from tests.system.packets import missing_for_packets, packets_lost
from tests.system.switch_fixtures import joined
from tests.system.test_switch_local import QUIET_S, started_at

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.lab.engines import Kube
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch


def master(switch: Switch) -> Kube:
    """The switch's master."""
    assert switch.kube is not None
    return switch.kube


def handed_over(switch: Switch, feature: str = "snmp") -> str:
    """The feature booted locally, deployed by the master, and KUBE_RUNNING for long enough; its container's ID."""
    switch.boot_local(feature)
    switch.deploy(feature)
    switch.config(feature, set_owner="kube")
    return until_kube(switch, feature, "local", "kube")


def until_kube(switch: Switch, feature: str, *ups: str) -> str:
    """Return once the feature is KUBE_RUNNING, stays so, and these have been up; its container's ID."""
    switch.until_ups(feature, *ups)
    switch.until_state(feature, "KUBE_RUNNING")
    switch.wait_for(lambda: switch.shown(feature)["proven"], f"{feature} has stayed up long enough")
    return switch.row(feature)["docker_id"]


def down(switch: Switch) -> None:
    """The master is gone, and the switch has noticed."""
    master(switch).stop_api()
    switch.wait_for(lambda: switch.connected == "False", "the outage noticed")


def patches(switch: Switch) -> list[dict[str, object]]:
    """Each PATCH the daemon has had accepted: its labels, and how many queued changes it folded."""
    return [{"labels": e["labels"], "folded": e["folded"]} for e in switch.log("labels_applied")]


def waiting(waiters: list[subprocess.Popen[str]]) -> bool:
    """Whether every waiter still waits."""
    return all(waiter.poll() is None for waiter in waiters)


# ---- the story ------------------------------------------------------------------------------------


@pytest.mark.story
@pytest.mark.slow("a whole switch, there and back")
def test_a_feature_moves_to_kube_and_back_and_its_unit_notices_nothing(kube_switch: Switch) -> None:
    """Label on, pod, hand-over (S1), re-deploy, owner local, label off, pod gone, local again (S6)."""
    switch = kube_switch
    switch.config("snmp", set_owner="local")
    switch.add_service("snmp")
    switch.systemctl("start", "snmp.service")
    switch.until_ups("snmp", "local")
    switch.deploy("snmp")
    waiters = [switch.waits("snmp")]
    assert switch.label_of("snmp") == ""

    switch.config("snmp", set_owner="kube")
    first = until_kube(switch, "snmp", "local", "kube")
    assert switch.label_of("snmp") == "true"
    assert switch.running("snmp") == [first]
    assert first in switch.docker.inspect(first)["Id"]

    switch.docker.do("kill", first)
    second = until_kube(switch, "snmp", "local", "kube", "kube")
    assert second != first

    switch.forget_deployments("snmp")
    switch.until_state("snmp", "KUBE_READY")
    switch.deploy("snmp")
    until_kube(switch, "snmp", "local", "kube", "kube", "kube")

    switch.config("snmp", set_owner="local")
    switch.until_ups("snmp", "local", "kube", "kube", "kube", "local")
    switch.until_state("snmp", "LOCAL")
    assert switch.label_of("snmp") == ""
    assert len(switch.running("snmp")) == 1
    assert waiting(waiters)
    starts = [e for e in switch.log("state", feature="snmp") if e["was"] == "UNKNOWN"]
    assert len(starts) <= 2, "the unit was started once"

    switch.systemctl("stop", "snmp.service")
    assert waiters[0].wait(30) == 0
    assert switch.running("snmp") == []
    assert not switch.row("snmp")["docker_id"]


def test_systemctl_restart_of_a_kube_unit_brings_the_pod_back(lab_kube_switch: Switch) -> None:
    """The stop takes the label away and the pod goes; the start asks for it again."""
    switch = lab_kube_switch
    switch.add_service("snmp")
    switch.config("snmp", set_owner="kube")
    switch.deploy("snmp")
    switch.systemctl("start", "snmp.service")
    first = until_kube(switch, "snmp", "kube")
    switch.systemctl("restart", "snmp.service")
    second = until_kube(switch, "snmp", "kube", "kube")
    assert first != second
    assert switch.running("snmp") == [second]
    switch.systemctl("stop", "snmp.service")
    assert (switch.running("snmp"), switch.label_of("snmp")) == ([], "")
    assert switch.state("snmp") == "INIT"


def test_kill_of_a_kube_feature_ends_it_for_good(kube_switch: Switch) -> None:
    handed_over(kube_switch)
    waiter = kube_switch.waits("snmp")
    kube_switch.done("kill", "snmp")
    assert waiter.wait(30) == 137
    assert kube_switch.row("snmp")["system_state"] == "down"
    kube_switch.wait_for(lambda: kube_switch.label_of("snmp") == "", "the label is gone")
    kube_switch.wait_for(lambda: kube_switch.running("snmp") == [], "the pod is gone")
    assert kube_switch.ups("snmp") == ["local", "kube"], "the kubelet has not brought it back"


# ---- the master is away ---------------------------------------------------------------------------


@pytest.mark.story
@pytest.mark.slow("a whole switch, and an outage")
def test_s4_s5_stop_works_while_the_master_is_away_and_the_label_follows_in_one_patch(
    kube_switch: Switch,
) -> None:
    switch = kube_switch
    handed_over(switch)
    waiter = switch.waits("snmp")
    sent = len(patches(switch))
    down(switch)
    assert switch.kubelet_runs, "an outage alone does not stop the kubelet"
    assert switch.state("snmp") == "KUBE_RUNNING"

    begun = time.monotonic()
    switch.done("stop", "snmp")
    assert time.monotonic() - begun < 90, "systemd's own patience"
    assert switch.running("snmp") == []
    assert waiter.wait(30) in (0, 137)
    assert switch.row("snmp")["system_state"] == "down"
    switch.wait_for(lambda: switch.pending == "snmp_enabled-", "the queue as STATE_DB tells it")
    assert not switch.kubelet_runs
    assert switch.systemctl_calls[-1] == "disable --now kubelet.service"
    time.sleep(QUIET_S)
    assert switch.running("snmp") == [], "and it is not started again"

    master(switch).start()
    switch.wait_for(lambda: switch.pending == "", "the queue is empty")
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs again")
    assert switch.systemctl_calls[-1] == "enable --now kubelet.service"
    assert patches(switch)[sent:] == [{"labels": {"snmp_enabled": "(removed)"}, "folded": 1}]
    assert switch.label_of("snmp") == ""
    switch.wait_for(lambda: switch.connected == "True", "and STATE_DB says so")
    time.sleep(QUIET_S)
    assert switch.running("snmp") == []


def test_s5_ten_label_commands_offline_are_one_patch_later_and_the_last_value_per_key_holds(
    kube_switch: Switch,
) -> None:
    switch = kube_switch
    switch.ask("label", "gone=1", "kept=1")
    switch.wait_for(lambda: switch.node_labels.get("gone") == "1", "labels online")
    # The master has them before the daemon hears so; it would send them again.
    switch.wait_for(lambda: any("gone" in patch["labels"] for patch in patches(switch)), "acknowledged")
    down(switch)
    sent = len(patches(switch))
    commands = ("a=1", "b=1", "gone-", "a=2", "c=1", "c-", "d=1", "a=3", "d-", "d=2")
    for command in commands:
        code, said = switch.ask("label", command)
        assert (code, said[0][:6]) == (0, "queued")
    switch.wait_for(lambda: switch.pending == ",".join(commands), "the queue as STATE_DB tells it")
    switch.restart_daemon()
    switch.wait_for(lambda: switch.pending == ",".join(commands), "the queue outlives the daemon")
    with switch.redis.client() as client:
        client.flushdb()

    master(switch).start()
    switch.wait_for(lambda: switch.pending == "", "the queue is empty")
    labels = switch.node_labels
    assert {k: labels.get(k) for k in ("a", "b", "c", "d", "gone", "kept")} == {
        "a": "3", "b": "1", "c": None, "d": "2", "gone": None, "kept": "1",
    }  # fmt: skip
    (patch,) = patches(switch)[sent:]
    assert patch["folded"] == len(commands)


def test_a_label_drain_cut_short_by_kill_9_is_finished_at_the_next_start(lab_kube_switch: Switch) -> None:
    """The master hangs in the middle of the PATCH, the daemon is killed, the master comes back."""
    switch = lab_kube_switch
    switch.config("snmp", set_owner="kube")
    down(switch)
    for command in ("a=1", "b=2", "a-", "c=3"):
        switch.ask("label", command)
    switch.done("start", "snmp")
    master(switch).start()
    master(switch).freeze_api()
    time.sleep(1.0)
    switch.kill9()
    master(switch).thaw_api()
    switch.start_daemon()
    switch.wait_for(lambda: switch.node_labels.get("c") == "3", "the queue is sent")
    labels = switch.node_labels
    assert (labels.get("a"), labels.get("b"), labels.get("snmp_enabled")) == (None, "2", "true")
    switch.wait_for(lambda: switch.pending == "", "and forgotten")
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs again")


@pytest.mark.parametrize("after_s", [0.1, 1.0, 1.7])
def test_a_stop_without_a_master_cut_short_by_kill_9_is_finished_at_the_next_start(
    lab_kube_switch: Switch, after_s: float
) -> None:
    """The label waits for an answer, the kubelet is being stopped, the container is being stopped."""
    switch = lab_kube_switch
    handed_over(switch)
    waiter = switch.waits("snmp")
    down(switch)
    stopping = switch.spawn("stop", "snmp")
    # A client whose request was not read asks no later daemon.
    switch.until_state("snmp", "INIT")
    time.sleep(after_s)
    switch.kill9()
    switch.start_daemon()
    assert stopping.wait(60) == 0
    assert switch.running("snmp") == []
    assert waiter.wait(30) in (0, 137)
    switch.wait_for(lambda: not switch.kubelet_runs, "no kubelet while a label has failed")
    switch.wait_for(lambda: switch.pending == "snmp_enabled-", "the queue as STATE_DB tells it")
    master(switch).start()
    switch.wait_for(lambda: switch.kubelet_runs and switch.pending == "", "queue empty, kubelet as ruled")
    assert switch.label_of("snmp") == ""
    switch.until_ups("snmp", "local", "kube")


def test_s4_the_kubelet_runs_only_while_joined_enabled_and_not_held(kube_switches: MakeSwitch) -> None:
    switch = kube_switches(timing={"audit_s": 0.5})
    joined(switch)
    hold = switch.folder / "state" / "hold"
    hold.touch()
    switch.wait_for(lambda: not switch.kubelet_runs, "a reboot is prepared: no kubelet")
    hold.unlink()
    switch.wait_for(lambda: switch.kubelet_runs, "called off: the kubelet runs")
    switch.config_db.hdel("KUBERNETES_MASTER|SERVER", "IP")
    switch.wait_for(lambda: not switch.kubelet_runs, "no master: no kubelet")
    switch.join()
    switch.wait_for(lambda: switch.kubelet_runs, "a master again")
    switch.config_db.hset("KUBERNETES_MASTER|SERVER", "disable", "true")
    switch.wait_for(lambda: not switch.kubelet_runs, "disabled: no kubelet")


@contextlib.contextmanager
def frozen(kube: Kube) -> Iterator[None]:
    """The master's kernel accepts what is sent, and no answer comes."""
    kube.freeze_api()
    try:
        yield
    finally:
        kube.thaw_api()


@pytest.mark.parametrize(
    "silence",
    [
        frozen,
        pytest.param(
            lambda kube: packets_lost(kube.url),
            marks=pytest.mark.skipif(bool(missing_for_packets()), reason=missing_for_packets()),
        ),
    ],
    ids=["frozen", "packets-lost"],
)
def test_a_silent_master_is_noticed_and_everything_local_goes_on(
    lab_kube_switch: Switch, silence: Callable[[Kube], AbstractContextManager[None]]
) -> None:
    switch = lab_kube_switch
    handed_over(switch)
    with silence(master(switch)):
        switch.boot_local("lldp")
        switch.done("stop", "snmp")
        assert switch.running("snmp") == []
        assert not switch.kubelet_runs
        switch.wait_for(lambda: switch.connected == "False", "the silence noticed", 90)
        code, said = switch.ask("label", "rack=7")
        assert (code, said[0][:6]) == (0, "queued")
        switch.wait_for(lambda: switch.pending == "snmp_enabled-,rack=7", "both wait")
    switch.wait_for(lambda: switch.label_of("snmp") == "" and switch.pending == "", "the labels follow")
    assert switch.node_labels["rack"] == "7"
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs again")
    switch.wait_for(lambda: switch.connected == "True", "and STATE_DB says so")
    assert switch.state("lldp") == "LOCAL"


# ---- restarts, drift, liveness --------------------------------------------------------------------


def test_s2_a_restart_of_the_daemon_leaves_pods_labels_and_kubelet_alone(kube_switch: Switch) -> None:
    switch = kube_switch
    handed_over(switch)
    switch.boot_local("lldp")
    waiters = [switch.waits("snmp"), switch.waits("lldp")]
    started = started_at(switch, "snmp") + started_at(switch, "lldp")
    calls, sent = switch.systemctl_calls, patches(switch)
    version = _labels_version(switch)
    for restart in (switch.kill9, switch.stop_daemon):
        actions = len(switch.log("action"))
        restart()
        switch.start_daemon()
        switch.until_state("snmp", "KUBE_RUNNING")
        switch.wait_for(lambda: switch.connected == "True", "connected")
        time.sleep(QUIET_S)
        assert len(switch.log("action")) == actions, switch.told()
    assert started_at(switch, "snmp") + started_at(switch, "lldp") == started
    assert (switch.systemctl_calls, patches(switch)) == (calls, sent)
    assert _labels_version(switch) == version
    assert waiting(waiters)


def test_s2_a_restart_of_the_daemon_during_an_outage_leaves_running_pods_alone(
    lab_kube_switch: Switch,
) -> None:
    switch = lab_kube_switch
    kube = handed_over(switch)
    started, calls = started_at(switch, "snmp"), switch.systemctl_calls
    down(switch)
    switch.restart_daemon()
    switch.until_state("snmp", "KUBE_RUNNING")
    time.sleep(2 * QUIET_S)
    master(switch).start()
    switch.wait_for(lambda: switch.connected == "True", "connected")
    assert switch.row("snmp")["docker_id"] == kube
    assert (started_at(switch, "snmp"), switch.systemctl_calls) == (started, calls)


def test_a_label_removed_by_another_client_is_set_again(lab_kube_switch: Switch) -> None:
    switch = lab_kube_switch
    handed_over(switch)
    taken = {"metadata": {"labels": {"snmp_enabled": None}}}
    switch.call_kube("patch", f"{NODES}/{master(switch).node}", taken)
    switch.wait_for(lambda: switch.label_of("snmp") == "true", "the label is back")
    switch.wait_for(lambda: switch.log("labels_drifted"), "and the drift was told")
    switch.wait_for(lambda: switch.state("snmp") == "KUBE_RUNNING", "snmp in KUBE_RUNNING", 120.0)


def test_l2_l4_after_an_outage_the_queue_is_empty_the_kubelet_runs_and_nothing_more_happens(
    kube_switches: MakeSwitch,
) -> None:
    switch = kube_switches(timing={"audit_s": 0.5})
    joined(switch)
    kube = handed_over(switch)
    switch.boot_local("lldp")
    down(switch)
    switch.config("lldp", set_owner="kube")
    switch.ask("label", "rack=7")
    switch.wait_for(lambda: not switch.kubelet_runs, "labels have failed: no kubelet")
    switch.config("lldp", set_owner="local")
    master(switch).start()
    switch.wait_for(lambda: switch.pending == "" and switch.kubelet_runs, "queue empty, kubelet as ruled")
    switch.wait_for(lambda: switch.connected == "True", "connected")
    time.sleep(2.0)
    actions, sent, calls = len(switch.log("action")), patches(switch), switch.systemctl_calls
    version = _labels_version(switch)
    time.sleep(2 * QUIET_S)
    assert len(switch.log("action")) == actions, switch.told()
    assert (patches(switch), switch.systemctl_calls, _labels_version(switch)) == (sent, calls, version)
    assert switch.row("snmp")["docker_id"] == kube
    assert switch.node_labels["rack"] == "7"


def test_l3_while_the_master_is_away_from_the_start_the_local_container_runs_in_time(
    lab_kube_switches: MakeSwitch,
) -> None:
    switch = lab_kube_switches(timing={"fallback_after_s": 2.0})
    joined(switch)
    switch.add_service("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    down(switch)
    switch.systemctl("start", "snmp.service")
    switch.until_state("snmp", "LOCAL")
    switch.wait_for(lambda: switch.pending == "snmp_enabled=true", "the label is queued")
    master(switch).start()
    switch.deploy("snmp")
    until_kube(switch, "snmp", "local", "kube")

    switch.forget_deployments("snmp")
    switch.until_state("snmp", "KUBE_READY", "LOCAL")
    switch.until_state("snmp", "LOCAL")
    assert switch.label_of("snmp") == "true", "kube may take over later"


def test_s7_a_pod_that_comes_while_the_unit_is_down_is_blocked_and_ended(kube_switch: Switch) -> None:
    switch = kube_switch
    handed_over(switch)
    switch.done("stop", "snmp")
    switch.call_kube(
        "patch", f"{NODES}/{master(switch).node}", {"metadata": {"labels": {"snmp_enabled": "true"}}}
    )
    switch.wait_for(lambda: switch.label_of("snmp") == "", "the label is taken away again")
    switch.wait_for(lambda: switch.running("snmp") == [], "and the pod with it")
    switch.until_ups("snmp", "local", "kube")
    assert switch.state("snmp") == "INIT"


def test_a_bad_label_is_refused_by_name_and_blocks_no_other(kube_switch: Switch) -> None:
    switch = kube_switch
    for bad in ("key=with space", "key=" + "x" * 64, "-bad=1", "a/b/c=1"):
        reply = switch.raw(f"1\0label\0{bad}\n".encode()).decode()
        assert reply.splitlines()[-1] == "R 64", reply
    reply = switch.raw(b"1\0label\0kubernetes.io/role=spine\n").decode()
    assert reply.splitlines()[-1] in ("R 1", "R 64"), reply
    assert "kubernetes.io/role" in reply
    assert switch.ask("label", "rack=9")[0] == 0
    switch.wait_for(lambda: switch.node_labels.get("rack") == "9", "the good one is applied")
    assert switch.kubelet_runs


def _labels_version(switch: Switch) -> dict[str, str]:
    return switch.node_labels
