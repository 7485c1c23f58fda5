"""Check that an operator's service is installed, runs from Kubernetes, and is removed completely.

`kubesync`, the daemon, Redis and Docker are real or the lab's; systemd is a stand-in that runs the unit's scripts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kubesyncd.services.definition import UNIT_FOLDER
from tests.lab.docker_client import DockerError
from tests.lab.switch_clients import CLIENTS
from tests.lab.switch_units import LAB, PYTHON

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

USAGE, FAILED, UNAVAILABLE = 64, 1, 69


class Operator:
    """An operator who types `kubesync` on a switch whose units are below a folder."""

    def __init__(self, switches: MakeSwitch, folder: Path) -> None:
        self.root, self._systemd = folder / "root", folder / "systemd"
        systemctl = [PYTHON, "-IS", str(LAB / "unit_files.py"), str(self.root), str(self._systemd)]
        self.switch: Switch = switches(
            settings={"systemd": {"systemctl": systemctl}, "paths": {"install_root": str(self.root)}}
        )
        units = self.root / "lib/systemd/system"
        units.mkdir(parents=True)
        for name in ("swss", "snmp"):
            (units / f"{name}.service").write_text("[Service]\nExecStart=/bin/true\n")
        (self._systemd / "active").mkdir(parents=True)
        (self._systemd / "active" / "swss").touch()

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One `kubesync` command, to its end."""
        environ = {**os.environ, **self.switch.clients.environment, "PATH": f"{CLIENTS}:{os.environ['PATH']}"}
        environ["KUBESYNCD_CONFIG"] = str(self.switch.folder / "kubesyncd.toml")
        return subprocess.run(
            [sys.executable, "-m", "kubesyncd.cli", *words],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def done(self, *words: str) -> str:
        """What the command said; it has to succeed."""
        ended = self.types(*words)
        assert ended.returncode == 0, f"{words}: {ended}\n{self.switch.told()}"
        return ended.stdout

    def fails(self, code: int, *words: str) -> str:
        """The one line of a command that has to fail so."""
        ended = self.types(*words)
        assert ended.returncode == code, f"{words}: {ended}"
        assert ended.stderr.startswith("kubesync: ")
        assert ended.stderr.count("\n") == 1
        return ended.stderr

    @property
    def files(self) -> list[str]:
        """Every file below the root."""
        return sorted(str(at.relative_to(self.root)) for at in self.root.rglob("*") if at.is_file())


@pytest.fixture
def operator(switches: MakeSwitch, tmp_path: Path) -> Operator:
    return Operator(switches, tmp_path)


def test_a_new_service_is_installed_run_by_kube_and_uninstalled_without_a_trace(operator: Operator) -> None:
    switch, files = operator.switch, operator.files
    said = operator.done("config", "feature", "install", "tap")
    assert "tap is installed and starts now" in said
    switch.until_state("tap", "KUBE_READY")
    container_id = switch.run_kube("tap")
    switch.until_state("tap", "KUBE_RUNNING")
    assert switch.running("tap") == [container_id]

    assert "tap is removed" in operator.done("config", "feature", "uninstall", "tap")
    assert operator.files == files
    assert switch.running("tap") == []
    assert not switch.config_db.exists("FEATURE|tap")
    # Neither the daemon nor what it hears of the removal brings the row back.
    switch.boot_local("snmp")
    assert switch.shown("tap") == {}
    assert not switch.state_db.exists("FEATURE|tap")
    switch.daemon.restart()
    assert switch.shown("tap") == {}
    assert not switch.state_db.exists("FEATURE|tap")


def test_a_service_goes_along_into_another_image_of_the_switch(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "tap.yaml"
    file.write_text("name: tap\nrequires: swss\nwarm_reboot: [/bin/true]\n")
    operator.done("config", "feature", "install", "--file", str(file))
    switch, files = operator.switch, operator.files
    switch.hook("check.d", "tap.port", "true")
    assert operator.types("reboot", "prepare", "warm").returncode == 0
    switch.power_off()
    # The next image: /etc/sonic is carried over, the rest is as it was built.
    gone = [operator.root / file for file in files if not file.startswith("lib/")]
    for path in (
        *gone,
        *(switch.folder / "state").rglob("*.json"),
        switch.folder / "hooks" / "check.d" / "tap.port",
    ):
        path.unlink()
    for state in ("active", "enabled"):
        (tmp_path / "systemd" / state / "tap").unlink()
    (switch.folder / "state" / "hold").unlink()
    switch.daemon.start()
    said = operator.done("reboot", "restore").splitlines()
    assert f"restored {operator.root}{UNIT_FOLDER}/tap.service" in said
    assert "enabled tap.service" in said
    assert operator.files == files
    assert (switch.folder / "hooks" / "check.d" / "tap.port").exists()
    assert (tmp_path / "systemd" / "enabled" / "tap").exists()
    switch.until_state("tap", "KUBE_READY")
    assert operator.done("reboot", "restore") == "", "exactly once"
    operator.done("config", "feature", "uninstall", "tap")
    assert "tap" not in " ".join(operator.files)


def test_a_local_container_made_for_a_reboot_goes_with_its_service(operator: Operator) -> None:
    switch = operator.switch
    operator.done("config", "feature", "install", "tap")
    switch.until_state("tap", "KUBE_READY")
    switch.run_kube("tap")
    switch.until_state("tap", "KUBE_RUNNING")
    assert operator.types("reboot", "prepare", "warm").returncode == 0
    assert switch.docker.inspect("tap")["Name"] == "/tap"
    operator.done("config", "feature", "uninstall", "tap")
    with pytest.raises(DockerError):
        switch.docker.inspect("tap")
    # An unknown feature is not an error.
    operator.done("config", "feature", "install", "tap")


def test_a_service_comes_back_after_an_uninstall(operator: Operator) -> None:
    for number in range(2):
        operator.done("config", "feature", "install", "tap", "required", "swss")
        operator.switch.until_state("tap", "KUBE_READY")
        operator.switch.run_kube("tap", number)
        operator.switch.until_state("tap", "KUBE_RUNNING")
        operator.done("config", "feature", "uninstall", "tap")


def test_a_container_waiting_while_its_feature_is_uninstalled_gets_an_answer(operator: Operator) -> None:
    switch = operator.switch
    said = operator.done("config", "feature", "install", "tap", "required", "snmp")
    assert "it starts together with snmp, which does not run now" in said
    blocked = switch.run_kube("tap")
    switch.wait_for(lambda: switch.shown("tap").get("waiting") == [blocked], "the container waits")
    operator.done("config", "feature", "uninstall", "tap")
    switch.wait_for(lambda: switch.running("tap") == [], "the container has ended")
    assert switch.ups("tap") == []


def test_a_dry_run_shows_the_files_and_writes_nothing(operator: Operator) -> None:
    files = operator.files
    said = operator.done("config", "feature", "install", "tap", "--dry-run")
    assert f"==> {UNIT_FOLDER}/tap.service (0644)" in said
    assert "BindsTo=swss.service" in said
    shown = json.loads(operator.done("config", "feature", "install", "tap", "--dry-run", "--json"))
    assert [file["mode"] for file in shown] == ["0644", "0755"]
    assert operator.files == files
    assert not operator.switch.config_db.exists("FEATURE|tap")


def test_a_description_in_a_file_is_installed_and_replaced(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "tap.yaml"
    file.write_text("name: tap\nrequires: swss\nwarm_reboot: [sync]\n")
    told = json.loads(operator.done("config", "feature", "install", "--file", str(file), "--json"))
    assert "/etc/kubesyncd/hooks/warm-reboot.d/50-tap" in told["files"]
    file.write_text("name: tap\n")
    assert "--replace" in operator.fails(FAILED, "config", "feature", "install", "--file", str(file))
    operator.done("config", "feature", "install", "--file", str(file), "--replace")
    assert "etc/kubesyncd/hooks/warm-reboot.d/50-tap" not in operator.files
    operator.done("config", "feature", "uninstall", "tap")


def test_invalid_arguments_say_what_to_type(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: tap\nrequire: swss\n")
    install = ("config", "feature", "install")
    for words in ((), ("tap", "swss"), ("tap", "required"), ("../tap",), ("--", "-x")):
        assert "type: kubesync config feature install [NAME]" in operator.fails(USAGE, *install, *words)
    assert "invalid service name" in operator.fails(USAGE, *install, "tap", "required", "/etc")
    assert "unknown key 'require'; allowed: name" in operator.fails(USAGE, *install, "--file", str(file))
    assert "no such file" in operator.fails(FAILED, *install, "--file", str(tmp_path / "none")).lower()
    assert "snmp has a service already" in operator.fails(FAILED, *install, "snmp")
    assert "nope.service does not exist" in operator.fails(FAILED, *install, "tap", "required", "nope")
    assert "Installed: none" in operator.fails(FAILED, "config", "feature", "uninstall", "tap")


def test_daemon_or_redis_down_is_one_line_and_nothing_is_changed(operator: Operator) -> None:
    operator.done("config", "feature", "install", "tap")
    files = operator.files
    operator.switch.daemon.stop()
    assert "systemctl start kubesyncd" in operator.fails(UNAVAILABLE, "config", "feature", "uninstall", "tap")
    operator.switch.redis.close()
    assert "systemctl start database" in operator.fails(UNAVAILABLE, "config", "feature", "install", "tip")
    assert operator.files == files


# ---- config load_minigraph ------------------------------------------------------------------------

INIT = {"state": "enabled", "auto_restart": "enabled", "set_owner": "local"}


def load_minigraph(operator: Operator, *features: str) -> None:
    """Create CONFIG_DB again, as sonic-utilities do: with the image's fields of features, without the operator's."""
    db = operator.switch.config_db
    db.flushdb()
    for name in features:
        db.hset(f"FEATURE|{name}", mapping=INIT)
        time.sleep(0.2)
    db.hset("DEVICE_METADATA|localhost", "hwsku", "X")
    # Longer than a busy machine keeps the daemon from noticing that it is under way.
    time.sleep(1.5)
    db.set("CONFIG_DB_INITIALIZED", "1")


def test_a_saved_feature_table_survives_a_new_minigraph_and_nothing_restarts(operator: Operator) -> None:
    switch = operator.switch
    switch.config("snmp", **{**INIT, "set_owner": "kube", "fallback_to_local": "true"})
    switch.create_local("snmp")
    switch.done("start", "snmp")
    switch.run_kube("snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    operator.done("config", "feature", "install", "tap")
    switch.until_state("tap", "KUBE_READY")
    actions = len(switch.log("action"))

    assert "saved: 2 features;" in operator.done("feature-table", "save")
    load_minigraph(operator, "snmp")
    switch.wait_for(
        lambda: switch.config_db.hget("FEATURE|snmp", "set_owner") == "kube", "snmp is kube's again"
    )
    switch.wait_for(lambda: switch.config_db.hget("FEATURE|tap", "set_owner") == "kube", "so is tap")
    assert switch.config_db.hget("FEATURE|snmp", "fallback_to_local") == "true"
    time.sleep(1.0)
    assert switch.state("snmp") == "KUBE_RUNNING"
    assert [entry for entry in switch.log("action")[actions:] if entry.get("action") != "write row"] == []
    assert operator.done("feature-table", "restore") == "nothing is missing\n"

    # What was not saved for it takes back what an operator has not saved either, on purpose.
    load_minigraph(operator, "snmp")
    switch.until_state("snmp", "LOCAL")
    # But an installed service has no other life than its row's.
    switch.wait_for(
        lambda: switch.config_db.hget("FEATURE|tap", "set_owner") == "kube", "tap is kube's again"
    )
    switch.until_state("tap", "KUBE_READY")


def test_a_table_is_restored_by_a_command_where_the_daemon_was_down(operator: Operator) -> None:
    switch = operator.switch
    assert "no saved table" in operator.fails(FAILED, "feature-table", "restore")
    switch.config("snmp", **{**INIT, "set_owner": "kube"})
    operator.done("feature-table", "save")
    switch.daemon.stop()
    load_minigraph(operator, "snmp")
    assert operator.done("feature-table", "restore") == "snmp: set_owner=kube\n"
    switch.daemon.start()
    switch.config("snmp", set_owner="local")
    switch.until_state("snmp", "UNKNOWN")
    assert switch.config_db.hget("FEATURE|snmp", "set_owner") == "local"
