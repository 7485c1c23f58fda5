"""Check that local stays, or returns at once, where the admission that it made room for cannot be stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Admit, EndContainer, SetMode, StartLocal
from kubesyncd.core.failed_action import FailedAction, kind_of
from kubesyncd.core.model import FeatureConfig, Mode, Owner
from kubesyncd.core.record import Cause, Exit, Record, local_wanted, with_grant, with_mode
from kubesyncd.core.verbs import wait_code
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE_CONFIG,
    LOCAL,
    NOW,
    ON,
    TIMING,
    down,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

REFUSED = FailedAction(*kind_of(Admit(KUBE)), "no space left on device", at=NOW, again_at=NOW + 5.0)
NOT_PENDING = replace(REFUSED, target=Mode.PENDING.value)
STOPPED = local(running=False)
NOTHING = observed(STOPPED, kube(), waiting=frozenset({KUBE}), label=ON, failures=(REFUSED,))
BESIDE = observed(local(), kube(), waiting=frozenset({KUBE}), label=ON, failures=(REFUSED,))
PENDING = up(mode=Mode.PENDING, local_id=LOCAL, asked=(LOCAL, Cause.STOP))


@pytest.mark.parametrize("config", [KUBE_CONFIG, FALLBACK], ids=["no fallback", "fallback"])
@pytest.mark.parametrize("pending", [PENDING, up(mode=Mode.PENDING)], ids=["stopped", "crashed before"])
def test_local_returns_at_once_after_it_has_made_room(config: FeatureConfig, pending: Record) -> None:
    record, seen = look(config, pending, NOTHING)
    assert plan(config, record, seen).action == SetMode(Mode.READY)
    ready = with_mode(record, Mode.READY)
    back = plan(config, ready, NOTHING)
    assert back.action == SetMode(Mode.NONE)
    assert "cannot be admitted (no space left on device): the local one returns" in back.why
    started = plan(config, with_mode(ready, Mode.NONE), NOTHING)
    assert started.action == StartLocal(LOCAL)
    forgotten = replace(NOTHING, failures=())
    assert plan(config, with_mode(ready, Mode.NONE), forgotten).action == StartLocal(LOCAL)
    assert (
        "could not be admitted: the local one returns"
        in plan(config, ready, replace(forgotten, waiting=frozenset())).why
    )


@pytest.mark.parametrize("config", [KUBE_CONFIG, FALLBACK], ids=["no fallback", "fallback"])
def test_the_next_hand_over_waits_longer_after_each_refusal(config: FeatureConfig) -> None:
    for count, delay in ((1, TIMING.handover_delay_s), (3, 4 * TIMING.handover_delay_s)):
        seen = replace(NOTHING, failures=(replace(REFUSED, count=count),))
        record = absorb(PENDING, config, seen, TIMING, NOW)
        assert (record.local_back, record.refuse_until) == (True, NOW + delay)
        assert absorb(record, config, seen, TIMING, NOW) == record
        runs = absorb(with_mode(record, Mode.NONE), config, BESIDE, TIMING, NOW + 1.0)
        assert not runs.local_back
        waits = plan(config, runs, replace(BESIDE, failures=()), NOW + 1.0)
        assert (waits.action, waits.wake_at) == (None, NOW + delay)
        assert (
            waits.why == "the kube container waits, but it could not be admitted: the local one stays for now"
        )
        assert plan(config, runs, BESIDE, NOW + delay).action == SetMode(Mode.PENDING)


def test_what_never_ran_locally_waits_without_fallback_and_falls_back_with_it() -> None:
    ready = up(mode=Mode.READY)
    waits = plan(KUBE_CONFIG, ready, NOTHING)
    assert (waits.action, waits.wake_at) == (None, NOW + 5.0)
    assert "waits and cannot be admitted" in waits.why
    assert plan(FALLBACK, ready, NOTHING).action == SetMode(Mode.NONE)
    none = replace(NOTHING, containers=(kube(),))
    assert plan(FALLBACK, ready, none).action is None, "its unit is not restarted for it"
    assert not look(KUBE_CONFIG, up(mode=Mode.PENDING), none)[0].local_back


def test_it_is_over_once_it_runs_is_admitted_or_down() -> None:
    back = up(mode=Mode.READY, local_back=True)
    assert local_wanted(KUBE_CONFIG, back)
    assert not with_grant(back, KUBE, NOW, by_row=False).local_back
    for record, seen in ((back, BESIDE), (down(local_back=True), NOTHING)):
        assert not look(KUBE_CONFIG, record, seen)[0].local_back
    assert look(KUBE_CONFIG, back, NOTHING)[0].local_back
    assert plan(KUBE_CONFIG, back, NOTHING, NOW + 5.0).action == Admit(KUBE), "it may be tried before"


def test_an_older_refusal_counts_no_hand_over_that_ended_early() -> None:
    late = replace(PENDING, refuse_until=NOW + 10_000.0)
    assert look(KUBE_CONFIG, late, NOTHING)[0].refuse_until == NOW + 10_000.0
    assert look(KUBE_CONFIG, PENDING, NOTHING)[0].crashes == 0


@pytest.mark.parametrize("failed", [REFUSED, NOT_PENDING], ids=["grant", "mode"])
def test_a_crashed_local_container_is_not_left_to_a_kube_one_that_cannot_take_over(
    failed: FailedAction,
) -> None:
    crashed = up(exit=Exit(LOCAL, Owner.LOCAL, 3, Cause.ITSELF))
    for failures, code in (((failed,), 3), ((), None)):
        record, seen = look(FALLBACK, crashed, replace(NOTHING, failures=failures))
        assert wait_code(FALLBACK, record, seen, TIMING, NOW) == code


@pytest.mark.parametrize("failed", [REFUSED, NOT_PENDING], ids=["grant", "mode"])
def test_wait_and_plan_agree_on_whether_a_kube_container_takes_over(failed: FailedAction) -> None:
    """A failure is remembered for longer than it keeps the container out."""
    seen = replace(NOTHING, failures=(failed,))
    record, _ = look(
        FALLBACK, up(local_id=LOCAL), replace(seen, containers=(local(running=False, code=3), kube()))
    )
    for now, code, action in ((NOW, 3, None), (failed.again_at, None, SetMode(Mode.PENDING))):
        record, told = look(FALLBACK, record, seen, now)
        assert wait_code(FALLBACK, record, told, TIMING, now) == code
        made = plan(FALLBACK, record, seen, now)
        assert made.action == action
        assert action or made.wake_at == failed.again_at
    pending = with_mode(record, Mode.PENDING)
    assert plan(FALLBACK, pending, seen, failed.again_at).action == Admit(KUBE)
    assert not look(FALLBACK, pending, seen, failed.again_at)[0].local_back, (
        "only a refusal of this hand-over counts"
    )


def test_local_runs_beside_a_refused_one_until_the_hand_over_can_be_stored() -> None:
    seen = replace(BESIDE, failures=(NOT_PENDING,))
    held = plan(FALLBACK, up(), seen)
    assert (held.action, held.wake_at) == (None, NOW + 5.0)
    assert "no space left on device" in held.why
    assert plan(FALLBACK, up(), seen, NOW + 5.0).action == SetMode(Mode.PENDING)
    made = plan(FALLBACK, PENDING, replace(BESIDE, failures=()))
    assert made.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
