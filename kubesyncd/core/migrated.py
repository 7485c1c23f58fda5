"""Take a feature over from another program that has run it in this boot: ctrmgrd.

ctrmgrd's scripts write STATE_DB's row as well, without a number (see core.revision). The row alone is not trusted: the
container that it names must run, as one of this feature. So nothing starts, ends or is admitted for a row.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.gate import GateWatch
from kubesyncd.core.model import Mode, Owner, Row, Startup, SystemState

if TYPE_CHECKING:
    from kubesyncd.core.model import Container
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


def owner_named(row: Row, observed: Observation, *, local_only: bool) -> Container | None:
    """Return the running container that the row names as the owner of a feature whose unit is up.

    None where Docker does not confirm it. Where a local container runs too, the kube one may not be past its gate.
    """
    if row.system_state is not SystemState.UP:
        return None
    if row.current_owner is Owner.LOCAL:
        return local_owner(observed)
    if row.current_owner is not Owner.KUBE or observed.local_running or local_only:
        return None
    if not row.docker_id:
        return only_kube(row, observed)
    return next((c for c in observed.containers if c.running and c.id.startswith(row.docker_id)), None)


def local_owner(observed: Observation) -> Container | None:
    """Return the running local container of a row whose owner is local: such a row may hold no ID.

    None where Docker has started it by its restart policy, or where it is being ended.
    """
    running = (c for c in observed.containers if c.owner is Owner.LOCAL and c.running)
    return next((c for c in running if not c.by_policy and c.id not in observed.being_ended), None)


def only_kube(row: Row, observed: Observation) -> Container | None:
    """Return the owner by a row that says kube without an ID: the only container of the feature that runs.

    The start-up script in a kube container finds no ID of its own on cgroup v2. None where the row does not say that
    this script has gone on, and where the container waits to be admitted.
    """
    said = row.current_owner is Owner.KUBE and row.transition_mode is Mode.READY
    running = [c for c in observed.containers if c.running]
    if not said or row.startup is not Startup.NONE or len(running) != 1:
        return None
    only = running[0]
    waits = only.id in observed.waiting | observed.being_ended or any(
        c == only.id for c, _ in observed.row_asks
    )
    return only if only.owner is Owner.KUBE and not waits else None


def taken_over(record: Record, row: Row, owner: Container, observed: Observation, now: float) -> Record:
    """Return the record of the feature that `owner` runs. Of the row, nothing changes."""
    # It has passed another program's gate, by this version.
    passed = (GateWatch(owner.id, now, asked=True, asks=row.version),) if owner.owner is Owner.KUBE else ()
    record = replace(
        record,
        system_state=SystemState.UP,
        owner=owner.owner,
        owner_ts=row.update_ts or observed.wall_s,
        follows=True,
        gates=(*(watch for watch in record.gates if watch.container_id != owner.id), *passed),
    )
    if owner.owner is Owner.KUBE:
        return replace(record, mode=Mode.READY, grant=owner.id, granted_at=now)
    # A kube container may wait in the row's own protocol.
    mode = Mode.PENDING if row.transition_mode is Mode.PENDING else Mode.NONE
    return replace(record, mode=mode, local_id=owner.id)


def stands(row: Row, observed: Observation, now: float, *, before: bool) -> bool:
    """Return whether a row without a number tells of this boot: it is left to the program that wrote it.

    `before`: it did at the last observation; the wall clock may have been set since.
    """
    told = replace(row, update_ts=0, failure="") != Row()
    return told and (before or row.update_ts >= observed.wall_s - now)
