"""Check the Kubernetes adapter against a port that answers, but not as an API server does.

Whatever it is, both calls and the watch end with Unavailable, within their own deadlines, and in bounded memory.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("kubernetes_asyncio", reason="kubesyncd[kube] is not installed")

from kubesyncd.adapters import kube_connection
from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.core.model import MasterConfig
from kubesyncd.ports import Unavailable
from tests.lab.certificates import DAY, Authority, write_kubeconfig
from tests.lab.kube_client import shown
from tests.tools import fuzz

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NODE = "switch1"
# A call's own deadline, and as much again for a machine that is busy with something else.
BOUND_S = 12 * kube_connection.CALL_S
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Accepts all data and never answers."""
    while await reader.read(4096):
        pass


async def leaves(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Is gone at once."""


async def leaves_mid_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(4096)
    writer.write(HEAD + b'{"kind": "Node", "metadata": {"labels": {')
    await writer.drain()


async def trickles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One byte a second: each of them alone would be in time."""
    await reader.read(4096)
    for at in range(len(HEAD) + 1000):
        writer.write((HEAD + b" " * 1000)[at : at + 1])
        await writer.drain()
        await asyncio.sleep(1.0)


async def never_ends_its_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(4096)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 4000 + b"\r\n")
        await writer.drain()
        # Where the other end has gone, TLS over asyncio drains at once and never reports it.
        await asyncio.sleep(0)


async def never_ends_its_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(4096)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def babbles(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 100)
    await writer.drain()


class Rogue:
    """A port that behaves so. `tls`: which certificate it shows, for 127.0.0.1; with "none" it speaks no TLS."""

    def __init__(
        self, folder: Path, behaviour: Behaviour, *, tls: str = "good", address: str = "127.0.0.1"
    ) -> None:
        self._address = address
        self.kubeconfig = folder / "kubelet.conf"
        self._authority = Authority(folder / "ca")
        self._pair = self._authority.issue("kubelet", f"system:node:{NODE}", "system:nodes")
        self._behaviour = behaviour
        self._ssl = None if tls == "none" else self._context(folder, tls)

    def _context(self, folder: Path, tls: str) -> ssl.SSLContext:
        signer = Authority(folder / "others") if tls == "unknown CA" else self._authority
        server = signer.issue(
            "server", "kube-apiserver", server=True, valid=-DAY if tls == "expired" else DAY
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate, server.key)
        return context

    async def __aenter__(self) -> KubeCluster:
        self._server = await asyncio.start_server(self._serve, self._address, 0, ssl=self._ssl)
        port = self._server.sockets[0].getsockname()[1]
        url = f"https://{self._address}:{port}"
        write_kubeconfig(self.kubeconfig, url, self._authority.pem, self._pair, inline=False)
        self._adapter = KubeCluster(
            self.kubeconfig, lambda: NODE, MasterConfig(ip="127.0.0.1"), watch_s=2, silence_s=4
        )
        return self._adapter

    async def __aexit__(self, *_: object) -> None:
        await self._adapter.close()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError, TimeoutError):
            await self._behaviour(reader, writer)
        writer.close()


@pytest.mark.parametrize(
    ("behaviour", "tls"),
    [
        (silent, "none"), (leaves, "none"), (babbles, "none"),
        (silent, "good"), (leaves, "good"), (leaves_mid_reply, "good"), (trickles, "good"),
        (never_ends_its_headers, "good"), (never_ends_its_body, "good"),
        (silent, "expired"), (silent, "unknown CA"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
@pytest.mark.slow("waits for a deadline of the product")
async def test_whatever_answers_there_is_unavailable_in_time(
    tmp_path: Path, behaviour: Behaviour, tls: str
) -> None:
    async with Rogue(tmp_path, behaviour, tls=tls) as adapter:
        before, begun = fuzz.resident_bytes(), time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await adapter.apply_labels({"snmp_enabled": "true"})
        with pytest.raises(Unavailable):
            async with asyncio.timeout(BOUND_S):
                await shown(adapter.watch())
        assert time.monotonic() - begun < 2 * BOUND_S
        assert fuzz.resident_bytes() - before < 8 * fuzz.LEFT_BYTES_MAX
        assert refused.value.detail.isprintable()
    if tls in ("expired", "unknown CA"):
        assert "certificate" in refused.value.detail


async def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    async with Rogue(tmp_path, silent, address="127.0.0.2") as adapter:
        with pytest.raises(Unavailable, match="certificate"):
            await adapter.apply_labels({"snmp_enabled": "true"})
