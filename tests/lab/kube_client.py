"""Call an API server with a kubeconfig's credential, for tests and stand-ins.

Knows HTTP and TLS; never used by the product, whose adapter it checks from the other side.
"""

from __future__ import annotations

import base64
import json
import ssl
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import yaml

from tests.lab.client_tls import load_pair
from tests.lab.kube_names import NAMESPACE, kube_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from kubesyncd.core.model import NodeSeen

MERGE = "application/merge-patch+json"
NODES = "/api/v1/nodes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DAEMONSETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"


class KubeError(Exception):
    """The server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class KubeClient:
    """Use as `async with KubeClient(kubeconfig) as api`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._server, self._tls = _credential(kubeconfig)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls), timeout=aiohttp.ClientTimeout(total=60)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Any:
        """The object or list at `path`. Raises KubeError."""
        return await self._call("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Any:
        """Create. Raises KubeError."""
        return await self._call("POST", path, json=body)

    async def patch(self, path: str, body: Any) -> Any:
        """Merge-patch. Raises KubeError."""
        return await self._call("PATCH", path, data=json.dumps(body), headers={"Content-Type": MERGE})

    async def delete(self, path: str, grace_s: int | None = None, *, propagation: str = "") -> None:
        """Delete; gone already is success. `propagation`: Kubernetes' word, such as Orphan. Raises KubeError."""
        body: dict[str, Any] = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        if propagation:
            body["propagationPolicy"] = propagation
        try:
            await self._call("DELETE", path, json=body)
        except KubeError as error:
            if error.status != 404:
                raise

    async def watch(self, path: str, version: str, **query: str) -> AsyncIterator[dict[str, Any]]:
        """Events after `version`, until the server ends the watch."""
        params = {**query, "watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None, connect=3, sock_read=60)
        async with self._session.get(self._server + path, params=params, timeout=timeout) as response:
            if response.status != 200:
                raise KubeError(response.status, await response.text())
            async for line in response.content:
                yield json.loads(line)

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        async with self._session.request(method, self._server + path, **request) as response:
            text = await response.text()
            if response.status >= 300:
                raise KubeError(response.status, text)
            return json.loads(text) if text.startswith("{") else text


def node(name: str, **labels: str) -> dict[str, Any]:
    """A Node as a manifest."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def daemonset(
    feature: str, image: str, command: list[str], env: dict[str, str] | None = None
) -> dict[str, Any]:
    """A DaemonSet that runs `feature` on every node labelled `<feature>_enabled=true`."""
    name = kube_name(feature)
    container = {
        "name": name,
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "hostNetwork": True,
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 2,
                    "nodeSelector": {f"{feature}_enabled": "true"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                },
            },
        },
    }


def _credential(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """Server and TLS of the kubeconfig's first cluster and user."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    if "client-certificate" in user:
        tls.load_cert_chain(user["client-certificate"], user["client-key"])
    else:
        certificate, key = (base64.b64decode(user[f"client-{what}-data"]) for what in ("certificate", "key"))
        load_pair(tls, certificate, key)
    return cluster["server"], tls


async def shown(nodes: AsyncIterator[NodeSeen | None]) -> Mapping[str, str] | None:
    """The labels that a watch reports next; None: the Node does not exist."""
    seen = await anext(nodes)
    return None if seen is None else seen.labels
