"""Check that a local container which Docker starts by its restart policy changes nothing: down stays down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import EndContainer
from kubesyncd.core.conditions import ALERTING, ConditionKind, conditions
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.model import Container, Mode
from kubesyncd.core.record import Cause, Record, StopStyle
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
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
    look,
    observed,
    plan,
    up,
)

FIX = "run: docker update --restart=no snmp"


def by_docker(policy: str = "always", **more: object) -> Container:
    """A local container that Docker has started with itself."""
    return local(restart_policy=policy, by_policy=True, **more)


def told(record: Record, *containers: Container) -> dict[ConditionKind, str]:
    record, seen = look(LOCAL_CONFIG, record, observed(*containers))
    return {c.kind: c.text for c in conditions("snmp", record, seen, TIMING, NOW)}


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
def test_down_stays_down_when_docker_starts_the_local_container(policy: str) -> None:
    made = plan(LOCAL_CONFIG, down(style=StopStyle(signal="KILL")), observed(by_docker(policy)))
    assert made.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s), "whatever ended it before"
    assert f"by its restart policy {policy}" in made.why
    assert "manually" not in made.why
    ending = plan(LOCAL_CONFIG, down(), observed(by_docker(policy), stopping=frozenset({LOCAL})))
    assert (ending.action, "it is being stopped" in ending.why) == (None, True)


def test_a_stop_that_fails_is_tried_again_and_keeps_no_kube_container_running() -> None:
    failed = FailedAction(ActionKind.STOP, LOCAL, "no answer", again_at=NOW + 5.0)
    seen = observed(by_docker(), failures=(failed,))
    assert (plan(LOCAL_CONFIG, down(), seen).action, plan(LOCAL_CONFIG, down(), seen).wake_at) == (
        None,
        NOW + 5.0,
    )
    again = plan(LOCAL_CONFIG, down(), seen, NOW + 5.0)
    assert again.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    both = replace(seen, containers=(by_docker(), kube()), joined=False)
    assert plan(LOCAL_CONFIG, down(), both).action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)


def test_one_that_an_operator_has_started_is_left_alone() -> None:
    made = plan(LOCAL_CONFIG, down(), observed(local()))
    assert (made.action, made.why) == (
        None,
        "the unit is down; the local container was started manually and keeps running",
    )
    made = plan(LOCAL_CONFIG, down(), observed(local(restart_policy="always")))
    assert made.action is None
    assert made.why.endswith("was started manually, or by Docker, for it has the restart policy always")
    assert plan(LOCAL_CONFIG, Record(), observed(by_docker())).action is None, "its unit has not spoken yet"


def test_beside_a_kube_container_it_is_stopped_at_once() -> None:
    made = plan(FALLBACK, granted(), observed(by_docker(), kube(), label=ON))
    assert made.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    assert "Docker has started the local container by its restart policy always, which is stopped" in made.why
    waits = observed(by_docker(), kube(), label=ON, waiting=frozenset({KUBE}))
    made = plan(FALLBACK, up(mode=Mode.PENDING), waits)
    assert made.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s), "it makes room first"


def test_where_the_feature_is_up_and_local_nothing_happens() -> None:
    assert plan(LOCAL_CONFIG, up(), observed(by_docker(), label=OFF)).action is None
    assert set(told(up(), by_docker())) == {ConditionKind.RESTART_POLICY}


@pytest.mark.parametrize(
    ("policy", "when"),
    [
        ("always", "whenever Docker itself starts"),
        ("unless-stopped", "when Docker itself starts and has ended it before"),
        ("on-failure", "after such an end, also after a stop"),
        ("another", "by itself when it ends;"),
    ],
)
def test_the_policy_is_named_with_its_fix_while_nothing_is_wrong_yet(policy: str, when: str) -> None:
    (kind,) = found = told(up(), local(restart_policy=policy))
    assert kind is ConditionKind.RESTART_POLICY
    assert kind not in ALERTING
    text = found[kind]
    assert text.startswith(
        f"the local container {LOCAL[:12]} has the restart policy {policy}: Docker starts it"
    )
    assert when in text
    assert text.endswith(FIX)
    assert set(told(down(), local(running=False, restart_policy=policy))) == {kind}
    assert told(up(), local(), kube(restart_policy="always")) == {}
    assert told(up(), local(running=False, gone=True, restart_policy=policy)) == {}


def test_a_start_by_docker_is_one_alert_that_names_the_policy_and_what_forbids_it() -> None:
    assert ConditionKind.BY_POLICY in ALERTING
    text = told(down(), by_docker())[ConditionKind.BY_POLICY]
    assert "by its restart policy always, although its unit is down: it is stopped" in text
    assert text.endswith(FIX)
    text = told(granted(), by_docker(), kube())[ConditionKind.BY_POLICY]
    assert text.startswith("Docker has started")
    assert "although Kubernetes runs the feature: it is stopped" in text
    # It is stopped at once, perhaps before Docker's events tell who has started it.
    text = told(granted(), replace(by_docker(), by_policy=False), kube())[ConditionKind.BY_POLICY]
    assert "was started by hand, or by Docker by its restart policy always, although Kubernetes runs" in text
    stopping = plan(LOCAL_CONFIG, down(ending=True), observed(by_docker()))
    assert stopping.why.startswith("the unit is down: container"), "one that it had started rightly"
    assert set(told(down(ending=True), by_docker())) == {ConditionKind.RESTART_POLICY}
    for record, box in ((down(), local(restart_policy="always")), (granted(), by_docker(running=False))):
        assert ConditionKind.BY_POLICY not in told(record, box, kube())
