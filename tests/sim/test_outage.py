"""Measure, in virtual time, the cost of a day without the master and the recovery after it."""

from __future__ import annotations

import asyncio
from random import Random

from kubesyncd.core.model import FeatureConfig, Owner, Timing
from tests.sim import loop as virtual
from tests.sim.chance import Chance
from tests.sim.switch import World
from tests.tools import fuzz
from tests.unit.core.given import FALLBACK

HOUR_S = 3600.0
BACK_S_MAX = 35.0
KUBE_ONLY = FeatureConfig(set_owner=Owner.KUBE)


async def _until(world: World, holds: object, limit_s: float) -> float:
    """Seconds until `holds()`; an error after `limit_s`."""
    now = asyncio.get_running_loop().time
    begun = now()
    while not holds():  # type: ignore[operator]
        assert not world.failures, world.failures
        assert now() - begun < limit_s, f"not within {limit_s:g} s:\n{world.chance.story[-4000:]}"
        await asyncio.sleep(0.1)
    return now() - begun


def _rests(world: World) -> bool:
    rows = world.redis.rows
    return all(rows[f].current_owner is Owner.KUBE for f in ("snmp", "lldp") if f in rows) and {
        "snmp", "lldp",
    } <= rows.keys()  # fmt: skip


async def _story() -> None:
    chance = Chance(Random(1), asyncio.get_running_loop().time)
    chance.calm = True
    world = World(1, chance, {"pmon": None, "snmp": FALLBACK, "lldp": KUBE_ONLY}, Timing())
    kubelet = world.spawn(world.kubelet.run())
    world.start_daemon()
    for feature in world.features:
        world.people.start_unit(feature)
    await _until(world, lambda: _rests(world), 120.0)
    running = {f: [b.id for b in world.engine.of(f) if b.runs] for f in world.features}

    world.api.up = False
    world.api.cut()
    assert await world.people.ask("label", "rack=1") == 0
    await _until(world, lambda: not world.kubelet.active, 60.0)
    await asyncio.sleep(HOUR_S)
    effects, before = len(world.effects), fuzz.resident_bytes()
    for hour in range(23):
        await asyncio.sleep(HOUR_S)
        assert await world.people.ask("label", f"rack={hour}") == 0
    assert world.effects[effects:] == [], "nothing happens, however long it lasts"
    assert {f: [b.id for b in world.engine.of(f) if b.runs] for f in world.features} == running
    assert fuzz.resident_bytes() - before < fuzz.LEFT_BYTES_MAX

    world.people.stop_unit("snmp")
    await _until(world, lambda: not [b for b in world.engine.of("snmp") if b.runs], 90.0)
    world.api.up = True
    await _until(world, lambda: world.api.labels.get("rack") == "22", BACK_S_MAX)
    await _until(world, lambda: world.kubelet.active and not world.redis.pending, BACK_S_MAX)
    assert "snmp_enabled" not in world.api.labels
    assert [b.id for b in world.engine.of("lldp") if b.runs] == running["lldp"], "what ran runs on"
    assert world.failures == []
    world.kill_daemon()
    for task in (kubelet, *world.tasks):
        task.cancel()


def test_after_24_hours_without_the_master_labels_are_applied_within_35_seconds_and_nothing_restarted() -> (
    None
):
    virtual.run(_story())
