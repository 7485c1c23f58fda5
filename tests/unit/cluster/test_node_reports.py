"""Check the reports on the Node: timing, bursts, and cost for a fleet."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.cluster.node_reports import BURST_S, PAUSE_S, SPREAD_S, NodeReports, feature_annotation
from kubesyncd.ports import Forbidden, Missing, PortError, Unavailable
from kubesyncd.runtime.context import Runtime
from tests.sim.loop import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


class Master:
    """The link and the port in one: what was told, and when."""

    def __init__(self) -> None:
        self.connected = True
        self.fault: PortError | None = None
        self.originals: dict[str, str] = {}
        self.annotations: dict[str, str] = {}
        self.patches: list[tuple[float, dict[str, str | None]]] = []
        self.events: list[tuple[str, str, bool]] = []

    @property
    def cluster(self) -> Master | None:
        return self if self.connected else None

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        self.patches.append((now(), dict(changes)))
        await self._answer()
        for key, value in changes.items():
            if value is None:
                self.annotations.pop(key, None)
            else:
                self.annotations[key] = value

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        await self._answer()
        self.events.append((reason, message, warning))

    async def _answer(self) -> None:
        await asyncio.sleep(0.02)
        if self.fault is not None:
            raise self.fault


class Log:
    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **_: self.events.update([event])


def now() -> float:
    return asyncio.get_running_loop().time()


def play(story: Callable[[NodeReports, Master, Log], Awaitable[None]]) -> None:
    async def stage(seed: int) -> None:
        master, log = Master(), Log()
        view = NodeReports(Runtime(now, now, random.Random(seed), log))  # type: ignore[arg-type]
        life = asyncio.get_running_loop().create_task(view.run(master))
        try:
            await story(view, master, log)
            assert not life.done(), "it never ends"
        finally:
            life.cancel()

    for seed in range(4):
        run(stage(seed), seed)


def test_a_burst_is_one_patch_and_the_next_waits_its_turn() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        for name in ("snmp", "lldp", "bgp"):
            view.feature(name, "STARTING", "")
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3)
        assert [patch for _, patch in master.patches] == [
            {
                f"feature.kubesyncd/{n}": s
                for n, s in (("snmp", "LOCAL"), ("lldp", "STARTING"), ("bgp", "STARTING"))
            }
        ]
        for state in ("LOCAL", "LOCAL_TO_KUBE", "KUBE_PENDING", "KUBE_RUNNING") * 25:
            view.feature("lldp", state, "")
            await asyncio.sleep(0.5)
        await asyncio.sleep(PAUSE_S + BURST_S)
        at = [when for when, _ in master.patches]
        assert all(later - sooner >= PAUSE_S for sooner, later in itertools.pairwise(at))
        assert master.annotations["feature.kubesyncd/lldp"] == "KUBE_RUNNING"

    play(story)


def test_unchanged_reports_are_sent_once() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        for _hour in range(100):
            view.feature("snmp", "LOCAL", "")
            await asyncio.sleep(3600)
        assert len(master.patches) == 1

    play(story)


def test_a_failure_is_an_event_and_in_the_annotation_and_so_is_its_end() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        view.feature("snmp", "KUBE_READY", "not running for 5 min")
        view.feature("snmp", "KUBE_READY", "not running for 5 min")
        await asyncio.sleep(3)
        assert master.annotations == {"feature.kubesyncd/snmp": "KUBE_READY failed: not running for 5 min"}
        view.feature("snmp", "KUBE_RUNNING", "")
        await asyncio.sleep(15)
        assert master.events == [
            ("FeatureFailed", "snmp: not running for 5 min", True),
            ("FeatureRecovered", "snmp runs again", False),
        ]

    play(story)


def test_a_flood_of_notices_is_bounded_and_the_newest_survive() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        master.connected = False
        for number in range(1000):
            view.notice("Odd", f"number {number}")
            view.notice("Same", "again")
        master.connected = True
        view.linked()
        await asyncio.sleep(30)
        assert len(master.events) == 16
        assert ("Odd", "number 999", True) in master.events
        assert master.events.count(("Same", "again", True)) == 1

    play(story)


def test_after_an_outage_each_switch_reports_everything_again_at_its_own_time() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(60)
        master.connected = False
        master.annotations.clear()
        view.feature("lldp", "LOCAL", "")
        await asyncio.sleep(3600)
        assert len(master.patches) == 1
        master.connected, back = True, now()
        view.linked()
        await asyncio.sleep(SPREAD_S + 5)
        assert master.annotations == {"feature.kubesyncd/snmp": "LOCAL", "feature.kubesyncd/lldp": "LOCAL"}
        assert BURST_S <= master.patches[-1][0] - back <= SPREAD_S + BURST_S
        late.append(round(master.patches[-1][0] - back, 3))

    late: list[float] = []
    play(story)
    assert len(set(late)) == 4


def test_a_failing_master_is_tried_again_with_growing_delays_and_gets_the_newest_report() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        master.fault = Unavailable("Kubernetes", "503")
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3600)
        tries = len(master.patches)
        assert 10 <= tries <= 120
        view.feature("snmp", "KUBE_RUNNING", "")
        master.fault = None
        await asyncio.sleep(320)
        assert master.annotations == {"feature.kubesyncd/snmp": "KUBE_RUNNING"}

    play(story)


@pytest.mark.parametrize("fault", [Forbidden("Kubernetes", "403"), Missing("Kubernetes", "404")])
def test_a_master_that_refuses_is_not_asked_again_until_something_changes(fault: PortError) -> None:
    async def story(view: NodeReports, master: Master, log: Log) -> None:
        master.fault = fault
        view.feature("snmp", "LOCAL", "broken")
        await asyncio.sleep(86_400)
        assert len(master.patches) == 1
        assert log.events["fleet_not_told"] == isinstance(fault, Forbidden)
        master.fault = None
        view.linked()
        await asyncio.sleep(400)
        assert master.annotations

    play(story)


def test_an_uninstalled_feature_disappears_and_originals_are_kept_beside() -> None:
    async def story(view: NodeReports, master: Master, _: Log) -> None:
        master.originals = {"hwsku": "Force10 S6000"}
        view.feature("snmp", "LOCAL", "")
        await asyncio.sleep(3)
        view.forget("snmp")
        await asyncio.sleep(15)
        assert master.annotations == {"original.kubesyncd/hwsku": "Force10 S6000"}

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
