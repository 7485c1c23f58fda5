"""Check images made for today's SONiC: they ask by STATE_DB's row, and know nothing of kubesyncd.

Their containers run tests/lab/startup.py, which stands for SONiC's container_startup.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.switch_units import LAB
from tests.system.test_switch_local import QUIET_S

if TYPE_CHECKING:
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

SONIC = {"schema": {"names": "sonic"}}
# A container that is killed once it is up has failed, however late a busy machine kills it; and what waits then is
# refused for longer than a busy machine takes to look at it.
REFUSED = {"kube_stable_s": 3000.0, "handover_delay_s": 20.0}
ONE, TWO, THREE = "20240510.1", "20251110.7", "20251110.8"


@pytest.fixture
def switch(switches: MakeSwitch) -> Switch:
    """A switch with the names of today's SONiC."""
    return switches(settings=SONIC)


@pytest.fixture
def refusing(switches: MakeSwitch) -> Switch:
    """As `switch`, for `crash`."""
    return switches(settings=SONIC, timing=REFUSED)


def image(switch: Switch, version: str, **environ: str) -> dict[str, Any]:
    """What a container of an image of this version is made with."""
    containers = switch.containers
    env = {
        "REDIS_SOCKET": str(switch.redis.socket),
        "IMAGE_VERSION": version,
        "POLL_S": "0.2",
        "FROZEN": str(switch.paths.marks / "snmp.frozen"),
        **environ,
    }
    binds = [f"{a}:{a}{m}" for a, m in containers.mounts.items()]
    folder = switch.redis.socket.parent
    return {
        "command": ["/bin/sh", str(LAB / "sonic_feature.sh"), "snmp", str(LAB), str(switch.paths.marks)],
        "docker": {
            "Env": [f"{key}={value}" for key, value in env.items()],
            "HostConfig": {"Binds": [*binds, f"{folder}:{folder}"]},
        },
    }


def boot(switch: Switch, version: str = ONE) -> str:
    """The feature runs locally, from an image of this version."""
    switch.config("snmp", set_owner="local")
    local = switch.create_local("snmp", **image(switch, version, RUNTIME_OWNER="local"))
    switch.done("start", "snmp")
    switch.until_ups("snmp", "local")
    switch.until_row(
        "snmp", current_owner="local", container_id="snmp", remote_state="none", container_version=version
    )
    return local


def deploy(switch: Switch, version: str, number: int = 0, **environ: str) -> str:
    """The kubelet runs a container of an image of this version."""
    return switch.run_kube("snmp", number, **image(switch, version, **environ))


def crash(switch: Switch) -> None:
    """Kubernetes takes over by a container that ends at once: the local one returns, and the next is delayed."""
    # Before the container: a script that finds the owner local waits for ever.
    switch.config("snmp", set_owner="kube", no_fallback_to_local="false")
    first = deploy(switch, TWO)
    switch.until_ups("snmp", "local", "kube")
    switch.docker.do("kill", first)
    switch.until_ups("snmp", "local", "kube", "local")


def frozen(switch: Switch) -> list[str]:
    """Why start-up scripts wait for ever, in order."""
    marks = switch.paths.marks / "snmp.frozen"
    return marks.read_text().splitlines() if marks.exists() else []


def waits(switch: Switch, version: str, *, owner: str) -> None:
    """Return once a container of this version waits, and has done so for a while."""
    switch.until_row("snmp", remote_state="pending", container_version=version, current_owner=owner)
    for _ in range(10):
        row = switch.row("snmp")
        assert (row["remote_state"], row["container_version"]) == ("pending", version)
        time.sleep(QUIET_S / 10)


def runs(switch: Switch, container_id: str, version: str) -> None:
    """Return once Kubernetes owns the feature by this container, and everybody is told so."""
    switch.until_row(
        "snmp",
        current_owner="kube",
        container_id=container_id[:12],
        remote_state="running",
        container_version=version,
    )
    switch.until_state("snmp", "KUBE_RUNNING")
    assert switch.running("snmp") == [container_id]


def test_a_hand_over_and_back_and_forth(switch: Switch) -> None:
    local = boot(switch)
    switch.config("snmp", set_owner="kube", no_fallback_to_local="false")
    switch.until_state("snmp", "LOCAL")
    kube = deploy(switch, TWO)
    switch.until_ups("snmp", "local", "kube")
    runs(switch, kube, TWO)
    switch.until_told(TWO, "explain", "snmp")

    # A restart of the daemon changes nothing, and neither does a flush of STATE_DB.
    switch.daemon.restart()
    runs(switch, kube, TWO)
    switch.state_db.flushdb()
    runs(switch, kube, TWO)
    assert switch.ups("snmp") == ["local", "kube"]

    switch.config("snmp", set_owner="local")
    switch.until_ups("snmp", "local", "kube", "local")
    switch.until_row("snmp", current_owner="local", container_version=ONE, remote_state="none")
    assert switch.running("snmp") == [local]


def test_a_deployment_of_what_runs_locally_restarts_nothing(switch: Switch) -> None:
    """The dry run of SONiC's controller: the script is frozen, and never asks."""
    local = boot(switch)
    switch.config("snmp", set_owner="kube", no_fallback_to_local="false")
    same = deploy(switch, ONE)
    switch.wait_for(lambda: frozen(switch) == ["this version runs locally"], "its script is frozen")
    time.sleep(QUIET_S)
    assert set(switch.running("snmp")) == {local, same}
    row = switch.row("snmp")
    assert (row["current_owner"], row["remote_state"], row["container_version"]) == ("local", "none", ONE)
    assert switch.ups("snmp") == ["local"]


def test_one_that_is_refused_waits_and_is_admitted_later(refusing: Switch) -> None:
    switch = refusing
    local = boot(switch)
    crash(switch)
    second = deploy(switch, THREE, 1)
    waits(switch, THREE, owner="local")
    shown = " ".join(switch.prints("show", "feature", "snmp").split())
    assert "(of the kube container that" in shown, "not the version that runs"

    # The daemon is away meanwhile, and does not forget.
    switch.daemon.restart()
    switch.until_ups("snmp", "local", "kube", "local", "kube")
    runs(switch, second, THREE)
    assert local not in switch.running("snmp")


def test_one_that_waits_for_its_unit_and_one_that_ends_meanwhile(switch: Switch) -> None:
    switch.config("snmp", set_owner="kube", no_fallback_to_local="true")
    switch.done("start", "snmp")
    switch.until_row("snmp", remote_state="stopped", current_owner="none")
    kube = deploy(switch, TWO, ITS_ID="f00dfeed" * 2)
    switch.until_ups("snmp", "kube")
    switch.until_row("snmp", container_id=kube[:12])
    switch.docker.do("kill", kube)
    switch.until_row("snmp", remote_state="stopped", current_owner="none", container_id="")
    again = deploy(switch, TWO, 1)
    switch.until_ups("snmp", "kube", "kube")
    runs(switch, again, TWO)
    switch.done("stop", "snmp")
    switch.until_row(
        "snmp", system_state="down", current_owner="none", container_id="", remote_state="stopped"
    )
    switch.wait_for(lambda: not switch.running("snmp"), "nothing runs")


def test_of_two_pods_none_is_let_through_until_one_has_ended(refusing: Switch) -> None:
    switch = refusing
    local = boot(switch)
    crash(switch)
    first, second = deploy(switch, THREE, 1), deploy(switch, THREE, 2)
    waits(switch, THREE, owner="local")
    switch.wait_for(
        lambda: not switch.shown("snmp")["refused_for_s"], "nothing but the other one is in the way"
    )
    waits(switch, THREE, owner="local")
    assert set(switch.running("snmp")) == {local, first, second}
    switch.until_told("2 kube containers run, and one of them asks", "explain", "snmp")
    switch.docker.do("kill", first)
    switch.until_ups("snmp", "local", "kube", "local", "kube")
    runs(switch, second, THREE)


def test_the_row_of_one_that_waits_is_lost(refusing: Switch) -> None:
    """Its script gives up for ever: the container is ended, and the kubelet's next one asks again."""
    switch = refusing
    boot(switch)
    crash(switch)
    second = deploy(switch, THREE, 1)
    # Its script writes the row; one that is lost before the daemon has read it has never asked.
    switch.wait_for(lambda: switch.shown("snmp")["waiting"] == [second], "the daemon knows that it waits")
    switch.state_db.delete("FEATURE|snmp")
    switch.wait_for(lambda: second not in switch.running("snmp"), "what gave up is ended")
    third = deploy(switch, THREE, 2)
    switch.until_ups("snmp", "local", "kube", "local", "kube")
    runs(switch, third, THREE)
