"""Decide what SONiC's `no_fallback_to_local` means on a switch that ctrmgrd has managed.

ctrmgrd takes any text there for yes, also the "false" that `config feature fallback NAME on` wrote: such a feature did
not fall back. It must not begin to with kubesyncd's first start, before its operator has been told. An absent field
means the same to both. So a field that was "false" when kubesyncd first saw it counts as yes until it has been absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kubesyncd.core.parse import is_true

FEATURES_MAX = 1024


def kept_off(feature: str) -> str:
    """Return the problem of a feature whose field counts as yes, with what to type."""
    return (
        f"ctrmgrd took no_fallback_to_local for set whatever its text, so {feature} does not fall back; "
        f"run: kubesync config feature fallback {feature} on (or off)"
    )


@dataclass(frozen=True, slots=True)
class FallbackHistory:
    """`kept_off`: the features whose field counts as yes whatever its text; `settled`: those read as kubesyncd does."""

    kept_off: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()

    def keeps_off(self, feature: str, text: str) -> bool:
        """Return whether the field's text means no, but counts as yes."""
        return bool(text.strip()) and not is_true(text) and feature not in self.settled

    def observed(self, feature: str, text: str) -> FallbackHistory:
        """Return the history once the field has had this text (empty: absent) in a complete CONFIG_DB."""
        if len(self.kept_off | self.settled) >= FEATURES_MAX:
            return self
        if self.keeps_off(feature, text):
            return replace(self, kept_off=self.kept_off | {feature})
        if text.strip() and feature in self.kept_off:
            # "true" is not settled: where it is not saved, the old text returns with the next load.
            return self
        return FallbackHistory(self.kept_off - {feature}, self.settled | {feature})
