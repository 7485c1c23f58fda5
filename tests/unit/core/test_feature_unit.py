"""Check which unit runs which feature."""

from __future__ import annotations

import pytest

from kubesyncd.core.feature_unit import runs_feature


@pytest.mark.parametrize(
    ("unit", "feature"),
    [
        ("snmp.service", "snmp"),
        ("dhcp_relay.service", "dhcp_relay"),
        ("mgmt-framework.service", "mgmt-framework"),
        ("swss@0.service", "swss0"),
        ("bgp@12.service", "bgp12"),
        ("bgp@12.service", "bgp@12"),
        ("database@dpu0.service", "databasedpu0"),
    ],
)
def test_a_unit_runs_the_feature_of_its_name(unit: str, feature: str) -> None:
    assert runs_feature(unit, feature)


@pytest.mark.parametrize(
    "unit", ["", "snmp", ".service", "ssh.service", "snmp.timer", "snmp@0.service", "xsnmp.service"]
)
def test_another_unit_does_not(unit: str) -> None:
    assert not runs_feature(unit, "snmp")
