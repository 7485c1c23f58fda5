"""Represent one observation of Redis, Docker, labels and kubelet for one feature."""

from __future__ import annotations

from dataclasses import dataclass

from kubesyncd.core.model import Container, LabelView, Owner, Row

_NO_LABEL = LabelView()


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation for one feature.

    `row` None: STATE_DB cannot be reached. `waiting`: kube containers blocked in `up kube`. `reasking`: a
    caller may be about to repeat its request (the daemon has just started, or a caller's connection has just ended).
    `stopping`, `killed`: containers asked to end and not yet observed as ended. `kubelet` None: not known.
    `hold`: a reboot is being prepared.
    """

    row: Row | None
    containers: tuple[Container, ...] = ()
    waiting: frozenset[str] = frozenset()
    reasking: bool = False
    stopping: frozenset[str] = frozenset()
    killed: frozenset[str] = frozenset()
    label: LabelView = _NO_LABEL
    joined: bool = False
    kubelet: bool | None = None
    hold: bool = False
    wall_s: int = 0

    @property
    def local(self) -> Container | None:
        """The local container that Docker has, running or not."""
        return next((c for c in self.containers if c.owner is Owner.LOCAL and not c.gone), None)

    @property
    def local_running(self) -> str:
        """The running local container's ID, or an empty string."""
        return next((c.id for c in self.containers if c.owner is Owner.LOCAL and c.running), "")

    @property
    def kube_running(self) -> tuple[str, ...]:
        """IDs of the feature's running kube containers, admitted or blocked, the newest first."""
        running = [c for c in self.containers if c.owner is Owner.KUBE and c.running]
        return tuple(c.id for c in sorted(running, key=lambda c: (c.started, c.id), reverse=True))

    @property
    def waiter(self) -> str:
        """The kube container that waits in `up kube` and is not about to end, or an empty string.

        The newest one: an older one is about to end, and so is one that was asked to end (a stop, then a start).
        """
        staying = self.waiting - self.stopping - self.killed
        return next((c for c in self.kube_running if c in staying), "")
