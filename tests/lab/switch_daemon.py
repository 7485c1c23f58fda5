"""Run a virtual switch's daemon, ask it over its socket, and read its log."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.lab.engines import LabDockerProcess, end, spawn
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.lab.engines import Docker
    from tests.lab.switch_paths import SwitchPaths

# How long whatever a switch does may take: kubelet 1.20 may delete an ended pod only with its next collection of
# sandboxes, once a minute, and the next pod comes after that.
PATIENCE_S = 300.0


class SwitchDaemon:
    """`python -m kubesyncd` with the switch's settings. `python`, `environ`: its interpreter and environment.

    `log_file`: where it logs, and where `log` reads. `overdue`: whether it did not end in time when it was told to.
    """

    def __init__(self, paths: SwitchPaths, engine: Docker, python: str, environ: Mapping[str, str]) -> None:
        self.overdue = False
        self.log_file = paths.folder / "log"
        self._paths = paths
        self._program = ["kubesyncd"]
        if isinstance(engine, LabDockerProcess):
            self._program = ["tests.lab.daemon", str(engine.folder)]
        self._python = python
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    # ---- the process ----------------------------------------------------------------------------

    def start(self, crash_after: int | str = 0, **environ: str) -> None:
        """Answering when this returns. `crash_after`: it ends without a word after so many effects; 0: it does not.
        With `@SIGUSR1` behind the number, effects count from that signal on. `environ`: for this life only.
        """
        self.launch([*run_module(crash_after), *self._program], **environ)
        until(self.answers, f"the daemon does not answer; see {self.log_file}")

    def launch(self, program: list[str], **environ: str) -> None:
        """Start it without waiting for anything."""
        arguments = [*program, "--config", str(self._paths.settings)]
        environ = {"PYTHONFAULTHANDLER": "1", **self._environ, **environ}
        self._process = spawn(arguments, self.log_file, python=self._python, environ=environ)

    def stop(self) -> None:
        """As `systemctl stop kubesyncd` does."""
        try:
            end(self._process)
        except subprocess.TimeoutExpired:
            self.overdue = True
        self._process = None

    def kill9(self) -> None:
        """It is gone at once."""
        end(self._process, signal.SIGKILL)
        self._process = None

    def restart(self) -> None:
        """Killed at once and started again."""
        self.kill9()
        self.start()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "the daemon was stopped"
        return self._process

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    # ---- its socket -----------------------------------------------------------------------------

    def answers(self) -> bool:
        """Whether the daemon answers."""
        if not self.runs:
            raise AssertionError(f"the daemon ended with {self.process.returncode}\n{self.told()}")
        with contextlib.suppress(OSError):
            return bool(self.raw(b"1\0cluster\n"))
        return False

    def ask(self, *arguments: str) -> tuple[int, list[str]]:
        """Code and standard output of one request, over the host socket itself."""
        reply = self.raw("\0".join(["1", *arguments]).encode() + b"\n").decode()
        lines = reply.splitlines()
        assert lines, f"no answer to {arguments}; {self.told()}"
        return int(lines[-1].removeprefix("R ")), [line[2:] for line in lines if line.startswith("O ")]

    def raw(self, request: bytes, sock: Path | None = None) -> bytes:
        """What the daemon answers to these bytes."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(PATIENCE_S)
            link.connect(str(sock or self._paths.host_sock))
            link.sendall(request)
            return b"".join(iter(lambda: link.recv(65536), b""))

    # ---- its log --------------------------------------------------------------------------------

    def log(self, event: str = "", **fields: Any) -> list[dict[str, Any]]:
        """The log lines so far with this event and these fields."""
        found = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if event in ("", entry.get("event")) and all(entry.get(k) == v for k, v in fields.items()):
                    found.append(entry)
        return found

    @property
    def tracebacks(self) -> list[str]:
        """Every log line about an unexpected error."""
        text = self.log_file.read_text(errors="replace")
        plain = [text[at : at + 4000] for at in [text.find("Traceback")] if at >= 0]
        return plain + [line for line in text.splitlines() if '"exception"' in line]

    def told(self) -> str:
        """The end of the log, for a test that failed."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-25:])


def run_module(crash_after: int | str) -> list[str]:
    """What has Python run a module, and end after so many effects."""
    return ["-m", "tests.lab.crash_points", str(crash_after)] if crash_after else ["-m"]
