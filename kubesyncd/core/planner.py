"""Decide the next action for one feature: one pure, total function.

Knows no clock, no client, no coroutine. A plan holds at most one mutating action: act, observe, decide again.
So every crash point lies between two plans, and a restart of the daemon is one more observation.
Each `why` is shown to operators in the log and in `explain`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.actions import (
    Action,
    AdoptImage,
    EndContainer,
    Grant,
    Plan,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    WriteRow,
)
from kubesyncd.core.model import KubeLabel, Mode, Owner, Row, SystemState
from kubesyncd.core.record import (
    Cause,
    absorb,
    complaint_against,
    failure_deadline,
    local_wanted,
    project,
    ruling_owner,
)
from kubesyncd.core.state import State, classify, meaning

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig, Timing
    from kubesyncd.core.observation import Facts
    from kubesyncd.core.record import Record


@dataclass(frozen=True, slots=True)
class _Look:
    """The inputs of one decision."""

    config: FeatureConfig
    record: Record
    facts: Facts
    timing: Timing
    now: float
    state: State
    feature: str

    def act(self, action: Action, why: str) -> Plan:
        return Plan(self.state, action, None, why)

    def rest(self, why: str, *wakes: float | None) -> Plan:
        """Return a plan without an action; the next observation is at the earliest deadline ahead."""
        stable_at = None
        if self.record.grant and not self.record.proven:
            stable_at = self.record.granted_at + self.timing.kube_stable_s
        ahead = [t for t in (*wakes, stable_at, failure_deadline(self.record, self.config)) if t is not None]
        return Plan(self.state, None, min((t for t in ahead if t > self.now), default=None), why)

    @property
    def owner(self) -> Owner:
        return ruling_owner(self.config, self.record)

    @property
    def granted(self) -> str:
        return self.record.grant if self.record.grant in self.facts.kube_running else ""


def state_of(config: FeatureConfig, record: Record, facts: Facts) -> State:
    """Return the feature's state by record and Docker (not by the current STATE_DB row)."""
    return classify(project(record, facts), ruling_owner(config, record), local_exited=record.local_exited)


def decide(
    config: FeatureConfig, record: Record, facts: Facts, timing: Timing, now: float, feature: str = "NAME"
) -> Plan:
    """Decide the next plan for one feature. `record` has absorbed `facts`; `feature`: its name, for texts only."""
    look = _Look(config, record, facts, timing, now, state_of(config, record, facts), feature)
    plan = _wished(look)
    row = project(record, facts)
    if facts.row is None or facts.row == row or (facts.hold and facts.row == Row()):
        return plan
    # STATE_DB first: a reader of STATE_DB sees each state before the action that follows from it.
    return replace(plan, action=WriteRow(row), wake_at=None)


def foresee(
    config: FeatureConfig, record: Record, facts: Facts, timing: Timing, wake_at: float, feature: str = "NAME"
) -> tuple[Record, Plan]:
    """Return the record and plan of an observation at `wake_at`, if nothing but time changes until then."""
    facts = replace(facts, reasking=False)
    record = absorb(record, config, facts, timing, wake_at)
    return record, decide(config, record, facts, timing, wake_at, feature)


def _wished(look: _Look) -> Plan:
    record, facts = look.record, look.facts
    if record.system_state is SystemState.ABSENT:
        return look.rest(meaning(State.UNKNOWN, look.feature))
    if record.system_state is SystemState.DOWN:
        return _down(look)
    if facts.row is None and not look.config.always_local:
        return look.rest("Redis does not answer; only stop and kill are carried out until it does")
    if look.granted and facts.local_running:
        return _one_at_a_time(look)
    if look.owner is Owner.LOCAL:
        return _up_local(look)
    return _up_kube(look)


# ---- labels ---------------------------------------------------------------------------------------


def label_wanted(state: State, owner: Owner, record: Record, facts: Facts) -> KubeLabel:
    """Return the label the feature should have; UNKNOWN leaves it unchanged.

    `kill --no-kubelet-check` skips labels: they are requested after it is done, and after a reboot (`hold`).
    """
    if state in (State.UNKNOWN, State.DRIFT):
        return KubeLabel.UNKNOWN
    if state is State.INIT:
        hurried = not record.style.kubelet_check and (record.ending or facts.hold)
        return KubeLabel.UNKNOWN if hurried else KubeLabel.OFF
    if owner is not Owner.KUBE:
        return KubeLabel.UNKNOWN if record.rolled_back and record.health.withdrawn else KubeLabel.OFF
    return KubeLabel.UNKNOWN if state in (State.STARTING, State.LOCAL_EXITED) else KubeLabel.ON


def label_missing(config: FeatureConfig, record: Record, facts: Facts) -> KubeLabel | None:
    """Return the label to request, or None where it is already as wanted or this node has not joined.

    A feature without any part in Kubernetes requests nothing: a label never observed is taken as off.
    """
    wanted = label_wanted(state_of(config, record, facts), ruling_owner(config, record), record, facts)
    if not facts.joined or wanted is KubeLabel.UNKNOWN or wanted is facts.label.value:
        return None
    if wanted is KubeLabel.ON and facts.label.refused:
        # Requesting a refused label again fails again; withdrawing a label that another client has set works.
        return None
    ours = config.owner is Owner.KUBE or record.grant or facts.kube_running
    if facts.label.value is KubeLabel.UNKNOWN and wanted is KubeLabel.OFF and not ours:
        return None
    return wanted


def _label(look: _Look) -> Plan | None:
    missing = label_missing(look.config, look.record, look.facts)
    if missing is None:
        return None
    if missing is KubeLabel.ON:
        return look.act(RequestLabel(on=True), "Kubernetes may deploy it: the node label is requested")
    return look.act(RequestLabel(on=False), "Kubernetes must not run it: the node label is withdrawn")


# ---- down -----------------------------------------------------------------------------------------


def _down(look: _Look) -> Plan:
    """Bring the feature down (S7): end the local container found by the stop, and every kube container."""
    plan = _label(look)
    if plan is not None:
        return plan
    targets = [look.facts.local_running] if look.record.ending and look.facts.local_running else []
    if targets:
        return _end(look, targets, "the unit is down")
    if look.facts.kube_running:
        return _end_kube(look, look.facts.kube_running, "the unit is down")
    if look.facts.local_running:
        return look.rest("the unit is down; the local container was started manually and keeps running")
    return look.rest("the unit is down; nothing runs")


def _end(look: _Look, targets: list[str] | tuple[str, ...], because: str) -> Plan:
    """End the first target that has not been asked to end yet."""
    style = look.record.style
    asked = look.facts.killed if style.signal else look.facts.stopping | look.facts.killed
    for container_id in targets:
        if container_id in asked:
            continue
        short = container_id[:12]
        if style.signal:
            action = EndContainer(container_id, Cause.KILL, signal=style.signal)
            return look.act(action, f"{because}: container {short} is sent {style.signal}")
        grace_s = look.timing.stop_grace_s if style.grace_s is None else style.grace_s
        return look.act(
            EndContainer(container_id, Cause.STOP, grace_s), f"{because}: container {short} is stopped"
        )
    return look.rest(f"{because}; waiting for Docker to report that the container has ended")


def _end_kube(look: _Look, targets: tuple[str, ...], because: str) -> Plan:
    """End kube containers: by the label where the API server answers, else by stopping the kubelet first.

    A kubelet whose node still has the label would start the container again 0.8 s after a docker stop.
    """
    record, facts, timing = look.record, look.facts, look.timing
    begun = look.now if record.ending_since is None else record.ending_since
    if record.style.kubelet_check and facts.joined and facts.kubelet is not False:
        if facts.label.pending:
            answer_by = begun + timing.label_wait_s
            if not facts.label.failed and look.now < answer_by:
                return look.rest(f"{because}; waiting for the API server to remove the label", answer_by)
            stopped_by = answer_by + timing.kubelet_stop_s
            if look.now < stopped_by:
                return look.rest(
                    f"{because}; the API server does not answer, waiting for the kubelet to stop", stopped_by
                )
        elif not record.style.signal:
            ended_by = max(begun, facts.label.acked_at or begun) + timing.kube_stop_grace_s
            if look.now < ended_by:
                return look.rest(
                    f"{because}; the label is removed, waiting for the kubelet to end the container", ended_by
                )
    return _end(look, targets, because)


# ---- up -------------------------------------------------------------------------------------------


def _one_at_a_time(look: _Look) -> Plan:
    """Stop a local container that appears while a kube container is admitted (S1)."""
    container_id = look.facts.local_running
    if container_id in look.facts.stopping:
        return look.rest("the kube container owns the feature; waiting for the local one to end")
    action = EndContainer(container_id, Cause.STOP, look.timing.stop_grace_s)
    return look.act(action, "the kube container owns the feature: the local one that appeared is stopped")


def _up_local(look: _Look) -> Plan:
    plan = _label(look)
    if plan is not None:
        return plan
    rolled_back = look.record.rolled_back
    because = f"rolled back ({look.record.failure})" if rolled_back else "set_owner=local"
    if look.granted:
        return _end_kube(look, (look.granted,), because)
    if look.record.mode is not Mode.NONE:
        return look.act(SetMode(Mode.NONE), f"{because}: Kubernetes state cleared")
    failed_image = look.record.health.failed_image if rolled_back else ""
    if failed_image and look.record.restored != failed_image:
        return look.act(
            RestoreImage(failed_image), f"{because}: the local image from before the failure is restored"
        )
    if look.facts.local_running:
        if look.facts.local_running in look.facts.stopping:
            return look.rest("the local container is being stopped; it is started again once it has ended")
        return look.rest(
            f"{because}: {_next_chance(look)}" if rolled_back else "the local container runs, as configured"
        )
    if look.state is State.LOCAL_EXITED:
        return look.rest("the local container ended by itself; systemd restarts the unit")
    return _start_local(look, because)


def _next_chance(look: _Look) -> str:
    return (
        "the local container runs until Kubernetes labels this node again and deploys another image, "
        f"or until you run: kubesync clear {look.feature}"
    )


def _start_local(look: _Look, because: str) -> Plan:
    local = look.facts.local
    if local is not None:
        return look.act(StartLocal(local.id), f"{because}: the local container is started")
    if not look.record.unit_restarted:
        return look.act(RestartUnit(), f"{because}, no local container exists: the unit's script creates one")
    return look.rest(
        f"no local container exists and the unit's script has not created one; see: journalctl -u {look.feature}"
    )


def _up_kube(look: _Look) -> Plan:
    plan = _label(look)
    if plan is not None:
        return plan
    if look.granted:
        if look.record.mode is not Mode.READY:
            return look.act(SetMode(Mode.READY), "a kube container owns the feature")
        return _kube_running(look)
    if look.facts.local_running:
        return _local(look)
    return _nothing_runs(look)


def _kube_running(look: _Look) -> Plan:
    """Keep the running kube container (KUBE_RUNNING), or stop an unhealthy one where a local one can take over."""
    record, unwell = look.record, complaint_against(look.record, look.config)
    if not unwell:
        return look.rest(record.failure) if record.failure else _adopt(look)
    if look.facts.local is None:
        return look.rest(f"{record.failure}; no local container exists to take over")
    if look.granted in look.facts.stopping:
        return look.rest(f"{record.failure}; the local container takes over once it has ended")
    action = EndContainer(look.granted, Cause.STOP, look.timing.stop_grace_s)
    return look.act(action, f"{record.failure}: the kube container is stopped, the local one takes over")


def _adopt(look: _Look) -> Plan:
    """Adopt the kube image as the local one after it has run healthily for `tag_after_s`; its age does not count."""
    record, why = look.record, "the kube container runs, as configured"
    image_id = next(c.image_id for c in look.facts.containers if c.id == look.granted)
    if not record.proven or image_id in ("", record.adopted):
        return look.rest(why)
    due = max(record.granted_at + look.timing.tag_after_s, record.adopt_at)
    if look.now < due:
        return look.rest(why, due)
    return look.act(AdoptImage(image_id), "healthy for long enough: its image becomes the local one")


def _may_still_ask(look: _Look) -> bool:
    return look.facts.reasking and bool(look.facts.kube_running)


def _local(look: _Look) -> Plan:
    """Keep a local container running, or hand over to kube (LOCAL and LOCAL_TO_KUBE)."""
    waiter, record = look.facts.waiter, look.record
    if record.mode is Mode.READY:
        return look.act(
            SetMode(Mode.NONE), "the local container was started manually: Kubernetes takes over from there"
        )
    if record.mode is Mode.NONE:
        if not waiter:
            return look.rest("the local container runs until kube deploys")
        if look.now < record.refuse_until:
            return look.rest(_why_refused(record), record.refuse_until)
        return look.act(
            SetMode(Mode.PENDING), "kube has deployed: its container waits for the local one to end"
        )
    if look.facts.local_running in look.facts.stopping:
        return look.rest("the kube container waits; the local one is being stopped")
    if waiter:
        action = EndContainer(look.facts.local_running, Cause.STOP, look.timing.stop_grace_s)
        return look.act(action, "the kube container waits: the local one is stopped")
    if _may_still_ask(look):
        return look.rest("the kube container may still ask again", look.now + look.timing.reask_s)
    return look.act(SetMode(Mode.NONE), "the kube container no longer waits: the local one stays")


def _why_refused(record: Record) -> str:
    count, did = (record.crashes, "ended early") if record.crashes else (record.health.sick, "was unhealthy")
    times = "once" if count == 1 else f"{count} times in a row"
    return f"the kube container waits, but it {did} {times}: the local one stays for now"


def _nothing_runs(look: _Look) -> Plan:
    waiter, record = look.facts.waiter, look.record
    if waiter and (record.mode is not Mode.NONE):
        return look.act(Grant(waiter), "no other container runs: the kube container may proceed")
    if record.mode is Mode.PENDING:
        if _may_still_ask(look):
            return look.rest("the kube container may still ask again", look.now + look.timing.reask_s)
        return look.act(
            SetMode(Mode.READY), "the kube container no longer waits: the next deployment may proceed at once"
        )
    if record.mode is Mode.READY:
        return _kube_ready(look)
    if look.state is State.LOCAL_EXITED:
        if waiter:
            return look.act(
                SetMode(Mode.PENDING), "the local container ended and a kube one waits: it takes over"
            )
        return look.rest("the local container ended by itself; systemd restarts the unit")
    if not local_wanted(look.config, record):
        return look.act(SetMode(Mode.READY), "only Kubernetes may run it")
    if look.facts.local is None and record.unit_restarted:
        return look.act(SetMode(Mode.READY), "no local container exists: waiting for kube deployment")
    return _start_local(look, "it runs locally until kube deploys")


def _kube_ready(look: _Look) -> Plan:
    """Wait for kube, and fall back to local in time (KUBE_READY, L3)."""
    record, waits = look.record, "waiting for kube deployment"
    if look.facts.label.refused:
        waits = f"{waits}, blocked: the API server refuses the node label ({look.facts.label.refused})"
    if not local_wanted(look.config, record):
        return look.rest(waits)
    if look.facts.local is None and record.unit_restarted:
        return look.rest(f"{waits}; no local container exists to fall back to")
    due = look.now if record.local_due or record.failure else None
    if due is None:
        due = (look.now if record.idle_since is None else record.idle_since) + look.timing.fallback_after_s
    if look.now < due:
        return look.rest(
            f"{waits}; the local container returns after {look.timing.fallback_after_s:g} s", due
        )
    if record.local_due:
        return look.act(SetMode(Mode.NONE), "the kube container did not stay up: the local one returns")
    return look.act(
        SetMode(Mode.NONE), record.failure or "kube has not deployed in time: the local one returns"
    )
