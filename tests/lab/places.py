"""Say where the files of tests, demo and benches go: on disk, and in memory.

A test run has folders of its own, named by `RUN` in the environment, so that what it leaves behind is found and
parallel runs do not meet. Without one, the machine's usual places are used. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

RUN = "KUBESYNCD_TEST_RUN"
"""The environment variable with the name of the test run; every process of the run inherits it."""
# Overlays need a file system that is not itself an overlay or memory.
DISK, MEMORY = Path("/var/tmp"), Path("/dev/shm")
UMOUNT_S_MAX = 180


def memory_folder(prefix: str) -> Path:
    """A new folder in memory, as a switch's /run is; on disk where the machine offers no memory."""
    if os.access(MEMORY, os.W_OK):
        return _made(prefix, MEMORY)
    return Path(tempfile.mkdtemp(prefix=prefix))


def disk_folder(prefix: str) -> Path:
    """A new folder on a disk that overlays can lie on."""
    return _made(prefix, DISK)


def _made(prefix: str, place: Path) -> Path:
    if run := os.environ.get(RUN):
        place /= run
        place.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place))


def mounts_below(folder: Path) -> list[str]:
    """Mount points in `folder` or at it, the innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in reversed(points) if Path(point).is_relative_to(folder)]


def remove(folder: Path) -> None:
    """Remove a folder, and first what engines have mounted in it.

    Raises OSError where something of it cannot be removed.
    """
    for point in mounts_below(folder):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True, timeout=UMOUNT_S_MAX)
    if folder.exists():
        shutil.rmtree(folder)
