"""Wait for an event or for time to pass, whichever is first."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def rung(bell: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `bell`, at most `seconds`; return whether it was set. The event is cleared."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
    rang = bell.is_set()
    bell.clear()
    return rang
