"""Read, watch and change the own Node's labels on the Kubernetes API server: the Cluster port.

Knows HTTP, TLS and the kubelet's credential; knows nothing of features, queues or when to retry.
Imported only once a master is configured: it imports kubernetes_asyncio (see kube_lean).

The library builds the calls. This module adds three things: a session that ignores proxy variables and probes its
peer, a deadline on every call, and a new client when the kubelet has rotated its certificate (a connection keeps the
one it was opened with).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import aiohttp

from kubesyncd.adapters import kube_lean
from kubesyncd.adapters.http_answer import OWN_NODE, one_line, status_message
from kubesyncd.adapters.http_session import Fault, NoAnswer, answered, read_body
from kubesyncd.adapters.kubeconfig import SERVICE, current_context, tls_context
from kubesyncd.ports import Missing, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
    from contextlib import AbstractContextManager

    from kubesyncd.core.model import MasterConfig

ApiClient, Configuration = kube_lean.load()

CONNECT_S = 3.0
CALL_S = 5.0
WATCH_S = 30
# A quiet watch sends nothing until the server ends it after WATCH_S: only a longer silence means a dead connection.
SILENCE_S = 36.0
# Sooner than an API server closes an idle connection, and late enough to wake up seldom.
KEEPALIVE_S = 60.0
# Minimum interval between watches: a server that ends each one at once must not be asked in a tight loop.
WATCH_S_MIN = 1.0
DETAIL_LENGTH_MAX = 240
EVENT_LENGTH_MAX = 1000
ANSWER_BYTES_MAX = 8 * 2**20
LINE_BYTES_MAX = 2**21

# Only the metadata of the Node is transferred: a kubelet's heartbeat carries ten times as much.
_ACCEPT_OBJECT = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_ACCEPT_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"

# NodeRestriction answers 403 to a label that a node may not set on itself: the label is wrong, not the credential.
_ABOUT_LABELS = "is not allowed to modify labels"

_GOOD = (200, 201)
_GONE = 410
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_FIXES = {
    _UNAUTHORIZED: "the master does not take the kubelet's certificate, which may have expired, or be another "
    "master's: config kube join -f",
    _FORBIDDEN: "the master does not let this node do so: allow it, or join again: config kube join -f",
}


class _StatusError(Exception):
    """An answer of the server other than success."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail

    @property
    def told(self) -> str:
        """The server's message, with the fix where one is known."""
        fix = _FIXES.get(self.status)
        return f"{self}; {fix}" if fix else str(self)


@dataclass(frozen=True, slots=True)
class _Look:
    """The Node's labels (None: no such Node) as of one resource version."""

    labels: Mapping[str, str] | None
    version: str


@dataclass(slots=True)
class _Link:
    """A client with one credential; the last user of a retired client closes it."""

    api: Any
    files: tuple[str, ...]
    stamp: tuple[object, ...]
    users: int = 0
    retired: bool = False


class KubeCluster:
    """ports.Cluster over the API server that `kubeconfig` names, as the node `node_name`.

    Only `master.insecure` switches off the check of the server's certificate. Tests shorten the last two parameters
    (seconds).
    """

    def __init__(
        self,
        kubeconfig: Path,
        node_name: str,
        master: MasterConfig,
        *,
        watch_s: int = WATCH_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._node = node_name
        self._insecure = master.insecure
        self._watch_s = watch_s
        self._silence_s = silence_s
        self._link: _Link | None = None

    async def watch(self) -> AsyncIterator[Mapping[str, str] | None]:
        """See ports.Cluster. After a version that the server has forgotten (410) the Node is listed again."""
        known: _Look | None = None
        while True:
            listed = await self._list()
            if known is None or listed.labels != known.labels:
                yield listed.labels
            known = listed
            async with aclosing(self._follow(listed)) as looks:
                async for look in looks:
                    if look.labels != known.labels:
                        yield look.labels
                    known = look

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        """See ports.Cluster. Without a change: no call."""
        await self._patch("labels", changes)

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        """See ports.Cluster. Without a change: no call."""
        await self._patch("annotations", changes)

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        """See ports.Cluster. `kubectl describe node` finds the event: it refers to the Node by its name alone."""
        now = datetime.now(UTC)
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {
                "name": f"{self._node}.{now.timestamp():.6f}".replace(".", "-"),
                "namespace": "default",
            },
            "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": self._node, "uid": self._node},
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:EVENT_LENGTH_MAX],
            "source": {"component": "kubesyncd", "host": self._node},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        with _answers(self._node):
            await self._ask(
                "POST",
                "/api/v1/namespaces/default/events",
                header_params={"Accept": _JSON, "Content-Type": _JSON},
                body={"apiVersion": "v1", "kind": "Event", **event},
            )

    async def _patch(self, what: str, changes: Mapping[str, str | None]) -> None:
        if not changes:
            return
        with _answers(self._node):
            await self._ask(
                "PATCH",
                "/api/v1/nodes/{name}",
                path_params={"name": self._node},
                header_params={"Accept": _ACCEPT_OBJECT, "Content-Type": _MERGE_PATCH},
                body={"metadata": {what: dict(changes)}},
            )

    async def close(self) -> None:
        """See ports.Cluster. Running calls fail with Unavailable."""
        link, self._link = self._link, None
        if link:
            link.retired = True
            await link.api.close()

    async def _list(self) -> _Look:
        try:
            answer = await self._ask(
                "GET",
                "/api/v1/nodes",
                query_params=[("fieldSelector", f"metadata.name={self._node}")],
                header_params={"Accept": _ACCEPT_LIST},
            )
        except _StatusError as error:
            raise Unavailable(SERVICE, error.told) from None
        try:
            nodes, version = answer.get("items") or [], str(answer["metadata"]["resourceVersion"])
            return _Look(_labels(nodes[0]) if nodes else None, version)
        except (AttributeError, KeyError, TypeError) as error:
            raise Unavailable(
                SERVICE, "the server is not a Kubernetes API server: a list without version"
            ) from error

    async def _follow(self, look: _Look) -> AsyncGenerator[_Look, None]:
        """Changes after `look`, watch after watch; ends when the server has forgotten that version."""
        clock = asyncio.get_running_loop().time
        first = True
        while True:
            opened, events, gone = clock(), 0, False
            try:
                async with self._watching(look.version) as response:
                    async for line in response.content:
                        after = _after(look, line)
                        if after is None:
                            gone = True
                            break
                        look = after
                        events += 1
                        yield look
            except _StatusError as error:
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
        return self._call(
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
            header_params={"Accept": _ACCEPT_OBJECT},
        )

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        """Get one whole JSON answer within CALL_S; after a 401 read the credential again and try once more."""
        limits = aiohttp.ClientTimeout(total=CALL_S, connect=CONNECT_S)
        with _edge(self._kubeconfig):
            async with asyncio.timeout(CALL_S):
                for last in (False, True):
                    try:
                        async with self._call(method, path, limits, **request) as response:
                            return json.loads(await _read(response))
                    except _StatusError as error:
                        if error.status != _UNAUTHORIZED or last:
                            raise
        raise AssertionError("the second try returns or raises")

    @asynccontextmanager
    async def _call(self, method: str, path: str, limits: aiohttp.ClientTimeout, **request: Any) -> Any:
        """Open a good answer. Raises _StatusError on any other, Unavailable without one."""
        with _edge(self._kubeconfig):
            async with self._leased() as link:
                response = await link.api.call_api(
                    path, method, _preload_content=False, _request_timeout=limits, **request
                )
                async with response:
                    if response.status == _UNAUTHORIZED:
                        self._retire(link)
                    if response.status not in _GOOD:
                        raise _StatusError(response.status, await _reason(response))
                    yield response

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[_Link]:
        """The client with the current credential. A watch on the previous one continues until it ends by itself."""
        old = self._link
        if old is None or old.stamp != _stamp(old.files):
            self._link = _connect(self._kubeconfig, insecure=self._insecure)
        link = self._link
        assert link is not None
        link.users += 1
        try:
            if old is not None and old is not link:
                old.retired = True
                await _close_unused(old)
            yield link
        finally:
            link.users -= 1
            await _close_unused(link)

    def _retire(self, link: _Link) -> None:
        link.retired = True
        if self._link is link:
            self._link = None


@contextmanager
def _answers(node: str) -> Iterator[None]:
    """Translate the server's refusals of a change."""
    try:
        yield
    except _StatusError as error:
        kind = OWN_NODE.error(error.status)
        if _ABOUT_LABELS in error.detail and error.status == _FORBIDDEN:
            kind = Refused
        if kind is Missing:
            detail = f"node {node} is not registered yet; its kubelet registers it"
        else:
            detail = error.told if kind is Unavailable else error.detail
        raise kind(SERVICE, detail) from None


async def _close_unused(link: _Link) -> None:
    if link.retired and not link.users:
        await link.api.close()


def _connect(kubeconfig: Path, *, insecure: bool) -> _Link:
    """Create a client from the kubeconfig's current context. Raises Unavailable where it cannot be used."""
    before = _stamp((str(kubeconfig),))
    cluster, user = current_context(kubeconfig)
    files = (
        str(kubeconfig),
        *(
            str(kubeconfig.parent / str(part[key]))
            for part, key in (
                (cluster, "certificate-authority"),
                (user, "client-certificate"),
                (user, "client-key"),
            )
            if key in part
        ),
    )
    stamp = before + _stamp(files[1:])
    context = tls_context(kubeconfig.parent, cluster, user, insecure=insecure)
    api = ApiClient(Configuration(host=str(cluster["server"]).rstrip("/")))
    # The library's own session uses proxy variables and has no keepalive. It has opened no connection yet.
    api.rest_client.pool_manager.detach()
    api.rest_client.pool_manager = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=context, limit=4, socket_factory=_probed_socket, keepalive_timeout=KEEPALIVE_S
        ),
        trust_env=False,
        read_bufsize=LINE_BYTES_MAX,
    )
    api.user_agent = "kubesyncd"
    return _Link(api, files, stamp)


def _stamp(files: tuple[str, ...]) -> tuple[object, ...]:
    """A value that changes whenever one of `files` does; a missing file counts as a change, not as an error."""
    return tuple(_identity(file) for file in files)


def _identity(file: str) -> tuple[int, int, int] | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _probed_socket(address: Any) -> socket.socket:
    """Create a socket whose kernel gives up on a vanished peer within about 25 s, idle or with unsent data."""
    family, kind, protocol, *_ = address
    probed = socket.socket(family, kind, protocol)
    probed.setblocking(False)
    probed.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)
    return probed


def _edge(kubeconfig: Path) -> AbstractContextManager[None]:
    """Translate foreign exceptions to Unavailable, with the fix where one is known."""

    def word(failed: NoAnswer) -> str:
        match failed.fault:
            case Fault.UNTRUSTED:
                fix = f"check this switch's clock, and that {kubeconfig} is from this master"
                return f"the master's certificate is not trusted: {failed.reason}; {fix}"
            case Fault.LATE:
                return "the master does not answer in time"
            case Fault.UNREACHABLE:
                # asyncio words it as a failed call; the kernel's own message is plainer.
                reason = os.strerror(failed.errno) if failed.errno else failed.reason
                return f"{failed.where} cannot be reached: {reason}"
            case Fault.CLOSED:
                return "the master closed the connection"
            case Fault.OTHER:
                return one_line(failed.text, DETAIL_LENGTH_MAX)
            case _:
                assert_never(failed.fault)

    return answered(SERVICE, word)


async def _read(response: Any) -> bytes:
    return await read_body(response, ANSWER_BYTES_MAX, "the master's answer")


async def _reason(response: Any) -> str:
    """The server's own message, and how long it asks to wait."""
    body = await _read(response)
    text = status_message(body)
    if text is None:
        text = f"{response.reason}: {body.decode(errors='replace')}"
    wait = response.headers.get("Retry-After", "")
    quoted = f" (retry_after={wait})" if wait.isascii() and wait.isdigit() else ""
    return one_line(text, DETAIL_LENGTH_MAX) + quoted


def _after(look: _Look, line: bytes) -> _Look | None:
    """`look` after one watch event; None: the server has forgotten our version. Raises Unavailable."""
    try:
        event = json.loads(line)
        kind, thing = event["type"], event["object"]
        match kind:
            case "ADDED" | "MODIFIED":
                return _Look(_labels(thing), str(thing["metadata"]["resourceVersion"]))
            case "DELETED":
                return _Look(None, str(thing["metadata"]["resourceVersion"]))
            case "BOOKMARK":
                return replace(look, version=str(thing["metadata"]["resourceVersion"]))
            case "ERROR" if thing.get("code") == _GONE:
                return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unavailable(
            SERVICE, f"not a watch event: {one_line(line.decode(errors='replace'), DETAIL_LENGTH_MAX)}"
        ) from error
    raise Unavailable(SERVICE, f"the master ended the watch: {one_line(thing, DETAIL_LENGTH_MAX)}")


def _labels(node: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (node["metadata"].get("labels") or {}).items()}
