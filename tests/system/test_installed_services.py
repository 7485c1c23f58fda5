"""Check an installed service under a real systemd: requirements, order, stop, return, removal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.kube_names import kube_box
from tests.lab.package_server import PackageServer
from tests.system.installed_fixtures import (
    DEBIAN_INSIDE,
    IMAGE,
    SETTINGS,
    add_feature,
    journal,
    on_every_suite,
    redis,
    remove_feature,
    row,
    running,
)
from tests.system.installed_fixtures import install as install_packages
from tests.system.installed_kube import Master

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.system.installed_fixtures import Packages
    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

DESCRIPTION = """\
name: tap
requires: [swss]
dependents: [collector]
pre_start: [[/bin/sh, -c, 'echo pre-start >>/run/tap.notes']]
post_start: [[/bin/sh, -c, 'echo post-start >>/run/tap.notes']]
pre_stop: [[/bin/sh, -c, 'echo pre-stop >>/run/tap.notes']]
post_stop: [[/bin/sh, -c, 'echo post-stop >>/run/tap.notes']]
warm_reboot: [[/bin/sh, -c, 'echo warm >>/run/tap.notes']]
fast_reboot: [/bin/false, [/bin/sh, -c, 'echo never >>/run/tap.notes']]
"""
# What a Kubernetes manifest's container does: ask, then run.
ASKS = ("sh", "-c", "/usr/bin/python3 -IS /usr/bin/container_state tap up kube && exec sleep 1000000")
FOLDERS = "/usr/local /etc/systemd /etc/kubesyncd /var/lib/kubesyncd/installed"


def files(switch: InstalledSwitch) -> list[str]:
    """Everything in the folders that an installation may touch. The daemon itself enables the kubelet's unit."""
    switch.run("mkdir", "-p", "/var/lib/kubesyncd/installed")
    found = switch.run("sh", "-c", f"find {FOLDERS} | sort").splitlines()
    return [path for path in found if not path.endswith(("kubelet.service", "installed/.lock"))]


def state(switch: InstalledSwitch, unit: str) -> str:
    return switch.show(unit, "ActiveState")


def active(switch: InstalledSwitch, *units: str) -> bool:
    return all(state(switch, unit) == "active" for unit in units)


@pytest.fixture
def switch(installed: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The shared switch with `swss`, which tap requires, and `collector`, which depends on tap."""
    add_feature(installed, "swss")
    collector = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    installed.write("/etc/systemd/system/collector.service", collector)
    installed.run("systemctl", "daemon-reload")
    yield installed
    removed = installed.process("kubesync", "config", "feature", "uninstall", "tap", "--force")
    assert removed.returncode == 0 or "tap was not installed by kubesync" in removed.stderr, removed
    installed.process("systemctl", "stop", "collector")
    (installed.root / "etc/systemd/system/collector.service").unlink()
    remove_feature(installed, "swss")
    (installed.root / "run/tap.notes").unlink(missing_ok=True)


def install(switch: InstalledSwitch) -> None:
    switch.write("/root/tap.yaml", DESCRIPTION)
    switch.run("kubesync", "config", "feature", "install", "--file", "/root/tap.yaml")
    (switch.root / "root/tap.yaml").unlink()
    switch.wait_for(lambda: active(switch, "tap"), "tap is up")


def notes(switch: InstalledSwitch) -> list[str]:
    """What the service's commands have written since the last look."""
    at = switch.root / "run/tap.notes"
    lines = at.read_text().split() if at.exists() else []
    at.unlink(missing_ok=True)
    return lines


def test_systemd_finds_nothing_wrong_with_what_we_generate(switch: InstalledSwitch) -> None:
    install(switch)
    unit = switch.show("tap", "FragmentPath")
    ended = switch.process("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_service_runs_from_kube_and_leaves_no_trace_when_it_is_uninstalled(switch: InstalledSwitch) -> None:
    before, enabled = files(switch), switch.run("sh", "-c", "find /etc/systemd -type l | sort")
    install(switch)
    assert notes(switch) == ["pre-start", "post-start"]
    status = "waiting for kube deployment, which is not possible: "
    told = "systemd is told what tap waits for"
    switch.wait_for(lambda: switch.show("tap", "StatusText").startswith(status), told)
    box, labels = kube_box("tap", "tap-pod")
    options = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    sockets = "-v /run/kubesyncd/container:/run/kubesyncd/container"
    command = f"docker run -d --net=host {DEBIAN_INSIDE} -v /usr/lib/kubesyncd:/usr/lib/kubesyncd:ro {sockets}".split()
    switch.run(*command, "--name", box, *options, IMAGE, *ASKS)
    switch.wait_for(lambda: row(switch, "tap").get("current_owner") == "kube", "tap runs from kube")

    switch.run("kubesync", "config", "feature", "uninstall", "tap")
    assert notes(switch) == ["pre-stop", "post-stop"]
    assert files(switch) == before
    assert switch.run("sh", "-c", "find /etc/systemd -type l | sort") == enabled
    assert state(switch, "tap") == "inactive"
    assert switch.show("tap", "LoadState") == "not-found"
    assert redis(switch, 4, "exists", "FEATURE|tap") == "0"
    assert redis(switch, 6, "exists", "FEATURE|tap") == "0"
    assert switch.run("docker", "ps", "-q", "--filter", f"name={box}") == ""


def test_a_service_stops_and_comes_back_with_what_it_requires(switch: InstalledSwitch) -> None:
    install(switch)
    notes(switch)
    switch.run("systemctl", "stop", "swss")
    switch.wait_for(lambda: state(switch, "tap") == "inactive", "tap stops with swss")
    assert row(switch, "tap")["system_state"] == "down"
    assert notes(switch) == ["pre-stop", "post-stop"]
    switch.run("systemctl", "start", "swss")
    switch.wait_for(lambda: active(switch, "swss", "tap"), "tap starts with swss")
    assert notes(switch) == ["pre-start", "post-start"]
    started = ("swss", "tap")
    first, second = (int(switch.show(name, "ActiveEnterTimestampMonotonic")) for name in started)
    assert first <= second


def test_a_service_comes_back_after_a_crash_of_what_it_requires(switch: InstalledSwitch) -> None:
    """BindsTo= stops it, and systemd's own restart of swss pulls it up again: Requires= would do neither in time."""
    install(switch)
    notes(switch)
    restarts = int(switch.show("swss", "NRestarts"))
    switch.run("docker", "kill", "swss")
    switch.wait_for(lambda: int(switch.show("swss", "NRestarts")) > restarts, "systemd restarts swss")
    switch.wait_for(lambda: active(switch, "swss", "tap") and running(switch, "swss"), "both are back")
    switch.wait_for(lambda: row(switch, "tap").get("system_state") == "up", "tap is up")
    assert notes(switch) == ["pre-stop", "post-stop", "pre-start", "post-start"]


def test_what_depends_on_a_service_starts_after_it_and_stops_before_it(switch: InstalledSwitch) -> None:
    install(switch)
    switch.run("systemctl", "start", "collector")
    switch.run("systemctl", "stop", "tap")
    switch.wait_for(lambda: state(switch, "collector") == "inactive", "collector stops with tap")
    switch.run("systemctl", "start", "collector")
    assert active(switch, "collector", "tap")


def test_a_service_stops_within_seconds_and_restarts_by_systemctl(switch: InstalledSwitch) -> None:
    install(switch)
    switch.run("systemctl", "restart", "tap")
    assert active(switch, "tap")
    assert switch.show("tap", "NRestarts") == "0"
    assert switch.show("tap", "Result") == "success"
    switch.run("systemctl", "stop", "tap")
    assert switch.show("tap", "Result") == "success"


def test_hooks_prepare_for_a_reboot_and_say_when_they_could_not(switch: InstalledSwitch) -> None:
    install(switch)
    notes(switch)
    assert switch.succeeds("/etc/kubesyncd/hooks/warm-reboot.d/50-tap")
    assert notes(switch) == ["warm"]
    assert switch.code("/etc/kubesyncd/hooks/fast-reboot.d/50-tap") == 1
    assert notes(switch) == []
    listed = switch.run("run-parts", "--test", "/etc/kubesyncd/hooks/warm-reboot.d").split()
    assert listed == ["/etc/kubesyncd/hooks/warm-reboot.d/50-tap"]


def test_a_service_that_was_disabled_by_featured_can_be_masked_as_any_other(switch: InstalledSwitch) -> None:
    install(switch)
    switch.run("systemctl", "stop", "tap")
    switch.run("systemctl", "disable", "tap")
    switch.run("systemctl", "mask", "tap")
    assert switch.show("tap", "LoadState") == "masked"
    switch.run("systemctl", "unmask", "tap")
    switch.run("systemctl", "enable", "--now", "tap")
    assert active(switch, "tap")


# ---- another image --------------------------------------------------------------------------------

# Switches share this machine's boot; which one it is for kubesyncd is said here.
BOOT = "/var/lib/lab-boot"
# What no image of SONiC brings, and an upgrade does not carry over.
LOST = (
    "/usr/local/lib/systemd /usr/local/lib/kubesyncd /etc/systemd/system/*/tap.service /var/lib/kubesyncd/*"
)


@on_every_suite
def test_a_service_goes_along_into_another_image_and_starts_there(
    bare_switches: Callable[[], InstalledSwitch], packages: Callable[[str], Packages]
) -> None:
    switch = bare_switches()
    install_packages(switch, packages(""))
    switch.write(BOOT, "one\n")
    settings = switch.read(SETTINGS).replace("\n[paths]", f'\n[paths]\nboot_id = "{BOOT}"', 1)
    switch.write(SETTINGS, settings)
    switch.run("systemctl", "restart", "kubesyncd")
    add_feature(switch, "swss")
    switch.run("kubesync", "config", "feature", "install", "tap", "required", "swss")
    switch.wait_for(lambda: active(switch, "tap"), "tap is up")
    enabled = switch.run("sh", "-c", "find /etc/systemd -name tap.service | sort")
    assert switch.run("kubesync", "reboot", "prepare", "warm").splitlines()[-1].startswith("prepared for")
    switch.run("sh", "-c", f"rm -rf {LOST}")
    switch.write(BOOT, "two\n")
    switch.power_off()
    switch.boot()
    assert switch.show("tap", "UnitFileState") == "enabled"
    assert switch.run("sh", "-c", "find /etc/systemd -name tap.service | sort") == enabled
    assert switch.show("tap", "InvocationID"), "it was started in this boot"
    told = journal(switch, "kubesyncd-restore")
    assert "restored /usr/local/lib/systemd/system/tap.service" in told
    assert switch.run("kubesync", "reboot", "restore") == "", "exactly once"
    assert not (switch.root / "var/lib/kubesyncd/hold").exists(), "the kubelet may run again"


# ---- packages -------------------------------------------------------------------------------------


@pytest.fixture
def packages_server(switch: InstalledSwitch, tmp_path: Path) -> Iterator[PackageServer]:
    """A packages' server that the daemon follows."""
    with PackageServer(tmp_path / "server") as server:
        server.publish()
        switch.write("/etc/kubesyncd/packages-ca.pem", server.authority.pem.decode())
        where = f'[packages]\nurl = "{server.url}"\nca_file = "/etc/kubesyncd/packages-ca.pem"\ninterval_s = 0.5\n'
        settings = switch.root / "etc/kubesyncd/kubesyncd.toml"
        before = settings.read_text() if settings.exists() else None
        switch.write("/etc/kubesyncd/kubesyncd.toml", where)
        switch.run("systemctl", "restart", "kubesyncd")
        yield server
        for name in json.loads(switch.run("kubesync", "package", "list", "--json")):
            switch.process("kubesync", "config", "feature", "uninstall", name["name"], "--force")
        settings.unlink()
        if before is not None:
            settings.write_text(before)
        (switch.root / "etc/kubesyncd/packages-ca.pem").unlink()
        switch.run("systemctl", "restart", "kubesyncd")


def test_the_daemon_follows_a_packages_server_from_within_its_sandbox(
    switch: InstalledSwitch, packages_server: PackageServer, tmp_path: Path
) -> None:
    described = {
        "service.yaml": "name: tap\nrequires: [swss]\npre_start: [./probe here]\n",
        "bin/probe": "#!/bin/sh\necho probe $1 >>/run/tap.notes\n",
    }
    with Master(switch, tmp_path / "master") as master:
        before = files(switch)
        packages_server.offer("tap", "1", described)
        packages_server.offer("other", "1", nodes={"kubernetes.io/hostname": "another"})
        switch.wait_for(lambda: active(switch, "tap"), "the package is installed and up")
        assert notes(switch) == ["probe", "here"]
        master.deploy("tap")
        switch.wait_for(lambda: row(switch, "tap").get("current_owner") == "kube", "tap runs from kube")
        assert "1" in switch.run("kubesync", "package", "list")
        assert state(switch, "other") == "inactive"

        packages_server.withdraw("tap")
        switch.wait_for(lambda: redis(switch, 4, "exists", "FEATURE|tap") == "0", "the package is gone")
        switch.wait_for(lambda: files(switch) == before, "and so are its files")
