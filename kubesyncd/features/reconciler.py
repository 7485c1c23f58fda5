"""Reconcile one feature: wait until something may have changed, observe, plan, act, repeat.

Knows the ports, the ledger and the pure core; knows no socket and no adapter. Only the reconciler acts on its
feature. Other components leave a request (a verb, a waiting container, "something changed") and set `dirty`.

- `dirty` is set: something may have changed since the last observation. It is cleared *before* observing, so a
  change during the observation triggers another one.
- `_turn` runs at most one action at a time. Calls that change a container or an image run
  concurrently, because each may take a minute: the reconciler goes on to observe, and a newer verb overtakes them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core import protocol, verbs
from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Forget
from kubesyncd.core.conditions import ALERTING, conditions
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.model import Owner
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide, foresee
from kubesyncd.core.record import Record, lacking, repaired, state_of
from kubesyncd.core.row_gate import with_row_asks
from kubesyncd.core.state import check
from kubesyncd.core.verbs import Outcome, Start, accept, running_units
from kubesyncd.features.container_reader import ContainerReader
from kubesyncd.features.executor import Executor
from kubesyncd.features.existence import Existence
from kubesyncd.features.memory import Memory
from kubesyncd.features.store_reader import StoreReader
from kubesyncd.features.surroundings import View
from kubesyncd.features.verb_call import VerbCall
from kubesyncd.features.waiters import GONE, Waiters
from kubesyncd.features.way_back import WayBack
from kubesyncd.ports import PortError, Refused
from kubesyncd.runtime.wakeup import woken

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable

    from kubesyncd.core.actions import Plan
    from kubesyncd.core.conditions import Condition
    from kubesyncd.core.failed_action import FailedAction
    from kubesyncd.core.feature_unit import UnitEnd
    from kubesyncd.core.model import Container
    from kubesyncd.core.state import Transition
    from kubesyncd.core.verbs import Verb
    from kubesyncd.features.surroundings import Surroundings

# More plans than this in one turn: two rules undo each other. The feature is slowed down and a traceback is logged.
PLANS_MAX = 32
# Topics of failures that do not stop the reconciliation; each is one alert, and a line in `explain` until it clears.
ALERTS = ("ledger", "rollback", *(kind.value for kind in ActionKind))
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
        self._log = log = around.runtime.log.bind(feature=name)
        self._alerts = around.runtime.alert_log(name, log)
        self._memory = Memory(name, around, self._alerts, log)
        self._executor = Executor(
            name, around, self._memory, alerts=self._alerts, log=log, wake=self.dirty.set
        )
        self._call = VerbCall(around.runtime.clock, around.timing.verb_s_max)
        self._notes: list[Callable[[Record], Record]] = []
        self._backoff = around.runtime.backoff(around.timing)
        self._retry_at: float | None = None
        self._left: UnitEnd | None = None
        store = StoreReader(name, around, self._memory, self._alerts)
        self._sources = _Sources(
            store,
            ContainerReader(name, around),
            WayBack(name, around, self._alerts),
            Existence(name, around),
        )

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
        self._executor.failed.hurry()
        record = partial(self._record_at_once, verb)
        return await self._call.carried_out(verb, record=record, wake=self._observe_soon, why=self._why)

    def _record_at_once(self, verb: Verb) -> Awaitable[None] | None:
        """Record a stop or kill, whatever the reconciler waits for at the moment; return what stores the record.

        A start needs an observation, and so does a verb of a feature that may not exist.
        """
        memory, view = self._memory, self.view
        if isinstance(verb, Start) or (view is not None and view.observed.absent):
            return None
        observed = view.observed if view is not None else Observation(row=None)
        # A reboot may be prepared since the last observation.
        observed = replace(observed, hold=self._around.labels.hold)
        noted = accept(verb, memory.config, memory.record, observed, asked_at=self._now())
        assert isinstance(noted, Record), "only a start can be declined"
        memory.record = noted
        return memory.remember(noted)

    @property
    def units(self) -> tuple[str, ...]:
        """The systemd units that may run the feature, which is up, the likeliest first; none where it is not."""
        return running_units(self.name, self._memory.record)

    async def unit_ended(self, end: UnitEnd) -> None:
        """Note that systemd runs the feature's unit no more (see verbs.left_by_unit)."""
        if not end.heard:
            # It is judged by what the next observation shows to run.
            self._left = end
            self._observe_soon()
        elif self._memory.leave(end, None, self._now()):
            self._observe_soon()
            await self._memory.remember(self._memory.record)

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

    def images_changed(self) -> None:
        """Observe again where an image decides whether a local container can be made."""
        if self._sources.way_back.doubt():
            self.dirty.set()

    async def lacking(self) -> str:
        """Return why no local container can take over, also where none may have to. Raises Unavailable, Refused."""
        view = self.view or await self.seen()
        if view.observed.local is not None:
            return lacking(view.record, view.observed)
        return await self._sources.way_back.asked(view.record)

    async def cleared(self) -> View:
        """Clear a failure, and try each failed action again where it is wanted. Raises Refused, Unavailable."""
        self._executor.failed.forget_all()
        return await self.note(repaired)

    def forget(self) -> None:
        """Answer all waiting clients: the feature is uninstalled."""
        self._call.answer(Outcome(protocol.EXIT_FAILED, GONE))
        self._alerts.end_all()
        self.waiters.forget()

    def _observe_soon(self) -> None:
        self._retry_at = None
        self.dirty.set()

    def _now(self) -> float:
        return self._around.runtime.clock()

    def _why(self) -> str:
        return self.view.plan.why if self.view is not None else "Docker has not answered yet"

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile. Returns once nothing is left of the feature: then it is to be forgotten."""
        try:
            while True:
                await self._next_turn()
                self._retry_at = None
                try:
                    if not await self._turn():
                        return
                    self._backoff.reset()
                    self._alerts.answers("trouble")
                except PortError as error:
                    await self._failed(error)
                except Exception:  # noqa: BLE001 - a bug may slow down only its own feature
                    text = "kubesyncd has a bug; see `journalctl -u kubesyncd`"
                    self._call.answer(Outcome(protocol.EXIT_FAILED, text))
                    self._retry_at = self._now() + self._backoff.longest_s()
                    self._log.exception("reconciler_failed", why="a bug; only this feature is slowed down")
                finally:
                    self.busy_since = None
        finally:
            self._executor.cancel()

    async def _next_turn(self) -> None:
        """Wait until an observation is due; `dirty` is clear then."""
        now = self._now()
        if self._retry_at is not None:
            # While an external service fails, the backoff limits the pace, not its events.
            await asyncio.sleep(max(0.0, min(self._retry_at - now, FAILING_PAUSE_S)))
            wakes: list[float | None] = [self._retry_at]
        else:
            plan = self.view.plan if self.view is not None else None
            wakes = [plan.wake_at if plan else None, *self._sources.again_at, *self._executor.kills_again_at]
        ahead = [t for t in wakes if t is not None]
        await woken(self.dirty, max(0.0, min(ahead) - self._now()) if ahead else None)

    async def _turn(self) -> bool:
        """Observe and act until no action is left; return whether the feature still exists."""
        for _ in range(PLANS_MAX):
            self.busy_since = self._now()
            view = await self._plan_next()
            if view.record is not self._memory.record:
                # A stop or kill has been recorded since: plan with it.
                continue
            self._tell(view)
            if view.plan.action is None:
                return True
            self.busy_since = self._now()
            done = await self._executor.carry_out(view)
            if done and isinstance(view.plan.action, Forget):
                # After an event since this turn began, the feature may exist again: the next turn observes it.
                return self.dirty.is_set()
        raise LivelockError(f"{self.name}: {PLANS_MAX} plans without coming to rest; the last: {view.plan}")

    async def _plan_next(self) -> View:
        """Observe, record and plan: everything of a turn but to publish it and to act."""
        self.waiters.begin()
        self._call.begin()
        observed = await self._observe()
        now, timing, memory = self._now(), self._around.timing, self._memory
        observed = with_row_asks(memory.record, observed)
        config = memory.config
        if self._left is not None:
            memory.leave(self._left, observed, now)
            self._left = None
        record = absorb(memory.record, config, observed, timing, now)
        while self._notes:
            record = absorb(self._notes.pop(0)(record), config, observed, timing, now)
        noted = self._call.accept(config, record, observed)
        if noted is not None:
            check(state_of(config, record, observed), state_of(config, noted, observed))
            record = absorb(noted, config, observed, timing, now)
        judged = self._call.judge(config, record, observed)
        if judged is not record:
            record = absorb(judged, config, observed, timing, now)
        found = conditions(self.name, record, observed, timing, now)
        plan = decide(config, record, observed, timing, now, self.name)
        view = View(config, record, observed, plan, found)
        self._alert(found)
        memory.note_change(view.plan)
        await memory.remember(record)
        await memory.note_rollback()
        return view

    def _alert(self, found: tuple[Condition, ...]) -> None:
        """Raise one alert for each kind of condition that needs one, until it ends."""
        for kind in sorted(ALERTING):
            text = "; ".join(c.text for c in found if c.kind is kind)
            if text:
                self._alerts.begin(kind.value, text)
            else:
                self._alerts.end(kind.value)

    def _tell(self, view: View) -> None:
        self._call.tell()
        self.waiters.tell(view)
        self._around.told(self.name, view)

    async def _failed(self, error: PortError) -> None:
        """Log an external failure once, answer a verb, and schedule a retry with backoff."""
        now = self._now()
        # A missing object existed at the last observation; the next one corrects the plan.
        wait_s = self._backoff.longest_s() if isinstance(error, Refused) else self._backoff.next_s()
        self._retry_at = now + wait_s
        self._alerts.fails("trouble", error, retry_in_s=round(wait_s, 1))
        given_up = self._call.starting
        if self._call.fail(error, starting=bool(self._executor.starting)):
            self._retry_at = min(self._retry_at, now + 1.0)
        elif given_up:
            await self._memory.remember(verbs.given_up(self._memory.record))

    # ---- observing ------------------------------------------------------------------------------

    async def _observe(self) -> Observation:
        around = self._around
        stored = await self._sources.store.read()
        starting = self._executor.starting
        containers = await self._sources.containers.read(self._memory.record.grant)
        running = {c.id for c in containers if c.running}
        now = self._now()
        stopping, killed = self._executor.note_running(running, now)
        kube = [c.started for c in containers if c.running and c.owner is Owner.KUBE and c.started]
        if kube:
            around.labels.note_kube_start(max(kube))
        return Observation(
            row=None if stored is None else stored.row,
            containers=containers,
            waiting=self.waiters.blocked & running,
            reasking=self.waiters.may_ask_again(now),
            stopping=stopping,
            killed=killed,
            starting=starting & {c.id for c in containers if c.paused or not c.running},
            label=around.labels.view(self.name),
            joined=around.labels.joined,
            kubelet=around.labels.kubelet_running,
            hold=around.labels.hold,
            failures=self._failures(containers),
            working=self._executor.working,
            no_way_back=await self._sources.way_back.lacking(
                self._memory.config, self._memory.record, containers
            ),
            way_back_unknown=self._sources.way_back.unknown,
            registered=None if stored is None or stored.loading else stored.config is not None,
            settling=self._sources.store.gone_until is not None,
            absent=await self._sources.existence.absent(stored, containers),
            no_deploy=around.labels.no_deploy,
            leaving=around.labels.leaving,
            wall_s=int(around.runtime.wall()),
            boot=around.ledger.boot.number,
            by_row=around.by_row,
        )

    def _failures(self, containers: tuple[Container, ...]) -> tuple[FailedAction, ...]:
        lasting, unread = self._executor.failed.lasting(containers), self._sources.store.failure
        return lasting if unread is None else (unread, *lasting)


@dataclass(frozen=True, slots=True)
class _Sources:
    """What a feature is observed from."""

    store: StoreReader
    containers: ContainerReader
    way_back: WayBack
    existence: Existence

    @property
    def again_at(self) -> tuple[float | None, ...]:
        """When to repeat failed reads."""
        unread = self.store.failure
        again_at = None if unread is None else unread.again_at
        return (
            again_at,
            self.store.gone_until,
            self.containers.again_at,
            self.way_back.again_at,
            self.existence.again_at,
        )
