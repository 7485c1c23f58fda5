"""Reconcile one feature: wait until something may have changed, observe, plan, act, repeat.

Knows the ports, the ledger and the pure core; knows no socket and no adapter. Only the reconciler acts on its
feature. Other components leave a request (a verb, a waiting container, "something changed") and set `dirty`.

- `dirty` is set: something may have changed since the last observation. It is cleared *before* observing, so a
  change during the observation triggers another one.
- `_turn` runs at most one action at a time. Only docker stop runs concurrently, because
  it may take a minute and a newer verb must be able to overtake it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.model import SystemState
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide, foresee
from kubesyncd.core.record import absorb, state_of
from kubesyncd.core.state import check
from kubesyncd.core.verbs import Outcome
from kubesyncd.features.executor import Executor
from kubesyncd.features.memory import Memory
from kubesyncd.features.surroundings import View
from kubesyncd.features.verb_call import VerbCall
from kubesyncd.features.waiters import GONE, Waiters
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from kubesyncd.core.actions import Plan
    from kubesyncd.core.model import Row
    from kubesyncd.core.record import Record
    from kubesyncd.core.state import Transition
    from kubesyncd.core.verbs import Verb
    from kubesyncd.features.surroundings import Surroundings
    from kubesyncd.runtime.alerts import AlertLog

# More plans than this in one turn: two rules undo each other. The feature is slowed down and a traceback is logged.
PLANS_MAX = 32
# Topics of failures that do not stop the reconciliation; each is one alert, and a line in `explain` until it clears.
ALERTS = ("ledger", "rollback", "image_not_adopted", "image_not_restored")
FAILING_PAUSE_S = 0.2
NOTES_MAX = 64


class LivelockError(Exception):
    """Plans follow each other without coming to rest: a bug in kubesyncd."""


class Reconciler:
    """The reconciler of one feature. Run `run()` once, for the daemon's lifetime."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name = name
        self.dirty = around.wakes.of(name)
        # A new reconciler observes by itself.
        self.dirty.set()
        self.waiters = Waiters(name, around.runtime.clock, around.timing, self.dirty)
        self.busy_since: float | None = None
        self._around = around
        self._clock = around.runtime.clock
        self._log = log = around.runtime.log.bind(feature=name)
        self._alerts = around.runtime.alert_log(name, log)
        self._memory = Memory(name, around, self._alerts, log)
        self._executor = Executor(
            name, around, self._memory, alerts=self._alerts, log=log, wake=self.dirty.set
        )
        self._call = VerbCall(self._clock, around.timing.verb_s_max)
        self._notes: list[Callable[[Record], Record]] = []
        self._backoff = around.runtime.backoff(around.timing)
        self._retry_at: float | None = None
        self._store = _StoreReader(name, around, self._memory, self._alerts)

    # ---- for the server -------------------------------------------------------------------------

    @property
    def view(self) -> View | None:
        """The last observation and plan; None: none yet."""
        return self.waiters.view

    @property
    def history(self) -> deque[Transition]:
        """The last changes of state."""
        return self._memory.history

    @property
    def problems(self) -> tuple[str, ...]:
        """Actions that failed for the feature (full disk, refused by Docker); each is tried again."""
        return self._alerts.lasting(*ALERTS)

    async def carry_out(self, verb: Verb) -> Outcome:
        """Record the verb's request and wait until it is done. Always answers, within `verb_s_max`."""
        return await self._call.carried_out(verb, self._observe_soon, self._why)

    async def seen(self) -> View:
        """Return the view after an observation that begins now or later. Raises Unavailable without Docker."""
        self._retry_at = None
        return await self.waiters.observed()

    async def note(self, change: Callable[[Record], Record]) -> View:
        """Apply a client's report to the record; return the view of the observation that has applied it.

        Raises Refused where too many reports are waiting, Unavailable where Docker does not answer.
        """
        if len(self._notes) >= NOTES_MAX:
            raise Refused("kubesyncd", f"{NOTES_MAX} reports are waiting already; report again later")
        self._notes.append(change)
        return await self.seen()

    def foreseen(self) -> tuple[Record, Plan] | None:
        """Return record and plan of the next timed observation, if nothing changes until then; None: none is due."""
        view = self.view
        if view is None or view.plan.wake_at is None:
            return None
        timing, wake_at = self._around.timing, view.plan.wake_at
        return foresee(view.config, view.record, view.observed, timing, wake_at, self.name)

    async def check_forgettable(self) -> None:
        """Check that nothing is left of the feature but its record. Raises Refused, Unavailable."""
        stored = await self._around.store.read(self.name)
        view = await self.seen()
        if stored.loading or stored.config is not None:
            raise Refused("kubesyncd", "it has a FEATURE row; run: config feature uninstall")
        running = view.observed.local_running or view.record.grant in view.observed.kube_running
        if running or view.record.system_state is SystemState.UP:
            raise Refused("kubesyncd", f"it is still up ({view.plan.why}); stop its service first")

    def forget(self) -> None:
        """Answer all waiting clients: the feature is uninstalled."""
        self._call.answer(Outcome(protocol.EXIT_FAILED, GONE))
        self._alerts.end_all()
        self.waiters.forget()

    def _observe_soon(self) -> None:
        self._retry_at = None
        self.dirty.set()

    def _why(self) -> str:
        return self.view.plan.why if self.view is not None else "Docker has not answered yet"

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile. Returns only by cancellation."""
        try:
            while True:
                await self._next_turn()
                self._retry_at = None
                try:
                    await self._turn()
                    self._backoff.reset()
                    self._alerts.warn("trouble", "")
                except PortError as error:
                    self._failed(error)
                except Exception:  # noqa: BLE001 - a bug may slow down only its own feature
                    text = "kubesyncd has a bug; see `journalctl -u kubesyncd`"
                    self._call.answer(Outcome(protocol.EXIT_FAILED, text))
                    self._retry_at = self._clock() + self._backoff.longest_s()
                    self._log.exception("reconciler_failed", why="a bug; only this feature is slowed down")
                finally:
                    self.busy_since = None
        finally:
            self._executor.cancel()

    async def _next_turn(self) -> None:
        """Wait until an observation is due; `dirty` is clear then."""
        now = self._clock()
        if self._retry_at is not None:
            # While an external service fails, the backoff limits the pace, not its events.
            await asyncio.sleep(max(0.0, min(self._retry_at - now, FAILING_PAUSE_S)))
            wakes: list[float | None] = [self._retry_at]
        else:
            plan = self.view.plan if self.view is not None else None
            wakes = [plan.wake_at if plan else None, self._store.again_at, *self._executor.kills_again_at]
        ahead = [t for t in wakes if t is not None]
        await woken(self.dirty, max(0.0, min(ahead) - self._clock()) if ahead else None)

    async def _turn(self) -> None:
        for _ in range(PLANS_MAX):
            self.busy_since = self._clock()
            view = await self._plan_next()
            if view.plan.action is None:
                return
            await self._executor.carry_out(view)
        raise LivelockError(f"{self.name}: {PLANS_MAX} plans without coming to rest; the last: {view.plan}")

    async def _plan_next(self) -> View:
        """Observe, record, plan, publish: everything of a turn but the action."""
        observed = await self._observe()
        now, timing, memory = self._clock(), self._around.timing, self._memory
        config = memory.config
        record = absorb(memory.record, config, observed, timing, now)
        while self._notes:
            record = absorb(self._notes.pop(0)(record), config, observed, timing, now)
        noted = self._call.accept(config, record, observed)
        if noted is not None:
            check(state_of(config, record, observed), state_of(config, noted, observed))
            record = absorb(noted, config, observed, timing, now)
        view = View(config, record, observed, decide(config, record, observed, timing, now, self.name))
        memory.note_change(view.plan)
        memory.remember(record)
        await memory.note_rollback()
        self._tell(view)
        return view

    def _tell(self, view: View) -> None:
        self._call.tell(view)
        self.waiters.tell(view)
        self._around.told(self.name, view)

    def _failed(self, error: PortError) -> None:
        """Log an external failure once, answer a verb, and schedule a retry with backoff."""
        now = self._clock()
        # A missing object existed at the last observation; the next one corrects the plan.
        wait_s = self._backoff.longest_s() if isinstance(error, Refused) else self._backoff.next_s()
        self._retry_at = now + wait_s
        self._alerts.warn("trouble", str(error), retry_in_s=round(wait_s, 1))
        noted = self._call.accept_unseen(self._memory.config, self._memory.record)
        if noted is not None:
            self._memory.remember(noted)
        if self._call.fail(error):
            self._retry_at = min(self._retry_at, now + 1.0)

    # ---- observing ------------------------------------------------------------------------------

    async def _observe(self) -> Observation:
        around = self._around
        row = await self._store.read()
        containers = await around.containers.list(self.name)
        running = {c.id for c in containers if c.running}
        now = self._clock()
        stopping, killed = self._executor.note_running(running, now)
        return Observation(
            row=row,
            containers=containers,
            waiting=self.waiters.blocked & running,
            reasking=self.waiters.may_ask_again(now),
            stopping=stopping,
            killed=killed,
            label=around.labels.view(self.name),
            joined=around.labels.joined,
            kubelet=around.labels.kubelet_running,
            hold=around.labels.hold,
            wall_s=int(around.runtime.wall()),
        )


class _StoreReader:
    """Reads the feature's rows. `again_at`: when to repeat a read that Redis did not answer; no event repeats it."""

    def __init__(self, name: str, around: Surroundings, memory: Memory, alerts: AlertLog) -> None:
        self._name = name
        self._around = around
        self._memory = memory
        self._alerts = alerts
        self._backoff = around.runtime.backoff(around.timing)
        self.again_at: float | None = None

    async def read(self) -> Row | None:
        """Read STATE_DB's row; also take the config, or keep the last known one where Redis does not answer."""
        try:
            stored = await self._around.store.read(self._name, self._memory.known_config)
        except Unavailable as error:
            self._alerts.warn("store", str(error))
            self.again_at = self._around.runtime.clock() + self._backoff.next_s()
            return None
        self.again_at = None
        self._backoff.reset()
        self._alerts.warn("store", "")
        self._alerts.warn("config", "; ".join(stored.problems))
        self._memory.take_config(stored)
        return stored.row
