"""Read, watch and change the own Node's labels on the Kubernetes API server: the Cluster port.

Does not know features, queues or when to retry. Imported only once a master is configured (see kube_connection).
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubesyncd.adapters.http_answer import OWN_NODE
from kubesyncd.adapters.kube_connection import FORBIDDEN, KubeConnection, StatusError
from kubesyncd.adapters.kube_credential import SERVICE
from kubesyncd.adapters.kube_watch import ACCEPT_OBJECT, SILENCE_S, WATCH_S, NodeWatch
from kubesyncd.ports import Forbidden, Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from kubesyncd.core.model import MasterConfig, NodeSeen

EVENT_LENGTH_MAX = 1000

_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"

# NodeRestriction answers 403 to a label that a node may not set on itself, an admission webhook to whatever it
# denies: the label is refused, not the credential.
_ABOUT_LABELS = ("is not allowed to modify labels", 'admission webhook "')
# The authorizer's own words, and NodeRestriction's about the Node of another one.
_ABOUT_CREDENTIAL = ('cannot patch resource "nodes"', "is not allowed to modify node ")


class KubeCluster:
    """ports.Cluster over the API server that `kubeconfig` names.

    `node_name` returns the own Node's name at the moment of use: it follows the kubelet's credential. Only
    `master.insecure` switches off the check of the server's certificate. Tests shorten the last two parameters
    (seconds).
    """

    def __init__(
        self,
        kubeconfig: Path,
        node_name: Callable[[], str],
        master: MasterConfig,
        *,
        watch_s: int = WATCH_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._node = node_name
        self._connection = KubeConnection(kubeconfig, insecure=master.insecure)
        self._watch = NodeWatch(self._connection, node_name, watch_s=watch_s, silence_s=silence_s)

    def watch(self) -> AsyncIterator[NodeSeen | None]:
        """See ports.Cluster."""
        return self._watch.nodes()

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        """See ports.Cluster. Without a change: no call."""
        try:
            await self._patch("labels", changes)
        except _Denied as denied:
            # A credential that may read the Node and change it is good.
            kind = Refused if await self._may_read() else Forbidden
            raise kind(SERVICE, denied.detail) from None

    async def _may_read(self) -> bool:
        """Return whether the credential may read the own Node."""
        try:
            await self._connection.ask(
                "GET",
                "/api/v1/nodes/{name}",
                path_params={"name": self._node()},
                header_params={"Accept": ACCEPT_OBJECT},
            )
        except (StatusError, Unavailable):
            return False
        return True

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        """See ports.Cluster. Without a change: no call."""
        await self._patch("annotations", changes)

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        """See ports.Cluster. `kubectl describe node` finds the event: it refers to the Node by its name alone."""
        now, node = datetime.now(UTC), self._node()
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {
                "name": f"{node}.{now.timestamp():.6f}".replace(".", "-"),
                "namespace": "default",
            },
            "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": node, "uid": node},
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:EVENT_LENGTH_MAX],
            "source": {"component": "kubesyncd", "host": node},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        with _answers(node):
            await self._connection.ask(
                "POST",
                "/api/v1/namespaces/default/events",
                header_params={"Accept": _JSON, "Content-Type": _JSON},
                body={"apiVersion": "v1", "kind": "Event", **event},
            )

    async def _patch(self, what: str, changes: Mapping[str, str | None]) -> None:
        if not changes:
            return
        node = self._node()
        with _answers(node):
            await self._connection.ask(
                "PATCH",
                "/api/v1/nodes/{name}",
                path_params={"name": node},
                header_params={"Accept": ACCEPT_OBJECT, "Content-Type": _MERGE_PATCH},
                body={"metadata": {what: dict(changes)}},
            )

    async def close(self) -> None:
        """See ports.Cluster. Running calls fail with Unavailable."""
        await self._connection.close()


class _Denied(Forbidden):
    """A change was denied, and not in words that blame the credential."""


def _denial(detail: str) -> type[PortError]:
    """Return what the server's words about a denied change are."""
    if any(words in detail for words in _ABOUT_LABELS):
        return Refused
    return Forbidden if any(words in detail for words in _ABOUT_CREDENTIAL) else _Denied


@contextmanager
def _answers(node: str) -> Iterator[None]:
    """Translate the server's refusals of a change."""
    try:
        yield
    except StatusError as error:
        kind = OWN_NODE.error(error.status)
        if error.status == FORBIDDEN and error.official:
            kind = _denial(error.detail)
        if kind is Missing:
            detail = f"node {node} is not registered yet; its kubelet registers it"
        else:
            detail = error.told if kind is Unavailable else error.detail
        raise kind(SERVICE, detail) from None
