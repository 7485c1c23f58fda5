"""Run the parts of the daemon in one task group: reconcilers, cluster, server, event streams, audits.

Knows the ports and no adapter, no signal, no socket: `app` makes those, and the tests' simulation makes
others. It decides nothing.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.container_handlers import ContainerHandlers
from kubesyncd.api.feature_handlers import FeatureHandlers
from kubesyncd.api.image_handlers import ImageHandlers
from kubesyncd.api.join_handlers import verbs as join_verbs
from kubesyncd.api.messages import Reply, Role
from kubesyncd.api.reboot_handlers import RebootHandlers
from kubesyncd.api.server import Server
from kubesyncd.cluster.controller import ClusterController, ClusterPorts
from kubesyncd.cluster.listeners import Listeners
from kubesyncd.cluster.node_reports import FleetView, Notice
from kubesyncd.core.model import Owner, Row, Signal
from kubesyncd.core.record import Record, project, rolled_back
from kubesyncd.features.health_checks import Checks
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.registry import Reconcilers
from kubesyncd.features.surroundings import Surroundings
from kubesyncd.images.store import NoImageStore
from kubesyncd.ports import FeatureStore, Refused, Unavailable
from kubesyncd.reboot.preparation import Preparation
from kubesyncd.runtime.alerts import Alerts
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.runtime.context import Runtime

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.api.peer import Peer
    from kubesyncd.core.config_load import ConfigLoad
    from kubesyncd.core.model import MasterConfig, Timing
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.surroundings import View
    from kubesyncd.images.store import ImageStore
    from kubesyncd.join.controller import JoinController, Labels
    from kubesyncd.ports import Cluster, Containers, DurableFile, File, Hooks, Units
    from kubesyncd.services.catalog_watcher import Follower

LOOP_LAG_S_MAX = 1.0
# Longer than any single call of a reconciler may take: the adapters' own deadlines are shorter.
KEEPER_BUSY_S_MAX = 120.0
# The audit runs in small steps: hundreds of features at once would delay a verb.
AUDIT_STEP = 8
AUDIT_PAUSE_S = 0.05


class Store(FeatureStore, Protocol):
    """The FeatureStore with its state of CONFIG_DB loads (S10), which the ledger restores after a restart."""

    load: ConfigLoad


@dataclass(frozen=True, slots=True)
class Outside:
    """The external dependencies of the daemon. `clock`: BOOTTIME seconds; `wall`: seconds since the epoch;
    `tell` notifies systemd. `membership` makes the join controller; without it, the node never joins or leaves.
    `mend` restores a loaded CONFIG_DB before any component reads it. `follower` makes the package server's follower,
    given a reader of the Node's labels. `falls_back`: features to which a prepared reboot has promised their local
    container.
    """

    store: Store
    containers: Containers
    units: Units
    connect: Callable[[MasterConfig], Cluster]
    kubeconfig_exists: Callable[[], bool]
    hold_exists: Callable[[], bool]
    ledger_file: File
    labels_file: DurableFile
    boot_id: str
    identify: Callable[[socket.socket], Peer]
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: Random
    log: FilteringBoundLogger
    tell: Callable[[str], object] = lambda _: None
    os_version: Callable[[], str] = lambda: ""
    credential_ends: Callable[[], float | None] = lambda: None
    membership: Callable[[Labels], JoinController] | None = None
    mend: Callable[[], Awaitable[None]] | None = None
    follower: Callable[[Callable[[], Mapping[str, str] | None]], Follower] | None = None
    hooks: Hooks | None = None
    shelf: ImageStore | None = None
    hold: DurableFile | None = None
    falls_back: frozenset[str] = frozenset()


class Daemon:
    """The parts of one run, between the ports and the sockets."""

    def __init__(self, outside: Outside, timing: Timing, always_local: frozenset[str]) -> None:
        self._outside = outside
        self._timing = timing
        self._always_local = always_local
        self._log = outside.log
        self._alerts = Alerts()
        self._runtime = Runtime(outside.clock, outside.wall, outside.rng, outside.log)
        self._ledger = Ledger(outside.ledger_file, outside.boot_id)
        self._cluster = ClusterController(
            ClusterPorts(outside.store, outside.units, outside.connect, outside.labels_file),
            self,
            timing=timing,
            runtime=self._runtime,
            listeners=Listeners(wake_feature=self._wake, linked=self._linked, notice=self._notice),
            alerts=self._alerts,
        )
        self._fleet = FleetView(self._cluster, outside.rng, outside.clock, outside.log)
        self._membership = outside.membership(self._cluster) if outside.membership is not None else None
        self._reconcilers: Reconcilers | None = None
        self._server: Server | None = None
        # Set while a configured feature may have no reconciler yet.
        self._unmet = asyncio.Event()

    def start(self, tasks: asyncio.TaskGroup, watchdog_s: float | None = None) -> Server:
        """Start all parts in `tasks`; return the server. `watchdog_s`: systemd's watchdog interval."""
        problem = self._load_ledger()
        if problem:
            self._log.warning("ledger", why=problem)
        reconcilers = self._reconcilers = Reconcilers(self._surroundings(), tasks)
        for name in self._ledger.records:
            reconcilers.get(name)
        tasks.create_task(self._follow_store(reconcilers), name="store")
        tasks.create_task(self._meet_again(reconcilers), name="meet")
        tasks.create_task(self._follow_containers(reconcilers), name="docker")
        tasks.create_task(self._cluster.run(), name="cluster")
        tasks.create_task(self._fleet.run(), name="fleet")
        if self._membership is not None:
            tasks.create_task(self._membership.run(), name="membership")
        if self._outside.follower is not None:
            follower = self._outside.follower(lambda: self._cluster.node_labels)
            tasks.create_task(follower.run(), name="packages")
        tasks.create_task(self._audit(reconcilers), name="audit")
        if self._outside.hooks is not None:
            checks = Checks(self._outside.hooks, reconcilers, self._timing, self._outside.rng, self._log)
            tasks.create_task(checks.run(), name="checks")
        if self._outside.shelf is not None:
            tasks.create_task(self._outside.shelf.run(), name="shelf")
        if watchdog_s is not None:
            tasks.create_task(self._feed_watchdog(reconcilers, watchdog_s / 2), name="watchdog")
        self._log.info("started", features=len(self._ledger.records), first=self._ledger.first)
        container = ContainerHandlers(reconcilers, self._outside.containers, self._log).handlers()
        self._server = Server(
            {Role.HOST: container | self._host_handlers(reconcilers), Role.CONTAINER: container},
            identify=self._outside.identify,
            log=self._log,
            clock=self._outside.clock,
        )
        return self._server

    def _host_handlers(self, reconcilers: Reconcilers) -> dict[str, Handler]:
        outside = self._outside
        made = {
            **FeatureHandlers(reconcilers, outside.containers, outside.clock, self._log).handlers(),
            **ClusterHandlers(self._cluster).handlers(),
            "resources": self._resources,
        }
        if self._membership is not None:
            made |= join_verbs(self._membership, self._cluster)
        if outside.shelf is not None:
            made |= ImageHandlers(outside.shelf).handlers()
        if outside.shelf is not None and outside.hold is not None:
            preparation = Preparation(
                hold=outside.hold,
                boot_id=outside.boot_id,
                reconcilers=reconcilers,
                cluster=self._cluster,
                shelf=outside.shelf,
                timing=self._timing,
                log=self._log,
            )
            made |= RebootHandlers(preparation).handlers()
        return made

    async def _resources(self, _: Request) -> Reply:
        """Counts of features, tasks and connections, to detect leaks."""
        held = {
            "features": sum(1 for _ in self._reconcilers or ()),
            "tasks": len(asyncio.all_tasks()),
            "connections": self._server.connections if self._server is not None else {},
        }
        return Reply(out=json.dumps(held))

    # ---- the cluster controller's `Host`, and its callbacks -------------------------------------

    def has_kubeconfig(self) -> bool:
        """See cluster.controller.Host."""
        return self._membership.fits() if self._membership is not None else self._outside.kubeconfig_exists()

    def is_held(self) -> bool:
        """See cluster.controller.Host."""
        return self._outside.hold_exists()

    def is_joining(self) -> bool:
        """See cluster.controller.Host."""
        return self._membership is not None and self._membership.joining

    def os_version(self) -> str:
        """See cluster.controller.Host."""
        return self._outside.os_version()

    def credential_ends(self) -> float | None:
        """See cluster.controller.Host."""
        return self._outside.credential_ends()

    def _linked(self) -> None:
        self._fleet.linked()

    def _notice(self, reason: str, message: str) -> None:
        self._fleet.notice(Notice(reason, message))

    def _surroundings(self) -> Surroundings:
        outside = self._outside
        return Surroundings(
            store=outside.store,
            containers=outside.containers,
            units=outside.units,
            labels=self._cluster,
            ledger=self._ledger,
            timing=self._timing,
            always_local=self._always_local,
            runtime=self._runtime,
            images=outside.shelf or NoImageStore(),
            alerts=self._alerts,
            told=self._tell_fleet,
            first_record=self._first_record,
        )

    def _first_record(self, feature: str) -> Record:
        """The initial record of a feature without one in the ledger: rollbacks and promises outlive the boot."""
        shelf = self._outside.shelf.remembered(feature) if self._outside.shelf is not None else None
        record = Record(boot_fallback=feature in self._outside.falls_back)
        if shelf is None or not shelf.failure:
            return record
        return rolled_back(record, shelf.failure, shelf.failed, shelf.failed_newest)

    def _tell_fleet(self, name: str, view: View | None) -> None:
        if view is None:
            self._fleet.forget(name)
        else:
            self._fleet.feature(name, view.plan.state.value, view.record.failure)

    def _load_ledger(self) -> str:
        try:
            problem = self._ledger.load()
        except Unavailable as error:
            problem = str(error)
        store = self._outside.store
        store.load = replace(store.load, seen=self._ledger.config_loaded)
        return problem

    def _wake(self, name: str | None) -> None:
        if self._reconcilers is not None:
            self._reconcilers.wake(name)

    def _wake_cluster(self) -> None:
        self._cluster.wake()
        if self._membership is not None:
            self._membership.wake()

    # ---- events ---------------------------------------------------------------------------------

    async def _follow_store(self, reconcilers: Reconcilers) -> None:
        async for event in self._outside.store.events():
            if isinstance(event, str):
                if reconcilers.known(event) is not None or await self._is_feature(event):
                    self._hear_of(reconcilers, event)
                continue
            self._wake_cluster()
            if event is Signal.GAP:
                await self._meet(reconcilers)
                reconcilers.wake(None)

    async def _follow_containers(self, reconcilers: Reconcilers) -> None:
        async for event in self._outside.containers.events():
            reconcilers.wake(event if isinstance(event, str) else None)

    async def _meet(self, reconcilers: Reconcilers) -> None:
        """Make a reconciler for each feature configured in Redis."""
        if self._outside.mend is not None:
            await self._outside.mend()
        try:
            names = sorted(await self._outside.store.features())
        except (Unavailable, Refused):
            self._unmet.set()
        else:
            self._unmet.clear()
            for name in names:
                self._reconciler_of(reconcilers, name)
        if self._outside.store.load.seen and not self._ledger.config_loaded:
            self._ledger.config_loaded = True
            with suppress(Unavailable):
                self._ledger.write()

    async def _meet_again(self, reconcilers: Reconcilers) -> None:
        """Repeat `_meet` after it failed: Redis does not repeat the event that triggered it."""
        backoff = Backoff(self._outside.rng, self._timing.backoff_s, self._timing.backoff_s_max)
        while True:
            if not self._unmet.is_set():
                backoff.reset()
                await self._unmet.wait()
            await asyncio.sleep(backoff.next_s())
            if self._unmet.is_set():
                await self._meet(reconcilers)

    async def _is_feature(self, name: str) -> bool:
        """Whether the feature has a row: the event of its removal must not create a reconciler again."""
        try:
            stored = await self._outside.store.read(name)
        except (Unavailable, Refused):
            return True
        return stored.config is not None or stored.loading or stored.row != Row()

    def _hear_of(self, reconcilers: Reconcilers, name: str) -> None:
        reconciler = self._reconciler_of(reconcilers, name)
        if reconciler is not None:
            reconciler.dirty.set()

    def _reconciler_of(self, reconcilers: Reconcilers, name: str) -> Reconciler | None:
        """The feature's reconciler; a new one observes by itself. None where there are too many features."""
        try:
            return reconcilers.get(name)
        except Refused as error:
            self._log.warning("feature_ignored", feature=name, why=error.detail)
            return None

    # ---- by the clock ---------------------------------------------------------------------------

    async def _audit(self, reconcilers: Reconcilers) -> None:
        """Observe every feature once in `audit_s`, in case an event was missed."""
        while True:
            await asyncio.sleep(self._timing.audit_s)
            await self._meet(reconcilers)
            if self._membership is not None:
                # The cluster has an audit of its own.
                self._membership.wake()
            for number, reconciler in enumerate(reconcilers):
                if number and number % AUDIT_STEP == 0:
                    await asyncio.sleep(AUDIT_PAUSE_S)
                reconciler.dirty.set()
            self._outside.tell(
                f"STATUS={_summary(reconcilers, self._cluster.joined, self._cluster.connected)}"
            )

    async def _feed_watchdog(self, reconcilers: Reconcilers, every_s: float) -> None:
        """Notify systemd's watchdog while the loop runs and no reconciler hangs. External services do not count."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + every_s
            await asyncio.sleep(every_s)
            now = self._outside.clock()
            hanging = [k.name for k in reconcilers if now - (k.busy_since or now) > KEEPER_BUSY_S_MAX]
            lag_s = loop.time() - due
            if hanging or lag_s > LOOP_LAG_S_MAX:
                self._log.error("unwell", alert=True, hanging=hanging, lag_s=round(lag_s, 1))
                continue
            self._outside.tell("WATCHDOG=1")


def _summary(reconcilers: Reconcilers, joined: bool, connected: bool) -> str:
    """One line for `systemctl status kubesyncd`."""
    views = [k.view for k in reconcilers if k.view is not None]
    kube = sum(project(v.record, v.facts).current_owner is Owner.KUBE for v in views)
    master = "no master joined" if not joined else f"master {'connected' if connected else 'unreachable'}"
    return f"{len(views)} features, {kube} run by kube; {master}"
