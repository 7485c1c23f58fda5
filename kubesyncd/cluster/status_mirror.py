"""Read the master's configuration from Redis, and mirror link state and label queue to Redis.

Runs concurrently: a stalled Redis delays neither labels nor the kubelet, a stalled API server delays no report.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core import labels
from kubesyncd.ports import PortError
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubesyncd.core.labels import Change
    from kubesyncd.core.model import MasterConfig, Timing
    from kubesyncd.ports import FeatureStore
    from kubesyncd.runtime.context import Runtime

UNREADABLE = "master_config_unreadable"


class Mirrored(Protocol):
    """What the mirror shows."""

    @property
    def engaged(self) -> bool:
        """Whether this switch uses Kubernetes."""

    def link_state(self) -> tuple[bool | None, int]:
        """Return whether the API server is connected (None: not known), and since when (seconds since the epoch)."""

    def pending(self) -> tuple[str, ...]:
        """Return the pending labels."""


class StatusMirror:
    """The mirror of `shown` in Redis, and the configuration that was last read there.

    `configuration_changed` is called after a change of the configuration, or of the description of the switch.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        os_version: Callable[[], str],
        shown: Mirrored,
        configuration_changed: Callable[[], None],
        timing: Timing,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._os_version = os_version
        self._shown = shown
        self._configuration_changed = configuration_changed
        self._audit_s = timing.audit_s
        self._runtime = runtime
        self._alerts = runtime.alert_log("master")
        self._backoff = runtime.backoff(timing)
        self._due = asyncio.Event()
        self._restate = True
        self._told: tuple[bool, int] | None = None
        self._told_pending: tuple[str, ...] = ()
        self.master: MasterConfig | None = None
        self.description: tuple[Change, ...] = ()
        self.originals: Mapping[str, str] = {}

    def wake(self, *, restate: bool = False) -> None:
        """Read and write again; `restate`: STATE_DB may have lost our fields."""
        self._restate |= restate
        self._due.set()

    async def run(self) -> None:
        """Read and mirror until cancelled. Never returns."""
        silent_until = self._runtime.clock() + self._audit_s
        while True:
            try:
                await self._read()
                await self._write()
            except PortError as error:
                # Redis starts later than the daemon at boot. Without a master, its outage is not the cluster's concern.
                if self._shown.engaged or (self.master is None and self._runtime.clock() >= silent_until):
                    self._alerts.warn(UNREADABLE, str(error))
                wait_s = self._backoff.next_s()
            else:
                self._alerts.warn(UNREADABLE, "")
                self._backoff.reset()
                wait_s = self._audit_s
            if not await woken(self._due, wait_s):
                # Redis sends no event when STATE_DB is flushed; the store writes only fields that differ.
                self._restate = True

    async def _read(self) -> None:
        master = await self._store.master()
        if master.wanted:
            metadata, version = await self._store.device_metadata(), self._os_version()
            self.originals = labels.originals(metadata, version)
            description = labels.self_description(metadata, version)
            if description != self.description:
                self.description = description
                self._configuration_changed()
        if master == self.master:
            return
        known = self.master.problems if self.master else ()
        for problem in set(master.problems) - set(known):
            self._runtime.log.warning("master_config", why=problem)
        self.master = master
        self._configuration_changed()

    async def _write(self) -> None:
        restate, self._restate = self._restate, False
        try:
            await self._write_connected(again=restate)
            await self._write_pending(again=restate)
        except PortError:
            self._restate |= restate
            raise

    async def _write_connected(self, *, again: bool) -> None:
        connected, ts = self._shown.link_state()
        if connected is not None and (again or (connected, ts) != self._told):
            await self._store.write_master(connected=connected, ts=ts)
            self._told = (connected, ts)

    async def _write_pending(self, *, again: bool) -> None:
        pending = self._shown.pending()
        concerned = self._shown.engaged or bool(pending) or bool(self.master and self.master.ip)
        if pending != self._told_pending or (again and concerned):
            await self._store.write_pending(pending)
            self._told_pending = pending
