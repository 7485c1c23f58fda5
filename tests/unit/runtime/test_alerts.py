"""Check that a full disk is one alert, and that other problems are one alert per feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from kubesyncd.ports import Lasting, Refused, Unavailable
from kubesyncd.runtime.alerts import SETTLED_S, AlertLog, Alerts
from kubesyncd.runtime.state_files import StateFile

if TYPE_CHECKING:
    from pathlib import Path

FULL = "state file: /var/lib/x cannot be written: No space left on device; free disk space"


def test_a_full_disk_is_one_alert_for_all_components_and_error_texts() -> None:
    troubles = Alerts()
    assert troubles.begins("ledger", "snmp", FULL)
    assert not troubles.begins("ledger", "lldp", FULL)
    assert not troubles.begins("image_not_adopted", "snmp", "Docker: write /x: no space left on device")
    assert not troubles.begins("labels_not_saved", "labels", FULL)


@pytest.mark.parametrize(
    "why", ["Read-only file system", "Disk quota exceeded", "Permission denied", "Input/output error"]
)
def test_a_file_that_cannot_be_written_is_one_alert_for_all_features(why: str) -> None:
    text = f"state file: {why}"
    troubles = Alerts()
    assert troubles.begins("ledger", "snmp", text, "/run/x")
    assert not troubles.begins("ledger", "lldp", text, "/run/x")
    assert not troubles.begins("not_recorded", "snmp", f"{text}; something else", "/run/x")
    assert troubles.begins("labels_not_saved", "labels", text, "/var/y"), "another file"


def test_the_file_is_known_whatever_the_sentence_says(
    lines: structlog.testing.LogCapture, tmp_path: Path
) -> None:
    """One file that cannot be written is one alert, of all components and all errors made from its error."""
    (tmp_path / "x cannot be written: y; z").mkdir()
    with pytest.raises(Unavailable) as raised:
        StateFile(tmp_path / "x cannot be written: y; z").save(b"")
    error = raised.value.meaning("nothing is stored").meaning()
    assert type(error) is Unavailable
    assert error.what.endswith(": nothing is stored")
    assert error.detail == f"{error.what}; {error.fix}"
    assert error.fix.startswith("free disk space or inodes in")
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    AlertLog(shared, "snmp", log, lambda: 0.0).begin("ledger", str(error), file=error.file)
    AlertLog(shared, "labels", log, lambda: 0.0).begin("labels_not_saved", str(raised.value), file=error.file)
    assert [line["log_level"] for line in lines.entries] == ["error", "warning"]


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
    return AlertLog(Alerts(), "snmp", structlog.wrap_logger(None, processors=[lines]), lambda: 0.0)


def test_a_warning_is_logged_again_once_its_problem_has_cleared(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    for text in ("no answer", "no answer", "refused", "refused", "", "", "refused"):
        alerts.warn("store", text, retry_in_s=1)
    assert [line.get("why") for line in lines.entries] == ["no answer", "refused", None, "refused"]
    assert {(line["event"], line["log_level"], line.get("retry_in_s")) for line in lines.entries} == {
        ("store", "warning", 1), ("recovered", "info", None)
    }  # fmt: skip
    assert [line["was"] for line in lines.entries if line["event"] == "recovered"] == ["refused"]


def test_each_thing_that_a_topic_is_about_has_its_own_warning(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    for about, text in (("a", "bad"), ("b", "bad"), ("a", "bad"), ("b", ""), ("a", "bad"), ("b", "bad")):
        alerts.warn("hook_left_out", text, about=about, hook=about)
    assert [line["hook"] for line in lines.entries if "hook" in line] == ["a", "b", "b"]


def test_an_alert_is_logged_once_whatever_its_text_until_it_ends(
    alerts: AlertLog, lines: structlog.testing.LogCapture
) -> None:
    alerts.begin("ledger", "no room")
    alerts.begin("ledger", "still no room")
    assert alerts.lasting("ledger", "rollback") == ("still no room",)
    alerts.end("ledger")
    assert alerts.lasting("ledger") == ()
    alerts.begin("ledger", "no room")
    assert [(line["log_level"], line.get("alert")) for line in lines.entries] == [
        ("error", True), ("info", None), ("error", True)
    ]  # fmt: skip
    alerts.end_all()
    assert alerts.lasting("ledger") == ()


def test_an_alert_that_others_have_raised_is_a_warning(lines: structlog.testing.LogCapture) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    AlertLog(shared, "snmp", log, lambda: 0.0).begin("ledger", FULL)
    AlertLog(shared, "labels", log, lambda: 0.0).begin("labels_not_saved", FULL)
    assert [line["log_level"] for line in lines.entries] == ["error", "warning"]


# ---- outages of services --------------------------------------------------------------------------


def told(lines: structlog.testing.LogCapture) -> list[tuple[str, str]]:
    """The event and the service of each line, and none twice."""
    found = [(line["event"], line["service"]) for line in lines.entries]
    lines.entries.clear()
    return found


def test_an_outage_is_one_line_when_it_begins_and_one_when_it_ends_for_all_components(
    lines: structlog.testing.LogCapture,
) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    now = [0.0]
    features = [AlertLog(shared, name, log, lambda: now[0]) for name in ("snmp", "lldp", "bgp")]
    for _ in range(3):
        for _ in range(2):
            for feature in features:
                feature.fails("trouble", Unavailable("Docker", "no answer"), retry_in_s=1)
        assert told(lines) == [("trouble", "Docker")]
        features[0].fails("store", Unavailable("Redis", "no answer"))
        assert told(lines) == [("store", "Redis")], "each service has its own"
        features[1].answers("trouble")
        features[0].answers("store")
        assert told(lines) == [], "a cache may have answered"
        now[0] += SETTLED_S
        features[0].answers("store")
        assert told(lines) == [("recovered", "Redis")]
        for _ in range(2):
            for feature in features:
                feature.answers("trouble")
        assert told(lines) == [("recovered", "Docker")]


def test_a_lost_stream_is_an_outage_for_all_and_its_return_ends_it(
    lines: structlog.testing.LogCapture,
) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    feature, stream = (AlertLog(shared, whom, log, lambda: now[0]) for whom in ("snmp", "containers"))
    stream.stream("Docker", "")
    now = [100.0]
    for _ in range(3):
        stream.stream("Docker", "the event stream ended")
        stream.stream("Docker", "no answer")
        now[0] += SETTLED_S
        feature.fails("trouble", Unavailable("Docker", "no answer"))
        assert told(lines) == [("outage", "Docker")]
        stream.stream("Docker", "")
        feature.fails("trouble", Unavailable("Docker", "the answer to a call from before the return"))
        feature.answers("trouble")
        assert told(lines) == [("recovered", "Docker")]
    now[0] += SETTLED_S
    feature.fails("trouble", Unavailable("Docker", "one container cannot be described"))
    assert told(lines) == [("trouble", "Docker")]
    stream.stream("Docker", "the event stream ended")
    stream.stream("Docker", "")
    assert told(lines) == [("recovered", "Docker")], "the same outage, which a feature has noticed first"
    now[0] += SETTLED_S
    feature.fails("trouble", Unavailable("Docker", "one container cannot be described"))
    now[0] += SETTLED_S
    assert told(lines) == [("trouble", "Docker")]
    stream.stream("Docker", "the event stream ended")
    stream.stream("Docker", "")
    assert told(lines) == [("outage", "Docker"), ("recovered", "Docker")]
    now[0] += SETTLED_S
    feature.fails("trouble", Unavailable("Docker", "one container cannot be described"))
    assert told(lines) == [("trouble", "Docker")], "what it still fails is told again"


def test_a_component_that_is_gone_is_no_reason_for_an_outage_to_last(
    lines: structlog.testing.LogCapture,
) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    now = [0.0]
    gone, left = (AlertLog(shared, whom, log, lambda: now[0]) for whom in ("snmp", "lldp"))
    for feature in (gone, left):
        feature.fails("trouble", Unavailable("Docker", "no answer"))
    gone.end_all()
    now[0] += SETTLED_S
    left.answers("trouble")
    assert told(lines) == [("trouble", "Docker"), ("recovered", "Docker")]


def test_a_refused_call_is_one_component_s_own_problem(lines: structlog.testing.LogCapture) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    features = [AlertLog(shared, whom, log, lambda: 0.0) for whom in ("snmp", "lldp")]
    for feature in features:
        feature.fails("trouble", Refused("Docker", "no such program"))
        feature.fails("trouble", Refused("Docker", "no such program"))
        feature.answers("trouble")
    assert [line["event"] for line in lines.entries] == ["trouble", "recovered"] * 2


def test_an_outage_that_an_operator_has_to_end_is_one_alert_also_where_it_began_as_another(
    lines: structlog.testing.LogCapture,
) -> None:
    shared, log = Alerts(), structlog.wrap_logger(None, processors=[lines])
    now = [100.0]
    features = [AlertLog(shared, whom, log, lambda: now[0]) for whom in ("snmp", "lldp")]
    stream = AlertLog(shared, "events", log, lambda: now[0])
    for _ in range(2):
        stream.stream("Redis", "connection refused")
        for feature in features * 2:
            feature.fails("store", Unavailable("Redis", "connection refused"))
            feature.fails("store", Lasting("Redis", "NOAUTH"))
            feature.fails("row_not_written", Lasting("Redis", "NOAUTH"))
        assert [(line["event"], line.get("alert", False)) for line in lines.entries] == [
            ("outage", False),
            ("store", True),
        ]
        assert features[0].lasting("row_not_written") == ("Redis: NOAUTH",)
        lines.entries.clear()
        for feature in features:
            feature.answers("row_not_written", surely=True)
        stream.stream("Redis", "")
        assert told(lines) == [("recovered", "Redis")]
        assert features[0].lasting("row_not_written") == ()
        now[0] += SETTLED_S


def test_an_outage_that_lasts_is_an_alert_also_where_a_call_failed_just_after_the_last_one(
    lines: structlog.testing.LogCapture,
) -> None:
    now = [0.0]
    log = structlog.wrap_logger(None, processors=[lines])
    alerts = AlertLog(Alerts(), "snmp", log, lambda: now[0])
    alerts.stream("Redis", "refused")
    alerts.stream("Redis", "")
    now[0] = SETTLED_S - 1.0
    alerts.fails("store", Lasting("Redis", "NOAUTH"))
    assert not [line for line in lines.entries if line.get("alert")], "it may have begun before"
    for now[0] in (SETTLED_S + 1.0, SETTLED_S + 2.0):
        alerts.fails("store", Lasting("Redis", "NOAUTH"))
        assert len([line for line in lines.entries if line.get("alert")]) == 1
