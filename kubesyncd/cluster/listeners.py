"""Define the callbacks for events between this node and the API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _ignore(*_: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class Listeners:
    """Callbacks for events between this node and the API server.

    `wake_feature` gets a feature whose label changed, or None for all. `linked`: the API server answers again, or has
    our Node again. `notice` gets a report for the fleet's operator: a word in CamelCase and a sentence.
    """

    wake_feature: Callable[[str | None], None] = _ignore
    linked: Callable[[], None] = _ignore
    notice: Callable[[str, str], None] = _ignore
