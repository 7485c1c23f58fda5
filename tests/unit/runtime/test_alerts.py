"""Check that a full disk is one alert, and that other problems are one alert per feature."""

from __future__ import annotations

from kubesyncd.runtime.alerts import Alerts

FULL = "state file: /var/lib/x cannot be written: No space left on device; free disk space"


def test_a_full_disk_is_one_alert_for_all_components_and_error_texts() -> None:
    troubles = Alerts()
    assert troubles.begins("ledger", "snmp", FULL)
    assert not troubles.begins("ledger", "lldp", FULL)
    assert not troubles.begins("image_not_adopted", "snmp", "Docker: write /x: no space left on device")
    assert not troubles.begins("labels_not_saved", "labels", FULL)


def test_after_every_component_has_space_again_the_next_full_disk_is_an_alert_again() -> None:
    troubles = Alerts()
    troubles.begins("ledger", "snmp", FULL)
    troubles.begins("ledger", "lldp", FULL)
    troubles.ends("ledger", "snmp")
    assert not troubles.begins("ledger", "pmon", FULL), "it is full for lldp still"
    troubles.ends("ledger", "pmon")
    troubles.ends("ledger", "lldp")
    troubles.ends("ledger", "nobody")
    assert troubles.begins("ledger", "snmp", FULL)


def test_other_troubles_are_each_feature_s_own() -> None:
    troubles = Alerts()
    assert troubles.begins("image_not_adopted", "snmp", "nobody can tell its name")
    assert troubles.begins("image_not_adopted", "lldp", "nobody can tell its name")
