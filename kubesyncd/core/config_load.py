"""Track loads of CONFIG_DB: during a load, the last known configuration stays in force (promise S10)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ConfigLoad:
    """The state of loads of CONFIG_DB.

    `seen`: CONFIG_DB has been complete once; whenever it is incomplete later, a load is going on. `restores`: rows that
    a load has lost are restored afterwards; the load counts as going on until `settled`.
    """

    seen: bool = False
    restores: bool = False
    settled: bool = True

    def observed(self, *, whole: bool) -> ConfigLoad:
        """Return the value after an observation: CONFIG_DB is complete (`whole`), or not."""
        if whole:
            return replace(self, seen=True)
        return replace(self, settled=False) if self.seen and self.restores else self

    def goes_on(self, *, whole: bool) -> bool:
        """Return whether a load is going on, given that CONFIG_DB is complete (`whole`), or not."""
        return not self.settled if whole else self.seen

    def restored(self) -> ConfigLoad:
        """Return the value after the rows that a load has lost are restored."""
        return replace(self, settled=True)
