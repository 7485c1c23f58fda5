"""Report to the fleet's operator what this switch runs: annotations on the own Node, and Events about it.

Knows the cluster's port and what it is told of features; knows no reconciler and no rule of theirs. It is a notice
board, never a queue: what could not be told is told as it is then, or not at all. It must cost a master little:
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
    from collections.abc import Callable, Mapping
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.ports import Cluster

FEATURE_PREFIX = "feature.kubesyncd/"
ORIGINAL_PREFIX = "original.kubesyncd/"

# Changes that come within this time of each other travel together; between two PATCHes lies at least PAUSE_S.
BURST_S = 1.0
PAUSE_S = 10.0
# A fleet that has just got its master back must not tell it everything at once.
SPREAD_S = 10.0
EVENTS_MAX = 16
BACKOFF_S_MAX = 300.0
VALUE_MAX = 240


class Link(Protocol):
    """The cluster coroutine, as far as the notice board needs it."""

    @property
    def cluster(self) -> Cluster | None:
        """A master that answers and knows our Node; None: there is none now."""

    @property
    def originals(self) -> Mapping[str, str]:
        """Facts about this switch that no label can hold as they are, by the label's name."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One Event: `reason` is a word in CamelCase, `message` a sentence. `warning`: something is wrong."""

    reason: str
    message: str
    warning: bool = True


class FleetView:
    """Run `run()` once. `clock`: BOOTTIME seconds."""

    def __init__(
        self, link: Link, rng: Random, clock: Callable[[], float], log: FilteringBoundLogger
    ) -> None:
        self._link = link
        self._rng = rng
        self._clock = clock
        self._log = log
        self._wanted: dict[str, str] = {}
        self._told: dict[str, str | None] = {}
        self._failures: dict[str, str] = {}
        self._notices: OrderedDict[Notice, None] = OrderedDict()
        self._not_before = 0.0
        self._backoff = Backoff(rng, 1.0, BACKOFF_S_MAX)
        self._bell = asyncio.Event()

    def feature(self, name: str, state: str, failure: str) -> None:
        """A feature is in `state` now; `failure`: why it counts as failed, or nothing."""
        key = feature_annotation(name)
        value = _value(state, failure)
        was, self._failures[name] = self._failures.get(name, ""), failure
        if failure and not was:
            self.notice(Notice("FeatureFailed", f"{name}: {failure}"))
        if was and not failure:
            self.notice(Notice("FeatureRecovered", f"{name} runs again", warning=False))
        if key is not None and self._wanted.get(key) != value:
            self._wanted[key] = value
            self._bell.set()

    def forget(self, name: str) -> None:
        """There is no such feature any more."""
        self._failures.pop(name, None)
        key = feature_annotation(name)
        if key is not None and self._wanted.pop(key, None) is not None:
            self._bell.set()

    def notice(self, notice: Notice) -> None:
        """Something happened that the fleet's operator should hear of. The same one again counts once; of too many
        the oldest are dropped.
        """
        self._notices[notice] = None
        self._notices.move_to_end(notice)
        while len(self._notices) > EVENTS_MAX:
            self._notices.popitem(last=False)
        self._bell.set()

    def linked(self) -> None:
        """The master answers again, or has our Node anew: tell it everything, each switch at its own time."""
        self._told = dict.fromkeys(self._told, "")
        self._not_before = max(self._not_before, self._clock() + self._rng.uniform(0.0, SPREAD_S))
        self._backoff.reset()
        self._bell.set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            # The rest of the burst; what comes during the wait travels along.
            await asyncio.sleep(max(BURST_S, self._not_before - self._clock()))
            cluster = self._link.cluster
            if cluster is None:
                continue
            self._bell.clear()
            try:
                await self._tell(cluster)
            except PortError as error:
                self._failed(error)

    async def _tell(self, cluster: Cluster) -> None:
        changes = self._changes()
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

    def _changes(self) -> dict[str, str | None]:
        originals = {f"{ORIGINAL_PREFIX}{key}": value for key, value in self._link.originals.items()}
        wanted = {**dict.fromkeys(self._told), **self._wanted, **originals}
        return {key: value for key, value in wanted.items() if self._told.get(key, "") != value}

    def _failed(self, error: PortError) -> None:
        """Nobody depends on it: try again later, or, where we may not, when something changes."""
        if isinstance(error, Missing):
            return  # the kubelet has not created the Node yet: `linked` comes when it has
        if isinstance(error, Refused):
            self._log.warning("fleet_not_told", why=error.detail)
            self._notices.clear()
            self._not_before = self._clock() + BACKOFF_S_MAX
            return
        assert isinstance(error, Unavailable), error
        self._not_before = self._clock() + max(PAUSE_S, self._backoff.next_s())
        self._bell.set()


def feature_annotation(name: str) -> str | None:
    """The annotation that tells a feature's state; None where no annotation can be called so."""
    key = f"{FEATURE_PREFIX}{name.replace('@', '.')}"
    with suppress(labels.InvalidLabel):
        return labels.Change(key, None).key
    return None


def _value(state: str, failure: str) -> str:
    text = f"{state} failed: {failure}" if failure else state
    return text if len(text) <= VALUE_MAX else f"{text[: VALUE_MAX - 1]}…"
