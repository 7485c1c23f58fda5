"""Give an installed switch a master: the lab's API server, and the lab's kubelet on the switch's own Docker.

The kubelet runs outside, in the tests' Python; the unit that the daemon switches on and off is a placeholder. Knows
nothing of kubesyncd but what a manifest says (docs/containers.md).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tests.lab.engines import ROOT, LabKubeProcess, end
from tests.lab.kube_client import DAEMONSETS, NODES, KubeClient, KubeError
from tests.system.installed_fixtures import IMAGE, redis
from tests.system.installed_switch import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.installed_switch import InstalledSwitch

KUBELET_UNIT = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
HOOKS = "/usr/share/kubesyncd/container"
MOUNTS = ("/usr", "/etc", "/run/kubesyncd/container")


class Master:
    """`with Master(switch, folder) as master`: the switch has joined it, and its kubelet runs pods."""

    def __init__(self, switch: InstalledSwitch, folder: Path) -> None:
        self._switch = switch
        self._api = LabKubeProcess(folder)
        self._kubelet: subprocess.Popen[bytes] | None = None

    @property
    def admin_conf(self) -> Path:
        """Its administrator's kubeconfig, whole in one file."""
        return self._api.admin_conf

    def __enter__(self) -> Self:
        self._api.start()
        self._lend_credential()
        self._switch.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT)
        self._switch.run("systemctl", "daemon-reload")
        unit = self._api.kubelet_unit(self._switch.root / "run/docker.sock")
        self._kubelet = subprocess.Popen(unit["command"], cwd=ROOT, stdin=subprocess.DEVNULL)
        address = urlsplit(self._api.url)
        fields = ("IP", str(address.hostname), "port", str(address.port))
        redis(self._switch, 4, "hset", "KUBERNETES_MASTER|SERVER", *fields)
        self._switch.wait_for(lambda: self.labels() is not None, "the Node is registered")
        return self

    def __exit__(self, *_: object) -> None:
        redis(self._switch, 4, "del", "KUBERNETES_MASTER|SERVER")
        try:
            end(self._kubelet, limit_s=PATIENCE_S)
            self._remove_pods()
        finally:
            self._api.stop()
            self._switch.run("systemctl", "disable", "--now", "kubelet.service")

    def _remove_pods(self) -> None:
        """Remove what the kubelet had no time to: it would ask to be admitted in the next test."""
        kube = ("--filter", "label=io.kubernetes.pod.uid")
        if left := self._switch.run("docker", "ps", "-aq", *kube).split():
            self._switch.process("docker", "rm", "-f", *left)

    def _lend_credential(self) -> None:
        """The kubelet's kubeconfig and what it names, where a real one keeps them."""
        config = json.loads(self._api.kubelet_conf.read_text())
        for key, path in config["users"][0]["user"].items():
            inside = f"/var/lib/kubelet/pki/{key}.pem"
            with open(path) as pem:
                self._switch.write(inside, pem.read(), mode=0o600)
            config["users"][0]["user"][key] = inside
        self._switch.write("/etc/kubernetes/kubelet.conf", json.dumps(config), mode=0o600)

    def stop_api(self) -> None:
        """The master is gone, at once."""
        self._api.stop_api()

    def start_api(self) -> None:
        """The master is back, with the same objects."""
        self._api.start()

    def labels(self) -> dict[str, str] | None:
        """The Node's labels by the master's word; None while it has no Node."""
        try:
            found: dict[str, str] = self.call("get", f"{NODES}/{self._api.node}")["metadata"]["labels"]
        except KubeError as error:
            if error.status != 404:
                raise
            return None
        return found

    def deploy(self, feature: str, *command: str) -> None:
        """A DaemonSet that honours the rules: the label, the socket, the entry point."""
        mounts = [{"name": f"m{i}", "mountPath": path} for i, path in enumerate(MOUNTS)]
        volumes = [{"name": f"m{i}", "hostPath": {"path": path}} for i, path in enumerate(MOUNTS)]
        container = {
            "name": feature,
            "image": IMAGE,
            "command": [f"{HOOKS}/entrypoint", feature, *(command or ("lab-feature",))],
            "volumeMounts": mounts,
        }
        pod = {
            "hostNetwork": True,
            "nodeSelector": {f"{feature}_enabled": "true"},
            "containers": [container],
            "volumes": volumes,
        }
        labels = {"app": feature}
        daemonset = {
            "metadata": {"name": feature},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
        self.call("post", DAEMONSETS, daemonset)

    def withdraw(self, feature: str) -> None:
        """Take the DaemonSet away, and its pod with it."""
        self.call("delete", f"{DAEMONSETS}/{feature}")

    def call(self, what: str, *arguments: Any) -> Any:
        """One call of KubeClient as the master's administrator."""

        async def once() -> Any:
            async with KubeClient(self._api.admin_conf) as api:
                return await getattr(api, what)(*arguments)

        return asyncio.run(once())
