"""Read what /proc says of a process. Knows nothing of kubesyncd.

`tests/lab/systemctl.py` starts often and must stand alone: it reads /proc itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import NamedTuple

from tests.wait import until


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


def freeze(pid: int) -> None:
    """Stop a process with SIGSTOP, and return once none of its threads runs.

    The signal waits until one thread takes it: on a busy machine the others go on answering meanwhile.
    Raises OSError for a process that is gone.
    """
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _thread_states(pid) == {"T"}, f"process {pid} is stopped", pause_s=0.001)


def _thread_states(pid: int) -> set[str]:
    states = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # One may end while the others are looked at.
        with contextlib.suppress(OSError):
            states.add(stat_of(int(thread.name)).state)
    return states
