"""Check that a local container which another program starts while Kubernetes has the feature is ended, and told once.

SONiC's `update-containers NAME` and an operator's `docker start` do so.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import Admit, EndContainer, SetMode
from kubesyncd.core.asked_start import AskedStart
from kubesyncd.core.conditions import ALERTING, ConditionKind, conditions
from kubesyncd.core.model import FailurePolicy, FeatureConfig, Mode, Owner, Row
from kubesyncd.core.record import Cause, Record
from kubesyncd.core.state import State
from kubesyncd.core.unasked_start import SHOWN_S, UnaskedStart, shown_until, unasked_runs, watch_unasked
from kubesyncd.core.verbs import Start, accept, wait_code
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    ON,
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

ONLY_KUBE = FeatureConfig(set_owner=Owner.KUBE)
STOP = EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
STARTED = UnaskedStart(LOCAL, NOW)


def waits(**more: object) -> Record:
    """A feature that waits for its deployment."""
    return up(mode=Mode.READY, **more)


def told(config: FeatureConfig, record: Record, *containers: object, now: float = NOW) -> str:
    record, seen = look(config, record, observed(*containers, label=ON), now)
    found = {c.kind: c.text for c in conditions("snmp", record, seen, TIMING, now)}
    return found.get(ConditionKind.UNASKED_START, "")


def test_while_only_kubernetes_may_run_it_it_is_stopped() -> None:
    made = plan(ONLY_KUBE, waits(), observed(local(), label=ON))
    assert (made.action, "started by another program, is stopped" in made.why) == (STOP, True)
    ending = plan(ONLY_KUBE, waits(), observed(local(), label=ON, stopping=frozenset({LOCAL})))
    assert (ending.action, "waiting for the local container to end" in ending.why) == (None, True)


def test_a_kube_container_that_waits_is_admitted_once_it_has_ended() -> None:
    waiting = observed(local(), kube(), label=ON, waiting=frozenset({KUBE}))
    record, seen = look(ONLY_KUBE, waits(), waiting)
    assert plan(ONLY_KUBE, record, seen).action == STOP
    ended = replace(waiting, containers=(local(running=False), kube()))
    record = replace(record, asked=(LOCAL, Cause.STOP))
    assert plan(ONLY_KUBE, record, ended).action == Admit(KUBE)


def test_its_end_restarts_no_unit_and_ends_no_wait() -> None:
    record, seen = look(ONLY_KUBE, waits(), observed(local(), label=ON))
    assert wait_code(ONLY_KUBE, record, seen, TIMING, NOW) is None
    for asked in ((LOCAL, Cause.STOP), None):
        record, seen = look(
            ONLY_KUBE, replace(record, asked=asked), observed(local(running=False), label=ON), NOW
        )
        assert plan(ONLY_KUBE, record, seen).state is State.KUBE_READY
        assert wait_code(ONLY_KUBE, record, seen, TIMING, NOW) is None


def test_a_restart_of_the_daemon_in_between_changes_nothing() -> None:
    record, _ = look(ONLY_KUBE, waits(), observed(local(), label=ON))
    assert (record.unasked, record.local_id) == (STARTED, LOCAL)
    assert plan(ONLY_KUBE, record, observed(local(), label=ON, reasking=True), NOW + 9).action == STOP


@pytest.mark.parametrize(
    ("config", "record"),
    [
        (FALLBACK, waits()),
        (ONLY_KUBE, waits(boot_fallback=True)),
        (ONLY_KUBE, waits(local_back=True)),
        (
            replace(ONLY_KUBE, failure_minutes=5, failure_policy=FailurePolicy.SWITCH_TO_LOCAL),
            waits(failure="none has run"),
        ),
    ],
    ids=["fallback", "after a prepared reboot", "made room in vain", "failed"],
)
def test_where_local_is_wanted_the_only_service_is_kept(config: FeatureConfig, record: Record) -> None:
    record, seen = look(config, record, observed(local(), label=ON))
    assert record.unasked is None
    assert plan(config, record, seen).action == SetMode(Mode.NONE)


def test_a_start_that_was_asked_for_is_kept() -> None:
    """Docker may carry it out late: the fallback is off by then."""
    for record in (waits(start=AskedStart(LOCAL, "before", NOW)), waits(local_id=LOCAL)):
        record, seen = look(ONLY_KUBE, record, observed(local(), label=ON))
        assert record.unasked is None
        assert plan(ONLY_KUBE, record, seen).action == SetMode(Mode.NONE)
    other = waits(start=AskedStart("f00d" * 16, "before", NOW))
    assert look(ONLY_KUBE, other, observed(local(), label=ON))[0].unasked == STARTED


def test_a_start_before_the_unit_s_or_while_it_is_local_is_kept() -> None:
    for record in (down(), up(), up(mode=Mode.PENDING)):
        assert look(ONLY_KUBE, record, observed(local(), label=ON))[0].unasked is None
    assert look(LOCAL_CONFIG, waits(), observed(local()))[0].unasked is None
    seen = observed(local(), label=ON, row=Row())
    started = accept(Start(), ONLY_KUBE, look(ONLY_KUBE, down(), seen)[0], seen)
    assert isinstance(started, Record)
    after = look(ONLY_KUBE, started, observed(local(), label=ON))
    assert after[0].unasked is None
    assert plan(ONLY_KUBE, *after).action is None


def test_it_is_kept_once_it_is_wanted() -> None:
    record, seen = look(ONLY_KUBE, waits(), observed(local(), label=ON))
    assert plan(FALLBACK, record, seen).action == SetMode(Mode.NONE)
    record, seen = look(FALLBACK, replace(record, mode=Mode.NONE), seen)
    assert record.unasked is None
    assert plan(ONLY_KUBE, record, seen).action is None, (
        "the fallback has ended since: as any other one, it stays"
    )


def test_it_is_kept_where_the_same_observation_gives_kubernetes_up() -> None:
    rollback = replace(ONLY_KUBE, failure_policy=FailurePolicy.ROLLBACK)
    record, seen = look(
        rollback, waits(failure="no kube container has run for 1 min"), observed(local(), label=ON)
    )
    assert (record.rolled_back, record.unasked) == (True, None)
    assert not isinstance(plan(rollback, record, seen).action, EndContainer)


def test_beside_an_admitted_container_it_is_stopped_and_told() -> None:
    record, seen = look(FALLBACK, granted(), observed(local(), kube(), label=ON))
    assert plan(FALLBACK, record, seen).action == STOP
    assert "although Kubernetes runs the feature: it is stopped" in told(FALLBACK, granted(), local(), kube())
    assert look(LOCAL_CONFIG, granted(), observed(local(), kube()))[0].unasked is None


def test_one_alert_names_the_likely_callers_and_lasts_over_more_such_starts() -> None:
    assert ConditionKind.UNASKED_START in ALERTING
    text = told(ONLY_KUBE, waits(), local())
    assert (
        f"started the local container {LOCAL[:12]} although only Kubernetes may run it: it is stopped" in text
    )
    assert "`update-containers snmp`" in text
    assert "`docker start` of an operator" in text
    assert text.endswith("to run it locally: kubesync config feature snmp owner local")
    record = look(ONLY_KUBE, waits(), observed(local(), label=ON))[0]
    ended = local(running=False)
    assert "may run it: it was stopped" in told(ONLY_KUBE, record, ended, now=NOW + 1)
    record = look(ONLY_KUBE, record, observed(ended, label=ON), NOW + 1)[0]
    assert plan(ONLY_KUBE, record, observed(ended, label=ON), NOW + 1).wake_at == NOW + SHOWN_S
    again = look(ONLY_KUBE, record, observed(local(), label=ON), NOW + 100)[0]
    assert again.unasked == UnaskedStart(LOCAL, NOW + 100)
    assert told(ONLY_KUBE, replace(again, local_id=""), ended, now=NOW + SHOWN_S + 99)
    assert not told(ONLY_KUBE, again, ended, now=NOW + SHOWN_S + 100)
    assert not told(LOCAL_CONFIG, record, local())


def test_one_that_runs_on_is_shown_however_long_it_takes() -> None:
    assert look(ONLY_KUBE, waits(unasked=STARTED, local_id=LOCAL), observed(local(), label=ON), NOW + 9999)[
        0
    ].unasked
    assert unasked_runs(STARTED, observed(local()))
    assert not unasked_runs(STARTED, observed(local(running=False)))
    assert not unasked_runs(None, observed())
    assert (shown_until(None), shown_until(STARTED)) == (None, NOW + SHOWN_S)


def test_it_is_shown_for_an_hour_whatever_the_unit_does_meanwhile() -> None:
    assert SHOWN_S == 3600.0
    ended = observed(local(running=False), label=ON)
    for record in (down(unasked=STARTED), up(unasked=STARTED), waits(unasked=STARTED)):
        assert look(ONLY_KUBE, record, ended, NOW + 1)[0].unasked == STARTED


def test_a_later_start_that_was_asked_for_is_none_of_them() -> None:
    asked = waits(unasked=STARTED, start=AskedStart(LOCAL, "before", NOW + 1))
    record, seen = look(ONLY_KUBE, asked, observed(local(), label=ON), NOW + 1)
    assert record.unasked is None
    assert plan(ONLY_KUBE, record, seen, NOW + 1).action == SetMode(Mode.NONE)
    assert look(FALLBACK, waits(unasked=STARTED), observed(local(), label=ON), NOW + 1)[0].unasked is None


def test_a_restart_policy_has_its_own_condition() -> None:
    policy = local(restart_policy="always")
    assert not told(ONLY_KUBE, waits(), policy)
    record, seen = look(ONLY_KUBE, waits(), observed(policy, label=ON))
    found = {c.kind: c.text for c in conditions("snmp", record, seen, TIMING, NOW)}
    assert "although only Kubernetes may run it: it is stopped" in found[ConditionKind.BY_POLICY]


@pytest.mark.parametrize("known", ["", LOCAL])
@pytest.mark.parametrize("barred", [False, True])
def test_only_a_start_that_is_new_and_barred_counts(known: str, barred: bool) -> None:
    found = watch_unasked(None, observed(local()), known=known, asked=None, barred=barred, now=NOW)
    assert found == (STARTED if barred and not known else None)
