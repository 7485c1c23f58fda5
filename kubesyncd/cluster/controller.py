"""Does the master have our labels, and may the kubelet run? The one coroutine that asks the master.

Knows the ports and the label queue; knows nothing of features' states, of sockets, or why a label is wanted.

Four loops share the queue. It is a value, and whoever changes it does so between two awaits; only its file, which
may be slow, is written by one at a time:
- `_act` keeps the link, sends labels and rules the kubelet, at its own pace;
- `_follow` watches the own Node while there is a link;
- `_write` brings the file up to what changed, with nobody waiting for it;
- `_report` reads the master's configuration from Redis and tells it what is true. A stalled Redis delays
  neither labels nor the kubelet, and a stalled master delays no report.

Without a configured master nothing is read but the configuration, and nothing is written, started or said.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kubesyncd.cluster.kubelet import KubeletGate
from kubesyncd.core import label_queue, labels
from kubesyncd.core.labels import Change, feature_label, feature_of
from kubesyncd.core.model import KubeLabel, LabelView
from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable
from kubesyncd.runtime.alerts import Alerts
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.runtime.x509 import EXPIRY_WARNING_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.label_queue import Fold, Queue
    from kubesyncd.core.model import MasterConfig, Timing
    from kubesyncd.ports import Cluster, DurableFile, FeatureStore, Units

SERVICE = "Kubernetes"

# A watch event this soon after our own PATCH may be older than it; the newest one is looked at afterwards.
SETTLE_S = 1.0
# A link that broke sooner is no proof of a healthy master: its retries go on slowing down.
STABLE_LINK_S = 5.0
# So many different reasons for one outage are said; the next ones are in `show kubernetes status` only.
OUTAGE_REASONS_MAX = 8
REMINDER_S = 86_400.0


class ClusterController:
    """The road of every label, and the kubelet's gate (spec section 6). `run()` is its life.

    `connect` makes the adapter for a master; ImportError means: no Kubernetes packages, local mode.
    `wake_feature` gets a feature whose label changed, or None for all. `clock`: BOOTTIME seconds;
    `wall`: seconds since the epoch. `joining`: a join or a reset is under way, and the kubelet is its
    business. `os_version`: for the labels by which the switch describes itself.
    `credential_ends`: when the kubelet's certificate does, in seconds since the epoch; None: nobody can tell.
    `linked` is told whenever the master answers again or has our Node anew; `notice` gets what the fleet's
    operator should hear: a word in CamelCase and a sentence.
    `troubles`: what goes wrong elsewhere too, and is told once.
    """

    def __init__(
        self,
        *,
        store: FeatureStore,
        units: Units,
        connect: Callable[[MasterConfig], Cluster],
        kubeconfig_exists: Callable[[], bool],
        hold_exists: Callable[[], bool],
        file: DurableFile,
        timing: Timing,
        rng: Random,
        clock: Callable[[], float],
        wall: Callable[[], float],
        wake_feature: Callable[[str | None], None],
        logger: FilteringBoundLogger,
        joining: Callable[[], bool] = lambda: False,
        os_version: Callable[[], str] = lambda: "",
        credential_ends: Callable[[], float | None] = lambda: None,
        linked: Callable[[], None] = lambda: None,
        notice: Callable[[str, str], None] = lambda _reason, _message: None,
        troubles: Alerts | None = None,
    ) -> None:
        def backoff() -> Backoff:
            return Backoff(rng, timing.backoff_s, timing.backoff_s_max)

        self._store = store
        self._connect = connect
        self._kubeconfig_exists = kubeconfig_exists
        self._hold_exists = hold_exists
        self._joining = joining
        self._os_version = os_version
        self._credential_ends = credential_ends
        self._linked = linked
        self._notice = notice
        self._file = file
        self._troubles = troubles or Alerts()
        self._timing = timing
        self._clock = clock
        self._wall = wall
        self._wake_feature = wake_feature
        self._log = logger

        # What we are told from outside.
        self.joined = False
        self.hold = False
        self._announced: tuple[bool, bool] | None = None
        self._master: MasterConfig | None = None
        self._description: tuple[Change, ...] = ()
        self.originals: Mapping[str, str] = {}
        self._packages_missing = False

        # The link.
        self._cluster: Cluster | None = None
        self._linked_to: tuple[str, int, bool] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._connected: bool | None = None
        self._connected_ts = 0
        self._link_why = ""
        self._outage_reasons: set[str] = set()
        self._node: Mapping[str, str] | None = None
        self._node_exists: bool | None = None
        self._watch_backoff = backoff()
        self._insecure_said_at: float | None = None
        self._expiry_said_at: float | None = None
        self._expires_ts: float | None = None

        # Labels. `_asked`: those whose absence on the Node is worth knowing too.
        self._queue = self._loaded()
        self._unsaved = False
        self._saving = asyncio.Lock()
        self._to_save = asyncio.Event()
        self._asked: set[str] = set()
        self._queued_at: dict[str, float] = {}
        self._acked_at: dict[str, float] = {}
        self._refusals: dict[str, str] = {}
        self._labels_backoff = backoff()
        self._retry_at = 0.0
        self._settled_at = 0.0
        self._failure: PortError | None = None
        self._attempt = 0
        self._attempt_in_vain = 0
        self._purges = 0

        # Labels once applied are ours to look after, also when the master's configuration is gone meanwhile.
        self._engaged = bool(self._queue.applied)
        self._kubelet = KubeletGate(units, backoff(), clock, logger)
        self._audit_at = 0.0

        self._redis_backoff = backoff()
        self._redis_failing = False
        self._reported: tuple[bool, int] | None = None
        self._mirrored: tuple[str, ...] = ()
        self._restate = True

        self._due = asyncio.Event()
        self._to_report = asyncio.Event()
        self._relink = asyncio.Event()
        self._progress = asyncio.Event()

    # ---- for reconcilers, server and operators ------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the master answers us now."""
        return bool(self._connected)

    @property
    def cluster(self) -> Cluster | None:
        """The link to a master that answers and has our Node; None: there is none now."""
        return self._cluster if self._connected and self._node_exists else None

    @property
    def kubelet_running(self) -> bool | None:
        """Whether the kubelet's unit is active; None: not looked at, or it could not be asked."""
        return self._kubelet.running

    @property
    def node_labels(self) -> Mapping[str, str] | None:
        """All labels of the own Node, as last seen; None: it has not been seen."""
        return self._node if self._node_exists else None

    def view(self, feature: str) -> LabelView:
        """What is known of the feature's label. Its absence on the Node is watched from now on."""
        key = feature_label(feature)
        if not labels.is_key(key):
            return LabelView(KubeLabel.OFF, refused="its name is too long for a node label")
        if len(self._asked) < label_queue.APPLIED_MAX:
            self._asked.add(key)
        value = self._queue.effective(key)
        if value is KubeLabel.UNKNOWN and self._node is not None:
            value = self._node.get(key)
        shown = KubeLabel.ON if value == "true" else KubeLabel.OFF
        return LabelView(
            value=KubeLabel.UNKNOWN if value is KubeLabel.UNKNOWN else shown,
            pending=key in self._queue.keys,
            failed=key in self._queue.failed,
            refused=self._refusals.get(key, ""),
            queued_at=self._queued_at.get(key),
            acked_at=self._acked_at.get(key),
        )

    async def request(self, changes: Sequence[Change]) -> None:
        """Queue `changes`, durably. Returns once they cannot be lost any more, not once they are applied.

        Raises Unavailable where they cannot be kept, Refused where too many others wait.
        """
        await self._append_surely(changes)

    async def request_feature(self, feature: str, *, on: bool) -> None:
        """Queue a feature's label. Raises Refused where too many others wait.

        A full disk must stop no feature: the reconcilers know what they want and ask again after a restart.
        """
        self._append([Change(feature_label(feature), "true" if on else None)])
        self._to_save.set()

    async def apply(self, changes: Sequence[Change]) -> str:
        """Queue `changes` behind all that waits, and see for at most `label_wait_s` what becomes of them.

        Returns `applied` or `queued (<why>; <n> pending)`. Raises Refused where the master will not take one
        (the others are applied), or too many others wait; Unavailable where they cannot be kept.
        """
        upto = await self._append_surely(changes)
        attempt, purges = self._attempt, self._purges
        keys = {change.key for change in changes}
        if self.joined:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.label_wait_s):
                    while self._queue.holds(keys, upto) and self._attempt_in_vain <= attempt:
                        await self._progress.wait()
        if self._purges != purges:
            raise Refused(SERVICE, "a reset has dropped the label; add it again")
        refused = [self._refusals[key] for key in sorted(keys) if key in self._refusals]
        if refused:
            raise Refused(SERVICE, "; ".join(refused))
        if self._queue.holds(keys, upto):
            return f"queued ({self._why_pending()}; {len(self._queue.pending)} pending)"
        return "applied"

    async def purge(self) -> None:
        """Forget every label, queued or applied: the switch was reset.

        Raises Unavailable, and then nothing is forgotten.
        """
        async with self._saving:
            await self._file.save(label_queue.encode(self._queue.purge()))
            self._purges += 1
            self._replace(self._queue.purge())
        self._refusals.clear()
        self._acked_at.clear()
        self._attempt_over()
        self._wake_feature(None)

    def wake(self) -> None:
        """Something outside may have changed: the configuration, STATE_DB, a hold, a join. Look again."""
        self._restate = True
        self._kubelet.stale = True
        self._to_report.set()
        self._due.set()

    def status(self) -> dict[str, Any]:
        """What operators may want to see, in JSON's types."""
        master, now = self._master, self._clock()
        return {
            "master": f"{master.ip}:{master.port}" if master and master.ip else "",
            "disabled": bool(master and master.disable),
            "insecure": bool(master and master.insecure),
            "joined": self.joined,
            "connected": self.connected,
            "why_disconnected": self._link_why if self.joined and not self.connected else "",
            "last_update_ts": self._connected_ts,
            "credential_expires_ts": None if self._expires_ts is None else int(self._expires_ts),
            "node_exists": self._node_exists,
            "node_labels": None if self.node_labels is None else dict(self.node_labels),
            "hold": self.hold,
            "kubelet": self.kubelet_running,
            "kubelet_may_run": self._kubelet_rule()[0],
            "kubelet_why": self._kubelet_rule()[1],
            "pending": [str(change) for change in self._queue.changes],
            "failed": sorted(self._queue.failed),
            "applied": {key: value for key, value in self._queue.applied.items() if value is not None},
            "refused": dict(self._refusals),
            "why_pending": self._why_pending() if self._queue.pending else "",
            "retry_in_s": round(max(0.0, self._retry_at - now), 1) if self._queue.pending else 0.0,
        }

    async def run(self) -> None:
        """Never returns. An unexpected exception ends all loops and is raised."""
        # Until the configuration has been read, whoever has had labels applied is still joined: a stop that an
        # earlier life began must not end a container while the kubelet sees its label.
        self.joined = bool(self._queue.applied) and self._kubeconfig_exists()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report(), name="cluster-report")
            tasks.create_task(self._write(), name="cluster-write")
            try:
                await self._act(tasks)
            finally:
                await self._unlink()

    # ---- acting ---------------------------------------------------------------------------------

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await _rung(self._due, self._idle_s())
            if self._master is None or not self._look(self._master):
                continue
            await self._keep_link(self._master, tasks)
            if self._packages_missing:
                continue
            self._announce()
            self._observe()
            self._describe()
            # The kubelet is stopped before and started after labels are tried: a start must not deploy by
            # labels about to change, and a stop must not wait for a master that does not answer.
            if not self._kubelet_rule()[0]:
                await self._rule_kubelet()
            await self._send_pending()
            await self._rule_kubelet()
            self._engaged = bool(self._master.ip) or self._kubelet.running is not False

    def _idle_s(self) -> float | None:
        """Seconds until there is something to do without anybody waking us; None: there is nothing."""
        if self._master is None or not self._engaged or self._packages_missing:
            return None
        times = [self._audit_at]
        if self._cluster is not None and self._queue.pending:
            times.append(self._retry_at)
        if self._kubelet.retry_at is not None:
            times.append(self._kubelet.retry_at)
        if self._settled_at > self._clock():
            times.append(self._settled_at)
        return max(0.0, min(times) - self._clock())

    def _look(self, master: MasterConfig) -> bool:
        """Take in what needs no answer from anybody. Returns whether Kubernetes is any business of ours."""
        if master.ip:
            self._engaged = True
        if self._packages_missing or not self._engaged:
            return False
        self.joined = master.wanted and self._kubeconfig_exists()
        self.hold = self._hold_exists()
        if self._clock() >= self._audit_at:
            self._audit(master)
        return True

    def _announce(self) -> None:
        """Say it where we have joined or left, or a reboot is being prepared or not any more."""
        now = (self.joined, self.hold)
        if now != self._announced:
            self._announced = now
            self._log.info("cluster", joined=self.joined, hold=self.hold, why=self._kubelet_rule()[1])
            self._wake_feature(None)

    def _audit(self, master: MasterConfig) -> None:
        now = self._clock()
        self._audit_at = now + self._timing.audit_s
        self._kubelet.stale = True
        if self._unsaved:
            self._to_save.set()
        if self.joined and master.insecure and _long_ago(self._insecure_said_at, now):
            self._insecure_said_at = now
            self._log.warning(
                "insecure_master",
                why="the master's certificate is not checked; run: config kube server insecure off",
            )
        self._audit_credential(now)

    def _audit_credential(self, now: float) -> None:
        """The kubelet renews its certificate in time; where it does not, say so while there is time."""
        self._expires_ts = self._credential_ends() if self.joined else None
        if self._expires_ts is None:
            return
        left_s = self._expires_ts - self._wall()
        if left_s < EXPIRY_WARNING_S and _long_ago(self._expiry_said_at, now):
            self._expiry_said_at = now
            left = "has expired" if left_s <= 0 else f"expires in {left_s / 86_400:.0f} days"
            why = f"the kubelet's certificate {left}; see why the kubelet does not renew it, or: config kube join -f"
            self._log.error("credential_expires", alert=True, why=why)
            self._notice("CredentialExpires", why)

    async def _keep_link(self, master: MasterConfig, tasks: asyncio.TaskGroup) -> None:
        """A link exactly while joined, to the master that is configured now."""
        if not self.joined:
            await self._unlink()
            self._set_connected(False, "not joined")
            return
        if self._linked_to is not None and self._linked_to != _address(master):
            await self._unlink()
            self._set_connected(False, "another master is configured")
        if self._cluster is not None:
            return
        try:
            self._cluster = self._connect(master)
        except ImportError:
            self._packages_missing, self.joined = True, False
            return
        self._linked_to = _address(master)
        self._link_why = "it has not answered yet"
        self._watch_backoff.reset()
        self._labels_backoff.reset()
        self._retry_at = 0.0
        self._watcher = tasks.create_task(self._follow(self._cluster), name="cluster-watch")

    async def _unlink(self) -> None:
        watcher, cluster = self._watcher, self._cluster
        self._watcher = self._cluster = None
        self._linked_to = self._node = self._node_exists = None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if cluster is not None:
            with suppress(PortError):
                await cluster.close()

    def _kubelet_rule(self) -> tuple[bool, str]:
        """Whether the kubelet may run, and why (promise S4)."""
        if not self.joined:
            return False, self._why_not_joined()
        if self.hold:
            return False, "a reboot is being prepared"
        if self._queue.failed:
            failed = len(self._queue.failed)
            return False, f"{failed} label{'' if failed == 1 else 's'} could not reach the master"
        return True, "joined, and no label has failed to reach the master"

    async def _rule_kubelet(self) -> None:
        if self._joining():
            self._kubelet.retry_at = None
            return
        before = self._kubelet.running
        await self._kubelet.rule(*self._kubelet_rule())
        if self._kubelet.running is not before:
            self._wake_feature(None)

    # ---- labels ---------------------------------------------------------------------------------

    async def _send_pending(self) -> None:
        if self._cluster is None or not self._queue.pending or self._clock() < self._retry_at:
            return
        self._attempt += 1
        await self._send(self._cluster, self._queue.fold())
        self._attempt_over()

    async def _send(self, cluster: Cluster, fold: Fold) -> bool:
        """One PATCH; where the master refuses it, each label on its own. Returns whether to go on sending."""
        begun = self._clock()
        try:
            await cluster.apply_labels(fold.changes)
        except Missing as error:
            self._node_unknown(error)
            return False
        except Forbidden as error:
            self._failed(fold, error)
            return False
        except Refused as error:
            if len(fold.changes) == 1:
                self._rejected(fold, error)
                return True
            return await self._send_each(cluster, fold)
        except Unavailable as error:
            self._failed(fold, error)
            return False
        self._acknowledged(fold, round((self._clock() - begun) * 1000))
        return True

    async def _send_each(self, cluster: Cluster, fold: Fold) -> bool:
        for key in fold.changes:
            if not await self._send(cluster, fold.only(key)):
                return False
        return True

    def _acknowledged(self, fold: Fold, took_ms: int) -> None:
        now = self._clock()
        shown = {key: "(removed)" if value is None else value for key, value in fold.changes.items()}
        self._log.info("labels_applied", labels=shown, folded=fold.count, took_ms=took_ms)
        self._failure = None
        self._labels_backoff.reset()
        self._retry_at = 0.0
        self._settled_at = now + SETTLE_S
        # Labels are of no use without a kubelet that acts on them (the seed, section Transient info).
        self._kubelet.stale = True
        if not self._connected:
            self._relink.set()
        self._acked_at |= dict.fromkeys(fold.changes, now)
        self._keep(self._queue.acknowledge(fold))
        self._acked_at = {key: at for key, at in self._acked_at.items() if key in self._queue.applied}
        self._wake_features(fold.changes)

    def _rejected(self, fold: Fold, error: Refused) -> None:
        """The master will never take this label; its feature will not ask again before a reset."""
        for key, value in fold.changes.items():
            self._log.error("label_rejected", label=key, value=value, why=error.detail)
            self._notice("LabelRejected", f"{key}: {error.detail}")
            if len(self._refusals) < label_queue.PENDING_MAX:
                self._refusals[key] = error.detail
        self._keep(self._queue.reject(fold))
        self._wake_features(fold.changes)

    def _failed(self, fold: Fold, error: PortError) -> None:
        """Keep everything, stop the kubelet (by its rule), try again later. Said once per kind of failure."""
        if type(error) is not type(self._failure):
            fix = "allow this node to label itself, or join again: config kube join -f"
            why = f"{error.detail}; {fix}" if isinstance(error, Forbidden) else error.detail
            self._log.warning("labels_failed", labels=sorted(fold.changes), why=why)
        self._failure = error
        backoff = self._labels_backoff
        wait_s = backoff.longest_s() if isinstance(error, Forbidden) else backoff.next_s()
        self._retry_at = self._clock() + wait_s
        self._attempt_in_vain = self._attempt
        queue = self._queue.fail(fold)
        if queue.failed != self._queue.failed:
            self._keep(queue)
            self._wake_features(fold.changes)

    def _node_unknown(self, error: Missing) -> None:
        """No failure: only a running kubelet creates the Node, so nothing may count as failed meanwhile."""
        if type(error) is not type(self._failure):
            self._log.info("labels_wait_for_node", why=error.detail)
        self._failure = error
        self._retry_at = self._clock() + self._labels_backoff.next_s()
        self._attempt_in_vain = self._attempt
        queue = self._queue.forgive()
        if queue is not self._queue:
            failed = self._queue.failed
            self._keep(queue)
            self._wake_features(failed)

    async def _append_surely(self, changes: Sequence[Change]) -> int:
        """`_append`, once the file has them. Raises Unavailable besides, where they cannot be kept."""
        async with self._saving:
            await self._file.save(label_queue.encode(self._with(changes)))
            self._troubles.ends("labels_not_saved", "labels")
            self._unsaved = False
            # What happened to the queue while the disk was busy is written next, by `_write`.
            return self._append(changes)

    def _append(self, changes: Sequence[Change]) -> int:
        """Queue, in memory; returns the arrival number behind the last one. Raises Refused."""
        queue = self._with(changes)
        now = self._clock()
        self._replace(queue)
        for change in changes:
            self._queued_at[change.key] = now
            self._refusals.pop(change.key, None)
        self._retry_at = 0.0
        self._due.set()
        self._wake_features(change.key for change in changes)
        return queue.arrivals

    def _with(self, changes: Sequence[Change]) -> Queue:
        try:
            return self._queue.append(changes)
        except label_queue.QueueFull as error:
            raise Refused(SERVICE, str(error)) from error

    def _describe(self) -> None:
        """Queue the labels by which the switch describes itself, where the Node does not have them."""
        wrong = [
            change
            for change in self._description
            if self._queue.effective(change.key) != change.value and change.key not in self._refusals
        ]
        if self.joined and wrong:
            # A restart finds them again, so nobody waits for the disk.
            with suppress(Refused):
                self._append(wrong)
                self._to_save.set()

    def _keep(self, queue: Queue) -> None:
        """Take `queue` over. As long as the file has not followed it is older than the truth, which loses nothing:
        what was applied is applied once more after a restart, in the same order.
        """
        self._replace(queue)
        self._to_save.set()

    def _replace(self, queue: Queue) -> None:
        self._queue = queue
        self._queued_at = {key: at for key, at in self._queued_at.items() if key in queue.keys}
        self._to_report.set()

    async def _write(self) -> None:
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            async with self._saving:
                await self._save()

    async def _save(self) -> None:
        try:
            await self._file.save(label_queue.encode(self._queue))
        except Unavailable as error:
            if not self._unsaved:
                alert = self._troubles.begins("labels_not_saved", "labels", str(error))
                self._log.error("labels_not_saved", alert=alert, why=str(error))
            self._unsaved = True
        else:
            self._troubles.ends("labels_not_saved", "labels")
            self._unsaved = False

    def _loaded(self) -> Queue:
        try:
            queue, problems = label_queue.decode(self._file.load())
        except Unavailable as error:
            queue, problems = label_queue.Queue(), (f"{error}; the label queue starts empty",)
        for problem in problems:
            self._log.error("labels_not_loaded", why=problem)
        return queue

    def _attempt_over(self) -> None:
        """Whoever waits for the outcome of an attempt looks now."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _wake_features(self, keys: Iterable[str]) -> None:
        for key in sorted(keys):
            feature = feature_of(key)
            if feature is not None:
                self._wake_feature(feature)

    # ---- the watch on the own Node --------------------------------------------------------------

    async def _follow(self, cluster: Cluster) -> None:
        while True:
            begun, why = self._clock(), "the watch has ended"
            try:
                async for node_labels in cluster.watch():
                    self._node_seen(node_labels)
            except PortError as error:
                why = error.detail
            self._set_connected(False, why)
            if self._clock() - begun >= STABLE_LINK_S:
                self._watch_backoff.reset()
            await _rung(self._relink, self._watch_backoff.next_s())

    def _node_seen(self, node_labels: Mapping[str, str] | None) -> None:
        news = not self._connected or (node_labels is not None and not self._node_exists)
        self._node = node_labels or {}
        self._node_exists = node_labels is not None
        self._set_connected(True, "the master answers")
        if news:
            self._retry_at = 0.0
            self._linked()
        self._due.set()

    def _observe(self) -> None:
        """Learn from the Node which labels it really has; what drifted away wakes its feature."""
        if self._node is None or self._clock() < self._settled_at:
            return
        before = self._queue
        self._asked |= {change.key for change in self._description}
        queue = before.observe(self._node, self._asked)
        if queue is before:
            return
        learnt = {k: v for k, v in queue.applied.items() if before.applied.get(k, KubeLabel.UNKNOWN) != v}
        drifted = sorted(key for key in learnt if key in before.applied)
        if drifted:
            self._log.info("labels_drifted", labels={key: learnt[key] for key in drifted})
        self._keep(queue)
        self._wake_features(learnt)

    def _set_connected(self, connected: bool, why: str) -> None:
        self._link_why = why
        if connected is self._connected:
            self._tell_outage_reason(why)
            return
        if self.joined or self._connected is not None:
            self._log.info("master", connected=connected, why=why)
        self._outage_reasons = {why}
        self._connected = connected
        self._connected_ts = int(self._wall())
        self._to_report.set()
        self._wake_feature(None)

    def _tell_outage_reason(self, why: str) -> None:
        """An outage begins with a closed connection, and its real reason comes to light at a later try: each once."""
        news = why not in self._outage_reasons and len(self._outage_reasons) < OUTAGE_REASONS_MAX
        if self._connected or not self.joined or not news:
            return
        self._outage_reasons.add(why)
        self._log.info("master", connected=False, why=why)

    # ---- Redis ----------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            try:
                await self._read_configuration()
                await self._tell_the_truth()
            except PortError as error:
                if self._engaged and not self._redis_failing:
                    self._log.warning("master_config_stands", why=str(error))
                self._redis_failing = True
                wait_s = self._redis_backoff.next_s()
            else:
                self._redis_failing = False
                self._redis_backoff.reset()
                wait_s = self._timing.audit_s
            if not await _rung(self._to_report, wait_s):
                # Nobody tells us when STATE_DB is flushed; the store leaves alone what is right already.
                self._restate = True

    async def _read_configuration(self) -> None:
        master = await self._store.master()
        if master.wanted:
            metadata, version = await self._store.device_metadata(), self._os_version()
            self.originals = labels.originals(metadata, version)
            description = labels.self_description(metadata, version)
            if description != self._description:
                self._description = description
                self._due.set()
        if master == self._master:
            return
        known = self._master.problems if self._master else ()
        for problem in set(master.problems) - set(known):
            self._log.warning("master_config", why=problem)
        self._master = master
        self._due.set()

    async def _tell_the_truth(self) -> None:
        restate, self._restate = self._restate, False
        try:
            await self._tell_connected(again=restate)
            await self._tell_pending(again=restate)
        except PortError:
            self._restate |= restate
            raise

    async def _tell_connected(self, *, again: bool) -> None:
        if self._connected is None:
            return
        truth = (self._connected, self._connected_ts)
        if again or truth != self._reported:
            await self._store.write_master(connected=truth[0], ts=truth[1])
            self._reported = truth

    async def _tell_pending(self, *, again: bool) -> None:
        pending = tuple(str(change) for change in self._queue.changes)
        concerned = self._engaged or bool(pending) or bool(self._master and self._master.ip)
        if pending != self._mirrored or (again and concerned):
            await self._store.write_pending(pending)
            self._mirrored = pending

    # ---- words ----------------------------------------------------------------------------------

    def _why_not_joined(self) -> str:
        master = self._master
        if master is None:
            return "the configuration has not been read yet"
        if not master.ip:
            return "no master is configured; run: config kube server ip ADDRESS"
        if master.disable:
            return "the master is disabled; run: config kube server disable off"
        if self._packages_missing:
            return "the Kubernetes packages are not installed"
        return "this switch has not joined; run: config kube join"

    def _why_pending(self) -> str:
        if not self.joined:
            return self._why_not_joined()
        return self._failure.detail if self._failure else "the master has not answered yet"


def _long_ago(said_at: float | None, now: float) -> bool:
    """Whether it is time to say it again."""
    return said_at is None or now - said_at >= REMINDER_S


def _address(master: MasterConfig) -> tuple[str, int, bool]:
    """What a link depends on."""
    return master.ip, master.port, master.insecure


async def _rung(bell: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `bell`, at most `seconds`; returns whether it rang. It is silent before anybody looks."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
    rang = bell.is_set()
    bell.clear()
    return rang
