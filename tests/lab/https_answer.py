"""Serve one prepared answer to every request, over HTTPS on the loopback, in a thread.

Knows nothing of what the answer means.
"""

from __future__ import annotations

import http.server
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.lab.certificates import Authority, write_kubeconfig
from tests.lab.https_server import HttpsServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and headers beside the length."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class AnswerServer:
    """`with AnswerServer(folder) as server`; `answer` may be replaced at any time.

    `kubeconfig` names the server, trusts it, and has a client certificate. `authorizations`: that header's values.
    """

    def __init__(self, folder: Path) -> None:
        self.answer = Answer(200, b"{}")
        self.authorizations: list[str] = []
        self.authority = Authority(folder / "pki")
        shown = self.authority.issue("answers", "127.0.0.1", server=True)
        self._server = HttpsServer(self._handler(), shown)
        self.where = self._server.where
        self.url = f"https://{self.where}"
        self.ca_file = str(self.authority.pair.certificate)
        self.kubeconfig = folder / "answers.conf"
        client = self.authority.issue("client", "system:node:switch1", "system:nodes")
        write_kubeconfig(self.kubeconfig, self.url, self.authority.pem, client, inline=False)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                prepared = server.answer
                server.authorizations.append(self.headers.get("Authorization", ""))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(prepared.status)
                for name, value in {**prepared.headers, "Content-Length": len(prepared.body)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(prepared.body)

            def do_GET(self) -> None:
                self.answer()

            def do_PATCH(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        return Handler
