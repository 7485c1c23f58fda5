"""Run hours of storms and quiet times on a whole switch: `make soak HOURS=n`.

The engines found on the machine are used: redis-server, dockerd, kube-apiserver and kubelet; without a real one the
stand-in of tests/lab, which is said. Ends with a table, `soak.json`, and 1 where something was found: memory that
grows, files or tasks that stay, a traceback, a feature that does not settle. The log stays beside the JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.places import remove
from tests.lab.switch import Switch
from tests.system.docker_engine import RealDocker, missing_for_docker
from tests.system.kube_cluster import RealKube, missing_for_kubelet
from tests.system.switch_kube import RealMaster
from tests.tools.bench.measure import compile_daemon
from tests.tools.soak.judge import GROWTH_MIB_MAX, Sample, Storm, findings, judged, least
from tests.tools.soak.storm import TROUBLE, Bench, Faults, People, heal
from tests.tools.soak.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.engines import Docker, Kube

STORM_S = 120.0
REST_S = 30.0
# At rest the daemon is looked at so often: what it knows of Docker is asked again every 5 minutes, and the
# connections for that live for 30 s.
LOOKS, LOOK_EVERY_S = 9, 5.0
SAMPLE_EVERY_S = 60.0
# A kubelet waits up to five minutes before it starts a container again that has crashed often.
SETTLE_S_MAX = 420.0
PEOPLE = 2
PEOPLE_PAUSE_S = 2.0
FAULT_PAUSE_S = 8.0
# In these storms the daemon is killed with -9; between them it lives long enough to show a leak.
KILLED_EVERY, KILLED_FIRST = 12, 3
TIMING = {"audit_s": 60.0, "handover_delay_s_max": 20.0, "kube_stop_grace_s": 8.0}


class Soak:
    """One run."""

    def __init__(self, switch: Switch, seed: int, console: Console) -> None:
        self.bench = Bench(switch)
        self.samples: list[Sample] = []
        self.storms: list[Storm] = []
        self._seed = seed
        self._console = console
        self._begun = time.monotonic()
        self.watch = Watch(switch, lambda: time.monotonic() - self._begun)
        self._sampled = threading.Lock()

    def run(self, hours: float) -> None:
        """Storm after storm; the last one begins before the time is over."""
        over = threading.Event()
        sampler = threading.Thread(target=self._sample_until, args=(over,))
        sampler.start()
        try:
            self.bench.boot()
            while time.monotonic() - self._begun < hours * 3600:
                self._cycle(len(self.storms))
        finally:
            over.set()
            sampler.join()

    def _cycle(self, number: int) -> None:
        operations, faults = self._storm(number)
        settled_s, left = self._settle()
        time.sleep(REST_S)
        self._sample_at_rest(number)
        self.storms.append(Storm(number, operations, faults, round(settled_s, 1), left))
        self._tell()

    def _storm(self, number: int) -> tuple[int, int]:
        """How many operations and faults there were."""
        until = time.monotonic() + STORM_S
        before = sum((self.bench.done + self.bench.failed).values())
        people = [
            threading.Thread(target=self._people, args=(Random(f"{self._seed}/{number}/{who}"), until))
            for who in range(PEOPLE)
        ]
        for thread in people:
            thread.start()
        faults = self._faults(Random(f"{self._seed}/{number}/faults"), until, number)
        for thread in people:
            thread.join()
        return sum((self.bench.done + self.bench.failed).values()) - before - faults, faults

    def _people(self, rng: Random, until: float) -> None:
        people = People(self.bench, rng)
        while time.monotonic() < until:
            people.turn()
            time.sleep(rng.expovariate(1 / PEOPLE_PAUSE_S))

    def _faults(self, rng: Random, until: float, number: int) -> int:
        source, faults = Faults(self.bench, rng), 0
        killed_at = until - rng.uniform(0.2, 0.8) * STORM_S if number % KILLED_EVERY == KILLED_FIRST else None
        while time.monotonic() < until:
            if killed_at is not None and time.monotonic() > killed_at:
                killed_at = None
                self.bench.attempt("daemon_killed", self.bench.switch.daemon.restart)
            else:
                source.turn()
            faults += 1
            time.sleep(rng.expovariate(1 / FAULT_PAUSE_S))
        return faults

    def _settle(self) -> tuple[float, tuple[str, ...]]:
        """How long it took until every feature was what CONFIG_DB wants, and who never was."""
        begun, left = time.monotonic(), ["not checked"]
        healed = False
        while left and time.monotonic() - begun < SETTLE_S_MAX:
            try:
                if not healed:
                    heal(self.bench)
                    healed = True
                self.bench.remove_unstartable()
                left = self.bench.unsettled()
            except TROUBLE as error:
                left = [f"not checked: {error}"]
            time.sleep(1.0)
        return time.monotonic() - begun, tuple(left)

    def _sample_until(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_EVERY_S):
            self._sample()

    def _sample_at_rest(self, storm: int) -> None:
        seen = []
        for _ in range(LOOKS):
            seen.append(self._sample())
            time.sleep(LOOK_EVERY_S)
        whole = [sample for sample in seen if sample is not None]
        if whole:
            self.samples.append(least(whole, storm))

    def _sample(self) -> Sample | None:
        with self._sampled:
            sample = self.watch.sample()
            if sample is not None:
                self.samples.append(sample)
            return sample

    def _tell(self) -> None:
        storm, told = self.storms[-1], self.watch.log.told()
        at_rest = next((s for s in self.samples if s.storm == storm.number), None)
        memory = f"{at_rest.own_mib:.1f} MiB own, {at_rest.fds} files" if at_rest else "no daemon answers"
        self._console.print(
            f"{time.monotonic() - self._begun:6.0f} s  storm {storm.number}: {storm.operations} operations, "
            f"{storm.faults} faults, settled in {storm.settled_s:.0f} s; {memory}, "
            f"{sum(told.lines.values())} log lines, {len(told.tracebacks)} tracebacks"
        )
        for sentence in storm.left:
            self._console.print(f"         [red]{sentence}[/red]")


def engines(power: ExitStack, console: Console) -> tuple[Docker, Kube]:
    """The best this machine has; what is missing is said."""
    folder = Path(tempfile.mkdtemp(prefix="kz-"))
    power.callback(remove, folder)
    compile_daemon(folder / "compiled")
    missing = missing_for_kubelet() or missing_for_docker()
    if missing:
        console.print(f"stand-ins for Docker and Kubernetes: {missing}")
        docker, kube = LabDockerProcess(folder / "docker"), LabKubeProcess(folder / "kube")
        for engine in (docker, kube):
            engine.start()
            power.callback(engine.stop)
        return docker, kube
    console.print("the real dockerd, kube-apiserver and kubelet")
    (folder / "kube").mkdir()
    cluster = RealKube(folder / "kube")
    real = RealDocker(cluster.folder / "docker")
    real.folder.mkdir()
    power.callback(cluster.forget)
    power.callback(real.stop)
    real.start()
    real.import_image()
    power.callback(cluster.stop)
    cluster.start()
    cluster.start_kubelet(str(real.socket))
    return real, RealMaster(cluster)


def report(soak: Soak, twice: list[str], console: Console, file: Path) -> int:
    """Everything as JSON, the essence as tables; 1 where something was found."""
    told = soak.watch.log.told()
    found = findings(soak.samples, soak.storms, told, twice)
    measured = {
        "samples": [asdict(sample) for sample in soak.samples],
        "storms": [asdict(storm) for storm in soak.storms],
        "log": told.lines,
        "done": soak.bench.done,
        "failed": soak.bench.failed,
        "found": found,
    }
    file.write_text(json.dumps(measured, indent=1) + "\n")
    console.print(_rests(soak))
    console.print(_counts("operations and faults: done, in vain", soak.bench.done, soak.bench.failed))
    console.print(_counts("the daemon's log: lines by event", told.lines))
    for first, last in judged(soak.samples):
        console.print(
            f"life {first.life}: {last.own_mib - first.own_mib:+.2f} MiB own, {last.pss_mib - first.pss_mib:+.2f} MiB "
            f"PSS, {last.fds - first.fds:+d} files, {last.tasks - first.tasks:+d} tasks "
            f"in {(last.at_s - first.at_s) / 60:.0f} minutes ({GROWTH_MIB_MAX:g} MiB own, nothing else allowed)"
        )
    for sentence in found:
        console.print(f"[red]found:[/red] {escape(sentence)}")
    console.print("nothing found" if not found else f"{len(found)} found")
    return int(bool(found))


def _rests(soak: Soak) -> Table:
    """One line per storm: how it was, and what the daemon held at rest after it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in (
        "minute", "life", "storm", "done", "faults", "settled s", "PSS MiB", "own MiB", "RSS MiB", "files",
        "threads", "tasks",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    at_rest = {sample.storm: sample for sample in soak.samples if sample.storm is not None}
    for storm in soak.storms:
        happened = (str(storm.number), str(storm.operations), str(storm.faults), f"{storm.settled_s:.0f}")
        held = at_rest.get(storm.number)
        if held is None:
            table.add_row("", "", *happened, "no daemon answered")
            continue
        memory = (f"{mib:.1f}" for mib in (held.pss_mib, held.own_mib, held.rss_mib))
        counts = (str(count) for count in (held.fds, held.threads, held.tasks))
        table.add_row(f"{held.at_s / 60:.0f}", str(held.life), *happened, *memory, *counts)
    return table


def _counts(title: str, *columns: Mapping[str, int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, title=title, title_justify="left")
    names = sorted({name for column in columns for name in column}, key=lambda n: -columns[0].get(n, 0))
    for name in names:
        table.add_row(name, *(str(column.get(name, 0)) for column in columns))
    return table


def main() -> int:
    """Returns 1 where something was found."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("soak.json"))
    chosen = parser.parse_args()
    # Twelve columns side by side, also in a file.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
    # Whoever ends it early still finds nothing left of it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as power:
        docker, kube = engines(power, console)
        switch = power.enter_context(Switch(docker, kube, timing=TIMING))
        soak = Soak(switch, chosen.seed, console)
        try:
            soak.run(chosen.hours)
        finally:
            shutil.copy(switch.daemon.log_file, chosen.json.with_suffix(".log"))
        twice = [f"{file.stem}: {file.read_text()}" for file in switch.paths.marks.glob("*.twice")]
        return report(soak, twice, console, chosen.json)


if __name__ == "__main__":
    sys.exit(main())
