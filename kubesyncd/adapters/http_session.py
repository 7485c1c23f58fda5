"""Ask an HTTPS server through aiohttp: sessions, bounded bodies, and aiohttp's errors as Unavailable.

http_answer maps statuses to port errors. Callers word the messages: they know the purpose of the server.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

import aiohttp

from kubesyncd.adapters.http_answer import TooLong
from kubesyncd.ports import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Fault(Enum):
    """The reason why a call has no complete answer."""

    UNTRUSTED = auto()
    LATE = auto()
    UNREACHABLE = auto()
    CLOSED = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A call without a complete answer. `text`: the exception's own message, or its type where it has none.

    `reason`: in the words of OpenSSL, the resolver or asyncio (UNTRUSTED, UNREACHABLE). `where`, `errno`: host and
    port, and the kernel's number for the reason or 0 (UNREACHABLE).
    """

    fault: Fault
    text: str
    reason: str = ""
    where: str = ""
    errno: int = 0


@contextmanager
def answered(service: str, word: Callable[[NoAnswer], str], *also: type[Exception]) -> Iterator[None]:
    """Translate the errors of aiohttp, and those of decoding, to Unavailable in the words of `word`.

    `also`: further exceptions that a bad answer can cause in the body.
    """
    foreign: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, ValueError, RecursionError, *also)
    try:
        yield
    except foreign as error:
        raise Unavailable(service, word(_no_answer(error))) from error


def _no_answer(error: Exception) -> NoAnswer:
    text = str(error) or type(error).__name__
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
            return NoAnswer(Fault.UNTRUSTED, text, reason)
        case TimeoutError():
            return NoAnswer(Fault.LATE, text)
        case aiohttp.ClientConnectorError():
            where, found = f"{error.host}:{error.port}", error.os_error
            if isinstance(found, socket.gaierror | ssl.SSLError):
                # Their numbers are those of the resolver and of OpenSSL, not the kernel's.
                return NoAnswer(Fault.UNREACHABLE, text, found.strerror or str(found), where)
            return NoAnswer(Fault.UNREACHABLE, text, str(found), where, found.errno or 0)
        case aiohttp.ClientResponseError():
            # Its own text has the address in it, whose query may be secret.
            return NoAnswer(Fault.OTHER, f"{error.status}, {error.message}")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return NoAnswer(Fault.CLOSED, text)
        case _:
            return NoAnswer(Fault.OTHER, text)


async def read_body(response: aiohttp.ClientResponse, bytes_max: int, what: str = "the answer") -> bytes:
    """Read a whole answer, or stop where it exceeds the limit. Raises TooLong."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise TooLong(what, bytes_max)
    return bytes(body)


def short_session(
    context: ssl.SSLContext, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str] | None = None
) -> aiohttp.ClientSession:
    """Create a session for a few calls: no connection is kept, proxy variables are ignored."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, force_close=True),
        timeout=timeout,
        headers=headers,
        trust_env=False,
    )


def server_context(*, ca_file: str = "", ca: str | None = None, insecure: bool = False) -> ssl.SSLContext:
    """Create TLS without a client certificate. Trusts `ca_file` or `ca` (PEM) only; without either, the system's CAs.

    `insecure`: any certificate is accepted. Raises OSError, ssl.SSLError included.
    """
    context = ssl.create_default_context(cafile=ca_file or None, cadata=ca)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
