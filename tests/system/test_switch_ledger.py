"""Check that what runs decides after the ledger is lost within a boot, and that nothing is ended for a grant unwritten.

The ledger is in memory: a cleaner of /run, a full or a read-only file system and an older copy take it away.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.system.test_full_disk import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import Callable
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
    before = switch.ledger.read_bytes()
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    kube = switch.run_kube("snmp")
    switch.until_ups("snmp", "local", "kube")
    switch.wait_for(lambda: (switch.folder / "state" / "boot.json").exists(), "the boot is marked")
    switch.kill9()
    lose(switch.ledger, before)
    switch.start_daemon()
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.wait_for(lambda: '"snmp"' in switch.ledger.read_text(), "the file is written again")
    row = switch.row("snmp")
    assert (row["current_owner"], row["docker_id"], row["system_state"]) == ("kube", kube, "up")
    assert switch.container("id", "snmp").stdout.strip() == kube
    switch.done("start", "snmp")
    assert switch.running("snmp") == [kube]
    assert switch.ups("snmp") == ["local", "kube"]
    told = switch.log("ledger_lost", alert=True)
    assert len(told) == (lose not in (of_other_features, an_older_copy))
    # It was written again with all that a stop and a start need.
    switch.restart_daemon()
    switch.done("stop", "snmp")
    assert switch.running("snmp") == []


def restored(switch: Switch, copy: bytes) -> None:
    """The ledger is an older copy when the daemon comes back."""
    switch.kill9()
    switch.ledger.write_bytes(copy)
    switch.start_daemon()


def test_an_older_ledger_undoes_neither_a_stop_nor_a_start(switch: Switch) -> None:
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="false")
    started = switch.ledger.read_bytes()
    switch.done("stop", "snmp")
    switch.until_row("snmp", system_state="down", current_owner="none")
    stopped = switch.ledger.read_bytes()
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


@pytest.mark.parametrize("by", ["full", "read-only"])
def test_a_grant_that_cannot_be_written_ends_no_local_container_and_is_a_finding(
    switches: MakeSwitch, by: str
) -> None:
    switch = switches()
    switch.stop_daemon()
    with ExitStack() as stack:
        run = switch.folder / "run"
        stack.enter_context(small_disk(run))
        switch.container_sock.parent.mkdir()
        switch.start_daemon()
        stack.callback(switch.stop_daemon)
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
        assert "cannot be written" in switch.prints("explain", "snmp")
        alerts = switch.log(alert=True)
        assert len([line for line in alerts if "cannot be written" in line["why"]]) == 1, alerts
        undo()
        switch.wait_for(lambda: switch.row("snmp").get("docker_id") == kube, "it goes on by itself")
        assert not any(line["subject"] == "files" for line in findings(switch))


def findings(switch: Switch) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(switch.kubesync("doctor", "--json").stdout)
    return found


def unwritable(folder: Path, by: str) -> Callable[[], object]:
    """Make the file system of `folder` take no writes; return what makes it take them again."""
    if by == "full":
        return fill(folder).unlink

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, timeout=60)

    remount("ro")
    return lambda: remount("rw")
