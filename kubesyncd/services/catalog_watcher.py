"""Watch the package server, and request an installation when this node lacks what it wants.

Knows the rules (`catalog`) and ports; installs nothing itself. The daemon runs in a sandbox that cannot write units;
the unit that it starts, `kubesync package sync`, does not. Without a configured url this watcher is not created.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.ports import PortError
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.services import catalog
from kubesyncd.services.catalog import Unusable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kubesyncd.ports import Jobs
    from kubesyncd.runtime.context import Runtime
    from kubesyncd.services.catalog import PackageStep
    from kubesyncd.services.catalog_source import CatalogSource

# After a start, or after the power returned to a whole fleet, the first check is at a random time within this.
FIRST_S_MAX = 60.0
RETRY_S = 15.0
RETRY_S_MAX = 3600.0
# An interval is stretched or shortened by this much, so that a fleet does not ask all at once.
SPREAD = 0.2


class CatalogWatcher:
    """Check repeatedly, and start `unit` when this node lacks what it wants. `run()` runs for the daemon's lifetime.

    `labels`: the own Node's; None while they are unknown, and then nothing is installed or removed. `installed`:
    SHA-256 of each service's archive by name, as for `catalog.plan`.
    """

    def __init__(
        self,
        source: CatalogSource,
        *,
        labels: Callable[[], Mapping[str, str] | None],
        installed: Callable[[], Awaitable[Mapping[str, str]]],
        jobs: Jobs,
        unit: str,
        interval_s: float,
        runtime: Runtime,
    ) -> None:
        self._source = source
        self._labels = labels
        self._installed = installed
        self._jobs = jobs
        self._unit = unit
        self._interval_s = interval_s
        self._runtime = runtime
        self._alerts = runtime.alert_log(unit)
        self._backoff = Backoff(runtime.rng, RETRY_S, RETRY_S_MAX)
        # The last request, and until when it is not repeated: an installation may fail each time.
        self._asked: tuple[PackageStep, ...] = ()
        self._asked_until = 0.0
        self._again = Backoff(runtime.rng, interval_s, RETRY_S_MAX)

    async def run(self) -> None:
        """Run the loop. Never returns."""
        await asyncio.sleep(self._runtime.rng.uniform(0.0, min(FIRST_S_MAX, self._interval_s)))
        while True:
            wait_s = await self.check()
            await asyncio.sleep(wait_s)

    async def check(self) -> float:
        """Check once; return the seconds until the next check."""
        try:
            await self._compare()
        except (PortError, Unusable) as error:
            self._alerts.warn("packages", str(error))
            return self._backoff.next_s()
        self._backoff.reset()
        return self._interval_s * self._runtime.rng.uniform(1 - SPREAD, 1 + SPREAD)

    async def _compare(self) -> None:
        metadata = await self._source.fetch()
        labels = self._labels()
        if labels is None:
            self._alerts.warn(
                "packages", "the labels of this node are not known, so nothing is installed or removed"
            )
            return
        self._alerts.warn("packages", "; ".join(metadata.problems))
        steps = catalog.plan(metadata, labels, await self._installed())
        if not steps:
            self._asked, self._asked_until = (), 0.0
            self._again.reset()
        elif steps != self._asked or self._runtime.clock() >= self._asked_until:
            await self._ask(steps)

    async def _ask(self, steps: tuple[PackageStep, ...]) -> None:
        if steps != self._asked:
            self._again.reset()
        self._runtime.log.info("packages", action=f"start {self._unit}", steps=[str(step) for step in steps])
        await self._jobs.begin(self._unit)
        self._asked, self._asked_until = steps, self._runtime.clock() + self._again.longest_s()
