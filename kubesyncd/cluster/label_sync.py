"""Deliver node labels to the API server, in order, and observe the labels of the Node.

Knows the label queue and the Cluster port; knows no feature's state and not why a label is wanted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubesyncd.cluster.contests import Contests
from kubesyncd.cluster.queue_file import SERVICE
from kubesyncd.core import label_queue, labels
from kubesyncd.core.labels import Change, feature_label, feature_of
from kubesyncd.core.model import KubeLabel, LabelView
from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kubesyncd.cluster.listeners import Listeners
    from kubesyncd.cluster.queue_file import QueueFile
    from kubesyncd.core.label_queue import Fold, Queue
    from kubesyncd.core.model import NodeSeen, Timing
    from kubesyncd.ports import Cluster
    from kubesyncd.runtime.context import Runtime

# A watch event this soon after our own PATCH may be older than it; the newest event is used afterwards.
SETTLE_S = 1.0


class LabelSync:
    """The delivery of the labels that wait in `file`. `applied` is called after each successful PATCH."""

    def __init__(
        self,
        file: QueueFile,
        *,
        timing: Timing,
        runtime: Runtime,
        listeners: Listeners,
        applied: Callable[[], None],
    ) -> None:
        self._clock = runtime.clock
        self._log = runtime.log
        self._listeners = listeners
        self._applied = applied
        self._backoff = runtime.backoff(timing)
        self._wait_s = timing.label_wait_s
        self._file = file
        # Keys whose absence on the Node is tracked too.
        self._asked: set[str] = set()
        self._times = _Times()
        self._contests = Contests(runtime)
        self.refusals: dict[str, str] = {}
        self.failure: PortError | None = None
        self.retry_at = 0.0
        self.settled_at = 0.0
        self._attempts = _Attempts()

    # ---- called from outside ---------------------------------------------------------------------

    def view(self, feature: str, node: Mapping[str, str] | None) -> LabelView:
        """Return the state of the feature's label.

        `node`: the Node's labels. The label's absence there is tracked from now on.
        """
        key = feature_label(feature)
        if not labels.is_key(key):
            return LabelView(KubeLabel.OFF, refused="its name cannot be part of a node label")
        if len(self._asked) < label_queue.APPLIED_MAX:
            self._asked.add(key)
        value = self.queue.effective(key)
        if value is KubeLabel.UNKNOWN and node is not None:
            value = node.get(key)
        shown = KubeLabel.ON if value == "true" else KubeLabel.OFF
        return LabelView(
            value=KubeLabel.UNKNOWN if value is KubeLabel.UNKNOWN else shown,
            pending=key in self.queue.keys,
            failed=key in self.queue.failed,
            refused=self.refusals.get(key, ""),
            contested=self._contests.told(key),
            queued_at=self._times.queued.get(key),
            acked_at=self._times.acked.get(key),
        )

    async def outcome(self, changes: Sequence[Change], upto: int, *, wait: bool) -> bool:
        """Return whether changes queued up to `upto` are applied; `wait`: at most `label_wait_s` for their delivery.

        Raises Refused where the API server rejects one, or a reset has dropped them.
        """
        tried, purges = self._attempts.begun, self._attempts.purges
        keys = {change.key for change in changes}
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s if wait else 0.0):
                while self.queue.holds(keys, upto) and self._attempts.in_vain <= tried:
                    await self._attempts.over.wait()
        if self._attempts.purges != purges:
            raise Refused(SERVICE, "a reset has dropped the label; add it again")
        refused = [self.refusals[key] for key in sorted(keys) if key in self.refusals]
        if refused:
            raise Refused(SERVICE, "; ".join(refused))
        return not self.queue.holds(keys, upto)

    async def purge(self) -> None:
        """Drop every label: the switch was reset. Raises Unavailable, and then nothing is forgotten."""
        await self._file.purge()
        self.refusals.clear()
        self._times.acked.clear()
        self._attempts.purge()
        self._listeners.wake_feature(None)

    def describe(self, description: Sequence[Change]) -> None:
        """Queue the labels that describe the switch, where the Node does not have them."""
        self._asked |= {change.key for change in description}
        wrong = [
            change
            for change in description
            if self.queue.effective(change.key) != change.value and change.key not in self.refusals
        ]
        if wrong:
            # A restart derives them again, so there is nothing to wait for on the disk.
            with suppress(Refused):
                self._file.append_soon(wrong)

    # ---- sending --------------------------------------------------------------------------------

    def retry_now(self, *, fresh: bool = False) -> None:
        """Send at the next turn; `fresh`: to another API server, with the backoff reset."""
        self.retry_at = 0.0
        if fresh:
            self._backoff.reset()

    @property
    def due_at(self) -> float | None:
        """When pending labels are to be sent; None: none is pending."""
        keys = self.queue.keys
        if not keys:
            return None
        held = self._contests.held(self.queue)
        return max(self.retry_at, self._contests.over_at(held)) if held == keys else self.retry_at

    async def send(self, cluster: Cluster) -> None:
        """Send the pending labels, if it is time."""
        if not self.queue.pending or self._clock() < self.retry_at:
            return
        fold = self.queue.fold(self._contests.held(self.queue))
        if not fold.changes:
            return
        self._attempts.begun += 1
        await self._send(cluster, fold)
        self._attempts.finish()

    async def _send(self, cluster: Cluster, fold: Fold) -> bool:
        """Send one PATCH; where the API server refuses it, each label on its own; return whether to go on sending."""
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
        self.failure = None
        self._backoff.reset()
        self.retry_at = 0.0
        self.settled_at = now + SETTLE_S
        self._applied()
        self._times.acked |= dict.fromkeys(fold.changes, now)
        self._file.keep(self.queue.acknowledge(fold))
        self._times.acked = {key: at for key, at in self._times.acked.items() if key in self.queue.applied}
        self._wake_features(fold.changes)

    def _rejected(self, fold: Fold, error: Refused) -> None:
        """Drop a label that the API server rejects for good; its feature does not request it again before a reset."""
        for key, value in fold.changes.items():
            self._log.error("label_rejected", label=key, value=value, why=error.detail)
            self._listeners.notice("LabelRejected", f"{key}: {error.detail}")
            if len(self.refusals) < label_queue.PENDING_MAX:
                self.refusals[key] = error.detail
        self._file.keep(self.queue.reject(fold))
        self._wake_features(fold.changes)

    def _failed(self, fold: Fold, error: PortError) -> None:
        """Keep everything, stop the kubelet (by its rule), try again later. Logged once per kind of failure."""
        if type(error) is not type(self.failure):
            fix = "allow it on the master: the kubelet's user is of the group system:nodes"
            why = f"{error.detail}; {fix}" if isinstance(error, Forbidden) else error.detail
            self._log.warning("labels_failed", labels=sorted(fold.changes), why=why)
        wait_s = self._backoff.longest_s() if isinstance(error, Forbidden) else self._backoff.next_s()
        self._retry_after(error, wait_s)
        queue = self.queue.fail(fold)
        if queue.failed != self.queue.failed:
            self._file.keep(queue)
            self._wake_features(fold.changes)

    def _node_unknown(self, error: Missing) -> None:
        """Wait for the Node: only a running kubelet registers it, so no label counts as failed until then."""
        if type(error) is not type(self.failure):
            self._log.info("labels_wait_for_node", why=error.detail)
        self._retry_after(error, self._backoff.next_s())
        queue = self.queue.forgive()
        if queue is not self.queue:
            failed = self.queue.failed
            self._file.keep(queue)
            self._wake_features(failed)

    def _retry_after(self, error: PortError, wait_s: float) -> None:
        self.failure = error
        self.retry_at = self._clock() + wait_s
        self._attempts.in_vain = self._attempts.begun

    # ---- observing ------------------------------------------------------------------------------

    def meet(self, seen: NodeSeen) -> None:
        """Queue all wishes again for a Node that is new, or that was restored from a backup."""
        before = self.queue
        queue = before.meet(seen)
        if queue is before:
            return
        self._file.keep(queue)
        again = sorted(change.key for change in queue.changes[len(before.pending) :])
        if again:
            why = "the master's store is older than before" if seen.older else "the node was registered again"
            self._log.info("labels_wished_again", labels=again, why=why)
            self.retry_now(fresh=True)

    def observe(self, node: Mapping[str, str]) -> None:
        """Take over the labels observed on the Node; a changed label wakes its feature."""
        if self._clock() < self.settled_at:
            return
        before = self.queue
        queue = before.observe(node, self._asked)
        if queue is before:
            return
        learnt = {k: v for k, v in queue.applied.items() if before.applied.get(k, KubeLabel.UNKNOWN) != v}
        drifted = sorted(key for key in learnt if key in before.applied)
        if drifted:
            self._log.info("labels_drifted", labels={key: learnt[key] for key in drifted})
        for key in drifted:
            wanted = before.effective(key)
            # Another client may also change it back to what it is to be.
            if feature_of(key) is not None and wanted is not KubeLabel.UNKNOWN and learnt[key] != wanted:
                self._contests.changed(key, wanted)
        self._file.keep(queue)
        self._wake_features(learnt)

    # ---- bookkeeping ----------------------------------------------------------------------------

    @property
    def queue(self) -> Queue:
        """The labels that wait, and those that the master has."""
        return self._file.queue

    def note_queued(self, changes: Sequence[Change]) -> None:
        """Note that `changes` were queued: they are sent at the next turn."""
        now = self._clock()
        for change in changes:
            self._times.queued[change.key] = now
            self.refusals.pop(change.key, None)
        self.retry_at = 0.0
        self._wake_features(change.key for change in changes)

    def forget_delivered(self) -> None:
        """Forget when labels were queued that are not pending any more."""
        self._times.queued = {key: at for key, at in self._times.queued.items() if key in self.queue.keys}

    def _wake_features(self, keys: Iterable[str]) -> None:
        for key in sorted(keys):
            feature = feature_of(key)
            if feature is not None:
                self._listeners.wake_feature(feature)


@dataclass(slots=True)
class _Times:
    """When labels were queued and acknowledged, in BOOTTIME seconds."""

    queued: dict[str, float] = field(default_factory=dict)
    acked: dict[str, float] = field(default_factory=dict)


class _Attempts:
    """Counts attempts to send, for callers that wait for an outcome."""

    def __init__(self) -> None:
        self.begun = 0
        self.in_vain = 0
        self.purges = 0
        self.over = asyncio.Event()

    def finish(self) -> None:
        """End an attempt and wake the callers that wait for it."""
        self.over.set()
        self.over = asyncio.Event()

    def purge(self) -> None:
        """Note that every label was dropped, and wake waiting callers."""
        self.purges += 1
        self.finish()
