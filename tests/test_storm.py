"""Does the real daemon keep its promises in every storm, and does a seed tell the same story twice?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.world import storm
from tests.world.chance import Fault

SEEDS = int(os.environ.get("KUBESYNCD_SEEDS", "500"))
CHUNK = 50
STRUCK: Counter[Fault] = Counter()
HOURS: list[float] = []


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_every_seed_keeps_every_promise_and_tells_its_story_twice(first: int) -> None:
    for told in storm.play_many(first, min(CHUNK, SEEDS + 1 - first), processes=2):
        assert not told.failures, f"\n{storm.shown(told)}"
        STRUCK.update(told.struck)
        HOURS.append(told.virtual_s / 3600)


@pytest.mark.skipif(SEEDS < storm.FEW_SEEDS, reason="too few seeds to meet every kind of fault")
def test_every_kind_of_fault_has_struck() -> None:
    if not HOURS:
        pytest.skip("the storms were not run")
    assert storm.lulls(SEEDS, sum(HOURS), STRUCK) == []


def test_a_kind_of_fault_that_never_strikes_fails_a_long_run() -> None:
    often = Counter(dict.fromkeys(Fault, 1000))
    assert storm.lulls(20_000, 100.0, often) == []
    assert storm.lulls(20_000, 1e6, often) == ["there were 0 faults an hour, not 50"]
    often[Fault.SWIZZLE] = 99
    (lull,) = storm.lulls(20_000, 100.0, often)
    assert lull.startswith("it struck 99 times, not 100: Redis, Docker and the API server go one by one")


def test_a_story_does_not_depend_on_the_hash_seed() -> None:
    code = "from tests.world import storm; print([storm.play(seed).trace for seed in (1, 2, 3, 4)])"
    told = set()
    for hash_seed in ("0", "1", "12345"):
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


def test_a_broken_promise_is_told_with_its_story_and_how_to_replay_it() -> None:
    told = storm.Told(7, "trace", failures=("S1: snmp has 2 containers",), story="0.000 systemd starts")
    shown = storm.shown(told)
    assert shown.startswith("0.000 systemd starts")
    assert "seed 7: S1: snmp has 2 containers" in shown
    assert "replay: make storm SEEDS=1 SEED_FROM=7" in shown
