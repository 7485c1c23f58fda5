"""Read the Docker event stream: one connection at a time, with a ping while it is silent."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp

from kubesyncd.adapters.docker_client import BASE, READ_S, ask
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import aiodocker


# How long the event stream may be silent before the engine is pinged.
QUIET_S = 60.0
PING_S = 5.0
IMAGE_ACTIONS = ("delete", "untag", "tag", "import", "load", "pull")
IMAGE = "image"
EVENT_BYTES_MAX = 1 << 20
# Docker's own journal has this length, and loses what is older.
JOURNAL_EVENTS = 256
JOURNAL_BYTES_MAX = 16 << 20
# `update` changes a restart policy.
ACTIONS = (
    "create",
    "start",
    "die",
    "destroy",
    "rename",
    "pause",
    "unpause",
    "update",
    "oom",
    "health_status",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `names`: the container's name, after a rename the old one too. `at`: ISO 8601.

    `of_image`: it is an image's, and its other fields are of no use.
    """

    action: str
    container_id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]
    at: str
    of_image: bool = False


class EventStream:
    """The event stream of one engine. `quiet_s`: how long it may be silent before the engine is pinged.

    `restart`: from when all events had arrived until the connection, where the engine has certainly started in between
    (ISO 8601, of the clock that Docker reads, too); else None. A stream may also be lost while the engine runs on.
    """

    def __init__(self, docker: aiodocker.Docker, quiet_s: float) -> None:
        self._docker = docker
        self._quiet_s = quiet_s
        self.restart: tuple[str, str] | None = None
        # When the first connection was tried, then until when the last one has heard all.
        self._since = ""
        self._heard_ns = 0
        # Whether the engine's journal has had an event.
        self._had_events = True

    async def connect(self) -> AsyncGenerator[Event | None, None]:
        """Yield None once the connection is open, and then its events. Ends only by raising Unavailable."""
        self._since = self._since or _iso(time.time_ns())
        # A restarted engine may be another version.
        self._docker.api_version = "auto"
        # Docker answers before it subscribes; with `since`, every event in between is in the replay.
        filters = {"type": ["container", IMAGE], "event": [*ACTIONS, *IMAGE_ACTIONS]}
        query = {"since": "0", "filters": json.dumps(filters)}
        response = await ask(self._docker.session.get(f"{BASE}/events", params=query), READ_S)
        connected = False
        try:
            if response.status != 200:
                raise Unavailable("Docker", f"the event stream answers {response.status}")
            self.restart = await self._restart()
            self._heard_ns, connected = time.monotonic_ns(), True
            yield None
            rest = b""
            while True:
                *lines, rest = (rest + await self._chunk(response)).split(b"\n")
                if len(rest) > EVENT_BYTES_MAX:
                    raise Unavailable("Docker", f"an event is longer than {EVENT_BYTES_MAX} bytes")
                for line in filter(bytes.strip, lines):
                    event = parse_event(line)
                    self._heard_ns, self._had_events = time.monotonic_ns(), True
                    yield event
        finally:
            response.close()
            if connected:
                # By the wall clock of now, which may have been set back.
                self._since = _iso(time.time_ns() - (time.monotonic_ns() - self._heard_ns))

    async def _restart(self) -> tuple[str, str] | None:
        """Return since when and until when the engine has restarted; None: it has not, or that is not certain.

        It keeps its last events in memory: where it had some and now has only newer ones, it has started since.
        """
        now_ns = time.time_ns()
        seconds, nanos = divmod(now_ns, 10**9)
        query = {"since": "0", "until": f"{seconds}.{nanos:09d}"}
        async with await ask(self._docker.session.get(f"{BASE}/events", params=query), READ_S) as response:
            journal = await ask(_body(response), READ_S) if response.status == 200 else b""
        events = [line for line in journal.split(b"\n") if line.strip()]
        had_events, self._had_events = self._had_events, bool(events)
        if not (had_events and events) or len(events) >= JOURNAL_EVENTS:
            return None
        if _time_of(events[0]) <= self._since:
            return None
        return self._since, _iso(now_ns)

    async def _chunk(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the next bytes, without a limit as long as the engine answers pings."""
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
        asked_ns = time.monotonic_ns()
        response = await ask(self._docker.session.get(f"{BASE}/_ping"), PING_S)
        response.release()
        if response.status != 200:
            raise Unavailable("Docker", f"a ping is answered with {response.status}")
        self._heard_ns = asked_ns


def parse_event(line: bytes) -> Event:
    """Decode one line of the event stream. Raises Unavailable where it is invalid."""
    try:
        event = json.loads(line)
        attributes = event["Actor"]["Attributes"] or {}
        names = [str(attributes.get("name", ""))]
        if event["Action"] == "rename":
            names.append(str(attributes.get("oldName", "")))
        return Event(
            action=str(event["Action"]),
            container_id=str(event["Actor"]["ID"]),
            names=tuple(names),
            labels={str(k): str(v) for k, v in attributes.items()},
            at=_iso(int(event["timeNano"])),
            of_image=event.get("Type") == IMAGE,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise Unavailable("Docker", f"an unreadable event: {line[:80]!a}") from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole answer; nothing where it is too long."""
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > JOURNAL_BYTES_MAX:
            return b""
    return body


def _time_of(line: bytes) -> str:
    """Return an event's time; the earliest one where it is unreadable."""
    try:
        return _iso(int(json.loads(line)["timeNano"]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return ""


def _iso(nanos: int) -> str:
    seconds, rest = divmod(nanos, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
