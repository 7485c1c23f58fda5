"""Track the open connections of both sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from kubesyncd.api.messages import Role

# A flood on the containers' socket must not block the host's.
CONNECTIONS_MAX = 1024


class Connections:
    """The tasks that serve open connections, by socket."""

    def __init__(self) -> None:
        self._tasks: dict[Role, set[asyncio.Task[Any]]] = {role: set() for role in Role}

    def counts(self) -> dict[str, int]:
        """Return the number of open connections, by socket."""
        return {role.value: len(tasks) for role, tasks in self._tasks.items()}

    def add(self, role: Role, task: asyncio.Task[Any]) -> bool:
        """Record that `task` serves a connection; False where the socket has too many."""
        if len(self._tasks[role]) >= CONNECTIONS_MAX:
            return False
        self._tasks[role].add(task)
        return True

    def remove(self, role: Role, task: asyncio.Task[Any]) -> None:
        """Record that the connection is over."""
        self._tasks[role].discard(task)

    async def close(self, within_s: float) -> None:
        """End every connection."""
        tasks = [task for each in self._tasks.values() for task in each]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
