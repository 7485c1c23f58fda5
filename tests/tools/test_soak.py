"""Check the soak: its judgement of prepared samples, its log reader, and a short real run."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.switch import Switch
from tests.tools.soak.__main__ import SETTLE_S_MAX
from tests.tools.soak.judge import LAST_STORMS, Sample, Storm, Told, findings, least
from tests.tools.soak.storm import BY_KUBE_TOO, LOCAL_ONLY, Bench, Faults, People, heal
from tests.tools.soak.watch import LogTail, Watch

if TYPE_CHECKING:
    from pathlib import Path

STORMS = 8
QUIET = Told({"state": 100, "action": 80}, ())


def life(number: int = 1, **grown: float) -> list[Sample]:
    """A daemon's samples at rest after each storm, with one more in each storm; `grown`: by how much each time."""
    samples = []
    for storm in range(STORMS):
        made = Sample(
            at_s=200.0 * storm, life=number, storm=storm,
            pss_mib=38.0, rss_mib=50.0, own_mib=26.0, fds=40, threads=5, tasks=60,
        )  # fmt: skip
        grown_now = {name: getattr(made, name) + by * storm for name, by in grown.items()}
        samples += [
            replace(made, storm=None, own_mib=60.0, fds=400, tasks=900),
            replace(made, **grown_now),  # type: ignore[arg-type]
        ]
    return samples


def storms(**last: Any) -> list[Storm]:
    """Storms after which everything settled; `last`: how the last one differs."""
    made = [Storm(number, operations=80, faults=8, settled_s=4.0, left=()) for number in range(STORMS)]
    return [*made[:-1], replace(made[-1], **last)]


def test_a_daemon_that_stays_what_it_is_passes_whatever_a_storm_makes_it_hold() -> None:
    assert findings(life(), storms(), QUIET, []) == []


def test_memory_that_grows_with_each_storm_is_found() -> None:
    (found,) = findings(life(own_mib=0.6), storms(), QUIET, [])
    assert found.startswith("life 1 grew by 3.6 MiB in 20 minutes, from 26.6 to 30.2")


def test_memory_that_grows_while_the_daemon_warms_up_and_by_less_than_is_allowed_is_not() -> None:
    samples = life(own_mib=0.4)
    assert findings([replace(samples[1], own_mib=5.0), *samples[2:]], storms(), QUIET, []) == []


def test_values_that_other_processes_change_are_reported_and_not_judged() -> None:
    assert findings(life(pss_mib=2.0, rss_mib=2.0, threads=1), storms(), QUIET, []) == []


@pytest.mark.parametrize(("held", "called"), [("fds", "open files"), ("tasks", "tasks")])
@pytest.mark.parametrize("by", [1, -1])
def test_one_file_or_task_that_stays_or_is_lost_is_found(held: str, called: str, by: int) -> None:
    samples = life()
    last = [
        replace(sample, **{held: getattr(sample, held) + by})  # type: ignore[arg-type]
        for sample in samples[-2 * LAST_STORMS :]
    ]
    (found,) = findings([*samples[: -2 * LAST_STORMS], *last], storms(), QUIET, [])
    assert called in found
    # What only the last storm has left may be a container that waits for its turn.
    assert findings([*samples[:-1], last[-1]], storms(), QUIET, []) == []


def test_only_what_stays_at_rest_counts_as_a_leak() -> None:
    at_rest = life()[1]
    busy = replace(at_rest, fds=at_rest.fds + 8, tasks=at_rest.tasks + 8, own_mib=at_rest.own_mib + 1)
    assert least([busy, at_rest, busy], storm=0) == replace(busy, **{
        name: getattr(at_rest, name) for name in ("fds", "tasks", "own_mib")
    })  # fmt: skip
    assert least([busy, busy], storm=3) == replace(busy, storm=3)


def test_each_process_of_the_daemon_is_measured_against_itself() -> None:
    bigger = [replace(s, own_mib=s.own_mib + 50, fds=s.fds + 9, tasks=s.tasks + 9) for s in life(2)]
    assert findings([*life(), *bigger], storms(), QUIET, []) == []
    found = findings([*life(), *life(2, own_mib=1.0)], storms(), QUIET, [])
    assert [sentence[:12] for sentence in found] == ["life 2 grew "]


def test_a_run_too_short_for_a_judgement_fails() -> None:
    short = [s for s in life() if s.storm in (None, 0, 1)]
    (found,) = findings(short, storms(), QUIET, [])
    assert "nothing can be said" in found


def test_a_traceback_a_feature_that_does_not_settle_and_two_at_once_are_found() -> None:
    told = replace(QUIET, tracebacks=("crash: ValueError",))
    left = storms(left=("snmp is KUBE_READY and not KUBE_RUNNING: it waits",))
    found = findings(life(), left, told, ["snmp.twice: kube 1234"])
    assert found == [
        "storm 7: snmp is KUBE_READY and not KUBE_RUNNING: it waits",
        "traceback: crash: ValueError",
        "two containers of a feature at once (S1): snmp.twice: kube 1234",
    ]


# ---- the log --------------------------------------------------------------------------------------


def test_a_log_is_counted_by_event_as_it_grows_and_a_half_written_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"event": "state"}\n{"event": "action"}\n{"event": "sta')
    tail = LogTail(file)
    assert tail.told() == Told({"state": 1, "action": 1}, ())
    with file.open("a") as log:
        log.write('te"}\n')
    assert tail.told() == Told({"state": 2, "action": 1}, ())


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(
            {"event": "request_failed", "exception": "Traceback (most recent call last): KeyError: 'x'"}
        ),
        "Task exception was never retrieved KeyError: 'x'",
        "Fatal Python error: KeyError: 'x'",
    ],
)
def test_whatever_only_a_bug_writes_into_the_log_is_kept(tmp_path: Path, line: str) -> None:
    file = tmp_path / "log"
    file.write_text(f'{{"event": "state"}}\n{line}\n')
    (kept,) = LogTail(file).told().tracebacks
    assert "KeyError: 'x'" in kept


# ---- the real thing -------------------------------------------------------------------------------


@pytest.mark.system
def test_a_switch_settles_after_every_operation_and_every_fault(tmp_path: Path) -> None:
    docker, kube = LabDockerProcess(tmp_path / "docker"), LabKubeProcess(tmp_path / "kube")
    try:
        docker.start()
        kube.start()
        with Switch(docker, kube, timing={"handover_delay_s_max": 4.0}) as switch:
            bench = Bench(switch)
            bench.boot()
            switch.wait_for(lambda: not bench.unsettled(), "everything has booted")
            watch = Watch(switch, lambda: 0.0)
            before = watch.sample()
            people, faults = People(bench, Random(1)), Faults(bench, Random(1))
            for operation in people.chances:
                bench.attempt(operation.__name__, operation)
            for fault in faults.chances:
                bench.attempt(fault.__name__, fault)
            # A hand-over can be over before a busy machine has looked once; a silent master holds it.
            with ExitStack() as silence:
                silence.callback(kube.thaw_api)
                kube.freeze_api()
                bench.configure(BY_KUBE_TOO[0], set_owner="kube")
                left = bench.unsettled()
                assert any(sentence.startswith(f"{BY_KUBE_TOO[0]} is ") for sentence in left), left
            heal(bench)
            switch.wait_for(lambda: not bench.unsettled(), "everything settles", limit_s=SETTLE_S_MAX)
            assert set(bench.done + bench.failed) == {c.__name__ for c in (*people.chances, *faults.chances)}
            assert sum(bench.failed.values()) <= 2, bench.failed
            after = watch.sample()
            assert before is not None
            assert after is not None
            assert (before.life, after.life) == (1, 1), "a reload is no new life"
            switch.daemon.restart()
            again = watch.sample()
            assert again is not None
            assert again.life == 2
            assert watch.log.told().tracebacks == ()
            switch.units.call("stop", f"{LOCAL_ONLY[0]}.service")
            assert any(LOCAL_ONLY[0] in sentence for sentence in bench.unsettled())
    finally:
        kube.stop()
        docker.stop()
