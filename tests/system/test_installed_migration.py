"""Check that a switch moves from ctrmgrd to kubesyncd and back by the guide, and nothing restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.system.ctrmgrd_switch import PATH, admitted, furnish_ctrmgrd, pod
from tests.system.installed_fixtures import BY_FULL_PATH, SETTINGS, add_feature, redis, row, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.installed_fixtures import Packages
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

FEATURES = ("snmp", "lldp", "radv")
SOCKET = "/run/kubesyncd/container"
ENTRYPOINT = "/usr/share/kubesyncd/container/entrypoint"


@dataclass(frozen=True, slots=True)
class Seen:
    """What must not change: each unit's restarts and main process, each running container's start, each row."""

    units: dict[str, str]
    containers: dict[str, str]
    rows: dict[str, dict[str, str]]


def seen(switch: InstalledSwitch) -> Seen:
    shown = {
        name: switch.run("systemctl", "show", name, "-p", "NRestarts,MainPID,ExecMainStartTimestamp")
        for name in FEATURES
    }
    ids = switch.run("docker", "ps", "-q", "--no-trunc").split()
    started = switch.run("docker", "inspect", "-f", "{{.Id}} {{.State.StartedAt}}", *ids).splitlines()
    rows = {name: row(switch, name) for name in FEATURES}
    for fields in rows.values():
        # kubesyncd's own: ctrmgrd does not read it.
        fields.pop("revision", None)
    return Seen(shown, dict(line.split() for line in started), rows)


def active(switch: InstalledSwitch, name: str) -> bool:
    return switch.show(name, "ActiveState") == "active"


def state(switch: InstalledSwitch, name: str) -> str:
    said = switch.run("/usr/bin/container", "state", name)
    return next(line for line in said.splitlines() if line.startswith("state="))


def moves(switch: InstalledSwitch, packages: Packages) -> None:
    """As docs/migrate.md says; the settings are as on a switch with SONiC's version file."""
    switch.run("systemctl", "disable", "--now", "ctrmgrd")
    for package in (packages.daemon, packages.kube):
        switch.write(f"/var/tmp/{package.name}", "")
        (switch.root / "var/tmp" / package.name).write_bytes(package.read_bytes())
    files = (f"/var/tmp/{package.name}" for package in (packages.daemon, packages.kube))
    switch.write(
        SETTINGS, '[schema]\nnames = "sonic"\n[timing]\nkube_stable_s = 0.5\nhandover_delay_s = 0.5\n'
    )
    switch.run("dpkg", "--force-confold", "-i", *files)
    switch.run("mv", PATH, f"{PATH}.ctrmgrd")
    switch.run("ln", "-s", "/usr/bin/container", PATH)
    switch.wait_for(lambda: active(switch, "kubesyncd"), "the daemon runs")


def moves_back(switch: InstalledSwitch) -> None:
    switch.run("dpkg", "-r", "kubesyncd-kube", "kubesyncd")
    switch.run("systemctl", "enable", "--now", "ctrmgrd")
    # Not what an earlier ctrmgrd has seen.
    run = f"_SYSTEMD_INVOCATION_ID={switch.show('ctrmgrd', 'InvocationID')}"
    for name in FEATURES:
        if not active(switch, name):
            continue
        told = f"seen {name} "
        switch.wait_for(
            lambda told=told: told in switch.run("journalctl", "-o", "cat", run), f"ctrmgrd looks at {name}"
        )


def features_of_ctrmgrd(switch: InstalledSwitch) -> str:
    """snmp runs locally, lldp waits for its pod, and radv's pod runs; return its container's ID."""
    furnish_ctrmgrd(switch)
    kube_only = {"set_owner": "kube", "no_fallback_to_local": "true", "state": "enabled"}
    add_feature(switch, "snmp", container=BY_FULL_PATH, set_owner="local", state="enabled")
    for name in ("lldp", "radv"):
        add_feature(switch, name, container=BY_FULL_PATH, **kube_only)
    by_kube = pod(switch, "radv", "lab-feature")
    admitted(switch, "radv", by_kube, "20240510.1")
    for name in FEATURES:
        redis(switch, 6, "hset", f"FEATURE|{name}", "state", "enabled", "up_status", "true")
    switch.wait_for(lambda: switch.succeeds("pgrep", "-fx", f"docker wait {by_kube[:12]}"), "its unit waits")
    return by_kube


def is_in(switch: InstalledSwitch, name: str, wanted: str) -> None:
    switch.wait_for(lambda: state(switch, name) == f"state={wanted}", f"{name} is {wanted}")


def comes_and_ends(switch: InstalledSwitch) -> None:
    """The pod that lldp waits for comes in ctrmgrd's way, past the unit's own process, and ends by itself."""
    late, before = pod(switch, "lldp", "lab-feature"), seen(switch).units
    admitted(switch, "lldp", late, "20240510.1")
    is_in(switch, "lldp", "KUBE_RUNNING")
    assert seen(switch).units == before
    # That process looks for the pod from time to time: it would not notice one that comes and goes in between.
    switch.wait_for(
        lambda: switch.succeeds("pgrep", "-fx", f"docker wait {late[:12]}"), "its unit waits for the pod"
    )
    switch.run("docker", "kill", late)
    switch.wait_for(
        lambda: switch.show("lldp", "NRestarts") == "1", "systemd restarts its unit, as under ctrmgrd"
    )
    waits = ("pgrep", "-f", "container wait lldp")
    switch.wait_for(lambda: switch.succeeds(*waits), "the unit waits")
    is_in(switch, "lldp", "KUBE_READY")
    pod(switch, "lldp", ENTRYPOINT, "lldp", "lab-feature", folders=(SOCKET,))
    is_in(switch, "lldp", "KUBE_RUNNING")


def hands_over_both_ways(switch: InstalledSwitch) -> None:
    """The first one restarts the unit, which has waited by ctrmgrd's program; it does not end by itself."""
    redis(switch, 4, "hset", "FEATURE|radv", "set_owner", "local")
    waits = ("pgrep", "-f", "container wait radv")
    switch.wait_for(lambda: switch.succeeds(*waits), "its unit waits by kubesyncd")
    is_in(switch, "radv", "LOCAL")
    redis(switch, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    by_kube = pod(switch, "radv", ENTRYPOINT, "radv", "lab-feature", folders=(SOCKET,))
    switch.wait_for(lambda: row(switch, "radv").get("container_id") == by_kube[:12], "and back")
    assert switch.show("radv", "NRestarts") == "0"


def runs_locally_meanwhile(switch: InstalledSwitch) -> None:
    """ctrmgrd runs lldp locally, which kubesyncd has left waiting for its pod; it is Kubernetes' again."""
    redis(switch, 4, "hset", "FEATURE|lldp", "set_owner", "local")
    switch.run("systemctl", "restart", "lldp")
    switch.wait_for(lambda: switch.succeeds("pgrep", "-fx", "docker wait lldp"), "its unit waits")
    redis(switch, 4, "hset", "FEATURE|lldp", "set_owner", "kube")


@pytest.mark.slow("installs and removes the packages three times")
def test_a_switch_of_ctrmgrds_moves_and_back_without_a_restart(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch = bare_switches()
    by_kube = features_of_ctrmgrd(switch)
    before = seen(switch)
    assert before.rows["radv"]["current_owner"] == "kube"
    moves(switch, packages(""))
    is_in(switch, "radv", "KUBE_RUNNING")
    is_in(switch, "snmp", "LOCAL")
    is_in(switch, "lldp", "UNKNOWN")
    assert seen(switch) == before
    assert switch.run("container", "exec", "radv", "hostname")
    assert switch.run("container", "inspect", "-f", "{{.Id}}", "radv") == by_kube
    assert switch.run("container", "id", "radv") == by_kube[:12]
    for _ in range(2):
        switch.run("systemctl", "restart", "kubesyncd")
        is_in(switch, "radv", "KUBE_RUNNING")
    assert seen(switch) == before

    comes_and_ends(switch)
    hands_over_both_ways(switch)

    before = seen(switch)
    moves_back(switch)
    assert seen(switch) == before
    moves(switch, packages(""))
    is_in(switch, "radv", "KUBE_RUNNING")
    assert seen(switch) == before
    switch.run("systemctl", "stop", "lldp")
    assert row(switch, "lldp")["system_state"] == "down"
    assert switch.run("docker", "ps", "-q", "--filter", "name=k8s_lldp_") == ""
    switch.run("systemctl", "start", "lldp")
    is_in(switch, "lldp", "KUBE_READY")
    moves_back(switch)
    runs_locally_meanwhile(switch)
    before = seen(switch)
    moves(switch, packages(""))
    is_in(switch, "lldp", "LOCAL")
    switch.wait_for(lambda: "revision" in row(switch, "lldp"), "its row is looked at")
    assert seen(switch) == before

    moves_back(switch)
    assert seen(switch) == before
    switch.run("systemctl", "restart", "snmp")
    assert running(switch, "snmp")
