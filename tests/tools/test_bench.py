"""Check that the seldom used benches still work: each one briefly, on the lab's stand-ins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.kube_client import NODES, KubeClient
from tests.sim.plain import PlainStore
from tests.tools.bench.back import back_figures
from tests.tools.bench.fleet import Fleet, name_of
from tests.wait import until_async

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system
SWITCHES = 4


async def test_simulated_switches_connect_and_bring_their_labels_through_an_outage(tmp_path: Path) -> None:
    cluster = LabKubeProcess(tmp_path / "kube")
    await asyncio.to_thread(cluster.start)
    fleet = Fleet(tmp_path, SWITCHES, Console(quiet=True), cluster)
    try:
        await fleet.make_nodes()
        async with fleet.booted():
            await asyncio.to_thread(cluster.stop_api)
            await until_async(lambda: not any(switch.controller.connected for switch in fleet.switches))
            for switch in fleet.switches:
                await switch.controller.request_feature("snmp", on=True)
            await asyncio.to_thread(cluster.start)
            await fleet.until_quiet()
            async with KubeClient(cluster.admin_conf) as admin:
                nodes = [await admin.get(f"{NODES}/{name_of(number)}") for number in range(SWITCHES)]
        assert all(node["metadata"]["labels"]["snmp_enabled"] == "true" for node in nodes)
        assert fleet.book.sent
    finally:
        await asyncio.to_thread(cluster.stop)


async def test_a_simulated_switch_that_dies_ends_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainStore, "master", lambda _: 1 / 0)
    cluster = LabKubeProcess(tmp_path / "kube")
    await asyncio.to_thread(cluster.start)
    try:
        fleet = Fleet(tmp_path, 1, Console(quiet=True), cluster)
        await fleet.make_nodes()
        with pytest.raises(AssertionError, match="a simulated switch has died"):
            async with fleet.booted():
                pytest.fail("it booted")
    finally:
        await asyncio.to_thread(cluster.stop)


def test_what_redis_and_docker_missed_while_they_were_away_is_measured(tmp_path: Path) -> None:
    docker = LabDockerProcess(tmp_path)
    docker.start()
    try:
        figures = list(back_figures(docker, rounds=1, away_s=(0.2, 0.3)))
    finally:
        docker.stop()
    assert [figure.target for figure in figures] == [None, 2.0] * 3
    assert all(figure.value > 0 for figure in figures)
