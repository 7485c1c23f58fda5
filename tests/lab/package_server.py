"""Serve service packages over https to a lab switch: files with ETags, in a thread of the test process.

Knows nothing of what is in them. `misbehave` makes the next answers wrong in one of several ways.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import tarfile
import threading
from typing import TYPE_CHECKING, Any, Self

from tests.lab.certificates import Authority
from tests.lab.https_server import HttpsServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

METADATA = "/packages/packages.json"


class PackageServer:
    """`with PackageServer(folder) as server`; `publish` says what it offers."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.authority = Authority(folder)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.misbehave = ""
        self.stalled = threading.Event()
        self._offered: dict[str, dict[str, Any]] = {}
        pair = self.authority.issue("packages", host, server=True)
        self._server = HttpsServer(self._handler(), pair, host)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.stalled.set()
        self._server.__exit__()

    @property
    def origin(self) -> str:
        return f"https://{self._server.where}"

    @property
    def url(self) -> str:
        """Where the metadata is."""
        return self.origin + METADATA

    @property
    def ca_file(self) -> str:
        return str(self.authority.pair.certificate)

    def offer(self, name: str, version: str, files: Mapping[str, str] | None = None, **more: Any) -> bytes:
        """Offer a package of these files (a plain description, when none is given); its archive."""
        described = files or {
            "service.yaml": f"name: {name}\nrequires: [swss]\ndescription: version {version}\n"
        }
        data = archive(described)
        self.files[f"/packages/{name}-{version}.tgz"] = data
        sha256 = hashlib.sha256(data).hexdigest()
        entry = {"name": name, "version": version, "archive": f"{name}-{version}.tgz", "sha256": sha256}
        self._offered[name] = {**entry, **more}
        self.publish()
        return data

    def withdraw(self, name: str) -> None:
        """Offer it no more."""
        del self._offered[name]
        self.publish()

    def publish(self, **more: Any) -> bytes:
        """Write the metadata again."""
        data = json.dumps({"format": 1, "packages": list(self._offered.values()), **more}).encode()
        self.files[METADATA] = data
        return data

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, self.headers.get("If-None-Match", "")))
                status, headers, body = server.answer(self.path, self.headers.get("If-None-Match", ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                if server.misbehave == "stall":
                    self.wfile.flush()
                    server.stalled.wait(60)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def answer(self, path: str, known: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one request."""
        if self.misbehave.isdecimal():
            return int(self.misbehave), {"Location": f"{self.origin}/elsewhere", "Content-Length": "0"}, b""
        body = self.files.get(path)
        if body is None:
            return 404, {"Content-Length": "0"}, b""
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if known == etag:
            return 304, {"ETag": etag}, b""
        length = len(body) + (100 if self.misbehave in ("cut", "stall") else 0)
        headers = (
            {"ETag": etag} if self.misbehave == "endless" else {"ETag": etag, "Content-Length": str(length)}
        )
        return 200, headers, body * 10_000 if self.misbehave == "endless" else body


def archive(files: Mapping[str, str]) -> bytes:
    """A package's archive of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(out.getvalue(), mtime=0)
