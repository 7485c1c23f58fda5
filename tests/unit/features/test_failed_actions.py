"""Check what a reconciler makes of actions that fail or take long: facts for its planner, never a standstill."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.failed_action import START_AGES_S, ActionKind
from kubesyncd.core.model import FeatureConfig, Owner, Row, SystemState
from kubesyncd.core.state import State
from kubesyncd.core.verbs import Kill, Start, Stop
from kubesyncd.features.failed_actions import FAILURES_MAX, FORGET_S, FailedActions
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.reconciler import Reconciler
from kubesyncd.features.wakes import Wakes
from kubesyncd.ports import Hindered, Missing, Passing, Refused, Unavailable
from kubesyncd.runtime.alerts import AlertLog, Alerts
from tests.sim import loop
from tests.sim.plain import PlainDisk, PlainLog
from tests.unit.core.given import LOCAL, granted, kube, local
from tests.unit.features.given import World, around

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kubesyncd.ports import PortError

STOPPED = local(running=False)


@dataclass
class Outside(World):
    """A switch on which one kind of call takes long or fails."""

    start_s: float = 0.0
    start_fails: PortError | None = None
    # For so long Docker goes on with a start whose caller had no answer.
    starts_after_s: float | None = None
    kill_s: float = 0.0
    write_fails: PortError | None = None
    adopt_s: float = 0.0
    stop_does_nothing: bool = False

    async def start(self, container_id: str) -> None:
        await asyncio.sleep(self.start_s)
        if self.starts_after_s is not None:
            asyncio.get_running_loop().call_later(self.starts_after_s, self._starts)
        if self.start_fails is not None:
            raise self.start_fails
        self._starts()

    def _starts(self) -> None:
        self.containers = (local(), *(c for c in self.containers if c.id != LOCAL))

    async def unpause(self, container_id: str) -> None:
        await asyncio.sleep(self.start_s)
        self.containers = (local(),)

    async def kill(self, container_id: str, signal: str) -> None:
        self.signals.append(signal)
        await asyncio.sleep(self.kill_s)
        self.containers = tuple(
            replace(c, running=False, exit_code=137) if c.id == container_id else c for c in self.containers
        )

    async def stop(self, container_id: str, grace_s: int) -> None:
        if self.stop_does_nothing:
            self.stops += 1
            assert self.stops < 100, "without a pause"
            return
        await super().stop(container_id, grace_s)

    async def write_row(self, feature: str, row: Row) -> None:
        if self.write_fails is not None:
            raise self.write_fails
        await super().write_row(feature, row)

    async def adopt(self, feature: str, image_id: str) -> None:
        await asyncio.sleep(self.adopt_s)


@asynccontextmanager
async def running(
    world: World, log: PlainLog | None = None, wakes: Wakes | None = None
) -> AsyncIterator[Reconciler]:
    reconciler = Reconciler("snmp", replace(around(world, log), wakes=wakes or Wakes()))
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler
    finally:
        task.cancel()
        await asyncio.wait([task])


def stored(world: World) -> SystemState:
    ledger = Ledger(PlainDisk(world.file), "boot")
    ledger.load()
    return ledger.records["snmp"].system_state


def test_a_failed_start_is_answered_and_leaves_no_wish() -> None:
    async def story() -> None:
        for error, code in (
            (Refused("Docker", "no such program"), protocol.EXIT_FAILED),
            (Unavailable("Docker", "no answer"), protocol.EXIT_UNAVAILABLE),
        ):
            world, log = Outside((STOPPED,), start_fails=error), PlainLog()
            async with running(world, log) as reconciler:
                answer = await reconciler.carry_out(Start())
                assert (answer.code, error.detail in answer.text) == (code, True)
                assert stored(world) is SystemState.DOWN
                assert log.count("start_failed") == 1
                assert error.detail in reconciler.problems[0]
                world.start_fails = None
                assert (await reconciler.carry_out(Start())).code == protocol.EXIT_DONE
                assert reconciler.problems == ()

    loop.run(story())


def test_a_start_that_docker_does_not_answer_leaves_no_wish() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_fails=Unavailable("Docker", "no answer"))
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(1.0)
            world.docker_fails = Unavailable("Docker", "no answer")
            assert (await starting).code == protocol.EXIT_UNAVAILABLE
            assert stored(world) is SystemState.DOWN

    loop.run(story())


def test_a_stop_is_recorded_at_once_whatever_the_reconciler_waits_for() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_s=50.0)
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(1.0)
            stopping = asyncio.create_task(reconciler.carry_out(Stop()))
            await asyncio.sleep(1.0)
            assert stored(world) is SystemState.DOWN, "a restart of the daemon goes on with it"
            assert (await starting).code == protocol.EXIT_FAILED
            assert (await stopping).code == protocol.EXIT_DONE
            assert world.stops == 1

    loop.run(story())


def test_a_docker_start_or_unpause_that_hangs_holds_up_nothing_and_is_told() -> None:
    async def story() -> None:
        for container in (STOPPED, local(paused=True)):
            world = Outside((container,), start_s=10_000.0)
            async with running(world) as reconciler:
                starting = asyncio.create_task(reconciler.carry_out(Start()))
                await asyncio.sleep(30.0)
                assert reconciler.busy_since is None, "the watchdog is fed"
                view = await reconciler.seen()
                assert view.observed.starting == {LOCAL}
                assert "docker start is under way" in view.plan.why
                answer = await starting
                assert answer.code == protocol.EXIT_TIMED_OUT
                assert "docker start is under way" in answer.text
                assert "it goes on" in answer.text
                assert stored(world) is SystemState.UP

    loop.run(story())


def test_a_stop_or_kill_during_a_docker_start_ends_the_container_once_docker_has_started_it() -> None:
    async def story() -> None:
        for verb in (Stop(), Kill()):
            world = Outside((STOPPED,), start_s=200.0)
            async with running(world) as reconciler:
                starting = asyncio.create_task(reconciler.carry_out(Start()))
                await asyncio.sleep(1.0)
                answer = await reconciler.carry_out(verb)
                assert (await starting).code == protocol.EXIT_FAILED
                assert answer.code == protocol.EXIT_TIMED_OUT, "nothing runs yet, and it is not done"
                assert (
                    "a docker start is under way: what it starts is ended at once; it goes on" in answer.text
                )
                await asyncio.sleep(200.0)
                assert not world.containers[0].running, "it went on"
                assert (await reconciler.carry_out(verb)).code == protocol.EXIT_DONE

    loop.run(story())


def test_a_start_that_docker_carries_out_long_after_its_answer_was_due_does_not_outlive_a_stop() -> None:
    async def story() -> None:
        late = Unavailable("Docker", "no answer within 60 s")
        world = Outside((STOPPED,), start_s=60.0, start_fails=late, starts_after_s=15.0)
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(1.0)
            assert (await reconciler.carry_out(Stop())).code == protocol.EXIT_DONE
            assert not world.containers[0].running
            await starting
            await asyncio.sleep(15.0)
            assert world.containers[0].running
            await reconciler.seen()
            await asyncio.sleep(1.0)
            assert not world.containers[0].running

    loop.run(story())


def test_a_start_is_not_given_up_while_docker_starts_the_container_and_describes_nothing() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_s=45.0)
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(1.0)
            world.docker_fails = Unavailable("Docker", "no answer within 10 s")
            await asyncio.sleep(40.0)
            assert not starting.done()
            world.docker_fails = None
            assert (await starting).code == protocol.EXIT_DONE
            assert stored(world) is SystemState.UP

    loop.run(story())


def test_a_wait_follows_a_docker_start_that_takes_longer_than_its_patience() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_s=50.0)
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(1.0)
            waiting = asyncio.create_task(reconciler.waiters.ended(lambda _: None))
            assert (await starting).code == protocol.EXIT_DONE
            assert not waiting.done()
            waiting.cancel()

    loop.run(story())


def test_a_docker_kill_that_hangs_delays_no_other_container_s_end() -> None:
    async def story() -> None:
        world = Outside((local(), kube()), kill_s=30.0)
        async with running(world) as reconciler:
            killing = asyncio.create_task(reconciler.carry_out(Kill()))
            await asyncio.sleep(1.0)
            assert len(world.signals) == 2, "one call each, and no second one"
            assert reconciler.busy_since is None, "the watchdog is fed"
            assert (await killing).code == protocol.EXIT_DONE
            assert len(world.signals) == 2

    loop.run(story())


def test_a_slow_adoption_of_an_image_holds_up_nothing() -> None:
    async def story() -> None:
        world = Outside((replace(kube(), image_id="new"),), adopt_s=10_000.0)
        world.config = FeatureConfig(set_owner=Owner.KUBE)
        await Ledger(PlainDisk(world.file), "boot").save("snmp", granted(granted_at=-10_000.0), world.config)
        async with running(world) as reconciler:
            assert (await reconciler.seen()).observed.working
            begun = asyncio.get_running_loop().time()
            stopping = asyncio.create_task(reconciler.carry_out(Stop()))
            await asyncio.sleep(1.0)
            assert reconciler.busy_since is None, "the watchdog is fed"
            assert (await stopping).code == protocol.EXIT_DONE
            assert asyncio.get_running_loop().time() - begun < 80.0

    loop.run(story())


def test_a_row_that_cannot_be_written_follows() -> None:
    async def story() -> None:
        world, log = Outside((STOPPED,), write_fails=Unavailable("Redis", "read only replica")), PlainLog()
        async with running(world, log) as reconciler:
            assert (await reconciler.carry_out(Start())).code == protocol.EXIT_DONE
            assert (await reconciler.carry_out(Kill())).code == protocol.EXIT_DONE
            await asyncio.sleep(30.0)
            assert "read only" in reconciler.problems[0]
            assert log.count("row_not_written") == 1
            world.write_fails = None
            await asyncio.sleep(60.0)
            assert world.row.system_state is SystemState.DOWN
            assert reconciler.problems == ()

    loop.run(story())


def test_a_row_that_redis_refused_is_written_as_soon_as_redis_returns() -> None:
    async def story() -> None:
        world, wakes = Outside((STOPPED,), write_fails=Unavailable("Redis", "read only replica")), Wakes()
        async with running(world, wakes=wakes) as reconciler:
            assert (await reconciler.carry_out(Start())).code == protocol.EXIT_DONE
            await asyncio.sleep(600.0)
            world.write_fails = None
            wakes.wake(None)
            await asyncio.sleep(0.01)
            assert world.row.system_state is SystemState.UP

    loop.run(story())


def test_a_store_that_is_busy_for_a_moment_is_waited_for() -> None:
    async def story() -> None:
        world = Outside((STOPPED,))
        world.store_fails = Passing("Redis", "it is loading its data")
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(20.0)
            assert not starting.done()
            world.store_fails = None
            assert (await starting).code == protocol.EXIT_DONE
            world.store_fails = Refused("Redis", "give its user the permission")
            refused = await reconciler.carry_out(Start())
            assert (refused.code, "permission" in refused.text) == (protocol.EXIT_UNAVAILABLE, True)

    loop.run(story())


def test_a_store_that_is_busy_for_a_moment_during_a_start_is_waited_for() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_s=1.0)
        async with running(world) as reconciler:
            starting = asyncio.create_task(reconciler.carry_out(Start()))
            await asyncio.sleep(0.5)
            world.store_fails = Passing("Redis", "it is loading its data")
            await asyncio.sleep(20.0)
            assert (starting.done(), world.containers[0].running) == (False, True)
            world.store_fails = None
            assert (await starting).code == protocol.EXIT_DONE
            world.store_fails = Passing("Redis", "it is loading its data")
            assert (await reconciler.carry_out(Stop())).code == protocol.EXIT_DONE, "a stop needs no row"

    loop.run(story())


def test_a_start_that_was_never_begun_says_so() -> None:
    async def story() -> None:
        world = Outside((STOPPED,), start_s=50.0)
        async with running(world) as reconciler:
            world.store_fails = Passing("Redis", "it is loading its data")
            answer = await reconciler.carry_out(Start())
            assert answer.code == protocol.EXIT_UNAVAILABLE
            assert "it is loading its data" in answer.text
            assert 75.0 <= asyncio.get_running_loop().time() < 76.0, "not whenever Redis is asked again"

    loop.run(story())


def test_a_docker_stop_that_does_nothing_is_paced() -> None:
    async def story() -> None:
        world = Outside((local(),), stop_does_nothing=True)
        async with running(world) as reconciler:
            stopping = asyncio.create_task(reconciler.carry_out(Stop()))
            await asyncio.sleep(60.0)
            assert 3 <= world.stops <= 30
            assert "still runs" in reconciler.problems[0]
            world.stop_does_nothing = False
            assert (await stopping).code == protocol.EXIT_DONE
            assert reconciler.problems == ()

    loop.run(story())


def test_who_asks_gets_an_observation_that_began_after_the_question() -> None:
    async def story() -> None:
        world = Outside((STOPPED,))
        read = world.read

        async def slowly(*arguments: object) -> object:
            found = await read("snmp")
            await asyncio.sleep(3.0)
            return found

        async with running(world) as reconciler:
            await reconciler.seen()
            world.read = slowly  # type: ignore[method-assign, assignment]
            reconciler.dirty.set()
            await asyncio.sleep(1.0)
            world.containers = (local(),)
            begun = asyncio.get_running_loop().time()
            view = await reconciler.seen()
            assert view.observed.local_running == LOCAL
            assert asyncio.get_running_loop().time() - begun > 3.0
            assert view.plan.state is State.UNKNOWN

    loop.run(story())


def test_what_an_action_fails_with_is_cut_to_a_length_that_can_be_read() -> None:
    async def story() -> None:
        log = PlainLog()
        kept = FailedActions(around(World(), log), AlertLog(Alerts(), "snmp", log, lambda: 0.0))  # type: ignore[arg-type]
        kept.fail(ActionKind.WRITE_ROW, "", Unavailable("Redis", "x" * 9999))
        (failed,) = kept.lasting(())
        assert (len(failed.text), failed.text[-4:]) == (300, "x...")

    loop.run(story())


def test_failures_are_few_and_end_with_what_they_are_about() -> None:
    async def story() -> None:
        log = PlainLog()
        kept = FailedActions(around(World(), log), AlertLog(Alerts(), "snmp", log, lambda: 0.0))  # type: ignore[arg-type]
        kept.fail(ActionKind.START_LOCAL, LOCAL, Missing("Docker", "gone"))
        kept.fail(ActionKind.RESTART_UNIT, "", Unavailable("systemd", "no answer"))
        kept.fail(ActionKind.KILL, LOCAL, Unavailable("Docker", "no answer"))
        kinds = [failed.kind for failed in kept.lasting((STOPPED,))]
        assert kinds == [ActionKind.START_LOCAL], "it exists now, and does not run"
        await asyncio.sleep(10 * FORGET_S)
        assert kept.lasting((STOPPED,)), "it stays true of this container"
        assert not kept.lasting((local(),))
        for number in range(2 * FAILURES_MAX):
            kept.fail(ActionKind.RECORD, str(number), Unavailable("ledger", "full"))
        assert len(kept.lasting(())) == FAILURES_MAX
        kept.fail(ActionKind.RECORD, "0", Unavailable("ledger", "full"))
        await asyncio.sleep(10 * FORGET_S)
        assert not kept.lasting(()), "nothing tries them any more"

    loop.run(story())


def test_a_start_that_the_host_hindered_is_not_held_against_its_container_for_ever() -> None:
    async def story() -> None:
        surroundings = around(World())
        kept = FailedActions(surroundings, AlertLog(Alerts(), "snmp", PlainLog(), surroundings.runtime.clock))  # type: ignore[arg-type]
        kept.fail(ActionKind.START_LOCAL, LOCAL, Hindered("Docker", "no space left on device"))
        (failed,) = kept.lasting((STOPPED,))
        assert (failed.refused, failed.passing) == (True, True)
        await asyncio.sleep(START_AGES_S - 1.0)
        assert kept.lasting((STOPPED,))
        await asyncio.sleep(1.0)
        assert kept.lasting((STOPPED, kube())), "what runs is not ended for it"
        assert not kept.lasting((STOPPED,)), "the local container may take over again, also from a reset"

    loop.run(story())
