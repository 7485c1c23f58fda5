"""Carry out the one action of a plan, for one feature."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kubesyncd.core.actions import (
    Admit,
    AdoptImage,
    EndContainer,
    Forget,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    Unpause,
    WriteRow,
)
from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.failed_action import ActionKind, kind_of
from kubesyncd.core.model import SHORT_ID, Mode, SystemState
from kubesyncd.core.record import Cause, state_of, with_grant, with_mode
from kubesyncd.core.state import State, check
from kubesyncd.features.failed_actions import FailedActions
from kubesyncd.ports import Missing, NotSent, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.actions import Action
    from kubesyncd.core.asked_start import AskedStart
    from kubesyncd.core.record import Record
    from kubesyncd.features.memory import Memory
    from kubesyncd.features.surroundings import Surroundings, View
    from kubesyncd.runtime.alerts import AlertLog

# Time for a killed container to end before it is killed again, then with SIGKILL.
KILL_AGAIN_S = 10.0
# Log events of a bug in work beside the loop.
BUGS = {
    ActionKind.START_LOCAL: "start_failed",
    ActionKind.UNPAUSE: "unpause_failed",
    ActionKind.STOP: "stop_failed",
    ActionKind.KILL: "kill_failed",
}
BUG = "a bug; only this work on this feature is slowed down"
STILL_RUNS = "docker stop has returned, and the container still runs or runs again"
# Actions of one call to Docker, or a chain of them, each of which may take a minute. They report their own end.
IMAGE_WORK = (ActionKind.ADOPT_IMAGE, ActionKind.RESTORE_IMAGE)
BESIDE_THE_LOOP = (*BUGS, *IMAGE_WORK)


class Executor:
    """Acts on one feature. `wake` is called when a call to Docker, or work on an image, has ended beside the loop."""

    def __init__(
        self,
        name: str,
        around: Surroundings,
        memory: Memory,
        *,
        alerts: AlertLog,
        log: FilteringBoundLogger,
        wake: Callable[[], None],
    ) -> None:
        self._name = name
        self._around = around
        self._clock = around.runtime.clock
        self._memory = memory
        self._alerts = alerts
        self._log = log
        self._wake = wake
        self._backoff = around.runtime.backoff(around.timing)
        self._under_way: dict[tuple[ActionKind, str], asyncio.Task[None]] = {}
        self._stopped: set[str] = set()
        self._killed: dict[str, float] = {}
        # Containers that were sent a signal and have not been observed as ended.
        self._signalled: set[str] = set()
        self.failed = FailedActions(around, alerts)

    @property
    def kills_again_at(self) -> tuple[float, ...]:
        """When to observe killed containers again, in BOOTTIME seconds."""
        return tuple(self._killed.values())

    @property
    def working(self) -> bool:
        """Whether an image of the feature is being tagged or its local container recreated."""
        return any(kind in IMAGE_WORK for kind, _ in self._under_way)

    @property
    def starting(self) -> frozenset[str]:
        """Containers whose docker start or unpause is under way.

        Take it before Docker is read: a call that ends meanwhile may have had its effect after that read.
        """
        return self._targets(ActionKind.START_LOCAL) | self._targets(ActionKind.UNPAUSE)

    def _targets(self, kind: ActionKind) -> frozenset[str]:
        return frozenset(target for found, target in self._under_way if found is kind)

    def note_running(self, running: set[str], now: float) -> tuple[frozenset[str], frozenset[str]]:
        """Take the running containers; return those being stopped and those being killed, or killed lately."""
        self._signalled &= running
        self._killed = {c: again for c, again in self._killed.items() if c in running and again > now}
        for container_id in sorted(self._stopped & running):
            self.failed.fail(ActionKind.STOP, container_id, Unavailable("Docker", STILL_RUNS))
        self._stopped.clear()
        killed = frozenset(self._killed) | (self._targets(ActionKind.KILL) & running)
        return self._targets(ActionKind.STOP) & running, killed

    def cancel(self) -> None:
        """Cancel what runs concurrently with the reconciler."""
        for task in self._under_way.values():
            task.cancel()

    async def carry_out(self, view: View) -> bool:
        """Carry out the plan's action and log it; return whether it was done or goes on beside the loop.

        A failure becomes a fact of the next observation.
        """
        action, begun = view.plan.action, self._clock()
        assert action is not None
        kind, target = kind_of(action)
        try:
            if not await self._act(action, view):
                return False
        except PortError as error:
            self.failed.fail(kind, target, error)
            if isinstance(action, RestartUnit) and not action.renews:
                await self._memory.change(unit_restarted=False)
            return False
        if kind not in BESIDE_THE_LOOP:
            self.failed.succeed(kind, target)
        took_ms = round((self._clock() - begun) * 1000, 1)
        log = self._log.debug if isinstance(action, WriteRow) else self._log.info
        log("action", state=view.plan.state.value, action=_name(action), why=view.plan.why, took_ms=took_ms)
        return True

    async def _act(self, action: Action, view: View) -> bool:
        """Act; return False where nothing was done, because it is not wanted any more."""
        around, memory = self._around, self._memory
        match action:
            case WriteRow(row):
                await around.store.write_row(self._name, row)
            case SetMode(mode):
                # A hand-over ends the local container next: only where the admission after it can be recorded.
                await self._change_state(view, with_mode(view.record, mode), surely=mode is Mode.PENDING)
            case Admit(container_id):
                admitted = with_grant(view.record, container_id, self._clock(), by_row=view.observed.by_row)
                await self._change_state(view, admitted, surely=True)
            case RequestLabel(on):
                await around.labels.request_feature(self._name, on=on)
            case StartLocal():
                return await self._ask_start(action, view)
            case Unpause(container_id):
                self._begin(action, around.containers.unpause(container_id))
            case EndContainer():
                await self._end(action, view.plan.state)
            case RestartUnit(renews):
                # Each once: where systemd does not renew it, what follows goes on, and the unit restarts by itself.
                await (memory.change(follows=False) if renews else memory.change(unit_restarted=True))
                await around.units.restart(self._name)
            case AdoptImage(image_id):
                self._begin(action, self._adopt(image_id))
            case RestoreImage(failed_image):
                self._begin(action, self._restore(failed_image))
            case Forget():
                await around.images.forget(self._name)
        return True

    async def _change_state(self, view: View, record: Record, *, surely: bool = False) -> None:
        """Store a record that changes the state; the table must allow the change (IllegalTransition)."""
        check(view.plan.state, state_of(view.config, record, view.observed))
        await self._memory.remember(record, surely=surely)

    def _begin(self, action: Action, work: Coroutine[None, None, None]) -> None:
        """Do this work concurrently with the loop, which goes on to observe; a newer verb is not delayed by it."""
        key = kind_of(action)
        self._under_way[key] = asyncio.create_task(self._beside(key, work))

    async def _beside(self, key: tuple[ActionKind, str], work: Coroutine[None, None, None]) -> None:
        kind, target = key
        try:
            await work
            if kind is not ActionKind.STOP:
                # Only the next observation can tell whether a stop has succeeded.
                self.failed.succeed(kind, target)
        except PortError as error:
            self.failed.fail(kind, target, error)
        except Exception:  # noqa: BLE001 - a bug may slow down only its own feature
            self._log.exception(BUGS.get(kind, "image_work_failed"), why=BUG, container=target[:SHORT_ID])
            await asyncio.sleep(self._backoff.longest_s())
        finally:
            del self._under_way[key]
            self._wake()

    async def _ask_start(self, action: StartLocal, view: View) -> bool:
        """Store that Docker is asked for this start, and then ask: a daemon killed meanwhile knows of it afterwards.

        Return False where the unit went down while the file was written: nothing is asked.
        Where it cannot be stored, the container is started all the same: local needs no file.
        """
        container, before = view.observed.container(action.container_id), self._memory.record.start
        await self._memory.change(start=asked_start(action.container_id, container, self._clock()))
        if self._memory.record.system_state is not SystemState.UP:
            await self._memory.change(start=before)
            return False
        self._begin(action, self._start(action.container_id, before))
        return True

    async def _start(self, container_id: str, before: AskedStart | None) -> None:
        try:
            await self._around.containers.start(container_id)
        except PortError as error:
            if isinstance(error, NotSent):
                await self._memory.change(start=before)
            elif not isinstance(error, Unavailable):
                await self._memory.change(start=None)
            raise
        await self._memory.change(local_id=container_id, start=None)

    async def _end(self, action: EndContainer, state: State) -> None:
        container_id = action.container_id
        if state is State.LOCAL_TO_KUBE:
            # The mode may have been stored by an earlier daemon. This one proves that it can store the admission,
            # before local ends.
            await self._around.ledger.write()
        await self._memory.change(asked=(container_id, action.cause))
        if action.cause is Cause.KILL:
            self._begin(action, self._kill(container_id, action.signal))
        else:
            self._begin(action, self._stop(container_id, round(action.grace_s)))

    async def _kill(self, container_id: str, signal: str) -> None:
        if container_id in self._signalled and signal != "KILL":
            self._log.warning("signal_ignored", signal=signal, container=container_id[:SHORT_ID])
            signal = "KILL"
        await self._around.containers.kill(container_id, signal)
        self._signalled.add(container_id)
        self._killed[container_id] = self._clock() + KILL_AGAIN_S

    async def _stop(self, container_id: str, grace_s: int) -> None:
        """Run docker stop; Docker's event reports the end to the loop."""
        await self._around.containers.stop(container_id, grace_s)
        self._stopped.add(container_id)

    async def _adopt(self, image_id: str) -> None:
        """Adopt the image as the local one. A failure is an alert; it is retried later."""
        try:
            await self._around.images.adopt(self._name, image_id)
        except PortError as error:
            text = f"{error}; the local image is unchanged, the adoption is tried again"
            self._alerts.begin("image_not_adopted", text, file=error.file)
            await self._memory.change(adopt_at=self._clock() + self._around.timing.tag_after_s)
            return
        self._alerts.end("image_not_adopted")
        await self._memory.change(adopted=image_id)

    async def _restore(self, failed_image: str) -> None:
        """Restore the previous local image; without one, keep the current image. Raises Unavailable: tried again."""
        try:
            await self._around.images.restore(self._name, failed_image)
            self._alerts.end("image_not_restored")
        except (Refused, Missing) as error:
            self._alerts.begin("image_not_restored", f"{error}; the local image is unchanged")
        if self._memory.record.rolled_back:
            await self._memory.change(restored=failed_image)


def _name(action: Action) -> str:
    match action:
        case SetMode(mode):
            return f"set mode {mode.value}"
        case Admit(container_id):
            return f"grant {container_id[:SHORT_ID]}"
        case RequestLabel(on):
            return f"label {'on' if on else 'off'}"
        case StartLocal():
            return "docker start"
        case Unpause():
            return "docker unpause"
        case EndContainer(container_id, cause):
            return f"docker {cause.value} {container_id[:SHORT_ID]}"
        case RestartUnit():
            return "systemctl restart"
        case AdoptImage(image_id):
            return f"adopt image {image_id[7:19]}"
        case RestoreImage():
            return "restore the previous image"
        case WriteRow():
            return "write row"
        case Forget():
            return "forget"
