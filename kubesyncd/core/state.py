"""Classify the state of a feature, and list the allowed changes of state: the one table.

Knows no clock, no client, no coroutine, and not why a change is made (`decide` does).

The state is never stored. Docker reports which containers run; the reconciler's record holds what
the unit asked for, the admitted container and the transition mode; together they give a row
(`record.project`), and the row determines the state (`_UP`). `EDGES` lists every change of
state: those marked `ours` are the only ones our own writes may make, and `check` raises on any other
(a bug of kubesyncd). The rest are observed: an observation may also skip states, since
several things can happen between two observations. The diagrams in the docs and of `kubesync diagram` are
printed from `EDGES`, so they always match the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.model import Mode, Owner, SystemState

if TYPE_CHECKING:
    from kubesyncd.core.model import Row


class State(StrEnum):
    """The named states: those of the design document's state diagram, and those for cases that it does not name."""

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    STARTING = "STARTING"
    LOCAL = "LOCAL"
    LOCAL_EXITED = "LOCAL_EXITED"
    LOCAL_TO_KUBE = "LOCAL_TO_KUBE"
    KUBE_PENDING = "KUBE_PENDING"
    KUBE_READY = "KUBE_READY"
    KUBE_RUNNING = "KUBE_RUNNING"
    KUBE_STOPPED = "KUBE_STOPPED"
    DRIFT = "DRIFT"


_MEANING = {
    State.UNKNOWN: "not managed yet; restart its service: systemctl restart NAME",
    State.INIT: "the unit is down; nothing runs",
    State.STARTING: "the unit is up and the local container is about to start",
    State.LOCAL: "the local container runs",
    State.LOCAL_EXITED: "the local container ended by itself; systemd restarts the unit",
    State.LOCAL_TO_KUBE: "the local container runs, the kube one waits for it to end",
    State.KUBE_PENDING: "the local container has ended, the kube one is about to be admitted",
    State.KUBE_READY: "waiting for kube deployment",
    State.KUBE_RUNNING: "the kube container runs",
    State.KUBE_STOPPED: "the kube container has ended, the local one is about to start",
    State.DRIFT: "the recorded fields contradict each other; being repaired from Docker and the ledger",
}


def meaning(state: State, feature: str) -> str:
    """Say what the state means for this feature."""
    return _MEANING[state].replace("NAME", feature)


_UP = {
    (Owner.LOCAL, Mode.NONE): State.LOCAL,
    (Owner.LOCAL, Mode.PENDING): State.LOCAL_TO_KUBE,
    (Owner.NONE, Mode.PENDING): State.KUBE_PENDING,
    (Owner.KUBE, Mode.READY): State.KUBE_RUNNING,
    (Owner.NONE, Mode.READY): State.KUBE_READY,
    (Owner.NONE, Mode.NONE): State.STARTING,
}


def classify(row: Row, owner: Owner, *, local_exited: bool) -> State:
    """Return the state of `row`; `owner`: the ruling owner, `local_exited`: a local exit is recorded."""
    if row.system_state is SystemState.ABSENT:
        return State.UNKNOWN
    if row.system_state is SystemState.DOWN:
        return State.INIT
    state = _UP.get((row.current_owner, row.transition_mode), State.DRIFT)
    if state is State.KUBE_READY and owner is not Owner.KUBE:
        return State.KUBE_STOPPED
    if state is State.STARTING and local_exited:
        return State.LOCAL_EXITED
    return state


@dataclass(frozen=True, slots=True)
class Edge:
    """One change of state; `ours`: kubesyncd's own writes may make it."""

    source: State
    target: State
    event: str
    ours: bool = False


def _edges() -> tuple[Edge, ...]:
    s = State
    starts = (s.UNKNOWN, s.INIT, s.LOCAL_EXITED)
    return (
        *(Edge(a, s.STARTING, "start: local, or kube with fallback", ours=True) for a in starts),
        *(Edge(a, s.KUBE_READY, "start: kube, no fallback", ours=True) for a in starts),
        *(Edge(a, s.LOCAL, "start: it runs already", ours=True) for a in (s.UNKNOWN, s.INIT)),
        *(Edge(a, s.KUBE_RUNNING, "start: it runs already", ours=True) for a in (s.UNKNOWN, s.INIT)),
        *(Edge(a, s.INIT, "stop, kill", ours=True) for a in State if a is not s.INIT),
        Edge(s.STARTING, s.LOCAL, "local container runs"),
        Edge(s.LOCAL, s.LOCAL_EXITED, "local container ends by itself"),
        Edge(s.LOCAL_EXITED, s.LOCAL, "local container started manually"),
        Edge(s.LOCAL_EXITED, s.KUBE_PENDING, "a kube container waits", ours=True),
        Edge(s.LOCAL, s.LOCAL_TO_KUBE, "kube deploys", ours=True),
        Edge(s.LOCAL_TO_KUBE, s.LOCAL, "no kube container waits, owner local or rolled back", ours=True),
        Edge(s.LOCAL_TO_KUBE, s.KUBE_PENDING, "local container ends"),
        Edge(s.KUBE_PENDING, s.KUBE_RUNNING, "admission", ours=True),
        Edge(s.KUBE_PENDING, s.KUBE_READY, "no kube container waits", ours=True),
        Edge(s.KUBE_PENDING, s.STARTING, "owner local or rolled back", ours=True),
        Edge(s.KUBE_READY, s.KUBE_RUNNING, "kube deploys: admission", ours=True),
        Edge(s.KUBE_READY, s.STARTING, "fallback, failure or start", ours=True),
        Edge(s.KUBE_READY, s.KUBE_STOPPED, "owner local or rolled back"),
        Edge(s.KUBE_RUNNING, s.KUBE_READY, "kube container ends, or is replaced as unhealthy"),
        Edge(s.KUBE_RUNNING, s.KUBE_STOPPED, "owner local or rolled back, kube container ended"),
        Edge(s.KUBE_STOPPED, s.STARTING, "start local", ours=True),
        Edge(s.STARTING, s.KUBE_READY, "no local container may run", ours=True),
        *(Edge(s.DRIFT, a, "repair", ours=True) for a in State if a not in (s.DRIFT, s.INIT, s.UNKNOWN)),
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """One observed change of state; `at`: seconds since the epoch."""

    at: float
    source: State
    target: State
    why: str


# Transitions kept per feature.
HISTORY_MAX = 20

EDGES = _edges()
_OURS = frozenset((e.source, e.target) for e in EDGES if e.ours)


class IllegalTransition(AssertionError):
    """A write of kubesyncd would make a change of state that is not in the table: a bug."""


def check(before: State, after: State) -> None:
    """Raise IllegalTransition unless a write of kubesyncd may lead from `before` to `after`."""
    if before is not after and (before, after) not in _OURS:
        raise IllegalTransition(f"illegal write from {before} to {after}; the table does not allow it")


def mermaid(current: State | None = None) -> str:
    """Draw the table as a mermaid state diagram (DRIFT's repairs are left out; stop from every state is a note)."""
    lines = ["stateDiagram-v2", "    [*] --> UNKNOWN: boot"]
    merged: dict[tuple[State, State], list[str]] = {}
    for edge in EDGES:
        if edge.source is not State.DRIFT and edge.target is not State.INIT:
            merged.setdefault((edge.source, edge.target), []).append(edge.event)
    lines += [f"    {a} --> {b}: {' / '.join(events)}" for (a, b), events in merged.items()]
    lines.append("    note right of INIT: stop and kill lead here from every state")
    if current is not None:
        lines += ["    classDef current fill:#2563eb,color:#fff", f"    class {current} current"]
    return "\n".join(lines) + "\n"
