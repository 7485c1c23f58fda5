"""Check what a Node's conditions and taints mean for a feature's pod."""

from __future__ import annotations

from typing import Any

import pytest

from kubesyncd.core.node_condition import NodeCondition, condition_of

READY = {
    "type": "Ready",
    "status": "True",
    "reason": "KubeletReady",
    "message": "kubelet is posting ready status",
}
SILENT = {
    "type": "Ready",
    "status": "Unknown",
    "reason": "NodeStatusUnknown",
    "message": "Kubelet stopped posting",
}
DISK = {"type": "DiskPressure", "status": "True"}
MEMORY = {"type": "MemoryPressure", "status": "True"}
TAINT = {"key": "maintenance", "value": "yes", "effect": "NoExecute"}

PRESSED = (
    "the Node has disk and memory pressure: its kubelet refuses pods that are not critical; "
    "see: kubectl describe node"
)
TAINTED = (
    "the Node has the taint a:NoSchedule, maintenance=yes:NoExecute, and pods must tolerate it; "
    "see: kubectl describe node"
)


def judged(
    *conditions: dict[str, Any], taints: tuple[dict[str, Any], ...] = (), cordoned: bool = False
) -> NodeCondition:
    return condition_of(conditions, taints, cordoned=cordoned)


def test_a_ready_node_can_be_deployed_to_cordoned_or_not() -> None:
    assert judged(READY, {"type": "DiskPressure", "status": "False"}) == NodeCondition()
    assert judged(READY, cordoned=True).why_not() == ""
    assert judged().why_not() == "", "it is just being registered"


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        (
            judged(SILENT),
            "the Node is not ready (NodeStatusUnknown: Kubelet stopped posting); see: journalctl -u kubelet",
        ),
        (
            judged({"type": "Ready", "status": "False"}),
            "the Node is not ready (no reason is given); see: journalctl -u kubelet",
        ),
        (
            judged(READY, DISK, MEMORY),
            PRESSED,
        ),
        (
            judged(READY, taints=(TAINT, {"key": "a", "effect": "NoSchedule"})),
            TAINTED,
        ),
    ],
)
def test_each_obstacle_is_named_with_what_to_type(condition: NodeCondition, why: str) -> None:
    assert condition.why_not() == why


def test_a_taint_that_is_a_preference_is_no_obstacle() -> None:
    assert judged(READY, taints=({"key": "rack", "effect": "PreferNoSchedule"},)) == NodeCondition()


# What https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/ promises of each pod of a DaemonSet.
@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("network-unavailable", "NoSchedule"),
    ],
)
def test_a_taint_that_the_pods_of_any_daemonset_tolerate_is_no_obstacle(name: str, effect: str) -> None:
    taint = {"key": f"node.kubernetes.io/{name}", "effect": effect}
    assert judged(READY, taints=(taint,)) == NodeCondition()


@pytest.mark.parametrize(
    ("condition", "word"),
    [("DiskPressure", "disk"), ("MemoryPressure", "memory"), ("PIDPressure", "process")],
)
def test_each_lack_that_lets_the_kubelet_refuse_pods_is_an_obstacle(condition: str, word: str) -> None:
    assert f"the Node has {word} pressure" in judged(READY, {"type": condition, "status": "True"}).why_not()


def test_a_long_message_or_taint_is_cut_to_160_characters() -> None:
    unready = judged({"type": "Ready", "status": "False", "message": "m" * 200})
    assert unready.not_ready == "m" * 160
    long = {"key": "k" * 200, "effect": "NoSchedule"}
    assert judged(READY, taints=(long,)).taints == ("k" * 160,)


def test_a_taint_that_pods_here_tolerate_is_no_obstacle() -> None:
    tainted = judged(READY, taints=(TAINT,))
    assert tainted.why_not({"maintenance=yes:NoExecute"}) == ""
    assert tainted.why_not({"other:NoExecute"})
    assert judged(READY, DISK).why_not({"disk"}) == ""


def test_a_lack_of_readiness_is_the_same_obstacle_whatever_its_message_says() -> None:
    starting = NodeCondition(
        not_ready="KubeletNotReady: the runtime is down", pressures=("disk",), taints=("a:NoExecute",)
    )
    assert starting.obstacles == ("not ready: KubeletNotReady", "disk", "a:NoExecute")
    assert starting.why_not(frozenset(starting.obstacles)) == ""
    assert NodeCondition(not_ready="KubeletNotReady: no network").why_not(starting.obstacles) == ""
    assert "is not ready" in NodeCondition(not_ready="NodeStatusUnknown").why_not(starting.obstacles)
    assert NodeCondition().obstacles == ()
