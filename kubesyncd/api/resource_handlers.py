"""Answer `resources`: counts of features, tasks and connections, to detect leaks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply

if TYPE_CHECKING:
    from kubesyncd.api.connections import Connections
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.features.registry import Reconcilers


class ResourceHandlers:
    """The host socket's verb about the daemon's own resources."""

    def __init__(self, reconcilers: Reconcilers, connections: Connections) -> None:
        self._reconcilers = reconcilers
        self._connections = connections

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"resources": self._resources}

    async def _resources(self, _: Request) -> Reply:
        held = {
            "features": sum(1 for _ in self._reconcilers),
            "tasks": len(asyncio.all_tasks()),
            "connections": self._connections.counts(),
        }
        return Reply(out=json.dumps(held))
