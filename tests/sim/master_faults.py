"""Do to the Node and its labels what happens on a master: deletion, an older store, other clients, denied labels.

Each kind draws from a random stream of its own, see chance.OWN_STREAM.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from kubesyncd.core.labels import feature_label
from tests.sim.chance import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from tests.sim.switch import World

# Between two of the other client's looks at a contested label.
LOOK_S = 1.5
# So often one life of the daemon may put a contested label back within CONTEST_S.
PUT_BACK_MAX = 20
CONTEST_S = 120.0
REWRITTEN_S = 0.2
DENIED = "tier"


class MasterFaults:
    """The faults of one world. `features`: those that kube may run."""

    def __init__(self, world: World, features: Sequence[str]) -> None:
        self._world = world
        self._features = features

    def streams(self) -> dict[Fault, Callable[[Random], Awaitable[None]]]:
        """Return each kind and what it does."""
        return {
            Fault.NODE_DELETED: self._delete,
            Fault.STORE_OLDER: self._restore,
            Fault.CONTESTED: self._contest,
            Fault.LABEL_DENIED: self._deny,
            Fault.HOST_RENAMED: self._rename,
            Fault.ROW_REWRITTEN: self._rewrite,
        }

    async def _delete(self, _: Random) -> None:
        """kubectl delete node: its labels go with it, and only a kubelet that starts registers it again."""
        if self._world.api.reachable:
            self._world.api.delete()

    async def _restore(self, rng: Random) -> None:
        """A standby takes over the address, or a backup is restored: the Node is as it was a while ago."""
        api = self._world.api
        api.back_up()
        await asyncio.sleep(rng.choice((5.0, 60.0, 300.0)))
        if api.reachable:
            api.restore()

    async def _contest(self, rng: Random) -> None:
        """Another controller keeps removing a feature's label."""
        api, key = self._world.api, feature_label(rng.choice(self._features))
        put_back: Counter[int] = Counter()
        until = asyncio.get_running_loop().time() + CONTEST_S
        while asyncio.get_running_loop().time() < until:
            if api.reachable and api.labels.get(key) == "true":
                put_back[self._world.lives] += 1
                api.set({key: None}, "another controller")
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

    async def _rewrite(self, rng: Random) -> None:
        """A package upgrade deletes a FEATURE row and writes it again."""
        redis, feature = self._world.redis, rng.choice(self._features)
        config = redis.configs.get(feature)
        if config is None or not redis.initialized:
            return
        del redis.configs[feature]
        redis.publish(feature)
        await asyncio.sleep(REWRITTEN_S)
        redis.configs.setdefault(feature, config)
        redis.publish(feature)
