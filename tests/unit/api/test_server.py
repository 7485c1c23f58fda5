"""Check how connections to the sockets end, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

from kubesyncd.api import server as server_module
from kubesyncd.api.connections import (
    CALLER_CONNECTIONS_MAX,
    CONNECTIONS_MAX,
    PROCESS_CONNECTIONS_MAX,
    WAITING_FOR_ONE_MAX,
    Connections,
    connections_max,
)
from kubesyncd.api.messages import AtLimit, Reply, Role
from kubesyncd.api.peer import Peer, PeerGone, PeerUnknown
from kubesyncd.api.server import BUSY_QUIET_S, Server
from kubesyncd.core import protocol
from kubesyncd.runtime.alerts import AlertLog, Alerts
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubesyncd.api.messages import Request

LIMIT_S = 120.0
HOST = Peer(pid=1, uid=0, gid=0, container_id=None)


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
        alerts=AlertLog(Alerts(), "requests", structlog.get_logger(), lambda: 0.0),
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


class Door:
    """A server over real connections. `wait NAME` waits for `release`, `stop` is answered at once, `show N` by N lines.

    `show N` is answered with N lines; `shout` says much, and waits. `peer`: who connects next; `now`: its clock.
    """

    def __init__(self, most: int = CONNECTIONS_MAX) -> None:
        self.peer: Callable[[], Peer] = lambda: HOST
        self.now = 1000.0
        self.release = asyncio.Event()
        log = structlog.get_logger()
        self._server = Server(
            {
                Role.HOST: {"wait": self._wait, "stop": self._stop, "show": self._show, "shout": self._shout},
                Role.CONTAINER: {"stop": self._stop},
            },
            connections=Connections(most),
            identify=lambda _: self.peer(),
            log=log,
            alerts=AlertLog(Alerts(), "requests", log, lambda: self.now),
            clock=lambda: self.now,
        )
        self.look = self._server.look
        self._open: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []

    async def _wait(self, request: Request) -> Reply:
        with request.waiting(request.argument(1)):
            request.say("waiting")
            await self.release.wait()
        return Reply(0)

    async def _stop(self, _: Request) -> Reply:
        return Reply(0)

    async def _show(self, request: Request) -> Reply:
        # Of 100 bytes each, when encoded.
        return Reply(0, out=("x" * 97 + "\n") * int(request.argument(1)))

    async def _shout(self, request: Request) -> Reply:
        for _ in range(100):
            request.say("x" * 10_000)
        await asyncio.Event().wait()
        raise AssertionError

    async def left_unread(self, *words: str) -> socket.socket:
        """Ask as a client that reads nothing; return its end of the connection."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        serving = asyncio.create_task(self._server.serve(Role.HOST, reader, writer))
        self._open.append((writer, serving))
        ours.sendall(protocol.encode_request(list(words)))
        return ours

    async def ask(self, *words: str, role: Role = Role.HOST) -> bytes:
        """The whole reply, or its beginning where the client is kept waiting; without words, nothing is sent."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=theirs)
        serving = asyncio.create_task(self._server.serve(role, reader, writer))
        client, sender = await asyncio.open_unix_connection(sock=ours)
        self._open.append((sender, serving))
        if words:
            sender.write(protocol.encode_request(list(words)))
        reply = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(LIMIT_S):
                while not reply.endswith(b"S waiting\n") and (chunk := await client.read(1000)):
                    reply += chunk
        return reply

    async def close(self) -> None:
        """Let all go."""
        self.release.set()
        await self._server.close()
        for sender, serving in self._open:
            sender.close()
            with suppress(asyncio.CancelledError):
                await serving


async def test_waiters_of_one_feature_are_bounded_and_all_other_requests_are_answered() -> None:
    door = Door()
    with capture_logs() as lines:
        for number in range(WAITING_FOR_ONE_MAX):
            door.peer = lambda number=number: Peer(number, 0, 0, None)  # type: ignore[misc]
            assert await door.ask("wait", "snmp") == b"S waiting\n"
        refused = [await door.ask("wait", "snmp") for _ in range(3)]
        assert await door.ask("wait", "lldp") == b"S waiting\n"
        assert await door.ask("stop", "snmp") == b"R 0\n"
        alerts = [line for line in lines if line.get("alert")]
        assert [line["event"] for line in alerts] == ["busy"]
        assert "host socket: 64 clients wait for snmp; more are told to ask again" in alerts[0]["why"]
        assert "64 waiting for snmp" in alerts[0]["why"]
        door.now += BUSY_QUIET_S - 1.0
        door.look()
        assert [line["event"] for line in lines if line["event"] == "recovered"] == []
        door.now += 1.0
        door.look()
        assert [line["event"] for line in lines if line["event"] == "recovered"] == ["recovered"]
    decoded = [protocol.decode_reply(reply) for reply in refused]
    assert {code for _, code in decoded} == {None}, "the client asks again"
    assert {said[0] for said, _ in decoded} == {("S", "kubesyncd is busy: 64 clients wait for snmp")}
    pauses = [float(said[1][1]) for said, _ in decoded]
    assert len(set(pauses)) == 3, "not all at once"
    assert all(server_module.WAIT_AGAIN_S <= pause <= 2 * server_module.WAIT_AGAIN_S for pause in pauses)
    await door.close()
    door.release.clear()
    assert await door.ask("wait", "snmp") == b"S waiting\n", "their places are free again"
    await door.close()


async def test_places_are_kept_for_requests_that_do_not_wait() -> None:
    door = Door(most=32)
    for number in range(24):
        assert await door.ask("wait", f"f{number}") == b"S waiting\n"
    assert b"24 clients wait for features" in await door.ask("wait", "snmp")
    assert await door.ask("stop", "snmp") == b"R 0\n"
    await door.close()


async def test_too_many_connections_are_answered_busy_and_never_closed_without_a_word() -> None:
    door = Door(most=4)
    idle = [asyncio.create_task(door.ask()) for _ in range(4)]
    await asyncio.sleep(0.05)
    reply = await door.ask("stop", "snmp")
    assert reply.startswith(b"S kubesyncd is busy: 4 connections are open\nA ")
    assert await door.ask("stop", "snmp", role=Role.CONTAINER) == b"R 0\n"
    await door.close()
    assert await door.ask("stop", "snmp") == b"R 0\n"
    for each in idle:
        each.cancel()


@pytest.mark.parametrize(
    ("peer", "role", "most", "who"),
    [
        (Peer(9, 0, 0, "ab" * 32), Role.CONTAINER, CALLER_CONNECTIONS_MAX, f"container {'ab' * 32}"),
        (Peer(9, 1000, 0, None), Role.CONTAINER, CALLER_CONNECTIONS_MAX, "uid 1000"),
        (Peer(9, 1000, 0, None), Role.HOST, PROCESS_CONNECTIONS_MAX, "pid 9 of uid 1000"),
    ],
)
async def test_one_caller_holds_so_many_connections_and_others_are_served(
    peer: Peer, role: Role, most: int, who: str
) -> None:
    door = Door()
    door.peer = lambda: peer
    idle = [asyncio.create_task(door.ask(role=role)) for _ in range(most)]
    await asyncio.sleep(0.1)
    reply = await door.ask("stop", "snmp", role=role)
    assert reply.startswith(f"S kubesyncd is busy: {who} holds {most} connections\nA ".encode())
    door.peer = lambda: Peer(10, 0, 0, None)
    assert await door.ask("stop", "snmp", role=role) == b"R 0\n"
    await door.close()
    for each in idle:
        each.cancel()


async def test_a_client_that_cannot_be_identified_for_want_of_descriptors_is_answered_busy() -> None:
    door = Door()

    def identify() -> Peer:
        raise AtLimit("its clients cannot be identified: Too many open files")

    door.peer = identify
    assert (await door.ask("stop", "snmp")).startswith(
        b"S kubesyncd is busy: its clients cannot be identified"
    )
    await door.close()


async def test_dropped_requests_are_logged_once_in_a_while() -> None:
    door = Door()

    def identify() -> Peer:
        raise PeerGone("process 7 has ended")

    door.peer = identify
    with capture_logs() as lines:
        for _ in range(5):
            assert await door.ask("stop", "snmp") == b""
        door.now += 11.0
        await door.ask("stop", "snmp")
    assert [(line["event"], line["requests"]) for line in lines] == [
        ("request_dropped", 1),
        ("request_dropped", 5),
    ]
    await door.close()


async def test_a_peer_that_cannot_be_identified_is_told_why_and_such_peers_are_limited() -> None:
    door = Door()

    def identify() -> Peer:
        raise PeerUnknown("process 7: its cgroups name 2 containers")

    door.peer = identify
    with capture_logs() as lines:
        for _ in range(2):
            said, code = protocol.decode_reply(await door.ask("stop", "snmp", role=Role.CONTAINER))
            assert code == protocol.EXIT_NOT_ALLOWED
            assert said == [
                (
                    "E",
                    "container: process 7: its cgroups name 2 containers; refused: it must be known who asks",
                )
            ]
        door.now += 11.0
        await door.ask("stop", "snmp")
    assert [(line["event"], line["requests"]) for line in lines] == [
        ("request_refused", 1),
        ("request_refused", 2),
    ]
    idle = [asyncio.create_task(door.ask()) for _ in range(CALLER_CONNECTIONS_MAX)]
    await asyncio.sleep(0.1)
    assert (await door.ask("stop", "snmp")).startswith(
        b"S kubesyncd is busy: an unidentified peer holds 16 connections\nA "
    )
    door.peer = lambda: HOST
    assert await door.ask("stop", "snmp") == b"R 0\n"
    await door.close()
    for each in idle:
        each.cancel()


def test_few_descriptors_leave_fewer_connections() -> None:
    assert [connections_max(each) for each in (4096, 1024, 64, errno.EMFILE)] == [1024, 384, 16, 16]


def closed(client: socket.socket) -> bool:
    """Whether the other end of a connection has been closed."""
    poll = select.poll()
    poll.register(client, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


# What the kernel does not take is less than asyncio's high-water mark, or more.
@pytest.mark.parametrize("more", [10_000, 2_000_000])
async def test_a_reply_that_is_not_read_holds_no_descriptor_for_long(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REPLY_S_MAX", 0.2)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    lines = (theirs.send(bytes(more + 4_000_000)) + more) // 100
    ours.close()
    theirs.close()
    door = Door()
    clients = [await door.left_unread("show", str(lines)) for _ in range(3)]
    await until_async(lambda: all(map(closed, clients)))
    await door.close()
    for client in clients:
        client.close()


async def test_a_waiter_that_reads_nothing_holds_no_descriptor_once_the_daemon_ends() -> None:
    door = Door()
    client = await door.left_unread("shout", "snmp")
    await asyncio.sleep(0.05)
    assert not closed(client)
    await door.close()
    await until_async(lambda: closed(client))
    client.close()
