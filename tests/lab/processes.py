"""Read what /proc says of a process. Knows nothing of kubesyncd.

`tests/lab/systemctl.py` starts often and must stand alone: it reads /proc itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Stat(NamedTuple):
    """What tests use of /proc/PID/stat."""

    state: str
    parent: int
    session: int
    terminal: int


def stat_of(pid: int) -> Stat:
    """Raises OSError for a process that is gone."""
    state, parent, _, session, terminal, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Stat(state, int(parent), int(session), int(terminal))


def alive(pid: int) -> bool:
    """Whether a process runs; one that its parent has not collected yet does not."""
    try:
        return stat_of(pid).state not in ("Z", "X")
    except OSError:
        return False
