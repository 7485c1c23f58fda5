"""Give each socket the handlers of its verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.container_handlers import ContainerHandlers
from kubesyncd.api.feature_handlers import FeatureHandlers
from kubesyncd.api.image_handlers import ImageHandlers
from kubesyncd.api.join_handlers import JoinHandlers
from kubesyncd.api.messages import Role
from kubesyncd.api.reboot_handlers import RebootHandlers
from kubesyncd.api.refused_containers import RefusedContainers
from kubesyncd.api.resource_handlers import ResourceHandlers
from kubesyncd.api.unit_handlers import UnitHandlers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kubesyncd.api.connections import Connections
    from kubesyncd.api.handlers import Handler
    from kubesyncd.daemon.parts import Parts


def handlers(parts: Parts, connections: Connections) -> Mapping[Role, Mapping[str, Handler]]:
    """Return the handler of each verb, by socket."""
    log, containers = parts.runtime.log, parts.ports.containers
    refusals = RefusedContainers(parts.runtime.wall)
    container = ContainerHandlers(parts.reconcilers, containers, refusals, log).handlers()
    groups = (
        container,
        FeatureHandlers(
            parts.reconcilers, containers, parts.runtime.clock, log, short_ids=parts.rules.sonic_names
        ).handlers(),
        ClusterHandlers(parts.cluster, parts.join, refusals, parts.ledger).handlers(),
        ResourceHandlers(parts.reconcilers, connections).handlers(),
        JoinHandlers(parts.join).handlers(),
        ImageHandlers(parts.images).handlers(),
        RebootHandlers(parts.preparation).handlers(),
        UnitHandlers(parts.unit_watch).handlers(),
    )
    return {Role.HOST: one_table(groups), Role.CONTAINER: container}


def one_table(groups: Iterable[Mapping[str, Handler]]) -> dict[str, Handler]:
    """Join the groups of verbs; no verb may be in two of them."""
    table: dict[str, Handler] = {}
    for group in groups:
        twice = table.keys() & group.keys()
        assert not twice, f"verbs with two handlers: {sorted(twice)}"
        table |= group
    return table
