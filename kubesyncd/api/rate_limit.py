"""Limit how often one container, or one user, may ask."""

from __future__ import annotations

from dataclasses import dataclass

CONTAINER_REQUESTS_PER_S = 5.0


@dataclass(slots=True)
class Caller:
    """The recent requests of one container, or user: a bucket of tokens."""

    tokens: float = CONTAINER_REQUESTS_PER_S
    at: float | None = None

    def delay_s(self, now: float) -> float:
        """Return the seconds that the next request has to wait."""
        if self.at is not None:
            self.tokens = min(
                CONTAINER_REQUESTS_PER_S, self.tokens + (now - self.at) * CONTAINER_REQUESTS_PER_S
            )
        self.at = now
        self.tokens -= 1.0
        return max(0.0, -self.tokens / CONTAINER_REQUESTS_PER_S)
