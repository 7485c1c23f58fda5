"""Check that a row has exactly one state, and that the table holds every change of state of our own."""

from __future__ import annotations

import itertools

import pytest

from kubesyncd.core.model import Mode, Owner, Row, SystemState
from kubesyncd.core.state import EDGES, IllegalTransition, State, check, classify, meaning, mermaid

# The seed's diagram (section State diagram), as spec section 2 completes it.
NAMED = {
    (Owner.LOCAL, Mode.NONE): State.LOCAL,
    (Owner.LOCAL, Mode.PENDING): State.LOCAL_TO_KUBE,
    (Owner.LOCAL, Mode.READY): State.DRIFT,
    (Owner.NONE, Mode.NONE): State.STARTING,
    (Owner.NONE, Mode.PENDING): State.KUBE_PENDING,
    (Owner.NONE, Mode.READY): State.KUBE_READY,
    (Owner.KUBE, Mode.NONE): State.DRIFT,
    (Owner.KUBE, Mode.PENDING): State.DRIFT,
    (Owner.KUBE, Mode.READY): State.KUBE_RUNNING,
}


@pytest.mark.parametrize(("owner", "mode"), NAMED)
def test_a_feature_that_is_up_is_named_by_owner_and_mode(owner: Owner, mode: Mode) -> None:
    row = Row(SystemState.UP, owner, mode)
    assert classify(row, Owner.KUBE, local_exited=False) is NAMED[owner, mode]
    other = State.KUBE_STOPPED if NAMED[owner, mode] is State.KUBE_READY else NAMED[owner, mode]
    assert classify(row, Owner.LOCAL, local_exited=False) is other


def test_a_local_exit_shows_only_where_nothing_runs_and_kube_has_no_part() -> None:
    for (owner, mode), state in NAMED.items():
        expected = State.LOCAL_EXITED if state is State.STARTING else state
        assert classify(Row(SystemState.UP, owner, mode), Owner.KUBE, local_exited=True) is expected


@pytest.mark.parametrize("local_exited", [False, True])
def test_down_is_init_and_silence_is_unknown_whatever_else_is_recorded(*, local_exited: bool) -> None:
    for owner, mode, ruling in itertools.product(Owner, Mode, (Owner.LOCAL, Owner.KUBE)):
        down, absent = Row(SystemState.DOWN, owner, mode), Row(SystemState.ABSENT, owner, mode)
        assert classify(down, ruling, local_exited=local_exited) is State.INIT
        assert classify(absent, ruling, local_exited=local_exited) is State.UNKNOWN


def test_a_state_is_called_what_scripts_call_it() -> None:
    assert all(state.value == state.name for state in State)


def test_the_meaning_of_a_state_names_the_feature() -> None:
    assert meaning(State.UNKNOWN, "snmp").endswith("systemctl restart snmp")
    assert not any("NAME" in meaning(state, "snmp") for state in State)


def test_every_state_has_a_meaning_and_every_edge_an_event() -> None:
    assert all(meaning(state, "snmp") for state in State)
    assert all(edge.event for edge in EDGES)
    assert all(edge.source is not edge.target for edge in EDGES)


def test_every_state_but_the_first_can_be_reached_and_left() -> None:
    assert {e.target for e in EDGES} == set(State) - {State.UNKNOWN, State.DRIFT}
    assert {e.source for e in EDGES} == set(State)


# What our own writes may do, in full: a new line here is a new promise.
OURS = {
    State.UNKNOWN: "INIT STARTING KUBE_READY LOCAL KUBE_RUNNING",
    State.INIT: "STARTING KUBE_READY LOCAL KUBE_RUNNING",
    State.STARTING: "INIT KUBE_READY",
    State.LOCAL: "INIT LOCAL_TO_KUBE",
    State.LOCAL_EXITED: "INIT STARTING KUBE_READY KUBE_PENDING",
    State.LOCAL_TO_KUBE: "INIT LOCAL",
    State.KUBE_PENDING: "INIT KUBE_RUNNING KUBE_READY STARTING",
    State.KUBE_READY: "INIT KUBE_RUNNING STARTING",
    State.KUBE_RUNNING: "INIT",
    State.KUBE_STOPPED: "INIT STARTING",
    State.DRIFT: "INIT STARTING LOCAL LOCAL_EXITED LOCAL_TO_KUBE KUBE_PENDING KUBE_READY KUBE_RUNNING KUBE_STOPPED",
}


@pytest.mark.parametrize("before", State)
def test_a_write_of_ours_makes_only_the_tables_changes(before: State) -> None:
    allowed = set(OURS[before].split()) | {before.value}
    for after in State:
        if after.value in allowed:
            check(before, after)
        else:
            with pytest.raises(IllegalTransition, match=f"from {before} to {after};"):
                check(before, after)


def test_the_diagram_holds_every_state_and_marks_the_current_one() -> None:
    plain = mermaid()
    assert plain.startswith("stateDiagram-v2\n    [*] --> UNKNOWN: boot\n")
    assert plain.endswith("stop and kill lead here from every state\n")
    assert "    KUBE_PENDING --> KUBE_RUNNING: admission\n" in plain
    assert "    INIT --> LOCAL: start: it runs already\n" in plain
    for state in set(State) - {State.DRIFT}:
        assert state.value in plain
    assert "DRIFT -->" not in plain
    assert "--> INIT" not in plain
    assert "current" not in plain
    marked = mermaid(State.LOCAL)
    assert marked == plain + "    classDef current fill:#2563eb,color:#fff\n    class LOCAL current\n"


def test_two_events_with_the_same_change_are_one_arrow() -> None:
    arrows = [line for line in mermaid().splitlines() if "-->" in line]
    ends = [arrow.partition(":")[0] for arrow in arrows]
    assert len(ends) == len(set(ends))
