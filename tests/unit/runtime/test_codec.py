"""Encode values and decode exactly these, refuse all else with the path of the invalid part."""

from __future__ import annotations

import json
from collections.abc import Mapping  # noqa: TC003 - the codec reads the annotation
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Reader, Undecodable


class Colour(StrEnum):
    RED = "red"


class Level(Enum):
    HIGH = 3


@dataclass(frozen=True, slots=True)
class Part:
    number: int
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Whole:
    name: str
    on: bool
    parts: tuple[Part, ...]
    pair: tuple[str, int]
    tags: frozenset[str]
    by_name: Mapping[str, Part | None]
    colour: Colour
    level: Level | None
    anything: object
    inner: Whole | None = None


@dataclass(frozen=True, slots=True)
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("a number below 0")


PARTS = st.builds(
    Part, st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
WHOLE = Whole(
    "a",
    True,
    (Part(1), Part(2, 2.0)),
    ("x", 1),
    frozenset("ba"),
    {"p": None},
    Colour.RED,
    None,
    [1, {"b": None}],
)


def _wholes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Whole]:
    return st.builds(
        Whole,
        st.text(),
        st.booleans(),
        st.lists(PARTS, max_size=3).map(tuple),
        st.tuples(st.text(), st.integers(0, 9)),
        st.frozensets(st.text(max_size=2), max_size=3),
        st.dictionaries(st.text(max_size=3), st.none() | PARTS, max_size=3),
        st.just(Colour.RED),
        st.sampled_from([None, Level.HIGH]),
        st.sampled_from([None, 1, "x", [1], {"a": [True]}]),
        inner,
    )


WHOLES = _wholes(st.none() | _wholes(st.none()))


@given(WHOLES, st.sampled_from([None, 1]), st.sampled_from([None, 1]))
def test_what_was_encoded_is_decoded(whole: Whole, version: int | None, indent: int | None) -> None:
    data = codec.encode(whole, version=version, indent=indent)
    assert data.endswith(b"}\n")
    assert codec.decode(Whole, data, version=version) == whole
    assert json.loads(codec.text(whole)) == {k: v for k, v in json.loads(data).items() if k != "version"}


def test_a_file_is_the_keys_in_order_after_the_version() -> None:
    assert codec.encode(Part(1), version=2) == b'{"version": 2, "number": 1, "share": 0.5}\n'
    assert (
        codec.encode({"tags": frozenset("ba"), "level": Level.HIGH}) == b'{"tags": ["a", "b"], "level": 3}\n'
    )


WRONG = {
    "name": (1, "name: expected text, found 1"),
    "on": (1, "on: expected true or false, found 1"),
    "parts": ({}, "parts: expected a list, found an object"),
    "pair": (["x"], "pair: expected 2 values, found 1"),
    "tags": (["a", None], "tags[1]: expected text, found null"),
    "by_name": ({"p": {"number": "1"}}, "by_name.p.number: expected a whole number, found '1'"),
    "colour": ("blue", "colour: expected a Colour, found 'blue'"),
    "level": ([3], "level: expected a Level, found a list"),
    "inner": ([], "inner: expected an object, found a list"),
}
NUMBERS = {
    "number": [True, 1.0, 10**30, -(10**30), float("inf"), None, "1"],
    "share": [True, 10**400, float("inf"), float("nan"), None, "0.5", [0.5]],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_is_named_by_its_path(key: str) -> None:
    value, message = WRONG[key]
    tree = json.loads(codec.text(WHOLE)) | {key: value}
    with pytest.raises(Undecodable) as raised:
        Reader().read(Whole, tree)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in NUMBERS.items() for value in values]
)
def test_a_number_is_of_its_kind_finite_and_within_64_bits(key: str, value: Any) -> None:
    with pytest.raises(Undecodable, match=rf"^parts\[0\].{key}: expected a"):
        Reader().read(
            Whole, json.loads(codec.text(WHOLE)) | {"parts": [{"number": 1, "share": 0.5, key: value}]}
        )


def test_a_whole_number_is_read_as_a_float_where_one_is_expected() -> None:
    share = Reader().read(Part, {"number": 1, "share": 2}).share
    assert (share, type(share)) == (2.0, float)


def test_a_missing_key_is_refused_unless_defaults_are_accepted() -> None:
    with pytest.raises(Undecodable, match=r"^share: missing$"):
        codec.decode(Part, b'{"number": 1}')
    assert codec.decode(Part, b'{"number": 1}', defaults=True) == Part(1)
    with pytest.raises(Undecodable, match=r"^number: missing$"):
        codec.decode(Part, b"{}", defaults=True)


def test_one_key_of_a_file_is_read_alone() -> None:
    data = b'{"version": 1, "number": 7}'
    assert codec.entry(int, data, "number", version=1) == codec.entry(int, data, "number") == 7
    for key, version, message in (("share", 1, "share: missing"), ("number", 2, "version 1, not 2")):
        with pytest.raises(Undecodable, match=rf"^{message}$"):
            codec.entry(int, data, key, version=version)
    with pytest.raises(Undecodable, match=r"^number: expected text, found 7$"):
        codec.entry(str, data, "number")


def test_an_unknown_key_is_ignored() -> None:
    assert codec.decode(Part, b'{"number": 1, "share": 0.5, "later": [{}]}') == Part(1)


@pytest.mark.parametrize("version", ["2", '"1"', "null", "true", "[1]"])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(Undecodable, match=r"^version .*, not 1$"):
        codec.decode(Part, f'{{"version": {version}, "number": 1, "share": 1}}'.encode(), version=1)
    with pytest.raises(Undecodable, match=r"^version null, not 1$"):
        codec.decode(Part, b'{"number": 1, "share": 1}', version=1)


def test_a_value_that_its_class_refuses_is_undecodable() -> None:
    with pytest.raises(Undecodable, match=r"^the file: a number below 0$"):
        codec.decode(Positive, b'{"number": -1}')


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "invalid JSON: "),
        (b"\xff", "invalid JSON: "),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a": ' * 100_000, "invalid JSON: nested too deep"),
        (b'{"number": ' + b"9" * 5000 + b"}", "invalid JSON: "),
        (b" " * (codec.BYTES_MAX + 1), "longer than 8388608 bytes"),
    ],
)
def test_a_content_that_is_not_json_is_undecodable(data: bytes, message: str) -> None:
    with pytest.raises(Undecodable) as raised:
        codec.parse(data)
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 130


def test_a_type_that_contains_itself_is_read_to_a_limited_depth() -> None:
    tree: dict[str, Any] = json.loads(codec.text(WHOLE))
    for _ in range(codec.DEPTH_MAX):
        tree = {**tree, "inner": tree}
    with pytest.raises(Undecodable, match=r"expected at most 16 levels"):
        Reader().read(Whole, tree)


def test_a_message_is_one_short_printable_line_whatever_the_file_holds() -> None:
    tree = json.loads(codec.text(WHOLE)) | {"by_name": {"\n" * 10_000: "x" * 10_000}}
    with pytest.raises(Undecodable) as raised:
        Reader().read(Whole, tree)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200
    with pytest.raises(Undecodable) as raised:
        Reader().read(Part, {"number": "é\n" * 10_000, "share": 1})
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Whole.__dataclass_fields__, "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from([*Whole.__dataclass_fields__]), JSON)
def test_no_value_raises_another_error(key: str, value: Any) -> None:
    try:
        whole = Reader().read(Whole, json.loads(codec.text(WHOLE)) | {key: value})
    except Undecodable:
        return
    assert Reader().read(Whole, json.loads(codec.text(whole))) == whole
