"""Let clients wait for one feature: for admission, for its end, for the next observation."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kubesyncd.core import verbs
from kubesyncd.core.model import SystemState
from kubesyncd.core.record import row_told
from kubesyncd.core.state import State, meaning
from kubesyncd.ports import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubesyncd.core.model import Timing
    from kubesyncd.features.surroundings import View

# Time a verb waits for Docker before it reports that Docker does not answer.
PATIENCE_S = 10.0
GONE = "the feature was uninstalled; nothing is left to wait for"


class Waiters:
    """Clients that wait for the feature. `dirty` is set when one arrives or leaves; `view`: the last one published."""

    def __init__(self, name: str, clock: Callable[[], float], timing: Timing, dirty: asyncio.Event) -> None:
        self._name = name
        self._clock = clock
        self._timing = timing
        self._dirty = dirty
        self._blocked: dict[str, int] = {}
        self._left_at = clock()
        # In order of arrival, so that a simulated run does not depend on memory addresses.
        self._changed: dict[asyncio.Event, None] = {}
        self._forgotten = False
        # How many observations have begun, and which one was the last to be published.
        self._begun = self._told = 0
        self.view: View | None = None

    @property
    def blocked(self) -> frozenset[str]:
        """Kube containers that wait in `state up kube`."""
        return frozenset(self._blocked)

    def may_ask_again(self, now: float) -> bool:
        """Return whether a container may soon repeat its request: the daemon just started, or a connection ended."""
        return now < self._left_at + self._timing.reask_s

    def begin(self) -> None:
        """Note that an observation begins; `tell` publishes it, if anything does."""
        self._begun += 1

    def tell(self, view: View) -> None:
        """Publish the observation that has begun last to all waiting clients."""
        self.view, self._told = view, self._begun
        for event in self._changed:
            event.set()

    def forget(self) -> None:
        """Refuse all waiting clients: the feature is uninstalled."""
        self._forgotten = True
        for event in self._changed:
            event.set()

    async def admitted(self, container_id: str) -> None:
        """Return once this kube container is admitted past `up kube`, without a time limit. Raises Refused."""
        self._blocked[container_id] = self._blocked.get(container_id, 0) + 1
        self._dirty.set()
        try:
            with self._watching() as changed:
                while self.view is None or not _may_proceed(self.view, container_id):
                    await changed.wait()
                    changed.clear()
                    self._refuse_forgotten()
        finally:
            self._blocked[container_id] -= 1
            if not self._blocked[container_id]:
                del self._blocked[container_id]
                self._left_at = self._clock()
            self._dirty.set()

    async def ended(self, say: Callable[[str], None]) -> int:
        """Return the exit code of `wait` once the feature has ended; `say` gets each new status. Raises Refused."""
        self._refuse_forgotten()
        said = ""
        lost_since: float | None = None
        self._dirty.set()
        with self._watching() as changed:
            await changed.wait()
            while True:
                changed.clear()
                self._refuse_forgotten()
                view, now = self.view, self._clock()
                assert view is not None, "a change is told after the view is set"
                if verbs.wait_follows(view.config, view.record, view.observed):
                    lost_since = None
                elif lost_since is None:
                    lost_since = now
                code = verbs.wait_code(view.config, view.record, view.observed, self._timing, now, lost_since)
                if code is not None:
                    return code
                if (sentence := _status(view, self._name)) != said:
                    say(said := sentence)
                patience_s = None if lost_since is None else lost_since + self._timing.local_wait_s - now
                await self._next_observation(changed, patience_s)

    async def observed(self) -> View:
        """Return the view after an observation that begins now or later. Raises Unavailable without an answer."""
        self._dirty.set()
        # One that is under way may have read Docker before the caller's change.
        before = self._begun
        with self._watching() as changed:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while self._told <= before:
                        changed.clear()
                        await changed.wait()
            except TimeoutError:
                raise Unavailable("Docker", "it does not answer") from None
        assert self.view is not None, "a change is told after the view is set"
        return self.view

    async def _next_observation(self, changed: asyncio.Event, patience_s: float | None) -> None:
        """Return at the next observation; request one after `patience_s`.

        While Docker does not answer, what runs is unknown: a wait then goes on, and does not end by an old observation.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await changed.wait()
        if not changed.is_set():
            self._dirty.set()
            await changed.wait()

    def _refuse_forgotten(self) -> None:
        if self._forgotten:
            raise Refused("kubesyncd", GONE)

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set at each observation."""
        changed = asyncio.Event()
        self._changed[changed] = None
        try:
            yield changed
        finally:
            del self._changed[changed]


def _may_proceed(view: View, container_id: str) -> bool:
    """Return whether the container is admitted, runs alone, and STATE_DB (where it can be written) shows it."""
    if view.record.grant != container_id or container_id not in view.observed.kube_running:
        return False
    if view.record.system_state is SystemState.DOWN:
        # It is being ended.
        return False
    if view.record.unconfirmed:
        # The row tells it that it may go on, until it is known to ask here.
        return False
    if view.observed.local_running or view.record.start is not None:
        # The local container is being stopped, or Docker may still start it.
        return False
    return row_told(view.record, view.observed)


# The reason says more than the state's meaning: it names the feature, or what is waited for.
_SHOWN_BY_REASON = (
    State.UNKNOWN,
    State.KUBE_READY,
    State.KUBE_PENDING,
    State.LOCAL_TO_KUBE,
    State.KUBE_STOPPED,
)


def _status(view: View, feature: str) -> str:
    """Return the feature's status text in `systemctl status`."""
    if view.plan.state in _SHOWN_BY_REASON:
        return view.plan.why
    return meaning(view.plan.state, feature)
