"""Drain a node as a job does that joins or leaves, on the lab's API server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")

from kubesyncd.adapters import kube_member
from kubesyncd.adapters.kube_member import Member
from tests.lab.kube_api import LabKube
from tests.lab.kube_client import NODES, PODS, KubeClient
from tests.lab.kube_client import node as node_named
from tests.wait import until_async

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 180.0
POD = f"{PODS}/one"


def pod(node: str) -> dict[str, Any]:
    spec = {
        "nodeName": node,
        "containers": [{"name": "snmp", "image": "snmp"}, {"name": "side", "image": "side"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}


def states(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"phase": "Running", "containerStatuses": [{"name": "snmp", **c} for c in containers]}}


async def until_deleted(api: KubeClient) -> None:
    async def deleted() -> bool:
        return "deletionTimestamp" in (await api.get(POD))["metadata"]

    await until_async(deleted, "the API server is told to delete the pod")


async def test_a_drain_waits_for_containers_not_for_the_kubelet_to_delete_their_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_member, "LOOK_S", 0.02)
    ended = {"terminated": {"exitCode": 0}}
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    async with LabKube(tmp_path) as kube, KubeClient(kube.admin_conf) as api:
        await api.post(NODES, node_named("switch1"))
        await api.post(PODS, pod("switch1"))
        async with Member.open(kube.admin_conf, "switch1") as member:
            drained = asyncio.create_task(member.drain())
            await until_deleted(api)
            for going_on in (
                states(),
                states({"state": waiting}, {"state": ended}),
                states({"state": {"running": {}}, "lastState": ended}, {"state": ended}),
            ):
                await api.patch(f"{POD}/status", going_on)
                await asyncio.sleep(0.2)
                assert not drained.done(), going_on
            await api.patch(f"{POD}/status", states({"state": waiting, "lastState": ended}, {"state": ended}))
            assert await asyncio.wait_for(drained, LIMIT_S) == "0 feature labels withdrawn, 1 pods deleted"
        assert (await api.get(POD))["metadata"]["name"] == "one", "the kubelet has yet to delete it"
