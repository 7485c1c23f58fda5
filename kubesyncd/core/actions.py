"""List the actions that a plan may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.core.model import Mode, Row
    from kubesyncd.core.record import Cause
    from kubesyncd.core.state import State


@dataclass(frozen=True, slots=True)
class WriteRow:
    """Write this row to STATE_DB."""

    row: Row


@dataclass(frozen=True, slots=True)
class SetMode:
    """Record another transition mode."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Admit:
    """Admit this blocked kube container: its `state up` returns."""

    container_id: str


@dataclass(frozen=True, slots=True)
class RequestLabel:
    """Queue the feature's node label, on or off."""

    on: bool


@dataclass(frozen=True, slots=True)
class StartLocal:
    """Start this local container (docker start)."""

    container_id: str


@dataclass(frozen=True, slots=True)
class Unpause:
    """Unpause this container (docker unpause)."""

    container_id: str


@dataclass(frozen=True, slots=True)
class EndContainer:
    """End this container: docker stop with `grace_s`, or docker kill with `signal` where `cause` is KILL."""

    container_id: str
    cause: Cause
    grace_s: float = 0.0
    signal: str = ""


@dataclass(frozen=True, slots=True)
class RestartUnit:
    """Ask systemd to restart the unit, whose script creates the missing local container.

    `renews`: instead, because its main process is another program's, and ends with the container that is about to end.
    """

    renews: bool = False


@dataclass(frozen=True, slots=True)
class AdoptImage:
    """Make the image that Kubernetes runs the local one, and keep the previous local image."""

    image_id: str


@dataclass(frozen=True, slots=True)
class RestoreImage:
    """Make the image from before the failed one the local image again."""

    failed_image: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete all that is kept of a feature that does not exist any more."""


Action = (
    WriteRow
    | SetMode
    | Admit
    | RequestLabel
    | StartLocal
    | Unpause
    | EndContainer
    | RestartUnit
    | AdoptImage
    | RestoreImage
    | Forget
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The feature's state, the one action to take now (if any), the latest time of the next observation, and why."""

    state: State
    action: Action | None
    wake_at: float | None
    why: str
