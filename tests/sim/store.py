"""Simulate Redis: CONFIG_DB, STATE_DB, and the FeatureStore port over them.

Keyspace events come with every change but a flush, as with the real one.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from kubesyncd.core.config_load import ConfigLoad
from kubesyncd.core.model import FailurePolicy, FeatureConfig, MasterConfig, Row, Signal, Stored
from kubesyncd.ports import Lasting, Passing
from tests.sim.chance import Fault
from tests.sim.engine import CUT, Stream
from tests.sim.promises import DISABLED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.sim.switch import Life, World

DEADLINE_S = 5.0


class Redis:
    """Both databases; outlives every daemon."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.configs: dict[str, FeatureConfig] = {}
        self.rows: dict[str, Row] = {}
        # A rollback stays until another image comes or the operator clears it, whatever the policy is by then.
        self.rollbacks: set[str] = set()
        self.poisoned: dict[str, str] = {}
        self.master = MasterConfig()
        self.connected: tuple[bool, int] | None = None
        self.pending: tuple[str, ...] = ()
        self.initialized = True
        self.up = True
        self.writable = True
        # The kinds of refusals that every command is answered with.
        self.refused: set[Fault] = set()
        # When a command was refused for want of a password.
        self.locked_at = -inf
        self.streams: list[Stream] = []

    def begin(self, feature: str, config: FeatureConfig) -> None:
        """CONFIG_DB has this row."""
        self.configs[feature] = config
        if config.policy is FailurePolicy.ROLLBACK:
            self.rollbacks.add(feature)

    def set_config(self, feature: str, config: FeatureConfig) -> None:
        """An operator's HSET."""
        self.begin(feature, config)
        self._world.chance.tell(
            "operator", f"{feature}: owner {config.set_owner}, fallback {config.fallback}"
        )
        self.publish(feature)

    def set_master(self, master: MasterConfig) -> None:
        """The operator configures the master."""
        self.master = master
        self._world.chance.tell("operator", f"master {master.ip or '-'} disable={master.disable}")
        self._world.promises.bar(DISABLED, on=master.disable)
        self.publish(Signal.MASTER)

    def publish(self, event: object) -> None:
        """A keyspace event."""
        if self.up:
            for stream in self.streams:
                stream.put(event)

    def cut(self) -> None:
        """Every subscription breaks."""
        for stream in list(self.streams):
            stream.cut()

    def flush_state(self) -> None:
        """FLUSHDB: without an event."""
        self.rows.clear()
        self.connected, self.pending = None, ()

    async def reload(self, seconds: float) -> None:
        """`config reload` with equal content: flushed, refilled row by row, initialized at the end."""
        configs, master = dict(self.configs), self.master
        self.initialized, self.master = False, MasterConfig()
        self.configs.clear()
        self.publish(Signal.GAP)
        for feature, config in configs.items():
            await asyncio.sleep(seconds / len(configs))
            self.configs.setdefault(feature, config)
            self.publish(feature)
        self.master, self.initialized = master, True
        self.publish(Signal.GAP)


class RedisPort:
    """The FeatureStore, as one daemon's life has it."""

    def __init__(self, world: World, life: Life, always_local: frozenset[str]) -> None:
        self._world = world
        self._redis = world.redis
        self._life = life
        self._always_local = always_local
        self.config_load = ConfigLoad()

    async def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        while True:
            await asyncio.sleep(self._world.chance.between(0.0, 1.0))
            if not self._redis.up:
                continue
            stream = Stream(self._world)
            self._redis.streams.append(stream)
            try:
                lost("")
                yield Signal.GAP
                while (event := await stream.next()) is not CUT:
                    yield event  # type: ignore[misc]
            finally:
                self._redis.streams.remove(stream)
            lost("the stream was cut")
            yield Signal.GAP

    async def features(self) -> frozenset[str]:
        await self._reach(whole=True)
        return frozenset(self._redis.configs)

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        await self._reach()
        config = self._redis.configs.get(feature)
        problem = self._redis.poisoned.get(feature)
        if problem is not None and config is not None:
            config = known or FeatureConfig()
        if feature in self._always_local:
            config = FeatureConfig(always_local=True)
        row = self._redis.rows.get(feature, Row())
        return Stored(config, row, self._loading(), (problem,) if problem is not None else ())

    async def write_row(self, feature: str, row: Row) -> None:
        await self._reach(writes=True)
        before = self._redis.rows.get(feature, Row())
        if before != row:
            self._world.effect(self._life, f"row of {feature}")
            self._world.chance.tell(
                "row", f"{feature}: {row.system_state or '-'} {row.current_owner} {row.transition_mode}"
            )
            self._redis.rows[feature] = row
            self._redis.publish(feature)
        if self._world.chance.strikes(Fault.REDIS_ERROR, "after the write"):
            raise Passing("Redis", "connection reset")

    async def master(self) -> MasterConfig:
        await self._reach(whole=True)
        return self._redis.master

    async def write_master(self, *, connected: bool, ts: int, ip: str = "", port: int = 0) -> None:
        await self._reach(writes=True)
        if self._redis.connected is None or self._redis.connected[0] is not connected:
            self._redis.connected = (connected, ts)
            self._world.chance.tell("row", f"master connected={connected}")

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        await self._reach(writes=True)
        self._redis.pending = labels

    async def device_metadata(self) -> Mapping[str, str]:
        await self._reach(whole=True)
        return {"hwsku": "Force10-S6000", "platform": "x86_64-kvm_x86_64-r0", "type": "LeafRouter"}

    def _loading(self) -> bool:
        self.config_load = self.config_load.observed(whole=self._redis.initialized)
        return self.config_load.goes_on(whole=self._redis.initialized)

    async def _reach(self, *, whole: bool = False, writes: bool = False) -> None:
        """One round trip; `whole`: an answer from a CONFIG_DB that is being loaded would be none."""
        self._life.check()
        if not self._redis.up:
            await asyncio.sleep(self._world.chance.one_of((0.0, 0.0, DEADLINE_S)))
            if not self._redis.up:
                raise Passing("Redis", "connection refused")
        await asyncio.sleep(0.001)
        self._life.check()
        if self._world.chance.strikes(Fault.REDIS_ERROR):
            raise Passing("Redis", "no answer in time")
        if Fault.REDIS_LOCKED in self._redis.refused:
            self._redis.locked_at = asyncio.get_running_loop().time()
            raise Lasting(
                "Redis", "NOAUTH Authentication required; put its password into [redis] password_file"
            )
        if Fault.REDIS_BUSY in self._redis.refused:
            raise Passing("Redis", "BUSY Redis is busy running a script; to end it: redis-cli SCRIPT KILL")
        if writes and not self._redis.writable:
            raise Lasting("Redis", "You can't write against a read only replica.")
        if whole and self._loading():
            raise Passing("Redis", "CONFIG_DB is being loaded")
