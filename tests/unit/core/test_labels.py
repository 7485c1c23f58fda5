"""Check what the label queue accepts, and that it loses nothing it has accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubesyncd.core import label_queue, labels
from kubesyncd.core.label_queue import Fold, Queue, QueueFull
from kubesyncd.core.labels import (
    Change,
    InvalidLabel,
    describes_switch,
    feature_label,
    feature_of,
    not_by_hand,
)
from kubesyncd.core.model import KubeLabel, NodeSeen


def queue_of(*texts: str) -> Queue:
    return Queue().append([Change.parse(text) for text in texts])


def shown(queue: Queue) -> list[str]:
    return [str(change) for change in queue.changes]


# ---- what is a label ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "snmp_enabled=true",
        "snmp_enabled-",
        "empty=",
        "a=b",
        "A.b_c-d=V.a_l-1",
        "worker.sonic/platform=x86_64-kvm_x86_64-r0",
        f"{'k' * 63}={'v' * 63}",
        f"{'a.' * 126}a/name=1",
        "kubernetes.io/hostname=sw1",
        "kubernetes.io/arch=amd64",
        "kubernetes.io/os=linux",
        "beta.kubernetes.io/arch=amd64",
        "beta.kubernetes.io/os=linux",
        "beta.kubernetes.io/instance-type=k3s",
        "node.kubernetes.io/instance-type=k3s",
        "topology.kubernetes.io/region=eu",
        "topology.kubernetes.io/zone=a",
        "failure-domain.beta.kubernetes.io/region=eu",
        "failure-domain.beta.kubernetes.io/zone=a",
        "node.kubernetes.io/anything=1",
        "sub.kubelet.kubernetes.io/anything=1",
        "notkubernetes.io/name=1",
    ],
)
def test_a_label_kubernetes_takes_is_read_and_printed_unchanged(text: str) -> None:
    assert str(Change.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "key=value"),
        ("snmp", "key=value"),
        ("=v", "letter or digit"),
        ("-", "letter or digit"),
        ("_a=1", "both ends"),
        ("a_=1", "both ends"),
        ("a b=1", "both ends"),
        ("a=b c", "value 'b c'"),
        ("a=b=c", "value 'b=c'"),
        ("a=x,y", "value 'x,y'"),
        ("a=-", "both ends"),
        ("é=1", "\\xe9"),
        ("a=\n", "\\n"),
        ("a\n=1", "\\n"),
        (f"{'k' * 64}=1", "1 to 63"),
        (f"a={'v' * 64}", "at most 63"),
        (f"{'a' * 254}/name=1", "253"),
        ("Upper.io/name=1", "lower case"),
        ("/name=1", "DNS name"),
        ("a/b/c=1", "DNS name"),
        ("a.io/=1", "1 to 63"),
        ("kubernetes.io/role=x", "such as role"),
        ("node-restriction.kubernetes.io/x-", "NodeRestriction"),
        ("node-role.kubernetes.io/master-", "NodeRestriction"),
        ("k8s.io/x=1", "NodeRestriction"),
        ("a.k8s.io/x=1", "NodeRestriction"),
    ],
)
def test_a_label_kubernetes_refuses_is_refused_at_once_in_one_line(text: str, named: str) -> None:
    with pytest.raises(InvalidLabel) as raised:
        Change.parse(text)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 350


@given(st.text())
def test_any_text_is_a_change_that_prints_the_same_or_is_refused(text: str) -> None:
    try:
        change = Change.parse(text)
    except InvalidLabel:
        return
    assert str(change) == text
    assert Change.parse(str(change)) == change


def test_a_feature_and_its_label_name_each_other() -> None:
    assert feature_label("snmp") == "snmp_enabled"
    assert feature_of("snmp_enabled") == "snmp"
    for other in ("snmp", "_enabled", "Snmp_enabled", "a/snmp_enabled", "../x_enabled"):
        assert feature_of(other) is None


# ---- the queue ----------------------------------------------------------------------------------


def test_many_changes_fold_into_one_with_the_last_value_per_key() -> None:
    fold = queue_of("a=1", "b=1", "a-", "b-", "b=2").fold()
    assert dict(fold.changes) == {"a": None, "b": "2"}
    assert fold.count == 5


def test_acknowledging_drops_what_was_folded_and_nothing_that_came_later() -> None:
    queue = queue_of("a=1", "b=1")
    fold = queue.fold()
    queue = queue.append([Change("a", "2")]).acknowledge(fold)
    assert shown(queue) == ["a=2"]
    assert queue.applied == {"a": "1", "b": "1"}
    assert queue.effective("a") == "2"


def test_a_rejected_label_leaves_and_the_others_stay() -> None:
    queue = queue_of("a=1", "bad=1", "b=1", "bad=2")
    fold = queue.fold()
    queue = queue.append([Change("bad", "3")]).reject(fold.only("bad"))
    assert shown(queue) == ["a=1", "b=1", "bad=3"]
    assert queue.applied == {}


def test_only_what_an_attempt_held_counts_as_failed_until_it_leaves() -> None:
    queue = queue_of("a=1", "b=1")
    fold = queue.fold()
    queue = queue.append([Change("c", "1")]).fail(fold)
    assert queue.failed == {"a", "b"}
    queue = queue.acknowledge(fold.only("a"))
    assert queue.failed == {"b"}
    assert queue.reject(fold.only("b")).failed == frozenset()
    assert queue.forgive().failed == frozenset()


def test_an_answer_after_a_purge_finds_nothing_to_drop_or_learn() -> None:
    queue = queue_of("a=1")
    fold = queue.fold()
    queue = queue.purge().append([Change("a", "2")])
    assert shown(queue.acknowledge(fold)) == ["a=2"]
    assert queue.acknowledge(fold).applied == {}


@pytest.mark.parametrize(
    ("queue", "value"),
    [
        (Queue(), KubeLabel.UNKNOWN),
        (Queue(applied={"a": None}), None),
        (Queue(applied={"a": "1"}), "1"),
        (queue_of("a=1", "a-", "b=1"), None),
        (Queue(applied={"a": "1"}).append([Change("a", "2")]), "2"),
    ],
)
def test_the_value_to_come_is_the_last_pending_else_the_applied_one(queue: Queue, value: object) -> None:
    assert queue.effective("a") == value


def test_what_the_node_has_replaces_what_we_thought_and_leaves_the_queue_alone() -> None:
    queue = Queue(applied={"gone": "1", "changed": "1", "same": "1"}).append([Change("gone", "2")])
    seen = queue.observe({"changed": "2", "same": "1", "snmp_enabled": "true", "foreign": "1"}, ["asked"])
    assert seen.applied == {
        "gone": None, "changed": "2", "same": "1", "snmp_enabled": "true", "asked": None,
    }  # fmt: skip
    assert seen.pending == queue.pending
    assert seen.observe({"changed": "2", "same": "1", "snmp_enabled": "true", "new": "1"}) is seen


def test_a_value_changed_on_the_node_is_taken_over() -> None:
    queue = Queue(applied={"a": "1"})
    assert queue.observe({"a": "2"}).applied == {"a": "2"}
    assert queue.observe({}).applied == {"a": None}


def test_a_queue_that_is_just_full_keeps_every_entry() -> None:
    assert label_queue.PENDING_MAX == label_queue.APPLIED_MAX == 1024
    full = Queue().append(FLOOD)
    assert len(full.pending) == label_queue.PENDING_MAX
    assert shown(full.append([Change("a", "last")])) == ["a=last"]


def test_a_full_queue_drops_superseded_entries_and_refuses_only_new_keys() -> None:
    queue = Queue()
    for number in range(label_queue.PENDING_MAX * 3):
        queue = queue.append([Change(f"k{number % 7}", str(number))])
    assert len(queue.pending) <= label_queue.PENDING_MAX
    assert dict(queue.fold().changes) == {f"k{n % 7}": str(n) for n in range(number - 6, number + 1)}

    full = Queue().append([Change(f"k{n}", "1") for n in range(label_queue.PENDING_MAX)])
    with pytest.raises(QueueFull):
        full.append([Change("one-more", "1")])
    assert full.append([Change("k0", "2")]).effective("k0") == "2"


def test_what_is_known_stays_bounded_and_absence_is_forgotten_first() -> None:
    node = {f"k{n}": "1" for n in range(label_queue.APPLIED_MAX)}
    queue = Queue(applied={"absent": None}).observe(node, node)
    assert len(queue.applied) == label_queue.APPLIED_MAX
    assert "absent" not in queue.applied


KEYS = st.sampled_from(["a", "b", "snmp_enabled"])
CHANGES = st.builds(Change, KEYS, st.one_of(st.none(), st.sampled_from(["1", "2", "true"])))
FLOOD = tuple(Change("a", str(n)) for n in range(label_queue.PENDING_MAX))


class WhateverHappens(RuleBasedStateMachine):
    """The last accepted value of each key survives lost replies, refusals, a full queue and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.accepted: dict[str, str | None] = {}
        self.node: dict[str, str | None] = {}
        self.flight: Fold | None = None

    @rule(changes=st.lists(CHANGES, min_size=1, max_size=4))
    def request(self, changes: list[Change]) -> None:
        self.queue = self.queue.append(changes)
        self.accepted |= {change.key: change.value for change in changes}

    @rule()
    def fill_the_queue(self) -> None:
        self.queue = self.queue.append(FLOOD)
        self.accepted["a"] = FLOOD[-1].value

    @precondition(lambda self: self.flight is None)
    @rule()
    def a_patch_reaches_the_master(self) -> None:
        self.flight = self.queue.fold()
        self.node.update(self.flight.changes)

    @precondition(lambda self: self.flight is not None)
    @rule()
    def its_answer_arrives(self) -> None:
        self.queue, self.flight = self.queue.acknowledge(self.flight), None

    @precondition(lambda self: self.flight is not None)
    @rule()
    def its_answer_is_lost(self) -> None:
        self.queue, self.flight = self.queue.fail(self.flight), None

    @precondition(lambda self: self.flight is not None and self.flight.changes)
    @rule()
    def one_label_of_it_is_refused(self) -> None:
        flight, self.flight = self.flight, None
        bad, *good = flight.changes
        for key in good:
            self.queue = self.queue.acknowledge(flight.only(key))
        self.queue = self.queue.reject(flight.only(bad))
        if bad not in self.queue.keys:
            del self.accepted[bad]

    @rule()
    def the_daemon_restarts(self) -> None:
        self.queue = Queue().append(self.queue.changes).recall(self.queue.applied, self.queue.failed)
        self.flight = None

    @invariant()
    def every_accepted_value_is_still_to_come_or_applied(self) -> None:
        assert {key: self.queue.effective(key) for key in self.accepted} == self.accepted

    @invariant()
    def one_more_patch_would_make_the_node_right(self) -> None:
        after = {**self.node, **self.queue.fold().changes}
        assert {key: after[key] for key in self.accepted} == self.accepted

    @invariant()
    def the_queue_stays_small_and_only_queued_labels_count_as_failed(self) -> None:
        assert len(self.queue.pending) <= label_queue.PENDING_MAX
        assert self.queue.failed <= self.queue.keys


TestWhateverHappens = WhateverHappens.TestCase
TestWhateverHappens.settings = settings(max_examples=60)


def test_a_label_held_back_stays_pending_and_the_others_go() -> None:
    queue = queue_of("a=1", "b=1", "a=2")
    fold = queue.fold(frozenset({"a"}))
    assert (fold.changes, fold.count) == ({"b": "1"}, 1)
    assert shown(queue.acknowledge(fold)) == ["a=1", "a=2"]


# ---- wishes --------------------------------------------------------------------------------------


def wished(*texts: str, uid: str = "one") -> Queue:
    """A queue whose wishes are delivered, on the Node `uid`."""
    changes = [Change.parse(text) for text in texts]
    queue = Queue(uid=uid).append(changes).wish(changes)
    return queue.acknowledge(queue.fold())


def test_a_wish_outlives_its_delivery_and_ends_with_a_drop_a_refusal_or_a_reset() -> None:
    queue = wished("rack=7", "row=2", "snmp_enabled=true", "gone-")
    assert queue.wishes == {"rack": "7", "row": "2"}
    assert queue.wish([Change("rack", None)]).wishes == {"row": "2"}
    refused = queue.append([Change("row", "3")]).wish([Change("row", "3")])
    assert refused.reject(refused.fold()).wishes == {"rack": "7"}
    assert queue.purge().wishes == {}


def test_more_wishes_than_the_limit_are_refused() -> None:
    most = [Change(f"k{n}", "1") for n in range(label_queue.PENDING_MAX)]
    full = Queue().wish(most)
    assert len(full.wishes) == label_queue.PENDING_MAX
    with pytest.raises(QueueFull):
        full.wish([Change("one-more", "1")])


@pytest.mark.parametrize(
    ("seen", "again"),
    [
        (NodeSeen({"rack": "7", "row": "2"}, "one"), []),
        (NodeSeen({"row": "2"}, "one"), []),
        (NodeSeen({"rack": "8"}, "one", older=True), ["rack=7", "row=2"]),
        (NodeSeen({"rack": "7", "row": "2"}, "one", older=True), []),
        (NodeSeen({}, "two"), ["rack=7", "row=2"]),
        (NodeSeen({"row": "2"}, "two"), ["rack=7"]),
        (NodeSeen({}, "one", version=89), ["rack=7", "row=2"]),
        (NodeSeen({}, "one", version=1), ["rack=7", "row=2"]),
        (NodeSeen({}, "one", version=0), []),
        (NodeSeen({}, "one", version=90), []),
    ],
)
def test_only_a_new_or_a_restored_node_gets_the_wishes_that_it_lacks_again(
    seen: NodeSeen, again: list[str]
) -> None:
    met = replace(wished("rack=7", "row=2"), version=90).meet(seen)
    assert (shown(met), met.uid, met.version) == (again, seen.uid, seen.version or 90)
    assert shown(met.meet(replace(seen, older=False))) == again, "once"


def test_a_label_that_an_operator_removed_is_removed_from_a_restored_node_again() -> None:
    removed = wished("rack=7").append([Change("row", None), Change("snmp_enabled", None)])
    removed = removed.acknowledge(removed.fold())
    removed = removed.observe({"rack": "7"}, ["hwsku"])
    labels = {"rack": "7", "row": "2", "snmp_enabled": "true", "theirs": "x", "hwsku": "x"}
    assert shown(removed.meet(NodeSeen(labels, "one", older=True))) == ["row-"]
    assert shown(removed.meet(NodeSeen(labels, "one"))) == []


def test_the_first_node_gets_nothing_again_and_what_waits_is_not_queued_twice() -> None:
    first = wished("rack=7", uid="").meet(NodeSeen({}, "one"))
    assert (shown(first), first.uid) == ([], "one")
    later = first.append([Change("rack", "8")]).wish([Change("rack", "8")])
    assert shown(later.meet(NodeSeen({}, "two"))) == ["rack=8"]
    assert shown(wished("a=1").append([FLOOD[0]]).meet(NodeSeen({}, "two"))) == ["a=0"]


def test_a_new_node_gets_as_many_wishes_again_as_the_queue_has_room_for() -> None:
    others = [Change(f"k{n}", "1") for n in range(label_queue.PENDING_MAX - 1)]
    met = wished("rack=7", "row=2").append(others).meet(NodeSeen({}, "two"))
    assert shown(met)[-1] == "rack=7"
    assert len(met.pending) == label_queue.PENDING_MAX


def test_the_version_of_the_store_is_kept_only_where_an_operator_set_or_removed_a_label() -> None:
    seen = NodeSeen({}, "one", version=90)
    assert Queue(uid="one").meet(seen) == Queue(uid="one")
    assert wished("rack=7").meet(seen).version == 90
    assert wished("rack-").meet(seen).version == 90
    assert shown(wished("rack-").meet(seen).meet(NodeSeen({"rack": "7"}, "one", version=80))) == ["rack-"]
    assert wished("rack=7").meet(seen).purge().version == 0


def test_a_wish_that_another_client_changed_has_drifted_until_it_is_asked_for_again() -> None:
    queue = wished("rack=7", "row=2").observe({"rack": "8"})
    assert queue.drifted == {"rack": "8", "row": None}
    assert queue.append([Change("rack", "7")]).drifted == {"row": None}
    assert queue.observe({"rack": "8", "row": "2"}).drifted == {"rack": "8"}
    assert replace(queue, applied={}).drifted == {}, "the Node's value is not known"


def test_a_file_without_wishes_implies_those_that_were_applied_or_wait() -> None:
    queue = queue_of("row=2", "slot-").recall(
        {"rack": "7", "slot": "1", "gone": None, "snmp_enabled": "true", "hwsku": "x"}, ()
    )
    assert queue.infer_wishes().wishes == {"rack": "7", "row": "2"}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("hwsku", "hwsku of DEVICE_METADATA"),
        ("sonic_version", "the installed SONiC version"),
        ("worker.sonic/platform", "platform of"),
        ("deployment_type", "type of"),
        ("kubernetes.io/hostname", "set by its kubelet"),
        ("node.kubernetes.io/instance-type", "set by its kubelet"),
    ],
)
def test_a_label_that_describes_the_switch_is_not_an_operators(key: str, reason: str) -> None:
    assert reason in not_by_hand(key)
    assert describes_switch(key)
    assert (not_by_hand("rack"), describes_switch("rack")) == ("", False)


# ---- what a file stored beside the changes -------------------------------------------------------


def test_a_queue_recalls_what_was_stored_and_only_queued_labels_count_as_failed() -> None:
    queue = queue_of("a=1", "b-").recall({"a": "0", "c": None}, ["a", "c"])
    assert shown(queue) == ["a=1", "b-"]
    assert queue.applied == {"a": "0", "c": None}
    assert queue.failed == {"a"}


def test_a_queue_recalls_at_most_as_many_applied_labels_as_it_keeps() -> None:
    most = {f"k{n}": "1" for n in range(label_queue.APPLIED_MAX)}
    assert Queue().recall(most, ()).applied == most
    assert Queue().recall({"gone": None, **most}, ()).applied == most


@pytest.mark.parametrize(("text", "said"), [("x" * 80, "x" * 80), ("x" * 81, "x" * 77 + "...")])
def test_an_invalid_label_is_shown_abridged(text: str, said: str) -> None:
    with pytest.raises(InvalidLabel) as raised:
        Change.parse(text)
    assert str(raised.value).startswith(f"invalid label change '{said}'")


# ---- self-description ---------------------------------------------------------------------------


def test_a_switch_describes_itself_with_labels_a_manifest_may_select() -> None:
    metadata = {"hwsku": "Force10-S6000", "platform": "x86_64-kvm_x86_64-r0", "type": "LeafRouter"}
    assert [str(c) for c in labels.self_description(metadata, "master.1-dirty+x/y z")] == [
        "sonic_version=master.1-dirty_x_y_z",
        "worker.sonic/platform=x86_64-kvm_x86_64-r0",
        "hwsku=Force10-S6000",
        "deployment_type=LeafRouter",
    ]


def test_values_that_do_not_fit_in_a_label_are_reported_in_full() -> None:
    metadata = {"hwsku": "Force10-S6000", "platform": "-XplatformX-", "type": "Leaf Router"}
    assert [str(c) for c in labels.self_description(metadata, "")] == [
        "worker.sonic/platform=XplatformX",
        "hwsku=Force10-S6000",
        "deployment_type=Leaf_Router",
    ]
    assert labels.originals(metadata, "a+b") == {
        "sonic_version": "a+b", "platform": "-XplatformX-", "deployment_type": "Leaf Router",
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from(["hwsku", "platform", "type", "HwSKU"]), st.text()), st.text())
def test_any_metadata_describes_a_switch_without_error(metadata: dict[str, str], version: str) -> None:
    labels.self_description(metadata, version)


# ---- what others ask ----------------------------------------------------------------------------


def test_a_key_is_one_the_master_lets_this_node_set() -> None:
    assert labels.is_key("snmp_enabled") is True
    assert labels.is_key("a" * labels.PART_LENGTH_MAX)
    assert not labels.is_key("a" * (labels.PART_LENGTH_MAX + 1))
    assert labels.is_key("kubernetes.io/os-like") is False
    assert labels.is_key("") is False


def test_a_queue_knows_whether_it_still_holds_what_was_asked() -> None:
    queue = queue_of("a=1", "b=1", "a=2")
    assert queue.holds({"a"}, 1)
    assert queue.holds({"b"}, 2)
    assert not queue.holds({"b"}, 1)
    assert not queue.holds({"c"}, 3)
    assert not queue.acknowledge(queue.fold().only("a")).holds({"a"}, 3)
