"""Fetch the package server's metadata, verify it, and refuse metadata older than an accepted one.

Knows the rules (`catalog`) and the server through a port; knows no node and no service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kubesyncd.runtime import codec
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.services import catalog
from kubesyncd.services.catalog import Unusable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kubesyncd.ports import Claim, DurableFile, FetchedFile
    from kubesyncd.services.catalog import Metadata

# File of the newest serial, below the state folder.
SEEN_FILE = "packages.json"


class ServerFiles(Protocol):
    """An https server's files (adapters.package_server)."""

    async def get(self, url: str, bytes_max: int, etag: str = "") -> FetchedFile:
        """Fetch the file, unless it still has `etag`. Raises Missing, Refused, Unavailable."""


class CatalogSource:
    """The metadata at `url`: fetched when it has changed, verified, and never older than an accepted one.

    `pubkey` empty: only https authenticates it. `is_true` checks a signature. `seen`: file of the newest serial.
    """

    def __init__(
        self,
        url: str,
        pubkey: str,
        files: ServerFiles,
        is_true: Callable[[Claim], Awaitable[bool]],
        seen: DurableFile,
    ) -> None:
        self.url = url
        self._pubkey = pubkey
        self._files = files
        self._is_true = is_true
        self._seen = seen
        self._etag = ""
        self._metadata: Metadata | None = None

    async def fetch(self) -> Metadata:
        """Return the current metadata. Raises Unusable, Missing, Refused, Unavailable."""
        etag = self._etag if self._metadata is not None else ""
        got = await self._files.get(self.url, catalog.METADATA_BYTES_MAX, etag)
        if got.body is not None:
            await self._check_signature(got.body)
            self._metadata, self._etag = catalog.parse(got.body), got.etag
        assert self._metadata is not None, "only a file fetched before can be unchanged"
        newest = await self._newest()
        if self._metadata.serial < newest:
            text = f"the metadata's serial is {self._metadata.serial}, older than the last accepted one, {newest}"
            raise Unusable(text)
        return self._metadata

    async def accept(self, metadata: Metadata) -> None:
        """Record the serial: older metadata is refused from now on. Raises Unavailable."""
        if metadata.serial > await self._newest():
            await self._seen.save(codec.encode({"serial": metadata.serial}))

    async def _newest(self) -> int:
        """Read the newest serial; 0 where none was stored. An unreadable file must not stop all installations."""
        data = await self._seen.read()
        try:
            return codec.entry(int, data, "serial") if data is not None else 0
        except Undecodable:
            return 0

    async def _check_signature(self, data: bytes) -> None:
        if not self._pubkey:
            return
        signature = await self._files.get(f"{self.url}.minisig", catalog.SIGNATURE_BYTES_MAX)
        for claim in catalog.claims(self._pubkey, signature.body or b"", data):
            if not await self._is_true(claim):
                raise Unusable(
                    "the metadata's signature is invalid: the file was changed after it was signed; sign it again"
                )
