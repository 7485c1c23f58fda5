"""Read from the boot's mark which field names the last start of the daemon used.

The daemon writes the mark (features.boot_mark); it and the operators' commands read it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# In the state folder.
FILE = "boot.json"
BYTES_MAX = 64 * 1024


def used_hld(state_dir: Path) -> bool:
    """Return whether it used the design document's; they were the default before a mark told the names."""
    try:
        with (state_dir / FILE).open("rb") as content:
            tree = json.loads(content.read(BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get("names") != "sonic"
