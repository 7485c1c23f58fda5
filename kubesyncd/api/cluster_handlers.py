"""Answer `label` and `cluster`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply
from kubesyncd.core import protocol
from kubesyncd.core.labels import Change, InvalidLabel

if TYPE_CHECKING:
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.core.descriptions import ClusterDescription
    from kubesyncd.join.controller import JoinController


class ClusterHandlers:
    """The host socket's verbs about the master and this node's labels."""

    def __init__(self, cluster: ClusterController, join: JoinController) -> None:
        self._cluster = cluster
        self._join = join

    def handlers(self) -> dict[str, Handler]:
        """Return each verb and its handler."""
        return {"label": self._label, "cluster": self._cluster_status}

    async def _label(self, request: Request) -> Reply:
        try:
            changes = [Change.parse(text) for text in request.arguments[1:]]
        except InvalidLabel as error:
            return Reply(protocol.EXIT_USAGE, err=f"label: {error}")
        if not changes:
            return Reply(
                protocol.EXIT_USAGE, err="label: no label given; give KEY=VALUE to add one, KEY- to drop it"
            )
        if not self._cluster.joined:
            text = "this switch has not joined a master; set one with `config kube server ip` and join it"
            return Reply(protocol.EXIT_FAILED, err=f"label: {text}")
        return Reply(out=await self._cluster.apply(changes))

    async def _cluster_status(self, _: Request) -> Reply:
        """Reply with the state of the master and the membership, as JSON."""
        described: ClusterDescription = {**self._cluster.status(), "membership": self._join.status()}
        return Reply(out=json.dumps(described))
