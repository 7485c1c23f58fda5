"""Check that labels reach the master in order, and when the kubelet runs. Hours pass in milliseconds."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.sim.loop import Deadlock, run
from tests.sim.plain import (
    ANSWER_S,
    PlainDisk,
    PlainFile,
    PlainLink,
    PlainLog,
    PlainMaster,
    PlainNames,
    PlainStore,
    PlainUnits,
)
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

from kubesyncd.cluster.controller import ClusterController, ClusterPorts
from kubesyncd.cluster.listeners import Listeners
from kubesyncd.core.certificate_life import CertificateLife
from kubesyncd.core.label_queue import PENDING_MAX
from kubesyncd.core.labels import Change
from kubesyncd.core.model import KubeLabel, MasterConfig, Timing
from kubesyncd.core.node_condition import NodeCondition
from kubesyncd.ports import Forbidden, Refused, Unavailable
from kubesyncd.runtime.context import Runtime

NO_MASTER = MasterConfig()
MASTER = MasterConfig(ip="10.0.0.1")
JOINED = {"master": MASTER, "kubeconfig": True}
SEEDS = (None, 1, 2, 3)


def change(text: str) -> Change:
    return Change.parse(text)


class Switch:
    """One switch: the stand-ins, and the controller that uses them."""

    def __init__(self, *, master: MasterConfig, kubeconfig: bool, seed: int | None, **world: Any) -> None:
        self.master = PlainMaster(node=world.get("node", {}))
        self.store = PlainStore(config=master, metadata=world.get("metadata", {}))
        self.units = PlainUnits(running=world.get("kubelet", False))
        self.file = PlainFile(world.get("file"))
        self.disk = PlainDisk(self.file)
        self.log = PlainLog()
        self.kubeconfig, self.hold, self.joining = kubeconfig, False, False
        self.packages = world.get("packages", True)
        self.credential: CertificateLife | None = world.get("credential")
        self.names = PlainNames()
        self.connects = 0
        self.woken: list[str | None] = []
        self.rng = random.Random(seed or 0)
        self.controller = self._new()
        self._life: asyncio.Task[None] | None = None

    def _new(self) -> ClusterController:
        now = asyncio.get_running_loop().time
        controller = ClusterController(
            ClusterPorts(
                self.store,  # type: ignore[arg-type]
                self.units,  # type: ignore[arg-type]
                self._connect,
                self.disk,
                self,
                self.names,
                credential_fits=lambda: self.kubeconfig,
                is_joining=lambda: self.joining,
            ),
            timing=Timing(),
            runtime=Runtime(
                clock=lambda: 1000.0 + now(),
                wall=lambda: 1_700_000_000.0 + now(),
                rng=self.rng,
                log=self.log,  # type: ignore[arg-type]
            ),
            listeners=Listeners(wake_feature=self.woken.append),
        )
        controller.load()
        return controller

    # ports.SwitchFiles

    def hold_exists(self) -> bool:
        return self.hold

    def os_version(self) -> str:
        return ""

    def credential_life(self) -> CertificateLife | None:
        return self.credential

    def _connect(self, _: MasterConfig) -> PlainLink:
        self.connects += 1
        if not self.packages:
            raise ImportError("kubernetes_asyncio")
        return PlainLink(self.master)

    def begin(self) -> None:
        self._life = asyncio.get_running_loop().create_task(self.controller.run())

    async def end(self) -> None:
        """kill -9: no last word. An exception of the controller's is ours."""
        assert self._life is not None
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life

    async def restart(self) -> None:
        await self.end()
        self.controller = self._new()
        self.begin()

    async def until(self, condition: Callable[[], bool], within_s: float = 120.0) -> None:
        """Wait for `condition`; the limit is virtual time."""
        await until_async(condition, limit_s=within_s, pause_s=0.01)

    async def settled(self) -> None:
        """Joined, connected, nothing pending, the kubelet up."""
        await self.until(
            lambda: self.controller.connected and not self.pending and self.controller.kubelet_running is True
        )
        await asyncio.sleep(3)

    @property
    def pending(self) -> list[str]:
        return self.controller.status()["pending"]

    async def ask(self, *texts: str) -> None:
        """Apply labels, and wait only until they are stored: sooner than the master answers a PATCH."""
        asked = asyncio.create_task(self.controller.apply([change(text) for text in texts]))
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())
        await until_async(lambda: asked.done() or texts[-1] in self.pending, pause_s=ANSWER_S / 2)
        if asked.done():
            await asked

    async def configure(self, config: MasterConfig) -> None:
        self.store.config = config
        self.controller.wake()

    def outage(self) -> None:
        self.master.fail(Unavailable("Kubernetes", "connection refused"))

    def seen(self, feature: str) -> KubeLabel:
        return self.controller.view(feature).value


def play(
    story: Callable[[Switch], Awaitable[None]],
    *,
    master: MasterConfig = NO_MASTER,
    kubeconfig: bool = False,
    **world: Any,
) -> None:
    """Play the story in virtual time, with several orders of what happens at the same moment."""

    async def stage(seed: int | None) -> None:
        switch = Switch(master=master, kubeconfig=kubeconfig, seed=seed, **world)
        switch.begin()
        try:
            await story(switch)
        finally:
            await switch.end()

    for seed in SEEDS:
        run(stage(seed), seed)


# ---- the loop itself ----------------------------------------------------------------------------


def test_virtual_hours_pass_at_once_and_a_deadlock_is_an_error() -> None:
    async def hours() -> float:
        await asyncio.sleep(36_000)
        return asyncio.get_running_loop().time()

    assert run(hours()) == pytest.approx(36_000)
    with pytest.raises(Deadlock):
        run(asyncio.Event().wait())


# ---- nothing configured, nothing installed ------------------------------------------------------


def test_without_a_master_a_day_passes_and_nothing_happens() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(86_400)
        switch.controller.wake()
        assert switch.seen("snmp") is KubeLabel.UNKNOWN
        await asyncio.sleep(86_400)
        assert (switch.connects, switch.units.looks, switch.file.saves) == (0, 0, 0)
        assert (switch.units.calls, switch.store.writes, switch.log.lines, switch.woken) == ([], [], [], [])
        assert switch.controller.kubelet_running is None

    play(story, kubelet=True)


def test_without_the_packages_the_switch_is_local_and_silent() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(86_400)
        assert switch.connects == 1
        assert not switch.controller.joined
        assert switch.units.calls == []
        assert switch.log.lines == []

    play(story, **JOINED, packages=False)


def test_a_label_without_a_master_waits_and_says_for_what() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(1)
        told = await switch.controller.apply([change("rack=7")])
        assert told.startswith("queued (no master is configured")
        assert told.endswith("1 pending)")
        await switch.until(lambda: switch.store.pending == ("rack=7",))
        assert switch.units.looks == 0

    play(story)


# ---- joined -------------------------------------------------------------------------------------


def test_joining_connects_describes_the_switch_and_starts_the_kubelet() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(10)
        assert switch.connects == 0
        switch.kubeconfig = True
        switch.controller.wake()
        await switch.settled()
        assert switch.controller.joined
        assert switch.store.connected is True
        assert switch.store.ts == pytest.approx(1_700_000_010, abs=2)
        assert switch.master.node == {"hwsku": "S6000", "deployment_type": "LeafRouter"}
        assert switch.units.calls == ["start"]

    play(story, master=MASTER, metadata={"hwsku": "S6000", "type": "LeafRouter"})


def test_a_label_is_applied_at_once_and_seen_by_its_feature() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.woken.clear()
        await switch.ask("snmp_enabled=true")
        view = switch.controller.view("snmp")
        assert (view.value, view.pending, view.failed) == (KubeLabel.ON, True, False)
        assert view.queued_at is not None
        await switch.until(lambda: not switch.pending, 1)
        view = switch.controller.view("snmp")
        assert (view.value, view.pending, view.queued_at) == (KubeLabel.ON, False, None)
        assert view.acked_at is not None
        assert "snmp" in switch.woken
        await switch.ask("snmp_enabled-")
        await switch.until(lambda: switch.seen("snmp") is KubeLabel.OFF, 1)
        assert await switch.controller.apply([change("rack=7")]) == "applied"
        assert switch.master.node == {"rack": "7"}

    play(story, **JOINED)


def test_a_label_that_was_never_set_is_known_to_be_off_once_the_node_was_seen() -> None:
    async def story(switch: Switch) -> None:
        assert switch.seen("snmp") is KubeLabel.UNKNOWN
        await switch.settled()
        assert switch.seen("snmp") is KubeLabel.OFF
        assert switch.seen("lldp") is KubeLabel.ON

    play(story, **JOINED, node={"lldp_enabled": "true"})


def test_a_restart_on_a_converged_switch_changes_nothing() -> None:
    async def story(switch: Switch) -> None:
        switch.seen("snmp")
        await switch.settled()
        await switch.ask("lldp_enabled=true")
        await switch.settled()
        before = (switch.store.writes[:], switch.units.calls[:], switch.master.patches[:], switch.file.data)
        for _ in range(3):
            await switch.restart()
            assert switch.seen("snmp") is KubeLabel.OFF
            assert switch.seen("lldp") is KubeLabel.ON
            await switch.settled()
            await asyncio.sleep(600)
        after = (switch.store.writes, switch.units.calls, switch.master.patches, switch.file.data)
        assert after == before

    play(story, **JOINED, metadata={"hwsku": "S6000"})


# ---- the master is away -------------------------------------------------------------------------


def test_ten_commands_offline_are_one_patch_later_in_their_order() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        patches = len(switch.master.patches)
        switch.outage()
        await switch.until(lambda: not switch.controller.connected, 10)
        for number in range(9):
            told = await switch.controller.apply([change(f"k{number % 3}={number}")])
            assert told == f"queued (connection refused; {number + 1} pending)"
        await switch.ask("k0-")
        await asyncio.sleep(3600)
        assert len(switch.pending) == 10
        assert switch.store.pending == tuple(switch.pending)
        switch.master.fail(None)
        await switch.settled()
        assert switch.master.patches[patches:] == [{"k0": None, "k1": "7", "k2": "8"}]
        assert switch.master.node == {"k1": "7", "k2": "8"}
        assert switch.store.pending == ()

    play(story, **JOINED)


def test_a_failed_label_stops_the_kubelet_until_it_is_applied() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await asyncio.sleep(300)
        assert switch.units.running, "a lost master alone does not change the kubelet"
        switch.woken.clear()
        await switch.ask("snmp_enabled-")
        await switch.until(lambda: switch.controller.kubelet_running is False, 10)
        view = switch.controller.view("snmp")
        assert (view.value, view.pending, view.failed) == (KubeLabel.OFF, True, True)
        assert {"snmp", None} <= set(switch.woken)
        switch.master.fail(None)
        await switch.until(lambda: switch.units.running, 40)
        assert not switch.pending
        assert not switch.controller.view("snmp").failed
        assert switch.units.calls == ["start", "stop", "start"]

    play(story, **JOINED)


@pytest.mark.upstream("kube_commands/labels-timeout", "differs")
def test_a_silent_master_is_a_failure_after_the_call_s_own_deadline() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.silent = True
        told = await switch.controller.apply([change("rack=7")])
        assert told.startswith("queued (")
        await switch.until(lambda: not switch.units.running, 10)

    play(story, **JOINED)


@pytest.mark.upstream("kube_commands/labels-error", "differs")
def test_a_label_stays_queued_when_the_master_fails_without_a_reason() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.fail(Unavailable("Kubernetes", ""))
        told = await switch.controller.apply([change("rack=7")])
        assert told == "queued (the API server has not answered yet; 1 pending)"
        assert switch.pending == ["rack=7"]

    play(story, **JOINED)


def test_reconnecting_sends_at_once_whatever_the_backoff_says() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await switch.ask("rack=7")
        await asyncio.sleep(1800)
        switch.master.fail(None)
        await switch.until(lambda: switch.controller.connected, 31)
        await switch.until(lambda: not switch.pending, 0.1)

    play(story, **JOINED)


def test_a_short_outage_after_a_long_one_is_over_soon() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await asyncio.sleep(1800)
        switch.master.fail(None)
        await switch.until(lambda: switch.controller.connected, 31)
        await asyncio.sleep(60)
        switch.outage()
        await asyncio.sleep(0.1)
        switch.master.fail(None)
        await switch.until(lambda: switch.controller.connected, 5)

    play(story, **JOINED)


def test_a_label_that_got_through_proves_the_master_is_back() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.deaf = True
        switch.master.tell()
        await asyncio.sleep(1800)
        assert not switch.controller.connected
        switch.master.deaf = False
        assert await switch.controller.apply([change("rack=7")]) == "applied"
        await switch.until(lambda: switch.controller.connected, 0.1)

    play(story, **JOINED)


def test_a_new_label_is_tried_at_once_also_while_older_ones_wait() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await switch.ask("rack=7")
        await asyncio.sleep(1800)
        assert not switch.controller.view("snmp").failed
        await switch.ask("snmp_enabled-")
        await switch.until(lambda: switch.controller.view("snmp").failed, 0.1)

    play(story, **JOINED)


def test_a_failing_master_is_asked_with_growing_delays_and_reported_once() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await switch.restart()
        await switch.ask("rack=7")
        await asyncio.sleep(3600)
        assert 3600 / 30 <= switch.master.calls <= 2 * 3600 / 15 + 20
        assert 3600 / 30 <= switch.master.watches <= 2 * 3600 / 15 + 20
        assert switch.log.count("labels_failed") == 1

    play(story, **JOINED)


def test_a_lost_reply_is_a_failure_and_doing_it_again_is_harmless() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.reply_lost = True
        await switch.ask("rack=7")
        await switch.until(lambda: not switch.units.running, 10)
        assert switch.pending == ["rack=7"]
        switch.master.reply_lost = False
        await switch.settled()
        assert switch.master.node == {"rack": "7"}

    play(story, **JOINED)


@pytest.mark.parametrize("gone", [MASTER, NO_MASTER])
def test_until_the_configuration_is_read_a_joined_switch_stays_joined(gone: MasterConfig) -> None:
    """Reconcilers look at once: a stop cut short must find that a label has to go first."""

    async def story(switch: Switch) -> None:
        await switch.settled()
        assert await switch.controller.apply([change("snmp_enabled=true")]) == "applied"
        switch.store.down, switch.store.config = True, gone
        calls = list(switch.units.calls)
        await switch.restart()
        await asyncio.sleep(600)
        assert switch.controller.joined
        assert switch.units.calls == calls, "nothing is known of the kubelet's rule"
        switch.kubeconfig = False
        await switch.restart()
        await asyncio.sleep(1)
        assert not switch.controller.joined, "a switch without a credential has not joined"

        switch.kubeconfig, switch.store.down = True, False
        await switch.restart()
        await switch.until(lambda: switch.controller.joined is bool(gone.ip))

    play(story, **JOINED)


def test_what_was_queued_or_failed_before_a_restart_still_is() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await switch.ask("a=1", "a=2", "b-")
        await switch.until(lambda: not switch.units.running, 10)
        calls = switch.units.calls[:]
        for _ in range(5):
            await switch.restart()
            await asyncio.sleep(200)
        assert switch.pending == ["a=1", "a=2", "b-"]
        assert switch.units.calls == calls, "a restart must not start the kubelet for a moment"
        switch.master.fail(None)
        await switch.settled()
        assert switch.master.node == {"a": "2"}

    play(story, **JOINED)


def test_labels_asked_for_during_a_patch_are_not_lost_with_it() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        for number in range(50):
            await switch.ask(f"a={number}", f"k{number}=1")
            await asyncio.sleep(switch.rng.uniform(0, 0.03))
        await switch.settled()
        assert switch.master.node == {"a": "49", **{f"k{n}": "1" for n in range(50)}}
        values = [patch["a"] for patch in switch.master.patches if "a" in patch]
        assert values == sorted(values, key=lambda value: int(value or 0))

    play(story, **JOINED)


# ---- the master refuses -------------------------------------------------------------------------


def test_one_refused_label_is_dropped_with_its_reason_and_blocks_no_other() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        await switch.ask("a=1", "bad=1", "b=1", "bad=2")
        await switch.until(lambda: not switch.units.running, 10)
        switch.master.refused = frozenset({"bad"})
        switch.master.fail(None)
        await switch.settled()
        assert switch.master.node == {"a": "1", "b": "1"}
        assert switch.log.count("label_rejected") == 1
        assert switch.controller.status()["refused"] == {"bad": "bad is invalid"}
        with pytest.raises(Refused, match="bad is invalid"):
            await switch.controller.apply([change("bad=3"), change("c=1")])
        assert switch.master.node == {"a": "1", "b": "1", "c": "1"}
        assert switch.pending == []
        assert switch.units.running

    play(story, **JOINED)


def test_a_refused_credential_keeps_every_label_and_stops_the_kubelet() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.fault = Forbidden("Kubernetes", "nodes sw1 is forbidden")
        told = await switch.controller.apply([change("a=1"), change("b=1")])
        assert told == "queued (nodes sw1 is forbidden; 2 pending)"
        await asyncio.sleep(600)
        assert switch.pending == ["a=1", "b=1"]
        assert not switch.units.running
        said = [more for _, event, more in switch.log.lines if event == "labels_failed"]
        assert len(said) == 1
        assert "allow it on the master" in said[0]["why"]
        assert "join -f" not in said[0]["why"], "it would cost the membership and change nothing"
        assert switch.master.calls <= 600 / 15 + 5, "asking often does not help"
        switch.master.fault = None
        await switch.settled()
        assert switch.master.node == {"a": "1", "b": "1"}

    play(story, **JOINED)


def test_a_node_that_does_not_exist_yet_does_not_count_as_a_failure() -> None:
    async def story(switch: Switch) -> None:
        await switch.ask("rack=7")
        await switch.until(lambda: switch.units.running, 10)
        await asyncio.sleep(600)
        assert switch.pending == ["rack=7"]
        assert switch.units.calls == ["start"]
        assert switch.controller.connected
        assert "queued (" in await switch.controller.apply([change("rack=8")])
        switch.master.node = {}
        switch.master.tell()
        await switch.until(lambda: not switch.pending, 0.2)
        assert switch.master.node == {"rack": "8"}

    play(story, **JOINED, node=None)


def test_a_node_deleted_during_an_outage_is_created_again_by_the_kubelet() -> None:
    async def story(switch: Switch) -> None:
        """A failed label stops the kubelet, yet only the kubelet creates the Node it is meant for."""
        await switch.settled()
        switch.outage()
        await switch.ask("rack=7")
        await switch.until(lambda: not switch.units.running, 10)
        switch.master.node = None
        switch.master.fail(None)
        await switch.until(lambda: switch.units.running, 60)
        switch.master.node = {}
        switch.master.tell()
        await switch.settled()
        assert switch.master.node == {"rack": "7"}

    play(story, **JOINED)


def test_a_node_that_was_deleted_restarts_the_kubelet_and_gets_every_wish_again() -> None:
    async def story(switch: Switch) -> None:
        """Only a kubelet that starts registers its Node."""
        await switch.settled()
        await switch.ask("rack=7", "row=2")
        await switch.ask("row-")
        switch.master.delete()
        await asyncio.sleep(59)
        assert switch.units.calls == ["start"], "a kubelet that has just started registers it by itself"
        await switch.until(lambda: switch.units.calls == ["start", "restart"], 10)
        told = switch.controller.status()
        assert "the node was deleted on the master" in told["node_gone"]
        assert (told["drifted"], told["kubelet_may_run"]) == ({}, True)
        await asyncio.sleep(3600)
        assert 4 <= switch.units.calls.count("restart") <= 30, "with growing delays"
        assert [event for _, event, _ in switch.log.lines].count("node_gone") == 1
        await switch.ask("slot=3")
        assert "deleted on the master" in switch.controller.status()["why_pending"]
        switch.master.register(default="1")
        await switch.settled()
        assert switch.master.node == {"default": "1", "rack": "7", "slot": "3"}
        assert switch.controller.status()["node_gone"] == ""
        restarts = switch.units.calls.count("restart")
        await asyncio.sleep(3600)
        assert switch.units.calls.count("restart") == restarts

    play(story, **JOINED)


def test_a_deleted_node_waits_while_the_kubelet_must_not_run_or_systemd_refuses() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.hold = True
        switch.controller.wake()
        await switch.until(lambda: not switch.units.running)
        switch.master.delete()
        await asyncio.sleep(300)
        assert "restart" not in switch.units.calls
        switch.hold = False
        switch.controller.wake()
        await switch.until(lambda: switch.units.running)
        switch.units.broken = True
        await switch.until(lambda: "masked" in switch.controller.status()["node_gone"], 300)

    play(story, **JOINED)


def test_a_kubelet_that_must_not_run_and_cannot_be_stopped_is_not_restarted_for_a_deleted_node() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.delete()
        await asyncio.sleep(50)
        switch.units.broken = True
        switch.hold = True
        switch.controller.wake()
        await asyncio.sleep(600)
        assert switch.units.running
        assert set(switch.units.calls) == {"start", "stop"}

    play(story, **JOINED)


def test_a_master_restored_from_a_backup_gets_the_wishes_and_a_changed_label_is_left_and_shown() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("rack=7", "row=2")
        await asyncio.sleep(5)
        switch.master.edit(rack="8")
        await asyncio.sleep(600)
        assert switch.master.node == {"rack": "8", "row": "2"}
        assert switch.controller.status()["drifted"] == {"rack": "8"}
        await switch.restart()
        await switch.until(lambda: switch.controller.status()["drifted"] == {"rack": "8"})
        switch.master.restore(foreign="1")
        await switch.until(lambda: switch.master.node == {"foreign": "1", "rack": "7", "row": "2"})
        assert switch.controller.status()["drifted"] == {}

    play(story, **JOINED)


@pytest.mark.parametrize("away", ["the daemon", "the link"])
def test_a_backup_restored_while_the_daemon_or_its_link_is_away_gets_the_wishes_too(away: str) -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("rack=7")
        await asyncio.sleep(5)
        if away == "the daemon":
            await switch.end()
            switch.master.restore(foreign="1")
            await switch.restart()
        else:
            switch.kubeconfig = False
            switch.controller.wake()
            await switch.until(lambda: not switch.controller.connected)
            switch.master.restore(foreign="1")
            switch.kubeconfig = True
            switch.controller.wake()
        await switch.until(lambda: switch.master.node == {"foreign": "1", "rack": "7"})
        await asyncio.sleep(5)
        switch.master.edit(rack="8")
        await switch.restart()
        await asyncio.sleep(600)
        assert switch.controller.status()["drifted"] == {"rack": "8"}, "it was restored once"

    play(story, **JOINED)


def test_too_many_different_labels_are_refused_and_none_is_lost() -> None:
    async def story(switch: Switch) -> None:
        await switch.ask(*(f"k{n}=1" for n in range(PENDING_MAX)))
        with pytest.raises(Refused, match="reset"):
            await switch.ask("one-more=1")
        assert len(switch.pending) == PENDING_MAX

    play(story)


# ---- the kubelet --------------------------------------------------------------------------------


def test_a_hold_stops_the_kubelet_and_lifting_it_starts_it() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.hold = True
        switch.controller.wake()
        await switch.until(lambda: switch.controller.kubelet_running is False, 1)
        assert switch.controller.hold
        await switch.ask("rack=7")
        await switch.until(lambda: not switch.pending, 1)
        assert not switch.units.running
        switch.hold = False
        switch.controller.wake()
        await switch.until(lambda: switch.units.running, 1)

    play(story, **JOINED)


def test_a_hold_stops_the_kubelet_also_while_the_master_is_silent() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.hold, switch.master.silent = True, True
        switch.controller.wake()
        await switch.ask("rack=7")
        await switch.until(lambda: not switch.units.running, 1)

    play(story, **JOINED)


def test_a_kubelet_started_or_stopped_manually_is_corrected_by_the_audit() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.units.running = False
        await switch.until(lambda: switch.units.running, 61)
        switch.hold = True
        switch.controller.wake()
        await switch.until(lambda: not switch.units.running, 1)
        switch.units.running = True
        await switch.until(lambda: not switch.units.running, 61)

    play(story, **JOINED)


def test_a_label_that_reached_the_master_makes_sure_of_the_kubelet() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.units.running = False
        assert await switch.controller.apply([change("rack=7")]) == "applied"
        await switch.until(lambda: switch.units.running, 2)

    play(story, **JOINED)


def test_a_label_costs_one_call_of_systemd() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        looks, examined = switch.units.looks, switch.units.examined
        assert await switch.controller.apply([change("rack=7")]) == "applied"
        await switch.until(lambda: switch.units.looks > looks, 2)
        assert (switch.units.looks, switch.units.examined) == (looks + 1, examined)
        await asyncio.sleep(120)
        assert switch.units.examined > examined, "an audit asks how well it runs"

    play(story, **JOINED)


def test_a_kubelet_that_cannot_be_toggled_is_tried_again_with_growing_delays_and_reported_once() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.units.broken = True
        switch.hold = True
        switch.controller.wake()
        await asyncio.sleep(3600)
        assert switch.controller.kubelet_running is True
        assert 120 <= switch.units.calls.count("stop") <= 500
        assert switch.log.count("kubelet_not_switched") == 1
        switch.units.broken = False
        await switch.until(lambda: switch.controller.kubelet_running is False, 31)
        switch.units.broken, switch.hold = True, False
        switch.controller.wake()
        await asyncio.sleep(5)
        assert switch.units.calls.count("start") >= 3, "a new failure is tried again soon"

    play(story, **JOINED)


def test_a_join_under_way_keeps_the_kubelet_it_needs() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(1)
        switch.joining = switch.units.running = True
        await asyncio.sleep(600)
        assert switch.units.running
        switch.kubeconfig, switch.joining = True, False
        switch.controller.wake()
        await switch.settled()
        assert switch.units.calls == []

    play(story, master=MASTER)


# ---- configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [replace(MASTER, disable=True), NO_MASTER])
def test_a_master_taken_away_ends_the_link_and_the_kubelet_but_not_the_queue(gone: MasterConfig) -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("applied=1")
        await switch.settled()
        await switch.configure(gone)
        await switch.until(lambda: switch.store.connected is False and not switch.units.running, 2)
        assert not switch.controller.joined
        assert switch.master.closed == switch.master.links == 1
        assert "queued (" in await switch.controller.apply([change("rack=7")])
        await asyncio.sleep(3600)
        assert switch.pending == ["rack=7"]
        assert switch.master.links == 1
        await switch.restart()
        await asyncio.sleep(3600)
        assert (switch.pending, switch.units.running, switch.master.links) == (["rack=7"], False, 1)
        await switch.configure(MASTER)
        await switch.settled()
        assert switch.master.node == {"applied": "1", "rack": "7"}
        assert switch.store.connected is True

    play(story, **JOINED)


def test_a_master_removed_while_we_were_not_running_leaves_no_kubelet_behind() -> None:
    async def story(switch: Switch) -> None:
        await switch.until(lambda: not switch.units.running, 2)
        await switch.until(lambda: switch.store.connected is False, 2)
        looks = switch.units.looks
        await asyncio.sleep(86_400)
        assert switch.units.looks == looks

    file = json.dumps({"pending": [], "applied": {"snmp_enabled": "true"}, "failed": []}).encode()
    play(story, kubeconfig=True, kubelet=True, file=file)


def test_another_master_is_another_link() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        old, switch.master = switch.master, PlainMaster()
        await switch.configure(replace(MASTER, ip="10.0.0.2"))
        await switch.settled()
        assert (old.links, old.closed) == (1, 1)
        await switch.ask("rack=7")
        await switch.settled()
        assert switch.master.node == {"rack": "7"}
        assert old.patches == []
        assert switch.store.writes[:3] == [True, False, True]

    play(story, **JOINED)


def test_redis_away_changes_nothing_but_the_reports() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.store.down = True
        switch.controller.wake()
        await switch.ask("rack=7")
        await switch.until(lambda: not switch.pending, 1)
        switch.outage()
        await switch.ask("rack=8")
        await switch.until(lambda: not switch.units.running, 10)
        await asyncio.sleep(3600)
        assert switch.controller.joined
        assert switch.log.count("master_config_unreadable") == 1
        switch.store.down = False
        await switch.until(lambda: switch.store.pending == ("rack=8",), 31)
        assert switch.store.connected is False

    play(story, **JOINED)


def test_redis_away_from_the_start_leaves_the_kubelet_as_it_is() -> None:
    async def story(switch: Switch) -> None:
        switch.store.down = True
        await switch.restart()
        switch.units.calls.clear()
        switch.units.running = True
        await asyncio.sleep(3600)
        assert switch.units.calls == []
        switch.store.down = False
        await switch.settled()

    play(story, **JOINED)


def test_redis_away_from_the_start_is_logged_once_it_has_stayed_away() -> None:
    async def story(switch: Switch) -> None:
        switch.store.down = True
        await switch.restart()
        await asyncio.sleep(50)
        assert switch.log.lines == [], "the database's container starts later than the daemon"
        await asyncio.sleep(3600)
        assert switch.log.count("master_config_unreadable") == 1
        switch.store.down = False
        await asyncio.sleep(31)
        switch.store.down = True
        switch.controller.wake()
        await asyncio.sleep(3600)
        assert switch.log.count("master_config_unreadable") == 1, "Kubernetes is off"

    play(story)


def test_a_mirror_that_fails_since_before_the_master_was_read_is_logged() -> None:
    async def story(switch: Switch) -> None:
        switch.store.down = True
        await switch.restart()
        await asyncio.sleep(5)
        switch.store.down, switch.store.fails = False, {"write_master": Unavailable("Redis", "out of memory")}
        await switch.until(lambda: switch.controller.connected, 31)
        await asyncio.sleep(600)
        assert switch.log.count("master_config_unreadable") == 1

    play(story, **JOINED)


def test_a_flushed_state_db_is_written_again() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        ts = switch.store.ts
        switch.store.connected, switch.store.ts = None, 0
        switch.controller.wake()
        await switch.until(lambda: switch.store.connected is True, 1)
        assert switch.store.ts == ts
        switch.store.connected = None
        await switch.until(lambda: switch.store.connected is True, 61)

    play(story, **JOINED)


def test_the_status_has_the_configured_address() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        assert switch.store.address == (MASTER.ip, MASTER.port)
        await switch.configure(replace(MASTER, port=7443))
        await switch.until(lambda: switch.store.address == (MASTER.ip, 7443), 61)
        await switch.configure(MasterConfig())
        await switch.until(lambda: switch.store.address[0] == "", 61)

    play(story, **JOINED)


def test_connected_follows_the_truth_both_ways_and_is_written_only_on_change() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        for _ in range(3):
            switch.outage()
            await switch.until(lambda: switch.store.connected is False, 10)
            await asyncio.sleep(600)
            switch.master.fail(None)
            await switch.until(lambda: switch.store.connected is True, 40)
            await asyncio.sleep(600)
        assert [write for write in switch.store.writes if isinstance(write, bool)] == [
            True,
            *[False, True] * 3,
        ]

    play(story, **JOINED)


def test_each_reason_of_an_outage_is_reported_once_and_the_last_one_is_shown() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        assert switch.controller.status()["why_disconnected"] == ""
        said = []
        for why in ("the master closed the connection", "the certificate has expired", "no route") * 2:
            switch.master.fail(Unavailable("Kubernetes", why))
            said.append(why)
            await switch.until(lambda: switch.controller.status()["why_disconnected"] == said[-1])
        told = [
            more["why"] for _, event, more in switch.log.lines if event == "master" and not more["connected"]
        ]
        assert told == said[:3]
        switch.master.fail(None)
        await switch.settled()
        assert switch.controller.status()["why_disconnected"] == ""

    play(story, **JOINED)


def test_an_insecure_master_is_a_warning_once_a_day() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(3 * 86_400 - 3600)
        assert switch.log.count("insecure_master") == 3

    play(story, master=replace(MASTER, insecure=True), kubeconfig=True)


def test_a_certificate_about_to_expire_is_an_alert_once_a_day_until_it_is_renewed() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(2 * 86_400)
        assert switch.log.count("credential_expires") == 0
        await asyncio.sleep(2.5 * 86_400)
        assert switch.log.count("credential_expires") == 3
        assert switch.controller.status()["credential_expires_ts"] == last_year.ends
        switch.credential = CertificateLife(now, now + 365 * 86_400)
        await asyncio.sleep(5 * 86_400)
        assert switch.log.count("credential_expires") == 3

    now = 1_700_000_000
    # Nine tenths of its 320 days are over in 2 days and a minute.
    last_year = CertificateLife(now - 286 * 86_400 + 60, now + 34 * 86_400 + 60)
    play(story, credential=last_year, **JOINED)


def test_a_kubelet_that_does_not_run_well_is_in_the_status_and_one_alert_until_it_does() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.units.trouble = "kubelet.service ends by itself; see: journalctl -u kubelet.service"
        await asyncio.sleep(3600)
        assert switch.controller.status()["kubelet_trouble"] == switch.units.trouble
        assert switch.log.count("kubelet_failing") == 1
        switch.units.trouble = ""
        await asyncio.sleep(120)
        assert switch.controller.status()["kubelet_trouble"] == ""
        switch.units.running, switch.units.broken = False, True
        await asyncio.sleep(120)
        assert switch.controller.status()["kubelet_trouble"] == "systemd: Unit kubelet.service is masked."

    play(story, **JOINED)


def test_an_unusable_configuration_is_reported_once() -> None:
    async def story(switch: Switch) -> None:
        await asyncio.sleep(3600)
        assert [more["why"] for _, event, more in switch.log.lines if event == "master_config"] == ["bad IP"]

    play(story, master=MasterConfig(problems=("bad IP",)))


# ---- drift --------------------------------------------------------------------------------------


def test_a_label_changed_by_another_client_is_noticed_and_wakes_its_feature() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("snmp_enabled=true")
        await switch.settled()
        switch.woken.clear()
        switch.master.edit(snmp_enabled=None)
        await switch.until(lambda: "snmp" in switch.woken, 2)
        assert switch.seen("snmp") is KubeLabel.OFF
        switch.master.edit(lldp_enabled="true")
        await switch.until(lambda: "lldp" in switch.woken, 2)
        assert switch.seen("lldp") is KubeLabel.ON

    play(story, **JOINED)


def test_a_pending_wish_is_stronger_than_what_the_node_has() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.silent = True
        await switch.ask("snmp_enabled-")
        switch.master.edit(snmp_enabled="true")
        await asyncio.sleep(3)
        assert switch.seen("snmp") is KubeLabel.OFF
        switch.master.silent = False
        await switch.settled()
        assert switch.master.node == {}

    play(story, **JOINED)


def test_a_label_that_another_client_keeps_removing_is_put_back_with_growing_delays() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        wants = True

        async def reconciler() -> None:
            """Wants the label on, as a feature's reconciler does; off once it is stopped."""
            while True:
                view = switch.controller.view("snmp")
                if (view.value is KubeLabel.ON) is not wants:
                    await switch.controller.request_feature("snmp", on=wants)
                await asyncio.sleep(1.0)

        async def other() -> None:
            while True:
                if switch.master.node == {"snmp_enabled": "true"}:
                    switch.master.edit(snmp_enabled=None)
                await asyncio.sleep(2.0)

        tasks = [asyncio.create_task(coroutine) for coroutine in (reconciler(), other())]
        await asyncio.sleep(5)
        assert switch.controller.view("snmp").contested == "", "once or twice is no contest"
        await asyncio.sleep(3600)
        assert 10 <= len(switch.master.patches) <= 40, "not one a second"
        view = switch.controller.view("snmp")
        assert "another client changes the label snmp_enabled" in view.contested
        assert switch.units.running
        await switch.controller.apply([change("rack=7")])
        assert (switch.master.node or {})["rack"] == "7", "another label does not wait"
        tasks[1].cancel()
        await switch.until(lambda: "snmp_enabled" in (switch.master.node or {}), 310)
        switch.master.edit(snmp_enabled=None)
        await asyncio.sleep(2)
        wants = False
        await asyncio.sleep(1000)
        assert switch.controller.view("snmp").contested == "", "it is over"
        tasks[0].cancel()

    play(story, **JOINED)


def test_a_third_client_that_puts_a_contested_label_back_does_not_end_the_contest() -> None:
    async def story(switch: Switch) -> None:
        async def reconciler() -> None:
            while True:
                if switch.controller.view("snmp").value is not KubeLabel.ON:
                    await switch.controller.request_feature("snmp", on=True)
                await asyncio.sleep(1.0)

        await switch.settled()
        wanting = asyncio.create_task(reconciler())
        for _ in range(6):
            await switch.until(lambda: "snmp_enabled" in (switch.master.node or {}))
            await asyncio.sleep(2.0)
            switch.master.edit(snmp_enabled=None)
        await asyncio.sleep(2.0)
        for value in ("true", None):
            switch.master.edit(snmp_enabled=value)
            await asyncio.sleep(3.0)
        patches = len(switch.master.patches)
        assert switch.controller.view("snmp").contested
        await asyncio.sleep(15.0)
        assert len(switch.master.patches) == patches, "it is put back as late as before"
        wanting.cancel()

    play(story, **JOINED)


def test_a_contested_label_that_is_to_be_removed_is_removed_at_once() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        for _ in range(8):
            await switch.controller.request_feature("snmp", on=True)
            await switch.until(lambda: (switch.master.node or {}).get("snmp_enabled") == "true", 310)
            await asyncio.sleep(1.2)
            switch.master.edit(snmp_enabled=None)
            await asyncio.sleep(1.2)
        await switch.controller.request_feature("snmp", on=True)
        await asyncio.sleep(1.0)
        assert switch.pending == ["snmp_enabled=true"], "held back"
        sent = len(switch.master.patches)
        await switch.controller.request_feature("snmp", on=False)
        await switch.until(lambda: not switch.pending, 1.0)
        assert switch.master.patches[sent:] == [{"snmp_enabled": None}]

    play(story, **JOINED)


def test_a_watch_event_older_than_our_own_patch_does_not_count_as_drift() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("snmp_enabled=true")
        await switch.until(lambda: not switch.pending, 1)
        node, switch.master.node = switch.master.node, {}
        switch.master.tell()
        await asyncio.sleep(0.1)
        assert switch.seen("snmp") is KubeLabel.ON
        switch.master.node = node
        switch.master.tell()
        await asyncio.sleep(10)
        assert switch.seen("snmp") is KubeLabel.ON
        assert switch.log.count("labels_drifted") == 0

    play(story, **JOINED)


def test_the_switch_s_own_description_is_put_back() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.edit(hwsku="another-client-s")
        await switch.until(lambda: switch.master.node == {"hwsku": "S6000"}, 5)
        switch.store.metadata = {"hwsku": "S6100"}
        await switch.until(lambda: switch.master.node == {"hwsku": "S6100"}, 70)

    play(story, **JOINED, metadata={"hwsku": "S6000"})


def test_a_description_the_master_refuses_is_not_offered_again_and_again() -> None:
    async def story(switch: Switch) -> None:
        switch.master.refused = frozenset({"hwsku"})
        await switch.settled()
        await asyncio.sleep(3600)
        assert switch.log.count("label_rejected") == 1
        assert switch.master.node == {"deployment_type": "LeafRouter"}

    play(story, **JOINED, metadata={"hwsku": "S6000", "type": "LeafRouter"})


# ---- reset, files, errors -----------------------------------------------------------------------


def test_a_reset_forgets_every_label() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("applied=1")
        await switch.settled()
        switch.outage()
        await switch.ask("rack=7", "snmp_enabled=true")
        await switch.until(lambda: switch.store.pending != (), 5)
        switch.kubeconfig = False
        await switch.controller.purge()
        switch.controller.wake()
        await switch.until(lambda: switch.store.pending == () and not switch.units.running, 5)
        await switch.restart()
        assert switch.pending == []
        assert switch.controller.status()["applied"] == {}

    play(story, **JOINED)


def test_an_operator_waiting_for_a_label_learns_of_the_reset() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.silent = True
        waiting = asyncio.create_task(switch.controller.apply([change("rack=7")]))
        await asyncio.sleep(1)
        await switch.controller.purge()
        with pytest.raises(Refused, match="reset"):
            await waiting

    play(story, **JOINED)


def test_a_label_that_cannot_be_kept_is_not_accepted() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.file.full = True
        with pytest.raises(Unavailable, match="no space left"):
            await switch.ask("rack=7")
        assert switch.pending == []
        assert switch.master.node == {}

    play(story, **JOINED)


def test_a_slow_disk_keeps_the_order_of_labels_and_delays_only_durable_requests() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.disk.slow_s = 20.0
        asked = []
        for n in range(3):
            asked.append(asyncio.create_task(switch.ask(f"rack={n}", f"n{n}=x")))
            await asyncio.sleep(0.01)
        await switch.controller.request_feature("snmp", on=True)
        await switch.until(lambda: switch.master.node == {"snmp_enabled": "true"}, 5)
        assert not any(task.done() for task in asked)
        await asyncio.gather(*asked)
        await switch.until(lambda: not switch.pending, 60)
        assert switch.master.node == {"snmp_enabled": "true", "rack": "2", "n0": "x", "n1": "x", "n2": "x"}
        await asyncio.sleep(120)
        assert switch.file.data is not None
        assert json.loads(switch.file.data)["pending"] == []
        assert json.loads(switch.file.data)["applied"] == switch.master.node

    play(story, **JOINED)


def test_a_label_accepted_while_the_disk_is_slow_survives_a_kill() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.outage()
        switch.disk.slow_s = 20.0
        await switch.controller.request_feature("snmp", on=True)
        await switch.ask("rack=7")
        await switch.restart()
        assert "rack=7" in switch.pending
        switch.master.fail(None)
        await switch.until(lambda: (switch.master.node or {}).get("rack") == "7", 60)

    play(story, **JOINED)


def test_a_disk_that_fills_up_after_a_label_was_accepted_does_not_stop_it() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        await switch.ask("rack=7")
        switch.file.full = True
        await switch.until(lambda: switch.master.node == {"rack": "7"} and not switch.pending, 5)
        await asyncio.sleep(600)
        assert switch.log.count("labels_not_saved") == 1
        switch.file.full = False
        await asyncio.sleep(61)
        assert switch.file.data is not None
        kept = {"pending": [], "applied": {"rack": "7"}, "failed": [], "wishes": {"rack": "7"}, "node": "uid"}
        assert json.loads(switch.file.data) == {**kept, "store": switch.master.version}

    play(story, **JOINED)


def test_a_corrupt_file_is_reported_and_the_switch_goes_on() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        assert switch.log.count("labels_not_loaded") == 1
        assert await switch.controller.apply([change("rack=7")]) == "applied"

    play(story, **JOINED, file=b"\xff{")


def test_an_unexpected_exception_ends_the_coroutine() -> None:
    async def story() -> None:
        switch = Switch(**JOINED, seed=1)
        switch.begin()
        await switch.settled()
        switch.master.fail(KeyError("surprise"))  # type: ignore[arg-type]
        assert switch._life is not None
        with pytest.raises(ExceptionGroup):
            async with asyncio.timeout(60):
                await switch._life

    run(story())


def test_a_quiet_hour_has_no_action_and_few_observations() -> None:
    async def story(switch: Switch) -> None:
        switch.seen("snmp")
        await switch.settled()
        await asyncio.sleep(120)
        patches, lines = switch.master.patches, switch.log.lines
        before = (switch.store.writes[:], switch.file.saves, len(patches), len(lines))
        looks, woken = switch.units.looks, len(switch.woken)
        await asyncio.sleep(3600)
        assert (switch.store.writes, switch.file.saves, len(patches), len(lines)) == before
        assert switch.units.looks - looks <= 61
        assert len(switch.woken) == woken

    play(story, **JOINED, metadata={"hwsku": "S6000"})


def test_no_label_is_stored_for_a_name_that_is_invalid_as_a_label() -> None:
    async def story(switch: Switch) -> None:
        switch.seen("bgp@0")
        switch.seen("x" * 63)
        await switch.settled()
        await switch.restart()
        await switch.settled()
        assert switch.log.count("labels_not_loaded") == 0

    play(story, **JOINED)


def test_a_kubelet_that_needs_seconds_to_start_does_not_make_its_features_local() -> None:
    async def story(switch: Switch) -> None:
        grace_s = Timing().node_not_ready_s
        await switch.settled()
        switch.master.condition = NodeCondition(not_ready="KubeletNotReady: it has just started")
        switch.master.tell()
        await switch.until(lambda: "KubeletNotReady" in switch.controller.status()["node_state"])
        await asyncio.sleep(grace_s / 2)
        assert switch.controller.no_deploy == ""
        woken = len(switch.woken)
        await switch.until(lambda: bool(switch.controller.no_deploy), within_s=grace_s / 2 + 1)
        assert "KubeletNotReady" in switch.controller.no_deploy
        assert len(switch.woken) > woken
        switch.master.condition = NodeCondition()
        switch.master.tell()
        await switch.until(lambda: not switch.controller.no_deploy, within_s=1.0)

    play(story, **JOINED)


def test_a_node_that_is_not_ready_while_the_link_is_lost_costs_nothing() -> None:
    async def story(switch: Switch) -> None:
        await switch.settled()
        switch.master.condition = NodeCondition(not_ready="KubeletNotReady")
        switch.master.tell()
        await switch.until(lambda: "KubeletNotReady" in switch.controller.status()["node_state"])
        switch.outage()
        switch.master.tell()
        await asyncio.sleep(600)
        assert switch.controller.no_deploy == "", "it is not known what the Node's state is now"

    play(story, **JOINED)
