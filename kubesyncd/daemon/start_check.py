"""Check all that can keep the daemon from its start: the settings file, and what on this switch contradicts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd import settings
from kubesyncd.runtime.clock import boot_id

if TYPE_CHECKING:
    from kubesyncd.settings import CheckedSettings


def check_start(path: Path, *, required: bool) -> CheckedSettings:
    """Read the settings file and find all errors. Raises SettingsError where a `required` file is missing."""
    found = settings.read(path, required=required)
    file = Path(found.settings.paths.boot_id)
    try:
        if boot_id(file):
            return found
        why = "the file is empty"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "the file is not text"
    problem = f"{path}: [paths] boot_id = {str(file)!r}; allowed: a file with the ID of this boot ({why})"
    return replace(found, problems=(*found.problems, problem))
