"""Check when systemd and Docker are asked whether a local container can be made, and what their silence means."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.model import FeatureConfig, Owner, Timing
from kubesyncd.features.way_back import NO_SCRIPT, WayBack
from kubesyncd.ports import Unavailable
from tests.sim import loop
from tests.sim.plain import PlainLog
from tests.unit.core.given import FALLBACK, KUBE_CONFIG, NO_IMAGE, down, granted, kube, local
from tests.unit.features.given import World, around

if TYPE_CHECKING:
    from kubesyncd.features.surroundings import Surroundings

UNKNOWN = "not known whether a local container can be made"
LOCAL_CONFIG = FeatureConfig(set_owner=Owner.LOCAL)


def way_back(surroundings: Surroundings) -> WayBack:
    return WayBack("snmp", surroundings, surroundings.runtime.alert_log("snmp"))


async def asked(way: WayBack) -> tuple[str, bool]:
    """What is lacking while Kubernetes runs a feature with fallback, and whether that is not known."""
    lacking = await way.lacking(FALLBACK, granted(), (kube(),))
    assert not (lacking and way.unknown)
    return lacking, UNKNOWN in way.unknown


def test_systemd_is_asked_only_where_it_matters_and_once_an_audit() -> None:
    async def story() -> None:
        world = World()
        way = way_back(around(world))
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
        way = way_back(around(world))
        assert not way.doubt(), "nothing depends on an image yet"
        assert await way.lacking(FALLBACK, granted(), (kube(), local(running=False))) == ""
        assert not way.doubt(), "a container can be started without"
        assert await asked(way) == ("", False)
        world.no_image = "docker-snmp:latest"
        assert await asked(way) == ("", False), "asked a moment ago"
        assert way.doubt()
        assert await asked(way) == (NO_IMAGE, False)
        world.no_image = ""
        assert way.doubt()
        assert await asked(way) == ("", False)

    loop.run(story())


def test_a_change_while_docker_is_asked_is_asked_for_again() -> None:
    async def story() -> None:
        world, way = World(), None

        async def pruned_meanwhile(feature: str, made_from: str) -> str:
            before, world.no_image = world.no_image, "docker-snmp:latest"
            way.doubt()
            return before

        way = way_back(replace(around(world), images=Pruned(pruned_meanwhile)))
        assert await asked(way) == ("", True), "it may be an answer from before"
        assert await asked(way) == (NO_IMAGE, False)

    loop.run(story())


class Pruned:
    """An image store with this answer."""

    def __init__(self, answer: object) -> None:
        self.missing_local = answer


@pytest.mark.parametrize("known", [False, True])
def test_without_an_answer_nothing_is_certain_and_what_was_known_stays(*, known: bool) -> None:
    async def story() -> None:
        world = World()
        way = way_back(around(world))
        if known:
            assert await asked(way) == ("", False)
            await asyncio.sleep(61.0)
        world.unit = None
        assert await asked(way) == ("", not known)
        assert way.again_at is not None, "no event tells that systemd answers again"
        world.unit = True
        await asyncio.sleep(1.0)
        assert await asked(way) == ("", False), "asked again"
        assert way.again_at is None

    loop.run(story())


@pytest.mark.parametrize("asked_again", [False, True], ids=["not needed any more", "asked again"])
def test_an_outage_ends_with_the_answer_and_the_next_one_is_told(*, asked_again: bool) -> None:
    """What is asked may change within the seconds in which an outage may be about to end by itself."""

    async def story() -> None:
        world, log = World(unit=None), PlainLog()
        surroundings = around(world, log)
        way = WayBack("snmp", surroundings, surroundings.runtime.alert_log("snmp"))
        assert await asked(way) == ("", True)
        await asyncio.sleep(1.0)
        made = (kube(), local(running=False))
        await way.lacking(FALLBACK, granted(), made)
        world.unit = True
        await asyncio.sleep(60.0)
        await way.lacking(FALLBACK, granted(), (kube(),) if asked_again else made)
        assert [event for _, event, _ in log.lines] == ["way_back", "recovered"]
        lldp = surroundings.runtime.alert_log("lldp")
        lldp.fails("trouble", Unavailable("systemd", "Failed to connect to bus"))
        assert [event for _, event, _ in log.lines][2:] == ["trouble"]

    loop.run(story())


def test_what_was_known_before_a_change_of_the_images_is_unknown_after_it() -> None:
    async def story() -> None:
        world = World()
        way = way_back(around(world))
        assert await asked(way) == ("", False)
        assert way.doubt()
        world.unit = None
        assert await asked(way) == ("", True), "Docker is busy, pruning"
        assert way.doubt()
        assert await asked(way) == ("", True)
        assert "systemd" in way.unknown, "the reason stays the last failure"
        world.unit, world.no_image = True, "docker-snmp:latest"
        await asyncio.sleep(1.0)
        assert await asked(way) == (NO_IMAGE, False)
        assert way.doubt()
        world.unit = None
        assert await asked(way) == (NO_IMAGE, False), "lost, until they say otherwise"

    loop.run(story())


def test_what_was_known_before_a_local_container_came_is_unknown_when_it_has_gone() -> None:
    async def story() -> None:
        world = World()
        way = way_back(around(world))
        assert await asked(way) == ("", False)
        assert await way.lacking(FALLBACK, granted(), (kube(), local(running=False))) == ""
        await asyncio.sleep(86400.0)
        assert not way.doubt()
        world.unit = None
        assert await asked(way) == ("", True)

    loop.run(story())


def test_a_silent_service_is_asked_again_after_a_pause_whatever_happens_meanwhile() -> None:
    async def story() -> None:
        world = World()
        way = way_back(replace(around(world), timing=Timing(backoff_s=8.0)))
        world.unit = None
        asked_at = []
        for _ in range(600):
            before = world.unit_looks
            await way.lacking(FALLBACK, granted(), (kube(),))
            if world.unit_looks > before:
                asked_at.append(asyncio.get_running_loop().time())
            way.doubt()
            await asyncio.sleep(0.1)
        assert 2 <= len(asked_at) < 20, asked_at
        assert way.again_at is not None
        assert way.again_at <= asyncio.get_running_loop().time() + 30.0

    loop.run(story())


def test_the_pause_begins_when_the_call_has_failed() -> None:
    async def story() -> None:
        async def silent(feature: str, made_from: str) -> str:
            await asyncio.sleep(20.0)
            raise Unavailable("Docker", "no answer within 10 s")

        way = way_back(replace(around(World()), images=Pruned(silent)))
        assert await asked(way) == ("", True)
        assert way.again_at is not None
        assert way.again_at >= 20.0

    loop.run(story())
