"""Store the label queue, and keep every valid part of a damaged file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.cluster import queue_file
from kubesyncd.core.label_queue import PENDING_MAX, Queue
from kubesyncd.core.labels import Change

KEYS = st.sampled_from(["a", "b", "snmp_enabled"])
CHANGES = st.builds(Change, KEYS, st.one_of(st.none(), st.sampled_from(["1", "2", "true"])))


@given(st.lists(CHANGES, max_size=20), st.dictionaries(KEYS, st.one_of(st.none(), st.just("1"))))
def test_the_file_gives_back_what_was_written(changes: list[Change], applied: dict[str, str | None]) -> None:
    queue = Queue(applied=applied).append(changes)
    queue = replace(queue.fail(queue.fold()).wish(changes), uid="uid", version=7)
    back, problems = queue_file.decode(queue_file.encode(queue))
    assert problems == ()
    assert (back.changes, back.applied, back.failed) == (queue.changes, queue.applied, queue.failed)
    assert (back.wishes, back.uid, back.version) == (queue.wishes, "uid", 7)


def test_a_missing_file_is_an_empty_queue_without_a_problem() -> None:
    assert queue_file.decode(None) == (Queue(), ())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b" " * (queue_file.FILE_BYTES_MAX + 1)]
)
def test_an_unreadable_file_is_an_empty_queue_and_one_sentence(data: bytes) -> None:
    queue, problems = queue_file.decode(data)
    assert queue == Queue()
    assert len(problems) == 1
    assert "starts empty" in problems[0]


def test_the_usable_part_of_a_damaged_file_is_kept() -> None:
    content = {
        "pending": ["a=1", "kubernetes.io/x=1", "b-"],
        "applied": {"a": "1", "b": 5, "": "x", "c": None},
        "failed": ["a", "nobody"],
    }
    queue, problems = queue_file.decode(json.dumps(content).encode())
    assert [str(change) for change in queue.changes] == ["a=1", "b-"]
    assert queue.applied == {"a": "1", "c": None}
    assert queue.failed == {"a"}
    assert len(problems) == 3


def test_invalid_wishes_are_ignored_and_named_and_too_many_are_none() -> None:
    queue, problems = queue_file.decode(
        json.dumps({"wishes": {"a": "1", "b": "/"}, "node": 5, "store": True}).encode()
    )
    assert (queue.wishes, queue.uid, queue.version, len(problems)) == ({"a": "1"}, "", 0, 1)
    flood = {f"k{n}": "1" for n in range(PENDING_MAX + 1)}
    assert queue_file.decode(json.dumps({"wishes": flood}).encode())[0].wishes == {}


def test_a_file_is_read_up_to_two_mib() -> None:
    most = b"{}" + b" " * (2 * 1024 * 1024 - 2)
    assert queue_file.decode(most) == (Queue(), ())
    assert queue_file.decode(most + b" ")[1] == (
        "the label queue cannot be read ('longer than 2097152 bytes'); it starts empty",
    )


def test_an_invalid_part_of_the_file_is_named() -> None:
    content = {"pending": "a=1", "applied": ["a"], "failed": [1]}
    assert queue_file.decode(json.dumps(content).encode())[1] == (
        "label queue file: invalid pending, not a list of strings; ignored",
        "label queue file: invalid applied, not an object; ignored",
        "label queue file: invalid failed, not a list of strings; ignored",
    )


def test_a_file_of_rubbish_is_five_sentences_at_most() -> None:
    def told(count: int) -> list[str]:
        content = {"applied": {f"k{n}": 0 for n in range(count)}}
        return list(queue_file.decode(json.dumps(content).encode())[1])

    assert told(5) == [f"an applied label is ignored: 'k{n}'" for n in range(5)]
    assert told(6) == [*told(4), "2 more problems in the label queue file"]


def test_the_file_can_be_read_by_people() -> None:
    queue = Queue(applied={"b": None}).append([Change("a", "1")])
    text = '{\n "pending": [\n  "a=1"\n ],\n "applied": {\n  "b": null\n },\n "failed": [],\n'
    text += ' "wishes": {},\n "node": "",\n "store": 0\n}\n'
    assert queue_file.encode(queue).decode() == text


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(st.one_of(st.binary(), st.fixed_dictionaries(dict.fromkeys(("pending", "applied", "failed"), JSON))))
def test_no_file_content_raises(content: bytes | dict[str, object]) -> None:
    queue, problems = queue_file.decode(
        content if isinstance(content, bytes) else json.dumps(content).encode()
    )
    assert queue_file.decode(queue_file.encode(queue))[1] == ()
    assert len(problems) <= 5
