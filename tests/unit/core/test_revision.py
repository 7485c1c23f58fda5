"""Check that every change of what the row tells has a number, and that the number only grows."""

from __future__ import annotations

from dataclasses import replace

from kubesyncd.core.absorb import absorb
from kubesyncd.core.model import REVISION_MAX, Mode, Owner, Row, Startup, SystemState
from kubesyncd.core.parse import parse_row
from kubesyncd.core.record import Record, project
from kubesyncd.core.revision import COUNT_BITS, UNTOLD, Revision, ends, of_boot, revised
from tests.unit.core.given import FALLBACK, LOCAL, NOW, TIMING, local, observed, up

RUNS = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL)
STOPPED = Row(SystemState.DOWN)


def numbered(
    before: Revision, wanted: Row, stored: Row | None, boot: int = 0, *, ending: bool = False
) -> Revision:
    return revised(before, wanted, stored, boot, ending=ending)


def test_a_change_of_the_row_takes_the_next_number_once() -> None:
    first = numbered(UNTOLD, RUNS, Row())
    assert first == Revision(2, f"up local none {LOCAL[:12]}")
    assert numbered(first, replace(RUNS, update_ts=7, failure="x"), replace(RUNS, revision=2)) == first
    second = numbered(first, STOPPED, replace(RUNS, revision=2))
    assert second.number == 4
    assert numbered(second, STOPPED, replace(RUNS, revision=2)) == second, "the row is still to be written"
    back = numbered(second, RUNS, replace(RUNS, revision=2))
    assert back.number == 6


def test_the_lowest_bit_of_a_number_tells_whether_a_stop_is_carried_out() -> None:
    begun = numbered(Revision(4, "up none none "), STOPPED, Row(revision=4), ending=True)
    assert (begun.number, ends(begun.number)) == (7, True)
    assert numbered(begun, STOPPED, Row(revision=7), ending=True) == begun
    over = numbered(begun, STOPPED, Row(revision=7))
    assert (over.number, ends(over.number)) == (8, False)
    assert numbered(over, STOPPED, Row(revision=11)).number == 12
    assert numbered(begun, STOPPED, Row(revision=12), ending=True).number == 15


def test_the_number_exceeds_that_of_each_row_of_the_boot() -> None:
    assert numbered(UNTOLD, RUNS, replace(STOPPED, revision=40)).number == 42
    assert numbered(Revision(2, "down none none "), STOPPED, replace(STOPPED, revision=8)).number == 8


def test_each_boot_counts_for_itself() -> None:
    third = 3 << COUNT_BITS
    begun = numbered(UNTOLD, RUNS, replace(STOPPED, revision=(2 << COUNT_BITS) + 40), 3)
    assert begun.number == third + 2
    assert numbered(begun, RUNS, replace(RUNS, revision=third + 2), 3) == begun
    assert numbered(Revision(8, f"up local none {LOCAL[:12]}"), RUNS, Row(), 3).number == third + 2
    assert numbered(Revision(REVISION_MAX), RUNS, Row(), REVISION_MAX >> COUNT_BITS).number == REVISION_MAX
    assert (of_boot(third + 2, 3), of_boot(third + 2, 4)) == (True, False)


def test_the_row_may_admit_until_it_was_read_without_that() -> None:
    go = replace(RUNS, startup=Startup.GO)
    told = numbered(UNTOLD, go, RUNS)
    assert told.admits, "it is to be written"
    for unread in (None, go):
        assert numbered(told, STOPPED, unread).admits
        assert not numbered(numbered(UNTOLD, RUNS, RUNS), STOPPED, unread).admits
    assert not numbered(told, STOPPED, RUNS).admits
    assert numbered(told, go, RUNS).admits


def test_without_a_row_nothing_is_numbered() -> None:
    assert numbered(UNTOLD, RUNS, None, 3) == UNTOLD
    assert numbered(UNTOLD, Row(), Row(), 3) == UNTOLD


def test_what_a_row_tells_without_a_unit_and_that_it_tells_nothing_any_more_are_numbered() -> None:
    by_hand = Row(current_owner=Owner.LOCAL, docker_id=LOCAL)
    assert numbered(UNTOLD, by_hand, Row()) == Revision(2, f" local none {LOCAL[:12]}")
    told = numbered(UNTOLD, RUNS, Row())
    assert numbered(told, Row(), replace(RUNS, revision=told.number)) == Revision(4, "")


def test_a_feature_whose_unit_has_not_spoken_gets_no_row() -> None:
    facts = observed(row=replace(STOPPED, revision=9))
    record = absorb(Record(), FALLBACK, facts, TIMING, NOW)
    assert project(record, facts) == Row()


def test_the_record_has_the_number_before_the_row() -> None:
    facts = observed(local(), row=Row())
    record = absorb(up(), FALLBACK, facts, TIMING, NOW)
    assert record.revision.number == project(record, facts).revision == 2
    assert absorb(record, FALLBACK, facts, TIMING, NOW) == record


def test_a_number_that_is_none_is_absent() -> None:
    for text in ("-1", "x", str(REVISION_MAX + 1)):
        problems: list[str] = []
        assert parse_row({"revision": text}, problems).revision == 0
        assert len(problems) == 1
    assert parse_row({"revision": "12"}, []).revision == 12
