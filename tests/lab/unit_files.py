"""Stand in for systemctl with unit files: enable, start and stop services below a folder.

    python -IS tests/lab/unit_files.py ROOT FOLDER VERB UNIT

ROOT has the unit files, and the programs they name; FOLDER remembers: `enabled/NAME`, `active/NAME`, and `calls`.
A start runs ExecStartPre and a stop ExecStop, in the caller's environment. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDERS = ("usr/local/lib/systemd/system", "lib/systemd/system")
LIMIT_S = 300.0


def main(root: Path, folder: Path, words: list[str]) -> int:
    """Do as told; returns systemctl's exit code."""
    verb, name = words[0], words[-1].removesuffix(".service")
    for made in ("enabled", "active"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    enabled, active = folder / "enabled" / name, folder / "active" / name
    unit = next((at for at in (root / f / f"{name}.service" for f in FOLDERS) if at.exists()), None)
    if verb == "daemon-reload":
        return 0
    if verb == "is-active":
        return 0 if active.exists() else 3
    if verb == "is-enabled":
        return 0 if enabled.exists() else 1
    if unit is None:
        return 0 if verb in ("reset-failed", "disable") else 5
    match verb:
        case "reenable" | "enable":
            enabled.touch()
        case "disable":
            enabled.unlink(missing_ok=True)
        case "restart" | "start":
            active.touch()
            return program(root, unit, "ExecStartPre")
        case "stop":
            if active.exists():
                program(root, unit, "ExecStop")
            active.unlink(missing_ok=True)
    return 0


def program(root: Path, unit: Path, key: str) -> int:
    """Run what the unit names after `key`, as found below `root`; its exit code."""
    for line in unit.read_text().splitlines():
        if line.startswith(f"{key}="):
            words = line.partition("=")[2].split()
            command = [str(root / words[0].lstrip("/")), *words[1:]]
            return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
