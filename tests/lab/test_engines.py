"""End processes of the lab: in good order, frozen, and by force."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab.engines import end
from tests.lab.processes import freeze, stat_of
from tests.system.kube_cluster import API_SERVER, RealKube

if TYPE_CHECKING:
    from pathlib import Path

DEAF = "trap '' TERM; echo; while :; do sleep 0.05; done"


def test_a_frozen_process_ends_by_its_signal() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        freeze(process.pid)
        end(process)
    assert process.returncode == -signal.SIGTERM
    end(process)
    end(None)


def test_an_api_server_that_does_not_run_is_thawed_without_a_signal_to_others(tmp_path: Path) -> None:
    """The frozen engines of all workers are in one process group."""
    cluster = RealKube(tmp_path)
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            freeze(process.pid)
            cluster.thaw(API_SERVER)
            with pytest.raises(AssertionError, match="does not run"):
                cluster.signal(API_SERVER, signal.SIGCONT)
            assert stat_of(process.pid).state == "T"
        finally:
            end(process)


# The first thread takes a signal: another one answers.
ANSWERS = """
import os, threading, time
def answer():
    while os.write(1, os.read(0, 1)):
        pass
threading.Thread(target=answer, daemon=True).start()
time.sleep(600)
"""


def test_a_frozen_process_with_threads_answers_nothing_even_on_a_busy_machine() -> None:
    command = [sys.executable, "-c", ANSWERS]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process,
        contextlib.ExitStack() as ended,
    ):
        ended.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(4):
            spinner = ended.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            ended.callback(spinner.kill)
        for _ in range(4):
            process.stdin.write(b"x")
            assert process.stdout.read(1) == b"x"
            freeze(process.pid)
            process.stdin.write(b"x")
            assert not select.select([process.stdout], [], [], 0.1)[0]
            process.send_signal(signal.SIGCONT)
            assert process.stdout.read(1) == b"x"


@pytest.mark.parametrize("leads", [True, False])
def test_a_process_that_does_not_end_is_killed_and_is_an_error(leads: bool) -> None:
    command = ["sh", "-c", DEAF]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=leads) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            end(process, limit_s=0.1)
    assert process.returncode == -signal.SIGABRT
