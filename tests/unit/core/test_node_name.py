"""Check which names a Node can have, and what a certificate's common name says about it."""

from __future__ import annotations

import pytest

from kubesyncd.core.node_name import certified_name, name_problem, renamed


@pytest.mark.parametrize("name", ["leaf1", "leaf-1.pod2", "0", "a" * 63])
def test_a_name_that_kubernetes_takes_has_no_problem(name: str) -> None:
    assert name_problem(name) == ""


@pytest.mark.parametrize("name", ["leaf_01", "Leaf1", "-leaf", "leaf-", "leaf..1", "a" * 64, "löf", "a b"])
def test_an_impossible_name_is_refused_with_the_fix(name: str) -> None:
    assert "cannot be the name of a node" in name_problem(name)
    assert "config hostname NAME" in name_problem(name)


@pytest.mark.parametrize("name", ["", "localhost", "localhost.localdomain", "(none)"])
def test_a_host_that_has_no_name_yet_does_not_join(name: str) -> None:
    assert "no host name of its own yet" in name_problem(name)


@pytest.mark.parametrize(
    ("common_name", "node"),
    [("system:node:leaf1", "leaf1"), ("leaf1", ""), ("system:node:", ""), ("", ""), ("kubernetes-admin", "")],
)
def test_only_a_nodes_certificate_names_the_node(common_name: str, node: str) -> None:
    assert certified_name(common_name) == node


def test_another_host_name_than_at_the_join_is_told_with_the_fix() -> None:
    assert renamed("leaf1", "leaf1") == ""
    assert "'leaf1' on the master" in renamed("leaf1", "leaf2")
    assert renamed("leaf1", "leaf2").endswith("config kube join -f")
