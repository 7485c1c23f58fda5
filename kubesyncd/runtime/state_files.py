"""Replace state files as a whole or not at all, so that they survive a crash and a power cut.

Knows paths and modes; does not know the content.
"""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

SERVICE = "state file"
# Twice the maximum size of our own files; a larger file is not one of ours.
BYTES_MAX = 8 << 20
SETTLED_S_MAX = 10.0
# Of a folder that all may enter.
OPEN_FOLDER = 0o755
# Of the state folder: any user's client reads the mark of the boot; the other names are not listed.
STATE_FOLDER = 0o711


def atomic_write(path: Path, data: bytes, mode: int) -> None:
    """Make `path` hold `data` with exactly `mode`. After a crash it holds the old content or the new one.

    Raises OSError; the old content is intact then and no temporary file remains.
    """
    # One name per file: the next write removes a temporary file left by a crash.
    temporary = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` themselves durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int) -> None:
    """Create the folder with exactly `mode`, and its parents, whatever the umask is. Raises OSError."""
    for each in (*reversed(folder.parents), folder):
        if not each.is_dir():
            with suppress(FileExistsError):
                each.mkdir()
                each.chmod(mode if each == folder else OPEN_FOLDER)


def add_rights(descriptor: int, mode: int) -> None:
    """Give an open file or folder those of the rights in `mode` that it lacks, where this process may."""
    with suppress(OSError):
        found = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & ~found:
            os.fchmod(descriptor, found | mode)


class StateFile:
    """One small file that is read once and replaced often.

    `folder_mode`: what a missing folder is created with; without it, the umask decides.
    """

    def __init__(self, path: Path, mode: int = 0o600, *, folder_mode: int | None = None) -> None:
        self._path = path
        self._mode = mode
        self._folder_mode = folder_mode

    def load(self) -> bytes | None:
        """Read the content, and restore the rights that were taken away; None without a file. Raises Unavailable."""
        try:
            with self._path.open("rb") as file:
                add_rights(file.fileno(), self._mode)
                data = file.read(BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(SERVICE, f"{self._path} cannot be read: {error.strerror}") from error
        if len(data) > BYTES_MAX:
            raise Unavailable(SERVICE, f"{self._path} is longer than {BYTES_MAX} bytes; move it away")
        return data

    def forget(self) -> None:
        """Remove the file, durably; a missing file is success. Raises Unavailable."""
        try:
            self._path.unlink(missing_ok=True)
            sync_folder(self._path.parent)
        except OSError as error:
            raise Unavailable(SERVICE, f"{self._path} cannot be removed: {error.strerror}") from error

    def save(self, data: bytes) -> None:
        """Replace the content, durably. Raises Unavailable; the old content is kept then."""
        folder = self._path.parent
        try:
            if self._folder_mode is None:
                folder.mkdir(mode=OPEN_FOLDER, parents=True, exist_ok=True)
            else:
                make_folder(folder, self._folder_mode)
            atomic_write(self._path, data, self._mode)
        except OSError as error:
            fix = f"free disk space or inodes in {folder}, or make it writable"
            what = f"{self._path} cannot be written: {error.strerror}"
            raise Unavailable(SERVICE, what, fix=fix, file=str(self._path)) from error


def state_file(path: Path, mode: int = 0o600) -> StateFile:
    """Return a file of the state folder."""
    return StateFile(path, mode, folder_mode=STATE_FOLDER)


class DiskFile:
    """ports.DurableFile: a StateFile that does not block the loop while the disk syncs.

    One thread writes the changes one at a time and in order, also where the caller no longer waits.
    """

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-file")

    def load(self) -> bytes | None:
        """See StateFile."""
        return self._file.load()

    async def read(self) -> bytes | None:
        """See StateFile.load."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._file.load)

    async def save(self, data: bytes) -> None:
        """See StateFile."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.save, data)

    async def forget(self) -> None:
        """See StateFile."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.forget)

    async def settled(self) -> None:
        """Return once all begun writes are done; on a disk that does not answer, after `SETTLED_S_MAX` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S_MAX):
                await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)
