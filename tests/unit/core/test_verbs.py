"""Check that a verb records exactly what was requested, and that its caller gets the true result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core import verbs
from kubesyncd.core.feature_unit import StartedBy, UnitEnd, runs_feature, units_of
from kubesyncd.core.model import FeatureConfig, KubeLabel, LabelView, Mode, Owner, Row, SystemState
from kubesyncd.core.record import Cause, Exit, Record, StopStyle, project
from kubesyncd.core.verbs import (
    DONE,
    REDIS_DOWN,
    Kill,
    Outcome,
    Start,
    Stop,
    accept,
    left_by_unit,
    outcome,
    wait_code,
    wait_follows,
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
    TIMING,
    down,
    granted,
    kube,
    local,
    observed,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation

STOPPED = local(running=False)


def told(*containers: object, **more: object) -> Observation:
    """A look with Redis up; what STATE_DB says does not matter."""
    return observed(*containers, **{"row": Row(), **more})  # type: ignore[arg-type]


def noted(
    verb: verbs.Verb, record: Record, look: Observation, config: FeatureConfig = LOCAL_CONFIG
) -> Record:
    """The record once the verb is accepted."""
    made = accept(verb, config, record, look)
    assert isinstance(made, Record)
    return made


def answer(
    verb: verbs.Verb, record: Record, look: Observation, config: FeatureConfig = LOCAL_CONFIG
) -> Outcome | None:
    """What the caller is told, STATE_DB being right."""
    return outcome(verb, config, record, replace(look, row=project(record, look)))


# ---- start --------------------------------------------------------------------------------------


def test_start_of_a_local_feature_means_local_whatever_was_recorded() -> None:
    for before in (Record(), down(mode=Mode.READY), down(ending=True, style=StopStyle(signal="KILL"))):
        after = noted(Start(), before, told(STOPPED))
        assert after == up()


def test_start_of_a_kube_feature_without_fallback_waits_for_kube() -> None:
    assert noted(Start(), down(), told(STOPPED), KUBE_CONFIG) == up(mode=Mode.READY)


def test_start_with_fallback_begins_locally_where_there_is_a_local_container() -> None:
    assert noted(Start(), down(mode=Mode.READY), told(STOPPED), FALLBACK) == up()
    missing = noted(Start(), down(), told(), FALLBACK)
    assert missing == up(mode=Mode.READY, unit_restarted=True)
    gone = noted(Start(), down(), told(local(running=False, gone=True)), FALLBACK)
    assert gone.unit_restarted


@pytest.mark.parametrize(("before", "after"), [(True, True), (False, None), (None, None)])
def test_start_remembers_a_feature_row_and_forgets_its_deletion(
    before: bool | None, after: bool | None
) -> None:
    assert noted(Start(), down(registered=before), told(STOPPED)).registered is after


def test_start_finds_what_runs_and_restarts_nothing() -> None:
    assert noted(Start(), down(mode=Mode.READY), told(local())) == up()
    running = granted(system_state=SystemState.DOWN, mode=Mode.NONE)
    for config in (LOCAL_CONFIG, FALLBACK):
        assert noted(Start(), running, told(kube()), config) == replace(granted(), mode=Mode.READY)
    # A second start in the midst of a hand-over does not turn it back.
    pending = up(mode=Mode.PENDING)
    assert noted(Start(), pending, told(local()), FALLBACK).mode is Mode.PENDING
    assert noted(Start(), pending, told(STOPPED), FALLBACK).mode is Mode.PENDING
    assert noted(Start(), pending, told(STOPPED), LOCAL_CONFIG).mode is Mode.PENDING
    assert noted(Start(), up(mode=Mode.READY), told(STOPPED), LOCAL_CONFIG).mode is Mode.NONE


def test_start_of_what_was_down_turns_no_hand_over_on_that_was_left_behind() -> None:
    left = down(mode=Mode.PENDING)
    assert noted(Start(), left, told(STOPPED), LOCAL_CONFIG).mode is Mode.NONE
    assert noted(Start(), left, told(STOPPED), FALLBACK).mode is Mode.NONE
    assert noted(Start(), left, told(STOPPED), KUBE_CONFIG).mode is Mode.READY


def test_a_second_start_of_a_kube_feature_asks_kube() -> None:
    assert noted(Start(), up(), told(STOPPED), KUBE_CONFIG).mode is Mode.READY
    assert noted(Start(), up(mode=Mode.READY), told(STOPPED), FALLBACK).mode is Mode.NONE


def test_start_forgets_how_it_ended_before() -> None:
    before = up(exit=Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF), local_due=True)
    assert noted(Start(), before, told(STOPPED)) == up()
    # What runs keeps its past.
    kept = noted(Start(), replace(before, local_due=True), told(local()))
    assert kept.exit == before.exit


def test_start_needs_redis_except_for_what_is_always_local() -> None:
    look = observed(STOPPED, row=None)
    assert accept(Start(), LOCAL_CONFIG, down(), look) is REDIS_DOWN
    assert outcome(Start(), LOCAL_CONFIG, down(), look) is REDIS_DOWN
    database = FeatureConfig(always_local=True)
    assert noted(Start(), down(), look, database) == up()
    assert outcome(Start(), database, up(), observed(local(), row=None)) is DONE
    assert outcome(Start(), database, up(), observed(STOPPED, row=None)) is None


def test_start_is_done_once_something_runs_that_may() -> None:
    assert answer(Start(), up(), told(local())) is DONE
    assert answer(Start(), up(), told(STOPPED)) is None
    # One that an earlier stop or kill is ending is started again.
    assert answer(Start(), up(), told(local(), stopping=frozenset({LOCAL}))) is None
    assert answer(Start(), up(), told(local(), killed=frozenset({LOCAL}))) is None
    assert answer(Start(), granted(), told(kube(), label=ON), FALLBACK) is DONE
    # An admitted container that has to end does not fulfil the request.
    assert answer(Start(), granted(), told(kube(), label=ON)) is None
    assert answer(Start(), granted(), told(local(), kube())) is None


def test_start_is_done_once_kube_has_been_asked() -> None:
    waiting = up(mode=Mode.READY)
    assert answer(Start(), waiting, told(label=ON), KUBE_CONFIG) is DONE
    assert answer(Start(), waiting, told(label=OFF), KUBE_CONFIG) is None
    assert answer(Start(), waiting, told(label=OFF, joined=False), KUBE_CONFIG) is DONE
    assert answer(Start(), up(mode=Mode.PENDING), told(STOPPED, label=ON), FALLBACK) is DONE


def test_start_is_done_where_the_container_has_ended_again_at_once() -> None:
    assert answer(Start(), up(exit=Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF)), told(STOPPED)) is DONE


def test_the_end_of_a_kube_container_does_not_count_as_a_local_start() -> None:
    assert answer(Start(), up(exit=Exit(KUBE, Owner.KUBE, 1, Cause.ITSELF)), told(STOPPED)) is None


def test_start_without_a_local_container_names_who_creates_it() -> None:
    refused = answer(Start(), up(), told())
    assert refused is not None
    assert refused.code == 1
    assert "the unit's script" in refused.text


def test_start_is_answered_only_once_state_db_says_so() -> None:
    look = told(local())
    right = project(up(), look)
    assert outcome(Start(), LOCAL_CONFIG, up(), replace(look, row=right)) is DONE
    assert outcome(Start(), LOCAL_CONFIG, up(), replace(look, row=replace(right, failure="x"))) is None


# ---- stop and kill ------------------------------------------------------------------------------


def test_stop_and_kill_note_how() -> None:
    assert noted(Stop(5.0), up(), told(local())) == down(ending=True, style=StopStyle(grace_s=5.0))
    assert noted(Stop(), up(ending_since=3.0), told(local())) == down(ending=True)
    killed = noted(Kill("TERM", kubelet_check=False), up(), told(local()))
    assert killed == down(ending=True, style=StopStyle(signal="TERM", kubelet_check=False))


def test_a_kill_uses_sigkill_by_default() -> None:
    style = noted(Kill(), up(), told(local())).style
    assert (style.signal, style.kubelet_check) == ("KILL", True)
    assert verbs.ENDING_SIGNALS == ("KILL", "TERM", "INT", "QUIT", "ABRT")


def test_a_grace_fits_into_what_systemd_allows_for() -> None:
    assert verbs.GRACE_S_MAX == 600


def test_a_stop_that_finds_nothing_ends_nothing() -> None:
    before = up(exit=Exit(LOCAL, Owner.LOCAL, 3, Cause.ITSELF))
    assert noted(Stop(), before, told(STOPPED)).exit is None
    assert noted(Stop(), before, told(local())).exit == before.exit
    assert noted(Stop(), before, told(kube())).exit == before.exit
    assert noted(Stop(), replace(before, system_state=SystemState.DOWN), told(STOPPED)).exit == before.exit


def test_stop_and_kill_work_without_redis() -> None:
    for verb in (Stop(), Kill()):
        assert noted(verb, up(), observed(local(), row=None)).system_state is SystemState.DOWN
        assert outcome(verb, LOCAL_CONFIG, down(), observed(STOPPED, row=None)) is DONE


@pytest.mark.parametrize("verb", [Stop(), Kill()])
def test_stop_is_done_once_what_it_found_has_ended(verb: verbs.Verb) -> None:
    assert answer(verb, down(ending=True), told(local())) is None
    assert answer(verb, down(ending=True), told(STOPPED)) is DONE
    # Started by hand since: not what was asked to end.
    assert answer(verb, down(), told(local())) is DONE
    owned = down(grant=KUBE)
    assert answer(verb, owned, told(kube()), KUBE_CONFIG) is None
    # A blocked one never proceeds; the reconciler ends it in its own time.
    assert answer(verb, down(), told(kube(KUBE2)), KUBE_CONFIG) is DONE


def test_stop_waits_for_the_label_to_be_on_its_way_and_for_the_row() -> None:
    assert answer(Stop(), down(), told(label=ON), KUBE_CONFIG) is None
    queued = LabelView(KubeLabel.OFF, pending=True)
    assert answer(Stop(), down(), told(label=queued), KUBE_CONFIG) is DONE
    look = told()
    assert outcome(Stop(), LOCAL_CONFIG, down(), replace(look, row=Row(failure="x"))) is None
    assert outcome(Stop(), LOCAL_CONFIG, down(), replace(look, row=Row(failure="x"), hold=True)) is DONE


def test_a_kill_while_a_reboot_is_prepared_leaves_labels_and_the_kubelet_alone() -> None:
    prepared = noted(Kill(), up(), told(local(), hold=True))
    assert prepared.style == StopStyle(signal="KILL", kubelet_check=False)
    assert noted(Kill(), up(), told(local())).style.kubelet_check
    assert noted(Stop(), up(), told(local(), hold=True)).style.kubelet_check, "a stop may take its time"


# ---- the unit's end -----------------------------------------------------------------------------


def started(at: float, **more: object) -> Record:
    return up(started_by=StartedBy("snmp.service", at), **more)


def test_a_start_notes_which_unit_asked_for_it_and_when() -> None:
    record = accept(Start("snmp.service"), LOCAL_CONFIG, down(), told(STOPPED), asked_at=NOW)
    assert isinstance(record, Record)
    assert record.started_by == StartedBy("snmp.service", NOW)


def test_a_start_from_a_shell_keeps_the_unit_of_a_feature_that_is_up() -> None:
    again = noted(Start(), started(NOW), told(local()))
    assert again.started_by.unit == "snmp.service"
    fresh = noted(Start(), down(started_by=StartedBy("snmp.service", 1.0)), told(STOPPED))
    assert fresh.started_by.unit == ""


def end(at: float = NOW + 1, ended_at: float | None = None, *, heard: bool = True) -> UnitEnd:
    return UnitEnd("snmp.service", at, ended_at, heard=heard)


def left(record: Record, why: UnitEnd, look: Observation | None = None, ended: str = "") -> Record:
    return left_by_unit(record, why, look, ended=ended, hold=False)


def test_the_end_of_the_unit_is_as_a_stop() -> None:
    gone = left(started(NOW, mode=Mode.READY), end())
    assert gone == noted(Stop(), started(NOW, mode=Mode.READY), told())
    assert (gone.system_state, gone.ending, gone.style) == (SystemState.DOWN, True, StopStyle())
    ended = started(NOW, exit=Exit(LOCAL, Owner.LOCAL, 139, Cause.ITSELF), unpause=True, ending_since=NOW)
    gone = left(ended, end())
    assert (gone.exit, gone.unpause, gone.ending_since) == (None, False, None)


def test_the_end_of_the_unit_while_a_reboot_is_prepared_leaves_labels_alone() -> None:
    assert left_by_unit(up(), end(), hold=True).style == StopStyle(kubelet_check=False)


@pytest.mark.parametrize(
    "record",
    [
        down(style=StopStyle(signal="KILL", kubelet_check=False), ending=True),
        down(style=StopStyle(grace_s=60.0), ending=True),
        Record(),
        started(NOW),
        started(NOW + 5),
    ],
)
def test_the_end_of_the_unit_changes_nothing_where_it_is_down_or_started_since(record: Record) -> None:
    assert left(record, end(NOW)) is record


@pytest.mark.parametrize(
    ("start", "ended_at", "heard", "over"),
    [
        (StartedBy("snmp.service", NOW), NOW + 0.5, False, True),
        (StartedBy("snmp.service", NOW), NOW - 5.0, False, False),
        # Unloaded since: systemd has forgotten when it ended.
        (StartedBy("snmp.service", NOW), None, False, True),
        # From a shell, with the unit down: it may have ended before.
        (StartedBy("", NOW), None, False, False),
        (StartedBy("", NOW), NOW - 5.0, False, False),
        (StartedBy("", NOW), NOW + 0.5, False, True),
        (StartedBy("", NOW), None, True, True),
        # By an earlier kubesyncd or by ctrmgrd, or it was forgotten with the ledger.
        (StartedBy(), None, False, True),
        (StartedBy(), NOW - 5.0, False, True),
    ],
)
def test_a_unit_has_ended_the_feature_only_since_its_last_start(
    start: StartedBy, ended_at: float | None, heard: bool, over: bool
) -> None:
    record = up(started_by=start)
    gone = left(record, end(ended_at=ended_at, heard=heard), told())
    assert (gone.system_state is SystemState.DOWN) is over


@pytest.mark.parametrize(
    ("began", "ended", "heard", "ends"),
    [
        ("2026-01-01T00:00:50.123456789Z", "2026-01-01T00:00:50", False, False),
        ("2026-01-01T00:00:49.9Z", "2026-01-01T00:00:50", False, True),
        ("2026-01-01T00:00:49.9Z", "", False, False),
        ("2026-01-01T00:00:50Z", "2026-01-01T00:00:40", True, True),
    ],
)
def test_a_container_started_by_hand_after_the_unit_had_ended_is_not_ended(
    began: str, ended: str, heard: bool, ends: bool
) -> None:
    look = told(replace(local(), started=began))
    gone = left(started(NOW - 500), end(heard=heard), look, ended)
    assert (gone.system_state, gone.ending) == (SystemState.DOWN, ends)
    assert left(started(NOW - 500), end(heard=heard), told(STOPPED), ended).ending


def test_the_units_of_a_feature() -> None:
    assert units_of("snmp") == ("snmp.service",)
    assert units_of("swss0") == ("swss0.service", "swss@0.service")
    assert units_of("p4rt") == ("p4rt.service",)
    assert units_of("swss@0") == ("swss@0.service",)
    for feature in ("snmp", "swss0", "swss12", "dhcp_relay3"):
        assert all(runs_feature(unit, feature) for unit in units_of(feature))


def test_an_overtaken_verb_says_by_what() -> None:
    assert verbs.overtaken(Stop()) == Outcome(1, "superseded by a newer stop; nothing left to do")


# ---- wait ---------------------------------------------------------------------------------------


def waited(
    record: Record,
    look: Observation,
    config: FeatureConfig = LOCAL_CONFIG,
    *,
    now: float = NOW,
) -> int | None:
    """Of a `wait` that has had nothing to follow since NOW, where it has nothing to follow."""
    since = None if wait_follows(config, record, look) else NOW
    return wait_code(config, record, look, TIMING, now, since)


def test_wait_does_not_return_while_the_feature_runs() -> None:
    for record in (up(), down(), Record()):
        assert waited(record, told(local())) is None
    assert waited(granted(), told(kube())) is None
    assert waited(granted(system_state=SystemState.DOWN), told(kube())) is None


@pytest.mark.parametrize("record", [up(mode=Mode.READY), up(mode=Mode.PENDING)])
def test_wait_continues_whatever_kube_does(record: Record) -> None:
    late = NOW + 10**6
    for config in (FALLBACK, LOCAL_CONFIG):
        assert waited(record, told(), config, now=late) is None
    crashed = replace(record, exit=Exit(KUBE, Owner.KUBE, 9, Cause.ITSELF))
    assert waited(crashed, told(), FALLBACK, now=late) is None


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (down(exit=Exit(LOCAL, Owner.LOCAL, 3, Cause.STOP)), 3),
        (down(exit=Exit(LOCAL, Owner.LOCAL, 0, Cause.STOP)), 0),
        (down(exit=Exit(KUBE, Owner.KUBE, 143, Cause.STOP)), 143),
        (down(exit=Exit(LOCAL, Owner.LOCAL, 300, Cause.STOP)), 255),
        (down(exit=Exit(LOCAL, Owner.LOCAL, -1, Cause.STOP)), 0),
        (down(), 0),
        (down(exit=Exit(LOCAL, Owner.LOCAL, None, Cause.STOP)), 0),
        (down(style=StopStyle(signal="KILL")), 137),
        (down(style=StopStyle(signal="TERM")), 0),
        (up(exit=Exit(LOCAL, Owner.LOCAL, 5, Cause.ITSELF)), 5),
        (up(exit=Exit(LOCAL, Owner.LOCAL, None, Cause.ITSELF)), 1),
    ],
)
def test_wait_returns_the_containers_own_code(record: Record, code: int) -> None:
    assert waited(record, told()) == code


def test_wait_continues_where_the_local_container_crashed_and_a_kube_one_waits_to_take_over() -> None:
    crashed = up(exit=Exit(LOCAL, Owner.LOCAL, 5, Cause.ITSELF), refuse_until=NOW + 100)
    waiting = told(STOPPED, kube(), waiting=frozenset({KUBE}))
    assert waited(crashed, waiting, FALLBACK) is None
    assert waited(crashed, waiting, LOCAL_CONFIG) == 5, "kube has no part in it"
    assert waited(crashed, told(STOPPED, kube()), FALLBACK) == 5, "it runs, and is not admitted"
    ending = told(STOPPED, kube(), waiting=frozenset({KUBE}), stopping=frozenset({KUBE}))
    assert waited(crashed, ending, FALLBACK) == 5, "a stop before has asked it to end"


def test_a_blocked_kube_container_does_not_keep_a_stopped_wait() -> None:
    assert waited(down(), told(kube())) == 0


def test_wait_gives_up_where_nothing_ever_starts() -> None:
    limit = TIMING.local_wait_s
    for record in (up(), Record()):
        assert waited(record, told(), now=NOW + limit - 1) is None
        assert waited(record, told(), now=NOW + limit) == 1
    # The time without a container to follow counts, not the time without a stable kube container.
    assert waited(up(idle_since=1.0), told(), now=NOW + limit - 1) is None
    assert wait_code(LOCAL_CONFIG, up(idle_since=1.0), told(), TIMING, NOW + limit) is None


def test_wait_has_something_to_follow_wherever_it_may_still_come_to_an_end_or_to_a_container() -> None:
    for record in (down(), up(mode=Mode.READY), up(exit=Exit(LOCAL, Owner.LOCAL, 5, Cause.ITSELF))):
        assert wait_follows(FALLBACK, record, told())
    assert wait_follows(LOCAL_CONFIG, up(), told(local()))
    assert wait_follows(FALLBACK, granted(), told(kube()))
    assert wait_follows(LOCAL_CONFIG, up(), told(STOPPED, starting=frozenset({LOCAL})))
    assert not wait_follows(LOCAL_CONFIG, up(), told())
    assert not wait_follows(LOCAL_CONFIG, Record(), told())
