"""Name what all reconcilers share, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core.record import Record
from kubesyncd.runtime.alerts import Alerts

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.actions import Plan
    from kubesyncd.core.model import FeatureConfig, LabelView, Timing
    from kubesyncd.core.observation import Facts
    from kubesyncd.features.ledger import Ledger
    from kubesyncd.ports import Containers, FeatureStore, Units
    from kubesyncd.runtime.context import Runtime


class LabelQueue(Protocol):
    """The cluster controller, as far as a reconciler needs it."""

    @property
    def joined(self) -> bool:
        """A master is configured, not disabled, and this node has joined it."""

    @property
    def kubelet_running(self) -> bool | None:
        """Whether the kubelet runs; None: not known."""

    @property
    def hold(self) -> bool:
        """Whether a reboot is being prepared."""

    def view(self, feature: str) -> LabelView:
        """What the queue knows of this feature's label."""

    async def request_feature(self, feature: str, *, on: bool) -> None:
        """Queue this feature's label."""


class LocalImages(Protocol):
    """The image store, as far as a reconciler needs it. Raises Missing, Refused, Unavailable."""

    async def adopt(self, feature: str, image_id: str) -> None:
        """Make this image the local one, and keep the one before."""

    async def restore(self, feature: str, failed_image: str) -> None:
        """Make the image before the failed one the local one again."""

    async def note_rollback(self, feature: str, failed: str, failed_newest: str, failure_text: str) -> None:
        """Remember over the boot that the feature is rolled back; all empty: that it is not."""

    async def forget(self, feature: str) -> None:
        """The feature is uninstalled."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all reconcilers share. `first_record`: what is known of a feature that the ledger does not know yet.
    `told` hears of each view, and of a feature's end (None).
    """

    store: FeatureStore
    containers: Containers
    units: Units
    labels: LabelQueue
    images: LocalImages
    ledger: Ledger
    timing: Timing
    runtime: Runtime
    always_local: frozenset[str]
    alerts: Alerts = field(default_factory=Alerts)
    first_record: Callable[[str], Record] = lambda _: Record()
    told: Callable[[str, View | None], None] = lambda _name, _view: None


@dataclass(frozen=True, slots=True)
class View:
    """What a reconciler observed and planned last: all that others get to know."""

    config: FeatureConfig
    record: Record
    facts: Facts
    plan: Plan
