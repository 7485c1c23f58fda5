"""Check what must be true when a storm is over and nothing moves any more (L1 to L3, S1, S7)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.cluster import queue_file
from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import FeatureConfig, Owner, Row, SystemState
from kubesyncd.core.state import State, classify
from tests.sim.cast import INSTALLED, MISSPELT
from tests.sim.chance import Fault
from tests.sim.switch import Broken

if TYPE_CHECKING:
    from tests.sim.switch import World


class Rest:
    """The checks of one world at rest. `master_stays_away`: its master does not come back."""

    def __init__(self, world: World, *, master_stays_away: bool) -> None:
        self._world = world
        self._master_stays_away = master_stays_away

    def check(self) -> None:
        """Raise Broken where a promise does not hold."""
        world = self._world
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
        world, boxes = self._world, self._world.engine.of(feature)
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
        world = self._world
        unit, boxes = world.people.units[feature], world.engine.of(feature)
        local = [b for b in boxes if b.runs and b.owner is Owner.LOCAL]
        kube = [b for b in boxes if b.runs and b.past_up]
        row = world.redis.rows.get(feature, Row())
        config = world.redis.configs.get(feature) or FeatureConfig()
        silent = [b for b in boxes if b.runs and b.silent]
        # An admitted one whose script gives up is left to the kubelet, too.
        kube += [b for b in boxes if b.runs and (b.silent or b.given_up) and b.id == row.docker_id]
        if len(local) + len(kube) > 1:
            raise Broken(f"S1: at rest {feature} has {len(local)} local and {len(kube)} kube containers")
        if not unit.last_verb or unit.unheard:
            # Nobody listened: the client went to Docker by itself or gave up, and the daemon cannot know.
            return
        if feature in world.plain and row == Row() and world.chance.struck[Fault.LEDGER_LOST]:
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
        lost = [b for b in boxes if b.runs and b.given_up]
        if lost and not local and not kube and config.owner is Owner.KUBE:
            raise Broken(f"L1: {feature} runs only {lost[0].id[:9]}, whose script has given up: {row}")
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
        world, key = self._world, feature_label(feature)
        config = world.redis.configs.get(feature) or FeatureConfig()
        row = world.redis.rows.get(feature, Row())
        if self._master_stays_away or key in world.refused_labels:
            return
        if row.failure and feature in world.redis.rollbacks:
            return
        local = world.engine.local(feature)
        if row.current_owner is Owner.KUBE and local is not None and local.id in world.engine.unstartable:
            # The only container that is known to run is kept, also with owner local.
            return
        wanted = "true" if world.people.units[feature].wanted and config.owner is Owner.KUBE else None
        found = world.api.labels.get(key)
        if found != wanted:
            raise Broken(f"L2: at rest the label of {feature} is {found}, not {wanted}: {row}, {config}")
