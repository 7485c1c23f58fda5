"""Check how failed actions are told apart, and what is planned and answered beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.core import protocol
from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import (
    Admit,
    AdoptImage,
    EndContainer,
    Forget,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    Unpause,
    WriteRow,
)
from kubesyncd.core.failed_action import ActionKind, FailedAction, kind_of
from kubesyncd.core.health import Health
from kubesyncd.core.model import Mode, Row
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, StopStyle, project, row_told
from kubesyncd.core.verbs import (
    DONE,
    NO_SUCH_FEATURE,
    REDIS_DOWN,
    Kill,
    Start,
    Stop,
    given_up,
    outcome,
    redis_down,
)
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    OFF,
    ON,
    ROLLBACK,
    TIMING,
    down,
    granted,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.actions import Action
    from kubesyncd.core.observation import Observation

STOPPED = local(running=False)


def failed(action: Action, *, again_at: float = NOW + 5.0, **more: Any) -> FailedAction:
    return FailedAction(*kind_of(action), "no such program", at=NOW, again_at=again_at, **more)


READ = FailedAction(ActionKind.READ_ROW, "", "Redis: it is loading", again_at=NOW + 1.0)
WRITE = failed(WriteRow(Row()))
START = failed(StartLocal(LOCAL), refused=True)


@pytest.mark.parametrize(
    ("action", "kind", "target"),
    [
        (WriteRow(Row()), ActionKind.WRITE_ROW, ""),
        (SetMode(Mode.PENDING), ActionKind.RECORD, "kube_pending"),
        (Admit(KUBE), ActionKind.RECORD, KUBE),
        (RequestLabel(on=True), ActionKind.REQUEST_LABEL, ""),
        (StartLocal(LOCAL), ActionKind.START_LOCAL, LOCAL),
        (Unpause(LOCAL), ActionKind.UNPAUSE, LOCAL),
        (Forget(), ActionKind.FORGET, ""),
        (EndContainer(LOCAL, Cause.STOP, 10.0), ActionKind.STOP, LOCAL),
        (EndContainer(LOCAL, Cause.KILL, signal="KILL"), ActionKind.KILL, LOCAL),
        (RestartUnit(), ActionKind.RESTART_UNIT, ""),
        (AdoptImage("a"), ActionKind.ADOPT_IMAGE, "a"),
        (RestoreImage("a"), ActionKind.RESTORE_IMAGE, "a"),
    ],
)
def test_each_action_has_a_kind_and_a_target(action: Action, kind: ActionKind, target: str) -> None:
    assert kind_of(action) == (kind, target)


def test_what_a_log_filter_matches_keeps_its_name() -> None:
    assert {kind.name: kind.value for kind in ActionKind} == {
        "READ_ROW": "row_not_read",
        "WRITE_ROW": "row_not_written",
        "RECORD": "not_recorded",
        "REQUEST_LABEL": "label_not_queued",
        "START_LOCAL": "start_failed",
        "UNPAUSE": "not_unpaused",
        "STOP": "not_stopped",
        "KILL": "not_killed",
        "RESTART_UNIT": "unit_not_restarted",
        "ADOPT_IMAGE": "image_not_adopted",
        "RESTORE_IMAGE": "image_not_restored",
        "FORGET": "not_forgotten",
    }


def test_a_failure_is_the_first_of_a_row_and_may_be_tried_again_at_once() -> None:
    failure = FailedAction(ActionKind.FORGET, "", "Redis: it is loading")
    assert (failure.count, failure.at, failure.again_at) == (1, 0.0, 0.0)
    assert not failure.refused
    assert not failure.passing


def test_a_failure_of_another_container_is_none_of_this_one() -> None:
    seen = observed(STOPPED, failures=(failed(StartLocal(KUBE)),))
    assert seen.no_comeback is None
    assert seen.failed(StartLocal(KUBE)) is not None
    assert observed().comeback == RestartUnit()


# ---- the local container cannot be started ----------------------------------------------------------


def test_a_local_container_that_cannot_start_lets_kube_have_its_turn() -> None:
    seen = observed(STOPPED, failures=(START,))
    decided = plan(FALLBACK, up(), seen)
    assert decided.action == SetMode(Mode.READY)
    assert "no such program" in decided.why
    again = replace(START, again_at=NOW)
    assert plan(FALLBACK, up(), observed(STOPPED, failures=(again,))).action == StartLocal(LOCAL)
    waits = observed(STOPPED, kube(), waiting=frozenset({KUBE}), failures=(again,), label=ON)
    assert plan(FALLBACK, up(), waits).action == SetMode(Mode.READY)
    assert plan(FALLBACK, up(mode=Mode.READY), waits).action == Admit(KUBE)


def test_the_local_container_is_tried_again_while_kube_is_waited_for() -> None:
    ready = up(mode=Mode.READY, local_due=True)
    seen = observed(STOPPED, failures=(START,), label=ON)
    decided = plan(FALLBACK, ready, seen)
    assert (decided.action, decided.wake_at) == (None, NOW + 5.0)
    assert "waiting for kube deployment; the local container could not be started: no such" in decided.why
    assert plan(FALLBACK, ready, seen, NOW + 5.0).action == StartLocal(LOCAL)


def test_a_unit_that_cannot_be_restarted_is_tried_again() -> None:
    unit = failed(RestartUnit())
    assert plan(FALLBACK, up(), observed(failures=(unit,))).action == SetMode(Mode.READY)
    decided = plan(LOCAL_CONFIG, up(), observed(failures=(unit,)))
    assert (decided.action, decided.wake_at) == (None, NOW + 5.0)
    assert "no such program" in decided.why
    assert plan(LOCAL_CONFIG, up(), observed(failures=(unit,)), NOW + 5.0).action == RestartUnit()


def test_the_row_says_why_nothing_runs() -> None:
    seen = observed(STOPPED, failures=(START,))
    assert project(up(), seen).failure == "the local container could not be started: no such program"
    assert project(up(failure="worse"), seen).failure == "worse"
    assert project(down(), seen).failure == ""
    assert project(up(), observed(local(), failures=(START,))).failure == ""


def test_the_row_says_it_over_a_restart_until_the_local_container_has_run() -> None:
    after = absorb(up(), FALLBACK, observed(STOPPED, failures=(START,)), TIMING, NOW)
    restarted = absorb(after, FALLBACK, observed(STOPPED), TIMING, NOW)
    assert project(restarted, observed(STOPPED)).failure.endswith("could not be started: no such program")
    for seen in (
        observed(local()),
        observed(replace(STOPPED, id=KUBE)),
        observed(replace(STOPPED, started="later")),
    ):
        assert absorb(restarted, FALLBACK, seen, TIMING, NOW).unstartable is None, seen
    assert absorb(
        up(), FALLBACK, observed(STOPPED, failures=(failed(StartLocal(KUBE)),)), TIMING, NOW
    ) == absorb(up(), FALLBACK, observed(STOPPED), TIMING, NOW)


# ---- other steps that fail --------------------------------------------------------------------------


def test_a_row_that_cannot_be_written_holds_up_nothing() -> None:
    def decided(record: Any, seen: Observation, now: float = NOW) -> Any:
        return decide(LOCAL_CONFIG, record, replace(seen, row=Row()), TIMING, now, "snmp")

    stopping = down(ending=True, local_id=LOCAL)
    assert isinstance(decided(stopping, observed(local())).action, WriteRow)
    assert isinstance(decided(stopping, observed(local(), failures=(WRITE,))).action, EndContainer)
    rests = observed(STOPPED, failures=(WRITE,))
    assert (decided(down(), rests).action, decided(down(), rests).wake_at) == (None, NOW + 5.0)
    assert isinstance(decided(down(), rests, NOW + 5.0).action, WriteRow)
    early = observed(local(), failures=(WRITE,), stopping=frozenset({LOCAL}))
    assert decided(stopping, early).wake_at == NOW + 5.0
    kube_due = replace(early, label=OFF)
    record, seen = look(
        FALLBACK, up(mode=Mode.READY, idle_since=NOW - 299.0), replace(kube_due, containers=())
    )
    waits = decide(FALLBACK, record, replace(seen, row=Row(), label=ON), TIMING, NOW, "snmp")
    assert waits.wake_at == NOW + 1.0, "what is due earlier stays due"


def test_a_feature_is_forgotten_only_after_its_row() -> None:
    seen = observed(absent=True, row=Row(failure="x"), failures=(WRITE,))
    waits = decide(LOCAL_CONFIG, down(), seen, TIMING, NOW, "snmp")
    assert (waits.action, waits.wake_at) == (None, NOW + 5.0)
    assert isinstance(decide(LOCAL_CONFIG, down(), seen, TIMING, NOW + 5.0, "snmp").action, WriteRow)
    gone = replace(seen, row=Row())
    assert decide(LOCAL_CONFIG, down(), gone, TIMING, NOW, "snmp").action == Forget()


def test_a_verb_recorded_for_a_name_that_turns_out_to_be_no_feature_fails() -> None:
    assert outcome(Stop(), LOCAL_CONFIG, down(), observed(absent=True, row=Row())) is NO_SUCH_FEATURE


def test_a_row_that_cannot_be_written_counts_as_told() -> None:
    assert not row_told(up(), observed(local(), row=Row()))
    assert row_told(up(), observed(local(), row=Row(), failures=(WRITE,)))
    assert outcome(Start(), LOCAL_CONFIG, up(), observed(local(), row=Row(), failures=(WRITE,))) is DONE
    assert outcome(Stop(), LOCAL_CONFIG, down(), observed(row=Row(), failures=(WRITE,))) is DONE


def test_why_the_row_cannot_be_read_is_told() -> None:
    decided = decide(LOCAL_CONFIG, up(), observed(STOPPED, failures=(READ,)), TIMING, NOW, "snmp")
    assert (decided.action, decided.wake_at) == (None, NOW + 1.0)
    assert "it is loading; only stop and kill" in decided.why
    assert redis_down(observed()) is REDIS_DOWN
    assert redis_down(observed(failures=(READ,))).text.startswith(
        "Redis: it is loading; until then its owner is unknown"
    )


def test_a_label_that_cannot_be_queued_holds_up_no_stop() -> None:
    no_label = failed(RequestLabel(on=False))
    seen = observed(local(), label=ON, failures=(no_label,))
    record = down(ending=True, local_id=LOCAL)
    assert isinstance(plan(KUBE_CONFIG, record, seen).action, EndContainer)
    rests = plan(KUBE_CONFIG, record, replace(seen, stopping=frozenset({LOCAL})))
    assert (rests.action, rests.wake_at) == (None, NOW + 5.0)


def test_one_container_that_cannot_be_ended_holds_up_no_other() -> None:
    first = failed(EndContainer(KUBE2, Cause.STOP))
    record = down(style=StopStyle(kubelet_check=False))
    both = observed(kube(), kube(KUBE2, started="2026-01-03"), failures=(first,))
    assert plan(LOCAL_CONFIG, record, both).action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)
    rests = plan(LOCAL_CONFIG, record, replace(both, stopping=frozenset({KUBE})))
    assert (rests.action, rests.wake_at) == (None, NOW + 5.0)
    assert "no such program" in rests.why
    killed = plan(LOCAL_CONFIG, replace(record, style=StopStyle(signal="KILL", kubelet_check=False)), both)
    assert killed.action == EndContainer(KUBE2, Cause.KILL, signal="KILL"), "a failed stop holds up no kill"


@pytest.mark.parametrize("kill", [False, True], ids=["stop", "kill"])
def test_what_an_end_waits_for_is_told_by_its_own_failure_alone(kill: bool) -> None:
    def ends(container: str, *, kill: bool) -> EndContainer:
        return (
            EndContainer(container, Cause.KILL, signal="KILL")
            if kill
            else EndContainer(container, Cause.STOP)
        )

    record = down(ending=True, local_id=LOCAL, style=StopStyle(signal="KILL" if kill else ""))
    refused = observed(local(), failures=(failed(ends(LOCAL, kill=kill)),))
    told = plan(LOCAL_CONFIG, record, refused)
    assert (told.action, told.wake_at) == (None, NOW + 5.0)
    assert told.why == "the unit is down; it failed and is tried again: no such program"
    others = (failed(ends(LOCAL, kill=not kill)), failed(ends(KUBE2, kill=kill)))
    asked = {"killed" if kill else "stopping": frozenset({LOCAL})}
    waits = plan(LOCAL_CONFIG, record, observed(local(), failures=others, **asked))
    assert waits.action is None
    assert waits.why == "the unit is down; waiting for Docker to report that the container has ended"


def test_an_admission_that_cannot_be_recorded_keeps_or_returns_the_local_container() -> None:
    not_recorded = (failed(SetMode(Mode.PENDING)), failed(Admit(KUBE)))
    waiting = frozenset({KUBE})
    stays = plan(FALLBACK, up(), observed(local(), kube(), waiting=waiting, label=ON, failures=not_recorded))
    assert (stays.action, stays.wake_at) == (None, NOW + 5.0), "the local one is not stopped for it"
    nothing = observed(STOPPED, kube(), waiting=waiting, label=ON, failures=not_recorded)
    pending = up(mode=Mode.PENDING, local_due=True)
    for seen in (nothing, replace(nothing, reasking=True)):
        ready = plan(FALLBACK, pending, seen)
        assert ready.action == SetMode(Mode.READY)
        assert ready.why == "the kube container cannot be admitted: no such program"
    assert plan(FALLBACK, up(mode=Mode.READY, local_due=True), nothing).action == SetMode(Mode.NONE)
    waits = plan(KUBE_CONFIG, up(mode=Mode.READY), nothing)
    assert "waits and cannot be admitted: no such program" in waits.why
    assert waits.wake_at == NOW + 5.0


def test_an_image_that_cannot_be_restored_holds_up_no_local_container() -> None:
    record = up(rolled_back=True, failure="bad", health=Health(failed_image="bad", withdrawn=True))
    assert plan(ROLLBACK, record, observed(STOPPED)).action == RestoreImage("bad")
    assert plan(ROLLBACK, record, observed(STOPPED, working=True)).action is None
    seen = observed(STOPPED, failures=(failed(RestoreImage("bad")),))
    assert plan(ROLLBACK, record, seen).action == StartLocal(LOCAL)


def test_one_image_is_worked_on_at_a_time() -> None:
    seen = observed(replace(kube(), image_id="new"), label=ON)
    record = granted(granted_at=NOW - 10_000.0)
    assert plan(KUBE_CONFIG, record, seen).action == AdoptImage("new")
    assert plan(KUBE_CONFIG, record, replace(seen, working=True)).action is None


# ---- verbs ------------------------------------------------------------------------------------------


def test_a_refused_start_is_answered_and_leaves_no_wish() -> None:
    seen = observed(STOPPED, row=project(up(), observed(STOPPED, failures=(START,))), failures=(START,))
    answer = outcome(Start(), LOCAL_CONFIG, up(), seen, asked_at=NOW)
    assert answer is not None
    assert (answer.code, answer.text[:15]) == (protocol.EXIT_FAILED, "no such program")
    assert outcome(Start(), LOCAL_CONFIG, up(), seen, asked_at=NOW + 1.0) is None, "an earlier failure"
    stopped = up(ending=True, ending_since=5.0, style=StopStyle(signal="KILL"), unpause=True)
    assert given_up(stopped) == down()


def test_a_failure_that_may_pass_is_answered_once_patience_ends() -> None:
    no_label = observed(
        local(), stopping=frozenset({LOCAL}), failures=(failed(RequestLabel(on=False), refused=True),)
    )
    no_label = replace(no_label, row=project(up(), no_label))
    assert outcome(Start(), LOCAL_CONFIG, up(), no_label) is None, "the label is tried again beside it"
    passing = replace(START, refused=False)
    seen = observed(STOPPED, row=project(up(), observed(STOPPED, failures=(passing,))), failures=(passing,))
    assert outcome(Start(), LOCAL_CONFIG, up(), seen) is None
    answer = outcome(Start(), LOCAL_CONFIG, up(), seen, patient=False)
    assert answer is not None
    assert answer.code == protocol.EXIT_UNAVAILABLE
    assert outcome(Start(), KUBE_CONFIG, up(), seen, patient=False) is None, "Kubernetes may run it"


def test_a_refused_kill_is_answered_and_a_stop_is_repeated() -> None:
    record = down(ending=True, local_id=LOCAL)
    refused = failed(EndContainer(LOCAL, Cause.KILL, signal="KILL"), refused=True)
    answer = outcome(Kill(), LOCAL_CONFIG, record, observed(local(), failures=(refused,)))
    assert answer is not None
    assert answer.code == protocol.EXIT_FAILED
    stopping = failed(EndContainer(LOCAL, Cause.STOP), refused=True)
    seen = observed(local(), failures=(stopping,))
    assert outcome(Stop(), LOCAL_CONFIG, record, seen, patient=False) is None
