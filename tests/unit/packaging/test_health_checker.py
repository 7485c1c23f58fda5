"""Check what SONiC's system-health daemon says of features when it is started by health-checker.

The stand-in of its package (tests/lab/system_health.py) asks the same questions of Docker, and has the same rules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab import system_health
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = ROOT / "packaging/lib/health-checker"
KUBE = "c3a1c3a1c3a1"
TABLE = json.dumps(
    {"snmp": {"state": "enabled"}, "lldp": {"state": "always_enabled"}, "nat": {"state": "disabled"}}
)
DOCKER = """#!/bin/sh
echo "docker $*" >>"$CALLS"
case $1 in
ps) printf 'lldp \\nk8s_snmp_snmp-1_sonic_uid_0 sonic\\n' ;;
exec) [ "$2" = lldp ] && echo 'lldpd RUNNING pid 7' ;;
esac
"""
DB = """#!/bin/sh
[ "$1 $2 $3" = "STATE_DB HGET FEATURE|snmp" ] || exit 0
case $4 in current_owner) echo "$OWNER" ;; container_id) echo "$ID" ;; esac
"""


def says(tmp_path: Path, *, by: Path | None, owner: str = "kube", container_id: str = KUBE) -> list[str]:
    """What the daemon prints, started by itself or `by` our program."""
    system_health.package(tmp_path / "lib")
    (tmp_path / "bin").mkdir()
    for name, text in (("docker", DOCKER), ("sonic-db-cli", DB)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    daemon = tmp_path / "healthd"
    daemon.write_text(system_health.healthd(TABLE, json.dumps({"lldp": ["lldpd"]})))
    command = [sys.executable, *([str(by)] if by else []), str(daemon)]
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "lib"),
        "CALLS": str(tmp_path / "calls"),
        "OWNER": owner,
        "ID": container_id,
    }
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_feature_that_kubernetes_runs_counts_as_running(tmp_path: Path) -> None:
    assert says(tmp_path, by=PROGRAM) == []


def test_sonics_checker_alone_calls_it_not_running(tmp_path: Path) -> None:
    assert says(tmp_path, by=None) == ["Container 'snmp' is not running"]


@pytest.mark.parametrize(
    ("owner", "container_id"), [("none", ""), ("local", "snmp"), ("kube", ""), ("kube", "None"), ("", "")]
)
def test_a_feature_that_waits_for_its_deployment_does_not_run(
    tmp_path: Path, owner: str, container_id: str
) -> None:
    said = says(tmp_path, by=PROGRAM, owner=owner, container_id=container_id)
    assert said == ["Container 'snmp' is not running"]


def test_its_processes_are_looked_for_in_the_container_that_kubernetes_runs(tmp_path: Path) -> None:
    code = PROGRAM.read_text()
    names: dict[str, object] = {"__name__": "health_checker_program"}
    exec(compile(code, str(PROGRAM), "exec"), names)
    asked: list[str] = []

    class Checker:
        def get_expected_running_containers(self, _table: object) -> tuple[set[str], dict[str, str]]:
            return {"snmp", "lldp"}, {}

        def get_current_running_containers(self) -> set[str]:
            return {"lldp"}

    class Utils:
        @staticmethod
        def run_command(command: str, timeout: int = 0) -> str:
            asked.append(f"{command} {timeout}")
            return ""

    names["run_by_kube"] = lambda name: name == "snmp"
    names["teach"](Checker, Utils)  # type: ignore[operator]
    checker = Checker()
    checker.get_expected_running_containers({})
    assert checker.get_current_running_containers() == {"snmp", "lldp"}
    for name in ("snmp", "lldp"):
        Utils.run_command(f"docker exec {name} bash -c 'supervisorctl status'", timeout=15)
    Utils.run_command("monit summary -B")
    assert asked == [
        "/usr/bin/container exec snmp bash -c 'supervisorctl status' 15",
        "docker exec lldp bash -c 'supervisorctl status' 15",
        "monit summary -B 0",
    ]


@pytest.mark.parametrize("text", ["", "class ServiceChecker:\n    pass\n"])
def test_a_checker_of_another_form_runs_as_it_is(tmp_path: Path, text: str) -> None:
    system_health.package(tmp_path)
    (tmp_path / "health_checker/service_checker.py").write_text(text)
    (tmp_path / "healthd").write_text("print('looked')")
    command = [sys.executable, str(PROGRAM), str(tmp_path / "healthd")]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "looked\n")
