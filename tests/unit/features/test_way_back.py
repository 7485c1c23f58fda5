"""Check when systemd is asked whether a local container can be made, and what its silence means."""

from __future__ import annotations

import asyncio

from kubesyncd.core.model import FeatureConfig, Owner
from kubesyncd.features.way_back import WayBack
from tests.sim import loop
from tests.unit.core.given import FALLBACK, KUBE_CONFIG, down, granted, kube, local
from tests.unit.features.given import World, around


def test_systemd_is_asked_only_where_it_matters_and_once_an_audit() -> None:
    async def story() -> None:
        world = World()
        way = WayBack("snmp", around(world))
        assert await way.exists(FALLBACK, granted(), (kube(), local(running=False)))
        assert await way.exists(KUBE_CONFIG, granted(), (kube(),))
        assert await way.exists(FALLBACK, down(), (kube(),))
        assert world.unit_looks == 0
        for _ in range(3):
            assert await way.exists(FALLBACK, granted(), (kube(),))
        assert world.unit_looks == 1
        world.unit = False
        await asyncio.sleep(61.0)
        assert not await way.exists(FeatureConfig(set_owner=Owner.LOCAL), granted(), (kube(),))
        assert world.unit_looks == 2
        kept = granted(no_way_back=True)
        assert not await way.exists(FeatureConfig(set_owner=Owner.LOCAL), kept, (kube(),)), "and it stays so"

    loop.run(story())


def test_without_an_answer_nothing_is_certain() -> None:
    async def story() -> None:
        world = World(unit=None)
        way = WayBack("snmp", around(world))
        assert not await way.exists(FALLBACK, granted(), (kube(),))
        world.unit = True
        assert await way.exists(FALLBACK, granted(), (kube(),)), "asked again at once"

    loop.run(story())
