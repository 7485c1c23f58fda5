"""Start joins and resets at the right time, and act on the end of each one.

Knows ports and the pure rules of `join.plan`. Performs no join itself: a job is a separate systemd unit, so that
neither a restart nor a crash of the daemon interrupts it.

One coroutine. A caller stores its request and wakes the coroutine.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core import protocol
from kubesyncd.join.departure import Departure
from kubesyncd.join.job_watch import LOOK_S, JobFiles, JobWatch
from kubesyncd.join.operator_requests import OperatorRequests
from kubesyncd.join.plan import Job, address, due, outdated, plan_join
from kubesyncd.join.progress import describe
from kubesyncd.join.schedule import JoinSchedule
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.descriptions import JobDescription
    from kubesyncd.core.model import MasterConfig
    from kubesyncd.core.verbs import Outcome
    from kubesyncd.join.job_watch import JobEnd
    from kubesyncd.join.operator_requests import OperatorRequest
    from kubesyncd.join.plan import Found
    from kubesyncd.ports import FeatureStore, Jobs
    from kubesyncd.runtime.context import Runtime
    from kubesyncd.settings import KubeSettings

NO_PACKAGES = "the Kubernetes packages are not installed; install kubesyncd-kube"


class MembershipFiles(JobFiles, Protocol):
    """The files of a job, and those that outlive it. Raises Unavailable."""

    def found(self) -> Found:
        """Read what a join has left on this switch."""

    def forget_membership(self) -> None:
        """Clear an operator's reset."""

    @property
    def purge_due(self) -> bool:
        """Whether a reset asks to clear the queued labels."""

    def purged(self) -> None:
        """Record that the queued labels are cleared."""


class MembershipListener(Protocol):
    """The cluster coroutine, as far as a membership concerns it."""

    def wake(self) -> None:
        """Check the membership again: joined or left."""

    async def purge(self) -> None:
        """Clear all labels. Raises Unavailable."""


class JoinController:
    """Start joins and resets, and act on their ends. Run `run()` once.

    `loaded`: whether CONFIG_DB is known to be complete. `able`: whether the Kubernetes packages are installed; without
    them no job starts, and only an operator's request is answered. `name_problem`: why this switch cannot join under
    its name, or empty.
    """

    def __init__(
        self,
        *,
        store: FeatureStore,
        jobs: Jobs,
        files: MembershipFiles,
        kube: KubeSettings,
        loaded: Callable[[], bool],
        runtime: Runtime,
        able: Callable[[], bool] = lambda: True,
        name_problem: Callable[[], str] = lambda: "",
    ) -> None:
        self._store = store
        self._files = files
        self._loaded = loaded
        self._able = able
        self._name_problem = name_problem
        self._clock = runtime.clock
        self._log = runtime.log
        self._alerts = runtime.alert_log("join")
        self._changed = asyncio.Event()
        self._changed.set()  # the first pass needs no request
        self._schedule = JoinSchedule(kube, runtime)
        self._watch = JobWatch(jobs, files, runtime)
        self._requests = OperatorRequests(self._changed.set, self._watch.sentence)
        self._config: MasterConfig | None = None
        self._departure = Departure(runtime.clock, self._changed.set)

    # ---- for other components -------------------------------------------------------------------

    @property
    def joining(self) -> bool:
        """Whether a join or reset is running or about to: the job controls the kubelet then, not the daemon."""
        return self._watch.active or self._departure.waits

    @property
    def leaving(self) -> bool:
        """Whether a reset is about to begin, or runs: features that may run locally do so now."""
        return self._departure.active

    def fits(self) -> bool:
        """Return whether the kubelet's credential exists and belongs to the configured master."""
        try:
            found = self._files.found()
        except Unavailable:
            return False
        return found.credential and (
            self._config is None or not self._config.ip or found.belongs_to(self._config)
        )

    def wake(self) -> None:
        """Handle a possible change of the configuration or of a file."""
        self._changed.set()

    def status(self) -> JobDescription:
        """Describe the last job of this boot; empty if there was none."""
        try:
            progress = self._files.progress()
        except Unavailable:
            progress = None
        if progress is None:
            return {}
        return describe(
            progress, self._clock(), running=self._watch.active, retry_in_s=self._schedule.retry_in_s
        )

    async def ask(self, job: Job, *, force: bool, say: Callable[[str], None]) -> Outcome:
        """Run an operator's join or reset and wait for its end; `say` gets each new step."""
        return await self._requests.ask(job, force=force, say=say)

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self, listener: MembershipListener, returning: Callable[[], tuple[str, ...]]) -> None:
        """Run the loop; `listener` is told of joins and resets. Never returns.

        `returning`: the features that have to return to their local container before a reset.
        """
        while True:
            await woken(self._changed, LOOK_S if self.joining else self._schedule.idle_s())
            leaving = self.leaving
            try:
                await self._turn(listener, returning)
            except PortError as error:
                self._alerts.warn("membership", str(error))
                self._schedule.unreadable()
            else:
                self._alerts.warn("membership", "")
            self._departure.end_unless_kept()
            if self.leaving is not leaving:
                listener.wake()

    async def _turn(self, listener: MembershipListener, returning: Callable[[], tuple[str, ...]]) -> None:
        config = await self._configuration()
        await self._purge_if_due(listener)
        end = await self._watch.look()
        if end is not None:
            if end.reported:
                listener.wake()
            self._ended(end)
        if self._watch.active:
            self._keep_leaving()
            await self._stop_if_outdated(config)
            return
        found = self._files.found()
        if not (config.wanted or config.problems) and found.membership is not None and not found.credential:
            # The master was disabled or unset meanwhile: an operator's reset no longer applies.
            self._files.forget_membership()
        request = self._requests.current
        resets = (due(config, found)[0] if request is None else request.job) is Job.RESET
        if resets and not self._departure.ready(returning()):
            return
        if request is not None:
            await self._begin_requested(request, config, found)
            return
        await self._begin_due(config, found)

    def _keep_leaving(self) -> None:
        """Go on with the departure while a reset runs, also one that began before this daemon."""
        current = self._watch.current()
        if current is not None and current[0] is Job.RESET:
            self._departure.keep()

    async def _configuration(self) -> MasterConfig:
        """Read the configuration; return the last known one while Redis does not answer."""
        known, loaded = self._config, self._loaded()
        try:
            config = await self._store.master()
        except PortError:
            if known is None:
                raise
            return known
        if known is not None and config != known:
            self._schedule.changed(by_operator=loaded)
        self._config = config
        return config

    async def _purge_if_due(self, listener: MembershipListener) -> None:
        if self._files.purge_due:
            await listener.purge()
            self._files.purged()

    # ---- the end of a job -----------------------------------------------------------------------

    def _ended(self, end: JobEnd) -> None:
        if not end.succeeded:
            self._failed(end.job, end.why)
            return
        self._schedule.succeeded()
        self._log.info("membership", job=end.job.value, why=end.why)
        self._requests.answer(protocol.EXIT_DONE, end.why, end.job)

    def _failed(self, job: Job, why: str) -> None:
        retry_s = self._schedule.failed()
        self._log.error("membership", job=job.value, why=why, retry_in_s=round(retry_s, 1))
        self._requests.answer(protocol.EXIT_FAILED, why, job)

    async def _stop_if_outdated(self, config: MasterConfig) -> None:
        """Stop a join that a changed configuration, or an operator's reset, has made obsolete."""
        current = self._watch.current()
        if current is None:
            return
        job, master = current
        request = self._requests.current
        overtaken = request is not None and request.job is Job.RESET and job is Job.JOIN
        if not overtaken and not outdated(config, job, master):
            return
        why = "an operator asks for a reset" if overtaken else "the configuration has changed"
        self._log.info("membership", job=job.value, why=f"stopped: {why}")
        await self._watch.stop(job)
        self._schedule.retry_now()
        self._requests.answer(protocol.EXIT_FAILED, f"stopped: {why}", job)
        self._changed.set()

    # ---- starting a job -------------------------------------------------------------------------

    async def _begin_requested(self, request: OperatorRequest, config: MasterConfig, found: Found) -> None:
        """Start what an operator asks for, or answer why it does not start."""
        if request.job is Job.JOIN:
            if not self._able():
                self._requests.answer(protocol.EXIT_FAILED, NO_PACKAGES)
                return
            try:
                plan = plan_join(config, found, force=request.force, name_problem=self._name_problem())
            except Refused as error:
                self._requests.answer(protocol.EXIT_FAILED, error.detail)
                return
            if not plan.tasks:
                self._requests.answer(protocol.EXIT_DONE, plan.why)
                return
        try:
            await self._begin(request.job, config, "an operator asks for it", force=request.force)
        except PortError as error:
            self._requests.answer(protocol.EXIT_UNAVAILABLE, f"{error}; try again")

    async def _begin_due(self, config: MasterConfig, found: Found) -> None:
        """Start what the configuration asks for, when its time has come."""
        problem = self._name_problem()
        job, why = due(config, found, problem)
        # No alert: at the first boot of an image the host gets its name seconds after the daemon's start.
        self._alerts.warn("join_refused", problem if why == problem else "")
        if job is None or self._schedule.retry_in_s > 0 or not self._able():
            return
        if job is Job.JOIN and self._schedule.spreads:
            self._alerts.warn("join_waits", f"{why}; the fleet does not join all at once after a boot")
            return
        try:
            await self._begin(job, config, why, force=False)
        except PortError as error:
            self._failed(job, str(error))

    async def _begin(self, job: Job, config: MasterConfig, why: str, *, force: bool) -> None:
        """Start the unit. Raises PortError."""
        master = address(config) if config.ip else ""
        await self._watch.begin(job, master, force=force)
        self._log.info("membership", job=job.value, master=master, force=force, why=why)
