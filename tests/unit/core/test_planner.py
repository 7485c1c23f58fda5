"""Check the planner for every combination, from every interrupted plan, and for each rule of the spec."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import Any

import pytest

from kubesyncd.adapters.db_schema import SONIC
from kubesyncd.core import verbs
from kubesyncd.core.absorb import absorb
from kubesyncd.core.actions import (
    Admit,
    EndContainer,
    Plan,
    RequestLabel,
    RestartUnit,
    SetMode,
    StartLocal,
    WriteRow,
)
from kubesyncd.core.feature_label import label_missing, label_wanted
from kubesyncd.core.health import Health
from kubesyncd.core.model import (
    Container,
    FailurePolicy,
    FeatureConfig,
    KubeLabel,
    LabelView,
    Mode,
    Owner,
    Row,
    Startup,
    SystemState,
)
from kubesyncd.core.observation import Observation
from kubesyncd.core.planner import decide, foresee
from kubesyncd.core.record import Cause, Exit, Record, StopStyle, project, state_of, with_grant, with_mode
from kubesyncd.core.state import State, classify
from tests.paths import GOLDEN
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
    look,
    observed,
    plan,
    up,
)

GOLDEN = GOLDEN / "decisions.txt"

# ---- the table ----------------------------------------------------------------------------------

SYSTEM = (SystemState.UP, SystemState.DOWN)
OWNERS = (Owner.LOCAL, Owner.KUBE, Owner.NONE)


@dataclass(frozen=True)
class Combination:
    """What proof.md's table enumerates. `owner`: whom the row and the ledger name."""

    set_owner: Owner
    fallback: bool
    system: SystemState
    owner: Owner
    mode: Mode
    local_runs: bool
    kube_runs: bool

    @property
    def config(self) -> FeatureConfig:
        return FeatureConfig(set_owner=self.set_owner, fallback=self.fallback)

    @property
    def row(self) -> Row:
        docker_id = {Owner.LOCAL: LOCAL, Owner.KUBE: KUBE, Owner.NONE: ""}[self.owner]
        return Row(self.system, self.owner, self.mode, docker_id)

    @property
    def record(self) -> Record:
        return Record(
            system_state=self.system,
            mode=self.mode,
            grant=KUBE if self.owner is Owner.KUBE else "",
            granted_at=1.0 if self.owner is Owner.KUBE else 0.0,
            local_id=LOCAL if self.owner is Owner.LOCAL else "",
            owner=self.owner,
        )

    @property
    def observed(self) -> Observation:
        containers = (local(running=self.local_runs), *([kube()] if self.kube_runs else []))
        waiting = frozenset({KUBE}) if self.kube_runs and self.owner is not Owner.KUBE else frozenset()
        label = ON if self.set_owner is Owner.KUBE else OFF
        return observed(*containers, row=self.row, waiting=waiting, label=label)


def combinations() -> list[Combination]:
    both = (False, True)
    return [
        Combination(*parts)
        for parts in itertools.product(
            (Owner.LOCAL, Owner.KUBE), both, SYSTEM, OWNERS, tuple(Mode), both, both
        )
    ]


def shown(c: Combination) -> str:
    """One line of the golden file: what is recorded and what Docker says -> state, first action, reason."""
    record, seen = look(c.config, c.record, c.observed)
    decided = decide(c.config, record, seen, TIMING, NOW, "snmp")
    recorded = classify(c.row, c.set_owner, local_exited=False)
    fallback = "+fallback" if c.fallback else ""
    containers = f"{'local' if c.local_runs else '-':5} {'kube' if c.kube_runs else '-':4}"
    return (
        f"{c.set_owner + fallback:14} {c.system:4} {c.owner:5} {c.mode:12} | {containers} | "
        f"{recorded:13} -> {decided.state:13} {named(decided):14} {decided.why}"
    )


def named(decided: Plan) -> str:
    """The action in a word."""
    match decided.action:
        case None:
            return "-"
        case WriteRow():
            return "write row"
        case SetMode(mode):
            return f"mode {mode.value.removeprefix('kube_')}"
        case Admit():
            return "grant"
        case RequestLabel(on):
            return f"label {'on' if on else 'off'}"
        case StartLocal():
            return "start local"
        case EndContainer(container_id):
            return f"end {'local' if container_id == LOCAL else 'kube'}"
        case RestartUnit():
            return "restart unit"


HEAD = """\
What decide() does first in each of 288 situations, STATE_DB being right already.
Recorded (set_owner, system_state, current_owner, transition_mode) | running by Docker | state by the record -> state by
Docker, action, why. `KUBESYNCD_GOLDEN=write make test` writes this file again: read the diff before committing it.
"""


def test_every_combination_decides_as_the_golden_file_says() -> None:
    text = "\n".join([HEAD, *(shown(c) for c in combinations())]) + "\n"
    if os.environ.get("KUBESYNCD_GOLDEN") == "write":
        GOLDEN.write_text(text)
    lines, golden = text.splitlines(), GOLDEN.read_text().splitlines()
    assert len(lines) == len(golden)
    # pytest takes minutes to show two long texts that differ in each line.
    assert [(now, then) for now, then in zip(lines, golden, strict=True) if now != then][:10] == []
    assert len(combinations()) == 288


def test_today_s_sonic_values_decide_like_the_design_document_s() -> None:
    """480: SONiC's five remote states instead of three modes."""
    words = {
        "none": Mode.NONE,
        "pending": Mode.PENDING,
        "ready": Mode.READY,
        "running": Mode.READY,
        "stopped": Mode.READY,
    }
    seen = 0
    for c in combinations():
        if c.mode is Mode.NONE:
            for word, mode in words.items():
                stored = {
                    "system_state": c.system.value,
                    "current_owner": c.owner.value,
                    "remote_state": word,
                }
                problems: list[str] = []
                row = SONIC.decode_row(stored, problems)
                assert not problems
                assert row.startup is {"pending": Startup.WAIT, "ready": Startup.GO}.get(word, Startup.NONE)
                row = replace(row, docker_id="", startup=Startup.NONE)
                assert row == replace(replace(c, mode=mode).row, docker_id="")
                state = classify(row, c.set_owner, local_exited=False)
                assert state is classify(replace(c, mode=mode).row, c.set_owner, local_exited=False)
                assert decide(c.config, replace(c, mode=mode).record, c.observed, TIMING, NOW, "snmp").why
                seen += 1
    assert seen == 480


@pytest.mark.parametrize("system", SYSTEM)
def test_a_wrong_row_is_corrected_before_anything_else(system: SystemState) -> None:
    for c in combinations():
        if c.system is system:
            record = absorb(c.record, c.config, c.observed, TIMING, NOW)
            wanted = project(record, c.observed)
            wrong = replace(c.observed, row=Row(failure="written by another program"))
            decided = decide(c.config, record, wrong, TIMING, NOW, "snmp")
            assert decided.action == WriteRow(wanted)
            assert decided.wake_at is None
            right = decide(c.config, record, replace(c.observed, row=wanted), TIMING, NOW, "snmp")
            assert (decided.state, decided.why) == (right.state, right.why)


# ---- plans cut short ----------------------------------------------------------------------------

ACTIONS_MAX = 8


@dataclass(frozen=True)
class Snapshot:
    """One moment: what is remembered and what is. Engines do at once what they are told."""

    config: FeatureConfig
    record: Record
    local: bool | None
    kube: tuple[str, ...] = ()
    waiting: frozenset[str] = frozenset()
    label: KubeLabel = KubeLabel.OFF
    row: Row | None = None
    master: bool = True
    reasking: bool = False

    def observed(self) -> Observation:
        containers = [] if self.local is None else [local(running=self.local, code=7)]
        containers += [kube(c, started=f"2026-01-0{i}") for i, c in enumerate(self.kube, 2)]
        running = frozenset(self.kube)
        return Observation(
            row=self.row,
            containers=tuple(containers),
            waiting=self.waiting & running,
            reasking=self.reasking,
            label=LabelView(self.label, pending=not self.master, failed=not self.master, acked_at=1.0),
            joined=True,
            kubelet=self.master,
        )


@dataclass(frozen=True)
class Step:
    """One plan carried out; `forgotten`: the daemon died before it could remember that it did."""

    plan: Plan
    after: Snapshot
    forgotten: Snapshot


def step(s: Snapshot) -> Step | None:
    """What happens next; None where nothing does any more."""
    seen = s.observed()
    s = replace(s, record=absorb(s.record, s.config, seen, TIMING, NOW))
    decided = decide(s.config, s.record, seen, TIMING, NOW, "snmp")
    if decided.action is None:
        ended = kubelet_ends(s)
        return None if ended is None else Step(decided, ended, ended)
    after = acted(s, decided)
    return Step(decided, after, replace(after, record=s.record))


def kubelet_ends(s: Snapshot) -> Snapshot | None:
    """A kubelet in touch with its master ends what has no label."""
    if s.master and s.label is not KubeLabel.ON and s.kube:
        return replace(s, kube=s.kube[1:], waiting=s.waiting - {s.kube[0]})
    return None


def acted(s: Snapshot, decided: Plan) -> Snapshot:
    match decided.action:
        case WriteRow(row):
            return replace(s, row=row)
        case SetMode(mode):
            return replace(s, record=with_mode(s.record, mode))
        case Admit(container_id):
            assert not s.local, "S1: a grant beside a running local container"
            return replace(
                s,
                record=with_grant(s.record, container_id, NOW, by_row=False),
                waiting=s.waiting - {container_id},
            )
        case RequestLabel(on):
            return replace(s, label=KubeLabel.ON if on else KubeLabel.OFF)
        case StartLocal():
            assert not s.record.grant, "S1: a local start beside a granted kube container"
            return replace(s, local=True, record=replace(s.record, local_id=LOCAL))
        case EndContainer(container_id, cause):
            record = replace(s.record, asked=(container_id, cause))
            if container_id == LOCAL:
                return replace(s, local=False, record=record)
            return replace(s, kube=tuple(c for c in s.kube if c != container_id), record=record)
        case RestartUnit():
            # The unit's script creates the container, asks for `start`, and that starts it.
            created = replace(s, local=False, record=replace(s.record, unit_restarted=True))
            return replace(spoken(created, verbs.Start()), local=True)
        case None:
            raise AssertionError("nothing to do")


def spoken(s: Snapshot, verb: verbs.Verb) -> Snapshot:
    """The snapshot once a verb is noted."""
    noted = verbs.accept(verb, s.config, s.record, s.observed())
    return replace(s, record=noted) if isinstance(noted, Record) else s


class Replay:
    """How many actions each snapshot takes to come to rest; each is looked at once.

    STATE_DB only mirrors them: a row is written at most once between two actions, and is not counted.
    """

    def __init__(self) -> None:
        self._known: dict[Snapshot, int] = {}

    def actions(self, s: Snapshot) -> int:
        path: list[tuple[Snapshot, bool]] = []
        at, wrote = s, False
        while at not in self._known and (stepped := step(at)) is not None:
            writes = isinstance(stepped.plan.action, WriteRow)
            assert not (writes and wrote), f"two row writes in a row: {story(s)}"
            path.append((at, stepped.plan.action is not None and not writes))
            assert len(path) <= 30, f"never comes to rest: {story(s)}"
            at, wrote = stepped.after, writes
        count = self._known.setdefault(at, 0)
        for each, acts in reversed(path):
            count += acts
            self._known[each] = count
        return count


def interrupted(s: Snapshot) -> list[Snapshot]:
    """Every snapshot that a run from `s` may leave behind, the last one at rest."""
    left = [s]
    while (stepped := step(s)) is not None:
        s = stepped.after
        left += [stepped.forgotten, s]
    return left


def story(s: Snapshot) -> str:
    """What is done from here on, and why; what a failing replay shows."""
    lines = [str(s)]
    while (stepped := step(s)) is not None and len(lines) < 15:
        made = stepped.plan
        lines.append(f"{len(lines):3}. {made.state}: {named(made)}: {made.why}")
        s = stepped.after
    return "\n".join(lines)


def snapshots() -> list[Snapshot]:
    """Every combination of what matters to a rule, as our own rules may leave it."""
    found = []
    for config, system, mode, runs, kind, label, master in itertools.product(
        (LOCAL_CONFIG, KUBE_CONFIG, FALLBACK),
        (*SYSTEM, SystemState.ABSENT),
        tuple(Mode),
        (None, False, True),
        ("none", "waits", "granted", "ended", "silent"),
        tuple(KubeLabel),
        (True, False),
    ):
        has_grant = kind in ("granted", "ended")
        if has_grant and mode is not Mode.READY:
            continue  # no rule of ours leaves a grant in another mode
        record = Record(
            system_state=system,
            mode=mode,
            grant=KUBE if has_grant else "",
            local_id=LOCAL if runs else "",
            ending=system is SystemState.DOWN and has_grant,
        )
        containers = (KUBE,) if kind in ("waits", "granted", "silent") else ()
        waiting = frozenset({KUBE}) if kind == "waits" else frozenset()
        start = Snapshot(config, record, runs, containers, waiting, label, Row(), master)
        found.append(replace(start, row=project(record, start.observed())))
    return found


def perturbed(s: Snapshot) -> list[Snapshot]:
    """The same moment after one thing has gone differently."""
    other = Owner.LOCAL if s.config.set_owner is Owner.KUBE else Owner.KUBE
    return [
        s,
        replace(s, row=Row()),
        replace(s, row=Row(SystemState.UP, Owner.KUBE, Mode.NONE, KUBE2, 5, "drift")),
        replace(s, config=replace(s.config, set_owner=other)),
        replace(s, local=None if s.local is None else not s.local),
        replace(s, kube=(), waiting=frozenset()),
        replace(s, kube=(*s.kube, KUBE2), waiting=s.waiting | {KUBE2}),
        replace(s, waiting=frozenset(), reasking=True),
        replace(s, waiting=frozenset()),
        replace(s, label=KubeLabel.OFF if s.label is KubeLabel.ON else KubeLabel.ON),
        replace(s, master=not s.master),
        spoken(s, verbs.Stop()),
        spoken(s, verbs.Start()),
        spoken(s, verbs.Kill()),
        spoken(s, verbs.Kill(kubelet_check=False)),
    ]


@pytest.mark.slow("every plan, cut after each action")
def test_every_interrupted_plan_comes_to_rest_within_eight_actions() -> None:
    replay, longest, seen = Replay(), 0, set()
    for start in snapshots():
        for cut in interrupted(start):
            if cut in seen:
                continue
            seen.add(cut)
            for moment in perturbed(cut):
                count = replay.actions(moment)
                longest = max(longest, count)
                assert count <= ACTIONS_MAX, story(moment)
    assert 4 < longest <= ACTIONS_MAX


def test_at_rest_a_restart_changes_nothing() -> None:
    replay = Replay()
    for start in snapshots():
        rest = interrupted(start)[-1]
        again = replace(rest, waiting=frozenset(), reasking=True)
        if rest.waiting:
            again = replace(again, waiting=rest.waiting)
        assert replay.actions(again) == 0, story(again)


# ---- rules, one sentence each -------------------------------------------------------------------

LONG = TIMING.fallback_after_s


def test_nothing_is_touched_until_the_unit_speaks() -> None:
    for config, containers in itertools.product(
        (LOCAL_CONFIG, FALLBACK), ((), (local(),), (kube(),), (local(), kube()))
    ):
        decided = plan(config, Record(mode=Mode.READY), observed(*containers, waiting=frozenset({KUBE})))
        assert (decided.state, decided.action, decided.wake_at) == (State.UNKNOWN, None, None)


def test_a_command_in_the_reason_names_the_feature() -> None:
    record, seen = look(LOCAL_CONFIG, Record(), observed())
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").why == (
        "not managed yet; restart its service: systemctl restart snmp"
    )
    record, seen = look(LOCAL_CONFIG, up(unit_restarted=True), observed())
    why = decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").why
    assert why.endswith("see: journalctl -u snmp")


def test_without_redis_nothing_but_stop_and_kill_is_carried_out() -> None:
    seen = observed(local(running=False))
    record = absorb(up(), LOCAL_CONFIG, seen, TIMING, NOW)
    assert decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").action is None
    assert "Redis" in decide(LOCAL_CONFIG, record, seen, TIMING, NOW, "snmp").why
    database = replace(LOCAL_CONFIG, always_local=True)
    assert decide(database, record, seen, TIMING, NOW, "snmp").action == StartLocal(LOCAL)
    stopping = absorb(down(ending=True), LOCAL_CONFIG, observed(local()), TIMING, NOW)
    assert decide(LOCAL_CONFIG, stopping, observed(local()), TIMING, NOW, "snmp").action == EndContainer(
        LOCAL, Cause.STOP, TIMING.stop_grace_s
    )


def test_the_row_is_left_empty_while_a_reboot_is_prepared() -> None:
    record, seen = look(LOCAL_CONFIG, up(), observed(local(), hold=True))
    assert decide(LOCAL_CONFIG, record, replace(seen, row=Row()), TIMING, NOW, "snmp").action is None
    assert isinstance(
        decide(LOCAL_CONFIG, record, replace(seen, row=Row(failure="x")), TIMING, NOW, "snmp").action,
        WriteRow,
    )
    assert isinstance(
        decide(LOCAL_CONFIG, record, replace(seen, row=Row(), hold=False), TIMING, NOW, "snmp").action,
        WriteRow,
    )


def test_a_hand_over_stops_the_local_container_and_then_admits_the_kube_one() -> None:
    waits = frozenset({KUBE})
    seen = observed(local(), kube(), waiting=waits, label=ON)
    assert plan(FALLBACK, up(), seen).action == SetMode(Mode.PENDING)
    pending = up(mode=Mode.PENDING)
    assert plan(FALLBACK, pending, seen).action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
    stopping = replace(seen, stopping=frozenset({LOCAL}))
    assert plan(FALLBACK, pending, stopping).action is None
    ended = observed(local(running=False), kube(), waiting=waits, label=ON)
    decided = plan(FALLBACK, replace(pending, local_id=LOCAL, asked=(LOCAL, Cause.STOP)), ended)
    assert (decided.state, decided.action) == (State.KUBE_PENDING, Admit(KUBE))
    after = with_grant(pending, KUBE, NOW, by_row=False)
    decided = plan(FALLBACK, after, replace(ended, waiting=frozenset()))
    assert (decided.state, decided.action) == (State.KUBE_RUNNING, None)
    assert decided.wake_at == NOW + TIMING.kube_stable_s


def test_a_crash_of_the_local_container_completes_the_hand_over() -> None:
    seen = observed(local(running=False, code=1), kube(), waiting=frozenset({KUBE}), label=ON)
    crashed = up(local_id=LOCAL)
    decided = plan(FALLBACK, crashed, seen)
    assert (decided.state, decided.action) == (State.LOCAL_EXITED, SetMode(Mode.PENDING))
    alone = plan(FALLBACK, crashed, replace(seen, waiting=frozenset()))
    assert (alone.state, alone.action) == (State.LOCAL_EXITED, None)


def test_a_kube_container_that_vanishes_before_its_admission_brings_the_local_one_back_at_once() -> None:
    record, seen = up(mode=Mode.PENDING, local_id=LOCAL, asked=(LOCAL, Cause.STOP)), observed(label=ON)
    ended = replace(seen, containers=(local(running=False), kube(running=False)))
    for action, mode in ((SetMode(Mode.READY), Mode.READY), (SetMode(Mode.NONE), Mode.NONE)):
        record, _ = look(FALLBACK, record, ended)
        assert plan(FALLBACK, record, ended).action == action
        record = with_mode(record, mode)
    assert plan(FALLBACK, record, ended).action == StartLocal(LOCAL)
    record, _ = look(FALLBACK, record, ended)
    next_one = replace(seen, containers=(local(), kube(KUBE2)), waiting=frozenset({KUBE2}))
    refused = plan(FALLBACK, record, next_one)
    assert (refused.action, refused.wake_at) == (None, NOW + TIMING.handover_delay_s)
    assert plan(KUBE_CONFIG, with_mode(record, Mode.READY), ended).action is None, (
        "only Kubernetes may run it"
    )


def test_pending_without_a_waiting_container_reverts_once_none_can_ask_again() -> None:
    pending = up(mode=Mode.PENDING)
    beside, alone = observed(local(), kube(), label=ON), observed(local(running=False), kube(), label=ON)
    for seen in (beside, alone):
        asking = plan(FALLBACK, pending, replace(seen, reasking=True))
        assert (asking.action, asking.wake_at) == (None, NOW + TIMING.reask_s)
        without = replace(seen, containers=seen.containers[:1], reasking=True)
        assert plan(FALLBACK, pending, without).action is not None
    assert plan(FALLBACK, pending, beside).action == SetMode(Mode.NONE)
    assert plan(FALLBACK, pending, alone).action == SetMode(Mode.READY)


def test_the_youngest_waiting_kube_container_is_admitted() -> None:
    seen = observed(kube(started="2026-01-02"), kube(KUBE2, started="2026-01-03"), label=ON)
    both = replace(seen, waiting=frozenset({KUBE, KUBE2}))
    assert plan(KUBE_CONFIG, up(mode=Mode.READY), both).action == Admit(KUBE2)
    older = replace(seen, waiting=frozenset({KUBE}))
    assert plan(KUBE_CONFIG, up(mode=Mode.READY), older).action == Admit(KUBE)


@pytest.mark.parametrize("asked", ["stopping", "killed"])
def test_a_waiting_kube_container_that_an_earlier_stop_ends_takes_nothing_over(asked: str) -> None:
    ending: dict[str, Any] = {"waiting": frozenset({KUBE}), "label": ON, asked: frozenset({KUBE})}
    alone = observed(local(running=False), kube(), **ending)
    assert plan(KUBE_CONFIG, up(mode=Mode.READY), alone).action is None, (
        "the next one may proceed, not this one"
    )
    beside = observed(local(), kube(), **ending)
    assert plan(FALLBACK, up(), beside).action is None, "the local one stays"
    assert plan(FALLBACK, up(mode=Mode.PENDING), beside).action == SetMode(Mode.NONE)
    young = kube(KUBE2, started="2026-01-03")
    both = replace(alone, containers=(*alone.containers, young), waiting=frozenset({KUBE, KUBE2}))
    assert plan(KUBE_CONFIG, up(mode=Mode.READY), both).action == Admit(KUBE2)


def test_a_blocked_kube_container_does_not_keep_the_local_one_from_starting() -> None:
    seen = observed(local(running=False), kube(), waiting=frozenset({KUBE}), label=OFF)
    assert plan(LOCAL_CONFIG, up(), seen).action == StartLocal(LOCAL)


def test_a_local_container_beside_an_admitted_kube_one_is_stopped() -> None:
    for config in (LOCAL_CONFIG, FALLBACK):
        seen = observed(local(), kube(), label=ON)
        assert plan(config, granted(), seen).action == EndContainer(LOCAL, Cause.STOP, TIMING.stop_grace_s)
        assert plan(config, granted(), replace(seen, stopping=frozenset({LOCAL}))).action is None


def test_the_admitted_container_corrects_the_mode() -> None:
    assert plan(FALLBACK, granted(mode=Mode.NONE), observed(kube(), label=ON)).action == SetMode(Mode.READY)
    rest = plan(FALLBACK, granted(), observed(kube(), label=ON))
    assert (rest.action, rest.wake_at) == (None, None)


def test_owner_local_takes_the_label_then_ends_kube_then_starts_local() -> None:
    seen = observed(local(running=False), kube(), label=ON)
    assert plan(LOCAL_CONFIG, granted(), seen).action == RequestLabel(on=False)
    queued = replace(seen, label=LabelView(KubeLabel.OFF, pending=True))
    waiting = plan(LOCAL_CONFIG, granted(), queued)
    assert (waiting.action, waiting.wake_at) == (None, NOW + TIMING.label_wait_s)
    gone = replace(seen, label=LabelView(KubeLabel.OFF, acked_at=NOW))
    ending = plan(LOCAL_CONFIG, granted(), gone)
    assert (ending.action, ending.wake_at) == (None, NOW + TIMING.kube_stop_grace_s)
    ended = observed(local(running=False))
    assert plan(LOCAL_CONFIG, granted(), ended).action == SetMode(Mode.NONE)
    assert plan(LOCAL_CONFIG, up(), ended).action == StartLocal(LOCAL)


def ending(seconds_ago: float, label: LabelView, **more: object) -> Plan:
    """What is decided `seconds_ago` after the unit went down with a kube container running."""
    record = down(grant=KUBE, ending=True, ending_since=NOW - seconds_ago)
    return plan(KUBE_CONFIG, record, observed(kube(), **{"label": label, **more}))


def test_the_master_gets_a_moment_to_take_the_label_away() -> None:
    queued = LabelView(KubeLabel.OFF, pending=True)
    stop = EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)
    limit = TIMING.label_wait_s
    assert ending(limit - 1, queued).wake_at == NOW + 1
    assert ending(limit - 1, queued).action is None
    # Then the kubelet has to stop first, or it would start the container again.
    late = ending(limit, queued)
    assert (late.action, late.wake_at) == (None, NOW + TIMING.kubelet_stop_s)
    failed = replace(queued, failed=True)
    assert ending(1, failed).wake_at == NOW - 1 + limit + TIMING.kubelet_stop_s
    assert ending(1, failed, kubelet=False).action == stop
    assert ending(1, failed, kubelet=None).action is None
    assert ending(limit + TIMING.kubelet_stop_s, queued).action == stop
    assert ending(1, queued, joined=False).action == stop


def test_the_kubelet_gets_its_grace_once_the_label_is_gone() -> None:
    stop = EndContainer(KUBE, Cause.STOP, TIMING.stop_grace_s)
    grace = TIMING.kube_stop_grace_s
    assert ending(grace - 1, OFF).wake_at == NOW + 1
    assert ending(grace, OFF).action == stop
    acked = LabelView(KubeLabel.OFF, acked_at=NOW - 1)
    assert ending(grace, acked).wake_at == NOW + grace - 1
    assert ending(grace - 1, LabelView(KubeLabel.OFF, acked_at=NOW - 2 * grace)).wake_at == NOW + 1


def test_kill_gives_no_grace_and_a_hurried_one_leaves_label_and_kubelet_alone() -> None:
    kill = EndContainer(KUBE, Cause.KILL, signal="KILL")
    record = down(grant=KUBE, ending=True, style=StopStyle(signal="KILL"))
    assert plan(KUBE_CONFIG, record, observed(kube(), label=OFF)).action == kill
    assert plan(KUBE_CONFIG, record, observed(kube(), label=ON)).action == RequestLabel(on=False)
    hurried = replace(record, style=StopStyle(signal="KILL", kubelet_check=False))
    assert plan(KUBE_CONFIG, hurried, observed(kube(), label=ON)).action == kill
    queued = LabelView(KubeLabel.OFF, pending=True)
    assert plan(KUBE_CONFIG, hurried, observed(kube(), label=queued)).action == kill
    # Once done the label goes after all, except over a reboot.
    done = replace(hurried, ending=False, grant="")
    assert plan(KUBE_CONFIG, done, observed(label=ON)).action == RequestLabel(on=False)
    assert plan(KUBE_CONFIG, done, observed(label=ON, hold=True)).action is None
    unhurried = replace(done, style=StopStyle(signal="KILL"))
    assert plan(KUBE_CONFIG, unhurried, observed(label=ON, hold=True)).action == RequestLabel(on=False)


def test_a_reason_names_the_ended_container_by_a_short_id() -> None:
    said = plan(LOCAL_CONFIG, down(ending=True), observed(local())).why
    assert said == f"the unit is down: container {LOCAL[:12]} is stopped"
    killed = down(ending=True, style=StopStyle(signal="KILL"))
    said = plan(LOCAL_CONFIG, killed, observed(local())).why
    assert said == f"the unit is down: container {LOCAL[:12]} is sent KILL"


def test_a_container_asked_to_end_is_not_asked_again() -> None:
    record = down(ending=True, style=StopStyle(grace_s=3.0))
    seen = observed(local())
    assert plan(LOCAL_CONFIG, record, seen).action == EndContainer(LOCAL, Cause.STOP, 3.0)
    for asked in ({"stopping": frozenset({LOCAL})}, {"killed": frozenset({LOCAL})}):
        assert plan(LOCAL_CONFIG, record, replace(seen, **asked)).action is None
    # A stop that is under way does not hold up a kill.
    killing = replace(record, style=StopStyle(signal="TERM"))
    stopping = replace(seen, stopping=frozenset({LOCAL}))
    assert plan(LOCAL_CONFIG, killing, stopping).action == EndContainer(LOCAL, Cause.KILL, signal="TERM")
    assert plan(LOCAL_CONFIG, killing, replace(seen, killed=frozenset({LOCAL}))).action is None


def test_every_kube_container_of_a_stopped_feature_is_ended_one_after_the_other() -> None:
    record = down(grant=KUBE, ending=True, style=StopStyle(signal="KILL", kubelet_check=False))
    seen = observed(kube(started="1"), kube(KUBE2, started="2"))
    assert plan(KUBE_CONFIG, record, seen).action == EndContainer(KUBE2, Cause.KILL, signal="KILL")
    assert plan(KUBE_CONFIG, record, replace(seen, killed=frozenset({KUBE2}))).action == EndContainer(
        KUBE, Cause.KILL, signal="KILL"
    )


def test_a_local_container_started_manually_while_down_keeps_running() -> None:
    decided = plan(LOCAL_CONFIG, down(), observed(local()))
    assert decided.action is None
    assert "manually" in decided.why


def test_a_local_container_started_manually_while_kube_is_awaited_counts_as_local() -> None:
    assert plan(FALLBACK, up(mode=Mode.READY), observed(local(), label=ON)).action == SetMode(Mode.NONE)


def test_a_missing_local_container_is_asked_of_the_unit_once() -> None:
    assert plan(LOCAL_CONFIG, up(), observed()).action == RestartUnit()
    assert plan(LOCAL_CONFIG, up(unit_restarted=True), observed()).action is None
    assert plan(FALLBACK, up(), observed(label=ON)).action == RestartUnit()
    assert plan(FALLBACK, up(unit_restarted=True), observed(label=ON)).action == SetMode(Mode.READY)
    waits = plan(FALLBACK, up(unit_restarted=True, mode=Mode.READY), observed(label=ON))
    assert (waits.action, waits.state) == (None, State.KUBE_READY)
    assert "no local container" in waits.why


def test_what_the_unit_s_script_has_made_meanwhile_is_started() -> None:
    made = observed(local(running=False), label=OFF)
    assert plan(FALLBACK, up(unit_restarted=True), made).action == StartLocal(LOCAL)
    waits = up(mode=Mode.READY, unit_restarted=True, idle_since=NOW)
    decided = plan(FALLBACK, waits, replace(made, label=ON))
    assert (decided.action, decided.wake_at) == (None, NOW + TIMING.fallback_after_s)


@pytest.mark.parametrize(
    ("crashes", "sick", "said"),
    [
        (1, 0, "it ended early once:"),
        (3, 0, "it ended early 3 times in a row:"),
        (0, 1, "it was unhealthy once:"),
        (0, 2, "it was unhealthy 2 times in a row:"),
    ],
)
def test_a_refused_hand_over_says_what_for(crashes: int, sick: int, said: str) -> None:
    record = up(crashes=crashes, health=Health(sick=sick), refuse_until=NOW + 9)
    decided = plan(FALLBACK, record, observed(local(), kube(), label=ON, waiting=frozenset({KUBE})))
    assert decided.why == f"the kube container waits, but {said} the local one stays for now"
    assert decided.wake_at == NOW + 9


def test_a_destroyed_local_container_cannot_be_started() -> None:
    assert plan(LOCAL_CONFIG, up(), observed(local(running=False, gone=True))).action == RestartUnit()


def test_a_local_container_being_stopped_is_started_again_once_it_has_ended() -> None:
    decided = plan(LOCAL_CONFIG, up(), observed(local(), stopping=frozenset({LOCAL})))
    assert decided.action is None
    assert "started again" in decided.why


def test_the_local_container_returns_when_kube_has_not_deployed_in_time() -> None:
    waiting = up(mode=Mode.READY, idle_since=NOW - LONG + 1)
    seen = observed(local(running=False), label=ON)
    early = plan(FALLBACK, waiting, seen)
    assert (early.action, early.wake_at) == (None, NOW + 1)
    assert plan(FALLBACK, replace(waiting, idle_since=NOW - LONG), seen).action == SetMode(Mode.NONE)
    assert plan(FALLBACK, up(mode=Mode.READY), seen).wake_at == NOW + LONG
    assert plan(KUBE_CONFIG, replace(waiting, idle_since=1.0), seen).action is None
    assert plan(FALLBACK, up(mode=Mode.NONE), seen).action == StartLocal(LOCAL)
    assert plan(KUBE_CONFIG, up(mode=Mode.NONE), seen).action == SetMode(Mode.READY)


def test_the_local_container_returns_at_once_when_kube_did_not_stay_up() -> None:
    seen = observed(local(running=False), label=ON)
    young = up(mode=Mode.READY, grant=KUBE, granted_at=NOW - 5)
    decided = plan(FALLBACK, young, seen)
    assert decided.action == SetMode(Mode.NONE)
    assert "did not stay up" in decided.why


def test_a_hand_over_is_refused_while_kube_containers_end_early() -> None:
    seen = observed(local(), kube(), waiting=frozenset({KUBE}), label=ON)
    crashed = up(crashes=1, refuse_until=NOW + 10)
    once = plan(FALLBACK, crashed, seen)
    assert (once.action, once.wake_at) == (None, NOW + 10)
    assert "ended early once" in once.why
    assert "ended early 3 times in a row" in plan(FALLBACK, replace(crashed, crashes=3), seen).why
    assert plan(FALLBACK, replace(crashed, refuse_until=NOW), seen).action == SetMode(Mode.PENDING)


def test_a_failed_feature_follows_its_policy() -> None:
    seen = observed(local(running=False), label=ON)
    failing = up(mode=Mode.READY, bad_since=NOW - 60)

    def config(policy: FailurePolicy | None, *, fallback: bool = False) -> FeatureConfig:
        return FeatureConfig(Owner.KUBE, fallback, 1, policy)

    assert plan(config(None), failing, seen).action is None
    assert plan(config(FailurePolicy.ALERT, fallback=True), failing, seen).action == SetMode(Mode.NONE)
    assert plan(config(FailurePolicy.SWITCH_TO_LOCAL), failing, seen).action == SetMode(Mode.NONE)
    assert (
        plan(config(FailurePolicy.SWITCH_TO_LOCAL), failing, seen).why
        == "no kube container has run for 1 min"
    )
    assert plan(config(FailurePolicy.ROLLBACK), failing, seen).action == RequestLabel(on=False)
    rolled = replace(failing, rolled_back=True, failure="x", mode=Mode.NONE)
    started = plan(config(FailurePolicy.ROLLBACK), rolled, observed(local(running=False)))
    assert started.action == StartLocal(LOCAL)
    assert started.why == "rolled back (x): the local container is started"
    early = plan(config(None), replace(failing, bad_since=NOW - 59), seen)
    assert early.wake_at == NOW + 1


def test_the_next_observation_is_at_the_first_deadline_ahead() -> None:
    config = FeatureConfig(Owner.KUBE, failure_minutes=1)
    record = granted(proven=False, granted_at=NOW - 50, bad_since=NOW - 55)
    assert plan(config, record, observed(kube(), label=ON)).wake_at == NOW + 5
    record = granted(proven=False, granted_at=NOW - 58, bad_since=NOW - 55)
    assert plan(config, record, observed(kube(), label=ON)).wake_at == NOW + 2


LABELS = {
    State.UNKNOWN: (KubeLabel.UNKNOWN, KubeLabel.UNKNOWN),
    State.DRIFT: (KubeLabel.UNKNOWN, KubeLabel.UNKNOWN),
    State.INIT: (KubeLabel.OFF, KubeLabel.OFF),
    State.STARTING: (KubeLabel.OFF, KubeLabel.UNKNOWN),
    State.LOCAL_EXITED: (KubeLabel.OFF, KubeLabel.UNKNOWN),
    State.LOCAL: (KubeLabel.OFF, KubeLabel.ON),
    State.LOCAL_TO_KUBE: (KubeLabel.OFF, KubeLabel.ON),
    State.KUBE_PENDING: (KubeLabel.OFF, KubeLabel.ON),
    State.KUBE_READY: (KubeLabel.OFF, KubeLabel.ON),
    State.KUBE_RUNNING: (KubeLabel.OFF, KubeLabel.ON),
    State.KUBE_STOPPED: (KubeLabel.OFF, KubeLabel.ON),
}


def test_only_a_kube_container_that_is_not_stable_yet_is_observed_again_for_that() -> None:
    just_booted = 5.0
    assert plan(KUBE_CONFIG, up(mode=Mode.READY), observed(label=ON), just_booted).wake_at is None
    record, seen = look(KUBE_CONFIG, granted(granted_at=NOW - 5), observed(kube(), label=ON))
    assert record.proven
    assert decide(KUBE_CONFIG, record, seen, TIMING, NOW, "snmp").wake_at is None
    young, seen = look(KUBE_CONFIG, granted(granted_at=NOW - 5, proven=False), observed(kube(), label=ON))
    due = NOW - 5 + TIMING.kube_stable_s
    assert decide(KUBE_CONFIG, young, seen, TIMING, NOW, "snmp").wake_at == due
    assert decide(KUBE_CONFIG, young, seen, TIMING, due, "snmp").wake_at is None, "this look is the one"


@pytest.mark.parametrize("state", State)
def test_each_state_wants_its_label(state: State) -> None:
    assert label_wanted(state, Owner.LOCAL, up(), observed()) is LABELS[state][0]
    assert label_wanted(state, Owner.KUBE, up(), observed()) is LABELS[state][1]
    withdrawn = up(health=Health(withdrawn=True))
    assert label_wanted(state, Owner.LOCAL, withdrawn, observed()) is LABELS[state][0]


def test_a_feature_kube_has_nothing_to_do_with_asks_for_no_label() -> None:
    unseen = LabelView(KubeLabel.UNKNOWN)
    assert label_missing(LOCAL_CONFIG, up(), observed(local(), label=unseen)) is None
    assert label_missing(LOCAL_CONFIG, down(), observed(label=unseen)) is None
    assert label_missing(LOCAL_CONFIG, up(), observed(local(), label=ON)) is KubeLabel.OFF
    # But where kube may have run it, a label of unknown value is removed.
    assert label_missing(KUBE_CONFIG, down(), observed(label=unseen)) is KubeLabel.OFF
    assert label_missing(LOCAL_CONFIG, down(grant=KUBE), observed(label=unseen)) is KubeLabel.OFF
    assert label_missing(LOCAL_CONFIG, down(), observed(kube(), label=unseen)) is KubeLabel.OFF
    assert label_missing(KUBE_CONFIG, up(), observed(local(), label=unseen)) is KubeLabel.ON


@pytest.mark.parametrize(
    ("config", "record", "seen"),
    [
        (KUBE_CONFIG, up(mode=Mode.READY), observed(label=OFF)),
        (FALLBACK, up(), observed(local(), label=OFF)),
        (KUBE_CONFIG, granted(), observed(kube(), label=OFF)),
    ],
)
def test_a_missing_label_is_requested_before_anything_else(
    config: FeatureConfig, record: Record, seen: Observation
) -> None:
    decided = plan(config, record, seen)
    assert (decided.action, decided.why) == (
        RequestLabel(on=True), "Kubernetes may deploy it: the node label is requested",
    )  # fmt: skip


def test_a_kill_without_options_gives_no_grace() -> None:
    kill = EndContainer(KUBE, Cause.KILL)
    assert (kill.grace_s, kill.signal) == (0.0, "")


def test_a_failed_image_does_not_affect_a_feature_that_is_not_rolled_back() -> None:
    for record in (up(health=Health(failed_image="sha256:bad")), up(restored="sha256:bad")):
        decided = plan(LOCAL_CONFIG, record, observed(local()))
        assert (decided.action, decided.why) == (None, "the local container runs, as configured")


def test_no_label_is_requested_while_not_joined() -> None:
    assert label_missing(KUBE_CONFIG, up(), observed(local(), label=OFF)) is KubeLabel.ON
    assert label_missing(KUBE_CONFIG, up(), observed(local(), label=OFF, joined=False)) is None
    assert label_missing(KUBE_CONFIG, up(), observed(local(), label=ON)) is None
    assert label_missing(KUBE_CONFIG, Record(), observed(local(), label=OFF)) is None


def test_a_refused_label_is_why_kube_cannot_deploy() -> None:
    refused = LabelView(KubeLabel.ON, refused="no such key")
    decided = plan(KUBE_CONFIG, up(mode=Mode.READY), observed(label=refused))
    assert decided.action is None
    assert decided.why == (
        "waiting for kube deployment, blocked: the API server refuses the node label (no such key)"
    )


def test_a_refused_label_set_by_another_client_is_removed() -> None:
    seen = LabelView(KubeLabel.ON, refused="no such key")
    assert label_missing(LOCAL_CONFIG, up(), observed(local(), label=seen)) is KubeLabel.OFF
    assert (
        label_missing(KUBE_CONFIG, up(), observed(local(), label=replace(seen, value=KubeLabel.OFF))) is None
    )


def test_a_forecast_contains_the_changes_that_time_causes() -> None:
    record, seen = look(
        FALLBACK, up(mode=Mode.PENDING), observed(local(running=False), kube(), label=ON, reasking=True)
    )
    decided = decide(FALLBACK, record, seen, TIMING, NOW, "snmp")
    assert decided.wake_at == NOW + TIMING.reask_s
    foreseen, then = foresee(FALLBACK, record, seen, TIMING, NOW + TIMING.reask_s, "snmp")
    assert then.action == SetMode(Mode.READY)
    assert foreseen == record


def test_the_state_is_by_record_and_docker() -> None:
    assert state_of(KUBE_CONFIG, up(), observed(local())) is State.LOCAL
    assert state_of(KUBE_CONFIG, granted(), observed(kube())) is State.KUBE_RUNNING
    assert state_of(KUBE_CONFIG, granted(), observed()) is State.KUBE_READY
    assert state_of(LOCAL_CONFIG, granted(), observed()) is State.KUBE_STOPPED
    exited = up(exit=Exit(LOCAL, Owner.LOCAL, 1, Cause.ITSELF))
    assert state_of(LOCAL_CONFIG, exited, observed()) is State.LOCAL_EXITED


def test_two_containers_of_one_name_are_distinguished_by_owner() -> None:
    decided = plan(
        LOCAL_CONFIG, up(), observed(Container(KUBE, Owner.KUBE, running=False), local(running=False))
    )
    assert decided.action == StartLocal(LOCAL)
