"""Check every promise in every interleaving of the actors of one feature, and of two, over the real core."""

from __future__ import annotations

import itertools

import pytest

from kubesyncd.core import absorb
from kubesyncd.core.model import FailurePolicy, FeatureConfig, Owner
from tests.sim import model
from tests.sim.explore import EVERYTHING, MENUS, UNWELL, Walk, explore
from tests.sim.model import (
    Broken,
    World,
    crashing_starts,
    failing_starts,
    handing_over_starts,
    landing_starts,
    row_starts,
    silent_starts,
    slow_starts,
    starts,
    waiting_starts,
    working_starts,
)

WORLDS = list(starts())
WORKING = list(working_starts())
SILENT = list(silent_starts())
CRASHING = list(crashing_starts())
WAITING = list(waiting_starts())
FAILING = list(starts(policies=(FailurePolicy.SWITCH_TO_LOCAL, FailurePolicy.ROLLBACK, FailurePolicy.ALERT)))
ASKING = [world for world in row_starts() if world.local_exists]
UNWELL_WORLDS = list(failing_starts())
LOST = "the model has lost its actors"
NEAR = 600
ROW_MENUS = (frozenset({"restart", "fallback"}), frozenset({"hand", "redis", "writes"}))


def _named(world: World) -> str:
    policy = f"-{world.config.failure_policy}" if world.config.failure_policy else ""
    return f"fallback={world.config.fallback}-local={world.local_exists}{policy}"


@pytest.mark.parametrize("start", WORLDS, ids=_named)
def test_everything_near_a_start_keeps_every_promise_without_faults(start: World) -> None:
    assert explore(frozenset(), start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", WORLDS, ids=_named)
@pytest.mark.parametrize("menu", MENUS, ids=lambda menu: "+".join(sorted(menu)))
def test_everything_near_a_fault_keeps_every_promise(start: World, menu: frozenset[str]) -> None:
    assert explore(menu, start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", WORKING, ids=_named)
@pytest.mark.parametrize("menu", MENUS, ids=lambda menu: "+".join(sorted(menu)))
def test_everything_near_a_feature_that_kube_runs_keeps_every_promise(
    start: World, menu: frozenset[str]
) -> None:
    assert explore(menu, start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", list(slow_starts()), ids=_named)
def test_a_docker_start_that_takes_long_keeps_every_promise(start: World) -> None:
    assert explore(frozenset({"fallback", "redis"}), start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", list(slow_starts()), ids=_named)
def test_a_daemon_that_is_killed_during_a_docker_start_keeps_every_promise(start: World) -> None:
    assert explore(frozenset({"restart"}), start, most=NEAR).states > NEAR, LOST


def test_a_start_that_lands_after_its_daemon_was_killed_is_found_without_the_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(absorb, "still_asked", lambda *_: None)
    model.look.cache_clear()
    try:
        with pytest.raises(Broken, match="S1: a docker start ends while a kube container owns the feature"):
            explore(frozenset({"restart"}), next(landing_starts()), most=NEAR)
    finally:
        model.look.cache_clear()


@pytest.mark.parametrize("start", list(landing_starts()), ids=_named)
def test_a_kube_container_is_not_admitted_while_docker_may_still_start_the_local_one(start: World) -> None:
    assert explore(frozenset({"restart"}), start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", list(handing_over_starts()), ids=_named)
def test_a_hand_over_that_cannot_be_stored_keeps_every_promise(start: World) -> None:
    assert explore(frozenset({"file"}), start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", WAITING[::2], ids=_named)
@pytest.mark.slow("thousands of states")
def test_everything_near_a_kube_container_that_waits_keeps_every_promise(start: World) -> None:
    assert explore(frozenset(), start, most=2_000).states > 2_000, LOST


@pytest.mark.parametrize("start", SILENT, ids=_named)
def test_an_image_without_the_gate_keeps_every_promise(start: World) -> None:
    assert explore(frozenset({"restart", "fallback"}), start, most=NEAR).states > NEAR, LOST


@pytest.mark.parametrize("start", ASKING, ids=_named)
@pytest.mark.parametrize("menu", ROW_MENUS, ids=lambda menu: "+".join(sorted(menu)))
def test_an_image_that_asks_by_the_row_keeps_every_promise(start: World, menu: frozenset[str]) -> None:
    walk = Walk(menu, start)
    assert walk.run(NEAR // 2).states > NEAR // 2, LOST
    assert any(k.past_up for world in walk._all.worlds for k in world.kube), "its script goes on"


@pytest.mark.parametrize("start", FAILING, ids=_named)
def test_a_failed_feature_keeps_every_promise(start: World) -> None:
    explore(frozenset({"restart", "master"}), start, most=600)


@pytest.mark.parametrize("start", UNWELL_WORLDS, ids=_named)
def test_a_bad_image_and_its_replacement_keep_every_promise(start: World) -> None:
    assert explore(UNWELL | {"restart", "master"}, start, most=600).states > 600, LOST


@pytest.mark.parametrize("start", CRASHING[::2], ids=_named)
def test_a_container_that_ends_again_and_again_keeps_every_promise(start: World) -> None:
    walk = Walk(UNWELL, start)
    assert walk.run(NEAR // 2).states > NEAR // 2, LOST
    seen = [walk.world(switch[0]).record for switch in walk.parents]
    assert any(record.health.looping and record.failure for record in seen), "the third end is a failure"
    # Much time passes with a container that stays up.
    assert any(record.proven and not record.health.ends for record in seen), "earlier ends are forgotten"


def test_two_features_that_share_a_switch_keep_every_promise() -> None:
    assert explore(EVERYTHING, *WORLDS[::2], most=10_000).states > 10_000, LOST


def test_one_that_owns_and_one_that_waits_keep_every_promise_beside_each_other() -> None:
    kube = FeatureConfig(set_owner=Owner.KUBE)
    waiting = model.replace(WORLDS[0], config=kube)
    assert explore(frozenset({"restart", "master"}), WORKING[0], waiting, most=10_000).states > 10_000, LOST


@pytest.mark.slow("thousands of states")
def test_every_actor_has_a_move() -> None:
    missing = {
        "set_owner=local", "fallback=True", "container start", "container stop", "container kill",
        "container kill --no-kubelet-check",
        "disables the master", "resets", "a reboot is prepared", "the manifest is withdrawn", "changes our label",
        "the daemon is killed", "before it remembers", "the local container crashes", "by hand", "by its policy",
        "the kubelet deploys", "calls `up kube`", "returns to container", "unhealthy", "crashes",
        "the master goes down", "the master goes up", "answer is lost", "the attempt has failed", "Redis goes down",
        "the kubelet is stopped", "the kubelet is started", "the watch sees", "time passes",
        "pauses the local container", "the ledger is lost", "an older copy", "its ledger is lost",
        "local container breaks", "is mended", "answered with a failure", "write access goes down",
        "the ledger's file system goes down",
    }  # fmt: skip
    for menu, start in itertools.product((*MENUS, UNWELL), (UNWELL_WORLDS[0], WORKING[0])):
        walk = Walk(menu, start)
        walk.run(300)
        said = {story for switch in walk.parents for story, _ in walk._moves(switch)}
        missing = {actor for actor in missing if not any(actor in story for story in said)}
        if not missing:
            return
    raise AssertionError(f"these never happen: {missing}")


def test_a_broken_promise_is_printed_as_a_numbered_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def never_kube(world: World) -> None:
        if any(kube.past_up for kube in world.kube):
            raise Broken("S0: a kube container runs")

    monkeypatch.setattr(model, "check_state", never_kube)
    with pytest.raises(Broken) as told:
        explore(frozenset(), WORLDS[0], most=5_000)
    lines = str(told.value).splitlines()
    assert lines[0] == "S0: a kube container runs"
    steps = [line for line in lines if line.lstrip()[:1].isdigit()]
    assert [int(step.split(".")[0]) for step in steps] == list(range(1, len(steps) + 1))
    assert "set_owner=kube" in steps[0]
    assert "the kubelet deploys a container" in str(told.value)


def test_a_cycle_without_an_exit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fickle(world: World) -> list[tuple[str, World]]:
        return [
            (
                "an operator toggles it",
                model.replace(world, local_runs=not world.local_runs),
            )
        ]

    monkeypatch.setattr(model, "reconciler_moves", fickle)
    with pytest.raises(Broken, match="L1: it never comes to rest"):
        explore(frozenset(), WORLDS[0], most=100)
