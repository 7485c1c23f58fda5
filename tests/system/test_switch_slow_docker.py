"""Check a whole switch whose Docker takes as long as it likes for a call, as one on a worn-out disk does.

Of a real engine only the start of a container can be made slow. Calls are held until the test lets them go, so that no
test waits for 45 s; what the daemon's own limits of 60 to 120 s make of such calls is tested in virtual time
(tests/unit/features/test_failed_actions.py).
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.places import memory_folder, remove
from tests.system.docker_engine import RealDocker
from tests.system.test_switch_failure import to_kube
from tests.system.test_switch_images import KUBE, LOCAL, PREVIOUS, adopted, booted
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.engines import Docker, LabDockerProcess
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

TAGS = "POST /images/.+/tag"
WATCHDOG_S = 1.0


class Systemd:
    """What systemd hears of the daemon, by the socket at `path`."""

    def __init__(self, path: Path) -> None:
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._link.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}

    def is_fed(self, times: int = 3) -> None:
        """Return once the watchdog has been fed so often from now on. Raises TimeoutError."""
        self._link.setblocking(False)
        while self._hears():
            pass
        self._link.settimeout(LIMIT_S)
        while times:
            times -= b"WATCHDOG=1" in self._link.recv(4096)

    def _hears(self) -> bool:
        try:
            return bool(self._link.recv(4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        self._link.close()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    folder = memory_folder("kn-")
    heard = Systemd(folder / "notify")
    yield heard
    heard.close()
    remove(folder)


@pytest.fixture
def docker(own_lab_docker: LabDockerProcess) -> Iterator[LabDockerProcess]:
    """An engine whose calls can be held; at the end it lets all go."""
    yield own_lab_docker
    own_lab_docker.hold()


def test_a_stop_is_carried_out_and_the_watchdog_fed_while_the_adoption_of_an_image_takes_long(
    new_switch: MakeSwitch, docker: LabDockerProcess, systemd: Systemd
) -> None:
    switch = new_switch(docker, timing={"tag_after_s": 1.1}, environ=systemd.environ)
    try:
        v1 = booted(switch)
        switch.config("snmp", set_owner="kube", fallback_to_local="true")
        v2 = switch.images.make(f"{KUBE}:v2")
        docker.hold(TAGS)
        to_kube(switch, "snmp", image=f"{KUBE}:v2")
        switch.wait_for(lambda: is_at_work(switch, "snmp"), "the adoption has begun")
        systemd.is_fed()
        # A restart in the middle: the adoption begins again, beside the loop as before.
        pid = restarted(switch)
        switch.until_state("snmp", "KUBE_RUNNING")
        switch.wait_for(lambda: is_at_work(switch, "snmp"), "the adoption has begun again")
        systemd.is_fed()
        switch.done("stop", "-t", "1", "snmp")
        assert switch.running("snmp") == []
        assert switch.row("snmp")["system_state"] == "down"
        assert switch.images.named(LOCAL) == v1, "the adoption is still held"
        systemd.is_fed()
        assert switch.daemon.runs
        assert switch.daemon.pid == pid, "it was not ended"
        assert not hanging(switch)
        docker.hold()
        # Its calls go on, and so does the feature.
        switch.done("start", "snmp")
        to_kube(switch, "snmp", 1, image=f"{KUBE}:v2")
        adopted(switch, v2)
        assert switch.images.named(PREVIOUS) == v1
    finally:
        docker.hold()


def test_a_stop_or_kill_during_a_docker_start_that_takes_long_is_told_and_goes_on(
    new_switch: MakeSwitch, docker: LabDockerProcess, systemd: Systemd
) -> None:
    switch = new_switch(docker, environ=systemd.environ)
    try:
        for feature, ends in (("snmp", "stop"), ("lldp", "kill")):
            switch.config(feature, set_owner="local")
            switch.create_local(feature)
            docker.hold(f"POST /containers/{switch.docker.inspect(feature)['Id']}/start")
            starting = switch.spawn("start", feature)
            switch.wait_for(lambda f=feature: "docker start is under way" in why(switch, f), "it is told")
            systemd.is_fed()
            ending = switch.spawn(ends, feature)
            switch.wait_for(lambda f=feature: "what it starts is ended" in why(switch, f), "and what follows")
            assert starting.wait(LIMIT_S) == 1, "superseded"
            switch.until_row(feature, system_state="down")
            systemd.is_fed()
            assert ending.poll() is None, "it is not done before Docker has started and ended the container"
            if feature == "lldp":
                # A restart in the middle, before Docker has started it: the kill outlives the daemon.
                pid = restarted(switch)
                systemd.is_fed()
            docker.hold()
            assert ending.wait(LIMIT_S) == 0, switch.told()
            switch.wait_for(lambda f=feature: not switch.running(f), "it was ended")
            switch.until_row(feature, system_state="down", current_owner="none")
        assert switch.daemon.runs
        assert switch.daemon.pid == pid, "it was not ended"
        assert not hanging(switch)
    finally:
        docker.hold()


@pytest.mark.parametrize("carried_out", ["before the next daemon", "after it has refused kube"])
def test_s1_a_start_that_outlives_its_daemon_runs_beside_no_kube_container(
    switches: MakeSwitch, engine: Docker, carried_out: str
) -> None:
    switch = switches()
    switch.config("snmp", set_owner="local")
    runtime = {"Runtime": "held"} if isinstance(engine, RealDocker) else {}
    local = switch.create_local("snmp", docker={"HostConfig": runtime})
    with engine.held_start(local) as asked:
        starting = switch.spawn("start", "snmp")
        switch.wait_for(asked, "Docker is asked for the start")
        assert "start" in json.loads(switch.paths.ledger.read_text())["features"]["snmp"]["record"]
        switch.daemon.kill9()
        switch.config("snmp", set_owner="kube")
        kube = switch.run_kube("snmp")

        def kubelet() -> None:
            # A container that meets no daemon for 2 s ends. A kubelet starts it again, and there is none here.
            if not switch.docker.list(id=[kube], status=["running"]):
                switch.docker.do("start", kube)

        def refused() -> bool:
            kubelet()
            return "start the local container and may still do so" in why(switch, "snmp")

        if carried_out == "after it has refused kube":
            switch.daemon.start()
            switch.wait_for(refused, "no kube container is admitted while the start is outstanding")
            time.sleep(2.0)
            assert refused()
            assert switch.ups("snmp") == []
    if carried_out == "before the next daemon":
        switch.until_ups("snmp", "local")
        kubelet()
        switch.daemon.start()

    def taken_over() -> bool:
        kubelet()
        return switch.state("snmp") == "KUBE_RUNNING"

    switch.wait_for(taken_over, "kube takes over")
    assert starting.wait(LIMIT_S) == 0
    # The daemon ends a local container it finds so at once: it may end before its script has got past `state up`.
    switch.until_up("snmp", "kube")
    assert switch.ups("snmp")[:-1] in ([], ["local"])
    assert switch.docker.inspect(local)["State"]["StartedAt"] > "2000", "the start was carried out"
    assert switch.running("snmp") == [kube]
    assert switch.containers.twice("snmp") == ""


def restarted(switch: Switch) -> int:
    """Kill the daemon and start it again; the new one's process."""
    switch.daemon.restart()
    return switch.daemon.pid


def is_at_work(switch: Switch, feature: str) -> bool:
    """Whether the log says that this life of the daemon adopts an image of the feature."""
    begun = [e for e in switch.log("action", feature=feature) if str(e["action"]).startswith("adopt image")]
    lives = switch.log("started")
    return bool(begun) and (not lives or begun[-1]["timestamp"] >= lives[-1]["timestamp"])


def hanging(switch: Switch) -> list[str]:
    """Features whose reconciler hung. A loop that lags may only lack a processor: `is_fed` tells whether it is held."""
    return [feature for line in switch.log("unwell") for feature in line["hanging"]]


def why(switch: Switch, feature: str) -> str:
    return str(switch.shown(feature).get("why", ""))
