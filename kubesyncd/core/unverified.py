"""Compare the record that a start of the daemon begins with to STATE_DB's row and to what runs.

The ledger may have been lost within the boot, or replaced by an older copy. It may also never have been written: then a
row of this boot is the only sign that this is not its first start. What runs decides then, over what the file says: the
running container that STATE_DB's row names is the owner, and any other running kube container counts as admitted unless
it asks again.

A row without a number is another program's (see core.migrated): ctrmgrd may have run the feature until now.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.migrated import local_owner, only_kube, owner_named, stands, taken_over
from kubesyncd.core.model import Mode, Owner, Row, Startup, SystemState
from kubesyncd.core.revision import ends, of_boot

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


@dataclass(frozen=True, slots=True)
class Unverified:
    """Mark a record that is to be compared with STATE_DB's row and with what runs, as each is at the daemon's start.

    `lost`: no file had it although the boot is not new; else it comes from the file. `first`: only a row of this boot
    would show that the boot is not new; without one, this is its first start. `since`: when it was compared with
    the row (BOOTTIME seconds); None: not yet. `containers`: running kube containers that may have been admitted, and
    have time to ask again. `spoken_at`: a verb has been recorded since, at that time; it stands, but not over a
    container that was started later, by a daemon that could not write its file. `unmanaged`: no file and no verb of
    this boot has told of the feature; until one does, a row without a number may be another program's. `kept`: it is,
    and it is left unchanged.
    """

    lost: bool = False
    first: bool = False
    since: float | None = None
    containers: tuple[str, ...] = ()
    spoken_at: float | None = None
    unmanaged: bool = False
    kept: bool = False

    @property
    def spoken(self) -> bool:
        """Whether a verb stands over STATE_DB's row."""
        return self.spoken_at is not None


def verified(
    record: Record, observed: Observation, timing: Timing, now: float, *, local_only: bool = False
) -> Record:
    """Return the record without its mark, as soon as what runs and STATE_DB's row have resolved it.

    `local_only`: the feature can only be local, so no kube container is taken over from another program.
    """
    mark = record.unverified
    if mark is None:
        return record
    if mark.since is None:
        if observed.row is None:
            return record
        if mark.unmanaged and not observed.row.revision:
            return _migrated(record, mark, observed.row, observed, now, local_only=local_only)
        record = _compared(record, mark, observed.row, observed, now)
        mark = record.unverified
    return record if mark is None else _resolved(record, mark, observed, timing, now)


def spoken(mark: Unverified | None, now: float) -> Unverified | None:
    """Return the mark after a verb: what the verb asks for stands."""
    return mark if mark is None or mark.since is not None else replace(mark, spoken_at=now)


def row_seen(record: Record) -> bool:
    """Return whether STATE_DB's row has been read for the record at least once, or need not be.

    `unmanaged` outlives that, where the row has told nothing; `first` does not.
    """
    mark = record.unverified
    return mark is None or mark.since is not None or (mark.unmanaged and not mark.first)


def keeps_row(record: Record) -> bool:
    """Return whether STATE_DB's row is another program's and is left unchanged."""
    return record.unverified is not None and record.unverified.kept


def shows_loss(record: Record, row: Row, boot: int) -> bool:
    """Return whether the row, not compared yet, shows that what looks like the boot's first start is none."""
    mark = record.unverified
    return mark is not None and mark.first and row.revision != 0 and of_boot(row.revision, boot)


def undecided(record: Record) -> Unverified | None:
    """Return the mark while nothing may be started or admitted for it."""
    mark = record.unverified
    return None if mark is None or mark.since is None else mark


def maybe_admitted(record: Record, observed: Observation) -> frozenset[str]:
    """Return the running kube containers that count as admitted although no record of it is left.

    Before STATE_DB's row is read, that is each one of a feature of which no file tells: the row may name it.
    """
    mark = record.unverified
    if mark is None:
        return frozenset()
    if mark.since is None:
        unknown = mark.lost or (mark.unmanaged and observed.row is None)
        may_be = observed.kube_running if unknown else ()
    else:
        may_be = mark.containers
    return frozenset(may_be).intersection(observed.kube_running).difference(observed.asking)


def unverified_deadline(record: Record, timing: Timing) -> float | None:
    """Return when the containers that have not asked again count as admitted."""
    mark = record.unverified
    return None if mark is None or mark.since is None else mark.since + timing.reask_s


def _migrated(
    record: Record, mark: Unverified, row: Row, observed: Observation, now: float, *, local_only: bool
) -> Record:
    """Take over what the row names, as soon as Docker confirms it; leave the row unchanged until then."""
    if mark.spoken or record.system_state is not SystemState.ABSENT:
        return replace(record, unverified=None)
    owner = owner_named(row, observed, local_only=local_only)
    if owner is not None:
        return taken_over(replace(record, unverified=None), row, owner, observed, now)
    kept = stands(row, observed, now, before=mark.kept)
    if observed.local_running and not kept:
        # The row that tells of it is this daemon's.
        return replace(record, unverified=None)
    marked = replace(mark, lost=False, first=False, kept=kept)
    return record if marked == mark else replace(record, unverified=marked)


def _compared(record: Record, mark: Unverified, row: Row, observed: Observation, now: float) -> Record:
    if row.revision and not of_boot(row.revision, observed.boot):
        row = Row()
    if mark.first and not row.revision:
        return replace(record, unverified=None)
    mark = replace(mark, first=False)
    owner = _owner(row, observed)
    if not mark.lost and not _is_newer(row, owner, record, observed, now):
        return replace(record, unverified=None)
    if not mark.lost and owner is not None and owner.owner is row.current_owner and _by_another(row, record):
        return _back(_without_containers(record), mark, row, owner, observed, now)
    if not mark.spoken or _started_since(mark, row, owner, observed, now):
        state = row.system_state
        if state is SystemState.ABSENT and observed.local_running:
            state = SystemState.UP
        # Where the row names the local container, the stop is over once that has ended.
        goes_on = owner is not None or row.current_owner is not Owner.LOCAL
        ending = state is SystemState.DOWN and ends(row.revision) and goes_on
        record = replace(record, system_state=state, mode=row.transition_mode, ending=ending)
    record = _without_containers(record)
    if owner is not None and owner.owner is Owner.KUBE and row.current_owner is Owner.KUBE:
        return _granted(record, owner.id, row, now)
    if observed.local_running:
        return record
    local = observed.local
    if local is not None and (row.transition_mode is Mode.NONE or local.unread):
        # A start may be under way: the row shows this mode before it, and Docker does not describe what it starts.
        record = replace(record, start=asked_start(local.id, local, now))
    # Before an admission, the row shows a unit that is up, and another mode.
    before = row.system_state is SystemState.DOWN or row.transition_mode is Mode.NONE
    nothing_ran = row.system_state is not SystemState.ABSENT and row.current_owner is Owner.NONE
    if nothing_ran and before:
        return record
    return replace(record, unverified=replace(mark, since=now, containers=observed.kube_running))


def _started_since(
    mark: Unverified, row: Row, owner: Container | None, observed: Observation, now: float
) -> bool:
    """Return whether the container that the row names, of a unit that is up, was started after the recorded verb."""
    changed_at = now - (observed.wall_s - row.update_ts)
    runs = owner is not None and row.system_state is SystemState.UP
    return runs and mark.spoken_at is not None and changed_at > mark.spoken_at


def _without_containers(record: Record) -> Record:
    """Return the record without its containers: what an older copy says is not known to be their last end."""
    return replace(record, unverified=None, grant="", granted_at=0.0, proven=False, local_id="", exit=None)


def _back(
    record: Record, mark: Unverified, row: Row, owner: Container, observed: Observation, now: float
) -> Record:
    """Take over what another program has run since this record, unless a verb has said otherwise."""
    state, follows = record.system_state, record.follows
    taken = replace(taken_over(record, row, owner, observed, now), ending=False)
    if mark.spoken:
        return replace(taken, system_state=state, ending=record.ending, follows=follows)
    return taken if row.system_state is SystemState.UP else replace(taken, system_state=row.system_state)


def _owner(row: Row, observed: Observation) -> Container | None:
    """Return the running container that the row names; it may do so without an ID."""
    if row.current_owner is Owner.LOCAL and not row.docker_id:
        return local_owner(observed)
    if not row.docker_id:
        return only_kube(row, observed)
    named = (c for c in observed.containers if row.docker_id and c.id.startswith(row.docker_id))
    return next((c for c in named if c.running), None)


def _is_newer(row: Row, owner: Container | None, record: Record, observed: Observation, now: float) -> bool:
    """Return whether the row tells of what the file does not know: the file is an older copy, or of other features.

    Each change is stored in the file before it is written to the row. A row without a number, as before an upgrade,
    counts if it names an owner that the file does not know; so does one that another program has changed since. A
    local container that its script has made again is the same owner.
    """
    if row.revision and row.revision != record.revision.number:
        return row.revision > record.revision.number
    if owner is None or owner.id in (record.grant, record.local_id) or record.grant in observed.kube_running:
        return False
    if owner.owner is record.owner is Owner.LOCAL and row.system_state is record.system_state:
        return False
    return row.update_ts >= max(record.owner_ts, observed.wall_s - now)


def _by_another(row: Row, record: Record) -> bool:
    """Return whether a newer row is another program's: ctrmgrd has run the feature while this daemon was not there.

    It knows no number. A file without one is from before an upgrade: such a row may be this daemon's.
    """
    return record.revision.number != 0 and row.revision in (0, record.revision.number)


def _resolved(record: Record, mark: Unverified, observed: Observation, timing: Timing, now: float) -> Record:
    """Take the newest container for the owner that has not asked again in time; one that asks was not admitted."""
    running = observed.kube_running
    left = tuple(c for c in running if c in mark.containers and c not in observed.asking)
    if not left:
        return replace(record, unverified=None)
    due = mark.since is not None and now >= mark.since + timing.reask_s
    # A stop waits for the end of what may have been admitted.
    if due or observed.local_running or record.system_state is SystemState.DOWN:
        return _granted(replace(record, unverified=None), left[0], observed.row, now)
    return replace(record, unverified=replace(mark, containers=left))


def _granted(record: Record, container_id: str, row: Row | None, now: float) -> Record:
    """Return the record with this owner. What runs was started for a unit that is up; its script may still wait."""
    down = record.system_state is SystemState.DOWN
    return replace(
        record,
        system_state=SystemState.DOWN if down else SystemState.UP,
        mode=Mode.READY,
        grant=container_id,
        granted_at=now,
        exit=None,
        unconfirmed=row is not None and row.startup is Startup.GO,
    )
