"""Deduplicate alerts: one line when a problem begins and one when it ends.

A full disk affects every feature, the label queue and the images; a file that cannot be written for another reason
affects all that is stored in it. One alert covers them all. An outage of Docker, Redis or systemd affects every
feature, and one line covers it, whichever component notices it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.ports import Lasting, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.ports import PortError

FULL_DISK = "full disk"
# Log events: the end of a problem, and the loss of a service's event stream.
RECOVERED = "recovered"
STREAM = "outage"
# Services whose outage affects every feature.
SHARED = frozenset({"Docker", "Redis", "systemd"})
# Calls notice the begin of an outage, and its end, at most this much before or after the event stream.
SETTLED_S = 5.0
# The kernel's message, repeated by Docker.
_NO_SPACE = "no space left on device"


class Alerts:
    """The current problems of this switch, and the components each one affects."""

    def __init__(self) -> None:
        self._met: dict[str, set[tuple[str, str]]] = {}
        # The components that an outage of a service affects now.
        self._outages: dict[str, set[tuple[str, str]]] = {}
        # The services whose outage an operator has to end, and that was told.
        self._lasting: set[str] = set()
        # When each service's outage has begun, and when its last one ended.
        self._began_at: dict[str, float] = {}
        self._over_at: dict[str, float] = {}

    def begins(self, topic: str, whom: str, text: str, file: str = "") -> bool:
        """Note that `topic` (a log event) is a problem of component `whom`; return whether to raise an alert.

        `file`: the file that cannot be written, where that is the problem.
        """
        self.ends(topic, whom)
        problem = _problem(topic, whom, text, file)
        met = self._met.setdefault(problem, set())
        met.add((topic, whom))
        return len(met) == 1

    def ends(self, topic: str, whom: str) -> None:
        """Note that the problem is over for `whom`."""
        for problem in [name for name, met in self._met.items() if (topic, whom) in met]:
            self._met[problem].discard((topic, whom))
            if not self._met[problem]:
                del self._met[problem]

    def outage_begins(self, service: str, topic: str, whom: str, now: float) -> bool:
        """Note that `service` does not answer `whom`; return whether it answered all others until now.

        Calls that began during an outage fail a moment after its end: they begin no other one.
        """
        if now < self._over_at.get(service, -SETTLED_S) + SETTLED_S:
            return False
        affected = self._outages.setdefault(service, set())
        first = not affected
        affected.add((topic, whom))
        if first:
            self._began_at[service] = now
        return first

    def lasts(self, service: str) -> bool:
        """Note that an operator has to end the outage that goes on, if there is one; return whether that is new."""
        new = bool(self._outages.get(service)) and service not in self._lasting
        if new:
            self._lasting.add(service)
        return new

    def stream_is_lost(self, service: str, whom: str, now: float) -> bool:
        """Note that an outage has begun; return whether it is another one than that of failed calls a moment ago."""
        self._over_at.pop(service, None)
        affected = self._outages.setdefault(service, set())
        known = bool(affected) and self.outage_is_new(service, now)
        affected.add((STREAM, whom))
        return not known

    def outage_is_new(self, service: str, now: float) -> bool:
        """Return whether an outage of `service` has begun a moment ago: its event stream may still be about to end."""
        return service in self._outages and now < self._began_at.get(service, -SETTLED_S) + SETTLED_S

    def outage_ends(self, service: str, topic: str, whom: str) -> bool:
        """Note that `service` answers `whom` again; return whether the outage ends with that."""
        affected = self._outages.get(service, set())
        if (topic, whom) not in affected:
            return False
        affected.discard((topic, whom))
        if not affected:
            self._lasting.discard(service)
        return not affected

    def outage_is_over(self, service: str, now: float) -> None:
        """Note that `service` answers again; a component that it still fails later begins a new outage."""
        self._outages.pop(service, None)
        self._lasting.discard(service)
        self._over_at[service] = now


def _problem(topic: str, whom: str, text: str, file: str) -> str:
    """Name the problem: a full disk is one for all components, and so is each file that cannot be written."""
    if _NO_SPACE in text.lower():
        return FULL_DISK
    return f"file {file}" if file else f"{topic} of {whom}"


class AlertLog:
    """Logs each problem of `whom` once when it begins and once when it ends."""

    def __init__(
        self, alerts: Alerts, whom: str, log: FilteringBoundLogger, clock: Callable[[], float]
    ) -> None:
        self._alerts = alerts
        self._whom = whom
        self._log = log
        self._clock = clock
        # The text of each current problem, by topic and by what it is about.
        self._current: dict[tuple[str, str], str] = {}
        # The service whose failures each topic is about now, and the text of the last one.
        self._failing: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def warn(self, topic: str, text: str, *, about: str = "", **more: object) -> None:
        """Log a warning unless the current one of this topic has the same text; an empty text clears it.

        `about`: which of several things has the problem, where one topic covers them all.
        """
        if text and self._current.get((topic, about)) != text:
            self._log.warning(topic, why=text, **more)
        self._note(topic, about, text)

    def begin(self, topic: str, text: str, *, file: str = "") -> None:
        """Log one alert until the problem clears, even if its text changes; a warning where others have it too.

        `file`: the file that cannot be written, where that is the problem.
        """
        if (topic, "") not in self._current:
            if self._alerts.begins(topic, self._whom, text, file):
                self._log.error(topic, alert=True, why=text)
            else:
                self._log.warning(topic, why=text)
        self._note(topic, "", text)

    def end(self, topic: str) -> None:
        """Note that the problem is over."""
        if (topic, "") in self._current:
            self._alerts.ends(topic, self._whom)
        self._note(topic, "", "")

    def fails(self, topic: str, error: PortError, **more: object) -> None:
        """Log a failed call: as `warn`, but once for all components where a service that all use does not answer.

        One that lasts until an operator ends it is an alert.
        """
        service, text = error.service, str(error)
        if service not in SHARED or not isinstance(error, Unavailable):
            self.warn(topic, text, about="", **more)
            return
        begins = self._alerts.outage_begins(service, topic, self._whom, self._clock())
        if isinstance(error, Lasting) and self._alerts.lasts(service):
            self._log.error(topic, alert=True, service=service, why=text, **more)
        elif begins:
            self._log.warning(topic, service=service, why=text, **more)
        self._failing[topic], self._failed[topic] = service, text

    def answers(self, topic: str, *, surely: bool = False) -> None:
        """Note that this topic's calls succeed again; log the end of its problem, or of the service's outage.

        Not `surely`: a cache of the service's answers may have been enough, which says nothing about the service.
        """
        self.warn(topic, "")
        service = self._failing.get(topic, "")
        if not service or (not surely and self._alerts.outage_is_new(service, self._clock())):
            return
        del self._failing[topic]
        self._failed.pop(topic, None)
        if self._alerts.outage_ends(service, topic, self._whom):
            self._log.info(RECOVERED, topic=topic, service=service)

    def stream(self, service: str, text: str) -> None:
        """Log that the stream of a service's events is lost, or back (no text): begin and end of its outage.

        A stream is lost at once, also where no call fails.
        """
        lost = STREAM in self._failing
        if text and not lost:
            self._failing[STREAM] = service
            if self._alerts.stream_is_lost(service, self._whom, self._clock()):
                self._log.warning(STREAM, service=service, why=text)
        elif lost and not text:
            del self._failing[STREAM]
            self._alerts.outage_is_over(service, self._clock())
            self._log.info(RECOVERED, topic=STREAM, service=service)

    def end_all(self) -> None:
        """Note that `whom` is gone, and every problem with it."""
        for topic, _ in tuple(self._current):
            self._alerts.ends(topic, self._whom)
        self._current.clear()
        for topic, service in self._failing.items():
            self._alerts.outage_ends(service, topic, self._whom)
        self._failing.clear()
        self._failed.clear()

    def lasting(self, *topics: str) -> tuple[str, ...]:
        """Return the texts of those `topics` that have not cleared."""
        found = (self._current.get((topic, ""), self._failed.get(topic, "")) for topic in topics)
        return tuple(filter(None, found))

    def _note(self, topic: str, about: str, text: str) -> None:
        if text:
            self._current[topic, about] = text
        elif (was := self._current.pop((topic, about), "")) != "":
            self._log.info(RECOVERED, topic=topic, was=was)
