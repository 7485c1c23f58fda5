"""Check the verbs about features: what a client sends is checked before it is used."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext

import pytest

from kubesyncd.api.feature_handlers import FeatureHandlers
from kubesyncd.api.messages import Denied, Reply, Request, Role
from kubesyncd.api.peer import Peer
from kubesyncd.core import protocol
from kubesyncd.core.actions import Plan
from kubesyncd.core.model import Container, FeatureConfig, Mode, SystemState
from kubesyncd.core.observation import Observation
from kubesyncd.core.record import Record
from kubesyncd.core.state import State
from kubesyncd.features.registry import Reconcilers
from kubesyncd.features.surroundings import View
from tests.unit.core.given import KUBE, LOCAL, kube, local
from tests.unit.features.given import World, around


async def reply(
    *arguments: str, known: Reconcilers | None = None, view: View | None = None, short_ids: bool = False
) -> Reply:
    """Return the reply to a request on the host's socket; `view`: of the feature snmp."""
    surroundings = around(World())
    runtime = surroundings.runtime
    reconcilers = known or Reconcilers(surroundings)
    if view is not None:
        reconcilers.get("snmp").waiters.view = view
    handlers = FeatureHandlers(
        reconcilers, surroundings.containers, runtime.clock, runtime.log, short_ids=short_ids
    ).handlers()
    request = Request(list(arguments), Peer(1, 0, 0, None), Role.HOST, lambda _: None, nullcontext)
    return await handlers[arguments[0]](request)


@pytest.mark.parametrize(
    "arguments",
    [("stop", "\x1b[2Jsnmp", "soon"), ("stop", "\x1b[2Jsnmp", "5"), ("kill", "\x1b[2Jsnmp", "USR1")],
)
async def test_an_invalid_feature_name_is_never_printed_unescaped(arguments: tuple[str, ...]) -> None:
    with pytest.raises(Denied) as denied:
        await reply(*arguments)
    assert denied.value.reply.err.isprintable()
    assert "invalid feature name" in denied.value.reply.err


async def test_an_invalid_grace_time_is_refused_with_the_feature_s_name() -> None:
    refused = await reply("stop", "snmp", "soon")
    assert refused.code == protocol.EXIT_USAGE
    assert refused.err.startswith("container: snmp: -t 'soon': invalid number of seconds")


def seen(record: Record, *containers: Container) -> View:
    """A view of a feature with these containers."""
    return View(FeatureConfig(), record, Observation(None, containers), Plan(State.LOCAL, None, None, ""), ())


async def test_a_list_names_what_docker_has_not_reported_yet() -> None:
    surroundings, said = around(World()), list[str]()
    known = Reconcilers(surroundings)
    known.get("lldp").waiters.view = seen(Record(SystemState.UP))
    known.get("snmp")
    runtime = surroundings.runtime
    handlers = FeatureHandlers(known, surroundings.containers, runtime.clock, runtime.log).handlers()
    request = Request(["show"], Peer(1, 0, 0, None), Role.HOST, said.append, nullcontext)
    listed = (await handlers["show"](request)).out.splitlines()
    assert [json.loads(line)["feature"] for line in listed] == ["lldp"]
    assert said == ["snmp: Docker has not reported its containers yet"]


@pytest.mark.parametrize("grant", [KUBE, ""])
async def test_docker_is_told_at_once_which_kube_container_runs_a_feature(grant: str) -> None:
    record = Record(system_state=SystemState.UP, mode=Mode.READY, grant=grant)
    assert await reply("resolve", "snmp", "kube", view=seen(record, kube())) == Reply(out=grant)


async def test_it_is_told_of_no_local_container_and_of_no_unknown_feature() -> None:
    record = Record(system_state=SystemState.UP, local_id=LOCAL)
    assert await reply("resolve", "snmp", "kube", view=seen(record, local())) == Reply()
    assert await reply("resolve", "snmp", view=seen(record, local())) == Reply(out=LOCAL)
    assert await reply("resolve", "snmp", "kube") == Reply()
    with pytest.raises(Denied):
        await reply("resolve", "../x", "kube")


async def test_the_id_is_docker_s_or_with_sonic_s_names_what_its_scripts_expect() -> None:
    by_kube = Record(SystemState.UP, Mode.READY, grant=KUBE)
    for record, containers, whole, short in (
        (Record(SystemState.UP), (local(),), LOCAL, "snmp"),
        (by_kube, (local(running=False), kube()), KUBE, KUBE[:12]),
    ):
        surroundings = around(World(containers))
        surroundings.ledger.records["snmp"] = record
        known = Reconcilers(surroundings)
        running = asyncio.create_task(known.get("snmp").run())
        assert (await reply("id", "snmp", known=known)).out == whole
        assert (await reply("id", "snmp", known=known, short_ids=True)).out == short
        assert (await reply("resolve", "snmp", known=known, short_ids=True)).out == whole
        running.cancel()
        await asyncio.wait([running])
    nothing = around(World((local(running=False),)))
    known = Reconcilers(nothing)
    running = asyncio.create_task(known.get("snmp").run())
    assert (await reply("id", "snmp", known=known, short_ids=True)).code == protocol.EXIT_FAILED
    running.cancel()
    await asyncio.wait([running])
