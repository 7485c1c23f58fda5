"""Check the operators' story at their terminal, on the lab's engines and the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.system.switch_fixtures import joined
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch


def kubesync(switch: Switch, line: str) -> subprocess.CompletedProcess[str]:
    """`kubesync <line>` on this switch, as a process."""
    command = [sys.executable, "-m", "kubesyncd.cli", *line.split()]
    environ = {**os.environ, **switch.clients.environment, "KUBESYNCD_CONFIG": str(settings_of(switch))}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def settings_of(switch: Switch) -> Path:
    """The daemon's settings; beside them, where the operator finds admin.conf."""
    daemons, operators = switch.folder / "kubesyncd.toml", switch.folder / "operator.toml"
    text = daemons.read_text()
    if switch.kube is not None:
        text = text.replace("[kube]\n", f'[kube]\nadmin_conf = "{switch.kube.admin_conf}"\n')
    operators.write_text(text)
    return operators


def shows(switch: Switch, line: str) -> str:
    """What a command prints that must succeed."""
    ended = kubesync(switch, line)
    assert ended.returncode == 0, f"kubesync {line}: {ended}\n{switch.told()}"
    return ended.stdout


def told(switch: Switch, line: str) -> Any:
    """The same as JSON."""
    return json.loads(shows(switch, f"{line} --json"))


def test_an_operator_moves_a_feature_to_kube_and_back_and_sees_why(kube_switch: Switch) -> None:
    switch = kube_switch
    switch.boot_local("snmp")
    switch.master.deploy("snmp")
    said = shows(switch, "config feature snmp owner kube fallback true -y")
    assert said.startswith("snmp is running locally and will be replaced when kube deploys\n")
    switch.until_state("snmp", "KUBE_RUNNING")
    assert "KUBE_RUNNING" in shows(switch, "show feature")
    found = told(switch, "explain snmp")
    ways = [(change["from"], change["to"]) for change in found["history"]]
    assert ("LOCAL", "LOCAL_TO_KUBE") in ways
    assert ways[-1][1] == "KUBE_RUNNING"
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    assert told(switch, "explain snmp")["history"] == found["history"]
    assert told(switch, "show feature snmp")["state_db"]["current_owner"] == "kube"
    assert "KUBE_RUNNING" in shows(switch, f"timeline snmp --svg {switch.folder}/t.svg") + shows(
        switch, "timeline snmp"
    )
    assert shows(switch, "config feature snmp owner local -y").startswith(
        "snmp is run by kube: its kube container"
    )
    switch.until_state("snmp", "LOCAL")


def test_an_operator_sees_the_cluster_and_its_labels(kube_switches: MakeSwitch) -> None:
    # Time enough for a busy master to take a label.
    switch = kube_switches(timing={"label_wait_s": 30.0})
    joined(switch)
    assert switch.kube is not None
    switch.boot_local("lldp")
    switch.master.deploy("lldp")
    shows(switch, "config feature lldp owner kube -y")
    switch.until_state("lldp", "KUBE_RUNNING")
    nodes = told(switch, "show kubernetes nodes")
    assert switch.kube.node in [node["name"] for node in nodes]
    pods = told(switch, "show kubernetes pods --here")
    assert [pod for pod in pods if pod["name"].startswith("lldp") and pod["node"] == switch.kube.node]
    assert len(told(switch, "show kubernetes pods")) >= len(pods)
    assert shows(switch, "config kube label add rack a7") == "rack=a7: applied\n"
    assert told(switch, "show kubernetes labels")["applied"]["rack"] == "a7"
    switch.wait_for(lambda: switch.master.labels.get("rack") == "a7", "the label on the Node")
    status = told(switch, "show kubernetes status")
    assert (status["joined"], status["connected"], status["kubelet"]) == (True, True, True)


def test_an_operator_whose_master_is_unreachable_is_informed_and_loses_no_label(kube_switch: Switch) -> None:
    switch = kube_switch
    assert switch.kube is not None
    switch.kube.stop_api()
    switch.wait_for(lambda: switch.connected == "False", "the master is seen to be away")
    ended = kubesync(switch, "show kubernetes nodes")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (69, "", 1)
    said = shows(switch, "config kube label add rack b1")
    assert said.startswith("rack=b1: queued (")
    assert "1 pending" in said
    switch.wait_for(lambda: not switch.kubelet_runs, "the kubelet is stopped")
    findings = {
        finding["subject"]: finding for finding in json.loads(kubesync(switch, "doctor --json").stdout)
    }
    assert findings["master"]["grade"] == "FAIL"
    assert findings["labels"]["fix"] == "see: kubesync show kubernetes labels"
    switch.kube.start()
    switch.wait_for(lambda: switch.master.labels.get("rack") == "b1", "the label reaches the master")


def test_a_doctor_finds_nothing_wrong_with_a_good_switch(kube_switch: Switch) -> None:
    kube_switch.boot_local("snmp")
    found = []

    def well() -> bool:
        # Its kubelet has just started: the Node may be ready from before, and not for the next seconds.
        found.append(kubesync(kube_switch, "doctor"))
        return found[-1].returncode == 0

    kube_switch.wait_for(well, "a clean bill of health")
    said = found[-1].stdout
    assert "FAIL" not in said
    for subject in ("daemon", "redis", "events", "docker", "master", "kubelet", "certificate", "clock"):
        assert f" {subject} " in said


def test_a_switch_without_a_master_is_an_operators_too(switch: Switch) -> None:
    switch.boot_local("snmp")
    assert told(switch, "explain snmp")["waits_for"] == "nothing"
    said = kubesync(switch, "show kubernetes nodes")
    assert (said.returncode, "no master is configured" in said.stderr) == (1, True)
    kept = kubesync(switch, "config kube label add rack a7")
    assert (kept.returncode, kept.stderr) == (0, "")
    refused = kubesync(switch, "config kube label add hwsku MINE")
    assert (refused.returncode, refused.stderr.count("\n")) == (64, 1)
    assert shows(switch, "doctor").count("none configured") == 1
    switch.daemon.stop()
    ended = kubesync(switch, "show feature")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (69, "", 1)


def test_what_the_daemon_tells_is_what_the_stub_tells(switch: Switch) -> None:
    from tests.lab import stub_daemon

    switch.boot_local("snmp")
    real = switch.shown("snmp")
    stub = stub_daemon.feature("snmp", stub_daemon.State.LOCAL, "x")
    assert set(stub) <= set(real)
    assert set(stub["config"]) <= set(real["config"])
    assert set(stub_daemon.container("local", "x")) <= set(real["containers"][0])
    _, lines = switch.ask("cluster")
    assert set(stub_daemon.cluster()) <= set(json.loads(lines[0]))
