"""Stand for SONiC's system-health daemon: the part of its package `health_checker` that judges containers.

This project's own writing. The same names and rules as in SONiC: expected is each FEATURE row that is not disabled; a
container counts by its name, unless its label says that it is in namespace `sonic`; for each container whose critical
processes are known, `docker exec NAME` asks supervisord. What is wrong is printed, a line each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

UTILS = """import subprocess

def run_command(command, timeout=None):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=timeout)
    return done.stdout if done.returncode == 0 else None
"""
CHECKER = r"""import subprocess
from . import utils

class ServiceChecker:
    def __init__(self, processes):
        self.container_critical_processes = dict(processes)

    def get_expected_running_containers(self, feature_table):
        names = {n for n, row in feature_table.items() if row["state"] not in ("disabled", "always_disabled")}
        return names, {n: n for n in names}

    def get_current_running_containers(self):
        shown = "{{.Names}} {{.Label \"io.kubernetes.pod.namespace\"}}"
        lines = subprocess.run(["docker", "ps", "--format", shown], capture_output=True, text=True).stdout
        found = [line.split(" ") for line in lines.splitlines()]
        return {name for name, *namespace in found if namespace != ["sonic"]}

    def check_services(self, feature_table):
        expected, _ = self.get_expected_running_containers(feature_table)
        for name in sorted(expected - self.get_current_running_containers()):
            print(f"Container '{name}' is not running")
        for name, processes in self.container_critical_processes.items():
            said = utils.run_command(f'docker exec {name} bash -c "supervisorctl status"', timeout=15)
            rows = dict(line.split()[:2] for line in (said or "").splitlines())
            for process in processes:
                if said is None or rows.get(process, "RUNNING") != "RUNNING":
                    print(f"Process '{process}' in container '{name}' is not running")
"""
HEALTHD = """import json, sys
from health_checker.service_checker import ServiceChecker

ServiceChecker(json.loads({processes!r})).check_services(json.loads({table!r}))
"""


def package(folder: Path) -> None:
    """Write the package `health_checker` into a folder of Python's path."""
    into = folder / "health_checker"
    into.mkdir(parents=True)
    for name, text in (("__init__", ""), ("utils", UTILS), ("service_checker", CHECKER)):
        (into / f"{name}.py").write_text(text)


def healthd(table: str, processes: str = "{}") -> str:
    """The daemon's program: one look, at this FEATURE table and with these critical processes (JSON)."""
    return HEALTHD.format(table=table, processes=processes)
