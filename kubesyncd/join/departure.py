"""Let features return to their local container before this switch leaves its master.

The job drains the node, which ends every kube container. A feature that may run locally does so before that, so that
it is not without a container for as long as the reset takes. Knows no job, no file and no configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# After this time the reset begins although a feature has not returned: its local container may not start at all.
RETURN_S_MAX = 45.0


class Departure:
    """Whether this switch is about to leave its master, or leaves it.

    `changed` is called when that changes. `waits`: the reset waits for features.
    """

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._since: float | None = None
        self._asked = False
        self.waits = False

    @property
    def active(self) -> bool:
        """Whether this switch is about to leave its master, or leaves it."""
        return self._since is not None

    def ready(self, returning: tuple[str, ...]) -> bool:
        """Begin, unless it has begun; return whether the reset may start. `returning`: the features still to return."""
        begun = not self.active
        self.keep()
        assert self._since is not None
        # At the first call the features have not been told yet.
        self.waits = bool(returning) and (begun or self._clock() < self._since + RETURN_S_MAX)
        return not self.waits

    def keep(self) -> None:
        """Begin, or go on: a reset is due, or runs."""
        self._asked = True
        if self._since is None:
            self._since = self._clock()
            self._changed()

    def end_unless_kept(self) -> None:
        """End where neither `ready` nor `keep` was called since the last call of this."""
        asked, self._asked = self._asked, False
        if not asked and self._since is not None:
            self._since, self.waits = None, False
            self._changed()
