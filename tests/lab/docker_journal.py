"""Keep the journal of the lab's Docker engine, and tell its readers each event.

Knows no request and no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.lab.docker_words import Box

    Event = dict[str, Any]

EVENTS_MAX = 256  # Docker's own journal has this length, and loses what is older
BACKLOG_MAX = 1024


class Journal:
    """The events of one engine, in Docker's words."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._readers: set[asyncio.Queue[Event]] = set()

    def forget(self) -> None:
        """Lose what has been told so far, as a restart of Docker does."""
        self._past.clear()

    def mute(self) -> None:
        """Tell those who read now nothing any more; their connections stay open."""
        self._readers.clear()

    def container(self, action: str, box: Box, **extra: str) -> None:
        """Tell an event of a container."""
        attributes = {**box.labels, **extra, "image": box.image, "name": box.name}
        self._tell("container", action, box.id, attributes, **{"from": box.image})

    def image(self, action: str, image_id: str, name: str) -> None:
        """Tell an event of an image."""
        self._tell("image", action, image_id, {"name": name})

    def _tell(self, kind: str, action: str, actor: str, attributes: Mapping[str, str], **more: str) -> None:
        now = time.time_ns()
        event = {
            "status": action,
            "id": actor,
            **more,
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": dict(attributes)},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        self._past.append(event)
        for queue in self._readers:
            # Like Docker: a slow reader loses events without a notice.
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(event)

    @contextlib.contextmanager
    def read(self, since: int | None) -> Iterator[AsyncIterator[Event]]:
        """The events since then (in ns; with None from now on), and each later one as it comes."""
        queue: asyncio.Queue[Event] = asyncio.Queue(BACKLOG_MAX)
        past = [event for event in self._past if since is not None and event["timeNano"] >= since]
        self._readers.add(queue)
        try:
            yield _chained(past, queue)
        finally:
            self._readers.discard(queue)


async def _chained(past: list[Event], queue: asyncio.Queue[Event]) -> AsyncIterator[Event]:
    for event in past:
        yield event
    while True:
        yield await queue.get()
