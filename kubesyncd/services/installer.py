"""Install and remove a service completely or not at all.

Reaches disk, systemd and rows through its parameters; knows nothing of the contents of the files (`definition`).
Before any change, a manifest records the new state and the old one. An installation that fails is rolled back at once;
one interrupted by a power cut is rolled back by the next command. A removal is repeated until it is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.ports import PortError, Refused, Unavailable
from kubesyncd.services.definition import unit_path
from kubesyncd.services.install_plan import InstallPlanner
from kubesyncd.services.installed import SERVICE, InstallPhase, Manifest
from kubesyncd.services.rollback import Rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubesyncd.ports import FeatureRows, ServiceUnits
    from kubesyncd.services.definition import ServiceFile, ServiceSpec
    from kubesyncd.services.installed import PackageOrigin
    from kubesyncd.services.service_disk import ServiceDisk


@dataclass(frozen=True, slots=True)
class InstallResult:
    """Result of an installation. `waits_for`: required services that do not run; the service starts with them."""

    manifest: Manifest
    started: bool
    waits_for: tuple[str, ...] = ()


class Installer:
    """Install and remove services, one at a time.

    `ours`: kubesyncd's CONFIG_DB fields in this switch's spelling; `always_local`: features that always run locally.
    """

    def __init__(
        self,
        *,
        disk: ServiceDisk,
        units: ServiceUnits,
        rows: FeatureRows,
        ours: Callable[[Mapping[str, str]], dict[str, str]] = dict,
        always_local: frozenset[str] = frozenset(),
    ) -> None:
        self._disk = disk
        self._units = units
        self._rows = rows
        self._planner = InstallPlanner(disk, units, rows, ours, always_local)
        self._rollback = Rollback(disk, units, rows)

    def installed(self) -> dict[str, Manifest]:
        """Read all manifests by feature. Raises Unavailable."""
        return self._disk.installed()

    async def check(
        self, spec: ServiceSpec, files: tuple[ServiceFile, ...], *, replace: bool = False
    ) -> None:
        """Check whether `install` would continue. Raises Refused with the reason and the fix, Unavailable."""
        await self._planner.check(spec, files, replace=replace)

    async def recover(self) -> tuple[str, ...]:
        """Roll back interrupted commands. Return the features. Raises Refused, Unavailable."""
        with self._disk.alone():
            return await self._rollback.recover()

    # ---- installing -----------------------------------------------------------------------------

    async def install(
        self,
        spec: ServiceSpec,
        files: tuple[ServiceFile, ...],
        *,
        replace: bool = False,
        package: PackageOrigin | None = None,
    ) -> InstallResult:
        """Write all files, enable and start the service. Raises Refused, Unavailable; nothing is left then."""
        with self._disk.alone():
            await self._rollback.recover()
            await self._planner.check(spec, files, replace=replace)
            journal = await self._planner.journal(spec, files, package)
            self._disk.save(journal)
            ran = journal.previous is not None and await self._units.active(spec.name)
            try:
                self._place(journal, files)
                await self._enable(journal)
                manifest = _finished(journal)
                self._disk.save(manifest)
            except BaseException as error:
                await self._roll_back(journal, error)
                raise
            self._forget_previous(journal)
            return await self._start(manifest, spec, ran=ran)

    def _place(self, journal: Manifest, files: tuple[ServiceFile, ...]) -> None:
        """Write every file beside its destination first: a full disk is detected before any change."""
        self._disk.make_folders(journal.folders)
        for file in files:
            self._disk.write(file)
        for file in files:
            self._disk.exchange(file.path)
        for path in journal.previous.files if journal.previous is not None else ():
            if path not in journal.files:
                self._disk.set_aside(path)
        self._disk.sync(journal.files)

    async def _enable(self, journal: Manifest) -> None:
        await self._units.reload()
        await self._units.enable(journal.name)
        if journal.row != journal.row_now:
            self._rows.replace_feature_row(journal.name, journal.row)

    async def _roll_back(self, journal: Manifest, error: BaseException) -> None:
        """Roll back after `error`. Raises Unavailable with both errors where that fails too."""
        try:
            await self._rollback.roll_back(journal)
        except PortError as second:
            text = f"{error}; rollback failed ({second}): the next install or uninstall repeats it"
            raise Unavailable(SERVICE, text) from error

    def _forget_previous(self, journal: Manifest) -> None:
        """Remove what only the replaced installation had."""
        paths = {*journal.files, *(journal.previous.files if journal.previous is not None else ())}
        self._disk.forget_copies(paths)
        only_before = paths - set(journal.files)
        self._disk.drop_folders((str(Path(path).parent) for path in only_before), keep=journal.files)

    async def _start(self, manifest: Manifest, spec: ServiceSpec, *, ran: bool) -> InstallResult:
        """Start the service, unless a required service is stopped: then it starts together with that service."""
        stopped = tuple([name for name in spec.requires if not await self._units.active(name)])
        if stopped and not ran:
            return InstallResult(manifest, started=False, waits_for=stopped)
        await self._units.restart(spec.name)
        return InstallResult(manifest, started=True)

    # ---- removing -------------------------------------------------------------------------------

    async def uninstall(self, name: str, *, force: bool = False) -> Manifest:
        """Stop the feature, then remove all files that kubesync wrote and both rows. `force`: also files changed since.

        Raises Refused, Unavailable; once started, a removal is repeated until it is complete.
        """
        with self._disk.alone():
            await self._rollback.recover()
            manifest = self.installed().get(name)
            if manifest is None:
                text = f"{name} was not installed by kubesync; nothing is removed. Installed: "
                raise Refused(SERVICE, text + (", ".join(sorted(self.installed())) or "none"))
            changed = [path for path, sha256 in manifest.files.items() if self._disk.is_changed(path, sha256)]
            if changed and not force:
                text = (
                    f"{changed[0]} was changed since it was installed; save it, then add --force to remove it"
                )
                raise Refused(SERVICE, f"{name}: {text}")
            self._rows.daemon_answers()
            manifest = replace(manifest, phase=InstallPhase.REMOVING)
            self._disk.save(manifest)
            await self._remove(manifest)
            return manifest

    async def _remove(self, manifest: Manifest) -> None:
        name = manifest.name
        if self._disk.at(unit_path(name)).exists():
            await self._units.stop(name)
            await self._units.disable(name)
        for path in manifest.files:
            self._disk.remove(path)
        self._disk.drop_folders(reversed(manifest.folders))
        await self._units.reload()
        self._rows.replace_feature_row(name, manifest.row_before)
        if not manifest.row_before:
            self._rows.forget(name)
        elif manifest.enabled_before:
            await self._units.enable(name)
            await self._units.restart(name)
        self._disk.forget(name)


def _finished(journal: Manifest) -> Manifest:
    return replace(journal, phase=InstallPhase.INSTALLED, row_now={}, previous=None)
