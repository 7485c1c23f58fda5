"""Check when a join or a reset is requested. Days pass in milliseconds; a stand-in for systemd runs the jobs."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.core import protocol
from kubesyncd.core.model import MasterConfig
from kubesyncd.join.controller import JoinController
from kubesyncd.join.departure import RETURN_S_MAX
from kubesyncd.join.job_watch import SILENT_S_MAX, UNITS
from kubesyncd.join.plan import Found, Job, Membership, Standing, address
from kubesyncd.join.progress import JobPhase, Progress
from kubesyncd.ports import Unavailable
from kubesyncd.runtime.context import Runtime
from kubesyncd.settings import KubeSettings
from tests.paths import ROOT
from tests.sim.loop import run
from tests.sim.plain import PlainJobs, PlainLog, PlainStore
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NONE = MasterConfig()
MASTER = MasterConfig(ip="10.0.0.1")
OTHER = MasterConfig(ip="10.0.0.2")
JOB_S = 12.0
JOBS = {unit: job for job, unit in UNITS.items()}


class Switch:
    """Redis, systemd and the files, and the controller that uses them."""

    def __init__(
        self, seed: int, config: MasterConfig, *, uptime_s: float = 10_000.0, credential: bool = False
    ) -> None:
        self.store = PlainStore(config)
        self.systemd = PlainJobs(self.work)
        self.loaded = True
        self.able = True
        self.name_problem = ""
        self.uptime_s = uptime_s
        # What is on the disk.
        self.credential = credential
        self.noted: Membership | None = None
        self.told: Progress | None = None
        self.requested = False
        self.purge_due = False
        self.returning: tuple[str, ...] = ()
        # What happened.
        self.begun: list[tuple[float, Job, bool]] = []
        self.purges = 0
        self.log = PlainLog()
        # What goes wrong.
        self.fails = False
        self.purge_fails = False
        self._force = False
        self.reconciler = self._new(seed)
        self._life: asyncio.Task[None] | None = None

    def _new(self, seed: int) -> JoinController:
        return JoinController(
            store=self.store,  # type: ignore[arg-type]
            jobs=self.systemd,
            files=self,
            kube=KubeSettings(),
            loaded=lambda: self.loaded,
            runtime=Runtime(self.now, self.now, random.Random(seed), self.log),  # type: ignore[arg-type]
            able=lambda: self.able,
            name_problem=lambda: self.name_problem,
        )

    @property
    def warned(self) -> list[str]:
        return [more["why"] for level, _, more in self.log.lines if level == "warning"]

    @property
    def ended(self) -> list[Job]:
        return [JOBS[unit] for unit in self.systemd.ended]

    def now(self) -> float:
        return self.uptime_s + asyncio.get_running_loop().time()

    def live(self) -> None:
        self._life = asyncio.get_running_loop().create_task(self.reconciler.run(self, lambda: self.returning))

    async def die(self) -> None:
        assert self._life is not None
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life

    async def configure(self, config: MasterConfig) -> None:
        self.store.config = config
        self.reconciler.wake()
        await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], object], within_s: float = 3600.0) -> None:
        await until_async(condition, limit_s=within_s, pause_s=0.05)

    # files and labels, as far as they are asked

    def found(self) -> Found:
        return Found(self.credential, False, self.noted)

    def progress(self) -> Progress | None:
        return self.told

    def working(self) -> bool:
        return self.systemd.working()

    def request(self, *, force: bool) -> None:
        self.requested, self._force = True, force

    def withdraw(self) -> None:
        self.requested = False

    def forget_membership(self) -> None:
        self.noted = None

    def purged(self) -> None:
        self.purge_due = False

    async def purge(self) -> None:
        if self.purge_fails:
            raise Unavailable("Kubernetes", "gone")
        self.purges += 1

    def wake(self) -> None:
        return

    # a job's life

    async def work(self, unit: str) -> None:
        job = JOBS[unit]
        self.requested = False
        config, force = self.store.config, self._force
        self.told = Progress(job, address(config) if config.ip else "", force, self.now())
        self.begun.append((self.now(), job, force))
        try:
            await asyncio.sleep(JOB_S)
        except asyncio.CancelledError:
            self.told = self.told.ended(JobPhase.FAILED, "stopped", self.now())
            raise
        if self.fails:
            self.told = self.told.ended(JobPhase.FAILED, "no answer", self.now())
            return
        self.credential = job is Job.JOIN
        standing = Standing.JOINED if self.credential else Standing.LEFT
        self.noted = (
            Membership(standing, config.ip, config.port, "switch1", "token", 0) if config.wanted else None
        )
        self.purge_due = job is Job.RESET
        self.told = self.told.ended(JobPhase.DONE, f"{job.value} done", self.now())


def play(
    story: Callable[[Switch], Awaitable[None]], config: MasterConfig = NONE, **more: Any
) -> list[Switch]:
    """The same story for several switches of a fleet, each with its own luck."""
    played = []

    async def stage(seed: int) -> None:
        switch = Switch(seed, config, **more)
        switch.live()
        try:
            await story(switch)
            assert switch._life is not None
            assert not switch._life.done(), "it never ends"
        finally:
            await switch.die()
        played.append(switch)

    for seed in range(6):
        run(stage(seed), seed)
    return played


def jobs(switch: Switch) -> list[Job]:
    return [job for _, job, _ in switch.begun]


def test_nothing_configured_and_nothing_happens_ever() -> None:
    async def story(switch: Switch) -> None:
        for _ in range(24 * 60):
            await asyncio.sleep(60)
            switch.reconciler.wake()
        assert not switch.begun
        assert not switch.log.lines

    play(story)


def test_a_name_that_no_node_can_have_is_told_once_and_joins_when_it_is_corrected() -> None:
    async def story(switch: Switch) -> None:
        switch.name_problem = "'leaf_01' cannot be the name of a node"
        await switch.configure(MASTER)
        for _ in range(60):
            await asyncio.sleep(60)
            switch.reconciler.wake()
        assert switch.warned == [switch.name_problem]
        assert not switch.begun
        switch.name_problem = ""
        switch.reconciler.wake()
        await switch.until(lambda: jobs(switch) == [Job.JOIN])

    play(story)


def test_after_a_boot_a_fleet_spreads_its_joins_and_a_daemon_s_restart_does_not_wait() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential)

    booted = play(story, MASTER, uptime_s=5.0)
    at = sorted(switch.begun[0][0] for switch in booted)
    assert at[0] < 150 < at[-1] < 301
    restarted = play(story, MASTER, uptime_s=10_000.0)
    assert all(switch.begun[0][0] - 10_000 < 1 for switch in restarted)


def test_a_configuration_changed_while_a_join_waits_for_its_turn_wins() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(1)
        await switch.configure(replace(MASTER, disable=True))
        await asyncio.sleep(3600)
        assert not switch.begun
        await switch.configure(OTHER)
        await switch.until(lambda: switch.credential, 20)
        assert switch.noted is not None
        assert switch.noted.ip == OTHER.ip

    play(story, MASTER, uptime_s=1.0)


def test_config_db_changes_during_a_load_do_not_count_as_an_operator_s() -> None:
    async def story(switch: Switch) -> None:
        switch.loaded = False
        await asyncio.sleep(1)
        await switch.configure(MASTER)
        switch.loaded = True
        await switch.until(lambda: switch.credential)

    at = sorted(switch.begun[0][0] for switch in play(story, NONE, uptime_s=1.0))
    assert at[-1] - at[0] > 60, "the fleet is spread all the same"


def test_a_failed_join_is_tried_again_with_growing_and_differing_delays() -> None:
    async def story(switch: Switch) -> None:
        switch.fails = True
        await asyncio.sleep(86_400)
        tries = len(switch.begun)
        assert 86_400 / 650 < tries < 86_400 / 200
        switch.fails = False
        await switch.until(lambda: switch.credential)

    assert len({len(switch.begun) for switch in play(story, MASTER)}) > 1


def test_a_joined_switch_never_leaves_or_joins_again_by_itself() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential)
        for hour in range(48):
            switch.store.down = hour % 3 == 0
            await switch.configure(replace(MASTER, insecure=hour % 2 == 0))
            await asyncio.sleep(3600)
        assert jobs(switch) == [Job.JOIN]
        await switch.configure(NONE)
        await asyncio.sleep(3600)
        assert jobs(switch) == [Job.JOIN], "an address that is removed is no reset"

    play(story, MASTER)


def test_a_credential_from_another_program_is_used_unchanged() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(86_400)
        assert switch.reconciler.fits()
        assert not switch.begun

    play(story, MASTER, credential=True)


def test_a_changed_address_does_not_fit_and_is_joined() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        assert switch.reconciler.fits()
        await switch.configure(OTHER)
        assert not switch.reconciler.fits()
        assert switch.reconciler.joining
        await switch.until(lambda: switch.reconciler.fits() and not switch.reconciler.joining, 30)
        assert jobs(switch) == [Job.JOIN, Job.JOIN]

    play(story, MASTER)


def test_disabling_resets_once_and_enabling_joins() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        await switch.configure(replace(MASTER, disable=True))
        await asyncio.sleep(3600)
        assert jobs(switch) == [Job.JOIN, Job.RESET]
        assert (switch.purges, switch.noted) == (1, None)
        await switch.configure(MASTER)
        await switch.until(lambda: switch.credential, 30)

    play(story, MASTER)


def test_an_operator_s_reset_stands_until_he_joins() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        outcome = await switch.reconciler.ask(Job.RESET, force=False, say=lambda _: None)
        assert (outcome.code, outcome.text) == (protocol.EXIT_DONE, "reset done")
        await asyncio.sleep(86_400)
        assert jobs(switch) == [Job.JOIN, Job.RESET]
        outcome = await switch.reconciler.ask(Job.JOIN, force=False, say=lambda _: None)
        assert outcome.code == protocol.EXIT_DONE
        assert switch.credential

    play(story, MASTER)


def test_a_reset_waits_until_features_have_returned_and_then_begins_at_once() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        assert not switch.reconciler.leaving
        switch.returning = ("snmp",)
        asked = asyncio.create_task(switch.reconciler.ask(Job.RESET, force=False, say=lambda _: None))
        await asyncio.sleep(10)
        assert (switch.reconciler.leaving, switch.reconciler.joining, jobs(switch)) == (
            True,
            True,
            [Job.JOIN],
        )
        switch.returning = ()
        await switch.until(lambda: jobs(switch) == [Job.JOIN, Job.RESET], 2)
        assert switch.reconciler.leaving
        assert (await asked).code == protocol.EXIT_DONE
        await switch.until(lambda: not switch.reconciler.leaving, 2)

    play(story, MASTER)


def test_a_reset_does_not_wait_for_ever_for_a_feature_that_cannot_return() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        switch.returning = ("snmp",)
        begun = switch.now()
        await switch.configure(replace(MASTER, disable=True))
        await switch.until(lambda: jobs(switch) == [Job.JOIN, Job.RESET], 60)
        assert RETURN_S_MAX - 1 < switch.now() - begun < RETURN_S_MAX + 2
        await switch.until(lambda: not switch.reconciler.joining, 60)
        assert not switch.reconciler.leaving

    play(story, MASTER)


def test_a_reset_that_is_not_wanted_any_more_before_it_begins_does_not_happen() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        switch.returning = ("snmp",)
        await switch.configure(replace(MASTER, disable=True))
        await asyncio.sleep(5)
        assert switch.reconciler.leaving
        await switch.configure(MASTER)
        await asyncio.sleep(3600)
        assert (switch.reconciler.leaving, jobs(switch)) == (False, [Job.JOIN])

    play(story, MASTER)


def test_a_daemon_that_starts_while_a_reset_runs_knows_that_the_switch_leaves() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        await switch.configure(replace(MASTER, disable=True))
        await switch.until(switch.working, 5)
        await switch.die()
        switch.reconciler = switch._new(1)
        switch.live()
        await switch.until(lambda: switch.reconciler.leaving, 2)
        await switch.until(lambda: not switch.reconciler.joining and not switch.reconciler.leaving, 60)

    play(story, MASTER)


def test_a_join_that_is_not_wanted_any_more_is_stopped() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.working())
        await switch.configure(OTHER)
        await switch.until(lambda: switch.credential, 40)
        assert switch.ended == [Job.JOIN]
        assert switch.noted is not None
        assert switch.noted.ip == OTHER.ip

    play(story, MASTER)


def test_an_operator_s_reset_overtakes_a_join_and_a_second_join_joins_the_first() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.working())
        said: list[str] = []
        outcome = await switch.reconciler.ask(Job.JOIN, force=False, say=said.append)
        assert outcome.code == protocol.EXIT_DONE
        assert said[0].startswith("join: ")
        assert jobs(switch) == [Job.JOIN]
        forced = asyncio.ensure_future(switch.reconciler.ask(Job.JOIN, force=True, say=said.append))
        await switch.until(lambda: switch.working())
        outcome = await switch.reconciler.ask(Job.RESET, force=False, say=said.append)
        assert outcome.code == protocol.EXIT_DONE
        assert (await forced).code == protocol.EXIT_FAILED
        assert switch.ended == [Job.JOIN]
        assert not switch.credential

    play(story, MASTER)


def test_a_unit_that_does_not_start_is_reported_and_tried_again() -> None:
    async def story(switch: Switch) -> None:
        switch.systemd.never_starts = True
        outcome = await switch.reconciler.ask(Job.JOIN, force=False, say=lambda _: None)
        assert outcome.code == protocol.EXIT_FAILED
        assert "did not start within 20 s; see journalctl -u kubesyncd-join.service" in outcome.text
        switch.systemd.never_starts, switch.systemd.masked = False, True
        outcome = await switch.reconciler.ask(Job.JOIN, force=False, say=lambda _: None)
        assert (outcome.code, outcome.text) == (
            protocol.EXIT_UNAVAILABLE,
            "systemd: kubesyncd-join.service is masked; try again",
        )
        switch.systemd.masked = False
        await switch.until(lambda: switch.credential)

    play(story, MASTER)


def test_a_unit_that_takes_long_to_start_is_waited_for_and_its_request_stands() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        for silent in (False, True):
            switch.systemd.start_s, switch.systemd.silent = 75.0, silent
            outcome = await switch.reconciler.ask(Job.JOIN, force=True, say=lambda _: None)
            assert (outcome.code, outcome.text) == (protocol.EXIT_DONE, "join done")
        assert [force for _, _, force in switch.begun] == [False, True, True]
        assert [
            more["why"].partition(";")[2] for level, _, more in switch.log.lines if level == "warning"
        ] == [
            " systemd is still starting it",
            " systemd: show kubesyncd-join.service: no answer",
        ]

    play(story, MASTER)


def test_a_job_is_given_up_where_systemd_does_not_answer_for_as_long_as_its_unit_may_start() -> None:
    async def story(switch: Switch) -> None:
        switch.systemd.never_starts = switch.systemd.silent = True
        outcome = await switch.reconciler.ask(Job.JOIN, force=False, say=lambda _: None)
        assert outcome.code == protocol.EXIT_FAILED
        assert re.search("did not start within 66. s; see journalctl", outcome.text), outcome.text
        assert not switch.requested
        switch.systemd.never_starts = switch.systemd.silent = False
        await switch.until(lambda: switch.credential)

    play(story, MASTER)


def test_a_job_started_manually_while_systemd_is_asked_is_not_ended() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        switch.systemd.answer_s = 1.0
        asked = asyncio.ensure_future(switch.reconciler.ask(Job.JOIN, force=True, say=lambda _: None))
        await switch.until(lambda: switch.reconciler.joining)
        await switch.systemd.begin("kubesyncd-join.service")
        assert (await asked).code == protocol.EXIT_FAILED
        assert (switch.ended, jobs(switch), switch.requested) == ([], [Job.JOIN, Job.JOIN], False)

    play(story, MASTER)


def test_a_unit_that_takes_long_to_start_and_is_not_wanted_any_more_is_stopped() -> None:
    async def story(switch: Switch) -> None:
        switch.systemd.start_s = 75.0
        await asyncio.sleep(30.0)
        await switch.configure(replace(MASTER, disable=True))
        await asyncio.sleep(3600)
        assert (switch.begun, switch.ended, switch.requested) == ([], [Job.JOIN], False)

    play(story, MASTER)


def test_a_job_is_begun_although_the_process_of_the_last_one_is_still_ending() -> None:
    async def story(switch: Switch) -> None:
        switch.systemd.ending_s = 60.0
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        for _ in range(2):
            outcome = await switch.reconciler.ask(Job.JOIN, force=True, say=lambda _: None)
            assert (outcome.code, outcome.text) == (protocol.EXIT_DONE, "join done")
        assert [force for _, _, force in switch.begun] == [False, True, True]

    play(story, MASTER)


def test_a_job_that_was_killed_is_noticed_and_begun_again() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.working())
        job, running = switch.systemd.process, switch.told
        assert job is not None
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job
        switch.told = running
        await switch.until(lambda: switch.credential)
        assert jobs(switch) == [Job.JOIN, Job.JOIN]

    play(story, MASTER)


def test_a_daemon_that_comes_back_finds_its_job_under_way() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: switch.working())
        await switch.die()
        switch.reconciler = switch._new(99)
        switch.live()
        await asyncio.sleep(1)
        assert switch.reconciler.joining
        await switch.until(lambda: not switch.reconciler.joining, 60)
        assert jobs(switch) == [Job.JOIN]
        assert switch.credential

    play(story, MASTER)


def test_without_the_kubernetes_packages_nothing_happens_unasked() -> None:
    async def story(switch: Switch) -> None:
        switch.able = False
        await asyncio.sleep(86_400)
        assert not switch.begun
        assert not switch.log.lines
        outcome = await switch.reconciler.ask(Job.JOIN, force=True, say=lambda _: None)
        assert outcome.text.endswith("install kubesyncd-kube")

    # Before its first look, so that the packages are missing from the beginning.
    async def begin(switch: Switch) -> None:
        switch.able = False
        await story(switch)

    play(begin, MASTER, uptime_s=1.0)


def test_redis_away_moves_nothing_and_the_last_known_configuration_stands() -> None:
    async def story(switch: Switch) -> None:
        switch.store.down = True
        await asyncio.sleep(3600)
        assert not switch.begun
        switch.store.down = False
        switch.reconciler.wake()
        await switch.until(lambda: switch.credential, 60)

    async def begin(switch: Switch) -> None:
        switch.store.down = True
        await story(switch)

    play(begin, MASTER)


def test_an_error_that_returns_after_it_was_over_is_logged_again() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(600)
        assert switch.warned == ["Redis: gone"], "one warning while it lasts"
        switch.store.down = False
        switch.reconciler.wake()
        await switch.until(lambda: switch.credential and not switch.reconciler.joining)
        switch.store.down = True
        switch.purge_due, switch.purge_fails = True, True
        switch.reconciler.wake()
        await asyncio.sleep(600)
        switch.purge_fails = False
        switch.reconciler.wake()
        await asyncio.sleep(60)
        switch.purge_due, switch.purge_fails = True, True
        switch.reconciler.wake()
        await asyncio.sleep(600)
        assert switch.warned == ["Redis: gone", "Kubernetes: gone", "Kubernetes: gone"]

    async def begin(switch: Switch) -> None:
        switch.store.down = True
        await story(switch)

    play(begin, MASTER)


@pytest.mark.parametrize("unit", UNITS.values())
def test_a_silent_systemd_is_waited_for_as_long_as_the_unit_may_start(unit: str) -> None:
    lines = (ROOT / "packaging" / "systemd" / unit).read_text().splitlines()
    assert f"TimeoutStartSec={SILENT_S_MAX:g}" in lines
