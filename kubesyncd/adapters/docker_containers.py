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
from kubesyncd.adapters.docker_inspect import KUBE_NAME, Described, container_of, describe, whose
from kubesyncd.adapters.docker_place import socket_path
from kubesyncd.core.model import CONTAINER_ID, SHORT_ID, Container, Identity, Signal
from kubesyncd.ports import Missing, PortError, Refused, Unavailable
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from random import Random

    from aiodocker.containers import DockerContainer

    from kubesyncd.settings import DockerSettings

START_S = 60.0
KILL_S = 30.0
# Beyond the grace: Docker itself waits up to 10 s for the SIGKILLed process to vanish.
STOP_MARGIN_S = 15.0
# How long an unused connection is kept; each check of it wakes the process up.
KEEPALIVE_S = 60.0
BACKOFF_S = 0.8
BACKOFF_S_MAX = 2.0
KUBE_CONTAINERS_MAX = 16
CALLS_MAX = 256
CONNECTIONS_MAX = 1024

# A dockerd that was stopped while it started a container cannot start that container again.
LEFT_BEHIND = re.compile(
    r"task \S+ already exists|failed to start shim: mkdir \S+ file exists", re.IGNORECASE
)


class DockerContainers:
    """ports.Containers. Create it inside a running loop; `events()` has one reader, which reads without delay."""

    def __init__(self, settings: DockerSettings, rng: Random, *, quiet_s: float = QUIET_S) -> None:
        path = socket_path(settings.url)
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
        self._cache = ContainerCache()

    async def events(self) -> AsyncIterator[str | Signal]:
        """Yield the names of features with a container that was created, started, renamed, died or was destroyed.

        GAP when the stream is lost and again when it is back. Docker's journal is replayed on connection, so
        exits of containers that were destroyed meanwhile are known where Docker still has them.
        """
        assert not self._cache.connected, "events() has one reader"
        backoff = Backoff(self._rng, BACKOFF_S, BACKOFF_S_MAX)
        while True:
            try:
                async with aclosing(self._stream.connect()) as stream:
                    async for event in stream:
                        if event is None:
                            backoff.reset()
                            self._cache.connect()
                            yield Signal.GAP
                            continue
                        for feature in self._cache.take(event):
                            yield feature
            except Unavailable:
                pass
            finally:
                lost = self._cache.disconnect()
            if lost:
                yield Signal.GAP
            await asyncio.sleep(backoff.next_s())

    async def list(self, feature: str) -> tuple[Container, ...]:
        """List all containers of the feature, oldest first, and the exits of recently destroyed ones (`gone`).

        No I/O where a local one exists and nothing has changed. Raises Refused for an invalid feature name, else
        Unavailable.
        """
        check_feature(feature)
        now = asyncio.get_running_loop().time()
        known = self._cache.get(feature, now)
        if known is not None:
            return known
        begun = self._cache.begin()
        return self._cache.put(feature, await self._present(feature), begun=begun, now=now)

    async def start(self, container_id: str) -> None:
        """Start it; a running one is success. Raises Missing, Refused with Docker's reason, Unavailable."""

        def judge(error: DockerError) -> PortError:
            # A start also answers 404 for a network or volume that is gone: that is not a missing container.
            if error.status == NOT_FOUND and "no such container" in error.message.lower():
                return Missing("Docker", error.message)
            if LEFT_BEHIND.search(error.message):
                fix = f"docker rm -f {container_id[:SHORT_ID]}, and its unit creates a new one"
                return Refused("Docker", f"{error.message}: remains of its last run are in the way; {fix}")
            return Refused("Docker", error.message)

        await self._act(container_id, lambda c: c.start(), START_S, judge, ends=False)

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
        """Return the feature and owner of a container; its Kubernetes label takes precedence over its name.

        Raises Missing where it belongs to no feature, else Unavailable.
        """
        found = await self._inspect(container_id) if CONTAINER_ID.fullmatch(container_id) else None
        # Docker also finds containers *named* like an ID.
        if found is None or not found.id.startswith(container_id):
            raise Missing("Docker", f"no container {container_id[:64]!a}")
        who = whose(found.name, found.labels)
        if who is None:
            raise Missing("Docker", f"container {found.id[:SHORT_ID]} ({found.name!a}) belongs to no feature")
        return Identity(found.id, *who)

    async def close(self, drain_s: float = 20.0) -> None:
        """Close every connection, after at most `drain_s` for calls whose callers were cancelled."""
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=drain_s)
            for call in late:
                call.cancel()
        await self._docker.close()
        await self._connector.close()

    async def _present(self, feature: str) -> tuple[Container, ...]:
        """List what exists, by two requests at once: Docker has no filter for "this name or that label"."""
        named, labelled = await asyncio.gather(self._inspect(feature), self._labelled(feature))
        pods = await asyncio.gather(*map(self._inspect, labelled))
        owned = ((found, whose(found.name, found.labels)) for found in (named, *pods) if found)
        return tuple(container_of(found, who[1]) for found, who in owned if who and who[0] == feature)

    async def _inspect(self, reference: str) -> Described | None:
        """Inspect one container; None: it does not exist."""
        try:
            found = await ask(self._docker.containers.get(reference), READ_S)
        except DockerError as error:
            if error.status == NOT_FOUND:
                return None
            raise Unavailable("Docker", error.message) from error
        return describe(found)

    async def _labelled(self, feature: str) -> tuple[str, ...]:
        """Return the IDs of the feature's containers by the kubelet's label, the newest ones."""
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
