"""Check the port FeatureStore against a real Redis and its faults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from redis.exceptions import RedisError

from kubesyncd import settings
from kubesyncd.adapters.redis_client import SOCKET_S, connect, edge
from kubesyncd.adapters.redis_events import FLAGS
from kubesyncd.adapters.redis_place import locate
from kubesyncd.adapters.redis_store import RedisStore
from kubesyncd.core.config_load import ConfigLoad
from kubesyncd.core.model import (
    FeatureConfig,
    MasterConfig,
    Mode,
    Owner,
    Row,
    Signal,
    Startup,
    SystemState,
    valid_feature_name,
)
from kubesyncd.ports import Lasting, Passing, Refused, Unavailable
from tests.lab.fake_redis import FakeRedis
from tests.lab.heard import Heard
from tests.lab.redis_server import RedisServer
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    import redis

ID = "0123456789abcdef" * 4
LOCAL = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, ID, 1_700_000_000)
KUBE = Row(SystemState.UP, Owner.KUBE, Mode.READY, ID, 1_700_000_000)
NOTIFY = "notify-keyspace-events"
# What makes Redis refuse a command, and what ends that.
REFUSALS = (
    (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    (("ACL", "SETUSER", "default", "-hset"), ("ACL", "SETUSER", "default", "+hset")),
    (("ACL", "SETUSER", "default", "-hgetall"), ("ACL", "SETUSER", "default", "+hgetall")),
    (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
)
# Never what is tested: only how long a broken run may hang.
PATIENCE_S = 120.0


def make_store(server: RedisServer | FakeRedis, names: str = "hld", *, look_s: float = 20.0) -> RedisStore:
    return RedisStore(
        settings.RedisSettings(url=server.url),
        names,
        random.Random(1),
        frozenset({"database"}),
        look_s=look_s,
        connect=server.connect if isinstance(server, FakeRedis) else connect,
    )


@pytest_asyncio.fixture
async def store(redis_server: RedisServer) -> AsyncIterator[RedisStore]:
    made = make_store(redis_server)
    yield made
    await made.close()


@pytest.fixture
def config_db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client(4) as client:
        yield client


@pytest.fixture
def state_db(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis_server.client(6) as client:
        yield client


@pytest.fixture
def fake_redis() -> FakeRedis:
    """Empty databases, for tests that need no server."""
    return FakeRedis()


@pytest.fixture
def own_server(shared_redis: RedisServer) -> Iterator[RedisServer]:
    """A server that this test may kill."""
    with RedisServer() as server:
        yield server


@contextlib.asynccontextmanager
async def hearing(store: RedisStore, told: list[str] | None = None) -> AsyncIterator[Heard]:
    """`told` receives why the events are lost, and an empty text when they are back."""
    heard = Heard(store, [].append if told is None else told.append)
    try:
        yield heard
    finally:
        await heard.close()


@contextlib.asynccontextmanager
async def half_open(server: RedisServer) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A proxy to the server, and a function that cuts the present subscriptions off from it."""
    subscribed: set[asyncio.StreamWriter] = set()
    deaf: set[asyncio.StreamWriter] = set()

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if b"PSUBSCRIBE" in data:
                subscribed.add(client)
            if writer is not client or client not in deaf:
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(str(server.socket))
        await asyncio.gather(copy(reader, there_writer, writer), copy(there_reader, writer, writer))

    path = f"{server.socket}.door"
    door = await asyncio.start_unix_server(serve, path)
    yield f"unix://{path}", lambda: deaf.update(subscribed)
    door.close()


def commands(client: redis.Redis, name: str) -> int:
    """How many commands of this name the server has executed."""
    calls: int = client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)
    return calls


def commands_run(client: redis.Redis) -> int:
    """How many writing commands the server has executed."""
    return sum(commands(client, name) for name in ("hset", "hdel", "del", "set"))


class TestReading:
    @pytest.fixture
    def redis_server(self, fake_redis: FakeRedis) -> FakeRedis:
        return fake_redis

    async def test_an_unknown_feature_has_no_config_and_an_empty_row(self, store: RedisStore) -> None:
        stored = await store.read("snmp")
        assert (stored.config, stored.row, stored.loading, stored.problems) == (None, Row(), False, ())

    async def test_config_and_row_come_from_their_own_databases(
        self, store: RedisStore, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        config_db.hset(
            "FEATURE|snmp", mapping={"Set_Owner": "KUBE", "fallback_to_local": "on", "state": "enabled"}
        )
        state_db.hset("FEATURE|snmp", mapping={"system_state": "up", "docker-id": ID, "up_status": "what"})
        stored = await store.read("snmp")
        assert stored.config == FeatureConfig(set_owner=Owner.KUBE, fallback=True)
        assert stored.row == Row(system_state=SystemState.UP, docker_id=ID)
        assert stored.problems == ()

    async def test_an_always_local_feature_is_one_with_and_without_a_row(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        assert (await store.read("database")).config == FeatureConfig(always_local=True)
        config_db.hset("FEATURE|database", mapping={"set_owner": "kube"})
        config = (await store.read("database")).config
        assert config is not None
        assert config.always_local
        assert config.owner is Owner.LOCAL

    async def test_invalid_utf_8_is_a_problem_and_harms_no_other_field(
        self, store: RedisStore, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        config_db.hset("FEATURE|snmp", mapping={"set_owner": b"\xff\xfe", "fallback_to_local": "true"})
        state_db.hset(
            "FEATURE|snmp", mapping={"system_state": "up", "failure": b"bad \x80", b"\xff": b"\xff"}
        )
        stored = await store.read("snmp")
        assert stored.config == FeatureConfig(fallback=True)
        assert stored.row == Row(SystemState.UP, failure="bad \N{REPLACEMENT CHARACTER}")
        assert any("CONFIG_DB FEATURE|snmp: set_owner" in p and "UTF-8" in p for p in stored.problems)
        assert any("STATE_DB FEATURE|snmp: failure" in p and "UTF-8" in p for p in stored.problems)

    async def test_a_huge_value_is_a_short_problem(self, store: RedisStore, config_db: redis.Redis) -> None:
        config_db.hset(
            "FEATURE|snmp", mapping={"set_owner": "k" * 2**20, "x" * 2**20: "1", "note": "n" * 2**20}
        )
        stored = await store.read("snmp")
        assert stored.config == FeatureConfig()
        assert len(stored.problems) == 1
        assert "set_owner has 1048576 bytes" in stored.problems[0]
        assert len(stored.problems[0]) < 200

    async def test_keys_of_another_type_are_absent_and_a_problem(
        self, store: RedisStore, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        config_db.set("FEATURE|snmp", "text")
        state_db.rpush("FEATURE|snmp", "list")
        config_db.set("KUBERNETES_MASTER|SERVER", "text")
        stored = await store.read("snmp")
        assert (stored.config, stored.row) == (None, Row())
        assert [p.split(":")[0] for p in stored.problems] == [
            "CONFIG_DB FEATURE|snmp",
            "STATE_DB FEATURE|snmp",
        ]
        master = await store.master()
        assert master.ip == ""
        assert len(master.problems) == 1

    async def test_rows_with_invalid_names_are_listed_too(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        for name in ("snmp", "lldp@0", "../x", "a|b", "", "UPPER", "é", "x" * 70, "a b", "-f"):
            config_db.hset(f"FEATURE|{name}", "state", "enabled")
        config_db.hset(b"FEATURE|\xff", "state", "enabled")
        config_db.hset("FEATURES|no", "state", "enabled")
        names = await store.features()
        assert {name for name in names if valid_feature_name(name)} == {"snmp", "lldp@0"}
        assert {"UPPER", "a|b", ""} < names

    async def test_features_are_found_among_many_other_keys(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        with config_db.pipeline(transaction=False) as pipe:
            for n in range(5000):
                pipe.hset(f"PORT|Ethernet{n}", "mtu", "9100")
            for n in range(300):
                pipe.hset(f"FEATURE|f{n}", "state", "enabled")
            pipe.execute()
        assert len(await store.features()) == 300

    async def test_the_masters_config_is_read_in_any_case(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        config_db.hset(
            "KUBERNETES_MASTER|SERVER", mapping={"IP": "10.0.0.1", "Port": "7443", "insecure": "True"}
        )
        assert await store.master() == MasterConfig("10.0.0.1", 7443, insecure=True)
        config_db.hset("KUBERNETES_MASTER|SERVER", mapping={"disable": "maybe"})
        (problem,) = (await store.master()).problems
        assert problem.startswith("CONFIG_DB KUBERNETES_MASTER|SERVER: invalid disable='maybe'")

    async def test_the_devices_metadata_stands_as_it_is(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        config_db.hset(
            "DEVICE_METADATA|localhost", mapping={"hwsku": "ACS-MSN2700", "Some-Field": "x", "y": "z" * 999}
        )
        assert await store.device_metadata() == {"hwsku": "ACS-MSN2700", "Some-Field": "x"}


class TestLoading:
    @pytest.fixture
    def redis_server(self, fake_redis: FakeRedis) -> FakeRedis:
        return fake_redis

    async def test_the_mark_never_seen_means_nothing_is_being_loaded(self, store: RedisStore) -> None:
        assert not (await store.read("snmp")).loading
        assert not store.config_load.seen

    @pytest.mark.parametrize("mark", [None, "0", ""])
    async def test_the_mark_gone_after_it_was_seen_means_being_loaded(
        self, store: RedisStore, config_db: redis.Redis, mark: str | None
    ) -> None:
        config_db.set("CONFIG_DB_INITIALIZED", "1")
        config_db.hset("FEATURE|snmp", "set_owner", "kube")
        assert not (await store.read("snmp")).loading
        assert store.config_load.seen
        config_db.flushdb()
        if mark is not None:
            config_db.set("CONFIG_DB_INITIALIZED", mark)
        assert (await store.read("snmp")).loading
        config_db.set("CONFIG_DB_INITIALIZED", "1")
        assert not (await store.read("snmp")).loading

    async def test_a_restarted_daemon_can_be_told_that_it_had_seen_the_mark(self, store: RedisStore) -> None:
        store.config_load = ConfigLoad(seen=True)
        assert (await store.read("snmp")).loading

    async def test_what_lists_the_config_waits_until_it_is_whole(self, store: RedisStore) -> None:
        store.config_load = ConfigLoad(seen=True)
        for listing in (store.features, store.master, store.device_metadata):
            with pytest.raises(Unavailable, match="being loaded"):
                await listing()


# The contract's run on a real Redis, as below: fakeredis counts no commands and shows none.
@pytest.mark.parametrize("names", ["hld", "sonic"])
class TestWritingRows:
    @pytest.mark.parametrize(
        "row",
        [
            LOCAL,
            KUBE,
            Row(SystemState.UP, Owner.NONE, Mode.PENDING),
            Row(SystemState.UP, Owner.NONE, Mode.READY, failure="not running for 5 minutes"),
            Row(SystemState.DOWN),
            Row(),
        ],
    )
    async def test_a_row_is_read_back_as_written(
        self, redis_server: RedisServer, names: str, row: Row
    ) -> None:
        store = make_store(redis_server, names)
        await store.write_row("snmp", KUBE)
        await store.write_row("snmp", row)
        stored = await store.read("snmp")
        assert (stored.row, stored.problems) == (row, ())
        await store.close()

    async def test_a_start_up_script_and_the_daemon_read_each_other(
        self, redis_server: RedisServer, names: str, state_db: redis.Redis
    ) -> None:
        """What SONiC's container_startup.py writes, and reads; the design document's names have no such script."""
        store, key = make_store(redis_server, names), "FEATURE|snmp"
        waits = Row(SystemState.UP, Owner.NONE, Mode.READY, version="20240510.1")
        await store.write_row("snmp", waits)
        if names == "hld":
            assert not {"remote_state", "container_version"} & state_db.hgetall(key).keys()
            await store.close()
            return
        assert state_db.hget(key, "remote_state") == "stopped", "what makes it ask"
        state_db.hset(key, "container_version", "20251110.7")
        state_db.hset(key, "remote_state", "pending")
        asks = (await store.read("snmp")).row
        assert (asks.startup, asks.version) == (Startup.WAIT, "20251110.7")
        goes = Row(SystemState.UP, Owner.KUBE, Mode.READY, ID, startup=Startup.GO, version="20251110.7")
        await store.write_row("snmp", goes)
        assert state_db.hmget(key, "remote_state", "container_version") == ["ready", "20251110.7"]
        report = {"current_owner": "kube", "container_id": "", "remote_state": "running"}
        state_db.hset(key, mapping=report)
        done = (await store.read("snmp")).row
        assert (done.startup, done.current_owner, done.docker_id) == (Startup.NONE, Owner.KUBE, "")
        await store.write_row("snmp", replace(goes, startup=Startup.NONE))
        assert state_db.hmget(key, "remote_state", "container_id") == ["running", ID[:12]]
        await store.close()

    async def test_an_equal_row_is_not_written_again_not_even_after_a_restart(
        self, redis_server: RedisServer, names: str, state_db: redis.Redis
    ) -> None:
        for row in (LOCAL, KUBE, Row(SystemState.DOWN), Row()):
            first, second = make_store(redis_server, names), make_store(redis_server, names)
            await first.write_row("snmp", row)
            before = commands_run(state_db)
            await first.write_row("snmp", row)
            await second.write_row("snmp", row)
            assert (await second.read("snmp")).row == row
            assert commands_run(state_db) == before
            await first.close()
            await second.close()

    async def test_the_fields_of_others_stay_as_they_are(
        self, redis_server: RedisServer, names: str, state_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, names)
        theirs = {
            "state": "enabled",
            "up_status": "True",
            "container_stable_version": "1.0",
            "fail_reason": "-",
        }
        state_db.hset("FEATURE|snmp", mapping=theirs)
        for row in (LOCAL, KUBE, Row(SystemState.DOWN), Row()):
            await store.write_row("snmp", row)
            assert state_db.hgetall("FEATURE|snmp").items() >= theirs.items()
        assert state_db.hgetall("FEATURE|snmp") == theirs
        await store.close()

    async def test_a_field_changed_by_another_program_is_seen_and_corrected(
        self, redis_server: RedisServer, names: str, state_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, names)
        await store.write_row("snmp", LOCAL)
        state_db.hset("FEATURE|snmp", "current_owner", "none")
        assert (await store.read("snmp")).row.current_owner is Owner.NONE
        await store.write_row("snmp", LOCAL)
        assert (await store.read("snmp")).row == LOCAL
        state_db.flushdb()
        assert (await store.read("snmp")).row == Row()
        await store.close()

    async def test_a_row_of_another_type_refuses_to_be_written(
        self, redis_server: RedisServer, names: str, state_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, names)
        state_db.set("FEATURE|snmp", "text")
        with pytest.raises(Refused, match=r"STATE_DB FEATURE\|snmp.*delete it"):
            await store.write_row("snmp", LOCAL)
        assert state_db.get("FEATURE|snmp") == "text"
        await store.close()


class TestOneRoundTrip:
    """A look goes to both databases over one connection; a write after it asks nothing again."""

    async def test_a_write_after_an_observation_does_not_read_again(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        await store.read("snmp")
        before = state_db.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]
        await store.write_row("snmp", LOCAL)
        await store.write_row("snmp", KUBE)
        assert state_db.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"] == before
        assert (await store.read("snmp")).row == KUBE

    async def test_a_row_changed_after_the_observation_is_complete_after_the_next_one(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        await store.write_row("snmp", LOCAL)
        await store.read("snmp")
        state_db.delete("FEATURE|snmp")
        await store.write_row("snmp", KUBE)
        assert (await store.read("snmp")).row != KUBE
        await store.write_row("snmp", KUBE)
        assert (await store.read("snmp")).row == KUBE

    async def test_reads_cut_short_never_answer_for_another_feature(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        for n in range(20):
            config_db.hset(f"FEATURE|f{n}", "kube_failure_detection", str(n))
        rng = random.Random(7)
        for _ in range(60):
            tasks = [asyncio.create_task(store.read(f"f{n}")) for n in range(8)]
            await asyncio.sleep(rng.random() * 0.002)
            for task in tasks[::2]:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for n, answer in enumerate(answers):
                if isinstance(answer, BaseException):
                    assert isinstance(answer, asyncio.CancelledError)
                else:
                    assert answer.config is not None
                    assert answer.config.failure_minutes == n

    @pytest.mark.slow("hundreds of looks that are cut off")
    async def test_rows_are_written_to_state_db_alone_even_after_a_failed_read(
        self, own_server: RedisServer
    ) -> None:
        store = make_store(own_server)
        with own_server.client(4) as config_db, own_server.client(6) as state_db:
            config_db.set("FEATURE|snmp", "no hash")
            assert (await store.read("snmp")).problems
            await store.write_row("snmp", LOCAL)
            own_server.pause()
            for look in [asyncio.create_task(store.read("lldp")) for _ in range(4)]:
                with pytest.raises(Unavailable):
                    await look
            own_server.resume()
            cut_short = asyncio.create_task(store.read("lldp"))
            await asyncio.sleep(0)
            cut_short.cancel()
            for name in ("lldp", "pmon", "nat", "radv"):
                await store.write_row(name, LOCAL)
            assert set(config_db.keys()) == {"FEATURE|snmp"}
            assert len(state_db.keys("FEATURE|*")) == 5
        await store.close()


class TestWriting:
    async def test_only_what_differs_is_written(self, store: RedisStore, state_db: redis.Redis) -> None:
        await store.write_row("snmp", LOCAL)
        with state_db.monitor() as monitor:
            await store.write_row("snmp", Row(SystemState.UP, Owner.LOCAL, Mode.PENDING, ID, 1_700_000_000))
            await store.write_row("snmp", LOCAL)
            state_db.echo("end")
            seen = []
            for command in monitor.listen():
                if command["command"].startswith("ECHO"):
                    break
                seen.append(command["command"])
        assert [c for c in seen if c.startswith(("HSET", "HDEL", "DEL"))] == [
            "HSET FEATURE|snmp transition_mode kube_pending",
            "HSET FEATURE|snmp transition_mode none",
        ]

    async def test_an_empty_value_removes_its_field_and_an_empty_row_all(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        await store.write_row("snmp", Row(SystemState.UP, Owner.NONE, Mode.READY, failure="late"))
        assert state_db.hgetall("FEATURE|snmp") == {
            "system_state": "up",
            "current_owner": "none",
            "transition_mode": "kube_ready",
            "docker_id": "",
            "failure": "late",
        }
        await store.write_row("snmp", Row(SystemState.UP, Owner.NONE, Mode.NONE))
        assert "failure" not in state_db.hgetall("FEATURE|snmp")
        await store.write_row("snmp", Row())
        assert not state_db.exists("FEATURE|snmp")

    async def test_another_spelling_of_our_field_gives_way_to_ours(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        state_db.hset("FEATURE|snmp", mapping={"docker-id": ID, "Current_Owner": "kube"})
        await store.write_row("snmp", Row(SystemState.DOWN))
        assert (await store.read("snmp")).row == Row(SystemState.DOWN)
        assert state_db.hkeys("FEATURE|snmp") == [
            "system_state",
            "current_owner",
            "docker_id",
            "transition_mode",
        ]

    async def test_sonics_names_are_the_ones_on_the_switch(
        self, redis_server: RedisServer, state_db: redis.Redis, config_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, "sonic")
        await store.write_row("snmp", LOCAL)
        stored = state_db.hgetall("FEATURE|snmp")
        assert (stored["container_id"], stored["remote_state"]) == ("snmp", "none")
        config_db.hset("FEATURE|snmp", mapping={"set_owner": "kube", "no_fallback_to_local": "false"})
        assert (await store.read("snmp")).config == FeatureConfig(Owner.KUBE, fallback=True)
        await store.write_master(connected=True, ts=1_700_000_000)
        assert state_db.hget("KUBERNETES_MASTER|SERVER", "connected") == "true"
        await store.close()

    async def test_fallback_stays_off_where_ctrmgrd_took_it_so(
        self, redis_server: RedisServer, config_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, "sonic")
        asked = []

        def keeps_off(feature: str, text: str, *, whole: bool) -> bool:
            asked.append((feature, text, whole))
            return text == "false"

        store.keeps_off = keeps_off
        config_db.hset("FEATURE|snmp", mapping={"set_owner": "kube", "no_fallback_to_local": "false"})
        config_db.hset("FEATURE|lldp", mapping={"set_owner": "local", "no_fallback_to_local": "false"})
        config_db.hset("FEATURE|bgp", mapping={"set_owner": "kube"})
        told = await store.read("snmp")
        assert told.config == FeatureConfig(Owner.KUBE, fallback=False)
        assert [problem.partition("; ")[2] for problem in told.problems] == [
            "run: kubesync config feature fallback snmp on (or off)"
        ]
        config_db.set("CONFIG_DB_INITIALIZED", "1")
        assert (await store.read("lldp")).problems == (), "it has no effect there"
        assert (await store.read("bgp")).config == FeatureConfig(Owner.KUBE, fallback=True)
        assert asked == [("snmp", "false", False), ("lldp", "false", True), ("bgp", "", True)]
        await store.close()

    async def test_the_masters_status_is_written_only_when_it_changes(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        state_db.hset("KUBERNETES_MASTER|SERVER", "ip", "10.0.0.1")
        await store.write_master(connected=True, ts=100)
        before = commands_run(state_db)
        await store.write_master(connected=True, ts=200)
        assert commands_run(state_db) == before
        assert state_db.hgetall("KUBERNETES_MASTER|SERVER") == {
            "ip": "10.0.0.1",
            "connected": "True",
            "last_update_ts": "100",
        }
        await store.write_master(connected=False, ts=300)
        status = state_db.hgetall("KUBERNETES_MASTER|SERVER")
        assert (status["connected"], status["last_update_ts"]) == ("False", "300")

    async def test_sonics_master_status_has_the_address_and_keeps_its_time(
        self, redis_server: RedisServer, state_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, "sonic")
        key = "KUBERNETES_MASTER|SERVER"
        await store.write_master(connected=True, ts=100, ip="10.0.0.1", port=6443)
        first = state_db.hgetall(key)
        assert (first["ip"], first["port"], first["connected"]) == ("10.0.0.1", "6443", "true")
        await store.write_master(connected=True, ts=90_000, ip="10.0.0.2", port=7443)
        moved = {**first, "ip": "10.0.0.2", "port": "7443"}
        assert state_db.hgetall(key) == moved, "it has been connected since then"
        await store.write_master(connected=False, ts=90_000)
        gone = state_db.hgetall(key)
        assert (gone["ip"], gone["port"], gone["connected"]) == ("", "", "false")
        assert gone["update_time"] != moved["update_time"]
        await store.close()

    async def test_the_label_queue_is_mirrored_and_gone_when_empty(
        self, store: RedisStore, state_db: redis.Redis
    ) -> None:
        await store.write_pending(())
        await store.write_pending(("snmp_enabled=true", "x-"))
        assert state_db.hgetall("KUBE_SERVER|PENDING_LABELS") == {"labels@": "snmp_enabled=true,x-"}
        before = commands_run(state_db)
        await store.write_pending(("snmp_enabled=true", "x-"))
        assert commands_run(state_db) == before
        await store.write_pending(())
        assert not state_db.exists("KUBE_SERVER|PENDING_LABELS")


class TestEvents:
    async def test_a_subscription_begins_with_one_gap(self, store: RedisStore) -> None:
        async with hearing(store) as heard:
            assert await heard.then_forget(Signal.GAP) == [Signal.GAP]

    async def test_every_change_of_a_row_names_its_feature(
        self, store: RedisStore, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            changes: list[Callable[[], Any]] = [
                lambda: config_db.hset("FEATURE|snmp", "set_owner", "kube"),
                lambda: config_db.hdel("FEATURE|snmp", "set_owner"),
                lambda: state_db.hset("FEATURE|snmp", "a", "1"),
                lambda: state_db.delete("FEATURE|snmp"),
                lambda: state_db.hset("FEATURE|snmp", "a", "1"),
                lambda: state_db.pexpire("FEATURE|snmp", 20),
                lambda: config_db.set("FEATURE|snmp", "text"),
                lambda: config_db.rename("FEATURE|snmp", "FEATURE|other"),
            ]
            for change in changes:
                change()
                await heard.then_forget("snmp")
            await until_async(lambda: not state_db.exists("FEATURE|snmp"))

    async def test_an_expired_row_names_its_feature(self, store: RedisStore, state_db: redis.Redis) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            state_db.hset("FEATURE|snmp", "a", "1")
            state_db.pexpire("FEATURE|snmp", 50)
            await heard.page(lambda events: events.count("snmp") >= 3)

    async def test_the_master_and_the_load_mark_have_signals_of_their_own(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            config_db.hset("KUBERNETES_MASTER|SERVER", "IP", "10.0.0.1")
            assert await heard.then_forget(Signal.MASTER) == [Signal.MASTER]
            config_db.set("CONFIG_DB_INITIALIZED", "1")
            assert await heard.then_forget(Signal.GAP) == [Signal.GAP]

    async def test_keys_of_other_tables_cause_no_event(
        self, store: RedisStore, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            for key in ("FEATURE|../x", "FEATURE|a|b", "FEATURE|", b"FEATURE|\xff\xfe", "PORT|Ethernet0"):
                config_db.hset(key, "a", "1")
                state_db.hset(key, "a", "1")
            state_db.hset("KUBERNETES_MASTER|SERVER", "connected", "True")
            config_db.hset("FEATURE|last", "a", "1")
            assert await heard.then_forget("last") == ["last"]

    @pytest.mark.parametrize("flags", ["", "E", "AKE", "xE", "KEA", "Kl"])
    async def test_flags_are_added_to_those_that_others_set(
        self, store: RedisStore, config_db: redis.Redis, flags: str
    ) -> None:
        config_db.config_set(NOTIFY, flags)
        before = set(config_db.config_get(NOTIFY)[NOTIFY])
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            after = set(config_db.config_get(NOTIFY)[NOTIFY])
            assert after >= before
            assert "A" in after or after >= set(FLAGS)
            config_db.hset("FEATURE|snmp", "a", "1")
            await heard.then_forget("snmp")

    async def test_flags_replaced_by_another_program_are_noticed(
        self, redis_server: RedisServer, config_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, look_s=0.2)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            config_db.config_set(NOTIFY, "Elg")
            config_db.hset("FEATURE|snmp", "a", "1")
            assert await heard.then_forget(Signal.GAP) == [Signal.GAP]
            assert set(config_db.config_get(NOTIFY)[NOTIFY]) >= {*FLAGS, "E", "l"}
            config_db.hset("FEATURE|snmp", "a", "2")
            await heard.then_forget("snmp")
        await store.close()

    async def test_flags_replaced_while_rows_are_written_are_restored(
        self, redis_server: RedisServer, config_db: redis.Redis, state_db: redis.Redis
    ) -> None:
        """Hashes are published, so the subscription is never silent; new strings (CONFIG_DB_INITIALIZED) are not."""
        store = make_store(redis_server, look_s=1.0)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            config_db.config_set(NOTIFY, "KEhl")

            async def write() -> None:
                for number in itertools.count():
                    state_db.hset("FEATURE|snmp", "a", str(number))
                    await asyncio.sleep(0.05)

            writing = asyncio.create_task(write())
            assert Signal.GAP in await heard.then_forget(Signal.GAP)
            writing.cancel()
            assert set(config_db.config_get(NOTIFY)[NOTIFY]) >= {*FLAGS, "E", "l"}
        await store.close()

    async def test_flags_are_looked_at_on_each_subscription(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            config_db.config_set(NOTIFY, "")
            config_db.client_kill_filter(_type="pubsub")
            await heard.then_forget(Signal.GAP, 2)
            assert set(config_db.config_get(NOTIFY)[NOTIFY]) >= set(FLAGS)

    async def test_a_flushed_state_db_is_noticed_and_one_that_others_emptied_is_not_told_again(
        self, redis_server: RedisServer, state_db: redis.Redis
    ) -> None:
        store = make_store(redis_server, look_s=0.2)
        async with hearing(store) as heard:
            for name in ("snmp", "lldp"):
                await store.write_row(name, LOCAL)
            await heard.then_forget(Signal.GAP)
            for _ in range(2):
                state_db.flushdb()
                await heard.page(lambda events: Signal.GAP in events)
                assert (await store.read("snmp")).row == Row()
                await store.write_row("snmp", LOCAL)
            await heard.then_forget("snmp")
            looks = commands(state_db, "exists")
            await until_async(lambda: commands(state_db, "exists") >= looks + 3)
            assert Signal.GAP not in heard.said
            assert (await store.read("snmp")).row == LOCAL
        await store.close()

    @pytest.mark.parametrize("flags", ["", "KEA"])
    async def test_a_quiet_subscription_is_asked_and_stays(
        self, redis_server: RedisServer, config_db: redis.Redis, flags: str
    ) -> None:
        config_db.config_set(NOTIFY, flags)
        store = make_store(redis_server, look_s=0.1)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            pings = commands(config_db, "ping")
            await until_async(lambda: commands(config_db, "ping") >= pings + 3)
            assert heard.said == []
        await store.close()

    async def test_a_subscription_cut_by_the_server_says_gap_when_lost_and_when_back(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            config_db.client_kill_filter(_type="pubsub")
            await heard.page(lambda events: events == [Signal.GAP, Signal.GAP])
            config_db.hset("FEATURE|snmp", "a", "1")
            await heard.then_forget("snmp")


class TestRedisInTrouble:
    async def test_no_server_is_unavailable_and_events_begin_when_it_comes(
        self, own_server: RedisServer
    ) -> None:
        own_server.stop()
        store = make_store(own_server)
        for call in (store.read("snmp"), store.features(), store.master(), store.write_row("snmp", LOCAL)):
            with pytest.raises(Unavailable):
                await call
        async with hearing(store) as heard:
            own_server.start()
            assert await heard.then_forget(Signal.GAP) == [Signal.GAP]
        await store.close()

    async def test_a_killed_and_restarted_server_is_a_gap_and_the_next_call_works(
        self, own_server: RedisServer
    ) -> None:
        store = make_store(own_server)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            await store.write_row("snmp", LOCAL)
            await heard.then_forget("snmp")
            own_server.restart()
            await heard.page(lambda events: events[:2] == [Signal.GAP, Signal.GAP])
            assert (await store.read("snmp")).row == Row()
            await store.write_row("snmp", LOCAL)
            await heard.then_forget("snmp")
        await store.close()

    @pytest.mark.slow("waits for a deadline of the product")
    async def test_a_silent_server_is_unavailable_in_time_and_the_dead_subscription_is_noticed(
        self, own_server: RedisServer
    ) -> None:
        store = make_store(own_server, look_s=0.3)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            await store.read("snmp")
            own_server.pause()
            # The adapter gives itself 5 s; redis-py's own patience would be minutes.
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(Unavailable):
                    await store.read("snmp")
            assert await heard.then_forget(Signal.GAP) == [Signal.GAP]
            own_server.resume()
            await heard.then_forget(Signal.GAP)
            with own_server.client(4) as client:
                client.hset("FEATURE|snmp", "set_owner", "kube")
            await heard.then_forget("snmp")
            assert (await store.read("snmp")).config == FeatureConfig(Owner.KUBE)
        await store.close()

    @pytest.mark.slow("waits for a deadline of the product")
    async def test_many_reads_at_once_are_queued_and_none_counts_as_a_timeout(
        self, own_server: RedisServer
    ) -> None:
        # Three at a time: eight turns of 0.3 s each, the first of which may have begun before them.
        crowd = 24
        with own_server.client(4) as config_db:
            config_db.set("CONFIG_DB_INITIALIZED", "1")
        store, slow, over = make_store(own_server), threading.Event(), threading.Event()

        def slow_down() -> None:
            """Redis answers every request, but 0.3 s late."""
            with own_server.client() as client:
                while not over.is_set():
                    client.execute_command("CLIENT", "PAUSE", "300")
                    slow.set()

        await store.read("f0")
        slowing = asyncio.create_task(asyncio.to_thread(slow_down))
        await until_async(slow.is_set)
        begun = asyncio.get_running_loop().time()
        try:
            found = await asyncio.gather(*(store.read(f"f{number}") for number in range(crowd)))
        finally:
            over.set()
            await slowing
            await store.close()
        assert [stored.row for stored in found] == [Row()] * crowd
        assert asyncio.get_running_loop().time() - begun > SOCKET_S, "longer than any of them may take alone"

    async def test_a_subscription_that_alone_went_silent_is_noticed_and_replaced(
        self, redis_server: RedisServer, config_db: redis.Redis
    ) -> None:
        async with half_open(redis_server) as (url, go_silent):
            store = RedisStore(
                settings.RedisSettings(url=url), "hld", random.Random(1), frozenset(), look_s=0.3
            )
            async with hearing(store) as heard:
                await heard.then_forget(Signal.GAP)
                go_silent()
                assert (await store.read("snmp")).config is None
                config_db.hset("FEATURE|snmp", "a", "1")
                assert await heard.page(lambda events: len(events) == 2) == [Signal.GAP, Signal.GAP]
                config_db.hset("FEATURE|snmp", "a", "2")
                assert await heard.then_forget("snmp") == ["snmp"]
            await store.close()

    async def test_a_server_that_is_still_loading_its_data_is_unavailable(
        self, redis_server: RedisServer
    ) -> None:
        path = f"{redis_server.socket}.loading"

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                if line.startswith(b"*"):
                    writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
            writer.close()

        server = await asyncio.start_unix_server(answer, path)
        store = RedisStore(settings.RedisSettings(url=f"unix://{path}"), "hld", random.Random(1), frozenset())
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Unavailable, match="dataset in memory"):
                await store.read("snmp")
        await store.close()
        server.close()

    async def test_a_server_that_forbids_notifications_is_polled(self, own_server: RedisServer) -> None:
        store = make_store(own_server, look_s=0.3)
        with own_server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-config", "-hset")
        with pytest.raises(Unavailable, match="docs/security"):
            await store.write_row("snmp", LOCAL)
        async with hearing(store) as heard:
            await heard.page(lambda events: events == [Signal.GAP] * 3)
        assert (await store.read("snmp")).row == Row()
        await store.close()

    async def test_the_end_of_each_refusal_is_a_gap_and_nothing_is_changed_by_looking(
        self, own_server: RedisServer
    ) -> None:
        store = make_store(own_server, look_s=2.0)
        told: list[str] = []
        with (
            own_server.client() as client,
            own_server.client(4) as config_db,
            own_server.client(6) as state_db,
        ):
            config_db.set("CONFIG_DB_INITIALIZED", "1")
            await store.write_row("snmp", LOCAL)
            async with hearing(store, told) as heard:
                await heard.then_forget(Signal.GAP)
                for begin, end in REFUSALS:
                    client.execute_command(*begin)
                    forbids_reads = "-hgetall" in begin
                    with pytest.raises(Lasting):
                        await (store.read("snmp") if forbids_reads else store.write_row("snmp", KUBE))
                    await until_async(lambda: told[-1] != "", str(begin))
                    heard.said.clear()
                    client.execute_command(*end)
                    # A look that Redis still refused may end after this, and is a GAP of its own.
                    await until_async(lambda: told[-1] == "", str(end))
                    assert Signal.GAP in heard.said
                    await store.write_row("snmp", LOCAL)
            assert state_db.keys() == ["FEATURE|snmp"]
            assert config_db.keys() == ["CONFIG_DB_INITIALIZED"]
        await store.close()

    async def test_under_random_kills_a_reader_that_trusts_the_events_ends_up_right(
        self, own_server: RedisServer
    ) -> None:
        """Each GAP is a full look, each name a look at one row; nothing else is needed at the end."""
        rng = random.Random(20261123)
        store = make_store(own_server)
        seen: dict[str, str] = {}
        doubtful = {"everything"}

        async def look(names: frozenset[str]) -> None:
            for name in names:
                seen[name] = (await store.read(name)).row.failure

        async def follow() -> None:
            async with contextlib.aclosing(store.events()) as events:
                async for event in events:
                    doubtful.add(event if isinstance(event, str) else "everything")
                    with contextlib.suppress(Unavailable):
                        if "everything" in doubtful:
                            seen.clear()
                            await look(await store.features())
                        else:
                            await look(frozenset(doubtful))
                        doubtful.clear()

        def write_some(start: int) -> None:
            with own_server.client(4) as config, own_server.client(6) as state:
                for n in range(start, start + rng.randint(5, 40)):
                    state.hset(f"FEATURE|f{n}", "failure", str(rng.random()))
                    config.hset(f"FEATURE|f{n}", "set_owner", "kube")

        def truth() -> dict[str, str]:
            with own_server.client(6) as state:
                return {
                    k.removeprefix("FEATURE|"): state.hget(k, "failure") or ""
                    for k in state.keys("FEATURE|*")
                }

        task = asyncio.create_task(follow())
        for life in range(6):
            for part in range(4):
                await asyncio.to_thread(write_some, life * 1000 + part * 100)
                await asyncio.sleep(rng.random() * 0.2)
            if life < 5:
                own_server.kill()
                await asyncio.sleep(rng.random() * 0.5)
                own_server.start()
        wanted = truth()
        assert wanted
        await until_async(lambda: seen == wanted)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


def where(folder: Path, instance: dict[str, object]) -> settings.RedisSettings:
    """Settings for SONiC's file whose only instance differs by this from 127.0.0.1:6379 without a Unix socket."""
    database = {"instance": "redis", "separator": "|"}
    tables = {
        "INSTANCES": {"redis": {"hostname": "127.0.0.1", "port": 6379, **instance}},
        "DATABASES": {"CONFIG_DB": {**database, "id": 4}, "STATE_DB": {**database, "id": 6}},
    }
    file = folder / "database_config.json"
    file.write_text(json.dumps(tables))
    return settings.RedisSettings(database_config=str(file))


def store_answers(store: RedisStore) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        with contextlib.suppress(Unavailable):
            await store.read("snmp")
            return True
        return False

    return answers


class TestWhereRedisIs:
    def databases(self, server: RedisServer, config_db: int = 2, state_db: int = 3) -> dict[str, Any]:
        return {
            "INSTANCES": {
                "redis": {"hostname": "127.0.0.1", "port": 6379, "unix_socket_path": str(server.socket)},
                "other": {"hostname": "127.0.0.1", "port": 6380, "unix_socket_path": "/nowhere"},
            },
            "DATABASES": {
                "CONFIG_DB": {"id": config_db, "separator": "|", "instance": "redis"},
                "STATE_DB": {"id": state_db, "separator": "|", "instance": "redis"},
            },
            "VERSION": "1.0",
        }

    def store(self, file: Path) -> RedisStore:
        return RedisStore(
            settings.RedisSettings(database_config=str(file)), "hld", random.Random(1), frozenset()
        )

    async def test_sonics_own_file_says_it(self, redis_server: RedisServer, tmp_path: Path) -> None:
        file = tmp_path / "database_config.json"
        file.write_text(json.dumps(self.databases(redis_server)))
        store = self.store(file)
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            await store.write_row("snmp", LOCAL)
            await heard.then_forget("snmp")
        with redis_server.client(3) as state:
            assert state.hget("FEATURE|snmp", "docker_id") == ID
        await store.close()

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"DATABASES": {"CONFIG_DB": 4}}', "\ufffd"])
    async def test_a_file_that_cannot_be_used_is_unavailable_until_it_can(
        self, redis_server: RedisServer, tmp_path: Path, text: str
    ) -> None:
        file = tmp_path / "database_config.json"
        file.write_text(text)
        store = self.store(file)
        with pytest.raises(Unavailable, match=r"database_config\.json"):
            await store.read("snmp")
        async with hearing(store) as heard:
            file.write_text(json.dumps(self.databases(redis_server)))
            await heard.then_forget(Signal.GAP)
        assert (await store.read("snmp")).row == Row()
        await store.close()

    @pytest.mark.parametrize(
        ("instance", "url"),
        [
            ({"unix_socket_path": ""}, "redis://127.0.0.1:6379"),
            ({"unix_socket_path": None}, "redis://127.0.0.1:6379"),
            ({"unix_socket_path": 7, "port": "6380"}, "redis://127.0.0.1:6380"),
            ({"hostname": "::1"}, "redis://[::1]:6379"),
            ({"unix_socket_path": "/no/such.sock"}, "redis://127.0.0.1:6379"),
            ({"unix_socket_path": "/"}, "unix:///"),
            ({"unix_socket_path": "/no/such.sock", "port": None}, "unix:///no/such.sock"),
            ({"unix_socket_path": "/no/such.sock", "hostname": ""}, "unix:///no/such.sock"),
        ],
    )
    def test_without_a_unix_socket_tcp_is_used_as_sonics_tools_do(
        self, tmp_path: Path, instance: dict[str, object], url: str
    ) -> None:
        place = locate(where(tmp_path, instance))
        assert place.url == url
        assert "database_config.json: instance redis" in place.why

    @pytest.mark.parametrize("instance", [{"port": 0}, {"port": 65536}, {"hostname": None}, {"port": "x/1"}])
    def test_an_instance_without_any_address_is_told(
        self, tmp_path: Path, instance: dict[str, object]
    ) -> None:
        with pytest.raises(Lasting, match="neither unix_socket_path nor hostname and port"):
            locate(where(tmp_path, instance))

    async def test_the_address_and_its_reason_stand_in_the_error(self, tmp_path: Path) -> None:
        store = RedisStore(
            where(tmp_path, {"unix_socket_path": "", "port": 1}), "hld", random.Random(1), frozenset()
        )
        with pytest.raises(Passing, match=r"asked at 127\.0\.0\.1:1, because it has no unix_socket_path"):
            await store.read("snmp")
        await store.close()

    async def test_a_password_in_a_file_is_used_and_followed(
        self, own_server: RedisServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "password"
        store = RedisStore(
            settings.RedisSettings(url=own_server.url, user="switch", password_file=str(file)),
            "hld",
            random.Random(1),
            frozenset(),
            look_s=0.3,
        )
        with pytest.raises(Lasting, match="password of Redis"):
            await store.read("snmp")
        secrets = ("p@ss:/?#%", "another")
        with own_server.client() as client:
            client.config_set("requirepass", "other")
            async with hearing(store) as heard:
                for old, secret in zip(("", *secrets), secrets, strict=False):
                    user = ("ACL", "SETUSER", "switch", "on", f">{secret}", "~*", "&*", "+@all")
                    client.execute_command(*user, *([f"<{old}"] if old else []))
                    client.client_kill_filter(skipme=True)
                    file.write_text(f"{secret}\n")
                    await until_async(store_answers(store))
                    await heard.then_forget(Signal.GAP)
        await store.close()

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("redis://h:1/0?password=a@b", "redis://switch:p%40ss@h:1/0?password=a@b"),
            ("redis://old:secret@h:1", "redis://switch:p%40ss@h:1"),
            ("unix:///run/a@b.sock", "unix://switch:p%40ss@/run/a@b.sock"),
            ("unix:///run/redis.sock?db=4", "unix://switch:p%40ss@/run/redis.sock?db=4"),
        ],
    )
    def test_a_password_in_a_file_changes_nothing_else(self, tmp_path: Path, url: str, expected: str) -> None:
        file = tmp_path / "password"
        file.write_text("p@ss\n")
        where = settings.RedisSettings(url=url, user="switch", password_file=str(file))
        assert locate(where).url == expected

    async def test_two_servers_are_more_than_one_subscription_hears(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        tables = self.databases(redis_server)
        tables["DATABASES"]["STATE_DB"]["instance"] = "other"
        file = tmp_path / "database_config.json"
        file.write_text(json.dumps(tables))
        with pytest.raises(Unavailable, match="two servers"):
            await self.store(file).read("snmp")

    async def test_containers_of_several_asics_share_a_row(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "database_config.json"
        tables = self.databases(redis_server)
        file.write_text(json.dumps(tables))
        with redis_server.client(tables["DATABASES"]["CONFIG_DB"]["id"]) as config:
            config.hset("FEATURE|swss", mapping={"set_owner": "kube", "has_per_asic_scope": "True"})
            config.hset("FEATURE|pmon", mapping={"set_owner": "kube", "has_per_asic_scope": "False"})
        one = self.store(file)
        assert (await one.read("swss")).config == FeatureConfig(Owner.KUBE), (
            "with one ASIC it is one container"
        )
        assert (await one.read("swss0")).config is None
        await one.close()

        (tmp_path / "database_global.json").write_text('{"INCLUDES": [{"namespace": "asic0"}]}')
        several = self.store(file)
        for name in ("swss", "swss0", "swss12"):
            assert (await several.read(name)).config == FeatureConfig(Owner.KUBE, local_only=True)
        assert (await several.read("pmon0")).config is None
        async with hearing(several) as heard:
            await heard.then_forget(Signal.GAP)
            await several.write_row("swss0", LOCAL)
            await heard.then_forget("swss0")
            with redis_server.client(tables["DATABASES"]["CONFIG_DB"]["id"]) as config:
                config.hset("FEATURE|swss", "set_owner", "local")
            await heard.then_forget("swss0")
        await several.close()

    async def test_without_the_packages_of_kubernetes_every_feature_is_local(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "database_config.json"
        file.write_text(json.dumps(self.databases(redis_server)))
        store = RedisStore(
            settings.RedisSettings(database_config=str(file)),
            "hld",
            random.Random(1),
            frozenset(),
            kube=False,
        )
        with redis_server.client(self.databases(redis_server)["DATABASES"]["CONFIG_DB"]["id"]) as config:
            config.hset("FEATURE|snmp", mapping={"set_owner": "kube"})
        found = (await store.read("snmp")).config
        assert found is not None
        assert (found.set_owner, found.owner) == (Owner.KUBE, Owner.LOCAL)
        assert (await store.read("nobody")).config is None
        await store.close()

    @pytest.mark.parametrize("text", ["", "[]", '{"INCLUDES": 7}', '{"INCLUDES": [{}]}', "\ufffd"])
    async def test_a_file_that_names_no_asics_means_one(
        self, redis_server: RedisServer, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "database_config.json").write_text(json.dumps(self.databases(redis_server)))
        (tmp_path / "database_global.json").write_text(text)
        store = self.store(tmp_path / "database_config.json")
        assert (await store.read("swss0")).config is None
        await store.close()

    async def test_a_file_that_appears_later_is_followed(
        self, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        file = tmp_path / "database_config.json"
        store = self.store(file)
        with contextlib.suppress(Unavailable):
            await store.read("snmp")
        file.write_text(json.dumps(self.databases(redis_server)))
        async with hearing(store) as heard:
            await heard.then_forget(Signal.GAP)
            await store.write_row("snmp", KUBE)
        with redis_server.client(3) as state:
            assert state.hget("FEATURE|snmp", "current_owner") == "kube"
        await store.close()

    @pytest.mark.parametrize(
        "url", ["unix:///r?db=4", "redis://[::1]:6379/4", "redis://u:p@h", "rediss://h?password=p&username=u"]
    )
    def test_a_url_that_the_settings_allow_can_be_read(self, url: str) -> None:
        assert settings.check({"redis": {"url": url}}, "k").valid().redis.url == url
        assert connect(url, 4)


async def test_an_invalid_feature_name_never_reaches_redis(store: RedisStore) -> None:
    assert not valid_feature_name("../x")
    with pytest.raises(AssertionError):
        await store.read("../x")


class TestWhatIsKnownStands:
    """A typing error or a flush must not move a feature."""

    @pytest.fixture
    def redis_server(self, fake_redis: FakeRedis) -> FakeRedis:
        return fake_redis

    KNOWN = FeatureConfig(set_owner=Owner.KUBE, fallback=True, failure_minutes=5)

    async def test_an_unusable_field_keeps_its_last_known_value(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        config_db.hset("FEATURE|snmp", mapping={"set_owner": "kubee", "fallback_to_local": "false"})
        stored = await store.read("snmp", self.KNOWN)
        assert stored.config is not None
        assert (stored.config.set_owner, stored.config.fallback) == (Owner.KUBE, False)
        assert "taken as kube" in stored.problems[0]

    async def test_a_row_of_another_type_stays_as_it_is_known(
        self, store: RedisStore, config_db: redis.Redis
    ) -> None:
        config_db.set("FEATURE|snmp", "poison")
        assert (await store.read("snmp", self.KNOWN)).config == self.KNOWN

    async def test_a_database_without_any_key_is_being_loaded(self, store: RedisStore) -> None:
        assert (await store.read("snmp", self.KNOWN)).loading
        assert not (await store.read("snmp")).loading


@pytest.mark.parametrize(
    "then", [None, Unavailable("Redis", "CONFIG_DB is being loaded"), RedisError("lost")]
)
async def test_a_cancellation_that_comes_together_with_an_answer_is_not_lost(then: Exception | None) -> None:
    """Python 3.11's wait_for, which redis-py sends through, would swallow it: the daemon would never end."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        async with edge("a key"):
            await asyncio.wait_for(answer, 60)
            if then is not None:
                raise then

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    answer.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_load_with_lost_fields_goes_on_until_they_are_restored(fake_redis: FakeRedis) -> None:
    store = make_store(fake_redis)
    store.config_load = ConfigLoad(restores=True)
    with fake_redis.client(4) as config:
        config.set("CONFIG_DB_INITIALIZED", "1")
        assert not (await store.read("snmp")).loading
        config.flushdb()
        config.hset("FEATURE|snmp", "set_owner", "kube")
        assert (await store.read("snmp")).loading
        with pytest.raises(Unavailable, match="being loaded"):
            await store.feature_rows()
        config.set("CONFIG_DB_INITIALIZED", "1")
        assert (await store.read("snmp")).loading
        with pytest.raises(Unavailable, match="being loaded"):
            await store.features()
        assert await store.feature_rows() == {"snmp": {"set_owner": "kube"}}
        await store.add_fields("tap", {"set_owner": "kube"})
        store.restored()
        assert not (await store.read("snmp")).loading
        assert await store.features() == {"snmp", "tap"}
        config.set("FEATURE|bad", "no hash")
        assert set(await store.feature_rows()) == {"snmp", "tap"}
    await store.close()
