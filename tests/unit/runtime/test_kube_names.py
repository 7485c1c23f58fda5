"""Check how the right of a name in Kubernetes moves between features."""

from __future__ import annotations

from kubesyncd.core.kube_names import KubeClaim
from kubesyncd.runtime.kube_names import KubeNames


def test_a_container_is_that_of_the_feature_that_holds_its_name() -> None:
    names = KubeNames()
    assert names.feature_of("dhcp-relay") == "dhcp-relay"
    assert names.feature_of("0ad") == ""
    assert names.note("dhcp_relay", KubeClaim.NONE) == ("dhcp_relay",)
    assert names.feature_of("dhcp-relay") == "dhcp_relay"
    assert names.note("dhcp_relay", KubeClaim.NONE) == (), "said again, it changes nothing"


def test_who_shares_the_name_is_told_when_the_right_of_it_moves() -> None:
    names = KubeNames()
    names.note("dhcp_relay", KubeClaim.WANTED)
    before = names.changes
    assert names.note("dhcp-relay", KubeClaim.NONE) == ()
    assert names.changes == before
    assert names.note("dhcp-relay", KubeClaim.WANTED) == ("dhcp-relay", "dhcp_relay")
    assert names.feature_of("dhcp-relay") == "dhcp-relay"
    assert "that of dhcp-relay" in names.why_not_kube("dhcp_relay")
    assert names.forget("dhcp-relay") == ("dhcp_relay",)
    assert names.why_not_kube("dhcp_relay") == ""
    names.forget("dhcp_relay")
    assert names.feature_of("dhcp-relay") == "dhcp-relay"


def test_a_feature_without_a_name_in_kubernetes_claims_none() -> None:
    names = KubeNames()
    assert names.note("lldp@0", KubeClaim.WANTED) == ()
    assert "can only be local" in names.why_not_kube("lldp@0")
    assert names.forget("lldp@0") == ()
