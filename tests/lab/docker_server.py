"""Serve the API of the lab's Docker engine on its socket, and answer what is about the engine as a whole."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from aiohttp import web

from tests.lab.docker_http import API_VERSION, answer, filters, sign
from tests.lab.docker_words import ApiError, event_matches, nanos

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.lab.docker_containers import LabContainers
    from tests.lab.docker_faults import LabFaults
    from tests.lab.docker_http import Handler, Routes
    from tests.lab.docker_images import LabImages
    from tests.lab.docker_journal import Journal

VERSION = "20.10.24+lab"


class LabServer:
    """The API on one socket: `open()`, and `shut()`."""

    def __init__(self, socket: Path, routes: Routes, containers: LabContainers, faults: LabFaults) -> None:
        self._socket = socket
        self._routes = routes
        self._containers = containers
        self._faults = faults
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Begin to answer."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(sign)
        for method, path, handler in self._routes:
            for prefix in ("", r"/v{version:\d+\.\d+}"):
                app.router.add_route(method, prefix + path, handler)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        self._socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self._socket)).start()

    async def shut(self) -> None:
        """Stop answering; every connection is closed."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.unlink(missing_ok=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        await self._faults.thawed()
        try:
            _check_version(request)
            path = re.sub(r"^/v\d+\.\d+", "", request.path)
            self._faults.check(request.method, path)
            async with self._held(request, path):
                return await handler(request)
        except ApiError as error:
            if error.status == 304:
                return web.Response(status=304)
            return answer({"message": error.message}, status=error.status)
        except web.HTTPNotFound:
            return answer({"message": "page not found"}, status=404)

    def _held(self, request: web.Request, path: str) -> AbstractAsyncContextManager[None]:
        if not self._faults.holding:
            return nullcontext()
        name = request.match_info.get("name") if path.startswith("/containers/") else None
        box_id = "" if name is None else self._containers.find(name).id
        return self._faults.held(f"{request.method} {path}", box_id)


class EngineRequests:
    """What clients ask about the engine as a whole."""

    def __init__(
        self, containers: LabContainers, images: LabImages, journal: Journal, faults: LabFaults
    ) -> None:
        self._containers = containers
        self._images = images
        self._journal = journal
        self._faults = faults

    def routes(self) -> Routes:
        """Method, path and handler of each."""
        return [
            ("GET", "/_ping", self._ping),  # HEAD comes with it
            ("GET", "/version", self._version),
            ("GET", "/info", self._info),
            ("GET", "/events", self._events),
        ]

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Cache-Control": "no-cache, no-store, must-revalidate"})

    async def _version(self, _: web.Request) -> web.Response:
        kernel = os.uname()
        engine = {
            "Version": VERSION,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": "1.12",
            "GitCommit": "lab",
            "GoVersion": "none",
            "Os": "linux",
            "Arch": "amd64" if kernel.machine == "x86_64" else kernel.machine,
            "KernelVersion": kernel.release,
            "BuildTime": "",
        }
        component = {"Name": "Engine", "Version": engine["Version"], "Details": engine}
        return answer({"Platform": {"Name": "lab"}, "Components": [component], **engine})

    async def _info(self, _: web.Request) -> web.Response:
        every, running = len(self._containers.boxes), len(self._containers.running())
        return answer(
            {
                "ID": "LAB",
                "Name": os.uname().nodename,
                "ServerVersion": VERSION,
                "OSType": "linux",
                "Driver": "none",
                "Containers": every,
                "ContainersRunning": running,
                "ContainersPaused": 0,
                "ContainersStopped": every - running,
                "Images": len(self._images.all),
                "LiveRestoreEnabled": False,
            }
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        wanted = filters(request, allowed=("type", "event", "container", "label", "image"))
        since, until = nanos(request.query.get("since")), nanos(request.query.get("until"))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            with self._journal.read(since) as events:
                async with asyncio.timeout(None if until is None else max(0, until - time.time_ns()) / 1e9):
                    async for event in events:
                        await self._faults.thawed()
                        if event_matches(event, wanted):
                            await response.write(json.dumps(event).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
        return response


def _check_version(request: web.Request) -> None:
    version = request.match_info.get("version", API_VERSION)
    if tuple(map(int, version.split("."))) > tuple(map(int, API_VERSION.split("."))):
        raise ApiError(
            400, f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )
