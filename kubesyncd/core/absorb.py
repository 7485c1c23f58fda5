"""Fold each observation of one feature into its record.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds). Nothing here decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.asked_start import OUTSTANDING_S, still_asked
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.gate import watch_gate
from kubesyncd.core.health import (
    another_image,
    crash_loop,
    forget_ended,
    how_ended,
    same_image,
    see_end,
    see_starts,
)
from kubesyncd.core.model import FailurePolicy, KubeLabel, Mode, Owner, SystemState
from kubesyncd.core.record import (
    Cause,
    Exit,
    cleared,
    complaint_against,
    failure_deadline,
    falls_back,
    lasted,
    local_barred,
    project,
    ruling_owner,
    settled,
    with_grant,
)
from kubesyncd.core.registration import registered_after
from kubesyncd.core.revision import revised
from kubesyncd.core.row_gate import maybe_past, see_startup, watch_row
from kubesyncd.core.stray import blocked, strays, watch_label_off
from kubesyncd.core.unasked_start import watch_unasked
from kubesyncd.core.unverified import verified

if TYPE_CHECKING:
    from kubesyncd.core.health import Health
    from kubesyncd.core.model import Container, FeatureConfig, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


def absorb(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Return the record after this observation: exits, clocks and failures are updated. Idempotent."""
    record = verified(record, observed, timing, now, local_only=config.local_only)
    record = _see_unasked(record, config, observed, now)
    asked = still_asked(record.start, observed, now)
    record = record if asked == record.start else replace(record, start=asked)
    record = _see_way_back(_see_start(_see_local(record, observed, now), observed, now), config, observed)
    record = _see_label_off(record, config, observed, timing, now)
    registered = registered_after(record.registered, observed)
    health = see_starts(record.health, observed.containers, timing, now)
    record = replace(record, health=health, registered=registered)
    record = _see_grant(record, config, observed, timing, now)
    record = _see_gone_on(record, config, observed, now)
    record = _see_refusal(see_startup(record, observed, timing.gate_after_s, now), observed, timing, now)
    record = replace(record, health=_see_health(record, config, observed))
    record = _keep_clocks(record, config, observed, now)
    judged = _judge(record, config, observed, timing, now)
    if judged.rolled_back is not record.rolled_back:
        # The ruling owner has changed, so other clocks run, and a local container may run again.
        judged = _see_unasked(judged, config, observed, now)
        judged = _see_label_off(judged, config, observed, timing, now)
        judged = _keep_clocks(judged, config, observed, now)
    record = judged
    row = project(record, observed)
    if row.current_owner is not record.owner:
        record = replace(record, owner=row.current_owner, owner_ts=observed.wall_s)
    revision = revised(record.revision, row, observed.row, observed.boot, ending=record.ending)
    return record if revision == record.revision else replace(record, revision=revision)


def _see_unasked(record: Record, config: FeatureConfig, observed: Observation, now: float) -> Record:
    """Note a start of the local container by another program, before its running counts as known."""
    barred = local_barred(config, record, observed)
    found = watch_unasked(
        record.unasked,
        observed,
        known=record.local_id,
        asked=record.start,
        barred=barred,
        now=now,
    )
    if ruling_owner(config, record) is not Owner.KUBE:
        found = None
    return record if found == record.unasked else replace(record, unasked=found)


def _see_local(record: Record, observed: Observation, now: float) -> Record:
    running = observed.local_running
    if record.local_id and record.local_id != running:
        ended = _exit_of(record, record.local_id, Owner.LOCAL, observed)
        # The requested end is done. The same container may be started again, and then crash.
        asked = record.asked if record.asked is not None and record.asked[0] != record.local_id else None
        record = replace(record, local_id="", asked=asked, exit=ended)
    if running:
        # It runs: its last exit no longer counts.
        last = None if record.exit is not None and record.exit.owner is Owner.LOCAL else record.exit
        record = replace(record, local_id=running, local_due=False, unit_restarted=False, exit=last)
    if observed.local is not None and not observed.local.unread:
        record = replace(record, local_image=observed.local.image)
    may_start = _may_start(observed, now) or record.start is not None
    kept = may_start or record.grant in observed.kube_running
    if record.ending and not running and not kept:
        record = replace(record, ending=False)
    return record


def _may_start(observed: Observation, now: float) -> bool:
    """Return whether Docker may still be starting the local container.

    A start without an answer counts no longer than it is outstanding; its failure stays known until it is tried again.
    """
    local, unanswered = observed.local, observed.start_unanswered
    unread = local is not None and bool(local.unread)
    old = unanswered is not None and now >= unanswered.at + OUTSTANDING_S
    return observed.local_may_start and (observed.local_starting or unread or not old)


def _see_label_off(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Watch whether kube containers come although Kubernetes must not run the feature; also see the gate."""
    up_local = record.system_state is SystemState.UP and ruling_owner(config, record) is Owner.LOCAL
    off = None
    if up_local or record.system_state is SystemState.DOWN:
        ended = {watch.container_id for watch in record.gates}.difference(observed.kube_running)
        asked = record.asked is not None and record.asked[0] in ended
        off = watch_label_off(record.off, observed, ended=asked, timing=timing, now=now)
    record = _see_gate(record, observed, now)
    if off is not None:
        waits = up_local and now >= off.after and blocked(observed, record.grant)
        if waits or strays(off, record.gates, observed, record.grant):
            off = replace(off, returned=True)
    return record if off == record.off else replace(record, off=off)


def _see_gate(record: Record, observed: Observation, now: float) -> Record:
    gates = watch_row(watch_gate(record.gates, observed, record.grant, now), record, observed)
    unpause = record.unpause and any(c.paused for c in observed.containers)
    if (gates, unpause) == (record.gates, record.unpause):
        return record
    return replace(record, gates=gates, unpause=unpause)


def _see_way_back(record: Record, config: FeatureConfig, observed: Observation) -> Record:
    """Note that Kubernetes must keep the feature, until a local container can take over for certain.

    Over the end of its container, too. A local one that exists is tried again then; where Docker refuses its start, a
    pod may come back, also where Kubernetes has made room for it.
    """
    keeps = record.grant in observed.kube_running or record.no_way_back
    missing = bool(observed.no_local) and keeps
    last = keeps or (record.exit is not None and record.exit.owner is Owner.KUBE)
    broken = last and record.unstartable is not None and falls_back(config, record)
    lost = record.system_state is SystemState.UP and (missing or broken)
    # A script that lacks its image makes no container: nothing was tried.
    tried = record.unit_restarted and not observed.no_way_back
    if (lost, tried) == (record.no_way_back, record.unit_restarted):
        return record
    return replace(record, no_way_back=lost, unit_restarted=tried)


def _see_start(record: Record, observed: Observation, now: float) -> Record:
    """Note a local container that cannot be started, until it has run: the row tells it over a restart.

    A start that Docker has not answered may still succeed. One that the host has hindered may succeed later: it counts
    as untried after a while, but not where a kube container would be ended for it.
    """
    local, mark, until = observed.local, record.unstartable, record.unstartable_until
    failed = observed.failure_of(ActionKind.START_LOCAL)
    if local is not None and failed is not None and failed.refused and failed.target == local.id:
        mark, until = (local.id, local.started, failed.text), failed.untried_at
    if local is None or local.running or (mark is not None and mark[:2] != (local.id, local.started)):
        mark = None
    keeps = record.grant in observed.kube_running or record.no_way_back
    if mark is None or (until is not None and now >= until and not keeps):
        mark = until = None
    if (mark, until) == (record.unstartable, record.unstartable_until):
        return record
    return replace(record, unstartable=mark, unstartable_until=until)


def _see_grant(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    if not record.grant:
        return _see_hand_over(record, config, observed, timing, now)
    if record.grant in observed.kube_running:
        return _see_run(record, timing, now)
    ended = _exit_of(record, record.grant, Owner.KUBE, observed)
    if lasted(record, timing, now):
        # Its end is the first of a row.
        record = settled(record)
    unwell = complaint_against(record, config)
    if _kube_wanted(record, config, observed) and (unwell or ended.cause is Cause.ITSELF):
        record = _end_noted(record, observed.container(record.grant), timing, now, unwell)
        record = _count_end(record, observed, timing, now, early=not record.proven, sick=bool(unwell))
    return replace(record, grant="", granted_at=0.0, proven=False, exit=ended)


def _see_gone_on(record: Record, config: FeatureConfig, observed: Observation, now: float) -> Record:
    """Take a container for admitted that may have gone on by the permission of an admitted one that has ended.

    Not while a local container runs or may be starting: it is not ended for that.
    """
    past = maybe_past(record, observed)
    if not past or record.grant or observed.local_running or record.start is not None:
        return record
    record = with_grant(record, past, now, by_row=observed.by_row)
    return record if _kube_wanted(record, config, observed) else replace(record, unconfirmed=False)


def _see_run(record: Record, timing: Timing, now: float) -> Record:
    """Note how long the admitted container has run well."""
    if record.unit_restarted:
        record = replace(record, unit_restarted=False)
    if record.health.complaint_about(record.grant) is not None:
        return record
    if not record.proven and now >= record.granted_at + timing.kube_stable_s:
        record = replace(record, proven=True, refuse_until=0.0, local_due=False, boot_fallback=False)
    if record.proven and (not record.health.ends or lasted(record, timing, now)):
        return settled(record)
    return record


def _kube_wanted(record: Record, config: FeatureConfig, observed: Observation) -> bool:
    """Return whether no verb, owner, rollback or reset has asked the kube container to end."""
    up = record.system_state is SystemState.UP and not observed.leaving
    return up and ruling_owner(config, record) is Owner.KUBE


def _count_end(
    record: Record, observed: Observation, timing: Timing, now: float, *, early: bool, sick: bool = False
) -> Record:
    """Refuse the next hand-over after an end of a kube container that is `early`, `sick` or part of a crash loop."""
    health = record.health
    if sick:
        record = replace(record, health=replace(health, sick=health.sick + 1))
    elif early or health.looping:
        record = replace(record, crashes=record.crashes + 1)
    else:
        return record
    return _refused(record, observed, timing, now)


def _see_hand_over(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Count a crash for a kube container that ends after the local one was stopped for it and before its admission."""
    # While a local container runs, no exit of it is recorded.
    made_room = record.mode is Mode.PENDING and record.exit is not None and record.exit.owner is Owner.LOCAL
    if observed.kube_running or not made_room or record.local_due:
        return record
    if not _kube_wanted(record, config, observed):
        return record
    kube = [c for c in observed.containers if c.owner is Owner.KUBE]
    newest = max(kube, key=lambda c: (c.started, c.id), default=None)
    return _count_end(_end_noted(record, newest, timing, now), observed, timing, now, early=True)


def _see_refusal(record: Record, observed: Observation, timing: Timing, now: float) -> Record:
    """Let the local container return where the admission that it made room for could not be stored."""
    if record.system_state is not SystemState.UP or observed.local_running:
        return replace(record, local_back=False) if record.local_back else record
    refused = observed.no_admission
    made_room = record.mode is Mode.PENDING and observed.local is not None
    # One that may be tried again is about to be.
    lasts = refused is not None and now < refused.again_at
    if refused is None or not lasts or record.local_back or not made_room:
        return record
    delay = _doubled(timing, refused.count - 1)
    return replace(record, local_back=True, refuse_until=max(record.refuse_until, now + delay))


def _end_noted(
    record: Record, container: Container | None, timing: Timing, now: float, unwell: str = ""
) -> Record:
    """Note the end of a kube container, which is None where Docker does not have it any more."""
    how = f"because it was unhealthy: {unwell}" if unwell else how_ended(container)
    pod = "" if container is None else container.pod
    return replace(record, health=see_end(record.health, how, timing, now, pod))


def _refused(record: Record, observed: Observation, timing: Timing, now: float) -> Record:
    """Let the local container return immediately; the delay before the next hand-over doubles each time."""
    times = record.crashes + record.health.sick - 1
    delay = _doubled(timing, times)
    return replace(record, refuse_until=now + delay, local_due=not observed.local_running)


def _doubled(timing: Timing, times: int) -> float:
    """Return the delay before the next hand-over (seconds)."""
    return min(timing.handover_delay_s * 2.0 ** min(times, 60), timing.handover_delay_s_max)


def _see_health(record: Record, config: FeatureConfig, observed: Observation) -> Health:
    health = forget_ended(record.health, observed.containers)
    counts = record.system_state is SystemState.UP and config.owner is Owner.KUBE and not record.proven
    return health if counts or not health.starts else replace(health, starts=())


def _exit_of(record: Record, container_id: str, owner: Owner, observed: Observation) -> Exit:
    container = observed.container(container_id)
    asked = record.asked
    cause = asked[1] if asked is not None and asked[0] == container_id else Cause.ITSELF
    return Exit(container_id, owner, None if container is None else container.exit_code, cause)


def _keep_clocks(record: Record, config: FeatureConfig, observed: Observation, now: float) -> Record:
    up = record.system_state is SystemState.UP
    granted = record.grant in observed.kube_running
    kube = ruling_owner(config, record) is Owner.KUBE
    idle_since: float | None = record.idle_since
    if not up or observed.local_running or record.proven:
        idle_since = None
    elif not granted and idle_since is None:
        idle_since = now
    bad_since: float | None = None
    if up and kube and not record.proven:
        bad_since = now if record.bad_since is None else record.bad_since
    coming = set(observed.kube_running) - strays(record.off, record.gates, observed, record.grant)
    must_end = coming if record.system_state is SystemState.DOWN else up and not kube and granted
    ending_since: float | None = None
    if must_end:
        ending_since = now if record.ending_since is None else record.ending_since
    clocks = (idle_since, bad_since, ending_since)
    if clocks == (record.idle_since, record.bad_since, record.ending_since):
        return record
    return replace(record, idle_since=idle_since, bad_since=bad_since, ending_since=ending_since)


def _judge(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Detect failure and recovery (the design document's section Failure detection)."""
    if config.owner is not Owner.KUBE:
        # Right after a boot the configuration may not be known yet.
        over = record.failure or record.rolled_back or record.health.looping
        return cleared(record) if over and record.system_state is not SystemState.ABSENT else record
    if record.rolled_back:
        return _see_rollback(record, observed)
    if not record.failure:
        record = replace(record, failure=_failure(record, config, timing, now))
    elif record.proven and record.health.complaint_about(record.grant) is None and not record.health.looping:
        record = replace(record, failure="")
    if record.failure and config.policy is FailurePolicy.ROLLBACK:
        health = record.health
        failed = replace(health, failed_image=health.image_id, failed_newest=health.newest, withdrawn=False)
        record = _see_rollback(replace(record, rolled_back=True, health=failed), observed)
    return record


def _failure(record: Record, config: FeatureConfig, timing: Timing, now: float) -> str:
    """Return why the feature counts as failed now; empty where it does not."""
    if record.system_state is not SystemState.UP:
        return ""
    complaint = record.health.complaint_about(record.grant)
    if complaint is not None:
        return f"the kube container is unhealthy: {complaint.reason} (says {complaint.source})"
    deadline = failure_deadline(record, config)
    if deadline is not None and now >= deadline:
        return f"no kube container has run for {config.failure_minutes} min"
    looping = crash_loop(record.health, timing, now)
    return f"crash-looping: {looping}" if looping else ""


def _see_rollback(record: Record, observed: Observation) -> Record:
    """Withdraw a rolled-back feature's label once; afterwards the API server owns it and may try another image.

    The node's own credential cannot read the manifest, so the image is judged by what the kubelet starts.
    """
    health, label = record.health, observed.label
    if another_image(health, observed.containers):
        return cleared(record)
    if health.withdrawn and label.value is KubeLabel.ON and same_image(health, observed.containers):
        return replace(record, health=replace(health, withdrawn=False))
    if not health.withdrawn and label.value is KubeLabel.OFF and not label.pending:
        return replace(record, health=replace(health, withdrawn=True))
    return record
