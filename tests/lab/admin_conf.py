"""Serve admin.conf over HTTPS, as the design document's kube_join expects it.

Knows nothing of kubesyncd.
"""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import TYPE_CHECKING, Self

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

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                return  # a client that does not trust us is what some tests are about

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server.certificate, server.key)
        self._server = Server((host, 0), Handler)
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where the file is."""
        host = self._server.server_address[0]
        return f"https://{host}:{self._server.server_address[1]}/admin.conf"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
