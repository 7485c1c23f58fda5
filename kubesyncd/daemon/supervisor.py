"""Run the parts of the daemon in one task group: reconcilers, cluster, server, event streams, audits.

Knows the ports and no adapter, no signal, no socket: `app` has those, and the tests' simulation has
others. It decides nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.api.connections import Connections
from kubesyncd.api.server import Server
from kubesyncd.core.model import Owner, Signal, valid_feature_name
from kubesyncd.core.parse import unusable_names
from kubesyncd.core.record import project
from kubesyncd.daemon.handlers import handlers
from kubesyncd.ports import Refused, Unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from kubesyncd.api.peer import Peer
    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.daemon.parts import Parts
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.runtime.context import Runtime

LOOP_LAG_S_MAX = 1.0
# Longer than any single call of a reconciler may take: the adapters' own deadlines are shorter.
RECONCILER_BUSY_S_MAX = 120.0
# The audit runs in small steps: hundreds of features at once would delay a verb.
AUDIT_STEP = 8
AUDIT_PAUSE_S = 0.05
# For this long a returned event stream must last.
RETURN_S = 1.0


class Daemon:
    """One run of the daemon, between the ports and the sockets.

    `identify` returns the peer of a socket; `tell` notifies systemd; `look` compares the sockets with their paths, now
    and then.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        identify: Callable[[socket.socket], Peer],
        tell: Callable[[str], object] = lambda _: None,
        connections: Connections | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._parts = parts
        self._ports = parts.ports
        self._reconcilers, self._ledger, self._cluster = parts.reconcilers, parts.ledger, parts.cluster
        self._tell = tell
        self._log = parts.runtime.log
        self._timing = parts.rules.timing
        connections = connections or Connections()
        self._server = Server(
            handlers(parts, connections),
            connections=connections,
            identify=identify,
            log=parts.runtime.log,
            alerts=parts.runtime.alert_log("requests"),
            clock=parts.runtime.clock,
        )
        self._look = look
        self._alerts = parts.runtime.alert_log("features")
        # Set while a configured feature may have no reconciler yet.
        self._unmet = asyncio.Event()

    def start(self, tasks: asyncio.TaskGroup, watchdog_s: float | None = None) -> Server:
        """Load what earlier runs have stored and start all parts in `tasks`; return the server.

        `watchdog_s`: systemd's watchdog interval.
        """
        parts = self._parts
        self._load()
        parts.reconcilers.start(tasks)
        tasks.create_task(self._keep_ledger(), name="ledger")
        tasks.create_task(self._follow_store(), name="store")
        tasks.create_task(self._meet_again(), name="meet")
        tasks.create_task(self._follow_containers(), name="docker")
        tasks.create_task(parts.cluster.run(), name="cluster")
        tasks.create_task(parts.reports.run(parts.cluster), name="reports")
        tasks.create_task(parts.join.run(parts.cluster, parts.reconcilers.returning), name="join")
        tasks.create_task(self._audit(), name="audit")
        if parts.fallbacks is not None:
            tasks.create_task(parts.fallbacks.run(), name="fallbacks")
        for name, work in parts.background.items():
            tasks.create_task(work(), name=name)
        tasks.create_task(parts.unit_watch.run(), name="units")
        tasks.create_task(parts.images.run(), name="images")
        if watchdog_s is not None:
            tasks.create_task(self._feed_watchdog(watchdog_s / 2), name="watchdog")
        self._log.info("started", features=len(parts.ledger.records), first=parts.ledger.first)
        return self._server

    def _load(self) -> None:
        """Load the stored state, and make a reconciler for each feature in the ledger."""
        self._cluster.load()
        self._parts.images.load()
        if self._parts.fallbacks is not None:
            self._parts.fallbacks.load()
        problem = self._load_ledger()
        if self._ledger.lost and problem:
            self._log.error("ledger_lost", alert=True, why=problem)
        elif problem:
            self._log.warning("ledger", why=problem)
        for name in self._ledger.records:
            self._reconciler_of(name)

    def _load_ledger(self) -> str:
        problem = self._ledger.load()
        store = self._ports.store
        store.config_load = replace(store.config_load, seen=self._ledger.config_loaded)
        return problem

    async def _keep_ledger(self) -> None:
        """Write a lost ledger again at once, and keep the note outside it that this boot has one."""
        ledger, backoff = self._ledger, self._parts.runtime.backoff(self._timing)
        if ledger.lost:
            with suppress(Unavailable):
                await ledger.write()
        while True:
            try:
                await ledger.boot.write()
            except Unavailable as error:
                text = f"{error}; a loss of the ledger would go unnoticed"
                self._alerts.begin("boot_not_marked", text, file=error.file)
                await asyncio.sleep(backoff.next_s())
            else:
                self._alerts.end("boot_not_marked")
                backoff.reset()

    def _wake_cluster(self) -> None:
        self._cluster.wake()
        self._parts.join.wake()

    # ---- events ---------------------------------------------------------------------------------

    async def _follow_store(self) -> None:
        async for event in self._ports.store.events(_StreamLog(self._parts.runtime, "Redis").tell):
            if isinstance(event, str):
                if self._reconcilers.known(event) is not None or await self._is_feature(event):
                    self._hear_of(event)
                continue
            self._wake_cluster()
            if event is Signal.GAP:
                await self._meet()
                self._parts.wakes.wake(None)

    async def _follow_containers(self) -> None:
        async for event in self._ports.containers.events(_StreamLog(self._parts.runtime, "Docker").tell):
            if isinstance(event, Signal):
                # What a gap hides may be a change of the images.
                for reconciler in self._reconcilers:
                    reconciler.images_changed()
            if event is not Signal.IMAGES:
                self._parts.wakes.wake(event if isinstance(event, str) else None)

    async def _meet(self) -> None:
        """Make a reconciler for each feature configured in Redis."""
        await self._parts.restorer.restore()
        try:
            names = await self._ports.store.features()
        except (Unavailable, Refused):
            self._unmet.set()
        else:
            self._unmet.clear()
            usable = sorted(filter(valid_feature_name, names))
            if None not in [self._reconciler_of(name) for name in usable]:
                self._alerts.end("feature_ignored")
            self._tell_unusable(unusable_names(names))
        if self._ports.store.config_load.seen and not self._ledger.config_loaded:
            self._ledger.config_loaded = True
            with suppress(Unavailable):
                await self._ledger.write()

    async def _meet_again(self) -> None:
        """Repeat `_meet` after it failed: Redis does not repeat the event that triggered it."""
        backoff = self._parts.runtime.backoff(self._timing)
        while True:
            if not self._unmet.is_set():
                backoff.reset()
                await self._unmet.wait()
            await asyncio.sleep(backoff.next_s())
            if self._unmet.is_set():
                await self._meet()

    async def _is_feature(self, name: str) -> bool:
        """Return whether the feature has a row: the event of its removal must not create a reconciler again."""
        try:
            stored = await self._ports.store.read(name)
        except (Unavailable, Refused):
            return True
        return stored.config is not None or stored.loading

    def _hear_of(self, name: str) -> None:
        reconciler = self._reconciler_of(name)
        if reconciler is not None:
            reconciler.dirty.set()

    def _reconciler_of(self, name: str) -> Reconciler | None:
        """Return the feature's reconciler; a new one observes by itself. None where there are too many features."""
        try:
            return self._reconcilers.get(name)
        except Refused as error:
            self._alerts.begin("feature_ignored", f"{name}: {error.detail}")
            return None

    def _tell_unusable(self, text: str) -> None:
        """Alert once to the rows whose names no feature can have, and again when there are others."""
        if text not in self._alerts.lasting("feature_names"):
            self._alerts.end("feature_names")
        if text:
            self._alerts.begin("feature_names", text)

    # ---- by the clock ---------------------------------------------------------------------------

    async def _audit(self) -> None:
        """Observe every feature once in `audit_s`, in case an event was missed."""
        while True:
            await asyncio.sleep(self._timing.audit_s)
            self._look_around()
            self._ledger.boot.check()
            await self._meet()
            # The cluster has an audit of its own.
            self._parts.join.wake()
            for number, reconciler in enumerate(self._reconcilers):
                if number and number % AUDIT_STEP == 0:
                    await asyncio.sleep(AUDIT_PAUSE_S)
                reconciler.dirty.set()
            self._tell(f"STATUS={_summary(self._reconcilers, self._cluster)}")

    async def _feed_watchdog(self, every_s: float) -> None:
        """Notify systemd's watchdog while the loop runs and no reconciler hangs. External services do not count."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + every_s
            await asyncio.sleep(every_s)
            now = self._parts.runtime.clock()
            busy = {reconciler.name: now - (reconciler.busy_since or now) for reconciler in self._reconcilers}
            hanging = [name for name, seconds in busy.items() if seconds > RECONCILER_BUSY_S_MAX]
            lag_s = loop.time() - due
            if hanging or lag_s > LOOP_LAG_S_MAX:
                self._log.error("unwell", alert=True, hanging=hanging, lag_s=round(lag_s, 1))
                continue
            self._tell("WATCHDOG=1")
            self._look_around()

    def _look_around(self) -> None:
        """Look after the sockets and the limits of requests. Costs a few system calls, and no timer of its own."""
        self._look()
        self._server.look()


class _StreamLog:
    """Logs the loss of a service's event stream, and its return once that lasts.

    A service that is ending accepts connections until its very end.
    """

    def __init__(self, runtime: Runtime, service: str) -> None:
        self._log = runtime.alert_log(f"events of {service}")
        self._service = service
        self._returning: asyncio.TimerHandle | None = None

    def tell(self, why: str) -> None:
        """Note that the stream is lost, or back (no text)."""
        if self._returning is not None:
            self._returning.cancel()
            self._returning = None
        if why:
            self._log.stream(self._service, why)
        else:
            loop = asyncio.get_running_loop()
            self._returning = loop.call_later(RETURN_S, self._log.stream, self._service, "")


def _summary(reconcilers: Reconcilers, cluster: ClusterController) -> str:
    """Return one line for `systemctl status kubesyncd`."""
    views = [reconciler.view for reconciler in reconcilers if reconciler.view is not None]
    kube = sum(project(v.record, v.observed).current_owner is Owner.KUBE for v in views)
    link = f"master {'connected' if cluster.connected else 'unreachable'}"
    return f"{len(views)} features, {kube} run by kube; {link if cluster.joined else 'no master joined'}"
