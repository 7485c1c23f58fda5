"""Check what other programs do with Docker by a feature's name, on an installed switch: they start, stop and exec."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.system.installed_fixtures import add_feature, journal, redis, remove_feature, row, running
from tests.system.installed_kube import Master

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

# In the shape of SONiC's script of this name: it looks the container up by its name, starts it by its ID where it does
# not run, and writes a file in it.
UPDATE_CONTAINERS = """#!/bin/bash
id=$(docker ps -aq -f "name=^$1$")
[ -n "$id" ] || exit 1
if [ "$(docker inspect --format '{{.State.Status}}' "$id")" != running ]; then
    docker start "$id" || exit 1
fi
docker exec "$id" sh -c 'echo "nameserver 192.0.2.1" >/tmp/resolv.conf' || exit 1
"""


@pytest.fixture
def master(installed: InstalledSwitch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    with Master(installed, tmp_path_factory.mktemp("master")) as master:
        yield master


@pytest.fixture
def radv(installed: InstalledSwitch, master: Master) -> Iterator[InstalledSwitch]:
    """The switch, with a feature radv that runs locally and may be run by either."""
    installed.write("/usr/local/bin/update-containers", UPDATE_CONTAINERS, mode=0o755)
    add_feature(installed, "radv", set_owner="local")
    installed.wait_for(lambda: row(installed, "radv").get("current_owner") == "local", "radv runs locally")
    yield installed
    remove_feature(installed, "radv")


def owner(switch: InstalledSwitch, wanted: str) -> None:
    redis(switch, 4, "hset", "FEATURE|radv", "set_owner", wanted)


def owned_by(switch: InstalledSwitch, who: str) -> None:
    switch.wait_for(lambda: row(switch, "radv").get("current_owner") == who, f"radv is owned by {who}")


def waits_for_kube(switch: InstalledSwitch) -> bool:
    seen = row(switch, "radv")
    return (seen.get("current_owner"), seen.get("transition_mode")) == ("none", "kube_ready")


@contextmanager
def without_daemon(switch: InstalledSwitch) -> Iterator[None]:
    """Its sockets are stopped too: a client that connects would start it."""
    switch.run("systemctl", "stop", "kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service")
    try:
        yield
        assert switch.show("kubesyncd", "ActiveState") == "inactive"
    finally:
        switch.run(
            "systemctl", "start", "kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service"
        )


def alerts(switch: InstalledSwitch) -> list[str]:
    lines = journal(switch, "kubesyncd").splitlines()
    return [line for line in lines if '"event": "local_started_by_another"' in line and '"radv"' in line]


def test_a_container_that_another_program_starts_is_ended_and_told_once(
    radv: InstalledSwitch, master: Master
) -> None:
    """As today's images do after each start of a unit, and as an operator may do."""
    radv.run("systemctl", "stop", "radv")
    owner(radv, "kube")
    radv.run("systemctl", "start", "radv")
    radv.wait_for(lambda: waits_for_kube(radv), "it waits for its deployment")
    unit = radv.show("radv", "NRestarts"), radv.show("radv", "MainPID")

    radv.process("update-containers", "radv")
    for _ in range(2):
        radv.wait_for(lambda: not running(radv, "radv") and waits_for_kube(radv), "its container is ended")
        radv.run("docker", "start", "radv")
    radv.wait_for(lambda: not running(radv, "radv") and waits_for_kube(radv), "it is ended once more")

    master.deploy("radv")
    owned_by(radv, "kube")
    kube = row(radv, "radv")["docker_id"]
    runs = ("docker", "inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", kube)
    started = radv.run(*runs)
    radv.process("update-containers", "radv")
    radv.wait_for(lambda: not running(radv, "radv"), "beside the admitted one it is ended")
    assert (row(radv, "radv")["docker_id"], radv.run(*runs)) == (kube, started)
    assert (radv.show("radv", "NRestarts"), radv.show("radv", "MainPID")) == unit

    (alert,) = alerts(radv)
    assert '"alert": true' in alert
    assert "update-containers radv" in alert
    assert "another program started the local container" in radv.run("kubesync", "explain", "radv")


def test_a_unit_stops_its_local_container_with_the_daemon_stopped(
    radv: InstalledSwitch, master: Master
) -> None:
    owner(radv, "kube")
    radv.wait_for(lambda: (master.labels() or {}).get("radv_enabled") == "true", "kube is its owner")
    assert running(radv, "radv")
    with without_daemon(radv):
        radv.run("systemctl", "stop", "radv")
        assert not running(radv, "radv")
        assert (radv.show("radv", "Result"), radv.show("radv", "ActiveState")) == ("success", "inactive")
        assert radv.code("/usr/bin/radv.sh", "kill", user="admin") == 0, "nothing runs any more"
    radv.run("systemctl", "start", "radv")
    owned_by(radv, "local") if running(radv, "radv") else radv.wait_for(
        lambda: waits_for_kube(radv), "it waits"
    )

    master.deploy("radv")
    owned_by(radv, "kube")
    kube = row(radv, "radv")["docker_id"]
    with without_daemon(radv):
        said = radv.process("container", "stop", "radv")
        assert (said.returncode, "Kubernetes runs its container" in said.stderr) == (69, True)
        assert radv.run("docker", "inspect", "-f", "{{.State.Running}}", kube) == "true", (
            "the kubelet's to end"
        )


# In the shape of a post-start action: it waits for the container, puts files into it, and takes one from it.
POST_START = """#!/bin/bash
until [[ ($(docker inspect -f '{{.State.Running}}' radv) == "true") ]]; do sleep 0.1; done
docker exec radv rm -f /ready
docker cp /etc/hostname radv:/tmp/from-host || exit 1
docker exec radv touch /ready
docker exec -i radv test -f /ready || exit 1
docker cp radv:/tmp/from-host /var/tmp/from-radv
"""
FRONT = "/usr/local/bin/docker"


@pytest.fixture
def front(radv: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The switch, with our docker before Docker's."""
    radv.run("ln", "-s", "/usr/lib/kubesyncd/clients/docker", FRONT)
    yield radv
    radv.run("rm", FRONT)


def printed(switch: InstalledSwitch, *arguments: str, user: str = "root") -> str:
    """What docker prints, also where it fails."""
    return switch.process("docker", *arguments, user=user).stdout.strip()


def until_docker(switch: InstalledSwitch, wanted: str, *arguments: str, user: str = "root") -> None:
    """Return once docker prints this. A daemon that takes over 1 s to answer leaves the name to Docker."""
    switch.wait_for(lambda: printed(switch, *arguments, user=user) == wanted, f"docker {arguments}: {wanted}")


def test_docker_by_a_feature_s_name_reaches_the_container_that_kubernetes_runs(
    front: InstalledSwitch, master: Master
) -> None:
    switch = front
    assert switch.run("docker", "exec", "radv", "sh", "-c", "echo $RUNTIME_OWNER") == "local"
    local = switch.run("docker", "inspect", "-f", "{{.Id}}", "radv")
    master.deploy("radv")
    owner(switch, "kube")
    owned_by(switch, "kube")
    kube = row(switch, "radv")["docker_id"]
    for user in ("root", "admin"):
        until_docker(switch, kube, "inspect", "-f", "{{.Id}}", "radv", user=user)
        until_docker(switch, ".", "exec", "-u", "0", "radv", "sh", "-c", "echo $RUNTIME_OWNER.", user=user)
    until_docker(switch, "/tmp", "--log-level", "error", "container", "exec", "-w", "/tmp", "radv", "pwd")
    switch.wait_for(lambda: "lab-feature" in printed(switch, "top", "radv"), "its processes")
    switch.wait_for(lambda: kube[:12] in printed(switch, "stats", "--no-stream", "radv"), "its figures")
    switch.run("docker", "logs", "--tail", "1", "radv")

    switch.write("/var/tmp/post-start.sh", POST_START, mode=0o755)
    switch.wait_for(
        lambda: switch.code("/var/tmp/post-start.sh") == 0, "a script's commands meet one container"
    )
    assert switch.read("/var/tmp/from-radv") == switch.read("/etc/hostname")
    assert (
        switch.run("/usr/bin/docker", "exec", kube, "cat", "/tmp/from-host")
        == switch.read("/etc/hostname").strip()
    )

    # A script's start() means the container that it makes.
    assert '"Name": "/radv"' in switch.run("docker", "inspect", "--type", "container", "radv")
    switch.run("docker", "rm", "-f", "radv")
    assert switch.code("/usr/bin/docker", "inspect", local) != 0
    switch.run("/usr/bin/radv.sh", "start")
    assert switch.run("/usr/bin/docker", "inspect", "-f", "{{.State.Status}}", "radv") == "created"
    until_docker(switch, f"true {kube}", "inspect", "-f", "{{.State.Running}} {{.Id}}", "radv")

    # Without an answer of the daemon docker works as ever: the name is the local container's.
    switch.run("systemctl", "kill", "--signal=STOP", "kubesyncd")
    try:
        assert '"Name": "/radv"' in switch.run("docker", "inspect", "radv")
    finally:
        switch.run("systemctl", "kill", "--signal=CONT", "kubesyncd")
    with without_daemon(switch):
        assert '"Name": "/radv"' in switch.run("docker", "inspect", "radv")

    owner(switch, "local")
    owned_by(switch, "local")
    assert switch.run("docker", "exec", "radv", "sh", "-c", "echo $RUNTIME_OWNER") == "local"
