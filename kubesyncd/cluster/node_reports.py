"""Report to the fleet's operator what this switch runs: annotations on the own Node, and Events about it.

Knows the Cluster port and the reported features; knows no reconciler and no rule. Reports
are not queued: a failed report is replaced by the current state, or dropped. The load on the API server is small:
one PATCH for a burst of changes, at most one in 10 s, and a few Events.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core import labels
from kubesyncd.ports import Missing, PortError, Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.ports import Cluster
    from kubesyncd.runtime.context import Runtime

FEATURE_PREFIX = "feature.kubesyncd/"
ORIGINAL_PREFIX = "original.kubesyncd/"

# Changes within this time go into one PATCH; between two PATCHes there is at least PAUSE_S.
BURST_S = 1.0
PAUSE_S = 10.0
# After an outage, the switches of a fleet must not report all at the same time.
SPREAD_S = 10.0
EVENTS_MAX = 16
BACKOFF_S_MAX = 300.0
# Bytes: all features' values together stay below the 256 KiB that Kubernetes allows an object's annotations.
VALUE_BYTES_MAX = 240


class Link(Protocol):
    """The part of the cluster controller that the reports need."""

    @property
    def cluster(self) -> Cluster | None:
        """The link to an API server that answers and has our Node; None: not available now."""

    @property
    def originals(self) -> Mapping[str, str]:
        """Facts about this switch that a label cannot hold unchanged, by the label's name."""


@dataclass(frozen=True, slots=True)
class _Notice:
    """One Event. `warning`: something is wrong."""

    reason: str
    message: str
    warning: bool


class NodeReports:
    """Reports features and notices. Run `run()` once."""

    def __init__(self, runtime: Runtime) -> None:
        self._rng = runtime.rng
        self._clock = runtime.clock
        self._log = runtime.log
        self._wanted: dict[str, str] = {}
        self._told: dict[str, str | None] = {}
        self._failures: dict[str, str] = {}
        self._notices: OrderedDict[_Notice, None] = OrderedDict()
        self._not_before = 0.0
        self._backoff = Backoff(runtime.rng, 1.0, BACKOFF_S_MAX)
        self._changed = asyncio.Event()

    def feature(self, name: str, state: str, failure: str, no_way_back: str = "") -> None:
        """Report that a feature is in `state`; `failure`: why it counts as failed, or empty.

        `no_way_back`: why no local container can take over from Kubernetes, or empty.
        """
        key = feature_annotation(name)
        value = _value(state, failure, no_way_back)
        was, self._failures[name] = self._failures.get(name, ""), failure
        if failure and not was:
            self.notice("FeatureFailed", f"{name}: {failure}")
        if was and not failure:
            self.notice("FeatureRecovered", f"{name} runs again", warning=False)
        if key is not None and self._wanted.get(key) != value:
            self._wanted[key] = value
            self._changed.set()

    def forget(self, name: str) -> None:
        """Remove the annotation of an uninstalled feature."""
        self._failures.pop(name, None)
        key = feature_annotation(name)
        if key is not None and self._wanted.pop(key, None) is not None:
            self._changed.set()

    def notice(self, reason: str, message: str, *, warning: bool = True) -> None:
        """Report an incident to the fleet's operator: a word in CamelCase and a sentence.

        The same notice again counts once; of too many, the oldest are dropped.
        """
        notice = _Notice(reason, message, warning)
        self._notices[notice] = None
        self._notices.move_to_end(notice)
        while len(self._notices) > EVENTS_MAX:
            self._notices.popitem(last=False)
        self._changed.set()

    def linked(self) -> None:
        """Report all again: the API server answers again, or has our Node again. The delay differs per switch."""
        self._told = dict.fromkeys(self._told, "")
        self._not_before = max(self._not_before, self._clock() + self._rng.uniform(0.0, SPREAD_S))
        self._backoff.reset()
        self._changed.set()

    async def run(self, link: Link) -> None:
        """Send the reports by `link`. Never returns."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Wait for the rest of the burst; changes during the wait are sent together.
            await asyncio.sleep(max(BURST_S, self._not_before - self._clock()))
            cluster = link.cluster
            if cluster is None:
                continue
            self._changed.clear()
            try:
                await self._tell(cluster, link.originals)
            except PortError as error:
                self._failed(error)

    async def _tell(self, cluster: Cluster, originals: Mapping[str, str]) -> None:
        changes = self._changes(originals)
        if changes:
            self._not_before = self._clock() + PAUSE_S
            await cluster.annotate(changes)
            self._told |= changes
            self._log.debug("fleet_told", annotations=len(changes))
        while self._notices:
            self._not_before = self._clock() + PAUSE_S
            notice = next(iter(self._notices))
            await cluster.report(notice.reason, notice.message, warning=notice.warning)
            self._notices.pop(notice, None)
        self._backoff.reset()

    def _changes(self, originals: Mapping[str, str]) -> dict[str, str | None]:
        kept = {f"{ORIGINAL_PREFIX}{key}": value for key, value in originals.items()}
        wanted = {**dict.fromkeys(self._told), **self._wanted, **kept}
        return {key: value for key, value in wanted.items() if self._told.get(key, "") != value}

    def _failed(self, error: PortError) -> None:
        """Retry later, or, where the API server refuses it, at the next change."""
        if isinstance(error, Missing):
            return  # the kubelet has not registered the Node yet; `linked` is called when it has
        if isinstance(error, Refused):
            self._log.warning("fleet_not_told", why=error.detail)
            self._notices.clear()
            self._not_before = self._clock() + BACKOFF_S_MAX
            return
        assert isinstance(error, Unavailable), error
        self._not_before = self._clock() + max(PAUSE_S, self._backoff.next_s())
        self._changed.set()


def feature_annotation(name: str) -> str | None:
    """Return the annotation key of a feature's state; None where the name gives an invalid key."""
    key = f"{FEATURE_PREFIX}{name.replace('@', '.')}"
    with suppress(labels.InvalidLabel):
        return labels.Change(key, None).key
    return None


def _value(state: str, failure: str, no_way_back: str) -> str:
    # The cut, where one is needed, leaves the state and the failure whole for as long as possible.
    said = f"{state} failed: {failure}" if failure else state
    text = (f"{said}; {no_way_back}" if no_way_back else said).encode(errors="replace")
    if len(text) <= VALUE_BYTES_MAX:
        return text.decode()
    return f"{text[: VALUE_BYTES_MAX - len('…'.encode())].decode(errors='ignore')}…"
