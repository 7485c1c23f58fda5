"""Check how a record is judged by what runs and by STATE_DB's row after its file was lost, or is an older copy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import Admit, EndContainer, RequestLabel, WriteRow
from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.conditions import ConditionKind, conditions
from kubesyncd.core.model import Container, Mode, Owner, Row, SystemState
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Exit, Record, project, state_of
from kubesyncd.core.revision import COUNT_BITS, Revision
from kubesyncd.core.state import State
from kubesyncd.core.unverified import Unverified, maybe_admitted, shows_loss, undecided, unverified_deadline
from kubesyncd.core.verbs import DONE, Start, Stop, accept, outcome, wait_code, wait_follows
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    OFF,
    ON,
    TIMING,
    down,
    granted,
    kube,
    local,
    observed,
    plan,
    up,
)

LOST = Unverified(lost=True)
FIRST = Unverified(lost=True, first=True)
STOPPED = local(running=False)
# A wall clock far behind the time since the boot would make every row one of an earlier boot.
WALL_S = 1_790_000_000
BY_KUBE = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE, WALL_S)
BY_NONE = Row(SystemState.UP, Owner.NONE, Mode.READY, "", WALL_S)
DUE = NOW + TIMING.reask_s


def seen(
    record: Record,
    row: Row | None,
    *containers: Container,
    now: float = NOW,
    waiting: frozenset[str] = frozenset(),
) -> Record:
    """The record after an observation of this row and these containers."""
    facts = observed(*containers, row=row, wall_s=WALL_S, waiting=waiting, label=ON)
    return absorb(record, FALLBACK, facts, TIMING, now)


def lost() -> Record:
    return Record(unverified=LOST)


def test_the_running_kube_container_that_the_row_names_is_the_owner() -> None:
    for named in (KUBE, KUBE[:12]):
        record = seen(lost(), replace(BY_KUBE, docker_id=named), STOPPED, kube(), kube(KUBE2))
        assert (record.system_state, record.mode, record.grant) == (SystemState.UP, Mode.READY, KUBE)
        assert (record.granted_at, record.proven, record.unverified) == (NOW, False, None)


def test_a_row_that_names_an_ended_container_makes_nothing_an_owner() -> None:
    another = seen(lost(), replace(BY_KUBE, docker_id=KUBE2), STOPPED, kube())
    assert (another.grant, another.unverified) == ("", Unverified(lost=True, since=NOW, containers=(KUBE,)))
    record = seen(lost(), BY_KUBE, STOPPED, kube(running=False))
    assert (record.grant, record.unverified, record.system_state) == ("", None, SystemState.UP)


def test_a_local_container_that_runs_leaves_kube_ones_waiting() -> None:
    row = Row(SystemState.UP, Owner.LOCAL, Mode.PENDING, LOCAL, WALL_S)
    record = seen(lost(), row, local(), kube())
    assert (record.mode, record.grant, record.local_id) == (Mode.PENDING, "", LOCAL)
    assert (record.unverified, record.start) == (None, None)


def test_nothing_is_judged_until_state_db_answers() -> None:
    record = seen(lost(), None, STOPPED, kube())
    assert record.unverified == LOST
    assert undecided(record) is None
    assert unverified_deadline(record, TIMING) is None
    assert unverified_deadline(up(), TIMING) is None


def test_another_running_kube_container_counts_as_admitted_unless_it_asks_again() -> None:
    begun = seen(lost(), BY_NONE, STOPPED, kube(), kube(KUBE2, started="2026-01-03"))
    assert begun.unverified == Unverified(lost=True, since=NOW, containers=(KUBE2, KUBE))
    asked = seen(begun, BY_NONE, STOPPED, kube(), kube(KUBE2), waiting=frozenset({KUBE}))
    assert asked.unverified == Unverified(lost=True, since=NOW, containers=(KUBE2,))
    early = seen(asked, BY_NONE, STOPPED, kube(), kube(KUBE2), now=DUE - 0.1)
    assert early.unverified == asked.unverified
    over = seen(asked, BY_NONE, STOPPED, kube(), kube(KUBE2), now=DUE)
    assert (over.grant, over.granted_at, over.unverified) == (KUBE2, DUE, None)
    both = frozenset({KUBE, KUBE2})
    blocked = seen(begun, BY_NONE, STOPPED, kube(), kube(KUBE2), waiting=both)
    assert (blocked.grant, blocked.unverified) == ("", None)
    gone = seen(begun, BY_NONE, STOPPED)
    assert (gone.grant, gone.unverified) == ("", None)


def test_the_newest_one_owns_where_several_have_not_asked_again() -> None:
    begun = seen(lost(), BY_NONE, kube(), kube(KUBE2, started="2026-01-03"))
    over = seen(begun, BY_NONE, kube(), kube(KUBE2, started="2026-01-03"), now=DUE)
    assert over.grant == KUBE2


@pytest.mark.parametrize("config", [LOCAL_CONFIG, KUBE_CONFIG, FALLBACK])
def test_nothing_is_started_or_admitted_meanwhile(config: object) -> None:
    record = up(mode=Mode.NONE, unverified=Unverified(lost=True, since=NOW, containers=(KUBE,)))
    row = Row(SystemState.UP, update_ts=record.owner_ts)
    facts = observed(STOPPED, kube(), kube(KUBE2), waiting=frozenset({KUBE2}), row=row, label=ON)
    held = decide(config, record, facts, TIMING, NOW, "snmp")  # type: ignore[arg-type]
    assert (held.action, held.wake_at) == (None, DUE)
    assert "the ledger does not tell" in held.why
    after = decide(config, replace(record, unverified=None), facts, TIMING, NOW, "snmp")  # type: ignore[arg-type]
    assert after.action is not None


def test_a_local_container_that_appears_meanwhile_is_the_one_that_is_stopped() -> None:
    begun = up(unverified=Unverified(lost=True, since=NOW, containers=(KUBE,)))
    record = seen(begun, BY_NONE, local(), kube())
    assert (record.grant, record.unverified) == (KUBE, None)
    ended = plan(FALLBACK, record, observed(local(), kube(), label=ON)).action
    assert isinstance(ended, EndContainer)
    assert ended.container_id == LOCAL


def test_a_stop_waits_for_the_end_of_what_may_have_been_admitted() -> None:
    begun = up(unverified=Unverified(lost=True, since=NOW, containers=(KUBE,)))
    facts = observed(STOPPED, kube(), row=BY_NONE)
    stopped = accept(Stop(), KUBE_CONFIG, begun, facts)
    assert isinstance(stopped, Record)
    assert outcome(Stop(), KUBE_CONFIG, stopped, facts) is None
    assert wait_code(KUBE_CONFIG, stopped, facts, TIMING, NOW, 0.0) is None
    record = seen(stopped, BY_NONE, STOPPED, kube())
    assert (record.system_state, record.grant, record.unverified) == (SystemState.DOWN, KUBE, None)
    ended = observed(STOPPED, kube(running=False))
    assert (
        outcome(Stop(), LOCAL_CONFIG, down(unverified=None), replace(ended, row=Row(SystemState.DOWN)))
        is DONE
    )
    # Before the row is read, every running kube container counts.
    blind = observed(STOPPED, kube(), row=None)
    assert wait_code(KUBE_CONFIG, down(unverified=LOST), blind, TIMING, NOW, 0.0) is None
    blocked = replace(blind, waiting=frozenset({KUBE}))
    assert wait_code(KUBE_CONFIG, down(unverified=LOST), blocked, TIMING, NOW, 0.0) == 0
    assert wait_code(KUBE_CONFIG, down(unverified=Unverified()), blind, TIMING, NOW, 0.0) == 0


def test_what_a_verb_has_asked_for_since_stands() -> None:
    blind = observed(STOPPED, kube(), row=None)
    for mark in (LOST, Unverified()):
        stopped = accept(Stop(), FALLBACK, up(unverified=mark), blind, asked_at=NOW)
        assert isinstance(stopped, Record)
        record = seen(stopped, BY_KUBE, STOPPED, kube())
        assert (record.system_state, record.ending, record.grant) == (SystemState.DOWN, True, KUBE)
    # A stop that only the older copy tells of is over.
    over = seen(down(ending=True, unverified=Unverified()), BY_KUBE, STOPPED, kube())
    assert (over.system_state, over.ending, over.grant) == (SystemState.UP, False, KUBE)
    idle = seen(down(unverified=Unverified(lost=True, since=NOW, containers=(KUBE,))), BY_NONE, kube())
    again = accept(Stop(), FALLBACK, idle, blind)
    assert isinstance(again, Record)
    assert again.unverified == idle.unverified


@pytest.mark.parametrize(("row_s", "state"), [(-11, SystemState.DOWN), (-9, SystemState.UP)])
def test_a_verb_of_the_file_does_not_end_what_was_started_after_it(row_s: int, state: SystemState) -> None:
    """The disk was full: the start was written to the row only, and the daemon was restarted."""
    stopped = down(unverified=Unverified(unmanaged=True, spoken_at=NOW - 10))
    row = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S + row_s, revision=8)
    look = observed(local(), row=row, wall_s=WALL_S, label=OFF)
    record = absorb(stopped, LOCAL_CONFIG, look, TIMING, NOW)
    assert (record.system_state, record.unverified) == (state, None)
    ended = absorb(stopped, LOCAL_CONFIG, replace(look, containers=(STOPPED,)), TIMING, NOW)
    assert ended.system_state is SystemState.DOWN, "nothing that the row names runs"


def test_without_a_row_what_runs_was_started_for_a_unit_that_is_up() -> None:
    assert seen(lost(), Row(), local()).system_state is SystemState.UP
    told = Row(SystemState.DOWN, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    assert seen(lost(), told, local()).system_state is SystemState.DOWN
    idle = seen(lost(), Row(), STOPPED)
    assert (idle.system_state, idle.unverified) == (SystemState.ABSENT, None)
    begun = seen(lost(), Row(), STOPPED, kube())
    assert begun.system_state is SystemState.ABSENT
    facts = observed(STOPPED, kube(), row=Row())
    assert decide(FALLBACK, begun, facts, TIMING, NOW, "snmp").wake_at == DUE
    over = seen(begun, Row(), STOPPED, kube(), now=DUE)
    assert (over.system_state, over.grant) == (SystemState.UP, KUBE)
    assert state_of(FALLBACK, over, observed(STOPPED, kube())) is State.KUBE_RUNNING


def test_a_docker_start_may_be_under_way() -> None:
    asked = asked_start(LOCAL, STOPPED, NOW)
    starting = Row(SystemState.UP, Owner.NONE, Mode.NONE, "", WALL_S)
    begun = seen(lost(), starting, STOPPED, kube())
    assert (begun.start, begun.ending, begun.unverified) == (asked, False, None), (
        "no container was admitted before"
    )
    unread = replace(STOPPED, unread="Docker takes its time")
    assert seen(lost(), BY_NONE, unread, kube()).start == asked_start(LOCAL, unread, NOW)
    assert seen(lost(), starting, kube()).start is None
    stopped = seen(lost(), replace(starting, system_state=SystemState.DOWN), STOPPED)
    assert (stopped.start, stopped.ending) == (asked, False), "what an operator starts now runs on"
    again = accept(Stop(), FALLBACK, stopped, observed(STOPPED, row=starting))
    assert isinstance(again, Record)
    assert seen(again, starting, STOPPED).ending, "what a stop waits for is ended"


def test_a_pod_at_the_gate_does_not_wait_where_no_start_can_be_under_way() -> None:
    """Kubernetes' container has ended, and its next one asks: nothing else would run meanwhile."""
    waits = frozenset({KUBE2})
    record = seen(lost(), BY_KUBE, STOPPED, kube(KUBE2), waiting=waits)
    assert (record.start, record.unverified) == (None, None)
    facts = observed(STOPPED, kube(KUBE2), row=BY_KUBE, waiting=waits, label=ON)
    assert plan(KUBE_CONFIG, record, facts).action == Admit(KUBE2)


def test_a_kube_container_that_waits_while_the_row_says_down_was_not_admitted() -> None:
    stopped = Row(SystemState.DOWN, Owner.NONE, Mode.READY, "", WALL_S)
    record = seen(lost(), stopped, STOPPED, kube())
    assert (record.system_state, record.grant, record.unverified) == (SystemState.DOWN, "", None)
    ending = replace(stopped, current_owner=Owner.KUBE, docker_id=KUBE)
    assert seen(lost(), ending, STOPPED, kube()).grant == KUBE


@pytest.mark.parametrize("row", [Row(), Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)])
def test_a_row_that_is_gone_or_behind_does_not_tell_what_was_admitted(row: Row) -> None:
    assert seen(lost(), row, STOPPED, kube()).unverified == Unverified(
        lost=True, since=NOW, containers=(KUBE,)
    )


def test_a_recovered_record_keeps_no_earlier_grant() -> None:
    older = granted(grant=KUBE2, owner_ts=WALL_S - 5, unverified=Unverified())
    row = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    after = seen(older, row, local(), kube(KUBE2, running=False))
    assert (after.grant, after.granted_at, after.proven, after.unverified) == ("", 0.0, False, None)
    assert (after.exit, after.crashes) == (None, 0), "the end of an earlier owner is no news"
    named_local = seen(lost(), replace(BY_KUBE, docker_id=LOCAL), local(), kube())
    assert (named_local.grant, named_local.exit) == ("", None)
    named_kube = seen(lost(), replace(BY_KUBE, current_owner=Owner.NONE), STOPPED, kube())
    assert (named_kube.grant, named_kube.unverified is not None) == ("", True)


def test_which_kube_containers_count_as_admitted() -> None:
    both, blind = observed(kube(), kube(KUBE2), row=Row()), observed(kube(), kube(KUBE2), row=None)
    asking = replace(both, waiting=frozenset({KUBE}))
    compared = up(unverified=Unverified(lost=True, since=NOW, containers=(KUBE, "dead" * 16)))
    assert maybe_admitted(compared, both) == {KUBE}
    assert maybe_admitted(compared, asking) == frozenset()
    assert maybe_admitted(up(unverified=LOST), asking) == {KUBE2}
    assert maybe_admitted(up(), both) == frozenset()
    assert maybe_admitted(up(unverified=Unverified()), blind) == frozenset(), "its file tells"
    unmanaged = up(unverified=Unverified(unmanaged=True))
    assert maybe_admitted(unmanaged, blind) == {KUBE, KUBE2}, "the row may name them"
    assert maybe_admitted(unmanaged, both) == frozenset()


@pytest.mark.parametrize("mark", [LOST, Unverified(unmanaged=True)])
def test_a_wait_goes_on_and_nobody_is_blamed_while_the_row_that_may_name_the_owner_is_not_read(
    mark: Unverified,
) -> None:
    blind = observed(kube(), STOPPED, row=None)
    long = NOW + TIMING.gate_after_s
    started = absorb(Record(unverified=mark), KUBE_CONFIG, blind, TIMING, NOW)
    for record in (started, replace(started, system_state=SystemState.UP)):
        assert wait_follows(KUBE_CONFIG, record, blind)
        assert wait_code(KUBE_CONFIG, record, blind, TIMING, long, NOW) is None
        kinds = {each.kind for each in conditions("snmp", record, blind, TIMING, long)}
        assert ConditionKind.GATE_IGNORED not in kinds
    ended = observed(kube(running=False), STOPPED, row=None)
    assert wait_code(KUBE_CONFIG, started, ended, TIMING, NOW + TIMING.local_wait_s, NOW) == 1


@pytest.mark.parametrize(
    ("record", "row", "containers", "grant"),
    [
        # The copy is from before the hand-over, or from before another one.
        (up(owner=Owner.LOCAL, owner_ts=WALL_S - 5), BY_KUBE, (STOPPED, kube()), KUBE),
        (granted(grant=KUBE2, owner_ts=WALL_S - 5), BY_KUBE, (kube(), kube(KUBE2, running=False)), KUBE),
        (down(owner_ts=WALL_S), BY_KUBE, (STOPPED, kube()), KUBE),
        # The file is newer than the row, or knows the row's owner.
        (up(owner_ts=WALL_S + 1), BY_KUBE, (STOPPED, kube()), ""),
        (granted(owner_ts=WALL_S), BY_KUBE, (kube(),), KUBE),
        (granted(grant=KUBE2), BY_KUBE, (kube(), kube(KUBE2)), KUBE2),
        # The row names nothing that runs, or is one of an earlier boot.
        (up(owner_ts=1), BY_NONE, (STOPPED, kube()), ""),
        (up(owner_ts=1), BY_KUBE, (kube(running=False),), ""),
        (up(owner_ts=1), replace(BY_KUBE, update_ts=WALL_S - round(NOW) - 1), (STOPPED, kube()), ""),
    ],
)
def test_an_older_copy_yields_to_a_newer_row_that_names_what_runs(
    record: Record, row: Row, containers: tuple[Container, ...], grant: str
) -> None:
    after = seen(replace(record, unverified=Unverified()), row, *containers)
    assert (after.grant, after.unverified) == (grant, None)
    if grant == KUBE:
        assert after.system_state is SystemState.UP


def test_an_older_copy_does_not_know_what_was_admitted_either() -> None:
    row = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE, WALL_S, revision=8)
    older = up(revision=Revision(6), unverified=Unverified())
    after = seen(older, row, STOPPED, kube(running=False), kube(KUBE2))
    assert after.unverified == Unverified(since=NOW, containers=(KUBE2,))
    assert maybe_admitted(after, observed(kube(KUBE2))) == {KUBE2}


def test_what_ended_before_the_newer_owner_is_forgotten() -> None:
    crashed = up(exit=Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF), unverified=Unverified())
    assert seen(crashed, BY_KUBE, STOPPED, kube()).exit is None


def test_an_older_copy_knows_again_that_its_unit_is_up() -> None:
    row = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    after = seen(down(unverified=Unverified()), row, local())
    assert (after.system_state, after.local_id, after.unverified) == (SystemState.UP, LOCAL, None)
    known = seen(down(local_id=LOCAL, unverified=Unverified()), row, local())
    assert known.system_state is SystemState.DOWN, "the file is newer: the unit went down since"


AT_6, AT_8 = Revision(6, "up none kube_ready "), Revision(8, "")
STOP_NOTED = Row(SystemState.DOWN, Owner.NONE, Mode.READY, "", WALL_S - 5, revision=8)
WAITS_NOTED = Row(SystemState.UP, Owner.NONE, Mode.READY, "", WALL_S - 5, revision=8)


@pytest.mark.parametrize(
    "older",
    [
        granted(owner_ts=WALL_S - 5, revision=AT_6),
        # The wall clock has been set back since, or the owner is the same.
        granted(owner_ts=WALL_S + 3600, revision=AT_6),
        up(mode=Mode.READY, owner_ts=WALL_S - 5, revision=AT_6),
        up(local_id=LOCAL, owner_ts=WALL_S - 5, revision=AT_6),
    ],
)
def test_an_older_copy_does_not_undo_a_stop(older: Record) -> None:
    record = seen(replace(older, unverified=Unverified()), STOP_NOTED, STOPPED, kube(KUBE2))
    assert (record.system_state, record.grant, record.unverified) == (SystemState.DOWN, "", None)
    facts = observed(STOPPED, kube(KUBE2), row=STOP_NOTED, label=OFF, waiting=frozenset({KUBE2}))
    assert not isinstance(plan(FALLBACK, record, facts).action, WriteRow | Admit | RequestLabel)
    assert wait_code(FALLBACK, record, facts, TIMING, NOW, 0.0) == 0, "no exit is known"


@pytest.mark.parametrize(
    "found",
    [
        up(local_id=LOCAL, revision=AT_6, unverified=Unverified()),
        down(local_id=LOCAL, ending=True, revision=AT_6, unverified=Unverified()),
        up(revision=AT_6, unverified=Unverified()),
        Record(unverified=LOST),
        Record(unverified=FIRST),
    ],
)
def test_a_stop_under_way_goes_on_and_what_an_operator_has_started_since_its_end_runs_on(
    found: Record,
) -> None:
    ending = Row(SystemState.DOWN, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S, revision=9)
    stopping = seen(found, ending, local())
    assert (stopping.system_state, stopping.ending) == (SystemState.DOWN, True)
    facts = observed(local(), row=project(stopping, observed(local())), label=OFF)
    assert plan(FALLBACK, stopping, facts).action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    assert not seen(found, ending, STOPPED).ending, "it has ended meanwhile"
    by_hand = seen(found, replace(ending, revision=10), local())
    assert (by_hand.system_state, by_hand.ending) == (SystemState.DOWN, False)
    facts = observed(local(), row=project(by_hand, observed(local())), label=OFF)
    assert plan(FALLBACK, by_hand, facts).action is None


def test_an_older_copy_does_not_undo_a_start() -> None:
    record = seen(down(owner_ts=WALL_S - 5, revision=AT_6, unverified=Unverified()), WAITS_NOTED, STOPPED)
    assert (record.system_state, record.mode) == (SystemState.UP, Mode.READY)
    facts = observed(STOPPED, row=WAITS_NOTED, label=ON)
    assert plan(KUBE_CONFIG, record, facts).action is None
    assert wait_code(KUBE_CONFIG, record, facts, TIMING, NOW, None) is None


@pytest.mark.parametrize("revision", [AT_8, replace(AT_8, number=10)])
def test_a_file_that_is_as_new_as_the_row_stands(revision: Revision) -> None:
    """The daemon was killed between both writes; or another program has written the row, or deleted it."""
    record = seen(granted(revision=revision, unverified=Unverified()), STOP_NOTED, STOPPED, kube())
    assert (record.system_state, record.grant, record.unverified) == (SystemState.UP, KUBE, None)
    flushed = seen(granted(revision=revision, unverified=Unverified()), Row(), STOPPED, kube())
    assert (flushed.grant, flushed.revision.number) == (KUBE, revision.number + 2)


def test_a_file_of_other_features_yields_to_a_row_of_this_boot() -> None:
    record = seen(Record(unverified=Unverified()), STOP_NOTED, STOPPED, kube())
    assert (record.system_state, record.unverified) == (SystemState.DOWN, None)
    owned = replace(STOP_NOTED, system_state=SystemState.UP, current_owner=Owner.KUBE, docker_id=KUBE)
    assert seen(Record(unverified=Unverified()), owned, STOPPED, kube()).grant == KUBE


@pytest.mark.parametrize(
    "record", [Record(unverified=LOST), Record(unverified=Unverified()), down(unverified=Unverified())]
)
def test_a_row_of_an_earlier_boot_tells_nothing(record: Record) -> None:
    row = replace(WAITS_NOTED, revision=(2 << COUNT_BITS) + 8)
    facts = observed(STOPPED, row=row, wall_s=WALL_S, boot=3)
    after = absorb(record, FALLBACK, facts, TIMING, NOW)
    assert (after.system_state, after.unverified) == (record.system_state, None)


@pytest.mark.parametrize("row", [WAITS_NOTED, STOP_NOTED, replace(BY_KUBE, revision=8)])
def test_a_row_of_this_boot_shows_that_a_missing_ledger_is_not_of_a_first_start(row: Row) -> None:
    found = (STOPPED, kube(), kube(KUBE2))
    first = Record(unverified=FIRST, boot_fallback=True)
    assert shows_loss(first, row, 0)
    assert seen(first, row, *found) == seen(replace(first, unverified=LOST), row, *found)
    assert not shows_loss(seen(first, row, *found), row, 0), "it is compared once"
    assert not shows_loss(replace(first, unverified=LOST), row, 0)


@pytest.mark.parametrize("row", [Row(), BY_KUBE, replace(BY_KUBE, revision=(2 << COUNT_BITS) + 8)])
def test_without_a_row_of_this_boot_a_missing_ledger_is_of_a_first_start(row: Row) -> None:
    first = Record(unverified=FIRST, boot_fallback=True)
    for containers in ((local(),), (STOPPED, kube())):
        facts = observed(*containers, row=row, wall_s=WALL_S, boot=3)
        assert not shows_loss(first, row, 3)
        after = absorb(first, FALLBACK, facts, TIMING, NOW)
        assert after == absorb(replace(first, unverified=None), FALLBACK, facts, TIMING, NOW)
        stopped = accept(Stop(), FALLBACK, first, replace(facts, row=None))
        assert isinstance(stopped, Record)
        later = absorb(stopped, FALLBACK, facts, TIMING, NOW)
        assert (later.system_state, later.unverified) == (SystemState.DOWN, None)


def test_a_start_of_a_feature_whose_record_was_lost_keeps_what_runs() -> None:
    record = Record(mode=Mode.READY, grant=KUBE)
    facts = observed(STOPPED, kube(), row=Row())
    started = accept(Start(), FALLBACK, record, facts)
    assert isinstance(started, Record)
    assert state_of(FALLBACK, started, facts) is State.KUBE_RUNNING
