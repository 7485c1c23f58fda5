"""Provide a whole virtual switch: Redis, a Docker engine, optionally a master, the daemon, and its clients.

Everything is a process of its own over real sockets: the daemon as `python -m kubesyncd`, the clients as scripts,
inside containers too. The engines are real ones or the lab's (tests.lab.engines); the caller decides. Tests,
demo and benches drive a switch from outside, as an operator, systemd and the master would.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from tests.lab.docker_client import DockerClient
from tests.lab.places import memory_folder, remove
from tests.lab.redis_server import RedisServer
from tests.lab.switch_clients import CLIENTS, SwitchClients
from tests.lab.switch_containers import SwitchContainers, SwitchImages
from tests.lab.switch_daemon import PATIENCE_S, SwitchDaemon
from tests.lab.switch_databases import SwitchDatabases
from tests.lab.switch_master import SwitchMaster
from tests.lab.switch_paths import SwitchPaths
from tests.lab.switch_units import KUBELET, LAB, PYTHON, SwitchUnits
from tests.wait import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import redis

    from tests.lab.engines import Docker, Kube

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

    Its parts are attributes. What tests use all the time, it passes on to them. `timing`, `settings`: what the
    settings file says besides ([timing] and other sections). `environ`: for the daemon. `python`: the interpreter
    (of another venv) that runs the daemon.
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
        self.paths = SwitchPaths(self.folder)
        self.engine = docker
        self.docker = DockerClient(docker.socket)
        self.kube = kube
        self.redis = RedisServer()
        self.daemon = SwitchDaemon(self.paths, docker, python, environ or {})
        self.units = SwitchUnits(self.paths.systemd)
        self.databases = SwitchDatabases(self.redis)
        self.clients = SwitchClients(self.paths, docker.url, lambda: self.told())
        self.containers = SwitchContainers(self.paths, self.docker)
        self.images = SwitchImages(self.docker)
        self.paths.make()
        self.paths.boot()
        self.configure_daemon({"timing": {**TIMING, **(timing or {})}}, settings or {})

    def configure_daemon(self, *settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the daemon's settings: how it reaches this switch's parts, and these."""
        base: dict[str, dict[str, Any]] = {
            "redis": {"url": self.redis.url},
            "docker": {"url": self.engine.url},
            "systemd": {"systemctl": self.units.systemctl},
        }
        if self.kube is not None:
            base["kube"] = {"node_name": self.kube.node, "kubeconfig": str(self.kube.kubelet_conf)}
        self.paths.write_settings(base, *settings)

    @property
    def master(self) -> SwitchMaster:
        """The master, as its administrator sees it."""
        assert self.kube is not None
        return SwitchMaster(self.kube, self.containers)

    # ---- from power on to power off -------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.redis.start()
            self.config_db.set("CONFIG_DB_INITIALIZED", "1")
            if self.kube is not None:
                self.units.add(KUBELET, self.kube.kubelet_unit(self.engine.socket))
            self.daemon.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power off: nothing we started is left, and nothing on the engines."""
        units = self.units.names()
        # The daemon starts joins and the kubelet, and a join starts the kubelet: each ends after who would start it.
        started_by_us = sorted((unit for unit in units if unit.startswith("kube")), reverse=True)
        steps = (
            partial(self.units.stop, units.difference(started_by_us)),
            self.clients.end,
            self.daemon.stop,
            partial(self.units.stop, started_by_us),
            self._forget_deployments,
            self._clear_engine,
            self.redis.close,
            partial(remove, self.folder),
        )
        # One that raises does not keep the others from being done.
        with contextlib.ExitStack() as closing:
            for step in reversed(steps):
                closing.callback(step)

    def _forget_deployments(self) -> None:
        if self.kube is not None:
            self.master.forget()

    def _clear_engine(self) -> None:
        """Until no container is left: one that is just being removed, or made, would be the next switch's."""
        # Where a test has ended the engine, it has nothing either.
        with contextlib.suppress(ConnectionError, FileNotFoundError):
            self.wait_for(self.containers.none_left, "the engine has no container any more")
            self.images.remove()

    def reboot(self) -> None:
        """Off and on again, as the fast-reboot script does it: STATE_DB is wiped, everything that ran is dead.

        When this returns the daemon answers; units have to be started, as systemd would.
        """
        self.power_off()
        self.daemon.start()

    def power_off(self) -> None:
        """Nothing runs any more, and what does not outlive a boot is gone."""
        self.daemon.kill9()
        if self.kube is not None:
            self.units.call("stop", KUBELET)
        self.clients.end()
        # One that Docker still takes for running would be a feature that runs already, to the next boot's start.
        self.wait_for(self.containers.kill_all, "no container runs any more")
        self.state_db.flushdb()
        for mark in (*self.paths.marks.iterdir(), self.paths.ledger):
            mark.unlink(missing_ok=True)
        self.paths.boot()

    # ---- clients and the daemon -----------------------------------------------------------------

    def container(self, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the `container` script to its end."""
        return self.clients.run("container", *arguments, limit_s=limit_s)

    def done(self, *arguments: str) -> None:
        """Run the `container` script; it must succeed."""
        self.clients.done(*arguments)

    def waits(self, feature: str) -> subprocess.Popen[str]:
        """`container wait` as a unit runs it, once the daemon has told it what it waits for."""
        return self.clients.waits(feature)

    def spawn(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """The `container` script, left running."""
        return self.clients.spawn(*arguments, **environ)

    def kubesync(
        self, *arguments: str, crash_after: int = 0, limit_s: float = 120.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an operator's command to its end; `crash_after`, `environ`: for this run."""
        return self.clients.kubesync(*arguments, crash_after=crash_after, limit_s=limit_s, **environ)

    def prints(self, *arguments: str) -> str:
        """What an operator's command prints, for what is asked again until it is so."""
        return self.clients.prints(*arguments)

    def ask(self, *arguments: str) -> tuple[int, list[str]]:
        """Code and standard output of one request, over the host socket itself."""
        return self.daemon.ask(*arguments)

    def log(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The daemon's log lines so far with this event and these fields."""
        return self.daemon.log(event, **fields)

    def told(self) -> str:
        """What a test that failed ends with."""
        return self.daemon.told()

    def hook(self, folder: str, name: str, script: str) -> Path:
        """A hook as an operator puts it there: `script` is sh's."""
        return self.paths.hook(folder, name, script)

    @property
    def kubelet_runs(self) -> bool:
        """Whether the kubelet's unit is active."""
        return self.units.kubelet_runs

    # ---- databases ------------------------------------------------------------------------------

    @property
    def config_db(self) -> redis.Redis:
        """CONFIG_DB."""
        return self.databases.config_db

    @property
    def state_db(self) -> redis.Redis:
        """STATE_DB."""
        return self.databases.state_db

    def config(self, feature: str, **fields: str) -> None:
        """Set CONFIG_DB fields of a feature."""
        self.databases.configure(feature, **fields)

    def join(self, **fields: str) -> None:
        """Configure the master; the node's credential is in place already."""
        assert self.kube is not None
        self.databases.join(self.kube.url, **fields)

    def row(self, feature: str) -> dict[str, str]:
        """The feature's STATE_DB row."""
        return self.databases.row(feature)

    @property
    def connected(self) -> str:
        """Whether the master answers, by STATE_DB: True, False, or nothing."""
        return self.databases.connected

    @property
    def pending(self) -> str:
        """What STATE_DB says of queued labels."""
        return self.databases.pending

    # ---- features -------------------------------------------------------------------------------

    def create_local(self, feature: str, **container: Any) -> str:
        """Make the feature's local container, as its unit's script does; its ID."""
        return self.containers.create_local(feature, **container)

    def boot_local(self, feature: str) -> str:
        """The feature configured, started and LOCAL; its container's ID."""
        self.config(feature, set_owner="local")
        container_id = self.create_local(feature)
        before = self.ups(feature)
        self.done("start", feature)
        self.until_ups(feature, *before, "local")
        self.until_state(feature, "LOCAL")
        return container_id

    def add_service(self, feature: str, *, restart_s: float = 0.3, **container: Any) -> None:
        """The feature's unit, whose script makes the local container: `systemctl start FEATURE.service`."""
        config = self.folder / f"{feature}.json"
        config.write_text(json.dumps(self.containers.config(feature, "local", **container)))
        create = [PYTHON, "-IS", str(LAB / "docker_client.py"), str(self.engine.socket), feature, str(config)]
        script = [str(LAB / "unit.sh"), feature, str(CLIENTS), str(restart_s), *create]
        environ = (f"{key}={value}" for key, value in self.clients.environment.items())
        self.units.add_script(f"{feature}.service", ["env", *environ, *script])

    def run_kube(self, feature: str, number: int = 0, **container: Any) -> str:
        """A container as a kubelet would make and run it, where there is no kubelet; its ID."""
        return self.containers.run_kube(feature, number, **container)

    def running(self, feature: str) -> list[str]:
        """IDs of the feature's running containers by Docker's word, local ones first."""
        return self.containers.running(feature)

    def ups(self, feature: str) -> list[str]:
        """Which containers of the feature got past `state up`, in order: "local" or "kube"."""
        return self.containers.ups(feature)

    def shown(self, feature: str) -> dict[str, Any]:
        """All the daemon tells of a feature; empty while it knows none."""
        _, lines = self.ask("show", feature)
        return dict(json.loads(lines[0])) if lines else {}

    def state(self, feature: str) -> str:
        """The feature's state: LOCAL, KUBE_READY, …"""
        return str(self.shown(feature).get("state", ""))

    # ---- waiting --------------------------------------------------------------------------------

    def wait_for(
        self, condition: Callable[[], object], what: str = "what was expected", limit_s: float = PATIENCE_S
    ) -> None:
        """Return once it holds. Raises AssertionError that tells what is missing, and the log's end."""
        until(condition, what, limit_s, told=self.told)

    def until_told(self, words: str, *command: str, limit_s: float = PATIENCE_S) -> None:
        """Return once this operator's command says so, on one line.

        While the daemon tries again what has failed, its reason is the try, not the failure.
        """
        told = f"kubesync {' '.join(command)}: {words}"
        self.wait_for(lambda: words in " ".join(self.prints(*command).split()), told, limit_s)

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

    def until_ups(self, feature: str, *owners: str) -> None:
        """Return once exactly these have got past `state up`."""
        self._until_ups(feature, lambda ups: ups == [*owners], ", ".join(owners))

    def until_up(self, feature: str, owner: str) -> None:
        """Return once this was the last one to get past `state up`."""
        self._until_ups(feature, lambda ups: ups[-1:] == [owner], f"… {owner}")

    def _until_ups(self, feature: str, seen: Callable[[list[str]], bool], what: str) -> None:
        def told() -> str:
            return f"\nup were: {', '.join(self.ups(feature)) or 'none'}\n{self.told()}"

        until(lambda: seen(self.ups(feature)), f"{feature} up: {what}", told=told)
