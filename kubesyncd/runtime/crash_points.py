"""After which effect does this process die? For crash tests only; everywhere else it lives.

Daemon and commands count their effects: a container ended, an image tagged, a file replaced, a label taken.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = "KUBESYNCD_CRASH_AFTER"


def crash_after(environ: Mapping[str, str]) -> Callable[[], None]:
    """To be called after each effect: `KUBESYNCD_CRASH_AFTER=n` ends the process, without any goodbye, at the n-th."""
    left = environ.get(VARIABLE, "")
    if not left.isdecimal():
        return lambda: None
    effects = iter(range(int(left), 0, -1))

    def count() -> None:
        if next(effects, 1) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return count
