"""Follow loads of CONFIG_DB: while one goes on, the last known configuration stands (promise S10)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ConfigLoad:
    """`seen`: CONFIG_DB has been whole once; from then on it is being loaded when it is not. `restores`: the rows that
    a load has lost are put back afterwards, and until `settled` the load counts as going on.
    """

    seen: bool = False
    restores: bool = False
    settled: bool = True

    def observed(self, *, whole: bool) -> ConfigLoad:
        """The value after CONFIG_DB has been found `whole`, or not."""
        if whole:
            return replace(self, seen=True)
        return replace(self, settled=False) if self.seen and self.restores else self

    def goes_on(self, *, whole: bool) -> bool:
        """Whether a load goes on, where CONFIG_DB is `whole`, or is not."""
        return not self.settled if whole else self.seen

    def restored(self) -> ConfigLoad:
        """The value once the rows that a load has lost are put back."""
        return replace(self, settled=True)
