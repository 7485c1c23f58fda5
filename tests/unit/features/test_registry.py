"""Check which features get a reconciler, and that nothing is left of one that does not exist any more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.model import FeatureConfig, Row, Timing
from kubesyncd.core.verbs import Start
from kubesyncd.features.registry import FEATURES_MAX, Reconcilers
from kubesyncd.ports import Refused, Unavailable
from tests.sim import loop
from tests.unit.core.given import local
from tests.unit.features.given import World, around

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.features.surroundings import View


def run(world: World, story: Callable[[Reconcilers, list[View | None]], Awaitable[None]]) -> None:
    """Run the story in virtual time, with the reconcilers and all that they tell."""

    async def whole() -> None:
        told: list[View | None] = []
        surroundings = replace(around(world), always_local=frozenset({"database"}))
        reconcilers = Reconcilers(replace(surroundings, told=lambda _, view: told.append(view)))
        async with asyncio.TaskGroup() as tasks:
            reconcilers.start(tasks)
            await reconcilers.get("snmp").seen()
            await story(reconcilers, told)
            for task in reconcilers._running.values():
                task.cancel()

    loop.run(whole())


def test_a_feature_that_a_full_disk_keeps_in_the_ledger_is_observed_until_it_can_be_forgotten() -> None:
    world = World(config=None)

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.file.full = True
        try:
            await reconcilers.forget("snmp")
        except Unavailable:
            world.file.full = False
        assert not world.file.full, "the full disk is reported"
        kept = reconcilers.known("snmp")
        assert kept is not None
        assert await kept.seen()
        assert told[-1] is not None, "it is kept whole"
        await reconcilers.forget("snmp")
        assert told[-1] is None
        assert reconcilers.known("snmp") is None

    run(world, story)


def test_two_requests_to_forget_a_feature_both_succeed() -> None:
    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        await asyncio.gather(reconcilers.forget("snmp"), reconcilers.forget("snmp"))
        assert reconcilers.known("snmp") is None
        assert told.count(None) == 1

    run(World(config=None), story)


@pytest.mark.parametrize("slow_s", [0.5, 1.5])
def test_a_request_to_forget_a_feature_that_forgets_itself_succeeds(slow_s: float) -> None:
    world = World(containers=(local(),), file_slow_s=slow_s)

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.config, world.containers, world.unit = None, (), False
        known = reconcilers.get("snmp")
        known.dirty.set()
        requests = [asyncio.create_task(reconcilers.forget("snmp"))]
        await asyncio.sleep(1.0)
        requests.append(asyncio.create_task(reconcilers.forget("snmp")))
        for ended in await asyncio.gather(*requests, return_exceptions=True):
            assert ended is None or isinstance(ended, Unavailable), ended
        await asyncio.sleep(10.0)
        assert reconcilers.known("snmp") is None
        assert told.count(None) == 1

    run(world, story)


def test_a_name_without_row_container_and_unit_gets_no_reconciler() -> None:
    world = World()

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.config, world.unit = None, False
        assert await reconcilers.find("snmpp") is None
        assert [reconciler.name for reconciler in reconcilers] == ["snmp"]

    run(world, story)


@pytest.mark.parametrize("left", ["row", "container", "unit"])
def test_one_of_row_container_and_unit_makes_a_feature(left: str) -> None:
    world = World(
        config=FeatureConfig() if left == "row" else None,
        containers=(local(),) if left == "container" else (),
        unit=left == "unit",
    )

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        found = await reconcilers.find("lldp")
        assert found is not None
        await found.seen()
        await asyncio.sleep(300.0)
        assert reconcilers.known("lldp") is found, "it is not forgotten either"

    run(world, story)


def test_while_a_service_does_not_answer_a_name_is_unknown_and_leaves_no_trace() -> None:
    world = World()

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.config, world.unit = None, None
        with pytest.raises(Unavailable, match="unknown whether the feature exists"):
            await reconcilers.find("snmpp")
        world.containers, world.store_fails = (local(),), Unavailable("Redis", "gone")
        assert await reconcilers.find("radv") is not None, "Docker alone is enough"
        world.store_fails = None
        assert reconcilers.known("snmpp") is None

    run(world, story)


def test_a_feature_is_forgotten_once_its_row_its_container_and_its_unit_are_gone() -> None:
    world = World(containers=(local(),))

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        known = reconcilers.get("snmp")
        assert (await known.carry_out(Start())).code == 0
        world.config, world.unit = None, None
        world.containers = ()
        await known.seen()
        assert reconcilers.known("snmp") is known, "systemd does not answer: its unit is unknown"
        world.unit = False
        known.dirty.set()
        await asyncio.sleep(3.0)
        assert reconcilers.known("snmp") is None
        assert told[-1] is None, "its annotation goes with it"
        assert b"snmp" not in (world.file.data or b"")
        assert world.row == Row(), "no field of it stays in STATE_DB"
        with pytest.raises(Refused):
            await known.waiters.ended(lambda _: None)

    run(world, story)


def test_a_full_disk_does_not_keep_a_feature_that_is_gone() -> None:
    world = World(containers=(local(),))

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.file.full = True
        world.config, world.containers, world.unit = None, (), False
        reconcilers.get("snmp").dirty.set()
        await asyncio.sleep(3.0)
        assert reconcilers.known("snmp") is None

    run(world, story)


def test_a_feature_that_exists_again_while_it_is_forgotten_is_observed_at_once() -> None:
    world = World(containers=(local(),), file_slow_s=0.5)

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        before = reconcilers.get("snmp")
        world.config, world.containers, world.unit = None, (), False
        before.dirty.set()
        await asyncio.sleep(0.7)
        world.config = FeatureConfig()
        before.dirty.set()
        await asyncio.sleep(10.0)
        known = reconcilers.known("snmp")
        assert known is not None
        assert known.view is not None

    run(world, story)


def test_systemd_is_asked_once_per_audit_about_a_feature_without_row_and_container() -> None:
    world = World(config=None)

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        for _ in range(5):
            await reconcilers.get("snmp").seen()
        assert world.unit_looks == 1
        await asyncio.sleep(Timing().audit_s)
        await reconcilers.get("snmp").seen()
        assert world.unit_looks == 2

    run(world, story)


def test_a_limit_of_features_never_locks_out_one_that_is_always_local() -> None:
    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        for number in range(FEATURES_MAX - 1):
            reconcilers.get(f"f{number}")
        with pytest.raises(Refused, match="512 features already"):
            reconcilers.get("one-more")
        assert reconcilers.get("database").name == "database"

    run(World(), story)
