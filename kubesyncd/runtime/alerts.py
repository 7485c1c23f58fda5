"""Deduplicate alerts: one alert per problem until it clears.

A full disk affects every feature, the label queue and the images; one alert covers them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

FULL_DISK = "full disk"
# The kernel's message, repeated by Docker.
_NO_SPACE = "no space left on device"


class Alerts:
    """The current problems of this switch, and the components each one affects."""

    def __init__(self) -> None:
        self._met: dict[str, set[tuple[str, str]]] = {}

    def begins(self, topic: str, whom: str, text: str) -> bool:
        """Note that `topic` (a log event) is a problem of component `whom`; return whether to raise an alert."""
        self.ends(topic, whom)
        problem = FULL_DISK if _NO_SPACE in text.lower() else f"{topic} of {whom}"
        met = self._met.setdefault(problem, set())
        met.add((topic, whom))
        return len(met) == 1

    def ends(self, topic: str, whom: str) -> None:
        """Note that the problem is over for `whom`."""
        for problem in [name for name, met in self._met.items() if (topic, whom) in met]:
            self._met[problem].discard((topic, whom))
            if not self._met[problem]:
                del self._met[problem]


class AlertLog:
    """Logs each problem of `whom` once until it clears."""

    def __init__(self, alerts: Alerts, whom: str, log: FilteringBoundLogger) -> None:
        self._alerts = alerts
        self._whom = whom
        self._log = log
        self._said: dict[str, str] = {}

    def warn(self, topic: str, text: str, **more: object) -> None:
        """Log a warning unless the last one of this topic had the same text; an empty text clears it."""
        if text and self._said.get(topic) != text:
            self._log.warning(topic, why=text, **more)
        self._said[topic] = text

    def begin(self, topic: str, text: str) -> None:
        """Log one alert until the problem clears, even if its text changes; a warning where others have it too."""
        if not self._said.get(topic):
            if self._alerts.begins(topic, self._whom, text):
                self._log.error(topic, alert=True, why=text)
            else:
                self._log.warning(topic, why=text)
        self._said[topic] = text

    def end(self, topic: str) -> None:
        """Note that the problem is over."""
        if self._said.get(topic):
            self._alerts.ends(topic, self._whom)
        self._said[topic] = ""

    def end_all(self) -> None:
        """Note that every problem is over."""
        for topic in tuple(self._said):
            self.end(topic)

    def lasting(self, *topics: str) -> tuple[str, ...]:
        """The texts of those `topics` that have not cleared."""
        return tuple(text for topic in topics if (text := self._said.get(topic, "")))
