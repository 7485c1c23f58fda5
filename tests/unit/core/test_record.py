"""Check that the record keeps exactly what was observed, and that the row follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.core.absorb import absorb
from kubesyncd.core.health import WELL, Complaint, Health, complain
from kubesyncd.core.model import FailurePolicy, FeatureConfig, Mode, Owner, Row, SystemState
from kubesyncd.core.observation import Observation
from kubesyncd.core.record import (
    Cause,
    Exit,
    Record,
    StopStyle,
    failure_deadline,
    local_wanted,
    project,
    ruling_owner,
    with_grant,
    with_mode,
)
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    TIMING,
    down,
    granted,
    kube,
    local,
    observed,
    up,
)

YOUNG = {"proven": False, "granted_at": NOW - 5}


def seen(record: Record, *containers: object, config: FeatureConfig = FALLBACK, now: float = NOW) -> Record:
    """The record after a look at these containers."""
    return absorb(record, config, observed(*containers), TIMING, now)  # type: ignore[arg-type]


# ---- what runs, and the row ---------------------------------------------------------------------


def test_a_running_local_container_is_the_owner_whether_or_not_it_said_so() -> None:
    row = project(up(), observed(local()))
    assert (row.current_owner, row.docker_id) == (Owner.LOCAL, LOCAL)


def test_a_kube_container_without_an_admission_is_never_the_owner() -> None:
    assert project(up(), observed(kube())) == Row(SystemState.UP)
    assert project(granted(), observed(kube(KUBE2))).current_owner is Owner.NONE


def test_an_admitted_kube_container_is_the_owner_while_it_runs() -> None:
    row = project(granted(), observed(local(), kube()))
    assert (row.current_owner, row.docker_id) == (Owner.KUBE, KUBE)
    assert project(granted(), observed(kube(running=False))).docker_id == ""


def test_the_row_contains_what_is_recorded() -> None:
    record = down(mode=Mode.READY, owner_ts=77, failure="no kube container has run for 5 min")
    assert project(record, observed()) == Row(
        SystemState.DOWN, Owner.NONE, Mode.READY, "", 77, record.failure
    )


def test_the_row_contains_the_complaint_about_the_local_container() -> None:
    health = complain(WELL, Complaint(LOCAL, "monit", "bgpd hangs"))
    said = "the local container is unhealthy: bgpd hangs (says monit)"
    assert project(up(health=health), observed(local())).failure == said
    assert project(up(health=health, failure="kube failed"), observed(local())).failure == "kube failed"
    assert project(up(health=health), observed(local(running=False))).failure == ""


def test_the_values_in_the_ledger_are_these() -> None:
    assert [cause.value for cause in Cause] == ["itself", "stop", "kill"]


def test_missing_records_have_the_harmless_default() -> None:
    record, look = Record(), Observation(None)
    assert (record.granted_at, record.refuse_until, record.adopt_at, record.owner_ts) == (0.0, 0.0, 0.0, 0)
    assert (record.crashes, record.proven, record.ending, record.local_due) == (0, False, False, False)
    assert (look.joined, look.reasking, look.hold, look.kubelet, look.wall_s) == (
        False,
        False,
        False,
        None,
        0,
    )
    style = StopStyle()
    assert (style.grace_s, style.signal, style.kubelet_check) == (None, "", True)


def test_after_a_prepared_reboot_the_local_container_is_wanted_until_kube_is_there_again() -> None:
    promised = up(boot_fallback=True)
    assert local_wanted(KUBE_CONFIG, promised)
    assert not local_wanted(KUBE_CONFIG, up())
    fresh = granted(boot_fallback=True, proven=False, granted_at=NOW)
    assert seen(fresh, kube(), config=KUBE_CONFIG).boot_fallback
    assert not seen(fresh, kube(), config=KUBE_CONFIG, now=NOW + TIMING.kube_stable_s).boot_fallback


def test_a_destroyed_container_is_ignored_and_the_youngest_kube_one_comes_first() -> None:
    look = observed(local(running=False, gone=True), kube(started="2"), kube(KUBE2, started="3"))
    assert look.local is None
    assert look.local_running == ""
    assert look.kube_running == (KUBE2, KUBE)
    assert observed(local(running=False)).local == local(running=False)
    assert observed(kube("cc" * 32, started="2"), kube("bb" * 32, started="2")).kube_running[0] == "cc" * 32
    assert observed(kube(running=False)).kube_running == ()


def test_the_owner_is_stamped_with_the_time_of_its_change() -> None:
    look = replace(observed(local()), wall_s=1000)
    record = absorb(up(), LOCAL_CONFIG, look, TIMING, NOW)
    assert (record.owner, record.owner_ts) == (Owner.LOCAL, 1000)
    later = absorb(record, LOCAL_CONFIG, replace(look, wall_s=2000), TIMING, NOW)
    assert later.owner_ts == 1000
    ended = absorb(later, LOCAL_CONFIG, replace(observed(), wall_s=3000), TIMING, NOW)
    assert (ended.owner, ended.owner_ts) == (Owner.NONE, 3000)


# ---- ends ---------------------------------------------------------------------------------------


def test_an_end_without_a_request_counts_as_the_container_s_own() -> None:
    record = seen(up(local_id=LOCAL), local(running=False, code=3))
    assert record.exit == Exit(LOCAL, Owner.LOCAL, 3, Cause.ITSELF)
    assert record.local_id == ""
    assert record.local_exited


@pytest.mark.parametrize("cause", [Cause.STOP, Cause.KILL])
def test_an_end_we_asked_for_is_ours(cause: Cause) -> None:
    record = seen(up(local_id=LOCAL, asked=(LOCAL, cause)), local(running=False, code=137))
    assert record.exit == Exit(LOCAL, Owner.LOCAL, 137, cause)
    assert not record.local_exited
    other = seen(up(local_id=LOCAL, asked=(KUBE, cause)), local(running=False, code=137))
    assert other.local_exited
    assert other.asked == (KUBE, cause), "its own end is still to come"


@pytest.mark.parametrize("cause", [Cause.STOP, Cause.KILL])
def test_a_container_that_was_stopped_and_started_again_ends_by_itself_when_it_crashes(cause: Cause) -> None:
    stopped = seen(up(local_id=LOCAL, asked=(LOCAL, cause)), local(running=False, code=0))
    again = seen(stopped, local())
    crashed = seen(again, local(running=False, code=3))
    assert crashed.exit == Exit(LOCAL, Owner.LOCAL, 3, Cause.ITSELF)
    assert crashed.local_exited


def test_an_unobserved_end_has_no_code() -> None:
    assert seen(up(local_id=LOCAL)).exit == Exit(LOCAL, Owner.LOCAL, None, Cause.ITSELF)
    other = local(running=False, code=5)
    assert seen(up(local_id="dd" * 32), other).exit == Exit("dd" * 32, Owner.LOCAL, None, Cause.ITSELF)


def test_a_container_that_has_been_replaced_has_ended() -> None:
    record = seen(up(local_id="dd" * 32), local())
    assert record.local_id == LOCAL
    assert record.exit is None


def test_a_start_forgets_a_local_exit_but_no_kube_one() -> None:
    local_exit, kube_exit = Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF), Exit(KUBE, Owner.KUBE, 1, Cause.ITSELF)
    assert seen(up(exit=local_exit), local()).exit is None
    assert seen(up(exit=kube_exit), local()).exit == kube_exit
    assert not replace(up(), exit=kube_exit).local_exited


def test_what_waited_for_a_local_container_is_over_once_it_runs() -> None:
    record = seen(up(local_due=True, unit_restarted=True), local())
    assert (record.local_due, record.unit_restarted) == (False, False)
    still = seen(up(local_due=True, unit_restarted=True))
    assert (still.local_due, still.unit_restarted) == (True, True)
    assert not seen(granted(unit_restarted=True), kube()).unit_restarted


def test_a_stop_is_over_once_nothing_it_found_runs() -> None:
    stopping = down(ending=True)
    assert seen(stopping, local()).ending
    assert not seen(stopping, local(running=False)).ending
    assert not seen(stopping, kube()).ending
    assert seen(replace(stopping, grant=KUBE), kube()).ending
    assert not seen(replace(stopping, grant=KUBE)).ending


def test_the_end_of_an_admitted_container_ends_the_admission() -> None:
    record = seen(granted(), kube(running=False, code=9))
    assert (record.grant, record.granted_at, record.proven) == ("", 0.0, False)
    assert record.exit == Exit(KUBE, Owner.KUBE, 9, Cause.ITSELF)
    assert record.mode is Mode.READY
    assert seen(granted(), kube()).grant == KUBE


# ---- containers that do not stay up --------------------------------------------------------------


def test_a_kube_container_that_ends_before_its_admission_has_not_stayed_up() -> None:
    handing_over = up(mode=Mode.PENDING, local_id=LOCAL, asked=(LOCAL, Cause.STOP))
    gone = seen(handing_over, local(running=False), kube(running=False))
    assert (gone.crashes, gone.refuse_until, gone.local_due) == (1, NOW + TIMING.handover_delay_s, True)
    assert seen(gone, local(running=False)) == gone
    for runs in (local(), kube(), kube(KUBE2)):
        assert seen(handing_over, runs).crashes == 0
    for other in (
        replace(handing_over, mode=Mode.READY),
        replace(handing_over, system_state=SystemState.DOWN),
        replace(handing_over, local_id="", exit=Exit(KUBE, Owner.KUBE, 1, Cause.ITSELF)),
    ):
        assert seen(other, local(running=False)).crashes == 0
    assert seen(handing_over, local(running=False), config=LOCAL_CONFIG).crashes == 0


def test_a_failed_hand_over_is_told_by_the_newest_kube_container() -> None:
    earlier = Health(ends=(NOW - 2, NOW - 1), pods=("", ""))
    handing_over = up(mode=Mode.PENDING, local_id=LOCAL, asked=(LOCAL, Cause.STOP), health=earlier)
    newest = kube(KUBE2, running=False, code=2, started="2026-01-03", pod="sonic/snmp-2")
    health = seen(handing_over, local(running=False), newest, kube(running=False, code=1)).health
    assert health.looping == "3 ends within 15 min, the last one with exit code 2"
    assert health.pods == ("", "", "sonic/snmp-2")


def test_a_kube_container_is_proven_once_it_has_stayed_up() -> None:
    record = granted(
        proven=False, granted_at=NOW - TIMING.kube_stable_s + 1, crashes=3, refuse_until=9.0, local_due=True
    )
    young = seen(record, kube())
    assert (young.proven, young.crashes) == (False, 3)
    proven = seen(record, kube(), now=NOW + 1)
    assert proven.proven
    assert (proven.crashes, proven.refuse_until, proven.local_due) == (0, 0.0, False)


def test_each_early_end_doubles_the_delay_up_to_a_limit() -> None:
    record = seen(granted(**YOUNG))
    assert (record.crashes, record.refuse_until, record.local_due) == (1, NOW + TIMING.handover_delay_s, True)
    again = seen(replace(granted(**YOUNG), crashes=2))
    assert (again.crashes, again.refuse_until) == (3, NOW + 4 * TIMING.handover_delay_s)
    most = seen(replace(granted(**YOUNG), crashes=10**6))
    assert (most.crashes, most.refuse_until) == (10**6 + 1, NOW + TIMING.handover_delay_s_max)


def test_only_an_early_end_by_itself_of_a_wanted_container_counts() -> None:
    calm = [
        (granted(), FALLBACK),
        (granted(**YOUNG, asked=(KUBE, Cause.STOP)), FALLBACK),
        (granted(**YOUNG, system_state=SystemState.DOWN), FALLBACK),
        (granted(**YOUNG), LOCAL_CONFIG),
        (granted(**YOUNG, rolled_back=True, failure="x"), FALLBACK),
    ]
    for record, config in calm:
        ended = seen(record, config=config)
        assert (ended.grant, ended.crashes, ended.refuse_until, ended.local_due) == ("", 0, 0.0, False)


def test_an_early_end_beside_a_running_local_container_leaves_nothing_due() -> None:
    ended = seen(granted(**YOUNG), local())
    assert (ended.crashes, ended.local_due) == (1, False)
    assert seen(ended, local()) == ended


# ---- clocks -------------------------------------------------------------------------------------


def test_the_idle_clock_runs_while_nothing_runs_and_stands_while_kube_is_young() -> None:
    assert seen(up()).idle_since == NOW
    assert seen(up(idle_since=5.0)).idle_since == 5.0
    assert seen(up(idle_since=5.0), local()).idle_since is None
    assert seen(down(idle_since=5.0)).idle_since is None
    assert seen(granted(**YOUNG, idle_since=5.0), kube()).idle_since == 5.0
    assert seen(granted(**YOUNG), kube()).idle_since is None
    assert seen(granted(idle_since=5.0), kube()).idle_since is None


def test_the_failure_clock_runs_while_kube_is_wanted_and_not_stable() -> None:
    assert seen(up()).bad_since == NOW
    assert seen(up(bad_since=5.0), local()).bad_since == 5.0
    assert seen(granted(**YOUNG, bad_since=5.0), kube()).bad_since == 5.0
    assert seen(granted(bad_since=5.0), kube()).bad_since is None
    assert seen(down(bad_since=5.0)).bad_since is None
    assert seen(up(bad_since=5.0), config=LOCAL_CONFIG).bad_since is None


def test_the_ending_clock_runs_while_a_kube_container_must_end() -> None:
    assert seen(down(), kube()).ending_since == NOW
    assert seen(down(ending_since=5.0), kube()).ending_since == 5.0
    assert seen(down(ending_since=5.0)).ending_since is None
    assert seen(granted(), kube(), config=LOCAL_CONFIG).ending_since == NOW
    assert seen(granted(ending_since=5.0), kube()).ending_since is None
    assert seen(up(ending_since=5.0), kube(), config=LOCAL_CONFIG).ending_since is None
    assert seen(Record(), kube()).ending_since is None


# ---- failure ------------------------------------------------------------------------------------


def failing(policy: FailurePolicy | None = None, *, fallback: bool = False) -> FeatureConfig:
    return FeatureConfig(Owner.KUBE, fallback, 2, policy)


def test_a_feature_fails_after_its_minutes_and_recovers_once_stable() -> None:
    early = seen(up(bad_since=NOW - 119), config=failing())
    assert early.failure == ""
    assert failure_deadline(early, failing()) == NOW + 1
    failed = seen(up(bad_since=NOW - 120), config=failing())
    assert failed.failure == "no kube container has run for 2 min"
    assert not failed.rolled_back
    assert failure_deadline(failed, failing()) is None
    back = seen(granted(failure=failed.failure), kube(), config=failing())
    assert back.failure == ""
    young = seen(granted(**YOUNG, failure=failed.failure), kube(), config=failing())
    assert young.failure == failed.failure


def test_without_detection_and_while_down_nothing_fails() -> None:
    assert seen(up(bad_since=1.0)).failure == ""
    assert seen(down(bad_since=1.0), config=failing()).failure == ""
    assert failure_deadline(up(bad_since=1.0), FALLBACK) is None
    assert failure_deadline(up(), failing()) is None


def test_a_rollback_stands_until_the_operator_takes_the_feature_back() -> None:
    config = failing(FailurePolicy.ROLLBACK)
    rolled = seen(up(bad_since=NOW - 120), config=config)
    assert rolled.rolled_back
    assert ruling_owner(config, rolled) is Owner.LOCAL
    assert seen(rolled, local(), config=config).rolled_back
    # The container it was rolled back from may have come up meanwhile; it is being ended.
    proven = seen(granted(failure=rolled.failure, rolled_back=True), kube(), config=config)
    assert (proven.failure, proven.rolled_back, proven.ending_since) == (rolled.failure, True, NOW)
    cleared = seen(rolled, local(), config=LOCAL_CONFIG)
    assert (cleared.failure, cleared.rolled_back) == ("", False)


def test_the_owner_follows_the_configuration_and_a_rollback() -> None:
    assert ruling_owner(KUBE_CONFIG, up()) is Owner.KUBE
    assert ruling_owner(LOCAL_CONFIG, up()) is Owner.LOCAL
    assert ruling_owner(replace(KUBE_CONFIG, local_only=True), up()) is Owner.LOCAL
    assert ruling_owner(replace(KUBE_CONFIG, always_local=True), up()) is Owner.LOCAL
    assert local_wanted(LOCAL_CONFIG, up())
    assert local_wanted(FALLBACK, up())
    assert not local_wanted(KUBE_CONFIG, up())
    assert not local_wanted(failing(), up(failure="x"))
    assert local_wanted(failing(FailurePolicy.SWITCH_TO_LOCAL), up(failure="x"))
    assert not local_wanted(failing(FailurePolicy.SWITCH_TO_LOCAL), up())


def test_the_clocks_of_a_deposed_owner_stop_with_the_rollback() -> None:
    config = failing(FailurePolicy.ROLLBACK)
    rolled = seen(up(bad_since=NOW - 120), config=config)
    assert (rolled.rolled_back, rolled.bad_since) == (True, None)
    assert seen(rolled, config=config) == rolled


# ---- our own changes ----------------------------------------------------------------------------


def test_another_mode_deals_with_a_local_exit_but_no_kube_one() -> None:
    local_exit, kube_exit = Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF), Exit(KUBE, Owner.KUBE, 1, Cause.ITSELF)
    assert with_mode(up(exit=local_exit), Mode.PENDING) == up(mode=Mode.PENDING)
    assert with_mode(up(exit=kube_exit), Mode.READY) == up(mode=Mode.READY, exit=kube_exit)
    assert with_mode(up(), Mode.READY) == up(mode=Mode.READY)


def test_an_admission_begins_as_not_stable() -> None:
    record = with_grant(up(mode=Mode.PENDING, proven=True), KUBE, NOW, by_row=False)
    assert record == up(mode=Mode.READY, grant=KUBE, granted_at=NOW)


# ---- for every record ---------------------------------------------------------------------------

ids = st.sampled_from(["", LOCAL, KUBE, KUBE2])
clocks = st.sampled_from([None, 1.0, NOW - 60, NOW])
exits = st.none() | st.builds(
    Exit, st.just(LOCAL), st.sampled_from(Owner), st.sampled_from([None, 0, 1, 137]), st.sampled_from(Cause)
)
records = st.builds(
    Record,
    system_state=st.sampled_from(SystemState),
    mode=st.sampled_from(Mode),
    grant=st.sampled_from(["", KUBE]),
    granted_at=st.sampled_from([0.0, NOW - 61, NOW]),
    proven=st.booleans(),
    local_id=st.sampled_from(["", LOCAL]),
    exit=exits,
    asked=st.none() | st.tuples(ids, st.sampled_from(Cause)),
    ending=st.booleans(),
    ending_since=clocks,
    idle_since=clocks,
    bad_since=clocks,
    crashes=st.integers(0, 4),
    local_due=st.booleans(),
    unit_restarted=st.booleans(),
    failure=st.sampled_from(["", "no kube container has run for 1 min"]),
    rolled_back=st.booleans(),
    owner=st.sampled_from(Owner),
)
configs = st.builds(
    FeatureConfig,
    set_owner=st.sampled_from([Owner.LOCAL, Owner.KUBE]),
    fallback=st.booleans(),
    failure_minutes=st.sampled_from([0, 1]),
    failure_policy=st.none() | st.sampled_from(FailurePolicy),
    local_only=st.booleans(),
)
looks = st.builds(
    lambda *containers: observed(*filter(None, containers)),
    st.sampled_from([None, local(), local(running=False, code=1), local(running=False, gone=True)]),
    st.sampled_from([None, kube(), kube(running=False, code=2)]),
    st.sampled_from([None, kube(KUBE2, started="3")]),
)


@settings(max_examples=10 * settings.default.max_examples)
@given(records, configs, looks)
def test_a_second_observation_changes_nothing(
    record: Record, config: FeatureConfig, look: Observation
) -> None:
    once = absorb(record, config, look, TIMING, NOW)
    assert absorb(once, config, look, TIMING, NOW) == once


@settings(max_examples=10 * settings.default.max_examples)
@given(records, configs, looks)
def test_an_observation_never_changes_the_unit_s_request(
    record: Record, config: FeatureConfig, look: Observation
) -> None:
    after = absorb(record, config, look, TIMING, NOW)
    assert (after.system_state, after.mode, after.style) == (record.system_state, record.mode, record.style)
    assert after.grant in ("", record.grant)
    assert not after.grant or after.grant in look.kube_running
