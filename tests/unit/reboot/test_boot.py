"""Check ten minutes without a master after a prepared reboot, with the shipped times.

The real daemon in virtual time, where no fault strikes but the one that is meant. `tests/system/test_switch_reboot.py`
does the same in shorter time on real engines.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from kubesyncd.core.model import FeatureConfig, Owner, Timing
from kubesyncd.reboot.hold import PreparedReboot, encode
from tests.sim import loop as virtual
from tests.sim.chance import Chance
from tests.sim.switch import World
from tests.wait import until_async

AWAY_S = 600.0
KUBE = ("snmp", "telemetry", "pmon")
PLAIN = ("lldp", "dhcp")
SLACK_S = 1.0


def owner(world: World, feature: str) -> Owner:
    row = world.redis.rows.get(feature)
    return row.current_owner if row is not None else Owner.NONE


def starts(world: World) -> dict[str, int]:
    """How often any container of each feature has started."""
    return {f: sum(box.starts for box in world.engine.of(f)) for f in (*KUBE, *PLAIN)}


async def story(*, prepared: bool) -> tuple[dict[str, float], World]:
    """A switch whose kube features run, its reboot, ten minutes alone; how soon each was back, in seconds."""
    chance = Chance(Random(1), asyncio.get_running_loop().time)
    chance.calm = True
    cast: dict[str, FeatureConfig | None] = {f: FeatureConfig(set_owner=Owner.KUBE) for f in KUBE}
    world = World(1, chance, {**cast, **dict.fromkeys(PLAIN, FeatureConfig())}, Timing())
    kubelet = world.spawn(world.kubelet.run())
    world.start_daemon()
    for feature in world.features:
        world.people.start_unit(feature)
    await until_async(lambda: all(owner(world, f) is Owner.KUBE for f in KUBE))
    await asyncio.sleep(300.0)
    if prepared:
        world.hold_file.save(encode(PreparedReboot("fast", f"boot-{world.boots}", KUBE)))
    world.api.up = False
    world.api.cut()
    world.reboot()
    back = {}
    begun = asyncio.get_running_loop().time()
    while len(back) < len(world.features) and asyncio.get_running_loop().time() - begun < 60.0:
        for feature in world.features:
            if feature not in back and owner(world, feature) is Owner.LOCAL:
                back[feature] = asyncio.get_running_loop().time() - begun
        await asyncio.sleep(0.01)
    before, effects = starts(world), len(world.effects)
    await asyncio.sleep(AWAY_S - 60.0)
    assert starts(world) == before, f"nothing flaps: {world.effects[effects:]}"
    world.api.up = True
    world.kubelet.ring()
    await until_async(lambda: all(owner(world, f) is Owner.KUBE for f in KUBE))
    await asyncio.sleep(AWAY_S)
    kubelet.cancel()
    assert not world.failures, chance.story
    return back, world


def test_features_are_back_as_soon_as_on_a_local_switch_and_kube_takes_over_once() -> None:
    back, world = virtual.run(story(prepared=True), 1)
    assert set(back) == {*KUBE, *PLAIN}, "everything runs, with no master in sight"
    assert max(back[f] for f in KUBE) <= max(back[f] for f in PLAIN) + SLACK_S
    assert world.hold_file.data is None
    for feature in KUBE:
        assert owner(world, feature) is Owner.KUBE
        local = world.engine.local(feature)
        assert local is not None
        assert local.starts == 1, "started after the boot, and never again"
    assert {f: owner(world, f) for f in PLAIN} == dict.fromkeys(PLAIN, Owner.LOCAL)


@pytest.mark.parametrize("feature", KUBE)
def test_without_the_preparation_a_feature_without_fallback_waits_for_the_master(feature: str) -> None:
    back, _ = virtual.run(story(prepared=False), 1)
    assert feature not in back
    assert set(back) == {*PLAIN}
