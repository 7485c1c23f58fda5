"""Run the host's own check scripts on kube features, at intervals.

Knows the hooks' port and the reconcilers; decides nothing: a failing check is a complaint, a check that succeeds again
withdraws it. `check.d/snmp` and `check.d/snmp.anything` get the feature's name and the ID of the kube container that
owns it. Local containers are not checked: SONiC uses monit, and local behaviour depends on no service (promise S3).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core.health import Complaint
from kubesyncd.core.model import Owner
from kubesyncd.core.record import hear, project
from kubesyncd.ports import PortError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kubesyncd.core.model import Timing
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Hooks
    from kubesyncd.runtime.context import Runtime

FOLDER = "check.d"
# Checks are programs of the operator: at most so many run at a time.
AT_ONCE_MAX = 4


class Checks:
    """Runs every check of every kube-owned feature once in `check_every_s`."""

    def __init__(self, hooks: Hooks, reconcilers: Reconcilers, timing: Timing, runtime: Runtime) -> None:
        self._hooks = hooks
        self._reconcilers = reconcilers
        self._timing = timing
        self._rng = runtime.rng
        self._log = runtime.log
        self._failed: dict[tuple[str, str], int] = {}
        self._alerts = runtime.alert_log("checks")

    async def run(self) -> None:
        """Run the checks at intervals. Never returns."""
        while True:
            await asyncio.sleep(self._timing.check_every_s * self._rng.uniform(0.9, 1.1))
            await self._round()

    async def _round(self) -> None:
        """Run every check that is due, at most `AT_ONCE_MAX` at a time."""
        names = self._hooks.names(FOLDER)
        due = [
            (reconciler, owner, name)
            for reconciler, owner in self._owned()
            for name in names
            if name.split(".")[0] == reconciler.name
        ]
        self._failed = {key: self._failed.get(key, 0) for key in ((owner, name) for _, owner, name in due)}
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(reconciler: Reconciler, container_id: str, name: str) -> None:
            async with slots:
                await self._check(reconciler, container_id, name)

        await asyncio.gather(*(one(*each) for each in due))

    def _owned(self) -> Iterable[tuple[Reconciler, str]]:
        for reconciler in self._reconcilers:
            if reconciler.view is not None:
                row = project(reconciler.view.record, reconciler.view.observed)
                if row.current_owner is Owner.KUBE:
                    yield reconciler, row.docker_id

    async def _check(self, reconciler: Reconciler, container_id: str, name: str) -> None:
        try:
            ran = await self._hooks.run(
                FOLDER, name, (reconciler.name, container_id), self._timing.check_s_max
            )
        except PortError as error:
            # A check that cannot run gives no information about the feature.
            self._alerts.warn("check", str(error), about=name, feature=reconciler.name, check=name)
            return
        self._alerts.warn("check", "", about=name)
        key = (container_id, name)
        self._failed[key] = 0 if ran.good else self._failed.get(key, 0) + 1
        unwell = self._failed[key] >= self._timing.check_failures
        if unwell is not _complained(reconciler, container_id, name) and (unwell or ran.good):
            await self._tell(reconciler, Complaint(container_id, name, ran.text), well=not unwell)

    async def _tell(self, reconciler: Reconciler, said: Complaint, *, well: bool) -> None:
        self._log.info("check", feature=reconciler.name, check=said.source, well=well, why=said.reason)
        try:
            await reconciler.note(partial(hear, said=said, well=well))
        except PortError as error:
            self._log.warning("check", feature=reconciler.name, check=said.source, why=str(error))


def _complained(reconciler: Reconciler, container_id: str, name: str) -> bool:
    """Return whether this check's complaint is already recorded."""
    complaints = reconciler.view.record.health.complaints if reconciler.view is not None else ()
    return any((c.container_id, c.source) == (container_id, name) for c in complaints)
