"""Check the Docker adapter against invalid answers, faults and dropped connections."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.adapters import docker_events, docker_inspect
from kubesyncd.adapters.docker_cache import ContainerCache
from kubesyncd.adapters.docker_containers import DockerContainers
from kubesyncd.adapters.docker_events import parse_event
from kubesyncd.adapters.docker_inspect import KUBE_NAME, KUBE_TYPE, Foreign, describe, listed, whose
from kubesyncd.core.model import Container, Owner, Signal
from kubesyncd.ports import Hindered, Refused, Unavailable
from kubesyncd.runtime.kube_names import KubeNames
from kubesyncd.settings import DockerSettings
from tests.contract.test_containers import SLOW, Api
from tests.lab.docker_engine import LabDocker
from tests.lab.docker_words import ApiError
from tests.lab.heard import Heard
from tests.lab.kube_names import NAMESPACE, kube_box

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ID = "ab" * 32


def event(action: str = "die", nanos: int = 1_700_000_000_123_456_789, **attributes: str) -> bytes:
    """One line as Docker writes it."""
    actor = {"ID": ID, "Attributes": {"name": "snmp", "image": "busybox:lab", **attributes}}
    return json.dumps({"Type": "container", "Action": action, "Actor": actor, "timeNano": nanos}).encode()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[LabDocker]:
    async with LabDocker(tmp_path) as lab:
        yield lab


@pytest.fixture
async def containers(lab: LabDocker) -> AsyncIterator[DockerContainers]:
    port = DockerContainers(DockerSettings(lab.url), [NAMESPACE], random.Random(1), names=KubeNames())
    yield port
    await port.close()


BOX, LABELS = kube_box("snmp", "snmp-x7")
TENANT_BOX, TENANT_LABELS = kube_box("snmp", "web", "tenant")


@pytest.mark.parametrize(
    ("name", "labels", "owner"),
    [
        ("snmp", {}, ("snmp", Owner.LOCAL)),
        ("/snmp", {"a": "b"}, ("snmp", Owner.LOCAL)),
        # Run from an image that was committed from a kube container.
        ("/snmp", LABELS, ("snmp", Owner.LOCAL)),
        ("/lldp", TENANT_LABELS, ("lldp", Owner.LOCAL)),
        (f"/{BOX}", LABELS, ("snmp", Owner.KUBE)),
        # Where the name was taken, the kubelet adds a random suffix.
        (f"/{BOX}_1f3e", LABELS, ("snmp", Owner.KUBE)),
        (TENANT_BOX, TENANT_LABELS, "tenant/web is in a namespace whose pods run no feature"),
        (BOX, {}, "its labels are not the kubelet's"),
        (BOX, TENANT_LABELS, "its labels are not the kubelet's"),
        (BOX, {**LABELS, KUBE_NAME: "lldp"}, "its labels are not the kubelet's"),
        (BOX, {**LABELS, KUBE_TYPE: "podsandbox"}, "sandbox"),
        (*kube_box("POD", "snmp-x7"), "sandbox"),
        # A sidecar is a container of another name.
        (
            *kube_box("0exporter", "snmp-x7"),
            "container 0exporter of pod sonic/snmp-x7 is not that of a feature",
        ),
        ("/Not.A.Feature", {}, "its name is not that of a feature"),
        ("/snmp", {}, ("snmp", Owner.LOCAL)),
        ("", {}, "its name is not that of a feature"),
    ],
)
def test_name_and_labels_together_decide_whose_a_container_is(
    name: str, labels: dict[str, str], owner: tuple[str, Owner] | str
) -> None:
    found = whose(name, labels, [NAMESPACE], KubeNames().feature_of)
    if isinstance(owner, str):
        assert isinstance(found, Foreign)
        assert owner in found.why
    else:
        assert found == owner


def test_a_foreign_pod_is_told_its_namespace_and_the_setting() -> None:
    found = whose(TENANT_BOX, TENANT_LABELS, [NAMESPACE, "edge"], KubeNames().feature_of)
    assert isinstance(found, Foreign)
    assert found.why.endswith("deploy it in one of sonic, edge, or add tenant to [kube] namespaces")
    assert whose(TENANT_BOX, TENANT_LABELS, [NAMESPACE, "tenant"], KubeNames().feature_of) == (
        "snmp",
        Owner.KUBE,
    )


def test_an_event_of_a_foreign_container_names_no_feature() -> None:
    cache = ContainerCache([NAMESPACE], KubeNames().feature_of)
    assert cache.take(parse_event(event(**{**TENANT_LABELS, "name": TENANT_BOX}))) == ()
    assert cache.take(parse_event(event(**{**LABELS, "name": BOX}))) == ("snmp",)


@pytest.mark.parametrize("restarts", [False, True])
def test_the_end_of_a_container_with_a_restart_policy_is_read_from_docker(*, restarts: bool) -> None:
    """Without a policy its event is the end, and Docker is not asked."""
    cache = ContainerCache([NAMESPACE], KubeNames().feature_of)
    cache.connect()
    policy = "always" if restarts else ""
    snmp = Container(ID, Owner.LOCAL, running=True, started="2023-11-14T22:13:19", restart_policy=policy)
    cache.put("snmp", (snmp,), begun=cache.begin(), now=1.0)
    cache.take(parse_event(event(exitCode="3")))
    known = cache.get("snmp", 2.0)
    assert known is None if restarts else known is not None and [c.exit_code for c in known] == [3]


def test_a_start_while_docker_restarted_is_its_own_where_the_container_has_a_policy() -> None:
    cache = ContainerCache([NAMESPACE], KubeNames().feature_of)

    def by_policy(started: str, policy: str = "always", owner: Owner = Owner.LOCAL) -> bool:
        found = Container(ID, owner, running=True, started=f"2026-01-01T{started}Z", restart_policy=policy)
        return cache.put("snmp", (found,), begun=cache.begin(), now=1.0)[0].by_policy

    cache.connect()
    assert not by_policy("11"), "by hand: its event was heard"
    cache.disconnect()
    assert not by_policy("13"), "who has started it is not known yet"
    cache.connect()
    assert not by_policy("13"), "the engine ran on while its stream was lost: an operator may have started it"
    cache.disconnect()
    cache.connect(("2026-01-01T12Z", "2026-01-01T14Z"))
    assert by_policy("13")
    assert by_policy("13", "unless-stopped")
    assert not by_policy("13", "")
    assert not by_policy("13", owner=Owner.KUBE)
    assert not by_policy("11")
    assert not by_policy("15")
    for hour in range(20, 28):
        cache.connect((f"2026-01-01T{hour}:00Z", f"2026-01-01T{hour}:30Z"))
    assert not by_policy("13"), "only the newest restarts are remembered"
    assert by_policy("27:15")


def test_the_end_of_an_undescribed_container_is_known_from_its_event() -> None:
    cache = ContainerCache([NAMESPACE], KubeNames().feature_of)
    cache.take(parse_event(event(exitCode="3")))
    ended = Container(ID, Owner.LOCAL, running=False, unread="input/output error")
    (known,) = cache.put("snmp", (ended,), begun=cache.begin(), now=1.0)
    assert (known.exit_code, known.gone) == (3, False)


IO_ERROR = ApiError(500, "input/output error")


async def test_a_container_that_docker_does_not_describe_runs_as_listed_and_can_be_ended(
    containers: DockerContainers, lab: LabDocker
) -> None:
    """A real engine cannot be made to answer so for one container."""
    api = Api(lab.socket)
    snmp, kube = await api.run("snmp"), await api.run_kube("snmp")
    await api.marked(snmp)
    for path in ("snmp", snmp, kube):
        lab.faults.fail["GET", f"/containers/{path}/json"] = IO_ERROR
    heard = Heard(containers)
    await heard.then_forget("snmp", times=4)
    other, local = sorted(await containers.list("snmp"), key=lambda c: c.owner)
    assert [(c.id, c.owner, c.running) for c in (local, other)] == [
        (snmp, Owner.LOCAL, True),
        (kube, Owner.KUBE, True),
    ]
    assert local.unread == other.unread == "input/output error"
    assert (await containers.identify(kube)).owner is Owner.KUBE

    await containers.stop(snmp, 5)
    await containers.kill(kube, "KILL")
    await heard.then_forget("snmp", times=2)
    assert [c.running for c in await containers.list("snmp")] == [False, False]
    del lab.faults.fail["GET", "/containers/snmp/json"]
    unread = {c.id: c.unread for c in await containers.list("snmp")}
    assert unread == {snmp: "", kube: "input/output error"}, "it is not cached"
    await heard.close()


async def test_without_a_list_nothing_is_known(containers: DockerContainers, lab: LabDocker) -> None:
    lab.faults.fail["GET", "/containers/snmp/json"] = IO_ERROR
    assert await containers.list("snmp") == ()
    lab.faults.fail["GET", "/containers/json"] = IO_ERROR
    with pytest.raises(Unavailable):
        await containers.list("snmp")


async def test_a_container_that_goes_between_list_and_inspect_is_not_listed(
    containers: DockerContainers, lab: LabDocker
) -> None:
    kube = await Api(lab.socket).run_kube("snmp")
    lab.faults.fail["GET", f"/containers/{kube}/json"] = ApiError(404, "no such container")
    assert await containers.list("snmp") == ()


@pytest.mark.parametrize("entry", [{}, {"Names": ["/a/b"]}, {"Names": None}])
def test_an_unreadable_list_is_not_an_empty_one(entry: dict[str, object]) -> None:
    with pytest.raises(Unavailable, match="an unreadable list"):
        listed(entry)  # type: ignore[arg-type]


def test_an_event_tells_when_in_nine_decimals() -> None:
    assert parse_event(event()).at == "2023-11-14T22:13:20.123456789Z"
    assert parse_event(event(nanos=1_700_000_000_100_000_000)).at == "2023-11-14T22:13:20.100000000Z"


def test_only_a_rename_has_an_old_name() -> None:
    assert parse_event(event("rename", oldName="/lldp")).names == ("snmp", "/lldp")
    assert parse_event(event("die", oldName="/lldp")).names == ("snmp",)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"Action": "die", "Actor": null, "timeNano": 1}',
        b'{"Action": "die", "Actor": {"ID": "a", "Attributes": 7}, "timeNano": 1}',
        event(nanos=10**40),
    ],
)
def test_an_unreadable_event_causes_a_new_observation(line: bytes) -> None:
    with pytest.raises(Unavailable, match="unreadable"):
        parse_event(line)


def test_an_exit_code_beyond_all_limits_makes_the_container_unreadable() -> None:
    def found(exit_code: str) -> Any:
        state = f'{{"Running": false, "ExitCode": {exit_code}, "StartedAt": ""}}'
        config = '"Config": {"Labels": {}, "Image": "docker-snmp:latest"}, "HostConfig": {}'
        return json.loads(
            f'{{"Id": "{ID}", "Name": "/snmp", "Image": "sha256:1", "State": {state}, {config}}}'
        )

    assert describe(found("137")).exit_code == 137
    with pytest.raises(Unavailable, match="an unreadable container: OverflowError"):
        describe(found("1e9990"))


def test_times_of_docker_sort_by_age_as_text() -> None:
    told = ["2026-11-23T02:34:27Z", "2026-11-23T02:34:27.98Z", "2026-11-23T02:34:27.981401262Z"]
    ours = [docker_inspect._instant(text) for text in told]
    assert sorted(ours) == ours
    assert docker_inspect._instant(docker_inspect.NEVER) == docker_inspect._instant("") == ""


class TestFaults:
    async def test_an_engine_error_on_stop_is_worth_a_retry_and_on_start_it_is_not(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        for verb in ("start", "stop", "kill"):
            lab.faults.fail["POST", f"/containers/{snmp}/{verb}"] = ApiError(500, "driver failed")

        with pytest.raises(Refused, match="driver failed"):
            await containers.start(snmp)
        with pytest.raises(Unavailable, match="driver failed"):
            await containers.stop(snmp, 1)
        with pytest.raises(Unavailable, match="driver failed"):
            await containers.kill(snmp, "KILL")

    async def test_a_start_that_the_host_hinders_is_told_apart_from_one_that_the_container_forbids(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        for status, kind in ((500, Hindered), (400, Refused), (409, Refused)):
            lab.faults.fail["POST", f"/containers/{snmp}/start"] = ApiError(status, "no space left on device")
            with pytest.raises(Refused, match="no space left") as raised:
                await containers.start(snmp)
            assert type(raised.value) is kind

    async def test_a_start_that_misses_a_network_is_refused_not_missing(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        lab.faults.fail["POST", f"/containers/{snmp}/start"] = ApiError(404, "network x not found")

        with pytest.raises(Refused, match="network x not found"):
            await containers.start(snmp)

    @pytest.mark.parametrize(
        "said",
        ["task ab12: already exists", "failed to start shim: mkdir /run/x/moby/ab12: file exists: unknown"],
    )
    async def test_a_start_that_dockerd_will_never_carry_out_says_what_to_do(
        self, lab: LabDocker, containers: DockerContainers, said: str
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        lab.faults.fail["POST", f"/containers/{snmp}/start"] = ApiError(500, said)

        with pytest.raises(Refused, match=f"docker rm -f {snmp[:12]}"):
            await containers.start(snmp)

    async def test_a_list_that_fails_is_unavailable_never_empty(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        lab.faults.fail["GET", "/containers/json"] = ApiError(500, "database is locked")

        with pytest.raises(Unavailable, match="database is locked"):
            await containers.list("snmp")

    async def test_where_a_dropped_stop_kills_the_container_keeps_its_grace(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        lab.faults.kills_on_dropped_stop = True
        api = Api(lab.socket)
        snmp = await api.run("snmp", SLOW)
        await api.marked(snmp)

        caller = asyncio.create_task(containers.stop(snmp, 300))
        await api.marked(snmp, "$MARK.term")
        caller.cancel()
        await asyncio.wait([caller])
        await api.mark(snmp, "$MARK.go")
        await api.wait(snmp)

        assert [c.exit_code for c in await containers.list("snmp")] == [6]

    async def test_closing_waits_for_abandoned_calls_only_so_long(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        api = Api(lab.socket)
        snmp = await api.run("snmp", ("sh", "-c", 'trap "" TERM; : >$MARK; while :; do sleep 0.05; done'))
        await api.marked(snmp)
        caller = asyncio.create_task(containers.stop(snmp, 3600))
        await asyncio.sleep(0)

        await containers.close(drain_s=0.05)

        with pytest.raises((asyncio.CancelledError, Unavailable)):
            await caller


async def test_a_container_made_a_moment_ago_is_seen_before_its_event_comes(
    lab: LabDocker, containers: DockerContainers
) -> None:
    """A unit's script makes it and starts it at once: the start may overtake the event."""
    heard = Heard(containers)
    try:
        await heard.then_forget(Signal.GAP)
        assert await containers.list("snmp") == ()
        lab.journal.mute()
        snmp = await Api(lab.socket).create("snmp")
        assert [c.id for c in await containers.list("snmp")] == [snmp]
    finally:
        await heard.close()


class TestAReplayedDie:
    async def test_an_old_death_does_not_end_a_container_that_runs_again(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        """Docker's journal is replayed on connection: what it says of an earlier life must not count."""
        api = Api(lab.socket)
        snmp = await api.run("snmp", SLOW)
        await api.do("POST", snmp, "/kill")
        await api.do("POST", snmp, "/start")
        running = []

        async def listen() -> None:
            async for word in containers.events():
                running.append(await containers.list("snmp"))
                if word == "snmp" and len(running) > 4:
                    return

        async with asyncio.timeout(60):
            await listen()
        assert all(c.running for found in running for c in found)


class TestNonsense:
    """Whatever answers on the socket: Unavailable, and a stream that comes back."""

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<html",
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        ],
    )
    async def test_an_answer_that_is_not_dockers_is_unavailable(self, tmp_path: Path, answer: bytes) -> None:
        async with nonsense(tmp_path, answer) as port:
            with pytest.raises(Unavailable):
                await port.list("snmp")
            with pytest.raises(Unavailable):
                await port.identify(ID)
            with pytest.raises((Unavailable, Refused)):
                await port.start(ID)

    @pytest.mark.parametrize("body", [b"{}\n", b"\xff\n", b"x" * (docker_events.EVENT_BYTES_MAX + 2)])
    async def test_a_stream_of_nonsense_is_a_gap_each_time(self, tmp_path: Path, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        async with nonsense(tmp_path, head + body) as port:
            heard = Heard(port)
            await heard.until(lambda said: len(said) >= 4)
            assert set(heard.said) == {Signal.GAP}
            await heard.close()

    async def test_an_event_in_pieces_is_read_as_one(self, tmp_path: Path) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        async with nonsense(tmp_path, head + event() + b"\n\n" + event(name="lldp") + b"\n", 7) as port:
            heard = Heard(port)
            await heard.until(lambda said: "lldp" in said)
            assert heard.said[:3] == [Signal.GAP, "snmp", "lldp"]
            await heard.close()


@asynccontextmanager
async def nonsense(
    folder: Path, answer: bytes, piece_bytes: int = 1 << 20
) -> AsyncIterator[DockerContainers]:
    """A port whose engine answers every request with the same bytes, `piece_bytes` at a time."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(answer), piece_bytes):
            writer.write(answer[start : start + piece_bytes])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    path = f"{folder}/nonsense.sock"
    async with await asyncio.start_unix_server(serve, path):
        port = DockerContainers(
            DockerSettings(f"unix://{path}"), [NAMESPACE], random.Random(1), names=KubeNames()
        )
        yield port
        await port.close()
