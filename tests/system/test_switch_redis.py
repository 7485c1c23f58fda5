"""Check a switch while Redis refuses commands, each in its own words, and when its flags or its rows are lost.

A real Redis; the lab's Docker engine, because Docker has no part in it.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from tests.lab.engines import LabDockerProcess
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

CROWD = 20
ENDLESS = "while true do end"


@contextmanager
def busy(switch: Switch) -> Iterator[None]:
    """A script runs that nothing but SCRIPT KILL ends."""
    with switch.redis.client() as client:
        client.config_set("lua-time-limit", "1")
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(switch.redis.socket))
            link.sendall(f"EVAL '{ENDLESS}' 0\r\n".encode())
            switch.wait_for(lambda: refuses(switch, "BUSY"), "it is busy")
            yield
            client.script_kill()


@contextmanager
def password(switch: Switch) -> Iterator[redis.Redis]:
    """A password is set, and the daemon's connections are closed."""
    with switch.redis.client() as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(skipme=True, _type="normal")
        yield client
        client.config_set("requirepass", "")


@contextmanager
def replica(switch: Switch) -> Iterator[redis.Redis]:
    with switch.redis.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield client
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def forbidden(switch: Switch) -> Iterator[redis.Redis]:
    with switch.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-hgetall", "-hset", "-hdel")
        yield client
        client.execute_command("ACL", "SETUSER", "default", "+hgetall", "+hset", "+hdel")


@contextmanager
def full(switch: Switch) -> Iterator[redis.Redis]:
    with switch.redis.client() as client:
        client.config_set("maxmemory", "1")
        yield client
        client.config_set("maxmemory", "0")


@contextmanager
def crowded(switch: Switch) -> Iterator[None]:
    """No connection is left; those of the daemon are closed."""
    with switch.redis.client() as client:
        client.config_set("maxclients", "1")
        client.client_kill_filter(skipme=True)
        yield
        client.config_set("maxclients", "100")


@contextmanager
def away(switch: Switch) -> Iterator[None]:
    """It is restarted with its data."""
    with switch.redis.client() as client:
        client.save()
    switch.redis.kill()
    yield
    switch.redis.start()


@contextmanager
def silent(switch: Switch) -> Iterator[None]:
    switch.redis.pause()
    yield
    switch.redis.resume()


def refuses(switch: Switch, word: str) -> bool:
    """Whether Redis answers with this word."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(LIMIT_S)
        link.connect(str(switch.redis.socket))
        link.sendall(b"HGETALL FEATURE|snmp\r\n")
        return link.recv(200).decode().startswith(f"-{word}")


def refusals(client: redis.Redis) -> int:
    """How often Redis has refused a command."""
    return sum(counted["count"] for counted in client.info("errorstats").values())


PASSING = {"busy": busy, "crowded": crowded, "away": away, "silent": silent}
LASTING = {"password": password, "replica": replica, "forbidden": forbidden, "full": full}
FIXES = {
    "password": "[redis] password_file",
    "replica": "REPLICAOF NO ONE",
    "forbidden": "ACL SETUSER",
    "full": "CONFIG SET maxmemory",
}


@pytest.fixture
def patient_switch(lab_docker: LabDockerProcess, new_switch: MakeSwitch) -> Switch:
    """A switch on which neither an audit nor a reconciler's own retry comes in time."""
    switch = new_switch(lab_docker, timing={"audit_s": 3600.0, "backoff_s": 3600.0, "backoff_s_max": 3600.0})
    switch.boot_local("snmp")
    switch.boot_local("lldp")
    for number in range(CROWD):
        switch.config(f"f{number}", set_owner="local")
    switch.wait_for(lambda: all(switch.shown(name) for name in crowd()), "every feature is known")
    return switch


def crowd() -> list[str]:
    return [f"f{number}" for number in range(CROWD)]


def told(switch: Switch) -> list[tuple[str, str]]:
    """Level and event of each line about Redis, and of each warning that names nothing else."""
    lines = [line for line in switch.log() if line.get("service", "Redis") == "Redis"]
    return [(x["level"], x["event"]) for x in lines if "service" in x or x["level"] != "info"]


def end_is_told(switch: Switch, before: int, *begun: list[str]) -> None:
    """Wait until the outage is over, which was told by one of these sequences of levels, and at its end."""
    switch.wait_for(lambda: told(switch)[before:][-1:] == [("info", "recovered")], "the end is told")
    assert [level for level, _ in told(switch)[before:-1]] in begun, told(switch)


def test_an_outage_that_passes_is_waited_for_told_once_and_rows_are_right_after_it(
    patient_switch: Switch,
) -> None:
    switch = patient_switch
    for name, trouble in PASSING.items():
        switch.done("stop", "lldp")
        switch.until_row("lldp", system_state="down")
        before = len(told(switch))
        with trouble(switch):
            starting = switch.spawn("start", "lldp")
            switch.done("stop", "snmp")
            assert switch.running("snmp") == []
            switch.wait_for(lambda: len(told(switch)) > before, f"{name} is told")  # noqa: B023
            looked_at = crowd() if name != "silent" else crowd()[:1]
            for feature in looked_at:
                switch.shown(feature)
            assert starting.poll() is None, "the start waits"
        assert starting.wait(LIMIT_S) == 0, (name, starting.communicate())
        switch.until_row("snmp", system_state="down")
        switch.until_row("lldp", system_state="up", current_owner="local")
        end_is_told(switch, before, ["warning"])
        switch.done("start", "snmp")


def test_a_refusal_that_lasts_is_one_alert_with_its_fix_and_rows_are_right_after_it(
    patient_switch: Switch,
) -> None:
    switch = patient_switch
    for name, trouble in LASTING.items():
        before = len(told(switch))
        with trouble(switch) as client:
            switch.done("stop", "snmp")
            assert switch.running("snmp") == []
            for feature in crowd():
                switch.shown(feature)
            if name in ("password", "forbidden"):
                start = switch.container("start", "lldp")
                assert (start.returncode, FIXES[name] in start.stderr) == (69, True), start
            switch.wait_for(lambda: len(told(switch)) > before, f"{name} is told")  # noqa: B023
            assert switch.log(service="Redis")[-1]["why"].endswith(FIXES[name])
            refused = refusals(client)
            switch.wait_for(lambda: refusals(client) > refused, "one place asks for the end")  # noqa: B023
        switch.until_row("snmp", system_state="down")
        # The stream of events may notice it before a call does: that is a warning, and the failed call the alert.
        end_is_told(switch, before, ["warning"], ["error"], ["warning", "error"])
        switch.done("start", "snmp")
    assert switch.log(alert=True, service="Redis")[0]["why"].endswith(FIXES["password"])
