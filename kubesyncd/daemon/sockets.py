"""Bind the Unix sockets that clients connect to, and lock the folders that show that a daemon runs."""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.runtime.lock_holder import lock_holder
from kubesyncd.runtime.state_files import OPEN_FOLDER, STATE_FOLDER, add_rights, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKLOG = 1024
_CREDENTIALS = struct.Struct("3i")
# An access list (linux/posix_acl_xattr.h): its version; of each entry the kind, the rights, and whose they are.
_ACL = "system.posix_acl_access"
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_OWNER, _OWNERS_GROUP, _A_GROUP, _MASK, _OTHERS = 0x01, 0x04, 0x08, 0x10, 0x20
_UNDEFINED = 0xFFFFFFFF


class StartError(Exception):
    """The daemon cannot start; the message says why and what to do."""


class InUseError(Exception):
    """Another process listens at the path; the message names it."""


class RunLock:
    """The lock of the daemon that uses a folder, on the folder itself: a new file needs space.

    `mode`: what the folder's mode has at least.
    """

    def __init__(self, folder: Path, mode: int) -> None:
        self._folder = folder
        self._mode = mode
        self._fd = -1

    def take(self) -> None:
        """Lock the folder. Raises BlockingIOError where another process holds the lock, OSError for other reasons."""
        make_folder(self._folder, self._mode)
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self.release()
        self._fd = fd
        add_rights(fd, self._mode)

    def take_if_alone(self) -> None:
        """Lock the folder where that is possible. Raises StartError where another daemon holds the lock."""
        try:
            self.take()
        except BlockingIOError as error:
            # Any user may lock a folder that all may open; that must not keep the daemon from starting.
            if lock_holder((self._folder,)):
                text = f"{self._folder}: another kubesyncd uses this folder; stop it first"
                raise StartError(text) from error
        except OSError:
            pass

    def renew(self) -> None:
        """Lock the folder that is there now, where it is not the locked one any more, and keep it open to clients."""
        with suppress(OSError):
            if self._holds():
                add_rights(self._fd, self._mode)
            else:
                self.take()

    def _holds(self) -> bool:
        """Return whether the folder that is there now is the locked one. Raises OSError."""
        try:
            return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), self._folder.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """End the lock."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


@contextmanager
def only_daemon(run_dir: Path, state_dir: Path | None = None) -> Iterator[tuple[RunLock, ...]]:
    """Hold the lock of the daemon that uses these folders. Raises StartError where another daemon holds one of them.

    Two daemons would both stop and start the same containers. Clients look for the lock before they go round the
    daemon; the second folder's serves them where a cleaner of /run has removed the first. Where a folder cannot be made
    or locked, the daemon goes on without.
    """
    run = RunLock(run_dir, OPEN_FOLDER)
    locks = (run,) if state_dir is None else (RunLock(state_dir, STATE_FOLDER), run)
    try:
        for lock in locks:
            lock.take_if_alone()
        yield locks
    finally:
        for lock in locks:
            lock.release()


class RunFolder:
    """The folder of the sockets and the ledger, as this process has found it. It is kept over reloads."""

    def __init__(self) -> None:
        self.path = Path()
        self._found: os.stat_result | None = None

    def find(self, folder: Path) -> None:
        """Note the folder that a run begins with; one that was lost before stays so until it is usable again."""
        if folder != self.path:
            self.path, self._found = folder, None
        with suppress(OSError):
            if os.access(folder, os.W_OK):
                self._found = folder.stat()

    def is_lost(self) -> bool:
        """Return whether it is gone or another one, and this process may neither make it nor write to it.

        One that the daemon could not use from the start is not lost: there, a restart would not help. Nor is one that
        cannot be read.
        """
        if self._found is None:
            return False
        try:
            nearest = next(each for each in (self.path, *self.path.parents) if each.exists())
            if nearest == self.path and os.path.samestat(nearest.stat(), self._found):
                return False
        except OSError:
            return False
        return not os.access(nearest, os.W_OK)


@dataclass(frozen=True, slots=True)
class Rights:
    """Who should be able to use a socket besides its owner, whatever is found at its path.

    `gid`: the group that the mode is for; None where that is not known, and the file's group is left alone.
    `folder_mode`: what its folder's mode has at least.
    """

    mode: int
    gid: int | None = None
    folder_mode: int = 0


def gid_of(group: str) -> int | None:
    """Return a group's number, by the name service, which may take its time; None where it does not exist.

    Without a name it is the daemon's own group.
    """
    if not group:
        return os.getegid()
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


@dataclass(frozen=True, slots=True)
class SocketPlace:
    """What stands at a socket's path: which file in which folder, and who may use them."""

    file: tuple[int, int]
    mode: int
    gid: int
    folder: tuple[int, int]
    folder_mode: int


def place(path: Path) -> SocketPlace | None:
    """Return what stands at `path`; None without a file. Raises OSError where that cannot be read."""
    try:
        file, folder = path.lstat(), path.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SocketPlace(
        file=(file.st_dev, file.st_ino),
        mode=file.st_mode & 0o7777,
        gid=file.st_gid,
        folder=(folder.st_dev, folder.st_ino),
        folder_mode=folder.st_mode & 0o7777,
    )


def bind(path: Path, rights: Rights) -> socket.socket:
    """Create a listening Unix socket of our own at `path`. Raises StartError where that is impossible."""
    try:
        return bound(path, rights)
    except InUseError as error:
        raise StartError(f"{path}: another kubesyncd answers there ({error}); stop it first") from error
    except OSError as error:
        raise StartError(
            f"{path}: cannot listen there: {error.strerror}; check [sockets] in the settings"
        ) from error


def bound(path: Path, rights: Rights) -> socket.socket:
    """Create a listening Unix socket at `path`. Raises InUseError where another process listens there, OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        make_folder(path.parent, OPEN_FOLDER)
        if missing := rights.folder_mode & ~(found := path.parent.stat().st_mode & 0o7777):
            # Another program has made it, with its own umask.
            path.parent.chmod(found | missing)
        if (pid := listener_of(path)) is not None:
            raise InUseError(f"process {pid}" if pid else "a process whose queue is full")  # noqa: TRY301
        with suppress(FileNotFoundError):
            path.unlink()
        # Clients must not connect before the mode is set. The umask would be that of the other threads, too.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        set_rights(path, rights)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def set_rights(path: Path, rights: Rights) -> None:
    """Give the rights to use the socket, as far as the daemon may. Raises OSError."""
    path.chmod(rights.mode)
    if rights.gid is None:
        return
    try:
        os.chown(path, -1, rights.gid)
    except PermissionError:
        # No other group may keep it.
        with suppress(PermissionError):
            os.chown(path, -1, os.getegid())
        _share(path, rights.mode, rights.gid)


def has_rights(path: Path, found: SocketPlace, rights: Rights) -> bool:
    """Return whether those may use the socket found at `path` who should."""
    if found.mode != rights.mode:
        return False
    if rights.gid is None or found.gid == rights.gid:
        return True
    return found.gid == os.getegid() and _is_shared(path, rights.mode, rights.gid)


def _share(path: Path, mode: int, gid: int) -> None:
    """Give a group the rights in `mode` by an access list: the daemon's unit may not give a file to a group."""
    entries = (
        (_OWNER, mode >> 6, _UNDEFINED),
        (_OWNERS_GROUP, mode >> 3, _UNDEFINED),
        (_A_GROUP, mode >> 3, gid),
        (_MASK, mode >> 3, _UNDEFINED),
        (_OTHERS, mode, _UNDEFINED),
    )
    packed = b"".join(_ACL_ENTRY.pack(kind, rights & 7, whose) for kind, rights, whose in entries)
    # Without access lists only the owner and root may use it.
    with suppress(OSError):
        os.setxattr(path, _ACL, _ACL_VERSION + packed)


def _is_shared(path: Path, mode: int, gid: int) -> bool:
    """Return whether an access list gives the group the rights in `mode`. Its mask is the mode's own."""
    try:
        packed = os.getxattr(path, _ACL)
        entries = tuple(_ACL_ENTRY.iter_unpack(packed.removeprefix(_ACL_VERSION)))
    except (OSError, struct.error):
        return False
    missing = mode >> 3 & 7
    return any((kind, whose) == (_A_GROUP, gid) and not missing & ~given for kind, given, whose in entries)


def listener_of(path: Path) -> int | None:
    """Return the process that listens at `path`; None without one. Raises OSError.

    It is the process that has called listen() last, by the kernel's word. 0: its queue of connections is full, so it
    cannot be asked.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return 0
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])
