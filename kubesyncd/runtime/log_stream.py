"""Write log lines to a descriptor: never wait for its reader, never raise.

What the reader does not take at once is kept, up to a limit. What does not fit, or cannot be written, is counted and
told in one line when lines can be written again. Knows bytes and descriptors, not what a line means.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import select
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

KEPT_BYTES_MAX = 256 * 1024
# Another writer's lines do not get into the midst of what a pipe takes in one piece. One that is reported as writable
# takes it at once, however small it is.
PIECE = select.PIPE_BUF
STDERR = 2
# A process that ends waits so long for the reader of its log.
EXIT_S_MAX = 1.0
# A descriptor that is reported as writable, and takes nothing, is tried again after this time.
STUCK_S = 0.1
_NEWLINE = ord("\n")


def take_over_stderr() -> LogStream:
    """Replace `sys.stderr` by a stream that neither waits nor raises; return that."""
    if sys.stderr is None:
        # The descriptor is free: the next file or socket would get it, and the log lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    stream = LogStream(STDERR, lambda lines, why: f"kubesyncd: {lines} lines of the log are lost: {why}\n")
    sys.stderr = cast("TextIO", stream)
    atexit.register(stream.drain, EXIT_S_MAX)
    return stream


class _Output:
    """What a descriptor leads to, for writing without waiting.

    The descriptor itself stays as it is: other processes share its description, and would find it non-blocking.
    """

    def __init__(self, fd: int) -> None:
        self.fd = self._shared_fd = fd
        self._sock: socket.socket | None = None
        # Where that is not possible or not allowed, poll has to do: a full pipe is noticed, a slow terminal is not.
        with suppress(OSError):
            kind = os.fstat(fd).st_mode
            if stat.S_ISSOCK(kind):
                self._sock = socket.socket(fileno=os.dup(fd))
            elif not stat.S_ISREG(kind):
                # A file's writers share the place where the next one writes; and it never keeps them waiting.
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self.fd = os.open(f"/proc/self/fd/{fd}", flags)

    def write(self, piece: bytearray) -> int:
        """Write what is taken at once, and return its length. Raises BlockingIOError where that is nothing, OSError."""
        if self._sock is not None:
            return self._sock.send(piece, socket.MSG_DONTWAIT)
        if self.fd == self._shared_fd and not self.is_ready(0):
            raise BlockingIOError
        return os.write(self.fd, piece)

    def is_ready(self, within_s: float) -> bool:
        """Return whether something, or an error, is taken at once, by the kernel's word."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(within_s * 1000))

    def close(self) -> None:
        """Close what was opened here; the descriptor stays open."""
        if self._sock is not None:
            self._sock.close()
        elif self.fd != self._shared_fd:
            os.close(self.fd)
        self.fd, self._sock = self._shared_fd, None


class LogStream(io.TextIOBase):
    """A text stream on the descriptor `fd`, for one writer of whole lines at a time; threads may share it.

    `lost_line(lines, why)` returns the line that tells of lost lines, with its newline.
    """

    def __init__(
        self, fd: int, lost_line: Callable[[int, str], str], *, kept_bytes_max: int = KEPT_BYTES_MAX
    ) -> None:
        super().__init__()
        self._fd = fd
        self._out = _Output(fd)
        self.lost_line = lost_line
        self._kept_bytes_max = kept_bytes_max
        self._lock = threading.RLock()
        self._kept = bytearray()
        # Lines lost and not told yet; and those that a kept line tells of.
        self._lost = self._telling = 0
        self._why = ""
        # Whether the last byte written ended a line: a failure may leave half a line behind.
        self._whole = True
        self._watched: asyncio.AbstractEventLoop | None = None

    def write(self, text: str) -> int:
        """Write `text`, or as much of it as is taken; keep or count the rest."""
        data = _encoded(text)
        with self._lock:
            if not self._has_room(data):
                self._push()
            if self._has_room(data):
                self._tell()
                self._kept += data
                self._push()
            else:
                self._count(data, "its reader did not read it")
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` has written what is taken."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether a terminal shows the lines."""
        try:
            return os.isatty(self._fd)
        except OSError:
            return False

    def drain(self, within_s: float) -> None:
        """Wait until everything kept is written, for `within_s` seconds at most. For the end of a process."""
        until = time.monotonic() + within_s
        while self._kept and (left_s := until - time.monotonic()) > 0:
            ready, before = self._out.is_ready(left_s), len(self._kept)
            with self._lock:
                self._push()
            if ready and len(self._kept) == before:
                time.sleep(min(left_s, STUCK_S))

    def close(self) -> None:
        """Close the stream; the descriptor stays open."""
        self._out.close()
        super().close()

    def _has_room(self, data: bytes) -> bool:
        return len(self._kept) + len(data) <= self._kept_bytes_max

    def _push(self) -> None:
        """Write what is kept, as far as it is taken at once."""
        while self._kept:
            try:
                taken = self._out.write(self._kept[:PIECE])
            except BlockingIOError:
                self._watch()
                return
            except OSError as error:
                self._drop(f"it could not be written: {error.strerror}")
                break
            self._whole = self._kept[taken - 1] == _NEWLINE
            del self._kept[:taken]
            if not self._kept:
                self._telling = 0
                self._tell()
        self._unwatch()

    def _tell(self) -> None:
        """Keep a line about the lost lines, if there are any."""
        if self._lost and not self._telling:
            begin = "" if self._kept or self._whole else "\n"
            self._kept += _encoded(begin + self.lost_line(self._lost, self._why))
            self._telling, self._lost = self._lost, 0

    def _drop(self, why: str) -> None:
        """Count everything kept as lost: for a line that tells of lost lines, these."""
        if self._telling:
            self._lost += self._telling - 1
            self._telling = 0
        self._count(self._kept, why)
        self._kept.clear()

    def _count(self, data: bytes | bytearray, why: str) -> None:
        self._lost += data.count(b"\n")
        self._why = why

    def _watch(self) -> None:
        """Have the running loop write on as soon as the reader reads; without a loop the next `write` does."""
        with suppress(RuntimeError, OSError):
            loop = asyncio.get_running_loop()
            if self._watched is not loop:
                loop.add_writer(self._out.fd, self._go_on)
                self._watched = loop

    def _go_on(self) -> None:
        with self._lock:
            before = len(self._kept)
            self._push()
            if self._watched is not None and len(self._kept) == before:
                # A terminal with little room may not take a line's end.
                self._watched.remove_writer(self._out.fd)
                self._watched.call_later(STUCK_S, self._watch_on)

    def _watch_on(self) -> None:
        if self._watched is asyncio.get_running_loop():
            self._watched.add_writer(self._out.fd, self._go_on)

    def _unwatch(self) -> None:
        with suppress(RuntimeError):
            if self._watched is asyncio.get_running_loop():
                self._watched.remove_writer(self._out.fd)
                self._watched = None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
