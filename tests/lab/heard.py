"""Collect what a port's event stream says, and wait for more."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kubesyncd.core.model import Signal

LIMIT_S = 180.0


class Speaker(Protocol):
    """A port with events: a ports.FeatureStore or a ports.Containers."""

    def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]: ...


class Heard:
    """The events of a port so far, in `said`, collected by a task of its own. `lost`: see ports.FeatureStore.events."""

    def __init__(self, port: Speaker, lost: Callable[[str], object] = str) -> None:
        self.said: list[str | Signal] = []
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._listen(port, lost))

    async def until(self, enough: Callable[[list[str | Signal]], bool]) -> None:
        """Return once what was said is enough."""
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(lambda: enough(self.said))

    async def page(self, enough: Callable[[list[str | Signal]], bool]) -> list[str | Signal]:
        """Return what was said once it is enough, and forget it."""
        async with asyncio.timeout(LIMIT_S), self._news:
            await self._news.wait_for(lambda: enough(self.said))
            page, self.said = self.said, []
            return page

    async def then_forget(self, word: str | Signal, times: int = 1) -> list[str | Signal]:
        """Return what was said once `word` was said so often, and forget it."""
        return await self.page(lambda said: said.count(word) >= times)

    async def close(self) -> None:
        """Stop listening. Events that have ended by themselves are an error."""
        assert not self._task.done(), self._task
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self, port: Speaker, lost: Callable[[str], object]) -> None:
        async with contextlib.aclosing(port.events(lost)) as events:
            async for word in events:
                async with self._news:
                    self.said.append(word)
                    self._news.notify_all()
