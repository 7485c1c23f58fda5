"""Check the health rules for kube containers: starts, crash loops, complaints, rollbacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import AdoptImage, RestoreImage, StartLocal
from kubesyncd.core.health import (
    FROM_CONTAINER,
    FROM_HOST,
    REASON_MAX,
    WELL,
    Complaint,
    ContainerStart,
    Health,
    another_image,
    complain,
    crash_loop,
    forget_ended,
    praise,
    same_image,
    see_starts,
)
from kubesyncd.core.model import (
    STARTS_MAX,
    Container,
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    SystemState,
    Timing,
)
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Record, cleared, hear, project
from kubesyncd.core.record import rolled_back as after_boot
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    NOW,
    OFF,
    ON,
    granted,
    kube,
    local,
    observed,
    plan,
    up,
)

TIMING = Timing(crash_loop_starts=3, crash_loop_s=600.0)


def nth(number: int, *, running: bool = True, image: str = "sha256:bad") -> Container:
    """The n-th container that the kubelet starts."""
    identity = f"{number:x}" * 64
    code = None if running else 1
    return Container(
        identity[:64], Owner.KUBE, running, code, f"2026-01-02T00:00:{number:02}", image_id=image
    )


def looped(times: int, *, every_s: float = 60.0) -> tuple[float, Health]:
    health, now = WELL, NOW
    for number in range(1, times + 1):
        now += every_s
        health = see_starts(health, (nth(number),), TIMING, now)
    return now, health


def test_a_third_start_in_time_is_a_crash_loop() -> None:
    now, health = looped(3)
    assert crash_loop(health, TIMING, now) == "3 starts within 10 min, and none stayed up"
    assert crash_loop(looped(2)[1], TIMING, now) == ""


def test_starts_that_lie_far_apart_are_not_a_crash_loop() -> None:
    now, health = looped(5, every_s=301.0)
    assert crash_loop(health, TIMING, now) == ""


def test_no_crash_loop_is_detected_where_the_limit_is_0() -> None:
    now, health = looped(9)
    assert crash_loop(health, replace(TIMING, crash_loop_starts=0), now) == ""


def test_one_container_counts_once_however_often_it_is_seen() -> None:
    health = see_starts(WELL, (nth(1),), TIMING, NOW)
    again = see_starts(health, (nth(1), nth(1, running=False)), TIMING, NOW + 1)
    # Docker's event of an end may carry the end's time for a container that was never observed.
    died = see_starts(
        again, (replace(nth(1, running=False), started="2026-01-02T00:00:09"),), TIMING, NOW + 2
    )
    assert [start.at for start in died.starts] == [NOW]


def test_containers_that_ended_before_the_first_observation_are_not_counted() -> None:
    health = see_starts(WELL, (nth(1, running=False), nth(2, running=False)), TIMING, NOW)
    assert health.starts == ()
    assert health.newest == nth(2).started


def test_starts_are_forgotten_once_one_stays_up() -> None:
    record = granted(proven=False, granted_at=NOW)
    record = absorb(record, KUBE_CONFIG, observed(kube()), TIMING, NOW)
    assert len(record.health.starts) == 1
    record = absorb(record, KUBE_CONFIG, observed(kube()), TIMING, NOW + TIMING.kube_stable_s)
    assert record.proven
    assert record.health.starts == ()


def test_complaints_are_kept_per_container_and_source_and_cut_to_size() -> None:
    health = complain(WELL, Complaint(KUBE, FROM_CONTAINER, "a\nlong\x0bstory " * 100))
    assert len(health.complaints[0].reason) <= REASON_MAX
    assert "\n" not in health.complaints[0].reason
    health = complain(health, Complaint(KUBE, FROM_HOST, ""))
    health = complain(health, Complaint(KUBE, FROM_CONTAINER, "another"))
    assert [c.reason for c in health.complaints] == ["no reason given", "another"]
    assert [c.source for c in praise(health, KUBE, FROM_HOST).complaints] == [FROM_CONTAINER]
    assert forget_ended(health, (kube(KUBE2),)).complaints == ()
    assert forget_ended(health, (kube(),)) is health


def test_the_number_of_complaints_is_limited() -> None:
    health = WELL
    for number in range(20):
        health = complain(health, Complaint(KUBE, f"check-{number}", "x"))
    assert [c.source for c in health.complaints] == [f"check-{number}" for number in range(12, 20)]


def said(reason: str = "no answer on port 161", of: str = KUBE) -> Complaint:
    return Complaint(of, FROM_CONTAINER, reason)


def unwell(config: FeatureConfig, **more: object) -> tuple[Record, FeatureConfig]:
    record = granted(**more)
    return replace(record, health=complain(record.health, said())), config


def test_an_unhealthy_kube_container_is_a_failure_with_a_sentence() -> None:
    record, config = unwell(KUBE_CONFIG)
    seen = absorb(record, config, observed(kube(), label=ON), TIMING, NOW)
    assert seen.failure == "the kube container is unhealthy: no answer on port 161 (says container)"
    decided = plan(config, record, observed(kube(), label=ON))
    assert decided.action is None
    assert decided.why == seen.failure


def test_recovery_is_noticed_when_the_complaint_is_taken_back() -> None:
    record, config = unwell(KUBE_CONFIG)
    seen = absorb(record, config, observed(kube()), TIMING, NOW)
    well = replace(seen, health=praise(seen.health, KUBE, FROM_CONTAINER))
    assert absorb(well, config, observed(kube()), TIMING, NOW).failure == ""


def test_a_container_that_says_it_is_unwell_does_not_count_as_stable() -> None:
    record, config = unwell(KUBE_CONFIG, proven=False, granted_at=NOW)
    later = absorb(record, config, observed(kube()), TIMING, NOW + 1000)
    assert not later.proven


def test_with_fallback_an_unhealthy_container_is_replaced_and_the_next_waits_longer_each_time() -> None:
    record, config = unwell(FALLBACK)
    seen = observed(local(running=False), kube(), label=ON)
    decided = plan(config, record, seen)
    assert decided.action.container_id == KUBE
    assert decided.action.cause is Cause.STOP
    delays = []
    for _ in range(3):
        record = replace(granted(health=complain(record.health, said())), granted_at=NOW - 100)
        record = absorb(record, config, observed(local(running=False)), TIMING, NOW)
        assert record.local_due
        delays.append(record.refuse_until - NOW)
    assert delays == [30.0, 60.0, 120.0]
    refused = plan(
        config,
        replace(record, mode=up().mode),
        observed(local(), kube(KUBE2), waiting=frozenset({KUBE2}), label=ON),
    )
    assert refused.action is None
    assert "was unhealthy 3 times in a row" in refused.why


def test_a_container_that_had_been_well_for_long_is_not_the_next_of_a_row() -> None:
    record, config = unwell(FALLBACK)
    record = replace(
        record, health=replace(record.health, sick=5), granted_at=NOW - TIMING.handover_delay_s_max
    )
    assert absorb(record, config, observed(local(running=False)), TIMING, NOW).refuse_until == NOW + 30.0


def test_one_that_is_being_stopped_is_not_stopped_again() -> None:
    record, config = unwell(FALLBACK)
    decided = plan(
        config, record, observed(local(running=False), kube(), label=ON, stopping=frozenset({KUBE}))
    )
    assert decided.action is None
    assert decided.why.endswith("the local container takes over once it has ended")


def test_a_complaint_is_recorded_and_withdrawn() -> None:
    heard = hear(granted(), said=said(), well=False)
    assert heard.health.complaint_about(KUBE) == said()
    assert hear(heard, said=said(), well=True).health == granted().health


def test_without_a_local_container_an_unhealthy_one_stays() -> None:
    record, config = unwell(FALLBACK)
    decided = plan(config, record, observed(kube(), label=ON))
    assert decided.action is None
    assert "no local container" in decided.why


def test_a_local_container_s_complaint_is_reported_and_changes_nothing() -> None:
    config = FeatureConfig()
    record = up(local_id=LOCAL)
    record = replace(record, health=complain(record.health, said(of=LOCAL)))
    decided = plan(config, record, observed(local()))
    assert decided.action is None
    assert decided.why == "the local container runs, as configured"


ROLLBACK = FeatureConfig(set_owner=Owner.KUBE, failure_policy=FailurePolicy.ROLLBACK)


def rolled_back() -> Record:
    record = granted(health=replace(WELL, newest="2026-01-01"))
    record = replace(record, health=complain(record.health, said()))
    return absorb(record, ROLLBACK, observed(replace(kube(), image_id="sha256:bad"), label=ON), TIMING, NOW)


def withdrawn(record: Record) -> Record:
    """Once the label is off, the kube container has ended and the local one runs, from a good image."""
    record = absorb(record, ROLLBACK, observed(local(), label=OFF), TIMING, NOW)
    return replace(record, mode=Mode.NONE, restored="sha256:bad")


def test_a_rollback_remembers_what_failed_and_withdraws_the_label_once() -> None:
    record = rolled_back()
    assert record.rolled_back
    assert record.health.failed_image == "sha256:bad"
    assert record.health.failed_newest == record.health.newest == "2026-01-02"
    assert not record.health.withdrawn
    gone = withdrawn(record)
    assert gone.health.withdrawn
    decided = plan(ROLLBACK, gone, observed(local(), label=ON))
    assert decided.action is None, "the master has set the label: it may try another image"
    assert "kubesync clear" in decided.why


def test_the_same_image_again_has_its_label_withdrawn_again() -> None:
    gone = withdrawn(rolled_back())
    again = observed(local(), nth(1), label=ON)
    decided = plan(ROLLBACK, gone, again)
    assert decided.action is not None
    assert not decided.action.on


def test_a_label_counts_as_withdrawn_once_the_master_has_it_and_stays_so_while_it_is_off() -> None:
    asked = observed(local(), label=LabelView(KubeLabel.OFF, pending=True))
    assert not absorb(rolled_back(), ROLLBACK, asked, TIMING, NOW).health.withdrawn
    gone = withdrawn(rolled_back())
    lingering = observed(local(), nth(1), label=OFF)
    assert absorb(gone, ROLLBACK, lingering, TIMING, NOW).health.withdrawn


def test_another_image_ends_the_rollback() -> None:
    gone = withdrawn(rolled_back())
    new = replace(nth(1, image="sha256:good"), started="2026-02-01")
    assert another_image(gone.health, (new,))
    assert not same_image(gone.health, (new,))
    seen = absorb(gone, ROLLBACK, observed(local(), new, label=ON), TIMING, NOW)
    assert (seen.rolled_back, seen.failure, seen.refuse_until) == (False, "", 0.0)


def test_an_operator_s_clear_ends_a_rollback_and_every_delay() -> None:
    record = cleared(replace(rolled_back(), refuse_until=NOW + 99, crashes=3))
    assert (record.rolled_back, record.failure, record.crashes, record.refuse_until) == (False, "", 0, 0.0)
    assert record.health.complaints == ()


def test_an_operator_s_clear_forgets_every_failure_of_kube() -> None:
    health = Health(
        starts=(ContainerStart(KUBE, NOW),), newest="2026-01-02", image_id="sha256:bad", complaints=(said(),), sick=2,
        failed_image="sha256:bad", failed_newest="2026-01-02", withdrawn=True,
    )  # fmt: skip
    guilty = up(failure="x", rolled_back=True, bad_since=1.0, crashes=3, refuse_until=9.0, restored="y")
    record = cleared(replace(guilty, health=health, adopted="sha256:good"))
    assert record == up(adopted="sha256:good", health=Health(newest="2026-01-02", image_id="sha256:bad"))


def test_a_boot_takes_over_what_was_rolled_back_before_it() -> None:
    after = after_boot(up(), "it crashed", "sha256:bad", "2026-01-02")
    health = Health(failed_image="sha256:bad", failed_newest="2026-01-02", newest="2026-01-02")
    assert after == up(failure="it crashed", rolled_back=True, health=health)


def test_a_feature_that_has_not_failed_is_not_rolled_back() -> None:
    seen = absorb(granted(), ROLLBACK, observed(kube(), label=ON), TIMING, NOW)
    assert (seen.rolled_back, seen.failure) == (False, "")


def test_a_stable_container_with_a_complaint_ends_no_failure() -> None:
    failed = granted(failure="x", health=complain(WELL, said()))
    assert absorb(failed, KUBE_CONFIG, observed(kube()), TIMING, NOW).failure == "x"
    praised = replace(failed, health=praise(failed.health, KUBE, FROM_CONTAINER))
    assert absorb(praised, KUBE_CONFIG, observed(kube()), TIMING, NOW).failure == ""


@pytest.mark.parametrize(
    "held", [{"failure": "x"}, {"rolled_back": True}, {"failure": "x", "rolled_back": True}]
)
def test_a_feature_that_is_local_again_has_nothing_held_against_it(held: dict[str, Any]) -> None:
    seen = absorb(up(crashes=2, **held), FeatureConfig(), observed(local()), TIMING, NOW)
    assert (seen.failure, seen.rolled_back, seen.crashes) == ("", False, 0)
    unsaid = absorb(Record(crashes=2, **held), FeatureConfig(), observed(local()), TIMING, NOW)
    assert unsaid.crashes == 2, "right after a boot the configuration may be unknown"
    assert absorb(up(crashes=2), FeatureConfig(), observed(local()), TIMING, NOW).crashes == 2, (
        "nothing is over"
    )


def test_a_second_rollback_withdraws_the_label_again() -> None:
    failing = granted(health=complain(replace(WELL, withdrawn=True), said()))
    assert not absorb(failing, ROLLBACK, observed(kube(), label=ON), TIMING, NOW).health.withdrawn


def test_nothing_has_to_end_before_the_unit_speaks() -> None:
    silent = Record(grant=KUBE, granted_at=1.0, proven=True)
    assert absorb(silent, FeatureConfig(), observed(kube()), TIMING, NOW).ending_since is None


def test_only_the_end_of_a_wanted_container_counts_as_one_that_was_unwell() -> None:
    config = replace(FALLBACK, failure_policy=FailurePolicy.SWITCH_TO_LOCAL)
    unwell = granted(health=complain(WELL, said()))
    for record, sick in ((unwell, 1), (replace(unwell, system_state=SystemState.DOWN), 0)):
        ended = absorb(record, config, observed(), TIMING, NOW)
        assert (ended.health.sick, ended.refuse_until > NOW) == (sick, sick == 1)


def test_starts_count_only_while_kube_is_wanted_and_unproven() -> None:
    health = Health(starts=(ContainerStart(KUBE, NOW - 1),), newest="2026-01-02")
    young = granted(proven=False, granted_at=NOW - 1, health=health)
    for record, config, counted in (
        (young, KUBE_CONFIG, 1),
        (young, FeatureConfig(), 0),
        (replace(young, system_state=SystemState.DOWN), KUBE_CONFIG, 0),
        (replace(young, proven=True), KUBE_CONFIG, 0),
    ):
        assert len(absorb(record, config, observed(kube()), TIMING, NOW).health.starts) == counted


# ---- images -----------------------------------------------------------------------------------------

GOOD = replace(kube(), image_id="sha256:good")


def test_an_image_is_adopted_after_it_has_run_well_for_long_enough_and_only_once() -> None:
    record = granted(granted_at=NOW - TIMING.tag_after_s + 5)
    waits = plan(KUBE_CONFIG, record, observed(GOOD, label=ON))
    assert (waits.action, waits.wake_at) == (None, NOW + 5)
    decided = plan(KUBE_CONFIG, record, observed(GOOD, label=ON), NOW + 5)
    assert decided.action == AdoptImage("sha256:good")
    adopted = replace(record, adopted="sha256:good")
    assert plan(KUBE_CONFIG, adopted, observed(GOOD, label=ON), NOW + 5).action is None


def test_no_image_is_adopted_before_its_container_has_stayed_up() -> None:
    hasty = replace(TIMING, tag_after_s=1.0)
    record, seen = granted(proven=False, granted_at=NOW - 5), observed(GOOD, label=ON)
    seen = replace(seen, row=project(record, seen))
    decided = decide(KUBE_CONFIG, record, seen, hasty, NOW, "snmp")
    assert (decided.action, decided.wake_at) == (None, NOW - 5 + hasty.kube_stable_s)
    assert decide(KUBE_CONFIG, replace(record, proven=True), seen, hasty, NOW, "snmp").action == AdoptImage(
        "sha256:good"
    )


def test_health_counts_not_age() -> None:
    record = granted(granted_at=NOW - 10 * TIMING.tag_after_s)
    record = replace(record, health=complain(record.health, said()))
    assert plan(KUBE_CONFIG, record, observed(GOOD, label=ON)).action is None


@pytest.mark.upstream("kube_commands/tag-error", "same")
def test_an_adoption_that_failed_is_tried_again_later() -> None:
    record = granted(granted_at=1.0, adopt_at=NOW + 7)
    waits = plan(KUBE_CONFIG, record, observed(GOOD, label=ON))
    assert (waits.action, waits.wake_at) == (None, NOW + 7)


def test_a_rollback_takes_the_local_image_back_before_it_starts_anything() -> None:
    gone = replace(withdrawn(rolled_back()), restored="", local_id="")
    decided = plan(ROLLBACK, gone, observed(local(running=False), label=OFF))
    assert decided.action == RestoreImage("sha256:bad")
    decided = plan(ROLLBACK, replace(gone, restored="sha256:bad"), observed(local(running=False), label=OFF))
    assert decided.action == StartLocal(LOCAL)


def test_a_rollback_outlives_the_boot_until_the_configuration_is_known() -> None:
    record = after_boot(Record(), "it failed", "sha256:bad", "2026-01-02")
    # Before Redis answers the configuration is unknown, and taken as local.
    record = absorb(record, FeatureConfig(), observed(), TIMING, NOW)
    assert record.rolled_back
    record = absorb(replace(record, system_state=SystemState.UP), ROLLBACK, observed(local()), TIMING, NOW)
    assert (record.rolled_back, record.failure) == (True, "it failed")
    assert not absorb(record, FeatureConfig(), observed(local()), TIMING, NOW).rolled_back


# ---- at the edges -----------------------------------------------------------------------------------


def test_a_local_container_counts_neither_as_a_kube_start_nor_as_another_image() -> None:
    mine = replace(local(), image_id="sha256:good", started="2027-01-01")
    assert see_starts(WELL, (mine,), TIMING, NOW) is WELL
    failed = replace(WELL, failed_image="sha256:bad", failed_newest="2026-01-01")
    assert not another_image(failed, (mine,))
    assert not same_image(failed, (replace(mine, image_id="sha256:bad"),))


def test_only_what_started_after_the_failure_and_what_runs_now_counts() -> None:
    failed = replace(WELL, failed_image="sha256:bad", failed_newest=nth(5).started)
    assert not another_image(failed, (nth(5, image="sha256:old"), nth(4, image="sha256:old")))
    assert another_image(failed, (nth(6, image="sha256:new"),))
    assert same_image(failed, (nth(6),))
    assert not same_image(failed, (nth(6, running=False),))
    assert not same_image(replace(failed, failed_image=""), (nth(6, image=""),)), "both are unknown"


def test_a_container_that_ran_only_between_two_observations_counts_as_a_start() -> None:
    health = see_starts(WELL, (nth(1),), TIMING, NOW)
    assert len(see_starts(health, (nth(2, running=False),), TIMING, NOW).starts) == 2


def test_a_crash_loop_ends_with_its_time_to_the_second() -> None:
    now, health = looped(3)
    first = health.starts[0].at
    assert crash_loop(health, TIMING, first + TIMING.crash_loop_s)
    assert not crash_loop(health, TIMING, first + TIMING.crash_loop_s + 1)
    assert crash_loop(looped(1)[1], replace(TIMING, crash_loop_starts=1), now)


@pytest.mark.parametrize(("wanted", "kept"), [(0, 8), (20, 20), (1000, STARTS_MAX)])
def test_as_many_starts_are_remembered_as_a_crash_loop_has(wanted: int, kept: int) -> None:
    health = WELL
    for number in range(100):
        one = replace(nth(1), id=f"{number:064x}", started=f"2026-01-02T00:{number:04}")
        health = see_starts(health, (one,), replace(TIMING, crash_loop_starts=wanted), NOW)
    assert len(health.starts) == kept
    assert health.starts[-1].container_id == f"{99:064x}"


def test_unreadable_complaints_are_not_kept() -> None:
    health = complain(WELL, Complaint(KUBE, FROM_HOST, "bell\x07 and \u202eback"))
    assert health.complaints[0].reason == "bell? and ?back"
    assert complain(WELL, Complaint(KUBE, FROM_HOST, "x" * 500)).complaints[0].reason == "x" * 200


def test_a_stable_container_seen_again_does_not_count_as_a_new_start() -> None:
    health = replace(see_starts(WELL, (nth(1),), TIMING, NOW), starts=())
    assert see_starts(health, (nth(1),), TIMING, NOW + 1) is health


def test_the_source_of_a_complaint_is_named_as_in_the_documents() -> None:
    assert (FROM_CONTAINER, FROM_HOST) == ("container", "host")
    assert not WELL.withdrawn
    assert STARTS_MAX == 64
