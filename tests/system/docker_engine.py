"""Run a private dockerd for tests: own folders, own socket, no network.

Knows nothing of kubesyncd and no test: the demo uses it too. Its fixture is in docker_fixtures.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from typing import TYPE_CHECKING

from tests.lab.engines import end
from tests.lab.processes import freeze
from tests.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READY_S = 120.0
IMAGE = "busybox:lab"
# runc, after it has been told the OOM score 0 in place of a negative one.
LENIENT = """#!/bin/sh
last=
for word; do
    [ "$last" = --bundle ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$word/config.json"
    last=$word
done
exec runc "$@"
"""
# runc, which starts a container only once it is let go.
HELD = """#!/bin/sh
for last; do
    [ "$last" != start ] || starts=yes
done
if [ -n "$starts" ] && [ -e "HELD/$last" ]; then
    echo asked >"HELD/$last"
    while [ -e "HELD/$last" ]; do
        sleep 0.05
    done
fi
exec runc "$@"
"""
PROGRAMS = ("sh", "sleep", "true", "cat", "env", "echo", "kill")


def missing_for_docker() -> str:
    """What this machine lacks for a dockerd of our own, in one sentence; empty when nothing."""
    for program in ("dockerd", "docker", "busybox"):
        if shutil.which(program) is None:
            return f"there is no {program}; `make engines` installs it"
    return "" if os.geteuid() == 0 else "dockerd must be started by root"


class RealDocker:
    """dockerd under `folder`, a short path: a socket's name has 107 bytes at most."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._live_restore = False
        self._lenient = False

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Ready to answer when this returns."""
        self._configure()
        command = [
            "dockerd",
            f"--config-file={self.folder}/daemon.json",
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/pid",
            f"--host={self.url}",
            "--iptables=false",
            "--bridge=none",
        ]
        # A containerd that dockerd finds slow writes its stacks to a temporary file.
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "TMPDIR": str(scratch)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: self._get("/_ping") == b"OK", f"an answer of dockerd; see {self.folder}/log")

    def stop(self) -> None:
        """Stop it and, without live-restore, its containers."""
        end(self._process, limit_s=READY_S)

    @contextlib.contextmanager
    def lenient(self) -> Iterator[None]:
        """Meanwhile new containers start although this machine refuses the OOM score that they ask for.

        The kubelet gives static pods -997, and some virtual machines allow no score below 0.
        """
        self._use_lenient(True)
        try:
            yield
        finally:
            self._use_lenient(False)

    def _use_lenient(self, lenient: bool) -> None:
        self._lenient = lenient
        self._reload(b'"DefaultRuntime":"%s"' % (b"lenient" if lenient else b"runc"))

    @contextlib.contextmanager
    def held_start(self, container_id: str) -> Iterator[Callable[[], bool]]:
        """Keep Docker from starting this container (runtime `held`); what is yielded tells whether it was asked to."""
        mark = self.folder / "held" / container_id
        mark.touch()
        try:
            yield lambda: mark.read_text() != ""
        finally:
            mark.unlink()

    async def restart(self, *, live_restore: bool) -> None:
        """As `systemctl restart docker` does; with live-restore the containers live on."""
        await asyncio.to_thread(self._restart, live_restore)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        freeze(self._process.pid)

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._process.send_signal(signal.SIGCONT)

    def import_image(self, tag: str = IMAGE) -> None:
        """An image with nothing but a static busybox in it."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            tar.add(shutil.which("busybox") or "/bin/busybox", "bin/busybox")
            for name in PROGRAMS:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        command = ["docker", "-H", self.url, "import", "-", tag]
        subprocess.run(command, input=content.getvalue(), check=True, capture_output=True, timeout=READY_S)

    def _restart(self, live_restore: bool) -> None:
        self._live_restore = live_restore
        self._reload(b'"LiveRestoreEnabled":%s' % json.dumps(live_restore).encode())
        self.stop()
        self.start()

    def tasks(self) -> set[str]:
        """The containers of which containerd still has a process: those that run, and ended ones for a moment."""
        place = self.folder / "exec" / "containerd" / "daemon" / "io.containerd.runtime.v2.task" / "moby"
        return {bundle.name for bundle in place.glob("*")}

    def _reload(self, wanted: bytes) -> None:
        """Have it read its settings; `wanted`: what /info says then."""
        self._configure()
        self._process.send_signal(signal.SIGHUP)
        until(lambda: wanted in self._get("/info"), f"dockerd has reloaded; see {self.folder}/log")

    def _configure(self) -> None:
        held, wrapper = self.folder / "runc-held", self.folder / "lenient"
        (self.folder / "held").mkdir(exist_ok=True)
        held.write_text(HELD.replace("HELD", str(self.folder / "held")))
        held.chmod(0o755)
        runtimes = {"held": {"path": str(held)}}
        settings: dict[str, object] = {"live-restore": self._live_restore, "runtimes": runtimes}
        if self._lenient:
            wrapper.write_text(LENIENT)
            wrapper.chmod(0o755)
        if wrapper.exists():
            # Containers that were made with it are still to be removed.
            runtimes["lenient"] = {"path": str(wrapper)}
            settings["default-runtime"] = "lenient" if self._lenient else "runc"
        (self.folder / "daemon.json").write_text(json.dumps(settings))

    def _get(self, path: str) -> bytes:
        """The body of one answer, read with nothing that could hide a broken engine."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(READY_S)
            link.connect(str(self.socket))
            link.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            return b"".join(iter(lambda: link.recv(65536), b"")).partition(b"\r\n\r\n")[2]
        return b""
