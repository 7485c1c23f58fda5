"""Represent one observation of Redis, Docker, labels and kubelet for one feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.core.actions import Admit, RestartUnit, SetMode, StartLocal
from kubesyncd.core.failed_action import ActionKind, FailedAction, kind_of
from kubesyncd.core.model import Container, LabelView, Mode, Owner, Row

if TYPE_CHECKING:
    from kubesyncd.core.actions import Action

_NO_LABEL = LabelView()


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation for one feature.

    `row` None: STATE_DB cannot be read. `waiting`: kube containers blocked in `up kube`. `reasking`: a
    caller may be about to repeat its request (the daemon has just started, or a caller's connection has just ended).
    `stopping`, `killed`: containers asked to end and not yet observed as ended. `starting`:
    containers whose docker start or unpause is under way, and has had no effect yet. `kubelet` None: not known.
    `hold`: a reboot is being prepared. `no_deploy`: why Kubernetes cannot deploy on this switch, with what to type;
    empty where it can, or where that is not known. `leaving`: a reset is about to begin or runs, and ends every kube
    container. `failures`: actions that failed when they were last tried. `working`: an image
    of the feature is being tagged or its local container recreated. `no_way_back`: why no local container exists or
    can be made; empty where one does or can, where that is not known, or none is needed. `way_back_unknown`: why it is
    not known.
    `registered`: CONFIG_DB has a FEATURE row; None: not known. `absent`: the feature has no FEATURE row, no container
    and no unit, for certain. `settling`: the FEATURE row has just gone, and may be written again in a moment.
    `boot`: this boot's number, by which the row tells whether it is of this one. `row_asks`: kube containers whose
    start-up script waits at the row, each with the version that it asks for (see core.row_gate). `by_row`: the row has
    SONiC's names, by which such a script asks; without them none does.
    """

    row: Row | None
    containers: tuple[Container, ...] = ()
    waiting: frozenset[str] = frozenset()
    reasking: bool = False
    stopping: frozenset[str] = frozenset()
    killed: frozenset[str] = frozenset()
    starting: frozenset[str] = frozenset()
    label: LabelView = _NO_LABEL
    joined: bool = False
    kubelet: bool | None = None
    hold: bool = False
    registered: bool | None = None
    absent: bool = False
    settling: bool = False
    no_deploy: str = ""
    leaving: bool = False
    wall_s: int = 0
    boot: int = 0
    failures: tuple[FailedAction, ...] = ()
    working: bool = False
    no_way_back: str = ""
    way_back_unknown: str = ""
    row_asks: tuple[tuple[str, str], ...] = ()
    by_row: bool = False

    def failed(self, action: Action) -> FailedAction | None:
        """Return the failure of this action, if it failed when it was last tried."""
        kind, target = kind_of(action)
        return next((f for f in self.failures if f.kind is kind and f.target == target), None)

    def failure_of(self, kind: ActionKind) -> FailedAction | None:
        """Return the failure of this kind, if there is one."""
        return next((f for f in self.failures if f.kind is kind), None)

    @property
    def no_local(self) -> str:
        """Why no local container exists or can be made for certain: an unknown way back counts as none."""
        return self.no_way_back or self.way_back_unknown

    @property
    def comeback(self) -> Action:
        """How the local container comes: docker start where it exists, else by its unit's script."""
        return StartLocal(self.local.id) if self.local is not None else RestartUnit()

    @property
    def no_comeback(self) -> FailedAction | None:
        """Why the local container did not come when that was last tried."""
        return self.failed(self.comeback)

    @property
    def no_admission(self) -> FailedAction | None:
        """Why the kube container that waits was not admitted when that was last tried."""
        return self.failed(Admit(self.waiter))

    def takes_over(self, now: float) -> bool:
        """Return whether a kube container waits that can take over from the local one.

        It cannot while what must be stored for it has failed and is not tried again yet.
        """
        failures = (self.failed(SetMode(Mode.PENDING)), self.no_admission)
        return bool(self.waiter) and all(f is None or now >= f.again_at for f in failures)

    @property
    def may_still_ask(self) -> bool:
        """Whether a kube container that runs may be about to repeat its request."""
        return self.reasking and bool(self.kube_running) and not self.leaving

    def container(self, container_id: str) -> Container | None:
        """Return this container; None where the feature has no such one."""
        return next((c for c in self.containers if c.id == container_id), None)

    @property
    def local(self) -> Container | None:
        """The local container that Docker has, running or not."""
        return next((c for c in self.containers if c.owner is Owner.LOCAL and not c.gone), None)

    @property
    def local_starting(self) -> bool:
        """Return whether docker start of the local container is under way."""
        return self.local is not None and not self.local.running and self.local.id in self.starting

    @property
    def start_unanswered(self) -> FailedAction | None:
        """The docker start of the local container that Docker has not answered, and may still carry out."""
        failed = self.failed(StartLocal(self.local.id)) if self.local is not None else None
        return failed if failed is not None and not failed.refused else None

    @property
    def local_may_start(self) -> bool:
        """Return whether Docker may still be starting the local container, by a call that is under way or unanswered.

        Docker does not describe a container while it starts it.
        """
        local = self.local
        if local is None or local.running:
            return False
        return self.local_starting or bool(local.unread) or self.start_unanswered is not None

    @property
    def local_running(self) -> str:
        """The running local container's ID, or an empty string."""
        return next((c.id for c in self.containers if c.owner is Owner.LOCAL and c.running), "")

    @property
    def being_ended(self) -> frozenset[str]:
        """Containers asked to end, by docker stop or docker kill, and not yet observed as ended."""
        return self.stopping | self.killed

    @property
    def by_policy(self) -> Container | None:
        """The running local container that Docker has started by its restart policy, if there is one."""
        return next(
            (c for c in self.containers if c.owner is Owner.LOCAL and c.running and c.by_policy), None
        )

    def paused(self, container_id: str) -> bool:
        """Return whether this container is paused."""
        return any(c.id == container_id and c.paused for c in self.containers)

    @property
    def kube_running(self) -> tuple[str, ...]:
        """IDs of the feature's running kube containers, admitted or blocked, the newest first."""
        running = [c for c in self.containers if c.owner is Owner.KUBE and c.running]
        return tuple(c.id for c in sorted(running, key=lambda c: (c.started, c.id), reverse=True))

    @property
    def asking(self) -> frozenset[str]:
        """Kube containers that wait to be admitted: in `up kube`, or at the row where no other one can be meant."""
        return self.waiting | {c for c, _ in self.row_asks if self.kube_running == (c,)}

    @property
    def waiter(self) -> str:
        """The kube container that waits to be admitted and is not about to end, or an empty string."""
        return self.newest_staying(self.asking)

    def newest_staying(self, among: frozenset[str]) -> str:
        """Return the newest of these kube containers that runs and is not about to end, or an empty string.

        An older one is about to end, and so is one that was asked to end (a stop, then a start), and so is every one
        while this switch leaves its master.
        """
        if self.leaving:
            return ""
        staying = among - self.being_ended
        return next((c for c in self.kube_running if c in staying), "")
