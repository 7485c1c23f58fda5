"""Build configs, records, containers and observations for the core's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubesyncd.core.model import (
    Container,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    SystemState,
    Timing,
)
from kubesyncd.core.observation import Facts
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Record, absorb, project

if TYPE_CHECKING:
    from kubesyncd.core.actions import Plan

NOW = 100_000.0
TIMING = Timing()
LOCAL = "10ca1" * 12 + "0000"
KUBE = "aaaa" * 16
KUBE2 = "bbbb" * 16

LOCAL_CONFIG = FeatureConfig()
KUBE_CONFIG = FeatureConfig(set_owner=Owner.KUBE)
FALLBACK = FeatureConfig(set_owner=Owner.KUBE, fallback=True)

ON = LabelView(KubeLabel.ON)
OFF = LabelView(KubeLabel.OFF)


def local(*, running: bool = True, code: int | None = 0, **more: Any) -> Container:
    """The feature's local container."""
    return Container(LOCAL, Owner.LOCAL, running, None if running else code, "2026-01-01", **more)


def kube(
    container_id: str = KUBE, *, running: bool = True, code: int | None = 0, started: str = "2026-01-02"
) -> Container:
    """One of the feature's kube containers."""
    return Container(container_id, Owner.KUBE, running, None if running else code, started)


def up(**more: Any) -> Record:
    """A feature whose unit is up."""
    return Record(**{"system_state": SystemState.UP, **more})


def down(**more: Any) -> Record:
    """A feature whose unit is down."""
    return Record(system_state=SystemState.DOWN, **more)


def granted(**more: Any) -> Record:
    """A feature that KUBE owns, since long ago."""
    return up(
        **{"mode": Mode.READY, "grant": KUBE, "granted_at": 1.0, "proven": True, "owner": Owner.KUBE, **more}
    )


def facts(*containers: Container, **more: Any) -> Facts:
    """An observation. Unless said otherwise STATE_DB answers, and has what the record makes of it (see `look`)."""
    return Facts(
        **{"row": None, "joined": True, "kubelet": True, "label": OFF, "containers": containers, **more}
    )


def look(config: FeatureConfig, record: Record, seen: Facts, now: float = NOW) -> tuple[Record, Facts]:
    """The record that has absorbed the look, and the look with STATE_DB saying what the record makes."""
    record = absorb(record, config, seen, TIMING, now)
    return record, replace(seen, row=project(record, seen))


def plan(config: FeatureConfig, record: Record, seen: Facts, now: float = NOW) -> Plan:
    """What is decided at a look, STATE_DB being right already."""
    record, seen = look(config, record, seen, now)
    return decide(config, record, seen, TIMING, now)
