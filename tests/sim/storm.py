"""Run the real daemon for one virtual hour of faults per seed, and check its promises.

Five acts: a storm of faults, operators and reboots; then the faults stop, and everything must come to rest (L1,
L2, L3); then an hour with restarts of the daemon and a `config reload`, in which nothing may happen (L4, S2, S10); then
another program starts local containers beside Kubernetes, which end at once (S1); at last every pod ends and stays
away, and local containers return in time, not sooner (L3).
`python -m tests.sim.storm --seeds 1000 --from 1` runs many and counts every kind of fault; a failing seed tells
its story and how to replay it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

from kubesyncd.core.model import Mode, Owner, SystemState
from tests.sim import loop as virtual
from tests.sim import migrated
from tests.sim.cast import TIMING, drawn_features, kube_features
from tests.sim.chance import Chance, Fault
from tests.sim.rest import Rest
from tests.sim.schedule import Schedule
from tests.sim.switch import Broken, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from tests.sim.engine import Box

CALM_S_MAX = 3 * 3600.0
LOOK_S = 30.0
QUIET_S = 3600.0
# For the ends of pods, the starts of local containers, and what is unnoticed until an audit.
RETURNS_S = 180.0
# A container that must not run ends within its grace.
ENDED_S = 30.0
# A rest is believed once nothing has happened for so long.
STILL_S = 660.0
# A run of fewer seeds says nothing of how often each kind of fault strikes.
FEW_SEEDS = 50
HITS_MIN = 100
FAULTS_PER_HOUR_MIN = 50
# How many seeds the fast tests play.
SEEDS_A_DAY = 20
# An environment variable: their first one.
SEED_FROM = "KUBESYNCD_SEED_FROM"


@dataclass(slots=True)
class Told:
    """What became of one seed."""

    seed: int
    trace: str
    struck: Counter[Fault] = field(default_factory=Counter)
    failures: tuple[str, ...] = ()
    story: str = ""
    virtual_s: float = 0.0
    effects: int = 0


class Storm:
    """One seed's run."""

    def __init__(self, seed: int) -> None:
        rng = Random(seed)
        self.chance = Chance(rng, lambda: asyncio.get_running_loop().time(), seed)
        self.world = World(seed, self.chance, drawn_features(rng), TIMING)
        # A refused label is asked for once more by the next life; that must not look like a restart's effect.
        may = Fault.API_INVALID not in self.chance.armed
        self._stays_away = may and rng.random() < 0.3
        self._schedule = Schedule(self.world, master_stays_away=self._stays_away)
        self._rest = Rest(self.world, master_stays_away=self._stays_away)

    async def run(self) -> Told:
        """All acts."""
        world = self.world
        failure = asyncio.create_task(world.failed.wait())
        acts = asyncio.create_task(self._acts())
        await asyncio.wait({failure, acts}, return_when=asyncio.FIRST_COMPLETED)
        now = asyncio.get_running_loop().time()
        if acts.done() and not acts.cancelled() and acts.exception() is not None:
            error = acts.exception()
            if not isinstance(error, Broken):
                raise error  # type: ignore[misc]
            world.fail(str(error))
        told = Told(world.seed, self.chance.trace, self.chance.struck, tuple(world.failures), virtual_s=now)
        told.story, told.effects = (self.chance.story if world.failures else ""), len(world.effects)
        return told

    async def _acts(self) -> None:
        world = self.world
        kubelet, watch = world.spawn(world.kubelet.run()), world.spawn(world.promises.watch_kubelet())
        taken_over = migrated.begin(world)
        world.start_daemon()
        for feature in world.features:
            if feature not in taken_over:
                world.people.start_unit(feature)
        await self._schedule.run()
        await self._calm()
        await self._quiet()
        await self._started_by_another()
        if not self._stays_away:
            await self._withdrawn()
        kubelet.cancel()
        watch.cancel()

    async def _calm(self) -> None:
        """Faults stop, what is broken is repaired, and everything comes to rest."""
        self.chance.calm = True
        self.chance.tell("storm", "is over")
        world = self.world
        self._heal()
        now = asyncio.get_running_loop().time
        until, still_since, seen = now() + CALM_S_MAX, now(), len(world.effects)
        while now() - still_since < STILL_S:
            await asyncio.sleep(LOOK_S)
            if len(world.effects) != seen:
                still_since, seen = now(), len(world.effects)
            if now() > until:
                raise Broken(f"L1: it never comes to rest; the last effects: {world.effects[-6:]}")
        self._rest.check()

    def _heal(self) -> None:
        world = self.world
        self._schedule.heal()
        world.start_daemon()
        world.promises.calm_since = asyncio.get_running_loop().time()
        for feature in kube_features(world):
            world.redis.publish(feature)
        world.kubelet.ring()

    async def _quiet(self) -> None:
        """An hour with a restart and a reload: nothing happens."""
        world, before = self.world, len(self.world.effects)
        self.chance.tell("storm", "the quiet hour begins")
        for what in self.chance.rng.sample(("kill", "stop", "reload", "rest"), 4):
            if what == "kill":
                world.kill_daemon()
            if what == "stop":
                await world.stop_daemon()
            if what == "reload":
                await world.redis.reload(4.0)
            if what in ("kill", "stop"):
                await asyncio.sleep(3.0)
                world.start_daemon()
            await asyncio.sleep(QUIET_S / 4)
            if len(world.effects) != before:
                names = {"kill": "S2", "stop": "S2", "reload": "S10", "rest": "L4"}
                raise Broken(f"{names[what]}: in the quiet hour, after {what}: {world.effects[before:]}")
        self._rest.check()

    async def _started_by_another(self) -> None:
        """Another program starts each local container that may not run: it is ended, and nothing else changes."""
        world, draws = self.world, self.chance.rng.getstate()
        started = [box for box in map(self._barred, kube_features(world)) if box is not None]
        units = [world.people.units[box.feature] for box in started]
        lives = [(unit.life, unit.restarts) for unit in units]
        for box in started:
            world.engine.start(box, by_hand=True)
        await asyncio.sleep(ENDED_S)
        for box, unit, life in zip(started, units, lives, strict=True):
            if box.runs:
                raise Broken(f"S1: another program has started {box.id[:9]} of {box.feature}, and it runs on")
            if (unit.life, unit.restarts) != life:
                raise Broken(f"the unit of {box.feature} is restarted, for a start of another program")
        self._rest.check()
        self.chance.rng.setstate(draws)

    def _barred(self, feature: str) -> Box | None:
        """The feature's local container, where at rest only Kubernetes runs the feature, or may."""
        world = self.world
        unit, box = world.people.units[feature], world.engine.local(feature)
        row, config = world.redis.rows.get(feature), world.redis.configs.get(feature)
        if box is None or box.runs or box.restarting or row is None or config is None:
            return None
        heard = unit.wanted and bool(unit.last_verb) and not unit.unheard
        waits = row.transition_mode is Mode.READY and row.system_state is SystemState.UP
        return box if heard and waits and config.owner is Owner.KUBE else None

    async def _withdrawn(self) -> None:
        """Pods that have been well for an hour end, and none comes back."""
        world = self.world
        self.chance.tell("storm", "every manifest is withdrawn")
        world.api.withdrawn.update(kube_features(world))
        world.kubelet.ring()
        await asyncio.sleep(world.timing.fallback_after_s + RETURNS_S)
        self._rest.check()


def seeds_of_the_day(today: date | None = None) -> range:
    """The seeds that the fast tests play today (UTC), or those that SEED_FROM asks for."""
    if first := os.environ.get(SEED_FROM):
        return range(int(first), int(first) + SEEDS_A_DAY)
    today = today or datetime.now(UTC).date()
    # Beyond those that the deep tier plays.
    first_of_today = 10_000 + (today.toordinal() % 10_000) * SEEDS_A_DAY
    return range(first_of_today, first_of_today + SEEDS_A_DAY)


def play(seed: int) -> Told:
    """One seed, once."""
    storm = Storm(seed)
    try:
        return virtual.run(storm.run(), seed)
    except virtual.Deadlock as deadlock:
        return Told(
            seed, storm.chance.trace, storm.chance.struck, (f"deadlock: {deadlock}",), storm.chance.story
        )


def play_twice(seed: int) -> Told:
    """One seed; a second run must tell the very same story."""
    told, again = play(seed), play(seed)
    if told.trace != again.trace:
        told.failures += (
            f"the second run of the same seed tells another story: {told.trace}, {again.trace}",
        )
    return told


def shown(told: Told) -> str:
    """A failing seed's story and the command that replays it."""
    head = "\n".join(told.failures)
    replay = f"replay: make storm SEEDS=1 SEED_FROM={told.seed}"
    return f"{told.story}\n\nseed {told.seed}: {head}\n{replay}\n"


def lulls(seeds: int, hours: float, struck: Counter[Fault]) -> list[str]:
    """Why so many seeds prove less than they should: kinds of faults that hardly ever struck, and too few in all."""
    if seeds < FEW_SEEDS:
        return []
    least = min(HITS_MIN, seeds // 50)
    found = [
        f"it struck {struck[fault]} times, not {least}: {fault.value}"
        for fault in Fault
        if struck[fault] < least
    ]
    if struck.total() < FAULTS_PER_HOUR_MIN * hours:
        found.append(f"there were {struck.total() / hours:.0f} faults an hour, not {FAULTS_PER_HOUR_MIN}")
    return found


def play_many(first: int, count: int, processes: int) -> Iterator[Told]:
    """Many seeds, on some processes."""
    if processes < 2:
        yield from map(play_twice, range(first, first + count))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(play_twice, range(first, first + count), chunksize=4)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make storm", description="Storms over the real daemon, by seed.")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    chosen = parser.parse_args(argv)
    begun, struck, hours, failed, effects = time.monotonic(), Counter[Fault](), 0.0, [], 0
    for told in play_many(chosen.first, chosen.seeds, min(chosen.processes, chosen.seeds)):
        struck += told.struck
        hours += told.virtual_s / 3600
        effects += told.effects
        if told.failures:
            failed.append(told.seed)
            print(shown(told) if not chosen.keep_going else f"seed {told.seed}: {told.failures[0][:200]}")
            if not chosen.keep_going:
                break
    took_s = time.monotonic() - begun
    for fault in sorted(Fault, key=lambda f: -struck[f]):
        print(f"{struck[fault]:8} {fault.value}")
    faults = f"{struck.total()} faults ({struck.total() / hours:.0f} an hour)"
    print(
        f"{chosen.seeds} seeds, {hours:.0f} virtual hours, {faults}, {effects} effects of the daemon, {took_s:.0f} s"
    )
    spared = lulls(chosen.seeds, hours, struck)
    print(f"failed: {failed or 'none'}" + "".join(f"; {lull}" for lull in spared))
    return 1 if failed or spared else 0


if __name__ == "__main__":
    sys.exit(main())
