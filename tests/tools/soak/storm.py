"""Generate an hour of operators' commands and faults on a switch: seeded, on real engines.

`Bench` holds a switch with its features and what each is configured to be; `People` are operators, units and
crashes; `Faults` hit everything around the daemon, and the daemon itself. After a storm `heal`
undoes the faults, and `unsettled` says which features are not yet what they are configured to be.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import redis

from kubesyncd.adapters.docker_containers import LEFT_BEHIND
from tests.lab.docker_client import DockerError
from tests.lab.kube_client import KubeError
from tests.system.docker_engine import RealDocker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from tests.lab.switch import Switch

LOCAL_ONLY = ("pmon", "lldp", "nat", "radv")
BY_KUBE_TOO = ("snmp", "telemetry", "sflow", "mgmt-framework")
# Errors that an operation may get during a fault: they are ignored, and the storm goes on.
TROUBLE = (OSError, AssertionError, DockerError, KubeError, redis.RedisError, subprocess.TimeoutExpired)
CLIENT_S_MAX = 60.0
IDLE_CONNECTIONS = 100


class Bench:
    """A switch and its features. `wanted`: CONFIG_DB's FEATURE rows, by feature."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.wanted: dict[str, dict[str, str]] = {}
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.by_kube = BY_KUBE_TOO if switch.kube is not None else ()
        # Redis loses its rows in a storm; who refills it and who changes a row take turns.
        self._rows = threading.Lock()

    @property
    def features(self) -> tuple[str, ...]:
        """All of them."""
        return (*LOCAL_ONLY, *BY_KUBE_TOO)

    def boot(self) -> None:
        """Every feature has a row, a unit that runs, and those for Kubernetes a DaemonSet."""
        if self.switch.kube is not None:
            self.switch.join()
        for name in self.features:
            self.configure(name, set_owner="local", fallback_to_local="true")
            self.switch.add_service(name)
            self.switch.units.call("start", f"{name}.service")
        for name in self.by_kube:
            self.switch.master.deploy(name)

    def configure(self, name: str, **fields: str) -> None:
        """Change fields of a row, now and for every refill; whatever else was put there is put right."""
        with self._rows:
            self.wanted[name] = {**self.wanted.get(name, {}), **fields}
            self.switch.config(name, **self.wanted[name])

    def refill(self, pause_s: float = 0.0) -> None:
        """As a boot or `config reload` does: row by row, and at last the word that it is whole."""
        with self._rows:
            database = self.switch.config_db
            for name, fields in self.wanted.items():
                database.hset(f"FEATURE|{name}", mapping=fields)
                time.sleep(pause_s)
            if self.switch.kube is not None:
                self.switch.join()
            database.set("CONFIG_DB_INITIALIZED", "1")

    def reload(self) -> None:
        """`config reload`."""
        self.switch.config_db.flushdb()
        self.refill(0.1)

    def attempt(self, name: str, operation: Callable[[], object]) -> None:
        """Do it and count it; what fails because of a fault is counted too."""
        try:
            operation()
            self.done[name] += 1
        except TROUBLE:
            self.failed[name] += 1

    def remove_unstartable(self) -> None:
        """Remove containers that the engine itself cannot start any more, as an operator would; units make new ones.

        A dockerd that is stopped while it starts a container leaves a task behind, and refuses the container's next
        start because of it, for ever.
        """
        for container in self.switch.docker.list():
            if LEFT_BEHIND.search(self.switch.docker.inspect(container["Id"])["State"].get("Error", "")):
                self.attempt("engine_mended", partial(self.switch.docker.remove, container["Id"]))

    def unsettled(self) -> list[str]:
        """Who is not yet what CONFIG_DB wants, one sentence each."""
        sentences = [text for name in self.features if (text := self._unsettled(name))]
        switch = self.switch
        if switch.kube is not None:
            if switch.connected != "True":
                sentences.append("the master answers and the switch is not connected")
            if switch.pending:
                sentences.append(f"labels are still queued: {switch.pending}")
            if not switch.kubelet_runs:
                sentences.append("the kubelet does not run")
        return sentences

    def _unsettled(self, name: str) -> str:
        shown, running = self.switch.shown(name), self.switch.running(name)
        kube = self.wanted[name]["set_owner"] == "kube" and name in self.by_kube
        state = "KUBE_RUNNING" if kube else "LOCAL"
        if shown.get("state") != state:
            return f"{name} is {shown.get('state')} and not {state}: {shown.get('why')}"
        owner = shown["row"]["docker_id"]
        if running != [owner]:
            return f"{name}: {owner[:12]} is its container, and {[c[:12] for c in running]} run"
        if self.switch.row(name).get("docker_id") != owner:
            return f"{name}: STATE_DB says {self.switch.row(name)}"
        return ""


class People:
    """Operators, units and crashes: `turn` does one thing, drawn from `rng`."""

    def __init__(self, bench: Bench, rng: Random) -> None:
        self._bench = bench
        self._switch = bench.switch
        self._rng = rng
        self.chances: dict[Callable[[], object], int] = {
            self.look: 4,
            self.unit: 4,
            self.verb: 4,
            self.hand_over: 8,
            self.fallback: 1,
            self.crash: 3,
            self.label: 4,
            self.nonsense: 2,
            self.idle_connections: 1,
            self.visitor: 1,
        }

    def turn(self) -> None:
        """One operation."""
        chosen = self._rng.choices(list(self.chances), list(self.chances.values()))[0]
        self._bench.attempt(chosen.__name__, chosen)

    def look(self) -> None:
        """Whatever only looks."""
        name = self._feature()
        words = self._rng.choice(
            [("id", name), ("state", name), ("inspect", "-f", "{{.Id}}", name), ("exec", name, "true")]
        )
        self._switch.container(*words, limit_s=CLIENT_S_MAX)
        self._switch.ask("show")

    def unit(self) -> None:
        """systemd stops, starts or restarts a unit."""
        self._switch.units.call(self._rng.choice(["stop", "start", "restart"]), f"{self._feature()}.service")

    def verb(self) -> None:
        """A verb by hand, beside the unit."""
        name = self._feature()
        words = self._rng.choice([("start", name), ("stop", "-t", "1", name), ("kill", name)])
        self._switch.container(*words, limit_s=CLIENT_S_MAX)

    def hand_over(self) -> None:
        """From local to kube, or back."""
        if self._bench.by_kube:
            owner = self._rng.choice(["local", "kube"])
            self._bench.configure(self._rng.choice(self._bench.by_kube), set_owner=owner)

    def fallback(self) -> None:
        """Fallback on or off."""
        self._bench.configure(self._feature(), fallback_to_local=self._rng.choice(["true", "false"]))

    def crash(self) -> None:
        """A container of the feature dies, mostly the local one: a kubelet waits longer after each crash."""
        name = self._feature() if self._rng.random() < 0.3 else self._rng.choice(LOCAL_ONLY)
        for container in self._switch.running(name):
            self._switch.docker.do("kill", container)

    def label(self) -> None:
        """`config kube label`, by the socket it uses."""
        key = self._rng.choice(["rack", "row", "role"])
        self._switch.ask("label", self._rng.choice([f"{key}=v{self._rng.randrange(9)}", f"{key}-"]))

    def nonsense(self) -> None:
        """Requests that are none, and a row that is none."""
        self._switch.daemon.raw(
            self._rng.choice([b"\n", b"\xff\xfe\n", b"1\0explode\n", b"1\0start\0../x\n"])
        )
        self._switch.container("start", "No-Such Name", limit_s=CLIENT_S_MAX)
        name = self._feature()
        self._switch.config(name, set_owner="nobody")
        self._bench.configure(name)

    def idle_connections(self) -> None:
        """Connections without a request."""
        with ExitStack() as stack:
            for _ in range(IDLE_CONNECTIONS):
                link = stack.enter_context(socket.socket(socket.AF_UNIX))
                link.settimeout(5.0)
                link.connect(str(self._switch.paths.host_sock))
            time.sleep(0.5)

    def visitor(self) -> None:
        """A feature that is installed and uninstalled again."""
        key = "FEATURE|visitor"
        self._switch.config("visitor", set_owner="local")
        self._switch.ask("show", "visitor")
        self._switch.config_db.delete(key)
        self._switch.ask("forget", "visitor")
        self._switch.state_db.delete(key)

    def _feature(self) -> str:
        return self._rng.choice(self._bench.features)


class Faults:
    """Faults of everything around the daemon, and of itself: `turn` lets one come and go."""

    def __init__(self, bench: Bench, rng: Random) -> None:
        self._bench = bench
        self._switch = bench.switch
        self._rng = rng
        self.chances: dict[Callable[[], object], int] = {
            self.redis_restart: 2,
            self.redis_flush: 2,
            self.redis_silent: 1,
            self.config_reload: 3,
            self.docker_restart: 1,
            self.docker_silent: 1,
            self.daemon_reload: 2,
        }
        if self._switch.kube is not None:
            self.chances |= {self.master_away: 2, self.master_silent: 2}

    def turn(self) -> None:
        """One fault."""
        chosen = self._rng.choices(list(self.chances), list(self.chances.values()))[0]
        self._bench.attempt(chosen.__name__, chosen)

    def redis_restart(self) -> None:
        """Killed, and empty when it is back."""
        self._switch.redis.kill()
        self._hold(0.0, 3.0)
        self._switch.redis.start()
        self._bench.refill()

    def redis_flush(self) -> None:
        """STATE_DB is wiped."""
        self._switch.state_db.flushdb()

    def redis_silent(self) -> None:
        """SIGSTOP."""
        with _undone(self._switch.redis.resume):
            self._switch.redis.pause()
            self._hold(1.0, 6.0)

    def config_reload(self) -> None:
        """CONFIG_DB is flushed and refilled."""
        self._bench.reload()

    def docker_restart(self) -> None:
        """dockerd restarts; its containers live on, or end."""
        engine = self._switch.engine
        if isinstance(engine, RealDocker):
            asyncio.run(engine.restart(live_restore=self._rng.random() < 0.5))
        else:
            engine.stop()
            engine.start()

    def docker_silent(self) -> None:
        """SIGSTOP."""
        engine = self._switch.engine
        if isinstance(engine, RealDocker):
            with _undone(engine.thaw):
                engine.freeze()
                self._hold(1.0, 6.0)

    def master_away(self) -> None:
        """Stopped, and started again."""
        assert self._switch.kube is not None
        with _undone(self._switch.kube.start):
            self._switch.kube.stop_api()
            self._hold(2.0, 15.0)

    def master_silent(self) -> None:
        """SIGSTOP."""
        assert self._switch.kube is not None
        with _undone(self._switch.kube.thaw_api):
            self._switch.kube.freeze_api()
            self._hold(2.0, 15.0)

    def daemon_reload(self) -> None:
        """SIGHUP."""
        self._switch.daemon.send_signal(signal.SIGHUP)

    def _hold(self, least_s: float, most_s: float) -> None:
        time.sleep(self._rng.uniform(least_s, most_s))


def heal(bench: Bench) -> None:
    """All faults are over, all rows there, every unit runs, and what kube failed at is forgiven."""
    bench.refill()
    for name in bench.features:
        bench.switch.units.call("start", f"{name}.service")
        bench.switch.ask("clear", name)


@contextmanager
def _undone(undo: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        undo()
