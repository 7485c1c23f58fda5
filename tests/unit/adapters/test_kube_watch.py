"""Check when a watch counts as dead, on a connection that does what the test says."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.adapters.kube_watch import NodeWatch
from kubesyncd.ports import Unavailable
from tests.sim import loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENT = b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}\n'


class Connection:
    """A KubeConnection whose watch sends a blank a second, after `events` events, one every 3 s."""

    def __init__(self, events: int) -> None:
        self._events = events

    async def ask(self, *_: object, **__: object) -> dict[str, Any]:
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    @asynccontextmanager
    async def call(self, *_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        content = asyncio.StreamReader()

        async def send() -> None:
            for _ in range(self._events):
                await asyncio.sleep(3.0)
                content.feed_data(EVENT)
            while True:
                await asyncio.sleep(1.0)
                content.feed_data(b" ")

        sending = asyncio.create_task(send())
        try:
            yield SimpleNamespace(content=content)
        finally:
            sending.cancel()


@pytest.mark.parametrize(("events", "dead_after_s"), [(0, 4.0), (5, 19.0)])
def test_only_whole_events_keep_a_watch_alive(events: int, dead_after_s: float) -> None:
    async def story() -> None:
        begun = asyncio.get_running_loop().time()
        connection: Any = Connection(events)
        with pytest.raises(Unavailable, match="the watch was silent for 4 s"):
            async for _ in NodeWatch(connection, lambda: "switch1", watch_s=2, silence_s=4.0).nodes():
                pass
        assert asyncio.get_running_loop().time() - begun == pytest.approx(dead_after_s, abs=0.1)

    loop.run(story())


class OneNode:
    """A KubeConnection to a server with one unchanged Node; each of its watches ends in order after 30 s."""

    version = 0

    async def ask(self, *_: object, **__: object) -> dict[str, Any]:
        self.version += 1
        metadata = {"uid": "one", "resourceVersion": "1"}
        return {"items": [{"metadata": metadata}], "metadata": {"resourceVersion": str(self.version)}}

    @asynccontextmanager
    async def call(self, *_: object, **__: object) -> AsyncIterator[SimpleNamespace]:
        content = asyncio.StreamReader()
        asyncio.get_running_loop().call_later(30.0, content.feed_eof)
        yield SimpleNamespace(content=content)


def test_an_unchanged_node_is_reported_once_an_hour_with_the_version_of_the_store() -> None:
    async def story() -> None:
        begun = asyncio.get_running_loop().time()
        connection: Any = OneNode()
        told: list[tuple[int, int]] = []
        async for seen in NodeWatch(connection, lambda: "switch1", watch_s=30, silence_s=36.0).nodes():
            assert seen is not None
            assert not seen.older
            told.append((round(asyncio.get_running_loop().time() - begun), seen.version))
            if len(told) == 3:
                break
        assert told == [(0, 1), (3600, 121), (7200, 241)]

    loop.run(story())
