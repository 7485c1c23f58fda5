"""Check the forecast of changes that time alone causes."""

from __future__ import annotations

from kubesyncd.core.absorb import absorb
from kubesyncd.core.model import FeatureConfig, Mode, Owner, SystemState, Timing
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide, foresee
from kubesyncd.core.record import Record, project
from kubesyncd.core.state import State

KUBE = FeatureConfig(set_owner=Owner.KUBE, fallback=True)
TIMING = Timing()
NOW = 1000.0


def at_rest(record: Record, config: FeatureConfig) -> tuple[Record, Observation]:
    """A record that has absorbed a look at nothing running, and a STATE_DB row that says so."""
    record = absorb(record, config, Observation(row=None), TIMING, NOW)
    return record, Observation(row=project(record, Observation(row=None)))


def test_a_feature_that_waits_for_kube_foresees_its_fallback() -> None:
    record, observed = at_rest(Record(system_state=SystemState.UP, mode=Mode.READY), KUBE)
    plan = decide(KUBE, record, observed, TIMING, NOW, "snmp")
    assert plan.wake_at == NOW + TIMING.fallback_after_s
    _, then = foresee(KUBE, record, observed, TIMING, plan.wake_at, "snmp")
    assert (then.state, then.why) == (
        State.KUBE_READY,
        "kube has not deployed in time: the local one returns",
    )
    assert then.action is not None


def test_a_failure_that_is_due_is_foreseen() -> None:
    config = FeatureConfig(set_owner=Owner.KUBE, failure_minutes=1)
    record, observed = at_rest(Record(system_state=SystemState.UP, mode=Mode.READY), config)
    plan = decide(config, record, observed, TIMING, NOW, "snmp")
    assert plan.wake_at == NOW + 60
    foreseen, _ = foresee(config, record, observed, TIMING, plan.wake_at, "snmp")
    assert foreseen.failure == "no kube container has run for 1 min"
    assert record.failure == ""
