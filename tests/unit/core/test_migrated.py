"""Check what is taken over from another program, ctrmgrd, that ran the features before the daemon's first start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import EndContainer, RestartUnit, WriteRow
from kubesyncd.core.failed_action import ActionKind, FailedAction
from kubesyncd.core.model import Container, FeatureConfig, Mode, Owner, Row, Startup, SystemState
from kubesyncd.core.planner import decide
from kubesyncd.core.record import Cause, Record, project, row_told, state_of
from kubesyncd.core.revision import COUNT_BITS, Revision
from kubesyncd.core.state import State
from kubesyncd.core.unverified import (
    Unverified,
    keeps_row,
    maybe_admitted,
    row_seen,
    shows_loss,
    undecided,
    verified,
)
from kubesyncd.core.verbs import Start, Stop, accept
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
    granted,
    kube,
    local,
    observed,
    up,
)

if TYPE_CHECKING:
    from kubesyncd.core.observation import Observation

OTHER = "0dd0" * 16
NEW = Record(unverified=Unverified(lost=True, first=True, unmanaged=True))
LATER = Record(unverified=Unverified(unmanaged=True))
STOPPED = local(running=False)
WALL_S = 1_790_000_000
SINCE = WALL_S - 3600
# What ctrmgrd's scripts leave in STATE_DB.
BY_KUBE = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE[:12], SINCE)
NO_ID = replace(BY_KUBE, docker_id="")
BY_LOCAL = Row(SystemState.UP, Owner.LOCAL, Mode.NONE, "", SINCE)
WAITS = Row(SystemState.UP, Owner.NONE, Mode.READY, "", SINCE)
IN_WAIT = Row(SystemState.UP, Owner.NONE, Mode.PENDING, "", SINCE)
STOPPED_ROW = Row(SystemState.DOWN, Owner.NONE, Mode.READY, "", SINCE)

WAITED = up(mode=Mode.READY, owner_ts=SINCE, revision=Revision(8, "up none kube_ready "))
ADMITTED = granted(owner=Owner.KUBE, owner_ts=SINCE, revision=Revision(8, f"up kube kube_ready {KUBE[:12]}"))


def facts(row: Row | None, *containers: Container, **more: object) -> Observation:
    """An observation under SONiC's names, which are the names of such a row."""
    return observed(*containers, row=row, wall_s=WALL_S, label=ON, by_row=True, **more)


def seen(record: Record, seen: Observation, config: FeatureConfig = KUBE_CONFIG, now: float = NOW) -> Record:
    return absorb(record, config, seen, TIMING, now)


@pytest.mark.parametrize("record", [NEW, LATER])
@pytest.mark.parametrize("config", [KUBE_CONFIG, FALLBACK])
def test_a_running_kube_container_that_the_row_names_is_the_owner(
    record: Record, config: FeatureConfig
) -> None:
    look = facts(BY_KUBE, STOPPED, kube(KUBE2, started="2026-01-03"), kube())
    after = seen(record, look, config)
    assert (after.system_state, after.mode, after.grant) == (SystemState.UP, Mode.READY, KUBE)
    assert (after.granted_at, after.unverified, after.exit) == (NOW, None, None)
    assert state_of(config, after, look) is State.KUBE_RUNNING
    wanted = project(after, look)
    assert replace(wanted, docker_id=wanted.docker_id[:12], revision=0) == BY_KUBE, "of the row, all stays"
    assert decide(config, after, look, TIMING, NOW, "snmp").action == WriteRow(wanted), "the number is added"
    told = replace(look, row=wanted)
    assert decide(config, after, told, TIMING, NOW, "snmp").action is None


@pytest.mark.parametrize("record", [NEW, LATER, replace(WAITED, unverified=Unverified())])
def test_on_cgroup_v2_the_only_running_kube_container_is_the_owner(record: Record) -> None:
    """SONiC's script finds its own ID in /proc/self/cgroup, which has none there: the row is up, kube, and no ID."""
    row = replace(NO_ID, revision=record.revision.number)
    look = facts(row, STOPPED, kube(KUBE2, running=False), kube())
    after = seen(record, look)
    assert (after.system_state, after.mode, after.grant) == (SystemState.UP, Mode.READY, KUBE)
    assert (after.follows, after.unverified) == (True, None)
    wanted = project(after, look)
    assert replace(wanted, docker_id="", revision=0) == NO_ID
    assert decide(KUBE_CONFIG, after, look, TIMING, NOW, "snmp").action == WriteRow(wanted), "the ID is added"
    ending = seen(record, replace(look, stopping=frozenset({KUBE})))
    assert ending.grant == ""


def test_a_running_local_container_that_the_row_names_is_the_owner() -> None:
    for config, label in ((LOCAL_CONFIG, OFF), (FALLBACK, ON), (KUBE_CONFIG, ON)):
        look = replace(facts(BY_LOCAL, local()), label=label)
        after = seen(NEW, look, config)
        assert (after.system_state, after.mode, after.grant) == (SystemState.UP, Mode.NONE, "")
        assert state_of(config, after, look) is State.LOCAL
        assert verified(NEW, look, TIMING, NOW).local_id == LOCAL, "its unit asked for it"
        wanted = project(after, look)
        assert replace(wanted, docker_id="", revision=0) == BY_LOCAL
        assert decide(config, after, replace(look, row=wanted), TIMING, NOW, "snmp").action is None


def test_a_kube_container_that_waits_in_the_row_s_own_way_is_not_forgotten() -> None:
    look = facts(replace(BY_LOCAL, transition_mode=Mode.PENDING), local(), kube())
    after = seen(NEW, look, FALLBACK)
    assert (after.mode, after.grant, state_of(FALLBACK, after, look)) == (
        Mode.PENDING,
        "",
        State.LOCAL_TO_KUBE,
    )
    others = seen(NEW, facts(replace(BY_LOCAL, transition_mode=Mode.READY), local()), FALLBACK)
    assert others.mode is Mode.NONE
    upgraded = seen(NEW, facts(replace(BY_KUBE, transition_mode=Mode.PENDING), kube(), kube(KUBE2)))
    assert (upgraded.mode, upgraded.grant) == (Mode.READY, KUBE)


LEFT = [
    # Docker does not confirm it: it has ended, is another feature's, or is not the one.
    (BY_KUBE, (STOPPED, kube(running=False))),
    (BY_KUBE, (STOPPED,)),
    (BY_KUBE, (STOPPED, kube(KUBE2))),
    # Without an ID, which one it names is not certain: it waits, there are two, or a local one runs.
    (NO_ID, (STOPPED, kube())),
    (NO_ID, (STOPPED, kube(OTHER), kube(KUBE2))),
    (NO_ID, (STOPPED, kube(OTHER, running=False))),
    (NO_ID, (local(), kube(OTHER))),
    (replace(NO_ID, transition_mode=Mode.PENDING, startup=Startup.WAIT), (STOPPED, kube(OTHER))),
    (replace(NO_ID, startup=Startup.GO), (STOPPED, kube(OTHER))),
    (replace(NO_ID, transition_mode=Mode.NONE), (STOPPED, kube(OTHER))),
    (replace(BY_KUBE, docker_id=local().id[:12]), (kube(),)),
    # A local one runs beside it: which of them is past its gate is not known.
    (BY_KUBE, (local(), kube())),
    (BY_LOCAL, (STOPPED, kube())),
    (BY_LOCAL, (local(by_policy=True, restart_policy="always"),)),
    # It has no owner, or the unit is down.
    (replace(BY_KUBE, current_owner=Owner.NONE), (STOPPED, kube())),
    (WAITS, (STOPPED, kube())),
    (IN_WAIT, (STOPPED, kube())),
    (replace(BY_KUBE, system_state=SystemState.DOWN), (STOPPED, kube())),
    (replace(BY_LOCAL, system_state=SystemState.DOWN), (local(),)),
    (replace(BY_KUBE, system_state=SystemState.ABSENT), (kube(),)),
    (STOPPED_ROW, (STOPPED,)),
]


@pytest.mark.parametrize(("row", "containers"), LEFT)
@pytest.mark.parametrize("config", [LOCAL_CONFIG, KUBE_CONFIG, FALLBACK])
def test_a_row_that_docker_does_not_confirm_opens_nothing_and_is_left_alone(
    row: Row, containers: tuple[Container, ...], config: FeatureConfig
) -> None:
    look = facts(row, *containers, waiting=frozenset({KUBE}))
    for record in (NEW, LATER):
        after = seen(record, look, config)
        assert (after.system_state, after.grant) == (SystemState.ABSENT, "")
        assert after.unverified == Unverified(unmanaged=True, kept=True)
        assert keeps_row(after)
        assert row_told(after, look)
        plan = decide(config, after, look, TIMING, NOW, "snmp")
        assert (plan.state, plan.action) == (State.UNKNOWN, None)
        assert plan.why.endswith("STATE_DB's row is another program's, and unchanged")
        assert seen(after, look, config) == after
        assert (undecided(after), maybe_admitted(after, look), row_seen(after)) == (None, frozenset(), True)


def test_a_local_container_that_is_being_ended_is_not_taken_over() -> None:
    look = facts(BY_LOCAL, local(), stopping=frozenset({LOCAL}))
    assert seen(NEW, look, LOCAL_CONFIG).system_state is SystemState.ABSENT


def test_what_docker_confirms_later_is_taken_over_then() -> None:
    waits = seen(NEW, facts(WAITS, STOPPED, kube()))
    owned = seen(waits, facts(BY_KUBE, STOPPED, kube()), now=NOW + 100.0)
    assert (owned.grant, owned.granted_at, owned.unverified) == (KUBE, NOW + 100.0, None)
    starting = seen(NEW, facts(BY_LOCAL, STOPPED), LOCAL_CONFIG)
    started = seen(starting, facts(BY_LOCAL, local()), LOCAL_CONFIG)
    assert (started.system_state, started.local_id, started.unverified) == (SystemState.UP, local().id, None)


def test_a_feature_that_can_only_be_local_keeps_the_kube_container_that_another_program_runs() -> None:
    """The Kubernetes library is not installed, or the feature has a container for each ASIC."""
    look = facts(BY_KUBE, STOPPED, kube())
    after = seen(NEW, look, replace(KUBE_CONFIG, local_only=True))
    assert (after.system_state, after.grant, keeps_row(after)) == (SystemState.ABSENT, "", True)


def told(record: Record, look: Observation) -> Observation:
    """The same look, STATE_DB having what the record makes of it."""
    return replace(look, row=project(record, look))


def test_the_unit_is_restarted_before_the_container_ends_that_its_process_follows() -> None:
    look = replace(facts(BY_KUBE, STOPPED, kube()), kubelet=False, label=OFF)
    record = seen(NEW, look, LOCAL_CONFIG)
    plan = decide(LOCAL_CONFIG, record, told(record, look), TIMING, NOW, "snmp")
    assert plan.action == RestartUnit(renews=True)
    failed = FailedAction(ActionKind.RESTART_UNIT, "renewal", "no bus", again_at=NOW + 1.0)
    hindered = replace(told(record, look), failures=(failed,))
    asked = replace(record, follows=False)
    for each, found in ((record, hindered), (asked, told(asked, look))):
        plan = decide(LOCAL_CONFIG, each, found, TIMING, NOW, "snmp")
        assert plan.action == EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)

    local_runs = facts(BY_LOCAL, local(), kube(), waiting=frozenset({KUBE}))
    record = replace(seen(NEW, local_runs, KUBE_CONFIG), mode=Mode.PENDING)
    plan = decide(KUBE_CONFIG, record, told(record, local_runs), TIMING, NOW, "snmp")
    assert plan.action == RestartUnit(renews=True)
    record = replace(record, follows=False)
    plan = decide(KUBE_CONFIG, record, told(record, local_runs), TIMING, NOW, "snmp")
    assert plan.action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)


@pytest.mark.parametrize("verb", [Start(), Stop()])
def test_a_unit_that_has_spoken_follows_the_feature(verb: Start | Stop) -> None:
    look = facts(BY_KUBE, STOPPED, kube())
    taken = seen(NEW, look)
    assert taken.follows
    spoken = accept(verb, KUBE_CONFIG, taken, look)
    assert isinstance(spoken, Record)
    assert not spoken.follows


def test_what_has_passed_another_program_s_gate_does_not_ignore_this_one() -> None:
    waits = seen(NEW, facts(WAITS, STOPPED, kube()))
    assert [watch.asked for watch in waits.gates] == [False]
    owned = seen(waits, facts(BY_KUBE, STOPPED, kube()), now=NOW + 100.0)
    assert [watch.asked for watch in owned.gates] == [True]


@pytest.mark.parametrize("row", [BY_KUBE, NO_ID])
@pytest.mark.parametrize("of_image", ["", "20240510.1"])
def test_the_version_that_the_row_shows_stays(row: Row, of_image: str) -> None:
    """An image may not tell its version; its start-up script has told the row."""
    row = replace(row, version="20240510.1")
    look = facts(row, STOPPED, kube(version=of_image))
    taken = seen(NEW, look)
    assert (project(taken, look).version, taken.unconfirmed) == ("20240510.1", False)
    again = accept(Start(), KUBE_CONFIG, taken, told(taken, look))
    assert isinstance(again, Record)
    after = seen(again, told(again, look), now=NOW + 1.0)
    assert (project(after, look).version, after.unconfirmed) == ("20240510.1", False)


def test_a_verb_counts_over_the_row() -> None:
    look = facts(BY_KUBE, local(), kube())
    for verb, state in ((Stop(), SystemState.DOWN), (Start(), SystemState.UP)):
        for record in (NEW, seen(NEW, look)):
            spoken = accept(verb, KUBE_CONFIG, record, look)
            assert isinstance(spoken, Record)
            after = seen(spoken, look)
            assert (after.system_state, after.unverified) == (state, None)
            assert not row_told(after, look)


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (replace(WAITS, update_ts=WALL_S - round(NOW)), True),
        (replace(WAITS, update_ts=WALL_S - round(NOW) - 1), False),
        (replace(WAITS, update_ts=0), False),
        # What other programs have in the row is none of ours.
        (Row(update_ts=WALL_S), False),
        (Row(update_ts=WALL_S, failure="x"), False),
        (Row(), False),
    ],
)
def test_only_a_row_of_this_boot_is_left_alone(row: Row, kept: bool) -> None:
    look = facts(row, STOPPED)
    after = seen(NEW, look)
    assert after.unverified == Unverified(unmanaged=True, kept=kept)
    plan = decide(KUBE_CONFIG, after, look, TIMING, NOW, "snmp")
    assert (plan.action is None) is (kept or row == Row())


def test_the_clock_does_not_matter_where_docker_confirms_the_row() -> None:
    """The wall clock was set after ctrmgrd had written the row: a running container is of this boot."""
    after = seen(NEW, facts(replace(BY_KUBE, update_ts=0), STOPPED, kube()))
    assert (after.grant, after.owner_ts) == (KUBE, WALL_S)


def test_a_row_that_is_left_alone_stays_so_when_the_wall_clock_is_set() -> None:
    kept = seen(NEW, facts(WAITS, STOPPED))
    later = replace(facts(WAITS, STOPPED), wall_s=WALL_S + 10_000_000)
    assert keeps_row(seen(kept, later))
    assert not keeps_row(seen(NEW, later))
    assert not keeps_row(seen(kept, facts(Row(), STOPPED))), "it was deleted"


def test_a_local_container_without_a_row_is_told_by_the_daemon_s_own_row() -> None:
    after = seen(NEW, facts(Row(), local()), LOCAL_CONFIG)
    assert (after.unverified, after.system_state) == (None, SystemState.ABSENT)


def test_a_row_of_this_daemon_is_judged_by_its_number() -> None:
    numbered = replace(BY_KUBE, revision=8)
    assert shows_loss(NEW, numbered, 0)
    assert not shows_loss(seen(NEW, facts(WAITS, kube())), numbered, 0)
    assert seen(NEW, facts(numbered, STOPPED, kube())).grant == KUBE
    old = replace(WAITS, revision=(2 << COUNT_BITS) + 8)
    after = seen(NEW, facts(old, STOPPED, boot=3))
    assert (after.system_state, after.unverified) == (SystemState.ABSENT, None)


@pytest.mark.parametrize(
    ("record", "row", "containers", "grant"),
    [
        # ctrmgrd has handed over since, and left the number in the row.
        (up(local_id=local().id, owner_ts=SINCE, revision=Revision(8)), BY_KUBE, (STOPPED, kube()), KUBE),
        (
            up(mode=Mode.READY, grant=KUBE2, owner_ts=SINCE, revision=Revision(8)),
            BY_KUBE,
            (STOPPED, kube(), kube(KUBE2, running=False)),
            KUBE,
        ),
        # The row is what the record has made of it.
        (up(mode=Mode.READY, grant=KUBE, revision=Revision(8)), BY_KUBE, (STOPPED, kube()), KUBE),
        # It names nothing that runs, or is older.
        (up(owner_ts=SINCE, revision=Revision(8)), BY_KUBE, (STOPPED, kube(KUBE2)), ""),
        (up(owner_ts=SINCE + 1, revision=Revision(8)), BY_KUBE, (STOPPED, kube()), ""),
    ],
)
def test_a_row_that_ctrmgrd_has_changed_while_the_daemon_was_away_counts(
    record: Record, row: Row, containers: tuple[Container, ...], grant: str
) -> None:
    after = seen(
        replace(record, unverified=Unverified()), facts(replace(row, revision=8), *containers), FALLBACK
    )
    assert (after.grant, after.unverified) == (grant, None)


@pytest.mark.parametrize("before", [WAITED, ADMITTED, replace(WAITED, system_state=SystemState.DOWN)])
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("number", [0, 8])
def test_a_local_container_that_ctrmgrd_has_started_meanwhile_is_kept(
    before: Record, mode: Mode, number: int
) -> None:
    """Only Kubernetes may run the feature: what is new and not asked for would be ended."""
    row = replace(BY_LOCAL, transition_mode=mode, revision=number)
    look = facts(row, local())
    after = seen(replace(before, unverified=Unverified()), look)
    assert (after.system_state, after.grant, after.unverified) == (SystemState.UP, "", None)
    assert (after.mode is Mode.PENDING, after.unasked, after.local_id) == (mode is Mode.PENDING, None, LOCAL)
    assert after.follows, "its unit waits by ctrmgrd's program"
    plan = decide(KUBE_CONFIG, after, told(after, look), TIMING, NOW, "snmp")
    assert not isinstance(plan.action, EndContainer)
    assert plan.state in (State.LOCAL, State.LOCAL_TO_KUBE)


@pytest.mark.parametrize("verb", [Start(), Stop()])
def test_what_a_verb_has_said_before_the_row_was_read_stands(verb: Start | Stop) -> None:
    row = replace(BY_LOCAL, revision=8, transition_mode=Mode.READY)
    spoken = accept(verb, KUBE_CONFIG, replace(WAITED, unverified=Unverified()), facts(row, local()))
    assert isinstance(spoken, Record)
    after = seen(spoken, facts(row, local()))
    assert (after.system_state, after.ending, after.follows, after.unasked) == (
        spoken.system_state,
        spoken.ending,
        False,
        None,
    )
    assert (after.local_id, after.mode) == (LOCAL, Mode.NONE)


def test_a_stop_of_ctrmgrd_that_is_under_way_goes_on() -> None:
    row = replace(BY_LOCAL, revision=8, system_state=SystemState.DOWN)
    after = seen(replace(WAITED, unverified=Unverified()), facts(row, local()))
    assert (after.system_state, after.ending, after.local_id) == (SystemState.DOWN, False, LOCAL)


def test_one_that_no_row_tells_of_is_ended_though_it_started_while_the_daemon_was_away() -> None:
    """SONiC's update-containers writes no row; nor does ctrmgrd's row of before the feature waited tell of it."""
    for row in (replace(WAITS, revision=8), replace(BY_LOCAL, revision=8, update_ts=SINCE - 1)):
        look = facts(row, local())
        after = seen(replace(WAITED, unverified=Unverified()), look)
        assert decide(KUBE_CONFIG, after, told(after, look), TIMING, NOW, "snmp").action == EndContainer(
            LOCAL, Cause.STOP, TIMING.stop_grace_s
        )


def test_a_local_container_that_its_script_made_again_belongs_to_the_unit_as_before() -> None:
    """Without the daemon the client uses docker where the ledger says local: the row stays this daemon's."""
    before = up(
        local_id="f00d" * 16, owner=Owner.LOCAL, owner_ts=SINCE, revision=Revision(8, "up local none ")
    )
    look = facts(replace(BY_LOCAL, revision=8), local())
    after = seen(replace(before, unverified=Unverified()), look)
    assert (after.local_id, after.follows, after.unasked) == (LOCAL, False, None)
    assert decide(KUBE_CONFIG, after, told(after, look), TIMING, NOW, "snmp").action is None, (
        "owner kube since"
    )
