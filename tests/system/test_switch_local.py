"""Check a switch's promises without Kubernetes: the daemon, its clients and containers as processes.

Each test runs over the lab's Docker engine and over the real one, with a real Redis. Kube containers are made by
the tests here, as a kubelet would; `test_switch_kube` has masters and kubelets.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.switch_clients import CLIENTS
from tests.system.switch_fixtures import joined
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

QUIET_S = 1.0


def started_at(switch: Switch, feature: str) -> list[str]:
    """When each running container of the feature was started: the same list, nothing was restarted."""
    return [f"{c[:12]} {switch.docker.inspect(c)['State']['StartedAt']}" for c in switch.running(feature)]


def to_kube(switch: Switch, feature: str, number: int = 0, **container: object) -> str:
    """The feature handed over to a kube container; its ID."""
    switch.config(feature, set_owner="kube")
    before = switch.ups(feature)
    container_id = switch.run_kube(feature, number, **container)
    switch.until_row(feature, docker_id=container_id)
    switch.until_state(feature, "KUBE_RUNNING")
    switch.until_ups(feature, *before, "kube")
    return container_id


# ---- verbs ----------------------------------------------------------------------------------------


@pytest.mark.story
def test_every_verb_does_its_work_on_a_local_feature(switch: Switch) -> None:
    container_id = switch.boot_local("snmp")
    row = switch.row("snmp")
    assert int(row.pop("current_owner_update_ts")) > 1_600_000_000
    assert int(row.pop("revision")) > 0
    assert row == {
        "system_state": "up",
        "current_owner": "local",
        "docker_id": container_id,
        "transition_mode": "none",
    }
    assert switch.container("id", "snmp").stdout.strip() == container_id
    assert "state=LOCAL" in switch.container("state", "snmp").stdout

    before = started_at(switch, "snmp")
    switch.done("start", "snmp")
    assert started_at(switch, "snmp") == before

    switch.done("stop", "-t", "5", "snmp")
    assert switch.running("snmp") == []
    row = switch.row("snmp")
    assert (row["system_state"], row["current_owner"]) == ("down", "none")
    assert not row["docker_id"]
    switch.done("stop", "snmp")
    switch.done("kill", "snmp")

    switch.done("start", "snmp")
    switch.done("kill", "snmp")
    assert switch.running("snmp") == []
    assert switch.row("snmp")["system_state"] == "down"
    switch.done("kill", "--no-kubelet-check", "snmp")


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker command to pass through to")
def test_inspect_and_exec_reach_the_owning_container_and_keep_docker_s_options(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    assert switch.container("inspect", "--format", "{{.Id}}", "snmp").stdout.strip() == local
    kube = to_kube(switch, "snmp")
    assert switch.container("inspect", "-f", "{{.Id}}", "snmp").stdout.strip() == kube
    ended = switch.container("exec", "snmp", "sh", "-c", "echo $FEATURE here; exit 7")
    assert (ended.returncode, ended.stdout) == (7, "here\n")
    assert (
        switch.container("exec", "-e", "FEATURE=snmp", "snmp", "sh", "-c", "echo $FEATURE").stdout == "snmp\n"
    )


def test_no_feature_is_made_by_being_named_and_one_that_is_gone_is_forgotten(switches: MakeSwitch) -> None:
    switch = switches(timing={"audit_s": 0.5})
    switch.boot_local("snmp")
    for verb in ("start", "stop", "kill", "wait", "id", "inspect", "state"):
        ended = switch.container(verb, "snmpp")
        assert ended.returncode == 1, (verb, ended)
        assert "no such feature" in ended.stderr, verb
    assert switch.container("state", "snmpp", "up", "local").returncode == 1
    assert switch.container("exec", "snmpp", "true").returncode == 1
    assert [json.loads(line)["feature"] for line in switch.ask("show")[1]] == ["snmp"]
    assert not switch.row("snmpp")
    assert b"snmpp" not in switch.paths.ledger.read_bytes()

    # Without Redis a name without a container is unknown; a container makes a feature by Docker's word alone.
    switch.create_local("bgp")
    switch.redis.stop()
    assert switch.container("start", "snmpp").returncode == 69
    switch.done("stop", "bgp")
    switch.done("stop", "snmp")
    switch.redis.start()
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    switch.config("snmp", set_owner="local")
    switch.until_row("snmp", system_state="down")

    # `id` names what runs; an ended container is still inspected by its name.
    ended = switch.container("id", "snmp")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no container runs" in ended.stderr
    assert switch.container("inspect", "snmp").returncode == 0
    switch.done("start", "snmp")
    assert switch.container("id", "snmp").stdout.strip() == switch.running("snmp")[0]

    # A flush restores the row; `featured`, which deletes both rows, is not contradicted.
    switch.state_db.flushdb()
    switch.until_row("snmp", system_state="up")
    switch.config_db.delete("FEATURE|snmp")
    switch.state_db.delete("FEATURE|snmp")
    switch.done("stop", "snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "INIT")
    time.sleep(QUIET_S)
    assert not switch.row("snmp")
    for feature in ("snmp", "bgp"):
        switch.docker.remove(feature)
        switch.wait_for(lambda name=feature: not switch.shown(name), f"{feature} is forgotten")
        assert not switch.row(feature)
        assert feature.encode() not in switch.paths.ledger.read_bytes()

    # A row whose name no feature can have is told, once.
    for name in ("P4RT", "1st"):
        switch.config(name, set_owner="local")
    switch.wait_for(lambda: any("P4RT" in e["why"] for e in switch.log("feature_names")), "it is told")
    time.sleep(QUIET_S)
    told = [e["alert"] for e in switch.log("feature_names") if "FEATURE|1st, FEATURE|P4RT" in e["why"]]
    assert told == [True]
    switch.until_told("unusable row", "show", "feature")
    switch.until_told("invalid name", "doctor")


def test_a_start_without_a_container_names_the_unit_s_script(switch: Switch) -> None:
    switch.config("snmp", set_owner="local")
    ended = switch.container("start", "snmp")
    assert ended.returncode == 1
    assert ended.stderr.startswith("container: snmp: ")
    assert "unit's script" in ended.stderr


def test_a_start_finds_the_container_that_its_unit_s_script_has_just_made(switch: Switch) -> None:
    """The request may overtake Docker's event of the new container, and of the old one's end."""
    for number in range(10):
        feature = f"snmp{number}"
        switch.config(feature, set_owner="local")
        switch.create_local(feature)
        switch.done("start", feature)
        switch.done("stop", feature)
        switch.docker.remove(feature)
        container_id = switch.create_local(feature)
        switch.done("start", feature)
        assert switch.running(feature) == [container_id]
        switch.done("kill", feature)


def test_a_newer_verb_overtakes_an_older_one(switch: Switch) -> None:
    deaf = switch.paths.marks / "deaf"
    stubborn = ["/bin/sh", "-c", f"trap '' TERM; echo >{deaf}; while :; do sleep 0.1; done"]
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", command=stubborn)
    switch.done("start", "snmp")
    switch.wait_for(deaf.exists, "no stop ends it any more")
    stopping = switch.spawn("stop", "-t", "60", "snmp")
    switch.until_state("snmp", "INIT")
    switch.done("kill", "snmp")
    assert stopping.wait(LIMIT_S) == 1
    assert "superseded" in (stopping.stderr.read() if stopping.stderr else "")
    assert switch.running("snmp") == []


# ---- S9: a container speaks only for itself -------------------------------------------------------


def test_the_daemon_reports_its_resources_and_releases_them(switch: Switch) -> None:
    switch.boot_local("snmp")
    at_rest = held_at_rest(switch)
    assert (at_rest["features"], at_rest["connections"]["host"]) == (1, 1), "who asks is one of them"
    waiters = [switch.spawn("wait", "snmp") for _ in range(5)]
    switch.wait_for(lambda: held(switch)["connections"]["host"] == 6, "five wait")
    assert held(switch)["tasks"] >= at_rest["tasks"] + 5
    switch.done("stop", "-t", "60", "snmp")
    assert [waiter.wait(LIMIT_S) for waiter in waiters] == [0] * 5
    switch.wait_for(lambda: held(switch) == at_rest, "nothing is left of them")


def held(switch: Switch) -> dict[str, Any]:
    """What the daemon says that it holds."""
    _, lines = switch.ask("resources")
    return dict(json.loads(lines[0]))


def held_at_rest(switch: Switch) -> dict[str, Any]:
    """The same, once no look is under way any more: ten times in a row it is the same."""
    seen = [held(switch)]

    def at_rest() -> bool:
        seen.append(held(switch))
        return len(seen) > 10 and all(each == seen[-1] for each in seen[-10:])

    switch.wait_for(at_rest, "nothing comes and goes")
    return seen[-1]


def test_s9_a_container_is_known_by_its_cgroup_and_speaks_only_for_its_own_feature(switch: Switch) -> None:
    said = switch.paths.marks / "said"
    asks = "; ".join(
        f"{CLIENTS}/container state {words}; echo $? >>{said}"
        for words in ("lldp up local", "lldp down", "snmp up kube", "snmp up local", "snmp down")
    )
    lldp = switch.boot_local("lldp")
    switch.config("snmp", set_owner="local")
    container_id = switch.create_local("snmp", command=["/bin/sh", "-c", f"{asks}; sleep 1000"])
    switch.done("start", "snmp")
    switch.wait_for(lambda: said.exists() and len(said.read_text().split()) == 5, "five answers")
    assert said.read_text().split() == ["77", "77", "77", "0", "0"]
    refused = switch.log("refused", container=container_id)
    assert len(refused) == 3
    assert "belongs to snmp" in refused[0]["why"]
    assert switch.running("lldp") == [lldp]
    assert switch.state("lldp") == "LOCAL"
    switch.done("kill", "snmp")


def test_s9_a_container_cannot_use_the_host_socket(switch: Switch) -> None:
    """Where an operator mounts it: a peer in a container is refused there, whatever it asks."""
    said = switch.paths.marks / "said"
    ask = f"KUBESYNCD_HOST_SOCK={switch.paths.marks}/host.sock {CLIENTS}/container stop lldp; echo $? >{said}"
    (switch.paths.marks / "host.sock").hardlink_to(switch.paths.host_sock)
    switch.boot_local("lldp")
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", command=["/bin/sh", "-c", f"{ask}; sleep 1000"])
    switch.done("start", "snmp")
    switch.wait_for(lambda: said.exists() and said.read_text(), "an answer")
    assert said.read_text().split() == ["77"]
    assert switch.state("lldp") == "LOCAL"
    switch.done("kill", "snmp")


# ---- S1, S2, S7: one at a time, a restart is inert, down stays down --------------------------------


def test_s1_a_kube_container_passes_only_after_the_local_one_has_ended(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube")
    kube = switch.run_kube("snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    assert switch.running("snmp") == [kube]
    switch.until_ups("snmp", "local", "kube")
    ended = switch.docker.inspect(local)["State"]["FinishedAt"]
    granted = next(e for e in switch.log("action", feature="snmp") if e["action"].startswith("grant"))
    assert ended[:23] <= granted["timestamp"][:23]
    # The lock that every container holds tells the rest: tests.system.switch_fixtures looks at it.


def test_s1_a_local_container_that_appears_beside_an_admitted_one_is_stopped(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    kube = to_kube(switch, "snmp")
    (switch.paths.marks / "snmp.twice").unlink(missing_ok=True)
    switch.docker.do("start", local)
    switch.wait_for(lambda: switch.running("snmp") == [kube], "only the kube container runs")
    assert switch.state("snmp") == "KUBE_RUNNING"
    # By hand, and so for a moment there were two; nothing of ours let it pass.
    (switch.paths.marks / "snmp.twice").unlink(missing_ok=True)


def test_s1_a_kube_container_without_an_admission_counts_as_nothing(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    blocked = switch.run_kube("snmp")
    switch.wait_for(lambda: switch.shown("snmp")["waiting"] == [blocked], "it asks to pass")
    time.sleep(QUIET_S)
    assert (switch.state("snmp"), switch.row("snmp")["docker_id"]) == ("LOCAL", local)
    switch.until_ups("snmp", "local")

    switch.docker.do("stop", local, t="60")
    assert waiter.wait(LIMIT_S) == 0, "the unit ends although the blocked container runs"
    switch.until_state("snmp", "LOCAL_EXITED")
    switch.until_row("snmp", current_owner="none")
    assert switch.running("snmp") == [blocked]
    switch.until_ups("snmp", "local")
    switch.done("stop", "snmp")
    switch.wait_for(lambda: switch.running("snmp") == [], "stop ends blocked containers too")


def test_s2_a_restart_of_the_daemon_on_a_converged_switch_changes_nothing(switches: MakeSwitch) -> None:
    switch = switches(timing={"audit_s": 0.5})
    switch.boot_local("lldp")
    switch.boot_local("snmp")
    to_kube(switch, "snmp")
    switch.config("bgp", set_owner="local")
    switch.create_local("bgp")
    switch.done("start", "bgp")
    switch.done("stop", "bgp")
    waiter = switch.waits("snmp")
    features = ("lldp", "snmp", "bgp")
    rows = {f: switch.row(f) for f in features}
    started = {f: started_at(switch, f) for f in features}

    for restart in (switch.daemon.kill9, switch.daemon.stop):
        actions = len(switch.log("action"))
        restart()
        switch.daemon.start()
        switch.wait_for(lambda: all(switch.state(f) for f in features), "every feature looked at")
        time.sleep(QUIET_S)
        assert len(switch.log("action")) == actions, switch.told()
    assert {f: switch.row(f) for f in features} == rows
    assert {f: started_at(switch, f) for f in features} == started
    assert waiter.poll() is None, "no waiter is affected"
    assert switch.units.calls == []


def test_s7_what_is_down_stays_down(switches: MakeSwitch) -> None:
    switch = switches(timing={"audit_s": 0.5, "fallback_after_s": 0.5})
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.done("stop", "snmp")
    ups = switch.ups("snmp")
    blocked = switch.run_kube("snmp")
    switch.wait_for(lambda: blocked not in switch.running("snmp"), "a kube container that comes is ended")
    switch.config("snmp", set_owner="local")
    switch.state_db.delete("FEATURE|snmp")
    switch.daemon.restart()
    switch.config("snmp", set_owner="kube", kube_failure_detection="1")
    switch.until_row("snmp", system_state="down")
    time.sleep(QUIET_S)
    assert switch.running("snmp") == []
    assert switch.ups("snmp") == ups
    assert switch.state("snmp") == "INIT"


# ---- S3, S8 ---------------------------------------------------------------------------------------


def test_s3_a_local_switch_hears_nothing_of_kubernetes(switch: Switch) -> None:
    switch.boot_local("snmp")
    switch.done("stop", "snmp")
    switch.done("start", "snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "LOCAL")
    assert switch.units.calls == []
    assert not any("kubelet" in call for call in switch.units.all_calls), "it was not even looked at"
    said = [
        e for e in switch.log() if e["event"] in ("cluster", "master", "kubelet") or "label" in e["event"]
    ]
    assert said == []
    assert switch.state_db.exists("KUBERNETES_MASTER|SERVER", "KUBE_SERVER|PENDING_LABELS") == 0


def test_s8_only_our_own_fields_are_written(switch: Switch) -> None:
    theirs = {"state": "enabled", "up_status": "true", "fail_reason": "", "container_stable_version": "7"}
    switch.state_db.hset("FEATURE|snmp", mapping=theirs)
    switch.state_db.hset("PORT_TABLE|Ethernet0", "oper_status", "up")
    switch.config_db.hset("DEVICE_METADATA|localhost", mapping={"hwsku": "lab"})
    switch.boot_local("snmp")
    config = _dumped(switch, "config")
    to_kube(switch, "snmp")
    switch.config("snmp", set_owner="local")
    switch.until_state("snmp", "LOCAL")
    switch.done("stop", "snmp")
    switch.done("start", "snmp")
    switch.done("kill", "snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "INIT")
    row = switch.row("snmp")
    assert {k: v for k, v in row.items() if k in theirs} == theirs
    assert set(row) - set(theirs) <= {
        "system_state", "current_owner", "current_owner_update_ts", "docker_id", "transition_mode", "failure",
        "revision",
    }  # fmt: skip
    assert set(switch.state_db.keys("*")) == {"FEATURE|snmp", "PORT_TABLE|Ethernet0"}
    assert _dumped(switch, "config") == config


def test_s8_keyspace_flags_are_added_to_those_set(engine: object, switches: MakeSwitch) -> None:
    switch = switches()

    def flags_set() -> set[str]:
        return set(switch.config_db.config_get("notify-keyspace-events")["notify-keyspace-events"])

    switch.wait_for(lambda: "K" in flags_set(), "the daemon listens")
    switch.config_db.config_set("notify-keyspace-events", "Elz")
    switch.daemon.restart()
    switch.wait_for(lambda: "K" in flags_set(), "the next daemon listens")
    switch.boot_local("snmp")
    flags = flags_set()
    assert set("Elz") <= flags
    assert set("Kgh") <= flags | (set("gh") if "A" in flags else set())


def _dumped(switch: Switch, which: str) -> dict[str, dict[str, str]]:
    client = switch.config_db if which == "config" else switch.state_db
    return {key: client.hgetall(key) for key in client.keys("*|*")}


# ---- S6: wait tells the truth ---------------------------------------------------------------------


def test_s6_wait_returns_the_code_of_a_container_that_crashed(switch: Switch) -> None:
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", life_s=1.0, code=42)
    switch.done("start", "snmp")
    assert switch.container("wait", "snmp").returncode == 42
    switch.until_state("snmp", "LOCAL_EXITED")
    assert switch.container("wait", "snmp").returncode == 42, "asked late, the same answer"
    time.sleep(QUIET_S)
    switch.until_ups("snmp", "local")


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_s6_a_crash_after_a_stop_and_a_start_is_a_crash_that_systemd_restarts(
    switch: Switch, verb: str
) -> None:
    local = switch.boot_local("snmp")
    switch.done(verb, "snmp")
    switch.done("start", "snmp")
    switch.until_ups("snmp", "local", "local")
    waiter = switch.waits("snmp")
    switch.docker.do("kill", local)
    assert waiter.wait(LIMIT_S) == 137
    switch.until_state("snmp", "LOCAL_EXITED")
    time.sleep(QUIET_S)
    assert switch.running("snmp") == [], "its unit starts it again, not we"


@pytest.mark.parametrize(
    ("verb", "code"), [(("stop", "-t", "60"), 5), (("kill",), 137), (("kill", "-s", "TERM"), 5)]
)
def test_s6_wait_returns_the_code_after_stop_and_kill(
    switch: Switch, verb: tuple[str, ...], code: int
) -> None:
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", term_code=5)
    switch.done("start", "snmp")
    switch.wait_for(lambda: switch.ups("snmp"), "it is up, and will end politely")
    waiter = switch.waits("snmp")
    switch.done(*verb, "snmp")
    assert waiter.wait(LIMIT_S) == code


def test_s6_wait_follows_the_feature_through_hand_over_re_deploy_and_switch_back(switch: Switch) -> None:
    switch.boot_local("snmp")
    waiters = [switch.waits("snmp") for _ in range(3)]
    first = to_kube(switch, "snmp")
    switch.docker.do("kill", first)
    switch.docker.remove(first)
    switch.until_state("snmp", "KUBE_READY")
    to_kube(switch, "snmp", 1)
    switch.daemon.restart()
    switch.config("snmp", set_owner="local")
    switch.until_state("snmp", "LOCAL")
    assert [w.poll() for w in waiters] == [None, None, None]
    switch.until_ups("snmp", "local", "kube", "kube", "local")
    switch.done("kill", "snmp")
    assert [w.wait(LIMIT_S) for w in waiters] == [137, 137, 137]


def test_s6_wait_in_local_mode_without_a_container_gives_up_in_time(switch: Switch) -> None:
    switch.config("snmp", set_owner="local")
    begun = time.monotonic()
    assert switch.container("wait", "snmp").returncode == 1
    assert time.monotonic() - begun >= 2.0
    switch.boot_local("lldp")
    switch.docker.remove("lldp")
    assert switch.container("wait", "lldp").returncode in (1, 137)


# ---- liveness -------------------------------------------------------------------------------------


@pytest.mark.story
@pytest.mark.slow("a whole switch, and then a while of nothing")
def test_l1_l4_after_a_manual_storm_every_feature_settles_and_then_nothing_happens(
    switches: MakeSwitch,
) -> None:
    switch = switches(timing={"audit_s": 0.5, "fallback_after_s": 1.0})
    features = ("snmp", "lldp", "bgp", "radv")
    ids = {feature: switch.boot_local(feature) for feature in features}
    for number in range(3):
        for feature in features:
            switch.config(feature, set_owner=("kube", "local")[number % 2], fallback_to_local="true")
            switch.docker.do(("stop", "start", "restart")[number], ids[feature], t="0")
            switch.run_kube(feature, number, life_s=0.5 + number / 5)
        switch.daemon.restart()
    for feature in features[:2]:
        switch.config(feature, set_owner="local")
        switch.done("start", feature)

    def at_rest(feature: str) -> bool:
        shown = switch.shown(feature)
        if not shown:
            return False  # the daemon has just started
        # Where the owner is local, containers of kube stay blocked, as no kubelet takes them away; elsewhere
        # each lives its life. One that has not asked yet is yet to come, whatever the state says.
        others = set(switch.running(feature)) - {ids[feature]}
        if shown["config"]["set_owner"] == "local":
            return bool(shown["state"] == "LOCAL" and others == set(shown["waiting"]))
        return shown["state"] in ("LOCAL", "LOCAL_EXITED") and not others

    switch.wait_for(lambda: all(map(at_rest, features)), "every feature at rest")
    for file in switch.paths.marks.glob("*.twice"):
        file.unlink()  # containers started by hand beside a granted one
    actions = len(switch.log("action"))
    time.sleep(2 * QUIET_S)
    assert len(switch.log("action")) == actions, switch.told()
    assert [switch.state(f) for f in features[:2]] == ["LOCAL", "LOCAL"]


def test_l3_fallback_brings_the_local_container_when_kube_does_not_come(
    lab_kube_switches: MakeSwitch,
) -> None:
    """`wait` does not return, although kube was away for longer than a wait without a container lasts."""
    switch = lab_kube_switches(timing={"fallback_after_s": 9.0, "local_wait_s": 8.0})
    joined(switch)
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    switch.master.deploy("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.until_ups("snmp", "local", "kube")
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "it has stayed up long enough")
    switch.master.forget("snmp")
    switch.until_state("snmp", "KUBE_READY")
    switch.until_state("snmp", "LOCAL")
    switch.until_ups("snmp", "local", "kube", "local")
    switch.master.deploy("snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    assert waiter.poll() is None


def test_without_a_master_no_feature_with_fallback_waits_for_a_deployment(switches: MakeSwitch) -> None:
    switch = switches(timing={"fallback_after_s": 600.0})
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    kube = to_kube(switch, "snmp")
    switch.config("snmp", fallback_to_local="true")
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "it has stayed up long enough")
    switch.docker.remove(kube)
    switch.until_ups("snmp", "local", "kube", "local")
    switch.until_state("snmp", "LOCAL")
    assert waiter.poll() is None


def test_l3_a_missing_local_container_is_made_by_the_unit_s_script(switches: MakeSwitch) -> None:
    switch = switches(timing={"fallback_after_s": 1.0})
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.add_service("snmp")
    switch.units.call("start", "snmp.service")
    switch.until_ups("snmp", "local")
    switch.until_state("snmp", "LOCAL")
    kube = to_kube(switch, "snmp")
    switch.docker.remove("snmp")
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "it has stayed up long enough")
    switch.docker.remove(kube)
    switch.until_state("snmp", "LOCAL")
    assert switch.units.calls[-2:] == ["reset-failed snmp.service", "restart --no-block snmp.service"]
    switch.until_ups("snmp", "local", "kube", "local")
