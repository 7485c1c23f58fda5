"""Check one feature's reconciler while the switch changes between observation and action."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import FeatureConfig, LabelView, Row, Stored, Timing
from kubesyncd.core.state import State
from kubesyncd.core.verbs import Kill, Start
from kubesyncd.features import executor
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.reconciler import Reconciler
from kubesyncd.features.surroundings import Surroundings
from kubesyncd.features.waiters import GONE
from kubesyncd.features.wakes import Wakes
from kubesyncd.ports import Missing
from kubesyncd.runtime.context import Runtime
from kubesyncd.runtime.log import logger
from kubesyncd.settings import LogSettings
from tests.sim.plain import PlainFile
from tests.unit.core.given import LOCAL, local

if TYPE_CHECKING:
    import pytest

    from kubesyncd.core.model import Container
    from kubesyncd.core.verbs import Outcome, Verb

NEW = "beef" * 16


@dataclass
class World:
    """A Redis and a Docker of one feature, as far as a reconciler without a master needs them."""

    containers: tuple[Container, ...]
    row: Row = field(default_factory=Row)
    joined = False
    kubelet_running = None
    hold = False
    file: PlainFile = field(default_factory=PlainFile)
    signals: list[str] = field(default_factory=list)

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        return Stored(FeatureConfig(), self.row)

    async def write_row(self, feature: str, row: Row) -> None:
        self.row = row

    async def list(self, feature: str) -> tuple[Container, ...]:
        return self.containers

    async def start(self, container_id: str) -> None:
        """As Docker does, after the unit's script has replaced the container."""
        if container_id == LOCAL:
            self.containers = (replace(local(running=False), id=NEW),)
            raise Missing("Docker", f"No such container: {container_id}")
        self.containers = (replace(local(), id=NEW),)

    async def kill(self, container_id: str, signal: str) -> None:
        """A container that is deaf to all but SIGKILL."""
        self.signals.append(signal)
        assert len(self.signals) < 5, "the same signal again and again"
        if signal == "KILL":
            self.containers = (local(running=False, code=137),)

    def view(self, feature: str) -> LabelView:
        return LabelView()

    async def note_rollback(self, *_: object) -> None:
        pass


def reconciler_in(world: World) -> Reconciler:
    ledger = Ledger(world.file, "boot")
    ledger.load()
    around = Surroundings(
        wakes=Wakes(),
        store=world,  # type: ignore[arg-type]
        containers=world,  # type: ignore[arg-type]
        units=world,  # type: ignore[arg-type]
        labels=world,  # type: ignore[arg-type]
        ledger=ledger,
        timing=Timing(backoff_s=0.01),
        always_local=frozenset(),
        runtime=Runtime(
            clock=asyncio.get_running_loop().time,
            wall=lambda: 1_700_000_000.0,
            rng=random.Random(1),
            log=logger(LogSettings(level="error")),
        ),
        images=world,  # type: ignore[arg-type]
    )
    return Reconciler("snmp", around)


async def carried_out(reconciler: Reconciler, verb: Verb) -> Outcome:
    running = asyncio.create_task(reconciler.run())
    try:
        async with asyncio.timeout(60):
            return await reconciler.carry_out(verb)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_the_history_is_kept_over_a_restart_which_writes_nothing_itself() -> None:
    world = World((replace(local(running=False), id=NEW),))
    reconciler = reconciler_in(world)
    assert (await carried_out(reconciler, Start())).code == 0
    told = list(reconciler.history)
    assert [change.target for change in told] == [State.STARTING, State.LOCAL]
    written = world.file.saves
    again = reconciler_in(world)
    running = asyncio.create_task(again.run())
    await again.seen()
    running.cancel()
    await asyncio.wait([running])
    assert list(again.history) == told
    assert world.file.saves == written


async def test_changes_between_two_observations_are_reported_as_one_change() -> None:
    world = World((replace(local(running=False), id=NEW),))
    assert (await carried_out(reconciler_in(world), Start())).code == 0
    world.containers = (replace(local(running=False), id=NEW),)
    reconciler = reconciler_in(world)
    running = asyncio.create_task(reconciler.run())
    await reconciler.seen()
    running.cancel()
    await asyncio.wait([running])
    assert [(c.source, c.target) for c in reconciler.history][-1] == (State.LOCAL, State.LOCAL_EXITED)
    assert reconciler_in(world).history == reconciler.history


async def test_a_start_of_a_replaced_container_observes_again_and_succeeds() -> None:
    world = World((local(running=False),))
    reconciler = reconciler_in(world)
    outcome = await carried_out(reconciler, Start())
    assert outcome.code == 0, outcome
    assert world.row.docker_id == NEW


async def test_a_verb_under_way_is_answered_when_the_feature_is_uninstalled() -> None:
    reconciler = reconciler_in(World(()))
    asked = asyncio.create_task(reconciler.carry_out(Start()))
    await asyncio.sleep(0)
    reconciler.forget()
    async with asyncio.timeout(60):
        outcome = await asked
    assert (outcome.code, outcome.text) == (1, GONE)


async def test_a_container_that_ignores_the_requested_signal_is_killed_by_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "KILL_AGAIN_S", 0.05)
    world = World((local(),))
    outcome = await carried_out(reconciler_in(world), Kill("TERM"))
    assert outcome.code == 0, outcome
    assert world.signals == ["TERM", "KILL"]
