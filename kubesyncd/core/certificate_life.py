"""Judge a certificate by its lifetime: whether the program that renews it is late.

Knows no file, no clock and no X.509.
"""

from __future__ import annotations

from dataclasses import dataclass

# The kubelet renews its certificate at a random moment between 70 % and 90 % of the lifetime. A day's certificate and a
# year's are judged alike.
RENEWED_BY = 0.9


@dataclass(frozen=True, slots=True)
class CertificateLife:
    """The time for which a certificate is valid, in seconds since the epoch."""

    begins: float
    ends: float

    @property
    def renewed_by(self) -> float:
        """When its successor should be there."""
        return min(self.ends, self.begins + RENEWED_BY * (self.ends - self.begins))

    def is_late(self, now: float) -> bool:
        """Return whether its successor should be there already."""
        return now >= self.renewed_by
