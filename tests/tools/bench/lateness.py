"""Measure how late the daemon's loop is while 512 features change at once: `make bench BENCH_ARGS=lateness`.

On the stand-in of Docker alone, as `growth`. The reference of the lateness is a loop without work that runs at the same
time: what the machine itself is late. How long the loop's thread computes at a time does not depend on the machine's
other programs, so that is judged. Each is the median of the largest of several rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tests.lab.engines import LabDockerProcess
from tests.tools.bench.growth import ask_all, local_count, stand_in_switch
from tests.tools.bench.measure import Figure
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.switch import Switch

# The largest lateness of the daemon, what it computed at a time, and the largest lateness of the idle loop, in ms.
_Largest: TypeAlias = tuple[float, float, float]

FEATURES = 512
ROUNDS = 3
PATIENCE_S = 180.0
LAG_MS_MAX = 50.0


def lateness_figures() -> Iterator[Figure]:
    """The largest lateness while all features start by their verbs, and while a started daemon meets them."""
    with (
        tempfile.TemporaryDirectory(prefix="kl-") as folder,
        stand_in_switch(Path(folder, "docker"), FEATURES) as (switch, names),
    ):
        yield from _figures(switch, names, Path(folder))


def _figures(switch: Switch, names: list[str], folder: Path) -> Iterator[Figure]:
    verbs: list[_Largest] = []
    meeting: list[_Largest] = []
    for _ in range(ROUNDS):
        with _late(switch, folder) as late:
            ask_all(switch, "start", names)
            verbs.append(late())
        switch.wait_for(lambda: local_count(switch) == FEATURES, "all are LOCAL", PATIENCE_S)
        with _late(switch, folder) as late:
            switch.wait_for(lambda: local_count(switch) == FEATURES, "all are LOCAL", PATIENCE_S)
            meeting.append(late())
        # At once: their containers ignore SIGTERM.
        ask_all(switch, "stop", names, "0")
    for what, taken in (("started by verbs", verbs), ("met by a new daemon", meeting)):
        ours, busy, idle = (statistics.median(values) for values in zip(*taken, strict=True))
        name = f"{FEATURES} features {what}"
        yield Figure(f"{name}, loop computes at a time", busy, "ms", target=LAG_MS_MAX)
        yield Figure(f"{name}, loop lag", ours, "ms", "a loop without work", idle)


@contextmanager
def _late(switch: Switch, folder: Path) -> Iterator[Callable[[], _Largest]]:
    """Run a new daemon and an idle loop that note their lateness.

    Call the result at the end of the measured time: both end.
    """
    assert isinstance(switch.engine, LabDockerProcess)
    files = (folder / "daemon.json", folder / "idle.json")
    switch.daemon.stop()
    idle = subprocess.Popen([sys.executable, "-m", "tests.tools.bench.lag", str(files[1])])
    switch.daemon.launch(
        ["-m", "tests.tools.bench.lag", str(files[0]), "tests.lab.daemon", str(switch.engine.folder)]
    )
    until(switch.daemon.answers, "the daemon answers", PATIENCE_S, pause_s=0.005)
    begun = time.monotonic()

    def largest() -> _Largest:
        ended = time.monotonic()
        switch.daemon.stop()
        idle.terminate()
        idle.wait(PATIENCE_S)
        switch.daemon.start()
        daemon, bare = (
            [timer for timer in json.loads(file.read_text()) if begun <= timer[0] <= ended] for file in files
        )
        late, busy = (max(column) * 1000 for column in list(zip(*daemon, strict=True))[1:])
        return late, busy, max(timer[1] for timer in bare) * 1000

    try:
        yield largest
    finally:
        idle.kill()
        idle.wait()
