"""Start joins and resets at the right time, and follow each one until it ends.

Knows ports, the files that the daemon and a job exchange, and the pure rules of `join.plan`. Performs no join itself:
a job is a separate systemd unit, so that neither a restart nor a crash of the daemon interrupts it.

One coroutine. A caller stores its request and wakes the coroutine; a newer request replaces an older one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core import protocol
from kubesyncd.core.verbs import Outcome
from kubesyncd.join.plan import Job, address, due, outdated, plan_join
from kubesyncd.join.progress import JobPhase
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.descriptions import JobDescription
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.join.plan import Found
    from kubesyncd.join.progress import Progress
    from kubesyncd.ports import FeatureStore
    from kubesyncd.settings import KubeSettings

UNITS = {Job.JOIN: "kubesyncd-join.service", Job.RESET: "kubesyncd-reset.service"}
# How often a running job is checked: one file and one lock.
LOOK_S = 0.5
# A unit that has not taken its request by then may never start: systemd is asked, then and again after each pause.
START_S_MAX = 20.0
ASK_AGAIN_S = 5.0
# While systemd does not answer, a job may still start for as long as its unit's TimeoutStartSec=.
SILENT_S_MAX = 660.0
RETRY_S_MIN = 5.0
READ_RETRY_S = 2.0


class Jobs(Protocol):
    """The systemd calls that jobs need."""

    async def begin(self, unit: str) -> None:
        """Start a oneshot unit; returns once the job is queued. Raises Refused, Unavailable."""

    async def end(self, unit: str) -> None:
        """Stop the unit. Raises Refused, Unavailable."""

    async def pending(self, unit: str) -> bool:
        """Whether the unit is queued, starting or running. Raises Unavailable."""


class Board(Protocol):
    """The files that the daemon and the job exchange. Raises Unavailable."""

    def found(self) -> Found:
        """What a join has left on this switch."""

    def progress(self) -> Progress | None:
        """Progress of the last job of this boot."""

    def working(self) -> bool:
        """Whether a job is running."""

    def request(self, *, force: bool) -> None:
        """Write the request for the next job."""

    @property
    def requested(self) -> bool:
        """Whether a request waits for its job."""

    def withdraw(self) -> None:
        """Withdraw the request."""

    def forget_membership(self) -> None:
        """Clear an operator's reset."""

    @property
    def purge_due(self) -> bool:
        """Whether a reset asks to clear the queued labels."""

    def purged(self) -> None:
        """Record that the queued labels are cleared."""


class Labels(Protocol):
    """The cluster coroutine, as far as a membership concerns it."""

    def wake(self) -> None:
        """Check the membership again: joined or left."""

    async def purge(self) -> None:
        """Clear all labels. Raises Unavailable."""


@dataclass(slots=True)
class _Wish:
    """An operator's request, and the future that receives its outcome."""

    job: Job
    force: bool
    answer: asyncio.Future[Outcome]


@dataclass(slots=True)
class _Started:
    """A job requested from systemd, or found running.

    `before`: progress of an older job. `asked_at`: when systemd last said that the unit is still to start.
    """

    job: Job
    master: str
    at: float
    before: Progress | None = None
    asked_at: float | None = None


class JoinController:
    """Start and follow joins and resets. Run `run()` once. `clock`: BOOTTIME seconds.

    `loaded`: whether CONFIG_DB is known to be complete. `able`: whether the Kubernetes packages are installed; without
    them no job starts, and only an operator's request is answered.
    """

    def __init__(
        self,
        *,
        store: FeatureStore,
        jobs: Jobs,
        board: Board,
        kube: KubeSettings,
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
        self._loaded = loaded
        self._clock = clock
        self._log = log
        self._bell = asyncio.Event()
        self._bell.set()  # the first pass needs no request
        self._backoff = Backoff(rng, kube.join_retry_s, kube.join_retry_s_max)
        # A fleet whose power returns must not join all at once. BOOTTIME is 0 when the power returns.
        self._not_before = rng.uniform(0.0, kube.join_boot_delay_s)
        self._retry_at = 0.0
        self._config: MasterConfig | None = None
        self._wish: _Wish | None = None
        self._started: _Started | None = None
        self._working = False
        self._said = ""

    # ---- for other components -------------------------------------------------------------------

    @property
    def joining(self) -> bool:
        """Whether a join or reset is running: the job controls the kubelet then, not the daemon."""
        return self._working or self._started is not None

    def fits(self) -> bool:
        """Whether the kubelet's credential exists and belongs to the configured master."""
        try:
            found = self._board.found()
        except Unavailable:
            return False
        return found.credential and (
            self._config is None or not self._config.ip or found.belongs_to(self._config)
        )

    def wake(self) -> None:
        """Handle a possible change of the configuration or of a file."""
        self._bell.set()

    def status(self) -> JobDescription:
        """The last job of this boot; empty if there was none."""
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
            "phase": progress.phase.value if self.joining or ended is not None else JobPhase.FAILED.value,
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
        """Run an operator's join or reset and wait for its end; `say` gets each new step."""
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
            self._answer(protocol.EXIT_FAILED, "replaced by a newer join or reset")

    def _answer(self, code: int, text: str, job: Job | None = None) -> None:
        """Answer the operator's request, unless it was for another job than this one."""
        wish = self._wish
        if wish is None or job not in (None, wish.job):
            return
        self._wish = None
        if not wish.answer.done():
            wish.answer.set_result(Outcome(code, text))

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self, labels: Labels) -> None:
        """Run the loop; `labels` hears of joins and resets. Never returns."""
        while True:
            await self._rung()
            try:
                await self._turn(labels)
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

    async def _turn(self, labels: Labels) -> None:
        config = await self._configuration()
        await self._purge_if_due(labels)
        if await self._watch():
            labels.wake()
        if self.joining:
            await self._end_if_outdated(config)
            return
        found = self._board.found()
        if not (config.wanted or config.problems) and found.membership is not None and not found.credential:
            # The master was disabled or unset meanwhile: an operator's reset no longer applies.
            self._board.forget_membership()
        if self._wish is not None:
            await self._grant(self._wish, config, found)
            return
        await self._follow(config, found)

    async def _configuration(self) -> MasterConfig:
        """The configuration; the last known one while Redis does not answer."""
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
                # An operator has just typed it: a fleet does not do that all at once.
                self._not_before = 0.0
        self._config = config
        return config

    async def _purge_if_due(self, labels: Labels) -> None:
        if self._board.purge_due:
            await labels.purge()
            self._board.purged()

    # ---- a running job --------------------------------------------------------------------------

    async def _watch(self) -> bool:
        """Follow the job: started, ended, or never started; return whether it has ended with a report.

        A job started before the daemon, or by hand, is adopted.
        Order of the checks: a job takes the lock, then its request, then reports. When the request is gone and the lock
        is free, the job's last report is visible too.
        """
        requested = self._board.requested
        self._working = self._board.working()
        progress, started = self._board.progress(), self._started
        if self._working:
            if started is None and progress is not None and progress.phase is JobPhase.RUNNING:
                self._started = _Started(progress.job, progress.master, progress.begun_at)
            return False
        if started is None:
            return False
        if progress is not None and progress != started.before and progress.begun_at >= started.at:
            self._over(started, progress)
            return True
        if not requested:
            self._gone(started, "it ended without a report")
        elif not await self._to_come(started) and self._board.requested:
            # A job that started and ended while systemd was asked is left to the next pass.
            self._board.withdraw()
            self._gone(started, f"it did not start within {self._clock() - started.at:.0f} s")
        return False

    async def _to_come(self, started: _Started) -> bool:
        """Whether a unit that has not taken its request yet will still start.

        On a busy switch a start takes long. A start that is given up happens all the same, without its request: only
        systemd's answer ends the wait.
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
            why = f"{unit} did not start within {now - started.at:.0f} s; {why}"
            self._log.warning("membership", job=started.job.value, why=why)
        started.asked_at = self._clock()
        return True

    def _over(self, started: _Started, progress: Progress) -> None:
        self._started = None
        if progress.phase is JobPhase.DONE:
            self._backoff.reset()
            self._log.info("membership", job=progress.job.value, why=progress.sentence)
            self._answer(protocol.EXIT_DONE, progress.sentence, started.job)
            return
        why = (
            progress.why
            if progress.phase is JobPhase.FAILED
            else f"it was killed during: {progress.sentence}"
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
        """Stop a join that a changed configuration, or an operator's reset, has made obsolete."""
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
        why = "an operator asks for a reset" if overtaken else "the configuration has changed"
        self._log.info("membership", job=job.value, why=f"stopped: {why}")
        self._board.withdraw()
        await self._jobs.end(UNITS[job])
        self._started = None
        self._retry_at = 0.0
        self._answer(protocol.EXIT_FAILED, f"stopped: {why}", job)
        self._bell.set()

    # ---- starting a job -------------------------------------------------------------------------

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
        """Start what the configuration asks for, when its time has come."""
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
        # Before the first wait: from here on the job controls the kubelet.
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
        """Stop a process of the unit that has released the lock.

        Its work is done, but for systemd the unit is still starting: another start would be merged with that one, and
        start no job.
        """
        with suppress(Unavailable):
            if await self._jobs.pending(unit) and not self._board.working():
                await self._jobs.end(unit)

    def _say_once(self, event: str, why: str) -> None:
        if why != self._said:
            self._log.warning(event, why=why)
            self._said = why
