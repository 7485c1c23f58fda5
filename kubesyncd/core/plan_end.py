"""Plan the end of containers: of a feature that goes down, and of the one that must make room for another.

Knows no clock, no client, no coroutine: a part of `planner.decide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.core.actions import EndContainer, Plan, RestartUnit
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.inputs import label_step
from kubesyncd.core.model import SHORT_ID
from kubesyncd.core.reasons import runs_on, started_by_policy
from kubesyncd.core.record import Cause
from kubesyncd.core.stray import strays

if TYPE_CHECKING:
    from kubesyncd.core.inputs import Inputs


def down(inputs: Inputs) -> Plan:
    """Bring the feature down (S7): end the local container found by the stop, and every kube container."""
    plan = label_step(inputs)
    if plan is not None:
        return plan
    record = inputs.record
    coming_back = strays(record.off, record.gates, inputs.observed, record.grant)
    kube = tuple(c for c in inputs.observed.kube_running if c not in coming_back)
    if record.ending and inputs.observed.local_running:
        plan = _end(inputs, [inputs.observed.local_running], "the unit is down")
        if plan.action is not None or not kube:
            return plan
    intruder = None if record.ending else inputs.observed.by_policy
    if intruder is not None:
        because = f"the unit is down, and {started_by_policy(intruder)}"
        plan = inputs.stop(intruder.id, f"{because}: it is stopped", f"{because}: it is being stopped")
        if plan.action is not None or not kube:
            return plan
    if kube:
        return end_kube(inputs, kube, "the unit is down")
    if inputs.observed.local_starting:
        return inputs.rest("the unit is down; a docker start is under way: what it starts is ended at once")
    if record.start is not None and record.ending:
        return inputs.rest(
            "the unit is down; Docker was asked for a start: what it still starts is ended at once"
        )
    if coming_back:
        return inputs.rest("the unit is down; a pod that does not follow the node label waits at the gate")
    if inputs.observed.local_running:
        return inputs.rest(f"the unit is down; {runs_on(inputs.observed.local)}")
    return inputs.rest("the unit is down; nothing runs")


def _end(inputs: Inputs, targets: list[str] | tuple[str, ...], because: str) -> Plan:
    """End the first target that has not been asked to end yet."""
    style = inputs.record.style
    asked = inputs.observed.killed if style.signal else inputs.observed.stopping | inputs.observed.killed
    for container_id in targets:
        short = container_id[:SHORT_ID]
        if style.signal:
            action = EndContainer(container_id, Cause.KILL, signal=style.signal)
            why = f"{because}: container {short} is sent {style.signal}"
        else:
            action = inputs.stopping(container_id, style.grace_s)
            why = f"{because}: container {short} is stopped"
        plan = inputs.attempt(action, why) if container_id not in asked else None
        if plan is not None:
            return plan
    kind = ActionKind.KILL if style.signal else ActionKind.STOP
    failed = next((f for f in inputs.observed.failures if f.kind is kind and f.target in targets), None)
    if failed is not None:
        return inputs.rest(f"{because}; it failed and is tried again: {failed.text}")
    return inputs.rest(f"{because}; waiting for Docker to report that the container has ended")


def end_kube(inputs: Inputs, targets: tuple[str, ...], because: str) -> Plan:
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


def renew_unit(inputs: Inputs, because: str) -> Plan | None:
    """Plan to restart the unit before the container ends that its main process waits for; None where none does.

    Otherwise the unit ends with that container, and takes the other one down with it for its RestartSec.
    """
    if not inputs.record.follows:
        return None
    why = f"{because}: the unit waits by another program for the container that ends, and is restarted"
    return inputs.attempt(RestartUnit(renews=True), why)


def one_at_a_time(inputs: Inputs) -> Plan:
    """Stop a local container that appears while a kube container is admitted (S1)."""
    intruder = inputs.observed.by_policy
    came = "the local one that appeared" if intruder is None else f"{started_by_policy(intruder)}, which"
    return inputs.stop(
        inputs.observed.local_running,
        f"the kube container owns the feature: {came} is stopped",
        "the kube container owns the feature; waiting for the local one to end",
    )
