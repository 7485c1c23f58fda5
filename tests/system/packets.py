"""Drop packets between a switch and one server of this machine with the kernel's packet filter.

Neither side is told: connections stay open, what is sent is never acknowledged, new ones are never answered. Rules
are for one TCP port of the loopback, and gone afterwards. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


def missing_for_packets() -> str:
    """What this machine lacks for it; empty: nothing. No installation gives the right to filter packets."""
    if shutil.which("iptables") is None:
        return "iptables is not installed (make engines)"
    try:
        _iptables("-S", "INPUT")
    except (subprocess.CalledProcessError, OSError):
        return "the kernel does not let us filter packets"
    return ""


@contextlib.contextmanager
def packets_lost(url: str) -> Iterator[None]:
    """Packets to and from the server at `url` vanish."""
    rules = [
        ["INPUT", "-i", "lo", "-p", "tcp", way, str(urlsplit(url).port), "-j", "DROP"]
        for way in ("--dport", "--sport")
    ]
    with contextlib.ExitStack() as undo:
        for rule in rules:
            _iptables("-I", *rule)
            undo.callback(_iptables, "-D", *rule)
        yield


def _iptables(*words: str) -> None:
    # -w: another program may hold the tables' lock for a moment.
    subprocess.run(["iptables", "-w", "60", *words], check=True, capture_output=True, timeout=120)
