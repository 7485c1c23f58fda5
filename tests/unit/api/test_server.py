"""Check how connections to the sockets end, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog

from kubesyncd.api.connections import Connections
from kubesyncd.api.messages import Reply, Role
from kubesyncd.api.peer import Peer
from kubesyncd.api.server import Server

if TYPE_CHECKING:
    from kubesyncd.api.messages import Request

LIMIT_S = 30.0


async def answered(request: bytes, *, more: bytes = b"", half_close: bool = False) -> tuple[bytes, bool]:
    """Return the reply of a server whose verb `wait` waits for `release`, and whether the verb has ended."""
    release, ended = asyncio.Event(), asyncio.Event()

    async def wait(_: Request) -> Reply:
        try:
            await release.wait()
        finally:
            ended.set()
        return Reply(0)

    server = Server(
        {Role.HOST: {"wait": wait}, Role.CONTAINER: {}},
        connections=Connections(),
        identify=lambda _: Peer(pid=1, uid=0, gid=0, container_id=None),
        log=structlog.get_logger(),
        clock=asyncio.get_running_loop().time,
    )
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    serving = asyncio.create_task(server.serve(Role.HOST, reader, writer))
    client, sender = await asyncio.open_unix_connection(sock=ours)
    sender.write(request)
    if more:
        await asyncio.sleep(0.01)
        sender.write(more)
    else:
        release.set()
    if half_close:
        sender.write_eof()
    async with asyncio.timeout(LIMIT_S):
        reply = await client.read()
        await serving
    sender.close()
    return reply, ended.is_set()


async def test_a_client_that_sends_more_than_its_request_is_read_no_more() -> None:
    for request, more in ((b"1\0wait\n", b"x"), (b"1\0wait\nx", b"x" * 100)):
        reply, ended = await answered(request, more=more)
        assert reply.splitlines()[-1] == b"R 64"
        assert b"more was sent than one request; open a connection for each request" in reply
        assert ended


async def test_a_client_that_has_closed_its_sending_side_gets_its_answer() -> None:
    assert (await answered(b"1\0wait\n", half_close=True))[0] == b"R 0\n"
