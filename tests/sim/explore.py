"""Walk every interleaving of a switch's actors, and check the promises in each reachable state.

A switch is one or more `World`s of `tests/sim/model.py` that share daemon, master, kubelet and Redis. The walk is
breadth-first, so a broken promise is told by a shortest story. At every state: the promises of `check_state`. From
every state: once faults stop, whatever order the rest goes on in, it comes to rest (there is no cycle), and where
nothing moves any more `check_rest` holds.

Each world is looked at once: it gets a number, and a switch is its worlds' numbers. That is what makes millions of
states of two features affordable.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.core.model import FailurePolicy
from tests.sim import model
from tests.sim.model import (
    Broken,
    World,
    crashing_starts,
    failing_starts,
    folded,
    row_starts,
    silent_starts,
    starts,
    working_starts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Change = Callable[[World], World]
    Switch = tuple[int, ...]

NAMES = ("snmp", "lldp")
# What of the walk is worth its time together; each menu is walked with every start.
MENUS = (
    frozenset({"restart", "fallback"}),
    frozenset({"master", "restart"}),
    frozenset({"hand", "drift", "manifest", "pause"}),
    frozenset({"redis"}),
    frozenset({"join", "hold"}),
    frozenset({"node"}),
    frozenset({"broken", "writes", "file", "manifest"}),
    frozenset({"ledger"}),
)
UNWELL = frozenset({"unwell"})
EVERYTHING = frozenset().union(*MENUS)


@dataclass(slots=True)
class Explored:
    """What a walk has seen. `whole`: there is nothing else."""

    states: int
    transitions: int
    whole: bool


class Catalogue:
    """Every world met so far, by number, and where each move leads from it."""

    def __init__(self, menu: frozenset[str]) -> None:
        self._menu = menu
        self._numbers: dict[World, int] = {}
        self._after: dict[tuple[Change, int], int] = {}
        self._own: list[list[tuple[str, int]] | None] = []
        self._others: list[list[tuple[str, int]] | None] = []
        self._rested: set[int] = set()
        self.worlds: list[World] = []

    def number(self, world: World) -> int:
        """The world's number; a new one is checked."""
        world = folded(world)
        number = self._numbers.get(world)
        if number is None:
            number = self._numbers[world] = len(self.worlds)
            self.worlds.append(world)
            self._own.append(None)
            self._others.append(None)
        return number

    def after(self, change: Change, number: int) -> int:
        """Where something that happens to all features leads for this one."""
        found = self._after.get((change, number))
        if found is None:
            found = self._after[change, number] = self.number(change(self.worlds[number]))
        return found

    def own(self, number: int) -> list[tuple[str, int]]:
        """What goes on by itself: the reconciler, its containers, the kubelet."""
        found = self._own[number]
        if found is None:
            world = self.worlds[number]
            model.check_state(world)
            moves = (*model.reconciler_moves(world), *model.engine_moves(world))
            found = self._own[number] = [(story, self.number(w)) for story, w in moves]
        return found

    def others(self, number: int) -> list[tuple[str, int]]:
        """What people and faults may do to this feature."""
        found = self._others[number]
        if found is None:
            moves = model.people_moves(self.worlds[number], self._menu)
            found = self._others[number] = [(story, self.number(w)) for story, w in moves]
        return found

    def crashes(self, number: int) -> list[tuple[str, int]]:
        """Where the daemon may be killed on this feature's account; the others only lose their memory."""
        return [(story, self.number(w)) for story, w in model.crash_moves(self.worlds[number])]

    def losses(self, number: int) -> list[tuple[str, int]]:
        """Where the daemon's file of this feature may be lost while it is away."""
        return [(story, self.number(w)) for story, w in model.ledger_moves(self.worlds[number])]

    def check_rest(self, number: int) -> None:
        """Once per world."""
        if number not in self._rested:
            model.check_rest(self.worlds[number])
            self._rested.add(number)


class Walk:
    """One exploration: which switches have been seen, and from where."""

    def __init__(self, menu: frozenset[str], *worlds: World) -> None:
        self._menu = menu
        self._all = Catalogue(menu)
        self._settled: set[Switch] = set()
        self.start: Switch = tuple(self._all.number(w) for w in worlds)
        self.parents: dict[Switch, Switch | None] = {self.start: None}
        self.transitions = 0

    def run(self, most: int) -> Explored:
        """Walk until everything or `most` states have been seen. Raises Broken with a numbered story."""
        queue = deque([self.start])
        while queue and len(self.parents) <= most:
            at = queue.popleft()
            try:
                self._settle(at)
                for _, switch in self._moves(at):
                    self.transitions += 1
                    if switch not in self.parents:
                        self.parents[switch] = at
                        queue.append(switch)
            except AssertionError as broken:
                raise Broken(f"{broken}\n{self._story(at)}\n{self._shown(at)}") from broken
        return Explored(len(self.parents), self.transitions, not queue)

    def world(self, number: int) -> World:
        """One feature's part of a switch."""
        return self._all.worlds[number]

    # ---- what may happen ------------------------------------------------------------------------

    def _moves(self, at: Switch) -> Iterator[tuple[str, Switch]]:
        yield from self._fair(at)
        yield "time passes", self._every(model.time_passes, at)
        if "unwell" in self._menu:
            yield "much time passes", self._every(model.window_passes, at)
        yield from self._each(at, self._all.others)
        yield from self._faults(at)

    def _fair(self, at: Switch) -> Iterator[tuple[str, Switch]]:
        """Steps that happen without operators and faults."""
        yield from self._each(at, self._all.own)
        yield from self._cluster(at)

    def _each(
        self, at: Switch, moves: Callable[[int], Iterable[tuple[str, int]]]
    ) -> Iterator[tuple[str, Switch]]:
        for index, number in enumerate(at):
            who = f"{NAMES[index]}: " if len(at) > 1 else ""
            for story, after in moves(number):
                yield who + story, (*at[:index], after, *at[index + 1 :])

    def _every(self, change: Change, at: Switch) -> Switch:
        return tuple(self._all.after(change, number) for number in at)

    def _cluster(self, at: Switch) -> Iterator[tuple[str, Switch]]:
        """The model of the package cluster: one PATCH at a time for all, the kubelet by its rule, one watch."""
        worlds = [self._all.worlds[number] for number in at]
        shared, failed = worlds[0], any(w.labels.failed for w in worlds)
        if any(w.sent for w in worlds):
            yield from self._under_way(at, worlds)
        else:
            waits = [w.labels for w in worlds if w.labels.pending]
            if waits and shared.joined and (shared.api or not all(labels.failed for labels in waits)):
                yield "the labels are sent", self._every(model.labels_sent, at)
            stale = any(w.labels.applied is not w.server_label for w in worlds)
            if shared.api and shared.joined and stale:
                yield "the watch sees the node's labels", self._every(model.label_observed, at)
        may_run = shared.joined and not shared.hold and not failed
        if may_run and not shared.kubelet:
            yield "the kubelet is started", self._every(model.kubelet_on, at)
        if shared.kubelet and not may_run:
            yield "the kubelet is stopped", self._every(model.kubelet_off, at)

    def _under_way(self, at: Switch, worlds: list[World]) -> Iterator[tuple[str, Switch]]:
        if not worlds[0].api:
            yield "no answer: the attempt has failed", self._every(model.labels_failed, at)
        elif any(w.landed for w in worlds):
            yield "the master's answer is heard", self._every(model.labels_acknowledged, at)
        else:
            yield "the master takes the labels", self._every(model.labels_landed, at)

    def _faults(self, at: Switch) -> Iterator[tuple[str, Switch]]:
        """What happens to all features at once."""
        shared = self._all.worlds[at[0]]
        turns = {
            "master": ("the master", shared.api, model.master_up, model.master_down),
            "redis": ("Redis", shared.redis, model.redis_up, model.redis_down),
            "writes": ("STATE_DB's write access", shared.writable, model.writes_back, model.writes_refused),
            "file": ("the ledger's file system", shared.recordable, model.file_back, model.file_full),
        }
        for name, (who, up, on, off) in turns.items():
            if name in self._menu:
                yield f"{who} goes {'down' if up else 'up'}", self._every(off if up else on, at)
        if "master" in self._menu and any(self._all.worlds[number].landed for number in at):
            yield "the master's answer is lost", self._every(model.labels_failed, at)
        if "join" in self._menu:
            change = model.master_disabled if shared.joined else model.master_joined
            yield (
                f"the operator {'disables' if shared.joined else 'joins'} the master",
                self._every(change, at),
            )
            yield "the operator resets", self._every(model.queue_purged, at)
            if not shared.leaving:
                yield "the operator resets: the features return first", self._every(model.reset_begins, at)
        if "node" in self._menu:
            change = model.node_open if shared.barred else model.node_barred
            yield f"the Node takes {'pods again' if shared.barred else 'no pods'}", self._every(change, at)
        if "hold" in self._menu:
            change = model.hold_lifted if shared.hold else model.hold_made
            yield f"a reboot is {'taken back' if shared.hold else 'prepared'}", self._every(change, at)
        if "restart" in self._menu:
            yield from self._restarts(at, self._all.crashes)
        if "ledger" in self._menu:
            yield from self._restarts(at, self._all.losses)

    def _restarts(
        self, at: Switch, moves: Callable[[int], list[tuple[str, int]]]
    ) -> Iterator[tuple[str, Switch]]:
        others = self._every(model.daemon_restarts, at)
        for index, number in enumerate(at):
            for story, after in moves(number):
                yield story, (*others[:index], after, *others[index + 1 :])

    # ---- coming to rest -------------------------------------------------------------------------

    def _calmed(self, at: Switch) -> list[tuple[str, Switch]]:
        """Where it may go once faults have stopped; time passes when all else is done. Nowhere: it is at rest."""
        shared = self._all.worlds[at[0]]
        if shared.leaving:
            return [("the reset ends", self._every(model.queue_purged, at))]
        works = shared.api and shared.redis and shared.writable and shared.recordable
        if not works or shared.hold or shared.barred:
            healed = at
            mends = (
                model.master_up,
                model.redis_up,
                model.writes_back,
                model.file_back,
                model.hold_lifted,
                model.node_open,
            )
            for change in mends:
                healed = self._every(change, healed)
            return [("the faults stop", healed)]
        moves = list(self._fair(at))
        if not moves:
            passed = self._every(model.time_passes, at)
            if passed == at:
                passed = self._every(model.window_passes, at)
            moves = [("time passes", passed)] if passed != at else []
        return moves

    def _settle(self, start: Switch) -> None:
        """Every way on from here can still come to rest, and rests well: Tarjan's circles, each switch once."""
        if start not in self._settled:
            seeking = _Circles(self._calmed, self._settled)
            try:
                for rest in seeking.rests(start):
                    for number in rest:
                        self._all.check_rest(number)
            except AssertionError as broken:
                then = "\n     ".join(seeking.story)
                after = f"after the story below, and then, without faults:\n     {then}\n"
                raise Broken(f"{broken}\n  {after}") from broken

    # ---- telling --------------------------------------------------------------------------------

    def _story(self, at: Switch) -> str:
        """The shortest way from the start, step by step."""
        steps: list[str] = []
        while (before := self.parents[at]) is not None:
            steps.append(next(story for story, after in self._moves(before) if after == at))
            at = before
        return "\n".join(f"{i:3}. {step}" for i, step in enumerate(reversed(steps), 1))

    def _shown(self, at: Switch) -> str:
        return "\n".join(str(self._all.worlds[number]) for number in at)


@dataclass(slots=True)
class _Step:
    """One switch on the way down, and the oldest one on the way that can be reached from it."""

    story: str
    switch: Switch
    moves: Iterator[tuple[str, Switch]]
    oldest: int
    leaves: bool = False


class _Circles:
    """A walk without faults that tells each rest, and finds circles that nothing leads out of.

    A cycle with an exit is left in the end, since no actor is delayed for ever.
    """

    def __init__(self, moves: Callable[[Switch], list[tuple[str, Switch]]], settled: set[Switch]) -> None:
        self._moves = moves
        self._settled = settled
        self._ages: dict[Switch, int] = {}
        self._open: list[Switch] = []
        self._path: list[_Step] = []

    @property
    def story(self) -> list[str]:
        """How it came to where it is now."""
        return [step.story for step in self._path[1:]]

    def rests(self, start: Switch) -> Iterator[Switch]:
        """Each switch where nothing moves any more. Raises Broken at a circle without a way out."""
        if self._enter("", start):
            yield start
        while self._path:
            step = self._path[-1]
            for story, after in step.moves:
                if after in self._settled:
                    step.leaves = True
                elif after in self._ages:
                    step.oldest = min(step.oldest, self._ages[after])
                else:
                    if self._enter(story, after):
                        yield after
                    break
            else:
                self._leave()

    def _enter(self, story: str, switch: Switch) -> bool:
        """Returns whether nothing moves here."""
        moves, age = self._moves(switch), len(self._ages)
        self._ages[switch] = age
        self._open.append(switch)
        self._path.append(_Step(story, switch, iter(moves), age, leaves=not moves))
        return not moves

    def _leave(self) -> None:
        step = self._path[-1]
        if step.oldest == self._ages[step.switch]:
            if not step.leaves:
                raise Broken("L1: it never comes to rest: from here it goes round in a circle")
            while True:
                done = self._open.pop()
                self._settled.add(done)
                if done == step.switch:
                    break
            left = True
        else:
            left = step.leaves
        self._path.pop()
        if self._path:
            before = self._path[-1]
            before.leaves |= left
            before.oldest = min(before.oldest, step.oldest)


def explore(menu: frozenset[str], *worlds: World, most: int) -> Explored:
    """Walk every interleaving from these worlds; raise Broken with a numbered story at the first broken promise."""
    return Walk(menu, *worlds).run(most)


def main(argv: list[str] | None = None) -> int:
    """`make explore`: one feature with everything, then two that share a switch."""
    parser = argparse.ArgumentParser(
        prog="make explore", description="Every interleaving of a switch's actors."
    )
    parser.add_argument("--states", type=int, default=5_000_000, help="at most so many in each walk")
    parser.add_argument("--only", choices=("one", "unwell", "two"), help="a part of it")
    chosen = parser.parse_args(argv)
    policies = (None, FailurePolicy.SWITCH_TO_LOCAL, FailurePolicy.ROLLBACK)
    walks: list[tuple[str, Callable[[int], Explored]]] = []
    if chosen.only in (None, "one"):
        walks += [
            (f"one    {_named(menu)} {_of(w)}", partial(_walked, menu, (w,)))
            for menu in MENUS
            for w in starts(policies=policies)
        ]
        walks += [
            (f"one at work {_named(menu)} {_of(w)}", partial(_walked, menu, (w,)))
            for menu in MENUS
            for w in working_starts()
        ]
        walks += [
            (f"one without a gate {_named(menu)} {_of(w)}", partial(_walked, menu, (w,)))
            for menu in MENUS
            for w in silent_starts()
        ]
        walks += [
            (f"one that asks by the row {_named(menu)} {_of(w)}", partial(_walked, menu, (w,)))
            for menu in MENUS
            for w in row_starts()
        ]
        walks += [(f"one that crashes {_of(w)}", partial(_walked, UNWELL, (w,))) for w in crashing_starts()]
    if chosen.only in (None, "unwell"):
        walks += [(f"unwell {_of(w)}", partial(_walked, UNWELL, (w,))) for w in failing_starts()]
    if chosen.only in (None, "two"):
        first, second = list(starts())[::2]
        walks.append(("two features", partial(_walked, EVERYTHING, (first, second))))
    for name, walk in walks:
        begun = time.monotonic()
        seen = walk(chosen.states)
        took_s, end = time.monotonic() - begun, "all of them" if seen.whole else "as far as it went"
        print(
            f"{name}: {seen.states} states, {seen.transitions} transitions, {end}, {took_s:.0f} s", flush=True
        )
    return 0


def _walked(menu: frozenset[str], worlds: tuple[World, ...], most: int) -> Explored:
    return explore(menu, *worlds, most=most)


def _named(menu: frozenset[str]) -> str:
    return "+".join(sorted(menu))


def _of(world: World) -> str:
    config = world.config
    return f"fallback={config.fallback} policy={config.failure_policy} local={world.local_exists}"


if __name__ == "__main__":
    sys.exit(main())
