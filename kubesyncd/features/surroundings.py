"""Define what all reconcilers share, and what they publish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.actions import Plan
    from kubesyncd.core.conditions import Condition
    from kubesyncd.core.model import FeatureConfig, LabelView, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.features.ledger import Ledger
    from kubesyncd.features.wakes import Wakes
    from kubesyncd.ports import Containers, FeatureStore, Units
    from kubesyncd.runtime.context import Runtime


class LabelQueue(Protocol):
    """The part of the cluster controller that a reconciler needs."""

    @property
    def joined(self) -> bool:
        """Whether a master is configured and not disabled, and this node has joined it."""

    @property
    def kubelet_running(self) -> bool | None:
        """Whether the kubelet runs; None: not known."""

    @property
    def hold(self) -> bool:
        """Whether a reboot is being prepared."""

    @property
    def no_deploy(self) -> str:
        """Why Kubernetes cannot deploy on this switch, with what to type; empty where it can, or is not known."""

    @property
    def leaving(self) -> bool:
        """Whether a reset is about to begin, or runs."""

    def note_kube_start(self, at: str) -> None:
        """Note that a running kube container was started `at` (ISO 8601)."""

    def view(self, feature: str) -> LabelView:
        """Return the queue's state of this feature's label."""

    async def request_feature(self, feature: str, *, on: bool) -> None:
        """Queue this feature's label."""


class LocalImages(Protocol):
    """The part of the image store that a reconciler needs. Raises Missing, Refused, Unavailable."""

    async def adopt(self, feature: str, image_id: str) -> None:
        """Make this image the local one, and keep the previous local image."""

    async def restore(self, feature: str, failed_image: str) -> None:
        """Make the image from before the failed one the local image again."""

    async def missing_local(self, feature: str, made_from: str) -> str:
        """Return the name of the local image where none of its names exists; empty where one does, or none is known.

        `made_from`: the image of the local container, when there was one.
        """

    async def note_rollback(self, feature: str, failed: str, failed_newest: str, failure_text: str) -> None:
        """Store durably that the feature is rolled back; all empty: that it is not."""

    async def forget(self, feature: str) -> None:
        """Delete the state of an uninstalled feature."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all reconcilers share.

    `first_record`: the initial record of a feature without one in the ledger. `told` is called with each view, and with
    None when a feature is uninstalled. `ledger_lost` is called when a row of this boot shows that the boot is not new,
    although no file did. `by_row`: STATE_DB has SONiC's names, by which start-up scripts ask to be admitted.
    """

    store: FeatureStore
    containers: Containers
    units: Units
    labels: LabelQueue
    images: LocalImages
    ledger: Ledger
    timing: Timing
    runtime: Runtime
    wakes: Wakes
    always_local: frozenset[str]
    by_row: bool = False
    first_record: Callable[[str], Record] = lambda _: Record()
    told: Callable[[str, View | None], None] = lambda _name, _view: None
    ledger_lost: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class View:
    """A reconciler's last observation and plan: all that other components can read."""

    config: FeatureConfig
    record: Record
    observed: Observation
    plan: Plan
    conditions: tuple[Condition, ...] = ()
