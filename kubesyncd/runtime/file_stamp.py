"""Tell whether a file has been replaced. Imports no asyncio: an operator's commands use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """Return a value that differs after each replacement of the file; None: it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    # A new file has another inode or another time.
    return found.st_ino, found.st_mtime_ns, found.st_size
