"""Call a master for a join or reset: fetch its admin.conf; ask, drain and delete with a kubeconfig's credential.

Knows HTTP, TLS and the few paths it needs; does not know kubeadm or when to join. It runs once per job, so it uses
neither the Kubernetes library nor anything that watching needs.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import quote

import aiohttp

from kubesyncd.adapters.http_answer import JOIN, status_message
from kubesyncd.adapters.http_session import (
    Fault,
    NoAnswer,
    answered,
    read_body,
    server_context,
    short_session,
)
from kubesyncd.adapters.kube_credential import SERVICE, read, tls_context
from kubesyncd.core.labels import feature_of
from kubesyncd.core.text import escaped, public_address
from kubesyncd.ports import Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from kubesyncd.runtime.kubeconfig import Kubeconfig

CALL_S = 8.0
CONNECT_S = 4.0
FETCH_BYTES_MAX = 256 * 1024
ANSWER_BYTES_MAX = 16 << 20
LOOK_S = 0.5
DETAIL_MAX = 240

_JSON = "application/json"
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_ROOT_CA = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt"
_MIRROR = "kubernetes.io/config.mirror"


async def fetch(url: str, *, ca_file: str, insecure: bool) -> bytes:
    """Fetch `url` by HTTPS. `ca_file`: the only trusted CA; without one, the system's are trusted.

    `insecure`: any certificate is accepted. Raises Refused, Unavailable.
    """
    where = public_address(url)
    if not url.startswith("https://"):
        raise Refused(SERVICE, f"{where} is not https://; correct [kube] admin_conf_url")
    with _edge(where):
        context = server_context(ca_file=ca_file, insecure=insecure)
        async with _session(context) as session, session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                raise Refused(
                    SERVICE, f"{where} is answered with {response.status}; check [kube] admin_conf_url"
                )
            return await read_body(response, FETCH_BYTES_MAX)


async def answers(master: str) -> str:
    """Ask the server at `master` (`ip:port`) for its version; no credential is sent, and the answer is not trusted.

    For a join whose CA only kubeadm will check. Raises Unavailable.
    """
    context = server_context(insecure=True)
    with _edge(master):
        async with _session(context) as session, session.get(f"https://{master}/version") as response:
            return f"it answers with {response.status}"


class Member:
    """One node of the cluster that `kubeconfig` names: `async with Member.open(…) as member`."""

    def __init__(self, session: aiohttp.ClientSession, server: str, node: str) -> None:
        self._session = session
        self._server = server
        self._node = f"/api/v1/nodes/{quote(node)}"
        self._name = node

    @classmethod
    @asynccontextmanager
    async def open(cls, kubeconfig: Path, node: str, *, insecure: bool = False) -> AsyncIterator[Member]:
        """Open a session with the credential of `kubeconfig`. Raises Unavailable where that cannot be used."""
        config = read(kubeconfig)
        headers = {}
        if config.token:
            headers["Authorization"] = f"Bearer {config.token}"
            context = _trusting(config, kubeconfig, insecure=insecure)
        else:
            context = tls_context(kubeconfig, config, insecure=insecure)
        async with _session(context, headers) as session:
            yield cls(session, config.server, node)

    async def ask(self) -> str:
        """Return the API server's version. Raises Forbidden where it does not accept the credential, Unavailable."""
        answer = await self._call("GET", "/version")
        return str(answer.get("gitVersion", "")) if isinstance(answer, dict) else ""

    async def root_ca(self) -> bytes:
        """Return the cluster's CAs (PEM), as it publishes them to its pods. Raises PortError."""
        try:
            answer = await self._call("GET", _ROOT_CA)
            with _edge(self._server):
                return str(answer["data"]["ca.crt"]).encode()
        except Missing as error:
            detail = "the master has no ConfigMap default/kube-root-ca.crt; set [kube] ca_file to its CA"
            raise Missing(SERVICE, detail) from error

    async def drain(self) -> str:
        """Withdraw the feature labels, forbid new pods, end the others; return when these pods have ended.

        Pods of DaemonSets that no feature label selected stay: they would be created again. Raises PortError.
        """
        try:
            node = await self._call("GET", self._node)
        except Missing:
            return "the node does not exist on the master"
        labels = [key for key in node["metadata"].get("labels") or {} if feature_of(key)]
        patch = {"metadata": {"labels": dict.fromkeys(labels)}, "spec": {"unschedulable": True}}
        await self._call("PATCH", self._node, patch, _MERGE)
        ended = 0
        while pods := await self._pods_to_end(frozenset(labels)):
            for pod in pods:
                if not _by_daemonset(pod) and "deletionTimestamp" not in pod["metadata"]:
                    await self._delete_pod(pod["metadata"])
                    ended += 1
            await asyncio.sleep(LOOK_S)
        return f"{len(labels)} feature labels withdrawn, {ended} pods deleted"

    async def delete(self) -> None:
        """Delete the Node; gone already is success. Raises Forbidden, Unavailable."""
        try:
            await self._call("DELETE", self._node)
        except Missing:
            return

    async def say_not_ready(self) -> None:
        """Report the Node as not ready: kubeadm refuses to join under the name of a ready one.

        A kubelet's own credential may do this, though it may not delete. Raises PortError.
        """
        condition = {
            "type": "Ready",
            "status": "False",
            "reason": "JoinsAgain",
            "message": "kubesyncd is about to join this node again",
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            await self._call(
                "PATCH", f"{self._node}/status", {"status": {"conditions": [condition]}}, _STRATEGIC
            )
        except Missing:
            return

    async def _pods_to_end(self, labels: frozenset[str]) -> list[dict[str, Any]]:
        """Return the pods that must end before the node is gone."""
        listed = await self._call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName%3D{quote(self._name)}")
        return [
            pod
            for pod in listed.get("items") or ()
            if _MIRROR not in (pod["metadata"].get("annotations") or {})
            and not _ended(pod)
            and (not _by_daemonset(pod) or labels & (pod["spec"].get("nodeSelector") or {}).keys())
        ]

    async def _delete_pod(self, metadata: dict[str, Any]) -> None:
        path = f"/api/v1/namespaces/{quote(metadata['namespace'])}/pods/{quote(metadata['name'])}"
        try:
            await self._call("DELETE", path)
        except Missing:
            return

    async def _call(self, method: str, path: str, body: Any = None, kind: str = _JSON) -> Any:
        """Get the answer's JSON. Raises Forbidden, Missing, Refused, Unavailable."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if data else {}
        with _edge(self._server):
            async with self._session.request(
                method, self._server + path, data=data, headers=headers
            ) as response:
                answer = await read_body(response, ANSWER_BYTES_MAX)
                if response.status >= 300:
                    raise _error(response.status, answer)
                return json.loads(answer)


def _by_daemonset(pod: dict[str, Any]) -> bool:
    return any(owner.get("kind") == "DaemonSet" for owner in pod["metadata"].get("ownerReferences") or ())


def _ended(pod: dict[str, Any]) -> bool:
    """Whether no container of the pod runs any more, nor will start again.

    A kubelet may take another minute to delete such a pod: 1.20 leaves that to its next collection of sandboxes.
    """
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or ()
    return status.get("phase") in ("Succeeded", "Failed") or (
        "deletionTimestamp" in pod["metadata"] and bool(containers) and all(map(_over, containers))
    )


def _over(container: dict[str, Any]) -> bool:
    state, before = container.get("state") or {}, container.get("lastState") or {}
    return "running" not in state and ("terminated" in state or "terminated" in before)


def _error(status: int, answer: bytes) -> PortError:
    text = status_message(answer)
    if text is None:
        text = answer.decode(errors="replace")
    return JOIN.error(status)(SERVICE, f"{status}: {escaped(text, DETAIL_MAX)}")


def _trusting(config: Kubeconfig, kubeconfig: Path, *, insecure: bool) -> ssl.SSLContext:
    """Create a TLS context that trusts the kubeconfig's CA only, without a client certificate. Raises Unavailable."""
    try:
        ca = config.ca.decoded().decode()
        return server_context(ca=ca, insecure=insecure)
    except (LookupError, TypeError, ValueError, ssl.SSLError) as error:
        raise Unavailable(SERVICE, f"the CA in {kubeconfig} cannot be used: {error}") from error


def _session(context: ssl.SSLContext, headers: dict[str, str] | None = None) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=CALL_S, connect=CONNECT_S)
    return short_session(context, timeout, {"User-Agent": "kubesyncd", **(headers or {})})


def _edge(where: str) -> AbstractContextManager[None]:
    """Translate foreign exceptions to Unavailable, with the fix where one is known."""

    def word(failed: NoAnswer) -> str:
        match failed.fault:
            case Fault.UNTRUSTED:
                fix = "check this switch's clock, the address, and the CA ([kube] ca_file)"
                return f"the certificate of {where} is not trusted: {failed.reason}; {fix}"
            case Fault.LATE:
                return f"{where} does not answer in time"
            case Fault.UNREACHABLE:
                return f"{failed.where} cannot be reached: {failed.reason}"
            case Fault.CLOSED | Fault.OTHER:
                return f"{where}: {escaped(failed.text, DETAIL_MAX)}"
            case _:
                assert_never(failed.fault)

    return answered(SERVICE, word, LookupError, TypeError)
