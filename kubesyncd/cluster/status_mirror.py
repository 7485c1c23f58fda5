"""Mirror link state and label queue to Redis, after each reading of the master's configuration.

Reading and writing share one loop, because both wait for the same Redis. It runs concurrently with the controller: a
stalled Redis delays neither labels nor the kubelet, a stalled API server delays no report.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from kubesyncd.ports import PortError
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from kubesyncd.cluster.master_config import MasterConfigReader
    from kubesyncd.core.model import Timing
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
    """The mirror of `shown` in Redis. `config` is read before each write."""

    def __init__(
        self,
        store: FeatureStore,
        *,
        config: MasterConfigReader,
        shown: Mirrored,
        timing: Timing,
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._config = config
        self._shown = shown
        self._audit_s = timing.audit_s
        self._clock = runtime.clock
        self._alerts = runtime.alert_log("master")
        self._backoff = runtime.backoff(timing)
        self._due = asyncio.Event()
        self._restate = True
        self._told: tuple[bool, int, str, int] | None = None
        self._told_pending: tuple[str, ...] = ()

    def wake(self, *, restate: bool = False) -> None:
        """Read and write again; `restate`: STATE_DB may have lost our fields."""
        self._restate |= restate
        self._due.set()

    async def run(self) -> None:
        """Read and mirror until cancelled. Never returns."""
        silent_until = self._clock() + self._audit_s
        while True:
            try:
                await self._config.read()
                await self._write()
            except PortError as error:
                # Redis starts later than the daemon at boot. Without a master, its outage is not the cluster's concern.
                never_read = self._config.master is None and self._clock() >= silent_until
                if self._shown.engaged or never_read:
                    self._alerts.fails(UNREADABLE, error)
                wait_s = self._backoff.next_s()
            else:
                self._alerts.answers(UNREADABLE, surely=True)
                self._backoff.reset()
                wait_s = self._audit_s
            if not await woken(self._due, wait_s):
                # Redis sends no event when STATE_DB is flushed; the store writes only fields that differ.
                self._restate = True

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
        master = self._config.master
        ip, port = (master.ip, master.port) if master is not None else ("", 0)
        if connected is not None and (again or (connected, ts, ip, port) != self._told):
            await self._store.write_master(connected=connected, ts=ts, ip=ip, port=port)
            self._told = (connected, ts, ip, port)

    async def _write_pending(self, *, again: bool) -> None:
        pending = self._shown.pending()
        master = self._config.master
        concerned = self._shown.engaged or bool(pending) or bool(master and master.ip)
        if pending != self._told_pending or (again and concerned):
            await self._store.write_pending(pending)
            self._told_pending = pending
