"""Draw the transition table of `state` as mermaid or SVG: `diagram`.

Decides only the layout; the arrows come from the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import click

from kubesyncd.cli import svg
from kubesyncd.cli.click_groups import Command
from kubesyncd.cli.output import FeatureName, this_switch
from kubesyncd.cli.timeline import write
from kubesyncd.core.state import EDGES, State, meaning, mermaid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.core.state import Edge


@click.command(cls=Command, options_metavar="[--svg FILE]")
@click.argument("name", metavar="[NAME]", type=FeatureName(), required=False)
@click.option(
    "--svg",
    "svg_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the diagram to this SVG file.",
)
def diagram(name: str | None, svg_file: str | None) -> None:
    """Print the state diagram; with a NAME, highlight its state."""
    current = State(this_switch().daemon.feature(name)["state"]) if name else None
    if svg_file:
        write(svg_file, drawn(current, name or ""))
    else:
        click.echo(mermaid(current), nl=False)


_BOX = (138, 40)
_WIDTH, _HEIGHT = 1160, 640
_LEGEND_LINE = 21

# Set manually: local on the left, kube on the right, the change from local to kube in the lower middle.
PLACES = {
    State.UNKNOWN: (190, 110),
    State.INIT: (575, 110),
    State.DRIFT: (960, 110),
    State.STARTING: (190, 270),
    State.KUBE_READY: (960, 270),
    State.LOCAL: (190, 430),
    State.LOCAL_TO_KUBE: (447, 430),
    State.KUBE_PENDING: (703, 430),
    State.KUBE_RUNNING: (960, 430),
    State.LOCAL_EXITED: (190, 590),
    State.KUBE_STOPPED: (830, 590),
}
# Bend of an arrow to its right, in pixels, where the default bend would meet a box or another number.
_BENDS = {
    (State.LOCAL_EXITED, State.STARTING): -110,
    (State.UNKNOWN, State.LOCAL): 110,
    (State.UNKNOWN, State.KUBE_READY): -34,
    (State.KUBE_READY, State.STARTING): 26,
    (State.STARTING, State.KUBE_READY): 26,
    (State.INIT, State.LOCAL): 44,
    (State.INIT, State.KUBE_RUNNING): 44,
    (State.KUBE_STOPPED, State.STARTING): 27,
    (State.LOCAL_EXITED, State.KUBE_READY): 2,
    (State.LOCAL_EXITED, State.KUBE_PENDING): 34,
    (State.KUBE_READY, State.KUBE_STOPPED): -200,
    (State.KUBE_RUNNING, State.KUBE_STOPPED): -12,
}
_BEND = 22
_LOOKS = {"own": ("#3f3f46", 1.3), "seen": ("#a1a1aa", 1.3), "now": (svg.MARK, 2.6)}
NOTE = (
    "solid arrows: written by kubesyncd; dashed: observed; "
    "stop and kill lead to INIT from every state; kubesyncd repairs DRIFT"
)


@dataclass(frozen=True, slots=True)
class Arrow:
    """One edge as drawn; edges of the same event share a number."""

    edge: Edge
    number: int


def arrows() -> list[Arrow]:
    """Return the table's edges, except those in the note: every state's stop, and DRIFT's repairs."""
    numbers: dict[str, int] = {}
    made = []
    for edge in EDGES:
        if edge.source is State.DRIFT or edge.target is State.INIT:
            continue
        made.append(Arrow(edge, numbers.setdefault(edge.event, len(numbers) + 1)))
    return made


def drawn(current: State | None = None, feature: str = "") -> str:
    """Draw the table as SVG. Highlight the current state and its outgoing arrows."""
    shown = arrows()
    events = {arrow.number: arrow.edge.event for arrow in shown}
    leaving = {arrow.number for arrow in shown if arrow.edge.source is current}
    rows = (len(events) + 1) // 2
    # Outgoing arrows of the current state are drawn last, on top.
    shown.sort(key=lambda arrow: arrow.edge.source is current)
    parts = [
        _heads(),
        *(_arrow(arrow, current) for arrow in shown),
        *(part for state in State for part in _box(state, current, feature)),
        *(part for arrow in shown for part in _badge(arrow, current)),
        *_legend(events, rows, leaving),
    ]
    title = f"{feature} is {current}" if current and feature else "The states of a feature"
    return svg.sheet(_WIDTH, _HEIGHT + 90 + rows * _LEGEND_LINE, title, NOTE, parts)


def _heads() -> str:
    heads = (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 1L9 5L0 9Z" fill="{colour}"/></marker>'
        for name, (colour, _) in _LOOKS.items()
    )
    return f"<defs>{''.join(heads)}</defs>"


def _box(state: State, current: State | None, feature: str) -> list[str]:
    (x, y), (width, height) = PLACES[state], _BOX
    here = state is current
    line, wide = (svg.MARK, 4) if here else (svg.FAINT, 1)
    left, top, fill = x - width / 2, y - height / 2, svg.FILLS[state]
    return [
        svg.box(left, top, width, height, fill, tip=meaning(state, feature or "NAME"), line=line, wide=wide),
        svg.letters(x, y + 5, state, size=13, fill=svg.on(state), anchor="middle", bold=here),
    ]


def _curve(edge: Edge) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Compute start, control point and end of the arrow, on the boxes' borders."""
    (x1, y1), (x2, y2) = PLACES[edge.source], PLACES[edge.target]
    length = math.hypot(x2 - x1, y2 - y1)
    bend = _BENDS.get((edge.source, edge.target), _BEND)
    control = (
        (x1 + x2) / 2 - (y2 - y1) / length * bend * 2,
        (y1 + y2) / 2 + (x2 - x1) / length * bend * 2,
    )
    return _border((x1, y1), control), control, _border((x2, y2), control, gap=3)


def _border(centre: tuple[float, float], towards: tuple[float, float], gap: float = 0) -> tuple[float, float]:
    """Compute the point where the line from `centre` to `towards` leaves the box."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    half_width, half_height = _BOX[0] / 2 + gap, _BOX[1] / 2 + gap
    reach = min(half_width / abs(dx) if dx else math.inf, half_height / abs(dy) if dy else math.inf)
    return centre[0] + dx * reach, centre[1] + dy * reach


def _arrow(arrow: Arrow, current: State | None) -> str:
    edge = arrow.edge
    (x1, y1), (cx, cy), (x2, y2) = _curve(edge)
    name = "now" if edge.source is current else "own" if edge.ours else "seen"
    colour, wide = _LOOKS[name]
    way = f"M{x1:.1f} {y1:.1f}Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}"
    look = f'fill="none" stroke="{colour}" stroke-width="{wide}" marker-end="url(#{name})"'
    dashes = "" if edge.ours else ' stroke-dasharray="6 4"'
    tip = escape(f"{edge.source} to {edge.target}: {edge.event}")
    return f'<path d="{way}" {look}{dashes}><title>{tip}</title></path>'


def _badge(arrow: Arrow, current: State | None) -> list[str]:
    """Draw the arrow's number at its middle."""
    (x1, y1), (cx, cy), (x2, y2) = _curve(arrow.edge)
    here = arrow.edge.source is current
    return _number((x1 + 2 * cx + x2) / 4, (y1 + 2 * cy + y2) / 4, arrow.number, here=here)


def _number(x: float, y: float, number: int, *, here: bool) -> list[str]:
    fill, ink = (svg.MARK, "#ffffff") if here else ("#ffffff", svg.INK)
    return [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{fill}" stroke="{svg.FAINT}"/>',
        svg.letters(x, y + 4, str(number), size=11, fill=ink, anchor="middle"),
    ]


def _legend(events: Mapping[int, str], rows: int, leaving: set[int]) -> list[str]:
    parts = []
    for place, (number, event) in enumerate(events.items()):
        x, y = 60 + (place // rows) * 540, _HEIGHT + 40 + (place % rows) * _LEGEND_LINE
        parts += _number(x, y, number, here=number in leaving)
        parts.append(svg.letters(x + 20, y + 4, event, size=12.5, bold=number in leaving))
    return parts
