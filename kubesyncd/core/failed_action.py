"""Represent an action that failed as a fact of the next observation, so that the planner plans with it.

Knows no clock, no client, no coroutine. Each kind of action and its target has at most one such fact; success, a
changed target and time end it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from kubesyncd.core.actions import (
    Admit,
    AdoptImage,
    EndContainer,
    Forget,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    Unpause,
    WriteRow,
)

if TYPE_CHECKING:
    from kubesyncd.core.actions import Action

TEXT_MAX = 300
# A refused start whose reason may pass counts as untried after so long.
START_AGES_S = 600.0


class ActionKind(StrEnum):
    """The kinds of actions that may fail; the value is the log event of the failure."""

    READ_ROW = "row_not_read"
    WRITE_ROW = "row_not_written"
    RECORD = "not_recorded"
    REQUEST_LABEL = "label_not_queued"
    START_LOCAL = "start_failed"
    UNPAUSE = "not_unpaused"
    STOP = "not_stopped"
    KILL = "not_killed"
    RESTART_UNIT = "unit_not_restarted"
    ADOPT_IMAGE = "image_not_adopted"
    RESTORE_IMAGE = "image_not_restored"
    FORGET = "not_forgotten"


@dataclass(frozen=True, slots=True)
class FailedAction:
    """An action that failed when it was last tried. Times are BOOTTIME seconds.

    `target`: the container it was about, where it is about one. `count`: failures in a row, `at` the last one; it is
    not tried again before `again_at`. `refused`: the outside understood and refused it, so that a retry does not help
    until something changes. `passing`: its reason may pass without an event.
    """

    kind: ActionKind
    target: str
    text: str
    count: int = 1
    at: float = 0.0
    again_at: float = 0.0
    refused: bool = False
    passing: bool = False

    @property
    def untried_at(self) -> float | None:
        """When a start of the container counts as untried again (BOOTTIME seconds); None: not by time alone."""
        return self.at + START_AGES_S if self.passing else None


def kind_of(action: Action) -> tuple[ActionKind, str]:
    """Return the kind and the target of an action; a failure of another target is not a failure of this action."""
    match action:
        case WriteRow():
            return ActionKind.WRITE_ROW, ""
        case SetMode(mode):
            return ActionKind.RECORD, mode.value
        case Admit(container_id):
            return ActionKind.RECORD, container_id
        case RequestLabel():
            return ActionKind.REQUEST_LABEL, ""
        case StartLocal(container_id):
            return ActionKind.START_LOCAL, container_id
        case Unpause(container_id):
            return ActionKind.UNPAUSE, container_id
        case EndContainer(container_id, _, _, signal):
            return ActionKind.KILL if signal else ActionKind.STOP, container_id
        case RestartUnit(renews):
            return ActionKind.RESTART_UNIT, "renewal" if renews else ""
        case AdoptImage(image_id):
            return ActionKind.ADOPT_IMAGE, image_id
        case RestoreImage(failed_image):
            return ActionKind.RESTORE_IMAGE, failed_image
        case Forget():
            return ActionKind.FORGET, ""
        case _:
            assert_never(action)
