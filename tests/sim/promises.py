"""Check every promise of spec section 7 at every moment of a run, and report what is broken.

Knows what the switch really is (the engines, the master, who asked what), never what the daemon believes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from kubesyncd.core import protocol
from kubesyncd.core.labels import feature_label
from kubesyncd.core.model import Owner
from tests.sim.engine import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.core.model import FeatureConfig
    from tests.sim.engine import Box
    from tests.sim.people import Unit
    from tests.sim.switch import World


@dataclass(slots=True)
class Asked:
    """One label command: its value, when it began, when it had surely arrived, and whether it was accepted."""

    value: str | None
    begun: float
    arrived: float = inf
    accepted: bool = False


# How long after its last byte a request has surely been read.
READ_S = 1.0
# What happened before the storm was over may have gone unnoticed until the next audit.
UNNOTICED_S = 61.0
SLACK_S = 1.5
AT_ONCE_S = 1.0
EARLY_S = 1.0
# For at least so long a verb waits for what does not answer.
PATIENCE_S = 9.0
# A kube container that has run for so long is known to have stayed up, whatever was away meanwhile.
LASTED_S = 300.0
# How long the kubelet may run on after something bars it: until the next audit, and what that one is busy with.
KUBELET_STOPS_S = 65.0
KUBELET_LOOK_S = 10.0
HELD = "a reboot has been prepared"
DISABLED = "the master has been disabled"
LABEL_FAILED = "a label has failed to reach the master"


class Promises:
    """The checks that are made while things happen; the ones at rest are `storm`'s."""

    def __init__(self, world: World) -> None:
        self._world = world
        # By the last verb that was carried out, as far as no other is under way.
        self._down: dict[str, bool] = {}
        self._up: dict[str, bool] = {}
        self._idle_since: dict[str, float] = {}
        # Kube containers past `state up`, and features whose last one had run for long and without a start since.
        self._past_up_at: dict[str, float] = {}
        self._lasted_until: dict[str, float] = {}
        self._gave_up_at: dict[str, float] = {}
        # Features that have had a container without the gate: when it became the owner is the daemon's word.
        self.ungated: set[str] = set()
        self.calm_since: float | None = None
        self._labels: dict[str, list[Asked]] = {}
        self._applied: dict[str, float] = {}
        # What bars the kubelet, since when; and since when the daemon has been able to know it and to act on it.
        self._bars: dict[str, float] = {}
        self._able_since = 0.0

    def _broken(self, what: str) -> None:
        self._world.fail(what)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- S1, S7 ---------------------------------------------------------------------------------

    def started(self, box: Box) -> None:
        """A container runs."""
        self._one_at_a_time(box.feature)
        if box.owner is Owner.LOCAL:
            self._idle_since.pop(box.feature, None)
            self._lasted_until.pop(box.feature, None)

    def ended(self, box: Box) -> None:
        """A container has ended."""
        past_up_at = self._past_up_at.pop(box.id, None)
        if past_up_at is not None and self._now() - past_up_at >= LASTED_S:
            self._lasted_until[box.feature] = self._now()
        past = [
            b for b in self._world.engine.of(box.feature) if b.runs and (b.owner is Owner.LOCAL or b.past_up)
        ]
        if not past:
            self._idle_since.setdefault(box.feature, self._now())

    def past_up(self, box: Box) -> None:
        """A kube container's `up kube` has returned 0."""
        if not box.runs:
            return
        box.past_up = True
        self._idle_since.pop(box.feature, None)
        self._lasted_until.pop(box.feature, None)
        self._past_up_at[box.id] = self._now()
        self._world.chance.tell("kube", f"{box.id[:9]} of {box.feature} is past `state up`")
        self._one_at_a_time(box.feature)
        if self._down.get(box.feature):
            self._broken(f"S7: {box.feature} is down, and a kube container passed `state up`")

    def ledger_lost(self) -> None:
        """The daemon does not know any more for how long a container has run: it counts from here."""
        self._past_up_at = dict.fromkeys(self._past_up_at, self._now())

    def _one_at_a_time(self, feature: str) -> None:
        past = [b for b in self._world.engine.of(feature) if b.runs and not b.by_hand]
        past = [b for b in past if b.owner is Owner.LOCAL or b.past_up]
        if len(past) > 1:
            self._broken(f"S1: {feature} has {len(past)} containers past `state up`")

    def may_start(self, box: Box) -> None:
        """The daemon starts a container."""
        if self._down.get(box.feature):
            self._broken(f"S7: the unit of {box.feature} is down, and its container is started")
        self._in_time(box.feature)
        given_up_s = self._now() - self._gave_up_at.get(box.feature, -inf)
        if box.owner is Owner.LOCAL and self.calm_since is not None and given_up_s < AT_ONCE_S:
            self._broken(f"S6: wait of {box.feature} gave up while its local container was about to start")

    def _in_time(self, feature: str) -> None:
        """L3: once faults have stopped, the local container is back to the second."""
        config, idle_since = self._world.redis.configs.get(feature), self._idle_since.get(feature)
        if self.calm_since is None or config is None or idle_since is None or feature in self.ungated:
            return
        # A call that Docker did not answer while it was silent may be waited for until its deadline.
        noticed = (
            max(idle_since, self.calm_since + DEADLINE_S)
            if idle_since > self.calm_since
            else self.calm_since + UNNOTICED_S
        )
        late_s = self._now() - noticed - self._world.timing.fallback_after_s
        if config.owner is Owner.KUBE and config.fallback and late_s > SLACK_S:
            self._broken(f"L3: the local container of {feature} comes back {late_s:.1f} s late")
        self._in_patience(feature, config)

    def _in_patience(self, feature: str, config: FeatureConfig) -> None:
        """L3: nor does it come back sooner, where kube's container had been well and nothing has failed."""
        lasted_until, row = self._lasted_until.get(feature), self._world.redis.rows.get(feature)
        failed = row is None or bool(row.failure)
        if failed or config.owner is not Owner.KUBE or self.calm_since is None or lasted_until is None:
            return
        early_s = self._world.timing.fallback_after_s - (self._now() - lasted_until)
        if lasted_until > self.calm_since and early_s > EARLY_S:
            self._broken(f"L3: the local container of {feature} comes back {early_s:.1f} s early")

    def may_end(self, box: Box) -> None:
        """The daemon ends a container."""
        plain = box.feature in self._world.plain
        if plain and box.owner is Owner.LOCAL and self._up.get(box.feature):
            self._broken(f"S3: the container of {box.feature} is ended without a request")
        pruned_s = self._now() - self._world.engine.pruned_at.get(box.feature, inf)
        known = box.feature in self._world.engine.pruned and pruned_s > UNNOTICED_S + DEADLINE_S
        only = box.past_up and self._up.get(box.feature) and self._world.engine.local(box.feature) is None
        if known and only:
            self._broken(f"the only container of {box.feature} is ended, and its image does not exist")

    # ---- verbs ----------------------------------------------------------------------------------

    def asked(self, unit: Unit, verb: str) -> None:
        """A unit sends a verb."""
        unit.last_verb, unit.asked_at = verb, self._now()
        self._lasted_until.pop(unit.feature, None)
        if verb == "start" and unit.feature in self._idle_since:
            self._idle_since[unit.feature] = self._now()
        self._down[unit.feature] = self._up[unit.feature] = False

    def done(self, unit: Unit, verb: str, code: int) -> None:
        """A unit's verb has returned."""
        if verb == "start" and code == protocol.EXIT_UNAVAILABLE and not unit.unheard:
            self._waited_for_redis(unit)
        if code == protocol.EXIT_DONE and unit.last_verb == verb and not unit.unheard:
            self._up[unit.feature] = verb == "start"
            self._down[unit.feature] = verb != "start"

    def _waited_for_redis(self, unit: Unit) -> None:
        """A start does not fail at once for an outage of Redis that may pass in a moment."""
        locked = self._world.redis.locked_at >= unit.asked_at - UNNOTICED_S
        if not locked and self._now() - unit.asked_at < PATIENCE_S:
            self._broken(
                f"verb: start of {unit.feature} fails at once, and what it needs may be back in a moment"
            )

    def rebooted(self) -> None:
        """Nothing that was asked before counts."""
        self._down.clear()
        self._up.clear()

    # ---- S6 -------------------------------------------------------------------------------------

    def wait_returned(self, unit: Unit, code: int, since: float) -> None:
        """`container wait`, asked at `since`, has returned to systemd."""
        for box in self._world.engine.of(unit.feature):
            if box.runs and box.past_up:
                self._broken(f"S6: wait of {unit.feature} returned {code} while kube runs it")
        local = self._world.engine.local(unit.feature)
        if local is None or not unit.wanted or unit.last_verb != "start":
            return
        if (local.runs or local.restarting) and not local.by_hand:
            self._broken(f"S6: wait of {unit.feature} returned {code} while its local container runs")
        # With nothing to follow it gives up after a while, whatever ran before.
        gave_up = code == 1 and self._now() - since >= self._world.timing.local_wait_s
        if gave_up:
            self._gave_up_at[unit.feature] = self._now()
        if local.code is not None and code != local.code and not gave_up:
            self._broken(f"S6: wait of {unit.feature} returned {code}, its container ended with {local.code}")

    def replied(self, lines: list[tuple[str, str]], code: int | None) -> None:
        """A client has its answer."""
        for kind, text in lines:
            if kind == "E" and code == 0:
                self._broken(f"an error is told with code 0: {text}")

    # ---- S9 -------------------------------------------------------------------------------------

    def forged(self, box: Box, victim: str, code: int | None) -> None:
        """A container has spoken for another feature."""
        if code == protocol.EXIT_DONE:
            self._broken(f"S9: a container of {box.feature} spoke for {victim} and was believed")

    # ---- S3, S4, S5 -----------------------------------------------------------------------------

    def may_start_kubelet(self) -> None:
        """The daemon starts the kubelet."""
        file = self._world.labels_file
        failed = json.loads(file.data)["failed"] if file.data else []
        if failed and not file.stale:
            self._broken(f"S4: the kubelet is started while {failed} could not reach the master")
        if bars := self._barred():
            self._broken(f"S4: the kubelet is started though {bars[0]}")

    def bar(self, why: str, *, on: bool) -> None:
        """Something bars the kubelet, or does so no more."""
        if not on:
            self._bars.pop(why, None)
        else:
            self._bars.setdefault(why, self._now())

    def labels_saved(self) -> None:
        """The label queue's file is written."""
        file = self._world.labels_file
        self.bar(LABEL_FAILED, on=bool(file.data and json.loads(file.data)["failed"]))

    def hindered(self) -> None:
        """The daemon cannot know what bars the kubelet, or can do nothing about it."""
        self._able_since = self._now()

    def _barred(self) -> list[str]:
        """Reasons that have barred the kubelet for longer than the daemon may need to react."""
        told = {why: max(since, self._able_since) for why, since in self._bars.items()}
        if self._world.labels_file.stale:
            told.pop(LABEL_FAILED, None)
        now = self._now()
        return [
            f"{why} for {now - since:.0f} s"
            for why, since in sorted(told.items())
            if now - since > KUBELET_STOPS_S
        ]

    async def watch_kubelet(self) -> None:
        """Break where the kubelet runs on though something bars it."""
        world, life = self._world, self._world.life
        while True:
            await asyncio.sleep(KUBELET_LOOK_S)
            unheard = not world.redis.up or world.redis.refused
            if world.life is None or world.life is not life or unheard:
                life = world.life
                self.hindered()
            if world.kubelet.active and (bars := self._barred()):
                self._broken(f"S4: the kubelet runs though {bars[0]}")

    def labelled(self, changes: Mapping[str, str | None], who: str) -> None:
        """Labels change on the Node."""
        if who != "daemon":
            return
        for key, value in changes.items():
            for feature in self._world.features:
                plain = feature in self._world.plain
                if key == feature_label(feature) and plain and value is not None:
                    self._broken(f"S3: {key} is set though {feature} has nothing to do with kube")
            if key in self._labels:
                self._in_order(key, value)

    def label_asked(self, key: str, value: str | None) -> Asked:
        """An operator asks for a label."""
        asked = Asked(value, self._now())
        self._labels.setdefault(key, []).append(asked)
        return asked

    def label_sent(self, asked: Asked) -> None:
        """The request is on its way, perhaps once more."""
        asked.arrived = self._now() + READ_S

    def label_answered(self, asked: Asked, *, accepted: bool) -> None:
        """The operator was told that it is applied or queued, or that it is not, or nothing."""
        asked.arrived, asked.accepted = min(asked.arrived, self._now()), accepted

    def _in_order(self, key: str, value: str | None) -> None:
        """S5: what was asked later is never undone by what had arrived before.

        Of commands on their way at the same time, either may have come first.
        """
        since = self._applied.get(key, 0.0)
        may_be = [a.begun for a in self._labels[key] if a.value == value and a.arrived >= since]
        if not may_be:
            self._broken(f"S5: {key}={value} came back after a later value was applied")
        self._applied[key] = max(since, min(may_be, default=0.0))

    def labels_at_rest(self) -> None:
        """S5: the last accepted value is the Node's, unless another one was on its way meanwhile or came after it."""
        for key, asked in self._labels.items():
            accepted = [a for a in asked if a.accepted]
            if not accepted or key in self._world.refused_labels:
                continue
            last = max(a.begun for a in accepted)
            allowed = [a.value for a in asked if a.arrived >= last]
            if self._world.api.labels.get(key) not in allowed:
                self._broken(f"S5: {key} is {self._world.api.labels.get(key)}, it may be one of {allowed}")
