"""Start and stop the kubelet as the controller decides.

Knows systemd's port and the backoff; does not know why the kubelet should run or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.cluster.node_registration import NodeRegistration
from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from kubesyncd.core.model import Timing
    from kubesyncd.ports import Units
    from kubesyncd.runtime.context import Runtime

NOT_SWITCHED = "kubelet_not_switched"
FAILING = "kubelet_failing"


class KubeletGate:
    """Brings the kubelet's unit into the desired state: observe, start or stop, observe again.

    `trouble`: why it is not in that state, or does not run well in it, with what to type; empty where all is well.
    `registration`: restarts it where its Node was deleted.
    """

    def __init__(self, units: Units, *, timing: Timing, runtime: Runtime) -> None:
        self._units = units
        self._backoff = runtime.backoff(timing)
        self._clock = runtime.clock
        self._log = runtime.log
        self._alerts = runtime.alert_log("kubelet")
        self._ruled: bool | None = None
        self.running: bool | None = None
        self.trouble = ""
        self.stale = True
        # A delivered label asks whether the kubelet runs; how well it runs is asked at audits.
        self._unexamined = True
        self.retry_at: float | None = None
        self.registration = NodeRegistration(units, runtime)

    def audit(self) -> None:
        """Have the next `rule` observe the unit, and how well it runs."""
        self.stale = self._unexamined = True

    async def rule(self, run: bool, why: str) -> None:
        """Start or stop the kubelet. A failure is logged once and tried again from `retry_at` on."""
        if run is not self._ruled:
            self._ruled, self.retry_at = run, None
            self.audit()
        if not self.stale or (self.retry_at is not None and self._clock() < self.retry_at):
            return
        try:
            await self._make(run, why)
        except PortError as error:
            self.trouble, self._unexamined = await self._trouble(run) or str(error), True
            self._alerts.begin(
                NOT_SWITCHED, f"{error}; kubelet to be {'started' if run else 'stopped'}: {why}"
            )
            self.retry_at = self._clock() + self._backoff.next_s()
        else:
            self._backoff.reset()
            self._alerts.end(NOT_SWITCHED)
            self.stale, self.retry_at = False, None
            if self._unexamined:
                await self._examine(run)

    async def keep_registered(self, *, gone: bool) -> None:
        """Restart the kubelet where its Node is `gone` from the master, unless it may not run."""
        await self.registration.look(gone=gone, kubelet=self.running is True and self._ruled is True)

    async def _examine(self, run: bool) -> None:
        """Ask how well the kubelet runs; one alert until it runs well."""
        self._unexamined = False
        self.trouble = await self._trouble(run)
        if self.trouble:
            self._alerts.begin(FAILING, self.trouble)
        else:
            self._alerts.end(FAILING)

    async def _trouble(self, run: bool) -> str:
        """Return why a kubelet that should run does not run well; empty where that is not known."""
        try:
            return await self._units.kubelet_trouble() if run else ""
        except PortError:
            return ""

    async def _make(self, run: bool, why: str) -> None:
        self.running = await self._units.kubelet_running()
        if self.running is run:
            return
        begun = self._clock()
        await (self._units.start_kubelet() if run else self._units.stop_kubelet())
        self.running = await self._units.kubelet_running()
        if self.running is not run:
            raise Unavailable(
                "systemd",
                f"the kubelet is {'not ' * run}active right after it was {'started' if run else 'stopped'}",
            )
        self._unexamined = True
        took_ms = round((self._clock() - begun) * 1000)
        self._log.info("kubelet", action="start" if run else "stop", why=why, took_ms=took_ms)
