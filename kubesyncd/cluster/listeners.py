"""Name those who hear what happens between this node and its master."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class Listeners:
    """`wake_feature` gets a feature whose label changed, or None for all. `linked`: the master answers again, or has
    our Node again. `notice` gets what the fleet's operator should know: a word in CamelCase and a sentence.
    `queue_changed`, `labels_applied`, `link_changed`, `node_seen`: for the parts of this package among each other.
    """

    wake_feature: Callable[[str | None], None] = _ignore
    linked: Callable[[], None] = _ignore
    notice: Callable[[str, str], None] = _ignore
    queue_changed: Callable[[], None] = _ignore
    labels_applied: Callable[[], None] = _ignore
    link_changed: Callable[[], None] = _ignore
    node_seen: Callable[[bool], None] = _ignore
