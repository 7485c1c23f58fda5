"""Track the open connections of both sockets, and bound how many of them one caller may hold, and for what."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubesyncd.api.messages import AtLimit, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of each socket: a flood on the containers' one must not block the host's.
CONNECTIONS_MAX = 1024
# The share of them that requests may hold that wait without a limit. The others are for what is answered soon.
WAITING_SHARE = 0.75
WAITING_FOR_ONE_MAX = 64
# Of one container or user; of one process of the host.
CALLER_CONNECTIONS_MAX = 16
PROCESS_CONNECTIONS_MAX = 128
# Descriptors that are left for everything but connections.
OTHER_DESCRIPTORS = 256
CONNECTIONS_LEAST = 16
HOLDERS_NAMED = 3


def connections_max(descriptors: int) -> int:
    """Return how many connections each socket may have in a process that may open so many descriptors."""
    return max(CONNECTIONS_LEAST, min(CONNECTIONS_MAX, (descriptors - OTHER_DESCRIPTORS) // len(Role)))


@dataclass(slots=True)
class _Held:
    """The connections of one socket: the caller of each, how many each caller has, and how many wait for a feature."""

    tasks: dict[asyncio.Task[Any], str] = field(default_factory=dict)
    callers: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class Connections:
    """The tasks that serve open connections, by socket. `most`: of one socket."""

    def __init__(self, most: int = CONNECTIONS_MAX) -> None:
        self.most = most
        self._open = {role: _Held() for role in Role}

    def counts(self) -> dict[str, int]:
        """Return the number of open connections, by socket."""
        return {role.value: len(held.tasks) for role, held in self._open.items()}

    def add(self, role: Role, task: asyncio.Task[Any]) -> None:
        """Record that `task` serves a connection. Raises AtLimit where the socket has too many."""
        tasks = self._open[role].tasks
        if len(tasks) >= self.most:
            raise AtLimit(f"{len(tasks)} connections are open")
        tasks[task] = ""

    def of_caller(self, role: Role, task: asyncio.Task[Any], caller: str, most: int) -> None:
        """Record who has opened the connection. Raises AtLimit where the caller has `most` already."""
        held = self._open[role]
        if held.callers[caller] >= most:
            raise AtLimit(f"{caller} holds {most} connections")
        held.callers[caller] += 1
        held.tasks[task] = caller

    @contextmanager
    def waiting(self, role: Role, feature: str) -> Iterator[None]:
        """Record that a connection waits for a feature, without a limit of time. Raises AtLimit."""
        waits = self._open[role].waits
        if waits[feature] >= WAITING_FOR_ONE_MAX:
            raise AtLimit(f"{waits[feature]} clients wait for {feature}", waits=True)
        if (count := waits.total()) >= int(self.most * WAITING_SHARE):
            raise AtLimit(f"{count} clients wait for features", waits=True)
        waits[feature] += 1
        try:
            yield
        finally:
            _take_one(waits, feature)

    def holders(self, role: Role) -> str:
        """Return who holds most of the socket's connections."""
        held = self._open[role]
        waits = (f"{count} waiting for {feature}" for feature, count in held.waits.most_common(HOLDERS_NAMED))
        callers = (f"{count} of {caller}" for caller, count in held.callers.most_common(HOLDERS_NAMED))
        return ", ".join([f"{len(held.tasks)} open", *waits, *callers])

    def remove(self, role: Role, task: asyncio.Task[Any]) -> None:
        """Record that the connection is over."""
        held = self._open[role]
        if caller := held.tasks.pop(task, ""):
            _take_one(held.callers, caller)

    async def close(self, within_s: float) -> None:
        """End every connection."""
        tasks = [task for held in self._open.values() for task in held.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)


def _take_one(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
