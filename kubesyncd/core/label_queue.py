"""Keep node labels in order until the API server has them. A `Queue` is a value; every method returns the next one.

A change enters at the back with an arrival number. `fold` reads everything queued as one PATCH, the last value per
key winning. An acknowledgement drops exactly the entries that arrived before the fold: what arrived during the PATCH
stays, also for the same key. Knows no clock, no file, no client, no coroutine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from kubesyncd.core.labels import Change, describes_switch, feature_of
from kubesyncd.core.model import KubeLabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubesyncd.core.model import NodeSeen

# Above this many entries, superseded entries are dropped; more different keys than this are refused.
PENDING_MAX = 1024
APPLIED_MAX = 1024


class QueueFull(Exception):
    """The queue is full: too many different labels are pending."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A queued change and its arrival number, which is never used twice."""

    number: int
    change: Change


@dataclass(frozen=True, slots=True)
class Fold:
    """One PATCH: the last value per key among the entries numbered below `upto`."""

    changes: Mapping[str, str | None]
    upto: int
    count: int

    def only(self, key: str) -> Fold:
        """Return the fold reduced to `key`."""
        return replace(self, changes={key: self.changes[key]})


@dataclass(frozen=True, slots=True)
class Queue:
    """Changes pending for the API server, in order of arrival, and labels it is known to have.

    `applied`: the last value acknowledged or seen on the Node per key; None: known to be absent.
    `failed`: queued keys of a failed attempt; the kubelet must not run until they are delivered (spec, 6).
    `wishes`: the labels that operators want, delivered or not, until they drop them.
    `uid`: the Node that was last observed, empty before the first one. `version`: the newest version of the API
    server's store since operators set or removed a label, 0 before; a lower one comes from an older store.
    """

    pending: tuple[Entry, ...] = ()
    applied: Mapping[str, str | None] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    arrivals: int = 0
    wishes: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    version: int = 0

    @property
    def changes(self) -> tuple[Change, ...]:
        """The pending changes, in order of arrival."""
        return tuple(entry.change for entry in self.pending)

    @property
    def keys(self) -> frozenset[str]:
        """Every key with a pending change."""
        return frozenset(entry.change.key for entry in self.pending)

    def append(self, changes: Iterable[Change]) -> Queue:
        """Return the queue with `changes` appended. Raises QueueFull; then none of them is queued."""
        entries = tuple(Entry(number, change) for number, change in enumerate(changes, self.arrivals))
        pending = self.pending + entries
        if len(pending) > PENDING_MAX:
            pending = _last_per_key(pending)
        if len(pending) > PENDING_MAX:
            raise QueueFull(f"{PENDING_MAX} different labels are pending already; drop some or reset")
        return replace(self, pending=pending, arrivals=self.arrivals + len(entries))

    def wish(self, changes: Iterable[Change]) -> Queue:
        """Return the queue after an operator asked for `changes`. A feature's label is wished by its owner alone.

        Raises QueueFull where too many are wished.
        """
        wishes = dict(self.wishes)
        for change in changes:
            wishes.pop(change.key, None)
            if change.value is not None and feature_of(change.key) is None:
                wishes[change.key] = change.value
        if len(wishes) > PENDING_MAX:
            raise QueueFull(f"{PENDING_MAX} labels are set already; drop some or reset")
        return replace(self, wishes=wishes)

    def meet(self, seen: NodeSeen) -> Queue:
        """Return the queue after observing `seen`: a Node that is new, or was restored, gets all wishes again.

        So does one that has a label again which an operator removed.
        """
        version = (seen.version or self.version) if self.wishes or self._removed else self.version
        known = (seen.uid, version) == (self.uid, self.version)
        queue = self if known else replace(self, uid=seen.uid, version=version)
        older = seen.older or 0 < seen.version < self.version
        if not older and (seen.uid == self.uid or not self.uid):
            return queue
        waiting = self.keys
        wanted = {**dict.fromkeys(self._removed), **self.wishes}
        lost = [key for key, value in wanted.items() if seen.labels.get(key) != value and key not in waiting]
        again = [Change(key, wanted[key]) for key in lost]
        return queue.append(again[: PENDING_MAX - len(waiting)])

    @property
    def _removed(self) -> list[str]:
        """The labels that operators have removed."""
        gone = (key for key, value in self.applied.items() if value is None)
        return [key for key in gone if feature_of(key) is None and not describes_switch(key)]

    @property
    def drifted(self) -> Mapping[str, str | None]:
        """Wishes that another client has changed on the Node, with the value there."""
        waiting = self.keys
        return {
            key: self.applied[key]
            for key, value in self.wishes.items()
            if key in self.applied and key not in waiting and self.applied[key] != value
        }

    def fold(self, held: frozenset[str] = frozenset()) -> Fold:
        """Return everything pending as one PATCH, except for the labels `held` back."""
        folded = [entry.change for entry in self.pending if entry.change.key not in held]
        return Fold({change.key: change.value for change in folded}, self.arrivals, len(folded))

    def acknowledge(self, fold: Fold) -> Queue:
        """Return the queue after the API server accepted `fold`: its entries are removed, its values count as applied.

        A key whose entries have been purged meanwhile is not added to `applied`: the purge was to forget it.
        """
        held = {e.change.key for e in self.pending if _belongs(e, fold)}
        learnt = {key: value for key, value in fold.changes.items() if key in held}
        return replace(self._without(fold), applied=_bounded({**self.applied, **learnt}))

    def reject(self, fold: Fold) -> Queue:
        """Return the queue after the API server rejected `fold` for good: its entries are removed, its wishes are over.

        `applied` stays.
        """
        wishes = {key: value for key, value in self.wishes.items() if fold.changes.get(key) != value}
        return replace(self._without(fold), wishes=wishes)

    def fail(self, fold: Fold) -> Queue:
        """Return the queue after an attempt at `fold` failed: its entries stay queued and count as failed."""
        return replace(self, failed=(self.failed | fold.changes.keys()) & self.keys)

    def forgive(self) -> Queue:
        """Return the queue where the API server answers but the Node is not registered: no entry counts as failed."""
        return replace(self, failed=frozenset()) if self.failed else self

    def purge(self) -> Queue:
        """Return a queue without labels and wishes.

        Arrival numbers continue, so a PATCH in flight cannot drop newer entries.
        """
        return Queue(arrivals=self.arrivals)

    def holds(self, keys: Iterable[str], upto: int) -> bool:
        """Return whether an entry for one of `keys` numbered below `upto` is pending."""
        wanted = frozenset(keys)
        return any(e.number < upto and e.change.key in wanted for e in self.pending)

    def effective(self, key: str) -> str | Literal[KubeLabel.UNKNOWN] | None:
        """Return the value of `key` once everything is applied: last pending, else applied, else UNKNOWN."""
        for entry in reversed(self.pending):
            if entry.change.key == key:
                return entry.change.value
        return self.applied.get(key, KubeLabel.UNKNOWN)

    def observe(self, node_labels: Mapping[str, str], keys: Iterable[str] = ()) -> Queue:
        """Return the queue after observing `node_labels` on the Node.

        `applied` follows for our keys, and pending changes stay. Our keys: `keys`, every feature label of the Node, and
        every key in `applied`.
        """
        ours = {*self.applied, *keys, *(key for key in node_labels if feature_of(key))}
        seen = {key: node_labels.get(key) for key in sorted(ours)}
        if all(key in self.applied and self.applied[key] == value for key, value in seen.items()):
            return self
        return replace(self, applied=_bounded(seen))

    def recall(self, applied: Mapping[str, str | None], failed: Iterable[str]) -> Queue:
        """Return the queue with what was stored together with its pending changes."""
        return replace(self, applied=_bounded(dict(applied)), failed=self.keys & frozenset(failed))

    def infer_wishes(self) -> Queue:
        """Return the queue with the wishes that a file of a version without them implies: what was applied or waits."""
        known = {key: value for key, value in self.applied.items() if not describes_switch(key)}
        applied = [Change(key, value) for key, value in known.items() if value is not None]
        return self.wish([*applied, *self.changes])

    def _without(self, fold: Fold) -> Queue:
        pending = tuple(entry for entry in self.pending if not _belongs(entry, fold))
        left = {entry.change.key for entry in pending}
        return replace(self, pending=pending, failed=self.failed & left)


def _belongs(entry: Entry, fold: Fold) -> bool:
    return entry.number < fold.upto and entry.change.key in fold.changes


def _last_per_key(pending: tuple[Entry, ...]) -> tuple[Entry, ...]:
    last = {entry.change.key: entry.number for entry in pending}
    return tuple(entry for entry in pending if last[entry.change.key] == entry.number)


def _bounded(applied: dict[str, str | None]) -> dict[str, str | None]:
    """Keep at most APPLIED_MAX keys: keys known to be absent are dropped first, then the oldest."""
    surplus = len(applied) - APPLIED_MAX
    if surplus <= 0:
        return applied
    absent_first = sorted(applied, key=lambda key: applied[key] is not None)
    forgotten = frozenset(absent_first[:surplus])
    return {key: value for key, value in applied.items() if key not in forgotten}
