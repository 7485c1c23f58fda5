"""Compare the lab's kubelet with the real one through Docker: one suite for both."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiodocker
import pytest

from tests.lab.docker_engine import LabDocker
from tests.lab.kube_api import LabKube
from tests.lab.kube_client import DAEMONSETS, NODES, PODS, KubeClient, daemonset
from tests.lab.kubelet import Kubelet
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.system.kube_fixtures import RealKubelet

IMAGE = "busybox:lab"
# A container's first process ignores SIGTERM unless it says otherwise.
COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"]


@dataclass(frozen=True, slots=True)
class Switch:
    """A node with a kubelet on a Docker engine; the functions switch kubelet and master off and on."""

    node: str
    admin: KubeClient
    docker: aiodocker.Docker
    kubelet_off: Callable[[], Awaitable[None]]
    kubelet_on: Callable[[], Awaitable[None]]
    master_off: Callable[[], Awaitable[None]]
    master_on: Callable[[], Awaitable[None]]

    async def label(self, value: str | None) -> None:
        """What kubesyncd would do."""
        patch = {"metadata": {"labels": {"snmp_enabled": value}}}
        await self.admin.patch(f"{NODES}/{self.node}", patch)

    async def running(self) -> dict[str, str]:
        """Names by ID of the feature's running containers."""
        label = ["io.kubernetes.container.name=snmp", "io.kubernetes.docker.type=container"]
        found = await self.docker.containers.list(filters=json.dumps({"label": label}))
        return {container.id: container["Names"][0].lstrip("/") for container in found}

    async def one_running(self, other_than: str = "") -> str:
        """The ID of the only running container, once there is one."""

        async def one() -> str:
            ids = await self.running()
            return next(iter(ids)) if len(ids) == 1 and other_than not in ids else ""

        return await until_async(one, pause_s=0.1)

    async def reported(self) -> None:
        """Returns once the master knows that the feature's pod runs; one that ends may be an earlier test's."""

        async def phase() -> str:
            pods = [
                pod
                for pod in (await self.admin.get(PODS))["items"]
                if "deletionTimestamp" not in pod["metadata"]
            ]
            return "known" if any(pod["status"]["phase"] == "Running" for pod in pods) else ""

        await until_async(phase, pause_s=0.1)

    async def none_running(self) -> None:
        """Returns once no container of the feature runs."""

        async def none() -> str:
            return "" if await self.running() else "none"

        await until_async(none, pause_s=0.1)


@asynccontextmanager
async def _lab(folder: Path) -> AsyncIterator[Switch]:
    async with LabKube(folder / "kube") as api, LabDocker(folder / "docker") as engine:
        running: list[asyncio.Task[None]] = []

        async def on() -> None:
            kubelet = Kubelet(api.kubelet_conf, api.node, str(engine.socket))
            running.append(asyncio.create_task(kubelet.run()))

        async def off() -> None:
            running[-1].cancel()
            with suppress(asyncio.CancelledError):
                await running.pop()

        await on()
        async with (
            KubeClient(api.admin_conf) as admin,
            aiodocker.Docker(url=f"unix://{engine.socket}") as docker,
        ):
            yield Switch(api.node, admin, docker, off, on, api.stop, api.start)
        if running:
            await off()


@asynccontextmanager
async def _real(real: RealKubelet) -> AsyncIterator[Switch]:
    cluster = real.cluster
    # A test before this one may have ended it.
    await asyncio.to_thread(cluster.start_kubelet, real.docker_socket)

    async def stop(program: str) -> None:
        await asyncio.to_thread(cluster.stop, program)

    async def start_kubelet() -> None:
        await asyncio.to_thread(cluster.start_kubelet, real.docker_socket)

    async with (
        KubeClient(cluster.admin_conf) as admin,
        aiodocker.Docker(url=f"unix://{real.docker_socket}") as docker,
    ):
        yield Switch(
            cluster.node,
            admin,
            docker,
            kubelet_off=lambda: stop("kubelet"),
            kubelet_on=start_kubelet,
            master_off=lambda: stop("kube-apiserver"),
            master_on=lambda: asyncio.to_thread(cluster.start),
        )


@pytest.fixture(params=["lab", pytest.param("real", marks=pytest.mark.real("kubelet"))])
async def switch(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Switch]:
    """A registered node, a DaemonSet waiting for its label, and nothing running."""
    world = _lab(tmp_path) if request.param == "lab" else _real(request.getfixturevalue("kubelet_real"))
    async with world as switch:
        nodes = f"{NODES}/{switch.node}"

        async def registered() -> str:
            with suppress(Exception):
                return str((await switch.admin.get(nodes))["metadata"]["uid"])
            return ""

        await until_async(registered, pause_s=0.1)
        await switch.admin.post(DAEMONSETS, daemonset("snmp", IMAGE, COMMAND, {"FEATURE": "snmp"}))
        yield switch
        await switch.label(None)
        await switch.none_running()
        await switch.admin.delete(f"{DAEMONSETS}/snmp")


async def test_the_label_brings_the_container_and_takes_it_away(switch: Switch) -> None:
    assert await switch.running() == {}
    await switch.label("true")
    first = await switch.one_running()
    name = (await switch.running())[first]
    assert name.startswith("k8s_snmp_snmp-")
    assert "_sonic_" in name
    assert name.endswith("_0")
    inspected = await (await switch.docker.containers.get(first)).show()
    assert "FEATURE=snmp" in inspected["Config"]["Env"]
    # The real one leaves a container that ends before its start was reported to a collection once a minute.
    await switch.reported()
    await switch.label(None)
    await switch.none_running()

    async def destroyed() -> str:
        try:
            await switch.docker.containers.get(first)
        except aiodocker.DockerError as error:
            return str(error.status)
        return ""

    assert await until_async(destroyed, pause_s=0.1) == "404"


async def test_a_stopped_container_is_started_again_as_a_new_one(switch: Switch) -> None:
    await switch.label("true")
    first = await switch.one_running()
    await switch.docker.containers.container(first).stop(t=1)
    second = await switch.one_running(other_than=first)
    assert (await switch.running())[second].endswith("_1")


async def test_containers_outlive_their_kubelet_and_are_adopted_by_the_next(switch: Switch) -> None:
    await switch.label("true")
    first = await switch.one_running()
    await switch.kubelet_off()
    assert list(await switch.running()) == [first]
    await switch.kubelet_on()
    await asyncio.sleep(3)
    assert list(await switch.running()) == [first]
    await switch.label(None)
    await switch.none_running()


async def test_without_its_kubelet_a_stopped_container_stays_stopped(switch: Switch) -> None:
    await switch.label("true")
    first = await switch.one_running()
    await switch.kubelet_off()
    await switch.docker.containers.container(first).stop(t=1)
    await asyncio.sleep(3)
    assert await switch.running() == {}
    await switch.kubelet_on()
    await switch.one_running(other_than=first)


async def test_without_a_master_containers_go_on_and_are_restarted(switch: Switch) -> None:
    await switch.label("true")
    first = await switch.one_running()
    await switch.master_off()
    await switch.docker.containers.container(first).stop(t=1)
    second = await switch.one_running(other_than=first)
    await switch.master_on()
    await asyncio.sleep(1)
    assert list(await switch.running()) == [second]
