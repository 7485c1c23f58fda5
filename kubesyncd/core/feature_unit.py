"""Tell which systemd unit runs a feature, and what systemd does with it.

Knows no clock, no client, no coroutine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SUFFIX = ".service"


class UnitPhase(Enum):
    """What systemd does with a unit."""

    RUNS = "runs"
    """It starts or runs, or systemd starts it again by itself."""
    ENDING = "ending"
    """It is being stopped, also where it is started again afterwards."""
    ENDED = "ended"
    """It has ended or failed, and nothing is about to start it."""


@dataclass(frozen=True, slots=True)
class StartedBy:
    """The last start of a feature since boot: its unit, and when it asked (BOOTTIME seconds).

    `unit` is empty where another caller asked, or where the start came before kubesyncd could tell.
    """

    unit: str = ""
    at: float = 0.0


NOT_STARTED = StartedBy()


def runs_feature(unit: str, feature: str) -> bool:
    """Return whether this unit is the feature's: snmp.service runs snmp, swss@0.service runs swss0."""
    name = unit.removesuffix(SUFFIX)
    return name != unit and feature in (name, name.replace("@", "", 1))
