"""Check a switch on which the outside refuses an action for good: it is told, and everything else goes on.

The real Docker engine and a real Redis, because only they refuse as a switch's do.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.lab.switch import Switch
    from tests.system.docker_engine import RealDocker
    from tests.system.switch_fixtures import MakeSwitch

NO_PROGRAM = ["/no/such/program"]


# ---- the local container cannot be started ----------------------------------------------------------


@pytest.mark.real("docker")
def test_a_local_container_that_cannot_start_does_not_keep_a_kube_one_out(
    real_docker: RealDocker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(real_docker)
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.create_local("snmp", command=NO_PROGRAM)
    switch.done("start", "snmp")
    switch.until_state("snmp", "KUBE_READY")
    # While it is tried again, that is the reason.
    switch.wait_for(lambda: "/no/such/program" in switch.shown("snmp")["why"], "it is told")
    switch.wait_for(lambda: "/no/such/program" in switch.row("snmp").get("failure", ""), "the row says why")
    switch.until_told("/no/such/program", "explain", "snmp")
    assert len(switch.log("start_failed", alert=True)) == 1, switch.told()

    kube = switch.run_kube("snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.until_row("snmp", docker_id=kube, failure="")
    assert switch.log("start_failed", alert=True)[1:] == [], switch.told()
    switch.until_told("/no/such/program", "explain", "snmp")


@pytest.mark.real("docker")
def test_a_start_that_failed_says_why_and_leaves_no_wish_behind(
    real_docker: RealDocker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(real_docker)
    switch.config("snmp", set_owner="local")
    broken = switch.create_local("snmp", command=NO_PROGRAM)
    start = switch.container("start", "snmp")
    assert (start.returncode, start.stderr.count("\n")) == (1, 1)
    assert "/no/such/program" in start.stderr
    assert switch.shown("snmp")["row"]["system_state"] == "down"
    switch.docker.remove(broken)
    missing = switch.container("start", "snmp")
    assert missing.returncode == 1
    switch.create_local("snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "INIT")
    assert switch.running("snmp") == [], "what was asked for had failed: it is not started hours later"
    switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")


def test_the_only_container_is_not_ended_for_owner_local(switch: Switch) -> None:
    switch.config("snmp", set_owner="kube")
    kube = switch.run_kube("snmp")
    switch.done("start", "snmp")
    switch.until_state("snmp", "KUBE_RUNNING")
    refused = switch.kubesync("config", "feature", "owner", "snmp", "local")
    assert refused.returncode == 1
    assert (
        "snmp has no way back (no local container exists, and no unit has a script to make one)"
        in refused.stderr
    )
    assert switch.config_db.hget("FEATURE|snmp", "set_owner") == "kube"

    forced = switch.kubesync("config", "feature", "owner", "snmp", "local", "--force")
    assert forced.returncode == 0, forced
    switch.until_told("no way back", "explain", "snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    assert switch.running("snmp") == [kube]
    kept = "no unit has a script to make one: the kube container is kept"
    switch.wait_for(lambda: kept in switch.shown("snmp")["why"], kept)
    assert len(switch.log("no_way_back", alert=True)) <= 2, "once in each life of the daemon"

    local = switch.create_local("snmp")
    switch.until_state("snmp", "LOCAL")
    switch.wait_for(lambda: switch.running("snmp") == [local], "the local container has taken over")


# ---- STATE_DB can be read, not written --------------------------------------------------------------


@contextmanager
def replica(switch: Switch) -> Iterator[str]:
    with switch.redis.client() as client:
        client.config_set("replica-serve-stale-data", "yes")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield "read only replica"
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def failed_snapshot(switch: Switch) -> Iterator[str]:
    with switch.redis.client() as client:
        in_the_way = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
        in_the_way.mkdir()
        client.config_set("save", "3600 1")
        client.bgsave()
        switch.wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        yield "snapshot"
        client.config_set("save", "")
        in_the_way.rmdir()


@contextmanager
def out_of_memory(switch: Switch) -> Iterator[str]:
    with switch.redis.client() as client:
        client.config_set("maxmemory", "1")
        yield "maxmemory"
        client.config_set("maxmemory", "0")


@contextmanager
def forbidden(switch: Switch) -> Iterator[str]:
    with switch.redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-hset", "-hdel")
        yield "permission"
        client.execute_command("ACL", "SETUSER", "default", "+hset", "+hdel")


@contextmanager
def row_of_another_type(switch: Switch) -> Iterator[str]:
    for feature in ("snmp", "lldp", "bgp"):
        switch.state_db.delete(f"FEATURE|{feature}")
        switch.state_db.set(f"FEATURE|{feature}", "a string")
    yield "not a hash"
    for feature in ("snmp", "lldp", "bgp"):
        switch.state_db.delete(f"FEATURE|{feature}")


@pytest.mark.real("docker")
@pytest.mark.parametrize(
    "refuses",
    [replica, failed_snapshot, out_of_memory, forbidden, row_of_another_type],
    ids=lambda f: f.__name__,
)
def test_a_state_db_that_takes_no_writes_holds_up_no_verb(
    real_docker: RealDocker, new_switch: MakeSwitch, refuses: Callable[[Switch], AbstractContextManager[str]]
) -> None:
    switch = new_switch(real_docker)
    for feature in ("snmp", "lldp", "database"):
        switch.boot_local(feature)
    switch.boot_local("bgp")
    switch.config("bgp", set_owner="kube")
    switch.until_state("bgp", "LOCAL")
    with refuses(switch) as reason:
        switch.done("stop", "snmp")
        assert switch.running("snmp") == []
        switch.wait_for(lambda: reason in " ".join(switch.shown("snmp")["troubles"]), "it is told")
        switch.until_told(reason, "explain", "snmp")
        switch.done("start", "snmp")
        switch.until_state("snmp", "LOCAL")
        switch.done("kill", "lldp")
        assert switch.running("lldp") == []
        switch.done("stop", "database")
        assert switch.running("database") == []
        kube = switch.run_kube("bgp")
        switch.until_state("bgp", "KUBE_RUNNING")
        switch.wait_for(lambda: switch.running("bgp") == [kube], "handed over")
        assert len(switch.log("row_not_written", alert=True, feature="snmp")) <= 1
        switch.daemon.restart()
        switch.until_state("bgp", "KUBE_RUNNING")
        assert switch.running("bgp") == [kube], "nor does a restart of the daemon move it"
    switch.until_row("snmp", system_state="up", current_owner="local")
    switch.until_row("lldp", system_state="down", current_owner="none")
    switch.until_row("bgp", docker_id=kube, current_owner="kube")
    switch.wait_for(lambda: not switch.shown("snmp")["troubles"], "and told to be over")
