"""Check the commands on a real terminal: `watch` until its end, and the commands in the documentation."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.cli.operator import Operator

LIMIT_S = 180.0
# Long enough that a process that has received a key has ended before it is typed again.
AGAIN_S = 15.0
# What each picture of `watch` begins with.
HOME = "\x1b[H"
DOCUMENTATION = ROOT / "docs" / "operators.md"


class Terminal:
    """A process on a terminal of its own, 80 columns wide; `seen` is all it has written."""

    def __init__(self, operator: Operator, line: str) -> None:
        environ = {**os.environ, **operator.environ, "TERM": "xterm-256color", "LINES": "40"}
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            # Whoever runs the tests in the background has this ignored, and so would the command.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            command = [sys.executable, "-m", "kubesyncd.cli", *line.split()]
            os.execve(sys.executable, command, environ)
        self.seen = ""

    def until(self, condition: Callable[[str], bool]) -> None:
        """Read until `condition` holds of the last picture of those that came since the last call."""
        deadline, self.seen = time.monotonic() + LIMIT_S, ""
        while not condition(self.seen.rpartition(HOME)[2]):
            assert time.monotonic() < deadline, self.seen
            if select.select([self._fd], [], [], 1.0)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")

    def types(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def ends(self, keys: bytes = b"") -> int:
        """Its exit code; `keys` are typed, and now and then again: Python misses one between two of its own steps."""
        deadline, due = time.monotonic() + LIMIT_S, 0.0
        while (now := time.monotonic()) < deadline:
            with contextlib.suppress(OSError):
                if now >= due:
                    due = now + AGAIN_S
                    os.write(self._fd, keys)
                if select.select([self._fd], [], [], 0.3)[0]:
                    self.seen += os.read(self._fd, 65536).decode(errors="replace")
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(self.seen)

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


@contextlib.contextmanager
def on_terminal(operator: Operator, line: str) -> Iterator[Terminal]:
    terminal = Terminal(operator, line)
    try:
        yield terminal
    finally:
        terminal.close()


def test_watch_follows_what_happens_survives_a_restart_and_ends_with_ctrl_c(terminal: Operator) -> None:
    with on_terminal(terminal, "watch") as screen:
        screen.until(lambda seen: "LOCAL_TO_KUBE" in seen)
        terminal.daemon.features["snmp"]["state"] = "KUBE_RUNNING"
        screen.until(lambda seen: "LOCAL_TO_KUBE" not in seen and seen.count("KUBE_RUNNING") >= 2)
        terminal.daemon.stop()
        screen.until(lambda seen: "the daemon is not running" in seen and "KUBE_RUNNING" in seen)
        with terminal.daemon:
            screen.until(lambda seen: "connected" in seen and "not running" not in seen)
        assert screen.ends(b"\x03") == 0
        assert "Traceback" not in screen.seen


def test_a_question_is_answered_at_a_terminal(terminal: Operator) -> None:
    with on_terminal(terminal, "config feature bgp owner kube") as screen:
        screen.until(lambda seen: "Go on? [y/N]" in seen)
        screen.types(b"y\n")
        assert screen.ends() == 0
    assert terminal.configured("FEATURE|bgp")["set_owner"] == "kube"


def test_a_question_that_is_interrupted_changes_nothing(terminal: Operator) -> None:
    with on_terminal(terminal, "config feature bgp owner kube") as screen:
        screen.until(lambda seen: "Go on? [y/N]" in seen)
        assert screen.ends(b"\x03") == 64
    assert terminal.configured("FEATURE|bgp")["set_owner"] == "local"


def documented() -> list[str]:
    """Every command line of the documentation."""
    lines = [line.removeprefix("$ ").removeprefix("sudo ") for line in DOCUMENTATION.read_text().splitlines()]
    return sorted({line.removeprefix("kubesync ") for line in lines if line.startswith("kubesync ")})


@pytest.mark.parametrize("line", documented())
def test_what_the_documentation_tells_to_type_is_a_command(terminal: Operator, line: str) -> None:
    terminal.unit("gnmi")
    result = terminal.types(line, answers="y\n")
    assert result.exit_code != 64, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
