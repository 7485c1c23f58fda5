"""Check a switch's promises while the services around the daemon, and the daemon itself, fail and return.

As `test_switch_local`: processes over real sockets, the lab's Docker engine and the real one, a real Redis.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.switch import Switch
from tests.system.engines import faketime
from tests.system.switch_fixtures import joined
from tests.system.test_switch_local import QUIET_S, started_at, to_kube
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engines import Docker, LabDockerProcess
    from tests.system.docker_engine import RealDocker
    from tests.system.switch_fixtures import MakeSwitch

EFFECTS_MAX = 40
# Time for a container's goodbye on a busy machine, also to a daemon that is just being started: its code is 0.
POLITE = {"stop_grace_s": 30.0}


# ---- the daemon is killed at any point ------------------------------------------------------------


def killed_after_each_effect(
    switch: Switch, play: Callable[[str], bool], check: Callable[[str], None]
) -> int:
    """Play a scenario with a feature of its own each time, in which the daemon is killed after its n-th effect.

    `play` calls `begin`, makes the scenario happen, and returns whether the daemon has outlived it; then n was beyond
    the last one.
    Returns how many points there were.
    """
    for effects in range(1, EFFECTS_MAX):
        feature = f"snmp{effects}"
        switch.boot_local(feature)
        switch.daemon.stop()
        start_mortal(switch, effects)
        switch.until_state(feature, "LOCAL")
        if play(feature) and outlives(switch, lambda played=feature: check(played)):
            return effects - 1
        switch.daemon.start()
        check(feature)
    raise AssertionError(f"the daemon always has one more effect than {EFFECTS_MAX}")


def ended(switch: Switch) -> bool:
    """Whether the daemon has been killed."""
    return not switch.daemon.runs


def start_mortal(switch: Switch, effects: int) -> None:
    """Start the daemon that is killed after its n-th effect of those that follow `begin`."""
    switch.daemon.start(crash_after=f"{effects}@SIGUSR1")


def begin(switch: Switch) -> None:
    """Have the daemon's effects count from here on."""
    switch.daemon.send_signal(signal.SIGUSR1)


def has_ended_within(switch: Switch, seconds: float) -> bool:
    """As `ended`, for a daemon that may be about to die."""
    with suppress(subprocess.TimeoutExpired):
        if switch.daemon.runs:
            switch.daemon.process.wait(seconds)
    return ended(switch)


def outlives(switch: Switch, check: Callable[[], None]) -> bool:
    """Whether the daemon lives through `check`: what it did last may be seen a moment before it is killed for it."""
    try:
        check()
    except (AssertionError, OSError):
        if not has_ended_within(switch, LIMIT_S):
            raise
        return False
    return True


def test_a_hand_over_cut_short_by_kill_9_is_finished_at_the_next_start(switch: Switch) -> None:
    waiters, pods = [], []

    def play(feature: str) -> bool:
        waiters.append(switch.waits(feature))
        begin(switch)
        switch.config_db.hset(f"FEATURE|{feature}", "set_owner", "kube")
        pods.append(switch.run_kube(feature))
        switch.wait_for(lambda: ended(switch) or switch.row(feature).get("docker_id") == pods[-1])
        return not ended(switch)

    def check(feature: str) -> None:
        def taken_over() -> bool:
            # A container that meets no daemon for 2 s ends. A kubelet starts it again, and there is none here.
            if pods[-1] not in switch.running(feature):
                switch.docker.do("start", pods[-1])
            return switch.state(feature) == "KUBE_RUNNING"

        switch.wait_for(taken_over, "Kubernetes has taken over")
        switch.until_ups(feature, "local", "kube")
        assert switch.row(feature)["docker_id"] == switch.running(feature)[0]
        assert waiters[-1].poll() is None, "who waits never notices"

    points = killed_after_each_effect(switch, play, check)
    assert points >= 4, "mode, stop, grant and the rows between them"
    assert all(waiter.poll() is None for waiter in waiters)


@pytest.mark.parametrize("owner", ["local", "kube"])
def test_a_stop_cut_short_by_kill_9_is_finished_at_the_next_start(switches: MakeSwitch, owner: str) -> None:
    switch = switches(timing=POLITE)
    stops, waiters = [], []

    def play(feature: str) -> bool:
        if owner == "kube":
            # The scenario is the stop alone: the hand-over has its own daemon.
            switch.daemon.restart()
            to_kube(switch, feature)
            switch.daemon.stop()
            start_mortal(switch, int(feature.removeprefix("snmp")))
            switch.until_state(feature, "KUBE_RUNNING")
        waiters.append(switch.waits(feature))
        begin(switch)
        stops.append(switch.spawn("stop", feature))
        switch.wait_for(lambda: ended(switch) or stops[-1].poll() is not None)
        return not ended(switch)

    def check(feature: str) -> None:
        assert stops[-1].wait(LIMIT_S) == 0, "the client asks the next daemon, and hears that it is done"
        switch.until_state(feature, "INIT")
        assert switch.running(feature) == []
        switch.until_row(feature, system_state="down", current_owner="none")
        assert waiters[-1].wait(LIMIT_S) == 0

    assert killed_after_each_effect(switch, play, check) >= 1


def test_a_start_cut_short_by_kill_9_is_finished_at_the_next_start(
    lab_docker: Docker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(lab_docker)
    starts: list[subprocess.Popen[str]] = []

    def play(feature: str) -> bool:
        switch.daemon.restart()
        switch.done("stop", feature)
        switch.daemon.stop()
        start_mortal(switch, int(feature.removeprefix("snmp")))
        switch.until_state(feature, "INIT")
        begin(switch)
        starts.append(switch.spawn("start", feature))
        switch.wait_for(lambda: ended(switch) or starts[-1].poll() is not None)
        return not ended(switch)

    def check(feature: str) -> None:
        assert starts[-1].wait(LIMIT_S) == 0
        switch.until_state(feature, "LOCAL")
        switch.until_ups(feature, "local", "local")
        assert len(switch.running(feature)) == 1

    assert killed_after_each_effect(switch, play, check) >= 2, "the row, docker start"


def test_a_switch_back_cut_short_by_kill_9_is_finished_at_the_next_start(
    lab_docker: Docker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(lab_docker)
    waiters = []

    def play(feature: str) -> bool:
        switch.daemon.restart()
        to_kube(switch, feature)
        switch.daemon.stop()
        start_mortal(switch, int(feature.removeprefix("snmp")))
        switch.until_state(feature, "KUBE_RUNNING")
        waiters.append(switch.waits(feature))
        begin(switch)
        switch.config_db.hset(f"FEATURE|{feature}", "set_owner", "local")
        switch.wait_for(lambda: ended(switch) or switch.row(feature).get("current_owner") == "local")
        return not ended(switch)

    def check(feature: str) -> None:
        switch.until_state(feature, "LOCAL")
        switch.until_ups(feature, "local", "kube", "local")
        assert len(switch.running(feature)) == 1
        assert waiters[-1].poll() is None

    assert killed_after_each_effect(switch, play, check) >= 3, "stop, mode, docker start and the rows"


def test_a_reload_by_sighup_takes_new_settings_and_does_not_disturb_waiters(switches: MakeSwitch) -> None:
    switch = switches(timing=POLITE)
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    settings = switch.folder / "kubesyncd.toml"
    good = settings.read_text()
    settings.write_text(good.replace("[timing]", "[timing]\nsurprise = 1"))
    switch.daemon.send_signal(signal.SIGHUP)
    switch.wait_for(lambda: len(switch.log("ready")) == 2, "it goes on")
    assert "surprise" in switch.log("reload", level="error")[0]["why"], "and tells the mistake"
    settings.write_text(good + '[packages]\nurl = "http://server/packages.json"\n')
    switch.daemon.send_signal(signal.SIGHUP)
    switch.wait_for(lambda: len(switch.log("ready")) == 3, "it goes on with the settings before")
    assert "http://server" in switch.log("reload", level="error")[1]["why"], "and tells the address"
    settings.write_text(good + '[log]\nlevel = "debug"\n')
    switch.daemon.send_signal(signal.SIGHUP)
    switch.wait_for(lambda: len(switch.log("ready")) == 4, "reloaded")
    assert waiter.poll() is None
    switch.done("stop", "snmp")
    assert waiter.wait(LIMIT_S) == 0
    assert switch.log(level="debug"), "and it speaks as the new settings say"


@pytest.mark.real("docker")
def test_without_a_daemon_local_features_are_plain_docker_and_kube_ones_wait_for_it(
    real_docker: RealDocker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(real_docker)
    local = switch.boot_local("lldp")
    switch.boot_local("snmp")
    kube = to_kube(switch, "snmp")
    waiter = switch.waits("lldp")
    switch.daemon.stop()
    assert switch.container("id", "lldp").stdout.strip() == local
    switch.done("stop", "lldp")
    assert switch.running("lldp") == []
    switch.done("start", "lldp")
    late = switch.spawn("wait", "lldp")
    for verb in ("stop", "wait"):
        refused = switch.container(verb, "snmp")
        assert (refused.returncode, refused.stderr.count("\n")) == (69, 1)
        assert "systemctl start kubesyncd" in refused.stderr
    assert switch.running("snmp") == [kube]
    # Without a daemon its goodbye takes seconds.
    switch.docker.do("stop", local, t="30")
    assert late.wait(LIMIT_S) == 0
    switch.daemon.start()
    switch.until_state("lldp", "LOCAL_EXITED")
    assert waiter.wait(LIMIT_S) == 0
    switch.until_state("snmp", "KUBE_RUNNING")


def test_a_daemon_that_starts_before_redis_and_docker_finds_them_later(switches: MakeSwitch) -> None:
    switch = switches()
    local = switch.boot_local("snmp")
    switch.daemon.stop()
    switch.redis.kill()
    switch.daemon.start()
    switch.until_state("snmp", "LOCAL")
    assert switch.container("start", "lldp").returncode == 69
    switch.redis.start()
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    switch.config("snmp", set_owner="local")
    switch.until_row("snmp", docker_id=local)
    switch.boot_local("lldp")


# ---- Redis ----------------------------------------------------------------------------------------


def test_without_redis_stop_and_database_work_and_start_says_69(switches: MakeSwitch) -> None:
    graces = ("label_wait_s", "kubelet_stop_s", "kube_stop_grace_s", "stop_grace_s")
    switch = switches(timing={"verb_s_max": 24.0, **dict.fromkeys(graces, 1.0)})
    switch.boot_local("snmp")
    switch.boot_local("bgp")
    to_kube(switch, "bgp")
    switch.config("lldp", set_owner="local")
    switch.create_local("lldp")
    switch.config("database", set_owner="kube")  # nonsense; it is always local
    switch.create_local("database")
    switch.done("start", "database")
    switch.redis.kill()

    start = switch.container("start", "lldp")
    assert start.returncode == 69
    assert start.stderr.startswith("container: lldp: Redis")
    assert "start it: systemctl start database" in start.stderr
    switch.done("stop", "snmp")
    switch.done("stop", "bgp")
    assert switch.running("snmp") == switch.running("bgp") == switch.running("lldp") == []

    switch.done("stop", "database")
    assert switch.running("database") == []
    switch.done("start", "database")
    assert len(switch.running("database")) == 1
    waiter = switch.waits("database")

    switch.redis.start()
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    for feature in ("snmp", "lldp", "database"):
        switch.config(feature, set_owner="local")
    switch.config("bgp", set_owner="kube")
    for feature in ("snmp", "bgp"):
        switch.until_row(feature, system_state="down")
    switch.until_row("database", current_owner="local")
    assert waiter.poll() is None
    switch.done("start", "lldp")


def test_kill_and_wait_work_without_redis(switch: Switch) -> None:
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    switch.redis.kill()
    switch.daemon.restart()
    switch.done("kill", "snmp")
    assert waiter.wait(LIMIT_S) == 137
    assert switch.running("snmp") == []


def test_redis_silent_is_as_redis_down(switch: Switch) -> None:
    switch.boot_local("snmp")
    switch.redis.pause()
    try:
        assert switch.container("start", "lldp").returncode == 69
        switch.done("stop", "snmp")
        assert switch.running("snmp") == []
    finally:
        switch.redis.resume()
    switch.until_row("snmp", system_state="down")


@pytest.mark.story
def test_a_redis_restart_is_followed_without_a_restart_of_the_daemon(switch: Switch) -> None:
    local = switch.boot_local("snmp")
    switch.redis.restart()
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    switch.config("snmp", set_owner="local")
    switch.until_row("snmp", docker_id=local)
    kube = switch.run_kube("snmp")
    switch.config("snmp", set_owner="kube")
    switch.until_row("snmp", docker_id=kube)


def test_s10_a_flush_of_redis_while_kube_runs_moves_nothing(switches: MakeSwitch) -> None:
    switch = switches(timing={"audit_s": 0.5})
    switch.boot_local("lldp")
    switch.boot_local("snmp")
    kube = to_kube(switch, "snmp")
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "it has stayed up long enough")
    started = [started_at(switch, f) for f in ("lldp", "snmp")]
    waiter = switch.waits("snmp")
    rows = [switch.row(f) for f in ("lldp", "snmp")]
    actions = len(switch.log("action"))

    with switch.redis.client() as client:
        client.flushall()
    switch.wait_for(lambda: [switch.row(f) for f in ("lldp", "snmp")] == rows, "the rows are restored")
    time.sleep(QUIET_S)
    switch.daemon.restart()
    switch.until_state("snmp", "KUBE_RUNNING")
    time.sleep(QUIET_S)
    assert len(switch.log("action")) == actions, switch.told()
    assert [started_at(switch, f) for f in ("lldp", "snmp")] == started
    assert switch.running("snmp") == [kube]
    assert waiter.poll() is None


@pytest.mark.parametrize("restart", [False, True], ids=["alone", "with-a-daemon-restart"])
@pytest.mark.upstream("ctrmgrd/config-reload", "same")
def test_s10_a_config_reload_moves_nothing(switches: MakeSwitch, restart: bool) -> None:
    """`config reload` empties CONFIG_DB and fills it row by row; only then it says CONFIG_DB_INITIALIZED again."""
    switch = switches(timing={"audit_s": 0.3, "fallback_after_s": 0.5})
    features = {"lldp": "local", "snmp": "kube", "bgp": "local"}
    for feature in features:
        switch.boot_local(feature)
    to_kube(switch, "snmp")
    switch.config("snmp", fallback_to_local="true")
    switch.done("stop", "bgp")
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "it has stayed up long enough")
    started = {f: started_at(switch, f) for f in features}
    rows = {f: switch.row(f) for f in features}
    actions = len(switch.log("action"))

    switch.config_db.flushdb()
    time.sleep(QUIET_S)
    for feature, owner in reversed(features.items()):
        if restart and feature == "snmp":
            switch.daemon.restart()
            switch.until_state("snmp", "KUBE_RUNNING")
        switch.config(feature, set_owner="local")  # as one that writes field by field may do
        switch.config(feature, set_owner=owner, fallback_to_local=str(owner == "kube").lower())
        time.sleep(QUIET_S / 3)
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    time.sleep(QUIET_S)

    assert len(switch.log("action")) == actions, switch.told()
    assert {f: started_at(switch, f) for f in features} == started
    assert {f: switch.row(f) for f in features} == rows


# ---- outages --------------------------------------------------------------------------------------


@pytest.mark.real("docker")
def test_each_outage_has_one_line_when_it_begins_and_one_when_it_ends(
    new_switch: MakeSwitch, real_docker: RealDocker
) -> None:
    """Whichever of three features, or of the event streams, notices it first."""
    switch = new_switch(real_docker)
    for feature in ("snmp", "lldp", "telemetry"):
        switch.boot_local(feature)
    for service, engine in (("Docker", real_docker), ("Redis", switch.redis)):
        for outage in (1, 2, 3):
            engine.stop()
            switch.wait_for(lambda s=service, n=outage: len(told(switch, s)) == 2 * n - 1, "it begins")
            engine.start()
            switch.wait_for(lambda s=service, n=outage: len(told(switch, s)) == 2 * n, "it ends")
    for service in ("Docker", "Redis"):
        assert [line["event"] == "recovered" for line in told(switch, service)] == [False, True] * 3


def told(switch: Switch, service: str) -> list[dict[str, Any]]:
    return switch.log(service=service)


# ---- the wall clock -------------------------------------------------------------------------------


@pytest.mark.real("faketime")
@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_jump_of_the_wall_clock_moves_nothing_and_no_deadline(
    lab_kube_switches: MakeSwitch, tmp_path: Path, jump_s: int
) -> None:
    """NTP reaches a switch an hour wrong while one feature runs by kube and another one waits for its fallback."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": str(faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    switch = lab_kube_switches(timing={"audit_s": 0.5, "fallback_after_s": 15.0}, environ=faked)
    joined(switch)
    for feature in ("lldp", "snmp", "bgp"):
        switch.boot_local(feature)
    for feature in ("snmp", "bgp"):
        switch.master.deploy(feature)
        switch.config(feature, set_owner="kube", fallback_to_local=str(feature == "bgp").lower())
        switch.until_ups(feature, "local", "kube")
        switch.wait_for(lambda f=feature: switch.shown(f)["proven"], f"{feature} has stayed up long enough")
    waiters = [switch.waits("snmp"), switch.waits("bgp")]
    begun = time.monotonic()
    switch.master.forget("bgp")
    switch.until_state("bgp", "KUBE_READY")
    actions = len(switch.log("action"))

    offset.write_text(f"{jump_s:+d}")
    switch.boot_local("radv")
    (first, *_) = [datetime.fromisoformat(e["timestamp"]) for e in switch.log("action", feature="radv")]
    assert abs((first - datetime.now(UTC)).total_seconds() - jump_s) < 1800, "the daemon's clock has jumped"
    killed = switch.daemon.pid
    switch.daemon.restart()
    for left in (f"faketime_shm_{killed}", f"sem.faketime_sem_{killed}"):
        Path("/dev/shm", left).unlink(missing_ok=True)
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.until_state("bgp", "LOCAL")
    assert time.monotonic() - begun > 14.0, "not before its time"
    switch.until_ups("bgp", "local", "kube", "local")
    moved = {e["feature"] for e in switch.log("action")[actions:]}
    assert moved == {"radv", "bgp"}, switch.told()
    assert [w.poll() for w in waiters] == [None, None]


# ---- Docker ---------------------------------------------------------------------------------------


@pytest.mark.real("docker")
@pytest.mark.parametrize("live_restore", [True, False], ids=["live-restore", "plain"])
def test_a_dockerd_restart_is_followed_without_a_restart_of_the_daemon(
    real_docker: RealDocker, new_switch: MakeSwitch, live_restore: bool
) -> None:
    switch = new_switch(real_docker)
    local = switch.boot_local("snmp")
    switch.boot_local("lldp")
    kube = to_kube(switch, "lldp")
    started = started_at(switch, "snmp") + started_at(switch, "lldp")
    waiter = switch.waits("snmp")
    try:
        asyncio.run(real_docker.restart(live_restore=live_restore))
        if live_restore:
            assert started_at(switch, "snmp") + started_at(switch, "lldp") == started
            assert waiter.poll() is None
        else:
            assert waiter.wait(LIMIT_S) in (0, 137), "dockerd has ended it; systemd would restart the unit"
            switch.until_state("snmp", "LOCAL_EXITED")
            switch.until_state("lldp", "KUBE_READY")
            switch.done("start", "snmp")
            switch.docker.do("start", kube)
            switch.until_state("lldp", "KUBE_RUNNING")
        switch.until_state("snmp", "LOCAL")
        switch.docker.do("kill", local)
        switch.until_state("snmp", "LOCAL_EXITED")
    finally:
        if live_restore:
            asyncio.run(real_docker.restart(live_restore=False))


@pytest.mark.real("docker")
def test_while_dockerd_is_silent_verbs_answer_in_a_bounded_time(
    real_docker: RealDocker, new_switch: MakeSwitch
) -> None:
    switch = new_switch(real_docker)
    switch.boot_local("snmp")
    waiter = switch.waits("snmp")
    real_docker.freeze()
    try:
        stop = switch.container("stop", "snmp")
        assert stop.returncode in (69, 75)
        assert "Docker" in stop.stderr or "not done in time" in stop.stderr
        assert waiter.poll() is None
    finally:
        real_docker.thaw()
    switch.until_state("snmp", "INIT")
    assert waiter.wait(LIMIT_S) in (0, 137)
    assert switch.running("snmp") == []


# ---- containers that misbehave --------------------------------------------------------------------


def test_a_crash_looping_kube_container_takes_the_local_one_down_no_oftener_than_the_doubling_delay(
    switches: MakeSwitch,
) -> None:
    delay_s = 1.0
    switch = switches(timing={"handover_delay_s": delay_s, "kube_stable_s": 30.0})
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    number = 0
    while len(stops := _stops_of_the_local_one(switch)) < 3:
        # As a kubelet would, but with no mercy: the next one comes as soon as the last one has died.
        crashing = switch.run_kube("snmp", number, life_s=0.05, code=1)
        number += 1
        while crashing in switch.running("snmp") and len(_stops_of_the_local_one(switch)) < 3:
            time.sleep(0.05)

    at = [datetime.fromisoformat(e["timestamp"]).timestamp() for e in stops]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert all(gap >= delay_s * 2**n for n, gap in enumerate(gaps)), gaps
    switch.until_state("snmp", "LOCAL")
    assert switch.shown("snmp")["crashes"] >= 2, "as many as have ended so far"


def _stops_of_the_local_one(switch: Switch) -> list[dict[str, Any]]:
    return [e for e in switch.log("action", feature="snmp") if e["action"].startswith("docker stop")]


def test_a_local_container_that_crashes_while_kube_waits_completes_the_hand_over(
    switches: MakeSwitch,
) -> None:
    switch = switches(timing={"stop_grace_s": 60.0})
    crash = switch.paths.marks / "crash"
    stubborn = ["/bin/sh", "-c", f"trap '' TERM; while [ ! -e {crash} ]; do sleep 0.1; done; exit 3"]
    switch.config("snmp", set_owner="local")
    switch.create_local("snmp", command=stubborn)
    switch.done("start", "snmp")
    waiter = switch.waits("snmp")
    kube = switch.run_kube("snmp")
    switch.config("snmp", set_owner="kube")
    switch.until_state("snmp", "LOCAL_TO_KUBE")
    crash.touch()
    switch.until_row("snmp", docker_id=kube)
    assert waiter.poll() is None


def test_a_local_container_that_crashes_while_a_refused_kube_one_waits_is_taken_over_from_unseen_by_its_unit(
    switches: MakeSwitch,
) -> None:
    switch = switches(
        timing={"handover_delay_s": 600.0, "handover_delay_s_max": 600.0, "kube_stable_s": 30.0}
    )
    local = switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.run_kube("snmp", 0, life_s=0.05, code=1)
    switch.wait_for(lambda: switch.shown("snmp")["crashes"] == 1, "the first kube container has crashed")
    switch.until_state("snmp", "LOCAL")
    kube = switch.run_kube("snmp", 1)
    switch.wait_for(lambda: kube in switch.shown("snmp")["waiting"], "the next one has to wait")
    waiter = switch.waits("snmp")
    switch.docker.do("kill", local)
    switch.until_row("snmp", docker_id=kube)
    time.sleep(QUIET_S)
    assert waiter.poll() is None


# ---- the unit is restarted in every state ---------------------------------------------------------


SLOW_TO_END = ["/bin/sh", "-c", "trap 'sleep 4; exit 0' TERM; sleep 1000 & wait; wait"]


def unit_in(switch: Switch, state: str) -> None:
    """Make snmp a unit, start it, and bring it from LOCAL into `state`."""
    switch.config("snmp", set_owner="local")
    switch.add_service("snmp", **({"command": SLOW_TO_END} if state == "LOCAL_TO_KUBE" else {}))
    switch.units.call("start", "snmp.service")
    switch.until_state("snmp", "LOCAL")
    match state:
        case "LOCAL_EXITED":
            switch.docker.do("kill", "snmp")  # its unit is about to restart it
            return
        case "LOCAL_TO_KUBE":
            switch.config("snmp", set_owner="kube")
            switch.run_kube("snmp")
        case "KUBE_READY":
            switch.until_ups("snmp", "local")
            switch.docker.remove(to_kube(switch, "snmp"))
        case "KUBE_RUNNING":
            switch.until_ups("snmp", "local")
            to_kube(switch, "snmp")
        case "INIT":
            switch.units.call("stop", "snmp.service")
    switch.until_state("snmp", state)


@pytest.mark.parametrize("state", ["INIT", "LOCAL", "LOCAL_EXITED"])
def test_systemctl_restart_of_a_local_unit_ends_in_local(switch: Switch, state: str) -> None:
    unit_in(switch, state)
    before = switch.docker.inspect("snmp")["State"]["StartedAt"]
    switch.units.call("restart", "snmp.service")
    switch.wait_for(lambda: switch.docker.inspect("snmp")["State"]["StartedAt"] != before, "started again")
    switch.until_state("snmp", "LOCAL")
    switch.units.call("stop", "snmp.service")
    switch.until_state("snmp", "INIT")
    assert switch.running("snmp") == []


@pytest.mark.parametrize("state", ["LOCAL_TO_KUBE", "KUBE_READY", "KUBE_RUNNING"])
def test_systemctl_restart_of_a_kube_unit_waits_for_kube_again(switch: Switch, state: str) -> None:
    unit_in(switch, state)
    switch.units.call("restart", "snmp.service")
    switch.until_state("snmp", "KUBE_READY")
    # The stop's answer waits for no container that was never let through.
    switch.wait_for(lambda: switch.running("snmp") == [], "the stop has ended everything")
    kube = to_kube(switch, "snmp", 1)
    assert switch.running("snmp") == [kube]
    switch.units.call("stop", "snmp.service")
    switch.until_state("snmp", "INIT")
    assert switch.running("snmp") == []


# ---- bad input ------------------------------------------------------------------------------------

BAD_REQUESTS = {
    "no request at all": (b"\n", 64, "version"),
    "an unknown verb": (b"1\0dance\0snmp\n", 64, "unknown verb"),
    "no verb": (b"1\n", 64, "names no verb"),
    "another version": (b"9\0start\0snmp\n", 64, "version"),
    "an endless line": (b"1\0start\0" + b"a" * 5000 + b"\n", 64, "4096"),
    "bytes that are no UTF-8": (b"1\0start\0\xff\xfe\n", 64, "UTF-8"),
    "a path for a name": (b"1\0start\0../../etc/passwd\n", 64, "invalid feature name"),
    "an option for a name": (b"1\0stop\0-t\n", 64, "invalid feature name"),
    "a name of nothing": (b"1\0start\n", 64, "invalid feature name"),
    "a name in capitals": (b"1\0kill\0SNMP\n", 64, "invalid feature name"),
    "seconds of words": (b"1\0stop\0snmp\0soon\n", 64, "whole number"),
    "a signal that ends nothing": (b"1\0kill\0snmp\0HUP\n", 64, "does not end"),
    "a state of mind": (b"1\0state\0snmp\0sideways\n", 64, "up local"),
    "a label without a value": (b"1\0label\0nonsense\n", 64, "label"),
    "an unknown feature": (b"1\0id\0nobody\n", 1, "no such feature"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_bad_input_through_the_socket_is_answered_in_one_line(bad_switch: Switch, what: str) -> None:
    request, code, word = BAD_REQUESTS[what]
    lines = bad_switch.daemon.raw(request).decode().splitlines()
    assert lines[-1] == f"R {code}"
    told = [line for line in lines if line.startswith("E ")]
    assert len(told) == 1
    assert word in told[0]
    assert ";" in told[0], "it names the fix"
    assert bad_switch.state("lldp") == "LOCAL", "others are unaffected"


BAD_WORDS = {
    "an unknown verb": (("dance", "snmp"), 64),
    "no verb": ((), 64),
    "no name": (("start",), 64),
    "two names": (("start", "snmp", "lldp"), 64),
    "a path for a name": (("start", "../snmp"), 64),
    "seconds of words": (("stop", "-t", "soon", "snmp"), 64),
    "an unknown option": (("stop", "--now", "snmp"), 64),
    "no command": (("exec", "snmp"), 64),
    "a name in another alphabet": (("start", "снмп"), 64),
    "no UTF-8": (("start", "sn\udcffmp"), 64),
    "an unknown feature": (("inspect", "nobody"), 1),
}


@pytest.mark.parametrize("what", BAD_WORDS)
def test_bad_input_through_the_command_line_is_answered_in_one_line(bad_switch: Switch, what: str) -> None:
    words, code = BAD_WORDS[what]
    ended = bad_switch.container(*words)
    assert ended.returncode == code
    assert ended.stderr.startswith("container: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def bad_switch(lab_docker: LabDockerProcess) -> Iterator[Switch]:
    """One switch for all bad input: none of it may leave a trace. The engine has no part in it."""
    with Switch(lab_docker) as switch:
        switch.boot_local("lldp")
        yield switch
        assert not switch.daemon.tracebacks, "\n".join(switch.daemon.tracebacks)


BAD_ROWS = {
    "a wrong owner": {"set_owner": "martian"},
    "a wrong boolean": {"set_owner": "local", "fallback_to_local": "perhaps"},
    "a wrong number": {"set_owner": "local", "kube_failure_detection": "-5"},
    "no UTF-8": {"set_owner": b"\xff\xfe"},
    "a megabyte": {"set_owner": "local", "note": "x" * 2**20},
    "a megabyte of owner": {"set_owner": "x" * 2**20},
    "nothing": {"NULL": "NULL"},
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_poison_row_stops_only_its_own_feature(bad_switch: Switch, what: str) -> None:
    name = "poison" + str(list(BAD_ROWS).index(what))
    bad_switch.config_db.hset(f"FEATURE|{name}", mapping=BAD_ROWS[what])
    bad_switch.state_db.hset(
        f"FEATURE|{name}", mapping={"current_owner": b"\xff", "system_state": "sideways"}
    )
    bad_switch.create_local(name)
    bad_switch.done("start", name)
    bad_switch.until_state(name, "LOCAL")
    bad_switch.done("stop", name)
    bad_switch.docker.remove(name)
    assert bad_switch.state("lldp") == "LOCAL"


def test_keys_without_a_valid_feature_name_are_skipped(bad_switch: Switch) -> None:
    for key in (
        "FEATURE|../x",
        "FEATURE|a|b",
        "FEATURE|",
        "FEATURE|UPPER",
        b"FEATURE|\xff",
        "FEATURE|" + "a" * 500,
    ):
        bad_switch.config_db.hset(key, "set_owner", "kube")
    bad_switch.config_db.set("FEATURE|string", "no hash")
    bad_switch.state_db.set("FEATURE|radv", "no hash either")
    bad_switch.config("radv", set_owner="local")
    bad_switch.config("bgp", set_owner="local")
    bad_switch.boot_local("bgp")
    bad_switch.done("stop", "bgp")
    assert {json.loads(line)["feature"] for line in bad_switch.ask("show")[1]} >= {"lldp", "bgp"}
    assert bad_switch.state("lldp") == "LOCAL"


def test_clients_that_say_nothing_or_leave_early_are_let_go(bad_switch: Switch) -> None:
    silent = []
    for _ in range(50):
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(bad_switch.paths.host_sock))
        silent.append(link)
    for link in silent[::2]:
        link.sendall(b"1\0wait\0lldp\n")
        link.close()
    for link in silent[1::2]:
        link.sendall(b"1\0wa")
    assert bad_switch.state("lldp") == "LOCAL"
    for link in silent[1::2]:
        link.settimeout(LIMIT_S)
        assert link.recv(100).startswith(b"E ")
        link.close()


# ---- what is not installed ------------------------------------------------------------------------


def test_without_kubernetes_packages_everything_local_works_without_messages_about_kube(
    switches: MakeSwitch, tmp_path: Path
) -> None:
    """An interpreter whose packages are ours but for kubernetes_asyncio, and a master configured all the same."""
    for folder in (Path(p) for p in sys.path if p.endswith("site-packages")):
        for entry in folder.iterdir():
            if not entry.name.startswith(("kubernetes_asyncio", "__pycache__")) and entry.suffix != ".pth":
                (tmp_path / entry.name).symlink_to(entry)
    credential = tmp_path / "kubelet.conf"
    credential.write_text("{}")
    switch = switches(
        python=sys._base_executable,
        environ={"PYTHONPATH": str(tmp_path)},
        settings={"kube": {"kubeconfig": str(credential)}},
    )
    switch.config_db.hset("KUBERNETES_MASTER|SERVER", mapping={"IP": "127.0.0.1", "port": "1"})
    switch.boot_local("snmp")
    switch.config("snmp", set_owner="kube")
    switch.done("stop", "snmp")
    switch.done("start", "snmp")
    waiter = switch.waits("snmp")
    switch.daemon.restart()
    switch.until_state("snmp", "LOCAL")
    switch.done("kill", "snmp")
    assert waiter.wait(LIMIT_S) == 137
    about = [
        e for e in switch.log() if any(word in str(e).lower() for word in ("kubernetes", "master", "kubelet"))
    ]
    assert about == []
    assert not any("kubelet" in call for call in switch.units.all_calls)
