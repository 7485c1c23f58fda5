"""Check that ends of kube containers count over time, also where each life outlasted `kube_stable_s`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import SetMode
from kubesyncd.core.health import FROM_CONTAINER, WELL, Complaint, Health, complain, see_end
from kubesyncd.core.model import FailurePolicy, Mode, Owner, SystemState, Timing
from kubesyncd.core.record import Cause, Record, cleared, with_grant
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL_CONFIG,
    NOW,
    ON,
    granted,
    kube,
    local,
    observed,
    plan,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig
    from kubesyncd.core.observation import Observation

TIMING = Timing()
# A little longer than `kube_stable_s`.
LIFE_S = TIMING.kube_stable_s + 5
PAUSE_S = 20.0
TOLD = "3 ends within 15 min, the last one with exit code 3"
ENDED = observed(local(running=False), kube(running=False, code=3), label=ON)
RUNS = observed(local(running=False), kube(), label=ON)


def lived(
    record: Record,
    now: float,
    config: FeatureConfig = FALLBACK,
    *,
    life_s: float = LIFE_S,
    ends: Observation = ENDED,
) -> tuple[float, Record]:
    """One life of a kube container, from its admission to its end."""
    record = with_grant(record, KUBE, now, by_row=False)
    for passed in (0.0, TIMING.kube_stable_s):
        if passed <= life_s:
            record = absorb(record, config, RUNS, TIMING, now + passed)
    return now + life_s, absorb(record, config, ends, TIMING, now + life_s)


def looped(
    times: int = 3, config: FeatureConfig = FALLBACK, *, pause_s: float = PAUSE_S
) -> tuple[float, Record]:
    now, record = NOW, up()
    for _ in range(times):
        now, record = lived(record, now + pause_s, config)
    return now, record


def test_the_third_end_within_the_window_is_a_failure_and_the_local_container_returns_at_once() -> None:
    _, record = looped(2)
    assert (record.failure, record.crashes, record.local_due, record.refuse_until) == ("", 0, False, 0.0)
    now, record = looped(3)
    assert record.failure == f"crash-looping: {TOLD}"
    assert (record.crashes, record.local_due) == (1, True)
    assert record.refuse_until == now + TIMING.handover_delay_s
    decided = plan(FALLBACK, record, ENDED)
    assert decided.action == SetMode(Mode.NONE)
    assert decided.why == f"the kube container is crash-looping ({TOLD}): the local one returns"


def test_ends_that_lie_further_apart_are_no_failure() -> None:
    # The first and the third one are as far apart as the window is long, and a second more.
    apart = TIMING.crash_window_s / 2 - LIFE_S
    assert looped(3, pause_s=apart)[1].failure
    _, record = looped(9, pause_s=apart + 0.5)
    assert record.failure == ""
    assert len(record.health.ends) == 3


def test_the_next_hand_over_waits_twice_as_long_each_time_although_each_life_outlasts_its_trial() -> None:
    now, record = looped(3)
    delays = [record.refuse_until - now]
    for _ in range(8):
        now, record = lived(record, record.refuse_until)
        delays.append(record.refuse_until - now)
    # The ends have long become rarer than the window is long.
    assert delays == [30.0 * 2**n for n in range(7)] + [TIMING.handover_delay_s_max] * 2
    assert record.failure == f"crash-looping: {TOLD}", "one failure, told once"
    said = "no kube container has run for 15 min, the last one ended with exit code 3"
    assert record.health.looping == said
    waits = observed(local(), kube(KUBE2), waiting=frozenset({KUBE2}), label=ON)
    refused = plan(FALLBACK, replace(record, mode=Mode.NONE, refuse_until=NOW + 9), waits)
    assert refused.action is None
    assert (
        refused.why
        == f"the kube container waits, but it is crash-looping ({said}): the local one stays for now"
    )


def test_an_early_end_and_a_late_one_count_together() -> None:
    now, record = lived(up(), NOW, life_s=5.0)
    assert (record.crashes, record.failure) == (1, "")
    now, record = lived(record, now + PAUSE_S)
    assert record.crashes == 1, "a life that only outlasts its trial does not begin a new row"
    now, record = lived(record, now + PAUSE_S, life_s=5.0)
    assert (record.crashes, record.failure) == (2, f"crash-looping: {TOLD}")


@pytest.mark.parametrize("held_s", [TIMING.crash_window_s, TIMING.crash_window_s + 99])
def test_it_is_over_once_a_container_has_run_for_the_window(held_s: float) -> None:
    now, record = looped(3)
    record = with_grant(record, KUBE, now, by_row=False)
    young = absorb(record, FALLBACK, RUNS, TIMING, now + TIMING.crash_window_s - 1)
    assert young.proven
    assert (young.failure, young.crashes) == (f"crash-looping: {TOLD}", 1)
    over = absorb(young, FALLBACK, RUNS, TIMING, now + held_s)
    assert (over.failure, over.crashes, over.health.ends, over.health.looping) == ("", 0, (), "")
    # The end of one that has lasted is the first of a row, also where nothing was observed meanwhile.
    for before in (over, young):
        ended = absorb(before, FALLBACK, ENDED, TIMING, now + held_s)
        assert (ended.crashes, len(ended.health.ends), ended.health.looping) == (0, 1, "")


def test_the_end_of_a_crash_loop_is_observed_in_time() -> None:
    record = granted(granted_at=NOW - 100, failure="x", health=Health(ends=(NOW - 200,), looping=TOLD))
    decided = plan(KUBE_CONFIG, record, observed(kube(), label=ON))
    assert decided.wake_at == NOW - 100 + TIMING.crash_window_s
    calm = plan(KUBE_CONFIG, granted(granted_at=NOW - 100), observed(kube(), label=ON))
    assert calm.wake_at is None
    ended = up(mode=Mode.READY, granted_at=NOW - 100, health=record.health)
    assert plan(KUBE_CONFIG, ended, ENDED).wake_at is None, "nothing runs that could outlast it"


def test_a_complaint_keeps_earlier_ends_counted() -> None:
    unwell = complain(Health(ends=(1.0,), looping=TOLD), Complaint(KUBE, FROM_CONTAINER, "sick"))
    record = granted(granted_at=NOW - 2 * TIMING.crash_window_s, health=unwell, crashes=2)
    seen = absorb(record, KUBE_CONFIG, observed(kube(), label=ON), TIMING, NOW)
    assert (seen.crashes, seen.health.looping) == (2, TOLD)


def test_an_operator_s_word_ends_it_at_once() -> None:
    over = cleared(looped(3)[1])
    assert (over.failure, over.crashes, over.refuse_until) == ("", 0, 0.0)
    assert (over.health.ends, over.health.pods, over.health.looping) == ((), (), "")


def test_another_image_is_judged_by_itself() -> None:
    def of(image: str, started: str) -> Observation:
        return observed(local(), replace(kube(started=started), image_id=image), label=ON)

    now, record = looped(3)
    seen = absorb(record, FALLBACK, of("sha256:bad", "2026-03-01"), TIMING, now)
    assert seen.health.looping, "the image was not known before"
    unread = absorb(seen, FALLBACK, of("", "2026-03-02"), TIMING, now)
    assert unread.health.looping, "nor is it now"
    other = absorb(seen, FALLBACK, of("sha256:good", "2026-03-02"), TIMING, now)
    assert (other.health.ends, other.health.looping) == ((), "")
    assert other.failure, "until it has stayed up"
    stays = observed(replace(kube(), image_id="sha256:good"), label=ON)
    proven = absorb(
        with_grant(other, KUBE, now, by_row=False), FALLBACK, stays, TIMING, now + TIMING.kube_stable_s
    )
    assert (proven.failure, proven.crashes) == ("", 0)


def test_a_feature_that_is_local_again_has_no_crash_loop() -> None:
    record = replace(looped(3)[1], failure="")
    seen = absorb(record, LOCAL_CONFIG, observed(local()), TIMING, NOW + 999)
    assert (seen.health.looping, seen.crashes) == ("", 0)


@pytest.mark.parametrize(
    ("record", "config", "seen"),
    [
        (granted(asked=(KUBE, Cause.STOP)), KUBE_CONFIG, ENDED),
        (granted(asked=(KUBE, Cause.KILL)), KUBE_CONFIG, ENDED),
        (granted(system_state=SystemState.DOWN), KUBE_CONFIG, ENDED),
        (granted(), LOCAL_CONFIG, ENDED),
        (granted(rolled_back=True), KUBE_CONFIG, ENDED),
        (granted(), KUBE_CONFIG, replace(ENDED, leaving=True)),
    ],
    ids=["stopped", "killed", "down", "owner local", "rolled back", "leaving"],
)
def test_an_end_that_was_asked_for_does_not_count(
    record: Record, config: FeatureConfig, seen: Observation
) -> None:
    assert absorb(record, config, seen, TIMING, NOW).health.ends == ()


@pytest.mark.parametrize(
    ("ends", "how"),
    [
        (ENDED, "with exit code 3"),
        (observed(kube(running=False, code=137)), "with exit code 137"),
        (
            observed(replace(kube(running=False, code=137), oom_killed=True)),
            "with exit code 137 (out of memory)",
        ),
        (observed(replace(kube(running=False, code=1), oom_killed=True)), "with exit code 1"),
        (observed(), "with an unknown exit code"),
    ],
    ids=["by itself", "killed by the kubelet", "out of memory", "after a process of it was", "gone"],
)
def test_the_failure_names_the_last_exit(ends: Observation, how: str) -> None:
    record = looped(2, KUBE_CONFIG)[1]
    _, record = lived(record, NOW + 300, KUBE_CONFIG, ends=ends)
    assert record.failure == f"crash-looping: 3 ends within 15 min, the last one {how}"


def test_the_failure_names_the_complaint_for_which_the_last_one_was_ended() -> None:
    now, record = looped(2)
    said = Complaint(KUBE, FROM_CONTAINER, "port 161")
    unwell = with_grant(replace(record, health=complain(record.health, said)), KUBE, now, by_row=False)
    record = absorb(replace(unwell, asked=(KUBE, Cause.STOP)), FALLBACK, ENDED, TIMING, now + 5)
    assert record.health.looping == "3 ends within 15 min, the last one because it was unhealthy: port 161"


def test_complaints_and_containers_that_end_before_their_admission_count_alike() -> None:
    now, record = looped(1)
    said = Complaint(KUBE, FROM_CONTAINER, "port 161")
    unwell = with_grant(replace(record, health=complain(record.health, said)), KUBE, now, by_row=False)
    record = absorb(replace(unwell, asked=(KUBE, Cause.STOP)), FALLBACK, ENDED, TIMING, now + 5)
    assert (len(record.health.ends), record.health.sick, record.health.looping) == (2, 1, "")
    made_room = replace(record, mode=Mode.PENDING, local_due=False, local_id="", exit=None)
    assert record.exit is not None
    made_room = replace(made_room, exit=replace(record.exit, owner=Owner.LOCAL))
    record = absorb(made_room, FALLBACK, ENDED, TIMING, now + 9)
    assert record.health.looping == TOLD
    gone = absorb(made_room, FALLBACK, observed(local(running=False), label=ON), TIMING, now + 9)
    assert gone.health.looping.endswith("the last one with an unknown exit code")
    leaving = absorb(made_room, FALLBACK, replace(ENDED, leaving=True), TIMING, now + 9)
    assert len(leaving.health.ends) == 2


def test_without_a_local_container_the_wait_says_what_the_kubelet_does() -> None:
    now, record = looped(3, KUBE_CONFIG)
    assert record.failure == f"crash-looping: {TOLD}"
    waits = plan(KUBE_CONFIG, record, ENDED)
    assert waits.action is None
    said = "CrashLoopBackOff: the kubelet waits before it starts the kube container again"
    assert waits.why == f"{said} ({TOLD})"
    barred = plan(KUBE_CONFIG, record, replace(ENDED, no_deploy="the Node is not ready"))
    assert barred.why == "waiting for kube deployment, which is not possible: the Node is not ready"
    denied = plan(KUBE_CONFIG, record, replace(ENDED, label=replace(ON, refused="denied")))
    assert denied.why.startswith("waiting for kube deployment, blocked")
    runs = plan(FALLBACK, replace(record, mode=Mode.NONE), observed(local(), label=ON))
    assert runs.why == f"the local container runs; the kube one is in CrashLoopBackOff ({TOLD})"
    assert now > NOW


def test_ends_of_pods_that_are_replaced_are_not_called_pauses_of_the_kubelet() -> None:
    health = WELL
    for number in range(3):
        assert health.looping == ""
        health = see_end(health, "with exit code 0", TIMING, NOW + number, f"sonic/snmp-{number}")
    told = "3 ends within 15 min, each of another pod, the last one with exit code 0"
    assert health.looping == told
    _, record = looped(3, KUBE_CONFIG)
    record = replace(record, health=health)
    said = f"waiting for the next pod: those before were evicted or deleted ({told})"
    assert plan(KUBE_CONFIG, record, ENDED).why == said
    runs = plan(FALLBACK, replace(record, mode=Mode.NONE), observed(local(), label=ON))
    assert runs.why == f"the local container runs; its pods are evicted or deleted ({told})"
    again = see_end(health, "with exit code 0", TIMING, NOW + 4, "sonic/snmp-2")
    assert again.looping == "3 ends within 15 min, the last one with exit code 0"
    unknown = see_end(health, "with exit code 0", TIMING, NOW + 4)
    assert unknown.looping == "3 ends within 15 min, the last one with exit code 0"
    # The end itself tells its pod.
    ended = absorb(
        replace(up(grant=KUBE, granted_at=NOW), mode=Mode.READY),
        KUBE_CONFIG,
        observed(replace(kube(running=False), pod="sonic/snmp-7"), label=ON),
        TIMING,
        NOW + 1,
    )
    assert ended.health.pods == ("sonic/snmp-7",)


def test_a_failed_crash_loop_is_rolled_back_where_the_policy_says_so() -> None:
    policy = replace(KUBE_CONFIG, failure_policy=FailurePolicy.ROLLBACK)
    _, record = looped(3, policy)
    assert record.rolled_back
    assert record.failure == f"crash-looping: {TOLD}"


def test_no_more_than_three_ends_are_remembered() -> None:
    health = WELL
    for number in range(100):
        health = see_end(health, "with exit code 1", TIMING, NOW + 1000.0 * number)
    assert len(health.ends) == 3
    assert health.looping == ""
