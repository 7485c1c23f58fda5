"""Check the answer to `cluster`."""

from __future__ import annotations

import json
from contextlib import nullcontext

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.messages import Request, Role
from kubesyncd.api.peer import Peer
from kubesyncd.api.refused_containers import REMEMBERED_MAX, REMEMBERED_S, RefusedContainers


class Status:
    """A controller of which only the status is asked."""

    def __init__(self, **status: object) -> None:
        self._status = status

    def status(self) -> dict[str, object]:
        return dict(self._status)


async def test_the_cluster_s_status_has_the_membership() -> None:
    cluster, join = Status(joined=True), Status(phase="done")
    refused = RefusedContainers(lambda: 7.0)
    refused.add("snmp", "ab", "its pod is foreign")

    async def not_asked() -> str:
        raise AssertionError("a status that is polled must not write")

    handlers = ClusterHandlers(cluster, join, refused, not_asked).handlers()  # type: ignore[arg-type]
    request = Request(["cluster"], Peer(1, 0, 0, None), Role.HOST, lambda _: None, nullcontext)
    reply = await handlers["cluster"](request)
    assert json.loads(reply.out) == {
        "joined": True,
        "membership": {"phase": "done"},
        "refused_containers": refused.recent(),
        "unwritten_files": [],
    }


async def test_the_cluster_s_status_has_the_files_that_cannot_be_written() -> None:
    cluster, join = Status(unwritten_files=["labels.json cannot be written"]), Status()

    async def full() -> str:
        return "features.json cannot be written"

    refused = RefusedContainers(lambda: 7.0)
    handlers = ClusterHandlers(cluster, join, refused, full).handlers()  # type: ignore[arg-type]
    request = Request(["cluster", "files"], Peer(1, 0, 0, None), Role.HOST, lambda _: None, nullcontext)
    reply = await handlers["cluster"](request)
    told = json.loads(reply.out)["unwritten_files"]
    assert told == ["features.json cannot be written", "labels.json cannot be written"]


def test_a_refused_container_is_remembered_once_and_for_an_hour() -> None:
    now = [100.0]
    refused = RefusedContainers(lambda: now[0])
    refused.add("snmp", "ab", "foreign")
    now[0] += REMEMBERED_S
    refused.add("snmp", "cd", "foreign")
    refused.add("lldp", "ef", "foreign")
    first, second = refused.recent()
    assert (first["feature"], first["container_id"], first["times"]) == ("snmp", "cd", 2)
    assert second["times"] == 1
    for number in range(REMEMBERED_MAX):
        refused.add("snmp", "ab", f"reason {number}")
    assert [r["why"] for r in refused.recent()] == [f"reason {n}" for n in range(REMEMBERED_MAX)]
    now[0] += REMEMBERED_S + 1.0
    assert refused.recent() == []
