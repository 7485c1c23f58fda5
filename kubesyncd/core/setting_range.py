"""Declare the range and unit of a number of the settings file in the field that holds it.

The loader of the settings file reads the range, and so does the program that writes the pages about the settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import Field

RANGE = "range"
SECONDS_MIN = 0.001
# For a delay that an operator may set so high that it never ends: 115 days.
SECONDS_MAX = 10_000_000
# For a limit within which the daemon waits for another program.
DAY_S = 86_400
COUNT_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class SettingRange:
    """The smallest and the largest value of a number, and its unit."""

    least: float
    most: float
    unit: str = ""

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        unit = f"of {self.unit} " if self.unit else ""
        return f"{unit}from {self.least:.12g} to {self.most:.12g}"


def seconds(default: float, *, least: float = SECONDS_MIN, most: float = SECONDS_MAX) -> float:
    """Return a dataclass field with this default that holds a time in seconds."""
    return field(default=default, metadata={RANGE: SettingRange(least, most, "seconds")})


def count(default: int, unit: str = "", *, least: int = 0, most: int = COUNT_MAX) -> int:
    """Return a dataclass field with this default that holds a whole number."""
    return field(default=default, metadata={RANGE: SettingRange(least, most, unit)})


def range_of(key: Field[Any]) -> SettingRange:
    """Return the range of a number's field."""
    found = key.metadata[RANGE]
    assert isinstance(found, SettingRange), f"{key.name}: invalid range"
    return found
