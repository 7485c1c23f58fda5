"""Check the daemon without free space for its files: real tmpfs for /run and /var/lib, filled up.

A stop needs no space. An admission does, because a restart must know it. Nothing that runs is changed,
and once there is room again all goes on by itself.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

SIZE = "256k"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at `folder`; what is there already is hidden."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "kubesyncd-test", str(folder)]
    subprocess.run(mount, check=True, capture_output=True, timeout=180)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True, timeout=180)


def fill(folder: Path) -> Path:
    """Not one byte is left; the file that took them."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


@pytest.fixture
def cramped(switches: MakeSwitch) -> Iterator[Switch]:
    """A switch whose /run/kubesyncd and /var/lib/kubesyncd are small disks of their own."""
    # Time for a goodbye on a busy machine: code 0.
    switch = switches(timing={"stop_grace_s": 30.0})
    switch.daemon.stop()
    with ExitStack() as stack:
        for name in ("run", "state"):
            stack.enter_context(small_disk(switch.folder / name))
        switch.paths.container_sock.parent.mkdir()
        switch.daemon.start()
        stack.callback(switch.daemon.stop)
        yield switch


def test_on_a_full_disk_features_stop_and_start_and_admissions_are_never_forgotten(
    cramped: Switch,
) -> None:
    switch = cramped
    lldp = switch.boot_local("lldp")
    switch.boot_local("snmp")
    waiter = switch.waits("lldp")
    fillers = [fill(switch.folder / name) for name in ("run", "state")]

    switch.done("stop", "snmp")
    assert switch.running("snmp") == []
    switch.wait_for(lambda: switch.log("ledger", alert=True), "the alert")
    assert "No space left" in switch.log("ledger", alert=True)[0]["why"]
    switch.done("start", "snmp")
    local = switch.running("snmp")
    switch.config("snmp", set_owner="kube")
    kube = switch.run_kube("snmp")
    # No container is let through that a restart would not know, and none is ended for it.
    switch.wait_for(lambda: switch.log("not_recorded", feature="snmp"), "the hand-over cannot be recorded")
    switch.until_told("No space left", "explain", "snmp")
    assert set(switch.running("snmp")) == {*local, kube}
    assert switch.row("snmp").get("docker_id") == local[0]
    assert (switch.running("lldp"), waiter.poll()) == ([lldp], None)

    for filler in fillers:
        filler.unlink()
    switch.until_row("snmp", docker_id=kube)
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    assert switch.running("snmp") == [kube]
    assert local != [kube]
    assert (switch.running("lldp"), waiter.poll()) == ([lldp], None)
    switch.done("stop", "lldp")
    assert waiter.wait(LIMIT_S) == 0
