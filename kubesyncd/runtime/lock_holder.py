"""Find the daemon that runs, by the lock that it holds on its folders."""

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


def lock_holder(folders: Iterable[Path]) -> int:
    """Return the process of root, or of the caller, that holds a lock on one of the folders; 0 without one."""
    try:
        lines = [line.split() for line in LOCKS.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return 0
    for folder in folders:
        with suppress(OSError, ValueError):
            at = folder.stat()
            place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
            for words in lines:
                if words[1:2] == ["FLOCK"] and words[5:6] == [place] and _counts(words[4]):
                    return int(words[4])
    return 0


def ask_to_look(pid: int) -> None:
    """Ask the daemon to look at its sockets; without the right to, it does so by itself a little later."""
    with suppress(OSError):
        os.kill(pid, LOOK)


def _counts(pid: str) -> bool:
    """Return whether the process is root's or the caller's own: any user could lock the folder. Raises OSError."""
    return Path(f"/proc/{pid}").stat().st_uid in (0, os.geteuid())
