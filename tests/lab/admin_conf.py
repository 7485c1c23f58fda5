"""Serve admin.conf over HTTPS, as the design document's kube_join expects it.

Knows nothing of kubesyncd.
"""

from __future__ import annotations

import http.server
from typing import TYPE_CHECKING, Self

from tests.lab.https_server import HttpsServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.certificates import Pair


class AdminConfServer:
    """Serves `file` under https://HOST:PORT/admin.conf with the pair `server`: `with AdminConfServer(…) as it`."""

    def __init__(self, file: Path, server: Pair, *, host: str = "127.0.0.1") -> None:
        self.requests: list[str] = []
        asked = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if self.path != "/admin.conf":
                    self.send_error(404)
                    return
                content = file.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self._server = HttpsServer(Handler, server, host)

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"https://{self._server.where}/admin.conf"

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
