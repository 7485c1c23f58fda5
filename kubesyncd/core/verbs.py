"""Record what a verb asks for, and decide when it is done.

Knows no clock, no client, no coroutine. A verb only changes the desired state (`accept`); the reconciler acts, and
`outcome` and `wait_code` derive the caller's answer from the next observations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from kubesyncd.core import protocol
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.feature_label import label_missing
from kubesyncd.core.feature_unit import StartedBy, concerns, units_of
from kubesyncd.core.model import Mode, Owner, SystemState
from kubesyncd.core.record import StopStyle, local_wanted, row_told, ruling_owner, state_of
from kubesyncd.core.state import State
from kubesyncd.core.unverified import maybe_admitted, spoken

if TYPE_CHECKING:
    from kubesyncd.core.feature_unit import UnitEnd
    from kubesyncd.core.model import FeatureConfig, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record

# Signals that end a container; `kill` refuses others (they would leave a "down" feature running).
ENDING_SIGNALS = ("KILL", "TERM", "INT", "QUIT", "ABRT")

# systemd's TimeoutStopSec is 90 s: label, kube grace and docker stop must fit into it.
GRACE_S_MAX = 600


@dataclass(frozen=True, slots=True)
class Start:
    """The unit starts; `unit`: its name, empty where another caller asks for the start."""

    unit: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """The unit stops; `grace_s` None: the setting's."""

    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """The unit goes down immediately; without `kubelet_check`, label and kubelet are left unchanged.

    While a reboot is prepared, every kill is one without: the scripts of SONiC's units do not ask for it.
    """

    signal: str = "KILL"
    kubelet_check: bool = True


Verb = Start | Stop | Kill


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a verb: its exit code, and for a failure what happened and what to do."""

    code: int
    text: str = ""


DONE = Outcome(protocol.EXIT_DONE)
# Failures that end no verb: the row follows when STATE_DB takes writes, an image has time, and docker stop is repeated
# for as long as systemd waits.
_FOLLOWS = (
    ActionKind.READ_ROW,
    ActionKind.WRITE_ROW,
    ActionKind.ADOPT_IMAGE,
    ActionKind.RESTORE_IMAGE,
    ActionKind.STOP,
)
_COMEBACK = (ActionKind.START_LOCAL, ActionKind.RESTART_UNIT)
# Refusals that end a verb at once.
_ENDS_VERBS = (ActionKind.START_LOCAL, ActionKind.UNPAUSE, ActionKind.KILL)
REDIS_DOWN = Outcome(
    protocol.EXIT_UNAVAILABLE,
    "Redis does not answer, so its owner is unknown; start it again once Redis is up",
)


NO_SUCH_FEATURE = Outcome(
    protocol.EXIT_FAILED,
    "no such feature: no FEATURE row, no container and no unit has this name; see: kubesync show feature",
)


def redis_down(observed: Observation) -> Outcome:
    """Return the answer to a start that cannot be carried out because STATE_DB cannot be read."""
    unread = observed.failure_of(ActionKind.READ_ROW)
    if unread is None:
        return REDIS_DOWN
    text = f"{unread.text}; until then its owner is unknown, start it again afterwards"
    return Outcome(protocol.EXIT_UNAVAILABLE, text)


def overtaken(by: Verb) -> Outcome:
    """Return the answer to an older verb when a newer one arrives for the same feature."""
    return Outcome(
        protocol.EXIT_FAILED, f"superseded by a newer {type(by).__name__.lower()}; nothing left to do"
    )


def accept(
    verb: Verb, config: FeatureConfig, record: Record, observed: Observation, *, asked_at: float = 0.0
) -> Record | Outcome:
    """Return the record with the verb's request, or the reason why it is declined.

    `asked_at`: when the verb came (BOOTTIME seconds).
    """
    if observed.absent:
        return NO_SUCH_FEATURE
    match verb:
        case Start(unit):
            return _accept_start(config, record, observed, StartedBy(unit, asked_at))
        case Stop(grace_s):
            style = StopStyle(grace_s=grace_s)
        case Kill(signal, kubelet_check):
            style = StopStyle(signal=signal, kubelet_check=kubelet_check and not observed.hold)
        case _:
            assert_never(verb)
    # A stop that finds nothing running ends nothing: an earlier exit is not its result.
    running = observed.local_running or observed.kube_running
    ended = record.exit if running or record.system_state is SystemState.DOWN else None
    return replace(_down(record, style, asked_at), exit=ended)


def running_units(feature: str, record: Record) -> tuple[str, ...]:
    """Return the systemd units that may run this feature, the likeliest first; none where it is not up."""
    if record.system_state is not SystemState.UP:
        return ()
    return (record.started_by.unit,) if record.started_by.unit else units_of(feature)


def left_by_unit(
    record: Record, end: UnitEnd, observed: Observation | None = None, *, ended: str = "", hold: bool
) -> Record:
    """Return the record after systemd was found to run the feature's unit no more: the same as after a stop.

    A script that calls no `stop` leaves the feature up: Kubernetes would go on to run it. Without an effect where the
    feature is down already, by the verb that ended it, and where it was started since. What the unit has left is
    ended, but not a local container that someone may have started while the unit was down and no daemon ran.
    `observed` None: only for an end that was heard. `ended`: when the unit has ended, to the second, as Docker writes
    times; empty: not known. `hold`: a reboot is being prepared, and labels are left unchanged.
    """
    if record.system_state is not SystemState.UP or not concerns(end, record.started_by):
        return record
    local = None if end.heard or observed is None or not observed.local_running else observed.local
    by_hand = local is not None and (not ended or local.started >= ended)
    down = _down(record, StopStyle(kubelet_check=not hold), end.looked_at)
    return replace(down, exit=None, ending=not by_hand)


def _down(record: Record, style: StopStyle, now: float) -> Record:
    return replace(
        record,
        system_state=SystemState.DOWN,
        style=style,
        ending=True,
        ending_since=None,
        unpause=False,
        unverified=spoken(record.unverified, now),
        follows=False,
    )


def _accept_start(
    config: FeatureConfig, record: Record, observed: Observation, started_by: StartedBy
) -> Record | Outcome:
    if observed.row is None and not config.always_local:
        return redis_down(observed)
    came_up = record.system_state is not SystemState.UP
    if not came_up and not started_by.unit:
        # Another caller's start of a feature that is up: the unit that runs it is the same.
        started_by = replace(started_by, unit=record.started_by.unit)
    # Its row is written again, also where the FEATURE row is deleted: the unit runs it.
    registered = record.registered or None
    owning = record.grant if record.grant in observed.kube_running else observed.local_running
    started = replace(
        record,
        system_state=SystemState.UP,
        style=StopStyle(),
        ending=False,
        registered=registered,
        unpause=observed.paused(owning),
        unverified=spoken(record.unverified, started_by.at),
        follows=False,
        started_by=started_by,
    )
    if record.grant in observed.kube_running:
        return replace(started, mode=Mode.READY)
    if observed.local_running:
        return replace(started, mode=Mode.NONE if came_up else record.mode)
    # The unit's own script is starting it right now: a restart by systemd would not help.
    missing = observed.local is None
    started = replace(started, exit=None, local_due=False, unit_restarted=missing)
    if ruling_owner(config, record) is Owner.LOCAL:
        return replace(started, mode=Mode.NONE if came_up or record.mode is not Mode.PENDING else record.mode)
    if not came_up and record.mode is Mode.PENDING:
        return started
    return replace(started, mode=Mode.NONE if local_wanted(config, started) and not missing else Mode.READY)


def given_up(record: Record) -> Record:
    """Return the record after a start that failed: systemd ends its unit without a stop, and nothing is wanted.

    What Docker was asked to start and may still start is to be ended.
    """
    return replace(
        record,
        system_state=SystemState.DOWN,
        style=StopStyle(),
        ending=record.start is not None,
        ending_since=None,
        unpause=False,
    )


def outcome(
    verb: Verb,
    config: FeatureConfig,
    record: Record,
    observed: Observation,
    *,
    asked_at: float = 0.0,
    patient: bool = True,
) -> Outcome | None:
    """Return the verb's answer, or None while it is not done. It always derives from an observation.

    `asked_at`: when the verb came (BOOTTIME seconds); earlier failures are not its own. Without `patient`, a failure
    that a retry may end is the answer, too.
    """
    if observed.absent:
        return NO_SUCH_FEATURE
    done = (_start_outcome if isinstance(verb, Start) else _down_outcome)(config, record, observed)
    if done is not None:
        return done
    # Where Kubernetes may run it, a start is done without a local container.
    survives = (*_FOLLOWS, *_COMEBACK) if ruling_owner(config, record) is Owner.KUBE else _FOLLOWS
    own = [f for f in observed.failures if f.at >= asked_at and f.kind not in survives]
    refused = next((f for f in own if f.refused and f.kind in _ENDS_VERBS), None)
    if refused is not None:
        return Outcome(protocol.EXIT_FAILED, f"{refused.text}; see `journalctl -u kubesyncd`")
    if own and not patient:
        return Outcome(protocol.EXIT_UNAVAILABLE, f"{own[0].text}; see `journalctl -u kubesyncd`")
    return None


def _down_outcome(config: FeatureConfig, record: Record, observed: Observation) -> Outcome | None:
    told = row_told(record, observed) or observed.hold
    running = (record.ending and observed.local_running) or record.grant in observed.kube_running
    running = running or observed.local_starting or bool(maybe_admitted(record, observed))
    if not running and told and label_missing(config, record, observed) is None:
        return DONE
    return None


def _start_outcome(config: FeatureConfig, record: Record, observed: Observation) -> Outcome | None:
    if observed.row is None and not config.always_local:
        return redis_down(observed)
    if not row_told(record, observed):
        return None
    if record.unpause:
        return None
    state = state_of(config, record, observed)
    if state is State.KUBE_RUNNING and ruling_owner(config, record) is Owner.KUBE:
        return DONE
    if (
        observed.local_running
        and observed.local_running not in observed.being_ended
        and record.grant not in observed.kube_running
    ):
        return DONE
    if state is State.LOCAL_EXITED:
        # It did start; `wait` reports that it ended again, as with docker start.
        return DONE
    if state in (State.KUBE_READY, State.KUBE_PENDING) and label_missing(config, record, observed) is None:
        return DONE
    if state is State.STARTING and observed.local is None:
        return Outcome(
            protocol.EXIT_FAILED,
            f"it should run locally, but {observed.no_way_back or 'its container does not exist'}; "
            "the unit's script creates it: systemctl restart the unit",
        )
    return None


def wait_follows(config: FeatureConfig, record: Record, observed: Observation) -> bool:
    """Return whether `wait` can go on: a container runs, an exit is to be reported, or kube deploys next."""
    return _runs(record, observed) or state_of(config, record, observed) not in (
        State.STARTING,
        State.UNKNOWN,
    )


def wait_code(
    config: FeatureConfig,
    record: Record,
    observed: Observation,
    timing: Timing,
    now: float,
    lost_since: float | None = None,
) -> int | None:
    """Return the exit code that `wait` returns now, or None while the feature runs (S6).

    It follows the feature, not a container: hand-over, re-deploy, a kube crash and the switch back do not end it.
    `lost_since`: since when this `wait` has had nothing to follow (BOOTTIME seconds); None: it has something.
    """
    if _runs(record, observed):
        return None
    if record.system_state is SystemState.DOWN:
        return _code(record)
    if state_of(config, record, observed) is State.LOCAL_EXITED:
        # Where it cannot take over, the unit's restart brings the local container back.
        takes_over = observed.takes_over(now) and ruling_owner(config, record) is Owner.KUBE
        return None if takes_over else _code(record)
    return 1 if lost_since is not None and now >= lost_since + timing.local_wait_s else None


def _runs(record: Record, observed: Observation) -> bool:
    local = bool(observed.local_running) or observed.local_starting
    return local or record.grant in observed.kube_running or bool(maybe_admitted(record, observed))


def _code(record: Record) -> int:
    if record.exit is not None and record.exit.code is not None:
        return min(max(record.exit.code, 0), 255)
    if record.system_state is SystemState.DOWN:
        return 137 if record.style.signal == "KILL" else 0
    return 1
