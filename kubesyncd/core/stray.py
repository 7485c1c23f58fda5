"""Find kube containers that do not follow the feature's node label: their pods come back although it is off.

Such pods are bare or static, or belong to a DaemonSet that is orphaned or selects another label. Knows no clock, no
client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import KubeLabel

if TYPE_CHECKING:
    from kubesyncd.core.gate import GateWatch
    from kubesyncd.core.model import Timing
    from kubesyncd.core.observation import Observation


@dataclass(frozen=True, slots=True)
class LabelOff:
    """The time in which Kubernetes must not run the feature, and its label is off on the node.

    `after`: when each pod that follows the label has ended. `ended_at`: when the first kube container that was asked to
    end has ended. `returned`: since then, a pod that does not follow the label has been observed.
    """

    after: float
    ended_at: float | None = None
    returned: bool = False


def watch_label_off(
    before: LabelOff | None, observed: Observation, *, ended: bool, timing: Timing, now: float
) -> LabelOff | None:
    """Return the time after this observation; None while the label may be on. `ended`: see `LabelOff.ended_at`."""
    if observed.label.value is KubeLabel.ON:
        return None
    if before is None:
        if observed.label.pending:
            return None
        # A label that was never observed was never on.
        grace_s = timing.kube_stop_grace_s if observed.label.value is KubeLabel.OFF else 0.0
        before = LabelOff(now + grace_s)
    return replace(before, ended_at=now) if ended and before.ended_at is None else before


def blocked(observed: Observation, grant: str) -> tuple[str, ...]:
    """Return the running kube containers that are not admitted."""
    return tuple(c for c in observed.kube_running if c != grant)


def strays(
    off: LabelOff | None, gates: tuple[GateWatch, ...], observed: Observation, grant: str
) -> frozenset[str]:
    """Return the running kube containers that came after one had been ended, although the label is off.

    When a paused one came is not known: the watch of its gate begins again while it is paused.
    """
    if off is None or off.ended_at is None:
        return frozenset()
    since = max(off.after, off.ended_at)
    came = {watch.container_id for watch in gates if watch.since >= since}
    return frozenset(c for c in came if c != grant and not observed.paused(c))


def stray_deadline(off: LabelOff | None, observed: Observation, grant: str) -> float | None:
    """Return when the kube containers that wait now count as such that do not follow the label."""
    return off.after if off is not None and blocked(observed, grant) else None
