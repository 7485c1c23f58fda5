"""Check when systemd and Docker are asked whether a local container can be made, and what their silence means."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubesyncd.core.model import FeatureConfig, Owner
from kubesyncd.features.way_back import NO_SCRIPT, WayBack
from tests.sim import loop
from tests.unit.core.given import FALLBACK, KUBE_CONFIG, NO_IMAGE, down, granted, kube, local
from tests.unit.features.given import World, around

LOCAL_CONFIG = FeatureConfig(set_owner=Owner.LOCAL)


def test_systemd_is_asked_only_where_it_matters_and_once_an_audit() -> None:
    async def story() -> None:
        world = World()
        way = WayBack("snmp", around(world))
        assert await way.lacking(FALLBACK, granted(), (kube(), local(running=False))) == ""
        assert await way.lacking(KUBE_CONFIG, granted(), (kube(),)) == ""
        assert await way.lacking(FALLBACK, down(), (kube(),)) == ""
        assert world.unit_looks == 0
        for _ in range(3):
            assert await way.lacking(FALLBACK, granted(), (kube(),)) == ""
        assert world.unit_looks == 1
        world.unit = False
        await asyncio.sleep(61.0)
        assert await way.lacking(LOCAL_CONFIG, granted(), (kube(),)) == NO_SCRIPT
        assert world.unit_looks == 2
        kept = granted(no_way_back=True)
        assert await way.lacking(LOCAL_CONFIG, kept, (kube(),)) == NO_SCRIPT, "and it stays so"

    loop.run(story())


def test_an_image_that_goes_or_comes_back_is_noticed_at_once() -> None:
    async def story() -> None:
        world = World()
        way = WayBack("snmp", around(world))
        assert not way.doubt(), "nothing depends on an image yet"
        assert await way.lacking(FALLBACK, granted(), (kube(), local(running=False))) == ""
        assert not way.doubt(), "a container can be started without"
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == ""
        world.no_image = "docker-snmp:latest"
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == "", "asked a moment ago"
        assert way.doubt()
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == NO_IMAGE
        world.no_image = ""
        assert way.doubt()
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == ""

    loop.run(story())


def test_a_change_while_docker_is_asked_is_asked_for_again() -> None:
    async def story() -> None:
        world, way = World(), None

        async def pruned_meanwhile(feature: str, made_from: str) -> str:
            before, world.no_image = world.no_image, "docker-snmp:latest"
            way.doubt()
            return before

        way = WayBack("snmp", replace(around(world), images=Pruned(pruned_meanwhile)))
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == ""
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == NO_IMAGE

    loop.run(story())


class Pruned:
    """An image store with this answer."""

    def __init__(self, answer: object) -> None:
        self.missing_local = answer


@pytest.mark.parametrize("known", [False, True])
def test_without_an_answer_nothing_is_certain_and_what_was_known_stays(*, known: bool) -> None:
    async def story() -> None:
        world = World()
        way = WayBack("snmp", around(world))
        if known:
            assert await way.lacking(FALLBACK, granted(), (kube(),)) == ""
            await asyncio.sleep(61.0)
        world.unit = None
        said = await way.lacking(FALLBACK, granted(), (kube(),))
        assert said == "" if known else "not known whether a local container can be made (systemd" in said
        assert way.again_at is not None, "no event tells that systemd answers again"
        world.unit = True
        assert await way.lacking(FALLBACK, granted(), (kube(),)) == "", "asked again at once"
        assert way.again_at is None

    loop.run(story())
