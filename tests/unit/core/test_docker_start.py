"""Check what is planned and answered while a docker start is under way, or was not answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import EndContainer, SetMode, StartLocal
from kubesyncd.core.asked_start import OUTSTANDING_S
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.model import Container, Mode
from kubesyncd.core.record import Cause
from kubesyncd.core.verbs import DONE, Start, Stop, outcome, wait_code
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    TIMING,
    down,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

STOPPED = local(running=False)
SECRET = replace(STOPPED, unread="no answer within 10 s")
UNDER_WAY = frozenset({LOCAL})
UNANSWERED = FailedAction(ActionKind.START_LOCAL, LOCAL, "no answer within 60 s", at=NOW, again_at=NOW + 5)
OLD = replace(UNANSWERED, at=NOW - OUTSTANDING_S)


def test_nothing_else_is_planned_while_a_docker_start_is_under_way() -> None:
    for container, seen in ((STOPPED, UNDER_WAY), (local(paused=True), UNDER_WAY)):
        for config in (LOCAL_CONFIG, FALLBACK):
            facts = observed(container, kube(), waiting=frozenset({KUBE}), starting=seen)
            decided = plan(config, up(unpause=container.paused), facts)
            assert decided.action is None
            assert "docker start is under way" in decided.why
    assert plan(LOCAL_CONFIG, up(), observed(STOPPED)).action == StartLocal(LOCAL)


def test_a_feature_that_goes_down_during_a_docker_start_ends_what_it_starts() -> None:
    begun = observed(STOPPED, starting=UNDER_WAY)
    record, facts = look(LOCAL_CONFIG, down(ending=True), begun)
    assert record.ending
    decided = plan(LOCAL_CONFIG, record, facts)
    assert decided.action is None
    assert "what it starts is ended" in decided.why
    assert outcome(Stop(), LOCAL_CONFIG, record, facts) is None
    assert wait_code(LOCAL_CONFIG, record, facts, TIMING, NOW, 0.0) is None
    ends = plan(LOCAL_CONFIG, record, observed(local()))
    assert isinstance(ends.action, EndContainer)
    record, facts = look(LOCAL_CONFIG, record, observed(STOPPED))
    assert not record.ending
    assert outcome(Stop(), LOCAL_CONFIG, record, facts) is DONE


def test_a_start_is_answered_and_a_wait_ends_only_after_the_docker_start_under_way() -> None:
    record, facts = look(LOCAL_CONFIG, up(), observed(STOPPED, starting=UNDER_WAY))
    assert outcome(Start(), LOCAL_CONFIG, record, facts) is None
    assert wait_code(LOCAL_CONFIG, record, facts, TIMING, NOW, 0.0) is None
    record, facts = look(LOCAL_CONFIG, up(), observed(STOPPED))
    assert wait_code(LOCAL_CONFIG, record, facts, TIMING, NOW, 0.0) == 1


@pytest.mark.parametrize(
    ("container", "failures", "kept"),
    [
        (STOPPED, (UNANSWERED,), True),
        (STOPPED, (replace(OLD, at=OLD.at + 1),), True),
        (STOPPED, (OLD,), False),
        (SECRET, (), True),
        (SECRET, (OLD,), True),
        (STOPPED, (), False),
        (STOPPED, (replace(UNANSWERED, refused=True),), False),
        (STOPPED, (replace(UNANSWERED, target=KUBE),), False),
        (None, (UNANSWERED,), False),
    ],
)
def test_a_stop_outlasts_a_docker_start_that_was_not_answered(
    container: Container | None, failures: tuple[FailedAction, ...], kept: bool
) -> None:
    containers = () if container is None else (container,)
    facts = observed(*containers, failures=failures)
    record = absorb(down(ending=True), LOCAL_CONFIG, facts, TIMING, NOW)
    assert record.ending is kept
    assert isinstance(plan(LOCAL_CONFIG, record, observed(local())).action, EndContainer) is kept


def test_only_a_container_that_does_not_run_may_still_be_started() -> None:
    unpaused = observed(local(unread="no answer within 10 s"), starting=UNDER_WAY, failures=(UNANSWERED,))
    assert (unpaused.local_starting, unpaused.local_may_start) == (False, False), "an unpause is no start"
    gone = observed(starting=UNDER_WAY, failures=(UNANSWERED,))
    assert (gone.local_starting, gone.local_may_start, gone.start_unanswered) == (False, False, None)
    begun = observed(STOPPED, starting=UNDER_WAY)
    assert (begun.local_starting, begun.local_may_start) == (True, True)


def test_no_kube_container_is_admitted_while_docker_may_still_start_the_local_one() -> None:
    more = {"waiting": frozenset({KUBE}), "failures": (UNANSWERED,)}
    decided = plan(FALLBACK, up(), observed(SECRET, kube(), **more))
    assert (decided.action, decided.wake_at) == (None, NOW + 5)
    assert plan(FALLBACK, up(), observed(STOPPED, kube(), **more)).action == SetMode(Mode.READY)
    more["failures"] = (replace(UNANSWERED, refused=True),)
    refused = plan(FALLBACK, up(), observed(SECRET, kube(), **more))
    assert refused.action == SetMode(Mode.READY), "what Docker has refused it does not carry out later"
    assert plan(FALLBACK, up(), observed(STOPPED, kube(), waiting=frozenset({KUBE}))).action == StartLocal(
        LOCAL
    )


def test_a_local_container_that_takes_long_to_end_delays_no_kube_container_s_end() -> None:
    record = down(ending=True)
    facts = observed(local(), kube(), joined=False)
    first = plan(LOCAL_CONFIG, record, facts).action
    assert first == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    second = plan(LOCAL_CONFIG, record, replace(facts, stopping=UNDER_WAY)).action
    assert isinstance(second, EndContainer)
    assert second.container_id == KUBE
