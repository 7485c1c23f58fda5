"""Start joins and resets at the right time, and follow them to their end.

Knows ports, the files on which a job leaves word, and the pure rules of `join.plan`. Joins nothing itself: a job
is a systemd unit of its own, so that neither a restart nor a crash of ours breaks it off.

One coroutine. Whoever wants something leaves a note and rings; a newer note overtakes an older one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kubesyncd.core import protocol
from kubesyncd.core.verbs import Outcome
from kubesyncd.join.plan import Job, address, due, outdated, plan_join
from kubesyncd.join.progress import Phase
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.model import MasterConfig
    from kubesyncd.join.plan import Found
    from kubesyncd.join.progress import Progress
    from kubesyncd.ports import FeatureStore
    from kubesyncd.settings import Kube

UNITS = {Job.JOIN: "kubesyncd-join.service", Job.RESET: "kubesyncd-reset.service"}
# How often a job under way is looked at: a file and a lock.
LOOK_S = 0.5
# A unit that has not taken its request by then may not be coming: systemd is asked, then and again after each pause.
START_S_MAX = 20.0
ASK_AGAIN_S = 5.0
# While systemd does not answer, a job may come for as long as its unit's TimeoutStartSec=.
SILENT_S_MAX = 660.0
RETRY_S_MIN = 5.0
READ_RETRY_S = 2.0


class Jobs(Protocol):
    """systemd, as far as jobs need it."""

    async def begin(self, unit: str) -> None:
        """Start a oneshot unit; returns once the job is queued. Raises Refused, Unavailable."""

    async def end(self, unit: str) -> None:
        """Stop it. Raises Refused, Unavailable."""

    async def pending(self, unit: str) -> bool:
        """Whether it is queued, starting or running. Raises Unavailable."""


class Board(Protocol):
    """The files on which daemon and job leave word for each other. Raises Unavailable."""

    def found(self) -> Found:
        """What there is of a join."""

    def progress(self) -> Progress | None:
        """How far the last job of this boot came."""

    def working(self) -> bool:
        """Whether a job is under way."""

    def request(self, *, force: bool) -> None:
        """Say what the next job shall do."""

    @property
    def requested(self) -> bool:
        """Whether a request waits for its job."""

    def withdraw(self) -> None:
        """It is not wanted any more."""

    def forget_membership(self) -> None:
        """An operator's reset counts no more."""

    @property
    def purge_due(self) -> bool:
        """Whether a reset wants queued labels to be forgotten."""

    def purged(self) -> None:
        """They are."""


class Labels(Protocol):
    """The cluster coroutine, as far as a membership concerns it."""

    def wake(self) -> None:
        """Look again: joined or left."""

    async def purge(self) -> None:
        """Forget every label. Raises Unavailable."""


@dataclass(slots=True)
class _Wish:
    """What somebody asked for, and who is told what became of it."""

    job: Job
    force: bool
    answer: asyncio.Future[Outcome]


@dataclass(slots=True)
class _Started:
    """A job we have asked systemd for, or found under way; `before`: an older job's progress; `asked_at`: when systemd
    last said that its unit is still to come.
    """

    job: Job
    master: str
    at: float
    before: Progress | None = None
    asked_at: float | None = None


class JoinController:
    """Run `run()` once. `clock`: BOOTTIME seconds. `loaded`: whether CONFIG_DB is known to have been whole.
    `able`: whether the Kubernetes packages are installed; without them nothing happens, and nothing is said unasked.
    """

    def __init__(
        self,
        *,
        store: FeatureStore,
        jobs: Jobs,
        board: Board,
        labels: Labels,
        kube: Kube,
        loaded: Callable[[], bool],
        rng: Random,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
        able: Callable[[], bool] = lambda: True,
    ) -> None:
        self._able = able
        self._store = store
        self._jobs = jobs
        self._board = board
        self._labels = labels
        self._loaded = loaded
        self._clock = clock
        self._log = log
        self._bell = asyncio.Event()
        self._bell.set()  # the first look is nobody's to ask for
        self._backoff = Backoff(rng, kube.join_retry_s, kube.join_retry_s_max)
        # A fleet whose power comes back must not join all at once. BOOTTIME is 0 when the power comes.
        self._not_before = rng.uniform(0.0, kube.join_boot_delay_s)
        self._retry_at = 0.0
        self._config: MasterConfig | None = None
        self._wish: _Wish | None = None
        self._started: _Started | None = None
        self._working = False
        self._said = ""

    # ---- for others -----------------------------------------------------------------------------

    @property
    def joining(self) -> bool:
        """Whether a join or a reset is under way: the kubelet is its business then, not ours."""
        return self._working or self._started is not None

    def fits(self) -> bool:
        """Whether the kubelet's credential is there, and for the master that is configured."""
        try:
            found = self._board.found()
        except Unavailable:
            return False
        return found.credential and (
            self._config is None or not self._config.ip or found.belongs_to(self._config)
        )

    def wake(self) -> None:
        """The configuration or a file may have changed."""
        self._bell.set()

    def status(self) -> dict[str, Any]:
        """The last job of this boot, in JSON's types."""
        try:
            progress = self._board.progress()
        except Unavailable:
            progress = None
        if progress is None:
            return {}
        now = self._clock()
        ended = progress.ended_at
        return {
            "job": progress.job.value,
            "phase": progress.phase.value if self.joining or ended is not None else Phase.FAILED.value,
            "master": progress.master,
            "forced": progress.force,
            "says": progress.sentence,
            "left_over": list(progress.left_over),
            "since_s": round(now - (progress.begun_at if ended is None else ended), 1),
            "retry_in_s": round(max(0.0, self._retry_at - now), 1),
            "steps": [
                {"step": d.step.value, "ok": d.ok, "took_s": d.took_s, "detail": d.detail}
                for d in progress.steps
            ],
        }

    async def ask(self, job: Job, *, force: bool, say: Callable[[str], None]) -> Outcome:
        """Carry out an operator's join or reset and wait for its end; `say` gets each new step."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._overtake()
        self._wish = _Wish(job, force, answer)
        self._bell.set()
        said = ""
        while not answer.done():
            await asyncio.wait({answer}, timeout=LOOK_S)
            sentence = self._sentence()
            if sentence != said:
                say(said := sentence)
        return answer.result()

    def _sentence(self) -> str:
        with suppress(Unavailable):
            progress = self._board.progress()
            if progress is not None and self._working:
                return progress.sentence
        return ""

    def _overtake(self) -> None:
        if self._wish is not None:
            self._answer(protocol.EXIT_FAILED, "a newer join or reset has overtaken this one")

    def _answer(self, code: int, text: str, job: Job | None = None) -> None:
        """Tell whoever asked, unless it was for another job than this one."""
        wish = self._wish
        if wish is None or job not in (None, wish.job):
            return
        self._wish = None
        if not wish.answer.done():
            wish.answer.set_result(Outcome(code, text))

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._rung()
            try:
                await self._turn()
            except PortError as error:
                self._say_once("membership", str(error))
                self._retry_at = max(self._retry_at, self._clock() + READ_RETRY_S)

    async def _rung(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._idle_s()):
                await self._bell.wait()
        self._bell.clear()

    def _idle_s(self) -> float | None:
        if self.joining:
            return LOOK_S
        ahead = [at for at in (self._retry_at, self._not_before) if at > self._clock()]
        return min(ahead) - self._clock() if ahead else None

    async def _turn(self) -> None:
        config = await self._configuration()
        await self._purge_if_due()
        await self._watch()
        if self.joining:
            await self._end_if_outdated(config)
            return
        found = self._board.found()
        if not (config.wanted or config.problems) and found.membership is not None and not found.credential:
            # Disabled or unset meanwhile: an operator's reset has served its time.
            self._board.forget_membership()
        if self._wish is not None:
            await self._grant(self._wish, config, found)
            return
        await self._follow(config, found)

    async def _configuration(self) -> MasterConfig:
        """What is configured; the last known configuration while Redis does not tell."""
        known, loaded = self._config, self._loaded()
        try:
            config = await self._store.master()
        except PortError:
            if known is None:
                raise
            return known
        if known is not None and config != known:
            self._retry_at = 0.0
            self._backoff.reset()
            if loaded:
                # Somebody has just typed it: no fleet does that all at once.
                self._not_before = 0.0
        self._config = config
        return config

    async def _purge_if_due(self) -> None:
        if self._board.purge_due:
            await self._labels.purge()
            self._board.purged()

    # ---- a job under way ------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow the job: begun, ended, or never come. One begun before us, or by hand, counts as ours from now on.

        In this order: a job takes the lock, then its request, then reports. Who sees the request gone and the lock
        free sees the job's last word too.
        """
        requested = self._board.requested
        self._working = self._board.working()
        progress, started = self._board.progress(), self._started
        if self._working:
            if started is None and progress is not None and progress.phase is Phase.RUNNING:
                self._started = _Started(progress.job, progress.master, progress.begun_at)
            return
        if started is None:
            return
        if progress is not None and progress != started.before and progress.begun_at >= started.at:
            self._over(started, progress)
        elif not requested:
            self._gone(started, "it ended without a word")
        elif not await self._to_come(started) and self._board.requested:
            # One that has begun and ended while systemd was asked is for the next look.
            self._board.withdraw()
            self._gone(started, f"it has not begun within {self._clock() - started.at:.0f} s")

    async def _to_come(self, started: _Started) -> bool:
        """Whether a unit that has not taken its request yet still will. On a busy switch a start takes its time, and
        one that is given up begins all the same, without its request: only systemd's word ends the wait.
        """
        asked_at, now = started.asked_at, self._clock()
        if now < (started.at + START_S_MAX if asked_at is None else asked_at + ASK_AGAIN_S):
            return True
        unit, why = UNITS[started.job], "systemd is still starting it"
        try:
            if not await self._jobs.pending(unit):
                return False
        except PortError as error:
            if now > started.at + SILENT_S_MAX:
                return False
            why = str(error)
        if asked_at is None:
            why = f"{unit} has not begun within {now - started.at:.0f} s; {why}"
            self._log.warning("membership", job=started.job.value, why=why)
        started.asked_at = self._clock()
        return True

    def _over(self, started: _Started, progress: Progress) -> None:
        self._started = None
        self._labels.wake()
        if progress.phase is Phase.DONE:
            self._backoff.reset()
            self._log.info("membership", job=progress.job.value, why=progress.sentence)
            self._answer(protocol.EXIT_DONE, progress.sentence, started.job)
            return
        why = (
            progress.why if progress.phase is Phase.FAILED else f"it was killed while at: {progress.sentence}"
        )
        self._failed(started, why)

    def _gone(self, started: _Started, why: str) -> None:
        self._started = None
        unit = UNITS[started.job]
        self._failed(started, f"{unit}: {why}; see journalctl -u {unit}")

    def _failed(self, started: _Started, why: str) -> None:
        retry_s = max(RETRY_S_MIN, self._backoff.next_s())
        self._retry_at = self._clock() + retry_s
        self._log.error("membership", job=started.job.value, why=why, retry_in_s=round(retry_s, 1))
        self._answer(protocol.EXIT_FAILED, why, started.job)

    async def _end_if_outdated(self, config: MasterConfig) -> None:
        """A changed configuration, or an operator's reset, does not wait for a join that is not wanted any more."""
        started, progress = self._started, self._board.progress()
        if started is not None:
            job, master = started.job, started.master
        elif progress is not None:
            job, master = progress.job, progress.master
        else:
            return
        wish = self._wish
        overtaken = wish is not None and wish.job is Job.RESET and job is Job.JOIN
        if not overtaken and not outdated(config, job, master):
            return
        why = "an operator resets" if overtaken else "the configuration has changed"
        self._log.info("membership", job=job.value, why=f"stopped: {why}")
        self._board.withdraw()
        await self._jobs.end(UNITS[job])
        self._started = None
        self._retry_at = 0.0
        self._answer(protocol.EXIT_FAILED, f"stopped: {why}", job)
        self._bell.set()

    # ---- beginning one --------------------------------------------------------------------------

    async def _grant(self, wish: _Wish, config: MasterConfig, found: Found) -> None:
        if wish.job is Job.JOIN:
            if not self._able():
                self._answer(
                    protocol.EXIT_FAILED, "the Kubernetes packages are not installed; install kubesyncd-kube"
                )
                return
            try:
                plan = plan_join(config, found, force=wish.force)
            except Refused as error:
                self._answer(protocol.EXIT_FAILED, error.detail)
                return
            if not plan.tasks:
                self._answer(protocol.EXIT_DONE, plan.why)
                return
        try:
            await self._begin(wish.job, config, "an operator asks for it", force=wish.force)
        except PortError as error:
            self._answer(protocol.EXIT_UNAVAILABLE, f"{error}; try again")

    async def _follow(self, config: MasterConfig, found: Found) -> None:
        """What the configuration asks for, at its time."""
        job, why = due(config, found)
        if job is None or self._clock() < self._retry_at or not self._able():
            return
        if job is Job.JOIN and self._clock() < self._not_before:
            self._say_once("join_waits", f"{why}; the fleet does not join all at once after a boot")
            return
        try:
            await self._begin(job, config, why, force=False)
        except PortError as error:
            self._failed(_Started(job, "", self._clock()), str(error))

    async def _begin(self, job: Job, config: MasterConfig, why: str, *, force: bool) -> None:
        """Start the unit. Raises PortError."""
        master = address(config) if config.ip else ""
        started = _Started(job, master, self._clock(), self._board.progress())
        # Before the first wait: from here on the kubelet is the job's business.
        self._started = started
        try:
            await self._end_lingering(UNITS[job])
            started.at, started.before = self._clock(), self._board.progress()
            self._board.request(force=force)
            await self._jobs.begin(UNITS[job])
        except PortError:
            self._started = None
            self._board.withdraw()
            raise
        self._log.info("membership", job=job.value, master=master, force=force, why=why)

    async def _end_lingering(self, unit: str) -> None:
        """End a process of the unit that has let go of the lock. It has no work any more, but for systemd the unit is
        still being started: another start would be merged with that one, and begin nothing.
        """
        with suppress(Unavailable):
            if await self._jobs.pending(unit) and not self._board.working():
                await self._jobs.end(unit)

    def _say_once(self, event: str, why: str) -> None:
        if why != self._said:
            self._log.warning(event, why=why)
            self._said = why
