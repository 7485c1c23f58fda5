"""Play the whole story on a virtual switch, each step with its time: `make demo`.

    python -m tests.lab.demo [--keep] [--lab]

The engines found on the machine are used, a stand-in for each one missing. Daemon, clients and containers are
processes of their own over their real sockets. `--keep` leaves it running and says what to try; `--lab` takes the
stand-ins even where there are real engines.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.places import remove
from tests.lab.switch import Switch
from tests.system.docker_engine import RealDocker, missing_for_docker
from tests.system.kube_cluster import RealKube, missing_for_api, missing_for_kubelet
from tests.system.switch_kube import RealMaster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engines import Docker, Kube

FEATURE = "snmp"
WIDTH = 80
COLOURS = {"LOCAL": "green", "INIT": "white", "KUBE": "blue", "STARTING": "yellow"}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the story: an action, and its expected result. `seen` returns once the result is there."""

    who: str
    does: str
    act: Callable[[], object]
    seen: Callable[[], str]


class Story:
    """The story of `docs/interfaces`: local, kube, an outage, and back."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self.waiter = None

    def steps(self) -> Iterator[Step]:
        s = self._switch
        yield Step("systemd", f"container start {FEATURE}", self._boot, lambda: self._state("LOCAL"))
        yield Step(
            "systemd", f"container wait {FEATURE}", self._wait, lambda: "waits for as long as it is up"
        )
        yield Step(
            "operator",
            "config kube server ip …",
            s.join,
            lambda: self._until("joined", lambda: s.connected == "True"),
        )
        yield Step(
            "operator",
            f"config feature {FEATURE} owner kube fallback true",
            lambda: s.config(FEATURE, set_owner="kube", fallback_to_local="true"),
            lambda: self._until(
                f"label {FEATURE}_enabled=true on the node", lambda: s.master.label_of(FEATURE) == "true"
            ),
        )
        yield Step("master", "deploys the DaemonSet", lambda: s.master.deploy(FEATURE), self._handed_over)
        yield Step("systemd", "notices nothing", lambda: None, self._still_waits)
        yield Step("network", "the master goes away", self._master_down, self._unreachable)
        yield Step(
            "systemd", f"container stop {FEATURE}", lambda: s.done("stop", FEATURE), self._stopped_offline
        )
        yield Step("network", "the master comes back", self._master_up, self._drained)
        yield Step(
            "systemd", f"container start {FEATURE}", lambda: s.done("start", FEATURE), self._runs_by_kube
        )
        yield Step(
            "operator",
            f"config feature {FEATURE} owner local",
            lambda: s.config(FEATURE, set_owner="local"),
            self._back,
        )

    def _boot(self) -> None:
        self._switch.config(FEATURE, set_owner="local")
        self._switch.create_local(FEATURE)
        self._switch.done("start", FEATURE)

    def _wait(self) -> None:
        self.waiter = self._switch.spawn("wait", FEATURE)

    def _master_down(self) -> None:
        assert self._switch.kube is not None
        self._switch.kube.stop_api()

    def _master_up(self) -> None:
        assert self._switch.kube is not None
        self._switch.kube.start()

    def _until(self, what: str, condition: Callable[[], object]) -> str:
        self._switch.wait_for(condition, what, 120.0)
        return what

    def _state(self, state: str, why: str = "") -> str:
        self._switch.until_state(FEATURE, state)
        return f"{state}  {why or self._switch.shown(FEATURE)['why']}"

    def _handed_over(self) -> str:
        said = self._state("KUBE_RUNNING")
        seen = [h["to"] for h in self._switch.shown(FEATURE)["history"]]
        way = seen[len(seen) - 1 - seen[::-1].index("LOCAL") :] if "LOCAL" in seen else seen
        return f"{' → '.join(way)}" or said

    def _still_waits(self) -> str:
        assert self.waiter is not None
        assert self.waiter.poll() is None, "container wait has ended during the hand-over"
        return "the unit stayed up through the hand-over"

    def _unreachable(self) -> str:
        self._until("connected=False", lambda: self._switch.connected == "False")
        return f"{self._switch.state(FEATURE)}  connected=False, the feature runs on"

    def _stopped_offline(self) -> str:
        s = self._switch
        self._state("INIT")
        self._until("label queued", lambda: s.pending)
        self._until("kubelet off", lambda: not s.kubelet_runs)
        return f"INIT  queued: {s.pending}; kubelet off"

    def _drained(self) -> str:
        s = self._switch
        self._until("queue drained", lambda: not s.pending and s.master.label_of(FEATURE) == "")
        self._until("kubelet on", lambda: s.kubelet_runs)
        return "queue drained in one PATCH, kubelet on"

    def _runs_by_kube(self) -> str:
        self._until("kube is up again", lambda: self._switch.ups(FEATURE)[-1] == "kube")
        return self._state("KUBE_RUNNING", "local first, kube took over")

    def _back(self) -> str:
        self._until("local is up again", lambda: self._switch.ups(FEATURE)[-1] == "local")
        return self._state("LOCAL", "label withdrawn, kube ended, local is back")


def main() -> int:
    """Play the story. Returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="A virtual switch plays the whole story.")
    parser.add_argument("--keep", action="store_true", help="leave it running and say what to try")
    parser.add_argument("--lab", action="store_true", help="take the stand-ins even where real engines are")
    chosen = parser.parse_args()
    console = Console(highlight=False)
    console.print("\n[bold]kubesyncd[/bold]: a virtual switch plays the whole story\n")
    with ExitStack() as power:
        folder = Path(tempfile.mkdtemp(prefix="kd-"))
        power.callback(remove, folder)
        docker, kube = _engines(console, folder, power, lab=chosen.lab)
        switch = power.enter_context(Switch(docker, kube))
        console.print(f"  [dim]redis   [/dim] {switch.redis.name}\n")
        _play(console, switch)
        _try_next(console, switch, keep=chosen.keep)
        if chosen.keep:
            _keep(console)
    return 0


def _engines(console: Console, folder: Path, power: ExitStack, *, lab: bool) -> tuple[Docker, Kube]:
    """The real engines where they are, a stand-in for each one missing; one line each."""
    no_docker = "asked for with --lab" if lab else missing_for_docker()
    no_kube = no_docker or missing_for_api() or missing_for_kubelet()
    docker: Docker = LabDockerProcess(folder / "docker") if no_docker else RealDocker(folder / "docker")
    console.print(f"  [dim]docker  [/dim] {_which('dockerd', no_docker)}")
    console.print(f"  [dim]kube    [/dim] {_which('kube-apiserver and kubelet 1.20.2', no_kube)}")
    if isinstance(docker, RealDocker):
        docker.folder.mkdir()
    docker.start()
    power.callback(docker.stop)
    if isinstance(docker, RealDocker):
        docker.import_image()
    if no_kube:
        stand_in = LabKubeProcess(folder / "kube")
        stand_in.start()
        power.callback(stand_in.stop)
        return docker, stand_in
    cluster = RealKube(folder / "kube")
    power.callback(cluster.stop)
    cluster.start()
    with console.status("the kubelet registers its node …"):
        cluster.start_kubelet(str(docker.socket))
    return docker, RealMaster(cluster)


def _which(real: str, missing: str) -> str:
    return f"stand-in ({missing})" if missing else f"the real {real}"


def _play(console: Console, switch: Switch) -> None:
    begun = time.monotonic()
    console.print(_columns(header=True))
    for number, step in enumerate(Story(switch).steps(), 1):
        at = time.monotonic()
        # Line by line, and the one under way below them: however low the terminal is, the newest is in sight.
        with console.status(f"[bold]{step.does}[/bold]"):
            step.act()
            told = Text.assemble((step.does, "bold"), "\n", _coloured(step.seen()))
        row = _columns(header=False)
        row.add_row(f"{number}", step.who, told, f"{time.monotonic() - at:.2f} s")
        console.print(row)
    starts = switch.ups(FEATURE)
    assert not switch.containers.twice(FEATURE), f"two containers of {FEATURE} were up at once"
    console.print(
        f"\n[green]✓[/green] the whole story in {time.monotonic() - begun:.1f} s; containers past `state up`, "
        f"in order: {', '.join(starts)}; never two at once\n",
        width=WIDTH,
    )


def _columns(*, header: bool) -> Table:
    """The story's table, for one part of it."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        show_header=header,
        header_style="bold",
        pad_edge=False,
        width=WIDTH,
    )
    table.add_column("", justify="right", width=2)
    table.add_column("who", width=8)
    table.add_column("what happens, and what is seen then", ratio=1)
    table.add_column("time", justify="right", width=7)
    return table


def _coloured(seen: str) -> Text:
    text = Text(seen, "dim")
    for word, colour in COLOURS.items():
        text.highlight_regex(rf"\b{word}\w*\b", f"not dim {colour}")
    return text


def _try_next(console: Console, switch: Switch, *, keep: bool) -> None:
    if not keep:
        console.print(
            "Next: [bold]make demo DEMO_ARGS=--keep[/bold] leaves the switch running for you to play with;"
        )
        console.print("      [bold]make test[/bold] proves it; docs/operators.md shows the daily tasks.\n")
        return
    environment = {k: v for k, v in switch.clients.environment.items() if k != "PATH"}
    console.print("It is yours now. In another terminal, from this folder:\n")
    for name, value in environment.items():
        console.print(f"  export {name}={value}", soft_wrap=True)
    kubesync = f"{Path(sys.executable).parent}/kubesync --config {switch.folder}/kubesyncd.toml"
    for command, what in (
        (f"{kubesync} explain {FEATURE}", "where it is, why, and what comes next"),
        (f"{kubesync} config feature {FEATURE} owner kube -y", "move it to kube"),
        (f"{kubesync} timeline {FEATURE}", "the hand-overs as a picture"),
        (f"clients/container wait {FEATURE}", "follow it, as systemd does"),
        (f"clients/container stop {FEATURE}", "stop it, wherever it runs"),
        (f"tail -f {switch.daemon.log_file}", "what the daemon does and why"),
    ):
        console.print(f"  {command}", soft_wrap=True)
        console.print(f"      [dim]{what}[/dim]")


def _keep(console: Console) -> None:
    console.print("\nCtrl-C ends it.")
    try:
        while os.getppid() != 1:
            time.sleep(1.0)
    except KeyboardInterrupt:
        console.print("\nended")


if __name__ == "__main__":
    sys.exit(main())
