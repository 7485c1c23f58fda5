"""Wake reconcilers by name: one event per feature, set when something about the feature may have changed."""

from __future__ import annotations

import asyncio


class Wakes:
    """The events of all features that have a reconciler."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}
        # How often all features have been woken.
        self.all_woken = 0

    def of(self, feature: str) -> asyncio.Event:
        """Return the feature's event."""
        return self._events.setdefault(feature, asyncio.Event())

    def wake(self, feature: str | None) -> None:
        """Trigger an observation of this feature, or of all features (None)."""
        self.all_woken += feature is None
        for event in self._events.values() if feature is None else filter(None, [self._events.get(feature)]):
            event.set()

    def forget(self, feature: str) -> None:
        """Drop the event of an uninstalled feature."""
        self._events.pop(feature, None)
