"""Wait until a condition holds, up to a limit; after it, raise with what was awaited and what was seen last.

`until` is for plain code, `until_async` for a running loop, of real or of virtual time. Know nothing of kubesyncd.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Seen = TypeVar("Seen")

# Never what is tested: only how long a broken run may hang.
LIMIT_S = 300.0
PAUSE_S = 0.02
# Sync waits start processes and requests: what takes long is looked at less often.
SLOWER = 5


def until(
    look: Callable[[], Seen],
    what: str = "",
    limit_s: float = LIMIT_S,
    pause_s: float = PAUSE_S,
    told: Callable[[], str] = str,
) -> Seen:
    """Return the first true value of `look`. Raises AssertionError, which ends with `told()`."""
    begun = time.monotonic()
    while not (seen := look()):
        waited_s = time.monotonic() - begun
        if waited_s > limit_s:
            raise AssertionError(_late(look, what, limit_s, seen) + told())
        time.sleep(min(SLOWER * pause_s, pause_s + waited_s / 50))
    return seen


async def until_async(
    look: Callable[[], Seen | Awaitable[Seen]],
    what: str = "",
    limit_s: float = LIMIT_S,
    pause_s: float = PAUSE_S,
    told: Callable[[], str] = str,
) -> Seen:
    """Return the first true value of `look`, which may be awaited. Raises AssertionError, which ends with `told()`."""
    seen = None
    try:
        async with asyncio.timeout(limit_s) as limit:
            while True:
                found = look()
                seen = await found if inspect.isawaitable(found) else found
                if seen:
                    return seen
                await asyncio.sleep(pause_s)
    except TimeoutError:
        if not limit.expired():
            raise
        raise AssertionError(_late(look, what, limit_s, seen) + told()) from None


def _late(look: Callable[[], object], what: str, limit_s: float, seen: object) -> str:
    """What is missing; without a name, the place where the condition is written."""
    code = getattr(look, "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(look)
    return f"not seen within {limit_s:g} s: {what or place}; seen last: {seen!r:.500}\n"
