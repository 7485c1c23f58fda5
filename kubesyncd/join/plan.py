"""Decide whether this switch joins or leaves, and by which steps. Pure: knows no file, no clock, no network.

Two rules shape every plan. Whatever may fail because of the network comes before anything is torn down. And a
master that does not answer is never a reason to leave it: only a changed address, `disable`, or an operator is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.ports import Refused

if TYPE_CHECKING:
    from kubesyncd.core.model import MasterConfig

SERVICE = "Kubernetes"


class Job(StrEnum):
    """What the one process may be asked for."""

    JOIN = "join"
    RESET = "reset"


class Step(StrEnum):
    """One step of a job, as operators read it."""

    FETCH = "fetch the credential"
    ASK = "ask the master"
    TRY = "try the credential"
    DRAIN = "drain the node"
    LEAVE = "take the node off the master"
    STOP = "stop the kubelet"
    CLEAN = "kubeadm reset"
    JOIN = "kubeadm join"
    KEEP = "note the join"
    SUIT = "keep the kubelet off local images"
    FORGET = "remove what join wrote"


# Seconds each step may take. A job's sum stays below what `kube_join` waits for (600 s).
STEP_S_MAX = {
    Step.FETCH: 20.0,
    Step.ASK: 10.0,
    Step.TRY: 45.0,
    Step.DRAIN: 25.0,
    Step.LEAVE: 15.0,
    Step.STOP: 35.0,
    Step.CLEAN: 90.0,
    Step.JOIN: 220.0,
    Step.KEEP: 5.0,
    Step.SUIT: 25.0,
    Step.FORGET: 5.0,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A step; `may_fail`: where it does not succeed the job goes on and tells what is left over."""

    step: Step
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks in order, none where nothing is to be done; `undo`, where one of them fails that touched the switch."""

    tasks: tuple[Task, ...]
    why: str
    undo: tuple[Step, ...] = ()


class Standing(StrEnum):
    """What the last job on this switch came to."""

    JOINED = "joined"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Membership:
    """What outlives a boot: which master was joined (or left by an operator), how, and when (since the epoch)."""

    standing: Standing
    ip: str
    port: int
    node: str
    how: str
    at: int

    def concerns(self, config: MasterConfig) -> bool:
        """Whether this is about the master that is configured now."""
        return (self.ip, self.port) == (config.ip, config.port)


@dataclass(frozen=True, slots=True)
class Found:
    """What is on the switch. `credential`: the kubelet's kubeconfig; `residue`: other files of a join."""

    credential: bool = False
    residue: bool = False
    membership: Membership | None = None

    def belongs_to(self, config: MasterConfig) -> bool:
        """Whether the credential is for the configured master. One nobody noted a join for is believed to be."""
        known = self.membership
        if not self.credential:
            return False
        return known is None or known.standing is Standing.LEFT or known.concerns(config)


def due(config: MasterConfig, found: Found) -> tuple[Job | None, str]:
    """What the configuration asks for, without anybody's command, and why (or why nothing)."""
    if not config.ip:
        return None, "no master is configured; run: config kube server ip ADDRESS"
    if config.problems:
        return None, f"the master's configuration cannot be used: {config.problems[0]}"
    if config.disable:
        if found.credential:
            return Job.RESET, "the master is disabled"
        return None, "the master is disabled; run: config kube server disable off"
    if found.belongs_to(config):
        return None, "joined"
    known = found.membership
    if known is not None and known.concerns(config) and known.standing is Standing.LEFT:
        return None, "an operator has reset it; run: config kube join"
    if found.credential:
        assert known is not None, "a credential without a note belongs to whatever is configured"
        return Job.JOIN, f"the master's address has changed from {known.ip}:{known.port}"
    return Job.JOIN, "a master is configured"


def outdated(config: MasterConfig, job: Job, master: str) -> bool:
    """Whether a job under way, for the master `ip:port`, is not what the configuration asks for any more."""
    return job is Job.JOIN and (not config.wanted or master != address(config))


def plan_join(config: MasterConfig, found: Found, *, force: bool) -> Plan:
    """How to join. Raises Refused where the configuration says not to."""
    if not config.ip:
        raise Refused(SERVICE, "no master is configured; run: config kube server ip ADDRESS")
    if config.problems:
        raise Refused(SERVICE, f"the master's configuration cannot be used: {config.problems[0]}")
    if config.disable:
        raise Refused(SERVICE, "the master is disabled; run: config kube server disable off")
    if found.belongs_to(config) and not force:
        return Plan((), f"{address(config)} is joined already; to join anew: config kube join -f")
    # A credential that may not join must not cost the membership there is. And away without the kubelet, which
    # would register the node again.
    away = (Task(Step.TRY), Task(Step.STOP), Task(Step.LEAVE, may_fail=True), Task(Step.CLEAN))
    clear = away if found.credential else (Task(Step.STOP), Task(Step.CLEAN)) if found.residue else ()
    return Plan(
        (Task(Step.FETCH), Task(Step.ASK), *clear, Task(Step.JOIN), *_afterwards()),
        why=_why_join(config, found, force=force),
        undo=(Step.STOP, Step.CLEAN),
    )


def _afterwards() -> tuple[Task, ...]:
    """A switch that has joined stays joined, whatever becomes of these."""
    return (Task(Step.KEEP, may_fail=True), Task(Step.SUIT, may_fail=True))


def _why_join(config: MasterConfig, found: Found, *, force: bool) -> str:
    job, why = due(config, found)
    return "forced" if force else why if job is Job.JOIN else "an operator asks for it"


def plan_reset(found: Found) -> Plan:
    """How to leave. Works without a master: what it would have been told is left over, the rest is done."""
    steps = [Step.STOP, Step.CLEAN] if found.residue else []
    if found.credential:
        steps = [Step.DRAIN, Step.STOP, Step.LEAVE, Step.CLEAN]
    return Plan((*(Task(step, may_fail=True) for step in steps), Task(Step.FORGET)), why="reset")


def address(config: MasterConfig) -> str:
    """`ip:port`, an IPv6 address in brackets."""
    ip = config.ip.strip("[]")
    return f"[{ip}]:{config.port}" if ":" in ip else f"{ip}:{config.port}"


def encode_membership(membership: Membership) -> bytes:
    """As a file's content."""
    return json.dumps(asdict(membership), indent=1).encode() + b"\n"


def decode_membership(data: bytes | None) -> Membership | None:
    """What a file says; None where there is none or nobody can read it. Never raises."""
    try:
        tree = json.loads(data or b"")
        return Membership(
            standing=Standing(tree["standing"]),
            ip=str(tree["ip"]),
            port=int(tree["port"]),
            node=str(tree["node"]),
            how=str(tree["how"]),
            at=int(tree["at"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
