"""End processes of the lab: in good order, frozen, and by force."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.lab.engines import end

DEAF = "trap '' TERM; echo; while :; do sleep 0.05; done"


def test_a_frozen_process_ends_by_its_signal() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        process.send_signal(signal.SIGSTOP)
        end(process)
    assert process.returncode == -signal.SIGTERM
    end(process)
    end(None)


@pytest.mark.parametrize("leads", [True, False])
def test_a_process_that_does_not_end_is_killed_and_is_an_error(leads: bool) -> None:
    command = ["sh", "-c", DEAF]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=leads) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            end(process, limit_s=0.1)
    assert process.returncode == -signal.SIGABRT
