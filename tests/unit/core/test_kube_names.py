"""Check the names of features in Kubernetes, and which of two features has the right of one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core.kube_names import KubeClaim, holder_of, kube_name, why_not_kube
from kubesyncd.core.labels import feature_label, is_key
from kubesyncd.core.model import FEATURE_NAME

# RFC 1123, as Kubernetes' own error message quotes it.
RFC_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@pytest.mark.parametrize(
    ("feature", "kube"),
    [
        ("snmp", "snmp"),
        ("dhcp_relay", "dhcp-relay"),
        ("dhcp-relay", "dhcp-relay"),
        ("lldp@0", ""),
        ("odd_", ""),
        ("odd-", ""),
        ("a" * 55, "a" * 55),
        ("a" * 56, ""),
    ],
)
def test_a_feature_s_name_in_kubernetes(feature: str, kube: str) -> None:
    assert kube_name(feature) == kube
    assert ("can only be local" in why_not_kube(feature, {})) is not bool(kube)


@given(st.from_regex(FEATURE_NAME, fullmatch=True))
def test_what_kubernetes_gets_of_a_feature_s_name_obeys_its_rules(feature: str) -> None:
    name = kube_name(feature)
    assert not name or (len(name) <= 63 and RFC_1123.fullmatch(name) and is_key(feature_label(feature)))


def test_the_larger_claim_has_the_right_of_a_name_and_then_the_first_in_order() -> None:
    claims = {"dhcp_relay": KubeClaim.WANTED, "dhcp-relay": KubeClaim.NONE, "snmp": KubeClaim.GRANTED}
    assert holder_of("dhcp-relay", claims) == "dhcp_relay"
    assert holder_of("dhcp-relay", claims | {"dhcp-relay": KubeClaim.WANTED}) == "dhcp-relay"
    wanted = claims | {"dhcp-relay": KubeClaim.WANTED}
    assert holder_of("dhcp-relay", wanted | {"dhcp_relay": KubeClaim.GRANTED}) == "dhcp_relay"
    assert holder_of("radv", claims) == ""
    assert why_not_kube("dhcp_relay", claims) == ""
    assert why_not_kube("radv", claims) == ""
    assert "that of dhcp_relay" in why_not_kube("dhcp-relay", claims)
