"""Import three libraries without the parts the daemon never uses, to save memory.

asyncio gives each TLS connection a buffer of 256 KiB, filled with zeros; a TLS record has 16 KiB. Buffers of that
size come and go with every watch, and the fragmentation lets the heap grow for an hour. aiohttp reads all public
authorities' certificates at import, for connections without a TLS context; all of ours have one. structlog
imports rich wherever it is installed, for tracebacks in colour. These two are a tenth of the daemon's memory and of
its start time. No other module may import them earlier.
"""

from __future__ import annotations

import os
import sys
from asyncio.sslproto import SSLProtocol
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTHORITIES = "SSL_CERT_FILE"
TLS_BUFFER_BYTES = 1 << 15


def load() -> None:
    """Import them; later imports find them."""
    SSLProtocol.max_size = TLS_BUFFER_BYTES
    with _no_authorities(), _hidden("rich"):
        import aiohttp
        import structlog

        del aiohttp, structlog


@contextmanager
def _no_authorities() -> Iterator[None]:
    before = os.environ.get(_AUTHORITIES)
    os.environ[_AUTHORITIES] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[_AUTHORITIES]
        else:
            os.environ[_AUTHORITIES] = before


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Hide a package that is not imported yet."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
