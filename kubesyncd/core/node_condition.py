"""Judge by a Node's conditions and taints whether Kubernetes can deploy a feature's pod on it.

Knows no clock, no client, no coroutine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

# What the DaemonSet controller makes its pods tolerate. The Node's conditions say the same as the first six.
TOLERATED = frozenset(
    f"node.kubernetes.io/{name}"
    for name in (
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "network-unavailable",
        "unschedulable",
    )
)
_PRESSURES = {"DiskPressure": "disk", "MemoryPressure": "memory", "PIDPressure": "process"}
_BARRING = ("NoSchedule", "NoExecute")
TEXT_MAX = 160


@dataclass(frozen=True, slots=True)
class NodeCondition:
    """A Node's own state, as its object tells it.

    `not_ready`: why it is not ready, empty where it is. `pressures`: what it lacks, such as `disk`. `taints`: those
    that a pod of a DaemonSet does not tolerate by itself, as `key=value:effect`. `cordoned`: it takes DaemonSets only.
    """

    not_ready: str = ""
    pressures: tuple[str, ...] = ()
    taints: tuple[str, ...] = ()
    cordoned: bool = False

    @property
    def obstacles(self) -> tuple[str, ...]:
        """What can keep pods away, each as `why_not` takes it for borne."""
        unready = (self._unready,) if self.not_ready else ()
        return (*unready, *self.pressures, *self.taints)

    @property
    def _unready(self) -> str:
        """The reason's word, without its message, which may change from one moment to the next."""
        return f"not ready: {self.not_ready.partition(':')[0]}"

    def why_not(self, borne: Collection[str] = ()) -> str:
        """Return why Kubernetes cannot deploy here, with what to type; empty where it can.

        `borne`: those of `obstacles` despite which the features' pods start.
        """
        if self.not_ready and self._unready not in borne:
            return f"the Node is not ready ({self.not_ready}); see: journalctl -u kubelet"
        short = [pressure for pressure in self.pressures if pressure not in borne]
        if short:
            what = (
                f"the Node has {' and '.join(short)} pressure: its kubelet refuses pods that are not critical"
            )
            return f"{what}; see: kubectl describe node"
        barring = [taint for taint in self.taints if taint not in borne]
        if barring:
            return f"the Node has the taint {', '.join(barring)}, and pods must tolerate it; see: kubectl describe node"
        return ""


def condition_of(
    conditions: Iterable[Mapping[str, object]], taints: Iterable[Mapping[str, object]], *, cordoned: bool
) -> NodeCondition:
    """Judge a Node by its `status.conditions` and `spec.taints`. A Node without conditions is just being registered.

    A stale heartbeat is the condition Ready=Unknown, which the master sets 40 s after the last one.
    """
    states = {str(c.get("type", "")): c for c in conditions}
    ready = states.get("Ready")
    not_ready = ""
    if ready is not None and ready.get("status") != "True":
        words = (str(ready.get(key) or "") for key in ("reason", "message"))
        not_ready = ": ".join(word for word in words if word)[:TEXT_MAX] or "no reason is given"
    return NodeCondition(
        not_ready=not_ready,
        pressures=tuple(
            word for name, word in _PRESSURES.items() if states.get(name, {}).get("status") == "True"
        ),
        taints=tuple(sorted(_taint(t) for t in taints if _bars(t))),
        cordoned=cordoned,
    )


def _bars(taint: Mapping[str, object]) -> bool:
    return taint.get("effect") in _BARRING and taint.get("key") not in TOLERATED


def _taint(taint: Mapping[str, object]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"[:TEXT_MAX]
