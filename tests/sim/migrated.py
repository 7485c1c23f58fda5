"""Begin some storms on a switch where another program, ctrmgrd, has run features until the daemon's first start.

Its units wait by its own program, which follows one container; its rows have no number.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import SHORT_ID, Mode, Owner, Row, SystemState
from tests.sim.cast import kube_features

if TYPE_CHECKING:
    from tests.sim.switch import World

SHARE = 0.2


def begin(world: World) -> frozenset[str]:
    """Let ctrmgrd run some features of some switches; return which."""
    rng = Random(f"{world.seed}/migrated")
    if rng.random() >= SHARE:
        return frozenset()
    found = frozenset(name for name in ("pmon", *kube_features(world)) if rng.random() < 0.7)
    for feature in sorted(found):
        config = world.redis.configs.get(feature)
        by_kube = config is not None and config.owner is Owner.KUBE and rng.random() < 0.7
        local, owner = world.engine.create(feature, Owner.LOCAL), Owner.KUBE if by_kube else Owner.LOCAL
        box = world.engine.create(feature, owner) if by_kube else local
        if by_kube:
            world.api.labels[feature_label(feature)] = "true"
        world.engine.start(box)
        world.redis.rows[feature] = Row(
            SystemState.UP,
            owner,
            Mode.READY if by_kube else Mode.NONE,
            box.id[:SHORT_ID] if by_kube else "",
            int(world.wall()),
        )
        world.people.follow(feature, box)
        world.chance.tell("ctrmgrd", f"{feature} is run by {owner}")
    return found
