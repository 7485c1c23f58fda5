"""Decide when operators and faults strike in a storm: one schedule of all of them, by the seed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from tests.sim.chance import Fault
from tests.sim.docker_faults import DockerFaults
from tests.sim.host_faults import HostFaults
from tests.sim.master_faults import MasterFaults
from tests.sim.operators import Operators
from tests.sim.redis_faults import RedisFaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.sim.chance import Act, Strike
    from tests.sim.switch import World

STORM_S = 1200.0
# So many acts, more or less.
ACTS = 60
# In this order they are drawn from: a new kind at its end leaves the storms in which it is not armed as they were.
MENU = (
    Fault.REDIS_DOWN,
    Fault.ROW_FLUSHED,
    Fault.RELOAD,
    Fault.POISON,
    Fault.DOCKER_DOWN,
    Fault.DOCKER_RESTART,
    Fault.RESUBSCRIBED,
    Fault.API_DOWN,
    Fault.API_SILENT,
    Fault.API_TLS,
    Fault.API_FORBIDDEN,
    Fault.API_INVALID,
    Fault.DRIFT,
    Fault.WITHDRAWN,
    Fault.MASTER_DISABLED,
    Fault.HOLD,
    Fault.WALL_JUMP,
    Fault.DAEMON_KILLED,
    Fault.DAEMON_RESTARTED,
    Fault.EARLY_WAKE,
    Fault.DISK_FULL,
    Fault.BY_HAND_START,
    Fault.BY_HAND_STOP,
    Fault.BY_HAND_RM,
    Fault.SWIZZLE,
    Fault.REBOOT,
    Fault.ROW_REFUSED,
    Fault.REDIS_BUSY,
    Fault.REDIS_LOCKED,
    Fault.LOCAL_BROKEN,
    Fault.DOCKER_SLOW,
)


class Faults(Protocol):
    """The faults of one part of the world."""

    def acts(self) -> Mapping[Fault, Act]:
        """Return each kind that draws from the storm's own random stream."""

    def streams(self) -> Mapping[Fault, Strike]:
        """Return each kind with a random stream of its own."""

    def heal(self) -> None:
        """End every fault."""


class Schedule:
    """The schedule of one world. `master_stays_away`: its master does not come back when the storm is over."""

    def __init__(self, world: World, *, master_stays_away: bool) -> None:
        self._world = world
        self._chance = world.chance
        self._operators = Operators(world)
        self._faults: tuple[Faults, ...] = (
            RedisFaults(world),
            DockerFaults(world),
            HostFaults(world),
            MasterFaults(world, stays_away=master_stays_away),
        )

    async def run(self) -> None:
        """Let operators act and armed faults strike until the storm is over, and what they do come to its end."""
        now = asyncio.get_running_loop().time
        until, menu = now() + STORM_S, self._menu()
        async with asyncio.TaskGroup() as tasks:
            for faults in self._faults:
                for fault, strike in faults.streams().items():
                    if fault in self._chance.armed:
                        tasks.create_task(self._again_and_again(fault, strike, until))
            while now() < until:
                await asyncio.sleep(self._chance.between(0.0, 2 * STORM_S / ACTS))
                tasks.create_task(self._chance.one_of(menu)())

    def heal(self) -> None:
        """End every fault."""
        for faults in self._faults:
            faults.heal()

    def _menu(self) -> list[Act]:
        """Everything an operator or a fault may do next; armed faults only."""
        acts = {fault: act for faults in self._faults for fault, act in faults.acts().items()}
        assert acts.keys() == set(MENU), "each kind is drawn from"
        armed = [acts[fault] for fault in MENU if fault in self._chance.armed]
        return [*armed, *armed, *self._operators.acts()]

    async def _again_and_again(self, fault: Fault, strike: Strike, until: float) -> None:
        rng = self._chance.streams[fault]
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(rng.uniform(0.0, STORM_S / 4))
            self._chance.strike(fault)
            await strike(rng)
