"""Stand in for the kubelet: run the pods bound to its node as containers of a Docker engine.

    python -m tests.lab.kubelet --kubeconfig FILE --node NAME --docker SOCKET

It names and labels containers as dockershim does, restarts what dies as a new container, and takes them away
when the pod goes. Stopped, it leaves them running and adopts them at its next start; without an API server it
keeps what it knows running. Knows nothing of kubesyncd; `kube_store.run_daemonsets` decides on the pods.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiodocker
import aiohttp

from tests.lab.kube_client import NODES, KubeClient, KubeError
from tests.lab.kube_names import kube_box

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

Pod = dict[str, Any]

POLL_S = 0.3
# A real kubelet reports an unchanged Node this seldom (nodeStatusReportFrequency).
HEARTBEAT_S = 300.0
RETRY_S = 1.0
BACKOFF_S_MAX = 300.0
# The real one takes a dead container away about this long after its end.
REMOVE_S = 0.5
FOREIGN = (aiohttp.ClientError, aiodocker.DockerError, KubeError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Box:
    """A container or a sandbox of ours, by Docker's word."""

    id: str
    pod_uid: str
    name: str
    attempt: int
    sandbox: bool
    running: bool


class Kubelet:
    """Runs the pods of `node`. `restart_s`: until a container's first restart; `backoff_s`: until its second,
    doubling from there.
    """

    def __init__(
        self,
        kubeconfig: Path,
        node: str,
        docker_socket: str,
        *,
        restart_s: float = 0.7,
        backoff_s: float = 10.0,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._node = node
        self._docker_url = f"unix://{docker_socket}"
        self._restart_s = restart_s
        self._backoff_s = backoff_s
        self._pods: dict[str, Pod] | None = None
        self._died: dict[str, float] = {}
        self._reported: dict[str, list[str]] = {}
        self._busy: set[str] = set()
        self._kicked = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; containers stay."""
        async with (
            aiodocker.Docker(url=self._docker_url) as docker,
            KubeClient(self._kubeconfig) as api,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(_again(lambda: self._heartbeat(api)))
            group.create_task(_again(lambda: self._hear(api)))
            group.create_task(_again(lambda: self._keep(group, docker, api)))

    async def _heartbeat(self, api: KubeClient) -> None:
        """Register the Node and say that it is ready, now and then."""
        while True:
            path = f"{NODES}/{self._node}"
            try:
                await api.get(path)
            except KubeError as error:
                if error.status != 404:
                    raise
                labels = {"kubernetes.io/hostname": self._node, "kubernetes.io/os": "linux"}
                node = {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": self._node, "labels": labels},
                }
                await api.post(NODES, node)
            beat = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": beat}
            status = {"conditions": [ready], "nodeInfo": {"kubeletVersion": "v1.20.2-lab"}}
            await api.patch(f"{path}/status", {"status": status})
            await asyncio.sleep(HEARTBEAT_S)

    async def _hear(self, api: KubeClient) -> None:
        """Know the pods of this node: list, then watch."""
        mine = {"fieldSelector": f"spec.nodeName={self._node}"}
        listed = await api.get("/api/v1/pods", **mine)
        pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        self._pods = pods
        self._kicked.set()
        async for event in api.watch(
            "/api/v1/pods", listed["metadata"]["resourceVersion"], timeoutSeconds="50", **mine
        ):
            if event["type"] == "ERROR":
                return
            pod = event["object"]
            if event["type"] == "DELETED":
                pods.pop(pod["metadata"]["uid"], None)
            else:
                pods[pod["metadata"]["uid"]] = pod
            self._kicked.set()

    async def _keep(self, group: asyncio.TaskGroup, docker: aiodocker.Docker, api: KubeClient) -> None:
        """Look at Docker again and again, and let every pod that has something to do do it."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._kicked.wait(), POLL_S)
            self._kicked.clear()
            if self._pods is None:
                continue
            boxes = await _boxes(docker)
            for uid in self._pods.keys() | {box.pod_uid for box in boxes}:
                if uid not in self._busy:
                    self._busy.add(uid)
                    own = [box for box in boxes if box.pod_uid == uid]
                    group.create_task(self._settle(uid, own, docker, api))

    async def _settle(self, uid: str, boxes: list[Box], docker: aiodocker.Docker, api: KubeClient) -> None:
        pod = (self._pods or {}).get(uid)
        try:
            if pod is None or "deletionTimestamp" in pod["metadata"]:
                await self._end(uid, pod, boxes, docker, api)
            else:
                await self._advance(pod, boxes, docker)
                await self._report(pod, boxes, api)
        except FOREIGN as error:
            print(f"kubelet: pod {uid}: {error}", flush=True)
            await asyncio.sleep(RETRY_S)
        finally:
            self._busy.discard(uid)

    async def _advance(self, pod: Pod, boxes: list[Box], docker: aiodocker.Docker) -> None:
        """Start what does not run: the sandbox first."""
        uid = pod["metadata"]["uid"]
        if not any(box.sandbox and box.running for box in boxes):
            await self._start(pod, "POD", _next_attempt(boxes, "POD"), _sandbox(pod), docker)
        for container in pod["spec"]["containers"]:
            name = container["name"]
            runs = [box for box in boxes if box.name == name and not box.sandbox]
            if any(box.running for box in runs) or not self._due(f"{uid}/{name}", len(runs) > 0, runs):
                continue
            for old in sorted(runs, key=lambda box: box.attempt)[:-1]:
                await docker.containers.container(old.id).delete(force=True)
            await self._start(pod, name, _next_attempt(runs, name), _config(pod, container), docker)
            self._died.pop(f"{uid}/{name}", None)

    def _due(self, key: str, died: bool, runs: list[Box]) -> bool:
        """Whether a container that does not run may be started: at once when new, later each time it died."""
        if not died:
            return True
        now = time.monotonic()
        since = self._died.setdefault(key, now)
        deaths = max(box.attempt for box in runs)
        delay = self._restart_s if deaths == 0 else min(self._backoff_s * 2 ** (deaths - 1), BACKOFF_S_MAX)
        return now - since >= delay

    async def _start(
        self, pod: Pod, name: str, attempt: int, config: dict[str, Any], docker: aiodocker.Docker
    ) -> None:
        meta = pod["metadata"]
        full, labels = kube_box(name, meta["name"], meta["namespace"], attempt, uid=meta["uid"])
        container = await docker.containers.create({**config, "Labels": labels}, name=full)
        await container.start()

    async def _end(
        self, uid: str, pod: Pod | None, boxes: list[Box], docker: aiodocker.Docker, api: KubeClient
    ) -> None:
        """Stop the pod's containers, then its sandbox; take them away; tell the API server it is over."""
        grace = int((pod or {}).get("spec", {}).get("terminationGracePeriodSeconds", 30))
        for sandbox in (False, True):
            part = [
                docker.containers.container(box.id) for box in boxes if box.sandbox == sandbox and box.running
            ]
            await asyncio.gather(*(container.stop(t=0 if sandbox else grace) for container in part))
        if boxes:
            await asyncio.sleep(REMOVE_S)
        for box in boxes:
            with suppress(aiodocker.DockerError):
                await docker.containers.container(box.id).delete(force=True)
        if pod is not None:
            await api.delete(_path(pod), grace_s=0)
        self._reported.pop(uid, None)

    async def _report(self, pod: Pod, boxes: list[Box], api: KubeClient) -> None:
        """The pod's status, where it is news. An API server that does not answer learns it later."""
        running = [box for box in boxes if box.running and not box.sandbox]
        news = sorted(box.id for box in running)
        if self._reported.get(pod["metadata"]["uid"]) == news:
            return
        statuses = [
            {
                "name": box.name,
                "containerID": f"docker://{box.id}",
                "ready": True,
                "restartCount": box.attempt,
                "image": next(c["image"] for c in pod["spec"]["containers"] if c["name"] == box.name),
                "state": {"running": {}},
            }
            for box in running
        ]
        ready = "True" if len(running) == len(pod["spec"]["containers"]) else "False"
        status = {
            "phase": "Running" if running else "Pending",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": statuses,
        }
        with suppress(*FOREIGN):
            await api.patch(f"{_path(pod)}/status", {"status": status})
            self._reported[pod["metadata"]["uid"]] = news


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` for ever; what fails outside is tried again after a while."""
    while True:
        try:
            await work()
        except FOREIGN as error:
            print(f"kubelet: {error}", flush=True)
            await asyncio.sleep(RETRY_S)


async def _boxes(docker: aiodocker.Docker) -> list[Box]:
    """Every container a kubelet has made on this engine."""
    found = await docker.containers.list(all=True, filters=json.dumps({"label": ["io.kubernetes.pod.uid"]}))
    return [_box(container.id, container["Labels"], container["State"]) for container in found]


def _box(container_id: str, labels: Mapping[str, str], state: str) -> Box:
    return Box(
        id=container_id,
        pod_uid=labels["io.kubernetes.pod.uid"],
        name=labels["io.kubernetes.container.name"],
        attempt=int(labels.get("annotation.io.kubernetes.container.restartCount", "0")),
        sandbox=labels["io.kubernetes.docker.type"] == "podsandbox",
        running=state == "running",
    )


def _next_attempt(boxes: list[Box], name: str) -> int:
    return max((box.attempt + 1 for box in boxes if box.name == name), default=0)


def _sandbox(pod: Pod) -> dict[str, Any]:
    """A container that only sleeps: no pause image is pulled, the pod's first image serves."""
    return {
        "Image": pod["spec"]["containers"][0]["image"],
        "Entrypoint": ["/bin/sleep"],
        "Cmd": ["2147483647"],
        "HostConfig": {"NetworkMode": _network(pod)},
    }


def _config(pod: Pod, container: dict[str, Any]) -> dict[str, Any]:
    """A manifest's container in Docker's words."""
    config: dict[str, Any] = {
        "Image": container["image"],
        "Env": [f"{e['name']}={e.get('value', '')}" for e in container.get("env") or []],
        "HostConfig": {"NetworkMode": _network(pod), "Binds": _binds(pod, container)},
    }
    if container.get("command"):
        config["Entrypoint"] = container["command"]
    if container.get("args"):
        config["Cmd"] = container["args"]
    return config


def _binds(pod: Pod, container: dict[str, Any]) -> list[str]:
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["spec"].get("volumes") or [] if "hostPath" in v}
    return [
        f"{paths[m['name']]}:{m['mountPath']}" + (":ro" if m.get("readOnly") else "")
        for m in container.get("volumeMounts") or []
        if m["name"] in paths
    ]


def _network(pod: Pod) -> str:
    return "host" if pod["spec"].get("hostNetwork") else "none"


def _path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


async def _serve(kubelet: Kubelet) -> None:
    running = asyncio.ensure_future(kubelet.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.kubelet")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--docker", required=True, help="the engine's socket, a path")
    parser.add_argument("--restart-s", type=float, default=0.7)
    parser.add_argument("--backoff-s", type=float, default=10.0)
    given = parser.parse_args()
    asyncio.run(
        _serve(
            Kubelet(
                given.kubeconfig,
                given.node,
                given.docker,
                restart_s=given.restart_s,
                backoff_s=given.backoff_s,
            )
        )
    )


if __name__ == "__main__":
    main()
