"""Hold one reconciler per feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.features.reconciler import Reconciler
from kubesyncd.ports import Refused

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from kubesyncd.features.surroundings import Surroundings


FEATURES_MAX = 512


class Reconcilers:
    """All reconcilers: created when a feature first appears, woken by name."""

    def __init__(self, around: Surroundings, tasks: asyncio.TaskGroup) -> None:
        self._around = around
        self._tasks = tasks
        self._reconcilers: dict[str, Reconciler] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Reconciler]:
        return iter(tuple(self._reconcilers.values()))

    def get(self, name: str) -> Reconciler:
        """The feature's reconciler. Raises Refused where there are too many features."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            if len(self._reconcilers) >= FEATURES_MAX:
                raise Refused(
                    "kubesyncd", f"there are {FEATURES_MAX} features already; remove one from FEATURE first"
                )
            reconciler = self._reconcilers[name] = Reconciler(name, self._around)
            self._running[name] = self._tasks.create_task(reconciler.run(), name=f"reconciler-{name}")
        return reconciler

    def known(self, name: str) -> Reconciler | None:
        """The feature's reconciler, or None."""
        return self._reconcilers.get(name)

    async def forget(self, name: str) -> None:
        """End the reconciler of an uninstalled feature and delete its record. Raises Refused, Unavailable."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            return
        await reconciler.check_forgettable()
        await self._around.images.forget(name)
        del self._reconcilers[name]
        self._running.pop(name).cancel()
        reconciler.forget()
        self._around.ledger.forget(name)
        self._around.told(name, None)

    def wake(self, name: str | None) -> None:
        """Trigger an observation of this feature, or of all features (None)."""
        for reconciler in (
            self._reconcilers.values() if name is None else filter(None, [self._reconcilers.get(name)])
        ):
            reconciler.dirty.set()
