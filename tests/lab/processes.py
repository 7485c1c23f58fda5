"""Read what /proc says of a process. Knows nothing of kubesyncd.

`tests/lab/systemctl.py` starts often and must stand alone: it reads /proc itself.
"""

from __future__ import annotations

import re
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


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal. Raises OSError for one that is gone."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    # The lowest bit is signal 1's.
    return bool((int(caught[1], 16) << 1) >> number & 1)


def alive(pid: int) -> bool:
    """Whether a process runs; one that its parent has not collected yet does not."""
    try:
        return stat_of(pid).state not in ("Z", "X")
    except OSError:
        return False
