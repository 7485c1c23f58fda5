"""Answer `label` and `cluster`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubesyncd.api.messages import Reply
from kubesyncd.core import protocol
from kubesyncd.core.labels import Change, InvalidLabel, not_by_hand

if TYPE_CHECKING:
    from kubesyncd.api.handlers import Handler
    from kubesyncd.api.messages import Request
    from kubesyncd.api.refused_containers import RefusedContainers
    from kubesyncd.cluster.controller import ClusterController
    from kubesyncd.core.descriptions import ClusterDescription
    from kubesyncd.features.ledger import Ledger
    from kubesyncd.join.controller import JoinController


class ClusterHandlers:
    """The host socket's verbs about the master and this node's labels."""

    def __init__(
        self,
        cluster: ClusterController,
        join: JoinController,
        refused: RefusedContainers,
        ledger: Ledger,
    ) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._join = join
        self._refused = refused

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
        for change in changes:
            if why := not_by_hand(change.key):
                return Reply(protocol.EXIT_USAGE, err=f"label: {why}")
        return Reply(out=await self._cluster.apply(changes))

    async def _cluster_status(self, request: Request) -> Reply:
        """Reply with the state of the master and the membership, as JSON.

        With CHECK_FILES a file in each of the daemon's folders is written for it; else the last writes count.
        """
        check = request.arguments[1:] == [protocol.CHECK_FILES]
        unwritten = await self._ledger.check() if check else self._ledger.unwritten
        status = self._cluster.status()
        files = [*unwritten, *status.get("unwritten_files", [])]
        described: ClusterDescription = {
            **status,
            "unwritten_files": files,
            "membership": self._join.status(),
            "refused_containers": self._refused.recent(),
        }
        return Reply(out=json.dumps(described))
