"""Check that a feature moves between switch and Kubernetes without a restart of its unit, under systemd."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab import system_health as lab
from tests.system.installed_fixtures import (
    add_feature,
    install,
    journal,
    on_every_suite,
    redis,
    remove_feature,
    row,
    running,
)
from tests.system.installed_kube import KUBELET_UNIT, Master

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.installed_fixtures import Packages
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")


@pytest.fixture
def master(installed: InstalledSwitch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    with Master(installed, tmp_path_factory.mktemp("master")) as master:
        yield master


@pytest.fixture
def lldp(installed: InstalledSwitch, master: Master) -> Iterator[InstalledSwitch]:
    """The switch, with a feature lldp that may be run by either."""
    add_feature(installed, "lldp", set_owner="local")
    installed.wait_for(lambda: row(installed, "lldp").get("current_owner") == "local", "lldp runs locally")
    yield installed
    remove_feature(installed, "lldp")


def owner(switch: InstalledSwitch, wanted: str) -> None:
    redis(switch, 4, "hset", "FEATURE|lldp", "set_owner", wanted)


def owned_by(switch: InstalledSwitch, who: str) -> None:
    switch.wait_for(lambda: row(switch, "lldp").get("current_owner") == who, f"lldp is owned by {who}")


def unlabelled(switch: InstalledSwitch, master: Master) -> None:
    switch.wait_for(lambda: "lldp_enabled" not in (master.labels() or {}), "the label is off")


def unit(switch: InstalledSwitch) -> tuple[str, str]:
    return switch.show("lldp", "NRestarts"), switch.show("lldp", "MainPID")


@on_every_suite
def test_hand_over_both_ways_leaves_the_unit_alone(lldp: InstalledSwitch, master: Master) -> None:
    before = unit(lldp)
    master.deploy("lldp")
    owner(lldp, "kube")
    owned_by(lldp, "kube")
    assert not running(lldp, "lldp")
    assert "true" in lldp.run("container", "inspect", "-f", "{{.State.Running}}", "lldp", user="admin")
    assert lldp.run("container", "exec", "lldp", "echo", "in a pod") == "in a pod"

    owner(lldp, "local")
    owned_by(lldp, "local")
    assert running(lldp, "lldp")
    unlabelled(lldp, master)
    assert unit(lldp) == before
    assert lldp.show("lldp", "Result") == "success"


@on_every_suite
def test_an_upgrade_leaves_a_feature_of_kubernetes_alone(
    lldp: InstalledSwitch, master: Master, packages: Callable[[str], Packages]
) -> None:
    master.deploy("lldp")
    owner(lldp, "kube")
    owned_by(lldp, "kube")
    before, kube = unit(lldp), row(lldp, "lldp")["docker_id"]
    runs = ("docker", "inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", kube)
    started = lldp.run(*runs)
    for version in ("0.9.0~test", ""):
        daemon = lldp.show("kubesyncd", "MainPID")
        install(lldp, packages(version))
        lldp.wait_for(lambda: lldp.show("kubesyncd", "ActiveState") == "active", "the daemon runs")
        assert lldp.show("kubesyncd", "MainPID") != daemon
        assert lldp.run("container", "id", "lldp") == kube
        state = lldp.run("container", "state", "lldp")
        assert "state=KUBE_RUNNING" in state, state
    assert (unit(lldp), lldp.run(*runs)) == (before, started)
    assert not running(lldp, "lldp")
    assert (master.labels() or {})["lldp_enabled"] == "true"

    owner(lldp, "local")
    owned_by(lldp, "local")
    assert unit(lldp) == before, "its waiter has met the new daemon"


FAILING = (
    "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1\n[Install]\nWantedBy=multi-user.target\n"
)


def test_a_kubelet_that_fails_or_is_masked_is_told_while_it_lasts(
    installed: InstalledSwitch, master: Master
) -> None:
    def told(words: str) -> bool:
        # The daemon looks at each audit, and when the configuration changes.
        redis(installed, 4, "hset", "KUBERNETES_MASTER|SERVER", "disable", "False")
        shown = (
            " ".join(installed.process("kubesync", *command).stdout.split())
            for command in (("show", "kubernetes", "status"), ("doctor",))
        )
        return all(words in each for each in shown)

    installed.write("/usr/lib/systemd/system/kubelet.service", FAILING)
    installed.run("rm", "/etc/systemd/system/kubelet.service")
    try:
        installed.run("systemctl", "daemon-reload")
        installed.process("systemctl", "restart", "kubelet")
        installed.wait_for(lambda: told("kubelet.service ends by itself (exit-code)"), "it fails")
        installed.run("systemctl", "mask", "--now", "kubelet")
        installed.wait_for(lambda: told("run: systemctl unmask kubelet.service"), "it is masked")
    finally:
        installed.process("systemctl", "unmask", "kubelet")
        installed.run("rm", "/usr/lib/systemd/system/kubelet.service")
        installed.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT)
        installed.run("systemctl", "daemon-reload")


def test_the_status_line_says_what_is_waited_for(lldp: InstalledSwitch, master: Master) -> None:
    lldp.run("systemctl", "stop", "lldp")
    owner(lldp, "kube")
    lldp.run("systemctl", "start", "lldp")
    lldp.wait_for(lambda: "waiting for kube deployment" in lldp.run("systemctl", "status", "lldp"), "status")
    assert not running(lldp, "lldp")

    master.deploy("lldp")
    owned_by(lldp, "kube")
    lldp.wait_for(lambda: "waiting" not in lldp.show("lldp", "StatusText"), "status follows")
    lldp.run("systemctl", "stop", "lldp")
    assert row(lldp, "lldp")["current_owner"] == "none"
    unlabelled(lldp, master)


def test_a_kube_feature_stops_while_the_master_is_away(lldp: InstalledSwitch, master: Master) -> None:
    master.deploy("lldp")
    owner(lldp, "kube")
    owned_by(lldp, "kube")
    lldp.wait_for(lambda: lldp.show("kubelet", "ActiveState") == "active", "the kubelet runs")
    kube = row(lldp, "lldp")["docker_id"]

    master.stop_api()
    lldp.run("systemctl", "stop", "lldp")
    assert row(lldp, "lldp")["system_state"] == "down"
    assert lldp.process("docker", "inspect", "-f", "{{.State.Running}}", kube).stdout.strip() != "true"
    # The stop does not wait for a slow systemd for ever.
    off = ["inactive", "disabled"]
    lldp.wait_for(
        lambda: [lldp.show("kubelet", what) for what in ("ActiveState", "UnitFileState")] == off,
        "the kubelet is off",
    )

    master.start_api()
    lldp.wait_for(lambda: lldp.show("kubelet", "ActiveState") == "active", "the kubelet runs again")
    assert "lldp_enabled" not in (master.labels() or {})


def test_a_daemon_killed_in_a_hand_over_finishes_it(lldp: InstalledSwitch, master: Master) -> None:
    before = unit(lldp)
    master.deploy("lldp")
    for wanted, who in (("kube", "kube"), ("local", "local")):
        owner(lldp, wanted)
        lldp.run("systemctl", "kill", "--signal=KILL", "kubesyncd")
        owned_by(lldp, who)
    assert unit(lldp) == before


def config_names(switch: InstalledSwitch) -> dict[str, str]:
    """The fields of lldp's row in CONFIG_DB."""
    words = redis(switch, 4, "hgetall", "FEATURE|lldp").split("\n")
    return dict(zip(words[::2], words[1::2], strict=False))


def reported(switch: InstalledSwitch) -> set[str]:
    """What SONiC's container_checker reports: enabled features that neither Docker nor STATE_DB has as running."""
    features = [key.removeprefix("FEATURE|") for key in redis(switch, 4, "keys", "FEATURE|*").split()]
    expected = {
        name
        for name in features
        if redis(switch, 4, "hget", f"FEATURE|{name}", "state") not in ("disabled", "always_disabled")
    }
    by_docker = set(switch.run("docker", "ps", "--format", "{{.Names}}").split())
    return expected - by_docker - {name for name in features if row(switch, name).get("container_id")}


SYSTEM_HEALTH = "[Service]\nType=oneshot\nEnvironment=PYTHONPATH=/opt/lab\nExecStart=/usr/local/bin/healthd\n"
DB_CLI = '#!/bin/sh\n[ "$1" = STATE_DB ] && shift && exec redis-cli -s /run/redis/redis.sock -n 6 "$@"\n'


@pytest.fixture
def system_health(installed: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The switch with what stands for SONiC's system-health daemon; each start of its unit is one look at lldp."""
    lab.package(installed.root / "opt/lab")
    program = lab.healthd(json.dumps({"lldp": {"state": "enabled"}}))
    installed.write("/usr/local/bin/healthd", f"#!/usr/bin/python3\n{program}", mode=0o755)
    installed.write("/usr/local/bin/sonic-db-cli", DB_CLI, mode=0o755)
    installed.write("/lib/systemd/system/system-health.service", SYSTEM_HEALTH)
    installed.run("systemctl", "daemon-reload")
    yield installed
    files = (
        "/usr/local/bin/healthd",
        "/usr/local/bin/sonic-db-cli",
        "/lib/systemd/system/system-health.service",
    )
    installed.run("rm", "-rf", "/opt/lab", *files)
    installed.run("systemctl", "daemon-reload")


def unhealthy(switch: InstalledSwitch) -> list[str]:
    """What the program of SONiC's unit says when it looks: ours, by the drop-in."""
    program = re.search(r"path=(\S+)", switch.show("system-health", "ExecStart"))
    assert program is not None
    return switch.run("env", "PYTHONPATH=/opt/lab", program[1]).splitlines()


def test_system_health_finds_a_feature_that_kubernetes_runs(
    system_health: InstalledSwitch, sonic_names: InstalledSwitch, lldp: InstalledSwitch, master: Master
) -> None:
    assert unhealthy(lldp) == []
    redis(lldp, 4, "hset", "FEATURE|lldp", "no_fallback_to_local", "true")
    master.deploy("lldp")
    owner(lldp, "kube")
    owned_by(lldp, "kube")
    assert unhealthy(lldp) == []
    alone = lldp.run("env", "PYTHONPATH=/opt/lab", "/usr/local/bin/healthd")
    assert alone == "Container 'lldp' is not running", "as SONiC's daemon says without the drop-in"
    assert len(lldp.run("container", "id", "lldp")) == 12

    # A package upgrade of SONiC's writes the row again: deleted, then set within 200 ms.
    before = (unit(lldp), row(lldp, "lldp")["container_id"])
    asked = journal(lldp, "kubesyncd").count('"action": "label')
    fields = [word for item in config_names(lldp).items() for word in item]
    for _ in range(3):
        # By one client that runs already: after 1 s without a row the feature counts as removed.
        lines = '{ echo "del $0"; sleep 0.15; echo "hset $0 $*"; }'
        rewrite = f"{lines} | redis-cli -s /run/redis/redis.sock -n 4"
        lldp.run("sh", "-c", rewrite, "FEATURE|lldp", *fields)
        assert (unit(lldp), row(lldp, "lldp")["container_id"]) == before
    assert (master.labels() or {})["lldp_enabled"] == "true"
    assert journal(lldp, "kubesyncd").count('"action": "label') == asked

    master.withdraw("lldp")
    owned_by(lldp, "none")
    assert unhealthy(lldp) == ["Container 'lldp' is not running"], "it waits for its deployment"
    owner(lldp, "local")
    owned_by(lldp, "local")
    assert lldp.run("container", "id", "lldp") == "lldp"

    # As featured does for a feature that is deregistered.
    lldp.run("systemctl", "stop", "lldp")
    redis(lldp, 4, "del", "FEATURE|lldp")
    redis(lldp, 6, "del", "FEATURE|lldp")
    told = ("kubesync", "show", "feature", "lldp", "--json")
    lldp.wait_for(lambda: lldp.succeeds(*told), "the daemon has looked")
    lldp.run("systemctl", "restart", "kubesyncd")
    assert lldp.succeeds(*told)
    assert redis(lldp, 6, "exists", "FEATURE|lldp") == "0", "no row is written back"


def test_sonics_own_tools_read_what_they_expect_in_both_modes(
    sonic_names: InstalledSwitch, lldp: InstalledSwitch, master: Master
) -> None:
    redis(lldp, 4, "hset", "FEATURE|lldp", "state", "enabled")
    redis(lldp, 6, "hset", "FEATURE|lldp", "state", "enabled", "up_status", "true")
    before = unit(lldp)
    assert reported(lldp) == set()

    lldp.run("kubesync", "config", "feature", "lldp", "owner", "kube", "fallback", "false", "-y")
    assert config_names(lldp)["no_fallback_to_local"] == "true"
    master.deploy("lldp")
    owned_by(lldp, "kube")
    said = row(lldp, "lldp")
    assert time.strptime(said.pop("update_time"), "%Y-%m-%d %H:%M:%S")
    assert said.pop("revision").isdigit(), "kubesyncd's own: no tool of SONiC's reads it"
    short_id = said.pop("container_id")
    assert len(short_id) == 12
    assert "k8s_lldp_" in lldp.run("docker", "ps", "--filter", f"id={short_id}", "--format", "{{.Names}}")
    assert said == {
        "system_state": "up",
        "current_owner": "kube",
        "remote_state": "running",
        "state": "enabled",
        "up_status": "true",
    }
    assert reported(lldp) == set()
    assert unit(lldp) == before

    master.withdraw("lldp")
    owned_by(lldp, "none")
    lldp.wait_for(lambda: row(lldp, "lldp")["remote_state"] == "stopped", "it waits for its deployment")
    assert reported(lldp) == {"lldp"}, "it is enabled and does not run"
    lldp.run("systemctl", "stop", "lldp")
    assert row(lldp, "lldp")["remote_state"] == "stopped"
    assert not row(lldp, "lldp")["container_id"]

    lldp.run("kubesync", "config", "feature", "lldp", "fallback", "true", "-y")
    assert "no_fallback_to_local" not in config_names(lldp)
    lldp.run("systemctl", "start", "lldp")
    owned_by(lldp, "local")
    assert row(lldp, "lldp")["container_id"] == "lldp"
    assert reported(lldp) == set()
    assert (row(lldp, "lldp")["state"], row(lldp, "lldp")["up_status"]) == ("enabled", "true")
