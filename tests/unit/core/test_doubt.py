"""Check how a record is judged by what runs and by STATE_DB's row after its file was lost, or is an older copy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import EndContainer
from kubesyncd.core.asked_start import asked_start
from kubesyncd.core.doubt import Doubt, doubt_deadline, may_be_admitted, undecided
from kubesyncd.core.model import Container, Mode, Owner, Row, SystemState
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Exit, Record, state_of
from kubesyncd.core.state import State
from kubesyncd.core.verbs import DONE, Start, Stop, accept, outcome, wait_code
from tests.unit.core.given import (
    FALLBACK,
    KUBE,
    KUBE2,
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
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

LOST = Doubt(lost=True)
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
    return Record(doubt=LOST)


def test_the_running_kube_container_that_the_row_names_is_the_owner() -> None:
    for named in (KUBE, KUBE[:12]):
        record = seen(lost(), replace(BY_KUBE, docker_id=named), STOPPED, kube(), kube(KUBE2))
        assert (record.system_state, record.mode, record.grant) == (SystemState.UP, Mode.READY, KUBE)
        assert (record.granted_at, record.proven, record.doubt) == (NOW, False, None)


def test_a_row_that_names_an_ended_container_makes_nothing_an_owner() -> None:
    another = seen(lost(), replace(BY_KUBE, docker_id=KUBE2), STOPPED, kube())
    assert (another.grant, another.doubt) == ("", Doubt(lost=True, since=NOW, containers=(KUBE,)))
    record = seen(lost(), BY_KUBE, STOPPED, kube(running=False))
    assert (record.grant, record.doubt, record.system_state) == ("", None, SystemState.UP)


def test_a_local_container_that_runs_leaves_kube_ones_waiting() -> None:
    row = Row(SystemState.UP, Owner.LOCAL, Mode.PENDING, LOCAL, WALL_S)
    record = seen(lost(), row, local(), kube())
    assert (record.mode, record.grant, record.local_id) == (Mode.PENDING, "", LOCAL)
    assert (record.doubt, record.start) == (None, None)


def test_nothing_is_judged_until_state_db_answers() -> None:
    record = seen(lost(), None, STOPPED, kube())
    assert record.doubt == LOST
    assert undecided(record) is None
    assert doubt_deadline(record, TIMING) is None
    assert doubt_deadline(up(), TIMING) is None


def test_another_running_kube_container_counts_as_admitted_unless_it_asks_again() -> None:
    begun = seen(lost(), BY_NONE, STOPPED, kube(), kube(KUBE2, started="2026-01-03"))
    assert begun.doubt == Doubt(lost=True, since=NOW, containers=(KUBE2, KUBE))
    asked = seen(begun, BY_NONE, STOPPED, kube(), kube(KUBE2), waiting=frozenset({KUBE}))
    assert asked.doubt == Doubt(lost=True, since=NOW, containers=(KUBE2,))
    early = seen(asked, BY_NONE, STOPPED, kube(), kube(KUBE2), now=DUE - 0.1)
    assert early.doubt == asked.doubt
    over = seen(asked, BY_NONE, STOPPED, kube(), kube(KUBE2), now=DUE)
    assert (over.grant, over.granted_at, over.doubt) == (KUBE2, DUE, None)
    both = frozenset({KUBE, KUBE2})
    blocked = seen(begun, BY_NONE, STOPPED, kube(), kube(KUBE2), waiting=both)
    assert (blocked.grant, blocked.doubt) == ("", None)
    gone = seen(begun, BY_NONE, STOPPED)
    assert (gone.grant, gone.doubt) == ("", None)


def test_the_newest_one_owns_where_several_have_not_asked_again() -> None:
    begun = seen(lost(), BY_NONE, kube(), kube(KUBE2, started="2026-01-03"))
    over = seen(begun, BY_NONE, kube(), kube(KUBE2, started="2026-01-03"), now=DUE)
    assert over.grant == KUBE2


@pytest.mark.parametrize("config", [LOCAL_CONFIG, KUBE_CONFIG, FALLBACK])
def test_nothing_is_started_or_admitted_meanwhile(config: object) -> None:
    record = up(mode=Mode.NONE, doubt=Doubt(lost=True, since=NOW, containers=(KUBE,)))
    row = Row(SystemState.UP, update_ts=record.owner_ts)
    facts = observed(STOPPED, kube(), kube(KUBE2), waiting=frozenset({KUBE2}), row=row, label=ON)
    held = decide(config, record, facts, TIMING, NOW, "snmp")  # type: ignore[arg-type]
    assert (held.action, held.wake_at) == (None, DUE)
    assert "the ledger was lost" in held.why
    after = decide(config, replace(record, doubt=None), facts, TIMING, NOW, "snmp")  # type: ignore[arg-type]
    assert after.action is not None


def test_a_local_container_that_appears_meanwhile_is_the_one_that_is_stopped() -> None:
    begun = up(doubt=Doubt(lost=True, since=NOW, containers=(KUBE,)))
    record = seen(begun, BY_NONE, local(), kube())
    assert (record.grant, record.doubt) == (KUBE, None)
    ended = plan(FALLBACK, record, observed(local(), kube(), label=ON)).action
    assert isinstance(ended, EndContainer)
    assert ended.container_id == LOCAL


def test_a_stop_waits_for_the_end_of_what_may_have_been_admitted() -> None:
    begun = up(doubt=Doubt(lost=True, since=NOW, containers=(KUBE,)))
    facts = observed(STOPPED, kube(), row=BY_NONE)
    stopped = accept(Stop(), KUBE_CONFIG, begun, facts)
    assert isinstance(stopped, Record)
    assert outcome(Stop(), KUBE_CONFIG, stopped, facts) is None
    assert wait_code(KUBE_CONFIG, stopped, facts, TIMING, NOW, 0.0) is None
    record = seen(stopped, BY_NONE, STOPPED, kube())
    assert (record.system_state, record.grant, record.doubt) == (SystemState.DOWN, KUBE, None)
    ended = observed(STOPPED, kube(running=False))
    assert outcome(Stop(), LOCAL_CONFIG, down(doubt=None), replace(ended, row=Row(SystemState.DOWN))) is DONE
    # Before the row is read, every running kube container counts.
    blind = observed(STOPPED, kube(), row=None)
    assert wait_code(KUBE_CONFIG, down(doubt=LOST), blind, TIMING, NOW, 0.0) is None
    blocked = replace(blind, waiting=frozenset({KUBE}))
    assert wait_code(KUBE_CONFIG, down(doubt=LOST), blocked, TIMING, NOW, 0.0) == 0
    assert wait_code(KUBE_CONFIG, down(doubt=Doubt()), blind, TIMING, NOW, 0.0) == 0


def test_what_a_verb_has_asked_for_since_stands() -> None:
    stopped = down(ending=True, doubt=LOST)
    record = seen(stopped, BY_KUBE, STOPPED, kube())
    assert (record.system_state, record.grant) == (SystemState.DOWN, KUBE)
    older = seen(down(ending=True, doubt=Doubt()), BY_KUBE, STOPPED, kube())
    assert (older.system_state, older.grant) == (SystemState.DOWN, KUBE)
    # What is always local is started without Redis.
    started = seen(up(doubt=LOST), Row(SystemState.DOWN, Owner.NONE, Mode.NONE, "", WALL_S), STOPPED)
    assert started.system_state is SystemState.UP


def test_without_a_row_what_runs_was_started_for_a_unit_that_is_up() -> None:
    assert seen(lost(), Row(), local()).system_state is SystemState.UP
    told = Row(SystemState.DOWN, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    assert seen(lost(), told, local()).system_state is SystemState.DOWN
    idle = seen(lost(), Row(), STOPPED)
    assert (idle.system_state, idle.doubt) == (SystemState.ABSENT, None)
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
    assert (begun.start, begun.ending, begun.doubt) == (asked, False, None), (
        "no container was admitted before"
    )
    assert seen(lost(), BY_NONE, STOPPED, kube()).start == asked
    assert seen(lost(), starting, kube()).start is None
    stopped = seen(lost(), replace(starting, system_state=SystemState.DOWN), STOPPED)
    assert (stopped.start, stopped.ending) == (asked, True), "what it starts is ended"


def test_a_kube_container_that_waits_while_the_row_says_down_was_not_admitted() -> None:
    stopped = Row(SystemState.DOWN, Owner.NONE, Mode.READY, "", WALL_S)
    record = seen(lost(), stopped, STOPPED, kube())
    assert (record.system_state, record.grant, record.doubt) == (SystemState.DOWN, "", None)
    ending = replace(stopped, current_owner=Owner.KUBE, docker_id=KUBE)
    assert seen(lost(), ending, STOPPED, kube()).grant == KUBE


@pytest.mark.parametrize("row", [Row(), Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)])
def test_a_row_that_is_gone_or_behind_does_not_tell_what_was_admitted(row: Row) -> None:
    assert seen(lost(), row, STOPPED, kube()).doubt == Doubt(lost=True, since=NOW, containers=(KUBE,))


def test_a_recovered_record_keeps_no_earlier_grant() -> None:
    older = granted(grant=KUBE2, owner_ts=WALL_S - 5, doubt=Doubt())
    row = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    after = seen(older, row, local(), kube(KUBE2, running=False))
    assert (after.grant, after.granted_at, after.proven, after.doubt) == ("", 0.0, False, None)
    assert (after.exit, after.crashes) == (None, 0), "the end of an earlier owner is no news"
    named_local = seen(lost(), replace(BY_KUBE, docker_id=LOCAL), local(), kube())
    assert (named_local.grant, named_local.exit) == ("", None)
    named_kube = seen(lost(), replace(BY_KUBE, current_owner=Owner.NONE), STOPPED, kube())
    assert (named_kube.grant, named_kube.doubt is not None) == ("", True)


def test_which_kube_containers_count_as_admitted() -> None:
    both = observed(kube(), kube(KUBE2))
    assert may_be_admitted(up(doubt=Doubt(lost=True, since=NOW, containers=(KUBE,))), both) is True
    ended = up(doubt=Doubt(lost=True, since=NOW, containers=("dead" * 16,)))
    assert may_be_admitted(ended, both) is False
    assert may_be_admitted(up(doubt=LOST), replace(both, waiting=frozenset({KUBE}))) is True
    assert may_be_admitted(up(), both) is False


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
    after = seen(replace(record, doubt=Doubt()), row, *containers)
    assert (after.grant, after.doubt) == (grant, None)
    if grant == KUBE:
        assert after.system_state is SystemState.UP


def test_what_ended_before_the_newer_owner_is_forgotten() -> None:
    crashed = up(exit=Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF), doubt=Doubt())
    assert seen(crashed, BY_KUBE, STOPPED, kube()).exit is None


def test_an_older_copy_knows_again_that_its_unit_is_up() -> None:
    row = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, LOCAL, WALL_S)
    after = seen(down(doubt=Doubt()), row, local())
    assert (after.system_state, after.local_id, after.doubt) == (SystemState.UP, LOCAL, None)
    known = seen(down(local_id=LOCAL, doubt=Doubt()), row, local())
    assert known.system_state is SystemState.DOWN, "the file is newer: the unit went down since"


def test_a_start_of_a_feature_whose_record_was_lost_keeps_what_runs() -> None:
    record = Record(mode=Mode.READY, grant=KUBE)
    facts = observed(STOPPED, kube(), row=Row())
    started = accept(Start(), FALLBACK, record, facts)
    assert isinstance(started, Record)
    assert state_of(FALLBACK, started, facts) is State.KUBE_RUNNING
