"""Bundle what every long-running part of a process needs: clocks, randomness, a log, alerts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubesyncd.runtime.alerts import AlertLog, Alerts
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.runtime.kube_names import KubeNames

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.model import Timing


@dataclass(frozen=True, slots=True)
class Runtime:
    """`clock`: BOOTTIME seconds; `wall`: seconds since the epoch. `kube_names`: whose is each name in Kubernetes."""

    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: Random
    log: FilteringBoundLogger
    alerts: Alerts = field(default_factory=Alerts)
    kube_names: KubeNames = field(default_factory=KubeNames)

    def backoff(self, timing: Timing) -> Backoff:
        """Create a backoff with the configured limits."""
        return Backoff(self.rng, timing.backoff_s, timing.backoff_s_max)

    def alert_log(self, whom: str, log: FilteringBoundLogger | None = None) -> AlertLog:
        """Return a log of the problems of component `whom`; `log`: its own, where it has one."""
        return AlertLog(self.alerts, whom, log or self.log, self.clock)
