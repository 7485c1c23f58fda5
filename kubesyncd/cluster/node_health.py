"""Remember which obstacles on the own Node the features' pods bear, and say why Kubernetes cannot deploy.

The manifests are not readable with the kubelet's credential: a kube container that was started after a taint was seen
shows that its pod tolerates it. Of a pressure, it shows that the pod is critical; of a Node that is not ready, that
its kubelet starts pods all the same. Knows no feature and no call.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubesyncd.core.node_condition import NodeCondition

if TYPE_CHECKING:
    from kubesyncd.core.model import Timing
    from kubesyncd.runtime.context import Runtime

_UNKNOWN = NodeCondition()


class NodeHealth:
    """The own Node's state.

    `counts_at`: when a Node that is not ready will have been so for long enough to count; None: not ahead.
    """

    def __init__(self, runtime: Runtime, timing: Timing) -> None:
        self._clock = runtime.clock
        self._wall = runtime.wall
        self._grace_s = timing.node_not_ready_s
        # Each current obstacle, and when it was first seen, as Docker writes times.
        self._seen_at: dict[str, str] = {}
        self._borne: set[str] = set()
        self.condition = _UNKNOWN
        self.counts_at: float | None = None

    def observe(self, condition: NodeCondition | None) -> None:
        """Take the Node's state over; None: it is not known."""
        was_ready = not self.condition.not_ready
        self.condition = condition or _UNKNOWN
        now = f"{datetime.fromtimestamp(self._wall(), UTC):%Y-%m-%dT%H:%M:%S.%f}"
        self._seen_at = {obstacle: self._seen_at.get(obstacle, now) for obstacle in self.condition.obstacles}
        self._borne &= self._seen_at.keys()
        if not self.condition.not_ready:
            self.counts_at = None
        elif was_ready:
            self.counts_at = self._clock() + self._grace_s

    def kubelet_started(self) -> None:
        """Note that the kubelet has just been started: it makes its Node ready within seconds."""
        if self.condition.not_ready:
            self.counts_at = self._clock() + self._grace_s

    def started(self, at: str) -> bool:
        """Note that a kube container that runs was started `at` (ISO 8601); return whether that tells anything new."""
        found = {obstacle for obstacle, seen_at in self._seen_at.items() if at > seen_at} - self._borne
        self._borne |= found
        return bool(found)

    @property
    def why_not(self) -> str:
        """Why Kubernetes cannot deploy on this Node at this moment, with what to type; empty where it can."""
        return self.condition.why_not(self._borne)

    def judge(self) -> str:
        """Return `why_not`, without a lack of readiness that has not lasted yet."""
        if self.counts_at is not None and self._clock() < self.counts_at:
            return replace(self.condition, not_ready="").why_not(self._borne)
        self.counts_at = None
        return self.why_not
