"""Draw the picture of docs/performance.md from the figures of `make bench`.

    python -m tests.tools.bench.plot [FIGURES.json PICTURE.svg]

Both are in docs/; the figures are what `make bench BENCH_ARGS="growth --json docs/performance.json"` has measured.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubesyncd.cli import svg
from tests.paths import DOCS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FIGURES, PICTURE = DOCS / "performance.json", DOCS / "performance.svg"
WIDTH, HEIGHT = 980, 590
# A panel: where its axes begin on the sheet, and how long they are.
ACROSS, DOWN = 210, 150
LEFTS, TOPS = (70, 385, 700), (120, 375)
# The axis of values ends at the next of these, so that it can be read.
STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class Line:
    """A line in a panel: the figure's name after the count, and what it is called there."""

    figure: str
    called: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One small diagram over features or events per second."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    per: str


FEATURES, EVENTS = "features", "events/s"
PANELS = (
    Panel("Memory of the daemon", "MiB PSS", (Line("at rest, memory", ""),), FEATURES),
    Panel("Start until all are settled", "s", (Line("daemon start → converged", ""),), FEATURES),
    Panel("A verb that changes nothing", "ms", (Line("id answered", ""),), FEATURES),
    Panel("Processor", "% of a core", (Line("processor", ""),), EVENTS),
    Panel("Looks at a feature per second", "", (Line("looks at a feature", ""),), EVENTS),
    Panel(
        "From a change to its answer", "ms",
        (Line("a change put right, p50", "half"), Line("a change put right, p99", "99 of 100")), EVENTS,
    ),
)  # fmt: skip


def drawn(figures: Sequence[Mapping[str, Any]]) -> str:
    """The whole picture."""
    values = {figure["name"]: float(figure["value"]) for figure in figures}
    parts = [
        part
        for number, panel in enumerate(PANELS)
        for part in _panel(panel, values, LEFTS[number % 3], TOPS[number // 3])
    ]
    note = "above: 1 to 512 features; below: 8 features, and 1 to 10,000 events a second of another program"
    return svg.sheet(WIDTH, HEIGHT, "What kubesyncd costs, and how it grows", note, parts)


def _panel(panel: Panel, values: Mapping[str, float], left: float, top: float) -> Iterator[str]:
    lines = [(line, points) for line in panel.lines if (points := _points(line, panel, values))]
    counts = sorted({count for _, points in lines for count, _ in points})
    most = _round_up(max(value for _, points in lines for _, value in points))
    yield svg.letters(left, top - 26, panel.title, size=13, bold=True)
    yield svg.letters(left, top - 10, panel.unit, size=11, fill=svg.FAINT)
    for share in (0.0, 0.5, 1.0):
        y = top + DOWN * (1 - share)
        yield _stroke(left, y, left + ACROSS, y, svg.PALE)
        yield svg.letters(left - 8, y + 4, f"{most * share:g}", size=11, fill=svg.FAINT, anchor="end")
    for count in counts:
        x = left + _across(count, counts)
        yield svg.letters(x, top + DOWN + 18, f"{count:,}", size=11, fill=svg.FAINT, anchor="middle")
    yield svg.letters(left + ACROSS / 2, top + DOWN + 36, panel.per, size=11, fill=svg.FAINT, anchor="middle")
    for number, (line, points) in enumerate(lines):
        places = [(left + _across(c, counts), top + DOWN * (1 - v / most), v) for c, v in points]
        yield from _line(line, places, svg.MARK if number == 0 else svg.FAINT)


def _line(line: Line, places: Sequence[tuple[float, float, float]], ink: str) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    yield f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="2"/>'
    for x, y, value in places:
        tip = f"<title>{line.called} {_short(value)}</title>"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{ink}">{tip}</circle>'
    x, y, value = places[-1]
    said = f"{line.called} {_short(value)}".strip()
    yield svg.letters(x, y - 9, said, size=11, fill=ink, anchor="end" if line.called else "middle")


def _points(line: Line, panel: Panel, values: Mapping[str, float]) -> list[tuple[int, float]]:
    """(count, value) of each figure of this name, from few to many."""
    found = []
    for name, value in values.items():
        head, _, tail = name.partition(", ")
        count, _, per = head.partition(" ")
        if tail == line.figure and panel.per.startswith(per):
            found.append((int(count), value))
    return sorted(found)


def _across(count: int, counts: Sequence[int]) -> float:
    """By the power of ten, because each count is many times the one before."""
    first, last = math.log(counts[0]), math.log(counts[-1])
    return ACROSS * (math.log(count) - first) / (last - first) if last > first else ACROSS / 2


def _round_up(value: float) -> float:
    """The axis's end: the first round number above."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (*STEPS, 10) if step * power >= value)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _stroke(x1: float, y1: float, x2: float, y2: float, ink: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ink}"/>'


def main() -> None:
    """The command line."""
    given = [Path(name) for name in sys.argv[1:3]]
    figures, picture = given if len(given) == 2 else (FIGURES, PICTURE)
    picture.write_text(drawn(json.loads(figures.read_text())))


if __name__ == "__main__":
    main()
