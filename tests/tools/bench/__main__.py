"""Print all performance figures side by side, as a table and `bench.json`: `make bench`.

The engines found on the machine are used; without a real one a figure is taken on the stand-in, and says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.places import remove
from tests.lab.switch import Switch
from tests.lab.switch_clients import CLIENTS
from tests.system.docker_engine import RealDocker, missing_for_docker
from tests.system.kube_cluster import RealKube, missing_for_kubelet
from tests.system.switch_kube import RealMaster
from tests.tools.bench.back import back_figures
from tests.tools.bench.fleet import fleet_figures
from tests.tools.bench.growth import growth_figures
from tests.tools.bench.lateness import lateness_figures
from tests.tools.bench.measure import Figure, compile_daemon, idle, interleaved, plain, pss_mib, quantile, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engines import Docker, Kube

PYTHON = "/usr/bin/python3"
HANDOVERS = 100
MANY = 64
KILLED = 20
KILL_ROUNDS = 5


def main() -> int:
    """Take all figures, or those named. Returns 1 where one could not be taken; a missed target is only shown."""
    groups = {
        "client": client_figures,
        "memory": memory_figures,
        "handover": handover_figures,
        "many": many_figures,
        "reboot": reboot_figures,
        "back": back_figures,
        "kube": kube_figures,
        "fleet": lambda _: fleet_figures(),
        "growth": lambda _: growth_figures(),
        "lateness": lambda _: lateness_figures(),
    }
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"which of {', '.join(groups)} (default: all)"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    chosen = parser.parse_args()
    unknown = set(chosen.groups) - set(groups)
    if unknown:
        parser.error(f"unknown group {', '.join(sorted(unknown))}; choose from {', '.join(groups)}")
    # A table in a file is as wide as it needs to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    figures: list[Figure] = []
    whole = True
    with ExitStack() as power:
        folder = Path(tempfile.mkdtemp(prefix="kb-"))
        power.callback(remove, folder)
        compile_daemon(folder / "compiled")
        docker = _docker(console, folder, power)
        for name in chosen.groups or groups:
            with console.status(f"{name} …"):
                whole &= _taken(console, name, groups[name](docker), figures)
            chosen.json.write_text(json.dumps([f.tree() for f in figures], indent=1) + "\n")
    console.print(_table(figures))
    return 0 if whole else 1


def _taken(console: Console, name: str, group: Iterator[Figure], figures: list[Figure]) -> bool:
    """Whether all of the group's figures could be taken; those that could are in `figures`."""
    try:
        for figure in group:
            figures.append(figure)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        console.print(f"{name}: not all measured: {error}")
        return False
    return True


def _docker(console: Console, folder: Path, power: ExitStack) -> Docker:
    missing = missing_for_docker()
    console.print(f"docker: {'stand-in (' + missing + ')' if missing else 'the real dockerd'}")
    docker: Docker = LabDockerProcess(folder / "docker") if missing else RealDocker(folder / "docker")
    if isinstance(docker, RealDocker):
        docker.folder.mkdir()
    docker.start()
    power.callback(docker.stop)
    if isinstance(docker, RealDocker):
        docker.import_image()
    return docker


def client_figures(docker: Docker) -> Iterator[Figure]:
    """How long operators and scripts wait for a client."""
    with Switch(docker) as switch:
        switch.config("snmp", set_owner="local")
        plain(switch, "snmp")
        plain(switch, "plain")
        switch.done("start", "snmp")
        environ, container = switch.clients.environment, str(CLIENTS / "container")
        taken = interleaved(
            {
                "id": lambda: run([container, "id", "snmp"], environ),
                "python": lambda: run([PYTHON, "-I", "-S", "-c", "pass"], environ),
                "docker": lambda: run(["docker", "inspect", "snmp"], environ),
            },
            runs=40,
        )
        name = "container id"
        yield Figure(name, taken["id"], "ms", "bare interpreter", taken["python"], 1.3, ratio_target=True)
        yield Figure(name, taken["id"], "ms", "docker inspect", taken["docker"], 1.0, ratio_target=True)
        switch.done("stop", "-t", "0", "snmp")
        begun: dict[str, list[float]] = {
            "ours start": [],
            "docker start": [],
            "ours stop": [],
            "docker stop": [],
        }
        for _ in range(15):
            for who, command in (("ours", [container]), ("docker", ["docker"])):
                target = "snmp" if who == "ours" else "plain"
                for verb in (["start"], ["stop", "-t", "0"]):
                    at = time.perf_counter()
                    run([*command, *verb, target], environ)
                    begun[f"{who} {verb[0]}"].append((time.perf_counter() - at) * 1000)
        for verb in ("start", "stop"):
            ours, theirs = (quantile(begun[f"{who} {verb}"], 0.5) for who in ("ours", "docker"))
            yield Figure(f"container {verb}", ours, "ms", f"docker {verb}", theirs, 1.0, ratio_target=True)


def memory_figures(docker: Docker) -> Iterator[Figure]:
    """What a quiet switch pays, without Kubernetes."""
    with Switch(docker, timing={"audit_s": 60.0}) as switch:
        for number in range(8):
            switch.config(f"f{number}", set_owner="local")
            plain(switch, f"f{number}")
            switch.done("start", f"f{number}")
        one = switch.spawn("wait", "f0")
        time.sleep(1.0)
        yield Figure("one waiter", pss_mib(one.pid), "MiB PSS", target=0.4)
        ten = [one, *(switch.spawn("wait", "f0") for _ in range(9))]
        time.sleep(1.5)
        yield Figure("each of ten waiters", sum(pss_mib(p.pid) for p in ten) / 10, "MiB PSS", target=0.4)
        yield from idle(switch, "daemon, local only", most_mib=38.0, most_wakeups=0.5, most_cpu=0.1)


def _kube(docker: Docker, power: ExitStack) -> tuple[Kube, str]:
    """A master whose node is on `docker`, and what it is."""
    folder = Path(tempfile.mkdtemp(prefix="kb-"))
    missing = missing_for_kubelet() or ("" if isinstance(docker, RealDocker) else "dockerd is a stand-in")
    if missing:
        power.callback(remove, folder)
        stand_in = LabKubeProcess(folder)
        stand_in.start()
        power.callback(stand_in.stop)
        return stand_in, f"stand-in ({missing})"
    cluster = RealKube(folder)
    power.callback(cluster.forget)
    power.callback(cluster.stop)
    cluster.start()
    cluster.start_kubelet(str(docker.socket))
    return RealMaster(cluster), "kube-apiserver and kubelet 1.20.2"


def kube_figures(docker: Docker) -> Iterator[Figure]:
    """What a quiet switch pays with a master, how soon it notices that the master is gone, and is told again."""
    with ExitStack() as power:
        kube, what = _kube(docker, power)
        with Switch(docker, kube, timing={"audit_s": 60.0}) as switch:
            switch.join()
            switch.wait_for(lambda: switch.connected == "True", "connected")
            yield from idle(
                switch, f"daemon, with kube ({what})", most_mib=46.0, most_wakeups=0.5, most_cpu=0.1
            )
            begun = time.monotonic()
            kube.freeze_api()
            switch.wait_for(lambda: switch.connected == "False", "silence is noticed", 120.0)
            yield Figure("master silent → not connected", time.monotonic() - begun, "s", target=40.0)
            kube.thaw_api()
            switch.wait_for(lambda: switch.connected == "True", "connected again")
            begun = time.monotonic()
            kube.stop_api()
            switch.wait_for(lambda: switch.connected == "False", "not connected")
            yield Figure("master stopped → not connected", time.monotonic() - begun, "s", target=10.0)
            switch.boot_local("snmp")
            switch.config("snmp", set_owner="kube", fallback_to_local="true")
            switch.wait_for(lambda: switch.pending, "queued")
            begun = time.monotonic()
            kube.start()
            up = time.monotonic()
            switch.wait_for(lambda: not switch.pending, "drained")
            yield Figure("master back → labels applied", time.monotonic() - up, "s", target=2.0)
            yield Figure("… the master's own start", up - begun, "s")


def handover_figures(docker: Docker) -> Iterator[Figure]:
    """How long nothing serves because of us: Docker's die event until the kube container may proceed."""
    dead: list[float] = []
    with Switch(docker, timing={"handover_delay_s": 0.1, "kube_stable_s": 0.2}) as switch:
        switch.boot_local("snmp")
        switch.config("snmp", set_owner="kube", fallback_to_local="true")
        for number in range(HANDOVERS):
            switch.until_state("snmp", "LOCAL")
            # It runs before it says that it is up; the next mark has to be the kube container's.
            switch.until_up("snmp", "local")
            since = str(time.time())
            kube = switch.run_kube("snmp", number)
            switch.until_up("snmp", "kube")
            proceeded = (switch.paths.marks / "snmp.up").stat().st_mtime_ns
            died = _died(switch, since)
            dead.append((proceeded - died) / 1e6)
            switch.config("snmp", set_owner="local")
            switch.docker.do("kill", kube)
            switch.until_state("snmp", "LOCAL")
            switch.docker.remove(kube)
            switch.config("snmp", set_owner="kube")
    yield Figure(f"hand-over, nothing serves, p50 of {HANDOVERS}", quantile(dead, 0.5), "ms")
    yield Figure(f"hand-over, nothing serves, p99 of {HANDOVERS}", quantile(dead, 0.99), "ms", target=25.0)


def _died(switch: Switch, since: str) -> int:
    """When the local container died, by Docker's word, in nanoseconds since the epoch."""
    filters = ["--filter", "event=die", "--filter", "container=snmp"]
    command = [
        "docker",
        "events",
        "--since",
        since,
        "--until",
        str(time.time()),
        *filters,
        "--format",
        "{{.TimeNano}}",
    ]
    told = subprocess.run(
        command, env=switch.clients.environment, capture_output=True, text=True, check=True, timeout=180
    )
    return int(told.stdout.split()[-1])


def many_figures(docker: Docker) -> Iterator[Figure]:
    """64 features: a start of the daemon, and all of them at once."""
    with Switch(docker) as switch:
        names = [f"f{number}" for number in range(MANY)]
        for name in names:
            switch.config(name, set_owner="local")
            plain(switch, name)
            plain(switch, f"plain-{name}")
        environ, container = switch.clients.environment, str(CLIENTS / "container")
        sides = {"docker": (["docker"], "plain-"), "ours": ([container], "")}
        taken: dict[str, list[float]] = {who: [] for who in sides}
        # In turn, each side first as often as last, and nothing else running: an engine slows down as it fills.
        for who in ("docker", "ours", "ours", "docker"):
            command, prefix = sides[who]
            at = time.perf_counter()
            _all([[*command, "start", prefix + name] for name in names], environ)
            taken[who].append(time.perf_counter() - at)
            _all([[*command, "kill", prefix + name] for name in names], environ)
        ours, theirs = (sum(taken[who]) / 2 for who in ("ours", "docker"))
        name = f"{MANY} features started at once"
        yield Figure(name, ours, "s", f"{MANY} docker start", theirs, 1.0, ratio_target=True)
        _all([[container, "start", name] for name in names], environ)
        ready, converged = [], []
        for _ in range(5):
            switch.daemon.stop()
            begun = time.monotonic()
            launched = threading.Thread(target=switch.daemon.start)
            launched.start()
            launched.join()
            ready.append(time.monotonic() - begun)
            switch.wait_for(lambda: _all_local(switch, names), "64 features LOCAL")
            converged.append(time.monotonic() - begun)
        yield Figure("daemon start → answers", quantile(ready, 0.5), "s", target=0.6)
        yield Figure(f"daemon start → {MANY} features converged", quantile(converged, 0.99), "s", target=2.0)


def reboot_figures(docker: Docker) -> Iterator[Figure]:
    """What a reboot script waits for: `reboot prepare`, and 20 features killed at once; and when all are back."""
    with Switch(docker) as switch:
        names = [f"f{number}" for number in range(KILLED)]
        for name in names:
            switch.boot_local(name)
        # Every other one is kube's, without fallback, and there is no master: the boot's promise alone starts it.
        for name in names[::2]:
            switch.config(name, set_owner="kube")
        begun = time.monotonic()
        ended = switch.kubesync("reboot", "prepare", "warm")
        took_s = time.monotonic() - begun
        assert ended.returncode == 0, ended
        yield Figure("reboot prepare", took_s, "s", target=30.0)
        kube, local = _back(switch, names)
        figure = f"{KILLED // 2} kube features back after a boot"
        yield Figure(figure, kube, "s", f"{KILLED // 2} local ones", local, 1.2, ratio_target=True)
        for name in names[::2]:
            switch.config(name, set_owner="local")
        environ, container = switch.clients.environment, str(CLIENTS / "container")
        sides = {"docker": ["docker", "kill"], "ours": [container, "kill", "--no-kubelet-check"]}
        taken: dict[str, list[float]] = {who: [] for who in sides}
        for who in ("docker", "ours") * KILL_ROUNDS:
            _all([[container, "start", name] for name in names], environ)
            switch.wait_for(lambda: _all_local(switch, names), f"{KILLED} features LOCAL")
            at = time.perf_counter()
            _all([[*sides[who], name] for name in names], environ)
            taken[who].append(time.perf_counter() - at)
            _all([[container, "stop", name] for name in names], environ)
        ours, theirs = (quantile(taken[who], 0.5) for who in ("ours", "docker"))
        figure = f"{KILLED} × container kill --no-kubelet-check at once"
        yield Figure(figure, ours, "s", f"{KILLED} × docker kill", theirs, 1.0, ratio_target=True)


def _back(switch: Switch, names: list[str]) -> tuple[float, float]:
    """Boot and start all at once: median seconds until kube features and until local ones had come up."""
    switch.reboot()
    container = str(CLIENTS / "container")
    begun = time.time()
    _all([[container, "start", name] for name in names], switch.clients.environment)
    for name in names:
        switch.until_ups(name, "local")
    came = [(switch.paths.marks / f"{name}.up").stat().st_mtime - begun for name in names]
    return quantile(came[::2], 0.5), quantile(came[1::2], 0.5)


def _all(commands: list[list[str]], environ: dict[str, str]) -> None:
    """All of them at the same time."""
    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(lambda command: run(command, environ), commands))


def _all_local(switch: Switch, names: list[str]) -> bool:
    _, lines = switch.ask("show")
    return sum(json.loads(line)["state"] == "LOCAL" for line in lines) >= len(names)


def _table(figures: list[Figure]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in (
        ("figure", "left"),
        ("value", "right"),
        ("reference", "left"),
        ("ratio", "right"),
        ("target", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify)
    for f in figures:
        reference = f"{f.reference} {f.reference_value:.1f}" if f.reference_value is not None else ""
        ratio = f"{f.judged:.2f} ×" if f.ratio_target else ""
        target = "" if f.target is None else f"≤ {f.target:g}{' ×' if f.ratio_target else ''}"
        verdict = {None: "", True: "[green]met[/green]", False: "[red]missed[/red]"}[f.met]
        table.add_row(f.name, f"{f.value:.2f} {f.unit}", reference, ratio, target, verdict)
    return table


if __name__ == "__main__":
    sys.exit(main())
