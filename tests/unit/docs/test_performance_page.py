"""Check the tables and the picture of docs/performance.md against the figures beside it."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.tools.bench import growth
from tests.tools.bench.plot import DOCS, FIGURES, PICTURE, drawn

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figures() -> list[dict[str, Any]]:
    return list(json.loads(FIGURES.read_text()))


def test_the_picture_is_drawn_from_the_figures(figures: list[dict[str, Any]]) -> None:
    assert drawn(figures) == PICTURE.read_text(), "draw it again: python -m tests.tools.bench.plot"


def test_another_figure_is_another_picture(figures: list[dict[str, Any]]) -> None:
    for name in ("8 features, at rest, memory", "1000 events/s, processor"):
        changed = [f | {"value": f["value"] * 1.5} if f["name"] == name else f for f in figures]
        assert changed != figures
        assert drawn(changed) != drawn(figures)


def test_the_picture_shows_every_count_that_is_measured(figures: list[dict[str, Any]]) -> None:
    picture = ET.fromstring(drawn(figures))
    points = list(picture.iter(f"{SVG}circle"))
    assert len(points) == 3 * len(growth.FEATURES) + 4 * len(growth.RATES)
    width, height = (float(n) for n in picture.attrib["viewBox"].split()[2:])
    assert all(0 < float(p.attrib["cx"]) < width and 0 < float(p.attrib["cy"]) < height for p in points)
    said = {text.text for text in picture.iter(f"{SVG}text")}
    assert {f"{count:,}" for count in (*growth.FEATURES, *growth.RATES)} <= said


def test_more_is_drawn_higher(figures: list[dict[str, Any]]) -> None:
    rising = [
        {"name": f"{n} features, at rest, memory", "value": float(n)} for n in growth.FEATURES
    ]  # fmt: skip
    others = [f for f in figures if not f["name"].endswith(", at rest, memory")]
    picture = drawn([*others, *rising])
    line = next(iter(ET.fromstring(picture).iter(f"{SVG}polyline"))).attrib["points"].split()
    heights = [float(point.partition(",")[2]) for point in line]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == len(heights)


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
