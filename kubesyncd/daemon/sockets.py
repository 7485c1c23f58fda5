"""Bind the Unix sockets that clients connect to."""

from __future__ import annotations

import fcntl
import grp
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKLOG = 1024


class StartError(Exception):
    """The daemon cannot start; the message says why and what to do."""


@contextmanager
def only_daemon(run_dir: Path) -> Iterator[None]:
    """Hold the lock of the daemon that uses this folder. Raises StartError where another process holds it.

    Two daemons would both stop and start the same containers. The lock is on the folder itself: a new file needs space.
    Where the folder cannot be made or locked, the daemon goes on without.
    """
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise StartError(f"{run_dir}: another kubesyncd uses this folder; stop it first") from error
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(folder)


def bind(path: Path, mode: int, group: str) -> socket.socket:
    """Create a listening Unix socket of our own at `path`. Raises StartError where another daemon answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _answers(path):
            raise StartError(f"{path}: another kubesyncd answers there; stop it first")  # noqa: TRY301
        with suppress(FileNotFoundError):
            path.unlink()
        # Clients must not connect before the mode is set.
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        if group:
            with suppress(KeyError, PermissionError):
                os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        sock.setblocking(False)
        return sock
    except OSError as error:
        sock.close()
        raise StartError(
            f"{path}: cannot listen there: {error.strerror}; check [sockets] in the settings"
        ) from error
    except StartError:
        sock.close()
        raise


def _answers(path: Path) -> bool:
    """Return whether another process listens at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
