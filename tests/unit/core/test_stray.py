"""Check that a pod that does not follow the feature's label is found, named, and not ended again and again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import EndContainer
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.model import LabelView, SystemState
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Record
from tests.unit.core.given import (
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    OFF,
    ON,
    TIMING,
    granted,
    kube,
    local,
    look,
    observed,
)

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation

DOWN = Record(system_state=SystemState.DOWN)
UP = Record(system_state=SystemState.UP)
GRACE = TIMING.kube_stop_grace_s
LATE = NOW + GRACE + 1.0
FIRST, SECOND = kube(), kube(KUBE2, started="2026-01-03")


def told(record: Record, seen: Observation, now: float) -> list[str]:
    """The conditions about pods that do not follow the label."""
    found = conditions("snmp", record, seen, TIMING, now)
    return [condition.text for condition in found if condition.kind is ConditionKind.STRAY]


def ended_next(record: Record, seen: Observation, now: float) -> str:
    """The container of a down feature that is ended once each wait is over; an empty string where none is."""
    action = decide(KUBE_CONFIG, record, seen, TIMING, now + 10.0 * GRACE, "snmp").action
    return action.container_id if isinstance(action, EndContainer) else ""


def returned_while_down() -> tuple[Record, Observation]:
    """A down feature whose pod was ended once, and came back."""
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, seen = look(KUBE_CONFIG, record, observed(FIRST), LATE)
    plan = decide(KUBE_CONFIG, record, seen, TIMING, LATE, "snmp")
    assert isinstance(plan.action, EndContainer), "the first one is ended"
    record = replace(record, asked=(KUBE, Cause.STOP))
    record, _ = look(KUBE_CONFIG, record, observed(kube(running=False)), LATE + 1.0)
    waits = observed(SECOND, waiting=frozenset({KUBE2}))
    return look(KUBE_CONFIG, record, waits, LATE + 2.0)


def test_a_pod_that_comes_back_is_ended_once_and_then_left_alone() -> None:
    record, seen = returned_while_down()
    plan = decide(KUBE_CONFIG, record, seen, TIMING, LATE + 600.0, "snmp")
    assert (plan.action, plan.wake_at) == (None, None)
    assert "does not follow the node label waits at the gate" in plan.why
    assert absorb(record, KUBE_CONFIG, seen, TIMING, LATE + 600.0) == record, "nothing changes with time"


def test_it_is_named_until_docker_has_no_container_of_it() -> None:
    record, seen = returned_while_down()
    (text,) = told(record, seen, LATE)
    assert text.startswith(
        f"the pod of container {KUBE2[:12]} comes although the node label snmp_enabled is off"
    )
    seen = observed(replace(SECOND, running=False, pod="sonic/snmp-1"))
    assert told(record, seen, LATE)[0].startswith("pod sonic/snmp-1 comes"), "between two of its starts too"
    assert told(record, observed(replace(SECOND, gone=True)), LATE) == []


def test_a_pod_that_ends_with_its_label_is_no_stray() -> None:
    """The kubelet may start a container once more before it hears of the label."""
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, _ = look(KUBE_CONFIG, record, observed(), NOW + 1.0)
    record, seen = look(KUBE_CONFIG, record, observed(SECOND), NOW + 2.0)
    assert told(record, seen, NOW + 2.0) == []
    record, seen = look(KUBE_CONFIG, record, seen, LATE)
    assert isinstance(decide(KUBE_CONFIG, record, seen, TIMING, LATE + GRACE, "snmp").action, EndContainer)


def test_a_pod_that_comes_late_for_the_first_time_is_ended() -> None:
    record, _ = look(KUBE_CONFIG, DOWN, observed())
    record, seen = look(KUBE_CONFIG, record, observed(FIRST), LATE)
    assert ended_next(record, seen, LATE) == KUBE


def test_a_pod_that_comes_back_before_the_kubelet_heard_of_the_label_is_ended() -> None:
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, _ = look(KUBE_CONFIG, replace(record, asked=(KUBE, Cause.KILL)), observed(), NOW + 1.0)
    record, _ = look(KUBE_CONFIG, record, observed(SECOND), NOW + 2.0)
    record, seen = look(KUBE_CONFIG, record, observed(SECOND), LATE)
    assert told(record, seen, LATE) == []
    assert ended_next(record, seen, LATE) == KUBE2


@pytest.mark.parametrize("paused", [False, True])
def test_a_pod_that_ran_before_another_one_ended_is_ended_too(paused: bool) -> None:
    older = kube(paused=paused)
    record, _ = look(KUBE_CONFIG, DOWN, observed())
    record, _ = look(KUBE_CONFIG, record, observed(older, SECOND), LATE)
    record = replace(record, asked=(KUBE2, Cause.STOP))
    record, seen = look(KUBE_CONFIG, record, observed(older), LATE + 1.0)
    assert told(record, seen, LATE + 1.0) == []
    assert ended_next(record, seen, LATE + 1.0) == KUBE


def test_a_pod_that_comes_back_is_found_also_where_its_end_was_not_observed_by_itself() -> None:
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, _ = look(KUBE_CONFIG, record, observed(FIRST), LATE)
    record, seen = look(KUBE_CONFIG, replace(record, asked=(KUBE, Cause.STOP)), observed(SECOND), LATE + 1.0)
    assert len(told(record, seen, LATE + 1.0)) == 1
    assert ended_next(record, seen, LATE + 1.0) == ""


def test_the_end_of_another_container_changes_nothing_for_a_pod_that_came_back() -> None:
    third = "cccc" * 16
    other = kube(third, started="2026-01-01")
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST, other))
    record, _ = look(KUBE_CONFIG, record, observed(FIRST, other), LATE)
    record, _ = look(KUBE_CONFIG, replace(record, asked=(KUBE, Cause.STOP)), observed(other), LATE + 1.0)
    record, seen = look(KUBE_CONFIG, record, observed(SECOND, other), LATE + 2.0)
    assert ended_next(record, seen, LATE + 2.0) == third
    record, seen = look(KUBE_CONFIG, replace(record, asked=(third, Cause.STOP)), observed(SECOND), LATE + 3.0)
    assert ended_next(record, seen, LATE + 3.0) == ""


def test_the_container_that_owns_the_feature_is_ended_also_where_it_was_paused() -> None:
    owner = kube(paused=True)
    record, _ = look(KUBE_CONFIG, granted(system_state=SystemState.DOWN), observed(owner, SECOND))
    record, _ = look(KUBE_CONFIG, record, observed(owner, SECOND), LATE)
    record, seen = look(KUBE_CONFIG, replace(record, asked=(KUBE2, Cause.STOP)), observed(owner), LATE + 1.0)
    assert ended_next(record, seen, LATE + 1.0) == KUBE
    record, seen = look(KUBE_CONFIG, record, observed(FIRST), LATE + 2.0)
    assert told(record, seen, LATE + 2.0) == []
    assert ended_next(record, seen, LATE + 2.0) == KUBE


def test_a_pod_that_has_not_been_ended_yet_is_no_stray() -> None:
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, seen = look(KUBE_CONFIG, record, observed(FIRST), LATE)
    assert told(record, seen, LATE) == []
    # The same beside a feature that is local again.
    record, _ = look(LOCAL_CONFIG, granted(), observed(FIRST))
    record, _ = look(LOCAL_CONFIG, record, observed(FIRST), LATE)
    record, seen = look(LOCAL_CONFIG, record, observed(kube(running=False)), LATE + 1.0)
    assert told(record, seen, LATE + 1.0) == []


def test_a_pod_that_comes_after_one_ended_by_itself_is_ended() -> None:
    record, _ = look(KUBE_CONFIG, DOWN, observed(FIRST))
    record, _ = look(KUBE_CONFIG, record, observed(FIRST), LATE)
    record = replace(record, asked=(LOCAL, Cause.STOP))
    record, _ = look(KUBE_CONFIG, record, observed(kube(running=False)), LATE + 1.0)
    record, seen = look(KUBE_CONFIG, record, observed(SECOND), LATE + 2.0)
    assert told(record, seen, LATE + 2.0) == []
    assert ended_next(record, seen, LATE + 2.0) == KUBE2


def test_while_the_label_may_be_on_every_pod_follows_it() -> None:
    record, _ = returned_while_down()
    record, seen = look(KUBE_CONFIG, record, observed(SECOND, label=ON), LATE + 3.0)
    assert record.off is None
    assert told(record, seen, LATE) == []
    record, _ = look(KUBE_CONFIG, record, observed(SECOND, label=replace(OFF, pending=True)), LATE + 4.0)
    assert record.off is None, "the API server does not know yet"


def test_a_label_that_is_taken_off_once_more_forgets_nothing() -> None:
    """A new life of the daemon may not know the label before it hears of the Node."""
    record, _ = returned_while_down()
    for label in (LabelView(), replace(OFF, pending=True), OFF):
        record, seen = look(KUBE_CONFIG, record, observed(SECOND, label=label), LATE + 3.0)
        assert len(told(record, seen, LATE)) == 1


def test_a_start_makes_a_new_beginning() -> None:
    record, seen = returned_while_down()
    record = absorb(replace(record, system_state=SystemState.UP), KUBE_CONFIG, seen, TIMING, LATE)
    assert record.off is None


def test_a_pod_that_waits_beside_a_local_feature_is_named() -> None:
    never = LabelView()
    waits = observed(local(), FIRST, label=never, joined=False, waiting=frozenset({KUBE}))
    record, seen = look(LOCAL_CONFIG, UP, waits)
    assert len(told(record, seen, NOW)) == 1, "its label was never on"
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").action is None, "it is left alone"


def test_a_pod_gets_its_time_to_end_after_its_label_was_taken_off() -> None:
    record, seen = look(LOCAL_CONFIG, UP, observed(local(), FIRST))
    assert told(record, seen, NOW) == []
    record, seen = look(LOCAL_CONFIG, record, observed(local(), FIRST), NOW + GRACE)
    assert len(told(record, seen, NOW + GRACE)) == 1


def test_the_next_observation_is_when_a_pod_that_waits_has_had_its_time_to_end() -> None:
    waits = observed(local(), FIRST, waiting=frozenset({KUBE}))
    record, seen = look(LOCAL_CONFIG, UP, waits)
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW + 1.0, "snmp").wake_at == NOW + GRACE
    without, seen = look(LOCAL_CONFIG, record, observed(local()), NOW + 1.0)
    assert decide(LOCAL_CONFIG, without, seen, TIMING, NOW + 1.0, "snmp").wake_at is None


def test_of_several_containers_the_newest_one_that_runs_and_waits_is_named() -> None:
    record, _ = returned_while_down()
    old = kube("dddd" * 16, running=False, started="2026-01-05", pod="sonic/ended")
    local_one = replace(local(), started="2026-01-06", pod="none")
    first, second = replace(FIRST, pod="sonic/first"), replace(SECOND, pod="sonic/second")
    (text,) = told(record, observed(old, second, first, local_one), LATE)
    assert text.startswith("pod sonic/second comes")
    (text,) = told(replace(record, grant=KUBE2), observed(old, second, first, local_one), LATE)
    assert text.startswith("pod sonic/first comes"), "the container that owns the feature does not wait"
