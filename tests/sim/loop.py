"""Run hours in milliseconds: an event loop whose clock jumps to the next scheduled call.

Knows nothing of kubesyncd. Real files may be read and written. Sockets and threads cannot be used:
the loop does not wait for them, and reports such a wait as a deadlock.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

T = TypeVar("T")

LOOK_S = 1e-6


class Deadlock(BaseException):
    """Nothing can run and nothing is scheduled: the program under test would hang forever.

    Not derived from Exception, so that no `except Exception` under test catches it.
    """


class _NullSelector(selectors.BaseSelector):
    """Nothing ever becomes readable; waiting moves the clock instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock(f"at {self.now:.3f} s: nothing runnable, nothing scheduled")
        # A select takes time too: otherwise a wait for a fraction of the clock's last digit would never end.
        self.now += max(timeout, LOOK_S)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = selectors.SelectorKey(
            fileobj, fileobj if isinstance(fileobj, int) else -1, events, data
        )
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class _Task(asyncio.Task[Any]):
    """A task that lies in sets by its number: by its address, no two runs would be the same."""

    __slots__ = ("number",)

    def __init__(self, number: int, *args: Any, **more: Any) -> None:
        self.number = number
        super().__init__(*args, **more)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 s. `shuffle` chooses the order of what is ready at the same moment."""

    def __init__(self, shuffle: random.Random | None = None) -> None:
        self._virtual = _NullSelector()
        self._shuffle = shuffle
        self._numbers = itertools.count()
        super().__init__(self._virtual)
        self.set_task_factory(self._numbered)

    def _numbered(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> _Task:
        return _Task(next(self._numbers), coro, loop=loop, **more)

    def time(self) -> float:
        return self._virtual.now

    def _run_once(self) -> None:
        if self._shuffle is not None:
            self._shuffle.shuffle(self._ready)
        super()._run_once()


def run(main: Coroutine[Any, Any, T], seed: int | None = None) -> T:
    """Run `main` in virtual time. A `seed` shuffles what is ready at the same moment, always the same way.

    Raises Deadlock where `main` waits for something that can never happen.
    """
    loop = VirtualLoop(None if seed is None else random.Random(seed))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
