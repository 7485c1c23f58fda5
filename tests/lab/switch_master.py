"""Do on a virtual switch's master what its administrator does, and see what it knows of the switch's Node."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.lab import kube_client
from tests.lab.kube_client import DAEMONSETS, NODES, KubeClient, KubeError
from tests.lab.kube_names import kube_name
from tests.lab.switch_containers import IMAGE

if TYPE_CHECKING:
    from tests.lab.engines import Kube
    from tests.lab.switch_containers import SwitchContainers


class SwitchMaster:
    """The API server `kube`; `containers`: what the features' pods run."""

    def __init__(self, kube: Kube, containers: SwitchContainers) -> None:
        self._kube = kube
        self._containers = containers

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """One call of the administrator's: a method of KubeClient."""

        async def call() -> Any:
            async with KubeClient(self._kube.admin_conf) as api:
                return await getattr(api, verb)(*arguments, **options)

        return asyncio.run(call())

    def deploy(self, feature: str, **container: Any) -> None:
        """Run the feature by a DaemonSet on each node with its label."""
        self.forget(feature)
        self.call("post", DAEMONSETS, self.daemonset(feature, **container))

    def forget(self, *features: str) -> None:
        """Take DaemonSets away (all where none is named), and the node's labels with them all."""
        with contextlib.suppress(aiohttp.ClientConnectionError, KubeError):
            names = [kube_name(feature) for feature in features] or [
                d["metadata"]["name"] for d in self.call("get", DAEMONSETS)["items"]
            ]
            for name in names:
                self.call("delete", f"{DAEMONSETS}/{name}")

    def daemonset(self, feature: str, *, image: str = IMAGE, **options: Any) -> dict[str, Any]:
        """The DaemonSet with which the master runs the feature."""
        command = self._containers.command(feature, "kube", **options)
        made = kube_client.daemonset(feature, image, command, self._containers.environment)
        pod, mounts = made["spec"]["template"]["spec"], self._containers.mounts
        pod["volumes"] = [{"name": f"m{n}", "hostPath": {"path": path}} for n, path in enumerate(mounts)]
        pod["containers"][0]["volumeMounts"] = [
            {"name": f"m{n}", "mountPath": path, "readOnly": bool(mode)}
            for n, (path, mode) in enumerate(mounts.items())
        ]
        return made

    @property
    def labels(self) -> dict[str, str]:
        """The labels of our Node, by the master's word; empty while there is no Node."""
        try:
            found: dict[str, str] = self.call("get", f"{NODES}/{self._kube.node}")["metadata"]["labels"]
        except KubeError as error:
            if error.status != 404:
                raise
            return {}
        return found

    def set_label(self, key: str, value: str | None) -> None:
        """Set a label of our Node, or with None take it away, as an administrator does."""
        self.call("patch", f"{NODES}/{self._kube.node}", {"metadata": {"labels": {key: value}}})

    def label_of(self, feature: str) -> str:
        """The feature's node label; empty without."""
        return self.labels.get(f"{feature}_enabled", "")
