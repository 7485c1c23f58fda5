"""Run a program whose event loop notes how late it is: `python -m tests.tools.bench.lag FILE MODULE [ARGUMENT…]`.

A timer is due every `EVERY_S`. How late it fires is what any request would have waited. At its end the program writes
FILE: JSON lists of a time (CLOCK_MONOTONIC), the lateness, and how long the loop's thread has computed since the timer
before, in seconds. Without a MODULE the loop has nothing
else to do, until SIGTERM: what this machine itself is late.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import runpy
import signal
import sys
import time
from pathlib import Path

EVERY_S = 0.005


class _Policy(asyncio.DefaultEventLoopPolicy):
    """Makes loops that note their lateness."""

    def __init__(self, late: list[tuple[float, float, float]]) -> None:
        super().__init__()
        self._late = late

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()

        def due(at: float, computed: float) -> None:
            now, busy = time.monotonic(), time.thread_time()
            self._late.append((now, now - at, busy - computed))
            loop.call_at(now + EVERY_S, due, now + EVERY_S, busy)

        loop.call_soon(due, time.monotonic(), time.thread_time())
        return loop


async def _nothing() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


def main() -> None:
    """Run the module, or nothing."""
    file, late = Path(sys.argv[1]), []  # type: ignore[var-annotated]
    atexit.register(lambda: file.write_text(json.dumps(late)))
    asyncio.set_event_loop_policy(_Policy(late))
    if len(sys.argv) == 2:
        asyncio.run(_nothing())
        return
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
