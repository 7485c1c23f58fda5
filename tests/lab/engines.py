"""Start and stop the lab's Docker engine and API server as processes of their own.

Same shape as tests/system's engines, so that a switch takes either. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol

from tests.lab.processes import freeze
from tests.paths import ROOT
from tests.wait import until, until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

END_S_MAX, ABORT_S_MAX = 60.0, 5.0


class Docker(Protocol):
    """A Docker engine."""

    folder: Path
    socket: Path

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def held_start(self, container_id: str) -> AbstractContextManager[Callable[[], bool]]: ...
    async def restart(self, *, live_restore: bool) -> None: ...


class Kube(Protocol):
    """An API server, and the kubelet of its node `node` as a unit for tests/lab/systemctl.py."""

    node: str
    admin_conf: Path
    kubelet_conf: Path

    @property
    def url(self) -> str: ...
    def start(self) -> None: ...
    def stop_api(self) -> None: ...
    def freeze_api(self) -> None: ...
    def thaw_api(self) -> None: ...
    def stop(self) -> None: ...
    def kubelet_unit(self, docker_socket: Path) -> dict[str, Any]: ...


class LabDockerProcess:
    """tests.lab.docker_engine under `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Answering when this returns."""
        self._process = spawn(["-m", "tests.lab.docker_engine", str(self.socket)], self.folder / "log")
        until(self._listens, f"the lab's Docker engine does not answer; see {self.folder}/log")

    def fail(self, *paths: str, message: str = "input/output error") -> None:
        """Answer GET on these paths with 500; without any, answer all again."""
        file = self.folder / "fails.new"
        file.write_text(json.dumps([500, message, *(["GET", path] for path in paths)]))
        file.rename(self.folder / "fails.json")

    def hold(self, *calls: str) -> None:
        """Answer calls like `POST /images/.+/tag` (regular expressions) only once they are let go; without any, all."""
        file = self.folder / "holds.json"
        if not calls:
            file.unlink(missing_ok=True)
            return
        new = self.folder / "holds.new"
        new.write_text(json.dumps(calls))
        new.rename(file)

    @contextlib.contextmanager
    def held_start(self, container_id: str) -> Iterator[Callable[[], bool]]:
        """Keep the engine from starting this container; what is yielded tells whether it was asked to."""
        call = f"POST /containers/{container_id}/start"
        asked = self.folder / "held"
        asked.unlink(missing_ok=True)
        self.hold(call)
        try:
            yield lambda: asked.exists() and call in asked.read_text()
        finally:
            self.hold()

    async def restart(self, *, live_restore: bool) -> None:
        """As `systemctl restart docker` does; with live-restore the containers live on."""
        assert self._process is not None
        done = self.folder / "restarts"
        before = done.read_text() if done.exists() else ""
        self._process.send_signal(signal.SIGUSR1 if live_restore else signal.SIGHUP)
        await until_async(lambda: done.exists() and done.read_text() != before, "the engine has restarted")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            return link.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        """End it, and its containers."""
        process, self._process = self._process, None
        try:
            end(process)
        except subprocess.TimeoutExpired as late:
            late.add_note((self.folder / "log").read_text()[-3000:])
            raise


class LabKubeProcess:
    """tests.lab.kube_api under `folder`, and tests.lab.kubelet as a unit."""

    def __init__(self, folder: Path, node: str = "switch1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.node = node
        self.admin_conf = folder / "admin.conf"
        self.kubelet_conf = folder / "kubelet.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{(self.folder / 'port').read_text()}"

    def start(self) -> None:
        """Answering when this returns; where it answered before, with the same objects."""
        if self._process is not None and self._process.poll() is None:
            return
        log = self.folder / "log"
        said_before = log.read_bytes().count(b"ready ") if log.exists() else 0
        self._process = spawn(["-m", "tests.lab.kube_api", str(self.folder), "--node", self.node], log)
        until(
            lambda: log.read_bytes().count(b"ready ") > said_before,
            f"the lab's API server does not answer; see {log}",
        )

    def stop_api(self) -> None:
        """End it at once; the objects stay."""
        end(self._process, signal.SIGKILL)
        self._process = None

    def freeze_api(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        freeze(self._process.pid)

    def thaw_api(self) -> None:
        """Go on where `freeze_api` stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self.stop_api()

    def kubelet_unit(self, docker_socket: Path) -> dict[str, Any]:
        """The kubelet as a unit for tests/lab/systemctl.py."""
        command = ["-m", "tests.lab.kubelet", "--kubeconfig", str(self.kubelet_conf), "--node", self.node]
        return {
            "command": [sys.executable, *command, "--docker", str(docker_socket)],
            "cwd": str(ROOT),
            "pid_file": str(self.folder / "kubelet.pid"),
        }


def spawn(
    arguments: list[str], log: Path, *, python: str = sys.executable, environ: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A Python with these arguments, from the checkout's root, in a session of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with log.open("ab") as said:
        return subprocess.Popen(
            [python, *arguments],
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def end(
    process: subprocess.Popen[Any] | None, how: signal.Signals = signal.SIGTERM, limit_s: float = END_S_MAX
) -> None:
    """End a process with this signal, also one that is frozen. Raises subprocess.TimeoutExpired as `await_end` does."""
    if process is None:
        return
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)
    await_end(process, limit_s)


def await_end(process: subprocess.Popen[Any], limit_s: float = END_S_MAX) -> None:
    """Return once a process has ended that was told to.

    One that takes too long is killed, with its group where it leads one: then raises subprocess.TimeoutExpired.
    """
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        leads = os.getpgid(process.pid) == process.pid
        # A fault handler, where there is one, tells where it hangs.
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ABORT_S_MAX)
        if leads:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        raise
