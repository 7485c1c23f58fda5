"""Check when a load of CONFIG_DB counts as going on (promise S10)."""

from __future__ import annotations

from kubesyncd.core.config_load import ConfigLoad


def test_before_config_db_was_complete_once_no_load_goes_on() -> None:
    load = ConfigLoad(restores=True).observed(whole=False)
    assert load == ConfigLoad(restores=True)
    assert not load.goes_on(whole=False)


def test_an_incomplete_config_db_is_a_load_once_it_was_complete() -> None:
    load = ConfigLoad().observed(whole=True)
    assert load.seen
    assert not load.goes_on(whole=True)
    assert load.observed(whole=False).goes_on(whole=False)


def test_without_a_restore_a_load_is_over_with_a_complete_config_db() -> None:
    load = ConfigLoad(seen=True).observed(whole=False)
    assert load.settled
    assert not load.observed(whole=True).goes_on(whole=True)


def test_with_a_restore_a_load_goes_on_until_lost_rows_are_restored() -> None:
    load = ConfigLoad(seen=True, restores=True).observed(whole=False)
    assert not load.settled
    assert load.observed(whole=True).goes_on(whole=True)
    assert not load.restored().goes_on(whole=True)
    assert load.restored() == ConfigLoad(seen=True, restores=True)
