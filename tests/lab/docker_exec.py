"""Run commands in the containers of the lab's Docker engine, as `docker exec` asks for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.lab.docker_http import answer
from tests.lab.docker_words import ApiError

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from tests.lab.docker_containers import LabContainers
    from tests.lab.docker_http import Routes
    from tests.lab.docker_journal import Journal
    from tests.lab.docker_programs import Programs
    from tests.lab.docker_words import Box

RAW = "application/vnd.docker.raw-stream"
STDOUT, STDERR = 1, 2


@dataclass(slots=True)
class Exec:
    """One `docker exec`."""

    id: str
    box: Box
    config: dict[str, Any]
    running: bool = False
    exit_code: int | None = None

    @property
    def text(self) -> str:
        """The command, as events tell it."""
        return " ".join(self.config["Cmd"])


class ExecRequests:
    """What clients ask and tell about commands in containers."""

    def __init__(self, containers: LabContainers, programs: Programs, journal: Journal) -> None:
        self._execs: dict[str, Exec] = {}
        self._containers = containers
        self._programs = programs
        self._journal = journal

    def routes(self) -> Routes:
        """Method, path and handler of each."""
        return [
            ("POST", "/containers/{name}/exec", self._create),
            ("POST", "/exec/{id}/start", self._start),
            ("GET", "/exec/{id}/json", self._inspect),
        ]

    async def _create(self, request: web.Request) -> web.Response:
        box, config = self._containers.find(request.match_info["name"]), await request.json()
        if not box.running:
            raise ApiError(409, f"Container {box.id} is not running")
        if not config.get("Cmd"):
            raise ApiError(400, "No exec command specified")
        run = Exec(secrets.token_hex(32), box, config)
        self._execs[run.id] = run
        self._journal.container(f"exec_create: {run.text} ", box, execID=run.id)
        return answer({"Id": run.id}, status=201)

    async def _start(self, request: web.Request) -> web.StreamResponse:
        run, how = self._find(request), await request.json()
        self._journal.container(f"exec_start: {run.text} ", run.box, execID=run.id)
        if how.get("Detach"):
            process = await self._program(run, pipe=asyncio.subprocess.DEVNULL)
            self._programs.in_background(self._await_end(run, process))
            return web.Response(status=200)
        await self._attach(request, run, raw=bool(how.get("Tty")))
        return web.Response()  # never sent: the connection was taken over and is closed

    async def _inspect(self, request: web.Request) -> web.Response:
        run = self._find(request)
        command, *arguments = run.config["Cmd"]
        return answer(
            {
                "ID": run.id,
                "Running": run.running,
                "ExitCode": run.exit_code,
                "ContainerID": run.box.id,
                "ProcessConfig": {"entrypoint": command, "arguments": arguments},
                "Pid": 0,
            }
        )

    def _find(self, request: web.Request) -> Exec:
        run = self._execs.get(request.match_info["id"])
        if run is None:
            raise ApiError(404, f"No such exec instance: {request.match_info['id']}")
        return run

    async def _program(self, run: Exec, pipe: int) -> Process:
        process = await self._programs.start_beside(run.box, run.config, pipe)
        run.running = True
        return process

    async def _await_end(self, run: Exec, process: Process) -> None:
        code = await self._programs.ended(process)
        run.running, run.exit_code = False, code
        self._journal.container("exec_die", run.box, execID=run.id, exitCode=str(code))

    async def _attach(self, request: web.Request, run: Exec, *, raw: bool) -> None:
        """Take the connection over, as Docker does: from here on it carries the program's own bytes."""
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        http, reader = transport.get_protocol(), asyncio.StreamReader()
        ours = asyncio.StreamReaderProtocol(reader)
        transport.set_protocol(ours)
        ours.connection_made(transport)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"
        if "upgrade" in request.headers:
            head = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: %s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        transport.write(head % RAW.encode())
        try:
            await self._pump(run, reader, transport, raw=raw)
        finally:
            transport.set_protocol(http)
            transport.close()

    async def _pump(
        self, run: Exec, reader: asyncio.StreamReader, transport: asyncio.Transport, *, raw: bool
    ) -> None:
        def send(kind: int, data: bytes) -> None:
            if not transport.is_closing():
                transport.write(data if raw else struct.pack(">BxxxL", kind, len(data)) + data)

        async def carry(source: asyncio.StreamReader | None, kind: int) -> None:
            while source is not None and (data := await source.read(65536)):
                send(kind, data)

        async def feed(process: Process) -> None:
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                while run.config.get("AttachStdin") and (data := await reader.read(65536)):
                    process.stdin.write(data)
                    await process.stdin.drain()
            process.stdin.close()

        try:
            process = await self._program(run, pipe=asyncio.subprocess.PIPE)
        except OSError:
            run.exit_code = 126
            program = run.config["Cmd"][0]
            text = (
                f'OCI runtime exec failed: exec: "{program}": executable file not found in $PATH: unknown\r\n'
            )
            send(STDOUT, text.encode())
            return
        feeder = asyncio.ensure_future(feed(process))
        await asyncio.gather(carry(process.stdout, STDOUT), carry(process.stderr, STDERR))
        await self._await_end(run, process)
        feeder.cancel()
