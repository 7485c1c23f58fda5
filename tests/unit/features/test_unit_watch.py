"""Check that systemd is asked about units that say they end, and once in a while about all."""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubesyncd.core.feature_unit import UnitEnd, UnitLook, UnitPhase
from kubesyncd.core.model import Timing
from kubesyncd.features.unit_watch import HEARD_S_MAX, LOOK_S_MAX, UnitWatch
from kubesyncd.ports import Unavailable
from kubesyncd.runtime.context import Runtime
from tests.sim import loop
from tests.sim.plain import PlainLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

AUDIT_S = 60.0
ENDED_AT = 0.25
RUNS, ENDING, ENDED, UNTOLD = UnitPhase


@dataclass
class Reconciler:
    """Notes what it is told."""

    name: str
    units: tuple[str, ...]
    told: list[UnitEnd] = field(default_factory=list)

    async def unit_ended(self, end: UnitEnd) -> None:
        self.told.append(end)
        self.units = ()


@dataclass
class Switch:
    """Some features, and a systemd that answers after `answer_s`; `asked`: when, and about which units."""

    reconcilers: dict[str, Reconciler]
    phase: dict[str, UnitPhase] = field(default_factory=dict)
    silent: bool = False
    answer_s: float = 0.01
    asked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    log: PlainLog = field(default_factory=PlainLog)

    def known(self, name: str) -> Reconciler | None:
        return self.reconcilers.get(name)

    def __iter__(self) -> Iterator[Reconciler]:
        return iter(self.reconcilers.values())

    async def phases(self, units: Sequence[str]) -> tuple[UnitLook, ...]:
        self.asked.append((now(), tuple(units)))
        await asyncio.sleep(self.answer_s)
        if self.silent:
            raise Unavailable("systemd", "Failed to connect to bus")
        return tuple(UnitLook(self.phase.get(unit, RUNS), ended_at=ENDED_AT) for unit in units)


def now() -> float:
    return asyncio.get_running_loop().time()


def switch(**units: str) -> Switch:
    return Switch({name: Reconciler(name, tuple(unit.split())) for name, unit in units.items()})


def run(world: Switch, story: Callable[[UnitWatch], Awaitable[None]]) -> None:
    async def whole() -> None:
        anyone: Any = world
        runtime = Runtime(now, lambda: 0.0, random.Random(1), anyone.log)
        watch = UnitWatch(anyone, anyone, Timing(audit_s=AUDIT_S), runtime)
        task = asyncio.create_task(watch.run())
        try:
            await story(watch)
        finally:
            task.cancel()

    loop.run(whole())


def test_units_that_ended_while_no_daemon_ran_are_found_at_once() -> None:
    world = switch(snmp="snmp.service", lldp="lldp.service", tap="")
    world.phase["snmp.service"] = ENDED

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        (end,) = world.reconcilers["snmp"].told
        assert (end.unit, end.ended_at, end.heard) == ("snmp.service", ENDED_AT, False)
        assert world.reconcilers["lldp"].told == []
        assert [units for _, units in world.asked] == [("snmp.service", "lldp.service")], "one call for all"

    run(world, story)


def test_a_unit_that_ends_without_a_word_is_found_by_the_audit_and_a_quiet_switch_asks_no_more() -> None:
    world = switch(snmp="snmp.service")

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(10 * AUDIT_S + 1)
        assert len(world.asked) == 11
        world.phase["snmp.service"] = ENDED
        await asyncio.sleep(AUDIT_S)
        assert len(world.reconcilers["snmp"].told) == 1
        world.asked.clear()
        await asyncio.sleep(10 * AUDIT_S)
        assert world.asked == [], "without a feature that is up there is nothing to ask"

    run(world, story)


def test_a_unit_that_says_it_ends_is_asked_about_until_it_has() -> None:
    world = switch(swss0="")
    world.phase["swss@0.service"] = ENDING

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        watch.hear("swss0", "swss@0.service")
        await asyncio.sleep(20.0)
        assert world.reconcilers["swss0"].told == []
        asked = [at for at, _ in world.asked]
        assert 7 < len(asked) < 12
        assert max(b - a for a, b in itertools.pairwise(asked)) <= LOOK_S_MAX + 0.1
        world.phase["swss@0.service"] = ENDED
        await asyncio.sleep(LOOK_S_MAX + 0.1)
        asked_at = world.asked[-1][0]
        told = world.reconcilers["swss0"].told
        assert told == [UnitEnd("swss@0.service", asked_at, ENDED_AT, heard=True)], "what came since counts"
        count = len(world.asked)
        await asyncio.sleep(30.0)
        assert len(world.asked) == count

    run(world, story)


def test_a_unit_that_is_started_again_has_not_ended() -> None:
    world = switch(snmp="snmp.service")

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        world.asked.clear()
        watch.hear("snmp", "snmp.service")
        await asyncio.sleep(30.0)
        assert world.reconcilers["snmp"].told == []
        assert len(world.asked) == 1

    run(world, story)


def test_a_unit_that_says_so_again_during_the_answer_is_asked_about_again() -> None:
    world = switch(snmp="")
    world.answer_s = 1.0

    async def story(watch: UnitWatch) -> None:
        watch.hear("snmp", "snmp.service")
        await asyncio.sleep(0.5)
        watch.hear("snmp", "snmp.service")
        world.phase["snmp.service"] = RUNS
        await asyncio.sleep(5.0)
        assert len(world.asked) == 2

    run(world, story)


def test_a_unit_that_says_so_again_and_again_is_asked_about_all_the_same() -> None:
    world = switch(snmp="")
    world.phase["snmp.service"] = ENDED

    async def story(watch: UnitWatch) -> None:
        for _ in range(100):
            watch.hear("snmp", "snmp.service")
            await asyncio.sleep(0.01)
        assert world.reconcilers["snmp"].told

    run(world, story)


def test_no_unit_is_asked_about_for_ever() -> None:
    world = switch(snmp="")
    world.phase["snmp.service"] = ENDING

    async def story(watch: UnitWatch) -> None:
        watch.hear("snmp", "snmp.service")
        await asyncio.sleep(HEARD_S_MAX + 10)
        world.asked.clear()
        await asyncio.sleep(AUDIT_S)
        assert world.asked == []

    run(world, story)


def test_a_unit_is_believed_for_its_own_feature_only() -> None:
    world = switch(snmp="", lldp="lldp.service")

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        world.asked.clear()
        watch.hear("snmp", "ssh.service")
        watch.hear("snmp", "")
        watch.hear("gone", "gone.service")
        await asyncio.sleep(5.0)
        assert world.asked == []
        watch.hear("lldp", "")
        await asyncio.sleep(1.0)
        assert [units for _, units in world.asked] == [("lldp.service",)], "its start has named its unit"

    run(world, story)


def test_a_silent_systemd_is_asked_again_and_is_one_alert() -> None:
    world = switch(snmp="")
    world.silent = True
    world.phase["snmp.service"] = ENDED

    async def story(watch: UnitWatch) -> None:
        watch.hear("snmp", "snmp.service")
        await asyncio.sleep(30.0)
        assert world.reconcilers["snmp"].told == []
        assert len([line for line in world.log.lines if line[0] in ("warning", "error")]) == 1
        world.silent = False
        await asyncio.sleep(LOOK_S_MAX + 0.1)
        assert len(world.reconcilers["snmp"].told) == 1

    run(world, story)


def test_a_unit_that_only_starts_the_feature_is_no_end_of_it() -> None:
    world = switch(snmp="snmp.service")
    world.phase["snmp.service"] = UNTOLD

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        watch.hear("snmp", "snmp.service")
        await asyncio.sleep(3 * AUDIT_S)
        assert world.reconcilers["snmp"].told == []
        assert len(world.asked) == 5, "and it is not asked about again and again"

    run(world, story)


def test_of_the_units_that_may_run_a_feature_the_first_with_our_drop_in_does() -> None:
    world = switch(swss0="swss0.service swss@0.service", dhcp4="dhcp4.service dhcp@4.service")
    world.phase |= {"swss0.service": UNTOLD, "swss@0.service": ENDED, "dhcp@4.service": ENDED}

    async def story(watch: UnitWatch) -> None:
        await asyncio.sleep(1.0)
        assert [end.unit for end in world.reconcilers["swss0"].told] == ["swss@0.service"]
        assert world.reconcilers["dhcp4"].told == []

    run(world, story)
