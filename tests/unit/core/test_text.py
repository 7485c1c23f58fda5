"""Check how text from outside is shortened and escaped."""

from __future__ import annotations

import pytest

from kubesyncd.core.text import (
    escaped,
    number_in,
    one_line,
    printable,
    public_address,
    public_text,
    quoted,
    shortened,
    shown,
)


def test_a_hostile_value_is_shown_short_and_clean() -> None:
    for value in ("\x1b[2J" * 1000, "\U0001f600" * 100, "a'b\"c\n", "x" * 40, "x" * 41):
        text = shown(value)
        assert text.isprintable()
        assert text.isascii()
        assert len(text) <= 46


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x" * 40, "'" + "x" * 40 + "'"),
        ("x" * 41, "'" + "x" * 36 + "..."),
        ("\u00e4" * 10, "'" + "\\xe4" * 10 + "'"),
        ("\u00e4" * 40, "'" + "\\xe4" * 9 + "..."),
        ("'\"" + "x" * 37, "'\\'\"" + "x" * 37 + "'"),
        ("'\"" + "x" * 38, "'\\'\"" + "x" * 33 + "..."),
    ],
)
def test_a_value_is_shown_in_so_many_letters(value: str, said: str) -> None:
    assert shown(value) == said


@pytest.mark.parametrize(("text", "said"), [("x" * 10, "x" * 10), ("x" * 11, "x" * 7 + "...")])
def test_a_longer_text_ends_with_an_ellipsis(text: str, said: str) -> None:
    assert shortened(text, 10) == said
    assert quoted(text, 10) == f"'{said}'"
    assert one_line(text, 10) == said
    assert printable(text, 10) == said


def test_a_quoted_text_has_80_characters_at_most() -> None:
    assert (quoted("x" * 80), quoted("x" * 81)) == (f"'{'x' * 80}'", f"'{'x' * 77}...'")


def test_unprintable_characters_are_escaped_or_left_out() -> None:
    assert escaped("a\x1b\nb\u00e4" + "x" * 10, 5) == "a\\x1b\\nb\\xe4"
    assert quoted("a\nb", 10) == "'a\\nb'"
    assert one_line("a\n\x1bb", 10) == "a b"
    assert printable("a\n  b\x07", 10) == "a b?"
    assert printable("\u00e4", 10) == "\u00e4", "a letter of another script stays"


def test_only_decimal_digits_and_no_more_than_a_counter_has_are_a_number() -> None:
    assert number_in("18446744073709551615") == 2**64 - 1
    assert [number_in(text) for text in ("", "-1", "1.5", "\u0664", "9" * 21, "9" * 5000)] == [0] * 6


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("redis://10.0.0.1:6379/4", "redis://10.0.0.1:6379/4"),
        ("unix:///r.sock", "unix:///r.sock"),
        ("https://[fd00::1]:{port}/{ip}", "https://[fd00::1]:{port}/{ip}"),
        ("redis://:secret@r:x/4", "redis://***@r:x/4"),
        ("redis://u:secret@r", "redis://***@r"),
        ("redis://u:sec/re@t@r", "redis://***@r"),
        ("redis://u:sec#ret@r", "redis://***"),
        ("https://h/f#secret", "https://h/f#***"),
        ("https://h/f#sec?ret", "https://h/f#***"),
        ("https://h/f#secret@ret", "https://***"),
        ("redis://u:sec?ret@r", "redis://***"),
        ("redis://r/4?password=sec@ret", "redis://***"),
        ("unix:///r?password=secret", "unix:///r?***"),
        ("https://u:secret@h/x?token=secret", "https://***@h/x?***"),
        ("redis://:secret", "redis://***"),
        ("u:secret@r:6379", "***@r:6379"),
        ("u:secret@r://x", "***@r://x"),
        (":secret", "***"),
        ("here", "here"),
    ],
)
def test_an_address_is_shown_without_its_user_and_query(address: str, said: str) -> None:
    assert public_address(address) == said
    assert "sec" not in said
    if "://" in address:
        assert public_text(address) == said


def test_a_text_that_is_no_address_is_shown_as_it_is() -> None:
    assert public_text("bgp@0?") == "bgp@0?"
