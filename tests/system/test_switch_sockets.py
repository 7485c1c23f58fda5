"""Check a whole switch whose daemon runs and cannot be reached, is at its limits, or does not answer."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kubesyncd.api.connections import WAITING_FOR_ONE_MAX
from tests.lab.processes import freeze
from tests.lab.switch_clients import CLIENTS
from tests.lab.switch_units import PYTHON
from tests.system.test_switch_local import held, to_kube
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

AUDIT = {"audit_s": 1.0}
# A client with another limit than the 90 s of its own.
IMPATIENT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import client;"
    "client.ask.__defaults__ = (client.ask.__defaults__[0], 4.0, *client.ask.__defaults__[2:]);"
    "sys.exit(client.main(['container', *sys.argv[1:]]))"
)


def files_removed(switch: Switch) -> None:
    switch.paths.host_sock.unlink()
    switch.paths.container_sock.unlink()


def folders_removed(switch: Switch) -> None:
    ledger = switch.paths.ledger.read_bytes()
    shutil.rmtree(switch.paths.ledger.parent)
    switch.paths.ledger.parent.mkdir()
    switch.paths.ledger.write_bytes(ledger)


@pytest.mark.parametrize("harm", [files_removed, folders_removed])
def test_a_daemon_whose_sockets_were_removed_binds_them_again_and_is_not_bypassed(
    switches: MakeSwitch, harm: Callable[[Switch], None]
) -> None:
    # The container reports its end to a socket that it may not find: for 2 s, and on a busy machine longer.
    switch = switches(timing={"audit_s": 3600.0, "stop_grace_s": 60.0})
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    harm(switch)
    switch.done("stop", "snmp")
    assert waiter.wait(LIMIT_S) == 0, "it was connected before"
    assert switch.state("snmp") == "INIT"
    assert len(switch.log("socket", alert=True)) == 2
    switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")


def test_a_kube_container_is_admitted_after_the_containers_socket_was_removed(switches: MakeSwitch) -> None:
    switch = switches(timing=AUDIT)
    switch.boot_local("snmp")
    switch.paths.container_sock.unlink()
    # A container that meets no daemon for 2 s ends. A kubelet starts it again, and there is none here.
    switch.wait_for(switch.paths.container_sock.exists, "the socket is bound again")
    to_kube(switch, "snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    assert len(switch.log("socket", alert=True)) == 1


@pytest.fixture
def crowd(switch: Switch) -> Iterator[Callable[[int], None]]:
    """`crowd(number)`: so many requests `wait snmp`, left waiting."""
    with ExitStack() as links:

        def ask(number: int) -> None:
            for _ in range(number):
                link = links.enter_context(socket.socket(socket.AF_UNIX))
                link.connect(str(switch.paths.host_sock))
                link.sendall(b"1\0wait\0snmp\n")

        yield ask


def test_commands_are_carried_out_beside_more_waiters_than_there_is_room_for(
    switch: Switch, crowd: Callable[[int], None]
) -> None:
    switch.boot_local("snmp")
    crowd(WAITING_FOR_ONE_MAX)
    switch.wait_for(lambda: held(switch)["connections"]["host"] > WAITING_FOR_ONE_MAX)
    refused = switch.daemon.raw(b"1\0wait\0snmp\n")
    assert refused.startswith(b"S kubesyncd is busy: 64 clients wait for snmp\nA ")
    late = switch.spawn("wait", "snmp")
    switch.done("stop", "-t", "60", "snmp")
    assert switch.state("snmp") == "INIT"
    assert late.wait(LIMIT_S) == 0
    switch.done("start", "snmp")
    switch.done("kill", "snmp")
    assert switch.state("snmp") == "INIT"
    assert len(switch.log("busy", alert=True)) == 1


def test_a_frozen_daemon_is_not_bypassed_and_promises_nothing(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    freeze(switch.daemon.pid)
    try:
        command = [PYTHON, "-IS", "-c", IMPATIENT, str(CLIENTS), "stop", "snmp"]
        stopped = subprocess.run(
            command, env=switch.clients.environment, capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        switch.daemon.send_signal(signal.SIGCONT)
    line = "container: snmp: no answer from kubesyncd within 4.0 s, so it may not be done"
    assert (stopped.returncode, stopped.stderr.partition(";")[0]) == (75, line)
    assert "goes on" not in stopped.stderr
    switch.wait_for(
        lambda: switch.log("request_dropped"), "the request of the client that has gone is dropped"
    )
    assert switch.running("snmp") == [local]
    assert switch.state("snmp") == "LOCAL"
    switch.done("stop", "snmp")
    assert switch.state("snmp") == "INIT"
