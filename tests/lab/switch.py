"""Provide a whole virtual switch: Redis, a Docker engine, optionally a master, the daemon, and its clients.

Everything is a process of its own over real sockets: the daemon as `python -m kubesyncd`, the clients as scripts,
inside containers too. The engines are real ones or the lab's (tests.lab.engines); the caller decides. Tests,
demo and benches drive a switch from outside, as an operator, systemd and the master would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp

from tests.lab import kube_client
from tests.lab.docker_client import DockerClient, DockerError
from tests.lab.engines import ROOT, LabDockerProcess, end, spawn
from tests.lab.kube_client import DAEMONSETS, NODES, KubeClient, KubeError
from tests.lab.kube_names import NAMESPACE, kube_box, kube_name
from tests.lab.places import memory_folder, remove
from tests.lab.redis_server import RedisServer
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import redis

    from tests.lab.engines import Docker, Kube

# kubelet 1.20 may delete an ended pod only with its next collection of sandboxes, once a minute, and the next pod
# comes after that.
PATIENCE_S = 150.0
CLIENTS = ROOT / "clients"
LAB = ROOT / "tests" / "lab"
IMAGE = "busybox:lab"
PYTHON = "/usr/bin/python3"
KUBELET = "kubelet.service"
CONFIG_DB, STATE_DB = 4, 6
# What a container needs of the host's programs; the image has nothing but a busybox.
PROGRAMS = ("/usr", "/bin", "/lib", "/lib64")

# Short enough for a test, long enough that a loaded machine does not run into them where none is meant.
TIMING = {
    "local_wait_s": 3.0,
    "stop_grace_s": 5.0,
    "kube_stop_grace_s": 15.0,
    "label_wait_s": 1.5,
    "kube_stable_s": 1.0,
    "handover_delay_s": 2.0,
    "backoff_s": 0.2,
    "backoff_s_max": 1.0,
}


class Switch:
    """One switch in a temporary folder: `with Switch(docker, kube) as switch`. The engines outlive it.

    `timing`, `settings`: what the settings file says besides ([timing] and other sections). `environ`: for the
    daemon. `python`: the interpreter (of another venv) that runs the daemon.
    """

    def __init__(
        self,
        docker: Docker,
        kube: Kube | None = None,
        *,
        timing: Mapping[str, float] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        environ: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        # A switch's /run is memory; on a disk each note in the ledger would cost a seek that no switch pays.
        self.folder = memory_folder("ks-")
        self.engine = docker
        self.docker = DockerClient(docker.socket)
        self.kube = kube
        self.redis = RedisServer()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.overdue = False
        self.host_sock = self.folder / "run" / "host.sock"
        self.container_sock = self.folder / "run" / "container" / "container.sock"
        self.ledger = self.folder / "run" / "features.json"
        self.marks = self.folder / "marks"
        self.clients = CLIENTS
        self.log_file = self.folder / "log"
        self.hooks = self.folder / "hooks"
        self._systemd = self.folder / "systemd"
        self._python = python
        self._environ = dict(environ or {})
        self._running_clients: list[subprocess.Popen[str]] = []
        self._images: list[str] = []
        for made in (self.marks, self.container_sock.parent, self._systemd / "units", self.folder / "state"):
            made.mkdir(parents=True)
        self._boot()
        self._write_settings({**TIMING, **(timing or {})}, settings or {})

    # ---- from power on to power off -------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.redis.start()
            self.config_db.set("CONFIG_DB_INITIALIZED", "1")
            if self.kube is not None:
                self._add_unit(KUBELET, self.kube.kubelet_unit(self.engine.socket))
            self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power off: nothing we started is left, and nothing on the engines."""
        units = [unit.stem for unit in (self._systemd / "units").iterdir()]
        # The daemon starts joins and the kubelet, and a join starts the kubelet: each ends after who would start it.
        started_by_us = sorted((unit for unit in units if unit.startswith("kube")), reverse=True)
        steps = (
            partial(self._stop_units, set(units).difference(started_by_us)),
            self._end_clients,
            self.stop_daemon,
            partial(self._stop_units, started_by_us),
            self.forget_deployments,
            self._clear_engine,
            self.redis.close,
            partial(remove, self.folder),
        )
        # One that raises does not keep the others from being done.
        with contextlib.ExitStack() as closing:
            for step in reversed(steps):
                closing.callback(step)

    def _stop_units(self, units: Iterable[str]) -> None:
        # A test may have made systemctl fail.
        (self._systemd / "fails").unlink(missing_ok=True)
        for unit in units:
            code = self.systemctl("stop", unit)
            assert code == 0, f"systemctl stop {unit}: exit code {code}"

    def _clear_engine(self) -> None:
        """Where a test has ended the engine, it has nothing either."""
        with contextlib.suppress(ConnectionError, FileNotFoundError):
            self._remove_containers()
            self._remove_images()

    def _end_clients(self) -> None:
        for client in self._running_clients:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()
        self._running_clients.clear()

    def _remove_containers(self) -> None:
        """Until none is left: one that is just being removed, or made, would be the next switch's."""

        def none_left() -> bool:
            for container in (left := self.docker.list()):
                with contextlib.suppress(DockerError):
                    self.docker.remove(container["Id"])
            return not left

        self.wait_for(none_left, "the engine has no container any more")

    def start_daemon(self, crash_after: int | str = 0, **environ: str) -> None:
        """Answering when this returns. `crash_after`: it ends without a word after so many effects; 0: it does not.
        With `@SIGUSR1` behind the number, effects count from that signal on. `environ`: for this life only.
        """
        daemon = ["kubesyncd"]
        if isinstance(self.engine, LabDockerProcess):
            daemon = ["tests.lab.daemon", str(self.engine.folder)]
        self.launch_daemon([*_module(crash_after), *daemon], **environ)
        until(self.answers, f"the daemon does not answer; see {self.log_file}")

    def launch_daemon(self, daemon: list[str], **environ: str) -> None:
        """Start it without waiting for anything."""
        arguments = [*daemon, "--config", str(self.folder / "kubesyncd.toml")]
        environ = {"PYTHONFAULTHANDLER": "1", **self._environ, **environ}
        self.daemon = spawn(arguments, self.log_file, python=self._python, environ=environ)

    def stop_daemon(self) -> None:
        """As `systemctl stop kubesyncd` does."""
        try:
            end(self.daemon)
        except subprocess.TimeoutExpired:
            self.overdue = True
        self.daemon = None

    def kill9(self) -> None:
        """The daemon is gone at once."""
        end(self.daemon, signal.SIGKILL)
        self.daemon = None

    def restart_daemon(self) -> None:
        """Killed at once and started again."""
        self.kill9()
        self.start_daemon()

    def reboot(self) -> None:
        """Off and on again, as the fast-reboot script does it: STATE_DB is wiped, everything that ran is dead.

        When this returns the daemon answers; units have to be started, as systemd would.
        """
        self.power_off()
        self.start_daemon()

    def power_off(self) -> None:
        """Nothing runs any more, and what does not outlive a boot is gone."""
        self.kill9()
        if self.kube is not None:
            self.systemctl("stop", KUBELET)
        self._end_clients()
        for container in self.docker.list(status=["running"]):
            with contextlib.suppress(DockerError):
                self.docker.do("kill", container["Id"])
        self.state_db.flushdb()
        for mark in (*self.marks.iterdir(), self.ledger):
            mark.unlink(missing_ok=True)
        self._boot()

    # ---- clients and what systemd would do ------------------------------------------------------

    def container(self, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the `container` script to its end."""
        return self.client("container", *arguments, limit_s=limit_s)

    def client(
        self, program: str, *arguments: str, limit_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the client scripts to its end."""
        return subprocess.run(
            [str(CLIENTS / program), *arguments],
            env=self.environment, capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip

    def done(self, *arguments: str) -> None:
        """Run the `container` script; it must succeed."""
        ended = self.container(*arguments)
        assert ended.returncode == 0, f"container {' '.join(arguments)}: {ended}\n{self.told()}"

    def waits(self, feature: str) -> subprocess.Popen[str]:
        """`container wait` as a unit runs it, once the daemon has told it what it waits for.

        One that the daemon dies on before may give up, as on any other first contact.
        """
        status = self.folder / f"status-{len(self._running_clients)}"
        status.unlink(missing_ok=True)  # of a boot before
        path = f"{LAB}:{self.environment['PATH']}"
        client = self.spawn("wait", feature, PATH=path, NOTIFY_SOCKET=str(status))
        self.wait_for(status.exists, f"wait {feature} is told what it waits for")
        return client

    def spawn(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """The `container` script, left running."""
        client = subprocess.Popen(
            [str(CLIENTS / "container"), *arguments],
            env={**self.environment, **environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._running_clients.append(client)
        return client

    @property
    def environment(self) -> dict[str, str]:
        """What a client on this switch finds in its environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "DOCKER_HOST": self.engine.url,
            "KUBESYNCD_HOST_SOCK": str(self.host_sock),
            "KUBESYNCD_CONTAINER_SOCK": str(self.container_sock),
            "KUBESYNCD_LEDGER": str(self.ledger),
            "KUBESYNCD_STATE": str(self.folder / "state"),
            "KUBESYNCD_BOOT_ID": str(self.folder / "boot_id"),
        }

    def ask(self, *arguments: str) -> tuple[int, list[str]]:
        """Code and standard output of one request, over the host socket itself."""
        reply = self.raw("\0".join(["1", *arguments]).encode() + b"\n").decode()
        lines = reply.splitlines()
        assert lines, f"no answer to {arguments}; {self.told()}"
        return int(lines[-1].removeprefix("R ")), [line[2:] for line in lines if line.startswith("O ")]

    def raw(self, request: bytes, sock: Path | None = None) -> bytes:
        """What the daemon answers to these bytes."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE_S)
            link.connect(str(sock or self.host_sock))
            link.sendall(request)
            return b"".join(iter(lambda: link.recv(65536), b""))

    def systemctl(self, *arguments: str) -> int:
        """What the daemon's systemctl does."""
        command = [*self._systemctl, *arguments]
        return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S).returncode

    @property
    def systemctl_calls(self) -> list[str]:
        """Each call of systemctl, in order, that may change something; looks (is-active, show) are left out."""
        file = self._systemd / "calls"
        calls = file.read_text().splitlines() if file.exists() else []
        looks = ("is-active ", "show ")
        return [call for call in calls if not call.startswith(looks)]

    @property
    def kubelet_runs(self) -> bool:
        """Whether the kubelet's unit is active."""
        return self.systemctl("is-active", KUBELET) == 0

    def add_service(self, feature: str, *, restart_s: float = 0.3, **container: Any) -> None:
        """The feature's unit, whose script makes the local container: `systemctl start FEATURE.service`."""
        config = self.folder / f"{feature}.json"
        config.write_text(json.dumps(self._config(feature, "local", **container)))
        create = [PYTHON, "-IS", str(LAB / "docker_client.py"), str(self.engine.socket), feature, str(config)]
        script = [str(LAB / "unit.sh"), feature, str(CLIENTS), str(restart_s), *create]
        unit = {"command": ["env", *(f"{k}={v}" for k, v in self.environment.items()), *script]}
        pid_file = str(self._systemd / f"{feature}.pid")
        self._add_unit(f"{feature}.service", {**unit, "cwd": str(ROOT), "pid_file": pid_file})

    def hook(self, folder: str, name: str, script: str) -> Path:
        """A hook as an operator puts it there: `script` is sh's."""
        path = self.hooks / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The daemon reads the folder at any time, and would report half a hook as invalid.
        whole = self.folder / "hook"
        whole.write_text(f"#!/bin/sh\n{script}\n")
        whole.chmod(0o755)
        return whole.rename(path)

    # ---- databases ------------------------------------------------------------------------------

    @property
    def config_db(self) -> redis.Redis:
        """CONFIG_DB."""
        return self.redis.client(CONFIG_DB)

    @property
    def state_db(self) -> redis.Redis:
        """STATE_DB."""
        return self.redis.client(STATE_DB)

    def config(self, feature: str, **fields: str) -> None:
        """Set CONFIG_DB fields of a feature."""
        self.config_db.hset(f"FEATURE|{feature}", mapping=fields)

    def join(self, **fields: str) -> None:
        """Configure the master; the node's credential is in place already."""
        assert self.kube is not None
        address = urlsplit(self.kube.url)
        master = {"IP": address.hostname or "", "port": str(address.port), **fields}
        self.config_db.hset("KUBERNETES_MASTER|SERVER", mapping=master)

    def row(self, feature: str) -> dict[str, str]:
        """The feature's STATE_DB row."""
        found: dict[str, str] = self.state_db.hgetall(f"FEATURE|{feature}")
        return found

    @property
    def connected(self) -> str:
        """Whether the master answers, by STATE_DB: True, False, or nothing."""
        return str(self.state_db.hget("KUBERNETES_MASTER|SERVER", "connected") or "")

    @property
    def pending(self) -> str:
        """What STATE_DB says of queued labels."""
        return str(self.state_db.hget("KUBE_SERVER|PENDING_LABELS", "labels@") or "")

    # ---- features -------------------------------------------------------------------------------

    def shown(self, feature: str) -> dict[str, Any]:
        """All the daemon tells of a feature; empty while it knows none."""
        _, lines = self.ask("show", feature)
        return dict(json.loads(lines[0])) if lines else {}

    def state(self, feature: str) -> str:
        """The feature's state: LOCAL, KUBE_READY, …"""
        return str(self.shown(feature).get("state", ""))

    def until_state(self, feature: str, *states: str) -> None:
        """Return once the feature is in one of `states`."""
        self.wait_for(lambda: self.state(feature) in states, f"{feature} in {' or '.join(states)}")

    def until_row(self, feature: str, **fields: str) -> None:
        """Return once the feature's row says this, "" also where there is no such field.

        The row follows the state that `show` tells, and the log, by a moment.
        """
        self.wait_for(
            lambda: all(self.row(feature).get(key, "") == value for key, value in fields.items()),
            f"{feature}'s row: {fields}",
        )

    def create_local(self, feature: str, **container: Any) -> str:
        """Make the feature's local container, as its unit's script does; its ID."""
        return self.docker.create(feature, self._config(feature, "local", **container))

    def boot_local(self, feature: str) -> str:
        """The feature configured, started and LOCAL; its container's ID."""
        self.config(feature, set_owner="local")
        container_id = self.create_local(feature)
        before = self.ups(feature)
        self.done("start", feature)
        self.until_ups(feature, *before, "local")
        self.until_state(feature, "LOCAL")
        return container_id

    def deploy(self, feature: str, **container: Any) -> None:
        """Have the master run the feature by a DaemonSet on each node with its label."""
        self.forget_deployments(feature)
        self.call_kube("post", DAEMONSETS, self.daemonset(feature, **container))

    def image(self, name: str) -> str:
        """An image of this name that works like every other and is none of them; its ID."""
        container = self.docker.create(
            "image.base", {"Image": IMAGE, "Cmd": ["/bin/sh"], "Labels": {"for": name}}
        )
        self._images.append(name)
        made = self.docker.commit(container, name)
        self.docker.remove(container)
        return made

    def named(self, name: str) -> str:
        """The ID of the image that has this name now; empty where there is none."""
        images = self.docker.ask("GET", "/images/json")
        return next((i["Id"] for i in images if name in (i["RepoTags"] or ())), "")

    def kubesync(
        self, *arguments: str, crash_after: int = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an operator's command to its end, with more in its environment; `crash_after` as for the daemon."""
        command = [sys.executable, *_module(crash_after), "kubesyncd.cli"]
        return subprocess.run(
            [*command, "--config", str(self.folder / "kubesyncd.toml"), *arguments],
            cwd=ROOT, env={**self.environment, **environ}, capture_output=True, text=True, timeout=120.0,
            check=False,
        )  # fmt: skip

    def prints(self, *arguments: str) -> str:
        """What an operator's command prints, run in this process: for what is asked again until it is so."""
        # Imported late: demo and benches ask nothing in this way.
        from click.testing import CliRunner

        from kubesyncd.cli.root import root

        config = ["--config", str(self.folder / "kubesyncd.toml")]
        return (
            CliRunner(env=self.environment).invoke(root, [*config, *arguments], prog_name="kubesync").stdout
        )

    def run_kube(
        self, feature: str, number: int = 0, *, namespace: str = NAMESPACE, name: str = "", **container: Any
    ) -> str:
        """A container as a kubelet would make and run it, where there is no kubelet; its ID.

        `name`: another name of the container in its pod.
        """
        box, labels = kube_box(name or kube_name(feature), f"{kube_name(feature)}-pod", namespace, number)
        return self.run_box(box, labels, feature, **container)

    def run_box(self, box: str, labels: dict[str, str], feature: str = "snmp", **container: Any) -> str:
        """A running container with this name and these labels, which behaves as the feature's kube one; its ID."""
        container_id = self.docker.create(box, self._config(feature, "kube", labels=labels, **container))
        self.docker.do("start", container_id)
        return container_id

    def forget_deployments(self, *features: str) -> None:
        """Take DaemonSets away (all where none is named), and the node's labels with them all."""
        if self.kube is None:
            return
        with contextlib.suppress(aiohttp.ClientConnectionError, KubeError):
            names = [kube_name(feature) for feature in features] or [
                d["metadata"]["name"] for d in self.call_kube("get", DAEMONSETS)["items"]
            ]
            for name in names:
                self.call_kube("delete", f"{DAEMONSETS}/{name}")

    @property
    def node_labels(self) -> dict[str, str]:
        """The labels of our Node, by the master's word; empty while there is no Node."""
        assert self.kube is not None
        try:
            found: dict[str, str] = self.call_kube("get", f"{NODES}/{self.kube.node}")["metadata"]["labels"]
        except KubeError as error:
            if error.status != 404:
                raise
            return {}
        return found

    def label_of(self, feature: str) -> str:
        """The feature's node label; empty without."""
        return self.node_labels.get(f"{feature}_enabled", "")

    def running(self, feature: str) -> list[str]:
        """IDs of the feature's running containers by Docker's word, local ones first."""
        label = [f"io.kubernetes.container.name={kube_name(feature)}", "io.kubernetes.docker.type=container"]
        found = [*self.docker.list(name=[f"^/{feature}$"]), *self.docker.list(label=label)]
        # Docker's list lags behind its events by a moment; what it tells of one container does not.
        return [c["Id"] for c in found if self._runs(c["Id"])]

    def _runs(self, container_id: str) -> bool:
        with contextlib.suppress(DockerError):
            return bool(self.docker.inspect(container_id)["State"]["Running"])
        return False

    def ups(self, feature: str) -> list[str]:
        """Which containers of the feature got past `state up`, in order: "local" or "kube"."""
        file = self.marks / f"{feature}.up"
        return file.read_text().split() if file.exists() else []

    def until_ups(self, feature: str, *owners: str) -> None:
        """Return once exactly these have got past `state up`."""
        self.wait_for(lambda: self.ups(feature) == [*owners], f"{feature} up: {', '.join(owners)}")

    def until_up(self, feature: str, owner: str) -> None:
        """Return once this was the last one to get past `state up`."""
        self.wait_for(lambda: self.ups(feature)[-1:] == [owner], f"{feature} up: … {owner}")

    def twice(self, feature: str) -> str:
        """Violations of promise S1: containers past `state up` while another one was; empty without any."""
        file = self.marks / f"{feature}.twice"
        return file.read_text() if file.exists() else ""

    # ---- looking --------------------------------------------------------------------------------

    def log(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The daemon's log lines so far with this event and these fields."""
        found = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if event in ("", entry.get("event")) and all(entry.get(k) == v for k, v in fields.items()):
                    found.append(entry)
        return found

    @property
    def tracebacks(self) -> list[str]:
        """Every log line about an unexpected error."""
        text = self.log_file.read_text(errors="replace")
        plain = [text[at : at + 4000] for at in [text.find("Traceback")] if at >= 0]
        return plain + [line for line in text.splitlines() if '"exception"' in line]

    def told(self) -> str:
        """The end of the daemon's log, for a test that failed."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-25:])

    def wait_for(
        self, condition: Callable[[], object], what: str = "what was expected", limit_s: float = PATIENCE_S
    ) -> None:
        """Return once it holds. Raises AssertionError that tells what is missing, and the log's end."""
        until(condition, what, limit_s, told=self.told)

    # ---- within ---------------------------------------------------------------------------------

    @property
    def _systemctl(self) -> list[str]:
        return [PYTHON, "-IS", str(LAB / "systemctl.py"), str(self._systemd)]

    def _add_unit(self, name: str, unit: dict[str, Any]) -> None:
        (self._systemd / "units" / f"{name}.json").write_text(json.dumps(unit))

    def _write_settings(self, timing: Mapping[str, float], more: Mapping[str, Mapping[str, Any]]) -> None:
        sections: dict[str, dict[str, Any]] = {
            "redis": {"url": self.redis.url},
            "docker": {"url": self.engine.url},
            "sockets": {"host": str(self.host_sock), "container": str(self.container_sock), "group": ""},
            "systemd": {"systemctl": self._systemctl},
            "paths": {
                "state_dir": str(self.folder / "state"),
                "run_dir": str(self.folder / "run"),
                "hooks_dir": str(self.hooks),
                "carry_dir": str(self.folder / "carried"),
                "upgrade_dir": str(self.folder / "old_config"),
                "kubelet_dir": str(self.folder / "kubelet"),
                "boot_id": str(self.folder / "boot_id"),
            },
            "timing": dict(timing),
        }
        if self.kube is not None:
            sections["kube"] = {"node_name": self.kube.node, "kubeconfig": str(self.kube.kubelet_conf)}
        for name, section in more.items():
            sections[name] = {**sections.get(name, {}), **section}
        # JSON's strings, numbers, booleans and lists are TOML's.
        lines = [
            line
            for name, section in sections.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()))
        ]
        (self.folder / "kubesyncd.toml").write_text("\n".join(lines) + "\n")

    def _remove_images(self) -> None:
        """Every name of ours, by the last part of it: the daemon may have given some."""
        ours = {name.rpartition("/")[2].partition(":")[0] for name in self._images}
        for image in self.docker.ask("GET", "/images/json") if ours else ():
            for name in image["RepoTags"] or ():
                if name.rpartition("/")[2].partition(":")[0] in ours:
                    self.docker.remove_image(name)

    def _boot(self) -> None:
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def answers(self) -> bool:
        """Whether the daemon answers."""
        assert self.daemon is not None
        if self.daemon.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.daemon.returncode}\n{self.told()}")
        with contextlib.suppress(OSError):
            return bool(self.raw(b"1\0cluster\n"))
        return False

    def _config(
        self,
        feature: str,
        owner: str,
        *,
        image: str = IMAGE,
        labels: Mapping[str, str] | None = None,
        restart: str = "",
        docker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """A container that behaves as tests/lab/feature.sh says, in Docker's words; `restart`: Docker's policy.

        `docker`: more of Docker's own words, HostConfig's under that name.
        """
        more = dict(docker or {})
        return {
            "Image": image,
            "Labels": dict(labels or {}),
            "Cmd": self._command(feature, owner, **options),
            "Env": [
                f"KUBESYNCD_CONTAINER_SOCK={self.container_sock}",
                f"KUBESYNCD_HOST_SOCK={self.folder}/none",
            ],
            "HostConfig": {
                "NetworkMode": "none",
                "Binds": [f"{a}:{a}{m}" for a, m in self._mounts.items()],
                "RestartPolicy": {"Name": restart},
                **more.pop("HostConfig", {}),
            },
            **more,
        }

    def _command(
        self,
        feature: str,
        owner: str,
        *,
        life_s: float = 100000,
        code: int = 0,
        term_code: int = 0,
        command: list[str] | None = None,
    ) -> list[str]:
        """What a container runs, if not `command`; `life_s`: how long until it ends by itself, with `code`."""
        if command is not None:
            return command
        script = [str(LAB / "feature.sh"), feature, owner, str(CLIENTS), str(self.marks)]
        return ["/bin/sh", *script, str(life_s), str(code), str(term_code)]

    @property
    def _mounts(self) -> dict[str, str]:
        """Where a container finds what it needs, at the same path as the host; and how."""
        read_only = dict.fromkeys([*PROGRAMS, str(CLIENTS), str(LAB)], ":ro")
        return {**read_only, str(self.container_sock.parent): "", str(self.marks): ""}

    def daemonset(self, feature: str, *, image: str = IMAGE, **options: Any) -> dict[str, Any]:
        """The DaemonSet with which the master runs the feature."""
        environ = {
            "KUBESYNCD_CONTAINER_SOCK": str(self.container_sock),
            "KUBESYNCD_HOST_SOCK": f"{self.folder}/none",
        }
        made = kube_client.daemonset(feature, image, self._command(feature, "kube", **options), environ)
        pod = made["spec"]["template"]["spec"]
        pod["volumes"] = [
            {"name": f"m{n}", "hostPath": {"path": path}} for n, path in enumerate(self._mounts)
        ]
        pod["containers"][0]["volumeMounts"] = [
            {"name": f"m{n}", "mountPath": path, "readOnly": bool(mode)}
            for n, (path, mode) in enumerate(self._mounts.items())
        ]
        return made

    def call_kube(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """One call of the administrator's to the master: a method of KubeClient."""

        async def call() -> Any:
            assert self.kube is not None
            async with KubeClient(self.kube.admin_conf) as api:
                return await getattr(api, verb)(*arguments, **options)

        return asyncio.run(call())


def _module(crash_after: int | str) -> list[str]:
    """What has Python run a module, and end after so many effects."""
    return ["-m", "tests.lab.crash_points", str(crash_after)] if crash_after else ["-m"]
