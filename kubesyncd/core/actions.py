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
    """Make STATE_DB say this."""

    row: Row


@dataclass(frozen=True, slots=True)
class SetMode:
    """Record another transition mode."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Grant:
    """Let this blocked kube container pass `state up`."""

    container_id: str


@dataclass(frozen=True, slots=True)
class RequestLabel:
    """Queue the feature's node label, on or off."""

    on: bool


@dataclass(frozen=True, slots=True)
class StartLocal:
    """docker start."""

    container_id: str


@dataclass(frozen=True, slots=True)
class EndContainer:
    """docker stop with this grace, or docker kill where `cause` says so."""

    container_id: str
    cause: Cause
    grace_s: float = 0.0
    signal: str = ""


@dataclass(frozen=True, slots=True)
class RestartUnit:
    """Ask systemd to restart the unit, whose script creates the missing local container."""


@dataclass(frozen=True, slots=True)
class AdoptImage:
    """Make the image that Kubernetes runs the local one, and keep the one before."""

    image_id: str


@dataclass(frozen=True, slots=True)
class RestoreImage:
    """Make the image before the failed one the local one again."""

    failed_image: str


Action = (
    WriteRow
    | SetMode
    | Grant
    | RequestLabel
    | StartLocal
    | EndContainer
    | RestartUnit
    | AdoptImage
    | RestoreImage
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What state the feature is in, the one thing to do now, when to look again at the latest, and why."""

    state: State
    action: Action | None
    wake_at: float | None
    why: str
