"""Check that a full disk is one alert, and that other problems are one alert per feature."""

from __future__ import annotations

import pytest
import structlog

from kubesyncd.runtime.alerts import AlertLog, Alerts

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


# ---- the log of one component -------------------------------------------------------------------


@pytest.fixture
def lines() -> structlog.testing.LogCapture:
    return structlog.testing.LogCapture()


@pytest.fixture
def alerts(lines: structlog.testing.LogCapture) -> AlertLog:
    return AlertLog(Alerts(), "snmp", structlog.wrap_logger(None, processors=[lines]))


def test_a_warning_is_logged_again_once_its_problem_has_cleared(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    for text in ("no answer", "no answer", "refused", "refused", "", "", "refused"):
        alerts.warn("store", text, retry_in_s=1)
    assert [line["why"] for line in lines.entries] == ["no answer", "refused", "refused"]
    assert {(line["event"], line["log_level"], line["retry_in_s"]) for line in lines.entries} == {
        ("store", "warning", 1)
    }


def test_each_thing_that_a_topic_is_about_has_its_own_warning(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    for about, text in (("a", "bad"), ("b", "bad"), ("a", "bad"), ("b", ""), ("a", "bad"), ("b", "bad")):
        alerts.warn("hook_left_out", text, about=about, hook=about)
    assert [line["hook"] for line in lines.entries] == ["a", "b", "b"]


def test_an_alert_is_logged_once_whatever_its_text_until_it_ends(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    alerts.begin("ledger", "no room")
    alerts.begin("ledger", "still no room")
    assert alerts.lasting("ledger", "rollback") == ("still no room",)
    alerts.end("ledger")
    assert alerts.lasting("ledger") == ()
    alerts.begin("ledger", "no room")
    assert [(line["log_level"], line["alert"]) for line in lines.entries] == [("error", True)] * 2
    alerts.end_all()
    assert alerts.lasting("ledger") == ()


def test_an_alert_that_others_have_raised_is_a_warning(lines: structlog.testing.LogCapture) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    AlertLog(shared, "snmp", log).begin("ledger", FULL)
    AlertLog(shared, "labels", log).begin("labels_not_saved", FULL)
    assert [line["log_level"] for line in lines.entries] == ["error", "warning"]
