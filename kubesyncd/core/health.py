"""Judge the health of a feature's kube containers by their starts, exits and complaints.

Knows no clock, no client, no coroutine: time comes in as `now` (BOOTTIME seconds). This module detects failures;
`absorb` and `planner` decide what follows. Seed: section Failure mode detection & rollback.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubesyncd.core.model import STARTS_MAX, Owner

if TYPE_CHECKING:
    from kubesyncd.core.model import Container, Timing

# Kept to tell starts apart where crash-loop detection is off.
_STARTS_KEPT = 8
# So many ends within `crash_window_s` are a failure. No more are remembered.
ENDS_MAX = 3
# The exit code after SIGKILL.
KILLED = 137
# Said of ends that no pod had two of: the kubelet starts a container that has failed in the same pod again.
REPLACED = "each of another pod"
COMPLAINTS_MAX = 8
REASON_MAX = 200
# Sources of a complaint, besides a host-side check's file name.
FROM_CONTAINER = "container"
FROM_HOST = "host"


@dataclass(frozen=True, slots=True)
class ContainerStart:
    """One start of a kube container, and when it was seen."""

    container_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Complaint:
    """A report that this container is unhealthy. `source`: the container, the host, or a check's file name."""

    container_id: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """A feature's health as stored in the ledger.

    `starts`: kube containers that started since one last stayed up. `newest`: Docker's start time of the newest
    one ever seen; `image_id`: its image, where known. `sick`: how many in a row were ended because
    of a complaint. `failed_image`, `failed_newest`: `image_id` and `newest` when the feature was rolled back.
    `withdrawn`: its label has been observed off since then. `ends`: when the last admitted kube containers ended that
    were not asked to, or were because of a complaint; since one last ran for `crash_window_s`, or another image came.
    `pods`: the pods of the newest of them. `looping`: how they ended, once they are a failure.
    """

    starts: tuple[ContainerStart, ...] = ()
    newest: str = ""
    image_id: str = ""
    complaints: tuple[Complaint, ...] = ()
    sick: int = 0
    failed_image: str = ""
    failed_newest: str = ""
    withdrawn: bool = False
    ends: tuple[float, ...] = ()
    pods: tuple[str, ...] = ()
    looping: str = ""

    def complaint_about(self, container_id: str) -> Complaint | None:
        """Return the complaint about this container, if there is one."""
        return next((c for c in self.complaints if c.container_id == container_id), None)


WELL = Health()


def see_starts(health: Health, containers: tuple[Container, ...], timing: Timing, now: float) -> Health:
    """Count kube containers that have started since the last observation; each counts once, however short it ran."""
    later = sorted(
        (c for c in containers if c.owner is Owner.KUBE and c.started > health.newest),
        key=lambda c: c.started,
    )
    if not later:
        return health
    known = {start.container_id for start in health.starts}
    # Of the starts before the first observation, only containers that still run count.
    fresh = [c for c in later if c.id not in known and (health.newest or c.running)]
    kept = max(_STARTS_KEPT, min(timing.crash_loop_starts, STARTS_MAX))
    starts = (*health.starts, *(ContainerStart(c.id, now) for c in fresh))[-kept:]
    image_id = next((c.image_id for c in reversed(later) if c.image_id), health.image_id)
    if health.image_id and image_id != health.image_id:
        # What another image did says nothing about this one.
        health = forget_ends(health)
    return replace(health, starts=starts, newest=later[-1].started, image_id=image_id)


def see_end(health: Health, how: str, timing: Timing, now: float, pod: str = "") -> Health:
    """Count one end of an admitted kube container, however long it ran; `how` says with what it ended.

    `pod`: the pod that it was in, if that is known.
    """
    ends = (*health.ends, now)[-ENDS_MAX:]
    pods = (*health.pods, pod)[-ENDS_MAX:]
    looping = ""
    if sum(now - at <= timing.crash_window_s for at in ends) == ENDS_MAX:
        each = f", {REPLACED}" if len(set(pods) - {""}) == ENDS_MAX else ""
        looping = f"{ENDS_MAX} ends within {timing.crash_window_s / 60:g} min{each}, the last one {how}"
    elif health.looping:
        # The delays between hand-overs have made the ends rarer, and the container no better.
        looping = (
            f"no kube container has run for {timing.crash_window_s / 60:g} min, the last one ended {how}"
        )
    return replace(health, ends=ends, pods=pods, looping=looping)


def how_ended(container: Container | None) -> str:
    """Word the exit of a container."""
    code = None if container is None else container.exit_code
    said = "with an unknown exit code" if code is None else f"with exit code {code}"
    return f"{said} (out of memory)" if container is not None and lacked_memory(container) else said


def lacked_memory(container: Container) -> bool:
    """Return whether an ended container was ended by the kernel for lack of memory."""
    return container.oom_killed and container.exit_code == KILLED


def forget_ends(health: Health) -> Health:
    """Return the health of a feature whose kube container has lasted: earlier ends and complaints count no more."""
    return replace(health, ends=(), pods=(), looping="", sick=0)


def crash_loop(health: Health, timing: Timing, now: float) -> str:
    """Return how kube containers crash one after the other, or an empty text.

    `crash_loop_starts` 0: those that end before they are admitted do not count.
    """
    if health.looping:
        return health.looping
    lately = sum(now - start.at <= timing.crash_loop_s for start in health.starts)
    if not 0 < timing.crash_loop_starts <= lately:
        return ""
    return f"{lately} starts within {timing.crash_loop_s / 60:g} min, and none stayed up"


def complain(health: Health, complaint: Complaint) -> Health:
    """Return the health with this complaint added; the newest complaint of each source counts."""
    others = _without(health.complaints, complaint.container_id, complaint.source)
    words = " ".join(complaint.reason.split())[:REASON_MAX]
    reason = "".join(letter if letter.isprintable() else "?" for letter in words) or "no reason given"
    said = replace(complaint, reason=reason)
    return replace(health, complaints=(*others, said)[-COMPLAINTS_MAX:])


def praise(health: Health, container_id: str, source: str) -> Health:
    """Return the health after `source` withdraws its complaint about this container."""
    return replace(health, complaints=_without(health.complaints, container_id, source))


def forget_ended(health: Health, containers: tuple[Container, ...]) -> Health:
    """Return the health without complaints about containers that have ended."""
    running = {c.id for c in containers if c.running}
    kept = tuple(c for c in health.complaints if c.container_id in running)
    return health if kept == health.complaints else replace(health, complaints=kept)


def another_image(health: Health, containers: tuple[Container, ...]) -> bool:
    """Return whether Kubernetes has started an image other than the failed one since the failure."""
    return any(
        c.owner is Owner.KUBE
        and c.started > health.failed_newest
        and c.image_id not in ("", health.failed_image)
        for c in containers
    )


def same_image(health: Health, containers: tuple[Container, ...]) -> bool:
    """Return whether Kubernetes runs the failed image again."""
    return any(
        c.owner is Owner.KUBE and c.running and c.image_id == health.failed_image and c.image_id
        for c in containers
    )


def _without(complaints: tuple[Complaint, ...], container_id: str, source: str) -> tuple[Complaint, ...]:
    return tuple(c for c in complaints if (c.container_id, c.source) != (container_id, source))
