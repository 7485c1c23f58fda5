"""Check that what runs decides after the ledger is lost within a boot, and that nothing is ended for a grant unwritten.

The ledger is in memory: a cleaner of /run, a full or a read-only file system and an older copy take it away.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.system.test_full_disk import fill, small_disk
from tests.wait import LIMIT_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch


def removed(ledger: Path, _: bytes) -> None:
    ledger.unlink()


def truncated(ledger: Path, _: bytes) -> None:
    ledger.write_bytes(ledger.read_bytes()[:100])


def of_a_newer_version(ledger: Path, _: bytes) -> None:
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "version": 99}))


def of_other_features(ledger: Path, _: bytes) -> None:
    ledger.write_text(json.dumps({**json.loads(ledger.read_text()), "features": {}}))


def an_older_copy(ledger: Path, before: bytes) -> None:
    ledger.write_bytes(before)


@pytest.mark.parametrize("lose", [removed, truncated, of_a_newer_version, of_other_features, an_older_copy])
def test_a_ledger_lost_while_the_daemon_is_away_moves_nothing(
    switch: Switch, lose: Callable[[Path, bytes], None]
) -> None:
    switch.boot_local("snmp")
    before = switch.paths.ledger.read_bytes()
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    kube = switch.run_kube("snmp")
    switch.until_ups("snmp", "local", "kube")
    switch.wait_for(lambda: (switch.folder / "state" / "boot.json").exists(), "the boot is marked")
    switch.daemon.kill9()
    lose(switch.paths.ledger, before)
    switch.daemon.start()
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.wait_for(lambda: '"snmp"' in switch.paths.ledger.read_text(), "the file is written again")
    row = switch.row("snmp")
    assert (row["current_owner"], row["docker_id"], row["system_state"]) == ("kube", kube, "up")
    assert switch.container("id", "snmp").stdout.strip() == kube
    switch.done("start", "snmp")
    assert switch.running("snmp") == [kube]
    assert switch.ups("snmp") == ["local", "kube"]
    told = switch.log("ledger_lost", alert=True)
    assert len(told) == (lose not in (of_other_features, an_older_copy))
    # It was written again with all that a stop and a start need.
    switch.daemon.restart()
    switch.done("stop", "snmp")
    assert switch.running("snmp") == []


@pytest.mark.parametrize("lose", [removed, truncated, of_a_newer_version])
def test_without_a_daemon_and_its_ledger_docker_is_not_used_beside_kubernetes(
    switch: Switch, lose: Callable[[Path, bytes], None]
) -> None:
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    kube = switch.run_kube("snmp")
    switch.until_ups("snmp", "local", "kube")
    switch.wait_for(lambda: (switch.folder / "state" / "boot.json").exists(), "the boot is marked")
    switch.daemon.kill9()
    lose(switch.paths.ledger, b"")
    verbs = [["start"], ["stop"], ["kill"], ["wait"], ["id"], ["inspect"], ["exec", "true"]]
    asked = [switch.spawn(verb, "snmp", *more) for verb, *more in verbs]
    for client in asked:
        out, err = client.communicate(timeout=LIMIT_S)
        assert (client.returncode, out) == (69, ""), (client.args, err)
        assert f"{switch.paths.ledger} " in err
        assert "Kubernetes may run snmp, so docker is not used; run systemctl start kubesyncd" in err
    assert switch.running("snmp") == [kube]
    switch.daemon.start()
    switch.done("start", "snmp")
    assert switch.running("snmp") == [kube]
    assert switch.container("id", "snmp").stdout.strip() == kube
    assert switch.ups("snmp") == ["local", "kube"]


def test_without_a_daemon_the_first_start_of_a_boot_is_plain_docker(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    mark = switch.folder / "state" / "boot.json"
    switch.wait_for(mark.exists, "the boot is marked")
    switch.power_off()
    assert mark.exists()
    ended = switch.container("start", "snmp")
    assert (ended.returncode, ended.stdout.strip()) == (0, "snmp"), ended
    assert "docker start is used" in ended.stderr
    switch.done("stop", "-t", "1", "snmp")
    mark.unlink()
    switch.done("start", "snmp")
    assert switch.running("snmp") == [local]


def restored(switch: Switch, copy: bytes) -> None:
    """The ledger is an older copy when the daemon comes back."""
    switch.daemon.kill9()
    switch.paths.ledger.write_bytes(copy)
    switch.daemon.start()


def test_an_older_ledger_undoes_neither_a_stop_nor_a_start(switch: Switch) -> None:
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="false")
    started = switch.paths.ledger.read_bytes()
    switch.done("stop", "snmp")
    switch.until_row("snmp", system_state="down", current_owner="none")
    stopped = switch.paths.ledger.read_bytes()
    restored(switch, started)
    switch.until_state("snmp", "INIT")
    switch.run_kube("snmp")
    switch.wait_for(lambda: not switch.running("snmp"), "its pod is ended")
    assert (switch.row("snmp")["system_state"], switch.ups("snmp")) == ("down", ["local"])
    switch.done("start", "snmp")
    switch.until_row("snmp", system_state="up", transition_mode="kube_ready")
    restored(switch, stopped)
    switch.until_state("snmp", "KUBE_READY")
    kube = switch.run_kube("snmp", 1)
    switch.until_row("snmp", system_state="up", current_owner="kube", docker_id=kube)


@contextmanager
def on_small_disk(switch: Switch, run: Path) -> Iterator[None]:
    """Have the daemon's run folder on a small disk of its own."""
    switch.daemon.stop()
    with small_disk(run):
        switch.paths.container_sock.parent.mkdir()
        switch.daemon.start()
        try:
            yield
        finally:
            switch.daemon.stop()


@pytest.mark.parametrize("by", ["full", "read-only"])
def test_a_grant_that_cannot_be_written_ends_no_local_container_and_is_a_finding(
    switches: MakeSwitch, by: str
) -> None:
    switch = switches()
    run = switch.folder / "run"
    with on_small_disk(switch, run):
        local = switch.boot_local("snmp")
        switch.boot_local("lldp")
        assert not any(line["subject"] == "files" for line in findings(switch))
        undo = unwritable(run, by)
        for feature in ("snmp", "lldp"):
            switch.config(feature, set_owner="kube")
        kube = switch.run_kube("snmp")
        switch.run_kube("lldp")
        for feature in ("snmp", "lldp"):
            switch.wait_for(lambda f=feature: switch.log("not_recorded", feature=f), "it is refused")
        assert set(switch.running("snmp")) == {local, kube}
        (found,) = [line for line in findings(switch) if line["subject"] == "files"]
        assert found["grade"] == "FAIL"
        assert "features.json cannot be written" in found["found"]
        assert "no feature is handed over to Kubernetes" in found["found"]
        switch.until_told("cannot be written", "explain", "snmp")
        alerts = switch.log(alert=True)
        assert len([line for line in alerts if "cannot be written" in line["why"]]) == 1, alerts
        undo()
        switch.until_row("snmp", docker_id=kube)
        assert not any(line["subject"] == "files" for line in findings(switch))


@pytest.mark.parametrize("fallback", ["true", "false"])
def test_local_returns_where_the_grant_cannot_be_written_after_local_has_ended(
    switches: MakeSwitch, fallback: str
) -> None:
    switch = switches()
    run = switch.folder / "run"
    with on_small_disk(switch, run):
        # It ends when its grace is over: time enough to fill the disk.
        local = switch.create_local(
            "snmp", command=["/bin/sh", "-c", "trap '' TERM; sleep 1000 & wait; wait"]
        )
        switch.done("start", "snmp")
        switch.until_state("snmp", "LOCAL")
        switch.config("snmp", set_owner="kube", fallback_to_local=fallback)
        kube = switch.run_kube("snmp")
        switch.wait_for(
            lambda: switch.log("action", action=f"docker stop {local[:12]}"), "it is being stopped"
        )
        filler = fill(run)
        switch.wait_for(lambda: switch.log("state", state="KUBE_PENDING"), "the local container ends")
        switch.wait_for(lambda: switch.log("state", state="LOCAL")[1:], "and returns at once")
        assert set(switch.running("snmp")) == {local, kube}
        assert switch.log("trouble", action="not_recorded"), switch.told()
        switch.daemon.restart()
        switch.until_told("cannot be written", "explain", "snmp")
        assert set(switch.running("snmp")) == {local, kube}, "nor does a restart of the daemon end it"
        filler.unlink()
        switch.wait_for(lambda: switch.row("snmp").get("docker_id") == kube, "it goes on by itself")


def findings(switch: Switch) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(switch.kubesync("doctor", "--json").stdout)
    return found


def unwritable(folder: Path, by: str) -> Callable[[], object]:
    """Make the file system of `folder` take no writes; return what makes it take them again."""
    if by == "full":
        return fill(folder).unlink

    def remount(how: str) -> None:
        # It is refused while the daemon writes a file.
        command = ["mount", "-o", f"remount,{how}", str(folder)]
        until(
            lambda: subprocess.run(command, check=False, timeout=LIMIT_S).returncode == 0, " ".join(command)
        )

    remount("ro")
    return lambda: remount("rw")
