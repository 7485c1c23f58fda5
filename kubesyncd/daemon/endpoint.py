"""Accept the connections of one socket, and keep its path leading to it.

A cleaner of /run may remove the file or its folder, and another program may replace it or change its mode: the daemon
then still listens, and no client can connect. Knows sockets and files, and no request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kubesyncd.core.protocol import REQUEST_BYTES_MAX
from kubesyncd.daemon.sockets import BACKLOG, InUseError, bound, has_rights, listener_of, place, set_rights

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kubesyncd.daemon.sockets import Rights
    from kubesyncd.runtime.alerts import AlertLog

ACCEPTED_AT_ONCE = 64
# After a refusal by the system: clients wait in the queue.
ACCEPT_PAUSE_S = 1.0
# Without a refusal for this long, the system gives connections again: those that end leave room for a few.
ACCEPT_QUIET_S = 30.0
RESTART = "run: systemctl restart kubesyncd"


class Endpoint:
    """One listening socket at `path`. `rights`: who should be able to use it, also where systemd has made it.

    `serve` serves a connection, and never raises. `ours`: we have bound the socket ourselves at this path just now.
    """

    def __init__(
        self,
        sock: socket.socket,
        path: Path,
        rights: Rights,
        *,
        ours: bool,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        alerts: AlertLog,
    ) -> None:
        self._sock = sock
        self._path = path
        self._serve = serve
        self._alerts = alerts
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        self._refused_at: float | None = None
        sock.setblocking(False)
        # Also for a socket of systemd's: the kernel then names this process as the one that listens.
        sock.listen(BACKLOG)
        known = place(path) if ours or self._listener() in (os.getpid(), 0) else None
        # The file that leads here, and its folder.
        self._file = known.file if known else None
        self._folder = known.folder if known else None
        # What an operator has given away of the folder before.
        self._rights = replace(rights, folder_mode=rights.folder_mode | (known.folder_mode if known else 0))
        self._resume()

    def look(self) -> None:
        """Compare the path with the socket: bind it again where it is gone, restore its mode and group.

        Call this now and then: it also notes the end of a time without connections.
        """
        if self._refused_at is not None:
            self._end_refusals(self._refused_at + ACCEPT_QUIET_S)
        try:
            problem = self._repaired()
        except InUseError as error:
            problem = f"{self._path}: {error} listens there in place of kubesyncd; end it, then {RESTART}"
        except OSError as error:
            problem = f"{self._path}: it is not kubesyncd's socket any more, and no other can be made: {error.strerror}"
            problem = f"{problem}; {RESTART}"
        if problem:
            self._alerts.begin("socket", problem)
        else:
            self._alerts.end("socket")

    def close(self) -> None:
        """Accept nothing more. Connections that are served go on."""
        self._pause()
        self._sock.close()

    async def ended(self, within_s: float) -> None:
        """End what serves connections. Call this when those that are served are closed."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)

    # ---- the path ---------------------------------------------------------------------------

    def _repaired(self) -> str:
        """Return what is wrong for longer; what can be put right at once is logged. Raises InUseError, OSError."""
        found, wanted = place(self._path), self._rights
        if found is None or (found.file != self._file and self._listener() != os.getpid()):
            self._bind_again()
            found = place(self._path)
        if found is None:
            return ""
        self._file, self._folder = found.file, found.folder
        # What an operator gives away of the folder is no damage.
        lost = wanted.folder_mode & ~found.folder_mode
        if has_rights(self._path, found, wanted) and not lost:
            return ""
        wrong = (
            f"{self._path} had mode {found.mode:o} and group {found.gid}, its folder {found.folder_mode:o}"
        )
        with suppress(OSError):
            set_rights(self._path, wanted)
            self._path.parent.chmod(found.folder_mode | lost)
        now = place(self._path)
        if now is None or not has_rights(self._path, now, wanted) or wanted.folder_mode & ~now.folder_mode:
            return f"{wrong}, and kubesyncd may not restore them; {RESTART}"
        self._note(f"{wrong}; kubesyncd has restored them")
        return ""

    def _bind_again(self) -> None:
        """Listen at the path again, with a new socket. Raises InUseError, OSError."""
        sock = bound(self._path, self._rights)
        # Clients in the old one's queue have connected before its file was gone.
        while self._accept_some():
            pass
        self._pause()
        self._sock.close()
        self._sock = sock
        self._resume()
        text = f"{self._path} did not lead to kubesyncd any more; it has bound the socket again"
        now = place(self._path)
        if self._folder is not None and now is not None and now.folder != self._folder:
            text = f"{text}. Its folder was replaced too: running containers reach it once they are started again"
        self._note(text)

    def _listener(self) -> int | None:
        """Return the process that a client reaches that connects to the path, as `listener_of`."""
        try:
            return listener_of(self._path)
        except OSError:
            return None

    def _note(self, text: str) -> None:
        """Log what was wrong and is put right: one alert, which is over."""
        self._alerts.begin("socket", text)
        self._alerts.end("socket")

    # ---- connections ------------------------------------------------------------------------

    def _resume(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._sock, self._accept_some)

    def _pause(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None

    def _accept_some(self) -> bool:
        """Accept waiting connections; return whether there may be more."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                link, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                self._refused(error)
                return False
            task = self._loop.create_task(self._connected(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def _refused(self, error: OSError) -> None:
        """Note that the system gives no connection, for want of descriptors or memory; try again in a moment."""
        name = errno.errorcode.get(error.errno or 0, "")
        text = f"{self._path}: no connection can be accepted: {error.strerror} ({name}); clients wait"
        self._alerts.begin("accept", f"{text}; see: ls /proc/{os.getpid()}/fd | wc -l")
        self._refused_at = self._loop.time()
        self._pause()
        self._resuming = self._loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _end_refusals(self, quiet_at: float) -> None:
        """Note that the system gives connections again, where that can be: also while none was asked for."""
        if self._loop.time() < quiet_at:
            return
        with suppress(OSError):
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC).close()
            self._refused_at = None
            self._alerts.end("accept")

    async def _connected(self, link: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=link, limit=REQUEST_BYTES_MAX)
        except OSError:
            link.close()
            return
        await self._serve(reader, writer)
