"""Give each worker a real Kubernetes: one API server, and one kubelet with an engine of its own.

Knows nothing of kubesyncd. `tests/conftest.py` makes these fixtures known to every test; one that asks for
them carries the mark `real("kube")` or `real("kubelet")`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.docker_engine import RealDocker
from tests.system.kube_cluster import RealKube

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class RealKubelet:
    """A cluster whose node `cluster.node` runs pods on `docker`, behind `docker_socket`."""

    cluster: RealKube
    docker: RealDocker

    @property
    def docker_socket(self) -> str:
        """A path."""
        return str(self.docker.socket)


@pytest.fixture(scope="session")
def kube_api_real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKube]:
    """etcd and the real API server; a test that stops it starts it again."""
    cluster = RealKube(tmp_path_factory.mktemp("kube"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def kubelet_real() -> Iterator[RealKubelet]:
    """A cluster with a Docker engine of its own; each test starts controllers and kubelet, where they do not run."""
    cluster = RealKube(Path(tempfile.mkdtemp(prefix="kk-")))
    docker = RealDocker(cluster.folder / "docker")
    docker.folder.mkdir()
    try:
        docker.start()
        docker.import_image()
        cluster.start()
        yield RealKubelet(cluster, docker)
    finally:
        cluster.stop()
        docker.stop()
        cluster.forget()
