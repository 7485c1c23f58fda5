"""Check the shipped shell scripts, with stand-ins for the programs that they call."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

LIB = ROOT / "packaging/lib"
LIMIT_S = 180.0


@dataclass
class Bin:
    """A folder of stand-ins, before all else in PATH: each writes down its words, then does what it is told."""

    folder: Path
    calls: Path = field(init=False)

    def __post_init__(self) -> None:
        self.calls = self.folder / "calls"

    def add(self, name: str, does: str = "") -> None:
        words = f'echo "{name} $*" >>{self.calls}'
        (self.folder / name).write_text(f"#!/bin/sh\n{words}\n{does}\n")
        (self.folder / name).chmod(0o755)

    def run(self, script: Path, *arguments: str, **env: str) -> tuple[int, str]:
        """Its exit code, and what it prints."""
        self.calls.write_text("")
        done = subprocess.run(
            [str(script), *arguments],
            env={"PATH": f"{self.folder}:/usr/bin:/bin", **env},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def bin_(tmp_path: Path) -> Bin:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Bin(folder)


# ---- the generator ------------------------------------------------------------------------------

WAITS = {
    "snmp.service": "ExecStart=/usr/local/bin/snmp.sh wait",
    "swss@.service": "ExecStart=/usr/local/bin/swss.sh wait %i",
    "tap.service": "ExecStart=/usr/bin/container wait tap",
    "plus.service": "ExecStart=-+/usr/bin/plus.sh wait",
    "blanks.service": "  ExecStart\t= \t/usr/bin/blanks.sh wait",
    "quoted.service": 'ExecStart="/usr/bin/quoted.sh"  wait',
    "bash.service": 'ExecStart=/usr/bin/bash -c "/usr/bin/bash.sh wait"',
    "sh.service": "ExecStart = -/bin/sh -ec 'exec /usr/bin/sh.sh wait; true'",
    "script.service": "ExecStart=/bin/bash /usr/bin/script.sh wait",
}
OTHERS = {
    "ssh.service": "ExecStart=/usr/sbin/sshd -D",
    "start.service": "ExecStartPre=/usr/bin/start.sh wait",
    "waiter.service": "ExecStart=/usr/bin/waiter.sh waits",
    "disabled.service": "#ExecStart=/usr/bin/disabled.sh wait",
    "shell.service": "ExecStart=/usr/bin/bash -c 'sleep 1; wait'",
}


def test_each_unit_that_waits_for_a_container_tells_when_it_ends(bin_: Bin, tmp_path: Path) -> None:
    units, made = tmp_path / "units", tmp_path / "made"
    units.mkdir()
    for name, line in {**WAITS, **OTHERS}.items():
        (units / name).write_text(f"[Service]\n{line}\n")
    generator = ROOT / "packaging/systemd/kubesyncd-features"
    assert bin_.run(generator, str(made), KUBESYNCD_UNIT_FOLDERS=str(units)) == (0, "")
    dropins = {file.parent.name: file.read_text().splitlines() for file in made.glob("*/20-kubesyncd.conf")}
    assert dropins.keys() == {f"{name}.d" for name in WAITS}
    for lines in dropins.values():
        # systemd makes `swss0` of swss@0.service, and no failure of it is the unit's.
        assert "ExecStopPost=-/usr/bin/container unit-ended %p%i" in lines[lines.index("[Service]") :]


# ---- what a removal leaves in our place ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "docker"),
    [
        ("start snmp", "start snmp"),
        ("stop -t 5 snmp", "stop -t 5 snmp"),
        ("kill --no-kubelet-check -s TERM snmp", "kill -s TERM snmp"),
        ("kill snmp --no-kubelet-check", "kill snmp"),
        ("wait snmp", "wait snmp"),
        ("inspect -f x snmp", "inspect -f x snmp"),
        ("exec -i snmp ls -l", "exec -i snmp ls -l"),
        ("id snmp", "inspect --type container --format {{.Id}} snmp"),
    ],
)
def test_without_us_docker_does_it(bin_: Bin, words: str, docker: str) -> None:
    bin_.add("docker", "exit 7")
    assert bin_.run(LIB / "container-without", *words.split()) == (7, "")
    assert bin_.called() == [f"docker {docker}"]


def test_the_end_of_a_unit_is_nothing_to_docker(bin_: Bin) -> None:
    bin_.add("docker")
    assert bin_.run(LIB / "container-without", "unit-ended", "snmp") == (0, "")
    assert bin_.called() == []


@pytest.mark.parametrize("words", ["", "state snmp up", "--help"])
def test_a_command_that_docker_lacks_fails_without_kubesyncd(bin_: Bin, words: str) -> None:
    bin_.add("docker")
    code, said = bin_.run(LIB / "container-without", *words.split())
    assert (code, bin_.called()) == (69, [])
    assert said.startswith("container: kubesyncd has been removed")


# ---- the start hook -----------------------------------------------------------------------------


@pytest.fixture
def hook(bin_: Bin) -> Path:
    """The start hook beside a `say` that returns what is in `codes`, one after the other."""
    shutil.copy(ROOT / "etc/container/start-hook", bin_.folder)
    answer = 'read -r code <"$0.codes"; sed -i 1d "$0.codes"; exit "$code"'
    bin_.add("say", answer)
    bin_.add("sleep")
    return bin_.folder / "start-hook"


def answers(hook: Path, *codes: int) -> None:
    (hook.parent / "say.codes").write_text("".join(f"{code}\n" for code in codes))


@pytest.mark.parametrize("code", [0, 69, 75, 126])
def test_a_local_container_goes_on_whatever_fails(bin_: Bin, hook: Path, code: int) -> None:
    answers(hook, code)
    assert bin_.run(hook, "snmp", RUNTIME_OWNER="local") == (0, "")
    assert bin_.called() == ["say snmp up local"]


def test_a_container_that_wrongly_says_local_waits_as_what_it_is(bin_: Bin, hook: Path) -> None:
    answers(hook, 77, 69, 77, 0)
    assert bin_.run(hook, "snmp", RUNTIME_OWNER="local") == (0, "")
    assert bin_.called() == [
        "say snmp up local",
        "say snmp up",
        "sleep 5",
        "say snmp up",
        "sleep 5",
        "say snmp up",
    ]


def test_a_deployed_container_asks_until_it_gets_an_answer(bin_: Bin, hook: Path) -> None:
    answers(hook, 69, 77, 0)
    assert bin_.run(hook, "snmp") == (0, "")
    assert [call for call in bin_.called() if call != "sleep 5"] == ["say snmp up kube"] * 3


# ---- the check for monit ------------------------------------------------------------------------

TOP = r"printf 'PID    COMMAND\n%s\n' '12     /usr/sbin/snmpd -f -Ls4d' '99     python3 /usr/bin/it'"


def checks(bin_: Bin, command: str = "/usr/sbin/snmpd", *, id_: str, top: str, ps: str) -> tuple[int, str]:
    """What process-check says where `container id`, `docker top` and `docker ps` do so."""
    bin_.add("container", id_)
    bin_.add("docker", f"case $1 in top) {top} ;; ps) {ps} ;; esac")
    return bin_.run(LIB / "process-check", "snmp", command)


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("/usr/sbin/snmpd", (0, "")),
        ("/usr/sbin/snmpd -f", (0, "")),
        ("python3 /usr/bin/it", (0, "")),
        ("/usr/sbin/lldpd", (3, "snmp: /usr/sbin/lldpd does not run\n")),
        ("*", (3, "snmp: * does not run\n")),
    ],
)
def test_a_process_is_found_by_how_its_command_line_begins(
    bin_: Bin, command: str, result: tuple[int, str]
) -> None:
    assert checks(bin_, command, id_="echo abc", top=TOP, ps="exit 9") == result
    assert "docker top abc -eo pid,args" in bin_.called()


NOT_RUNNING = "echo 'Error response from daemon: container abc is not running' >&2; exit 1"


@pytest.mark.parametrize(
    ("id_", "top", "ps"),
    [
        ("echo 'container: snmp: no container runs' >&2; exit 1", "exit 9", "echo def bgp"),
        ("echo abc", NOT_RUNNING, "echo def bgp"),
        ("echo snmp", NOT_RUNNING, "echo def snmp1"),
    ],
)
def test_the_check_passes_a_feature_without_a_running_container(
    bin_: Bin, id_: str, top: str, ps: str
) -> None:
    assert checks(bin_, id_=id_, top=top, ps=ps) == (0, "")


@pytest.mark.parametrize(
    ("id_", "top", "ps", "why"),
    [
        ("echo 'container: snmp: no answer' >&2; exit 75", "exit 9", "exit 9", "container: snmp: no answer"),
        ("echo 'container: snmp: not there' >&2; exit 69", "exit 9", "exit 9", "container: snmp: not there"),
        ("echo abc", "echo 'ps: broken' >&2; exit 1", "echo abc k8s_snmp", "ps: broken"),
        ("echo snmp", "echo 'ps: broken' >&2; exit 1", "echo abc snmp", "ps: broken"),
        ("exit 1", "exit 9", "echo 'Cannot connect' >&2; exit 1", "Cannot connect"),
    ],
)
def test_a_failed_check_does_not_count_as_a_running_process(
    bin_: Bin, id_: str, top: str, ps: str, why: str
) -> None:
    assert checks(bin_, id_=id_, top=top, ps=ps) == (1, f"snmp: {why}\n")
