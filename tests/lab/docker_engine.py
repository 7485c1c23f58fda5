"""Stand in for Docker: a small engine that speaks the Docker HTTP API (1.41) on a Unix socket.

Its containers are plain child processes, each in a session of its own: no isolation, no root needed. As for PID 1 of a
real container, a signal that has no handler in a container's first process does not end it, except SIGKILL.
It must not know kubesyncd. The contract suite holds it to the real dockerd's answers; the words of its errors
are those of Docker 20.10. Alone: `python -m tests.lab.docker_engine SOCKET`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.lab.docker_containers import LabContainers
from tests.lab.docker_exec import ExecRequests
from tests.lab.docker_faults import LabFaults
from tests.lab.docker_images import ImageRequests, LabImages
from tests.lab.docker_journal import Journal
from tests.lab.docker_programs import Programs
from tests.lab.docker_requests import ContainerRequests
from tests.lab.docker_server import EngineRequests, LabServer

if TYPE_CHECKING:
    from tests.lab.docker_words import Box

# A line for each restart that SIGHUP (or, with live-restore, SIGUSR1) has caused.
RESTARTS = "restarts"


class LabDocker:
    """The engine: `async with LabDocker(folder) as docker`, then talk to `docker.socket`.

    `faults`: what it does wrong. `journal`: its events.
    """

    def __init__(self, folder: Path, socket: Path | None = None) -> None:
        self.folder = folder
        self.socket = socket or folder / "docker.sock"
        self.faults = LabFaults(folder)
        self.journal = Journal()
        self._images = LabImages(self.journal)
        programs = Programs(folder)
        self._containers = LabContainers(programs, self.journal)
        parts = (self._containers, self._images, self.journal, self.faults)
        routes = [
            *EngineRequests(*parts).routes(),
            *ContainerRequests(*parts).routes(),
            *ExecRequests(self._containers, programs, self.journal).routes(),
            *ImageRequests(self._images, self._containers).routes(),
        ]
        self._server = LabServer(self.socket, routes, self._containers, self.faults)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def boxes(self) -> dict[str, Box]:
        """Its containers, by ID."""
        return self._containers.boxes

    async def __aenter__(self) -> Self:
        (self.folder / "sessions").mkdir(parents=True, exist_ok=True)
        self._images.add("busybox:lab")
        await self._server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.thaw()
        await self._server.shut()
        await self._containers.kill_for_good()

    async def shut(self) -> None:
        """Stop answering, and lose the events; the containers stay."""
        await self._server.shut()
        self.journal.forget()

    async def restart(self, *, live_restore: bool) -> None:
        """As `systemctl restart docker` does: without live-restore the containers are stopped with it."""
        await self._server.shut()
        by_clients = self._containers.ended_by_clients()
        if not live_restore:
            await self._containers.end_with_engine()
        self.journal.forget()
        await self._containers.start_with_engine(by_clients)
        await self._server.open()

    def freeze(self) -> None:
        """Answer no request until `thaw()`; connections stay open."""
        self.faults.freeze()

    def thaw(self) -> None:
        """Go on where `freeze()` stopped."""
        self.faults.thaw()


async def _main(socket: Path) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with LabDocker(socket.parent, socket) as docker:
        restarting: set[asyncio.Task[None]] = set()

        async def restart(*, live_restore: bool) -> None:
            await docker.restart(live_restore=live_restore)
            with (socket.parent / RESTARTS).open("a") as done:
                done.write("restarted\n")

        for number, live_restore in ((signal.SIGHUP, False), (signal.SIGUSR1, True)):
            asyncio.get_running_loop().add_signal_handler(
                number,
                lambda kept=live_restore: restarting.add(asyncio.ensure_future(restart(live_restore=kept))),
            )
        print(socket, flush=True)
        await ended.wait()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.lab.docker_engine SOCKET")
    asyncio.run(_main(Path(sys.argv[1]).absolute()))
