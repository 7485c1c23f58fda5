"""Notice a start of the local container that another program asked Docker for while Kubernetes has the feature.

Neither the unit nor the reconciler asked for it: SONiC's `update-containers NAME` starts the feature's container after
each start of its unit, and an operator may type `docker start`. It is ended, so that it does not take the feature from
Kubernetes.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.asked_start import AskedStart
    from kubesyncd.core.observation import Observation

# For how long it is shown after the last such start: it is over before a person can look, and may repeat.
SHOWN_S = 3600.0


@dataclass(frozen=True, slots=True)
class UnaskedStart:
    """The last such start: the container, and when it was observed (BOOTTIME seconds)."""

    container_id: str
    at: float


def watch_unasked(
    before: UnaskedStart | None,
    observed: Observation,
    *,
    known: str,
    asked: AskedStart | None,
    barred: bool,
    now: float,
) -> UnaskedStart | None:
    """Return the last such start after this observation; None: none for a while.

    `known`: the local container that was observed to run; `asked`: a start that Docker was asked for, and whose outcome
    was not known; `barred`: the feature is up, and no local container may run now.
    """
    running = observed.local_running
    new = running not in ("", known)
    wished = asked is not None and asked.container_id == running
    if new and barred and not wished:
        return UnaskedStart(running, now)
    if running and (not barred or wished):
        # It is the feature's own one by now.
        return None
    over = before is not None and running != before.container_id and now >= before.at + SHOWN_S
    return None if over else before


def unasked_runs(unasked: UnaskedStart | None, observed: Observation) -> bool:
    """Return whether the local container that runs was started by another program."""
    return unasked is not None and unasked.container_id == observed.local_running


def shown_until(unasked: UnaskedStart | None) -> float | None:
    """Return until when the last such start is shown."""
    return None if unasked is None else unasked.at + SHOWN_S
