"""Import four libraries without the parts the daemon never uses, to save memory.

asyncio gives each TLS connection a buffer of 256 KiB, filled with zeros; a TLS record has 16 KiB. Buffers of that
size come and go with every watch, and the fragmentation lets the heap grow for an hour. aiohttp reads all public
authorities' certificates at import, for connections without a TLS context; all of ours have one. structlog
imports rich wherever it is installed, for tracebacks in colour. redis imports its clients of clusters and sentinels,
which the daemon does not use. All of these are a sixth of the daemon's memory and of its start time. No other module
may import them earlier.
"""

from __future__ import annotations

import os
import sys
from asyncio.sslproto import SSLProtocol
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTHORITIES = "SSL_CERT_FILE"
TLS_BUFFER_BYTES = 1 << 15
# Modules that redis imports at its top, and that its client of one server never uses.
REDIS_UNUSED = tuple(
    f"redis.{part}{name}"
    for part in ("", "asyncio.")
    for name in ("cluster", "keyspace_notifications", "sentinel")
)


def load() -> None:
    """Import them; later imports find them."""
    SSLProtocol.max_size = TLS_BUFFER_BYTES
    with _no_authorities(), _hidden("rich"), _empty(REDIS_UNUSED):
        import aiohttp
        import redis.asyncio
        import structlog

        del aiohttp, redis, structlog


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


class _Empty(ModuleType):
    """A module in which every public name is an empty class, because others take classes from it by name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _empty(names: tuple[str, ...]) -> Iterator[None]:
    """Put empty modules in place of those that are not imported yet; a later import finds the real ones."""
    empty = [name for name in names if name not in sys.modules]
    sys.modules.update({name: _Empty(name) for name in empty})
    try:
        yield
    finally:
        for name in empty:
            del sys.modules[name]
