"""What do the host's own check scripts say of kube features? One coroutine runs them, now and then.

Knows the hooks' port and the keepers; decides nothing: a check that fails is a complaint, one that is well again
takes it back. `check.d/snmp`, and `check.d/snmp.anything`, get the feature's name and the ID of the kube container that
owns it. Local containers are not checked: SONiC has monit for them, and local behaviour needs nobody (promise S3).
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
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.model import Timing
    from kubesyncd.features.reconciler import Keeper
    from kubesyncd.features.registry import Keepers
    from kubesyncd.ports import Hooks

FOLDER = "check.d"
# Checks are somebody else's programs: so many may run beside each other, whatever there is to check.
AT_ONCE_MAX = 4


class Checks:
    """Runs every check of every kube-owned feature once in `check_every_s`."""

    def __init__(
        self, hooks: Hooks, keepers: Keepers, timing: Timing, rng: Random, log: FilteringBoundLogger
    ) -> None:
        self._hooks = hooks
        self._keepers = keepers
        self._timing = timing
        self._rng = rng
        self._log = log
        self._failed: dict[tuple[str, str], int] = {}
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._timing.check_every_s * self._rng.uniform(0.9, 1.1))
            await self._round()

    async def _round(self) -> None:
        """Every check that is due, at most `AT_ONCE_MAX` at a time."""
        names = self._hooks.names(FOLDER)
        due = [
            (keeper, owner, name)
            for keeper, owner in self._owned()
            for name in names
            if name.split(".")[0] == keeper.name
        ]
        self._failed = {key: self._failed.get(key, 0) for key in ((owner, name) for _, owner, name in due)}
        room = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(keeper: Keeper, container_id: str, name: str) -> None:
            async with room:
                await self._check(keeper, container_id, name)

        await asyncio.gather(*(one(*each) for each in due))

    def _owned(self) -> Iterable[tuple[Keeper, str]]:
        for keeper in self._keepers:
            if keeper.view is not None:
                row = project(keeper.view.record, keeper.view.facts)
                if row.current_owner is Owner.KUBE:
                    yield keeper, row.docker_id

    async def _check(self, keeper: Keeper, container_id: str, name: str) -> None:
        try:
            ran = await self._hooks.run(FOLDER, name, (keeper.name, container_id), self._timing.check_s_max)
        except PortError as error:
            # A broken check says nothing about the feature.
            if name not in self._refused:
                self._refused.add(name)
                self._log.warning("check", feature=keeper.name, check=name, why=str(error))
            return
        key = (container_id, name)
        self._failed[key] = 0 if ran.good else self._failed.get(key, 0) + 1
        unwell = self._failed[key] >= self._timing.check_failures
        if unwell is not _complained(keeper, container_id, name) and (unwell or ran.good):
            await self._tell(keeper, Complaint(container_id, name, ran.text), well=not unwell)

    async def _tell(self, keeper: Keeper, said: Complaint, *, well: bool) -> None:
        self._log.info("check", feature=keeper.name, check=said.source, well=well, why=said.reason)
        try:
            await keeper.note(partial(hear, said=said, well=well))
        except PortError as error:
            self._log.warning("check", feature=keeper.name, check=said.source, why=str(error))


def _complained(keeper: Keeper, container_id: str, name: str) -> bool:
    """Whether this check's complaint stands already."""
    complaints = keeper.view.record.health.complaints if keeper.view is not None else ()
    return any((c.container_id, c.source) == (container_id, name) for c in complaints)
