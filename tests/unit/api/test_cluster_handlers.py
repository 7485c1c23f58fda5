"""Check the answer to `cluster`."""

from __future__ import annotations

import json
from contextlib import nullcontext

from kubesyncd.api.cluster_handlers import ClusterHandlers
from kubesyncd.api.messages import Request, Role
from kubesyncd.api.peer import Peer
from kubesyncd.api.refused_containers import REMEMBERED_MAX, REMEMBERED_S, RefusedContainers
from kubesyncd.core import protocol


class Status:
    """A controller of which only the status is asked."""

    def __init__(self, **status: object) -> None:
        self._status = status

    def status(self) -> dict[str, object]:
        return dict(self._status)


class Files:
    """A ledger whose last write succeeded, and whose next one fails."""

    unwritten: tuple[str, ...] = ()
    checks = 0

    async def check(self) -> tuple[str, ...]:
        self.checks += 1
        return ("features.json cannot be written", "boot.json cannot be written")


async def status(files: Files, *arguments: str, **cluster: object) -> dict[str, object]:
    refused = RefusedContainers(lambda: 7.0)
    refused.add("snmp", "ab", "its pod is foreign")
    handlers = ClusterHandlers(Status(**cluster), Status(phase="done"), refused, files).handlers()  # type: ignore[arg-type]
    request = Request(["cluster", *arguments], Peer(1, 0, 0, None), Role.HOST, lambda _: None, nullcontext)
    found: dict[str, object] = json.loads((await handlers["cluster"](request)).out)
    return found


async def test_the_cluster_s_status_has_the_membership_and_writes_nothing() -> None:
    files = Files()
    told = await status(files, joined=True)
    (refused,) = told.pop("refused_containers")  # type: ignore[misc]
    assert refused["feature"] == "snmp"
    assert told == {"joined": True, "membership": {"phase": "done"}, "unwritten_files": []}
    files.unwritten = ("features.json could not be written",)
    told = await status(files, unwritten_files=["labels.json cannot be written"])
    assert told["unwritten_files"] == ["features.json could not be written", "labels.json cannot be written"]
    assert files.checks == 0


async def test_only_where_it_is_asked_for_the_files_are_written_to_find_those_that_cannot_be() -> None:
    files = Files()
    told = await status(files, protocol.CHECK_FILES, unwritten_files=["labels.json cannot be written"])
    assert told["unwritten_files"] == [
        "features.json cannot be written",
        "boot.json cannot be written",
        "labels.json cannot be written",
    ]


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
