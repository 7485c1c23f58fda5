"""Describe what is unusual about a feature's containers and its label, for every view, while it lasts.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.gate import ignoring
from kubesyncd.core.health import lacked_memory
from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import SHORT_ID, Owner, SystemState
from kubesyncd.core.record import Cause, lacking
from kubesyncd.core.row_gate import dry_runs, stuck
from kubesyncd.core.unasked_start import unasked_runs
from kubesyncd.core.unverified import maybe_admitted

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


class ConditionKind(StrEnum):
    """The kinds of conditions; the value is the log event of those that are an alert."""

    BY_POLICY = "container_started_by_docker"
    RESTART_POLICY = "restart_policy"
    UNASKED_START = "local_started_by_another"
    UNREAD = "container_not_read"
    GATE_IGNORED = "gate_ignored"
    GATE_SHARED = "gate_shared"
    DRY_RUN = "dry_run"
    NOT_GONE_ON = "startup_waits"
    NO_WAY_BACK = "no_way_back"
    PAUSED = "container_paused"
    RESTARTING = "container_restarting"
    OOM_KILLED = "out_of_memory"
    UNHEALTHY = "healthcheck_fails"
    CONTESTED = "label_contested"
    STRAY = "pod_does_not_follow_label"


# Each is one alert until it ends; the others are only shown.
ALERTING = frozenset(
    {
        ConditionKind.BY_POLICY,
        ConditionKind.UNASKED_START,
        ConditionKind.UNREAD,
        ConditionKind.GATE_IGNORED,
        ConditionKind.NOT_GONE_ON,
        ConditionKind.OOM_KILLED,
        ConditionKind.UNHEALTHY,
        ConditionKind.CONTESTED,
        ConditionKind.NO_WAY_BACK,
        ConditionKind.STRAY,
    }
)


# When Docker starts a container by its restart policy, as Docker 20.10 and 24 do.
_STARTS = {
    "always": "when it ends, and whenever Docker itself starts",
    "unless-stopped": "when it ends, and when Docker itself starts and has ended it before",
    "on-failure": "when it ends with an error, and whenever Docker itself starts after such an end, also after a stop",
}


_OOM_FIX = "raise its memory limit, or see: dmesg"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that lasts. `what`: about which container or label, and what follows. `fix`: what to type."""

    kind: ConditionKind
    what: str
    fix: str = ""

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.what}; {self.fix}" if self.fix else self.what


def conditions(
    feature: str, record: Record, observed: Observation, timing: Timing, now: float
) -> tuple[Condition, ...]:
    """Return the feature's conditions, in the order of the containers."""
    return (
        *_no_way_back(feature, record, observed),
        *_by_policy(feature, record, observed),
        *_unasked_start(feature, record, observed),
        *(condition for c in observed.containers for condition in _of_container(feature, c)),
        *(Condition(ConditionKind.OOM_KILLED, _oom(c), _OOM_FIX) for c in _oom_killed(record, observed)),
        *_ungated(feature, record, observed, timing, now),
        *_at_the_row(record, observed, timing),
        *([Condition(ConditionKind.CONTESTED, observed.label.contested)] if observed.label.contested else ()),
        *_stray(feature, record, observed),
    )


def _of_container(feature: str, container: Container) -> tuple[Condition, ...]:
    short, what = container.id[:SHORT_ID], _named(container)
    found = []
    if container.unread:
        counts = "it counts as running" if container.running else "Docker lists it as ended"
        text = f"Docker does not describe {what} ({container.unread}); {counts} and can still be stopped or killed"
        found.append(Condition(ConditionKind.UNREAD, text))
    if container.paused:
        text, fix = f"{what} is paused: its processes stand still", f"run: container start {feature}"
        found.append(Condition(ConditionKind.PAUSED, text, fix))
    if container.unhealthy:
        text = f"the HEALTHCHECK of {what} fails ({container.unhealthy})"
        found.append(Condition(ConditionKind.UNHEALTHY, text, f"see: docker inspect {short}"))
    if container.restarting:
        text = f"{what} has ended, and Docker starts it again by its restart policy"
        found.append(Condition(ConditionKind.RESTARTING, text, f"see: docker logs {short}"))
    return tuple(found)


def _no_way_back(feature: str, record: Record, observed: Observation) -> tuple[Condition, ...]:
    """Say what no fallback, switch of owners or rollback can do."""
    lacks = lacking(record, observed)
    if not lacks or not (record.no_way_back or observed.no_way_back):
        return ()
    follows = "nothing can run it here but Kubernetes"
    if record.grant in observed.kube_running:
        follows = "the kube container is kept, also with owner local or a failure"
    fix = f"run: docker rm {feature}, and its unit makes another one, or repair it and run: kubesync clear {feature}"
    if observed.no_way_back:
        fix = f"restore its image (docker load, docker pull), or create a container named {feature}"
    return (Condition(ConditionKind.NO_WAY_BACK, f"no way back: {lacks}, so {follows}", fix),)


def _by_policy(feature: str, record: Record, observed: Observation) -> tuple[Condition, ...]:
    """Name the restart policy of the local container: systemd and kubesyncd start it, and Docker would, too."""
    local = observed.local
    if local is None or not local.restarts:
        return ()
    what, policy, fix = _named(local), local.restart_policy, f"run: docker update --restart=no {feature}"
    starts = _STARTS.get(policy, "when it ends")
    text = f"{what} has the restart policy {policy}: Docker starts it by itself {starts}"
    found = [Condition(ConditionKind.RESTART_POLICY, text, fix)]
    although = _although(record, observed)
    if local.running and although:
        who = f"Docker has started {what}" if local.by_policy else f"{what} was started by hand, or by Docker"
        text = f"{who} by its restart policy {policy}, although {although}: it is stopped"
        found.append(Condition(ConditionKind.BY_POLICY, text, fix))
    return tuple(found)


def _unasked_start(feature: str, record: Record, observed: Observation) -> tuple[Condition, ...]:
    """Name the likely callers of a start that kubesyncd undoes; a restart policy has a condition of its own."""
    local, unasked = observed.local, record.unasked
    if unasked is None or (local is not None and local.restarts):
        return ()
    why = (
        "Kubernetes runs the feature"
        if record.grant in observed.kube_running
        else "only Kubernetes may run it"
    )
    ends = "is stopped" if unasked_runs(unasked, observed) else "was stopped"
    text = (
        f"another program started the local container {unasked.container_id[:SHORT_ID]} although {why}: it {ends}. "
        f"Likely callers are `update-containers {feature}`, which the unit's script runs after each start, and "
        "`docker start` of an operator"
    )
    fix = f"to run it locally: kubesync config feature {feature} owner local"
    return (Condition(ConditionKind.UNASKED_START, text, fix),)


def _although(record: Record, observed: Observation) -> str:
    """Return what forbids a local container that has a restart policy; empty where nothing does.

    Beside a kube container it is stopped before it is known who has started it.
    """
    if record.grant in observed.kube_running:
        return "Kubernetes runs the feature"
    if unasked_runs(record.unasked, observed):
        return "only Kubernetes may run it"
    # A stop or kill under way ends what has run rightly until then. An operator may start it while the unit is down.
    started = observed.by_policy is not None and not record.ending
    return "its unit is down" if started and record.system_state is SystemState.DOWN else ""


def _named(container: Container) -> str:
    return f"the {container.owner.value} container {container.id[:SHORT_ID]}"


def _oom_killed(record: Record, observed: Observation) -> tuple[Container, ...]:
    """Return the newest container that lacked memory; none once the kube container after it is stable."""
    by_age = sorted(observed.containers, key=lambda c: (c.started, c.id))
    found = [
        c
        for c in by_age
        if c.oom_killed and (c.running or _ended_for_memory(record, c, newest=c is by_age[-1]))
    ]
    return tuple(found[-1:])


def _ended_for_memory(record: Record, container: Container, *, newest: bool) -> bool:
    """Return whether the kernel ended it, as far as that still matters.

    The record knows the last end of an owner only. Docker's events also tell of local containers removed long ago.
    """
    last = record.exit
    if last is not None and last.container_id == container.id:
        by_itself = last.cause is Cause.ITSELF
    else:
        unknown = last is None and not container.gone
        by_itself = newest and (unknown or container.owner is Owner.KUBE)
    return lacked_memory(container) and by_itself and not record.proven


def _oom(container: Container) -> str:
    lost = "the kernel ended a process of" if container.running else "the kernel ended"
    return f"{lost} {_named(container)} for lack of memory"


def _ignored(feature: str, container_id: str, record: Record, timing: Timing) -> str:
    follows = (
        "it is taken for the owner, because nothing else ran"
        if container_id == record.grant
        else "it is not the owner while another container runs"
    )
    return (
        f"the kube container {container_id[:SHORT_ID]} has run for {timing.gate_after_s:g} s without asking to be "
        f"admitted; {follows}. Its image has no gate: start it with `start-hook` or `entrypoint`, "
        f"which run: container state {feature} up kube"
    )


def _ungated(
    feature: str, record: Record, observed: Observation, timing: Timing, now: float
) -> tuple[Condition, ...]:
    """Say of each container that has not asked for long what its image does."""
    same, found = dry_runs(observed) - {record.grant}, []
    ungated = ignoring(record.gates, timing.gate_after_s, now)
    for container_id in sorted(ungated - maybe_admitted(record, observed)):
        if container_id in same:
            text = (
                f"the kube container {container_id[:SHORT_ID]} has the version that runs locally, and has not asked: "
                "SONiC's start-up script keeps such a one waiting (a dry run)"
            )
            found.append(Condition(ConditionKind.DRY_RUN, text, "deploy another version to hand over"))
        else:
            ignored = _ignored(feature, container_id, record, timing)
            container = observed.container(container_id)
            if container is not None and container.version and observed.by_row:
                ignored += f", or its container_startup.py waits for ever: run: docker kill {container_id[:SHORT_ID]}"
            found.append(Condition(ConditionKind.GATE_IGNORED, ignored))
    return tuple(found)


def _at_the_row(record: Record, observed: Observation, timing: Timing) -> tuple[Condition, ...]:
    """Say why the start-up script of a kube container that asks by STATE_DB's row waits on."""
    found, running = [], len(observed.kube_running)
    if observed.row_asks and running > 1:
        text = (
            f"{running} kube containers run, and one of them asks by STATE_DB's row: what it reads there would let "
            "each of them go on, so none is admitted by it until only one runs"
        )
        fix = "delete the pod that should not run, or wait until it has ended"
        found.append(Condition(ConditionKind.GATE_SHARED, text, fix))
    if stuck(record):
        short = record.grant[:SHORT_ID]
        text = (
            f"the kube container {short} is admitted, and its container_startup.py has not gone on within "
            f"{timing.gate_after_s:g} s"
        )
        found.append(
            Condition(
                ConditionKind.NOT_GONE_ON,
                text,
                f"run: docker logs {short}; where it waits: docker kill {short}",
            )
        )
    return tuple(found)


def _stray(feature: str, record: Record, observed: Observation) -> tuple[Condition, ...]:
    """Name the pod that comes although the label is off, as long as Docker has a container of it."""
    kube = [c for c in observed.containers if c.owner is Owner.KUBE and not c.gone and c.id != record.grant]
    if record.off is None or not record.off.returned or not kube:
        return ()
    newest = max(kube, key=lambda c: (c.running, c.started, c.id))
    what = f"pod {newest.pod}" if newest.pod else f"the pod of container {newest.id[:SHORT_ID]}"
    text = (
        f"{what} comes although the node label {feature_label(feature)} is off: it is bare or static, or its DaemonSet "
        "is orphaned or selects another label. Its container waits at the gate and is left alone"
    )
    fix = "delete the pod, or its file in the kubelet's staticPodPath"
    return (Condition(ConditionKind.STRAY, text, fix),)
