"""Check what `no_fallback_to_local` means on a switch that ctrmgrd has managed, from text to text."""

from __future__ import annotations

import pytest

from kubesyncd.core import fallback_history
from kubesyncd.core.fallback_history import FallbackHistory, kept_off

NEW = FallbackHistory()


def after(*texts: str) -> FallbackHistory:
    """The history of snmp, whose field has had these texts."""
    history = NEW
    for text in texts:
        history = history.observed("snmp", text)
    return history


@pytest.mark.parametrize("text", ["false", "False", "no", "0", "x"])
def test_any_text_that_ctrmgrd_found_there_keeps_fallback_off(text: str) -> None:
    assert NEW.keeps_off("snmp", text), "before it is recorded, too"
    found = after(text)
    assert found == FallbackHistory(kept_off=frozenset({"snmp"}))
    assert found.keeps_off("snmp", text)


def test_a_text_that_both_read_alike_is_read_as_it_is() -> None:
    for text in ("", "  ", "true", "ON"):
        assert not NEW.keeps_off("snmp", text)
    assert after("") == after("true") == FallbackHistory(settled=frozenset({"snmp"}))
    assert not after("true", "false").keeps_off("snmp", "false"), "written to a switch of kubesyncd's"


def test_only_the_absent_field_ends_what_is_kept() -> None:
    assert after("false", "true").keeps_off("snmp", "false"), "not saved, so the next load brings it back"
    ended = after("false", "")
    assert ended == FallbackHistory(settled=frozenset({"snmp"}))
    assert not ended.keeps_off("snmp", "false")
    assert after("false", "", "false") == ended


def test_features_have_a_history_of_their_own() -> None:
    both = after("false").observed("lldp", "")
    assert (both.keeps_off("snmp", "false"), both.keeps_off("lldp", "false")) == (True, False)
    again = both.observed("snmp", "")
    assert again == FallbackHistory(settled=frozenset({"snmp", "lldp"}))


def test_the_history_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback_history, "FEATURES_MAX", 1)
    full = after("false")
    assert full.observed("lldp", "false") is full
    assert full.keeps_off("lldp", "false"), "what is not recorded stays off"
    settled = after("true")
    assert settled.observed("lldp", "false") is settled


def test_the_problem_names_the_feature_and_what_to_type() -> None:
    said = kept_off("snmp")
    assert "so snmp does not fall back; run: kubesync config feature fallback snmp on (or off)" in said
