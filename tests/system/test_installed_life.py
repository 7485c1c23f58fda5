"""Check that features survive boots, hangs, wrong settings, upgrades and the removal of the daemon."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.system.installed_fixtures import (
    BY_FULL_PATH,
    SETTINGS,
    add_feature,
    install,
    install_files,
    journal,
    on_every_suite,
    redis,
    row,
    running,
)
from tests.system.installed_load import load
from tests.system.installed_switch import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.installed_fixtures import Packages
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")


@pytest.fixture
def fresh(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> InstalledSwitch:
    """A switch of this test's own, with the package and a local feature snmp."""
    switch = bare_switches()
    install(switch, packages(""))
    add_feature(switch, "snmp")
    switch.wait_for(lambda: row(switch, "snmp").get("current_owner") == "local", "snmp runs locally")
    return switch


def unit(switch: InstalledSwitch) -> tuple[str, str]:
    return switch.show("snmp", "NRestarts"), switch.show("snmp", "MainPID")


def started_at(switch: InstalledSwitch) -> str:
    return switch.run("docker", "inspect", "-f", "{{.State.StartedAt}}", "snmp")


def runs_again(switch: InstalledSwitch, before: str) -> bool:
    """Whether snmp's container runs, with another start than `before`: a killed one counts as running for a moment."""
    return running(switch, "snmp") and started_at(switch) != before


def active(switch: InstalledSwitch, name: str) -> bool:
    return switch.show(name, "ActiveState") == "active"


@on_every_suite
def test_everything_is_up_again_after_a_boot_and_was_stopped_politely_before(fresh: InstalledSwitch) -> None:
    fresh.power_off()
    fresh.boot()
    fresh.wait_for(lambda: row(fresh, "snmp").get("current_owner") == "local", "snmp runs after the boot")
    assert running(fresh, "database")
    came_up = [
        int(fresh.show(name, "ActiveEnterTimestampMonotonic")) for name in ("kubesyncd", "database", "snmp")
    ]
    assert came_up == sorted(came_up), "the daemon first, and database through it"
    assert [fresh.show(name, "NRestarts") for name in ("kubesyncd", "database", "snmp")] == ["0", "0", "0"]
    before = fresh.run("docker", "inspect", "-f", "{{.State.FinishedAt}} {{.State.ExitCode}}", "snmp").split()
    assert before[1] == "0", "stopped by its unit before the daemon and Docker were, not killed"


def test_a_hanging_daemon_is_replaced_by_the_watchdog(fresh: InstalledSwitch) -> None:
    fresh.write("/etc/systemd/system/kubesyncd.service.d/test.conf", "[Service]\nWatchdogSec=3\n")
    fresh.run("systemctl", "daemon-reload")
    fresh.run("systemctl", "restart", "kubesyncd")
    before, daemon = unit(fresh), fresh.show("kubesyncd", "MainPID")
    fresh.run("systemctl", "kill", "--signal=STOP", "kubesyncd")
    fresh.wait_for(
        lambda: fresh.show("kubesyncd", "MainPID") not in ("0", daemon) and active(fresh, "kubesyncd"),
        "replaced",
    )
    assert fresh.run("container", "id", "snmp")
    assert unit(fresh) == before


def test_a_switch_with_the_daemon_masked_runs_its_features_by_plain_docker(fresh: InstalledSwitch) -> None:
    for name in ("kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service"):
        fresh.run("systemctl", "mask", "--now", name)
    for what, runs in (("stop", False), ("start", True), ("restart", True)):
        fresh.run("systemctl", what, "snmp")
        assert running(fresh, "snmp") is runs
    killed = started_at(fresh)
    fresh.run("docker", "kill", "snmp")
    fresh.wait_for(lambda: runs_again(fresh, killed), "systemd has restarted the unit")

    fresh.power_off()
    fresh.boot()
    fresh.wait_for(lambda: running(fresh, "snmp") and running(fresh, "database"), "up after a boot as well")
    # Until then its unit may still meet a daemon; from then on the daemon can know of it only by its row.
    fresh.wait_for(lambda: fresh.succeeds("pgrep", "-fx", "docker wait snmp"), "its unit has gone round us")
    fresh.wait_for(lambda: redis(fresh, 4, "ping") == "PONG", "Redis answers")
    load_config(fresh)
    before = unit(fresh)
    for name in ("kubesyncd.service", "kubesyncd.socket", "kubesyncd-container.socket"):
        fresh.run("systemctl", "unmask", name)
    fresh.run("systemctl", "start", "kubesyncd.socket", "kubesyncd-container.socket", "kubesyncd.service")
    fresh.wait_for(lambda: row(fresh, "snmp").get("current_owner") == "local", "the daemon knows it again")
    assert unit(fresh) == before
    fresh.run("systemctl", "restart", "snmp")
    assert row(fresh, "snmp")["system_state"] == "up", "its unit has spoken"


def load_config(switch: InstalledSwitch) -> None:
    """CONFIG_DB as SONiC fills it after a boot: Redis has forgotten all, and each feature has a row."""
    redis(switch, 4, "hset", "FEATURE|snmp", "set_owner", "local")
    redis(switch, 4, "set", "CONFIG_DB_INITIALIZED", "1")


def test_local_features_work_while_wrong_settings_keep_the_daemon_down(fresh: InstalledSwitch) -> None:
    good = fresh.read(SETTINGS)
    pid = fresh.run("systemctl", "show", "--value", "-p", "MainPID", "kubesyncd")
    fresh.write(SETTINGS, '[redis]\nurl = 5\n[docker]\nurl = "tcp://10.0.0.1:2375"\n')
    assert fresh.process("systemctl", "reload", "kubesyncd").returncode != 0, "the file is checked first"
    assert fresh.run("systemctl", "show", "--value", "-p", "MainPID", "kubesyncd") == pid, "and it runs on"
    fresh.run("journalctl", "--sync")
    shown = fresh.process("systemctl", "status", "--full", "kubesyncd").stdout
    assert "[redis] url = 5; allowed:" in shown, shown
    assert "[docker] url = 'tcp://10.0.0.1:2375'; allowed:" in shown, "all errors are told at once"
    asked = fresh.process("kubesync", "show", "feature", "snmp")
    assert asked.returncode == 0, asked
    assert asked.stderr.count("its default is used") == 2, (
        "operators see what the daemon does, and the errors"
    )

    fresh.process("systemctl", "restart", "kubesyncd")
    fresh.wait_for(
        lambda: "not started: " in fresh.process("systemctl", "status", "--full", "kubesyncd").stdout,
        "its status names the error",
    )
    assert "FAIL  settings" in fresh.process("kubesync", "doctor").stdout
    fresh.wait_for(lambda: not active(fresh, "kubesyncd.socket"), "its sockets are closed while it fails")
    fresh.run("systemctl", "restart", "snmp")
    assert running(fresh, "snmp")
    fresh.wait_for(lambda: "[redis] url" in journal(fresh, "kubesyncd"), "it says so")

    fresh.write(SETTINGS, good)
    fresh.wait_for(lambda: active(fresh, "kubesyncd"), "it comes back by itself")
    fresh.wait_for(lambda: active(fresh, "kubesyncd.socket"), "and its sockets")
    assert fresh.run("container", "state", "snmp")


CORRECT_WHILE_IT_IS_DOWN = f"""
while [ "$(systemctl show -P ActiveState kubesyncd-retry)" != activating ]; do :; done
exec cp /run/good.toml {SETTINGS}
"""


def test_clients_that_ask_after_a_failed_start_leave_no_daemon_without_sockets(
    fresh: InstalledSwitch,
) -> None:
    fresh.write("/run/good.toml", fresh.read(SETTINGS))
    fresh.write(SETTINGS, "[redis]\nurl = 5\n")
    # The sockets are still open when the daemon has just failed: the next question would start it.
    scripts = fresh.spawn("sh", "-c", "while sleep 0.02; do container state snmp; done >/dev/null 2>&1")
    correction = fresh.spawn("sh", "-c", CORRECT_WHILE_IT_IS_DOWN)
    fresh.process("systemctl", "restart", "kubesyncd")
    assert correction.wait(PATIENCE_S) == 0
    fresh.wait_for(lambda: active(fresh, "kubesyncd"), "it has started with the corrected file")
    for socket in ("kubesyncd.socket", "kubesyncd-container.socket"):
        fresh.wait_for(partial(active, fresh, socket), f"{socket} is open")
    assert fresh.show("kubesyncd-retry", "ActiveState") == "inactive", "nothing is left to be tried"
    assert scripts.poll() is None, "they have asked until now"
    fresh.run("pkill", "-f", "while sleep 0.02")


@pytest.mark.slow("packages are installed twice under load")
@on_every_suite
def test_upgrade_and_downgrade_under_load_are_not_noticed(
    fresh: InstalledSwitch, packages: Callable[[str], Packages]
) -> None:
    before, started = unit(fresh), started_at(fresh)
    folder = fresh.run("stat", "-c", "%i", "/run/kubesyncd/container")
    with load(fresh):
        for version in ("0.9.0~test", ""):
            install(fresh, packages(version))
            fresh.wait_for(lambda: active(fresh, "kubesyncd"), "the daemon runs")
            assert fresh.run("container", "id", "snmp", user="admin")
    assert (unit(fresh), started_at(fresh)) == (before, started)
    assert fresh.run("stat", "-c", "%i", "/run/kubesyncd/container") == folder, "containers have it mounted"


@on_every_suite
def test_removal_and_purge_leave_running_features_alone(
    fresh: InstalledSwitch, packages: Callable[[str], Packages]
) -> None:
    before, started = unit(fresh), started_at(fresh)
    # The folders of sonic-utilities, those of a python3 that the image no longer has among them.
    plugins = [f"/usr/{where}/dist-packages/show/plugins" for where in ("local/lib/python3.9", "lib/python3")]
    for folder in plugins:
        fresh.write(f"{folder}/__pycache__/kubesyncd.cpython-39.pyc", "what Python keeps beside a plugin")
    fresh.run("dpkg-reconfigure", "kubesyncd")
    for folder in plugins:
        assert fresh.run("readlink", f"{folder}/kubesyncd.py") == "/usr/lib/kubesyncd/plugins/show.py"
    fresh.write("/etc/sonic/kubesyncd/kube_admin.conf", "a credential")
    fresh.run("dpkg", "--remove", "kubesyncd-kube", "kubesyncd")
    fresh.run("dpkg", "--purge", "kubesyncd-kube", "kubesyncd")
    assert (unit(fresh), started_at(fresh)) == (before, started)
    assert active(fresh, "snmp")
    folders = ("/etc", "/lib/systemd", "/usr", "/var/cache", "/var/lib/systemd")
    assert fresh.run("find", *folders, "-name", "*kubesyncd*") == ""
    assert not (fresh.root / "var/lib/kubesyncd").exists()
    fresh.run("systemctl", "restart", "snmp")
    assert running(fresh, "snmp"), "its script finds docker in our place"

    install(fresh, packages(""))
    fresh.run("systemctl", "restart", "snmp")
    assert redis(fresh, 6, "hget", "FEATURE|snmp", "system_state") == "up"


def test_purge_names_services_that_an_operator_installed_and_keeps_what_removes_them(
    fresh: InstalledSwitch, packages: Callable[[str], Packages]
) -> None:
    fresh.run("kubesync", "config", "feature", "install", "tap", "required", "snmp")
    purged = fresh.process("dpkg", "--purge", "kubesyncd-kube", "kubesyncd")
    assert purged.returncode == 0
    assert "still installed: tap;" in purged.stderr
    assert fresh.run("ls", "/var/lib/kubesyncd") == "installed"

    install(fresh, packages(""))
    fresh.run("kubesync", "config", "feature", "uninstall", "tap")
    assert fresh.run("find", "/etc/systemd/system", "/usr/local", "-name", "tap*") == ""
    assert "still installed" not in fresh.process("dpkg", "--purge", "kubesyncd-kube", "kubesyncd").stderr
    assert not (fresh.root / "var/lib/kubesyncd").exists()


@pytest.mark.slow("packages are installed and removed")
def test_scripts_that_call_us_by_full_path_outlive_the_package(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch, path = bare_switches(), "/usr/local/bin/container"
    switch.run("ln", "-s", "/usr/bin/container", path)  # as docs/sonic.md has an image build make it
    switch.run("ln", "-s", "/usr/lib/kubesyncd/clients/docker", "/usr/local/bin/docker")
    install(switch, packages(""))
    add_feature(switch, "snmp", container=BY_FULL_PATH)
    switch.wait_for(lambda: row(switch, "snmp").get("current_owner") == "local", "snmp runs locally")
    before, started = unit(switch), started_at(switch)

    prerm = switch.read("/var/lib/dpkg/info/kubesyncd.prerm")
    switch.write("/var/lib/dpkg/info/kubesyncd.prerm", f"{prerm}\nexit 1\n", mode=0o755)
    assert not switch.succeeds("dpkg", "--remove", "kubesyncd-kube", "kubesyncd")
    assert active(switch, "kubesyncd"), "a removal that failed leaves the daemon"
    assert not (switch.root / "run/kubesyncd/removed").exists()
    assert switch.run("readlink", path) == "/usr/bin/container"
    assert (unit(switch), started_at(switch)) == (before, started), switch.run(
        "journalctl", "-o", "short-monotonic"
    )

    switch.write("/var/lib/dpkg/info/kubesyncd.prerm", prerm, mode=0o755)
    switch.run("dpkg", "--purge", "kubesyncd-kube", "kubesyncd")
    assert switch.run("which", "docker") == "/usr/bin/docker"
    assert (unit(switch), started_at(switch)) == (before, started)
    for what, runs in (("restart", True), ("stop", False), ("start", True)):
        switch.run("systemctl", what, "snmp")
        assert running(switch, "snmp") is runs
    assert len(switch.run(path, "id", "snmp")) == 64
    killed = started_at(switch)
    switch.run(path, "kill", "--no-kubelet-check", "snmp")
    switch.wait_for(lambda: runs_again(switch, killed), "systemd has restarted the unit")

    install(switch, packages(""))
    assert switch.run("readlink", path) == "/usr/bin/container"
    switch.run("systemctl", "restart", "snmp")
    assert redis(switch, 6, "hget", "FEATURE|snmp", "system_state") == "up"


def test_an_image_without_kubernetes_runs_locally_until_it_is_added(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch, built = bare_switches(), packages("")
    install_files(switch, built.daemon)
    redis(switch, 4, "hset", "KUBERNETES_MASTER|SERVER", "ip", "127.0.0.1", "port", "1")
    add_feature(switch, "snmp", set_owner="local")
    switch.wait_for(lambda: row(switch, "snmp").get("current_owner") == "local", "snmp runs locally")
    redis(switch, 4, "hset", "FEATURE|snmp", "set_owner", "kube")
    assert master_by_doctor(switch) == "the Kubernetes packages are not installed: every feature is local"
    assert "kubernetes_asyncio" not in journal(switch, "kubesyncd")
    switch.run("systemctl", "restart", "snmp")
    assert running(switch, "snmp")
    assert row(switch, "snmp")["current_owner"] == "local"

    before, started, daemon = unit(switch), started_at(switch), switch.show("kubesyncd", "MainPID")
    install_files(switch, built.kube)
    switch.wait_for(lambda: active(switch, "kubesyncd"), "the daemon runs")
    assert switch.show("kubesyncd", "MainPID") != daemon, "one that runs has looked for the library already"
    switch.wait_for(lambda: master_by_doctor(switch).startswith("not joined"), "it finds the library")
    assert (unit(switch), started_at(switch)) == (before, started)


def master_by_doctor(switch: InstalledSwitch) -> str:
    """What `kubesync doctor` says of the master."""
    (found,) = (
        one["found"]
        for one in json.loads(switch.process("kubesync", "doctor", "--json").stdout)
        if one["subject"] == "master"
    )
    return str(found)


def calls_by_name_are_named(switch: InstalledSwitch) -> None:
    """`doctor --scripts` reads every folder of SONiC's scripts, and names what needs a change."""
    updater = '#!/bin/bash\nid=$(docker ps -aq -f "name=^$1$")\ndocker start $id\n'
    switch.write("/etc/resolvconf/update-libc.d/update-containers", updater, mode=0o755)
    switch.write("/usr/local/sbin/mine", "#!/bin/bash\ndocker exec snmp true\n", mode=0o755)
    ended = switch.process("kubesync", "doctor", "--scripts", "--json")
    (found,) = json.loads(ended.stdout)
    assert (found["file"], found["instead"]) == ("/usr/local/sbin/mine", "container exec ...")
    assert ended.returncode == 1
    switch.run("rm", "-r", "/etc/resolvconf", "/usr/local/sbin/mine")


# What scripts of SONiC call where its image has no Kubernetes: plain docker.
CTRMGRD = '#!/bin/sh\nexec docker "$@"\n'


def commands_of_the_guide() -> list[str]:
    """What docs/migrate.md tells to type."""
    block = (ROOT / "docs/migrate.md").read_text().split("```")[1]
    return [line.removeprefix("# ").partition("  #")[0].strip() for line in block.splitlines()[1:] if line]


def with_tables_replaced(settings: str, printed: str) -> str:
    """A settings file with the tables that `doctor --migrate` prints in place of its own, as the guide has it."""
    for table in re.findall(r"(?m)^\[[^\[]*", printed):
        head = re.escape(table.split("\n")[0])
        settings, times = re.subn(
            rf"(?m)^{head}\n(?:(?!\[).*\n?)*", lambda _, new=table: new + "\n", settings
        )
        assert times == 1, f"the shipped file has {head} once"
    return settings


@on_every_suite
def test_a_switch_of_ctrmgrds_moves_by_the_guide_and_back(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch = bare_switches()
    switch.write("/usr/local/bin/container", CTRMGRD, mode=0o755)
    switch.write("/lib/systemd/system/ctrmgrd.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
    switch.run("systemctl", "start", "ctrmgrd")
    switch.write("/etc/sonic/remote_ctr.config.json", '{"revert_to_local_on_wait_seconds": 360}')
    add_feature(switch, "snmp", container=BY_FULL_PATH, set_owner="local")
    before, started = unit(switch), started_at(switch)

    told = []
    for command in commands_of_the_guide():
        if command.startswith("dpkg -i"):
            assert not active(switch, "ctrmgrd"), "two would manage the same features"
            install(switch, packages(""))
        else:
            told.append(switch.run("sh", "-c", command))
    assert told[-1] == "no docker calls left"
    calls_by_name_are_named(switch)
    settings = told[-2].partition("\n# to run")[0].partition("\n# to know")[0]
    assert "fallback_after_s = 360" in settings
    assert "/usr/local/bin/container" not in told[-2], "it is in its place already"
    switch.write(SETTINGS, with_tables_replaced(switch.read(SETTINGS), settings))
    switch.run("systemctl", "restart", "kubesyncd")
    assert (unit(switch), started_at(switch)) == (before, started)

    switch.run("systemctl", "restart", "snmp")
    said = row(switch, "snmp")
    assert (said["system_state"], said["current_owner"], said["container_id"]) == ("up", "local", "snmp")

    before, started = unit(switch), started_at(switch)
    switch.run("dpkg", "--purge", "kubesyncd-kube", "kubesyncd")
    assert switch.read("/usr/local/bin/container") == CTRMGRD
    assert (unit(switch), started_at(switch)) == (before, started)
    switch.run("systemctl", "restart", "snmp")
    assert running(switch, "snmp")


def test_a_stop_that_races_a_restart_of_the_daemon_stops_and_a_start_starts(fresh: InstalledSwitch) -> None:
    ways = (("systemctl", "restart", "kubesyncd"), ("systemctl", "kill", "--signal=KILL", "kubesyncd"))
    for turn in range(6):
        for what, runs in (("stop", False), ("start", True)):
            # The units' limits of starts are not what this is about: while ours closes the sockets for a moment,
            # a stop is plain docker, and the daemon cannot know of it.
            fresh.run("systemctl", "reset-failed", "snmp", "kubesyncd")
            racing = fresh.spawn(*ways[turn % 2])
            fresh.run("systemctl", what, "snmp")
            assert running(fresh, "snmp") is runs, f"{what} in turn {turn}"
            racing.wait(PATIENCE_S)
            fresh.wait_for(lambda: active(fresh, "kubesyncd"), "the daemon is back")
            wanted = "up" if runs else "down"
            fresh.wait_for(
                lambda wanted=wanted: row(fresh, "snmp").get("system_state") == wanted,
                f"the row says {wanted}",
            )
            assert running(fresh, "snmp") is runs, f"and stays so, {what} in turn {turn}"
    assert fresh.show("snmp", "Result") == "success"


def test_sockets_removed_under_the_daemon_return_and_serve_all_who_had_access(fresh: InstalledSwitch) -> None:
    sockets = ("/run/kubesyncd/host.sock", "/run/kubesyncd/container/container.sock")

    def alerts() -> int:
        return journal(fresh, "kubesyncd").count('"event": "socket"')

    fresh.run("rm", *sockets)
    fresh.run("systemctl", "stop", "snmp")
    assert not running(fresh, "snmp")
    assert row(fresh, "snmp").get("system_state") == "down", "and not by plain docker"
    assert alerts() == 2
    for restarts in range(2):
        if restarts:
            # systemd's own sockets lead nowhere, and stay open.
            fresh.run("systemctl", "restart", "kubesyncd")
        assert "system_state=down" in fresh.run("container", "state", "snmp")
        as_docker = ("setpriv", "--reuid=65534", "--regid=65534", "--groups=docker")
        assert "system_state=down" in fresh.run(*as_docker, "container", "state", "snmp")
        refused = fresh.process(
            "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "container", "id", "snmp"
        )
        assert refused.returncode == 77
    assert alerts() == 4
    fresh.run("systemctl", "start", "snmp")
    assert running(fresh, "snmp")

    # The daemon's sandbox lets it make no folder in /run, also where a nested systemd leaves that writable. systemd
    # makes it, for the next daemon.
    daemon = fresh.show("kubesyncd", "MainPID")
    fresh.run("nsenter", "-t", daemon, "-m", "mount", "-o", "remount,bind,ro", "/run")
    fresh.run("rm", "-r", "/run/kubesyncd")
    fresh.run("systemctl", "stop", "snmp")
    assert not running(fresh, "snmp")
    assert row(fresh, "snmp").get("system_state") == "down"
    assert fresh.show("kubesyncd", "MainPID") != daemon
    assert journal(fresh, "kubesyncd").count('"event": "run_folder"') == 1
