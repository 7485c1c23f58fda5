"""Compare the record that a start of the daemon begins with to STATE_DB's row and to what runs.

The ledger may have been lost within the boot, or replaced by an older copy. What runs decides then, over what the file
says: the running container that STATE_DB's row names is the owner, and any other running kube container counts as
admitted unless it asks again.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.model import Mode, Owner, SystemState

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, Row, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a record may not be what happened last.

    `lost`: no file had it although the boot is not new; else it comes from the file. `since`: when it was compared with
    the row (BOOTTIME seconds); None: not yet. `containers`: running kube containers that may have been admitted, and
    have time to ask again.
    """

    lost: bool = False
    since: float | None = None
    containers: tuple[str, ...] = ()


def verified(record: Record, observed: Observation, timing: Timing, now: float) -> Record:
    """Return the record without its doubt, as soon as what runs and STATE_DB's row have resolved it."""
    doubt = record.doubt
    if doubt is None:
        return record
    if doubt.since is None:
        if observed.row is None:
            return record
        record = _compared(replace(record, doubt=None), doubt, observed.row, observed, now)
        doubt = record.doubt
    return record if doubt is None else _resolved(record, doubt, observed, timing, now)


def undecided(record: Record) -> Doubt | None:
    """Return the doubt while nothing may be started or admitted for it."""
    return record.doubt if record.doubt is not None and record.doubt.since is not None else None


def may_be_admitted(record: Record, observed: Observation) -> bool:
    """Return whether a running kube container counts as admitted although no record of it is left."""
    doubt = record.doubt
    if doubt is None or not doubt.lost:
        return False
    unknown = observed.kube_running if doubt.since is None else doubt.containers
    return any(c in observed.kube_running and c not in observed.waiting for c in unknown)


def doubt_deadline(record: Record, timing: Timing) -> float | None:
    """Return when the containers that have not asked again count as admitted."""
    doubt = record.doubt
    return None if doubt is None or doubt.since is None else doubt.since + timing.reask_s


def _compared(record: Record, doubt: Doubt, row: Row, observed: Observation, now: float) -> Record:
    owner = _owner(row, observed)
    if not doubt.lost and not _is_newer(row, owner, record, observed, now):
        return record
    if not _spoken(record, doubt):
        state = row.system_state
        if state is SystemState.ABSENT and observed.local_running:
            state = SystemState.UP
        record = replace(record, system_state=state, mode=row.transition_mode)
    record = replace(record, grant="", granted_at=0.0, proven=False)
    if owner is not None and owner.owner is Owner.KUBE and row.current_owner is Owner.KUBE:
        return _granted(record, owner.id, now)
    if observed.local_running:
        return record
    local = observed.local
    if local is not None:
        # A start may be under way. A stop ends what it starts.
        down = record.system_state is SystemState.DOWN
        asked = asked_start(local.id, local, now)
        record = replace(record, start=asked, ending=down)
    # Before an admission, the row shows a unit that is up, and another mode.
    before = row.system_state is SystemState.DOWN or row.transition_mode is Mode.NONE
    nothing_ran = row.system_state is not SystemState.ABSENT and row.current_owner is Owner.NONE
    if nothing_ran and before:
        return record
    return replace(record, doubt=Doubt(lost=True, since=now, containers=observed.kube_running))


def _owner(row: Row, observed: Observation) -> Container | None:
    """Return the running container that the row names."""
    named = (c for c in observed.containers if row.docker_id and c.id.startswith(row.docker_id))
    return next((c for c in named if c.running), None)


def _is_newer(row: Row, owner: Container | None, record: Record, observed: Observation, now: float) -> bool:
    """Return whether the row tells of an owner that the file does not know: the file is an older copy.

    Each change is stored in the file before it is written to the row. A row of an earlier boot tells nothing.
    """
    if owner is None or owner.id in (record.grant, record.local_id) or record.grant in observed.kube_running:
        return False
    return row.update_ts >= max(record.owner_ts, observed.wall_s - now)


def _spoken(record: Record, doubt: Doubt) -> bool:
    """Return whether a verb has been recorded since the daemon's start, or was under way."""
    return record.system_state is not SystemState.ABSENT if doubt.lost else record.ending


def _resolved(record: Record, doubt: Doubt, observed: Observation, timing: Timing, now: float) -> Record:
    """Take the newest container for the owner that has not asked again in time; one that asks was not admitted."""
    running = observed.kube_running
    left = tuple(c for c in running if c in doubt.containers and c not in observed.waiting)
    if not left:
        return replace(record, doubt=None)
    due = doubt.since is not None and now >= doubt.since + timing.reask_s
    # A stop waits for the end of what may have been admitted.
    if due or observed.local_running or record.system_state is SystemState.DOWN:
        return _granted(replace(record, doubt=None), left[0], now)
    return replace(record, doubt=replace(doubt, containers=left))


def _granted(record: Record, container_id: str, now: float) -> Record:
    """Return the record with this owner. What runs was started for a unit that is up."""
    down = record.system_state is SystemState.DOWN
    return replace(
        record,
        system_state=SystemState.DOWN if down else SystemState.UP,
        mode=Mode.READY,
        grant=container_id,
        granted_at=now,
        exit=None,
    )
