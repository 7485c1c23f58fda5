"""Serve HTTPS in a thread, with a certificate of a test's own authority.

Knows nothing of what is served.
"""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.lab.certificates import Pair


class HttpsServer:
    """`with HttpsServer(handler, pair) as server`; `handler` answers each request."""

    def __init__(
        self, handler: type[http.server.BaseHTTPRequestHandler], pair: Pair, host: str = "127.0.0.1"
    ) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pair.certificate, pair.key)
        self._server = _Server((host, 0), handler)
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self.where = f"{host}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Stay silent: a client that does not trust the certificate is what some tests are about."""
