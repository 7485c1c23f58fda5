"""Check that containers report through the shipped hooks, with whatever programs they have inside."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.kube_names import kube_box
from tests.system.installed_fixtures import (
    DEBIAN_INSIDE,
    IMAGE,
    add_feature,
    journal,
    on_every_suite,
    redis,
    remove_feature,
    row,
    running,
)
from tests.system.installed_switch import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed_switch import InstalledSwitch

pytestmark = pytest.mark.real("systemd")

HOOKS = "/usr/share/kubesyncd/container"
SOCKET = ("-v", "/run/kubesyncd/container:/run/kubesyncd/container")
BOX, LABELS = kube_box("radv", "radv-pod")
EMPTY_IMAGE = "empty:lab"

# As SONiC's images have it: start.sh is run by supervisord, and the feature's own program after it.
SUPERVISORD = """[supervisord]
nodaemon=true
user=root
logfile=/marks/{name}.log
pidfile=/tmp/supervisord.pid
[unix_http_server]
file=/tmp/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///tmp/supervisor.sock
[program:start]
command=/etc/lab/start.sh
startsecs=0
autorestart=false
[program:app]
command=/usr/bin/lab-feature
autostart=false
"""
START = f"""#!/bin/sh
{HOOKS}/start-hook radv
date +%s.%N >>/marks/past
exec supervisorctl -c /etc/lab/${{RUNTIME_OWNER:-kube}}.conf start app
"""


@pytest.fixture
def radv(installed: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The switch with a local feature radv under supervisord."""
    fragment = installed.read(f"{HOOKS}/supervisord.conf").replace("NAME", "radv").replace("=syslog", "=NONE")
    for name in ("local", "kube"):
        installed.write(f"/etc/lab/{name}.conf", SUPERVISORD.format(name=name) + fragment)
    installed.write("/etc/lab/start.sh", START, mode=0o755)
    installed.run("install", "-d", "-m", "777", "/var/marks")
    create = f"{DEBIAN_INSIDE} -v /var/marks:/marks {IMAGE} supervisord -c /etc/lab/local.conf"
    add_feature(installed, "radv", create=create, set_owner="local")
    yield installed
    for container in installed.run("docker", "ps", "-aq", "--filter", f"name={BOX}").split():
        installed.process("docker", "rm", "-f", container)
    remove_feature(installed, "radv")
    installed.run("rm", "-r", "/var/marks", "/etc/lab")


def deploy(switch: InstalledSwitch, *arguments: str) -> str:
    """A container as a kubelet makes it; its ID."""
    # A kubelet adds a random suffix where a name is taken.
    named = ("--name", f"{BOX}_{secrets.token_hex(4)}")
    labels = [word for key, value in LABELS.items() for word in ("--label", f"{key}={value}")]
    return switch.run("docker", "run", "-d", "--network", "host", *named, *labels, *SOCKET, *arguments)


def mounts(program: str) -> list[str]:
    """Our hooks, and one of the host's programs with the libraries it needs."""
    paths = [
        (HOOKS, HOOKS),
        (program, program),
        ("/usr/lib", "/usr/lib"),
        ("/usr/lib", "/lib"),
        ("/lib64", "/lib64"),
    ]
    return [part for source, target in paths for part in ("-v", f"{source}:{target}:ro")]


def past(switch: InstalledSwitch) -> int:
    """How many containers have got past their start hook."""
    marks = switch.root / "var/marks/past"
    return len(marks.read_text().split()) if marks.exists() else 0


def log(switch: InstalledSwitch, name: str) -> str:
    file = switch.root / f"var/marks/{name}.log"
    return file.read_text() if file.exists() else ""


def heard(switch: InstalledSwitch, container: str) -> list[str]:
    """What the daemon has heard from a container."""
    lines = journal(switch, "kubesyncd").splitlines()
    events = [json.loads(line) for line in lines if '"container_said"' in line]
    return [event["said"] for event in events if event["container"] == container]


@on_every_suite
def test_under_supervisord_a_local_container_says_up_and_down(radv: InstalledSwitch) -> None:
    radv.wait_for(lambda: "app entered RUNNING" in log(radv, "local"), "the feature's program runs")
    assert row(radv, "radv")["current_owner"] == "local"
    local = radv.run("docker", "inspect", "-f", "{{.Id}}", "radv")
    radv.run("systemctl", "stop", "radv")
    # The journal comes a moment after what it tells of.
    radv.wait_for(lambda: heard(radv, local) == ["up", "down"], "both are heard")
    assert "state-monitor (exit status 0" in log(radv, "local"), "the monitor has ended well, not been killed"
    assert row(radv, "radv")["current_owner"] == "none"
    assert radv.show("radv", "Result") == "success"


@on_every_suite
def test_under_supervisord_a_kube_container_is_held_back_until_it_may(radv: InstalledSwitch) -> None:
    radv.wait_for(lambda: past(radv) == 1, "the local container is up")
    supervisord = ("supervisord", "-c", "/etc/lab/kube.conf")
    kube = deploy(radv, *DEBIAN_INSIDE.split(), "-v", "/var/marks:/marks", IMAGE, *supervisord)
    radv.wait_for(lambda: "spawned: 'start'" in log(radv, "kube"), "start.sh runs in the kube container")
    radv.run("container", "state", "radv")
    assert past(radv) == 1
    assert running(radv, "radv")

    redis(radv, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    radv.wait_for(lambda: row(radv, "radv").get("docker_id") == kube, "it owns the feature")
    radv.wait_for(lambda: past(radv) == 2, "and goes on")
    radv.wait_for(lambda: "app entered RUNNING" in log(radv, "kube"), "its program runs")
    assert not running(radv, "radv")

    radv.run("docker", "stop", kube)
    radv.wait_for(lambda: heard(radv, kube) == ["up", "down"], "both are heard")
    assert "state-monitor (exit status 0" in log(radv, "kube")
    radv.wait_for(lambda: row(radv, "radv")["current_owner"] == "none", "the end is seen")
    assert radv.show("radv", "NRestarts") == "0"


def test_a_kube_container_that_says_it_is_local_is_held_back_all_the_same(radv: InstalledSwitch) -> None:
    radv.wait_for(lambda: past(radv) == 1, "the local container is up")
    liar = ("-e", "RUNTIME_OWNER=local", *mounts("/usr/bin/socat"))
    kube = deploy(radv, *liar, IMAGE, f"{HOOKS}/entrypoint", "radv", "sleep", "100000")
    radv.wait_for(lambda: heard(radv, kube) == ["up"], "it asks again as what it is")
    refused = "it may report `up kube`"
    radv.wait_for(lambda: refused in radv.process("docker", "logs", kube).stderr, "it was refused")
    assert not radv.run("docker", "exec", kube, "cat", "/proc/1/cmdline").startswith("sleep")
    assert running(radv, "radv")

    redis(radv, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    radv.wait_for(lambda: row(radv, "radv").get("docker_id") == kube, "it owns the feature")
    radv.wait_for(
        lambda: radv.run("docker", "exec", kube, "cat", "/proc/1/cmdline").startswith("sleep"), "it goes on"
    )


@pytest.mark.parametrize("dialler", ["/usr/bin/socat", "/usr/bin/perl"])
def test_the_entry_point_holds_back_an_image_that_has_only_a_shell(
    radv: InstalledSwitch, dialler: str
) -> None:
    redis(radv, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    kube = deploy(radv, *mounts(dialler), IMAGE, f"{HOOKS}/entrypoint", "radv", "sleep", "100000")
    radv.wait_for(lambda: row(radv, "radv").get("docker_id") == kube, "it owns the feature")
    radv.wait_for(
        lambda: radv.run("docker", "exec", kube, "cat", "/proc/1/cmdline").startswith("sleep"), "it goes on"
    )
    ended = radv.process("docker", "exec", kube, f"{HOOKS}/pre-stop", "radv")
    assert (ended.returncode, ended.stderr) == (0, ""), (
        "heard; it owns the feature until Docker says it ended"
    )
    refused = radv.process("docker", "exec", kube, f"{HOOKS}/pre-stop", "snmp")
    assert refused.returncode == 0, "the kubelet stops it all the same"
    assert "the asking container belongs to radv" in refused.stderr


def test_the_client_waits_in_an_image_that_has_only_python(radv: InstalledSwitch) -> None:
    empty = subprocess.run(["tar", "-cf", "-", "-T", "/dev/null"], check=True, capture_output=True).stdout
    command = radv.command("docker", "import", "-", EMPTY_IMAGE)
    subprocess.run(command, input=empty, check=True, capture_output=True, timeout=PATIENCE_S)
    redis(radv, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    python = "/usr/bin/python3.11"
    main = f"import sys; sys.path.insert(0, {HOOKS!r}); import client, time;"
    code = f"{main} client.main(['container_state', 'radv', 'up', 'kube']); time.sleep(100000)"
    kube = deploy(radv, *mounts(python), EMPTY_IMAGE, python, "-IS", "-c", code)
    radv.wait_for(lambda: row(radv, "radv").get("docker_id") == kube, "it owns the feature")


def test_a_container_told_to_end_while_it_is_held_back_ends_at_once(radv: InstalledSwitch) -> None:
    kube = deploy(radv, *mounts("/usr/bin/socat"), IMAGE, f"{HOOKS}/entrypoint", "radv", "sleep", "100000")
    radv.wait_for(lambda: heard(radv, kube) == ["up"], "it asks, and is held back")
    radv.run("docker", "stop", "-t", "60", kube)
    assert radv.run("docker", "inspect", "-f", "{{.State.ExitCode}}", kube) == "143"


def test_process_checks_work_in_both_modes(radv: InstalledSwitch) -> None:
    def check(command: str) -> tuple[int, str]:
        checked = radv.process("/usr/lib/kubesyncd/process-check", "radv", command)
        return checked.returncode, checked.stdout

    radv.wait_for(lambda: "app entered RUNNING" in log(radv, "local"), "the feature's program runs")
    assert check("/bin/sh /usr/bin/lab-feature") == (0, "")
    assert check("/usr/sbin/radvd") == (3, "radv: /usr/sbin/radvd does not run\n")

    redis(radv, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    kube = deploy(radv, *mounts("/usr/bin/socat"), IMAGE, f"{HOOKS}/entrypoint", "radv", "sleep", "100000")
    radv.wait_for(lambda: row(radv, "radv").get("docker_id") == kube, "the kube container owns the feature")
    radv.wait_for(lambda: check("sleep 100000") == (0, ""), "found in the kube container")
    assert check("/bin/sh /usr/bin/lab-feature")[0] == 3

    radv.run("systemctl", "stop", "radv")
    assert check("sleep 100000") == (0, ""), "a feature that is down is container_checker's to report"


def test_a_container_reaches_the_daemon_through_every_way_it_is_restarted(radv: InstalledSwitch) -> None:
    says = ("docker", "exec", "radv", "python3", "-IS", f"{HOOKS}/container_state", "radv", "healthy")
    radv.wait_for(lambda: radv.succeeds(*says), "the container speaks")
    ours = ("kubesyncd.service", "kubesyncd.socket", "kubesyncd-container.socket")
    for commands in (
        [("restart", "kubesyncd.service")],
        [("kill", "--signal=KILL", "kubesyncd.service")],
        [("stop", *ours), ("start", *ours)],
    ):
        daemon = radv.show("kubesyncd", "MainPID")
        for command in commands:
            radv.run("systemctl", *command)
        # systemd learns of a kill after the command that sends it.
        radv.wait_for(
            lambda before=daemon: (
                radv.show("kubesyncd", "MainPID") not in ("0", before)
                and radv.show("kubesyncd", "ActiveState") == "active"
            ),
            "the daemon is back",
        )
        assert radv.succeeds(*says), f"the folder it has mounted is the same after {commands}"


MONIT = """set daemon 1
set pidfile /run/monit.lab.pid
set idfile /run/monit.lab.id
set statefile /run/monit.lab.state
set logfile /run/monit.lab.log
set httpd unixsocket /run/monit.lab.sock allow localhost
include /etc/monit/conf.d/*
"""


@pytest.fixture
def monit(radv: InstalledSwitch) -> Iterator[InstalledSwitch]:
    """The switch with monit running on our file, uncommented for radv; it looks every second."""
    ours = radv.read("/etc/monit/conf.d/kubesyncd")
    example = ours[ours.index("# check program snmp") :].replace("# ", "", 1).replace("#  ", " ", 1)
    lines = example.replace("snmp|snmpd", "radv|app").replace("snmp /usr/sbin/snmpd", "radv /bin/sh")
    radv.write("/etc/monit/conf.d/radv", lines)
    radv.write("/etc/monitrc.lab", MONIT, mode=0o600)
    assert "Control file syntax OK" in radv.run("monit", "-t", "-c", "/etc/monitrc.lab")
    radv.run("monit", "-c", "/etc/monitrc.lab")
    yield radv
    radv.run("monit", "-c", "/etc/monitrc.lab", "quit")
    radv.wait_for(lambda: not (radv.root / "run/monit.lab.pid").exists(), "monit has ended")
    radv.run("rm", "/etc/monit/conf.d/radv", "/etc/monitrc.lab", "/run/monit.lab.log")


def alerted(switch: InstalledSwitch, check: str) -> bool:
    """Whether monit has told of a check's failure, so often that it counts; SONiC's goes to syslog."""
    return f"error    : '{check}' status failed" in switch.read("/run/monit.lab.log")


def good(switch: InstalledSwitch, check: str) -> bool:
    """Whether the check's last look found all well."""
    status = switch.process("monit", "-c", "/etc/monitrc.lab", "status", check).stdout
    return re.search(r"(?m)^  status +OK$", status) is not None


def test_monit_sees_a_process_in_both_modes_and_its_end(monit: InstalledSwitch) -> None:
    monit.wait_for(lambda: good(monit, "radv|app"), "it runs locally")
    redis(monit, 4, "hset", "FEATURE|radv", "set_owner", "kube")
    kube = deploy(monit, *mounts("/usr/bin/socat"), IMAGE, f"{HOOKS}/entrypoint", "radv", "sleep", "100000")
    monit.wait_for(lambda: row(monit, "radv").get("docker_id") == kube, "the kube container owns the feature")
    monit.wait_for(lambda: alerted(monit, "radv|app"), "the kube container has no such process")
    assert not good(monit, "radv|app")
    monit.run("docker", "exec", "-d", kube, "/bin/sh", "-c", "sleep 100000; true")
    monit.wait_for(lambda: good(monit, "radv|app"), "now it has")


def test_monit_sees_the_daemon_s_end(monit: InstalledSwitch) -> None:
    monit.wait_for(lambda: good(monit, "kubesyncd"), "the daemon is up")
    ours = ("kubesyncd.service", "kubesyncd.socket", "kubesyncd-container.socket")
    monit.run("systemctl", "stop", *ours)
    said = monit.process("/usr/lib/kubesyncd/daemon-check")
    assert (said.returncode, said.stdout.strip()) == (
        1,
        "kubesyncd.socket is inactive; see systemctl status kubesyncd.socket",
    )
    monit.wait_for(lambda: alerted(monit, "kubesyncd"), "monit tells the operator")
    monit.run("systemctl", "start", *ours)
    monit.wait_for(lambda: good(monit, "kubesyncd"), "and that it is back")
