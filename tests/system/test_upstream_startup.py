"""Check the cases of upstream's tests of the start-up script in an image (docs/migrate.md, "Upstream's test cases").

The script is tests/lab/startup.py, which stands for SONiC's container_startup.py. The tests share one switch, and each
has a feature of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.switch_units import LAB
from tests.system.switch_fixtures import powered_on
from tests.system.test_upstream_container import KUBE, LOCAL, NO_FALLBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engines import LabDockerProcess
    from tests.lab.switch import Switch

OLD, NEW = "20240510.1", "20251110.7"
FIELDS = ("system_state", "current_owner", "container_id", "container_version", "remote_state")


@pytest.fixture(scope="module")
def switch(lab_docker: LabDockerProcess) -> Iterator[Switch]:
    """A switch with SONiC's field names and no kubelet, which would remove containers that no pod explains."""
    with powered_on(lab_docker, settings={"schema": {"names": "sonic"}}) as switch:
        yield switch


def image(switch: Switch, feature: str, version: str, owner: str = "kube") -> dict[str, Any]:
    """What a container of an image of this version is made with."""
    marks, redis = switch.paths.marks, switch.redis.socket.parent
    env = {
        "REDIS_SOCKET": str(switch.redis.socket),
        "IMAGE_VERSION": version,
        "POLL_S": "0.2",
        "FROZEN": str(marks / f"{feature}.frozen"),
    }
    env |= {"RUNTIME_OWNER": owner} if owner == "local" else {}
    binds = [f"{path}:{path}{mode}" for path, mode in switch.containers.mounts.items()]
    return {
        "command": ["/bin/sh", str(LAB / "sonic_feature.sh"), feature, str(LAB), str(marks)],
        "docker": {
            "Env": [f"{key}={value}" for key, value in env.items()],
            "HostConfig": {"Binds": [*binds, f"{redis}:{redis}"]},
        },
    }


def local_runs(switch: Switch, feature: str, version: str, **container: Any) -> None:
    """Given: the feature runs locally, from an image of this version."""
    switch.config(feature, **LOCAL)
    made = image(switch, feature, version, "local")
    made["docker"] |= container
    switch.create_local(feature, **made)
    switch.done("start", feature)
    switch.until_ups(feature, "local")
    switch.until_row(feature, current_owner="local", container_id=feature, container_version=version)


def deploy(switch: Switch, feature: str, version: str) -> str:
    """When: the kubelet runs a container of an image of this version; its ID."""
    return switch.run_kube(feature, **image(switch, feature, version))


def frozen(switch: Switch, feature: str) -> str:
    """Why the start-up script of the feature's container waits for ever, once it does."""
    file = switch.paths.marks / f"{feature}.frozen"
    switch.wait_for(lambda: file.exists() and file.read_text(), "the start-up script is frozen")
    return file.read_text().strip()


def row(switch: Switch, feature: str) -> dict[str, str]:
    """The fields of the feature's row that its containers write."""
    found = switch.row(feature)
    return {name: found.get(name, "") for name in FIELDS}


@pytest.mark.upstream("container_startup/local", "same")
@pytest.mark.upstream("container_startup/same-version", "same")
def test_a_local_container_is_recorded_and_its_version_from_kubernetes_is_blocked(
    switch: Switch,
) -> None:
    local_runs(switch, "snmp", OLD)
    before = row(switch, "snmp")
    assert before["remote_state"] == "none"
    switch.config("snmp", **KUBE)
    deploy(switch, "snmp", OLD)
    assert frozen(switch, "snmp") == "this version runs locally"
    switch.done("state", "snmp")
    assert row(switch, "snmp") == before
    assert switch.ups("snmp") == ["local"]


@pytest.mark.upstream("container_startup/kube-while-local", "same")
def test_a_kube_container_of_a_local_feature_is_blocked_and_the_row_untouched(switch: Switch) -> None:
    local_runs(switch, "lldp", OLD)
    before = row(switch, "lldp")
    deploy(switch, "lldp", NEW)
    assert frozen(switch, "lldp") == "set_owner is local"
    assert row(switch, "lldp") == before
    assert switch.ups("lldp") == ["local"]


@pytest.mark.upstream("container_startup/unit-down", "differs")
def test_a_kube_container_of_a_feature_that_is_down_is_ended_and_the_row_untouched(switch: Switch) -> None:
    switch.config("pmon", **KUBE, **NO_FALLBACK)
    switch.done("start", "pmon")
    switch.done("stop", "pmon")
    switch.until_row("pmon", system_state="down", remote_state="stopped")
    before = row(switch, "pmon")
    stray = deploy(switch, "pmon", NEW)
    switch.wait_for(lambda: not switch.docker.inspect(stray)["State"]["Running"], "it has been ended")
    assert row(switch, "pmon") == before
    assert switch.ups("pmon") == []


@pytest.mark.upstream("container_startup/lower-version", "same")
@pytest.mark.upstream("container_startup/remote-state-ready", "differs")
def test_a_kube_container_that_is_waited_for_owns_the_feature_whatever_its_version(
    switch: Switch,
) -> None:
    switch.config("telemetry", **KUBE, **NO_FALLBACK)
    switch.done("start", "telemetry")
    for number, version in enumerate((NEW, OLD)):
        switch.until_row("telemetry", remote_state="stopped", current_owner="none", system_state="up")
        kube = switch.run_kube("telemetry", number, **image(switch, "telemetry", version))
        switch.until_row(
            "telemetry",
            current_owner="kube",
            container_id=kube[:12],
            container_version=version,
            remote_state="running",
        )
        switch.until_ups("telemetry", *["kube"] * (number + 1))
        switch.docker.do("kill", kube)


@pytest.mark.upstream("container_startup/remote-state-none", "differs")
def test_a_kube_container_waits_until_the_local_one_has_ended(switch: Switch) -> None:
    # Docker's stop takes as long as this container's own grace, or until another one ends it.
    deaf = {"StopSignal": "SIGCONT", "StopTimeout": 600}
    local_runs(switch, "radv", OLD, **deaf)
    switch.config("radv", **KUBE)
    kube = deploy(switch, "radv", NEW)
    switch.until_row("radv", remote_state="pending", container_version=NEW, current_owner="local")
    assert switch.ups("radv") == ["local"]
    switch.docker.do("kill", "radv")
    switch.until_row("radv", remote_state="running", current_owner="kube", container_id=kube[:12])
    assert switch.running("radv") == [kube]
    switch.until_ups("radv", "local", "kube")
