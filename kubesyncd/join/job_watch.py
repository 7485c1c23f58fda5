"""Start the systemd unit of a join or reset, follow the job until it ends, and stop it.

Knows systemd and the files that the daemon and a job exchange; knows no configuration and no operator.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from kubesyncd.join.plan import Job
from kubesyncd.join.progress import JobPhase
from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from kubesyncd.join.progress import Progress
    from kubesyncd.ports import Jobs
    from kubesyncd.runtime.context import Runtime

UNITS = {Job.JOIN: "kubesyncd-join.service", Job.RESET: "kubesyncd-reset.service"}
# How often a running job is checked: one file and one lock.
LOOK_S = 0.5
# A unit that has not taken its request by then may never start: systemd is asked, then and again after each pause.
START_S_MAX = 20.0
ASK_AGAIN_S = 5.0
# While systemd does not answer, a job may still start for as long as its unit's TimeoutStartSec=.
SILENT_S_MAX = 660.0


class JobFiles(Protocol):
    """The files that the daemon and a running job exchange. Raises Unavailable."""

    def progress(self) -> Progress | None:
        """Read the progress of the last job of this boot."""

    def working(self) -> bool:
        """Return whether a job is running."""

    def request(self, *, force: bool) -> None:
        """Write the request for the next job."""

    @property
    def requested(self) -> bool:
        """Whether a request waits for its job."""

    def withdraw(self) -> None:
        """Withdraw the request."""


@dataclass(slots=True)
class StartedJob:
    """A job requested from systemd, or found running.

    `before`: progress of an older job. `asked_at`: when systemd last said that the unit is still to start.
    """

    job: Job
    master: str
    at: float
    before: Progress | None = None
    asked_at: float | None = None


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job. `reported`: the job itself has written it; without it, the job never began or was killed."""

    job: Job
    succeeded: bool
    why: str
    reported: bool


class JobWatch:
    """The one job that may be running."""

    def __init__(self, jobs: Jobs, files: JobFiles, runtime: Runtime) -> None:
        self._jobs = jobs
        self._files = files
        self._clock = runtime.clock
        self._log = runtime.log
        self._started: StartedJob | None = None
        self._working = False

    @property
    def active(self) -> bool:
        """Whether a job is running or about to start."""
        return self._working or self._started is not None

    def sentence(self) -> str:
        """Return the running job's progress for operators; empty where none is running."""
        with suppress(Unavailable):
            progress = self._files.progress()
            if progress is not None and self._working:
                return progress.sentence
        return ""

    def current(self) -> tuple[Job, str] | None:
        """Return the active job and its master (`ip:port`); None where they are unknown. Raises Unavailable."""
        started, progress = self._started, self._files.progress()
        if started is not None:
            return started.job, started.master
        return None if progress is None else (progress.job, progress.master)

    # ---- following ------------------------------------------------------------------------------

    async def look(self) -> JobEnd | None:
        """Follow the job; return its end once. A job started before the daemon, or by an operator, is adopted.

        Order of the checks: a job takes the lock, then its request, then reports. When the request is gone and the lock
        is free, the job's last report is visible too. Raises Unavailable.
        """
        requested = self._files.requested
        self._working = self._files.working()
        progress, started = self._files.progress(), self._started
        if self._working:
            if started is None and progress is not None and progress.phase is JobPhase.RUNNING:
                self._started = StartedJob(progress.job, progress.master, progress.begun_at)
            return None
        if started is None:
            return None
        if progress is not None and progress != started.before and progress.begun_at >= started.at:
            self._started = None
            return _reported_end(started.job, progress)
        if not requested:
            return self._unreported_end(started, "it ended without a report")
        if not await self._to_come(started) and self._files.requested:
            # A job that started and ended while systemd was asked is left to the next pass.
            self._files.withdraw()
            return self._unreported_end(
                started, f"it did not start within {self._clock() - started.at:.0f} s"
            )
        return None

    def _unreported_end(self, started: StartedJob, why: str) -> JobEnd:
        self._started = None
        unit = UNITS[started.job]
        text = f"{unit}: {why}; see journalctl -u {unit}"
        return JobEnd(started.job, succeeded=False, why=text, reported=False)

    async def _to_come(self, started: StartedJob) -> bool:
        """Return whether a unit that has not taken its request yet will still start.

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

    # ---- starting and stopping ------------------------------------------------------------------

    async def begin(self, job: Job, master: str, *, force: bool) -> None:
        """Start the job's unit. Raises PortError; the job is not active then."""
        started = StartedJob(job, master, self._clock(), self._files.progress())
        # Before the first wait: from here on the job controls the kubelet.
        self._started = started
        try:
            await self._end_lingering(UNITS[job])
            started.at, started.before = self._clock(), self._files.progress()
            self._files.request(force=force)
            await self._jobs.begin(UNITS[job])
        except PortError:
            self._started = None
            self._files.withdraw()
            raise

    async def _end_lingering(self, unit: str) -> None:
        """Stop a process of the unit that has released the lock.

        Its work is done, but for systemd the unit is still starting: another start would be merged with that one, and
        start no job.
        """
        with suppress(Unavailable):
            if await self._jobs.pending(unit) and not self._files.working():
                await self._jobs.end(unit)

    async def stop(self, job: Job) -> None:
        """Withdraw the request and stop the job's unit. Raises Refused, Unavailable."""
        self._files.withdraw()
        await self._jobs.end(UNITS[job])
        self._started = None


def _reported_end(job: Job, progress: Progress) -> JobEnd:
    match progress.phase:
        case JobPhase.DONE:
            return JobEnd(job, succeeded=True, why=progress.sentence, reported=True)
        case JobPhase.FAILED:
            return JobEnd(job, succeeded=False, why=progress.why, reported=True)
        case JobPhase.RUNNING:
            why = f"it was killed during: {progress.sentence}"
            return JobEnd(job, succeeded=False, why=why, reported=True)
        case _:
            assert_never(progress.phase)
