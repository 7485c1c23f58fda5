"""Simulate the API server, the kubelet and systemd: one Node, one DaemonSet per feature, two ports.

The kubelet keeps running what it was told last while the API server is away, as the real one does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import NodeSeen, Owner
from kubesyncd.ports import Forbidden, Missing, Refused, Unavailable
from tests.sim.chance import Fault
from tests.sim.engine import CUT, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from kubesyncd.core.feature_unit import UnitLook
    from kubesyncd.core.node_condition import NodeCondition
    from tests.sim.engine import Box
    from tests.sim.switch import Life, World

SERVICE = "Kubernetes"
SILENCE_S = 40.0
PATCH_S = 5.0
SLOW_S = (0.5, 4.5)
POD_GRACE_S = 30.0
DESTROYED_AFTER_S = 0.7
CRASH_BACKOFF_S_MAX = 300.0
LOOK_S = 10.0


class Api:
    """The API server, and the own Node as it stores it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.labels: dict[str, str] = {}
        self.annotations: dict[str, str | None] = {}
        self.node_exists = False
        self.registered = 0
        self._backup: tuple[dict[str, str], bool, int] | None = None
        # The store's; counted where a store may be older, so that other storms play as they did without it.
        self.version = 0
        self.withdrawn: set[str] = set()
        self.condition: NodeCondition | None = None
        # Features whose pod follows no label, a bare or static one; and those that ever had one.
        self.strays: set[str] = set()
        self.strayed: set[str] = set()
        self.up = True
        self.trouble: Fault | None = None
        self.streams: list[Stream] = []

    @property
    def reachable(self) -> bool:
        """Whether an honest client gets through."""
        return self.up and self.trouble is None

    @property
    def uid(self) -> str:
        """Which Node it is: a deleted one that is registered again is another one."""
        return f"uid-{self.registered}"

    def set(self, changes: Mapping[str, str | None], who: str) -> None:
        """Apply labels to the Node."""
        before = dict(self.labels)
        for key, value in changes.items():
            if value is None:
                self.labels.pop(key, None)
            else:
                self.labels[key] = value
        if self.labels != before:
            shown = ", ".join(f"{k}={v}" if v is not None else f"{k}-" for k, v in changes.items())
            self._world.chance.tell("node", f"{who}: {shown}")
            self._world.promises.labelled(changes, who)
            self._tell_all()

    def register(self) -> None:
        """The kubelet creates its Node."""
        if not self.node_exists:
            self.node_exists = True
            self.registered += 1
            self._world.chance.tell("node", "is created")
            self._tell_all()

    def judge(self, condition: NodeCondition | None) -> None:
        """The Node's own state changes. A taint evicts its pods; a kubelet that hangs starts none and ends none."""
        self.condition = condition
        self._tell_all()

    def delete(self) -> None:
        """An administrator deletes the Node."""
        if self.node_exists:
            self.node_exists = False
            self.labels, self.annotations, self.condition = {}, {}, None
            self._world.chance.tell("node", "is deleted")
            self._tell_all()

    def back_up(self) -> None:
        """Copy the store."""
        self._count()
        self._backup = dict(self.labels), self.node_exists, self.version
        self._count()

    def restore(self) -> None:
        """Go on with the copy of the store; every watch breaks."""
        if self._backup is not None and self.node_exists and self._backup[1]:
            self.labels, self.version = dict(self._backup[0]), self._backup[2]
            self._world.chance.tell("node", "is as it was in the backup")
            self._world.kubelet.ring()
            self.cut()

    def cut(self) -> None:
        """Every watch breaks."""
        for stream in list(self.streams):
            stream.cut()

    def _count(self) -> None:
        if Fault.STORE_OLDER in self._world.chance.armed:
            self.version += 1

    def _tell_all(self) -> None:
        self._count()
        self._world.kubelet.ring()
        if self.reachable:
            for stream in self.streams:
                stream.put("node")


class ClusterPort:
    """The Cluster, as one daemon's life has it."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._api = world.api
        self._life = life
        self._newest = 0

    async def watch(self) -> AsyncIterator[NodeSeen | None]:
        await self._connect()
        stream = Stream(self._world, sure=True)
        self._api.streams.append(stream)
        try:
            yield self._node()
            while True:
                if await self._hear(stream) is CUT:
                    raise Unavailable(SERVICE, "the watch was closed")
                yield self._node()
        finally:
            self._api.streams.remove(stream)

    async def _hear(self, stream: Stream) -> object:
        """The next event; silence is doubted, as the real adapter doubts it."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    return await stream.next()
            except TimeoutError:
                if not self._api.reachable:
                    raise Unavailable(SERVICE, "nothing heard for 40 s") from None
                # A real watch ends and begins again, and then delivers every missed change.
                return "node"

    def _node(self) -> NodeSeen | None:
        api = self._api
        older, self._newest = api.version < self._newest, api.version
        if not api.node_exists:
            return None
        return NodeSeen(dict(api.labels), api.uid, older, api.condition, api.version)

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        await self._connect()
        if not self._api.node_exists or self._world.chance.strikes(Fault.API_MISSING):
            raise Missing(SERVICE, "nodes switch1 not found")
        if self._world.chance.strikes(Fault.API_BUSY):
            raise Unavailable(SERVICE, str(self._world.chance.one_of((409, 410, 429, 500))))
        if any(key in self._world.refused_labels and value is not None for key, value in changes.items()):
            self._world.chance.strike(Fault.API_INVALID)
            raise Refused(SERVICE, "422: invalid label")
        self._world.effect(self._life, f"labels {sorted(changes)}")
        self._api.set(changes, "daemon")
        if self._world.chance.strikes(Fault.REPLY_LOST):
            await asyncio.sleep(PATCH_S)
            raise Unavailable(SERVICE, "no answer in time")
        slow = self._world.chance.strikes(Fault.API_SLOW)
        await asyncio.sleep(self._world.chance.between(*(SLOW_S if slow else (0.005, 0.05))))

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        await self._connect()
        if not self._api.node_exists:
            raise Missing(SERVICE, "nodes switch1 not found")
        self._api.annotations.update(changes)

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        await self._connect()
        self._world.chance.tell("event", f"{'Warning' if warning else 'Normal'} {reason}: {message}")

    async def close(self) -> None:
        return

    async def _connect(self) -> None:
        self._life.check()
        if self._api.trouble is Fault.API_SILENT:
            await asyncio.sleep(PATCH_S)
            raise Unavailable(SERVICE, "no answer in time")
        await asyncio.sleep(self._world.chance.between(0.005, 0.05))
        self._life.check()
        if self._api.trouble is Fault.API_FORBIDDEN:
            raise Forbidden(SERVICE, "403: not allowed")
        if not self._api.reachable:
            raise Unavailable(
                SERVICE, "connection refused" if not self._api.up else "certificate has expired"
            )


class Kubelet:
    """The kubelet: runs a pod of each feature whose label it has seen; outlives every daemon.

    One that was started while its master is away knows of no pod, and leaves alone what runs.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.active = False
        self.enabled = False
        self._changed = asyncio.Event()
        self._bells: dict[str, asyncio.Event] = {}
        self._wanted: set[str] = set()
        self._synced = False
        self._registered = False
        self._pods: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Its whole life."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(self._world.chance.between(0.05, 0.3))
            if self.active:
                self._sync()

    def ring(self) -> None:
        """Labels or containers have changed."""
        self._changed.set()
        for bell in self._bells.values():
            bell.set()

    def _sync(self) -> None:
        api = self._world.api
        if api.reachable:
            if not self._registered:
                # Only once after its start: a Node that is deleted later stays away.
                api.register()
            self._registered = self._synced = True
            labelled = {f for f in self._world.features if api.labels.get(feature_label(f)) == "true"}
            self._wanted = (labelled - api.withdrawn) | api.strays
            if api.condition is not None and api.condition.taints:
                self._wanted = set(api.strays)
            for bell in self._bells.values():
                bell.set()
        for feature in self._world.features if self._synced else ():
            task = self._pods.get(feature)
            if (task is None or task.done()) and (feature in self._wanted or self._pod(feature)):
                self._pods[feature] = asyncio.create_task(self._keep(feature), name=f"pod-{feature}")

    @property
    def _hangs(self) -> bool:
        condition = self._world.api.condition
        return condition is not None and bool(condition.not_ready)

    def _pod(self, feature: str) -> list[Box]:
        return self._world.engine.of(feature, Owner.KUBE)

    async def _keep(self, feature: str) -> None:
        """One pod, until it is neither wanted nor there."""
        crashes = 0
        while self.active and (feature in self._wanted or self._pod(feature)):
            boxes = self._pod(feature)
            alive = next((b for b in boxes if b.runs), None)
            if feature not in self._wanted or len(boxes) > 1:
                await self._remove(boxes[0])
            elif boxes and alive is None:
                backoff_s = min(10.0 * 2**crashes, CRASH_BACKOFF_S_MAX) if crashes else 0.5
                crashes = min(crashes + 1, 8)
                await asyncio.sleep(DESTROYED_AFTER_S)
                if self.active and not boxes[0].runs:
                    self._world.engine.destroy(boxes[0])
                await asyncio.sleep(backoff_s)
            elif alive is None:
                await asyncio.sleep(self._world.chance.between(0.2, 1.5))
                while self.active and self._hangs:
                    await asyncio.sleep(1.0)
                if self.active and feature in self._wanted:
                    self._world.engine.start(self._world.engine.create(feature, Owner.KUBE))
            else:
                await self._rest(LOOK_S, feature)
                lived_s = asyncio.get_running_loop().time() - float(alive.started)
                crashes = 0 if lived_s > CRASH_BACKOFF_S_MAX else crashes

    async def _rest(self, seconds: float, feature: str) -> None:
        """Until something may have changed for this pod, at most so long."""
        bell = self._bells.setdefault(feature, asyncio.Event())
        bell.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await bell.wait()

    async def _remove(self, box: Box) -> None:
        await self._world.engine.stop(box, POD_GRACE_S)
        await asyncio.sleep(DESTROYED_AFTER_S)
        if self.active and not box.runs:
            self._world.engine.destroy(box)

    def die(self) -> None:
        """systemctl stop kubelet, or the end of the boot: containers stay as they are."""
        self.active = self._synced = self._registered = False
        self._wanted.clear()
        for task in self._pods.values():
            task.cancel()
        self._pods.clear()


class UnitsPort:
    """systemd, as one daemon's life has it."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._kubelet = world.kubelet
        self._life = life

    async def kubelet_trouble(self) -> str:
        return ""

    async def kubelet_running(self) -> bool:
        await self._reach()
        return self._kubelet.active

    async def start_kubelet(self) -> None:
        await self._reach()
        self._world.promises.may_start_kubelet()
        if not self._kubelet.active:
            self._world.effect(self._life, "kubelet start")
        self._world.chance.tell("kubelet", "start")
        self._kubelet.active = self._kubelet.enabled = True
        self._kubelet.ring()

    async def stop_kubelet(self) -> None:
        await self._reach()
        if self._kubelet.active:
            self._world.effect(self._life, "kubelet stop")
        self._world.chance.tell("kubelet", "stop")
        self._kubelet.enabled = False
        self._kubelet.die()

    async def restart_kubelet(self) -> None:
        await self._reach()
        self._world.promises.may_start_kubelet()
        self._world.effect(self._life, "kubelet restart")
        self._kubelet.die()
        self._kubelet.active = True
        self._kubelet.ring()

    async def restart(self, feature: str) -> None:
        await self._reach()
        self._world.effect(self._life, f"restart of unit {feature}")
        self._world.people.restart_unit(feature)

    async def makes_local(self, feature: str) -> bool:
        if self._world.chance.drawn(Fault.WAY_BACK_UNKNOWN, 0.3, feature):
            await asyncio.sleep(1.0)
            raise Unavailable("systemd", "Failed to connect to bus")
        return feature in self._world.creates and await self.unit_exists(feature)

    async def unit_exists(self, feature: str) -> bool:
        self._life.check()
        return self._world.people.has_unit(feature)

    async def phases(self, units: Sequence[str]) -> tuple[UnitLook, ...]:
        self._life.check()
        await asyncio.sleep(0.02)
        self._life.check()
        if self._world.chance.strikes(Fault.UNITS_SILENT):
            raise Unavailable("systemd", "Failed to connect to bus")
        return tuple(self._world.people.look(unit.removesuffix(".service")) for unit in units)

    async def _reach(self) -> None:
        self._life.check()
        await asyncio.sleep(0.02)
        self._life.check()
        if self._world.chance.strikes(Fault.KUBELET_STUCK):
            self._world.promises.hindered()
            await asyncio.sleep(1.0)
            raise Unavailable("systemd", "Failed to connect to bus")
