"""Identify the process at the other end of a Unix socket: on the host, or in which container.

Knows no Docker and no feature: it reads what the kernel reports (SO_PEERCRED, /proc) and nothing that the peer
sends. Docker tells which feature a container belongs to.

A process counts as inside a container *relative to the daemon*, which may run in one itself. Of several nested
containers the outermost below the daemon's own is used: this switch's Docker engine runs that one, and the names
below it are under the container's own control.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from kubesyncd.api.messages import AtLimit

# A cgroup's last step for a container: docker's and the kubelet's plain ID, or a systemd scope such as
# docker-<id>.scope, cri-containerd-<id>.scope, or kubepods-pod<uid>.slice:cri-containerd:<id>.
_CONTAINER_STEP = re.compile(r"(?:[^/]*[-:])?([0-9a-f]{64})(?:\.scope)?")
# A cgroup's path below a service of the system: the service is directly in one of systemd's slices.
_OF_SERVICE = re.compile(r"(?:/[^/]+\.slice)*/([A-Za-z0-9:_.@\\-]{1,255}\.service)(?:/.*)?", re.DOTALL)
# The service of a user's manager: the services below it are the user's.
_USER_MANAGER = re.compile(r"user@.*\.service")
_CREDENTIALS = struct.Struct("3i")
# socket.SO_PEERPIDFD, missing in this Python: Linux 6.5. It refers to the process itself, not to its number.
_SO_PEERPIDFD = 77
_FD = struct.Struct("i")
_PROC_FILE_BYTES_MAX = 64 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class PeerGone(Exception):
    """The peer has ended.

    The connection is closed without an answer; where another process still has it, that one asks again.
    """


class PeerUnknown(Exception):
    """The peer lives, and cannot be identified; the message says why. To ask again is of no use."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The connected process. `container_id`: 64 hexadecimal digits, None outside every container.

    `unit`: the systemd service that it is a process of; empty for others, and in a container.
    """

    pid: int
    uid: int
    gid: int
    container_id: str | None
    unit: str = ""


def identify_peer(sock: socket.socket, proc: Path = Path("/proc")) -> Peer:
    """Identify the peer of `sock`, one end of a connected Unix socket. Raises PeerGone, PeerUnknown, AtLimit.

    The process is checked before and after its cgroup is read: if it ended in between, its number may belong to
    another process. Where the kernel supports it, a process that ended before the first check is detected too.
    """
    try:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError as error:
        raise PeerGone(f"the peer's credentials cannot be read: {error.strerror}") from error
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    if pid <= 0:
        raise PeerUnknown("the peer is outside the daemon's PID namespace")
    before = _life(proc, pid)
    own, peers = _read(proc, "self", "cgroup"), _read(proc, pid, "cgroup")
    if _life(proc, pid) != before:
        raise PeerGone(f"process {pid} ended while it was looked at")
    if _has_ended(sock):
        raise PeerGone(f"process {pid} has ended, and its number may belong to another process")
    try:
        container_id = container_of(peers, own)
    except ValueError as error:
        raise PeerUnknown(f"process {pid}: {error}") from error
    return Peer(pid, uid, gid, container_id, unit_of(peers) if container_id is None else "")


def _has_ended(sock: socket.socket) -> bool:
    """Return whether the connected process is known to have ended; an older kernel cannot tell."""
    try:
        (pidfd,) = _FD.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _FD.size))
    except OSError as error:
        _check_exhausted(error)
        return error.errno in (errno.ESRCH, errno.ENODATA)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def container_of(cgroup: str, own_cgroup: str) -> str | None:
    """Return the container of a process with this /proc/<pid>/cgroup, as seen by one with `own_cgroup`.

    None where it is in no container, or in the same one. Raises ValueError where the hierarchies of cgroup v1 name
    different containers: then the process is identified as none of them.
    """
    own_paths = _container_paths(own_cgroup)
    found: set[str] = set()
    for hierarchy, path in _container_paths(cgroup).items():
        found.update(_below(path, own_paths.get(hierarchy, ()))[:1])
    if len(found) > 1:
        raise ValueError(f"its cgroups name {len(found)} containers")
    return found.pop() if found else None


def unit_of(cgroup: str) -> str:
    """Return the system's service of a process with this /proc/<pid>/cgroup; empty for a process of none.

    A service may have services of its own below it: a user's manager has those of the user, which may have any name.
    """
    for line in cgroup.split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in ("", "name=systemd"):
            found = _OF_SERVICE.fullmatch(_in_container(path))
            if found:
                return "" if _USER_MANAGER.fullmatch(found[1]) else found[1]
    return ""


def _in_container(path: str) -> str:
    """Return the part of a cgroup's path that is below the innermost container on it."""
    steps = path.split("/")
    inside = max((n for n, step in enumerate(steps) if _CONTAINER_STEP.fullmatch(step)), default=0)
    return "/" + "/".join(steps[inside + 1 :])


def _below(path: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Return the rest of `path` after the containers that it shares with `own`."""
    shared = 0
    while shared < min(len(path), len(own)) and path[shared] == own[shared]:
        shared += 1
    return path[shared:]


def _container_paths(cgroup: str) -> dict[str, tuple[str, ...]]:
    """Return the container IDs on the path of each hierarchy, outermost first."""
    paths: dict[str, tuple[str, ...]] = {}
    # Only a newline ends a line: besides the slash, it is the one character that a cgroup's name cannot contain.
    for line in cgroup.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            steps = (_CONTAINER_STEP.fullmatch(step) for step in path.removesuffix(" (deleted)").split("/"))
            paths[f"{number}:{controllers}"] = tuple(step[1] for step in steps if step)
    return paths


def start_ticks(stat: str) -> int | None:
    """Return when a process started, in clock ticks since boot, by its /proc/<pid>/stat; None if it is dead.

    A zombie is dead: its number stays in use, but its cgroup may already be the root's.
    """
    # The command's name comes second, in brackets, and may contain anything, brackets and blanks too.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X", "x"):
        return None
    ticks = fields[19]
    return int(ticks) if ticks.isascii() and ticks.isdigit() and len(ticks) <= 20 else None


def _life(proc: Path, pid: int) -> int:
    ticks = start_ticks(_read(proc, pid, "stat"))
    if ticks is None:
        raise PeerGone(f"process {pid} has ended")
    return ticks


def _read(proc: Path, pid: int | str, name: str) -> str:
    """Read a process's file. Raises PeerGone, PeerUnknown, AtLimit."""
    path = proc / str(pid) / name
    try:
        with path.open("rb") as file:
            return file.read(_PROC_FILE_BYTES_MAX).decode(errors="replace")
    except OSError as error:
        _check_exhausted(error)
        text = f"{path} cannot be read: {error.strerror}"
        if isinstance(pid, int) and not _lives(pid):
            raise PeerGone(f"{text}; the process has ended") from error
        raise PeerUnknown(f"{text}; kubesyncd needs a /proc without hidepid") from error


def _lives(pid: int) -> bool:
    """Return whether there is such a process, also where /proc hides it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _check_exhausted(error: OSError) -> None:
    """Raise AtLimit where the daemon itself lacks descriptors or memory: that says nothing about the peer."""
    if error.errno in _EXHAUSTED:
        raise AtLimit(f"its clients cannot be identified: {error.strerror}") from error
