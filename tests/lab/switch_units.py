"""Keep a virtual switch's units, and call its systemctl (tests/lab/systemctl.py)."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from tests.lab.switch_daemon import PATIENCE_S
from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LAB = ROOT / "tests" / "lab"
PYTHON = "/usr/bin/python3"
KUBELET = "kubelet.service"


class SwitchUnits:
    """The units in `folder`; `systemctl`: the command that the daemon calls."""

    def __init__(self, folder: Path) -> None:
        self.systemctl = [PYTHON, "-IS", str(LAB / "systemctl.py"), str(folder)]
        self._folder = folder

    def call(self, *arguments: str) -> int:
        """Call systemctl as the daemon does; its exit code."""
        command = [*self.systemctl, *arguments]
        return subprocess.run(command, check=False, capture_output=True, timeout=PATIENCE_S).returncode

    @property
    def calls(self) -> list[str]:
        """Each call of systemctl, in order, that may change something; looks (is-active, show) are left out."""
        looks = ("is-active ", "show ")
        return [call for call in self.all_calls if not call.startswith(looks)]

    @property
    def all_calls(self) -> list[str]:
        """Each call of systemctl, in order."""
        file = self._folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def kubelet_runs(self) -> bool:
        """Whether the kubelet's unit is active."""
        return self.call("is-active", KUBELET) == 0

    def add(self, name: str, unit: dict[str, Any]) -> None:
        """Have a unit, in the words of tests/lab/systemctl.py."""
        (self._folder / "units" / f"{name}.json").write_text(json.dumps(unit))

    def add_script(self, name: str, command: list[str]) -> None:
        """Have a unit that runs this command from the checkout's root."""
        pid_file = str(self._folder / f"{name.removesuffix('.service')}.pid")
        self.add(name, {"command": command, "cwd": str(ROOT), "pid_file": pid_file})

    def names(self) -> set[str]:
        """All units."""
        return {unit.stem for unit in (self._folder / "units").iterdir()}

    def stop(self, units: Iterable[str]) -> None:
        """Stop these, in order."""
        # A test may have made systemctl fail.
        (self._folder / "fails").unlink(missing_ok=True)
        for unit in units:
            code = self.call("stop", unit)
            assert code == 0, f"systemctl stop {unit}: exit code {code}"
