"""Follow the kube containers whose start-up script asks by STATE_DB's row to be admitted, as SONiC's own images do.

Knows no clock, no client, no coroutine. Such a script writes its image's version and `Startup.WAIT` to the row, goes on
at `Startup.GO`, and then reports itself as the owner. It names no container when it asks: what runs tells which one it
is. It gives up for ever where the row has another version. Every script that reads `Startup.GO` goes on, also one that
starts a moment later. So it is written only while the admitted container is the only one of the feature, taken back
when another one is observed, and stands at the longest for the time in which that script must have read it. Where the
admitted one ends before that, another one may have read it unseen: it counts as admitted. What a script says of its ID
is not used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.gate import GateWatch
from kubesyncd.core.model import Mode, Owner, Startup, SystemState

if TYPE_CHECKING:
    from kubesyncd.core.model import Row
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


def with_row_asks(record: Record, observed: Observation) -> Observation:
    """Return the observation with the kube containers whose script waits at the row, and their versions."""
    if not observed.by_row:
        return observed
    waiting = _remembered(record, observed)
    return replace(observed, row_asks=(*waiting, *_new_asks(record, replace(observed, row_asks=waiting))))


def watch_row(gates: tuple[GateWatch, ...], record: Record, observed: Observation) -> tuple[GateWatch, ...]:
    """Return the watches with what each container has asked by the row, and whether its script has given up."""
    if not observed.by_row:
        return tuple(GateWatch(watch.container_id, watch.since, watch.asked) for watch in gates)
    asks = dict(observed.row_asks)
    known = {watch.container_id for watch in record.gates}

    def seen(watch: GateWatch) -> GateWatch:
        if watch.container_id in observed.waiting:
            return replace(watch, asks="", given_up=False, maybe_past=False)
        # A script that finds `Startup.GO` when it starts compares no version.
        if record.revision.admits and watch.container_id not in known and watch.container_id != record.grant:
            watch = replace(watch, maybe_past=True)
        version = watch.asks or asks.get(watch.container_id, "")
        # What the admitted one does is not known: it may serve, and is left to the kubelet.
        lost = version and (watch.given_up or _another_version(version, observed.row))
        return replace(watch, asks=version, given_up=bool(lost) and watch.container_id != record.grant)

    return tuple(seen(watch) for watch in gates)


def maybe_past(record: Record, observed: Observation) -> str:
    """Return the newest running kube container that may have gone on by the permission of another one, or empty."""
    past = {watch.container_id for watch in record.gates if watch.maybe_past}
    return next((c for c in observed.kube_running if c in past), "")


def shown(record: Record, observed: Observation) -> tuple[Startup, str]:
    """Return what the row says to start-up scripts, and the version that it names."""
    if not observed.by_row:
        return Startup.NONE, ""
    admitted = record.unconfirmed and record.grant in observed.kube_running and not _late(record)
    asks = dict(observed.row_asks)
    if admitted:
        asks[record.grant] = _asks(record, record.grant)
    newest = next((asks[c] for c in observed.kube_running if asks.get(c)), record.version)
    if admitted:
        return (Startup.GO if _alone(record, observed) else Startup.WAIT), newest
    return (Startup.WAIT if asks else Startup.NONE), newest


def see_startup(record: Record, observed: Observation, gate_after_s: float, now: float) -> Record:
    """Note whether the script of the admitted container has gone on, and the version of the image that runs.

    Where it has not for `gate_after_s` of being told to, it is late, and one that has never asked has no such script.
    """
    if not observed.by_row:
        return replace(record, unconfirmed=False, version="")
    running = record.grant in observed.kube_running
    waits = record.unconfirmed and not _late(record)
    again = running and not waits and _asks_again(record, observed)
    unconfirmed = running and (again or (record.unconfirmed and _unconfirmed(record, observed)))
    gates = _told(replace(record, unconfirmed=unconfirmed), observed, gate_after_s, now, again=again)
    gates = _seen_beside(replace(record, unconfirmed=unconfirmed, gates=gates), observed)
    silent = any(w.late and not w.asks for w in gates)
    unconfirmed = unconfirmed and not silent
    version = record.version
    owner = observed.container(record.grant if running else observed.local_running)
    if owner is not None and not owner.unread:
        version = (_asks(record, owner.id) if running else "") or owner.version
    if (unconfirmed, gates, version) == (record.unconfirmed, record.gates, record.version):
        return record
    return replace(record, unconfirmed=unconfirmed, gates=gates, version=version)


def waits_at_row(record: Record, container_id: str) -> bool:
    """Return whether this container, once admitted, has to be told by the row: it has not asked over the socket."""
    watch = _watch_of(record, container_id)
    return bool(watch.asks) or not watch.asked


def given_up(record: Record, observed: Observation) -> str:
    """Return the one kube container that runs, where its script has given up waiting to be admitted; else empty.

    Beside another one it is left: each would make the other's script give up.
    """
    running = observed.kube_running
    if len(running) != 1 or running[0] in observed.being_ended:
        return ""
    return running[0] if any(w.given_up and w.container_id == running[0] for w in record.gates) else ""


def stuck(record: Record) -> bool:
    """Return whether the script of the admitted container has been told to go on for long enough, and has not."""
    return record.unconfirmed and _late(record)


def told_since(record: Record) -> float | None:
    """Return since when the row has told the admitted container's script to go on (BOOTTIME seconds); None: not now."""
    return _watch_of(record, record.grant).told_since


def dry_runs(observed: Observation) -> frozenset[str]:
    """Return the kube containers of the version that runs locally: SONiC's script never lets such a one go on.

    Where no local container runs, an equal version proves nothing: the local one may be made from the kube image.
    """
    local = observed.local if observed.by_row else None
    version = local.version if local is not None and local.running else ""
    kube = (c for c in observed.containers if c.owner is Owner.KUBE and c.running)
    return frozenset(c.id for c in kube if version and c.version == version)


def _remembered(record: Record, observed: Observation) -> tuple[tuple[str, str], ...]:
    return tuple(
        (watch.container_id, watch.asks)
        for watch in record.gates
        if watch.asks
        and not watch.given_up
        and _may_ask(watch.container_id, record, observed)
        and not _another_version(watch.asks, observed.row)
    )


def _new_asks(record: Record, observed: Observation) -> tuple[tuple[str, str], ...]:
    """Return the containers that must have written the row: not what this daemon has written, nor another container."""
    row, (startup, version) = observed.row, shown(record, observed)
    if row is None or not row.version:
        return ()
    waits = row.startup is Startup.WAIT
    asks = waits and startup is not Startup.WAIT and record.mode is not Mode.PENDING
    # A script that finds the row at Startup.WAIT writes only its version. A row that is to be written is not judged.
    written = row.revision == record.revision.number
    named = written and row.version != version and (waits or row.current_owner is not Owner.KUBE)
    known = {watch.container_id for watch in record.gates if watch.asks}
    new = [c for c in observed.containers if c.id not in known and _may_ask(c.id, record, observed)]
    meant = [c for c in new if ((asks or named) and c.version == row.version) or (asks and not c.version)]
    return tuple((c.id, row.version) for c in meant)


def _may_ask(container_id: str, record: Record, observed: Observation) -> bool:
    """Return whether it runs, is not admitted, and does not ask over the socket."""
    running = container_id in observed.kube_running
    return running and container_id != record.grant and container_id not in observed.waiting


def _another_version(version: str, row: Row | None) -> bool:
    return row is not None and row.version != version


def _alone(record: Record, observed: Observation) -> bool:
    up = record.system_state is SystemState.UP
    return (
        up
        and observed.kube_running == (record.grant,)
        and not observed.local_running
        and record.start is None
    )


def _unconfirmed(record: Record, observed: Observation) -> bool:
    """Return whether the script of the admitted container has not reported itself as the owner yet.

    This daemon writes no such row while that is so. An image without such a script reports nothing.
    """
    silent = not _watch_of(record, record.grant).asked
    if record.grant in observed.waiting or (record.proven and silent):
        return False
    if _late(record):
        # The row is this daemon's.
        return True
    row = observed.row
    if row is None or row.startup is not Startup.NONE:
        return True
    return row.current_owner is not Owner.KUBE or not record.grant.startswith(row.docker_id)


def _asks_again(record: Record, observed: Observation) -> bool:
    """Return whether the admitted container asks once more, as one does whose start-up script is run again.

    It has written the row only where this daemon has not, and no other container that runs can have.
    """
    row = observed.row
    if row is None or row.startup is not Startup.WAIT or row.current_owner is not Owner.KUBE:
        return False
    running = [c for c in observed.containers if c.id in observed.kube_running]
    may = {c.id for c in running if (_asks(record, c.id) or c.version) in ("", row.version)}
    return not _watch_of(record, record.grant).beside and may == {record.grant}


def _late(record: Record) -> bool:
    return _watch_of(record, record.grant).late


def _told(
    record: Record, observed: Observation, gate_after_s: float, now: float, *, again: bool
) -> tuple[GateWatch, ...]:
    """Return the watches with since when the row tells the admitted container's script to go on, and if it is late."""
    row, grant = observed.row, record.grant
    reads = row is not None and row.startup is Startup.GO and not observed.paused(grant)
    tells = reads and record.unconfirmed and _alone(record, observed)

    def seen(watch: GateWatch) -> GateWatch:
        owns = watch.container_id == grant and record.unconfirmed
        late = owns and watch.late and not again
        since = None
        if owns and tells and not late:
            since = now if watch.told_since is None else watch.told_since
        late = late or (since is not None and now >= since + gate_after_s)
        asks = watch.asks or (row.version if row is not None and again and owns else "")
        return replace(watch, asks=asks, told_since=None if late else since, late=late)

    return tuple(seen(watch) for watch in record.gates)


def _seen_beside(record: Record, observed: Observation) -> tuple[GateWatch, ...]:
    """Return the watches with whether the row may still say `Startup.WAIT` because this daemon has written it."""
    row, waits = observed.row, shown(record, observed)[0] is Startup.WAIT
    unread = row is None or row.startup is Startup.WAIT

    def seen(watch: GateWatch) -> GateWatch:
        owns = watch.container_id == record.grant
        return replace(watch, beside=owns and (waits or (watch.beside and unread)))

    return tuple(seen(watch) for watch in record.gates)


def _asks(record: Record, container_id: str) -> str:
    return _watch_of(record, container_id).asks


def _watch_of(record: Record, container_id: str) -> GateWatch:
    """Return the watch of this container; where it is not watched, one that tells nothing of it."""
    nothing = GateWatch(container_id, 0.0, asked=True)
    return next((watch for watch in record.gates if watch.container_id == container_id), nothing)
