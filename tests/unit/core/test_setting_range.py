"""The range of a number is read from the field that holds it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest

from kubesyncd.core.setting_range import (
    COUNT_MAX,
    DAY_S,
    SECONDS_MAX,
    SECONDS_MIN,
    SettingRange,
    count,
    range_of,
    seconds,
)


@dataclass(frozen=True, slots=True)
class Section:
    """Some keys."""

    delay_s: float = seconds(5.0)
    limit_s_max: float = seconds(2.5, least=0.5, most=DAY_S)
    number: int = count(4)
    starts: int = count(3, "starts", least=1)


def test_a_field_has_its_default_and_its_range() -> None:
    assert Section() == Section(delay_s=5.0, limit_s_max=2.5, number=4, starts=3)
    assert [range_of(key) for key in fields(Section)] == [
        SettingRange(SECONDS_MIN, SECONDS_MAX, "seconds"),
        SettingRange(0.5, DAY_S, "seconds"),
        SettingRange(0, COUNT_MAX),
        SettingRange(1, COUNT_MAX, "starts"),
    ]


def test_the_limits_of_all_settings_are_the_promised_ones() -> None:
    assert (SECONDS_MIN, SECONDS_MAX, DAY_S, COUNT_MAX) == (0.001, 10_000_000, 24 * 60 * 60, 1_000_000)


@pytest.mark.parametrize(
    ("value", "inside"),
    [(0.4, False), (0.5, True), (3, True), (10, True), (10.5, False), (float("nan"), False)],
)
def test_a_range_contains_its_limits_and_what_is_between(value: float, inside: bool) -> None:
    assert (value in SettingRange(0.5, 10)) is inside


def test_a_range_is_written_with_its_unit() -> None:
    assert str(SettingRange(0.001, 10_000_000, "seconds")) == "of seconds from 0.001 to 10000000"
    assert str(SettingRange(0, 1_000_000)) == "from 0 to 1000000"


def test_a_field_without_a_valid_range_is_an_error() -> None:
    @dataclass
    class Wrong:
        delay_s: float = field(default=5.0, metadata={"range": "5 to 6"})

    with pytest.raises(AssertionError, match="delay_s: invalid range"):
        range_of(fields(Wrong)[0])
