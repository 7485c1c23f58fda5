"""Record one feature: fold each observation into its record, and project the record to its row.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds). `absorb` folds what was
observed into the record, `project` derives the STATE_DB row from both. Nothing here decides.

The ledger keeps the record until the next boot, so a restart of the daemon is one more observation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.health import (
    WELL,
    Complaint,
    Health,
    another_image,
    complain,
    crash_loop,
    forget_ended,
    praise,
    same_image,
    see_starts,
)
from kubesyncd.core.model import (
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    Mode,
    Owner,
    Row,
    SystemState,
    Timing,
)
from kubesyncd.core.state import State, classify

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation


class Cause(StrEnum):
    """Why a container ended."""

    ITSELF = "itself"
    STOP = "stop"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Exit:
    """The last end of a container that owned the feature; `code` None: not observed."""

    container_id: str
    owner: Owner
    code: int | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class StopStyle:
    """How to bring the feature down: an empty `signal` means docker stop, else docker kill.

    `kubelet_check` False: labels and the kubelet are left unchanged (reboot scripts cannot wait for them).
    """

    grace_s: float | None = None
    signal: str = ""
    kubelet_check: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """The ledger's entry for one feature. Times are BOOTTIME seconds, `owner_ts` seconds since the epoch.

    `grant`: the admitted kube container, until Docker reports its end. `proven`: it has stayed
    up `kube_stable_s`. `asked`: the container last asked to end, and how. `ending`: a stop or kill is
    still being carried out. `local_due`: the next fallback is immediate. `unit_restarted`: the unit was asked
    once to create a local container, and nothing has run since. `adopted`: the image last made the local one;
    after a failure the adoption is not repeated before `adopt_at`. `restored`: the failed image that has been, or
    cannot be, replaced as the local one. `boot_fallback`: a prepared reboot promised an immediate local container,
    until a kube container has proven stable again.
    """

    system_state: SystemState = SystemState.ABSENT
    mode: Mode = Mode.NONE
    grant: str = ""
    granted_at: float = 0.0
    proven: bool = False
    local_id: str = ""
    exit: Exit | None = None
    asked: tuple[str, Cause] | None = None
    style: StopStyle = StopStyle()
    ending: bool = False
    ending_since: float | None = None
    idle_since: float | None = None
    bad_since: float | None = None
    crashes: int = 0
    refuse_until: float = 0.0
    local_due: bool = False
    unit_restarted: bool = False
    failure: str = ""
    rolled_back: bool = False
    health: Health = WELL
    adopted: str = ""
    adopt_at: float = 0.0
    restored: str = ""
    boot_fallback: bool = False
    owner: Owner = Owner.NONE
    owner_ts: int = 0

    @property
    def local_exited(self) -> bool:
        """Whether the last container to end was a local one that ended by itself."""
        return self.exit is not None and self.exit.owner is Owner.LOCAL and self.exit.cause is Cause.ITSELF


def ruling_owner(config: FeatureConfig, record: Record) -> Owner:
    """Return the owner that should run the feature.

    A rolled-back feature is local until the operator or a new image clears the failure.
    """
    return Owner.LOCAL if record.rolled_back else config.owner


def local_wanted(config: FeatureConfig, record: Record) -> bool:
    """Return whether a local container should run while no kube container runs."""
    if ruling_owner(config, record) is Owner.LOCAL or config.fallback or record.boot_fallback:
        return True
    return bool(record.failure) and config.policy is FailurePolicy.SWITCH_TO_LOCAL


def project(record: Record, observed: Observation) -> Row:
    """Derive the STATE_DB row from record and containers."""
    if record.grant and record.grant in observed.kube_running:
        owner, docker_id = Owner.KUBE, record.grant
    elif observed.local_running:
        owner, docker_id = Owner.LOCAL, observed.local_running
    else:
        owner, docker_id = Owner.NONE, ""
    return Row(
        system_state=record.system_state,
        current_owner=owner,
        transition_mode=record.mode,
        docker_id=docker_id,
        update_ts=record.owner_ts,
        failure=record.failure or _said_of_local(record, observed),
    )


def state_of(config: FeatureConfig, record: Record, observed: Observation) -> State:
    """Return the feature's state by record and Docker (not by the current STATE_DB row)."""
    return classify(project(record, observed), ruling_owner(config, record), local_exited=record.local_exited)


def _said_of_local(record: Record, observed: Observation) -> str:
    """Return the complaint about the local container as failure text; the unit, not the planner, acts on it."""
    complaint = record.health.complaint_about(observed.local_running)
    if complaint is None:
        return ""
    return f"the local container is unhealthy: {complaint.reason} (says {complaint.source})"


def with_mode(record: Record, mode: Mode) -> Record:
    """Return the record after the reconciler has set another mode; an earlier local exit is cleared."""
    local = record.exit is not None and record.exit.owner is Owner.LOCAL
    return replace(record, mode=mode, exit=None if local else record.exit)


def with_grant(record: Record, container_id: str, now: float) -> Record:
    """Return the record after the reconciler has admitted this kube container."""
    return replace(with_mode(record, Mode.READY), grant=container_id, granted_at=now, proven=False)


def hear(record: Record, *, said: Complaint, well: bool) -> Record:
    """Return the record after a complaint about a container, or after its withdrawal (`well`)."""
    if well:
        return replace(record, health=praise(record.health, said.container_id, said.source))
    return replace(record, health=complain(record.health, said))


def cleared(record: Record) -> Record:
    """Return the record with its failure cleared: Kubernetes may run the feature again immediately."""
    health = replace(
        record.health, starts=(), sick=0, failed_image="", failed_newest="", withdrawn=False, complaints=()
    )
    return replace(
        record,
        failure="",
        rolled_back=False,
        bad_since=None,
        crashes=0,
        refuse_until=0.0,
        restored="",
        health=health,
    )


def rolled_back(record: Record, failure: str, failed_image: str, failed_newest: str) -> Record:
    """Return the first record of a boot for a feature that was rolled back before it."""
    health = Health(failed_image=failed_image, failed_newest=failed_newest, newest=failed_newest)
    return replace(record, failure=failure, rolled_back=True, health=health)


def absorb(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Return the record after this observation: exits, clocks and failures are updated. Idempotent."""
    record = _see_local(record, observed)
    record = replace(record, health=see_starts(record.health, observed.containers, timing, now))
    record = _see_grant(record, config, observed, timing, now)
    record = replace(record, health=_see_health(record, config, observed))
    record = _keep_clocks(record, config, observed, now)
    judged = _judge(record, config, observed, timing, now)
    if judged.rolled_back is not record.rolled_back:
        # The ruling owner has changed, so other clocks run.
        judged = _keep_clocks(judged, config, observed, now)
    record = judged
    owner = project(record, observed).current_owner
    if owner is not record.owner:
        record = replace(record, owner=owner, owner_ts=observed.wall_s)
    return record


def _see_local(record: Record, observed: Observation) -> Record:
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
    if record.ending and not running and record.grant not in observed.kube_running:
        record = replace(record, ending=False)
    return record


def _see_grant(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    if not record.grant:
        return _see_hand_over(record, config, observed, timing, now)
    if record.grant in observed.kube_running:
        if record.unit_restarted:
            record = replace(record, unit_restarted=False)
        well = record.health.complaint_about(record.grant) is None
        if not record.proven and well and now >= record.granted_at + timing.kube_stable_s:
            record = replace(
                record, proven=True, crashes=0, refuse_until=0.0, local_due=False, boot_fallback=False
            )
        return record
    ended = _exit_of(record, record.grant, Owner.KUBE, observed)
    wanted = record.system_state is SystemState.UP and ruling_owner(config, record) is Owner.KUBE
    if wanted and complaint_against(record, config):
        # A container that was healthy for long does not continue the row of unhealthy ones.
        before = record.health.sick if now - record.granted_at < timing.handover_delay_s_max else 0
        record = replace(record, health=replace(record.health, sick=before + 1))
        record = _refused(record, observed, timing, now)
    elif wanted and not record.proven and ended.cause is Cause.ITSELF:
        record = _refused(replace(record, crashes=record.crashes + 1), observed, timing, now)
    return replace(record, grant="", granted_at=0.0, proven=False, exit=ended)


def _see_hand_over(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Count a crash for a kube container that ends after the local one was stopped for it and before its admission."""
    made_room = record.mode is Mode.PENDING and record.exit is not None and record.exit.owner is Owner.LOCAL
    runs = observed.local_running or observed.kube_running
    wanted = record.system_state is SystemState.UP and ruling_owner(config, record) is Owner.KUBE
    if runs or not wanted or not made_room or record.local_due:
        return record
    return _refused(replace(record, crashes=record.crashes + 1), observed, timing, now)


def complaint_against(record: Record, config: FeatureConfig) -> str:
    """Return why the local container has to replace the admitted one; empty where it need not."""
    complaint = record.health.complaint_about(record.grant)
    return complaint.reason if complaint and config.policy is FailurePolicy.SWITCH_TO_LOCAL else ""


def _refused(record: Record, observed: Observation, timing: Timing, now: float) -> Record:
    """Let the local container return immediately; the delay before the next hand-over doubles each time."""
    times = record.crashes + record.health.sick - 1
    delay = min(timing.handover_delay_s * 2.0 ** min(times, 60), timing.handover_delay_s_max)
    return replace(record, refuse_until=now + delay, local_due=not observed.local_running)


def _see_health(record: Record, config: FeatureConfig, observed: Observation) -> Health:
    health = forget_ended(record.health, observed.containers)
    counts = record.system_state is SystemState.UP and config.owner is Owner.KUBE and not record.proven
    return health if counts or not health.starts else replace(health, starts=())


def _exit_of(record: Record, container_id: str, owner: Owner, observed: Observation) -> Exit:
    code = next((c.exit_code for c in observed.containers if c.id == container_id and not c.running), None)
    asked = record.asked
    cause = asked[1] if asked is not None and asked[0] == container_id else Cause.ITSELF
    return Exit(container_id, owner, code, cause)


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
    must_end = (record.system_state is SystemState.DOWN and observed.kube_running) or (
        up and not kube and granted
    )
    ending_since: float | None = None
    if must_end:
        ending_since = now if record.ending_since is None else record.ending_since
    clocks = (idle_since, bad_since, ending_since)
    if clocks == (record.idle_since, record.bad_since, record.ending_since):
        return record
    return replace(record, idle_since=idle_since, bad_since=bad_since, ending_since=ending_since)


def failure_deadline(record: Record, config: FeatureConfig) -> float | None:
    """Return when the feature counts as failed (BOOTTIME seconds), if nothing changes until then."""
    if config.failure_minutes == 0 or record.bad_since is None or record.failure:
        return None
    return record.bad_since + config.failure_minutes * 60.0


def _judge(
    record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float
) -> Record:
    """Detect failure and recovery (the design document's section Failure detection)."""
    if config.owner is not Owner.KUBE:
        # Right after a boot the configuration may not be known yet.
        over = record.failure or record.rolled_back
        return cleared(record) if over and record.system_state is not SystemState.ABSENT else record
    if record.rolled_back:
        return _see_rollback(record, observed)
    if not record.failure:
        record = replace(record, failure=_failure(record, config, observed, timing, now))
    elif record.proven and record.health.complaint_about(record.grant) is None:
        record = replace(record, failure="")
    if record.failure and config.policy is FailurePolicy.ROLLBACK:
        health = record.health
        failed = replace(health, failed_image=health.image_id, failed_newest=health.newest, withdrawn=False)
        record = _see_rollback(replace(record, rolled_back=True, health=failed), observed)
    return record


def _failure(record: Record, config: FeatureConfig, observed: Observation, timing: Timing, now: float) -> str:
    """Return why the feature counts as failed now; empty where it does not."""
    if record.system_state is not SystemState.UP:
        return ""
    complaint = record.health.complaint_about(record.grant)
    if complaint is not None and record.grant in observed.kube_running:
        return f"the kube container is unhealthy: {complaint.reason} (says {complaint.source})"
    deadline = failure_deadline(record, config)
    if deadline is not None and now >= deadline:
        return f"no kube container has run for {config.failure_minutes} min"
    return crash_loop(record.health, timing, now)


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
