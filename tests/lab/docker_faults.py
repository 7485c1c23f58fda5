"""Have the lab's Docker engine fail, wait or be silent, by a test's word.

A test in the engine's own process uses the attributes; one in another process writes the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING

from tests.lab.docker_words import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# A status, a message, and the calls that fail with them.
FAILS = "fails.json"
# Calls, as regular expressions, that wait.
HOLDS = "holds.json"
# The calls that have been held back.
HELD = "held"


class LabFaults:
    """The faults of one engine. `folder`: where the files are.

    `fail`: method and path to the error. `kills_on_dropped_stop`: as Docker 23.0 and 24.0 did (moby#45731).
    """

    def __init__(self, folder: Path) -> None:
        self.fail: dict[tuple[str, str], ApiError] = {}
        self.kills_on_dropped_stop = False
        self._folder = folder
        self._starting: set[str] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()

    def freeze(self) -> None:
        """Have each request and event wait until `thaw()`, as SIGSTOP does; connections stay open."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where `freeze()` stopped."""
        self._thawed.set()

    async def thawed(self) -> None:
        """Return once it is not frozen."""
        await self._thawed.wait()

    def check(self, method: str, path: str) -> None:
        """Raises ApiError where this call is to fail."""
        if (method, path) in self.fail:
            raise self.fail[method, path]
        with contextlib.suppress(FileNotFoundError):
            status, message, *calls = json.loads((self._folder / FAILS).read_text())
            if [method, path] in calls:
                raise ApiError(status, message)

    @property
    def holding(self) -> bool:
        """Whether any call may have to wait."""
        return (self._folder / HOLDS).exists()

    @contextlib.asynccontextmanager
    async def held(self, call: str, box_id: str) -> AsyncIterator[None]:
        """Wait while `holds.json` names this call, or the start of the container that it is about.

        Docker locks a container while it starts it: all but the list waits for that.
        """
        starts = bool(box_id) and call.endswith("/start")
        while not starts and box_id in self._starting:
            await asyncio.sleep(0.02)
        if starts:
            self._starting.add(box_id)
        try:
            if self._names(call):
                with (self._folder / HELD).open("a") as file:
                    file.write(f"{call}\n")
            while self._names(call):
                await asyncio.sleep(0.02)
            yield
        finally:
            self._starting.discard(box_id)

    def _names(self, call: str) -> bool:
        try:
            return any(re.fullmatch(held, call) for held in json.loads((self._folder / HOLDS).read_text()))
        except FileNotFoundError:
            return False
