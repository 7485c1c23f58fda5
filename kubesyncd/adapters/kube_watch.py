"""Watch the own Node's labels on the Kubernetes API server: list, then watch, and list again on any doubt.

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
from kubesyncd.core.text import one_line
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from kubesyncd.adapters.kube_connection import KubeConnection

WATCH_S = 30
# A quiet watch sends nothing until the server ends it after WATCH_S: only a longer silence means a dead connection.
SILENCE_S = 36.0
# Minimum interval between watches: a server that ends each one at once must not be asked in a tight loop.
WATCH_S_MIN = 1.0

# Only the metadata of the Node is transferred: a kubelet's heartbeat has ten times as many bytes.
ACCEPT_OBJECT = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_ACCEPT_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

_GONE = 410


@dataclass(frozen=True, slots=True)
class NodeLabels:
    """The Node's labels (None: no such Node) as of one resource version."""

    labels: Mapping[str, str] | None
    version: str


class NodeWatch:
    """The watch of one Node.

    `watch_s`: how long the server keeps one watch open. `silence_s`: after how long a silent connection is dead.
    """

    def __init__(self, connection: KubeConnection, node: str, *, watch_s: int, silence_s: float) -> None:
        self._connection = connection
        self._node = node
        self._watch_s = watch_s
        self._silence_s = silence_s

    async def labels(self) -> AsyncIterator[Mapping[str, str] | None]:
        """Yield the labels; see ports.Cluster.watch.

        After a version that the server has forgotten (410) the Node is listed again.
        """
        known: NodeLabels | None = None
        while True:
            listed = await self._list()
            if known is None or listed.labels != known.labels:
                yield listed.labels
            known = listed
            async with aclosing(self._follow(listed)) as changes:
                async for changed in changes:
                    if changed.labels != known.labels:
                        yield changed.labels
                    known = changed

    async def _list(self) -> NodeLabels:
        try:
            answer = await self._connection.ask(
                "GET",
                "/api/v1/nodes",
                query_params=[("fieldSelector", f"metadata.name={self._node}")],
                header_params={"Accept": _ACCEPT_LIST},
            )
        except StatusError as error:
            raise Unavailable(SERVICE, error.told) from None
        return decode_list(answer)

    async def _follow(self, known: NodeLabels) -> AsyncGenerator[NodeLabels, None]:
        """Yield changes after `known`, watch after watch; end when the server has forgotten that version."""
        clock = asyncio.get_running_loop().time
        first = True
        while True:
            opened, events, gone = clock(), 0, False
            try:
                async with self._watching(known.version) as response:
                    async for line in response.content:
                        after = decode_event(known, line)
                        if after is None:
                            gone = True
                            break
                        known = after
                        events += 1
                        yield known
            except StatusError as error:
                if error.status != _GONE:
                    raise Unavailable(SERVICE, error.told) from None
                gone = True
            in_vain = not events and clock() - opened < min(WATCH_S_MIN, self._watch_s / 2)
            if gone and not (first and in_vain):
                return
            if in_vain:
                raise Unavailable(SERVICE, "the master ended the watch at once")
            first = False

    def _watching(self, version: str) -> Any:
        return self._connection.call(
            "GET",
            "/api/v1/nodes",
            aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=self._silence_s),
            query_params=[
                ("fieldSelector", f"metadata.name={self._node}"),
                ("watch", "true"),
                ("resourceVersion", version),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", self._watch_s),
            ],
            header_params={"Accept": ACCEPT_OBJECT},
        )


def decode_list(answer: Any) -> NodeLabels:
    """Decode a list of at most one Node. Raises Unavailable."""
    try:
        nodes, version = answer.get("items") or [], str(answer["metadata"]["resourceVersion"])
        return NodeLabels(_labels(nodes[0]) if nodes else None, version)
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
                return NodeLabels(_labels(thing), str(thing["metadata"]["resourceVersion"]))
            case "DELETED":
                return NodeLabels(None, str(thing["metadata"]["resourceVersion"]))
            case "BOOKMARK":
                return replace(known, version=str(thing["metadata"]["resourceVersion"]))
            case "ERROR" if thing.get("code") == _GONE:
                return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(
            SERVICE, f"not a watch event: {one_line(line.decode(errors='replace'), DETAIL_LENGTH_MAX)}"
        ) from error
    raise Unavailable(SERVICE, f"the master ended the watch: {one_line(thing, DETAIL_LENGTH_MAX)}")


def _labels(node: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (node["metadata"].get("labels") or {}).items()}
