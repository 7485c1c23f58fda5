"""Has somebody been told of this trouble already? One alert for as long as it lasts, whoever meets it.

A full disk meets every feature, the label queue and the images alike; twenty alerts say no more than one. Knows no
logger: it says whether a line is to be an alert.
"""

from __future__ import annotations

FULL_DISK = "full disk"
# As the kernel says it, and Docker after it.
_NO_SPACE = "no space left on device"


class Alerts:
    """What goes wrong just now on this switch, and for whom."""

    def __init__(self) -> None:
        self._met: dict[str, set[tuple[str, str]]] = {}

    def begins(self, topic: str, whom: str, text: str) -> bool:
        """Note that `topic` (a log event) is in trouble for `whom`; whether this has to be an alert."""
        self.ends(topic, whom)
        trouble = FULL_DISK if _NO_SPACE in text.lower() else f"{topic} of {whom}"
        met = self._met.setdefault(trouble, set())
        met.add((topic, whom))
        return len(met) == 1

    def ends(self, topic: str, whom: str) -> None:
        """It works again for `whom`."""
        for trouble in [name for name, met in self._met.items() if (topic, whom) in met]:
            self._met[trouble].discard((topic, whom))
            if not self._met[trouble]:
                del self._met[trouble]
