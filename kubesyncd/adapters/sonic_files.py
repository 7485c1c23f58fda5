"""Read SONiC's version and its names of images from two of its files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BYTES_MAX = 64 * 1024
_BUILD = re.compile(r"^build_version:\s*['\"]?([^'\"\n]*?)['\"]?\s*$", re.MULTILINE)


def os_version(file: Path) -> str:
    """Return the build version in SONiC's version file; empty without such a file."""
    try:
        with file.open("rb") as content:
            found = _BUILD.search(content.read(BYTES_MAX).decode(errors="replace"))
    except OSError:
        return ""
    return found[1] if found is not None else ""


def image_name(file: Path, feature: str) -> str:
    """Return the name (without a tag) of a feature's image, by SONiC's list; empty where it is not listed."""
    try:
        with file.open("rb") as content:
            listed = json.loads(content.read(BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return ""
    found = listed.get(feature, "") if isinstance(listed, dict) else ""
    return found if isinstance(found, str) else ""
