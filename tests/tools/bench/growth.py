"""Measure the cost of a feature, an event and a label, and its growth: `make bench BENCH_ARGS=growth`.

On the stand-in of Docker alone: 512 containers of a real one would cost more than everything that is measured here,
and the engine's own slowness would be in every figure. What is measured is the daemon.
"""

from __future__ import annotations

import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.switch import Switch
from tests.tools.bench.measure import Figure, cpu_s, idle, plain, pss_mib, quantile
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

FEATURES = (1, 8, 64, 512)
RATES = (1, 10, 100, 1_000, 10_000)
HEARD = 8
# The one rate at which all features of a full switch are written to.
MANY, MANY_RATE = 512, 1_000
RATE_S = 10.0
VERBS = 20
CHANGES = 20
LABELS = 200
QUEUED = 1000
BATCH_S = 0.01
PATIENCE_S = 120.0
# Where clients send their requests from: a switch's boot has about as many at once.
AT_ONCE = 16


def growth_figures() -> Iterator[Figure]:
    """All of them."""
    with tempfile.TemporaryDirectory(prefix="kg-") as folder:
        for count in FEATURES:
            yield from feature_figures(Path(folder, str(count)), count)
        yield from event_figures(Path(folder, "events"))
        yield from label_figures(Path(folder, "labels"))


@contextmanager
def stand_in_switch(folder: Path, count: int) -> Iterator[tuple[Switch, list[str]]]:
    """A switch with so many local features on a stand-in engine, and their names; none runs yet."""
    docker = LabDockerProcess(folder)
    docker.start()
    try:
        with Switch(docker, timing={"audit_s": 60.0}) as switch:
            names = [f"f{number}" for number in range(count)]
            for name in names:
                switch.config(name, set_owner="local")
                plain(switch, name)
            yield switch, names
    finally:
        docker.stop()


@contextmanager
def local_switch(folder: Path, count: int) -> Iterator[Switch]:
    """A switch on whose stand-in engine so many local features run."""
    with stand_in_switch(folder, count) as (switch, names):
        ask_all(switch, "start", names)
        yield switch


def ask_all(switch: Switch, verb: str, names: list[str], *arguments: str) -> None:
    """Ask the same of each feature, some at once."""
    with ThreadPoolExecutor(AT_ONCE) as clients:
        codes = list(clients.map(lambda name: switch.ask(verb, name, *arguments)[0], names))
    assert not any(codes), codes


def local_count(switch: Switch) -> int:
    """How many features are in the state LOCAL."""
    _, lines = switch.ask("show")
    return sum('"state": "LOCAL"' in line for line in lines)


# ---- features -------------------------------------------------------------------------------------


def feature_figures(folder: Path, count: int) -> Iterator[Figure]:
    """A start of the daemon, a quiet minute, and verbs, with so many features."""
    what = f"{count} feature{'s' if count > 1 else ''}"
    with local_switch(folder, count) as switch:
        switch.daemon.stop()
        begun = time.monotonic()
        switch.daemon.start()
        switch.wait_for(lambda: local_count(switch) == count, f"{what} LOCAL", PATIENCE_S)
        yield Figure(f"{what}, daemon start → converged", time.monotonic() - begun, "s")
        yield from idle(switch, what)
        asked = _taken(lambda: switch.ask("id", "f0"), VERBS)
        yield Figure(f"{what}, id answered", quantile(asked, 0.5), "ms")
        container = plain(switch, "reference")
        ours, theirs = [], []
        for _ in range(VERBS):
            ours += _taken(lambda: (switch.ask("stop", "f0", "0"), switch.ask("start", "f0")), 1)
            theirs += _taken(lambda: (switch.docker.do("start", container), _stop(switch, container)), 1)
        name = f"{what}, stop and start again"
        yield Figure(name, quantile(ours, 0.5), "ms", "asking the engine itself", quantile(theirs, 0.5))


def _stop(switch: Switch, container: str) -> None:
    switch.docker.do("stop", container, t="0")


def _taken(action: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


# ---- events ---------------------------------------------------------------------------------------


def event_figures(folder: Path) -> Iterator[Figure]:
    """Another program writes into the features' rows, so many times a second."""
    with local_switch(folder / "few", HEARD) as switch:
        for rate in RATES:
            yield from _at_rate(switch, rate, HEARD, f"{rate} events/s")
    with local_switch(folder / "many", MANY) as switch:
        yield from _at_rate(switch, MANY_RATE, MANY, f"{MANY} features, {MANY_RATE} events/s")


def _at_rate(switch: Switch, rate: int, heard: int, what: str) -> Iterator[Figure]:
    pid, over, written = switch.daemon.pid, threading.Event(), [0]
    before = pss_mib(pid)
    writer = threading.Thread(target=_write, args=(switch, rate, heard, over, written))
    used, looked, begun = cpu_s(pid), _looks(switch), time.monotonic()
    writer.start()
    answered, reacted, most = [], [], before
    for number in range(CHANGES):
        time.sleep(max(0.0, begun + number * RATE_S / CHANGES - time.monotonic()))
        answered += _taken(lambda: switch.ask("id", "f0"), 1)
        reacted += _taken(lambda: _repaired(switch), 1)
        most = max(most, pss_mib(pid))
    elapsed, used, looked = time.monotonic() - begun, cpu_s(pid) - used, _looks(switch) - looked
    over.set()
    writer.join()
    yield Figure(f"{what}, written", written[0] / elapsed, "per s")
    yield Figure(f"{what}, looks at a feature", looked / elapsed, "per s")
    yield Figure(f"{what}, processor", used / elapsed * 100, "% of a core")
    yield Figure(f"{what}, id answered, p50", quantile(answered, 0.5), "ms")
    yield Figure(f"{what}, id answered, p99", quantile(answered, 0.99), "ms")
    yield Figure(f"{what}, a change put right, p50", quantile(reacted, 0.5), "ms")
    yield Figure(f"{what}, a change put right, p99", quantile(reacted, 0.99), "ms")
    yield Figure(f"{what}, memory grows by", max(0.0, most - before), "MiB PSS")


def _write(switch: Switch, rate: int, heard: int, over: threading.Event, written: list[int]) -> None:
    """Fields of another program, in the rows that the daemon watches, at an even rate."""
    begun = time.monotonic()
    with switch.state_db as database:
        while not over.is_set():
            due = int((time.monotonic() - begun) * rate) - written[0]
            pipeline = database.pipeline(transaction=False)
            for number in range(written[0], written[0] + due):
                pipeline.hset(f"FEATURE|f{number % heard}", "another_program_s", str(number))
            pipeline.execute()
            written[0] += due
            time.sleep(BATCH_S)


def _repaired(switch: Switch) -> None:
    """A field of ours is taken away; the daemon hears of it and writes it again."""
    database = switch.state_db
    database.hdel("FEATURE|f1", "docker_id")
    until(lambda: database.hexists("FEATURE|f1", "docker_id"), "the field is back", pause_s=0.001)


def _looks(switch: Switch) -> float:
    """How often a reconciler has looked so far: each look reads a row from both databases."""
    client: redis.Redis = switch.redis.client()
    stats = client.info("commandstats")
    return stats.get("cmdstat_hgetall", {"calls": 0})["calls"] / 2


# ---- labels ---------------------------------------------------------------------------------------


def label_figures(folder: Path) -> Iterator[Figure]:
    """Labels one by one, and a queue of them after an outage."""
    with ExitStack() as power:
        docker, kube = LabDockerProcess(folder / "docker"), LabKubeProcess(folder / "kube")
        for engine in (docker, kube):
            engine.start()
            power.callback(engine.stop)
        switch = power.enter_context(Switch(docker, kube))
        switch.join()
        switch.wait_for(lambda: switch.connected == "True", "connected")
        used = cpu_s(switch.daemon.pid)
        taken = _taken(lambda: switch.ask("label", f"key={time.monotonic_ns()}"), LABELS)
        switch.wait_for(lambda: not switch.pending, "all applied")
        yield Figure("one label, until the master has it", quantile(taken, 0.5), "ms")
        yield Figure("one label, processor", (cpu_s(switch.daemon.pid) - used) * 1000 / LABELS, "ms")
        kube.stop_api()
        switch.wait_for(lambda: switch.connected == "False", "not connected")
        before, patched = pss_mib(switch.daemon.pid), len(switch.log("labels_applied"))
        for number in range(QUEUED):
            switch.ask("label", f"key{number}=1")
        yield Figure(f"{QUEUED} labels queued, memory", pss_mib(switch.daemon.pid) - before, "MiB PSS")
        kube.start()
        begun = time.monotonic()
        switch.wait_for(lambda: not switch.pending, "drained", PATIENCE_S)
        yield Figure(f"{QUEUED} labels queued, applied after", time.monotonic() - begun, "s")
        yield Figure(
            f"{QUEUED} labels queued, requests", len(switch.log("labels_applied")) - patched, "PATCH"
        )
