"""Run this node's side of the API server: the link, the labels, and the kubelet.

Knows the ports and the label queue; knows nothing of features' states, of sockets, or why a label is wanted.

Four loops share the queue, which is a value that changes between two awaits:
- `_act` keeps the link, sends labels, starts and stops the kubelet;
- the link watches the own Node;
- the queue file is written after changes of the queue, and nothing waits for it;
- the mirror has the master's configuration read from Redis, and writes link state and queue to STATE_DB.

Without a configured master nothing is read but the configuration, and nothing is written, started or logged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.cluster.credential_watch import CredentialWatch
from kubesyncd.cluster.kubelet import KubeletGate
from kubesyncd.cluster.label_sync import LabelSync
from kubesyncd.cluster.master_config import MasterConfigReader
from kubesyncd.cluster.node_health import NodeHealth
from kubesyncd.cluster.node_link import NodeLink
from kubesyncd.cluster.queue_file import QueueFile
from kubesyncd.cluster.status import ClusterStatus
from kubesyncd.cluster.status_mirror import StatusMirror
from kubesyncd.core.labels import Change, feature_label
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kubesyncd.cluster.listeners import Listeners
    from kubesyncd.cluster.status import NodeNaming
    from kubesyncd.core.descriptions import ClusterDescription
    from kubesyncd.core.model import LabelView, MasterConfig, NodeSeen, Timing
    from kubesyncd.ports import Cluster, DurableFile, FeatureStore, SwitchFiles, Units
    from kubesyncd.runtime.context import Runtime


@dataclass(frozen=True, slots=True)
class ClusterPorts:
    """The ports of the controller.

    `connect` makes an API server's adapter; ImportError: no Kubernetes packages. `names`: what this switch's Node is
    called. `credential_fits`: whether the kubelet has a credential for the configured master. `is_joining`: whether a
    join or a reset is running; it controls the kubelet then. `is_leaving`: whether a reset is about to begin or runs.
    """

    store: FeatureStore
    units: Units
    connect: Callable[[MasterConfig], Cluster]
    labels_file: DurableFile
    switch: SwitchFiles
    names: NodeNaming
    credential_fits: Callable[[], bool]
    is_joining: Callable[[], bool]
    is_leaving: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class _NodeState:
    """Whether this switch has joined, and whether a reboot is being prepared.

    `no_deploy`: why Kubernetes cannot deploy here; empty where it can, or before the configuration has been read.
    """

    joined: bool = False
    hold: bool = False
    no_deploy: str = ""


class ClusterController:
    """Delivers labels and decides whether the kubelet runs. Call `load()`, then run `run()` once."""

    def __init__(
        self,
        ports: ClusterPorts,
        *,
        timing: Timing,
        runtime: Runtime,
        listeners: Listeners,
    ) -> None:
        self._ports = ports
        self._runtime = runtime
        self._due = asyncio.Event()
        self._listeners = listeners
        self._file = QueueFile(
            ports.labels_file, runtime, changed=self._queue_changed, appended=self._labels_queued
        )
        self._labels = LabelSync(
            self._file, timing=timing, runtime=runtime, listeners=listeners, applied=self._labels_applied
        )
        self._link = NodeLink(
            ports.connect,
            timing=timing,
            runtime=runtime,
            changed=self._link_changed,
            node_seen=self._node_seen,
        )
        self._config = MasterConfigReader(
            ports.store, os_version=ports.switch.os_version, changed=self._due.set, log=runtime.log
        )
        self._mirror = StatusMirror(
            ports.store, config=self._config, shown=self, timing=timing, runtime=runtime
        )
        self._kubelet = KubeletGate(ports.units, timing=timing, runtime=runtime)
        credential_life = ports.switch.credential_life
        self._status = ClusterStatus(
            config=self._config,
            link=self._link,
            labels=self._labels,
            kubelet=self._kubelet,
            names=ports.names,
            credential=CredentialWatch(credential_life, runtime=runtime, notice=listeners.notice),
            node=NodeHealth(runtime, timing),
            runtime=runtime,
        )
        self._state = _NodeState()
        self._announced: _NodeState | None = None
        self.engaged = False
        self._audit = _Audit(timing.audit_s, runtime.clock)

    def load(self) -> None:
        """Read the label queue from its file."""
        self._file.load()
        # Labels once applied are managed further, also after the master's configuration is removed.
        self.engaged = bool(self._file.queue.applied)

    # ---- for reconcilers, server and operators ------------------------------------------------------

    @property
    def joined(self) -> bool:
        """Whether a master is configured and not disabled, and this switch is its node."""
        return self._state.joined

    @property
    def hold(self) -> bool:
        """Whether a reboot is being prepared."""
        return self._state.hold

    @property
    def no_deploy(self) -> str:
        """Why Kubernetes cannot deploy on this switch, with what to type; empty where it can, or is not known."""
        return self._state.no_deploy

    @property
    def leaving(self) -> bool:
        """Whether a reset is about to begin, or runs."""
        return self._ports.is_leaving()

    @property
    def connected(self) -> bool:
        """Whether the API server answers now."""
        return bool(self._link.connected)

    @property
    def cluster(self) -> Cluster | None:
        """The link to an API server that answers and has our Node; None: not available now."""
        return self._link.cluster if self._link.connected and self._link.node_exists else None

    @property
    def kubelet_running(self) -> bool | None:
        """Whether the kubelet's unit is active; None: not observed, or systemd does not answer."""
        return self._kubelet.running

    @property
    def node_labels(self) -> Mapping[str, str] | None:
        """All labels of the own Node, as last observed; None: not observed yet."""
        return self._link.node if self._link.node_exists else None

    @property
    def originals(self) -> Mapping[str, str]:
        """Facts about the switch before they are converted to label values."""
        return self._config.originals

    def view(self, feature: str) -> LabelView:
        """Return the state of the feature's label. Its absence on the Node is tracked from now on."""
        return self._labels.view(feature, self._link.node)

    def note_kube_start(self, at: str) -> None:
        """Note that a running kube container was started `at` (ISO 8601): its pod tolerates the taints before that."""
        if self._status.node.started(at):
            self._due.set()

    async def request_feature(self, feature: str, *, on: bool) -> None:
        """Queue a feature's label. Raises Refused where too many others wait.

        Not durable, so that a full disk stops no feature: the reconcilers request the label again after a restart.
        """
        self._file.append_soon([Change(feature_label(feature), "true" if on else None)])

    async def apply(self, changes: Sequence[Change]) -> str:
        """Queue `changes` and wait at most `label_wait_s` for their delivery.

        Returns `applied` or `queued (<why>; <n> pending)`. Raises Refused where the API server rejects one
        (the others are applied), or too many others wait; Unavailable where they cannot be stored.
        """
        upto = await self._file.append(changes)
        if await self._labels.outcome(changes, upto, wait=self.joined):
            return "applied"
        return f"queued ({self._status.why_pending(joined=self.joined)}; {len(self._file.queue.pending)} pending)"

    async def purge(self) -> None:
        """Forget every label, queued or applied: the switch was reset.

        Raises Unavailable, and then nothing is forgotten.
        """
        await self._labels.purge()

    def wake(self) -> None:
        """Observe again: the configuration, STATE_DB, a hold or a join may have changed."""
        self._kubelet.audit()
        self._mirror.wake(restate=True)
        self._due.set()

    def status(self) -> ClusterDescription:
        """Return the status for operators, without the membership."""
        return self._status.describe(joined=self.joined, hold=self.hold, unwritten=self._file.failures)

    async def run(self) -> None:
        """Run until cancelled. An unexpected exception ends all loops and is raised."""
        # Until the configuration has been read, a switch that has had labels applied is still joined: a stop that an
        # earlier run began must not end a container while its label is on the Node.
        self._state = _NodeState(bool(self._file.queue.applied) and self._ports.credential_fits())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._mirror.run(), name="cluster-report")
            tasks.create_task(self._file.run(), name="cluster-write")
            try:
                await self._act(tasks)
            finally:
                await self._link.drop(announce=False)

    # ---- acting ---------------------------------------------------------------------------------

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await woken(self._due, self._idle_s())
            master = self._config.master
            if master is None or not self._observe_local(master):
                continue
            await self._keep_link(master, tasks)
            if self._link.packages_missing:
                continue
            self._announce()
            if self._link.node is not None:
                self._labels.observe(self._link.node)
            if self.joined:
                self._labels.describe(self._config.description)
            # The kubelet is stopped before and started after labels are sent: a start must not deploy by
            # labels about to change, and a stop must not wait for an API server that does not answer.
            if not self._kubelet_rule()[0]:
                await self._rule_kubelet()
            if self._link.cluster is not None:
                await self._labels.send(self._link.cluster)
            await self._rule_kubelet()
            await self._kubelet.keep_registered(gone=self._node_gone)
            self.engaged = bool(master.ip) or self._kubelet.running is not False

    def _idle_s(self) -> float | None:
        """Return the seconds until the next timed action; None: none is due."""
        if self._config.master is None or not self.engaged or self._link.packages_missing:
            return None
        now, settled_at = self._runtime.clock(), self._labels.settled_at
        due_at = self._labels.due_at if self._link.cluster is not None else None
        node, kubelet = self._status.node, self._kubelet
        later = (due_at, node.counts_at, kubelet.retry_at, kubelet.registration.again_at)
        times = [self._audit.at, *(at for at in later if at is not None)]
        times += [settled_at] if settled_at > now else []
        return max(0.0, min(times) - now)

    def _observe_local(self, master: MasterConfig) -> bool:
        """Observe what needs no external call; return whether this switch uses Kubernetes."""
        if master.ip:
            self.engaged = True
        if self._link.packages_missing or not self.engaged:
            self._note_state(joined=False, hold=self.hold)
            return False
        joined = master.wanted and self._ports.credential_fits() and not self.leaving
        self._note_state(joined=joined, hold=self._ports.switch.hold_exists())
        if self._audit.begins():
            self._kubelet.audit()
            self._file.retry()
            self._status.check(master, joined=self.joined)
        return True

    def _note_state(self, *, joined: bool, hold: bool) -> None:
        """Take the state over, and have the features planned again where Kubernetes can no longer deploy, or can.

        Without a master their audit is soon enough.
        """
        before, no_deploy = self._state.no_deploy, self._status.no_deploy(joined=joined, leaving=self.leaving)
        self._state = _NodeState(joined, hold, no_deploy)
        if self.engaged and no_deploy != before:
            self._listeners.wake_feature(None)

    def _announce(self) -> None:
        """Log a join or leave, and the begin or end of a reboot preparation."""
        if self._state != self._announced:
            self._announced = self._state
            why = self._kubelet_rule()[1]
            no_deploy = self.no_deploy if self.joined else ""
            self._runtime.log.info(
                "cluster", joined=self.joined, hold=self.hold, why=why, no_deploy=no_deploy
            )
            self._listeners.wake_feature(None)

    async def _keep_link(self, master: MasterConfig, tasks: asyncio.TaskGroup) -> None:
        """Keep a link exactly while joined, to the configured master."""
        if not self.joined:
            await self._link.drop("not joined", announce=False)
            return
        if await self._link.keep(master, tasks):
            self._labels.retry_now(fresh=True)
        if self._link.packages_missing:
            self._note_state(joined=False, hold=self.hold)

    def _kubelet_rule(self) -> tuple[bool, str]:
        return self._status.rule(joined=self.joined, hold=self.hold)

    @property
    def _node_gone(self) -> bool:
        """Whether the API server does not have the Node that it once had."""
        missing = self.joined and self.connected and self._link.node_exists is False
        return missing and bool(self._file.queue.uid) and not self._ports.is_joining()

    async def _rule_kubelet(self) -> None:
        if self._ports.is_joining():
            self._kubelet.retry_at = None
            return
        before = self._kubelet.running
        await self._kubelet.rule(*self._kubelet_rule())
        if self._kubelet.running is not before:
            if self._kubelet.running:
                self._status.node.kubelet_started()
            self._listeners.wake_feature(None)

    # ---- called by the parts --------------------------------------------------------------------

    def link_state(self) -> tuple[bool | None, int]:
        """See status_mirror.Mirrored."""
        return self._link.state

    def pending(self) -> tuple[str, ...]:
        """See status_mirror.Mirrored."""
        return tuple(str(change) for change in self._file.queue.changes)

    def _labels_applied(self) -> None:
        # Labels have no effect without a running kubelet (the design document, section Transient info).
        self._kubelet.stale = True
        self._link.answers()

    def _queue_changed(self) -> None:
        self._labels.forget_delivered()
        self._mirror.wake()

    def _labels_queued(self, changes: Sequence[Change]) -> None:
        self._due.set()
        self._labels.note_queued(changes)

    def _link_changed(self) -> None:
        self._mirror.wake()
        self._listeners.wake_feature(None)

    def _node_seen(self, seen: NodeSeen | None, news: bool) -> None:
        self._status.node.observe(None if seen is None else seen.condition)
        if seen is not None:
            self._labels.meet(seen)
        if news:
            self._labels.retry_now()
            self._listeners.linked()
        self._due.set()


class _Audit:
    """The time of the next audit; the first one is due at once."""

    def __init__(self, every_s: float, clock: Callable[[], float]) -> None:
        self._every_s = every_s
        self._clock = clock
        self.at = 0.0

    def begins(self) -> bool:
        """Return whether an audit is due, and set the time of the next one."""
        due = self._clock() >= self.at
        if due:
            self.at = self._clock() + self._every_s
        return due
