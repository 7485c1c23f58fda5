"""Fetch a file from an https server, completely or not at all, within limits of size and time.

Knows nothing of its contents. Redirects are not followed: only the configured server is used.
"""

from __future__ import annotations

import ssl

import aiohttp

from kubesyncd.ports import FetchedFile, Missing, Refused, Unavailable

SERVICE = "packages"
TOTAL_S = 120.0
CONNECT_S = 10.0
READ_S = 30.0
ETAG_MAX = 256
ERROR_MAX = 200
_CHUNK = 1 << 16


class HttpsFiles:
    """Files of https servers. `ca_file`: the CA to trust instead of the system's."""

    def __init__(self, ca_file: str = "", *, total_s: float = TOTAL_S, read_s: float = READ_S) -> None:
        self._ca_file = ca_file
        self._timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=CONNECT_S, sock_read=read_s)

    async def get(self, url: str, bytes_max: int, etag: str = "") -> FetchedFile:
        """Fetch the file at `url`, unless it still has `etag`. Raises Missing, Refused, Unavailable."""
        headers = {"If-None-Match": etag} if etag else {}
        connector = aiohttp.TCPConnector(ssl=self._trust(), force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session,
                session.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                _check_status(url, answer.status, asked_again=bool(etag))
                if answer.status == 304:
                    return FetchedFile(None, etag)
                body = await _body(url, answer, bytes_max)
                return FetchedFile(body, _etag(answer.headers.get("ETag", "")))
        except TimeoutError as error:
            raise Unavailable(SERVICE, f"{url} was not received in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # An error's text contains the server's message.
            raise Unavailable(SERVICE, f"{url}: {ascii(str(error)[:ERROR_MAX])[1:-1]}") from error

    def _trust(self) -> ssl.SSLContext:
        """Read the CA again for each request: a replaced certificate is used at once."""
        try:
            return ssl.create_default_context(cafile=self._ca_file or None)
        except OSError as error:
            detail = (
                f"[packages] ca_file {self._ca_file} cannot be used ({error.strerror or error}); correct it"
            )
            raise Refused(SERVICE, detail) from error


def _check_status(url: str, status: int, *, asked_again: bool) -> None:
    if status == 200 or (status == 304 and asked_again):
        return
    if status in (404, 410):
        raise Missing(SERVICE, f"{url} is not there ({status})")
    if 300 <= status < 500 and status not in (408, 425, 429):
        raise Refused(SERVICE, f"{url} is answered with {status}; set [packages] url to where the file is")
    raise Unavailable(SERVICE, f"{url} is answered with {status}")


async def _body(url: str, answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    async for part in answer.content.iter_chunked(_CHUNK):
        parts.append(part)
        length += len(part)
        if length > bytes_max:
            raise Refused(SERVICE, f"{url} is longer than {bytes_max} bytes")
    return b"".join(parts)


def _etag(text: str) -> str:
    return text if len(text) <= ETAG_MAX and text.isascii() and text.isprintable() else ""
