"""Delay retries with full jitter, so that the switches of a fleet do not retry at the same time.

Knows no clock and no coroutine; randomness is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_TRIES_MAX = 16


class Backoff:
    """Delays with full jitter: uniform from 0 to `first_s`, doubling at each failure up to `most_s`."""

    def __init__(self, rng: Random, first_s: float, most_s: float) -> None:
        self._rng = rng
        self._first_s = first_s
        self._most_s = most_s
        self._tries = 0

    def next_s(self) -> float:
        """Return the seconds to wait after one more failure."""
        ceiling_s = min(self._most_s, self._first_s * 2**self._tries)
        self._tries = min(self._tries + 1, _TRIES_MAX)
        return self._rng.uniform(0.0, ceiling_s)

    def longest_s(self) -> float:
        """Return the seconds to wait after a failure that a short delay cannot resolve."""
        return self._rng.uniform(self._most_s / 2, self._most_s)

    def reset(self) -> None:
        """Start over with the first delay: the last attempt succeeded."""
        self._tries = 0
