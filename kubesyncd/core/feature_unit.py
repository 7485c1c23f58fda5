"""Tell which systemd unit runs a feature, and what systemd does with it.

Knows no clock, no client, no coroutine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

SUFFIX = ".service"
_OF_ASIC = re.compile(r"([a-z][a-z0-9_-]*?)([0-9]{1,3})")


class UnitPhase(Enum):
    """What systemd does with a unit."""

    RUNS = "runs"
    """It starts or runs, or systemd starts it again by itself."""
    ENDING = "ending"
    """It is being stopped, also where it is started again afterwards."""
    ENDED = "ended"
    """It has ended or failed, and nothing is about to start it."""
    UNTOLD = "untold"
    """It tells nothing of the feature: systemd does not know it, or it only starts the feature and ends itself."""


@dataclass(frozen=True, slots=True)
class UnitLook:
    """What systemd does with a unit, and when it has ended (BOOTTIME seconds); None: not known."""

    phase: UnitPhase
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class UnitEnd:
    """A unit has ended: when systemd said so and when it ended (BOOTTIME seconds), and whether the unit told of it.

    `ended_at` None: not known; systemd forgets it of a unit that it has unloaded. Without `heard`, it was found by the
    audit, maybe long afterwards.
    """

    unit: str
    looked_at: float
    ended_at: float | None = None
    heard: bool = True


@dataclass(frozen=True, slots=True)
class StartedBy:
    """The last start of a feature since boot: its unit, and when it asked (BOOTTIME seconds).

    `unit` is empty where another caller asked of a feature that was not up, or where the start came before kubesyncd
    could tell; `at` is 0 then.
    """

    unit: str = ""
    at: float = 0.0


NOT_STARTED = StartedBy()


def runs_feature(unit: str, feature: str) -> bool:
    """Return whether this unit is the feature's: snmp.service runs snmp, swss@0.service runs swss0."""
    name = unit.removesuffix(SUFFIX)
    return name != unit and feature in (name, name.replace("@", "", 1))


def units_of(feature: str) -> tuple[str, ...]:
    """Return the units that may run this feature, the likelier first: swss0 is also run by swss@0.service."""
    asic = _OF_ASIC.fullmatch(feature)
    of_asic = () if asic is None else (f"{asic[1]}@{asic[2]}{SUFFIX}",)
    return (feature + SUFFIX, *of_asic)


def concerns(end: UnitEnd, start: StartedBy) -> bool:
    """Return whether the unit has ended since the feature was last started.

    A start that no unit asked for may have come after the end: where it is not known when that was, it did.
    """
    if start.at >= end.looked_at:
        return False
    if end.ended_at is None:
        return end.heard or bool(start.unit) or not start.at
    return end.ended_at >= start.at
