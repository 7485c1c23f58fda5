"""Check one feature's reconciler while the switch changes between observation and action."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kubesyncd.core.actions import StartLocal
from kubesyncd.core.feature_unit import UnitEnd
from kubesyncd.core.model import FeatureConfig, Mode, Owner, Row, SystemState
from kubesyncd.core.record import Cause
from kubesyncd.core.revision import of_boot
from kubesyncd.core.state import State
from kubesyncd.core.verbs import Kill, Start, Stop
from kubesyncd.features import executor
from kubesyncd.features.ledger import Ledger
from kubesyncd.features.reconciler import Reconciler
from kubesyncd.features.waiters import GONE
from kubesyncd.ports import NotSent, Refused, Unavailable
from tests.sim import loop
from tests.sim.plain import PlainDisk, PlainLog
from tests.unit.core.given import KUBE, KUBE_CONFIG, LOCAL, NO_IMAGE, granted, kube, local, up
from tests.unit.features.given import NEW, World, around, reconciler_in
from tests.wait import until_async

if TYPE_CHECKING:
    import pytest

    from kubesyncd.core.verbs import Outcome, Verb
    from kubesyncd.ports import PortError


async def carried_out(reconciler: Reconciler, verb: Verb) -> Outcome:
    running = asyncio.create_task(reconciler.run())
    try:
        async with asyncio.timeout(60):
            return await reconciler.carry_out(verb)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_the_history_is_kept_over_a_restart_which_writes_nothing_itself() -> None:
    world = World((replace(local(running=False), id=NEW),))
    reconciler = reconciler_in(world)
    assert (await carried_out(reconciler, Start())).code == 0
    told = list(reconciler.history)
    assert [change.target for change in told] == [State.STARTING, State.LOCAL]
    written = world.file.saves
    again = reconciler_in(world)
    running = asyncio.create_task(again.run())
    await again.seen()
    running.cancel()
    await asyncio.wait([running])
    assert list(again.history) == told
    assert world.file.saves == written


async def test_a_lost_ledger_waits_for_a_config_that_is_being_loaded() -> None:
    """What the row names is owned by Kubernetes, and stays so; the default configuration would end it."""
    row = Row(SystemState.UP, Owner.KUBE, Mode.READY, KUBE, 1_700_000_000)
    world = World((local(running=False), kube()), config=None, row=row, loading=True)
    world.joined = True
    world.file.data = b'{"version": 9, "boot_id": "boot"}'
    for _ in range(2):
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        view = await reconciler.seen()
        assert (view.plan.action, world.row, world.stops) == (None, row, 0)
        assert "CONFIG_DB is being loaded" in view.plan.why or view.plan.state is State.UNKNOWN
        running.cancel()
        await asyncio.wait([running])
    world.loading, world.config = False, FeatureConfig(Owner.KUBE, fallback=True)
    running = asyncio.create_task((reconciler := reconciler_in(world)).run())
    view = await reconciler.seen()
    assert (view.record.grant, view.plan.state, world.stops) == (KUBE, State.KUBE_RUNNING, 0)
    running.cancel()
    await asyncio.wait([running])


def test_a_load_of_config_db_that_does_not_end_is_one_alert_with_the_fix() -> None:
    async def story() -> None:
        world, log = World((local(),), config=None, loading=True), PlainLog()
        world.file.data = b'{"version": 9, "boot_id": "boot"}'
        shared = around(world, log)
        reconcilers = [Reconciler(name, shared) for name in ("snmp", "lldp")]
        running = [asyncio.create_task(r.run()) for r in reconcilers]

        async def told_after(seconds: float) -> list[str]:
            await asyncio.sleep(seconds)
            for reconciler in reconcilers:
                view = await reconciler.seen()
                assert "only stop and kill are carried out" in view.plan.why
            return [str(more["why"]) for more in log.of("store") if more.get("alert")]

        assert await told_after(50.0) == []
        told = await told_after(200.0)
        assert len(told) == 1
        assert "SET CONFIG_DB_INITIALIZED 1" in told[0]
        view = await reconcilers[0].seen()
        assert "SET CONFIG_DB_INITIALIZED 1" in view.plan.why
        world.loading = False
        await asyncio.sleep(60.0)
        for reconciler in reconcilers:
            assert "CONFIG_DB" not in (await reconciler.seen()).plan.why
        assert log.count("recovered") == 1
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    loop.run(story())


async def later(world: World, ledger: Ledger | None = None) -> Reconciler:
    """The reconciler of another life of the daemon, a second after its first observation; it has ended."""
    surroundings = around(world)
    if ledger is not None:
        surroundings = replace(surroundings, ledger=ledger)
    reconciler = Reconciler("snmp", surroundings)
    running = asyncio.create_task(reconciler.run())
    await reconciler.seen()
    await asyncio.sleep(1.0)
    running.cancel()
    await asyncio.wait([running])
    return reconciler


def test_a_start_while_no_ledger_has_been_written_since_the_boot_outlives_restarts() -> None:
    async def story() -> None:
        world = World((replace(local(running=False), id=NEW),))
        world.file.full = True
        assert (await carried_out(reconciler_in(world), Start())).code == 0
        for _ in range(2):
            reconciler = await later(world)
            assert reconciler.view is not None
            assert (reconciler.view.plan.state, reconciler.view.record.local_id) == (State.LOCAL, NEW)
            assert (world.row.system_state, world.row.docker_id) == (SystemState.UP, NEW)
            world.file.full = False

    loop.run(story())


def test_a_row_of_another_program_is_left_alone_over_restarts_until_docker_confirms_it() -> None:
    async def story() -> None:
        row = Row(SystemState.UP, Owner.NONE, Mode.READY, "", 1_700_000_000)
        world = World((replace(local(running=False), id=NEW), kube()), config=KUBE_CONFIG, row=row)
        for _ in range(3):
            reconciler = await later(world)
            assert reconciler.view is not None
            assert (reconciler.view.plan.state, world.row) == (State.UNKNOWN, row)
        named = replace(row, current_owner=Owner.KUBE, docker_id=KUBE[:12])
        world.row = named
        for _ in range(2):
            reconciler = await later(world)
            assert reconciler.view is not None
            assert (reconciler.view.plan.state, reconciler.view.record.grant) == (State.KUBE_RUNNING, KUBE)
            assert replace(world.row, docker_id=world.row.docker_id[:12], revision=0) == named
        assert [c.running for c in world.containers] == [False, True]

    loop.run(story())


def test_local_stays_away_from_an_admitted_container_whose_ledger_is_lost_and_never_had_a_mark() -> None:
    """The mark's folder takes no writes since the boot, and the ledger is removed while the daemon is away."""

    async def story() -> None:
        world = World((replace(local(running=False), id=NEW), kube()), config=KUBE_CONFIG)
        before = around(world).ledger
        await before.save("snmp", granted(), KUBE_CONFIG)
        await later(world, before)
        assert (world.row.docker_id, of_boot(world.row.revision, before.boot.number)) == (KUBE, True)
        world.file.data = None
        assert (await carried_out(reconciler_in(world), Start())).code == 0
        assert world.row.docker_id == KUBE
        assert [c.running for c in world.containers] == [False, True], "S1"

    loop.run(story())


def test_a_stop_that_no_file_could_store_goes_on_over_a_restart() -> None:
    async def story() -> None:
        world = World((replace(local(running=False), id=NEW),))
        assert (await carried_out(reconciler_in(world), Start())).code == 0
        world.file.full = True
        world.stop_raises = Unavailable("Docker", "no answer within 20 s")
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        outcome = await reconciler.carry_out(Stop())
        assert (outcome.code, "it goes on" in outcome.text) == (75, True)
        running.cancel()
        await asyncio.wait([running])
        world.stop_raises = None
        await later(world)
        assert not any(c.running for c in world.containers)
        assert (world.row.system_state, world.row.current_owner) == (SystemState.DOWN, Owner.NONE)

    loop.run(story())


async def test_changes_between_two_observations_are_reported_as_one_change() -> None:
    world = World((replace(local(running=False), id=NEW),))
    assert (await carried_out(reconciler_in(world), Start())).code == 0
    world.containers = (replace(local(running=False), id=NEW),)
    reconciler = reconciler_in(world)
    running = asyncio.create_task(reconciler.run())
    await reconciler.seen()
    running.cancel()
    await asyncio.wait([running])
    assert [(c.source, c.target) for c in reconciler.history][-1] == (State.LOCAL, State.LOCAL_EXITED)
    assert reconciler_in(world).history == reconciler.history


async def test_a_start_of_a_replaced_container_observes_again_and_succeeds() -> None:
    world = World((local(running=False),))
    reconciler = reconciler_in(world)
    outcome = await carried_out(reconciler, Start())
    assert outcome.code == 0, outcome
    assert world.row.docker_id == NEW


async def test_it_says_whether_a_local_container_can_run_before_one_has_to() -> None:
    world = World((kube(),))
    world.no_image = "docker-snmp:latest"
    reconciler = reconciler_in(world)
    running = asyncio.create_task(reconciler.run())
    assert await reconciler.lacking() == NO_IMAGE
    assert reconciler.view is not None
    assert reconciler.view.conditions == (), "nothing depends on it"
    world.containers = (local(running=False), kube())
    await reconciler.seen()
    assert await reconciler.lacking() == ""
    running.cancel()
    await asyncio.wait([running])


def test_a_docker_start_is_stored_before_docker_is_asked_and_until_its_outcome_is_known() -> None:
    """No answer and a lost connection leave it open; a refusal, a success and a call that was not sent do not."""
    outcomes: list[tuple[PortError | None, bool]] = [
        (None, False),
        (Refused("Docker", "no such program"), False),
        (NotSent("Docker", "connection refused"), False),
        (Unavailable("Docker", "no answer within 60 s"), True),
    ]

    async def story(answer: PortError | None, *, kept: bool) -> None:
        world = World((replace(local(running=False), id=NEW),))
        stored: list[bool] = []

        async def start(container_id: str) -> None:
            assert container_id == NEW
            stored.append(marked(world))
            if answer is not None:
                raise answer
            world.containers = (replace(local(), id=NEW),)

        world.start = start  # type: ignore[method-assign]
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        starting = asyncio.create_task(reconciler.carry_out(Start()))
        await until_async(lambda: stored and marked(world) is kept, pause_s=0.001)
        starting.cancel()
        running.cancel()
        await asyncio.wait([running, starting])
        assert stored[0], "it is in the file when Docker is asked"

    for answer, kept in outcomes:
        loop.run(story(answer, kept=kept))


def marked(world: World) -> bool:
    """Whether the file says that Docker was asked for a start."""
    ledger = Ledger(PlainDisk(world.file), "boot")
    ledger.load()
    return ledger.records["snmp"].start is not None


async def test_a_start_needs_no_file() -> None:
    world = World((replace(local(running=False), id=NEW),))
    world.file.full = True
    assert (await carried_out(reconciler_in(world), Start())).code == 0
    assert world.containers[0].running


async def test_a_verb_under_way_is_answered_when_the_feature_is_uninstalled() -> None:
    reconciler = reconciler_in(World(()))
    asked = asyncio.create_task(reconciler.carry_out(Start()))
    await asyncio.sleep(0)
    reconciler.forget()
    async with asyncio.timeout(60):
        outcome = await asked
    assert (outcome.code, outcome.text) == (1, GONE)


def test_an_uninstalled_feature_is_forgotten_as_soon_as_systemd_answers() -> None:
    async def story() -> None:
        world = World((), config=None, unit=None)
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        await asyncio.sleep(1.0)
        assert not running.done(), "it may have a unit"
        world.unit = False
        async with asyncio.timeout(60.0):
            await running

    loop.run(story())


def test_a_start_that_comes_while_a_feature_is_found_gone_starts_the_one_made_again() -> None:
    async def story() -> None:
        world = World((), config=None, unit=False)

        async def answered_late(feature: str) -> bool:
            answer = bool(world.unit)
            await asyncio.sleep(1.0)
            return answer

        world.unit_exists = answered_late  # type: ignore[method-assign]
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        await asyncio.sleep(0.5)
        world.unit, world.config, world.containers = True, FeatureConfig(), (local(running=False),)
        started = await reconciler.carry_out(Start())
        assert (started.code, started.text, world.containers[0].running) == (0, "", True)
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


async def test_a_container_that_ignores_the_requested_signal_is_killed_by_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "KILL_AGAIN_S", 0.05)
    world = World((local(),))
    outcome = await carried_out(reconciler_in(world), Kill("TERM"))
    assert outcome.code == 0, outcome
    assert world.signals == ["TERM", "KILL"]


def test_a_start_during_a_kill_is_done_once_the_container_runs_again() -> None:
    async def story() -> None:
        world = World((replace(local(), id=NEW),))

        async def kill(container_id: str, signal: str) -> None:
            await asyncio.sleep(1.0)
            world.containers = (replace(local(running=False, code=137), id=NEW),)

        world.kill = kill  # type: ignore[method-assign]
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        killing = asyncio.create_task(reconciler.carry_out(Kill()))
        await asyncio.sleep(0.5)
        started = await reconciler.carry_out(Start())
        assert (started.code, world.containers[0].running) == (0, True)
        assert asyncio.get_running_loop().time() >= 1.0, "the kill was under way, and ended it first"
        assert (await killing).code == 1
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


def test_the_end_of_the_unit_counts_at_once_also_while_docker_does_not_answer() -> None:
    world = World(containers=(local(),), config=FeatureConfig())

    async def story() -> None:
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        assert reconciler.units == ()
        assert (await reconciler.carry_out(Start("snmp.service"))).code == 0
        assert reconciler.units == ("snmp.service",)
        began = asyncio.get_running_loop().time()
        world.docker_fails = Unavailable("Docker", "it does not answer")
        await asyncio.sleep(1.0)
        await reconciler.unit_ended(UnitEnd("snmp.service", began - 1.0))
        assert reconciler.units == ("snmp.service",), "it was started since systemd was asked"
        await reconciler.unit_ended(UnitEnd("snmp.service", began + 1.0))
        assert reconciler.units == ()
        assert b'"system_state": "down"' in (world.file.data or b"")
        world.docker_fails = None
        await asyncio.sleep(60.0)
        assert world.stops == 1, "what the unit has left is ended"
        assert world.row.system_state is SystemState.DOWN
        running.cancel()

    loop.run(story())


def test_an_end_that_the_audit_finds_leaves_what_someone_may_have_started_since() -> None:
    world = World(containers=(local(),), config=FeatureConfig())

    async def story() -> None:
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        assert (await reconciler.carry_out(Start("snmp.service"))).code == 0
        looked_at = asyncio.get_running_loop().time() + 1.0
        await reconciler.unit_ended(UnitEnd("snmp.service", looked_at, None, heard=False))
        await asyncio.sleep(60.0)
        assert world.row.system_state is SystemState.DOWN
        assert world.stops == 0
        assert reconciler.units == ()
        running.cancel()

    loop.run(story())


def test_an_end_that_the_audit_finds_ends_what_the_unit_has_left() -> None:
    world = World(containers=(local(),), config=FeatureConfig())

    async def story() -> None:
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        assert (await reconciler.carry_out(Start("snmp.service"))).code == 0
        now = asyncio.get_running_loop().time() + 1.0
        await asyncio.sleep(2.0)
        # Docker has started it long before.
        world.containers = (replace(local(), started="1960-01-01T00:00:00Z"),)
        await reconciler.unit_ended(UnitEnd("snmp.service", now, now, heard=False))
        await asyncio.sleep(60.0)
        assert world.stops == 1
        running.cancel()

    loop.run(story())


def test_a_feature_that_no_unit_is_known_of_has_those_of_its_name() -> None:
    async def story() -> None:
        reconciler = reconciler_in(World(containers=(local(),)))
        running = asyncio.create_task(reconciler.run())
        assert (await reconciler.carry_out(Start())).code == 0
        assert reconciler.units == ("snmp.service",)
        running.cancel()

    loop.run(story())


def test_a_kill_right_after_a_preparation_is_the_quick_one() -> None:
    world = World(containers=(local(),), config=FeatureConfig())

    async def story() -> None:
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        assert (await reconciler.carry_out(Start())).code == 0
        # Nothing has been observed since.
        world.hold = True
        assert (await reconciler.carry_out(Kill())).code == 0
        assert reconciler.view is not None
        assert not reconciler.view.record.style.kubelet_check
        running.cancel()

    loop.run(story())


def test_a_bug_in_docker_stop_is_paced_and_does_not_prevent_a_kill() -> None:
    async def story() -> None:
        world, log = World((local(),), stop_raises=TypeError("a bug")), PlainLog()
        reconciler = Reconciler("snmp", around(world, log))
        running = asyncio.create_task(reconciler.run())
        stopping = asyncio.create_task(reconciler.carry_out(Stop()))
        await asyncio.sleep(60.0)
        assert 2 <= world.stops <= 5
        assert log.count("stop_failed") == world.stops
        killed = await reconciler.carry_out(Kill("KILL"))
        assert (killed.code, world.signals) == (0, ["KILL"])
        await stopping
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


def test_each_outage_of_docker_is_logged_once_when_it_begins_and_when_it_ends() -> None:
    async def story() -> None:
        world, log = World((local(),)), PlainLog()
        reconciler = Reconciler("snmp", around(world, log))
        running = asyncio.create_task(reconciler.run())
        for outage in (1, 2):
            world.docker_fails = Unavailable("Docker", "it does not answer")
            reconciler.dirty.set()
            await asyncio.sleep(120.0)
            assert log.count("trouble") == outage
            world.docker_fails = None
            await reconciler.seen()
            assert log.count("recovered") == outage
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


def test_a_rewritten_row_changes_nothing_and_a_removed_one_counts_after_a_second() -> None:
    async def story() -> None:
        world = World((local(),), config=FeatureConfig(set_owner=Owner.KUBE))
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        await reconciler.seen()
        wanted, world.config = world.config, None
        reconciler.dirty.set()
        await asyncio.sleep(0.2)
        assert (await reconciler.seen()).config == wanted
        world.config = wanted
        await asyncio.sleep(60.0)
        assert (await reconciler.seen()).config == wanted
        world.config = None
        reconciler.dirty.set()
        await asyncio.sleep(0.9)
        assert (await reconciler.seen()).config == wanted
        await asyncio.sleep(0.2)
        assert reconciler.view is not None
        assert reconciler.view.config == FeatureConfig()
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


async def test_a_feature_that_never_had_a_row_in_config_db_gets_its_state_at_once_after_a_restart() -> None:
    world = World((replace(local(running=False), id=NEW),), config=None)
    assert (await carried_out(reconciler_in(world), Start())).code == 0
    told, world.row = world.row, Row()
    assert (await carried_out(reconciler_in(world), Start())).code == 0
    assert (world.row.system_state, world.row.docker_id) == (told.system_state, told.docker_id)


def test_a_wait_does_not_give_up_while_docker_does_not_answer() -> None:
    async def story() -> None:
        world = World()
        await Ledger(PlainDisk(world.file), "boot").save("snmp", up(), FeatureConfig())
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        waiting = asyncio.create_task(reconciler.waiters.ended(lambda _: None))
        await asyncio.sleep(1.0)
        world.containers = (local(),)
        world.docker_fails = Unavailable("Docker", "it does not answer")
        await asyncio.sleep(600.0)
        assert not waiting.done()
        world.docker_fails = None
        await reconciler.seen()
        await asyncio.sleep(600.0)
        assert not waiting.done()
        world.containers = (local(running=False, code=3),)
        reconciler.dirty.set()
        assert await waiting == 3
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())


def test_local_returns_where_the_disk_is_full_before_the_grant_and_hands_over_later() -> None:
    """Also without fallback: the local container was ended for a grant that was refused."""

    async def story() -> None:
        world = World((local(), kube()), config=FeatureConfig(set_owner=Owner.KUBE))
        await Ledger(PlainDisk(world.file), "boot").save(
            "snmp", up(local_id=LOCAL), world.config or FeatureConfig()
        )

        async def stop(container_id: str, grace_s: int) -> None:
            assert container_id == LOCAL
            world.file.full = world.stops == 0
            world.stops += 1
            world.containers = (local(running=False), kube())

        async def start(container_id: str) -> None:
            world.containers = (local(), kube())

        world.stop, world.start = stop, start  # type: ignore[method-assign]
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        asked = asyncio.create_task(reconciler.waiters.admitted(KUBE))
        begun = asyncio.get_running_loop().time()
        async with asyncio.timeout(60):
            while not (world.stops and world.containers[0].running):
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - begun < 10.0
        await asyncio.sleep(600.0)
        assert (world.stops, world.containers[0].running, asked.done()) == (1, True, False)
        world.file.full = False
        await asyncio.sleep(120.0)
        assert (world.stops, world.containers[0].running, asked.done()) == (2, False, True)
        asked.cancel()
        running.cancel()
        await asyncio.wait([running, asked])

    loop.run(story())


def test_a_hand_over_that_an_earlier_daemon_began_ends_no_local_container_on_a_full_disk() -> None:
    async def story() -> None:
        world = World((local(), kube()), config=FeatureConfig(set_owner=Owner.KUBE))
        pending = up(local_id=LOCAL, mode=Mode.PENDING, asked=(LOCAL, Cause.STOP))
        await Ledger(PlainDisk(world.file), "boot").save("snmp", pending, FeatureConfig())
        world.file.full = True
        reconciler = reconciler_in(world)
        running = asyncio.create_task(reconciler.run())
        asked = asyncio.create_task(reconciler.waiters.admitted(KUBE))
        await asyncio.sleep(600.0)
        assert (world.stops, world.containers[0].running) == (0, True)
        assert any("no space left" in problem for problem in reconciler.problems)
        world.file.full = False
        await asyncio.sleep(120.0)
        assert world.stops == 1
        asked.cancel()
        running.cancel()
        await asyncio.wait([running, asked])

    loop.run(story())


def test_a_start_that_a_stop_overtakes_while_the_file_is_written_is_not_logged_as_done() -> None:
    async def story() -> None:
        world, log = World((replace(local(running=False), id=NEW),), file_slow_s=1.0), PlainLog()
        reconciler = Reconciler("snmp", around(world, log))
        running = asyncio.create_task(reconciler.run())
        await reconciler.seen()
        starting = asyncio.create_task(reconciler.carry_out(Start()))
        async with asyncio.timeout(60):
            while not reconciler.view or reconciler.view.plan.action != StartLocal(NEW):
                await asyncio.sleep(0.01)
        assert (await reconciler.carry_out(Stop())).code == 0
        await starting
        assert not world.containers[0].running
        assert [line["action"] for line in log.of("action") if "docker" in line["action"]] == []
        running.cancel()
        await asyncio.wait([running])

    loop.run(story())
