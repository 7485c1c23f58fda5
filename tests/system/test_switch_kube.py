"""Check a switch's promises with a master: features move between local and kube, and the master fails.

Processes over real sockets. Each test runs over the lab's API server, kubelet and Docker engine; most run over the
real kube-apiserver, kubelet and dockerd as well, where a DaemonSet's pod comes when the label matches.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.https_server import HttpsServer
from tests.lab.kube_client import DAEMONSETS, NODES, PODS, KubeError
from tests.lab.kube_names import NAMESPACE
from tests.system.kube_cluster import API_SERVER
from tests.system.packets import missing_for_packets, packets_lost
from tests.system.switch_fixtures import joined
from tests.system.switch_kube import RealMaster
from tests.system.test_switch_local import QUIET_S, started_at
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.lab.certificates import Authority
    from tests.lab.engines import Kube
    from tests.lab.switch import Switch
    from tests.system.kube_fixtures import RealKubelet
    from tests.system.switch_fixtures import MakeSwitch


# For a label's answer: a queued one is no refusal.
ANSWER_S = 50.0


def master(switch: Switch) -> Kube:
    """The switch's master."""
    assert switch.kube is not None
    return switch.kube


def handed_over(switch: Switch, feature: str = "snmp") -> str:
    """The feature booted locally, deployed by the master, and KUBE_RUNNING for long enough; its container's ID."""
    switch.boot_local(feature)
    switch.master.deploy(feature)
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


def test_a_feature_with_an_underscore_runs_in_kubernetes_with_a_hyphen(kube_switch: Switch) -> None:
    switch = kube_switch
    first = handed_over(switch, "dhcp_relay")
    assert switch.master.label_of("dhcp_relay") == "true"
    assert switch.docker.inspect(first)["Name"].startswith("/k8s_dhcp-relay_")
    assert switch.container("id", "dhcp_relay").stdout.strip() == first

    # Another feature has the same name in Kubernetes, and is only local, whatever its row says.
    switch.config("dhcp-relay", set_owner="local")
    other = switch.create_local("dhcp-relay")
    switch.done("start", "dhcp-relay")
    refused = switch.kubesync("config", "feature", "dhcp-relay", "owner", "kube", "-y")
    assert refused.returncode == 1
    assert "which is that of dhcp_relay" in refused.stderr
    switch.config("dhcp-relay", set_owner="kube")
    for again in (False, True):
        if again:
            switch.daemon.restart()
        switch.wait_for(
            lambda: switch.shown("dhcp-relay").get("config", {}).get("why_local"), "it is told to be local"
        )
        switch.until_row("dhcp-relay", current_owner="local", docker_id=other)
        switch.until_row("dhcp_relay", current_owner="kube", docker_id=first)
        assert switch.running("dhcp_relay") == [first]
        assert switch.master.label_of("dhcp-relay") == ""
    told = " ".join(switch.kubesync("explain", "dhcp-relay").stdout.split())
    assert (
        "wanted local: its container in Kubernetes would be dhcp-relay, which is that of dhcp_relay" in told
    )
    switch.until_told("dhcp-relay has owner kube without effect", "doctor")

    switch.done("stop", "dhcp_relay")
    switch.wait_for(lambda: not switch.running("dhcp_relay"), "the kubelet has ended it")
    assert switch.master.label_of("dhcp_relay") == ""
    switch.until_row("dhcp-relay", current_owner="local", docker_id=other)


def test_a_pod_that_follows_no_label_is_named_and_not_stopped_again_and_again(
    kube_switches: MakeSwitch,
) -> None:
    """A bare pod with `nodeName`: the kubelet restarts its container whatever the label says (L4)."""
    switch = kube_switches(timing={"kube_stop_grace_s": 4.0})
    joined(switch)
    switch.boot_local("snmp")
    pod = switch.master.daemonset("snmp")["spec"]["template"]
    del pod["spec"]["nodeSelector"]
    pod["spec"]["nodeName"] = master(switch).node
    bare = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "bare", "namespace": NAMESPACE}}
    switch.master.call("post", PODS, bare)
    try:
        # It waits beside the local container. It may be named before it has asked.
        switch.wait_for(lambda: switch.shown("snmp").get("conditions"), "the pod is named")
        switch.wait_for(lambda: switch.shown("snmp")["waiting"], "its container waits")
        assert switch.state("snmp") == "LOCAL"
        told = " ".join(switch.kubesync("explain", "snmp").stdout.split())
        assert f"pod {NAMESPACE}/bare comes although the node label snmp_enabled is off" in told

        # A stop ends its container once; the next one of the pod is left alone.
        (first,) = switch.shown("snmp")["waiting"]
        switch.done("stop", "snmp")
        switch.wait_for(
            lambda: set(switch.shown("snmp")["waiting"]) - {first}, "the kubelet has restarted it"
        )
        ends = [e for e in switch.log("action", feature="snmp") if e["action"].startswith("docker stop")]
        time.sleep(12.0)
        again = [e for e in switch.log("action", feature="snmp") if e["action"].startswith("docker stop")]
        assert again == ends, "it is not stopped again and again"
        assert switch.state("snmp") == "INIT"
        assert switch.ups("snmp") == ["local"], "it is never admitted"
        (alert,) = switch.log("pod_does_not_follow_label")
        assert alert["alert"]
        told = " ".join(switch.kubesync("explain", "snmp").stdout.split())
        assert "waiting for the kubelet to end the container" not in told
        assert f"pod {NAMESPACE}/bare comes although" in told
        switch.until_told(f"pod {NAMESPACE}/bare comes although", "doctor")
        switch.wait_for(
            lambda: (
                f"pod {NAMESPACE}/bare comes" in " ".join(switch.prints("show", "feature", "snmp").split())
            ),
            "show says so",
        )

        # A restart of the daemon changes nothing, and with the pod its condition goes.
        switch.daemon.restart()
        switch.wait_for(lambda: switch.shown("snmp").get("conditions"), "the pod is still named")
        time.sleep(QUIET_S)
        assert len([e for e in switch.log("action") if e["action"].startswith("docker stop")]) == len(ends)
    finally:
        switch.master.call("delete", f"{PODS}/bare")
    switch.wait_for(lambda: switch.shown("snmp").get("conditions") == [], "nothing is left of the pod")


# ---- the story ------------------------------------------------------------------------------------


@pytest.mark.story
@pytest.mark.slow("a whole switch, there and back")
def test_a_feature_moves_to_kube_and_back_and_its_unit_notices_nothing(kube_switch: Switch) -> None:
    """Label on, pod, hand-over (S1), re-deploy, owner local, label off, pod gone, local again (S6)."""
    switch = kube_switch
    switch.config("snmp", set_owner="local")
    switch.add_service("snmp")
    switch.units.call("start", "snmp.service")
    switch.until_ups("snmp", "local")
    switch.master.deploy("snmp")
    waiters = [switch.waits("snmp")]
    assert switch.master.label_of("snmp") == ""

    switch.config("snmp", set_owner="kube")
    first = until_kube(switch, "snmp", "local", "kube")
    assert switch.master.label_of("snmp") == "true"
    assert switch.running("snmp") == [first]
    assert first in switch.docker.inspect(first)["Id"]

    switch.docker.do("kill", first)
    second = until_kube(switch, "snmp", "local", "kube", "kube")
    assert second != first

    switch.master.forget("snmp")
    switch.until_state("snmp", "KUBE_READY")
    switch.master.deploy("snmp")
    until_kube(switch, "snmp", "local", "kube", "kube", "kube")

    switch.config("snmp", set_owner="local")
    switch.until_ups("snmp", "local", "kube", "kube", "kube", "local")
    switch.until_state("snmp", "LOCAL")
    assert switch.master.label_of("snmp") == ""
    assert len(switch.running("snmp")) == 1
    assert waiting(waiters)
    starts = [e for e in switch.log("state", feature="snmp") if e["was"] == "UNKNOWN"]
    assert len(starts) <= 2, "the unit was started once"

    switch.units.call("stop", "snmp.service")
    assert waiters[0].wait(LIMIT_S) == 0
    assert switch.running("snmp") == []
    assert not switch.row("snmp")["docker_id"]


def test_systemctl_restart_of_a_kube_unit_brings_the_pod_back(lab_kube_switch: Switch) -> None:
    """The stop takes the label away and the pod goes; the start asks for it again."""
    switch = lab_kube_switch
    switch.add_service("snmp")
    switch.config("snmp", set_owner="kube")
    switch.master.deploy("snmp")
    switch.units.call("start", "snmp.service")
    first = until_kube(switch, "snmp", "kube")
    switch.units.call("restart", "snmp.service")
    second = until_kube(switch, "snmp", "kube", "kube")
    assert first != second
    assert switch.running("snmp") == [second]
    switch.units.call("stop", "snmp.service")
    assert (switch.running("snmp"), switch.master.label_of("snmp")) == ([], "")
    assert switch.state("snmp") == "INIT"


def test_kill_of_a_kube_feature_ends_it_for_good(kube_switch: Switch) -> None:
    handed_over(kube_switch)
    waiter = kube_switch.waits("snmp")
    kube_switch.done("kill", "snmp")
    assert waiter.wait(LIMIT_S) in (0, 137), "the kubelet, which the label tells, may stop it before"
    assert kube_switch.row("snmp")["system_state"] == "down"
    kube_switch.wait_for(lambda: kube_switch.master.label_of("snmp") == "", "the label is gone")
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
    assert waiter.wait(LIMIT_S) in (0, 137)
    assert switch.row("snmp")["system_state"] == "down"
    switch.wait_for(lambda: switch.pending == "snmp_enabled-", "the queue as STATE_DB tells it")
    # The stop waits 10 s for that, and then goes on.
    switch.wait_for(lambda: not switch.kubelet_runs, "no kubelet while a label has failed")
    assert switch.units.calls[-1] == "disable --now kubelet.service"
    time.sleep(QUIET_S)
    assert switch.running("snmp") == [], "and it is not started again"

    master(switch).start()
    switch.wait_for(lambda: switch.pending == "", "the queue is empty")
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs again")
    assert switch.units.calls[-1] == "enable --now kubelet.service"
    assert patches(switch)[sent:] == [{"labels": {"snmp_enabled": "(removed)"}, "folded": 1}]
    assert switch.master.label_of("snmp") == ""
    switch.wait_for(lambda: switch.connected == "True", "and STATE_DB says so")
    time.sleep(QUIET_S)
    assert switch.running("snmp") == []


@pytest.mark.upstream("ctrmgrd/labels-offline", "differs")
def test_s5_ten_label_commands_offline_are_one_patch_later_and_the_last_value_per_key_holds(
    kube_switch: Switch,
) -> None:
    switch = kube_switch
    switch.ask("label", "gone=1", "kept=1")
    switch.wait_for(lambda: switch.master.labels.get("gone") == "1", "labels online")
    # The master has them before the daemon hears so; it would send them again.
    switch.wait_for(lambda: any("gone" in patch["labels"] for patch in patches(switch)), "acknowledged")
    down(switch)
    sent = len(patches(switch))
    commands = ("a=1", "b=1", "gone-", "a=2", "c=1", "c-", "d=1", "a=3", "d-", "d=2")
    for command in commands:
        code, said = switch.ask("label", command)
        assert (code, said[0][:6]) == (0, "queued")
    switch.wait_for(lambda: switch.pending == ",".join(commands), "the queue as STATE_DB tells it")
    switch.daemon.restart()
    switch.wait_for(lambda: switch.pending == ",".join(commands), "the queue outlives the daemon")
    with switch.redis.client() as client:
        client.flushdb()

    master(switch).start()
    switch.wait_for(lambda: switch.pending == "", "the queue is empty")
    labels = switch.master.labels
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
    switch.daemon.kill9()
    master(switch).thaw_api()
    switch.daemon.start()
    switch.wait_for(lambda: switch.master.labels.get("c") == "3", "the queue is sent")
    # The feature's label is asked for anew, where the file did not have it yet.
    switch.wait_for(lambda: switch.master.label_of("snmp") == "true", "and the feature's label")
    labels = switch.master.labels
    assert (labels.get("a"), labels.get("b")) == (None, "2")
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
    switch.daemon.kill9()
    switch.daemon.start()
    assert stopping.wait(LIMIT_S) == 0
    assert switch.running("snmp") == []
    assert waiter.wait(LIMIT_S) in (0, 137)
    switch.wait_for(lambda: not switch.kubelet_runs, "no kubelet while a label has failed")
    switch.wait_for(lambda: switch.pending == "snmp_enabled-", "the queue as STATE_DB tells it")
    master(switch).start()
    switch.wait_for(lambda: switch.kubelet_runs and switch.pending == "", "queue empty, kubelet as ruled")
    assert switch.master.label_of("snmp") == ""
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


def test_the_node_is_the_one_of_the_kubelets_credential_whatever_the_host_is_called_now(
    kube_switches: MakeSwitch,
) -> None:
    """The daemon has started under the name of a new image, or the host was renamed after the join."""
    switch = kube_switches(settings={"kube": {"node_name": "sonic"}})
    joined(switch)
    assert switch.ask("label", "rack=7")[0] == 0
    switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the label is on the own Node")
    switch.wait_for(
        lambda: json.loads(switch.ask("cluster")[1][0])["node_exists"], "the watch shows the Node"
    )
    told = json.loads(switch.ask("cluster")[1][0])
    assert told["node"] == master(switch).node
    assert "config kube join -f" in told["renamed"]
    assert len(switch.log("node_renamed")) == 1
    switch.until_told("'sonic'", "doctor")
    switch.until_told("join -f", "doctor")


class DenyTier(http.server.BaseHTTPRequestHandler):
    """An admission webhook: no Node may have a label `tier`."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        denied = "tier" in (review["request"]["object"]["metadata"].get("labels") or {})
        answer: dict[str, object] = {"uid": review["request"]["uid"], "allowed": not denied}
        if denied:
            answer["status"] = {"code": 403, "message": "no tier in this cluster"}
        body = json.dumps({**review, "request": None, "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@contextlib.contextmanager
def tier_denied(switch: Switch, authority: Authority) -> Iterator[None]:
    """The master asks a webhook about every change of a Node, from when this is entered."""
    pair = authority.issue("webhook", "webhook", server=True)
    with HttpsServer(DenyTier, pair) as server:
        client = {"url": f"https://{server.where}/", "caBundle": base64.b64encode(authority.pem).decode()}
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["nodes"], "operations": ["UPDATE"]}
        webhook = {
            "name": "labels.example.org",
            "clientConfig": client,
            "rules": [rule],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
        }
        config = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "labels"},
            "webhooks": [webhook],
        }
        switch.master.call("post", WEBHOOKS, config)
        try:
            switch.wait_for(lambda: denies_tier(switch), "the API server has read the webhook")
            yield
        finally:
            switch.master.call("delete", f"{WEBHOOKS}/labels")


def denies_tier(switch: Switch) -> bool:
    """Whether the master refuses the label, by a change that it only tries."""
    tried = {"metadata": {"labels": {"tier": "tried"}}}
    try:
        switch.master.call("patch", f"{NODES}/{master(switch).node}?dryRun=All", tried)
    except KubeError as error:
        return "no tier in this cluster" in str(error)
    return False


@pytest.mark.real("kubelet")
def test_a_label_that_an_admission_webhook_denies_is_refused_by_name_and_the_others_go(
    kubelet_real: RealKubelet, new_switch: MakeSwitch
) -> None:
    """Labels given before the join are in the first PATCH; what describes the switch is not the operator's."""
    kubelet_real.cluster.start_kubelet(kubelet_real.docker_socket)
    # A command waits for the answer, however slow it is.
    switch = new_switch(
        kubelet_real.docker, RealMaster(kubelet_real.cluster), timing={"label_wait_s": ANSWER_S}
    )
    for early in ("rack=7", "slot=1", "tier=x"):
        code, said = switch.ask("label", early)
        assert (code, said[0][:6]) == (0, "queued")
    assert switch.ask("label", "hwsku=MINE")[0] == 64
    refused = switch.kubesync("config", "kube", "label", "add", "hwsku", "MINE")
    assert refused.returncode == 64
    assert "follows hwsku of DEVICE_METADATA" in refused.stderr
    with tier_denied(switch, kubelet_real.cluster.authority):
        joined(switch)
        switch.wait_for(lambda: switch.log("label_rejected"), "it is refused by name")
        assert switch.log("label_rejected")[0]["label"] == "tier"
        assert "no tier in this cluster" in switch.log("label_rejected")[0]["why"]
        switch.wait_for(lambda: switch.pending == "", "nothing waits")
        assert (switch.master.labels["rack"], switch.master.labels["slot"]) == ("7", "1")
        assert switch.kubelet_runs
        again = switch.kubesync("config", "kube", "label", "add", "tier", "y")
        assert again.returncode != 0
        assert "no tier in this cluster" in again.stderr
        assert "join -f" not in again.stderr
        switch.until_told("tier was refused", "doctor")
        assert switch.kubelet_runs
        assert not [call for call in switch.units.calls if call.startswith("disable")]


def test_a_feature_s_label_that_another_client_keeps_removing_is_contested(kube_switch: Switch) -> None:
    """It is put back with growing delays, and one alert says so; a rewritten FEATURE row changes nothing at all."""
    switch = kube_switch
    handed_over(switch)
    sent = len(patches(switch))
    row = switch.config_db.hgetall("FEATURE|snmp")
    # Redis keeps the time between them: a row that is missing for 1 s is removed.
    with switch.config_db.pipeline(transaction=False) as rewrite:
        rewrite.delete("FEATURE|snmp")
        rewrite.blpop(["nothing"], timeout=0.2)
        rewrite.hset("FEATURE|snmp", mapping=row)
        rewrite.execute()
    time.sleep(QUIET_S + 1.5)
    assert patches(switch)[sent:] == [], "the label was neither taken off nor put on"
    remove = {"metadata": {"labels": {"snmp_enabled": None}}}
    until = time.monotonic() + 25.0
    while time.monotonic() < until:
        if switch.master.label_of("snmp") == "true":
            switch.master.call("patch", f"{NODES}/{master(switch).node}", remove)
        time.sleep(0.1)
    put_back = [patch for patch in patches(switch)[sent:] if "snmp_enabled" in str(patch["labels"])]
    assert 3 <= len(put_back) <= 8, "not one a second"
    switch.wait_for(lambda: switch.log("label_contested"), "one alert")
    switch.until_told("another client changes the label snmp_enabled", "explain", "snmp")
    switch.wait_for(lambda: switch.master.label_of("snmp") == "true", "and it comes back when left alone")
    assert len(switch.log("label_contested")) == 1


@pytest.mark.slow("the kubelet is given a minute to register the node by itself")
def test_a_deleted_node_is_registered_again_with_every_label_that_is_wished(
    kube_switches: MakeSwitch,
) -> None:
    switch = kube_switches()
    handed_over(joined_switch(switch))
    assert switch.ask("label", "rack=7")[0] == 0
    switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the label is on the Node")
    switch.master.call("delete", f"{NODES}/{master(switch).node}")
    switch.wait_for(lambda: switch.log("node_gone"), "one alert")
    assert "was deleted on the master" in switch.log("node_gone")[0]["why"]
    switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the Node is back, with the label")
    switch.wait_for(lambda: switch.master.label_of("snmp") == "true", "and with the feature's")
    restarts = [call for call in switch.units.calls if call == "restart --no-block kubelet.service"]
    assert restarts, "the kubelet was restarted"
    switch.wait_for(lambda: json.loads(switch.ask("cluster")[1][0])["node_gone"] == "", "it is over")
    assert len(switch.log("node_gone")) == 1


@pytest.mark.real("kubelet")
@pytest.mark.slow("etcd is restored from a copy")
def test_a_master_restored_from_a_backup_gets_the_labels_that_it_has_lost(
    kubelet_real: RealKubelet, new_switch: MakeSwitch
) -> None:
    cluster = kubelet_real.cluster
    cluster.start_kubelet(kubelet_real.docker_socket)
    switch = joined_switch(new_switch(kubelet_real.docker, RealMaster(cluster)))
    cluster.stop(API_SERVER, "etcd")
    shutil.copytree(cluster.folder / "etcd-data", switch.folder / "backup")
    cluster.start()
    assert switch.ask("label", "rack=7")[0] == 0
    switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the label is on the Node")
    switch.wait_for(lambda: any("rack" in patch["labels"] for patch in patches(switch)), "and acknowledged")
    cluster.kill(API_SERVER)
    cluster.stop("etcd")
    shutil.rmtree(cluster.folder / "etcd-data")
    shutil.copytree(switch.folder / "backup", cluster.folder / "etcd-data")
    cluster.start()
    switch.wait_for(lambda: switch.log("labels_wished_again"), "the switch notices the older store")
    switch.wait_for(lambda: switch.master.labels.get("rack") == "7", "the label is there again")


def joined_switch(switch: Switch) -> Switch:
    """The same switch, once it has joined."""
    joined(switch)
    return switch


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
        switch.wait_for(lambda: not switch.kubelet_runs, "no kubelet while a label has failed")
        switch.wait_for(lambda: switch.connected == "False", "the silence noticed")
        code, said = switch.ask("label", "rack=7")
        assert (code, said[0][:6]) == (0, "queued")
        switch.wait_for(lambda: switch.pending == "snmp_enabled-,rack=7", "both wait")
    switch.wait_for(
        lambda: switch.master.label_of("snmp") == "" and switch.pending == "", "the labels follow"
    )
    assert switch.master.labels["rack"] == "7"
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
    calls, sent = switch.units.calls, patches(switch)
    version = _labels_version(switch)
    for restart in (switch.daemon.kill9, switch.daemon.stop):
        actions = len(switch.log("action"))
        restart()
        switch.daemon.start()
        switch.until_state("snmp", "KUBE_RUNNING")
        switch.wait_for(lambda: switch.connected == "True", "connected")
        time.sleep(QUIET_S)
        assert len(switch.log("action")) == actions, switch.told()
    assert started_at(switch, "snmp") + started_at(switch, "lldp") == started
    assert (switch.units.calls, patches(switch)) == (calls, sent)
    assert _labels_version(switch) == version
    assert waiting(waiters)


def test_s2_a_restart_of_the_daemon_during_an_outage_leaves_running_pods_alone(
    lab_kube_switch: Switch,
) -> None:
    switch = lab_kube_switch
    kube = handed_over(switch)
    started, calls = started_at(switch, "snmp"), switch.units.calls
    down(switch)
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    time.sleep(2 * QUIET_S)
    master(switch).start()
    switch.wait_for(lambda: switch.connected == "True", "connected")
    assert switch.row("snmp")["docker_id"] == kube
    assert (started_at(switch, "snmp"), switch.units.calls) == (started, calls)


def test_a_label_removed_by_another_client_is_set_again(lab_kube_switch: Switch) -> None:
    switch = lab_kube_switch
    handed_over(switch)
    taken = {"metadata": {"labels": {"snmp_enabled": None}}}
    switch.master.call("patch", f"{NODES}/{master(switch).node}", taken)
    switch.wait_for(lambda: switch.master.label_of("snmp") == "true", "the label is back")
    switch.wait_for(lambda: switch.log("labels_drifted"), "and the drift was told")
    switch.until_state("snmp", "KUBE_RUNNING")


@pytest.mark.upstream("ctrmgrd/labels-retried", "differs")
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
    actions, sent, calls = len(switch.log("action")), patches(switch), switch.units.calls
    version = _labels_version(switch)
    time.sleep(2 * QUIET_S)
    assert len(switch.log("action")) == actions, switch.told()
    assert (patches(switch), switch.units.calls, _labels_version(switch)) == (sent, calls, version)
    assert switch.row("snmp")["docker_id"] == kube
    assert switch.master.labels["rack"] == "7"


def test_l3_while_the_master_is_away_from_the_start_the_local_container_runs_in_time(
    lab_kube_switches: MakeSwitch,
) -> None:
    switch = lab_kube_switches(timing={"fallback_after_s": 2.0})
    joined(switch)
    switch.add_service("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    down(switch)
    switch.units.call("start", "snmp.service")
    switch.until_state("snmp", "LOCAL")
    switch.wait_for(lambda: switch.pending == "snmp_enabled=true", "the label is queued")
    master(switch).start()
    switch.master.deploy("snmp")
    until_kube(switch, "snmp", "local", "kube")

    switch.master.forget("snmp")
    switch.until_state("snmp", "KUBE_READY", "LOCAL")
    switch.until_state("snmp", "LOCAL")
    assert switch.master.label_of("snmp") == "true", "kube may take over later"


def test_s7_a_pod_that_comes_while_the_unit_is_down_is_blocked_and_ended(kube_switch: Switch) -> None:
    switch = kube_switch
    handed_over(switch)
    switch.done("stop", "snmp")
    switch.master.call(
        "patch", f"{NODES}/{master(switch).node}", {"metadata": {"labels": {"snmp_enabled": "true"}}}
    )
    switch.wait_for(lambda: switch.master.label_of("snmp") == "", "the label is taken away again")
    switch.wait_for(lambda: switch.running("snmp") == [], "and the pod with it")
    switch.until_ups("snmp", "local", "kube")
    assert switch.state("snmp") == "INIT"


def test_a_bad_label_is_refused_by_name_and_blocks_no_other(kube_switches: MakeSwitch) -> None:
    switch = kube_switches(timing={"label_wait_s": ANSWER_S})
    joined(switch)
    for bad in ("key=with space", "key=" + "x" * 64, "-bad=1", "a/b/c=1"):
        reply = switch.daemon.raw(f"1\0label\0{bad}\n".encode()).decode()
        assert reply.splitlines()[-1] == "R 64", reply
    reply = switch.daemon.raw(b"1\0label\0kubernetes.io/role=spine\n").decode()
    assert reply.splitlines()[-1] in ("R 1", "R 64"), reply
    assert "kubernetes.io/role" in reply
    assert switch.ask("label", "rack=9")[0] == 0
    switch.wait_for(lambda: switch.master.labels.get("rack") == "9", "the good one is applied")
    assert switch.kubelet_runs


def _labels_version(switch: Switch) -> dict[str, str]:
    return switch.master.labels


@pytest.fixture
def real_switch(kubelet_real: RealKubelet, new_switch: MakeSwitch) -> Iterator[Switch]:
    """A switch whose master judges its Node: the stand-in has neither taints nor heartbeats."""
    kubelet_real.cluster.start_kubelet(kubelet_real.docker_socket)
    kube = RealMaster(kubelet_real.cluster)
    switch = new_switch(
        kubelet_real.docker, kube, timing={"fallback_after_s": 600.0, "node_not_ready_s": 1.0}
    )
    joined(switch)
    try:
        yield switch
    finally:
        judge(switch, {"taints": None, "unschedulable": None})


def judge(switch: Switch, spec: dict[str, object]) -> None:
    switch.master.call("patch", f"{NODES}/{master(switch).node}", {"spec": spec})


def says(switch: Switch, words: str) -> None:
    """Every view says so."""
    for command in (("explain", "snmp"), ("doctor",), ("show", "kubernetes", "status")):
        switch.until_told(words, *command)


@pytest.mark.real("kubelet")
@pytest.mark.slow("the master waits 40 s for a heartbeat before a Node is not ready")
@pytest.mark.upstream("kube_commands/node-ready", "differs")
def test_the_node_s_own_state_is_told_and_with_fallback_the_local_container_returns_at_once(
    real_switch: Switch, kubelet_real: RealKubelet
) -> None:
    switch = real_switch
    switch.boot_local("snmp")
    manifest = switch.master.daemonset("snmp")
    del manifest["spec"]["template"]["spec"]["tolerations"]
    switch.master.forget("snmp")
    switch.master.call("post", DAEMONSETS, manifest)
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.until_state("snmp", "KUBE_RUNNING")

    judge(switch, {"unschedulable": True})
    for command in (("doctor",), ("show", "kubernetes", "status")):
        switch.until_told("cordoned", *command)
    assert switch.state("snmp") == "KUBE_RUNNING"
    judge(switch, {"unschedulable": None})

    judge(switch, {"taints": [{"key": "maintenance", "effect": "NoExecute"}]})
    switch.until_state("snmp", "LOCAL")
    says(switch, "the Node has the taint maintenance:NoExecute")
    judge(switch, {"taints": None})
    switch.until_state("snmp", "KUBE_RUNNING")

    (kube,) = switch.running("snmp")
    kubelet_real.cluster.freeze("kubelet")
    try:
        switch.until_told("is not ready", "doctor")
        assert switch.state("snmp") == "KUBE_RUNNING", "its container runs on"
        switch.docker.do("kill", kube)
        switch.until_state("snmp", "LOCAL")
        says(switch, "the Node is not ready (NodeStatusUnknown")
    finally:
        kubelet_real.cluster.thaw("kubelet")
    switch.until_told("yes, ready", "show", "kubernetes", "status")
