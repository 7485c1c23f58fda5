"""Find what a test run has left behind: processes, mounts, folders.

`begin` gives a run its name and its folders; every process of the run inherits the name. `found` is asked once all
tests and workers have ended. Linux only, as the product. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
import time
from pathlib import Path

from tests.lab.places import DISK, MEMORY, RUN, mounts_below, remove
from tests.lab.processes import stat_of

# What has been told to end may still be at it.
ENDING_S_MAX = 60.0
NAME = re.compile(r"ksr-(\d+)")
# pytest's own folder below the run's, which holds every `tmp_path`.
BASETEMP = "t"


def begin() -> Path:
    """Give this process's run a name, and folders of its own. Returns the one for temporary files.

    First, runs that failed or were killed are cleared away: their processes end, their folders go. For root these are
    the runs of every user; what belongs to another user stays otherwise, and does not keep this run from beginning.
    """
    for place in (Path(tempfile.gettempdir()), DISK, MEMORY):
        for folder in filter(_abandoned, place.glob("ksr-*")):
            try:
                _clear(folder)
            except OSError as error:
                print(f"the test run cannot remove {folder}, which an earlier one has left: {error}")
    name = f"ksr-{os.getpid()}"
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir()
    os.environ[RUN] = name
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    return folder


def _abandoned(folder: Path) -> bool:
    """Whether the run has ended. One with our number had it before us."""
    number = NAME.fullmatch(folder.name)
    return bool(number) and (int(number[1]) == os.getpid() or not Path("/proc", number[1]).exists())


def _clear(folder: Path) -> None:
    """Raises OSError."""
    deadline = time.monotonic() + ENDING_S_MAX
    while (running := _processes(folder.name)) and time.monotonic() < deadline:
        for pid, _ in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    remove(folder)


def end(folder: Path) -> None:
    """Remove the run's folders."""
    for place in _folders(folder):
        remove(place)


def found(folder: Path) -> list[str]:
    """One line per process, mount and folder of this run that is still there."""
    deadline = time.monotonic() + ENDING_S_MAX
    while (left := _left(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _left(folder: Path) -> list[str]:
    places = _folders(folder)
    files = [f for place in places if place.exists() for f in place.iterdir() if f != folder / BASETEMP]
    return [
        *(f"process {pid}: {command}" for pid, command in _processes(os.environ[RUN])),
        *(f"mount: {point}" for place in places for point in mounts_below(place)),
        *(f"file: {file}" for file in files),
    ]


def _folders(folder: Path) -> tuple[Path, ...]:
    return (folder, DISK / folder.name, MEMORY / folder.name)


def _processes(run: str) -> list[tuple[int, str]]:
    """Number and command of every process of the run.

    Some have an environment of their own, but every socket and file that they know lies in the run's folders. A shell
    or pager of a person who reads these has a terminal.
    """
    mark, inherited = re.compile(rb"\b%s\b" % run.encode()), f"{RUN}={run}".encode()
    running = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            named = command + os.readlink(process / "cwd").encode()
            inherits = inherited in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = inherits or (mark.search(named) and not _has_terminal(int(process.name)))
        if ours and int(process.name) != os.getpid():
            running.append((int(process.name), command.decode(errors="replace")[:200]))
    return sorted(running)


def _has_terminal(pid: int) -> bool:
    try:
        return stat_of(pid).terminal != 0
    except OSError:
        return False
