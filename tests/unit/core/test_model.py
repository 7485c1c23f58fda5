"""Check that each database value is parsed, or becomes the default and a problem, and never an error."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core import model
from kubesyncd.core.model import (
    FailurePolicy,
    FeatureConfig,
    MasterConfig,
    Mode,
    Owner,
    Row,
    SystemState,
    valid_feature_name,
)
from kubesyncd.core.parse import (
    FAILURE_MINUTES_MAX,
    parse_bool,
    parse_choice,
    parse_feature_config,
    parse_int,
    parse_master_config,
    parse_row,
    unusable_names,
)
from kubesyncd.core.setting_range import range_of
from kubesyncd.core.text import shown

if TYPE_CHECKING:
    from enum import StrEnum

ID = "0123456789abcdef" * 4


def named(problem: str) -> str:
    """The field that a problem is about."""
    return problem.removeprefix("invalid ").partition("=")[0]


@pytest.mark.parametrize(
    "name", ["snmp", "a", "syncd@0", "bgp@123", "dhcp_relay", "mgmt-framework", "a" * 63]
)
def test_a_feature_may_be_called(name: str) -> None:
    assert valid_feature_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Snmp",
        "1a",
        "-a",
        "a b",
        "a|b",
        "../x",
        "a/b",
        "a.b",
        "a@",
        "a@1234",
        "a@x",
        "a" * 64,
        "ä",
        "a\n",
        "a@1@2",
    ],
)
def test_a_feature_may_not_be_called(name: str) -> None:
    assert not valid_feature_name(name)


@pytest.mark.parametrize("word", ["true", "True", " ON ", "yes", "1"])
def test_words_for_true(word: str) -> None:
    problems: list[str] = []
    assert parse_bool("k", word, problems, default=False) is True
    assert problems == []


@pytest.mark.parametrize("word", ["false", "False", "off", "NO", "0"])
def test_words_for_false(word: str) -> None:
    problems: list[str] = []
    assert parse_bool("k", word, problems, default=True) is False
    assert problems == []


@pytest.mark.parametrize("default", [True, False])
def test_any_other_word_is_the_default_and_a_problem(*, default: bool) -> None:
    problems: list[str] = []
    assert parse_bool("k", "maybe", problems, default=default) is default
    assert problems == [f"invalid k='maybe': neither true nor false; taken as {str(default).lower()}"]
    assert parse_bool("k", " ", problems, default=default) is default
    assert len(problems) == 1


@pytest.mark.parametrize(("text", "number"), [("0", 0), (" 7 ", 7), ("65535", 65535), ("00007", 7)])
def test_whole_numbers(text: str, number: int) -> None:
    problems: list[str] = []
    assert parse_int("port", text, problems, default=1, most=65535) == number
    assert problems == []


@pytest.mark.parametrize("text", ["65536", "-1", "1.5", "x", "²", "１", "000007", "9" * 5000])
def test_an_invalid_number_is_the_default_and_a_problem(text: str) -> None:
    problems: list[str] = []
    assert parse_int("port", text, problems, default=1, most=65535) == 1
    (problem,) = problems
    assert problem.endswith(": not a whole number from 0 to 65535; taken as 1")
    assert len(problem) < 150
    assert problem.startswith(f"invalid port={shown(text)}: not")


def test_an_absent_number_is_the_default_without_a_problem() -> None:
    problems: list[str] = []
    assert parse_int("port", "", problems, default=5, most=9) == 5
    assert problems == []


def test_choices() -> None:
    problems: list[str] = []
    owners = (Owner.LOCAL, Owner.KUBE)
    assert parse_choice("set_owner", " KUBE ", problems, allowed=owners, default=Owner.LOCAL) is Owner.KUBE
    assert parse_choice("set_owner", "", problems, allowed=owners, default=Owner.LOCAL) is Owner.LOCAL
    assert problems == []
    assert parse_choice("set_owner", "none", problems, allowed=owners, default=Owner.LOCAL) is Owner.LOCAL
    assert problems == ["invalid set_owner='none': not one of local|kube; taken as local"]
    states = tuple(SystemState)
    parse_choice("system_state", "off", problems, allowed=states, default=SystemState.ABSENT)
    assert problems[1] == "invalid system_state='off': not one of \"\"|up|down; taken as absent"


def test_a_config_with_every_field() -> None:
    problems: list[str] = []
    config = parse_feature_config(
        {
            "SET_OWNER": "kube",
            "Fallback_To_Local": "true",
            "kube_failure_detection": "5",
            "failure_policy": "rollback",
            "has_per_asic_scope": "True",
            "state": "enabled",
        },
        problems,
    )
    assert config == FeatureConfig(
        Owner.KUBE, fallback=True, failure_minutes=5, failure_policy=FailurePolicy.ROLLBACK, local_only=True
    )
    assert problems == []


def test_an_empty_config_is_the_seeds_default() -> None:
    problems: list[str] = []
    assert parse_feature_config({}, problems) == FeatureConfig() == FeatureConfig(Owner.LOCAL)
    assert parse_feature_config({"failure_policy": " "}, problems).failure_policy is None
    assert problems == []


def test_a_poisoned_config_names_each_field() -> None:
    problems: list[str] = []
    poison = {
        "set_owner": "x",
        "fallback_to_local": "x",
        "kube_failure_detection": str(FAILURE_MINUTES_MAX + 1),
        "failure_policy": "x",
        "has_per_asic_scope": "x",
    }
    assert parse_feature_config(poison, problems) == FeatureConfig(failure_policy=FailurePolicy.ALERT)
    assert [named(p) for p in problems] == [
        "failure_policy",
        "set_owner",
        "fallback_to_local",
        "kube_failure_detection",
    ]
    assert (
        parse_feature_config({"kube_failure_detection": str(FAILURE_MINUTES_MAX)}, []).failure_minutes
        == 5_256_000
    )


def test_the_owner_and_policy_in_force() -> None:
    kube = FeatureConfig(Owner.KUBE)
    assert kube.owner is Owner.KUBE
    assert FeatureConfig(Owner.KUBE, local_only=True).owner is Owner.LOCAL
    assert FeatureConfig(Owner.KUBE, always_local=True).owner is Owner.LOCAL
    assert kube.policy is FailurePolicy.ALERT
    assert FeatureConfig(Owner.KUBE, fallback=True).policy is FailurePolicy.SWITCH_TO_LOCAL
    assert (
        FeatureConfig(Owner.KUBE, fallback=True, failure_policy=FailurePolicy.ALERT).policy
        is FailurePolicy.ALERT
    )


def test_a_row_with_every_field() -> None:
    problems: list[str] = []
    row = parse_row(
        {
            "system_state": "UP",
            "Current_Owner": "kube",
            "transition_mode": "kube_ready",
            "docker-id": ID,
            "current_owner_update_ts": str(2**62),
            "failure": "no kube container has run for 5 min",
            "feature_state": "another program's",
        },
        problems,
    )
    assert row == Row(
        SystemState.UP, Owner.KUBE, Mode.READY, ID, 2**62, "no kube container has run for 5 min"
    )
    assert problems == []
    assert parse_row({}, problems) == Row()
    assert problems == []


def test_a_poisoned_row_is_empty_and_names_each_field() -> None:
    problems: list[str] = []
    names = ("system_state", "current_owner", "transition_mode", "docker_id", "current_owner_update_ts")
    assert parse_row(dict.fromkeys(names, "\x1b[31m!"), problems) == Row()
    assert [named(p) for p in problems] == ["docker_id", *names[:3], names[4]]
    assert all("\x1b" not in problem for problem in problems)
    assert problems[0] == r"invalid docker_id='\x1b[31m!': not a container ID; taken as absent"


def test_a_time_beyond_all_limits_is_absent() -> None:
    problems: list[str] = []
    assert parse_row({"current_owner_update_ts": str(2**62 + 1)}, problems).update_ts == 0
    assert len(problems) == 1


@pytest.mark.parametrize("docker_id", ["0123456789ab", ID])
def test_short_and_long_ids_are_ids(docker_id: str) -> None:
    assert parse_row({"docker_id": f" {docker_id} "}, []).docker_id == docker_id


@pytest.mark.parametrize("docker_id", ["0123456789a", ID + "0", "0123456789AB", "snmp"])
def test_invalid_ids_are_refused(docker_id: str) -> None:
    problems: list[str] = []
    assert parse_row({"docker_id": docker_id}, problems).docker_id == ""
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("ip", "means"),
    [
        *((ip, ip) for ip in ("10.0.0.1", "fc00::1", "::1", "master.example.org", "m", "1.a")),
        ("[fc00::1]", "fc00::1"),
        ("FC00:0:0::1", "fc00::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("Master.Example.org.", "master.example.org"),
    ],
)
def test_a_master_may_be_at(ip: str, means: str) -> None:
    master = parse_master_config({"IP": f" {ip} "})
    assert (master.ip, master.problems, master.wanted) == (means, (), True)


@pytest.mark.parametrize(
    "ip",
    [
        *("10.0.0.1/24", "10.0.0", "300.1.1.1", "10.0.0.1:6443", "[10.0.0.1]", "fe80::1%eth0", "[::1"),
        *("a b", "-a", "a-", "a..b", "http://x", "x" * 64, "x." * 127, "a_b", "a;b", "a!", "ä", "5"),
    ],
)
def test_a_master_cannot_be_at(ip: str) -> None:
    master = parse_master_config({"ip": ip})
    assert (master.ip, master.wanted) == ("", False)
    assert len(master.problems) == 1


def test_a_master_with_every_field() -> None:
    got = parse_master_config({"IP": "10.0.0.1", "Port": "443", "insecure": "on", "DISABLE": "True"})
    assert got == MasterConfig("10.0.0.1", 443, insecure=True, disable=True)
    assert not got.wanted
    assert parse_master_config({}) == MasterConfig("", 6443, insecure=False, disable=False)
    assert parse_master_config({"port": "0"}).port == 6443
    poisoned = parse_master_config({"ip": "10.0.0.1", "port": "65536", "insecure": "?", "disable": "?"})
    assert poisoned == MasterConfig("10.0.0.1", problems=poisoned.problems)
    assert [named(p) for p in poisoned.problems] == ["port", "insecure", "disable"]
    assert poisoned.wanted
    assert parse_master_config({"ip": "!"}).problems == (
        "invalid IP='!': not an address or host name; taken as absent",
    )


def test_the_values_in_the_databases_are_these() -> None:
    def words(kind: type[StrEnum]) -> list[str]:
        return [each.value for each in kind]

    assert words(Owner) == ["local", "kube", "none"]
    assert words(SystemState) == ["", "up", "down"]
    assert words(Mode) == ["none", "kube_pending", "kube_ready"]
    assert words(FailurePolicy) == ["alert", "switch-to-local", "rollback"]
    assert [each.value for each in model.KubeLabel] == ["on", "off", "unknown"]


TIMES = {
    "gate_after_s": 60,
    "local_wait_s": 60, "stop_grace_s": 10, "kube_stop_grace_s": 60, "label_wait_s": 5, "kubelet_stop_s": 10,
    "fallback_after_s": 300, "kube_stable_s": 60, "handover_delay_s": 30, "handover_delay_s_max": 3600,
    "node_not_ready_s": 60,
    "crash_window_s": 900,
    "crash_loop_s": 600, "crash_loop_starts": 5, "tag_after_s": 600, "check_every_s": 60, "check_s_max": 10,
    "check_failures": 3, "hook_s_max": 10, "reboot_s_max": 30, "reask_s": 5, "verb_s_max": 85, "audit_s": 60,
    "backoff_s": 0.8, "backoff_s_max": 30,
}  # fmt: skip


def test_the_times_are_the_promised_ones() -> None:
    assert asdict(model.Timing()) == TIMES


RANGES = {
    "gate_after_s": "of seconds from 1 to 86400",
    "crash_window_s": "of seconds from 1 to 86400",
    "crash_loop_starts": "of starts from 0 to 64",
    "check_every_s": "of seconds from 0.1 to 10000000",
    "check_failures": "of failures from 1 to 1000000",
    "audit_s": "of seconds from 0.1 to 10000000",
}


def test_each_time_and_count_has_its_promised_range() -> None:
    ranges = {key.name: str(range_of(key)) for key in fields(model.Timing)}
    others = {told for name, told in ranges.items() if name not in RANGES}
    assert {name: ranges[name] for name in RANGES} == RANGES
    assert others == {"of seconds from 0.001 to 10000000", "of seconds from 0.001 to 86400"}


def test_missing_fields_have_the_harmless_default() -> None:
    config = FeatureConfig()
    assert (config.set_owner, config.fallback, config.failure_minutes) == (Owner.LOCAL, False, 0)
    assert model.Stored(None, Row()) == model.Stored(None, Row(), loading=False, problems=())
    assert Row() == Row(SystemState.ABSENT, Owner.NONE, Mode.NONE, "", 0, "")
    assert MasterConfig() == MasterConfig("", 6443, insecure=False, disable=False, problems=())
    view = model.LabelView()
    assert (view.value, view.pending, view.failed, view.refused) == (
        model.KubeLabel.UNKNOWN,
        False,
        False,
        "",
    )
    container = model.Container("1", Owner.KUBE, running=False)
    assert (container.exit_code, container.started, container.gone) == (None, "", False)
    assert (container.paused, container.restarting, container.restarts) == (False, False, False)
    assert (container.unread, container.oom_killed, container.unhealthy) == ("", False, "")
    seen = model.NodeSeen({})
    assert (seen.uid, seen.older, seen.condition, seen.version) == ("", False, None, 0)


KNOWN = FeatureConfig(Owner.KUBE, fallback=True, failure_minutes=9, failure_policy=FailurePolicy.ROLLBACK)


def test_an_unusable_field_keeps_its_last_known_value() -> None:
    poison = dict.fromkeys(
        ("set_owner", "fallback_to_local", "kube_failure_detection", "failure_policy"), "kubee"
    )
    problems: list[str] = []
    assert parse_feature_config(poison, problems, KNOWN) == KNOWN
    assert len(problems) == 4
    # One that is absent, or blank, is the default all the same.
    assert parse_feature_config({}, problems, KNOWN) == FeatureConfig()
    assert parse_feature_config(dict.fromkeys(poison, " "), problems, KNOWN) == FeatureConfig()
    unsaid = FeatureConfig(Owner.KUBE)
    assert (
        parse_feature_config({"failure_policy": "x"}, problems, unsaid).failure_policy is FailurePolicy.ALERT
    )


FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "set_owner",
            "fallback_to_local",
            "kube_failure_detection",
            "failure_policy",
            "has_per_asic_scope",
            "system_state",
            "current_owner",
            "transition_mode",
            "docker_id",
            "docker-id",
            "current_owner_update_ts",
            "failure",
            "ip",
            "port",
            "insecure",
            "disable",
        ]
    ),
    st.text() | st.sampled_from(["kube", "true", "1", "up", "kube_ready", "none", ID]),
)


@given(FIELDS)
def test_parsing_is_total(fields: dict[str, str]) -> None:
    problems: list[str] = []
    config, row, master = (
        parse_feature_config(fields, problems),
        parse_row(fields, problems),
        parse_master_config(fields),
    )
    assert 0 <= config.failure_minutes <= FAILURE_MINUTES_MAX
    assert config.set_owner in (Owner.LOCAL, Owner.KUBE)
    assert row.update_ts >= 0
    assert 0 < master.port <= 65535
    for problem in (*problems, *master.problems):
        assert problem.isprintable()
        assert len(problem) < 200


def test_rows_with_names_that_are_invalid_are_told_with_the_rule() -> None:
    assert unusable_names(["snmp", "dhcp_relay"]) == ""
    told = unusable_names(["snmp", "P4RT", "1st"])
    assert told.startswith("FEATURE|1st, FEATURE|P4RT: invalid name, not managed: ")
    assert " and 2 more: " in unusable_names([f"P{n}" for n in range(10)])


def test_eight_invalid_names_are_told_in_64_characters_each() -> None:
    names = [f"P{n}" for n in range(8)]
    assert unusable_names(names).startswith(f"FEATURE|{', FEATURE|'.join(names)}: invalid name")
    assert unusable_names([*names, "P9"]).startswith(f"FEATURE|{', FEATURE|'.join(names)} and 1 more: ")
    assert unusable_names(["P" * 65]).startswith(f"FEATURE|{'P' * 64}: ")
