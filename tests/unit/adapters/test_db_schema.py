"""Check both spellings of our fields, and that values written by others never fail a read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.adapters.db_schema import CLOCK_TS_MAX, HLD, SONIC, VALUE_BYTES_MAX, Schema, normal, schema
from kubesyncd.core.model import (
    CONTAINER_ID,
    FailurePolicy,
    FeatureConfig,
    Mode,
    Owner,
    Row,
    Startup,
    SystemState,
)

ID = "0123456789abcdef" * 4
both = pytest.mark.parametrize("spelling", [HLD, SONIC], ids=["hld", "sonic"])

rows = st.builds(
    Row,
    system_state=st.sampled_from(SystemState),
    current_owner=st.sampled_from(Owner),
    transition_mode=st.sampled_from(Mode),
    docker_id=st.just("") | st.from_regex(CONTAINER_ID, fullmatch=True),
    update_ts=st.integers(0, 2**40),
    failure=st.text(max_size=60),
)
# A clock that is set back shows an hour twice, and the epoch's first day is the day before in the West.
unambiguous_ts = st.just(0) | st.integers(86_400, 4_000_000_000).map(lambda ts: ts - ts % 86_400 + 12 * 3600)
hostile = st.text(max_size=40) | st.sampled_from(
    ["true", "kube", "none", "9" * 30, "-1", "running", "1970-01-01"]
)


@given(row=rows)
def test_the_design_documents_names_keep_the_whole_row(row: Row) -> None:
    problems: list[str] = []
    assert HLD.decode_row(HLD.encode_row("snmp", row), problems) == row
    assert problems == []


@given(row=rows, ts=unambiguous_ts)
def test_sonics_names_keep_all_but_the_end_of_an_id(row: Row, ts: int) -> None:
    stored = SONIC.encode_row(
        "snmp", Row(row.system_state, row.current_owner, row.transition_mode, row.docker_id, ts)
    )
    read = SONIC.decode_row(stored, problems := [])
    assert problems == []
    assert (read.system_state, read.current_owner, read.transition_mode) == (
        row.system_state,
        row.current_owner,
        row.transition_mode,
    )
    assert read.update_ts == ts
    assert read.docker_id == ("" if row.current_owner is Owner.LOCAL else row.docker_id[:12])


@given(row=rows, ts=unambiguous_ts)
@both
def test_what_is_read_back_is_spelled_like_what_was_written(spelling: Schema, row: Row, ts: int) -> None:
    kept = Row(row.system_state, row.current_owner, row.transition_mode, row.docker_id, ts, row.failure)
    stored = spelling.encode_row("snmp", kept)
    again = spelling.encode_row("snmp", spelling.decode_row(stored, []))
    # A local container's name says no ID, so only that one field may be lost.
    assert {**again, "container_id": ""} == {**stored, "container_id": ""}


@given(fields=st.dictionaries(st.sampled_from([*(f.name for f in (*HLD.row, *SONIC.row))]), hostile))
@both
def test_no_stored_value_makes_reading_a_row_fail(spelling: Schema, fields: dict[str, str]) -> None:
    problems: list[str] = []
    read = spelling.decode_row(fields, problems)
    assert spelling.decode_row(spelling.encode_row("snmp", read), []).transition_mode is read.transition_mode
    assert all(len(problem) < 200 and problem.isascii() for problem in problems)


@given(fields=st.dictionaries(st.sampled_from([*(f.name for f in (*HLD.config, *SONIC.config))]), hostile))
@both
def test_no_stored_value_makes_reading_a_config_fail(spelling: Schema, fields: dict[str, str]) -> None:
    assert isinstance(spelling.decode_config(fields, []), FeatureConfig)


@given(ts=st.integers(0, 2**62))
@both
def test_any_time_can_be_written(spelling: Schema, ts: int) -> None:
    stored = spelling.encode_row("snmp", Row(update_ts=ts))
    assert spelling.decode_row(stored, problems := []).update_ts <= max(ts, CLOCK_TS_MAX)
    assert problems == []


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kathmandu", "UTC"])
def test_sonics_local_time_is_read_back_in_every_time_zone(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for ts in (90_000, 1_700_000_000, 1_720_000_000):
            assert SONIC.decode_row(SONIC.encode_row("snmp", Row(update_ts=ts)), []).update_ts == ts
    finally:
        monkeypatch.undo()
        time.tzset()


@both
def test_an_empty_row_stores_nothing(spelling: Schema) -> None:
    assert spelling.encode_row("snmp", Row()) == {}


def test_a_unit_that_has_spoken_spells_out_none() -> None:
    assert HLD.encode_row("snmp", Row(SystemState.DOWN)) == {
        "system_state": "down",
        "current_owner": "none",
        "transition_mode": "none",
        "docker_id": "",
    }
    assert SONIC.encode_row("snmp", Row(SystemState.DOWN)) == {
        "system_state": "down",
        "current_owner": "none",
        "remote_state": "none",
        "container_id": "",
    }


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (Row(SystemState.UP, Owner.LOCAL, Mode.NONE, ID), "none"),
        (Row(SystemState.UP, Owner.LOCAL, Mode.PENDING, ID), "pending"),
        (Row(SystemState.UP, Owner.NONE, Mode.READY), "stopped"),
        (Row(SystemState.UP, Owner.KUBE, Mode.READY, ID, startup=Startup.GO), "ready"),
        (Row(SystemState.UP, Owner.LOCAL, Mode.PENDING, ID, startup=Startup.WAIT), "pending"),
        (Row(SystemState.UP, Owner.KUBE, Mode.READY, ID), "running"),
        (Row(SystemState.DOWN, Owner.NONE, Mode.READY), "stopped"),
    ],
)
def test_sonic_has_a_value_for_every_mode(row: Row, word: str) -> None:
    stored = SONIC.encode_row("snmp", row)
    assert stored["remote_state"] == word
    assert SONIC.decode_row(stored, []).transition_mode is row.transition_mode


def test_sonic_records_a_local_container_by_name_and_a_kube_one_by_short_id() -> None:
    assert SONIC.encode_row("snmp", Row(SystemState.UP, Owner.LOCAL, docker_id=ID))["container_id"] == "snmp"
    assert SONIC.encode_row("snmp", Row(SystemState.UP, Owner.KUBE, docker_id=ID))["container_id"] == ID[:12]


@pytest.mark.parametrize(("text", "fallback"), [("", True), ("false", True), ("True", False), ("what", True)])
def test_sonic_falls_back_unless_told_not_to(text: str, fallback: bool) -> None:
    assert SONIC.decode_config({"no_fallback_to_local": text}, []).fallback is fallback
    assert SONIC.decode_config({}, []).fallback is True


@pytest.mark.parametrize("fallback", [True, False])
@both
def test_a_typing_error_moves_no_feature(spelling: Schema, fallback: bool) -> None:
    known = FeatureConfig(Owner.KUBE, fallback, 9, FailurePolicy.ROLLBACK)
    poison = dict.fromkeys(spelling.own_config_names, "kubee")
    assert spelling.decode_config(poison, problems := [], known) == known
    assert sorted(problem.removeprefix("invalid ").partition("=")[0] for problem in problems) == sorted(
        poison
    )
    # What is not said, or left blank, is the default all the same.
    unsaid = spelling.decode_config({}, [])
    assert spelling.decode_config({}, [], known) == unsaid
    assert spelling.decode_config(dict.fromkeys(poison, " "), [], known) == unsaid


def test_sonics_detection_is_in_minutes() -> None:
    assert SONIC.decode_config({"remote_fail_detection": "300"}, []).failure_minutes == 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("remote_state", "soon"),
        ("update_time", "yesterday"),
        ("update_time", "1901-01-01 00:00:00"),
        ("container_id", "../../etc"),
        ("system_state", "sideways"),
    ],
)
def test_a_value_sonic_does_not_know_is_a_problem_that_names_it(field: str, value: str) -> None:
    read = SONIC.decode_row({field: value}, problems := [])
    assert read == Row()
    assert len(problems) == 1
    assert field in problems[0]
    assert "taken as" in problems[0]


@both
def test_a_failure_too_long_to_be_read_is_cut(spelling: Schema) -> None:
    stored = spelling.encode_row("snmp", Row(failure="ü" * VALUE_BYTES_MAX))
    assert stored["failure"] == "ü" * (VALUE_BYTES_MAX // 2)


def test_the_masters_status_is_spelled_as_each_reader_expects() -> None:
    assert HLD.encode_master(connected=True, ts=7) == {"connected": "True", "last_update_ts": "7"}
    assert HLD.encode_master(connected=True, ts=7, ip="10.0.0.1", port=6443).keys() == {
        "connected",
        "last_update_ts",
    }
    sonic = SONIC.encode_master(connected=False, ts=1_700_000_000, ip="10.0.0.1", port=7443)
    assert (sonic["connected"], sonic["ip"], sonic["port"]) == ("false", "10.0.0.1", "7443")
    none = SONIC.encode_master(connected=False, ts=1_700_000_000, port=6443)
    assert (none["ip"], none["port"]) == ("", ""), "no master is configured"
    assert sonic["update_time"].startswith("2023-11-1")


def test_field_names_are_compared_in_any_case_and_with_either_dash() -> None:
    assert normal("Docker-ID") == "docker_id"


def test_the_values_of_the_setting_name_the_two_tables() -> None:
    assert (schema("hld"), schema("sonic")) == (HLD, SONIC)


@given(
    fallback=st.sampled_from(["true", "false"]),
    minutes=st.integers(0, 10_000),
    policy=st.sampled_from(["alert", "rollback"]),
)
@both
def test_what_is_written_to_the_configuration_reads_back(
    spelling: Schema, fallback: str, minutes: int, policy: str
) -> None:
    wanted = {
        "set_owner": "kube",
        "fallback_to_local": fallback,
        "kube_failure_detection": str(minutes),
        "failure_policy": policy,
    }
    problems: list[str] = []
    config = spelling.decode_config(spelling.encode_config(wanted), problems)
    assert problems == []
    assert (config.set_owner, config.fallback) == (Owner.KUBE, fallback == "true")
    assert (config.failure_minutes, config.failure_policy) == (minutes, policy)
