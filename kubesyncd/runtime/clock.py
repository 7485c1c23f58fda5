"""Tell how long this boot has lasted, and which boot it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubesyncd.settings import Settings


def boottime() -> float:
    """Seconds since boot, suspended ones included; no change of the wall clock moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id(settings: Settings) -> str:
    """Which boot this is."""
    return Path(settings.paths.boot_id).read_text().strip()
