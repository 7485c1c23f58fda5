"""Remember that Docker was asked to start the local container, until the outcome of that start is known.

The daemon may be killed between the request and Docker's answer, and Docker carries the start out all the same. While
it may, no kube container is admitted (S1).

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.core.observation import Observation

# Twice the time for which the daemon itself waits for a docker start. Docker has no limit of its own, and describes no
# container while it starts it.
OUTSTANDING_S = 120.0


@dataclass(frozen=True, slots=True)
class AskedStart:
    """A docker start whose outcome is not known.

    `started`: the container's last start before it (ISO 8601); None: Docker did not describe the container then.
    `at`: when Docker was asked (BOOTTIME seconds).
    """

    container_id: str
    started: str | None
    at: float


def asked_start(container_id: str, container: Container | None, now: float) -> AskedStart:
    """Return the mark of a start that Docker is asked for now."""
    if container is None or container.unread:
        return AskedStart(container_id, None, now)
    return AskedStart(container_id, container.started, now)


def still_asked(asked: AskedStart | None, observed: Observation, now: float) -> AskedStart | None:
    """Return the mark while the outcome is unknown.

    It is known when the container runs, has run since, or is gone; and once OUTSTANDING_S have passed and Docker
    describes the container.
    """
    if asked is None:
        return None
    container = observed.container(asked.container_id)
    if container is None or container.gone or container.running:
        return None
    if container.unread or container.id in observed.starting:
        return asked
    if asked.started is not None and container.started != asked.started:
        return None
    return asked if now < asked.at + OUTSTANDING_S else None


def start_deadline(asked: AskedStart | None) -> float | None:
    """Return when the start counts as not carried out, if nothing is observed of it until then."""
    return None if asked is None else asked.at + OUTSTANDING_S
