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
    for folder in folders:
        with suppress(OSError, ValueError):
            for pid in _holders(folder):
                if _counts(pid):
                    return int(pid)
    return 0


def only_strangers_hold(folder: Path) -> bool:
    """Return whether no process that locks the folder can be a daemon; False where that is not known."""
    try:
        return not any(_counts(pid) for pid in _holders(folder))
    except (OSError, ValueError):
        return False


def ask_to_look(pid: int) -> None:
    """Ask the daemon to look at its sockets; without the right to, it does so by itself a little later."""
    with suppress(OSError):
        os.kill(pid, LOOK)


def _holders(folder: Path) -> list[str]:
    """Return the processes that hold a lock on the folder. Raises OSError, ValueError."""
    at = folder.stat()
    place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    lines = map(str.split, LOCKS.read_text(encoding="ascii").splitlines())
    return [words[4] for words in lines if words[1:2] == ["FLOCK"] and words[5:6] == [place]]


def _counts(pid: str) -> bool:
    """Return whether the process is root's or the caller's own: any user could lock the folder. Raises OSError.

    The process that took the lock may have ended, and left it to a child: a daemon does not do so.
    """
    try:
        return Path(f"/proc/{pid}").stat().st_uid in (0, os.geteuid())
    except FileNotFoundError:
        return False
