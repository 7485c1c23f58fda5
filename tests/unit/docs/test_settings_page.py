"""docs/settings.md and the shipped settings file are written from the settings' own classes."""

from __future__ import annotations

import pytest

from tests.tools import settings_pages
from tests.tools.settings_pages import BEGIN, COMMAND, END, PAGE, SHIPPED


def test_the_tables_of_the_page_are_up_to_date() -> None:
    assert settings_pages.page(PAGE.read_text()) == PAGE.read_text(), f"write them again: {COMMAND}"


def test_the_shipped_file_is_up_to_date() -> None:
    assert settings_pages.shipped() == SHIPPED.read_text(), f"write it again: {COMMAND}"


def test_the_page_has_one_table_for_each_section() -> None:
    text = PAGE.read_text()
    assert [text.count(BEGIN.format(name)) for name in settings_pages.sections()] == [1] * text.count(END)


def test_the_text_around_the_tables_stays() -> None:
    before, _, after = PAGE.read_text().partition("## [images]")
    changed = f"{before}## [images]\n\nA new sentence.{after}"
    assert settings_pages.page(changed) == changed


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"under a heading for \[log\]"):
        settings_pages.page(PAGE.read_text().replace(BEGIN.format("log"), ""))


def test_the_sentence_of_a_key_is_the_string_below_it() -> None:
    source = '''
class Section:
    """The section."""

    first: int = 1
    """One
    sentence."""
    second: int = 2

    @property
    def third(self) -> int:
        """A third."""
        return 3
'''
    assert settings_pages.sentences(source) == {"first": "One sentence."}


def test_every_sentence_is_one_or_more_whole_sentences() -> None:
    for keys in settings_pages.sections().values():
        for key in keys:
            assert key.says.endswith("."), key.name
            assert "|" not in key.says, f"{key.name}: it would end the table's cell"
