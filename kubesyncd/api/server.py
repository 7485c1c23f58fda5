"""Serve the two Unix sockets: identify peers, limit them, decode requests, send replies.

Knows the wire protocol; knows no feature and no adapter. The kernel identifies a peer; a peer's own claims are never
trusted.
"""

from __future__ import annotations

import asyncio
import select
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from kubesyncd.api.connections import CALLER_CONNECTIONS_MAX, PROCESS_CONNECTIONS_MAX
from kubesyncd.api.handlers import refused
from kubesyncd.api.messages import AtLimit, Denied, Reply, Request, Role, failure
from kubesyncd.api.peer import PeerGone, PeerUnknown
from kubesyncd.api.rate_limit import Caller
from kubesyncd.core import protocol
from kubesyncd.core.protocol import BadRequest
from kubesyncd.ports import Missing, PortError, Refused

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.connections import Connections
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.peer import Peer
    from kubesyncd.runtime.alerts import AlertLog

# Containers, and users of the host, whose requests per time are limited.
CALLERS_MAX = 1024
REQUEST_S_MAX = 5.0
REPLY_S_MAX = 10.0
# A client sends its request as soon as it is connected.
UNREAD_S_MAX = 0.05
# A client that does not read its status lines gets no more of them.
UNREAD_BYTES_MAX = 65536
HALF_CLOSED_LOOK_S = 2.0
# A refused client asks again after these seconds, more or less; one that would wait without a limit has time.
AGAIN_S = 0.5
WAIT_AGAIN_S = 10.0
SPREAD = 0.618
# Without a refusal for this long, the daemon is not busy any more.
BUSY_QUIET_S = 30.0
NOTED_S = 10.0
UNKNOWN_PEER = "an unidentified peer"
SENT_MORE = "more was sent than one request; open a connection for each request"


class Server:
    """Serve both sockets. `identify` identifies a peer by the kernel; `verbs` has the handlers, by socket."""

    def __init__(
        self,
        verbs: Mapping[Role, Mapping[str, Handler]],
        *,
        connections: Connections,
        identify: Callable[[socket.socket], Peer],
        log: FilteringBoundLogger,
        alerts: AlertLog,
        clock: Callable[[], float],
    ) -> None:
        self._verbs = verbs
        self._identify = identify
        self._log = log
        self._alerts = alerts
        self._clock = clock
        self._connections = connections
        self._refusals, self._busy_at = 0, -BUSY_QUIET_S
        # Of requests that were not carried out, by event: when they were logged last, and how many came since.
        self._noted: dict[str, tuple[float, int]] = {}
        self._callers: OrderedDict[str, Caller] = OrderedDict()

    async def serve(self, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, one reply. Never raises."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        try:
            answer = await self._answer(role, task, reader, writer)
            if answer:
                writer.write(answer)
                # By itself, `drain` waits for the client only where much is unread.
                writer.transport.set_write_buffer_limits(high=0)
                async with asyncio.timeout(REPLY_S_MAX):
                    await writer.drain()
        except PeerGone as error:
            self._note("request_dropped", str(error))
        except (ConnectionError, TimeoutError):
            pass
        except asyncio.CancelledError:
            # Only `close` cancels this coroutine, and asyncio would log a cancelled handler as a failure.
            pass
        except Exception:  # noqa: BLE001 - a bug may end only its own request
            self._log.exception("request_failed")
        finally:
            self._connections.remove(role, task)
            _end(writer)

    async def close(self) -> None:
        """End every connection; clients ask the next daemon again."""
        await self._connections.close(REPLY_S_MAX)

    def look(self) -> None:
        """Note the end of a time in which requests were refused. Call this now and then."""
        if self._clock() >= self._busy_at + BUSY_QUIET_S:
            self._alerts.end("busy")

    async def _answer(
        self, role: Role, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """Return what the client is answered; empty where it has gone."""
        try:
            self._connections.add(role, task)
            reply = await self._respond(role, task, reader, writer)
        except AtLimit as limit:
            answer = self._busy(role, limit)
            if not limit.waits:
                # Not read yet, and a client that cannot send its request may not read the answer.
                with suppress(TimeoutError, BadRequest):
                    async with asyncio.timeout(UNREAD_S_MAX):
                        await _read_request(reader)
            return answer
        return b"" if reply is None else reply.encode()

    def _busy(self, role: Role, limit: AtLimit) -> bytes:
        """Return the answer to a request that a limit keeps out, and raise one alert for all of them."""
        self._busy_at = self._clock()
        self._refusals += 1
        holders = self._connections.holders(role)
        text = f"{role.value} socket: {limit}; more are told to ask again; who holds connections: {holders}"
        self._alerts.begin("busy", text)
        # Clients that were refused together should not all ask again together.
        again_s = (WAIT_AGAIN_S if limit.waits else AGAIN_S) * (1.0 + self._refusals * SPREAD % 1.0)
        return protocol.busy(f"kubesyncd is busy: {limit}", again_s)

    def _note(self, event: str, why: str) -> None:
        """Log requests whose peer is not known, once in a while: their number, and why the last one's is not."""
        now, (logged_at, before) = self._clock(), self._noted.get(event, (-NOTED_S, 0))
        if now >= logged_at + NOTED_S:
            self._log.info(event, why=why, requests=before + 1)
            logged_at, before = now, -1
        self._noted[event] = (logged_at, before + 1)

    async def _respond(
        self, role: Role, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply | None:
        """Return the reply to the connection's request; None where the client has gone. Raises AtLimit."""
        try:
            peer = self._identify(writer.get_extra_info("socket"))
        except PeerUnknown as unknown:
            return await self._refuse(role, task, reader, str(unknown))
        most, who = CALLER_CONNECTIONS_MAX, ""
        if peer.container_id is not None:
            who = f"container {peer.container_id}"
        elif role is Role.CONTAINER and peer.uid:
            # Any user of the host may connect there; none of them may block containers.
            who = f"uid {peer.uid}"
        else:
            most = PROCESS_CONNECTIONS_MAX
        self._connections.of_caller(role, task, who or f"pid {peer.pid} of uid {peer.uid}", most)
        if who:
            await asyncio.sleep(self._caller(who).delay_s(self._clock()))
        return await self._converse(role, peer, reader, writer)

    async def _refuse(
        self, role: Role, task: asyncio.Task[Any], reader: asyncio.StreamReader, why: str
    ) -> Reply:
        """Return the reply to a peer that cannot be identified. All of them together have one caller's limits."""
        self._connections.of_caller(role, task, UNKNOWN_PEER, CALLER_CONNECTIONS_MAX)
        await asyncio.sleep(self._caller(UNKNOWN_PEER).delay_s(self._clock()))
        # A client that cannot send its request may not read the answer.
        with suppress(BadRequest):
            await _read_request(reader)
        self._note("request_refused", why)
        return failure(protocol.EXIT_NOT_ALLOWED, "", f"{why}; refused: it must be known who asks")

    async def _converse(
        self, role: Role, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply | None:
        try:
            arguments = await _read_request(reader)
        except BadRequest as error:
            self._log.info("bad_request", socket=role.value, pid=peer.pid, why=str(error))
            return failure(protocol.EXIT_USAGE, "", str(error))
        if arguments is None:
            return None
        known = self._verbs[role]
        verb = known.get(arguments[0])
        if role is Role.HOST and peer.container_id is not None:
            return refused(self._log, peer, arguments, "a container may only use the container socket")
        if verb is None:
            names = ", ".join(sorted(known))
            return failure(
                protocol.EXIT_USAGE, "", f"unknown verb {arguments[0][:40]!a}; use one of: {names}"
            )

        def say(text: str) -> None:
            if writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
                writer.write(protocol.status(text))

        waiting = partial(self._connections.waiting, role)
        request = Request(arguments, peer, role, say, waiting)
        return await _unless_gone(self._run(verb, request), reader, writer.get_extra_info("socket"))

    async def _run(self, verb: Callable[[Request], Awaitable[Reply]], request: Request) -> Reply:
        name = request.argument(1)
        try:
            return await verb(request)
        except Denied as denied:
            return denied.reply
        except Refused as error:
            return failure(protocol.EXIT_FAILED, name, error.detail)
        except Missing as error:
            return failure(protocol.EXIT_FAILED, name, f"{error}; nothing was done")
        except PortError as error:
            return failure(protocol.EXIT_UNAVAILABLE, name, f"{error}; try again once it is up")

    def _caller(self, who: str) -> Caller:
        caller = self._callers.setdefault(who, Caller())
        self._callers.move_to_end(who)
        if len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)
        return caller


def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, now: what the client has not read until now would keep it open for ever."""
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()
    else:
        writer.close()


async def _read_request(reader: asyncio.StreamReader) -> list[str] | None:
    """Read the request's arguments; None where the client sent nothing. Raises BadRequest."""
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            return protocol.decode_request(await reader.readuntil(b"\n"))
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise BadRequest("the request has no newline at its end; end it with one") from None
    except asyncio.LimitOverrunError:
        raise BadRequest(
            f"the request is longer than {protocol.REQUEST_BYTES_MAX} bytes; send a shorter one"
        ) from None
    except TimeoutError:
        raise BadRequest(f"no complete request within {REQUEST_S_MAX:g} s; send it at once") from None


async def _unless_gone(
    answer: Awaitable[Reply], reader: asyncio.StreamReader, sock: socket.socket
) -> Reply | None:
    """Return `answer`, or None as soon as the client has closed its end for good.

    A client that sends more than its request gets an error, and no more is read: a client that sends without end would
    keep the loop busy.
    """
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(reader, sock))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return failure(protocol.EXIT_USAGE, "", SENT_MORE) if gone.result() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})
        with suppress(asyncio.CancelledError, Exception):
            gone.result()


async def _gone(reader: asyncio.StreamReader, sock: socket.socket) -> bool:
    """Return once the client is gone, or true once it has sent more than its request.

    A client that has closed only its sending side still waits for its answer.
    """
    if await reader.read(1):
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLHUP)
    # asyncio has no event for a connection closed after it was half-closed.
    closed = select.POLLHUP | select.POLLERR | select.POLLNVAL
    while not any(events & closed for _, events in poll.poll(0)):  # noqa: ASYNC110
        await asyncio.sleep(HALF_CLOSED_LOOK_S)
    return False
