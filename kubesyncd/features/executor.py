"""Carry out the one action of a plan, for one feature."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.actions import (
    Admit,
    AdoptImage,
    EndContainer,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    WriteRow,
)
from kubesyncd.core.model import SHORT_ID
from kubesyncd.core.record import Cause, state_of, with_grant, with_mode
from kubesyncd.core.state import check
from kubesyncd.ports import Missing, PortError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.core.actions import Action
    from kubesyncd.core.record import Record
    from kubesyncd.features.memory import Memory
    from kubesyncd.features.surroundings import Surroundings, View
    from kubesyncd.runtime.alerts import AlertLog

# Time for a killed container to end before it is killed again, then with SIGKILL.
KILL_AGAIN_S = 10.0


class Executor:
    """Acts on one feature. `wake` is called when a docker stop has returned."""

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
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._killed: dict[str, float] = {}
        # Containers that were sent a signal and have not been observed as ended.
        self._signalled: set[str] = set()

    @property
    def kills_again_at(self) -> tuple[float, ...]:
        """When to observe killed containers again, in BOOTTIME seconds."""
        return tuple(self._killed.values())

    def note_running(self, running: set[str], now: float) -> tuple[frozenset[str], frozenset[str]]:
        """Take the running containers; return those being stopped and those killed a short while ago."""
        self._signalled &= running
        self._killed = {c: again for c, again in self._killed.items() if c in running and again > now}
        return frozenset(self._stops) & running, frozenset(self._killed)

    def cancel(self) -> None:
        """Cancel the docker stops that run concurrently with the reconciler."""
        for task in self._stops.values():
            task.cancel()

    async def carry_out(self, view: View) -> None:
        """Carry out the plan's action and log it. Raises PortError."""
        action, begun = view.plan.action, self._clock()
        assert action is not None
        await self._act(action, view)
        took_ms = round((self._clock() - begun) * 1000, 1)
        log = self._log.debug if isinstance(action, WriteRow) else self._log.info
        log("action", state=view.plan.state.value, action=_name(action), why=view.plan.why, took_ms=took_ms)

    async def _act(self, action: Action, view: View) -> None:
        around, memory = self._around, self._memory
        match action:
            case WriteRow(row):
                await around.store.write_row(self._name, row)
            case SetMode(mode):
                self._change_state(view, with_mode(view.record, mode))
            case Admit(container_id):
                self._change_state(view, with_grant(view.record, container_id, self._clock()), surely=True)
            case RequestLabel(on):
                await around.labels.request_feature(self._name, on=on)
            case StartLocal(container_id):
                await around.containers.start(container_id)
                memory.remember(replace(view.record, local_id=container_id))
            case EndContainer(container_id, cause, grace_s, signal):
                memory.remember(replace(view.record, asked=(container_id, cause)))
                if cause is Cause.KILL:
                    await self._kill(container_id, signal)
                else:
                    self._stops[container_id] = asyncio.create_task(self._stop(container_id, round(grace_s)))
            case RestartUnit():
                memory.remember(replace(view.record, unit_restarted=True))
                await around.units.restart(self._name)
            case AdoptImage(image_id):
                memory.remember(await self._adopted(view.record, image_id))
            case RestoreImage(failed_image):
                await self._restore(failed_image)
                memory.remember(replace(view.record, restored=failed_image))

    def _change_state(self, view: View, record: Record, *, surely: bool = False) -> None:
        """Store a record that changes the state; the table must allow the change (IllegalTransition)."""
        check(view.plan.state, state_of(view.config, record, view.observed))
        self._memory.remember(record, surely=surely)

    async def _kill(self, container_id: str, signal: str) -> None:
        if container_id in self._signalled and signal != "KILL":
            self._log.warning("signal_ignored", signal=signal, container=container_id[:SHORT_ID])
            signal = "KILL"
        await self._around.containers.kill(container_id, signal)
        self._signalled.add(container_id)
        self._killed[container_id] = self._clock() + KILL_AGAIN_S

    async def _stop(self, container_id: str, grace_s: int) -> None:
        """Run docker stop concurrently with the loop; Docker's event reports the end to the loop."""
        try:
            await self._around.containers.stop(container_id, grace_s)
            self._backoff.reset()
        except PortError as error:
            self._log.warning("stop", why=str(error), container=container_id[:SHORT_ID])
            await asyncio.sleep(self._backoff.next_s())
        except Exception:  # noqa: BLE001 - a bug may slow down only its own feature
            why = "a bug; only this container's stop is slowed down"
            self._log.exception("stop_failed", why=why, container=container_id[:SHORT_ID])
            await asyncio.sleep(self._backoff.longest_s())
        finally:
            self._stops.pop(container_id, None)
            self._wake()

    async def _adopted(self, record: Record, image_id: str) -> Record:
        """Return the record after adopting the image as the local one. A failure is an alert; it is retried later."""
        try:
            await self._around.images.adopt(self._name, image_id)
        except PortError as error:
            text = f"{error}; the local image is unchanged, the adoption is tried again"
            self._alerts.begin("image_not_adopted", text)
            return replace(record, adopt_at=self._clock() + self._around.timing.tag_after_s)
        self._alerts.end("image_not_adopted")
        return replace(record, adopted=image_id)

    async def _restore(self, failed_image: str) -> None:
        """Restore the previous local image; without one, keep the current image. Raises Unavailable: tried again."""
        try:
            await self._around.images.restore(self._name, failed_image)
            self._alerts.end("image_not_restored")
        except (Refused, Missing) as error:
            self._alerts.begin("image_not_restored", f"{error}; the local image is unchanged")


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
