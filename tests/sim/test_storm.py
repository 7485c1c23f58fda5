"""Check that the real daemon keeps its promises in every storm, and that a seed repeats its run exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from datetime import date

import pytest

from tests.sim import storm
from tests.sim.chance import Fault

# What the deep tier plays, so many seeds in a test, each tenth of them twice. A part is short, for a sample of the
# tier ends with the tests it has begun.
SEEDS, PART, TWICE = 500, 10, 10
# What the fast tier plays: others each day, the same ones for all workers of a run.
TODAY, AT_ONCE = storm.seeds_of_the_day(), 5


@pytest.mark.parametrize("first", TODAY[::AT_ONCE])
def test_the_seeds_of_the_day_keep_every_promise(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        told = storm.play(seed)
        assert not told.failures, f"\n{storm.shown(told)}"


def kept(seed: int) -> storm.Told:
    """Play one seed, each tenth one twice, and check that it keeps every promise."""
    told = storm.play_twice(seed) if seed % TWICE == 0 else storm.play(seed)
    assert not told.failures, f"\n{storm.shown(told)}"
    return told


@pytest.mark.deep
@pytest.mark.parametrize("first", range(storm.FEW_SEEDS + 1, SEEDS + 1, PART))
def test_every_seed_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + PART):
        kept(seed)


@pytest.mark.deep
def test_the_first_seeds_keep_every_promise_and_every_kind_of_fault_strikes() -> None:
    told = [kept(seed) for seed in range(1, storm.FEW_SEEDS + 1)]
    struck = sum((t.struck for t in told), Counter())
    assert storm.lulls(storm.FEW_SEEDS, sum(t.virtual_s for t in told) / 3600, struck) == []


def test_the_seeds_of_a_day_are_the_same_all_day_and_others_on_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(storm.SEED_FROM, raising=False)
    first, second = date(2026, 11, 28), date(2026, 11, 29)
    assert storm.seeds_of_the_day(first) == storm.seeds_of_the_day(first)
    assert not set(storm.seeds_of_the_day(first)) & set(storm.seeds_of_the_day(second))
    monkeypatch.setenv(storm.SEED_FROM, "7")
    assert storm.seeds_of_the_day(first)[0] == 7


def test_a_seed_gives_the_same_trace_twice() -> None:
    assert not storm.play_twice(TODAY[0]).failures


def test_a_kind_of_fault_that_never_strikes_fails_a_long_run() -> None:
    often = Counter(dict.fromkeys(Fault, 1000))
    assert storm.lulls(20_000, 100.0, often) == []
    assert storm.lulls(20_000, 1e6, often) == ["there were 0 faults an hour, not 50"]
    often[Fault.SWIZZLE] = 99
    (lull,) = storm.lulls(20_000, 100.0, often)
    assert lull.startswith("it struck 99 times, not 100: Redis, Docker and the API server go one by one")


def test_a_trace_does_not_depend_on_the_hash_seed() -> None:
    code = "from tests.sim import storm; print([storm.play(seed).trace for seed in (1, 2)])"
    told = set()
    for hash_seed in ("0", "12345"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        told.add(run.stdout)
    assert len(told) == 1


def test_a_broken_promise_is_printed_with_its_trace_and_the_replay_command() -> None:
    told = storm.Told(7, "trace", failures=("S1: snmp has 2 containers",), story="0.000 systemd starts")
    shown = storm.shown(told)
    assert shown.startswith("0.000 systemd starts")
    assert "seed 7: S1: snmp has 2 containers" in shown
    assert "replay: make storm SEEDS=1 SEED_FROM=7" in shown
