"""Do the daemon's part of a prepared reboot: local images, the hold, and the kubelet off.

Knows the reconcilers, the cluster's coroutine, the images and the hold's file; knows no reboot script, no hook and no
certificate. `kubesync reboot prepare` does what needs root's full view of the system (see cli/reboot.py).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.core.model import Owner
from kubesyncd.ports import PortError, Unavailable
from kubesyncd.reboot.hold import Grade, Kind, PreparationStep, PreparedReboot, encode

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.core.model import Container, Timing
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.features.surroundings import View
    from kubesyncd.images.store import ImageStore
    from kubesyncd.ports import DurableFile

LOOK_S = 0.05
# The reboot scripts' time limit is shared: the rest is for hooks and files.
SHARE = 0.6


class Preparation:
    """The daemon's part of a prepared reboot."""

    def __init__(
        self,
        *,
        hold: DurableFile,
        boot_id: str,
        reconcilers: Reconcilers,
        cluster: ClusterController,
        images: ImageStore,
        timing: Timing,
        log: FilteringBoundLogger,
    ) -> None:
        self._hold = hold
        self._boot_id = boot_id
        self._reconcilers = reconcilers
        self._cluster = cluster
        self._images = images
        self._timing = timing
        self._log = log

    async def prepare(self, kind: Kind, *, dry: bool) -> list[PreparationStep]:
        """Prepare a reboot; `dry`: only report what would be done. Never fails: each step reports its result."""
        kube = [k for k in self._reconcilers if k.view is not None and k.view.config.owner is Owner.KUBE]
        kube.sort(key=lambda reconciler: reconciler.name)
        blind = [k.name for k in self._reconcilers if k.view is None]
        why = "its state is unknown: Docker has not answered yet"
        steps = [PreparationStep(Grade.WARN, name, why) for name in sorted(blind)]
        try:
            async with asyncio.timeout(self._timing.reboot_s_max * SHARE):
                for reconciler in kube:
                    steps.append(await self._have_local(reconciler, dry=dry))  # noqa: PERF401 - time may run out
                steps.append(await self._hold_on(kind, kube, dry=dry))
        except TimeoutError:
            steps.append(PreparationStep(Grade.FAIL, "time", "Docker or systemd did not answer in time"))
        self._log.info(
            "reboot_prepared", kind=kind, dry=dry, steps=[f"{s.grade}: {s.what}: {s.text}" for s in steps]
        )
        return steps

    async def _have_local(self, reconciler: Reconciler, *, dry: bool) -> PreparationStep:
        """Ensure that the feature can start from a local image right after the boot, or report that it cannot."""
        view = reconciler.view
        assert view is not None, "reconcilers without a view were left out"
        container = _deployed(view)
        health = view.record.health
        image_id = container.image_id if container is not None else health.image_id
        if image_id == health.failed_image:
            image_id = ""
        try:
            text = await self._images.ensure_local(reconciler.name, image_id, dry=dry)
            container_id = container.id if container is not None else ""
            more, whole = await self._images.ensure_container(reconciler.name, container_id, dry=dry)
        except PortError as error:
            return PreparationStep(
                Grade.WARN, reconciler.name, f"{error.detail}; after the boot it waits for the master"
            )
        return PreparationStep(
            Grade.OK if whole else Grade.WARN, reconciler.name, f"{text}; {more}" if more else text
        )

    async def _hold_on(self, kind: Kind, kube: list[Reconciler], *, dry: bool) -> PreparationStep:
        """Write the promise for the next boot and the hold as one file, so that neither exists without the other."""
        many = "1 feature" if len(kube) == 1 else f"{len(kube)} features"
        if dry:
            return PreparationStep(
                Grade.OK, "kubelet", f"would be stopped; fallback after the boot for {many}"
            )
        note = PreparedReboot(kind.value, self._boot_id, tuple(reconciler.name for reconciler in kube))
        try:
            await self._hold.save(encode(note))
        except Unavailable as error:
            return PreparationStep(Grade.FAIL, "hold", str(error))
        self._cluster.wake()
        # Its own deadline is shorter than the caller's: the result then names what is missing.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.kubelet_stop_s):
                while self._cluster.kubelet_running or self._hold_unseen:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(LOOK_S)
        if self._cluster.kubelet_running:
            return PreparationStep(
                Grade.FAIL,
                "kubelet",
                "it does not stop; it would restart containers that the reboot stops",
            )
        return PreparationStep(Grade.OK, "kubelet", f"stopped; fallback to local after the boot for {many}")

    @property
    def _hold_unseen(self) -> bool:
        """True while a kill of the reboot script would still withdraw the label."""
        return self._cluster.joined and not self._cluster.hold

    async def undo(self) -> PreparationStep:
        """Lift the hold. Raises Unavailable."""
        await self._hold.forget()
        self._cluster.wake()
        self._log.info("reboot_undone")
        return PreparationStep(Grade.OK, "hold", "removed; the kubelet follows its normal rules")


def _deployed(view: View) -> Container | None:
    """Return the container that Kubernetes runs, the granted one first; None where it runs none."""
    kube = [c for c in view.observed.containers if c.owner is Owner.KUBE and c.running and c.image_id]
    return max(kube, key=lambda c: (c.id == view.record.grant, c.started), default=None)
