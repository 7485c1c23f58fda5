"""List, start, stop and kill containers through Docker: the Containers port.

Knows names, labels, exit codes; does not know which owner may run, the configuration, or Redis. Reads are cached only
while the event stream is connected, and every event or own call invalidates the entries that it may change.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from typing import TYPE_CHECKING

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from kubesyncd.adapters.docker_cache import ContainerCache
from kubesyncd.adapters.docker_client import (
    BASE,
    CONFLICT,
    CONNECT_S,
    NOT_FOUND,
    READ_S,
    ask,
    check_container_id,
    check_feature,
)
from kubesyncd.adapters.docker_events import QUIET_S, EventStream
from kubesyncd.adapters.docker_inspect import (
    KUBE_NAME,
    KUBE_NAMESPACE,
    KUBE_TYPE,
    LIVE,
    ORDINARY,
    Described,
    Foreign,
    ListEntry,
    container_of,
    describe,
    listed,
    unread,
    whose,
)
from kubesyncd.adapters.docker_place import socket_path
from kubesyncd.core.kube_names import kube_name
from kubesyncd.core.model import CONTAINER_ID, SHORT_ID, Container, Identity, Owner, Signal
from kubesyncd.ports import ForeignContainer, Hindered, Missing, PortError, Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from random import Random

    from aiodocker.containers import DockerContainer

    from kubesyncd.runtime.kube_names import KubeNames
    from kubesyncd.settings import DockerSettings

START_S = 60.0
KILL_S = 30.0
# Beyond the grace: Docker itself waits up to 10 s for the SIGKILLed process to vanish.
STOP_MARGIN_S = 15.0
# How long an unused connection is kept; each check of it wakes the process up.
KEEPALIVE_S = 60.0
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0
# The containers that do not run are bounded, never those that do.
NEWEST_MAX = 16
CALLS_MAX = 256
CONNECTIONS_MAX = 1024

# A dockerd that was stopped while it started a container cannot start that container again.
LEFT_BEHIND = re.compile(
    r"task \S+ already exists|failed to start shim: mkdir \S+ file exists", re.IGNORECASE
)


class DockerContainers:
    """ports.Containers. Create it inside a running loop; `events()` has one reader, which reads without delay."""

    def __init__(
        self,
        settings: DockerSettings,
        namespaces: Collection[str],
        rng: Random,
        *,
        names: KubeNames,
        quiet_s: float = QUIET_S,
    ) -> None:
        path = socket_path(settings.url)
        self._namespaces = namespaces
        self._names = names
        self._names_seen = names.changes
        self._rng = rng
        # aiodocker has no deadlines of its own; `ask` sets one for every call.
        self._connector = aiohttp.UnixConnector(path, limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S)
        self._docker = aiodocker.Docker(
            BASE,
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        self._calls: set[asyncio.Task[None]] = set()
        self._stream = EventStream(self._docker, quiet_s)
        self._cache = ContainerCache(namespaces, names.feature_of)

    async def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        """Yield the names of features with a container that was created, started, renamed, died or was destroyed.

        IMAGES for an event of an image. GAP when the stream is lost and again when it is back. Docker's journal is
        replayed on connection, so exits of containers that were destroyed meanwhile are known where Docker still has
        them.
        """
        assert not self._cache.connected, "events() has one reader"
        backoff = Backoff(self._rng, BACKOFF_S, BACKOFF_S_MAX)
        while True:
            try:
                async with aclosing(self._stream.connect()) as stream:
                    async for event in stream:
                        if event is None:
                            backoff.reset()
                            self._cache.connect(self._stream.restart)
                            lost("")
                            yield Signal.GAP
                            continue
                        if event.of_image:
                            # What prunes images prunes containers, and Docker drops events of a burst.
                            self._cache.doubt_all()
                            yield Signal.IMAGES
                            continue
                        for feature in self._cache.take(event):
                            yield feature
            except Unavailable as error:
                lost(error.detail)
            finally:
                was_connected = self._cache.disconnect()
            if was_connected:
                yield Signal.GAP
            await asyncio.sleep(backoff.next_s())

    async def list(self, feature: str, granted: str = "") -> tuple[Container, ...]:
        """List the feature's containers, oldest first, and the exits of recently destroyed ones (`gone`).

        No I/O where a local one exists and nothing has changed. Raises Refused for an invalid feature name, else
        Unavailable.
        """
        check_feature(feature)
        if self._names.changes != self._names_seen:
            # The kube containers of a name have become another feature's.
            self._names_seen = self._names.changes
            self._cache.doubt_all()
        now = asyncio.get_running_loop().time()
        known = self._cache.get(feature, now)
        if known is not None:
            return known
        begun = self._cache.begin()
        return self._cache.put(feature, await self._present(feature, granted), begun=begun, now=now)

    async def start(self, container_id: str) -> None:
        """Start it; a running one is success. Raises Missing, Refused with Docker's reason, Unavailable.

        Docker answers 400 where the container's own program or configuration is the reason, 500 where the host's is:
        Hindered.
        """

        def judge(error: DockerError) -> PortError:
            # A start also answers 404 for a network or volume that is gone: that is not a missing container.
            if error.status == NOT_FOUND and "no such container" in error.message.lower():
                return Missing("Docker", error.message)
            if LEFT_BEHIND.search(error.message):
                fix = f"docker rm -f {container_id[:SHORT_ID]}, and its unit creates a new one"
                return Refused("Docker", f"{error.message}: remains of its last run are in the way", fix=fix)
            return (Refused if error.status < 500 else Hindered)("Docker", error.message)

        await self._act(container_id, lambda c: c.start(), START_S, judge, ends=False)

    async def unpause(self, container_id: str) -> None:
        """Unpause it; one that is not paused is success. Raises Missing, Refused, Unavailable."""

        def judge(error: DockerError) -> PortError | None:
            if error.status == NOT_FOUND:
                return Missing("Docker", error.message)
            if "is not paused" in error.message:
                return None
            return Refused("Docker", error.message)

        await self._act(container_id, lambda c: c.unpause(), START_S, judge, ends=False)

    async def stop(self, container_id: str, grace_s: int) -> None:
        """Send SIGTERM, and SIGKILL after `grace_s`; an ended or missing one is success. Returns after the end.

        The call continues after its caller is cancelled: Docker before 24.0.3 SIGKILLs at once when the
        connection of a stop is dropped (moby#45731). Raises Refused, Unavailable.
        """
        await self._act(container_id, lambda c: c.stop(t=grace_s), grace_s + STOP_MARGIN_S, _ended_is_success)

    async def kill(self, container_id: str, signal: str) -> None:
        """Send `signal`; an ended or missing one is success. Raises Refused (no such signal), Unavailable."""
        await self._act(container_id, lambda c: c.kill(signal=signal), KILL_S, _ended_is_success)

    async def identify(self, container_id: str) -> Identity:
        """Return the feature and owner of a container. Raises Missing, ForeignContainer, Unavailable."""
        found = await self._known(container_id) if CONTAINER_ID.fullmatch(container_id) else None
        # Docker also finds containers *named* like an ID.
        if found is None or not found.id.startswith(container_id):
            raise Missing("Docker", f"no container {container_id[:64]!a}")
        who = whose(found.name, found.labels, self._namespaces, self._names.feature_of)
        if isinstance(who, Foreign):
            raise ForeignContainer("Docker", who.why)
        return Identity(found.id, *who)

    async def close(self, drain_s: float = 20.0) -> None:
        """Close every connection, after at most `drain_s` for calls whose callers were cancelled."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=drain_s)
            for call in late:
                call.cancel()
        await self._docker.close()
        await self._connector.close()

    async def _present(self, feature: str, granted: str) -> tuple[Container, ...]:
        """List what exists: Docker has no filter for "this name or that label"."""
        local, pages = await asyncio.gather(
            self._local(feature),
            asyncio.gather(*(self._labelled(feature, namespace) for namespace in self._namespaces)),
        )
        entries = [entry for page in pages for entry in page]
        if granted and not any(entry.id == granted for entry in entries):
            entries += await self._listed({"id": [granted]})
        kube = await asyncio.gather(*(self._read(feature, entry) for entry in entries))
        return tuple(container for container in (local, *kube) if container is not None)

    async def _local(self, feature: str) -> Container | None:
        """Return the local container, by its name."""
        try:
            found = await self._inspect(feature)
        except Unavailable:
            # A name is one container's.
            entries = await self._listed({"name": [f"^/{feature}$"]})
            return await self._read(feature, entries[0]) if entries else None
        if found is None or self._owner(feature, found.name, found.labels) is not Owner.LOCAL:
            return None
        return container_of(found, Owner.LOCAL)

    async def _read(self, feature: str, entry: ListEntry) -> Container | None:
        """Return a listed container as Docker describes it, or as listed where it does not; None: not the feature's."""
        owner = self._owner(feature, entry.name, entry.labels)
        if owner is None:
            return None
        try:
            found = await self._inspect(entry.id)
        except Unavailable as error:
            return unread(entry, owner, error.detail)
        return None if found is None else container_of(found, owner)

    def _owner(self, feature: str, name: str, labels: Mapping[str, str]) -> Owner | None:
        """Return the owner of the feature's container of this name; None where it is not the feature's."""
        who = whose(name, labels, self._namespaces, self._names.feature_of)
        return who[1] if not isinstance(who, Foreign) and who[0] == feature else None

    async def _known(self, container_id: str) -> Described | ListEntry | None:
        """Return name and labels of a container, from the list where Docker does not describe it."""
        try:
            return await self._inspect(container_id)
        except Unavailable:
            entries = await self._listed({"id": [container_id]})
            return entries[0] if entries else None

    async def _inspect(self, reference: str) -> Described | None:
        """Inspect one container; None: it does not exist."""
        try:
            found = await ask(self._docker.containers.get(reference), READ_S)
        except DockerError as error:
            if error.status == NOT_FOUND:
                return None
            raise Unavailable("Docker", error.message) from error
        return describe(found)

    async def _labelled(self, feature: str, namespace: str) -> tuple[ListEntry, ...]:
        """List the feature's kube containers of a namespace: the newest ones, and all that run."""
        labels = [
            f"{KUBE_NAME}={kube_name(feature)}",
            f"{KUBE_NAMESPACE}={namespace}",
            f"{KUBE_TYPE}={ORDINARY}",
        ]
        newest = await self._listed({"label": labels}, limit=NEWEST_MAX)
        if len(newest) < NEWEST_MAX:
            return newest
        # There may be more, and only those that do not run may be left out.
        live = await self._listed({"label": labels, "status": LIVE})
        return tuple({entry.id: entry for entry in (*newest, *live)}.values())

    async def _listed(self, filters: Mapping[str, Sequence[str]], limit: int = 0) -> tuple[ListEntry, ...]:
        """List containers in any state; `limit`: only so many, the newest."""
        query = {"filters": json.dumps(filters), "all": 1, **({"limit": limit} if limit else {})}
        try:
            found = await ask(self._docker.containers.list(**query), READ_S)
        except DockerError as error:
            raise Unavailable("Docker", error.message) from error
        return tuple(map(listed, found))

    async def _act(
        self,
        container_id: str,
        call: Callable[[DockerContainer], Awaitable[None]],
        deadline_s: float,
        judge: Callable[[DockerError], PortError | None],
        *,
        ends: bool = True,
    ) -> None:
        """Make one call that changes a container; once sent it is not cancelled.

        `judge` returns an error's meaning; None: success.
        """
        check_container_id(container_id)
        if len(self._calls) >= CALLS_MAX:
            raise Unavailable("Docker", f"{CALLS_MAX} calls are running; try again later")

        async def run() -> None:
            try:
                await ask(call(self._docker.containers.container(container_id)), deadline_s)
            except DockerError as error:
                verdict = judge(error)
                if verdict is not None:
                    raise verdict from error
            finally:
                self._cache.doubt_container(container_id, ends=ends)

        task = asyncio.create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        # Retrieve it, or asyncio logs the error of a call without a caller as a bug.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)


def _ended_is_success(error: DockerError) -> PortError | None:
    if error.status in (NOT_FOUND, CONFLICT):
        return None
    kind = Refused if error.status < 500 else Unavailable
    return kind("Docker", error.message)
