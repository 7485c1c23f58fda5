"""Decide whether this switch joins or leaves, and by which steps. Pure: knows no file, no clock, no network.

Two rules shape every plan. A step that may fail because of the network comes before any step that removes something.
A master that does not answer is never a reason to leave it: only a changed address, `disable`, or an operator is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kubesyncd.core.host import canonical_host_port, host_port
from kubesyncd.ports import Refused
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from kubesyncd.core.model import MasterConfig

SERVICE = "Kubernetes"


class Job(StrEnum):
    """The jobs that the process can run."""

    JOIN = "join"
    RESET = "reset"


class JobStep(StrEnum):
    """One step of a job, named as operators read it."""

    FETCH = "fetch the credential"
    ASK = "ask the master"
    TRY = "try the credential"
    DRAIN = "drain the node"
    LEAVE = "take the node off the master"
    STOP = "stop the kubelet"
    CLEAN = "kubeadm reset"
    JOIN = "kubeadm join"
    RECORD = "note the join"
    CONFIGURE_KUBELET = "keep the kubelet off local images"
    FORGET = "remove what join wrote"


# Seconds each step may take. The sum of a job stays below the wait of `kube_join` (600 s).
STEP_S_MAX = {
    JobStep.FETCH: 20.0,
    JobStep.ASK: 10.0,
    JobStep.TRY: 45.0,
    JobStep.DRAIN: 25.0,
    JobStep.LEAVE: 15.0,
    JobStep.STOP: 35.0,
    JobStep.CLEAN: 90.0,
    JobStep.JOIN: 220.0,
    JobStep.RECORD: 5.0,
    JobStep.CONFIGURE_KUBELET: 25.0,
    JobStep.FORGET: 5.0,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A step; `may_fail`: after a failure the job continues and reports what is left over."""

    step: JobStep
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The tasks in order, empty where nothing is to be done.

    `undo`: the tasks to run where a task fails that touched the switch.
    """

    tasks: tuple[Task, ...]
    why: str
    undo: tuple[JobStep, ...] = ()


class Standing(StrEnum):
    """Result of the last job on this switch."""

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
        """Return whether this record is about the configured master, however its address is spelled."""
        return host_port(self.ip, self.port) == address(config)


@dataclass(frozen=True, slots=True)
class Found:
    """What is on the switch. `credential`: the kubelet's kubeconfig; `residue`: other files of a join."""

    credential: bool = False
    residue: bool = False
    membership: Membership | None = None

    def belongs_to(self, config: MasterConfig) -> bool:
        """Return whether the credential is for the configured master; assumed without a membership record."""
        known = self.membership
        if not self.credential:
            return False
        return known is None or known.standing is Standing.LEFT or known.concerns(config)


def due(config: MasterConfig, found: Found, name_problem: str = "") -> tuple[Job | None, str]:
    """Return the job that the configuration asks for without an operator's command, and why (or why none).

    `name_problem`: why this switch cannot join under its name, or empty.
    """
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
    if name_problem:
        return None, name_problem
    if found.credential:
        assert known is not None, "a credential without a record is assumed to be for the configured master"
        return Job.JOIN, f"the master's address has changed from {host_port(known.ip, known.port)}"
    return Job.JOIN, "a master is configured"


def outdated(config: MasterConfig, job: Job, master: str) -> bool:
    """Return whether the configuration no longer asks for the running job, for the master `ip:port`."""
    return job is Job.JOIN and (not config.wanted or canonical_host_port(master) != address(config))


def plan_join(config: MasterConfig, found: Found, *, force: bool, name_problem: str = "") -> JobPlan:
    """Plan a join. Raises Refused where the configuration, or this switch's name, forbids it."""
    if not config.ip:
        raise Refused(SERVICE, "no master is configured; run: config kube server ip ADDRESS")
    if config.problems:
        raise Refused(SERVICE, f"the master's configuration cannot be used: {config.problems[0]}")
    if config.disable:
        raise Refused(SERVICE, "the master is disabled; run: config kube server disable off")
    if found.belongs_to(config) and not force:
        return JobPlan((), f"{address(config)} is joined already; to join again: config kube join -f")
    if name_problem:
        raise Refused(SERVICE, name_problem)
    # A credential that may not join must not cost the existing membership. Leave without the kubelet, which would
    # register the node again.
    away = (Task(JobStep.TRY), Task(JobStep.STOP), Task(JobStep.LEAVE, may_fail=True), Task(JobStep.CLEAN))
    clear = away if found.credential else (Task(JobStep.STOP), Task(JobStep.CLEAN)) if found.residue else ()
    return JobPlan(
        (Task(JobStep.FETCH), Task(JobStep.ASK), *clear, Task(JobStep.JOIN), *_afterwards()),
        why=_why_join(config, found, force=force),
        undo=(JobStep.STOP, JobStep.CLEAN),
    )


def _afterwards() -> tuple[Task, ...]:
    """Return the steps after a join; the switch stays joined even if they fail."""
    return (Task(JobStep.RECORD, may_fail=True), Task(JobStep.CONFIGURE_KUBELET, may_fail=True))


def _why_join(config: MasterConfig, found: Found, *, force: bool) -> str:
    job, why = due(config, found)
    return "forced" if force else why if job is Job.JOIN else "an operator asks for it"


def plan_reset(found: Found) -> JobPlan:
    """Plan a reset. Without an API server its steps that need one are left over, and the others are done."""
    steps = [JobStep.STOP, JobStep.CLEAN] if found.residue else []
    if found.credential:
        steps = [JobStep.DRAIN, JobStep.STOP, JobStep.LEAVE, JobStep.CLEAN]
    return JobPlan((*(Task(step, may_fail=True) for step in steps), Task(JobStep.FORGET)), why="reset")


def address(config: MasterConfig) -> str:
    """Return `ip:port` in its one spelling, with an IPv6 address in brackets."""
    return host_port(config.ip, config.port)


def encode_membership(membership: Membership) -> bytes:
    """Encode as a file's content."""
    return codec.encode(membership, indent=1)


def decode_membership(data: bytes | None) -> Membership | None:
    """Decode a file; None where it is missing or unreadable. Never raises."""
    try:
        return codec.decode(Membership, data or b"")
    except Undecodable:
        return None
