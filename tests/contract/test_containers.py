"""Check the port Containers over the lab's engine and over the real dockerd: one suite for both.

Every test holds for both, which justifies the use of the lab's engine elsewhere. No test depends on how
fast an engine is: each waits for what must come.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
import pytest

from kubesyncd.adapters import docker_events
from kubesyncd.adapters.docker_containers import NEWEST_MAX, DockerContainers
from kubesyncd.adapters.docker_inspect import KUBE_TYPE
from kubesyncd.core.model import Identity, Owner, Signal
from kubesyncd.ports import ForeignContainer, Missing, Refused, Unavailable
from kubesyncd.runtime.kube_names import KubeNames
from kubesyncd.settings import DockerSettings
from tests.lab.docker_engine import LabDocker
from tests.lab.heard import Heard
from tests.lab.kube_names import NAMESPACE, kube_box
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from pathlib import Path

PATIENCE_S = 180.0
# Of a stop that is to end a container in good order, on a busy machine too; SIGKILL would be another end.
GRACE_S = "45"
# A signal before the trap is set is lost: `Api.marked` waits for $MARK.
POLITE = ("sh", "-c", 'trap "exit 5" TERM; : >$MARK; while :; do sleep 0.05; done')
STUBBORN = ("sh", "-c", 'trap "" TERM; : >$MARK; while :; do sleep 0.05; done')
# It ends once it is told to and $MARK.go is there: a stop of it is under way as long as a test likes.
SLOW_END = ": >$MARK.term; until test -e $MARK.go; do sleep 0.05; done; exit 6"
SLOW = ("sh", "-c", f'trap "{SLOW_END}" TERM; : >$MARK; while :; do sleep 0.05; done')
SLEEPY = ("sh", "-c", 'trap "exit 0" TERM; : >$MARK; while :; do sleep 0.05; done')
BRIEF = ("sh", "-c", "exit 3")
# Long enough that a stop meets it, and it does not answer SIGTERM.
SHORT = ("sh", "-c", "sleep 0.3; exit 3")
NO_LABELS: Mapping[str, str] = MappingProxyType({})
NUMBERS = itertools.count()


class Engine(Protocol):
    """The operations of a test on an engine, besides its API."""

    socket: Path

    @property
    def url(self) -> str: ...
    async def restart(self, *, live_restore: bool) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class Api:
    """The engine's HTTP API, plainly: what the docker command and the kubelet do beside us."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and decoded body, over a connection of its own."""
        connector = aiohttp.UnixConnector(str(self._socket), force_close=True)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession("http://docker", connector=connector, timeout=timeout) as session,
            session.request(method, path, **options) as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    async def create(
        self,
        name: str,
        command: tuple[str, ...] = POLITE,
        labels: Mapping[str, str] = NO_LABELS,
        restart: str = "no",
    ) -> str:
        """A container that has not run yet; its ID."""
        body = {
            "Image": "busybox:lab",
            "Cmd": command,
            "Labels": dict(labels),
            "Env": [f"MARK=mark-{name}", "IMAGE_VERSION=20240510.12"],
            "HostConfig": {"NetworkMode": "none", "RestartPolicy": {"Name": restart}},
        }
        status, answer = await self.ask("POST", "/containers/create", params={"name": name}, json=body)
        assert status == 201, answer
        return str(answer["Id"])

    async def create_kube(self, feature: str, command: tuple[str, ...] = POLITE, attempt: int = 0) -> str:
        """A container as the kubelet names and labels it."""
        name, labels = kube_box(feature, f"{feature}-pod", attempt=attempt)
        return await self.create(name, command, labels)

    async def do(self, method: str, container: str, verb: str = "", **params: str) -> None:
        """An action that must succeed."""
        status, answer = await self.ask(method, f"/containers/{container}{verb}", params=params)
        assert status in (200, 204, 304), answer

    async def run(
        self,
        name: str,
        command: tuple[str, ...] = POLITE,
        labels: Mapping[str, str] = NO_LABELS,
        restart: str = "no",
    ) -> str:
        """A running local container."""
        container = await self.create(name, command, labels, restart)
        await self.do("POST", container, "/start")
        return container

    async def run_kube(self, feature: str, command: tuple[str, ...] = POLITE, attempt: int = 0) -> str:
        """A running kube container."""
        container = await self.create_kube(feature, command, attempt)
        await self.do("POST", container, "/start")
        return container

    async def run_other(self, name: str, labels: Mapping[str, str]) -> str:
        """A running container with this name and these labels."""
        return await self.run(name, labels=labels)

    async def marked(self, container: str, mark: str = "$MARK") -> None:
        """Until its program has left the mark that says how far it is."""
        body = {"Cmd": ["sh", "-c", f"test -e {mark}"]}

        async def there() -> bool:
            _, run = await self.ask("POST", f"/containers/{container}/exec", json=body)
            await self.ask("POST", f"/exec/{run['Id']}/start", json={"Detach": True})
            answer = {"Running": True}
            while answer["Running"] or answer["ExitCode"] is None:
                _, answer = await self.ask("GET", f"/exec/{run['Id']}/json")
            return bool(answer["ExitCode"] == 0)

        await until_async(there)

    async def mark(self, container: str, mark: str) -> None:
        """Leave a mark that its program waits for."""
        body = {"Cmd": ["sh", "-c", f": >{mark}"]}
        _, run = await self.ask("POST", f"/containers/{container}/exec", json=body)
        await self.ask("POST", f"/exec/{run['Id']}/start", json={"Detach": True})

    async def wait(self, container: str) -> None:
        """Until it has ended."""
        await self.do("POST", container, "/wait")

    async def remove(self, container: str) -> None:
        """Gone, running or not."""
        await self.do("DELETE", container, force="1")

    async def clear(self) -> None:
        """Leave nothing behind, nor what is just being removed: its name would be taken."""

        async def none_left() -> bool:
            _, boxes = await self.ask("GET", "/containers/json", params={"all": "1"})
            for box in boxes:
                with contextlib.suppress(AssertionError):
                    await self.remove(box["Id"])
            return not boxes

        await until_async(none_left, "the engine has no container any more")


def sandbox_of(feature: str) -> tuple[str, dict[str, str]]:
    """Name and labels of a pod's pause container that pretends to be the feature's."""
    name, labels = kube_box(feature, f"{feature}-sandbox")
    return name, {**labels, KUBE_TYPE: "podsandbox"}


def conflict(name: str, container: str) -> str:
    """Docker's words for a name that is taken."""
    return (
        f'Conflict. The container name "/{name}" is already in use by container "{container}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


@pytest.fixture(params=["lab", pytest.param("real", marks=pytest.mark.real("docker"))])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    if request.param == "real":
        yield request.getfixturevalue("real_docker")
        return
    async with LabDocker(tmp_path) as lab:
        yield lab


@pytest.fixture
def feature() -> str:
    """A name that no other test has, of any file: the real engine's journal remembers the tests before."""
    return f"contract{next(NUMBERS)}"


@pytest.fixture
def other(feature: str) -> str:
    """Another feature."""
    return f"other-{feature}"


@pytest.fixture
async def api(engine: Engine) -> AsyncIterator[Api]:
    api = Api(engine.socket)
    yield api
    engine.thaw()
    await api.clear()


@pytest.fixture
def quiet_s() -> float:
    """How long the event stream may be silent before the engine is pinged: a late answer would be a gap."""
    return docker_events.QUIET_S


@pytest.fixture
async def containers(engine: Engine, api: Api, quiet_s: float) -> AsyncIterator[DockerContainers]:
    """The port, with no event stream yet."""
    port = DockerContainers(
        DockerSettings(engine.url), [NAMESPACE], random.Random(1), names=KubeNames(), quiet_s=quiet_s
    )
    yield port
    await port.close()


@pytest.fixture
async def heard(containers: DockerContainers) -> AsyncIterator[Heard]:
    """The event stream, connected."""
    heard = Heard(containers)
    await heard.then_forget(Signal.GAP)
    yield heard
    await heard.close()


class TestWhatIsListed:
    async def test_a_feature_without_containers_has_none(
        self, containers: DockerContainers, feature: str
    ) -> None:
        assert await containers.list(feature) == ()

    async def test_a_local_container_is_the_one_named_after_the_feature(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await api.run(f"{feature}x")

        (found,) = await containers.list(feature)

        assert (found.id, found.owner, found.running, found.exit_code) == (snmp, Owner.LOCAL, True, None)
        assert (found.image, found.version) == ("busybox:lab", "20240510.12")

    async def test_a_kube_container_is_found_by_its_label_and_its_sandbox_is_not_counted(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        kube = await api.run_kube(feature)
        await api.run_other(*kube_box("POD", f"{feature}-pod"))
        await api.run_other(*sandbox_of(feature))

        (found,) = await containers.list(feature)

        assert (found.id, found.owner, found.running) == (kube, Owner.KUBE, True)

    async def test_a_container_with_the_labels_of_a_kube_one_is_local_where_its_name_is_the_features(
        self, containers: DockerContainers, api: Api, feature: str, other: str
    ) -> None:
        _, labels = kube_box(feature, "pod")
        local = await api.run_other(other, labels)

        assert [(c.id, c.owner) for c in await containers.list(other)] == [(local, Owner.LOCAL)]
        assert await containers.list(feature) == ()
        assert await containers.identify(local) == Identity(local, other, Owner.LOCAL)

    async def test_a_container_of_a_foreign_pod_is_not_listed_and_says_why(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        foreign = await api.run_other(*kube_box(feature, "web", "tenant"))

        assert await containers.list(feature) == ()
        with pytest.raises(ForeignContainer, match=r"tenant/web .* add tenant to \[kube\] namespaces"):
            await containers.identify(foreign)

    async def test_the_oldest_container_comes_first(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        ids = [await api.run(feature), await api.run_kube(feature), await api.run_kube(feature, attempt=1)]

        assert [c.id for c in await containers.list(feature)] == ids

    async def test_ended_containers_hide_no_running_and_no_granted_one(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        granted = await api.run_kube(feature, BRIEF)
        await api.wait(granted)
        running = await api.run_kube(feature, attempt=1)
        for attempt in range(2, NEWEST_MAX + 4):
            await api.create_kube(feature, attempt=attempt)

        assert granted not in [c.id for c in await containers.list(feature)]
        found = {c.id: c for c in await containers.list(feature, granted)}

        assert found[running].running
        assert found[granted].exit_code == 3
        assert len(found) == NEWEST_MAX + 2, "of the others, the newest few"

    async def test_a_paused_container_runs_and_can_be_unpaused_twice(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await heard.then_forget(feature, times=2)
        await api.do("POST", snmp, "/pause")
        await heard.then_forget(feature)
        (found,) = await containers.list(feature)
        assert (found.running, found.paused) == (True, True)

        await containers.unpause(snmp)
        await heard.then_forget(feature)
        await containers.unpause(snmp)
        (found,) = await containers.list(feature)
        assert (found.running, found.paused) == (True, False)
        with pytest.raises(Missing):
            await containers.unpause("ab" * 32)

    @pytest.mark.parametrize("life", [BRIEF, SHORT], ids=["brief", "short"])
    async def test_a_container_that_docker_restarts_keeps_running_until_it_is_stopped(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str, life: tuple[str, ...]
    ) -> None:
        snmp = await api.run(feature, life, restart="always")
        await heard.until(lambda said: said.count(feature) >= 6)
        (found,) = await containers.list(feature)
        assert (found.running, found.restarts) == (True, True)

        await containers.stop(snmp, 30)
        (found,) = await containers.list(feature)
        assert (found.running, found.exit_code) == (False, 3), "SIGTERM ends no life"
        await containers.start(snmp)
        await containers.kill(snmp, "KILL")

        async def ended() -> bool:
            return not (await containers.list(feature))[0].running

        await until_async(ended)

    async def test_a_container_that_never_ran_has_no_exit_code(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        await api.create(feature)

        (found,) = await containers.list(feature)

        assert (found.running, found.exit_code, found.started, found.gone) == (False, None, "", False)

    async def test_an_ended_container_has_its_exit_code(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        await api.wait(await api.run(feature, BRIEF))

        (found,) = await containers.list(feature)

        assert (found.running, found.exit_code, found.gone) == (False, 3, False)

    async def test_a_feature_whose_name_begins_another_containers_id_has_none(
        self, containers: DockerContainers, api: Api
    ) -> None:
        attempts = [await api.create(f"box{n}", BRIEF) for n in range(30)]
        feature = next(box[:8] for box in attempts if box[0] in "abcdef")

        assert await containers.list(feature) == ()

    @pytest.mark.parametrize("name", ["", "../snmp", "SNMP", "a/json?x=", "snmp\n", "x" * 80])
    async def test_an_invalid_feature_name_is_refused(self, containers: DockerContainers, name: str) -> None:
        with pytest.raises(Refused, match="invalid feature name"):
            await containers.list(name)


class TestStartStopKill:
    async def test_a_start_is_seen_at_once_and_a_second_one_is_success(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        snmp = await api.create(feature)
        await heard.then_forget(feature)
        assert [c.running for c in await containers.list(feature)] == [False]

        await containers.start(snmp)
        assert [c.running for c in await containers.list(feature)] == [True]
        await containers.start(snmp)

    async def test_starting_what_is_not_there_is_missing(
        self, containers: DockerContainers, api: Api
    ) -> None:
        with pytest.raises(Missing, match="No such container"):
            await containers.start("ab" * 32)

    async def test_a_start_docker_cannot_do_is_refused_with_its_reason(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.create(feature, ("no-such-program",))

        with pytest.raises(Refused, match="executable file not found") as raised:
            await containers.start(snmp)
        assert type(raised.value) is Refused, "its reason does not pass"
        assert [c.exit_code for c in await containers.list(feature)] == [None]

    async def test_a_stop_returns_when_it_has_ended_with_its_own_code(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await heard.then_forget(feature, times=2)
        assert [c.running for c in await containers.list(feature)] == [True]
        await api.marked(snmp)

        await containers.stop(snmp, 30)

        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 5)]

    async def test_a_container_that_ignores_sigterm_is_killed_after_the_grace(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature, STUBBORN)
        await api.marked(snmp)

        await containers.stop(snmp, 1)

        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 137)]

    async def test_killing_ends_it_with_137(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature, STUBBORN)

        await containers.kill(snmp, "KILL")
        await api.wait(snmp)

        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 137)]

    async def test_another_signal_reaches_the_container(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await api.marked(snmp)

        await containers.kill(snmp, "TERM")
        await api.wait(snmp)

        assert [c.exit_code for c in await containers.list(feature)] == [5]

    async def test_only_sigkill_ends_a_container_that_catches_no_signal(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        """It is the first process of its namespace, which the kernel protects."""
        snmp = await api.run(feature, ("sh", "-c", ": >$MARK; exec sleep 600"))
        # Before its own program begins, its first process is runc's, which has handlers.
        await api.marked(snmp)
        for signal in ("TERM", "INT", "HUP", "USR1"):
            await containers.kill(snmp, signal)
        assert [c.running for c in await containers.list(feature)] == [True]

        await containers.stop(snmp, 1)

        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 137)]

    async def test_stopping_and_killing_what_has_ended_or_is_gone_is_success(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        ended = await api.run(feature, BRIEF)
        await api.wait(ended)

        for container in (ended, "ab" * 32):
            await containers.stop(container, 1)
            await containers.kill(container, "KILL")

    async def test_an_unknown_signal_is_refused(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)

        with pytest.raises(Refused, match="Invalid signal"):
            await containers.kill(snmp, "NOPE")

    async def test_an_invalid_container_id_never_reaches_docker(
        self, containers: DockerContainers, api: Api
    ) -> None:
        await api.run("snmp")

        for call in (containers.start("snmp"), containers.stop("../snmp", 1), containers.kill("", "KILL")):
            with pytest.raises(Refused, match="invalid container ID"):
                await call

    async def test_a_stop_outlives_its_caller(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature, SLOW)
        await api.marked(snmp)

        caller = asyncio.create_task(containers.stop(snmp, 300))
        await api.marked(snmp, "$MARK.term")
        caller.cancel()
        await asyncio.wait([caller])
        closing = asyncio.create_task(containers.close(drain_s=PATIENCE_S))
        await api.mark(snmp, "$MARK.go")
        await closing

        _, found = await api.ask("GET", f"/containers/{snmp}/json")
        assert (found["State"]["Running"], found["State"]["ExitCode"]) == (False, 6)


class TestEvents:
    async def test_external_changes_cause_events_and_are_listed_then(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        assert await containers.list(feature) == ()

        snmp = await api.create(feature)
        await heard.then_forget(feature)
        assert [c.running for c in await containers.list(feature)] == [False]

        await api.do("POST", snmp, "/start")
        await heard.then_forget(feature)
        assert [c.running for c in await containers.list(feature)] == [True]

        await api.do("POST", snmp, "/kill")
        await heard.then_forget(feature)
        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 137)]

    async def test_events_of_kube_containers_are_found_by_label_and_those_of_sandboxes_ignored(
        self, heard: Heard, api: Api, feature: str, other: str
    ) -> None:
        await api.run_other(*sandbox_of(feature))
        await api.run_kube(other)

        await heard.until(lambda said: other in said)
        assert feature not in heard.said

    async def test_a_rename_causes_an_event_for_both_names(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str, other: str
    ) -> None:
        snmp = await api.run(feature)
        await heard.then_forget(feature, times=2)

        await api.do("POST", snmp, "/rename", name=other)

        await heard.until(lambda said: {feature, other} <= set(said))
        assert await containers.list(feature) == ()
        assert [c.id for c in await containers.list(other)] == [snmp]

    async def test_nothing_is_asked_again_while_nothing_happens(
        self, containers: DockerContainers, heard: Heard, api: Api, engine: Engine, feature: str
    ) -> None:
        await api.run(feature)
        await heard.until(lambda said: said.count(feature) >= 2)
        before = await containers.list(feature)

        engine.freeze()

        assert await containers.list(feature) == before

    async def test_without_an_event_stream_nothing_is_believed_twice(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await api.marked(snmp)
        assert [c.running for c in await containers.list(feature)] == [True]

        await api.do("POST", snmp, "/stop")

        assert [c.running for c in await containers.list(feature)] == [False]


class TestExitsOfTheDestroyed:
    """The kubelet destroys a container 0.7 s after it died: how it ended must be known all the same."""

    async def test_an_observed_exit_outlives_the_container(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        kube = await api.run_kube(feature)
        await api.marked(kube)
        await api.do("POST", kube, "/stop", t=GRACE_S)
        await api.remove(kube)
        await heard.until(lambda said: said.count(feature) >= 4)

        (found,) = await containers.list(feature)

        assert (found.id, found.owner, found.running, found.exit_code) == (kube, Owner.KUBE, False, 5)
        assert found.gone

    async def test_an_exit_before_the_connection_is_read_from_docker_s_journal(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        kube = await api.run_kube(feature, BRIEF)
        await api.wait(kube)
        await api.remove(kube)
        assert await containers.list(feature) == ()

        heard = Heard(containers)
        await heard.until(lambda said: said.count(feature) >= 4)

        assert [(c.id, c.exit_code, c.gone) for c in await containers.list(feature)] == [(kube, 3, True)]
        await heard.close()

    async def test_one_that_runs_again_is_listed_once_and_running(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature, SLOW)
        await api.do("POST", snmp, "/kill")
        await api.do("POST", snmp, "/start")
        await heard.until(lambda said: said.count(feature) >= 4)

        assert [(c.id, c.running, c.exit_code) for c in await containers.list(feature)] == [
            (snmp, True, None)
        ]

    async def test_only_the_last_four_are_kept(
        self, containers: DockerContainers, heard: Heard, api: Api, feature: str
    ) -> None:
        ids = []
        for attempt in range(6):
            ids.append(await api.run_kube(feature, BRIEF, attempt))
            await api.wait(ids[-1])
            await api.remove(ids[-1])
        await heard.until(lambda said: said.count(feature) >= 6 * 4)

        assert [c.id for c in await containers.list(feature)] == ids[-4:]


class TestIdentity:
    async def test_a_local_container_is_its_name(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        snmp = await api.run(feature)

        for reference in (snmp, snmp[:12]):
            found = await containers.identify(reference)
            assert (found.container_id, found.feature, found.owner) == (snmp, feature, Owner.LOCAL)

    async def test_a_kube_container_is_its_label(
        self, containers: DockerContainers, api: Api, feature: str
    ) -> None:
        kube = await api.run_kube(feature)

        found = await containers.identify(kube)

        assert (found.container_id, found.feature, found.owner) == (kube, feature, Owner.KUBE)

    async def test_sandboxes_foreign_and_unknown_containers_are_missing(
        self, containers: DockerContainers, api: Api
    ) -> None:
        sandbox = await api.run_other(*sandbox_of("snmp"))
        stranger = await api.run("Not.A.Feature")

        for reference in (sandbox, stranger, "ab" * 32, "snmp", "../json", ""):
            with pytest.raises(Missing):
                await containers.identify(reference)

    async def test_a_container_named_like_an_id_belongs_to_no_feature(
        self, containers: DockerContainers, api: Api
    ) -> None:
        await api.run("ab" * 16)

        with pytest.raises(Missing):
            await containers.identify("ab" * 16)


async def test_an_image_that_comes_or_goes_is_reported_and_names_no_feature(
    heard: Heard, api: Api, feature: str
) -> None:
    await api.ask("POST", "/images/busybox:lab/tag", params={"repo": feature, "tag": "v1"})
    assert feature not in await heard.then_forget(Signal.IMAGES)
    await api.ask("DELETE", f"/images/{feature}:v1")
    assert feature not in await heard.then_forget(Signal.IMAGES)


class TestWhenDockerGoesAway:
    async def test_with_live_restore_containers_keep_running_and_two_gaps_are_reported(
        self, containers: DockerContainers, heard: Heard, api: Api, engine: Engine, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await heard.then_forget(feature, times=2)  # created, started

        await engine.restart(live_restore=True)

        await heard.until(lambda said: said.count(Signal.GAP) >= 2)
        assert [(c.id, c.running) for c in await containers.list(feature)] == [(snmp, True)]
        heard.said.clear()
        await api.do("POST", snmp, "/kill")
        await heard.then_forget(feature)
        assert [(c.running, c.exit_code) for c in await containers.list(feature)] == [(False, 137)]

    async def test_without_live_restore_they_have_ended(
        self, containers: DockerContainers, heard: Heard, api: Api, engine: Engine, feature: str
    ) -> None:
        snmp = await api.run(feature)
        await heard.then_forget(feature, times=2)
        assert [c.running for c in await containers.list(feature)] == [True]

        await engine.restart(live_restore=False)

        await heard.until(lambda said: said.count(Signal.GAP) >= 2)
        assert [(c.id, c.running) for c in await containers.list(feature)] == [(snmp, False)]

    @pytest.mark.slow("restarts the engine twice")
    @pytest.mark.parametrize("live_restore", [True, False])
    async def test_an_engine_that_starts_starts_what_a_restart_policy_names(
        self, containers: DockerContainers, heard: Heard, api: Api, engine: Engine, live_restore: bool
    ) -> None:
        """Also what was stopped, except with unless-stopped; such starts are known as Docker's own."""
        made = {}
        for policy in ("no", "always", "unless-stopped", "on-failure"):
            for life in ("never-ran", "stopped", "failed"):
                name = f"{policy}-{life}-{next(NUMBERS)}"
                made[name] = f"{policy} {life}"
                container = await api.create(name, SLEEPY, restart=policy)
                if life != "never-ran":
                    await api.do("POST", container, "/start")
                    await api.do("POST", container, "/kill")
                if life == "stopped":
                    await api.do("POST", container, "/start")
                    await api.marked(container)
                    await api.do("POST", container, "/stop", t=GRACE_S)
        by_hand = f"by-hand-{next(NUMBERS)}"
        await api.run(by_hand, SLEEPY, restart="always")
        (found,) = await containers.list(by_hand)
        assert (found.restart_policy, found.by_policy) == ("always", False)

        await engine.restart(live_restore=live_restore)

        await heard.until(lambda said: said.count(Signal.GAP) >= 2)
        runs, by_policy = set(), set()
        for name, what in made.items():
            (found,) = await containers.list(name)
            runs |= {what} if found.running else set()
            by_policy |= {what} if found.by_policy else set()
        assert runs == {"always stopped", "always failed", "on-failure failed"}
        assert by_policy == runs
        (found,) = await containers.list(by_hand)
        assert (found.running, found.by_policy) == (True, not live_restore)
        await api.ask("POST", f"/containers/{by_hand}/update", json={"RestartPolicy": {"Name": "no"}})

        async def without_policy() -> bool:
            (found,) = await containers.list(by_hand)
            return (found.restart_policy, found.by_policy) == ("", False)

        await until_async(without_policy)

    async def test_what_an_operator_starts_while_the_stream_alone_is_lost_is_not_docker_s_own(
        self,
        containers: DockerContainers,
        heard: Heard,
        api: Api,
        feature: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The engine runs on: an unreadable event ends the stream."""
        local = await api.run(feature, restart="always")
        await heard.until(lambda said: feature in said)
        await api.do("POST", local, "/kill")
        readable = docker_events.parse_event

        def unreadable(line: bytes) -> docker_events.Event:
            raise Unavailable("Docker", f"an unreadable event: {line[:80]!a}")

        monkeypatch.setattr(docker_events, "parse_event", unreadable)
        before = heard.said.count(Signal.GAP)
        await api.create(f"lost-{feature}")
        await heard.until(lambda said: said.count(Signal.GAP) > before)
        await api.do("POST", local, "/start")
        monkeypatch.setattr(docker_events, "parse_event", readable)
        await api.create(f"back-{feature}")
        await heard.until(lambda said: f"back-{feature}" in said)
        (found,) = await containers.list(feature)
        assert (found.running, found.restart_policy, found.by_policy) == (True, "always", False)

    @pytest.mark.slow("waits for a deadline of the product")
    @pytest.mark.parametrize("quiet_s", [0.5])
    async def test_an_engine_that_hangs_is_a_gap_and_its_cache_is_not_believed(
        self, containers: DockerContainers, heard: Heard, api: Api, engine: Engine, feature: str
    ) -> None:
        await api.run(feature)
        await heard.then_forget(feature, times=2)
        await containers.list(feature)

        engine.freeze()
        await heard.then_forget(Signal.GAP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):  # only the cache could answer
                await containers.list(feature)

        engine.thaw()
        await heard.then_forget(Signal.GAP)
        assert [c.running for c in await containers.list(feature)] == [True]

    async def test_no_engine_is_unavailable_never_missing(self, tmp_path: Path) -> None:
        port = DockerContainers(
            DockerSettings(f"unix://{tmp_path}/nobody.sock"),
            [NAMESPACE],
            random.Random(1),
            names=KubeNames(),
        )
        calls: list[Awaitable[object]] = [
            port.list("snmp"),
            port.identify("ab" * 32),
            port.start("ab" * 32),
            port.stop("ab" * 32, 1),
            port.kill("ab" * 32, "KILL"),
        ]
        for call in calls:
            with pytest.raises(Unavailable):
                await call
        await port.close()


class TestTheApiItself:
    """Check the lab's engine beyond our port: the docker command and the kubelet read these."""

    async def test_errors_have_docker_s_status_and_text(self, api: Api) -> None:
        running, created = await api.run("snmp"), await api.create("lldp")
        unknown, clash = "No such container: nosuch", conflict("snmp", running)
        busy = "Stop the container before attempting removal or force remove"
        for method, path, status, message in [
            ("POST", "/containers/nosuch/start", 404, unknown),
            ("POST", "/containers/nosuch/stop", 404, unknown),
            ("GET", "/containers/nosuch/json", 404, unknown),
            ("POST", "/containers/nosuch/kill", 404, f"Cannot kill container: nosuch: {unknown}"),
            (
                *("POST", "/containers/lldp/kill", 409),
                f"Cannot kill container: lldp: Container {created} is not running",
            ),
            ("POST", "/containers/snmp/kill?signal=FOO", 400, "Invalid signal: FOO"),
            ("DELETE", "/containers/snmp", 409, f"You cannot remove a running container {running}. {busy}"),
            (
                *("POST", "/containers/lldp/rename?name=snmp", 409),
                f"Error when allocating new name: {clash}",
            ),
            ("GET", "/images/nosuch/json", 404, "no such image: nosuch: No such image: nosuch:latest"),
            ("GET", '/containers/json?filters={"bogus":["x"]}', 400, "Invalid filter 'bogus'"),
            ("GET", "/no/such/path", 404, "page not found"),
        ]:
            assert await api.ask(method, path) == (status, {"message": message})

    async def test_a_name_in_use_and_an_unknown_image_are_refused(self, api: Api) -> None:
        snmp = await api.create("snmp")
        body = {"Image": "busybox:lab", "Cmd": ["true"]}

        answer = await api.ask("POST", "/containers/create?name=snmp", json=body)
        assert answer == (409, {"message": conflict("snmp", snmp)})
        body["Image"] = "nosuch:1"
        answer = await api.ask("POST", "/containers/create?name=lldp", json=body)
        assert answer == (404, {"message": "No such image: nosuch:1"})

    async def test_starting_the_running_and_stopping_the_stopped_change_nothing(self, api: Api) -> None:
        snmp = await api.create("snmp")

        assert (await api.ask("POST", f"/containers/{snmp}/stop"))[0] == 304
        assert (await api.ask("POST", f"/containers/{snmp}/start"))[0] == 204
        assert (await api.ask("POST", f"/containers/{snmp}/start"))[0] == 304

    async def test_a_container_s_events_come_in_order(self, api: Api) -> None:
        snmp = await api.run("snmp", labels={"a": "b"})
        await api.marked(snmp)
        await api.do("POST", snmp, "/stop", t=GRACE_S)
        await api.do("POST", snmp, "/start")
        await api.do("POST", snmp, "/rename", name="lldp")
        await api.do("POST", snmp, "/kill")
        await api.wait(snmp)
        await api.remove(snmp)

        told = await self._journal(api, snmp)

        attributes = [event["Actor"]["Attributes"] for event in told]
        assert [event["Action"] for event in told] == [
            *("create", "start", "kill", "die", "stop", "start", "rename", "kill", "die", "destroy")
        ]
        assert [a["exitCode"] for a in attributes if "exitCode" in a] == ["5", "137"]
        assert [a["signal"] for a in attributes if "signal" in a] == ["15", "9"]
        assert [a["name"] for a in attributes] == ["snmp"] * 6 + ["lldp"] * 4
        assert attributes[6]["oldName"] == "/snmp"
        assert all(a["a"] == "b" and a["image"] == "busybox:lab" for a in attributes)
        assert sorted(e["timeNano"] for e in told) == [e["timeNano"] for e in told]

    async def test_wait_tells_the_exit_code_then_and_later(self, api: Api) -> None:
        snmp = await api.run("snmp", SLOW)
        waiter = asyncio.create_task(api.ask("POST", f"/containers/{snmp}/wait"))
        await api.do("POST", snmp, "/kill")

        for answer in (await waiter, await api.ask("POST", f"/containers/{snmp}/wait")):
            assert answer == (200, {"Error": None, "StatusCode": 137})

    @staticmethod
    async def _journal(api: Api, container: str) -> list[dict[str, Any]]:
        """What the engine still knows to tell of one container."""
        connector = aiohttp.UnixConnector(str(api._socket))
        seen: list[dict[str, Any]] = []
        params = {"since": "0", "filters": '{"type": ["container"]}'}
        async with (
            asyncio.timeout(PATIENCE_S),
            aiohttp.ClientSession("http://docker", connector=connector) as session,
            session.get("/events", params=params) as response,
        ):
            async for line in response.content:
                event = json.loads(line)
                if event["Actor"]["ID"] == container and not event["Action"].startswith("exec_"):
                    seen.append(event)
                if seen and seen[-1]["Action"] == "destroy":
                    break
        return seen


async def test_what_an_engine_starts_that_comes_after_the_daemon_is_its_own(tmp_path: Path) -> None:
    async with LabDocker(tmp_path) as lab:
        api = Api(lab.socket)
        local = await api.run("snmp", SLEEPY, restart="always")
        await api.do("POST", local, "/kill")
        await lab.shut()
        port = DockerContainers(DockerSettings(lab.url), [NAMESPACE], random.Random(1), names=KubeNames())
        lost = asyncio.Event()
        heard = Heard(port, lambda why: lost.set() if why else None)
        async with asyncio.timeout(PATIENCE_S):
            await lost.wait()
        await lab.restart(live_restore=False)
        await heard.until(lambda said: Signal.GAP in said)
        (found,) = await port.list("snmp")
        assert (found.running, found.by_policy) == (True, True)
        await heard.close()
        await port.close()
