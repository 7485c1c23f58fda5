"""Give each socket its verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.container_handlers import ContainerHandlers
from kubesyncd.api.feature_handlers import FeatureHandlers
from kubesyncd.api.image_handlers import ImageHandlers
from kubesyncd.api.join_handlers import JoinHandlers
from kubesyncd.api.messages import Role
from kubesyncd.api.reboot_handlers import RebootHandlers
from kubesyncd.api.resource_handlers import ResourceHandlers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubesyncd.api.connections import Connections
    from kubesyncd.api.handlers import Handler
    from kubesyncd.daemon.parts import Parts


def verbs(parts: Parts, connections: Connections) -> Mapping[Role, Mapping[str, Handler]]:
    """Return the handler of each verb, by socket. Verbs of parts that this switch lacks are unknown."""
    log, containers = parts.runtime.log, parts.ports.containers
    container = ContainerHandlers(parts.reconcilers, containers, log).handlers()
    host = {
        **container,
        **FeatureHandlers(parts.reconcilers, containers, parts.runtime.clock, log).handlers(),
        **ClusterHandlers(parts.cluster).handlers(),
        **ResourceHandlers(parts.reconcilers, connections).handlers(),
    }
    if parts.options.join is not None:
        host |= JoinHandlers(parts.options.join, parts.cluster).handlers()
    if parts.options.images is not None:
        host |= ImageHandlers(parts.options.images).handlers()
    if parts.preparation is not None:
        host |= RebootHandlers(parts.preparation).handlers()
    return {Role.HOST: host, Role.CONTAINER: container}
