"""Run the programs of the lab's containers as plain processes, and tell which container a process is in.

A program has a session of its own; a file `sessions/PID` in the engine's folder names the container. The folder alone
tells other processes, too, so `container_of` needs no engine. Knows no request and no event.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.processes import catches, stat_of

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Coroutine, Mapping

    from tests.lab.docker_words import Box

# Registered before the program runs, so that its first connection already finds whose it is.
GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")
# What the kernel carries out also for the first process of a PID namespace that has no handler for it.
ALWAYS_OBEYED = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT)


class Programs:
    """The processes of one engine's containers. `folder`: the engine's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions = folder / "sessions"
        self._awaited: set[asyncio.Task[None]] = set()

    def find(self, box: Box) -> str | None:
        """The path of the container's program; None where there is none."""
        return shutil.which(box.argv[0], path=_environment(box, {})["PATH"])

    async def start(self, box: Box) -> Process:
        """Start the container's program; it waits for `let_go`."""
        with (self._folder / f"{box.id[:12]}.log").open("ab") as log:
            return await self._spawn(
                box, {}, (*GATE, *box.argv), stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
            )

    async def start_beside(self, box: Box, config: Mapping[str, Any], pipe: int) -> Process:
        """Start what `docker exec` with this config runs in the container. Raises OSError where there is no program."""
        return await self._spawn(box, config, config["Cmd"], stdin=pipe, stdout=pipe, stderr=pipe)

    async def _spawn(
        self, box: Box, config: Mapping[str, Any], command: tuple[str, ...] | list[str], **streams: Any
    ) -> Process:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=_environment(box, config),
            cwd=config.get("WorkingDir") or box.config.get("WorkingDir") or self._folder,
            start_new_session=True,
            **streams,
        )
        (self._sessions / str(process.pid)).write_text(box.id)
        return process

    async def ended(self, process: Process) -> int:
        """Return once a program has ended, with its exit code as Docker tells it."""
        code = await process.wait()
        (self._sessions / str(process.pid)).unlink(missing_ok=True)
        return code if code >= 0 else 128 - code

    async def all_ended(self, box: Box, process: Process) -> int:
        """Return once a container's program has ended, and with it what else runs in the container."""
        await process.wait()
        kill_all(box, process.pid)
        return await self.ended(process)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Await the end of a program beside what else happens."""
        task = asyncio.ensure_future(work)
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)

    async def none_left(self) -> None:
        """Return once nothing is awaited in the background."""
        await asyncio.gather(*self._awaited)


def let_go(process: Process) -> None:
    """Have a program run that `Programs.start` has started."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a container's program, which the kernel protects from the signals that it does not catch."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if _takes(pid, number):
            os.kill(pid, number)


def _takes(pid: int, number: int) -> bool:
    """Whether a container's first process gets a signal; the gate gets none: a real engine has no gate."""
    begun = GATE[2].encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    return number in ALWAYS_OBEYED or (begun and catches(pid, number))


def kill_all(box: Box, leader: int) -> None:
    """Kill all processes of a container whose program is, or was, process `leader`.

    What has a session of its own, and no parent left, is known by the host name in its environment.
    """
    mark = f"HOSTNAME={box.id[:12]}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            session = stat_of(int(entry.name)).session
            if session == leader or mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def container_of(folder: Path, pid: int) -> str | None:
    """The ID of the container that process `pid` lives in, by the engine that works in `folder`.

    Without isolation there is no cgroup to read, so ancestry tells: a process is in a container if it, or an
    ancestor, belongs to the session of one of its programs. Raises OSError for a pid that is gone.
    """
    while pid > 1:
        stat = stat_of(pid)
        with contextlib.suppress(FileNotFoundError):
            return (folder / "sessions" / str(stat.session)).read_text()
        pid = stat.parent
    return None


def _environment(box: Box, config: Mapping[str, Any]) -> dict[str, str]:
    given = [*(box.config.get("Env") or []), *(config.get("Env") or [])]
    base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "HOSTNAME": box.id[:12]}
    return base | dict(pair.split("=", 1) for pair in given if "=" in pair)
