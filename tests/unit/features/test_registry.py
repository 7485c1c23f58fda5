"""Check the uninstallation of a feature: nothing is left of it, whatever fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.features.registry import Reconcilers
from kubesyncd.ports import Unavailable
from tests.sim import loop
from tests.unit.features.given import World, around

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.features.surroundings import View


def run(world: World, story: Callable[[Reconcilers, list[View | None]], Awaitable[None]]) -> None:
    """Run the story in virtual time, with the reconcilers and all that they tell."""

    async def whole() -> None:
        told: list[View | None] = []
        reconcilers = Reconcilers(replace(around(world), told=lambda _, view: told.append(view)))
        async with asyncio.TaskGroup() as tasks:
            reconcilers.start(tasks)
            await reconcilers.get("snmp").seen()
            await story(reconcilers, told)
            for task in reconcilers._running.values():
                task.cancel()

    loop.run(whole())


def test_a_feature_that_a_full_disk_kept_in_the_ledger_is_observed_when_it_returns() -> None:
    world = World(config=None)

    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        world.file.full = True
        try:
            await reconcilers.forget("snmp")
        except Unavailable:
            world.file.full = False
        assert not world.file.full, "the full disk is reported"
        assert told[-1] is None, "its reports are withdrawn all the same"
        returned = reconcilers.get("snmp")
        await asyncio.sleep(1.0)
        assert returned.view is not None, "it observes without an event"

    run(world, story)


def test_two_requests_to_forget_a_feature_both_succeed() -> None:
    async def story(reconcilers: Reconcilers, told: list[View | None]) -> None:
        await asyncio.gather(reconcilers.forget("snmp"), reconcilers.forget("snmp"))
        assert reconcilers.known("snmp") is None
        assert told.count(None) == 1

    run(World(config=None), story)
