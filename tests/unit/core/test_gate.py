"""Check which kube containers ignore the gate, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import Admit, EndContainer, SetMode, StartLocal
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.gate import GateWatch, gate_deadline, ignoring, watch_gate
from kubesyncd.core.model import Mode
from kubesyncd.core.state import State
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
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

SILENT = (GateWatch(KUBE, NOW - TIMING.gate_after_s),)
READY = up(mode=Mode.READY, gates=SILENT, idle_since=NOW - 1.0)


def test_a_container_asks_or_is_silent_after_the_time() -> None:
    seen = observed(kube(), kube(KUBE2), local(), waiting=frozenset({KUBE2}))
    gates = watch_gate((), seen, "", NOW)
    assert gates == (GateWatch(KUBE, NOW), GateWatch(KUBE2, NOW, asked=True))
    later = watch_gate(gates, observed(kube(), kube(KUBE2)), "", NOW + 60.0)
    assert later == gates, "what has asked once stays so while its client asks again"
    assert ignoring(later, 60.0, NOW + 59.0) == frozenset()
    assert ignoring(later, 60.0, NOW + 60.0) == {KUBE}
    assert gate_deadline(later, 60.0, NOW) == NOW + 60.0
    assert gate_deadline(later, 60.0, NOW + 60.0) is None
    assert watch_gate(later, observed(kube(running=False)), "", NOW) == ()


def test_of_two_silent_containers_the_one_that_has_run_longer_counts_first() -> None:
    gates = (GateWatch(KUBE, NOW - 10.0), GateWatch(KUBE2, NOW - 30.0))
    assert gate_deadline(gates, 60.0, NOW) == NOW + 30.0
    assert gate_deadline(gates, 60.0, NOW + 30.0) == NOW + 50.0


def test_what_was_admitted_before_it_was_watched_has_asked() -> None:
    assert watch_gate((), observed(kube()), KUBE, NOW) == (GateWatch(KUBE, NOW, asked=True),)
    assert watch_gate(SILENT, observed(kube()), KUBE, NOW) == SILENT, "a silent one that was adopted has not"


def test_time_in_which_it_is_paused_does_not_count() -> None:
    assert watch_gate(SILENT, observed(kube(paused=True)), "", NOW) == (GateWatch(KUBE, NOW),)


def test_a_silent_container_becomes_the_owner_where_nothing_else_runs() -> None:
    made = plan(KUBE_CONFIG, READY, observed(kube(), local(running=False), label=ON))
    assert made.action == Admit(KUBE)
    assert "without having asked" in made.why
    made = plan(KUBE_CONFIG, up(mode=Mode.PENDING, gates=SILENT), observed(kube(), label=ON))
    assert made.action == Admit(KUBE)


def test_a_failure_that_is_noticed_at_the_same_moment_goes_before_a_silent_container() -> None:
    seen = observed(kube(), local(running=False), label=ON)
    failed = replace(READY, failure="no kube container has run for 1 min")
    made = plan(FALLBACK, failed, seen)
    assert made.action == SetMode(Mode.NONE)
    assert plan(FALLBACK, replace(failed, mode=Mode.NONE), seen).action == StartLocal(LOCAL)
    assert plan(KUBE_CONFIG, failed, seen).action == Admit(KUBE), "only Kubernetes may run it"
    broken = FailedAction(ActionKind.START_LOCAL, LOCAL, "no space left", at=NOW, again_at=NOW + 5.0)
    assert plan(FALLBACK, failed, replace(seen, failures=(broken,))).action == Admit(KUBE)


def test_a_silent_container_whose_admission_cannot_be_recorded_is_waited_for() -> None:
    full = FailedAction(ActionKind.RECORD, KUBE, "no space left", at=NOW, again_at=NOW + 5.0)
    made = plan(KUBE_CONFIG, READY, observed(kube(), local(running=False), label=ON, failures=(full,)))
    assert made.action is None


def test_a_silent_container_that_is_ended_is_not_adopted() -> None:
    for asked in ({"stopping": frozenset({KUBE})}, {"killed": frozenset({KUBE})}):
        made = plan(KUBE_CONFIG, READY, observed(kube(), local(running=False), label=ON, **asked))
        assert made.action is None


def test_a_silent_container_is_not_adopted_while_the_switch_leaves_its_master() -> None:
    made = plan(KUBE_CONFIG, READY, observed(kube(), local(running=False), leaving=True, joined=False))
    assert made.action is None


def test_a_container_that_waits_goes_before_a_silent_one() -> None:
    seen = observed(kube(), kube(KUBE2), label=ON, waiting=frozenset({KUBE2}))
    assert plan(KUBE_CONFIG, READY, seen).action == Admit(KUBE2)


def test_the_next_observation_is_when_a_container_counts_as_silent() -> None:
    record = replace(READY, gates=(GateWatch(KUBE, NOW - 20.0),))
    made = plan(KUBE_CONFIG, record, observed(kube(), local(running=False), label=ON))
    assert (made.action, made.wake_at) == (None, NOW + 40.0)


@pytest.mark.parametrize("config", [LOCAL_CONFIG, FALLBACK])
def test_beside_a_running_local_container_it_is_never_the_owner(config: object) -> None:
    made = plan(config, up(gates=SILENT), observed(kube(), local()))  # type: ignore[arg-type]
    assert not isinstance(made.action, Admit | EndContainer | SetMode)
    assert made.state is State.LOCAL


def test_beside_an_admitted_one_it_is_never_the_owner() -> None:
    record = granted(gates=(GateWatch(KUBE2, NOW - 100.0),))
    assert plan(KUBE_CONFIG, record, observed(kube(), kube(KUBE2), label=ON)).action is None


def test_a_feature_that_is_to_start_locally_does() -> None:
    made = plan(FALLBACK, up(gates=SILENT), observed(kube(), local(running=False), label=ON))
    assert made.action == StartLocal(LOCAL)


def test_a_silent_container_is_a_condition_while_it_runs() -> None:
    record, seen = look(FALLBACK, READY, observed(kube(), local()))
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert found.kind is ConditionKind.GATE_IGNORED
    assert "is not the owner while another container runs" in found.text
    assert "container state snmp up kube" in found.text
    record, seen = look(KUBE_CONFIG, replace(READY, grant=KUBE), observed(kube()))
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert "is taken for the owner" in found.text
