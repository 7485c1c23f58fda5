"""Check the Docker adapter against invalid answers, faults and dropped connections."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from kubesyncd.adapters import docker_events, docker_inspect
from kubesyncd.adapters.docker_containers import DockerContainers
from kubesyncd.adapters.docker_events import parse_event
from kubesyncd.adapters.docker_inspect import KUBE_NAME, KUBE_TYPE, describe, whose
from kubesyncd.core.model import Owner, Signal
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.settings import DockerSettings, SettingsError
from tests.contract.test_containers import SLOW, Api
from tests.lab.docker_engine import LabDocker
from tests.lab.docker_words import ApiError
from tests.lab.heard import Heard

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
    port = DockerContainers(DockerSettings(lab.url), random.Random(1))
    yield port
    await port.close()


@pytest.mark.parametrize(
    ("name", "labels", "owner"),
    [
        ("snmp", {}, ("snmp", Owner.LOCAL)),
        ("/snmp", {"a": "b"}, ("snmp", Owner.LOCAL)),
        ("/k8s_x", {KUBE_NAME: "snmp", KUBE_TYPE: "container"}, ("snmp", Owner.KUBE)),
        ("/k8s_x", {KUBE_NAME: "snmp"}, ("snmp", Owner.KUBE)),
        ("/snmp", {KUBE_NAME: "../snmp"}, None),
        ("/snmp", {KUBE_TYPE: "podsandbox"}, None),
        ("/snmp", {KUBE_NAME: "snmp", KUBE_TYPE: "podsandbox"}, None),
        ("/Not.A.Feature", {}, None),
        ("", {}, None),
    ],
)
def test_the_label_says_whose_a_container_is_and_else_its_name(
    name: str, labels: dict[str, str], owner: tuple[str, Owner] | None
) -> None:
    assert whose(name, labels) == owner


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
    state = '{"Running": false, "ExitCode": 1e9990, "StartedAt": ""}'
    found = json.loads(f'{{"Id": "{ID}", "Name": "/snmp", "State": {state}, "Config": {{"Labels": {{}}}}}}')
    with pytest.raises(Unavailable, match="an unreadable container"):
        describe(found)


def test_times_of_docker_sort_by_age_as_text() -> None:
    told = ["2026-11-23T02:34:27Z", "2026-11-23T02:34:27.98Z", "2026-11-23T02:34:27.981401262Z"]
    ours = [docker_inspect._instant(text) for text in told]
    assert sorted(ours) == ours
    assert docker_inspect._instant(docker_inspect.NEVER) == docker_inspect._instant("") == ""


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2375", "docker.sock", ""])
async def test_only_a_unix_socket_is_taken(url: str) -> None:
    with pytest.raises(SettingsError, match="unix:///"):
        DockerContainers(DockerSettings(url), random.Random(1))


class TestFaults:
    async def test_an_engine_error_on_stop_is_worth_a_retry_and_on_start_it_is_not(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        for verb in ("start", "stop", "kill"):
            lab.fail["POST", f"/containers/{snmp}/{verb}"] = ApiError(500, "driver failed")

        with pytest.raises(Refused, match="driver failed"):
            await containers.start(snmp)
        with pytest.raises(Unavailable, match="driver failed"):
            await containers.stop(snmp, 1)
        with pytest.raises(Unavailable, match="driver failed"):
            await containers.kill(snmp, "KILL")

    async def test_a_start_that_misses_a_network_is_refused_not_missing(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        snmp = await Api(lab.socket).create("snmp")
        lab.fail["POST", f"/containers/{snmp}/start"] = ApiError(404, "network x not found")

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
        lab.fail["POST", f"/containers/{snmp}/start"] = ApiError(500, said)

        with pytest.raises(Refused, match=f"docker rm -f {snmp[:12]}"):
            await containers.start(snmp)

    async def test_a_list_that_fails_is_unavailable_never_empty(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        lab.fail["GET", "/containers/json"] = ApiError(500, "database is locked")

        with pytest.raises(Unavailable, match="database is locked"):
            await containers.list("snmp")

    @pytest.mark.slow("waits for a deadline of the product")
    async def test_where_a_dropped_stop_kills_the_container_keeps_its_grace(
        self, lab: LabDocker, containers: DockerContainers
    ) -> None:
        lab.kills_on_dropped_stop = True
        api = Api(lab.socket)
        snmp = await api.run("snmp", SLOW)
        await api.marked(snmp)

        caller = asyncio.create_task(containers.stop(snmp, 30))
        await api.marked(snmp, "$MARK.term")
        caller.cancel()
        await asyncio.wait([caller])
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
        lab._readers.clear()  # no event arrives any more
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
        port = DockerContainers(DockerSettings(f"unix://{path}"), random.Random(1))
        yield port
        await port.close()
