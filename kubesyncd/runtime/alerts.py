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
        # The text of each current problem, by topic and by what it is about.
        self._current: dict[tuple[str, str], str] = {}

    def warn(self, topic: str, text: str, *, about: str = "", **more: object) -> None:
        """Log a warning unless the current one of this topic has the same text; an empty text clears it.

        `about`: which of several things has the problem, where one topic covers them all.
        """
        if text and self._current.get((topic, about)) != text:
            self._log.warning(topic, why=text, **more)
        self._note(topic, about, text)

    def begin(self, topic: str, text: str) -> None:
        """Log one alert until the problem clears, even if its text changes; a warning where others have it too."""
        if (topic, "") not in self._current:
            if self._alerts.begins(topic, self._whom, text):
                self._log.error(topic, alert=True, why=text)
            else:
                self._log.warning(topic, why=text)
        self._note(topic, "", text)

    def end(self, topic: str) -> None:
        """Note that the problem is over."""
        if (topic, "") in self._current:
            self._alerts.ends(topic, self._whom)
        self._note(topic, "", "")

    def end_all(self) -> None:
        """Note that every problem is over."""
        for topic, _ in tuple(self._current):
            self.end(topic)
        self._current.clear()

    def lasting(self, *topics: str) -> tuple[str, ...]:
        """Return the texts of those `topics` that have not cleared."""
        return tuple(text for topic in topics if (text := self._current.get((topic, ""), "")))

    def _note(self, topic: str, about: str, text: str) -> None:
        if text:
            self._current[topic, about] = text
        else:
            self._current.pop((topic, about), None)
