"""Record one feature, and project the record to its row.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds). The module `absorb` folds each
observation into the record, `project` derives the STATE_DB row from both. Nothing here decides.

The ledger keeps the record until the next boot, so a restart of the daemon is one more observation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.asked_start import AskedStart  # noqa: TC001 - the ledger reads the types at run time
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.feature_unit import NOT_STARTED, StartedBy
from kubesyncd.core.gate import GateWatch  # noqa: TC001 - the same
from kubesyncd.core.health import (
    WELL,
    Complaint,
    Health,
    complain,
    forget_ends,
    praise,
)
from kubesyncd.core.model import (
    SHORT_ID,
    FailurePolicy,
    FeatureConfig,
    Mode,
    Owner,
    Row,
    SystemState,
)
from kubesyncd.core.reasons import could_not_start
from kubesyncd.core.registration import row_settled
from kubesyncd.core.revision import UNTOLD, Revision, tells
from kubesyncd.core.row_gate import shown, waits_at_row
from kubesyncd.core.state import State, classify
from kubesyncd.core.stray import LabelOff  # noqa: TC001 - the same
from kubesyncd.core.unasked_start import UnaskedStart  # noqa: TC001 - the same
from kubesyncd.core.unverified import Unverified, keeps_row

if TYPE_CHECKING:
    from kubesyncd.core.model import Timing
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
    until a kube container has proven stable again. `registered`: whether CONFIG_DB had a FEATURE row when it was last
    read; False only after it had one, None: it never had.
    `no_way_back`: Kubernetes runs it or ran it last, and no local container exists or can be made for certain, or it
    does not start.
    `local_image`: the image that its local container was last made from.
    `unstartable`: the local container that could not be started, since when it has not run, and why;
    `unstartable_until`: when it counts as untried again, where the reason may pass and Kubernetes does not run it.
    `unpause`: a start found its container paused. `gates`: the running kube containers, and which have asked to be
    admitted. `off`: since when Kubernetes must not run it, and the label is off. `start`: a docker start of the local
    container whose outcome is not known; it is stored before Docker is asked. `unverified`: why the record may not be
    what happened last. `local_back`: the local container made room for a kube one whose admission could not be stored,
    and returns at once, also without fallback. `unasked`: the last start of the local container by another program,
    while it may not run. `revision`: how often what the row tells has changed. `follows`: it was taken over from
    another program, whose process the unit still waits by: it ends with the container, not with the feature.
    `unconfirmed`: the admitted container has not asked over the socket, and its start-up script has not reported that
    it has gone on. `version`: of the image that runs, or ran last. `started_by`: its last start.
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
    registered: bool | None = None
    no_way_back: bool = False
    local_image: str = ""
    unstartable: tuple[str, str, str] | None = None
    unstartable_until: float | None = None
    unpause: bool = False
    gates: tuple[GateWatch, ...] = ()
    off: LabelOff | None = None
    start: AskedStart | None = None
    unverified: Unverified | None = None
    local_back: bool = False
    follows: bool = False
    unasked: UnaskedStart | None = None
    revision: Revision = UNTOLD
    unconfirmed: bool = False
    version: str = ""
    started_by: StartedBy = NOT_STARTED
    owner: Owner = Owner.NONE
    owner_ts: int = 0

    @property
    def local_exited(self) -> bool:
        """Whether the last container to end was a local one that ended by itself."""
        return self.exit is not None and self.exit.owner is Owner.LOCAL and self.exit.cause is Cause.ITSELF


def ruling_owner(config: FeatureConfig, record: Record) -> Owner:
    """Return the owner that should run the feature.

    A rolled-back feature is local until the operator or a new image clears the failure. Kubernetes keeps a feature that
    it runs and that has no way back: the only container is not ended.
    """
    return Owner.KUBE if record.no_way_back else wished_owner(config, record)


def wished_owner(config: FeatureConfig, record: Record) -> Owner:
    """Return the owner that should run the feature where both can."""
    return Owner.LOCAL if record.rolled_back else config.owner


def local_wanted(config: FeatureConfig, record: Record) -> bool:
    """Return whether a local container should run while no kube container runs."""
    returns = config.fallback or record.boot_fallback or record.local_back
    if wished_owner(config, record) is Owner.LOCAL or returns:
        return True
    return bool(record.failure) and config.policy is FailurePolicy.SWITCH_TO_LOCAL


def local_barred(config: FeatureConfig, record: Record, observed: Observation) -> bool:
    """Return whether no local container may run now: Kubernetes runs the feature, or is the only one that may."""
    if record.system_state is not SystemState.UP or ruling_owner(config, record) is not Owner.KUBE:
        return False
    awaited = record.mode is Mode.READY and not local_wanted(config, record)
    return awaited or record.grant in observed.kube_running


def falls_back(config: FeatureConfig, record: Record) -> bool:
    """Return whether a local container runs the feature, or may have to take over from Kubernetes."""
    return local_wanted(config, record) or config.policy is not FailurePolicy.ALERT


def lacking(record: Record, observed: Observation) -> str:
    """Return why no local container can take over; empty where one can, where that is not known, or none is needed."""
    if observed.no_way_back:
        return observed.no_way_back
    if record.unstartable is None:
        return ""
    return f"its local container does not start: {record.unstartable[2]}"


def uncertain(record: Record, observed: Observation) -> str:
    """Return why it is not certain that a local container can take over; empty where it is, or none is needed."""
    return lacking(record, observed) or observed.way_back_unknown


def returns_to_local(config: FeatureConfig, record: Record, observed: Observation) -> bool:
    """Return whether a local container can take over at once when this switch leaves its master, and does not run yet.

    False where it failed to start when that was last tried: what runs is not ended for it.
    """
    up = record.system_state is SystemState.UP and ruling_owner(config, record) is Owner.KUBE
    able = observed.local is not None and observed.no_comeback is None and not lacking(record, observed)
    return up and local_wanted(config, record) and able and not observed.local_running


def project(record: Record, observed: Observation) -> Row:
    """Derive the STATE_DB row from record and containers; a feature that does not exist has none."""
    if observed.absent:
        return Row()
    if record.grant in observed.kube_running:
        owner, docker_id = Owner.KUBE, record.grant
    elif observed.local_running:
        owner, docker_id = Owner.LOCAL, observed.local_running
    else:
        owner, docker_id = Owner.NONE, ""
    startup, version = shown(record, observed)
    return Row(
        system_state=record.system_state,
        current_owner=owner,
        transition_mode=record.mode,
        docker_id=docker_id,
        update_ts=record.owner_ts,
        failure=record.failure
        or _said_of_local(record, observed)
        or _no_local(record, observed, owner)
        or _unread(observed),
        revision=record.revision.number if tells(record.system_state, owner) else 0,
        startup=startup,
        version=version,
    )


def row_told(record: Record, observed: Observation) -> bool:
    """Return whether STATE_DB shows the record, or can at the moment not be made to: then its row follows."""
    if row_settled(project(record, observed), record.registered, observed, kept=keeps_row(record)):
        return True
    return observed.failure_of(ActionKind.WRITE_ROW) is not None


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


def with_grant(record: Record, container_id: str, now: float, *, by_row: bool) -> Record:
    """Return the record after the reconciler has admitted this kube container; `by_row` as observed."""
    return replace(
        with_mode(record, Mode.READY),
        grant=container_id,
        granted_at=now,
        proven=False,
        local_back=False,
        unconfirmed=by_row and waits_at_row(record, container_id),
    )


def _no_local(record: Record, observed: Observation, owner: Owner) -> str:
    """Return why nothing runs as failure text, where the local container could not be started."""
    if owner is not Owner.NONE or record.system_state is not SystemState.UP:
        return ""
    if observed.no_comeback is not None:
        return could_not_start(observed.no_comeback.text)
    return could_not_start(record.unstartable[2]) if record.unstartable is not None else ""


def _unread(observed: Observation) -> str:
    """Return as failure text that Docker does not describe a container."""
    found = next((c for c in observed.containers if c.unread and not c.gone), None)
    if found is None:
        return ""
    return f"Docker does not describe the {found.owner.value} container {found.id[:SHORT_ID]}: {found.unread}"


def hear(record: Record, *, said: Complaint, well: bool) -> Record:
    """Return the record after a complaint about a container, or after its withdrawal (`well`)."""
    if well:
        return replace(record, health=praise(record.health, said.container_id, said.source))
    return replace(record, health=complain(record.health, said))


def cleared(record: Record) -> Record:
    """Return the record with its failure cleared: Kubernetes may run the feature again immediately."""
    health = replace(
        forget_ends(record.health),
        starts=(),
        failed_image="",
        failed_newest="",
        withdrawn=False,
        complaints=(),
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


def repaired(record: Record) -> Record:
    """Return the record after an operator's repair: cleared, and a start of the local container counts as untried."""
    return replace(cleared(record), unstartable=None, unstartable_until=None)


def rolled_back(record: Record, failure: str, failed_image: str, failed_newest: str) -> Record:
    """Return the first record of a boot for a feature that was rolled back before it."""
    health = Health(failed_image=failed_image, failed_newest=failed_newest, newest=failed_newest)
    return replace(record, failure=failure, rolled_back=True, health=health)


def complaint_against(record: Record, config: FeatureConfig) -> str:
    """Return why the local container has to replace the admitted one; empty where it need not."""
    complaint = record.health.complaint_about(record.grant)
    return complaint.reason if complaint and config.policy is FailurePolicy.SWITCH_TO_LOCAL else ""


def failure_deadline(record: Record, config: FeatureConfig) -> float | None:
    """Return when the feature counts as failed (BOOTTIME seconds), if nothing changes until then."""
    if config.failure_minutes == 0 or record.bad_since is None or record.failure:
        return None
    return record.bad_since + config.failure_minutes * 60.0


def lasts_at(record: Record, timing: Timing) -> float:
    """Return when the admitted kube container has run for so long that no earlier end counts (BOOTTIME seconds)."""
    return record.granted_at + max(timing.kube_stable_s, timing.crash_window_s)


def lasted(record: Record, timing: Timing, now: float) -> bool:
    """Return whether the admitted kube container has run, or had until it ended, for so long."""
    return now >= lasts_at(record, timing)


def settled(record: Record) -> Record:
    """Return the record without the kube containers' earlier ends: the next one is the first of a row."""
    return replace(record, crashes=0, health=forget_ends(record.health))
