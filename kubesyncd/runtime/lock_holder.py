"""Find the daemon that runs, by the lock that it holds on its folders. `clients/client.py` finds it in the same way."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCKS = Path("/proc/locks")
# To a daemon: look at the sockets. A process that does not expect it ignores it.
LOOK = signal.SIGURG
# A process holds the lock, or may hold it, and which one is not known.
UNKNOWN = -1


def lock_holder(folders: Iterable[Path]) -> int:
    """Return the process that holds the daemon's lock on one of the folders.

    0: none does; UNKNOWN. Only its owner can lock a private folder. One that all may open any user could lock: there,
    root's lock counts, and one's own.
    """
    for folder in folders:
        try:
            at = folder.stat()
        except OSError:
            continue
        private = _is_private(at)
        try:
            for pid in _locked_by(at):
                if private or _owner_of(pid) in (0, os.geteuid()):
                    return pid or UNKNOWN
        except (OSError, ValueError):
            return UNKNOWN
    return 0


def ask_to_look(pid: int) -> None:
    """Ask the daemon to look at its sockets; without the right to, it does so by itself a little later."""
    if pid > 0:
        with suppress(OSError):
            os.kill(pid, LOOK)


def _is_private(at: os.stat_result) -> bool:
    """Return whether only its owner may open the folder; others may look up a file in it."""
    return not at.st_mode & 0o044


def _locked_by(at: os.stat_result) -> list[int]:
    """Return the processes that hold a lock on the file with this stat. Raises OSError, ValueError."""
    place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    lines = map(str.split, LOCKS.read_text(encoding="ascii").splitlines())
    return [int(words[4]) for words in lines if words[1:2] == ["FLOCK"] and words[5:6] == [place]]


def _owner_of(pid: int) -> int:
    """Return the user of a process; -1 where it has ended: a daemon holds its lock itself. Raises OSError."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return -1
