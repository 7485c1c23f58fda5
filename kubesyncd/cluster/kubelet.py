"""Start and stop the kubelet as the controller decides.

Knows systemd's port and the backoff; does not know why the kubelet should run or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.ports import PortError, Unavailable

if TYPE_CHECKING:
    from kubesyncd.core.model import Timing
    from kubesyncd.ports import Units
    from kubesyncd.runtime.context import Runtime

NOT_SWITCHED = "kubelet_not_switched"


class KubeletGate:
    """Brings the kubelet's unit into the desired state: observe, start or stop, observe again."""

    def __init__(self, units: Units, *, timing: Timing, runtime: Runtime) -> None:
        self._units = units
        self._backoff = runtime.backoff(timing)
        self._clock = runtime.clock
        self._log = runtime.log
        self._alerts = runtime.alert_log("kubelet")
        self._ruled: bool | None = None
        self.running: bool | None = None
        self.stale = True
        self.retry_at: float | None = None

    async def rule(self, run: bool, why: str) -> None:
        """Start or stop the kubelet. A failure is logged once and tried again from `retry_at` on."""
        if run is not self._ruled:
            self._ruled, self.stale, self.retry_at = run, True, None
        if not self.stale or (self.retry_at is not None and self._clock() < self.retry_at):
            return
        try:
            await self._make(run, why)
        except PortError as error:
            self._alerts.begin(
                NOT_SWITCHED, f"{error}; kubelet to be {'started' if run else 'stopped'}: {why}"
            )
            self.retry_at = self._clock() + self._backoff.next_s()
        else:
            self._backoff.reset()
            self._alerts.end(NOT_SWITCHED)
            self.stale, self.retry_at = False, None

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
        took_ms = round((self._clock() - begun) * 1000)
        self._log.info("kubelet", action="start" if run else "stop", why=why, took_ms=took_ms)
