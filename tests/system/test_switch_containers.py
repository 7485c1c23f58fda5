"""Check which of Docker's containers belong to a feature, and what happens to those that do not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.kube_names import kube_box
from tests.lab.switch_clients import CLIENTS
from tests.wait import LIMIT_S, until

if TYPE_CHECKING:
    from tests.lab.engines import Docker, LabDockerProcess
    from tests.lab.switch import Switch
    from tests.system.docker_engine import RealDocker
    from tests.system.switch_fixtures import MakeSwitch

QUIET_S = 2.0
POLITE = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]


def runs(switch: Switch, container_id: str) -> bool:
    """Whether Docker says so."""
    return bool(switch.docker.inspect(container_id)["State"]["Running"])


def unfolded(text: str) -> str:
    """What a command has printed, without line ends and columns."""
    return " ".join(text.split())


def touched(switch: Switch, container_id: str) -> bool:
    """Whether it was sent a signal."""
    return any(event["Actor"]["ID"] == container_id for event in switch.docker.events("kill"))


def test_foreign_containers_are_never_touched_or_counted(switch: Switch) -> None:
    """A tenant's pod, a sidecar, a sandbox, and a container with the labels of a kube one, are not the feature's."""
    tenant, kube = kube_box("snmp", "web", "tenant"), kube_box("snmp", "snmp-pod")
    foreign = [
        switch.run_kube("snmp", namespace="tenant", command=POLITE),
        switch.run_kube("snmp", name="0snmp-exporter", command=POLITE),
        switch.containers.run_named(kube[0], tenant[1], command=POLITE),
        switch.containers.run_named("snmp-committed", kube[1], command=POLITE),
    ]
    local = switch.boot_local("snmp")
    # The engine may still tell of containers that an earlier test has removed.
    assert [c["id"] for c in switch.shown("snmp")["containers"] if not c["gone"]] == [local]
    switch.done("stop", "snmp")
    assert not runs(switch, local)
    switch.done("kill", "snmp")
    switch.daemon.restart()
    switch.done("stop", "snmp")
    assert [c for c in foreign if not runs(switch, c) or touched(switch, c)] == []


def test_a_local_container_of_an_image_committed_from_a_kube_one_is_local(switch: Switch) -> None:
    """Its labels are baked in."""
    switch.config("snmp", set_owner="local")
    _, labels = kube_box("snmp", "snmp-pod")
    local = switch.create_local("snmp", labels=labels)
    switch.done("start", "snmp")
    switch.until_ups("snmp", "local")
    switch.until_row("snmp", current_owner="local", docker_id=local)
    switch.done("stop", "snmp")
    assert not runs(switch, local)


def test_a_foreign_pod_that_asks_for_a_feature_is_refused_with_the_fix(switch: Switch) -> None:
    switch.boot_local("snmp")
    asked = switch.paths.marks / "asked"
    script = f"{CLIENTS}/container state snmp up kube 2>{asked}.text; echo $? >{asked}; sleep 100000"
    foreign = switch.run_kube("snmp", namespace="tenant", command=["/bin/sh", "-c", script])
    switch.wait_for(lambda: asked.exists() and asked.read_text(), "it is answered")
    assert asked.read_text() == "77\n"
    text = (switch.paths.marks / "asked.text").read_text()
    assert "its pod tenant/snmp-pod is in a namespace whose pods run no feature" in text
    assert "add tenant to [kube] namespaces" in text
    told = until(lambda: [line for line in switch.prints("doctor").splitlines() if "tenant/snmp-pod" in line])
    assert told[0].split()[:2] == ["warn", "container"]
    assert runs(switch, foreign)


def test_a_wrong_container_name_in_a_manifest_is_told(switch: Switch) -> None:
    """With the gate it is refused with the fix; without, doctor names the pod."""
    switch.boot_local("snmp")
    asked = switch.paths.marks / "asked"
    script = f"{CLIENTS}/container state snmp up kube 2>{asked}.text; echo $? >{asked}; sleep 100000"
    switch.run_kube("snmp", name="snmp-agent", command=["/bin/sh", "-c", script])
    switch.wait_for(lambda: asked.exists() and asked.read_text(), "it is answered")
    assert asked.read_text() == "77\n"
    assert "call it snmp in its manifest" in (switch.paths.marks / "asked.text").read_text()
    for said in (
        "was refused feature snmp",
        "pod sonic/snmp-pod runs no feature: its containers are called snmp-agent",
    ):
        switch.wait_for(lambda s=said: s in unfolded(switch.prints("doctor")), f"doctor: {said}")  # type: ignore[misc]


DEAD = 18
VIEWS = (
    ("explain", "snmp"),
    ("show", "feature", "snmp"),
    ("show", "feature"),
    ("doctor",),
    ("watch", "snmp"),
)


def test_dead_containers_of_the_same_name_hide_no_running_one(switch: Switch) -> None:
    """As a Job with many completed pods leaves them: the granted one stays granted, nothing starts beside it."""
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    granted = switch.run_kube("snmp")
    switch.until_row("snmp", current_owner="kube", docker_id=granted)
    for number in range(1, DEAD + 1):
        ended = switch.run_kube("snmp", number, command=["/bin/true"])
        switch.wait_for(lambda ended=ended: not runs(switch, ended), "the job has ended")  # type: ignore[misc]
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    assert switch.running("snmp") == [granted]
    assert switch.row("snmp")["docker_id"] == granted
    assert granted in [c["id"] for c in switch.shown("snmp")["containers"]]
    switch.done("stop", "snmp")
    assert not runs(switch, granted)


def test_a_restarting_container_runs_until_it_is_stopped(switch: Switch) -> None:
    """By its restart policy Docker starts it again: `wait` waits, and a stop ends it for good."""
    switch.config("snmp", set_owner="local")
    local = switch.create_local("snmp", life_s=0.5, code=3, restart="always")
    switch.done("start", "snmp")
    waiter = switch.waits("snmp")
    switch.wait_for(lambda: switch.docker.inspect(local)["RestartCount"] >= 3, "Docker has restarted it")
    assert waiter.poll() is None
    switch.until_told("its restart policy", "explain", "snmp")
    switch.done("stop", "snmp")
    assert waiter.wait(LIMIT_S) in (0, 3, 137)
    began = switch.docker.inspect(local)["State"]["StartedAt"]
    time.sleep(QUIET_S)
    found = switch.docker.inspect(local)["State"]
    assert (found["Running"], found["StartedAt"]) == (False, began)


@pytest.mark.slow("restarts the engine")
def test_what_docker_starts_by_itself_is_ended_at_once_and_the_policy_is_named(
    engine: Docker, switch: Switch
) -> None:
    """Beside an admitted kube container, and while the unit is down; what an operator starts is left alone."""
    fix = "docker update --restart=no snmp"
    switch.config("snmp", set_owner="local")
    switch.config("lldp", set_owner="kube", fallback_to_local="true")
    switch.config("tap", set_owner="local")
    down = switch.create_local("snmp", command=POLITE, restart="always")
    beside = switch.create_local("lldp", command=POLITE, restart="on-failure")
    by_hand = switch.create_local("tap", command=POLITE, restart="always")
    for feature, container in (("snmp", down), ("lldp", beside), ("tap", by_hand)):
        switch.done("start", feature)
        switch.wait_for(lambda container=container: runs(switch, container), "it runs")  # type: ignore[misc]
    switch.wait_for(
        lambda: fix in unfolded(switch.prints("doctor")), "doctor warns while nothing is wrong yet"
    )
    switch.done("stop", "snmp")
    switch.done("stop", "tap")
    switch.docker.do("start", by_hand)
    # It is ended by a signal, so Docker's policy holds it for failed.
    switch.docker.do("kill", beside)
    kube = switch.run_kube("lldp")
    switch.until_row("lldp", current_owner="kube", docker_id=kube)
    before = {c: switch.docker.inspect(c)["State"]["StartedAt"] for c in (down, beside)}

    asyncio.run(engine.restart(live_restore=True))

    def ended(container: str) -> bool:
        state = switch.docker.inspect(container)["State"]
        return state["StartedAt"] != before[container] and not state["Running"]

    switch.wait_for(lambda: ended(down) and ended(beside), "what Docker has started is ended")
    assert runs(switch, by_hand)
    switch.until_state("lldp", "KUBE_RUNNING")
    assert switch.running("lldp") == [kube]
    for feature, policy, because in (
        ("snmp", "always", "its unit is down"),
        ("lldp", "on-failure", "Kubernetes runs the feature"),
    ):
        (alert,) = switch.log("container_started_by_docker", alert=True, feature=feature)
        assert f"by its restart policy {policy}, although {because}" in alert["why"]
        explained = until(
            lambda f=feature, p=policy: (  # type: ignore[misc]
                text
                if f"has the restart policy {p}" in (text := unfolded(switch.prints("explain", f)))
                else ""
            )
        )
        assert "manually" not in explained
    assert switch.log("container_started_by_docker", alert=True, feature="tap") == []

    switch.docker.ask("POST", "/containers/snmp/update", {"RestartPolicy": {"Name": "no"}})
    switch.wait_for(lambda: fix not in unfolded(switch.prints("doctor")), "nothing is left to warn of")


DEAF = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
CHECK = {"Test": ["CMD-SHELL", "echo the agent is deaf; exit 1"], "Interval": 10**9, "Retries": 1}


@pytest.fixture
def real_switch(real_docker: RealDocker, new_switch: MakeSwitch) -> Switch:
    """A switch on the real engine: the stand-in has neither memory limits nor health checks."""
    return new_switch(real_docker)


@pytest.mark.real("docker")
def test_a_failing_healthcheck_is_told_while_it_fails_and_a_container_s_own_grace_is_kept(
    real_docker: RealDocker, new_switch: MakeSwitch
) -> None:
    # By the settings' grace, the client would give the stop up.
    switch = new_switch(real_docker, timing={"stop_grace_s": 600.0, "verb_s_max": 700.0})
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", command=DEAF, docker={"Healthcheck": CHECK, "StopTimeout": 2})
    switch.done("start", "snmp")
    for command in (("explain", "snmp"), ("show", "feature", "snmp"), ("doctor",)):
        switch.wait_for(
            lambda c=command: "the agent is deaf" in unfolded(switch.prints(*c)), f"{command} says so"
        )  # type: ignore[misc]
    assert len([line for line in switch.log("healthcheck_fails") if line.get("alert")]) == 1
    switch.done("stop", "snmp")


@pytest.mark.real("docker")
def test_a_container_that_lacked_memory_is_told(real_switch: Switch) -> None:
    switch = real_switch
    switch.config("snmp", set_owner="local")
    # Docker may hear of a container's end before the kernel's reason: its first process outlives the one that eats.
    eating = "x=x; while :; do x=$x$x$x$x; done"
    eats = ["/bin/sh", "-c", f"sleep 1; /bin/sh -c '{eating}'; code=$?; sleep 2; exit $code"]
    limits = {"HostConfig": {"Memory": 16 << 20, "MemorySwap": 16 << 20}}
    local = switch.create_local("snmp", command=eats, docker=limits)
    switch.done("start", "snmp")
    switch.wait_for(lambda: not runs(switch, local), "the kernel has ended it")
    assert switch.docker.inspect(local)["State"]["OOMKilled"]
    for command in (("explain", "snmp"), ("show", "feature", "snmp"), ("doctor",)):
        switch.wait_for(
            lambda c=command: "for lack of memory" in unfolded(switch.prints(*c)), f"{command} says so"
        )  # type: ignore[misc]
    assert switch.log("out_of_memory")[-1]["alert"]


def test_a_paused_container_is_shown_and_unpaused_by_a_start(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    switch.docker.do("pause", local)
    for command in VIEWS:
        switch.until_told("paused", *command)
    switch.done("start", "snmp")
    assert not switch.docker.inspect(local)["State"]["Paused"]
    switch.wait_for(lambda: "paused" not in switch.prints("explain", "snmp"), "the condition ends")
    switch.docker.do("pause", local)
    switch.done("stop", "snmp")
    assert not runs(switch, local)
    switch.done("start", "snmp")
    switch.docker.do("pause", local)
    switch.done("kill", "snmp")
    assert not runs(switch, local)


def test_a_container_that_docker_does_not_describe_is_stopped_and_told(
    new_switch: MakeSwitch, own_lab_docker: LabDockerProcess
) -> None:
    """A real engine cannot be made to answer 500 for one container."""
    switch, engine = new_switch(own_lab_docker), own_lab_docker
    local = switch.boot_local("snmp")
    engine.fail("/containers/snmp/json", f"/containers/{local}/json")
    switch.daemon.restart()
    said = f"Docker does not describe the local container {local[:12]}"
    for command in VIEWS:
        switch.wait_for(lambda c=command: said in unfolded(switch.prints(*c)), f"{command} says so")  # type: ignore[misc]
    switch.until_row("snmp", current_owner="local", failure=f"{said}: input/output error")
    assert len(switch.log("container_not_read", feature="snmp", alert=True)) == 1
    switch.done("start", "snmp")
    switch.done("stop", "snmp")
    engine.fail()
    switch.wait_for(lambda: said not in unfolded(switch.prints("explain", "snmp")), "the condition ends")
    assert not runs(switch, local)
    switch.until_row("snmp", failure="")

    switch.done("start", "snmp")
    engine.fail("/containers/snmp/json", f"/containers/{local}/json")
    switch.daemon.restart()
    switch.done("kill", "snmp")
    engine.fail()
    assert not runs(switch, local)


def test_a_container_that_restarts_makes_room_for_kube(switch: Switch) -> None:
    """Docker would start it again beside the admitted one (S1)."""
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", life_s=0.4, restart="always")
    switch.done("start", "snmp")
    switch.config("snmp", set_owner="kube")
    kube = switch.run_kube("snmp")
    switch.until_row("snmp", current_owner="kube", docker_id=kube)
    switch.until_up("snmp", "kube")
    ups = len(switch.ups("snmp"))
    time.sleep(QUIET_S)
    assert switch.running("snmp") == [kube]
    assert switch.ups("snmp")[ups:] == []


def test_a_kube_container_without_the_gate_is_told_and_adopted_when_nothing_else_runs(
    switches: MakeSwitch,
) -> None:
    """An image that does not call `start-hook`; beside the running local container it is never the owner."""
    switch = switches(timing={"gate_after_s": 1.0})
    local = switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube")
    silent = switch.run_kube("snmp", command=POLITE)
    said = f"the kube container {silent[:12]} has run for 1 s without asking to be admitted"
    for command in VIEWS:
        switch.wait_for(lambda c=command: said in unfolded(switch.prints(*c)), f"{command} says so")  # type: ignore[misc]
    assert switch.row("snmp")["docker_id"] == local
    assert len(switch.log("gate_ignored", feature="snmp", alert=True)) == 1
    assert runs(switch, local)

    switch.done("stop", "snmp")
    switch.wait_for(lambda: switch.running("snmp") == [], "a stop ends both")

    switch.docker.remove(local)
    switch.done("start", "snmp")
    again = switch.run_kube("snmp", 1, command=POLITE)
    switch.until_row("snmp", current_owner="kube", docker_id=again, transition_mode="kube_ready")
    for restart in (False, True):
        if restart:
            switch.daemon.restart()
            switch.until_state("snmp", "KUBE_RUNNING")
        switch.wait_for(
            lambda: "is taken for the owner" in unfolded(switch.prints("explain", "snmp")), "explain says so"
        )
    switch.done("stop", "snmp")
    switch.wait_for(lambda: not runs(switch, again), "a stop ends it")
