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
    for name in FEATURES:
        told = f"seen {name} "
        switch.wait_for(
            lambda told=told: (
                told in switch.run("journalctl", "-u", "ctrmgrd", "-o", "cat", "--since", "-1min")
            ),
            f"ctrmgrd looks at {name}",
        )


@pytest.mark.slow("installs and removes the packages twice")
def test_a_switch_of_ctrmgrds_moves_and_back_without_a_restart(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch = bare_switches()
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

    before = seen(switch)
    assert before.rows["radv"]["current_owner"] == "kube"
    moves(switch, packages(""))
    switch.wait_for(lambda: state(switch, "radv") == "state=KUBE_RUNNING", "radv is taken over")
    switch.wait_for(lambda: state(switch, "snmp") == "state=LOCAL", "snmp is taken over")
    assert state(switch, "lldp") == "state=UNKNOWN"
    assert seen(switch) == before
    assert switch.run("container", "exec", "radv", "hostname")
    assert switch.run("container", "inspect", "-f", "{{.Id}}", "radv") == by_kube
    for _ in range(2):
        switch.run("systemctl", "restart", "kubesyncd")
        assert state(switch, "radv") == "state=KUBE_RUNNING"
    assert seen(switch) == before

    # The pod that lldp waits for comes in ctrmgrd's way, and the unit's own process lets it pass.
    late = pod(switch, "lldp", "lab-feature")
    admitted(switch, "lldp", late, "20240510.1")
    switch.wait_for(lambda: state(switch, "lldp") == "state=KUBE_RUNNING", "lldp is taken over")
    assert seen(switch).units == before.units

    redis(switch, 4, "hset", "FEATURE|radv", "set_owner", "local")
    switch.wait_for(lambda: row(switch, "radv").get("current_owner") == "local", "radv is handed over")
    switch.wait_for(
        lambda: switch.succeeds("pgrep", "-f", "container wait radv"), "its unit waits by kubesyncd"
    )
    restarts = switch.show("radv", "NRestarts")
    assert restarts == "0", "restarted by kubesyncd, not after its end"
    redis(switch, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    by_kube = pod(switch, "radv", ENTRYPOINT, "radv", "lab-feature", folders=(SOCKET,))
    switch.wait_for(lambda: row(switch, "radv").get("container_id") == by_kube[:12], "and back")
    assert switch.show("radv", "NRestarts") == restarts

    before = seen(switch)
    moves_back(switch)
    assert seen(switch) == before
    moves(switch, packages(""))
    switch.wait_for(lambda: state(switch, "radv") == "state=KUBE_RUNNING", "radv is taken over")
    assert seen(switch) == before
    moves_back(switch)
    assert seen(switch) == before
    switch.run("systemctl", "restart", "snmp")
    assert running(switch, "snmp")
    switch.run("systemctl", "stop", "lldp")
    assert row(switch, "lldp")["system_state"] == "down"
    assert late not in switch.run("docker", "ps", "-q", "--no-trunc").split()
