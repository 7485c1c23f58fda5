"""Check units, boots and crashes on a switch with our package installed."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.sonic_utilities import CLICKS, click_of
from tests.paths import ROOT
from tests.system.installed_fixtures import on_every_suite, redis, row, running
from tests.system.installed_load import load
from tests.system.installed_switch import SUITES

if TYPE_CHECKING:
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")
SONIC_UTILITIES = ROOT / "tests" / "lab" / "sonic_utilities.py"


@on_every_suite
def test_a_feature_is_started_stopped_and_restarted_by_systemctl(installed: InstalledSwitch) -> None:
    installed.wait_for(lambda: row(installed, "snmp").get("current_owner") == "local", "snmp runs locally")
    assert running(installed, "snmp")
    before = installed.run("docker", "inspect", "-f", "{{.State.StartedAt}}", "snmp")

    installed.run("systemctl", "restart", "snmp")
    assert installed.run("docker", "inspect", "-f", "{{.State.StartedAt}}", "snmp") > before
    installed.run("systemctl", "stop", "snmp")
    assert not running(installed, "snmp")
    assert row(installed, "snmp")["system_state"] == "down"
    assert installed.show("snmp", "Result") == "success"

    installed.run("systemctl", "start", "snmp")
    assert running(installed, "snmp")
    assert row(installed, "snmp")["system_state"] == "up"


@on_every_suite
def test_systemd_finds_nothing_wrong_with_our_units(installed: InstalledSwitch) -> None:
    files = installed.run("dpkg-query", "--listfiles", "kubesyncd").split("\n")
    units = [file for file in files if file.endswith((".service", ".socket", ".target"))]
    checked = installed.process("systemd-analyze", "verify", "--man=no", "snmp.service", *units)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert len(units) > 3


@on_every_suite
def test_operators_ask_on_a_host_that_has_none_of_the_libraries(installed: InstalledSwitch) -> None:
    # And the daemon's Python has only what the daemon imports.
    for python, libraries in (
        ("python3", ("click", "jinja2", "rich", "yaml")),
        ("/usr/lib/kubesyncd/bin/python3", ("click", "jinja2", "rich")),
    ):
        for library in libraries:
            assert not installed.succeeds(python, "-I", "-c", f"import {library}"), (python, library)
    count = (
        "cd /usr/lib/kubesyncd && find *-packages -name '*.py' | wc -l; find *-packages -name '*.pyc' | wc -l"
    )
    written, compiled = installed.run("sh", "-c", count).split()
    assert written == compiled, "at installation, so that no start has to"
    shown = json.loads(installed.run("kubesync", "show", "feature", "snmp", "--json"))
    assert "LOCAL" in json.dumps(shown)
    assert "snmp" in installed.run("kubesync", "show", "feature")
    assert "snmp" in installed.run("kubesync", "explain", "snmp")
    assert installed.process("kubesync", "doctor").returncode in (0, 1)
    assert installed.run("kubesync", "--version").split()[-1] == field(installed, "Version").partition("+")[0]


def test_a_user_without_the_right_gets_one_line(installed: InstalledSwitch) -> None:
    for line in (
        "show feature",
        "explain snmp",
        "config kube label add rack a7",
        "config feature install tap",
        "feature-table save",
    ):
        ended = installed.process("kubesync", *line.split(), user="daemon")
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (77, "", 1), ended
        assert "use sudo" in ended.stderr


# What a process of sonic-utilities has loaded of our folder.
LOADED = """
import runpy, sys
sys.argv[:] = ["sonic_utilities", *sys.argv[1:]]
try:
    runpy.run_path("/root/sonic_utilities.py", run_name="__main__")
except SystemExit:
    pass
ours = "/usr/lib/kubesyncd/"
files = {getattr(module, "__file__", None) or "" for module in sys.modules.values()}
print(*sorted(file for file in files if file.startswith(ours) and "/site-packages/kubesyncd/" not in file))
"""


@on_every_suite
def test_sonic_utilities_find_our_commands(installed: InstalledSwitch) -> None:
    click = click_of(CLICKS[SUITES.index(installed.suite)])
    assert click is not None, "make engines brings it"
    (version,) = installed.run("sh", "-c", "cd /usr/lib && ls -d python3.*").split()
    folder = f"/usr/local/lib/{version}/dist-packages"
    for command in ("config", "show"):
        installed.write(f"{folder}/{command}/plugins/__init__.py", "")
        installed.write(f"{folder}/{command}/__init__.py", "")
    # SONiC's own click and redis are older than what we need, and found first.
    installed.write(f"{folder}/redis.py", "__version__ = '3.5.3'")
    shutil.copytree(click, installed.root / folder[1:] / "click")
    installed.write("/root/sonic_utilities.py", SONIC_UTILITIES.read_text())
    installed.run("dpkg-reconfigure", "kubesyncd")
    show, config = (["python3", "/root/sonic_utilities.py", folder, name] for name in ("show", "config"))
    assert "snmp" in installed.run(*show, "feature")
    assert installed.run(*show, "feature", "status") == "sonic status [None]"
    assert installed.run("python3", "-c", LOADED, folder, "show", "version") == "sonic version []"
    assert installed.run(*config, "feature", "snmp", "owner", "local", "-y").startswith("snmp: ")
    assert installed.run(*config, "load_minigraph") == "sonic load_minigraph []"
    assert "snmp" in installed.run("cat", "/var/lib/kubesyncd/feature-table.json")
    installed.run("rm", f"{folder}/redis.py", "/var/lib/kubesyncd/feature-table.json")
    installed.run("rm", "-r", f"{folder}/config", f"{folder}/show", f"{folder}/click")


@on_every_suite
def test_wherever_the_container_command_is_named_it_is_ours(installed: InstalledSwitch) -> None:
    whole = installed.run("container", "id", "snmp", user="admin")
    assert len(whole) == 64
    assert installed.run("system", "container", "id", "snmp", user="admin") == whole
    assert installed.run("/etc/sonic/scripts/container_state", "snmp", "up", "local", user="admin") == ""
    assert installed.process("container", "id", "nobody", user="admin").returncode == 1
    assert installed.process("container", "id", "snmp", user="daemon").returncode == 77


def field(switch: InstalledSwitch, name: str) -> str:
    """What the installed package says of itself."""
    return switch.run("dpkg-query", "-W", f"-f=${{{name}}}", "kubesyncd")


def test_a_killed_daemon_returns_without_an_effect_on_clients_under_load(installed: InstalledSwitch) -> None:
    waiter = installed.show("snmp", "MainPID")
    restarts = installed.show("snmp", "NRestarts")
    with load(installed):
        for _ in range(3):
            daemon = installed.show("kubesyncd", "MainPID")
            installed.run("systemctl", "kill", "--signal=KILL", "kubesyncd")
            installed.wait_for(
                lambda before=daemon: (
                    installed.show("kubesyncd", "MainPID") not in ("0", before)
                    and installed.show("kubesyncd", "ActiveState") == "active"
                ),
                "the daemon is back",
            )
    installed.run("container", "id", "snmp", user="admin")
    assert installed.show("snmp", "MainPID") == waiter
    assert installed.show("snmp", "NRestarts") == restarts
    assert running(installed, "snmp")


def test_the_first_request_starts_a_stopped_daemon(installed: InstalledSwitch) -> None:
    daemon = installed.show("kubesyncd", "MainPID")
    installed.run("systemctl", "stop", "kubesyncd.service")
    assert installed.run("container", "id", "snmp", user="admin")
    assert installed.show("kubesyncd", "MainPID") not in ("0", daemon)


def test_our_unit_is_bounded_and_in_its_place_among_the_features(installed: InstalledSwitch) -> None:
    said = {
        what: installed.show("kubesyncd", what)
        for what in ("Type", "Restart", "MemoryMax", "TasksMax", "WatchdogUSec", "RuntimeDirectoryPreserve")
    }
    assert said == {
        "Type": "notify",
        "Restart": "always",
        "MemoryMax": str(256 * 1024 * 1024),
        "TasksMax": "64",
        "WatchdogUSec": "30s",
        "RuntimeDirectoryPreserve": "yes",
    }
    # What any user's client needs where no daemon runs.
    boot = installed.run("cat", "/proc/sys/kernel/random/boot_id").strip()
    assert json.loads(installed.run("cat", "/var/lib/kubesyncd/boot.json", user="admin"))["boot_id"] == boot
    assert {"kubesyncd.service", "kubesyncd.socket"} <= set(
        installed.show("kubesyncd.target", "After").split()
    )
    for feature in ("database", "snmp"):
        assert f"{feature}.service" not in installed.show("kubesyncd", "After").split()
        assert "kubesyncd.target" in installed.show(feature, "After").split()
        assert installed.show(feature, "NotifyAccess") == "all"


def test_sonics_own_tools_read_what_they_expect(sonic_names: InstalledSwitch) -> None:
    # featured and sysmonitor share the row.
    redis(sonic_names, 6, "hset", "FEATURE|snmp", "state", "enabled", "up_status", "true")
    said = row(sonic_names, "snmp")
    assert time.strptime(said.pop("update_time"), "%Y-%m-%d %H:%M:%S")
    assert said.pop("revision").isdigit(), "kubesyncd's own: no tool of SONiC's reads it"
    assert said == {
        "system_state": "up",
        "current_owner": "local",
        "container_id": "snmp",
        "remote_state": "none",
        "state": "enabled",
        "up_status": "true",
    }
    sonic_names.run("systemctl", "stop", "snmp")
    said = row(sonic_names, "snmp")
    assert not said["container_id"], "container_checker takes a feature with one for running"
    assert (said["state"], said["up_status"]) == ("enabled", "true")
    sonic_names.run("systemctl", "start", "snmp")
    assert row(sonic_names, "snmp")["container_id"] == "snmp"
