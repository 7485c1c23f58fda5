"""Build configs, records, containers and observations for the core's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubesyncd.core.absorb import absorb
from kubesyncd.core.asked_start import AskedStart
from kubesyncd.core.gate import GateWatch
from kubesyncd.core.health import Complaint, ContainerStart, Health
from kubesyncd.core.model import (
    Container,
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    SystemState,
    Timing,
)
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Exit, Record, StopStyle, project
from kubesyncd.core.revision import Revision, revised
from kubesyncd.core.state import State, Transition
from kubesyncd.core.unasked_start import UnaskedStart
from kubesyncd.core.unverified import Unverified

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
ROLLBACK = FeatureConfig(Owner.KUBE, fallback=True, failure_minutes=5, failure_policy=FailurePolicy.ROLLBACK)

HISTORY = (
    Transition(1790000000.25, State.UNKNOWN, State.LOCAL, "the local container runs"),
    Transition(1790000001.5, State.LOCAL, State.LOCAL_TO_KUBE, "kube has deployed"),
)

NO_IMAGE = "no local container exists, and its image docker-snmp:latest does not exist"

ON = LabelView(KubeLabel.ON)
OFF = LabelView(KubeLabel.OFF)


def local(*, running: bool = True, code: int | None = 0, **more: Any) -> Container:
    """The feature's local container."""
    return Container(LOCAL, Owner.LOCAL, running, None if running else code, "2026-01-01", **more)


def kube(
    container_id: str = KUBE,
    *,
    running: bool = True,
    code: int | None = 0,
    started: str = "2026-01-02",
    **more: Any,
) -> Container:
    """One of the feature's kube containers."""
    return Container(container_id, Owner.KUBE, running, None if running else code, started, **more)


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


def full(kube_id: str = KUBE, local_id: str = LOCAL) -> Record:
    """A record with a value other than the default in every field."""
    return Record(
        system_state=SystemState.UP,
        mode=Mode.READY,
        grant=kube_id,
        granted_at=12.5,
        proven=True,
        local_id=local_id,
        exit=Exit(local_id, Owner.LOCAL, 137, Cause.KILL),
        asked=(local_id, Cause.STOP),
        style=StopStyle(grace_s=5.0, signal="TERM", kubelet_check=False),
        ending=True,
        ending_since=1.0,
        idle_since=2.0,
        bad_since=3.0,
        crashes=4,
        refuse_until=5.0,
        local_due=True,
        unit_restarted=True,
        failure="no kube container has run for 5 min",
        rolled_back=True,
        health=Health(
            starts=(ContainerStart(kube_id, 11.0), ContainerStart(local_id, 12.0)),
            newest="2026-01-31T23:59:59Z",
            image_id=f"sha256:{kube_id}",
            complaints=(Complaint(kube_id, "container", "the agent does not answer: é"),),
            sick=1,
            failed_image=f"sha256:{local_id}",
            failed_newest="2026-01-30T00:00:00Z",
            withdrawn=True,
            ends=(14.0, 15.0),
            pods=("sonic/snmp-1", "sonic/snmp-2"),
            looping="3 ends within 15 min, the last one with exit code 3",
        ),
        adopted=f"sha256:{kube_id}",
        adopt_at=99.0,
        restored=f"sha256:{local_id}",
        boot_fallback=True,
        no_way_back=True,
        local_image="docker-snmp:latest",
        unstartable=(local_id, "2026-01-29T00:00:00Z", "no such program"),
        unstartable_until=96.0,
        unpause=True,
        gates=(
            GateWatch(
                kube_id,
                13.0,
                asked=True,
                asks="20251110.7",
                given_up=True,
                beside=True,
                told_since=14.0,
                late=True,
            ),
        ),
        start=AskedStart(local_id, "2026-01-29T00:00:00Z", 98.0),
        unverified=Unverified(
            lost=True,
            first=True,
            since=97.0,
            containers=(kube_id,),
            spoken_at=98.0,
            unmanaged=True,
            kept=True,
        ),
        local_back=True,
        follows=True,
        unasked=UnaskedStart(local_id, 95.0),
        revision=Revision(7, f"up kube kube_ready {kube_id[:12]}"),
        unconfirmed=True,
        version="20251110.7",
        owner=Owner.KUBE,
        owner_ts=1790000000,
    )


def observed(*containers: Container, **more: Any) -> Observation:
    """An observation. Unless said otherwise STATE_DB answers, and has what the record makes of it (see `look`)."""
    return Observation(
        **{"row": None, "joined": True, "kubelet": True, "label": OFF, "containers": containers, **more}
    )


def look(
    config: FeatureConfig, record: Record, seen: Observation, now: float = NOW
) -> tuple[Record, Observation]:
    """The record that has absorbed the look, and the look with STATE_DB saying what the record makes."""
    record = absorb(record, config, seen, TIMING, now)
    row = project(record, seen)
    record = replace(record, revision=revised(record.revision, row, row, seen.boot, ending=record.ending))
    return record, replace(seen, row=project(record, seen))


def plan(config: FeatureConfig, record: Record, seen: Observation, now: float = NOW) -> Plan:
    """What is decided at a look, STATE_DB being right already."""
    record, seen = look(config, record, seen, now)
    return decide(config, record, seen, TIMING, now, "snmp")
