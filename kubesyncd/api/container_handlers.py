"""Answer `state`: from containers, which may report only themselves, and from the host."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from kubesyncd.api.handlers import existing_reconciler, feature_name, known_reconciler, refused
from kubesyncd.api.messages import Denied, Reply, Role, failure
from kubesyncd.core import protocol
from kubesyncd.core.health import FROM_CONTAINER, FROM_HOST, Complaint
from kubesyncd.core.kube_names import kube_name
from kubesyncd.core.model import Owner
from kubesyncd.core.record import hear, project
from kubesyncd.ports import ForeignContainer, Missing, Unavailable

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.api.refused_containers import RefusedContainers
    from kubesyncd.core.model import Identity
    from kubesyncd.features.registry import Reconcilers
    from kubesyncd.ports import Containers


class ContainerHandlers:
    """The verb of both sockets. The kernel identifies the peer."""

    def __init__(
        self,
        reconcilers: Reconcilers,
        containers: Containers,
        refusals: RefusedContainers,
        log: FilteringBoundLogger,
    ) -> None:
        self._reconcilers = reconcilers
        self._containers = containers
        self._refusals = refusals
        self._log = log

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"state": self._state}

    async def _state(self, request: Request) -> Reply:
        name, what, owner = feature_name(request), request.argument(2), request.argument(3)
        if what == "" and request.role is Role.HOST:
            return await self._print_state(name)
        if what in ("healthy", "unhealthy"):
            return await self._health(request, name, well=what == "healthy", reason=owner)
        if what not in ("up", "down") or owner not in ("", "local", "kube"):
            forms = "`NAME up local`, `NAME up kube`, `NAME down`, `NAME healthy` or `NAME unhealthy REASON`"
            return failure(protocol.EXIT_USAGE, name, f"state takes {forms}; give one of these")
        if request.peer.container_id is None:
            return await self._state_from_host(request, name, what, owner)
        peer = await self._its_own(request, request.peer.container_id, name, owner if what == "up" else "")
        self._log.info("container_said", feature=peer.feature, said=what, container=peer.container_id)
        reconciler = self._reconcilers.get(peer.feature)
        reconciler.dirty.set()
        if what == "up" and peer.owner is Owner.KUBE:
            with request.waiting(peer.feature):
                await reconciler.waiters.admitted(request.peer.container_id)
        return Reply()

    async def _health(self, request: Request, name: str, *, well: bool, reason: str) -> Reply:
        """Handle a container's report of itself, or the host's report of the container that owns the feature."""
        about, source = request.peer.container_id, FROM_CONTAINER
        if about is not None:
            peer = await self._its_own(request, about, name, "")
            reconciler = self._reconcilers.get(peer.feature)
        elif request.role is Role.CONTAINER:
            why = "only a container may use the container socket; use the host socket"
            return refused(self._log, request.peer, request.arguments, why)
        else:
            reconciler, source = known_reconciler(self._reconcilers, name), FROM_HOST
            view = reconciler.view or await reconciler.seen()
            about = project(view.record, view.observed).docker_id
            if not about:
                text = "no container of it runs, so none can be unhealthy; repeat the report when one runs"
                return failure(protocol.EXIT_FAILED, name, text)
        await reconciler.note(partial(hear, said=Complaint(about, source, reason), well=well))
        return Reply()

    async def _its_own(self, request: Request, container_id: str, name: str, owner: str) -> Identity:
        """Return the asking container's feature and owner. Raises Denied unless they are those reported (S9).

        A kube container may report its feature by the name that it has in Kubernetes.
        """
        why = ""
        try:
            known = await self._containers.identify(container_id)
        except Missing as error:
            if isinstance(error, ForeignContainer):
                self._refusals.add(name, container_id, error.detail)
            why = f"the asking container belongs to no feature: {error.detail}"
            raise Denied(refused(self._log, request.peer, request.arguments, why)) from None
        if known.owner is Owner.KUBE and kube_name(known.feature) == kube_name(name):
            # Docker reports the container's own spelling where its feature is not known yet.
            feature = known.feature if self._reconcilers.known(known.feature) is not None else name
            known = replace(known, feature=feature)
        elif known.feature != name:
            why = f"the asking container belongs to {known.feature}"
            if known.owner is Owner.KUBE and kube_name(name):
                why = f"{why}; if it runs {name}, call it {kube_name(name)} in its manifest"
                self._refusals.add(name, container_id, why)
        if not why and owner and known.owner.value != owner:
            why = f"the asking container is a {known.owner.value} one; it may report `up {known.owner.value}`"
        if why:
            raise Denied(refused(self._log, request.peer, request.arguments, why))
        return known

    async def _state_from_host(self, request: Request, name: str, what: str, owner: str) -> Reply:
        if (what, owner) == ("up", "kube"):
            return refused(
                self._log, request.peer, request.arguments, "only a kube container can report `up kube`"
            )
        # `up local` never fails a starting container, so what is unknown is accepted.
        with suppress(Unavailable):
            (await existing_reconciler(self._reconcilers, name)).dirty.set()
        return Reply()

    async def _print_state(self, name: str) -> Reply:
        reconciler = known_reconciler(self._reconcilers, name)
        view = reconciler.view or await reconciler.seen()
        row = asdict(project(view.record, view.observed))
        row["current_owner_update_ts"] = row.pop("update_ts")
        lines = [f"{key}={row[key]!s}" for key in sorted(row)]
        return Reply(out="\n".join((*lines, f"state={view.plan.state.value}", f"why={view.plan.why}")))
