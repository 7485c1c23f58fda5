"""Decide which FEATURE rows to restore after a load of CONFIG_DB.

`config load_minigraph` empties CONFIG_DB and fills it from minigraph and image, which lack the operator's Kubernetes
settings (seed, section Service install). A copy of the table is saved before the load and is valid for one
load. `config reload` drops unsaved settings, on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Rows: TypeAlias = Mapping[str, Mapping[str, str]]
# A copy saved for an abandoned load must not affect a much later one.
GOOD_FOR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of the table. `saved_at`: seconds since the epoch; `armed`: the next load is restored from it."""

    rows: Rows
    saved_at: float
    armed: bool = True

    def awaits_load(self, now: float) -> bool:
        """Return whether a load at `now` (seconds since the epoch) is the one the copy was saved for."""
        return self.armed and 0 <= now - self.saved_at <= GOOD_FOR_S


def lost(
    saved: Rows, now: Rows, ours: frozenset[str], normal: Callable[[str], str]
) -> dict[str, dict[str, str]]:
    """Return the fields to write, by feature, so that none of ours is lost.

    A missing row is restored completely. In an existing row only `ours` are restored, fields that no other component
    sets: other fields that an image has left out or changed stay so. `normal` spells a field's name as in `ours`.
    """
    return {
        name: wanted
        for name, row in saved.items()
        if (wanted := dict(row) if name not in now else _lost_fields(row, now[name], ours, normal))
    }


def _lost_fields(
    row: Mapping[str, str], there: Mapping[str, str], ours: frozenset[str], normal: Callable[[str], str]
) -> dict[str, str]:
    spelled = {normal(field): field for field in there}
    return {
        spelled.get(normal(field), field): value
        for field, value in row.items()
        if normal(field) in ours and there.get(spelled.get(normal(field), field)) != value
    }
