"""Wait for an event or for time to pass, whichever is first."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def woken(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event`, at most `seconds`; return whether it was set. The event is cleared."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    was_set = event.is_set()
    event.clear()
    return was_set
