"""Hold one reconciler per feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.features.reconciler import Keeper, Surroundings
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator


FEATURES_MAX = 512


class Keepers:
    """All keepers: made when a feature is first heard of, woken by name."""

    def __init__(self, around: Surroundings, tasks: asyncio.TaskGroup) -> None:
        self._around = around
        self._tasks = tasks
        self._keepers: dict[str, Keeper] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Keeper]:
        return iter(tuple(self._keepers.values()))

    def get(self, name: str) -> Keeper:
        """The feature's keeper. Raises Refused where there are too many features."""
        keeper = self._keepers.get(name)
        if keeper is None:
            if len(self._keepers) >= FEATURES_MAX:
                raise Refused(
                    "kubesyncd", f"there are {FEATURES_MAX} features already; remove one from FEATURE first"
                )
            keeper = self._keepers[name] = Keeper(name, self._around)
            self._running[name] = self._tasks.create_task(keeper.run(), name=f"keeper-{name}")
        return keeper

    def known(self, name: str) -> Keeper | None:
        """The feature's keeper if there is one."""
        return self._keepers.get(name)

    async def forget(self, name: str) -> None:
        """End the feature's keeper and remember nothing of it: it was uninstalled. Raises Refused, Unavailable."""
        keeper = self._keepers.get(name)
        if keeper is None:
            return
        await keeper.check_forgettable()
        await self._around.shelf.forget(name)
        del self._keepers[name]
        self._running.pop(name).cancel()
        keeper.forget()
        self._around.ledger.forget(name)
        self._around.told(name, None)

    def wake(self, name: str | None) -> None:
        """Something may have changed for this feature, or for all."""
        for keeper in self._keepers.values() if name is None else filter(None, [self._keepers.get(name)]):
            keeper.dirty.set()
