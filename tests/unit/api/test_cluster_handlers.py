"""Check the answer to `cluster`."""

from __future__ import annotations

import json

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.messages import Request, Role
from kubesyncd.api.peer import Peer


class Status:
    """A controller of which only the status is asked."""

    def __init__(self, **status: object) -> None:
        self._status = status

    def status(self) -> dict[str, object]:
        return dict(self._status)


async def test_the_cluster_s_status_has_the_membership() -> None:
    cluster, join = Status(joined=True), Status(phase="done")
    handlers = ClusterHandlers(cluster, join).handlers()  # type: ignore[arg-type]
    reply = await handlers["cluster"](Request(["cluster"], Peer(1, 0, 0, None), Role.HOST, lambda _: None))
    assert json.loads(reply.out) == {"joined": True, "membership": {"phase": "done"}}
