"""Remember which containers were refused a feature, for `doctor`: bounded, and each for an hour."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.core.descriptions import RefusedContainerDescription

REMEMBERED_MAX = 32
REMEMBERED_S = 3600.0


class RefusedContainers:
    """The last refusals. `wall`: seconds since the epoch."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last: OrderedDict[tuple[str, str], RefusedContainerDescription] = OrderedDict()

    def add(self, feature: str, container_id: str, why: str) -> None:
        """Remember a refusal. A pod that restarts its container is refused for the same reason: one entry."""
        known = self._last.pop((feature, why), None)
        self._last[feature, why] = {
            "feature": feature,
            "container_id": container_id,
            "why": why,
            "times": 1 if known is None else known["times"] + 1,
            "at": self._wall(),
        }
        if len(self._last) > REMEMBERED_MAX:
            self._last.popitem(last=False)

    def recent(self) -> list[RefusedContainerDescription]:
        """Return the refusals of the last hour, the oldest first."""
        oldest = self._wall() - REMEMBERED_S
        return [refusal for refusal in self._last.values() if refusal["at"] >= oldest]
