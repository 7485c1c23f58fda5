"""Find out that the units of features have ended, whatever their scripts have said.

A script may call no `stop`: SONiC's looks for a running container first, and a feature that waits for Kubernetes has
none; and a script can be killed. A unit's ExecStopPost tells that it ends. systemd is then asked until it has ended, or
is started again: what counts is systemd's own word. Once in `audit_s` it is asked for all units, in case it was not
told: the daemon may have been down. Only a unit with our ExecStopPost counts: one that just starts a container by
`container start` ends at once, and the container stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.feature_unit import UnitEnd, UnitPhase, runs_feature
from kubesyncd.ports import Unavailable
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.core.model import Timing
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Units
    from kubesyncd.runtime.context import Runtime

# Time until systemd is asked about a unit whose ExecStopPost runs; it doubles while the unit ends.
LOOK_S = 0.05
LOOK_S_MAX = 5.0
# After this time only the audit asks: longer than a unit may take to stop.
HEARD_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class _Ending:
    feature: str
    until: float


class UnitWatch:
    """Asks systemd about the units of features that are up, and tells the reconcilers of those that have ended."""

    def __init__(self, reconcilers: Reconcilers, units: Units, timing: Timing, runtime: Runtime) -> None:
        self._reconcilers = reconcilers
        self._units = units
        self._audit_s = timing.audit_s
        self._clock = runtime.clock
        self._alerts = runtime.alert_log("units")
        # By unit.
        self._heard: dict[str, _Ending] = {}
        self._wake = asyncio.Event()
        # The first look finds the units that have ended while no daemon ran.
        self._audit_at = 0.0
        self._look_at = 0.0
        self._delay_s = LOOK_S

    def hear(self, feature: str, unit: str) -> None:
        """Note that this unit says that it ends; one that is not the feature's is ignored."""
        reconciler = self._reconcilers.known(feature)
        if reconciler is None:
            return
        units = (unit,) if runs_feature(unit, feature) else reconciler.units
        if units:
            now = self._clock()
            look_at = now + LOOK_S
            self._look_at = min(self._look_at, look_at) if self._heard else look_at
            self._delay_s = LOOK_S
            self._heard |= dict.fromkeys(units, _Ending(feature, now + HEARD_S_MAX))
            self._wake.set()

    async def run(self) -> None:
        """Ask systemd, for the daemon's lifetime."""
        while True:
            units = self._due()
            if units:
                await self._look(units)
            ahead = min((self._audit_at, self._look_at) if self._heard else (self._audit_at,))
            await woken(self._wake, max(0.0, ahead - self._clock()))

    def _due(self) -> dict[str, str]:
        """Return the units to be asked about now, with their features."""
        now = self._clock()
        due: dict[str, str] = {}
        if now >= self._audit_at:
            self._audit_at = now + self._audit_s
            due = {unit: reconciler.name for reconciler in self._reconcilers for unit in reconciler.units}
        self._heard = {unit: ending for unit, ending in self._heard.items() if now < ending.until}
        if self._heard and now >= self._look_at:
            self._delay_s = min(2 * self._delay_s, LOOK_S_MAX)
            self._look_at = now + self._delay_s
            due |= {unit: ending.feature for unit, ending in self._heard.items()}
        return due

    async def _look(self, units: Mapping[str, str]) -> None:
        looked_at = self._clock()
        try:
            looks = await self._units.phases(tuple(units))
        except Unavailable as error:
            self._alerts.fails("units", error)
            return
        self._alerts.answers("units")
        ends: dict[str, UnitEnd] = {}
        # Of several units that may run a feature, the first one with our ExecStopPost does.
        running: set[str] = set()
        for (unit, feature), look in zip(units.items(), looks, strict=True):
            if look.phase is UnitPhase.ENDING:
                self._heard.setdefault(unit, _Ending(feature, looked_at + HEARD_S_MAX))
                running.add(feature)
                continue
            heard = self._heard.get(unit)
            # Heard since, it is asked about again.
            if heard is not None and heard.until <= looked_at + HEARD_S_MAX:
                del self._heard[unit]
            if look.phase is UnitPhase.RUNS:
                running.add(feature)
            elif look.phase is UnitPhase.ENDED and feature not in running:
                ends.setdefault(feature, UnitEnd(unit, looked_at, look.ended_at, heard=heard is not None))
        await asyncio.gather(*(self._tell(feature, end) for feature, end in ends.items()))

    async def _tell(self, feature: str, end: UnitEnd) -> None:
        reconciler = self._reconcilers.known(feature)
        if reconciler is not None:
            await reconciler.unit_ended(end)
