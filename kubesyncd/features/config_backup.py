"""What of the FEATURE table must survive a load of CONFIG_DB that makes it anew? Copies, and what is missing of them.

`config load_minigraph` empties CONFIG_DB and fills it from minigraph and image, where nobody knows what an operator
has said about Kubernetes (seed, section Service install). Whoever is about to do that saves the table first; the
copy is good for one load. `config reload` is something else: it takes back what was never saved, on purpose.
Pure but for its last class, which the daemon runs between a load and the first look at its result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kubesyncd.core.model import shown, valid_feature_name
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.services.installed import Phase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.ports import DurableFile
    from kubesyncd.services.installed import Manifest

    Rows: TypeAlias = Mapping[str, Mapping[str, str]]

# Where, below the state folder.
FILE = "feature-table.json"
VERSION = 1
# A load that was given up must not change one much later.
GOOD_FOR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of the table. `saved_at`: seconds since the epoch; `armed`: the next load is to be mended by it."""

    rows: Rows
    saved_at: float
    armed: bool = True

    def awaits_load(self, now: float) -> bool:
        """Whether a load that is seen now is the one it was saved for."""
        return self.armed and 0 <= now - self.saved_at <= GOOD_FOR_S


def encode(saved: Saved) -> bytes:
    """As it is stored."""
    tree = {"version": VERSION, "saved_at": saved.saved_at, "armed": saved.armed, "rows": saved.rows}
    return json.dumps(tree, indent=1).encode()


def decode(data: bytes) -> Saved:
    """What is stored. Raises ValueError with a reason."""
    try:
        tree = json.loads(data)
        if tree["version"] != VERSION:
            raise ValueError(f"version {tree['version']}")  # noqa: TRY301
        rows = {
            str(name): {str(field): str(value) for field, value in row.items()}
            for name, row in tree["rows"].items()
            if valid_feature_name(name)
        }
        return Saved(rows, float(tree["saved_at"]), tree["armed"] is True)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the saved table cannot be used: {shown(str(error))}") from error


def lost(
    saved: Rows, now: Rows, ours: frozenset[str], normal: Callable[[str], str]
) -> dict[str, dict[str, str]]:
    """What has to be written so that nothing of ours is lost, by feature. A row that is gone comes back as it was.
    In a row that is there only `ours` count, fields that nobody else sets: what an image has left out or changed
    among the others is that image's business. `normal` spells a field's name as `ours` are.
    """
    return {
        name: wanted
        for name, row in saved.items()
        if (wanted := dict(row) if name not in now else _lost_fields(row, now[name], ours, normal))
    }


def _lost_fields(
    row: Mapping[str, str], there: Mapping[str, str], ours: frozenset[str], normal: Callable[[str], str]
) -> dict[str, str]:
    spelled = {normal(field): field for field in there}
    return {
        spelled.get(normal(field), field): value
        for field, value in row.items()
        if normal(field) in ours and there.get(spelled.get(normal(field), field)) != value
    }


def of_installed(installed: Mapping[str, Manifest]) -> dict[str, dict[str, str]]:
    """Rows without which an installed service would have no owner: `uninstall` is the way to lose one."""
    return {name: dict(m.row) for name, m in installed.items() if m.phase is Phase.INSTALLED and m.row}


class Store(Protocol):
    """CONFIG_DB, as far as it has to be mended (adapters.redis)."""

    settled: bool
    """False from the first sign of a load until it has been mended; until then the last known config stands."""

    async def feature_rows(self) -> Rows:
        """All FEATURE rows as they stand. Raises Unavailable, also while CONFIG_DB is not whole."""

    async def add_fields(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of a FEATURE row. Raises Unavailable, Refused."""


class TableMender:
    """Mends the table after each load, before anybody acts on what it says."""

    def __init__(
        self,
        store: Store,
        *,
        file: DurableFile,
        installed: Callable[[], Mapping[str, Manifest]],
        has_unit: Callable[[str], Awaitable[bool]],
        ours: frozenset[str],
        normal: Callable[[str], str],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._file = file
        self._installed = installed
        self._has_unit = has_unit
        self._ours = ours
        self._normal = normal
        self._wall = wall
        self._log = log

    async def mend(self) -> None:
        """Look at the table, and write what it has lost. Never raises: what cannot be mended now is tried again
        by the next call, and a row that cannot be written holds up no other.
        """
        try:
            now = await self._store.feature_rows()
        except PortError:
            return
        saved = self._saved()
        wanted = of_installed(self._manifests())
        missing = {name: row for name, row in wanted.items() if name not in now}
        if saved is not None:
            missing |= lost(saved.rows, now, self._ours, self._normal)
        try:
            for name, fields in missing.items():
                await self._write(name, fields, gone=name not in now)
            if saved is not None:
                await self._file.save(encode(replace(saved, armed=False)))
        except Unavailable as error:
            self._log.warning("feature_table", why=str(error))
            return
        self._store.settled = True

    async def _write(self, name: str, fields: Mapping[str, str], *, gone: bool) -> None:
        try:
            if gone and not await self._has_unit(name):
                self._log.warning(
                    "feature_table", feature=name, why="it has no service any more; its row is left out"
                )
                return
            await self._store.add_fields(name, fields)
        except Refused as error:
            self._log.warning("feature_table", feature=name, why=error.detail)
            return
        self._log.info("feature_table", action="restore", feature=name, fields=dict(fields))

    def _saved(self) -> Saved | None:
        """The copy that was made for this load."""
        try:
            data = self._file.load()
            saved = decode(data) if data is not None else None
        except (Unavailable, ValueError) as error:
            self._log.warning("feature_table", why=str(error))
            return None
        return saved if saved is not None and saved.awaits_load(self._wall()) else None

    def _manifests(self) -> Mapping[str, Manifest]:
        try:
            return self._installed()
        except Unavailable as error:
            self._log.warning("feature_table", why=str(error))
            return {}
