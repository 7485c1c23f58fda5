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
    Admit,
    AdoptImage,
    EndContainer,
    Plan,
    RequestLabel,
    RestartUnit,
    RestoreImage,
    SetMode,
    StartLocal,
    WriteRow,
)
from kubesyncd.core.feature_label import label_missing
from kubesyncd.core.model import SHORT_ID, KubeLabel, Mode, Owner, Row, SystemState
from kubesyncd.core.record import (
    Cause,
    absorb,
    complaint_against,
    failure_deadline,
    local_wanted,
    project,
    ruling_owner,
    state_of,
)
from kubesyncd.core.state import State, meaning

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of one decision."""

    config: FeatureConfig
    record: Record
    observed: Observation
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
        return self.record.grant if self.record.grant in self.observed.kube_running else ""


def decide(
    config: FeatureConfig,
    record: Record,
    observed: Observation,
    timing: Timing,
    now: float,
    feature: str,
) -> Plan:
    """Decide the next plan for one feature. `record` has absorbed `observed`; `feature`: its name, for texts only."""
    inputs = _Inputs(config, record, observed, timing, now, state_of(config, record, observed), feature)
    plan = _wished(inputs)
    row = project(record, observed)
    if observed.row is None or observed.row == row or (observed.hold and observed.row == Row()):
        return plan
    # STATE_DB first: a reader of STATE_DB sees each state before the action that follows from it.
    return replace(plan, action=WriteRow(row), wake_at=None)


def foresee(
    config: FeatureConfig,
    record: Record,
    observed: Observation,
    timing: Timing,
    wake_at: float,
    feature: str,
) -> tuple[Record, Plan]:
    """Return the record and plan of an observation at `wake_at`, if nothing but time changes until then."""
    observed = replace(observed, reasking=False)
    record = absorb(record, config, observed, timing, wake_at)
    return record, decide(config, record, observed, timing, wake_at, feature)


def _wished(inputs: _Inputs) -> Plan:
    record, observed = inputs.record, inputs.observed
    if record.system_state is SystemState.ABSENT:
        return inputs.rest(meaning(State.UNKNOWN, inputs.feature))
    if record.system_state is SystemState.DOWN:
        return _down(inputs)
    if observed.row is None and not inputs.config.always_local:
        return inputs.rest("Redis does not answer; only stop and kill are carried out until it does")
    if inputs.granted and observed.local_running:
        return _one_at_a_time(inputs)
    if inputs.owner is Owner.LOCAL:
        return _up_local(inputs)
    return _up_kube(inputs)


def _label(inputs: _Inputs) -> Plan | None:
    missing = label_missing(inputs.config, inputs.record, inputs.observed)
    if missing is None:
        return None
    if missing is KubeLabel.ON:
        return inputs.act(RequestLabel(on=True), "Kubernetes may deploy it: the node label is requested")
    return inputs.act(RequestLabel(on=False), "Kubernetes must not run it: the node label is withdrawn")


# ---- down -----------------------------------------------------------------------------------------


def _down(inputs: _Inputs) -> Plan:
    """Bring the feature down (S7): end the local container found by the stop, and every kube container."""
    plan = _label(inputs)
    if plan is not None:
        return plan
    targets = (
        [inputs.observed.local_running] if inputs.record.ending and inputs.observed.local_running else []
    )
    if targets:
        return _end(inputs, targets, "the unit is down")
    if inputs.observed.kube_running:
        return _end_kube(inputs, inputs.observed.kube_running, "the unit is down")
    if inputs.observed.local_running:
        return inputs.rest("the unit is down; the local container was started manually and keeps running")
    return inputs.rest("the unit is down; nothing runs")


def _end(inputs: _Inputs, targets: list[str] | tuple[str, ...], because: str) -> Plan:
    """End the first target that has not been asked to end yet."""
    style = inputs.record.style
    asked = inputs.observed.killed if style.signal else inputs.observed.stopping | inputs.observed.killed
    for container_id in targets:
        if container_id in asked:
            continue
        short = container_id[:SHORT_ID]
        if style.signal:
            action = EndContainer(container_id, Cause.KILL, signal=style.signal)
            return inputs.act(action, f"{because}: container {short} is sent {style.signal}")
        grace_s = inputs.timing.stop_grace_s if style.grace_s is None else style.grace_s
        return inputs.act(
            EndContainer(container_id, Cause.STOP, grace_s), f"{because}: container {short} is stopped"
        )
    return inputs.rest(f"{because}; waiting for Docker to report that the container has ended")


def _end_kube(inputs: _Inputs, targets: tuple[str, ...], because: str) -> Plan:
    """End kube containers: by the label where the API server answers, else by stopping the kubelet first.

    A kubelet whose node still has the label would start the container again 0.8 s after a docker stop.
    """
    record, observed, timing = inputs.record, inputs.observed, inputs.timing
    begun = inputs.now if record.ending_since is None else record.ending_since
    if record.style.kubelet_check and observed.joined and observed.kubelet is not False:
        if observed.label.pending:
            answer_by = begun + timing.label_wait_s
            if not observed.label.failed and inputs.now < answer_by:
                return inputs.rest(f"{because}; waiting for the API server to remove the label", answer_by)
            stopped_by = answer_by + timing.kubelet_stop_s
            if inputs.now < stopped_by:
                return inputs.rest(
                    f"{because}; the API server does not answer, waiting for the kubelet to stop", stopped_by
                )
        elif not record.style.signal:
            ended_by = max(begun, observed.label.acked_at or begun) + timing.kube_stop_grace_s
            if inputs.now < ended_by:
                return inputs.rest(
                    f"{because}; the label is removed, waiting for the kubelet to end the container", ended_by
                )
    return _end(inputs, targets, because)


# ---- up -------------------------------------------------------------------------------------------


def _one_at_a_time(inputs: _Inputs) -> Plan:
    """Stop a local container that appears while a kube container is admitted (S1)."""
    container_id = inputs.observed.local_running
    if container_id in inputs.observed.stopping:
        return inputs.rest("the kube container owns the feature; waiting for the local one to end")
    action = EndContainer(container_id, Cause.STOP, inputs.timing.stop_grace_s)
    return inputs.act(action, "the kube container owns the feature: the local one that appeared is stopped")


def _up_local(inputs: _Inputs) -> Plan:
    plan = _label(inputs)
    if plan is not None:
        return plan
    rolled_back = inputs.record.rolled_back
    because = f"rolled back ({inputs.record.failure})" if rolled_back else "set_owner=local"
    if inputs.granted:
        return _end_kube(inputs, (inputs.granted,), because)
    if inputs.record.mode is not Mode.NONE:
        return inputs.act(SetMode(Mode.NONE), f"{because}: Kubernetes state cleared")
    failed_image = inputs.record.health.failed_image if rolled_back else ""
    if failed_image and inputs.record.restored != failed_image:
        return inputs.act(
            RestoreImage(failed_image), f"{because}: the local image from before the failure is restored"
        )
    if inputs.observed.local_running:
        if inputs.observed.local_running in inputs.observed.stopping:
            return inputs.rest("the local container is being stopped; it is started again once it has ended")
        return inputs.rest(
            f"{because}: {_next_chance(inputs)}" if rolled_back else "the local container runs, as configured"
        )
    if inputs.state is State.LOCAL_EXITED:
        return inputs.rest("the local container ended by itself; systemd restarts the unit")
    return _start_local(inputs, because)


def _next_chance(inputs: _Inputs) -> str:
    return (
        "the local container runs until Kubernetes labels this node again and deploys another image, "
        f"or until you run: kubesync clear {inputs.feature}"
    )


def _start_local(inputs: _Inputs, because: str) -> Plan:
    local = inputs.observed.local
    if local is not None:
        return inputs.act(StartLocal(local.id), f"{because}: the local container is started")
    if not inputs.record.unit_restarted:
        return inputs.act(
            RestartUnit(), f"{because}, no local container exists: the unit's script creates one"
        )
    return inputs.rest(
        f"no local container exists and the unit's script has not created one; see: journalctl -u {inputs.feature}"
    )


def _up_kube(inputs: _Inputs) -> Plan:
    plan = _label(inputs)
    if plan is not None:
        return plan
    if inputs.granted:
        if inputs.record.mode is not Mode.READY:
            return inputs.act(SetMode(Mode.READY), "a kube container owns the feature")
        return _kube_running(inputs)
    if inputs.observed.local_running:
        return _local(inputs)
    return _nothing_runs(inputs)


def _kube_running(inputs: _Inputs) -> Plan:
    """Keep the running kube container (KUBE_RUNNING), or stop an unhealthy one where a local one can take over."""
    record, unwell = inputs.record, complaint_against(inputs.record, inputs.config)
    if not unwell:
        return inputs.rest(record.failure) if record.failure else _adopt(inputs)
    if inputs.observed.local is None:
        return inputs.rest(f"{record.failure}; no local container exists to take over")
    if inputs.granted in inputs.observed.stopping:
        return inputs.rest(f"{record.failure}; the local container takes over once it has ended")
    action = EndContainer(inputs.granted, Cause.STOP, inputs.timing.stop_grace_s)
    return inputs.act(action, f"{record.failure}: the kube container is stopped, the local one takes over")


def _adopt(inputs: _Inputs) -> Plan:
    """Adopt the kube image as the local one after it has run healthily for `tag_after_s`; its age does not count."""
    record, why = inputs.record, "the kube container runs, as configured"
    image_id = next(c.image_id for c in inputs.observed.containers if c.id == inputs.granted)
    if not record.proven or image_id in ("", record.adopted):
        return inputs.rest(why)
    due = max(record.granted_at + inputs.timing.tag_after_s, record.adopt_at)
    if inputs.now < due:
        return inputs.rest(why, due)
    return inputs.act(AdoptImage(image_id), "healthy for long enough: its image becomes the local one")


def _may_still_ask(inputs: _Inputs) -> bool:
    return inputs.observed.reasking and bool(inputs.observed.kube_running)


def _local(inputs: _Inputs) -> Plan:
    """Keep a local container running, or hand over to kube (LOCAL and LOCAL_TO_KUBE)."""
    waiter, record = inputs.observed.waiter, inputs.record
    if record.mode is Mode.READY:
        return inputs.act(
            SetMode(Mode.NONE), "the local container was started manually: Kubernetes takes over from there"
        )
    if record.mode is Mode.NONE:
        if not waiter:
            return inputs.rest("the local container runs until kube deploys")
        if inputs.now < record.refuse_until:
            return inputs.rest(_why_refused(record), record.refuse_until)
        return inputs.act(
            SetMode(Mode.PENDING), "kube has deployed: its container waits for the local one to end"
        )
    if inputs.observed.local_running in inputs.observed.stopping:
        return inputs.rest("the kube container waits; the local one is being stopped")
    if waiter:
        action = EndContainer(inputs.observed.local_running, Cause.STOP, inputs.timing.stop_grace_s)
        return inputs.act(action, "the kube container waits: the local one is stopped")
    if _may_still_ask(inputs):
        return inputs.rest("the kube container may still ask again", inputs.now + inputs.timing.reask_s)
    return inputs.act(SetMode(Mode.NONE), "the kube container no longer waits: the local one stays")


def _why_refused(record: Record) -> str:
    count, did = (record.crashes, "ended early") if record.crashes else (record.health.sick, "was unhealthy")
    times = "once" if count == 1 else f"{count} times in a row"
    return f"the kube container waits, but it {did} {times}: the local one stays for now"


def _nothing_runs(inputs: _Inputs) -> Plan:
    waiter, record = inputs.observed.waiter, inputs.record
    if waiter and (record.mode is not Mode.NONE):
        return inputs.act(Admit(waiter), "no other container runs: the kube container may proceed")
    if record.mode is Mode.PENDING:
        if _may_still_ask(inputs):
            return inputs.rest("the kube container may still ask again", inputs.now + inputs.timing.reask_s)
        return inputs.act(
            SetMode(Mode.READY), "the kube container no longer waits: the next deployment may proceed at once"
        )
    if record.mode is Mode.READY:
        return _kube_ready(inputs)
    if inputs.state is State.LOCAL_EXITED:
        if waiter:
            return inputs.act(
                SetMode(Mode.PENDING), "the local container ended and a kube one waits: it takes over"
            )
        return inputs.rest("the local container ended by itself; systemd restarts the unit")
    if not local_wanted(inputs.config, record):
        return inputs.act(SetMode(Mode.READY), "only Kubernetes may run it")
    if inputs.observed.local is None and record.unit_restarted:
        return inputs.act(SetMode(Mode.READY), "no local container exists: waiting for kube deployment")
    return _start_local(inputs, "it runs locally until kube deploys")


def _kube_ready(inputs: _Inputs) -> Plan:
    """Wait for kube, and fall back to local in time (KUBE_READY, L3)."""
    record, waits = inputs.record, "waiting for kube deployment"
    if inputs.observed.label.refused:
        waits = f"{waits}, blocked: the API server refuses the node label ({inputs.observed.label.refused})"
    if not local_wanted(inputs.config, record):
        return inputs.rest(waits)
    if inputs.observed.local is None and record.unit_restarted:
        return inputs.rest(f"{waits}; no local container exists to fall back to")
    due = inputs.now if record.local_due or record.failure else None
    if due is None:
        idle_since = inputs.now if record.idle_since is None else record.idle_since
        due = idle_since + inputs.timing.fallback_after_s
    if inputs.now < due:
        return inputs.rest(
            f"{waits}; the local container returns after {inputs.timing.fallback_after_s:g} s", due
        )
    if record.local_due:
        return inputs.act(SetMode(Mode.NONE), "the kube container did not stay up: the local one returns")
    return inputs.act(
        SetMode(Mode.NONE), record.failure or "kube has not deployed in time: the local one returns"
    )
