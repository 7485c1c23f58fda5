"""Check what features do where Kubernetes cannot deploy, and while the switch leaves its master."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import Admit, EndContainer, Plan, SetMode, StartLocal
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.model import FeatureConfig, Mode
from kubesyncd.core.record import Cause, Exit, Record, returns_to_local
from kubesyncd.core.state import State
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    ON,
    TIMING,
    down,
    granted,
    kube,
    local,
    observed,
    plan,
    up,
)

NO_MASTER = "the master is disabled; run: config kube server disable off"
LEAVES = "this switch is leaving its master"
READY = up(mode=Mode.READY, idle_since=NOW)
STOPPED = local(running=False)


def test_where_kube_cannot_deploy_the_local_container_returns_at_once() -> None:
    waits = plan(FALLBACK, READY, observed(STOPPED, label=ON))
    assert (waits.action, waits.wake_at) == (None, NOW + TIMING.fallback_after_s)
    returns = plan(FALLBACK, READY, observed(STOPPED, no_deploy=NO_MASTER, joined=False))
    assert returns.action == SetMode(Mode.NONE)
    assert returns.why == "kube cannot deploy (the master is disabled): the local one returns"
    assert plan(
        FALLBACK, replace(READY, mode=Mode.NONE), observed(STOPPED, no_deploy=NO_MASTER, joined=False)
    ).action == (StartLocal(LOCAL))
    runs = plan(FALLBACK, up(local_id=LOCAL), observed(local(), no_deploy=NO_MASTER, joined=False))
    assert (runs.state, runs.action) == (State.LOCAL, None)
    assert runs.why == f"the local container runs; kube cannot deploy: {NO_MASTER}"


def test_without_fallback_the_reason_is_named_and_nothing_is_started() -> None:
    waits = plan(KUBE_CONFIG, READY, observed(STOPPED, no_deploy=NO_MASTER, joined=False))
    assert (waits.action, waits.wake_at) == (None, None)
    assert waits.why == f"waiting for kube deployment, which is not possible: {NO_MASTER}"


def test_a_container_that_waits_is_admitted_whatever_the_node_says() -> None:
    seen = observed(STOPPED, kube(), waiting=frozenset({KUBE}), no_deploy="the Node is not ready", label=ON)
    assert plan(FALLBACK, READY, seen).action == Admit(KUBE)


def test_a_reset_ends_a_kube_container_only_where_a_local_one_takes_over() -> None:
    seen = observed(STOPPED, kube(), no_deploy=LEAVES, leaving=True, joined=False)
    stops = plan(FALLBACK, granted(), seen)
    assert stops.action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)
    assert (
        stops.why == "this switch leaves its master: the kube container is stopped, the local one takes over"
    )
    assert plan(FALLBACK, granted(), replace(seen, stopping=frozenset({KUBE}))).action is None
    for config, containers in ((KUBE_CONFIG, (STOPPED, kube())), (FALLBACK, (kube(),))):
        stays = plan(config, granted(), replace(seen, containers=containers))
        assert (stays.state, stays.action) == (State.KUBE_RUNNING, None)
        assert stays.why == "this switch leaves its master: the kube container ends with it"
    failed = FailedAction(ActionKind.START_LOCAL, LOCAL, "no such program")
    assert plan(FALLBACK, granted(), replace(seen, failures=(failed,))).action is None


def test_no_kube_container_is_admitted_while_the_switch_leaves() -> None:
    """The kubelet starts the stopped container again: it waits, and the local one comes."""
    seen = observed(
        STOPPED, kube(KUBE2), waiting=frozenset({KUBE2}), no_deploy=LEAVES, leaving=True, joined=False
    )
    assert seen.waiter == ""
    record, done = up(mode=Mode.READY, exit=Exit(KUBE, KUBE_CONFIG.owner, 0, Cause.STOP)), []
    while (decided := plan(FALLBACK, record, seen)).action is not None and len(done) < 9:
        done.append(decided.action)
        record, seen = _after(record, decided), seen
        if isinstance(decided.action, StartLocal):
            seen = replace(seen, containers=(local(), kube(KUBE2)))
    assert done == [SetMode(Mode.NONE), StartLocal(LOCAL)]
    assert decided.state is State.LOCAL


def _after(record: Record, decided: Plan) -> Record:
    if isinstance(decided.action, SetMode):
        return replace(record, mode=decided.action.mode)
    return replace(record, local_id=LOCAL)


@pytest.mark.parametrize("mode", [Mode.PENDING, Mode.NONE])
def test_a_hand_over_that_has_begun_is_taken_back(mode: Mode) -> None:
    seen = observed(
        local(),
        kube(),
        waiting=frozenset({KUBE}),
        no_deploy=LEAVES,
        leaving=True,
        joined=False,
        reasking=True,
    )
    decided = plan(FALLBACK, up(mode=mode, local_id=LOCAL), seen)
    assert decided.action == (SetMode(Mode.NONE) if mode is Mode.PENDING else None)


@pytest.mark.parametrize(
    ("config", "record", "runs", "expected"),
    [
        (FALLBACK, granted(), False, True),
        (FALLBACK, READY, False, True),
        (FALLBACK, READY, True, False),
        (KUBE_CONFIG, granted(), False, False),
        (LOCAL_CONFIG, up(), False, False),
        (FALLBACK, down(), False, False),
    ],
)
def test_a_feature_returns_where_it_may_and_can(
    config: FeatureConfig, record: Record, runs: bool, expected: bool
) -> None:
    assert returns_to_local(config, record, observed(local(running=runs))) is expected
    assert not returns_to_local(config, record, observed())
