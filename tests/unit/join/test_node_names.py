"""Check where the name of the Node comes from, and that it follows every change."""

from __future__ import annotations

from kubesyncd.join.node_names import NodeNames
from kubesyncd.join.plan import Membership, Standing
from kubesyncd.ports import Unavailable


class Host:
    """A switch: its host name, its credential's name, and its record of a join."""

    def __init__(self, configured: str = "") -> None:
        self.name, self.certified = "sonic", ""
        self.record: Membership | None = None
        self.readable = True
        self.names = NodeNames(
            certified=lambda: self.certified,
            recorded=self._recorded,
            configured=configured,
            host=lambda: self.name,
        )

    def _recorded(self) -> Membership | None:
        if not self.readable:
            raise Unavailable("state file", "input/output error")
        return self.record

    def note(self, standing: Standing, node: str) -> None:
        self.record = Membership(standing, "10.0.0.1", 6443, node, "admin.conf", 1)


def test_a_host_name_that_comes_late_is_the_one_that_joins() -> None:
    host = Host()
    host.name = "Leaf1\n"
    assert (host.names.current(), host.names.next()) == ("leaf1", "leaf1")


def test_the_credential_names_the_node_before_the_record_and_the_record_before_the_host() -> None:
    host = Host()
    host.note(Standing.JOINED, "leaf2")
    assert host.names.current() == "leaf2"
    host.certified = "leaf3"
    assert (host.names.current(), host.names.next()) == ("leaf3", "sonic")
    assert "config kube join -f" in host.names.renamed()
    host.name = "leaf3"
    assert host.names.renamed() == ""


def test_the_record_of_a_left_master_and_an_unreadable_one_name_no_node() -> None:
    host = Host()
    host.note(Standing.LEFT, "leaf2")
    assert host.names.current() == "sonic"
    host.note(Standing.JOINED, "leaf2")
    host.readable = False
    assert host.names.current() == "sonic"


def test_a_configured_name_is_that_of_the_next_join_only() -> None:
    host = Host(configured="leaf_9")
    host.certified = "leaf1"
    assert (host.names.current(), host.names.next()) == ("leaf1", "leaf_9")
    assert "'leaf_9'" in host.names.problem()
