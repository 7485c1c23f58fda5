"""Run a real Kubernetes on one machine: etcd and API server; on demand kubelet and controllers.

    python -m tests.system.kube_cluster up DIR [--node NAME] [--docker SOCKET]
    python -m tests.system.kube_cluster down DIR [PROGRAM…]

State, logs, ports and process ids live under DIR; `up` starts what does not run, so `down DIR kube-apiserver`
and `up` again is a master's outage. `--docker` adds controllers and a kubelet that runs pods on that engine.
Leaves DIR/admin.conf and DIR/kubelet.conf. Knows nothing of kubesyncd. Programs: tests/system/kube/build.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.lab.certificates import Authority, Pair, service_account_keys, write_kubeconfigs
from tests.lab.kube_api import free_port
from tests.lab.kube_names import NAMESPACE
from tests.lab.places import remove
from tests.lab.processes import freeze
from tests.wait import until

API_SERVER = "kube-apiserver"
# In the order they stop: the kubelet before what it reports to.
PROGRAMS = ("kubelet", "kube-scheduler", "kube-controller-manager", API_SERVER, "etcd")
PAUSE_IMAGE = "pause:lab"
READY_S_MAX = 300.0


def programs_folder() -> Path:
    """Where tests/system/kube/build puts its programs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache, "kubesyncd", "kube-1.20.2")


def missing_for_api() -> str:
    """What the API server lacks on this machine; empty: nothing."""
    if shutil.which("etcd") is None:
        return "etcd is not installed (make engines)"
    if not (programs_folder() / API_SERVER).exists():
        return "Kubernetes 1.20.2 is not built (make engines)"
    return ""


def missing_for_kubelet() -> str:
    """What a kubelet lacks on this machine besides; empty: nothing."""
    if missing_for_api():
        return missing_for_api()
    for program in ("dockerd", "busybox"):
        if shutil.which(program) is None:
            return f"{program} is not installed (make engines)"
    if os.geteuid() != 0:
        return "a kubelet needs root"
    return ""


class RealKube:
    """The cluster under `folder`, for the node `node`."""

    def __init__(self, folder: Path, *, node: str = "switch1") -> None:
        self.folder = folder.resolve()
        self.node = node
        self.authority = Authority(self.folder / "pki")
        self.admin_conf = self.folder / "admin.conf"
        self.kubelet_conf = self.folder / "kubelet.conf"
        self.static_pods = self.folder / "static"
        self._ports = self._chosen_ports()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://127.0.0.1:{self._ports['api']}"

    def start(self, serving: Pair | None = None) -> None:
        """etcd and the API server, ready to answer; what runs already keeps running.

        `serving`: the certificate it shows, in place of a valid one.
        """
        if not self.kubelet_conf.exists():
            self.write_kubeconfigs()
        self._run("etcd", self._etcd_command())
        was_away = not self._pid(API_SERVER)
        self._run(API_SERVER, self._api_server_command(serving))
        until(self._ready, f"a ready API server; see {self.folder}/log/{API_SERVER}", READY_S_MAX, 0.1)
        until(self._has_namespace, f"namespace {NAMESPACE}", READY_S_MAX, 0.1)
        # They end where the server shows another certificate.
        if was_away and serving is None:
            self._restart_controllers()

    def _restart_controllers(self) -> None:
        """Those that run: after an outage they look for the API server with pauses of up to a minute."""
        for name, command in self._controllers():
            if name in self._children:
                self.kill(name)
                self._run(name, command)

    def _controllers(self) -> list[tuple[str, list[str]]]:
        """What runs beside the API server: names and command lines."""
        return [
            ("kube-controller-manager", self._controllers_command()),
            ("kube-scheduler", self._scheduler_command()),
        ]

    def start_kubelet(self, docker_socket: str) -> None:
        """Controllers, scheduler and a kubelet on that Docker engine, where they do not run; returns when the Node is
        Ready.
        """
        if not self._pid("kubelet"):
            _import_pause_image(docker_socket)
        for name, command in self._controllers():
            self._run(name, command)
        self.static_pods.mkdir(exist_ok=True)
        (self.folder / "kubelet.yaml").write_text(json.dumps(self._kubelet_settings(), indent=1))
        self._run("kubelet", self.kubelet_command(docker_socket))
        until(self._node_ready, f"node {self.node} is Ready; see {self.folder}/log/kubelet", READY_S_MAX, 0.1)

    def kubelet_command(self, docker_socket: str) -> list[str]:
        """The kubelet's command line, to be run in `folder`."""
        root = _docker(docker_socket, "info", "--format", "{{.DockerRootDir}}").strip()
        return [
            self._program("kubelet"),
            *("--config", str(self.folder / "kubelet.yaml"), "--kubeconfig", str(self.kubelet_conf)),
            *("--hostname-override", self.node, "--root-dir", str(self.folder / "kubelet")),
            *("--docker-endpoint", f"unix://{docker_socket}", "--docker-root", root),
            *("--pod-infra-container-image", PAUSE_IMAGE, "--cert-dir", str(self.folder / "kubelet-pki")),
            # dockershim's own, or two clusters on one machine would answer for each other's pods.
            *("--container-runtime-endpoint", f"unix://{self.folder}/dockershim.sock"),
            *("--experimental-dockershim-root-directory", str(self.folder / "dockershim")),
            "--register-node=true",
        ]

    def write_kubeconfigs(self) -> None:
        """admin.conf and kubelet.conf with fresh certificates."""
        write_kubeconfigs(
            self.authority, self.url, self.node, admin=self.admin_conf, kubelet=self.kubelet_conf
        )

    def stop(self, *names: str) -> None:
        """Stop these programs, or all; the folder stays."""
        for name in names or PROGRAMS:
            pid = self._pid(name)
            if pid:
                _end(pid)
            if name in self._children:
                self._children.pop(name).wait()
            self._pid_file(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End one program at once, as an outage does: an API server that is asked to end goes on for 15 s."""
        pid = self._pid(name)
        if pid:
            os.kill(pid, signal.SIGKILL)
        self.stop(name)

    def forget(self) -> None:
        """Remove the folder, and first the mounts a kubelet leaves in it."""
        remove(self.folder)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one program that runs."""
        pid = self._pid(name)
        # The number 0 would be every process of this process group, and all workers are in it.
        assert pid, f"{name} does not run"
        os.kill(pid, number)

    def freeze(self, name: str) -> None:
        """SIGSTOP: connections stay open and nothing answers, from when this returns."""
        pid = self._pid(name)
        assert pid, f"{name} does not run"
        freeze(pid)

    def thaw(self, name: str) -> None:
        """Go on where `freeze` stopped; one that does not run is left alone."""
        if self._pid(name):
            self.signal(name, signal.SIGCONT)

    def _etcd_command(self) -> list[str]:
        client, peer = self._local("etcd"), self._local("peer")
        return [
            "etcd",
            "--data-dir=etcd-data",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        ]

    def _controllers_command(self) -> list[str]:
        return [
            self._program("kube-controller-manager"),
            f"--kubeconfig={self.admin_conf}",
            f"--authentication-kubeconfig={self.admin_conf}",
            f"--authorization-kubeconfig={self.admin_conf}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['controllers']}",
            "--port=0",
            "--service-account-private-key-file=pki/sa.key",
            "--cluster-signing-cert-file=pki/ca.crt",
            "--cluster-signing-key-file=pki/ca.key",
        ]

    def _scheduler_command(self) -> list[str]:
        return [
            self._program("kube-scheduler"),
            f"--kubeconfig={self.admin_conf}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports['scheduler']}",
            "--port=0",
        ]

    def _api_server_command(self, serving: Pair | None) -> list[str]:
        server = serving or self.authority.issue("server", "kube-apiserver", server=True)
        account = service_account_keys(self.folder / "pki")
        return [
            self._program(API_SERVER),
            f"--etcd-servers={self._local('etcd')}",
            f"--secure-port={self._ports['api']}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--cert-dir=pki",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--client-ca-file={self.authority.pair.certificate}",
            "--service-account-issuer=https://kubernetes.default",
            f"--service-account-signing-key-file={account.key}",
            f"--service-account-key-file={account.certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--allow-privileged=true",
            "--enable-bootstrap-token-auth=true",
        ]

    def _kubelet_settings(self) -> dict[str, Any]:
        # A switch's pods share its network, and this machine may lack the rights a production kubelet has.
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "address": "127.0.0.1",
            "port": self._ports["kubelet"],
            "healthzPort": 0,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "nodeStatusUpdateFrequency": "4s",
            # The default, but not where the line above is: then a Node that has not changed is written every 4 s.
            "nodeStatusReportFrequency": "5m",
            "syncFrequency": "5s",
            "hairpinMode": "none",
            "evictionHard": {},
            "staticPodPath": str(self.static_pods),
        }

    def _chosen_ports(self) -> dict[str, int]:
        """Free ports, the same ones for the life of the folder."""
        file = self.folder / "ports.json"
        if not file.exists():
            names = ("api", "etcd", "peer", "controllers", "scheduler", "kubelet")
            # Each is let go of before the next one is asked for, which may be the same then.
            free: set[int] = set()
            while len(free) < len(names):
                free.add(free_port())
            file.write_text(json.dumps(dict(zip(names, free, strict=True))))
        ports: dict[str, int] = json.loads(file.read_text())
        return ports

    def _local(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    def _program(self, name: str) -> str:
        return str(programs_folder() / name)

    def _run(self, name: str, command: list[str]) -> None:
        if self._pid(name):
            return
        for folder in ("pids", "log"):
            (self.folder / folder).mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        with (self.folder / "log" / name).open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._children[name] = child
        self._pid_file(name).write_text(str(child.pid))

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pids" / name

    def _pid(self, name: str) -> int:
        """The process id of a program that runs; 0 where it does not."""
        try:
            pid = int(self._pid_file(name).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        except (OSError, ValueError):
            return 0
        return pid if Path(command.decode()).name == name else 0

    def _ready(self) -> bool:
        return self._get("/readyz") == b"ok"

    def _node_ready(self) -> bool:
        answer = self._get(f"/api/v1/nodes/{self.node}")
        conditions = json.loads(answer)["status"].get("conditions", []) if answer else []
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _has_namespace(self) -> bool:
        """Whether the features' namespace is there; it is made where it is not."""
        found = self._get(f"/api/v1/namespaces/{NAMESPACE}")
        return bool(found or self._get("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}))

    def _get(self, path: str, body: object = None) -> bytes:
        """An answer to the administrator, who posts a `body`; empty where there is none."""
        tls = ssl.create_default_context()
        # Some tests need a server that clients must not trust.
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        tls.load_cert_chain(self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key")
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )
        try:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(
                self.url + path, data, headers={"Content-Type": "application/json"}
            )
            with opener.open(request, timeout=5) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            return b""


def _import_pause_image(docker_socket: str) -> None:
    """Every pod needs a pause image; no registry is reached, so a busybox that sleeps stands in for it.

    A container's first process ignores SIGTERM unless it says otherwise: every pod would take 10 s to end.
    """
    if _docker(docker_socket, "image", "inspect", PAUSE_IMAGE, check=False):
        return
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(shutil.which("busybox") or "/bin/busybox", "bin/busybox")
    pause = ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; /bin/busybox sleep 2147483647 & wait"]
    entry = f"ENTRYPOINT {json.dumps(pause)}"
    command = ["docker", "-H", f"unix://{docker_socket}", "import", "-c", entry, "-", PAUSE_IMAGE]
    subprocess.run(command, input=content.getvalue(), check=True, capture_output=True, timeout=READY_S_MAX)


def _docker(docker_socket: str, *arguments: str, check: bool = True) -> str:
    """What the docker command prints; nothing where it fails and `check` is off."""
    command = ["docker", "-H", f"unix://{docker_socket}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S_MAX, check=check)
    return done.stdout if done.returncode == 0 else ""


def _end(pid: int) -> None:
    """SIGTERM, and SIGKILL after 15 s. Raises TimeoutError."""
    for number, patience_s in ((signal.SIGTERM, 15), (signal.SIGKILL, 30)):
        try:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if _gone(pid):
                return
            time.sleep(0.05)
    raise TimeoutError(f"process {pid} is still there after SIGKILL")


def _gone(pid: int) -> bool:
    try:
        done, _ = os.waitpid(pid, os.WNOHANG)
        return done == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.kube_cluster")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up")
    up.add_argument("folder", type=Path)
    up.add_argument("--node", default="switch1")
    up.add_argument("--docker", default="")
    down = verbs.add_parser("down")
    down.add_argument("folder", type=Path)
    down.add_argument("program", nargs="*", choices=[[], *PROGRAMS])
    given = parser.parse_args()
    if given.verb == "down":
        RealKube(given.folder).stop(*given.program)
        return
    missing = missing_for_kubelet() if given.docker else missing_for_api()
    if missing:
        raise SystemExit(f"kube_cluster: {missing}")
    cluster = RealKube(given.folder, node=given.node)
    cluster.start()
    if given.docker:
        cluster.start_kubelet(given.docker)
    print(f"ready {cluster.url} {cluster.admin_conf}", flush=True)


if __name__ == "__main__":
    main()
