"""Delay putting back a feature's label that another client keeps changing on the master.

Knows the clock; does not know the link, or why a label is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.label_queue import Queue
    from kubesyncd.runtime.context import Runtime

# The first change is put back at once, the second after up to FIRST_S, then twice as late each time.
FIRST_S = 2.0
DELAY_S_MAX = 300.0
# So many changes are a contest; a label that stays for FORGET_S ends it.
CHANGES_MIN = 3
FORGET_S = 900.0


@dataclass(frozen=True, slots=True)
class _Contest:
    """The changes of one label: our value, how many, the last one, and until when it is not put back."""

    value: str | None
    changes: int
    at: float
    until: float


class Contests:
    """The labels that other clients have changed lately."""

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._rng = runtime.rng
        self._known: dict[str, _Contest] = {}

    def changed(self, key: str, value: str | None) -> None:
        """Note that another client changed the label `key`, to which we had given `value`."""
        now, known = self._clock(), self._known.get(key)
        counts = known is not None and known.value == value and now - known.at < FORGET_S
        changes = known.changes + 1 if known is not None and counts else 1
        most_s = min(DELAY_S_MAX, FIRST_S * 2 ** min(changes - 2, 16)) if changes > 1 else 0.0
        self._known[key] = _Contest(value, changes, now, now + self._rng.uniform(most_s / 2, most_s))

    def held(self, queue: Queue) -> frozenset[str]:
        """Return the pending labels that are not put back yet. A label that is to become something else is not held."""
        now = self._clock()
        self._known = {key: c for key, c in self._known.items() if now - c.at < FORGET_S}
        return frozenset(
            key
            for key, contest in self._known.items()
            if now < contest.until and key in queue.keys and queue.effective(key) == contest.value
        )

    def over_at(self, keys: frozenset[str]) -> float:
        """Return when the first of these held labels may be put back."""
        return min(self._known[key].until for key in keys)

    def told(self, key: str) -> str:
        """Return what an operator should know of a contested label; empty where it is none."""
        contest, now = self._known.get(key), self._clock()
        if contest is None or contest.changes < CHANGES_MIN or now - contest.at >= FORGET_S:
            return ""
        return (
            f"another client changes the label {key} on the master again and again; it is put back with growing "
            f"delays; see which client: kubectl get node -o yaml --show-managed-fields"
        )
