"""Note outside the ledger that a boot has one, so that a lost ledger is not taken for the first start of the boot.

The mark is a file in the state folder, on another file system than the ledger, with the ID of the boot in which the
ledger was written last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kubesyncd.ports import DurableFile

# In the state folder.
BOOT_MARK_FILE = "boot.json"
VERSION = 1
CHECK_S = 3.0
MEANS = "until it can be, no label, no image and no hold of a reboot is stored in its folder"


@dataclass(frozen=True, slots=True)
class _Mark:
    """The file."""

    boot_id: str


class BootMark:
    """The mark, and the boot that it is compared with. Without a file, no boot is marked."""

    def __init__(self, boot_id: str, file: DurableFile | None) -> None:
        self.boot_id = boot_id
        self._file = file
        self._ours: bool | None = False
        self._due = asyncio.Event()

    def load(self) -> bool | None:
        """Return whether this boot has had a ledger; None: not known, because the file cannot be read."""
        try:
            data = None if self._file is None else self._file.load()
            self._ours = data is not None and codec.decode(_Mark, data).boot_id == self.boot_id
        except Undecodable:
            self._ours = False
        except Unavailable:
            self._ours = None
        return self._ours

    def note(self) -> None:
        """Note that this boot has a ledger: the mark may be written."""
        self._due.set()

    async def write(self) -> None:
        """Write the mark once this boot has a ledger. Raises Unavailable.

        It is not a part of the ledger's write: a slow disk under the state folder delays no feature.
        """
        await self._due.wait()
        if self._file is not None and not self._ours:
            await self._file.save(codec.encode(_Mark(self.boot_id), version=VERSION))
            self._ours = True

    async def check(self) -> str:
        """Write the mark again; return why that fails, or an empty string. Before this boot has one, do nothing."""
        if self._file is None or not self._due.is_set():
            return ""
        save = self._file.save(codec.encode(_Mark(self.boot_id), version=VERSION))
        return await why_unwritten(save, "the boot's mark", MEANS)


async def why_unwritten(write: Awaitable[None], what: str, means: str) -> str:
    """Return why this write fails, or an empty string."""
    try:
        async with asyncio.timeout(CHECK_S):
            await write
    except TimeoutError:
        return f"{what} is not written within {CHECK_S:g} s: {means}; see: dmesg"
    except Unavailable as error:
        return with_meaning(error.detail, means)
    return ""


def with_meaning(detail: str, means: str) -> str:
    """Return a failure's text with what it means, before its fix."""
    if means in detail:
        return detail
    happened, _, fix = detail.partition("; ")
    return f"{happened}: {means}; {fix}" if fix else f"{happened}: {means}"
