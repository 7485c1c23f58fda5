"""Check which STATE_DB rows are written again after another program has deleted them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core import verbs
from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Forget, RequestLabel, WriteRow
from kubesyncd.core.model import Row, SystemState
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Record, project
from kubesyncd.core.registration import registered_after, row_settled
from kubesyncd.core.verbs import NO_SUCH_FEATURE, Kill, Start, Stop
from tests.unit.core.given import LOCAL_CONFIG, NOW, OFF, ON, TIMING, local, observed

UP = Record(system_state=SystemState.UP)
EMPTY = Row()


@pytest.mark.parametrize(
    ("before", "seen", "after"),
    [
        (None, None, None),
        (None, False, None),
        (None, True, True),
        (True, None, True),
        (True, False, False),
        (False, None, False),
        (False, True, True),
    ],
)
def test_a_feature_row_counts_as_deleted_only_after_it_was_there(
    before: bool | None, seen: bool | None, after: bool | None
) -> None:
    assert registered_after(before, Observation(None, registered=seen)) is after


@pytest.mark.parametrize("registered", [None, True])
def test_a_flushed_row_is_restored(registered: bool | None) -> None:
    seen = Observation(EMPTY, (local(),), registered=registered)
    record = absorb(UP, LOCAL_CONFIG, seen, TIMING, NOW)
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").action == WriteRow(project(record, seen))


def test_the_deleted_row_of_a_deregistered_feature_is_not_written_again() -> None:
    record = absorb(UP, LOCAL_CONFIG, Observation(EMPTY, (local(),), registered=True), TIMING, NOW)
    seen = Observation(EMPTY, (local(),), registered=False)
    record = absorb(record, LOCAL_CONFIG, seen, TIMING, NOW)
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").action is None
    stopped = verbs.accept(Stop(), LOCAL_CONFIG, record, seen)
    assert isinstance(stopped, Record)
    ended = Observation(EMPTY, (local(running=False),), registered=False)
    stopped = absorb(stopped, LOCAL_CONFIG, ended, TIMING, NOW)
    assert verbs.outcome(Stop(), LOCAL_CONFIG, stopped, ended) == verbs.DONE, "the stop does not wait for it"


def test_a_missing_row_waits_while_the_feature_row_has_just_gone() -> None:
    record = absorb(UP, LOCAL_CONFIG, Observation(EMPTY, (local(),), registered=True), TIMING, NOW)
    seen = Observation(EMPTY, (local(),), settling=True)
    assert (
        decide(
            LOCAL_CONFIG, absorb(record, LOCAL_CONFIG, seen, TIMING, NOW), seen, TIMING, NOW, "snmp"
        ).action
        is None
    )


def test_a_row_that_cannot_be_read_waits_for_no_write() -> None:
    assert row_settled(Row(SystemState.UP), None, Observation(None))


@pytest.mark.parametrize(("hold", "settled"), [(True, True), (False, False)])
def test_a_row_that_is_missing_stays_so_only_while_a_reboot_is_prepared(hold: bool, settled: bool) -> None:
    assert row_settled(Row(SystemState.UP), True, Observation(EMPTY, hold=hold)) is settled


def test_a_row_that_its_owner_left_is_kept_up_to_date() -> None:
    record = replace(UP, registered=False)
    left = Row(SystemState.DOWN)
    assert not row_settled(project(record, Observation(left, (local(),))), False, Observation(left))


def test_a_start_makes_a_deregistered_feature_a_local_one_without_a_row() -> None:
    seen = Observation(EMPTY, (local(),), registered=False)
    record = verbs.accept(Start(), LOCAL_CONFIG, replace(UP, registered=False), seen)
    assert isinstance(record, Record)
    record = absorb(record, LOCAL_CONFIG, seen, TIMING, NOW)
    assert isinstance(decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").action, WriteRow)


@pytest.mark.parametrize("verb", [Start(), Stop(), Kill()])
def test_a_verb_for_a_feature_that_does_not_exist_is_declined(verb: verbs.Verb) -> None:
    assert verbs.accept(verb, LOCAL_CONFIG, UP, Observation(EMPTY, absent=True)) == NO_SUCH_FEATURE


def test_a_feature_that_does_not_exist_loses_its_row_its_label_and_its_record() -> None:
    gone = observed(row=Row(SystemState.UP), absent=True, label=ON)
    assert decide(LOCAL_CONFIG, UP, gone, TIMING, NOW, "snmp").action == WriteRow(EMPTY)
    gone = replace(gone, row=EMPTY)
    assert decide(LOCAL_CONFIG, UP, gone, TIMING, NOW, "snmp").action == RequestLabel(on=False)
    for last in (replace(gone, joined=False), replace(gone, label=OFF)):
        assert decide(LOCAL_CONFIG, UP, last, TIMING, NOW, "snmp").action == Forget()
