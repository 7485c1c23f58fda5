"""Carry out a plan step by step, each with its deadline, and record each outcome before the next step begins.

Knows no kubeadm, no master and no file: the join steps (`join.steps`) do the work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from kubesyncd.join.plan import STEP_S_MAX, Job, JobStep
from kubesyncd.join.progress import DETAIL_MAX, JobPhase, Progress, StepReport
from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.join.plan import JobPlan

SERVICE = "join"


class JoinSteps(Protocol):
    """The implementation of the join steps."""

    async def do(self, step: JobStep) -> str:
        """Do the step; return a detail for operators, or an empty text. Raises PortError."""


class JobRunner:
    """Run one job. `report` gets every change of its progress; `clock`: BOOTTIME seconds."""

    def __init__(
        self,
        steps: JoinSteps,
        report: Callable[[Progress], None],
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._steps = steps
        self._report = report
        self._clock = clock
        self._log = log

    async def carry_out(self, plan: JobPlan, progress: Progress) -> Progress:
        """Carry `plan` out. Return how it ended. Only cancellation is raised, and is reported first."""
        try:
            return await self._carry_out(plan, progress)
        except asyncio.CancelledError:
            why = "stopped: the configuration asks for something else now, or the unit was stopped"
            self._report(progress.ended(JobPhase.FAILED, why, self._clock()))
            raise

    async def _carry_out(self, plan: JobPlan, progress: Progress) -> Progress:
        for task in plan.tasks:
            progress, error = await self._step(task.step, progress)
            if error is None:
                continue
            if not task.may_fail:
                if any(done.step in (JobStep.CLEAN, JobStep.JOIN) for done in progress.steps):
                    progress = await self._undo(plan.undo, progress)
                return self._ended(progress, JobPhase.FAILED, f"{task.step.value}: {error.detail}")
            progress = progress.leaving_over(f"{task.step.value}: {error.detail}")
        return self._ended(progress, JobPhase.DONE, _success(plan, progress))

    async def _undo(self, steps: tuple[JobStep, ...], progress: Progress) -> Progress:
        """Undo a partial join: the next join would fail on its leftovers."""
        for step in steps:
            progress, _ = await self._step(step, progress)
        return progress

    async def _step(self, step: JobStep, progress: Progress) -> tuple[Progress, PortError | None]:
        self._report(progress.at(step))
        begun = self._clock()
        error: PortError | None = None
        try:
            async with asyncio.timeout(STEP_S_MAX[step]):
                detail = await self._steps.do(step)
        except TimeoutError:
            error = Unavailable(SERVICE, f"not done within {STEP_S_MAX[step]:g} s")
        except PortError as failed:
            error = failed
        if error is not None:
            detail = error.detail
        took_s = round(self._clock() - begun, 2)
        log = self._log.warning if error is not None else self._log.info
        log("step", step=step.value, ok=error is None, took_ms=round(took_s * 1000), why=detail)
        progress = progress.over(StepReport(step, error is None, took_s, detail[:DETAIL_MAX]))
        self._report(progress)
        return progress, error

    def _ended(self, progress: Progress, phase: JobPhase, why: str) -> Progress:
        progress = progress.ended(phase, why, self._clock())
        self._report(progress)
        log = self._log.info if phase is JobPhase.DONE else self._log.error
        log("ended", job=progress.job.value, phase=phase.value, why=why, left_over=progress.left_over)
        return progress


def _success(plan: JobPlan, progress: Progress) -> str:
    if not plan.tasks:
        return plan.why
    if progress.job is Job.JOIN:
        return f"joined {progress.master}"
    return "left the master" if not progress.left_over else "left the master as far as possible"
