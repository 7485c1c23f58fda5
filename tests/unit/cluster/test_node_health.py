"""Check that a kube container which started after a taint shows that its pod tolerates it."""

from __future__ import annotations

import random

from kubesyncd.cluster.node_health import NodeHealth
from kubesyncd.core.model import Timing
from kubesyncd.core.node_condition import NodeCondition
from kubesyncd.runtime.context import Runtime
from tests.sim.plain import PlainLog

TAINTED = NodeCondition(taints=("maintenance:NoExecute",))
# 2023-11-14T22:13:20Z
NOW = 1_700_000_000.0
GRACE_S = Timing().node_not_ready_s
STARTING = NodeCondition(not_ready="KubeletNotReady: the container runtime is down")


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def health(self) -> NodeHealth:
        runtime = Runtime(lambda: self.now, lambda: self.now, random.Random(1), PlainLog())  # type: ignore[arg-type]
        return NodeHealth(runtime, Timing())


def test_only_a_container_that_started_after_the_taint_was_seen_tolerates_it() -> None:
    time = Time()
    health = time.health()
    assert not health.started("2023-11-14T22:13:19.000000000Z")
    health.observe(TAINTED)
    assert "maintenance:NoExecute" in health.why_not
    assert not health.started("2023-11-14T22:13:19.999999999Z")
    assert health.why_not
    assert health.started("2023-11-14T22:13:25.000000000Z")
    assert not health.started("2023-11-14T22:13:26.000000000Z"), "that is known already"
    assert health.why_not == ""
    time.now += 60
    health.observe(TAINTED)
    assert health.why_not == ""


def test_a_taint_that_comes_back_is_judged_again_and_a_missing_node_is_not_judged() -> None:
    health = Time().health()
    health.observe(TAINTED)
    health.started("2024-01-01T00:00:00.000000000Z")
    health.observe(NodeCondition())
    health.observe(TAINTED)
    assert health.why_not
    health.observe(None)
    assert health.why_not == ""


def test_a_node_that_is_not_ready_is_told_at_once_and_counts_once_it_has_lasted() -> None:
    time = Time()
    health = time.health()
    health.observe(STARTING)
    assert "is not ready" in health.why_not
    assert (health.judge(), health.counts_at) == ("", NOW + GRACE_S)
    time.now += GRACE_S - 1
    health.observe(NodeCondition(not_ready="KubeletNotReady: another message", taints=TAINTED.taints))
    assert "the taint" in health.judge(), "a taint counts at once"
    time.now += 1
    assert "is not ready (KubeletNotReady: another" in health.judge()
    assert health.counts_at is None
    health.observe(NodeCondition())
    assert (health.judge(), health.counts_at) == ("", None)


def test_a_kubelet_that_has_just_been_started_gets_the_same_time_again() -> None:
    time = Time()
    health = time.health()
    health.kubelet_started()
    assert health.counts_at is None, "the Node is ready"
    health.observe(STARTING)
    time.now += GRACE_S
    assert health.judge()
    health.kubelet_started()
    assert health.judge() == ""
    time.now += GRACE_S
    assert health.judge()


def test_a_container_that_starts_on_a_node_without_a_network_shows_that_its_kubelet_starts_pods() -> None:
    time = Time()
    health = time.health()
    health.observe(STARTING)
    time.now += GRACE_S
    assert health.judge()
    assert health.started("2023-11-14T22:14:25.000000000Z")
    assert health.judge() == ""
    health.observe(NodeCondition(not_ready="NodeStatusUnknown: Kubelet stopped posting"))
    assert "NodeStatusUnknown" in health.judge(), "that is another lack"
