"""Run the programs that an operator has installed in folders below the hooks' directory.

Knows files, modes and how to run a program; does not know the purpose of a hook.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from kubesyncd.ports import Ran, Refused, Unavailable
from kubesyncd.runtime.processes import NotStarted, last_line, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kubesyncd.runtime.processes import Ended

SERVICE = "hooks"
HOOKS_MAX = 256
TEXT_MAX = 200
# Leftovers of editors and package managers are not hooks.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")
_LEFT_BEHIND = (".dpkg-old", ".dpkg-new", ".dpkg-dist", ".bak", ".orig", ".rpmsave")


class HookFolders:
    """ports.Hooks under `root`.

    `left_out` gets the path of each file at each look, and why it is not a hook to run; an empty reason: it is one.
    """

    def __init__(self, root: Path, left_out: Callable[[str, str], object]) -> None:
        self._root = root
        self._left_out = left_out

    def names(self, folder: str) -> tuple[str, ...]:
        """See ports.Hooks. A folder that does not exist has none."""
        try:
            with os.scandir(self._root / folder) as entries:
                found = sorted((entry for entry in entries if _is_name(entry.name)), key=lambda e: e.name)
        except OSError:
            return ()
        return tuple(entry.name for entry in found[:HOOKS_MAX] if self._may_run(entry))

    async def run(self, folder: str, name: str, arguments: tuple[str, ...], seconds: float) -> Ran:
        """See ports.Hooks."""
        command = (str(self._root / folder / name), *arguments)
        try:
            ended = await run(command, seconds, SERVICE)
        except NotStarted as error:
            raise Refused(SERVICE, error.detail) from error
        except Unavailable:
            return Ran(-1, f"it did not end within {seconds:g} s", ended=False)
        return Ran(ended.code, _text(ended))

    def _may_run(self, entry: os.DirEntry[str]) -> bool:
        """Return whether the file is a program that only root (or kubesyncd) could have written."""
        why = ""
        try:
            status = entry.stat()
        except OSError as error:
            why = f"it cannot be checked: {error.strerror}"
        else:
            if not stat.S_ISREG(status.st_mode):
                return False
            if not status.st_mode & 0o100:
                why = "it is not executable; chmod 755 it"
            elif status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
                why = "users other than root may write it; chown root and chmod 755 it"
        self._left_out(entry.path, why)
        return not why


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(_LEFT_BEHIND)


def _text(ended: Ended) -> str:
    """Return the last line that the program wrote, on standard error where it wrote there."""
    written = last_line(ended.err, TEXT_MAX) or last_line(ended.out, TEXT_MAX)
    return written or f"it ended with code {ended.code}"
