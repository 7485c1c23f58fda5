"""Check that diagram and timeline show what the tables contain."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.cli.diagram import PLACES, arrows, drawn
from kubesyncd.cli.svg import FILLS
from kubesyncd.cli.timeline import BAR_WIDTH, GLYPHS, Lane, Stretch, axis, bar, lane_of
from kubesyncd.cli.timeline import drawn as drawn_timeline
from kubesyncd.core.state import EDGES, State

if TYPE_CHECKING:
    from tests.unit.cli.operator import Operator

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(picture).iter(f"{SVG}text")]


# ---- the state diagram ----------------------------------------------------------------------------


def test_every_state_has_a_place_a_colour_and_a_letter() -> None:
    assert set(PLACES) == set(FILLS) == set(GLYPHS) == set(State)
    assert len(set(PLACES.values())) == len(State)


def test_every_edge_of_the_table_is_an_arrow_or_in_the_text() -> None:
    shown = {(arrow.edge.source, arrow.edge.target) for arrow in arrows()}
    for edge in EDGES:
        in_words = edge.source is State.DRIFT or edge.target is State.INIT
        assert ((edge.source, edge.target) in shown) is not in_words


def test_the_picture_has_each_state_each_arrow_and_each_reason() -> None:
    picture = drawn()
    assert set(State) <= set(texts(picture))
    assert {arrow.edge.event for arrow in arrows()} <= set(texts(picture))
    paths = [n for n in ET.fromstring(picture).iter(f"{SVG}path") if "marker-end" in n.attrib]
    assert len(paths) == len(arrows())
    dashed = sum("stroke-dasharray" in path.attrib for path in paths)
    assert dashed == sum(not arrow.edge.ours for arrow in arrows())


def test_the_current_state_and_what_leaves_it_stand_out(terminal: Operator) -> None:
    file = terminal.folder / "snmp.svg"
    assert terminal.types(f"diagram snmp --svg {file}").stdout == f"written to {file}\n"
    picture = file.read_text()
    assert "snmp is LOCAL_TO_KUBE" in texts(picture)
    leaving = sum(arrow.edge.source is State.LOCAL_TO_KUBE for arrow in arrows())
    assert picture.count('marker-end="url(#now)"') == leaving


def test_mermaid_marks_the_current_state(terminal: Operator) -> None:
    said = terminal.types("diagram snmp").stdout
    assert said.startswith("stateDiagram-v2\n")
    assert "class LOCAL_TO_KUBE current" in said
    assert "class" not in terminal.types("diagram").stdout


# ---- the timeline ---------------------------------------------------------------------------------

moments = st.lists(st.floats(0, 1e9), min_size=1, max_size=20)


def lane(name: str, begins: list[float], now: float) -> Lane:
    ordered = sorted(begins)
    ends = [*ordered[1:], now]
    states = [State.LOCAL, State.KUBE_RUNNING]
    stretches = (
        Stretch(states[number % 2], begin, max(begin, end), "because")
        for number, (begin, end) in enumerate(zip(ordered, ends, strict=True))
    )
    return Lane(name, tuple(stretches))


@given(one=moments, other=moments)
def test_time_runs_from_left_to_right_and_fits(one: list[float], other: list[float]) -> None:
    now = max(*one, *other) + 1
    lanes = [lane("a", one, now), lane("b", other, now)]
    places = axis(lanes, now, BAR_WIDTH, 1.0)
    ordered = [places[moment] for moment in sorted(places)]
    assert ordered == sorted(ordered)
    assert ordered[0] == 0.0
    assert ordered[-1] <= BAR_WIDTH
    assert all(len(bar(one_lane, places).plain) == BAR_WIDTH for one_lane in lanes)
    ET.fromstring(drawn_timeline(lanes, now))


def test_a_hand_over_of_seconds_shows_beside_a_month_of_quiet() -> None:
    month = 30 * 86_400.0
    places = axis([lane("a", [0.0, month, month + 5], 2 * month)], 2 * month, BAR_WIDTH, 1.0)
    assert places[month + 5] - places[month] >= 1.0
    assert bar(lane("a", [0.0, month, month + 5], 2 * month), places).plain.count("█") > 20


def test_a_hand_over_of_milliseconds_shows_each_of_its_steps() -> None:
    begins = [0.0, 3600.0, 3600.02, 3600.04]
    found = lane("a", begins, 7200.0)
    places = axis([found], 7200.0, BAR_WIDTH, 1.0)
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(places[moment] for moment in begins))


def test_where_there_are_too_many_changes_those_close_to_others_share_a_place() -> None:
    begins = [float(number) for number in range(500)]
    places = axis([lane("a", begins, 10_000.0)], 10_000.0, BAR_WIDTH, 1.0)
    assert max(places.values()) <= BAR_WIDTH
    assert len(set(places.values())) <= BAR_WIDTH / 2 + 1


def test_a_clock_that_was_set_back_gives_no_negative_duration() -> None:
    found: dict[str, Any] = {
        "feature": "snmp",
        "history": [
            {"at": 1000.0, "from": "INIT", "to": "LOCAL", "why": "x"},
            {"at": 400.0, "from": "LOCAL", "to": "INIT", "why": "y"},
        ],
    }
    stretches = lane_of(found, 500.0).stretches
    assert all(stretch.end >= stretch.begin for stretch in stretches)


def test_a_picture_of_all_states_names_each_within_its_sheet_and_apart_from_the_others() -> None:
    stretches = tuple(
        Stretch(state, float(at), at + 1.0, "so") for at, state in enumerate(State, 1_700_000_000)
    )
    found = Lane("snmp", stretches)
    sheet = ET.fromstring(drawn_timeline([found], 1_700_000_100.0))
    width, height = (float(edge) for edge in sheet.attrib["viewBox"].split()[2:])
    named = [part for part in sheet.iter(f"{SVG}text") if part.text in set(State)]
    ends = [(float(part.attrib["y"]), float(part.attrib["x"]) + 7 * len(str(part.text))) for part in named]
    assert all(x < width and y < height for y, x in ends)
    assert {part.text for part in named} == set(State)
    assert len(set(GLYPHS.values())) == len(State) - 1, (
        "only UNKNOWN and INIT, where nothing runs, look alike"
    )
    assert "2023-11-14" in "".join(str(part.text) for part in sheet.iter(f"{SVG}text"))


def test_hostile_names_and_reasons_stay_text() -> None:
    stretch = Stretch(State.LOCAL, 0.0, 5.0, "</title><script>&\"'")
    picture = drawn_timeline([Lane("<b>&", (stretch,))], 5.0)
    ET.fromstring(picture)
    assert "<script" not in picture


def test_the_timeline_is_drawn_into_a_file(terminal: Operator) -> None:
    file = terminal.folder / "t.svg"
    assert terminal.types(f"timeline --svg {file}").exit_code == 0
    said = texts(file.read_text())
    assert {"bgp", "lldp", "snmp", "telemetry", "KUBE_RUNNING"} <= set(said)
    tips = [node.text or "" for node in ET.fromstring(file.read_text()).iter(f"{SVG}title")]
    assert any(re.search(r"LOCAL_TO_KUBE for 5\.2 s: kube has deployed", tip) for tip in tips)


def test_a_switch_without_changes_is_reported(bare_terminal: Operator) -> None:
    assert bare_terminal.types("timeline").stdout == "no change of state since the switch booted\n"


@pytest.mark.parametrize("name", ["diagram", "timeline lldp"])
def test_pictures_go_to_no_file_unless_one_is_named(terminal: Operator, name: str) -> None:
    before = sorted(terminal.folder.iterdir())
    assert terminal.types(name).exit_code == 0
    assert sorted(terminal.folder.iterdir()) == before
