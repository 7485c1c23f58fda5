"""Who asks what, and may they? The two Unix sockets: peers, requests, verbs and replies.

Knows the reconcilers and the wire protocol; knows no adapter and decides nothing about a feature. A peer is who the
kernel says it is; what it says about itself is never believed (spec section 8).
"""

from __future__ import annotations

import asyncio
import json
import select
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from kubesyncd.api.description import described
from kubesyncd.api.messages import Denied, Reply, Request, Role, failure
from kubesyncd.api.peer import PeerGone
from kubesyncd.api.rate_limit import Caller
from kubesyncd.core import protocol, verbs
from kubesyncd.core.health import FROM_CONTAINER, FROM_HOST, Complaint
from kubesyncd.core.labels import Change, InvalidLabel
from kubesyncd.core.model import Owner, valid_feature_name
from kubesyncd.core.protocol import BadRequest
from kubesyncd.core.record import cleared, hear, project
from kubesyncd.ports import Missing, PortError, Refused

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.peer import Peer
    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.features.reconciler import Reconciler
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Containers

# Open connections per socket: whoever floods the containers' one must not keep the host out.
CONNECTIONS_MAX = 1024
# One container, or user of the host, may hold so many connections to it, and ask so often; more has to wait.
CONTAINER_CONNECTIONS_MAX = 16
CONTAINERS_MAX = 1024
REQUEST_S_MAX = 5.0
REPLY_S_MAX = 10.0
# A client that reads no status lines gets no more of them.
UNREAD_BYTES_MAX = 65536
HALF_CLOSED_LOOK_S = 2.0
NO_SUCH_FEATURE = "there is no such feature; see: kubesync show feature"


class Server:
    """Serves both sockets. `identify` tells a peer from the kernel's word; `extra` are verbs of other rooms."""

    def __init__(
        self,
        *,
        reconcilers: Reconcilers,
        containers: Containers,
        cluster: ClusterController,
        identify: Callable[[socket.socket], Peer],
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        extra: dict[str, Callable[[Request], Awaitable[Reply]]],
    ) -> None:
        self._reconcilers = reconcilers
        self._containers = containers
        self._cluster = cluster
        self._identify = identify
        self._log = log
        self._clock = clock
        self._tasks: dict[Role, set[asyncio.Task[Any]]] = {role: set() for role in Role}
        self._callers: OrderedDict[str, Caller] = OrderedDict()
        self._host_verbs: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "wait": self._wait,
            "id": self._id,
            "resolve": self._id,
            "state": self._state,
            "label": self._label,
            "clear": self._clear,
            "show": self._show,
            "forget": self._forget,
            "cluster": self._cluster_status,
            "resources": self._resources,
            **extra,
        }
        self._container_verbs = {"state": self._state}

    async def serve(self, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one reply. Never raises."""
        task, tasks = asyncio.current_task(), self._tasks[role]
        if task is None or len(tasks) >= CONNECTIONS_MAX:
            writer.close()
            return
        tasks.add(task)
        try:
            reply = await self._respond(role, reader, writer)
            if reply is not None:
                writer.write(reply.encode())
                async with asyncio.timeout(REPLY_S_MAX):
                    await writer.drain()
        except (ConnectionError, TimeoutError, PeerGone):
            pass
        except asyncio.CancelledError:
            # Only `close` cancels us, and asyncio would log a cancelled handler as a failure.
            pass
        except Exception:  # noqa: BLE001 - a bug may end only its own request
            self._log.exception("request_failed")
        finally:
            tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End every connection; clients ask the next daemon again."""
        tasks = [task for each in self._tasks.values() for task in each]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=REPLY_S_MAX)

    async def _respond(
        self, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Reply | None:
        """The reply to the connection's request; None where the client has gone."""
        peer = self._identify(writer.get_extra_info("socket"))
        who = peer.container_id
        if who is None and role is Role.CONTAINER and peer.uid:
            # Any user of the host may connect there; none of them may keep containers out.
            who = f"uid {peer.uid}"
        if who is None:
            return await self._converse(role, peer, reader, writer)
        caller = self._caller(who)
        if caller.open >= CONTAINER_CONNECTIONS_MAX:
            return None
        caller.open += 1
        try:
            await asyncio.sleep(caller.delay_s(self._clock()))
            return await self._converse(role, peer, reader, writer)
        finally:
            caller.open -= 1

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
        known = self._host_verbs if role is Role.HOST else self._container_verbs
        verb = known.get(arguments[0])
        if role is Role.HOST and peer.container_id is not None:
            return self._refuse(peer, arguments, "a container may only use the container socket")
        if verb is None:
            names = ", ".join(sorted(known))
            return failure(
                protocol.EXIT_USAGE, "", f"unknown verb {arguments[0][:40]!a}; use one of: {names}"
            )

        def say(text: str) -> None:
            if writer.transport.get_write_buffer_size() < UNREAD_BYTES_MAX:
                writer.write(protocol.status(text))

        request = Request(arguments, peer, role, say)
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
        while len(self._callers) > CONTAINERS_MAX:
            idle = next((c for c, known in self._callers.items() if not known.open), None)
            if idle is None:
                break
            del self._callers[idle]
        return caller

    def _refuse(self, peer: Peer, arguments: list[str], why: str) -> Reply:
        shown = " ".join(arguments)[:80]
        self._log.warning("refused", why=why, request=ascii(shown), pid=peer.pid, container=peer.container_id)
        return failure(
            protocol.EXIT_NOT_ALLOWED,
            arguments[1] if len(arguments) > 1 else "",
            f"{why}; refused and logged",
        )

    # ---- verbs of the host ----------------------------------------------------------------------

    def _feature(self, request: Request) -> str:
        name = request.argument(1)
        if not valid_feature_name(name):
            allowed = "a feature's name begins with a letter and has lower-case letters, digits, - and _, at most 63"
            text = f"{name[:64]!a} is no feature's name; {allowed}"
            raise Denied(failure(protocol.EXIT_USAGE, "", text))
        return name

    def _reconciler(self, request: Request) -> Reconciler:
        return self._reconcilers.get(self._feature(request))

    async def _carry_out(self, request: Request, verb: verbs.Verb) -> Reply:
        reconciler = self._reconciler(request)
        outcome = await reconciler.carry_out(verb)
        if outcome.code == protocol.EXIT_DONE:
            return Reply()
        return failure(outcome.code, reconciler.name, outcome.text)

    async def _start(self, request: Request) -> Reply:
        return await self._carry_out(request, verbs.Start())

    async def _stop(self, request: Request) -> Reply:
        seconds = request.argument(2)
        if seconds and not (
            seconds.isascii() and seconds.isdigit() and int(seconds[:9]) <= verbs.GRACE_S_MAX
        ):
            text = f"-t {seconds[:20]!a} is no whole number of seconds from 0 to {verbs.GRACE_S_MAX}"
            return failure(protocol.EXIT_USAGE, request.argument(1), f"{text}; give one, or leave -t out")
        return await self._carry_out(request, verbs.Stop(float(seconds) if seconds else None))

    async def _kill(self, request: Request) -> Reply:
        signal = request.argument(2, "KILL").upper().removeprefix("SIG")
        signal = {"9": "KILL", "15": "TERM", "2": "INT", "3": "QUIT", "6": "ABRT"}.get(
            signal, signal or "KILL"
        )
        if signal not in verbs.ENDING_SIGNALS:
            text = f"{signal[:20]!a} does not end a container; use one of {', '.join(verbs.ENDING_SIGNALS)}"
            hint = "for other signals: docker kill -s SIGNAL $(container id NAME)"
            return failure(protocol.EXIT_USAGE, request.argument(1), f"{text}, or {hint}")
        return await self._carry_out(request, verbs.Kill(signal, kubelet_check=request.argument(3) != "1"))

    async def _wait(self, request: Request) -> Reply:
        return Reply(await self._reconciler(request).waiters.ended(request.say))

    async def _id(self, request: Request) -> Reply:
        name = self._feature(request)
        reconciler = self._reconcilers.known(name)
        if reconciler is None:
            # Nobody has ever asked for it: looking must not make it a feature.
            containers = [c for c in await self._containers.list(name) if not c.gone]
            if not containers:
                text = "there is no such feature and no container of that name; see: kubesync show feature"
                return failure(protocol.EXIT_FAILED, name, text)
            return Reply(out=name)
        view = reconciler.view or await reconciler.seen()
        row = project(view.record, view.facts)
        if row.docker_id:
            return Reply(out=row.docker_id)
        if view.config.owner is Owner.KUBE and view.facts.local is None:
            return failure(protocol.EXIT_FAILED, name, f"no container runs: {view.plan.why}; ask again later")
        return Reply(out=name)

    # ---- state, from containers and from the host -----------------------------------------------

    async def _state(self, request: Request) -> Reply:
        name, what, owner = self._feature(request), request.argument(2), request.argument(3)
        if what == "" and request.role is Role.HOST:
            return await self._print_state(name)
        if what in ("healthy", "unhealthy"):
            return await self._health(request, name, well=what == "healthy", reason=owner)
        if what not in ("up", "down") or owner not in ("", "local", "kube"):
            forms = "`NAME up local`, `NAME up kube`, `NAME down`, `NAME healthy` or `NAME unhealthy REASON`"
            return failure(protocol.EXIT_USAGE, name, f"state takes {forms}; give one of these")
        if request.peer.container_id is None:
            return await self._state_from_host(request, name, what, owner)
        known = await self._its_own(request, request.peer.container_id, name, owner if what == "up" else "")
        self._log.info("container_said", feature=name, said=what, container=request.peer.container_id)
        reconciler = self._reconcilers.get(name)
        reconciler.dirty.set()
        if what == "up" and known is Owner.KUBE:
            await reconciler.waiters.granted(request.peer.container_id)
        return Reply()

    async def _health(self, request: Request, name: str, *, well: bool, reason: str) -> Reply:
        """A container says how it is, or the host how the one is that owns the feature."""
        about, source = request.peer.container_id, FROM_CONTAINER
        if about is not None:
            await self._its_own(request, about, name, "")
            reconciler = self._reconcilers.get(name)
        elif request.role is Role.CONTAINER:
            why = "whoever is in no container says how one is through the host socket"
            return self._refuse(request.peer, request.arguments, why)
        else:
            reconciler, source = self._known(name), FROM_HOST
            view = reconciler.view or await reconciler.seen()
            about = project(view.record, view.facts).docker_id
            if not about:
                text = "no container of it runs, so none can be unhealthy; say it again once one does"
                return failure(protocol.EXIT_FAILED, name, text)
        await reconciler.note(partial(hear, said=Complaint(about, source, reason), well=well))
        return Reply()

    def _known(self, name: str) -> Reconciler:
        reconciler = self._reconcilers.known(name)
        if reconciler is None:
            raise Denied(failure(protocol.EXIT_FAILED, name, NO_SUCH_FEATURE))
        return reconciler

    async def _its_own(self, request: Request, container_id: str, name: str, owner: str) -> Owner:
        """What kind of container asks; denied unless it is this feature's, and of the kind it says (S9)."""
        why = ""
        try:
            known = await self._containers.identify(container_id)
        except Missing:
            raise Denied(
                self._refuse(request.peer, request.arguments, "the container that asks is no feature's")
            ) from None
        if known.feature != name:
            why = f"the container that asks is {known.feature}'s"
        elif owner and known.owner.value != owner:
            why = f"the container that asks is a {known.owner.value} one; it may say `up {known.owner.value}`"
        if why:
            raise Denied(self._refuse(request.peer, request.arguments, why))
        return known.owner

    async def _state_from_host(self, request: Request, name: str, what: str, owner: str) -> Reply:
        if (what, owner) == ("up", "kube"):
            return self._refuse(request.peer, request.arguments, "only a kube container can say `up kube`")
        reconciler = self._reconcilers.known(name)
        if reconciler is not None:
            reconciler.dirty.set()
        return Reply()

    async def _print_state(self, name: str) -> Reply:
        reconciler = self._known(name)
        view = reconciler.view or await reconciler.seen()
        row = asdict(project(view.record, view.facts))
        row["current_owner_update_ts"] = row.pop("update_ts")
        lines = [f"{key}={row[key]!s}" for key in sorted(row)]
        return Reply(out="\n".join((*lines, f"state={view.plan.state.value}", f"why={view.plan.why}")))

    # ---- operators ------------------------------------------------------------------------------

    async def _label(self, request: Request) -> Reply:
        try:
            changes = [Change.parse(text) for text in request.arguments[1:]]
        except InvalidLabel as error:
            return Reply(protocol.EXIT_USAGE, err=f"label: {error}")
        if not changes:
            return Reply(
                protocol.EXIT_USAGE, err="label: no label given; give KEY=VALUE to add one, KEY- to drop it"
            )
        if not self._cluster.joined:
            text = "this switch has joined no master; set one with `config kube server ip` and join it"
            return Reply(protocol.EXIT_FAILED, err=f"label: {text}")
        return Reply(out=await self._cluster.apply(changes))

    async def _clear(self, request: Request) -> Reply:
        """The operator forgives a failure: kube gets another chance, at once."""
        reconciler = self._known(self._feature(request))
        before = (reconciler.view or await reconciler.seen()).record
        after = await reconciler.note(cleared)
        if not (before.failure or before.rolled_back or before.refuse_until > self._clock()):
            return Reply(out=f"nothing to clear: {after.plan.why}")
        return Reply(out=f"cleared ({before.failure or 'a hand-over had to wait'}): {after.plan.why}")

    async def _show(self, request: Request) -> Reply:
        """One JSON object per feature and line; all features, or the one named."""
        wanted = request.argument(1)
        reconcilers = [k for k in self._reconcilers if wanted in ("", k.name)]
        if wanted and not reconcilers:
            # A name that can be one is shown as it is.
            name = wanted if valid_feature_name(wanted) else ascii(wanted[:64])
            return failure(protocol.EXIT_FAILED, name, NO_SUCH_FEATURE)
        shown = [
            described(k, k.view, self._clock()) for k in sorted(reconcilers, key=lambda k: k.name) if k.view
        ]
        return Reply(out="\n".join(json.dumps(s) for s in shown))

    async def _forget(self, request: Request) -> Reply:
        name = self._feature(request)
        await self._reconcilers.forget(name)
        self._log.info("forgotten", feature=name)
        return Reply()

    async def _cluster_status(self, _: Request) -> Reply:
        return Reply(out=json.dumps(self._cluster.status()))

    async def _resources(self, _: Request) -> Reply:
        """What the daemon holds and nobody sees from outside: a leak shows here first."""
        held = {
            "features": sum(1 for _ in self._reconcilers),
            "tasks": len(asyncio.all_tasks()),
            "connections": {role.value: len(tasks) for role, tasks in self._tasks.items()},
        }
        return Reply(out=json.dumps(held))


async def _read_request(reader: asyncio.StreamReader) -> list[str] | None:
    """The request's arguments; None where the client said nothing. Raises BadRequest."""
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
        raise BadRequest(f"no whole request within {REQUEST_S_MAX:g} s; send it at once") from None


async def _unless_gone(
    answer: Awaitable[Reply], reader: asyncio.StreamReader, sock: socket.socket
) -> Reply | None:
    """`answer`, or None as soon as the client has closed its end for good."""
    task = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(reader, sock))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})
        with suppress(asyncio.CancelledError, Exception):
            gone.result()


async def _gone(reader: asyncio.StreamReader, sock: socket.socket) -> None:
    """Return once the client is gone. A client that has only ended its sending still wants its answer."""
    while await reader.read(1024):
        pass
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLHUP)
    # asyncio tells no event for a connection closed after it was half-closed.
    closed = select.POLLHUP | select.POLLERR | select.POLLNVAL
    while not any(events & closed for _, events in poll.poll(0)):  # noqa: ASYNC110
        await asyncio.sleep(HALF_CLOSED_LOOK_S)
