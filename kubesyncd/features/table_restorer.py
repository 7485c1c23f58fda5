"""Restore the FEATURE table after a load of CONFIG_DB, before the daemon acts on it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kubesyncd.core.saved_features import Saved, lost
from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.runtime.codec import Undecodable
from kubesyncd.runtime.feature_table_file import decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from kubesyncd.ports import DurableFile

    Rows: TypeAlias = Mapping[str, Mapping[str, str]]


class Store(Protocol):
    """The part of CONFIG_DB that the restore needs."""

    def restored(self) -> None:
        """Note that a load is over; until then the last known configuration stays in force."""

    async def feature_rows(self) -> Rows:
        """Return all current FEATURE rows. Raises Unavailable, also while CONFIG_DB is incomplete."""

    async def add_fields(self, feature: str, fields: Mapping[str, str]) -> None:
        """Set these fields of a FEATURE row. Raises Unavailable, Refused."""


class TableRestorer:
    """Restores the table after each load, before any component acts on it."""

    def __init__(
        self,
        store: Store,
        *,
        file: DurableFile,
        installed_rows: Callable[[], Awaitable[Rows]],
        has_unit: Callable[[str], Awaitable[bool]],
        ours: frozenset[str],
        normal: Callable[[str], str],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._store = store
        self._file = file
        self._installed_rows = installed_rows
        self._has_unit = has_unit
        self._ours = ours
        self._normal = normal
        self._wall = wall
        self._log = log
        # A copy that has been used, where the disk takes no note of that.
        self._spent: Saved | None = None

    async def restore(self) -> None:
        """Read the table and restore what it has lost.

        Never raises: the next call tries again what fails now, and a row that cannot be written does not delay the
        others.
        """
        try:
            now = await self._store.feature_rows()
        except PortError:
            return
        saved = await self._saved()
        wanted = await self._wanted()
        missing = {name: row for name, row in wanted.items() if name not in now}
        if saved is not None:
            missing |= lost(saved.rows, now, self._ours, self._normal)
        try:
            for name, fields in missing.items():
                await self._write(name, fields, gone=name not in now)
        except Unavailable as error:
            self._log.warning("feature_table", why=str(error))
            return
        if saved is not None:
            await self._disarm(saved)
        self._store.restored()

    async def _disarm(self, saved: Saved) -> None:
        """Restore no later load from this copy, also on a full disk: removing a file needs no space."""
        self._spent = saved
        try:
            await self._file.save(encode(replace(saved, armed=False)))
        except Unavailable:
            with suppress(Unavailable):
                await self._file.forget()

    async def _write(self, name: str, fields: Mapping[str, str], *, gone: bool) -> None:
        try:
            if gone and not await self._has_unit(name):
                self._log.warning(
                    "feature_table",
                    feature=name,
                    why="its service is not installed any more; its row is not restored",
                )
                return
            await self._store.add_fields(name, fields)
        except Refused as error:
            self._log.warning("feature_table", feature=name, why=error.detail)
            return
        self._log.info("feature_table", action="restore", feature=name, fields=dict(fields))

    async def _saved(self) -> Saved | None:
        """Return the copy that was saved for this load, if there is one."""
        try:
            data = await self._file.read()
            saved = decode(data) if data is not None else None
        except (Unavailable, Undecodable) as error:
            self._log.warning("feature_table", why=str(error))
            return None
        if saved is None or saved == self._spent or not saved.awaits_load(self._wall()):
            return None
        return saved

    async def _wanted(self) -> Rows:
        try:
            return await self._installed_rows()
        except Unavailable as error:
            self._log.warning("feature_table", why=str(error))
            return {}
