"""What happens to one feature? One coroutine: wait until something may have changed, look, decide, do, repeat.

Knows the ports, the ledger and the pure core; knows no socket and no adapter. It is the only one that acts on its
feature. Everybody else leaves a note (a verb, a waiting container, "something changed") and sets `dirty`.

- `dirty` is set: something may have changed since the last look. It is cleared *before* looking, so what happens
  meanwhile runs us again.
- Being inside `_turn` is the other set: at most one action at a time. Only docker stop goes on beside it, because
  it may take a minute and a newer verb must be able to overtake it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from kubesyncd.core import protocol, verbs
from kubesyncd.core.actions import (
    AdoptImage,
    EndContainer,
    Grant,
    Plan,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    WriteRow,
)
from kubesyncd.core.model import FeatureConfig, LabelView, Row, SystemState
from kubesyncd.core.observation import Facts
from kubesyncd.core.planner import decide, foresee, state_of
from kubesyncd.core.record import Cause, Record, absorb, project, with_grant, with_mode
from kubesyncd.core.state import HISTORY_MAX, MEANING, State, Transition, check
from kubesyncd.core.verbs import Outcome, Verb
from kubesyncd.ports import Missing, PortError, Refused, Unavailable
from kubesyncd.runtime.alerts import Alerts
from kubesyncd.runtime.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.actions import Action
    from kubesyncd.core.model import Timing
    from kubesyncd.features.ledger import Ledger
    from kubesyncd.ports import Containers, FeatureStore, Units

# More plans than this in one turn: two rules undo each other. The feature is slowed down and a traceback is logged.
PLANS_MAX = 32
# How long a verb waits for Docker before it says that Docker does not answer.
PATIENCE_S = 10.0
# What may go wrong beside a feature's course; each is an alert once, and a line in `explain` for as long as it lasts.
ALERTS = ("ledger", "rollback", "image_not_adopted", "image_not_restored")
FAILING_PAUSE_S = 0.2
GONE = "the feature was uninstalled; nothing is left to wait for"
NOTES_MAX = 64
# How long a killed container may take to be gone before it is killed again, and by SIGKILL then.
KILL_AGAIN_S = 10.0


class LabelQueue(Protocol):
    """The cluster coroutine, as far as a reconciler needs it."""

    @property
    def joined(self) -> bool:
        """A master is configured, not disabled, and this node has joined it."""

    @property
    def kubelet_running(self) -> bool | None:
        """Whether the kubelet runs; None: not known."""

    @property
    def hold(self) -> bool:
        """Whether a reboot is being prepared."""

    def view(self, feature: str) -> LabelView:
        """What the queue knows of this feature's label."""

    async def request_feature(self, feature: str, *, on: bool) -> None:
        """Queue this feature's label."""


class Shelf(Protocol):
    """The images, as far as a reconciler needs them. Raises Missing, Refused, Unavailable."""

    async def adopt(self, feature: str, image_id: str) -> None:
        """Make this image the local one, and keep the one before."""

    async def restore(self, feature: str, failed_image: str) -> None:
        """Make the image before the failed one the local one again."""

    async def note_rollback(self, feature: str, failed: str, failed_newest: str, failure_text: str) -> None:
        """Remember over the boot that the feature is rolled back; all empty: that it is not."""

    async def forget(self, feature: str) -> None:
        """The feature is uninstalled."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all reconcilers share. `clock`: BOOTTIME seconds; `wall`: seconds since the epoch. `first_record`: what is
    known of a feature that the ledger does not know yet. `told`: who hears of each view, and of a feature's end (None).
    """

    store: FeatureStore
    containers: Containers
    units: Units
    labels: LabelQueue
    ledger: Ledger
    timing: Timing
    always_local: frozenset[str]
    clock: Callable[[], float]
    wall: Callable[[], float]
    rng: Random
    log: FilteringBoundLogger
    shelf: Shelf
    troubles: Alerts = field(default_factory=Alerts)
    first_record: Callable[[str], Record] = lambda _: Record()
    told: Callable[[str, View | None], None] = lambda _name, _view: None


@dataclass(frozen=True, slots=True)
class View:
    """What the reconciler saw and decided last: all that anybody else gets to know."""

    config: FeatureConfig
    record: Record
    facts: Facts
    plan: Plan


@dataclass(slots=True)
class _Call:
    verb: Verb
    answer: asyncio.Future[Outcome]
    asked_at: float
    accepted: bool = False


class LivelockError(Exception):
    """Plans follow plans without coming to rest: a bug of ours."""


class Reconciler:
    """The reconciler of one feature. Run `run()` once, for as long as we live."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name = name
        self.dirty = asyncio.Event()
        self.view: View | None = None
        self.history = deque(around.ledger.histories.get(name, ()), maxlen=HISTORY_MAX)
        self.busy_since: float | None = None
        self._around = around
        self._log = around.log.bind(feature=name)
        self._record = around.ledger.records.get(name) or around.first_record(name)
        self._config = around.ledger.configs.get(name, self._default_config())
        self._config_known = name in around.ledger.configs
        self._call: _Call | None = None
        self._notes: list[Callable[[Record], Record]] = []
        self._waiting: dict[str, int] = {}
        self._left_at = around.clock()
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._killed: dict[str, float] = {}
        # Sent a signal, and not seen to have ended since.
        self._signalled: set[str] = set()
        # In order of arrival, so that a simulated run does not depend on where events lie in memory.
        self._changed: dict[asyncio.Event, None] = {}
        self._backoff = Backoff(around.rng, around.timing.backoff_s, around.timing.backoff_s_max)
        self._retry_at: float | None = None
        # A read that Redis did not answer is not repeated by anybody's event: the stream of events may have lived on.
        self._store_backoff = Backoff(around.rng, around.timing.backoff_s, around.timing.backoff_s_max)
        self._read_again_at: float | None = None
        self._said: dict[str, str] = {}
        self._forgotten = False
        self.dirty.set()

    def _default_config(self) -> FeatureConfig:
        return FeatureConfig(always_local=self.name in self._around.always_local)

    # ---- for the server -------------------------------------------------------------------------

    async def carry_out(self, verb: Verb) -> Outcome:
        """Note what the verb asks for and wait until it is so. Always answers, within `verb_s_max`."""
        if self._call is not None:
            self._answer(verbs.overtaken(verb))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        call = self._call = _Call(verb, answer, self._around.clock())
        self._retry_at = None
        self.dirty.set()
        try:
            async with asyncio.timeout(self._around.timing.verb_s_max):
                return await answer
        except TimeoutError:
            why = self.view.plan.why if self.view is not None else "Docker has not answered yet"
            return Outcome(
                protocol.EXIT_TIMED_OUT,
                f"not done in time: {why}; it goes on, ask again with `container state`",
            )
        finally:
            if self._call is call:
                self._call = None

    async def until_granted(self, container_id: str) -> None:
        """Return once this kube container may proceed past `up kube`, for as long as that takes."""
        self._waiting[container_id] = self._waiting.get(container_id, 0) + 1
        self.dirty.set()
        try:
            with self._watching() as changed:
                while self.view is None or not _may_proceed(self.view, container_id):
                    await changed.wait()
                    changed.clear()
                    self._refuse_forgotten()
        finally:
            self._waiting[container_id] -= 1
            if not self._waiting[container_id]:
                del self._waiting[container_id]
                self._left_at = self._around.clock()
            self.dirty.set()

    async def until_ended(self, say: Callable[[str], None]) -> int:
        """Return the exit code of `wait` once the feature has ended; `say` gets each new status sentence."""
        said, timing = "", self._around.timing
        lost_since: float | None = None
        self.dirty.set()
        with self._watching() as changed:
            await changed.wait()
            while True:
                changed.clear()
                self._refuse_forgotten()
                view, now = self.view, self._around.clock()
                assert view is not None, "a change is told after the view is set"
                if verbs.wait_follows(view.config, view.record, view.facts):
                    lost_since = None
                elif lost_since is None:
                    lost_since = now
                code = verbs.wait_code(view.config, view.record, view.facts, timing, now, lost_since)
                if code is not None:
                    return code
                if (sentence := _status(view)) != said:
                    say(said := sentence)
                gives_up_in = None if lost_since is None else lost_since + timing.local_wait_s - now
                with suppress(TimeoutError):
                    async with asyncio.timeout(gives_up_in):
                        await changed.wait()

    async def seen(self) -> View:
        """The view after a look that began now or later. Raises Unavailable where Docker does not answer."""
        self._retry_at = None
        self.dirty.set()
        with self._watching() as changed:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await changed.wait()
            except TimeoutError:
                raise Unavailable("Docker", "it does not answer") from None
        assert self.view is not None, "a change is told after the view is set"
        return self.view

    async def note(self, change: Callable[[Record], Record]) -> View:
        """Take in what somebody says of the feature; returns what the look that has done so saw.

        Raises Refused where too much is said at once, Unavailable where Docker does not answer.
        """
        if len(self._notes) >= NOTES_MAX:
            raise Refused("kubesyncd", f"{NOTES_MAX} things have been said of it at once; say it again later")
        self._notes.append(change)
        return await self.seen()

    @property
    def troubles(self) -> tuple[str, ...]:
        """What could not be done for it, as a disk was full or Docker refused; it is tried again."""
        return tuple(text for topic in ALERTS if (text := self._said.get(topic, "")))

    def foreseen(self) -> tuple[Record, Plan] | None:
        """What the next look by the clock will find and plan, if nothing happens until then; None: it has none."""
        view = self.view
        if view is None or view.plan.wake_at is None:
            return None
        return foresee(view.config, view.record, view.facts, self._around.timing, view.plan.wake_at)

    async def check_forgettable(self) -> None:
        """Whether nothing is left of the feature but what we remember. Raises Refused, Unavailable."""
        stored = await self._around.store.read(self.name)
        view = await self.seen()
        if stored.loading or stored.config is not None:
            raise Refused("kubesyncd", "it has a FEATURE row; run: config feature uninstall")
        running = view.facts.local_running or view.record.grant in view.facts.kube_running
        if running or view.record.system_state is SystemState.UP:
            raise Refused("kubesyncd", f"it is still up ({view.plan.why}); stop its service first")

    def forget(self) -> None:
        """Whoever waits for the feature is told that it is gone."""
        self._forgotten = True
        self._answer(Outcome(protocol.EXIT_FAILED, GONE))
        for topic in tuple(self._said):
            self._over(topic)
        for event in self._changed:
            event.set()

    def _refuse_forgotten(self) -> None:
        if self._forgotten:
            raise Refused("kubesyncd", GONE)

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        """An event that is set at each look."""
        changed = asyncio.Event()
        self._changed[changed] = None
        try:
            yield changed
        finally:
            del self._changed[changed]

    # ---- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the feature. Returns only by cancellation."""
        try:
            while True:
                await self._woken()
                self.dirty.clear()
                self._retry_at = None
                try:
                    await self._turn()
                    self._backoff.reset()
                except PortError as error:
                    self._failed(error)
                except Exception:  # noqa: BLE001 - a bug may slow down only its own feature
                    self._answer(
                        Outcome(protocol.EXIT_FAILED, "kubesyncd has a bug; see `journalctl -u kubesyncd`")
                    )
                    self._retry_at = self._around.clock() + self._backoff.longest_s()
                    self._log.exception("reconciler_failed", why="a bug; only this feature is slowed down")
                finally:
                    self.busy_since = None
        finally:
            for task in self._stops.values():
                task.cancel()

    async def _woken(self) -> None:
        now = self._around.clock()
        if self._retry_at is not None:
            # While something outside fails, what it says counts for less than our own pace.
            await asyncio.sleep(max(0.0, min(self._retry_at - now, FAILING_PAUSE_S)))
            wakes: list[float | None] = [self._retry_at]
        else:
            plan = self.view.plan if self.view is not None else None
            wakes = [plan.wake_at if plan else None, self._read_again_at, *self._killed.values()]
        ahead = [t for t in wakes if t is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(ahead) - self._around.clock()) if ahead else None):
                await self.dirty.wait()

    async def _turn(self) -> None:
        for _ in range(PLANS_MAX):
            self.busy_since = self._around.clock()
            view = await self._look()
            if view.plan.action is None:
                return
            await self._do(view)
        raise LivelockError(f"{self.name}: {PLANS_MAX} plans without coming to rest; the last: {view.plan}")

    async def _look(self) -> View:
        """Observe, note, decide, tell: everything of a turn but the action."""
        facts = await self._observe()
        now, timing = self._around.clock(), self._around.timing
        record = absorb(self._record, self._config, facts, timing, now)
        while self._notes:
            record = absorb(self._notes.pop(0)(record), self._config, facts, timing, now)
        call = self._call
        if call is not None and not call.accepted:
            noted = verbs.accept(call.verb, self._config, record, facts)
            if isinstance(noted, Outcome):
                self._answer(noted)
            else:
                check(state_of(self._config, record, facts), state_of(self._config, noted, facts))
                record = absorb(noted, self._config, facts, timing, now)
                call.accepted = True
        view = View(self._config, record, facts, decide(self._config, record, facts, timing, now))
        self._note_change(view.plan)
        self._remember(record)
        await self._note_rollback(record)
        self._tell(view)
        return view

    def _note_change(self, plan: Plan) -> None:
        """A change of state into the history, before the ledger is written: what changed it is in there as well."""
        source = self.history[-1].target if self.history else State.UNKNOWN
        if source is not plan.state:
            self.history.append(Transition(self._around.wall(), source, plan.state, plan.why))
            self._log.info("state", state=plan.state.value, was=source.value, why=plan.why)

    def _tell(self, view: View) -> None:
        self.view = view
        if self._call is not None and self._call.accepted:
            outcome = verbs.outcome(self._call.verb, view.config, view.record, view.facts)
            if outcome is not None:
                self._answer(outcome)
        for event in self._changed:
            event.set()
        self._around.told(self.name, view)

    def _answer(self, outcome: Outcome) -> None:
        if self._call is not None and not self._call.answer.done():
            self._call.answer.set_result(outcome)
        self._call = None

    def _failed(self, error: PortError) -> None:
        """Something outside did not do as asked: say so once, answer who waits, and try again at our own pace."""
        now = self._around.clock()
        # What is missing was there when we looked: the next look knows better.
        lasting = isinstance(error, Refused)
        self._retry_at = now + (self._backoff.longest_s() if lasting else self._backoff.next_s())
        self._say_once("trouble", str(error), retry_in_s=round(self._retry_at - now, 1))
        call = self._call
        if call is None:
            return
        if not call.accepted and not isinstance(call.verb, verbs.Start):
            # Down stays down (S7), also when nobody can look right now.
            noted = verbs.accept(call.verb, self._config, self._record, Facts(row=None))
            assert isinstance(noted, Record), "only a start can be declined"
            self._remember(noted)
            call.accepted = True
        if lasting:
            self._answer(Outcome(protocol.EXIT_FAILED, f"{error}; see `journalctl -u kubesyncd`"))
        elif now - call.asked_at >= PATIENCE_S:
            self._answer(
                Outcome(
                    protocol.EXIT_UNAVAILABLE, f"{error}; it is tried again, see `journalctl -u kubesyncd`"
                )
            )
        else:
            self._retry_at = min(self._retry_at, now + 1.0)

    def _say_once(self, topic: str, text: str, **more: object) -> None:
        if text and self._said.get(topic) != text:
            self._log.warning(topic, why=text, **more)
        self._said[topic] = text

    # ---- looking --------------------------------------------------------------------------------

    async def _observe(self) -> Facts:
        around = self._around
        row = await self._read_store()
        containers = await around.containers.list(self.name)
        running = {c.id for c in containers if c.running}
        now = around.clock()
        self._signalled &= running
        self._killed = {c: again for c, again in self._killed.items() if c in running and again > now}
        return Facts(
            row=row,
            containers=containers,
            waiting=frozenset(self._waiting) & running,
            reasking=now < self._left_at + around.timing.reask_s,
            stopping=frozenset(self._stops) & running,
            killed=frozenset(self._killed),
            label=around.labels.view(self.name),
            joined=around.labels.joined,
            kubelet=around.labels.kubelet_running,
            hold=around.labels.hold,
            wall_s=int(around.wall()),
        )

    async def _read_store(self) -> Row | None:
        """STATE_DB's row, and on the way the config: the last known one stands while there is no better one."""
        try:
            known = self._config if self._config_known else None
            stored = await self._around.store.read(self.name, known)
        except Unavailable as error:
            self._say_once("store", str(error))
            self._read_again_at = self._around.clock() + self._store_backoff.next_s()
            return None
        self._read_again_at = None
        self._store_backoff.reset()
        self._said["store"] = ""
        self._say_once("config", "; ".join(stored.problems))
        if not stored.loading:
            self._config = stored.config or self._default_config()
            self._config_known = stored.config is not None
        return stored.row

    def _remember(self, record: Record, *, surely: bool = False) -> None:
        """The record into the ledger. Only a grant must be there `surely`: without it a restart would not know whom
        it let through. Everything else a look at Docker brings back.
        """
        self._tell_health(self._record, record)
        try:
            self._around.ledger.save(self.name, record, self._config, tuple(self.history))
            self._over("ledger")
        except Unavailable as error:
            if surely:
                raise
            self._alert_once("ledger", f"{error}; a restart of the daemon would forget")
        if not record.grant:
            self._over("image_not_adopted")
        if not record.rolled_back:
            self._over("image_not_restored")
        self._record = record

    async def _note_rollback(self, record: Record) -> None:
        """A rollback outlives the boot, which the ledger does not. Only a look begins or ends one."""
        health = record.health
        noted = (
            (health.failed_image, health.failed_newest, record.failure)
            if record.rolled_back
            else ("", "", "")
        )
        try:
            await self._around.shelf.note_rollback(self.name, *noted)
            self._over("rollback")
        except PortError as error:
            self._alert_once("rollback", f"{error}; a boot would forget that it is rolled back")

    def _alert_once(self, topic: str, text: str) -> None:
        """One alert for as long as the trouble lasts, whatever words it comes in and whoever else meets it."""
        if not self._said.get(topic):
            if self._around.troubles.begins(topic, self.name, text):
                self._log.error(topic, alert=True, why=text)
            else:
                self._log.warning(topic, why=text)
        self._said[topic] = text

    def _over(self, topic: str) -> None:
        if self._said.get(topic):
            self._around.troubles.ends(topic, self.name)
        self._said[topic] = ""

    def _tell_health(self, before: Record, after: Record) -> None:
        """Each failure, each local container's complaint and each end of one: once."""
        if after.failure and not before.failure:
            self._log.error("kube_failed", alert=True, why=after.failure, policy=self._config.policy.value)
        if before.failure and not after.failure:
            self._log.info("kube_recovered", why=before.failure)
        if after.rolled_back and not before.rolled_back:
            self._log.warning("rolled_back", why=after.failure, image=after.health.failed_image)
        if before.rolled_back and not after.rolled_back:
            self._log.info("rollback_over", why=before.failure)
        local = after.health.complaint_about(after.local_id) if after.local_id else None
        if local is not None and local not in before.health.complaints:
            self._log.error("local_unhealthy", alert=True, why=local.reason, source=local.source)

    # ---- acting ---------------------------------------------------------------------------------

    async def _do(self, view: View) -> None:
        action, begun = view.plan.action, self._around.clock()
        assert action is not None
        await self._carry(action, view)
        took_ms = round((self._around.clock() - begun) * 1000, 1)
        said = self._log.debug if isinstance(action, WriteRow) else self._log.info
        said("action", state=view.plan.state.value, action=_name(action), why=view.plan.why, took_ms=took_ms)

    async def _carry(self, action: Action, view: View) -> None:
        around = self._around
        match action:
            case WriteRow(row):
                await around.store.write_row(self.name, row)
            case SetMode(mode):
                self._write(view, with_mode(view.record, mode))
            case Grant(container_id):
                self._write(view, with_grant(view.record, container_id, around.clock()), surely=True)
            case RequestLabel(on):
                await around.labels.request_feature(self.name, on=on)
            case StartLocal(container_id):
                await around.containers.start(container_id)
                self._remember(replace(view.record, local_id=container_id))
            case EndContainer(container_id, cause, grace_s, signal):
                self._remember(replace(view.record, asked=(container_id, cause)))
                if cause is Cause.KILL:
                    if container_id in self._signalled and signal != "KILL":
                        self._log.warning("signal_ignored", signal=signal, container=container_id[:12])
                        signal = "KILL"
                    await around.containers.kill(container_id, signal)
                    self._signalled.add(container_id)
                    self._killed[container_id] = around.clock() + KILL_AGAIN_S
                else:
                    self._stops[container_id] = asyncio.create_task(self._stop(container_id, round(grace_s)))
            case RestartUnit():
                self._remember(replace(view.record, unit_restarted=True))
                await around.units.restart(self.name)
            case AdoptImage(image_id):
                self._remember(await self._adopted(view.record, image_id))
            case RestoreImage(failed_image):
                await self._restore(failed_image)
                self._remember(replace(view.record, restored=failed_image))

    async def _adopted(self, record: Record, image_id: str) -> Record:
        """The record once the image is the local one. Where it cannot be, nothing breaks; it is tried again later."""
        try:
            await self._around.shelf.adopt(self.name, image_id)
        except PortError as error:
            self._alert_once(
                "image_not_adopted", f"{error}; the local image stays as it is, and is tried again"
            )
            return replace(record, adopt_at=self._around.clock() + self._around.timing.tag_after_s)
        self._over("image_not_adopted")
        return replace(record, adopted=image_id)

    async def _restore(self, failed_image: str) -> None:
        """Where there is nothing to go back to, what is there has to do. Raises Unavailable: then it is tried again."""
        try:
            await self._around.shelf.restore(self.name, failed_image)
            self._over("image_not_restored")
        except (Refused, Missing) as error:
            self._alert_once("image_not_restored", f"{error}; the local image stays as it is")

    def _write(self, view: View, record: Record, *, surely: bool = False) -> None:
        """A change of state by our own hand: it must be one of the table's."""
        check(view.plan.state, state_of(view.config, record, view.facts))
        self._remember(record, surely=surely)

    async def _stop(self, container_id: str, grace_s: int) -> None:
        """docker stop, beside the loop; the loop hears of the end from Docker's event."""
        try:
            await self._around.containers.stop(container_id, grace_s)
        except PortError as error:
            self._log.warning("stop", why=str(error), container=container_id[:12])
            await asyncio.sleep(self._backoff.next_s())
        finally:
            self._stops.pop(container_id, None)
            self.dirty.set()


def _may_proceed(view: View, container_id: str) -> bool:
    """Granted, still running, and STATE_DB says so where it can be reached."""
    if view.record.grant != container_id or container_id not in view.facts.kube_running:
        return False
    return view.facts.row is None or view.facts.row == project(view.record, view.facts)


def _status(view: View) -> str:
    """What `systemctl status` shows of the feature."""
    if view.plan.state in (State.KUBE_READY, State.KUBE_PENDING, State.LOCAL_TO_KUBE, State.KUBE_STOPPED):
        return view.plan.why
    return MEANING[view.plan.state]


def _name(action: Action) -> str:
    match action:
        case SetMode(mode):
            return f"set mode {mode.value}"
        case Grant(container_id):
            return f"grant {container_id[:12]}"
        case RequestLabel(on):
            return f"label {'on' if on else 'off'}"
        case StartLocal():
            return "docker start"
        case EndContainer(container_id, cause):
            return f"docker {cause.value} {container_id[:12]}"
        case RestartUnit():
            return "systemctl restart"
        case AdoptImage(image_id):
            return f"adopt image {image_id[7:19]}"
        case RestoreImage():
            return "restore the previous image"
        case WriteRow():
            return "write row"
