"""Check that each step of `doctor --migrate` works on a switch that ctrmgrd has left, and leaves nothing to do.

The switch stands for an image of 202405 with ctrmgrd: SONiC's version file; ctrmgrd's unit, enabled and running; its
settings as shipped; its `container`, which here is plain docker; a reboot script's tool; labels in KUBE_LABELS; a
master whose certificate was never checked; the REST API's certificate by which the switch has joined; and FEATURE rows
as `config feature fallback NAME on` has written them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.certificates import Authority, write_kubeconfig
from tests.system.installed_fixtures import BY_FULL_PATH, SETTINGS, add_feature, install, redis, row, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.installed_fixtures import Packages
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

UNIT = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
MOVE = (
    "mv /usr/local/bin/container /usr/local/bin/container.ctrmgrd"
    " && ln -s /usr/bin/container /usr/local/bin/container"
)
SHIPPED = {
    "join_latency_on_boot_seconds": 300,
    "retry_join_interval_seconds": 30,
    "retry_labels_update_seconds": 5,
    "revert_to_local_on_wait_seconds": 360,
    "tag_latest_image_on_wait_seconds": 600,
    "retry_tag_latest_seconds": 30,
    "retry_clean_image_seconds": 30,
    "use_k8s_as_http_proxy": "n",
}


def leave(switch: InstalledSwitch, folder: Path) -> None:
    """Make the switch what ctrmgrd has left."""
    switch.write("/etc/sonic/sonic_version.yml", "build_version: '202405.1'\n")
    switch.write("/usr/local/bin/container", '#!/bin/sh\nexec docker "$@"\n', mode=0o755)
    switch.write("/usr/local/bin/ctrmgr_tools.py", "#!/usr/bin/python3\n", mode=0o755)
    switch.write("/lib/systemd/system/ctrmgrd.service", UNIT)
    switch.run("systemctl", "enable", "--now", "ctrmgrd")
    switch.write("/etc/sonic/remote_ctr.config.json", json.dumps(SHIPPED))
    authority = Authority(folder)
    pair = authority.issue("node", "system:node:switch1", "system:nodes")
    write_kubeconfig(folder / "conf", "https://192.0.2.1:6443", authority.pem, pair, inline=True)
    switch.write("/etc/sonic/kube_admin.conf", (folder / "conf").read_text(), mode=0o600)
    for name, file in (("crt", pair.certificate), ("key", pair.key)):
        switch.write(f"/etc/sonic/credentials/restapiserver.{name}", file.read_text(), mode=0o600)
    redis(switch, 4, "hset", "KUBERNETES_MASTER|SERVER", "ip", "192.0.2.1", "insecure", "True")
    redis(switch, 6, "hset", "KUBE_LABELS|SET", "rack", "r7", "snmp_enabled", "false", "hwsku", "ACS")
    add_feature(switch, "snmp", container=BY_FULL_PATH, set_owner="local", state="enabled")
    add_feature(
        switch,
        "lldp",
        container=BY_FULL_PATH,
        start=False,
        set_owner="kube",
        state="enabled",
        no_fallback_to_local="false",
    )


def configured(switch: InstalledSwitch, name: str) -> dict[str, str]:
    words = redis(switch, 4, "hgetall", f"FEATURE|{name}").split("\n")
    return dict(zip(words[::2], words[1::2], strict=False))


def with_tables(settings: str, printed: str) -> str:
    """The settings file with the printed tables in place of its own."""
    for table in re.findall(r"(?m)^\[[^\[]*", printed.partition("\n# to ")[0]):
        head = re.escape(table.split("\n")[0])
        settings = re.sub(rf"(?m)^{head}\n(?:(?!\[).*\n?)*", lambda _, new=table: new + "\n", settings)
    return settings


def to_run(printed: str) -> list[str]:
    """The printed commands."""
    return printed.partition("# to run\n")[2].partition("\n\n")[0].splitlines()


def shown(switch: InstalledSwitch, name: str) -> dict[str, Any]:
    return dict(json.loads(switch.run("kubesync", "show", "feature", name, "--json")))


def journal(switch: InstalledSwitch) -> list[str]:
    return switch.run("journalctl", "-u", "kubesyncd", "-o", "cat").splitlines()


def test_each_step_of_doctor_migrate_works_and_then_nothing_is_left_to_do(
    bare_switches: Callable[[], InstalledSwitch],
    packages: Callable[[str], Packages],
    tmp_path: Path,
) -> None:
    switch = bare_switches()
    leave(switch, tmp_path)
    install(switch, packages(""))
    switch.wait_for(lambda: "lldp does not fall back" in "\n".join(journal(switch)), "the alert names lldp")
    lines = [json.loads(line) for line in journal(switch) if line.startswith("{")]
    names = [(line["names"], line["why"]) for line in lines if line["event"] == "field_names"]
    # The second package restarts the daemon.
    assert set(names) == {("sonic", "/etc/sonic/sonic_version.yml exists")}

    printed = switch.run("kubesync", "doctor", "--migrate")
    assert "[schema]" not in printed, "SONiC's names are in use by themselves"
    assert re.search(r"(?m)^ca_cert_hash = \"sha256:[0-9a-f]{64}\"  # .*/etc/sonic/kube_admin.conf", printed)
    switch.write(SETTINGS, with_tables(switch.read(SETTINGS), printed))
    switch.run("systemctl", "restart", "kubesyncd")
    printed = switch.run("kubesync", "doctor", "--migrate")
    commands = to_run(printed)
    assert [command.partition("  # ")[0] for command in commands] == [
        "systemctl disable --now ctrmgrd",
        MOVE,
        "kubesync config kube server insecure off",
        "kubesync config feature fallback lldp off",
        "kubesync config kube label add rack r7",
    ]
    switch.run("systemctl", "stop", "kubesyncd.socket", "kubesyncd")
    down = to_run(switch.run("kubesync", "doctor", "--migrate"))
    assert [command for command in down if command not in commands] == [
        "systemctl start kubesyncd  # it does not answer; the next commands need it"
    ]
    for command in down:
        switch.run("sh", "-c", command)
    assert switch.run("kubesync", "doctor", "--migrate").splitlines()[0] == "# nothing is left to do"

    assert configured(switch, "lldp")["no_fallback_to_local"] == "true"
    assert running(switch, "snmp")
    switch.run("systemctl", "restart", "snmp")
    assert row(switch, "snmp")["container_id"] == "snmp"


def test_fallback_kept_from_ctrmgrds_time_survives_a_restart_and_ends_with_its_command(
    bare_switches: Callable[[], InstalledSwitch],
    packages: Callable[[str], Packages],
    tmp_path: Path,
) -> None:
    switch = bare_switches()
    leave(switch, tmp_path)
    redis(switch, 4, "hset", "KUBERNETES_MASTER|SERVER", "disable", "True")
    install(switch, packages(""))
    switch.run("systemctl", "disable", "--now", "ctrmgrd")
    switch.run("ln", "-sf", "/usr/bin/container", "/usr/local/bin/container")
    switch.run("systemctl", "start", "--no-block", "lldp")
    switch.wait_for(
        lambda: row(switch, "lldp").get("remote_state") == "stopped", "it waits for its deployment"
    )
    switch.run("systemctl", "restart", "kubesyncd")
    switch.wait_for(lambda: switch.succeeds("kubesync", "show", "feature", "lldp"), "the daemon is back")
    said = "lldp does not fall back"
    assert said in switch.process("kubesync", "doctor").stdout.replace("\n", " ").replace("  ", "")  # wrapped
    assert not running(switch, "lldp")

    switch.run("kubesync", "config", "feature", "fallback", "lldp", "on")
    switch.wait_for(lambda: row(switch, "lldp").get("current_owner") == "local", "it falls back")
    assert "no_fallback_to_local" not in configured(switch, "lldp")
    redis(switch, 4, "hset", "FEATURE|lldp", "no_fallback_to_local", "false")
    switch.run("systemctl", "restart", "kubesyncd")
    switch.wait_for(lambda: switch.succeeds("kubesync", "show", "feature", "lldp"), "the daemon is back")
    switch.wait_for(lambda: shown(switch, "lldp")["state"] == "LOCAL", "it runs locally as before")
    assert shown(switch, "lldp")["problems"] == [], "told once, it means what SONiC's documents say"
