"""Check that the rights which docs/security.md gives to kubesyncd's user at Redis are enough, and all needed."""

from __future__ import annotations

import random
import re
import shlex
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import NoPermissionError

from kubesyncd import settings
from kubesyncd.adapters.redis_events import FLAGS
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.cli.switch_redis import SwitchRedis
from kubesyncd.core.model import Mode, Owner, Row, Signal, SystemState
from tests.lab.heard import Heard
from tests.lab.redis_server import RedisServer
from tests.paths import DOCS
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

PASSWORD = "p@ss word"
UP = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, "0123456789abcdef" * 4, 1_700_000_000)
LABELS = ("rack=1",)


def granted() -> list[str]:
    """The words of the page's ACL SETUSER."""
    page = (DOCS / "security.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^redis-cli (ACL SETUSER kubesyncd .*)$", page, re.MULTILINE)
    return shlex.split(line.replace("PASSWORD", PASSWORD))


@pytest.fixture
def server(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """A server that knows the page's user, and asks every other one for a password."""
    with RedisServer() as server, server.client() as client:
        client.execute_command(*granted())
        with server.client(4) as config_db:
            config_db.set("CONFIG_DB_INITIALIZED", "1")
            config_db.hset("FEATURE|snmp", "set_owner", "local")
            config_db.hset("KUBERNETES_MASTER|SERVER", "ip", "10.1.1.1")
            config_db.hset("DEVICE_METADATA|localhost", "hwsku", "a")
            config_db.hset("PORT|Ethernet0", "speed", "1")
        client.config_set("requirepass", "of another user")
        client.config_resetstat()
        yield server


@pytest.fixture
def configured(server: RedisServer, tmp_path: Path) -> settings.Settings:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    table = {"redis": {"url": server.url, "user": "kubesyncd", "password_file": str(file)}}
    return settings.check(table, "k").valid()


async def test_the_page_grants_all_that_is_needed_and_nothing_else(
    server: RedisServer, configured: settings.Settings
) -> None:
    store = RedisStore(configured.redis, "hld", random.Random(1), frozenset(), look_s=0.2)
    told: list[str] = []
    heard = Heard(store, told.append)
    await heard.then_forget(Signal.GAP)
    assert await store.features() == {"snmp"}
    assert set(await store.feature_rows()) == {"snmp"}
    await store.add_fields("snmp", {"fallback_to_local": "true"})
    for row in (UP, Row(SystemState.DOWN)):
        await store.write_row("snmp", row)
        assert (await store.read("snmp")).row == row
    await heard.then_forget("snmp")
    assert (await store.master()).ip == "10.1.1.1"
    assert await store.device_metadata() == {"hwsku": "a"}
    await store.write_master(connected=True, ts=1)
    for labels in (LABELS, ()):
        await store.write_pending(labels)
    with server_as_admin(server) as admin:
        await until_async(lambda: calls(admin, "ping") > 0, "a quiet subscription was asked")
        assert set(admin.config_get("notify-keyspace-events")["notify-keyspace-events"]) >= set(FLAGS)
        operators_commands(SwitchRedis(configured))
        assert told == [""], "nothing was refused"
        assert [word for word in granted() if word.startswith("+") and not calls(admin, word[1:])] == []
        denied = {(entry["reason"], entry["object"]) for entry in admin.acl_log()}
        assert denied <= {("command", "client|setinfo"), ("command", "client")}, (
            "redis-py's own, and harmless"
        )
    await heard.close()
    await store.close()


def operators_commands(switch: SwitchRedis) -> None:
    """What the `kubesync` commands do."""
    assert switch.feature_names() == ["snmp"]
    assert switch.feature_rows("snmp").config["set_owner"] == "local"
    assert switch.master()[0]["ip"] == "10.1.1.1"
    assert switch.labels_of_ctrmgrd() == {}
    assert switch.device_metadata() == {"hwsku": "a"}
    assert switch.config_loaded()
    assert switch.notify_flags()[1] == ""
    switch.write_feature("snmp", {"set_owner": "kube"})
    switch.write_master({"port": "6443"})
    switch.replace_feature("snmp", {})
    switch.remove_state("snmp")


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "SET FEATURE|snmp x", "HGETALL PORT|Ethernet0", "SUBSCRIBE x", "CONFIG REWRITE", "KEYS *"],
)
def test_the_page_grants_nothing_of_others(server: RedisServer, command: str) -> None:
    with server.client() as client:
        client.connection_pool.connection_kwargs.update(username="kubesyncd", password=PASSWORD)
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())


def server_as_admin(server: RedisServer) -> redis.Redis:
    client = server.client()
    client.connection_pool.connection_kwargs.update(password="of another user")
    return client


def calls(client: redis.Redis, command: str) -> int:
    """How many of these the server has carried out; an older one does not tell `CONFIG GET` from `CONFIG SET`."""
    stats = client.info("commandstats")
    found = stats.get(f"cmdstat_{command}", stats.get(f"cmdstat_{command.partition('|')[0]}", {}))
    number: int = found.get("calls", 0)
    return number
