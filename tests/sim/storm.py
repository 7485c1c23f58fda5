"""Run the real daemon for one virtual hour of faults per seed, and check its promises.

Three acts: a storm of faults, operators and reboots; then the faults stop, and everything must come to rest (L1,
L2, L3); then an hour with restarts of the daemon and a `config reload`, in which nothing may happen (L4, S2, S10).
`python -m tests.sim.storm --seeds 1000 --from 1` runs many and counts every kind of fault; a failing seed tells
its story and how to replay it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from kubesyncd.cluster import queue_file
from kubesyncd.core import protocol
from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import FailurePolicy, FeatureConfig, Owner, Row, Signal, SystemState, Timing
from kubesyncd.core.node_condition import NodeCondition
from kubesyncd.core.state import State, classify
from tests.sim import loop as virtual
from tests.sim.chance import Chance, Fault
from tests.sim.engine import Box
from tests.sim.master_faults import MasterFaults
from tests.sim.switch import Broken, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from datetime import date

STORM_S = 1200.0
CALM_S_MAX = 3 * 3600.0
LOOK_S = 30.0
QUIET_S = 3600.0
SLOW_S = 45.0
# A rest is believed once nothing has happened for so long.
STILL_S = 660.0
NAMES = ("snmp", "lldp", "telemetry")
# A name of no feature, and one of a feature that is installed and uninstalled; neither has a container or a unit.
MISSPELT, INSTALLED = "snmpp", "tap"
# A run of fewer seeds says nothing of how often each kind of fault strikes.
FEW_SEEDS = 50
HITS_MIN = 100
FAULTS_PER_HOUR_MIN = 50
# How many seeds the fast tests play.
SEEDS_A_DAY = 20
# An environment variable: their first one.
SEED_FROM = "KUBESYNCD_SEED_FROM"


@dataclass(slots=True)
class Told:
    """What became of one seed."""

    seed: int
    trace: str
    struck: Counter[Fault] = field(default_factory=Counter)
    failures: tuple[str, ...] = ()
    story: str = ""
    virtual_s: float = 0.0
    effects: int = 0


class Storm:
    """One seed's run."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self.chance = Chance(self._rng, lambda: asyncio.get_running_loop().time(), seed)
        self.world = World(seed, self.chance, self._cast(), self._timing())
        # A refused label is asked for once more by the next life; that must not look like a restart's effect.
        may = Fault.API_INVALID not in self.chance.armed
        self._master_stays_away = may and self._rng.random() < 0.3

    def _timing(self) -> Timing:
        return Timing(handover_delay_s_max=600.0, crash_window_s=600.0)

    def _cast(self) -> dict[str, FeatureConfig | None]:
        """A plain local feature, the one that is always local, and one or two that kube may run."""
        cast: dict[str, FeatureConfig | None] = {"pmon": None, "database": None}
        for name in NAMES[: self._rng.randint(1, 3)]:
            cast[name] = self._config()
        return cast

    def _config(self) -> FeatureConfig:
        rng = self._rng
        return FeatureConfig(
            set_owner=rng.choice((Owner.LOCAL, Owner.KUBE, Owner.KUBE)),
            fallback=rng.random() < 0.5,
            failure_minutes=rng.choice((0, 0, 2, 10)),
            failure_policy=rng.choice((None, None, *FailurePolicy)),
        )

    @property
    def _kube_features(self) -> list[str]:
        return [f for f in self.world.features if f in NAMES]

    # ---- the three acts -------------------------------------------------------------------------

    async def run(self) -> Told:
        """All of it."""
        world = self.world
        failure = asyncio.create_task(world.failed.wait())
        acts = asyncio.create_task(self._acts())
        await asyncio.wait({failure, acts}, return_when=asyncio.FIRST_COMPLETED)
        now = asyncio.get_running_loop().time()
        if acts.done() and not acts.cancelled() and acts.exception() is not None:
            error = acts.exception()
            if not isinstance(error, Broken):
                raise error  # type: ignore[misc]
            world.fail(str(error))
        told = Told(world.seed, self.chance.trace, self.chance.struck, tuple(world.failures), virtual_s=now)
        told.story, told.effects = (self.chance.story if world.failures else ""), len(world.effects)
        return told

    async def _acts(self) -> None:
        world = self.world
        kubelet, watch = world.spawn(world.kubelet.run()), world.spawn(world.promises.watch_kubelet())
        world.start_daemon()
        for feature in world.features:
            world.people.start_unit(feature)
        await self._storm()
        await self._calm()
        await self._quiet()
        kubelet.cancel()
        watch.cancel()

    async def _storm(self) -> None:
        now = asyncio.get_running_loop().time
        until = now() + STORM_S
        async with asyncio.TaskGroup() as tasks:
            for fault, strike in self._streams().items():
                if fault in self.chance.armed:
                    tasks.create_task(self._again_and_again(fault, strike, until))
            while now() < until:
                await asyncio.sleep(self.chance.between(0.0, 2 * STORM_S / 60))
                act = self.chance.one_of(self._menu())
                tasks.create_task(act())

    async def _calm(self) -> None:
        """Faults stop, what is broken is repaired, and everything comes to rest."""
        self.chance.calm = True
        self.chance.tell("storm", "is over")
        world = self.world
        self._heal()
        now = asyncio.get_running_loop().time
        until, still_since, seen = now() + CALM_S_MAX, now(), len(world.effects)
        while now() - still_since < STILL_S:
            await asyncio.sleep(LOOK_S)
            if len(world.effects) != seen:
                still_since, seen = now(), len(world.effects)
            if now() > until:
                raise Broken(f"L1: it never comes to rest; the last effects: {world.effects[-6:]}")
        self._check_rest()

    async def _quiet(self) -> None:
        """An hour with a restart and a reload: nothing happens."""
        world, before = self.world, len(self.world.effects)
        self.chance.tell("storm", "the quiet hour begins")
        for what in self._rng.sample(("kill", "stop", "reload", "rest"), 4):
            if what == "kill":
                world.kill_daemon()
            if what == "stop":
                await world.stop_daemon()
            if what == "reload":
                await world.redis.reload(4.0)
            if what in ("kill", "stop"):
                await asyncio.sleep(3.0)
                world.start_daemon()
            await asyncio.sleep(QUIET_S / 4)
            if len(world.effects) != before:
                names = {"kill": "S2", "stop": "S2", "reload": "S10", "rest": "L4"}
                raise Broken(f"{names[what]}: in the quiet hour, after {what}: {world.effects[before:]}")
        self._check_rest()

    # ---- faults with a random stream of their own -----------------------------------------------

    def _streams(self) -> dict[Fault, Callable[[Random], Awaitable[None]]]:
        return {
            Fault.UNKNOWN_NAME: self._misspell,
            Fault.DEREGISTERED: self._deregister,
            Fault.FOREIGN_POD: self._foreign,
            Fault.UNREAD: self._unread,
            Fault.PRUNED: self._prune,
            Fault.NODE_TAINTED: self._taint,
            **MasterFaults(self.world, self._kube_features).streams(),
            Fault.STRAY_POD: self._stray,
            Fault.LEDGER_LOST: self._lose_ledger,
            Fault.FILE_UNWRITABLE: self._unwritable,
        }

    async def _again_and_again(
        self, fault: Fault, strike: Callable[[Random], Awaitable[None]], until: float
    ) -> None:
        rng = self.chance.streams[fault]
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(rng.uniform(0.0, STORM_S / 4))
            self.chance.strike(fault)
            await strike(rng)

    async def _prune(self, rng: Random) -> None:
        """The image of a feature that needs no local container now is gone for a while."""
        feature = rng.choice(self.world.features)
        self.world.engine.prune(feature)
        await asyncio.sleep(rng.uniform(5.0, 200.0))
        self.world.engine.load(feature)

    async def _taint(self, rng: Random) -> None:
        """The Node takes no pods for a while: with fallback the local container comes at once."""
        conditions = (
            NodeCondition(taints=("maintenance:NoExecute",)),
            NodeCondition(not_ready="KubeletHangs"),
        )
        self.world.api.judge(rng.choice(conditions))
        await asyncio.sleep(rng.uniform(5.0, 120.0))
        self.world.api.judge(NodeCondition())

    async def _stray(self, rng: Random) -> None:
        """A bare or static pod comes, and stays until someone deletes it, perhaps for good."""
        feature = rng.choice(self._kube_features)
        self.world.api.strays.add(feature)
        self.world.api.strayed.add(feature)
        self.world.kubelet.ring()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(10.0, 300.0))
            self.world.api.strays.discard(feature)
            self.world.kubelet.ring()
        else:
            self.world.people.stop_unit(feature)

    async def _unwritable(self, rng: Random) -> None:
        """A file is read-only, over quota or without rights for a while."""
        file = rng.choice(self.world.files)
        file.unwritable = True
        await asyncio.sleep(rng.choice((1.0, 30.0, 120.0)))
        file.unwritable = False

    async def _lose_ledger(self, rng: Random) -> None:
        """The ledger is damaged or an older copy when the daemon comes back, and STATE_DB has what it said."""
        world, boots, copy = self.world, self.world.boots, self.world.ledger_file.data
        how = rng.choice(("removed", "cut", "of another version", "of other features", "an older copy"))
        if how == "an older copy":
            await asyncio.sleep(rng.choice((1.0, 30.0, 200.0)))
        if world.life is None or world.boots != boots or world.ledger_file.stale or not self._rows_agree():
            return
        world.kill_daemon()
        data = world.ledger_file.data or b""
        lost = {
            "removed": lambda: None,
            "cut": lambda: data[:40],
            "of another version": lambda: json.dumps({**json.loads(data), "version": 99}).encode(),
            "of other features": lambda: json.dumps({**json.loads(data), "features": {}}).encode(),
            "an older copy": lambda: copy,
        }
        world.ledger_file.data = lost[how]()
        self.chance.tell("ledger", f"is {how}")
        await asyncio.sleep(rng.choice((0.0, 0.1)))
        world.start_daemon()

    def _recovered(self) -> bool:
        """Whether the ledger has again what the rows tell."""
        data = self.world.ledger_file.data or b""
        records = json.loads(data)["features"] if data.endswith(b"\n") else {}
        rows = self.world.redis.rows.items()
        told = {name: row.revision for name, row in rows if row.system_state is not SystemState.ABSENT}
        return all(
            name in records and records[name]["record"]["revision"]["number"] >= number
            for name, number in told.items()
        )

    def _rows_agree(self) -> bool:
        """Whether every feature's row tells its unit's last request, as the ledger does, and is as new."""
        redis = self.world.redis
        data = self.world.ledger_file.data or b""
        if not redis.up or not redis.writable or not data.endswith(b"\n"):
            return False
        records = {name: entry["record"] for name, entry in json.loads(data)["features"].items()}
        rows = {name: redis.rows.get(name, Row()) for name in records}
        return all(
            (rows[name].system_state, rows[name].revision)
            == (record["system_state"], record["revision"]["number"])
            for name, record in records.items()
        )

    async def _misspell(self, rng: Random) -> None:
        """A name without FEATURE row, container and unit: every verb fails."""
        verb = rng.choice(("start", "stop", "kill", "wait", "id", "resolve"))
        code = await self.world.people.ask(verb, MISSPELT, bound_s=90.0)
        if code == protocol.EXIT_DONE:
            self.world.fail(f"container {verb} {MISSPELT} succeeds, and there is no such feature")

    async def _deregister(self, rng: Random) -> None:
        """As SONiC's package manager does: the FEATURE row comes and goes, `featured` deletes STATE_DB's."""
        world, redis = self.world, self.world.redis
        redis.set_config(INSTALLED, FeatureConfig(fallback=rng.random() < 0.5))
        await asyncio.sleep(rng.choice((0.0, 1.0, 60.0)))
        for verb in rng.sample(("start", "stop", "kill"), rng.randrange(3)):
            await world.people.ask(verb, INSTALLED, bound_s=90.0)
        self._uninstall()

    async def _foreign(self, rng: Random) -> None:
        """A tenant's pod with the feature's client asks for it."""
        engine, feature = self.world.engine, rng.choice(self.world.features)
        box = Box(f"f0{len(engine.foreign):04x}".ljust(64, "0"), feature, Owner.KUBE, runs=True)
        engine.foreign[box.id] = box
        words = rng.choice((("up", "kube"), ("up", "local"), ("down",)))
        code = await self.world.people.ask("state", feature, *words, box=box, bound_s=30.0)
        if code == protocol.EXIT_DONE:
            raise Broken(f"S9: a foreign pod's container spoke for {feature} and was believed")

    async def _unread(self, rng: Random) -> None:
        engine = self.world.engine
        boxes = sorted(engine.boxes)
        if boxes:
            container_id = rng.choice(boxes)
            engine.unread.add(container_id)
            await asyncio.sleep(rng.choice((0.3, 5.0, 60.0)))
            engine.unread.discard(container_id)

    def _uninstall(self) -> None:
        redis = self.world.redis
        redis.configs.pop(INSTALLED, None)
        redis.publish(INSTALLED)
        redis.rows.pop(INSTALLED, None)
        redis.publish(INSTALLED)

    # ---- what may happen in the storm -----------------------------------------------------------

    def _menu(self) -> list[Callable[[], object]]:
        """Everything an operator or a fault may do next; armed faults only."""
        faults = {
            Fault.REDIS_DOWN: self._redis_down,
            Fault.ROW_FLUSHED: self._flush,
            Fault.RELOAD: self._reload,
            Fault.POISON: self._poison,
            Fault.DOCKER_DOWN: self._docker_down,
            Fault.DOCKER_RESTART: self._docker_restart,
            Fault.RESUBSCRIBED: self._resubscribe,
            Fault.API_DOWN: self._api_down,
            Fault.API_SILENT: lambda: self._api_trouble(Fault.API_SILENT),
            Fault.API_TLS: lambda: self._api_trouble(Fault.API_TLS),
            Fault.API_FORBIDDEN: lambda: self._api_trouble(Fault.API_FORBIDDEN),
            Fault.API_INVALID: self._refuse_label,
            Fault.DRIFT: self._drift,
            Fault.WITHDRAWN: self._withdraw,
            Fault.MASTER_DISABLED: self._disable_master,
            Fault.HOLD: self._hold,
            Fault.WALL_JUMP: self._wall_jump,
            Fault.DAEMON_KILLED: self._kill_daemon,
            Fault.DAEMON_RESTARTED: self._restart_daemon,
            Fault.EARLY_WAKE: self._early_wake,
            Fault.DISK_FULL: self._disk_full,
            Fault.BY_HAND_START: self._by_hand_start,
            Fault.BY_HAND_STOP: self._by_hand_stop,
            Fault.BY_HAND_RM: self._by_hand_rm,
            Fault.SWIZZLE: self._swizzle,
            Fault.REBOOT: self._reboot,
            Fault.ROW_REFUSED: self._rows_refused,
            Fault.REDIS_BUSY: lambda: self._redis_refuses(Fault.REDIS_BUSY),
            Fault.REDIS_LOCKED: lambda: self._redis_refuses(Fault.REDIS_LOCKED),
            Fault.LOCAL_BROKEN: self._local_broken,
            Fault.DOCKER_SLOW: self._docker_slow,
        }
        armed = [act for fault, act in faults.items() if fault in self.chance.armed]
        return [
            *armed,
            *armed,
            self._owner,
            self._owner,
            self._setting,
            self._unit,
            self._unit,
            self._label,
            self._clear,
        ]

    def _lasts(self) -> float:
        return self.chance.one_of((0.3, 3.0, 15.0, 60.0)) * self.chance.between(0.5, 2.0)

    async def _owner(self) -> None:
        feature = self.chance.one_of(self._kube_features)
        config = self.world.redis.configs.get(feature)
        if config is not None:
            other = Owner.KUBE if config.set_owner is Owner.LOCAL else Owner.LOCAL
            self.world.redis.set_config(feature, replace(config, set_owner=other))

    async def _setting(self) -> None:
        feature = self.chance.one_of(self._kube_features)
        if feature in self.world.redis.configs:
            owner = self.world.redis.configs[feature].set_owner
            self.world.redis.set_config(feature, replace(self._config(), set_owner=owner))

    async def _unit(self) -> None:
        feature, people = self.chance.one_of(self.world.features), self.world.people
        if people.units[feature].wanted:
            people.stop_unit(feature, self.chance.one_of(("stop", "stop", "kill")))
        if self.chance.rng.random() < 0.7:
            await asyncio.sleep(self.chance.one_of((0.0, 1.0, 30.0, 120.0)))
            people.start_unit(feature)

    async def _label(self) -> None:
        """One label, or several of one key in a hurry: the later ones come while the first is under way."""
        key = self.chance.one_of(("rack", "row"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.chance.one_of((1, 1, 2, 4))):
                tasks.create_task(self._label_once(key))
                await asyncio.sleep(self.chance.between(0.0, 3.0))

    async def _label_once(self, key: str) -> None:
        value = self.chance.one_of((None, "a", "b", "c"))
        asked = self.world.promises.label_asked(key, value)
        text = f"{key}-" if value is None else f"{key}={value}"
        sent = partial(self.world.promises.label_sent, asked)
        code = await self.world.people.ask("label", text, bound_s=30.0, sent=sent)
        self.world.promises.label_answered(asked, accepted=code == protocol.EXIT_DONE)

    async def _clear(self) -> None:
        await self.world.people.ask("clear", self.chance.one_of(self._kube_features), bound_s=30.0)

    async def _redis_down(self) -> None:
        self.chance.strike(Fault.REDIS_DOWN)
        self.world.redis.up = False
        self.world.redis.cut()
        await asyncio.sleep(self._lasts())
        self.world.redis.up = True

    async def _flush(self) -> None:
        if self.chance.struck[Fault.LEDGER_LOST] and not self._recovered():
            return  # with neither ledger nor row, nothing tells a stopped unit from one that is up
        self.chance.strike(Fault.ROW_FLUSHED)
        self.world.redis.flush_state()

    async def _reload(self) -> None:
        if self.world.redis.initialized:
            self.chance.strike(Fault.RELOAD)
            await self.world.redis.reload(self._lasts())

    async def _poison(self) -> None:
        feature = self.chance.one_of(self._kube_features)
        self.chance.strike(Fault.POISON, feature)
        self.world.redis.poisoned[feature] = "set_owner='x' is not one of local|kube"
        self.world.redis.publish(feature)
        await asyncio.sleep(self._lasts())
        self.world.redis.poisoned.pop(feature, None)
        self.world.redis.publish(feature)

    async def _docker_down(self) -> None:
        self.chance.strike(Fault.DOCKER_DOWN)
        self.world.engine.up = False
        self.world.engine.cut()
        await asyncio.sleep(self._lasts())
        self.world.engine.up = True

    async def _docker_slow(self) -> None:
        self.chance.strike(Fault.DOCKER_SLOW)
        self.world.engine.slow_s = SLOW_S
        await asyncio.sleep(self._lasts())
        self.world.engine.slow_s = 0.0

    async def _rows_refused(self) -> None:
        self.chance.strike(Fault.ROW_REFUSED)
        self.world.redis.writable = False
        await asyncio.sleep(self._lasts())
        self.world.redis.writable = True

    async def _redis_refuses(self, fault: Fault) -> None:
        """Every command is refused; the subscription stays, and a look notices the end within 2 s."""
        self.chance.strike(fault)
        redis = self.world.redis
        redis.refused.add(fault)
        await asyncio.sleep(self._lasts())
        redis.refused.discard(fault)
        await asyncio.sleep(2.0)
        if not redis.refused:
            redis.publish(Signal.GAP)

    async def _local_broken(self) -> None:
        feature = self.chance.one_of(self.world.features)
        self.chance.strike(Fault.LOCAL_BROKEN, feature)
        self.world.engine.broken.add(feature)
        await asyncio.sleep(self._lasts() * 5)
        self.world.engine.broken.discard(feature)

    async def _docker_restart(self) -> None:
        self.chance.strike(Fault.DOCKER_RESTART)
        self.world.engine.cut()
        self.world.engine.restart()
        self.world.engine.start_by_policy()

    async def _resubscribe(self) -> None:
        self.chance.strike(Fault.RESUBSCRIBED)
        self.chance.one_of((self.world.redis.cut, self.world.engine.cut, self.world.api.cut))()

    async def _api_down(self) -> None:
        self.chance.strike(Fault.API_DOWN)
        self.world.api.up = False
        self.world.api.cut()
        await asyncio.sleep(self._lasts() * 2)
        self.world.api.up = True
        self.world.kubelet.ring()

    async def _api_trouble(self, fault: Fault) -> None:
        self.chance.strike(fault)
        self.world.api.trouble = fault
        if fault is not Fault.API_SILENT:
            self.world.api.cut()
        await asyncio.sleep(self._lasts() * 2)
        if self.world.api.trouble is fault:
            self.world.api.trouble = None
            self.world.api.cut()
            self.world.kubelet.ring()

    async def _refuse_label(self) -> None:
        key = feature_label(self.chance.one_of(self._kube_features))
        self.world.refused_labels.add(key)

    async def _drift(self) -> None:
        if self._master_stays_away and not self.world.api.reachable:
            return  # The daemon might never hear of it, and would end what the kubelet brings again and again.
        key = feature_label(self.chance.one_of(self._kube_features))
        value = None if key in self.world.api.labels else "true"
        self.chance.strike(Fault.DRIFT, key)
        self.world.api.set({key: value}, "another client")

    async def _withdraw(self) -> None:
        feature = self.chance.one_of(self._kube_features)
        self.chance.strike(Fault.WITHDRAWN, feature)
        self.world.api.withdrawn.add(feature)
        self.world.kubelet.ring()
        await asyncio.sleep(self._lasts() * 5)
        self.world.api.withdrawn.discard(feature)
        self.world.kubelet.ring()

    async def _disable_master(self) -> None:
        redis = self.world.redis
        if redis.initialized and not redis.master.disable:
            self.chance.strike(Fault.MASTER_DISABLED)
            redis.set_master(replace(redis.master, disable=True))
            await asyncio.sleep(self._lasts() * 2)
            while not redis.initialized:
                await asyncio.sleep(1.0)
            redis.set_master(replace(redis.master, disable=False))

    async def _hold(self) -> None:
        self.chance.strike(Fault.HOLD)
        self.world.hold = True
        await asyncio.sleep(self._lasts() * 2)
        self.world.hold = False

    async def _wall_jump(self) -> None:
        self.chance.strike(Fault.WALL_JUMP)
        self.world.skew_s += self.chance.one_of((-3600.0, 3600.0))

    async def _kill_daemon(self) -> None:
        if self.world.ledger_file.stale:
            return  # the daemon says in an alert that a restart would forget
        self.chance.strike(Fault.DAEMON_KILLED)
        self.world.kill_daemon()
        await asyncio.sleep(self.chance.one_of((0.1, 1.0, 30.0)))
        self.world.start_daemon()

    async def _restart_daemon(self) -> None:
        if self.world.ledger_file.stale:
            return
        self.chance.strike(Fault.DAEMON_RESTARTED)
        await self.world.stop_daemon()
        await asyncio.sleep(self.chance.one_of((0.1, 1.0)))
        self.world.start_daemon()

    async def _early_wake(self) -> None:
        self.chance.strike(Fault.EARLY_WAKE)
        for stream in (*self.world.redis.streams, *self.world.engine.streams):
            stream.put(self.chance.one_of(self.world.features))

    async def _disk_full(self) -> None:
        self.chance.strike(Fault.DISK_FULL)
        self.world.disk_full = True
        await asyncio.sleep(self._lasts())
        self.world.disk_full = False

    async def _by_hand_start(self) -> None:
        box = self.world.engine.local(self.chance.one_of(self.world.features))
        if box is not None and not box.runs and self.world.engine.up:
            self.chance.strike(Fault.BY_HAND_START, box.feature)
            self.world.engine.start(box, by_hand=True)

    async def _by_hand_stop(self) -> None:
        boxes = [b for b in self.world.engine.boxes.values() if b.runs]
        if boxes and self.world.engine.up:
            box = self.chance.one_of(boxes)
            self.chance.strike(Fault.BY_HAND_STOP, box.feature)
            await self.world.engine.stop(box, 10.0)

    async def _by_hand_rm(self) -> None:
        boxes = list(self.world.engine.boxes.values())
        if boxes and self.world.engine.up:
            box = self.chance.one_of(boxes)
            self.chance.strike(Fault.BY_HAND_RM, box.feature)
            self.world.engine.destroy(box)

    async def _swizzle(self) -> None:
        """FoundationDB's swizzle-clogging: one by one, and back in another order."""
        self.chance.strike(Fault.SWIZZLE)
        lasts = {name: self.chance.between(1.0, 40.0) for name in ("redis", "docker", "api")}
        for name in self._rng.sample(sorted(lasts), 3):
            self.world.spawn(self._clog(name, lasts[name]))
            await asyncio.sleep(self.chance.between(0.0, 5.0))

    async def _clog(self, name: str, seconds: float) -> None:
        part = {"redis": self.world.redis, "docker": self.world.engine, "api": self.world.api}[name]
        part.up = False
        part.cut()
        await asyncio.sleep(seconds)
        part.up = True

    async def _reboot(self) -> None:
        self.world.reboot()

    # ---- the end --------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        world.redis.up = world.redis.writable = world.engine.up = True
        world.redis.refused.clear()
        world.engine.slow_s = 0.0
        world.engine.broken.clear()
        world.api.up = not self._master_stays_away
        if self._master_stays_away:
            world.api.cut()
        world.api.trouble, world.disk_full, world.hold = None, False, False
        for file in world.files:
            file.unwritable = False
        world.api.judge(None)
        world.redis.poisoned.clear()
        world.engine.unread.clear()
        for feature in sorted(world.engine.pruned):
            world.engine.load(feature)
        if Fault.WITHDRAWN in self.chance.armed:
            # Not a fault: kube does not return, and a feature with fallback must fall back.
            world.api.withdrawn.add(self.chance.one_of(self._kube_features))
        # A reload of CONFIG_DB that was under way has brought the row back.
        self._uninstall()
        world.start_daemon()
        world.promises.calm_since = asyncio.get_running_loop().time()
        for feature in self._kube_features:
            world.redis.publish(feature)
        world.kubelet.ring()

    def _check_rest(self) -> None:
        world = self.world
        for feature in world.features:
            self._check_feature(feature)
        for name in (MISSPELT, INSTALLED):
            kept = name in json.loads(world.ledger_file.data or '{"features": {}}')["features"]
            if kept or world.redis.rows.get(name, Row()) != Row():
                raise Broken(f"{name} does not exist, and the daemon keeps it: {world.redis.rows.get(name)}")
        queue, _ = queue_file.decode(world.labels_file.data)
        if tuple(map(str, queue.changes)) != world.redis.pending:
            raise Broken(f"L2: STATE_DB says {world.redis.pending}, the queue holds {queue.changes}")
        if world.kubelet.active is bool(queue.failed):
            raise Broken(f"L2: the kubelet runs: {world.kubelet.active}; labels that failed: {queue.failed}")
        if not self._master_stays_away:
            if queue.pending:
                raise Broken(f"L2: labels are pending at rest: {world.redis.pending}")
            world.promises.labels_at_rest()

    def _check_stopped(self, feature: str, row: Row) -> None:
        world, boxes = self.world, self.world.engine.of(feature)
        local = [b for b in boxes if b.runs and b.owner is Owner.LOCAL]
        if world.life is not None and any(world.life.docker.by_policy(b) for b in local):
            raise Broken(f"S7: at rest the unit of {feature} is stopped, and Docker's start of {local} holds")
        blocked = [b for b in boxes if b.runs and b.owner is Owner.KUBE]
        if feature in (world.api.strayed if self._master_stays_away else world.api.strays):
            # Its pod comes back without end, and waits at the gate. A kubelet without a master keeps it.
            blocked = [b for b in blocked if b.past_up]
        if row.system_state is not SystemState.DOWN or blocked:
            raise Broken(f"S7: at rest the unit of {feature} is stopped, the row says {row}, kube: {blocked}")

    def _check_feature(self, feature: str) -> None:
        world = self.world
        unit, boxes = world.people.units[feature], world.engine.of(feature)
        local = [b for b in boxes if b.runs and b.owner is Owner.LOCAL]
        kube = [b for b in boxes if b.runs and b.past_up]
        row = world.redis.rows.get(feature, Row())
        config = world.redis.configs.get(feature) or FeatureConfig()
        silent = [b for b in boxes if b.runs and b.silent]
        kube += [b for b in silent if b.id == row.docker_id]
        if len(local) + len(kube) > 1:
            raise Broken(f"S1: at rest {feature} has {len(local)} local and {len(kube)} kube containers")
        if not unit.last_verb or unit.unheard:
            # Nobody listened: the client went to Docker by itself or gave up, and the daemon cannot know.
            return
        if feature in world.plain and row == Row() and self.chance.struck[Fault.LEDGER_LOST]:
            # Without a FEATURE row, a feature that a lost ledger had is known again with its next verb.
            return
        self._check_label(feature)
        if not unit.wanted:
            self._check_stopped(feature, row)
            return
        if not local and not kube and config.fallback and world.engine.local(feature) is not None:
            raise Broken(f"L3: {feature} falls back to local, and nothing runs: {row}")
        if silent and not local and not kube and config.owner is Owner.KUBE:
            raise Broken(
                f"L1: {feature} runs only {silent[0].id[:9]}, which has no gate, and it owns nothing: {row}"
            )
        shown = (row.current_owner, row.docker_id)
        truth = (
            (Owner.KUBE, kube[0].id) if kube else (Owner.LOCAL, local[0].id) if local else (Owner.NONE, "")
        )
        if shown != truth:
            raise Broken(f"L1: the row of {feature} says {shown}, Docker says {truth}")
        state = classify(row, config.owner, local_exited=False)
        if state not in (State.LOCAL, State.KUBE_RUNNING, State.KUBE_READY, State.STARTING):
            raise Broken(f"L1: {feature} comes to rest in {state}")
        if state is State.STARTING and world.engine.local(feature) is not None:
            raise Broken(f"L1: {feature} has a local container, and comes to rest in {state}")

    def _check_label(self, feature: str) -> None:
        """The master has the label that says who should run it; a failed feature's may be rolled back."""
        world, key = self.world, feature_label(feature)
        config = world.redis.configs.get(feature) or FeatureConfig()
        row = world.redis.rows.get(feature, Row())
        if self._master_stays_away or key in world.refused_labels:
            return
        if row.failure and feature in world.redis.rollbacks:
            return
        wanted = "true" if world.people.units[feature].wanted and config.owner is Owner.KUBE else None
        found = world.api.labels.get(key)
        if found != wanted:
            raise Broken(f"L2: at rest the label of {feature} is {found}, not {wanted}: {row}, {config}")


def seeds_of_the_day(today: date | None = None) -> range:
    """The seeds that the fast tests play today (UTC), or those that SEED_FROM asks for."""
    if first := os.environ.get(SEED_FROM):
        return range(int(first), int(first) + SEEDS_A_DAY)
    today = today or datetime.now(UTC).date()
    # Beyond those that the deep tier plays.
    first_of_today = 10_000 + (today.toordinal() % 10_000) * SEEDS_A_DAY
    return range(first_of_today, first_of_today + SEEDS_A_DAY)


def play(seed: int) -> Told:
    """One seed, once."""
    storm = Storm(seed)
    try:
        return virtual.run(storm.run(), seed)
    except virtual.Deadlock as deadlock:
        return Told(
            seed, storm.chance.trace, storm.chance.struck, (f"deadlock: {deadlock}",), storm.chance.story
        )


def play_twice(seed: int) -> Told:
    """One seed; a second run must tell the very same story."""
    told, again = play(seed), play(seed)
    if told.trace != again.trace:
        told.failures += (
            f"the second run of the same seed tells another story: {told.trace}, {again.trace}",
        )
    return told


def shown(told: Told) -> str:
    """A failing seed's story and the command that replays it."""
    head = "\n".join(told.failures)
    replay = f"replay: make storm SEEDS=1 SEED_FROM={told.seed}"
    return f"{told.story}\n\nseed {told.seed}: {head}\n{replay}\n"


def lulls(seeds: int, hours: float, struck: Counter[Fault]) -> list[str]:
    """Why so many seeds prove less than they should: kinds of faults that hardly ever struck, and too few in all."""
    if seeds < FEW_SEEDS:
        return []
    least = min(HITS_MIN, seeds // 50)
    found = [
        f"it struck {struck[fault]} times, not {least}: {fault.value}"
        for fault in Fault
        if struck[fault] < least
    ]
    if struck.total() < FAULTS_PER_HOUR_MIN * hours:
        found.append(f"there were {struck.total() / hours:.0f} faults an hour, not {FAULTS_PER_HOUR_MIN}")
    return found


def play_many(first: int, count: int, processes: int) -> Iterator[Told]:
    """Many seeds, on some processes."""
    if processes < 2:
        yield from map(play_twice, range(first, first + count))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(play_twice, range(first, first + count), chunksize=4)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make storm", description="Storms over the real daemon, by seed.")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failing seed")
    chosen = parser.parse_args(argv)
    begun, struck, hours, failed, effects = time.monotonic(), Counter[Fault](), 0.0, [], 0
    for told in play_many(chosen.first, chosen.seeds, min(chosen.processes, chosen.seeds)):
        struck += told.struck
        hours += told.virtual_s / 3600
        effects += told.effects
        if told.failures:
            failed.append(told.seed)
            print(shown(told) if not chosen.keep_going else f"seed {told.seed}: {told.failures[0][:200]}")
            if not chosen.keep_going:
                break
    took_s = time.monotonic() - begun
    for fault in sorted(Fault, key=lambda f: -struck[f]):
        print(f"{struck[fault]:8} {fault.value}")
    faults = f"{struck.total()} faults ({struck.total() / hours:.0f} an hour)"
    print(
        f"{chosen.seeds} seeds, {hours:.0f} virtual hours, {faults}, {effects} effects of the daemon, {took_s:.0f} s"
    )
    spared = lulls(chosen.seeds, hours, struck)
    print(f"failed: {failed or 'none'}" + "".join(f"; {lull}" for lull in spared))
    return 1 if failed or spared else 0


if __name__ == "__main__":
    sys.exit(main())
