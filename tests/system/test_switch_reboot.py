"""Check that a switch is ready for a reboot within 30 s, and that its features return at once.

A reboot here is what the fast-reboot script and the kernel make of it: STATE_DB is wiped, everything that ran is
dead, /run is empty, the boot has another ID, and the master may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.processes import freeze
from tests.lab.switch_clients import CLIENTS
from tests.lab.switch_units import LAB
from tests.system.docker_engine import RealDocker
from tests.system.switch_fixtures import joined, powered_on
from tests.system.test_switch_failure import to_kube
from tests.system.test_switch_faults import begin, has_ended_within, start_mortal
from tests.system.test_switch_images import KUBE, LOCAL, booted
from tests.system.test_switch_rollback import deployed
from tests.wait import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.lab.engines import Docker, LabDockerProcess
    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

QUIET_S = 3.0
# What explain says on a switch without a master.
NO_MASTER = "no master is configured; run: config kube server ip ADDRESS"


def prepare(switch: Switch, *arguments: str) -> tuple[int, list[str]]:
    """`kubesync reboot prepare`: its exit code and lines."""
    ended = switch.kubesync("reboot", "prepare", *arguments)
    return ended.returncode, [*ended.stdout.splitlines(), *ended.stderr.splitlines()]


def up_again(switch: Switch, features: Sequence[str]) -> dict[str, float]:
    """Start the features all at once, as systemd does after a boot; after how many seconds each had come up.

    The time of the container's `state up` counts, not the time of the test's check.
    """
    begun = time.time()
    starting = [switch.spawn("start", feature) for feature in features]
    for feature, client in zip(features, starting, strict=True):
        assert client.wait(LIMIT_S) == 0, f"{feature}\n{switch.told()}"
        switch.until_ups(feature, "local")
    return {feature: (switch.paths.marks / f"{feature}.up").stat().st_mtime - begun for feature in features}


def states(switch: Switch, feature: str) -> list[str]:
    """Which states the feature has had since the daemon was last started."""
    lines = switch.log()
    begun = max(number for number, line in enumerate(lines) if line.get("event") == "started")
    return [x["state"] for x in lines[begun:] if (x.get("event"), x.get("feature")) == ("state", feature)]


# ---- with a master --------------------------------------------------------------------------------


PLAIN, KUBE_RUN = ("lldp", "dhcp", "ntp"), ("snmp", "telemetry", "pmon")
# Long enough for a flap, had there been one: longer than every delay these switches have.
ALONE_S = 8.0


def test_after_the_boot_all_is_back_as_soon_as_on_a_local_switch_and_kube_takes_over_when_the_master_is_there(
    kube_switches: MakeSwitch,
) -> None:
    switch = kube_switches(timing={"fallback_after_s": 4.0})
    joined(switch)
    assert switch.kube is not None
    for feature in (*PLAIN, *KUBE_RUN):
        switch.boot_local(feature)
    for feature in KUBE_RUN:
        switch.config(feature, set_owner="kube")
        switch.master.deploy(feature)
    for feature in KUBE_RUN:
        switch.wait_for(lambda f=feature: switch.shown(f)["proven"], f"{feature} runs by kube")
    code, lines = prepare(switch, "warm")
    assert code == 0, lines
    assert lines[-1].startswith("prepared for a warm reboot: no warnings, ")
    assert not switch.kubelet_runs
    assert json.loads(switch.ask("cluster")[1][0])["hold"]

    # What the reboot script does then; everything ends, and the master is away.
    for feature in KUBE_RUN:
        switch.done("kill", "--no-kubelet-check", feature)
    switch.kube.stop_api()
    switch.power_off()
    config = {key: switch.config_db.hgetall(key) for key in switch.config_db.keys("*|*")}
    switch.redis.restart()
    if isinstance(switch.engine, RealDocker):
        asyncio.run(switch.engine.restart(live_restore=False))
    for key, fields in config.items():
        switch.config_db.hset(key, mapping=fields)
    switch.config_db.set("CONFIG_DB_INITIALIZED", "1")
    switch.daemon.start()
    back_s = up_again(switch, [f for pair in zip(PLAIN, KUBE_RUN, strict=True) for f in pair])
    print({feature: round(seconds, 2) for feature, seconds in back_s.items()})
    for feature in back_s:
        assert states(switch, feature) == ["STARTING", "LOCAL"], "none waits for kube first"
    assert [sorted(entry["fallback"]) for entry in switch.log("hold_lifted")] == [sorted(KUBE_RUN)]
    told = "local after a prepared reboot until its kube container is stable"
    switch.until_told(told, "explain", "snmp")
    for feature in KUBE_RUN:
        fallback = switch.config_db.hget(f"FEATURE|{feature}", "fallback_to_local")
        assert fallback is None, "the operator's setting is as it was"
    time.sleep(ALONE_S)
    for feature in back_s:
        switch.until_ups(feature, "local")

    switch.kube.start()
    for feature in KUBE_RUN:
        switch.until_state(feature, "KUBE_RUNNING")
        switch.wait_for(lambda f=feature: switch.shown(f)["proven"], "and stays")
        switch.until_ups(feature, "local", "kube")
        assert not switch.shown(feature)["boot_fallback"], "from here on the operator's setting rules"
    for feature in PLAIN:
        switch.until_ups(feature, "local")


def test_a_prepared_reboot_that_does_not_take_place_is_taken_back(kube_switches: MakeSwitch) -> None:
    switch = kube_switches()
    joined(switch)
    booted(switch)
    switch.config("snmp", set_owner="kube")
    deployed(switch, "v2")
    assert prepare(switch, "fast")[0] == 0
    assert prepare(switch, "fast")[0] == 0, "once more does no harm"
    assert not switch.kubelet_runs
    switch.daemon.restart()
    time.sleep(QUIET_S)
    assert not switch.kubelet_runs, "a restart of the daemon lifts no hold"
    code, lines = prepare(switch, "--undo")
    assert (code, lines) == (0, ["hold: removed; the kubelet follows its normal rules"])
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs again")
    switch.until_state("snmp", "KUBE_RUNNING")
    assert not list((switch.folder / "carried").iterdir())


def test_a_feature_that_only_kubernetes_brings_is_back_before_its_master_is(
    kube_switches: MakeSwitch,
) -> None:
    switch = kube_switches()
    joined(switch)
    assert switch.kube is not None
    switch.images.make(f"{KUBE}:v2")
    switch.config("snmp", set_owner="kube")
    switch.done("start", "snmp")
    switch.master.deploy("snmp", image=f"{KUBE}:v2", command=by_runtime_owner(switch))
    switch.wait_for(lambda: switch.shown("snmp")["proven"], "snmp runs by kube")
    code, lines = prepare(switch, "warm")
    assert code == 0, lines
    assert "no warnings" in lines[-1]
    local = switch.docker.inspect("snmp")
    assert not any("/pods/" in bind for bind in local["HostConfig"]["Binds"]), "nothing of the pod's own"
    assert not any(name.startswith("io.kubernetes") for name in local["Config"]["Labels"])
    switch.done("kill", "--no-kubelet-check", "snmp")
    switch.kube.stop_api()
    switch.reboot()
    switch.done("start", "snmp")
    switch.until_ups("snmp", "local")
    switch.kube.start()
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.until_ups("snmp", "local", "kube")


# ---- without --------------------------------------------------------------------------------------


def kube_owned(switch: Switch, **container: object) -> str:
    """snmp run by a kube container without fallback; the image's ID."""
    booted(switch)
    switch.config("snmp", set_owner="kube")
    image_id = switch.images.make(f"{KUBE}:v2")
    to_kube(switch, "snmp", image=f"{KUBE}:v2", **container)
    return image_id


def test_a_dry_run_says_everything_and_does_nothing(switch: Switch) -> None:
    kube_owned(switch)
    switch.hook("warm-reboot.d", "50-cache", f"touch {switch.folder}/ran")
    code, lines = prepare(switch, "warm", "--dry-run")
    assert code == 0
    assert f"ok   snmp: {LOCAL} exists" in lines
    assert "ok   50-cache: would be run" in lines
    assert lines[-1].startswith("would be prepared for a warm reboot")
    assert not (switch.folder / "ran").exists()
    assert not (switch.folder / "state" / "hold").exists()
    assert not (switch.folder / "carried").exists()


@pytest.mark.story
@pytest.mark.upstream("ctrmgr_tools/tag-all", "differs")
def test_a_feature_without_a_local_image_gets_the_deployed_one(switch: Switch) -> None:
    switch.config("snmp", set_owner="kube")
    image_id = switch.images.make(f"{KUBE}:v2")
    switch.done("start", "snmp")
    to_kube(switch, "snmp", image=f"{KUBE}:v2")
    code, lines = prepare(switch, "warm")
    assert code == 0, lines
    assert switch.images.named(LOCAL) == image_id
    assert any("is made from the deployed image" in line for line in lines)
    # A feature that was never deployed cannot be helped, and it is said.
    switch.config("telemetry", set_owner="kube")
    switch.done("start", "telemetry")
    code, lines = prepare(switch, "warm")
    assert code == 0
    assert any(line.startswith("warn telemetry: ") for line in lines)
    assert "1 warning" in lines[-1]


def test_hooks_run_by_kind_and_one_that_must_succeed_takes_everything_back(switch: Switch) -> None:
    kube_owned(switch)
    ran = switch.folder / "ran"
    switch.hook("warm-reboot.d", "10-first", f'echo "first $1" >>{ran}')
    switch.hook("warm-reboot.d", "20-soft", f"echo soft >>{ran}; echo no space >&2; exit 3")
    switch.hook("fast-reboot.d", "10-other", f"echo other >>{ran}")
    code, lines = prepare(switch, "warm")
    assert code == 0
    assert "warn 20-soft: it failed: no space" in lines
    assert ran.read_text().splitlines() == ["first warm", "soft"]
    assert prepare(switch, "--undo")[0] == 0
    switch.hook("warm-reboot.d", "15-hard.abort", "echo the cache is not on disk; exit 1")
    code, lines = prepare(switch, "warm")
    assert code == 1
    assert lines[-1] == "not prepared for a warm reboot: 15-hard.abort: it failed: the cache is not on disk"
    assert not (switch.folder / "state" / "hold").exists()
    assert not list((switch.folder / "carried").iterdir())
    assert ran.read_text().splitlines()[2:] == ["first warm"], "nothing is run after it"
    told = json.loads(switch.kubesync("reboot", "prepare", "warm", "--json").stdout)
    assert told["prepared"] is False
    assert {step["grade"] for step in told["steps"]} == {"ok", "fail"}


def test_hooks_have_a_limit_each_and_all_together(switches: MakeSwitch) -> None:
    # Of 12 s, 10 s are for hooks, and for what a busy machine does before them.
    switch = switches(timing={"hook_s_max": 0.5, "reboot_s_max": 12.0})
    for number in range(40):
        switch.hook("warm-reboot.d", f"{number:02}-slow", "sleep 100")
    begun = time.monotonic()
    code, lines = prepare(switch, "warm")
    print(f"40 hooks that never end: {time.monotonic() - begun:.1f} s")
    assert code == 0
    assert "warn 00-slow: it failed: it did not end within 0.5 s" in lines
    assert "warn 39-slow: not run: no time is left of 12 s" in lines


def test_a_daemon_that_is_not_there_is_one_line_and_69(switch: Switch) -> None:
    switch.daemon.stop()
    code, lines = prepare(switch, "warm")
    assert code == 69
    assert len(lines) == 1
    assert switch.kubesync("reboot", "prepare").returncode == 64
    assert switch.kubesync("reboot", "prepare", "halt").returncode == 64


def test_a_full_disk_prepares_nothing_and_breaks_nothing(switch: Switch) -> None:
    kube_owned(switch)
    (switch.folder / "carried").write_text("a file where the folder should be")
    code, lines = prepare(switch, "warm")
    assert code == 1
    assert "context" in lines[-1]
    assert not (switch.folder / "state" / "hold").exists()
    assert switch.state("snmp") == "KUBE_RUNNING"


# ---- a feature that only Kubernetes brings ----------------------------------------------------------


def kube_only(switch: Switch) -> str:
    """snmp run by a kube container, and neither local image nor local container; the image's ID."""
    switch.config("snmp", set_owner="kube")
    image_id = switch.images.make(f"{KUBE}:v2")
    switch.done("start", "snmp")
    to_kube(switch, "snmp", image=f"{KUBE}:v2", command=by_runtime_owner(switch))
    return image_id


def by_runtime_owner(switch: Switch) -> list[str]:
    """What a container runs that learns from RUNTIME_OWNER whose it is, as SONiC's do."""
    script = f"exec /bin/sh {LAB}/feature.sh snmp ${{RUNTIME_OWNER:-kube}} {CLIENTS} {switch.paths.marks}"
    return ["/bin/sh", "-c", script]


def test_a_feature_that_only_kubernetes_brings_starts_from_its_image_and_settings_after_the_boot(
    switch: Switch,
) -> None:
    image_id = kube_only(switch)
    code, lines = prepare(switch, "warm", "--dry-run")
    assert code == 0
    assert any("its local container would be created from the one" in line for line in lines)
    code, lines = prepare(switch, "warm")
    assert code == 0
    assert lines[-1].startswith("prepared for a warm reboot: no warnings")
    assert any("its local container is created from the one that Kubernetes runs" in line for line in lines)
    assert switch.state("snmp") == "KUBE_RUNNING", "it changes nothing until it is needed"
    assert prepare(switch, "warm")[0] == 0, "once more does no harm"
    switch.done("kill", "--no-kubelet-check", "snmp")
    switch.reboot()
    switch.done("start", "snmp")
    switch.until_ups("snmp", "local")
    assert switch.docker.inspect("snmp")["Image"] == image_id


def test_a_feature_that_can_have_no_local_container_is_a_warning(switch: Switch) -> None:
    kube_only(switch)
    (kube,) = switch.running("snmp")
    switch.docker.remove(kube)
    switch.until_state("snmp", "KUBE_READY")
    code, lines = prepare(switch, "warm")
    assert code == 0
    assert any(line.startswith("warn snmp: no local container exists") for line in lines)


# ---- power cuts -------------------------------------------------------------------------------------

EFFECTS_MAX = 40


def comes_up(switch: Switch) -> None:
    """Everything is dead by -9; after the boot there is one of two ends, and no third one."""
    promised = (switch.folder / "state" / "hold").exists()
    switch.reboot()
    assert switch.kubesync("reboot", "restore").returncode == 0
    assert not (switch.folder / "state" / "hold").exists()
    switch.done("start", "snmp")
    before, state, why = (
        (["local"], "LOCAL", f"the local container runs; kube cannot deploy: {NO_MASTER}")
        if promised
        else ([], "KUBE_READY", f"waiting for kube deployment, which is not possible: {NO_MASTER}")
    )
    switch.until_state("snmp", state)
    switch.until_ups("snmp", *before)
    # The configuration of the master is read after the boot.
    switch.until_told(f"because {why}", "explain", "snmp")
    # The one or the other: a kube container that comes takes over, and the end is the same.
    switch.run_kube("snmp", 7, image=f"{KUBE}:v2", command=by_runtime_owner(switch))
    switch.until_state("snmp", "KUBE_RUNNING")
    switch.until_ups("snmp", *before, "kube")
    configured = "because the kube container runs, as configured"
    switch.until_told(configured, "explain", "snmp")
    assert prepare(switch, "warm")[0] == 0, "nothing is half done that would be in the way"


@pytest.mark.slow("a switch for each effect")
def test_a_power_cut_after_any_effect_of_the_daemon_leaves_a_switch_that_comes_up(engine: Docker) -> None:
    for effects in range(1, EFFECTS_MAX):
        with powered_on(engine) as switch:
            kube_only(switch)
            switch.daemon.stop()
            start_mortal(switch, effects)
            switch.until_state("snmp", "KUBE_RUNNING")
            begin(switch)
            code, lines = prepare(switch, "warm")
            # What the daemon notes after its answer is an effect as well.
            died = has_ended_within(switch, QUIET_S)
            assert died or code == 0, lines
            assert code != 0 or (switch.folder / "state" / "hold").exists(), "it was said to be prepared"
            comes_up(switch)
        if not died:
            assert effects > 4, "a tag, a note of it, a container, the hold"
            return
    raise AssertionError(f"the daemon has more than {EFFECTS_MAX} effects")


@pytest.mark.slow("a switch for each effect")
def test_a_power_cut_after_any_effect_of_the_command_leaves_a_switch_that_comes_up(
    lab_docker: LabDockerProcess,
) -> None:
    for effects in range(1, EFFECTS_MAX):
        with powered_on(lab_docker) as switch:
            switch.hook("warm-reboot.d", "50-cache", "true")
            kube_only(switch)
            prepared = switch.kubesync("reboot", "prepare", "warm", crash_after=effects)
            assert prepared.returncode in (0, -signal.SIGKILL), prepared
            comes_up(switch)
        if prepared.returncode == 0:
            assert effects > 5, "copies of two files of state and of a hook, their manifest, and the hook"
            return
    raise AssertionError(f"the command has more than {EFFECTS_MAX} effects")


def test_another_image_finds_the_saved_context_once(switch: Switch) -> None:
    kubelet = switch.folder / "kubelet"
    (kubelet / "pki").mkdir(parents=True)
    (kubelet / "pki" / "kubelet-client-2026.pem").write_text("key")
    os.symlink("kubelet-client-2026.pem", kubelet / "pki" / "kubelet-client-current.pem")
    (switch.folder / "old_config").mkdir()
    kube_owned(switch)
    assert prepare(switch, "warm")[0] == 0
    switch.power_off()
    # The next image: /etc/sonic is carried over, the rest is as it was built.
    for path in (*kubelet.rglob("*.pem"), *(switch.folder / "state").iterdir()):
        path.unlink()
    first = switch.kubesync("reboot", "restore")
    assert f"restored {kubelet}/pki/kubelet-client-current.pem" in first.stdout.splitlines()
    assert (kubelet / "pki" / "kubelet-client-current.pem").read_text() == "key"
    assert switch.kubesync("reboot", "restore").stdout == "", "exactly once"
    switch.daemon.start()
    switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")
    assert switch.shown("snmp")["boot_fallback"]


def test_a_context_that_the_first_boot_of_another_image_has_moved_is_found(
    switches: MakeSwitch, tmp_path: Path
) -> None:
    sonic, host = tmp_path / "etc-sonic", tmp_path / "host"
    (host / "old_config").mkdir(parents=True)
    sonic.mkdir()
    paths = {"carry_dir": str(sonic / "kubesyncd"), "upgrade_dir": str(host / "old_config")}
    switch = switches(settings={"paths": paths})
    kube_owned(switch)
    assert prepare(switch, "fast")[0] == 0
    switch.power_off()
    for path in (switch.folder / "state").iterdir():
        path.unlink()
    # What the upgrade carried is moved below an /etc/sonic of the new image's own.
    shutil.rmtree(sonic / "kubesyncd")
    (host / "old_config").rename(sonic / "old_config")
    assert f"restored {switch.folder}/state/images.json" in switch.kubesync("reboot", "restore").stdout
    assert switch.kubesync("reboot", "restore").stdout == "", "exactly once"
    switch.daemon.start()
    switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")


def test_a_daemon_that_falls_silent_is_waited_for_no_longer_than_the_limit(switches: MakeSwitch) -> None:
    switch = switches(timing={"reboot_s_max": 2.0})
    kube_owned(switch)
    freeze(switch.daemon.pid)
    try:
        code, lines = prepare(switch, "warm")
    finally:
        switch.daemon.send_signal(signal.SIGCONT)
    assert code == 69
    assert len(lines) == 1
    # It learns now that no client waits for it any more.
    switch.until_state("snmp", "KUBE_RUNNING")
    time.sleep(QUIET_S)
    assert not (switch.folder / "state" / "hold").exists(), "nothing is held"


def test_a_rollback_outlives_the_boot(switch: Switch) -> None:
    booted(switch)
    switch.config("snmp", set_owner="kube", failure_policy="rollback")
    switch.images.make(f"{KUBE}:v2")
    to_kube(switch, "snmp", image=f"{KUBE}:v2")
    switch.done("state", "snmp", "unhealthy", "wrong answers")
    switch.until_state("snmp", "LOCAL")
    switch.reboot()
    switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")
    shown = switch.shown("snmp")
    assert shown["rolled_back"]
    assert "wrong answers" in shown["why"]
