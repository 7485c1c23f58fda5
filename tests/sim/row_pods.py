"""Simulate the start-up script of SONiC's own images, which asks by STATE_DB's row (see tests/lab/startup.py).

As there, a script that Redis fails does not hold its container up, and neither does a row without system_state.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import FeatureConfig, Mode, Owner, Row, Startup, SystemState
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from tests.sim.engine import Box
    from tests.sim.switch import World

POLL_S = 2.0
VERSION = "20251110.7"


class _Failed(Exception):
    """The script ends with a traceback, and the container's program starts."""


async def let_through(world: World, box: Box) -> bool:
    """Return once the script of this container goes on; False where nothing has admitted it."""
    draw = world.chance.streams[Fault.ROW_POD]
    # Docker tells of a container's start long before its Python has read a row.
    await asyncio.sleep(draw.uniform(0.5, 2.0))
    try:
        row, key = _row(world, box), box.feature
        if row.system_state is SystemState.ABSENT:
            return False
        if not _may_ask(world, box, row):
            world.chance.tell("script", f"{box.id[:9]} of {key} is frozen")
            return await _frozen(box)
        if row.startup is not Startup.GO:
            asks = {} if _says_pending(row) else {"startup": Startup.WAIT, "transition_mode": Mode.PENDING}
            _write(world, box, replace(row, version=VERSION, **asks))
            await _polled(world, box)
        report = replace(_row(world, box), current_owner=Owner.KUBE, docker_id="", version=VERSION)
        _write(world, box, replace(report, startup=Startup.NONE, transition_mode=Mode.READY))
    except _Failed:
        return False
    return True


async def _polled(world: World, box: Box) -> None:
    while True:
        await asyncio.sleep(POLL_S)
        row = _row(world, box)
        if row.version != VERSION:
            box.given_up = True
            world.chance.tell("script", f"{box.id[:9]} of {box.feature} gives up: {row}")
            await asyncio.Event().wait()
        if row.startup is Startup.GO:
            return


async def _frozen(box: Box) -> bool:
    """Stand still for ever. The daemon cannot tell it from a container without the gate."""
    box.silent = True
    await asyncio.Event().wait()
    return False


def _may_ask(world: World, box: Box, row: Row) -> bool:
    config = world.redis.configs.get(box.feature) or FeatureConfig()
    return config.set_owner is Owner.KUBE and row.system_state is SystemState.UP


def _says_pending(row: Row) -> bool:
    return row.startup is Startup.WAIT or (
        row.startup is Startup.NONE and row.transition_mode is Mode.PENDING
    )


def _row(world: World, box: Box) -> Row:
    if not world.redis.up or world.redis.refused:
        raise _Failed
    return world.redis.rows.get(box.feature, Row())


def _write(world: World, box: Box, row: Row) -> None:
    if not world.redis.up or world.redis.refused or not world.redis.writable:
        raise _Failed
    world.chance.tell("script", f"{box.id[:9]} of {box.feature}: {row.startup or 'goes on'}")
    world.redis.rows[box.feature] = row
    world.redis.publish(box.feature)
