"""Which node labels still have to reach the master? The pending-label queue and what may enter it.

Knows no clock, no file, no client, no coroutine: a `Queue` is a value, every method returns the next one.

A change enters at the back with an arrival number. `fold` reads everything queued as one PATCH, the last
value per key winning. Its answer drops exactly the entries that arrived before the fold: what arrived
while the PATCH was under way stays, also when the same key is meant.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from kubesyncd.core.model import FEATURE_NAME, KubeLabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Above this many entries, those that a later one supersedes are dropped; so many different keys are refused.
PENDING_MAX = 1024
APPLIED_MAX = 1024
FILE_BYTES_MAX = 1 << 21

PART_LENGTH_MAX = 63
PREFIX_LENGTH_MAX = 253

_FEATURE_SUFFIX = "_enabled"
_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

# What NodeRestriction lets a kubelet's credential change among Kubernetes' own names.
_KUBELET_KEYS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
    }
)
_KUBELET_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
_KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")


class InvalidLabel(ValueError):
    """No label Kubernetes would take from this node; the message is one line: what is wrong, and the fix."""


class QueueFull(Exception):
    """So many different labels wait already that one more cannot be kept."""


def feature_label(name: str) -> str:
    """The node label that lets Kubernetes deploy the feature `name`, when its value is `true`."""
    return f"{name}{_FEATURE_SUFFIX}"


def feature_of(key: str) -> str | None:
    """The feature whose label `key` is, or None."""
    name = key.removesuffix(_FEATURE_SUFFIX)
    return name if name != key and FEATURE_NAME.fullmatch(name) else None


def is_key(key: str) -> bool:
    """Whether `key` may be a label's key on this node."""
    try:
        _check_key(key)
    except InvalidLabel:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Change:
    """One wish for the own Node: `value` None removes the label. One that exists is valid.

    Raises InvalidLabel.
    """

    key: str
    value: str | None

    def __post_init__(self) -> None:
        _check_key(self.key)
        if self.value is not None:
            _check_value(self.key, self.value)

    @classmethod
    def parse(cls, text: str) -> Change:
        """`key=value` sets, `key-` removes. Raises InvalidLabel."""
        key, equals, value = text.partition("=")
        if equals:
            return cls(key, value)
        if text.endswith("-"):
            return cls(text[:-1], None)
        raise InvalidLabel(f"{_shown(text)} is no label change; write key=value to set or key- to remove")

    def __str__(self) -> str:
        return f"{self.key}-" if self.value is None else f"{self.key}={self.value}"


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
        """The part of this fold that is about `key`."""
        return replace(self, changes={key: self.changes[key]})


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for the master, in order of arrival, and what the master is known to have.

    `applied`: the last value acknowledged or seen on the Node per key; None: known to be absent.
    `failed`: queued keys that an attempt has held in vain; the kubelet must not run meanwhile (spec, 6).
    """

    pending: tuple[Entry, ...] = ()
    applied: Mapping[str, str | None] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    arrivals: int = 0

    @property
    def changes(self) -> tuple[Change, ...]:
        """The pending changes, in order of arrival."""
        return tuple(entry.change for entry in self.pending)

    @property
    def keys(self) -> frozenset[str]:
        """Every key with a pending change."""
        return frozenset(entry.change.key for entry in self.pending)

    def append(self, changes: Iterable[Change]) -> Queue:
        """With `changes` behind everything queued. Raises QueueFull, and then none of them is taken."""
        entries = tuple(Entry(number, change) for number, change in enumerate(changes, self.arrivals))
        pending = self.pending + entries
        if len(pending) > PENDING_MAX:
            pending = _last_per_key(pending)
        if len(pending) > PENDING_MAX:
            raise QueueFull(f"{PENDING_MAX} different labels wait for the master already; drop some or reset")
        return replace(self, pending=pending, arrivals=self.arrivals + len(entries))

    def fold(self) -> Fold:
        """Everything pending as one PATCH."""
        changes = {entry.change.key: entry.change.value for entry in self.pending}
        return Fold(changes, self.arrivals, len(self.pending))

    def acknowledge(self, fold: Fold) -> Queue:
        """The master has taken `fold`: its entries leave, its values count as applied.

        A key whose entries are gone meanwhile (purged) is not learnt: whoever purged wanted it forgotten.
        """
        held = {e.change.key for e in self.pending if _belongs(e, fold)}
        learnt = {key: value for key, value in fold.changes.items() if key in held}
        return replace(self._without(fold), applied=_bounded({**self.applied, **learnt}))

    def reject(self, fold: Fold) -> Queue:
        """The master will never take `fold`: its entries leave, nothing is learnt."""
        return self._without(fold)

    def fail(self, fold: Fold) -> Queue:
        """An attempt at `fold` failed: all stays queued, and is known to have failed."""
        return replace(self, failed=(self.failed | fold.changes.keys()) & self.keys)

    def forgive(self) -> Queue:
        """The master answers, but does not know the Node yet: nothing queued counts as failed."""
        return replace(self, failed=frozenset()) if self.failed else self

    def purge(self) -> Queue:
        """Nothing pending, nothing known. Arrival numbers go on, so an answer under way drops nothing new."""
        return Queue(arrivals=self.arrivals)

    def holds(self, keys: Iterable[str], upto: int) -> bool:
        """Whether an entry for one of `keys` numbered below `upto` is pending."""
        wanted = frozenset(keys)
        return any(e.number < upto and e.change.key in wanted for e in self.pending)

    def effective(self, key: str) -> str | Literal[KubeLabel.UNKNOWN] | None:
        """The value `key` will have once all is applied: last pending, else applied, else UNKNOWN."""
        for entry in reversed(self.pending):
            if entry.change.key == key:
                return entry.change.value
        return self.applied.get(key, KubeLabel.UNKNOWN)

    def observe(self, node_labels: Mapping[str, str], keys: Iterable[str] = ()) -> Queue:
        """The Node really has `node_labels`: `applied` follows for what is ours, pending changes stay.

        Ours are `keys`, every feature label the Node has, and every key in `applied`.
        """
        ours = {*self.applied, *keys, *(key for key in node_labels if feature_of(key))}
        seen = {key: node_labels.get(key) for key in sorted(ours)}
        if all(key in self.applied and self.applied[key] == value for key, value in seen.items()):
            return self
        return replace(self, applied=_bounded(seen))

    def _without(self, fold: Fold) -> Queue:
        pending = tuple(entry for entry in self.pending if not _belongs(entry, fold))
        left = {entry.change.key for entry in pending}
        return replace(self, pending=pending, failed=self.failed & left)


def encode(queue: Queue) -> bytes:
    """The queue as a file's content."""
    content = {
        "pending": [str(change) for change in queue.changes],
        "applied": dict(queue.applied),
        "failed": sorted(queue.failed),
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def decode(data: bytes | None) -> tuple[Queue, tuple[str, ...]]:
    """The queue a file holds, and a sentence for each thing in it that could not be used. Never raises."""
    if data is None:
        return Queue(), ()
    try:
        content = _object(data)
    except (ValueError, TypeError, RecursionError) as error:
        reason = _shown(str(error), 120)
        return Queue(), (f"the label queue cannot be read ({reason}); it starts empty",)
    problems: list[str] = []
    queue = Queue()
    for text in _listed(content, "pending", problems):
        try:
            queue = queue.append([Change.parse(text)])
        except (InvalidLabel, QueueFull) as error:
            problems.append(f"a queued label is dropped: {error}")
    applied = _applied(content, problems)
    failed = frozenset(_listed(content, "failed", problems)) & queue.keys
    return replace(queue, applied=applied, failed=failed), _few(problems)


def self_description(metadata: Mapping[str, str], os_version: str) -> tuple[Change, ...]:
    """Labels by which a manifest may choose this switch: OS version, platform, HWSKU, device type.

    `metadata` is CONFIG_DB DEVICE_METADATA. What is unknown makes no label; a letter no label may have
    becomes `_`.
    """
    values = {key: _as_value(fact) for key, fact in _facts(metadata, os_version).items()}
    return tuple(Change(key, value) for key, value in values.items() if value)


def originals(metadata: Mapping[str, str], os_version: str) -> dict[str, str]:
    """The facts behind `self_description` that a label cannot hold as they are, by the label's last part."""
    facts = _facts(metadata, os_version).items()
    return {key.rpartition("/")[2]: fact for key, fact in facts if fact != _as_value(fact)}


def _facts(metadata: Mapping[str, str], os_version: str) -> dict[str, str]:
    got = {key.lower(): value for key, value in metadata.items()}
    return {
        "sonic_version": os_version,
        "worker.sonic/platform": got.get("platform", ""),
        "hwsku": got.get("hwsku", ""),
        "deployment_type": got.get("type", ""),
    }


def _as_value(text: str) -> str:
    """The nearest label value: allowed letters only, at most 63, a letter or digit at both ends."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:PART_LENGTH_MAX].strip("_.-")


def _check_key(key: str) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > PREFIX_LENGTH_MAX or not _PREFIX.fullmatch(prefix)):
        raise InvalidLabel(
            f"label key {_shown(key)}: before the / must be a DNS name "
            f"(lower case, at most {PREFIX_LENGTH_MAX} characters); correct it or leave it out"
        )
    if len(name) > PART_LENGTH_MAX or not _PART.fullmatch(name):
        raise InvalidLabel(
            f"label key {_shown(key)}: use 1 to {PART_LENGTH_MAX} letters, digits, '-', '_' or '.', "
            "with a letter or digit at both ends"
        )
    if _within(prefix, _KUBERNETES_DOMAINS) and not _kubelets_own(key, prefix):
        raise InvalidLabel(
            f"label key {_shown(key)}: the master lets no node set names under {prefix} on itself "
            f"(NodeRestriction); use one without that prefix, such as {name}"
        )


def _check_value(key: str, value: str) -> None:
    if value and (len(value) > PART_LENGTH_MAX or not _PART.fullmatch(value)):
        raise InvalidLabel(
            f"label {_shown(key)}: value {_shown(value)}: use at most {PART_LENGTH_MAX} letters, digits, "
            "'-', '_' or '.', with a letter or digit at both ends"
        )


def _kubelets_own(key: str, prefix: str) -> bool:
    return key in _KUBELET_KEYS or _within(prefix, _KUBELET_DOMAINS)


def _within(prefix: str, domains: tuple[str, ...]) -> bool:
    return any(prefix == domain or prefix.endswith(f".{domain}") for domain in domains)


def _belongs(entry: Entry, fold: Fold) -> bool:
    return entry.number < fold.upto and entry.change.key in fold.changes


def _last_per_key(pending: tuple[Entry, ...]) -> tuple[Entry, ...]:
    last = {entry.change.key: entry.number for entry in pending}
    return tuple(entry for entry in pending if last[entry.change.key] == entry.number)


def _bounded(applied: dict[str, str | None]) -> dict[str, str | None]:
    """At most APPLIED_MAX keys: what is known to be absent is forgotten first, then the oldest."""
    surplus = len(applied) - APPLIED_MAX
    if surplus <= 0:
        return applied
    absent_first = sorted(applied, key=lambda key: applied[key] is not None)
    forgotten = frozenset(absent_first[:surplus])
    return {key: value for key, value in applied.items() if key not in forgotten}


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object of reasonable size. Raises ValueError, TypeError, RecursionError."""
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"longer than {FILE_BYTES_MAX} bytes")
    content = json.loads(data)
    if not isinstance(content, dict):
        raise TypeError("no JSON object")
    return content


def _listed(content: dict[str, Any], name: str, problems: list[str]) -> list[str]:
    items = content.get(name, [])
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return items
    problems.append(f"{name} in the label queue's file is no list of strings; it is ignored")
    return []


def _applied(content: dict[str, Any], problems: list[str]) -> dict[str, str | None]:
    """The usable part of `applied`; a lost one is learnt again from the Node."""
    items = content.get("applied", {})
    if not isinstance(items, dict):
        problems.append("applied in the label queue's file is no object; it is ignored")
        return {}
    usable: dict[str, str | None] = {}
    for key, value in items.items():
        if value is None or isinstance(value, str):
            try:
                usable[Change(key, value).key] = value
                continue
            except InvalidLabel:
                pass
        problems.append(f"an applied label is ignored: {_shown(key)}")
    return _bounded(usable)


def _few(problems: list[str]) -> tuple[str, ...]:
    """At most five sentences: a file of rubbish must not fill the log."""
    if len(problems) <= 5:
        return tuple(problems)
    return (*problems[:4], f"{len(problems) - 4} more problems in the label queue's file")


def _shown(text: str, length_max: int = 80) -> str:
    """A hostile text, short enough and clean enough for one line."""
    return ascii(text if len(text) <= length_max else text[: length_max - 3] + "...")
