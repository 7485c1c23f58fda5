"""Measure the cost of a fleet for its master: a thousand simulated switches on one real API server.

    python -m tests.tools.bench.fleet [--switches 1000] [--rest 60] [--outage 60]

A simulated switch is the real cluster controller, node reports and Kubernetes adapter, each with a node's own
certificate; Redis, systemd and the disk are left out, because a master notices nothing of them. Kubelets are left
out too: theirs is a cost that exists without us.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import shutil
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from kubesyncd.adapters.kube_connection import KubeConnection
from kubesyncd.adapters.kube_node import KubeCluster
from kubesyncd.adapters.kube_watch import SILENCE_S, WATCH_S, NodeWatch
from kubesyncd.cluster.controller import ClusterController, ClusterPorts
from kubesyncd.cluster.listeners import Listeners
from kubesyncd.cluster.node_reports import NodeReports
from kubesyncd.core.model import MasterConfig, Timing
from kubesyncd.runtime.context import Runtime
from tests.lab.certificates import Authority, write_kubeconfig
from tests.lab.kube_client import NODES, KubeClient, node
from tests.sim.plain import PlainDisk, PlainLog, PlainNames, PlainStore, PlainUnits
from tests.system.kube_cluster import API_SERVER, RealKube, missing_for_api
from tests.tools.bench.measure import Figure, cpu_s, pss_mib, quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.lab.engines import LabKubeProcess

FEATURES = ("bgp", "dhcp_relay", "lldp", "pmon", "radv", "snmp", "syncd", "telemetry")
METADATA = {"hwsku": "Force10-S6000", "platform": "x86_64-dell_s6000_s1220-r0", "type": "ToRRouter"}
PATIENCE_S = 300.0
# A master may see three times the mean at most in any second of a fleet's return.
PEAK_MAX = 3.0
PEOPLE = 10_000


@dataclass(slots=True)
class Book:
    """Every request of the fleet: when it was sent, and what it was."""

    sent: list[tuple[float, str]] = field(default_factory=list)
    failed: int = 0

    def between(self, begin: float, end: float) -> list[tuple[float, str]]:
        return [entry for entry in self.sent if begin <= entry[0] < end]


class CountedConnection(KubeConnection):
    """A connection that notes its requests in `book`."""

    def __init__(self, book: Book, kubeconfig: Path, *, insecure: bool) -> None:
        super().__init__(kubeconfig, insecure=insecure)
        self._book = book

    @asynccontextmanager
    async def call(self, method: str, path: str, limits: Any, **request: Any) -> AsyncIterator[Any]:
        watches = any(key == "watch" for key, _ in request.get("query_params", ()))
        self._book.sent.append((time.monotonic(), "WATCH" if watches else method))
        try:
            async with super().call(method, path, limits, **request) as response:
                yield response
        except Exception:
            self._book.failed += 1
            raise


class CountedCluster(KubeCluster):
    """The adapter over such a connection."""

    def __init__(
        self, book: Book, kubeconfig: Path, node_name: Callable[[], str], master: MasterConfig
    ) -> None:
        super().__init__(kubeconfig, node_name, master)
        self._connection = CountedConnection(book, kubeconfig, insecure=master.insecure)
        self._watch = NodeWatch(self._connection, node_name, watch_s=WATCH_S, silence_s=SILENCE_S)


class Joined:
    """ports.SwitchFiles of a switch that has joined."""

    def hold_exists(self) -> bool:
        return False

    def os_version(self) -> str:
        return "SONiC.202405.7"

    def credential_life(self) -> None:
        return None


class Simulated:
    """One switch, as far as its master notices it."""

    def __init__(self, number: int, kubeconfig: Path, book: Book) -> None:
        master = MasterConfig(ip="127.0.0.1")
        runtime = Runtime(time.monotonic, time.time, random.Random(number), PlainLog())  # type: ignore[arg-type]
        self.view = NodeReports(runtime)
        self.controller = ClusterController(
            ClusterPorts(
                store=PlainStore(master, METADATA),  # type: ignore[arg-type]
                units=PlainUnits(),  # type: ignore[arg-type]
                connect=lambda config: CountedCluster(book, kubeconfig, lambda: name_of(number), config),
                labels_file=PlainDisk(),
                switch=Joined(),
                names=PlainNames(name_of(number)),
                credential_fits=lambda: True,
                is_joining=lambda: False,
            ),
            timing=Timing(),
            runtime=runtime,
            listeners=Listeners(linked=self.view.linked),
        )
        self.controller.load()
        for name in FEATURES:
            self.view.feature(name, "LOCAL", "")

    async def run(self) -> None:
        """One life."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.controller.run())
            tasks.create_task(self.view.run(self.controller))

    @property
    def quiet(self) -> bool:
        """Connected, and nothing queued."""
        return self.controller.connected and not self.controller.status()["pending"]


def name_of(number: int) -> str:
    return f"switch{number:05d}"


class Fleet:
    """All switches, their master in `folder`/kube, and what was measured."""

    def __init__(
        self, folder: Path, count: int, console: Console, cluster: RealKube | LabKubeProcess
    ) -> None:
        self._folder = folder
        self._count = count
        self._console = console
        self.cluster = cluster
        self.book = Book()
        self.switches: list[Simulated] = []
        self.figures: list[Figure] = []
        self._lives: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """The API server's."""
        return self.cluster._pid(API_SERVER)

    async def play(self, rest_s: float, outage_s: float) -> None:
        """Measure everything, one phase after the other."""
        await asyncio.to_thread(self.cluster.start)
        await self.make_nodes()
        alone_mib = pss_mib(self.pid)
        alone_cpu = await self._cpu_share(10.0)
        async with self.booted():
            await self._rest(rest_s, alone_cpu, alone_mib)
            await self._label_storm()
            await self._return(outage_s)

    @asynccontextmanager
    async def booted(self) -> AsyncIterator[None]:
        """All switches live, connected and described."""
        self._lives = [asyncio.create_task(switch.run()) for switch in self.switches]
        try:
            await self._boot()
            yield
        finally:
            for life in self._lives:
                life.cancel()
            await asyncio.gather(*self._lives, return_exceptions=True)

    async def make_nodes(self) -> None:
        """A Node, a certificate and a simulated switch for each."""
        self._say(f"making {self._count} nodes and their certificates")
        authority = Authority(self._folder / "kube" / "pki")
        configs = self._folder / "switches"
        configs.mkdir()
        gate = asyncio.Semaphore(16)
        async with KubeClient(self.cluster.admin_conf) as admin:

            async def post(number: int) -> None:
                async with gate:
                    await admin.post(NODES, node(name_of(number)))

            await asyncio.gather(*(post(number) for number in range(self._count)))
        for number in range(self._count):
            name = name_of(number)
            pair = authority.issue(name, f"system:node:{name}", "system:nodes")
            write_kubeconfig(configs / name, self.cluster.url, authority.pem, pair, inline=False)
            self.switches.append(Simulated(number, configs / name, self.book))
            await asyncio.sleep(0)

    async def _boot(self) -> None:
        begun = time.monotonic()
        await self.until_quiet()
        taken = time.monotonic() - begun
        self._say(f"all connected and described after {taken:.1f} s")
        self._add("all start at once, until connected and described", taken, "s")

    async def _rest(self, rest_s: float, alone_cpu: float, alone_mib: float) -> None:
        await asyncio.sleep(15.0)  # all node reports have been sent by then
        self._say(f"{rest_s:g} s at rest")
        begun, served = time.monotonic(), await self._served()
        share = await self._cpu_share(rest_s)
        ended = time.monotonic()
        asked = self.book.between(begun, ended)
        seen = (await self._served() - served) / (ended - begun)
        kinds = Counter(kind for _, kind in asked)
        self._add("at rest: requests per s", len(asked) / (ended - begun), "/s")
        self._say(f"at rest: {dict(kinds)}; the master counts {seen:.1f}/s with its own")
        self._add("at rest: API server's processor", (share - alone_cpu) * 100, "% of a core")
        self._add(
            "API server's memory per switch", (pss_mib(self.pid) - alone_mib) * 1024 / self._count, "KiB"
        )
        self._add("API server alone", alone_mib, "MiB")

    async def _label_storm(self) -> None:
        self._say("one label on every switch at once")
        begun, before = time.monotonic(), cpu_s(self.pid)
        for switch in self.switches:
            await switch.controller.request_feature("snmp", on=True)
            switch.view.feature("snmp", "KUBE_RUNNING", "")
        await self.until_quiet()
        taken = time.monotonic() - begun
        await asyncio.sleep(12.0)
        asked = self.book.between(begun, time.monotonic())
        self._add("label storm: until the last one is applied", taken, "s")
        self._add("label storm: requests in the busiest s", _peak(asked, begun), "/s")
        self._add(
            "label storm: API server's processor per switch",
            (cpu_s(self.pid) - before) * 1000 / self._count,
            "ms",
        )

    async def _return(self, outage_s: float) -> None:
        self._say(f"{outage_s:g} s without a master")
        await asyncio.to_thread(self.cluster.stop, API_SERVER)
        gone = time.monotonic()
        await asyncio.sleep(outage_s)
        in_vain = self.book.between(gone + outage_s / 2, time.monotonic())
        self._add("during the outage: attempts per s", len(in_vain) / (outage_s / 2), "/s")
        await asyncio.to_thread(self.cluster.start)
        back = time.monotonic()
        before = cpu_s(self.pid)
        await self.until_quiet()
        healed = time.monotonic()
        # Attempts that came while it was still starting count as its first second's.
        lists = [at for at, kind in self.book.between(back, healed) if kind == "GET"]
        mean = len(lists) / (healed - back)
        peak = _peak([(at, "") for at in lists], back)
        self._add("return: until the last switch is connected", healed - back, "s", target=35.0)
        self._add("return: connects in the busiest s against the mean", peak / mean, "×", target=PEAK_MAX)
        self._add("return: connects per s", mean, "/s")
        self._add(
            "return: API server's processor per switch", (cpu_s(self.pid) - before) * 1000 / self._count, "ms"
        )
        waits = [at - back for at in lists]
        self._say(
            f"half of them within {quantile(waits, 0.5):.1f} s, nine of ten within {quantile(waits, 0.9):.1f} s"
        )

    async def _cpu_share(self, seconds: float) -> float:
        """Processor seconds per second of the API server, over this time."""
        before, begun = cpu_s(self.pid), time.monotonic()
        await asyncio.sleep(seconds)
        return (cpu_s(self.pid) - before) / (time.monotonic() - begun)

    async def _served(self) -> float:
        """How many requests the API server counts."""
        async with KubeClient(self.cluster.admin_conf) as admin:
            text = await _text(admin, "/metrics")
        lines = (line for line in text.splitlines() if line.startswith("apiserver_request_total{"))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def until_quiet(self) -> None:
        """Return once all are connected and nothing is queued. Raises AssertionError where one has died."""
        async with asyncio.timeout(PATIENCE_S):
            while not all(switch.quiet for switch in self.switches):
                await asyncio.sleep(0.05)
                dead = next((life for life in self._lives if life.done()), None)
                assert dead is None, f"a simulated switch has died: {dead.exception()!r}"

    def _add(self, name: str, value: float, unit: str, target: float | None = None) -> None:
        self.figures.append(Figure(f"fleet of {self._count}, {name}", round(value, 2), unit, target=target))

    def _say(self, text: str) -> None:
        self._console.print(f"fleet: {text}")


async def _text(admin: KubeClient, path: str) -> str:
    """An answer that is not JSON."""
    async with admin._session.get(admin._server + path) as answer:
        return str(await answer.text())


def _peak(asked: list[tuple[float, str]], begin: float) -> float:
    """Requests in the busiest whole second since `begin`."""
    return max(Counter(int(at - begin) for at, _ in asked).values(), default=0)


def fleet_figures(
    switches: int = 1000, rest_s: float = 60.0, outage_s: float = 60.0, console: Console | None = None
) -> Iterator[Figure]:
    """All figures; none where there is no real API server on this machine."""
    console = console or Console(highlight=False)
    missing = missing_for_api()
    if missing:
        console.print(f"fleet: not measured: {missing}")
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Path(tempfile.mkdtemp(prefix="kf-"))
    (folder / "kube").mkdir()
    fleet = Fleet(folder, switches, console, RealKube(folder / "kube"))
    try:
        asyncio.run(fleet.play(rest_s, outage_s))
    finally:
        fleet.cluster.stop()
        with suppress(OSError):
            shutil.rmtree(folder)
    yield from fleet.figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.bench.fleet", description=__doc__)
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--rest", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--outage", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console(highlight=False)
    figures = list(fleet_figures(given.switches, given.rest, given.outage, console))
    table = Table(box=None)
    for column in ("figure", "value", f"on paper for {PEOPLE}", "target"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for figure in figures:
        scaled = f"{figure.value * PEOPLE / given.switches:.0f} {figure.unit}" if figure.unit == "/s" else ""
        target = "" if figure.target is None else f"≤ {figure.target:g} {'met' if figure.met else 'MISSED'}"
        table.add_row(figure.name, f"{figure.value:g} {figure.unit}", scaled, target)
    console.print(table)
    if given.json:
        given.json.write_text(json.dumps([figure.tree() for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
