"""Bind the Unix sockets that clients connect to."""

from __future__ import annotations

import grp
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BACKLOG = 1024


class StartError(Exception):
    """The daemon cannot start; the message says why and what to do."""


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
