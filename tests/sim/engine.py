"""Simulate Docker: containers that start, crash and end, and the Containers port over them.

Mirrors what the real adapter promises and no more: reads are cached while the event stream stands and there is a
local container, and dropped by every event and own call; a call whose caller is gone still happens; the kubelet's
containers vanish.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import Container, Identity, Owner, Signal
from kubesyncd.ports import ForeignContainer, Hindered, Missing, NotSent, Refused, Unavailable
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.sim.switch import Life, World

CUT = object()
EXITS_KEPT = 4
CACHE_S = 300.0
DEADLINE_S = 10.0
RESTART_S_MAX = 20.0


@dataclass(eq=False, slots=True)
class Box:
    """One container. `past_up`: let through `state up` (a local one is so from its start).

    `restarts`: it has a restart policy, which holds until it is `told` to end; `by_policy`: by one, Docker has started
    it with itself. `silent`: its image has no gate. `version`: its image's; such an image asks by STATE_DB's row, until
    its script has `given_up`.
    """

    id: str
    feature: str
    owner: Owner
    runs: bool = False
    code: int | None = None
    started: str = ""
    starts: int = 0
    past_up: bool = False
    by_hand: bool = False
    destroyed: bool = False
    restarts: bool = False
    restarting: bool = False
    told: bool = False
    by_policy: bool = False
    silent: bool = False
    version: str = ""
    given_up: bool = False
    body: asyncio.Task[None] | None = None
    term: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    # Docker starts a container once at a time: a second start waits for the first.
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def shown(self) -> Container:
        running = self.runs or self.restarting
        code = self.code if self.started and not running else None
        return Container(
            self.id,
            self.owner,
            running,
            code,
            self.started,
            restarting=self.restarting,
            restart_policy="always" if self.restarts or self.by_policy else "",
            version=self.version,
        )


class Stream:
    """What one subscriber hears, with everything that may happen to a notification; `sure`: it cannot be lost."""

    def __init__(self, world: World, *, sure: bool = False) -> None:
        self._world = world
        self._sure = sure
        self._heard: deque[object] = deque()
        self._changed = asyncio.Event()
        self.deaf = False

    def put(self, event: object) -> None:
        """Tell the subscriber; it may not get it, or twice, or late."""
        chance = self._world.chance
        if self.deaf or (not self._sure and chance.strikes(Fault.NOTE_LOST, str(event))):
            return
        for _ in range(2 if chance.strikes(Fault.NOTE_TWICE, str(event)) else 1):
            delay_s = chance.between(0.5, 8.0) if chance.strikes(Fault.NOTE_LATE, str(event)) else 0.001
            asyncio.get_running_loop().call_later(delay_s, self._arrive, event)

    def _arrive(self, event: object) -> None:
        self._heard.append(event)
        self._changed.set()

    def cut(self) -> None:
        """The connection breaks; what is under way is lost."""
        self.deaf = True
        self._heard.clear()
        self._arrive(CUT)

    async def next(self) -> object:
        """The next event, or CUT."""
        while not self._heard:
            self._changed.clear()
            await self._changed.wait()
        return self._heard.popleft()


class Engine:
    """The engine itself; outlives every daemon."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = 0
        self.boxes: dict[str, Box] = {}
        self.ended: dict[str, list[Container]] = {}
        self.streams: list[Stream] = []
        self.up = True
        self.slow_s = 0.0
        self.broken: set[str] = set()
        # Local containers whose start was refused, and that have not run since.
        self.unstartable: set[str] = set()
        self.unread: set[str] = set()
        # Features whose local image does not exist.
        self.pruned: set[str] = set()
        self.pruned_at: dict[str, float] = {}
        # Containers of pods that have nothing to do with the features.
        self.foreign: dict[str, Box] = {}

    # ---- operations of every user of Docker's socket -----------------------------------------------

    def of(self, feature: str, owner: Owner | None = None) -> list[Box]:
        """The feature's containers, the oldest first."""
        return [b for b in self.boxes.values() if b.feature == feature and owner in (None, b.owner)]

    def local(self, feature: str) -> Box | None:
        """The feature's local container."""
        return next(iter(self.of(feature, Owner.LOCAL)), None)

    def create(self, feature: str, owner: Owner) -> Box:
        """docker create."""
        self._numbers += 1
        kind = "10ca1" if owner is Owner.LOCAL else "c0be"
        box = Box(f"{kind}{self._numbers:04x}".ljust(64, "0"), feature, owner)
        box.restarts = owner is Owner.LOCAL and self._world.chance.drawn(Fault.RESTART_POLICY, 0.5, feature)
        self.boxes[box.id] = box
        self._tell("docker", f"create {owner} {box.id[:9]} of {feature}")
        self._publish(box)
        return box

    def start(self, box: Box, *, by_hand: bool = False) -> None:
        """docker start; running already is success."""
        if box.runs or box.restarting or box.destroyed:
            return
        now = asyncio.get_running_loop().time()
        box.runs, box.code, box.by_hand, box.past_up = True, None, by_hand, False
        box.told = box.by_policy = False
        self.unstartable.discard(box.id)
        box.started, box.starts = f"{now:015.6f}", box.starts + 1
        box.term, box.over = asyncio.Event(), asyncio.Event()
        self._tell("docker", f"{box.owner} {box.id[:9]} of {box.feature} starts{' by hand' * by_hand}")
        box.body = asyncio.create_task(self._world.people.live(box), name=f"box-{box.id[:9]}")
        self._world.promises.started(box)
        self._publish(box)

    def signal(self, box: Box, name: str) -> None:
        """docker kill."""
        box.told = True
        if box.restarting:
            box.restarting = False
            self._publish(box)
        if not box.runs:
            return
        if name == "KILL":
            self.die(box, 137)
        else:
            box.term.set()

    def die(self, box: Box, code: int) -> None:
        """The container ends."""
        if not box.runs:
            return
        by_hand = box.by_hand
        box.runs, box.code, box.past_up, box.by_hand = False, code, False, False
        box.restarting = box.restarts and not box.told
        box.over.set()
        if box.body is not None and box.body is not asyncio.current_task():
            box.body.cancel()
        self._tell("docker", f"{box.owner} {box.id[:9]} of {box.feature} ends with {code}")
        self._remember(box)
        self._world.promises.ended(box)
        if box.restarting:
            self._world.spawn(self._again(box, by_hand=by_hand))
        self._publish(box)
        self._world.kubelet.ring()

    async def _again(self, box: Box, *, by_hand: bool) -> None:
        """Start it again by its restart policy."""
        await asyncio.sleep(min(0.1 * 2.0 ** min(box.starts, 10), RESTART_S_MAX))
        if box.restarting:
            box.restarting = False
            self.start(box, by_hand=by_hand)

    def destroy(self, box: Box) -> None:
        """docker rm -f."""
        if box.destroyed:
            return
        box.told, box.restarting = True, False
        self.die(box, 137)
        box.destroyed = True
        del self.boxes[box.id]
        self._tell("docker", f"{box.owner} {box.id[:9]} of {box.feature} is destroyed")
        self._publish(box)

    async def stop(self, box: Box, grace_s: float) -> None:
        """docker stop: returns once it has ended."""
        self.signal(box, "TERM")
        over = box.over
        if box.runs:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await over.wait()
        if not over.is_set():
            self.signal(box, "KILL")

    def restart(self) -> None:
        """dockerd restarts without live-restore."""
        for box in list(self.boxes.values()):
            box.told, box.restarting = True, False
            self.die(box, 137)

    def start_by_policy(self) -> None:
        """dockerd starts containers with itself, whatever had ended them."""
        for box in list(self.boxes.values()):
            ended = box.owner is Owner.LOCAL and bool(box.started) and not box.runs
            if ended and self._world.chance.drawn(Fault.POLICY_START, 0.5, box.feature):
                self.start(box, by_hand=True)
                box.by_policy = True

    def prune(self, feature: str) -> None:
        """docker system prune -af, while no local container of the feature runs."""
        box = self.local(feature)
        if box is not None and (box.runs or box.restarting):
            return
        if box is not None:
            self.destroy(box)
        self.pruned.add(feature)
        self.pruned_at[feature] = asyncio.get_running_loop().time()
        self.images_changed()

    def load(self, feature: str) -> None:
        """docker load of the feature's image."""
        self.pruned.discard(feature)
        self.images_changed()

    def images_changed(self) -> None:
        """Tell every subscriber."""
        for stream in self.streams if self.up else ():
            stream.put(Signal.IMAGES)

    def cut(self) -> None:
        """Every event stream breaks."""
        for stream in list(self.streams):
            stream.cut()

    def _remember(self, box: Box) -> None:
        kept = self.ended.setdefault(box.feature, [])
        others = [c for c in kept if c.id != box.id]
        kept[:] = [*others[1 - EXITS_KEPT :], replace(box.shown(), gone=True)]

    def _publish(self, box: Box) -> None:
        if self.up:
            for stream in self.streams:
                stream.put(box.feature)

    def _tell(self, who: str, what: str) -> None:
        self._world.chance.tell(who, what)


class DockerPort:
    """The Containers port, as one daemon's life has it."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._engine = world.engine
        self._life = life
        self._connected = False
        self._connected_at: float | None = None
        self._cache: dict[str, tuple[float, tuple[Container, ...]]] = {}
        self._doubts = 0

    async def events(self, lost: Callable[[str], object] = str) -> AsyncIterator[str | Signal]:
        while True:
            await asyncio.sleep(self._world.chance.between(0.0, 1.5))
            if not self._engine.up:
                continue
            stream = Stream(self._world)
            self._engine.streams.append(stream)
            try:
                self._connected = True
                if self._connected_at is None:
                    self._connected_at = asyncio.get_running_loop().time()
                lost("")
                yield Signal.GAP
                while (event := await stream.next()) is not CUT:
                    if event is Signal.IMAGES:
                        self._doubt("")
                        yield Signal.IMAGES
                        continue
                    self._doubt(str(event))
                    yield str(event)
            finally:
                self._connected = False
                self._cache.clear()
                self._doubts += 1
                self._engine.streams.remove(stream)
            lost("the stream was cut")
            yield Signal.GAP

    async def list(self, feature: str, granted: str = "") -> tuple[Container, ...]:
        now = asyncio.get_running_loop().time()
        at, known = self._cache.get(feature, (-CACHE_S, ()))
        if now - at < CACHE_S:
            return known
        doubts = self._doubts
        await self._reach(0.003)
        boxes = [self._described(box) for box in self._engine.of(feature)]
        ids = [c.id for c in boxes]
        gone = [c for c in self._engine.ended.get(feature, []) if c.id not in ids]
        found = tuple(sorted((*boxes, *gone), key=lambda c: (c.started, c.id)))
        await asyncio.sleep(0.002)
        made = any(box.owner is Owner.LOCAL for box in boxes)
        made = made and not any(c.unread for c in boxes)
        if made and self._connected and doubts == self._doubts:
            self._cache[feature] = (now, found)
        return found

    def _described(self, box: Box) -> Container:
        """As the adapter has it: what Docker does not describe is what its list says."""
        shown = box.shown()
        if box.id not in self._engine.unread:
            return replace(shown, by_policy=self.by_policy(box))
        # Its end is known from the event.
        code = next((c.exit_code for c in self._engine.ended.get(box.feature, []) if c.id == box.id), None)
        return Container(
            box.id,
            box.owner,
            shown.running,
            None if shown.running else code,
            restarting=shown.restarting,
            unread="500: I/O error",
        )

    def by_policy(self, box: Box) -> bool:
        """Whether it was started while this life had lost Docker's events; it cannot know of earlier ones."""
        lost = self._connected_at is not None and self._connected_at < float(box.started or 0.0)
        return box.by_policy and lost

    async def unpause(self, container_id: str) -> None:
        raise AssertionError("no container is paused here")

    async def start(self, container_id: str) -> None:
        async def effect() -> None:
            box = self._find(container_id)
            self._engine.unstartable.add(box.id)
            if self._world.chance.strikes(Fault.NAME_CONFLICT, box.feature):
                raise Hindered("Docker", "driver failed programming external connectivity")
            if not box.runs and box.owner is Owner.LOCAL and box.feature in self._engine.broken:
                raise Refused("Docker", "no such program")
            self._engine.unstartable.discard(box.id)
            async with box.starting:
                if not box.runs:
                    self._world.effect(self._life, f"docker start of {box.feature}")
                    self._world.promises.may_start(box)
                    if self._world.chance.strikes(Fault.START_LATE, box.feature):
                        await self._late()
                self._engine.start(box)

        await self._act(container_id, effect, self._world.chance.between(0.02, 0.4))

    async def _late(self) -> None:
        """Take long for a start; sometimes its daemon is killed meanwhile, and the next one comes before its end."""
        world, rng = self._world, self._world.chance.streams[Fault.START_LATE]
        if rng.random() < 0.5 and world.life is self._life and not world.ledger_file.stale:
            world.kill_daemon()
            asyncio.get_running_loop().call_later(rng.choice((0.1, 2.0)), world.start_daemon)
        await asyncio.sleep(rng.choice((0.5, 5.0, 45.0)))

    async def stop(self, container_id: str, grace_s: int) -> None:
        async def effect() -> None:
            box = self._engine.boxes.get(container_id)
            if box is not None and (box.runs or box.restarting):
                self._world.effect(self._life, f"docker stop of {box.owner} {box.feature}")
                self._world.promises.may_end(box)
                await self._engine.stop(box, grace_s)

        await self._act(container_id, effect, 0.01)

    async def kill(self, container_id: str, signal: str) -> None:
        async def effect() -> None:
            box = self._engine.boxes.get(container_id)
            if box is not None and (box.runs or box.restarting):
                self._world.effect(self._life, f"docker kill of {box.owner} {box.feature}")
                self._world.promises.may_end(box)
                self._engine.signal(box, signal)

        await self._act(container_id, effect, 0.01)

    async def identify(self, container_id: str) -> Identity:
        await self._reach(0.003)
        if container_id in self._engine.foreign:
            raise ForeignContainer("Docker", "its pod is in a namespace whose pods run no feature")
        box = self._find(container_id)
        return Identity(box.id, box.feature, box.owner)

    def _find(self, container_id: str) -> Box:
        box = self._engine.boxes.get(container_id)
        if box is None:
            raise Missing("Docker", f"no container {container_id[:12]}")
        return box

    async def _act(self, container_id: str, effect: Callable[[], Awaitable[None]], takes_s: float) -> None:
        """Once sent, it happens; whether the caller hears of it is another matter."""
        await self._reach(takes_s + self._engine.slow_s)
        box = self._engine.boxes.get(container_id)
        if box is not None and self._world.chance.strikes(Fault.GONE_MIDCALL, box.feature):
            self._engine.destroy(box)
        task = self._world.spawn(effect())
        try:
            await asyncio.shield(task)
        finally:
            self._doubt(box.feature if box is not None else "")
        if self._world.chance.strikes(Fault.DOCKER_DONE_ERROR):
            raise Unavailable("Docker", "the connection broke")

    async def _reach(self, takes_s: float) -> None:
        """One request's way; raises Unavailable."""
        self._life.check()
        if not self._engine.up:
            await asyncio.sleep(self._world.chance.one_of((0.0, 3.0, DEADLINE_S)))
            if not self._engine.up:
                raise NotSent("Docker", "connection refused")
        if takes_s < self._engine.slow_s > DEADLINE_S:
            await asyncio.sleep(DEADLINE_S)
            raise Unavailable("Docker", "no answer in time")
        await asyncio.sleep(takes_s)
        self._life.check()
        if self._world.chance.strikes(Fault.DOCKER_ERROR):
            raise Unavailable("Docker", "500: server error")

    def _doubt(self, feature: str) -> None:
        self._doubts += 1
        if feature:
            self._cache.pop(feature, None)
        else:
            self._cache.clear()
