"""Check what the parts of the daemon tell each other."""

from __future__ import annotations

import asyncio
from random import Random

from kubesyncd.cluster.node_reports import NodeReports
from kubesyncd.core.actions import Plan
from kubesyncd.core.conditions import conditions
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.state import State
from kubesyncd.daemon.parts import _report
from kubesyncd.features.surroundings import View
from kubesyncd.runtime.context import Runtime
from tests.sim import loop
from tests.sim.plain import PlainLink, PlainLog, PlainMaster
from tests.unit.core.given import FALLBACK, LOCAL, NOW, TIMING, granted, kube, local, look, observed


class Link:
    """A link to this master."""

    def __init__(self, master: PlainMaster) -> None:
        self.cluster = PlainLink(master)
        self.originals: dict[str, str] = {}


def test_the_annotation_has_the_whole_reason_of_no_way_back_and_no_fix() -> None:
    async def story() -> None:
        why = "Docker: remains of its last run are in the way; docker rm -f ab12"
        failed = FailedAction(ActionKind.START_LOCAL, LOCAL, why, refused=True, again_at=NOW + 30.0)
        record, seen = look(FALLBACK, granted(), observed(kube(), local(running=False), failures=(failed,)))
        found = conditions("snmp", record, seen, TIMING, NOW)
        runtime = Runtime(lambda: NOW, lambda: NOW, Random(1), PlainLog())  # type: ignore[arg-type]
        reports, master = NodeReports(runtime), PlainMaster()
        _report(
            reports, "snmp", View(FALLBACK, record, seen, Plan(State.KUBE_RUNNING, None, None, ""), found)
        )
        running = asyncio.create_task(reports.run(Link(master)))
        async with asyncio.timeout(30):
            while not master.annotations:
                await asyncio.sleep(0.01)
        running.cancel()
        assert master.annotations["feature.kubesyncd/snmp"] == (
            f"KUBE_RUNNING; no way back: its local container does not start: {why}, so the kube container is kept, "
            "also with owner local or a failure"
        )

    loop.run(story())
