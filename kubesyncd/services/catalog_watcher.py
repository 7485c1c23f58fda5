"""Watch the package server, and request an installation when this node lacks what it wants.

Knows the rules (`catalog`) and ports; installs nothing itself. The daemon runs in a sandbox that cannot write units;
the unit that it starts, `kubesync package sync`, does not. Without a configured url this watcher is not created.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Protocol

from kubesyncd.ports import PortError
from kubesyncd.runtime.backoff import Backoff
from kubesyncd.services import catalog
from kubesyncd.services.catalog import Unusable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from random import Random

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.ports import Claim, File
    from kubesyncd.services.catalog import Metadata, PackageStep

# File of the newest serial, below the state folder.
SEEN_FILE = "packages.json"
# After a start, or after the power returned to a whole fleet, the first check is at a random time within this.
FIRST_S_MAX = 60.0
RETRY_S = 15.0
RETRY_S_MAX = 3600.0
# An interval is stretched or shortened by this much, so that a fleet does not ask all at once.
SPREAD = 0.2


class Got(Protocol):
    """A file, or the answer that it has not changed."""

    @property
    def body(self) -> bytes | None:
        """The content; None: unchanged."""

    @property
    def etag(self) -> str:
        """The ETag for the next request."""


class Files(Protocol):
    """An https server's files (adapters.package_server)."""

    async def get(self, url: str, bytes_max: int, etag: str = "") -> Got:
        """Fetch the file, unless it still has `etag`. Raises Missing, Refused, Unavailable."""


class Jobs(Protocol):
    """The systemd call that requests an installation."""

    async def begin(self, unit: str) -> None:
        """Start a oneshot unit; returns once the job is queued. Raises Refused, Unavailable."""


class CatalogSource:
    """The metadata at `url`: fetched when it has changed, verified, and never older than an accepted one.

    `pubkey` empty: only https authenticates it. `is_true` checks a signature. `seen`: file of the newest serial.
    """

    def __init__(
        self, url: str, pubkey: str, files: Files, is_true: Callable[[Claim], Awaitable[bool]], seen: File
    ) -> None:
        catalog.check_url(url)
        if pubkey:
            catalog.check_key(pubkey)
        self.url = url
        self._pubkey = pubkey
        self._files = files
        self._is_true = is_true
        self._seen = seen
        self._etag = ""
        self._metadata: Metadata | None = None

    async def look(self) -> Metadata:
        """The current metadata. Raises Unusable, Missing, Refused, Unavailable."""
        etag = self._etag if self._metadata is not None else ""
        got = await self._files.get(self.url, catalog.METADATA_BYTES_MAX, etag)
        if got.body is not None:
            await self._check_signature(got.body)
            self._metadata, self._etag = catalog.parse(got.body), got.etag
        assert self._metadata is not None, "only a file fetched before can be unchanged"
        newest = self._newest()
        if self._metadata.serial < newest:
            text = f"the metadata's serial is {self._metadata.serial}, older than the last accepted one, {newest}"
            raise Unusable(text)
        return self._metadata

    def follow(self, metadata: Metadata) -> None:
        """Record the serial: older metadata is refused from now on. Raises Unavailable."""
        if metadata.serial > self._newest():
            self._seen.save(json.dumps({"serial": metadata.serial}).encode())

    def _newest(self) -> int:
        data = self._seen.load()
        try:
            return int(json.loads(data)["serial"]) if data is not None else 0
        except (ValueError, LookupError, TypeError):
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


class CatalogWatcher:
    """Check repeatedly, and start `unit` when this node lacks what it wants. `run()` runs for the daemon's lifetime.

    `labels`: the own Node's; None while they are unknown, and then nothing is installed or removed. `installed`:
    SHA-256 of each service's archive by name, as for `catalog.plan`.
    """

    def __init__(
        self,
        source: CatalogSource,
        *,
        labels: Callable[[], Mapping[str, str] | None],
        installed: Callable[[], Mapping[str, str]],
        jobs: Jobs,
        unit: str,
        interval_s: float,
        clock: Callable[[], float],
        rng: Random,
        log: FilteringBoundLogger,
    ) -> None:
        self._source = source
        self._labels = labels
        self._installed = installed
        self._jobs = jobs
        self._unit = unit
        self._interval_s = interval_s
        self._clock = clock
        self._rng = rng
        self._log = log
        self._backoff = Backoff(rng, RETRY_S, RETRY_S_MAX)
        self._said = ""
        # The last request, and until when it is not repeated: an installation may fail each time.
        self._asked: tuple[PackageStep, ...] = ()
        self._asked_until = 0.0
        self._again = Backoff(rng, interval_s, RETRY_S_MAX)

    async def run(self) -> None:
        """Run the loop. Never returns."""
        await asyncio.sleep(self._rng.uniform(0.0, min(FIRST_S_MAX, self._interval_s)))
        while True:
            wait_s = await self.look()
            await asyncio.sleep(wait_s)

    async def look(self) -> float:
        """Check once; return the seconds until the next check."""
        try:
            await self._compare()
        except (PortError, Unusable) as error:
            self._say(str(error))
            return self._backoff.next_s()
        self._backoff.reset()
        return self._interval_s * self._rng.uniform(1 - SPREAD, 1 + SPREAD)

    async def _compare(self) -> None:
        metadata = await self._source.look()
        labels = self._labels()
        if labels is None:
            self._say("the labels of this node are not known, so nothing is installed or removed")
            return
        self._say("; ".join(metadata.problems))
        steps = catalog.plan(metadata, labels, self._installed())
        if not steps:
            self._asked, self._asked_until = (), 0.0
            self._again.reset()
        elif steps != self._asked or self._clock() >= self._asked_until:
            await self._ask(steps)

    async def _ask(self, steps: tuple[PackageStep, ...]) -> None:
        if steps != self._asked:
            self._again.reset()
        self._log.info("packages", action=f"start {self._unit}", steps=[str(step) for step in steps])
        await self._jobs.begin(self._unit)
        self._asked, self._asked_until = steps, self._clock() + self._again.longest_s()

    def _say(self, text: str) -> None:
        if text and text != self._said:
            self._log.warning("packages", why=text)
        self._said = text
