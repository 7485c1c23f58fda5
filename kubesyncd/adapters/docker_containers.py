"""Look at, start, stop and kill containers through Docker: the Containers port.

Knows names, labels, exit codes; must not know who may run, what is wanted, or Redis. Reads are cached only
while the event stream is connected, and every event or own call drops what it touches.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from kubesyncd.adapters.docker_events import ACTIONS, EVENT_BYTES_MAX, PING_S, QUIET_S, Event, parse_event
from kubesyncd.core.model import CONTAINER_ID, Container, Identity, Owner, Signal, valid_feature_name
from kubesyncd.ports import Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from random import Random

    from aiodocker.containers import DockerContainer

    from kubesyncd.settings import Docker

T = TypeVar("T")

READ_S = 10.0
START_S = 60.0
KILL_S = 30.0
# Beyond the grace: Docker itself waits up to 10 s for the SIGKILLed process to vanish.
STOP_MARGIN_S = 15.0
CONNECT_S = 3.0
# How long a connection nobody uses is kept; each look at it wakes us up.
KEEPALIVE_S = 60.0
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0
# Docker silently drops events of a reader that stalled with 1024 waiting, so no entry is believed for longer.
CACHE_S_MAX = 300.0
FEATURES_MAX = 1024
EXITS_MAX = 4
KUBE_CONTAINERS_MAX = 16
CALLS_MAX = 256
CONNECTIONS_MAX = 1024

KUBE_NAME = "io.kubernetes.container.name"
KUBE_TYPE = "io.kubernetes.docker.type"
SANDBOX = "podsandbox"
NEVER = "0001-01-01T00:00:00Z"

# A dockerd that was stopped while it started a container never starts that one again.
LEFT_BEHIND = re.compile(
    r"task \S+ already exists|failed to start shim: mkdir \S+ file exists", re.IGNORECASE
)

# Any host name does: the connector always opens the Unix socket.
BASE = "http://docker"
NO_CONNECTION = 900
NOT_FOUND = 404
CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Described:
    """What we use of one `docker inspect`. `started` is "" for a container that never ran."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    exit_code: int
    started: str
    image: str
    image_id: str


class DockerContainers:
    """The Containers port. To be made inside a running loop; `events()` has one reader, who reads at once."""

    def __init__(self, settings: Docker, rng: Random, *, quiet_s: float = QUIET_S) -> None:
        path = socket_path(settings)
        self._rng = rng
        self._quiet_s = quiet_s
        # aiodocker has no deadlines of its own; `ask` brings one for every call.
        self._connector = aiohttp.UnixConnector(path, limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S)
        self._docker = aiodocker.Docker(
            BASE,
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        self._calls: set[asyncio.Task[None]] = set()
        self._exits = _Exits()
        self._cache: dict[str, tuple[float, tuple[Container, ...]]] = {}
        self._connected = False
        # Counts every reason for doubt, so that a read which began before one is never cached after it.
        self._doubts = 0

    async def events(self) -> AsyncIterator[str | Signal]:
        """Names of features with a container that was created, started, renamed, died or was destroyed.

        GAP when the stream is lost and again when it is back. Docker's journal is replayed on connection, so
        exits of containers that were destroyed meanwhile are known where Docker still has them.
        """
        assert not self._connected, "events() has one reader"
        failures = 0
        while True:
            try:
                async with aclosing(self._stream()) as stream:
                    async for event in stream:
                        if event is None:
                            failures = 0
                            # A read under way began unwatched.
                            self._doubt(())
                            self._connected = True
                            yield Signal.GAP
                            continue
                        for feature in self._take(event):
                            yield feature
            except Unavailable:
                failures += 1
            finally:
                lost, self._connected = self._connected, False
                self._doubt(self._cache.keys())
            if lost:
                yield Signal.GAP
            backoff_s = min(BACKOFF_S_MAX, BACKOFF_S * 2 ** min(failures - 1, 8))
            await asyncio.sleep(self._rng.uniform(0, backoff_s))

    async def list(self, feature: str) -> tuple[Container, ...]:
        """All containers of the feature, oldest first, and the exits of those lately destroyed (`gone`).

        No I/O where there is a local one and nothing has changed. Raises Refused for what is no feature's name,
        else Unavailable.
        """
        if not valid_feature_name(feature):
            raise Refused("Docker", f"{feature[:70]!a} is no feature's name; use a-z, 0-9, - and _")
        now = asyncio.get_running_loop().time()
        if feature in self._cache and now - self._cache[feature][0] < CACHE_S_MAX:
            return self._cache[feature][1]
        doubts = self._doubts
        present = await self._present(feature)
        self._exits.see(feature, present)
        known = tuple(
            sorted((*present, *self._exits.gone(feature, present)), key=lambda c: (c.started, c.id))
        )
        # A container that is missing may be made at any moment, and a start of it may overtake Docker's event.
        made = any(c.owner is Owner.LOCAL and not c.gone for c in known)
        if made and self._connected and doubts == self._doubts:
            if len(self._cache) >= FEATURES_MAX:
                self._cache.clear()
            self._cache[feature] = (now, known)
        return known

    async def start(self, container_id: str) -> None:
        """Start it; running already is success. Raises Missing, Refused with Docker's reason, Unavailable."""

        def judge(error: DockerError) -> PortError:
            # A start also answers 404 for a network or volume that is gone: that is not a missing container.
            if error.status == NOT_FOUND and "no such container" in error.message.lower():
                return Missing("Docker", error.message)
            if LEFT_BEHIND.search(error.message):
                fix = f"docker rm -f {container_id[:12]}, and its unit makes a new one"
                return Refused("Docker", f"{error.message}: something of its last life is left; {fix}")
            return Refused("Docker", error.message)

        await self._act(container_id, lambda c: c.start(), START_S, judge, ends=False)

    async def stop(self, container_id: str, grace_s: int) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; ended or gone already is success. Returns when it has ended.

        A caller who is cancelled leaves the call running: Docker before 24.0.3 SIGKILLs at once when the
        connection of a stop is dropped (moby#45731). Raises Refused, Unavailable.
        """
        await self._act(container_id, lambda c: c.stop(t=grace_s), grace_s + STOP_MARGIN_S, _ended_is_success)

    async def kill(self, container_id: str, signal: str) -> None:
        """Send `signal`; ended or gone already is success. Raises Refused (no such signal), Unavailable."""
        await self._act(container_id, lambda c: c.kill(signal=signal), KILL_S, _ended_is_success)

    async def identify(self, container_id: str) -> Identity:
        """Which feature a container is; its Kubernetes label counts more than its name.

        Raises Missing where it is no feature's, else Unavailable.
        """
        found = await self._inspect(container_id) if CONTAINER_ID.fullmatch(container_id) else None
        # Docker also finds containers *named* like an ID.
        if found is None or not found.id.startswith(container_id):
            raise Missing("Docker", f"no container {container_id[:64]!a}")
        who = whose(found.name, found.labels)
        if who is None:
            raise Missing("Docker", f"container {found.id[:12]} ({found.name!a}) is no feature's")
        return Identity(found.id, *who)

    async def close(self, drain_s: float = 20.0) -> None:
        """Let go of every connection, after at most `drain_s` for calls whose callers have left."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=drain_s)
            for call in late:
                call.cancel()
        await self._docker.close()
        await self._connector.close()

    async def _present(self, feature: str) -> tuple[Container, ...]:
        """What exists, by two requests side by side: no filter says "this name or that label"."""
        named, labelled = await asyncio.gather(self._inspect(feature), self._labelled(feature))
        pods = await asyncio.gather(*map(self._inspect, labelled))
        owned = ((found, whose(found.name, found.labels)) for found in (named, *pods) if found)
        return tuple(_container(found, who[1]) for found, who in owned if who and who[0] == feature)

    async def _inspect(self, reference: str) -> Described | None:
        """One container's whole truth; None where it does not exist."""
        try:
            found = await ask(self._docker.containers.get(reference), READ_S)
        except DockerError as error:
            if error.status == NOT_FOUND:
                return None
            raise Unavailable("Docker", error.message) from error
        return describe(found)

    async def _labelled(self, feature: str) -> tuple[str, ...]:
        """IDs of the feature's containers by the kubelet's label, the newest ones."""
        filters = json.dumps({"label": [f"{KUBE_NAME}={feature}"]})
        try:
            found = await ask(self._docker.containers.list(all=1, filters=filters), READ_S)
        except DockerError as error:
            raise Unavailable("Docker", error.message) from error
        return tuple(container.id for container in found[:KUBE_CONTAINERS_MAX])

    async def _act(
        self,
        container_id: str,
        call: Callable[[DockerContainer], Awaitable[None]],
        deadline_s: float,
        judge: Callable[[DockerError], PortError | None],
        *,
        ends: bool = True,
    ) -> None:
        """One mutating call, never dropped once sent. `judge` says what an error means: None is success."""
        if not CONTAINER_ID.fullmatch(container_id):
            raise Refused("Docker", f"{container_id[:70]!a} is no container ID; use 12 to 64 hex digits")
        if len(self._calls) >= CALLS_MAX:
            raise Unavailable("Docker", f"{CALLS_MAX} calls are under way; ask again later")

        async def run() -> None:
            try:
                await ask(call(self._docker.containers.container(container_id)), deadline_s)
            except DockerError as error:
                verdict = judge(error)
                if verdict is not None:
                    raise verdict from error
            finally:
                self._doubt_container(container_id, ends=ends)

        task = asyncio.create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        # Retrieved here, or an error nobody waits for any more is logged as a bug.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _stream(self) -> AsyncGenerator[Event | None, None]:
        """One connection's events, after a None once it stands. Ends only by raising Unavailable."""
        # A restarted engine may be another version.
        self._docker.api_version = "auto"
        # Docker answers before it subscribes; with `since`, whatever falls between is in the replay.
        query = {"since": "0", "filters": json.dumps({"type": ["container"], "event": ACTIONS})}
        response = await ask(self._docker.session.get(f"{BASE}/events", params=query), READ_S)
        try:
            if response.status != 200:
                raise Unavailable("Docker", f"the event stream answers {response.status}")
            yield None
            rest = b""
            while True:
                *lines, rest = (rest + await self._chunk(response)).split(b"\n")
                if len(rest) > EVENT_BYTES_MAX:
                    raise Unavailable("Docker", f"an event is longer than {EVENT_BYTES_MAX} bytes")
                for line in filter(bytes.strip, lines):
                    yield parse_event(line)
        finally:
            response.close()

    async def _chunk(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes, however long it takes, as long as the engine answers a ping now and then."""
        while True:
            try:
                async with asyncio.timeout(self._quiet_s):
                    chunk = await response.content.readany()
            except TimeoutError:
                await self._ping()
                continue
            except (aiohttp.ClientError, OSError) as error:
                raise Unavailable("Docker", f"the event stream broke: {error}") from error
            if not chunk:
                raise Unavailable("Docker", "the event stream ended")
            return chunk

    async def _ping(self) -> None:
        response = await ask(self._docker.session.get(f"{BASE}/_ping"), PING_S)
        response.release()
        if response.status != 200:
            raise Unavailable("Docker", f"a ping is answered with {response.status}")

    def _take(self, event: Event) -> tuple[str, ...]:
        """Remember what the event says, forget what it makes stale; the features to look at."""
        owners = [who for name in event.names if (who := whose(name, event.labels))]
        for feature, owner in owners:
            if event.action == "die":
                self._take_die(event, feature, owner)
                continue
            if event.action == "start":
                self._exits.forget(feature, event.container_id)
            self._doubt((feature,))
        return tuple(dict.fromkeys(feature for feature, _ in owners))

    def _take_die(self, event: Event, feature: str, owner: Owner) -> None:
        """Note an exit where the container is cached, without asking again.

        Docker says `die` 10 ms before it answers an inspect, and a list still says "running" then: those
        10 ms would be dead time of a hand-over. A `die` from before the known start is a replayed one.
        """
        read_at, known = self._cache.get(feature, (0.0, ()))
        seen = next((c for c in known if c.id == event.container_id), None)
        # One nobody had looked at counts as started when it ended.
        container = seen or Container(event.container_id, owner, running=False, started=event.at)
        code, image = event.labels.get("exitCode", ""), event.labels.get("image", "")
        ended = replace(
            container,
            running=False,
            exit_code=int(code) if code.isascii() and code.isdigit() else None,
            image=image,
            # The kubelet makes containers from IDs, so this tells it also of one that nobody had looked at.
            image_id=container.image_id or (image if image.startswith("sha256:") else ""),
        )
        self._exits.add(feature, replace(ended, gone=True))
        self._doubt((feature,))
        if seen is not None and event.at > seen.started:
            self._cache[feature] = (read_at, tuple(ended if c is seen else c for c in known))

    def _doubt(self, features: Iterable[str]) -> None:
        self._doubts += 1
        for feature in tuple(features):
            self._cache.pop(feature, None)

    def _doubt_container(self, container_id: str, *, ends: bool) -> None:
        """After a call: doubt the features that have it, all where none has; an end seen already is sure."""
        having = {
            feature: container.running
            for feature, (_, known) in self._cache.items()
            for container in known
            if container.id.startswith(container_id)
        }
        if not having:
            self._doubt(self._cache.keys())
        elif not ends or any(having.values()):
            self._doubt(having)


class _Exits:
    """How containers ended that Docker may have destroyed since: the kubelet does so after 0.7 s. Bounded."""

    def __init__(self) -> None:
        self._by_feature: dict[str, dict[str, Container]] = {}

    def add(self, feature: str, ended: Container) -> None:
        """Remember an exit; the oldest ones go when there are too many."""
        exits = self._by_feature.pop(feature, {})
        exits.pop(ended.id, None)
        exits[ended.id] = ended
        self._by_feature[feature] = exits
        if len(exits) > EXITS_MAX:
            del exits[next(iter(exits))]
        if len(self._by_feature) > FEATURES_MAX:
            del self._by_feature[next(iter(self._by_feature))]

    def forget(self, feature: str, container_id: str) -> None:
        """It runs again, so its last exit is no longer how it ended."""
        self._by_feature.get(feature, {}).pop(container_id, None)

    def see(self, feature: str, present: tuple[Container, ...]) -> None:
        """Learn from what Docker still has, oldest first."""
        for container in sorted(present, key=lambda c: c.started):
            if container.running:
                self.forget(feature, container.id)
            elif container.exit_code is not None:
                self.add(feature, replace(container, gone=True))

    def gone(self, feature: str, present: tuple[Container, ...]) -> tuple[Container, ...]:
        """The remembered exits of containers that are no longer present."""
        ids = {container.id for container in present}
        return tuple(c for c in self._by_feature.get(feature, {}).values() if c.id not in ids)


def socket_path(settings: Docker) -> str:
    """Where the engine listens. Raises ValueError where that is no Unix socket."""
    path = settings.url.removeprefix("unix://")
    if not path.startswith("/"):
        raise ValueError(f"[docker] url = {settings.url!r}; allowed: unix:///path/of/the/socket")
    return path


def whose(name: str, labels: Mapping[str, str]) -> tuple[str, Owner] | None:
    """Feature and owner of a container called `name`; None: no feature's. The label counts more."""
    if labels.get(KUBE_TYPE) == SANDBOX:
        return None
    owner = Owner.KUBE if KUBE_NAME in labels else Owner.LOCAL
    feature = labels.get(KUBE_NAME, name.removeprefix("/"))
    return (feature, owner) if valid_feature_name(feature) else None


def describe(found: DockerContainer) -> Described:
    """One `docker inspect` in our words. Raises Unavailable where Docker does not speak like Docker."""
    try:
        state, config = found["State"], found["Config"]
        return Described(
            id=str(found["Id"]),
            name=str(found["Name"]),
            labels={str(k): str(v) for k, v in (config["Labels"] or {}).items()},
            running=bool(state["Running"]),
            exit_code=int(state["ExitCode"]),
            started=_instant(str(state["StartedAt"])),
            image=str(config["Image"]),
            image_id=str(found["Image"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Unavailable("Docker", f"a container nobody can read: {error!r}") from error


def _container(found: Described, owner: Owner) -> Container:
    ended = bool(found.started) and not found.running
    return Container(
        id=found.id,
        owner=owner,
        running=found.running,
        exit_code=found.exit_code if ended else None,
        started=found.started,
        image=found.image,
        image_id=found.image_id,
    )


def _instant(text: str) -> str:
    """Docker's time with all nine decimals (it trims zeros), so that text sorts by age; "" for never."""
    if not text or text == NEVER:
        return ""
    seconds, _, decimals = text.removesuffix("Z").partition(".")
    return f"{seconds}.{decimals:0<9}Z"


def _ended_is_success(error: DockerError) -> PortError | None:
    if error.status in (NOT_FOUND, CONFLICT):
        return None
    kind = Refused if error.status < 500 else Unavailable
    return kind("Docker", error.message)


async def ask(call: Awaitable[T], deadline_s: float) -> T:
    """Await a library call. No answer becomes Unavailable; Docker's own errors stay for the caller."""
    try:
        async with asyncio.timeout(deadline_s):
            return await call
    except DockerError as error:
        if error.status == NO_CONNECTION:
            raise Unavailable("Docker", error.message) from error
        raise
    except TimeoutError as error:
        raise Unavailable("Docker", f"no answer within {deadline_s:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable("Docker", str(error) or type(error).__name__) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        # What aiodocker raises for an error body or a content type that is not Docker's.
        raise Unavailable("Docker", f"an answer nobody can read: {error!r}") from error
