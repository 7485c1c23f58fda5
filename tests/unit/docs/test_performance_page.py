"""Check the tables of docs/performance.md against the figures beside it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.tools.bench.plot import DOCS, FIGURES


@pytest.fixture(scope="module")
def figures() -> list[dict[str, Any]]:
    return list(json.loads(FIGURES.read_text()))


def test_every_figure_in_the_tables_is_the_measured_one(figures: list[dict[str, Any]]) -> None:
    """A row's first cell is the figure's name behind the count; the other cells are its values by count."""
    values = {f["name"]: float(f["value"]) for f in figures}
    checked = 0
    counts: list[str] = []
    for line in (DOCS / "performance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in ("features", "events/s"):
            counts = [f"{cell.replace(',', '')} {_per(cells[0], cell)}" for cell in cells[1:]]
        elif counts and len(cells) == 1 + len(counts):
            if cells[0].startswith("-"):
                continue
            for count, cell in zip(counts, cells[1:], strict=True):
                number = re.match(r"[\d,.]+", cell)
                assert number is not None, line
                told = float(number[0].replace(",", ""))
                assert told == pytest.approx(values[f"{count}, {cells[0]}"], rel=0.06, abs=0.006), line
                checked += 1
        else:
            counts = []
    assert checked >= 30


def _per(what: str, count: str) -> str:
    return "feature" if count == "1" and what == "features" else what
