"""Check that the end of a unit is heard from systemd, whatever its script has said, under scripts of SONiC's shape.

SONiC's scripts (docker_image_ctl.j2, service_mgmt.sh) look for a running container before they call `container stop`,
call `container kill` without --no-kubelet-check while a warm or fast reboot is under way, and can be killed. `featured`
stops, disables and masks the unit of a disabled feature. The scripts here are this test's own, in that shape.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.system.installed_fixtures import IMAGE, UNIT, journal, on_every_suite, redis, row, running
from tests.system.installed_kube import Master

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

# The stop asks docker first, as by a substring of a name; start is followed by actions of the feature's own.
SCRIPT = """#!/bin/bash
NAME={name}$2
start() {{
    [ ! -e /run/lab-broken-{name} ] || exit 4
    docker inspect --type container $NAME >/dev/null 2>&1 || docker create --name $NAME --net=host \
        -e RUNTIME_OWNER=local -v /usr:/usr:ro -v /etc:/etc:ro {image} lab-feature
    /usr/bin/container start $NAME || exit
    [ ! -e /run/lab-post-start-{name} ] || exit 5
}}
stop() {{
    if [ -z "$(docker ps --quiet --filter name=$NAME)" ]; then
        echo "nothing to stop: $NAME"
    else
        /usr/bin/container stop $NAME
    fi
}}
case $1 in
start | stop) $1 ;;
wait | kill) /usr/bin/container $1 $NAME ;;
esac
"""

# Ends the feature's container at once where the flag of a warm reboot is set.
SERVICE = """#!/bin/bash
case $1 in
stop)
    flag=$(redis-cli -s /run/redis/redis.sock -n 6 hget 'WARM_RESTART_ENABLE_TABLE|system' enable)
    if [ "$flag" = true ]; then /usr/bin/{name}.sh kill $2; else /usr/bin/{name}.sh stop $2; fi
    ;;
*) /usr/bin/{name}.sh "$@" ;;
esac
"""


@pytest.fixture
def master(installed: InstalledSwitch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Master]:
    with Master(installed, tmp_path_factory.mktemp("master")) as master:
        yield master


@pytest.fixture
def lldp(installed: InstalledSwitch, master: Master) -> Iterator[InstalledSwitch]:
    """The switch, with lldp under a script of SONiC's shape; it waits for Kubernetes, which may run it."""
    add(installed, "lldp", set_owner="kube")
    installed.run("systemctl", "start", "lldp")
    installed.wait_for(lambda: label(master) == "true", "Kubernetes may run lldp")
    assert row(installed, "lldp")["system_state"] == "up"
    yield installed
    remove(installed, "lldp", "lldp")
    installed.wait_for(lambda: label(master) is None, "the label is off, before the next test looks at it")


def add(switch: InstalledSwitch, name: str, *, at: str = "", **fields: str) -> None:
    """A feature as SONiC installs it: its unit is in /usr/lib, so that it can be masked; `at`: for each ASIC."""
    unit = UNIT.format(name=name, user="admin", after="database.service")
    for verb in ("start", "wait", "stop"):
        unit = unit.replace(f".sh {verb}", f".sh {verb} %i" if at else f".sh {verb}")
    switch.write(f"/usr/lib/systemd/system/{name}{at}.service", unit)
    switch.write(f"/usr/bin/{name}.sh", SCRIPT.format(name=name, image=IMAGE), mode=0o755)
    switch.write(f"/usr/local/bin/{name}.sh", SERVICE.format(name=name), mode=0o755)
    if fields:
        redis(switch, 4, "hset", f"FEATURE|{name}", *(word for item in fields.items() for word in item))
    switch.run("systemctl", "daemon-reload")


def remove(switch: InstalledSwitch, name: str, container: str, at: str = "") -> None:
    unit = f"{name}{at}.service"
    for trouble in ("broken", "post-start"):
        switch.process("rm", "-f", f"/run/lab-{trouble}-{name}")
    switch.process("systemctl", "unmask", unit)
    switch.process("systemctl", "disable", "--now", unit)
    switch.process("docker", "rm", "-f", container)
    redis(switch, 4, "del", f"FEATURE|{name}")
    file, scripts = unit.replace("@0", "@"), (f"/usr/bin/{name}.sh", f"/usr/local/bin/{name}.sh")
    switch.process("rm", "-rf", f"/etc/systemd/system/{unit}.d", f"/usr/lib/systemd/system/{file}", *scripts)
    switch.run("systemctl", "daemon-reload")


def label(master: Master) -> str | None:
    return (master.labels() or {}).get("lldp_enabled")


def is_down(switch: InstalledSwitch, master: Master, *, runs: str = "none") -> None:
    """Once the row says so, the label is off, and what Kubernetes deploys afterwards is not admitted."""
    switch.wait_for(lambda: row(switch, "lldp").get("system_state") == "down", "the row is down")
    switch.wait_for(lambda: label(master) is None, "the label is off")
    switch.wait_for(lambda: row(switch, "lldp")["current_owner"] == runs, "what it has started ends")


@on_every_suite
def test_a_feature_that_waits_for_kubernetes_ends_with_its_unit(
    lldp: InstalledSwitch, master: Master
) -> None:
    lldp.run("systemctl", "stop", "lldp")
    is_down(lldp, master)
    assert lldp.show("lldp", "Result") == "success"
    told = journal(lldp, "lldp")
    assert "nothing to stop: lldp" in told, "its script has not called us"
    assert "unit-ended" not in told, "and the end of the unit prints nothing"
    lldp.run("systemctl", "start", "lldp")
    lldp.wait_for(lambda: label(master) == "true", "Kubernetes may run it again")
    # A restart of the unit is no end of it.
    lldp.run("systemctl", "restart", "lldp")
    assert row(lldp, "lldp")["system_state"] == "up"


def test_a_disabled_feature_ends_also_where_no_daemon_runs_then(
    lldp: InstalledSwitch, master: Master
) -> None:
    sockets = ("kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service")
    lldp.run("systemctl", "mask", "--now", *sockets)
    try:
        begun = time.monotonic()
        for step in ("stop", "disable", "mask"):
            lldp.run("systemctl", step, "lldp")
        assert time.monotonic() - begun < 60.0, "what is not there is not waited for"
        assert lldp.show("lldp", "Result") == "success"
        assert row(lldp, "lldp")["system_state"] == "up"
    finally:
        lldp.run("systemctl", "unmask", *sockets)
        lldp.run("systemctl", "start", *sockets)
    is_down(lldp, master)


def test_a_container_that_an_operator_starts_with_the_unit_down_is_kept_by_the_next_daemon(
    lldp: InstalledSwitch, master: Master
) -> None:
    redis(lldp, 4, "hset", "FEATURE|lldp", "set_owner", "local")
    lldp.wait_for(lambda: running(lldp, "lldp"), "its local container runs")
    sockets = ("kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service")
    lldp.run("systemctl", "mask", "--now", *sockets)
    try:
        lldp.run("systemctl", "stop", "lldp")
        lldp.run("docker", "start", "lldp")
    finally:
        lldp.run("systemctl", "unmask", *sockets)
        lldp.run("systemctl", "start", *sockets)
    is_down(lldp, master, runs="local")
    assert running(lldp, "lldp")


def test_a_service_that_only_starts_a_feature_does_not_end_it(installed: InstalledSwitch) -> None:
    add(installed, "lldp", set_owner="local")
    try:
        installed.run("systemctl", "start", "lldp")
        installed.wait_for(lambda: running(installed, "lldp"), "it has made its container")
        installed.run("systemctl", "stop", "lldp")
        starts = "[Service]\nType=oneshot\nExecStart=/usr/bin/container start lldp\n"
        installed.write("/usr/lib/systemd/system/lldp.service", starts)
        installed.run("systemctl", "daemon-reload")
        installed.run("systemctl", "start", "lldp")
        assert installed.show("lldp", "ActiveState") == "inactive"
        # The daemon's first look is an audit of all units.
        installed.run("systemctl", "restart", "kubesyncd")
        installed.wait_for(lambda: row(installed, "lldp").get("system_state") == "up", "it is up")
        assert running(installed, "lldp")
    finally:
        installed.process("container", "stop", "lldp")
        remove(installed, "lldp", "lldp")


def test_a_unit_that_systemd_starts_again_does_not_move_the_label(
    lldp: InstalledSwitch, master: Master
) -> None:
    waiter = lldp.show("lldp", "MainPID")
    before = labels_taken_off(lldp)
    lldp.run("systemctl", "kill", "--signal=KILL", "lldp")
    lldp.wait_for(
        lambda: (
            lldp.show("lldp", "MainPID") not in (waiter, "0") and lldp.show("lldp", "SubState") == "running"
        ),
        "another process waits",
    )
    # Its local container crashes, and Kubernetes may replace it at any time.
    redis(lldp, 4, "hset", "FEATURE|lldp", "fallback_to_local", "true")
    lldp.run("systemctl", "reset-failed", "lldp")
    lldp.run("systemctl", "restart", "lldp")
    lldp.wait_for(lambda: running(lldp, "lldp"), "it falls back")
    restarts = int(lldp.show("lldp", "NRestarts"))
    lldp.run("docker", "kill", "lldp")
    lldp.wait_for(
        lambda: int(lldp.show("lldp", "NRestarts")) > restarts and running(lldp, "lldp"), "it runs again"
    )
    assert labels_taken_off(lldp) == before
    assert label(master) == "true"

    # As `featured` writes it for auto_restart=disabled: a unit whose start fails has ended, and what it started ends.
    lldp.write("/etc/systemd/system/lldp.service.d/auto_restart.conf", "[Service]\nRestart=no\n")
    lldp.write("/run/lab-post-start-lldp", "")
    lldp.run("systemctl", "daemon-reload")
    lldp.run("systemctl", "reset-failed", "lldp")
    assert lldp.code("systemctl", "restart", "lldp") != 0
    assert lldp.show("lldp", "ActiveState") == "failed"
    is_down(lldp, master)
    lldp.wait_for(lambda: not running(lldp, "lldp"), "the container that no unit follows is ended")


def labels_taken_off(switch: InstalledSwitch) -> int:
    """How many times lldp's label was taken off, by the journal."""
    return journal(switch, "kubesyncd").count('"lldp_enabled": "(removed)"')


def test_a_start_that_fails_leaves_nothing_up(installed: InstalledSwitch, master: Master) -> None:
    add(installed, "lldp", set_owner="kube")
    try:
        installed.write("/run/lab-broken-lldp", "")
        assert installed.code("systemctl", "start", "lldp") != 0
        installed.wait_for(
            lambda: installed.show("lldp", "ActiveState") == "failed", "it has failed for good"
        )
        assert row(installed, "lldp").get("system_state", "") != "up"
        assert label(master) is None
    finally:
        remove(installed, "lldp", "lldp")


def test_the_unit_of_an_asic_ends_the_container_of_that_asic(
    installed: InstalledSwitch, master: Master
) -> None:
    add(installed, "teamd", at="@", set_owner="local")
    try:
        for asic in ("0", "1"):
            installed.run("systemctl", "start", f"teamd@{asic}")
            installed.wait_for(lambda asic=asic: running(installed, f"teamd{asic}"), f"teamd{asic} runs")
        # As swss.sh does in a warm reboot: by docker, past every verb.
        # The unit of ASIC 1 may not have begun to wait yet.
        kills = '#!/bin/sh\n[ $1 != stop ] || exec docker kill teamd$2\nexec /usr/bin/teamd.whole "$@"\n'
        installed.write("/usr/bin/teamd.kills", kills, mode=0o755)
        installed.run("cp", "/usr/bin/teamd.sh", "/usr/bin/teamd.whole")
        installed.run("mv", "/usr/bin/teamd.kills", "/usr/bin/teamd.sh")
        installed.run("systemctl", "stop", "teamd@0")
        installed.wait_for(lambda: row(installed, "teamd0").get("system_state") == "down", "teamd0 is down")
        assert row(installed, "teamd1")["system_state"] == "up"
        assert running(installed, "teamd1")
    finally:
        remove(installed, "teamd", "teamd1", at="@1")
        remove(installed, "teamd", "teamd0", at="@0")


@on_every_suite
@pytest.mark.parametrize("word", ["fastfast-reboot", "fast-reboot"])
def test_a_kill_while_a_reboot_is_prepared_is_the_quick_one(
    lldp: InstalledSwitch, master: Master, word: str
) -> None:
    """What the fast-reboot script does: prepare, set the flag, and stop the services by systemctl."""
    master.deploy("lldp")
    lldp.wait_for(lambda: row(lldp, "lldp").get("current_owner") == "kube", "kube runs lldp")
    lldp.wait_for(lambda: lldp.show("kubelet", "ActiveState") == "active", "the kubelet runs")
    kube, changes = row(lldp, "lldp")["docker_id"], labels_taken_off(lldp)
    try:
        told = json.loads(lldp.run("kubesync", "reboot", "prepare", word, "--json"))
        assert (told["prepared"], told["kind"]) == (True, "warm" if word == "fastfast-reboot" else "fast")
        redis(lldp, 6, "hset", "WARM_RESTART_ENABLE_TABLE|system", "enable", "true")
        lldp.run("systemctl", "stop", "lldp")
        assert lldp.process("docker", "inspect", "-f", "{{.State.Running}}", kube).stdout.strip() != "true"
        assert lldp.show("lldp", "Result") == "success"
        assert "state=INIT" in lldp.run("container", "state", "lldp")
        assert lldp.show("kubelet", "ActiveState") == "inactive"
        assert (label(master), labels_taken_off(lldp)) == ("true", changes), "labels are left as they are"
    finally:
        redis(lldp, 6, "del", "WARM_RESTART_ENABLE_TABLE|system")
        lldp.run("kubesync", "reboot", "prepare", "--undo")
        master.withdraw("lldp")
    is_down(lldp, master)
    lldp.wait_for(lambda: lldp.show("kubelet", "ActiveState") == "active", "the kubelet runs again")
