"""Do to Redis and its rows what happens on a switch: outages, refusals, flushes, reloads, rows of nonsense."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core.model import FeatureConfig, Signal, SystemState
from tests.sim.cast import INSTALLED, kube_features
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from random import Random

    from tests.sim.chance import Act, Strike
    from tests.sim.switch import World

REWRITTEN_S = 0.2


class RedisFaults:
    """The faults of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._redis = world.redis
        self._chance = world.chance
        self._features = kube_features(world)

    def acts(self) -> dict[Fault, Act]:
        """Return each kind that draws from the storm's own random stream."""
        return {
            Fault.REDIS_DOWN: self._down,
            Fault.ROW_FLUSHED: self._flush,
            Fault.RELOAD: self._reload,
            Fault.POISON: self._poison,
            Fault.ROW_REFUSED: self._refuse_rows,
            Fault.REDIS_BUSY: partial(self._refuse, Fault.REDIS_BUSY),
            Fault.REDIS_LOCKED: partial(self._refuse, Fault.REDIS_LOCKED),
        }

    def streams(self) -> dict[Fault, Strike]:
        """Return each kind with a random stream of its own."""
        return {Fault.DEREGISTERED: self._deregister, Fault.ROW_REWRITTEN: self._rewrite}

    def heal(self) -> None:
        """End every fault."""
        self._redis.up = self._redis.writable = True
        self._redis.refused.clear()
        self._redis.poisoned.clear()
        # A reload of CONFIG_DB that was under way has brought the row back.
        self._uninstall()

    async def _down(self) -> None:
        self._chance.strike(Fault.REDIS_DOWN)
        self._redis.up = False
        self._redis.cut()
        await asyncio.sleep(self._chance.lasts_s())
        self._redis.up = True

    async def _flush(self) -> None:
        doubtful = self._chance.struck[Fault.LEDGER_LOST] or self._world.ledger_file.stale
        if doubtful and not self._recovered():
            return  # with neither ledger nor row, nothing tells a stopped unit from one that is up
        self._chance.strike(Fault.ROW_FLUSHED)
        self._redis.flush_state()

    def _recovered(self) -> bool:
        """Whether the ledger has again what the rows tell."""
        data = self._world.ledger_file.data or b""
        records = json.loads(data)["features"] if data.endswith(b"\n") else {}
        rows = self._redis.rows.items()
        told = {name: row.revision for name, row in rows if row.system_state is not SystemState.ABSENT}
        return all(
            name in records and records[name]["record"]["revision"]["number"] >= number
            for name, number in told.items()
        )

    async def _reload(self) -> None:
        if self._redis.initialized:
            self._chance.strike(Fault.RELOAD)
            await self._redis.reload(self._chance.lasts_s())

    async def _poison(self) -> None:
        feature = self._chance.one_of(self._features)
        self._chance.strike(Fault.POISON, feature)
        self._redis.poisoned[feature] = "set_owner='x' is not one of local|kube"
        self._redis.publish(feature)
        await asyncio.sleep(self._chance.lasts_s())
        self._redis.poisoned.pop(feature, None)
        self._redis.publish(feature)

    async def _refuse_rows(self) -> None:
        self._chance.strike(Fault.ROW_REFUSED)
        self._redis.writable = False
        await asyncio.sleep(self._chance.lasts_s())
        self._redis.writable = True

    async def _refuse(self, fault: Fault) -> None:
        """Every command is refused; the subscription stays, and a look notices the end within 2 s."""
        self._chance.strike(fault)
        self._redis.refused.add(fault)
        await asyncio.sleep(self._chance.lasts_s())
        self._redis.refused.discard(fault)
        await asyncio.sleep(2.0)
        if not self._redis.refused:
            self._redis.publish(Signal.GAP)

    async def _deregister(self, rng: Random) -> None:
        """As SONiC's package manager does: the FEATURE row comes and goes, `featured` deletes STATE_DB's."""
        self._redis.set_config(INSTALLED, FeatureConfig(fallback=rng.random() < 0.5))
        await asyncio.sleep(rng.choice((0.0, 1.0, 60.0)))
        for verb in rng.sample(("start", "stop", "kill"), rng.randrange(3)):
            await self._world.people.ask(verb, INSTALLED, bound_s=90.0)
        self._uninstall()

    def _uninstall(self) -> None:
        self._redis.configs.pop(INSTALLED, None)
        self._redis.publish(INSTALLED)
        self._redis.rows.pop(INSTALLED, None)
        self._redis.publish(INSTALLED)

    async def _rewrite(self, rng: Random) -> None:
        """A package upgrade deletes a FEATURE row and writes it again."""
        feature = rng.choice(self._features)
        config = self._redis.configs.get(feature)
        if config is None or not self._redis.initialized:
            return
        del self._redis.configs[feature]
        self._redis.publish(feature)
        await asyncio.sleep(REWRITTEN_S)
        self._redis.configs.setdefault(feature, config)
        self._redis.publish(feature)
