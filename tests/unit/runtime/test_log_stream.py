"""The log's stream: what becomes of lines when their reader is slow, stuck, gone, or its disk is full."""

from __future__ import annotations

import asyncio
import atexit
import errno
import fcntl
import os
import pty
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from kubesyncd.runtime import log_stream
from kubesyncd.runtime.log_stream import EXIT_S_MAX, LogStream, take_over_stderr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT_S = 180.0
F_SETPIPE_SZ = 1031
PAGE = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes one page: its reading end, its writing end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, PAGE)
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


def stream(fd: int, **limits: int) -> LogStream:
    return LogStream(fd, lambda lines, why: f"lost {lines}: {why}\n", **limits)


def lines(first: int, last: int) -> str:
    return "".join(f"line {number} {'x' * 90}\n" for number in range(first, last + 1))


def put(log: LogStream, text: str) -> None:
    for line in text.splitlines(keepends=True):
        assert log.write(line) == len(line)


async def read_all(reader: int, size: int) -> str:
    text = b""
    async with asyncio.timeout(LIMIT_S):
        while len(text) < size:
            # A terminal makes one line's end of another.
            text += (await asyncio.to_thread(os.read, reader, PAGE)).replace(b"\r", b"")
    return text.decode()


async def test_lines_a_stuck_reader_does_not_take_follow_by_themselves_when_it_reads(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    log, written = stream(writer), lines(1, 500)
    put(log, written)
    assert await read_all(reader, len(written)) == written
    # What a loop has watched once, it watches again.
    put(log, written)
    assert await read_all(reader, len(written)) == written


@pytest.fixture(params=["pipe", "terminal", "socket"])
def slow(request: pytest.FixtureRequest, pipe: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """A place for the log whose reader reads in small pieces: the reading end, the writing end."""
    if request.param == "pipe":
        yield pipe
        return
    if request.param == "terminal":
        reader, writer = pty.openpty()
    else:
        ours, theirs = socket.socketpair()
        reader, writer = ours.detach(), theirs.detach()
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


async def test_no_write_waits_for_a_reader_of_small_pieces(slow: tuple[int, int]) -> None:
    reader, writer = slow
    log, written = stream(writer), lines(1, 2000)
    text = b""
    try:
        async with asyncio.timeout(LIMIT_S):
            for first in range(1, 2001, 100):
                # In a thread: a failure would block the loop, and the test.
                await asyncio.to_thread(put, log, lines(first, first + 99))
                text += await asyncio.to_thread(os.read, reader, 208)
    except TimeoutError:
        os.close(reader)
        raise
    # From here on, the loop writes.
    log.write("")
    text = text.replace(b"\r", b"")
    rest = (await read_all(reader, len(written) - len(text))) if len(text) < len(written) else ""
    assert text.decode() + rest == written
    assert os.get_blocking(writer), "it belongs to others too"


async def test_a_pipe_that_may_not_be_reopened_is_written_to_as_far_as_it_takes_lines(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    written, opens = lines(1, 500), os.open

    def refuse(path: str, *_: int) -> int:
        assert path == f"/proc/self/fd/{writer}"
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    log = stream(writer)
    monkeypatch.setattr(os, "open", opens)
    put(log, written)
    assert await read_all(reader, len(written)) == written


async def test_a_descriptor_that_takes_nothing_though_it_should_does_not_keep_the_loop_busy(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    monkeypatch.setattr(log_stream, "STUCK_S", 0.01)
    tries, write = [], os.write

    def refuse(fd: int, data: bytes) -> int:
        tries.append(fd)
        if len(tries) < 10:
            raise BlockingIOError
        return write(fd, data)

    log = stream(writer)
    monkeypatch.setattr(os, "write", refuse)
    begun = asyncio.get_running_loop().time()
    log.write("at last\n")
    assert await read_all(reader, 8) == "at last\n"
    assert asyncio.get_running_loop().time() - begun > 8 * 0.01


async def test_what_exceeds_the_limit_is_counted_and_told_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = stream(writer, kept_bytes_max=2 * len(lines(1, 99)))
    put(log, lines(1, 900))
    text = b""
    async with asyncio.timeout(LIMIT_S):
        while not text.endswith(b"read it\n"):
            text += await asyncio.to_thread(os.read, reader, PAGE)
    passed, _, told = text.decode().partition("lost ")
    assert lines(1, 900).startswith(passed)
    assert told == f"{900 - passed.count(chr(10))}: its reader did not read it\n"
    log.write("and on\n")
    assert os.read(reader, PAGE) == b"and on\n"


def test_lines_whose_reader_has_gone_are_counted_and_told_when_there_is_another(tmp_path: Path) -> None:
    path = tmp_path / "log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.close(reader)
    log = stream(writer)
    put(log, lines(1, 3))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    put(log, "again\nand on\n")
    told = f"lost 3: it could not be written: {os.strerror(errno.EPIPE)}\nagain\nand on\n"
    assert os.read(reader, PAGE).decode() == told
    os.close(reader)
    os.close(writer)


def test_lines_a_file_does_not_take_are_counted_and_told_when_it_does(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("w") as file:
        log = stream(file.fileno())
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
            put(log, lines(1, 3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        put(log, "again\nand on\n")
        file.write("another writer's\n")
    told = f"lost 3: it could not be written: {os.strerror(errno.EFBIG)}\nagain\nand on\n"
    assert (tmp_path / "log").read_text() == f"{told}another writer's\n"


def test_a_full_disk_keeps_no_caller_waiting() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = stream(full)
    put(log, lines(1, 3))
    log.drain(LIMIT_S)
    os.close(full)


def test_a_line_cut_by_a_full_disk_ends_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, write = [10], os.write

    def limited(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        taken = write(fd, data[: room[0]])
        room[0] -= taken
        return taken

    with (tmp_path / "log").open("w") as file:
        log = stream(file.fileno())
        monkeypatch.setattr(os, "write", limited)
        log.write("0123456789abc\n")
        room[0] = 1000
        log.write("next\n")
    assert (tmp_path / "log").read_text() == "0123456789\nlost 1: it could not be written: full\nnext\n"


def test_at_the_end_of_a_process_a_slow_reader_is_waited_for_and_a_stuck_one_not(
    pipe: tuple[int, int],
) -> None:
    reader, writer = pipe
    log = stream(writer)
    put(log, lines(1, 100))
    log.drain(0.01)
    passed = os.read(reader, PAGE)
    log.drain(0.01)
    passed += os.read(reader, PAGE)
    assert len(passed) > PAGE
    assert lines(1, 100).startswith(passed.decode())


def test_the_end_of_a_process_waits_for_a_stuck_reader_as_long_as_it_says(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Callable[[float], None], float]] = []
    monkeypatch.setattr(log_stream, "STDERR", pipe[1])
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(atexit, "register", lambda *call: calls.append(call))
    log = take_over_stderr()
    ((drain, within_s),) = calls
    now = [1000.0]

    def waits(_: object, up_to_s: float) -> bool:
        now[0] += up_to_s / 2 + 0.001
        return False

    monkeypatch.setattr(log_stream._Output, "is_ready", waits)
    monkeypatch.setattr(log_stream, "time", SimpleNamespace(monotonic=lambda: now[0]))
    put(log, lines(1, 100))
    drain(within_s)
    assert 0 <= now[0] - 1000.0 - EXIT_S_MAX < 0.002


def test_a_process_whose_log_is_closed_or_stuck_ends_with_its_own_code(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[docker]\n" + "".join(f"unknown{number} = 1\n" for number in range(999)))
    command = [sys.executable, "-m", "kubesyncd", "--config", str(wrong)]
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, PAGE)
        assert subprocess.run(command, stderr=writer, timeout=LIMIT_S, check=False).returncode == 78
    finally:
        os.close(reader)
    assert subprocess.run(command, stderr=writer, timeout=LIMIT_S, check=False).returncode == 78
    os.close(writer)
    closed = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    assert subprocess.run(closed, timeout=LIMIT_S, check=False).returncode == 78
