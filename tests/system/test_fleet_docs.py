"""Run each query of docs/fleet.md on a real master to which a switch has reported."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import yaml

from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Unavailable
from tests.lab.kube_client import NODES, KubeClient, node
from tests.paths import ROOT
from tests.wait import LIMIT_S, until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from tests.system.kube_cluster import RealKube

DOCS = (ROOT / "docs" / "fleet.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", DOCS, re.DOTALL)
QUERIES = [
    line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if not line.startswith("#")
]
EXPECTED = {
    "custom-columns": "KUBE_READY failed: not running for 5 min",
    "-l snmp_enabled": "Force10-S6000",
    "grep 'failed:'": "switch1",
    "uniq -c": "1 KUBE_READY failed",
    "get events": "FeatureFailed",
    "describe node": "FeatureFailed",
}

pytestmark = pytest.mark.real("kube")


@pytest.fixture
def told(kube_api_real: RealKube) -> Iterator[RealKube]:
    """A master with one switch, one of whose features has failed."""

    async def tell() -> None:
        cluster = KubeCluster(kube_api_real.kubelet_conf, lambda: "switch1", MasterConfig(ip="127.0.0.1"))
        async with KubeClient(kube_api_real.admin_conf) as admin:
            await admin.delete(f"{NODES}/switch1")
            await admin.post(NODES, node("switch1"))
            await until_async(lambda: namespaced(admin))
        labels = {"snmp_enabled": "true", "hwsku": "Force10-S6000"}
        await until_async(lambda: answered(cluster.apply_labels(labels)))
        failure = "KUBE_READY failed: not running for 5 min"
        told = {"feature.kubesyncd/snmp": failure, "feature.kubesyncd/lldp": "LOCAL"}
        await until_async(lambda: answered(cluster.annotate(told)))
        event = "snmp: not running for 5 min"
        await until_async(lambda: answered(cluster.report("FeatureFailed", event, warning=True)))
        await cluster.close()

    kube_api_real.write_kubeconfigs()
    asyncio.run(tell())
    yield kube_api_real
    asyncio.run(forget(kube_api_real))


async def answered(call: Awaitable[None]) -> bool:
    """Whether the API server has answered within the adapter's few seconds."""
    with suppress(Unavailable):
        await call
        return True
    return False


async def namespaced(admin: KubeClient) -> bool:
    """Whether the API server has made the namespace that Events go to."""
    names = {item["metadata"]["name"] for item in (await admin.get("/api/v1/namespaces"))["items"]}
    return "default" in names


async def forget(cluster: RealKube) -> None:
    async with KubeClient(cluster.admin_conf) as admin:
        await admin.delete(f"{NODES}/switch1")


def test_every_query_returns_what_the_switch_has_reported(told: RealKube) -> None:
    assert len(QUERIES) == len(EXPECTED)
    for query in QUERIES:
        environ = {**os.environ, "KUBECONFIG": str(told.admin_conf)}
        ended = subprocess.run(
            ["sh", "-c", query], env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        (expected,) = [text for part, text in EXPECTED.items() if part in query]
        assert expected in ended.stdout, f"{query}\n{ended.stdout}\n{ended.stderr}"


def test_the_viewer_s_role_is_one_a_master_takes(told: RealKube) -> None:
    (text,) = [text for kind, text in BLOCKS if kind == "yaml"]

    async def post() -> None:
        async with KubeClient(told.admin_conf) as admin:
            path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
            await admin.post(path, yaml.safe_load(text))
            await admin.delete(f"{path}/fleet-viewer")

    asyncio.run(post())
