"""Hold the inputs of one decision, and make plans from them.

Knows no clock, no client, no coroutine: a part of `planner.decide`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.actions import Action, EndContainer, Plan, RequestLabel
from kubesyncd.core.asked_start import start_deadline
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.feature_label import label_missing
from kubesyncd.core.gate import gate_deadline
from kubesyncd.core.model import KubeLabel, Owner
from kubesyncd.core.record import Cause, failure_deadline, lasts_at, ruling_owner
from kubesyncd.core.row_gate import told_since
from kubesyncd.core.stray import stray_deadline
from kubesyncd.core.unasked_start import shown_until
from kubesyncd.core.unverified import unverified_deadline

if TYPE_CHECKING:
    from kubesyncd.core.model import FeatureConfig, Timing
    from kubesyncd.core.observation import Observation
    from kubesyncd.core.record import Record
    from kubesyncd.core.state import State

# Steps that do not hold up those after them when they have failed.
SKIPPED = (
    ActionKind.REQUEST_LABEL,
    ActionKind.RESTORE_IMAGE,
    ActionKind.UNPAUSE,
    ActionKind.STOP,
    ActionKind.KILL,
    ActionKind.RECORD,
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of one decision."""

    config: FeatureConfig
    record: Record
    observed: Observation
    timing: Timing
    now: float
    state: State
    feature: str

    def attempt(self, action: Action, why: str) -> Plan | None:
        """Return a plan with this action; None where it has failed and must not be tried again yet."""
        failed = self.observed.failed(action)
        return Plan(self.state, action, None, why) if failed is None or self.now >= failed.again_at else None

    def act(self, action: Action, why: str) -> Plan:
        """Return a plan with this action, or one that waits until it may be tried again."""
        failed = self.observed.failed(action)
        if failed is None or self.now >= failed.again_at:
            return Plan(self.state, action, None, why)
        return self.rest(f"{why}; it failed and is tried again: {failed.text}", failed.again_at)

    def stop(self, container_id: str, why: str, meanwhile: str) -> Plan:
        """Return a plan that stops it, or one that waits where that is under way."""
        if container_id in self.observed.stopping:
            return self.rest(meanwhile)
        return self.act(self.stopping(container_id), why)

    def stopping(self, container_id: str, given_s: float | None = None) -> EndContainer:
        """Return the action that stops it: within the given grace, else its own stop timeout, else the setting's."""
        container = self.observed.container(container_id)
        own_s = None if container is None else container.stop_timeout_s
        grace_s = next((s for s in (given_s, own_s) if s is not None), self.timing.stop_grace_s)
        return EndContainer(container_id, Cause.STOP, grace_s)

    def rest(self, why: str, *wakes: float | None) -> Plan:
        """Return a plan without an action; the next observation is at the earliest deadline ahead."""
        stable_at = None
        if self.record.grant and not self.record.proven:
            stable_at = self.record.granted_at + self.timing.kube_stable_s
        counted = self.record.grant and self.record.health.ends
        well_at = lasts_at(self.record, self.timing) if counted else None
        gate_at = gate_deadline(self.record.gates, self.timing.gate_after_s, self.now)
        skipped = [f.again_at for f in self.observed.failures if f.kind in SKIPPED]
        stray_at = stray_deadline(self.record.off, self.observed, self.record.grant)
        told_at = told_since(self.record)
        stuck_at = None if told_at is None else told_at + self.timing.gate_after_s
        failed_at = failure_deadline(self.record, self.config)
        start_at, unverified_at = (
            start_deadline(self.record.start),
            unverified_deadline(self.record, self.timing),
        )
        # Not while Kubernetes keeps the feature for it.
        untried_at = None if self.record.no_way_back else self.record.unstartable_until
        due = (
            *wakes,
            *skipped,
            stable_at,
            well_at,
            gate_at,
            stray_at,
            failed_at,
            start_at,
            unverified_at,
            untried_at,
            stuck_at,
            shown_until(self.record.unasked),
        )
        ahead = [t for t in due if t is not None]
        return Plan(self.state, None, min((t for t in ahead if t > self.now), default=None), why)

    @property
    def owner(self) -> Owner:
        """The owner that should run the feature."""
        return ruling_owner(self.config, self.record)

    @property
    def granted(self) -> str:
        """The admitted kube container, while it runs."""
        return self.record.grant if self.record.grant in self.observed.kube_running else ""


def label_step(inputs: Inputs) -> Plan | None:
    """Plan to request the label that the feature should have; None where it has it, or where that fails for now."""
    missing = label_missing(inputs.config, inputs.record, inputs.observed)
    if missing is None:
        return None
    if missing is KubeLabel.ON:
        return inputs.attempt(RequestLabel(on=True), "Kubernetes may deploy it: the node label is requested")
    return inputs.attempt(RequestLabel(on=False), "Kubernetes must not run it: the node label is withdrawn")
