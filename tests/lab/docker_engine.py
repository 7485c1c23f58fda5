"""Stand in for Docker: a small engine that speaks the Docker HTTP API (1.41) on a Unix socket.

Its containers are plain child processes, each in a session of its own: no isolation, no root needed.
It must not know kubesyncd. The contract suite holds it to the real dockerd's answers; the words of its errors
are those of Docker 20.10. Alone: `python -m tests.lab.docker_engine SOCKET`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.lab.docker_words import (
    ApiError,
    Box,
    Image,
    box_matches,
    described,
    event_matches,
    image_tag,
    iso,
    nanos,
    signal_number,
    summary,
)
from tests.lab.processes import stat_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

API_VERSION = "1.41"
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
EVENTS_MAX = 256  # Docker's own journal has this length, and loses what is older
BACKLOG_MAX = 1024
# Beside `fail`, for an engine in another process: a status, a message, and the calls that fail with them.
FAILS = "fails.json"
HOLDS = "holds.json"
# The calls that have been held back.
HELD = "held"
# A line for each restart that SIGHUP (or, with live-restore, SIGUSR1) has caused.
RESTARTS = "restarts"
RAW = "application/vnd.docker.raw-stream"
STDOUT, STDERR = 1, 2

# Registered before the program runs, so that its first connection already finds whose it is.
GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")


@dataclass(slots=True)
class Exec:
    """One `docker exec`."""

    id: str
    box: Box
    config: dict[str, Any]
    running: bool = False
    exit_code: int | None = None


class LabDocker:
    """The engine: `async with LabDocker(folder) as docker`, then talk to `docker.socket`.

    Knobs for faults: `freeze()`, `thaw()` as SIGSTOP does, `restart()`, `fail` (method and path to an error),
    `kills_on_dropped_stop` as Docker 23.0 and 24.0 did (moby#45731).
    """

    def __init__(self, folder: Path, socket: Path | None = None) -> None:
        self.folder = folder
        self.socket = socket or folder / "docker.sock"
        self.boxes: dict[str, Box] = {}
        self.execs: dict[str, Exec] = {}
        self.images: list[Image] = []
        self.fail: dict[tuple[str, str], ApiError] = {}
        self.kills_on_dropped_stop = False
        self.live_restore = False
        self._starting: set[str] = set()
        self._journal: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._readers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._reapers: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    async def __aenter__(self) -> Self:
        (self.folder / "sessions").mkdir(parents=True, exist_ok=True)
        self.add_image("busybox:lab")
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.thaw()
        await self.shut()
        for box in self.boxes.values():
            box.told = True
            _kill_container(box.pid, box.id[:12])
        await asyncio.gather(*self._reapers)

    async def open(self) -> None:
        """Begin to answer."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(_sign)
        for method, path, handler in self._routes():
            for prefix in ("", r"/v{version:\d+\.\d+}"):
                app.router.add_route(method, prefix + path, handler)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def shut(self) -> None:
        """Stop answering; every connection is closed, the journal is lost, containers stay."""
        if self._runner is not None:
            await self._runner.cleanup()
        self.socket.unlink(missing_ok=True)
        self._journal.clear()

    async def restart(self, *, live_restore: bool) -> None:
        """As `systemctl restart docker` does: without live-restore the containers are stopped with it."""
        await self.shut()
        manually = {box.id for box in self.boxes.values() if not box.running and box.told}
        if not live_restore:
            await asyncio.gather(*(self._end(box, grace_s=2.0) for box in self._running()))
        self._journal.clear()
        for box in self.boxes.values():
            if not box.running and _starts_with_engine(box, manually=box.id in manually):
                with contextlib.suppress(ApiError):
                    await self._run(box)
        await self.open()

    def freeze(self) -> None:
        """Answer no request until `thaw()`; connections stay open."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on where `freeze()` stopped."""
        self._thawed.set()

    def add_image(self, tag: str, **config: Any) -> Image:
        """Have an image; `config` in Docker's words (Cmd, Env, Labels …)."""
        image = Image(f"sha256:{secrets.token_hex(32)}", [tag], time.time_ns(), config)
        self.images.append(image)
        return image

    # The API, by path.

    def _routes(self) -> list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]]:
        box, image = "/containers/{name}", "/images/{name:.+}"
        return [
            ("GET", "/_ping", self._ping),  # HEAD comes with it
            ("GET", "/version", self._version),
            ("GET", "/info", self._info),
            ("GET", "/events", self._events),
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
            ("POST", box + "/exec", self._exec_create),
            ("POST", "/exec/{id}/start", self._exec_start),
            ("GET", "/exec/{id}/json", self._exec_inspect),
            ("POST", "/commit", self._commit),
            ("GET", "/images/json", self._image_list),
            ("GET", image + "/json", self._image_inspect),
            ("POST", image + "/tag", self._image_tag),
            ("DELETE", image, self._image_remove),
        ]

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        await self._thawed.wait()
        try:
            self._admit(request)
            async with self._held_back(request):
                return await handler(request)
        except ApiError as answer:
            if answer.status == 304:
                return web.Response(status=304)
            return _json({"message": answer.message}, status=answer.status)
        except web.HTTPNotFound:
            return _json({"message": "page not found"}, status=404)

    def _admit(self, request: web.Request) -> None:
        version = request.match_info.get("version", API_VERSION)
        if tuple(map(int, version.split("."))) > tuple(map(int, API_VERSION.split("."))):
            raise ApiError(
                400, f"client version {version} is too new. Maximum supported API version is {API_VERSION}"
            )
        call = request.method, request.path.removeprefix(f"/v{version}")
        if call in self.fail:
            raise self.fail[call]
        with contextlib.suppress(FileNotFoundError):
            status, message, *calls = json.loads((self.folder / FAILS).read_text())
            if [*call] in calls:
                raise ApiError(status, message)

    @contextlib.asynccontextmanager
    async def _held_back(self, request: web.Request) -> AsyncIterator[None]:
        """Wait while `holds.json` names this call, or the start of the container that it is about.

        Docker locks a container while it starts it: all but the list waits for that.
        """
        if not (self.folder / HOLDS).exists():
            yield
            return
        path = re.sub(r"^/v\d+\.\d+", "", request.path)
        of_one = path.startswith("/containers/") and "name" in request.match_info
        box_id = self._box(request).id if of_one else ""
        starts = of_one and path.endswith("/start")
        while not starts and box_id in self._starting:
            await asyncio.sleep(0.02)
        if starts:
            self._starting.add(box_id)
        try:
            call = f"{request.method} {path}"
            if self._holds(call):
                with (self.folder / HELD).open("a") as file:
                    file.write(f"{call}\n")
            while self._holds(call):
                await asyncio.sleep(0.02)
            yield
        finally:
            self._starting.discard(box_id)

    def _holds(self, call: str) -> bool:
        try:
            return any(re.fullmatch(held, call) for held in json.loads((self.folder / HOLDS).read_text()))
        except FileNotFoundError:
            return False

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Cache-Control": "no-cache, no-store, must-revalidate"})

    async def _version(self, _: web.Request) -> web.Response:
        kernel = os.uname()
        engine = {
            "Version": "20.10.24+lab",
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
        return _json({"Platform": {"Name": "lab"}, "Components": [component], **engine})

    async def _info(self, _: web.Request) -> web.Response:
        running = len(self._running())
        return _json(
            {
                "ID": "LAB",
                "Name": os.uname().nodename,
                "ServerVersion": "20.10.24+lab",
                "OSType": "linux",
                "Driver": "none",
                "Containers": len(self.boxes),
                "ContainersRunning": running,
                "ContainersPaused": 0,
                "ContainersStopped": len(self.boxes) - running,
                "Images": len(self.images),
                "LiveRestoreEnabled": self.live_restore,
            }
        )

    async def _list(self, request: web.Request) -> web.Response:
        wanted = _filters(request, allowed=("name", "id", "label", "status"))
        everything = _flag(request, "all") or "status" in wanted
        boxes = [b for b in self.boxes.values() if (everything or b.running) and box_matches(b, wanted)]
        boxes.sort(key=lambda b: b.created, reverse=True)
        return _json([summary(b) for b in boxes[: int(request.query.get("limit", 0)) or None]])

    async def _create(self, request: web.Request) -> web.Response:
        config = await request.json()
        host = config.pop("HostConfig", None) or {}
        config.pop("NetworkingConfig", None)
        name = request.query.get("name") or f"lab_{secrets.token_hex(4)}"
        if not NAME.fullmatch(name):
            raise ApiError(
                400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )
        image = self._image(config.get("Image", ""))
        merged = {**config, "Labels": {**(image.config.get("Labels") or {}), **(config.get("Labels") or {})}}
        merged["Env"] = [*(image.config.get("Env") or []), *(config.get("Env") or [])]
        merged["Cmd"] = config.get("Cmd") or image.config.get("Cmd")
        if not merged["Cmd"] and not config.get("Entrypoint"):
            raise ApiError(400, "No command specified")
        self._free(name)
        box = Box(secrets.token_hex(32), name, config["Image"], image.id, merged, host, time.time_ns())
        self.boxes[box.id] = box
        self._emit("create", box)
        return _json({"Id": box.id, "Warnings": []}, status=201)

    async def _inspect(self, request: web.Request) -> web.Response:
        return _json(described(self._box(request)))

    async def _start(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running:
            raise ApiError(304, "")
        await self._run(box)
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if not box.running:
            raise ApiError(304, "")
        grace_s = float(request.query.get("t", box.config.get("StopTimeout") or 10))
        dropped = request.transport if self.kills_on_dropped_stop else None
        await self._end(box, grace_s, dropped=dropped)
        self._emit("stop", box)
        return web.Response(status=204)

    async def _restart(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running:
            await self._end(box, float(request.query.get("t", 10)))
            self._emit("stop", box)
        await self._run(box)
        self._emit("restart", box)
        return web.Response(status=204)

    async def _kill(self, request: web.Request) -> web.Response:
        number = signal_number(request.query.get("signal") or "KILL")
        try:
            box = self._box(request)
        except ApiError as answer:
            name = request.match_info["name"]
            raise ApiError(404, f"Cannot kill container: {name}: {answer.message}") from None
        if not box.running:
            name = request.match_info["name"]
            raise ApiError(409, f"Cannot kill container: {name}: Container {box.id} is not running")
        self._signal_box(box, number)
        if number == signal.SIGKILL:
            await box.ended.wait()
        return web.Response(status=204)

    async def _pause(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.status != "running":
            raise ApiError(409, f"Container {box.id} is {'already paused' if box.running else 'not running'}")
        os.kill(box.pid, signal.SIGSTOP)
        box.status = "paused"
        self._emit("pause", box)
        return web.Response(status=204)

    async def _unpause(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.status != "paused":
            raise ApiError(500, f"Container {box.id} is not paused")
        self._resume(box)
        return web.Response(status=204)

    def _resume(self, box: Box) -> None:
        os.kill(box.pid, signal.SIGCONT)
        box.status = "running"
        self._emit("unpause", box)

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
        box, name, old = self._box(request), request.query.get("name", ""), ""
        if name == box.name:
            raise ApiError(400, "Renaming a container with the same name as its current name")
        try:
            self._free(name)
        except ApiError as answer:
            raise ApiError(409, f"Error when allocating new name: {answer.message}") from None
        old, box.name = box.name, name
        self._emit("rename", box, oldName=f"/{old}")
        return web.Response(status=204)

    async def _update(self, request: web.Request) -> web.Response:
        box, wanted = self._box(request), await request.json()
        box.host = {**box.host, **wanted}
        self._emit("update", box)
        return _json({"Warnings": []})

    async def _remove(self, request: web.Request) -> web.Response:
        box = self._box(request)
        if box.running and not _flag(request, "force"):
            raise ApiError(
                409,
                f"You cannot remove a running container {box.id}. "
                "Stop the container before attempting removal or force remove",
            )
        if box.running:
            self._signal_box(box, signal.SIGKILL)
            await box.ended.wait()
        self._destroy(box)
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        wanted = _filters(request, allowed=("type", "event", "container", "label", "image"))
        since, until = nanos(request.query.get("since")), nanos(request.query.get("until"))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(BACKLOG_MAX)
        past = [e for e in self._journal if since is not None and e["timeNano"] >= since]
        self._readers.add(queue)
        try:
            async with asyncio.timeout(None if until is None else max(0, until - time.time_ns()) / 1e9):
                async for event in _chained(past, queue):
                    await self._thawed.wait()
                    if event_matches(event, wanted):
                        await response.write(json.dumps(event).encode() + b"\n")
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._readers.discard(queue)
        return response

    async def _exec_create(self, request: web.Request) -> web.Response:
        box, config = self._box(request), await request.json()
        if not box.running:
            raise ApiError(409, f"Container {box.id} is not running")
        if not config.get("Cmd"):
            raise ApiError(400, "No exec command specified")
        run = Exec(secrets.token_hex(32), box, config)
        self.execs[run.id] = run
        self._emit(f"exec_create: {' '.join(config['Cmd'])} ", box, execID=run.id)
        return _json({"Id": run.id}, status=201)

    async def _exec_start(self, request: web.Request) -> web.StreamResponse:
        run, how = self._exec(request), await request.json()
        self._emit(f"exec_start: {' '.join(run.config['Cmd'])} ", run.box, execID=run.id)
        if how.get("Detach"):
            process = await self._exec_process(run, pipe=asyncio.subprocess.DEVNULL)
            self._reap_later(self._exec_reap(run, process))
            return web.Response(status=200)
        await self._exec_attached(request, run, raw=bool(how.get("Tty")))
        return web.Response()  # never sent: the connection was taken over and is closed

    async def _exec_inspect(self, request: web.Request) -> web.Response:
        run = self._exec(request)
        command, *arguments = run.config["Cmd"]
        return _json(
            {
                "ID": run.id,
                "Running": run.running,
                "ExitCode": run.exit_code,
                "ContainerID": run.box.id,
                "ProcessConfig": {"entrypoint": command, "arguments": arguments},
                "Pid": 0,
            }
        )

    async def _image_list(self, _: web.Request) -> web.Response:
        return _json(
            [
                {
                    "Id": i.id,
                    "RepoTags": i.tags or None,
                    "RepoDigests": None,
                    "ParentId": "",
                    "Created": i.created // 10**9,
                    "Labels": i.config.get("Labels"),
                    "Size": 0,
                    "VirtualSize": 0,
                    "SharedSize": -1,
                    "Containers": -1,
                }
                for i in self.images
            ]
        )

    async def _commit(self, request: web.Request) -> web.Response:
        """An image as the container is, but for what the caller says instead."""
        box = next((b for b in self.boxes.values() if request.query["container"] in (b.id, b.name)), None)
        if box is None:
            raise ApiError(404, f"No such container: {request.query['container']}")
        said = await request.json() if request.can_read_body else None
        image = self.add_image("", **{**box.config, **(said or {})})
        image.tags.clear()
        self._name(image, image_tag(f"{request.query['repo']}:{request.query.get('tag') or 'latest'}"))
        return _json({"Id": image.id}, status=201)

    async def _image_inspect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            image = self._image(name)
        except ApiError as answer:
            raise ApiError(404, f"no such image: {name}: {answer.message}") from None
        return _json(
            {
                "Id": image.id,
                "RepoTags": image.tags,
                "RepoDigests": [],
                "Created": iso(image.created),
                "Config": image.config,
                "Architecture": "amd64",
                "Os": "linux",
                "Size": 0,
            }
        )

    async def _image_tag(self, request: web.Request) -> web.Response:
        image = self._image(request.match_info["name"])
        self._name(image, image_tag(f"{request.query['repo']}:{request.query.get('tag') or 'latest'}"))
        return web.Response(status=201)

    def _name(self, image: Image, tag: str) -> None:
        """A name means one image: the one that had it before loses it."""
        for other in self.images:
            if tag in other.tags:
                other.tags.remove(tag)
        image.tags.append(tag)
        self._tell("image", "tag", image.id, {"name": tag})

    async def _image_remove(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        image = self._image(name)
        tag = image_tag(name)
        user = next((b for b in self.boxes.values() if b.image_id == image.id), None)
        if tag in image.tags and len(image.tags) > 1:
            image.tags.remove(tag)
            self._tell("image", "untag", image.id, {"name": image.id})
            return _json([{"Untagged": tag}])
        if user is not None and not _flag(request, "force"):
            short = image.id.removeprefix("sha256:")[:12]
            raise ApiError(
                409,
                f'conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {user.id[:12]} is using its referenced image {short}",
            )
        self.images.remove(image)
        for action in (*("untag" for _ in image.tags), "delete"):
            self._tell("image", action, image.id, {"name": image.id})
        return _json([*({"Untagged": t} for t in image.tags), {"Deleted": image.id}])

    # Containers as processes.

    async def _run(self, box: Box) -> None:
        env = self._environment(box, {})
        program = shutil.which(box.argv[0], path=env["PATH"])
        if program is None:
            box.exit_code = 127
            box.error = (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start "
                f'container process: exec: "{box.argv[0]}": executable file not found in $PATH: unknown'
            )
            raise ApiError(400, box.error)
        with (self.folder / f"{box.id[:12]}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *GATE,
                *box.argv,
                env=env,
                cwd=box.config.get("WorkingDir") or self.folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._register(process.pid, box)
        box.status, box.pid, box.exit_code, box.error = "running", process.pid, 0, ""
        box.told = False
        box.started, box.finished = time.time_ns(), 0
        box.ended.clear()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        self._emit("start", box)
        self._reap_later(self._reap(box, process))

    async def _reap(self, box: Box, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        _kill_container(process.pid, box.id[:12])
        self._unregister(process.pid)
        again = self._restarts(box)
        box.status, box.pid, box.finished = "restarting" if again else "exited", 0, time.time_ns()
        box.exit_code = code if code >= 0 else 128 - code
        self._emit("die", box, exitCode=str(box.exit_code))
        if again:
            await self._again(box)
            return
        box.ended.set()
        if box.host.get("AutoRemove") and box.id in self.boxes:
            self._destroy(box)

    def _restarts(self, box: Box) -> bool:
        policy = (box.host.get("RestartPolicy") or {}).get("Name") or "no"
        return policy != "no" and not box.told and self._runner is not None

    async def _again(self, box: Box) -> None:
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
            await self._run(box)

    async def _end(self, box: Box, grace_s: float, dropped: asyncio.BaseTransport | None = None) -> None:
        """SIGTERM, and SIGKILL after the grace, or at once where the caller's connection is dropped."""
        self._signal_box(box, signal_number(box.config.get("StopSignal") or "TERM"))
        try:
            async with asyncio.timeout(grace_s):
                while not box.ended.is_set() and not (dropped is not None and dropped.is_closing()):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(box.ended.wait(), 0.05 if dropped is not None else None)
        except TimeoutError:
            pass
        if not box.ended.is_set():
            self._signal_box(box, signal.SIGKILL)
            await box.ended.wait()

    def _signal_box(self, box: Box, number: int) -> None:
        box.told = True
        self._emit("kill", box, signal=str(number))
        if box.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(box.pid, number)
        if box.status == "paused":
            self._resume(box)

    def _destroy(self, box: Box) -> None:
        del self.boxes[box.id]
        box.removed = True
        self._emit("destroy", box)

    def _reap_later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._reapers.add(task)
        task.add_done_callback(self._reapers.discard)

    async def _exec_process(self, run: Exec, pipe: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *run.config["Cmd"],
            env=self._environment(run.box, run.config),
            cwd=run.config.get("WorkingDir") or run.box.config.get("WorkingDir") or self.folder,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        self._register(process.pid, run.box)
        run.running = True
        return process

    async def _exec_reap(self, run: Exec, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        self._unregister(process.pid)
        run.running, run.exit_code = False, code if code >= 0 else 128 - code
        self._emit("exec_die", run.box, execID=run.id, exitCode=str(run.exit_code))

    async def _exec_attached(self, request: web.Request, run: Exec, *, raw: bool) -> None:
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
            await self._exec_pump(run, reader, transport, raw=raw)
        finally:
            transport.set_protocol(http)
            transport.close()

    async def _exec_pump(
        self, run: Exec, reader: asyncio.StreamReader, transport: asyncio.Transport, *, raw: bool
    ) -> None:
        def send(kind: int, data: bytes) -> None:
            if not transport.is_closing():
                transport.write(data if raw else struct.pack(">BxxxL", kind, len(data)) + data)

        async def carry(source: asyncio.StreamReader | None, kind: int) -> None:
            while source is not None and (data := await source.read(65536)):
                send(kind, data)

        async def feed(process: asyncio.subprocess.Process) -> None:
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                while run.config.get("AttachStdin") and (data := await reader.read(65536)):
                    process.stdin.write(data)
                    await process.stdin.drain()
            process.stdin.close()

        try:
            process = await self._exec_process(run, pipe=asyncio.subprocess.PIPE)
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
        await self._exec_reap(run, process)
        feeder.cancel()

    def _environment(self, box: Box, config: Mapping[str, Any]) -> dict[str, str]:
        given = [*(box.config.get("Env") or []), *(config.get("Env") or [])]
        base = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/", "HOSTNAME": box.id[:12]}
        return base | dict(pair.split("=", 1) for pair in given if "=" in pair)

    def _register(self, pid: int, box: Box) -> None:
        (self.folder / "sessions" / str(pid)).write_text(box.id)

    def _unregister(self, pid: int) -> None:
        (self.folder / "sessions" / str(pid)).unlink(missing_ok=True)

    # Looking things up.

    def _running(self) -> list[Box]:
        return [box for box in self.boxes.values() if box.running]

    def _box(self, request: web.Request) -> Box:
        """As Docker resolves: whole ID, whole name, beginning of an ID."""
        word = request.match_info["name"]
        if word in self.boxes:
            return self.boxes[word]
        named = [box for box in self.boxes.values() if box.name == word.removeprefix("/")]
        found = named or [box for box in self.boxes.values() if box.id.startswith(word)]
        if len(found) != 1:
            raise ApiError(404, f"No such container: {word}")
        return found[0]

    def _exec(self, request: web.Request) -> Exec:
        run = self.execs.get(request.match_info["id"])
        if run is None:
            raise ApiError(404, f"No such exec instance: {request.match_info['id']}")
        return run

    def _image(self, name: str) -> Image:
        tag = image_tag(name)
        short = name.removeprefix("sha256:")
        for image in self.images:
            if tag in image.tags or (len(short) >= 12 and image.id[7:].startswith(short)):
                return image
        raise ApiError(404, f"No such image: {tag}")

    def _free(self, name: str) -> None:
        for box in self.boxes.values():
            if box.name == name:
                raise ApiError(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{box.id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                )

    def _emit(self, action: str, box: Box, **extra: str) -> None:
        attributes = {**box.labels, **extra, "image": box.image, "name": box.name}
        self._tell("container", action, box.id, attributes, **{"from": box.image})

    def _tell(self, kind: str, action: str, actor: str, attributes: Mapping[str, str], **more: str) -> None:
        now = time.time_ns()
        event = {
            "status": action,
            "id": actor,
            **more,
            "Type": kind,
            "Action": action,
            "Actor": {"ID": actor, "Attributes": dict(attributes)},
            "scope": "local",
            "time": now // 10**9,
            "timeNano": now,
        }
        self._journal.append(event)
        for queue in self._readers:
            # Like Docker: a slow reader loses events without a notice.
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(event)


def _starts_with_engine(box: Box, *, manually: bool) -> bool:
    """Whether dockerd starts it when it starts itself; `manually`: a client had ended it before.

    A policy `on-failure` does not ask who had ended it.
    """
    policy = (box.host.get("RestartPolicy") or {}).get("Name") or "no"
    by_policy = {"always": True, "unless-stopped": not manually, "on-failure": box.exit_code != 0}
    return bool(box.started) and by_policy.get(policy, False)


def container_of(folder: Path, pid: int) -> str | None:
    """The ID of the container that process `pid` lives in, by the LabDocker that works in `folder`.

    Without isolation there is no cgroup to read, so ancestry tells: a process is in a container if it, or an
    ancestor, belongs to the session of one of its programs. Raises OSError for a pid that is gone.
    """
    while pid > 1:
        stat = stat_of(pid)
        with contextlib.suppress(FileNotFoundError):
            return (folder / "sessions" / str(stat.session)).read_text()
        pid = stat.parent
    return None


def _kill_container(leader: int, host_name: str) -> None:
    """End all processes of a container whose first process has ended.

    What has a session of its own, and no parent left, is known by the host name in its environment.
    """
    if not leader:
        return
    mark = f"HOSTNAME={host_name}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            session = stat_of(int(entry.name)).session
            if session == leader or mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


async def _chained(
    past: list[dict[str, Any]], queue: asyncio.Queue[dict[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    for event in past:
        yield event
    while True:
        yield await queue.get()


def _json(content: Any, status: int = 200) -> web.Response:
    """Without a charset, as Docker: clients compare the content type to the letter."""
    body = json.dumps(content).encode() + b"\n"
    return web.Response(body=body, status=status, headers={"Content-Type": "application/json"})


async def _sign(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Api-Version"] = API_VERSION
    response.headers["Ostype"] = "linux"
    response.headers["Docker-Experimental"] = "false"


def _flag(request: web.Request, key: str) -> bool:
    return request.query.get(key, "").lower() in ("1", "true")


def _filters(request: web.Request, allowed: tuple[str, ...]) -> dict[str, list[str]]:
    """Filters come as lists or, from the docker command, as maps to true."""
    given: dict[str, Any] = json.loads(request.query.get("filters") or "{}")
    for key in given:
        if key not in allowed:
            raise ApiError(400, f"Invalid filter '{key}'")
    return {key: list(values) for key, values in given.items() if values}


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
