"""Stand in for the engines around one part of the daemon: each does what it is told, and notes what it was asked.

Where the storm's engines (`master`, `store`, `engine`) fail by chance, these fail when a test says so. Their times are
the loop's, virtual or real.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kubesyncd.core.feature_unit import UnitLook, UnitPhase
from kubesyncd.core.model import MasterConfig, NodeSeen
from kubesyncd.images.policy import ImageRecord
from kubesyncd.ports import Missing, PortError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence

    from kubesyncd.core.node_condition import NodeCondition

ANSWER_S, SILENCE_S = 0.02, 5.0


@dataclass
class PlainMaster:
    """An API server with one Node; `node` holds its labels, None where there is no Node.

    `fault` is what a call raises; `silent` calls hang for 5 s; `deaf` cuts the watch alone; a change whose
    `reply_lost` is made all the same. `calls` and `watches` count what was tried.
    """

    node: dict[str, str] | None = field(default_factory=dict)
    uid: str = "uid"
    version: int = 1000
    condition: NodeCondition | None = None
    fault: PortError | None = None
    deaf: bool = False
    silent: bool = False
    refused: frozenset[str] = frozenset()
    reply_lost: bool = False
    annotations: dict[str, str] = field(default_factory=dict)
    patches: list[dict[str, str | None]] = field(default_factory=list)
    annotated: list[tuple[float, dict[str, str | None]]] = field(default_factory=list)
    events: list[tuple[str, str, bool]] = field(default_factory=list)
    links: int = 0
    calls: int = 0
    watches: int = 0
    closed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake every watch."""
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def seen(self, newest: int) -> NodeSeen | None:
        """What a watch reports whose newest version was `newest`."""
        if self.node is None:
            return None
        return NodeSeen(dict(self.node), self.uid, self.version < newest, self.condition, self.version)

    def restore(self, **labels: str) -> None:
        """Go back to a backup of the store, in which the Node had these labels."""
        self.node, self.version = labels, self.version - 500
        self.tell()

    def delete(self) -> None:
        """Delete the Node, as an administrator does."""
        self.node = None
        self.tell()

    def register(self, **labels: str) -> None:
        """Have the Node registered by its kubelet: with another UID than before."""
        self.node, self.uid = labels, f"{self.uid}+"
        self.tell()

    def fail(self, fault: PortError | None) -> None:
        """Begin or end to fail."""
        self.fault = fault
        self.tell()

    def edit(self, **labels: str | None) -> None:
        """Change labels of the Node, as another program does."""
        assert self.node is not None
        self.node = merged(self.node, labels)
        self.tell()


def merged(stored: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Apply a patch; None removes."""
    return {key: value for key, value in {**stored, **changes}.items() if value is not None}


class PlainLink:
    """ports.Cluster over a PlainMaster."""

    def __init__(self, master: PlainMaster) -> None:
        self._master = master
        master.links += 1

    async def watch(self) -> AsyncIterator[NodeSeen | None]:
        self._master.watches += 1
        newest = 0
        while True:
            await asyncio.sleep(0.01)
            if self._master.deaf:
                raise Unavailable("Kubernetes", "the watch was cut")
            if self._master.fault is not None:
                raise Unavailable("Kubernetes", self._master.fault.detail)
            changed = self._master.changed
            seen, newest = self._master.seen(newest), self._master.version
            yield seen
            await changed.wait()

    async def apply_labels(self, changes: Mapping[str, str | None]) -> None:
        self._master.calls += 1
        await self._answer()
        if self._master.node is None:
            raise Missing("Kubernetes", "no such node")
        for key in changes:
            if key in self._master.refused:
                raise Refused("Kubernetes", f"{key} is invalid")
        self._master.patches.append(dict(changes))
        self._master.node = merged(self._master.node, changes)
        self._master.tell()
        if self._master.reply_lost:
            raise Unavailable("Kubernetes", "connection reset")

    async def annotate(self, changes: Mapping[str, str | None]) -> None:
        self._master.annotated.append((asyncio.get_running_loop().time(), dict(changes)))
        await self._answer()
        self._master.annotations = merged(self._master.annotations, changes)

    async def report(self, reason: str, message: str, *, warning: bool) -> None:
        await self._answer()
        self._master.events.append((reason, message, warning))

    async def close(self) -> None:
        self._master.closed += 1

    async def _answer(self) -> None:
        await asyncio.sleep(SILENCE_S if self._master.silent else ANSWER_S)
        if self._master.silent:
            raise Unavailable("Kubernetes", "the master does not answer in time")
        if self._master.fault is not None:
            raise self._master.fault


@dataclass
class PlainNames:
    """cluster.NodeNaming of a node called `name`; `faulty` and `changed` are what the other two questions return."""

    name: str = "switch1"
    faulty: str = ""
    changed: str = ""

    def current(self) -> str:
        return self.name

    def problem(self) -> str:
        return self.faulty

    def renamed(self) -> str:
        return self.changed


@dataclass
class PlainStore:
    """What is read and written of Redis outside the reconcilers, with every write noted.

    `fails`: calls that fail, with what error: "read" and "write" with the feature, on FEATURE rows; "write_master".
    `loaded`: the rows are restored after a load of CONFIG_DB.
    """

    config: MasterConfig = field(default_factory=MasterConfig)
    metadata: Mapping[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    loaded: bool = False
    down: bool = False
    fails: Mapping[str, PortError] = field(default_factory=dict)
    writes: list[object] = field(default_factory=list)
    connected: bool | None = None
    ts: int = 0
    address: tuple[str, int] = ("", 0)
    pending: tuple[str, ...] = ()

    async def master(self) -> MasterConfig:
        self._check()
        return self.config

    async def device_metadata(self) -> Mapping[str, str]:
        self._check()
        return self.metadata

    async def write_master(self, *, connected: bool, ts: int, ip: str = "", port: int = 0) -> None:
        self._check("write_master")
        self.address = ip, port
        if connected is not self.connected:
            self.connected, self.ts = connected, ts
            self.writes.append(connected)

    async def write_pending(self, labels: tuple[str, ...]) -> None:
        self._check()
        if labels != self.pending:
            self.pending = labels
            self.writes.append(labels)

    def restored(self) -> None:
        self.loaded = True

    async def feature_rows(self) -> dict[str, dict[str, str]]:
        self._check("read")
        return {name: dict(row) for name, row in self.rows.items()}

    async def add_fields(self, feature: str, fields: Mapping[str, str]) -> None:
        self._check(f"write {feature}")
        self.rows.setdefault(feature, {}).update(fields)

    def _check(self, call: str = "") -> None:
        if self.down:
            raise Unavailable("Redis", "gone")
        if call in self.fails:
            raise self.fails[call]


@dataclass
class PlainUnits:
    """A kubelet's unit; `looks` and `examined` count how often it was asked whether it runs, and how well.

    `phase`: of the features' units that do not run.
    """

    running: bool = False
    broken: bool = False
    trouble: str = ""
    calls: list[str] = field(default_factory=list)
    looks: int = 0
    examined: int = 0
    phase: dict[str, UnitPhase] = field(default_factory=dict)

    async def kubelet_trouble(self) -> str:
        self.examined += 1
        return self.trouble

    async def kubelet_running(self) -> bool:
        self.looks += 1
        return self.running

    async def start_kubelet(self) -> None:
        self._do("start", running=True)

    async def stop_kubelet(self) -> None:
        self._do("stop", running=False)

    async def restart_kubelet(self) -> None:
        self._do("restart", running=True)

    async def restart(self, feature: str) -> None:
        raise AssertionError(feature)

    async def makes_local(self, feature: str) -> bool:
        return await self.unit_exists(feature)

    async def unit_exists(self, feature: str) -> bool:
        raise AssertionError(feature)

    async def phases(self, units: Sequence[str]) -> tuple[UnitLook, ...]:
        return tuple(UnitLook(self.phase.get(unit, UnitPhase.RUNS)) for unit in units)

    def _do(self, call: str, *, running: bool) -> None:
        self.calls.append(call)
        if self.broken:
            raise Refused("systemd", "Unit kubelet.service is masked.")
        self.running = running


async def _nothing(_: str) -> None:
    """The process of a unit without work."""


@dataclass
class PlainJobs:
    """ports.Jobs over units that run one at a time; `work` is what a unit's process does.

    A unit takes `start_s` until its process works, and `ending_s` after that. systemd takes `call_s` to start or stop
    a unit, and `answer_s` to describe it; while it is `silent` it describes none. A `masked` unit is refused, one that
    `never_starts` is accepted all the same. `begun` holds the accepted units, `ended` those that were stopped.
    """

    work: Callable[[str], Coroutine[Any, Any, None]] = _nothing
    call_s: float = 0.05
    answer_s: float = 0.05
    start_s: float = 0.0
    ending_s: float = 0.0
    masked: bool = False
    never_starts: bool = False
    silent: bool = False
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    unit: asyncio.Task[None] | None = None
    process: asyncio.Task[None] | None = None

    async def begin(self, unit: str) -> None:
        await asyncio.sleep(self.call_s)
        if self.masked:
            raise Refused("systemd", f"{unit} is masked")
        self.begun.append(unit)
        if not self.never_starts and not _runs(self.unit):
            self.unit = asyncio.get_running_loop().create_task(self._run(unit))

    async def pending(self, unit: str) -> bool:
        await asyncio.sleep(self.answer_s)
        if self.silent:
            raise Unavailable("systemd", f"show {unit}: no answer")
        return _runs(self.unit)

    async def end(self, unit: str) -> None:
        await asyncio.sleep(self.call_s)
        self.ended.append(unit)
        if self.unit is not None:
            self.unit.cancel()
        if self.process is not None:
            self.process.cancel()
            with suppress(asyncio.CancelledError):
                await self.process

    def working(self) -> bool:
        """Whether a unit's process works."""
        return _runs(self.process)

    async def _run(self, unit: str) -> None:
        await asyncio.sleep(self.start_s)
        process = self.process = asyncio.get_running_loop().create_task(self.work(unit))
        await asyncio.wait({process})
        await asyncio.sleep(self.ending_s)


def _runs(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()


@dataclass
class PlainFile:
    """A small stored file in memory; `saves` counts. A `full` disk takes nothing; a `read_only` one removes nothing.

    `broken`: it cannot be read.
    """

    data: bytes | None = None
    full: bool = False
    read_only: bool = False
    broken: bool = False
    saves: int = 0

    def load(self) -> bytes | None:
        if self.broken:
            raise Unavailable("state file", "Input/output error")
        return self.data

    def save(self, data: bytes) -> None:
        if self.full:
            raise Unavailable("state file", "no space left")
        self.data = data
        self.saves += 1


@dataclass
class PlainDisk:
    """A ports.DurableFile over a PlainFile; a save takes `slow_s`."""

    file: PlainFile = field(default_factory=PlainFile)
    slow_s: float = 0.0

    def load(self) -> bytes | None:
        return self.file.load()

    async def read(self) -> bytes | None:
        return self.file.load()

    async def save(self, data: bytes) -> None:
        await asyncio.sleep(self.slow_s)
        self.file.save(data)

    async def forget(self) -> None:
        if self.file.read_only:
            raise Unavailable("state file", "read-only file system")
        self.file.data = None


class NoImages:
    """An image store that keeps nothing, because the engine has no images. `missing`: features without a local one."""

    def __init__(self, missing: Collection[str] = ()) -> None:
        self.missing = missing

    def load(self) -> None:
        pass

    async def run(self) -> None:
        pass

    def remembered(self, _: str) -> ImageRecord:
        return ImageRecord()

    async def adopt(self, feature: str, image_id: str) -> None:
        pass

    async def restore(self, feature: str, failed_image: str) -> None:
        pass

    async def note_rollback(self, *_: str) -> None:
        pass

    async def forget(self, feature: str) -> None:
        pass

    async def missing_local(self, feature: str, made_from: str) -> str:
        return f"docker-{feature}:latest" if feature in self.missing else ""


class NoJoin:
    """A join controller of a node that has its credential and never joins or leaves."""

    joining = False
    leaving = False

    def fits(self) -> bool:
        return True

    def wake(self) -> None:
        pass

    def status(self) -> dict[str, object]:
        return {}

    async def run(self, *_: object) -> None:
        pass


class NoRestorer:
    """A restorer of a FEATURE table that no load damages."""

    async def restore(self) -> None:
        pass


class NoHooks:
    """ports.Hooks over empty folders."""

    def names(self, _: str) -> tuple[str, ...]:
        return ()


class PlainLog:
    """A structlog logger that remembers its lines: level, event, fields."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in ("debug", "info", "warning", "error", "exception"):
            raise AttributeError(level)
        return lambda event, **more: self.lines.append((level, event, more))

    def bind(self, **_: object) -> PlainLog:
        """The same log: the fields of its component do not matter here."""
        return self

    def count(self, event: str) -> int:
        """How many lines have this event."""
        return len(self.of(event))

    def of(self, event: str) -> list[dict[str, Any]]:
        """The fields of each line with this event."""
        return [more for _, name, more in self.lines if name == event]
