"""A Redis and a Docker of one feature, and what a reconciler needs around them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kubesyncd.core.model import FeatureConfig, LabelView, Row, Stored, Timing
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.reconciler import Reconciler
from kubesyncd.features.surroundings import Surroundings
from kubesyncd.features.wakes import Wakes
from kubesyncd.ports import Missing, Unavailable
from kubesyncd.runtime.context import Runtime
from kubesyncd.runtime.log import logger
from kubesyncd.settings import LogSettings
from tests.sim.plain import PlainDisk, PlainFile
from tests.unit.core.given import LOCAL, local

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.ports import PortError

NEW = "beef" * 16


@dataclass
class World:
    """A Redis and a Docker of one feature, as far as a reconciler without a master needs them."""

    containers: tuple[Container, ...] = ()
    config: FeatureConfig | None = field(default_factory=FeatureConfig)
    row: Row = field(default_factory=Row)
    loading: bool = False
    joined = False
    kubelet_running = None
    hold = False
    no_deploy = ""
    leaving = False

    def note_kube_start(self, at: str) -> None:
        pass

    file: PlainFile = field(default_factory=PlainFile)
    file_slow_s: float = 0.0
    signals: list[str] = field(default_factory=list)
    stops: int = 0
    stop_raises: Exception | None = None
    docker_fails: PortError | None = None
    store_fails: PortError | None = None
    # Whether the feature has a unit; None: systemd does not answer.
    unit: bool | None = True
    unit_looks: int = 0
    # The name of the local image that does not exist.
    no_image: str = ""

    async def read(self, feature: str, known: FeatureConfig | None = None) -> Stored:
        if self.store_fails is not None:
            raise self.store_fails
        return Stored(self.config, self.row, self.loading)

    async def write_row(self, feature: str, row: Row) -> None:
        self.row = row

    async def list(self, feature: str, granted: str = "") -> tuple[Container, ...]:
        if self.docker_fails is not None:
            raise self.docker_fails
        return self.containers

    async def start(self, container_id: str) -> None:
        """As Docker does, after the unit's script has replaced the container."""
        if container_id == LOCAL:
            self.containers = (replace(local(running=False), id=NEW),)
            raise Missing("Docker", f"No such container: {container_id}")
        self.containers = (replace(local(), id=NEW),)

    async def stop(self, container_id: str, grace_s: int) -> None:
        self.stops += 1
        # The limit ends a loop without a pause, which virtual time would never leave.
        if self.stop_raises is not None and self.stops < 100:
            raise self.stop_raises
        self.containers = (local(running=False, code=143),)

    async def kill(self, container_id: str, signal: str) -> None:
        """A container that is deaf to all but SIGKILL."""
        self.signals.append(signal)
        assert len(self.signals) < 5, "the same signal again and again"
        if signal == "KILL":
            self.containers = (local(running=False, code=137),)

    async def restart(self, feature: str) -> None:
        """A unit whose script creates no container."""

    async def makes_local(self, feature: str) -> bool:
        return await self.unit_exists(feature)

    async def missing_local(self, feature: str, made_from: str) -> str:
        return self.no_image

    async def unit_exists(self, feature: str) -> bool:
        self.unit_looks += 1
        if self.unit is None:
            raise Unavailable("systemd", "Failed to connect to bus")
        return self.unit

    def view(self, feature: str) -> LabelView:
        return LabelView()

    async def note_rollback(self, *_: object) -> None:
        pass

    async def forget(self, feature: str) -> None:
        pass


def around(world: World, log: Any = None) -> Surroundings:
    ledger = Ledger(PlainDisk(world.file, world.file_slow_s), "boot")
    ledger.load()
    return Surroundings(
        wakes=Wakes(),
        store=world,  # type: ignore[arg-type]
        containers=world,  # type: ignore[arg-type]
        units=world,  # type: ignore[arg-type]
        labels=world,  # type: ignore[arg-type]
        ledger=ledger,
        timing=Timing(backoff_s=0.01),
        always_local=frozenset(),
        runtime=Runtime(
            clock=asyncio.get_running_loop().time,
            wall=lambda: 1_700_000_000.0,
            rng=random.Random(1),
            log=log or logger(LogSettings(level="error")),
        ),
        images=world,  # type: ignore[arg-type]
    )


def reconciler_in(world: World) -> Reconciler:
    return Reconciler("snmp", around(world))
