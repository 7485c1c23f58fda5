"""Check which image is tagged, kept and removed, from every state that a power cut can leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core.image_model import Image, Stock
from kubesyncd.images.policy import (
    KNOWN_MAX,
    ImageRecord,
    Remove,
    Tag,
    adopt,
    base,
    known_names,
    local_name,
    previous_name,
    remember,
    removable,
    restore,
    role,
    tidy,
)

LOCAL = "docker-snmp:latest"
PREVIOUS = "docker-snmp:kubesyncd-previous"
V1, V2, V3 = (f"sha256:{digit * 64}" for digit in "123")
KUBE = "registry:5000/sonic/docker-snmp"
RECORD = ImageRecord(local=LOCAL)


def stock(tags: dict[str, str], used: tuple[str, ...] = ()) -> Stock:
    """Images by their names."""
    names: dict[str, list[str]] = {}
    for name, image_id in tags.items():
        names.setdefault(image_id, []).append(name)
    return Stock(tuple(Image(image_id, tuple(n)) for image_id, n in names.items()), frozenset(used))


def done(tags: dict[str, str], step: Tag) -> dict[str, str]:
    return {**tags, step.name: step.image_id}


def adopted(tags: dict[str, str], image_id: str) -> dict[str, str]:
    while (step := adopt(RECORD, stock(tags), image_id)) is not None:
        tags = done(tags, step)
    return tags


def test_an_image_is_found_by_its_id() -> None:
    images = stock({LOCAL: V1, PREVIOUS: V2})
    assert images.image(V2) == Image(V2, (PREVIOUS,), created=0, size=0)
    assert images.image(V3) is None


def test_the_local_image_has_several_names_and_an_id_is_the_last() -> None:
    assert known_names("docker-snmp:1.0", LOCAL, "docker-snmp") == ("docker-snmp:1.0", LOCAL)
    assert known_names(V1, "", "docker-snmp") == (LOCAL, V1)
    assert known_names("123456789abc", LOCAL, "") == (LOCAL, "123456789abc")
    assert known_names("not a name", "", "") == ()


def test_adopting_keeps_the_one_before_and_then_gives_the_local_name() -> None:
    tags = {LOCAL: V1, f"{KUBE}:v2": V2}
    assert adopt(RECORD, stock(tags), V2) == Tag(V1, PREVIOUS)
    tags = adopted(tags, V2)
    assert (tags[LOCAL], tags[PREVIOUS]) == (V2, V1)
    tags = adopted({**tags, f"{KUBE}:v3": V3}, V3)
    assert (tags[LOCAL], tags[PREVIOUS]) == (V3, V2)
    assert adopt(RECORD, stock(tags), V3) is None


def test_a_switch_without_a_local_image_gets_one() -> None:
    assert adopt(RECORD, stock({f"{KUBE}:v2": V2}), V2) == Tag(V2, LOCAL)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_power_cut_between_two_steps_changes_nothing_about_the_end(cut: int) -> None:
    tags = {LOCAL: V2, PREVIOUS: V1, f"{KUBE}:v3": V3}
    for _ in range(cut):
        step = adopt(RECORD, stock(tags), V3)
        assert step is not None
        tags = done(tags, step)
        assert stock(tags).named(LOCAL), "there is a local image at every moment"
    assert {k: v for k, v in adopted(tags, V3).items() if k in (LOCAL, PREVIOUS)} == {LOCAL: V3, PREVIOUS: V2}


def test_a_rollback_goes_back_to_the_previous_one_where_the_failed_one_was_adopted() -> None:
    tags = {LOCAL: V2, PREVIOUS: V1}
    assert restore(RECORD, stock(tags), V2) == Tag(V1, LOCAL)
    assert restore(RECORD, stock({**tags, LOCAL: V1}), V2) is None
    assert restore(RECORD, stock(tags), V3) is None, "what failed was never the local one"
    assert restore(RECORD, stock({LOCAL: V2}), V2) is None, "there is none to go back to"
    assert restore(RECORD, stock({LOCAL: V2, PREVIOUS: V2}), V2) is None
    assert restore(RECORD, stock({PREVIOUS: V1}), V2) == Tag(V1, LOCAL), (
        "an operator has removed the local name"
    )
    assert restore(RECORD, stock({}), V2) is None, "what is gone is no target"


def test_only_unused_images_that_ran_here_are_removed() -> None:
    shelf = remember(RECORD, V1, V2, V3)
    tags = {LOCAL: V3, PREVIOUS: V2, f"{KUBE}:v1": V1, f"{KUBE}:v3": V3}
    assert tidy(shelf, stock(tags)) == Remove(f"{KUBE}:v1")
    assert tidy(shelf, stock(tags, used=(V1,))) is None, "a container, running or not, was made from it"
    assert tidy(RECORD, stock(tags)) is None, "it never ran here by our doing"
    assert tidy(shelf, stock({**tags, "debug-tools:keep": V1})) is None, "an operator gave it another name"
    assert tidy(shelf, stock({**tags, "docker-snmp-sv2:keep": V1})) is None, "a longer name is another name"
    lost = {name: image for name, image in tags.items() if name != LOCAL}
    assert tidy(shelf, stock(lost)) is None, "any of them may be the one that a way back needs"
    nameless = Stock((Image(V1, (), (KUBE,)), *stock({LOCAL: V3, PREVIOUS: V2}).images))
    assert tidy(shelf, nameless) == Remove(V1)


TAGS = st.dictionaries(
    st.sampled_from([LOCAL, PREVIOUS, f"{KUBE}:a", f"{KUBE}:b", "other:x"]), st.sampled_from([V1, V2, V3])
)


@given(TAGS, st.sampled_from([V1, V2, V3]), st.sets(st.sampled_from([V1, V2, V3])))
def test_nothing_in_use_and_nothing_to_fall_back_to_is_ever_removed(
    tags: dict[str, str], image_id: str, used: set[str]
) -> None:
    tags = {**tags, f"{KUBE}:new": image_id}
    before = tags.get(LOCAL)
    tags = adopted(tags, image_id)
    assert tags[LOCAL] == image_id
    assert before in (None, image_id, tags.get(PREVIOUS))
    kept = {tags[LOCAL], tags.get(PREVIOUS), *used}
    assert not {i.id for i in removable(remember(RECORD, V1, V2, V3), stock(tags, tuple(used)))} & kept


@pytest.mark.parametrize(
    ("made_from", "remembered", "listed", "image", "expected"),
    [
        ("docker-snmp:latest", "x:y", "z", None, "docker-snmp:latest"),
        ("docker-snmp", "", "", None, "docker-snmp:latest"),
        (V1, "docker-snmp:old", "z", None, "docker-snmp:old"),
        ("", "", "docker-fpm-frr", None, "docker-fpm-frr:latest"),
        ("", "", "", Image(V1, (f"{KUBE}:v2",)), "docker-snmp:latest"),
        ("", "", "", Image(V1, (), (KUBE,)), "docker-snmp:latest"),
        ("", "", "", Image(V1), ""),
        ("", "", "", None, ""),
        ("../../x", "", "", None, ""),
    ],
)
def test_the_local_name_is_the_one_that_the_units_script_uses(
    made_from: str, remembered: str, listed: str, image: Image | None, expected: str
) -> None:
    assert local_name(made_from, remembered, listed, image) == expected


def test_names_are_taken_apart_whole() -> None:
    assert base("localhost:5000/a/docker-snmp:v1") == "docker-snmp"
    assert base("docker-snmp") == "docker-snmp"
    assert previous_name("localhost:5000/docker-snmp:v1") == "localhost:5000/docker-snmp:kubesyncd-previous"
    assert previous_name("docker-snmp") == PREVIOUS


def test_the_known_images_are_limited_and_each_is_listed_once() -> None:
    shelf = remember(RECORD, *(f"sha256:{n:064x}" for n in range(50)))
    assert len(shelf.known) == KNOWN_MAX
    assert remember(shelf, shelf.known[0], "") is shelf


def test_roles_are_named_in_words() -> None:
    shelf = replace(RECORD, failed=V2)
    kept = stock({LOCAL: V1, PREVIOUS: V2, f"{KUBE}:v3": V3}, used=(V3,))
    assert [role(shelf, kept, image) for image in kept.images] == ["local", "previous, failed", "in use"]
    assert role(shelf, replace(kept, used=frozenset()), kept.images[2]) == "old"
