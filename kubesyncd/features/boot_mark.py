"""Note outside the ledger that a boot has one, so that a lost ledger is not taken for the first start of the boot.

The mark is a file in the state folder, on another file system than the ledger, with the ID of the boot in which the
ledger was written last, whether CONFIG_DB had been loaded by then, and the field names that were used in it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from kubesyncd.core.revision import BOOTS
from kubesyncd.ports import Unavailable
from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kubesyncd.ports import DurableFile

VERSION = 1
CHECK_S = 3.0
MEANS = "until it can be, no label, no image and no hold of a reboot is stored in its folder"


@dataclass(frozen=True, slots=True)
class _Mark:
    """The file."""

    boot_id: str
    config_loaded: bool
    names: str


class BootMark:
    """The mark, and the boot that it is compared with. Without a file, no boot is marked.

    `config_loaded`: what the mark of this boot says of CONFIG_DB; None: not known. `names`: the field names that this
    start of the daemon uses, which the mark is to tell the next one.
    """

    def __init__(self, boot_id: str, file: DurableFile | None) -> None:
        self.boot_id = boot_id
        self.config_loaded: bool | None = None
        self.names = ""
        self._file = file
        self._wanted: bytes | None = None
        self._due = asyncio.Event()

    @property
    def number(self) -> int:
        """The boot as a number: two boots in a row hardly share one."""
        return crc32(self.boot_id.encode()) % (BOOTS - 1) + 1

    def load(self) -> bool | None:
        """Return whether this boot has had a ledger; None: not known, because the file is damaged or cannot be read."""
        try:
            data = None if self._file is None else self._file.load()
            tree = {} if data is None else codec.parse(data)
        except (Unavailable, Undecodable):
            return None
        if data is None:
            return False
        # A newer version's mark names its boot, too.
        boot_id, loaded = tree.get("boot_id"), tree.get("config_loaded")
        if not isinstance(boot_id, str):
            return None
        if boot_id == self.boot_id and isinstance(loaded, bool):
            self.config_loaded = loaded
        return boot_id == self.boot_id

    def note(self, *, config_loaded: bool) -> None:
        """Note that this boot has a ledger, and whether CONFIG_DB has been loaded: the mark may be written."""
        wanted = codec.encode(_Mark(self.boot_id, config_loaded, self.names), version=VERSION)
        if wanted != self._wanted:
            self._wanted = wanted
            self._due.set()

    def check(self) -> None:
        """Have the mark compared with its file, which another program may have removed."""
        if self._wanted is not None:
            self._due.set()

    async def write(self) -> None:
        """Wait until the mark may differ from its file, and write it where it does. Raises Unavailable.

        It is not a part of the ledger's write: a slow disk under the state folder delays no feature.
        """
        await self._due.wait()
        wanted, stored = self._wanted, None
        if self._file is not None and wanted is not None:
            with suppress(Unavailable):
                stored = await self._file.read()
            if stored != wanted:
                await self._file.save(wanted)
        if self._wanted == wanted:
            self._due.clear()

    async def prove(self) -> str:
        """Write the mark again; return why that fails, or an empty string. Before this boot has one, do nothing."""
        if self._file is None or self._wanted is None:
            return ""
        return await why_unwritten(self._rewrite(self._file, self._wanted), "the boot's mark", MEANS)

    async def _rewrite(self, file: DurableFile, mark: bytes) -> None:
        """Write the mark. Raises Unavailable, with what that means."""
        try:
            await file.save(mark)
        except Unavailable as error:
            raise error.meaning(MEANS) from error


async def why_unwritten(write: Awaitable[None], what: str, means: str) -> str:
    """Return why this write fails, or an empty string. `what`, `means`: for one that does not end in time."""
    try:
        async with asyncio.timeout(CHECK_S):
            await write
    except TimeoutError:
        return f"{what} is not written within {CHECK_S:g} s: {means}; see: dmesg"
    except Unavailable as error:
        return error.detail
    return ""
