"""Hold one reconciler per feature."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.core.model import SystemState
from kubesyncd.core.record import returns_to_local
from kubesyncd.features.existence import exists
from kubesyncd.features.reconciler import Reconciler
from kubesyncd.ports import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.features.surroundings import Surroundings


FEATURES_MAX = 512


class Reconcilers:
    """All reconcilers, each created when its feature first appears; they run from `start` on.

    A reconciler ends, and its feature is forgotten, once the feature has no FEATURE row, no container and no unit.
    """

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
        """Return the reconciler of a feature that exists. Raises Refused where there are too many features."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            if len(self._reconcilers) >= FEATURES_MAX and name not in self._around.always_local:
                raise Refused(
                    "kubesyncd", f"there are {FEATURES_MAX} features already; remove one from FEATURE first"
                )
            reconciler = self._reconcilers[name] = Reconciler(name, self._around)
            if self._tasks is not None:
                self._run(reconciler, self._tasks)
        return reconciler

    async def find(self, name: str) -> Reconciler | None:
        """Return the feature's reconciler; None: no such feature. Only an existing feature gets a reconciler.

        Raises Unavailable where it is unknown whether the feature exists, Refused where there are too many.
        """
        known = name in self._reconcilers or name in self._around.always_local
        return self.get(name) if known or await exists(name, self._around) else None

    def _run(self, reconciler: Reconciler, tasks: asyncio.TaskGroup) -> None:
        name = reconciler.name
        self._running[name] = tasks.create_task(self._live(reconciler), name=f"reconciler-{name}")

    async def _live(self, reconciler: Reconciler) -> None:
        """Run the reconciler until nothing is left of its feature, and then delete what is kept of it."""
        while True:
            await reconciler.run()
            try:
                await self._around.ledger.forget(reconciler.name)
            except Unavailable:
                self._around.ledger.drop(reconciler.name)
            # After an event since the last observation, the feature may exist again.
            if not reconciler.dirty.is_set():
                break
        self._drop(reconciler)

    def returning(self) -> tuple[str, ...]:
        """Return the features whose local container takes over when this switch leaves its master, and has not yet."""
        views = ((each.name, each.view) for each in self)
        return tuple(
            name for name, view in views if view and returns_to_local(view.config, view.record, view.observed)
        )

    def known(self, name: str) -> Reconciler | None:
        """Return the feature's reconciler, or None."""
        return self._reconcilers.get(name)

    async def forget(self, name: str) -> None:
        """End the reconciler of an uninstalled feature and delete its record. Raises Refused, Unavailable."""
        reconciler = self._reconcilers.get(name)
        if reconciler is None:
            return
        await self._check_forgettable(reconciler)
        await self._around.images.forget(name)
        # A full disk raises Unavailable here, before the feature is gone from memory.
        await self._around.ledger.forget(name)
        self._drop(reconciler)

    async def _check_forgettable(self, reconciler: Reconciler) -> None:
        """Check that nothing is left of the feature but its record. Raises Refused, Unavailable."""
        stored = await self._around.store.read(reconciler.name)
        view = await reconciler.seen()
        if stored.loading or stored.config is not None:
            raise Refused("kubesyncd", "it has a FEATURE row; run: config feature uninstall")
        running = view.observed.local_running or view.record.grant in view.observed.kube_running
        if running or view.record.system_state is SystemState.UP:
            raise Refused("kubesyncd", f"it is still up ({view.plan.why}); stop its service first")

    def _drop(self, reconciler: Reconciler) -> None:
        name = reconciler.name
        if self._reconcilers.get(name) is not reconciler:
            # Another request to forget the feature was faster.
            return
        del self._reconcilers[name]
        running = self._running.pop(name)
        if running is not asyncio.current_task():
            running.cancel()
        reconciler.forget()
        for sharing in self._around.runtime.kube_names.forget(name):
            self._around.wakes.wake(sharing)
        self._around.wakes.forget(name)
        self._around.told(name, None)
