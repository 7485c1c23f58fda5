"""Read the time since boot and the ID of the boot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.settings import Settings


def boottime() -> float:
    """Return the seconds since boot, including suspend; independent of changes of the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id(settings: Settings) -> str:
    """Return the ID of this boot."""
    return Path(settings.paths.boot_id).read_text().strip()
