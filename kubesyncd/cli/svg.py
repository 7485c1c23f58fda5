"""Draw SVG: background, text and the colours of the states.

Must not know features or files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from kubesyncd.core.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

INK, FAINT, PALE, MARK = "#18181b", "#71717a", "#e4e4e7", "#1d4ed8"
FONT = "DejaVu Sans, Verdana, sans-serif"
FILLS = {
    State.UNKNOWN: "#d4d4d8",
    State.INIT: "#e4e4e7",
    State.STARTING: "#fde68a",
    State.LOCAL: "#22c55e",
    State.LOCAL_EXITED: "#ef4444",
    State.LOCAL_TO_KUBE: "#a3b18a",
    State.KUBE_PENDING: "#fbbf24",
    State.KUBE_READY: "#c4b5fd",
    State.KUBE_RUNNING: "#3b82f6",
    State.KUBE_STOPPED: "#fcd34d",
    State.DRIFT: "#fdba74",
}


def sheet(width: int, height: int, title: str, note: str, parts: Sequence[str]) -> str:
    """Build a complete file: white background, a title, a small note below it, and `parts`."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{FONT}">'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    titles = [letters(30, 40, title, size=19, bold=True), letters(30, 60, note, size=11.5, fill=FAINT)]
    return "\n".join([head, background, *titles, *parts, "</svg>", ""])


def letters(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    fill: str = INK,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """Draw a line of text; `anchor` is start, middle or end."""
    weight = ' font-weight="bold"' if bold else ""
    look = f'font-size="{size:g}" text-anchor="{anchor}" fill="{fill}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    *,
    tip: str,
    line: str = "#ffffff",
    wide: int = 1,
) -> str:
    """Draw a rounded box with a tooltip; x, y: its upper left."""
    place = (
        f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{min(8.0, height / 5):.1f}"'
    )
    look = f'fill={quoteattr(fill)} stroke="{line}" stroke-width="{wide}"'
    return f"<rect {place} {look}><title>{escape(tip)}</title></rect>"


def on(state: State) -> str:
    """Return the text colour on a state's fill."""
    return "#ffffff" if state in (State.KUBE_RUNNING, State.LOCAL_EXITED) else INK
