"""Decide the next action for one feature: one pure, total function.

Knows no clock, no client, no coroutine. A plan holds at most one mutating action: act, observe, decide again.
So every crash point lies between two plans, and a restart of the daemon is one more observation.
Each `why` is shown to operators in the log and in `explain`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Forget, Plan, RequestLabel, Unpause, WriteRow
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.inputs import Inputs
from kubesyncd.core.model import KubeLabel, Owner, SystemState
from kubesyncd.core.plan_end import down, one_at_a_time
from kubesyncd.core.plan_kube import up_kube
from kubesyncd.core.plan_local import up_local
from kubesyncd.core.record import project, state_of
from kubesyncd.core.registration import row_settled
from kubesyncd.core.state import State, meaning
from kubesyncd.core.unverified import keeps_row, undecided

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record


def decide(
    config: FeatureConfig,
    record: Record,
    observed: Observation,
    timing: Timing,
    now: float,
    feature: str,
) -> Plan:
    """Decide the next plan for one feature. `record` has absorbed `observed`; `feature`: its name, for texts only."""
    inputs = Inputs(config, record, observed, timing, now, state_of(config, record, observed), feature)
    plan = _wished(inputs)
    row = project(record, observed)
    if row_settled(row, record.registered, observed, kept=keeps_row(record)):
        return plan
    refused = observed.failure_of(ActionKind.WRITE_ROW)
    if refused is not None and plan.action is not None and not isinstance(plan.action, Forget):
        # STATE_DB takes no writes: everything else goes on, and the row follows.
        return plan
    if refused is not None and now < refused.again_at:
        ahead = refused.again_at if plan.wake_at is None else min(plan.wake_at, refused.again_at)
        return replace(plan, action=None, wake_at=ahead)
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


def _wished(inputs: Inputs) -> Plan:
    record, observed = inputs.record, inputs.observed
    if observed.absent:
        return _absent(inputs)
    unread = observed.row is None and not inputs.config.always_local
    if record.system_state is SystemState.ABSENT and not unread:
        whose = "; until then STATE_DB's row is another program's, and unchanged" if keeps_row(record) else ""
        return inputs.rest(f"{meaning(State.UNKNOWN, inputs.feature)}{whose}")
    if record.system_state is SystemState.DOWN:
        return down(inputs)
    if observed.starting:
        # Whatever comes next depends on its result.
        return inputs.rest("docker start is under way; waiting for Docker to finish it")
    if unread:
        return _unread(inputs)
    if undecided(record) is not None:
        return inputs.rest(
            "the ledger does not tell which kube container was admitted: those that run count as admitted unless they "
            "ask again, which is awaited"
        )
    if inputs.granted and observed.local_running:
        return one_at_a_time(inputs)
    owning = inputs.granted or observed.local_running
    if record.unpause and observed.paused(owning):
        # Where it fails, what follows goes on: a hand-over ends the paused container.
        plan = inputs.attempt(
            Unpause(owning), "it was started while its container was paused: it is unpaused"
        )
        if plan is not None:
            return plan
    if inputs.owner is Owner.LOCAL:
        return up_local(inputs)
    return up_kube(inputs)


def _absent(inputs: Inputs) -> Plan:
    """Forget a feature of which nothing is left; its label would let Kubernetes deploy it."""
    gone = "no FEATURE row, no container and no unit is left"
    if inputs.observed.joined and inputs.observed.label.value is KubeLabel.ON:
        return inputs.act(RequestLabel(on=False), f"{gone}: the node label is withdrawn")
    return inputs.act(Forget(), f"{gone}: the feature is forgotten")


def _unread(inputs: Inputs) -> Plan:
    """Wait until STATE_DB can be read."""
    unread = inputs.observed.failure_of(ActionKind.READ_ROW)
    if unread is None:
        return inputs.rest("Redis does not answer; only stop and kill are carried out until it does")
    return inputs.rest(
        f"{unread.text}; only stop and kill are carried out until the row can be read", unread.again_at
    )
