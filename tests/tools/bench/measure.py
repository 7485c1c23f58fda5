"""Take figures: medians of interleaved runs, and the kernel's accounting of a process.

Every figure has its reference in the same run: these machines are shared, so a ratio says more than a time.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.engines import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.lab.switch import Switch


SETTLE_S = 5.0
# One audit of everything falls into it.
IDLE_S = 60.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `target` is a ratio or a limit in the figure's unit; None: for information."""

    name: str
    value: float
    unit: str
    reference: str = ""
    reference_value: float | None = None
    target: float | None = None
    ratio_target: bool = False

    @property
    def judged(self) -> float:
        """What the target is about: the value, or its ratio to the reference."""
        if self.ratio_target and self.reference_value:
            return self.value / self.reference_value
        return self.value

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.judged <= self.target

    def tree(self) -> dict[str, Any]:
        return {**asdict(self), "judged": self.judged, "met": self.met}


def interleaved(commands: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median milliseconds of each, run in turn so that the machine's load affects all alike."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for name, command in commands.items():
        command()
        taken[name].clear()
    for _ in range(runs):
        for name, command in commands.items():
            begun = time.perf_counter()
            command()
            taken[name].append((time.perf_counter() - begun) * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """A command, without looking at what it says; it must succeed."""
    subprocess.run(
        list(arguments),
        env=dict(environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=300,
    )


def pss_mib(pid: int) -> float:
    """Proportional set size: what the process would free, shared pages divided among those that share them."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None, text
    return int(match[1]) / 1024


def wakeups(pid: int) -> int:
    """How often the process's threads have gone to sleep and come back so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
        assert match is not None
        total += int(match[1])
    return total


def compile_daemon(folder: Path) -> None:
    """From here on daemons find their modules compiled in `folder`, as the Debian package leaves them.

    Compiling at each start costs 0.1 s and leaves memory behind that no switch would have.
    """
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    everything = (
        "from kubesyncd import __main__; from kubesyncd.runtime import lean_imports; lean_imports.load(); "
        "import kubesyncd.daemon.app, kubesyncd.adapters.kube_node"
    )
    subprocess.run([sys.executable, "-c", everything], check=True, timeout=300, cwd=ROOT)


def plain(switch: Switch, name: str) -> str:
    """A container that only sleeps, its ID: nothing of it counts but the engine's own work."""
    config = {"Image": "busybox:lab", "Cmd": ["/bin/sleep", "100000"], "HostConfig": {"NetworkMode": "none"}}
    return switch.docker.create(name, config)


def idle(
    switch: Switch,
    what: str,
    *,
    most_mib: float | None = None,
    most_wakeups: float | None = None,
    most_cpu: float | None = None,
) -> Iterator[Figure]:
    """The cost of a daemon without requests, and of its audit once a minute."""
    pid = switch.daemon.pid
    time.sleep(SETTLE_S)
    woken, used = wakeups(pid), cpu_s(pid)
    time.sleep(IDLE_S)
    yield Figure(f"{what}, at rest, memory", pss_mib(pid), "MiB PSS", target=most_mib)
    yield Figure(f"{what}, at rest, wake-ups", (wakeups(pid) - woken) / IDLE_S, "per s", target=most_wakeups)
    share = (cpu_s(pid) - used) / IDLE_S * 100
    yield Figure(f"{what}, at rest, processor", share, "% of a core", target=most_cpu)


def cpu_s(pid: int) -> float:
    """Seconds of processor time of the threads it has, to the nanosecond: a quiet minute costs less than a tick."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
