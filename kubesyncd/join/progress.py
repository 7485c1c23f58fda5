"""Represent the progress of a join or reset: a small value that the job writes, and daemon and operators read.

Pure; decoding never raises. Times are BOOTTIME seconds, and the file does not outlive a boot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.join.plan import Job, JobStep  # noqa: TC001 - the codec reads the annotation
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from kubesyncd.core.descriptions import JobDescription

FILE = "join.json"
REQUEST_FILE = "join.request"
LOCK_FILE = "join.lock"
DETAIL_MAX = 600
LEFT_OVER_MAX = 8


class JobPhase(StrEnum):
    """Phase of a job."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepReport:
    """A finished step. `detail`: its result or, where it failed, the reason."""

    step: JobStep
    ok: bool
    took_s: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """One job, from its start to its end and after. `master`: `ip:port`, empty where none is configured."""

    job: Job
    master: str
    force: bool
    begun_at: float
    phase: JobPhase = JobPhase.RUNNING
    step: JobStep | None = None
    steps: tuple[StepReport, ...] = ()
    left_over: tuple[str, ...] = ()
    why: str = ""
    ended_at: float | None = None

    def at(self, step: JobStep) -> Progress:
        """Return the progress with `step` running."""
        return replace(self, step=step)

    def over(self, done: StepReport) -> Progress:
        """Return the progress with the step finished."""
        return replace(self, step=None, steps=(*self.steps, done))

    def leaving_over(self, what: str) -> Progress:
        """Return the progress with one item left over; the job continues."""
        return replace(self, left_over=(*self.left_over, what)[:LEFT_OVER_MAX])

    def ended(self, phase: JobPhase, why: str, at: float) -> Progress:
        """Return the progress of the ended job."""
        return replace(self, phase=phase, step=None, why=why, ended_at=at)

    @property
    def sentence(self) -> str:
        """One line for operators."""
        if self.phase is JobPhase.RUNNING:
            return f"{self.job.value}: {self.step.value if self.step else 'begins'}"
        left = f"; left over: {', '.join(self.left_over)}" if self.left_over else ""
        return f"{self.why}{left}"


def describe(progress: Progress, now: float, *, running: bool, retry_in_s: float) -> JobDescription:
    """Describe the job for the daemon's status. Without `running`, a job that has not ended was killed."""
    ended = progress.ended_at
    return {
        "job": progress.job.value,
        "phase": progress.phase.value if running or ended is not None else JobPhase.FAILED.value,
        "master": progress.master,
        "forced": progress.force,
        "says": progress.sentence,
        "left_over": list(progress.left_over),
        "since_s": round(now - (progress.begun_at if ended is None else ended), 1),
        "retry_in_s": round(retry_in_s, 1),
        "steps": [
            {"step": d.step.value, "ok": d.ok, "took_s": d.took_s, "detail": d.detail} for d in progress.steps
        ],
    }


def encode(progress: Progress) -> bytes:
    """Encode as a file's content."""
    return codec.encode(progress)


def decode(data: bytes | None) -> Progress | None:
    """Decode a file; None where it is missing or unreadable. Never raises."""
    try:
        return codec.decode(Progress, data or b"")
    except Undecodable:
        return None
