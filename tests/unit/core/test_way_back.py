"""Check that the only container of a feature is not ended: Kubernetes keeps it until a local one can exist."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.actions import EndContainer, RequestLabel
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.model import FeatureConfig, LabelView, Mode, Owner
from kubesyncd.core.record import ruling_owner
from kubesyncd.core.state import State
from tests.unit.core.given import (
    KUBE,
    KUBE_CONFIG,
    LOCAL_CONFIG,
    NOW,
    ON,
    ROLLBACK,
    TIMING,
    down,
    granted,
    kube,
    local,
    look,
    observed,
    plan,
    up,
)

LOST = observed(kube(), label=ON, way_back=False)


@pytest.mark.parametrize("config", [LOCAL_CONFIG, ROLLBACK])
def test_the_only_container_is_kept(config: FeatureConfig) -> None:
    record = granted(rolled_back=config is ROLLBACK, failure="bad" if config is ROLLBACK else "")
    decided = plan(config, record, LOST)
    assert (decided.action, decided.state) == (None, State.KUBE_RUNNING)
    record, seen = look(config, record, LOST)
    assert record.no_way_back
    (found,) = conditions("snmp", record, seen, TIMING, NOW)
    assert found.kind is ConditionKind.NO_WAY_BACK
    assert found.text.endswith("Create a container named snmp, or: config feature owner snmp kube")


def test_the_reason_is_told() -> None:
    assert "set_owner=local, but no local container exists" in plan(LOCAL_CONFIG, granted(), LOST).why
    assert plan(KUBE_CONFIG, granted(adopted="x"), LOST).why == "the kube container runs, as configured"


def test_it_is_kept_over_a_crash_of_its_container_and_until_a_local_one_can_exist() -> None:
    record, _ = look(LOCAL_CONFIG, granted(), LOST)
    crashed, _ = look(LOCAL_CONFIG, record, replace(LOST, containers=()))
    assert crashed.no_way_back
    assert ruling_owner(LOCAL_CONFIG, crashed) is Owner.KUBE
    unknown = replace(LOST, containers=(), label=LabelView())
    assert plan(LOCAL_CONFIG, record, unknown).action == RequestLabel(on=True), "Kubernetes must run it again"
    found = replace(LOST, way_back=True)
    assert plan(LOCAL_CONFIG, record, found).action == RequestLabel(on=False)
    made = observed(kube(), local(running=False), way_back=True)
    assert isinstance(plan(LOCAL_CONFIG, record, made, NOW + 61.0).action, EndContainer | None)
    assert not look(LOCAL_CONFIG, record, made)[0].no_way_back


def test_only_a_container_that_owns_the_feature_is_kept() -> None:
    assert not look(LOCAL_CONFIG, up(mode=Mode.READY), LOST)[0].no_way_back
    assert not look(LOCAL_CONFIG, down(), LOST)[0].no_way_back
    assert not look(LOCAL_CONFIG, down(grant=KUBE), LOST)[0].no_way_back, "a stop ends it all the same"
