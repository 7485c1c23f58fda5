"""Check what is told of containers that are paused, restarting, or not described by Docker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import EndContainer, SetMode, Unpause
from kubesyncd.core.conditions import ALERTING, ConditionKind, conditions
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.model import KubeLabel, LabelView, Mode, Owner
from kubesyncd.core.record import Cause, Exit, Record, project
from kubesyncd.core.verbs import DONE, Kill, Start, Stop, accept, given_up, outcome, wait_code
from tests.unit.core.given import (
    KUBE,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    ON,
    TIMING,
    granted,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

UNREAD = {"unread": "500: input/output error"}


def told(*containers: object) -> list[tuple[ConditionKind, str]]:
    found = conditions("snmp", up(), observed(*containers), TIMING, NOW)  # type: ignore[arg-type]
    return [(condition.kind, condition.text) for condition in found]


def test_what_a_log_filter_matches_keeps_its_name() -> None:
    """The pages on failures and on fleets promise them."""
    shown = {"container_paused", "container_restarting", "dry_run", "gate_shared", "restart_policy"}
    alerts = {
        "container_started_by_docker",
        "container_not_read",
        "gate_ignored",
        "healthcheck_fails",
        "label_contested",
        "no_way_back",
        "out_of_memory",
        "pod_does_not_follow_label",
        "startup_waits",
    }
    assert {kind.value for kind in ConditionKind} == alerts | shown
    assert {kind.value for kind in ALERTING} == alerts


def test_a_contested_label_is_a_condition_that_is_an_alert() -> None:
    label = LabelView(KubeLabel.ON, contested="another client changes it")
    found = conditions("snmp", up(), observed(local(), label=label), TIMING, NOW)
    assert [(c.kind, c.text) for c in found] == [(ConditionKind.CONTESTED, "another client changes it")]
    assert ConditionKind.CONTESTED in ALERTING


def test_each_condition_names_the_container_and_what_to_type() -> None:
    assert told(local(), kube()) == []
    ((kind, text),) = told(local(paused=True))
    assert kind is ConditionKind.PAUSED
    assert text == (
        f"the local container {LOCAL[:12]} is paused: its processes stand still; run: container start snmp"
    )
    ((kind, text),) = told(kube(restarting=True))
    assert kind is ConditionKind.RESTARTING
    assert text.endswith(f"; see: docker logs {KUBE[:12]}")
    ((kind, text),) = told(local(**UNREAD))
    assert kind is ConditionKind.UNREAD
    assert "500: input/output error" in text
    assert "counts as running" in text
    ((_, text),) = told(local(running=False, code=None, **UNREAD))
    assert "lists it as ended" in text


def test_an_undescribed_container_is_in_the_row_and_counts_as_running() -> None:
    record, seen = look(LOCAL_CONFIG, up(), observed(local(**UNREAD)))
    row = project(record, seen)
    assert row.current_owner is Owner.LOCAL
    assert (
        row.failure == f"Docker does not describe the local container {LOCAL[:12]}: 500: input/output error"
    )
    assert project(record, observed(local(gone=True, running=False, **UNREAD))).failure == ""


def test_a_start_of_a_paused_container_unpauses_it() -> None:
    for config, record, box in (
        (LOCAL_CONFIG, up(), local(paused=True)),
        (KUBE_CONFIG, granted(), kube(paused=True)),
    ):
        seen = observed(box, label=ON if box.owner is Owner.KUBE else observed().label)
        assert plan(config, record, seen).action is None, "a container that an operator has paused stays so"
        record, seen = look(config, record, seen)
        asked = accept(Start(), config, record, seen)
        assert isinstance(asked, Record)
        made = plan(config, asked, seen)
        assert made.action == Unpause(box.id)
        asked, seen = look(config, asked, seen)
        assert outcome(Start(), config, asked, seen) is None
        record, after = look(config, asked, replace(seen, containers=(replace(box, paused=False),)))
        assert not record.unpause
        assert outcome(Start(), config, record, after) == DONE


def test_a_start_unpauses_only_the_container_that_owns_the_feature() -> None:
    assert plan(LOCAL_CONFIG, up(unpause=True), observed(local(), kube(paused=True))).action is None
    made = plan(LOCAL_CONFIG, up(unpause=True), observed(local(paused=True), kube()))
    assert made.action == Unpause(LOCAL), "also beside one that runs"


def test_a_container_that_cannot_be_unpaused_still_makes_room_for_kube() -> None:
    failed = FailedAction(ActionKind.UNPAUSE, LOCAL, "no such cgroup", again_at=NOW + 5.0, refused=True)
    paused = observed(local(paused=True), label=ON, failures=(failed,))
    made = plan(KUBE_CONFIG, up(unpause=True), paused)
    assert (made.action, made.wake_at) == (None, NOW + 5.0)
    assert plan(KUBE_CONFIG, up(unpause=True), paused, NOW + 5.0).action == Unpause(LOCAL)
    seen = replace(paused, containers=(*paused.containers, kube()), waiting=frozenset({KUBE}))
    assert plan(KUBE_CONFIG, up(unpause=True), seen).action == SetMode(Mode.PENDING)
    ended = plan(KUBE_CONFIG, up(unpause=True, mode=Mode.PENDING), seen)
    assert isinstance(ended.action, EndContainer)
    assert not given_up(up(unpause=True)).unpause


def test_a_stop_of_a_paused_container_ends_it() -> None:
    seen = observed(local(paused=True))
    for verb in (Stop(), Kill()):
        record = accept(verb, LOCAL_CONFIG, up(unpause=True), seen)
        assert isinstance(record, Record)
        assert not record.unpause
        assert isinstance(plan(LOCAL_CONFIG, record, seen).action, EndContainer)


def test_a_wait_goes_on_while_docker_restarts_the_container() -> None:
    record, seen = look(LOCAL_CONFIG, up(), observed(local(restarting=True)))
    assert wait_code(LOCAL_CONFIG, record, seen, TIMING, NOW) is None


def test_a_container_that_lacked_memory_is_told_until_a_kube_one_is_stable() -> None:
    ended = replace(kube(KUBE, running=False, code=137), oom_killed=True, gone=True)
    ((kind, text),) = told(replace(ended, started="2026-01-01"), ended)
    assert kind is ConditionKind.OOM_KILLED
    assert text == (
        f"the kernel ended the kube container {KUBE[:12]} for lack of memory; raise its memory limit, or see: dmesg"
    )
    ((_, text),) = told(local(oom_killed=True))
    assert text.startswith("the kernel ended a process of the local container")
    assert conditions("snmp", granted(), observed(ended, kube()), TIMING, NOW) == ()


@pytest.mark.parametrize("code", [0, 143])
def test_a_lack_of_memory_that_another_exit_code_belies_is_not_told(code: int) -> None:
    ended = replace(local(running=False, code=code), oom_killed=True)
    assert ConditionKind.OOM_KILLED not in [kind for kind, _ in told(ended)]


def test_a_lack_of_memory_of_a_container_that_was_asked_to_end_is_not_told() -> None:
    ended = replace(local(running=False, code=137), oom_killed=True)
    stopped = up(exit=Exit(LOCAL, Owner.LOCAL, 137, Cause.STOP))
    assert conditions("snmp", stopped, observed(ended), TIMING, NOW) == ()
    crashed = up(exit=Exit(LOCAL, Owner.LOCAL, 137, Cause.ITSELF))
    assert conditions("snmp", crashed, observed(ended), TIMING, NOW)


def test_a_lack_of_memory_of_a_container_whose_end_is_no_longer_known_is_not_told() -> None:
    """It was asked to end for a kube container, which has ended since."""
    ended = replace(local(running=False, code=137), oom_killed=True)
    since = up(exit=Exit(KUBE, Owner.KUBE, 0, Cause.ITSELF))
    assert conditions("snmp", since, observed(ended), TIMING, NOW) == ()
    refused = replace(kube(running=False, code=137, started="9"), oom_killed=True)
    at_the_gate = up(exit=Exit(LOCAL, Owner.LOCAL, 0, Cause.STOP))
    (condition,) = conditions("snmp", at_the_gate, observed(ended, refused), TIMING, NOW)
    assert condition.kind is ConditionKind.OOM_KILLED
    assert "the kube container" in condition.text
    removed = replace(ended, gone=True)
    assert conditions("snmp", up(), observed(removed), TIMING, NOW) == ()
    assert conditions("snmp", up(), observed(ended), TIMING, NOW)


def test_a_failing_healthcheck_is_told_with_what_it_printed() -> None:
    ((kind, text),) = told(local(unhealthy="connection refused"))
    assert kind is ConditionKind.UNHEALTHY
    assert text == (
        f"the HEALTHCHECK of the local container {LOCAL[:12]} fails (connection refused); "
        f"see: docker inspect {LOCAL[:12]}"
    )


def test_a_stop_grants_the_container_s_own_grace_unless_another_is_given() -> None:
    """Of `stop -t`, the container and the settings, the first that says a grace counts."""
    for given, own, expected in (
        (None, None, TIMING.stop_grace_s),
        (None, 45, 45.0),
        (None, 0, 0.0),
        (3.0, 45, 3.0),
        (0.0, None, 0.0),
    ):
        record = accept(Stop(given), LOCAL_CONFIG, up(), observed(local(stop_timeout_s=own)))
        assert isinstance(record, Record)
        stops = plan(LOCAL_CONFIG, record, observed(local(stop_timeout_s=own)))
        assert isinstance(stops.action, EndContainer)
        assert stops.action.grace_s == expected
    seen = observed(local(stop_timeout_s=45), kube(), waiting=frozenset({KUBE}), label=ON)
    hand_over = plan(KUBE_CONFIG, up(mode=Mode.PENDING, local_id=LOCAL), seen).action
    assert isinstance(hand_over, EndContainer)
    assert (hand_over.container_id, hand_over.grace_s) == (LOCAL, 45)


def test_a_local_container_that_does_not_start_is_no_condition_where_nothing_promises_one() -> None:
    failed = FailedAction(ActionKind.START_LOCAL, LOCAL, "no program", at=1.0, again_at=2.0, refused=True)
    seen = observed(kube(), local(running=False), label=ON, failures=(failed,))
    record, seen = look(KUBE_CONFIG, granted(), seen)
    assert record.unstartable is not None
    assert conditions("snmp", record, seen, TIMING, NOW) == ()
