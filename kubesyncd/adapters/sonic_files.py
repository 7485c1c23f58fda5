"""Read SONiC's version and its names of images from two of its files, and what the version file decides."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.runtime.boot_mark_file import used_hld

if TYPE_CHECKING:
    from kubesyncd.settings import Settings

# Files of ctrmgrd: on a switch that has one, ctrmgrd may have managed the features.
CTRMGRD_UNIT = "/lib/systemd/system/ctrmgrd.service"
CTRMGRD_SETTINGS = "/etc/sonic/remote_ctr.config.json"
BYTES_MAX = 64 * 1024
_BUILD = re.compile(r"^build_version:\s*['\"]?([^'\"\n]*?)['\"]?\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FieldNames:
    """The field names that kubesyncd uses in the databases: `hld` or `sonic`; `why`: what decides that.

    `kept`: they are the design document's only because this switch has used them before.
    """

    names: str
    why: str
    kept: bool = False


def field_names(settings: Settings) -> FieldNames:
    """Return the field names by `[schema] names`; `auto` is decided by whether SONiC's version file exists.

    But a switch that has used the design document's keeps them: an absent field means something else in the other
    spelling, so fallback would change without a word. The daemon, the jobs and the operators' commands all ask here.
    """
    wanted, file = settings.schema.names, settings.paths.sonic_version
    if wanted != "auto":
        return FieldNames(wanted, f'[schema] names = "{wanted}"')
    if not os.path.exists(file):  # Path.exists raises where the folder cannot be searched
        return FieldNames("hld", f"{file} does not exist")
    if used_hld(Path(settings.paths.state_dir)):
        return FieldNames("hld", "this switch has used them before", kept=True)
    return FieldNames("sonic", f"{file} exists")


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
