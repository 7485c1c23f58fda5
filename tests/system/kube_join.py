"""Run the real `kubeadm join`: a real cluster that accepts joins, and a switch's folders for one node.

kubeadm, the kubelet and what they write live in a mount namespace of their own, where /etc/kubernetes and the like
are folders under DIR: this machine keeps its own. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.lab.kube_api import free_port
from tests.system.kube_cluster import (
    PAUSE_IMAGE,
    RealKube,
    _docker,
    _import_pause_image,
    missing_for_kubelet,
    programs_folder,
)
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Sequence

# What kubeadm and the kubelet write to, whatever they are told.
FOLDERS = (
    "/etc/kubernetes",
    "/etc/cni/net.d",
    "/var/lib/kubelet",
    "/var/lib/dockershim",
    "/var/lib/cni",
    "/var/run/kubernetes",
)
TOKEN = "abcdef.0123456789abcdef"
# The kubelet's port for its health is written into kubeadm.
HEALTH_PORT = 10248
PATIENCE_S = 300


def missing_for_join() -> str:
    """What this machine lacks for a real join; empty: nothing."""
    if missing_for_kubelet():
        return missing_for_kubelet()
    if not (programs_folder() / "kubeadm").exists():
        return "kubeadm 1.20.2 is not built (make engines)"
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return "" if tried.returncode == 0 else "no mount namespace may be made here"


class JoinableKube(RealKube):
    """A cluster that takes joins by admin.conf and by token."""

    def start_for_joins(self) -> None:
        """API server, controllers, and everything `kubeadm join` looks for."""
        self.start()
        for name, command in self._controllers():
            self._run(name, command)
        self._publish()

    def _controllers_command(self) -> list[str]:
        return [*super()._controllers_command(), "--controllers=*,bootstrapsigner,tokencleaner"]

    @property
    def ca_hash(self) -> str:
        """The pin of the CA's key, as kubeadm wants it."""
        script = "openssl x509 -pubkey -noout -in {} | openssl pkey -pubin -outform der | openssl dgst -sha256 -hex"
        done = subprocess.run(
            ["sh", "-c", script.format(self.authority.pair.certificate)],
            capture_output=True,
            text=True,
            check=True,
        )
        return f"sha256:{done.stdout.split()[-1]}"

    def _publish(self) -> None:
        """ConfigMaps, the token and its rights, by kubeadm itself."""
        kubelet = {
            **self._kubelet_settings(),
            "healthzPort": HEALTH_PORT,
            "port": free_port(),
            "rotateCertificates": True,
        }
        documents = [
            {
                "apiVersion": "kubeadm.k8s.io/v1beta2",
                "kind": "InitConfiguration",
                "bootstrapTokens": [{"token": TOKEN, "ttl": "24h"}],
            },
            {
                "apiVersion": "kubeadm.k8s.io/v1beta2",
                "kind": "ClusterConfiguration",
                "kubernetesVersion": "v1.20.2",
                "controlPlaneEndpoint": self.url.removeprefix("https://"),
            },
            kubelet,
        ]
        file = self.folder / "kubeadm.yaml"
        file.write_text("\n---\n".join(json.dumps(document) for document in documents))
        for phase in ("upload-config kubeadm", "bootstrap-token"):
            command = self._phase_command(phase, file)
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
        # This phase also annotates the master's own Node, which there is not: it is ended once all else is there.
        with (self.folder / "log" / "kubeadm").open("ab") as log:
            upload = subprocess.Popen(
                self._phase_command("upload-config kubelet", file), stdout=log, stderr=log
            )
        try:
            until(self._has_kubelet_config, f"the kubelets' ConfigMap; see {log.name}", PATIENCE_S)
        finally:
            upload.kill()
            upload.wait()

    def _phase_command(self, phase: str, file: Path) -> list[str]:
        """One phase of `kubeadm init`."""
        words = ["init", "phase", *phase.split(), "--config", str(file), "--kubeconfig", str(self.admin_conf)]
        return [self._program("kubeadm"), *words]

    def _has_kubelet_config(self) -> bool:
        """Whether kubelets find their ConfigMap and may read it: kubeadm makes the RoleBinding last."""
        rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings"
        return bool(self._get(f"{rights}/kubeadm:kubelet-config-1.20"))


class NodeFolders:
    """One node's own /etc/kubernetes and the like, under `folder`: `with NodeFolders(…) as node`."""

    def __init__(self, folder: Path, docker_socket: str, node: str) -> None:
        self.folder = folder
        self.node = node
        self._docker_socket = docker_socket
        self._holder: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        mounts = []
        for path in FOLDERS:
            mine = self.folder / path.strip("/")
            mine.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {mine} {path}")
        script = " && ".join([*mounts, f"touch {self.folder}/mounted", "exec sleep 100000"])
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], start_new_session=True
        )
        holder = self._holder

        def mounted() -> bool:
            assert holder.poll() is None, "the folders could not be mounted"
            return (self.folder / "mounted").exists()

        until(mounted, "the folders are mounted")
        (self.folder / "bin").mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        if self._holder is not None:
            os.killpg(self._holder.pid, signal.SIGKILL)
            self._holder.wait()

    @property
    def inside(self) -> list[str]:
        """What to put before a command that shall see the node's own folders."""
        assert self._holder is not None
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    def python(self) -> str:
        """An interpreter that sees the node's own folders, as one word."""
        script = self.folder / "bin" / "python"
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.inside)} {sys.executable} "$@"\n')
        script.chmod(0o755)
        return str(script)

    def seen(self, path: str) -> Path:
        """A path of the node's, seen from outside."""
        return self.folder / path.strip("/")

    @property
    def kubeadm(self) -> list[str]:
        """kubeadm with the node's folders, its engine and its systemctl."""
        environ = [
            f"PATH={self.folder}/bin:{os.environ['PATH']}",
            f"DOCKER_HOST=unix://{self._docker_socket}",
        ]
        return [*self.inside, "env", *environ, str(programs_folder() / "kubeadm")]

    def kubelet_unit(self) -> dict[str, Any]:
        """The kubelet as a unit for tests/lab/systemctl.py, started as kubeadm expects it."""
        _import_pause_image(self._docker_socket)
        root = _docker(self._docker_socket, "info", "--format", "{{.DockerRootDir}}").strip()
        command = [
            *self.inside,
            str(programs_folder() / "kubelet"),
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--config=/var/lib/kubelet/config.yaml",
            "--cert-dir=/var/lib/kubelet/pki",
            # It tells at this level what it does not do.
            "--v=2",
            *("--root-dir", str(self.folder / "kubelet-root"), "--hostname-override", self.node),
            *("--docker-endpoint", f"unix://{self._docker_socket}", "--docker-root", root),
            # kubeadm drops an empty list from config.yaml, and with it this wish.
            *(
                "--pod-infra-container-image",
                PAUSE_IMAGE,
                "--cgroups-per-qos=false",
                "--enforce-node-allocatable=",
            ),
        ]
        return {"command": command, "cwd": str(self.folder), "pid_file": str(self.folder / "kubelet.pid")}

    def use_systemctl(self, systemctl: Sequence[str]) -> None:
        """kubeadm's systemctl: it leaves the suffix out and asks for more than the lab's knows."""
        script = self.folder / "bin" / "systemctl"
        words = " ".join(f"'{word}'" for word in systemctl)
        script.write_text(
            f"""#!/bin/sh
case "$1 $2" in
  "daemon-reload "*|"status "*|"is-enabled "*) exit 0;;
  *" kubelet") exec {words} "$1" kubelet.service;;
esac
exit 0
"""
        )
        script.chmod(0o755)
