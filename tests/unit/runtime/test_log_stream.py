"""The log's stream: what becomes of lines when their reader is slow, stuck, gone, or its disk is full."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kubesyncd.runtime.log_stream import LogStream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_S = 60.0
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
            text += await asyncio.to_thread(os.read, reader, PAGE)
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


@pytest.mark.parametrize("broken", ["reader gone", "disk full"])
def test_lines_that_cannot_be_written_are_counted_and_told_when_they_can(broken: str, tmp_path: Path) -> None:
    if broken == "disk full":
        fd, why = os.open("/dev/full", os.O_WRONLY), os.strerror(errno.ENOSPC)
    else:
        reader, fd = os.pipe()
        os.close(reader)
        why = os.strerror(errno.EPIPE)
    log = stream(fd)
    put(log, lines(1, 3))
    with (tmp_path / "log").open("w") as good:
        os.dup2(good.fileno(), fd)
    log.write("again\n")
    log.write("and on\n")
    os.close(fd)
    assert (tmp_path / "log").read_text() == f"lost 3: it could not be written: {why}\nagain\nand on\n"


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


def test_a_process_whose_log_is_closed_or_stuck_ends_with_its_own_code(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[docker]\n" + "".join(f"unknown{number} = 1\n" for number in range(999)))
    command = [sys.executable, "-m", "kubesyncd", "--config", str(wrong)]
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, F_SETPIPE_SZ, PAGE)
        begun = time.monotonic()
        assert subprocess.run(command, stderr=writer, timeout=LIMIT_S, check=False).returncode == 78
    finally:
        os.close(reader)
    assert subprocess.run(command, stderr=writer, timeout=LIMIT_S, check=False).returncode == 78
    os.close(writer)
    closed = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    assert subprocess.run(closed, timeout=LIMIT_S, check=False).returncode == 78
    assert begun
