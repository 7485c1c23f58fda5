"""Do to Docker and its containers what happens on a switch: outages, restarts, other people's hands, lost images."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.model import Owner
from tests.sim.chance import Fault
from tests.sim.engine import Box
from tests.sim.switch import Broken

if TYPE_CHECKING:
    from random import Random

    from tests.sim.chance import Act, Strike
    from tests.sim.switch import World

SLOW_S = 45.0


class DockerFaults:
    """The faults of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._engine = world.engine
        self._chance = world.chance

    def acts(self) -> dict[Fault, Act]:
        """Return each kind that draws from the storm's own random stream."""
        return {
            Fault.DOCKER_DOWN: self._down,
            Fault.DOCKER_RESTART: self._restart,
            Fault.DOCKER_SLOW: self._slow,
            Fault.BY_HAND_START: self._start_by_hand,
            Fault.BY_HAND_STOP: self._stop_by_hand,
            Fault.BY_HAND_RM: self._remove_by_hand,
            Fault.LOCAL_BROKEN: self._break_local,
        }

    def streams(self) -> dict[Fault, Strike]:
        """Return each kind with a random stream of its own."""
        return {Fault.FOREIGN_POD: self._foreign, Fault.UNREAD: self._unread, Fault.PRUNED: self._prune}

    def heal(self) -> None:
        """End every fault."""
        self._engine.up, self._engine.slow_s = True, 0.0
        self._engine.broken.clear()
        self._engine.unread.clear()
        for feature in sorted(self._engine.pruned):
            self._engine.load(feature)

    async def _down(self) -> None:
        self._chance.strike(Fault.DOCKER_DOWN)
        self._engine.up = False
        self._engine.cut()
        await asyncio.sleep(self._chance.lasts_s())
        self._engine.up = True

    async def _restart(self) -> None:
        self._chance.strike(Fault.DOCKER_RESTART)
        self._engine.cut()
        self._engine.restart()
        self._engine.start_by_policy()

    async def _slow(self) -> None:
        self._chance.strike(Fault.DOCKER_SLOW)
        self._engine.slow_s = SLOW_S
        await asyncio.sleep(self._chance.lasts_s())
        self._engine.slow_s = 0.0

    async def _start_by_hand(self) -> None:
        box = self._engine.local(self._chance.one_of(self._world.features))
        if box is not None and not box.runs and self._engine.up:
            self._chance.strike(Fault.BY_HAND_START, box.feature)
            self._engine.start(box, by_hand=True)

    async def _stop_by_hand(self) -> None:
        boxes = [b for b in self._engine.boxes.values() if b.runs]
        if boxes and self._engine.up:
            box = self._chance.one_of(boxes)
            self._chance.strike(Fault.BY_HAND_STOP, box.feature)
            await self._engine.stop(box, 10.0)

    async def _remove_by_hand(self) -> None:
        boxes = list(self._engine.boxes.values())
        if boxes and self._engine.up:
            box = self._chance.one_of(boxes)
            self._chance.strike(Fault.BY_HAND_RM, box.feature)
            self._engine.destroy(box)

    async def _break_local(self) -> None:
        feature = self._chance.one_of(self._world.features)
        self._chance.strike(Fault.LOCAL_BROKEN, feature)
        self._engine.broken.add(feature)
        await asyncio.sleep(self._chance.lasts_s() * 5)
        self._engine.broken.discard(feature)

    async def _foreign(self, rng: Random) -> None:
        """A tenant's pod with the feature's client asks for it."""
        feature = rng.choice(self._world.features)
        box = Box(f"f0{len(self._engine.foreign):04x}".ljust(64, "0"), feature, Owner.KUBE, runs=True)
        self._engine.foreign[box.id] = box
        words = rng.choice((("up", "kube"), ("up", "local"), ("down",)))
        code = await self._world.people.ask("state", feature, *words, box=box, bound_s=30.0)
        if code == protocol.EXIT_DONE:
            raise Broken(f"S9: a foreign pod's container spoke for {feature} and was believed")

    async def _unread(self, rng: Random) -> None:
        """Docker does not describe a container for a while."""
        boxes = sorted(self._engine.boxes)
        if boxes:
            container_id = rng.choice(boxes)
            self._engine.unread.add(container_id)
            await asyncio.sleep(rng.choice((0.3, 5.0, 60.0)))
            self._engine.unread.discard(container_id)

    async def _prune(self, rng: Random) -> None:
        """The image of a feature that needs no local container now is gone for a while."""
        feature = rng.choice(self._world.features)
        self._engine.prune(feature)
        await asyncio.sleep(rng.uniform(5.0, 200.0))
        self._engine.load(feature)
