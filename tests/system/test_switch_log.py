"""Check that trouble with the daemon's log stays there: its reader is stuck, or gone, or its disk is full."""

from __future__ import annotations

import fcntl
import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.switch import Switch
    from tests.system.switch_fixtures import MakeSwitch

F_SETPIPE_SZ = 1031
PAGE = 4096
# Enough lines to fill the pipe twice over.
ROUNDS = 4


@pytest.fixture
def lab_switch(new_switch: MakeSwitch, lab_docker: object) -> Switch:
    """A switch on the lab's engine: what is told here does not depend on Docker."""
    return new_switch(lab_docker)


@pytest.fixture
def pipe(lab_switch: Switch) -> Iterator[tuple[Path, int]]:
    """A named pipe that takes one page, and its reading end."""
    path = lab_switch.folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, F_SETPIPE_SZ, PAGE)
    yield path, reader
    os.close(reader)


def start_logging_to(switch: Switch, log: Path) -> None:
    switch.daemon.stop()
    usual, switch.daemon.log_file = switch.daemon.log_file, log
    try:
        switch.daemon.start()
    finally:
        switch.daemon.log_file = usual


def stop_and_start(switch: Switch, times: int = ROUNDS) -> None:
    for _ in range(times):
        switch.done("stop", "snmp")
        switch.done("start", "snmp")
    switch.until_state("snmp", "LOCAL")


def test_a_stuck_reader_of_the_log_holds_up_nothing_and_misses_nothing(
    lab_switch: Switch, pipe: tuple[Path, int]
) -> None:
    path, reader = pipe
    start_logging_to(lab_switch, path)
    lab_switch.boot_local("snmp")
    stop_and_start(lab_switch)
    text = b""

    def heard() -> int:
        nonlocal text
        with suppress(BlockingIOError):
            while more := os.read(reader, PAGE):
                text += more
        return text.count(b'"action": "docker start"')

    lab_switch.wait_for(lambda: heard() >= ROUNDS + 1, "every line, now that the log is read")
    assert b"log_lines_lost" not in text


def test_the_daemon_outlives_the_reader_of_its_log(lab_switch: Switch, pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    start_logging_to(lab_switch, path)
    lab_switch.boot_local("snmp")
    # The last reader goes.
    os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
    stop_and_start(lab_switch)
    assert lab_switch.daemon.runs


def test_the_daemon_outlives_a_full_disk_behind_its_log_and_tells_how_much_is_missing(
    lab_switch: Switch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path)], check=True)
    try:
        start_logging_to(lab_switch, log)
        lab_switch.boot_local("snmp")
        stop_and_start(lab_switch)
        lab_switch.wait_for(lambda: log.stat().st_size == PAGE, "the disk is full")
        os.truncate(log, 0)
        stop_and_start(lab_switch, 1)
        lab_switch.wait_for(lambda: "log_lines_lost" in log.read_text(), "the number of lost lines")
        lab_switch.daemon.stop()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
