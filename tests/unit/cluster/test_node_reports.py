"""Check the reports on the Node: timing, bursts, and cost for a fleet."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.cluster.node_reports import BURST_S, PAUSE_S, SPREAD_S, NodeReports, feature_annotation
from kubesyncd.ports import Forbidden, Missing, Unavailable
from kubesyncd.runtime.context import Runtime
from tests.sim.loop import run
from tests.sim.plain import PlainLink, PlainLog, PlainMaster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.ports import PortError


class Node:
    """The Node, its master, and the link to it while `connected`."""

    def __init__(self) -> None:
        self.connected = True
        self.originals: dict[str, str] = {}
        self.master = PlainMaster()
        self._link = PlainLink(self.master)

    @property
    def cluster(self) -> PlainLink | None:
        return self._link if self.connected else None


def now() -> float:
    return asyncio.get_running_loop().time()


def play(story: Callable[[NodeReports, Node, PlainLog], Awaitable[None]]) -> None:
    async def stage(seed: int) -> None:
        node, log = Node(), PlainLog()
        view = NodeReports(Runtime(now, now, random.Random(seed), log))  # type: ignore[arg-type]
        life = asyncio.get_running_loop().create_task(view.run(node))
        try:
            await story(view, node, log)
            assert not life.done(), "it never ends"
        finally:
            life.cancel()

    for seed in range(4):
        run(stage(seed), seed)


def test_a_burst_is_one_patch_and_the_next_waits_its_turn() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        for name in ("snmp", "lldp", "bgp"):
            view.feature(name, "STARTING", "")
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3)
        assert [patch for _, patch in node.master.annotated] == [
            {
                f"feature.kubesyncd/{n}": s
                for n, s in (("snmp", "LOCAL"), ("lldp", "STARTING"), ("bgp", "STARTING"))
            }
        ]
        for state in ("LOCAL", "LOCAL_TO_KUBE", "KUBE_PENDING", "KUBE_RUNNING") * 25:
            view.feature("lldp", state, "")
            await asyncio.sleep(0.5)
        await asyncio.sleep(PAUSE_S + BURST_S)
        at = [when for when, _ in node.master.annotated]
        assert all(later - sooner >= PAUSE_S for sooner, later in itertools.pairwise(at))
        assert node.master.annotations["feature.kubesyncd/lldp"] == "KUBE_RUNNING"

    play(story)


def test_unchanged_reports_are_sent_once() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        for _hour in range(100):
            view.feature("snmp", "LOCAL", "")
            await asyncio.sleep(3600)
        assert len(node.master.annotated) == 1

    play(story)


def test_a_failure_is_an_event_and_in_the_annotation_and_so_is_its_end() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        view.feature("snmp", "KUBE_READY", "not running for 5 min")
        view.feature("snmp", "KUBE_READY", "not running for 5 min")
        await asyncio.sleep(3)
        assert node.master.annotations == {
            "feature.kubesyncd/snmp": "KUBE_READY failed: not running for 5 min"
        }
        view.feature("snmp", "KUBE_RUNNING", "")
        await asyncio.sleep(15)
        assert node.master.events == [
            ("FeatureFailed", "snmp: not running for 5 min", True),
            ("FeatureRecovered", "snmp runs again", False),
        ]

    play(story)


def test_a_feature_without_a_way_back_says_so_in_the_annotation() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        view.feature("snmp", "KUBE_RUNNING", "", "no way back: no local container exists")
        view.feature("lldp", "KUBE_READY", "not running for 5 min", "no way back: no image")
        await asyncio.sleep(3)
        assert node.master.annotations == {
            "feature.kubesyncd/snmp": "KUBE_RUNNING; no way back: no local container exists",
            "feature.kubesyncd/lldp": "KUBE_READY failed: not running for 5 min; no way back: no image",
        }
        view.feature("snmp", "KUBE_RUNNING", "")
        await asyncio.sleep(15)
        assert node.master.annotations["feature.kubesyncd/snmp"] == "KUBE_RUNNING"

    play(story)


def test_a_flood_of_notices_is_bounded_and_the_newest_survive() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        node.connected = False
        for number in range(1000):
            view.notice("Odd", f"number {number}")
            view.notice("Same", "again")
        node.connected = True
        view.linked()
        await asyncio.sleep(30)
        assert len(node.master.events) == 16
        assert ("Odd", "number 999", True) in node.master.events
        assert node.master.events.count(("Same", "again", True)) == 1

    play(story)


def test_after_an_outage_each_switch_reports_everything_again_at_its_own_time() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(60)
        node.connected = False
        node.master.annotations.clear()
        view.feature("lldp", "LOCAL", "")
        await asyncio.sleep(3600)
        assert len(node.master.annotated) == 1
        node.connected, back = True, now()
        view.linked()
        await asyncio.sleep(SPREAD_S + 5)
        assert node.master.annotations == {
            "feature.kubesyncd/snmp": "LOCAL",
            "feature.kubesyncd/lldp": "LOCAL",
        }
        assert BURST_S <= node.master.annotated[-1][0] - back <= SPREAD_S + BURST_S
        late.append(round(node.master.annotated[-1][0] - back, 3))

    late: list[float] = []
    play(story)
    assert len(set(late)) == 4


def test_a_failing_master_is_tried_again_with_growing_delays_and_gets_the_newest_report() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        node.master.fault = Unavailable("Kubernetes", "503")
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3600)
        tries = len(node.master.annotated)
        assert 10 <= tries <= 120
        view.feature("snmp", "KUBE_RUNNING", "")
        node.master.fault = None
        await asyncio.sleep(320)
        assert node.master.annotations == {"feature.kubesyncd/snmp": "KUBE_RUNNING"}

    play(story)


@pytest.mark.parametrize("fault", [Forbidden("Kubernetes", "403"), Missing("Kubernetes", "404")])
def test_a_master_that_refuses_is_not_asked_again_until_something_changes(fault: PortError) -> None:
    async def story(view: NodeReports, node: Node, log: PlainLog) -> None:
        node.master.fault = fault
        view.feature("snmp", "LOCAL", "broken")
        await asyncio.sleep(86_400)
        assert len(node.master.annotated) == 1
        assert log.count("fleet_not_told") == isinstance(fault, Forbidden)
        node.master.fault = None
        view.linked()
        await asyncio.sleep(400)
        assert node.master.annotations

    play(story)


def test_an_uninstalled_feature_disappears_and_originals_are_kept_beside() -> None:
    async def story(view: NodeReports, node: Node, _: PlainLog) -> None:
        node.originals = {"hwsku": "Force10 S6000"}
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3)
        view.forget("snmp")
        await asyncio.sleep(15)
        assert node.master.annotations == {"original.kubesyncd/hwsku": "Force10 S6000"}

    play(story)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("snmp", "feature.kubesyncd/snmp"),
        ("bgp@0", "feature.kubesyncd/bgp.0"),
        ("odd-", None),
        ("x" * 63, ...),
    ],
)
def test_every_feature_that_can_have_one_has_an_annotation(name: str, key: Any) -> None:
    expected = f"feature.kubesyncd/{name}" if key is ... else key
    assert feature_annotation(name) == expected
