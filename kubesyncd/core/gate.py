"""Watch whether the running kube containers ask to be admitted, and find those that do not.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation


@dataclass(frozen=True, slots=True)
class GateWatch:
    """A running kube container, since when it has been observed running, and whether it has asked to be admitted.

    `asks`: the version with which its start-up script has asked by STATE_DB's row; empty: it has not. `given_up`: that
    script, not admitted yet, does not wait any more (see core.row_gate). `beside`, of the admitted one: this daemon
    lets the row say that a container waits, and the row has not been read with another word since. `told_since`: since
    when the row has told its script to go on. `late`: it was told so for long enough, and the row says it no longer.
    `maybe_past`: it was first observed when its script may have read a permission that was another container's.
    """

    container_id: str
    since: float
    asked: bool = False
    asks: str = ""
    given_up: bool = False
    beside: bool = False
    told_since: float | None = None
    late: bool = False
    maybe_past: bool = False


def watch_gate(
    watched: tuple[GateWatch, ...], observed: Observation, grant: str, now: float
) -> tuple[GateWatch, ...]:
    """Return the watches after this observation, one for each running kube container."""
    known = {watch.container_id: watch for watch in watched}
    asking = observed.waiting | {container_id for container_id, _ in observed.row_asks}

    def seen(container_id: str) -> GateWatch:
        # What was admitted before it was watched has asked.
        watch = known.get(container_id) or GateWatch(container_id, now, asked=container_id == grant)
        since = now if observed.paused(container_id) else watch.since
        return replace(watch, since=since, asked=watch.asked or container_id in asking)

    return tuple(seen(container_id) for container_id in sorted(observed.kube_running))


def ignoring(watched: tuple[GateWatch, ...], gate_after_s: float, now: float) -> frozenset[str]:
    """Return the containers that have run for `gate_after_s` without asking, and had no permission to read."""
    return frozenset(
        w.container_id for w in watched if not (w.asked or w.maybe_past) and now >= w.since + gate_after_s
    )


def gate_deadline(watched: tuple[GateWatch, ...], gate_after_s: float, now: float) -> float | None:
    """Return when the next container counts as one that ignores the gate, if it does not ask until then."""
    due = (w.since + gate_after_s for w in watched if not (w.asked or w.maybe_past))
    return min((at for at in due if at > now), default=None)
