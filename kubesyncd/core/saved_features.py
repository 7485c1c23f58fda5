"""Decide which FEATURE rows to restore after a load of CONFIG_DB.

`config load_minigraph` empties CONFIG_DB and fills it from minigraph and image, which lack the operator's Kubernetes
settings (seed, section Service install). A copy of the table is saved before the load and is valid for one
load. `config reload` drops unsaved settings, on purpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kubesyncd.core.model import valid_feature_name
from kubesyncd.core.parse import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Rows: TypeAlias = Mapping[str, Mapping[str, str]]

# File name below the state folder.
FILE = "feature-table.json"
VERSION = 1
# A copy saved for an abandoned load must not affect a much later one.
GOOD_FOR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of the table. `saved_at`: seconds since the epoch; `armed`: the next load is restored from it."""

    rows: Rows
    saved_at: float
    armed: bool = True

    def awaits_load(self, now: float) -> bool:
        """Whether a load at `now` (seconds since the epoch) is the one the copy was saved for."""
        return self.armed and 0 <= now - self.saved_at <= GOOD_FOR_S


def encode(saved: Saved) -> bytes:
    """The file content for a saved table."""
    tree = {"version": VERSION, "saved_at": saved.saved_at, "armed": saved.armed, "rows": saved.rows}
    return json.dumps(tree, indent=1).encode()


def decode(data: bytes) -> Saved:
    """The saved table in a file content. Raises ValueError with a reason."""
    try:
        tree = json.loads(data)
        if tree["version"] != VERSION:
            raise ValueError(f"version {tree['version']}")  # noqa: TRY301
        rows = {
            str(name): {str(field): str(value) for field, value in row.items()}
            for name, row in tree["rows"].items()
            if valid_feature_name(name)
        }
        return Saved(rows, float(tree["saved_at"]), tree["armed"] is True)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the saved table cannot be used: {shown(str(error))}") from error


def lost(
    saved: Rows, now: Rows, ours: frozenset[str], normal: Callable[[str], str]
) -> dict[str, dict[str, str]]:
    """The fields to write so that none of ours is lost, by feature. A missing row is restored completely.
    In an existing row only `ours` are restored, fields that no other component sets: other fields that an image has
    left out or changed stay so. `normal` spells a field's name as in `ours`.
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
