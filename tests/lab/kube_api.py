"""Stand in for a Kubernetes API server: HTTP over TLS, watches and faults.

    python -m tests.lab.kube_api DIR [--port N] [--node NAME]

leaves DIR/admin.conf and DIR/kubelet.conf, prints one line when it is ready and keeps port and objects in
DIR, so that killing and starting it again is a master's outage. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from aiohttp import web

from tests.lab.certificates import Authority, write_kubeconfigs
from tests.lab.kube_rules import (
    RESOURCES,
    ApiError,
    Caller,
    Object,
    Resource,
    authorize,
    check_labels,
    metadata_only,
    restrict_node,
    selected,
)
from tests.lab.kube_store import Change, Store

if TYPE_CHECKING:
    from collections.abc import Callable

# As the real server does it: once a minute, and for the last time this long before the watch ends.
BOOKMARK_S = 60.0
LAST_BOOKMARK_S = 2.0
HEALTH_PATHS = ("/readyz", "/healthz", "/livez")
# OpenSSL's flag of this name: like the real server, we answer an expired client with 401, not with an alert.
X509_V_FLAG_NO_CHECK_TIME = 0x200000
# Of the ports that `free_port` has given to this process.
CLAIMS: list[socket.socket] = []


@dataclass(slots=True)
class Fault:
    """Spoil the next `times` requests whose "METHOD /path?query" contains `match`.

    `lost` carries the request out and then closes without an answer; every other kind spoils it before
    anything has changed. `end` answers 200 with nothing; `delay` waits `seconds` and goes on.
    """

    kind: Literal["status", "hang", "close", "end", "delay", "lost"]
    match: str = ""
    times: int = 1
    status: int = 503
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class LabKube:
    """An API server in this process: `async with LabKube(folder) as api`. `keep`: its port and its objects
    outlive the process in `folder`; they outlive `stop` and `start` in any case.
    """

    def __init__(self, folder: Path, *, node: str = "switch1", port: int = 0, keep: bool = False) -> None:
        self.folder = folder
        self.node = node
        self.authority = Authority(folder / "pki")
        self.admin_conf = folder / "admin.conf"
        self.kubelet_conf = folder / "kubelet.conf"
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.store = Store(folder / "state.json" if keep else None)
        self._keep = keep
        self._port = port
        self._runner: web.ServerRunner | None = None
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def __aenter__(self) -> Self:
        self.store.load()
        kept = self.folder / "port"
        if not self._port:
            self._port = int(kept.read_text()) if self._keep and kept.exists() else free_port()
        kept.write_text(str(self._port))
        if not self._keep or not self.kubelet_conf.exists():
            self.write_kubeconfigs()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"https://127.0.0.1:{self._port}"

    def write_kubeconfigs(self) -> None:
        """admin.conf and kubelet.conf with fresh certificates."""
        write_kubeconfigs(
            self.authority, self.url, self.node, admin=self.admin_conf, kubelet=self.kubelet_conf
        )

    async def start(self) -> None:
        """Listen."""
        server = self.authority.issue("server", "kube-apiserver", server=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server.certificate, server.key)
        tls.load_verify_locations(cadata=self.authority.pem.decode())
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.verify_flags |= X509_V_FLAG_NO_CHECK_TIME
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=tls, reuse_address=True).start()

    async def stop(self) -> None:
        """Stop listening and cut every connection; the objects stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        """Stop and start on the same port, with the same objects."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """Accept connections and requests, and send nothing more, like a stopped process."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on."""
        self._thawed.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        del self.requests[:-1000]
        await self._thawed.wait()
        fault = self._fault(line)
        if fault is not None and fault.kind != "lost":
            spoilt = await _spoil(request, fault)
            if spoilt is not None:
                return spoilt
        try:
            response = await self._route(request)
        except ApiError as error:
            response = web.json_response(error.status(), status=error.code)
        if fault is not None and fault.kind == "lost":
            _cut(request)
        return response

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.match in line and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in HEALTH_PATHS:
            return web.Response(text="ok")
        caller = _caller(request)
        if request.path in _DISCOVERY:
            if caller is None:
                raise ApiError(401, "Unauthorized", "Unauthorized")
            return web.json_response(_DISCOVERY[request.path])
        resource, namespace, name = _address(request.path)
        watching = request.query.get("watch", "").lower() in ("true", "1")
        verbs = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
        if request.method not in verbs:
            raise ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        verb = "watch" if watching else verbs[request.method]
        authorize(caller, verb, resource, name)
        assert caller is not None
        shown = _shown(request)
        match verb:
            case "watch":
                return await self._watch(request, resource, namespace, shown)
            case "list":
                return web.json_response(self._list(request, resource, namespace, shown))
            case "get":
                return web.json_response(shown(self.store.get(resource, namespace, name)))
            case "create":
                return web.json_response(await self._create(request, caller, resource, namespace), status=201)
            case "patch":
                return web.json_response(shown(await self._patch(request, caller, resource, namespace, name)))
            case _:
                return web.json_response(await self._delete(request, caller, resource, namespace, name))

    def _list(self, request: web.BaseRequest, resource: Resource, namespace: str, shown: Any) -> Object:
        means = _selector(request)
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": {"resourceVersion": str(self.store.version)},
            "items": [shown(thing) for thing in self.store.all(resource, namespace) if means(thing)],
        }

    async def _create(
        self, request: web.BaseRequest, caller: Caller, resource: Resource, space: str
    ) -> Object:
        thing = await _json(request)
        metadata = thing.get("metadata") or {}
        name = str(metadata.get("name", ""))
        check_labels(resource, name, metadata.get("labels"))
        if resource.plural == "nodes":
            restrict_node(caller, name, {}, thing)
            # A real one completes it by what every Node has.
            thing.setdefault("status", {})
        created = self.store.create(resource, space, thing)
        self.store.publish()
        return created

    async def _patch(
        self, request: web.BaseRequest, caller: Caller, resource: Resource, namespace: str, name: str
    ) -> Object:
        if request.content_type not in (
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ):
            detail = "the body of the request was in an unknown format - accepted media types include:"
            raise ApiError(415, "UnsupportedMediaType", f"{detail} application/merge-patch+json")
        patch = await _json(request)
        if resource.plural == "nodes":
            restrict_node(caller, name, {}, {"metadata": {"labels": {}}})
        before = self.store.get(resource, namespace, name)
        labels = (patch.get("metadata") or {}).get("labels") or {}
        check_labels(resource, name, {key: value for key, value in labels.items() if value is not None})
        if resource.plural == "nodes":
            kept = {**(before["metadata"].get("labels") or {}), **labels}
            after = {"metadata": {"labels": {k: v for k, v in kept.items() if v is not None}}}
            restrict_node(caller, name, before, after)
        patched = self.store.update(resource, namespace, name, patch)
        if patched is not before:
            self.store.publish()
        return patched

    async def _delete(
        self, request: web.BaseRequest, caller: Caller, resource: Resource, namespace: str, name: str
    ) -> Object:
        options = await _json(request) if request.can_read_body else {}
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        if resource.plural == "nodes":
            restrict_node(caller, name, {}, {})
        deleted = self.store.delete(resource, namespace, name, None if grace is None else int(grace))
        self.store.publish()
        return deleted

    async def _watch(
        self, request: web.BaseRequest, resource: Resource, namespace: str, shown: Any
    ) -> web.StreamResponse:
        """Send changes until timeoutSeconds are over; a forgotten version is an ERROR event."""
        ends = time.monotonic() + float(request.query.get("timeoutSeconds") or 1800)
        version = int(request.query.get("resourceVersion") or 0)
        means = _selector(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if version == 0:
            for thing in self.store.all(resource, namespace):
                if means(thing):
                    await _send(response, "ADDED", shown(thing))
            version = self.store.version
        while time.monotonic() < ends:
            await self._thawed.wait()
            changed = self.store.changed
            try:
                changes = self.store.since(version)
            except ApiError as error:
                await _send(response, "ERROR", error.status())
                break
            for change in changes:
                if change.plural == resource.plural and namespace in (
                    "",
                    change.thing["metadata"].get("namespace"),
                ):
                    await _send_change(response, change, means, shown)
            version = self.store.version
            left_s = max(0.0, ends - time.monotonic())
            quiet_s = left_s if left_s <= LAST_BOOKMARK_S else min(BOOKMARK_S, left_s - LAST_BOOKMARK_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), quiet_s)
                continue
            if left_s > LAST_BOOKMARK_S and request.query.get("allowWatchBookmarks") == "true":
                await _send(response, "BOOKMARK", _bookmark(resource, version))
        await self._thawed.wait()
        with suppress(ConnectionError):
            await response.write_eof()
        return response


def free_port() -> int:
    """A free port of the loopback, outside the range that the kernel gives to connections.

    A stopped server finds such a port again. A port of the other range may be
    given to a client that keeps connecting, which may even connect to itself.
    No other process of this machine is given it as long as this one lives.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_300, first)  # above the kubelet's own
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            # An abstract name: the kernel gives it to one socket, and frees it with the process.
            claim.bind(f"\0kubesyncd-tests-port-{port}")
            with socket.create_server(("127.0.0.1", port)):
                CLAIMS.append(claim)
                return port
        except OSError:
            claim.close()


async def _spoil(request: web.BaseRequest, fault: Fault) -> web.StreamResponse | None:
    """Carry out a fault that comes before any change; None: go on as usual."""
    match fault.kind:
        case "status":
            body = fault.body or json.dumps(ApiError(fault.status, "InternalError", "injected").status())
            return web.Response(status=fault.status, text=body, headers=fault.headers)
        case "hang":
            await asyncio.sleep(3600)
        case "end":
            return web.Response()
        case "close":
            _cut(request)
            return web.Response()
        case "delay":
            await asyncio.sleep(fault.seconds)
    return None


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _caller(request: web.BaseRequest) -> Caller | None:
    """Whom the client certificate names; None without one or with one out of its time."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    if not certificate:
        return None
    now = time.time()
    if not (
        ssl.cert_time_to_seconds(certificate["notBefore"])
        <= now
        <= ssl.cert_time_to_seconds(certificate["notAfter"])
    ):
        return None
    parts = [pair for rdn in certificate["subject"] for pair in rdn]
    names = [value for key, value in parts if key == "commonName"]
    return Caller(names[0], tuple(value for key, value in parts if key == "organizationName"))


def _address(path: str) -> tuple[Resource, str, str]:
    """Resource, namespace and name of a path; `/status` is the object itself. Raises ApiError 404."""
    parts = path.strip("/").split("/")
    parts = (
        parts[2:] if parts[:2] == ["api", "v1"] else parts[3:] if parts[:3] == ["apis", "apps", "v1"] else []
    )
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource = RESOURCES.get(parts[0]) if parts else None
    group = "apps" if path.startswith("/apis/") else ""
    if resource is None or resource.group != group or len(parts) > 3 or parts[2:] not in ([], ["status"]):
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    return resource, namespace, parts[1] if len(parts) > 1 else ""


def _selector(request: web.BaseRequest) -> Callable[[Object], bool]:
    fields, labels = request.query.get("fieldSelector", ""), request.query.get("labelSelector", "")
    return lambda thing: selected(thing, fields, labels)


def _shown(request: web.BaseRequest) -> Callable[[Object], Object]:
    return (
        metadata_only
        if "as=PartialObjectMetadata" in request.headers.get("Accept", "")
        else lambda thing: thing
    )


async def _json(request: web.BaseRequest) -> Object:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise ApiError(400, "BadRequest", f"the object provided is unrecognized: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "BadRequest", "the object provided is unrecognized: no object")
    return body


async def _send_change(response: web.StreamResponse, change: Change, means: Any, shown: Any) -> None:
    """What this watch sees: an object that leaves the selection is DELETED, one that enters it ADDED."""
    was = change.before is not None and means(change.before)
    is_now = change.kind != "DELETED" and means(change.thing)
    kind = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}.get((was, is_now))
    if kind:
        await _send(response, kind, shown(change.thing))


async def _send(response: web.StreamResponse, kind: str, thing: Object) -> None:
    await response.write(json.dumps({"type": kind, "object": thing}).encode() + b"\n")


def _bookmark(resource: Resource, version: int) -> Object:
    return {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {"resourceVersion": str(version), "creationTimestamp": None},
    }


def _resource_list(group: str) -> Object:
    verbs = ["create", "delete", "get", "list", "patch", "watch"]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/v1" if group else "v1",
        "resources": [
            {"name": r.plural, "singularName": "", "namespaced": r.namespaced, "kind": r.kind, "verbs": verbs}
            for r in RESOURCES.values()
            if r.group == group
        ],
    }


_APPS = {
    "name": "apps",
    "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
    "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
}
# Enough for kubectl to find its way.
_DISCOVERY: dict[str, Object] = {
    "/version": {"major": "1", "minor": "20", "gitVersion": "v1.20.2-lab", "platform": "linux/amd64"},
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_APPS]},
    "/api/v1": _resource_list(""),
    "/apis/apps/v1": _resource_list("apps"),
}


async def _serve(folder: Path, port: int, node: str) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with LabKube(folder, node=node, port=port, keep=True) as api:
        print(f"ready {api.url} {api.admin_conf}", flush=True)
        await stopped.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.kube_api")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--node", default="switch1")
    given = parser.parse_args()
    asyncio.run(_serve(given.folder.resolve(), given.port, given.node))


if __name__ == "__main__":
    main()
