"""Notify systemd, and take the sockets that it has opened.

Plain sd_notify(3) and sd_listen_fds(3); without systemd both do nothing.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_FIRST_FD = 3
_FDS_MAX = 64
_SEND_S = 1.0


def is_supervised(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether systemd waits for messages of this process, as the one that it starts again."""
    return environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


def notify(*assignments: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd `READY=1`, `WATCHDOG=1`, `STATUS=…`, `STOPPING=1`; return whether systemd was notified.

    Never raises: a service manager that does not listen must not stop the daemon.
    """
    if not is_supervised(environ):
        return False
    # A status of several lines would be read as several assignments.
    message = "\n".join(assignment.replace("\n", " ") for assignment in assignments).encode(errors="replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_S)
            sender.sendto(message, _address(environ["NOTIFY_SOCKET"]))
    except OSError:
        return False
    return True


def notify_and_wait(*assignments: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd as `notify` does, and return when it has read that, after at most 1 s.

    A process that ends at once would be gone before systemd knows which unit its message is from.
    """
    if not notify(*assignments, environ=environ):
        return
    ours, theirs = os.pipe()
    try:
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.settimeout(_SEND_S)
            sender.connect(_address(environ["NOTIFY_SOCKET"]))
            socket.send_fds(sender, [b"BARRIER=1"], [theirs])
    finally:
        os.close(theirs)
    # systemd closes the other end when it has read everything before.
    select.select([ours], [], [], _SEND_S)
    os.close(ours)


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds within which systemd expects the next `WATCHDOG=1`; None: it expects none."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000


def _address(path: str) -> str:
    """Return the address of the socket at `path`; an `@` begins an abstract one."""
    return "\0" + path[1:] if path.startswith("@") else path


def listen_fds(environ: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """Return the sockets that systemd has opened, by FileDescriptorName=. The caller owns them: call this once.

    Empty where the variables are missing, invalid, or meant for another process.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal() or not 0 < int(count) <= _FDS_MAX:
        return {}
    sockets: dict[str, socket.socket] = {}
    for index in range(int(count)):
        name = names[index] if index < len(names) and names[index] else f"fd{index}"
        try:
            os.set_inheritable(_FIRST_FD + index, False)
            sockets[name] = socket.socket(fileno=_FIRST_FD + index)
        except OSError:
            continue
        sockets[name].setblocking(False)
    return sockets
