"""Watch the own Node's labels on the Kubernetes API server: list, watch until that ends, and list again.

Knows Kubernetes' list and watch; the calls are KubeConnection's.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp

from kubesyncd.adapters.kube_connection import CONNECT_S, DETAIL_LENGTH_MAX, StatusError
from kubesyncd.adapters.kube_credential import SERVICE
from kubesyncd.core.model import NodeSeen
from kubesyncd.core.node_condition import condition_of
from kubesyncd.core.text import number_in, one_line
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from kubesyncd.adapters.kube_connection import KubeConnection
    from kubesyncd.core.node_condition import NodeCondition

WATCH_S = 30
# A quiet watch sends nothing until the server ends it after WATCH_S: only a longer silence means a dead connection.
SILENCE_S = 36.0
# Minimum interval between watches: a server that ends each one at once must not be asked in a tight loop.
WATCH_S_MIN = 1.0
# How often an unchanged Node is reported too: the store's version, once kept, tells an older store after a restart.
VERSION_S = 3600.0

# A Node's object has ten times as many bytes as its metadata. The watch sends it when it changes, every 5 minutes at
# least. After a watch, the metadata alone tells whether the object is still the known one.
ACCEPT_OBJECT = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_ACCEPT_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_ACCEPT_WHOLE = "application/json"

_GONE = 410


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """The Node's labels, UID and state (labels None: no such Node) as of one resource version of the store.

    `object_version`: the version of the object itself.
    """

    labels: Mapping[str, str] | None
    uid: str
    version: str
    object_version: str = ""
    condition: NodeCondition | None = None

    def same(self, other: NodeLabels) -> bool:
        """Return whether it is the same Node with the same labels and state."""
        return (self.labels, self.uid, self.condition) == (other.labels, other.uid, other.condition)

    def seen(self, *, older: bool = False) -> NodeSeen | None:
        """Return it as ports.Cluster has it."""
        if self.labels is None:
            return None
        return NodeSeen(self.labels, self.uid, older, self.condition, number_in(self.version))


class NodeWatch:
    """The watch of one Node; `node` returns its name at the moment of use.

    `watch_s`: how long the server keeps one watch open. `silence_s`: after how long a silent connection is dead.
    """

    def __init__(
        self, connection: KubeConnection, node: Callable[[], str], *, watch_s: int, silence_s: float
    ) -> None:
        self._connection = connection
        self._node = node
        self._watch_s = watch_s
        self._silence_s = silence_s
        # The store's newest version, 0 for one that is no number: a list with a lower one comes from another store.
        self._newest = 0

    async def nodes(self) -> AsyncIterator[NodeSeen | None]:
        """Yield the Node; see ports.Cluster.watch.

        The Node is listed after every watch, however that one ended. Behind one address there may be another API server
        by then, with an older store: a watch from a version that its store has not reached reports nothing.
        """
        clock = asyncio.get_running_loop().time
        known: NodeLabels | None = None
        lasted, told_at = False, clock()
        while True:
            listed = await self._list_after(known)
            older = number_in(listed.version) < self._newest
            if known is None or older or not listed.same(known) or clock() >= told_at + VERSION_S:
                told_at = clock()
                yield listed.seen(older=older)
            self._newest = number_in(listed.version)
            known, opened, events = listed, clock(), 0
            async with aclosing(self._follow(listed)) as changes:
                async for changed in changes:
                    if not changed.same(known):
                        yield changed.seen()
                    known, self._newest = changed, max(self._newest, number_in(changed.version))
                    events += 1
            in_vain = not events and clock() - opened < min(WATCH_S_MIN, self._watch_s / 2)
            if in_vain and not lasted:
                raise Unavailable(SERVICE, "the master ended the watch at once")
            lasted = not in_vain

    async def _list_after(self, known: NodeLabels | None) -> NodeLabels:
        """List the Node; its whole object only where it is not the known one."""
        if known is not None and known.labels is not None:
            listed = await self._list(_ACCEPT_LIST)
            if listed.labels is None:
                return listed
            if (listed.uid, listed.object_version) == (known.uid, known.object_version):
                return replace(listed, condition=known.condition)
        return await self._list(_ACCEPT_WHOLE)

    async def _list(self, accept: str) -> NodeLabels:
        try:
            answer = await self._connection.ask(
                "GET",
                "/api/v1/nodes",
                query_params=[("fieldSelector", f"metadata.name={self._node()}")],
                header_params={"Accept": accept},
            )
        except StatusError as error:
            raise Unavailable(SERVICE, error.told) from None
        return decode_list(answer)

    async def _follow(self, known: NodeLabels) -> AsyncGenerator[NodeLabels, None]:
        """Yield changes after `known` until the watch ends in order, or the server has forgotten the version."""
        try:
            async with self._watching(known.version) as response:
                while line := await self._line(response):
                    after = decode_event(known, line)
                    if after is None:
                        break
                    known = after
                    yield known
        except StatusError as error:
            if error.status != _GONE:
                raise Unavailable(SERVICE, error.told) from None

    async def _line(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the next event's line; empty at the end. Raises Unavailable.

        Only whole events count as a sign of life: a server or proxy in between may send a byte now and then for ever.
        """
        try:
            async with asyncio.timeout(self._silence_s):
                return await response.content.readline()
        except TimeoutError as error:
            raise Unavailable(SERVICE, f"the watch was silent for {self._silence_s:g} s") from error

    def _watching(self, version: str) -> Any:
        return self._connection.call(
            "GET",
            "/api/v1/nodes",
            aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=self._silence_s),
            query_params=[
                ("fieldSelector", f"metadata.name={self._node()}"),
                ("watch", "true"),
                ("resourceVersion", version),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", self._watch_s),
            ],
            header_params={"Accept": _ACCEPT_WHOLE},
        )


def decode_list(answer: Any) -> NodeLabels:
    """Decode a list of at most one Node. Raises Unavailable."""
    try:
        nodes, version = answer.get("items") or [], str(answer["metadata"]["resourceVersion"])
        return _node(nodes[0], version) if nodes else NodeLabels(None, "", version)
    except (AttributeError, KeyError, TypeError) as error:
        raise Unavailable(
            SERVICE, "the server is not a Kubernetes API server: a list without version"
        ) from error


def decode_event(known: NodeLabels, line: bytes) -> NodeLabels | None:
    """Return `known` after one watch event; None: the server has forgotten our version. Raises Unavailable."""
    try:
        event = json.loads(line)
        kind, thing = event["type"], event["object"]
        match kind:
            case "ADDED" | "MODIFIED":
                return _node(thing, str(thing["metadata"]["resourceVersion"]))
            case "DELETED":
                return NodeLabels(None, "", str(thing["metadata"]["resourceVersion"]))
            case "BOOKMARK":
                return replace(known, version=str(thing["metadata"]["resourceVersion"]))
            case "ERROR" if thing.get("code") == _GONE:
                return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(
            SERVICE, f"not a watch event: {one_line(line.decode(errors='replace'), DETAIL_LENGTH_MAX)}"
        ) from error
    raise Unavailable(SERVICE, f"the master ended the watch: {one_line(thing, DETAIL_LENGTH_MAX)}")


def _node(node: dict[str, Any], version: str) -> NodeLabels:
    metadata = node["metadata"]
    labels = {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()}
    spec, status = node.get("spec") or {}, node.get("status")
    condition = None
    if status is not None:
        cordoned = spec.get("unschedulable") is True
        condition = condition_of(status.get("conditions") or (), spec.get("taints") or (), cordoned=cordoned)
    uid, object_version = (str(metadata.get(key) or "") for key in ("uid", "resourceVersion"))
    return NodeLabels(labels, uid, version, object_version, condition)
