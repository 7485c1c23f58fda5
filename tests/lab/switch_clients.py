"""Run a virtual switch's client scripts and operators' commands as its units and operators do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.lab.switch_daemon import PATIENCE_S, run_module
from tests.lab.switch_units import LAB
from tests.paths import ROOT
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.switch_paths import SwitchPaths

CLIENTS = ROOT / "clients"


class SwitchClients:
    """The clients of one switch. `docker_url`: its engine. `told`: what a failure ends with."""

    def __init__(self, paths: SwitchPaths, docker_url: str, told: Callable[[], str]) -> None:
        self._paths = paths
        self._docker_url = docker_url
        self._told = told
        self._running: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a client on this switch finds in its environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "DOCKER_HOST": self._docker_url,
            "KUBESYNCD_HOST_SOCK": str(self._paths.host_sock),
            "KUBESYNCD_CONTAINER_SOCK": str(self._paths.container_sock),
            "KUBESYNCD_LEDGER": str(self._paths.ledger),
            "KUBESYNCD_STATE": str(self._paths.state),
            "KUBESYNCD_BOOT_ID": str(self._paths.boot_id),
        }

    def run(self, program: str, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run one of the client scripts to its end."""
        return subprocess.run(
            [str(CLIENTS / program), *arguments],
            env=self.environment, capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip

    def done(self, *arguments: str) -> None:
        """Run the `container` script; it must succeed."""
        ended = self.run("container", *arguments)
        assert ended.returncode == 0, f"container {' '.join(arguments)}: {ended}\n{self._told()}"

    def spawn(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """The `container` script, left running."""
        client = subprocess.Popen(
            [str(CLIENTS / "container"), *arguments],
            env={**self.environment, **environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append(client)
        return client

    def waits(self, feature: str) -> subprocess.Popen[str]:
        """`container wait` as a unit runs it, once the daemon has told it what it waits for.

        One that the daemon dies on before may give up, as on any other first contact.
        """
        status = self._paths.folder / f"status-{len(self._running)}"
        status.unlink(missing_ok=True)  # of a boot before
        path = f"{LAB}:{self.environment['PATH']}"
        client = self.spawn("wait", feature, PATH=path, NOTIFY_SOCKET=str(status))
        until(status.exists, f"wait {feature} is told what it waits for", PATIENCE_S, told=self._told)
        return client

    def end(self) -> None:
        """End those left running."""
        for client in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()
        self._running.clear()

    def kubesync(
        self, *arguments: str, crash_after: int = 0, limit_s: float = 120.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run an operator's command to its end, with more in its environment; `crash_after` as for the daemon."""
        command = [sys.executable, *run_module(crash_after), "kubesyncd.cli"]
        return subprocess.run(
            [*command, "--config", str(self._paths.settings), *arguments],
            cwd=ROOT, env={**self.environment, **environ}, capture_output=True, text=True, timeout=limit_s,
            check=False,
        )  # fmt: skip

    def prints(self, *arguments: str) -> str:
        """What an operator's command prints, run in this process: for what is asked again until it is so."""
        # Imported late: demo and benches ask nothing in this way.
        from click.testing import CliRunner

        from kubesyncd.cli.root import root

        config = ["--config", str(self._paths.settings)]
        return (
            CliRunner(env=self.environment).invoke(root, [*config, *arguments], prog_name="kubesync").stdout
        )
