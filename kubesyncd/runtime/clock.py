"""Read the time since boot and the ID of the boot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def boottime() -> float:
    """Return the seconds since boot, including suspend; independent of changes of the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id(path: Path) -> str:
    """Return the ID of this boot from the kernel's file `path`."""
    return path.read_text().strip()
