"""Check that a plan names the reason that an operator can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.actions import SetMode
from kubesyncd.core.health import Health
from kubesyncd.core.model import Mode
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    NO_IMAGE,
    NOW,
    ON,
    ROLLBACK,
    TIMING,
    granted,
    kube,
    local,
    observed,
    plan,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.record import Record

LOOPING = Health(looping="3 ends within 15 min")
NO_NODE = "the Node does not exist; see: kubesync doctor"
LONG_IDLE = NOW - TIMING.fallback_after_s


@pytest.mark.parametrize(
    ("record", "no_deploy", "why"),
    [
        (
            up(local_due=True, health=LOOPING),
            NO_NODE,
            "the kube container is crash-looping (3 ends within 15 min)",
        ),
        (up(local_due=True), NO_NODE, "the kube container did not stay up"),
        (up(failure="port 161 is closed", health=LOOPING), NO_NODE, "port 161 is closed"),
        (up(), NO_NODE, "kube cannot deploy (the Node does not exist)"),
        (up(idle_since=LONG_IDLE), "", "kube has not deployed in time"),
    ],
    ids=["loops", "ended early", "failed", "cannot deploy", "too late"],
)
def test_a_fallback_names_what_happened_last(record: Record, no_deploy: str, why: str) -> None:
    waits = up(
        mode=Mode.READY,
        local_due=record.local_due,
        health=record.health,
        failure=record.failure,
        idle_since=record.idle_since,
    )
    made = plan(FALLBACK, waits, observed(local(running=False), label=ON, no_deploy=no_deploy))
    assert made.action == SetMode(Mode.NONE)
    assert made.why == (why if record.failure else f"{why}: the local one returns")


def test_a_local_container_of_a_kube_feature_says_why_kube_cannot_deploy() -> None:
    made = plan(FALLBACK, up(health=LOOPING), observed(local(), label=ON, no_deploy=NO_NODE))
    assert made.why == f"the local container runs; kube cannot deploy: {NO_NODE}"


@pytest.mark.parametrize(
    ("crashes", "sick", "why"),
    [
        (2, 1, "it is crash-looping (3 ends within 15 min)"),
        (0, 1, "it was unhealthy once"),
        (0, 3, "it was unhealthy 3 times in a row"),
    ],
)
def test_a_kube_container_that_was_unhealthy_is_not_called_crash_looping(
    crashes: int, sick: int, why: str
) -> None:
    health = Health(looping=LOOPING.looping, sick=sick)
    record = up(health=health, crashes=crashes, refuse_until=NOW + 9.0)
    made = plan(FALLBACK, record, observed(local(), kube(), waiting=frozenset({KUBE}), label=ON))
    assert (made.action, made.wake_at) == (None, NOW + 9.0)
    assert made.why == f"the kube container waits, but {why}: the local one stays for now"


def test_a_rolled_back_feature_says_what_ends_that() -> None:
    health = Health(withdrawn=True)
    made = plan(ROLLBACK, up(rolled_back=True, failure="port 161", health=health), observed(local()))
    assert made.why == (
        "rolled back (port 161): the local container runs until Kubernetes labels this node again and deploys "
        "another image, or until you run: kubesync clear snmp"
    )


def test_a_rolled_back_feature_without_a_way_back_says_why_it_is_kept() -> None:
    lost = observed(kube(), label=ON, no_way_back=NO_IMAGE)
    made = plan(ROLLBACK, granted(rolled_back=True, failure="port 161"), lost)
    assert made.action is None
    assert made.why == f"rolled back (port 161), but {NO_IMAGE}: the kube container is kept"
