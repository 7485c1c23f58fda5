"""Roll back an installation that failed or was interrupted, from its journal."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kubesyncd.ports import PortError, Refused
from kubesyncd.services.definition import unit_path
from kubesyncd.services.installed import InstallPhase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubesyncd.ports import FeatureRows, ServiceUnits
    from kubesyncd.services.installed import Manifest
    from kubesyncd.services.service_disk import ServiceDisk


class Rollback:
    """Restore the state before an installation, whichever step was the last."""

    def __init__(self, disk: ServiceDisk, units: ServiceUnits, rows: FeatureRows) -> None:
        self._disk = disk
        self._units = units
        self._rows = rows

    async def recover(self) -> tuple[str, ...]:
        """Roll back all interrupted installations; return their features. Raises Refused, Unavailable."""
        interrupted = [m for m in self._disk.installed().values() if m.phase is InstallPhase.INSTALLING]
        for journal in interrupted:
            await self.roll_back(journal)
        return tuple(journal.name for journal in interrupted)

    async def roll_back(self, journal: Manifest) -> None:
        """Restore files, unit and row.

        Where a step of the rollback fails, the journal is kept and the other steps are done. Raises the first error.
        """
        name, previous = journal.name, journal.previous
        again = previous is not None or journal.enabled_before
        errors: list[PortError] = []
        if not again and self._disk.at(unit_path(name)).exists():
            with suppress(Refused), _noted(errors):
                await self._units.disable(name)
        with _noted(errors):
            self._restore_files(journal)
        with _noted(errors):
            await self._units.reload()
        if again:
            with _noted(errors):
                await self._units.enable(name)
        with _noted(errors):
            if self._rows.feature_row(name) != journal.row_now:
                self._rows.replace_feature_row(name, journal.row_now)
        if errors:
            raise errors[0]
        if previous is None:
            self._disk.forget(name)
        else:
            self._disk.save(previous)

    def _restore_files(self, journal: Manifest) -> None:
        before = journal.previous.files if journal.previous is not None else {}
        for path in {**journal.files, **before}:
            if path in before:
                self._disk.put_back(path)
            else:
                self._disk.discard(path)
        self._disk.drop_folders(reversed(journal.folders), keep=before)


@contextmanager
def _noted(errors: list[PortError]) -> Iterator[None]:
    try:
        yield
    except PortError as error:
        errors.append(error)
