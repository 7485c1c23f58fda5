"""Fetch a file from an https server, completely or not at all, within limits of size and time.

Does not know its contents. Redirects are not followed: only the configured server is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from kubesyncd.adapters.http_answer import PACKAGES, TooLong
from kubesyncd.adapters.http_session import (
    Fault,
    NoAnswer,
    answered,
    read_body,
    server_context,
    short_session,
)
from kubesyncd.core.text import escaped, public_address
from kubesyncd.ports import FetchedFile, Missing, Refused

if TYPE_CHECKING:
    import ssl

SERVICE = "packages"
TOTAL_S = 120.0
CONNECT_S = 10.0
READ_S = 30.0
ETAG_MAX = 256
ERROR_MAX = 200


class HttpsFiles:
    """Files of https servers. `ca_file`: the CA to trust instead of the system's."""

    def __init__(self, ca_file: str = "", *, total_s: float = TOTAL_S, read_s: float = READ_S) -> None:
        self._ca_file = ca_file
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S, sock_read=read_s)

    async def get(self, url: str, bytes_max: int, etag: str = "") -> FetchedFile:
        """Fetch the file at `url`, unless it still has `etag`. Raises Missing, Refused, Unavailable."""
        headers = {"If-None-Match": etag} if etag else {}
        context, where = self._trust(), public_address(url)

        def word(failed: NoAnswer) -> str:
            if failed.fault is Fault.LATE:
                return f"{where} was not received in time"
            # The error's text contains the server's message.
            return f"{where}: {escaped(failed.text, ERROR_MAX)}"

        with answered(SERVICE, word):
            async with (
                short_session(context, self._timeout) as session,
                session.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                _check_status(where, answer.status, asked_again=bool(etag))
                if answer.status == 304:
                    return FetchedFile(None, etag)
                try:
                    body = await read_body(answer, bytes_max, where)
                except TooLong as error:
                    raise Refused(SERVICE, str(error)) from error
                return FetchedFile(body, _etag(answer.headers.get("ETag", "")))

    def _trust(self) -> ssl.SSLContext:
        """Read the CA again for each request: a replaced certificate is used at once."""
        try:
            return server_context(ca_file=self._ca_file)
        except OSError as error:
            detail = (
                f"[packages] ca_file {self._ca_file} cannot be used ({error.strerror or error}); correct it"
            )
            raise Refused(SERVICE, detail) from error


def _check_status(where: str, status: int, *, asked_again: bool) -> None:
    if status == 200 or (status == 304 and asked_again):
        return
    error = PACKAGES.error(status)
    if error is Missing:
        raise Missing(SERVICE, f"{where} is not there ({status})")
    fix = "; set [packages] url to where the file is" if error is Refused else ""
    raise error(SERVICE, f"{where} is answered with {status}{fix}")


def _etag(text: str) -> str:
    return text if len(text) <= ETAG_MAX and text.isascii() and text.isprintable() else ""
