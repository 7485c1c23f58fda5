"""Call the Kubernetes API server with the kubelet's credential, each call with a deadline.

Imported only once a master is configured: it imports kubernetes_asyncio (see kube_lean). The library builds the calls.
This module adds three things: a session that ignores proxy variables and probes its peer, a deadline on every call,
and a new client when the kubelet has rotated its certificate (a connection keeps the one it was opened with).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import aiohttp

from kubesyncd.adapters import kube_lean
from kubesyncd.adapters.http_answer import status_message
from kubesyncd.adapters.http_session import Fault, NoAnswer, answered, read_body
from kubesyncd.adapters.kube_credential import SERVICE, files, read, stamp, tls_context
from kubesyncd.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path

ApiClient, Configuration = kube_lean.load()

CONNECT_S = 3.0
CALL_S = 5.0
# Sooner than an API server closes an idle connection, and late enough to wake up seldom.
KEEPALIVE_S = 60.0
DETAIL_LENGTH_MAX = 240
ANSWER_BYTES_MAX = 8 * 2**20
LINE_BYTES_MAX = 2**21

UNAUTHORIZED = 401
FORBIDDEN = 403
_GOOD = (200, 201)
_FIXES = {
    UNAUTHORIZED: "the master does not accept the kubelet's certificate, which may have expired, or be another "
    "master's: config kube join -f",
    FORBIDDEN: "the master does not let this node do so; allow it there: the kubelet's user is of the group "
    "system:nodes",
}


class StatusError(Exception):
    """An answer of the server other than success. `official`: in Kubernetes' own form, not that of a proxy."""

    def __init__(self, status: int, detail: str, *, official: bool = False) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.official = official

    @property
    def told(self) -> str:
        """Return the server's message, with the fix where one is known."""
        fix = _FIXES.get(self.status)
        return f"{self}; {fix}" if fix else str(self)


@dataclass(slots=True)
class _Client:
    """A client with one credential; the last user of a retired client closes it."""

    api: Any
    files: tuple[Path, ...]
    stamp: tuple[object, ...]
    users: int = 0
    retired: bool = False


class KubeConnection:
    """Calls to the API server that `kubeconfig` names. `insecure`: the server's certificate is not checked."""

    def __init__(self, kubeconfig: Path, *, insecure: bool) -> None:
        self._kubeconfig = kubeconfig
        self._insecure = insecure
        self._client: _Client | None = None

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        """Get one whole JSON answer within CALL_S; after a 401 read the credential again and try once more."""
        limits = aiohttp.ClientTimeout(total=CALL_S, connect=CONNECT_S)
        with _edge(self._kubeconfig):
            async with asyncio.timeout(CALL_S):
                for last in (False, True):
                    try:
                        async with self.call(method, path, limits, **request) as response:
                            return json.loads(await _read(response))
                    except StatusError as error:
                        if error.status != UNAUTHORIZED or last:
                            raise
        raise AssertionError("the second try returns or raises")

    @asynccontextmanager
    async def call(self, method: str, path: str, limits: aiohttp.ClientTimeout, **request: Any) -> Any:
        """Open a good answer. Raises StatusError on any other, Unavailable without one."""
        with _edge(self._kubeconfig):
            async with self._leased() as client:
                response = await client.api.call_api(
                    path, method, _preload_content=False, _request_timeout=limits, **request
                )
                async with response:
                    if response.status == UNAUTHORIZED:
                        self._retire(client)
                    if response.status not in _GOOD:
                        raise await _status_error(response)
                    yield response

    async def close(self) -> None:
        """Close every connection. Running calls fail with Unavailable."""
        client, self._client = self._client, None
        if client:
            client.retired = True
            await client.api.close()

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[_Client]:
        """Yield the client with the current credential.

        A watch on the previous one continues until it ends by itself.
        """
        old = self._client
        if old is None or old.stamp != stamp(old.files):
            self._client = _connect(self._kubeconfig, insecure=self._insecure)
        client = self._client
        assert client is not None
        client.users += 1
        try:
            if old is not None and old is not client:
                old.retired = True
                await _close_unused(old)
            yield client
        finally:
            client.users -= 1
            await _close_unused(client)

    def _retire(self, client: _Client) -> None:
        client.retired = True
        if self._client is client:
            self._client = None


async def _close_unused(client: _Client) -> None:
    if client.retired and not client.users:
        await client.api.close()


def _connect(kubeconfig: Path, *, insecure: bool) -> _Client:
    """Create a client from the kubeconfig's current context. Raises Unavailable where it cannot be used."""
    before = stamp((kubeconfig,))
    config = read(kubeconfig)
    named = files(kubeconfig, config)
    read_at = before + stamp(named)
    context = tls_context(kubeconfig, config, insecure=insecure)
    api = ApiClient(Configuration(host=config.server))
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
    return _Client(api, (kubeconfig, *named), read_at)


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


async def _status_error(response: Any) -> StatusError:
    """Make the error with the server's own message, and how long it asks to wait."""
    body = await _read(response)
    said = status_message(body)
    text = f"{response.reason}: {body.decode(errors='replace')}" if said is None else said
    wait = response.headers.get("Retry-After", "")
    quoted = f" (retry_after={wait})" if wait.isascii() and wait.isdigit() else ""
    detail = one_line(text, DETAIL_LENGTH_MAX) + quoted
    return StatusError(response.status, detail, official=said is not None)
