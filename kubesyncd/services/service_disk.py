"""Change the files of services on disk, each change so that it can be undone, and keep their manifests.

Knows paths and no order of changes: the installer and the rollback decide that. A replaced file is kept beside the new
one until the installation is complete.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.ports import Forbidden, PortError, Refused, Unavailable
from kubesyncd.runtime.state_files import StateFile, atomic_write, sync_folder
from kubesyncd.services.installed import FOLDER, SERVICE, Manifest, encode, read_manifests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kubesyncd.services.definition import ServiceFile

# Suffixes of copies beside a file while it is being replaced; systemd and run-parts ignore both.
NEW, OLD = ".kubesync-new", ".kubesync-old"


class ServiceDisk:
    """The files of all services, below `root` (where `/` is), and their manifests, below `state_dir`.

    Each method raises Unavailable for a disk that fails, and Forbidden without the right to change it.
    """

    def __init__(self, root: Path, state_dir: Path) -> None:
        self._root = root
        self._folder = state_dir / FOLDER

    # ---- reading --------------------------------------------------------------------------------

    def at(self, path: str) -> Path:
        """Return where the service's file `path` lies."""
        assert path.startswith("/"), path
        return self._root / path.lstrip("/")

    def is_changed(self, path: str, sha256: str) -> bool:
        """Return whether the file differs from what was installed; a missing file does not."""
        with _reported():
            try:
                return hashlib.sha256(self.at(path).read_bytes()).hexdigest() != sha256
            except FileNotFoundError:
                return False

    def missing_folders(self, files: Iterable[ServiceFile]) -> tuple[str, ...]:
        """List the folders to make for these files, parents first."""
        missing: dict[str, None] = {}
        for file in files:
            for folder in reversed(Path(file.path).parents):
                if not self.at(str(folder)).exists():
                    missing[str(folder)] = None
        return tuple(missing)

    # ---- manifests ------------------------------------------------------------------------------

    def installed(self) -> dict[str, Manifest]:
        """Read all manifests by feature."""
        return read_manifests(self._folder)

    def save(self, manifest: Manifest) -> None:
        """Write the service's manifest."""
        StateFile(self._manifest_file(manifest.name)).save(encode(manifest))

    def forget(self, name: str) -> None:
        """Remove the service's manifest."""
        with _reported():
            self._manifest_file(name).unlink(missing_ok=True)

    def _manifest_file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Allow one installation or removal at a time. Raises Refused while another one runs.

        The kernel releases the lock however a process ends.
        """
        with _reported():
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(lock)
            yield
        finally:
            os.close(lock)

    # ---- installing -----------------------------------------------------------------------------

    def make_folders(self, folders: Iterable[str]) -> None:
        """Make these folders, parents first."""
        with _reported():
            for folder in folders:
                self.at(folder).mkdir(mode=0o755, exist_ok=True)

    def write(self, file: ServiceFile) -> None:
        """Write the file beside its destination; nothing else changes."""
        with _reported():
            atomic_write(self._beside(file.path, NEW), file.content, file.mode)

    def exchange(self, path: str) -> None:
        """Put the written file in its place, and keep the one that was there beside it."""
        at, old = self.at(path), self._beside(path, OLD)
        with _reported():
            old.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                os.link(at, old)
            self._beside(path, NEW).replace(at)

    def set_aside(self, path: str) -> None:
        """Take the file out of its place, and keep it beside."""
        with _reported():
            _rename(self.at(path), self._beside(path, OLD))

    def sync(self, paths: Iterable[str]) -> None:
        """Make the changes of these files durable."""
        with _reported():
            for folder in {self.at(path).parent for path in paths}:
                sync_folder(folder)

    def forget_copies(self, paths: Iterable[str]) -> None:
        """Remove the copies kept beside; the next installation removes what cannot be removed now."""
        for path in sorted(paths):
            with suppress(OSError):
                self._beside(path, OLD).unlink(missing_ok=True)

    # ---- rollback and removal -------------------------------------------------------------------

    def put_back(self, path: str) -> None:
        """Restore the file that is kept beside; a file that was never replaced stays."""
        with _reported():
            self._beside(path, NEW).unlink(missing_ok=True)
            _rename(self._beside(path, OLD), self.at(path))

    def discard(self, path: str) -> None:
        """Remove the file and what was written for it; the copy kept beside stays."""
        with _reported():
            self._beside(path, NEW).unlink(missing_ok=True)
            self.at(path).unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """Remove the file and every copy of it."""
        self.discard(path)
        with _reported():
            self._beside(path, OLD).unlink(missing_ok=True)

    def drop_folders(self, folders: Iterable[str], keep: Iterable[str] = ()) -> None:
        """Remove these folders where they are empty and no file of `keep` belongs into them."""
        kept = tuple(keep)
        for folder in folders:
            if not any(path.startswith(f"{folder}/") for path in kept):
                with suppress(OSError):
                    self.at(folder).rmdir()

    def _beside(self, path: str, suffix: str) -> Path:
        at = self.at(path)
        return at.with_name(f".{at.name}{suffix}")


def _rename(source: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        source.replace(target)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(
            SERVICE, "another installation or removal is running; try again when it has ended"
        ) from None


@contextmanager
def _reported() -> Iterator[None]:
    """Raise an error of the disk as the port's error, with the fix."""
    try:
        yield
    except OSError as error:
        raise _reason(error) from error


def _reason(error: OSError) -> PortError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(SERVICE, f"{reason}; use sudo")
    return Unavailable(
        SERVICE, f"{reason}; nothing else was done; free disk space or check the folder, then try again"
    )
