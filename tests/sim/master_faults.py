"""Do to the master, the Node and its labels what happens to them: outages, deletion, an older store, other clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core.labels import feature_label
from kubesyncd.core.node_condition import NodeCondition
from tests.sim.cast import kube_features
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from random import Random

    from tests.sim.chance import Act, Strike
    from tests.sim.switch import World

# Between two of the other client's looks at a contested label.
LOOK_S = 1.5
# So often one life of the daemon may put a contested label back within CONTEST_S.
PUT_BACK_MAX = 20
CONTEST_S = 120.0
DENIED = "tier"


class MasterFaults:
    """The faults of one world. `stays_away`: its master does not come back when the storm is over."""

    def __init__(self, world: World, *, stays_away: bool) -> None:
        self._world = world
        self._api = world.api
        self._chance = world.chance
        self._features = kube_features(world)
        self._stays_away = stays_away

    def acts(self) -> dict[Fault, Act]:
        """Return each kind that draws from the storm's own random stream."""
        return {
            Fault.API_DOWN: self._down,
            Fault.API_SILENT: partial(self._trouble, Fault.API_SILENT),
            Fault.API_TLS: partial(self._trouble, Fault.API_TLS),
            Fault.API_FORBIDDEN: partial(self._trouble, Fault.API_FORBIDDEN),
            Fault.API_INVALID: self._refuse_label,
            Fault.DRIFT: self._drift,
            Fault.WITHDRAWN: self._withdraw,
            Fault.MASTER_DISABLED: self._disable,
        }

    def streams(self) -> dict[Fault, Strike]:
        """Return each kind with a random stream of its own."""
        return {
            Fault.NODE_TAINTED: self._taint,
            Fault.NODE_DELETED: self._delete,
            Fault.STORE_OLDER: self._restore,
            Fault.CONTESTED: self._contest,
            Fault.LABEL_DENIED: self._deny,
            Fault.HOST_RENAMED: self._rename,
            Fault.STRAY_POD: self._stray,
        }

    def heal(self) -> None:
        """End every fault, but for a master that stays away, and a manifest that stays withdrawn."""
        self._api.up = not self._stays_away
        if self._stays_away:
            self._api.cut()
        self._api.trouble = None
        self._api.judge(None)
        if Fault.WITHDRAWN in self._chance.armed:
            # Not a fault: kube does not return, and a feature with fallback must fall back.
            self._api.withdrawn.add(self._chance.one_of(self._features))

    async def _down(self) -> None:
        self._chance.strike(Fault.API_DOWN)
        self._api.up = False
        self._api.cut()
        await asyncio.sleep(self._chance.lasts_s() * 2)
        self._api.up = True
        self._world.kubelet.ring()

    async def _trouble(self, fault: Fault) -> None:
        self._chance.strike(fault)
        self._api.trouble = fault
        if fault is not Fault.API_SILENT:
            self._api.cut()
        await asyncio.sleep(self._chance.lasts_s() * 2)
        if self._api.trouble is fault:
            self._api.trouble = None
            self._api.cut()
            self._world.kubelet.ring()

    async def _refuse_label(self) -> None:
        key = feature_label(self._chance.one_of(self._features))
        self._world.refused_labels.add(key)

    async def _drift(self) -> None:
        if self._stays_away and not self._api.reachable:
            return  # The daemon might never hear of it, and would end what the kubelet brings again and again.
        key = feature_label(self._chance.one_of(self._features))
        value = None if key in self._api.labels else "true"
        self._chance.strike(Fault.DRIFT, key)
        self._api.set({key: value}, "another client")

    async def _withdraw(self) -> None:
        feature = self._chance.one_of(self._features)
        self._chance.strike(Fault.WITHDRAWN, feature)
        self._api.withdrawn.add(feature)
        self._world.kubelet.ring()
        await asyncio.sleep(self._chance.lasts_s() * 5)
        self._api.withdrawn.discard(feature)
        self._world.kubelet.ring()

    async def _disable(self) -> None:
        redis = self._world.redis
        if redis.initialized and not redis.master.disable:
            self._chance.strike(Fault.MASTER_DISABLED)
            redis.set_master(replace(redis.master, disable=True))
            await asyncio.sleep(self._chance.lasts_s() * 2)
            while not redis.initialized:
                await asyncio.sleep(1.0)
            redis.set_master(replace(redis.master, disable=False))

    async def _taint(self, rng: Random) -> None:
        """The Node takes no pods for a while: with fallback the local container comes at once."""
        conditions = (
            NodeCondition(taints=("maintenance:NoExecute",)),
            NodeCondition(not_ready="KubeletHangs"),
        )
        self._api.judge(rng.choice(conditions))
        await asyncio.sleep(rng.uniform(5.0, 120.0))
        self._api.judge(NodeCondition())

    async def _delete(self, _: Random) -> None:
        """kubectl delete node: its labels go with it, and only a kubelet that starts registers it again."""
        if self._api.reachable:
            self._api.delete()

    async def _restore(self, rng: Random) -> None:
        """A standby takes over the address, or a backup is restored: the Node is as it was a while ago."""
        self._api.back_up()
        await asyncio.sleep(rng.choice((5.0, 60.0, 300.0)))
        if self._api.reachable:
            self._api.restore()

    async def _contest(self, rng: Random) -> None:
        """Another controller keeps removing a feature's label."""
        key = feature_label(rng.choice(self._features))
        put_back: Counter[int] = Counter()
        until = asyncio.get_running_loop().time() + CONTEST_S
        while asyncio.get_running_loop().time() < until:
            if self._api.reachable and self._api.labels.get(key) == "true":
                put_back[self._world.lives] += 1
                self._api.set({key: None}, "another controller")
            await asyncio.sleep(LOOK_S)
        most = max(put_back.values(), default=0)
        if most > PUT_BACK_MAX:
            self._world.fail(f"{key} is put back {most} times in {CONTEST_S:.0f} s, against a controller")

    async def _deny(self, rng: Random) -> None:
        """An admission webhook denies one label of operators; the others go and the kubelet stays."""
        self._world.refused_labels.add(DENIED)
        await self._world.people.ask("label", f"{DENIED}={rng.choice('abc')}", bound_s=30.0)

    async def _rename(self, rng: Random) -> None:
        """`config hostname`: the node keeps its name, and nothing is started or stopped for it."""
        self._world.names.changed = rng.choice(("", "the switch is named leaf1 now; config kube join -f"))

    async def _stray(self, rng: Random) -> None:
        """A bare or static pod comes, and stays until someone deletes it, perhaps for good."""
        feature = rng.choice(self._features)
        self._api.strays.add(feature)
        self._api.strayed.add(feature)
        self._world.kubelet.ring()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(10.0, 300.0))
            self._api.strays.discard(feature)
            self._world.kubelet.ring()
        else:
            self._world.people.stop_unit(feature)
