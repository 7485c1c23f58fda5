"""Answer the requests about the containers of the lab's Docker engine."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from typing import TYPE_CHECKING

from aiohttp import web

from tests.lab.docker_http import answer, done, filters, flag
from tests.lab.docker_words import ApiError, box_matches, described, signal_number, summary

if TYPE_CHECKING:
    from tests.lab.docker_containers import LabContainers
    from tests.lab.docker_faults import LabFaults
    from tests.lab.docker_http import Routes
    from tests.lab.docker_images import LabImages
    from tests.lab.docker_journal import Journal
    from tests.lab.docker_words import Box

STOP_GRACE_S = 10


class ContainerRequests:
    """What clients ask and tell about containers."""

    def __init__(
        self, containers: LabContainers, images: LabImages, journal: Journal, faults: LabFaults
    ) -> None:
        self._containers = containers
        self._images = images
        self._journal = journal
        self._faults = faults

    def routes(self) -> Routes:
        """Method, path and handler of each."""
        box = "/containers/{name}"
        return [
            ("GET", "/containers/json", self._list),
            ("POST", "/containers/create", self._create),
            ("GET", box + "/json", self._inspect),
            ("POST", box + "/start", self._start),
            ("POST", box + "/stop", self._stop),
            ("POST", box + "/restart", self._restart),
            ("POST", box + "/kill", self._kill),
            ("POST", box + "/pause", self._pause),
            ("POST", box + "/unpause", self._unpause),
            ("POST", box + "/wait", self._wait),
            ("POST", box + "/rename", self._rename),
            ("POST", box + "/update", self._update),
            ("DELETE", box, self._remove),
        ]

    def _box(self, request: web.Request) -> Box:
        return self._containers.find(request.match_info["name"])

    async def _list(self, request: web.Request) -> web.Response:
        wanted = filters(request, allowed=("name", "id", "label", "status"))
        everything = flag(request, "all") or "status" in wanted
        boxes = [
            box
            for box in self._containers.boxes.values()
            if (everything or box.running) and box_matches(box, wanted)
        ]
        boxes.sort(key=lambda box: box.created, reverse=True)
        return answer([summary(box) for box in boxes[: int(request.query.get("limit", 0)) or None]])

    async def _create(self, request: web.Request) -> web.Response:
        config = await request.json()
        host = config.pop("HostConfig", None) or {}
        config.pop("NetworkingConfig", None)
        name = request.query.get("name") or f"lab_{secrets.token_hex(4)}"
        box = self._containers.create(name, self._images.find(config.get("Image", "")), config, host)
        return answer({"Id": box.id, "Warnings": []}, status=201)

    async def _inspect(self, request: web.Request) -> web.Response:
        return answer(described(self._box(request)))

    async def _start(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running:
            raise ApiError(304, "")
        await self._containers.run(box)
        return done()

    async def _stop(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if not box.running:
            raise ApiError(304, "")
        grace_s = float(request.query.get("t", box.config.get("StopTimeout") or STOP_GRACE_S))
        dropped = request.transport if self._faults.kills_on_dropped_stop else None
        await self._containers.stop(box, grace_s, dropped)
        return done()

    async def _restart(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running:
            await self._containers.stop(box, float(request.query.get("t", STOP_GRACE_S)))
        await self._containers.run(box)
        self._journal.container("restart", box)
        return done()

    async def _kill(self, request: web.Request) -> web.Response:
        number, name = signal_number(request.query.get("signal") or "KILL"), request.match_info["name"]
        try:
            box = self._box(request)
        except ApiError as error:
            raise ApiError(404, f"Cannot kill container: {name}: {error.message}") from None
        if not box.running:
            raise ApiError(409, f"Cannot kill container: {name}: Container {box.id} is not running")
        if number == signal.SIGKILL:
            await self._containers.kill(box)
        else:
            self._containers.signal(box, number)
        return done()

    async def _pause(self, request: web.Request) -> web.Response:
        self._containers.pause(self._box(request))
        return done()

    async def _unpause(self, request: web.Request) -> web.Response:
        self._containers.resume(self._box(request))
        return done()

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        condition = request.query.get("condition") or "not-running"
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if condition == "next-exit" and not box.running:
            box.ended.clear()
        if condition != "not-running" or box.running:
            await box.ended.wait()
        while condition == "removed" and not box.removed:
            await asyncio.sleep(0.02)
        await response.write(json.dumps({"Error": None, "StatusCode": box.exit_code}).encode() + b"\n")
        await response.write_eof()
        return response

    async def _rename(self, request: web.Request) -> web.Response:
        self._containers.rename(self._box(request), request.query.get("name", ""))
        return done()

    async def _update(self, request: web.Request) -> web.Response:
        box, wanted = self._box(request), await request.json()
        box.host = {**box.host, **wanted}
        self._journal.container("update", box)
        return answer({"Warnings": []})

    async def _remove(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running and not flag(request, "force"):
            raise ApiError(
                409,
                f"You cannot remove a running container {box.id}. "
                "Stop the container before attempting removal or force remove",
            )
        if box.running:
            await self._containers.kill(box)
        self._containers.destroy(box)
        return done()
