"""Note outside the ledger that a boot has one, so that a lost ledger is not taken for the first start of the boot.

The mark is a file in the state folder, on another file system than the ledger, with the ID of the boot in which the
ledger was written last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from kubesyncd.core.revision import BOOTS
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from kubesyncd.ports import DurableFile

# In the state folder.
BOOT_MARK_FILE = "boot.json"
VERSION = 1


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

    @property
    def number(self) -> int:
        """The boot as a number: two boots in a row hardly share one."""
        return crc32(self.boot_id.encode()) % (BOOTS - 1) + 1

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
