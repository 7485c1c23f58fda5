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
    """All reconcilers, each created when its feature first appears; they run from `start` on."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._tasks: asyncio.TaskGroup | None = None
        self._reconcilers: dict[str, Reconciler] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Reconciler]:
        return iter(tuple(self._reconcilers.values()))

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Run the reconcilers, and each new one, in `tasks`."""
        self._tasks = tasks
        for reconciler in self:
            self._run(reconciler, tasks)

    def get(self, name: str) -> Reconciler:
        """Return the feature's reconciler. Raises Refused where there are too many features."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            if len(self._reconcilers) >= FEATURES_MAX:
                raise Refused(
                    "kubesyncd", f"there are {FEATURES_MAX} features already; remove one from FEATURE first"
                )
            reconciler = self._reconcilers[name] = Reconciler(name, self._around)
            if self._tasks is not None:
                self._run(reconciler, self._tasks)
        return reconciler

    def _run(self, reconciler: Reconciler, tasks: asyncio.TaskGroup) -> None:
        name = reconciler.name
        self._running[name] = tasks.create_task(reconciler.run(), name=f"reconciler-{name}")

    def known(self, name: str) -> Reconciler | None:
        """Return the feature's reconciler, or None."""
        return self._reconcilers.get(name)

    async def forget(self, name: str) -> None:
        """End the reconciler of an uninstalled feature and delete its record. Raises Refused, Unavailable."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            return
        await reconciler.check_forgettable()
        await self._around.images.forget(name)
        if self._reconcilers.get(name) is not reconciler:
            # Another request to forget the feature was faster.
            return
        del self._reconcilers[name]
        self._running.pop(name).cancel()
        reconciler.forget()
        self._around.wakes.forget(name)
        self._around.told(name, None)
        # Last: a full disk raises Unavailable here.
        self._around.ledger.forget(name)
