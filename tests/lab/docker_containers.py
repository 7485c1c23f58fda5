"""Keep the containers of the lab's Docker engine, and carry out what they are told: run, end, pause, go away.

Knows no request. A method for what Docker may refuse raises ApiError with Docker's words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import time
from typing import TYPE_CHECKING, Any

from tests.lab.docker_programs import kill_all, let_go, send_signal
from tests.lab.docker_words import ApiError, Box, signal_number

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from tests.lab.docker_journal import Journal
    from tests.lab.docker_programs import Programs
    from tests.lab.docker_words import Image

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# How long a restart of the engine waits for a container.
ENGINE_GRACE_S = 2.0


class LabContainers:
    """The containers of one engine: `boxes`, by ID."""

    def __init__(self, programs: Programs, journal: Journal) -> None:
        self.boxes: dict[str, Box] = {}
        self._programs = programs
        self._journal = journal

    def running(self) -> list[Box]:
        """Those that have not ended; paused ones, and ones that Docker restarts, too."""
        return [box for box in self.boxes.values() if box.running]

    def find(self, word: str) -> Box:
        """As Docker resolves: whole ID, whole name, beginning of an ID."""
        if word in self.boxes:
            return self.boxes[word]
        named = [box for box in self.boxes.values() if box.name == word.removeprefix("/")]
        found = named or [box for box in self.boxes.values() if box.id.startswith(word)]
        if len(found) != 1:
            raise ApiError(404, f"No such container: {word}")
        return found[0]

    def create(self, name: str, image: Image, config: dict[str, Any], host: dict[str, Any]) -> Box:
        """Make a container from the image; `config` and `host` are the caller's words."""
        if not NAME.fullmatch(name):
            raise ApiError(
                400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )
        merged = {**config, "Labels": {**(image.config.get("Labels") or {}), **(config.get("Labels") or {})}}
        merged["Env"] = [*(image.config.get("Env") or []), *(config.get("Env") or [])]
        merged["Cmd"] = config.get("Cmd") or image.config.get("Cmd")
        if not merged["Cmd"] and not config.get("Entrypoint"):
            raise ApiError(400, "No command specified")
        self._free(name)
        box = Box(secrets.token_hex(32), name, config["Image"], image.id, merged, host, time.time_ns())
        self.boxes[box.id] = box
        self._journal.container("create", box)
        return box

    def rename(self, box: Box, name: str) -> None:
        """Give it another name."""
        if name == box.name:
            raise ApiError(400, "Renaming a container with the same name as its current name")
        try:
            self._free(name)
        except ApiError as answer:
            raise ApiError(409, f"Error when allocating new name: {answer.message}") from None
        old, box.name = box.name, name
        self._journal.container("rename", box, oldName=f"/{old}")

    def _free(self, name: str) -> None:
        for box in self.boxes.values():
            if box.name == name:
                raise ApiError(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{box.id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                )

    # ---- a container's life ---------------------------------------------------------------------

    async def run(self, box: Box) -> None:
        """Start its program."""
        if self._programs.find(box) is None:
            box.exit_code = 127
            box.error = (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
                f'container process: exec: "{box.argv[0]}": executable file not found in $PATH: unknown'
            )
            raise ApiError(400, box.error)
        # A stop that comes while the process is made must hold.
        box.told = False
        process = await self._programs.start(box)
        box.status, box.pid, box.exit_code, box.error = "running", process.pid, 0, ""
        box.started, box.finished = time.time_ns(), 0
        box.ended.clear()
        let_go(process)
        self._journal.container("start", box)
        self._programs.in_background(self._await_end(box, process))

    async def _await_end(self, box: Box, process: Process) -> None:
        code = await self._programs.all_ended(box, process)
        again = _policy(box) != "no" and not box.told
        box.status, box.pid, box.finished = "restarting" if again else "exited", 0, time.time_ns()
        box.exit_code = code
        self._journal.container("die", box, exitCode=str(code))
        if again:
            await self._run_again(box)
            return
        box.ended.set()
        if box.host.get("AutoRemove") and box.id in self.boxes:
            self.destroy(box)

    async def _run_again(self, box: Box) -> None:
        """Start it again by its policy: after 100 ms, then twice as long each time."""
        delay_s, box.restarts = 0.1 * 2**box.restarts, box.restarts + 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                while not box.told:
                    await asyncio.sleep(0.01)
        if box.told or box.removed:
            box.status = "exited"
            box.ended.set()
        else:
            await self.run(box)

    async def stop(self, box: Box, grace_s: float, dropped: asyncio.BaseTransport | None = None) -> None:
        """End it as `docker stop` does; `dropped`: end it at once where this connection is closed."""
        await self._end(box, grace_s, dropped)
        self._journal.container("stop", box)

    async def _end(self, box: Box, grace_s: float, dropped: asyncio.BaseTransport | None = None) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        self.signal(box, signal_number(box.config.get("StopSignal") or "TERM"))
        try:
            async with asyncio.timeout(grace_s):
                while not box.ended.is_set() and not (dropped is not None and dropped.is_closing()):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(box.ended.wait(), 0.05 if dropped is not None else None)
        except TimeoutError:
            pass
        if not box.ended.is_set():
            await self.kill(box)

    async def kill(self, box: Box) -> None:
        """End it at once."""
        self.signal(box, signal.SIGKILL)
        await box.ended.wait()

    def signal(self, box: Box, number: int) -> None:
        """Send a signal to its program; its restart policy does not start it again."""
        box.told = True
        self._journal.container("kill", box, signal=str(number))
        if box.pid:
            send_signal(box.pid, number)
        if box.status == "paused":
            self.resume(box)

    def pause(self, box: Box) -> None:
        """Have its program halt."""
        if box.status != "running":
            raise ApiError(409, f"Container {box.id} is {'already paused' if box.running else 'not running'}")
        os.kill(box.pid, signal.SIGSTOP)
        box.status = "paused"
        self._journal.container("pause", box)

    def resume(self, box: Box) -> None:
        """Undo `pause`."""
        if box.status != "paused":
            raise ApiError(500, f"Container {box.id} is not paused")
        os.kill(box.pid, signal.SIGCONT)
        box.status = "running"
        self._journal.container("unpause", box)

    def destroy(self, box: Box) -> None:
        """Remove one that has ended."""
        del self.boxes[box.id]
        box.removed = True
        self._journal.container("destroy", box)

    # ---- with the engine ------------------------------------------------------------------------

    async def end_with_engine(self) -> None:
        """End all that run, as an engine without live-restore does when it ends."""
        await asyncio.gather(*(self._end(box, ENGINE_GRACE_S) for box in self.running()))

    def ended_by_clients(self) -> set[str]:
        """IDs of those that a client has ended."""
        return {box.id for box in self.boxes.values() if not box.running and box.told}

    async def start_with_engine(self, by_clients: set[str]) -> None:
        """Run what a restart policy names; `by_clients`: those that a client had ended before the engine ended."""
        for box in self.boxes.values():
            if not box.running and _starts_with_engine(box, manually=box.id in by_clients):
                with contextlib.suppress(ApiError):
                    await self.run(box)

    async def kill_for_good(self) -> None:
        """Leave no process; no event tells of it."""
        for box in self.boxes.values():
            box.told = True
            if box.pid:
                kill_all(box, box.pid)
        await self._programs.none_left()


def _policy(box: Box) -> str:
    return (box.host.get("RestartPolicy") or {}).get("Name") or "no"


def _starts_with_engine(box: Box, *, manually: bool) -> bool:
    """Whether dockerd starts it when it starts itself; `manually`: a client had ended it before.

    A policy `on-failure` does not ask who had ended it.
    """
    by_policy = {"always": True, "unless-stopped": not manually, "on-failure": box.exit_code != 0}
    return bool(box.started) and by_policy.get(_policy(box), False)
