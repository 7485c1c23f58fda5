"""Check that a docker start counts as one that may still be carried out until its outcome is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Admit, EndContainer, SetMode, StartLocal
from kubesyncd.core.asked_start import (
    OUTSTANDING_S,
    AskedStart,
    asked_start,
    start_deadline,
    still_asked,
)
from kubesyncd.core.feature_label import label_missing
from kubesyncd.core.model import KubeLabel, LabelView, Mode
from kubesyncd.core.record import Cause, Record, StopStyle
from kubesyncd.core.verbs import given_up
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
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

STOPPED = local(running=False)
ASKED = asked_start(LOCAL, STOPPED, NOW)
WAITS = observed(STOPPED, kube(), waiting=frozenset({KUBE}), label=ON)


def test_the_mark_names_the_containers_last_start_where_docker_describes_it() -> None:
    assert AskedStart(LOCAL, "2026-01-01", NOW) == ASKED
    assert asked_start(LOCAL, replace(STOPPED, unread="no answer"), NOW).started is None
    assert asked_start(LOCAL, None, NOW).started is None


@pytest.mark.parametrize(
    ("containers", "later_s", "kept"),
    [
        ((STOPPED,), 0.0, True),
        ((STOPPED,), OUTSTANDING_S - 1, True),
        ((STOPPED,), OUTSTANDING_S, False),
        ((replace(STOPPED, unread="no answer"),), 10 * OUTSTANDING_S, True),
        ((local(),), 0.0, False),
        ((replace(STOPPED, started="2026-01-03"),), 0.0, False),
        ((replace(STOPPED, gone=True),), 0.0, False),
        ((), 0.0, False),
    ],
)
def test_it_is_kept_until_the_outcome_is_known(containers: tuple, later_s: float, kept: bool) -> None:  # type: ignore[type-arg]
    assert (still_asked(ASKED, observed(*containers), NOW + later_s) == ASKED) is kept
    record = absorb(up(start=ASKED), KUBE_CONFIG, observed(*containers), TIMING, NOW + later_s)
    assert record.start == (ASKED if kept else None)


def test_without_its_last_start_only_time_ends_it() -> None:
    asked = replace(ASKED, started=None)
    assert still_asked(asked, observed(replace(STOPPED, started="2026-01-03")), NOW) == asked
    assert still_asked(asked, observed(STOPPED), NOW + OUTSTANDING_S) is None
    assert still_asked(None, observed(STOPPED), NOW) is None


def test_it_outlasts_a_start_that_the_daemon_itself_waits_for() -> None:
    seen = observed(STOPPED, starting=frozenset({LOCAL}))
    assert still_asked(ASKED, seen, NOW + OUTSTANDING_S) == ASKED


@pytest.mark.parametrize("mode", [Mode.READY, Mode.PENDING])
def test_no_kube_container_is_admitted_meanwhile(mode: Mode) -> None:
    held = plan(KUBE_CONFIG, up(mode=mode, start=ASKED), WAITS)
    assert (held.action, held.wake_at) == (None, NOW + OUTSTANDING_S)
    assert "may still do so" in held.why
    assert plan(KUBE_CONFIG, up(mode=mode, start=ASKED), WAITS, NOW + OUTSTANDING_S).action == Admit(KUBE)
    assert plan(KUBE_CONFIG, up(mode=mode), WAITS).action == Admit(KUBE)


def test_it_holds_nothing_else() -> None:
    assert plan(LOCAL_CONFIG, up(start=ASKED), observed(STOPPED)).action == StartLocal(LOCAL)
    assert plan(FALLBACK, up(start=ASKED), WAITS).action == StartLocal(LOCAL)
    assert plan(KUBE_CONFIG, up(start=ASKED), observed(STOPPED, label=ON)).action == SetMode(Mode.READY)
    assert start_deadline(None) is None
    assert start_deadline(ASKED) == NOW + OUTSTANDING_S


def test_what_it_still_starts_after_a_stop_is_ended() -> None:
    record, facts = look(LOCAL_CONFIG, down(ending=True, start=ASKED), observed(STOPPED))
    assert record.ending
    decided = plan(LOCAL_CONFIG, record, facts)
    assert decided.action is None
    assert "what it still starts is ended" in decided.why
    assert isinstance(plan(LOCAL_CONFIG, record, observed(local())).action, EndContainer)
    after = absorb(record, LOCAL_CONFIG, observed(STOPPED), TIMING, NOW + OUTSTANDING_S)
    assert (after.ending, after.start) == (False, None)
    quiet = plan(LOCAL_CONFIG, down(start=ASKED), observed(STOPPED))
    assert quiet.why == "the unit is down; nothing runs"


def test_a_hurried_kill_does_not_leave_the_label_on_for_it() -> None:
    hurried = StopStyle(signal="KILL", kubelet_check=False)

    def missing(record: Record, *containers: object) -> KubeLabel | None:
        return label_missing(KUBE_CONFIG, record, observed(*containers, label=LabelView(KubeLabel.ON)))  # type: ignore[arg-type]

    ends = down(ending=True, style=hurried, start=ASKED)
    assert missing(ends, STOPPED) is KubeLabel.OFF
    assert missing(ends, local()) is None, "it is requested once the container has ended"
    assert missing(replace(ends, grant=KUBE), kube()) is None


def test_what_it_still_starts_after_the_start_was_given_up_is_ended() -> None:
    record = given_up(up(start=ASKED))
    assert record.ending
    record, facts = look(LOCAL_CONFIG, record, observed(STOPPED))
    assert "what it still starts is ended" in plan(LOCAL_CONFIG, record, facts).why
    late = observed(replace(local(), started="2026-01-03"))
    assert plan(LOCAL_CONFIG, record, late).action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    never = absorb(record, LOCAL_CONFIG, observed(STOPPED), TIMING, NOW + OUTSTANDING_S)
    assert not never.ending, "what an operator starts from then on is left alone"
    assert not given_up(up()).ending
