"""Do what the operators of a switch do in a storm: configure, start and stop, label, clear."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.model import Owner
from tests.sim.cast import drawn_config, kube_features

if TYPE_CHECKING:
    from tests.sim.chance import Act
    from tests.sim.switch import World


class Operators:
    """The operators of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._features = kube_features(world)

    def acts(self) -> list[Act]:
        """Return what they do; what is done more often stands there twice."""
        return [self._owner, self._owner, self._setting, self._unit, self._unit, self._label, self._clear]

    async def _owner(self) -> None:
        feature = self._chance.one_of(self._features)
        config = self._world.redis.configs.get(feature)
        if config is not None:
            other = Owner.KUBE if config.set_owner is Owner.LOCAL else Owner.LOCAL
            self._world.redis.set_config(feature, replace(config, set_owner=other))

    async def _setting(self) -> None:
        feature = self._chance.one_of(self._features)
        if feature in self._world.redis.configs:
            owner = self._world.redis.configs[feature].set_owner
            config = replace(drawn_config(self._chance.rng), set_owner=owner)
            self._world.redis.set_config(feature, config)

    async def _unit(self) -> None:
        feature, people = self._chance.one_of(self._world.features), self._world.people
        if people.units[feature].wanted:
            people.stop_unit(feature, self._chance.one_of(("stop", "stop", "kill")))
        if self._chance.rng.random() < 0.7:
            await asyncio.sleep(self._chance.one_of((0.0, 1.0, 30.0, 120.0)))
            people.start_unit(feature)

    async def _label(self) -> None:
        """One label, or several of one key in a hurry: the later ones come while the first is under way."""
        key = self._chance.one_of(("rack", "row"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._chance.one_of((1, 1, 2, 4))):
                tasks.create_task(self._label_once(key))
                await asyncio.sleep(self._chance.between(0.0, 3.0))

    async def _label_once(self, key: str) -> None:
        value = self._chance.one_of((None, "a", "b", "c"))
        asked = self._world.promises.label_asked(key, value)
        text = f"{key}-" if value is None else f"{key}={value}"
        sent = partial(self._world.promises.label_sent, asked)
        code = await self._world.people.ask("label", text, bound_s=30.0, sent=sent)
        self._world.promises.label_answered(asked, accepted=code == protocol.EXIT_DONE)

    async def _clear(self) -> None:
        await self._world.people.ask("clear", self._chance.one_of(self._features), bound_s=30.0)
