"""Share work between the worker processes of one test run.

Each pytest-xdist worker has session fixtures of its own. What is expensive to make and never changed afterwards is
made by the first worker that needs it; the others wait for it. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

Made = TypeVar("Made")


# Whoever holds one of these locks builds a root file system at the longest.
LOCK_S_MAX = 1800.0


@contextmanager
def locked(file: Path, limit_s: float = LOCK_S_MAX) -> Iterator[None]:
    """Hold the lock `file` against every other process; a process that dies lets go of it. Raises TimeoutError."""
    deadline = time.monotonic() + limit_s
    with file.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{file} has been locked for {limit_s:g} s; see who holds it: fuser -v {file}"
                    ) from None
            time.sleep(0.1)
        yield


def once_per_run(
    factory: pytest.TempPathFactory,
    name: str,
    make: Callable[[Path], Made],
    found: Callable[[Path], Made],
) -> Made:
    """What `make` puts into the folder `name` of this run, made by the first worker that asks.

    The others get it by `found`. A `make` that raises is tried again by the next worker.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / f"once-{name}", shared / f"once-{name}.done"
    with locked(shared / f"once-{name}.lock"):
        if done.exists():
            return found(folder)
        folder.mkdir(exist_ok=True)
        made = make(folder)
        done.touch()
        return made
