"""Draw the last changes of state of all features, for a terminal or as SVG: `timeline`.

A hand-over takes seconds, and a state may last months, so the axis is not to scale: the distance between two changes
is the logarithm of the time between them, the same for all features. Each change shows its time.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd.cli import svg
from kubesyncd.cli.click_groups import Command, Failure
from kubesyncd.cli.output import (
    FeatureName,
    clock,
    colour,
    json_option,
    print_json,
    put,
    span,
    table,
    this_switch,
    when,
)
from kubesyncd.core.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from kubesyncd.core.descriptions import FeatureDescription

BAR_WIDTH = 62

# Glyph of a state, for output without colour: running is full, waiting is shaded, down is a dot.
GLYPHS = {
    State.UNKNOWN: "·",
    State.INIT: "·",
    State.STARTING: "▁",
    State.LOCAL: "█",
    State.LOCAL_EXITED: "×",
    State.LOCAL_TO_KUBE: "▒",
    State.KUBE_PENDING: "▐",
    State.KUBE_READY: "░",
    State.KUBE_RUNNING: "▓",
    State.KUBE_STOPPED: "▂",
    State.DRIFT: "?",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """One feature in one state, from `begin` to `end` (seconds since the epoch); `why`: reason of the change."""

    state: State
    begin: float
    end: float
    why: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One feature's stretches, in order."""

    feature: str
    stretches: tuple[Stretch, ...]


@click.command(cls=Command, options_metavar="[--svg FILE] [--json]")
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
@click.option(
    "--svg",
    "svg_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the timeline to this SVG file.",
)
@json_option
def timeline(name: str | None, svg_file: str | None, as_json: bool) -> None:
    """Draw the last changes of state."""
    found = [this_switch().daemon.feature(name)] if name else this_switch().daemon.features()
    if as_json:
        print_json([{"feature": f["feature"], "history": f["history"]} for f in found])
        return
    now = time.time()
    lanes = [lane for f in found if (lane := lane_of(f, now)).stretches]
    if not lanes:
        click.echo("no change of state since the switch booted")
        return
    if svg_file:
        write(svg_file, drawn(lanes, now))
        return
    put(picture(lanes, now), legend(lanes))
    if name:
        put("", listing(lanes[0]))


def write(path: str, text: str) -> None:
    """Write the requested file. Raises Failure."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}; give another file") from error
    click.echo(f"written to {path}")


def lane_of(found: FeatureDescription, now: float) -> Lane:
    """Convert a feature's history to stretches; the last one ends at `now`."""
    changes = found["history"]
    ends = [*(change["at"] for change in changes[1:]), now][: len(changes)]
    stretches = tuple(
        Stretch(State(change["to"]), change["at"], max(change["at"], end), change["why"])
        for change, end in zip(changes, ends, strict=True)
    )
    return Lane(found["feature"], stretches)


def axis(lanes: Sequence[Lane], now: float, width: float, least: float) -> dict[float, float]:
    """Compute the place of each moment of change on the axis, from 0 to `width`.

    `least`: the minimum distance of two moments. If there are too many, a moment shares the place of its predecessor,
    the closest pairs first.
    """
    moments = sorted({stretch.begin for lane in lanes for stretch in lane.stretches} | {now})
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    shown = sorted(range(len(gaps)), key=lambda at: gaps[at], reverse=True)[: int(width / least / 2)]
    weights = {at: math.log1p(gaps[at]) for at in shown}
    free = (width - least * len(shown)) / (sum(weights.values()) or 1.0)
    places, place = {moments[0]: 0.0}, 0.0
    for at, moment in enumerate(moments[1:]):
        if at in weights:
            place += weights[at] * free + least
        places[moment] = min(place, width)
    return places


# ---- terminal -------------------------------------------------------------------------------------


def picture(lanes: Sequence[Lane], now: float) -> RenderableType:
    """Draw a bar per feature over one axis."""
    from rich.table import Table
    from rich.text import Text

    places = axis(lanes, now, BAR_WIDTH, 1.0)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, max_width=14)
    grid.add_column(no_wrap=True)
    for lane in lanes:
        grid.add_row(Text(lane.feature, "bold"), bar(lane, places))
    first = min(stretch.begin for lane in lanes for stretch in lane.stretches)
    left, right = clock(first), f"now {clock(now, date=False)}"
    grid.add_row("", Text(f"{left}{right.rjust(BAR_WIDTH - len(left))}", "dim"))
    return grid


def bar(lane: Lane, places: Mapping[float, float]) -> Text:
    """Draw one feature's states from left to right; of the changes within one cell, the last one shows."""
    from rich.text import Text

    cells: list[State | None] = [None] * BAR_WIDTH
    for stretch in lane.stretches:
        begin = min(int(places[stretch.begin]), BAR_WIDTH - 1)
        cells[begin:] = [stretch.state] * (BAR_WIDTH - begin)
    text = Text()
    for state in cells:
        text.append(" " if state is None else GLYPHS[state], "" if state is None else colour(state))
    return text


def legend(lanes: Sequence[Lane]) -> RenderableType:
    """Explain the glyphs of the bars; only those that occur."""
    from rich.columns import Columns
    from rich.padding import Padding
    from rich.text import Text

    parts = [Text.assemble((GLYPHS[state] * 2, colour(state)), f" {state.value}") for state in states(lanes)]
    return Padding(Columns(parts, padding=(0, 3)), (1, 0, 0, 0))


def states(lanes: Sequence[Lane]) -> list[State]:
    """Return the states that occur, in order of first occurrence."""
    return list(dict.fromkeys(stretch.state for lane in lanes for stretch in lane.stretches))


def listing(lane: Lane) -> RenderableType:
    """List one feature's stretches with their durations, the newest first."""
    from rich.text import Text

    made = table("Began", "Lasted", "State", "Because")
    for stretch in reversed(lane.stretches):
        lasted = "now" if stretch is lane.stretches[-1] else exact(stretch.end - stretch.begin)
        state = Text(stretch.state, colour(stretch.state))
        made.add_row(when(stretch.begin, lane.stretches[-1].end), lasted, state, stretch.why)
    return made


def exact(seconds: float) -> str:
    """Format a duration, precise enough for hand-overs: `40 ms`, `1.7 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


# ---- SVG ------------------------------------------------------------------------------------------

_LEFT, _TOP, _WIDTH, _LANE, _BAR = 130, 72, 840, 40, 24
_LETTER, _CLOCK = 7.2, 58
NOTE = "not to scale: long times without a change are shortened"
_ROW = 18


def drawn(lanes: Sequence[Lane], now: float) -> str:
    """Draw the timeline as SVG: lanes, one axis, a tooltip with time and reason on each stretch."""
    places = axis(lanes, now, _WIDTH, 10.0)
    key = _svg_legend(lanes, _TOP + _LANE * len(lanes) + 66)
    height = key.bottom + 22
    first = min(stretch.begin for lane in lanes for stretch in lane.stretches)
    note = f"{clock(first)} to {clock(now)}; {NOTE}"
    parts = ticks(places, _TOP + _LANE * len(lanes) + 8)
    for number, lane in enumerate(lanes):
        parts += _lane(lane, _TOP + 10 + _LANE * number, places)
    parts += key.parts
    return svg.sheet(_LEFT + _WIDTH + 40, round(height), "Timeline of features", note, parts)


def ticks(places: Mapping[float, float], bottom: float) -> list[str]:
    """Draw a thin line at each change, with its time if there is enough space; the last line is `now`."""
    parts = []
    last, free = _LEFT + max(places.values()), 0.0
    for moment, at in places.items():
        x = _LEFT + at
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="{svg.PALE}"/>')
        if x == last or (x >= free and x + _CLOCK <= last):
            text = clock(moment, date=False)
            parts.append(svg.letters(x, bottom + 15, text, size=10, fill=svg.FAINT, anchor="middle"))
            free = x + _CLOCK
    return parts


def _lane(lane: Lane, y: float, places: Mapping[float, float]) -> list[str]:
    parts = [svg.letters(_LEFT - 12, y + 16, lane.feature, anchor="end", bold=True)]
    ends = [places[s.begin] for s in lane.stretches[1:]] + [max(places.values())]
    for stretch, end in zip(lane.stretches, ends, strict=True):
        x, width = _LEFT + places[stretch.begin], max(3.0, end - places[stretch.begin])
        lasted = exact(stretch.end - stretch.begin)
        tip = f"{clock(stretch.begin)}  {stretch.state} for {lasted}: {stretch.why}"
        parts.append(svg.box(x, y, width, _BAR, svg.FILLS[stretch.state], tip=tip))
        label = stretch.state.value
        if len(label) * _LETTER + 12 <= width:
            middle, ink = x + width / 2, svg.on(stretch.state)
            parts.append(svg.letters(middle, y + 16, label, size=10.5, fill=ink, anchor="middle"))
    return parts


@dataclass(frozen=True, slots=True)
class _Key:
    """The legend of the colours, and the y position of its last line."""

    parts: list[str]
    bottom: float


def _svg_legend(lanes: Sequence[Lane], y: float) -> _Key:
    parts, x = [], float(_LEFT)
    for state in states(lanes):
        width = 36 + len(state.value) * _LETTER
        if x + width > _LEFT + _WIDTH + 30:
            x, y = float(_LEFT), y + _ROW
        parts.append(svg.box(x, y - 10, 14, 12, svg.FILLS[state], tip=state))
        parts.append(svg.letters(x + 19, y, state.value, size=10.5, fill=svg.FAINT))
        x += width
    return _Key(parts, y)
