"""Play a sample of the tests, bounded by time; a word selects it, and the same word selects the same tests.

`pytest --sample-s 240 --sample-of WORD` orders the chosen tests by WORD, begins none once 240 s are over, and lists
what it has played. `.ci/run` takes the commit's hash for the word, so that each landing plays another part of the
deep tier. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

# Workers inherit it; the clock is the machine's, so they agree on it.
UNTIL, WORD = "KUBESYNCD_SAMPLE_UNTIL", "KUBESYNCD_SAMPLE_OF"
NOT_PLAYED = "not in this sample"
PLAYED = pytest.StashKey[int]()
"""How many tests a sample has played, once it is over."""


def add_options(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("sample")
    group.addoption("--sample-s", type=float, help="begin no test after so many seconds")
    group.addoption("--sample-of", default="", help="a word that chooses the order of tests")


def begin(config: pytest.Config) -> None:
    """Start the sample's time, in the process that starts the workers."""
    if config.option.sample_s:
        os.environ[UNTIL] = str(time.monotonic() + config.option.sample_s)
        os.environ[WORD] = config.option.sample_of


def order(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests by the word."""
    if config.option.sample_s:
        word = config.option.sample_of
        items.sort(key=lambda item: hashlib.sha256(f"{word} {item.nodeid}".encode()).digest())


def skip_if_over() -> None:
    """Skip a test that would begin after the sample's time."""
    if UNTIL in os.environ and time.monotonic() > float(os.environ[UNTIL]):
        pytest.skip(NOT_PLAYED)


def tell(
    config: pytest.Config, reports: Iterable[pytest.TestReport], terminal: pytest.TerminalReporter
) -> None:
    """List what has been played, with times."""
    if not config.option.sample_s:
        return
    played = sorted((r.nodeid, r.duration) for r in reports if r.when == "call")
    config.stash[PLAYED] = len(played)
    terminal.section(f"sample of {config.option.sample_of or 'no word'}: {len(played)} tests played")
    for test, duration_s in played:
        terminal.line(f"{duration_s:6.1f} s  {test}")
