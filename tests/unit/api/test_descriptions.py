"""Check that a described value has every field, spelled as JSON spells it."""

from __future__ import annotations

import json
from dataclasses import asdict

from kubesyncd.api.feature_description import (
    describe_complaint,
    describe_config,
    describe_container,
    describe_label,
    describe_row,
)
from kubesyncd.core.descriptions import (
    ClusterDescription,
    ConfigDescription,
    ContainerDescription,
    FeatureDescription,
    LabelDescription,
    RowDescription,
)
from kubesyncd.core.health import Complaint
from kubesyncd.core.model import (
    Container,
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    Row,
    SystemState,
)
from kubesyncd.core.state import State
from tests.lab import stub_daemon


def test_a_description_has_every_field_of_the_configuration() -> None:
    for config in (FeatureConfig(), FeatureConfig(Owner.KUBE, failure_policy=FailurePolicy.ROLLBACK)):
        assert json.dumps(describe_config(config)) == json.dumps(asdict(config))


def test_a_description_has_every_field_of_the_state_db_row() -> None:
    row = Row(SystemState.UP, Owner.KUBE, Mode.READY, "f00d", 12, "failed")
    assert json.dumps(describe_row(row)) == json.dumps(asdict(row))


def test_a_description_has_every_field_of_the_label() -> None:
    label = LabelView(KubeLabel.ON, pending=True, queued_at=1.5)
    assert json.dumps(describe_label(label)) == json.dumps({**asdict(label), "value": "on"})


def test_a_description_has_every_field_of_a_container() -> None:
    container = Container("f00d", Owner.LOCAL, running=False, exit_code=3, image="docker-snmp")
    assert json.dumps(describe_container(container)) == json.dumps(
        {**asdict(container), "restarts": container.restarts}
    )


def test_a_description_has_every_field_of_a_complaint() -> None:
    complaint = Complaint("f00d", "host", "no route")
    assert json.dumps(describe_complaint(complaint)) == json.dumps(asdict(complaint))


def test_the_stub_daemon_answers_with_the_keys_of_the_real_one() -> None:
    feature = stub_daemon.feature("snmp", State.LOCAL, "")
    for answer, description in (
        (feature, FeatureDescription),
        (feature["config"], ConfigDescription),
        (feature["row"], RowDescription),
        (feature["label"], LabelDescription),
        (stub_daemon.container("kube", stub_daemon.KUBE_ID), ContainerDescription),
        (stub_daemon.cluster(), ClusterDescription),
    ):
        assert set(answer) == set(description.__annotations__), description
