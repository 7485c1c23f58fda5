"""Check the timing of the whole daemon, in virtual time, over simulated engines."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from kubesyncd.core.model import FeatureConfig, Owner, Row, Signal, Timing
from kubesyncd.daemon.supervisor import AUDIT_STEP
from kubesyncd.ports import Unavailable
from tests.sim import loop
from tests.sim.chance import Chance
from tests.sim.switch import World

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES = [f"f{number:02}" for number in range(50)]


class Noted(dict[str, Row]):
    """STATE_DB's rows, and the time of each read."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[tuple[float, str]] = []

    def get(self, feature: str, default: Row) -> Row:  # type: ignore[override]
        self.looks.append((asyncio.get_running_loop().time(), feature))
        return super().get(feature, default)


def test_the_audit_observes_every_feature_and_never_all_of_them_at_once() -> None:
    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        world = World(1, chance, dict.fromkeys(FEATURES, FeatureConfig()), Timing(audit_s=60.0))
        world.redis.rows = rows = Noted()
        world.start_daemon()
        await asyncio.sleep(55.0)
        assert {feature for _, feature in rows.looks} == set(FEATURES)
        assert max(at for at, _ in rows.looks) < 30.0, "and then it was quiet"
        rows.looks.clear()
        await asyncio.sleep(50.0)
        assert sorted(feature for _, feature in rows.looks) == FEATURES
        for begin, _ in rows.looks:
            assert sum(begin <= at < begin + 0.01 for at, _ in rows.looks) <= AUDIT_STEP
        assert rows.looks[-1][0] - rows.looks[0][0] < 5.0
        assert world.failures == []
        world.kill_daemon()

    loop.run(story())


class Shy(dict[str, FeatureConfig]):
    """CONFIG_DB's FEATURE rows; the first reads of the whole table get no answer."""

    tries = 0

    def __iter__(self) -> Iterator[str]:
        self.tries += 1
        if self.tries <= 3:
            raise Unavailable("Redis", "no answer in time")
        return super().__iter__()


def test_features_get_a_reconciler_soon_also_where_redis_did_not_answer_on_its_return() -> None:
    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        world = World(1, chance, {}, Timing(audit_s=3600.0))
        world.redis.configs = shy = Shy(dict.fromkeys(FEATURES, FeatureConfig()))
        world.redis.rows = rows = Noted()
        world.start_daemon()
        await asyncio.sleep(20.0)
        assert {feature for _, feature in rows.looks} == set(FEATURES)
        tries = shy.tries
        await asyncio.sleep(600.0)
        assert shy.tries == tries, "and then no read is repeated"
        world.kill_daemon()

    loop.run(story())


class Lapse(dict[str, Row]):
    """STATE_DB's rows; each of the next `lost` looks is not answered."""

    lost = 0
    answered_at = 0.0

    def get(self, feature: str, default: Row) -> Row:  # type: ignore[override]
        if self.lost:
            self.lost -= 1
            raise Unavailable("Redis", "no answer in time")
        self.answered_at = asyncio.get_running_loop().time()
        return super().get(feature, default)


def test_a_read_that_redis_did_not_answer_is_repeated_soon_though_nothing_happens() -> None:
    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        world = World(1, chance, {"snmp": FeatureConfig()}, Timing(audit_s=3600.0))
        world.redis.rows = rows = Lapse()
        world.start_daemon()
        await asyncio.sleep(20.0)
        rows.lost = 2
        world.redis.publish("snmp")
        await asyncio.sleep(0.1)
        assert rows.lost < 2
        await asyncio.sleep(10.0)
        assert rows.answered_at > 20.0
        answered_at = rows.answered_at
        await asyncio.sleep(600.0)
        assert rows.answered_at == answered_at, "and then no read is repeated"
        world.kill_daemon()

    loop.run(story())


def test_the_unit_notices_nothing_when_the_local_container_returns_after_a_long_wait_for_kube() -> None:
    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        config = FeatureConfig(set_owner=Owner.LOCAL, fallback=True)
        timing = Timing()
        world = World(1, chance, {"snmp": config}, timing)
        world.start_daemon()
        world.people.start_unit("snmp")
        await asyncio.sleep(20.0)
        world.redis.set_config("snmp", replace(config, set_owner=Owner.KUBE))
        pod = world.engine.create("snmp", Owner.KUBE)
        world.engine.start(pod)
        await asyncio.sleep(timing.kube_stable_s + 30.0)
        local = world.engine.local("snmp")
        assert local is not None
        assert (pod.past_up, local.runs) == (True, False)
        world.engine.die(pod, 143)
        world.engine.destroy(pod)
        await asyncio.sleep(timing.fallback_after_s - 30.0)
        assert not local.runs
        await asyncio.sleep(60.0)
        assert local.runs
        assert "wait returned" not in chance.story
        assert world.failures == []
        world.kill_daemon()

    loop.run(story())


def test_an_image_that_is_pruned_while_no_event_arrives_is_noticed_when_events_arrive_again() -> None:
    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        config, timing = FeatureConfig(set_owner=Owner.KUBE, fallback=True), Timing(audit_s=3600.0)
        world = World(1, chance, {"snmp": config}, timing)
        world.start_daemon()
        world.people.start_unit("snmp")
        await asyncio.sleep(20.0)
        pod, local = world.engine.create("snmp", Owner.KUBE), world.engine.local("snmp")
        world.engine.start(pod)
        await asyncio.sleep(20.0)
        assert local is not None
        assert (pod.past_up, local.runs) == (True, False)
        world.engine.destroy(local)
        await asyncio.sleep(20.0)
        world.engine.cut()
        world.engine.prune("snmp")
        await asyncio.sleep(20.0)
        world.engine.die(pod, 1)
        await asyncio.sleep(timing.fallback_after_s + 20.0)
        assert "restart of unit snmp" not in " ".join(world.effects), "its script would fail"
        world.kill_daemon()

    loop.run(story())


def test_a_row_of_this_boot_shows_a_loss_that_no_file_does_also_during_a_load_of_config_db() -> None:
    """The default configuration, local, would end the admitted container."""

    async def story() -> None:
        chance = Chance(Random(1), asyncio.get_running_loop().time)
        chance.calm = True
        config = FeatureConfig(set_owner=Owner.KUBE, fallback=True)
        world = World(1, chance, {"snmp": config}, Timing())
        world.mark_file.unwritable = True
        world.start_daemon()
        world.people.start_unit("snmp")
        await asyncio.sleep(20.0)
        pod = world.engine.create("snmp", Owner.KUBE)
        world.engine.start(pod)
        await asyncio.sleep(60.0)
        assert pod.past_up
        row = world.redis.rows["snmp"]
        world.kill_daemon()
        world.ledger_file.data, world.redis.initialized, world.redis.configs = None, False, {}
        world.start_daemon()
        await asyncio.sleep(60.0)
        assert (pod.runs, world.redis.rows["snmp"]) == (True, row)
        assert chance.story.count("ledger_lost alert=True") == 1
        world.redis.initialized, world.redis.configs = True, {"snmp": config}
        world.redis.publish(Signal.GAP)
        await asyncio.sleep(60.0)
        shown = world.redis.rows["snmp"]
        assert (pod.runs, shown.current_owner, shown.docker_id) == (True, Owner.KUBE, pod.id)
        assert world.failures == []
        world.kill_daemon()

    loop.run(story())
