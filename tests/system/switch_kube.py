"""Use the real Kubernetes as a lab switch's master: tests.lab.engines.Kube over RealKube.

Knows nothing of kubesyncd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.system.kube_cluster import API_SERVER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.kube_cluster import RealKube


class RealMaster:
    """The real API server, and the real kubelet as a unit. `cluster` runs already, and outlives it."""

    def __init__(self, cluster: RealKube) -> None:
        self._cluster = cluster
        self.node = cluster.node
        self.admin_conf = cluster.admin_conf
        self.kubelet_conf = cluster.kubelet_conf

    @property
    def url(self) -> str:
        return self._cluster.url

    def start(self) -> None:
        """Answering when this returns."""
        self._cluster.start()

    def stop_api(self) -> None:
        """End the API server at once; its objects stay."""
        self._cluster.kill(API_SERVER)

    def freeze_api(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._cluster.freeze(API_SERVER)

    def thaw_api(self) -> None:
        """Go on where `freeze_api` stopped."""
        self._cluster.thaw(API_SERVER)

    def stop(self) -> None:
        """Nothing: the maker of the cluster ends it."""

    def kubelet_unit(self, docker_socket: Path) -> dict[str, Any]:
        """The kubelet as a unit for tests/lab/systemctl.py."""
        return {
            "command": self._cluster.kubelet_command(str(docker_socket)),
            "cwd": str(self._cluster.folder),
            "pid_file": str(self._cluster.folder / "pids" / "kubelet"),
        }
