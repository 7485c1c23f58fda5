"""Check that the lab's systemctl carries out one change of a unit after the other, as systemd does."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

from tests.lab.processes import alive
from tests.lab.switch_units import SwitchUnits

if TYPE_CHECKING:
    from pathlib import Path

CALLS = ("start", "restart", "start", "restart", "enable", "restart")


def test_a_unit_that_several_start_at_once_runs_once(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    units = SwitchUnits(tmp_path)
    command = ["sh", "-c", f"echo $$ >>{tmp_path}/begun; exec sleep 600"]
    units.add("x.service", {"command": command, "cwd": str(tmp_path), "pid_file": str(tmp_path / "x.pid")})
    calls = [subprocess.Popen([*units.systemctl, verb, "x.service"]) for verb in CALLS]
    assert [call.wait(120) for call in calls] == [0] * len(CALLS)
    assert units.call("stop", "x.service") == 0
    begun = (tmp_path / "begun").read_text().split()
    running = [pid for pid in begun if alive(int(pid))]
    for pid in running:
        os.kill(int(pid), signal.SIGKILL)
    assert running == []
