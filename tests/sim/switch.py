"""Provide one simulated switch: engines, users, files and clocks around the real daemon.

The daemon is `Daemon` of kubesyncd.daemon.supervisor over simulated ports. A life may be killed at any await: then its
ports do nothing any more, and what it has already sent still happens.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import structlog

from kubesyncd.api.connections import CONNECTIONS_MAX, Connections
from kubesyncd.core.model import FeatureConfig, MasterConfig, Timing
from kubesyncd.daemon.parts import Boot, Files, Ports, Rules, assemble
from kubesyncd.daemon.supervisor import Daemon
from kubesyncd.ports import Unavailable
from kubesyncd.reboot.hold import begin_boot
from kubesyncd.runtime.context import Runtime
from tests.sim.chance import Chance, Fault
from tests.sim.engine import DockerPort, Engine
from tests.sim.master import Api, ClusterPort, Kubelet, UnitsPort
from tests.sim.people import People
from tests.sim.plain import NoHooks, NoImages, NoJoin, NoRestorer, PlainDisk, PlainNames
from tests.sim.promises import HELD, Promises
from tests.sim.store import Redis, RedisPort

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from kubesyncd.api.messages import Role
    from kubesyncd.api.peer import Peer
    from kubesyncd.api.server import Server
    from kubesyncd.features.ledger import Ledger
    from tests.sim.people import Writer

ALWAYS_LOCAL = frozenset({"database"})
UPTIME_S = 500.0
EPOCH_S = 1_790_000_000.0


class Broken(AssertionError):
    """A promise does not hold."""


class Memory:
    """A small file, replaced as a whole."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.data: bytes | None = None
        self.stale = False
        # This file alone takes no writes.
        self.unwritable = False

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.stale = self._world.disk_full or self.unwritable
        if self.stale:
            raise Unavailable("state file", "No space left on device")
        self.data = data

    def forget(self) -> None:
        self.data = None


@dataclass(slots=True)
class _OfLife:
    """A file as one life of the daemon has it: the dead write nothing."""

    file: Memory
    life: Life

    def load(self) -> bytes | None:
        return self.file.load()

    def save(self, data: bytes) -> None:
        self.life.check()
        self.file.save(data)

    def forget(self) -> None:
        self.life.check()
        self.file.forget()


@dataclass(slots=True)
class _LedgerOfLife:
    """The ledger as one life has it; where its disk is slow, a write takes seconds, and a kill in them loses it."""

    world: World
    life: Life

    def load(self) -> bytes | None:
        return self.world.ledger_file.load()

    async def save(self, data: bytes) -> None:
        self.life.check()
        chance = self.world.chance
        if chance.strikes(Fault.LEDGER_SLOW):
            await asyncio.sleep(chance.streams[Fault.LEDGER_SLOW].choice((0.1, 1.0, 5.0)))
            self.life.check()
        self.world.ledger_file.save(data)


@dataclass(slots=True)
class _MarkOfLife:
    """The mark of the boot as one life has it."""

    world: World
    life: Life

    def load(self) -> bytes | None:
        return self.world.mark_file.load()

    async def read(self) -> bytes | None:
        return self.world.mark_file.load()

    async def save(self, data: bytes) -> None:
        self.life.check()
        await asyncio.sleep(0.001)
        self.life.check()
        self.world.mark_file.save(data)


@dataclass(slots=True)
class _OnDisk:
    """The label queue's file as one life has it: a sync takes its time, and sometimes seconds."""

    world: World
    life: Life

    def load(self) -> bytes | None:
        return self.world.labels_file.load()

    async def save(self, data: bytes) -> None:
        self.life.check()
        file = self.world.labels_file
        file.stale = True
        await asyncio.sleep(self.world.chance.one_of((0.001, 0.01, 0.01, 0.1, 3.0)))
        self.life.check()
        file.save(data)
        self.world.promises.labels_saved()


class Life:
    """One process of the daemon, from its start to its end."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.dead = False
        self.server: Server | None = None
        self.ledger: Ledger | None = None
        self._connections: list[asyncio.Task[None]] = []
        self._limits = Connections()
        self._stopping = asyncio.Event()
        self.task = world.spawn(self._run())

    def check(self) -> None:
        """The dead do nothing."""
        if self.dead:
            raise asyncio.CancelledError

    def serve(self, role: Role, reader: asyncio.StreamReader, writer: Writer) -> None:
        """A client has connected."""
        assert self.server is not None
        task = asyncio.create_task(self._serve(self.server, role, reader, writer))
        self._connections = [t for t in self._connections if not t.done()]
        self._connections.append(task)
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, server: Server, role: Role, reader: asyncio.StreamReader, writer: Writer) -> None:
        # Whether there is room for it is decided before it waits for anything.
        self._limits.most = 0 if self._world.chance.strikes(Fault.CONNECTION_LIMIT) else CONNECTIONS_MAX
        await server.serve(role, reader, writer)  # type: ignore[arg-type]

    def kill(self) -> None:
        """SIGKILL."""
        self.dead = True
        for connection in self._connections:
            connection.cancel()
        self.task.cancel()

    def stop(self) -> None:
        """SIGTERM."""
        self._stopping.set()

    async def _run(self) -> None:
        world = self._world
        await asyncio.sleep(world.chance.between(0.3, 0.8))
        rng, log = Random(f"{world.seed}/{self.number}"), world.logger(self)
        hold, promised = _OfLife(world.hold_file, self), _OfLife(world.promised_file, self)
        boot_id = f"boot-{world.boots}"
        self.docker = DockerPort(world, self)
        parts = assemble(
            Ports(
                store=RedisPort(world, self, ALWAYS_LOCAL),
                containers=self.docker,
                units=UnitsPort(world, self),
                connect=lambda _: ClusterPort(world, self),
                names=world.names,
                switch=_SwitchFiles(world),
                hooks=NoHooks(),  # type: ignore[arg-type]
            ),
            Files(
                _LedgerOfLife(world, self),
                _MarkOfLife(world, self),
                _OnDisk(world, self),
                PlainDisk(),
            ),
            Boot(boot_id, begin_boot(hold, promised, boot_id, log)),
            Rules(world.timing, ALWAYS_LOCAL, sonic_names=True),
            runtime=Runtime(world.boottime, world.wall, rng, log),
            images=_Images(world),  # type: ignore[arg-type]
            join=NoJoin(),  # type: ignore[arg-type]
            restorer=NoRestorer(),  # type: ignore[arg-type]
        )
        self.ledger = parts.ledger
        daemon = Daemon(parts, identify=_identify, connections=self._limits)
        try:
            async with asyncio.TaskGroup() as tasks:
                self.server = daemon.start(tasks)
                await self._stopping.wait()
                await self.server.close()
                raise _Ended  # noqa: TRY301 - this is how a task group is ended from inside
        except* _Ended:
            pass
        except* Exception as group:
            if not self.dead:
                world.fail(f"the daemon ended by itself: {group.exceptions[0]!r}")
        finally:
            self.dead, self.server = True, None


class _Images(NoImages):
    """An image store over the engine, which may be busy, pruning."""

    def __init__(self, world: World) -> None:
        super().__init__(world.engine.pruned)
        self._world = world

    async def missing_local(self, feature: str, made_from: str) -> str:
        if self._world.chance.drawn(Fault.WAY_BACK_UNKNOWN, 0.3, feature):
            await asyncio.sleep(10.0)
            raise Unavailable("Docker", "no answer within 10 s")
        return await super().missing_local(feature, made_from)


@dataclass(frozen=True, slots=True)
class _SwitchFiles:
    """The switch's files, as the daemon reads them."""

    world: World

    def hold_exists(self) -> bool:
        return self.world.hold or self.world.hold_file.data is not None

    def os_version(self) -> str:
        return ""

    def credential_life(self) -> None:
        return None


class _Ended(Exception):
    """SIGTERM was heard."""


def _identify(sock: Any) -> Peer:
    peer: Peer = sock.peer
    return peer


class World:
    """The switch and its master. `features`: name → whether a local container can be created."""

    def __init__(
        self, seed: int, chance: Chance, features: Mapping[str, FeatureConfig | None], timing: Timing
    ) -> None:
        self.seed = seed
        self.chance = chance
        self.timing = timing
        self.features = tuple(features)
        self.plain = {name for name, config in features.items() if config is None}
        self.creates = set(features)
        self.refused_labels: set[str] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.effects: list[str] = []
        self.failures: list[str] = []
        self.failed = asyncio.Event()
        self.boots = 1
        self.booted_at = -UPTIME_S
        self.skew_s = 0.0
        self.disk_full = False
        self._hold = False
        self.ledger_file = Memory(self)
        self.mark_file = Memory(self)
        self.labels_file = Memory(self)
        self.hold_file = Memory(self)
        self.promised_file = Memory(self)
        self.promises = Promises(self)
        self.names = PlainNames()
        self.engine = Engine(self)
        self.redis = Redis(self)
        self.api = Api(self)
        self.kubelet = Kubelet(self)
        self.people = People(self)
        self.life: Life | None = None
        self.lives = 0
        for name, config in features.items():
            if config is not None:
                self.redis.begin(name, config)
        self.redis.master = MasterConfig(ip="10.0.0.1")

    @property
    def files(self) -> tuple[Memory, ...]:
        """Each file that the daemon writes."""
        return (self.ledger_file, self.labels_file, self.hold_file, self.promised_file, self.mark_file)

    @property
    def hold(self) -> bool:
        """Whether a reboot is being prepared."""
        return self._hold

    @hold.setter
    def hold(self, on: bool) -> None:
        self._hold = on
        self.promises.bar(HELD, on=on)

    # ---- clocks ---------------------------------------------------------------------------------

    def boottime(self) -> float:
        """BOOTTIME seconds."""
        return asyncio.get_running_loop().time() - self.booted_at

    def wall(self) -> float:
        """Seconds since the epoch, as wrong as the switch's clock is."""
        return EPOCH_S + asyncio.get_running_loop().time() + self.skew_s

    # ---- telling --------------------------------------------------------------------------------

    def spawn(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the simulation itself; its failure is the run's."""
        task = asyncio.create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not _expected(task.exception()):
            self.fail(f"{task.get_coro()} failed: {task.exception()!r}")

    def effect(self, life: Life, what: str) -> None:
        """The daemon has changed something."""
        self.effects.append(what)
        self.chance.tell(f"daemon {life.number}", what)

    def fail(self, what: str) -> None:
        """A promise is broken."""
        self.chance.tell("BROKEN", what)
        self.failures.append(what)
        self.failed.set()

    def logger(self, life: Life) -> Any:
        """The daemon's log becomes part of the story; a traceback in it is a failure."""

        def hear(_logger: object, method: str, event: dict[str, Any]) -> dict[str, Any]:
            if life.dead:
                raise structlog.DropEvent
            words = " ".join(
                f"{k}={v}" for k, v in event.items() if k not in ("event", "exc_info", "took_ms")
            )
            self.chance.tell(f"log {life.number}", f"{event['event']} {words}")
            if method in ("exception", "critical") or event.get("exc_info"):
                self.fail(f"a traceback is logged: {event['event']}: {_raised()}")
            raise structlog.DropEvent

        return structlog.wrap_logger(
            None, processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(20)
        )

    # ---- lives ----------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """systemctl start kubesyncd."""
        if self.life is None:
            self.lives += 1
            self.chance.tell("systemd", f"kubesyncd starts, life {self.lives}")
            self.life = Life(self, self.lives)

    def kill_daemon(self) -> None:
        """kill -9."""
        life, self.life = self.life, None
        if life is not None:
            life.kill()

    async def stop_daemon(self) -> None:
        """systemctl stop kubesyncd."""
        life, self.life = self.life, None
        if life is not None:
            life.stop()
            await asyncio.wait([life.task])

    def reboot(self) -> None:
        """Power off and on: memory, /run and STATE_DB are empty, files and the master's word are not."""
        self.chance.strike(Fault.REBOOT)
        self.kill_daemon()
        self.people.power_off()
        self.kubelet.die()
        self.engine.restart()
        self.engine.ended.clear()
        self.redis.flush_state()
        self.redis.cut()
        self.engine.cut()
        self.ledger_file.data = None
        self.hold = False
        self.boots += 1
        self.booted_at = asyncio.get_running_loop().time() - 5.0
        self.promises.rebooted()
        self.kubelet.active = self.kubelet.enabled
        self.start_daemon()
        for feature, unit in self.people.units.items():
            if unit.wanted:
                self.people.start_unit(feature)


def _expected(error: BaseException | None) -> bool:
    """What a simulated effect may raise to its caller, who may be gone."""
    from kubesyncd.ports import PortError

    return isinstance(error, PortError)


def _raised() -> str:
    import traceback

    return traceback.format_exc(limit=-6)
